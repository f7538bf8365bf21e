//! What an upstream said is believed only as far as it answers what was asked: the number, the question and its spelling
//! must match (RFC 5452, draft-vixie-dnsext-dns0x20), and of the records only those on the way from the name that was
//! asked for to its end are kept. All else could be put there by somebody who wants it cached.

use hickory_proto::dnssec::rdata::DNSSECRData;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::Question;
use crate::reply::{ExtendedError, Reply};

/// Links of one CNAME chain; real ones have six at most, and resolvers in use stop between 8 and 16.
const LINKS_MAX: usize = 16;

/// Extended errors taken over from an upstream.
const ERRORS_MAX: usize = 4;

/// How far a message answers what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    Yes,
    /// All but the spelling of the name: a server that changes it, or a forger who had to guess it.
    Misspelt,
    No,
}

/// A reply, and where its chain of names ends without the records that were asked for.
#[derive(Debug, PartialEq)]
pub(crate) struct Checked {
    pub(crate) reply: Reply,
    pub(crate) dangling: Option<Name>,
}

/// The chain of names runs in a circle or is too long.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EndlessChain;

pub(crate) fn matches(sent: &Message, received: &Message) -> Match {
    let (Some(asked), [answered]) = (sent.queries.first(), received.queries.as_slice()) else { return Match::No };
    let same = received.metadata.id == sent.metadata.id
        && received.metadata.message_type == MessageType::Response
        && received.metadata.op_code == OpCode::Query
        && answered.query_type() == asked.query_type()
        && answered.query_class() == asked.query_class()
        && answered.name() == asked.name();
    match (same, answered.name().eq_case(asked.name())) {
        (false, _) => Match::No,
        (true, false) => Match::Misspelt,
        (true, true) => Match::Yes,
    }
}

/// Keeps the chain from the name that was asked for, and of the authority what a negative answer needs.
pub(crate) fn check(question: &Question, message: Message) -> Result<Checked, EndlessChain> {
    let chain = chain_of(question, &message.answers)?;
    let dangles = ends_nowhere(question, &message, &chain);
    let code = message.metadata.response_code;
    let errors = upstream_errors(&message);
    let mut answers: Vec<Record> =
        message.answers.into_iter().filter_map(|record| keep_answer(question, &chain, record)).collect();
    answers.sort_by_key(|record| chain.iter().position(|name| *name == record.name));
    let end = chain.last().unwrap_or(&question.name);
    let authorities: Vec<Record> =
        message.authorities.into_iter().filter(|record| keep_authority(question, end, record)).collect();
    let reply = Reply { code, authentic: message.metadata.authentic_data, answers, authorities, errors };
    let dangling = dangles.then(|| end.clone());
    Ok(Checked { reply, dangling })
}

/// The name that was asked for and the target of each CNAME from there on, all in lower case.
pub(super) fn chain_of(question: &Question, answers: &[Record]) -> Result<Vec<Name>, EndlessChain> {
    let mut chain = vec![question.name.clone()];
    if matches!(question.kind, RecordType::CNAME | RecordType::ANY) {
        return Ok(chain);
    }
    while let Some(target) = chain.last().and_then(|name| alias(answers, name)) {
        let target = target.to_lowercase();
        if chain.len() > LINKS_MAX || chain.contains(&target) {
            return Err(EndlessChain);
        }
        chain.push(target);
    }
    Ok(chain)
}

fn alias<'a>(answers: &'a [Record], name: &Name) -> Option<&'a Name> {
    answers.iter().find_map(|record| match &record.data {
        RData::CNAME(target) if record.name == *name => Some(&target.0),
        _ => None,
    })
}

fn keep_answer(question: &Question, chain: &[Name], mut record: Record) -> Option<Record> {
    if record.dns_class != DNSClass::IN {
        return None;
    }
    let kind = record.record_type();
    if question.dnssec_ok && (kind == RecordType::DNAME || signs_dname(&record)) {
        return chain.iter().any(|name| record.name.zone_of(name)).then_some(record);
    }
    let wanted = kind == question.kind
        || kind == RecordType::CNAME
        || question.kind == RecordType::ANY
        || (kind == RecordType::RRSIG && question.dnssec_ok);
    let name = chain.iter().find(|name| **name == record.name).filter(|_| wanted)?;
    record.name = name.clone();
    Some(record)
}

fn signs_dname(record: &Record) -> bool {
    matches!(&record.data, RData::DNSSEC(DNSSECRData::RRSIG(signature)) if signature.input().type_covered == RecordType::DNAME)
}

fn keep_authority(question: &Question, end: &Name, record: &Record) -> bool {
    let kind = record.record_type();
    let proves = matches!(kind, RecordType::NSEC | RecordType::NSEC3 | RecordType::RRSIG) && question.dnssec_ok;
    record.dns_class == DNSClass::IN
        && ((kind == RecordType::SOA && record.name.zone_of(end)) || (proves && record.name.num_labels() > 0))
}

/// Whether an alias leads to a name of which the answer says nothing, neither records nor that there are none.
pub(super) fn ends_nowhere(question: &Question, message: &Message, chain: &[Name]) -> bool {
    let Some(end) = chain.last().filter(|_| chain.len() > 1) else { return false };
    let says_none = |record: &Record| record.record_type() == RecordType::SOA && record.name.zone_of(end);
    let answers = |record: &Record| record.record_type() == question.kind && record.name == *end;
    message.metadata.response_code == ResponseCode::NoError
        && !message.authorities.iter().any(says_none)
        && !message.answers.iter().any(answers)
}

/// The codes that the upstream gave; its words are a stranger's and are left out.
pub(crate) fn upstream_errors(message: &Message) -> Vec<ExtendedError> {
    let options = message.edns.as_ref().map(|edns| edns.options().options.as_slice()).unwrap_or_default();
    let code = |(code, option): &(EdnsCode, EdnsOption)| match option {
        EdnsOption::Unknown(_, bytes) if u16::from(*code) == 15 => bytes.first_chunk::<2>().map(|code| u16::from_be_bytes(*code)),
        _ => None,
    };
    options.iter().filter_map(code).take(ERRORS_MAX).map(|code| ExtendedError { code, text: String::new() }).collect()
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query as Asked;
    use hickory_proto::rr::rdata::{A, CNAME, SOA};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn question(kind: RecordType) -> Question {
        Question { name: name("www.example."), kind, dnssec_ok: false, checking_disabled: false, subnet: None }
    }

    fn address(owner: &str, last: u8) -> Record {
        Record::from_rdata(name(owner), 60, RData::A(A::new(192, 0, 2, last)))
    }

    fn alias_record(owner: &str, target: &str) -> Record {
        Record::from_rdata(name(owner), 60, RData::CNAME(CNAME(name(target))))
    }

    fn message(answers: Vec<Record>) -> Message {
        let mut message = Message::new(9, MessageType::Response, OpCode::Query);
        message.add_query(Asked::query(name("wWw.Example."), RecordType::A));
        message.insert_answers(answers);
        message
    }

    #[test]
    fn only_the_number_the_question_and_its_spelling_make_a_match() {
        let mut sent = message(Vec::new());
        sent.metadata.message_type = MessageType::Query;
        let received = message(Vec::new());
        assert_eq!(matches(&sent, &received), Match::Yes);
        let change = |change: fn(&mut Message)| {
            let mut received = received.clone();
            change(&mut received);
            matches(&sent, &received)
        };
        assert_eq!(change(|m| m.metadata.id = 10), Match::No);
        assert_eq!(change(|m| m.metadata.message_type = MessageType::Query), Match::No);
        assert_eq!(change(|m| m.queries.clear()), Match::No);
        assert_eq!(change(|m| m.queries.push(m.queries[0].clone())), Match::No);
        assert_eq!(change(|m| m.queries[0] = Asked::query(name("wWw.Example."), RecordType::AAAA)), Match::No);
        assert_eq!(change(|m| m.queries[0] = Asked::query(name("www.example."), RecordType::A)), Match::Misspelt);
    }

    #[test]
    fn records_beside_the_chain_are_dropped_and_the_chain_is_put_in_order() {
        let answers = vec![
            address("cdn.example.", 1),
            address("bank.example.", 66),
            alias_record("WWW.example.", "cdn.example."),
            Record::from_rdata(name("www.example."), 60, RData::TXT(hickory_proto::rr::rdata::TXT::new(vec!["x".into()]))),
        ];
        let mut message = message(answers);
        message.add_authority(address("ns.example.", 66)).add_additional(address("ns.example.", 66));
        let checked = check(&question(RecordType::A), message).unwrap();
        assert_eq!(checked.reply.answers, [alias_record("www.example.", "cdn.example."), address("cdn.example.", 1)]);
        assert!(checked.reply.authorities.is_empty() && checked.dangling.is_none());
    }

    /// RFC 4035 section 3.2.1: what proves an answer goes to those who ask for it and to nobody else.
    #[test]
    fn proofs_are_kept_for_those_who_ask_for_them() {
        let unknown = |owner: &str, code| {
            let rdata = hickory_proto::rr::rdata::NULL::with(vec![0, 1, 2, 3]);
            Record::from_rdata(name(owner), 60, RData::Unknown { code, rdata })
        };
        let mut message = message(vec![
            address("www.example.", 1),
            unknown("www.example.", RecordType::RRSIG),
            unknown("example.", RecordType::DNAME),
            unknown("elsewhere.", RecordType::DNAME),
        ]);
        message.add_authority(unknown("a.example.", RecordType::NSEC));
        let kept = |dnssec_ok| {
            let question = Question { dnssec_ok, ..question(RecordType::A) };
            let reply = check(&question, message.clone()).unwrap().reply;
            (reply.answers.len(), reply.authorities.len())
        };
        assert_eq!(kept(false), (1, 0));
        assert_eq!(kept(true), (3, 1));
    }

    #[test]
    fn circles_and_endless_chains_are_refused() {
        let circle = vec![alias_record("www.example.", "a.example."), alias_record("a.example.", "www.example.")];
        assert_eq!(check(&question(RecordType::A), message(circle)), Err(EndlessChain));
        let mut long = vec![alias_record("www.example.", "0.example.")];
        long.extend((0..20).map(|link| alias_record(&format!("{link}.example."), &format!("{}.example.", link + 1))));
        assert_eq!(check(&question(RecordType::A), message(long)), Err(EndlessChain));
    }

    #[test]
    fn a_chain_without_its_end_says_where_it_stopped() {
        let checked = check(&question(RecordType::A), message(vec![alias_record("www.example.", "cdn.test.")])).unwrap();
        assert_eq!(checked.dangling, Some(name("cdn.test.")));
        let asked_for_the_alias = check(&question(RecordType::CNAME), message(vec![alias_record("www.example.", "cdn.test.")]));
        assert_eq!(asked_for_the_alias.unwrap().dangling, None);
    }

    #[test]
    fn only_an_authority_over_the_name_makes_an_answer_negative() {
        let soa = |owner: &str| {
            let data = SOA::new(name("ns."), name("host."), 1, 1, 1, 1, 30);
            Record::from_rdata(name(owner), 60, RData::SOA(data))
        };
        let mut message = message(Vec::new());
        message.add_authority(soa("other.")).add_authority(soa("example."));
        let checked = check(&question(RecordType::A), message).unwrap();
        assert_eq!(checked.reply.authorities, [soa("example.")]);
        assert_eq!(checked.reply.ttl(), 30);
    }
}
