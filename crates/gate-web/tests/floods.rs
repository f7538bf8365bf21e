//! DD-09: floods inside one HTTP/2 connection. What refuses them is the HTTP library; these tests say that it does, with the
//! settings that the gate gives it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::atomic::Ordering;

use support::{Io, PATIENCE, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// RFC 9113 section 7.
const ENHANCE_YOUR_CALM: u32 = 11;
const CANCEL: [u8; 4] = [0, 0, 0, 8];

const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame of HTTP/2 (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// GET, https, the path, and the authority as a literal that is not indexed (RFC 7541 sections 6.1 and 6.2.2).
fn request(world: &World) -> Vec<u8> {
    let host = format!("site.example:{}", world.tls.port());
    let mut block = vec![0x82, 0x87, 0x04, 3];
    block.extend(b"/ok");
    block.extend([0x01, host.len() as u8]);
    block.extend(host.as_bytes());
    block
}

async fn connected(world: &World) -> Io {
    let mut stream = world.tunnel("site.example", world.tls.port(), &["h2"]).await.unwrap();
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
    stream.write_all(&preface).await.unwrap();
    Box::new(stream)
}

/// Sends pieces until the gate has had enough; how many were taken, and the code with which it said goodbye.
async fn flood(stream: Io, most: u32, piece: impl Fn(u32) -> Vec<u8>) -> (u32, Option<u32>) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sending = async {
        for number in 0..most {
            if writer.write_all(&piece(number)).await.is_err() {
                return number;
            }
        }
        let _ = writer.flush().await;
        most
    };
    let reading = async {
        let mut code = None;
        let mut head = [0; 9];
        while reader.read_exact(&mut head).await.is_ok() {
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            if reader.read_exact(&mut payload).await.is_err() {
                break;
            }
            if head[3] == GO_AWAY {
                code = payload.get(4..8).map(|code| u32::from_be_bytes(code.try_into().unwrap()));
            }
        }
        code
    };
    timeout(PATIENCE, async { tokio::join!(sending, reading) }).await.expect("the gate ends the connection")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_reset_ends_the_connection_and_hardly_reaches_the_origin() {
    let world = World::new("").await;
    let block = request(&world);
    let (_, code) = flood(connected(&world).await, 20_000, |number| {
        let stream = 2 * number + 1;
        [frame(HEADERS, END_STREAM | END_HEADERS, stream, &block), frame(RESET, 0, stream, &CANCEL)].concat()
    })
    .await;
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    let requests = world.seen.requests.load(Ordering::Relaxed);
    assert!(requests < 1_000, "{requests} of 20,000 requests reached the origin");
    // Everyone else is served.
    assert_eq!(world.plain_get("/ok").await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_never_ends_ends_the_connection() {
    let world = World::new("").await;
    let block = request(&world);
    let most = 50_000;
    let (taken, _) = flood(connected(&world).await, most, |number| match number {
        0 => frame(HEADERS, END_STREAM, 1, &block),
        // One field of a thousand bytes, again and again, that is not indexed.
        _ => frame(CONTINUATION, 0, 1, &[&[0x00, 1, b'a', 0x7f, 0xe9, 0x06][..], &[b'b'; 1_000]].concat()),
    })
    .await;
    // What the kernel and TLS hold between the two is a few thousand pieces; the rest is not taken.
    assert!(taken < most, "50 MB of one head were taken");
    assert_eq!(world.seen.requests.load(Ordering::Relaxed), 0);
    assert_eq!(world.plain_get("/ok").await.unwrap().status, 200);
}
