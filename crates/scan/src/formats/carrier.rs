//! Files hidden in files that are no containers: encoded in text, in UTF-16, and archives or programs appended to or
//! embedded in binaries. What is found here is a guess, so failing to read it says nothing about the file; only a hit, a
//! limit or an encrypted archive counts.

use super::marks::{self, Marks};
use super::{installer, textual};
use crate::format::{Format, pe_offset};
use crate::report::Unscannable;
use crate::walk::{Flow, Node, Step, Walk};

/// Places in one file where an archive signature is tried. Programs that handle archives name a few; more is evasion.
const CARVES_MAX: usize = 64;

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, format: &'static Format, bytes: &[u8]) -> Step {
    match format.name {
        "txt" | "html" | "svg" | "xml" | "sh" => {
            let _ = textual::open(walk, node, bytes);
            // Text has no zero bytes: something else follows it.
            if walk.flow().is_continue() && memchr::memchr(0, bytes).is_some() {
                carve(walk, node, bytes, Marks::of(bytes));
            }
        }
        "eml" => {
            let _ = textual::encoded_files(walk, node, bytes);
        }
        "bin" if utf16_text(bytes).is_some() => wide_text(walk, node, bytes),
        "exe" | "dll" => {
            let marks = Marks::of(bytes);
            carve(walk, node, bytes, marks);
            if walk.flow().is_continue() {
                installer::open(walk, node, bytes, marks)?;
            }
        }
        "pdf" | "bin" | "elf" | "macho" | "png" | "jpg" | "gif" | "bmp" | "webp" | "ico" | "lnk" | "mp3" | "mp4" | "wav"
        | "tif" | "flac" | "ogg" | "avi" | "mov" | "swf" | "class" | "dex" | "psd" | "ps" | "ttf" => {
            let marks = Marks::of(bytes);
            carve(walk, node, bytes, marks);
            if format.name == "bin" && walk.flow().is_continue() && marks.may_have(marks::YENC) {
                let _ = textual::encoded_files(walk, node, bytes);
            }
        }
        _ => {}
    }
    Ok(())
}

fn wide_text(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) {
    if let Some(text) = utf16_text(bytes) {
        let _ = walk.slice(node, "text", text.as_bytes());
    }
}

/// Reads a code unit in one of the two byte orders.
type Word = fn([u8; 2]) -> u16;

/// UTF-16 by byte order mark, or by every other byte of the first page being zero.
pub(super) fn utf16_text(bytes: &[u8]) -> Option<String> {
    const PROBE_BYTES: usize = 256;
    let head = bytes.get(..bytes.len().min(PROBE_BYTES))?;
    let zeros = |parity: usize| head.iter().skip(parity).step_by(2).filter(|byte| **byte == 0).count() * 10 >= head.len() / 2 * 9;
    let (body, word): (&[u8], Word) = match head {
        [0xff, 0xfe, ..] => (bytes.get(2..)?, u16::from_le_bytes),
        [0xfe, 0xff, ..] => (bytes.get(2..)?, u16::from_be_bytes),
        _ if head.len() >= 32 && zeros(1) && !zeros(0) => (bytes, u16::from_le_bytes),
        _ if head.len() >= 32 && zeros(0) && !zeros(1) => (bytes, u16::from_be_bytes),
        _ => return None,
    };
    let units: Vec<u16> = body.chunks_exact(2).filter_map(|pair| Some(word(pair.try_into().ok()?))).collect();
    Some(String::from_utf16_lossy(&units))
}

/// Tries archive signatures and program headers behind the start of a file that has these marks.
pub(crate) fn carve(walk: &mut Walk<'_>, node: &Node, bytes: &[u8], marks: Marks) {
    // Signatures, and how far behind the archive's start each stands.
    const ARCHIVES: [(&[u8], usize); 8] = [
        (b"7z\xbc\xaf\x27\x1c", 0),
        (b"Rar!\x1a\x07", 0),
        (b"MSCF\0\0\0\0", 0),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", 0),
        (b"**ACE**", 7),
        (b"\xdc\xa7\xc4\xfd", 20),
        (b"-lh5-", 2),
        (b"-lh7-", 2),
    ];
    // The zip reader walks every local header behind the first, so one try sees them all.
    if marks.may_have(marks::LOCAL_HEADER)
        && let Some(start) = super::zip::first_entry(bytes, 1)
        && carve_at(walk, node, bytes, start).is_break()
    {
        return;
    }
    for (magic, before) in ARCHIVES.into_iter().filter(|(magic, _)| marks.may_have(magic)) {
        let places = memchr::memmem::find_iter(bytes, magic).filter_map(|at| at.checked_sub(before)).filter(|at| *at > 0);
        if carve_places(walk, node, bytes, places).is_break() {
            return;
        }
    }
    // `60 EA` alone is too common to try: the header behind it must be a main header.
    let headers = memchr::memmem::find_iter(bytes, b"\x60\xea").filter(|at| *at > 0);
    let headers = headers.filter(|at| bytes.get(*at..).is_some_and(super::arj::is_arj));
    if carve_places(walk, node, bytes, headers).is_break() {
        return;
    }
    if marks.may_have(marks::DOS_STUB) {
        carve_programs(walk, node, bytes);
    }
}

/// Tries places until one gives members.
fn carve_places(walk: &mut Walk<'_>, node: &Node, bytes: &[u8], places: impl Iterator<Item = usize>) -> Flow {
    for (tries, start) in places.enumerate() {
        if tries >= CARVES_MAX {
            walk.note(node, Unscannable::EntryLimit, "embedded archives");
            break;
        }
        let seen = walk.budget.entries();
        carve_at(walk, node, bytes, start)?;
        if walk.budget.entries() > seen + 1 {
            break;
        }
    }
    walk.flow()
}

fn carve_at(walk: &mut Walk<'_>, node: &Node, bytes: &[u8], start: usize) -> Flow {
    let archive = bytes.get(start..).unwrap_or_default();
    walk.tentative(|walk| walk.view(node, &format!("offset-{start}"), archive))
}

/// Programs inside programs are how installers work; inside anything else they are found and examined.
fn carve_programs(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) {
    /// Where linkers put the stub's text.
    const STUB_OFFSET: usize = 0x4e;
    if pe_offset(bytes).is_some() {
        return;
    }
    for stub in memchr::memmem::find_iter(bytes, marks::DOS_STUB).take(CARVES_MAX) {
        let Some(program) = stub.checked_sub(STUB_OFFSET).and_then(|start| bytes.get(start..)) else { continue };
        if pe_offset(program).is_some() && walk.tentative(|walk| walk.view(node, "program", program)).is_break() {
            return;
        }
    }
}
