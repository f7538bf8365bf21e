//! Asking upstream resolvers: one after the other until one answers, each within its own time and all within a deadline.
//! A datagram goes out from a fresh random port with a random number and random spelling (RFC 5452); an answer that is cut
//! or misspelt is asked for again over a stream. Nothing here looks into an answer beyond whether it belongs to the
//! question; that is `check`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, Query as Asked, ResponseCode};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Question;
use super::check::{self, Checked, Match};
use super::dnssec::{Validator, Verdict};
use super::subnet::agrees;
use crate::Error;
use crate::encode::{PAYLOAD_BYTES_MAX, STREAM_BYTES_MAX};
use crate::reply::extended;
use crate::spec::{DnsGateConfig, Upstream, UpstreamTransport};

/// An upstream that did not answer is asked last for this long.
const REST_SECONDS: u64 = 10;

/// Times that a silent upstream is asked for one question, within the deadline.
const ROUNDS: usize = 2;

/// Datagrams read for one question before somebody is taken to be guessing.
const DATAGRAMS_MAX: usize = 16;

/// TLS connections to one upstream at once, and how many of them are kept open for the next question.
const TLS_STREAMS_MAX: usize = 64;
const TLS_IDLE_STREAMS_MAX: usize = 8;

/// Why there is no answer. It is cheap to copy, because every waiting client gets one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("no upstream resolver answered in time")]
    Deadline,
    #[error("no upstream resolver could be reached")]
    Network,
    /// `extended` is the upstream's own reason, such as a signature that does not verify (RFC 8914).
    #[error("the upstream resolvers answered with code {code}")]
    Code { code: u16, extended: u16 },
    /// The signatures of the answer, or their absence, do not verify; `extended` says what is wrong.
    #[error("the signatures of the answer do not verify")]
    Bogus { extended: u16 },
    #[error("the chain of names has no end")]
    EndlessChain,
    #[error("too many questions are under way")]
    Overloaded,
    #[error("a try that failed was too recent for another")]
    Remembered,
    #[error("the question was given up")]
    Abandoned,
    #[error("the answer does not fit into a message")]
    TooLong,
    #[error("the permit is for something else")]
    NotPermitted,
}

impl Failure {
    /// The extended error that a client is told (RFC 8914 sections 4.23 and 4.24).
    pub(crate) fn extended(self) -> u16 {
        match self {
            Failure::Deadline | Failure::Remembered => extended::NO_REACHABLE_AUTHORITY,
            Failure::Network => extended::NETWORK_ERROR,
            Failure::Code { extended, .. } | Failure::Bogus { extended } => extended,
            Failure::EndlessChain | Failure::Overloaded | Failure::Abandoned => extended::OTHER,
            Failure::TooLong | Failure::NotPermitted => extended::OTHER,
        }
    }

    /// The word in the record.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Failure::Deadline => "deadline",
            Failure::Network => "upstream_unreachable",
            Failure::Code { .. } => "upstream_refused",
            Failure::Bogus { .. } => "dnssec_bogus",
            Failure::EndlessChain => "endless_chain",
            Failure::Overloaded => "overloaded",
            Failure::Remembered => "upstream_failed_recently",
            Failure::Abandoned => "abandoned",
            Failure::TooLong => "answer_too_long",
            Failure::NotPermitted => "not_permitted",
        }
    }
}

/// One upstream and how it has behaved.
pub(super) struct Server {
    upstream: Upstream,
    label: Arc<str>,
    /// Milliseconds after `epoch` until which it is asked last.
    rests_until: AtomicU64,
    epoch: Instant,
    idle: Mutex<Vec<TlsStream<TcpStream>>>,
    streams: Semaphore,
}

pub(super) struct Forwarder {
    servers: Vec<Arc<Server>>,
    tls: TlsConnector,
    timeout: Duration,
    deadline: Duration,
}

impl Server {
    fn new(upstream: Upstream) -> Server {
        let label = match &upstream.transport {
            UpstreamTransport::Datagram => upstream.address.to_string(),
            UpstreamTransport::Stream => format!("tcp://{}", upstream.address),
            UpstreamTransport::Tls(_) => format!("tls://{}", upstream.address),
        };
        Server {
            upstream,
            label: label.into(),
            rests_until: AtomicU64::new(0),
            epoch: Instant::now(),
            idle: Mutex::new(Vec::new()),
            streams: Semaphore::new(TLS_STREAMS_MAX),
        }
    }

    fn rests(&self) -> bool {
        self.rests_until.load(Ordering::Relaxed) > self.millis()
    }

    fn rest(&self) {
        self.rests_until.store(self.millis() + REST_SECONDS * 1000, Ordering::Relaxed);
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX - REST_SECONDS * 1000)
    }

    /// Whether nobody between us and this upstream can write answers, so that its word on signatures counts.
    fn is_protected(&self) -> bool {
        matches!(self.upstream.transport, UpstreamTransport::Tls(_)) || self.upstream.address.ip().is_loopback()
    }

    fn take_idle(&self) -> Option<TlsStream<TcpStream>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put_idle(&self, stream: TlsStream<TcpStream>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < TLS_IDLE_STREAMS_MAX {
            idle.push(stream);
        }
    }
}

impl Forwarder {
    pub(super) fn new(config: &DnsGateConfig) -> Result<Forwarder, Error> {
        Ok(Forwarder {
            servers: config.upstreams.iter().cloned().map(Server::new).map(Arc::new).collect(),
            tls: TlsConnector::from(Arc::new(client_tls(&config.upstream_roots)?)),
            timeout: config.upstream_timeout,
            deadline: config.upstream_deadline,
        })
    }

    /// Asks the resolvers of a rule where it named some, and the usual ones otherwise. With a validator no answer is taken
    /// that it does not prove; another upstream may have a better one.
    pub(super) async fn ask(
        &self,
        question: &Question,
        route: &[SocketAddr],
        validator: Option<&Validator>,
    ) -> Result<(Checked, Arc<str>), Failure> {
        let chosen: Vec<Arc<Server>> = match route {
            [] => self.servers.clone(),
            route => route.iter().map(|address| Arc::new(Server::new(Upstream::datagram(*address)))).collect(),
        };
        timeout(self.deadline, self.ask_each(question, &chosen, validator)).await.unwrap_or(Err(Failure::Deadline))
    }

    /// Every upstream has its turn, and then a second one: a datagram that got lost is not a server that is down.
    async fn ask_each(
        &self,
        question: &Question,
        servers: &[Arc<Server>],
        validator: Option<&Validator>,
    ) -> Result<(Checked, Arc<str>), Failure> {
        let mut last = Failure::Network;
        let (resting, awake): (Vec<_>, Vec<_>) = servers.iter().partition(|server| server.rests());
        let mut turn: Vec<&Arc<Server>> = awake.into_iter().chain(resting).collect();
        for _ in 0..ROUNDS {
            let mut silent = Vec::new();
            for server in turn {
                match self.ask_one(question, server, validator).await {
                    Ok(checked) => return Ok((checked, Arc::clone(&server.label))),
                    Err(failure) => last = failure,
                }
                if last == Failure::Deadline {
                    silent.push(server);
                }
            }
            turn = silent;
        }
        Err(last)
    }

    async fn ask_one(&self, question: &Question, server: &Server, validator: Option<&Validator>) -> Result<Checked, Failure> {
        // A validator upstream is told to leave the judgement to this one, and to give what it is made from (RFC 6840
        // section 5.9).
        let unjudged = Question { dnssec_ok: true, checking_disabled: true, ..question.clone() };
        let sent = if validator.is_some() { &unjudged } else { question };
        let mut message = match timeout(self.timeout, self.exchange(sent, server)).await {
            Ok(Ok(message)) => message,
            Ok(Err(_)) => {
                server.rest();
                return Err(Failure::Network);
            }
            Err(_) => {
                server.rest();
                return Err(Failure::Deadline);
            }
        };
        match message.metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => {}
            code => {
                let extended = check::upstream_errors(&message).first().map_or(extended::OTHER, |error| error.code);
                return Err(Failure::Code { code: code.into(), extended });
            }
        }
        let verdict = match validator {
            Some(validator) => Some(validator.validate(question, &mut message).await?),
            None => None,
        };
        let mut checked = check::check(question, message).map_err(|check::EndlessChain| Failure::EndlessChain)?;
        checked.reply.authentic = match verdict {
            Some(verdict) => verdict == Verdict::Secure,
            None => checked.reply.authentic && server.is_protected(),
        };
        if let Some(Verdict::Insecure(Some(reason))) = verdict {
            checked.reply = checked.reply.with_error(reason, "");
        }
        Ok(checked)
    }

    async fn exchange(&self, question: &Question, server: &Server) -> std::io::Result<Message> {
        let address = server.upstream.address;
        match &server.upstream.transport {
            UpstreamTransport::Datagram => match exchange_datagram(question, address).await? {
                Some(message) => Ok(message),
                None => exchange_tcp(question, address).await,
            },
            UpstreamTransport::Stream => exchange_tcp(question, address).await,
            UpstreamTransport::Tls(name) => self.exchange_tls(question, server, name).await,
        }
    }

    /// Uses an open connection where one is idle; the upstream may have closed it meanwhile, and then a new one is made.
    async fn exchange_tls(&self, question: &Question, server: &Server, name: &ServerName<'static>) -> std::io::Result<Message> {
        let _slot = server.streams.acquire().await.map_err(std::io::Error::other)?;
        if let Some(mut stream) = server.take_idle()
            && let Ok(message) = exchange_stream(question, &mut stream).await
        {
            server.put_idle(stream);
            return Ok(message);
        }
        let tcp = TcpStream::connect(server.upstream.address).await?;
        tcp.set_nodelay(true)?;
        let mut stream = self.tls.connect(name.clone(), tcp).await?;
        let message = exchange_stream(question, &mut stream).await?;
        server.put_idle(stream);
        Ok(message)
    }
}

fn client_tls(more_roots: &[CertificateDer<'static>]) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    for root in webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().chain(more_roots) {
        roots.add(root.clone()).map_err(Error::Tls)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(Error::Tls)?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"dot".to_vec()];
    Ok(config)
}

/// The question as it goes out: its own number, and for a datagram its own spelling.
fn outgoing(question: &Question) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.metadata.authentic_data = true;
    message.metadata.checking_disabled = question.checking_disabled;
    message.add_query(Asked::query(question.name.clone(), question.kind));
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD_BYTES_MAX).set_dnssec_ok(question.dnssec_ok);
    if let Some(subnet) = question.subnet {
        edns.options_mut().insert(subnet.option());
    }
    message.set_edns(edns);
    message
}

/// None where the answer has to be asked for over a stream: it is cut, it is misspelt, or somebody is guessing.
async fn exchange_datagram(question: &Question, address: SocketAddr) -> std::io::Result<Option<Message>> {
    let mut sent = outgoing(question);
    for asked in &mut sent.queries {
        asked.name.randomize_label_case();
    }
    let any = if address.is_ipv4() { SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)) } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    socket.send(&sent.to_vec().map_err(std::io::Error::other)?).await?;
    let mut buffer = [0; 4096];
    for _ in 0..DATAGRAMS_MAX {
        let bytes = socket.recv(&mut buffer).await?;
        let Ok(received) = Message::from_vec(&buffer[..bytes]) else { continue };
        match check::matches(&sent, &received) {
            Match::Yes if !agrees(question.subnet, &received) => {}
            Match::Yes if !received.metadata.truncation => return Ok(Some(received)),
            Match::Yes | Match::Misspelt => return Ok(None),
            Match::No => {}
        }
    }
    Ok(None)
}

async fn exchange_tcp(question: &Question, address: SocketAddr) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    exchange_stream(question, &mut stream).await
}

/// One question and its answer over a stream (RFC 7766). A stream that carries anything else is not used again.
async fn exchange_stream<S: AsyncRead + AsyncWrite + Unpin>(question: &Question, stream: &mut S) -> std::io::Result<Message> {
    let sent = outgoing(question);
    let bytes = sent.to_vec().map_err(std::io::Error::other)?;
    let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat()).await?;
    stream.flush().await?;
    let length = usize::from(stream.read_u16().await?).min(STREAM_BYTES_MAX);
    let mut buffer = vec![0; length];
    stream.read_exact(&mut buffer).await?;
    let received = Message::from_vec(&buffer).map_err(std::io::Error::other)?;
    match check::matches(&sent, &received) {
        Match::Yes | Match::Misspelt if agrees(question.subnet, &received) => Ok(received),
        _ => Err(std::io::Error::other("the answer belongs to another question")),
    }
}
