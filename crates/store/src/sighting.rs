//! Who met what: one row for each observable, user, device and source address of a day, with counts and times; and the form
//! in which observables are stored and looked up.

use std::borrow::Cow;

use model::{Gate, Observable, Timestamp};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::batch::without_query;

/// One answer to "who ever met this?".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sighting {
    pub kind: Observable,
    pub value: String,
    /// Empty where the user was not known.
    pub user: String,
    pub device: String,
    pub src_ip: String,
    pub first: Timestamp,
    pub last: Timestamp,
    pub count: u64,
    pub blocked: u64,
    pub gates: Vec<Gate>,
}

impl Sighting {
    /// The user, or the source address where no user was known.
    pub fn who(&self) -> &str {
        if self.user.is_empty() { &self.src_ip } else { &self.user }
    }
}

/// The form in which a value is stored and looked up. Query strings are cut: they carry tokens.
pub(crate) fn normal(kind: Observable, value: &str) -> Cow<'_, str> {
    match kind {
        Observable::Hostname => lower(value.strip_suffix('.').unwrap_or(value)),
        Observable::Url => normal_url(without_query(value)),
        Observable::Hash | Observable::UserName | Observable::Email => lower(value),
        Observable::Ip | Observable::FileName => Cow::Borrowed(value),
    }
}

pub(crate) fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) { text.to_ascii_lowercase().into() } else { text.into() }
}

/// Scheme and host in lower case; the path as it is.
fn normal_url(url: &str) -> Cow<'_, str> {
    let after_scheme = url.find("://").map_or(0, |place| place + 3);
    let end = url.get(after_scheme..).and_then(|rest| rest.find('/')).map_or(url.len(), |slash| after_scheme + slash);
    match url.split_at_checked(end) {
        Some((head, path)) if head.bytes().any(|byte| byte.is_ascii_uppercase()) => (head.to_ascii_lowercase() + path).into(),
        _ => url.into(),
    }
}

/// The hash of an observable. Its lower half is the key in filters.
pub(crate) fn key(kind: Observable, value: &str) -> u128 {
    xxh3_128_with_seed(value.as_bytes(), kind.type_id() as u64)
}

/// A sighting as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SightingRow<'a> {
    pub type_id: i32,
    pub value: Cow<'a, str>,
    pub user: Cow<'a, str>,
    pub device: Cow<'a, str>,
    pub src_ip: Cow<'a, str>,
    pub gates: i32,
    pub count: i64,
    pub blocked: i64,
    pub first: i64,
    pub last: i64,
}

impl SightingRow<'_> {
    /// The order of files, and what makes two rows one.
    pub fn order(&self) -> (i32, &str, &str, &str, &str) {
        (self.type_id, &self.value, &self.user, &self.device, &self.src_ip)
    }

    pub fn absorb(&mut self, other: &SightingRow<'_>) {
        self.gates |= other.gates;
        self.count += other.count;
        self.blocked += other.blocked;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

pub(crate) fn kind_of(type_id: i32) -> Option<Observable> {
    Observable::ALL.iter().copied().find(|kind| kind.type_id() == type_id)
}

pub(crate) fn gates_of(bits: i32) -> Vec<Gate> {
    Gate::ALL.iter().copied().enumerate().filter(|(place, _)| bits >> place & 1 == 1).map(|(_, gate)| gate).collect()
}
