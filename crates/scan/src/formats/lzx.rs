//! LZX ([MS-PATCH] section 2, and the variant of WIM images): a canonical Huffman code over literals and matches with three
//! remembered distances. Decodes one independent run: a WIM chunk, or the blocks between two resets of a CHM file. And
//! XPRESS with Huffman codes ([MS-XCA] section 2.2), the other method of WIM.

/// Where the two formats differ.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavour {
    /// Block sizes of 24 bits, a header bit for translation, frames aligned to 16 bits.
    Help,
    /// Block sizes of one or 16 bits; calls are always translated.
    Image,
}

const CODE_BITS_MAX: usize = 16;
const LITERALS: usize = 256;
const LENGTHS: usize = 249;
const FRAME_BYTES: usize = 32 << 10;

/// Bits in 16-bit little-endian words, most significant first.
struct Bits<'b> {
    bytes: &'b [u8],
    at: usize,
    buffer: u32,
    count: u32,
}

impl Bits<'_> {
    /// Words behind the end read as zeros, as decoders look ahead; `overrun` tells.
    fn fill(&mut self, count: u32) {
        while self.count < count {
            let word = crate::format::read_u16(self.bytes, self.at).unwrap_or(0);
            self.at += 2;
            self.buffer |= u32::from(word) << (16 - self.count);
            self.count += 16;
        }
    }

    fn peek(&mut self, count: u32) -> u32 {
        self.fill(count);
        if count == 0 { 0 } else { self.buffer >> (32 - count) }
    }

    fn skip(&mut self, count: u32) {
        self.buffer = self.buffer.checked_shl(count).unwrap_or(0);
        self.count -= count;
    }

    fn take(&mut self, count: u32) -> usize {
        if count > 16 {
            let high = self.take(count - 16);
            return high << 16 | self.take(16);
        }
        let value = self.peek(count);
        self.skip(count);
        value as usize
    }

    /// Bytes of look-ahead that no encoder leaves out.
    fn overrun(&self) -> bool {
        self.at > self.bytes.len() + 4
    }

    /// Drops the rest of a word.
    fn align(&mut self) {
        let odd = self.count % 16;
        self.skip(odd);
    }
}

/// A canonical code, decoded by comparing with the last code of each length.
pub(super) struct Code {
    limits: [u32; CODE_BITS_MAX + 1],
    offsets: [u32; CODE_BITS_MAX + 1],
    symbols: Vec<u16>,
}

impl Code {
    pub(super) fn new(lengths: &[u8]) -> Option<Code> {
        let mut counts = [0u32; CODE_BITS_MAX + 1];
        for length in lengths {
            *counts.get_mut(usize::from(*length))? += 1;
        }
        let mut code = 0u32;
        let mut index = 0u32;
        let mut limits = [0; CODE_BITS_MAX + 1];
        let mut offsets = [0; CODE_BITS_MAX + 1];
        for length in 1..=CODE_BITS_MAX {
            offsets[length] = index.wrapping_sub(code);
            code += counts[length];
            index += counts[length];
            limits[length] = code << (CODE_BITS_MAX - length);
            if limits[length] > 1 << CODE_BITS_MAX {
                return None;
            }
            code <<= 1;
        }
        let mut symbols: Vec<u16> =
            (0..lengths.len()).filter(|symbol| lengths[*symbol] > 0).map(|symbol| symbol as u16).collect();
        symbols.sort_by_key(|symbol| lengths[usize::from(*symbol)]);
        Some(Code { limits, offsets, symbols })
    }

    /// The symbol at the head of 16 bits, and how many bits it takes.
    pub(super) fn decode(&self, window: u32) -> Option<(u16, u32)> {
        let length = (1..=CODE_BITS_MAX).find(|length| window < self.limits[*length])?;
        let index = (window >> (CODE_BITS_MAX - length)).wrapping_add(self.offsets[length]);
        Some((*self.symbols.get(index as usize)?, length as u32))
    }
}

fn symbol(bits: &mut Bits<'_>, code: &Code) -> Option<u16> {
    let (symbol, length) = code.decode(bits.peek(16))?;
    bits.skip(length);
    Some(symbol)
}

struct Decoder<'b> {
    bits: Bits<'b>,
    flavour: Flavour,
    output: Vec<u8>,
    main: Vec<u8>,
    lengths: Vec<u8>,
    recent: [usize; 3],
}

/// Decodes a run of `plain_bytes`; `None` if the data is damaged.
pub(super) fn decode(packed: &[u8], plain_bytes: usize, window_bits: u32, flavour: Flavour) -> Option<Vec<u8>> {
    let slots = match window_bits {
        15..=19 => window_bits as usize * 2,
        20 => 42,
        21 => 50,
        _ => return None,
    };
    let mut decoder = Decoder {
        bits: Bits { bytes: packed, at: 0, buffer: 0, count: 0 },
        flavour,
        output: Vec::with_capacity(plain_bytes.min(1 << 20)),
        main: vec![0; LITERALS + slots * 8],
        lengths: vec![0; LENGTHS],
        recent: [1; 3],
    };
    let mut call_bytes = 12_000_000;
    if flavour == Flavour::Help {
        let is_translated = decoder.bits.take(1) == 1;
        call_bytes = if is_translated { decoder.bits.take(32) } else { 0 };
    }
    while decoder.output.len() < plain_bytes {
        decoder.block(plain_bytes)?;
    }
    if call_bytes > 0 {
        decoder.output.chunks_mut(FRAME_BYTES).enumerate().for_each(|(frame, chunk)| {
            translate_calls(chunk, frame * FRAME_BYTES, call_bytes);
        });
    }
    Some(decoder.output)
}

impl Decoder<'_> {
    fn block(&mut self, plain_bytes: usize) -> Option<()> {
        let kind = self.bits.take(3);
        let size = match self.flavour {
            Flavour::Help => self.bits.take(24),
            Flavour::Image if self.bits.take(1) == 1 => FRAME_BYTES,
            Flavour::Image => self.bits.take(16),
        };
        let end = self
            .output
            .len()
            .checked_add(size)
            .filter(|end| size > 0 && *end <= plain_bytes.max(self.output.len()) + FRAME_BYTES)?;
        let end = end.min(plain_bytes);
        match kind {
            1 => self.coded(end, None),
            2 => {
                let aligned: Vec<u8> = (0..8).map(|_| self.bits.take(3) as u8).collect();
                self.coded(end, Some(Code::new(&aligned)?))
            }
            3 => self.plain(end, size),
            _ => None,
        }
    }

    fn coded(&mut self, end: usize, aligned: Option<Code>) -> Option<()> {
        let mut main = std::mem::take(&mut self.main);
        let mut lengths = std::mem::take(&mut self.lengths);
        let (literals, matches) = main.split_at_mut_checked(LITERALS)?;
        self.read_lengths(literals)?;
        self.read_lengths(matches)?;
        self.read_lengths(&mut lengths)?;
        let main_code = Code::new(&main)?;
        let length_code = Code::new(&lengths)?;
        self.main = main;
        self.lengths = lengths;
        while self.output.len() < end {
            if self.bits.overrun() {
                return None;
            }
            let symbol = usize::from(symbol(&mut self.bits, &main_code)?);
            match symbol.checked_sub(LITERALS) {
                None => self.output.push(symbol as u8),
                Some(found) => self.copy(found, &length_code, aligned.as_ref(), end)?,
            }
            self.align_frame();
        }
        Some(())
    }

    /// Each frame of a help file begins on a word.
    fn align_frame(&mut self) {
        if self.flavour == Flavour::Help && self.output.len().is_multiple_of(FRAME_BYTES) {
            self.bits.align();
        }
    }

    fn copy(&mut self, found: usize, length_code: &Code, aligned: Option<&Code>, end: usize) -> Option<()> {
        const LENGTH_MIN: usize = 2;
        let mut length = found & 7;
        if length == 7 {
            length += usize::from(symbol(&mut self.bits, length_code)?);
        }
        length += LENGTH_MIN;
        let distance = match found >> 3 {
            slot @ 0..=2 => {
                self.recent.swap(0, slot);
                self.recent[0]
            }
            slot => {
                let (base, extra) = slot_base(slot);
                let mut distance = base - 2;
                match aligned {
                    Some(code) if extra >= 3 => {
                        distance += self.bits.take(extra - 3) << 3;
                        distance += usize::from(symbol(&mut self.bits, code)?);
                    }
                    _ => distance += self.bits.take(extra),
                }
                self.recent = [distance, self.recent[0], self.recent[1]];
                distance
            }
        };
        let start = self.output.len().checked_sub(distance).filter(|_| distance > 0)?;
        for index in 0..length.min(end - self.output.len()) {
            let byte = *self.output.get(start + index)?;
            self.output.push(byte);
        }
        Some(())
    }

    /// Bytes as they are, behind padding to a word and the three distances.
    fn plain(&mut self, end: usize, size: usize) -> Option<()> {
        self.bits.fill(1);
        self.bits.align();
        let mut at = self.bits.at.checked_sub(self.bits.count as usize / 8)?;
        for slot in 0..3 {
            self.recent[slot] = crate::format::read_u32(self.bits.bytes, at + slot * 4)? as usize;
        }
        at += 12;
        let body = self.bits.bytes.get(at..at + (end - self.output.len()))?;
        self.output.extend_from_slice(body);
        at += size + size % 2;
        self.bits = Bits { bytes: self.bits.bytes, at, buffer: 0, count: 0 };
        Some(())
    }

    /// Code lengths as differences from the last block's, under a code of their own.
    fn read_lengths(&mut self, lengths: &mut [u8]) -> Option<()> {
        let pre: Vec<u8> = (0..20).map(|_| self.bits.take(4) as u8).collect();
        let pre = Code::new(&pre)?;
        let mut at = 0;
        while at < lengths.len() {
            if self.bits.overrun() {
                return None;
            }
            let code = symbol(&mut self.bits, &pre)?;
            let (count, value) = match code {
                17 => (4 + self.bits.take(4), None),
                18 => (20 + self.bits.take(5), None),
                19 => {
                    let count = 4 + self.bits.take(1);
                    (count, Some(symbol(&mut self.bits, &pre)?))
                }
                delta => (1, Some(delta)),
            };
            for _ in 0..count {
                // Writers let a run of zeros reach over the end.
                let Some(length) = lengths.get_mut(at) else { break };
                *length = value.map_or(Some(0), |delta| u8::try_from((u16::from(*length) + 17).checked_sub(delta)? % 17).ok())?;
                at += 1;
            }
        }
        Some(())
    }
}

/// First distance of a position slot, and its extra bits.
fn slot_base(slot: usize) -> (usize, u32) {
    let extra = |slot: usize| if slot < 4 { 0 } else { (slot / 2 - 1).min(17) as u32 };
    ((0..slot).map(|below| 1usize << extra(below)).sum(), extra(slot))
}

/// Undoes the translation of x86 call targets ([MS-PATCH] section 2.2).
fn translate_calls(chunk: &mut [u8], start: usize, call_bytes: usize) {
    const CALL: u8 = 0xe8;
    const TAIL_BYTES: usize = 10;
    let mut at = 0;
    while at + TAIL_BYTES < chunk.len() {
        if chunk[at] != CALL {
            at += 1;
            continue;
        }
        let Some(target) = crate::format::read_u32(chunk, at + 1).map(|target| i64::from(target as i32)) else { return };
        let position = (start + at) as i64;
        let size = call_bytes as i64;
        if target >= -position && target < size {
            let relative = if target >= 0 { target - position } else { target + size };
            chunk[at + 1..at + 5].copy_from_slice(&(relative as i32).to_le_bytes());
        }
        at += 5;
    }
}

/// XPRESS with Huffman codes: 512 code lengths of four bits, then codes with bytes between the words.
pub(super) fn xpress(packed: &[u8], plain_bytes: usize) -> Option<Vec<u8>> {
    const TABLE_BYTES: usize = 256;
    const LENGTH_MIN: usize = 3;
    let lengths: Vec<u8> = packed.get(..TABLE_BYTES)?.iter().flat_map(|pair| [pair & 15, pair >> 4]).collect();
    let code = Code::new(&lengths)?;
    let word = |at: usize| u32::from(crate::format::read_u16(packed, at).unwrap_or(0));
    let mut at = TABLE_BYTES;
    let mut buffer = word(at) << 16 | word(at + 2);
    at += 4;
    let mut spare = 16i32;
    let mut output = Vec::with_capacity(plain_bytes.min(1 << 20));
    let mut skip = |count: u32, at: &mut usize, buffer: &mut u32| {
        *buffer = buffer.checked_shl(count).unwrap_or(0);
        spare -= count as i32;
        if spare < 0 {
            *buffer |= word(*at) << -spare;
            spare += 16;
            *at += 2;
        }
    };
    while output.len() < plain_bytes {
        if at > packed.len() + 4 {
            return None;
        }
        let (symbol, bits) = code.decode(buffer >> 16)?;
        skip(bits, &mut at, &mut buffer);
        let Some(found) = usize::from(symbol).checked_sub(LITERALS) else {
            output.push(symbol as u8);
            continue;
        };
        let mut length = found & 15;
        if length == 15 {
            length = usize::from(*packed.get(at)?);
            at += 1;
            if length == 255 {
                length = usize::from(crate::format::read_u16(packed, at)?).checked_sub(15)?;
                at += 2;
            }
            length += 15;
        }
        length += LENGTH_MIN;
        let distance_bits = (found >> 4) as u32;
        let distance = if distance_bits == 0 { 1 } else { (buffer >> (32 - distance_bits)) as usize + (1 << distance_bits) };
        skip(distance_bits, &mut at, &mut buffer);
        let start = output.len().checked_sub(distance)?;
        for index in 0..length.min(plain_bytes - output.len()) {
            let byte = *output.get(start + index)?;
            output.push(byte);
        }
    }
    Some(output)
}
