//! lzop files: a header, then blocks of LZO1X with their sizes and checksums (the layout of lzop 1.04). The decoder is
//! written here from the description in the Linux documentation (staging/lzo.rst); checksums are not verified.

use super::xar::{be_u16, be_u32};
use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};
use std::io::Read;

pub(crate) const SIGNATURE: &[u8] = b"\x89LZO\0\r\n\x1a\n";
/// lzop never writes larger blocks.
const BLOCK_BYTES_MAX: usize = 64 << 20;

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let (flags, start) = header(bytes).ok_or(Unscannable::Corrupt)?;
    let rest = bytes.get(start..).ok_or(Unscannable::Corrupt)?;
    let _ = walk.member(node, "content", &mut Blocks { rest, flags, ready: Vec::new(), given: 0 });
    Ok(())
}

/// The flags, and where the first block begins.
fn header(bytes: &[u8]) -> Option<(u32, usize)> {
    const VERSION_LEVEL: u16 = 0x0940;
    const FLAG_FILTER: u32 = 0x800;
    const FLAG_EXTRA: u32 = 0x40;
    let version = be_u16(bytes, 9)?;
    let is_new = version >= VERSION_LEVEL;
    // Version, library version, the version needed, method and level.
    let mut at = if is_new { 17 } else { 14 };
    let flags = be_u32(bytes, at)?;
    at += 4 + if flags & FLAG_FILTER != 0 { 4 } else { 0 };
    // Mode, and time of one or two words.
    at += if is_new { 12 } else { 8 };
    at += 1 + usize::from(*bytes.get(at)?) + 4;
    if flags & FLAG_EXTRA != 0 {
        at += 4 + be_u32(bytes, at)? as usize + 4;
    }
    Some((flags, at))
}

struct Blocks<'b> {
    rest: &'b [u8],
    flags: u32,
    ready: Vec<u8>,
    given: usize,
}

impl Blocks<'_> {
    /// Decodes the next block; `false` at the end.
    fn advance(&mut self) -> Option<bool> {
        let plain_bytes = be_u32(self.rest, 0)? as usize;
        if plain_bytes == 0 {
            return Some(false);
        }
        let packed_bytes = be_u32(self.rest, 4)? as usize;
        let checks = |mask: u32| (self.flags & mask).count_ones() as usize * 4;
        // Adler and CRC of the plain bytes, then of the packed ones where those differ.
        let is_packed = packed_bytes < plain_bytes;
        let at = 8 + checks(0x101) + if is_packed { checks(0x202) } else { 0 };
        let block = self.rest.get(at..at.checked_add(packed_bytes)?).filter(|_| plain_bytes <= BLOCK_BYTES_MAX)?;
        self.ready = if is_packed { decode(block, plain_bytes)? } else { block.to_vec() };
        self.given = 0;
        self.rest = self.rest.get(at + packed_bytes..)?;
        Some(true)
    }
}

impl Read for Blocks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.given == self.ready.len() && !self.advance().ok_or(std::io::ErrorKind::InvalidData)? {
            return Ok(0);
        }
        let ready = self.ready.get(self.given..).unwrap_or_default();
        let count = ready.len().min(buffer.len());
        buffer.iter_mut().zip(ready).for_each(|(slot, byte)| *slot = *byte);
        self.given += count;
        Ok(count)
    }
}

struct Lzo<'b> {
    packed: &'b [u8],
    at: usize,
    output: Vec<u8>,
    plain_bytes: usize,
}

impl Lzo<'_> {
    fn byte(&mut self) -> Option<usize> {
        let byte = *self.packed.get(self.at)?;
        self.at += 1;
        Some(usize::from(byte))
    }

    /// A length whose low bits were all zero: every zero byte adds 255.
    fn long(&mut self, base: usize) -> Option<usize> {
        let mut length = base;
        loop {
            match self.byte()? {
                0 => length += 255,
                last => return Some(length + last),
            }
        }
    }

    fn literals(&mut self, count: usize) -> Option<()> {
        let run =
            self.packed.get(self.at..self.at.checked_add(count)?).filter(|_| self.output.len() + count <= self.plain_bytes)?;
        self.output.extend_from_slice(run);
        self.at += count;
        Some(())
    }

    fn copy(&mut self, distance: usize, length: usize) -> Option<()> {
        let start = self.output.len().checked_sub(distance).filter(|_| self.output.len() + length <= self.plain_bytes)?;
        for index in 0..length {
            let byte = *self.output.get(start + index)?;
            self.output.push(byte);
        }
        Some(())
    }
}

/// One LZO1X stream. `state` is how many literals the last instruction copied: 0 to 3, or 4 for a long run.
fn decode(packed: &[u8], plain_bytes: usize) -> Option<Vec<u8>> {
    let mut lzo = Lzo { packed, at: 0, output: Vec::with_capacity(plain_bytes.min(1 << 20)), plain_bytes };
    let mut state = 0;
    if let first @ 18.. = usize::from(*packed.first()?) {
        lzo.at = 1;
        state = first - 17;
        lzo.literals(state)?;
        state = state.min(4);
    }
    loop {
        let code = lzo.byte()?;
        let (distance, length, tail) = match code {
            0..=15 if state == 0 => {
                let count = if code == 0 { lzo.long(15)? } else { code } + 3;
                lzo.literals(count)?;
                state = 4;
                continue;
            }
            0..=15 => {
                let high = lzo.byte()?;
                let base = (high << 2) + (code >> 2);
                if state == 4 { (base + 2049, 3, code & 3) } else { (base + 1, 2, code & 3) }
            }
            16..=31 => {
                let length = if code & 7 == 0 { lzo.long(7)? } else { code & 7 } + 2;
                let low = lzo.byte()? | lzo.byte()? << 8;
                let distance = ((code & 8) << 11) + (low >> 2);
                if distance == 0 {
                    return Some(lzo.output);
                }
                (distance + 16_384, length, low & 3)
            }
            32..=63 => {
                let length = if code & 31 == 0 { lzo.long(31)? } else { code & 31 } + 2;
                let low = lzo.byte()? | lzo.byte()? << 8;
                ((low >> 2) + 1, length, low & 3)
            }
            _ => {
                let high = lzo.byte()?;
                let length = if code < 128 { 3 + (code >> 5 & 1) } else { 5 + (code >> 5 & 3) };
                ((high << 3) + (code >> 2 & 7) + 1, length, code & 3)
            }
        };
        lzo.copy(distance, length)?;
        lzo.literals(tail)?;
        state = tail;
    }
}
