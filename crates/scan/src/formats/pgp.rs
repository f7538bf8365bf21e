//! Encrypted messages that are told by their first bytes: OpenPGP (RFC 9580) in armour or binary, and CMS enveloped data
//! (RFC 5652). Nothing is decrypted. The content of CMS signed data stands in the clear and is a member.

use crate::format::find;
use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};

const HEAD_BYTES: usize = 64;
/// 1.2.840.113549.1.7.3, and the authenticated form 1.2.840.113549.1.9.16.1.23.
const ENVELOPED: [&[u8]; 2] =
    [b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03", b"\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01\x17"];
const SIGNED: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02";
/// 1.2.840.113549.1.7.1, the content of signed data.
const DATA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01";

/// Armour, or a session key packet followed by another of the packets that an encrypted message has.
pub(crate) fn is_encrypted(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(b"-----BEGIN PGP MESSAGE-----") || is_packets(bytes) || is_cms(bytes, &ENVELOPED)
}

fn is_packets(bytes: &[u8]) -> bool {
    const SESSION_KEYS: [u8; 2] = [1, 3];
    let Some((tag, body, next)) = packet(bytes) else { return false };
    let Some(version) = bytes.get(body) else { return false };
    let is_known = matches!((tag, version), (1, 3 | 6) | (3, 4..=6));
    SESSION_KEYS.contains(&tag)
        && is_known
        && bytes.get(next..).and_then(packet).is_some_and(|(tag, ..)| matches!(tag, 1 | 3 | 9 | 18 | 20))
}

/// Tag, start of the body, and start of the next packet (section 4.2). Partial lengths end the walk.
fn packet(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let head = *bytes.first()?;
    let byte = |at: usize| bytes.get(at).copied().map(usize::from);
    let is_new = head & 0x40 != 0;
    let (tag, body, length) = match (head & 0x80 != 0, is_new) {
        (false, _) => return None,
        (true, true) => {
            let tag = head & 0x3f;
            match byte(1)? {
                short @ 0..192 => (tag, 2, short),
                first @ 192..224 => (tag, 3, ((first - 192) << 8) + byte(2)? + 192),
                255 => (tag, 6, byte(2)? << 24 | byte(3)? << 16 | byte(4)? << 8 | byte(5)?),
                partial => (tag, 2, 1 << (partial & 31)),
            }
        }
        (true, false) => {
            let tag = head >> 2 & 15;
            match head & 3 {
                0 => (tag, 2, byte(1)?),
                1 => (tag, 3, byte(1)? << 8 | byte(2)?),
                2 => (tag, 5, byte(1)? << 24 | byte(2)? << 16 | byte(3)? << 8 | byte(4)?),
                _ => (tag, 1, 0),
            }
        }
    };
    Some((tag, body, body.checked_add(length)?))
}

fn is_cms(bytes: &[u8], identifiers: &[&[u8]]) -> bool {
    let head = bytes.get(..bytes.len().min(HEAD_BYTES)).unwrap_or_default();
    head.first() == Some(&0x30) && identifiers.iter().any(|identifier| find(head, identifier).is_some())
}

pub(crate) fn is_signed(bytes: &[u8]) -> bool {
    is_cms(bytes, &[SIGNED])
}

/// The octet string behind the content's identifier, whole or in pieces.
pub(crate) fn open_signed(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let Some(at) = find(bytes, DATA) else { return Ok(()) };
    let mut rest = bytes.get(at + DATA.len()..).unwrap_or_default();
    let mut content = Vec::new();
    while let Some((tag, head, length)) = element(rest) {
        match tag {
            // Explicit tag, and the shell of a constructed string: what is inside follows.
            0xa0 | 0x24 => rest = rest.get(head..).unwrap_or_default(),
            0x04 => {
                let length = length.ok_or(Unscannable::Corrupt)?;
                content.extend_from_slice(rest.get(head..head.saturating_add(length)).ok_or(Unscannable::Corrupt)?);
                rest = rest.get(head + length..).unwrap_or_default();
            }
            _ => break,
        }
    }
    if !content.is_empty() {
        let _ = walk.slice(node, "content", &content);
    }
    Ok(())
}

/// Tag, bytes of tag and length, and the length; `None` for an indefinite one.
fn element(bytes: &[u8]) -> Option<(u8, usize, Option<usize>)> {
    let tag = *bytes.first()?;
    match *bytes.get(1)? {
        0x80 => Some((tag, 2, None)),
        short @ 0..0x80 => Some((tag, 2, Some(usize::from(short)))),
        long => {
            let count = usize::from(long & 0x7f).min(8);
            let length = bytes.get(2..2 + count)?.iter().fold(0usize, |length, byte| length << 8 | usize::from(*byte));
            Some((tag, 2 + count, Some(length)))
        }
    }
}
