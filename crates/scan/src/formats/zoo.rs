//! Zoo (Rahul Dhesi, zoo.h of zoo 2.10): a chain of directory entries by absolute offsets. Method 1 is LZW of 9 to 13 bits,
//! method 2 is LHA's `lh5`. Deleted entries are read too: their bytes are still there.

use super::lzh::CodeReader;
use super::lzw::PlainLzwReader;
use crate::format::{read_u16, read_u32};
use crate::report::Unscannable;
use crate::walk::{Flow, Node, Step, Walk};
use delharc::header::CompressionMethod;
use std::collections::HashSet;

pub(crate) const TAG: &[u8] = b"\xdc\xa7\xc4\xfd";
/// Where the tag stands in the archive header, and the start of the first entry behind it.
pub(crate) const TAG_OFFSET: usize = 20;
const CODE_BITS_MAX: u32 = 13;

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let mut at = read_u32(bytes, TAG_OFFSET + 4).ok_or(Unscannable::Corrupt)? as usize;
    let mut seen = HashSet::new();
    // A chain that turns back on itself has been read once.
    while seen.insert(at) {
        let entry = bytes.get(at..).filter(|entry| entry.starts_with(TAG)).ok_or(Unscannable::Corrupt)?;
        let next = read_u32(entry, 6).ok_or(Unscannable::Corrupt)? as usize;
        if next == 0 {
            return Ok(());
        }
        if member(walk, node, bytes, entry).ok_or(Unscannable::Corrupt)?.is_break() {
            return Ok(());
        }
        at = next;
    }
    Err(Unscannable::Corrupt)
}

fn member(walk: &mut Walk<'_>, node: &Node, bytes: &[u8], entry: &[u8]) -> Option<Flow> {
    let method = *entry.get(5)?;
    let offset = read_u32(entry, 10)? as usize;
    let plain_bytes = u64::from(read_u32(entry, 20)?);
    let packed_bytes = read_u32(entry, 24)? as usize;
    let name = name(entry)?;
    let packed = bytes.get(offset..offset.checked_add(packed_bytes)?)?;
    Some(match method {
        0 => walk.slice(node, &name, packed),
        1 => walk.member(node, &name, &mut PlainLzwReader::new(packed, CODE_BITS_MAX)),
        2 => walk.member(node, &name, &mut CodeReader::new(CompressionMethod::Lh5, packed, plain_bytes)),
        _ => {
            walk.note(node, Unscannable::Unsupported, &name);
            walk.flow()
        }
    })
}

/// The long name of a type 2 entry, or the short DOS name.
fn name(entry: &[u8]) -> Option<String> {
    const SHORT: std::ops::Range<usize> = 38..51;
    const LONG_AT: usize = 58;
    let long_bytes = usize::from(*entry.get(56).filter(|_| read_u16(entry, 51).is_some_and(|bytes| bytes > 2)).unwrap_or(&0));
    let field = match long_bytes {
        0 => entry.get(SHORT)?,
        _ => entry.get(LONG_AT..LONG_AT + long_bytes)?,
    };
    Some(String::from_utf8_lossy(field.split(|byte| *byte == 0).next()?).into_owned())
}
