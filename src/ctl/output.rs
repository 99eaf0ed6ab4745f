//! Standard output and standard error, as a person or a pipe wants them.
//!
//! A reader that has gone away ([`std::io::ErrorKind::BrokenPipe`]) is no error: what it does not want is
//! not written, and the command ends with the status that it would have had.

use super::render::Look;
use crate::sys::terminal;
use serde::Serialize;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;

/// Where a command writes.
pub(super) struct Output {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    look: Look,
    /// The terminal's height, where it is known.
    rows: Option<usize>,
    is_live: bool,
    /// Whether a progress line stands on the terminal.
    live_line: bool,
    error: Option<io::Error>,
}

impl Output {
    /// The process's own streams. Colour and a progress line only for a terminal that wants them
    /// (`NO_COLOR`, `TERM=dumb`).
    pub(super) fn of_process() -> Output {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let rich = io::stdout().is_terminal() && !set("NO_COLOR") && !dumb;
        let look = Look { colour: rich, width: width() };
        Output::new(Box::new(io::stdout()), Box::new(io::stderr()), look, rich)
    }

    fn new(out: Box<dyn Write>, err: Box<dyn Write>, look: Look, is_live: bool) -> Output {
        Output { out, err, look, rows: None, is_live, live_line: false, error: None }
    }

    pub(super) fn look(&self) -> Look {
        self.look
    }

    /// Looks again how wide the terminal is: its window may have been resized.
    pub(super) fn measure(&mut self) {
        self.look.width = width();
        self.rows = terminal::size(io::stdout().as_fd()).map(|(_, rows)| rows).filter(|rows| *rows > 1);
    }

    /// Whether a progress line is shown.
    pub(super) fn is_live(&self) -> bool {
        self.is_live
    }

    /// Writes whole lines.
    pub(super) fn text(&mut self, text: &str) {
        self.clear_live();
        self.write(text);
    }

    /// Writes one object on one line.
    pub(super) fn json<T: Serialize>(&mut self, value: &T) {
        match serde_json::to_string(value) {
            Ok(line) => self.text(&format!("{line}\n")),
            Err(error) => self.error = Some(io::Error::other(error)),
        }
    }

    /// Replaces the progress line.
    pub(super) fn live(&mut self, line: &str) {
        if self.is_live {
            let width = self.look.width.unwrap_or(80) - 1;
            let short: String = line.chars().take(width).collect();
            self.write(&format!("\r\x1b[K{short}"));
            self.live_line = true;
        }
    }

    /// Replaces everything on the terminal by `text`, as far as it has room: lines end at its edge, and of lines
    /// that would scroll the first away it is said how many there are.
    pub(super) fn screen(&mut self, text: &str) {
        let all: Vec<&str> = text.lines().collect();
        let room = self.rows.unwrap_or(usize::MAX).saturating_sub(1).max(1);
        let more = all.len().saturating_sub(room);
        let shown = if more > 0 { room - 1 } else { all.len() };
        let mut lines: String = all[..shown].iter().map(|line| format!("{line}\x1b[K\n")).collect();
        if more > 0 {
            lines.push_str(&format!("({} more lines)\x1b[K\n", more + 1));
        }
        self.write(&format!("\x1b[?7l\x1b[H{lines}\x1b[J\x1b[?7h"));
    }

    /// Takes the progress line away.
    pub(super) fn clear_live(&mut self) {
        if std::mem::take(&mut self.live_line) {
            self.write("\r\x1b[K");
        }
    }

    /// Writes a message for a person to standard error.
    pub(super) fn complain(&mut self, message: &str) {
        self.clear_live();
        // Nobody is left to be told that this cannot be written.
        let _ = self.err.write_all(format!("{message}\n").as_bytes());
    }

    /// Whether nobody reads any more: a command without an end ends now.
    pub(super) fn is_closed(&self) -> bool {
        self.error.is_some()
    }

    /// Why not everything could be written, unless that is the reader's wish.
    pub(super) fn failure(&self) -> Option<&io::Error> {
        self.error.as_ref().filter(|error| error.kind() != ErrorKind::BrokenPipe)
    }

    fn write(&mut self, text: &str) {
        if self.error.is_none() {
            let written = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
            self.error = written.err();
        }
    }
}

/// The terminal's width in columns; where it does not say, or there is none, `COLUMNS`.
fn width() -> Option<usize> {
    let told = || std::env::var("COLUMNS").ok()?.parse().ok();
    let columns = terminal::size(io::stdout().as_fd()).map(|(columns, _)| columns);
    columns.or_else(told).filter(|columns| *columns >= 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// Takes so many bytes, then fails.
    struct Pipe {
        taken: Rc<RefCell<Vec<u8>>>,
        room: usize,
        then: ErrorKind,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(self.then.into());
            }
            let count = bytes.len().min(self.room);
            self.room -= count;
            self.taken.borrow_mut().extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn output(room: usize, then: ErrorKind, is_live: bool) -> (Output, Rc<RefCell<Vec<u8>>>) {
        let taken = Rc::new(RefCell::new(Vec::new()));
        let pipe = Pipe { taken: taken.clone(), room, then };
        (
            Output::new(
                Box::new(pipe),
                Box::new(io::sink()),
                Look { colour: false, width: Some(20) },
                is_live,
            ),
            taken,
        )
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let (mut output, taken) = output(4, ErrorKind::BrokenPipe, false);
        output.text("one\n");
        assert!(!output.is_closed());
        output.text("two\n");
        output.text("three\n");
        assert!(output.is_closed() && output.failure().is_none());
        assert_eq!(*taken.borrow(), b"one\n");
    }

    #[test]
    fn a_full_disk_is_a_failure() {
        let (mut output, _) = output(0, ErrorKind::StorageFull, false);
        output.json(&[1, 2]);
        assert_eq!(output.failure().unwrap().kind(), ErrorKind::StorageFull);
    }

    #[test]
    fn a_progress_line_gives_way_to_text_and_fits() {
        let (mut output, taken) = output(1000, ErrorKind::BrokenPipe, true);
        output.live("a line that is longer than the terminal");
        output.text("done\n");
        output.text("really\n");
        assert_eq!(*taken.borrow(), b"\r\x1b[Ka line that is long\r\x1b[Kdone\nreally\n");
    }

    #[test]
    fn a_screen_does_not_scroll() {
        let (mut output, taken) = output(1000, ErrorKind::BrokenPipe, true);
        output.rows = Some(4);
        output.screen("1\n2\n3\n");
        output.screen("1\n2\n3\n4\n");
        let line = |text: &str| format!("{text}\x1b[K\n");
        let screen = |lines: [&str; 3]| format!("\x1b[?7l\x1b[H{}\x1b[J\x1b[?7h", lines.map(line).concat());
        let expected = screen(["1", "2", "3"]) + &screen(["1", "2", "(2 more lines)"]);
        assert_eq!(String::from_utf8(taken.borrow().clone()).unwrap(), expected);
    }

    #[test]
    fn a_pipe_gets_no_progress_line() {
        let (mut output, taken) = super::tests::output(1000, ErrorKind::BrokenPipe, false);
        output.live("soaking");
        output.clear_live();
        assert!(taken.borrow().is_empty());
    }
}
