//! Measures the store: `ingest EVENTS [DIRECTORY]` records synthetic events (or those that a run before left to do), seals and merges them, and looks up
//! indicators. It prints CPU per event for the whole path, bytes per event and look-up times as one JSON object. The
//! traffic is 70 % names, 28 % web and 2 % flows of 500 users, 1.67 million a day, as in the evaluation of event stores.
#![allow(clippy::unwrap_used, reason = "a measurement that fails should stop")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use model::{Class, Event, EventId, Facts, FieldId, Gate, Observable, Recorder, Timestamp, Value};
use rustix::time::{ClockId, clock_gettime};
use store::{Indicator, Query, Retention, Store, StoreConfig};

const USERS: u64 = 500;
const HOSTS: u64 = 1_000_000;
/// Between two events: 50 million fill 30 days, as in the evaluation.
const SPACING_MICROS: u64 = 51_840;
/// 2026-01-01.
const BEGIN_SECONDS: u64 = 1_767_225_600;
/// Events between two waits for the writer; below the queue's bound, so that none is lost.
const BURST_EVENTS: u64 = 50_000;

/// xorshift64*: fast enough to be no part of what is measured.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A rank by Zipf's law with exponent 1, from the inverse of its distribution.
    fn zipf(&mut self, bound: u64) -> u64 {
        let share = self.below(1 << 53) as f64 / (1_u64 << 53) as f64;
        ((bound as f64).powf(share) as u64).clamp(1, bound) - 1
    }
}

struct Traffic {
    numbers: Numbers,
    users: Vec<(Value, Value, Value)>,
}

impl Traffic {
    fn new() -> Traffic {
        let user = |number: u64| {
            let address = Ipv4Addr::from(0x0A00_0000 + number as u32 + 1);
            let (email, device) = (format!("user{number}@corp.example"), format!("laptop-{number}"));
            (Value::text(email), Value::text(device), Value::Ip(IpAddr::V4(address)))
        };
        Traffic { numbers: Numbers(42), users: (0..USERS).map(user).collect() }
    }

    fn host(&mut self) -> String {
        let (kind, rank) = (self.numbers.below(100), self.numbers.zipf(HOSTS));
        match kind {
            0..3 => format!("u{:x}.cdn{}.example", self.numbers.next() >> 24, rank % 1_000),
            _ => format!("site{rank}.example{}", rank % 10),
        }
    }

    fn event(&mut self, number: u64) -> Event {
        let kind = self.numbers.below(100);
        let gate = if kind < 70 {
            Gate::Dns
        } else if kind < 98 {
            Gate::Web
        } else {
            Gate::L4
        };
        let mut facts = Facts::new(gate);
        let at = self.numbers.below(USERS) as usize;
        let host = self.host();
        let (user, device, address) = &self.users[at];
        let blocked = number.is_multiple_of(200);
        facts.set(FieldId::UserEmail, user.clone());
        facts.set(FieldId::DeviceName, device.clone());
        facts.set(FieldId::SourceIp, address.clone());
        facts.set(FieldId::ActionId, Value::Int(if blocked { 2 } else { 1 }));
        facts.set(FieldId::DispositionId, Value::Int(if blocked { 2 } else { 1 }));
        facts.set(FieldId::VerdictOutcome, Value::text(if blocked { "blocked" } else { "allowed" }));
        facts.set(FieldId::PolicyRevision, Value::Int(7));
        self.fill(gate, &mut facts, host);
        let time = BEGIN_SECONDS * 1_000_000 + number * SPACING_MICROS;
        Event { id: EventId(0), time: Timestamp(time as i64), class: Class::of(gate), facts }
    }

    fn fill(&mut self, gate: Gate, facts: &mut Facts, host: String) {
        let server = IpAddr::V4(Ipv4Addr::from(0xC612_0000 + (xxhash(&host) & 0x1_FFFF) as u32));
        let numbers = &mut self.numbers;
        match gate {
            Gate::Dns => {
                facts.set(FieldId::DnsFqdn, Value::text(host));
                facts.set(FieldId::DnsQueryType, Value::text(if numbers.below(3) == 0 { "AAAA" } else { "A" }));
                facts.set(FieldId::DnsRcode, Value::text("NOERROR"));
                facts.set(FieldId::DnsCached, Value::Bool(numbers.below(2) == 0));
            }
            Gate::Web => {
                let url =
                    format!("https://{host}/api/{}/{:x}?session={:x}", numbers.below(50), numbers.below(9_000), numbers.next());
                facts.set(FieldId::HttpHost, Value::text(host));
                facts.set(FieldId::HttpUrl, Value::text(url));
                facts.set(FieldId::HttpMethod, Value::text("GET"));
                facts.set(FieldId::HttpStatus, Value::Int(200));
                facts.set(FieldId::HttpUserAgent, Value::text("Mozilla/5.0 (X11; Linux x86_64) Chrome/150"));
                facts.set(FieldId::DownloadMime, Value::text("text/html"));
                facts.set(FieldId::DestinationIp, Value::Ip(server));
                facts.set(FieldId::BytesIn, Value::Int(numbers.below(100_000) as i64));
                facts.set(FieldId::DurationMs, Value::Int(numbers.below(900) as i64));
                if numbers.below(40) == 0 {
                    facts.set(FieldId::FileSha256, Value::text(format!("{:064x}", numbers.zipf(HOSTS))));
                }
            }
            _ => {
                facts.set(FieldId::DestinationIp, Value::Ip(server));
                facts.set(FieldId::DestinationPort, Value::Int(443));
            }
        }
    }
}

fn xxhash(text: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(text.as_bytes())
}

fn cpu_seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Milliseconds of the first of some runs and of the fastest.
fn timed(run: impl Fn() -> usize) -> (f64, f64) {
    let runs = (0..7).map(|_| {
        let begun = Instant::now();
        std::hint::black_box(run());
        begun.elapsed().as_secs_f64() * 1e3
    });
    let runs = runs.collect::<Vec<_>>();
    (runs[0], runs.iter().copied().fold(f64::INFINITY, f64::min))
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let events: u64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let directory = arguments.next().unwrap_or_else(|| "ingest-data".to_owned());
    // The events are of the past: the keeper must not remove them while they are measured.
    let retention = Retention { traffic_days: 36_500, sighting_days: 36_500, ..Retention::default() };
    let maintain_every_seconds = 86_400;
    let config = StoreConfig { retention, maintain_every_seconds, delta_log: true, ..StoreConfig::in_directory(&directory) };
    let store = Store::open(config).unwrap();
    let mut traffic = Traffic::new();
    let mut making = 0.0;
    let (begun, process) = (Instant::now(), cpu_seconds(ClockId::ProcessCPUTime));
    // A run that was cut short goes on after the last event that it made durable.
    let present = store.stats().events;
    let begin = present / BURST_EVENTS * BURST_EVENTS;
    for burst in (begin..events).step_by(BURST_EVENTS as usize) {
        traffic.numbers = Numbers(42 + burst);
        // What making the events costs is measured on this thread and taken off.
        let thread = cpu_seconds(ClockId::ThreadCPUTime);
        let made = (burst..events.min(burst + BURST_EVENTS)).map(|number| traffic.event(number)).collect::<Vec<_>>();
        making += cpu_seconds(ClockId::ThreadCPUTime) - thread;
        let skipped = present.saturating_sub(burst) as usize;
        made.into_iter().skip(skipped).for_each(|event| store.record(event));
        store.flush().unwrap();
    }
    store.seal().unwrap();
    let made = events.saturating_sub(present).max(1);
    let (wall, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds(ClockId::ProcessCPUTime) - process - making);
    let sealed = store.stats();
    let process = cpu_seconds(ClockId::ProcessCPUTime);
    let now = Timestamp::from_seconds((BEGIN_SECONDS + 40 * 86_400) as i64);
    store.compact(now).unwrap();
    // A day later the inputs of the merges are no longer kept for readers elsewhere.
    store.compact(now.plus_micros(86_400_000_000)).unwrap();
    let merging = cpu_seconds(ClockId::ProcessCPUTime) - process;
    // Indexes that a directory of an earlier version lacks.
    let process = cpu_seconds(ClockId::ProcessCPUTime);
    let mended = store.mend_indexes().unwrap();
    let mending = cpu_seconds(ClockId::ProcessCPUTime) - process;
    let merged = store.stats();
    let host = |rank: u64| Indicator::of(Observable::Hostname, format!("site{rank}.example{}", rank % 10));
    let touched = |indicators: &[Indicator]| store.touched(indicators).unwrap().len();
    let rare = timed(|| touched(&[host(HOSTS - 77)]));
    let common = timed(|| touched(&[host(2_000)]));
    let absent = timed(|| touched(&[Indicator::guess("never.seen.example")]));
    let list = (0..10_000)
        .map(|number| Indicator::guess(format!("bad{number}.evil.example")))
        .chain((0..50).map(|n| host(n * 19_000 + 7)));
    let list = list.collect::<Vec<_>>();
    let hunt = timed(|| touched(&list));
    let search = timed(|| {
        let equalities = vec![(FieldId::HttpHost, Value::text("site2000.example0"))];
        store.search(&Query { equalities, ..Query::default() }).unwrap().len()
    });
    let milliseconds = |(first, best): (f64, f64)| serde_json::json!({ "first_ms": first, "best_ms": best });
    let report = serde_json::json!({
        "events": events,
        "lost": merged.lost_events,
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "events_per_cpu_second": made as f64 / cpu,
        "bytes_per_event_sealed": sealed.bytes as f64 / events as f64,
        "bytes_per_event_merged": merged.bytes as f64 / events as f64,
        "files_sealed": sealed.files,
        "files_merged": merged.files,
        "merge_cpu_seconds": merging,
        "index_bytes": merged.index_bytes,
        "mended_files": mended,
        "mend_cpu_seconds": mending,
        "touched_rare": milliseconds(rare),
        "touched_common": milliseconds(common),
        "touched_absent": milliseconds(absent),
        "touched_10050": milliseconds(hunt),
        "search_host": milliseconds(search),
    });
    println!("{}", serde_json::to_string_pretty(&report).unwrap());
}
