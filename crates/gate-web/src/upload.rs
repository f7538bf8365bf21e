//! The body that a client sends. Where uploads are scanned it is held whole, so that nothing of a refused file reaches the
//! origin; its last byte goes up only after the verdict. What decides is the policy; the bounds are the settings'.

use bytes::Bytes;
use checkpoint::Passage;
use http::request::Parts;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use model::{Action, Destination, Disposition, FieldId, Question, Station, Value};
use tokio::time::timeout;

use crate::body::{Feeder, Uploaded, WebBody};
use crate::download;
use crate::enforce::{self, Answer, Asker};
use crate::headers::{disposition_name, is_readable_coding, media_type, path_name};
use crate::session::Road;
use crate::sniff;
use crate::spool::Spool;

/// One piece of a spooled body on its way up.
const PIECE_BYTES: u64 = 128 << 10;

/// A body that may go up, or the answer that the client gets in its place.
#[expect(clippy::large_enum_variant, reason = "made and taken apart once a request; a box would be an allocation each")]
pub(crate) enum Outcome {
    Passes(Passage, WebBody, Uploaded),
    Ends(Answer),
}

/// How collecting a body ended.
enum Collected {
    Whole(Spool),
    /// Larger than what is scanned; the rest is still to come.
    TooLarge(Spool),
    Failed(&'static str),
}

/// Takes the body as far as it must be seen before it goes up.
pub(crate) async fn take(road: &Road, asker: &Asker, mut passage: Passage, parts: &Parts, mut incoming: Incoming) -> Outcome {
    let uploaded = Uploaded::default();
    if incoming.is_end_stream() {
        return Outcome::Passes(passage, WebBody::empty(), uploaded);
    }
    passage.learn(FieldId::BodyPhase, Value::text("upload"));
    passage.reach(Station::RequestBody);
    let is_scanned = road.shared.config.scan.uploads
        && !sniff::is_message_stream(&parts.headers)
        && passage.ask(Question::Scan) == Action::Scan;
    if !is_scanned {
        let body = WebBody::upload(incoming, Default::default(), uploaded.clone(), road.body_idle());
        return Outcome::Passes(passage, body, uploaded);
    }
    road.cut.expect_body();
    let collected = collect(road, &mut incoming).await;
    road.cut.expect_nothing();
    match collected {
        Collected::Whole(spool) => judged(road, passage, parts, spool).await,
        Collected::TooLarge(spool) => too_large(road, asker, passage, spool, incoming).await,
        Collected::Failed(failure) => {
            let problem = road.framing.as_ref().and_then(net::framing::FramingHandle::problem);
            passage.fail(problem.map_or(failure, |problem| problem.as_str()));
            passage.finish(Disposition::Error);
            Outcome::Ends(Err(enforce::Reset))
        }
    }
}

async fn collect(road: &Road, incoming: &mut Incoming) -> Collected {
    let scan = &road.shared.config.scan;
    let mut spool = Spool::new(road.shared.room.clone());
    loop {
        let frame = match timeout(road.body_idle(), incoming.frame()).await {
            Err(_) => return Collected::Failed("deadline"),
            Ok(None) => return Collected::Whole(spool),
            Ok(Some(Err(_))) => return Collected::Failed("client_gone"),
            Ok(Some(Ok(frame))) => frame,
        };
        // Trailers of requests have no use that a held body keeps.
        let Ok(chunk) = frame.into_data() else { continue };
        if let Err(error) = add(&mut spool, chunk, scan).await {
            crate::events::spool_failed(&error);
            return Collected::Failed("spool");
        }
        if spool.bytes() > scan.file_bytes_max {
            return Collected::TooLarge(spool);
        }
    }
}

async fn add(spool: &mut Spool, chunk: Bytes, scan: &crate::spec::ScanConfig) -> std::io::Result<()> {
    if spool.is_in_memory() && spool.bytes() + chunk.len() as u64 > scan.hold_bytes {
        spool.begin_file(&scan.spool_directory)?;
    }
    spool.push(chunk).await
}

async fn judged(road: &Road, mut passage: Passage, parts: &Parts, mut spool: Spool) -> Outcome {
    let name = disposition_name(&parts.headers).or_else(|| path_name(parts.uri.path())).unwrap_or_default();
    match form_head(&parts.headers) {
        Some(head) => download::look_behind(&road.shared, &mut passage, &mut spool, &name, head).await,
        None => download::look(&mut passage, &mut spool, &name).await,
    }
    // What was read is scanned, but a part says nothing of the whole, and a coding that cannot be undone hides all of it.
    if parts.headers.contains_key(http::header::CONTENT_RANGE) {
        passage.unscanned("partial_content");
    } else if !is_readable_coding(&parts.headers) {
        passage.unscanned("content_coding");
    }
    // A hit, or a body that could not be scanned where that fails closed, is refused by the permit that is asked for next.
    let uploaded = Uploaded::new(spool.bytes().into());
    Outcome::Passes(passage, released(spool), uploaded)
}

/// A form with files is a MIME message whose head has travelled in HTTP (RFC 7578). With its head in front again the scanner
/// opens it part by part.
fn form_head(headers: &http::HeaderMap) -> Option<Vec<u8>> {
    let is_form = media_type(headers).is_some_and(|media| media.starts_with("multipart/"));
    let value = headers.get(http::header::CONTENT_TYPE).filter(|_| is_form)?;
    Some([b"MIME-Version: 1.0\r\nContent-Type: ", value.as_bytes(), b"\r\n\r\n"].concat())
}

async fn too_large(road: &Road, asker: &Asker, mut passage: Passage, spool: Spool, incoming: Incoming) -> Outcome {
    passage.unscanned("too_large");
    if let Err(refusal) = passage.permit(Destination::Client) {
        passage.count(spool.bytes(), 0);
        return Outcome::Ends(Ok(enforce::refuse(road, asker, passage, &refusal)));
    }
    let uploaded = Uploaded::new(spool.bytes().into());
    let length = incoming.size_hint().exact().map(|rest| rest + spool.bytes());
    let (feeder, body) = WebBody::fed(length);
    let (counted, idle) = (uploaded.clone(), road.body_idle());
    tokio::spawn(async move {
        let mut spool = spool;
        if feed(&feeder, &mut spool, 0).await {
            pour(feeder, incoming, &counted, idle).await;
        }
    });
    Outcome::Passes(passage, body, uploaded)
}

/// A held body on its way up.
fn released(spool: Spool) -> WebBody {
    if spool.is_in_memory() {
        return WebBody::chunks(spool.into_chunks());
    }
    let (feeder, body) = WebBody::fed(Some(spool.bytes()));
    tokio::spawn(async move {
        let mut spool = spool;
        if feed(&feeder, &mut spool, 0).await {
            let _ = feeder.end().await;
        }
    });
    body
}

/// Feeds everything that is in the spool from a position on. False where the reader has gone or the spool cannot be read;
/// the body is then an error on the wire.
pub(crate) async fn feed(feeder: &Feeder, spool: &mut Spool, mut at: u64) -> bool {
    while at < spool.bytes() {
        match spool.read(at, PIECE_BYTES).await {
            Ok(piece) if piece.is_empty() => return false,
            Ok(piece) => {
                at += piece.len() as u64;
                if feeder.send(piece).await.is_err() {
                    return false;
                }
            }
            Err(error) => {
                crate::events::spool_failed(&error);
                return false;
            }
        }
    }
    true
}

/// Passes on what is still to come.
async fn pour(feeder: Feeder, mut incoming: Incoming, counted: &Uploaded, idle: std::time::Duration) {
    loop {
        let chunk = match timeout(idle, incoming.frame()).await {
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            Ok(None) => {
                let _ = feeder.end().await;
                return;
            }
            // Dropping the feeder without an end makes the body an error on the wire.
            Ok(Some(Err(_))) | Err(_) => return,
        };
        counted.fetch_add(chunk.len() as u64, std::sync::atomic::Ordering::Relaxed);
        if feeder.send(chunk).await.is_err() {
            return;
        }
    }
}
