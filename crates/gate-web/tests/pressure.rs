//! What stays bounded when a peer is slow, silent or hostile: held bytes, waiting clients, streams, heads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use model::FieldId;
use support::{PATIENCE, World, get, http1, http2, noise, read_head, text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;

/// What the kernel and the two sides of the gate may hold between them for one client that does not read: socket buffers of
/// loopback grow to six mebibytes each, of which there are four.
const STALLED_BYTES_MAX: usize = 32 << 20;

/// An origin that answers one request with a head and pieces of a body; it waits before the last piece until it is told.
async fn origin_in_pieces(pieces: usize, piece: usize) -> (SocketAddr, Arc<AtomicUsize>, Arc<Notify>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sent, last) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (counted, told) = (sent.clone(), last.clone());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", pieces * piece);
        stream.write_all(head.as_bytes()).await.unwrap();
        let bytes = noise(piece);
        for number in 1..=pieces {
            if number == pieces {
                told.notified().await;
            }
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
            counted.fetch_add(piece, Ordering::Relaxed);
        }
        // The gate ends the connection; until then it stays open.
        let _ = stream.read(&mut [0]).await;
    });
    (address, sent, last)
}

async fn ask_plainly(world: &World, origin: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(world.proxy).await.unwrap();
    let request = format!("GET http://site.example:{}/x.bin HTTP/1.1\r\nHost: site.example\r\n\r\n", origin.port());
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_stops_its_origin() {
    let world = World::with("", |spec| spec.scan.downloads = false).await;
    let (origin, sent, last) = origin_in_pieces(256, 1 << 20).await;
    last.notify_one();
    let mut stream = ask_plainly(&world, origin).await;
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200"));
    let mut before = usize::MAX;
    // Once nothing moves any more, everything that will be held is held.
    while sent.load(Ordering::Relaxed) != before {
        before = sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(before < STALLED_BYTES_MAX, "{before} bytes were taken for a client that does not read");
    let mut read = 0;
    let mut buffer = vec![0; 1 << 20];
    while read < 256 << 20 {
        let count = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("more bytes in time").unwrap();
        assert_ne!(count, 0, "the body ended after {read} bytes");
        read += count;
    }
    let events = world.events(1).await;
    assert_eq!(text(&events[0], FieldId::BytesIn), (256u64 << 20).to_string());
    assert_eq!(text(&events[0], FieldId::VerdictOutcome), "allowed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gets_bytes_while_its_file_is_still_held_and_never_the_last_one_early() {
    let world = World::with("", |spec| spec.scan.hold_seconds = 1).await;
    let (origin, _, last) = origin_in_pieces(2, 100_000).await;
    let mut stream = ask_plainly(&world, origin).await;
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200"));
    let mut body = vec![0; 200_000];
    let early = timeout(PATIENCE, stream.read(&mut body)).await.expect("a first slice, though the origin waits").unwrap();
    assert!((1..100_000).contains(&early), "{early}");
    last.notify_one();
    timeout(PATIENCE, stream.read_exact(&mut body[early..])).await.expect("the rest after the verdict").unwrap();
    assert!(body == [noise(100_000), noise(100_000)].concat());
    assert_eq!(text(&world.events(1).await[0], FieldId::ScanVerdict), "clean");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_carries_as_many_streams_as_are_announced() {
    // TL-12: 256 at once, over HTTP/2 on both sides, each a transaction of its own.
    let world = World::new("").await;
    let host = format!("site.example:{}", world.tls.port());
    let stream = world.tunnel("site.example", world.tls.port(), &["h2"]).await.unwrap();
    let client = http2(Box::new(stream)).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..256 {
        let request = Request::get(format!("https://{host}/clean?n={number}")).body(Full::<Bytes>::default()).unwrap();
        let mut client = client.another();
        tasks.spawn(async move { client.send(request).await.map(|reply| reply.body) });
    }
    while let Some(reply) = tasks.join_next().await {
        assert_eq!(reply.unwrap().unwrap(), b"clean body");
    }
    let events = world.events(256).await;
    assert!(events.iter().all(|event| text(event, FieldId::HttpVersion) == "HTTP/2"));
}

/// One frame (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_opens_and_resets_streams_is_hung_up_on() {
    // CVE-2023-44487: HEADERS and RST_STREAM, over and over.
    const STREAMS: u32 = 20_000;
    let world = World::new("").await;
    let stream = world.tunnel("site.example", world.tls.port(), &["h2"]).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let authority = format!("site.example:{}", world.tls.port());
    // RFC 7541 appendix A: GET, https, and / are entries of the static table; :authority is the first.
    let head = [&[0x82, 0x87, 0x84, 0x41, u8::try_from(authority.len()).unwrap()], authority.as_bytes()].concat();
    let answered = tokio::spawn(async move {
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, reader.read_to_end(&mut answer)).await.expect("an end in time");
        answer
    });
    writer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    writer.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    let mut opened = 0;
    for number in 0..STREAMS {
        let id = number * 2 + 1;
        let pair = [frame(1, 0x5, id, &head), frame(3, 0, id, &8u32.to_be_bytes())].concat();
        if writer.write_all(&pair).await.is_err() {
            break;
        }
        opened += 1;
    }
    let answer = answered.await.unwrap();
    assert!(opened < STREAMS, "every stream was taken");
    // GOAWAY (7) with ENHANCE_YOUR_CALM (11) is the last frame.
    let goaway = answer.len().checked_sub(17).map(|start| &answer[start..]).unwrap_or_default();
    let is_goaway = answer.windows(17).any(|part| part[3] == 7 && part[13..17] == 11u32.to_be_bytes());
    assert!(is_goaway, "{goaway:?}");
    assert!(world.seen.requests.load(Ordering::Relaxed) < 2_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_and_targets_have_a_largest_size() {
    let world = World::new("").await;
    let host = format!("site.example:{}", world.tls.port());
    for (path, header, status) in [
        (format!("/clean?{}", "a".repeat(15 << 10)), String::new(), 200),
        (format!("/clean?{}", "a".repeat(17 << 10)), String::new(), 414),
        ("/clean".to_owned(), "b".repeat(60 << 10), 200),
        ("/clean".to_owned(), "b".repeat(65 << 10), 400),
    ] {
        let stream = world.tunnel("site.example", world.tls.port(), &["http/1.1"]).await.unwrap();
        let mut request = get(&host, &path);
        request.headers_mut().insert("x-large", header.parse().unwrap());
        let reply = http1(Box::new(stream)).await.send(request).await.unwrap();
        assert_eq!(reply.status, status, "{} {}", path.len(), header.len());
    }
    let stream = world.tunnel("site.example", world.tls.port(), &["h2"]).await.unwrap();
    let mut client = http2(Box::new(stream)).await;
    let mut request = Request::get(format!("https://{host}/clean")).body(Full::default()).unwrap();
    request.headers_mut().insert("x-large", "b".repeat(65 << 10).parse().unwrap());
    assert_eq!(client.send(request).await.unwrap().status, 431);
    assert_eq!(world.seen.requests.load(Ordering::Relaxed), 2, "only the two that fit");
}
