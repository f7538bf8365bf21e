//! A writer is killed with SIGKILL at random moments, and garbage is put behind what it wrote; what it had acknowledged
//! is there exactly once afterwards. Killing leaves the page cache intact, so this does not test the loss of power.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails should stop")]

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{Numbers, event};
use model::{FieldId, Gate, Pattern, Recorder, Repeat, TransactionId, Value};
use store::{Query, Store, StoreConfig};

const DIRECTORY: &str = "SEKISHO_STORE_CRASH_DIRECTORY";
const BEGIN: &str = "SEKISHO_STORE_CRASH_BEGIN";

/// Small enough that a round of some hundred commits seals, merges its log and is killed in the middle of it.
fn config(directory: &Path) -> StoreConfig {
    let (commit_events, commit_wait_ms, seal_events) = (50, 1, 300);
    StoreConfig { commit_events, commit_wait_ms, seal_events, ..StoreConfig::in_directory(directory) }
}

/// Opens the store. A process that another lane has forked and that has not yet become its program holds a copy of every
/// lock of this one for a moment.
fn open(directory: &Path) -> Store {
    for _ in 0..500 {
        match Store::open(config(directory)) {
            Err(store::Error::Locked(_)) => std::thread::sleep(Duration::from_millis(10)),
            outcome => return outcome.unwrap(),
        }
    }
    panic!("{} stays locked", directory.display());
}

/// The writer, when this program is run again by the test below; nothing otherwise.
#[test]
fn child_writer() {
    let (Ok(directory), Ok(begin)) = (std::env::var(DIRECTORY), std::env::var(BEGIN)) else { return };
    let store = open(Path::new(&directory));
    let mut next: i64 = begin.parse().unwrap();
    let mut numbers = Numbers(next as u64);
    let mut patterns: HashMap<i64, Arc<Pattern>> = HashMap::new();
    loop {
        let mut repeats = Vec::new();
        for _ in 0..=numbers.below(80) {
            let host = Value::text(format!("h{}.example", next % 97));
            let reference = TransactionId(next as u64);
            let whole =
                event(Gate::Dns, next, vec![(FieldId::DnsFqdn, host), (FieldId::Reference, Value::Text(reference.text()))]);
            if numbers.below(2) == 0 {
                let pattern = patterns.entry(next % 97).or_insert_with(|| Arc::new(Pattern::of(&whole)));
                let client = ([192, 0, 2, (next % 5) as u8], 53).into();
                repeats.push(Repeat { time: whole.time, client, reference, pattern: Arc::clone(pattern) });
            } else {
                store.record(whole);
            }
            next += 1;
        }
        store.record_repeats(repeats);
        store.flush().unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "\nacknowledged {}", next - 1).unwrap();
        out.flush().unwrap();
    }
}

/// Runs the writer until it has acknowledged some commits, kills it, and gives the last number that it acknowledged.
fn run_and_kill(directory: &Path, begin: i64, commits: u64) -> i64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child_writer", "--exact", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(BEGIN, begin.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
    let mut last = begin - 1;
    for _ in 0..commits {
        last = acknowledged.next().expect("the writer acknowledges until it is killed");
    }
    child.kill().unwrap();
    // Commits that were acknowledged between the last read and the kill.
    last = acknowledged.last().unwrap_or(last);
    child.wait().unwrap();
    last
}

/// False where no segment was left to append to.
fn append_garbage(directory: &Path, numbers: &mut Numbers) -> bool {
    let mut segments = std::fs::read_dir(directory.join("wal")).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    segments.sort();
    if let Some(last) = segments.last() {
        let garbage = (0..numbers.below(5_000)).map(|_| numbers_byte(numbers)).collect::<Vec<_>>();
        std::fs::OpenOptions::new().append(true).open(last).unwrap().write_all(&garbage).unwrap();
    }
    !segments.is_empty()
}

fn numbers_byte(numbers: &mut Numbers) -> u8 {
    numbers.below(256) as u8
}

/// Lanes with a directory each. A round mostly waits for the disk, so they run beside each other.
const LANES: u64 = 4;

/// Kills that one directory goes through. Each round reads all that the ones before it wrote, so more would mostly read.
const DIRECTORY_ROUNDS: u64 = 10;

/// What the rounds came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    rounds: u64,
    garbage_tails: u64,
    acknowledged: usize,
    found: usize,
    lost: usize,
    doubled: usize,
}

fn lane(seed: u64, rounds: u64) -> Tally {
    let mut directory = tempfile::tempdir().unwrap();
    let (mut numbers, mut begin, mut expected) = (Numbers(seed), 1, Vec::new());
    let (mut tally, mut before) = (Tally::default(), 0);
    for round in 0..rounds {
        if round > 0 && round % DIRECTORY_ROUNDS == 0 {
            (directory, begin) = (tempfile::tempdir().unwrap(), 1);
            expected.clear();
            before = 0;
        }
        let last = run_and_kill(directory.path(), begin, 1 + numbers.below(40));
        expected.extend(begin..=last);
        if round % 3 == 0 {
            tally.garbage_tails += u64::from(append_garbage(directory.path(), &mut numbers));
        }
        let store = open(directory.path());
        let events = store.search(&Query { limit: usize::MAX, ..Query::default() }).unwrap();
        let mut seen: HashMap<i64, u32> = HashMap::new();
        for event in &events {
            let reference = event.facts.get(FieldId::Reference).unwrap().as_text().unwrap();
            let number = i64::from_str_radix(reference, 16).unwrap();
            assert_eq!(event.facts.get(FieldId::DnsFqdn), Some(&Value::text(format!("h{}.example", number % 97))));
            *seen.entry(number).or_default() += 1;
        }
        let ids: std::collections::HashSet<_> = events.iter().map(|event| event.id).collect();
        tally.rounds += 1;
        tally.doubled += events.len() - ids.len() + events.len() - seen.len();
        tally.lost += expected.iter().filter(|number| !seen.contains_key(number)).count();
        tally.acknowledged += (last - begin + 1) as usize;
        tally.found += events.len() - before;
        before = events.len();
        begin = seen.keys().max().copied().unwrap_or_default() + 1;
        store.close().unwrap();
    }
    tally
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_by_kill_9() {
    let rounds = if std::env::var_os("SEKISHO_TEST_SYSTEM").is_some() { 200 } else { 20 };
    let begun = std::time::Instant::now();
    let tallies = std::thread::scope(|scope| {
        let lanes = (0..LANES).map(|number| scope.spawn(move || lane(7 + number, rounds / LANES))).collect::<Vec<_>>();
        lanes.into_iter().map(|lane| lane.join().unwrap()).collect::<Vec<_>>()
    });
    let sum = |number: fn(&Tally) -> usize| tallies.iter().map(number).sum::<usize>();
    let (run, tails) = (sum(|tally| tally.rounds as usize), sum(|tally| tally.garbage_tails as usize));
    let (acknowledged, found) = (sum(|tally| tally.acknowledged), sum(|tally| tally.found));
    let (lost, doubled) = (sum(|tally| tally.lost), sum(|tally| tally.doubled));
    println!(
        "{run} rounds of kill -9, {tails} with garbage behind the log: {acknowledged} events acknowledged, {found} found, \
         {lost} lost, {doubled} doubled, {:.0} s",
        begun.elapsed().as_secs_f64()
    );
    assert_eq!((run as u64, lost, doubled), (rounds, 0, 0));
    assert!(acknowledged > run && found >= acknowledged && tails > 0, "the rounds did something");
}
