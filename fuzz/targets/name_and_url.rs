#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| intel::fuzz::name_and_url(bytes));
