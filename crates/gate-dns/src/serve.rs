//! The gate's loops: sockets are bound, datagrams and connections taken, and everything is let finish when it stops. What a
//! question means is none of its business; that is `session`. UDP of RFC 1035, TCP of RFC 7766, TLS of RFC 7858.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use checkpoint::{Checkpoint, Round};
use model::Transport;
use net::sockets::Sockets;
use rustls::ServerConfig;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::datagrams::Batch;
use crate::decode::{Decoded, HEADER_BYTES, Query, decode};
use crate::events::{Counter, DrainCut, Listening, SocketFailed, WorkerPanicked, count, count_many};
use crate::limit::{ConnectionLimit, RateLimit};
use crate::recent::{Asked, Recent};
use crate::resolver::DnsResolver;
use crate::session::{AtOnce, Credentials, Moment, Shared, Visit, Waiting};
use crate::spec::DnsGateConfig;
use crate::{Error, doh, stream};

/// Questions that wait for upstreams at once, over all clients; each holds about 4 KiB.
const TRANSACTIONS_MAX: usize = 16_384;

/// Connections at once, over all stream listeners; each holds a file descriptor and about 20 KiB.
const CONNECTIONS_MAX: usize = 4_096;

/// A worker without work looks this often whether it should stop.
const IDLE_WAIT: Duration = Duration::from_millis(100);

/// Buffers of the kernel for bursts while a worker is busy: about 4,000 questions.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// A client that has not finished its TLS handshake by now is holding a place.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(5);

/// Longer than the longest wait for upstreams.
const DRAIN_SECONDS_MAX: u64 = 10;

/// A pause after a failing accept, so that running out of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections queued by the kernel.
const BACKLOG: i32 = 1024;

/// The open sockets, before anything is served.
pub struct DnsGate {
    shared: Arc<Shared>,
    datagrams: Vec<UdpSocket>,
    streams: Vec<StreamListener>,
    addresses: Vec<(&'static str, SocketAddr)>,
    sockets: Sockets,
}

struct StreamListener {
    protocol: StreamProtocol,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamProtocol {
    Tcp,
    Dot,
    Doh,
}

/// What a loop needs beside its socket.
#[derive(Clone)]
struct Rounds {
    shared: Arc<Shared>,
    connections: Arc<Semaphore>,
    by_client: Arc<ConnectionLimit>,
    shutdown: watch::Receiver<bool>,
}

/// Opens the listeners of a gate that is the first on its addresses.
pub async fn bind(config: DnsGateConfig, checkpoint: Checkpoint, tls: Option<Arc<ServerConfig>>) -> Result<DnsGate, Error> {
    bind_over(config, checkpoint, tls, &Sockets::default()).await
}

/// Opens every listener, or none: an error closes what was open. Sockets of an earlier gate are taken over. DNS over TLS needs a certificate; DNS over HTTPS does
/// too, but on loopback.
pub async fn bind_over(
    config: DnsGateConfig,
    checkpoint: Checkpoint,
    tls: Option<Arc<ServerConfig>>,
    earlier: &Sockets,
) -> Result<DnsGate, Error> {
    let spec = &config.spec;
    let mut gate = DnsGate {
        shared: share(&config, checkpoint)?,
        datagrams: Vec::new(),
        streams: Vec::new(),
        addresses: Vec::new(),
        sockets: Sockets::default(),
    };
    for address in &spec.udp {
        gate.open_datagrams(*address, config.workers, earlier)?;
    }
    for (protocol, addresses) in
        [(StreamProtocol::Tcp, &spec.tcp), (StreamProtocol::Dot, &spec.dot), (StreamProtocol::Doh, &spec.doh)]
    {
        for address in addresses {
            gate.open_stream(protocol, *address, tls.as_deref(), earlier)?;
        }
    }
    for (protocol, address) in &gate.addresses {
        Listening { protocol, address: *address }.emit();
    }
    Ok(gate)
}

fn share(config: &DnsGateConfig, checkpoint: Checkpoint) -> Result<Arc<Shared>, Error> {
    let spec = &config.spec;
    Ok(Arc::new(Shared {
        resolver: DnsResolver::new(config)?,
        limit: RateLimit::new(spec.client_queries_per_second_max, spec.client_query_burst_max),
        transactions: Arc::new(Semaphore::new(TRANSACTIONS_MAX)),
        config: config.clone(),
        checkpoint,
    }))
}

impl DnsGate {
    /// Each listener's protocol (`udp`, `tcp`, `dot`, `doh`) and address.
    pub fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        self.addresses.clone()
    }

    /// Second handles on the listening sockets, for the gate that takes this one's place.
    pub fn take_sockets(&mut self) -> Sockets {
        std::mem::take(&mut self.sockets)
    }

    /// The gate's resolver, for other gates.
    pub fn lookup(&self) -> DnsResolver {
        self.shared.resolver.clone()
    }

    /// Serves until told to stop, and then lets what has begun finish within a bound.
    pub async fn serve(self, shutdown: watch::Receiver<bool>) {
        let rounds = Rounds {
            shared: self.shared,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            by_client: Arc::default(),
            shutdown,
        };
        let mut loops = JoinSet::new();
        for socket in self.datagrams {
            let (socket, rounds) = (Arc::new(socket), rounds.clone());
            loops.spawn_blocking(move || take_datagrams(&socket, &rounds));
        }
        for listener in self.streams {
            loops.spawn(take_connections(listener, rounds.clone()));
        }
        while loops.join_next().await.is_some() {}
        rounds.drain().await;
    }

    /// Several sockets on one address: the kernel spreads clients over them, one for each worker.
    fn open_datagrams(&mut self, address: SocketAddr, workers: usize, earlier: &Sockets) -> Result<(), Error> {
        let failed = |source| Error::Listen { protocol: "udp", address, source };
        let mut bound = address;
        for _ in 0..workers.max(1) {
            let socket = self.sockets.datagrams(earlier, "udp", address, || datagram_socket(bound)).map_err(failed)?;
            bound = socket.local_addr().map_err(failed)?;
            self.datagrams.push(socket);
        }
        self.addresses.push(("udp", bound));
        Ok(())
    }

    fn open_stream(
        &mut self,
        protocol: StreamProtocol,
        address: SocketAddr,
        tls: Option<&ServerConfig>,
        earlier: &Sockets,
    ) -> Result<(), Error> {
        let name = protocol.as_str();
        let may_be_plain = protocol == StreamProtocol::Doh && address.ip().is_loopback();
        let tls = match (protocol, tls) {
            (StreamProtocol::Tcp, _) => None,
            (_, Some(tls)) => Some(acceptor(tls, protocol)),
            (_, None) if may_be_plain => None,
            (_, None) => return Err(Error::NoCertificate { protocol: name }),
        };
        let failed = |source| Error::Listen { protocol: name, address, source };
        let preferred = if protocol == StreamProtocol::Tcp { self.beside_udp(address) } else { address };
        let open = || stream_socket(preferred).or_else(|_| stream_socket(address));
        let listener = self.sockets.listener(earlier, name, address, open).and_then(TcpListener::from_std).map_err(failed)?;
        self.addresses.push((name, listener.local_addr().map_err(failed)?));
        self.streams.push(StreamListener { protocol, listener, tls });
        Ok(())
    }

    /// A free port for TCP is that of UDP where it can be: a client whose answer was cut asks again at the same port.
    fn beside_udp(&self, address: SocketAddr) -> SocketAddr {
        let is_beside = |(protocol, udp): &&(&'static str, SocketAddr)| *protocol == "udp" && udp.ip() == address.ip();
        match self.addresses.iter().find(is_beside) {
            Some((_, udp)) if address.port() == 0 => *udp,
            _ => address,
        }
    }
}

impl StreamProtocol {
    const fn as_str(self) -> &'static str {
        match self {
            StreamProtocol::Tcp => "tcp",
            StreamProtocol::Dot => "dot",
            StreamProtocol::Doh => "doh",
        }
    }
}

fn acceptor(tls: &ServerConfig, protocol: StreamProtocol) -> TlsAcceptor {
    let mut tls = tls.clone();
    tls.alpn_protocols = match protocol {
        StreamProtocol::Doh => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        StreamProtocol::Tcp | StreamProtocol::Dot => vec![b"dot".to_vec()],
    };
    TlsAcceptor::from(Arc::new(tls))
}

fn datagram_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // A free port must be nobody else's: with the option set before, the kernel may choose one that another gate shares.
    let is_chosen = address.port() != 0;
    socket.set_reuse_port(is_chosen)?;
    // The kernel takes what its own limit allows.
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    // A worker waits in the call that receives, without a reactor between.
    socket.set_read_timeout(Some(IDLE_WAIT))?;
    socket.bind(&address.into())?;
    socket.set_reuse_port(true)?;
    Ok(socket.into())
}

fn stream_socket(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Rounds {
    /// Told to, or nobody is left who could tell.
    fn is_stopping(&self) -> bool {
        *self.shutdown.borrow() || self.shutdown.has_changed().is_err()
    }

    /// Waits for transactions and connections that have begun.
    async fn drain(self) {
        let all = async {
            let transactions = self.shared.transactions.acquire_many(TRANSACTIONS_MAX as u32).await.is_ok();
            transactions && self.connections.acquire_many(CONNECTIONS_MAX as u32).await.is_ok()
        };
        if timeout(Duration::from_secs(DRAIN_SECONDS_MAX), all).await.is_err() {
            DrainCut { seconds: DRAIN_SECONDS_MAX }.emit();
        }
    }
}

/// One worker, on a thread of its own: what can be answered at once is answered in the batch that it came in, and a
/// question that has to wait gets a task.
fn take_datagrams(socket: &Arc<UdpSocket>, rounds: &Rounds) {
    let Ok(local) = socket.local_addr() else { return };
    let (mut batch, mut recent) = (Batch::new(), Recent::new());
    while !rounds.is_stopping() {
        match batch.receive(socket) {
            Ok(received) => take_batch(socket, rounds, local, &mut batch, &mut recent, received),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                SocketFailed { protocol: "udp", error: &error }.emit();
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn take_batch(
    socket: &Arc<UdpSocket>,
    rounds: &Rounds,
    local: SocketAddr,
    batch: &mut Batch,
    recent: &mut Recent,
    received: usize,
) {
    count_many(Counter::QueriesUdp, received as u64);
    let moment = Moment::of(&rounds.shared.checkpoint);
    let mut worker =
        Worker { socket, rounds, local, moment, round: rounds.shared.checkpoint.round(moment.clock, received), recent };
    for place in 0..received {
        // A panic ends one question, whose event says so, and not the worker: others wait at its socket.
        let taken = catch_unwind(AssertUnwindSafe(|| worker.take_datagram(batch, place)));
        if taken.is_err() {
            batch.discard();
            WorkerPanicked.emit();
        }
        batch.reply(place);
    }
    // The record knows of an answer before the client does.
    drop(worker);
    if let Err(error) = batch.send(socket) {
        tracing::debug!(%error, "answers could not be sent");
    }
}

/// What a worker has at hand for the datagrams that came together.
struct Worker<'w> {
    socket: &'w Arc<UdpSocket>,
    rounds: &'w Rounds,
    local: SocketAddr,
    moment: Moment,
    round: Round<'w>,
    recent: &'w mut Recent,
}

impl Worker<'_> {
    fn take_datagram(&mut self, batch: &mut Batch, place: usize) {
        let shared = &self.rounds.shared;
        let Some((client, bytes, out)) = batch.take(place).filter(|(client, ..)| client.port() != 0) else { return };
        if !shared.limit.admits(client.ip(), self.moment.instant) {
            count(Counter::RateLimited);
            return out.extend(truncated(bytes).into_iter().flatten());
        }
        let Err(asked) = self.recent.answer(bytes, client, self.moment.instant, &mut self.round, out) else { return };
        match decode(bytes) {
            Decoded::Query(query) => self.take_question(client, bytes, query, asked, out),
            Decoded::Reject { reply, failure } => {
                shared.reject(&self.visit(client), bytes.len(), reply.len(), failure);
                out.extend(reply);
            }
            Decoded::Drop => count(Counter::Malformed),
        }
    }

    fn take_question(&mut self, client: SocketAddr, bytes: &[u8], query: Query, asked: Asked, out: &mut Vec<u8>) {
        let mut visit = self.visit(client);
        visit.is_repeated = asked.is_repeated && !visit.is_told_apart();
        let start = out.len();
        match self.rounds.shared.answer_at_once(&visit, &query, self.moment, out) {
            AtOnce::Over(settled) => {
                if let (Some(settled), Some(reply)) = (settled, out.get(start..)) {
                    self.recent.keep(asked, bytes, &query, reply, settled);
                }
            }
            AtOnce::Waits(waiting) => wait_elsewhere(self.socket, self.rounds, visit, query, waiting),
        }
    }

    fn visit(&self, client: SocketAddr) -> Visit {
        let location = self.round.locate(client.ip());
        self.rounds.shared.visit_at(location, client, self.local, Transport::Udp, Credentials::default(), self.moment.clock)
    }
}

/// With too much under way the question is dropped, which its event says; its client asks again.
fn wait_elsewhere(socket: &Arc<UdpSocket>, rounds: &Rounds, visit: Visit, query: Query, waiting: Waiting) {
    let Ok(slot) = Arc::clone(&rounds.shared.transactions).try_acquire_owned() else {
        return count(Counter::Overloaded);
    };
    let (socket, shared, client) = (Arc::clone(socket), Arc::clone(&rounds.shared), visit.session.client);
    tokio::spawn(async move {
        let reply = shared.answer_in_time(visit, query, waiting).await;
        send(&socket, &reply, client);
        drop(slot);
    });
}

/// Never waits: a full socket loses the reply, as any network may.
fn send(socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    if let Err(error) = SockRef::from(socket).send_to_with_flags(reply, &client.into(), libc::MSG_DONTWAIT) {
        tracing::debug!(%error, "answer could not be sent");
    }
}

/// The question back with the truncation bit: no larger than what came, so of no use to a forger of sources, and a real
/// client asks again over TCP, which proves its address.
fn truncated(bytes: &[u8]) -> Option<[u8; HEADER_BYTES]> {
    let header = bytes.first_chunk::<HEADER_BYTES>().filter(|header| header[2] & 0x80 == 0)?;
    let mut reply = [0; HEADER_BYTES];
    reply[..2].copy_from_slice(&header[..2]);
    reply[2] = 0x82 | (header[2] & 0x79);
    reply[3] = 0x80;
    Some(reply)
}

async fn take_connections(listening: StreamListener, rounds: Rounds) {
    let StreamListener { protocol, listener, tls } = listening;
    let mut shutdown = rounds.shutdown.clone();
    loop {
        let taken = tokio::select! {
            _ = shutdown.wait_for(|stopping| *stopping) => return,
            taken = listener.accept() => taken,
        };
        match taken {
            Ok((stream, client)) => take_connection(protocol, tls.clone(), stream, client, &rounds),
            Err(error) => {
                SocketFailed { protocol: protocol.as_str(), error: &error }.emit();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn take_connection(protocol: StreamProtocol, tls: Option<TlsAcceptor>, stream: TcpStream, client: SocketAddr, rounds: &Rounds) {
    let slot = Arc::clone(&rounds.connections).try_acquire_owned().ok();
    let Some(place) = slot.and_then(|slot| Some((slot, rounds.by_client.take(client.ip())?))) else {
        return count(Counter::ConnectionsRefused);
    };
    let (shared, shutdown) = (Arc::clone(&rounds.shared), rounds.shutdown.clone());
    tokio::spawn(async move {
        if let Err(error) = converse(protocol, tls, stream, client, shared, shutdown).await {
            tracing::debug!(protocol = protocol.as_str(), %error, "connection ended");
        }
        drop(place);
    });
}

async fn converse(
    protocol: StreamProtocol,
    tls: Option<TlsAcceptor>,
    stream: TcpStream,
    client: SocketAddr,
    shared: Arc<Shared>,
    shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    match (protocol, tls) {
        (StreamProtocol::Doh, None) => {
            let version = doh::version_of(&stream).await?;
            doh::converse(stream, version, client, local, shared, shutdown).await
        }
        (StreamProtocol::Doh, Some(tls)) => {
            let stream = timeout(HANDSHAKE_WAIT, tls.accept(stream)).await??;
            let version = doh::agreed_version(stream.get_ref().1.alpn_protocol());
            doh::converse(stream, version, client, local, shared, shutdown).await
        }
        (StreamProtocol::Tcp | StreamProtocol::Dot, Some(tls)) => {
            let stream = timeout(HANDSHAKE_WAIT, tls.accept(stream)).await??;
            let token = shared.token_in_name(client, stream.get_ref().1.server_name());
            let visit = shared.visit(client, local, Transport::Dot, token);
            stream::converse(stream, visit, shared, shutdown).await
        }
        (StreamProtocol::Tcp | StreamProtocol::Dot, None) => {
            let visit = shared.visit(client, local, Transport::Tcp, None);
            stream::converse(stream, visit, shared, shutdown).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two gates that ask for a free port get two, and the workers of each share its own.
    #[test]
    fn a_free_port_is_shared_by_nobody_but_the_workers() {
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let firsts: Vec<_> = (0..64).map(|_| datagram_socket(any).unwrap()).collect();
        let ports: std::collections::BTreeSet<u16> = firsts.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
        assert_eq!(ports.len(), firsts.len());
        for first in &firsts {
            datagram_socket(first.local_addr().unwrap()).unwrap();
        }
    }

    #[test]
    fn a_client_over_its_rate_is_sent_to_tcp_with_no_more_than_a_header() {
        let query = [0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1];
        let reply = truncated(&query).unwrap();
        assert_eq!(reply[..4], [0x12, 0x34, 0x83, 0x80]);
        assert!(truncated(&[0; 4]).is_none());
        assert!(truncated(&[0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_none());
    }
}
