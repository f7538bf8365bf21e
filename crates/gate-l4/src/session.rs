//! One TCP flow, from its first packet to its event: who may connect, what it speaks, where it goes, and how it ends. The
//! stations are `connect` (before a byte is read), `first_bytes` (before a byte of the client's is passed on) and `flow` (while
//! bytes move). A service whose server speaks first is opened after a short hold, by leave of `connect`; the client's bytes
//! wait for their own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::{Credential, Passage, Permit};
use model::{Destination, FieldId, Gate, Session, Station, Text, Transport, Value};
use net::hello::{HelloProblem, peek};
use net::mint::Alpn;
use net::proxyprotocol::{self, Proxied, TrustedSources};
use net::upstream::{Connector, Resolver, Security, Upstream, UpstreamStream, connect_announced, secure};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant as Clock, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::board::{Board, Seat};
use crate::detect::{self, Detection, FIRST_BYTES_MAX, SERVER_FIRST};
use crate::enforce::{self, Ending};
use crate::events::{Counter, add, count};
use crate::facts;
use crate::origins::{Origin, Origins, Place};
use crate::relay::{End, Relay, Side};
use crate::spec::{AppConfig, ProxyProtocol, TlsMode};
use crate::starttls::{self, Problem, Protocol, mysql};
use crate::tls::{AppTls, ClientLeg, OriginLeg};

/// How often rules that read a flow's bytes and rates are asked again.
const FLOW_TICK: Duration = Duration::from_secs(1);
/// What a server's greeting is recognised by.
const GREETING_BYTES_MAX: usize = 512;

/// One service, as its flows share it.
pub(crate) struct App {
    pub(crate) config: AppConfig,
    pub(crate) origins: Arc<Origins>,
    pub(crate) tls: Option<AppTls>,
    pub(crate) connector: Connector,
    pub(crate) balancers: TrustedSources,
}

/// What all flows of a gate share.
pub(crate) struct Shared {
    pub(crate) checkpoint: checkpoint::Checkpoint,
    pub(crate) board: Board,
    pub(crate) resolver: Arc<dyn Resolver>,
    pub(crate) site: String,
}

/// A connection as it was accepted.
pub(crate) struct Arrival {
    pub(crate) app: Arc<App>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) tcp: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    /// Place of the port in the app's range.
    pub(crate) offset: u16,
}

/// An origin that was opened.
struct Opened {
    leg: OriginLeg,
    /// What it has said already, for a client that has heard nothing yet.
    greeting: Vec<u8>,
    /// By which name its certificate is verified, where TLS begins later.
    host: Arc<str>,
    _place: Place,
}

/// What ends a flow before its relay: an ending whose wire form is a reset.
type Step<T> = Result<T, Ending>;

/// The record of one flow, which is finished whatever happens.
struct Story {
    passage: Passage,
    seat: Seat,
    app: Arc<App>,
    shared: Arc<Shared>,
    client: SocketAddr,
    local: SocketAddr,
    offset: u16,
}

/// A flow that finds no room: it is reset and recorded.
pub(crate) fn refuse_full(arrival: Arrival) {
    count(Counter::FlowsRefusedFull);
    let _ = arrival.tcp.set_zero_linger();
    let (client, local) = (arrival.peer, arrival.local);
    Story::begin(&arrival, session(&arrival, client, local), local).finish(enforce::FULL);
}

pub(crate) async fn enter(mut arrival: Arrival) {
    count(Counter::Flows);
    let _ = arrival.tcp.set_nodelay(true);
    let (client, local) = match behind_balancer(&mut arrival).await {
        Some(addresses) => addresses,
        None => {
            let (client, local) = (arrival.peer, arrival.local);
            let _ = arrival.tcp.set_zero_linger();
            return Story::begin(&arrival, session(&arrival, client, local), local).finish(enforce::PROXY_HEADER);
        }
    };
    let session = session(&arrival, client, local);
    // A user proved by certificate is known only after the handshake, and rules on users are asked at `connect`.
    if arrival.app.tls.as_ref().is_some_and(AppTls::asks_for_certificates) {
        return certified(arrival, session, local).await;
    }
    let mut story = Story::begin(&arrival, session, local);
    let ending = story.run(arrival.tcp).await;
    story.finish(ending);
}

/// The client and our address as a trusted balancer reports them; none where what it reports cannot be read.
async fn behind_balancer(arrival: &mut Arrival) -> Option<(SocketAddr, SocketAddr)> {
    let reading = proxyprotocol::accept(&mut arrival.tcp, arrival.peer.ip(), &arrival.app.balancers);
    match timeout(arrival.app.config.handshake, reading).await.ok()?.ok()? {
        Some(Proxied::Addresses { source, destination }) => Some((canonical(source), canonical(destination))),
        Some(Proxied::Local) | None => Some((arrival.peer, arrival.local)),
    }
}

pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn session(arrival: &Arrival, client: SocketAddr, local: SocketAddr) -> Session {
    let checkpoint = &arrival.shared.checkpoint;
    let location = checkpoint.locate(client.ip(), None);
    Session {
        id: checkpoint.next_session(),
        gate: Gate::L4,
        transport: Transport::Tcp,
        began: checkpoint.now(),
        client,
        local,
        location: location.as_ref().map_or(Text::default(), |location| location.name.clone()),
        identity: location.and_then(|location| location.identity),
    }
}

/// A flow whose client must show a certificate.
async fn certified(arrival: Arrival, mut session: Session, local: SocketAddr) {
    let Arrival { app, shared, tcp, offset, .. } = arrival;
    let Some(tls) = &app.tls else { return };
    let begin = |session: Session| Story::new(app.clone(), shared.clone(), session, local, offset);
    let tcp = match clear_part(&app, tcp).await {
        Ok(tcp) => tcp,
        Err(problem) => {
            let mut story = begin(session);
            story.bad_handshake();
            return story.finish(enforce::no_tls(Side::Client, &problem));
        }
    };
    let deadline = Clock::now() + app.config.handshake;
    let peeked = timeout_at(deadline, peek(tcp)).await;
    let Ok(Ok((hello, stream))) = peeked else { return begin(session).finish(enforce::CLIENT_TLS) };
    let known = hello.as_ref().ok().and_then(|hello| hello.server_name.as_deref()).is_none_or(|name| tls.knows(name));
    let accepted = match known {
        true => timeout_at(deadline, TlsAcceptor::from(tls.config()).accept(stream)).await.ok().and_then(Result::ok),
        false => None,
    };
    if let Some(certificate) = accepted.as_ref().and_then(|stream| stream.get_ref().1.peer_certificates()?.first()) {
        let fingerprint: String = Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect();
        if let Ok(identity) = shared.checkpoint.identify(&Credential::Certificate { fingerprint: &fingerprint }) {
            session.identity = Some(identity);
        }
    }
    let mut story = begin(session);
    if let Ok(hello) = &hello {
        facts::learn_hello(&mut story.passage, hello);
    }
    let ending = match accepted {
        Some(stream) => {
            facts::learn_client_tls(&mut story.passage, stream.get_ref().1);
            story.run_over(ClientLeg::Tls(Box::new(stream))).await
        }
        None if !known => story.bad_name(),
        None => story.bad_handshake(),
    };
    story.finish(ending);
}

/// What is said in the clear before TLS begins with the client.
async fn clear_part(app: &App, tcp: TcpStream) -> Result<TcpStream, Problem> {
    let Some(protocol) = app.config.starttls.filter(|_| app.tls.is_some()) else { return Ok(tcp) };
    let speaking = starttls::serve(protocol, tcp, &app.config.edge_name);
    timeout(app.config.handshake, speaking).await.unwrap_or(Err(Problem::Ended))
}

impl Story {
    fn begin(arrival: &Arrival, session: Session, local: SocketAddr) -> Story {
        Story::new(arrival.app.clone(), arrival.shared.clone(), session, local, arrival.offset)
    }

    fn new(app: Arc<App>, shared: Arc<Shared>, session: Session, local: SocketAddr, offset: u16) -> Story {
        let mut passage = shared.checkpoint.examine(&session);
        let seat = shared.board.sit(passage.reference(), app.config.name.clone(), session.client);
        facts::learn_app(&mut passage, &app, local);
        Story { passage, seat, app, shared, client: session.client, local, offset }
    }

    fn finish(self, ending: Ending) {
        let Story { mut passage, seat, app, shared, .. } = self;
        let (out, into) = seat.bytes();
        passage.count(out, into);
        add(Counter::BytesOut, out);
        add(Counter::BytesIn, into);
        if let Some(failure) = ending.failure {
            passage.fail(failure);
        }
        facts::learn_end(&mut passage, &app, &shared.site, ending, out > 0 || into > 0);
        passage.finish(ending.disposition);
    }

    async fn run(&mut self, tcp: TcpStream) -> Ending {
        let candidates = match self.candidates().await {
            Ok(candidates) => candidates,
            Err(ending) => return reset(&tcp, ending),
        };
        // Whoever may not connect is turned away before a byte of its is read.
        if let Err(ending) = self.ask(Destination::Client) {
            return reset(&tcp, ending);
        }
        if self.app.config.starttls == Some(Protocol::Mysql) {
            return self.mysql(tcp, candidates).await;
        }
        let tcp = match clear_part(&self.app.clone(), tcp).await {
            Ok(tcp) => tcp,
            Err(problem) => {
                self.bad_handshake();
                return enforce::no_tls(Side::Client, &problem);
            }
        };
        let client = match self.handshake(tcp).await {
            Ok(client) => client,
            Err(ending) => return ending,
        };
        self.carry(client, candidates).await
    }

    async fn run_over(&mut self, client: ClientLeg) -> Ending {
        match self.candidates().await {
            Ok(candidates) => self.carry(client, candidates).await,
            Err(ending) => reset(client.tcp(), ending),
        }
    }

    /// The origins in order; the first of them is the destination that rules at `connect` read.
    async fn candidates(&mut self) -> Step<Vec<Arc<Origin>>> {
        let app = self.app.clone();
        let limit = app.config.connect;
        let found = timeout(limit, app.origins.candidates(&*self.shared.resolver)).await;
        let Ok(Ok(candidates)) = found else { return Err(enforce::UNRESOLVED) };
        match candidates.first() {
            Some(first) => facts::learn_origin(&mut self.passage, &app, first, self.offset),
            None => return Err(enforce::UNRESOLVED),
        }
        Ok(candidates)
    }

    fn ask(&mut self, destination: Destination) -> Step<Permit> {
        self.passage.permit(destination).map_err(|_| {
            count(Counter::Refusals);
            enforce::REFUSED
        })
    }

    /// TLS with the client, where it ends here. The name in the hello is judged before it is answered.
    async fn handshake(&mut self, tcp: TcpStream) -> Step<ClientLeg> {
        let app = self.app.clone();
        let Some(tls) = &app.tls else { return Ok(ClientLeg::Plain(tcp)) };
        let deadline = Clock::now() + app.config.handshake;
        let Ok(Ok((hello, stream))) = timeout_at(deadline, peek(tcp)).await else { return Err(self.bad_handshake()) };
        let ending = match &hello {
            Ok(hello) => self.judge_hello(tls, hello).err(),
            Err(HelloProblem::NotTls | HelloProblem::Malformed | HelloProblem::TooLarge) => Some(self.bad_handshake()),
        };
        if let Some(ending) = ending {
            return Err(reset(stream.get_ref(), ending));
        }
        match timeout_at(deadline, TlsAcceptor::from(tls.config()).accept(stream)).await {
            Ok(Ok(stream)) => {
                facts::learn_client_tls(&mut self.passage, stream.get_ref().1);
                Ok(ClientLeg::Tls(Box::new(stream)))
            }
            _ => Err(self.bad_handshake()),
        }
    }

    fn judge_hello(&mut self, tls: &AppTls, hello: &net::hello::ClientHello) -> Step<()> {
        facts::learn_hello(&mut self.passage, hello);
        self.ask(Destination::Client).map(drop)?;
        match hello.server_name.as_deref() {
            Some(name) if !tls.knows(name) => Err(self.bad_name()),
            _ => Ok(()),
        }
    }

    fn bad_handshake(&mut self) -> Ending {
        count(Counter::HandshakeFailures);
        self.passage.learn(FieldId::ClientTlsStatus, Value::word("HANDSHAKE_FAILED"));
        enforce::CLIENT_TLS
    }

    fn bad_name(&mut self) -> Ending {
        count(Counter::HandshakeFailures);
        self.passage.learn(FieldId::ClientTlsStatus, Value::word("INVALID_SNI"));
        enforce::BAD_SNI
    }

    /// From the client's first bytes to the end.
    async fn carry(&mut self, mut client: ClientLeg, candidates: Vec<Arc<Origin>>) -> Ending {
        let mut first = Vec::new();
        let mut detection = Detection::Partial;
        let speaks_second = self.app.config.expects.iter().all(|name| SERVER_FIRST.contains(&name.as_str()));
        if self.app.config.expects.is_empty() || !speaks_second {
            match self.first_bytes(&mut client, &mut first).await {
                Ok(found) => detection = found,
                Err(ending) => return reset(client.tcp(), ending),
            }
        }
        let is_silent = first.is_empty();
        if !is_silent && let Err(ending) = self.judge(detection.name(), &detection) {
            return reset(client.tcp(), ending);
        }
        let mut opened = match self.open(candidates).await {
            Ok(opened) => opened,
            Err(ending) => return reset(client.tcp(), ending),
        };
        let greeting = std::mem::take(&mut opened.greeting);
        if !greeting.is_empty() {
            if let Err(error) = client.write_all(&greeting).await {
                return reset_both(&client, &opened, enforce::side_failed(Side::Client, &error));
            }
            self.seat.into.fetch_add(greeting.len() as u64, std::sync::atomic::Ordering::Relaxed);
        }
        if is_silent {
            match self.greet(&mut client, &mut opened, &mut first).await {
                Ok(()) => {}
                Err(ending) => return reset_both(&client, &opened, ending),
            }
        }
        // Where no rule waits for facts of the flow, nothing needs to be asked while it lasts.
        let asks_again = self.passage.is_waiting();
        self.flow(client, opened, first, asks_again).await
    }

    /// Station `flow`: leave for the relay, and the relay.
    async fn flow(&mut self, client: ClientLeg, opened: Opened, first: Vec<u8>, asks_again: bool) -> Ending {
        facts::learn_flow(&mut self.passage, &self.seat, 0);
        match self.ask(Destination::Client) {
            Ok(permit) => self.relay(permit, client, opened, first, asks_again).await,
            Err(ending) => reset_both(&client, &opened, ending),
        }
    }

    /// Reads until the bytes tell the protocol. A client that says nothing within the hold is left to the server's greeting.
    async fn first_bytes(&mut self, client: &mut ClientLeg, first: &mut Vec<u8>) -> Step<Detection> {
        let begun = Clock::now();
        let hold = begun + self.app.config.hold;
        let mut deadline = hold;
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            buffer.reserve(FIRST_BYTES_MAX - first.len());
            let read = async { (&mut *client).take((FIRST_BYTES_MAX - first.len()) as u64).read_buf(&mut buffer).await };
            let is_end = tokio::select! {
                read = timeout_at(deadline, read) => match read {
                    Ok(Ok(count)) => count == 0,
                    Ok(Err(error)) => return Err(enforce::side_failed(Side::Client, &error)),
                    Err(_) => true,
                },
                () = self.seat.cut() => return Err(cut()),
            };
            first.extend_from_slice(&buffer);
            let detection = detect::client(first);
            if is_end && first.is_empty() {
                return Ok(Detection::Partial);
            }
            if is_end || detection != Detection::Partial || first.len() >= FIRST_BYTES_MAX {
                return Ok(detection);
            }
            // Bytes that tell nothing yet are waited for only where a rule, or what the app expects, wants to know.
            let is_asked = !self.app.config.expects.is_empty() || self.passage.is_waiting();
            if deadline == hold && is_asked {
                deadline = begun + self.app.config.first_bytes.max(self.app.config.hold);
            }
        }
    }

    /// Station `first_bytes`: what the client speaks, and whether that may pass.
    fn judge(&mut self, protocol: &'static str, detection: &Detection) -> Step<Permit> {
        // Who has spoken a protocol up to the start of TLS speaks it inside too, where the words are not telling.
        let protocol = match (self.app.config.starttls, protocol) {
            (Some(spoken), "unknown") => spoken.as_str(),
            (Some(Protocol::Ftp), "pop3") => "ftp",
            _ => protocol,
        };
        self.passage.learn(FieldId::DetectedProtocol, Value::word(protocol));
        if let Detection::Tls(hello) = detection {
            facts::learn_hello(&mut self.passage, hello);
        }
        self.passage.reach(Station::FirstBytes);
        let expects = &self.app.config.expects;
        if !expects.is_empty() && !expects.iter().any(|name| name == protocol) {
            // The port is not a way in for whatever else: a tunnel through port 443, a scanner on port 25 (NW-06).
            let _ = self.passage.refuse("protocol", "this service does not speak that protocol");
        }
        self.ask(Destination::Client)
    }

    /// The first origin that opens. Each attempt is asked for by itself, because rules read the address.
    async fn open(&mut self, candidates: Vec<Arc<Origin>>) -> Step<Opened> {
        let app = self.app.clone();
        let deadline = Clock::now() + app.config.connect;
        let mut last = enforce::UNRESOLVED;
        for origin in candidates {
            facts::learn_origin(&mut self.passage, &app, &origin, self.offset);
            let socket = origin.socket(self.offset);
            let host = self.origin_host(&origin);
            let permit =
                self.ask(Destination::Upstream { host: host.clone(), port: socket.port(), addresses: vec![socket.ip()] })?;
            let place = origin.enter();
            let announcement = self.announcement();
            let security = if app.config.starttls.is_some() { Security::Plain } else { self.security() };
            let connecting = connect_announced(permit, security, &app.connector, &announcement);
            let outcome = tokio::select! {
                outcome = timeout_at(deadline, connecting) => outcome.unwrap_or(Err(net::Error::Deadline)),
                () = self.seat.cut() => return Err(cut()),
            };
            let is_good = outcome.is_ok();
            if let Some(is_healthy) = origin.note(is_good, app.origins.health(), Instant::now()) {
                crate::events::origin_health(&app.config.name, socket, is_healthy);
            }
            match outcome {
                Ok(upstream) => {
                    self.seat.goes_to(upstream.peer);
                    let ready = timeout_at(deadline, self.ready(upstream, &host)).await;
                    let (upstream, greeting) = ready.unwrap_or(Err(enforce::no_tls(Side::Origin, &Problem::Ended)))?;
                    if let Some(tls) = &upstream.tls {
                        facts::learn_origin_tls(&mut self.passage, tls);
                    }
                    return Ok(Opened { leg: OriginLeg(upstream.stream), greeting, host, _place: place });
                }
                Err(error) => {
                    count(Counter::OriginFailures);
                    facts::learn_origin_problem(&mut self.passage, &error);
                    last = enforce::origin_failed(&error);
                }
            }
        }
        Err(last)
    }

    /// Where TLS begins inside the protocol: TLS with the origin, or its greeting heard in place of a client that had one.
    async fn ready(&mut self, mut upstream: Upstream, host: &Arc<str>) -> Step<(Upstream, Vec<u8>)> {
        let app = self.app.clone();
        let Some(protocol) = app.config.starttls.filter(|protocol| *protocol != Protocol::Mysql) else {
            return Ok((upstream, Vec::new()));
        };
        let UpstreamStream::Plain(tcp) = upstream.stream else { return Ok((upstream, Vec::new())) };
        let no_tls = |problem| enforce::no_tls(Side::Origin, &problem);
        if app.config.tls == TlsMode::Flexible {
            let tcp = starttls::skip_greeting(protocol, tcp).await.map_err(no_tls)?;
            upstream.stream = UpstreamStream::Plain(tcp);
            return Ok((upstream, Vec::new()));
        }
        let (tcp, greeting) = starttls::ask(protocol, tcp, &app.config.edge_name, host).await.map_err(no_tls)?;
        upstream.stream = UpstreamStream::Plain(tcp);
        let upstream = self.secured(upstream, host).await?;
        Ok((upstream, if app.config.clear_clients { greeting } else { Vec::new() }))
    }

    async fn secured(&mut self, upstream: Upstream, host: &str) -> Step<Upstream> {
        let app = self.app.clone();
        secure(upstream, host, self.security(), &app.connector).await.map_err(|error| {
            count(Counter::OriginFailures);
            facts::learn_origin_problem(&mut self.passage, &error);
            enforce::origin_failed(&error)
        })
    }

    /// A login to MySQL, whose TLS begins behind the origin's greeting.
    async fn mysql(&mut self, tcp: TcpStream, candidates: Vec<Arc<Origin>>) -> Ending {
        let opened = match self.open(candidates).await {
            Ok(opened) => opened,
            Err(ending) => return reset(&tcp, ending),
        };
        let limit = self.app.config.handshake;
        let login = timeout(limit, self.mysql_login(tcp, opened)).await;
        match login.unwrap_or(Err(enforce::no_tls(Side::Client, &Problem::Ended))) {
            Ok((client, opened)) => {
                let asks_again = self.passage.is_waiting();
                self.flow(client, opened, Vec::new(), asks_again).await
            }
            Err(ending) => ending,
        }
    }

    async fn mysql_login(&mut self, tcp: TcpStream, mut opened: Opened) -> Step<(ClientLeg, Opened)> {
        let by_client = |problem| enforce::no_tls(Side::Client, &problem);
        let by_origin = |problem| enforce::no_tls(Side::Origin, &problem);
        let (greeting, offers_tls) = mysql::greeting(&mut opened.leg).await.map_err(by_origin)?;
        if !self.app.config.clear_clients {
            let tcp = mysql::serve(tcp, greeting).await.map_err(by_client)?;
            self.judge("mysql", &Detection::Unknown).map(drop)?;
            let mut client = self.handshake(tcp).await?;
            let carried = mysql::login(&mut client, &mut opened.leg, None, mysql::Secure::Client).await;
            return carried.map_err(by_client).map(|()| (client, opened));
        }
        if !offers_tls {
            return Err(by_origin(Problem::NoTls));
        }
        let mut client = ClientLeg::Plain(tcp);
        let answer = mysql::serve_clear(&mut client, greeting).await.map_err(by_client)?;
        self.judge("mysql", &Detection::Unknown).map(drop)?;
        mysql::ask(&mut opened.leg, &answer).await.map_err(by_origin)?;
        let Opened { leg: OriginLeg(stream), greeting, host, _place } = opened;
        let peer = client.tcp().peer_addr().unwrap_or(self.client);
        let upstream = self.secured(Upstream { stream, peer, tls: None, obligations: Vec::new() }, &host).await?;
        if let Some(tls) = &upstream.tls {
            facts::learn_origin_tls(&mut self.passage, tls);
        }
        let mut opened = Opened { leg: OriginLeg(upstream.stream), greeting, host, _place };
        let carried = mysql::login(&mut client, &mut opened.leg, Some(answer), mysql::Secure::Origin).await;
        carried.map_err(by_client).map(|()| (client, opened))
    }

    fn origin_host(&self, origin: &Origin) -> Arc<str> {
        let configured = &self.app.config.tls_settings.origin_name;
        match (configured.is_empty(), self.app.origins.name()) {
            (false, _) => Arc::from(configured.as_str()),
            (true, Some(name)) => name.clone(),
            (true, None) => Arc::from(origin.address.to_string()),
        }
    }

    fn security(&self) -> Security {
        match self.app.config.tls {
            TlsMode::Off | TlsMode::Flexible => Security::Plain,
            TlsMode::Full => Security::DangerUnverified(Alpn::None),
            TlsMode::Strict => Security::Tls(Alpn::None),
        }
    }

    /// SP-20, SP-21: what the origin is told before all else.
    fn announcement(&self) -> Vec<u8> {
        match self.app.config.proxy_protocol {
            ProxyProtocol::Off => Vec::new(),
            ProxyProtocol::V1 => proxyprotocol::encode_v1(self.client, self.local),
            ProxyProtocol::V2 => proxyprotocol::encode_v2(self.client, self.local),
        }
    }

    /// The server speaks first: its bytes pass, the client's are held until they are judged.
    async fn greet(&mut self, client: &mut ClientLeg, opened: &mut Opened, first: &mut Vec<u8>) -> Step<()> {
        let mut greeting = Vec::new();
        let (mut from_client, mut from_origin) = (Vec::with_capacity(1024), Vec::with_capacity(4096));
        let mut deadline = Clock::now() + self.app.config.idle;
        loop {
            let room = (FIRST_BYTES_MAX - first.len()) as u64;
            let (mut limited, seat) = ((&mut *client).take(room), &self.seat);
            tokio::select! {
                read = limited.read_buf(&mut from_client) => {
                    let is_end = read.map_err(|error| enforce::side_failed(Side::Client, &error))? == 0;
                    if first.is_empty() {
                        deadline = Clock::now() + self.app.config.first_bytes;
                    }
                    first.append(&mut from_client);
                    let detection = detect::client(first);
                    if is_end || detection != Detection::Partial || first.len() >= FIRST_BYTES_MAX {
                        return self.judge_second(&detection, &greeting, first);
                    }
                }
                read = opened.leg.read_buf(&mut from_origin) => {
                    if read.map_err(|error| enforce::side_failed(Side::Origin, &error))? == 0 {
                        if first.is_empty() {
                            // Whoever has heard all that the server says, and said nothing, is done.
                            let _ = client.shutdown().await;
                            return Err(enforce::NORMAL);
                        }
                        return self.judge_second(&detect::client(first), &greeting, first);
                    }
                    greeting.extend(from_origin.iter().take(GREETING_BYTES_MAX - greeting.len()));
                    client.write_all(&from_origin).await.map_err(|error| enforce::side_failed(Side::Client, &error))?;
                    client.flush().await.map_err(|error| enforce::side_failed(Side::Client, &error))?;
                    seat.into.fetch_add(from_origin.len() as u64, std::sync::atomic::Ordering::Relaxed);
                    from_origin.clear();
                    if first.is_empty() {
                        deadline = Clock::now() + self.app.config.idle;
                    }
                }
                () = tokio::time::sleep_until(deadline) => match first.is_empty() {
                    true => return Err(enforce::IDLE),
                    false => return self.judge_second(&detect::client(first), &greeting, first),
                },
                () = seat.cut() => return Err(cut()),
            }
        }
    }

    /// The greeting says what is spoken where the client's own bytes do not.
    fn judge_second(&mut self, detection: &Detection, greeting: &[u8], first: &[u8]) -> Step<()> {
        let protocol = match detection {
            Detection::Partial | Detection::Unknown => detect::server(greeting).unwrap_or("unknown"),
            known => known.name(),
        };
        // A client that ended without a word is not judged by it: nothing more can come from it.
        if first.is_empty() {
            return Ok(());
        }
        self.judge(protocol, detection).map(drop)
    }

    /// By leave of the permit, bytes move until the flow ends.
    async fn relay(
        &mut self,
        permit: Permit,
        mut client: ClientLeg,
        mut opened: Opened,
        first: Vec<u8>,
        asks_again: bool,
    ) -> Ending {
        // This is the act that the permit is for.
        drop(permit);
        let flow = self.seat.clone();
        let mut earlier = 0;
        let ending = {
            let mut relay = Relay::new(&mut client, &mut opened.leg, first, (&flow.out, &flow.into), self.app.config.idle);
            let mut ticks = tokio::time::interval_at(Clock::now() + FLOW_TICK, FLOW_TICK);
            loop {
                tokio::select! {
                    end = &mut relay => break ending_of(end),
                    () = flow.cut() => break cut(),
                    _ = ticks.tick(), if asks_again => {
                        let (out, into) = flow.bytes();
                        let total = out.saturating_add(into);
                        facts::learn_flow(&mut self.passage, &flow, total.saturating_sub(earlier) / FLOW_TICK.as_secs());
                        earlier = total;
                        if let Err(ending) = self.ask(Destination::Client) {
                            break ending;
                        }
                    }
                }
            }
        };
        reset_both(&client, &opened, ending)
    }
}

fn ending_of(end: End) -> Ending {
    match end {
        End::Finished => enforce::NORMAL,
        End::Idle => {
            count(Counter::IdleEnds);
            enforce::IDLE
        }
        End::Failed { side, error } => enforce::side_failed(side, &error),
    }
}

fn cut() -> Ending {
    count(Counter::Cuts);
    enforce::CUT
}

/// An end that was not orderly is a reset on both sides.
fn reset(client: &TcpStream, ending: Ending) -> Ending {
    let _ = client.set_zero_linger();
    ending
}

fn reset_both(client: &ClientLeg, opened: &Opened, ending: Ending) -> Ending {
    if ending == enforce::NORMAL {
        return ending;
    }
    client.reset_on_close();
    opened.leg.0.reset_on_close();
    ending
}
