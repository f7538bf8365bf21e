//! Hash lists: ClamAV `.hdb` and `.hsb` (`HASH:SIZE:NAME`, size `*` for any) and plain SHA-256 lists (`HASH [NAME]`).
//! Rows are sorted arrays with names in one arena: a hash costs 32 to 48 bytes beside its name.

use crate::Error;
use sha2::Digest;
use std::collections::HashSet;

/// The file's own name stands in when a plain list names none.
const PLAIN_NAME: &str = "Listed.Sha256";
/// `*` in the size column.
const ANY_SIZE: u64 = u64::MAX;

struct Row<const N: usize> {
    digest: [u8; N],
    size: u64,
    name: (u32, u32),
}

struct Table<const N: usize> {
    rows: Vec<Row<N>>,
    sizes: HashSet<u64>,
}

impl<const N: usize> Default for Table<N> {
    fn default() -> Self {
        Self { rows: Vec::new(), sizes: HashSet::new() }
    }
}

impl<const N: usize> Table<N> {
    /// Whether hashing a file of this size can give a hit at all.
    fn wants(&self, size: u64) -> bool {
        self.sizes.contains(&ANY_SIZE) || self.sizes.contains(&size)
    }

    fn lookup(&self, digest: &[u8], size: u64) -> Option<(u32, u32)> {
        let first = self.rows.partition_point(|row| row.digest.as_slice() < digest);
        let equal = self.rows.get(first..)?.iter().take_while(|row| row.digest.as_slice() == digest);
        equal.filter(|row| row.size == ANY_SIZE || row.size == size).map(|row| row.name).next()
    }

    fn finish(mut self) -> Self {
        self.rows.sort_unstable_by_key(|row| row.digest);
        self.rows.shrink_to_fit();
        self
    }
}

#[derive(Default)]
pub(crate) struct Hashes {
    md5: Table<16>,
    sha1: Table<20>,
    sha256: Table<32>,
    names: String,
}

impl Hashes {
    pub(crate) fn count(&self) -> usize {
        self.md5.rows.len() + self.sha1.rows.len() + self.sha256.rows.len()
    }

    pub(crate) fn lookup(&self, bytes: &[u8]) -> Option<&str> {
        let size = bytes.len() as u64;
        let found = (self.sha256.wants(size)).then(|| self.sha256.lookup(&sha2::Sha256::digest(bytes), size)).flatten();
        let found = found.or_else(|| self.md5.wants(size).then(|| self.md5.lookup(&md5::Md5::digest(bytes), size)).flatten());
        let found = found.or_else(|| self.sha1.wants(size).then(|| self.sha1.lookup(&sha1::Sha1::digest(bytes), size)).flatten());
        let (start, end) = found?;
        self.names.get(start as usize..end as usize)
    }
}

#[derive(Default)]
pub(crate) struct HashesBuilder {
    hashes: Hashes,
}

impl HashesBuilder {
    pub(crate) fn add_clamav(&mut self, path: &str, text: &str) -> Result<(), Error> {
        for (index, line) in content_lines(text) {
            let refused = |detail: &str| Error::Signature { path: path.to_owned(), line: index + 1, detail: detail.to_owned() };
            let mut columns = line.split(':');
            let (Some(hash), Some(size), Some(name)) = (columns.next(), columns.next(), columns.next()) else {
                return Err(refused("expected hash, size and name"));
            };
            let size = match size {
                "*" => ANY_SIZE,
                digits => digits.parse().map_err(|_| refused("the size is no number"))?,
            };
            self.add(hash, size, name).ok_or_else(|| refused("the hash is no MD5, SHA-1 or SHA-256"))?;
        }
        Ok(())
    }

    pub(crate) fn add_plain(&mut self, path: &str, text: &str) -> Result<(), Error> {
        for (index, line) in content_lines(text) {
            let (hash, name) = line.split_once([' ', '\t', ',']).unwrap_or((line, PLAIN_NAME));
            let name = name.trim().trim_start_matches('*');
            let name = if name.is_empty() { PLAIN_NAME } else { name };
            let is_sha256 = hash.len() == 64;
            is_sha256.then(|| self.add(hash, ANY_SIZE, name)).flatten().ok_or_else(|| Error::Signature {
                path: path.to_owned(),
                line: index + 1,
                detail: "expected a SHA-256".to_owned(),
            })?;
        }
        Ok(())
    }

    fn add(&mut self, hash: &str, size: u64, name: &str) -> Option<()> {
        let bytes = unhex(hash)?;
        let start = u32::try_from(self.hashes.names.len()).ok()?;
        let end = u32::try_from(self.hashes.names.len() + name.len()).ok()?;
        let hashes = &mut self.hashes;
        match bytes.len() {
            16 => push(&mut hashes.md5, &bytes, size, (start, end))?,
            20 => push(&mut hashes.sha1, &bytes, size, (start, end))?,
            32 => push(&mut hashes.sha256, &bytes, size, (start, end))?,
            _ => return None,
        }
        hashes.names.push_str(name);
        Some(())
    }

    pub(crate) fn finish(self) -> Hashes {
        let Hashes { md5, sha1, sha256, names } = self.hashes;
        Hashes { md5: md5.finish(), sha1: sha1.finish(), sha256: sha256.finish(), names }
    }
}

fn push<const N: usize>(table: &mut Table<N>, digest: &[u8], size: u64, name: (u32, u32)) -> Option<()> {
    table.sizes.insert(size);
    table.rows.push(Row { digest: digest.try_into().ok()?, size, name });
    Some(())
}

/// Lines that are neither empty nor comments.
pub(crate) fn content_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|value| value as u8);
    text.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair.first()?)? << 4 | digit(pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MD5_OF_ABC: &str = "900150983cd24fb0d6963f7d28e17f72";
    const SHA256_OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn size_and_wildcard_are_respected() {
        let mut builder = HashesBuilder::default();
        builder.add_clamav("a.hdb", &format!("{MD5_OF_ABC}:4:Wrong.Size\n# comment\n{SHA256_OF_ABC}:*:Any.Size\n")).unwrap();
        let hashes = builder.finish();
        assert_eq!(hashes.lookup(b"abc"), Some("Any.Size"));
        assert_eq!(hashes.lookup(b"abd"), None);
    }

    #[test]
    fn a_damaged_line_is_named() {
        let error = HashesBuilder::default().add_clamav("a.hdb", "\nzz:1:Name").unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
        assert!(HashesBuilder::default().add_plain("a.sha256", MD5_OF_ABC).is_err());
    }
}
