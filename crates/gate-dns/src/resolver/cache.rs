//! Answers that are remembered. The cache is bounded in bytes; an entry outlives its time to live by the stale period, so
//! that it can be served when no upstream answers (RFC 8767). Negative answers are entries like others (RFC 2308).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::rr::{Name, RecordType};
use model::Text;
use moka::sync::Cache as Recent;
use quick_cache::Weighter;
use quick_cache::sync::Cache as Table;

use super::subnet::Subnet;
use crate::encode::Packed;
use crate::facts::AnswerFacts;
use crate::reply::Reply;

/// What an entry costs beside its records: key, table slot, counters and facts, measured with 100,000 small entries.
const ENTRY_OVERHEAD_BYTES: usize = 640;

/// A failure is remembered this long, so that a dead zone does not cost its clients a full wait each time
/// (RFC 9520 section 3.2 asks for one second at least and five minutes at most).
const FAILURE_SECONDS: u64 = 5;

/// Failures remembered at once.
const FAILURES_MAX: u64 = 10_000;

/// What makes one answer differ from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) host: Text,
    pub(crate) kind: RecordType,
    pub(crate) dnssec_ok: bool,
    pub(crate) checking_disabled: bool,
    /// The subnet that the upstream was told.
    pub(crate) subnet: Option<Subnet>,
    /// Resolvers that a rule chose; empty for the usual ones.
    pub(crate) route: Box<[SocketAddr]>,
}

/// One remembered answer, with everything that is made of it more than once.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) reply: Reply,
    pub(crate) packed: Packed,
    pub(crate) facts: AnswerFacts,
    /// Who answered; empty where nobody was asked.
    pub(crate) upstream: Arc<str>,
    pub(crate) stored: Instant,
    pub(crate) ttl: u32,
    /// Whether the rebinding protection took addresses out.
    pub(crate) rebinding: bool,
}

/// What the cache holds for a question.
pub(crate) enum Held {
    Fresh(Arc<Entry>),
    Stale(Arc<Entry>),
    Nothing,
}

/// An entry counts by its bytes.
#[derive(Clone)]
struct Bytes;

impl Weighter<Key, Arc<Entry>> for Bytes {
    fn weight(&self, key: &Key, entry: &Arc<Entry>) -> u64 {
        (key.host.len() + entry.bytes()) as u64
    }
}

/// The ends between which times to live are brought before an answer is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention {
    pub(crate) ttl_min: u32,
    pub(crate) ttl_max: u32,
    pub(crate) stale: Duration,
}

pub(crate) struct Cache {
    entries: Table<Key, Arc<Entry>, Bytes>,
    failures: Recent<Key, ()>,
    retention: Retention,
}

impl Entry {
    /// None where the reply cannot be written as a message.
    pub(crate) fn new(host: &Name, kind: RecordType, reply: Reply, upstream: Arc<str>, at: Instant) -> Option<Entry> {
        let packed = Packed::new(host, kind, &reply)?;
        let facts = AnswerFacts::of(&reply);
        let ttl = reply.ttl();
        Some(Entry { reply, packed, facts, upstream, stored: at, ttl, rebinding: false })
    }

    pub(crate) fn age_seconds(&self, at: Instant) -> u32 {
        u32::try_from(at.saturating_duration_since(self.stored).as_secs()).unwrap_or(u32::MAX)
    }

    fn bytes(&self) -> usize {
        let records = self.reply.answers.len() + self.reply.authorities.len();
        ENTRY_OVERHEAD_BYTES + 2 * self.packed.bytes() + records * size_of::<hickory_proto::rr::Record>()
    }
}

impl Cache {
    pub(crate) fn new(bytes_max: u64, retention: Retention) -> Cache {
        let entries_usual = usize::try_from(bytes_max).unwrap_or(usize::MAX) / (2 * ENTRY_OVERHEAD_BYTES);
        Cache {
            entries: Table::with_weighter(entries_usual.max(1), bytes_max, Bytes),
            failures: Recent::builder().max_capacity(FAILURES_MAX).time_to_live(Duration::from_secs(FAILURE_SECONDS)).build(),
            retention,
        }
    }

    pub(crate) fn get(&self, key: &Key, at: Instant) -> Held {
        let Some(entry) = self.entries.get(key) else { return Held::Nothing };
        let age = at.saturating_duration_since(entry.stored);
        let life = Duration::from_secs(entry.ttl.into());
        if age < life {
            Held::Fresh(entry)
        } else if age < life + self.retention.stale {
            Held::Stale(entry)
        } else {
            Held::Nothing
        }
    }

    /// Brings the times to live between the ends. It runs before an entry is made, so that what clients are told agrees
    /// with what is kept.
    pub(crate) fn clamp(&self, reply: &mut Reply) {
        let Retention { ttl_min, ttl_max, .. } = self.retention;
        for record in reply.answers.iter_mut().chain(&mut reply.authorities) {
            record.ttl = record.ttl.clamp(ttl_min, ttl_max.max(ttl_min));
        }
    }

    pub(crate) fn keep(&self, key: Key, entry: Arc<Entry>) {
        if entry.ttl > 0 {
            self.failures.invalidate(&key);
            self.entries.insert(key, entry);
        }
    }

    /// Drops an answer that is at least this old; true where there was one.
    pub(crate) fn forget(&self, key: &Key, age: Duration, at: Instant) -> bool {
        let is_old = |entry: &Arc<Entry>| at.saturating_duration_since(entry.stored) >= age;
        let found = self.entries.get(key).is_some_and(|entry| is_old(&entry));
        if found {
            self.entries.remove(key);
        }
        found
    }

    /// Whether a recent try failed, so that another is pointless for a few seconds.
    pub(crate) fn failed(&self, key: &Key) -> bool {
        self.failures.contains_key(key)
    }

    pub(crate) fn keep_failure(&self, key: Key) {
        self.failures.insert(key, ());
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{RData, Record};

    use super::*;

    const RETENTION: Retention = Retention { ttl_min: 10, ttl_max: 100, stale: Duration::from_secs(50) };

    fn key(host: &str) -> Key {
        let route = Box::default();
        Key { host: host.into(), kind: RecordType::A, dnssec_ok: false, checking_disabled: false, subnet: None, route }
    }

    fn entry(ttl: u32, at: Instant) -> Arc<Entry> {
        let name = Name::from_ascii("a.example.").unwrap();
        let record = Record::from_rdata(name.clone(), ttl, RData::A(A::new(192, 0, 2, 1)));
        Arc::new(Entry::new(&name, RecordType::A, Reply::answering(vec![record]), "".into(), at).unwrap())
    }

    #[test]
    fn an_entry_is_fresh_then_stale_then_nothing() {
        let (cache, start) = (Cache::new(1 << 20, RETENTION), Instant::now());
        cache.keep(key("a.example"), entry(20, start));
        let held = |seconds| match cache.get(&key("a.example"), start + Duration::from_secs(seconds)) {
            Held::Fresh(_) => "fresh",
            Held::Stale(_) => "stale",
            Held::Nothing => "nothing",
        };
        assert_eq!([held(0), held(19), held(20), held(69), held(70)], ["fresh", "fresh", "stale", "stale", "nothing"]);
    }

    #[test]
    fn times_to_live_are_brought_between_the_ends() {
        let (cache, start) = (Cache::new(1 << 20, RETENTION), Instant::now());
        for (written, kept) in [(1, 10), (50, 50), (1_000_000, 100)] {
            let mut reply = entry(written, start).reply.clone();
            cache.clamp(&mut reply);
            assert_eq!(reply.ttl(), kept);
        }
    }

    #[test]
    fn the_bound_in_bytes_holds() {
        let (cache, start) = (Cache::new(100_000, RETENTION), Instant::now());
        for number in 0..2_000 {
            cache.keep(key(&format!("{number}.example")), entry(60, start));
        }
        assert!(cache.entries.weight() <= 100_000);
        assert!(cache.entries.len() > 50);
    }

    #[test]
    fn a_failure_is_forgotten_when_an_answer_comes() {
        let (cache, start) = (Cache::new(1 << 20, RETENTION), Instant::now());
        cache.keep_failure(key("a.example"));
        assert!(cache.failed(&key("a.example")));
        cache.keep(key("a.example"), entry(20, start));
        assert!(!cache.failed(&key("a.example")));
    }

    #[test]
    fn an_answer_that_may_not_be_kept_is_not() {
        let (cache, start) = (Cache::new(1 << 20, RETENTION), Instant::now());
        cache.keep(key("a.example"), entry(0, start));
        assert!(matches!(cache.get(&key("a.example"), start), Held::Nothing));
    }
}
