//! A mind: the nouns of Sekisho and the one table of facts.
//!
//! Everything here is plain data. It never reads a clock, opens a socket or decides anything; a crate that needs a noun
//! which two other crates also need finds it here. The field table in [`field`] is the single definition of every fact
//! that can be matched, logged or searched.
#![forbid(unsafe_code)]

pub mod event;
pub mod facts;
pub mod field;
pub mod gate;
pub mod identity;
pub mod name;
pub mod repeat;
pub mod session;
pub mod time;
pub mod value;
pub mod verdict;

pub use event::{Class, Disposition, Event, EventId, Recorder};
pub use facts::{Facts, Known};
pub use field::{FIELDS, Field, FieldId, Observable};
pub use gate::{Action, Gate, Question, Station};
pub use identity::{Group, Identity};
pub use repeat::{Pattern, Repeat};
pub use session::{Session, SessionId, TransactionId, Transport};
pub use time::Timestamp;
pub use value::{Text, Type, Value};
pub use verdict::{Answer, Destination, Finding, HeaderChange, Obligation, RuleName, Severity, Verdict};
