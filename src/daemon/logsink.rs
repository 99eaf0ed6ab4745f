//! Where our own log goes: standard error, which may be a pipe or a terminal that nobody reads. A daemon that waited for its log would
//! supervise nobody, so lines are then left out, and their number is told as soon as somebody reads again.

use crate::daemon::logging::{Style, line};
use crate::sys::{clock, fd};
use crate::time::Span;
use std::collections::VecDeque;
use std::io::{ErrorKind, Result, Write};
use std::os::fd::{AsFd, OwnedFd};

/// How long a reader may be busy with something else before lines are left out.
const PATIENCE: Span = Span::from_millis(100);

/// How often there may be no room right after there was some, for one line.
const TRIES: u32 = 64;

/// What a pipe takes in one piece: PIPE_BUF.
const PIECE: usize = 4096;

/// What is kept of the newest lines while nobody reads, bytes.
const KEPT: usize = 64 * 1024;

/// A log's destination. Whoever writes hands over whole lines.
#[derive(Debug)]
pub struct Sink {
    target: OwnedFd,
    style: Style,
    /// Lines that were left out since the last one that was not.
    lost: u64,
    /// The newest lines that could not be written yet, and their bytes together.
    kept: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Whether the last line is there in part only.
    cut: bool,
}

impl Sink {
    /// Writes to `target`: a pipe in non-blocking mode, or anything else.
    pub fn new(target: OwnedFd, style: Style) -> Sink {
        Sink { target, style, lost: 0, kept: VecDeque::new(), bytes: 0, cut: false }
    }

    /// Whether all of it was written, or nobody will ever read it.
    fn put(&mut self, bytes: &[u8], patience: Span) -> bool {
        let (mut rest, mut tries) = (bytes, TRIES);
        while !rest.is_empty() {
            if tries == 0 || !fd::writable(self.target.as_fd(), patience) {
                self.cut |= rest.len() < bytes.len();
                return false;
            }
            let piece = rest.get(..PIECE).unwrap_or(rest);
            match fd::write_now(self.target.as_fd(), piece) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                // Somebody else writes to it too, and was quicker.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    tries -= 1;
                }
                Err(_) => return true,
            }
        }
        true
    }

    /// Keeps a line for when somebody reads again; the oldest make room for it.
    fn keep(&mut self, line: &[u8]) {
        self.kept.push_back(line.to_vec());
        self.bytes += line.len();
        while self.bytes > KEPT
            && let Some(oldest) = self.kept.pop_front()
        {
            self.bytes -= oldest.len();
            self.lost += 1;
        }
    }

    /// Tells what is missing, and then what was kept; whether there was room for all of that.
    fn caught_up(&mut self, patience: Span) -> bool {
        if std::mem::take(&mut self.cut) && !self.put(b"\n", patience) {
            self.cut = true;
            return false;
        }
        if self.lost > 0 {
            let text = format!("{} lines were left out here: nobody read them", self.lost);
            if !self.put(line(self.style, log::Level::Warn, &text).as_bytes(), patience) {
                return false;
            }
            self.lost = 0;
        }
        while let Some(first) = self.kept.pop_front() {
            if !self.put(&first, patience) {
                self.kept.push_front(first);
                return false;
            }
            self.bytes -= first.len();
        }
        true
    }

    /// The end: a reader that is late gets the rest, if it takes it within this time.
    pub fn finish(&mut self, patience: Span) {
        let end = clock::now() + patience;
        while !self.caught_up(end.since(clock::now())) && end.since(clock::now()) > Span::ZERO {}
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if !self.caught_up(Span::ZERO) || !self.put(bytes, PATIENCE) {
            self.keep(bytes);
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
    use crate::daemon::logging::Format;
    use std::io::Read;

    const TEXT: Style = Style { format: Format::Text, priorities: false };

    #[test]
    fn a_pipe_that_nobody_reads_stops_nobody_and_is_told_what_it_missed() {
        let (mut source, sink) = std::io::pipe().unwrap();
        let target = fd::reopen_pipe(sink.as_fd()).unwrap();
        let mut log = Sink::new(target, TEXT);
        let long = format!("{}\n", "x".repeat(9_999));
        for _ in 0..100 {
            log.write_all(long.as_bytes()).unwrap();
        }
        assert!(log.lost >= 80, "{}", log.lost);
        let (lost, kept) = (log.lost, log.kept.len());
        assert!(kept >= 5, "the newest lines are kept: {kept}");
        let mut bytes = vec![0; 1 << 20];
        let mut text = String::new();
        let count = source.read(&mut bytes).unwrap();
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        let reader = std::thread::spawn(move || {
            source.read_to_string(&mut text).unwrap();
            text
        });
        log.write_all(b"again\n").unwrap();
        log.finish(Span::from_secs(60));
        drop((log, sink));
        let text = reader.join().unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let told = format!("WARN  {lost} lines were left out here: nobody read them");
        let at = lines.len() - 2 - kept;
        assert!(lines[at].ends_with(&told), "{}", lines[at]);
        assert_eq!(lines[lines.len() - 1], "again");
        let rest = lines[..at].iter().chain(&lines[at + 1..lines.len() - 1]);
        assert!(rest.into_iter().all(|line| line.bytes().all(|byte| byte == b'x')));
    }

    #[test]
    fn the_last_lines_wait_for_a_late_reader_and_not_for_none() {
        let (mut source, sink) = std::io::pipe().unwrap();
        let mut log = Sink::new(fd::reopen_pipe(sink.as_fd()).unwrap(), TEXT);
        for number in 0..20_000 {
            log.write_all(format!("line {number}\n").as_bytes()).unwrap();
        }
        log.finish(Span::from_millis(10));
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            source.read_to_string(&mut text).unwrap();
            text
        });
        log.finish(Span::from_secs(60));
        drop((log, sink));
        let text = reader.join().unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let told = lines.iter().find_map(|line| Some(line.split_once(" WARN  ")?.1)).unwrap();
        let lost: usize = told.split(' ').next().unwrap().parse().unwrap();
        let whole = lines.iter().filter(|line| line.starts_with("line ")).count();
        // One may have been cut, and is there whole once more.
        assert!((20_000..=20_001).contains(&(whole + lost)), "{whole} and {lost}");
        assert_eq!(lines.last(), Some(&"line 19999"));
    }

    #[test]
    fn a_terminal_that_nobody_reads_stops_nobody_and_is_told_what_it_missed() {
        let pty = crate::sys::terminal::pair().unwrap();
        let target = fd::reopen_pipe(pty.slave.as_fd()).unwrap();
        assert_eq!(
            fd::blocking(pty.slave.as_fd()).unwrap(),
            fd::Blocking::Yes,
            "its other ways stay as they are"
        );
        let mut log = Sink::new(target, TEXT);
        for _ in 0..200 {
            log.write_all(format!("{}\n", "x".repeat(999)).as_bytes()).unwrap();
        }
        assert!(log.lost > 0);
        let told = format!("{} lines were left out here", log.lost);
        let mut reader = std::fs::File::from(pty.master);
        let mut text = String::new();
        while !text.contains(&told) {
            let mut bytes = [0; 4096];
            let count = reader.read(&mut bytes).unwrap();
            text.push_str(&String::from_utf8_lossy(&bytes[..count]));
            log.finish(Span::ZERO);
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error() {
        let (source, sink) = std::io::pipe().unwrap();
        drop(source);
        let mut log = Sink::new(sink.into(), TEXT);
        log.write_all(b"to nobody\n").unwrap();
    }
}
