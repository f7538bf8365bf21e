//! ARC and PAK (System Enhancement Associates, ARC 5; the layout is in arc.txt of its sources): members one after another,
//! stored, run-length packed, Huffman squeezed, or LZW. The oldest LZW variants (methods 5 to 7) and PAK's own methods are
//! named as unsupported.

use super::lzw::LzwReader;
use crate::format::{read_u16, read_u32};
use crate::report::Unscannable;
use crate::walk::{Flow, Node, Step, Walk};
use std::io::Read;

const MARK: u8 = 0x1a;
const NAME_BYTES: usize = 13;
/// Mark, method, name, packed size, date, time, checksum; method 1 has no field for the unpacked size.
const HEADER_BYTES_OLD: usize = 25;
const HEADER_BYTES: usize = 29;

/// The mark is a single byte, so the first header must hold a printable name and a size that fits, and the next header or
/// the end must stand where it says.
pub(crate) fn is_arc(bytes: &[u8]) -> bool {
    let Some(header) = Header::parse(bytes, 0) else { return false };
    let next = header.start.saturating_add(header.packed_bytes);
    matches!(bytes.get(next..next + 2), Some([MARK, 0..=11])) && !header.name.is_empty()
}

struct Header {
    method: u8,
    name: String,
    packed_bytes: usize,
    start: usize,
}

impl Header {
    fn parse(bytes: &[u8], at: usize) -> Option<Header> {
        let method = *bytes.get(at + 1).filter(|method| bytes.get(at) == Some(&MARK) && matches!(method, 1..=11))?;
        let name = bytes.get(at + 2..at + 2 + NAME_BYTES)?.split(|byte| *byte == 0).next()?;
        let is_printable =
            name.len() < NAME_BYTES && name.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ' || *byte > 127);
        let header_bytes = if method == 1 { HEADER_BYTES_OLD } else { HEADER_BYTES };
        is_printable.then_some(Header {
            method,
            name: String::from_utf8_lossy(name).into_owned(),
            packed_bytes: read_u32(bytes, at + 2 + NAME_BYTES)? as usize,
            start: at + header_bytes,
        })
    }
}

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let mut at = 0;
    while bytes.get(at..at + 2) != Some(&[MARK, 0]) {
        // Some writers leave out the end mark.
        if at >= bytes.len() {
            return Ok(());
        }
        let header = Header::parse(bytes, at).ok_or(Unscannable::Corrupt)?;
        at = header.start.saturating_add(header.packed_bytes);
        let packed = bytes.get(header.start..at).ok_or(Unscannable::Corrupt)?;
        if member(walk, node, &header, packed).is_break() {
            return Ok(());
        }
    }
    Ok(())
}

fn member(walk: &mut Walk<'_>, node: &Node, header: &Header, packed: &[u8]) -> Flow {
    /// Squashed members have no byte that says so.
    const SQUASHED_BITS: u32 = 13;
    let mut reader: Box<dyn Read + '_> = match header.method {
        1 | 2 => Box::new(packed),
        3 => Box::new(RunLength::new(packed)),
        4 => match Squeezed::new(packed) {
            Some(squeezed) => Box::new(RunLength::new(squeezed)),
            None => return refuse(walk, node, header, Unscannable::Corrupt),
        },
        8 => match packed.split_first().and_then(|(bits, codes)| LzwReader::with_width(codes, u32::from(*bits))) {
            Some(codes) => Box::new(RunLength::new(codes)),
            None => return refuse(walk, node, header, Unscannable::Corrupt),
        },
        9 => match LzwReader::with_width(packed, SQUASHED_BITS) {
            Some(codes) => Box::new(codes),
            None => return refuse(walk, node, header, Unscannable::Corrupt),
        },
        _ => return refuse(walk, node, header, Unscannable::Unsupported),
    };
    walk.member(node, &header.name, reader.as_mut())
}

fn refuse(walk: &mut Walk<'_>, node: &Node, header: &Header, reason: Unscannable) -> Flow {
    walk.note(node, reason, &header.name);
    walk.flow()
}

/// `0x90 N` repeats the byte before it so that N stand there in all; `0x90 0` is the byte 0x90. BinHex uses the same.
pub(super) struct RunLength<R> {
    source: R,
    last: u8,
    repeats: u32,
}

impl<R: Read> RunLength<R> {
    const MARK: u8 = 0x90;

    pub(super) fn new(source: R) -> Self {
        Self { source, last: 0, repeats: 0 }
    }

    fn byte(&mut self) -> std::io::Result<Option<u8>> {
        let mut byte = [0];
        Ok((self.source.read(&mut byte)? == 1).then_some(byte[0]))
    }

    fn next(&mut self) -> std::io::Result<Option<u8>> {
        loop {
            if self.repeats > 0 {
                self.repeats -= 1;
                return Ok(Some(self.last));
            }
            match self.byte()? {
                Some(Self::MARK) => match self.byte()? {
                    None => return Ok(None),
                    Some(0) => {
                        self.last = Self::MARK;
                        return Ok(Some(self.last));
                    }
                    Some(count) => self.repeats = u32::from(count) - 1,
                },
                Some(byte) => {
                    self.last = byte;
                    return Ok(Some(byte));
                }
                None => return Ok(None),
            }
        }
    }
}

impl<R: Read> Read for RunLength<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut count = 0;
        for slot in buffer.iter_mut() {
            let Some(byte) = self.next()? else { break };
            *slot = byte;
            count += 1;
        }
        Ok(count)
    }
}

/// Huffman codes of a tree that stands in front of them: pairs of children, negative for a leaf, 256 for the end.
struct Squeezed<'b> {
    nodes: Vec<[i16; 2]>,
    bytes: &'b [u8],
    bit: usize,
    is_done: bool,
}

impl<'b> Squeezed<'b> {
    /// One node less than the 257 symbols.
    const NODES_MAX: usize = 257;

    fn new(bytes: &'b [u8]) -> Option<Self> {
        let count = usize::from(read_u16(bytes, 0)?);
        let child = |at: usize| Some(read_u16(bytes, at)? as i16);
        let nodes: Option<Vec<_>> =
            (0..count.min(Self::NODES_MAX + 1)).map(|index| Some([child(2 + index * 4)?, child(4 + index * 4)?])).collect();
        let nodes = nodes.filter(|nodes| nodes.len() <= Self::NODES_MAX)?;
        Some(Self { bytes: bytes.get(2 + nodes.len() * 4..)?, is_done: nodes.is_empty(), nodes, bit: 0 })
    }

    fn symbol(&mut self) -> Option<u16> {
        let mut node = 0usize;
        loop {
            let byte = *self.bytes.get(self.bit / 8)?;
            let branch = usize::from(byte >> (self.bit % 8) & 1);
            self.bit += 1;
            let child = *self.nodes.get(node)?.get(branch)?;
            match usize::try_from(child) {
                Ok(next) => node = next,
                Err(_) => return Some(!child as u16),
            }
        }
    }
}

impl Read for Squeezed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        const END: u16 = 256;
        let mut count = 0;
        for slot in buffer.iter_mut() {
            if self.is_done {
                break;
            }
            match self.symbol() {
                Some(END) => self.is_done = true,
                Some(symbol) => {
                    *slot = symbol as u8;
                    count += 1;
                }
                None => return Err(std::io::ErrorKind::InvalidData.into()),
            }
        }
        Ok(count)
    }
}
