//! Microsoft Cabinet ([MS-CAB]). The tables are read here and each folder is unpacked once, from its start to its end, by way
//! of the `cab` crate, which is given a cabinet of that one folder with one file: alone it would unpack a folder again for
//! each of its files, and find only the first of two equal names. A cabinet that continues in another says so.

use crate::format::{read_u16, read_u32};
use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};
use std::io::{Cursor, Read};

/// The fixed part of a header (section 2.1), of a folder (2.2), of a file (2.3) and of a data block (2.4).
const HEADER_BYTES: usize = 36;
const FOLDER_BYTES: usize = 8;
const FILE_BYTES: usize = 16;
const BLOCK_BYTES: usize = 8;
const FLAG_PREVIOUS: u16 = 1;
const FLAG_NEXT: u16 = 2;
const FLAG_RESERVE: u16 = 4;
/// Unpacked between two looks at the time, where a gap between files is passed over.
const SKIP_BYTES: usize = 64 << 10;
/// A folder is begun anew for a file that lies within an earlier one; no packer writes such files.
const RESTARTS_MAX: usize = 16;

struct Folder {
    /// Where its data blocks stand.
    blocks: std::ops::Range<usize>,
    block_count: u16,
    compression: u16,
    plain_bytes: u32,
}

struct File {
    folder: usize,
    start: u32,
    bytes: u32,
    name: String,
}

struct Tables {
    folders: Vec<Folder>,
    files: Vec<File>,
    /// Application bytes in each data block.
    block_reserve: u8,
}

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let mut tables = Tables::parse(bytes).ok_or(Unscannable::Corrupt)?;
    tables.files.sort_by_key(|file| (file.folder, file.start));
    let mut unread = None;
    for files in tables.files.chunk_by(|file, next| file.folder == next.folder) {
        let folder = files.first().and_then(|file| tables.folders.get(file.folder));
        // A file that continues in another cabinet has a folder that no table holds (section 2.3).
        let Some(folder) = folder else {
            unread = Some(Unscannable::Unsupported);
            continue;
        };
        if let Err(reason) = read_folder(walk, node, &alone(bytes, folder, tables.block_reserve), folder, files) {
            unread = Some(reason);
        }
        if walk.flow().is_break() {
            return Ok(());
        }
    }
    unread.map_or(Ok(()), Err)
}

/// Examines the files of a folder, given a cabinet with that folder alone.
fn read_folder(walk: &mut Walk<'_>, node: &Node, cabinet: &[u8], folder: &Folder, files: &[File]) -> Step {
    let mut unread = None;
    let mut rest = files;
    for _ in 0..RESTARTS_MAX {
        let mut alone = cab::Cabinet::new(Cursor::new(cabinet)).map_err(|error| reason(&error))?;
        let mut plain = alone.read_file(MEMBER).map_err(|error| reason(&error))?;
        let mut at = 0;
        while let [file, later @ ..] = rest {
            if file.start < at {
                break;
            }
            rest = later;
            if file.start > folder.plain_bytes || !skip(walk, &mut plain, file.start - at) {
                unread = Some(Unscannable::Corrupt);
                break;
            }
            let mut member = (&mut plain).take(u64::from(file.bytes));
            if walk.member(node, &file.name, &mut member).is_break() {
                return Ok(());
            }
            at = file.start.saturating_add(file.bytes);
            if member.limit() > 0 {
                unread = Some(Unscannable::Corrupt);
                break;
            }
        }
        if rest.is_empty() {
            return unread.map_or(Ok(()), Err);
        }
    }
    Err(Unscannable::Corrupt)
}

/// Passes over bytes that belong to no file. False where they end early, or the time does.
fn skip(walk: &mut Walk<'_>, plain: &mut dyn Read, bytes: u32) -> bool {
    let mut left = bytes as usize;
    let mut buffer = vec![0; SKIP_BYTES.min(left)];
    while left > 0 {
        if let Err(limit) = walk.budget.check_time() {
            let _ = walk.halt(limit);
            return false;
        }
        let length = left.min(SKIP_BYTES);
        match plain.read(buffer.get_mut(..length).unwrap_or_default()) {
            Ok(count @ 1..) => left -= count,
            _ => return false,
        }
    }
    true
}

fn reason(error: &std::io::Error) -> Unscannable {
    match error.kind() {
        std::io::ErrorKind::Unsupported => Unscannable::Unsupported,
        _ => Unscannable::Corrupt,
    }
}

/// What the one file of a made cabinet is called.
const MEMBER: &str = "m";

/// A cabinet of one folder, with one file that is all of it.
fn alone(bytes: &[u8], folder: &Folder, block_reserve: u8) -> Vec<u8> {
    let reserve = [0, 0, 0, block_reserve];
    let first_file = HEADER_BYTES + reserve.len() + FOLDER_BYTES;
    let first_block = first_file + FILE_BYTES + MEMBER.len() + 1;
    let blocks = bytes.get(folder.blocks.clone()).unwrap_or_default();
    let word = |value: usize| (value as u32).to_le_bytes();
    let mut made = Vec::with_capacity(first_block + blocks.len());
    made.extend_from_slice(b"MSCF\0\0\0\0");
    made.extend(word(first_block + blocks.len()));
    made.extend([0; 4]);
    made.extend(word(first_file));
    // Version 1.3, one folder, one file.
    made.extend([0, 0, 0, 0, 3, 1, 1, 0, 1, 0]);
    made.extend(FLAG_RESERVE.to_le_bytes());
    made.extend([0; 4]);
    made.extend(reserve);
    made.extend(word(first_block));
    made.extend(folder.block_count.to_le_bytes());
    made.extend(folder.compression.to_le_bytes());
    made.extend(folder.plain_bytes.to_le_bytes());
    // Offset, folder, and a date that is none.
    made.extend([0; FILE_BYTES - 4]);
    made.extend_from_slice(MEMBER.as_bytes());
    made.push(0);
    made.extend_from_slice(blocks);
    made
}

impl Tables {
    fn parse(bytes: &[u8]) -> Option<Tables> {
        let (folders, files, flags) = (read_u16(bytes, 26)?, read_u16(bytes, 28)?, read_u16(bytes, 30)?);
        let mut at = HEADER_BYTES;
        let (mut folder_reserve, mut block_reserve) = (0, 0);
        if flags & FLAG_RESERVE != 0 {
            (folder_reserve, block_reserve) = (usize::from(*bytes.get(38)?), *bytes.get(39)?);
            at = 40 + usize::from(read_u16(bytes, 36)?);
        }
        let names = 2 * (usize::from(flags & FLAG_PREVIOUS != 0) + usize::from(flags & FLAG_NEXT != 0));
        for _ in 0..names {
            at += memchr::memchr(0, bytes.get(at..)?)? + 1;
        }
        let mut tables = Tables { folders: Vec::new(), files: Vec::new(), block_reserve };
        for _ in 0..folders {
            tables.folders.push(Folder::parse(bytes, at, block_reserve)?);
            at += FOLDER_BYTES + folder_reserve;
        }
        let mut at = read_u32(bytes, 16)? as usize;
        for _ in 0..files {
            let name = bytes.get(at.checked_add(FILE_BYTES)?..)?;
            let name = name.get(..memchr::memchr(0, name)?)?;
            tables.files.push(File {
                bytes: read_u32(bytes, at)?,
                start: read_u32(bytes, at + 4)?,
                folder: usize::from(read_u16(bytes, at + 8)?),
                name: String::from_utf8_lossy(name).into_owned(),
            });
            at += FILE_BYTES + name.len() + 1;
        }
        Some(tables)
    }
}

impl Folder {
    /// The entry at a place, and how far its data blocks reach; those that are cut off count nothing.
    fn parse(bytes: &[u8], at: usize, block_reserve: u8) -> Option<Folder> {
        let start = read_u32(bytes, at)? as usize;
        let (block_count, compression) = (read_u16(bytes, at + 4)?, read_u16(bytes, at + 6)?);
        let (mut end, mut plain_bytes) = (start.min(bytes.len()), 0);
        for _ in 0..block_count {
            let (Some(packed), Some(plain)) = (read_u16(bytes, end + 4), read_u16(bytes, end + 6)) else { break };
            let next = end + BLOCK_BYTES + usize::from(block_reserve) + usize::from(packed);
            plain_bytes += u32::from(plain);
            end = next.min(bytes.len());
        }
        Some(Folder { blocks: start.min(end)..end, block_count, compression, plain_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engines::Engines;
    use crate::limits::Limits;
    use crate::report::{Report, Verdict};
    use std::io::Write;

    fn eicar() -> Vec<u8> {
        br"*H+H$!ELIF-TSET-SURIVITNA-DRADNATS-RACIE$}7)CC7)^P(45XZP\4[PA@%P!O5X".iter().rev().copied().collect()
    }

    fn packed(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = cab::CabinetBuilder::new();
        let folder = builder.add_folder(cab::CompressionType::MsZip);
        for (name, _) in files {
            folder.add_file(*name);
        }
        let mut writer = builder.build(Cursor::new(Vec::new())).unwrap();
        let mut contents = files.iter().map(|(_, content)| content);
        while let Some(mut file) = writer.next_file().unwrap() {
            file.write_all(contents.next().unwrap()).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn scan(bytes: &[u8]) -> Report {
        crate::scan_bytes(&Engines::built_in(), &Limits::default(), "a.cab", bytes)
    }

    #[test]
    fn the_second_of_two_equal_names_is_read() {
        let report = scan(&packed(&[("a", b"first"), ("a", &eicar()), ("b", b"third")]));
        assert_eq!((report.verdict, report.member.as_str()), (Verdict::Malicious, "a"));
        let clean = scan(&packed(&[("a", b"first"), ("a", b"second"), ("b", &[7; 100_000])]));
        assert_eq!((clean.verdict, clean.entries), (Verdict::Clean, 3));
    }

    #[test]
    fn a_file_within_another_is_read_too() {
        let eicar = eicar();
        let mut bytes = packed(&[("whole", &[b"before ".as_slice(), &eicar].concat()), ("part", b"...")]);
        let entry = read_u32(&bytes, 16).unwrap() as usize + FILE_BYTES + "whole".len() + 1;
        bytes[entry..entry + 4].copy_from_slice(&(eicar.len() as u32).to_le_bytes());
        bytes[entry + 4..entry + 8].copy_from_slice(&7_u32.to_le_bytes());
        assert_eq!(scan(&bytes).member, "part");
        bytes[entry + 4..entry + 8].copy_from_slice(&1_000_000_u32.to_le_bytes());
        assert_eq!(scan(&bytes).verdict, Verdict::Unscannable(Unscannable::Corrupt));
    }
}
