//! What can be asked of an installation, whether it runs or not: search, touched, explain, replay, apply and the history of
//! the policy. The control socket carries these requests; without a running program the commands call them here.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow, bail};
use arc_swap::ArcSwap;
use checkpoint::Checkpoint;
use model::{Event, Facts, FieldId, Gate, Question, Session, SessionId, Station, Timestamp, Transport, Value};
use policy::document::Document;
use policy::{Filter, Policy};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use store::{Query, Store};
use tokio::sync::watch;

use crate::lists;
use crate::policy_store::{PolicyStore, Revision, difference};
use crate::shield::Shield;

/// Events that one search returns at most; a larger answer is an export.
pub const SEARCH_EVENTS_MAX: usize = 100_000;
/// Changes that a replay lists; it counts them all.
const REPLAY_CHANGES_MAX: usize = 100;
/// Events that one replay reads at most, so that it ends.
const REPLAY_EVENTS_MAX: u64 = 5_000_000;
/// Different values that a count keeps apart; the rest is counted together. At 100 bytes each this is 100 MB.
const COUNT_VALUES_MAX: usize = 1_000_000;
/// Events that one look of a follower reads.
const FOLLOW_EVENTS_MAX: usize = 1_000;

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
    /// Counts by the value of a field, in place of the events.
    Count {
        expression: String,
        since: Option<i64>,
        until: Option<i64>,
        by: String,
        limit: usize,
    },
    /// A query in SQL. The answer is a [`query::Outcome`].
    Sql {
        sql: String,
        since: Option<i64>,
        until: Option<i64>,
        limit: usize,
    },
    /// Events after a number; none gives the number from which to go on.
    Follow {
        expression: String,
        after: Option<i64>,
    },
    Touched {
        indicators: Vec<String>,
    },
    Erase {
        user: String,
    },
    Explain {
        gate: Gate,
        host: String,
        /// Of a web request; empty for `https`.
        #[serde(default)]
        scheme: String,
        /// Of a web request; none for the scheme's own.
        #[serde(default)]
        port: Option<u16>,
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
    /// The tokens that the policy knows.
    Tokens,
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
    /// Read lists, the CA and whom to trust anew, as SIGHUP does.
    Reload,
    ShieldStatus,
    ShieldBan {
        network: ipnet::IpNet,
        seconds: u64,
    },
    ShieldUnban {
        network: ipnet::IpNet,
    },
    /// Send a notice that says that it is a test.
    ShieldTestNotice,
    /// Services behind the L4 gate, with their origins and, where wanted, their live flows.
    Apps {
        app: Option<String>,
        flows: bool,
    },
    /// Cut a live flow.
    Cut {
        flow: String,
    },
}

pub struct Operations {
    pub store: Store,
    pub policies: PolicyStore,
    pub checkpoint: Checkpoint,
    /// The data folder, where the sources of lists may be.
    pub data: PathBuf,
    /// Live flows of the L4 gate; empty where nothing runs.
    pub board: gate_l4::Board,
    /// Counts the reloads that were asked for; whoever runs the gates carries them out.
    reloads: watch::Sender<u64>,
    queries: ArcSwap<query::Runner>,
    /// Held from the look at the newest revision until the policy is published, so that the newest is what stays.
    publishing: Mutex<()>,
    pub shield: Arc<Shield>,
}

/// Merged and compiled documents, with what the compiler warns of. Lists with a source are read anew.
pub fn compile(documents: &[(String, String)], data: &Path) -> Result<(Policy, Vec<String>)> {
    let document = merged(documents)?;
    let contents = lists::read_sources(&document, data)?;
    match Policy::compile_with(&document, &contents.tables) {
        Ok((policy, warnings)) => Ok((policy, warnings.iter().map(ToString::to_string).chain(contents.warnings).collect())),
        Err(problems) => bail!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    }
}

fn merged(documents: &[(String, String)]) -> Result<Document> {
    let mut parsed = Vec::new();
    for (name, text) in documents {
        parsed.push((name.clone(), Document::from_toml(text).with_context(|| name.clone())?));
    }
    Ok(Document::merge(parsed)?)
}

pub fn now() -> Timestamp {
    SystemTime::now().into()
}

impl Operations {
    pub fn new(
        store: Store,
        policies: PolicyStore,
        checkpoint: Checkpoint,
        shield: Arc<Shield>,
        data: PathBuf,
        queries: query::Runner,
    ) -> Operations {
        Operations {
            store,
            policies,
            checkpoint,
            data,
            board: gate_l4::Board::default(),
            reloads: watch::Sender::new(0),
            queries: ArcSwap::from_pointee(queries),
            publishing: Mutex::new(()),
            shield,
        }
    }

    /// Takes other bounds of queries; those that run end by theirs.
    pub fn publish_queries(&self, queries: query::Runner) {
        self.queries.store(queries.into());
    }

    pub fn want_reload(&self) {
        self.reloads.send_modify(|count| *count += 1);
    }

    pub fn reload_wanted(&self) -> watch::Receiver<u64> {
        self.reloads.subscribe()
    }

    /// Carries one request out. The answer is JSON in every case, so that the socket and the commands share it.
    pub fn handle(&self, request: Request) -> Result<Json> {
        match request {
            Request::Status => self.status(),
            Request::Search { expression, since, until, limit } => self.search(&expression, since, until, limit),
            Request::Count { expression, since, until, by, limit } => self.count(&expression, since, until, &by, limit),
            Request::Sql { sql, since, until, limit } => {
                self.store.flush()?;
                let query = query::Query { sql, since, until, rows_max: limit };
                Ok(serde_json::to_value(self.queries.load_full().run(&self.data.join("events"), query))?)
            }
            Request::Follow { expression, after } => self.follow(&expression, after),
            Request::Touched { indicators } => self.touched(&indicators),
            Request::Erase { user } => Ok(serde_json::to_value(self.store.erase(&user)?)?),
            Request::Explain { gate, host, scheme, port, path, method, query_type, user, source } => {
                let asked = Asked { gate, host, scheme, port, path, method, query_type, user, source };
                Ok(serde_json::to_value(explain(&self.checkpoint, &asked))?)
            }
            Request::Replay { since, documents } => self.replay(since, documents),
            Request::Apply { documents, author, note, dry_run } => self.apply(documents, &author, &note, dry_run),
            Request::History => self.history(),
            Request::Tokens => self.tokens(),
            Request::Export { revision } => Ok(serde_json::to_value(self.revision(revision)?)?),
            Request::Difference { from, to } => {
                Ok(json!({ "difference": difference(&self.policies.get(from)?, &self.policies.get(to)?) }))
            }
            Request::Rollback { revision, author } => {
                let documents = self.policies.get(revision)?.documents;
                self.apply(documents, &author, &format!("back to revision {revision}"), false)
            }
            Request::ShieldStatus => Ok(self.shield.status()),
            Request::ShieldBan { network, seconds } => self.shield.ban(network, seconds),
            Request::ShieldUnban { network } => self.shield.unban(network),
            Request::ShieldTestNotice => self.shield.test_notice(),
            Request::Reload => {
                self.want_reload();
                Ok(json!({}))
            }
            Request::Apps { app, flows } => Ok(self.apps(app.as_deref(), flows)),
            Request::Cut { flow } => {
                let id = u64::from_str_radix(&flow, 16).ok().with_context(|| format!("`{flow}` is no number of a flow"))?;
                anyhow::ensure!(self.board.cut(id), "no live flow has the number {flow}");
                Ok(json!({ "cut": flow }))
            }
        }
    }

    fn apps(&self, app: Option<&str>, flows: bool) -> Json {
        let mut apps = self.board.apps();
        apps.retain(|view| app.is_none_or(|app| view.app == app));
        let flows = flows.then(|| self.board.flows(app));
        json!({ "apps": apps, "flows": flows })
    }

    fn status(&self) -> Result<Json> {
        let revision = self.policies.newest()?.map(|revision| revision.number);
        Ok(json!({ "policy_revision": revision, "store": serde_json::to_value(self.store.stats())? }))
    }

    fn search(&self, expression: &str, since: Option<i64>, until: Option<i64>, limit: usize) -> Result<Json> {
        // Whoever asks just after an act must find it: what waits for its commit is made visible first.
        self.store.flush()?;
        let limit = limit.min(SEARCH_EVENTS_MAX);
        let filter = self.filter(expression)?;
        // One more than wanted tells whether there are more.
        let matches = |facts: &Facts| filter.matches(facts);
        let found = Query { filter: &matches, ..query(&filter, since, until, limit.saturating_add(1)) };
        let mut events = self.store.search(&found)?;
        let is_cut = events.len() > limit;
        events.truncate(limit);
        Ok(json!({ "events": events.iter().map(event_json).collect::<Vec<_>>(), "cut": is_cut }))
    }

    /// A search may name the lists of the policy. They are compiled where it does, and not where it does not.
    fn filter(&self, expression: &str) -> Result<Filter> {
        let parsed = Filter::parse(expression);
        if parsed.is_ok() || !expression.contains('$') {
            return parsed.map_err(|e| anyhow!("{e}"));
        }
        let (policy, _) = compile(&self.revision(None)?.documents, &self.data)?;
        Filter::parse_with(expression, &policy).map_err(|e| anyhow!("{e}"))
    }

    fn count(&self, expression: &str, since: Option<i64>, until: Option<i64>, by: &str, limit: usize) -> Result<Json> {
        let field = field_named(by)?;
        self.store.flush()?;
        let filter = self.filter(expression)?;
        let counts = RefCell::new(Counts::default());
        let tally = |facts: &Facts| {
            if filter.matches(facts) {
                counts.borrow_mut().add(facts.get(field));
            }
            false
        };
        // Nothing is kept of an event but its value, so that a count of millions holds no millions.
        self.store.search(&Query { filter: &tally, ..query(&filter, since, until, 1) })?;
        Ok(counts.into_inner().largest(limit))
    }

    /// Events after a number that match, and the number to go on from.
    fn follow(&self, expression: &str, after: Option<i64>) -> Result<Json> {
        let filter = self.filter(expression)?;
        let Some(after) = after else {
            self.store.flush()?;
            // The newest by time have the highest numbers, but for events that crossed on their way.
            let newest = self.store.search(&Query { limit: FOLLOW_EVENTS_MAX, ..Query::default() })?;
            return Ok(json!({ "events": [], "read": 0, "after": newest.iter().map(|event| event.id.0).max().unwrap_or(0) }));
        };
        let events = self.store.read_from(model::EventId(after), FOLLOW_EVENTS_MAX)?;
        let last = events.last().map_or(after, |event| event.id.0);
        let matching: Vec<Json> = events.iter().filter(|event| filter.matches(&event.facts)).map(event_json).collect();
        Ok(json!({ "events": matching, "read": events.len(), "after": last, "more": events.len() == FOLLOW_EVENTS_MAX }))
    }

    fn touched(&self, indicators: &[String]) -> Result<Json> {
        self.store.flush()?;
        let indicators: Vec<store::Indicator> = indicators.iter().map(|text| store::Indicator::guess(text.as_str())).collect();
        Ok(sightings_json(self.store.touched(&indicators)?))
    }

    fn apply(&self, documents: Vec<(String, String)>, author: &str, note: &str, dry_run: bool) -> Result<Json> {
        let (policy, warnings) = compile(&documents, &self.data)?;
        let newest = self.policies.newest()?.context("no policy is stored")?;
        let proposed = Revision { number: newest.number + 1, documents: documents.clone(), ..newest.clone() };
        let changes = difference(&newest, &proposed);
        if dry_run {
            return Ok(json!({ "changed": !changes.is_empty(), "difference": changes, "warnings": warnings, "dry_run": true }));
        }
        let _publishing = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(revision) = self.policies.append(documents, author, note, now())? else {
            return Ok(json!({ "changed": false, "revision": newest.number, "warnings": warnings }));
        };
        self.checkpoint.publish_policy(policy.with_revision(revision.number));
        Ok(json!({ "changed": true, "revision": revision.number, "difference": changes, "warnings": warnings }))
    }

    /// The policy in force, compiled again with what its lists' sources hold by now.
    pub fn compile_again(&self) -> Result<Policy> {
        let revision = self.revision(None)?;
        let (policy, warnings) = compile(&revision.documents, &self.data)?;
        for warning in warnings {
            tracing::warn!(warning, "policy");
        }
        Ok(policy.with_revision(revision.number))
    }

    /// Publishes what a reload compiled, unless another revision was applied meanwhile, which was compiled later.
    pub fn publish_again(&self, policy: Policy) -> Result<()> {
        let _publishing = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        if policy.revision() == self.revision(None)?.number {
            self.checkpoint.publish_policy(policy);
        }
        Ok(())
    }

    fn history(&self) -> Result<Json> {
        let rows = self.policies.history()?.into_iter().map(|revision| {
            json!({ "revision": revision.number, "time": revision.time, "author": revision.author, "note": revision.note })
        });
        Ok(json!({ "revisions": rows.collect::<Vec<_>>() }))
    }

    /// Whose tokens there are and when they end (ON-03). The policy holds their digests, and no more is told.
    fn tokens(&self) -> Result<Json> {
        let document = merged(&self.revision(None)?.documents)?;
        let now = self.checkpoint.now();
        let rows = document.users.iter().flat_map(|user| {
            user.tokens.iter().map(move |token| {
                let state = if token.ends().is_some_and(|ends| ends <= now) { "expired" } else { "valid" };
                json!({
                    "user": user.email, "name": token.name, "sha256": token.sha256, "expires": token.expires, "state": state,
                })
            })
        });
        Ok(json!({ "tokens": rows.collect::<Vec<_>>() }))
    }

    fn revision(&self, number: Option<i64>) -> Result<Revision> {
        match number {
            Some(number) => self.policies.get(number),
            None => self.policies.newest()?.context("no policy is stored"),
        }
    }

    /// The facts of a record as a rule would have seen them at the end: what is derived from a host is derived again, where
    /// the record does not have it.
    fn restored(&self, facts: &Facts) -> Facts {
        let mut facts = facts.clone();
        self.checkpoint.derive_again(&mut facts);
        for (host, domains) in [
            (FieldId::DnsFqdn, FieldId::DnsDomains),
            (FieldId::HttpHost, FieldId::HttpDomains),
            (FieldId::SniHost, FieldId::SniDomains),
        ] {
            let Some(Value::Text(name)) = facts.get(host).cloned() else { continue };
            for (field, value) in self.checkpoint.host_knowledge(facts.gate(), &name) {
                if facts.get(field).is_none() {
                    facts.set(field, value);
                }
            }
            facts.set(domains, Value::Parents(name));
        }
        if let Some(last) = facts.gate().stations().last() {
            facts.reach(*last);
        }
        facts
    }

    /// What the given documents would have decided differently, over recorded traffic.
    fn replay(&self, since: i64, documents: Option<Vec<(String, String)>>) -> Result<Json> {
        let (current, _) = compile(&self.revision(None)?.documents, &self.data)?;
        let (proposed, warnings) = match documents {
            Some(documents) => compile(&documents, &self.data)?,
            None => (current.clone(), Vec::new()),
        };
        let replayed = RefCell::new(Replayed::default());
        let decide = |facts: &Facts| {
            let mut replayed = replayed.borrow_mut();
            if replayed.read < REPLAY_EVENTS_MAX {
                let at = facts.get(FieldId::Time).and_then(Value::as_int).map_or_else(now, Timestamp);
                let restored = self.restored(facts);
                replayed.add(facts, access(&current, &restored, at), access(&proposed, &restored, at));
            } else {
                replayed.is_cut = true;
            }
            false
        };
        // Events are decided as they are read and not kept: a week of them would not fit in memory.
        self.store.flush()?;
        self.store.search(&Query { since: Some(Timestamp(since)), filter: &decide, limit: 1, ..Query::default() })?;
        Ok(replayed.into_inner().answer(&warnings))
    }
}

/// A search of the store by an expression. The caller sets the filter, which has the last word.
fn query<'q>(filter: &Filter, since: Option<i64>, until: Option<i64>, limit: usize) -> Query<'q> {
    // Equality with an element of an array is left to the filter: the store compares whole values.
    let equalities = filter.equalities().into_iter().filter(|(field, _)| !field.row().ty.is_array());
    Query {
        since: since.map(Timestamp),
        until: until.map(Timestamp),
        equalities: equalities.collect(),
        filter: &|_| true,
        limit,
        newest_first: true,
        ..Query::default()
    }
}

/// A field by its name or another name of it.
pub fn field_named(name: &str) -> Result<FieldId> {
    FieldId::named(name).with_context(|| {
        let near = policy::nearest(name, FieldId::all().map(|field| field.row().name));
        let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        format!("there is no field `{name}`{hint} (`sekisho fields` lists all)")
    })
}

/// How often each value was seen.
#[derive(Default)]
struct Counts {
    events: u64,
    by_value: HashMap<String, u64>,
    /// Events without the field.
    absent: u64,
    /// Values beyond the bound.
    other: u64,
}

impl Counts {
    fn add(&mut self, value: Option<&Value>) {
        self.events += 1;
        match value {
            None => self.absent += 1,
            Some(Value::Text(text)) => self.add_text(text),
            Some(Value::Texts(texts)) => texts.iter().for_each(|text| self.add_text(text)),
            Some(Value::Parents(name)) => model::name::parents(name).for_each(|name| self.add_text(name)),
            Some(Value::Ints(ints)) => ints.iter().for_each(|int| self.add_text(&int.to_string())),
            Some(Value::Ips(ips)) => ips.iter().for_each(|ip| self.add_text(&ip.to_string())),
            Some(value) => self.add_text(&value.to_string()),
        }
    }

    fn add_text(&mut self, text: &str) {
        if let Some(count) = self.by_value.get_mut(text) {
            *count += 1;
        } else if self.by_value.len() < COUNT_VALUES_MAX {
            self.by_value.insert(text.to_owned(), 1);
        } else {
            self.other += 1;
        }
    }

    /// The values seen most often, and those seen as often in their own order.
    fn largest(self, limit: usize) -> Json {
        let values = self.by_value.len();
        let mut counts = self.by_value.into_iter().collect::<Vec<_>>();
        counts.sort_unstable_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then_with(|| a.cmp(b)));
        counts.truncate(limit);
        json!({ "events": self.events, "values": values, "absent": self.absent, "other": self.other, "counts": counts })
    }
}

/// What a replay has found so far.
#[derive(Default)]
struct Replayed {
    read: u64,
    changed: u64,
    is_cut: bool,
    /// How many went from one decision to another.
    transitions: BTreeMap<(String, String), u64>,
    changes: Vec<Json>,
}

impl Replayed {
    fn add(&mut self, facts: &Facts, before: String, after: String) {
        self.read += 1;
        if before == after {
            return;
        }
        self.changed += 1;
        if self.changes.len() < REPLAY_CHANGES_MAX {
            self.changes.push(json!({ "before": before, "after": after, "event": facts_json(facts) }));
        }
        *self.transitions.entry((before, after)).or_default() += 1;
    }

    fn answer(self, warnings: &[String]) -> Json {
        let transitions = self
            .transitions
            .into_iter()
            .map(|((before, after), count)| json!({ "before": before, "after": after, "count": count }));
        json!({
            "read": self.read, "changed": self.changed, "cut": self.is_cut,
            "transitions": transitions.collect::<Vec<_>>(), "changes": self.changes, "warnings": warnings,
        })
    }
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
    pub scheme: String,
    pub port: Option<u16>,
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
        location: located.map(|location| location.name).unwrap_or_default(),
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
        told.extend(destination(asked));
        if let Some((_, query)) = asked.path.split_once('?') {
            told.push((FieldId::HttpQuery, Value::text(query)));
        }
        Station::Request
    };
    checkpoint.explain(&session, &asked.host, told, station)
}

/// The URL and the port as the web gate would learn them: a port that the scheme implies is not written.
fn destination(asked: &Asked) -> [(FieldId, Value); 2] {
    let scheme = if asked.scheme.is_empty() { "https" } else { &asked.scheme };
    let implied = if scheme == "http" { 80 } else { 443 };
    let port = asked.port.unwrap_or(implied);
    let host = match model::name::canonical(&asked.host) {
        _ if asked.host.contains(':') => format!("[{}]", asked.host),
        Some(host) => host,
        None => asked.host.clone(),
    };
    let authority = if port == implied { host } else { format!("{host}:{port}") };
    [
        (FieldId::HttpUrl, Value::text(format!("{scheme}://{authority}{}", asked.path))),
        (FieldId::DestinationPort, Value::Int(i64::from(port))),
    ]
}

/// Every field of the event under its own name.
pub fn event_json(event: &Event) -> Json {
    let mut row = facts_json(&event.facts);
    if let Json::Object(row) = &mut row {
        row.insert("event.id".into(), json!(event.id.0));
        row.insert("event.class".into(), json!(event.class.uid()));
        row.insert("event.time".into(), json!(time_text(event.time)));
    }
    row
}

fn facts_json(facts: &Facts) -> Json {
    let named = facts.iter().map(|(field, value)| {
        let value = match value.as_int() {
            Some(time) if field == FieldId::Time => json!(time_text(Timestamp(time))),
            _ => serde_json::to_value(value).unwrap_or(Json::Null),
        };
        (field.row().name.to_owned(), value)
    });
    Json::Object(named.collect::<Map<_, _>>())
}

/// RFC 3339 in UTC, milliseconds; a time outside the calendar's range is written as its number.
pub fn time_text(time: Timestamp) -> String {
    match jiff::Timestamp::from_microsecond(time.0) {
        Ok(at) => format!("{at:.3}"),
        Err(_) => time.0.to_string(),
    }
}

/// The answer to a look-up of indicators.
pub fn sightings_json(sightings: Vec<store::Sighting>) -> Json {
    let rows = sightings.into_iter().map(|sighting| {
        json!({
            "value": sighting.value, "user": sighting.user, "device": sighting.device, "src_ip": sighting.src_ip,
            "first": sighting.first, "last": sighting.last, "count": sighting.count, "blocked": sighting.blocked,
            "gates": sighting.gates,
        })
    });
    json!({ "sightings": rows.collect::<Vec<_>>() })
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
