//! Reads public lists whole. They are not part of the project; without them the test says so and passes.

#![allow(clippy::expect_used, reason = "a test that cannot begin has failed")]

use std::io::Read;
use std::path::PathBuf;
use std::time::Instant;

use intel::list::{Format, LIMITS, Parsed, parse};
use intel::{CategoryKind, NamedList, Snapshot};

/// A list decompresses to a few mebibytes; more is another file.
const LIST_BYTES_MAX: u64 = 256 << 20;

/// File and the format that it is in.
const LISTS: &[(&str, Format)] = &[
    ("adguarddns_2022.adblock.txt.gz", Format::Adblock),
    ("stevenblack_2022.domains.txt.gz", Format::Plain),
    ("blp_ransomware.domains.txt.gz", Format::Plain),
    ("blp_ransomware.rpz.gz", Format::Rpz),
    ("blp_scam.domains.txt.gz", Format::Plain),
];

#[test]
fn public_lists_are_read_nearly_whole() {
    let Some(folder) =
        std::env::var_os("SEKISHO_SHARED_DATA").map(PathBuf::from).filter(|folder| folder.join("names/lists").is_dir())
    else {
        println!("skipped: SEKISHO_SHARED_DATA names no folder with lists");
        return;
    };
    let mut builder = Snapshot::builder();
    for (number, (file, format)) in LISTS.iter().enumerate() {
        let packed = std::fs::File::open(folder.join("names/lists").join(file)).expect(file);
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(packed).take(LIST_BYTES_MAX).read_to_end(&mut text).expect(file);
        let began = Instant::now();
        let parsed = parse(Format::Auto, &text, LIMITS);
        println!(
            "{file}: {} entries, {} exceptions, {} skipped, {:?}, first {:?}",
            parsed.entries.len(),
            parsed.exceptions.len(),
            parsed.skipped_count,
            began.elapsed(),
            parsed.skipped.first()
        );
        assert_eq!(parsed, parse(*format, &text, LIMITS), "{file}: the format is recognised");
        assert!(parsed.skipped_count * 100 <= parsed.entries.len(), "{file}: {:?}", parsed.skipped);
        check_zone(file, &parsed);
        for list in NamedList::from_parsed(file, Some(number as i64), Some(CategoryKind::Security(117)), parsed) {
            builder.add_list(list);
        }
    }
    let snapshot = builder.build();
    println!("{} entries in {} KiB, {} omitted", snapshot.entries(), snapshot.heap_bytes() >> 10, snapshot.omitted());
    assert_eq!(snapshot.omitted(), 0);
}

/// The zone was made from the plain list: each name once for itself and once for what is below it.
fn check_zone(file: &str, parsed: &Parsed) {
    if file.ends_with(".rpz.gz") {
        let exact = parsed.entries.iter().filter(|(_, scope)| *scope == intel::Scope::Exact).count();
        assert_eq!(exact * 2, parsed.entries.len());
    }
}
