//! What can be wrong with a policy, said so that a person can mend it: where, at which character, what was expected, and
//! the nearest name that exists. Warnings are for policies that compile and still may surprise.

use std::fmt;

use serde::Serialize;

/// A failure to read a document at all; everything inside a readable document is a [`Problem`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not read the policy document: {0}")]
    Toml(String),
    #[error("could not write the policy document")]
    Write(#[from] toml::ser::Error),
    #[error("could not read the exported policy as JSON")]
    Json(#[from] serde_json::Error),
    #[error("settings stand both in {first} and in {second}; keep one")]
    SettingsTwice { first: String, second: String },
    #[error("the export holds no Gateway rules or lists: {0}")]
    NotAnExport(&'static str),
}

impl From<toml::de::Error> for Error {
    fn from(error: toml::de::Error) -> Error {
        Error::Toml(with_near_key(&error.to_string()))
    }
}

/// A character of an expression. Lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Position {
    pub offset: usize,
    pub line: usize,
    pub column: usize,
}

/// The part of a policy that a problem or warning is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Place {
    pub file: Option<String>,
    /// `rule "x"`, `list "y"`; empty for a bare expression.
    pub subject: String,
    /// `when`, `identity`, `schedule`; empty for the whole.
    pub part: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub place: Box<Place>,
    pub position: Option<Position>,
    pub message: String,
    /// What would have been right here.
    pub expected: Option<String>,
    /// The nearest name that is known.
    pub nearest: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WarningKind {
    /// The rule can never take effect.
    NeverTakesEffect,
    /// The rule decides late, and bytes go upstream meanwhile.
    MustWait,
    /// An array was compared as if it were one value.
    BareArray,
    /// A list that the rule names is disabled or empty.
    EmptyList,
    /// The rule's last moment has passed.
    Expired,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    pub kind: WarningKind,
    pub place: Place,
    pub message: String,
}

impl Position {
    pub(crate) fn of(source: &str, offset: usize) -> Position {
        let offset = (0..=offset.min(source.len())).rev().find(|at| source.is_char_boundary(*at)).unwrap_or(0);
        let before = &source[..offset];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position { offset, line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

impl Place {
    pub(crate) fn of(file: Option<&str>, subject: String, part: &'static str) -> Place {
        Place { file: file.map(str::to_owned), subject, part }
    }
}

impl Problem {
    pub(crate) fn new(message: impl Into<String>) -> Problem {
        Problem { place: Box::default(), position: None, message: message.into(), expected: None, nearest: None }
    }

    pub(crate) fn at(mut self, source: &str, offset: usize) -> Problem {
        self.position = Some(Position::of(source, offset));
        self
    }

    pub(crate) fn expected(mut self, expected: impl Into<String>) -> Problem {
        self.expected = Some(expected.into());
        self
    }

    pub(crate) fn nearest<'a>(mut self, written: &str, names: impl Iterator<Item = &'a str>) -> Problem {
        self.nearest = nearest(written, names).map(str::to_owned);
        self
    }

    pub(crate) fn placed(mut self, place: Place) -> Problem {
        *self.place = place;
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [self.file.as_deref().unwrap_or(""), &self.subject, self.part];
        let mut written = parts.iter().filter(|part| !part.is_empty());
        if let Some(first) = written.next() {
            f.write_str(first)?;
        }
        written.try_for_each(|part| write!(f, ", {part}"))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.place.to_string();
        if !place.is_empty() {
            write!(f, "{place}: ")?;
        }
        if let Some(position) = self.position {
            write!(f, "line {} column {}: ", position.line, position.column)?;
        }
        f.write_str(&self.message)?;
        if let Some(expected) = &self.expected {
            write!(f, "; expected {expected}")?;
        }
        if let Some(nearest) = &self.nearest {
            write!(f, "; did you mean `{nearest}`?")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// A TOML error in its own words, with the known key nearest to the unknown one that it names.
pub fn with_near_key(message: &str) -> String {
    let near = || {
        let (unknown, rest) = message.split_once("unknown field `")?.1.split_once('`')?;
        nearest(unknown, rest.split('`').skip(1).step_by(2))
    };
    let hint = near().map(|near| format!("\ndid you mean `{near}`?")).unwrap_or_default();
    format!("{}{hint}", message.trim_end())
}

/// Names longer than this are not compared; every name in the field table is shorter.
const NAME_BYTES_MAX: usize = 64;

/// The name that takes the fewest edits to reach, if that is at most a third of what was written.
pub fn nearest<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if written.len() > NAME_BYTES_MAX {
        return None;
    }
    let (distance, name) = names.map(|name| (edits(written.as_bytes(), name.as_bytes()), name)).min_by_key(|(d, _)| *d)?;
    (distance <= (written.len() / 3).max(1)).then_some(name)
}

/// Edits between two names, where letters that changed places are one (optimal string alignment).
fn edits(from: &[u8], to: &[u8]) -> usize {
    // The row before the last one, the last one, and the one that is being made.
    let mut rows: [Vec<usize>; 3] = [vec![0; to.len() + 1], (0..=to.len()).collect(), vec![0; to.len() + 1]];
    for (i, a) in from.iter().enumerate() {
        let [before, last, row] = &mut rows;
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let changed = last[j] + usize::from(a != b);
            row[j + 1] = changed.min(row[j] + 1).min(last[j + 1] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        rows.rotate_left(1);
    }
    rows[1][to.len()]
}
