//! Strangers' bytes for this crate's parsers. `fuzz/` calls these functions, and so does the replay of its corpus; nothing
//! in the product does. Each states what must hold whatever the bytes are.

use hickory_proto::op::{Message, MessageType, OpCode, Query as Asked};
use hickory_proto::rr::{Name, RecordType};

use crate::decode::{Decoded, HEADER_BYTES, Query, decode, host_text};
use crate::doh;
use crate::encode::{Carrier, Lifetime, Packed, Shown, encode_into};
use crate::json;
use crate::reply::Reply;
use crate::resolver::Question;
use crate::resolver::check::{Match, check, matches};

/// A client's message is dropped, refused with its own number, or a question whose answer repeats its number and name.
pub fn dns_question(bytes: &[u8]) {
    match decode(bytes) {
        Decoded::Drop => {}
        Decoded::Reject { reply, .. } => {
            assert!(reply.len() >= HEADER_BYTES && reply[..2] == bytes[..2] && reply[2] & 0x80 != 0, "{reply:?}");
        }
        Decoded::Query(query) => {
            let host: &str = &query.host;
            assert!(!host.is_empty() && host.is_ascii(), "{host:?}");
            let Ok(message) = Message::from_vec(bytes) else { return };
            let Some(asked) = message.queries.first() else { return };
            assert_eq!(host_text(asked.name()).as_deref(), Some(host), "two names for one question");
            answered(&query, asked.name(), &Reply::default());
        }
    }
}

/// Of an upstream's message no more is kept than it held, and what is kept can be sent to a client.
pub fn dns_answer(bytes: &[u8]) {
    let Ok(message) = Message::from_vec(bytes) else { return };
    let Some(asked) = message.queries.first().cloned() else { return };
    let name = asked.name().to_lowercase();
    let mut sent = message.clone();
    sent.metadata.message_type = MessageType::Query;
    sent.metadata.op_code = OpCode::Query;
    // What does not answer the question is not looked at any further, here as in the resolver.
    if matches(&sent, &message) == Match::No {
        return;
    }
    for dnssec_ok in [false, true] {
        let question =
            Question { name: name.clone(), kind: asked.query_type(), dnssec_ok, checking_disabled: false, subnet: None };
        let Ok(checked) = check(&question, message.clone()) else { continue };
        let reply = checked.reply;
        assert!(reply.answers.len() <= message.answers.len() && reply.authorities.len() <= message.authorities.len());
        if let Some(query) = asking(&name, asked.query_type()) {
            answered(&query, &name, &reply);
        }
    }
    let _ = json::render(bytes);
    let _ = json::shortest_ttl(bytes);
}

/// A client's question for this name.
fn asking(name: &Name, kind: RecordType) -> Option<Query> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Asked::query(name.clone(), kind));
    match decode(&message.to_vec().ok()?) {
        Decoded::Query(query) => Some(query),
        _ => None,
    }
}

/// The reply can be read again after it was packed and sent, with the client's number and name and no time above the cap.
fn answered(query: &Query, name: &Name, reply: &Reply) {
    let Some(packed) = Packed::new(&name.to_lowercase(), query.kind, reply) else { return };
    let shown = Shown::new(reply, &packed, Lifetime::Aged { seconds: 5, cap: Some(60) });
    let mut answer = Vec::new();
    encode_into(&mut answer, query, &shown, Carrier::Stream);
    let read = Message::from_vec(&answer);
    assert!(read.is_ok(), "an answer that cannot be read: {answer:?}");
    let Ok(read) = read else { return };
    assert!(read.metadata.id == query.id && read.metadata.message_type == MessageType::Response);
    assert!(read.queries.len() == 1 && read.queries[0].name().eq_case(name), "another name is answered");
    assert_eq!(read.answers.len(), reply.answers.len(), "a record is lost on the way");
    assert!(read.answers.iter().all(|record| record.ttl <= 60), "a time to live above the cap");
}

/// A DNS-over-HTTPS query string is a message, a question in JSON or nothing.
pub fn doh_query(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = doh::read_get(text, false);
    let _ = doh::read_get(text, true);
    let _ = json::percent_decoded(text);
}
