//! The gate against upstreams that fail, lie or are slow: what clients get, what is asked again and how, and what the
//! record says. The manners stand in `rig`.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod rig;

use std::sync::Arc;

use gate_dns::DnsGateSpec;
use hickory_proto::op::Edns;
use hickory_proto::rr::RecordType::{A, AAAA};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
use model::FieldId;
use rig::{Manner, Rig, Upstream, plain_query, query, shown, spec};

/// RFC 5452: no forgery is believed, and an answer that cannot be trusted is asked for again over TCP.
#[tokio::test]
async fn every_manner_of_forgery_ends_in_the_honest_answer() {
    for (manner, asked) in [
        (Manner::Honest, &["udp A www.example.com"][..]),
        (Manner::WrongNumber, &["udp A www.example.com"]),
        (Manner::WrongQuestion, &["udp A www.example.com"]),
        (Manner::Garbage, &["udp A www.example.com"]),
        (Manner::WrongSpelling, &["udp A www.example.com", "tcp A www.example.com"]),
        (Manner::Losing, &["udp A www.example.com", "udp A www.example.com"]),
        (Manner::Truncated, &["udp A www.example.com", "tcp A www.example.com"]),
        (Manner::Guessing, &["udp A www.example.com", "tcp A www.example.com"]),
    ] {
        let rig = Rig::start("").await;
        rig.upstream.behave(manner);
        assert_eq!(shown(&rig.ask("www.example.com", A).await), "NoError [192.0.2.1]", "{manner:?}");
        assert_eq!(rig.upstream.asked(), asked, "{manner:?}");
    }
}

#[tokio::test]
async fn the_next_upstream_is_asked_where_one_is_silent_or_fails() {
    for manner in [Manner::Silent, Manner::ServerFailure] {
        let (first, second) = (Upstream::start(manner).await, Upstream::start(Manner::Honest).await);
        let upstreams = vec![first.address.to_string(), second.address.to_string()];
        let spec = DnsGateSpec { upstreams, ..spec(&first) };
        let rig = Rig::with("", first, spec, None).await;
        assert_eq!(shown(&rig.ask("www.example.com", A).await), "NoError [192.0.2.1]", "{manner:?}");
        assert_eq!(rig.last(FieldId::DnsUpstream), Some(second.address.to_string()));
        if manner == Manner::Silent {
            rig.ask("target.example.net", A).await;
            assert_eq!(rig.upstream.asked().len(), 1, "a silent upstream rests");
        }
    }
}

/// RFC 8914 sections 4.23 and 4.24, and RFC 9520: a failure is told, recorded, and for a moment not tried again.
#[tokio::test]
async fn a_name_that_no_upstream_answers_is_a_servfail_with_its_reason() {
    let rig = Rig::start("").await;
    rig.upstream.behave(Manner::Silent);
    assert_eq!(shown(&rig.ask("www.example.com", A).await), "ServFail [] ede22");
    assert_eq!(rig.last(FieldId::Failure).as_deref(), Some("deadline"));
    assert_eq!(rig.last(FieldId::VerdictOutcome).as_deref(), Some("error"));
    assert_eq!(rig.last(FieldId::DnsRcode).as_deref(), Some("SERVFAIL"));
    rig.upstream.behave(Manner::Honest);
    assert_eq!(shown(&rig.ask("www.example.com", A).await), "ServFail [] ede22");
    assert_eq!(rig.upstream.asked(), ["udp A www.example.com"; 2]);

    let gone = Upstream::start(Manner::Honest).await;
    let spec = DnsGateSpec { upstreams: vec!["127.0.0.1:1".to_owned()], ..spec(&gone) };
    let rig = Rig::with("", gone, spec, None).await;
    assert_eq!(shown(&rig.ask("www.example.com", A).await), "ServFail [] ede23");
    assert_eq!(rig.last(FieldId::Failure).as_deref(), Some("upstream_unreachable"));
}

/// An upstream that verifies signatures says that one is wrong; the client is told the same.
#[tokio::test]
async fn the_reason_of_an_upstream_is_passed_on() {
    let rig = Rig::start("").await;
    rig.upstream.behave(Manner::ServerFailure);
    assert_eq!(shown(&rig.ask("www.example.com", A).await), "ServFail [] ede6");
    assert_eq!(rig.last(FieldId::DnsExtendedErrors).as_deref(), Some("6"));
    assert_eq!(rig.last(FieldId::Failure).as_deref(), Some("upstream_refused"));
}

#[tokio::test]
async fn aliases_are_followed_to_their_end_and_circles_are_not() {
    let rig = Rig::start("").await;
    assert_eq!(shown(&rig.ask("dangling.example.com", A).await), "NoError [www.example.com 192.0.2.1]");
    assert_eq!(rig.upstream.asked(), ["udp A dangling.example.com", "udp A www.example.com"]);
    assert_eq!(shown(&rig.ask("circle.example.com", A).await), "ServFail [] ede0");
    assert_eq!(rig.last(FieldId::Failure).as_deref(), Some("endless_chain"));
}

/// RFC 2308: what does not exist is remembered as well, and each client keeps its own spelling.
#[tokio::test]
async fn answers_of_both_kinds_are_remembered() {
    let rig = Rig::start("").await;
    for host in ["www.example.com", "missing.example.com"] {
        let first = shown(&rig.ask(host, A).await);
        let again = rig.ask(&host.to_ascii_uppercase(), A).await;
        assert_eq!(shown(&again), first);
        assert_eq!(again.queries[0].name().to_ascii(), format!("{}.", host.to_ascii_uppercase()));
        assert_eq!(rig.last(FieldId::DnsCached).as_deref(), Some("true"));
    }
    assert_eq!(rig.upstream.asked(), ["udp A www.example.com", "udp A missing.example.com"]);
    rig.ask("www.example.com", AAAA).await;
    assert_eq!(rig.upstream.asked().len(), 3);
}

#[tokio::test]
async fn a_burst_of_one_question_is_asked_once() {
    let rig = Arc::new(Rig::start("").await);
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move { shown(&rig.udp(&query("alias.example.com", A)).await.unwrap()) })
        })
        .collect();
    for client in clients {
        assert_eq!(client.await.unwrap(), "NoError [middle.example.net target.example.net 192.0.2.7]");
    }
    assert_eq!(rig.upstream.asked().len(), 1);
    assert_eq!(rig.events().len(), 20);
}

/// The handle that other gates resolve by: the same upstreams, cache and protection.
#[tokio::test]
async fn another_gate_looks_hosts_up() {
    let rig = Rig::start("").await;
    let found = |host: &'static str| {
        let resolver = rig.resolver.clone();
        async move { resolver.lookup(host).await.map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>()) }
    };
    assert_eq!(found("WWW.example.com").await.unwrap(), ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(found("192.0.2.77").await.unwrap(), ["192.0.2.77"]);
    assert_eq!(found("localhost").await.unwrap(), ["127.0.0.1", "::1"]);
    assert_eq!(found("hidden.onion").await.unwrap(), Vec::<String>::new());
    assert_eq!(found("missing.example.com").await.unwrap(), Vec::<String>::new());
    assert_eq!(found("private.example.com").await.unwrap(), Vec::<String>::new());
    assert!(matches!(found("not a name..").await, Err(gate_dns::Error::NotAHost { .. })));
    assert!(rig.events().is_empty());
    rig.ask("www.example.com", A).await;
    assert_eq!(rig.last(FieldId::DnsCached).as_deref(), Some("true"));
    rig.upstream.behave(Manner::Silent);
    assert!(matches!(found("unknown.example.org").await, Err(gate_dns::Error::Unresolved { .. })));
}

/// ON-01 `ecs_support`: a location says what upstreams are told of its clients, a client may decline (RFC 7871 section 7.1.2),
/// and what was answered for one subnet is not given to another.
#[tokio::test]
async fn a_subnet_is_told_where_the_location_says_so_and_the_client_does_not_decline() {
    let here = |ecs: &str| format!("[[location]]\nname = \"here\"\nnetworks = [\"127.0.0.0/8\"]\n{ecs}");
    for (ecs, told) in [("", "-"), ("ecs = \"client\"", "-"), ("ecs = \"203.0.113.9/24\"", "203.0.113.0/24/0")] {
        let rig = Rig::start(&here(ecs)).await;
        assert_eq!(shown(&rig.ask("www.example.com", A).await), "NoError [192.0.2.1]");
        assert_eq!(rig.upstream.subnets(), [told], "{ecs}");
    }

    let rig = Rig::start(&here("ecs = \"203.0.113.0/24\"")).await;
    let with_option = |prefix: u8| {
        let mut message = plain_query("www.example.com", A);
        let mut edns = Edns::new();
        let address = if prefix == 0 { "0.0.0.0" } else { "198.51.100.0" };
        edns.options_mut().insert(EdnsOption::Subnet(ClientSubnet::new(address.parse().unwrap(), prefix, 0)));
        message.set_edns(edns);
        message.to_vec().unwrap()
    };
    for (query, told) in [(with_option(24), "203.0.113.0/24/0"), (with_option(0), "-")] {
        let answer = rig.udp(&query).await.unwrap();
        assert_eq!(shown(&answer), "NoError [192.0.2.1]");
        assert_eq!(rig.upstream.subnets().last().unwrap(), told);
        assert_eq!(rig.last(FieldId::DnsCached).as_deref(), Some("false"));
        rig.udp(&query).await.unwrap();
        assert_eq!(rig.last(FieldId::DnsCached).as_deref(), Some("true"));
    }
    assert_eq!(rig.upstream.subnets().len(), 2);
}
