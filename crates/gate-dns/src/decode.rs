//! One message from a client becomes one question, or the header-only reply that it deserves. Any bytes give a value:
//! nothing here waits or panics. RFC 1035 section 4, RFC 6891, RFC 9619 (one question a message).

use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{DNSClass, Name, RecordType};

use model::Text;
use model::name::HOST_BYTES_MAX;

use crate::spelling::Spelling;

/// Bytes of a header (RFC 1035 section 4.1.1).
pub(crate) const HEADER_BYTES: usize = 12;

/// A question with every EDNS option in use stays below 1 KiB; larger messages carry records that no question needs.
const QUERY_BYTES_MAX: usize = 4096;

/// The smallest UDP size that every client takes (RFC 6891 section 6.2.3).
pub(crate) const PLAIN_PAYLOAD_BYTES: u16 = 512;

/// The EDNS option by which a client names categories (DN-14), and how many it may name: about all that there are.
const OPTION_REQUEST_CONTEXT: u16 = 65_050;
const CONTEXT_CATEGORIES_MAX: usize = 256;

/// What a client said about itself in its OPT record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientEdns {
    pub(crate) payload_bytes: u16,
    pub(crate) dnssec_ok: bool,
    /// The client pads, so it is told the size of nothing that matters (RFC 7830).
    pub(crate) pads: bool,
    /// The client does not want its subnet told: the option with no bits of it (RFC 7871 section 7.1.2).
    pub(crate) declines_subnet: bool,
}

/// One question, in the only form that the rest of the gate sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) id: u16,
    /// As the client spelled it.
    pub(crate) spelling: Spelling,
    /// Lower case, ASCII, without its last dot; `.` for the root.
    pub(crate) host: Text,
    pub(crate) kind: RecordType,
    pub(crate) recursion_desired: bool,
    pub(crate) checking_disabled: bool,
    pub(crate) authentic_data: bool,
    pub(crate) edns: Option<ClientEdns>,
    /// Categories that the client asks about beside the name (DN-14).
    pub(crate) context: Option<Box<[u16]>>,
    pub(crate) bytes: usize,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every message is a question, which a box would cost an allocation")]
pub(crate) enum Decoded {
    Query(Query),
    /// Answered with a header and this code; `failure` names the reason in the record.
    Reject {
        reply: Vec<u8>,
        failure: &'static str,
    },
    /// Not answered at all: too short to have a number, or itself a response (answering those makes loops).
    Drop,
}

/// Reads one message.
pub(crate) fn decode(bytes: &[u8]) -> Decoded {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Decoded::Drop };
    if header[2] & 0x80 != 0 {
        return Decoded::Drop;
    }
    if (header[2] >> 3) & 0x0f != u8::from(OpCode::Query) {
        return reject(header, ResponseCode::NotImp, "opcode_unsupported");
    }
    if bytes.len() > QUERY_BYTES_MAX || header[4..6] != [0, 1] {
        return reject(header, ResponseCode::FormErr, "malformed_query");
    }
    if let Some(query) = plain(header, bytes) {
        return Decoded::Query(query);
    }
    match Message::from_vec(bytes) {
        Ok(message) => question(header, message, bytes.len()),
        Err(_) => reject(header, ResponseCode::FormErr, "malformed_query"),
    }
}

/// A question in the shape that nearly every client sends: no flags but RD, CD and AD, one uncompressed name of letters,
/// digits, hyphens and underscores, and at most an OPT record of version 0 without options. None is no verdict: whatever
/// looks different is read by the library, and what both can read they read alike.
fn plain(header: &[u8; HEADER_BYTES], bytes: &[u8]) -> Option<Query> {
    let [_, _, high, low, _, _, answers @ .., additionals_high, additionals] = *header;
    if high & !0x01 != 0 || low & !0x30 != 0 || answers != [0; 4] || additionals_high != 0 || additionals > 1 {
        return None;
    }
    let (spelling, host) = Spelling::read_plain(bytes.get(HEADER_BYTES..)?)?;
    let (fixed, rest) = bytes.get(HEADER_BYTES + spelling.wire().len()..)?.split_first_chunk::<4>()?;
    let [kind_high, kind_low, 0, 1] = *fixed else { return None };
    let edns = match (additionals, rest) {
        (0, []) => None,
        (1, [0, 0, 41, size_high, size_low, 0, 0, flags, _, 0, 0]) => Some(ClientEdns {
            payload_bytes: u16::from_be_bytes([*size_high, *size_low]).max(PLAIN_PAYLOAD_BYTES),
            dnssec_ok: flags & 0x80 != 0,
            pads: false,
            declines_subnet: false,
        }),
        _ => return None,
    };
    let kind = RecordType::from(u16::from_be_bytes([kind_high, kind_low]));
    is_asked_for(kind).then(|| Query {
        id: u16::from_be_bytes([header[0], header[1]]),
        spelling,
        host,
        kind,
        recursion_desired: high & 0x01 != 0,
        checking_disabled: low & 0x10 != 0,
        authentic_data: low & 0x20 != 0,
        edns,
        context: None,
        bytes: bytes.len(),
    })
}

/// Types of which a question can be answered at all.
fn is_asked_for(kind: RecordType) -> bool {
    !matches!(kind, RecordType::AXFR | RecordType::IXFR | RecordType::OPT | RecordType::TSIG | RecordType::ZERO)
}

fn question(header: &[u8; HEADER_BYTES], mut message: Message, bytes: usize) -> Decoded {
    let Some(asked) = message.queries.pop() else { return reject(header, ResponseCode::FormErr, "malformed_query") };
    if message.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return bad_version(header);
    }
    if asked.query_class() != DNSClass::IN {
        return reject(header, ResponseCode::Refused, "class_unsupported");
    }
    let kind = asked.query_type();
    if matches!(kind, RecordType::AXFR | RecordType::IXFR) {
        return reject(header, ResponseCode::Refused, "transfer_refused");
    }
    if !is_asked_for(kind) {
        return reject(header, ResponseCode::FormErr, "malformed_query");
    }
    let Some(host) = host_text(asked.name()) else { return reject(header, ResponseCode::FormErr, "name_too_long") };
    Decoded::Query(Query {
        id: message.metadata.id,
        spelling: Spelling::of(asked.name()),
        host: host.into(),
        kind,
        recursion_desired: message.metadata.recursion_desired,
        checking_disabled: message.metadata.checking_disabled,
        authentic_data: message.metadata.authentic_data,
        edns: message.edns.as_ref().map(client_edns),
        context: message.edns.as_ref().and_then(request_context),
        bytes,
    })
}

/// Numbers of categories, two bytes each; nothing where they do not come out even.
fn request_context(edns: &Edns) -> Option<Box<[u16]>> {
    let Some(EdnsOption::Unknown(_, bytes)) = edns.option(EdnsCode::Unknown(OPTION_REQUEST_CONTEXT)) else { return None };
    let (numbers, rest) = bytes.as_chunks::<2>();
    let fits = rest.is_empty() && numbers.len() <= CONTEXT_CATEGORIES_MAX;
    fits.then(|| numbers.iter().map(|number| u16::from_be_bytes(*number)).collect())
}

fn client_edns(edns: &Edns) -> ClientEdns {
    ClientEdns {
        payload_bytes: edns.max_payload(),
        dnssec_ok: edns.flags().dnssec_ok,
        pads: matches!(edns.option(EdnsCode::Padding), Some(EdnsOption::Unknown(..))),
        declines_subnet: matches!(edns.option(EdnsCode::Subnet), Some(EdnsOption::Subnet(subnet)) if subnet.source_prefix() == 0),
    }
}

/// The name in the one form of policy, lists and record. Bytes that are not visible, and dots and backslashes inside a
/// label, are written `\DDD` (RFC 1035 section 5.1), so that two different names never look the same. None where the text
/// is longer than a host name can be.
pub(crate) fn host_text(name: &Name) -> Option<String> {
    Some(escaped(name)).filter(|text| text.len() <= HOST_BYTES_MAX)
}

/// The same for any length, for names that are only reported.
pub(crate) fn escaped(name: &Name) -> String {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label {
            match byte {
                b'.' | b'\\' => text.push_str(&format!("\\{byte:03}")),
                b'!'..=b'~' => text.push(char::from(byte.to_ascii_lowercase())),
                _ => text.push_str(&format!("\\{byte:03}")),
            }
        }
    }
    if text.is_empty() {
        text.push('.');
    }
    text
}

/// A header that repeats the number, the opcode and the wish for recursion, and nothing of the rest.
fn header_only(header: &[u8; HEADER_BYTES], code: ResponseCode) -> Vec<u8> {
    let mut reply = vec![0; HEADER_BYTES];
    reply[..2].copy_from_slice(&header[..2]);
    reply[2] = 0x80 | (header[2] & 0x79);
    reply[3] = 0x80 | code.low();
    reply
}

fn reject(header: &[u8; HEADER_BYTES], code: ResponseCode, failure: &'static str) -> Decoded {
    Decoded::Reject { reply: header_only(header, code), failure }
}

/// BADVERS with an OPT record of version 0 (RFC 6891 section 6.1.3).
fn bad_version(header: &[u8; HEADER_BYTES]) -> Decoded {
    let mut reply = header_only(header, ResponseCode::BADVERS);
    reply[11] = 1;
    let payload = crate::encode::PAYLOAD_BYTES_MAX.to_be_bytes();
    reply.extend_from_slice(&[0, 0, 41, payload[0], payload[1], ResponseCode::BADVERS.high(), 0, 0, 0, 0, 0]);
    Decoded::Reject { reply, failure: "edns_version_unsupported" }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{MessageType, Query as Asked};

    use super::*;

    fn asking(host: &str, kind: RecordType) -> Message {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Asked::query(Name::from_ascii(host).unwrap(), kind));
        message
    }

    fn code_of(bytes: &[u8]) -> Option<u8> {
        match decode(bytes) {
            Decoded::Reject { reply, .. } => Some(reply[3] & 0x0f),
            _ => None,
        }
    }

    #[test]
    fn messages_without_a_number_and_responses_are_not_answered() {
        let mut response = asking("example.com.", RecordType::A).to_vec().unwrap();
        response[2] |= 0x80;
        for bytes in [&b""[..], &[0; 11][..], &response] {
            assert!(matches!(decode(bytes), Decoded::Drop));
        }
    }

    #[test]
    fn what_is_not_one_plain_question_is_refused_by_code() {
        let valid = asking("example.com.", RecordType::A).to_vec().unwrap();
        let mut notify = valid.clone();
        notify[2] |= 4 << 3;
        let mut two = asking("example.com.", RecordType::A);
        two.add_query(Asked::query(Name::from_ascii("example.net.").unwrap(), RecordType::A));
        let mut chaos = asking("version.bind.", RecordType::TXT);
        chaos.queries[0].set_query_class(DNSClass::CH);
        let cases = [
            (notify, 4),
            (two.to_vec().unwrap(), 1),
            (valid[..valid.len() - 1].to_vec(), 1),
            (chaos.to_vec().unwrap(), 5),
            (asking("example.com.", RecordType::AXFR).to_vec().unwrap(), 5),
            ([&valid[..], &[0; QUERY_BYTES_MAX]].concat(), 1),
        ];
        for (bytes, code) in cases {
            assert_eq!(code_of(&bytes), Some(code));
        }
    }

    #[test]
    fn a_later_edns_version_is_answered_with_badvers() {
        let mut message = asking("example.com.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_version(1);
        message.set_edns(edns);
        let Decoded::Reject { reply, .. } = decode(&message.to_vec().unwrap()) else { panic!("accepted") };
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!(reply.edns.unwrap().rcode_high(), 1);
    }

    #[test]
    fn a_question_keeps_its_spelling_and_has_one_canonical_host() {
        let Decoded::Query(query) = decode(&asking("WwW.Example.COM.", RecordType::A).to_vec().unwrap()) else {
            panic!("refused")
        };
        assert_eq!(query.host, "www.example.com");
        assert_eq!(query.spelling.name().to_ascii(), "WwW.Example.COM.");
    }

    fn by_library(bytes: &[u8]) -> Option<Query> {
        let header = bytes.first_chunk::<HEADER_BYTES>()?;
        match question(header, Message::from_vec(bytes).ok()?, bytes.len()) {
            Decoded::Query(query) => Some(query),
            _ => None,
        }
    }

    /// What is read without the library is what the library reads: plain questions of many shapes, and damage to them.
    #[test]
    fn a_plain_question_is_read_as_the_library_reads_it() {
        let mut scatter = testkit::Scatter::new(0x2545_f491_4f6c_dd1d);
        let mut next = move || scatter.number();
        let long = format!("{0}.{0}.{0}.{1}.", "a".repeat(63), "b".repeat(61));
        let hosts = ["a.", "WWW.example.COM.", "_dns.x-1.example.", "xn--bcher-kva.example.", &long];
        let kinds = [RecordType::A, RecordType::AAAA, RecordType::HTTPS, RecordType::ANY, RecordType::Unknown(65_280)];
        let mut plain_ones = 0;
        for round in 0..60_000 {
            let mut message = asking(hosts[next() as usize % hosts.len()], kinds[next() as usize % kinds.len()]);
            message.metadata.recursion_desired = next() % 2 == 0;
            message.metadata.checking_disabled = next() % 2 == 0;
            message.metadata.authentic_data = next() % 2 == 0;
            if next() % 2 == 0 {
                let mut edns = Edns::new();
                edns.set_max_payload(next() as u16).set_dnssec_ok(next() % 2 == 0);
                message.set_edns(edns);
            }
            let mut bytes = message.to_vec().unwrap();
            for _ in 0..round % 4 {
                let place = next() as usize % bytes.len();
                bytes[place] = next() as u8;
            }
            let Some(header) = bytes.first_chunk::<HEADER_BYTES>().filter(|header| header[4..6] == [0, 1]) else { continue };
            let Some(read) = plain(header, &bytes) else {
                assert!(round % 4 != 0, "{bytes:02x?}");
                continue;
            };
            assert_eq!(Some(read), by_library(&bytes), "{bytes:02x?}");
            plain_ones += 1;
        }
        assert!(plain_ones > 15_000, "{plain_ones}");
    }

    #[test]
    fn a_dot_inside_a_label_is_not_a_border_of_labels() {
        let name = Name::from_labels([&b"evil.example"[..], b"com"]).unwrap();
        assert_eq!(host_text(&name).as_deref(), Some("evil\\046example.com"));
        let long = Name::from_labels([&[0u8; 63][..], &[0; 63]]).unwrap();
        assert_eq!(host_text(&long), None);
        assert_eq!(host_text(&Name::root()).as_deref(), Some("."));
    }

    /// Bytes from a small generator with a fixed seed, as they are and as damage to a valid question.
    #[test]
    fn no_bytes_make_the_decoder_panic() {
        let valid = asking("www.example.com.", RecordType::HTTPS).to_vec().unwrap();
        let mut scatter = testkit::Scatter::new(0x9e37_79b9_7f4a_7c15);
        let mut next = move || scatter.number();
        for round in 0..50_000 {
            let mut bytes: Vec<u8> = if round % 2 == 0 {
                (0..next() % 96).map(|_| next() as u8).collect()
            } else {
                let mut bytes = valid.clone();
                for _ in 0..1 + next() % 6 {
                    let place = (next() % bytes.len() as u64) as usize;
                    bytes[place] = next() as u8;
                }
                bytes
            };
            if round % 3 == 0 && bytes.len() > 5 {
                bytes[2] &= 0x07;
                bytes[4..6].copy_from_slice(&[0, 1]);
            }
            if let Decoded::Reject { reply, .. } = decode(&bytes) {
                assert!(reply.len() >= HEADER_BYTES);
            }
        }
    }
}
