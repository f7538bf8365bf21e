//! A running program keeps its feeds young by itself: what a publisher adds is blocked without a command and without a
//! restart.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops where its own set-up fails")]

mod rig;

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rig::{PROGRAM, Running};
use testkit::{Origin, Response};

/// Far beyond what a busy machine needs.
const WAIT: Duration = Duration::from_secs(60);

fn program(folder: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("--data").arg(folder.join("data")).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Asks until it is as wanted.
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    while start.elapsed() < WAIT {
        if let Some(found) = ask() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{what} did not come");
}

/// The one address that the gate gives for a name, if it gives one.
fn address_of(gate: SocketAddr, host: &str) -> Option<[u8; 4]> {
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in host.split('.') {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket.send_to(&question, gate).unwrap();
    let mut answer = [0; 512];
    let bytes = socket.recv(&mut answer).unwrap();
    let answer = &answer[..bytes];
    (answer[3] & 0x0f == 0 && answer[7] == 1).then(|| answer[bytes - 4..].try_into().unwrap())
}

#[test]
fn what_a_publisher_adds_is_blocked_without_a_command() {
    let folder = tempfile::tempdir().unwrap();
    let text = Arc::new(Mutex::new("0.0.0.0 old.bad.example\n"));
    let shown = Arc::clone(&text);
    let origin = Origin::start(move |_| Response::ok("text/plain", *shown.lock().unwrap())).unwrap();
    let url = origin.url("/list");
    let added = ["feeds", "add", "--url", &url, "--name", "test", "--format", "hosts", "--category", "Malware"];
    assert!(program(folder.path()).args(added).status().unwrap().success());

    // A day passes, and the publisher has one name more.
    let state = folder.path().join("data/feeds/feeds.json");
    let mut kept: serde_json::Value = serde_json::from_slice(&std::fs::read(&state).unwrap()).unwrap();
    assert!(kept[0]["state"]["tried"].is_number());
    kept[0]["state"]["tried"] = 0.into();
    std::fs::write(&state, kept.to_string()).unwrap();
    *text.lock().unwrap() = "0.0.0.0 old.bad.example\n0.0.0.0 new.bad.example\n";

    let running = Running::start_in(folder.path(), "[dns]\nupstreams = [\"127.0.0.1:1\"]\n");
    let gate = running.dns();
    assert_eq!(address_of(gate, "old.bad.example"), Some([0, 0, 0, 0]));
    until("the new name", || address_of(gate, "new.bad.example").filter(|address| *address == [0, 0, 0, 0]));
    assert_eq!(origin.requests().len(), 2);
}
