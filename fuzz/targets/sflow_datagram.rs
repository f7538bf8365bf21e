#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shield::fuzz::sflow_datagram(bytes));
