//! Files hidden in files that are no containers: base64 in text, scripts and data URLs, UTF-16 text, and archives or
//! programs appended to or embedded in binaries. What is found here is a guess, so failing to read it says nothing about
//! the file; only a hit, a limit or an encrypted archive counts.

use crate::format::{Format, contains, detect, find, is_executable, pe_offset};
use crate::report::{FindingKind, Unscannable};
use crate::walk::{Flow, Node, Step, Walk};
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Shorter runs of base64 letters are words and identifiers.
const RUN_BYTES_MIN: usize = 40;
/// Places in one file where an archive signature is tried. Programs that handle archives name a few; more is evasion.
const CARVES_MAX: usize = 64;

/// Lenient in the ways that browsers are: padding optional, stray bits ignored.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent).with_decode_allow_trailing_bits(true),
);

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, format: &'static Format, bytes: &[u8]) -> Step {
    match format.name {
        "txt" | "html" | "svg" | "xml" | "sh" => {
            base64_runs(walk, node, bytes);
            uuencoded(walk, node, bytes);
        }
        "eml" => uuencoded(walk, node, bytes),
        "bin" if utf16_text(bytes).is_some() => wide_text(walk, node, bytes),
        "pdf" | "bin" | "exe" | "dll" | "elf" | "macho" | "png" | "jpg" | "gif" | "bmp" | "webp" | "ico" | "lnk" | "mp3"
        | "mp4" | "wav" => carve(walk, node, bytes),
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
fn utf16_text(bytes: &[u8]) -> Option<String> {
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

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

fn base64_runs(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) {
    let mut rest = bytes;
    while let Some(start) = rest.iter().position(|byte| is_base64(*byte)) {
        let run = rest.get(start..).unwrap_or_default();
        let end = run.iter().position(|byte| !is_base64(*byte) && !matches!(byte, b'\r' | b'\n')).unwrap_or(run.len());
        rest = run.get(end..).unwrap_or_default();
        if end < RUN_BYTES_MIN {
            continue;
        }
        if decode(walk, node, bytes, run.get(..end).unwrap_or_default()).is_break() {
            return;
        }
    }
}

fn decode(walk: &mut Walk<'_>, node: &Node, page: &[u8], run: &[u8]) -> Flow {
    let mut letters: Vec<u8> = run.iter().copied().filter(|byte| is_base64(*byte) && *byte != b'=').collect();
    if letters.len() % 4 == 1 {
        letters.pop();
    }
    let Ok(decoded) = BASE64.decode(&letters) else { return walk.flow() };
    let format = detect(&decoded);
    let is_tiny_text = format.name == "txt" && decoded.len() <= TINY_BYTES_MAX;
    if !is_payload(format) && !is_tiny_text {
        return walk.flow();
    }
    if is_payload(format) && builds_a_file(page) {
        walk.find(node, FindingKind::HtmlSmuggling, &format!("{} in base64", format.name));
    }
    walk.tentative(|walk| walk.slice(node, "base64", &decoded))
}

/// Files in uuencode (POSIX uuencode(1)): `begin MODE NAME`, lines that start with their length, `end`.
fn uuencoded(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) {
    let mut rest = bytes;
    while let Some(start) = find(rest, b"begin ") {
        rest = rest.get(start + b"begin ".len()..).unwrap_or_default();
        let mut lines = rest.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let head = lines.next().map(String::from_utf8_lossy).unwrap_or_default();
        let Some((mode, name)) = head.split_once(' ') else { continue };
        if !mode.bytes().all(|digit| (b'0'..=b'7').contains(&digit)) {
            continue;
        }
        let body: Vec<u8> = lines.take_while(|line| *line != b"end").filter_map(uu_line).flatten().collect();
        if !body.is_empty() && walk.tentative(|walk| walk.slice(node, name, &body)).is_break() {
            return;
        }
    }
}

/// One line: its length in the first letter, then four letters for three bytes.
fn uu_line(line: &[u8]) -> Option<Vec<u8>> {
    let value = |letter: &u8| letter.wrapping_sub(b' ') & 0x3f;
    let (length, letters) = line.split_first()?;
    let mut bytes = Vec::new();
    for group in letters.chunks(4) {
        let bits = (0..4).fold(0u32, |bits, index| bits << 6 | u32::from(group.get(index).map_or(0, value)));
        bytes.extend(bits.to_be_bytes().into_iter().skip(1));
    }
    bytes.truncate(usize::from(value(length)));
    (!bytes.is_empty()).then_some(bytes)
}

/// The EICAR file fits.
const TINY_BYTES_MAX: usize = 128;

/// What is worth carrying in text: programs, archives, documents. Images and fonts are everyday data URLs.
fn is_payload(format: &Format) -> bool {
    is_executable(format) || matches!(format.opener, crate::format::Opener::Container(_) | crate::format::Opener::Sealed(_))
}

/// Script calls that turn a string into a download.
fn builds_a_file(page: &[u8]) -> bool {
    const CALLS: [&[u8]; 5] = [b"Blob(", b"createObjectURL", b"msSaveOrOpenBlob", b"msSaveBlob", b"atob("];
    CALLS.iter().any(|call| contains(page, call))
}

/// Tries archive signatures and program headers behind the start of a file.
pub(crate) fn carve(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) {
    const ARCHIVES: [&[u8]; 4] = [b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"MSCF\0\0\0\0", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"];
    // The zip reader walks every local header behind the first, so one try sees them all.
    if let Some(start) = super::zip::first_entry(bytes, 1)
        && carve_at(walk, node, bytes, start).is_break()
    {
        return;
    }
    for magic in ARCHIVES {
        let places = memchr::memmem::find_iter(bytes, magic).filter(|at| *at > 0);
        for (tries, start) in places.enumerate() {
            if tries >= CARVES_MAX {
                walk.note(node, Unscannable::EntryLimit, "embedded archives");
                break;
            }
            let seen = walk.budget.entries();
            if carve_at(walk, node, bytes, start).is_break() {
                return;
            }
            if walk.budget.entries() > seen + 1 {
                break;
            }
        }
    }
    carve_programs(walk, node, bytes);
}

fn carve_at(walk: &mut Walk<'_>, node: &Node, bytes: &[u8], start: usize) -> Flow {
    let archive = bytes.get(start..).unwrap_or_default();
    walk.tentative(|walk| walk.view(node, &format!("offset-{start}"), archive))
}

/// Programs inside programs are how installers work; inside anything else they are found and examined.
fn carve_programs(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) {
    const STUB: &[u8] = b"This program cannot be run in DOS mode";
    /// Where linkers put the stub's text.
    const STUB_OFFSET: usize = 0x4e;
    if pe_offset(bytes).is_some() {
        return;
    }
    for stub in memchr::memmem::find_iter(bytes, STUB).take(CARVES_MAX) {
        let Some(program) = stub.checked_sub(STUB_OFFSET).and_then(|start| bytes.get(start..)) else { continue };
        if pe_offset(program).is_some() && walk.tentative(|walk| walk.view(node, "program", program)).is_break() {
            return;
        }
    }
}
