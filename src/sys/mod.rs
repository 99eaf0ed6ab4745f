//! The kernel: one file per kernel thing, the only place with `unsafe`, `nix` and `libc`.
//! Knows no policy, no unit beyond addresses and options, and never logs.

#![allow(unsafe_code)]

pub mod ability;
pub mod aside;
pub mod borrowed;
pub mod bpf;
pub mod capability;
pub mod cgroup;
pub mod claim;
pub mod clock;
pub mod datagram;
pub mod delegation;
pub mod dir;
pub mod fd;
pub mod fifo;
pub mod flows;
pub mod groups;
pub mod held;
pub mod holder;
pub mod host;
pub mod hung;
pub mod inotify;
pub mod keeper;
pub mod killpoint;
pub mod later;
pub mod limits;
pub mod links;
pub mod memory;
pub mod message;
pub mod near;
pub mod nest;
pub mod oom;
pub mod oom_score;
pub mod peer;
pub mod pidfd;
pub mod pin;
pub mod poll;
pub mod probe;
pub mod process;
pub mod procfs;
pub mod random;
pub mod registration;
pub mod replace;
pub mod seccomp;
pub mod signal;
pub mod sockdiag;
pub mod socket;
pub mod sockopt;
pub mod spawn;
pub mod steer;
pub mod stream;
pub mod tally;
pub mod terminal;
#[cfg(test)]
mod testing;
pub mod textfile;
pub mod tree;
pub mod unixpath;
pub mod usage;
pub mod user;
pub mod wait;
pub mod wake;
