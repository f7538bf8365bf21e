//! Shell links ([MS-SHLLINK]): the command that a link runs, and what is appended to it. A link that starts an interpreter
//! with a command of its own is how mail drops programs; links to files are everyday.

use crate::format::{read_u16, read_u32};
use crate::report::{FindingKind, Unscannable};
use crate::walk::{Node, Step, Walk};

const HEADER_BYTES: usize = 76;
const FLAG_ID_LIST: u32 = 1;
const FLAG_LINK_INFO: u32 = 2;
const FLAG_UNICODE: u32 = 0x80;
/// Name, relative path, working folder, arguments and icon, in the order of their flags (section 2.4).
const STRINGS: [(u32, &str); 5] = [(4, "name"), (8, "path"), (0x10, "folder"), (0x20, "arguments"), (0x40, "icon")];
/// Programs that run what their arguments say.
const INTERPRETERS: [&str; 12] = [
    "powershell",
    "pwsh",
    "cmd",
    "mshta",
    "wscript",
    "cscript",
    "rundll32",
    "regsvr32",
    "certutil",
    "bitsadmin",
    "msiexec",
    "forfiles",
];
/// What such arguments fetch or hide.
const SIGNS: [&str; 14] = [
    "http:",
    "https:",
    "-enc",
    "-e ",
    "frombase64",
    "iex",
    "invoke-",
    "downloadstring",
    "javascript:",
    "vbscript:",
    "\\\\",
    "hidden",
    "/c ",
    "|",
];

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let flags = read_u32(bytes, 20).ok_or(Unscannable::Corrupt)?;
    let mut at = HEADER_BYTES;
    let mut target = String::new();
    if flags & FLAG_ID_LIST != 0 {
        let size = usize::from(read_u16(bytes, at).ok_or(Unscannable::Corrupt)?);
        target.extend(printable(bytes.get(at + 2..at + 2 + size).unwrap_or_default()));
        at += 2 + size;
    }
    if flags & FLAG_LINK_INFO != 0 {
        let size = read_u32(bytes, at).ok_or(Unscannable::Corrupt)? as usize;
        target.extend(printable(bytes.get(at..at.saturating_add(size)).unwrap_or_default()));
        at = at.saturating_add(size);
    }
    let mut arguments = String::new();
    for (flag, name) in STRINGS {
        if flags & flag == 0 {
            continue;
        }
        let (text, next) = string(bytes, at, flags & FLAG_UNICODE != 0).ok_or(Unscannable::Corrupt)?;
        at = next;
        match name {
            "arguments" => arguments = text,
            "path" => target.push_str(&text),
            _ => {}
        }
    }
    if !arguments.is_empty() {
        judge(walk, node, &target.to_ascii_lowercase(), &arguments);
        let _ = walk.slice(node, "arguments", arguments.as_bytes());
    }
    Ok(())
}

fn judge(walk: &mut Walk<'_>, node: &Node, target: &str, arguments: &str) {
    let folded = arguments.to_ascii_lowercase();
    let runs = INTERPRETERS.iter().find(|program| target.contains(*program) || folded.contains(*program));
    if let Some(program) = runs
        && SIGNS.iter().any(|sign| folded.contains(sign))
    {
        walk.find(node, FindingKind::ScriptDropper, &format!("link runs {program}: {arguments}"));
    }
}

/// A counted string and where the next begins.
fn string(bytes: &[u8], at: usize, is_wide: bool) -> Option<(String, usize)> {
    let count = usize::from(read_u16(bytes, at)?);
    let start = at + 2;
    if !is_wide {
        let text = bytes.get(start..start + count)?;
        return Some((String::from_utf8_lossy(text).into_owned(), start + count));
    }
    let units: Vec<u16> = bytes.get(start..start + 2 * count)?.chunks_exact(2).filter_map(|unit| read_u16(unit, 0)).collect();
    Some((String::from_utf16_lossy(&units), start + 2 * count))
}

/// Letters of one or two bytes, without the zeros between.
fn printable(bytes: &[u8]) -> impl Iterator<Item = char> + '_ {
    bytes.iter().filter(|byte| **byte != 0).map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { ' ' })
}
