//! `cargo +nightly fuzz run sock_diag fuzz/corpus/sock_diag`: see `doors.rs`.
#![no_main]

#[allow(dead_code)]
#[path = "../doors.rs"]
mod doors;

libfuzzer_sys::fuzz_target!(|data: &[u8]| doors::sock_diag(data));
