//! The one async loop: listeners, their connections, and the end. Each connection is one task and holds one of a bounded
//! number of slots until its last tunnel has ended; draining is waiting for all slots.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use checkpoint::{Checkpoint, Credential};
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1 as server1, http2 as server2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use model::{Identity, Session, Transport};
use net::admission::{Admission, Doorkeeper, Ticket, now};
use net::authority::Authority;
use net::framing::{CheckedStream, FramingProblem};
use net::mint::{Alpn, LeafHost, Minter};
use net::proxyprotocol::{self, Proxied, TrustedSources};
use net::sockets::Sockets;
use net::transparent::{intercepted_destination, listen_transparent, redirected_destination};
use net::trust::Trust;
use net::upstream::{ConnectLimits, Connector, DialGuard, Resolver};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::Error;
use crate::connect::{Arrival, end_refused, proxied, session_of};
use crate::context::ContextKey;
use crate::enforce::Answer;
use crate::forward::answer;
use crate::links::{HEAD_BYTES_MAX, HEADER_LIST_BYTES_MAX, HEADERS_MAX};
use crate::session::{Leg, Road, Shared, canonical_peer};
use crate::socks;
use crate::spec::WebGateConfig;
use crate::spool::Room;
use crate::stream::{ClientStream, Cut, ProxyStream};

/// TL-12: concurrent streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// Flow-control window of a client's stream; uploads are spooled as fast as they come.
const WINDOW_BYTES: u32 = 1 << 20;
/// After a failure to accept, so that a lack of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections queued by the kernel.
const BACKLOG_CONNECTIONS: u32 = 1024;

/// A place among the connections of the gate. Shared by a connection and the tunnels in it.
pub(crate) type Slot = Arc<OwnedSemaphorePermit>;

/// What the gate needs from others to reach the world and to speak TLS.
pub struct Means {
    pub authority: Arc<Authority>,
    pub minter: Arc<Minter>,
    pub trust: Arc<Trust>,
    pub resolver: Arc<dyn Resolver>,
    /// Listeners of other gates, and exemptions. The gate adds its own listeners.
    pub guard: DialGuard,
    pub limits: ConnectLimits,
    /// Seals what the target of a redirect is told (GW-156).
    pub context: Arc<ContextKey>,
    /// Authorities whose certificates clients may show to the proxy; none where it asks for none.
    pub client_roots: Vec<CertificateDer<'static>>,
    /// Who is let in, before a byte is read; none lets everyone in.
    pub admission: Option<Arc<Admission>>,
}

/// Where the gate listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    pub proxy: Option<SocketAddr>,
    pub proxy_tls: Option<SocketAddr>,
    pub socks5: Option<SocketAddr>,
    pub transparent: Option<SocketAddr>,
}

/// A gate whose listeners are open.
pub struct WebGate {
    addresses: Addresses,
    listeners: Vec<(Door, TcpListener)>,
    sockets: Sockets,
    shared: Arc<Shared>,
    slots: Arc<Semaphore>,
    stop: watch::Sender<bool>,
    admission: Option<Arc<Admission>>,
}

/// The kind of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Proxy,
    SecureProxy,
    Socks,
    Transparent,
}

impl Door {
    fn as_str(self) -> &'static str {
        match self {
            Door::Proxy => "proxy",
            Door::SecureProxy => "proxy_tls",
            Door::Socks => "socks5",
            Door::Transparent => "transparent",
        }
    }

    fn transport(self) -> Transport {
        match self {
            Door::Proxy | Door::SecureProxy => Transport::Proxy,
            Door::Socks => Transport::Socks,
            Door::Transparent => Transport::Transparent,
        }
    }
}

/// Opens the listeners of a gate that is the first on its addresses.
pub async fn bind(config: WebGateConfig, checkpoint: Checkpoint, means: Means) -> Result<WebGate, Error> {
    bind_over(config, checkpoint, means, &Sockets::default()).await
}

/// Opens every listener, or none. Sockets of an earlier gate are taken over.
pub async fn bind_over(config: WebGateConfig, checkpoint: Checkpoint, means: Means, earlier: &Sockets) -> Result<WebGate, Error> {
    let mut listeners = Listeners { earlier, sockets: Sockets::default(), open: Vec::new() };
    let mut addresses = Addresses::default();
    if let Some(address) = config.proxy {
        addresses.proxy = Some(listeners.listen(Door::Proxy, address)?);
    }
    let mut proxy_tls = None;
    if let Some(address) = config.proxy_tls {
        addresses.proxy_tls = Some(listeners.listen(Door::SecureProxy, address)?);
        proxy_tls = Some(TlsAcceptor::from(Arc::new(secure_config(&config, address, &means)?)));
    }
    if let Some(address) = config.socks5 {
        addresses.socks5 = Some(listeners.listen(Door::Socks, address)?);
    }
    if let Some(address) = config.transparent {
        addresses.transparent = Some(listeners.listen(Door::Transparent, address)?);
    }
    let mut guard = means.guard;
    guard
        .own_listeners
        .extend([addresses.proxy, addresses.proxy_tls, addresses.socks5, addresses.transparent].into_iter().flatten());
    let (stop, stopping) = watch::channel(false);
    let slots = Arc::new(Semaphore::new(config.connections_max));
    let room = Room::new(config.scan.spool_bytes_max);
    let admission = means.admission;
    let via = via(&means.minter);
    let connector = Connector { resolver: means.resolver, trust: means.trust, guard, limits: means.limits };
    let balancers = TrustedSources { networks: config.proxy_protocol_from.clone() };
    let shared = Arc::new(Shared {
        config,
        checkpoint,
        minter: means.minter,
        connector,
        authority: means.authority,
        context: means.context,
        balancers,
        proxy_tls,
        transparent: addresses.transparent,
        room,
        via,
        stopping,
    });
    let Listeners { sockets, open: listeners, .. } = listeners;
    Ok(WebGate { addresses, listeners, sockets, shared, slots, stop, admission })
}

/// TLS to the proxy itself. A certificate of the client's, where it shows one, must be of the configured authorities.
fn secure_config(config: &WebGateConfig, address: SocketAddr, means: &Means) -> Result<rustls::ServerConfig, Error> {
    let refuse = |name| move |_| Error::Setting { name, reason: "no listener can be made with it" };
    let mut names = config.proxy_names.clone();
    if !address.ip().is_unspecified() {
        names.push(LeafHost::Address(address.ip()));
    }
    let clients = match means.client_roots.is_empty() {
        true => None,
        false => Some(client_verifier(&means.client_roots).ok_or(()).map_err(refuse("client_authorities"))?),
    };
    let made = means.minter.listener_config(names, Alpn::Http1, clients, SystemTime::now());
    made.map_err(|_| ()).map_err(refuse("proxy_names"))
}

fn client_verifier(authorities: &[CertificateDer<'static>]) -> Option<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).ok()?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    // Who shows none may still prove who it is with a password or a token, or is asked to.
    builder.allow_unauthenticated().build().ok()
}

/// What is open so far, and what an earlier gate had open.
struct Listeners<'a> {
    earlier: &'a Sockets,
    sockets: Sockets,
    open: Vec<(Door, TcpListener)>,
}

impl Listeners<'_> {
    fn listen(&mut self, door: Door, address: SocketAddr) -> Result<SocketAddr, Error> {
        let failed = |source| Error::Listen { address, source };
        let taken = self.sockets.listener(self.earlier, door.as_str(), address, || open(door, address));
        let listener = taken.and_then(TcpListener::from_std).map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        crate::events::listening(door.as_str(), bound);
        self.open.push((door, listener));
        Ok(bound)
    }
}

fn open(door: Door, address: SocketAddr) -> io::Result<std::net::TcpListener> {
    if door == Door::Transparent
        && let Ok(listener) = listen_transparent(address)
    {
        return listener.into_std();
    }
    // Without the privilege for TPROXY, connections can still be redirected to an ordinary listener.
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG_CONNECTIONS)?.into_std()
}

/// Our pseudonym in Via. It differs between processes, because two gateways in a row are no loop.
fn via(minter: &Minter) -> HeaderValue {
    let digest: String = minter.leaf_key_sha256().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::from_str(&format!("1.1 sekisho-{digest}")).unwrap_or(HeaderValue::from_static("1.1 sekisho"))
}

impl WebGate {
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Second handles on the listening sockets, for the gate that takes this one's place.
    pub fn take_sockets(&mut self) -> Sockets {
        std::mem::take(&mut self.sockets)
    }

    /// Serves until told to stop, then lets what is under way end for the drain time.
    pub async fn serve(self, mut shutdown: watch::Receiver<bool>) {
        let WebGate { listeners, shared, slots, stop, admission, .. } = self;
        let loops: Vec<_> = listeners
            .into_iter()
            .map(|(door, listener)| {
                let keeper = admission.as_ref().and_then(|admission| keeper(admission, door, &listener, &shared));
                tokio::spawn(accept(door, listener, keeper, shared.clone(), slots.clone()))
            })
            .collect();
        // A sender that is gone is as good as the word to stop.
        let _ = shutdown.wait_for(|is_stopping| *is_stopping).await;
        let _ = stop.send(true);
        for accepting in loops {
            accepting.abort();
        }
        let all = u32::try_from(shared.config.connections_max).unwrap_or(u32::MAX);
        let _ = timeout(shared.config.drain, slots.acquire_many(all)).await;
        crate::events::drained(shared.config.connections_max.saturating_sub(slots.available_permits()));
    }
}

/// Who lets connections in at this listener.
fn keeper(admission: &Arc<Admission>, door: Door, listener: &TcpListener, shared: &Shared) -> Option<Doorkeeper> {
    let address = listener.local_addr().ok()?;
    let listener = admission.listener("web", door.as_str(), address, shared.config.connections_max);
    Some(Doorkeeper { admission: Arc::clone(admission), listener })
}

async fn accept(door: Door, listener: TcpListener, keeper: Option<Doorkeeper>, shared: Arc<Shared>, slots: Arc<Semaphore>) {
    loop {
        if slots.available_permits() == 0 {
            crate::events::connections_full(door.as_str());
        }
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((tcp, peer)) => {
                let peer = canonical_peer(peer);
                // A balancer brings many clients, each of whom is looked at when it has been named.
                let ticket = match keeper.as_ref().filter(|_| !shared.balancers.contains(peer.ip())) {
                    Some(keeper) => match keeper.admit(&tcp, peer.ip()) {
                        Some(ticket) => Some(ticket),
                        None => continue,
                    },
                    None => None,
                };
                let entrance = Entrance { door, tcp, peer, ticket, keeper: keeper.clone() };
                let shared = shared.clone();
                // In a box of its own: the state of a connection is large, and spawning moves what it is given several times.
                tokio::spawn(Box::pin(enter(entrance, shared, Arc::new(slot))));
            }
            Err(error) => {
                crate::events::accept_failed(door.as_str(), &error);
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection that was just accepted.
struct Entrance {
    door: Door,
    tcp: TcpStream,
    peer: SocketAddr,
    ticket: Option<Ticket>,
    keeper: Option<Doorkeeper>,
}

/// One client connection.
async fn enter(entrance: Entrance, shared: Arc<Shared>, slot: Slot) {
    let Entrance { door, mut tcp, peer, mut ticket, keeper } = entrance;
    let Ok(local) = ready(&tcp) else { return };
    let Ok((client, local)) = behind_balancer(&mut tcp, peer, local, &shared).await else { return };
    if let Some(keeper) = keeper.filter(|_| ticket.is_none()) {
        let Some(admitted) = keeper.admit(&tcp, client.ip()) else { return };
        ticket = Some(admitted);
    }
    let transport = door.transport();
    if let Some(reason) = refusal(&shared, transport, client.ip()) {
        // The connection is closed before a byte of it is read, and leaves an event.
        return end_refused(shared.checkpoint.examine(&session_of(&shared, transport, client, local)), reason);
    }
    match door {
        Door::Proxy => {
            let session = session_of(&shared, transport, client, local);
            let stream = ClientStream::new(tcp, ticket);
            let cut = stream.cut();
            serve_proxy(shared, session, cut, slot, ProxyStream::Plain(stream)).await;
        }
        Door::SecureProxy => {
            let Some(acceptor) = shared.proxy_tls.clone() else { return };
            if ticket.as_ref().is_some_and(|ticket| ticket.may_handshake(now()).is_err()) {
                let _ = tcp.set_zero_linger();
                return;
            }
            let mut session = session_of(&shared, transport, client, local);
            let stream = ClientStream::new(tcp, ticket);
            let cut = stream.cut();
            let accepted = timeout(shared.config.handshake, acceptor.accept(stream)).await;
            let Ok(Ok(stream)) = accepted else { return crate::events::proxy_handshake_failed() };
            if let Some(identity) = certified(&shared, &stream) {
                session.identity = Some(identity);
            }
            serve_proxy(shared, session, cut, slot, ProxyStream::Tls(Box::new(stream))).await;
        }
        Door::Socks => {
            let session = session_of(&shared, transport, client, local);
            socks::enter(shared, session, tcp, ticket, slot).await;
        }
        Door::Transparent => {
            let destination = redirected_destination(&tcp).or_else(|_| intercepted_destination(&tcp, local_listener(&shared)));
            let Ok(destination) = destination.map(canonical_peer) else { return };
            let session = session_of(&shared, transport, client, destination);
            let stream = ClientStream::new(tcp, ticket);
            let cut = stream.cut();
            let host = Arc::from(destination.ip().to_string());
            Arrival { shared, session, cut, host, port: destination.port(), slot }.run(stream).await;
        }
    }
}

async fn serve_proxy(shared: Arc<Shared>, session: Session, cut: Cut, slot: Slot, stream: ProxyStream) {
    let road = Road {
        shared,
        session,
        cut,
        leg: Leg::Http1,
        links: Default::default(),
        tunnel: None,
        intercepted_port: None,
        framing: None,
        is_secure: matches!(stream, ProxyStream::Tls(_)),
        slot,
    };
    http1(road, stream).await;
}

/// The user whose certificate the client has shown and the handshake has verified.
fn certified(shared: &Shared, stream: &TlsStream<ClientStream>) -> Option<Arc<Identity>> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    let fingerprint: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    shared.checkpoint.identify(&Credential::Certificate { fingerprint: &fingerprint }).ok()
}

/// Why a client may not use this door, if it may not: by the networks of the gate, or by what its location says of the door
/// (ON-01, ON-05).
fn refusal(shared: &Shared, transport: Transport, client: IpAddr) -> Option<&'static str> {
    let networks = &shared.config.clients_from;
    if !networks.is_empty() && !networks.iter().any(|network| network.contains(&client)) {
        return Some("client_network");
    }
    shared.checkpoint.locate(client, None)?.refusal(transport, client, false)
}

fn local_listener(shared: &Shared) -> SocketAddr {
    shared.transparent.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)))
}

/// The client and our address as a trusted balancer reports them.
async fn behind_balancer(
    tcp: &mut TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    shared: &Shared,
) -> io::Result<(SocketAddr, SocketAddr)> {
    let reading = proxyprotocol::accept(tcp, peer.ip(), &shared.balancers);
    let read = timeout(shared.config.handshake, reading).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(match read {
        Some(Proxied::Addresses { source, destination }) => (canonical_peer(source), canonical_peer(destination)),
        Some(Proxied::Local) | None => (peer, local),
    })
}

fn ready(tcp: &TcpStream) -> io::Result<SocketAddr> {
    tcp.set_nodelay(true)?;
    tcp.local_addr().map(canonical_peer)
}

/// Waits until the gate is told to stop.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
}

/// Serves HTTP/1 on a client's stream until it ends. Framing that could be read in two ways is refused before hyper reads.
pub(crate) async fn http1<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(mut road: Road, stream: S) {
    let (stream, framing) = CheckedStream::new(stream);
    road.framing = Some(framing.clone());
    let road = Arc::new(road);
    let mut stopping = road.shared.stopping.clone();
    let header = road.shared.config.header;
    let kept = road.clone();
    let service = service_fn(move |request: Request<Incoming>| respond(kept.clone(), request));
    let connection = server1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        crate::events::client_ended(&error);
    }
    if let Some(problem) = framing.problem().filter(|_| !framing.is_in_body()) {
        refused_framing(&road, problem);
    }
}

/// One request of an HTTP/1 connection; tells the framing check what became of an upgrade.
async fn respond(road: Arc<Road>, request: Request<Incoming>) -> Answer {
    let is_connect = request.method() == Method::CONNECT;
    let is_proxy = road.tunnel.is_none() && road.intercepted_port.is_none();
    let framing = road.framing.clone();
    let answer = match is_proxy {
        true => proxied(road, request).await,
        false => answer(road, None, request).await,
    };
    let Some(framing) = framing else { return answer };
    let status = answer.as_ref().map(|response| response.status()).unwrap_or_default();
    let is_open = status == StatusCode::SWITCHING_PROTOCOLS || (is_connect && status.is_success());
    match is_open && answer.is_ok() {
        true => framing.open_tunnel(),
        false => framing.resume_requests(),
    }
    answer
}

/// The event of a request whose head never became one. One with a bad body has an event of its own.
fn refused_framing(road: &Road, problem: FramingProblem) {
    let mut passage = road.examine(&road.session);
    passage.fail(problem.as_str());
    crate::enforce::learn_status(&mut passage, 400);
    passage.finish(model::Disposition::Blocked);
}

/// Serves HTTP/2 on a client's decrypted stream until it ends. hyper's own limits on resets stay as they are.
pub(crate) async fn http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(road: Road, stream: S) {
    let road = Arc::new(road);
    let mut stopping = road.shared.stopping.clone();
    let idle = road.shared.config.header;
    let service = service_fn(move |request: Request<Incoming>| answer(road.clone(), None, request));
    let connection = server2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .keep_alive_interval(idle)
        .keep_alive_timeout(idle)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        crate::events::client_ended(&error);
    }
}
