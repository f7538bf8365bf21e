//! What stands on the right of an operator: numbers, addresses, times, text with its escapes, patterns and wildcards (WF-03,
//! WF-09).

use std::net::IpAddr;

use super::Parser;
use crate::Problem;
use crate::expression::{Order, Test};
use crate::glob::Glob;
use crate::lexer::Token;
use crate::set::address_range;

/// Compiled size of one pattern, and of its lazily built automaton (WF-12).
const REGEX_BYTES_MAX: usize = 10 * 1024 * 1024;
const REGEX_DFA_BYTES_MAX: usize = 2 * 1024 * 1024;

impl Parser<'_> {
    pub(super) fn int_range(&mut self) -> Result<(i64, i64), Problem> {
        if let Token::Word(word) = self.peek()
            && let Some((first, last)) = word.split_once("..")
            && let (Some(first), Some(last)) = (number(first), number(last))
            && first <= last
        {
            self.advance();
            return Ok((first, last));
        }
        self.int().map(|int| (int, int))
    }

    pub(super) fn ip_range(&mut self) -> Result<(IpAddr, IpAddr), Problem> {
        let (Token::Word(word) | Token::Quoted(word)) = self.peek() else {
            return Err(self.unexpected("an address, a network or a range"));
        };
        let range = address_range(word).ok_or_else(|| self.unexpected("an address, a network or a range"))?;
        self.advance();
        Ok(range)
    }

    /// A number, which the dialect also writes in quotes (HT-08).
    pub(super) fn int(&mut self) -> Result<i64, Problem> {
        let (Token::Word(word) | Token::Quoted(word)) = self.peek() else {
            return Err(self.unexpected("a number"));
        };
        let int = number(word).ok_or_else(|| self.unexpected("a number"))?;
        self.advance();
        Ok(int)
    }

    pub(super) fn ip(&mut self) -> Result<IpAddr, Problem> {
        let (Token::Word(word) | Token::Quoted(word)) = self.peek() else {
            return Err(self.unexpected("an address"));
        };
        let expected =
            if word.contains('/') || word.contains("..") { "one address; use `in {...}` for a network" } else { "an address" };
        let ip = word.parse().map_err(|_| self.unexpected(expected))?;
        self.advance();
        Ok(ip)
    }

    pub(super) fn time(&mut self, order: Order) -> Result<Test, Problem> {
        let (Token::Word(word) | Token::Quoted(word)) = self.peek() else {
            return Err(self.unexpected("a time as \"2026-01-31T09:00:00Z\""));
        };
        let micros = match word.parse::<i64>() {
            Ok(micros) => micros,
            Err(_) => match word.parse::<jiff::Timestamp>() {
                Ok(at) => at.as_microsecond(),
                Err(_) => return Err(self.unexpected("a time as \"2026-01-31T09:00:00Z\"")),
            },
        };
        self.advance();
        Ok(Test::Time(order, micros, word.into()))
    }

    pub(super) fn pattern(&mut self) -> Result<Test, Problem> {
        let at = self.offset();
        let pattern = match self.peek() {
            Token::Raw(raw) => raw.to_owned(),
            // In a quoted pattern only the quote is escaped; every other backslash is the pattern's own.
            Token::Quoted(quoted) => unescape_quotes(quoted),
            _ => return Err(self.unexpected("a pattern in quotes")),
        };
        let regex =
            regex::RegexBuilder::new(&pattern).size_limit(REGEX_BYTES_MAX).dfa_size_limit(REGEX_DFA_BYTES_MAX).build().map_err(
                |error| {
                    let reason = error.to_string();
                    let last = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                    Problem::new(format!("the pattern cannot be used: {last}"))
                        .at(self.source, at)
                        .expected("a regular expression without look-around and back-references")
                },
            )?;
        self.advance();
        Ok(Test::Matches(Box::new(regex)))
    }

    pub(super) fn glob(&mut self, is_strict: bool) -> Result<Test, Problem> {
        let at = self.offset();
        let source = self.text()?;
        let glob = Glob::parse(&source, is_strict).map_err(|problem| problem.at(self.source, at))?;
        Ok(Test::Wildcard(Box::new(glob)))
    }

    /// Text in quotes, raw, or as bytes `01:2E:F3` (WF-09).
    pub(super) fn text(&mut self) -> Result<String, Problem> {
        let text = match self.peek() {
            Token::Raw(raw) => Some(raw.to_owned()),
            Token::Quoted(quoted) => unescape(quoted),
            Token::Word(word) if word.contains(':') => bytes(word),
            Token::Word(word) => return Err(self.unexpected(format!("text in quotes, `\"{word}\"`"))),
            _ => return Err(self.unexpected("text in quotes")),
        };
        let text = text.ok_or_else(|| {
            Problem::new("the text has an escape that is not known, or is not UTF-8")
                .at(self.source, self.offset())
                .expected("`\\\"`, `\\\\`, `\\xHH` or `\\OOO`")
        })?;
        self.advance();
        Ok(text)
    }
}

/// Decimal, `0x` and hexadecimal, or `0` and octal, as the dialect reads them (WF-09).
fn number(word: &str) -> Option<i64> {
    let (sign, digits) = word.strip_prefix('-').map_or(("", word), |digits| ("-", digits));
    let (radix, digits) = match (digits.strip_prefix("0x"), digits.strip_prefix('0')) {
        (Some(hex), _) => (16, hex),
        (None, Some(octal)) if !octal.is_empty() => (8, octal),
        _ => (10, digits),
    };
    // A number has one sign, and `from_str_radix` would take another one.
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) && (sign.is_empty() || radix == 10);
    if is_plain { i64::from_str_radix(&format!("{sign}{digits}"), radix).ok() } else { None }
}

fn unescape_quotes(quoted: &str) -> String {
    let mut out = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match (c, chars.clone().next()) {
            ('\\', Some('"')) => {}
            ('\\', Some(escaped)) => {
                chars.next();
                out.extend([c, escaped]);
            }
            _ => out.push(c),
        }
    }
    out
}

fn unescape(quoted: &str) -> Option<String> {
    if !quoted.contains('\\') {
        return Some(quoted.to_owned());
    }
    let mut out = Vec::with_capacity(quoted.len());
    let mut rest = quoted.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        let (byte, length) = escape(rest)?;
        out.push(byte);
        rest = rest.get(length..)?;
    }
    String::from_utf8(out).ok()
}

/// The byte that an escape stands for, and how many bytes follow its backslash.
fn escape(rest: &[u8]) -> Option<(u8, usize)> {
    let number = |digits: &[u8], radix| u8::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok();
    match rest.first()? {
        quoted @ (b'"' | b'\\') => Some((*quoted, 1)),
        b'x' => Some((number(rest.get(1..3)?, 16)?, 3)),
        b'0'..=b'7' => Some((number(rest.get(..3)?, 8)?, 3)),
        _ => None,
    }
}

fn bytes(word: &str) -> Option<String> {
    let bytes: Option<Vec<u8>> =
        word.split(':').map(|pair| (pair.len() == 2).then(|| u8::from_str_radix(pair, 16).ok()).flatten()).collect();
    String::from_utf8(bytes?).ok()
}
