#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gate_web::fuzz::request_target(bytes));
