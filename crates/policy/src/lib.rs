//! A mind: rules, lists and schedules; parses, checks against the field table, compiles, decides, explains, mints permits.
#![forbid(unsafe_code)]

mod permit;

pub use permit::{Permit, Refusal};
