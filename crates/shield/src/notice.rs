//! What is told to people when an attack begins, is mitigated, changes or ends (DD-34), and what is not told again within the
//! hour (DD-04). Whoever sends it is not here.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::admission::Moment;
use crate::guard::{Incident, News};

/// The same is not told again within this time.
const SILENCE: Duration = Duration::from_secs(3_600);
/// What was told is remembered for that; beyond this many everything is told.
const TOLD_MAX: usize = 4_096;

/// Where notices go, as written in the configuration file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NoticesSpec {
    /// An https URL, or http on a loopback address, that is sent each notice as JSON by POST.
    pub webhook: Option<String>,
    /// A file with the secret of the webhook's signature, 16 bytes or more.
    pub webhook_secret: Option<PathBuf>,
    /// `udp://host:port`, or the path of a socket such as `/dev/log` (RFC 5424).
    pub syslog: Option<String>,
}

/// What a notice tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Begun,
    Mitigated,
    /// Another vector of the same attack has another rule.
    Changed,
    Ended,
    /// Nothing happened: the operator tries whether notices arrive.
    Test,
}

/// One notice. Its JSON is what a webhook is sent.
#[derive(Clone, Debug, Serialize)]
pub struct Notice {
    pub notice: State,
    /// One line for people.
    pub description: String,
    /// Unix time in milliseconds at which it was made; a receiver refuses old ones.
    pub at: i64,
    pub incident: Incident,
}

/// What was told already.
#[derive(Debug, Default)]
pub struct Notices {
    told: HashMap<(State, IpNet, &'static str), Moment>,
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Begun => "begun",
            State::Mitigated => "mitigated",
            State::Changed => "changed",
            State::Ended => "ended",
            State::Test => "test",
        }
    }
}

impl Notices {
    /// What is to be told of this; none where it is nothing for people or was told within the hour.
    pub fn of(&mut self, news: &News, now: Moment, at: i64) -> Option<Notice> {
        let (state, incident) = match news {
            News::Begun(incident) => (State::Begun, incident),
            News::Mitigated(incident) if incident.rules.len() > 1 => (State::Changed, incident),
            News::Mitigated(incident) => (State::Mitigated, incident),
            News::Ended(incident) => (State::Ended, incident),
            News::RuleWithdrawn { .. } => return None,
        };
        self.told.retain(|_, told| now.since(*told) < SILENCE);
        let key = (state, incident.network, incident.kind);
        if self.told.contains_key(&key) {
            return None;
        }
        if self.told.len() < TOLD_MAX {
            self.told.insert(key, now);
        }
        Some(Notice::new(state, incident.clone(), at))
    }
}

impl Notice {
    pub fn new(state: State, incident: Incident, at: i64) -> Notice {
        Notice { notice: state, description: describe(state, &incident), at, incident }
    }
}

fn describe(state: State, incident: &Incident) -> String {
    let (kind, target, peak) = (incident.kind, incident.target, incident.peak_packets_per_second);
    let last = incident.rules.last().map_or("no rule", String::as_str);
    match state {
        State::Begun => format!("an attack by {kind} on {target} has begun: {peak} packets/s"),
        State::Mitigated => format!("the attack by {kind} on {target} has a rule: {last}"),
        State::Changed => format!("the attack by {kind} on {target} has changed; one more rule: {last}"),
        State::Ended => {
            format!("the attack by {kind} on {target} has ended after {:.0} s; its peak was {peak} packets/s", incident.seconds)
        }
        State::Test => "a notice to try whether notices arrive; nothing happened".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(hours: u64) -> Moment {
        Moment(hours * 3_600_000_000_000 + 1)
    }

    #[test]
    fn dd_04_the_same_is_told_once_an_hour_and_something_else_at_once() {
        let (mut notices, mut incident) = (Notices::default(), Incident::sample());
        let mut tell = |news: News, at| notices.of(&news, at, 0).map(|notice| notice.notice);
        assert_eq!(tell(News::Begun(incident.clone()), hours(0)), Some(State::Begun));
        assert_eq!(tell(News::Begun(incident.clone()), hours(0)), None);
        assert_eq!(tell(News::Mitigated(incident.clone()), hours(0)), Some(State::Mitigated));
        incident.rules.push("another".to_owned());
        assert_eq!(tell(News::Mitigated(incident.clone()), hours(0)), Some(State::Changed));
        assert_eq!(tell(News::Begun(incident.clone()), hours(1)), Some(State::Begun));
        incident.kind = "tcp_syn";
        assert_eq!(tell(News::Begun(incident), hours(1)), Some(State::Begun));
    }

    #[test]
    fn dd_34_a_notice_says_what_when_how_much_whom_and_by_which_rule() {
        let notice = Notice::new(State::Mitigated, Incident::sample(), 1_795_521_600_000);
        let json = serde_json::to_value(&notice).unwrap();
        let incident = &json["incident"];
        assert_eq!((json["notice"].as_str(), json["at"].as_i64()), (Some("mitigated"), Some(1_795_521_600_000)));
        for key in
            ["kind", "target", "network", "peak_packets_per_second", "peak_bits_per_second", "rules", "timeline", "sources"]
        {
            assert!(!incident[key].is_null(), "{key} is missing");
        }
        assert!(notice.description.contains("203.0.113.9/32") && notice.description.contains(&Incident::sample().rules[0]));
    }
}
