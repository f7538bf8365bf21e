//! ZIP (APPNOTE 6.3.10), read twice: by the central directory as most programs do, and by local headers in every byte
//! range that the directory does not cover, as streaming programs do. So a truncated, missing, doubled or lying directory
//! hides nothing. Two directory entries that share packed bytes are an overlap bomb and are refused. Nothing is decrypted.

use crate::format::{contains, find, read_u16, read_u32, read_u64};
use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};
use std::io::Read;
use std::ops::Range;

const LOCAL: &[u8] = super::marks::LOCAL_HEADER;
const CENTRAL: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCAL_BYTES: usize = 30;
const CENTRAL_BYTES: usize = 46;
const END_BYTES: usize = 22;
/// A comment has a 16-bit length, so the end record starts in this tail.
const END_TAIL_BYTES_MAX: usize = END_BYTES + 0xffff;
/// Entries parsed from one directory; the walk's own entry limit is lower and ends the scan first.
const DIRECTORY_ENTRIES_MAX: usize = 200_000;
/// Names looked at to tell the zip family apart.
const NAMES_MAX: usize = 2_000;
/// A declared size that says "see the zip64 extra field" (4.4.8, 4.4.9).
const SEE_ZIP64: u64 = 0xffff_ffff;
/// Bit 0 of the general purpose flags, and bit 13: masked headers of strong encryption (4.4.4).
const FLAG_ENCRYPTED: u16 = 1 | 1 << 13;
/// Bit 3: sizes follow the data (4.4.4).
const FLAG_SIZES_FOLLOW: u16 = 1 << 3;

#[derive(Debug, Clone)]
struct Entry {
    name: String,
    flags: u16,
    method: u16,
    method_local: u16,
    packed_bytes: u64,
    plain_bytes: u64,
    size_known: bool,
    header: usize,
    data: usize,
}

impl Entry {
    /// The unpacked size where it is stated and no end marker says it (flag bit 1, APPNOTE 4.4.4).
    fn plain_size(&self) -> Option<u64> {
        const FLAG_END_MARKER: u16 = 1 << 1;
        let stated = self.size_known && self.flags & FLAG_END_MARKER == 0 && self.plain_bytes != SEE_ZIP64;
        stated.then_some(self.plain_bytes)
    }

    fn end(&self) -> usize {
        self.data.saturating_add(usize::try_from(self.packed_bytes).unwrap_or(usize::MAX))
    }
}

pub(crate) fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(LOCAL) || bytes.starts_with(END) || bytes.starts_with(b"PK00PK\x03\x04")
}

/// Member names, to tell the zip family apart.
pub(crate) fn names(bytes: &[u8]) -> Vec<String> {
    let (directory, _) = central_entries(bytes);
    match directory.is_empty() {
        false => directory.into_iter().take(NAMES_MAX).map(|entry| entry.name).collect(),
        true => LocalEntries { bytes, at: 0, end: bytes.len() }.take(NAMES_MAX).map(|entry| entry.name).collect(),
    }
}

/// Where the first plausible local header behind `from` stands.
pub(crate) fn first_entry(bytes: &[u8], from: usize) -> Option<usize> {
    LocalEntries { bytes, at: from.min(bytes.len()), end: bytes.len() }.next().map(|entry| entry.header)
}

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let (directory, directory_ranges) = central_entries(bytes);
    if overlap(&directory) {
        let _ = walk.halt(Unscannable::Overlap);
        return Err(Unscannable::Overlap);
    }
    let listed = directory.len();
    for entry in &directory {
        if extract(walk, node, bytes, entry).is_break() {
            return Ok(());
        }
    }
    let mut unlisted = 0;
    for gap in gaps(bytes.len(), &directory, directory_ranges) {
        for entry in (LocalEntries { bytes, at: gap.start, end: gap.end }) {
            unlisted += 1;
            if extract(walk, node, bytes, &entry).is_break() {
                return Ok(());
            }
        }
    }
    match listed + unlisted == 0 && !is_empty_archive(bytes) {
        true => Err(Unscannable::Corrupt),
        false => Ok(()),
    }
}

fn is_empty_archive(bytes: &[u8]) -> bool {
    contains(bytes, END)
}

fn extract(walk: &mut Walk<'_>, node: &Node, bytes: &[u8], entry: &Entry) -> crate::walk::Flow {
    const METHOD_AES: u16 = 99;
    if entry.flags & FLAG_ENCRYPTED != 0 || entry.method == METHOD_AES {
        walk.note(node, Unscannable::Encrypted, &entry.name);
        return walk.flow();
    }
    let Some(rest) = bytes.get(entry.data..) else {
        walk.note(node, Unscannable::Corrupt, &entry.name);
        return walk.flow();
    };
    if entry.end() > bytes.len() {
        walk.note(node, Unscannable::Corrupt, &entry.name);
    }
    // Two headers that name different methods are two readings of the same bytes: both are taken.
    let other = Some(entry.method_local).filter(|method| *method != entry.method);
    for method in [Some(entry.method), other].into_iter().flatten() {
        let Some(mut reader) = decoder(method, rest, entry) else {
            walk.note(node, Unscannable::Unsupported, &entry.name);
            continue;
        };
        if walk.member(node, &entry.name, reader.as_mut()).is_break() {
            break;
        }
    }
    walk.flow()
}

/// The decoder of a compression method (4.4.5). All of them find the end of their data themselves.
fn decoder<'b>(method: u16, packed: &'b [u8], entry: &Entry) -> Option<Box<dyn Read + 'b>> {
    let bounded = match entry.size_known {
        true => packed.get(..entry.end().saturating_sub(entry.data)).unwrap_or(packed),
        false => packed,
    };
    Some(match method {
        0 => Box::new(bounded),
        8 => Box::new(flate2::bufread::DeflateDecoder::new(packed)),
        9 => Box::new(deflate64::Deflate64Decoder::with_buffer(packed)),
        12 => Box::new(bzip2::bufread::BzDecoder::new(packed)),
        14 => super::stream::zip_lzma(bounded, entry.plain_size())?,
        20 | 93 => super::stream::zstd_reader(bounded)?,
        95 => Box::new(super::stream::xz_reader(bounded)),
        98 => Box::new(ppmd(bounded, entry.plain_size()?)?),
        _ => return None,
    })
}

/// PPMd variant I (5.10): order, memory and restoration in two bytes, then the codes without an end mark.
fn ppmd(packed: &[u8], plain_bytes: u64) -> Option<impl Read + '_> {
    const MEBIBYTES_MAX: u32 = 256;
    let parameters = u32::from(read_u16(packed, 0)?);
    let (order, mebibytes) = ((parameters & 15) + 1, (parameters >> 4 & 0xff) + 1);
    let restore = match parameters >> 12 {
        0 => ppmd_rust::RestoreMethod::Restart,
        1 => ppmd_rust::RestoreMethod::CutOff,
        _ => return None,
    };
    let codes = packed.get(2..).filter(|_| mebibytes <= MEBIBYTES_MAX)?;
    Some(ppmd_rust::Ppmd8Decoder::new(codes, order, mebibytes << 20, restore).ok()?.take(plain_bytes))
}

/// All entries of every central directory that an end record points to, and the ranges that the records occupy.
fn central_entries(bytes: &[u8]) -> (Vec<Entry>, Vec<Range<usize>>) {
    let mut entries = Vec::new();
    let mut ranges = Vec::new();
    let tail = bytes.len().saturating_sub(END_TAIL_BYTES_MAX);
    let Some(last) = bytes.get(tail..).and_then(|tail| memchr::memmem::rfind(tail, END)) else {
        return (entries, ranges);
    };
    let end = tail + last;
    ranges.push(end..(end + END_BYTES).min(bytes.len()));
    let Some(start) = directory_start(bytes, end) else { return (entries, ranges) };
    let base = start.base;
    let mut at = start.at;
    while entries.len() < DIRECTORY_ENTRIES_MAX && at < end {
        let Some((entry, next)) = central_entry(bytes, at, base) else { break };
        ranges.push(at..next);
        at = next;
        entries.extend(entry);
    }
    (entries, ranges)
}

struct DirectoryStart {
    at: usize,
    /// Bytes put in front of the archive (self-extractors); offsets count from here.
    base: usize,
}

fn directory_start(bytes: &[u8], end: usize) -> Option<DirectoryStart> {
    let size = read_u32(bytes, end + 12)? as usize;
    let offset = read_u32(bytes, end + 16)? as usize;
    if let Some(start) = directory_start_64(bytes, end) {
        return Some(start);
    }
    let at = end.checked_sub(size)?;
    if bytes.get(at..)?.starts_with(CENTRAL) && at >= offset {
        return Some(DirectoryStart { at, base: at - offset });
    }
    bytes.get(offset..)?.starts_with(CENTRAL).then_some(DirectoryStart { at: offset, base: 0 })
}

fn directory_start_64(bytes: &[u8], end: usize) -> Option<DirectoryStart> {
    const RECORD_BYTES: usize = 56 + 20;
    let record = end.checked_sub(RECORD_BYTES)?;
    if !bytes.get(record..)?.starts_with(END_64) {
        return None;
    }
    let size = usize::try_from(read_u64(bytes, record + 40)?).ok()?;
    let offset = usize::try_from(read_u64(bytes, record + 48)?).ok()?;
    let at = record.checked_sub(size)?;
    Some(DirectoryStart { at, base: at.checked_sub(offset)? })
}

/// One directory entry, absent if its local header is not where it says, and where the next one starts.
fn central_entry(bytes: &[u8], at: usize, base: usize) -> Option<(Option<Entry>, usize)> {
    if !bytes.get(at..)?.starts_with(CENTRAL) {
        return None;
    }
    let name_bytes = usize::from(read_u16(bytes, at + 28)?);
    let extra_bytes = usize::from(read_u16(bytes, at + 30)?);
    let comment_bytes = usize::from(read_u16(bytes, at + 32)?);
    let name_at = at + CENTRAL_BYTES;
    let extra = bytes.get(name_at + name_bytes..name_at + name_bytes + extra_bytes)?;
    let next = name_at + name_bytes + extra_bytes + comment_bytes;
    let mut packed_bytes = u64::from(read_u32(bytes, at + 20)?);
    let mut header = u64::from(read_u32(bytes, at + 42)?);
    let wide = zip64_fields(extra);
    let mut wide = wide.into_iter();
    if u64::from(read_u32(bytes, at + 24)?) == SEE_ZIP64 {
        wide.next();
    }
    if packed_bytes == SEE_ZIP64 {
        packed_bytes = wide.next().unwrap_or(packed_bytes);
    }
    if header == SEE_ZIP64 {
        header = wide.next().unwrap_or(header);
    }
    let header = usize::try_from(header).ok().and_then(|header| header.checked_add(base));
    let entry = header.and_then(|header| {
        let local = local_header(bytes, header)?;
        Some(Entry {
            name: String::from_utf8_lossy(bytes.get(name_at..name_at + name_bytes)?).into_owned(),
            flags: read_u16(bytes, at + 8)? | local.flags,
            method: read_u16(bytes, at + 10)?,
            method_local: local.method,
            packed_bytes,
            plain_bytes: u64::from(read_u32(bytes, at + 24)?),
            size_known: true,
            header,
            data: local.data,
        })
    });
    Some((entry, next))
}

/// The 64-bit fields of the zip64 extra (4.5.3), in order.
fn zip64_fields(extra: &[u8]) -> Vec<u64> {
    let mut at = 0;
    while let (Some(id), Some(size)) = (read_u16(extra, at), read_u16(extra, at + 2)) {
        let body = extra.get(at + 4..at + 4 + usize::from(size)).unwrap_or_default();
        if id == 1 {
            return (0..body.len() / 8).filter_map(|index| read_u64(body, index * 8)).collect();
        }
        at += 4 + usize::from(size);
    }
    Vec::new()
}

/// Where a local header's parts stand.
struct Local {
    flags: u16,
    method: u16,
    name: Range<usize>,
    data: usize,
}

/// Copies nothing, since a directory may name one local header for all of its entries.
fn local_header(bytes: &[u8], header: usize) -> Option<Local> {
    if !bytes.get(header..)?.starts_with(LOCAL) {
        return None;
    }
    let name_bytes = usize::from(read_u16(bytes, header + 26)?);
    let extra_bytes = usize::from(read_u16(bytes, header + 28)?);
    let name = header + LOCAL_BYTES..header + LOCAL_BYTES + name_bytes;
    let data = name.end + extra_bytes;
    bytes.get(name.end..data)?;
    Some(Local { flags: read_u16(bytes, header + 6)?, method: read_u16(bytes, header + 8)?, name, data })
}

fn local_entry(bytes: &[u8], header: usize) -> Option<Entry> {
    let local = local_header(bytes, header)?;
    let packed_bytes = u64::from(read_u32(bytes, header + 18)?);
    let wide = zip64_fields(bytes.get(local.name.end..local.data)?).get(1).copied();
    let known = local.flags & FLAG_SIZES_FOLLOW == 0 || packed_bytes != 0;
    Some(Entry {
        name: String::from_utf8_lossy(bytes.get(local.name)?).into_owned(),
        flags: local.flags,
        method: local.method,
        method_local: local.method,
        plain_bytes: u64::from(read_u32(bytes, header + 22)?),
        packed_bytes: if packed_bytes == SEE_ZIP64 { wide.unwrap_or(packed_bytes) } else { packed_bytes },
        size_known: known,
        header,
        data: local.data,
    })
}

/// Entries found by their local headers in one range.
struct LocalEntries<'b> {
    bytes: &'b [u8],
    at: usize,
    end: usize,
}

impl Iterator for LocalEntries<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        while let Some(found) = find(self.bytes.get(self.at..self.end)?, LOCAL) {
            let header = self.at + found;
            self.at = header + LOCAL.len();
            let Some(entry) = local_entry(self.bytes, header).filter(is_plausible) else { continue };
            let skip = if entry.size_known { entry.end() } else { entry.data };
            self.at = skip.max(self.at).min(self.end);
            return Some(entry);
        }
        None
    }
}

/// Tells a header from four bytes of packed data that happen to look like one.
fn is_plausible(entry: &Entry) -> bool {
    const NAME_BYTES_MAX: usize = 4096;
    matches!(entry.method, 0..=20 | 93..=99) && !entry.name.is_empty() && entry.name.len() < NAME_BYTES_MAX
}

fn overlap(entries: &[Entry]) -> bool {
    let mut ranges: Vec<_> = entries.iter().map(|entry| (entry.header, entry.end())).collect();
    ranges.sort_unstable();
    ranges.windows(2).any(|pair| matches!(pair, [first, second] if second.0 < first.1))
}

/// What no directory entry and no directory record covers.
fn gaps(size: usize, entries: &[Entry], mut covered: Vec<Range<usize>>) -> Vec<Range<usize>> {
    covered.extend(entries.iter().map(|entry| entry.header..entry.end().min(size)));
    covered.sort_unstable_by_key(|range| range.start);
    let mut gaps = Vec::new();
    let mut at = 0;
    for range in covered {
        if range.start > at {
            gaps.push(at..range.start);
        }
        at = at.max(range.end);
    }
    if at < size {
        gaps.push(at..size);
    }
    gaps
}
