#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gate_l4::fuzz::starttls(bytes));
