//! RTF: the hexadecimal data of `\objdata` groups, decoded the way Word does it: white space, nested groups and unknown
//! control words between the digits are skipped, which is how obfuscated documents hide objects. Text is not rendered.

use super::package;
use crate::format::find;
use crate::report::{FindingKind, Unscannable};
use crate::walk::{Node, Step, Walk};

/// Objects in one document; the walk's entry limit would stop later.
const OBJECTS_MAX: usize = 1000;

/// Word accepts any document that starts with `{\rt`.
pub(crate) fn is_rtf(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(b"{\\rt")
}

pub(crate) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    const KEYWORD: &[u8] = b"\\objdata";
    let mut at = 0;
    for index in 0..OBJECTS_MAX {
        let Some(found) = bytes.get(at..).and_then(|rest| find(rest, KEYWORD)) else { return links(walk, node, bytes) };
        at += found + KEYWORD.len();
        let digits = HexDigits { bytes: bytes.get(at..).unwrap_or_default(), at: 0, depth: 0 };
        let Ok(object) = walk.unpack(&mut HexReader { digits }) else { return Ok(()) };
        walk.find(node, FindingKind::EmbeddedObject, &format!("object-{index}"));
        if let Some(package) = package::ole1(&object)
            && walk.slice(node, &format!("object-{index}!{}", package.name), package.body).is_break()
        {
            return Ok(());
        }
        if walk.slice(node, &format!("object-{index}"), &object).is_break() {
            return Ok(());
        }
    }
    Err(Unscannable::EntryLimit)
}

/// Fields and templates that make Word fetch something when the document opens.
fn links(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Step {
    let fetches = |from: usize| {
        let rest = bytes.get(from..bytes.len().min(from + 200)).unwrap_or_default();
        find(rest, b"http").is_some() || find(rest, b"\\\\\\\\").is_some()
    };
    if find(bytes, b"\\*\\template").is_some_and(fetches) {
        walk.find(node, FindingKind::RemoteTemplate, "template");
    }
    if find(bytes, b"DDEAUTO").is_some() {
        walk.find(node, FindingKind::Dde, "field");
    }
    Ok(())
}

/// The hexadecimal digits of one group, to its closing brace.
struct HexDigits<'b> {
    bytes: &'b [u8],
    at: usize,
    depth: usize,
}

impl HexDigits<'_> {
    fn next_byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// Skips a control word with its number, or a control symbol; `\bin` data is skipped with its length.
    fn skip_control(&mut self) {
        let word_at = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_alphabetic) {
            self.at += 1;
        }
        if self.at == word_at {
            let is_hex_escape = self.bytes.get(self.at) == Some(&b'\'');
            self.at += if is_hex_escape { 3 } else { 1 };
            return;
        }
        while self.bytes.get(self.at).is_some_and(|byte| byte.is_ascii_digit() || *byte == b'-') {
            self.at += 1;
        }
        if self.bytes.get(self.at) == Some(&b' ') {
            self.at += 1;
        }
    }
}

impl Iterator for HexDigits<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        loop {
            match self.next_byte()? {
                b'\\' => self.skip_control(),
                b'{' => self.depth += 1,
                b'}' if self.depth == 0 => return None,
                b'}' => self.depth -= 1,
                byte => {
                    if let Some(value) = char::from(byte).to_digit(16) {
                        return Some(value as u8);
                    }
                }
            }
        }
    }
}

struct HexReader<'b> {
    digits: HexDigits<'b>,
}

impl std::io::Read for HexReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut count = 0;
        for slot in buffer.iter_mut() {
            let (Some(high), Some(low)) = (self.digits.next(), self.digits.next()) else { break };
            *slot = high << 4 | low;
            count += 1;
        }
        Ok(count)
    }
}
