//! Admission in the running program: a source over its limits is reset before a byte is read, the record holds one event
//! with the number, the operator bans by command, the API and the metrics say the same, and a reload changes the limits.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops where its own set-up fails")]

mod rig;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rig::{Installation, Running};
use serde_json::Value as Json;

/// Far beyond what a busy machine needs; a report is due every ten seconds.
const WAIT: Duration = Duration::from_secs(90);

const LIMITS: &str = "[shield]\nallow = []\n[shield.source]\nper_second = 1\nburst = 5\n";

/// Whether a new connection is served: the proxy's own page comes over it.
fn is_served(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let _ = stream.write_all(b"GET /proxy.pac HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).is_ok() && answer.starts_with(b"HTTP/1.1 200")
}

fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    while start.elapsed() < WAIT {
        if let Some(found) = ask() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    panic!("{what} did not come");
}

fn status(installation: &Installation) -> Json {
    let (text, error, code) = installation.ask(&["shield", "status", "--json"]);
    assert_eq!(code, Some(0), "{error}");
    serde_json::from_str(&text).unwrap()
}

fn metrics(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn who_is_over_the_limits_is_refused_and_the_record_says_how_often() {
    let installation = Installation::new();
    let mut running = Running::start_in(installation.folder.path(), LIMITS);
    let proxy = running.address("web", "http");
    let served = (0..20).filter(|_| is_served(proxy)).count();
    assert!((5..12).contains(&served), "{served} of 20 were served at a burst of 5 and one a second");

    let answer = status(&installation);
    let listeners = answer["listeners"].as_array().unwrap();
    let row = listeners.iter().find(|row| row["address"] == proxy.to_string()).unwrap();
    let refused = row["refused"]["source_rate"].as_u64().unwrap();
    assert_eq!((row["admitted"].as_u64().unwrap(), refused), (served as u64, 20 - served as u64));
    let text = metrics(running.address("admin", "http"));
    let line = format!("address=\"{proxy}\",reason=\"source_rate\"}} {refused}\n");
    assert!(text.contains(&line), "{text}");

    // One event for all of them, in time.
    let expression = "verdict.rule == \"builtin.shield\"";
    let events = until("the event", || {
        let (text, error, code) = installation.ask(&["search", expression, "--format", "json"]);
        // 1 is the answer while there is none.
        assert!(matches!(code, Some(0 | 1)), "{error}");
        let events: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told: u64 = events.iter().map(|event| event["event.count"].as_u64().unwrap()).sum();
        (told == refused).then_some(events)
    });
    assert!(events.len() <= 2, "one for each report at most: {events:?}");
    assert_eq!(events[0]["net.src.ip"], "127.0.0.1");
    assert_eq!(events[0]["event.failure"], "source_rate");
    assert_eq!(events[0]["verdict.outcome"], "blocked");
    running.stop();
}

#[test]
fn the_operator_bans_and_lifts_and_a_reload_changes_the_limits() {
    let installation = Installation::new();
    let generous = "[shield]\nallow = []\n";
    let mut running = Running::start_in(installation.folder.path(), generous);
    let proxy = running.address("web", "http");
    assert!(is_served(proxy));
    let (_, error, code) = installation.ask(&["shield", "ban", "127.0.0.0/8", "--for", "1h"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(!is_served(proxy));
    let (text, ..) = installation.ask(&["shield", "status"]);
    assert!(text.contains("127.0.0.0/8") && text.contains("by the operator") && text.contains("banned 1"), "{text}");
    running.stop();

    // The ban outlives the program, and is lifted while it does not run.
    let mut running = Running::start_in(installation.folder.path(), generous);
    assert!(!is_served(running.address("web", "http")));
    let (_, error, code) = installation.ask(&["shield", "unban", "127.0.0.0/8"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(is_served(running.address("web", "http")));
    let (_, error, code) = installation.ask(&["shield", "unban", "127.0.0.0/8"]);
    assert!(code == Some(2) && error.contains("nothing in 127.0.0.0/8 is banned"), "{error}");
    let (_, error, code) = installation.ask(&["shield", "ban", "0.0.0.0/0"]);
    assert!(code == Some(2) && error.contains("/2"), "{error}");

    // Settings that cannot work leave the old ones; others take effect at once.
    let proxy = running.address("web", "http");
    running.reload("[shield]\nallow = []\n[shield.source]\nburst = 0\n", "shield.source.burst: at least 1");
    running.reload(LIMITS, "reloaded");
    until("the new limit", || (!is_served(proxy)).then_some(()));
    running.reload("[shield]\nmode = \"off\"\n", "reloaded");
    until("the end of all limits", || (0..20).all(|_| is_served(proxy)).then_some(()));
    running.stop();
}

/// One POST: its head and its body.
fn receive(listener: &TcpListener, status: &str) -> (String, Vec<u8>) {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let (mut bytes, mut piece) = (Vec::new(), [0; 4_096]);
    loop {
        let length = stream.read(&mut piece).unwrap();
        bytes.extend(&piece[..length]);
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
        let size: usize = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
        if bytes.len() >= head.len() + 4 + size {
            stream.write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes()).unwrap();
            return (head.to_owned(), bytes[head.len() + 4..].to_vec());
        }
    }
}

#[test]
fn a_notice_arrives_signed_and_is_sent_again_where_it_was_refused() {
    let installation = Installation::new();
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    let secret = installation.folder.path().join("secret");
    std::fs::write(&secret, "a secret of the operator\n").unwrap();
    let (address, secret) = (receiver.local_addr().unwrap(), secret.display());
    let config = format!("[shield.notices]\nwebhook = \"http://{address}/hook\"\nwebhook_secret = \"{secret}\"\n");
    let mut running = Running::start_in(installation.folder.path(), &config);
    let (_, error, code) = installation.ask(&["shield", "test-notice"]);
    assert_eq!(code, Some(0), "{error}");
    let refused = receive(&receiver, "503");
    let (head, body) = receive(&receiver, "204");
    assert_eq!(refused.1, body, "the same notice again");
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"a secret of the operator");
    let signature: String = aws_lc_rs::hmac::sign(&key, &body).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(head.starts_with("post /hook ") && head.contains(&format!("sekisho-signature: sha256={signature}")), "{head}");
    let notice: Json = serde_json::from_slice(&body).unwrap();
    assert_eq!(notice["notice"], "test");
    running.reload("", "reloaded");
    let (_, error, code) = installation.ask(&["shield", "test-notice"]);
    assert!(code == Some(2) && error.contains("no notices are configured"), "{error}");
    running.stop();
}
