//! Accepting and draining. A listener holds a bounded number of connections; the next one waits in the kernel's queue.
//! Each connection is one task in a named span whose end is noticed. A drain stops accepting, lets connections finish
//! until its deadline, and then ends them. What a connection does is the gate's.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tracing::Instrument;

/// Out of file descriptors: waiting is all that helps, and not waiting would spin.
const ACCEPT_FAILURE_PAUSE: Duration = Duration::from_millis(50);

/// Starts a drain; held by the supervisor.
#[derive(Debug)]
pub struct DrainHandle {
    deadline: watch::Sender<Option<Instant>>,
}

/// Tells a connection or a listener that a drain has begun.
#[derive(Clone, Debug)]
pub struct Drain {
    deadline: watch::Receiver<Option<Instant>>,
}

/// How a listener ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServeOutcome {
    pub accepted: u64,
    /// Connections that were still open at the drain's deadline.
    pub ended_by_deadline: u64,
    /// Connection tasks that panicked.
    pub panicked: u64,
}

pub fn drain() -> (DrainHandle, Drain) {
    let (sender, receiver) = watch::channel(None);
    (DrainHandle { deadline: sender }, Drain { deadline: receiver })
}

impl DrainHandle {
    /// Connections have this long to finish. Only the first call counts.
    pub fn begin(&self, patience: Duration) {
        self.deadline.send_if_modified(|deadline| {
            let is_first = deadline.is_none();
            deadline.get_or_insert(Instant::now() + patience);
            is_first
        });
    }
}

impl Drain {
    /// Waits for the drain to begin and returns its deadline. A supervisor that is gone is a drain without patience.
    pub async fn begun(&mut self) -> Instant {
        match self.deadline.wait_for(Option::is_some).await {
            Ok(deadline) => deadline.unwrap_or_else(Instant::now),
            Err(_) => Instant::now(),
        }
    }

    pub fn has_begun(&self) -> bool {
        self.deadline.borrow().is_some()
    }
}

/// Accepts until a drain begins; returns when the last connection has ended.
pub async fn serve<Handler, Connection>(
    name: &'static str,
    listener: TcpListener,
    connections_max: usize,
    mut drain: Drain,
    handler: Handler,
) -> ServeOutcome
where
    Handler: Fn(TcpStream, SocketAddr, Drain) -> Connection,
    Connection: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
    let mut outcome = ServeOutcome::default();
    let mut connections = JoinSet::new();
    let for_connections = drain.clone();
    let deadline = loop {
        tokio::select! {
            biased;
            deadline = drain.begun() => break deadline,
            Some(ended) = connections.join_next() => outcome.note(ended),
            (place, accepted) = accept(&places, &listener) => match accepted {
                Ok((stream, peer)) => {
                    outcome.accepted += 1;
                    let connection = handler(stream, peer, for_connections.clone());
                    let span = tracing::debug_span!("connection", listener = name);
                    let task = async move {
                        connection.await;
                        drop(place);
                    };
                    connections.spawn(task.instrument(span));
                }
                Err(error) => {
                    tracing::warn!(listener = name, %error, "cannot accept");
                    tokio::time::sleep(ACCEPT_FAILURE_PAUSE).await;
                }
            },
        }
    };
    drop(listener);
    outcome.finish(connections, deadline).await
}

/// A place first, then a connection, so that what cannot be served is not taken.
async fn accept(
    places: &Arc<Semaphore>,
    listener: &TcpListener,
) -> (Option<tokio::sync::OwnedSemaphorePermit>, io::Result<(TcpStream, SocketAddr)>) {
    // The semaphore is never closed.
    let place = Arc::clone(places).acquire_owned().await.ok();
    (place, listener.accept().await)
}

impl ServeOutcome {
    async fn finish(mut self, mut connections: JoinSet<()>, deadline: Instant) -> ServeOutcome {
        while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, connections.join_next()).await {
            self.note(ended);
        }
        connections.abort_all();
        while let Some(ended) = connections.join_next().await {
            self.note(ended);
        }
        self
    }

    fn note(&mut self, ended: Result<(), JoinError>) {
        match ended {
            Ok(()) => {}
            Err(error) if error.is_cancelled() => self.ended_by_deadline += 1,
            Err(_) => self.panicked += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn echo_one(mut stream: TcpStream, _peer: SocketAddr, _drain: Drain) {
        let mut byte = [0];
        if stream.read_exact(&mut byte).await.is_ok() {
            assert_ne!(byte, *b"!", "the peer asked for a panic");
            let _ = stream.write_all(&byte).await;
        }
    }

    async fn bound() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    async fn exchange(stream: &mut TcpStream) -> u8 {
        stream.write_all(b"x").await.unwrap();
        stream.read_u8().await.unwrap()
    }

    #[tokio::test]
    async fn a_drain_lets_open_connections_finish_and_takes_no_new_ones() {
        let (listener, address) = bound().await;
        let (handle, drain) = drain();
        let server = tokio::spawn(serve("test", listener, 10, drain, echo_one));
        let mut first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        assert_eq!(exchange(&mut second).await, b'x');
        handle.begin(Duration::from_secs(5));
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert_eq!(exchange(&mut first).await, b'x');
        let outcome = server.await.unwrap();
        assert_eq!((outcome.ended_by_deadline, outcome.panicked), (0, 0));
        assert!(outcome.accepted >= 2);
    }

    #[tokio::test]
    async fn a_connection_that_outlives_the_drain_is_ended() {
        let (listener, address) = bound().await;
        let (handle, drain) = drain();
        let server = tokio::spawn(serve("test", listener, 10, drain, echo_one));
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut served = TcpStream::connect(address).await.unwrap();
        exchange(&mut served).await;
        handle.begin(Duration::ZERO);
        handle.begin(Duration::from_secs(3600));
        let outcome = server.await.unwrap();
        assert_eq!(outcome, ServeOutcome { accepted: 2, ended_by_deadline: 1, panicked: 0 });
        assert_eq!(silent.read(&mut [0]).await.unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn the_bound_holds_and_a_place_is_given_back_even_after_a_panic() {
        let (listener, address) = bound().await;
        let (handle, drain) = drain();
        let server = tokio::spawn(serve("test", listener, 1, drain, echo_one));
        let mut first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(b"x").await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), second.read_u8()).await;
        assert!(early.is_err(), "the second connection was served beside the first");
        first.write_all(b"!").await.unwrap();
        assert_eq!(second.read_u8().await.unwrap(), b'x');
        handle.begin(Duration::from_secs(5));
        assert_eq!(server.await.unwrap(), ServeOutcome { accepted: 2, ended_by_deadline: 0, panicked: 1 });
    }
}
