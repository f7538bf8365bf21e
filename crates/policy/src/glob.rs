//! Wildcards of the `wildcard` operators (WF-03): `*` stands for any text, `\*` and `\\` for themselves. Matching keeps one
//! point to go back to, so its time is bounded by the product of both lengths and it allocates nothing.

use crate::Problem;

/// WF-12 leaves stars unlimited and advises sixteen.
pub const WILDCARD_STARS_MAX: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob {
    parts: Vec<Part>,
    is_strict: bool,
    source: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Byte(u8),
    Star,
}

impl Glob {
    pub(crate) fn parse(source: &str, is_strict: bool) -> Result<Glob, Problem> {
        let mut parts = Vec::with_capacity(source.len());
        let mut bytes = source.bytes();
        while let Some(byte) = bytes.next() {
            parts.push(match byte {
                b'*' if parts.last() == Some(&Part::Star) => return Err(Problem::new("two stars in a row").expected("one `*`")),
                b'*' => Part::Star,
                b'\\' => match bytes.next() {
                    Some(escaped @ (b'*' | b'\\')) => Part::Byte(escaped),
                    _ => return Err(Problem::new("a backslash in a wildcard escapes nothing").expected("`\\*` or `\\\\`")),
                },
                other => Part::Byte(other),
            });
        }
        let stars = parts.iter().filter(|part| **part == Part::Star).count();
        if stars > WILDCARD_STARS_MAX {
            return Err(Problem::new(format!("{stars} stars in one wildcard")).expected(format!("at most {WILDCARD_STARS_MAX}")));
        }
        Ok(Glob { parts, is_strict, source: source.to_owned() })
    }

    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    pub(crate) fn is_strict(&self) -> bool {
        self.is_strict
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        let text = text.as_bytes();
        let (mut part, mut at) = (0, 0);
        let mut back: Option<(usize, usize)> = None;
        while at < text.len() {
            match self.parts.get(part) {
                Some(Part::Star) => {
                    back = Some((part + 1, at));
                    part += 1;
                }
                Some(Part::Byte(byte)) if self.is_same(*byte, text[at]) => {
                    part += 1;
                    at += 1;
                }
                _ => match back {
                    Some((after_star, from)) => {
                        back = Some((after_star, from + 1));
                        part = after_star;
                        at = from + 1;
                    }
                    None => return false,
                },
            }
        }
        self.parts[part.min(self.parts.len())..].iter().all(|rest| *rest == Part::Star)
    }

    fn is_same(&self, a: u8, b: u8) -> bool {
        if self.is_strict { a == b } else { a.eq_ignore_ascii_case(&b) }
    }
}
