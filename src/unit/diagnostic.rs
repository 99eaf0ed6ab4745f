//! What is wrong with a text, and where.

use std::fmt;

/// One finding about a unit's text: an error or a warning.
///
/// `Display` prints `FILE:LINE:COLUMN: message`, or `FILE: message` where there is no position (a command line).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file as [`super::Context::file`] names it.
    pub file: String,
    /// The line, from 1; 0 if there is no position.
    pub line: usize,
    /// The column in characters (not bytes), from 1; 0 if there is no position.
    pub column: usize,
    /// What is wrong and, where it is known, what to write instead: one line.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return write!(f, "{}: {}", self.file, self.message);
        }
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

impl std::error::Error for Diagnostic {}
