//! systemd.syntax(7): from a text to assignments.

/// `Key=value` in a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assignment {
    /// `Service`, without brackets.
    pub(super) section: String,
    pub(super) key: String,
    /// Without white space around it; continued lines joined by a space.
    pub(super) value: String,
    /// Where it begins, from 1.
    pub(super) line: usize,
}

/// What a text consists of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) assignments: Vec<Assignment>,
    /// Lines that are nothing: line and what is there.
    pub(super) strays: Vec<(usize, String)>,
}

/// Reads a text. A line that ends in a backslash goes on in the next, unless the backslash is the second of a pair;
/// comments between the two are none of it.
pub(super) fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let mut section = String::new();
    let mut pending: Option<(usize, String)> = None;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        if trimmed.starts_with(['#', ';']) {
            continue;
        }
        let (start, so_far) = pending.take().unwrap_or((index + 1, String::new()));
        let whole = so_far + line;
        let odd = whole.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1;
        match whole.strip_suffix('\\').filter(|_| odd) {
            Some(open) => pending = Some((start, format!("{open} "))),
            None => one(&whole, start, &mut section, &mut parsed),
        }
    }
    // A backslash at the end of the file continues into nothing.
    if let Some((start, whole)) = pending {
        one(&whole, start, &mut section, &mut parsed);
    }
    parsed
}

/// A section's header, an assignment, or neither.
fn one(whole: &str, line: usize, section: &mut String, parsed: &mut Parsed) {
    let whole = whole.trim();
    if whole.is_empty() {
        return;
    }
    if let Some(name) = whole.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        *section = name.to_string();
        return;
    }
    match whole.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() && !section.is_empty() => {
            parsed.assignments.push(Assignment {
                section: section.clone(),
                key: key.trim().to_string(),
                value: value.trim().to_string(),
                line,
            });
        }
        _ => parsed.strays.push((line, whole.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_of_backslashes_continues_nothing() {
        let parsed = parse("[A]\nK=a\\\\\nL=b\\\\\\\nc");
        let seen: Vec<(&str, &str)> =
            parsed.assignments.iter().map(|a| (a.key.as_str(), a.value.as_str())).collect();
        assert_eq!(seen, [("K", r"a\\"), ("L", r"b\\ c")]);
    }

    #[test]
    fn lines_continue_over_comments() {
        let parsed = parse("\u{feff}[A]\nK=a \\\n# no\n  b\\\n;no\nc\n\nL = x=y \nM=\n[B\nN=1\\");
        let seen: Vec<(&str, &str, &str, usize)> = parsed
            .assignments
            .iter()
            .map(|a| (a.section.as_str(), a.key.as_str(), a.value.as_str(), a.line))
            .collect();
        assert_eq!(
            seen,
            [("A", "K", "a    b c", 2), ("A", "L", "x=y", 8), ("A", "M", "", 9), ("A", "N", "1", 11)]
        );
        assert_eq!(parsed.strays, [(10, "[B".to_string())]);
        assert_eq!(parse("K=1").strays, [(1, "K=1".to_string())], "an assignment outside of any section");
    }
}
