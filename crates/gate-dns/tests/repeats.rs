//! Questions that come again within a second: the same answers and the same record as before, and nothing of a decision that
//! no longer holds.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]

mod rig;

use std::time::{Duration, Instant};

use checkpoint::testing::Harness;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use model::{FieldId, Value};
use rig::{Manner, Rig, Upstream, plain_query, query, shown, spec};

const BLOCK: &str = r#"
[[rule]]
name = "No example"
gate = "dns"
action = "block"
when = 'any(dns.domains[*] == "example.com")'
settings = { block_reason = "not today" }
"#;

/// With one worker, so that all questions meet.
async fn rig(policy: &str) -> Rig {
    let upstream = Upstream::start(Manner::Honest).await;
    let spec = gate_dns::DnsGateSpec { workers: 1, ..spec(&upstream) };
    Rig::with_harness(Harness::new(policy), upstream, spec, None).await
}

/// Asks until an answer follows another, which takes three questions within a second; a machine may be slow.
async fn ask_until_followed(rig: &Rig, bytes: &[u8]) {
    let (before, began) = (rig.harness.followed(), Instant::now());
    while rig.harness.followed() == before {
        rig.udp(bytes).await.unwrap();
        assert!(began.elapsed() < rig::WAIT, "no answer follows another");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_follows_has_its_own_number_spelling_and_event() {
    let rig = rig("").await;
    for edns in [true, false] {
        let ask = |host: &str| if edns { query(host, RecordType::A) } else { plain_query(host, RecordType::A).to_vec().unwrap() };
        ask_until_followed(&rig, &ask("www.example.com")).await;
        let first = rig.udp_raw(&ask("www.example.com")).await.unwrap();
        let mut asked = ask("wWw.eXample.COM");
        asked[..2].copy_from_slice(&[0xab, 0xcd]);
        let again = rig.udp_raw(&asked).await.unwrap();
        assert_eq!(again[..2], [0xab, 0xcd]);
        assert_eq!(again[12..29], asked[12..29], "the name as it was asked for");
        let rest = |bytes: &[u8]| [&bytes[2..12], &bytes[29..]].concat();
        assert_eq!(rest(&again), rest(&first));
    }
    let events = rig.events();
    let of = |field| events.iter().map(move |event| event.facts.get(field).map(Value::to_string)).collect::<Vec<_>>();
    assert_eq!(of(FieldId::Reference).iter().collect::<std::collections::HashSet<_>>().len(), events.len());
    assert!(of(FieldId::DnsFqdn).iter().all(|name| name.as_deref() == Some("www.example.com")));
    assert!(of(FieldId::DnsResolvedIps).iter().all(|addresses| addresses.as_deref() == Some("192.0.2.1")));
    assert!(of(FieldId::SourcePort).iter().all(Option::is_some));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_in_more_than_number_and_spelling_does_not_follow() {
    let rig = rig("").await;
    let asked = query("www.example.com", RecordType::A);
    ask_until_followed(&rig, &asked).await;
    let followed = rig.harness.followed();
    // Without the wish for recursion, of another type, with a checksum bit, of another name, and cut.
    let mut flags = asked.clone();
    flags[2] ^= 0x01;
    let mut checking = asked.clone();
    checking[3] |= 0x10;
    let mut label = asked.clone();
    label[13] = b'x';
    let cut = &asked[..asked.len() - 1];
    for other in [&flags[..], &query("www.example.com", RecordType::AAAA), &checking, &label, cut] {
        rig.udp(other).await.unwrap();
    }
    assert_eq!(rig.harness.followed(), followed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_takes_effect_with_the_next_question_and_its_refusals_follow_too() {
    let rig = rig("").await;
    let asked = query("www.example.com", RecordType::A);
    for _ in 0..3 {
        ask_until_followed(&rig, &asked).await;
        rig.harness.publish(BLOCK);
        let refused = rig.udp(&asked).await.unwrap();
        assert_eq!(shown(&refused), shown(&rig.udp(&asked).await.unwrap()));
        assert_ne!(refused.answers.first().map(|record| record.data.to_string()).as_deref(), Some("192.0.2.1"));
        ask_until_followed(&rig, &asked).await;
        let event = rig.events().pop().unwrap();
        let text = |field| event.facts.get(field).map(Value::to_string);
        assert_eq!(text(FieldId::VerdictRule).as_deref(), Some("No example"));
        assert_eq!(text(FieldId::VerdictReason).as_deref(), Some("not today"));
        assert_eq!(text(FieldId::VerdictOutcome).as_deref(), Some("blocked"));
        rig.harness.publish("");
        let allowed = rig.udp(&asked).await.unwrap();
        assert_eq!(allowed.metadata.response_code, ResponseCode::NoError);
        assert_eq!(allowed.answers[0].data.to_string(), "192.0.2.1");
    }
}

/// Times to live go on falling while answers follow one another.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_ages_by_the_second() {
    let rig = rig("").await;
    let asked = query("www.example.com", RecordType::A);
    let began = Instant::now();
    rig.udp(&asked).await.unwrap();
    let mut least = u32::MAX;
    while least > 298 {
        let before = began.elapsed();
        let ttl = rig.udp(&asked).await.unwrap().answers[0].ttl;
        assert!(ttl <= least, "an answer grew younger");
        // The answer came after the first question was sent, and before the first answer was there.
        assert!(u64::from(300 - ttl) <= began.elapsed().as_secs());
        assert!(u64::from(300 - ttl) + 2 > before.as_secs());
        least = ttl;
        assert!(began.elapsed() < rig::WAIT);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(rig.harness.followed() > 0);
}

/// RFC 7871: an answer for a subnet is not everybody's.
#[tokio::test(flavor = "multi_thread")]
async fn where_upstreams_are_told_a_subnet_no_answer_follows() {
    let rig = rig("[[location]]\nname = \"here\"\nnetworks = [\"127.0.0.0/8\"]\necs = \"203.0.113.9/24\"\n").await;
    let asked = query("www.example.com", RecordType::A);
    for _ in 0..20 {
        rig.udp(&asked).await.unwrap();
    }
    assert_eq!((rig.harness.followed(), rig.events().len()), (0, 20));
}
