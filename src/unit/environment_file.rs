//! The text of an `EnvironmentFile`, by the rules of systemd.exec(5).

use super::expand::is_name;

/// What an `EnvironmentFile` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnvironmentText {
    /// The assignments, in the order of the text. Variables in values are not replaced.
    pub variables: Vec<(String, String)>,
    /// The lines, from 1, that are neither an assignment nor a comment: systemd passes over them too.
    pub strays: Vec<usize>,
}

/// Reads `NAME=value` lines; `#` and `;` begin a comment.
///
/// A plain value keeps the white space inside of it; a backslash takes the next character as it is, and joins lines. A
/// value in `'…'` or `"…"` may go over several lines: between single quotes everything is itself, between double ones
/// a backslash counts before `"`, `\`, `` ` ``, `$` and the end of a line, and is itself elsewhere. A quote that is
/// never closed reaches to the end.
pub fn parse_environment_file(text: &str) -> EnvironmentText {
    let mut found = EnvironmentText::default();
    let mut rest = Rest { chars: text.strip_prefix('\u{feff}').unwrap_or(text).chars().peekable(), line: 1 };
    while rest.skip(is_blank) {
        let line = rest.line;
        if rest.chars.next_if(|c| "#;".contains(*c)).is_some() {
            rest.until_newline();
            continue;
        }
        let key = rest.key();
        let value = if key.ends_with('=') { rest.value() } else { String::new() };
        match key.strip_suffix('=').map(|key| key.trim_matches(is_blank)) {
            Some(name) if is_name(name) && !value.contains('\0') => {
                found.variables.push((name.to_string(), value));
            }
            _ => found.strays.push(line),
        }
    }
    found
}

/// What counts as white space: systemd's, not Unicode's. A no-break space is a character like another.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// What is still to be read.
struct Rest<'a> {
    chars: std::iter::Peekable<std::str::Chars<'a>>,
    /// The line, from 1, of the next character.
    line: usize,
}

impl Rest<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.chars.next()?;
        self.line += usize::from(c == '\n');
        Some(c)
    }

    /// Passes over characters; false at the end of the text.
    fn skip(&mut self, which: impl Fn(char) -> bool) -> bool {
        while self.chars.peek().is_some_and(|c| which(*c)) {
            self.next();
        }
        self.chars.peek().is_some()
    }

    fn until_newline(&mut self) {
        self.skip(|c| c != '\n');
    }

    /// Up to and with the `=`; without one the line is over.
    fn key(&mut self) -> String {
        let mut key = String::new();
        while let Some(c) = self.next() {
            if c == '\n' {
                break;
            }
            key.push(c);
            if c == '=' {
                break;
            }
        }
        key
    }

    /// What stands behind the `=`, and the end of its line.
    fn value(&mut self) -> String {
        let mut value = String::new();
        loop {
            self.skip(|c| c != '\n' && is_blank(c));
            match self.chars.peek() {
                Some('\'') => self.single(&mut value),
                Some('"') => self.double(&mut value),
                _ => break,
            }
        }
        self.plain(&mut value);
        value
    }

    /// `'…'`, which begins here.
    fn single(&mut self, value: &mut String) {
        self.next();
        while let Some(c) = self.next().filter(|c| *c != '\'') {
            value.push(c);
        }
    }

    /// `"…"`, which begins here.
    fn double(&mut self, value: &mut String) {
        self.next();
        while let Some(c) = self.next().filter(|c| *c != '"') {
            match (c, if c == '\\' { self.next() } else { None }) {
                ('\\', Some('\n') | None) => {}
                ('\\', Some(escaped)) => {
                    if !"\"\\`$".contains(escaped) {
                        value.push('\\');
                    }
                    value.push(escaped);
                }
                _ => value.push(c),
            }
        }
    }

    /// Without quotes, to the end of the line; white space before it is none of the value.
    fn plain(&mut self, value: &mut String) {
        let mut kept = value.len();
        while let Some(c) = self.next().filter(|c| *c != '\n') {
            match (c, if c == '\\' { self.next() } else { None }) {
                ('\\', Some('\n') | None) => {}
                ('\\', Some(escaped)) => {
                    value.push(escaped);
                    kept = value.len();
                }
                _ => {
                    value.push(c);
                    if !is_blank(c) {
                        kept = value.len();
                    }
                }
            }
        }
        value.truncate(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> String {
        let found = parse_environment_file(&format!("A={text}"));
        assert_eq!(found.variables.len(), 1, "{text}: {found:?}");
        assert_eq!(found.strays, [] as [usize; 0], "{text}");
        found.variables[0].1.clone()
    }

    #[test]
    fn values_are_read_as_systemd_reads_them() {
        for (text, value) in [
            ("", ""),
            ("plain", "plain"),
            ("  a  b \t\r", "a  b"),
            ("\u{a0}a\u{3000}", "\u{a0}a\u{3000}"),
            ("\u{3000}'a'\u{a0}", "\u{3000}'a'\u{a0}"),
            ("it's \"so\"", "it's \"so\""),
            (r"a\ \\\n\$x", r"a \n$x"),
            ("a \\\n b", "a  b"),
            ("a\\ ", "a "),
            ("a\\", "a"),
            ("'a  b' ", "a  b"),
            ("'a\\n\nb'", "a\\n\nb"),
            (r#""a\n\"\\\$\`b""#, r#"a\n"\$`b"#),
            ("\"a\\\nb\nc\"", "ab\nc"),
            ("'a' \"b\"c d", "abc d"),
            ("\"never closed\nB=1", "never closed\nB=1"),
            ("x=y # no comment", "x=y # no comment"),
        ] {
            assert_eq!(one(text), value, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_assignment_is_passed_over() {
        let text = "\u{feff}# one\n ; two \\\nA=1\n\nno\n export B=2\n1C=3\n D = 4\n=5\nE='6\n'\nF=\0\nG=7";
        let found = parse_environment_file(text);
        let expected = [("A", "1"), ("D", "4"), ("E", "6\n"), ("G", "7")];
        assert_eq!(found.variables, expected.map(|(name, value)| (name.to_string(), value.to_string())));
        assert_eq!(found.strays, [5, 6, 7, 9, 12]);
        assert_eq!(parse_environment_file(""), EnvironmentText::default());
    }
}
