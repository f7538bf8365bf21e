//! An upstream's answer, taken apart into pieces that can each be proved by itself: one for every alias on the way, and one
//! for every set of records, or for the denial, at its end. A piece keeps the signatures and denials of its own zone alone,
//! so that those of another zone can neither spoil nor stand in for its proof. Nothing here verifies anything.
//! RFC 4035 section 5, RFC 6672 section 5.3.2 (DNAME), RFC 5155 section 8.

use hickory_proto::dnssec::rdata::{DNSSECRData, RRSIG};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Signatures over one set that are looked at; zones in the middle of a roll-over have four. More are an attack on the
/// verifier's time (KeyTrap, CVE-2023-50387).
const SIGNATURES_MAX: usize = 8;

/// Denials of one answer that are looked at: NSEC3 needs three, NSEC two.
const DENIALS_MAX: usize = 8;

/// Keys of one zone that are looked at; the largest sets in use have about ten.
const KEYS_MAX: usize = 32;

/// Sets at one name that are proved for a question for all of them.
const SETS_MAX: usize = 16;

/// One piece: a response that holds nothing but what its proof needs.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// Whose records these are in the whole answer.
    pub(super) owner: Name,
    pub(super) message: Message,
    /// Set where the records are a wildcard's.
    pub(super) expansion: Option<Expansion>,
}

/// A wildcard answers only for names that do not exist themselves (RFC 4035 section 5.3.4, RFC 5155 section 8.8). Its own set
/// is proved under its own name, and beside it that nothing stands between.
#[derive(Clone, Debug)]
pub(super) struct Expansion {
    /// One label longer than what the wildcard stands under; if it does not exist, neither does anything below it.
    pub(super) next_closer: Name,
    /// Each denial as a piece of its own.
    pub(super) denials: Vec<Segment>,
}

impl Segment {
    fn new(name: &Name, kind: RecordType, code: ResponseCode) -> Segment {
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        message.metadata.response_code = code;
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name.clone(), kind));
        Segment { owner: name.clone(), message, expansion: None }
    }

    /// The records whose proof decides: the answer's, or the denial's.
    pub(super) fn deciding(&self) -> Option<&Record> {
        let is_data = |record: &&Record| record.record_type() != RecordType::RRSIG;
        self.message.answers.iter().find(is_data).or_else(|| self.message.authorities.iter().find(is_data))
    }

    pub(super) fn is_negative(&self) -> bool {
        self.message.answers.is_empty()
    }

    pub(super) fn has_denial(&self) -> bool {
        self.message.authorities.iter().any(is_denial)
    }

    /// The signatures over the set that this record belongs to.
    pub(super) fn signatures<'a>(&'a self, of: &'a Record) -> impl Iterator<Item = &'a RRSIG> {
        let all = self.message.answers.iter().chain(&self.message.authorities);
        all.filter(move |record| record.name == of.name).filter_map(signature).filter(|signature| covers(signature, of))
    }
}

/// The pieces of an answer whose names, from the one that was asked for to the last, are `chain`. A chain that dangles has
/// no piece for its end.
pub(super) fn split(message: &Message, kind: RecordType, chain: &[Name], dangles: bool) -> Vec<Segment> {
    let mut segments: Vec<Segment> = chain.windows(2).map(|link| link_segment(message, &link[0], &link[1])).collect();
    if let Some(end) = chain.last().filter(|_| !dangles) {
        segments.extend(end_segments(message, kind, end));
    }
    segments
}

/// An alias is proved by its own signature, or follows from a DNAME above it that is.
fn link_segment(message: &Message, name: &Name, target: &Name) -> Segment {
    let signed = signatures_of(message, name, RecordType::CNAME).next().is_some();
    if !signed && let Some(owner) = dname_owner(message, name, target) {
        return positive(message, &owner, RecordType::DNAME);
    }
    positive(message, name, RecordType::CNAME)
}

/// The owner of the DNAME from which this alias follows.
fn dname_owner(message: &Message, name: &Name, target: &Name) -> Option<Name> {
    let makes_it = |record: &&Record| {
        let RData::Unknown { code: RecordType::DNAME, rdata } = &record.data else { return false };
        let Some(substitute) = wire_name(&rdata.anything) else { return false };
        let below = usize::from(name.num_labels().saturating_sub(record.name.num_labels()));
        let prefix = Name::from_labels(name.iter().take(below)).and_then(|prefix| prefix.append_domain(&substitute));
        record.name != *name && record.name.zone_of(name) && prefix.is_ok_and(|made| made == *target)
    };
    message.answers.iter().find(makes_it).map(|record| record.name.clone())
}

/// A name in wire form without compression, alone in these bytes.
fn wire_name(bytes: &[u8]) -> Option<Name> {
    let mut labels = Vec::new();
    let mut rest = bytes;
    loop {
        let (length, after) = rest.split_first()?;
        match usize::from(*length) {
            0 if after.is_empty() => return Name::from_labels(labels).ok(),
            0 => return None,
            length => {
                labels.push(after.get(..length)?);
                rest = after.get(length..)?;
            }
        }
    }
}

fn end_segments(message: &Message, kind: RecordType, end: &Name) -> Vec<Segment> {
    let mut kinds: Vec<RecordType> = Vec::new();
    for record in message.answers.iter().filter(|record| record.name == *end) {
        let found = record.record_type();
        if (found == kind || kind == RecordType::ANY) && found != RecordType::RRSIG && !kinds.contains(&found) {
            kinds.push(found);
        }
    }
    if kinds.is_empty() {
        return vec![negative(message, kind, end)];
    }
    kinds.iter().take(SETS_MAX).map(|kind| positive(message, end, *kind)).collect()
}

/// A set with its signatures. One from a wildcard is put back under the wildcard's name.
fn positive(message: &Message, name: &Name, kind: RecordType) -> Segment {
    let set = message.answers.iter().filter(|record| record.name == *name && record.record_type() == kind);
    let mut set: Vec<Record> = set.cloned().collect();
    let mut signatures: Vec<Record> = signatures_of(message, name, kind).take(SIGNATURES_MAX).cloned().collect();
    let labels = signatures.iter().filter_map(signature).map(|signature| signature.input().num_labels).min();
    let under = labels.filter(|labels| *labels < name.num_labels()).map(usize::from);
    let wildcard = under.and_then(|labels| Some((labels, name.trim_to(labels).prepend_label("*").ok()?)));
    let mut segment = Segment::new(name, kind, ResponseCode::NoError);
    if let Some((labels, wildcard)) = wildcard {
        set.iter_mut().chain(&mut signatures).for_each(|record| record.name = wildcard.clone());
        segment = Segment::new(&wildcard, kind, ResponseCode::NoError);
        segment.owner = name.clone();
        let zone = signatures.iter().filter_map(signature).map(|signature| signature.input().signer_name.clone()).next();
        let denials = zone.map(|zone| denial_segments(message, &zone)).unwrap_or_default();
        segment.expansion = Some(Expansion { next_closer: name.trim_to(labels + 1), denials });
    }
    set.iter_mut().for_each(canonicalise);
    segment.message.insert_answers(set);
    segment.message.add_answers(signatures);
    segment
}

/// Each denial of the zone as the answer to a question for it.
fn denial_segments(message: &Message, zone: &Name) -> Vec<Segment> {
    let records = denials(message, zone);
    let segment = |denial: &Record| {
        let mut segment = Segment::new(&denial.name, denial.record_type(), ResponseCode::NoError);
        let of = |record: &&Record| record.name == denial.name && signature(record).is_some_and(|found| covers(found, denial));
        segment.message.add_answer(denial.clone()).add_answers(records.iter().filter(of).cloned());
        segment
    };
    records.iter().filter(|record| is_denial(record)).map(segment).collect()
}

fn negative(message: &Message, kind: RecordType, end: &Name) -> Segment {
    let mut segment = Segment::new(end, kind, message.metadata.response_code);
    let authority = |record: &&Record| record.record_type() == RecordType::SOA && record.name.zone_of(end);
    let Some(soa) = message.authorities.iter().find(authority) else {
        let zone = message.authorities.iter().filter(|record| is_denial(record)).find_map(|denial| {
            let mut signatures = message.authorities.iter().filter(|record| record.name == denial.name).filter_map(signature);
            signatures.find(|signature| covers(signature, denial)).map(|signature| signature.input().signer_name.clone())
        });
        if let Some(zone) = zone.filter(|zone| zone.zone_of(end)) {
            segment.message.insert_authorities(denials(message, &zone));
        }
        return segment;
    };
    let mut records = vec![soa.clone()];
    let over_soa = |record: &&Record| record.name == soa.name && signature(record).is_some_and(|found| covers(found, soa));
    records.extend(message.authorities.iter().filter(over_soa).take(SIGNATURES_MAX).cloned());
    records.extend(denials(message, &soa.name));
    segment.message.insert_authorities(records);
    segment
}

/// The denials that this zone signed, with their signatures. One without a signature proves nothing and is left out: it
/// could only make a signed zone's answer look like an unsigned one's.
fn denials(message: &Message, zone: &Name) -> Vec<Record> {
    let mut records = Vec::new();
    for denial in message.authorities.iter().filter(|record| is_denial(record)).take(DENIALS_MAX) {
        let by_zone = |record: &&Record| {
            let signed = |signature: &RRSIG| covers(signature, denial) && signature.input().signer_name == *zone;
            record.name == denial.name && signature(record).is_some_and(signed)
        };
        let signatures: Vec<Record> = message.authorities.iter().filter(by_zone).take(SIGNATURES_MAX).cloned().collect();
        if !signatures.is_empty() {
            records.push(denial.clone());
            records.extend(signatures);
        }
    }
    records
}

/// Cuts what an answer on the way to the root may cost to verify.
pub(super) fn bound(message: &mut Message) {
    let mut keys = 0;
    let mut signatures: Vec<(Name, RecordType, usize)> = Vec::new();
    let mut admits = |record: &Record| {
        if record.record_type() == RecordType::DNSKEY {
            keys += 1;
            return keys <= KEYS_MAX;
        }
        let Some(covered) = signature(record).map(|signature| signature.input().type_covered) else { return true };
        match signatures.iter_mut().find(|(name, kind, _)| *name == record.name && *kind == covered) {
            Some((.., count)) => {
                *count += 1;
                *count <= SIGNATURES_MAX
            }
            None => {
                signatures.push((record.name.clone(), covered, 1));
                true
            }
        }
    };
    message.answers.retain(&mut admits);
    let mut denials = 0;
    message.authorities.retain(|record| {
        denials += usize::from(is_denial(record));
        admits(record) && (!is_denial(record) || denials <= DENIALS_MAX)
    });
}

/// The name in a DNAME is compared in lower case (RFC 6840 section 5.1). Length bytes are below any letter.
fn canonicalise(record: &mut Record) {
    if let RData::Unknown { code: RecordType::DNAME, rdata } = &mut record.data {
        rdata.anything.make_ascii_lowercase();
    }
}

fn signatures_of<'a>(message: &'a Message, name: &'a Name, kind: RecordType) -> impl Iterator<Item = &'a Record> {
    let over = move |record: &&Record| {
        record.name == *name && signature(record).is_some_and(|signature| signature.input().type_covered == kind)
    };
    message.answers.iter().filter(over)
}

pub(super) fn signature(record: &Record) -> Option<&RRSIG> {
    match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(signature)) => Some(signature),
        _ => None,
    }
}

fn covers(signature: &RRSIG, record: &Record) -> bool {
    signature.input().type_covered == record.record_type()
}

fn is_denial(record: &Record) -> bool {
    matches!(record.record_type(), RecordType::NSEC | RecordType::NSEC3)
}

#[cfg(test)]
mod tests {
    use hickory_proto::dnssec::rdata::sig::SigInput;
    use hickory_proto::dnssec::rdata::{DNSKEY, NSEC};
    use hickory_proto::dnssec::{Algorithm, PublicKeyBuf};
    use hickory_proto::rr::SerialNumber;
    use hickory_proto::rr::rdata::{A, SOA};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn signature_by(owner: &str, covered: RecordType, zone: &str) -> Record {
        let input = SigInput {
            type_covered: covered,
            algorithm: Algorithm::ED25519,
            num_labels: name(owner).num_labels(),
            original_ttl: 60,
            sig_expiration: SerialNumber::new(2),
            sig_inception: SerialNumber::new(1),
            key_tag: 1,
            signer_name: name(zone),
        };
        Record::from_rdata(name(owner), 60, RData::DNSSEC(DNSSECRData::RRSIG(RRSIG::from_sig(input, vec![0; 64]))))
    }

    fn denial(owner: &str) -> Record {
        Record::from_rdata(name(owner), 60, RData::DNSSEC(DNSSECRData::NSEC(NSEC::new(name("z."), [RecordType::A]))))
    }

    fn authority(owner: &str) -> Record {
        Record::from_rdata(name(owner), 60, RData::SOA(SOA::new(name("ns."), name("host."), 1, 1, 1, 1, 1)))
    }

    fn empty() -> Message {
        Message::new(0, MessageType::Response, OpCode::Query)
    }

    /// KeyTrap (CVE-2023-50387): what one answer may cost to verify is cut before anything is verified.
    #[test]
    fn keys_signatures_and_denials_beyond_the_bounds_are_not_looked_at() {
        let mut message = empty();
        for number in 0..50_u8 {
            let key = DNSKEY::new(true, true, false, PublicKeyBuf::new(vec![number; 32], Algorithm::ED25519));
            message.add_answer(Record::from_rdata(name("a."), 60, RData::DNSSEC(DNSSECRData::DNSKEY(key))));
            message.add_answer(signature_by("a.", RecordType::DNSKEY, "a."));
            message.add_authority(denial(&format!("{number}.a.")));
        }
        bound(&mut message);
        let count = |records: &[Record], kind| records.iter().filter(|record| record.record_type() == kind).count();
        assert_eq!(count(&message.answers, RecordType::DNSKEY), KEYS_MAX);
        assert_eq!(count(&message.answers, RecordType::RRSIG), SIGNATURES_MAX);
        assert_eq!(count(&message.authorities, RecordType::NSEC), DENIALS_MAX);

        let mut message = empty();
        message.add_answer(Record::from_rdata(name("www.a."), 60, RData::A(A::new(192, 0, 2, 1))));
        message.add_answers((0..50).map(|_| signature_by("www.a.", RecordType::A, "a.")));
        let segments = split(&message, RecordType::A, &[name("www.a.")], false);
        assert_eq!(segments.len(), 1);
        assert_eq!(count(&segments[0].message.answers, RecordType::RRSIG), SIGNATURES_MAX);
    }

    /// A denial of nobody, or of another zone, could make a signed zone's answer look like an unsigned one's.
    #[test]
    fn a_piece_holds_the_denials_of_its_own_zone_alone() {
        let mut message = empty();
        message.metadata.response_code = ResponseCode::NXDomain;
        message.add_authority(authority("a.")).add_authority(authority("elsewhere."));
        message.add_authority(denial("b.a.")).add_authority(signature_by("b.a.", RecordType::NSEC, "a."));
        message.add_authority(denial("c.a.")).add_authority(denial("d.a."));
        message.add_authority(signature_by("d.a.", RecordType::NSEC, "elsewhere."));
        let [segment] = &split(&message, RecordType::A, &[name("www.a.")], false)[..] else { panic!("not one piece") };
        let kept: Vec<String> =
            segment.message.authorities.iter().map(|record| format!("{} {}", record.name, record.record_type())).collect();
        assert_eq!(kept, ["a. SOA", "b.a. NSEC", "b.a. RRSIG"]);
        assert!(segment.is_negative() && segment.has_denial());
    }

    #[test]
    fn a_name_in_wire_form_is_read_whole_or_not_at_all() {
        assert_eq!(wire_name(b"\x01a\x02bc\x00"), Some(name("a.bc.")));
        for wrong in [&b""[..], b"\x01a", b"\x05a\x00", b"\x01a\x00x", b"\xc0\x0c"] {
            assert_eq!(wire_name(wrong), None, "{wrong:?}");
        }
    }
}
