//! The JSON form of questions and answers (`application/dns-json`), as the public resolvers write it. A question becomes a
//! wire message and a wire answer becomes JSON, so that both forms pass the gate by the same way.

use std::fmt::Write;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Asked};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{RData, Record, RecordType};
use serde_json::{Value, json};

use crate::decode::escaped;
use crate::resolver::wire_name;

/// What the parameters of a request say.
pub(crate) struct Question {
    pub(crate) name: String,
    /// A type by name or number.
    pub(crate) kind: String,
    pub(crate) dnssec_ok: bool,
    pub(crate) checking_disabled: bool,
}

impl Question {
    /// The same as a wire message; none where it is not a question.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let by_number = self.kind.parse::<u16>().ok().map(RecordType::from);
        let kind = by_number.or_else(|| self.kind.to_ascii_uppercase().parse().ok())?;
        let mut message = Message::new(0, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = self.checking_disabled;
        message.add_query(Asked::query(wire_name(&self.name)?, kind));
        let mut edns = Edns::new();
        edns.set_dnssec_ok(self.dnssec_ok);
        message.set_edns(edns);
        message.to_vec().ok()
    }
}

/// A wire answer as JSON text.
pub(crate) fn render(reply: &[u8]) -> Option<String> {
    let message = Message::from_vec(reply).ok()?;
    let question = |asked: &Asked| json!({"name": escaped(asked.name()), "type": u16::from(asked.query_type())});
    let mut text = json!({
        "Status": u16::from(message.metadata.response_code),
        "TC": message.metadata.truncation,
        "RD": message.metadata.recursion_desired,
        "RA": message.metadata.recursion_available,
        "AD": message.metadata.authentic_data,
        "CD": message.metadata.checking_disabled,
        "Question": message.queries.iter().map(question).collect::<Vec<_>>(),
    });
    let comments = comments(&message);
    for (name, list) in
        [("Answer", records(&message.answers)), ("Authority", records(&message.authorities)), ("Comment", comments)]
    {
        if !list.is_empty() {
            text[name] = Value::Array(list);
        }
    }
    Some(text.to_string())
}

fn records(records: &[Record]) -> Vec<Value> {
    let record = |record: &Record| {
        json!({
            "name": escaped(&record.name),
            "type": u16::from(record.record_type()),
            "TTL": record.ttl,
            "data": data(&record.data),
        })
    };
    records.iter().map(record).collect()
}

/// Names without their last dot, as everywhere in Sekisho; the rest as in a zone file.
fn data(data: &RData) -> String {
    match data {
        RData::CNAME(name) => escaped(&name.0),
        RData::NS(name) => escaped(&name.0),
        RData::PTR(name) => escaped(&name.0),
        other => {
            let mut text = String::new();
            // A type that the library cannot write stays empty; `to_string` would panic.
            let _ = write!(text, "{other}");
            text
        }
    }
}

/// Extended errors, `EDE 15: words`.
fn comments(message: &Message) -> Vec<Value> {
    let options = message.edns.as_ref().map(|edns| edns.options().options.as_slice()).unwrap_or_default();
    let comment = |option: &EdnsOption| match option {
        EdnsOption::Unknown(15, bytes) => {
            let (code, text) = bytes.split_first_chunk::<2>()?;
            let words = String::from_utf8_lossy(text);
            Some(Value::String(format!("EDE {}: {words}", u16::from_be_bytes(*code))))
        }
        _ => None,
    };
    options.iter().filter_map(|(_, option)| comment(option)).collect()
}

/// The shortest time to live of any record, for caches of HTTP.
pub(crate) fn shortest_ttl(reply: &[u8]) -> Option<u32> {
    let message = Message::from_vec(reply).ok()?;
    message.answers.iter().chain(&message.authorities).map(|record| record.ttl).min()
}

/// `%41` is `A`; none where a percent sign is not followed by two digits, or the bytes are not text.
pub(crate) fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        match (first, after.first_chunk::<2>()) {
            (b'%', Some(digits)) => {
                let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.contains('+'))?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = after.get(2..).unwrap_or_default();
            }
            (b'%', None) => return None,
            (byte, _) => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_are_decoded_or_refused() {
        assert_eq!(percent_decoded("ex%61mple%2Ecom").as_deref(), Some("example.com"));
        for wrong in ["%", "%4", "%zz", "%+1", "%ff"] {
            assert_eq!(percent_decoded(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_question_by_name_or_number_of_type_becomes_a_message() {
        let question =
            |kind: &str| Question { name: "example.com".into(), kind: kind.into(), dnssec_ok: true, checking_disabled: false };
        for kind in ["AAAA", "aaaa", "28"] {
            let message = Message::from_vec(&question(kind).encode().unwrap()).unwrap();
            assert_eq!(message.queries[0].query_type(), RecordType::AAAA);
            assert!(message.edns.unwrap().flags().dnssec_ok);
        }
        assert!(question("NOPE").encode().is_none());
    }
}
