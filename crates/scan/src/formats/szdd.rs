//! Files packed by Microsoft's COMPRESS.EXE: SZDD (LZSS over a window of 4 KiB), its QBasic variant, and KWAJ as far as it is
//! stored, inverted, LZSS or MSZIP. The layouts are those that the libmspack project documents.

use crate::format::{read_u16, read_u32};
use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};
use std::io::Read;

pub(crate) const SZDD: &[u8] = b"SZDD\x88\xf0\x27\x33";
pub(crate) const SZ: &[u8] = b"SZ \x88\xf0\x27\x33\xd1";
pub(crate) const KWAJ: &[u8] = b"KWAJ\x88\xf0\x27\xd1";
const WINDOW_BYTES: usize = 4096;

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    /// Where writing begins in the window.
    const START_SZDD: usize = WINDOW_BYTES - 16;
    const START_SZ: usize = WINDOW_BYTES - 18;
    let (head, start, size_at) = if bytes.starts_with(SZ) { (12, START_SZ, 8) } else { (14, START_SZDD, 10) };
    let plain_bytes = read_u32(bytes, size_at).ok_or(Unscannable::Corrupt)?;
    let packed = bytes.get(head..).ok_or(Unscannable::Corrupt)?;
    let _ = walk.member(node, "content", &mut Lzss::new(packed, start, u64::from(plain_bytes)));
    Ok(())
}

pub(crate) fn open_kwaj(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let method = read_u16(bytes, 8).ok_or(Unscannable::Corrupt)?;
    let start = usize::from(read_u16(bytes, 10).ok_or(Unscannable::Corrupt)?);
    let packed = bytes.get(start..).ok_or(Unscannable::Corrupt)?;
    let mut reader: Box<dyn Read + '_> = match method {
        0 => Box::new(packed),
        1 => Box::new(std::io::Cursor::new(packed.iter().map(|byte| !byte).collect::<Vec<u8>>())),
        2 => Box::new(Lzss::new(packed, WINDOW_BYTES - 18, u64::MAX)),
        4 => Box::new(MsZip { packed, current: None }),
        _ => return Err(Unscannable::Unsupported),
    };
    let _ = walk.member(node, "content", reader.as_mut());
    Ok(())
}

struct Lzss<'b> {
    packed: &'b [u8],
    window: [u8; WINDOW_BYTES],
    at: usize,
    flags: u16,
    copy: (usize, usize),
    left: u64,
}

impl<'b> Lzss<'b> {
    fn new(packed: &'b [u8], start: usize, plain_bytes: u64) -> Self {
        Self { packed, window: [b' '; WINDOW_BYTES], at: start, flags: 1, copy: (0, 0), left: plain_bytes }
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.packed.split_first()?;
        self.packed = rest;
        Some(*byte)
    }

    fn next(&mut self) -> Option<u8> {
        if self.copy.1 == 0 {
            if self.flags == 1 {
                self.flags = u16::from(self.byte()?) | 0x100;
            }
            let is_literal = self.flags & 1 == 1;
            self.flags >>= 1;
            let low = self.byte()?;
            if is_literal {
                return Some(self.put(low));
            }
            let high = self.byte()?;
            self.copy = (usize::from(low) | usize::from(high & 0xf0) << 4, usize::from(high & 15) + 3);
        }
        let byte = self.window[self.copy.0 % WINDOW_BYTES];
        self.copy = (self.copy.0 + 1, self.copy.1 - 1);
        Some(self.put(byte))
    }

    fn put(&mut self, byte: u8) -> u8 {
        self.window[self.at % WINDOW_BYTES] = byte;
        self.at += 1;
        byte
    }
}

impl Read for Lzss<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut count = 0;
        for slot in buffer.iter_mut() {
            if self.left == 0 {
                break;
            }
            let Some(byte) = self.next() else { break };
            self.left -= 1;
            *slot = byte;
            count += 1;
        }
        Ok(count)
    }
}

/// Blocks of a size, `CK`, and a deflate stream each.
struct MsZip<'b> {
    packed: &'b [u8],
    current: Option<flate2::bufread::DeflateDecoder<&'b [u8]>>,
}

impl Read for MsZip<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            if let Some(block) = self.current.as_mut() {
                let count = block.read(buffer)?;
                if count > 0 {
                    return Ok(count);
                }
                self.current = None;
            }
            let size = read_u16(self.packed, 0).map_or(0, usize::from);
            let Some(block) = self.packed.get(2..2 + size).and_then(|block| block.strip_prefix(b"CK")) else { return Ok(0) };
            self.packed = self.packed.get(2 + size..).unwrap_or_default();
            self.current = Some(flate2::bufread::DeflateDecoder::new(block));
        }
    }
}
