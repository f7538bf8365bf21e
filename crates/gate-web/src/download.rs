//! The body that an origin sends. Small bodies are held whole and released after the verdict; of a large one, a little is
//! released at intervals so that the client does not give up, and the rest only after the verdict (AV-06). What is scanned
//! is AV-02's table; what was not read is never called clean.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use checkpoint::{Passage, Refusal};
use http::response::Parts;
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Body;
use model::{Action, Destination, Disposition, FieldId, Question, Station, Value};
use tokio::time::{Instant, interval_at, timeout, timeout_at};

use crate::body::{Feeder, Ledger, Uploaded, WebBody};
use crate::enforce::{self, Answer, Asker};
use crate::facts;
use crate::headers::{disposition_name, is_readable_coding, path_name, strip_connection_fields};
use crate::links::Received;
use crate::session::{Road, Shared};
use crate::sniff;
use crate::spec::{OnHit, ScanConfig};
use crate::spool::{Spool, memory_file};
use crate::upload::feed;

/// A request whose response is on its way.
pub(crate) struct Exchange<'a> {
    pub(crate) road: &'a Arc<Road>,
    pub(crate) asker: &'a Asker,
    pub(crate) is_head: bool,
    pub(crate) path: String,
    pub(crate) uploaded: Uploaded,
}

/// How far a body was held before anything was sent.
enum Held {
    Whole(Option<HeaderMap>),
    /// Too large or too slow to be held whole.
    Growing,
    Failed(&'static str),
}

impl Exchange<'_> {
    /// Brings the response to the client, or what takes its place.
    pub(crate) async fn receive(self, mut passage: Passage, response: Response<Received>) -> Answer {
        let (mut parts, incoming) = response.into_parts();
        if !strip_connection_fields(&mut parts.headers) {
            return Ok(enforce::failed(self.road, self.asker, passage, &crate::links::LinkError::Malformed));
        }
        // HTTP/3 would lead past this gate (GW-061).
        parts.headers.remove(header::ALT_SVC);
        facts::learn_response(&mut passage, parts.status, &parts.headers);
        passage.learn(FieldId::BodyPhase, Value::text("download"));
        passage.reach(Station::Response);
        let has_body = !self.is_head && !incoming.is_end_stream() && !is_bodyless(parts.status);
        if !has_body {
            return self.finish_without_body(passage, parts);
        }
        let scan = &self.road.shared.config.scan;
        if !scan.downloads || passage.ask(Question::Scan) != Action::Scan {
            return self.pass_on(passage, parts, incoming, VecDeque::new());
        }
        self.examine(passage, parts, incoming).await
    }

    fn finish_without_body(self, mut passage: Passage, parts: Parts) -> Answer {
        match passage.permit(Destination::Client) {
            Err(refusal) => Ok(enforce::refuse(self.road, self.asker, passage, &refusal)),
            Ok(permit) => {
                let _ = permit.into_parts();
                passage.count(self.uploaded.load(std::sync::atomic::Ordering::Relaxed), 0);
                passage.finish(Disposition::Allowed);
                Ok(Response::from_parts(parts, WebBody::empty()))
            }
        }
    }

    /// Passes a body on that is not looked at.
    fn pass_on(self, mut passage: Passage, parts: Parts, incoming: Received, first: VecDeque<Bytes>) -> Answer {
        passage.reach(Station::ResponseBody);
        match passage.permit(Destination::Client) {
            Err(refusal) => Ok(enforce::refuse(self.road, self.asker, passage, &refusal)),
            Ok(permit) => {
                let _ = permit.into_parts();
                let ledger = Ledger::new(passage, Some(self.uploaded));
                Ok(Response::from_parts(parts, WebBody::download(incoming, first, ledger, self.road.body_idle())))
            }
        }
    }

    async fn examine(self, mut passage: Passage, parts: Parts, mut incoming: Received) -> Answer {
        if let Err(refusal) = passage.permit(Destination::Client) {
            return Ok(enforce::refuse(self.road, self.asker, passage, &refusal));
        }
        if !is_readable_coding(&parts.headers) {
            return Ok(self.broke_off(passage, "content_coding"));
        }
        let scan = &self.road.shared.config.scan;
        let mut spool = Spool::new(self.road.shared.room.clone());
        if sniff::needs_first_bytes(&parts.headers) {
            if let Some(failure) = first_bytes(&mut spool, &mut incoming, self.road.body_idle()).await {
                return Ok(self.broke_off(passage, failure));
            }
            if !sniff::is_scanned(&parts.headers, &spool.start()) {
                return self.pass_on(passage, parts, incoming, spool.into_chunks());
            }
        }
        let length = incoming.size_hint().exact().map(|rest| rest + spool.bytes());
        // A part of a file says nothing of the whole: splitting a download is the usual way around a scanner.
        let unscanned = match parts.status {
            StatusCode::PARTIAL_CONTENT => Some("partial_content"),
            _ if length.is_some_and(|length| length > scan.file_bytes_max) => Some("too_large"),
            _ => None,
        };
        if let Some(reason) = unscanned {
            return self.pass_unscanned(passage, parts, incoming, spool, reason);
        }
        let deadline = Instant::now() + scan.hold;
        match hold(&mut spool, &mut incoming, scan, deadline, self.road.body_idle()).await {
            Held::Failed(failure) => Ok(self.broke_off(passage, failure)),
            Held::Growing => Ok(self.trickle(passage, parts, incoming, spool, length)),
            Held::Whole(trailers) => self.release(passage, parts, spool, trailers).await,
        }
    }

    fn broke_off(&self, passage: Passage, failure: &'static str) -> Response<WebBody> {
        enforce::unreachable(self.road, self.asker, passage, failure)
    }

    fn pass_unscanned(
        self,
        mut passage: Passage,
        parts: Parts,
        incoming: Received,
        spool: Spool,
        reason: &'static str,
    ) -> Answer {
        passage.unscanned(reason);
        self.pass_on(passage, parts, incoming, spool.into_chunks())
    }

    /// The whole body is held and nothing was sent.
    async fn release(self, mut passage: Passage, mut parts: Parts, mut spool: Spool, trailers: Option<HeaderMap>) -> Answer {
        let name = file_name(&parts.headers, &self.path);
        passage.reach(Station::ResponseBody);
        look(&mut passage, &mut spool, &name).await;
        passage.count(self.uploaded.load(std::sync::atomic::Ordering::Relaxed), 0);
        match passage.permit(Destination::Client) {
            Err(refusal) => self.refuse_held(passage, &refusal),
            Ok(permit) => {
                let _ = permit.into_parts();
                passage.count(0, spool.bytes());
                passage.finish(Disposition::Allowed);
                if trailers.is_none() {
                    // The length is known by now, even where the origin did not announce it.
                    parts.headers.insert(header::CONTENT_LENGTH, spool.bytes().into());
                }
                Ok(Response::from_parts(parts, WebBody::chunks_and_trailers(spool.into_chunks(), trailers)))
            }
        }
    }

    fn refuse_held(self, passage: Passage, refusal: &Refusal) -> Answer {
        let is_hit = passage.facts().get(FieldId::IsMalicious) == Some(&Value::Bool(true));
        match self.road.shared.config.scan.on_hit {
            OnHit::Reset if is_hit => Err(enforce::reset(self.road, passage)),
            _ => Ok(enforce::refuse(self.road, self.asker, passage, refusal)),
        }
    }

    /// Sends the head, and leaves the body to a task.
    fn trickle(
        self,
        mut passage: Passage,
        parts: Parts,
        incoming: Received,
        spool: Spool,
        length: Option<u64>,
    ) -> Response<WebBody> {
        passage.reach(Station::ResponseBody);
        passage.count(self.uploaded.load(std::sync::atomic::Ordering::Relaxed), 0);
        let (feeder, body) = WebBody::fed(length);
        let name = file_name(&parts.headers, &self.path);
        let trickle = Trickle { road: self.road.clone(), feeder, spool, incoming, name, released: 0, trailers: None };
        tokio::spawn(Box::pin(trickle.run(passage)));
        Response::from_parts(parts, body)
    }
}

/// A large body on its way.
struct Trickle {
    road: Arc<Road>,
    feeder: Feeder,
    spool: Spool,
    incoming: Received,
    name: String,
    /// Bytes that the client has been sent.
    released: u64,
    trailers: Option<HeaderMap>,
}

type Next = Option<Result<hyper::body::Frame<Bytes>, hyper::Error>>;

/// What ended a wait. A frame that is none is the end of patience with the origin.
enum Step {
    Frame(Option<Next>),
    Tick,
    Gone,
}

/// What the next frame brought.
enum Grown {
    More,
    Whole,
    TooLarge,
    Failed(&'static str),
}

impl Trickle {
    async fn run(mut self, passage: Passage) {
        let scan = self.road.shared.config.scan.clone();
        if let Err(error) = self.spool.begin_file(&scan.spool_directory) {
            crate::events::spool_failed(&error);
            return self.fail(passage, "spool").await;
        }
        let mut ticks = interval_at(Instant::now() + scan.trickle, scan.trickle);
        let idle = self.road.body_idle();
        let mut silence = Instant::now() + idle;
        loop {
            // Only the wait may be broken off by another branch; what a frame brings is always put away whole.
            let step = tokio::select! {
                frame = timeout_at(silence, self.incoming.frame()) => Step::Frame(frame.ok()),
                _ = ticks.tick() => Step::Tick,
                () = self.feeder.gone() => Step::Gone,
            };
            let grown = match step {
                Step::Frame(frame) => {
                    silence = Instant::now() + idle;
                    self.grow(frame, scan.file_bytes_max).await
                }
                Step::Tick if self.release_slice(scan.trickle_bytes).await => Grown::More,
                Step::Tick | Step::Gone => Grown::Failed("client_gone"),
            };
            match grown {
                Grown::More => {}
                Grown::Whole => return self.judge(passage, ticks, scan.trickle_bytes).await,
                Grown::TooLarge => return self.pass_unscanned(passage).await,
                Grown::Failed(failure) => return self.fail(passage, failure).await,
            }
        }
    }

    /// Puts what came into the spool.
    async fn grow(&mut self, frame: Option<Next>, bytes_max: u64) -> Grown {
        let frame = match frame {
            None => return Grown::Failed("deadline"),
            Some(Some(Err(_))) => return Grown::Failed("upstream_broke_off"),
            Some(None) => return Grown::Whole,
            Some(Some(Ok(frame))) => frame,
        };
        match frame.into_data() {
            Ok(chunk) => {
                if let Err(error) = self.spool.push(chunk).await {
                    crate::events::spool_failed(&error);
                    return Grown::Failed("spool");
                }
            }
            Err(frame) => self.trailers = frame.into_trailers().ok(),
        }
        match self.spool.bytes() > bytes_max {
            true => Grown::TooLarge,
            false => Grown::More,
        }
    }

    /// One slice for a client that waits. The last byte is never among it: without it the file is not complete.
    async fn release_slice(&mut self, bytes: u64) -> bool {
        let withheld = self.spool.bytes().saturating_sub(self.released + 1);
        let Ok(piece) = self.spool.read(self.released, bytes.min(withheld)).await else { return false };
        self.released += piece.len() as u64;
        piece.is_empty() || self.feeder.send(piece).await.is_ok()
    }

    async fn judge(mut self, mut passage: Passage, mut ticks: tokio::time::Interval, slice: u64) {
        match self.spool.whole().await {
            Err(error) => {
                crate::events::spool_failed(&error);
                passage.unscanned("spool");
            }
            Ok(file) => {
                let name = self.name.clone();
                let mut scanning = std::pin::pin!(passage.scan(file, &name));
                loop {
                    tokio::select! {
                        _ = &mut scanning => break,
                        _ = ticks.tick() => self.release_slice(slice).await,
                    };
                }
            }
        }
        // What the scan found, or that there was none, is in the passage: its permit says what follows.
        match passage.permit(Destination::Client) {
            Ok(permit) => {
                let _ = permit.into_parts();
                self.release_rest(passage).await;
            }
            Err(_) => self.cut(passage, Disposition::Blocked).await,
        }
    }

    async fn release_rest(mut self, passage: Passage) {
        let total = self.spool.bytes();
        let mut passage = passage;
        if !feed(&self.feeder, &mut self.spool, self.released).await {
            return self.fail(passage, "client_gone").await;
        }
        passage.count(0, total);
        let Trickle { feeder, trailers, .. } = self;
        if let Some(trailers) = trailers {
            let _ = feeder.trailers(trailers).await;
        }
        let _ = feeder.end().await;
        passage.finish(Disposition::Allowed);
    }

    /// The body outgrew what is scanned.
    async fn pass_unscanned(mut self, mut passage: Passage) {
        passage.unscanned("too_large");
        if passage.permit(Destination::Client).is_err() {
            return self.cut(passage, Disposition::Blocked).await;
        }
        if !feed(&self.feeder, &mut self.spool, self.released).await {
            return self.fail(passage, "client_gone").await;
        }
        let mut sent = self.spool.bytes();
        let idle = self.road.shared.config.body_idle;
        loop {
            let chunk = match timeout(idle, self.incoming.frame()).await {
                Err(_) => return self.fail(passage, "deadline").await,
                Ok(Some(Err(_))) => return self.fail(passage, "upstream_broke_off").await,
                Ok(None) => break,
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            };
            sent += chunk.len() as u64;
            if self.feeder.send(chunk).await.is_err() {
                return self.fail(passage, "client_gone").await;
            }
        }
        passage.count(0, sent);
        let _ = self.feeder.end().await;
        passage.finish(Disposition::Allowed);
    }

    async fn fail(self, mut passage: Passage, failure: &'static str) {
        passage.fail(failure);
        self.cut(passage, Disposition::Error).await;
    }

    /// The client must not take what it has for the whole.
    async fn cut(self, mut passage: Passage, disposition: Disposition) {
        passage.count(0, self.released);
        passage.finish(disposition);
        self.road.cut_http1();
        self.feeder.refuse().await;
    }
}

/// Reads until the signatures of AV-02 can be compared.
async fn first_bytes(spool: &mut Spool, incoming: &mut Received, idle: Duration) -> Option<&'static str> {
    while spool.bytes() < sniff::FIRST_BYTES as u64 && !incoming.is_end_stream() {
        match timeout(idle, incoming.frame()).await {
            Err(_) => return Some("deadline"),
            Ok(Some(Err(_))) => return Some("upstream_broke_off"),
            Ok(None) => break,
            Ok(Some(Ok(frame))) => spool.hold(frame.into_data().unwrap_or_default()),
        }
    }
    None
}

async fn hold(spool: &mut Spool, incoming: &mut Received, scan: &ScanConfig, deadline: Instant, idle: Duration) -> Held {
    let mut trailers = None;
    let deadline = deadline.min(Instant::now() + idle);
    while spool.bytes() <= scan.hold_bytes {
        if incoming.is_end_stream() {
            return Held::Whole(trailers);
        }
        let frame = match timeout_at(deadline, incoming.frame()).await {
            Err(_) => return Held::Growing,
            Ok(None) => return Held::Whole(trailers),
            Ok(Some(Err(_))) => return Held::Failed("upstream_broke_off"),
            Ok(Some(Ok(frame))) => frame,
        };
        match frame.into_data() {
            Ok(chunk) => spool.hold(chunk),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Held::Growing
}

/// Lets the scanner see a spooled body. What came of it, the next permit says.
pub(crate) async fn look(passage: &mut Passage, spool: &mut Spool, name: &str) {
    let looked = match spool.held() {
        Some(chunks) => passage.scan_held(chunks, name, || memory_file(chunks)).await.map(drop),
        None => match spool.whole().await {
            Ok(file) => {
                passage.scan(file, name).await;
                Ok(())
            }
            Err(error) => Err(error),
        },
    };
    match looked {
        Ok(()) => {}
        Err(error) => {
            crate::events::spool_failed(&error);
            passage.unscanned("spool");
        }
    }
}

/// The same with other bytes in front of the body.
pub(crate) async fn look_behind(shared: &Shared, passage: &mut Passage, spool: &mut Spool, name: &str, head: Vec<u8>) {
    match spool.whole_behind(head, &shared.config.scan.spool_directory).await {
        Ok(file) => {
            passage.scan(file, name).await;
        }
        Err(error) => {
            crate::events::spool_failed(&error);
            passage.unscanned("spool");
        }
    }
}

fn is_bodyless(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

fn file_name(headers: &HeaderMap, path: &str) -> String {
    disposition_name(headers).or_else(|| path_name(path)).unwrap_or_default()
}
