//! The only way out. [`connect`] uses up a `policy::Permit` and opens what it names, under a deadline; with TLS, the
//! upstream's certificate is verified before anything is returned, so that the client's handshake can wait for it. Raw
//! dialling is private. Addresses are raced as in RFC 8305, section 5.

mod guard;
mod race;
mod resolve;

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use model::verdict::UntrustedCertificate;
use model::{Destination, Obligation};
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Error;
use crate::mint::{Alpn, LeafHost};
use crate::trust::{CertificateHandling, CertificateProblem, Trust};

pub use guard::{DialGuard, DialRefusal};
pub use resolve::{Resolver, ResolverFuture, SystemResolver};

/// Waits of one connection attempt, name to verified peer.
#[derive(Clone, Copy, Debug)]
pub struct ConnectLimits {
    pub deadline: Duration,
    /// RFC 8305 section 8 recommends 250 ms between two addresses.
    pub attempt_stagger: Duration,
    /// More addresses than this are not tried: a name with hundreds would make us a scanner.
    pub addresses_max: usize,
}

/// Everything that [`connect`] needs and the permit does not carry.
pub struct Connector {
    pub resolver: Arc<dyn Resolver>,
    pub trust: Arc<Trust>,
    pub guard: DialGuard,
    pub limits: ConnectLimits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    Plain,
    Tls(Alpn),
    /// TLS with whatever certificate the upstream shows: it keeps listeners out and proves nothing (SP-32).
    DangerUnverified(Alpn),
}

/// An open upstream and what was agreed with it.
#[derive(Debug)]
pub struct Upstream {
    pub stream: UpstreamStream,
    pub peer: SocketAddr,
    pub tls: Option<UpstreamTls>,
    /// What the permit asks for beyond the connection.
    pub obligations: Vec<Obligation>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    pub alpn: Option<Vec<u8>>,
    pub version: UpstreamTlsVersion,
    /// By its name in the IANA registry.
    pub cipher: Option<&'static str>,
    /// SHA-256 of the leaf.
    pub certificate_sha256: [u8; 32],
    /// Only with `pass_through` (GW-031): what would have been refused.
    pub passed_through: Option<CertificateProblem>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamTlsVersion {
    Tls12,
    Tls13,
}

#[derive(Debug)]
pub enum UpstreamStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Default for ConnectLimits {
    fn default() -> ConnectLimits {
        ConnectLimits {
            // Browsers give up on a silent site after 20 to 30 s; a proxy in the way should answer well before.
            deadline: Duration::from_secs(10),
            attempt_stagger: Duration::from_millis(250),
            addresses_max: 8,
        }
    }
}

/// Opens the upstream that the permit names. The permit is used up whether or not this succeeds.
pub async fn connect(permit: policy::Permit, security: Security, connector: &Connector) -> Result<Upstream, Error> {
    connect_announced(permit, security, connector, &[]).await
}

/// The same where the upstream is told something before all else, such as a PROXY header, which comes before TLS.
pub async fn connect_announced(
    permit: policy::Permit,
    security: Security,
    connector: &Connector,
    announcement: &[u8],
) -> Result<Upstream, Error> {
    let (destination, obligations) = permit.into_parts();
    open(destination, obligations, security, connector, announcement).await
}

/// Begins TLS on a connection that was opened in the clear, where the protocol has agreed on it (STARTTLS). The caller holds
/// the deadline.
pub async fn secure(upstream: Upstream, host: &str, security: Security, connector: &Connector) -> Result<Upstream, Error> {
    let host = LeafHost::parse(host)?;
    let (alpn, handling) = match security {
        Security::Plain => return Ok(upstream),
        Security::Tls(alpn) => (alpn, handling(&upstream.obligations)),
        Security::DangerUnverified(alpn) => (alpn, CertificateHandling::DangerPassThrough),
    };
    let UpstreamStream::Plain(stream) = upstream.stream else { return Ok(upstream) };
    let (stream, tls) = handshake(stream, &host, alpn, handling, &connector.trust).await?;
    Ok(Upstream { stream, tls, ..upstream })
}

/// Whether anything accepts connections there. It carries nobody's traffic, so it needs no permit: the connection is closed
/// before a byte is sent. For addresses that the operator has named as origins.
pub async fn probe(address: SocketAddr, limit: Duration) -> std::io::Result<()> {
    match tokio::time::timeout(limit, TcpStream::connect(address)).await {
        Ok(connected) => connected.map(drop),
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}

async fn open(
    destination: Destination,
    obligations: Vec<Obligation>,
    security: Security,
    connector: &Connector,
    announcement: &[u8],
) -> Result<Upstream, Error> {
    let Destination::Upstream { host, port, addresses } = destination else { return Err(Error::PermitPurpose) };
    let host = LeafHost::parse(&host)?;
    let deadline = tokio::time::Instant::now() + connector.limits.deadline;
    let work = async {
        let mut stream = dial(&host, port, addresses, connector).await?;
        if !announcement.is_empty() {
            stream.write_all(announcement).await.map_err(|source| Error::Connect { source })?;
        }
        match security {
            Security::Plain => Ok((UpstreamStream::Plain(stream), None)),
            Security::Tls(alpn) => handshake(stream, &host, alpn, handling(&obligations), &connector.trust).await,
            Security::DangerUnverified(alpn) => {
                handshake(stream, &host, alpn, CertificateHandling::DangerPassThrough, &connector.trust).await
            }
        }
    };
    let (stream, tls) = timeout_at(deadline, work).await.map_err(|_| Error::Deadline)??;
    let peer = stream.peer().map_err(|source| Error::Connect { source })?;
    Ok(Upstream { stream, peer, tls, obligations })
}

fn handling(obligations: &[Obligation]) -> CertificateHandling {
    let passes = |obligation: &Obligation| {
        matches!(obligation, Obligation::UntrustedCertificate { action: UntrustedCertificate::PassThrough })
    };
    match obligations.iter().any(passes) {
        true => CertificateHandling::DangerPassThrough,
        false => CertificateHandling::Refuse,
    }
}

async fn dial(host: &LeafHost, port: u16, permitted: Vec<IpAddr>, connector: &Connector) -> Result<TcpStream, Error> {
    let addresses = match (host, permitted.is_empty()) {
        (_, false) => permitted,
        (LeafHost::Address(address), true) => vec![*address],
        (LeafHost::Name(name), true) => connector.resolver.resolve(name).await.map_err(|source| Error::Resolve { source })?,
    };
    let targets = guard::order(addresses, port, connector.limits.addresses_max);
    // One forbidden address among permitted ones is rebinding, not bad luck: the whole name is refused.
    for target in &targets {
        connector.guard.check(*target)?;
    }
    let stream = race::connect_first(targets, connector.limits.attempt_stagger).await?;
    connector.guard.check_connected(&stream)?;
    stream.set_nodelay(true).map_err(|source| Error::Connect { source })?;
    Ok(stream)
}

async fn handshake(
    stream: TcpStream,
    host: &LeafHost,
    alpn: Alpn,
    handling: CertificateHandling,
    trust: &Trust,
) -> Result<(UpstreamStream, Option<UpstreamTls>), Error> {
    let now = SystemTime::now();
    let name = host.server_name()?;
    let config = trust.client_config(host, alpn, handling, now)?;
    let connected = TlsConnector::from(config).connect(name.clone(), stream).await;
    let stream = connected.map_err(handshake_error)?;
    let session = stream.get_ref().1;
    let chain = session.peer_certificates().unwrap_or_default();
    let passed_through = match handling {
        CertificateHandling::Refuse => None,
        CertificateHandling::DangerPassThrough => problem_of(trust, host, chain, now)?,
    };
    let tls = UpstreamTls {
        alpn: session.alpn_protocol().map(<[u8]>::to_vec),
        version: match session.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => UpstreamTlsVersion::Tls13,
            _ => UpstreamTlsVersion::Tls12,
        },
        cipher: session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()),
        certificate_sha256: chain.first().map(|leaf| Sha256::digest(leaf).into()).unwrap_or_default(),
        passed_through,
    };
    Ok((UpstreamStream::Tls(Box::new(stream)), Some(tls)))
}

fn problem_of(
    trust: &Trust,
    host: &LeafHost,
    chain: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<Option<CertificateProblem>, Error> {
    let Some((leaf, intermediates)) = chain.split_first() else { return Ok(Some(CertificateProblem::Malformed)) };
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let verifier = trust.verifier(host, now)?;
    Ok(verifier.problem(leaf, intermediates, &host.server_name()?, UnixTime::since_unix_epoch(since)))
}

/// Finds the verifier's reason inside what the TLS library reports.
fn handshake_error(source: std::io::Error) -> Error {
    let found = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match found {
        Some(error @ (rustls::Error::InvalidCertificate(_) | rustls::Error::InvalidCertRevocationList(_))) => {
            Error::Certificate(CertificateProblem::of(error))
        }
        _ => Error::Handshake { source },
    }
}

impl UpstreamStream {
    /// The socket itself, where there is no TLS around it.
    pub fn socket(&self) -> Option<&TcpStream> {
        match self {
            UpstreamStream::Plain(stream) => Some(stream),
            UpstreamStream::Tls(_) => None,
        }
    }

    /// Closing the connection resets it (RFC 9293 section 3.9.1.5), so that its peer does not take the end for an orderly one.
    pub fn reset_on_close(&self) {
        let stream = match self {
            UpstreamStream::Plain(stream) => stream,
            UpstreamStream::Tls(stream) => stream.get_ref().0,
        };
        let _ = stream.set_zero_linger();
    }

    fn peer(&self) -> std::io::Result<SocketAddr> {
        match self {
            UpstreamStream::Plain(stream) => stream.peer_addr(),
            UpstreamStream::Tls(stream) => stream.get_ref().0.peer_addr(),
        }
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            UpstreamStream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            UpstreamStream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            UpstreamStream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            UpstreamStream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    /// Head and body of a request leave together, in one segment or record where they fit.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            UpstreamStream::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            UpstreamStream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            UpstreamStream::Plain(stream) => stream.is_write_vectored(),
            UpstreamStream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            UpstreamStream::Plain(stream) => Pin::new(stream).poll_flush(context),
            UpstreamStream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            UpstreamStream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            UpstreamStream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests;
