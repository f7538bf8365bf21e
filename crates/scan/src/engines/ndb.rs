//! ClamAV `.ndb` extended signatures, read natively: `NAME:TARGET:OFFSET:HEX`. Wildcards `??`, nibbles, `{n-m}`, `*` and
//! alternatives of equal length are supported, with offsets absolute, from the end, anywhere, or relative to the entry point
//! and sections of a PE file. Signatures without two literal bytes in a row, and other offsets, are counted as skipped and left
//! to clamd.

use super::hashes::content_lines;
use super::pe::Layout;
use crate::Error;
use crate::format::detect;
use crate::report::Unscannable;
use aho_corasick::{AhoCorasick, MatchKind};
use std::collections::HashMap;

/// Literal bytes used to find a candidate; longer anchors cost memory and exclude no more.
const ANCHOR_BYTES_MAX: usize = 12;
const ANCHOR_BYTES_MIN: usize = 2;
/// Positions tried for one signature at one candidate, so that `*` between common bytes stays linear.
const STEPS_MAX: u32 = 100_000;
/// Positions tried in one file, half a second of them: a file may be made of nothing but the anchors of a signature with
/// `*`. One that needs more was not read to its end and is not called clean.
const FILE_STEPS_MAX: u64 = 50_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Byte { value: u8, mask: u8 },
    OneOf { choices: Vec<Vec<u8>>, is_negated: bool },
}

impl Token {
    fn bytes(&self) -> usize {
        match self {
            Token::Byte { .. } => 1,
            Token::OneOf { choices, .. } => choices.first().map_or(0, Vec::len),
        }
    }

    fn accepts(&self, bytes: &[u8]) -> bool {
        match self {
            Token::Byte { value, mask } => bytes.first().is_some_and(|byte| byte & mask == *value),
            Token::OneOf { choices, is_negated } => choices.iter().any(|choice| choice == bytes) != *is_negated,
        }
    }
}

/// Tokens of fixed length, after a gap of `min..=max` bytes.
#[derive(Debug, Default)]
struct Part {
    gap_min: usize,
    gap_max: usize,
    tokens: Vec<Token>,
}

impl Part {
    fn bytes(&self) -> usize {
        self.tokens.iter().map(Token::bytes).sum()
    }

    fn matches_at(&self, bytes: &[u8], at: usize) -> bool {
        let mut at = at;
        self.tokens.iter().all(|token| {
            let Some(window) = bytes.get(at..at.saturating_add(token.bytes())) else { return false };
            at += token.bytes();
            token.accepts(window)
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offset {
    Anywhere,
    Absolute {
        first: usize,
        last: usize,
    },
    FromEnd {
        distance: usize,
        shift: usize,
    },
    EntryPoint {
        delta: isize,
        shift: usize,
    },
    /// From the start of a section; the last one has no number of its own.
    Section {
        index: Option<usize>,
        delta: usize,
        shift: usize,
    },
    /// Anywhere in a section.
    InSection(usize),
}

impl Offset {
    fn accepts(self, at: usize, size: usize, layout: Option<&Layout>) -> bool {
        let within =
            |start: Option<usize>, shift: usize| start.is_some_and(|start| (start..=start.saturating_add(shift)).contains(&at));
        match self {
            Offset::Anywhere => true,
            Offset::Absolute { first, last } => (first..=last).contains(&at),
            Offset::FromEnd { distance, shift } => within(size.checked_sub(distance), shift),
            Offset::EntryPoint { delta, shift } => {
                within(layout.and_then(|layout| layout.entry?.checked_add_signed(delta)), shift)
            }
            Offset::Section { index, delta, shift } => {
                let start = layout.and_then(|layout| match index {
                    Some(index) => layout.sections.get(index),
                    None => layout.sections.last(),
                });
                within(start.and_then(|(start, _)| start.checked_add(delta)), shift)
            }
            Offset::InSection(index) => {
                let section = layout.and_then(|layout| layout.sections.get(index));
                section.is_some_and(|(start, size)| (*start..start.saturating_add(*size)).contains(&at))
            }
        }
    }

    fn needs_layout(self) -> bool {
        matches!(self, Offset::EntryPoint { .. } | Offset::Section { .. } | Offset::InSection(_))
    }
}

#[derive(Debug)]
struct Signature {
    name: String,
    target: u8,
    offset: Offset,
    parts: Vec<Part>,
    /// The part that holds the anchor, and the anchor's distance from that part's start.
    anchor_part: usize,
    anchor_at: usize,
}

#[derive(Default)]
pub(crate) struct Patterns {
    finder: Option<AhoCorasick>,
    /// Signatures of each anchor.
    by_anchor: Vec<Vec<usize>>,
    signatures: Vec<Signature>,
}

impl Patterns {
    pub(crate) fn count(&self) -> usize {
        self.signatures.len()
    }

    pub(crate) fn find(&self, bytes: &[u8]) -> Result<Option<&str>, Unscannable> {
        let Some(finder) = self.finder.as_ref() else { return Ok(None) };
        let target = target_of(bytes);
        let mut layout: Option<Option<Layout>> = None;
        let mut left = FILE_STEPS_MAX;
        for found in finder.find_overlapping_iter(bytes) {
            for index in self.by_anchor.get(found.pattern().as_usize()).into_iter().flatten() {
                let Some(signature) = self.signatures.get(*index) else { continue };
                if signature.target != 0 && signature.target != target {
                    continue;
                }
                let layout = match signature.offset.needs_layout() {
                    true => layout.get_or_insert_with(|| Layout::parse(bytes)).as_ref(),
                    false => None,
                };
                let mut steps = STEPS_MAX;
                if signature.matches(bytes, found.start(), layout, &mut steps) {
                    return Ok(Some(&signature.name));
                }
                left = left.checked_sub(u64::from(STEPS_MAX - steps) + 1).ok_or(Unscannable::TimeLimit)?;
            }
        }
        Ok(None)
    }
}

/// ClamAV's target types that the type table can tell.
fn target_of(bytes: &[u8]) -> u8 {
    match detect(bytes).name {
        "exe" | "dll" => 1,
        "ole" | "doc" | "xls" | "ppt" | "msi" | "msg" => 2,
        "html" => 3,
        "eml" => 4,
        "png" | "jpg" | "gif" | "bmp" | "tif" | "webp" => 5,
        "elf" => 6,
        "txt" | "sh" | "xml" | "svg" => 7,
        "macho" => 9,
        "pdf" => 10,
        "swf" => 11,
        "class" => 12,
        _ => 0,
    }
}

impl Signature {
    fn matches(&self, bytes: &[u8], anchor: usize, layout: Option<&Layout>, steps: &mut u32) -> bool {
        let Some(start) = anchor.checked_sub(self.anchor_at) else { return false };
        let Some(part) = self.parts.get(self.anchor_part) else { return false };
        part.matches_at(bytes, start)
            && self.forward(bytes, self.anchor_part + 1, start + part.bytes(), steps)
            && self.backward(bytes, self.anchor_part, start, layout, steps)
    }

    fn forward(&self, bytes: &[u8], index: usize, end: usize, steps: &mut u32) -> bool {
        let Some(part) = self.parts.get(index) else { return true };
        let first = end.saturating_add(part.gap_min);
        let last = end.saturating_add(part.gap_max).min(bytes.len());
        for at in first..=last {
            *steps = steps.saturating_sub(1);
            if *steps == 0 {
                return false;
            }
            if part.matches_at(bytes, at) && self.forward(bytes, index + 1, at + part.bytes(), steps) {
                return true;
            }
        }
        false
    }

    fn backward(&self, bytes: &[u8], index: usize, start: usize, layout: Option<&Layout>, steps: &mut u32) -> bool {
        let Some(previous) = index.checked_sub(1).and_then(|index| self.parts.get(index)) else {
            return self.offset.accepts(start, bytes.len(), layout);
        };
        let Some(part) = self.parts.get(index) else { return false };
        let Some(last) = start.checked_sub(part.gap_min.saturating_add(previous.bytes())) else { return false };
        let first = start.saturating_sub(part.gap_max.saturating_add(previous.bytes()));
        for at in (first..=last).rev() {
            *steps = steps.saturating_sub(1);
            if *steps == 0 {
                return false;
            }
            if previous.matches_at(bytes, at) && self.backward(bytes, index - 1, at, layout, steps) {
                return true;
            }
        }
        false
    }
}

#[derive(Default)]
pub(crate) struct PatternsBuilder {
    signatures: Vec<Signature>,
    anchors: Vec<Vec<u8>>,
    skipped: usize,
}

impl PatternsBuilder {
    pub(crate) fn add(&mut self, path: &str, text: &str) -> Result<(), Error> {
        for (index, line) in content_lines(text) {
            let refused = || Error::Signature {
                path: path.to_owned(),
                line: index + 1,
                detail: "expected name, target, offset and hexadecimal signature".to_owned(),
            };
            let mut columns = line.split(':');
            let (Some(name), Some(target), Some(offset), Some(hex)) =
                (columns.next(), columns.next(), columns.next(), columns.next())
            else {
                return Err(refused());
            };
            let target: u8 = target.parse().map_err(|_| refused())?;
            match (parse_offset(offset), parse_parts(hex)) {
                (Some(offset), Some(parts)) => self.push(name, target, offset, parts),
                _ => self.skipped += 1,
            }
        }
        Ok(())
    }

    fn push(&mut self, name: &str, target: u8, offset: Offset, parts: Vec<Part>) {
        let Some((anchor_part, anchor_at, anchor)) = best_anchor(&parts) else {
            self.skipped += 1;
            return;
        };
        self.signatures.push(Signature { name: name.to_owned(), target, offset, parts, anchor_part, anchor_at });
        self.anchors.push(anchor);
    }

    pub(crate) fn finish(self) -> Result<Patterns, Error> {
        if self.skipped > 0 {
            tracing::info!(skipped = self.skipped, loaded = self.signatures.len(), "pattern signatures left to clamd");
        }
        if self.signatures.is_empty() {
            return Ok(Patterns::default());
        }
        let mut known: HashMap<Vec<u8>, usize> = HashMap::new();
        let mut by_anchor: Vec<Vec<usize>> = Vec::new();
        let mut distinct = Vec::new();
        for (signature, anchor) in self.anchors.into_iter().enumerate() {
            let slot = *known.entry(anchor.clone()).or_insert_with(|| {
                distinct.push(anchor);
                by_anchor.push(Vec::new());
                by_anchor.len() - 1
            });
            if let Some(signatures) = by_anchor.get_mut(slot) {
                signatures.push(signature);
            }
        }
        let finder = AhoCorasick::builder().match_kind(MatchKind::Standard).build(&distinct);
        let finder = finder.map_err(|error| Error::Signature { path: "ndb".to_owned(), line: 0, detail: error.to_string() })?;
        Ok(Patterns { finder: Some(finder), by_anchor, signatures: self.signatures })
    }
}

fn parse_offset(text: &str) -> Option<Offset> {
    if text == "*" {
        return Some(Offset::Anywhere);
    }
    let (place, shift) = text.split_once(',').unwrap_or((text, "0"));
    let shift: usize = shift.parse().ok()?;
    if let Some(distance) = place.strip_prefix("EOF-") {
        return Some(Offset::FromEnd { distance: distance.parse().ok()?, shift });
    }
    if let Some(delta) = place.strip_prefix("EP") {
        return Some(Offset::EntryPoint { delta: delta.parse().ok()?, shift });
    }
    if let Some(index) = place.strip_prefix("SE") {
        return Some(Offset::InSection(index.parse().ok()?));
    }
    if let Some(section) = place.strip_prefix('S') {
        let (index, delta) = section.split_once('+')?;
        let index = if index == "L" { None } else { Some(index.parse().ok()?) };
        return Some(Offset::Section { index, delta: delta.parse().ok()?, shift });
    }
    let first: usize = place.parse().ok()?;
    Some(Offset::Absolute { first, last: first.checked_add(shift)? })
}

fn parse_parts(hex: &str) -> Option<Vec<Part>> {
    let mut parts = vec![Part::default()];
    let mut rest = hex;
    while let Some(next) = rest.chars().next() {
        match next {
            '*' => {
                parts.push(Part { gap_min: 0, gap_max: usize::MAX / 4, tokens: Vec::new() });
                rest = rest.get(1..)?;
            }
            '{' => {
                let (range, tail) = rest.get(1..)?.split_once('}')?;
                let (gap_min, gap_max) = parse_gap(range)?;
                parts.push(Part { gap_min, gap_max, tokens: Vec::new() });
                rest = tail;
            }
            '(' | '!' => {
                let is_negated = next == '!';
                let body = rest.trim_start_matches('!').strip_prefix('(')?;
                let (choices, tail) = body.split_once(')')?;
                parts.last_mut()?.tokens.push(parse_choices(choices, is_negated)?);
                rest = tail;
            }
            _ => {
                parts.last_mut()?.tokens.push(parse_byte(rest.get(..2)?)?);
                rest = rest.get(2..)?;
            }
        }
    }
    parts.iter().all(|part| !part.tokens.is_empty()).then_some(parts)
}

fn parse_gap(range: &str) -> Option<(usize, usize)> {
    let bound = |text: &str, open: usize| if text.is_empty() { Some(open) } else { text.parse().ok() };
    match range.split_once('-') {
        None => range.parse().ok().map(|exact: usize| (exact, exact)),
        Some((min, max)) => Some((bound(min, 0)?, bound(max, usize::MAX / 4)?)).filter(|(min, max)| min <= max),
    }
}

fn parse_choices(text: &str, is_negated: bool) -> Option<Token> {
    let choices: Vec<Vec<u8>> = text.split('|').map(super::hashes::unhex).collect::<Option<_>>()?;
    let length = choices.first()?.len();
    let is_even = length > 0 && choices.iter().all(|choice| choice.len() == length);
    is_even.then_some(Token::OneOf { choices, is_negated })
}

fn parse_byte(text: &str) -> Option<Token> {
    let nibble = |digit: char| match digit {
        '?' => Some((0, 0)),
        _ => digit.to_digit(16).map(|value| (value as u8, 0x0f)),
    };
    let mut digits = text.chars();
    let (high, high_mask) = nibble(digits.next()?)?;
    let (low, low_mask) = nibble(digits.next()?)?;
    Some(Token::Byte { value: high << 4 | low, mask: high_mask << 4 | low_mask })
}

/// The longest run of literal bytes: its part, its distance from the part's start, and the bytes.
fn best_anchor(parts: &[Part]) -> Option<(usize, usize, Vec<u8>)> {
    let mut best: Option<(usize, usize, Vec<u8>)> = None;
    for (index, part) in parts.iter().enumerate() {
        let mut at = 0;
        let mut run: Vec<u8> = Vec::new();
        for token in &part.tokens {
            match token {
                Token::Byte { value, mask: 0xff } => run.push(*value),
                _ => run.clear(),
            }
            at += token.bytes();
            let is_longer = best.as_ref().is_none_or(|(_, _, known)| known.len() < run.len());
            if is_longer && (ANCHOR_BYTES_MIN..=ANCHOR_BYTES_MAX).contains(&run.len()) {
                best = Some((index, at - run.len(), run.clone()));
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(signature: &str, bytes: &[u8]) -> bool {
        let mut builder = PatternsBuilder::default();
        builder.add("a.ndb", signature).unwrap();
        builder.finish().unwrap().find(bytes).unwrap().is_some()
    }

    #[test]
    fn grammar() {
        for (signature, bytes, expected) in [
            ("A:0:*:61626364", &b"xxabcdxx"[..], true),
            ("A:0:*:61626364", b"xxabdxx", false),
            ("A:0:0:616263", b"abc", true),
            ("A:0:0:616263", b"xabc", false),
            ("A:0:1,3:616263", b"xxxabc", true),
            ("A:0:EOF-3:616263", b"xabc", true),
            ("A:0:EOF-3:616263", b"abcx", false),
            ("A:0:*:6162??6364", b"abXcd", true),
            ("A:0:*:61626?64", b"abcd", true),
            ("A:0:*:6162*6364", b"ab-------cd", true),
            ("A:0:*:6162{2-3}6364656667", b"ab--cdefg", true),
            ("A:0:*:6162{2-3}6364656667", b"ab----cdefg", false),
            ("A:0:*:6162(63|64)65", b"abde", true),
            ("A:0:*:6162!(63|64)65", b"abde", false),
            ("A:0:2:6162{1}636465", b"xxab-cde", true),
            ("A:0:3:6162{1}636465", b"xxab-cde", false),
            ("A:6:*:6162", b"\x7fELF ab", true),
            ("A:1:*:6162", b"\x7fELF ab", false),
        ] {
            assert_eq!(finds(signature, bytes), expected, "{signature}");
        }
    }

    /// Two sections: code at 0x200 with the entry point 4 bytes in, data at 0x300.
    fn program() -> Vec<u8> {
        let mut bytes = vec![0u8; 0x400];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[0x3c] = 0x40;
        bytes[0x40..0x44].copy_from_slice(b"PE\0\0");
        bytes[0x46] = 2;
        bytes[0x54] = 0x20;
        bytes[0x68..0x6c].copy_from_slice(&0x1004u32.to_le_bytes());
        for (at, address, start) in [(0x78, 0x1000u32, 0x200u32), (0xa0, 0x2000, 0x300)] {
            for (field, value) in [(8, 0x100), (12, address), (16, 0x100), (20, start)] {
                bytes[at + field..at + field + 4].copy_from_slice(&value.to_le_bytes());
            }
        }
        bytes[0x204..0x207].copy_from_slice(b"abc");
        bytes[0x310..0x313].copy_from_slice(b"xyz");
        bytes
    }

    #[test]
    fn offsets_in_programs() {
        for (signature, expected) in [
            ("A:1:EP+0:616263", true),
            ("A:1:EP-2,4:616263", true),
            ("A:1:EP+1:616263", false),
            ("A:1:S0+4:616263", true),
            ("A:1:S1+16:78797a", true),
            ("A:1:S0+16:78797a", false),
            ("A:1:SL+10,8:78797a", true),
            ("A:1:SE1:78797a", true),
            ("A:1:SE0:78797a", false),
            ("A:1:EOF-250,20:78797a", true),
        ] {
            assert_eq!(finds(signature, &program()), expected, "{signature}");
        }
        assert!(!finds("A:0:EP+0:616263", b"abc"), "no program, no entry point");
    }

    #[test]
    fn a_file_made_of_anchors_ends_in_a_limit_and_not_in_hours() {
        let mut builder = PatternsBuilder::default();
        builder.add("a.ndb", "A:0:*:61616161*6262*6363").unwrap();
        let patterns = builder.finish().unwrap();
        assert_eq!(patterns.find(&b"a".repeat(400_000)), Err(Unscannable::TimeLimit));
        assert_eq!(patterns.find(&b"a".repeat(1_000)), Ok(None));
        assert!(!finds("A:0:*:6162{18446744073709551615}63646566", b"ab-cdef"), "a gap longer than any file");
    }

    #[test]
    fn unsupported_signatures_are_skipped_and_damaged_lines_refused() {
        assert!(!finds("A:1:VI:6162", b"MZ ab"));
        assert!(!finds("A:0:*:61??62", b"a-b"));
        assert!(PatternsBuilder::default().add("a.ndb", "A:0").is_err());
    }
}
