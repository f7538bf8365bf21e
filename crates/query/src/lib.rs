//! A hand in a box: SQL over the event lake, in a process of its own.
//!
//! [`Runner`] starts a worker for each query, hands it the text and the folder of the lake, and waits for one answer; the
//! worker locks itself down to reading that folder before it looks at the text. SQL can take any time and memory, and a
//! planner can overflow its stack on it, so the text is never looked at where a gate runs: a query ends by an answer or by
//! a bound, and either way its process is gone. It writes nothing, and it decides nothing about traffic.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails should stop"))]

mod bounds;
mod cell;
mod engine;
mod host;
mod lake;
mod limits;
mod sandbox;
mod wire;
pub mod worker;

use serde::{Deserialize, Serialize};

pub use host::Runner;
pub use limits::Limits;

/// A query as it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    pub sql: String,
    /// The first moment that the tables show, in microseconds; everything where there is none.
    pub since: Option<i64>,
    /// The first moment that they do not show any more.
    pub until: Option<i64>,
    /// Rows that the answer holds at most.
    pub rows_max: usize,
}

/// A column of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    /// The engine's name of the type.
    pub ty: String,
}

/// What a query found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<serde_json::Value>>,
    /// Why rows are missing at the end; none where the answer is whole.
    pub cut: Option<Cut>,
    pub milliseconds: u64,
}

/// Why an answer is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// As many rows as were asked for.
    Rows,
    /// As many bytes as an answer may have.
    Bytes,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It is no query, or not one over these tables.
    Statement,
    /// Its text is larger or nests deeper than one may.
    TooLarge,
    /// It ran as long as one may.
    Time,
    /// It needed more memory than one may have.
    Memory,
    /// As many queries run as may at once.
    Busy,
    /// The worker could not do its work; the query is not to blame.
    Worker,
}

impl Why {
    /// Whether the query began and was ended by a bound.
    pub fn is_ended_by_bound(self) -> bool {
        matches!(self, Why::Time | Why::Memory)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub why: Why,
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(why: Why, message: impl Into<String>) -> Refusal {
        Refusal { why, message: message.into() }
    }
}

/// How a query ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Answer(Answer),
    Refused(Refusal),
}

/// What can go wrong around a query. A query itself ends in an [`Outcome`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("exchange a frame with the query worker")]
    Frame(#[source] std::io::Error),
    #[error("decode a frame of the query worker")]
    Decode(#[source] serde_json::Error),
    #[error("lock down the query worker: {0}")]
    Sandbox(String),
}
