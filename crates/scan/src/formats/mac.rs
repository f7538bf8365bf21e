//! What Macintosh programs wrap files in: MacBinary (versions I to III), AppleSingle and AppleDouble (RFC 1740). Both forks
//! are members.

use super::xar::{be_u16, be_u32};
use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};

const HEADER_BYTES: usize = 128;
const NAME_BYTES_MAX: usize = 63;

/// Zero bytes where they must stand, a plausible name, and forks that fill the file.
pub(crate) fn is_mac_binary(bytes: &[u8]) -> bool {
    let zero = |at: usize| bytes.get(at) == Some(&0);
    let name_bytes = bytes.get(1).copied().map_or(0, usize::from);
    let name = bytes.get(2..2 + name_bytes).unwrap_or_default();
    let Some((data, resource)) = forks(bytes) else { return false };
    let all = HEADER_BYTES + data.next_multiple_of(HEADER_BYTES) + resource;
    zero(0)
        && zero(74)
        && zero(82)
        && (1..=NAME_BYTES_MAX).contains(&name_bytes)
        && name.iter().all(|byte| *byte >= b' ')
        && data + resource > 0
        && bytes.len() >= all.min(HEADER_BYTES + data)
        && bytes.len() <= all + 2 * HEADER_BYTES
}

fn forks(bytes: &[u8]) -> Option<(usize, usize)> {
    const FORK_BYTES_MAX: usize = 0x7f_ffff;
    let (data, resource) = (be_u32(bytes, 83)? as usize, be_u32(bytes, 87)? as usize);
    (data <= FORK_BYTES_MAX && resource <= FORK_BYTES_MAX).then_some((data, resource))
}

pub(crate) fn open_mac_binary(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let (data, resource) = forks(bytes).ok_or(Unscannable::Corrupt)?;
    let name_bytes = bytes.get(1).copied().map_or(0, usize::from);
    let name = String::from_utf8_lossy(bytes.get(2..2 + name_bytes).unwrap_or_default()).into_owned();
    let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
    if walk.slice(node, &name, body.get(..data).ok_or(Unscannable::Corrupt)?).is_break() || resource == 0 {
        return Ok(());
    }
    let start = data.next_multiple_of(HEADER_BYTES);
    let _ = walk.slice(node, "resource fork", body.get(start..start + resource).ok_or(Unscannable::Corrupt)?);
    Ok(())
}

pub(crate) const APPLE_SINGLE: &[u8] = b"\0\x05\x16\0\0\x02\0\0";
pub(crate) const APPLE_DOUBLE: &[u8] = b"\0\x05\x16\x07\0\x02\0\0";

pub(crate) fn open_apple(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    const COUNT_OFFSET: usize = 24;
    const ENTRY_BYTES: usize = 12;
    let count = usize::from(be_u16(bytes, COUNT_OFFSET).ok_or(Unscannable::Corrupt)?);
    for index in 0..count {
        let at = COUNT_OFFSET + 2 + index * ENTRY_BYTES;
        let field = |offset: usize| be_u32(bytes, at + offset).map(|value| value as usize).ok_or(Unscannable::Corrupt);
        let (id, start, size) = (field(0)?, field(4)?, field(8)?);
        let body = bytes.get(start..start.saturating_add(size)).ok_or(Unscannable::Corrupt)?;
        if walk.slice(node, &format!("fork-{id}"), body).is_break() {
            return Ok(());
        }
    }
    Ok(())
}
