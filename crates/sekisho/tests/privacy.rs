//! CX-14: what a privacy setting keeps off the record is in no byte of it, by what the running program leaves on disk and by
//! every cell that it reads back.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]

mod rig;

use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use rig::{Running, exchange, wait_until};

const CLIENT: [&str; 3] = ["127.0.0.77", "hidden.person@corp.example", "HiddenAgent"];
const NAMES: [&str; 4] = ["hidden-name.invalid", "hidden-site.invalid", "hidden-path", "hidden-query"];

/// Bytes of every file below but the policy, which names the user itself.
fn bytes_below(directory: &Path) -> Vec<u8> {
    let read = |path: std::path::PathBuf| match path.is_dir() {
        true => bytes_below(&path),
        false if path.extension().is_some_and(|extension| extension == "redb" || extension == "sock") => Vec::new(),
        false => std::fs::read(path).unwrap(),
    };
    std::fs::read_dir(directory).unwrap().flat_map(|entry| read(entry.unwrap().path())).collect()
}

fn is_in(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word.as_bytes()))
}

/// Whether each word is in what one question and one page of a known user leave behind, while they are in the log and after
/// they were sealed.
fn recorded(keep: &str) -> (Vec<bool>, Vec<bool>) {
    let config = format!("[checkpoint]\nprivacy = [{{ group = \"\", keep = \"{keep}\" }}]\n");
    let mut running = Running::start(tempfile::tempdir().unwrap(), &config);
    let token = running.must(&["token", CLIENT[1]]);
    let token = token.trim();
    let path = running.folder.join("users.toml");
    let user = format!("[[user]]\nemail = \"{}\"\ntokens = [\"{}\"]\n", CLIENT[1], checkpoint::secret_digest(token));
    std::fs::write(&path, user).unwrap();
    running.must(&["apply", path.to_str().unwrap()]);

    let socket = UdpSocket::bind((CLIENT[0], 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in NAMES[0].split('.') {
        question.push(label.len() as u8);
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    socket.send_to(&question, running.dns()).unwrap();
    assert!(socket.recv(&mut [0; 512]).is_ok());
    let proof = base64::engine::general_purpose::STANDARD.encode(format!("{}:{token}", CLIENT[1]));
    let (site, path, query) = (NAMES[1], NAMES[2], NAMES[3]);
    exchange(
        running.proxy(),
        &format!(
            "GET http://{site}/{path}?{query}=1 HTTP/1.1\r\nHost: {site}\r\nUser-Agent: {}\r\nReferer: http://{site}/{query}\r\n\
             Proxy-Authorization: Basic {proof}\r\nConnection: close\r\n\r\n",
            CLIENT[2]
        ),
    );
    let count = || running.must(&["sql", "SELECT count(*) AS n FROM events", "--format", "csv"]);
    wait_until("two events", || count().lines().nth(1).is_some_and(|line| line.trim_matches('"') == "2"));
    running.stop();
    let words = || CLIENT.iter().chain(&NAMES);
    let log = bytes_below(&running.data());
    let in_log = words().map(|word| is_in(&log, word)).collect();

    let events = running.data().join("events");
    let store = store::Store::open(store::StoreConfig::in_directory(&events)).unwrap();
    store.seal().unwrap();
    store.close().unwrap();
    let mut sealed = bytes_below(&running.data());
    for table in ["events", "sightings"] {
        sealed.extend(running.must(&["sql", &format!("SELECT * FROM {table}"), "--format", "json"]).bytes());
    }
    assert!(is_in(&sealed, "\"dns\"") && is_in(&sealed, "class_uid"), "the events are counted whatever they keep");
    (in_log, words().map(|word| is_in(&sealed, word)).collect())
}

fn check(keep: &str, client: bool, names: bool) {
    let expected = [vec![client; CLIENT.len()], vec![names; NAMES.len()]].concat();
    assert_eq!(recorded(keep), (expected.clone(), expected), "{keep}: {CLIENT:?} {NAMES:?}");
}

#[test]
fn full_keeps_all_so_the_search_for_it_is_true() {
    check("full", true, true);
}

#[test]
fn no_client_keeps_no_one() {
    check("no_client", false, true);
}

#[test]
fn no_name_keeps_no_destination() {
    check("no_name", true, false);
}

#[test]
fn counts_only_keeps_neither() {
    check("counts_only", false, false);
}
