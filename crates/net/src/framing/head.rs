//! One request head, judged as a whole. It does not keep the fields: hyper parses the same bytes again and, after these
//! checks, can only come to the same reading.

use super::{FramingProblem, HEADER_LINES_MAX};

/// What follows the head on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    NextHead,
    Sized(u64),
    Chunks,
    /// The answer decides whether a tunnel or another request comes next.
    TunnelOrHead,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

#[derive(Default)]
struct Framing {
    hosts: usize,
    length: Option<u64>,
    is_chunked: bool,
    upgrades_to_websocket: bool,
}

/// `head` ends in the empty line.
pub(super) fn check(head: &[u8]) -> Result<Follows, FramingProblem> {
    let text = head.strip_suffix(b"\r\n\r\n").ok_or(FramingProblem::RequestLine)?;
    let mut lines = Lines { rest: Some(text) };
    let (method, version) = check_request_line(lines.next().unwrap_or_default())?;
    let mut framing = Framing::default();
    for (position, line) in lines.enumerate() {
        if position >= HEADER_LINES_MAX {
            return Err(FramingProblem::TooManyHeaders);
        }
        let (name, value) = split_field(line)?;
        framing.note(name, value, version)?;
    }
    framing.follows(method, version)
}

/// Trailer fields, without the empty line: none may speak of framing, routing or credentials (RFC 9110 section 6.5.1).
pub(super) fn check_trailers(text: &[u8]) -> Result<(), FramingProblem> {
    const FORBIDDEN: [&[u8]; 8] = [
        b"content-length",
        b"transfer-encoding",
        b"host",
        b"connection",
        b"authorization",
        b"proxy-authorization",
        b"upgrade",
        b"te",
    ];
    for line in (Lines { rest: Some(text) }) {
        let (name, _) = split_field(line)?;
        if FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden)) {
            return Err(FramingProblem::Trailer);
        }
    }
    Ok(())
}

struct Lines<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        // A line feed without its carriage return ends no line; as part of one it is refused.
        let ends = rest.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(place, _)| place);
        let end = ends.filter_map(|feed| feed.checked_sub(1)).find(|end| rest.get(*end) == Some(&b'\r'));
        match end {
            Some(end) => {
                self.rest = rest.get(end + 2..);
                rest.get(..end)
            }
            None => self.rest.take(),
        }
    }
}

fn check_request_line(line: &[u8]) -> Result<(&[u8], Version), FramingProblem> {
    check_characters(line)?;
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(FramingProblem::RequestLine);
    };
    if method.is_empty() || !method.iter().copied().all(is_token) {
        return Err(FramingProblem::RequestLine);
    }
    check_target(method, target)?;
    match version {
        b"HTTP/1.1" => Ok((method, Version::Http11)),
        b"HTTP/1.0" => Ok((method, Version::Http10)),
        _ => Err(FramingProblem::HttpVersion),
    }
}

/// The four forms of RFC 9112 section 3.2, each only with the methods that may use it.
fn check_target(method: &[u8], target: &[u8]) -> Result<(), FramingProblem> {
    let is_visible = target.iter().all(|byte| (0x21..=0x7e).contains(byte));
    let is_fitting = match method {
        b"CONNECT" => target.contains(&b':') && !target.iter().any(|byte| matches!(byte, b'/' | b'?' | b'@' | b'#')),
        b"OPTIONS" if target == b"*" => true,
        _ => target.starts_with(b"/") || target.windows(3).any(|part| part == b"://"),
    };
    if is_visible && is_fitting { Ok(()) } else { Err(FramingProblem::RequestTarget) }
}

fn split_field(line: &[u8]) -> Result<(&[u8], &[u8]), FramingProblem> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(FramingProblem::ObsoleteFold);
    }
    check_characters(line)?;
    let colon = line.iter().position(|byte| *byte == b':').ok_or(FramingProblem::HeaderName)?;
    let (name, value) = line.split_at(colon);
    if name.is_empty() || !name.iter().copied().all(is_token) {
        return Err(FramingProblem::HeaderName);
    }
    let value = value.strip_prefix(b":").unwrap_or(value);
    Ok((name, trim(value)))
}

fn check_characters(line: &[u8]) -> Result<(), FramingProblem> {
    match line.iter().find(|byte| matches!(byte, 0..=8 | 10..=31 | 127)) {
        None => Ok(()),
        Some(b'\r') => Err(FramingProblem::BareCarriageReturn),
        Some(b'\n') => Err(FramingProblem::BareLineFeed),
        Some(_) => Err(FramingProblem::ControlCharacter),
    }
}

/// RFC 9110 section 5.6.3: optional whitespace is space and tab, nothing else.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// RFC 9110 section 5.6.2. A table, because every byte of every name is asked about.
fn is_token(byte: u8) -> bool {
    static TOKENS: [bool; 256] = tokens();
    TOKENS[usize::from(byte)]
}

const fn tokens() -> [bool; 256] {
    const MARKS: &[u8] = b"!#$%&'*+-.^_`|~";
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut place = 0;
    while place < MARKS.len() {
        table[MARKS[place] as usize] = true;
        place += 1;
    }
    table
}

impl Framing {
    fn note(&mut self, name: &[u8], value: &[u8], version: Version) -> Result<(), FramingProblem> {
        if name.eq_ignore_ascii_case(b"host") {
            self.note_host(value)
        } else if name.eq_ignore_ascii_case(b"content-length") {
            self.note_length(value)
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.note_encoding(value, version)
        } else {
            self.upgrades_to_websocket |= name.eq_ignore_ascii_case(b"upgrade") && value.eq_ignore_ascii_case(b"websocket");
            Ok(())
        }
    }

    fn note_host(&mut self, value: &[u8]) -> Result<(), FramingProblem> {
        self.hosts += 1;
        if self.hosts > 1 {
            return Err(FramingProblem::HostRepeated);
        }
        let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(byte);
        if value.is_empty() || !value.iter().all(is_host) { Err(FramingProblem::HostMalformed) } else { Ok(()) }
    }

    fn note_length(&mut self, value: &[u8]) -> Result<(), FramingProblem> {
        if self.length.is_some() {
            return Err(FramingProblem::LengthRepeated);
        }
        // `parse` takes a sign, which a length must not have.
        let digits = value.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(value).ok()).flatten();
        let length = digits.and_then(|digits| digits.parse::<u64>().ok());
        self.length = Some(length.ok_or(FramingProblem::LengthMalformed)?);
        Ok(())
    }

    fn note_encoding(&mut self, value: &[u8], version: Version) -> Result<(), FramingProblem> {
        if self.is_chunked {
            return Err(FramingProblem::EncodingRepeated);
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(FramingProblem::EncodingUnknown);
        }
        if version == Version::Http10 {
            return Err(FramingProblem::EncodingInHttp10);
        }
        self.is_chunked = true;
        Ok(())
    }

    fn follows(&self, method: &[u8], version: Version) -> Result<Follows, FramingProblem> {
        if self.hosts == 0 && version == Version::Http11 {
            return Err(FramingProblem::HostAbsent);
        }
        match (self.is_chunked, self.length) {
            (true, Some(_)) => Err(FramingProblem::LengthAndEncoding),
            (true, None) | (false, Some(1..)) if method == b"CONNECT" => Err(FramingProblem::ConnectWithBody),
            (true, None) => Ok(Follows::Chunks),
            (false, Some(length @ 1..)) => Ok(Follows::Sized(length)),
            (false, _) if method == b"CONNECT" => Ok(Follows::TunnelOrHead),
            (false, _) if method == b"GET" && self.upgrades_to_websocket => Ok(Follows::TunnelOrHead),
            (false, _) => Ok(Follows::NextHead),
        }
    }
}
