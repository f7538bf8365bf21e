//! An installation with a known record, for tests that ask it: made by the program, filled through the store.
#![allow(dead_code, unused_imports, reason = "each test file uses a part of it")]

mod program;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use model::{Class, Event, EventId, Facts, FieldId, Gate, Recorder, Timestamp, Value};
use store::{Store, StoreConfig};

pub use program::{PATIENCE, PROGRAM, Running, exchange, wait_until};

/// One question for an address record, as a stub resolver sends it. Whether anything was answered.
pub fn ask_for(server: SocketAddr, name: &str) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(label.len() as u8);
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    socket.send_to(&question, server).unwrap();
    socket.recv(&mut [0; 512]).is_ok()
}

/// A folder with an installation that does not run.
pub struct Installation {
    pub folder: tempfile::TempDir,
}

impl Installation {
    pub fn new() -> Installation {
        let folder = tempfile::tempdir().unwrap();
        Running::start_in(folder.path(), "").stop();
        Installation { folder }
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Records events while nothing runs; those of the first part are sealed into files, the others stay in the log.
    pub fn record(&self, sealed: Vec<Event>, unsealed: Vec<Event>) {
        let store = Store::open(StoreConfig::in_directory(self.data().join("events"))).unwrap();
        sealed.into_iter().for_each(|event| store.record(event));
        store.flush().unwrap();
        store.seal().unwrap();
        unsealed.into_iter().for_each(|event| store.record(event));
        store.flush().unwrap();
    }

    pub fn command(&self, arguments: &[&str], input: &str) -> Output {
        let child = Command::new(PROGRAM)
            .arg("--data")
            .arg(self.data())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.unwrap();
        // A command that reads nothing may have ended.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// What a command prints, its two streams and its exit code.
    pub fn ask(&self, arguments: &[&str]) -> (String, String, Option<i32>) {
        self.ask_with(arguments, "")
    }

    pub fn ask_with(&self, arguments: &[&str], input: &str) -> (String, String, Option<i32>) {
        let output = self.command(arguments, input);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr), output.status.code())
    }
}

pub fn now() -> Timestamp {
    SystemTime::now().into()
}

fn event(gate: Gate, time: Timestamp, facts: &[(FieldId, Value)]) -> Event {
    let mut all = Facts::new(gate);
    for (field, value) in facts {
        assert!(all.set(*field, value.clone()));
    }
    Event { id: EventId(0), time, class: Class::of(gate), facts: all }
}

/// A name that was asked for, by a user of number so many.
pub fn name(host: &str, user: u32, outcome: &str, time: Timestamp) -> Event {
    let source = IpAddr::V4(Ipv4Addr::from(0x0A00_0000 + user));
    event(
        Gate::Dns,
        time,
        &[
            (FieldId::DnsFqdn, Value::text(host)),
            (FieldId::DnsQueryType, Value::text("A")),
            (FieldId::UserEmail, Value::text(format!("user{user}@corp.example"))),
            (FieldId::SourceIp, Value::Ip(source)),
            (FieldId::VerdictOutcome, Value::text(outcome)),
            (FieldId::ActionId, Value::Int(if outcome == "blocked" { 2 } else { 1 })),
            (FieldId::DnsResolvedIps, Value::ips([IpAddr::V4(Ipv4Addr::new(192, 0, 2, (user % 200) as u8))])),
        ],
    )
}

/// A page that was fetched.
pub fn page(url: &str, host: &str, bytes: i64, time: Timestamp) -> Event {
    event(
        Gate::Web,
        time,
        &[
            (FieldId::HttpHost, Value::text(host)),
            (FieldId::HttpUrl, Value::text(url)),
            (FieldId::HttpMethod, Value::text("GET")),
            (FieldId::BytesIn, Value::Int(bytes)),
            (FieldId::VerdictOutcome, Value::text("allowed")),
        ],
    )
}
