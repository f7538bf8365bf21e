#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gate_dns::fuzz::doh_query(bytes));
