//! Schedules and ends at their boundary minutes, in zones, and on the days clocks change (GW-007, GW-008).
#![allow(clippy::expect_used)]

mod common;

use common::{at_time, compile, dns};
use model::{Question, Timestamp};

fn is_on(more: &str, moments: &[(&str, bool)]) {
    let policy = compile(&format!("[[rule]]\nname = \"r\"\ngate = \"dns\"\naction = \"block\"\n{more}\n"));
    for (moment, is_on) in moments {
        let now = Timestamp(moment.parse::<jiff::Timestamp>().expect("moment").as_microsecond());
        let (action, _) = at_time(&policy, &dns("example.com"), Question::Access, now);
        assert_eq!(action == "block", *is_on, "{more} at {moment}");
    }
}

#[test]
fn gw_007_hours_open_and_close_on_the_minute() {
    // 2026-06-01 is a Monday.
    is_on(
        r#"schedule = { mon = "08:00-12:00,13:00-17:00", sun = "00:00-24:00", time_zone = "Asia/Tokyo" }"#,
        &[
            ("2026-06-01T07:59:59.999999+09:00", false),
            ("2026-06-01T08:00:00+09:00", true),
            ("2026-05-31T23:00:00Z", true),
            ("2026-06-01T11:59:59+09:00", true),
            ("2026-06-01T12:00:00+09:00", false),
            ("2026-06-01T13:00:00+09:00", true),
            ("2026-06-01T17:00:00+09:00", false),
            ("2026-06-02T09:00:00+09:00", false),
            ("2026-05-31T00:00:00+09:00", true),
            ("2026-05-31T23:59:59+09:00", true),
            ("2026-06-01T00:00:00+09:00", false),
        ],
    );
}

#[test]
fn gw_007_the_hour_that_comes_twice_counts_twice_and_the_skipped_one_never_comes() {
    // Berlin sets its clocks back on 2026-10-25 at 03:00 and forward on 2026-03-29 at 02:00.
    is_on(
        r#"schedule = { sun = "02:00-03:00", time_zone = "Europe/Berlin" }"#,
        &[
            ("2026-10-25T00:30:00Z", true),
            ("2026-10-25T01:30:00Z", true),
            ("2026-10-25T02:00:00Z", false),
            ("2026-03-29T00:59:59Z", false),
            ("2026-03-29T01:00:00Z", false),
            ("2026-03-29T01:30:00Z", false),
            ("2026-03-22T01:30:00Z", true),
        ],
    );
}

#[test]
fn gw_007_the_policy_may_name_the_zone_once() {
    is_on(
        "schedule = { mon = \"00:00-01:00\" }\n[settings]\ntime_zone = \"America/New_York\"",
        &[("2026-06-01T04:30:00Z", true), ("2026-06-01T00:30:00Z", false)],
    );
}

#[test]
fn gw_008_a_rule_is_inert_from_its_end_on() {
    is_on("expires = \"2026-06-01T09:00:00+09:00\"", &[("2026-05-31T23:59:59.999999Z", true), ("2026-06-01T00:00:00Z", false)]);
    // The end goes before the hours.
    is_on(
        "expires = \"2026-06-01T09:00:00+09:00\"\nschedule = { mon = \"00:00-24:00\", time_zone = \"UTC\" }",
        &[("2026-05-31T23:00:00Z", false), ("2026-06-01T00:00:00Z", false)],
    );
}

#[test]
fn a_rule_out_of_force_is_not_waited_for() {
    let policy = compile(
        r#"
        [[rule]]
        name = "old"
        gate = "dns"
        action = "allow"
        when = 'dns.rcode == "NOERROR"'
        expires = "2026-01-01T00:00:00Z"
        [[rule]]
        name = "below"
        gate = "dns"
        action = "block"
        "#,
    );
    assert_eq!(common::at(&policy, &dns("example.com"), Question::Access), ("block", "below"));
}
