//! Public feeds that an operator can add by name, and what becomes of them over time. Nothing is fetched here and no
//! feed's content ships: the binary fetches, this says what to ask for and what an answer means.

use crate::CategoryKind;
use crate::list::Format;
use crate::snapshot::Kind;

/// A feed that can be added by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feed {
    pub name: &'static str,
    pub title: &'static str,
    pub url: &'static str,
    pub format: Format,
    pub kind: Kind,
    pub category: CategoryKind,
    /// The publisher's terms as far as they are known; the operator reads them before use.
    pub licence: &'static str,
    pub note: &'static str,
}

/// In the order in which they are offered.
pub const FEEDS: &[Feed] = &[];
