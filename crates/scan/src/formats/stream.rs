//! Formats that hold one compressed stream: gzip (RFC 1952), bzip2, xz, lzma-alone, zstd (RFC 8878), lz4 frames
//! and Unix compress. The member has no name of its own. Concatenated streams are read to the end.

use super::lzw::LzwReader;
use crate::format::{read_u16, read_u32, read_u64};
use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};
use std::io::{Cursor, Read};

/// Memory that a decoder may take for its dictionary; xz -9 uses 64 MiB.
pub(super) const DICTIONARY_KIB_MAX: u32 = 128 << 10;
/// Same bound for zstd windows; `zstd --long` defaults to 128 MiB.
const WINDOW_BYTES_MAX: u64 = 128 << 20;

/// What the one member of a stream is called in a path.
pub(super) const MEMBER: &str = "content";

fn one(walk: &mut Walk<'_>, node: &Node, reader: &mut dyn Read) -> Step {
    let _ = walk.member(node, MEMBER, reader);
    Ok(())
}

pub(crate) fn gzip(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let mut members = GzipMembers { decoder: Some(flate2::bufread::GzDecoder::new(bytes)), rest: &[] };
    one(walk, node, &mut members)?;
    trailing(walk, node, members.rest)
}

/// What stands behind the last stream belongs to no content, and may be a file of its own.
pub(super) fn trailing(walk: &mut Walk<'_>, node: &Node, rest: &[u8]) -> Step {
    if walk.flow().is_continue() && rest.iter().any(|byte| *byte != 0) {
        let _ = walk.tentative(|walk| walk.view(node, "trailing", rest));
    }
    Ok(())
}

/// Members read one after another; padding after the last one is no error, as in gzip(1).
struct GzipMembers<'b> {
    decoder: Option<flate2::bufread::GzDecoder<&'b [u8]>>,
    rest: &'b [u8],
}

impl Read for GzipMembers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while let Some(decoder) = self.decoder.as_mut() {
            let count = decoder.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            let rest: &[u8] = decoder.get_ref();
            let more = rest.starts_with(b"\x1f\x8b\x08");
            self.rest = rest;
            self.decoder = more.then(|| flate2::bufread::GzDecoder::new(rest));
        }
        Ok(0)
    }
}

/// `BZh`, a block size digit, and the magic of a first block or of the end of an empty stream.
pub(crate) fn is_bzip2(bytes: &[u8]) -> bool {
    bytes.starts_with(b"BZh")
        && bytes.get(3).is_some_and(|level| (b'1'..=b'9').contains(level))
        && bytes.get(4..10).is_none_or(|magic| magic == b"1AY&SY" || magic == b"\x17\x72\x45\x38\x50\x90")
}

pub(crate) fn bzip2(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    one(walk, node, &mut bzip2::bufread::MultiBzDecoder::new(bytes))
}

pub(crate) fn xz(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    one(walk, node, &mut xz_reader(bytes))
}

pub(crate) fn xz_reader(packed: &[u8]) -> lzma_rust2::XzReader<&[u8]> {
    lzma_rust2::XzReader::new_mem_limit(packed, true, DICTIONARY_KIB_MAX)
}

/// An lzma-alone header has no magic: properties, a power-of-two dictionary and a plausible size make one likely.
pub(crate) fn is_lzma(bytes: &[u8]) -> bool {
    const PROPERTIES_DEFAULT: u8 = 0x5d;
    const SIZE_PLAUSIBLE_BYTES_MAX: u64 = 1 << 40;
    let dictionary = read_u32(bytes, 1).unwrap_or(0);
    let size = read_u64(bytes, 5).unwrap_or(0);
    bytes.first() == Some(&PROPERTIES_DEFAULT)
        && bytes.len() > 13
        && (dictionary.is_power_of_two() || (dictionary >> 1).wrapping_mul(3).is_power_of_two())
        && (size == u64::MAX || size < SIZE_PLAUSIBLE_BYTES_MAX)
        && bytes.get(13) == Some(&0)
}

pub(crate) fn lzma(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let reader = lzma_rust2::LzmaReader::new_mem_limit(bytes, DICTIONARY_KIB_MAX, None);
    one(walk, node, &mut reader.map_err(|_| Unscannable::Corrupt)?)
}

/// A stream that is xz or lzma-alone, as packagers name both alike.
pub(crate) fn any_lzma(packed: &[u8]) -> Option<Box<dyn Read + '_>> {
    match packed.starts_with(b"\xfd7zXZ\0") {
        true => Some(Box::new(lzma_rust2::XzReader::new_mem_limit(packed, true, DICTIONARY_KIB_MAX))),
        false => Some(Box::new(lzma_rust2::LzmaReader::new_mem_limit(packed, DICTIONARY_KIB_MAX, None).ok()?)),
    }
}

/// Flash behind its header of eight bytes (SWF file format specification 19, chapter 2): plain, zlib, or LZMA.
pub(crate) fn flash(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    const HEADER_BYTES: usize = 8;
    let body = bytes.get(HEADER_BYTES..).ok_or(Unscannable::Corrupt)?;
    match bytes.first() {
        Some(b'C') => one(walk, node, &mut flate2::bufread::ZlibDecoder::new(body)),
        Some(b'Z') => {
            // The packed size stands before the properties.
            let properties = body.get(4..).ok_or(Unscannable::Corrupt)?;
            let dictionary =
                read_u32(properties, 1).filter(|bytes| *bytes <= DICTIONARY_KIB_MAX << 10).ok_or(Unscannable::SizeLimit)?;
            let first = *properties.first().ok_or(Unscannable::Corrupt)?;
            let codes = properties.get(5..).ok_or(Unscannable::Corrupt)?;
            let reader = lzma_rust2::LzmaReader::new_with_props(codes, u64::MAX, first, dictionary, None);
            one(walk, node, &mut reader.map_err(|_| Unscannable::Corrupt)?)
        }
        _ => Ok(()),
    }
}

/// The zlib stream in which Office 2003 XML and MHTML documents keep their objects and macros. How far behind the start it
/// stands depends on the version.
pub(crate) fn active_mime(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    const STARTS: std::ops::Range<usize> = 0x20..0x80;
    let start = STARTS
        .into_iter()
        .find(|at| matches!(bytes.get(*at..at + 2), Some([0x78, level]) if (0x7800 + u16::from(*level)).is_multiple_of(31)));
    let packed = start.and_then(|start| bytes.get(start..)).ok_or(Unscannable::Corrupt)?;
    one(walk, node, &mut flate2::bufread::ZlibDecoder::new(packed))
}

/// LZMA inside zip (APPNOTE 5.8.8): version, property size, properties, then the raw stream with an end marker or not.
pub(crate) fn zip_lzma(packed: &[u8], plain_bytes: Option<u64>) -> Option<Box<dyn Read + '_>> {
    let property_bytes = usize::from(read_u16(packed, 2)?);
    let properties = packed.get(4..4 + property_bytes)?;
    let dictionary = read_u32(properties, 1)?;
    if dictionary > DICTIONARY_KIB_MAX << 10 {
        return None;
    }
    let stream = packed.get(4 + property_bytes..)?;
    let plain_bytes = plain_bytes.unwrap_or(u64::MAX);
    let reader = lzma_rust2::LzmaReader::new_with_props(stream, plain_bytes, *properties.first()?, dictionary, None).ok()?;
    Some(Box::new(reader))
}

/// A frame, behind any number of skippable frames (RFC 8878 sections 3.1.1 and 3.1.2). They are walked in a loop: a file can
/// hold more of them than a stack can.
pub(crate) fn is_zstd(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(frame) = skippable(rest) {
        rest = rest.get(frame..).unwrap_or_default();
    }
    rest.starts_with(b"\x28\xb5\x2f\xfd")
}

fn skippable(bytes: &[u8]) -> Option<usize> {
    const SKIPPABLE_FIRST: u32 = 0x184d_2a50;
    let magic = read_u32(bytes, 0)?;
    let size = read_u32(bytes, 4)? as usize;
    (magic & !15 == SKIPPABLE_FIRST).then_some(size.checked_add(8)?)
}

/// Frames read one after another.
struct ZstdFrames<'b> {
    rest: &'b [u8],
    decoder: Option<ruzstd::decoding::StreamingDecoder<Cursor<&'b [u8]>, ruzstd::decoding::FrameDecoder>>,
    frames: usize,
}

impl Read for ZstdFrames<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            if let Some(decoder) = self.decoder.as_mut() {
                let count = decoder.read(buffer)?;
                if count > 0 {
                    return Ok(count);
                }
                let consumed = usize::try_from(decoder.get_ref().position()).unwrap_or(usize::MAX);
                self.rest = self.rest.get(consumed..).unwrap_or_default();
                self.decoder = None;
            }
            while let Some(frame) = skippable(self.rest) {
                self.rest = self.rest.get(frame..).unwrap_or_default();
            }
            if self.rest.is_empty() || (self.frames > 0 && !is_zstd(self.rest)) {
                return Ok(0);
            }
            self.frames += 1;
            let start = Cursor::new(self.rest);
            let decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(start, WINDOW_BYTES_MAX);
            self.decoder = Some(decoder.map_err(std::io::Error::other)?);
        }
    }
}

pub(crate) fn zstd_reader(packed: &[u8]) -> Option<Box<dyn Read + '_>> {
    Some(Box::new(ZstdFrames { rest: packed, decoder: None, frames: 0 }))
}

pub(crate) fn zstd(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let mut frames = ZstdFrames { rest: bytes, decoder: None, frames: 0 };
    one(walk, node, &mut frames)?;
    trailing(walk, node, frames.rest)
}

pub(crate) fn lz4(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let mut frames = Lz4Frames { decoder: Some(lz4_flex::frame::FrameDecoder::new(bytes)), rest: &[] };
    one(walk, node, &mut frames)?;
    trailing(walk, node, frames.rest)
}

/// Frames read one after another; what stands behind the last one is not part of the content, as in lz4(1).
struct Lz4Frames<'b> {
    decoder: Option<lz4_flex::frame::FrameDecoder<&'b [u8]>>,
    rest: &'b [u8],
}

impl Read for Lz4Frames<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while let Some(decoder) = self.decoder.as_mut() {
            let count = decoder.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            let mut rest: &[u8] = decoder.get_ref();
            while let Some(frame) = skippable(rest) {
                rest = rest.get(frame..).unwrap_or_default();
            }
            self.rest = rest;
            let more = rest.starts_with(b"\x04\x22\x4d\x18") || rest.starts_with(b"\x02\x21\x4c\x18");
            self.decoder = more.then(|| lz4_flex::frame::FrameDecoder::new(rest));
        }
        Ok(0)
    }
}

pub(crate) fn compress(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    one(walk, node, &mut LzwReader::new(bytes).ok_or(Unscannable::Corrupt)?)
}
