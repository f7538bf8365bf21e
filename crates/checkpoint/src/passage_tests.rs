//! What happens where an inspector panics: the transaction goes on or is refused as the settings say, and its one event
//! tells of it either way.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops where its own set-up fails")]

use std::net::SocketAddr;

use inspect::Inspector;
use model::{Gate, Text, Transport};

use super::*;
use crate::Settings;
use crate::testing::Harness;

const STATIONS: &[(Gate, Station)] = &[(Gate::Web, Station::Request)];

const PANICKING: &[Inspector] = &[
    Inspector { name: "panicking", stations: STATIONS, inspect: |_, _| panic!("an inspector of the test") },
    Inspector { name: "calm", stations: STATIONS, inspect: |_, _| vec![calm_finding()] },
];

fn calm_finding() -> Finding {
    Finding { by: Arc::from("calm"), severity: Severity::Low, title: Arc::from("seen"), evidence: Arc::from("") }
}

fn after_a_panic(mode: FailureMode) -> (Result<Permit, Refusal>, Event) {
    let harness = Harness::with_settings("", Settings { inspector_failure: mode, ..Settings::default() });
    let session = Session {
        id: harness.checkpoint.next_session(),
        gate: Gate::Web,
        transport: Transport::Proxy,
        began: Timestamp(0),
        client: SocketAddr::from(([192, 0, 2, 1], 5000)),
        local: SocketAddr::from(([127, 0, 0, 1], 8080)),
        location: Text::default(),
        identity: None,
    };
    let mut passage = harness.checkpoint.examine(&session);
    passage.facts.reach(Station::Request);
    passage.inspect(PANICKING, Station::Request);
    let outcome = passage.permit(Destination::Client);
    passage.finish(if outcome.is_ok() { Disposition::Allowed } else { Disposition::Blocked });
    let events = harness.events();
    assert_eq!(events.len(), 1);
    (outcome, events.into_iter().next().unwrap())
}

#[test]
fn a_panicking_inspector_is_an_event_and_never_hides_the_others() {
    let text = |event: &Event, field| event.facts.get(field).map(ToString::to_string).unwrap_or_default();
    let (outcome, event) = after_a_panic(FailureMode::Open);
    assert!(outcome.is_ok());
    assert_eq!(text(&event, FieldId::Failure), "inspector");
    assert!(text(&event, FieldId::Findings).contains("calm: seen"), "the next inspector is asked all the same");
    let (outcome, event) = after_a_panic(FailureMode::Closed);
    assert_eq!(&*outcome.unwrap_err().rule.unwrap().id, "builtin.inspector-failure");
    assert_eq!(text(&event, FieldId::Failure), "inspector");
    assert_eq!(text(&event, FieldId::VerdictRuleId), "builtin.inspector-failure");
    assert_eq!(text(&event, FieldId::VerdictOutcome), "blocked");
}
