//! What is answered in place of what was asked: overrides (AC-03), safe search (AC-04), restricted YouTube (AC-05), names
//! that have no place in the DNS, and one short record for ANY (RFC 8482). An alias is answered with its target's records,
//! so that clients need not ask twice.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{CNAME, HINFO};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use model::Obligation;
use model::name::is_within;

use super::cache::Entry;
use super::{Question, safe_search, wire_name};
use crate::decode::Query;
use crate::reply::Reply;
use crate::spec::DnsGateSpec;

/// Names that mean this machine to whoever asks (RFC 6761 section 6.3).
const LOOPBACK_DOMAIN: &str = "localhost";
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Names that the DNS never holds; asking for them only tells strangers of them (RFC 6761 section 6.4, RFC 7686).
const ABSENT_DOMAINS: &[&str] = &["invalid", "onion"];

/// One replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rewrite {
    Addresses(Vec<IpAddr>),
    Host(Name),
    SafeSearch(Name),
    YoutubeRestricted(Name),
    Loopback,
    Absent,
    MinimisedAny,
}

/// The replacement that the obligations ask for, if they concern this question.
pub(super) fn of(obligations: &[Obligation], query: &Query, spec: &DnsGateSpec) -> Option<Rewrite> {
    let by_rule = obligations.iter().find_map(|obligation| match obligation {
        Obligation::Override { addresses, host: None } => Some(Rewrite::Addresses(addresses.clone())),
        Obligation::Override { host: Some(host), .. } => Some(to_host(host)),
        Obligation::SafeSearch if concerns_search(query.kind) => {
            safe_search::safe_search(&query.host, spec.youtube_restriction).and_then(wire_name).map(Rewrite::SafeSearch)
        }
        Obligation::YoutubeRestricted if concerns_search(query.kind) => {
            safe_search::youtube_restricted(&query.host, spec.youtube_restriction)
                .and_then(wire_name)
                .map(Rewrite::YoutubeRestricted)
        }
        _ => None,
    });
    by_rule
        .or_else(|| special(&query.host))
        .or_else(|| (spec.minimise_any && query.kind == RecordType::ANY).then_some(Rewrite::MinimisedAny))
}

/// A host that cannot be a name leaves nothing to answer with: what the rule wanted hidden stays hidden.
fn to_host(host: &str) -> Rewrite {
    wire_name(host).map_or(Rewrite::Addresses(Vec::new()), Rewrite::Host)
}

/// The addresses of a name that is never asked for.
pub(super) fn special_addresses(host: &str) -> Option<Vec<IpAddr>> {
    match special(host)? {
        Rewrite::Loopback => Some(LOOPBACK.to_vec()),
        _ => Some(Vec::new()),
    }
}

fn special(host: &str) -> Option<Rewrite> {
    if is_within(host, LOOPBACK_DOMAIN) {
        return Some(Rewrite::Loopback);
    }
    ABSENT_DOMAINS.iter().any(|domain| is_within(host, domain)).then_some(Rewrite::Absent)
}

/// Types by which a browser finds a search page. Mail and text records of the same domains are left alone.
fn concerns_search(kind: RecordType) -> bool {
    use RecordType::{A, AAAA, ANY, CNAME, HTTPS, SVCB};
    matches!(kind, A | AAAA | HTTPS | SVCB | CNAME | ANY)
}

impl Rewrite {
    /// The first part of the answer, and the name whose records complete it.
    pub(super) fn begin(&self, question: &Question, ttl: u32) -> (Reply, Option<Name>) {
        let record = |data| Record::from_rdata(question.name.clone(), ttl, data);
        match self {
            Rewrite::Addresses(addresses) => (with_addresses(question, addresses, ttl), None),
            Rewrite::Loopback => (with_addresses(question, &LOOPBACK, ttl), None),
            Rewrite::Absent => (Reply::negative(ResponseCode::NXDomain, &question.name, ttl), None),
            Rewrite::Host(target) | Rewrite::SafeSearch(target) | Rewrite::YoutubeRestricted(target) => {
                let alias = Reply::answering(vec![record(RData::CNAME(CNAME(target.clone())))]);
                let complete = matches!(question.kind, RecordType::CNAME | RecordType::ANY);
                (alias, (!complete).then(|| target.clone()))
            }
            Rewrite::MinimisedAny => {
                let data = HINFO::new("RFC8482".to_owned(), String::new());
                (Reply::answering(vec![record(RData::HINFO(data))]), None)
            }
        }
    }

    /// The decision in the Gateway's words (LG-01, `ResolverDecision`), where a rule made it.
    pub(crate) fn decision(&self) -> Option<&'static str> {
        match self {
            Rewrite::Addresses(_) | Rewrite::Host(_) => Some("overrideApplied"),
            Rewrite::SafeSearch(_) | Rewrite::YoutubeRestricted(_) => Some("overrideForSafeSearch"),
            Rewrite::Loopback | Rewrite::Absent | Rewrite::MinimisedAny => None,
        }
    }
}

/// The addresses of the type that was asked for, or no data.
fn with_addresses(question: &Question, addresses: &[IpAddr], ttl: u32) -> Reply {
    let wanted = addresses.iter().filter(|address| kind_of(**address) == question.kind);
    let record = |address: &IpAddr| Record::from_rdata(question.name.clone(), ttl, RData::from(*address));
    let answers: Vec<Record> = wanted.map(record).collect();
    if answers.is_empty() {
        return Reply::negative(ResponseCode::NoError, &question.name, ttl);
    }
    Reply::answering(answers)
}

/// Adds the target's records with the time that they have left.
pub(super) fn append(reply: &mut Reply, entry: &Entry, at: Instant) {
    let age = entry.age_seconds(at);
    let aged = |record: &Record| {
        let mut record = record.clone();
        record.ttl = record.ttl.saturating_sub(age);
        record
    };
    reply.code = entry.reply.code;
    reply.answers.extend(entry.reply.answers.iter().map(aged));
    reply.authorities.extend(entry.reply.authorities.iter().map(aged));
}

fn kind_of(address: IpAddr) -> RecordType {
    match address {
        IpAddr::V4(_) => RecordType::A,
        IpAddr::V6(_) => RecordType::AAAA,
    }
}
