//! The two directions of one flow, until both have ended. Each side's end is passed on as an end of that direction alone
//! (RFC 9293 section 3.6), a side that does not read holds the other back, and a failure says which side it came from. An
//! idle flow holds no buffer: a thread lends one for the moment in which bytes are moved.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::splice::Splice;

/// Moved at once: four TLS records, or what a receive window brings on a fast path.
const BUFFER_BYTES: usize = 64 << 10;
/// Moved by copying before a direction between two sockets goes on in the kernel: two pipes cost more than copying this
/// (10 to 25 microseconds a flow, measured in November 2026).
const COPIED_BYTES: u64 = 64 << 10;
/// Turns of one direction before others get theirs.
const TURNS_MAX: usize = 16;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER_BYTES]);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Origin,
}

/// How a relay ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Both directions came to their end.
    Finished,
    Idle,
    /// A side failed while it was read or written.
    Failed {
        side: Side,
        error: io::Error,
    },
}

/// A side that may be a bare socket, so that the kernel can move its bytes.
pub(crate) trait Leg: AsyncRead + AsyncWrite + Unpin {
    fn socket(&self) -> Option<&TcpStream>;
}

/// One direction.
struct Direction {
    held: Vec<u8>,
    sent: usize,
    moved: u64,
    state: State,
}

enum State {
    Copying,
    Splicing(Splice),
    Ending,
    Ended,
}

/// What a turn came to.
enum Turn {
    Moved,
    Ended,
}

impl Direction {
    fn new(first: Vec<u8>) -> Direction {
        Direction { held: first, sent: 0, moved: 0, state: State::Copying }
    }

    fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Moves until it would wait. Ready means that this direction has ended.
    fn poll<R: Leg, W: Leg>(
        &mut self,
        context: &mut Context<'_>,
        from: (&mut R, Side),
        to: (&mut W, Side),
        counter: &AtomicU64,
    ) -> Poll<Result<(), End>> {
        for _ in 0..TURNS_MAX {
            if let Turn::Ended = ready!(self.turn(context, (&mut *from.0, from.1), (&mut *to.0, to.1), counter))? {
                return Poll::Ready(Ok(()));
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn turn<R: Leg, W: Leg>(
        &mut self,
        context: &mut Context<'_>,
        from: (&mut R, Side),
        to: (&mut W, Side),
        counter: &AtomicU64,
    ) -> Poll<Result<Turn, End>> {
        let reading = |error| End::Failed { side: from.1, error };
        let writing = |error| End::Failed { side: to.1, error };
        match &mut self.state {
            State::Ended => return Poll::Ready(Ok(Turn::Ended)),
            State::Ending => {
                ready!(Pin::new(&mut *to.0).poll_shutdown(context)).map_err(writing)?;
                self.state = State::Ended;
                return Poll::Ready(Ok(Turn::Ended));
            }
            State::Splicing(splice) => {
                let (Some(source), Some(target)) = (from.0.socket(), to.0.socket()) else {
                    return Poll::Ready(Err(reading(io::ErrorKind::Unsupported.into())));
                };
                if splice.has_bytes() {
                    let moved = ready!(splice.poll_write(context, target)).map_err(writing)?;
                    counter.fetch_add(moved, Ordering::Relaxed);
                } else if ready!(splice.poll_read(context, source)).map_err(reading)? == 0 {
                    self.state = State::Ending;
                }
                return Poll::Ready(Ok(Turn::Moved));
            }
            State::Copying => {}
        }
        if self.sent < self.held.len() {
            let count = ready!(Pin::new(&mut *to.0).poll_write(context, &self.held[self.sent..])).map_err(writing)?;
            if count == 0 {
                return Poll::Ready(Err(writing(io::ErrorKind::WriteZero.into())));
            }
            self.note(count, counter);
            self.sent += count;
            if self.sent == self.held.len() {
                (self.held, self.sent) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(Turn::Moved));
        }
        if self.moved >= COPIED_BYTES
            && from.0.socket().is_some()
            && to.0.socket().is_some()
            && let Some(splice) = Splice::open()
        {
            self.state = State::Splicing(splice);
            return Poll::Ready(Ok(Turn::Moved));
        }
        BUFFER.with_borrow_mut(|buffer| self.copy(context, buffer, from, to, counter))
    }

    /// Reads into the thread's buffer and writes what the other side takes at once; only the rest is kept.
    fn copy<R: Leg, W: Leg>(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
        from: (&mut R, Side),
        to: (&mut W, Side),
        counter: &AtomicU64,
    ) -> Poll<Result<Turn, End>> {
        let writing = |error| End::Failed { side: to.1, error };
        let mut room = ReadBuf::new(buffer);
        match Pin::new(&mut *from.0).poll_read(context, &mut room) {
            // TLS keeps what it was given until it is told that this was all for now.
            Poll::Pending => {
                let _ = Pin::new(&mut *to.0).poll_flush(context).map_err(writing)?;
                return Poll::Pending;
            }
            Poll::Ready(read) => read.map_err(|error| End::Failed { side: from.1, error })?,
        }
        let bytes = room.filled();
        if bytes.is_empty() {
            self.state = State::Ending;
            return Poll::Ready(Ok(Turn::Moved));
        }
        let count = match Pin::new(&mut *to.0).poll_write(context, bytes) {
            Poll::Ready(count) => count.map_err(writing)?,
            Poll::Pending => 0,
        };
        self.note(count, counter);
        self.held = bytes.get(count..).unwrap_or_default().to_vec();
        Poll::Ready(Ok(Turn::Moved))
    }

    fn note(&mut self, count: usize, counter: &AtomicU64) {
        self.moved += count as u64;
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// The relay of one flow.
pub(crate) struct Relay<'a, C, O> {
    client: &'a mut C,
    origin: &'a mut O,
    out: Direction,
    into: Direction,
    counters: (&'a AtomicU64, &'a AtomicU64),
    idle: Duration,
    timer: Pin<Box<Sleep>>,
    seen: u64,
    moved_at: Instant,
}

impl<'a, C: Leg, O: Leg> Relay<'a, C, O> {
    /// `first` was read from the client already and goes before everything else.
    pub(crate) fn new(
        client: &'a mut C,
        origin: &'a mut O,
        first: Vec<u8>,
        counters: (&'a AtomicU64, &'a AtomicU64),
        idle: Duration,
    ) -> Relay<'a, C, O> {
        let now = Instant::now();
        let timer = Box::pin(tokio::time::sleep_until(now + idle));
        Relay {
            client,
            origin,
            out: Direction::new(first),
            into: Direction::new(Vec::new()),
            counters,
            idle,
            timer,
            seen: 0,
            moved_at: now,
        }
    }

    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let total = self.counters.0.load(Ordering::Relaxed).wrapping_add(self.counters.1.load(Ordering::Relaxed));
        if total != self.seen {
            self.seen = total;
            self.moved_at = Instant::now();
        }
        while self.timer.as_mut().poll(context).is_ready() {
            let deadline = self.moved_at + self.idle;
            if deadline <= Instant::now() {
                return Poll::Ready(End::Idle);
            }
            self.timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

impl<C: Leg, O: Leg> Future for Relay<'_, C, O> {
    type Output = End;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<End> {
        let this = &mut *self;
        if !this.out.is_ended() {
            let (from, to) = ((&mut *this.client, Side::Client), (&mut *this.origin, Side::Origin));
            if let Poll::Ready(Err(end)) = this.out.poll(context, from, to, this.counters.0) {
                return Poll::Ready(end);
            }
        }
        if !this.into.is_ended() {
            let (from, to) = ((&mut *this.origin, Side::Origin), (&mut *this.client, Side::Client));
            if let Poll::Ready(Err(end)) = this.into.poll(context, from, to, this.counters.1) {
                return Poll::Ready(end);
            }
        }
        if this.out.is_ended() && this.into.is_ended() {
            return Poll::Ready(End::Finished);
        }
        this.poll_idle(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    impl Leg for TcpStream {
        fn socket(&self) -> Option<&TcpStream> {
            Some(self)
        }
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (one, other) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (one.unwrap(), other.unwrap().0)
    }

    async fn relayed<T>(idle: Duration, first: &[u8], peers: impl AsyncFnOnce(TcpStream, TcpStream) -> T) -> (End, u64, u64, T) {
        let ((client, mut near), (mut far, origin)) = (pair().await, pair().await);
        let (out, into) = (AtomicU64::new(0), AtomicU64::new(0));
        let relay = async {
            let end = Relay::new(&mut near, &mut far, first.to_vec(), (&out, &into), idle).await;
            drop((near, far));
            end
        };
        let (end, told) = tokio::join!(relay, peers(client, origin));
        (end, out.into_inner(), into.into_inner(), told)
    }

    const LONG: Duration = Duration::from_secs(60);

    /// More than is copied, so that both ways of moving bytes take part, in both directions at once.
    #[tokio::test]
    async fn everything_passes_and_each_direction_ends_by_itself() {
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let (end, out, into, ()) = relayed(LONG, b"first", async |mut client: TcpStream, mut origin: TcpStream| {
            let (mut client_read, mut client_write) = client.split();
            let (mut origin_read, mut origin_write) = origin.split();
            let send = async {
                client_write.write_all(&sent).await.unwrap();
                client_write.shutdown().await.unwrap();
            };
            let answer = async {
                let mut got = Vec::new();
                origin_read.read_to_end(&mut got).await.unwrap();
                assert_eq!(got[..5], *b"first");
                assert!(got[5..] == sent[..]);
                // The origin goes on after the client's end.
                origin_write.write_all(&got).await.unwrap();
                origin_write.shutdown().await.unwrap();
            };
            let receive = async {
                let mut got = Vec::new();
                client_read.read_to_end(&mut got).await.unwrap();
                assert_eq!(got.len(), sent.len() + 5);
            };
            tokio::join!(send, answer, receive);
        })
        .await;
        assert!(matches!(end, End::Finished), "{end:?}");
        assert_eq!((out, into), (3_000_005, 3_000_005));
    }

    /// A side that reads nothing holds the other back: what is in flight is bounded by sockets and one buffer.
    #[tokio::test]
    async fn a_side_that_does_not_read_holds_the_other_back() {
        let (_, out, _, written) = relayed(Duration::from_millis(300), b"", async |mut client: TcpStream, origin: TcpStream| {
            let mut written = 0_u64;
            let piece = vec![0; 1 << 16];
            while let Ok(Ok(count)) = tokio::time::timeout(Duration::from_millis(400), client.write(&piece)).await {
                written += count as u64;
                assert!(written < 256 << 20, "it takes everything");
            }
            drop(origin);
            written
        })
        .await;
        assert!(out <= written);
    }

    #[tokio::test]
    async fn a_reset_says_which_side_it_came_from() {
        let (end, ..) = relayed(LONG, b"", async |client: TcpStream, origin: TcpStream| {
            origin.set_zero_linger().unwrap();
            drop(origin);
            let _ = client.readable().await;
        })
        .await;
        assert!(
            matches!(&end, End::Failed { side: Side::Origin, error } if error.kind() == io::ErrorKind::ConnectionReset),
            "{end:?}"
        );
    }

    #[tokio::test]
    async fn an_idle_flow_ends() {
        let (end, ..) = relayed(Duration::from_millis(50), b"", async |mut client: TcpStream, mut origin: TcpStream| {
            client.write_all(b"x").await.unwrap();
            origin.read_exact(&mut [0]).await.unwrap();
            let _ = client.read(&mut [0]).await;
        })
        .await;
        assert!(matches!(end, End::Idle), "{end:?}");
    }
}
