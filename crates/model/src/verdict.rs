//! What inspectors noticed and what the policy decided. A verdict is a description; only a permit lets anything pass.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Action, Question, Text};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Informational,
    Low,
    Medium,
    High,
    Critical,
}

/// What an inspector or a scan noticed about one transaction. It adds facts; it never decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The inspector's own name.
    pub by: Arc<str>,
    pub severity: Severity,
    /// One line for people, without the content of traffic.
    pub title: Arc<str>,
    /// What it was seen in: a name, a member of an archive, a header.
    pub evidence: Arc<str>,
}

/// A rule as the record names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RuleName {
    pub id: Arc<str>,
    pub name: Arc<str>,
}

/// The outcome of one question. `rule` is none where the default answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub question: Question,
    pub action: Action,
    pub rule: Option<RuleName>,
}

/// All that was decided about one transaction so far, in the order in which it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub answers: Vec<Answer>,
    pub reason: Text,
}

/// What a permit is for. The act that consumes the permit goes there and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// Open a connection to this host. `addresses` is empty where the name is still to be resolved.
    Upstream { host: Arc<str>, port: u16, addresses: Vec<IpAddr> },
    /// Ask an upstream resolver this name.
    Resolve { name: Text },
    /// Give the answer, response or body in hand to the client.
    Client,
}

/// One operation on request headers. Deletions come first, then overwrites, then additions (GW-020).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeaderChange {
    Delete { name: Arc<str> },
    Set { name: Arc<str>, value: Arc<str> },
    Add { name: Arc<str>, value: Arc<str> },
}

/// What the gate must do when it uses the permit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obligation {
    /// Answer with these addresses or this name instead (GW-028).
    Override {
        addresses: Vec<IpAddr>,
        host: Option<Arc<str>>,
    },
    SafeSearch,
    YoutubeRestricted,
    /// Ask these resolvers, `address:port` (GW-035).
    Resolvers {
        addresses: Vec<std::net::SocketAddr>,
    },
    /// Accept an answer whose signature does not verify (GW-032).
    DangerSkipDnssec,
    Headers {
        changes: Vec<HeaderChange>,
    },
    /// What to do with an upstream certificate that does not verify (GW-031).
    UntrustedCertificate {
        action: UntrustedCertificate,
    },
    Scan,
    Redirect {
        location: Arc<str>,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UntrustedCertificate {
    #[default]
    Error,
    Block,
    PassThrough,
}

impl Verdict {
    /// The answer to one question, where it has been asked and decided.
    pub fn answer(&self, question: Question) -> Option<&Answer> {
        self.answers.iter().rev().find(|answer| answer.question == question)
    }
}

impl Severity {
    /// OCSF `severity_id`.
    pub const fn id(self) -> i64 {
        match self {
            Severity::Informational => 1,
            Severity::Low => 2,
            Severity::Medium => 3,
            Severity::High => 4,
            Severity::Critical => 5,
        }
    }
}
