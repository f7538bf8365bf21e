//! Compound files ([MS-CFB]), by way of `cfb`: every stream is a member. Known streams are read further: encrypted
//! packages and legacy encryption flags, Packager objects, VBA modules, Excel 4 macro sheets.

use super::marks::Marks;
use super::{carrier, package, vba};
use crate::format::{read_u16, read_u32};
use crate::report::{FindingKind, Unscannable};
use crate::walk::{Flow, Node, Step, Walk};
use std::io::Cursor;

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let Ok(mut file) = cfb::CompoundFile::open(Cursor::new(bytes)) else {
        carrier::carve(walk, node, bytes, Marks::of(bytes));
        return Err(Unscannable::Corrupt);
    };
    let paths: Vec<_> = file.walk().filter(cfb::Entry::is_stream).map(|entry| entry.path().to_path_buf()).collect();
    let mut unread = None;
    for path in paths {
        let name = path.to_string_lossy().trim_start_matches('/').to_owned();
        let Ok(mut stream) = file.open_stream(&path) else {
            unread = Some(Unscannable::Corrupt);
            continue;
        };
        let Ok(body) = walk.unpack(&mut stream) else { return Ok(()) };
        if stream_member(walk, node, &name, &body).is_break() {
            return Ok(());
        }
    }
    unread.map_or(Ok(()), Err)
}

fn stream_member(walk: &mut Walk<'_>, node: &Node, name: &str, body: &[u8]) -> Flow {
    let leaf = name.rsplit('/').next().unwrap_or(name);
    match leaf {
        "EncryptedPackage" | "EncryptedSummary" => {
            walk.note(node, Unscannable::Encrypted, leaf);
            return walk.flow();
        }
        "WordDocument" => word(walk, node, body),
        "Workbook" | "Book" => workbook(walk, node, body),
        "PowerPoint Document" => presentation(walk, node, body)?,
        "Current User" => current_user(walk, node, body),
        "__substg1.0_10090102" => {
            if let Some(text) = compressed_rtf(body) {
                walk.slice(node, &format!("{name}.rtf"), &text)?;
            }
        }
        "\u{1}Ole10Native" => {
            walk.find(node, FindingKind::EmbeddedObject, name);
            if let Some(package) = package::ole10_native(body) {
                walk.slice(node, &format!("{name}!{}", package.name), package.body)?;
            }
        }
        _ => {}
    }
    if let Some(mut source) = vba::source(body) {
        walk.find(node, FindingKind::Macro, name);
        let text = walk.unpack(&mut source).unwrap_or_default();
        if let Some(procedure) = vba::auto_exec(&text) {
            walk.find(node, FindingKind::MacroAutoExec, &format!("{name}: {procedure}"));
        }
        if let Some(calls) = vba::calls(&text) {
            walk.find(node, FindingKind::MacroCalls, &format!("{name}: {calls}"));
        }
        walk.slice(node, &format!("{name}.bas"), &text)?;
    } else if vba::is_compiled_module(name, body) {
        walk.find(node, FindingKind::MacroStomped, name);
    }
    walk.slice(node, name, body)
}

/// The FIB's `fEncrypted` bit ([MS-DOC] section 2.5.2), and DDE fields in the text.
fn word(walk: &mut Walk<'_>, node: &Node, body: &[u8]) {
    const FLAG_ENCRYPTED: u16 = 0x0100;
    if read_u16(body, 10).is_some_and(|flags| flags & FLAG_ENCRYPTED != 0) {
        walk.note(node, Unscannable::Encrypted, "WordDocument");
    }
    let narrow: Vec<u8> = body.iter().copied().filter(|byte| *byte != 0).collect();
    // 0x13 begins a field; its instruction follows ([MS-DOC] section 2.8.25).
    let has_field = |keyword: &[u8]| {
        let with_space = [b"\x13 ", keyword].concat();
        let without = [b"\x13", keyword].concat();
        crate::format::contains(&narrow, &with_space) || crate::format::contains(&narrow, &without)
    };
    if has_field(b"DDEAUTO") || has_field(b"DDE ") || has_field(b"dde ") || has_field(b"ddeauto") {
        walk.find(node, FindingKind::Dde, "field");
    }
}

/// The header token of an encrypted presentation ([MS-PPT] section 2.3.2).
fn current_user(walk: &mut Walk<'_>, node: &Node, body: &[u8]) {
    const TOKEN_ENCRYPTED: u32 = 0xf3d1_c4df;
    if read_u32(body, 12) == Some(TOKEN_ENCRYPTED) {
        walk.note(node, Unscannable::Encrypted, "Current User");
    }
}

/// RTF in a message body ([MS-OXRTFCP] section 3.1): LZ77 over a window of 4 KiB that begins with common control words.
pub(super) fn compressed_rtf(bytes: &[u8]) -> Option<Vec<u8>> {
    const PRESET: &[u8; 207] =
        b"{\\rtf1\\ansi\\mac\\deff0\\deftab720{\\fonttbl;}{\\f0\\fnil \\froman \\fswiss \\fmodern \\fscript \\fdecor MS Sans \
SerifSymbolArialTimes New RomanCourier{\\colortbl\\red0\\green0\\blue0\r\n\\par \\pard\\plain\\f0\\fs20\\b\\i\\u\\tab\\tx";
    const WINDOW_BYTES: usize = 4096;
    /// A body cannot be larger than what 16 MiB of copies give.
    const PLAIN_BYTES_MAX: usize = 64 << 20;
    let body = bytes.get(16..)?;
    match bytes.get(8..12)? {
        b"MELA" => return Some(body.to_vec()),
        b"LZFu" => {}
        _ => return None,
    }
    let mut text = PRESET.to_vec();
    let mut at = 0;
    while let Some(flags) = body.get(at) {
        at += 1;
        for bit in 0..8 {
            if flags >> bit & 1 == 0 {
                let Some(byte) = body.get(at) else { return text.get(PRESET.len()..).map(<[u8]>::to_vec) };
                text.push(*byte);
                at += 1;
                continue;
            }
            let token = usize::from(*body.get(at)?) << 8 | usize::from(*body.get(at + 1)?);
            at += 2;
            let distance = (text.len() - (token >> 4)) % WINDOW_BYTES;
            if distance == 0 || text.len() > PLAIN_BYTES_MAX {
                return text.get(PRESET.len()..).map(<[u8]>::to_vec);
            }
            let start = text.len().checked_sub(distance)?;
            for index in 0..(token & 15) + 2 {
                text.push(*text.get(start + index)?);
            }
        }
    }
    text.get(PRESET.len()..).map(<[u8]>::to_vec)
}

/// Compressed OLE objects of a presentation ([MS-PPT] section 2.10.36): record version 0, instance 1, type 0x1011, then the
/// size and a zlib stream.
fn presentation(walk: &mut Walk<'_>, node: &Node, body: &[u8]) -> Flow {
    const RECORD: &[u8] = b"\x10\0\x11\x10";
    const HEADER_BYTES: usize = 12;
    for (index, at) in memchr::memmem::find_iter(body, RECORD).enumerate() {
        let packed = body.get(at + HEADER_BYTES..).unwrap_or_default();
        if packed.first() != Some(&0x78) {
            continue;
        }
        walk.find(node, FindingKind::EmbeddedObject, "presentation object");
        let Ok(object) = walk.unpack(&mut flate2::bufread::ZlibDecoder::new(packed)) else { return walk.flow() };
        walk.slice(node, &format!("object-{index}"), &object)?;
    }
    walk.flow()
}

/// BIFF records ([MS-XLS] section 2.4): FILEPASS means encryption, a BOUNDSHEET of type 1 is a macro sheet.
fn workbook(walk: &mut Walk<'_>, node: &Node, body: &[u8]) {
    const FILE_PASS: u16 = 0x002f;
    const BOUND_SHEET: u16 = 0x0085;
    const SUP_BOOK: u16 = 0x01ae;
    const RECORDS_MAX: usize = 100_000;
    let mut at = 0;
    for _ in 0..RECORDS_MAX {
        let (Some(kind), Some(size)) = (read_u16(body, at), read_u16(body, at + 2)) else { return };
        let record = body.get(at + 4..at + 4 + usize::from(size)).unwrap_or_default();
        match kind {
            FILE_PASS => return walk.note(node, Unscannable::Encrypted, "FilePass"),
            BOUND_SHEET if record.get(5) == Some(&1) => walk.find(node, FindingKind::MacroSheet, "Excel 4 macro sheet"),
            SUP_BOOK if is_dde_link(record) => walk.find(node, FindingKind::Dde, "external link"),
            _ => {}
        }
        at += 4 + usize::from(size);
    }
}

/// A supporting link whose path joins server and topic with U+0003 is DDE ([MS-XLS] section 2.4.271).
fn is_dde_link(record: &[u8]) -> bool {
    read_u32(record, 0).is_some_and(|head| head & 0xffff == 0) && record.get(4..).is_some_and(|path| path.contains(&3))
}
