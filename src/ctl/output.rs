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
    is_live: bool,
    /// The terminal's height, where it is known.
    height: Option<usize>,
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
        Output { out, err, look, is_live, height: None, live_line: false, error: None }
    }

    pub(super) fn look(&self) -> Look {
        self.look
    }

    /// Looks again how large the terminal is: its window may have been resized.
    pub(super) fn measure(&mut self) {
        self.look.width = width();
        self.height = terminal::size(io::stdout().as_fd()).map(|(_, rows)| rows).filter(|rows| *rows > 1);
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

    /// Replaces everything on the terminal by `text`, as far as it has room.
    pub(super) fn screen(&mut self, text: &str) {
        // What scrolls out at the top would stay there, once for each picture; the last row is the cursor's.
        let room = self.height.map_or(usize::MAX, |rows| rows - 1);
        let rows = |line: &str| columns(line).div_ceil(self.look.width.unwrap_or(usize::MAX)).max(1);
        let all = text.lines().map(rows).sum::<usize>();
        let room = if all > room { room - 1 } else { room };
        let (mut lines, mut used, mut left) = (String::new(), 0, 0);
        for line in text.lines() {
            used += rows(line);
            if used <= room { lines.push_str(&format!("{line}\x1b[K\n")) } else { left += 1 }
        }
        if left > 0 {
            lines.push_str(&format!("… {left} more\x1b[K\n"));
        }
        self.write(&format!("\x1b[H{lines}\x1b[J"));
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
    let here = terminal::size(io::stdout().as_fd()).map(|(columns, _)| columns);
    here.or_else(told).filter(|columns| *columns >= 20)
}

/// How many columns a line takes: its colours take none.
fn columns(line: &str) -> usize {
    let mut colour = false;
    let shown = line.chars().filter(|c| {
        let hidden = colour || *c == '\x1b';
        colour = hidden && *c != 'm';
        !hidden
    });
    shown.count()
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
    fn a_picture_is_no_higher_than_the_terminal() {
        let (mut output, taken) = output(10_000, ErrorKind::BrokenPipe, true);
        output.height = Some(5);
        output.screen("one\ntwo\nthree\nfour\n");
        output.screen("one\n\x1b[32mtwo is longer than it looks\x1b[0m\nthree\nfour\nfive\n");
        assert_eq!(
            String::from_utf8_lossy(&taken.borrow()),
            "\x1b[Hone\x1b[K\ntwo\x1b[K\nthree\x1b[K\nfour\x1b[K\n\x1b[J\
             \x1b[Hone\x1b[K\n\x1b[32mtwo is longer than it looks\x1b[0m\x1b[K\n… 3 more\x1b[K\n\x1b[J"
        );
    }

    #[test]
    fn a_pipe_gets_no_progress_line() {
        let (mut output, taken) = super::tests::output(1000, ErrorKind::BrokenPipe, false);
        output.live("soaking");
        output.clear_live();
        assert!(taken.borrow().is_empty());
    }
}
