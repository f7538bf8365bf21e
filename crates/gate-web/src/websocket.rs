//! WebSocket (RFC 6455): the origin is asked first, and only after its 101 does the client get one. From then on bytes are
//! relayed and counted; frames are not read. The event ends with the connection.

use std::sync::Arc;

use checkpoint::{Passage, Permit};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use model::{Destination, Disposition, Station};

use crate::body::{Uploaded, WebBody};
use crate::connect::relay;
use crate::download::Exchange;
use crate::enforce::{self, Answer, Asker};
use crate::facts;
use crate::forward::{change_headers, sending};
use crate::headers::strip_connection_fields;
use crate::session::{Origin, Road};

/// Asks the origin, and joins the two sides where it agrees.
pub(crate) async fn open(
    road: &Arc<Road>,
    asker: &Asker,
    mut passage: Passage,
    origin: Origin,
    permit: Permit,
    mut request: Request<Incoming>,
) -> Answer {
    let client = hyper::upgrade::on(&mut request);
    let (mut parts, _) = request.into_parts();
    if !strip_connection_fields(&mut parts.headers) {
        let reason = "The request's Connection header is not acceptable.";
        return Ok(enforce::bad_request(road, asker, passage, 400, "bad_connection_header", reason));
    }
    // Extensions such as compression stay between the two ends: frames are not read here.
    change_headers(&mut passage, &permit, &mut parts.headers);
    mark_upgrade(&mut parts.headers);
    let path = parts.uri.path().to_owned();
    let mut sent = Request::new(WebBody::empty());
    *sent.uri_mut() = parts.uri;
    *sent.headers_mut() = parts.headers;
    let (mut response, agreed) = match sending(road, &origin).send(permit, sent).await {
        Ok(answered) => answered,
        Err(error) => return Ok(enforce::failed(road, asker, passage, &error)),
    };
    facts::learn_agreed(&mut passage, &agreed);
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let exchange = Exchange { road, asker, is_head: false, path, uploaded: Uploaded::default() };
        return exchange.receive(passage, response).await;
    }
    facts::learn_response(&mut passage, response.status(), response.headers());
    passage.reach(Station::Response);
    if let Err(refusal) = passage.permit(Destination::Client) {
        return Ok(enforce::refuse(road, asker, passage, &refusal));
    }
    let upstream = hyper::upgrade::on(&mut response);
    let idle = road.shared.config.tunnel_idle;
    tokio::spawn(async move {
        let mut passage = passage;
        match tokio::try_join!(client, upstream) {
            Ok((client, upstream)) => {
                let ended = relay(TokioIo::new(client), TokioIo::new(upstream), idle).await;
                ended.finish(passage);
            }
            Err(_) => {
                passage.fail("client_gone");
                passage.finish(Disposition::Error);
            }
        }
    });
    let (mut parts, _) = response.into_parts();
    if !strip_connection_fields(&mut parts.headers) {
        return Err(enforce::Reset);
    }
    parts.headers.remove(header::ALT_SVC);
    mark_upgrade(&mut parts.headers);
    let mut answer = Response::new(WebBody::empty());
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = parts.headers;
    Ok(answer)
}

fn mark_upgrade(headers: &mut http::HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}
