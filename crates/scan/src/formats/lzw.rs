//! Unix `compress` (.Z): LZW with 9 to 16 bit codes. Written here because the format is sixty lines and the crates for LZW
//! serve GIF and TIFF bit orders. It follows the layout of ncompress: codes come in groups of eight, and a change of
//! width drops the rest of a group.

use std::io::Read;

const CODE_BITS_MIN: u32 = 9;
const CODE_BITS_MAX: u32 = 16;
const CLEAR: usize = 256;
/// Flag byte: bit 7 says that code 256 clears the table.
const BLOCK_MODE: u8 = 0x80;

pub(crate) struct LzwReader<'b> {
    bytes: &'b [u8],
    bit: usize,
    group_start: usize,
    width: u32,
    width_max: u32,
    block_mode: bool,
    prefix: Vec<u16>,
    suffix: Vec<u8>,
    previous: Option<(usize, u8)>,
    /// Decoded bytes not handed out yet, last first.
    pending: Vec<u8>,
}

impl<'b> LzwReader<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Option<Self> {
        let flags = *bytes.get(2)?;
        let width_max = u32::from(flags & 0x1f);
        if !(CODE_BITS_MIN..=CODE_BITS_MAX).contains(&width_max) {
            return None;
        }
        let block_mode = flags & BLOCK_MODE != 0;
        let first_free = if block_mode { CLEAR + 1 } else { CLEAR };
        Some(Self {
            bytes: bytes.get(3..)?,
            bit: 0,
            group_start: 0,
            width: CODE_BITS_MIN,
            width_max,
            block_mode,
            prefix: vec![0; first_free],
            suffix: (0..first_free).map(|code| code.min(255) as u8).collect(),
            previous: None,
            pending: Vec::new(),
        })
    }

    /// Skips to the end of the current group of eight codes.
    fn align(&mut self) {
        let group_bits = self.width as usize * 8;
        let used = self.bit - self.group_start;
        self.bit = self.group_start + used.div_ceil(group_bits) * group_bits;
        self.group_start = self.bit;
    }

    fn next_code(&mut self) -> Option<usize> {
        if self.prefix.len() > (1 << self.width) - 1 && self.width < self.width_max {
            self.align();
            self.width += 1;
        }
        let window = (0..3).map(|index| self.bytes.get(self.bit / 8 + index).copied());
        let mut value = 0usize;
        for (index, byte) in window.enumerate() {
            value |= usize::from(byte.unwrap_or(0)) << (8 * index);
        }
        if self.bit + self.width as usize > self.bytes.len() * 8 {
            return None;
        }
        let code = (value >> (self.bit % 8)) & ((1 << self.width) - 1);
        self.bit += self.width as usize;
        Some(code)
    }

    /// Decodes one code into `pending`; `false` at the end.
    fn step(&mut self) -> std::io::Result<bool> {
        let Some(code) = self.next_code() else { return Ok(false) };
        if code == CLEAR && self.block_mode {
            self.align();
            self.width = CODE_BITS_MIN;
            self.prefix.truncate(CLEAR + 1);
            self.suffix.truncate(CLEAR + 1);
            self.previous = None;
            return Ok(true);
        }
        let mut walked = code;
        if code >= self.prefix.len() {
            let (previous, first) = self.previous.filter(|_| code == self.prefix.len()).ok_or_else(corrupt)?;
            self.pending.push(first);
            walked = previous;
        }
        while walked > 255 {
            self.pending.push(*self.suffix.get(walked).ok_or_else(corrupt)?);
            walked = usize::from(*self.prefix.get(walked).ok_or_else(corrupt)?);
        }
        let first = walked as u8;
        self.pending.push(first);
        if let Some((previous, _)) = self.previous.filter(|_| self.prefix.len() < 1 << self.width_max) {
            self.prefix.push(previous as u16);
            self.suffix.push(first);
        }
        self.previous = Some((code, first));
        Ok(true)
    }
}

fn corrupt() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, "code outside the table")
}

impl Read for LzwReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut count = 0;
        for slot in buffer.iter_mut() {
            while self.pending.is_empty() {
                if !self.step()? {
                    return Ok(count);
                }
            }
            let Some(byte) = self.pending.pop() else { return Ok(count) };
            *slot = byte;
            count += 1;
        }
        Ok(count)
    }
}
