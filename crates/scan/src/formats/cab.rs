//! Microsoft Cabinet ([MS-CAB]), by way of the `cab` crate. A cabinet that continues in another file cannot be read whole
//! and says so. The crate trusts where a file says it begins, so that is compared with the data blocks first.

use crate::format::{read_u16, read_u32};
use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};
use std::collections::HashSet;
use std::io::Cursor;

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let mut cabinet = cab::Cabinet::new(Cursor::new(bytes)).map_err(|error| reason(&error))?;
    let names: Vec<String> = cabinet
        .folder_entries()
        .flat_map(|folder| folder.file_entries().map(|file| file.name().to_owned()).collect::<Vec<_>>())
        .collect();
    // The crate finds files by name, so the second of two equal names cannot be reached.
    let mut distinct = HashSet::new();
    let mut unread = names.iter().any(|name| !distinct.insert(name)).then_some(Unscannable::Unsupported);
    let begins = files_that_begin(bytes).filter(|begins| begins.len() == names.len()).ok_or(Unscannable::Corrupt)?;
    // It takes the first of equal ones, so a name is opened only where all of them can be.
    let beyond: HashSet<&String> = names.iter().zip(&begins).filter(|(_, begins)| !**begins).map(|(name, _)| name).collect();
    for name in &names {
        if beyond.contains(name) {
            unread = Some(Unscannable::Corrupt);
            continue;
        }
        match cabinet.read_file(name) {
            Ok(mut member) => {
                if walk.member(node, name, &mut member).is_break() {
                    return Ok(());
                }
            }
            Err(error) => unread = Some(reason(&error)),
        }
    }
    unread.map_or(Ok(()), Err)
}

fn reason(error: &std::io::Error) -> Unscannable {
    match error.kind() {
        std::io::ErrorKind::Unsupported => Unscannable::Unsupported,
        _ => Unscannable::Corrupt,
    }
}

/// Of each file, in the order of its folders, whether it begins inside its folder's unpacked bytes (section 2).
fn files_that_begin(bytes: &[u8]) -> Option<Vec<bool>> {
    const FLAG_PREVIOUS: u16 = 1;
    const FLAG_NEXT: u16 = 2;
    const FLAG_RESERVE: u16 = 4;
    let (folders, files, flags) = (read_u16(bytes, 26)?, read_u16(bytes, 28)?, read_u16(bytes, 30)?);
    let mut at = 36;
    let (mut folder_reserve, mut data_reserve) = (0, 0);
    if flags & FLAG_RESERVE != 0 {
        (folder_reserve, data_reserve) = (usize::from(*bytes.get(38)?), usize::from(*bytes.get(39)?));
        at = 40 + usize::from(read_u16(bytes, 36)?);
    }
    let names = 2 * (usize::from(flags & FLAG_PREVIOUS != 0) + usize::from(flags & FLAG_NEXT != 0));
    for _ in 0..names {
        at += memchr::memchr(0, bytes.get(at..)?)? + 1;
    }
    let mut unpacked = Vec::new();
    for _ in 0..folders {
        let start = read_u32(bytes, at)? as usize;
        unpacked.push(unpacked_bytes(bytes, start, read_u16(bytes, at + 4)?, data_reserve));
        at += 8 + folder_reserve;
    }
    let mut at = read_u32(bytes, 16)? as usize;
    let mut begins = Vec::new();
    for _ in 0..files {
        const FILE_BYTES: usize = 16;
        let folder = usize::from(read_u16(bytes, at.checked_add(8)?)?);
        begins.push((folder, u64::from(read_u32(bytes, at + 4)?) <= *unpacked.get(folder)?));
        at = at + FILE_BYTES + memchr::memchr(0, bytes.get(at + FILE_BYTES..)?)? + 1;
    }
    begins.sort_by_key(|(folder, _)| *folder);
    Some(begins.into_iter().map(|(_, begins)| begins).collect())
}

/// What the data blocks of a folder say they unpack to; those that are cut off count nothing.
fn unpacked_bytes(bytes: &[u8], start: usize, blocks: u16, reserve: usize) -> u64 {
    let mut at = start;
    let mut total = 0;
    for _ in 0..blocks {
        let (Some(packed), Some(unpacked)) = (read_u16(bytes, at.saturating_add(4)), read_u16(bytes, at.saturating_add(6)))
        else {
            return total;
        };
        total += u64::from(unpacked);
        at = at.saturating_add(8 + reserve + usize::from(packed));
    }
    total
}
