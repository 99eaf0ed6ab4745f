//! The last lines of a unit's output, as far as they come through us (`StandardOutput = "log"`): a ring, bounded in lines
//! and in bytes, whatever a service writes.

use crate::proto::status::LogLine;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// How many lines of a unit are kept.
pub const MOST_LINES: usize = 1000;

/// How many bytes of text all of them are at most.
pub const MOST_BYTES: usize = 128 * 1024;

/// How many of them outlast an upgrade of aeternad.
pub const STORED: usize = 100;

/// The ring.
#[derive(Debug, Default)]
pub struct LineLog {
    lines: VecDeque<LogLine>,
    bytes: usize,
    /// How many lines there were before the first that is kept.
    gone: u64,
}

/// A [`LineLog`], the newest of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedLines {
    lines: Vec<LogLine>,
    gone: u64,
}

impl LineLog {
    /// Adds a line; the oldest make room for it.
    pub fn push(&mut self, line: LogLine) {
        self.bytes += line.text.len();
        self.lines.push_back(line);
        while self.lines.len() > MOST_LINES || self.bytes > MOST_BYTES {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= oldest.text.len();
            self.gone += 1;
        }
    }

    /// A mark: what comes after it is new.
    pub fn end(&self) -> u64 {
        self.gone + self.lines.len() as u64
    }

    /// What came after a mark and is still kept.
    pub fn since(&self, mark: u64) -> impl DoubleEndedIterator<Item = &LogLine> {
        let first = usize::try_from(mark.saturating_sub(self.gone)).unwrap_or(usize::MAX);
        self.lines.iter().skip(first)
    }

    /// The last `count` lines, of one generation or of all, oldest first.
    pub fn last(&self, count: usize, generation: Option<u32>) -> Vec<LogLine> {
        let wanted = |line: &&LogLine| generation.is_none() || line.generation == generation;
        let mut found: Vec<LogLine> = self.lines.iter().rev().filter(wanted).take(count).cloned().collect();
        found.reverse();
        found
    }

    /// Stores the newest lines.
    pub fn save(&self) -> SavedLines {
        let left_out = self.lines.len().saturating_sub(STORED);
        SavedLines {
            lines: self.lines.iter().skip(left_out).cloned().collect(),
            gone: self.gone + left_out as u64,
        }
    }

    /// The ring again.
    pub fn restore(saved: SavedLines) -> LineLog {
        let mut ring = LineLog { gone: saved.gone, ..LineLog::default() };
        saved.lines.into_iter().for_each(|line| ring.push(line));
        ring
    }
}

/// The priority of a line that says it itself, `<3>text`, as services write for the journal (sd-daemon(3)); and the rest.
pub fn priority(line: &str) -> (Option<u8>, &str) {
    match line.as_bytes() {
        [b'<', digit @ b'0'..=b'7', b'>', ..] => (Some(digit - b'0'), line.get(3..).unwrap_or_default()),
        _ => (None, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, generation: u32) -> LogLine {
        LogLine {
            time: 1.0,
            generation: Some(generation),
            pid: 7,
            error: false,
            priority: None,
            text: text.into(),
        }
    }

    #[test]
    fn lines_and_bytes_are_bounded_and_the_newest_are_kept() {
        let mut ring = LineLog::default();
        for number in 0..MOST_LINES + 5 {
            ring.push(line(&number.to_string(), (number % 2) as u32));
        }
        let texts = |lines: Vec<LogLine>| lines.into_iter().map(|line| line.text).collect::<Vec<String>>();
        assert_eq!(texts(ring.last(2, None)), ["1003", "1004"]);
        assert_eq!(texts(ring.last(2, Some(1))), ["1001", "1003"]);
        assert_eq!(ring.last(usize::MAX, None).len(), MOST_LINES);
        let mark = ring.end();
        ring.push(line("new", 1));
        assert_eq!(ring.since(mark).map(|line| line.text.as_str()).collect::<Vec<&str>>(), ["new"]);
        // A few long lines push out everything.
        for _ in 0..20 {
            ring.push(line(&"x".repeat(60_000), 1));
        }
        assert_eq!(ring.last(usize::MAX, None).len(), 2);
        assert_eq!(ring.since(mark).count(), 2);
        ring.push(line(&"x".repeat(MOST_BYTES + 1), 1));
        assert_eq!((ring.last(1, None).len(), ring.bytes), (0, 0));
    }

    #[test]
    fn the_newest_outlast_an_upgrade_with_their_numbers() {
        let mut ring = LineLog::default();
        (0..STORED + 7).for_each(|number| ring.push(line(&number.to_string(), 1)));
        let again = LineLog::restore(ring.save());
        assert_eq!((again.end(), again.last(usize::MAX, None).len()), (ring.end(), STORED));
        assert_eq!(again.last(1, None), ring.last(1, None));
    }

    #[test]
    fn a_line_may_say_its_priority() {
        assert_eq!(priority("<3>no disk"), (Some(3), "no disk"));
        assert_eq!(priority("<7>"), (Some(7), ""));
        for plain in ["<8>x", "<33>x", "<a>", "<", "", "x<3>", "<é>x"] {
            assert_eq!(priority(plain), (None, plain));
        }
    }
}
