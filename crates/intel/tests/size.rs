//! A million names: memory is asserted (ON-08 and the promise of 40 MiB), time is printed, since machines differ.

use std::time::Instant;

use intel::{CategoryKind, Entries, Kind, NamedList, Snapshot};

const NAMES: usize = 1_000_000;
const HEAP_BYTES_MAX: usize = 40 << 20;
const LOOKUPS: usize = 100_000;

/// Names of 20 bytes on average, as in the public lists that were measured.
fn name(number: usize) -> String {
    format!("host-{:x}.some{}.example", number.wrapping_mul(0x9e37_79b1) & 0xffff_ffff, number % 10)
}

#[test]
fn a_million_names_fit_and_are_found() {
    let list = NamedList {
        name: "million".into(),
        feed_id: Some(1),
        category: Some(CategoryKind::Security(117)),
        kind: Kind::Domains,
        entries: (0..NAMES).map(name).collect(),
        exceptions: Entries::new(),
    };
    let bytes: usize = list.entries.texts().map(str::len).sum();
    let mut builder = Snapshot::builder();
    builder.add_list(list);
    let began = Instant::now();
    let snapshot = builder.build();
    let built = began.elapsed();
    assert_eq!((snapshot.entries(), snapshot.omitted()), (NAMES, 0));
    assert!(snapshot.heap_bytes() < HEAP_BYTES_MAX, "{} bytes", snapshot.heap_bytes());

    let queries: Vec<String> = (0..LOOKUPS).map(|number| format!("www.{}", name(number * 10))).collect();
    let began = Instant::now();
    let found = queries.iter().filter(|query| !snapshot.name(query).is_empty()).count();
    let each = began.elapsed() / LOOKUPS as u32;
    assert_eq!(found, LOOKUPS.min(NAMES / 10));
    println!(
        "{NAMES} names, {} bytes each: {} KiB, built in {built:?}, look-up of a name and its parents {each:?}",
        bytes / NAMES,
        snapshot.heap_bytes() >> 10
    );
}
