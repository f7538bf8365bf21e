//! A mind: what is known about names, addresses, URLs and files, compiled into one immutable [`Snapshot`].
//!
//! It parses lists and the embedded catalogues and answers look-ups. It never fetches anything, never reads a clock and
//! never decides: a listing is a fact that the policy may match. Categories follow features.md 1.3.6 (CT-01 to CT-06),
//! applications ON-09.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::expect_used, reason = "a test that cannot begin has failed"))]

pub mod brand;
pub mod catalogue;
pub mod category;
mod compile;
pub mod domain;
pub mod entries;
pub mod error;
pub mod feed;
#[doc(hidden)]
pub mod fuzz;
pub mod geography;
pub mod list;
pub mod pinned;
mod ranges;
pub mod snapshot;
mod table;
pub mod tenant;

pub use brand::Brand;
pub use catalogue::{Application, ApplicationMatch, Catalogue, Relation};
pub use category::{Category, CategoryKind, category_named};
pub use compile::{Builder, LISTS_MAX};
pub use domain::{public_suffix, registered_domain, registry_domain};
pub use entries::{Entries, Scope};
pub use error::Error;
pub use feed::{FEEDS, Feed};
pub use geography::{Geography, Place};
pub use snapshot::{Applications, Kind, Knowledge, NameKnowledge, NamedList, Snapshot};

/// What is known about an address: the lists that hold it. Applications are matched by name only.
pub type AddressKnowledge<'a> = Knowledge<'a>;
