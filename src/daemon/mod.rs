//! The supervisor's shell: turns readiness into events and actions into system calls.

#![forbid(unsafe_code)]

pub mod control;
pub mod http;

/// Runs `aeternad`.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
