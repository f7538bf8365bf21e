//! One small file per format, made by that format's own program and kept as base64 of gzip, so that nothing here looks like
//! what it carries. `test*`, and what hides it in text, holds the EICAR test file; `words*` holds nine thousand bytes of
//! words, known by their hash, so that the decoders have something to decode. AV-05. Adding a format adds a file.

#![allow(clippy::unwrap_used)]

use base64::Engine;
use scan::{Definitions, Engines, Limits, Report, Unscannable, Verdict, scan_bytes};
use std::io::Read;
use std::path::Path;

/// `licence.ace` is a test file of the unarc-rs project (MIT or Apache-2.0), since no free program writes ACE.
const LISTED: &str = "86d3f3a95c324c9479bd8986968f4327:11357:Own.Words\n59e6f58487c990cce09d43a1bba830e4:9000:Own.Words\n";

fn samples() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/carriers");
    let mut samples: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let text: String = std::fs::read_to_string(&path).unwrap().split_whitespace().collect();
            let packed = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
            let mut bytes = Vec::new();
            flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut bytes).unwrap();
            (path.file_stem().unwrap().to_string_lossy().into_owned(), bytes)
        })
        .collect();
    samples.sort();
    assert!(samples.len() > 90, "{} samples", samples.len());
    samples
}

fn engines() -> Engines {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("own.hdb"), LISTED).unwrap();
    Engines::load(&Definitions { paths: vec![folder.path().to_path_buf()] }).unwrap()
}

fn scan(engines: &Engines, name: &str, bytes: &[u8]) -> Report {
    scan_bytes(engines, &Limits::default(), name, bytes)
}

#[test]
fn av_05_every_format_gives_what_it_carries() {
    let engines = engines();
    for (name, bytes) in samples() {
        let report = scan(&engines, &name, &bytes);
        let expected = if name.starts_with("words") || name == "licence.ace" { "Own.Words" } else { "EICAR-Test-File" };
        assert_eq!((report.verdict, report.signature.as_str()), (Verdict::Malicious, expected), "{name}: {report:?}");
    }
}

/// Containers in containers, whatever the kinds: every sample inside a tar in a gzip in a message.
#[test]
fn av_05_formats_nest() {
    let engines = engines();
    for (name, bytes) in samples() {
        let mut header = vec![0u8; 512];
        header[..name.len().min(99)].copy_from_slice(&name.as_bytes()[..name.len().min(99)]);
        header[124..136].copy_from_slice(format!("{:011o}\0", bytes.len()).as_bytes());
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header.extend_from_slice(&bytes);
        header.resize(header.len().next_multiple_of(512) + 1024, 0);
        let mut packed = Vec::new();
        flate2::read::GzEncoder::new(header.as_slice(), flate2::Compression::fast()).read_to_end(&mut packed).unwrap();
        let body = base64::engine::general_purpose::STANDARD.encode(packed);
        let message = format!(
            "From: a@example.test\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Type: application/gzip; name=a.tgz\r\n\
             Content-Transfer-Encoding: base64\r\n\r\n{body}\r\n"
        );
        let report = scan(&engines, "message.eml", message.as_bytes());
        assert_eq!(report.verdict, Verdict::Malicious, "{name}: {report:?}");
    }
}

/// A few damages in every sample, always the same: any outcome is right but a panic or a hang.
#[test]
fn damaged_samples_are_total() {
    const DAMAGES: usize = 40;
    const SAMPLE_BYTES_MAX: usize = 100_000;
    let engines = Engines::built_in();
    let limits = Limits { time_millis: 2_000, total_bytes: 16 << 20, ..Limits::default() };
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    for (name, bytes) in samples().into_iter().filter(|(_, bytes)| bytes.len() <= SAMPLE_BYTES_MAX) {
        for round in 0..DAMAGES {
            let mut damaged = bytes.clone();
            for _ in 0..1 + round % 4 {
                let at = random() % damaged.len();
                damaged[at] = random() as u8;
            }
            if round % 5 == 0 {
                damaged.truncate(random() % damaged.len());
            }
            let report = scan_bytes(&engines, &limits, &name, &damaged);
            let crashed = report.findings.iter().find(|finding| finding.detail.ends_with("crashed"));
            assert!(crashed.is_none(), "{name}: {crashed:?}");
        }
    }
}

/// What is recognised and not read is never clean.
#[test]
fn av_03_sealed_formats_say_so() {
    let engines = Engines::built_in();
    let pad = |head: &[u8]| [head, &[0; 64]].concat();
    let dos = [b"\xeb\x52\x90NTFS    ".as_slice(), &[0; 600]].concat();
    for (bytes, expected) in [
        (pad(b"-----BEGIN PGP MESSAGE-----\n"), Unscannable::Encrypted),
        (pad(b"\x8c\x0d\x04\x09\x03\x02abcdefgh\x60\xd2\x40\x01"), Unscannable::Encrypted),
        (pad(b"\x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03"), Unscannable::Encrypted),
        (pad(b"QFI\xfb\0\0\0\x03"), Unscannable::Unsupported),
        (pad(b"hsqs"), Unscannable::Unsupported),
        (pad(b"SIT!\0"), Unscannable::Unsupported),
        (pad(b"LRZI\0"), Unscannable::Unsupported),
        (dos, Unscannable::Unsupported),
    ] {
        assert_eq!(scan(&engines, "a", &bytes).verdict, Verdict::Unscannable(expected), "{:?}", &bytes[..16]);
    }
}
