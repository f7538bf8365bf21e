//! Apple disk images (UDIF): the `koly` trailer points to a property list whose `blkx` tables tell how the image is
//! packed. And HFS+ (Apple TN1150), walked by the leaves of its catalog. Apple's own compressed files and APFS are named as
//! unsupported.

use super::xar::{be_u16, be_u32, be_u64};
use crate::format::find;
use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};
use base64::Engine;
use std::io::Read;

const TRAILER_BYTES: usize = 512;
const SECTOR_BYTES: u64 = 512;
/// Runs in one table; a run is half a MiB as a rule.
const RUNS_MAX: usize = 100_000;

/// The trailer stands at the end.
pub(crate) fn is_dmg(bytes: &[u8]) -> bool {
    trailer(bytes).is_some()
}

fn trailer(bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(bytes.len().checked_sub(TRAILER_BYTES)?..).filter(|trailer| trailer.starts_with(b"koly\0\0\0\x04"))
}

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let trailer = trailer(bytes).ok_or(Unscannable::Corrupt)?;
    let field = |at: usize| be_u64(trailer, at).and_then(|value| usize::try_from(value).ok()).ok_or(Unscannable::Corrupt);
    let (data_at, list_at, list_bytes) = (field(24)?, field(216)?, field(224)?);
    let list = bytes.get(list_at..list_at.saturating_add(list_bytes)).ok_or(Unscannable::Corrupt)?;
    let data = bytes.get(data_at..).ok_or(Unscannable::Corrupt)?;
    let start = find(list, b"<key>blkx</key>").ok_or(Unscannable::Unsupported)?;
    let tables = String::from_utf8_lossy(list.get(start..).unwrap_or_default()).into_owned();
    let tables = tables.split("</array>").next().unwrap_or_default();
    for (index, text) in tables.split("<data>").skip(1).enumerate() {
        let text: String = text.split("</data>").next().unwrap_or_default().split_whitespace().collect();
        let table = base64::engine::general_purpose::STANDARD.decode(text).map_err(|_| Unscannable::Corrupt)?;
        let mut runs = Runs { table: &table, data, index: 0, current: None, is_unsupported: false };
        let flow = walk.member(node, &format!("partition-{index}"), &mut runs);
        if runs.is_unsupported {
            walk.note(node, Unscannable::Unsupported, "packing method");
        }
        if flow.is_break() {
            return Ok(());
        }
    }
    Ok(())
}

/// The runs of one `mish` table, read one after another.
struct Runs<'b> {
    table: &'b [u8],
    data: &'b [u8],
    index: usize,
    current: Option<Box<dyn Read + 'b>>,
    is_unsupported: bool,
}

impl<'b> Runs<'b> {
    /// The next run's bytes; `None` at the end or when the table lies.
    fn next(&mut self) -> Option<Box<dyn Read + 'b>> {
        const RUN_BYTES: usize = 40;
        const FIRST_RUN: usize = 204;
        let count = be_u32(self.table, 200)? as usize;
        loop {
            if self.index >= count.min(RUNS_MAX) {
                return None;
            }
            let at = FIRST_RUN + self.index * RUN_BYTES;
            self.index += 1;
            let plain_bytes = be_u64(self.table, at + 16)?.saturating_mul(SECTOR_BYTES);
            let offset = usize::try_from(be_u64(self.table, at + 24)?).ok()?;
            let length = usize::try_from(be_u64(self.table, at + 32)?).ok()?;
            let packed = self.data.get(offset..offset.checked_add(length)?)?;
            return Some(match be_u32(self.table, at)? {
                0 | 2 => Box::new(std::io::repeat(0).take(plain_bytes)),
                1 => Box::new(packed),
                0x8000_0005 => Box::new(flate2::bufread::ZlibDecoder::new(packed)),
                0x8000_0006 => Box::new(bzip2::bufread::MultiBzDecoder::new(packed)),
                0x8000_0008 => Box::new(super::stream::xz_reader(packed)),
                0x7fff_fffe => continue,
                0xffff_ffff => return None,
                _ => {
                    self.is_unsupported = true;
                    Box::new(std::io::repeat(0).take(plain_bytes))
                }
            });
        }
    }
}

impl Read for Runs<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            if self.current.is_none() {
                self.current = self.next();
            }
            let Some(run) = self.current.as_mut() else { return Ok(0) };
            let count = run.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            self.current = None;
        }
    }
}

const HEADER_OFFSET: usize = 1024;
const CATALOG_FORK: usize = 272;
const EXTENTS: usize = 8;

/// `H+` version 4 or `HX` version 5, behind two boot blocks.
pub(crate) fn is_hfs_plus(bytes: &[u8]) -> bool {
    bytes.get(HEADER_OFFSET..HEADER_OFFSET + 4).is_some_and(|head| matches!(head, b"H+\0\x04" | b"HX\0\x05"))
}

/// A fork: its size and the bytes of its first eight extents.
struct Fork<'b> {
    size: u64,
    parts: Vec<&'b [u8]>,
    is_whole: bool,
}

impl<'b> Fork<'b> {
    fn parse(bytes: &'b [u8], block_bytes: usize, record: &[u8]) -> Option<Fork<'b>> {
        let size = be_u64(record, 0)?;
        let mut parts = Vec::new();
        let mut found = 0u64;
        for index in 0..EXTENTS {
            let start = be_u32(record, 16 + index * 8)? as usize;
            let length = (be_u32(record, 20 + index * 8)? as usize).checked_mul(block_bytes)?;
            if length == 0 {
                break;
            }
            let part = start.checked_mul(block_bytes).and_then(|start| bytes.get(start..start.checked_add(length)?));
            let Some(part) = part else { break };
            found += part.len() as u64;
            parts.push(part);
        }
        Some(Fork { size, parts, is_whole: found >= size })
    }

    fn reader(&self) -> impl Read + '_ {
        let start: Box<dyn Read + '_> = Box::new(std::io::empty());
        self.parts.iter().fold(start, |whole, part| Box::new(whole.chain(*part)) as Box<dyn Read + '_>).take(self.size)
    }
}

pub(crate) fn open_hfs_plus(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let header = bytes.get(HEADER_OFFSET..).ok_or(Unscannable::Corrupt)?;
    let block_bytes = be_u32(header, 40).filter(|bytes| bytes.is_power_of_two()).ok_or(Unscannable::Corrupt)? as usize;
    let fork = header.get(CATALOG_FORK..).and_then(|record| Fork::parse(bytes, block_bytes, record));
    let fork = fork.filter(|fork| fork.is_whole).ok_or(Unscannable::Corrupt)?;
    let Ok(catalog) = walk.unpack(&mut fork.reader()) else { return Ok(()) };
    let node_bytes = be_u16(&catalog, 32).map(usize::from).filter(|bytes| *bytes >= 512).ok_or(Unscannable::Corrupt)?;
    let mut leaf = be_u32(&catalog, 24).ok_or(Unscannable::Corrupt)? as usize;
    let mut is_whole = true;
    for _ in 0..catalog.len() / node_bytes {
        if leaf == 0 {
            break;
        }
        let Some(content) = leaf.checked_mul(node_bytes).and_then(|at| catalog.get(at..at + node_bytes)) else {
            is_whole = false;
            break;
        };
        for record in records(content) {
            let Some((name, forks)) = file(bytes, block_bytes, record, &mut is_whole) else { continue };
            for fork in forks {
                is_whole &= fork.is_whole;
                if walk.member(node, &name, &mut fork.reader()).is_break() {
                    return Ok(());
                }
            }
        }
        leaf = be_u32(content, 0).unwrap_or(0) as usize;
    }
    if is_whole { Ok(()) } else { Err(Unscannable::Unsupported) }
}

/// Records of a node, by the offsets at its end.
fn records(node: &[u8]) -> impl Iterator<Item = &[u8]> {
    let count = be_u16(node, 10).map_or(0, usize::from).min(node.len() / 4);
    (0..count).filter_map(move |index| {
        let offset = |index: usize| be_u16(node, node.len().checked_sub(2 * (index + 1))?).map(usize::from);
        node.get(offset(index)?..offset(index + 1)?)
    })
}

/// The name and the non-empty forks of a file record.
fn file<'b>(bytes: &'b [u8], block_bytes: usize, record: &[u8], is_whole: &mut bool) -> Option<(String, Vec<Fork<'b>>)> {
    const TYPE_FILE: u16 = 2;
    const FLAG_COMPRESSED: u8 = 0x20;
    let key_bytes = usize::from(be_u16(record, 0)?);
    let units = usize::from(be_u16(record, 6)?);
    let name: Vec<u16> = record.get(8..8 + units * 2)?.chunks_exact(2).filter_map(|unit| be_u16(unit, 0)).collect();
    let data = record.get((2 + key_bytes).next_multiple_of(2)..)?;
    if be_u16(data, 0)? != TYPE_FILE {
        return None;
    }
    *is_whole &= data.get(41)? & FLAG_COMPRESSED == 0;
    let forks = [88, 168].into_iter().filter_map(|at| Fork::parse(bytes, block_bytes, data.get(at..)?));
    Some((String::from_utf16_lossy(&name), forks.filter(|fork| fork.size > 0).collect()))
}
