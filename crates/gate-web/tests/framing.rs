//! Requests that two readers could read in two ways (RFC 9112 section 11.2), sent through the whole gate to an origin that
//! records what reaches it. Each row says what the client is answered and what the origin sees.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use model::FieldId;
use support::{World, http2, text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Name, the bytes (`HOST` stands for the origin), the statuses of the answers, the requests that the origin sees.
type Probe = (&'static str, &'static str, &'static [u16], &'static [&'static str]);

const CHUNKED: &str = "POST /p HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Refused before anything of it is passed on.
const HEADS: &[Probe] = &[
    (
        "length, then encoding",
        "POST /p HTTP/1.1\r\nHost: HOST\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &[400],
        &[],
    ),
    (
        "encoding, then length",
        "POST /p HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        &[400],
        &[],
    ),
    ("two lengths", "POST /p HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", &[400], &[]),
    ("a list of lengths", "POST /p HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3, 3\r\n\r\nabc", &[400], &[]),
    ("a length with a sign", "POST /p HTTP/1.1\r\nHost: HOST\r\nContent-Length: +3\r\n\r\nabc", &[400], &[]),
    ("a hexadecimal length", "POST /p HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0x3\r\n\r\nabc", &[400], &[]),
    ("an empty length", "POST /p HTTP/1.1\r\nHost: HOST\r\nContent-Length: \r\n\r\nabc", &[400], &[]),
    ("a length that overflows", "POST /p HTTP/1.1\r\nHost: HOST\r\nContent-Length: 18446744073709551619\r\n\r\nabc", &[400], &[]),
    ("xchunked", "POST /p HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", &[400], &[]),
    ("chunked, identity", "POST /p HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", &[400], &[]),
    ("a space before the colon", "POST /p HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", &[400], &[]),
    ("chunked in HTTP/1.0", "POST /p HTTP/1.0\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &[400], &[]),
    (
        "chunked after a vertical tab",
        "POST /p HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        &[400],
        &[],
    ),
    (
        "chunked twice",
        "POST /p HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &[400],
        &[],
    ),
    ("a folded line", "GET /p HTTP/1.1\r\nHost: HOST\r\nX: a\r\n b\r\n\r\n", &[400], &[]),
    ("a bare CR", "GET /p HTTP/1.1\r\nHost: HOST\r\nX: a\rY: b\r\n\r\n", &[400], &[]),
    ("a NUL", "GET /p HTTP/1.1\r\nHost: HOST\r\nX: a\0b\r\n\r\n", &[400], &[]),
    ("lines with LF alone", "GET /p HTTP/1.1\nHost: HOST\n\n", &[400], &[]),
    ("Host twice", "GET /p HTTP/1.1\r\nHost: HOST\r\nHost: other.example\r\n\r\n", &[400], &[]),
    ("Host absent", "GET /p HTTP/1.1\r\nX: y\r\n\r\n", &[400], &[]),
    ("Host of another site", "GET /p HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n", &[421], &[]),
    (
        "a target of another site",
        "GET https://other.example/p HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n",
        &[421],
        &[],
    ),
    (
        "a target and a Host that differ",
        "GET https://HOST/p HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n",
        &[421],
        &[],
    ),
    ("Connection takes Host off", "GET /p HTTP/1.1\r\nHost: HOST\r\nConnection: close, host\r\n\r\n", &[400], &[]),
    ("HTTP/1.2", "GET /p HTTP/1.2\r\nHost: HOST\r\n\r\n", &[400], &[]),
    ("HTTP/0.9", "GET /p\r\n\r\n", &[400], &[]),
    (
        "CONNECT in a tunnel",
        "CONNECT other.example:443 HTTP/1.1\r\nHost: other.example:443\r\nConnection: close\r\n\r\n",
        &[400],
        &[],
    ),
    (
        "an expectation that nobody knows",
        "GET /p HTTP/1.1\r\nHost: HOST\r\nExpect: 200-ok\r\nConnection: close\r\n\r\n",
        &[417],
        &[],
    ),
];

/// The head is sound, so that an answer may or may not have begun; the request never reaches the origin.
const CHUNKS: &[(&str, &str)] = &[
    ("no digits", "xyz\r\n\r\n0\r\n\r\n"),
    ("a sign", "-1\r\na\r\n0\r\n\r\n"),
    ("a size that overflows", "10000000000000001\r\na\r\n0\r\n\r\n"),
    ("LF in an extension", "1;x\ny\r\na\r\n0\r\n\r\n"),
    ("LF after the size", "1\na\r\n0\r\n\r\n"),
    ("more data than announced", "1\r\nab\r\n0\r\n\r\n"),
    ("a length in the trailer", "0\r\nContent-Length: 5\r\n\r\n"),
];

/// Sound requests, for contrast.
const SOUND: &[Probe] = &[
    (
        "a listed field ends here",
        "GET /p HTTP/1.1\r\nHost: HOST\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\n\r\n",
        &[200],
        &["GET /p"],
    ),
    (
        "an unknown upgrade and a second request",
        "GET /1 HTTP/1.1\r\nHost: HOST\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\nGET /2 HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n",
        &[200, 200],
        &["GET /1", "GET /2"],
    ),
    (
        "a doubtful request behind a good one",
        "GET /1 HTTP/1.1\r\nHost: HOST\r\n\r\nPOST /2 HTTP/1.1\r\nHost: HOST\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /3 HTTP/1.1\r\nHost: HOST\r\n\r\n",
        &[200, 400],
        &["GET /1"],
    ),
    (
        "a WebSocket that the origin does not open",
        "GET /p HTTP/1.1\r\nHost: HOST\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nGET /q HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n",
        &[200, 200],
        &["GET /p", "GET /q"],
    ),
];

async fn probe(world: &World, wire: &str) -> Vec<u16> {
    let port = world.tls.port();
    let mut stream = world.tunnel("site.example", port, &["http/1.1"]).await.unwrap();
    stream.write_all(wire.replace("HOST", &format!("site.example:{port}")).as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    if tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.is_err() {
        answer.extend(b"HTTP/1.1 000 the connection was left open");
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.split("HTTP/1.").skip(1).filter_map(|part| part.get(2..5)?.parse().ok()).collect()
}

fn seen(world: &World) -> Vec<String> {
    std::mem::take(&mut *world.seen.heads.lock().unwrap()).into_iter().map(|(line, _)| line).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doubtful_heads_are_refused_and_never_passed_on() {
    let world = World::new("").await;
    let mut wrong = Vec::new();
    for (name, wire, statuses, expected) in HEADS.iter().chain(SOUND) {
        let answered = probe(&world, wire).await;
        let reached = seen(&world);
        if answered != *statuses || reached != *expected {
            wrong.push(format!("{name}: answered {answered:?}, the origin saw {reached:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let sound: usize = SOUND.iter().map(|(_, _, statuses, _)| statuses.len()).sum();
    let events = world.events(HEADS.len() + sound).await;
    let refused = events.iter().filter(|event| !text(event, FieldId::Failure).is_empty());
    assert_eq!(refused.count(), HEADS.len() + 1, "each refusal names what was wrong");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_with_doubtful_chunks_never_reaches_the_origin() {
    let world = World::new("").await;
    for (name, body) in CHUNKS {
        let answered = probe(&world, &format!("{CHUNKED}{body}")).await;
        assert!(answered.iter().all(|status| *status >= 400), "{name}: {answered:?}");
        assert_eq!(seen(&world), Vec::<String>::new(), "{name}");
    }
    for event in world.events(CHUNKS.len()).await {
        assert!(!text(&event, FieldId::Failure).is_empty(), "{}", support::summary(&event));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_beyond_the_bounds_is_refused_with_an_event() {
    let world = World::new("").await;
    let many: String = (0..150).map(|n| format!("X-{n}: y\r\n")).collect();
    let long = format!("X-Long: {}\r\n", "y".repeat(200 << 10));
    for fields in [many, long] {
        let answered = probe(&world, &format!("GET /p HTTP/1.1\r\nHost: HOST\r\n{fields}\r\n")).await;
        assert!(answered.is_empty() || answered.iter().all(|status| matches!(status, 400 | 431)), "{answered:?}");
        assert_eq!(seen(&world), Vec::<String>::new());
    }
    let failures: Vec<String> = world.events(2).await.iter().map(|event| text(event, FieldId::Failure)).collect();
    assert_eq!(failures, ["too_many_headers", "head_too_large"]);
}

/// RFC 8441 is not offered, so browsers open WebSockets over HTTP/1.1; what is asked for all the same is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect_inside_http2_is_refused() {
    let world = World::new("").await;
    let host = format!("site.example:{}", world.tls.port());
    let stream = world.tunnel("site.example", world.tls.port(), &["h2"]).await.unwrap();
    let mut client = http2(Box::new(stream)).await;
    let request = Request::connect(&host).body(Full::<Bytes>::default()).unwrap();
    assert_eq!(client.send(request).await.unwrap().status, 400);
    assert_eq!(text(&world.events(1).await[0], FieldId::Failure), "connect_in_tunnel");
    assert_eq!(seen(&world), Vec::<String>::new());
}
