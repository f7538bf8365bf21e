//! UDF (ECMA-167 with OSTA UDF 2.60): anchor, volume descriptors, partition, then the tree of file entries. Plain and
//! metadata partitions are read; virtual and sparable ones (packet-written discs) are named as unsupported.

use crate::format::{read_u16, read_u32, read_u64};
use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};
use std::collections::HashSet;

const SECTOR_BYTES: usize = 2048;
/// ECMA-167 3/8.4.2.1: the anchor stands in sector 256 or at the end.
const ANCHOR_SECTOR: usize = 256;
const TAG_ANCHOR: u16 = 2;
const TAG_PARTITION: u16 = 5;
const TAG_LOGICAL_VOLUME: u16 = 6;
const TAG_TERMINATOR: u16 = 8;
const TAG_FILE_SET: u16 = 256;
const TAG_FILE_IDENTIFIER: u16 = 257;
const TAG_FILE_ENTRY: u16 = 261;
const TAG_EXTENDED_FILE_ENTRY: u16 = 266;
const DESCRIPTORS_MAX: usize = 64;
/// Extents of one file; a heavily fragmented one has hundreds.
const EXTENTS_MAX: usize = 10_000;
const DIRECTORY_BYTES_MAX: usize = 16 << 20;
const FILE_TYPE_DIRECTORY: u8 = 4;

/// A block of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    block: u32,
    partition: u16,
}

struct Volume<'b> {
    bytes: &'b [u8],
    block_bytes: usize,
    /// Start sector of each physical partition, by its number.
    partitions: Vec<(u16, usize)>,
    /// What a logical partition reference means.
    maps: Vec<Map>,
    root: Place,
}

enum Map {
    Physical(u16),
    /// The blocks of a metadata file: byte ranges of the image.
    Metadata(Vec<(usize, usize)>),
    Unsupported,
}

/// The identifiers `BEA01` and `NSR0x` in the volume recognition sequence.
pub(crate) fn is_udf(bytes: &[u8]) -> bool {
    const FIRST: usize = 16;
    (FIRST..FIRST + DESCRIPTORS_MAX).any(|sector| {
        let at = sector * SECTOR_BYTES + 1;
        bytes.get(at..at + 4).is_some_and(|identifier| identifier == b"NSR0")
    })
}

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let volume = Volume::read(bytes).ok_or(Unscannable::Corrupt)?;
    if volume.maps.iter().any(|map| matches!(map, Map::Unsupported)) {
        return Err(Unscannable::Unsupported);
    }
    let mut seen = HashSet::new();
    let mut places = vec![(volume.root, String::new())];
    let mut is_whole = true;
    while let Some((place, name)) = places.pop() {
        if !seen.insert(place) {
            continue;
        }
        let Some(file) = volume.file(place) else {
            is_whole = false;
            continue;
        };
        if file.kind == FILE_TYPE_DIRECTORY {
            match file.content(DIRECTORY_BYTES_MAX) {
                Some(listing) => places.extend(identifiers(&listing)),
                None => is_whole = false,
            }
            continue;
        }
        is_whole &= file.is_whole;
        if walk.member(node, &name, &mut file.reader()).is_break() {
            return Ok(());
        }
    }
    if is_whole { Ok(()) } else { Err(Unscannable::Corrupt) }
}

struct File<'b> {
    kind: u8,
    size: usize,
    parts: Vec<&'b [u8]>,
    is_whole: bool,
}

impl File<'_> {
    fn reader(&self) -> Box<dyn std::io::Read + '_> {
        use std::io::Read;
        let start: Box<dyn Read> = Box::new(std::io::empty());
        let whole = self.parts.iter().fold(start, |whole, part| Box::new(whole.chain(*part)));
        Box::new(whole.take(self.size as u64))
    }

    fn content(&self, bytes_max: usize) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        for part in &self.parts {
            content.extend_from_slice(part.get(..part.len().min(bytes_max - content.len()))?);
        }
        content.truncate(self.size);
        (self.is_whole && self.size <= bytes_max).then_some(content)
    }
}

fn tag(descriptor: &[u8]) -> Option<u16> {
    read_u16(descriptor, 0)
}

impl<'b> Volume<'b> {
    fn read(bytes: &'b [u8]) -> Option<Volume<'b>> {
        let sectors = bytes.len() / SECTOR_BYTES;
        let sector = |index: usize| bytes.get(index.checked_mul(SECTOR_BYTES)?..)?.get(..SECTOR_BYTES);
        let anchor = [Some(ANCHOR_SECTOR), sectors.checked_sub(1), sectors.checked_sub(ANCHOR_SECTOR + 1)]
            .into_iter()
            .flatten()
            .filter_map(sector)
            .find(|anchor| tag(anchor) == Some(TAG_ANCHOR))?;
        let first = read_u32(anchor, 20)? as usize;
        let count = (read_u32(anchor, 16)? as usize / SECTOR_BYTES).min(DESCRIPTORS_MAX);
        let mut partitions = Vec::new();
        let mut logical = None;
        for descriptor in (first..first + count).map_while(sector) {
            match tag(descriptor)? {
                TAG_PARTITION => partitions.push((read_u16(descriptor, 22)?, read_u32(descriptor, 188)? as usize)),
                TAG_LOGICAL_VOLUME => logical = Some(descriptor),
                TAG_TERMINATOR => break,
                _ => {}
            }
        }
        let logical = logical?;
        let block_bytes = read_u32(logical, 212).filter(|bytes| matches!(bytes, 512..=4096))? as usize;
        let mut volume = Volume { bytes, block_bytes, partitions, maps: Vec::new(), root: Place { block: 0, partition: 0 } };
        volume.read_maps(logical)?;
        let set = volume.block(long_place(logical, 248)?)?;
        volume.root = (tag(set)? == TAG_FILE_SET).then(|| long_place(set, 400)).flatten()?;
        Some(volume)
    }

    /// Partition maps (ECMA-167 3/10.7, UDF 2.2.8 to 2.2.10).
    fn read_maps(&mut self, logical: &[u8]) -> Option<()> {
        let count = read_u32(logical, 268)?.min(16);
        let mut at = 440;
        for _ in 0..count {
            let kind = *logical.get(at)?;
            let length = usize::from(*logical.get(at + 1)?).max(1);
            let map = match kind {
                1 => Map::Physical(read_u16(logical, at + 4)?),
                2 if logical.get(at + 5..at + 28).is_some_and(|name| name.starts_with(b"*UDF Metadata")) => {
                    let number = read_u16(logical, at + 38)?;
                    let place = Place { block: read_u32(logical, at + 40)?, partition: number };
                    self.metadata(place).map_or(Map::Unsupported, Map::Metadata)
                }
                _ => Map::Unsupported,
            };
            self.maps.push(map);
            at += length;
        }
        Some(())
    }

    /// The ranges of the metadata file, whose entry stands in the physical partition itself.
    fn metadata(&self, place: Place) -> Option<Vec<(usize, usize)>> {
        let start = self.physical(place.partition, place.block)?;
        let entry = self.bytes.get(start..start + self.block_bytes)?;
        let (kind, allocations) = allocations(entry)?;
        let mut ranges = Vec::new();
        for (size, target) in extents(kind, allocations, place.partition) {
            ranges.push((self.physical(target.partition, target.block)?, size));
        }
        Some(ranges)
    }

    fn physical(&self, number: u16, block: u32) -> Option<usize> {
        let (_, start) = self.partitions.iter().find(|(known, _)| *known == number)?;
        start.checked_mul(SECTOR_BYTES)?.checked_add((block as usize).checked_mul(self.block_bytes)?)
    }

    fn position(&self, place: Place) -> Option<usize> {
        match self.maps.get(usize::from(place.partition))? {
            Map::Physical(number) => self.physical(*number, place.block),
            Map::Metadata(ranges) => {
                let mut offset = (place.block as usize).checked_mul(self.block_bytes)?;
                for (start, size) in ranges {
                    if offset < *size {
                        return start.checked_add(offset);
                    }
                    offset -= size;
                }
                None
            }
            Map::Unsupported => None,
        }
    }

    fn block(&self, place: Place) -> Option<&'b [u8]> {
        let start = self.position(place)?;
        self.bytes.get(start..start + self.block_bytes)
    }

    fn file(&self, place: Place) -> Option<File<'b>> {
        let entry = self.block(place)?;
        let kind = *entry.get(27)?;
        let size = usize::try_from(read_u64(entry, 56)?).ok()?;
        let (allocation, area) = allocations(entry)?;
        const EMBEDDED: u16 = 3;
        if allocation == EMBEDDED {
            let is_whole = area.len() >= size;
            return Some(File { kind, size, parts: vec![area], is_whole });
        }
        let mut parts = Vec::new();
        let mut found = 0usize;
        for (bytes, target) in extents(allocation, area, place.partition) {
            let Some(start) = self.position(target) else { break };
            let Some(part) = self.bytes.get(start..start.saturating_add(bytes)) else { break };
            found = found.saturating_add(bytes);
            parts.push(part);
        }
        Some(File { kind, size, parts, is_whole: found >= size })
    }
}

/// How a file entry's extents are written, and the bytes that hold them (ECMA-167 4/14.9 and 4/14.17).
fn allocations(entry: &[u8]) -> Option<(u16, &[u8])> {
    let (attributes_at, fixed) = match tag(entry)? {
        TAG_FILE_ENTRY => (168, 176),
        TAG_EXTENDED_FILE_ENTRY => (208, 216),
        _ => return None,
    };
    let kind = read_u16(entry, 34)? & 7;
    let start = (read_u32(entry, attributes_at)? as usize).checked_add(fixed)?;
    let bytes = read_u32(entry, attributes_at + 4)? as usize;
    Some((kind, entry.get(start..start.checked_add(bytes)?)?))
}

/// Recorded extents in order; the two highest bits of a length say what it is (4/14.14.1.1).
fn extents(kind: u16, area: &[u8], partition: u16) -> impl Iterator<Item = (usize, Place)> {
    let width = if kind == 0 { 8 } else { 16 };
    area.chunks_exact(width).take(EXTENTS_MAX).filter_map(move |descriptor| {
        let length = read_u32(descriptor, 0)?;
        let place =
            Place { block: read_u32(descriptor, 4)?, partition: if kind == 0 { partition } else { read_u16(descriptor, 8)? } };
        (length >> 30 == 0 && length > 0).then_some((length as usize, place))
    })
}

fn long_place(bytes: &[u8], at: usize) -> Option<Place> {
    Some(Place { block: read_u32(bytes, at + 4)?, partition: read_u16(bytes, at + 8)? })
}

/// File identifiers of a directory (4/14.4): where each file's entry stands, and its name.
fn identifiers(listing: &[u8]) -> Vec<(Place, String)> {
    const PARENT: u8 = 8;
    let mut files = Vec::new();
    let mut at = 0;
    while let Some(descriptor) = listing.get(at..).filter(|rest| tag(rest) == Some(TAG_FILE_IDENTIFIER)) {
        let (Some(flags), Some(name_bytes), Some(place), Some(skip)) =
            (descriptor.get(18), descriptor.get(19), long_place(descriptor, 20), read_u16(descriptor, 36))
        else {
            break;
        };
        let name_at = 38 + usize::from(skip);
        let name = descriptor.get(name_at..name_at + usize::from(*name_bytes)).unwrap_or_default();
        if flags & PARENT == 0 {
            files.push((place, decode_name(name)));
        }
        at += (name_at + usize::from(*name_bytes)).next_multiple_of(4);
    }
    files
}

/// OSTA compressed unicode (UDF 2.1.1): a first byte of 8 or 16 says how wide the rest is.
fn decode_name(name: &[u8]) -> String {
    match name.split_first() {
        Some((16, wide)) => {
            let units: Vec<u16> = wide.chunks_exact(2).filter_map(|pair| super::xar::be_u16(pair, 0)).collect();
            String::from_utf16_lossy(&units)
        }
        Some((_, narrow)) => narrow.iter().map(|byte| char::from(*byte)).collect(),
        None => String::new(),
    }
}
