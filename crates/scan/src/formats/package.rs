//! OLE 1.0 objects ([MS-OLEDS] section 2.2) and the Packager format inside them, which carries one file by name. Both are
//! how RTF and legacy Office documents drop files.

use crate::format::{find, read_u16, read_u32};

/// A file carried by an object.
pub(crate) struct Package<'b> {
    pub(crate) name: String,
    pub(crate) body: &'b [u8],
}

/// The payload of an OLE 1.0 embedded object, as found in RTF `objdata`: class name, then native data.
pub(crate) fn ole1(bytes: &[u8]) -> Option<Package<'_>> {
    const EMBEDDED: u32 = 2;
    if read_u32(bytes, 4)? != EMBEDDED {
        return None;
    }
    let (class, at) = counted(bytes, 8)?;
    let (_, at) = counted(bytes, at)?;
    let (_, at) = counted(bytes, at)?;
    let size = read_u32(bytes, at)? as usize;
    let native = bytes.get(at + 4..)?;
    let native = native.get(..size).unwrap_or(native);
    let class = class.to_ascii_lowercase();
    match class.as_str() {
        "package" => packager(native),
        _ => Some(Package { name: class, body: native }),
    }
}

/// A length-prefixed string and where it ends.
fn counted(bytes: &[u8], at: usize) -> Option<(String, usize)> {
    const STRING_BYTES_MAX: usize = 4096;
    let size = read_u32(bytes, at)? as usize;
    let end = (at + 4).checked_add(size).filter(|_| size <= STRING_BYTES_MAX)?;
    let text = bytes.get(at + 4..end)?;
    Some((String::from_utf8_lossy(text).trim_end_matches('\0').to_owned(), end))
}

/// The stream `\x01Ole10Native`: a size, then the Packager format.
pub(crate) fn ole10_native(bytes: &[u8]) -> Option<Package<'_>> {
    packager(bytes.get(4..)?)
}

/// Packager: type 2, label, file name, a flag pair, a command path, then the file with its size.
fn packager(bytes: &[u8]) -> Option<Package<'_>> {
    if read_u16(bytes, 0)? != 2 {
        return None;
    }
    let label_end = 2 + find(bytes.get(2..)?, b"\0")? + 1;
    let name_end = label_end + find(bytes.get(label_end..)?, b"\0")? + 1;
    let path_bytes = read_u32(bytes, name_end + 4)? as usize;
    let at = (name_end + 8).checked_add(path_bytes)?;
    let size = read_u32(bytes, at)? as usize;
    let body = bytes.get(at + 4..)?;
    Some(Package {
        name: String::from_utf8_lossy(bytes.get(2..label_end - 1)?).into_owned(),
        body: body.get(..size).unwrap_or(body),
    })
}
