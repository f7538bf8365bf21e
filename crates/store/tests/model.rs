//! The store against an obviously right one: a list. Random events, sealed and merged at random moments, are searched,
//! read by cursor and looked up, and both must agree.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails should stop")]

mod common;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use common::{Numbers, config, event};
use model::{
    Class, Event, EventId, Facts, FieldId, Gate, Observable, Pattern, Recorder, Repeat, Timestamp, TransactionId, Value,
};
use store::{Indicator, Query, Sighting, Store};

const DAY_SECONDS: u64 = 86_400;

fn pick<'a>(numbers: &mut Numbers, from: &[&'a str]) -> &'a str {
    from[numbers.below(from.len() as u64) as usize]
}

fn host(numbers: &mut Numbers) -> Value {
    Value::text(format!("{}{}.example", pick(numbers, &["a", "B", "www.c"]), numbers.below(40)))
}

fn random_event(numbers: &mut Numbers) -> Event {
    let gate = [Gate::Dns, Gate::Web, Gate::L4][numbers.below(3) as usize];
    let address: IpAddr = format!("192.0.2.{}", numbers.below(6)).parse().unwrap();
    let mut values = vec![(FieldId::SourceIp, Value::Ip(address))];
    if numbers.below(4) > 0 {
        values.push((FieldId::UserEmail, Value::text(format!("User{}@example.com", numbers.below(5)))));
    }
    if numbers.below(3) == 0 {
        values.push((FieldId::DeviceName, Value::text(format!("d{}", numbers.below(3)))));
    }
    values.push((FieldId::ActionId, Value::Int(numbers.below(3) as i64)));
    match gate {
        Gate::Dns => {
            values.push((FieldId::DnsFqdn, host(numbers)));
            values.push((FieldId::DnsCached, Value::Bool(numbers.below(2) == 0)));
            let answers = (0..numbers.below(3)).map(|n| IpAddr::from([198, 51, 100, n as u8])).collect::<Vec<_>>();
            values.push((FieldId::DnsResolvedIps, Value::ips(answers)));
        }
        Gate::Web => {
            let host = host(numbers);
            let url = format!("https://{host}/{}?q={}", numbers.below(5), numbers.below(100));
            values.push((FieldId::HttpHost, host));
            values.push((FieldId::HttpUrl, Value::text(url)));
            values.push((FieldId::HttpStatus, Value::Int(200 + numbers.below(3) as i64)));
        }
        _ => values.push((FieldId::DestinationIp, Value::Ip(IpAddr::from([198, 51, 100, numbers.below(4) as u8])))),
    }
    event(gate, numbers.below(4 * DAY_SECONDS) as i64, values)
}

/// An event like one of a few before it, by one of the clients of all.
fn random_repeat(numbers: &mut Numbers, patterns: &mut Vec<Arc<Pattern>>) -> Repeat {
    if patterns.len() < 3 || numbers.below(20) == 0 {
        let mut event = random_event(numbers);
        if numbers.below(5) == 0 {
            event.facts.forget(FieldId::SourceIp);
        }
        patterns.push(Arc::new(Pattern::of(&event)));
    }
    let (last, which) = (numbers.below(6), numbers.below(patterns.len() as u64));
    Repeat {
        time: Timestamp::from_seconds(numbers.below(4 * DAY_SECONDS) as i64),
        client: SocketAddr::from(([192, 0, 2, last as u8], numbers.below(65_536) as u16)),
        reference: TransactionId(numbers.below(u64::MAX)),
        pattern: Arc::clone(&patterns[which as usize]),
    }
}

fn random_equality(numbers: &mut Numbers) -> (FieldId, Value) {
    match numbers.below(6) {
        0 => (FieldId::DnsFqdn, host(numbers)),
        1 => (FieldId::HttpHost, host(numbers)),
        2 => (FieldId::SourceIp, Value::Ip(IpAddr::from([192, 0, 2, numbers.below(8) as u8]))),
        3 => (FieldId::HttpStatus, Value::Int(200 + numbers.below(4) as i64)),
        4 => (FieldId::DnsCached, Value::Bool(true)),
        _ => (FieldId::DeviceName, Value::text("d1")),
    }
}

fn check_search(store: &Store, list: &[Event], numbers: &mut Numbers) {
    let moment =
        |numbers: &mut Numbers| (numbers.below(2) == 0).then(|| Timestamp::from_seconds(numbers.below(4 * DAY_SECONDS) as i64));
    let denied_only = numbers.below(2) == 0;
    let filter = move |facts: &Facts| !denied_only || facts.get(FieldId::ActionId) == Some(&Value::Int(2));
    let query = Query {
        since: moment(numbers),
        until: moment(numbers),
        classes: if numbers.below(3) == 0 { vec![Class::DnsActivity, Class::NetworkActivity] } else { Vec::new() },
        equalities: (0..numbers.below(3)).map(|_| random_equality(numbers)).collect(),
        filter: &filter,
        limit: [1, 7, 100_000][numbers.below(3) as usize],
        newest_first: numbers.below(2) == 0,
    };
    let matches = |event: &&Event| {
        query.since.is_none_or(|since| event.time >= since)
            && query.until.is_none_or(|until| event.time < until)
            && (query.classes.is_empty() || query.classes.contains(&event.class))
            && query.equalities.iter().all(|(field, value)| event.facts.get(*field) == Some(value))
            && filter(&event.facts)
    };
    let mut expected = list.iter().filter(matches).collect::<Vec<_>>();
    expected.sort_by_key(|event| (event.time, event.id));
    if query.newest_first {
        expected.reverse();
    }
    expected.truncate(query.limit);
    let found = store.search(&query).unwrap();
    let ids = |events: &[&Event]| events.iter().map(|event| event.id.0).collect::<Vec<_>>();
    assert_eq!(ids(&found.iter().collect::<Vec<_>>()), ids(&expected));
    for (found, expected) in found.iter().zip(expected) {
        for (field, value) in expected.facts.iter() {
            assert_eq!(found.facts.get(field), Some(value), "{}", field.row().name);
        }
    }
}

fn check_cursor(store: &Store, list: &[Event], numbers: &mut Numbers) {
    let (after, limit) = (numbers.below(list.len() as u64 + 2) as i64, numbers.below(50) as usize);
    let found = store.read_from(EventId(after), limit).unwrap().iter().map(|event| event.id.0).collect::<Vec<_>>();
    let expected = list.iter().map(|event| event.id.0).filter(|id| *id > after).take(limit).collect::<Vec<_>>();
    assert_eq!(found, expected);
}

fn text(facts: &Facts, field: FieldId) -> String {
    facts.get(field).map(ToString::to_string).unwrap_or_default()
}

/// The observables of an event, by hand.
fn observables(facts: &Facts) -> Vec<(Observable, String)> {
    let mut found = Vec::new();
    for field in [FieldId::DnsFqdn, FieldId::HttpHost] {
        found.extend(facts.get(field).map(|host| (Observable::Hostname, host.to_string().to_lowercase())));
    }
    for field in [FieldId::SourceIp, FieldId::DestinationIp] {
        found.extend(facts.get(field).map(|ip| (Observable::Ip, ip.to_string())));
    }
    if let Some(Value::Ips(ips)) = facts.get(FieldId::DnsResolvedIps) {
        found.extend(ips.iter().map(|ip| (Observable::Ip, ip.to_string())));
    }
    if let Some(url) = facts.get(FieldId::HttpUrl) {
        let url = url.to_string();
        let (before_query, _) = url.split_once('?').unwrap();
        let (host, path) = before_query.strip_prefix("https://").unwrap().split_once('/').unwrap();
        found.push((Observable::Url, format!("https://{}/{path}", host.to_lowercase())));
    }
    found.extend(facts.get(FieldId::UserEmail).map(|user| (Observable::UserName, user.to_string().to_lowercase())));
    found.sort();
    found.dedup();
    found
}

fn naive_sightings(list: &[Event], wanted: &[(Observable, String)]) -> Vec<Sighting> {
    let mut sightings: BTreeMap<(Observable, String, String, String, String), Sighting> = BTreeMap::new();
    for event in list {
        for (kind, value) in observables(&event.facts).into_iter().filter(|observable| wanted.contains(observable)) {
            let user = text(&event.facts, FieldId::UserEmail).to_lowercase();
            let (device, src_ip) = (text(&event.facts, FieldId::DeviceName), text(&event.facts, FieldId::SourceIp));
            let key = (kind, value.clone(), user.clone(), device.clone(), src_ip.clone());
            let (first, last, gates) = (event.time, event.time, Vec::new());
            let new = Sighting { kind, value, user, device, src_ip, first, last, count: 0, blocked: 0, gates };
            let known = sightings.entry(key).or_insert(new);
            known.count += 1;
            known.blocked += u64::from(event.facts.get(FieldId::ActionId) == Some(&Value::Int(2)));
            (known.first, known.last) = (known.first.min(event.time), known.last.max(event.time));
            known.gates.push(event.facts.gate());
            known.gates.sort();
            known.gates.dedup();
        }
    }
    let mut sightings = sightings.into_values().collect::<Vec<_>>();
    sightings.sort();
    sightings
}

fn check_touched(store: &Store, list: &[Event], numbers: &mut Numbers) {
    let mut wanted = Vec::new();
    for _ in 0..=numbers.below(30) {
        let host = host(numbers).to_string().to_lowercase();
        wanted.push(match numbers.below(5) {
            0 => (Observable::Ip, format!("198.51.100.{}", numbers.below(5))),
            1 => (Observable::Ip, format!("192.0.2.{}", numbers.below(8))),
            2 => (Observable::Url, format!("https://{host}/{}", numbers.below(6))),
            3 => (Observable::UserName, format!("user{}@example.com", numbers.below(6))),
            _ => (Observable::Hostname, host),
        });
    }
    let indicators = wanted.iter().map(|(kind, value)| Indicator::of(*kind, value)).collect::<Vec<_>>();
    let mut found = store.touched(&indicators).unwrap();
    found.sort();
    assert_eq!(found, naive_sightings(list, &wanted));
}

fn run(seed: u64, steps: u64) {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(config(directory.path())).unwrap();
    let (mut numbers, mut list) = (Numbers(seed), Vec::<Event>::new());
    let mut patterns: Vec<Arc<Pattern>> = Vec::new();
    for _ in 0..steps {
        for _ in 0..numbers.below(120) * u64::from(numbers.below(4) > 0) {
            let mut event = random_event(&mut numbers);
            store.record(event.clone());
            event.id = EventId(list.len() as i64 + 1);
            list.push(event);
        }
        // Those that follow patterns come after the whole ones in a commit, as here.
        for _ in 0..numbers.below(4) {
            let repeats = (0..numbers.below(60)).map(|_| random_repeat(&mut numbers, &mut patterns)).collect::<Vec<_>>();
            store.record_repeats(repeats.clone());
            for repeat in repeats {
                list.push(Event { id: EventId(list.len() as i64 + 1), ..repeat.event() });
            }
        }
        store.flush().unwrap();
        match numbers.below(6) {
            0 | 1 => store.seal().unwrap(),
            2 => drop(store.compact(Timestamp::from_seconds(10 * DAY_SECONDS as i64)).unwrap()),
            3 => {
                store.close().unwrap();
                store = Store::open(config(directory.path())).unwrap();
            }
            _ => {}
        }
        for _ in 0..4 {
            check_search(&store, &list, &mut numbers);
            check_cursor(&store, &list, &mut numbers);
            check_touched(&store, &list, &mut numbers);
        }
    }
    assert_eq!(store.stats().events, list.len() as u64);
}

#[test]
fn search_cursor_and_look_up_agree_with_a_list() {
    (1..=3).for_each(|seed| run(seed * 7_919, 12));
}
