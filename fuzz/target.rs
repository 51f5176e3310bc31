//! One target: the one whose name this binary has.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| knats::fuzz::run(env!("CARGO_BIN_NAME"), input));
