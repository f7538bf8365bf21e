//! ACE (Marcel Lemke; the format as the acefile project documents it): stored members, LZ77 of version 1, and of the blocked
//! coding of version 2 the modes for plain and for delta-coded data. Its modes for programs, sound and pictures are named as
//! unsupported; so are members that continue in another volume. Nothing is decrypted.

use crate::format::{find, read_u16, read_u32};
use crate::report::Unscannable;
use crate::walk::{Flow, Node, Step, Walk};
use std::io::Read;

/// The signature stands behind checksum, size, type and flags of the main header.
pub(crate) const SIGNATURE: &[u8] = b"**ACE**";
pub(crate) const SIGNATURE_OFFSET: usize = 7;
/// Checksum and size; the size counts what follows.
const PREFIX_BYTES: usize = 4;
const TYPE_FILE: u8 = 1;
const FLAG_ADDED_SIZE: u16 = 1;
const FLAG_CONTINUED: u16 = 0x1000 | 0x2000;
const FLAG_ENCRYPTED: u16 = 0x4000;
const FLAG_SOLID: u16 = 0x8000;

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    // A self-extractor is carved where its header begins; an archive begins there too.
    let start = find(bytes, SIGNATURE).and_then(|at| at.checked_sub(SIGNATURE_OFFSET)).ok_or(Unscannable::Corrupt)?;
    let mut at = start + PREFIX_BYTES + usize::from(read_u16(bytes, start + 2).ok_or(Unscannable::Corrupt)?);
    let mut decoder = Decoder::default();
    while at < bytes.len() {
        let size = usize::from(read_u16(bytes, at + 2).ok_or(Unscannable::Corrupt)?);
        let header = bytes.get(at + PREFIX_BYTES..at + PREFIX_BYTES + size).ok_or(Unscannable::Corrupt)?;
        at += PREFIX_BYTES + size;
        let flags = read_u16(header, 1).ok_or(Unscannable::Corrupt)?;
        let added = if flags & FLAG_ADDED_SIZE != 0 { read_u32(header, 3).ok_or(Unscannable::Corrupt)? as usize } else { 0 };
        let body = bytes.get(at..at.saturating_add(added)).ok_or(Unscannable::Corrupt)?;
        at += added;
        if header.first() == Some(&TYPE_FILE)
            && member(walk, node, flags, header, body, &mut decoder).ok_or(Unscannable::Corrupt)?.is_break()
        {
            return Ok(());
        }
    }
    Ok(())
}

fn member(walk: &mut Walk<'_>, node: &Node, flags: u16, header: &[u8], body: &[u8], decoder: &mut Decoder) -> Option<Flow> {
    const ATTRIBUTE_DIRECTORY: u32 = 0x10;
    let plain_bytes = read_u32(header, 7)? as usize;
    let attributes = read_u32(header, 15)?;
    let method = *header.get(23)?;
    let name_bytes = usize::from(read_u16(header, 29)?);
    let name = String::from_utf8_lossy(header.get(31..31 + name_bytes)?).into_owned();
    if attributes & ATTRIBUTE_DIRECTORY != 0 {
        return Some(walk.flow());
    }
    let refusal = match () {
        () if flags & FLAG_ENCRYPTED != 0 => Some(Unscannable::Encrypted),
        () if flags & FLAG_CONTINUED != 0 => Some(Unscannable::Unsupported),
        () if plain_bytes as u64 > walk.budget.bytes_left() => return Some(walk.halt(Unscannable::SizeLimit)),
        () => None,
    };
    if let Some(reason) = refusal {
        walk.note(node, reason, &name);
        return Some(walk.flow());
    }
    if method == 0 {
        return Some(walk.slice(node, &name, body));
    }
    if flags & FLAG_SOLID == 0 {
        *decoder = Decoder::default();
    }
    let outcome = decoder.decode(body, plain_bytes, method == 2);
    let flow = walk.member(node, &name, &mut decoder.last(plain_bytes).take(plain_bytes as u64));
    if let Err(reason) = outcome {
        walk.note(node, reason, &name);
    }
    decoder.trim();
    Some(if flow.is_break() { flow } else { walk.flow() })
}

/// Bits in 32-bit little-endian words, most significant first. Words behind the end are zeros; reading far behind it fails.
struct Bits<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl Bits<'_> {
    fn peek(&self, count: u32) -> u32 {
        const WORD_BYTES: usize = 4;
        let word = |index: usize| {
            let start = index * WORD_BYTES;
            (0..WORD_BYTES)
                .fold(0u64, |word, byte| word | u64::from(self.bytes.get(start + byte).copied().unwrap_or(0)) << (8 * byte))
        };
        let pair = word(self.at / 32) << 32 | word(self.at / 32 + 1);
        let shifted = pair << (self.at % 32);
        if count == 0 { 0 } else { (shifted >> (64 - count)) as u32 }
    }

    fn take(&mut self, count: u32) -> Option<usize> {
        let value = self.peek(count);
        self.at += count as usize;
        (self.at <= self.bytes.len() * 8 + 64).then_some(value as usize)
    }
}

const CODE_BITS_MAX: u32 = 11;
const MAIN_CODES: usize = 284;
const LENGTH_CODES: usize = 255;
/// The main symbol that ends a block and changes the mode.
const TYPE_CODE: usize = 283;

/// Every code of `width` bits, and the symbol it stands for.
struct Tree {
    symbols: Vec<u16>,
    widths: Vec<u8>,
    width: u32,
}

impl Tree {
    /// Code lengths, themselves coded (differences modulo the largest, runs of zeros).
    fn read(bits: &mut Bits<'_>, codes: usize) -> Option<Tree> {
        const WIDTH_BITS: u32 = 3;
        let count = (bits.take(9)? + 1).min(codes + 1);
        let (lower, upper) = (bits.take(4)?, bits.take(4)?);
        let of_widths: Option<Vec<u8>> = (0..=upper).map(|_| Some(bits.take(WIDTH_BITS)? as u8)).collect();
        let tree = Tree::build(of_widths?, (1 << WIDTH_BITS) - 1)?;
        let mut widths: Vec<u8> = Vec::with_capacity(count);
        while widths.len() < count {
            match usize::from(tree.symbol(bits)?) {
                width if width < upper => widths.push(width as u8),
                _ => {
                    let run = (bits.take(4)? + 4).min(count - widths.len());
                    widths.resize(widths.len() + run, 0);
                }
            }
        }
        if upper > 0 {
            for index in 1..count {
                widths[index] = ((usize::from(widths[index]) + usize::from(widths[index - 1])) % upper) as u8;
            }
        }
        widths.iter_mut().filter(|width| **width > 0).for_each(|width| *width += lower as u8);
        Tree::build(widths, CODE_BITS_MAX)
    }

    /// Codes are given from the shortest symbol list's end; the order among equal lengths is that of the packer's own sort.
    fn build(mut widths: Vec<u8>, width: u32) -> Option<Tree> {
        let mut order: Vec<u16> = (0..widths.len()).map(|symbol| symbol as u16).collect();
        let mut keys = widths.clone();
        sort(&mut keys, &mut order);
        let mut used = keys.iter().take_while(|key| **key != 0).count();
        if used < 2 {
            *widths.get_mut(usize::from(*order.first()?))? = 1;
            used = used.max(1);
        }
        let mut symbols = Vec::with_capacity(1 << width);
        for (symbol, key) in order.iter().zip(&keys).take(used).rev() {
            let repeat = 1usize << width.checked_sub(u32::from(*key))?;
            symbols.resize(symbols.len() + repeat, *symbol);
            if symbols.len() > 1 << width {
                return None;
            }
        }
        Some(Tree { symbols, widths, width })
    }

    fn symbol(&self, bits: &mut Bits<'_>) -> Option<u16> {
        let symbol = *self.symbols.get(bits.peek(self.width) as usize)?;
        bits.take(u32::from(*self.widths.get(usize::from(symbol))?))?;
        Some(symbol)
    }
}

/// Sorts by falling key. Not stable, and the code depends on how it is not: a partition around the last key, the left part
/// before the right one, which may share an element. Parts are put aside instead of recursed into, so that hostile lengths
/// cannot exhaust the stack.
fn sort(keys: &mut [u8], values: &mut [u16]) {
    let whole = (0isize, keys.len() as isize - 1);
    let mut parts = vec![whole];
    while let Some((left, right)) = parts.pop() {
        // Two of a part are compared; the whole is always partitioned.
        if right - left < 2 && ((left, right) != whole || keys.len() < 2) {
            if left < right && keys[left as usize] < keys[right as usize] {
                keys.swap(left as usize, right as usize);
                values.swap(left as usize, right as usize);
            }
            continue;
        }
        let pivot = keys[right as usize];
        let (mut low, mut high) = (left, right);
        loop {
            while keys[low as usize] > pivot {
                low += 1;
            }
            while keys[high as usize] < pivot {
                high -= 1;
            }
            if low <= high {
                keys.swap(low as usize, high as usize);
                values.swap(low as usize, high as usize);
                low += 1;
                high -= 1;
            }
            if low >= high {
                break;
            }
        }
        parts.extend([(low, right), (left, high)]);
    }
}

/// The state that solid members share: what was unpacked, and the last distances.
#[derive(Default)]
struct Decoder {
    output: Vec<u8>,
    start: usize,
    recent: [usize; 4],
}

impl Decoder {
    /// What the last member gave.
    fn last(&self, plain_bytes: usize) -> &[u8] {
        let member = self.output.get(self.start..).unwrap_or_default();
        member.get(..plain_bytes).unwrap_or(member)
    }

    /// Keeps no more of earlier members than a distance can reach.
    fn trim(&mut self) {
        const DISTANCE_MAX: usize = 4 << 20;
        if self.output.len() > 2 * DISTANCE_MAX {
            self.output.drain(..self.output.len() - DISTANCE_MAX);
        }
    }

    fn decode(&mut self, packed: &[u8], plain_bytes: usize, is_blocked: bool) -> Result<(), Unscannable> {
        const MODE_PLAIN: usize = 0;
        const MODE_DELTA: usize = 1;
        self.start = self.output.len();
        self.recent = [0; 4];
        let end = self.start + plain_bytes;
        let mut reader = Reader { bits: Bits { bytes: packed, at: 0 }, main: None, lengths: None, left: 0 };
        let mut mode = MODE_PLAIN;
        while self.output.len() < end {
            match mode {
                MODE_PLAIN => {
                    let changed = self.plain(&mut reader, end).ok_or(Unscannable::Corrupt)?;
                    if !changed {
                        break;
                    }
                    mode = reader.bits.take(8).filter(|_| is_blocked).ok_or(Unscannable::Corrupt)?;
                }
                MODE_DELTA => {
                    mode = self.delta(&mut reader, end).ok_or(Unscannable::Corrupt)?;
                }
                _ => return Err(Unscannable::Unsupported),
            }
        }
        Ok(())
    }

    /// Literals and matches up to the end or to the symbol that changes the mode; says which.
    fn plain(&mut self, reader: &mut Reader<'_>, end: usize) -> Option<bool> {
        while self.output.len() < end {
            match reader.main()? {
                literal @ 0..=255 => self.output.push(literal as u8),
                TYPE_CODE => return Some(true),
                code => self.copy(reader, code, end)?,
            }
        }
        Some(false)
    }

    fn copy(&mut self, reader: &mut Reader<'_>, code: usize, end: usize) -> Option<()> {
        let (distance, length) = match code {
            256..=259 => {
                let index = code & 3;
                let length = reader.length()? + if index > 1 { 3 } else { 2 };
                // The newest stands last.
                let place = self.recent.len() - 1 - index;
                self.recent[place..].rotate_left(1);
                (self.recent[3], length)
            }
            _ => {
                let bits = (code - 260) as u32;
                let distance = match bits {
                    0 | 1 => bits as usize,
                    _ => reader.bits.take(bits - 1)? + (1 << (bits - 1)),
                };
                let more = match distance {
                    0..=255 => 2,
                    256..=8191 => 3,
                    _ => 4,
                };
                self.recent.rotate_left(1);
                self.recent[3] = distance;
                (distance, reader.length()? + more)
            }
        };
        let from = self.output.len().checked_sub(distance + 1)?;
        for index in 0..length.min(end - self.output.len()) {
            let byte = *self.output.get(from + index)?;
            self.output.push(byte);
        }
        Some(())
    }

    /// A run of bytes coded as differences in planes; gives the next mode.
    fn delta(&mut self, reader: &mut Reader<'_>, end: usize) -> Option<usize> {
        let planes = reader.bits.take(8)?.max(1);
        let length = reader.bits.take(17)?;
        let start = self.output.len();
        let stop = start.checked_add(length).filter(|stop| *stop <= end)?;
        let changed = self.plain(reader, stop)?;
        let coded = self.output.split_off(start);
        let mut value = 0u8;
        let sums: Vec<u8> = coded
            .into_iter()
            .map(|difference| {
                value = value.wrapping_add(difference);
                value
            })
            .collect();
        let plane_bytes = (length / planes).max(1);
        for at in 0..plane_bytes {
            self.output.extend((at..sums.len()).step_by(plane_bytes).filter_map(|index| sums.get(index)));
        }
        self.output.truncate(start + sums.len());
        if changed || reader.main()? == TYPE_CODE { reader.bits.take(8) } else { None }
    }
}

struct Reader<'b> {
    bits: Bits<'b>,
    main: Option<Tree>,
    lengths: Option<Tree>,
    left: usize,
}

impl Reader<'_> {
    fn main(&mut self) -> Option<usize> {
        if self.left == 0 {
            self.main = Some(Tree::read(&mut self.bits, MAIN_CODES)?);
            self.lengths = Some(Tree::read(&mut self.bits, LENGTH_CODES)?);
            self.left = self.bits.take(15)?;
        }
        self.left = self.left.checked_sub(1)?;
        self.main.as_ref()?.symbol(&mut self.bits).map(usize::from)
    }

    fn length(&mut self) -> Option<usize> {
        self.lengths.as_ref()?.symbol(&mut self.bits).map(usize::from)
    }
}
