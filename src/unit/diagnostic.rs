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

impl Diagnostic {
    /// The finding with the line of `text` that it is about below it, and carets below the place: for people.
    pub fn with_line(&self, text: &str) -> String {
        let mut shown = self.to_string();
        let Some(line) = self.line.checked_sub(1).and_then(|index| text.lines().nth(index)) else {
            return shown;
        };
        let line = line.trim_start_matches('\u{feff}');
        let chars: Vec<char> = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let at = self.column.saturating_sub(1).min(chars.len());
        // Of a long line what is around the place.
        let first = if chars.len() > WIDTH { at.saturating_sub(WIDTH / 2) } else { 0 };
        let window: String = chars.iter().skip(first).take(WIDTH).collect();
        let carets = length(chars.get(at..).unwrap_or_default()).min(WIDTH + first - at).max(1);
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let indent = " ".repeat(at - first);
        let window = window.trim_end();
        shown.push_str(&format!("\n {number} | {window}\n {margin} | {indent}{}", "^".repeat(carets)));
        shown
    }
}

/// How much of a line is shown, in characters.
const WIDTH: usize = 100;

/// How many characters the word, the text in quotes or the list that begins `rest` has.
fn length(rest: &[char]) -> usize {
    let end = |stop: &dyn Fn(char) -> bool| rest.iter().skip(1).position(|c| stop(*c)).map(|index| index + 1);
    match rest.first() {
        Some(quote @ ('"' | '\'')) => end(&|c| c == *quote).map_or(rest.len(), |index| index + 1),
        Some('[') => end(&|c| c == ']').map_or(rest.len(), |index| index + 1),
        Some(_) => end(&|c| c.is_whitespace() || ",]=".contains(c)).unwrap_or(rest.len()),
        None => 0,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, line: usize, column: usize) -> String {
        let message = "m".to_string();
        Diagnostic { file: "f".into(), line, column, message }.with_line(text)
    }

    #[test]
    fn the_place_is_below_the_line() {
        for (text, line, column, expected) in [
            ("[A]\nKey = \"a b\" # x", 2, 7, "f:2:7: m\n 2 | Key = \"a b\" # x\n   |       ^^^^^"),
            ("[A]\nKey = 5", 2, 1, "f:2:1: m\n 2 | Key = 5\n   | ^^^"),
            ("[Äb] x", 1, 1, "f:1:1: m\n 1 | [Äb] x\n   | ^^^^"),
            ("a = [1, 22]", 1, 9, "f:1:9: m\n 1 | a = [1, 22]\n   |         ^^"),
            ("\ta = \u{1b}[31m", 1, 2, "f:1:2: m\n 1 |  a =  [31m\n   |  ^"),
            ("a = ", 1, 5, "f:1:5: m\n 1 | a =\n   |     ^"),
            ("a", 9, 1, "f:9:1: m"),
        ] {
            assert_eq!(shown(text, line, column), expected, "{text}");
        }
        assert_eq!(
            Diagnostic { file: "f".into(), line: 0, column: 0, message: "m".into() }.with_line("a"),
            "f: m"
        );
        let long = format!("{}KEY = 1{}", "x ".repeat(500), " y".repeat(500));
        let shown = shown(&long, 1, 1001);
        assert!(shown.lines().all(|line| line.chars().count() < 120), "{shown}");
        let lines: Vec<&str> = shown.lines().collect();
        let caret = lines[2].find('^').unwrap();
        assert!(lines[1][caret..].starts_with("KEY"), "{shown}");
    }

    #[test]
    fn any_place_can_be_shown() {
        for text in ["", "\n", "ä", "\u{feff}a\r\n", &"x".repeat(1000)] {
            for line in 0..4 {
                for column in [0, 1, 2, 99, 100, 101, 1000, 5000] {
                    assert!(shown(text, line, column).starts_with("f:"));
                }
            }
        }
    }
}
