//! The states of one transaction: question, permit to resolve, answer, permit to give it to the client. It sees no socket:
//! bytes come in decoded and go out encoded, and whatever happens between leaves exactly one final event.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::{Checkpoint, Credential, FailureMode, Location, Passage, Permit, Refusal, Standing, Unproved};
use model::{Destination, Disposition, FieldId, Gate, Identity, Question, Session, Station, Timestamp, Transport, Value};
use tokio::sync::Semaphore;

use crate::decode::Query;
use crate::encode::{Carrier, Lifetime, Packed, Shown, encode_into};
use crate::enforce;
use crate::events::{Counter, UpstreamFailed, count};
use crate::facts;
use crate::limit::RateLimit;
use crate::recent::{RECENT, Settled};
use crate::reply::Reply;
use crate::resolver::{DnsResolver, Failure, Resolved, Source, Subnet};
use crate::spec::DnsGateConfig;

/// One reading of both clocks, which stands for all that is done without waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// What the record and the rules go by.
    pub(crate) clock: Timestamp,
    /// What the cache and the limits go by.
    pub(crate) instant: Instant,
}

impl Moment {
    pub(crate) fn of(checkpoint: &Checkpoint) -> Moment {
        Moment { clock: checkpoint.now(), instant: Instant::now() }
    }
}

/// A transaction that has leave to ask, and whose answer has to be waited for.
pub(crate) struct Waiting {
    passage: Passage,
    permit: Permit,
}

/// What has become of a question without waiting.
#[expect(clippy::large_enum_variant, reason = "it is passed on once, and a box would cost an allocation")]
pub(crate) enum AtOnce {
    /// It is answered; what others may follow of it, where that was asked for.
    Over(Option<Settled>),
    Waits(Waiting),
}

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
    /// Whether the client has shown a token that a location or a user has.
    pub(crate) has_token: bool,
    /// Why nothing is answered here, as the record says it (ON-01, ON-03).
    pub(crate) refusal: Option<&'static str>,
    pub(crate) carrier: Carrier,
    /// Whether the client's question was asked a moment ago, so that what is decided about it is worth keeping.
    pub(crate) is_repeated: bool,
    /// Whether clients of the place may come by different ways, so that none stands for another (ON-01).
    is_told_apart: bool,
    fails: FailureMode,
    ttl_cap: Option<u32>,
    /// What upstreams may know of where the client is.
    subnet: Option<Subnet>,
}

/// What a client has shown of itself: a user's token, or that of a location.
#[derive(Default)]
pub(crate) struct Credentials<'a> {
    user: Option<Result<Arc<Identity>, Unproved>>,
    token: Option<&'a str>,
}

impl Visit {
    /// Whether answers may differ from those of other clients of the same place.
    pub(crate) fn is_told_apart(&self) -> bool {
        self.is_told_apart || self.subnet.is_some()
    }

    fn subnet(&self, query: &Query) -> Option<Subnet> {
        self.subnet.filter(|_| !query.edns.is_some_and(|edns| edns.declines_subnet))
    }
}

impl Shared {
    /// Finds out where a client belongs (ON-01).
    pub(crate) fn visit(&self, client: SocketAddr, local: SocketAddr, transport: Transport, token: Option<&str>) -> Visit {
        // A token of a user names no location, and is a secret that the record must not hold.
        let user = token.map(|token| self.checkpoint.identify(&Credential::Token(token)));
        let token = token.filter(|_| matches!(user, Some(Err(Unproved::Unknown))));
        let location = self.checkpoint.locate(client.ip().to_canonical(), token);
        self.visit_at(location, client, local, transport, Credentials { user, token }, self.checkpoint.now())
    }

    /// The same for a client whose location is known.
    pub(crate) fn visit_at(
        &self,
        location: Option<Location>,
        client: SocketAddr,
        local: SocketAddr,
        transport: Transport,
        credentials: Credentials<'_>,
        began: Timestamp,
    ) -> Visit {
        let Credentials { user, token } = credentials;
        let by_location = location.as_ref().and_then(|location| location.identity.clone());
        let is_proved = matches!(user, Some(Ok(_)));
        let has_token = is_proved || (token.is_some() && location.is_some());
        let by_location_refuses = || location.as_ref()?.refusal(transport, client.ip(), has_token);
        let refusal = match user {
            Some(Err(Unproved::Expired)) => Some(Unproved::Expired.as_str()),
            _ => by_location_refuses(),
        };
        let identity = user.and_then(Result::ok).or(by_location);
        let spec = &self.config.spec;
        Visit {
            token: token.map(Arc::from),
            has_token,
            refusal,
            carrier: match transport {
                Transport::Udp => Carrier::Datagram,
                Transport::Dot | Transport::Doh => Carrier::PrivateStream,
                _ => Carrier::Stream,
            },
            is_repeated: false,
            is_told_apart: location.as_ref().is_some_and(Location::has_endpoints),
            fails: location.as_ref().map_or(spec.fails, |location| location.fails),
            ttl_cap: location.as_ref().and_then(|location| location.max_ttl).or(spec.answer_ttl_seconds_max),
            subnet: location.as_ref().and_then(|location| Subnet::of(location.ecs, client.ip())),
            session: Session {
                id: self.checkpoint.next_session(),
                gate: Gate::Dns,
                transport,
                began,
                client,
                local,
                location: location.map(|location| location.name).unwrap_or_default(),
                identity,
            },
        }
    }

    /// The token in the name that a client asked the certificate for: its first label (ON-04). A label that no location and
    /// no user has belongs to an ordinary name.
    pub(crate) fn token_in_name<'a>(&self, client: SocketAddr, server_name: Option<&'a str>) -> Option<&'a str> {
        let (label, _) = server_name?.split_once('.')?;
        let is_known = self.checkpoint.locate(client.ip().to_canonical(), Some(label)).is_some()
            || !matches!(self.checkpoint.identify(&Credential::DohToken(label)), Err(Unproved::Unknown));
        is_known.then_some(label)
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
        let mut out = Vec::new();
        match self.answer_at_once(&visit, &query, Moment::of(&self.checkpoint), &mut out) {
            AtOnce::Waits(waiting) => self.answer_in_time(visit, query, waiting).await,
            AtOnce::Over(_) => out,
        }
    }

    /// One question from its first fact to its final event, where that takes no waiting: its answer is put at the end of
    /// `out`. Otherwise what is still to be done comes back.
    pub(crate) fn answer_at_once(&self, visit: &Visit, query: &Query, moment: Moment, out: &mut Vec<u8>) -> AtOnce {
        let mut passage = self.checkpoint.examine_at(&visit.session, moment.clock);
        if let Some(token) = &visit.token {
            passage.learn(FieldId::DohSubdomain, Value::Text(Arc::clone(token).into()));
        }
        facts::learn_question(&mut passage, query);
        if let Some(reason) = visit.refusal {
            self.turn_away(passage, visit, query, reason, out);
            return AtOnce::Over(None);
        }
        passage.reach(Station::Question);
        let permit = match passage.permit(Destination::Resolve { name: query.host.clone() }) {
            Ok(permit) => permit,
            Err(refusal) => {
                return AtOnce::Over(self.refuse(passage, visit, query, &refusal, "blockedByQueryName", moment.instant, out));
            }
        };
        match self.resolver.recall(permit, query, visit.subnet(query), moment.instant) {
            Ok(resolved) => AtOnce::Over(self.deliver(passage, visit, query, &resolved, moment.instant, out)),
            Err(permit) => {
                passage.wait();
                AtOnce::Waits(Waiting { passage, permit })
            }
        }
    }

    /// The rest of a transaction whose answer is not at hand.
    pub(crate) async fn answer_in_time(self: Arc<Self>, visit: Visit, query: Query, waiting: Waiting) -> Vec<u8> {
        let Waiting { passage, permit } = waiting;
        let mut out = Vec::new();
        match self.resolver.resolve(permit, &query, visit.subnet(&query), visit.fails).await {
            Ok(resolved) => drop(self.deliver(passage, &visit, &query, &resolved, Instant::now(), &mut out)),
            Err(failure) => self.fail(passage, &visit, &query, failure, &mut out),
        }
        out
    }

    /// The answer's facts, and the question whether the client may have it.
    fn deliver(
        &self,
        mut passage: Passage,
        visit: &Visit,
        query: &Query,
        resolved: &Resolved,
        at: Instant,
        out: &mut Vec<u8>,
    ) -> Option<Settled> {
        facts::learn_answer(&mut passage, resolved);
        passage.reach(Station::Answer);
        match passage.permit(Destination::Client) {
            Ok(permit) => self.give(passage, visit, query, permit, resolved, at, out),
            Err(refusal) => self.refuse(passage, visit, query, &refusal, "blockedRule", at, out),
        }
    }

    /// Gives the client the answer; the permit to do so ends here.
    #[expect(clippy::too_many_arguments, reason = "the parts of one transaction, each needed once")]
    fn give(
        &self,
        mut passage: Passage,
        visit: &Visit,
        query: &Query,
        permit: Permit,
        resolved: &Resolved,
        at: Instant,
        out: &mut Vec<u8>,
    ) -> Option<Settled> {
        let leave = if visit.is_repeated { passage.leave(&permit) } else { None };
        let (Destination::Client, _) = permit.into_parts() else {
            self.fail(passage, visit, query, Failure::NotPermitted, out);
            return None;
        };
        let entry = &resolved.entry;
        let lifetime = enforce::lifetime(resolved, visit.ttl_cap, at);
        if let Some(cap) = visit.ttl_cap.filter(|cap| entry.ttl > *cap) {
            passage.learn(FieldId::DnsMaxTtl, Value::Int(i64::from(cap)));
        }
        count_source(resolved.source);
        let stale = (resolved.source == Source::Stale).then(|| enforce::stale(&entry.reply));
        let shown = Shown::new(stale.as_ref().unwrap_or(&entry.reply), &entry.packed, lifetime);
        facts::learn_errors(&mut passage, shown.errors);
        let start = out.len();
        encode_into(out, query, &shown, visit.carrier);
        passage.count(query.bytes as u64, (out.len() - start) as u64);
        let by_rule = resolved.rewrite.as_ref().and_then(|rewrite| rewrite.decision());
        let decision = by_rule.or(entry.rebinding.then_some("blockedByRebindingProtection"));
        let allowed = if passage.is_by_rule(Question::Access) { "allowedByQueryName" } else { "allowedOnNoPolicyMatch" };
        passage.learn(FieldId::DnsDecision, Value::word(decision.unwrap_or(allowed)));
        let disposition = if decision.is_some() { Disposition::Corrected } else { Disposition::Allowed };
        let same_until = match (resolved.source, leave.is_some()) {
            // The next second of its age brings other times to live.
            (Source::Cache, true) => entry.stored + Duration::from_secs(u64::from(entry.age_seconds(at)) + 1),
            _ => {
                passage.finish(disposition);
                return None;
            }
        };
        settle(passage, visit, disposition, leave, same_until, Counter::CacheHits)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one transaction, each needed once")]
    fn refuse(
        &self,
        mut passage: Passage,
        visit: &Visit,
        query: &Query,
        refusal: &Refusal,
        decision: &'static str,
        at: Instant,
        out: &mut Vec<u8>,
    ) -> Option<Settled> {
        count(Counter::Refusals);
        let reply = enforce::refuse(query, refusal, &self.config.spec);
        passage.learn(FieldId::DnsDecision, Value::word(decision));
        own_answer(&mut passage, visit, query, &reply, out);
        settle(passage, visit, Disposition::Blocked, None, at + RECENT, Counter::Refusals)
    }

    /// The same before a question was read.
    pub(crate) fn turn_away_unread(&self, visit: &Visit, reason: &'static str) {
        count(Counter::Refusals);
        let mut passage = self.checkpoint.examine(&visit.session);
        passage.fail(reason);
        passage.finish(Disposition::Blocked);
    }

    /// A client that may not come this way, or whose token has ended, gets no answer to any question.
    fn turn_away(&self, mut passage: Passage, visit: &Visit, query: &Query, reason: &'static str, out: &mut Vec<u8>) {
        count(Counter::Refusals);
        passage.fail(reason);
        own_answer(&mut passage, visit, query, &enforce::prohibited(), out);
        passage.finish(Disposition::Blocked);
    }

    fn fail(&self, mut passage: Passage, visit: &Visit, query: &Query, failure: Failure, out: &mut Vec<u8>) {
        UpstreamFailed { failure }.emit();
        passage.fail(failure.word());
        own_answer(&mut passage, visit, query, &enforce::fail(failure), out);
        passage.finish(Disposition::Error);
    }
}

/// Ends a transaction, and keeps what others may follow of it where its question has just been asked before.
fn settle(
    passage: Passage,
    visit: &Visit,
    disposition: Disposition,
    leave: Option<Standing>,
    until: Instant,
    counter: Counter,
) -> Option<Settled> {
    if !visit.is_repeated {
        passage.finish(disposition);
        return None;
    }
    let precedent = passage.finish_for_others(disposition, &visit.session, leave)?;
    Some(Settled { precedent, until, counter })
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
fn own_answer(passage: &mut Passage, visit: &Visit, query: &Query, reply: &Reply, out: &mut Vec<u8>) {
    facts::learn_own_answer(passage, reply);
    let lifetime = Lifetime::Aged { seconds: 0, cap: visit.ttl_cap };
    let start = out.len();
    if let Some(packed) = Packed::new(&query.spelling.name().to_lowercase(), query.kind, reply) {
        encode_into(out, query, &Shown::new(reply, &packed, lifetime), visit.carrier);
    }
    passage.count(query.bytes as u64, (out.len() - start) as u64);
}
