//! How clients reach a destination: requests to the explicit proxy, CONNECT, and tunnels that came over SOCKS5 or by
//! redirection. A tunnel is decrypted, read as plain HTTP, relayed blindly or refused; whichever it is, its event says so.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use checkpoint::{Credential, Passage, Unproved};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use model::{Disposition, FieldId, Identity, Session, Station, Transport, Value};
use net::framing::CheckedStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::body::WebBody;
use crate::enforce::{self, Answer, Asker};
use crate::facts::learn_origin;
use crate::forward::{answer, own, split_port};
use crate::inspect_tls::{self, First};
use crate::page::wants_html;
use crate::session::{Leg, Origin, Road, Scheme, Shared, Tunnel, canonical_host};
use crate::stream::{Cut, ProxyStream, Rewound};
use crate::{pac, serve};

/// One direction of a relay copies this much at a time: a few TLS records.
const RELAY_BYTES: usize = 16 << 10;
/// Resolving takes longer than this only where the name server is down.
const RESOLVE_WAIT: Duration = Duration::from_secs(5);
/// Longest credentials: a token is 52 characters, a Basic field a few hundred.
const CREDENTIAL_BYTES_MAX: usize = 1024;

/// One request to the explicit proxy.
pub(crate) async fn proxied(road: Arc<Road>, request: Request<Incoming>) -> Answer {
    let is_own = request.uri().authority().is_none() && request.method() != Method::CONNECT;
    if is_own {
        return Ok(own_path(&road, &request));
    }
    let session = match authenticate(&road, request.headers()).await {
        Ok(session) => session,
        Err(challenge) => return Ok(*challenge),
    };
    match request.method() == Method::CONNECT {
        true => Ok(accept_connect(road, session, request)),
        false => answer(road, Some(session), request).await,
    }
}

/// Paths of the proxy itself: the PAC file and the authority's certificate.
fn own_path(road: &Road, request: &Request<Incoming>) -> Response<WebBody> {
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    match request.uri().path() {
        "/proxy.pac" | "/wpad.dat" if is_get => {
            let scheme = if road.is_secure { "HTTPS" } else { "PROXY" };
            let written = || Bytes::from(pac::script(scheme, road.session.local, &road.shared.config.pac_direct));
            own(pac::MEDIA_TYPE, road.shared.config.pac_file.clone().unwrap_or_else(written))
        }
        "/sekisho/ca.pem" if is_get => own("application/x-pem-file", road.authority_pem()),
        _ => {
            let mut response =
                own("text/plain; charset=utf-8", Bytes::from_static(b"This is a proxy. Its settings are at /proxy.pac.\n"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

/// The session of one request: the connection's, with the user that its credentials prove.
async fn authenticate(road: &Road, headers: &HeaderMap) -> Result<Session, Box<Response<WebBody>>> {
    let mut session = road.session.clone();
    match headers.get(header::PROXY_AUTHORIZATION) {
        // Wrong credentials are not forgiven: the client believes that it is somebody.
        Some(value) => match identify(&road.shared, value.as_bytes()).await {
            Ok(identity) => session.identity = Some(identity),
            Err(unproved) => return Err(Box::new(challenge(road, headers, unproved))),
        },
        None if session.identity.is_none() && road.shared.config.require_credentials => {
            return Err(Box::new(challenge(road, headers, Unproved::Unknown)));
        }
        None => {}
    }
    Ok(session)
}

/// `Basic` with a token in either place, or with a password; or `Bearer` with a token.
async fn identify(shared: &Shared, value: &[u8]) -> Result<Arc<Identity>, Unproved> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= CREDENTIAL_BYTES_MAX);
    let (scheme, rest) = text.and_then(|text| text.split_once(' ')).ok_or(Unproved::Unknown)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return shared.checkpoint.identify(&Credential::Token(rest.trim()));
    }
    let decoded = scheme
        .eq_ignore_ascii_case("basic")
        .then(|| base64::engine::general_purpose::STANDARD.decode(rest.trim()).ok())
        .flatten()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or(Unproved::Unknown)?;
    let (user, password) = decoded.split_once(':').ok_or(Unproved::Unknown)?;
    shared.checkpoint.authenticate(&Credential::Basic { user, password }).await
}

fn challenge(road: &Road, headers: &HeaderMap, unproved: Unproved) -> Response<WebBody> {
    let asker = Asker { host: String::new(), wants_html: wants_html(headers) };
    let passage = road.shared.checkpoint.examine(&road.session);
    let reason = match unproved {
        Unproved::Unknown => "This proxy wants to know who you are.",
        Unproved::Expired => "The time of your token for this proxy is over. Ask your administrator for another.",
    };
    let mut response = enforce::bad_request(road, &asker, passage, 407, unproved.as_str(), reason);
    response
        .headers_mut()
        .insert(header::PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Sekisho\", charset=\"UTF-8\""));
    response
}

/// Answers 200 and takes the connection over. What is inside is looked at before anything is connected.
fn accept_connect(road: Arc<Road>, session: Session, mut request: Request<Incoming>) -> Response<WebBody> {
    let authority = request.uri().authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
    let Some((host, port)) = split_port(&authority).and_then(|(host, port)| Some((canonical_host(host)?, port?))) else {
        let asker = Asker { host: String::new(), wants_html: false };
        let passage = road.shared.checkpoint.examine(&session);
        return enforce::bad_request(&road, &asker, passage, 400, "bad_target", "CONNECT needs a host and a port.");
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<CheckedStream<ProxyStream>>>() else { return };
        let stream = Rewound::new(parts.read_buf, parts.io.into_inner());
        let arrival =
            Arrival { shared: road.shared.clone(), session, cut: road.cut.clone(), host, port, slot: road.slot.clone() };
        // In a box of its own: the state of a tunnel is large, and spawning moves what it is given several times.
        Box::pin(arrival.run(stream)).await;
    });
    Response::new(WebBody::empty())
}

/// A client that wants to speak to a destination, before its first bytes.
pub(crate) struct Arrival {
    pub(crate) shared: Arc<Shared>,
    pub(crate) session: Session,
    pub(crate) cut: Cut,
    /// As the client named it: a name or an address.
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
    pub(crate) slot: serve::Slot,
}

impl Arrival {
    /// Looks at the first bytes and goes the way that they ask for.
    pub(crate) async fn run<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, mut stream: S) {
        let first = match timeout(self.shared.config.handshake, inspect_tls::first(&mut stream)).await {
            Ok(first) => first,
            Err(_) => First::Silent,
        };
        match first {
            First::Tls(hello) => inspect_tls::run(self, hello, stream).await,
            First::Http(bytes) => self.plain(Rewound::new(bytes, stream)).await,
            First::Other => self.refuse("not_http"),
            First::Silent => self.refuse("silent_client"),
            First::Broken => self.refuse("client_gone"),
        }
    }

    /// Plain HTTP in a tunnel, as browsers use it for WebSockets.
    async fn plain<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S) {
        if self.host.parse::<IpAddr>().is_ok() {
            // The client chose an address; which site it means, its requests say.
            let port = self.port;
            let mut road = self.road(None, Leg::Http1);
            road.intercepted_port = Some(port);
            return serve::http1(road, stream).await;
        }
        let origin = Origin { scheme: Scheme::Http, host: self.host.clone(), port: self.port };
        let learned = [(FieldId::DetectedProtocol, Value::text("http"))];
        let (passage, addresses) = self.examine(&origin, &learned).await;
        let tunnel = Tunnel::new(origin, addresses, passage, None);
        serve::http1(self.road(Some(tunnel), Leg::Http1), stream).await;
    }

    /// Begins the tunnel's transaction and tells it the destination.
    pub(crate) async fn examine(&self, origin: &Origin, learned: &[(FieldId, Value)]) -> (Passage, Vec<IpAddr>) {
        let mut passage = self.shared.checkpoint.examine(&self.session);
        learn_origin(&mut passage, &self.shared, origin);
        for (field, value) in learned {
            passage.learn(*field, value.clone());
        }
        let addresses = match self.host.parse() {
            Ok(chosen) => vec![chosen],
            Err(_) => resolve(&self.shared, &origin.host).await,
        };
        learn_addresses(&mut passage, &addresses);
        passage.reach(Station::Handshake);
        (passage, addresses)
    }

    /// Ends a tunnel that is neither TLS nor HTTP.
    fn refuse(self, failure: &'static str) {
        let mut passage = self.shared.checkpoint.examine(&self.session);
        let origin = Origin { scheme: Scheme::Https, host: self.host.clone(), port: self.port };
        learn_origin(&mut passage, &self.shared, &origin);
        end_refused(passage, failure);
        self.cut.reset();
    }

    pub(crate) fn road(self, tunnel: Option<Tunnel>, leg: Leg) -> Road {
        Road {
            shared: self.shared,
            session: self.session,
            cut: self.cut,
            leg,
            links: Default::default(),
            tunnel,
            intercepted_port: None,
            framing: None,
            is_secure: false,
            slot: self.slot,
        }
    }
}

/// The event of a tunnel that the gate itself does not open.
pub(crate) fn end_refused(mut passage: Passage, failure: &'static str) {
    mark_tunnel(&mut passage);
    passage.fail(failure);
    passage.finish(Disposition::Blocked);
}

/// The method by which tunnels are found in the record, whatever brought them.
pub(crate) fn mark_tunnel(passage: &mut Passage) {
    passage.learn(FieldId::HttpMethod, Value::text("CONNECT"));
}

pub(crate) fn learn_addresses(passage: &mut Passage, addresses: &[IpAddr]) {
    if let Some(first) = addresses.first() {
        passage.learn(FieldId::DestinationIp, Value::Ip(*first));
        passage.learn(FieldId::WebDestinationIps, Value::ips(addresses.iter().copied()));
    }
}

/// The addresses of a host; none where it has none or they cannot be found, which the connection then says.
pub(crate) async fn resolve(shared: &Shared, host: &str) -> Vec<IpAddr> {
    if let Ok(address) = host.parse() {
        return vec![address];
    }
    match timeout(RESOLVE_WAIT, shared.connector.resolver.resolve(host)).await {
        Ok(Ok(addresses)) => addresses.into_iter().map(|address| address.to_canonical()).collect(),
        _ => Vec::new(),
    }
}

/// How a relay ended.
pub(crate) struct Relayed {
    out: u64,
    into: u64,
    is_idle: bool,
}

impl Relayed {
    /// Records the end of the transaction whose bytes were relayed.
    pub(crate) fn finish(self, mut passage: Passage) {
        passage.count(self.out, self.into);
        if self.is_idle {
            passage.fail("idle");
        }
        passage.finish(Disposition::Allowed);
    }
}

/// Copies both ways until both sides have ended, one has failed, or nothing has moved for the given time.
pub(crate) async fn relay<A, B>(client: A, upstream: B, idle: Duration) -> Relayed
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (client_reader, client_writer) = tokio::io::split(client);
    let (upstream_reader, upstream_writer) = tokio::io::split(upstream);
    let (out, into) = (AtomicU64::new(0), AtomicU64::new(0));
    let both = async {
        let _ = tokio::try_join!(copy(client_reader, upstream_writer, &out), copy(upstream_reader, client_writer, &into));
    };
    let moved = || out.load(Ordering::Relaxed) + into.load(Ordering::Relaxed);
    let watch = async {
        let mut before = moved();
        loop {
            tokio::time::sleep(idle).await;
            match moved() {
                same if same == before => return,
                more => before = more,
            }
        }
    };
    let is_idle = tokio::select! {
        () = both => false,
        () = watch => true,
    };
    Relayed { out: out.into_inner(), into: into.into_inner(), is_idle }
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, moved: &AtomicU64) -> std::io::Result<()> {
    let mut buffer = vec![0; RELAY_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(buffer.get(..count).unwrap_or_default()).await?;
        to.flush().await?;
        moved.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// The word by which the record knows the way in.
pub(crate) fn session_of(
    shared: &Shared,
    transport: Transport,
    client: std::net::SocketAddr,
    local: std::net::SocketAddr,
) -> Session {
    let location = shared.checkpoint.locate(client.ip(), None);
    Session {
        id: shared.checkpoint.next_session(),
        gate: model::Gate::Web,
        transport,
        began: std::time::SystemTime::now().into(),
        client,
        local,
        location: location.as_ref().map(|location| location.name.clone()).unwrap_or_default(),
        identity: location.and_then(|location| location.identity),
    }
}
