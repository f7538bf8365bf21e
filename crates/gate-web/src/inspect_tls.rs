//! TLS inside a tunnel. The order is the point: hello of the client, policy, connection to the origin with its certificate
//! verified, and only then the client's handshake with a leaf minted for the same host. The client is offered what was
//! agreed with the origin, neither a newer version nor another protocol.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use checkpoint::{Passage, Permit};
use model::{Action, Destination, Disposition, FieldId, Question, Value};
use net::hello::{Decoded, HELLO_BYTES_MAX, decode};
use net::mint::{Alpn, LeafHost, VersionCeiling};
use net::upstream::{Security, UpstreamTlsVersion, connect};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::connect::{Arrival, end_refused, mark_tunnel, relay, resolve};
use crate::links::{self, LinkError, Links, Ready};
use crate::serve;
use crate::session::{Leg, Origin, Scheme, Trouble, Tunnel, canonical_host};
use crate::spec::OnFronting;
use crate::stream::Rewound;

/// First byte of a TLS record that holds a handshake message (RFC 8446 section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// What the first bytes of a tunnel are.
pub(crate) enum First {
    Tls(Hello),
    Http(Bytes),
    Other,
    Silent,
    Broken,
}

/// A client's hello, and its bytes as they came.
pub(crate) struct Hello {
    pub(crate) bytes: Bytes,
    pub(crate) server_name: Option<Arc<str>>,
    alpn: Offered,
    ja4: String,
}

/// Which of our protocols the client offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offered {
    Nothing,
    Http1,
    Http2,
    Both,
    Others,
}

/// Reads until it is clear what the client speaks.
pub(crate) async fn first<S: AsyncRead + Unpin>(stream: &mut S) -> First {
    let mut bytes = BytesMut::with_capacity(2048);
    if !matches!(stream.read_buf(&mut bytes).await, Ok(count) if count > 0) {
        return First::Broken;
    }
    match bytes.first() {
        Some(&HANDSHAKE_RECORD) => hello(stream, bytes).await,
        // Every method of HTTP begins with a capital letter.
        Some(byte) if byte.is_ascii_uppercase() => First::Http(bytes.freeze()),
        _ => First::Other,
    }
}

async fn hello<S: AsyncRead + Unpin>(stream: &mut S, mut bytes: BytesMut) -> First {
    loop {
        match decode(&bytes) {
            Err(_) => return First::Other,
            Ok(Decoded::Complete(hello)) => {
                let server_name = hello.server_name.as_deref().and_then(canonical_host);
                let alpn = Offered::of(hello.alpn.iter().map(Vec::as_slice));
                return First::Tls(Hello { bytes: bytes.freeze(), server_name, alpn, ja4: hello.ja4 });
            }
            Ok(Decoded::Partial) if bytes.len() > HELLO_BYTES_MAX => return First::Other,
            Ok(Decoded::Partial) => {}
        }
        if !matches!(stream.read_buf(&mut bytes).await, Ok(count) if count > 0) {
            return First::Broken;
        }
    }
}

impl Offered {
    fn of<'a>(protocols: impl Iterator<Item = &'a [u8]>) -> Offered {
        let (mut http1, mut http2, mut others) = (false, false, false);
        for protocol in protocols {
            match protocol {
                b"http/1.1" | b"http/1.0" => http1 = true,
                b"h2" => http2 = true,
                _ => others = true,
            }
        }
        match (http1, http2, others) {
            (true, true, _) => Offered::Both,
            (true, false, _) => Offered::Http1,
            (false, true, _) => Offered::Http2,
            (false, false, true) => Offered::Others,
            (false, false, false) => Offered::Nothing,
        }
    }

    /// What is offered to the origin in the client's place.
    fn upstream(self) -> Alpn {
        match self {
            Offered::Both => Alpn::Http2AndHttp1,
            Offered::Http2 => Alpn::Http2,
            Offered::Http1 | Offered::Nothing | Offered::Others => Alpn::Http1,
        }
    }

    /// What a client can be told a page in, where no origin agreed to anything.
    fn for_page(self) -> Alpn {
        match self {
            Offered::Http2 => Alpn::Http2,
            _ => Alpn::Http1,
        }
    }
}

/// A tunnel whose first bytes were a hello.
pub(crate) async fn run<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(arrival: Arrival, hello: Hello, stream: S) {
    let Some(host) = host_of(&arrival, &hello) else {
        return refuse_fronting(arrival, &hello);
    };
    let origin = Origin { scheme: Scheme::Https, host, port: arrival.port };
    let mut learned = vec![(FieldId::DetectedProtocol, Value::text("tls")), (FieldId::ClientJa4, Value::text(&hello.ja4))];
    if let Some(name) = &hello.server_name {
        learned.push((FieldId::SniHost, Value::Text(name.clone().into())));
        learned.push((FieldId::SniDomains, Value::Parents(name.clone().into())));
    }
    let (mut passage, addresses) = arrival.examine(&origin, &learned).await;
    let bypass = match passage.ask(Question::Inspect) {
        Action::DoNotInspect => Some("policy"),
        _ if arrival.shared.config.leave_pinned_alone && passage.pinned(&origin.host).is_some() => Some("pinned_application"),
        _ => None,
    };
    let stream = Rewound::new(hello.bytes.clone(), stream);
    match bypass {
        Some(reason) => pass_by(arrival, passage, &origin, reason, stream).await,
        None if hello.alpn == Offered::Others => {
            passage.learn(FieldId::BypassReason, Value::text("not_http"));
            end_refused(passage, "not_http");
            arrival.cut.reset();
        }
        None => open(arrival, passage, Destined { origin, addresses }, hello.alpn, stream).await,
    }
}

/// The host that policy and certificate check look at: the name in the hello. None where it is not the tunnel's and that is
/// refused. A client that named an address has chosen no other name.
fn host_of(arrival: &Arrival, hello: &Hello) -> Option<Arc<str>> {
    match &hello.server_name {
        None => Some(arrival.host.clone()),
        Some(name) if *name == arrival.host || arrival.host.parse::<std::net::IpAddr>().is_ok() => Some(name.clone()),
        Some(name) => (arrival.shared.config.on_fronting == OnFronting::Record).then(|| name.clone()),
    }
}

fn refuse_fronting(arrival: Arrival, hello: &Hello) {
    let mut passage = arrival.shared.checkpoint.examine(&arrival.session);
    let origin = Origin { scheme: Scheme::Https, host: arrival.host.clone(), port: arrival.port };
    crate::facts::learn_origin(&mut passage, &arrival.shared, &origin);
    if let Some(name) = &hello.server_name {
        passage.learn(FieldId::SniHost, Value::Text(name.clone().into()));
    }
    end_refused(passage, "sni_mismatch");
    arrival.cut.reset();
}

/// Relays the bytes as they are. The destination is looked up here and not taken from the client, so that a false name in
/// the hello cannot lead past the policy.
async fn pass_by<S: AsyncRead + AsyncWrite + Unpin>(
    arrival: Arrival,
    mut passage: Passage,
    origin: &Origin,
    reason: &str,
    stream: S,
) {
    passage.learn(FieldId::BypassReason, Value::text(reason));
    mark_tunnel(&mut passage);
    let addresses = resolve(&arrival.shared, &origin.host).await;
    let destination = Destination::Upstream { host: origin.host.clone(), port: origin.port, addresses };
    let permit = match passage.permit(destination) {
        Ok(permit) => permit,
        Err(_) => {
            arrival.cut.reset();
            return passage.finish(Disposition::Blocked);
        }
    };
    match connect(permit, Security::Plain, &arrival.shared.connector).await {
        Ok(upstream) => {
            passage.learn(FieldId::DestinationIp, Value::Ip(upstream.peer.ip().to_canonical()));
            let relayed = relay(stream, upstream.stream, arrival.shared.config.tunnel_idle).await;
            relayed.finish(passage);
        }
        Err(error) => {
            passage.fail(LinkError::from(error).failure());
            passage.finish(Disposition::Error);
        }
    }
}

/// Where a tunnel goes, and the addresses that were looked at.
struct Destined {
    origin: Origin,
    addresses: Vec<std::net::IpAddr>,
}

/// What the client's handshake is built on.
struct Agreement {
    alpn: Alpn,
    ceiling: VersionCeiling,
    trouble: Option<Trouble>,
    is_refused: bool,
}

async fn open<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    arrival: Arrival,
    mut passage: Passage,
    destined: Destined,
    offered: Offered,
    stream: S,
) {
    let Destined { origin, addresses } = destined;
    let links = Links::default();
    let destination = Destination::Upstream { host: origin.host.clone(), port: origin.port, addresses: addresses.clone() };
    let agreement = match passage.permit(destination) {
        // The handshake is finished all the same, so that the request can be told why.
        Err(_) => Agreement { alpn: offered.for_page(), ceiling: VersionCeiling::Tls13, trouble: None, is_refused: true },
        Ok(permit) => agree(&arrival, permit, &origin, offered, &links).await,
    };
    if let Some(agreed) = links.agreed(&origin) {
        crate::facts::learn_agreed(&mut passage, &agreed);
    }
    let accepted = accept(&arrival, &origin, &agreement, stream).await;
    match accepted {
        Ok(stream) => serve_tunnel(arrival, passage, origin, addresses, agreement, links, stream).await,
        Err(failure) => {
            mark_tunnel(&mut passage);
            passage.fail(failure);
            passage.finish(Disposition::Error);
        }
    }
}

/// Connects to the origin and verifies it.
async fn agree(arrival: &Arrival, permit: Permit, origin: &Origin, offered: Offered, links: &Links) -> Agreement {
    let ready = links::open(permit, Scheme::Https, offered.upstream(), &arrival.shared.connector).await;
    let trouble = match ready {
        Ok(ready) => return agreed(links, origin, ready),
        Err(LinkError::Open(net::Error::Certificate(problem))) => Trouble::Certificate(problem),
        Err(error) => Trouble::Unreachable(error.failure()),
    };
    Agreement { alpn: offered.for_page(), ceiling: VersionCeiling::Tls13, trouble: Some(trouble), is_refused: false }
}

fn agreed(links: &Links, origin: &Origin, ready: Ready) -> Agreement {
    let alpn = if ready.agreed.is_http2 { Alpn::Http2 } else { Alpn::Http1 };
    let ceiling = match ready.agreed.version {
        Some(UpstreamTlsVersion::Tls12) => VersionCeiling::Tls12,
        _ => VersionCeiling::Tls13,
    };
    links.keep(origin, ready);
    Agreement { alpn, ceiling, trouble: None, is_refused: false }
}

/// The client's handshake.
async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    arrival: &Arrival,
    origin: &Origin,
    agreement: &Agreement,
    stream: S,
) -> Result<TlsStream<S>, &'static str> {
    let host = LeafHost::parse(&origin.host).map_err(|_| "bad_target")?;
    let config = arrival.shared.minter.server_config(&host, agreement.alpn, agreement.ceiling, SystemTime::now());
    let acceptor = TlsAcceptor::from(config.map_err(|_| "minting")?);
    match timeout(arrival.shared.config.handshake, acceptor.accept(stream)).await {
        Err(_) => Err("deadline"),
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(handshake_failure(&error)),
    }
}

/// A client that answers our certificate with an alert does not trust the authority, or pins its own (TL-05).
fn handshake_failure(error: &std::io::Error) -> &'static str {
    use rustls::AlertDescription as Alert;
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(Alert::UnknownCA | Alert::BadCertificate | Alert::CertificateUnknown)) => {
            "client_rejected_certificate"
        }
        _ => "client_handshake",
    }
}

async fn serve_tunnel<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    arrival: Arrival,
    mut passage: Passage,
    origin: Origin,
    addresses: Vec<std::net::IpAddr>,
    agreement: Agreement,
    links: Links,
    stream: TlsStream<S>,
) {
    let connection = stream.get_ref().1;
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLSv1.2",
    };
    passage.learn(FieldId::ClientTlsVersion, Value::text(version));
    let leg = match connection.alpn_protocol() {
        Some(b"h2") => Leg::Http2,
        _ => Leg::Http1,
    };
    let tunnel = match agreement.is_refused {
        true => Tunnel::refused(origin, addresses, passage),
        false => Tunnel::new(origin, addresses, passage, agreement.trouble),
    };
    let mut road = arrival.road(Some(tunnel), leg);
    road.links = links;
    match leg {
        Leg::Http1 => serve::http1(road, stream).await,
        Leg::Http2 => serve::http2(road, stream).await,
    }
}
