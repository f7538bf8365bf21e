//! Leave that stands for the next transaction like the first, and what ends it (GW-007, GW-008).
#![allow(clippy::expect_used)]

mod common;

use common::{compile, dns};
use model::{Destination, FieldId, Gate, Station, Timestamp};
use policy::{Policy, Standing};

/// 2027-01-15, a Friday, 08:00:30 UTC.
const NOW: Timestamp = Timestamp::from_seconds(1_800_000_030);

fn standing(policy: &Policy, now: Timestamp) -> Option<Standing> {
    let permit = policy.permit(&dns("www.example.org"), Destination::Client, now).1.expect("permitted");
    policy.standing(&permit, Gate::Dns, now)
}

#[test]
fn leave_stands_for_the_policy_that_gave_it_and_for_no_other() {
    let rule = "[[rule]]\nname = \"a\"\ngate = \"dns\"\naction = \"block\"\nwhen = 'dns.fqdn == \"a.example\"'\n";
    let policy = compile(rule);
    let standing = standing(&policy, NOW).expect("stands");
    let again = policy.permit_again(&standing, NOW.plus_micros(86_400_000_000)).expect("again");
    assert_eq!((again.destination(), again.station(), again.obligations().len()), (&Destination::Client, Station::Question, 0));
    assert!(policy.clone().with_revision(2).permit_again(&standing, NOW).is_some(), "the same rules under another number");
    assert!(compile(rule).permit_again(&standing, NOW).is_none(), "equal rules are still not the policy that was asked");
    assert!(policy.permit_again(&standing, NOW.plus_micros(-1)).is_none(), "a clock that was set back");
}

#[test]
fn gw_007_leave_ends_with_the_minute_where_a_rule_has_hours() {
    let policy = compile(
        r#"
        [[rule]]
        name = "night"
        gate = "dns"
        action = "block"
        when = 'dns.fqdn == "www.example.org"'
        schedule = { time_zone = "Asia/Kathmandu", fri = "13:46-14:00" }
        "#,
    );
    let standing = standing(&policy, NOW).expect("stands");
    let begins = Timestamp::from_seconds(1_800_000_060);
    assert_eq!(standing.until(), begins);
    assert!(policy.permit_again(&standing, begins.plus_micros(-1)).is_some());
    assert!(policy.permit_again(&standing, begins).is_none());
    assert!(policy.permit(&dns("www.example.org"), Destination::Client, begins).1.is_err(), "08:01 is 13:46 in Kathmandu");
}

#[test]
fn gw_008_leave_ends_when_a_rule_expires_and_an_expired_rule_ends_nothing() {
    let rule = |at: &str| {
        format!(
            "[[rule]]\nname = \"a\"\ngate = \"dns\"\naction = \"allow\"\nwhen = 'dns.fqdn == \"www.example.org\"'\nexpires = \"{at}\"\n"
        )
    };
    let ends = compile(&rule("2027-01-15T08:00:45.5Z"));
    assert_eq!(standing(&ends, NOW).expect("stands").until(), Timestamp(1_800_000_045_500_000));
    let ended = compile(&rule("2027-01-15T08:00:30Z"));
    assert_eq!(standing(&ended, NOW).expect("stands").until(), Timestamp(i64::MAX));
    let elsewhere = compile(
        &rule("2027-01-15T08:00:45Z")
            .replace("\"dns\"", "\"l4\"")
            .replace("dns.fqdn == \"www.example.org\"", "net.dst.port == 1"),
    );
    assert_eq!(standing(&elsewhere, NOW).expect("stands").until(), Timestamp(i64::MAX), "another gate's rule");
}

#[test]
fn what_the_rules_of_a_gate_read_is_known_through_every_operator() {
    let policy = compile(
        r#"
        [[rule]]
        name = "a"
        gate = "dns"
        action = "block"
        when = 'not (any(lower(dns.domains[*]) == "a.example") or net.src.ip in {192.0.2.0/24})'
        [[rule]]
        name = "b"
        gate = "web"
        action = "block"
        when = 'net.src.port == 5'
        "#,
    );
    assert!(policy.reads(Gate::Dns, &[FieldId::Time, FieldId::SourceIp]));
    assert!(policy.reads(Gate::Dns, &[FieldId::DnsDomains]));
    assert!(!policy.reads(Gate::Dns, &[FieldId::Time, FieldId::SourcePort]));
}

#[test]
fn leave_with_a_duty_does_not_stand() {
    let policy = compile(
        r#"
        [[rule]]
        name = "unsigned"
        gate = "dns"
        action = "allow"
        when = 'dns.fqdn == "www.example.org"'
        settings.danger_skip_dnssec = true
        "#,
    );
    assert!(standing(&policy, NOW).is_none());
}
