//! Aeterna replaces a running service without anybody noticing.
//!
//! The library behind `aeternad`, the supervisor that holds a service's sockets, and `aeternactl`, the
//! program that talks to it. Data flows one way, and a module uses only its own layer or a lower one:
//!
//! ```text
//! text → Unit → ListenSet → Child → Generation → Machine → Action → effect
//! ```
//!
//! | layer | module | owns |
//! | --- | --- | --- |
//! | 0 | [`time`], [`error`], [`mod@unit`], [`proto`] | values: parsing and printing, nothing that blocks |
//! | 1 | [`machine`] | every decision, as pure functions of events and a time that is passed in |
//! | 2 | [`sys`] | the kernel: one file per kernel thing, the only `unsafe` |
//! | 3 | [`daemon`], [`ctl`] | the two programs: readiness becomes events, actions become system calls |
//!
//! [`sdk`] is for services: what a program calls that lets itself be replaced.
//!
//! `tests/it/layering.rs` keeps this picture true.

pub mod ctl;
pub mod daemon;
pub mod error;
pub mod machine;
pub mod proto;
pub mod sdk;
pub mod sys;
pub mod time;
pub mod unit;
