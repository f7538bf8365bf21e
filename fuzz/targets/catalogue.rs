#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| intel::fuzz::catalogue(bytes));
