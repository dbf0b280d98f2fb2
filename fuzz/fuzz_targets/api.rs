#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| canary_tests::fuzz::api::TARGET.assert(bytes));
