//! Connections to origins. Each client connection has its own and never shares them with another: what one client
//! authenticated stays its own, and blame is simple. A link is kept for the next request to the same origin.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use checkpoint::Permit;
use http::{HeaderMap, Request, Response, Uri, Version, header};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use net::mint::Alpn;
use net::trust::CertificateProblem;
use net::upstream::{Connector, Security, Upstream, UpstreamTls, UpstreamTlsVersion, connect};
use tokio::time::timeout;

use crate::body::WebBody;
use crate::session::{Leg, Origin, Scheme};

/// Links that one client connection keeps. A browser speaks to few origins over one proxy connection.
const LINKS_MAX: usize = 8;
/// A link that is still busy with its last body is waited for this long before another is opened.
const READY_WAIT: Duration = Duration::from_millis(200);
/// Read and write buffer of one HTTP/1 connection, and with it the longest head.
pub(crate) const HEAD_BYTES_MAX: usize = 128 << 10;
/// Flow-control windows of HTTP/2 legs: bodies of one round trip at usual rates.
const WINDOW_BYTES: u32 = 1 << 20;
/// Longest header list of HTTP/2, as large as what common origins send with room to spare.
pub(crate) const HEADER_LIST_BYTES_MAX: u32 = 64 << 10;
/// Fields of one head (hyper's own default).
pub(crate) const HEADERS_MAX: usize = 100;

/// The links of one client connection.
#[derive(Default)]
pub(crate) struct Links {
    links: Mutex<Vec<Link>>,
    addresses: Mutex<Vec<(Arc<str>, Vec<IpAddr>)>>,
}

struct Link {
    origin: Origin,
    sender: Sender,
    agreed: Agreed,
}

enum Sender {
    One(http1::SendRequest<WebBody>),
    Many(http2::SendRequest<WebBody>),
}

/// What was agreed with an origin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Agreed {
    pub(crate) peer: IpAddr,
    pub(crate) version: Option<UpstreamTlsVersion>,
    pub(crate) passed_through: Option<CertificateProblem>,
    pub(crate) is_http2: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("cannot open a connection to the origin")]
    Open(#[from] net::Error),
    #[error("the origin did not answer well")]
    Exchange(#[from] hyper::Error),
    #[error("the origin's answer cannot be passed on")]
    Malformed,
    #[error("the origin did not answer in time")]
    Deadline,
}

impl LinkError {
    /// The word in the event.
    pub(crate) fn failure(&self) -> &'static str {
        match self {
            LinkError::Open(net::Error::Certificate(_)) => "untrusted_certificate",
            LinkError::Open(net::Error::Handshake { .. }) => "upstream_handshake",
            LinkError::Open(net::Error::Dial { .. } | net::Error::HostName) => "destination_refused",
            LinkError::Open(net::Error::Resolve { .. } | net::Error::NoAddress) => "upstream_name",
            LinkError::Open(_) => "upstream_unreachable",
            LinkError::Exchange(_) | LinkError::Malformed => "upstream_broke_off",
            LinkError::Deadline => "deadline",
        }
    }
}

/// A request whose target and fields are in their final form but for what the protocol of the link asks for.
pub(crate) struct Sending<'a> {
    pub(crate) links: &'a Links,
    pub(crate) origin: &'a Origin,
    pub(crate) leg: Leg,
    pub(crate) connector: &'a Connector,
    pub(crate) wait: Duration,
}

impl Links {
    /// Keeps an origin that was connected before the first request.
    pub(crate) fn keep(&self, origin: &Origin, ready: Ready) {
        self.put(Link { origin: origin.clone(), sender: ready.sender, agreed: ready.agreed });
    }

    fn put(&self, link: Link) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if links.len() == LINKS_MAX {
            links.remove(0);
        }
        links.push(link);
    }

    /// What was agreed with an origin to which a link is open.
    pub(crate) fn agreed(&self, origin: &Origin) -> Option<Agreed> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.iter().find(|link| link.origin == *origin && !link.is_closed()).map(|link| link.agreed)
    }

    pub(crate) fn addresses(&self, host: &str) -> Option<Vec<IpAddr>> {
        let known = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(name, _)| **name == *host).map(|(_, addresses)| addresses.clone())
    }

    pub(crate) fn keep_addresses(&self, host: &Arc<str>, addresses: &[IpAddr]) {
        let mut known = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() == LINKS_MAX {
            known.remove(0);
        }
        known.push((host.clone(), addresses.to_vec()));
    }

    /// A link to this origin: a share of an HTTP/2 connection, or an HTTP/1 connection that is taken out.
    fn take(&self, origin: &Origin) -> Option<Link> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|link| !link.is_closed());
        let place = links.iter().position(|link| link.origin == *origin)?;
        match &links.get(place)?.sender {
            Sender::Many(sender) => {
                let sender = Sender::Many(sender.clone());
                links.get(place).map(|link| Link { origin: origin.clone(), sender, agreed: link.agreed })
            }
            Sender::One(_) => Some(links.remove(place)),
        }
    }
}

impl Link {
    fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::One(sender) => sender.is_closed(),
            Sender::Many(sender) => sender.is_closed(),
        }
    }
}

/// A connection on which requests can be sent.
pub(crate) struct Ready {
    sender: Sender,
    pub(crate) agreed: Agreed,
}

/// Opens a connection to an origin and speaks its preface. Uses the permit up.
pub(crate) async fn open(permit: Permit, scheme: Scheme, alpn: Alpn, connector: &Connector) -> Result<Ready, LinkError> {
    let security = match scheme {
        Scheme::Http => Security::Plain,
        Scheme::Https => Security::Tls(alpn),
    };
    let Upstream { stream, peer, tls, .. } = connect(permit, security, connector).await?;
    let is_http2 = tls.as_ref().is_some_and(|tls| tls.alpn.as_deref() == Some(b"h2"));
    let agreed = Agreed {
        peer: peer.ip().to_canonical(),
        version: tls.as_ref().map(|tls: &UpstreamTls| tls.version),
        passed_through: tls.as_ref().and_then(|tls| tls.passed_through),
        is_http2,
    };
    let io = TokioIo::new(stream);
    let sender = match is_http2 {
        true => {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES)
                .max_header_list_size(HEADER_LIST_BYTES_MAX)
                .handshake(io)
                .await?;
            tokio::spawn(async move { crate::events::upstream_ended(connection.await.err()) });
            Sender::Many(sender)
        }
        false => {
            let (sender, connection) = http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(io).await?;
            tokio::spawn(async move { crate::events::upstream_ended(connection.with_upgrades().await.err()) });
            Sender::One(sender)
        }
    };
    Ok(Ready { sender, agreed })
}

impl Sending<'_> {
    /// Sends the request over a kept link or a new one. The permit is used up either way.
    pub(crate) async fn send(self, permit: Permit, request: Request<WebBody>) -> Result<(Response<Incoming>, Agreed), LinkError> {
        let mut request = request;
        if let Some(mut link) = self.ready_link().await {
            fit(&mut request, self.origin, link.agreed.is_http2);
            match timeout(self.wait, link.sender.exchange(request)).await.map_err(|_| LinkError::Deadline)? {
                Ok(response) => return Ok(self.keep(link, response)),
                // The origin closed an idle link at the same moment. Nothing was sent, so it is sent again.
                Err((_, Some(unsent))) => request = unsent,
                Err((error, None)) => return Err(LinkError::Exchange(error)),
            }
        }
        let alpn = match self.leg {
            Leg::Http1 => Alpn::Http1,
            Leg::Http2 => Alpn::Http2AndHttp1,
        };
        let ready = open(permit, self.origin.scheme, alpn, self.connector).await?;
        let mut link = Link { origin: self.origin.clone(), sender: ready.sender, agreed: ready.agreed };
        fit(&mut request, self.origin, link.agreed.is_http2);
        let answered = timeout(self.wait, link.sender.exchange(request)).await.map_err(|_| LinkError::Deadline)?;
        match answered {
            Ok(response) => Ok(self.keep(link, response)),
            Err((error, _)) => Err(LinkError::Exchange(error)),
        }
    }

    async fn ready_link(&self) -> Option<Link> {
        let mut link = self.links.take(self.origin)?;
        match &mut link.sender {
            Sender::Many(sender) => sender.ready().await.is_ok(),
            // A client that speaks HTTP/2 has several requests at once, so a busy link is left to the one that has it.
            Sender::One(sender) if self.leg == Leg::Http2 && !sender.is_ready() => {
                self.links.put(link);
                return None;
            }
            Sender::One(sender) => matches!(timeout(READY_WAIT, sender.ready()).await, Ok(Ok(()))),
        }
        .then_some(link)
    }

    fn keep(&self, link: Link, response: Response<Incoming>) -> (Response<Incoming>, Agreed) {
        let agreed = link.agreed;
        let is_shared_and_kept = agreed.is_http2 && self.links.agreed(self.origin).is_some_and(|kept| kept.is_http2);
        if response.status() != http::StatusCode::SWITCHING_PROTOCOLS && !is_shared_and_kept {
            self.links.put(link);
        }
        (response, agreed)
    }
}

impl Sender {
    /// The response, or the error and the request where nothing of it was sent.
    async fn exchange(
        &mut self,
        request: Request<WebBody>,
    ) -> Result<Response<Incoming>, (hyper::Error, Option<Request<WebBody>>)> {
        match self {
            Sender::One(sender) => {
                sender.try_send_request(request).await.map_err(|mut error| (error.take_message(), error)).map_err(unsent)
            }
            Sender::Many(sender) => {
                sender.try_send_request(request).await.map_err(|mut error| (error.take_message(), error)).map_err(unsent)
            }
        }
    }
}

type Unsent = hyper::client::conn::TrySendError<Request<WebBody>>;

fn unsent((message, error): (Option<Request<WebBody>>, Unsent)) -> (hyper::Error, Option<Request<WebBody>>) {
    (error.into_error(), message)
}

/// Gives the request the form of the link's protocol (RFC 9112 section 3.2.1, RFC 9113 section 8.3.1).
fn fit(request: &mut Request<WebBody>, origin: &Origin, is_http2: bool) {
    let authority = origin.authority();
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let (version, uri) = match is_http2 {
        true => (
            Version::HTTP_2,
            Uri::builder().scheme(origin.scheme.as_str()).authority(authority.as_str()).path_and_query(path).build(),
        ),
        false => (Version::HTTP_11, Uri::builder().path_and_query(path).build()),
    };
    *request.version_mut() = version;
    if let Ok(uri) = uri {
        *request.uri_mut() = uri;
    }
    set_host(request.headers_mut(), &authority, is_http2);
}

fn set_host(headers: &mut HeaderMap, authority: &str, is_http2: bool) {
    headers.remove(header::HOST);
    if is_http2 {
        return;
    }
    headers.remove(header::TE);
    if let Ok(value) = http::HeaderValue::from_str(authority) {
        headers.insert(header::HOST, value);
    }
}
