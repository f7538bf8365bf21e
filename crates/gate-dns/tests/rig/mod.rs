//! What the tests of the whole gate stand on: an upstream resolver of our own that can be told to misbehave, a gate on
//! loopback with a policy from text, and clients. Nothing leaves the machine and nothing sleeps.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "each test file uses a part; a test that panics has failed")]

pub mod signed;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use checkpoint::testing::Harness;
use gate_dns::{DnsGateConfig, DnsGateSpec, DnsResolver};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::svcb::{Alpn, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, CNAME, HTTPS, MX, SOA, SVCB, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use model::{Event, FieldId, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::timeout;

/// Far beyond what any test needs; a test that reaches it has failed.
pub const WAIT: Duration = Duration::from_secs(10);

/// The address that a forger would like to see believed.
pub const FORGED: [u8; 4] = [203, 0, 113, 66];

/// How the upstream behaves over UDP. Over TCP it is always honest, unless it is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Honest,
    /// A forged answer with another number comes first.
    WrongNumber,
    /// A forged answer to another question comes first.
    WrongQuestion,
    /// A forged answer in another spelling.
    WrongSpelling,
    /// Bytes that are no message come first.
    Garbage,
    Truncated,
    /// Sixteen forged answers and nothing else.
    Guessing,
    Silent,
    /// The first datagram gets lost, and then it is honest.
    Losing,
    /// SERVFAIL with extended error 6, a signature that does not verify.
    ServerFailure,
}

#[derive(Clone)]
pub struct Upstream {
    pub address: SocketAddr,
    manner: Arc<Mutex<Manner>>,
    asked: Arc<Mutex<Vec<String>>>,
    subnets: Arc<Mutex<Vec<String>>>,
}

pub fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

fn v4(last: u8) -> RData {
    RData::A(A::new(192, 0, 2, last))
}

fn alias(target: &str) -> RData {
    RData::CNAME(CNAME(name(target)))
}

/// The whole world of the tests: records of each owner.
fn world(host: &str) -> Vec<RData> {
    let https = || {
        let alpn = Alpn(vec!["h3".to_owned(), "h2".to_owned()]);
        RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), vec![(SvcParamKey::Alpn, SvcParamValue::Alpn(alpn))])))
    };
    match host {
        "www.example.com" => vec![
            v4(1),
            RData::from("2001:db8::1".parse::<std::net::IpAddr>().unwrap()),
            RData::TXT(TXT::new(vec!["hello".to_owned()])),
            RData::MX(MX::new(10, name("mail.example.com"))),
            https(),
        ],
        "alias.example.com" => vec![alias("middle.example.net")],
        "middle.example.net" => vec![alias("target.example.net")],
        "target.example.net" => vec![v4(7)],
        "tracked.example.com" => vec![alias("tracker.example.net")],
        "tracker.example.net" => vec![v4(8)],
        "dangling.example.com" => vec![alias("www.example.com")],
        "circle.example.com" => vec![alias("circle2.example.com")],
        "circle2.example.com" => vec![alias("circle.example.com")],
        "c2.example.com" => vec![v4(66)],
        "rebind.example.com" => vec![RData::A(A::new(10, 0, 0, 1)), v4(9)],
        "private.example.com" => vec![RData::A(A::new(192, 168, 1, 1))],
        "nas.local" => vec![RData::A(A::new(192, 168, 1, 5))],
        "db.corp.example" => vec![RData::A(A::new(10, 1, 2, 3))],
        "big.example.com" => vec![RData::TXT(TXT::new(vec!["x".repeat(200); 20]))],
        "forcesafesearch.google.com" => vec![v4(99)],
        "restrict.youtube.com" => vec![v4(98)],
        "google.com" => vec![RData::MX(MX::new(10, name("smtp.google.com")))],
        _ => Vec::new(),
    }
}

fn answer_to(asked: &Query, id: u16) -> Message {
    let mut message = Message::new(id, MessageType::Response, OpCode::Query);
    message.metadata.recursion_available = true;
    message.metadata.authentic_data = true;
    message.add_query(asked.clone());
    let mut owner = asked.name().clone();
    let gives_no_end = owner.to_lowercase().to_ascii() == "dangling.example.com.";
    for _ in 0..8 {
        let host = owner.to_lowercase().to_ascii().trim_end_matches('.').to_owned();
        let records = world(&host);
        if records.is_empty() {
            let authority = SOA::new(name("ns.test"), name("host.test"), 1, 1, 1, 1, 30);
            message.metadata.response_code = ResponseCode::NXDomain;
            message.add_authority(Record::from_rdata(Name::root(), 60, RData::SOA(authority)));
            return message;
        }
        let next = records.iter().find_map(|data| match data {
            RData::CNAME(target) => Some(target.0.clone()),
            _ => None,
        });
        let wanted = records.into_iter().filter(|data| {
            data.record_type() == asked.query_type() || data.record_type() == RecordType::CNAME || asked.query_type().is_any()
        });
        let before = message.answers.len();
        message.add_answers(wanted.map(|data| Record::from_rdata(owner.clone(), 300, data)));
        if message.answers.len() == before {
            let authority = SOA::new(name("ns.test"), name("host.test"), 1, 1, 1, 1, 30);
            message.add_authority(Record::from_rdata(Name::root(), 60, RData::SOA(authority)));
        }
        match next {
            Some(target) if !gives_no_end && asked.query_type() != RecordType::CNAME => owner = target,
            _ => return message,
        }
    }
    message
}

fn forged(asked: &Query, id: u16) -> Message {
    let mut message = Message::new(id, MessageType::Response, OpCode::Query);
    message.add_query(asked.clone());
    let data = RData::A(A(Ipv4Addr::from(FORGED)));
    message.add_answer(Record::from_rdata(asked.name().clone(), 300, data));
    message
}

/// The datagrams that this manner sends for one question.
fn datagrams(manner: Manner, sent: &Message) -> Vec<Vec<u8>> {
    let (asked, id) = (&sent.queries[0], sent.metadata.id);
    let honest = answer_to(asked, id).to_vec().unwrap();
    let forge = |asked: &Query, id: u16| forged(asked, id).to_vec().unwrap();
    match manner {
        Manner::Honest => vec![honest],
        Manner::WrongNumber => vec![forge(asked, id.wrapping_add(1)), honest],
        Manner::WrongQuestion => {
            vec![forge(&Query::query(name("other.example.com"), RecordType::A), id), honest]
        }
        Manner::WrongSpelling => {
            let swapped: String = asked.name().to_ascii().chars().map(swap_case).collect();
            vec![forge(&Query::query(name(&swapped), asked.query_type()), id)]
        }
        Manner::Garbage => vec![vec![0xff; 40], Vec::new(), honest[..15].to_vec(), honest],
        Manner::Truncated => {
            let mut cut = answer_to(asked, id).truncate();
            cut.metadata.truncation = true;
            cut.answers.clear();
            vec![cut.to_vec().unwrap()]
        }
        Manner::Guessing => (1..=16).map(|step| forge(asked, id.wrapping_add(step))).collect(),
        Manner::Silent => Vec::new(),
        Manner::ServerFailure => {
            let mut failed = Message::error_msg(id, OpCode::Query, ResponseCode::ServFail);
            let mut edns = Edns::new();
            edns.options_mut().insert(EdnsOption::Unknown(15, vec![0, 6]));
            failed.add_query(asked.clone()).set_edns(edns);
            vec![failed.to_vec().unwrap()]
        }
        Manner::Losing => Vec::new(),
    }
}

fn swap_case(letter: char) -> char {
    if letter.is_ascii_lowercase() { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() }
}

impl Upstream {
    pub async fn start(manner: Manner) -> Upstream {
        let (udp, tcp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let upstream = Upstream {
            address: tcp.local_addr().unwrap(),
            manner: Arc::new(Mutex::new(manner)),
            asked: Arc::default(),
            subnets: Arc::default(),
        };
        tokio::spawn(upstream.clone().serve_datagrams(udp));
        tokio::spawn(upstream.clone().serve_streams(tcp));
        upstream
    }

    pub fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    /// What it was asked so far: `udp A www.example.com`.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// The client subnets that it was told (RFC 7871), `-` where none.
    pub fn subnets(&self) -> Vec<String> {
        self.subnets.lock().unwrap().clone()
    }

    fn note_subnet(&self, sent: &Message) {
        let told = match sent.edns.as_ref().and_then(|edns| edns.option(EdnsCode::Subnet)) {
            Some(EdnsOption::Subnet(told)) => format!("{}/{}/{}", told.addr(), told.source_prefix(), told.scope_prefix()),
            _ => "-".to_owned(),
        };
        self.subnets.lock().unwrap().push(told);
    }

    fn note(&self, protocol: &str, asked: &Query) {
        let host = asked.name().to_lowercase().to_ascii();
        let line = format!("{protocol} {} {}", asked.query_type(), host.trim_end_matches('.'));
        self.asked.lock().unwrap().push(line);
    }

    async fn serve_datagrams(self, socket: UdpSocket) {
        let mut buffer = [0; 4096];
        while let Ok((bytes, client)) = socket.recv_from(&mut buffer).await {
            let sent = Message::from_vec(&buffer[..bytes]).unwrap();
            self.note(if sent.metadata.checking_disabled { "udp unchecked" } else { "udp" }, &sent.queries[0]);
            self.note_subnet(&sent);
            let manner = *self.manner.lock().unwrap();
            if manner == Manner::Losing {
                self.behave(Manner::Honest);
            }
            for datagram in datagrams(manner, &sent) {
                let _ = socket.send_to(&datagram, client).await;
            }
        }
    }

    async fn serve_streams(self, listener: TcpListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let Some(sent) = read_message(&mut stream).await else { continue };
            self.note("tcp", &sent.queries[0]);
            if *self.manner.lock().unwrap() == Manner::Silent {
                continue;
            }
            let answer = answer_to(&sent.queries[0], sent.metadata.id).to_vec().unwrap();
            write_message(&mut stream, &answer).await;
        }
    }
}

/// A gate that is being served.
pub struct Rig {
    pub harness: Harness,
    pub upstream: Upstream,
    pub resolver: DnsResolver,
    addresses: Vec<(&'static str, SocketAddr)>,
    shutdown: watch::Sender<bool>,
    served: tokio::task::JoinHandle<()>,
}

/// Settings that listen on free ports of loopback and ask this upstream, quickly.
pub fn spec(upstream: &Upstream) -> DnsGateSpec {
    let loopback = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    DnsGateSpec {
        udp: loopback.clone(),
        tcp: loopback.clone(),
        doh: loopback,
        upstreams: vec![upstream.address.to_string()],
        upstream_timeout_ms: 400,
        upstream_deadline_ms: 2_000,
        workers: 2,
        ..DnsGateSpec::default()
    }
}

impl Rig {
    pub async fn start(policy: &str) -> Rig {
        let upstream = Upstream::start(Manner::Honest).await;
        let spec = spec(&upstream);
        Rig::with(policy, upstream, spec, None).await
    }

    pub async fn with(policy: &str, upstream: Upstream, spec: DnsGateSpec, tls: Option<Arc<rustls::ServerConfig>>) -> Rig {
        Rig::with_harness(Harness::new(policy), upstream, spec, tls).await
    }

    pub async fn with_harness(
        harness: Harness,
        upstream: Upstream,
        spec: DnsGateSpec,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Rig {
        let config = DnsGateConfig::resolve(spec).unwrap();
        let gate = gate_dns::bind(config, harness.checkpoint.clone(), tls).await.unwrap();
        let (shutdown, stopping) = watch::channel(false);
        let (addresses, resolver) = (gate.addresses(), gate.lookup());
        let served = tokio::spawn(gate.serve(stopping));
        Rig { harness, upstream, resolver, addresses, shutdown, served }
    }

    pub fn address(&self, protocol: &str) -> SocketAddr {
        self.addresses.iter().find(|(name, _)| *name == protocol).unwrap().1
    }

    pub async fn udp(&self, bytes: &[u8]) -> Option<Message> {
        self.udp_raw(bytes).await.map(|bytes| Message::from_vec(&bytes).unwrap())
    }

    pub async fn udp_raw(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(bytes, self.address("udp")).await.unwrap();
        let mut buffer = vec![0; 4096];
        let (bytes, _) = timeout(WAIT, socket.recv_from(&mut buffer)).await.ok()?.unwrap();
        Some(buffer[..bytes].to_vec())
    }

    pub async fn ask(&self, host: &str, kind: RecordType) -> Message {
        self.udp(&query(host, kind)).await.unwrap()
    }

    pub async fn tcp(&self, bytes: &[u8]) -> Message {
        let mut stream = TcpStream::connect(self.address("tcp")).await.unwrap();
        write_message(&mut stream, bytes).await;
        timeout(WAIT, read_message(&mut stream)).await.unwrap().unwrap()
    }

    pub fn events(&self) -> Vec<Event> {
        self.harness.events()
    }

    /// The facts of the last event, as text.
    pub fn last(&self, field: FieldId) -> Option<String> {
        self.events().last()?.facts.get(field).map(Value::to_string)
    }

    pub async fn stop(self) -> Harness {
        self.shutdown.send(true).unwrap();
        timeout(WAIT, self.served).await.unwrap().unwrap();
        self.harness
    }
}

/// A question with EDNS.
pub fn query(host: &str, kind: RecordType) -> Vec<u8> {
    let mut message = plain_query(host, kind);
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    message.to_vec().unwrap()
}

pub fn plain_query(host: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x4242, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(host), kind));
    message
}

/// An answer in one line: code, records, authority, extended errors.
pub fn shown(message: &Message) -> String {
    let answers: Vec<_> =
        message.answers.iter().map(|record| record.data.to_string().trim_end().trim_end_matches('.').to_owned()).collect();
    let authority = if message.authorities.is_empty() { "" } else { " +soa" };
    let errors: String = extended_errors(message).iter().map(|(code, _)| format!(" ede{code}")).collect();
    format!("{:?} [{}]{authority}{errors}", message.metadata.response_code, answers.join(" "))
}

pub fn extended_errors(message: &Message) -> Vec<(u16, String)> {
    let options = message.edns.as_ref().map(|edns| edns.options().options.clone()).unwrap_or_default();
    let error = |(_, option)| match option {
        EdnsOption::Unknown(15, bytes) => {
            Some((u16::from_be_bytes([bytes[0], bytes[1]]), String::from_utf8(bytes[2..].to_vec()).unwrap()))
        }
        _ => None,
    };
    options.into_iter().filter_map(error).collect()
}

pub async fn read_message<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Message> {
    let length = stream.read_u16().await.ok()?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await.ok()?;
    Some(Message::from_vec(&bytes).unwrap())
}

pub async fn write_message<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap();
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await.unwrap();
    stream.flush().await.unwrap();
}
