//! Files written as text: base64 and hexadecimal runs, string literals joined by `+`, escapes and arrays of numbers in scripts,
//! uuencode and xxencode, yEnc, BinHex. What is found is a guess, so failing to read it is forgotten by the caller's rules;
//! text that decodes to nothing known costs no entry.

use super::arc::RunLength;
use super::xar::be_u32;
use crate::format::{Format, Opener, contains, detect, find, is_executable};
use crate::report::FindingKind;
use crate::walk::{Flow, Node, Walk};
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use std::borrow::Cow;
use std::io::Read;

/// Shorter runs of base64 letters are words and identifiers.
const RUN_BYTES_MIN: usize = 40;
/// Bytes in the shortest array or escaped string that is decoded; the test file has 68.
const NUMBERS_MIN: usize = 60;
/// The EICAR file fits.
const TINY_BYTES_MAX: usize = 128;
/// Lines of an encoded file that are looked at to tell uuencode from xxencode.
const PROBE_LINES: usize = 16;

/// Lenient in the ways that browsers are: padding optional, stray bits ignored.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent).with_decode_allow_trailing_bits(true),
);

/// Looks through a text for everything that text can carry.
pub(super) fn open(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Flow {
    base64_runs(walk, node, bytes)?;
    if let Some(joined) = join_literals(bytes) {
        base64_runs(walk, node, &joined)?;
        hexadecimal(walk, node, &joined)?;
    }
    hexadecimal(walk, node, bytes)?;
    escapes(walk, node, bytes)?;
    numbers(walk, node, bytes)?;
    encoded_files(walk, node, bytes)
}

/// uuencode, xxencode, yEnc and BinHex, which also stand in messages and binary articles.
pub(super) fn encoded_files(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Flow {
    unix_encoded(walk, node, bytes)?;
    yenc(walk, node, bytes)?;
    binhex(walk, node, bytes)
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_')
}

fn base64_runs(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Flow {
    let mut rest = bytes;
    while let Some(start) = rest.iter().position(|byte| is_base64(*byte)) {
        let run = rest.get(start..).unwrap_or_default();
        let end = run.iter().position(|byte| !is_base64(*byte) && !matches!(byte, b'\r' | b'\n')).unwrap_or(run.len());
        rest = run.get(end..).unwrap_or_default();
        if end < RUN_BYTES_MIN {
            continue;
        }
        let run = run.get(..end).unwrap_or_default();
        base64_run(walk, node, bytes, run)?;
        // A word at the end of the line before is no part of the encoding.
        let line = run.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        // Behind a blank line, as in a message, it is the last word of the header.
        let behind = run.get(line..).unwrap_or_default().trim_ascii_start();
        let second = behind.split(|byte| *byte == b'\n').next().unwrap_or_default();
        if line > 0 && line <= second.len() && behind.len() >= RUN_BYTES_MIN {
            base64_run(walk, node, bytes, behind)?;
        }
    }
    walk.flow()
}

/// Decodes one run, forwards and backwards: scripts that reverse a string fool whoever reads it once.
fn base64_run(walk: &mut Walk<'_>, node: &Node, page: &[u8], run: &[u8]) -> Flow {
    let letter = |byte: &u8| match byte {
        b'-' => Some(b'+'),
        b'_' => Some(b'/'),
        b'=' | b'\r' | b'\n' => None,
        other => Some(*other),
    };
    let mut letters: Vec<u8> = run.iter().filter_map(letter).collect();
    if letters.len() % 4 == 1 {
        letters.pop();
    }
    if let Ok(decoded) = BASE64.decode(&letters) {
        examine(walk, node, page, "base64", &decoded)?;
        if is_worth_a_look(&decoded) && decoded.len() > TINY_BYTES_MAX {
            return walk.flow();
        }
    }
    letters.reverse();
    match BASE64.decode(&letters) {
        Ok(decoded) if is_payload(detect(&decoded)) || crate::format::is_text(&decoded) => {
            examine(walk, node, page, "base64 reversed", &decoded)
        }
        _ => walk.flow(),
    }
}

/// What is worth carrying in text: programs, archives, documents. Images and fonts are everyday data URLs.
fn is_payload(format: &Format) -> bool {
    is_executable(format)
        || matches!(format.name, "lnk" | "html")
        || matches!(format.opener, Opener::Container(_) | Opener::Sealed(_))
}

/// A payload, or text in which a script or another layer may hide.
fn is_worth_a_look(decoded: &[u8]) -> bool {
    is_payload(detect(decoded)) || is_layer(decoded, TINY_BYTES_MAX)
}

fn is_layer(decoded: &[u8], run_bytes_min: usize) -> bool {
    let is_text = crate::format::is_text(decoded) || super::carrier::utf16_text(decoded).is_some();
    is_text
        && (super::script::is_script(decoded) || decoded.split(|byte| !is_base64(*byte)).any(|run| run.len() >= run_bytes_min))
}

/// Looks into decoded bytes. What is neither a payload nor a layer is only matched by the cheap engines, so that lists of
/// digests and tokens use up no limit.
fn examine(walk: &mut Walk<'_>, node: &Node, page: &[u8], how: &str, decoded: &[u8]) -> Flow {
    if !is_worth_a_look(decoded) {
        return walk.probe(node, how, decoded);
    }
    let format = detect(decoded);
    if is_payload(format) && builds_a_file(page) {
        walk.find(node, FindingKind::HtmlSmuggling, &format!("{} in {how}", format.name));
    }
    walk.tentative(|walk| walk.slice(node, how, decoded))
}

/// Script calls that turn a string into a download.
fn builds_a_file(page: &[u8]) -> bool {
    const CALLS: [&[u8]; 7] =
        [b"Blob(", b"createObjectURL", b"msSaveOrOpenBlob", b"msSaveBlob", b"atob(", b"Uint8Array", b"new File("];
    CALLS.iter().any(|call| contains(page, call))
}

/// Joins `"abc" + "def"`, and pieces separated by a comma in an array; `None` when there was nothing to join.
fn join_literals(bytes: &[u8]) -> Option<Vec<u8>> {
    let is_quote = |byte: u8| matches!(byte, b'"' | b'\'' | b'`');
    let mut joined = Vec::new();
    let mut rest = bytes;
    let mut joints = 0;
    while let Some(at) = rest.iter().position(|byte| is_quote(*byte)) {
        let between = rest.get(at + 1..).unwrap_or_default();
        let gap = between
            .iter()
            .position(|byte| !matches!(byte, b'+' | b',' | b'&' | b'.' | b'\\' | b'_') && !byte.is_ascii_whitespace());
        let gap = gap.unwrap_or(between.len());
        let is_joint = gap > 0 && between.get(gap).is_some_and(|byte| is_quote(*byte));
        let keep = if is_joint { at } else { at + 1 };
        joined.extend_from_slice(rest.get(..keep).unwrap_or_default());
        let skip = if is_joint { at + gap + 2 } else { at + 1 };
        joints += usize::from(is_joint);
        rest = rest.get(skip..).unwrap_or_default();
    }
    joined.extend_from_slice(rest);
    (joints > 0).then_some(joined)
}

fn hex_value(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// Runs of hexadecimal digits, also over several lines.
fn hexadecimal(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Flow {
    let mut rest = bytes;
    while let Some(start) = rest.iter().position(u8::is_ascii_hexdigit) {
        let run = rest.get(start..).unwrap_or_default();
        let end = run.iter().position(|byte| !byte.is_ascii_hexdigit() && !byte.is_ascii_whitespace()).unwrap_or(run.len());
        rest = run.get(end..).unwrap_or_default();
        if end < 2 * NUMBERS_MIN {
            continue;
        }
        let run = run.get(..end).unwrap_or_default();
        let digits: Vec<u8> = run.iter().filter_map(|byte| hex_value(*byte)).collect();
        let decoded: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        examine(walk, node, bytes, "hexadecimal", &decoded)?;
    }
    walk.flow()
}

/// `\x41`, `%41`, `\u0041`, `%u0041`, `&#65;` and `&#x41;` in strings: the whole text is unescaped once.
fn escapes(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Flow {
    let mut rest = bytes;
    while let Some(start) = rest.iter().position(|byte| matches!(byte, b'\\' | b'%' | b'&')) {
        let run = rest.get(start..).unwrap_or_default();
        let (decoded, used) = unescape(run);
        rest = run.get(used.max(1)..).unwrap_or_default();
        if decoded.len() >= NUMBERS_MIN {
            examine(walk, node, bytes, "escapes", &decoded)?;
        }
    }
    walk.flow()
}

/// The bytes of a run of escapes, with the letters between them kept, and how long the run is in the text.
fn unescape(run: &[u8]) -> (Vec<u8>, usize) {
    /// Plain letters between two escapes that do not end a run, as `encodeURIComponent` leaves them.
    const PLAIN_MAX: usize = 16;
    let mut decoded = Vec::new();
    let (mut at, mut plain, mut end, mut kept) = (0, 0, 0, 0);
    while plain <= PLAIN_MAX {
        let Some(byte) = run.get(at).copied() else { break };
        if let Some((values, used)) = one_escape(run.get(at..).unwrap_or_default()) {
            decoded.extend(values);
            at += used;
            (plain, end, kept) = (0, at, decoded.len());
        } else if matches!(byte, b'"' | b'\'' | b'`' | b'<' | b'>' | b'\r' | b'\n') {
            break;
        } else {
            decoded.push(byte);
            at += 1;
            plain += 1;
        }
    }
    // Letters behind the last escape belong to it only if the string ends there.
    let is_closed = plain <= PLAIN_MAX && end > 0;
    if !is_closed {
        decoded.truncate(kept);
    }
    (decoded, if is_closed { at } else { end })
}

fn one_escape(text: &[u8]) -> Option<(Vec<u8>, usize)> {
    let hex = |range: std::ops::Range<usize>| {
        let digits = text.get(range)?;
        digits.iter().try_fold(0u32, |value, byte| Some(value << 4 | u32::from(hex_value(*byte)?)))
    };
    match text {
        [b'\\', b'x' | b'X', ..] => Some((vec![hex(2..4)? as u8], 4)),
        [b'\\', b'u', ..] => hex(2..6).filter(|unit| *unit < 256).map(|unit| (vec![unit as u8], 6)),
        // Two bytes a unit, lower first, as `unescape` in exploits.
        [b'%', b'u', ..] => {
            hex(2..6).map(|unit| (if unit < 256 { vec![unit as u8] } else { vec![unit as u8, (unit >> 8) as u8] }, 6))
        }
        [b'%', ..] => Some((vec![hex(1..3)? as u8], 3)),
        [b'&', b'#', rest @ ..] => {
            let end = rest.iter().take(6).position(|byte| *byte == b';')?;
            let digits = std::str::from_utf8(rest.get(..end)?).ok()?;
            let value = match digits.strip_prefix(['x', 'X']) {
                Some(digits) => u32::from_str_radix(digits, 16).ok()?,
                None => digits.parse().ok()?,
            };
            Some((vec![u8::try_from(value).ok()?], end + 3))
        }
        _ => None,
    }
}

/// Arrays such as `[80,75,3,4]`, `0x50, 0x4b` and `Chr(80) & Chr(75)`.
fn numbers(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Flow {
    let mut rest = bytes;
    while let Some(start) = rest.iter().position(u8::is_ascii_digit) {
        let run = rest.get(start..).unwrap_or_default();
        let (values, used) = number_run(run);
        rest = run.get(used.max(1)..).unwrap_or_default();
        if values.len() >= NUMBERS_MIN {
            examine(walk, node, bytes, "numbers", &values)?;
        }
    }
    walk.flow()
}

fn number_run(run: &[u8]) -> (Vec<u8>, usize) {
    const SEPARATOR_BYTES_MAX: usize = 12;
    let mut values = Vec::new();
    let mut at = 0;
    loop {
        let rest = run.get(at..).unwrap_or_default();
        let is_hex = matches!(rest, [b'0', b'x' | b'X', ..]);
        let (radix, digits_at) = if is_hex { (16, 2) } else { (10, 0) };
        let digits = rest.get(digits_at..).unwrap_or_default();
        let count = digits.iter().take(4).take_while(|byte| char::from(**byte).is_digit(radix)).count();
        let value = std::str::from_utf8(digits.get(..count).unwrap_or_default()).ok();
        let Some(value) = value.and_then(|text| u8::from_str_radix(text, radix).ok()) else { return (values, at) };
        values.push(value);
        at += digits_at + count;
        let behind = run.get(at..).unwrap_or_default();
        let is_separator = |byte: &u8| {
            byte.is_ascii_whitespace()
                || matches!(
                    byte,
                    b',' | b';' | b'&' | b'+' | b'(' | b')' | b'_' | b'c' | b'C' | b'h' | b'H' | b'r' | b'R' | b'W' | b'w'
                )
        };
        let gap = behind.iter().take(SEPARATOR_BYTES_MAX).take_while(|byte| is_separator(byte)).count();
        if gap == 0 || !behind.get(gap).is_some_and(u8::is_ascii_digit) {
            return (values, at);
        }
        at += gap;
    }
}

/// Files in uuencode (POSIX uuencode(1)) or xxencode: `begin MODE NAME`, lines that start with their length, `end`.
fn unix_encoded(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Flow {
    let mut rest = bytes;
    while let Some(start) = find(rest, b"begin ") {
        // Each one is read to the end of the file, and one that holds nothing is charged to no other bound.
        if let Err(limit) = walk.budget.check_time() {
            return walk.halt(limit);
        }
        rest = rest.get(start + b"begin ".len()..).unwrap_or_default();
        let mut lines = rest.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let head = lines.next().map(String::from_utf8_lossy).unwrap_or_default();
        let Some((mode, name)) = head.split_once(' ') else { continue };
        if mode.is_empty() || !mode.bytes().all(|digit| (b'0'..=b'7').contains(&digit)) {
            continue;
        }
        // Uuencode has no small letters, xxencode has little else.
        let is_xx = lines.clone().take(PROBE_LINES).take_while(|line| *line != b"end").flatten().any(u8::is_ascii_lowercase);
        let value = if is_xx { xx_value } else { uu_value };
        let body: Vec<u8> =
            lines.take_while(|line| *line != b"end").filter_map(|line| encoded_line(line, value)).flatten().collect();
        if !body.is_empty() {
            walk.tentative(|walk| walk.slice(node, name, &body))?;
        }
    }
    walk.flow()
}

fn uu_value(letter: u8) -> u8 {
    letter.wrapping_sub(b' ') & 0x3f
}

fn xx_value(letter: u8) -> u8 {
    const ALPHABET: &[u8; 64] = b"+-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    ALPHABET.iter().position(|known| *known == letter).map_or(0, |value| value as u8)
}

/// One line: its length in the first letter, then four letters for three bytes.
fn encoded_line(line: &[u8], value: fn(u8) -> u8) -> Option<Vec<u8>> {
    let (length, letters) = line.split_first()?;
    let mut bytes = Vec::new();
    for group in letters.chunks(4) {
        let bits = (0..4).fold(0u32, |bits, index| bits << 6 | u32::from(group.get(index).map_or(0, |letter| value(*letter))));
        bytes.extend(bits.to_be_bytes().into_iter().skip(1));
    }
    bytes.truncate(usize::from(value(*length)));
    (!bytes.is_empty()).then_some(bytes)
}

/// yEnc 1.3: lines of bytes raised by 42, `=` escapes the few that text cannot hold.
fn yenc(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Flow {
    let mut rest = bytes;
    while let Some(start) = find(rest, b"=ybegin ") {
        let article = rest.get(start..).unwrap_or_default();
        let end = find(article, b"\n=yend").unwrap_or(article.len());
        rest = article.get(end.max(1)..).unwrap_or_default();
        let mut lines = article.get(..end).unwrap_or_default().split(|byte| *byte == b'\n');
        let head = lines.next().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
        let name = head.split("name=").nth(1).map_or("yenc", str::trim);
        let mut body = Vec::new();
        for line in lines.filter(|line| !line.starts_with(b"=ypart")) {
            let mut letters = line.strip_suffix(b"\r").unwrap_or(line).iter();
            while let Some(letter) = letters.next() {
                let raised = if *letter == b'=' { letters.next().map(|escaped| escaped.wrapping_sub(64)) } else { Some(*letter) };
                body.extend(raised.map(|raised| raised.wrapping_sub(42)));
            }
        }
        if !body.is_empty() {
            walk.tentative(|walk| walk.slice(node, name, &body))?;
        }
    }
    walk.flow()
}

/// BinHex 4.0 (RFC 1741): six bits a letter between colons, run-length coded, then a header and two forks.
fn binhex(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) -> Flow {
    const ALPHABET: &[u8; 64] = b"!\"#$%&'()*+,-012345689@ABCDEFGHIJKLMNPQRSTUVXYZ[`abcdefhijklmpqr";
    let Some(start) = find(bytes, b"(This file must be converted with BinHex") else { return walk.flow() };
    let rest = bytes.get(start..).unwrap_or_default();
    let Some(text) = rest.split(|byte| *byte == b':').nth(1) else { return walk.flow() };
    let mut packed = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for letter in text {
        let Some(value) = ALPHABET.iter().position(|known| known == letter) else { continue };
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            packed.push((bits >> count) as u8);
        }
    }
    let plain = match walk.unpack(&mut RunLength::new(packed.as_slice()) as &mut dyn Read) {
        Ok(plain) => plain,
        Err(flow) => return flow,
    };
    let Some((name, data, resource)) = binhex_forks(&plain) else { return walk.flow() };
    walk.tentative(|walk| walk.slice(node, &name, data))?;
    if resource.is_empty() { walk.flow() } else { walk.tentative(|walk| walk.slice(node, "resource fork", resource)) }
}

/// Name, zero, type, creator, flags, two lengths and a checksum; each fork ends with a checksum.
fn binhex_forks(plain: &[u8]) -> Option<(Cow<'_, str>, &[u8], &[u8])> {
    const CHECKSUM_BYTES: usize = 2;
    let name_bytes = usize::from(*plain.first()?);
    let name = String::from_utf8_lossy(plain.get(1..1 + name_bytes)?);
    let at = 1 + name_bytes + 1 + 4 + 4 + 2;
    let (data_bytes, resource_bytes) = (be_u32(plain, at)? as usize, be_u32(plain, at + 4)? as usize);
    let data_at = at + 8 + CHECKSUM_BYTES;
    let rest = plain.get(data_at..)?;
    let data = rest.get(..data_bytes).unwrap_or(rest);
    let resource_at = data_at.saturating_add(data_bytes).saturating_add(CHECKSUM_BYTES);
    let resource = plain.get(resource_at..resource_at.saturating_add(resource_bytes)).unwrap_or_default();
    Some((name, data, resource))
}
