//! Binary-fuse filters beside files of sightings: does this file hold a key? One in 65,536 answers is a false yes, none
//! a false no. A filter that is missing or damaged answers yes, so that it can cost time but never a sighting.

use std::path::{Path, PathBuf};

use arrow::buffer::{Buffer, MutableBuffer};
use xorf::{BinaryFuse16, BinaryFuse16Ref, DmaSerializable, Filter as _, FilterRef};
use xxhash_rust::xxh3::xxh3_64;

use crate::{Result, disk};

const MAGIC: &[u8; 8] = b"SKSBF16\x01";
const HEADER_BYTES: usize = 16;
const DESCRIPTOR_BYTES: usize = BinaryFuse16::DESCRIPTOR_LEN;

pub(crate) struct Filter {
    descriptor: [u8; DESCRIPTOR_BYTES],
    fingerprints: Buffer,
}

/// The filter of a file of sightings. It stands in a directory of its own, since engines read every file beside a table.
pub(crate) fn path_beside(sightings: &Path) -> Option<PathBuf> {
    let (name, day) = (sightings.file_stem()?, sightings.parent()?);
    let table = day.parent()?;
    (table.file_name()? == "sightings" || table.file_name()? == "sightings_m")
        .then(|| table.with_file_name("idx").join(day.file_name().unwrap_or_default()).join(name).with_extension("bf16"))
}

/// Builds and writes a filter over keys. Without keys, or where they cannot be arranged, there is none.
pub(crate) fn write(path: &Path, mut keys: Vec<u64>) -> Result<()> {
    keys.sort_unstable();
    keys.dedup();
    let Some(filter) = (!keys.is_empty()).then(|| BinaryFuse16::try_from(&keys).ok()).flatten() else {
        return Ok(());
    };
    let mut body = vec![0_u8; DESCRIPTOR_BYTES];
    filter.dma_copy_descriptor_to(&mut body);
    body.extend_from_slice(filter.dma_fingerprints());
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&xxh3_64(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    disk::write_whole(path, &bytes)
}

/// Reads a filter; none where it is missing, damaged or of another make.
pub(crate) fn read(path: &Path) -> Option<Filter> {
    let bytes = std::fs::read(path).ok()?;
    let (header, body) = bytes.split_at_checked(HEADER_BYTES)?;
    let hash = u64::from_le_bytes(header.get(8..)?.try_into().ok()?);
    if !header.starts_with(MAGIC) || xxh3_64(body) != hash {
        tracing::warn!(file = %path.display(), "filter is damaged and is not used");
        return None;
    }
    let (descriptor, fingerprints) = body.split_first_chunk::<DESCRIPTOR_BYTES>()?;
    // Arrow's buffers are aligned, which a view of 16-bit fingerprints needs.
    let mut aligned = MutableBuffer::with_capacity(fingerprints.len());
    aligned.extend_from_slice(fingerprints);
    (fingerprints.len() % 2 == 0).then(|| Filter { descriptor: *descriptor, fingerprints: aligned.into() })
}

impl Filter {
    /// A view to ask many keys of.
    pub fn view(&self) -> BinaryFuse16Ref<'_> {
        BinaryFuse16Ref::from_dma(&self.descriptor, self.fingerprints.as_slice())
    }

    pub fn bytes(&self) -> usize {
        self.fingerprints.len()
    }
}

pub(crate) fn may_hold(view: &BinaryFuse16Ref<'_>, key: u64) -> bool {
    view.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_and_a_damaged_filter_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("1-2.bf16");
        for count in [1_u64, 2, 3, 100, 10_000] {
            let keys = (0..count).map(|n| xxh3_64(&n.to_le_bytes())).collect::<Vec<_>>();
            write(&path, keys.clone()).unwrap();
            let filter = read(&path).unwrap();
            assert!(keys.iter().all(|key| may_hold(&filter.view(), *key)));
            let strangers = (count..count + 10_000).map(|n| xxh3_64(&n.to_le_bytes()));
            assert!(strangers.filter(|key| may_hold(&filter.view(), *key)).count() < 10);
        }
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(read(&path).is_none());
    }

    #[test]
    fn only_sightings_have_a_filter() {
        let beside = path_beside(Path::new("/d/sightings/dt=2026-01-01/1-2.parquet"));
        assert_eq!(beside, Some(PathBuf::from("/d/idx/dt=2026-01-01/1-2.bf16")));
        assert_eq!(path_beside(Path::new("/d/events/dt=2026-01-01/1-2.parquet")), None);
    }
}
