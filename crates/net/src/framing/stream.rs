//! The scanner around a client's stream. A bad head is replaced by bytes that no engine can take for a request, so that
//! hyper answers 400 in its turn, behind the answers to earlier requests; a bad body ends the stream with an error. The
//! reason stays readable at the [`FramingHandle`].

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::FramingProblem;
use super::scanner::{Progress, Scanner};

/// No method begins so; every HTTP/1 server answers 400.
const UNREADABLE_HEAD: &[u8] = b"\0\r\n\r\n";

/// A stream that lets only sound HTTP/1 requests through.
#[derive(Debug)]
pub struct CheckedStream<S> {
    inner: S,
    scanner: Scanner,
    /// Approved, on the way to the reader.
    ready: BytesMut,
    /// Not yet approved. Bounded by the largest head, or by one read behind a CONNECT.
    held: BytesMut,
    is_ended: bool,
    /// A body is bad; what was sound before it is still delivered, so that its request is seen and leaves its event.
    broken: Option<FramingProblem>,
    shared: Arc<Mutex<Shared>>,
}

/// The gate's side of a [`CheckedStream`].
#[derive(Clone, Debug)]
pub struct FramingHandle {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// A CONNECT or a WebSocket has passed and is not answered.
    is_awaiting: bool,
    answer: Option<TunnelAnswer>,
    waiting: Option<Waker>,
    problem: Option<FramingProblem>,
    is_in_body: bool,
}

#[derive(Clone, Copy, Debug)]
enum TunnelAnswer {
    Opened,
    Refused,
}

impl FramingHandle {
    /// To be called when a CONNECT is answered with 2xx or a WebSocket with 101. From then on bytes are not looked at.
    pub fn open_tunnel(&self) {
        self.answer(TunnelAnswer::Opened);
    }

    /// To be called when a CONNECT or a WebSocket is refused and the connection is kept. Until one of the two is called,
    /// what the client sends behind it waits. Does nothing for other requests.
    pub fn resume_requests(&self) {
        if lock(&self.shared).is_awaiting {
            self.answer(TunnelAnswer::Refused);
        }
    }

    /// Why the stream was cut off, if it was.
    pub fn problem(&self) -> Option<FramingProblem> {
        lock(&self.shared).problem
    }

    /// Whether that was within the body of a request, whose head has passed.
    pub fn is_in_body(&self) -> bool {
        lock(&self.shared).is_in_body
    }

    fn answer(&self, answer: TunnelAnswer) {
        let mut shared = lock(&self.shared);
        shared.answer = Some(answer);
        if let Some(waker) = shared.waiting.take() {
            waker.wake();
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S> CheckedStream<S> {
    pub fn new(inner: S) -> (CheckedStream<S>, FramingHandle) {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let stream = CheckedStream {
            inner,
            scanner: Scanner::new(),
            ready: BytesMut::new(),
            held: BytesMut::new(),
            is_ended: false,
            broken: None,
            shared: Arc::clone(&shared),
        };
        (stream, FramingHandle { shared })
    }

    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Moves what may pass from `held` to `ready`.
    fn release(&mut self) {
        let progress = self.scanner.advance(&self.held);
        self.apply(progress);
    }

    fn apply(&mut self, progress: Progress) {
        let approved = self.held.split_to(progress.approved);
        self.ready.unsplit(approved);
        self.note_awaiting();
        let Some(problem) = progress.problem else { return };
        let is_in_body = !self.scanner.is_between_requests();
        {
            let mut shared = lock(&self.shared);
            shared.problem = Some(problem);
            shared.is_in_body = is_in_body;
        }
        self.is_ended = true;
        self.held.clear();
        match is_in_body {
            true => self.broken = Some(problem),
            false => self.ready.extend_from_slice(UNREADABLE_HEAD),
        }
    }

    fn note_awaiting(&self) {
        if self.scanner.is_awaiting_answer() {
            lock(&self.shared).is_awaiting = true;
        }
    }

    /// Takes over the gate's answer to a CONNECT or WebSocket; pending while there is none.
    fn poll_answer(&mut self, context: &Context<'_>) -> Poll<()> {
        let mut shared = lock(&self.shared);
        match shared.answer.take() {
            Some(TunnelAnswer::Opened) => self.scanner.open_tunnel(),
            Some(TunnelAnswer::Refused) => self.scanner.resume_requests(),
            None if self.scanner.is_awaiting_answer() => {
                shared.waiting = Some(context.waker().clone());
                return Poll::Pending;
            }
            None => return Poll::Ready(()),
        }
        shared.is_awaiting = false;
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CheckedStream<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.ready.is_empty() {
                let count = this.ready.len().min(buffer.remaining());
                buffer.put_slice(&this.ready.split_to(count));
                return Poll::Ready(Ok(()));
            }
            if let Some(problem) = this.broken {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, problem)));
            }
            if this.is_ended || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let is_answered = this.poll_answer(context).is_ready();
            if !this.held.is_empty() {
                if !is_answered {
                    return Poll::Pending;
                }
                this.release();
                if !this.ready.is_empty() || this.is_ended {
                    continue;
                }
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
            let arrived = buffer.filled().get(before..).unwrap_or_default();
            if arrived.is_empty() {
                this.is_ended = true;
                return Poll::Ready(Ok(()));
            }
            if this.held.is_empty() {
                let progress = this.scanner.advance(arrived);
                if progress.problem.is_none() && progress.approved == arrived.len() {
                    this.note_awaiting();
                    return Poll::Ready(Ok(()));
                }
                this.held.extend_from_slice(arrived);
                buffer.set_filled(before);
                this.apply(progress);
            } else {
                this.held.extend_from_slice(arrived);
                buffer.set_filled(before);
                this.release();
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CheckedStream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
