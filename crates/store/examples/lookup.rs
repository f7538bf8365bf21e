//! Measures look-ups: `lookup DIRECTORY INDICATOR|@FILE ...` prints, as one JSON object, how long each takes and what it
//! found; `@FILE` is a list of indicators that are looked up at once. The first run of each has nothing in this process's
//! memory; `bench/store.py` also empties the page cache before it.
#![allow(clippy::unwrap_used, reason = "a measurement that fails should stop")]

use std::time::Instant;

use serde_json::json;
use store::{Indicator, Reader, Sighting};

/// Runs of each look-up after the first.
const WARM_RUNS: usize = 15;

fn milliseconds(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}

/// The time of the first run, the median of the later ones, and what was found.
fn measure(directory: &str, indicators: &[Indicator]) -> serde_json::Value {
    let begun = Instant::now();
    let reader = Reader::open(directory).unwrap();
    let found = reader.touched(indicators).unwrap();
    let cold = milliseconds(begun);
    let mut warm = (0..WARM_RUNS).map(|_| {
        let begun = Instant::now();
        std::hint::black_box(reader.touched(indicators).unwrap());
        milliseconds(begun)
    });
    let mut warm = warm.by_ref().collect::<Vec<_>>();
    warm.sort_by(f64::total_cmp);
    let count = |number: fn(&Sighting) -> u64| found.iter().map(number).sum::<u64>();
    json!({
        "cold_ms": cold, "warm_ms": warm[WARM_RUNS / 2], "best_ms": warm[0],
        "rows": found.len(), "count": count(|sighting| sighting.count), "blocked": count(|sighting| sighting.blocked),
    })
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().unwrap();
    let one = |value: &str| measure(&directory, &[Indicator::guess(value)]);
    let mut report = json!({});
    for value in arguments {
        report[&value] = match value.strip_prefix('@') {
            None => one(&value),
            Some(path) => {
                let list = std::fs::read_to_string(path).unwrap();
                measure(&directory, &list.lines().map(Indicator::guess).collect::<Vec<_>>())
            }
        };
    }
    println!("{report}");
}
