//! `cargo +nightly fuzz run unit_parse fuzz/corpus/unit_parse tests/unit/good tests/unit/bad`: see `doors.rs`.
#![no_main]

#[allow(dead_code)]
#[path = "../doors.rs"]
mod doors;

libfuzzer_sys::fuzz_target!(|data: &[u8]| doors::unit(data));
