//! Reading ahead without taking away: [`peek`] reads up to a whole client hello and hands back a stream that gives the
//! same bytes again. The caller holds the deadline.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::{ClientHello, Decoded, HELLO_BYTES_MAX, HelloProblem, decode};

/// A hello of the largest size, its handshake header and its record headers.
const PEEKED_BYTES_MAX: usize = HELLO_BYTES_MAX + 256;

/// A stream whose first bytes have already been read.
#[derive(Debug)]
pub struct ReplayedStream<S> {
    first: BytesMut,
    inner: S,
}

impl<S> ReplayedStream<S> {
    pub fn new(first: BytesMut, inner: S) -> ReplayedStream<S> {
        ReplayedStream { first, inner }
    }

    /// What has been read ahead and is still to be replayed; for telling other protocols by their first bytes.
    pub fn first_bytes(&self) -> &[u8] {
        &self.first
    }

    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

/// Reads until the hello is whole or known to be none. The bytes are replayed in either case.
pub async fn peek<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<(Result<ClientHello, HelloProblem>, ReplayedStream<S>)> {
    let mut first = BytesMut::with_capacity(2048);
    let outcome = loop {
        match decode(&first) {
            Ok(Decoded::Complete(hello)) => break Ok(hello),
            Err(problem) => break Err(problem),
            Ok(Decoded::Partial) if first.len() >= PEEKED_BYTES_MAX => break Err(HelloProblem::TooLarge),
            Ok(Decoded::Partial) => {}
        }
        let room = PEEKED_BYTES_MAX - first.len();
        if (&mut stream).take(room as u64).read_buf(&mut first).await? == 0 {
            break Err(HelloProblem::Malformed);
        }
    };
    Ok((outcome, ReplayedStream { first, inner: stream }))
}

impl<S: AsyncRead + Unpin> AsyncRead for ReplayedStream<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.first.is_empty() {
            return Pin::new(&mut this.inner).poll_read(context, buffer);
        }
        let count = this.first.len().min(buffer.remaining());
        buffer.put_slice(&this.first.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReplayedStream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}
