//! The shared samples: EICAR carriers are found, bombs end with a limit, malformed archives neither crash nor hang. Needs
//! the folder named by SEKISHO_SHARED_DATA.

#![allow(clippy::unwrap_used)]

use scan::{Engines, Limits, Report, Unscannable, Verdict, scan_bytes};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Unoptimised builds on a busy machine; the limit itself is ten seconds.
const FILE_SECONDS_MAX: Duration = Duration::from_secs(15);

fn folder(name: &str) -> Option<PathBuf> {
    let Some(data) = std::env::var_os("SEKISHO_SHARED_DATA") else {
        println!("skipped: SEKISHO_SHARED_DATA is not set");
        return None;
    };
    let folder = Path::new(&data).join("files").join(name);
    if !folder.is_dir() {
        println!("skipped: {} is absent", folder.display());
        return None;
    }
    Some(folder)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(self::files(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

fn scan(path: &Path) -> Report {
    let bytes = std::fs::read(path).unwrap();
    let started = Instant::now();
    let report = scan_bytes(&Engines::built_in(), &Limits::default(), &name(path), &bytes);
    assert!(started.elapsed() < FILE_SECONDS_MAX, "{} took {:?}", path.display(), started.elapsed());
    println!("{:45} {:9} {:?} {:?} {:?}", name(path), report.true_type, report.verdict, started.elapsed(), report.member);
    report
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn av_05_every_carrier_that_can_be_opened_gives_the_test_file() {
    let Some(folder) = folder("own") else { return };
    for path in files(&folder) {
        let report = scan(&path);
        let name = name(&path);
        if !name.contains("eicar") && name != "smuggle.html" && name != "pdf-zip-polyglot.pdf" && name != "elf-appended-zip.bin" {
            assert_ne!(report.verdict, Verdict::Malicious, "{name}");
            continue;
        }
        let expected = match name.as_str() {
            "eicar-enc.7z" | "eicar-enc-hdr.7z" => Verdict::Unscannable(Unscannable::Encrypted),
            "eicar-deep30.zip" => Verdict::Unscannable(Unscannable::DepthLimit),
            // The specification wants the string at the start of a file; this one has it at the end of a mebibyte.
            "eicar-at-end-1m.bin" => Verdict::Clean,
            _ => Verdict::Malicious,
        };
        assert_eq!(report.verdict, expected, "{name}");
    }
}

#[test]
fn av_10_bombs_end_with_a_limit() {
    let Some(folder) = folder("bombs") else { return };
    for path in files(&folder) {
        assert!(matches!(scan(&path).verdict, Verdict::Unscannable(_)), "{}", path.display());
    }
}

#[test]
fn av_10_malformed_archives_neither_crash_nor_hang() {
    for name in ["libarchive", "oletools", "magika"] {
        let Some(folder) = folder(name) else { return };
        for path in files(&folder) {
            let report = scan(&path);
            assert_ne!(report.verdict, Verdict::Unscannable(Unscannable::Crashed), "{}", path.display());
            assert_ne!(report.verdict, Verdict::Malicious, "{}", path.display());
        }
    }
}
