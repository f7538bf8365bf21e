//! ISO 9660 (ECMA-119) with Joliet: every file extent that any directory tree of the image names, each once, and the UDF
//! tree of a bridge disc. Rock Ridge changes names only and is ignored.

use crate::format::read_u32;
use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};
use std::collections::HashSet;

const SECTOR_BYTES: usize = 2048;
const FIRST_DESCRIPTOR: usize = 16;
/// Descriptors in one image; real ones have two or three.
const DESCRIPTORS_MAX: usize = 32;
/// One directory. ISO images of a million files do not pass a gate.
const DIRECTORY_BYTES_MAX: usize = 16 << 20;
const FLAG_DIRECTORY: u8 = 2;

struct Record<'b> {
    extent: (u32, u32),
    flags: u8,
    name: &'b [u8],
}

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let mut seen = HashSet::new();
    let mut directories: Vec<(u32, u32)> = roots(bytes);
    let mut is_whole = !directories.is_empty();
    while let Some(directory) = directories.pop() {
        // A directory is an entry too: extents may overlap, so that an image holds as many directories as records, each as
        // long as the image.
        if let Err(limit) = walk.budget.enter() {
            let _ = walk.halt(limit);
            return Ok(());
        }
        let Some(listing) = extent(bytes, directory).filter(|listing| listing.len() <= DIRECTORY_BYTES_MAX) else {
            is_whole = false;
            continue;
        };
        for record in records(listing) {
            if matches!(record.name, [0] | [1]) || !seen.insert(record.extent) {
                continue;
            }
            if record.flags & FLAG_DIRECTORY != 0 {
                directories.push(record.extent);
                continue;
            }
            let Some(body) = extent(bytes, record.extent) else {
                is_whole = false;
                continue;
            };
            if walk.slice(node, &name(record.name), body).is_break() {
                return Ok(());
            }
        }
    }
    // A bridge disc has a second tree, which need not name the same files.
    if super::udf::is_udf(bytes) {
        super::udf::open(walk, node, bytes)?;
    }
    if is_whole { Ok(()) } else { Err(Unscannable::Corrupt) }
}

/// Root directories of the primary and every supplementary descriptor (ECMA-119 sections 8.4 and 8.5).
fn roots(bytes: &[u8]) -> Vec<(u32, u32)> {
    const ROOT_RECORD_OFFSET: usize = 156;
    let sector = |index: usize| bytes.get(index * SECTOR_BYTES..(index + 1) * SECTOR_BYTES);
    let descriptors = (FIRST_DESCRIPTOR..FIRST_DESCRIPTOR + DESCRIPTORS_MAX).map_while(sector);
    descriptors
        .take_while(|descriptor| descriptor.get(1..6) == Some(b"CD001"))
        .filter(|descriptor| matches!(descriptor.first(), Some(1 | 2)))
        .filter_map(|descriptor| {
            Some((read_u32(descriptor, ROOT_RECORD_OFFSET + 2)?, read_u32(descriptor, ROOT_RECORD_OFFSET + 10)?))
        })
        .collect()
}

/// Empty files may name any block.
fn extent(bytes: &[u8], (block, size): (u32, u32)) -> Option<&[u8]> {
    if size == 0 {
        return Some(&[]);
    }
    let start = (block as usize).checked_mul(SECTOR_BYTES)?;
    bytes.get(start..start.checked_add(size as usize)?)
}

/// Directory records (section 9.1); a zero length skips to the next sector.
fn records(listing: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let length = usize::from(*listing.get(at)?);
            if length == 0 {
                at = (at / SECTOR_BYTES + 1) * SECTOR_BYTES;
                continue;
            }
            let record = listing.get(at..at + length)?;
            at += length;
            let name_bytes = usize::from(*record.get(32)?);
            return Some(Record {
                extent: (read_u32(record, 2)?, read_u32(record, 10)?),
                flags: *record.get(25)?,
                name: record.get(33..33 + name_bytes)?,
            });
        }
    })
}

fn name(bytes: &[u8]) -> String {
    let is_joliet = bytes.len() >= 2 && bytes.first() == Some(&0);
    match is_joliet {
        true => {
            let units: Vec<u16> =
                bytes.chunks_exact(2).filter_map(|pair| Some(u16::from_be_bytes(pair.try_into().ok()?))).collect();
            String::from_utf16_lossy(&units)
        }
        false => String::from_utf8_lossy(bytes).into_owned(),
    }
}
