#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| scan::fuzz::scan_signatures(bytes));
