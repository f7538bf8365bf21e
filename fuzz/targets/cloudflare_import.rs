#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| policy::fuzz::cloudflare_import(bytes));
