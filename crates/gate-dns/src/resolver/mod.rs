//! The forwarding resolver: what a permit allows is looked for in the cache, then asked of the upstreams, and checked on
//! its way in. Obligations of the permit decide what is asked instead, and of whom. It never decides whether a name may
//! be asked for.

mod cache;
pub(crate) mod check;
mod dnssec;
mod flight;
mod forward;
mod guard;
mod rewrite;
mod safe_search;
mod subnet;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::{FailureMode, Permit};
use hickory_proto::rr::{Name, RecordType};
use model::{Destination, Obligation};
use tokio::time::timeout;

pub(crate) use self::cache::Entry;
pub use self::forward::Failure;
pub(crate) use self::rewrite::Rewrite;
pub(crate) use self::subnet::Subnet;

use self::cache::{Cache, Held, Key, Retention};
use self::check::Checked;
use self::dnssec::{Validator, zones_above};
use self::flight::{Flights, Leader, Role, await_landing};
use self::forward::Forwarder;
use crate::Error;
use crate::decode::{Query, host_text};
use crate::reply::{Reply, extended};
use crate::spec::{DnsGateConfig, DnssecMode};

/// A client with an expired answer at hand waits this long for a new one (RFC 8767 section 5).
const STALE_WAIT: Duration = Duration::from_millis(1_800);

/// Keys of a zone that does not verify are asked for again at most this often, however many of its names are asked for.
const KEYS_REST: Duration = Duration::from_secs(5);

/// Names that are asked for in turn when an upstream gives an alias without its end.
const FOLLOWED_MAX: usize = 8;

/// What an upstream is asked.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// In lower case.
    pub(crate) name: Name,
    pub(crate) kind: RecordType,
    pub(crate) dnssec_ok: bool,
    pub(crate) checking_disabled: bool,
    /// Where the client is, as far as the upstream may know.
    pub(crate) subnet: Option<Subnet>,
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Upstream,
    Cache,
    /// Out of the cache after its time, because no upstream answered.
    Stale,
    /// Made here: an override, or ANY made small.
    Local,
}

#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) entry: Arc<Entry>,
    pub(crate) source: Source,
    pub(crate) rewrite: Option<Rewrite>,
}

/// Resolves names by the gate's upstreams and cache. Clones share both.
#[derive(Clone)]
pub struct DnsResolver(Arc<Inner>);

struct Inner {
    cache: Cache,
    flights: Arc<Flights>,
    forwarder: Forwarder,
    validator: Option<Validator>,
    config: DnsGateConfig,
}

impl DnsResolver {
    /// A resolver without a gate, for roles that have none.
    pub fn new(config: &DnsGateConfig) -> Result<DnsResolver, Error> {
        let retention = Retention {
            ttl_min: config.spec.cache_ttl_seconds_min,
            ttl_max: config.spec.cache_ttl_seconds_max,
            stale: Duration::from_secs(config.spec.stale_seconds_max.into()),
        };
        let forwarder = Forwarder::new(config)?;
        let validates = config.spec.dnssec == DnssecMode::Validate;
        Ok(DnsResolver(Arc::new_cyclic(|inner| Inner {
            cache: Cache::new(config.spec.cache_bytes, retention),
            flights: Arc::new(Flights::default()),
            forwarder,
            validator: validates
                .then(|| Validator::new(inner.clone(), Arc::clone(&config.trust_anchors.0), Arc::clone(&config.dnssec_exempt))),
            config: config.clone(),
        })))
    }

    /// The addresses of a host, for a gate that is about to connect: its own permit, for that connection, is what lets
    /// anything pass. An address is returned as it is; a host without addresses gives none.
    pub async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, Error> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let name = wire_name(host).ok_or_else(|| Error::NotAHost { host: host.to_owned() })?;
        if let Some(addresses) = host_text(&name).and_then(|host| rewrite::special_addresses(&host)) {
            return Ok(addresses);
        }
        let (v4, v6) = tokio::join!(self.lookup_kind(&name, RecordType::A), self.lookup_kind(&name, RecordType::AAAA));
        let failure = match (&v4, &v6) {
            (Err(failure), Err(_)) => Some(*failure),
            _ => None,
        };
        match failure {
            Some(failure) => Err(Error::Unresolved { host: host.to_owned(), failure }),
            None => Ok([v4, v6].into_iter().flatten().flatten().collect()),
        }
    }

    async fn lookup_kind(&self, name: &Name, kind: RecordType) -> Result<Vec<IpAddr>, Failure> {
        let question = Question { name: name.clone(), kind, dnssec_ok: false, checking_disabled: false, subnet: None };
        let (entry, _) = self.find(question, Box::default(), self.0.config.spec.fails).await?;
        Ok(entry.reply.answers.iter().filter_map(|record| record.data.ip_addr()).collect())
    }

    /// Carries out a permit to resolve by a remembered answer, where a fresh one is all that it takes. Otherwise the permit
    /// comes back unused.
    pub(crate) fn recall(&self, permit: Permit, query: &Query, subnet: Option<Subnet>, at: Instant) -> Result<Resolved, Permit> {
        match self.remembered(&permit, query, subnet, at) {
            Some(entry) => {
                // The permit ends with the act that it was for.
                drop(permit.into_parts());
                Ok(Resolved { entry, source: Source::Cache, rewrite: None })
            }
            None => Err(permit),
        }
    }

    fn remembered(&self, permit: &Permit, query: &Query, subnet: Option<Subnet>, at: Instant) -> Option<Arc<Entry>> {
        let Destination::Resolve { name: permitted } = permit.destination() else { return None };
        let obligations = permit.obligations();
        if *permitted != query.host || rewrite::of(obligations, query, &self.0.config.spec).is_some() {
            return None;
        }
        let route = route_of(obligations);
        let key = Key {
            host: query.host.clone(),
            kind: query.kind,
            dnssec_ok: query.edns.is_some_and(|edns| edns.dnssec_ok),
            checking_disabled: query.checking_disabled || obligations.contains(&Obligation::DangerSkipDnssec),
            subnet: subnet_for(subnet, &route),
            route,
        };
        match self.0.cache.get(&key, at) {
            Held::Fresh(entry) => Some(entry),
            Held::Stale(_) | Held::Nothing => None,
        }
    }

    /// Carries out a permit to resolve. The name is the permit's; the query adds type and flags.
    pub(crate) async fn resolve(
        &self,
        permit: Permit,
        query: &Query,
        subnet: Option<Subnet>,
        fails: FailureMode,
    ) -> Result<Resolved, Failure> {
        let (destination, obligations) = permit.into_parts();
        let Destination::Resolve { name: permitted } = destination else { return Err(Failure::NotPermitted) };
        if *permitted != *query.host {
            return Err(Failure::NotPermitted);
        }
        let route = route_of(&obligations);
        let question = Question {
            name: query.spelling.name().to_lowercase(),
            kind: query.kind,
            dnssec_ok: query.edns.is_some_and(|edns| edns.dnssec_ok),
            checking_disabled: query.checking_disabled || obligations.contains(&Obligation::DangerSkipDnssec),
            subnet: subnet_for(subnet, &route),
        };
        match rewrite::of(&obligations, query, &self.0.config.spec) {
            None => {
                let (entry, source) = self.find(question, route, fails).await?;
                Ok(Resolved { entry, source, rewrite: None })
            }
            Some(rewrite) => self.rewritten(rewrite, question, &obligations, fails).await,
        }
    }

    async fn rewritten(
        &self,
        rewrite: Rewrite,
        question: Question,
        obligations: &[Obligation],
        fails: FailureMode,
    ) -> Result<Resolved, Failure> {
        let ttl = self.0.config.spec.block_ttl_seconds;
        let (mut reply, target) = rewrite.begin(&question, ttl);
        let mut upstream = Arc::from("");
        if let Some(target) = target {
            let follow_up = Question { name: target, ..question.clone() };
            let (entry, _) = self.find(follow_up, route_of(obligations), fails).await?;
            rewrite::append(&mut reply, &entry, Instant::now());
            upstream = Arc::clone(&entry.upstream);
        }
        let entry = Entry::new(&question.name, question.kind, reply, upstream, Instant::now()).ok_or(Failure::TooLong)?;
        Ok(Resolved { entry: Arc::new(entry), source: Source::Local, rewrite: Some(rewrite) })
    }

    /// The cache, and behind it the upstreams.
    async fn find(
        &self,
        question: Question,
        route: Box<[SocketAddr]>,
        fails: FailureMode,
    ) -> Result<(Arc<Entry>, Source), Failure> {
        let key = key_of(&question, route);
        let stale = match self.0.cache.get(&key, Instant::now()) {
            Held::Fresh(entry) => return Ok((entry, Source::Cache)),
            Held::Stale(entry) if fails == FailureMode::Open => Some(entry),
            Held::Stale(_) | Held::Nothing => None,
        };
        if self.0.cache.failed(&key) {
            return stale.map(|entry| (entry, Source::Stale)).ok_or(Failure::Remembered);
        }
        let landing = match self.0.flights.board(&key) {
            Role::Leader(leader) => {
                let landing = leader.follow();
                tokio::spawn(self.clone().fly(leader, key, question));
                landing
            }
            Role::Follower(landing) => landing,
            Role::Refused => return stale.map(|entry| (entry, Source::Stale)).ok_or(Failure::Overloaded),
        };
        match stale {
            None => await_landing(landing).await.map(|entry| (entry, Source::Upstream)),
            Some(stale) => match timeout(STALE_WAIT, await_landing(landing)).await {
                Ok(Ok(entry)) => Ok((entry, Source::Upstream)),
                Ok(Err(_)) | Err(_) => Ok((stale, Source::Stale)),
            },
        }
    }

    /// Asks, keeps and lands. It goes on when the clients that wait for it have left, so that the next finds the answer.
    async fn fly(self, leader: Leader, key: Key, question: Question) {
        let outcome = self.ask(&question, &key).await.map(Arc::new);
        match &outcome {
            Ok(entry) => self.0.cache.keep(key, Arc::clone(entry)),
            Err(_) => self.0.cache.keep_failure(key),
        }
        leader.land(outcome);
    }

    async fn ask(&self, question: &Question, key: &Key) -> Result<Entry, Failure> {
        // Resolvers that a rule chose serve zones of which the public tree knows nothing (AC-07).
        let is_judged =
            |validator: &&Validator| !question.checking_disabled && key.route.is_empty() && validator.concerns(&key.host);
        let validator = self.0.validator.as_ref().filter(is_judged);
        let mut asked = self.ask_to_the_end(question, &key.route, validator).await;
        if matches!(asked, Err(Failure::Bogus { .. })) && self.forget_keys(question) {
            asked = self.ask_to_the_end(question, &key.route, validator).await;
        }
        let (mut reply, upstream) = asked?;
        let rebinding = self.guard(&mut reply, question, key);
        let upstream_ttls: Vec<u32> = reply.answers.iter().map(|record| record.ttl).collect();
        self.0.cache.clamp(&mut reply);
        let mut entry = Entry::new(&question.name, question.kind, reply, upstream, Instant::now()).ok_or(Failure::TooLong)?;
        entry.facts.learn_upstream_ttls(&upstream_ttls);
        Ok(Entry { rebinding, ..entry })
    }

    /// Follows aliases whose end an upstream left out.
    async fn ask_to_the_end(
        &self,
        question: &Question,
        route: &[SocketAddr],
        validator: Option<&Validator>,
    ) -> Result<(Reply, Arc<str>), Failure> {
        let forwarder = &self.0.forwarder;
        let (Checked { mut reply, mut dangling }, upstream) = forwarder.ask(question, route, validator).await?;
        let mut seen = vec![question.name.clone()];
        while let Some(target) = dangling.take() {
            if seen.len() > FOLLOWED_MAX || seen.contains(&target) {
                return Err(Failure::EndlessChain);
            }
            seen.push(target.clone());
            let follow_up = Question { name: target, ..question.clone() };
            let (more, _) = forwarder.ask(&follow_up, route, validator).await?;
            dangling = more.dangling;
            reply.code = more.reply.code;
            reply.authentic &= more.reply.authentic;
            reply.answers.extend(more.reply.answers);
            reply.authorities = more.reply.authorities;
        }
        Ok((reply, upstream))
    }

    /// Keys and delegations in the cache may be the reason why an answer does not verify: their zone has new ones. True
    /// where there were some that are worth asking for again.
    fn forget_keys(&self, question: &Question) -> bool {
        let mut forgot = false;
        for zone in zones_above(&question.name) {
            for kind in [RecordType::DNSKEY, RecordType::DS] {
                let above = Question { name: zone.clone(), kind, dnssec_ok: true, checking_disabled: true, subnet: None };
                forgot |= self.0.cache.forget(&key_of(&above, Box::default()), KEYS_REST, Instant::now());
            }
        }
        forgot
    }

    /// Takes out what may not enter. True where private addresses were among it. Resolvers that a rule chose are trusted
    /// with private addresses: internal zones are what they are for (AC-07).
    fn guard(&self, reply: &mut Reply, question: &Question, key: &Key) -> bool {
        let spec = &self.0.config.spec;
        if spec.strip_https_hints {
            guard::strip_hints(reply);
        }
        let exempt = !spec.rebinding_protection
            || !key.route.is_empty()
            || guard::may_be_private(&key.host, &self.0.config.rebinding_allowed);
        let dropped = !exempt && guard::drop_private(reply);
        if dropped {
            reply.authentic = false;
        }
        if dropped && !reply.has(question.kind) {
            let text = "private address for a public name";
            *reply = Reply::negative(reply.code, &question.name, spec.block_ttl_seconds).with_error(extended::BLOCKED, text);
        }
        dropped
    }
}

fn key_of(question: &Question, route: Box<[SocketAddr]>) -> Key {
    Key {
        host: host_text(&question.name).unwrap_or_else(|| question.name.to_ascii()).into(),
        kind: question.kind,
        dnssec_ok: question.dnssec_ok,
        checking_disabled: question.checking_disabled,
        subnet: question.subnet,
        route,
    }
}

/// Resolvers that a rule chose are inside, where a client's subnet is nobody's need.
fn subnet_for(subnet: Option<Subnet>, route: &[SocketAddr]) -> Option<Subnet> {
    subnet.filter(|_| route.is_empty())
}

/// The resolvers that a rule chose (GW-035).
fn route_of(obligations: &[Obligation]) -> Box<[SocketAddr]> {
    let chosen = obligations.iter().find_map(|obligation| match obligation {
        Obligation::Resolvers { addresses } => Some(addresses.as_slice()),
        _ => None,
    });
    chosen.unwrap_or_default().into()
}

/// A host as text becomes a name for the wire, in lower case.
pub(crate) fn wire_name(host: &str) -> Option<Name> {
    let host = model::name::canonical(host)?;
    let mut name = Name::from_ascii(host).ok()?;
    name.set_fqdn(true);
    Some(name)
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, MessageType, OpCode, Query as Asked};
    use hickory_proto::rr::rdata::{A, CNAME, SOA, TXT};
    use hickory_proto::rr::{RData, Record};

    use super::*;
    use crate::encode::{Carrier, Lifetime, Shown, encode};
    use crate::spec::DnsGateSpec;
    use crate::spelling::Spelling;

    fn question(host: &str) -> Question {
        Question { name: wire_name(host).unwrap(), kind: RecordType::A, dnssec_ok: false, checking_disabled: false, subnet: None }
    }

    /// A resolver whose only upstream is a port that nobody has, with one answer that is this old.
    fn remembering(host: &str, age: Duration) -> DnsResolver {
        let spec = DnsGateSpec { upstreams: vec!["127.0.0.1:1".to_owned()], ..DnsGateSpec::default() };
        let resolver = DnsResolver::new(&DnsGateConfig::resolve(spec).unwrap()).unwrap();
        let record = Record::from_rdata(wire_name(host).unwrap(), 60, RData::A(A::new(192, 0, 2, 1)));
        let stored = Instant::now().checked_sub(age).unwrap();
        let name = wire_name(host).unwrap();
        let entry = Entry::new(&name, RecordType::A, Reply::answering(vec![record]), "".into(), stored).unwrap();
        let key = Key {
            host: host.into(),
            kind: RecordType::A,
            dnssec_ok: false,
            checking_disabled: false,
            subnet: None,
            route: Box::default(),
        };
        resolver.0.cache.keep(key, Arc::new(entry));
        resolver
    }

    /// RFC 8767, open and closed: an expired answer is given or not, as was declared, also while a failure is remembered.
    #[tokio::test]
    async fn an_expired_answer_is_given_only_where_the_gate_fails_open() {
        let resolver = remembering("www.example.com", Duration::from_secs(100));
        for _ in 0..2 {
            let open = resolver.find(question("www.example.com"), Box::default(), FailureMode::Open).await;
            assert!(matches!(open, Ok((_, Source::Stale))));
        }
        let closed = resolver.find(question("www.example.com"), Box::default(), FailureMode::Closed).await;
        assert_eq!(closed.unwrap_err(), Failure::Remembered);
        let fresh = remembering("www.example.com", Duration::from_secs(10));
        let found = fresh.find(question("www.example.com"), Box::default(), FailureMode::Closed).await;
        assert!(matches!(found, Ok((_, Source::Cache))));
        let closed = remembering("www.example.com", Duration::from_secs(100));
        let found = closed.find(question("www.example.com"), Box::default(), FailureMode::Closed).await;
        assert_eq!(found.unwrap_err(), Failure::Network);
    }

    /// Damaged answers from upstreams, from a generator with a fixed seed: whatever is believed can be sent on.
    #[test]
    fn no_answer_of_an_upstream_makes_the_gate_panic() {
        let name = |text: &str| wire_name(text).unwrap();
        let mut valid = Message::new(1, MessageType::Response, OpCode::Query);
        valid.add_query(Asked::query(name("www.example.com"), RecordType::A));
        for (owner, data) in [
            ("www.example.com", RData::CNAME(CNAME(name("a.example.com")))),
            ("a.example.com", RData::A(A::new(192, 0, 2, 1))),
            ("a.example.com", RData::TXT(TXT::new(vec!["text".to_owned()]))),
        ] {
            valid.add_answer(Record::from_rdata(name(owner), 60, data));
        }
        let authority = SOA::new(name("ns.example.com"), name("host.example.com"), 1, 1, 1, 1, 1);
        valid.add_authority(Record::from_rdata(name("example.com"), 60, RData::SOA(authority)));
        let valid = valid.to_vec().unwrap();
        let query = Query {
            id: 1,
            spelling: Spelling::of(&name("www.example.com")),
            host: "www.example.com".into(),
            kind: RecordType::A,
            recursion_desired: true,
            checking_disabled: false,
            authentic_data: false,
            edns: None,
            context: None,
            bytes: 0,
        };
        let mut scatter = testkit::Scatter::new(0x2545_f491_4f6c_dd1d);
        let mut next = move || scatter.number();
        let mut believed = 0;
        for _ in 0..20_000 {
            let mut bytes = valid.clone();
            for _ in 0..1 + next() % 4 {
                let place = 12 + (next() % (bytes.len() as u64 - 12)) as usize;
                bytes[place] = next() as u8;
            }
            let Ok(message) = Message::from_vec(&bytes) else { continue };
            let Ok(Checked { mut reply, .. }) = check::check(&question("www.example.com"), message) else { continue };
            guard::strip_hints(&mut reply);
            guard::drop_private(&mut reply);
            let Some(entry) = Entry::new(&name("www.example.com"), query.kind, reply, "".into(), Instant::now()) else {
                continue;
            };
            let lifetime = Lifetime::Aged { seconds: 1, cap: None };
            let sent = encode(&query, &Shown::new(&entry.reply, &entry.packed, lifetime), Carrier::Stream);
            assert!(Message::from_vec(&sent).is_ok());
            believed += 1;
        }
        assert!(believed > 1_000, "{believed}");
    }
}
