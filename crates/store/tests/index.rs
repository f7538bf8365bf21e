//! Indexes of sightings only make look-ups fast: whatever becomes of them, the answers stay the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails should stop")]

mod common;

use std::path::{Path, PathBuf};

use common::{dns, open, web};
use model::{Observable, Recorder};
use store::{Indicator, Reader, Store};

const USERS: [&str; 3] = ["mia@example.com", "noah@example.com", "zoe@example.com"];

/// The number of names, some pages of a table.
const NAMES: u64 = 12_000;

fn name(number: u64) -> String {
    format!("host{number}.example")
}

/// URLs that agree in more bytes than a first key keeps.
fn long_url(number: u64) -> String {
    format!("https://long.example/{}/{number}", "a".repeat(200))
}

/// Names that one user met, one that all met every day, long URLs enough for several pages; two days, two files of each.
fn fill(directory: &Path) -> Store {
    let store = open(directory);
    for day in 0..2 {
        for number in 0..NAMES {
            store.record(dns(day * 86_400 + 1, USERS[(number % 3) as usize], &name(number)));
            if number % 1_000 == 0 {
                USERS.iter().for_each(|user| store.record(dns(day * 86_400 + 2, user, "common.example")));
            }
            if number % 2 == 0 {
                store.record(web(day * 86_400 + 3, USERS[0], "long.example", &long_url(number)));
            }
            if number % 1_000 == 0 {
                store.flush().unwrap();
            }
        }
        store.seal().unwrap();
    }
    store
}

/// What was asked, and how often each user met it.
type Answers = Vec<(String, Vec<(String, u64)>)>;

fn asked() -> Vec<Indicator> {
    let names = (0..NAMES).step_by(997).chain([NAMES - 1]).map(name);
    let urls = [0, 2, 4_444, NAMES - 2].map(long_url);
    let absent = ["absent.example".to_owned(), "a".to_owned(), "zzz.example".to_owned(), long_url(1)];
    names.chain(urls).chain(absent).chain(["common.example".to_owned()]).map(Indicator::guess).collect()
}

fn answers(touched: impl Fn(&[Indicator]) -> store::Result<Vec<store::Sighting>>) -> Answers {
    let answer = |indicator: &Indicator| {
        let found = touched(std::slice::from_ref(indicator)).unwrap();
        (indicator.value.clone(), found.into_iter().map(|sighting| (sighting.user, sighting.count)).collect())
    };
    asked().iter().map(answer).collect()
}

/// By what was recorded.
fn expected() -> Answers {
    let who = |value: &str| {
        let number = |text: &str| text.parse::<u64>().ok();
        let host = value.strip_prefix("host").and_then(|rest| number(rest.strip_suffix(".example")?));
        let url = value.strip_prefix("https://long.example/").and_then(|rest| number(rest.rsplit('/').next()?));
        match (host, url) {
            (Some(number), _) => vec![(USERS[(number % 3) as usize].to_owned(), 2)],
            (_, Some(number)) if number % 2 == 0 => vec![(USERS[0].to_owned(), 2)],
            _ if value == "common.example" => USERS.map(|user| (user.to_owned(), 2 * 12)).to_vec(),
            _ => Vec::new(),
        }
    };
    asked().into_iter().map(|indicator| (indicator.value.clone(), who(&indicator.value))).collect()
}

fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|known| known == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn check_reader(directory: &Path, what: &str) {
    let reader = Reader::open(directory).unwrap();
    assert!(answers(|indicators| reader.touched(indicators)) == expected(), "{what}");
}

#[test]
fn answers_are_the_same_with_without_and_with_damaged_indexes() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path()).close().unwrap();
    let indexes = files(directory.path(), "sidx");
    assert_eq!(indexes.len(), 2, "one a day");
    check_reader(directory.path(), "whole");
    let whole = indexes.iter().map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>();
    let first = &indexes[0];
    let length = whole[0].len();
    // The top and the trailer byte by byte near the end, the filter and the part at places that share no factor with pages.
    for place in (0..length).step_by(length / 97).chain(length - 40..length) {
        let mut bytes = whole[0].clone();
        bytes[place] ^= 1 << (place % 8);
        std::fs::write(first, &bytes).unwrap();
        check_reader(directory.path(), &format!("bit flipped at {place} of {length}"));
    }
    for cut in [0, 1, 23, 24, 4_096, length / 2, length - 1] {
        std::fs::write(first, &whole[0][..cut]).unwrap();
        check_reader(directory.path(), &format!("cut at {cut} of {length}"));
    }
    std::fs::write(first, vec![0; length]).unwrap();
    check_reader(directory.path(), "zeros");
    let mut emptied = whole[0].clone();
    emptied[..5 * 4_096].fill(0);
    std::fs::write(first, &emptied).unwrap();
    check_reader(directory.path(), "pages of a filter that holds nothing");
    std::fs::write(first, &whole[1]).unwrap();
    std::fs::write(&indexes[1], &whole[0]).unwrap();
    check_reader(directory.path(), "each in the place of the other");
    indexes.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    check_reader(directory.path(), "missing");
}

#[test]
fn missing_damaged_and_older_indexes_are_made_again() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path()).close().unwrap();
    let indexes = files(directory.path(), "sidx");
    let whole = indexes.iter().map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>();
    // What an earlier version left beside its tables.
    let older = indexes[0].with_extension("bf16");
    std::fs::rename(&indexes[0], &older).unwrap();
    let mut damaged = whole[1].clone();
    damaged[100] ^= 1;
    std::fs::write(&indexes[1], &damaged).unwrap();
    let store = open(directory.path());
    assert!(!older.exists());
    // The damage within a filter is found by the look-ups that it concerns.
    assert!(answers(|indicators| store.touched(indicators)) == expected());
    let every = (0..NAMES).map(|number| Indicator::of(Observable::Hostname, name(number))).collect::<Vec<_>>();
    assert_eq!(store.touched(&every).unwrap().len() as u64, NAMES);
    assert_eq!(store.stats().index_bytes, 0);
    assert_eq!(store.mend_indexes().unwrap(), 2);
    assert_eq!(store.mend_indexes().unwrap(), 0);
    assert!(indexes.iter().zip(&whole).all(|(path, whole)| std::fs::read(path).unwrap() == *whole));
    assert!(answers(|indicators| store.touched(indicators)) == expected());
    assert!(store.stats().index_bytes > 0);
}

#[test]
fn a_list_on_several_cores_answers_as_one_by_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = fill(directory.path());
    let mut all = (0..NAMES).map(|number| Indicator::guess(name(number))).collect::<Vec<_>>();
    all.extend((0..NAMES).map(|number| Indicator::guess(format!("absent{number}.example"))));
    all.extend((0..NAMES).map(|number| Indicator::guess(long_url(number))));
    let check = |met: &[store::Sighting]| {
        let (hosts, urls): (Vec<_>, Vec<_>) = met.iter().partition(|sighting| sighting.kind == Observable::Hostname);
        assert_eq!((hosts.len() as u64, urls.len() as u64), (NAMES, NAMES / 2));
        assert!(met.iter().all(|sighting| sighting.count == 2));
        assert!(met.windows(2).all(|pair| (pair[0].kind.type_id(), &pair[0].value) < (pair[1].kind.type_id(), &pair[1].value)));
    };
    check(&store.touched(&all).unwrap());
    files(directory.path(), "sidx").iter().for_each(|path| std::fs::remove_file(path).unwrap());
    check(&Reader::open(directory.path()).unwrap().touched(&all).unwrap());
    assert_eq!(store.touched(&[]).unwrap(), []);
}
