//! The generic half of reading a unit file: cursors over the parsed TOML that know where everything stands,
//! collect every finding, and notice what nobody asked for. Knows no key by name.

mod nearest;
mod scalar;
mod table;

pub(super) use nearest::{nearest, nearest_within};
pub(super) use scalar::{
    bytes, choice, flag, integer, limited, list, mode, positive_time, raw_text, signal, size, specified,
    text, time, timeout,
};
pub(super) use table::{Table, Value};

use super::diagnostic::Diagnostic;
use super::value::Specifiers;
use std::cell::RefCell;
use std::collections::BTreeSet;

/// Where findings go, and what the meaning of a text depends on.
pub(super) struct Reader<'a> {
    /// The unit file's text: a finding quotes it.
    text: &'a str,
    /// The byte offset at which each line starts.
    lines: Vec<usize>,
    /// What `%n` and the like stand for.
    pub(super) specifiers: Specifiers,
    /// (byte offset, message).
    errors: RefCell<Vec<(usize, String)>>,
    warnings: RefCell<Vec<(usize, String)>>,
}

impl<'a> Reader<'a> {
    /// A reader of `text` that has found nothing yet.
    pub(super) fn new(text: &'a str, specifiers: Specifiers) -> Reader<'a> {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Reader { text, lines, specifiers, errors: RefCell::default(), warnings: RefCell::default() }
    }

    /// The whole text.
    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// Records an error at a byte offset of the text.
    pub(super) fn error(&self, at: usize, message: impl Into<String>) {
        self.errors.borrow_mut().push((at, one_line(message.into())));
    }

    /// Records a warning at a byte offset of the text.
    pub(super) fn warn(&self, at: usize, message: impl Into<String>) {
        self.warnings.borrow_mut().push((at, one_line(message.into())));
    }

    /// How many errors there are so far.
    pub(super) fn error_count(&self) -> usize {
        self.errors.borrow().len()
    }

    /// Forgets errors on the lines where `places` (byte offsets) are: after a syntax error what is left of its
    /// line means nothing.
    pub(super) fn forget_errors_on_lines(&self, places: impl Iterator<Item = usize>) {
        let lines: BTreeSet<usize> = places.map(|at| self.line_of(at)).collect();
        self.errors.borrow_mut().retain(|(at, _)| !lines.contains(&self.line_of(*at)));
    }

    /// The line, from 0, that byte offset `at` is in.
    pub(super) fn line_of(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at).saturating_sub(1)
    }

    /// The first line of what stands at `span`, shortened for a message.
    pub(super) fn quote(&self, span: std::ops::Range<usize>) -> String {
        const LONGEST: usize = 60;
        let end = floor_boundary(self.text, span.end);
        let whole = &self.text[floor_boundary(self.text, span.start).min(end)..end];
        let line = whole.lines().next().unwrap_or_default();
        let short: String = line.chars().take(LONGEST).collect();
        if short.len() < whole.len() { format!("{short}…") } else { short }
    }

    /// Errors and warnings with their positions, in the order of the text, each once.
    pub(super) fn finish(&self, file: &str) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        let place = |findings: &RefCell<Vec<(usize, String)>>| {
            let mut findings = findings.take();
            findings.sort();
            findings.dedup();
            findings.into_iter().map(|(at, message)| self.diagnostic(file, at, message)).collect()
        };
        (place(&self.errors), place(&self.warnings))
    }

    /// The finding `message` at byte offset `at`.
    fn diagnostic(&self, file: &str, at: usize, message: String) -> Diagnostic {
        let at = floor_boundary(self.text, at);
        let line = self.line_of(at);
        let start = self.lines.get(line).copied().unwrap_or(0);
        let column = self.text[start..at].trim_start_matches('\u{feff}').chars().count() + 1;
        Diagnostic { file: file.to_string(), line: line + 1, column, message }
    }
}

/// `message` with its control characters escaped: it may quote anything, and stays one line.
pub(super) fn one_line(message: String) -> String {
    if !message.contains(char::is_control) {
        return message;
    }
    let escaped = |c: char| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() };
    message.chars().map(escaped).collect()
}

/// The nearest offset at or before `at` where a character of `text` starts.
fn floor_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|index| text.is_char_boundary(*index)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_from_one() {
        let text = "\u{feff}ä = 1\nöö = \"x\"\n";
        let reader = Reader::new(text, Specifiers::default());
        for (needle, line, column) in [("ä", 1, 1), ("1", 1, 5), ("öö", 2, 1), ("\"x", 2, 6)] {
            let at = text.find(needle).unwrap();
            let found = reader.diagnostic("f", at, String::new());
            assert_eq!((found.line, found.column), (line, column), "{needle}");
        }
        assert_eq!(reader.diagnostic("f", usize::MAX, String::new()).line, 3);
    }

    #[test]
    fn findings_come_in_order_and_once() {
        let reader = Reader::new("a\nb\n", Specifiers::default());
        reader.error(2, "second");
        reader.error(0, "first");
        reader.error(2, "second");
        let (errors, _) = reader.finish("f");
        let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["f:1:1: first", "f:2:1: second"]);
    }
}
