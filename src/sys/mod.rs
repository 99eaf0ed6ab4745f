//! The kernel: one file per kernel thing, the only place with `unsafe`, `nix` and `libc`.
//! Knows no policy, no unit beyond addresses and options, and never logs.

#![allow(unsafe_code)]

pub mod clock;
pub mod stream;
