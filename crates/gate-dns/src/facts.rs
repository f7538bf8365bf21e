//! The rows of the field table that this gate fills in: the question before it is decided, the answer before it is sent,
//! and what only the record shows. An answer's facts are made once and shared by everybody who gets it.

use std::fmt::Write;
use std::sync::Arc;

use checkpoint::Passage;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, Record, RecordType};
use model::{FieldId, Text, Value};

use crate::decode::{Query, escaped};
use crate::reply::{ExtendedError, Reply};
use crate::resolver::{Resolved, Source};

/// Records in the stored list of answers, and bytes of each. Rules see every record; the list is for people.
const LISTED_RECORDS_MAX: usize = 64;
const LISTED_BYTES_MAX: usize = 256;

/// What an answer says, as facts.
#[derive(Debug)]
pub(crate) struct AnswerFacts(Vec<(FieldId, Value)>);

impl AnswerFacts {
    pub(crate) fn of(reply: &Reply) -> AnswerFacts {
        let mut facts = vec![(FieldId::DnsRcode, Value::text(code_name(reply.code)))];
        let addresses: Vec<_> = reply.answers.iter().filter_map(|record| record.data.ip_addr()).collect();
        if !addresses.is_empty() {
            facts.push((FieldId::DnsResolvedIps, Value::ips(addresses)));
        }
        for (field, texts) in [
            (FieldId::DnsResponseCname, texts(reply, alias)),
            (FieldId::DnsResponseMx, texts(reply, exchanger)),
            (FieldId::DnsResponsePtr, texts(reply, pointer)),
            (FieldId::DnsResponseTxt, texts(reply, text)),
            (FieldId::DnsAnswers, reply.answers.iter().take(LISTED_RECORDS_MAX).map(listed).collect()),
        ] {
            if !texts.is_empty() {
                facts.push((field, Value::texts(texts)));
            }
        }
        AnswerFacts(facts)
    }

    /// What the upstream said, before the times were brought between the cache's ends (AC-06).
    pub(crate) fn learn_upstream_ttls(&mut self, seconds: &[u32]) {
        if !seconds.is_empty() {
            let listed = seconds.iter().take(LISTED_RECORDS_MAX);
            self.0.push((FieldId::DnsUpstreamTtls, Value::ints(listed.map(|seconds| i64::from(*seconds)))));
        }
    }
}

/// What the question says.
pub(crate) fn learn_question(passage: &mut Passage, query: &Query) {
    passage.learn_host(&query.host);
    if query.host == "." {
        passage.learn(FieldId::DnsFqdn, Value::text("."));
    }
    if let Some(context) = &query.context {
        learn_context(passage, context);
    }
    passage.learn(FieldId::DnsQueryType, Value::Text(kind_name(query.kind)));
    passage.learn(FieldId::DnsQuerySize, Value::Int(i64::try_from(query.bytes).unwrap_or(i64::MAX)));
}

/// Whether the name has any of the categories that the client named (DN-14).
fn learn_context(passage: &mut Passage, context: &[u16]) {
    let is_named = |category: &i64| u16::try_from(*category).is_ok_and(|category| context.contains(&category));
    let matches = [FieldId::DnsContentCategory, FieldId::DnsSecurityCategory]
        .into_iter()
        .any(|field| matches!(passage.facts().get(field), Some(Value::Ints(categories)) if categories.iter().any(is_named)));
    passage.learn(FieldId::DnsRequestContextMatches, Value::Bool(matches));
}

/// The type as the library writes it, without its help for those that nearly everybody asks for.
fn kind_name(kind: RecordType) -> Text {
    match kind {
        RecordType::A => Text::new_static("A"),
        RecordType::AAAA => Text::new_static("AAAA"),
        RecordType::HTTPS => Text::new_static("HTTPS"),
        RecordType::PTR => Text::new_static("PTR"),
        RecordType::TXT => Text::new_static("TXT"),
        other => Text::from(other.to_string()),
    }
}

/// What the answer says, and where it came from.
pub(crate) fn learn_answer(passage: &mut Passage, resolved: &Resolved) {
    for (field, value) in &resolved.entry.facts.0 {
        passage.learn(*field, value.clone());
        if let (FieldId::DnsResponseCname, Value::Texts(aliases)) = (field, value) {
            aliases.iter().for_each(|alias| passage.learn_alias(alias));
        }
    }
    passage.learn(FieldId::DnsCached, Value::Bool(matches!(resolved.source, Source::Cache | Source::Stale)));
    if !resolved.entry.upstream.is_empty() {
        passage.learn(FieldId::DnsUpstream, Value::Text(Arc::clone(&resolved.entry.upstream).into()));
    }
}

/// What the gate answers by itself replaces what an upstream said of the code and of errors.
pub(crate) fn learn_own_answer(passage: &mut Passage, reply: &Reply) {
    passage.learn(FieldId::DnsRcode, Value::text(code_name(reply.code)));
    learn_errors(passage, &reply.errors);
}

pub(crate) fn learn_errors(passage: &mut Passage, errors: &[ExtendedError]) {
    if !errors.is_empty() {
        passage.learn(FieldId::DnsExtendedErrors, Value::ints(errors.iter().map(|error| i64::from(error.code))));
    }
}

fn texts(reply: &Reply, of: fn(&RData) -> Option<String>) -> Vec<String> {
    reply.answers.iter().filter_map(|record| of(&record.data)).collect()
}

fn alias(data: &RData) -> Option<String> {
    match data {
        RData::CNAME(name) => Some(escaped(&name.0)),
        _ => None,
    }
}

fn exchanger(data: &RData) -> Option<String> {
    match data {
        RData::MX(mx) => Some(escaped(&mx.exchange)),
        _ => None,
    }
}

fn pointer(data: &RData) -> Option<String> {
    match data {
        RData::PTR(name) => Some(escaped(&name.0)),
        _ => None,
    }
}

/// The strings of one record make one text (RFC 7208 section 3.3 reads them so).
fn text(data: &RData) -> Option<String> {
    match data {
        RData::TXT(txt) => Some(txt.txt_data.iter().map(|part| String::from_utf8_lossy(part)).collect()),
        _ => None,
    }
}

fn listed(record: &Record) -> String {
    let mut text = format!("{} ", record.record_type());
    // A type that the library cannot write is listed by its name alone; `to_string` would panic.
    let _ = write!(text, "{}", record.data);
    text.truncate(text.floor_char_boundary(LISTED_BYTES_MAX));
    text
}

/// The code as operators write it.
pub(crate) fn code_name(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::BADVERS => "BADVERS",
        _ => "OTHER",
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::{A, CNAME, MX, TXT};

    use super::*;

    #[test]
    fn a_type_is_named_as_the_library_names_it() {
        for kind in (0..300).chain([65_280]).map(RecordType::from) {
            assert_eq!(kind_name(kind), kind.to_string());
        }
    }

    /// CT-07 and DN-16 to DN-18: every record of an answer is a fact.
    #[test]
    fn every_kind_of_record_becomes_its_fact() {
        let name = |text: &str| Name::from_ascii(text).unwrap();
        let record = |data| Record::from_rdata(name("www.example."), 60, data);
        let reply = Reply::answering(vec![
            record(RData::CNAME(CNAME(name("One.Example.")))),
            record(RData::CNAME(CNAME(name("two.example.")))),
            record(RData::A(A::new(192, 0, 2, 1))),
            record(RData::MX(MX::new(10, name("Mail.example.")))),
            record(RData::TXT(TXT::from_bytes(vec![b"a\xff", b"b"]))),
        ]);
        let AnswerFacts(facts) = AnswerFacts::of(&reply);
        let fact = |wanted| facts.iter().find(|(field, _)| *field == wanted).map(|(_, value)| value.to_string());
        assert_eq!(fact(FieldId::DnsResponseCname).as_deref(), Some("one.example,two.example"));
        assert_eq!(fact(FieldId::DnsResolvedIps).as_deref(), Some("192.0.2.1"));
        assert_eq!(fact(FieldId::DnsResponseMx).as_deref(), Some("mail.example"));
        assert_eq!(fact(FieldId::DnsResponseTxt).as_deref(), Some("a\u{fffd}b"));
        assert_eq!(fact(FieldId::DnsResponsePtr), None);
        assert_eq!(fact(FieldId::DnsRcode).as_deref(), Some("NOERROR"));
        assert!(fact(FieldId::DnsAnswers).is_some_and(|answers| answers.contains("A 192.0.2.1")));
        for (field, value) in &facts {
            assert!(value.fits(field.row().ty));
        }
    }
}
