//! `cargo +nightly fuzz run sockaddr fuzz/corpus/sockaddr`: see `doors.rs`.
#![no_main]

#[allow(dead_code)]
#[path = "../doors.rs"]
mod doors;

libfuzzer_sys::fuzz_target!(|data: &[u8]| doors::sockaddr(data));
