//! The client's socket, and a stream that gives back what was peeked. The socket can be told to end with a reset: a browser
//! takes an orderly close for a finished download where no length was announced, but never a reset (AV-06).
//! It does not know what the bytes mean.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use net::admission::{AdmittedStream, Progress, Ticket, now};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Whether the connection is to end with a reset. Shared between the socket and whoever decides.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cut {
    is_set: Arc<AtomicBool>,
    /// What the shield sees of the connection; none where it does not look.
    progress: Option<Arc<Progress>>,
}

impl Cut {
    /// From here on nothing more is written, and closing the socket resets the connection.
    pub(crate) fn reset(&self) {
        self.is_set.store(true, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }

    /// From here on the client has to send, and not too slowly.
    pub(crate) fn expect_body(&self) {
        self.progress.iter().for_each(|progress| progress.expect(now()));
    }

    /// The client has sent what it had to, or no longer has to.
    pub(crate) fn expect_nothing(&self) {
        self.progress.iter().for_each(|progress| progress.expect_nothing(now));
    }
}

/// A client's TCP connection.
#[derive(Debug)]
pub(crate) struct ClientStream {
    tcp: AdmittedStream,
    cut: Cut,
}

impl ClientStream {
    pub(crate) fn new(tcp: TcpStream, ticket: Option<Ticket>) -> ClientStream {
        let tcp = AdmittedStream::new(tcp, ticket);
        let cut = Cut { progress: tcp.progress(), ..Cut::default() };
        ClientStream { tcp, cut }
    }

    pub(crate) fn cut(&self) -> Cut {
        self.cut.clone()
    }

    fn refused(&self) -> Option<io::Error> {
        self.cut.is_set().then(|| io::Error::from(io::ErrorKind::ConnectionReset))
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if self.cut.is_set() {
            // RFC 9293 section 3.9.1.5: closing with a linger time of zero sends RST and discards what is queued.
            let _ = self.tcp.tcp().set_zero_linger();
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.refused() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut self.tcp).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.refused() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut self.tcp).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.refused() {
            // An orderly FIN would tell the client that the download is complete.
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut self.tcp).poll_shutdown(cx),
        }
    }
}

/// The client's side of the explicit proxy: plain, or inside TLS to the proxy itself.
#[derive(Debug)]
pub(crate) enum ProxyStream {
    Plain(ClientStream),
    Tls(Box<TlsStream<ClientStream>>),
}

impl AsyncRead for ProxyStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ProxyStream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            ProxyStream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for ProxyStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            ProxyStream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            ProxyStream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            ProxyStream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            ProxyStream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            ProxyStream::Plain(stream) => stream.is_write_vectored(),
            ProxyStream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ProxyStream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            ProxyStream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ProxyStream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            ProxyStream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A stream whose first bytes have been read already and are read again.
#[derive(Debug)]
pub(crate) struct Rewound<S> {
    first: Bytes,
    inner: S,
}

impl<S> Rewound<S> {
    pub(crate) fn new(first: Bytes, inner: S) -> Rewound<S> {
        Rewound { first, inner }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        }
        let count = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first[..count]);
        self.first.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
