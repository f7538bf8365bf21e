//! Splits an expression into tokens (features.md 1.3.1, WF-02 to WF-11). Text stays as it was written: which escapes count
//! depends on what it is compared with, so the parser unescapes it.

use crate::Problem;

/// Longer expressions are refused. Some exported rules carry a thousand names in a set; this is ten times that.
pub const EXPRESSION_BYTES_MAX: usize = 256 * 1024;

/// Raw text may be fenced by at most this many `#`, as in Rust.
const RAW_FENCE_MAX: usize = 255;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// A field, function, operator in letters, number, address, range or bytes.
    Word(&'a str),
    /// What stands between quotes, escapes untouched.
    Quoted(&'a str),
    /// What stands between `r"` and `"`, with any number of `#`.
    Raw(&'a str),
    /// A list's name without its `$`.
    List(&'a str),
    Symbol(&'static str),
    End,
}

/// Longest first, so that `>=` is not read as `>`.
const SYMBOLS: &[&str] =
    &["==", "!=", ">=", "<=", "&&", "||", "^^", ">", "<", "&", "~", "!", "(", ")", "{", "}", "[", "]", ",", "*"];

pub(crate) fn lex(source: &str) -> Result<Vec<(usize, Token<'_>)>, Problem> {
    if source.len() > EXPRESSION_BYTES_MAX {
        return Err(Problem::new(format!("the expression is {} bytes long", source.len()))
            .expected(format!("at most {EXPRESSION_BYTES_MAX} bytes")));
    }
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = source[at..].chars().next() {
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let (token, length) = one(source, at, first)?;
        tokens.push((at, token));
        at += length;
    }
    tokens.push((source.len(), Token::End));
    Ok(tokens)
}

fn one(source: &str, at: usize, first: char) -> Result<(Token<'_>, usize), Problem> {
    let rest = &source[at..];
    if first == '"' {
        return quoted(source, at);
    }
    if first == 'r' && rest[1..].starts_with(['"', '#']) {
        return raw(source, at);
    }
    if first == '$' {
        let name = prefix(&rest[1..], |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        return match name.is_empty() {
            true => Err(Problem::new("`$` without a name").at(source, at).expected("the name of a list")),
            false => Ok((Token::List(name), name.len() + 1)),
        };
    }
    let word = word(rest);
    if !word.is_empty() {
        return Ok((Token::Word(word), word.len()));
    }
    match SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
        Some(symbol) => Ok((Token::Symbol(symbol), symbol.len())),
        None => Err(Problem::new(format!("`{first}` means nothing here")).at(source, at)),
    }
}

fn prefix(text: &str, accept: impl Fn(char) -> bool) -> &str {
    &text[..text.find(|c| !accept(c)).unwrap_or(text.len())]
}

/// A run of letters, digits and `_ . : /`; a minus sign opens a number or follows the dots of a range.
fn word(rest: &str) -> &str {
    let bytes = rest.as_bytes();
    let mut end = 0;
    while let Some(byte) = bytes.get(end) {
        let opens_number =
            *byte == b'-' && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) && (end == 0 || rest[..end].ends_with(".."));
        if !(opens_number || byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':' | b'/')) {
            break;
        }
        end += 1;
    }
    &rest[..end]
}

fn quoted(source: &str, at: usize) -> Result<(Token<'_>, usize), Problem> {
    let rest = &source.as_bytes()[at + 1..];
    let mut end = 0;
    while let Some(byte) = rest.get(end) {
        match byte {
            b'"' => return Ok((Token::Quoted(&source[at + 1..at + 1 + end]), end + 2)),
            b'\\' => end += 2,
            _ => end += 1,
        }
    }
    Err(Problem::new("the text that starts here does not end").at(source, at).expected("`\"`"))
}

fn raw(source: &str, at: usize) -> Result<(Token<'_>, usize), Problem> {
    let fence = prefix(&source[at + 1..], |c| c == '#');
    let opened = at + 1 + fence.len();
    if fence.len() > RAW_FENCE_MAX || !source[opened..].starts_with('"') {
        return Err(Problem::new("raw text opens with `r`, any `#`, and a quote").at(source, at).expected("`r\"`"));
    }
    let close = format!("\"{fence}");
    match source[opened + 1..].find(&close) {
        Some(length) => Ok((Token::Raw(&source[opened + 1..opened + 1 + length]), opened + 1 + length + close.len() - at)),
        None => Err(Problem::new("the raw text that starts here does not end").at(source, at).expected(format!("`{close}`"))),
    }
}
