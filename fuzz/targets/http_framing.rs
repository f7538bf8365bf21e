#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| net::fuzz::http_framing(bytes));
