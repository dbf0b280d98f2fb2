#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| canary_tests::fuzz::signals::TARGET.assert(bytes));
