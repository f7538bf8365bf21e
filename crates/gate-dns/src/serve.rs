//! The gate's loops: sockets are bound, datagrams and connections taken, and everything is let finish when it stops. What a
//! question means is none of its business; that is `session`. UDP of RFC 1035, TCP of RFC 7766, TLS of RFC 7858.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use checkpoint::Checkpoint;
use model::Transport;
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::decode::{Decoded, HEADER_BYTES, decode};
use crate::events::{Counter, DrainCut, Listening, SocketFailed, count};
use crate::limit::{ConnectionLimit, RateLimit};
use crate::resolver::DnsResolver;
use crate::session::Shared;
use crate::spec::DnsGateConfig;
use crate::{Error, doh, stream};

/// Questions that wait for upstreams at once, over all clients; each holds about 4 KiB.
const TRANSACTIONS_MAX: usize = 16_384;

/// Connections at once, over all stream listeners; each holds a file descriptor and about 20 KiB.
const CONNECTIONS_MAX: usize = 4_096;

/// Datagrams taken in one go before other tasks of the thread get their turn.
const BATCH_MAX: usize = 64;

/// The longest question over UDP that could be valid is far shorter; the rest is cut off and then malformed.
const DATAGRAM_BYTES_MAX: usize = 4_160;

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

/// Opens every listener, or none: an error closes what was open. DNS over TLS needs a certificate; DNS over HTTPS does
/// too, but on loopback.
pub async fn bind(config: DnsGateConfig, checkpoint: Checkpoint, tls: Option<Arc<ServerConfig>>) -> Result<DnsGate, Error> {
    let spec = &config.spec;
    let mut gate =
        DnsGate { shared: share(&config, checkpoint)?, datagrams: Vec::new(), streams: Vec::new(), addresses: Vec::new() };
    for address in &spec.udp {
        gate.open_datagrams(*address, config.workers)?;
    }
    for (protocol, addresses) in
        [(StreamProtocol::Tcp, &spec.tcp), (StreamProtocol::Dot, &spec.dot), (StreamProtocol::Doh, &spec.doh)]
    {
        for address in addresses {
            gate.open_stream(protocol, *address, tls.as_deref())?;
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
            loops.spawn(take_datagrams(Arc::new(socket), rounds.clone()));
        }
        for listener in self.streams {
            loops.spawn(take_connections(listener, rounds.clone()));
        }
        while loops.join_next().await.is_some() {}
        rounds.drain().await;
    }

    /// Several sockets on one address: the kernel spreads clients over them, one for each worker.
    fn open_datagrams(&mut self, address: SocketAddr, workers: usize) -> Result<(), Error> {
        let failed = |source| Error::Listen { protocol: "udp", address, source };
        let first = datagram_socket(address).map_err(failed)?;
        let bound = first.local_addr().map_err(failed)?;
        self.datagrams.push(first);
        for _ in 1..workers {
            self.datagrams.push(datagram_socket(bound).map_err(failed)?);
        }
        self.addresses.push(("udp", bound));
        Ok(())
    }

    fn open_stream(&mut self, protocol: StreamProtocol, address: SocketAddr, tls: Option<&ServerConfig>) -> Result<(), Error> {
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
        let listener = stream_socket(preferred).or_else(|_| stream_socket(address)).map_err(failed)?;
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
    socket.set_reuse_port(true)?;
    // The kernel takes what its own limit allows.
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

fn stream_socket(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

impl Rounds {
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

/// One worker: most answers come from the cache and are sent from here; a question that has to wait gets its own task.
async fn take_datagrams(socket: Arc<UdpSocket>, rounds: Rounds) {
    let mut shutdown = rounds.shutdown.clone();
    let Ok(local) = socket.local_addr() else { return };
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let taken = tokio::select! {
            _ = shutdown.wait_for(|stopping| *stopping) => return,
            taken = socket.recv_from(&mut buffer) => taken,
        };
        let mut next = Some(taken);
        for _ in 0..BATCH_MAX {
            match next.take() {
                Some(Ok((bytes, client))) => take_datagram(&socket, &rounds, client, local, &buffer[..bytes]).await,
                Some(Err(error)) => SocketFailed { protocol: "udp", error: &error }.emit(),
                None => break,
            }
            next = socket.try_recv_from(&mut buffer).ok().map(Ok);
        }
        // One that was read and not handled would be lost.
        if let Some(Ok((bytes, client))) = next {
            take_datagram(&socket, &rounds, client, local, &buffer[..bytes]).await;
        }
        tokio::task::yield_now().await;
    }
}

async fn take_datagram(socket: &Arc<UdpSocket>, rounds: &Rounds, client: SocketAddr, local: SocketAddr, bytes: &[u8]) {
    count(Counter::QueriesUdp);
    if client.port() == 0 {
        return;
    }
    if !rounds.shared.limit.admits(client.ip(), Instant::now()) {
        count(Counter::RateLimited);
        if let Some(reply) = truncated(bytes) {
            send(socket, &reply, client).await;
        }
        return;
    }
    let visit = || rounds.shared.visit(client, local, Transport::Udp, None);
    let query = match decode(bytes) {
        Decoded::Query(query) => query,
        Decoded::Reject { reply, failure } => {
            rounds.shared.reject(&visit(), bytes.len(), reply.len(), failure);
            return send(socket, &reply, client).await;
        }
        Decoded::Drop => return count(Counter::Malformed),
    };
    let mut answer = Box::pin(Arc::clone(&rounds.shared).transact(visit(), query));
    match poll_once(answer.as_mut()) {
        Poll::Ready(reply) => send(socket, &reply, client).await,
        Poll::Pending => wait_elsewhere(socket, rounds, client, answer),
    }
}

/// A first poll that registers no wake-up: whoever polls next does.
fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// With too much under way the question is dropped, which its event says; its client asks again.
fn wait_elsewhere<F>(socket: &Arc<UdpSocket>, rounds: &Rounds, client: SocketAddr, answer: Pin<Box<F>>)
where
    F: Future<Output = Vec<u8>> + Send + 'static,
{
    let Ok(slot) = Arc::clone(&rounds.shared.transactions).try_acquire_owned() else {
        return count(Counter::Overloaded);
    };
    let socket = Arc::clone(socket);
    tokio::spawn(async move {
        let reply = answer.await;
        send(&socket, &reply, client).await;
        drop(slot);
    });
}

async fn send(socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(reply, client).await {
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
            let visit = shared.visit(client, local, Transport::Dot, None);
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

    #[test]
    fn a_client_over_its_rate_is_sent_to_tcp_with_no_more_than_a_header() {
        let query = [0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1];
        let reply = truncated(&query).unwrap();
        assert_eq!(reply[..4], [0x12, 0x34, 0x83, 0x80]);
        assert!(truncated(&[0; 4]).is_none());
        assert!(truncated(&[0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_none());
    }
}
