#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| policy::fuzz::policy_document(bytes));
