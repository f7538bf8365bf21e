//! What is answered in place of what was asked: overrides (AC-03), safe search (AC-04), restricted YouTube (AC-05), and
//! one short record for ANY (RFC 8482). An alias is answered with its target's records, so that clients need not ask twice.

use std::net::IpAddr;
use std::time::Instant;

use hickory_proto::rr::rdata::{CNAME, HINFO};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use model::Obligation;

use super::cache::Entry;
use super::{Question, safe_search, wire_name};
use crate::decode::Query;
use crate::reply::Reply;
use crate::spec::DnsGateSpec;
use hickory_proto::op::ResponseCode;

/// One replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rewrite {
    Addresses(Vec<IpAddr>),
    Host(Name),
    SafeSearch(Name),
    YoutubeRestricted(Name),
    MinimisedAny,
}

/// The replacement that the obligations ask for, if they concern this question.
pub(super) fn of(obligations: &[Obligation], query: &Query, spec: &DnsGateSpec) -> Option<Rewrite> {
    let by_rule = obligations.iter().find_map(|obligation| match obligation {
        Obligation::Override { addresses, host: None } => Some(Rewrite::Addresses(addresses.clone())),
        Obligation::Override { host: Some(host), .. } => wire_name(host).map(Rewrite::Host),
        Obligation::SafeSearch if concerns_search(query.kind) => {
            safe_search::safe_search(&query.host).and_then(wire_name).map(Rewrite::SafeSearch)
        }
        Obligation::YoutubeRestricted if concerns_search(query.kind) => {
            safe_search::youtube_restricted(&query.host).and_then(wire_name).map(Rewrite::YoutubeRestricted)
        }
        _ => None,
    });
    by_rule.or_else(|| (spec.minimise_any && query.kind == RecordType::ANY).then_some(Rewrite::MinimisedAny))
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
            Rewrite::Addresses(addresses) => {
                let wanted = addresses.iter().filter(|address| kind_of(**address) == question.kind);
                let answers: Vec<Record> = wanted.map(|address| record(RData::from(*address))).collect();
                let empty = answers.is_empty();
                let negative = || Reply::negative(ResponseCode::NoError, &question.name, ttl);
                (if empty { negative() } else { Reply::answering(answers) }, None)
            }
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
            Rewrite::MinimisedAny => None,
        }
    }
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
