//! Exit codes and the error that ends a start-up. Neither logs nor exits.

use std::fmt;

/// Exit statuses of `aeternad` and `aeternactl` (contract sections 2 and 3; aeternad(8), EXIT STATUS).
pub mod exit {
    /// A clean stop, or the command did what it was asked to.
    pub const OK: u8 = 0;
    /// A failure at run time; a stop that a second signal forced.
    pub const FAILURE: u8 = 1;
    /// A wrong command line.
    pub const USAGE: u8 = 2;
    /// `aeternactl`: the reload was rolled back, or ended by another command.
    pub const ROLLED_BACK: u8 = 3;
    /// `aeternactl is-active`, `is-failed`, `is-ready`, `status UNIT`: it is not so, as systemctl says it.
    pub const NOT_SO: u8 = 3;
    /// `aeternactl is-active`, `is-failed`: there is no such unit, as systemctl says it.
    pub const NOT_KNOWN: u8 = 4;
    /// `aeternactl`: refused, because a reload is under way.
    pub const BUSY: u8 = 4;
    /// `aeternactl`: no daemon answers there.
    pub const NO_DAEMON: u8 = 5;
    /// `aeternactl`: no such unit.
    pub const NO_UNIT: u8 = 6;
    /// `aeternad`: a socket cannot be bound (EX_UNAVAILABLE).
    pub const UNAVAILABLE: u8 = 69;
    /// An invalid unit (EX_CONFIG).
    pub const CONFIG: u8 = 78;
    /// `aeternactl`: `--timeout` passed.
    pub const TIMEOUT: u8 = 124;
    /// The service's command was found and could not be executed.
    pub const CANNOT_EXECUTE: u8 = 126;
    /// The service's command was not found.
    pub const NOT_FOUND: u8 = 127;
}

/// What ends a program before its main loop: a text for a person and an exit status.
///
/// Shape: `text` is one or more whole lines without a final newline, each "cannot VERB OBJECT: reason".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fatal {
    /// The exit status, one of [`exit`].
    pub code: u8,
    /// What to print on standard error.
    pub text: String,
}

impl Fatal {
    /// A failure with the exit status `code` and the message `text`.
    pub fn new(code: u8, text: impl Into<String>) -> Fatal {
        Fatal { code, text: text.into() }
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Fatal {}
