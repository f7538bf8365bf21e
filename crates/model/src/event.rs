//! The record of one transaction. Class numbers and dispositions are OCSF's (schema 1.3.0; features.md 6, substrate on
//! the event store section 5); every other column is a row of the field table.

use serde::{Deserialize, Serialize};

use crate::{Facts, Gate, Repeat, Timestamp};

/// `node << 48 | sequence`, unique over all nodes of one installation and rising on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(pub i64);

/// OCSF classes that Sekisho writes. One class has one directory in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    NetworkActivity,
    HttpActivity,
    DnsActivity,
    EmailActivity,
    DetectionFinding,
    ApiActivity,
}

/// OCSF `disposition_id`, the few that Sekisho uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    Allowed,
    Blocked,
    Quarantined,
    Dropped,
    /// Answered with something else than what was asked for: an override or a redirect.
    Corrected,
    /// Ended by a failure of either peer, of Sekisho or by a deadline.
    Error,
    /// The transaction ended before it was decided: the client left, or the gate was stopped.
    NoAction,
}

/// One final event. `facts` holds every column but these three.
#[derive(Clone, Debug)]
pub struct Event {
    pub id: EventId,
    pub time: Timestamp,
    pub class: Class,
    pub facts: Facts,
}

/// Where final events go. It never blocks: what it cannot keep it counts, and says so with a gap event.
pub trait Recorder: Send + Sync {
    fn record(&self, event: Event);

    /// The same for events that follow patterns. A recorder that gains nothing by that takes them as whole ones.
    fn record_repeats(&self, repeats: Vec<Repeat>) {
        repeats.iter().for_each(|repeat| self.record(repeat.event()));
    }
}

impl Class {
    pub const ALL: &[Class] = &[
        Class::NetworkActivity,
        Class::HttpActivity,
        Class::DnsActivity,
        Class::EmailActivity,
        Class::DetectionFinding,
        Class::ApiActivity,
    ];

    /// OCSF `class_uid`.
    pub const fn uid(self) -> i64 {
        match self {
            Class::NetworkActivity => 4001,
            Class::HttpActivity => 4002,
            Class::DnsActivity => 4003,
            Class::EmailActivity => 4009,
            Class::DetectionFinding => 2004,
            Class::ApiActivity => 6003,
        }
    }

    pub fn from_uid(uid: i64) -> Option<Class> {
        Class::ALL.iter().copied().find(|class| class.uid() == uid)
    }

    /// The class of a gate's final events.
    pub const fn of(gate: Gate) -> Class {
        match gate {
            Gate::Dns => Class::DnsActivity,
            Gate::Web => Class::HttpActivity,
            Gate::L4 => Class::NetworkActivity,
            Gate::Mail => Class::EmailActivity,
            Gate::Api => Class::ApiActivity,
        }
    }
}

impl Disposition {
    /// OCSF `disposition_id`.
    pub const fn id(self) -> i64 {
        match self {
            Disposition::Allowed => 1,
            Disposition::Blocked => 2,
            Disposition::Quarantined => 3,
            Disposition::Dropped => 6,
            Disposition::Corrected => 11,
            Disposition::NoAction => 16,
            Disposition::Error => 27,
        }
    }

    /// OCSF `action_id`: 1 allowed, 2 denied, 4 modified, 0 unknown.
    pub const fn action_id(self) -> i64 {
        match self {
            Disposition::Allowed => 1,
            Disposition::Blocked | Disposition::Quarantined | Disposition::Dropped => 2,
            Disposition::Corrected => 4,
            Disposition::Error | Disposition::NoAction => 0,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Disposition::Allowed => "allowed",
            Disposition::Blocked => "blocked",
            Disposition::Quarantined => "quarantined",
            Disposition::Dropped => "dropped",
            Disposition::Corrected => "corrected",
            Disposition::Error => "error",
            Disposition::NoAction => "no_action",
        }
    }
}
