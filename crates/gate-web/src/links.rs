//! Connections to origins. Each client connection has its own and never shares them with another: what one client
//! authenticated stays its own, and blame is simple. A link is kept for the next request to the same origin.
//!
//! An HTTP/1 link has no task of its own where that can be avoided: whoever waits for its answer, or reads the answer's
//! body, moves its bytes. A request then wakes one task and no other thread, and a client that does not read stops its
//! origin without a buffer in between.

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use checkpoint::Permit;
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, Response, Uri, Version, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use net::mint::Alpn;
use net::trust::CertificateProblem;
use net::upstream::{Connector, Security, Upstream, UpstreamStream, UpstreamTls, UpstreamTlsVersion, connect};
use tokio::time::timeout;

use crate::body::WebBody;
use crate::session::{Leg, Origin, Scheme};

/// Links that one client connection keeps. A browser speaks to few origins over one proxy connection.
const LINKS_MAX: usize = 8;
/// A link whose last request body is still under way is waited for this long before another is opened.
const READY_WAIT: Duration = Duration::from_millis(200);
/// Read and write buffer of one HTTP/1 connection, and with it the longest head.
pub(crate) const HEAD_BYTES_MAX: usize = 128 << 10;
/// Flow-control windows of HTTP/2 legs: bodies of one round trip at usual rates.
const WINDOW_BYTES: u32 = 1 << 20;
/// Longest header list of HTTP/2, as large as what common origins send with room to spare.
pub(crate) const HEADER_LIST_BYTES_MAX: u32 = 64 << 10;
/// Fields of one head (hyper's own default).
pub(crate) const HEADERS_MAX: usize = 100;

/// The links of one client connection. Clones share them: a body on its way brings its link back.
#[derive(Clone, Default)]
pub(crate) struct Links(Arc<Kept>);

#[derive(Default)]
struct Kept {
    links: Mutex<Vec<Link>>,
    addresses: Mutex<Vec<(Arc<str>, Vec<IpAddr>)>>,
}

struct Link {
    origin: Origin,
    sender: Sender,
    agreed: Agreed,
}

enum Sender {
    One(Single),
    Many(http2::SendRequest<WebBody>),
}

/// An HTTP/1 connection, on which one request is under way at a time.
struct Single {
    sender: http1::SendRequest<WebBody>,
    /// None once it has ended, or has been left to a task.
    connection: Option<Box<http1::Connection<TokioIo<UpstreamStream>, WebBody>>>,
}

/// A body that is received. Reading that of an HTTP/1 link moves the link, which is kept again at the body's end.
pub(crate) struct Received {
    incoming: Incoming,
    link: Option<Box<(Link, Links)>>,
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
            LinkError::Open(net::Error::Deadline) => "deadline",
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
        let mut links = self.0.links.lock().unwrap_or_else(PoisonError::into_inner);
        if links.len() == LINKS_MAX {
            links.remove(0);
        }
        links.push(link);
    }

    /// What was agreed with an origin to which a link is open.
    pub(crate) fn agreed(&self, origin: &Origin) -> Option<Agreed> {
        let links = self.0.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.iter().find(|link| link.origin == *origin && !link.is_closed()).map(|link| link.agreed)
    }

    pub(crate) fn addresses(&self, host: &str) -> Option<Vec<IpAddr>> {
        let known = self.0.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(name, _)| **name == *host).map(|(_, addresses)| addresses.clone())
    }

    pub(crate) fn keep_addresses(&self, host: &Arc<str>, addresses: &[IpAddr]) {
        let mut known = self.0.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() == LINKS_MAX {
            known.remove(0);
        }
        known.push((host.clone(), addresses.to_vec()));
    }

    /// A link to this origin: a share of an HTTP/2 connection, or an HTTP/1 connection that is taken out.
    fn take(&self, origin: &Origin) -> Option<Link> {
        let mut links = self.0.links.lock().unwrap_or_else(PoisonError::into_inner);
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
            Sender::One(single) => single.sender.is_closed(),
            Sender::Many(sender) => sender.is_closed(),
        }
    }
}

impl Single {
    /// Moves the bytes that can be moved.
    fn turn(&mut self, cx: &mut Context<'_>) {
        let Some(connection) = &mut self.connection else { return };
        if let Poll::Ready(ended) = Pin::new(connection.as_mut()).poll(cx) {
            crate::events::upstream_ended(ended.err());
            self.connection = None;
        }
    }

    async fn ready(&mut self) -> bool {
        let ready = poll_fn(|cx| {
            self.turn(cx);
            self.sender.poll_ready(cx)
        });
        ready.await.is_ok()
    }

    /// A request with a body moves while its answer may be waiting for the client, and an upgrade ends the connection as
    /// hyper knows it: both need a task.
    fn leave_to_task(&mut self) {
        if let Some(connection) = self.connection.take() {
            tokio::spawn(async move { crate::events::upstream_ended(connection.with_upgrades().await.err()) });
        }
    }

    async fn exchange(&mut self, request: Request<WebBody>) -> Result<Response<Incoming>, Unsent> {
        if !request.body().is_end_stream() || request.headers().contains_key(header::UPGRADE) {
            self.leave_to_task();
        }
        let mut answer = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| {
            self.turn(cx);
            answer.as_mut().poll(cx)
        })
        .await
    }
}

impl From<Incoming> for Received {
    fn from(incoming: Incoming) -> Received {
        Received { incoming, link: None }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let mut next = Pin::new(&mut this.incoming).poll_frame(cx);
        if let (true, Some(place)) = (next.is_pending(), &mut this.link)
            && let Sender::One(single) = &mut place.0.sender
        {
            single.turn(cx);
            next = Pin::new(&mut this.incoming).poll_frame(cx);
        }
        let has_ended = match &next {
            Poll::Pending => false,
            Poll::Ready(Some(Ok(_))) => this.incoming.is_end_stream(),
            Poll::Ready(_) => true,
        };
        if let Some(place) = this.link.take_if(|_| has_ended) {
            let (link, links) = *place;
            links.put(link);
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
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
            Sender::One(Single { sender, connection: Some(Box::new(connection)) })
        }
    };
    Ok(Ready { sender, agreed })
}

impl Sending<'_> {
    /// Sends the request over a kept link or a new one. The permit is used up either way.
    pub(crate) async fn send(self, permit: Permit, request: Request<WebBody>) -> Result<(Response<Received>, Agreed), LinkError> {
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
            Sender::One(single) => timeout(READY_WAIT, single.ready()).await.unwrap_or(false),
        }
        .then_some(link)
    }

    /// A shared link is kept at once, one of HTTP/1 when the body has come.
    fn keep(&self, link: Link, response: Response<Incoming>) -> (Response<Received>, Agreed) {
        let agreed = link.agreed;
        let has_switched = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
        let has_ended = response.body().is_end_stream();
        let mut response = response.map(Received::from);
        match &link.sender {
            _ if has_switched => {}
            Sender::One(_) if !has_ended => response.body_mut().link = Some(Box::new((link, self.links.clone()))),
            Sender::Many(_) if self.links.agreed(self.origin).is_some_and(|kept| kept.is_http2) => {}
            Sender::One(_) | Sender::Many(_) => self.links.put(link),
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
            Sender::One(single) => single.exchange(request).await,
            Sender::Many(sender) => sender.try_send_request(request).await,
        }
        .map_err(|mut unsent| (unsent.take_message(), unsent))
        .map_err(|(message, unsent)| (unsent.into_error(), message))
    }
}

type Unsent = hyper::client::conn::TrySendError<Request<WebBody>>;

/// Gives the request the form of the link's protocol (RFC 9112 section 3.2.1, RFC 9113 section 8.3.1).
fn fit(request: &mut Request<WebBody>, origin: &Origin, is_http2: bool) {
    let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    let (version, uri) = match is_http2 {
        true => (
            Version::HTTP_2,
            Uri::builder().scheme(origin.scheme.as_str()).authority(origin.authority()).path_and_query(path).build().ok(),
        ),
        false => (Version::HTTP_11, request.uri().authority().is_some().then(|| Uri::from(path))),
    };
    *request.version_mut() = version;
    if let Some(uri) = uri {
        *request.uri_mut() = uri;
    }
    set_host(request.headers_mut(), origin, is_http2);
}

fn set_host(headers: &mut HeaderMap, origin: &Origin, is_http2: bool) {
    if is_http2 {
        headers.remove(header::HOST);
        return;
    }
    // What the client takes is asked of the origin, as this connection's own field (RFC 9110 section 10.1.4).
    if headers.contains_key(header::TE) && !headers.contains_key(header::CONNECTION) {
        headers.insert(header::CONNECTION, http::HeaderValue::from_static("TE"));
    } else {
        headers.remove(header::TE);
    }
    let is_right = |host: &http::HeaderValue| host.to_str().is_ok_and(|host| origin.is_written(host));
    // A second Host has been refused before.
    if headers.get(header::HOST).is_some_and(is_right) {
        return;
    }
    headers.remove(header::HOST);
    if let Ok(value) = http::HeaderValue::from_str(&origin.authority()) {
        headers.insert(header::HOST, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_that_is_too_slow_to_connect_is_late_and_not_unreachable() {
        assert_eq!(LinkError::from(net::Error::Deadline).failure(), "deadline");
        assert_eq!(LinkError::from(net::Error::NoAddress).failure(), "upstream_name");
    }
}
