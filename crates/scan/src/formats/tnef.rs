//! TNEF, the `winmail.dat` of Exchange ([MS-OXTNEF]): a row of attributes, each with its length. Attachment data, bodies and
//! the large values of MAPI properties are members; the rest are dates and flags.

use crate::format::{read_u16, read_u32};
use crate::report::Unscannable;
use crate::walk::{Flow, Node, Step, Walk};

pub(crate) const SIGNATURE: &[u8] = b"\x78\x9f\x3e\x22";
/// Signature and attach key.
const HEAD_BYTES: usize = 6;
/// Level, identifier, length.
const ATTRIBUTE_BYTES: usize = 9;
const CHECKSUM_BYTES: usize = 2;
const ATTACH_TITLE: u32 = 0x0001_8010;
const ATTACH_DATA: u32 = 0x0006_800f;
const ATTACH_PROPERTIES: u32 = 0x0006_9005;
const MESSAGE_PROPERTIES: u32 = 0x0006_9003;
/// Smaller attributes hold no file; the test file is 68 bytes.
const BODY_BYTES_MIN: usize = 60;

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let mut at = HEAD_BYTES;
    let mut title = String::from("attachment");
    while let Some(header) = bytes.get(at..at + ATTRIBUTE_BYTES) {
        let id = read_u32(header, 1).ok_or(Unscannable::Corrupt)?;
        let size = read_u32(header, 5).ok_or(Unscannable::Corrupt)? as usize;
        let start = at + ATTRIBUTE_BYTES;
        let end = start.saturating_add(size);
        let body = bytes.get(start..end).ok_or(Unscannable::Corrupt)?;
        at = end.saturating_add(CHECKSUM_BYTES);
        let flow = match id {
            ATTACH_TITLE => {
                title = String::from_utf8_lossy(body).trim_end_matches('\0').to_owned();
                walk.flow()
            }
            ATTACH_DATA => walk.slice(node, &title, body),
            ATTACH_PROPERTIES | MESSAGE_PROPERTIES => properties(walk, node, body).unwrap_or_else(|| {
                walk.note(node, Unscannable::Corrupt, "properties");
                walk.flow()
            }),
            _ if size >= BODY_BYTES_MIN => walk.slice(node, &format!("attribute-{id:08x}"), body),
            _ => walk.flow(),
        };
        if flow.is_break() {
            return Ok(());
        }
    }
    if at >= bytes.len() { Ok(()) } else { Err(Unscannable::Corrupt) }
}

/// MAPI properties (section 2.1.3.4): a count, then type, identifier and values padded to four bytes.
fn properties(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Option<Flow> {
    /// Objects begin with the identifier of their interface.
    const INTERFACE_BYTES: usize = 16;
    const COMPRESSED_RTF: u16 = 0x1009;
    let mut at = 4;
    for _ in 0..read_u32(bytes, 0)? {
        let kind = read_u16(bytes, at)?;
        let id = read_u16(bytes, at + 2)?;
        at += 4;
        if id >= 0x8000 {
            at = named(bytes, at)?;
        }
        let is_many = kind & 0x1000 != 0;
        let base = kind & 0x0fff;
        let is_counted = is_many || matches!(base, 0x000d | 0x001e | 0x001f | 0x0102);
        let count = if is_counted { read_u32(bytes, at)? } else { 1 };
        at += if is_counted { 4 } else { 0 };
        for _ in 0..count {
            let value_bytes = match base {
                0x0002 | 0x0003 | 0x0004 | 0x000a | 0x000b => 4,
                0x0005..=0x0007 | 0x0014 | 0x0040 => 8,
                0x0048 => 16,
                0x000d | 0x001e | 0x001f | 0x0102 => {
                    at += 4;
                    read_u32(bytes, at - 4)? as usize
                }
                0x0000 | 0x0001 => 0,
                _ => return None,
            };
            let value = bytes.get(at..at.checked_add(value_bytes)?)?;
            at = at.checked_add(value_bytes.checked_next_multiple_of(4)?)?;
            let value = if base == 0x000d { value.get(INTERFACE_BYTES..)? } else { value };
            if value.len() < BODY_BYTES_MIN {
                continue;
            }
            let flow = match (id, super::ole::compressed_rtf(value)) {
                (COMPRESSED_RTF, Some(text)) => walk.slice(node, "body.rtf", &text),
                _ => walk.slice(node, &format!("property-{id:04x}"), value),
            };
            if flow.is_break() {
                return Some(flow);
            }
        }
    }
    Some(walk.flow())
}

/// A named property: a set, a kind, and a number or a padded UTF-16 name.
fn named(bytes: &[u8], at: usize) -> Option<usize> {
    const NAME: u32 = 1;
    let at = at + 16;
    match read_u32(bytes, at)? {
        NAME => at.checked_add(8)?.checked_add((read_u32(bytes, at + 4)? as usize).checked_next_multiple_of(4)?),
        _ => Some(at + 8),
    }
}
