//! Bytes ↔ values: what crosses a socket. Slices in, values out; holds no descriptor and never blocks.

#![forbid(unsafe_code)]

pub mod amount;
pub mod control;
pub mod exposition;
pub mod harmless;
pub mod http;
pub mod metrics;
pub mod nearest;
pub mod notify;
pub mod paths;
pub mod srp;
pub mod status;
pub mod usage;
