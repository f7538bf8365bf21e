//! A mind: inspectors, which look at one transaction and say what they noticed.
//!
//! A finding never decides. An inspector reads the facts known at its station and what [`intel`] knows, has no state and
//! no clock, and returns an empty list (which allocates nothing) for nearly everything. Thresholds are set for at most one
//! false finding in a thousand benign names; `tests/evaluation.rs` measures that on whole lists.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::expect_used, reason = "a test that cannot begin has failed"))]

pub mod answer;
pub mod file;
#[doc(hidden)]
pub mod fuzz;
pub mod lookalike;
pub mod name;
pub mod punycode;
pub mod url;

use intel::Snapshot;
use model::{Facts, FieldId, Finding, Gate, Severity, Station};

/// One inspector and where it looks.
pub struct Inspector {
    pub name: &'static str,
    pub stations: &'static [(Gate, Station)],
    pub inspect: fn(&Facts, &Snapshot) -> Vec<Finding>,
}

/// Evidence is for people and goes into the record; the longest host name fits (RFC 1035 section 3.1).
pub const EVIDENCE_BYTES_MAX: usize = 256;

/// Where a host name is first seen.
const NAME_STATIONS: &[(Gate, Station)] =
    &[(Gate::Dns, Station::Question), (Gate::Web, Station::Handshake), (Gate::Web, Station::Request)];

/// Every inspector, in reading order.
pub const INSPECTORS: &[Inspector] = &[
    Inspector { name: lookalike::NAME, stations: NAME_STATIONS, inspect: lookalike::inspect },
    Inspector { name: name::SCRIPTS, stations: NAME_STATIONS, inspect: name::inspect_scripts },
    Inspector { name: name::RANDOM, stations: NAME_STATIONS, inspect: name::inspect_random },
    Inspector { name: name::TUNNEL, stations: &[(Gate::Dns, Station::Question)], inspect: name::inspect_tunnel },
    Inspector { name: answer::NAME, stations: &[(Gate::Dns, Station::Answer)], inspect: answer::inspect },
    Inspector { name: url::ADDRESS, stations: &[(Gate::Web, Station::Request)], inspect: url::inspect_address },
    Inspector { name: url::CREDENTIAL, stations: &[(Gate::Web, Station::Request)], inspect: url::inspect_credential },
    Inspector {
        name: file::NAME,
        stations: &[(Gate::Web, Station::ResponseBody), (Gate::Mail, Station::Message)],
        inspect: file::inspect,
    },
];

/// The host that the station brings, in the form the facts have it. The request repeats the host of its handshake, which
/// has been looked at by then.
pub(crate) fn host(facts: &Facts) -> Option<&str> {
    let field = match facts.station() {
        Station::Question => FieldId::DnsFqdn,
        Station::Handshake if facts.get(FieldId::SniHost).is_some() => FieldId::SniHost,
        Station::Request if facts.get(FieldId::SniHost).is_some() => return None,
        _ => FieldId::HttpHost,
    };
    text(facts, field).map(|host| host.strip_suffix('.').unwrap_or(host)).filter(|host| !host.is_empty())
}

pub(crate) fn text(facts: &Facts, field: FieldId) -> Option<&str> {
    facts.get(field).and_then(model::Value::as_text)
}

/// The evidence is cut to [`EVIDENCE_BYTES_MAX`].
pub(crate) fn finding(by: &str, severity: Severity, title: &str, evidence: &str) -> Vec<Finding> {
    vec![Finding { by: by.into(), severity, title: title.into(), evidence: head(evidence).into() }]
}

/// The text up to the bound, cut between characters.
fn head(text: &str) -> &str {
    text.get(..text.floor_char_boundary(EVIDENCE_BYTES_MAX)).unwrap_or(text)
}
