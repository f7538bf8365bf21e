//! Events and stores for the tests of this folder.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::Path;

use model::{Class, Event, EventId, Facts, FieldId, Gate, Timestamp, Value};
use store::{Store, StoreConfig};

/// A store that seals only when it is asked to.
pub fn config(directory: &Path) -> StoreConfig {
    StoreConfig { seal_after_seconds: 3_600, ..StoreConfig::in_directory(directory) }
}

pub fn open(directory: &Path) -> Store {
    Store::open(config(directory)).unwrap()
}

pub fn event(gate: Gate, seconds: i64, values: Vec<(FieldId, Value)>) -> Event {
    let mut facts = Facts::new(gate);
    for (field, value) in values {
        assert!(facts.set(field, value), "{}", field.row().name);
    }
    Event { id: EventId(0), time: Timestamp::from_seconds(seconds), class: Class::of(gate), facts }
}

pub fn dns(seconds: i64, user: &str, host: &str) -> Event {
    event(Gate::Dns, seconds, vec![(FieldId::UserEmail, Value::text(user)), (FieldId::DnsFqdn, Value::text(host))])
}

pub fn web(seconds: i64, user: &str, host: &str, url: &str) -> Event {
    let values = [(FieldId::UserEmail, user), (FieldId::HttpHost, host), (FieldId::HttpUrl, url)];
    event(Gate::Web, seconds, values.map(|(field, text)| (field, Value::text(text))).to_vec())
}

/// The same numbers in every run: a multiplicative generator, good enough to spread test data.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
