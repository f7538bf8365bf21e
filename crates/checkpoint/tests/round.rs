//! Transactions that follow another: what they are permitted, what they leave in the record, and what ends a precedent. A
//! precedent may never outlive what its decision hung on.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops where its own set-up fails")]

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use checkpoint::testing::Harness;
use checkpoint::{Followed, LogPrivacy, Precedent, PrivacyRule, Settings};
use model::{Destination, Disposition, Event, FieldId, Gate, Session, Station, Timestamp, Transport, Value};

/// A Friday, 08:00:30 UTC.
const NOW: Timestamp = Timestamp::from_seconds(1_800_000_030);

const ALLOW: &str = "";
const BLOCK: &str = r#"
[[rule]]
name = "No example"
gate = "dns"
action = "block"
when = 'any(dns.domains[*] == "example.com")'
"#;

fn client(last: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], port))
}

fn session(harness: &Harness, client: SocketAddr) -> Session {
    let location = harness.checkpoint.locate(client.ip(), None);
    Session {
        id: harness.checkpoint.next_session(),
        gate: Gate::Dns,
        transport: Transport::Udp,
        began: NOW,
        client,
        local: SocketAddr::from(([127, 0, 0, 1], 53)),
        identity: location.as_ref().and_then(|location| location.identity.clone()),
        location: location.map(|location| location.name).unwrap_or_default(),
    }
}

/// One transaction as a gate would have it, at a moment.
fn transact(harness: &Harness, session: &Session, at: Timestamp) -> Option<Precedent> {
    let mut passage = harness.checkpoint.examine_at(session, at);
    passage.learn_host("www.example.com");
    passage.reach(Station::Question);
    let permit = passage.permit(Destination::Resolve { name: "www.example.com".into() });
    if permit.is_err() {
        return passage.finish_for_others(Disposition::Blocked, session, None);
    }
    passage.learn(FieldId::DnsRcode, Value::text("NOERROR"));
    passage.reach(Station::Answer);
    passage.count(40, 56);
    match passage.permit(Destination::Client) {
        Ok(permit) => {
            let leave = passage.leave(&permit);
            passage.finish_for_others(Disposition::Allowed, session, leave)
        }
        Err(_) => passage.finish_for_others(Disposition::Blocked, session, None),
    }
}

fn precedent(harness: &Harness) -> Precedent {
    transact(harness, &session(harness, client(1, 5000)), NOW).unwrap()
}

fn follows(harness: &Harness, precedent: &Precedent, client: SocketAddr, at: Timestamp) -> bool {
    harness.checkpoint.round(at, 1).follow(precedent, client).is_some()
}

fn same_as_a_whole_one(policy: &str, settings: Settings) {
    let harness = Harness::with_settings(policy, settings);
    let precedent = precedent(&harness);
    let (other, later) = (client(7, 99), NOW.plus_micros(3_000_000));
    assert!(follows(&harness, &precedent, other, later));
    transact(&harness, &session(&harness, other), later);
    let events = harness.events();
    let [_, followed, whole] = &events[..] else { panic!("{} events", events.len()) };
    let facts = |event: &Event| {
        let rest = event.facts.iter().filter(|(field, _)| *field != FieldId::Reference);
        rest.map(|(field, value)| (field, value.clone())).collect::<Vec<_>>()
    };
    assert_eq!(facts(followed), facts(whole));
    assert_eq!((followed.time, followed.class), (whole.time, whole.class));
    assert_eq!(followed.facts.get(FieldId::Reference).map(|text| text.to_string().len()), Some(16));
    assert_ne!(followed.facts.get(FieldId::Reference), whole.facts.get(FieldId::Reference));
}

#[test]
fn an_event_that_follows_has_every_fact_of_a_whole_one() {
    for policy in [ALLOW, BLOCK] {
        for keep in [LogPrivacy::Full, LogPrivacy::NoClient, LogPrivacy::NoName, LogPrivacy::CountsOnly] {
            let privacy = vec![PrivacyRule { group: String::new(), keep }];
            same_as_a_whole_one(policy, Settings { privacy, ..Settings::default() });
        }
    }
}

#[test]
fn each_that_follows_has_a_permit_or_a_refusal_and_one_event() {
    let harness = Harness::new(ALLOW);
    let precedent = precedent(&harness);
    let mut round = harness.checkpoint.round(NOW, 2);
    // More than the round was made for: each still has a number of its own.
    for port in 0..5 {
        let Some(Followed::Permitted(permit)) = round.follow(&precedent, client(1, port)) else { panic!("no permit") };
        assert_eq!(permit.into_parts(), (Destination::Client, Vec::new()));
    }
    assert_eq!(harness.events().len(), 1, "events are recorded together");
    drop(round);
    let references: std::collections::HashSet<_> =
        harness.events().iter().map(|event| event.facts.get(FieldId::Reference).map(ToString::to_string)).collect();
    assert_eq!(references.len(), 6);

    let harness = Harness::new(BLOCK);
    let precedent = transact(&harness, &session(&harness, client(1, 1)), NOW).unwrap();
    assert!(matches!(harness.checkpoint.round(NOW, 1).follow(&precedent, client(1, 2)), Some(Followed::Refused)));
    assert_eq!(harness.events().len(), 2);
}

#[test]
fn a_round_that_ends_by_a_panic_has_recorded_its_events() {
    let harness = Harness::new(ALLOW);
    let precedent = precedent(&harness);
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let mut round = harness.checkpoint.round(NOW, 4);
        assert!(round.follow(&precedent, client(1, 2)).is_some());
        panic!("in the middle of a batch");
    }));
    assert!(ended.is_err());
    assert_eq!(harness.events().len(), 2);
}

#[test]
fn a_precedent_ends_with_any_change_of_what_decides() {
    type Change = (&'static str, fn(&Harness));
    let changes: [Change; 4] = [
        ("policy", |harness| harness.publish(BLOCK)),
        ("the same policy again", |harness| harness.publish(ALLOW)),
        ("a list", |harness| harness.checkpoint.publish_knowledge(intel::Snapshot::empty())),
        ("settings", |harness| harness.checkpoint.publish_settings(Settings::default())),
    ];
    for (what, change) in changes {
        let harness = Harness::new(ALLOW);
        let precedent = precedent(&harness);
        assert!(follows(&harness, &precedent, client(1, 1), NOW));
        change(&harness);
        assert!(!follows(&harness, &precedent, client(1, 1), NOW), "{what}");
        assert_eq!(harness.events().len(), 2, "what does not follow leaves no event yet");
    }
}

#[test]
fn a_round_that_has_begun_ends_by_the_state_that_it_began_with() {
    let harness = Harness::new(ALLOW);
    let precedent = precedent(&harness);
    let mut round = harness.checkpoint.round(NOW, 2);
    harness.publish(BLOCK);
    assert!(round.follow(&precedent, client(1, 1)).is_some());
    drop(round);
    assert!(!follows(&harness, &precedent, client(1, 1), NOW));
}

/// GW-007 and GW-008.
#[test]
fn a_precedent_ends_when_a_rule_begins_or_ends() {
    let night = BLOCK.replace("when =", "schedule = { time_zone = \"Asia/Tokyo\", fri = \"17:01-18:00\" }\nwhen =");
    let begins = Timestamp::from_seconds(1_800_000_060);
    let harness = Harness::new(&night);
    let allowed = precedent(&harness);
    assert!(follows(&harness, &allowed, client(1, 1), begins.plus_micros(-1)));
    assert!(!follows(&harness, &allowed, client(1, 1), begins));
    assert!(!follows(&harness, &allowed, client(1, 1), NOW.plus_micros(-1)), "before it was decided");
    let refused = transact(&harness, &session(&harness, client(1, 1)), begins).unwrap();
    assert!(matches!(harness.checkpoint.round(begins, 1).follow(&refused, client(1, 1)), Some(Followed::Refused)));
    assert!(!follows(&harness, &refused, client(1, 1), begins.plus_micros(60_000_000)));

    let expiring = BLOCK.replace("when =", "expires = \"2027-01-15T08:00:31Z\"\nwhen =");
    let harness = Harness::new(&expiring);
    let refused = precedent(&harness);
    assert!(follows(&harness, &refused, client(1, 1), NOW.plus_micros(999_999)));
    assert!(!follows(&harness, &refused, client(1, 1), NOW.plus_micros(1_000_000)));
}

#[test]
fn where_rules_read_what_each_has_of_its_own_there_is_no_precedent() {
    for read in ["net.src.port == 1", "event.time > \"2020-01-01T00:00:00Z\""] {
        let harness = Harness::new(&BLOCK.replace("any(dns.domains[*] == \"example.com\")", read));
        assert!(transact(&harness, &session(&harness, client(1, 5000)), NOW).is_none(), "{read}");
        assert_eq!(harness.events().len(), 1, "{read}");
    }
}

#[test]
fn where_rules_read_the_address_only_the_same_address_follows() {
    let harness = Harness::new(&BLOCK.replace("any(dns.domains[*] == \"example.com\")", "net.src.ip in {192.0.2.7}"));
    let allowed = precedent(&harness);
    assert!(follows(&harness, &allowed, client(1, 77), NOW));
    assert!(!follows(&harness, &allowed, client(7, 77), NOW));
}

#[test]
fn only_transactions_from_the_same_location_follow() {
    let places = r#"
[[user]]
email = "ann@example.com"

[[location]]
name = "home"
networks = ["192.0.2.0/28"]
user = "ann@example.com"

[[location]]
name = "office"
networks = ["192.0.2.16/28"]
"#;
    let harness = Harness::new(places);
    let home = precedent(&harness);
    assert!(follows(&harness, &home, client(2, 1), NOW));
    assert!(!follows(&harness, &home, client(17, 1), NOW), "another location");
    assert!(!follows(&harness, &home, client(200, 1), NOW), "no location");
    // A session that is not where its address is (a token, or a location that has changed meanwhile) leaves none.
    let odd = [
        Session { location: "office".into(), ..session(&harness, client(1, 1)) },
        Session { identity: None, ..session(&harness, client(1, 1)) },
        Session { identity: harness.checkpoint.user("ann@example.com"), ..session(&harness, client(17, 1)) },
    ];
    for session in odd {
        assert!(transact(&harness, &session, NOW).is_none(), "{session:?}");
    }
    harness.publish(&places.replace("home", "house"));
    assert!(!follows(&harness, &home, client(2, 1), NOW), "a location that has another name now");
}

#[test]
fn what_has_waited_or_failed_is_no_precedent() {
    let harness = Harness::new(ALLOW);
    let session = session(&harness, client(1, 1));
    let mut waited = harness.checkpoint.examine_at(&session, NOW);
    waited.wait();
    assert!(waited.finish_for_others(Disposition::Allowed, &session, None).is_none());
    let mut failed = harness.checkpoint.examine_at(&session, NOW);
    failed.fail("malformed_query");
    assert!(failed.finish_for_others(Disposition::Error, &session, None).is_none());
    assert_eq!(harness.events().len(), 2);
}

#[test]
fn equal_precedents_share_their_facts_in_the_record() {
    let harness = Harness::new(ALLOW);
    let (one, two) = (precedent(&harness), precedent(&harness));
    let shared = two.sharing(&one);
    assert!(follows(&harness, &shared, client(1, 1), NOW));
    assert_eq!(harness.events().len(), 3);
}
