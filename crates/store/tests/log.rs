//! The log from the outside: what is recorded is found, by search, by cursor and by indicator, before and after sealing.

mod common;

use common::{dns, open, web};
use model::{EventId, FieldId, Observable, Recorder, Timestamp, Value};
use store::{Indicator, Query};

#[test]
fn an_event_is_found_before_and_after_sealing_and_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.record(dns(1, "mia@example.com", "evil.example"));
    store.record(web(2, "noah@example.com", "evil.example", "https://evil.example/a?token=1"));
    store.flush().unwrap();
    let check = |store: &store::Store| {
        let query = Query { equalities: vec![(FieldId::HttpHost, Value::text("evil.example"))], ..Query::default() };
        let found = store.search(&query).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].id, found[0].time), (EventId(2), Timestamp::from_seconds(2)));
        let sightings = store.touched(&[Indicator::guess("Evil.example.")]).unwrap();
        let who = sightings.iter().map(|sighting| (sighting.who(), sighting.count)).collect::<Vec<_>>();
        assert_eq!(who, [("mia@example.com", 1), ("noah@example.com", 1)]);
        let urls = store.touched(&[Indicator::of(Observable::Url, "https://evil.example/a?token=2")]).unwrap();
        assert_eq!((urls.len(), urls[0].value.as_str()), (1, "https://evil.example/a"));
        let ids = store.read_from(EventId(0), 10).unwrap().iter().map(|event| event.id.0).collect::<Vec<_>>();
        assert_eq!(ids, [1, 2]);
    };
    check(&store);
    store.close().unwrap();
    let store = open(directory.path());
    check(&store);
    store.seal().unwrap();
    check(&store);
    assert_eq!((store.stats().unsealed_events, store.stats().events), (0, 2));
    store.close().unwrap();
    check(&open(directory.path()));
}
