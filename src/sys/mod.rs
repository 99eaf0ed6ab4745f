//! The kernel: one file per kernel thing, the only place with `unsafe`, `nix` and `libc`.
//! Knows no policy, no unit beyond addresses and options, and never logs.

#![allow(unsafe_code)]

pub mod cgroup;
pub mod clock;
pub mod dir;
pub mod fd;
pub mod limits;
pub mod poll;
pub mod process;
pub mod signal;
pub mod spawn;
#[cfg(test)]
mod testing;
pub mod tree;
pub mod user;
pub mod wait;
pub mod wake;
