//! `cargo +nightly fuzz run srp fuzz/corpus/srp`: see `doors.rs`.
#![no_main]

#[allow(dead_code)]
#[path = "../doors.rs"]
mod doors;

libfuzzer_sys::fuzz_target!(|data: &[u8]| doors::srp(data));
