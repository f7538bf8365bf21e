//! Unix `compress` (.Z): LZW with 9 to 16 bit codes. Written here because the format is sixty lines and the crates for LZW
//! serve GIF and TIFF bit orders. It follows the layout of ncompress: codes come in groups of eight, and a change of
//! width drops the rest of a group. ARC's members are the same without the header. Zoo packs codes without groups, with a
//! code that ends the stream: `PlainLzwReader`.

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
    /// A whole `.Z` file: two bytes of magic, the flags, the codes.
    pub(crate) fn new(bytes: &'b [u8]) -> Option<Self> {
        let flags = *bytes.get(2)?;
        Self::start(bytes.get(3..)?, u32::from(flags & 0x1f), flags & BLOCK_MODE != 0)
    }

    /// Codes alone, of at most so many bits, in block mode.
    pub(crate) fn with_width(bytes: &'b [u8], width_max: u32) -> Option<Self> {
        Self::start(bytes, width_max, true)
    }

    fn start(bytes: &'b [u8], width_max: u32, block_mode: bool) -> Option<Self> {
        if !(CODE_BITS_MIN..=CODE_BITS_MAX).contains(&width_max) {
            return None;
        }
        let first_free = if block_mode { CLEAR + 1 } else { CLEAR };
        Some(Self {
            bytes,
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

/// LZW whose codes stand without gaps, least significant bit first; 256 clears the table and 257 ends the stream.
pub(crate) struct PlainLzwReader<'b> {
    bytes: &'b [u8],
    bit: usize,
    width: u32,
    width_max: u32,
    table: Vec<(u16, u8)>,
    previous: Option<(usize, u8)>,
    pending: Vec<u8>,
    is_done: bool,
}

impl<'b> PlainLzwReader<'b> {
    const END: usize = 257;
    const FIRST_FREE: usize = 258;

    pub(crate) fn new(bytes: &'b [u8], width_max: u32) -> Self {
        let table = (0..Self::FIRST_FREE).map(|code| (0, code.min(255) as u8)).collect();
        Self { bytes, bit: 0, width: CODE_BITS_MIN, width_max, table, previous: None, pending: Vec::new(), is_done: false }
    }

    fn next_code(&mut self) -> Option<usize> {
        let byte = |index: usize| usize::from(self.bytes.get(self.bit / 8 + index).copied().unwrap_or(0));
        if self.bit + self.width as usize > self.bytes.len() * 8 {
            return None;
        }
        let window = byte(0) | byte(1) << 8 | byte(2) << 16;
        let code = window >> (self.bit % 8) & ((1 << self.width) - 1);
        self.bit += self.width as usize;
        Some(code)
    }

    /// Decodes one code into `pending`.
    fn step(&mut self) -> std::io::Result<()> {
        let code = self.next_code().ok_or_else(corrupt)?;
        match code {
            CLEAR => {
                self.table.truncate(Self::FIRST_FREE);
                self.width = CODE_BITS_MIN;
                self.previous = None;
                return Ok(());
            }
            Self::END => {
                self.is_done = true;
                return Ok(());
            }
            _ => {}
        }
        let mut walked = code;
        if code >= self.table.len() {
            let (previous, first) = self.previous.filter(|_| code == self.table.len()).ok_or_else(corrupt)?;
            self.pending.push(first);
            walked = previous;
        }
        while walked > 255 {
            let (prefix, suffix) = *self.table.get(walked).ok_or_else(corrupt)?;
            self.pending.push(suffix);
            walked = usize::from(prefix);
        }
        let first = walked as u8;
        self.pending.push(first);
        if let Some((previous, _)) = self.previous.filter(|_| self.table.len() < 1 << self.width_max) {
            self.table.push((previous as u16, first));
            if self.table.len() == 1 << self.width && self.width < self.width_max {
                self.width += 1;
            }
        }
        self.previous = Some((code, first));
        Ok(())
    }
}

impl Read for PlainLzwReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut count = 0;
        for slot in buffer.iter_mut() {
            while self.pending.is_empty() && !self.is_done {
                self.step()?;
            }
            let Some(byte) = self.pending.pop() else { break };
            *slot = byte;
            count += 1;
        }
        Ok(count)
    }
}
