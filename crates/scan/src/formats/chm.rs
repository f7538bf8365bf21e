//! Compiled HTML help (the ITSF container as described by Matthew Russotto and the chmlib project): a directory of names, one
//! section of plain bytes and one of LZX with regular resets. Every user file is a member; the compiler's own tables, whose
//! names begin with `::`, are not.

use super::lzx;
use crate::format::{read_u32, read_u64};
use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};

pub(crate) const SIGNATURE: &[u8] = b"ITSF\x03\0\0\0";
const CONTENT: &str = "::DataSpace/Storage/MSCompressed/Content";
const CONTROL: &str = "::DataSpace/Storage/MSCompressed/ControlData";
const RESETS: &str = "::DataSpace/Storage/MSCompressed/Transform/{7FC28940-9D31-11D0-9B27-00A0C91E9C7C}/InstanceData/ResetTable";
const FRAME_BYTES: usize = 32 << 10;
const DIRECTORY_ENTRIES_MAX: usize = 200_000;

struct Entry {
    name: String,
    section: u64,
    offset: usize,
    size: usize,
}

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let (entries, content_at) = directory(bytes).ok_or(Unscannable::Corrupt)?;
    let plain = bytes.get(content_at..).ok_or(Unscannable::Corrupt)?;
    let find = |name: &str| entries.iter().find(|entry| entry.name == name && entry.section == 0);
    let range = |entry: &Entry| plain.get(entry.offset..entry.offset.checked_add(entry.size)?);
    let mut packed = None;
    if entries.iter().any(|entry| entry.section == 1 && entry.size > 0) {
        let part = |name: &str| find(name).and_then(range);
        let mut reader = match (part(CONTENT), part(CONTROL), part(RESETS)) {
            (Some(content), Some(control), Some(resets)) => Section::new(content, control, resets).ok_or(Unscannable::Corrupt)?,
            _ => return Err(Unscannable::Corrupt),
        };
        let Ok(section) = walk.unpack(&mut reader) else { return Ok(()) };
        packed = Some(section);
    }
    let packed = packed.unwrap_or_default();
    let mut is_whole = true;
    for entry in entries.iter().filter(|entry| !entry.name.starts_with("::") && !entry.name.ends_with('/')) {
        let body = if entry.section == 0 {
            range(entry)
        } else {
            entry.offset.checked_add(entry.size).and_then(|end| packed.get(entry.offset..end))
        };
        let Some(body) = body else {
            is_whole = false;
            continue;
        };
        if walk.view(node, &entry.name, body).is_break() {
            return Ok(());
        }
    }
    if is_whole { Ok(()) } else { Err(Unscannable::Corrupt) }
}

/// All entries of the listing chunks, and where the content begins.
fn directory(bytes: &[u8]) -> Option<(Vec<Entry>, usize)> {
    let directory_at = usize::try_from(read_u64(bytes, 0x48)?).ok()?;
    let content_at = usize::try_from(read_u64(bytes, 0x58)?).ok()?;
    let directory = bytes.get(directory_at..).filter(|directory| directory.starts_with(b"ITSP"))?;
    let header_bytes = read_u32(directory, 8)? as usize;
    let chunk_bytes = read_u32(directory, 16).filter(|bytes| (32..=65_536).contains(bytes))? as usize;
    let chunks = read_u32(directory, 44)? as usize;
    let mut entries = Vec::new();
    for chunk in directory.get(header_bytes..)?.chunks_exact(chunk_bytes).take(chunks).filter(|chunk| chunk.starts_with(b"PMGL"))
    {
        let end = chunk_bytes.checked_sub(read_u32(chunk, 4)? as usize)?;
        let mut list = chunk.get(20..end)?;
        while !list.is_empty() && entries.len() < DIRECTORY_ENTRIES_MAX {
            let name_bytes = usize::try_from(number(&mut list)?).ok()?;
            let name = String::from_utf8_lossy(list.get(..name_bytes)?).into_owned();
            list = list.get(name_bytes..)?;
            let section = number(&mut list)?;
            let offset = usize::try_from(number(&mut list)?).ok()?;
            let size = usize::try_from(number(&mut list)?).ok()?;
            entries.push(Entry { name, section, offset, size });
        }
    }
    Some((entries, content_at))
}

/// Seven bits a byte, the highest bit says that more follow.
fn number(list: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    loop {
        let (byte, rest) = list.split_first()?;
        *list = rest;
        value = value.checked_mul(128)? | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
}

/// The compressed section, one reset interval at a time.
struct Section<'b> {
    content: &'b [u8],
    resets: &'b [u8],
    interval_bytes: usize,
    window_bits: u32,
    plain_bytes: usize,
    done: usize,
    ready: Vec<u8>,
    given: usize,
}

impl<'b> Section<'b> {
    fn new(content: &'b [u8], control: &[u8], resets: &'b [u8]) -> Option<Self> {
        let unit = if read_u32(control, 8)? == 2 { FRAME_BYTES } else { 1 };
        let interval_bytes = (read_u32(control, 12)? as usize).checked_mul(unit)?;
        let window = (read_u32(control, 16)? as usize).checked_mul(unit).filter(|window| window.is_power_of_two())?;
        let is_sane = interval_bytes > 0 && interval_bytes.is_multiple_of(FRAME_BYTES) && interval_bytes <= 64 << 20;
        let plain_bytes = usize::try_from(read_u64(resets, 16)?).ok()?;
        is_sane.then_some(Self {
            content,
            resets,
            interval_bytes,
            window_bits: window.trailing_zeros(),
            plain_bytes,
            done: 0,
            ready: Vec::new(),
            given: 0,
        })
    }

    fn advance(&mut self) -> Option<()> {
        let table = usize::try_from(read_u32(self.resets, 12)?).ok()?;
        let block = self.done / FRAME_BYTES;
        let start = usize::try_from(read_u64(self.resets, table.checked_add(block * 8)?)?).ok()?;
        let plain = self.interval_bytes.min(self.plain_bytes - self.done);
        self.ready = lzx::decode(self.content.get(start..)?, plain, self.window_bits, lzx::Flavour::Help)?;
        self.given = 0;
        self.done += plain;
        Some(())
    }
}

impl std::io::Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.given == self.ready.len() {
            if self.done >= self.plain_bytes {
                return Ok(0);
            }
            self.advance().ok_or(std::io::ErrorKind::InvalidData)?;
        }
        let rest = self.ready.get(self.given..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer.iter_mut().zip(rest).for_each(|(slot, byte)| *slot = *byte);
        self.given += count;
        Ok(count)
    }
}
