//! An answer without its header: what an upstream said after it was checked, or what the gate says by itself. It never
//! holds the question's spelling, so that one reply serves every client.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Extended errors of RFC 8914 section 4 that this gate sends.
pub(crate) mod extended {
    pub(crate) const OTHER: u16 = 0;
    pub(crate) const STALE_ANSWER: u16 = 3;
    pub(crate) const DNSSEC_BOGUS: u16 = 6;
    pub(crate) const SIGNATURE_EXPIRED: u16 = 7;
    pub(crate) const SIGNATURE_NOT_YET_VALID: u16 = 8;
    pub(crate) const DNSKEY_MISSING: u16 = 9;
    pub(crate) const RRSIGS_MISSING: u16 = 10;
    pub(crate) const NO_ZONE_KEY: u16 = 11;
    pub(crate) const NSEC_MISSING: u16 = 12;
    pub(crate) const BLOCKED: u16 = 15;
    pub(crate) const CENSORED: u16 = 16;
    pub(crate) const FILTERED: u16 = 17;
    pub(crate) const PROHIBITED: u16 = 18;
    pub(crate) const STALE_NXDOMAIN: u16 = 19;
    pub(crate) const NO_REACHABLE_AUTHORITY: u16 = 22;
    pub(crate) const NETWORK_ERROR: u16 = 23;
    /// Of the registry, after RFC 8914 (RFC 9276 section 3.2).
    pub(crate) const NSEC3_ITERATIONS: u16 = 27;
}

/// One extended error: a code, and words for the person at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExtendedError {
    pub(crate) code: u16,
    pub(crate) text: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reply {
    pub(crate) code: ResponseCode,
    /// An upstream that is reached over a protected path says that the signatures verify.
    pub(crate) authentic: bool,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) errors: Vec<ExtendedError>,
}

impl Reply {
    pub(crate) fn code(code: ResponseCode) -> Reply {
        Reply { code, ..Reply::default() }
    }

    pub(crate) fn answering(answers: Vec<Record>) -> Reply {
        Reply { answers, ..Reply::default() }
    }

    /// No data for this type, or no such name, with the start of authority that lets clients remember it (RFC 2308).
    pub(crate) fn negative(code: ResponseCode, name: &Name, ttl_seconds: u32) -> Reply {
        let authority = SOA::new(Name::root(), Name::root(), 1, 3600, 600, 86_400, ttl_seconds);
        let record = Record::from_rdata(name.clone(), ttl_seconds, RData::SOA(authority));
        Reply { code, authorities: vec![record], ..Reply::default() }
    }

    pub(crate) fn with_error(mut self, code: u16, text: &str) -> Reply {
        self.errors.push(ExtendedError { code, text: text.to_owned() });
        self
    }

    /// Whether any answer has the type that was asked for.
    pub(crate) fn has(&self, kind: RecordType) -> bool {
        self.answers.iter().any(|record| record.record_type() == kind)
    }

    /// The longest time that the reply may be kept: the smallest of its answers, or for a negative one the smaller of the
    /// authority's own time and its minimum (RFC 2308 section 5). A negative reply without authority is not kept.
    pub(crate) fn ttl(&self) -> u32 {
        let answers = self.answers.iter().map(|record| sane_ttl(record.ttl)).min();
        let authority = self.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(sane_ttl(record.ttl).min(soa.minimum)),
            _ => None,
        });
        match (answers, authority) {
            (Some(answers), None) => answers,
            (Some(answers), Some(authority)) => answers.min(authority),
            (None, Some(authority)) => authority,
            (None, None) => 0,
        }
    }
}

/// A time with its highest bit set counts as zero (RFC 2181 section 8).
fn sane_ttl(ttl: u32) -> u32 {
    if ttl > i32::MAX.unsigned_abs() { 0 } else { ttl }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::A;

    use super::*;

    #[test]
    fn a_negative_reply_lives_as_long_as_its_authority_says() {
        let reply = Reply::negative(ResponseCode::NXDomain, &Name::root(), 60);
        assert_eq!(reply.ttl(), 60);
        assert_eq!(Reply::code(ResponseCode::NXDomain).ttl(), 0);
    }

    #[test]
    fn a_time_with_its_highest_bit_set_is_zero() {
        let record = Record::from_rdata(Name::root(), 0x8000_0001, RData::A(A::new(192, 0, 2, 1)));
        assert_eq!(Reply::answering(vec![record]).ttl(), 0);
    }
}
