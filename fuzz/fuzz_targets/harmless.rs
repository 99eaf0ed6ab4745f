//! `cargo +nightly fuzz run harmless fuzz/corpus/harmless`: see `doors.rs`.
#![no_main]

#[allow(dead_code)]
#[path = "../doors.rs"]
mod doors;

libfuzzer_sys::fuzz_target!(|data: &[u8]| doors::shown(data));
