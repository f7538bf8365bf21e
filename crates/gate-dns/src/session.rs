//! The states of one transaction: question, permit to resolve, answer, permit to give it to the client. It sees no socket:
//! bytes come in decoded and go out encoded, and whatever happens between leaves exactly one final event.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use checkpoint::{Checkpoint, Credential, FailureMode, Passage, Permit, Refusal};
use model::{Destination, Disposition, FieldId, Gate, Question, Session, Station, Transport, Value};
use tokio::sync::Semaphore;

use crate::decode::Query;
use crate::encode::{Carrier, Lifetime, Packed, encode};
use crate::enforce;
use crate::events::{Counter, UpstreamFailed, count};
use crate::facts;
use crate::limit::RateLimit;
use crate::reply::Reply;
use crate::resolver::{DnsResolver, Failure, Resolved, Source};
use crate::spec::DnsGateConfig;

/// What every transaction of the gate shares.
pub(crate) struct Shared {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) resolver: DnsResolver,
    pub(crate) config: DnsGateConfig,
    pub(crate) limit: RateLimit,
    /// A place for each question that waits, over all clients and listeners.
    pub(crate) transactions: Arc<Semaphore>,
}

/// One client at one listener, and what its place means for its answers.
#[derive(Clone)]
pub(crate) struct Visit {
    pub(crate) session: Session,
    pub(crate) token: Option<Arc<str>>,
    /// Whether the client's token or network belongs to a location or a user.
    pub(crate) is_known: bool,
    pub(crate) carrier: Carrier,
    fails: FailureMode,
    ttl_cap: Option<u32>,
}

impl Shared {
    /// Finds out where a client belongs (ON-01).
    pub(crate) fn visit(&self, client: SocketAddr, local: SocketAddr, transport: Transport, token: Option<&str>) -> Visit {
        let location = self.checkpoint.locate(client.ip().to_canonical(), token);
        let by_location = location.as_ref().and_then(|location| location.identity.clone());
        let by_token = || token.and_then(|token| self.checkpoint.identify(&Credential::DohToken(token)));
        let identity = by_location.or_else(by_token);
        let spec = &self.config.spec;
        Visit {
            token: token.map(Arc::from),
            is_known: location.is_some() || identity.is_some(),
            carrier: match transport {
                Transport::Udp => Carrier::Datagram,
                Transport::Dot | Transport::Doh => Carrier::PrivateStream,
                _ => Carrier::Stream,
            },
            fails: location.as_ref().map_or(spec.fails, |location| location.fails),
            ttl_cap: location.as_ref().and_then(|location| location.max_ttl).or(spec.answer_ttl_seconds_max),
            session: Session {
                id: self.checkpoint.next_session(),
                gate: Gate::Dns,
                transport,
                began: SystemTime::now().into(),
                client,
                local,
                location: location.map(|location| location.name).unwrap_or_default(),
                identity,
            },
        }
    }

    /// Records a message that was not a question. Its reply is a bare header.
    pub(crate) fn reject(&self, visit: &Visit, bytes_in: usize, bytes_out: usize, failure: &'static str) {
        count(Counter::Malformed);
        let mut passage = self.checkpoint.examine(&visit.session);
        passage.learn(FieldId::DnsQuerySize, Value::Int(i64::try_from(bytes_in).unwrap_or(i64::MAX)));
        passage.count(bytes_in as u64, bytes_out as u64);
        passage.fail(failure);
        passage.finish(Disposition::Error);
    }

    /// The same for a client on a stream, which can be made to wait for a place.
    pub(crate) async fn transact_in_turn(self: Arc<Self>, visit: Visit, query: Query) -> Vec<u8> {
        let transactions = Arc::clone(&self.transactions);
        // The semaphore is never closed, so that there always is a place in the end.
        let _place = transactions.acquire().await;
        self.transact(visit, query).await
    }

    /// One question from its first fact to its final event. The returned bytes are for the client.
    pub(crate) async fn transact(self: Arc<Self>, visit: Visit, query: Query) -> Vec<u8> {
        let mut passage = self.checkpoint.examine(&visit.session);
        if let Some(token) = &visit.token {
            passage.learn(FieldId::DohSubdomain, Value::Text(Arc::clone(token).into()));
        }
        facts::learn_question(&mut passage, &query);
        passage.reach(Station::Question);
        let permit = match passage.permit(Destination::Resolve { name: query.host.as_str().into() }) {
            Ok(permit) => permit,
            Err(refusal) => return self.refuse(passage, &visit, &query, &refusal, "blockedByQueryName"),
        };
        let resolved = match self.resolver.resolve(permit, &query, visit.fails).await {
            Ok(resolved) => resolved,
            Err(failure) => return self.fail(passage, &visit, &query, failure),
        };
        facts::learn_answer(&mut passage, &resolved);
        passage.reach(Station::Answer);
        match passage.permit(Destination::Client) {
            Ok(permit) => self.give(passage, &visit, &query, permit, &resolved),
            Err(refusal) => self.refuse(passage, &visit, &query, &refusal, "blockedRule"),
        }
    }

    /// Gives the client the answer; the permit to do so ends here.
    fn give(&self, mut passage: Passage, visit: &Visit, query: &Query, permit: Permit, resolved: &Resolved) -> Vec<u8> {
        let (Destination::Client, _) = permit.into_parts() else {
            return self.fail(passage, visit, query, Failure::NotPermitted);
        };
        let entry = &resolved.entry;
        let lifetime = enforce::lifetime(resolved, visit.ttl_cap, Instant::now());
        if let Some(cap) = visit.ttl_cap.filter(|cap| entry.ttl > *cap) {
            passage.learn(FieldId::DnsMaxTtl, Value::Int(i64::from(cap)));
        }
        count_source(resolved.source);
        let bytes = if resolved.source == Source::Stale {
            let reply = enforce::stale(&entry.reply);
            facts::learn_errors(&mut passage, &reply.errors);
            encode(query, &reply, &entry.packed, lifetime, visit.carrier)
        } else {
            facts::learn_errors(&mut passage, &entry.reply.errors);
            encode(query, &entry.reply, &entry.packed, lifetime, visit.carrier)
        };
        passage.count(query.bytes as u64, bytes.len() as u64);
        let by_rule = resolved.rewrite.as_ref().and_then(|rewrite| rewrite.decision());
        let decision = by_rule.or(entry.rebinding.then_some("blockedByRebindingProtection"));
        let allowed = if passage.is_by_rule(Question::Access) { "allowedByQueryName" } else { "allowedOnNoPolicyMatch" };
        passage.learn(FieldId::DnsDecision, Value::text(decision.unwrap_or(allowed)));
        passage.finish(if decision.is_some() { Disposition::Corrected } else { Disposition::Allowed });
        bytes
    }

    fn refuse(&self, mut passage: Passage, visit: &Visit, query: &Query, refusal: &Refusal, decision: &str) -> Vec<u8> {
        count(Counter::Refusals);
        let reply = enforce::refuse(query, refusal, &self.config.spec);
        passage.learn(FieldId::DnsDecision, Value::text(decision));
        let bytes = own_answer(&mut passage, visit, query, &reply);
        passage.finish(Disposition::Blocked);
        bytes
    }

    fn fail(&self, mut passage: Passage, visit: &Visit, query: &Query, failure: Failure) -> Vec<u8> {
        UpstreamFailed { failure }.emit();
        passage.fail(failure.word());
        let bytes = own_answer(&mut passage, visit, query, &enforce::fail(failure));
        passage.finish(Disposition::Error);
        bytes
    }
}

fn count_source(source: Source) {
    match source {
        Source::Upstream => count(Counter::UpstreamAnswers),
        Source::Cache => count(Counter::CacheHits),
        Source::Stale => count(Counter::StaleAnswers),
        Source::Local => {}
    }
}

/// Writes an answer of the gate's own, and what the record says of it.
fn own_answer(passage: &mut Passage, visit: &Visit, query: &Query, reply: &Reply) -> Vec<u8> {
    facts::learn_own_answer(passage, reply);
    let lifetime = Lifetime::Aged { seconds: 0, cap: visit.ttl_cap };
    let packed = Packed::new(&query.name.to_lowercase(), query.kind, reply);
    let bytes = packed.map(|packed| encode(query, reply, &packed, lifetime, visit.carrier)).unwrap_or_default();
    passage.count(query.bytes as u64, bytes.len() as u64);
    bytes
}
