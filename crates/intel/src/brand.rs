//! The names that the operator wants imitations of to be noticed: the own organisation's, its bank's, its mail provider's.
//! None ships, since a look-alike of a name that nobody here uses is noise.

use std::sync::Arc;

use crate::registered_domain;

/// Each look at a name compares it with every brand, so their number bounds that time: 500 take some ten microseconds.
pub const BRANDS_MAX: usize = 500;

/// A registered domain and its first label, both in canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brand {
    pub domain: Arc<str>,
    pub label: Arc<str>,
}

impl Brand {
    /// None where the name has no registered domain.
    pub fn new(name: &str) -> Option<Brand> {
        let name = model::name::canonical(name)?;
        let domain = registered_domain(&name)?;
        let (label, _) = domain.split_once('.')?;
        Some(Brand { domain: domain.into(), label: label.into() })
    }
}
