//! Cpio (newc, odc, old binary in both byte orders), and the two package formats that are a thin shell around it or
//! beside it: ar (Debian packages) and rpm (whose payload is found by its signature).

use crate::format::find;
use crate::report::Unscannable;
use crate::walk::{Flow, Node, Step, Walk};

pub(crate) fn is_cpio(bytes: &[u8]) -> bool {
    [&b"070701"[..], b"070702", b"070707", b"\xc7\x71", b"\x71\xc7"].iter().any(|magic| bytes.starts_with(magic))
        && header(bytes).is_some()
}

struct Header {
    name: std::ops::Range<usize>,
    body: std::ops::Range<usize>,
    next: usize,
}

fn header(bytes: &[u8]) -> Option<Header> {
    let layout = |start: usize, name_bytes: usize, body_bytes: usize, align: usize| {
        let name = start..start.checked_add(name_bytes)?;
        let body_at = name.end.checked_next_multiple_of(align)?;
        let end = body_at.checked_add(body_bytes)?;
        Some(Header { name, body: body_at..end, next: end.checked_next_multiple_of(align)? })
    };
    match bytes.get(..6)? {
        b"070701" | b"070702" => layout(110, digits(bytes, 94, 8, 16)?, digits(bytes, 54, 8, 16)?, 4),
        b"070707" => layout(76, digits(bytes, 59, 6, 8)?, digits(bytes, 65, 11, 8)?, 1),
        [0xc7, 0x71, ..] => old_binary(bytes, u16::from_le_bytes).and_then(|(name, body)| layout(26, name, body, 2)),
        [0x71, 0xc7, ..] => old_binary(bytes, u16::from_be_bytes).and_then(|(name, body)| layout(26, name, body, 2)),
        _ => None,
    }
}

fn digits(bytes: &[u8], at: usize, count: usize, radix: u32) -> Option<usize> {
    let text = std::str::from_utf8(bytes.get(at..at + count)?).ok()?;
    usize::from_str_radix(text.trim(), radix).ok()
}

fn old_binary(bytes: &[u8], word: fn([u8; 2]) -> u16) -> Option<(usize, usize)> {
    let read = |at: usize| Some(usize::from(word(bytes.get(at..at + 2)?.try_into().ok()?)));
    Some((read(20)?, read(22)? << 16 | read(24)?))
}

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let mut rest = bytes;
    while let Some(header) = header(rest) {
        let name = rest.get(header.name.clone()).map(|name| String::from_utf8_lossy(name).trim_end_matches('\0').to_owned());
        let name = name.ok_or(Unscannable::Corrupt)?;
        if name == "TRAILER!!!" {
            return Ok(());
        }
        let body = rest.get(header.body.clone()).ok_or(Unscannable::Corrupt)?;
        if walk.slice(node, &name, body).is_break() {
            return Ok(());
        }
        rest = rest.get(header.next..).unwrap_or_default();
    }
    Err(Unscannable::Corrupt)
}

/// Unix ar: a 60-byte header with decimal sizes, bodies on even offsets.
pub(crate) fn open_ar(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    const MAGIC_BYTES: usize = 8;
    const HEADER_BYTES: usize = 60;
    let mut at = MAGIC_BYTES;
    while let Some(header) = bytes.get(at..at + HEADER_BYTES) {
        let size = digits(header, 48, 10, 10).ok_or(Unscannable::Corrupt)?;
        let name = String::from_utf8_lossy(header.get(..16).unwrap_or_default()).trim().to_owned();
        let start = at + HEADER_BYTES;
        let body = bytes.get(start..start.saturating_add(size)).ok_or(Unscannable::Corrupt)?;
        if walk.slice(node, &name, body).is_break() {
            return Ok(());
        }
        at = (start + size).next_multiple_of(2);
    }
    Ok(())
}

/// The payload is the rest of the file from the first compressor signature behind the lead (96 bytes).
pub(crate) fn open_rpm(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    const LEAD_BYTES: usize = 96;
    const PAYLOADS: [&[u8]; 5] = [b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"BZh91AY&SY", b"070701"];
    let body = bytes.get(LEAD_BYTES..).ok_or(Unscannable::Corrupt)?;
    let starts: Vec<usize> = PAYLOADS.iter().filter_map(|magic| find(body, magic)).collect();
    let start = starts.into_iter().min().ok_or(Unscannable::Corrupt)?;
    let _: Flow = walk.slice(node, "payload", body.get(start..).unwrap_or_default());
    Ok(())
}
