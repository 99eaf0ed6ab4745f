//! Where our own log goes: standard error, which may be a pipe that nobody reads. A daemon that waited for its log would
//! supervise nobody, so lines are then left out, and their number is told as soon as somebody reads again.

use crate::daemon::logging::{Format, line};
use crate::sys::fd;
use crate::time::Span;
use std::fs::File;
use std::io::{ErrorKind, Result, Write};
use std::os::fd::{AsFd, OwnedFd};

/// How long a reader may be busy with something else before lines are left out.
const PATIENCE: Span = Span::from_millis(100);

/// What a pipe takes in one piece: PIPE_BUF.
const PIECE: usize = 4096;

/// A log's destination. Whoever writes hands over whole lines.
#[derive(Debug)]
pub struct Sink {
    target: File,
    format: Format,
    /// Lines that were left out since the last one that was not.
    lost: u64,
    /// Whether the last line is there in part only.
    cut: bool,
}

impl Sink {
    /// Writes to `target`: a pipe in non-blocking mode, or anything else.
    pub fn new(target: OwnedFd, format: Format) -> Sink {
        Sink { target: target.into(), format, lost: 0, cut: false }
    }

    /// Whether all of it was written, or nobody will ever read it.
    fn put(&mut self, bytes: &[u8], patience: Span) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            if !fd::writable(self.target.as_fd(), patience) {
                self.cut |= rest.len() < bytes.len();
                return false;
            }
            let piece = rest.get(..PIECE).unwrap_or(rest);
            match self.target.write(piece) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                // Somebody else writes to it too, and was quicker.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => return true,
            }
        }
        true
    }

    /// Tells what is missing; whether there was room for that.
    fn caught_up(&mut self) -> bool {
        if self.lost > 0 {
            let end = if std::mem::take(&mut self.cut) { "\n" } else { "" };
            let text = format!("{} lines were left out here: nobody read them", self.lost);
            let told = format!("{end}{}", line(self.format, log::Level::Warn, &text));
            if !self.put(told.as_bytes(), Span::ZERO) {
                self.cut |= !end.is_empty();
                return false;
            }
            self.lost = 0;
        }
        true
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if !self.caught_up() || !self.put(bytes, PATIENCE) {
            self.lost += 1;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_pipe_that_nobody_reads_stops_nobody_and_is_told_what_it_missed() {
        let (mut source, sink) = std::io::pipe().unwrap();
        let target = fd::reopen_pipe(sink.as_fd()).unwrap();
        let mut log = Sink::new(target, Format::Text);
        let long = format!("{}\n", "x".repeat(9_999));
        for _ in 0..100 {
            log.write_all(long.as_bytes()).unwrap();
        }
        assert!(log.lost >= 90, "{}", log.lost);
        let lost = log.lost;
        let mut bytes = vec![0; 1 << 20];
        let mut text = String::new();
        let count = source.read(&mut bytes).unwrap();
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        log.write_all(b"again\n").unwrap();
        drop((log, sink));
        source.read_to_string(&mut text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let told = format!("WARN  {lost} lines were left out here: nobody read them");
        assert_eq!(lines[lines.len() - 2..], [&told, "again"]);
        assert!(lines[..lines.len() - 2].iter().all(|line| line.bytes().all(|byte| byte == b'x')));
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error() {
        let (source, sink) = std::io::pipe().unwrap();
        drop(source);
        let mut log = Sink::new(sink.into(), Format::Json);
        log.write_all(b"to nobody\n").unwrap();
    }
}
