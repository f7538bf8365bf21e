//! Disk images: partitions by MBR (or GPT) and the FAT file systems of Microsoft's fatgen103 (FAT12, FAT16, FAT32) with long
//! names. Other file systems are told by their signatures and named as unsupported; a fixed VHD is a raw image with a footer.

use crate::format::{read_u16, read_u32, read_u64};
use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};
use std::collections::HashSet;
use std::io::Read;

const SECTOR_BYTES: usize = 512;
const BOOT_SIGNATURE: &[u8] = b"\x55\xaa";
const BOOT_SIGNATURE_OFFSET: usize = 510;
const ENTRY_BYTES: usize = 32;
const ATTRIBUTE_DIRECTORY: u8 = 0x10;
const ATTRIBUTE_VOLUME: u8 = 0x08;
const ATTRIBUTE_LONG_NAME: u8 = 0x0f;
/// Directories in one image; a drive image with more does not pass a gate in time.
const DIRECTORIES_MAX: usize = 10_000;
const GPT_PARTITIONS_MAX: usize = 128;

struct Fat<'b> {
    bytes: &'b [u8],
    width: u32,
    table: &'b [u8],
    cluster_bytes: usize,
    data_at: usize,
    clusters: usize,
    root: Root,
}

enum Root {
    Fixed { at: usize, bytes: usize },
    Cluster(u32),
}

fn has_boot_signature(bytes: &[u8]) -> bool {
    bytes.get(BOOT_SIGNATURE_OFFSET..).is_some_and(|rest| rest.starts_with(BOOT_SIGNATURE))
}

/// A jump, and a parameter block whose every field is one that FAT allows.
pub(crate) fn is_fat(bytes: &[u8]) -> bool {
    Fat::parse(bytes).is_some()
}

/// A partition table with an entry that lies inside the image, and no file system in the first sector.
pub(crate) fn is_partitioned(bytes: &[u8]) -> bool {
    has_boot_signature(bytes) && !partitions(bytes).is_empty()
}

impl<'b> Fat<'b> {
    fn parse(bytes: &'b [u8]) -> Option<Fat<'b>> {
        let jump = matches!(bytes.first(), Some(0xeb | 0xe9));
        let sector = usize::from(read_u16(bytes, 11)?);
        let per_cluster = usize::from(*bytes.get(13)?);
        let reserved = usize::from(read_u16(bytes, 14)?);
        let tables = usize::from(*bytes.get(16)?);
        let root_entries = usize::from(read_u16(bytes, 17)?);
        let total = match read_u16(bytes, 19)? {
            0 => read_u32(bytes, 32)? as usize,
            small => usize::from(small),
        };
        let table_sectors = match read_u16(bytes, 22)? {
            0 => read_u32(bytes, 36)? as usize,
            small => usize::from(small),
        };
        let is_sane = jump
            && has_boot_signature(bytes)
            && matches!(sector, 512 | 1024 | 2048 | 4096)
            && per_cluster.is_power_of_two()
            && reserved > 0
            && (1..=2).contains(&tables)
            && table_sectors > 0;
        if !is_sane {
            return None;
        }
        let table_at = reserved.checked_mul(sector)?;
        let root_at = table_at.checked_add(tables.checked_mul(table_sectors)?.checked_mul(sector)?)?;
        let root_bytes = (root_entries * ENTRY_BYTES).next_multiple_of(sector);
        let data_at = root_at.checked_add(root_bytes)?;
        let cluster_bytes = per_cluster * sector;
        let clusters = total.checked_mul(sector)?.checked_sub(data_at)? / cluster_bytes;
        // The count of clusters alone says which FAT it is (fatgen103, "FAT Type Determination").
        let width = match clusters {
            0..=4084 => 12,
            4085..=65_524 => 16,
            _ => 32,
        };
        let root = match width {
            32 => Root::Cluster(read_u32(bytes, 44)?),
            _ => Root::Fixed { at: root_at, bytes: root_entries * ENTRY_BYTES },
        };
        let table = bytes.get(table_at..)?;
        let table = table.get(..table_sectors.checked_mul(sector)?).unwrap_or(table);
        Some(Fat { bytes, width, table, cluster_bytes, data_at, clusters, root })
    }

    fn next(&self, cluster: u32) -> Option<u32> {
        let index = cluster as usize;
        match self.width {
            12 => {
                let pair = read_u16(self.table, index + index / 2)?;
                Some(u32::from(if index.is_multiple_of(2) { pair & 0xfff } else { pair >> 4 }))
            }
            16 => read_u16(self.table, index * 2).map(u32::from),
            _ => read_u32(self.table, index * 4).map(|entry| entry & 0x0fff_ffff),
        }
    }

    fn cluster(&self, cluster: u32) -> Option<&'b [u8]> {
        let index = (cluster as usize).checked_sub(2).filter(|index| *index < self.clusters)?;
        let start = self.data_at.checked_add(index.checked_mul(self.cluster_bytes)?)?;
        let rest = self.bytes.get(start..)?;
        Some(rest.get(..self.cluster_bytes).unwrap_or(rest))
    }

    fn chain(&self, first: u32) -> Chain<'_, 'b> {
        Chain { fat: self, cluster: first, steps: 0, ready: &[] }
    }
}

/// Reads the clusters of a file one after another; a chain longer than the disk turns in a circle and ends.
struct Chain<'f, 'b> {
    fat: &'f Fat<'b>,
    cluster: u32,
    steps: usize,
    ready: &'b [u8],
}

impl Read for Chain<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.ready.is_empty()
            && self.steps <= self.fat.clusters
            && let Some(cluster) = self.fat.cluster(self.cluster)
        {
            self.ready = cluster;
            self.cluster = self.fat.next(self.cluster).unwrap_or(0);
            self.steps += 1;
        }
        self.ready.read(buffer)
    }
}

struct Entry {
    name: String,
    attributes: u8,
    cluster: u32,
    size: u64,
}

/// Directory entries; long names stand before their entry, last part first.
fn entries(listing: &[u8]) -> Vec<Entry> {
    const DELETED: u8 = 0xe5;
    let mut found = Vec::new();
    let mut long: Vec<u16> = Vec::new();
    for record in listing.chunks_exact(ENTRY_BYTES) {
        let (Some(first), Some(attributes)) = (record.first().copied(), record.get(11).copied()) else { break };
        if first == 0 {
            break;
        }
        if attributes == ATTRIBUTE_LONG_NAME {
            let part =
                [1..11, 14..26, 28..32].into_iter().flat_map(|range| record.get(range).unwrap_or_default().chunks_exact(2));
            let units: Vec<u16> =
                part.filter_map(|pair| read_u16(pair, 0)).take_while(|unit| *unit != 0 && *unit != 0xffff).collect();
            long.splice(0..0, units);
            continue;
        }
        let name = if long.is_empty() { short_name(record) } else { String::from_utf16_lossy(&long) };
        long.clear();
        let cluster = u32::from(read_u16(record, 20).unwrap_or(0)) << 16 | u32::from(read_u16(record, 26).unwrap_or(0));
        let size = u64::from(read_u32(record, 28).unwrap_or(0));
        if first != DELETED && first != b'.' {
            found.push(Entry { name, attributes, cluster, size });
        }
    }
    found
}

fn short_name(record: &[u8]) -> String {
    let part =
        |range: std::ops::Range<usize>| String::from_utf8_lossy(record.get(range).unwrap_or_default()).trim_end().to_owned();
    match part(8..11) {
        extension if extension.is_empty() => part(0..8),
        extension => format!("{}.{extension}", part(0..8)),
    }
}

pub(crate) fn open_fat(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let fat = Fat::parse(bytes).ok_or(Unscannable::Corrupt)?;
    let root = match fat.root {
        Root::Fixed { at, bytes: size } => bytes.get(at..at.saturating_add(size)).unwrap_or_default().to_vec(),
        Root::Cluster(first) => match walk.unpack(&mut fat.chain(first)) {
            Ok(listing) => listing,
            Err(_) => return Ok(()),
        },
    };
    let mut listings = vec![root];
    let mut seen = HashSet::new();
    let mut is_whole = true;
    while let Some(listing) = listings.pop() {
        for entry in entries(&listing) {
            if entry.attributes & ATTRIBUTE_DIRECTORY != 0 {
                if seen.len() < DIRECTORIES_MAX && seen.insert(entry.cluster) {
                    let Ok(listing) = walk.unpack(&mut fat.chain(entry.cluster)) else { return Ok(()) };
                    listings.push(listing);
                }
                continue;
            }
            if entry.attributes & ATTRIBUTE_VOLUME != 0 {
                continue;
            }
            let cluster = if fat.width == 32 { entry.cluster } else { entry.cluster & 0xffff };
            is_whole &= entry.size == 0 || fat.cluster(cluster).is_some();
            if walk.member(node, &entry.name, &mut fat.chain(cluster).take(entry.size)).is_break() {
                return Ok(());
            }
        }
    }
    if is_whole { Ok(()) } else { Err(Unscannable::Corrupt) }
}

/// Byte ranges of the partitions.
fn partitions(bytes: &[u8]) -> Vec<(usize, usize)> {
    const TYPE_PROTECTIVE: u8 = 0xee;
    const TYPES_EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
    let sectors = bytes.len() / SECTOR_BYTES;
    let mut ranges = Vec::new();
    for index in 0..4 {
        let at = 446 + index * 16;
        let (Some(status), Some(kind), Some(start), Some(count)) =
            (bytes.get(at), bytes.get(at + 4), read_u32(bytes, at + 8), read_u32(bytes, at + 12))
        else {
            return Vec::new();
        };
        if !matches!(status, 0 | 0x80) {
            return Vec::new();
        }
        if *kind == TYPE_PROTECTIVE {
            return gpt_partitions(bytes);
        }
        let (start, count) = (start as usize, count as usize);
        if *kind != 0 && !TYPES_EXTENDED.contains(kind) && start > 0 && start < sectors && count > 0 {
            ranges.push((start * SECTOR_BYTES, start.saturating_add(count).min(sectors) * SECTOR_BYTES));
        }
    }
    ranges
}

/// UEFI 2.10 section 5.3: a header in sector 1, entries of at least 128 bytes.
fn gpt_partitions(bytes: &[u8]) -> Vec<(usize, usize)> {
    let Some(header) = bytes.get(SECTOR_BYTES..).filter(|header| header.starts_with(b"EFI PART")) else { return Vec::new() };
    let (Some(table), Some(width)) = (read_u64(header, 72), read_u32(header, 84)) else { return Vec::new() };
    let Some(table) = usize::try_from(table).ok().and_then(|table| table.checked_mul(SECTOR_BYTES)) else { return Vec::new() };
    let width = (width as usize).clamp(128, 4096);
    let entries = bytes.get(table..).unwrap_or_default().chunks_exact(width).take(GPT_PARTITIONS_MAX);
    entries
        .filter_map(|entry| {
            let first = usize::try_from(read_u64(entry, 32)?).ok()?.checked_mul(SECTOR_BYTES)?;
            let end = usize::try_from(read_u64(entry, 40)?).ok()?.checked_add(1)?.checked_mul(SECTOR_BYTES)?;
            (first > 0 && first < end && first < bytes.len()).then_some((first, end.min(bytes.len())))
        })
        .collect()
}

pub(crate) fn open_partitions(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    for (index, (start, end)) in partitions(bytes).into_iter().enumerate() {
        if walk.view(node, &format!("partition-{index}"), bytes.get(start..end).unwrap_or_default()).is_break() {
            return Ok(());
        }
    }
    Ok(())
}

/// File systems that are recognised and not read.
pub(crate) fn is_foreign_file_system(bytes: &[u8]) -> bool {
    const EXT_MAGIC_OFFSET: usize = 1080;
    let at = |offset: usize, magic: &[u8]| bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    let is_ext = at(EXT_MAGIC_OFFSET, b"\x53\xef") && at(0, &[0; 512]) && read_u32(bytes, 1024 + 24).is_some_and(|log| log <= 6);
    at(3, b"NTFS    ") || at(3, b"EXFAT   ") || at(32, b"NXSB") || at(0, b"XFSB") || is_ext
}
