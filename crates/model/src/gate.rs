//! Gates, the stations of each gate in time order, and the questions and actions of the policy.
//! Source: features.md 1.1 (GW-002, GW-003), 1.2 and 1.4; the design's "Stations" and "Questions and rules".

use serde::{Deserialize, Serialize};

/// One protocol family that passes the checkpoint. Written `dns`, `web`, `l4`, `mail`, `api`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gate {
    Dns,
    Web,
    L4,
    Mail,
    Api,
}

/// A moment in the life of a transaction at which new facts become known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Station {
    Connect,
    Question,
    Answer,
    Handshake,
    Request,
    RequestBody,
    Response,
    ResponseBody,
    FirstBytes,
    Flow,
    Envelope,
    Message,
    Deliver,
    /// After the end: facts that exist only in the record, so that no rule can wait for them.
    Record,
}

/// What a gate asks the policy. Rules of one question are read from top to bottom; the first that matches decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Question {
    /// Which upstream answers this name? (dns)
    Resolver,
    /// Is the answer replaced: override, safe search, restricted YouTube? (dns)
    Answer,
    /// Is the connection decrypted or left alone? (web)
    Inspect,
    /// Is the page opened in isolation? (web)
    Isolate,
    /// Are the bodies scanned? (web, mail)
    Scan,
    /// May it pass? (every gate)
    Access,
}

/// What a rule does when its expression is true. Names are the Cloudflare Gateway API's (GW-002).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Allow,
    Block,
    Override,
    #[serde(rename = "safesearch")]
    SafeSearch,
    #[serde(rename = "ytrestricted")]
    YoutubeRestricted,
    Resolve,
    /// Decrypt (the default); written `on`.
    #[serde(rename = "on")]
    Inspect,
    /// Leave the bytes alone; written `off`.
    #[serde(rename = "off")]
    DoNotInspect,
    Isolate,
    #[serde(rename = "noisolate")]
    DoNotIsolate,
    Scan,
    #[serde(rename = "noscan")]
    DoNotScan,
    Redirect,
    Quarantine,
    #[serde(rename = "l4_override")]
    L4Override,
    Egress,
}

impl Gate {
    pub const ALL: &[Gate] = &[Gate::Dns, Gate::Web, Gate::L4, Gate::Mail, Gate::Api];

    /// The stations of this gate in time order.
    pub const fn stations(self) -> &'static [Station] {
        use Station::*;
        match self {
            Gate::Dns => &[Connect, Question, Answer],
            Gate::Web => &[Connect, Handshake, Request, RequestBody, Response, ResponseBody],
            Gate::L4 => &[Connect, FirstBytes, Flow],
            Gate::Mail => &[Connect, Envelope, Message, Deliver],
            Gate::Api => &[Connect, Request, Response],
        }
    }

    /// The place of a station in this gate's order, or none where the gate does not have it.
    pub fn position(self, station: Station) -> Option<usize> {
        self.stations().iter().position(|s| *s == station)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Gate::Dns => "dns",
            Gate::Web => "web",
            Gate::L4 => "l4",
            Gate::Mail => "mail",
            Gate::Api => "api",
        }
    }

    /// The questions that this gate asks, in the order in which it asks them.
    pub const fn questions(self) -> &'static [Question] {
        match self {
            Gate::Dns => &[Question::Resolver, Question::Answer, Question::Access],
            Gate::Web => &[Question::Inspect, Question::Isolate, Question::Scan, Question::Access],
            Gate::L4 | Gate::Api => &[Question::Access],
            Gate::Mail => &[Question::Scan, Question::Access],
        }
    }
}

impl Station {
    pub const fn as_str(self) -> &'static str {
        match self {
            Station::Connect => "connect",
            Station::Question => "question",
            Station::Answer => "answer",
            Station::Handshake => "handshake",
            Station::Request => "request",
            Station::RequestBody => "request_body",
            Station::Response => "response",
            Station::ResponseBody => "response_body",
            Station::FirstBytes => "first_bytes",
            Station::Flow => "flow",
            Station::Envelope => "envelope",
            Station::Message => "message",
            Station::Deliver => "deliver",
            Station::Record => "record",
        }
    }
}

impl Question {
    pub const ALL: &[Question] =
        &[Question::Resolver, Question::Answer, Question::Inspect, Question::Isolate, Question::Scan, Question::Access];

    pub const fn as_str(self) -> &'static str {
        match self {
            Question::Resolver => "resolver",
            Question::Answer => "answer",
            Question::Inspect => "inspect",
            Question::Isolate => "isolate",
            Question::Scan => "scan",
            Question::Access => "access",
        }
    }
}

impl Action {
    pub const ALL: &[Action] = &[
        Action::Allow,
        Action::Block,
        Action::Override,
        Action::SafeSearch,
        Action::YoutubeRestricted,
        Action::Resolve,
        Action::Inspect,
        Action::DoNotInspect,
        Action::Isolate,
        Action::DoNotIsolate,
        Action::Scan,
        Action::DoNotScan,
        Action::Redirect,
        Action::Quarantine,
        Action::L4Override,
        Action::Egress,
    ];

    /// The question that a rule with this action answers.
    pub const fn question(self) -> Question {
        match self {
            Action::Allow | Action::Block | Action::Redirect | Action::Quarantine => Question::Access,
            Action::L4Override | Action::Egress => Question::Access,
            Action::Override | Action::SafeSearch | Action::YoutubeRestricted => Question::Answer,
            Action::Resolve => Question::Resolver,
            Action::Inspect | Action::DoNotInspect => Question::Inspect,
            Action::Isolate | Action::DoNotIsolate => Question::Isolate,
            Action::Scan | Action::DoNotScan => Question::Scan,
        }
    }

    /// The name in documents, in the API and in the record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Action::Allow => "allow",
            Action::Block => "block",
            Action::Override => "override",
            Action::SafeSearch => "safesearch",
            Action::YoutubeRestricted => "ytrestricted",
            Action::Resolve => "resolve",
            Action::Inspect => "on",
            Action::DoNotInspect => "off",
            Action::Isolate => "isolate",
            Action::DoNotIsolate => "noisolate",
            Action::Scan => "scan",
            Action::DoNotScan => "noscan",
            Action::Redirect => "redirect",
            Action::Quarantine => "quarantine",
            Action::L4Override => "l4_override",
            Action::Egress => "egress",
        }
    }
}
