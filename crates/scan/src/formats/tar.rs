//! Tar: v7, ustar (POSIX.1-1988), GNU long names and pax extended headers (POSIX.1-2001) as far as names and sizes go.
//! Sparse maps and links are not followed: the stored bytes are what a receiver would get.

use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};

const BLOCK_BYTES: usize = 512;
/// Pax and GNU name records; real ones are a few hundred bytes.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// A header whose checksum holds; v7 archives have no other mark.
pub(crate) fn is_tar(bytes: &[u8]) -> bool {
    bytes.get(..BLOCK_BYTES).is_some_and(|block| checksum_holds(block) && block.first() != Some(&0))
}

fn checksum_holds(block: &[u8]) -> bool {
    let stated = block.get(148..156).and_then(number);
    let sum = |signed: bool| -> i64 {
        let value = |byte: u8| if signed { i64::from(byte as i8) } else { i64::from(byte) };
        block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { value(*byte) }).sum()
    };
    stated.is_some_and(|stated| stated > 0 && (i64::try_from(stated) == Ok(sum(false)) || i64::try_from(stated) == Ok(sum(true))))
}

/// Octal, or base 256 when the first bit is set (GNU).
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        return rest.iter().try_fold(u64::from(first & 0x3f), |value, byte| Some(value.checked_mul(256)? | u64::from(*byte)));
    }
    let digits = field.iter().skip_while(|byte| **byte == b' ').take_while(|byte| (b'0'..=b'7').contains(byte));
    digits.copied().try_fold(0u64, |value, digit| value.checked_mul(8)?.checked_add(u64::from(digit - b'0')))
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(field.get(..end).unwrap_or_default()).into_owned()
}

/// What extended headers say about the next member.
#[derive(Default)]
struct Extended {
    name: Option<String>,
    size: Option<u64>,
}

impl Extended {
    /// Pax records: `LENGTH KEY=VALUE\n`.
    fn add_pax(&mut self, mut records: &[u8]) {
        while let Some(space) = records.iter().position(|byte| *byte == b' ') {
            let length = number_decimal(records.get(..space).unwrap_or_default());
            let Some(record) = length.filter(|length| *length > space).and_then(|length| records.get(space + 1..length)) else {
                return;
            };
            let record = String::from_utf8_lossy(record);
            match record.trim_end_matches('\n').split_once('=') {
                Some(("path", value)) => self.name = Some(value.to_owned()),
                Some(("size", value)) => self.size = value.parse().ok(),
                _ => {}
            }
            records = records.get(length.unwrap_or(records.len())..).unwrap_or_default();
        }
    }
}

fn number_decimal(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let mut at = 0;
    let mut extended = Extended::default();
    while let Some(block) = bytes.get(at..at + BLOCK_BYTES) {
        at += BLOCK_BYTES;
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        if !checksum_holds(block) {
            return Err(Unscannable::Corrupt);
        }
        let kind = block.get(156).copied().unwrap_or(0);
        at += sparse_blocks(bytes, at, block) * BLOCK_BYTES;
        let size = extended.size.take().or_else(|| block.get(124..136).and_then(number)).ok_or(Unscannable::Corrupt)?;
        let size = if has_body(kind) { usize::try_from(size).map_err(|_| Unscannable::Corrupt)? } else { 0 };
        let end = at.saturating_add(size).min(bytes.len());
        let is_whole = at.saturating_add(size) <= bytes.len();
        let body = bytes.get(at..end).unwrap_or_default();
        at = at.saturating_add(size.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES));
        match kind {
            b'x' | b'g' => extended.add_pax(body.get(..body.len().min(RECORD_BYTES_MAX)).unwrap_or_default()),
            b'L' => extended.name = Some(text(body.get(..body.len().min(RECORD_BYTES_MAX)).unwrap_or_default())),
            b'K' => {}
            _ => {
                let name = extended.name.take().unwrap_or_else(|| text(block.get(..100).unwrap_or_default()));
                if walk.slice(node, &name, body).is_break() {
                    return Ok(());
                }
            }
        }
        if !is_whole {
            return Err(Unscannable::Corrupt);
        }
    }
    Ok(())
}

/// Blocks of a GNU sparse map that follow a header of kind `S`; each says whether one more follows.
fn sparse_blocks(bytes: &[u8], at: usize, header: &[u8]) -> usize {
    const HEADER_FLAG_OFFSET: usize = 482;
    const BLOCK_FLAG_OFFSET: usize = 504;
    let mut count = 0;
    let mut more = header.get(156) == Some(&b'S') && header.get(HEADER_FLAG_OFFSET).is_some_and(|flag| *flag != 0);
    while more {
        let block = at + count * BLOCK_BYTES;
        more = bytes.get(block + BLOCK_FLAG_OFFSET).is_some_and(|flag| *flag != 0);
        count += 1;
    }
    count
}

/// Links, devices and directories have no body, whatever their size field says.
fn has_body(kind: u8) -> bool {
    !matches!(kind, b'1'..=b'6')
}
