//! Standard output and standard error, as a person or a pipe wants them.
//!
//! A reader that has gone away ([`std::io::ErrorKind::BrokenPipe`]) is no error: what it does not want is
//! not written, and the command ends with the status that it would have had.

use super::pager;
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
    /// Whether what is too long for the terminal may go through a pager.
    may_page: bool,
    /// What is not written yet: all of it is looked at together.
    held: Option<String>,
    error: Option<io::Error>,
}

impl Output {
    /// The process's own streams. Colour and a progress line only for a terminal that wants them
    /// (`NO_COLOR`, `TERM=dumb`).
    pub(super) fn of_process() -> Output {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let terminal = io::stdout().is_terminal() && !dumb;
        let rich = terminal && !set("NO_COLOR");
        let look = Look { colour: rich, width: width() };
        let output = Output::new(Box::new(io::stdout()), Box::new(io::stderr()), look, rich);
        Output { may_page: terminal, ..output }
    }

    fn new(out: Box<dyn Write>, err: Box<dyn Write>, look: Look, is_live: bool) -> Output {
        let (height, live_line, may_page) = (None, false, false);
        Output { out, err, look, is_live, height, live_line, may_page, held: None, error: None }
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

    /// From now on everything waits for [`Output::release`], if a person reads.
    pub(super) fn hold(&mut self) {
        self.held = self.may_page.then(String::new);
    }

    /// Writes what has waited; through a pager, if the terminal has no room for it.
    pub(super) fn release(&mut self) {
        let Some(text) = self.held.take() else { return };
        self.measure();
        let wide = self.look.width.unwrap_or(usize::MAX);
        let high: usize = text.lines().map(|line| rows(line, wide)).sum();
        let is_long = self.height.is_some_and(|room| high >= room);
        if !(is_long && pager::show(&text)) {
            self.write(&text);
        }
    }

    /// Writes whole lines.
    pub(super) fn text(&mut self, text: &str) {
        if let Some(held) = &mut self.held {
            return held.push_str(text);
        }
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

    /// Replaces everything on the terminal by `text` from line `top` on, as far as it has room; `keys`: whether somebody can
    /// scroll. `top` is kept to where there is something to see.
    pub(super) fn screen(&mut self, text: &str, top: &mut usize, keys: bool) {
        let lines = picture(text, top, (self.look.width, self.height), keys);
        let lines: String = lines.iter().map(|line| format!("{line}\x1b[K\n")).collect();
        self.write(&format!("\x1b[H{lines}\x1b[J"));
    }

    /// The rows of the terminal, where they are known.
    pub(super) fn height(&self) -> Option<usize> {
        self.height
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

/// The lines that the terminal has room for, and one that says what there was none for.
fn picture(text: &str, top: &mut usize, size: (Option<usize>, Option<usize>), keys: bool) -> Vec<String> {
    let wide = size.0.unwrap_or(usize::MAX);
    // What scrolls out at the top would stay there, once for each picture; the last row is the cursor's.
    let room = size.1.map_or(usize::MAX, |high| high - 1);
    let lines: Vec<&str> = text.lines().collect();
    let all: usize = lines.iter().map(|line| rows(line, wide)).sum();
    let leaves = |line: &str| line.chars().take(wide).collect::<String>();
    if all.saturating_add(usize::from(keys)) <= room {
        *top = 0;
        let below = keys.then(|| leaves("q leaves"));
        return lines.into_iter().map(String::from).chain(below).collect();
    }
    let room = room.saturating_sub(1);
    let mut used = 0;
    let fit = |line: &&&str| {
        used += rows(line, wide);
        used <= room
    };
    let last = lines.len() - lines.iter().rev().take_while(fit).count();
    *top = (*top).min(last);
    let mut used = 0;
    let fit = |line: &&&str| {
        used += rows(line, wide);
        used <= room
    };
    let shown: Vec<&str> = lines[*top..].iter().take_while(fit).copied().collect();
    let (above, below) = (*top, lines.len() - *top - shown.len());
    let rest = match (keys, above, below) {
        (false, ..) => format!("… {below} more"),
        (true, 0, below) => format!("… {below} more below: j and k scroll, q leaves"),
        (true, above, 0) => format!("… {above} more above: j and k scroll, q leaves"),
        (true, above, below) => format!("… {above} above, {below} below: j and k scroll, q leaves"),
    };
    shown.into_iter().map(String::from).chain([leaves(&rest)]).collect()
}

/// How many rows a line takes on a terminal that is so wide.
fn rows(line: &str, wide: usize) -> usize {
    columns(line).div_ceil(wide).max(1)
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
        output.screen("one\ntwo\nthree\nfour\n", &mut 0, false);
        output.screen("one\n\x1b[32mtwo is longer than it looks\x1b[0m\nthree\nfour\nfive\n", &mut 0, false);
        assert_eq!(
            String::from_utf8_lossy(&taken.borrow()),
            "\x1b[Hone\x1b[K\ntwo\x1b[K\nthree\x1b[K\nfour\x1b[K\n\x1b[J\
             \x1b[Hone\x1b[K\n\x1b[32mtwo is longer than it looks\x1b[0m\x1b[K\n… 3 more\x1b[K\n\x1b[J"
        );
    }

    #[test]
    fn a_picture_that_is_too_high_can_be_scrolled_to_its_end_and_no_further() {
        let text = "a\nb\nc\nd\ne\nf\n";
        let seen = |top: &mut usize, high| picture(text, top, (Some(60), Some(high)), true).join("|");
        let mut top = 0;
        assert_eq!(seen(&mut top, 8), "a|b|c|d|e|f|q leaves");
        assert_eq!(seen(&mut top, 6), "a|b|c|d|… 2 more below: j and k scroll, q leaves");
        top = 1;
        assert_eq!(seen(&mut top, 6), "b|c|d|e|… 1 above, 1 below: j and k scroll, q leaves");
        top = usize::MAX;
        assert_eq!(seen(&mut top, 6), "c|d|e|f|… 2 more above: j and k scroll, q leaves");
        assert_eq!(top, 2);
        // A terminal that has become higher, or so small that nothing fits.
        assert_eq!((seen(&mut top, 8), top).1, 0);
        for high in 1..8 {
            for start in 0..9 {
                let mut top = start;
                assert!(picture(text, &mut top, (Some(20), Some(high)), true).len() <= high.max(1));
            }
        }
    }

    #[test]
    fn what_waits_is_written_as_it_is_where_there_is_no_terminal() {
        let (mut output, taken) = output(1000, ErrorKind::BrokenPipe, false);
        output.hold();
        output.text("one\n");
        assert_eq!(*taken.borrow(), b"one\n");
        output.may_page = true;
        output.hold();
        output.text("two\n");
        assert_eq!(*taken.borrow(), b"one\n");
        output.release();
        assert_eq!(*taken.borrow(), b"one\ntwo\n");
    }

    #[test]
    fn a_pipe_gets_no_progress_line() {
        let (mut output, taken) = super::tests::output(1000, ErrorKind::BrokenPipe, false);
        output.live("soaking");
        output.clear_live();
        assert!(taken.borrow().is_empty());
    }
}
