//! `StandardOutput = "log"`: a service's output, line by line, bounded, never blocking the service for long.
//!
//! The main loop reads what is there when the pipe is readable; a line longer than [`MAX_LINE`] is cut in
//! pieces, and the pipe's own buffer is all that a noisy service can fill.

use crate::proto::harmless::harmless_line;
use crate::sys::clock;
use crate::time::Span;
use std::io::{ErrorKind, Read};

/// The longest line that is logged in one piece, bytes.
pub const MAX_LINE: usize = 8 * 1024;

/// How much is read in one turn, and for how long, so that one noisy service does not keep the loop from the others: a
/// line costs more than its bytes.
const MAX_TURN: usize = 64 * 1024;
const TURN_TIME: Span = Span::from_millis(5);

/// One stream of one process.
#[derive(Debug)]
pub struct LogPipe {
    source: std::fs::File,
    partial: Vec<u8>,
}

/// What a turn of reading found.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// More may come.
    Open,
    /// More is there: the turn was over.
    More,
    /// Every writer has gone.
    Closed,
}

impl LogPipe {
    /// Reads from the pipe's read end, which must be non-blocking.
    pub fn new(source: std::fs::File) -> LogPipe {
        LogPipe { source, partial: Vec::new() }
    }

    /// What has come of the line that is not whole yet.
    pub fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// A pipe that was read before, by another program.
    pub fn restored(source: std::fs::File, partial: Vec<u8>) -> LogPipe {
        LogPipe { source, partial }
    }

    /// Reads what is there and hands whole lines, without their newline, to `line`.
    pub fn read(&mut self, line: &mut dyn FnMut(&str)) -> Turn {
        let mut buffer = [0_u8; 4096];
        let mut taken = 0;
        let end = clock::now() + TURN_TIME;
        while taken < MAX_TURN && (taken == 0 || clock::now() < end) {
            match self.source.read(&mut buffer) {
                Ok(0) => {
                    self.flush(line);
                    return Turn::Closed;
                }
                Ok(count) => {
                    taken += count;
                    self.take(&buffer[..count], line);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Turn::Open,
                Err(_) => {
                    self.flush(line);
                    return Turn::Closed;
                }
            }
        }
        Turn::More
    }

    fn take(&mut self, mut bytes: &[u8], line: &mut dyn FnMut(&str)) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.partial.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            self.cut(line);
            self.emit(line);
        }
        self.partial.extend_from_slice(bytes);
        self.cut(line);
    }

    /// Emits what is longer than a line may be.
    fn cut(&mut self, line: &mut dyn FnMut(&str)) {
        while self.partial.len() > MAX_LINE {
            let rest = self.partial.split_off(MAX_LINE);
            self.emit(line);
            self.partial = rest;
        }
    }

    fn flush(&mut self, line: &mut dyn FnMut(&str)) {
        if !self.partial.is_empty() {
            self.emit(line);
        }
    }

    fn emit(&mut self, line: &mut dyn FnMut(&str)) {
        // Control characters of a service must not steer the terminal of whoever reads the log.
        let end = self.partial.iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last + 1);
        line(&harmless_line(self.partial.get(..end).unwrap_or_default()));
        self.partial.clear();
    }
}

impl std::os::fd::AsFd for LogPipe {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.source.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn lines_of(bytes: &[u8]) -> Vec<String> {
        let (source, mut sink) = std::io::pipe().unwrap();
        sink.write_all(bytes).unwrap();
        drop(sink);
        let mut pipe = LogPipe::new(std::os::fd::OwnedFd::from(source).into());
        let mut lines = Vec::new();
        while pipe.read(&mut |line| lines.push(line.to_owned())) != Turn::Closed {}
        lines
    }

    #[test]
    fn lines_come_whole_and_the_last_without_a_newline_too() {
        assert_eq!(lines_of(b"one\ntwo\r\n\nthree"), ["one", "two", "", "three"]);
    }

    #[test]
    fn a_long_line_is_cut_and_control_characters_are_replaced() {
        let ended = [vec![b'x'; MAX_LINE + 10], vec![b'\n']].concat();
        assert_eq!(lines_of(&ended).iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE, 10]);
        let long = vec![b'x'; MAX_LINE + 10];
        let lines = lines_of(&long);
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE, 10]);
        assert_eq!(lines_of(b"\x1b[31mred\xff\n"), ["\\u{1b}[31mred\\xff"]);
    }
}
