//! A mind: rules, lists and schedules; parses, checks against the field table, compiles, decides, explains, mints permits.
//!
//! Nothing here reads a clock or a file, starts a thread or rolls dice: time and list contents come in as arguments.
//! The language is the Cloudflare Gateway dialect of wirefilter (features.md 1.3); the rules are those of 1.1, 1.2, 1.4.
#![forbid(unsafe_code)]

mod compile;
pub mod document;
mod error;
mod evaluate;
mod explain;
mod expression;
mod filter;
#[doc(hidden)]
pub mod fuzz;
mod glob;
pub mod import;
mod index;
mod lexer;
pub mod list;
mod matrix;
mod obligation;
mod parser;
mod permit;
mod schedule;
mod set;
mod snapshot;
mod standing;

pub use document::Document;
pub use error::{Error, Place, Position, Problem, Warning, WarningKind, nearest, with_near_key};
pub use explain::{Explanation, QuestionExplanation, RuleExplanation};
pub use filter::Filter;
pub use matrix::{MATRIX, NOT_CARRIED_OUT, Pair, SERVED, permits_station};
pub use permit::{Context, Permit, Refusal};
pub use snapshot::{Decision, Policy, RuleId};
pub use standing::Standing;
