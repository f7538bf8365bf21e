//! The bodies that the gate sends, in both directions: nothing, held chunks, a stream that is passed on as it comes, and one
//! that a task feeds while it scans. A body that was not brought to its end is an error on the wire, never a short success.
//! Nothing is decided here.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use checkpoint::Passage;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use model::Disposition;
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep};

use crate::headers::clean_trailers;
use crate::links::Received;

/// Frames that wait between the feeding task and the connection: enough to keep both busy, few enough to stay small.
const FED_FRAMES_MAX: usize = 4;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body was refused")]
    Refused,
    #[error("the body stopped before its end")]
    Unfinished,
    #[error("the sender was silent for too long")]
    Silent,
    #[error("the sender broke off")]
    Broken(#[from] hyper::Error),
}

/// A body on its way out.
pub(crate) struct WebBody(Kind);

enum Kind {
    Chunks { chunks: VecDeque<Bytes>, left: u64, trailers: Option<http::HeaderMap> },
    Streamed(Box<Streamed>),
    Fed(Fed),
}

/// The end of a transaction whose body is still on its way: counts what passes and records the event.
pub(crate) struct Ledger {
    passage: Option<Passage>,
    /// What the client has sent so far, where its body is passed on at the same time.
    uploaded: Option<Uploaded>,
    bytes_in: u64,
}

/// Bytes of a request body that have passed. Shared by the body and the transaction's ledger.
pub(crate) type Uploaded = Arc<AtomicU64>;

struct Streamed {
    first: VecDeque<Bytes>,
    incoming: Received,
    count: Count,
    idle: Duration,
    silence: Option<Pin<Box<Sleep>>>,
}

#[expect(clippy::large_enum_variant, reason = "it lives in a box already")]
enum Count {
    Request(Uploaded),
    Response(Ledger),
}

/// What the feeding task sends.
enum Feed {
    Frame(Frame<Bytes>),
    End,
    Refused,
}

struct Fed {
    receiver: mpsc::Receiver<Feed>,
    /// The announced length that is still to come.
    left: Option<u64>,
    has_ended: bool,
}

/// The other end of a fed body.
pub(crate) struct Feeder(mpsc::Sender<Feed>);

/// The client is no longer there to read.
pub(crate) struct Gone;

impl Ledger {
    pub(crate) fn new(passage: Passage, uploaded: Option<Uploaded>) -> Ledger {
        Ledger { passage: Some(passage), uploaded, bytes_in: 0 }
    }

    fn close(&mut self, failure: Option<&'static str>) {
        let Some(mut passage) = self.passage.take() else { return };
        passage.count(self.uploaded.as_ref().map_or(0, |bytes| bytes.load(Ordering::Relaxed)), self.bytes_in);
        match failure {
            Some(failure) => {
                passage.fail(failure);
                passage.finish(Disposition::Error);
            }
            None => passage.finish(Disposition::Allowed),
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.close(Some("client_gone"));
    }
}

impl Feeder {
    pub(crate) async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        self.0.send(Feed::Frame(Frame::data(bytes))).await.map_err(|_| Gone)
    }

    pub(crate) async fn trailers(&self, trailers: http::HeaderMap) -> Result<(), Gone> {
        self.0.send(Feed::Frame(Frame::trailers(trailers))).await.map_err(|_| Gone)
    }

    pub(crate) async fn end(self) -> Result<(), Gone> {
        self.0.send(Feed::End).await.map_err(|_| Gone)
    }

    /// Makes the body fail on the wire.
    pub(crate) async fn refuse(self) {
        let _ = self.0.send(Feed::Refused).await;
    }

    /// Waits until the client has gone.
    pub(crate) async fn gone(&self) {
        self.0.closed().await;
    }
}

impl WebBody {
    pub(crate) fn empty() -> WebBody {
        WebBody::chunks(VecDeque::new())
    }

    pub(crate) fn whole(bytes: Bytes) -> WebBody {
        WebBody::chunks(VecDeque::from([bytes]))
    }

    pub(crate) fn chunks(chunks: VecDeque<Bytes>) -> WebBody {
        WebBody::chunks_and_trailers(chunks, None)
    }

    pub(crate) fn chunks_and_trailers(chunks: VecDeque<Bytes>, trailers: Option<http::HeaderMap>) -> WebBody {
        let left = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        WebBody(Kind::Chunks { chunks, left, trailers })
    }

    /// A request body that is passed on as it comes.
    pub(crate) fn upload(incoming: Incoming, first: VecDeque<Bytes>, uploaded: Uploaded, idle: Duration) -> WebBody {
        WebBody(Kind::Streamed(Box::new(Streamed {
            first,
            incoming: incoming.into(),
            count: Count::Request(uploaded),
            idle,
            silence: None,
        })))
    }

    /// A response body that is passed on as it comes; its end ends the transaction.
    pub(crate) fn download(incoming: Received, first: VecDeque<Bytes>, ledger: Ledger, idle: Duration) -> WebBody {
        let mut streamed = Streamed { first, incoming, count: Count::Response(ledger), idle, silence: None };
        streamed.close_at_end();
        WebBody(Kind::Streamed(Box::new(streamed)))
    }

    /// A body that a task feeds, with its length where that was announced.
    pub(crate) fn fed(length: Option<u64>) -> (Feeder, WebBody) {
        let (sender, receiver) = mpsc::channel(FED_FRAMES_MAX);
        (Feeder(sender), WebBody(Kind::Fed(Fed { receiver, left: length, has_ended: false })))
    }
}

impl Streamed {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(chunk) = self.first.pop_front() {
            self.count(chunk.len() as u64);
            self.close_at_end();
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        let Poll::Ready(next) = Pin::new(&mut self.incoming).poll_frame(cx) else { return self.poll_silence(cx) };
        self.silence = None;
        match next {
            Some(Ok(frame)) => {
                self.count(frame.data_ref().map_or(0, |data| data.len() as u64));
                self.close_at_end();
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                self.close(Some("sender_broke_off"));
                Poll::Ready(Some(Err(BodyError::Broken(error))))
            }
            None => {
                self.close(None);
                Poll::Ready(None)
            }
        }
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let idle = self.idle;
        let silence = self.silence.get_or_insert_with(|| Box::pin(sleep(idle)));
        ready!(silence.as_mut().poll(cx));
        self.close(Some("deadline"));
        Poll::Ready(Some(Err(BodyError::Silent)))
    }

    fn count(&mut self, bytes: u64) {
        match &mut self.count {
            Count::Request(uploaded) => {
                uploaded.fetch_add(bytes, Ordering::Relaxed);
            }
            Count::Response(ledger) => ledger.bytes_in += bytes,
        }
    }

    /// A connection does not ask again for the end of a body whose length it knows.
    fn close_at_end(&mut self) {
        if self.first.is_empty() && self.incoming.is_end_stream() {
            self.close(None);
        }
    }

    fn close(&mut self, failure: Option<&'static str>) {
        if let Count::Response(ledger) = &mut self.count {
            ledger.close(failure);
        }
    }
}

impl Fed {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let feed = ready!(self.receiver.poll_recv(cx));
        self.has_ended = !matches!(feed, Some(Feed::Frame(_)));
        Poll::Ready(match feed {
            Some(Feed::Frame(frame)) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.left = self.left.map(|left| left.saturating_sub(bytes));
                Some(Ok(frame))
            }
            Some(Feed::End) => None,
            Some(Feed::Refused) => Some(Err(BodyError::Refused)),
            None => Some(Err(BodyError::Unfinished)),
        })
    }
}

impl Body for WebBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let next = match &mut self.0 {
            Kind::Chunks { chunks, left, trailers } => Poll::Ready(match chunks.pop_front() {
                Some(chunk) => {
                    *left -= chunk.len() as u64;
                    Some(Ok(Frame::data(chunk)))
                }
                None => trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
            }),
            Kind::Streamed(streamed) => streamed.poll_next(cx),
            Kind::Fed(fed) => fed.poll_next(cx),
        };
        next.map_ok(forwardable)
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Chunks { left, trailers, .. } => *left == 0 && trailers.is_none(),
            Kind::Streamed(streamed) => streamed.first.is_empty() && streamed.incoming.is_end_stream(),
            Kind::Fed(fed) => fed.has_ended,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Chunks { left, trailers: None, .. } => SizeHint::with_exact(*left),
            Kind::Chunks { .. } => SizeHint::default(),
            Kind::Streamed(streamed) => {
                let first: u64 = streamed.first.iter().map(|chunk| chunk.len() as u64).sum();
                match streamed.incoming.size_hint().exact() {
                    Some(rest) => SizeHint::with_exact(first + rest),
                    None => SizeHint::default(),
                }
            }
            Kind::Fed(fed) => fed.left.map(SizeHint::with_exact).unwrap_or_default(),
        }
    }
}

/// Trailers without the fields that frame, route or authenticate a message (RFC 9110 section 6.5.1).
fn forwardable(frame: Frame<Bytes>) -> Frame<Bytes> {
    if !frame.is_trailers() {
        return frame;
    }
    match frame.into_trailers() {
        Ok(mut trailers) => {
            clean_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_fed_body_that_is_dropped_never_ends_well() {
        let (feeder, mut body) = WebBody::fed(None);
        assert!(feeder.send(Bytes::from_static(b"x")).await.is_ok());
        drop(feeder);
        assert!(body.frame().await.unwrap().is_ok());
        assert!(matches!(body.frame().await, Some(Err(BodyError::Unfinished))));
    }

    #[tokio::test]
    async fn a_refused_body_is_an_error_and_an_ended_one_is_not() {
        let (feeder, mut body) = WebBody::fed(Some(9));
        feeder.refuse().await;
        assert!(matches!(body.frame().await, Some(Err(BodyError::Refused))));
        let (feeder, mut body) = WebBody::fed(None);
        assert!(feeder.end().await.is_ok());
        assert!(body.frame().await.is_none() && body.is_end_stream());
    }
}
