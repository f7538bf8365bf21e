//! OneNote sections ([MS-ONESTORE]): embedded files are found by the identifier of the file data store object (section
//! 2.6.13), each with its length. The rest of the format is not parsed.

use crate::format::{find, read_u64};
use crate::walk::{Node, Step, Walk};

/// The identifier of a `.one` file, {7B5C52E4-D88C-4DA7-AEB1-5378D02996D3}.
pub(crate) const SIGNATURE: &[u8] = b"\xe4\x52\x5c\x7b\x8c\xd8\xa7\x4d\xae\xb1\x53\x78\xd0\x29\x96\xd3";
/// The identifier of a file data store object, {BDE316E7-2665-4511-A4C4-8D4D0B7A9EAC}.
const FILE_DATA: &[u8] = b"\xe7\x16\xe3\xbd\x65\x26\x11\x45\xa4\xc4\x8d\x4d\x0b\x7a\x9e\xac";
/// Identifier, 64-bit length, and twelve unused bytes.
const HEADER_BYTES: usize = 36;

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let mut at = 0;
    let mut index = 0;
    while let Some(found) = bytes.get(at..).and_then(|rest| find(rest, FILE_DATA)) {
        let start = at + found;
        at = start + FILE_DATA.len();
        let Some(size) = read_u64(bytes, start + 16).and_then(|size| usize::try_from(size).ok()) else { continue };
        let Some(body) = bytes.get(start + HEADER_BYTES..) else { continue };
        index += 1;
        if walk.slice(node, &format!("file-{index}"), body.get(..size).unwrap_or(body)).is_break() {
            return Ok(());
        }
    }
    Ok(())
}
