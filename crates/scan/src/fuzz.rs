//! Strangers' files and publishers' signatures for this crate's parsers. `fuzz/` calls these functions, and so does the
//! replay of its corpus; nothing in the product does. Each states what must hold whatever the bytes are.

use std::io::Read;
use std::sync::OnceLock;
use std::time::Duration;

use crate::engines::fuzz_definitions;
use crate::formats::vba;
use crate::walk::scan_as;
use crate::{Clock, Engines, Limits, Report, Unscannable, Verdict, format, true_type, wire};

/// Small, so that one input takes milliseconds whatever it unpacks to; none of the bounds is another kind of bound.
const LIMITS: Limits = Limits {
    depth: 4,
    entries: 200,
    entry_bytes: 1 << 20,
    total_bytes: 4 << 20,
    ratio: 500,
    input_bytes: 1 << 20,
    time_millis: 10_000,
};

/// Time stands still, so that an endless loop is seen as one and not ended by the time limit.
struct Still;

impl Clock for Still {
    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

/// A file is scanned as its true type: the walk ends within its bounds, and no parser has panicked on the way.
pub fn scan_file(bytes: &[u8]) {
    scanned(true_type(bytes), bytes);
}

fn walked(name: &str, bytes: &[u8]) {
    scanned(format::named(name), bytes);
}

fn scanned(format: &'static crate::Format, bytes: &[u8]) {
    static ENGINES: OnceLock<Engines> = OnceLock::new();
    let engines = ENGINES.get_or_init(Engines::built_in);
    let report: Report = scan_as(engines, &LIMITS, &Still, "file", format, bytes);
    assert!(report.entries <= LIMITS.entries, "{} entries", report.entries);
    assert_ne!(report.verdict, Verdict::Unscannable(Unscannable::Crashed), "{report:?}");
    let crashed = Unscannable::Crashed.as_str();
    let has_crashed = report.findings.iter().any(|finding| finding.detail.ends_with(crashed));
    assert!(!has_crashed, "{:?}", report.findings);
}

macro_rules! walkers {
    ($($function:ident $format:literal)*) => {
        $(
            #[doc = concat!("Opens bytes as `", $format, "`, whatever they begin with.")]
            pub fn $function(bytes: &[u8]) {
                walked($format, bytes);
            }
        )*
    };
}

walkers! {
    scan_zip "zip"
    scan_sevenz "7z"
    scan_rar "rar"
    scan_gzip "gz"
    scan_bzip2 "bz2"
    scan_xz "xz"
    scan_lzip "lz"
    scan_lzma "lzma"
    scan_zstd "zst"
    scan_lz4 "lz4"
    scan_compress "Z"
    scan_tar "tar"
    scan_cpio "cpio"
    scan_ar "a"
    scan_rpm "rpm"
    scan_cab "cab"
    scan_lzh "lzh"
    scan_iso "iso"
    scan_ole "ole"
    scan_onenote "one"
    scan_pdf "pdf"
    scan_rtf "rtf"
    scan_eml "eml"
    scan_carrier "txt"
}

/// The source of a macro comes out of its compression in bounded time.
pub fn scan_vba(bytes: &[u8]) {
    let Some(source) = vba::source(bytes) else { return };
    let mut text = Vec::new();
    let _ = source.take(LIMITS.entry_bytes).read_to_end(&mut text);
    // A chunk of three packed bytes stands for 4096 at most (2.4.1.3.1), so the ratio is bounded too.
    assert!(text.len() <= (bytes.len() + 1) * 4096, "{} bytes out of {}", text.len(), bytes.len());
}

/// Signatures of each kind load or are refused by line, and those that load are matched against the text itself.
pub fn scan_signatures(bytes: &[u8]) {
    fuzz_definitions(bytes);
}

/// What a worker that has been taken over may send.
pub fn scan_frame(bytes: &[u8]) {
    if let Ok(report) = wire::decode::<Report>(bytes) {
        let again = wire::encode(&report).ok().and_then(|frame| wire::decode(&frame[wire::LENGTH_BYTES..]).ok());
        assert_eq!(again, Some(report), "a report changes as it is sent");
    }
    let _ = wire::decode::<wire::Ready>(bytes);
    let _ = wire::decode::<wire::Job>(bytes);
}
