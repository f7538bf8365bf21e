//! ARJ: headers of the ARJ technical note (Robert Jung, TECHNOTE.DOC of arj 2.86). Methods 1 to 3 are the code of LHA with a
//! window of 26 KiB, read by `delharc`'s `lh7` decoder, whose code tables are wide enough; method 4 is decoded here.
//! Garbled members are encrypted; members that continue in another volume are not read whole.

use super::lzh::CodeReader;
use crate::format::{read_u16, read_u32};
use crate::report::Unscannable;
use crate::walk::{Flow, Node, Step, Walk};
use delharc::header::CompressionMethod;
use std::io::Read;

const MAGIC: &[u8] = b"\x60\xea";
/// HEADER_ID and the size of the basic header.
const PREFIX_BYTES: usize = 4;
/// The largest basic header that ARJ writes or reads.
const HEADER_BYTES_MAX: usize = 2600;
const HEADER_BYTES_MIN: usize = 30;
const CRC_BYTES: usize = 4;
const FLAG_GARBLED: u8 = 1;
const FLAG_CONTINUED: u8 = 4 | 8;

/// A main header (file type 2) whose size is plausible; `60 EA` alone is a coincidence.
pub(crate) fn is_arj(bytes: &[u8]) -> bool {
    const TYPE_MAIN: u8 = 2;
    Header::parse(bytes, 0).is_some_and(|header| header.kind == TYPE_MAIN && header.method <= 9)
}

struct Header {
    flags: u8,
    method: u8,
    kind: u8,
    packed_bytes: usize,
    plain_bytes: u64,
    name: String,
    next: usize,
}

impl Header {
    fn parse(bytes: &[u8], at: usize) -> Option<Header> {
        let size = usize::from(read_u16(bytes, at + 2)?);
        let is_sane = bytes.get(at..)?.starts_with(MAGIC) && (HEADER_BYTES_MIN..=HEADER_BYTES_MAX).contains(&size);
        let body = bytes.get(at + PREFIX_BYTES..at + PREFIX_BYTES + size).filter(|_| is_sane)?;
        let name = body.get(usize::from(*body.first()?)..)?.split(|byte| *byte == 0).next()?;
        Some(Header {
            flags: *body.get(4)?,
            method: *body.get(5)?,
            kind: *body.get(6)?,
            packed_bytes: read_u32(body, 12)? as usize,
            plain_bytes: u64::from(read_u32(body, 16)?),
            name: String::from_utf8_lossy(name).into_owned(),
            next: extended_end(bytes, at + PREFIX_BYTES + size + CRC_BYTES)?,
        })
    }
}

/// Extended headers follow, each with its size and checksum, ended by a size of zero.
fn extended_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let size = usize::from(read_u16(bytes, at)?);
        at += 2;
        if size == 0 {
            return Some(at);
        }
        at += size + CRC_BYTES;
    }
}

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let main = Header::parse(bytes, 0).ok_or(Unscannable::Corrupt)?;
    let mut at = main.next;
    loop {
        if bytes.get(at..at + PREFIX_BYTES).is_some_and(|end| end == b"\x60\xea\0\0") {
            return Ok(());
        }
        let header = Header::parse(bytes, at).ok_or(Unscannable::Corrupt)?;
        let packed = bytes.get(header.next..).unwrap_or_default();
        at = header.next.saturating_add(header.packed_bytes);
        if member(walk, node, &header, packed.get(..header.packed_bytes).unwrap_or(packed)).is_break() {
            return Ok(());
        }
        if at > bytes.len() {
            return Err(Unscannable::Corrupt);
        }
    }
}

fn member(walk: &mut Walk<'_>, node: &Node, header: &Header, packed: &[u8]) -> Flow {
    const TYPE_FILE_MAX: u8 = 1;
    if header.kind > TYPE_FILE_MAX {
        return walk.flow();
    }
    if header.flags & FLAG_GARBLED != 0 {
        walk.note(node, Unscannable::Encrypted, &header.name);
        return walk.flow();
    }
    if header.flags & FLAG_CONTINUED != 0 {
        walk.note(node, Unscannable::Unsupported, &header.name);
    }
    match header.method {
        0 => walk.slice(node, &header.name, packed),
        1..=3 => {
            let mut reader = CodeReader::new(CompressionMethod::Lh7, packed, header.plain_bytes);
            walk.member(node, &header.name, &mut reader)
        }
        4 => walk.member(node, &header.name, &mut Fastest::new(packed, header.plain_bytes)),
        _ => {
            walk.note(node, Unscannable::Unsupported, &header.name);
            walk.flow()
        }
    }
}

/// Method 4: no entropy code but lengths and distances whose widths are written in unary.
struct Fastest<'b> {
    bytes: &'b [u8],
    bit: usize,
    left: u64,
    window: Vec<u8>,
    given: usize,
}

impl<'b> Fastest<'b> {
    /// Distances stay below this.
    const WINDOW_BYTES: usize = 26_624;

    fn new(bytes: &'b [u8], plain_bytes: u64) -> Self {
        Self { bytes, bit: 0, left: plain_bytes, window: Vec::new(), given: 0 }
    }

    fn bits(&mut self, count: u32) -> Option<usize> {
        let mut value = 0;
        for _ in 0..count {
            let byte = *self.bytes.get(self.bit / 8)?;
            value = value << 1 | usize::from(byte >> (7 - self.bit % 8) & 1);
            self.bit += 1;
        }
        Some(value)
    }

    /// A number of `first..=last` bits, each longer width announced by a one.
    fn number(&mut self, first: u32, last: u32) -> Option<usize> {
        let (mut width, mut base) = (first, 0);
        while width < last && self.bits(1)? == 1 {
            base += 1 << width;
            width += 1;
        }
        Some(base + self.bits(width)?)
    }

    fn step(&mut self) -> Option<()> {
        const LENGTH_MIN: usize = 3;
        let code = self.number(0, 7)?;
        if code == 0 {
            let literal = self.bits(8)? as u8;
            self.window.push(literal);
            self.left -= 1;
            return Some(());
        }
        let distance = self.number(9, 13)? + 1;
        let start = self.window.len().checked_sub(distance)?;
        let length = (code - 1 + LENGTH_MIN).min(usize::try_from(self.left).unwrap_or(usize::MAX));
        for index in 0..length {
            let byte = *self.window.get(start + index)?;
            self.window.push(byte);
        }
        self.left -= length as u64;
        Some(())
    }
}

impl Read for Fastest<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.window.len() - self.given < buffer.len() && self.left > 0 {
            self.step().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidData))?;
        }
        let ready = self.window.get(self.given..).unwrap_or_default();
        let count = ready.len().min(buffer.len());
        buffer.iter_mut().zip(ready).for_each(|(slot, byte)| *slot = *byte);
        self.given += count;
        if self.given > 2 * Self::WINDOW_BYTES {
            self.window.drain(..self.given - Self::WINDOW_BYTES);
            self.given = Self::WINDOW_BYTES;
        }
        Ok(count)
    }
}
