//! How each verdict looks on this wire: a refusal in the operator's block mode with its extended error (AC-02, AT-04,
//! RFC 8914), a failure as SERVFAIL, a ceiling on times to live (AC-06).

use std::net::IpAddr;
use std::time::Instant;

use checkpoint::Refusal;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, Record, RecordType};

use crate::decode::Query;
use crate::encode::Lifetime;
use crate::reply::{Reply, extended};
use crate::resolver::{Failure, Resolved, Source};
use crate::spec::{BlockError, BlockMode, DnsGateSpec};

/// An expired answer is given out for this long (RFC 8767 section 5 recommends 30 seconds).
pub(crate) const STALE_TTL_SECONDS: u32 = 30;

/// The answer to a name that was refused.
pub(crate) fn refuse(query: &Query, refusal: &Refusal, spec: &DnsGateSpec) -> Reply {
    let wants_page = refusal.shows_page && (spec.block_page_ipv4.is_some() || spec.block_page_ipv6.is_some());
    let mode = if wants_page { BlockMode::Page } else { spec.block_mode };
    let reply = match mode {
        BlockMode::Nxdomain => negative(ResponseCode::NXDomain, query, spec),
        BlockMode::Refused => Reply::code(ResponseCode::Refused),
        BlockMode::ZeroIp => with_address(zero(query.kind), query, spec),
        BlockMode::Page => with_address(page(query.kind, spec), query, spec),
    };
    reply.with_error(block_error(spec.block_error), &refusal.reason)
}

fn zero(kind: RecordType) -> Option<IpAddr> {
    match kind {
        RecordType::A => Some(IpAddr::from([0; 4])),
        RecordType::AAAA => Some(IpAddr::from([0; 16])),
        _ => None,
    }
}

fn page(kind: RecordType, spec: &DnsGateSpec) -> Option<IpAddr> {
    match kind {
        RecordType::A => spec.block_page_ipv4.map(IpAddr::V4),
        RecordType::AAAA => spec.block_page_ipv6.map(IpAddr::V6),
        _ => None,
    }
}

/// Every type without an address gets no data, HTTPS and SVCB among them: a hint there would pass the block.
fn with_address(address: Option<IpAddr>, query: &Query, spec: &DnsGateSpec) -> Reply {
    match address {
        Some(address) => {
            let name = query.spelling.name().to_lowercase();
            Reply::answering(vec![Record::from_rdata(name, spec.block_ttl_seconds, RData::from(address))])
        }
        None => negative(ResponseCode::NoError, query, spec),
    }
}

fn negative(code: ResponseCode, query: &Query, spec: &DnsGateSpec) -> Reply {
    Reply::negative(code, &query.spelling.name().to_lowercase(), spec.block_ttl_seconds)
}

fn block_error(setting: BlockError) -> u16 {
    match setting {
        BlockError::Blocked => extended::BLOCKED,
        BlockError::Censored => extended::CENSORED,
        BlockError::Filtered => extended::FILTERED,
    }
}

/// The answer to a client that has no leave to ask (RFC 8914 section 4.19).
pub(crate) fn prohibited() -> Reply {
    Reply::code(ResponseCode::Refused).with_error(extended::PROHIBITED, "")
}

/// The answer to a name that could not be resolved.
pub(crate) fn fail(failure: Failure) -> Reply {
    Reply::code(ResponseCode::ServFail).with_error(failure.extended(), &failure.to_string())
}

/// An answer past its time says that it is (RFC 8914 sections 4.4 and 4.20).
pub(crate) fn stale(reply: &Reply) -> Reply {
    let is_no_name = reply.code == ResponseCode::NXDomain;
    reply.clone().with_error(if is_no_name { extended::STALE_NXDOMAIN } else { extended::STALE_ANSWER }, "")
}

/// What clients are told about how long an answer lasts.
pub(crate) fn lifetime(resolved: &Resolved, cap: Option<u32>, at: Instant) -> Lifetime {
    match resolved.source {
        Source::Stale => Lifetime::Fixed(cap.map_or(STALE_TTL_SECONDS, |cap| cap.min(STALE_TTL_SECONDS))),
        Source::Upstream | Source::Cache | Source::Local => Lifetime::Aged { seconds: resolved.entry.age_seconds(at), cap },
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Name;
    use model::Action;

    use super::*;
    use crate::spelling::Spelling;

    fn query(kind: RecordType) -> Query {
        Query {
            id: 1,
            spelling: Spelling::of(&Name::from_ascii("Bad.example.").unwrap()),
            host: "bad.example".into(),
            kind,
            recursion_desired: true,
            checking_disabled: false,
            authentic_data: false,
            edns: None,
            context: None,
            bytes: 0,
        }
    }

    fn refusal(shows_page: bool) -> Refusal {
        Refusal {
            action: Action::Block,
            rule: None,
            reason: "known bad".into(),
            location: None,
            context: checkpoint::Context::None,
            shows_page,
        }
    }

    fn shown(reply: &Reply) -> String {
        let answers: Vec<_> = reply.answers.iter().map(|record| record.data.to_string()).collect();
        let authority = if reply.authorities.is_empty() { "" } else { "+soa" };
        format!("{}{authority} {}", crate::facts::code_name(reply.code), answers.join(","))
    }

    /// AC-02 and AT-04: each mode by each type.
    #[test]
    fn a_refusal_looks_as_its_mode_says() {
        let spec =
            |block_mode| DnsGateSpec { block_mode, block_page_ipv4: Some([192, 0, 2, 80].into()), ..DnsGateSpec::default() };
        let kinds = [RecordType::A, RecordType::AAAA, RecordType::HTTPS, RecordType::TXT, RecordType::MX];
        let nothing = "NOERROR+soa ";
        for (mode, expected) in [
            (BlockMode::ZeroIp, ["NOERROR 0.0.0.0", "NOERROR ::", nothing, nothing, nothing]),
            (BlockMode::Page, ["NOERROR 192.0.2.80", nothing, nothing, nothing, nothing]),
            (BlockMode::Nxdomain, ["NXDOMAIN+soa "; 5]),
            (BlockMode::Refused, ["REFUSED "; 5]),
        ] {
            for (kind, expected) in kinds.into_iter().zip(expected) {
                let reply = refuse(&query(kind), &refusal(false), &spec(mode));
                assert_eq!(shown(&reply), expected, "{mode:?} {kind}");
                assert_eq!((reply.errors[0].code, reply.errors[0].text.as_str()), (15, "known bad"));
            }
        }
    }

    /// GW-022: a rule can ask for the page in any mode.
    #[test]
    fn a_rule_with_a_page_shows_it_where_there_is_one() {
        let with_page = DnsGateSpec { block_page_ipv4: Some([192, 0, 2, 80].into()), ..DnsGateSpec::default() };
        assert_eq!(shown(&refuse(&query(RecordType::A), &refusal(true), &with_page)), "NOERROR 192.0.2.80");
        assert_eq!(shown(&refuse(&query(RecordType::A), &refusal(true), &DnsGateSpec::default())), "NOERROR 0.0.0.0");
    }
}
