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

/// Parsers of others that index out of bounds on damage. The walk contains the panic and the file is unscannable.
/// `cab` 0.6.0: a file whose offset lies behind the folder's last block (`folder.rs`, `seek_to_uncompressed_offset`).
const CONTAINED: [&str; 1] = ["cab: crashed"];

/// Damages every sample in a few places, always the same ones. Parsers may refuse, they may not panic.
#[test]
fn damaged_samples_crash_no_parser() {
    const DAMAGES: u64 = 8;
    const SAMPLE_BYTES_MAX: u64 = 200_000;
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let limits = Limits { time_millis: 2_000, total_bytes: 32 << 20, ..Limits::default() };
    for name in ["own", "libarchive", "oletools"] {
        let Some(folder) = folder(name) else { return };
        for path in files(&folder).into_iter().filter(|path| path.metadata().unwrap().len() <= SAMPLE_BYTES_MAX) {
            let sample = std::fs::read(&path).unwrap();
            for _ in 0..DAMAGES {
                let mut damaged = sample.clone();
                for _ in 0..3 {
                    let at = random() % damaged.len().max(1);
                    if let Some(byte) = damaged.get_mut(at) {
                        *byte = random() as u8;
                    }
                }
                let report = scan_bytes(&Engines::built_in(), &limits, "damaged", &damaged);
                let crashed = |finding: &&scan::Finding| finding.detail.ends_with("crashed");
                for finding in report.findings.iter().filter(crashed) {
                    assert!(CONTAINED.contains(&finding.detail.as_str()), "{}: {finding:?}", path.display());
                    assert!(matches!(report.verdict, Verdict::Unscannable(_) | Verdict::Malicious));
                }
            }
        }
    }
}
