//! The kernel: one file per kernel thing, the only place with `unsafe`, `nix` and `libc`.
//! Knows no policy, no unit beyond addresses and options, and never logs.

#![allow(unsafe_code)]

pub mod fifo;
pub mod holder;
pub mod peer;
pub mod sockdiag;
pub mod socket;
pub mod sockopt;
pub mod steer;
pub mod unixpath;
