//! A reply becomes bytes. It is packed once, when it enters the cache, and sent many times: each client gets the same
//! records under its own number, spelling, time to live and OPT record. RFC 1035 section 4, RFC 6891, RFC 8914.

use hickory_proto::op::{Message, MessageType, OpCode, Query as Asked, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use crate::decode::{HEADER_BYTES, PLAIN_PAYLOAD_BYTES, Query};
use crate::reply::{ExtendedError, Reply};

/// UDP answers stay below the smallest path MTU of IPv6, so that they are never fragmented (DNS flag day 2020).
pub(crate) const PAYLOAD_BYTES_MAX: u16 = 1232;

/// The length of a message over a stream is written in two bytes (RFC 1035 section 4.2.2).
pub(crate) const STREAM_BYTES_MAX: usize = 65_535;

/// Words in an extended error; keeps a refusal inside one small packet.
const ERROR_TEXT_BYTES_MAX: usize = 200;

/// Padded answers fill blocks of this size (RFC 8467 section 4.1).
const PADDING_BLOCK_BYTES: usize = 468;

/// An OPT record without options, and its type (RFC 6891 section 6.1.2).
const OPT_BYTES: usize = 11;
const OPT_TYPE: u8 = 41;

const OPTION_EXTENDED_ERROR: u16 = 15;
const OPTION_PADDING: u16 = 12;

/// The sections of a reply, ready to be sent after a patched header and question.
#[derive(Debug)]
pub(crate) struct Packed {
    bytes: Box<[u8]>,
    /// Where the question's name ends.
    name_end: usize,
    /// Where each record's time to live stands.
    ttls: Box<[u32]>,
}

/// A packed reply with what stands outside its sections.
pub(crate) struct Shown<'a> {
    pub(crate) code: ResponseCode,
    pub(crate) authentic: bool,
    pub(crate) errors: &'a [ExtendedError],
    pub(crate) packed: &'a Packed,
    pub(crate) lifetime: Lifetime,
}

impl<'a> Shown<'a> {
    pub(crate) fn new(reply: &'a Reply, packed: &'a Packed, lifetime: Lifetime) -> Shown<'a> {
        Shown { code: reply.code, authentic: reply.authentic, errors: &reply.errors, packed, lifetime }
    }
}

/// What becomes of the times to live as they leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// Less the seconds since the reply came, and at most the cap (AC-06).
    Aged { seconds: u32, cap: Option<u32> },
    /// The same few seconds for every record (RFC 8767 section 4).
    Fixed(u32),
}

/// How the message travels, which bounds its size and decides on padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Datagram,
    Stream,
    /// A stream that hides sizes worth hiding.
    PrivateStream,
}

impl Packed {
    /// None where the reply does not fit into a message, which no upstream's answer can cause: it came in one.
    pub(crate) fn new(host: &Name, kind: RecordType, reply: &Reply) -> Option<Packed> {
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        message.add_query(Asked::query(host.clone(), kind));
        message.answers.clone_from(&reply.answers);
        message.authorities.clone_from(&reply.authorities);
        let bytes = message.to_vec().ok()?;
        let name_end = skip_name(&bytes, HEADER_BYTES)?;
        let ttls = ttl_places(&bytes, name_end + 4, reply.answers.len() + reply.authorities.len())?;
        Some(Packed { bytes: bytes.into_boxed_slice(), name_end, ttls })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len() + size_of_val::<[u32]>(&self.ttls)
    }
}

/// Where the name at this place ends. Only our own bytes are walked, but a walk that could leave them ends.
fn skip_name(bytes: &[u8], mut place: usize) -> Option<usize> {
    loop {
        match *bytes.get(place)? {
            0 => return Some(place + 1),
            length if length & 0xc0 == 0xc0 => return Some(place + 2),
            length => place += 1 + usize::from(length),
        }
    }
}

fn ttl_places(bytes: &[u8], mut place: usize, records: usize) -> Option<Box<[u32]>> {
    let mut places = Vec::with_capacity(records);
    while place < bytes.len() {
        let fixed = skip_name(bytes, place)?;
        places.push(u32::try_from(fixed + 4).ok()?);
        let length = bytes.get(fixed + 8..fixed + 10)?;
        place = fixed + 10 + usize::from(u16::from_be_bytes([length[0], length[1]]));
    }
    Some(places.into_boxed_slice())
}

/// The message for one client, at the end of what is there. It is cut to a bare header and question with the truncation
/// bit where it is too long for a datagram, so that the client asks again over a stream.
pub(crate) fn encode_into(out: &mut Vec<u8>, query: &Query, reply: &Shown<'_>, carrier: Carrier) {
    let start = out.len();
    out.extend_from_slice(&reply.packed.bytes);
    let Some(message) = out.get_mut(start..) else { return };
    write_flags(message, query, reply);
    write_name(message, query.spelling.wire(), reply.packed.name_end);
    write_ttls(message, &reply.packed.ttls, reply.lifetime);
    if message.len() + edns_bytes(query, reply.errors) > size_max(query, carrier) {
        truncate(message);
        out.truncate(start + reply.packed.name_end + 4);
    }
    append_edns(out, start, query, reply, carrier);
}

/// The message by itself.
#[cfg(test)]
pub(crate) fn encode(query: &Query, reply: &Shown<'_>, carrier: Carrier) -> Vec<u8> {
    let mut out = Vec::with_capacity(reply.packed.bytes.len() + 64);
    encode_into(&mut out, query, reply, carrier);
    out
}

fn size_max(query: &Query, carrier: Carrier) -> usize {
    match carrier {
        Carrier::Datagram => {
            let wanted = query.edns.map_or(PLAIN_PAYLOAD_BYTES, |edns| edns.payload_bytes);
            usize::from(wanted.clamp(PLAIN_PAYLOAD_BYTES, PAYLOAD_BYTES_MAX))
        }
        Carrier::Stream | Carrier::PrivateStream => STREAM_BYTES_MAX,
    }
}

fn write_flags(out: &mut [u8], query: &Query, reply: &Shown<'_>) {
    let dnssec_aware = query.authentic_data || query.edns.is_some_and(|edns| edns.dnssec_ok);
    out[..2].copy_from_slice(&query.id.to_be_bytes());
    out[2] = 0x80 | u8::from(query.recursion_desired);
    out[3] = 0x80
        | u8::from(reply.authentic && dnssec_aware) << 5
        | u8::from(query.checking_disabled) << 4
        | reply_code(query, reply.code).low();
}

/// A code that needs the OPT record becomes SERVFAIL for a client without one.
fn reply_code(query: &Query, code: ResponseCode) -> ResponseCode {
    if code.high() > 0 && query.edns.is_none() { ResponseCode::ServFail } else { code }
}

/// Puts the client's spelling over the canonical one; every owner name that points here follows.
fn write_name(out: &mut [u8], spelling: &[u8], name_end: usize) {
    if let Some(name) = out.get_mut(HEADER_BYTES..name_end).filter(|name| name.len() == spelling.len()) {
        name.copy_from_slice(spelling);
    }
}

fn write_ttls(out: &mut [u8], places: &[u32], lifetime: Lifetime) {
    for place in places {
        let place = *place as usize;
        let Some(bytes) = out.get_mut(place..place + 4).and_then(|slice| slice.first_chunk_mut::<4>()) else { return };
        let ttl = match lifetime {
            Lifetime::Aged { seconds, cap } => u32::from_be_bytes(*bytes).saturating_sub(seconds).min(cap.unwrap_or(u32::MAX)),
            Lifetime::Fixed(seconds) => seconds,
        };
        *bytes = ttl.to_be_bytes();
    }
}

/// Marks a header as that of a message whose records are left out.
fn truncate(out: &mut [u8]) {
    out[2] |= 0x02;
    out[6..HEADER_BYTES].fill(0);
}

/// The OPT record without options takes 11 bytes, an extended error 6 and its text.
fn edns_bytes(query: &Query, errors: &[ExtendedError]) -> usize {
    query.edns.map_or(0, |_| OPT_BYTES + errors.iter().map(|error| 6 + cut(&error.text).len()).sum::<usize>())
}

/// The longest start of the text that fits and does not end inside a character.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(ERROR_TEXT_BYTES_MAX)).unwrap_or_default()
}

/// The OPT record for a client that sent one (RFC 6891 section 6.1.2), with its options, at the end of the message.
fn append_edns(out: &mut Vec<u8>, start: usize, query: &Query, reply: &Shown<'_>, carrier: Carrier) {
    let Some(client) = query.edns else { return };
    let payload = PAYLOAD_BYTES_MAX.to_be_bytes();
    let flags = u8::from(client.dnssec_ok) << 7;
    out.extend_from_slice(&[0, 0, OPT_TYPE, payload[0], payload[1], reply.code.high(), 0, flags, 0, 0, 0]);
    let options = out.len();
    for error in reply.errors {
        append_option(out, OPTION_EXTENDED_ERROR, &error.code.to_be_bytes(), cut(&error.text).as_bytes());
    }
    if carrier == Carrier::PrivateStream && client.pads {
        let unpadded = out.len() - start + 4;
        let padding = unpadded.next_multiple_of(PADDING_BLOCK_BYTES) - unpadded;
        if unpadded + padding <= STREAM_BYTES_MAX {
            append_option(out, OPTION_PADDING, &[], &[0; PADDING_BLOCK_BYTES][..padding]);
        }
    }
    let length = ((out.len() - options) as u16).to_be_bytes();
    out[options - 2..options].copy_from_slice(&length);
    // A message of ours holds no other additional record.
    out[start + 10..start + HEADER_BYTES].copy_from_slice(&[0, 1]);
}

/// Options are short: an error's text is cut, and padding is less than a block.
fn append_option(out: &mut Vec<u8>, code: u16, head: &[u8], tail: &[u8]) {
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&((head.len() + tail.len()) as u16).to_be_bytes());
    out.extend_from_slice(head);
    out.extend_from_slice(tail);
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::opt::EdnsOption;
    use hickory_proto::rr::rdata::{A, TXT};
    use hickory_proto::rr::{RData, Record};

    use super::*;
    use crate::decode::ClientEdns;
    use crate::reply::extended;
    use crate::spelling::Spelling;

    fn query(host: &str, edns: Option<ClientEdns>) -> Query {
        Query {
            id: 0x1234,
            spelling: Spelling::of(&Name::from_ascii(host).unwrap()),
            host: host.trim_end_matches('.').to_ascii_lowercase().into(),
            kind: RecordType::A,
            recursion_desired: true,
            checking_disabled: false,
            authentic_data: false,
            edns,
            context: None,
            bytes: 40,
        }
    }

    const EDNS: ClientEdns = ClientEdns { payload_bytes: 4096, dnssec_ok: false, pads: true, declines_subnet: false };

    fn addresses(count: u8) -> Reply {
        let name = Name::from_ascii("www.example.com.").unwrap();
        let records = (0..count).map(|last| Record::from_rdata(name.clone(), 300, RData::A(A::new(192, 0, 2, last))));
        Reply::answering(records.collect())
    }

    fn sent(query: &Query, reply: &Reply, lifetime: Lifetime, carrier: Carrier) -> (Message, usize) {
        let packed = Packed::new(&query.spelling.name().to_lowercase(), query.kind, reply).unwrap();
        let bytes = encode(query, &Shown::new(reply, &packed, lifetime), carrier);
        (Message::from_vec(&bytes).unwrap(), bytes.len())
    }

    #[test]
    fn a_client_gets_its_own_number_spelling_and_time() {
        let query = query("WWW.exAmple.com.", None);
        let lifetime = Lifetime::Aged { seconds: 100, cap: Some(150) };
        let (message, _) = sent(&query, &addresses(2), lifetime, Carrier::Datagram);
        assert_eq!(message.metadata.id, 0x1234);
        assert_eq!(message.queries[0].name().to_ascii(), "WWW.exAmple.com.");
        assert_eq!(message.answers[0].name.to_ascii(), "WWW.exAmple.com.");
        assert_eq!(message.answers[1].ttl, 150);
        assert!(message.metadata.recursion_available && message.edns.is_none());
    }

    #[test]
    fn a_long_answer_is_cut_for_a_datagram_only() {
        let (cut, bytes) = sent(&query("www.example.com.", None), &addresses(60), AGED, Carrier::Datagram);
        assert!(cut.metadata.truncation && cut.answers.is_empty() && bytes <= 512);
        let (whole, _) = sent(&query("www.example.com.", None), &addresses(60), AGED, Carrier::Stream);
        assert!(!whole.metadata.truncation);
        assert_eq!(whole.answers.len(), 60);
    }

    const AGED: Lifetime = Lifetime::Aged { seconds: 0, cap: None };

    #[test]
    fn an_extended_error_is_told_to_clients_with_edns_only_and_is_cut() {
        let reply = addresses(1).with_error(extended::BLOCKED, &"é".repeat(300));
        let (message, bytes) = sent(&query("www.example.com.", Some(EDNS)), &reply, AGED, Carrier::Datagram);
        let edns = message.edns.unwrap();
        let Some(EdnsOption::Unknown(_, option)) = edns.option(15.into()) else { panic!("no option") };
        assert_eq!(option[..2], [0, 15]);
        assert_eq!(option.len(), 2 + ERROR_TEXT_BYTES_MAX);
        assert!(bytes <= 1232);
        let (plain, _) = sent(&query("www.example.com.", None), &reply, AGED, Carrier::Datagram);
        assert!(plain.edns.is_none());
    }

    #[test]
    fn an_answer_is_padded_where_the_client_pads_and_the_stream_is_private() {
        let (_, padded) = sent(&query("www.example.com.", Some(EDNS)), &addresses(1), AGED, Carrier::PrivateStream);
        assert_eq!(padded % PADDING_BLOCK_BYTES, 0);
        let (_, plain) = sent(&query("www.example.com.", Some(EDNS)), &addresses(1), AGED, Carrier::Stream);
        assert!(plain < 200);
    }

    #[test]
    fn text_of_any_length_survives_packing() {
        let name = Name::from_ascii("www.example.com.").unwrap();
        let text = TXT::from_bytes(vec![&[0xff; 255], &[0; 255]]);
        let reply = Reply::answering(vec![Record::from_rdata(name, 9, RData::TXT(text.clone()))]);
        let (message, _) = sent(&query("www.example.com.", None), &reply, Lifetime::Fixed(30), Carrier::Stream);
        assert_eq!(message.answers[0].data, RData::TXT(text));
        assert_eq!(message.answers[0].ttl, 30);
    }
}
