//! The shield's admission at a listener: a connection is let in before a byte of it is read, and its stream tells what it
//! moves, so that one that is too slow can be ended from outside. The limits and the decisions are `shield`'s.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Instant;

pub use shield::admission::{Admission, Direction, Listener, Moment, Progress, Reason, Report, Ticket};
pub use shield::{ShieldConfig, ShieldSpec};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The clock of admission: nanoseconds since it was asked first.
pub fn now() -> Moment {
    Moment(u64::try_from(BEGINNING.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// A listener with its admission.
#[derive(Clone, Debug)]
pub struct Doorkeeper {
    pub admission: Arc<Admission>,
    pub listener: Arc<Listener>,
}

impl Doorkeeper {
    /// Lets a connection in. One that is refused is reset, which costs neither side anything more; the refusal is counted.
    pub fn admit(&self, tcp: &TcpStream, peer: IpAddr) -> Option<Ticket> {
        match self.admission.admit(&self.listener, peer, now()) {
            Ok(ticket) => Some(ticket),
            Err(_) => {
                let _ = tcp.set_zero_linger();
                None
            }
        }
    }
}

/// A TCP connection that was let in. It fails with a reset once the shield has ended it.
#[derive(Debug)]
pub struct AdmittedStream {
    tcp: TcpStream,
    ticket: Option<Ticket>,
}

impl AdmittedStream {
    /// Without a ticket nothing is counted and nothing ends the connection.
    pub fn new(tcp: TcpStream, ticket: Option<Ticket>) -> AdmittedStream {
        AdmittedStream { tcp, ticket }
    }

    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    pub fn progress(&self) -> Option<Arc<Progress>> {
        self.ticket.as_ref().map(|ticket| Arc::clone(ticket.progress()))
    }

    fn evicted(&self) -> Option<io::Error> {
        self.ticket.as_ref()?.progress().evicted().map(|reason| io::Error::new(io::ErrorKind::ConnectionReset, reason.as_str()))
    }

    /// Registers before looking, so that an end in between is not missed.
    fn evicted_or_wakes(&self, direction: Direction, cx: &Context<'_>) -> Option<io::Error> {
        self.ticket.as_ref()?.progress().register(direction, cx.waker());
        self.evicted()
    }

    fn note_write(&self, outcome: Poll<io::Result<usize>>, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        let Some(ticket) = &self.ticket else { return outcome };
        match outcome {
            Poll::Ready(Ok(bytes)) => ticket.progress().sent(bytes, now),
            Poll::Pending => {
                ticket.progress().send_is_blocked(now);
                if let Some(error) = self.evicted_or_wakes(Direction::Send, cx) {
                    return Poll::Ready(Err(error));
                }
            }
            Poll::Ready(Err(_)) => {}
        }
        outcome
    }
}

impl Drop for AdmittedStream {
    fn drop(&mut self) {
        if self.evicted().is_some() {
            // RFC 9293 section 3.9.1.5: what is queued for a peer that does not read would be kept for minutes otherwise.
            let _ = self.tcp.set_zero_linger();
        }
    }
}

impl AsyncRead for AdmittedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.tcp).poll_read(cx, buffer);
        match (&outcome, &self.ticket) {
            (Poll::Ready(Ok(())), Some(ticket)) => ticket.progress().received(buffer.filled().len() - before),
            (Poll::Pending, Some(_)) => {
                if let Some(error) = self.evicted_or_wakes(Direction::Receive, cx) {
                    return Poll::Ready(Err(error));
                }
            }
            _ => {}
        }
        outcome
    }
}

impl AsyncWrite for AdmittedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        self.note_write(outcome, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.tcp).poll_write_vectored(cx, slices);
        self.note_write(outcome, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Limits that hold on loopback too, with the shortest times that can be set.
    fn doorkeeper(change: impl FnOnce(&mut ShieldSpec)) -> Doorkeeper {
        let mut spec = ShieldSpec { allow: Vec::new(), ..ShieldSpec::default() };
        change(&mut spec);
        let admission = Admission::new(ShieldConfig::resolve(&spec).unwrap());
        let listener = admission.listener("test", "tcp", "127.0.0.1:1".parse().unwrap(), 100);
        Doorkeeper { admission, listener }
    }

    async fn pair(keeper: &Doorkeeper) -> (TcpStream, Option<AdmittedStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, peer) = listener.accept().await.unwrap();
        let ticket = keeper.admit(&tcp, peer.ip());
        (client, ticket.map(|ticket| AdmittedStream::new(tcp, Some(ticket))))
    }

    #[tokio::test]
    async fn a_refused_connection_is_reset_and_one_that_ends_makes_room() {
        let keeper = doorkeeper(|spec| spec.source.open_max = 1);
        let (_first, held) = pair(&keeper).await;
        assert!(held.is_some());
        let (mut second, refused) = pair(&keeper).await;
        assert!(refused.is_none());
        assert_eq!(second.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        drop(held);
        assert!(pair(&keeper).await.1.is_some());
    }

    /// Sweeps as the program would, minutes from now: what the kernel takes for the peer is in the first window.
    async fn sweep_later(keeper: Doorkeeper) -> usize {
        let mut evicted = 0;
        for minutes in 1..4 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            evicted += keeper.admission.sweep(now().plus(Duration::from_secs(60 * minutes))).evicted;
        }
        evicted
    }

    #[tokio::test]
    async fn a_silent_connection_is_ended_while_it_is_waited_for() {
        let keeper = doorkeeper(|_| ());
        let (mut client, held) = pair(&keeper).await;
        let mut held = held.unwrap();
        let mut byte = [0];
        let (read, evicted) = tokio::join!(held.read(&mut byte), sweep_later(keeper.clone()));
        assert_eq!((read.unwrap_err().to_string().as_str(), evicted), ("first_byte", 1));
        drop(held);
        assert_eq!(client.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(keeper.listener.refused(Reason::FirstByte), 1);
    }

    #[tokio::test]
    async fn dd_09_a_peer_that_does_not_read_is_ended_while_it_is_written_to() {
        let keeper = doorkeeper(|spec| spec.slow.spared = 0);
        let (mut client, held) = pair(&keeper).await;
        let mut held = held.unwrap();
        client.write_all(b"GET").await.unwrap();
        held.read_u8().await.unwrap();
        let page = vec![0; 64 << 20];
        let (written, evicted) = tokio::join!(held.write_all(&page), sweep_later(keeper.clone()));
        assert_eq!((written.unwrap_err().to_string().as_str(), evicted), ("slow_read", 1));
    }
}
