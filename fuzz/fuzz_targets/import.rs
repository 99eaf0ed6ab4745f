//! `cargo +nightly fuzz run import fuzz/corpus/import tests/import`: see `doors.rs`.
#![no_main]

#[allow(dead_code)]
#[path = "../doors.rs"]
mod doors;

libfuzzer_sys::fuzz_target!(|data: &[u8]| doors::imported(data));
