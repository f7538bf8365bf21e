//! Self-extracting installers whose data no general archive reader opens: NSIS (the layout of its fileform.h) with deflate and
//! LZMA, and the chunks of Inno Setup. Members have no names, since those stand in compiled scripts. NSIS with its own bzip2
//! variant, encrypted chunks and AutoIt scripts are named for what they are.

use super::marks::{AUTOIT, INNO, Marks, NSIS};
use crate::format::{find, read_u32};
use crate::report::Unscannable;
use crate::walk::{Flow, Node, Step, Walk};
use std::io::Read;

/// Flags, signature, and the two sizes.
const NSIS_HEADER_BYTES: usize = 28;
const INNO_CHUNK: &[u8] = b"zlb\x1a";
/// Bit 31 of a block's size says that it is packed.
const PACKED: u32 = 1 << 31;
const DICTIONARY_BYTES_MAX: u32 = 128 << 20;
const CHUNKS_MAX: usize = 1000;

/// Reads what an executable with these marks carries behind its sections.
pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8], marks: Marks) -> Step {
    let sought = |signature| marks.may_have(signature).then(|| find(bytes, signature)).flatten();
    if let Some(at) = sought(NSIS).and_then(|at| at.checked_sub(4)) {
        nsis(walk, node, bytes.get(at..).unwrap_or_default())?;
    }
    if sought(INNO).is_some() || inno_data(bytes) {
        inno(walk, node, bytes)?;
    }
    if let Some(at) = sought(AUTOIT)
        && bytes.get(at + AUTOIT.len()..).is_some_and(|rest| rest.starts_with(b"AU3!EA0"))
    {
        return Err(Unscannable::Unsupported);
    }
    Ok(())
}

/// Separate data of an Inno installer.
pub(crate) fn inno_data(bytes: &[u8]) -> bool {
    bytes.starts_with(b"idska32\x1a")
}

pub(crate) fn open_inno_data(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    inno(walk, node, bytes)
}

#[derive(Clone, Copy)]
enum Method {
    Stored,
    Deflate,
    Lzma { filter_bytes: usize },
    Bzip2,
}

/// Properties of 0x5d, a dictionary of whole 64 KiB, and a first code byte of zero.
fn lzma_at(bytes: &[u8]) -> bool {
    matches!(bytes.get(..7), Some([0x5d, 0, 0, _, _, 0, next]) if next & 0x80 == 0)
}

fn method(bytes: &[u8]) -> Method {
    match bytes {
        _ if lzma_at(bytes) => Method::Lzma { filter_bytes: 0 },
        [0 | 1, rest @ ..] if lzma_at(rest) => Method::Lzma { filter_bytes: 1 },
        [0x31, 0..=13, ..] => Method::Bzip2,
        _ => Method::Deflate,
    }
}

fn decoder<'b>(method: Method, packed: &'b [u8]) -> Option<Box<dyn Read + 'b>> {
    match method {
        Method::Stored => Some(Box::new(packed)),
        Method::Deflate => Some(Box::new(flate2::bufread::DeflateDecoder::new(packed))),
        Method::Lzma { filter_bytes } => raw_lzma(packed.get(filter_bytes..)?),
        Method::Bzip2 => None,
    }
}

/// Five bytes of properties, then codes with an end marker.
fn raw_lzma(packed: &[u8]) -> Option<Box<dyn Read + '_>> {
    let dictionary = read_u32(packed, 1).filter(|bytes| *bytes <= DICTIONARY_BYTES_MAX)?;
    let reader = lzma_rust2::LzmaReader::new_with_props(packed.get(5..)?, u64::MAX, *packed.first()?, dictionary, None);
    Some(Box::new(reader.ok()?))
}

fn nsis(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let header_bytes = read_u32(bytes, 20).ok_or(Unscannable::Corrupt)?;
    let all_bytes = read_u32(bytes, 24).ok_or(Unscannable::Corrupt)? as usize;
    let body = bytes.get(NSIS_HEADER_BYTES..).unwrap_or_default();
    let body = body.get(..all_bytes.saturating_sub(NSIS_HEADER_BYTES)).unwrap_or(body);
    let first = read_u32(body, 0).ok_or(Unscannable::Corrupt)?;
    // A script stays below 16 MiB, so the highest byte of its packed size is the flag alone.
    let is_solid = first != header_bytes && (first >> 24 != PACKED >> 24 || matches!(method(body), Method::Lzma { .. }));
    if !is_solid {
        let method = method(body.get(4..).unwrap_or_default());
        return blocks(walk, node, body, method);
    }
    let mut reader = decoder(method(body), body).ok_or(Unscannable::Unsupported)?;
    let Ok(plain) = walk.unpack(reader.as_mut()) else { return Ok(()) };
    drop(reader);
    if plain.is_empty() {
        return Err(Unscannable::Corrupt);
    }
    blocks(walk, node, &plain, Method::Stored)
}

/// Blocks of a size and their data, the compiled script first.
fn blocks(walk: &mut Walk<'_>, node: &Node, body: &[u8], method: Method) -> Step {
    /// What may stand behind the last block: a checksum.
    const TAIL_BYTES_MAX: usize = 8;
    let mut at = 0;
    let mut index = 0;
    while let Some(size) = read_u32(body, at) {
        let length = (size & !PACKED) as usize;
        let start = at + 4;
        let Some(block) = body.get(start..start.saturating_add(length)) else {
            return if body.len() - at <= TAIL_BYTES_MAX { Ok(()) } else { Err(Unscannable::Corrupt) };
        };
        at = start + length;
        index += 1;
        let how = if size & PACKED == 0 { Method::Stored } else { method };
        let Some(mut reader) = decoder(how, block) else { return Err(Unscannable::Unsupported) };
        if walk.member(node, &format!("nsis-{index}"), reader.as_mut()).is_break() {
            return Ok(());
        }
    }
    Ok(())
}

fn inno(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    for (index, at) in memchr::memmem::find_iter(bytes, INNO_CHUNK).enumerate() {
        if index >= CHUNKS_MAX {
            return Err(Unscannable::EntryLimit);
        }
        let packed = bytes.get(at + INNO_CHUNK.len()..).unwrap_or_default();
        let flow: Flow = match inno_chunk(packed) {
            Some(mut reader) => walk.member(node, &format!("inno-{index}"), reader.as_mut()),
            None => {
                walk.note(node, Unscannable::Encrypted, "chunk");
                walk.flow()
            }
        };
        if flow.is_break() {
            return Ok(());
        }
    }
    Ok(())
}

fn inno_chunk(packed: &[u8]) -> Option<Box<dyn Read + '_>> {
    const DICTIONARY_CODE_MAX: u8 = 40;
    match packed {
        [0x5d, ..] => raw_lzma(packed),
        [b'B', b'Z', b'h', ..] => Some(Box::new(bzip2::bufread::BzDecoder::new(packed))),
        [0x78, ..] => Some(Box::new(flate2::bufread::ZlibDecoder::new(packed))),
        // The dictionary code of LZMA2, then a chunk that resets everything or is stored (.xz format 5.3.1).
        [code @ 0..=DICTIONARY_CODE_MAX, control, rest @ ..] if matches!(control, 1 | 0xe0..=0xff) && !rest.is_empty() => {
            let dictionary = (2 | u32::from(code & 1)).checked_shl(u32::from(code / 2) + 11)?;
            let dictionary = Some(dictionary).filter(|bytes| (4096..=DICTIONARY_BYTES_MAX).contains(bytes))?;
            Some(Box::new(lzma_rust2::Lzma2Reader::new(packed.get(1..)?, dictionary, None)))
        }
        _ => None,
    }
}
