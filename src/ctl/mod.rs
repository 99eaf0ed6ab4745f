//! `aeternactl`: arguments, one request, rendering.

#![forbid(unsafe_code)]

/// Runs `aeternactl`.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
