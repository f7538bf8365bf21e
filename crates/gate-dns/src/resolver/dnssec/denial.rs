//! Whether one denial of existence spans a name. The library proves whole denials; for the answer of a wildcard only this
//! one step is needed, and it is looked at here because the library takes some of those answers for wrong. Nothing here
//! verifies a signature. RFC 4034 section 6.1 (order of names), RFC 5155 section 8.3, RFC 6840 section 4.1.

use hickory_proto::dnssec::Nsec3HashAlgorithm;
use hickory_proto::dnssec::rdata::{DNSSECRData, NSEC, NSEC3};
use hickory_proto::rr::{Name, RData, Record};

/// How a denial spans a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cover {
    /// The name and all below it do not exist.
    Whole,
    /// There may be a delegation to an unsigned zone.
    OptOut,
    /// It is said in a way that costs too much to check (RFC 9276).
    TooCostly,
}

/// How this record spans the name; none where it does not.
pub(super) fn covers(record: &Record, name: &Name, iterations_max: u16) -> Option<Cover> {
    match &record.data {
        RData::DNSSEC(DNSSECRData::NSEC(nsec)) => nsec_covers(&record.name, nsec, name).then_some(Cover::Whole),
        RData::DNSSEC(DNSSECRData::NSEC3(nsec3)) => nsec3_covers(&record.name, nsec3, name, iterations_max),
        _ => None,
    }
}

/// The last denial of a zone leads back to its start. A name below the one that follows exists without records of its own.
fn nsec_covers(owner: &Name, nsec: &NSEC, name: &Name) -> bool {
    let next = nsec.next_domain_name();
    let is_last = next <= owner && next.zone_of(name);
    let is_delegation_above = nsec.is_ancestor_delegation() && owner.zone_of(name);
    name > owner && (name < next || is_last) && !name.zone_of(next) && !is_delegation_above
}

fn nsec3_covers(owner: &Name, nsec3: &NSEC3, name: &Name, iterations_max: u16) -> Option<Cover> {
    if nsec3.iterations() > iterations_max {
        return Some(Cover::TooCostly);
    }
    let hash = Nsec3HashAlgorithm::SHA1.hash(nsec3.salt(), name, nsec3.iterations()).ok()?;
    let (hash, next) = (hash.as_ref(), nsec3.next_hashed_owner_name());
    let first = unhashed(owner.iter().next()?)?;
    let is_between =
        if first.as_slice() < next { first.as_slice() < hash && hash < next } else { first.as_slice() < hash || hash < next };
    (owner.base_name().zone_of(name) && is_between).then_some(if nsec3.opt_out() { Cover::OptOut } else { Cover::Whole })
}

/// The label of an NSEC3 as the hash that it stands for (RFC 4648 section 7, without padding).
fn unhashed(label: &[u8]) -> Option<Vec<u8>> {
    let (mut bits, mut count) = (0_u32, 0);
    let mut bytes = Vec::with_capacity(label.len() * 5 / 8);
    for digit in label {
        let value = match digit.to_ascii_lowercase() {
            digit @ b'0'..=b'9' => digit - b'0',
            digit @ b'a'..=b'v' => digit - b'a' + 10,
            _ => return None,
        };
        (bits, count) = (bits << 5 | u32::from(value), count + 5);
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::RecordType;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    #[test]
    fn a_denial_spans_what_lies_between_and_not_what_is_above_or_below() {
        let record = |owner: &str, next: &str, kinds: &[RecordType]| {
            let data = NSEC::new(name(next), kinds.iter().copied());
            Record::from_rdata(name(owner), 60, RData::DNSSEC(DNSSECRData::NSEC(data)))
        };
        let spans = |denial: &Record, of: &str| covers(denial, &name(of), 50).is_some();
        let middle = record("c.a.", "f.a.", &[RecordType::A]);
        assert!(spans(&middle, "d.a.") && spans(&middle, "x.c.a.") && spans(&middle, "E.a."));
        assert!(!spans(&middle, "c.a.") && !spans(&middle, "f.a.") && !spans(&middle, "b.a.") && !spans(&middle, "g.a."));
        let last = record("z.a.", "a.", &[RecordType::A]);
        assert!(spans(&last, "zz.a.") && !spans(&last, "y.a.") && !spans(&last, "zz.b."));
        let parent = record("c.a.", "f.a.", &[RecordType::NS]);
        assert!(spans(&parent, "d.a.") && !spans(&parent, "x.c.a."), "what is below a delegation is another zone's");
        let hollow = record("c.a.", "x.e.a.", &[RecordType::A]);
        assert!(!spans(&hollow, "e.a."), "it has names below it, so it exists");
    }

    /// RFC 5155 appendix B.4: the wildcard *.w.example answers for a.z.w.example, and z.w.example is what is denied.
    #[test]
    fn hashed_denials_span_by_hash() {
        let denial = |owner: &str, next: &str, opt_out, iterations| {
            let salt = vec![0xaa, 0xbb, 0xcc, 0xdd];
            let data = NSEC3::new(Nsec3HashAlgorithm::SHA1, opt_out, iterations, salt, unhashed(next.as_bytes()).unwrap(), []);
            Record::from_rdata(name(&format!("{owner}.example.")), 60, RData::DNSSEC(DNSSECRData::NSEC3(data)))
        };
        let published = ("q04jkcevqvmu85r014c7dkba38o0ji5r", "r53bq7cc2uvmubfu5ocmm6pers9tk9en");
        let of = |denial: &Record, of: &str| covers(denial, &name(of), 50);
        let closed = denial(published.0, published.1, false, 12);
        assert_eq!(of(&closed, "z.w.example."), Some(Cover::Whole));
        assert_eq!(of(&closed, "w.example."), None);
        assert_eq!(of(&closed, "z.w.elsewhere."), None);
        assert_eq!(of(&denial(published.0, published.1, true, 12), "z.w.example."), Some(Cover::OptOut));
        assert_eq!(of(&denial(published.1, published.0, false, 12), "z.w.example."), None, "round the end of the chain");
        assert_eq!(of(&denial(published.0, published.1, false, 51), "z.w.example."), Some(Cover::TooCostly));
        assert_eq!(unhashed(b"not base32hex!"), None);
    }
}
