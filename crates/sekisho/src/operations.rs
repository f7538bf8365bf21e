//! What can be asked of an installation, whether it runs or not: search, touched, explain, replay, apply and the history of
//! the policy. The control socket carries these requests; without a running program the commands call them here.

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow, bail};
use checkpoint::Checkpoint;
use model::{Event, Facts, FieldId, Gate, Question, Session, SessionId, Station, Timestamp, Transport, Value};
use policy::document::Document;
use policy::{Filter, Policy};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use store::{Query, Store};

use crate::policy_store::{PolicyStore, Revision, difference};

/// Events that one search returns at most; a larger answer is an export.
pub const SEARCH_EVENTS_MAX: usize = 100_000;
/// Changes that a replay lists; it counts them all.
const REPLAY_CHANGES_MAX: usize = 100;
/// Events that one replay reads at most, so that it ends.
const REPLAY_EVENTS_MAX: usize = 5_000_000;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    Status,
    Search {
        expression: String,
        since: Option<i64>,
        until: Option<i64>,
        limit: usize,
    },
    Follow {
        expression: String,
        after: i64,
    },
    Touched {
        indicators: Vec<String>,
    },
    Explain {
        gate: Gate,
        host: String,
        path: String,
        method: String,
        query_type: String,
        user: Option<String>,
        source: Option<std::net::IpAddr>,
    },
    Replay {
        since: i64,
        documents: Option<Vec<(String, String)>>,
    },
    Apply {
        documents: Vec<(String, String)>,
        author: String,
        note: String,
        dry_run: bool,
    },
    History,
    Export {
        revision: Option<i64>,
    },
    Difference {
        from: i64,
        to: i64,
    },
    Rollback {
        revision: i64,
        author: String,
    },
}

pub struct Operations {
    pub store: Store,
    pub policies: PolicyStore,
    pub checkpoint: Checkpoint,
}

/// Merged and compiled documents, with what the compiler warns of.
pub fn compile(documents: &[(String, String)]) -> Result<(Policy, Vec<String>)> {
    let mut parsed = Vec::new();
    for (name, text) in documents {
        parsed.push((name.clone(), Document::from_toml(text).map_err(|e| anyhow!("{name}: {e}"))?));
    }
    let document = Document::merge(parsed).map_err(|e| anyhow!("{e}"))?;
    match Policy::compile(&document) {
        Ok((policy, warnings)) => Ok((policy, warnings.iter().map(ToString::to_string).collect())),
        Err(problems) => bail!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    }
}

pub fn now() -> Timestamp {
    SystemTime::now().into()
}

impl Operations {
    /// Carries one request out. The answer is JSON in every case, so that the socket and the commands share it.
    pub fn handle(&self, request: Request) -> Result<Json> {
        match request {
            Request::Status => self.status(),
            Request::Search { expression, since, until, limit } => self.search(&expression, since, until, limit),
            Request::Follow { expression, after } => self.follow(&expression, after),
            Request::Touched { indicators } => self.touched(&indicators),
            Request::Explain { gate, host, path, method, query_type, user, source } => {
                let asked = Asked { gate, host, path, method, query_type, user, source };
                Ok(serde_json::to_value(explain(&self.checkpoint, &asked))?)
            }
            Request::Replay { since, documents } => self.replay(since, documents),
            Request::Apply { documents, author, note, dry_run } => self.apply(documents, &author, &note, dry_run),
            Request::History => self.history(),
            Request::Export { revision } => Ok(serde_json::to_value(self.revision(revision)?)?),
            Request::Difference { from, to } => {
                Ok(json!({ "difference": difference(&self.policies.get(from)?, &self.policies.get(to)?) }))
            }
            Request::Rollback { revision, author } => {
                let documents = self.policies.get(revision)?.documents;
                self.apply(documents, &author, &format!("back to revision {revision}"), false)
            }
        }
    }

    fn status(&self) -> Result<Json> {
        let revision = self.policies.newest()?.map(|revision| revision.number);
        Ok(json!({ "policy_revision": revision, "store": serde_json::to_value(self.store.stats())? }))
    }

    fn search(&self, expression: &str, since: Option<i64>, until: Option<i64>, limit: usize) -> Result<Json> {
        // Whoever asks just after an act must find it: what waits for its commit is made visible first.
        self.store.flush()?;
        let events = self.find(expression, since, until, limit)?;
        Ok(json!({ "events": events.iter().map(event_json).collect::<Vec<_>>() }))
    }

    fn find(&self, expression: &str, since: Option<i64>, until: Option<i64>, limit: usize) -> Result<Vec<Event>> {
        let filter = Filter::parse(expression).map_err(|e| anyhow!("{e}"))?;
        let query = Query {
            since: since.map(Timestamp),
            until: until.map(Timestamp),
            equalities: filter.equalities(),
            filter: &|facts: &Facts| filter.matches(facts),
            limit: limit.min(SEARCH_EVENTS_MAX),
            newest_first: true,
            ..Query::default()
        };
        Ok(self.store.search(&query)?)
    }

    /// Events after a number that match, and the number to go on from.
    fn follow(&self, expression: &str, after: i64) -> Result<Json> {
        let filter = Filter::parse(expression).map_err(|e| anyhow!("{e}"))?;
        let events = self.store.read_from(model::EventId(after), 1000)?;
        let last = events.last().map_or(after, |event| event.id.0);
        let matching: Vec<Json> = events.iter().filter(|event| filter.matches(&event.facts)).map(event_json).collect();
        Ok(json!({ "events": matching, "after": last }))
    }

    fn touched(&self, indicators: &[String]) -> Result<Json> {
        self.store.flush()?;
        let indicators: Vec<store::Indicator> = indicators.iter().map(|text| store::Indicator::guess(text.as_str())).collect();
        let rows = self.store.touched(&indicators)?.into_iter().map(|sighting| {
            json!({
                "value": sighting.value, "user": sighting.user, "device": sighting.device, "src_ip": sighting.src_ip,
                "first": sighting.first, "last": sighting.last, "count": sighting.count, "blocked": sighting.blocked,
                "gates": sighting.gates,
            })
        });
        Ok(json!({ "sightings": rows.collect::<Vec<_>>() }))
    }

    fn apply(&self, documents: Vec<(String, String)>, author: &str, note: &str, dry_run: bool) -> Result<Json> {
        let (policy, warnings) = compile(&documents)?;
        let newest = self.policies.newest()?.context("no policy is stored")?;
        let proposed = Revision { number: newest.number + 1, documents: documents.clone(), ..newest.clone() };
        let changes = difference(&newest, &proposed);
        if dry_run {
            return Ok(json!({ "changed": !changes.is_empty(), "difference": changes, "warnings": warnings, "dry_run": true }));
        }
        let Some(revision) = self.policies.append(documents, author, note, now())? else {
            return Ok(json!({ "changed": false, "revision": newest.number, "warnings": warnings }));
        };
        self.checkpoint.publish_policy(policy.with_revision(revision.number));
        Ok(json!({ "changed": true, "revision": revision.number, "difference": changes, "warnings": warnings }))
    }

    fn history(&self) -> Result<Json> {
        let rows = self.policies.history()?.into_iter().map(|revision| {
            json!({ "revision": revision.number, "time": revision.time, "author": revision.author, "note": revision.note })
        });
        Ok(json!({ "revisions": rows.collect::<Vec<_>>() }))
    }

    fn revision(&self, number: Option<i64>) -> Result<Revision> {
        match number {
            Some(number) => self.policies.get(number),
            None => self.policies.newest()?.context("no policy is stored"),
        }
    }

    /// What the given documents would have decided differently, over recorded traffic.
    fn replay(&self, since: i64, documents: Option<Vec<(String, String)>>) -> Result<Json> {
        let (current, _) = compile(&self.revision(None)?.documents)?;
        let (proposed, warnings) = match documents {
            Some(documents) => compile(&documents)?,
            None => (current.clone(), Vec::new()),
        };
        let events = self.find("", Some(since), None, REPLAY_EVENTS_MAX)?;
        let mut changes = Vec::new();
        let mut changed = 0_u64;
        for event in &events {
            let facts = restored(&event.facts);
            let before = access(&current, &facts, event.time);
            let after = access(&proposed, &facts, event.time);
            if before != after {
                changed += 1;
                if changes.len() < REPLAY_CHANGES_MAX {
                    changes.push(json!({ "before": before, "after": after, "event": event_json(event) }));
                }
            }
        }
        Ok(json!({ "read": events.len(), "changed": changed, "changes": changes, "warnings": warnings }))
    }
}

/// The facts of a record as a rule would have seen them at the end: what is derived from a host is derived again.
fn restored(facts: &Facts) -> Facts {
    let mut facts = facts.clone();
    for (host, domains) in [
        (FieldId::DnsFqdn, FieldId::DnsDomains),
        (FieldId::HttpHost, FieldId::HttpDomains),
        (FieldId::SniHost, FieldId::SniDomains),
    ] {
        if let Some(Value::Text(name)) = facts.get(host).cloned() {
            facts.set(domains, Value::Parents(name));
        }
    }
    if let Some(last) = facts.gate().stations().last() {
        facts.reach(*last);
    }
    facts
}

/// The action on access, and the rule that decides it.
fn access(policy: &Policy, facts: &Facts, at: Timestamp) -> String {
    let decision = policy.decide(facts, Question::Access, at);
    let action = decision.action().map_or("undecided", |action| action.as_str());
    match decision.rule().and_then(|rule| policy.rule_name(rule)) {
        Some(rule) => format!("{action} by {}", rule.name),
        None => action.to_owned(),
    }
}

/// A question to `explain`.
pub struct Asked {
    pub gate: Gate,
    pub host: String,
    pub path: String,
    pub method: String,
    pub query_type: String,
    pub user: Option<String>,
    pub source: Option<std::net::IpAddr>,
}

fn explain(checkpoint: &Checkpoint, asked: &Asked) -> policy::Explanation {
    let client = asked.source.unwrap_or(std::net::IpAddr::from([127, 0, 0, 1]));
    let located = checkpoint.locate(client, None);
    let identity = match &asked.user {
        Some(email) => checkpoint.user(email),
        None => located.as_ref().and_then(|location| location.identity.clone()),
    };
    let session = Session {
        id: SessionId(0),
        gate: asked.gate,
        transport: if asked.gate == Gate::Dns { Transport::Udp } else { Transport::Proxy },
        began: now(),
        client: (client, 0).into(),
        local: ([127, 0, 0, 1], 0).into(),
        location: located.map_or_else(|| Arc::from(""), |location| location.name),
        identity,
    };
    let mut told = Vec::new();
    let station = if asked.gate == Gate::Dns {
        told.push((FieldId::DnsQueryType, Value::text(&asked.query_type)));
        Station::Question
    } else {
        let path = asked.path.split('?').next().unwrap_or_default();
        told.push((FieldId::HttpMethod, Value::text(&asked.method)));
        told.push((FieldId::HttpPath, Value::text(path)));
        told.push((FieldId::HttpPathAndQuery, Value::text(&asked.path)));
        told.push((FieldId::HttpUrl, Value::text(format!("https://{}{}", asked.host, asked.path))));
        if let Some((_, query)) = asked.path.split_once('?') {
            told.push((FieldId::HttpQuery, Value::text(query)));
        }
        Station::Request
    };
    checkpoint.explain(&session, &asked.host, told, station)
}

/// Every field of the event under its own name.
pub fn event_json(event: &Event) -> Json {
    let mut row = Map::new();
    row.insert("event.id".into(), json!(event.id.0));
    row.insert("event.class".into(), json!(event.class.uid()));
    row.insert("event.time".into(), json!(time_text(event.time)));
    for (field, value) in event.facts.iter().filter(|(field, _)| *field != FieldId::Time) {
        row.insert(field.row().name.into(), serde_json::to_value(value).unwrap_or(Json::Null));
    }
    Json::Object(row)
}

/// RFC 3339 in UTC, milliseconds; a time outside the calendar's range is written as its number.
pub fn time_text(time: Timestamp) -> String {
    match jiff::Timestamp::from_microsecond(time.0) {
        Ok(at) => format!("{at:.3}"),
        Err(_) => time.0.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(time_text(Timestamp(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(time_text(Timestamp::from_seconds(951_782_400)), "2000-02-29T00:00:00.000Z");
        assert_eq!(time_text(Timestamp(1_795_478_400_123_456)), "2026-11-24T00:00:00.123Z");
        assert_eq!(time_text(Timestamp(-1)), "1969-12-31T23:59:59.999Z");
    }
}
