//! What the TOML parser finds, in words for somebody who does not know its grammar.

use super::read::Reader;
use std::collections::BTreeSet;

/// Reports what is not TOML: on each line the first finding, the others follow from it.
pub(super) fn report(reader: &Reader<'_>, errors: &[toml::de::Error]) {
    let mut lines = BTreeSet::new();
    let mut placed: Vec<(usize, String)> = errors
        .iter()
        .map(|error| {
            let span = error.span().unwrap_or(0..0);
            (span.start, message(error.message(), &reader.quote(span.clone()), reader.text(), span.start))
        })
        .collect();
    placed.sort();
    for (at, message) in placed {
        if lines.insert(reader.line_of(at)) {
            reader.error(at, message);
        }
    }
}

/// What to say for `said` of the parser at byte `at` of `text`, where `written` stands.
fn message(said: &str, written: &str, text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text.get(start..).unwrap_or_default().lines().next().unwrap_or_default();
    let rest = text.get(at..).unwrap_or_default();
    if line.trim_start().starts_with(';') || rest.starts_with(';') {
        return "a comment begins with #, not with ;".into();
    }
    if let Some(quote) =
        written.chars().next().filter(|c| "\u{201c}\u{201d}\u{201e}\u{2018}\u{2019}\u{201a}".contains(*c))
    {
        return format!("{quote} is a typographic quote; write \" or \'");
    }
    let alone = before.get(start..).is_some_and(|indent| indent.trim().is_empty());
    let begins_anew = alone && (line.trim_start().starts_with('[') || line.contains('='));
    if let Some(opened) = open_array(before).filter(|_| rest.trim().is_empty() || begins_anew) {
        return format!("the [ in line {opened} is not closed before this; write ] behind the last value");
    }
    if said.starts_with("string values must be quoted") {
        return if written.is_empty() {
            "a value is missing here".into()
        } else {
            format!("{written} is no value: text needs quotes (\"{written}\"), true and false do not")
        };
    }
    if said.starts_with("missing escaped value") || said.starts_with("invalid escape") {
        return "a backslash begins an escape between \" and \"; write \\\\ for a backslash, or put the text between \' \
                and \', where it is itself"
            .into();
    }
    match said {
        "duplicate key" => format!("{written} is there twice"),
        "invalid basic string, expected `\"`" => "a \" is opened and not closed on its line".into(),
        "invalid literal string, expected `\'`" => "a \' is opened and not closed on its line".into(),
        "unexpected leading zero, expected nothing" => {
            "a number does not begin with 0; a mode is text, such as \"0660\"".into()
        }
        "unexpected key or value, expected newline, `#`" => "a key has one value, and a line one key".into(),
        "key with no value, expected `=`" => {
            let key = line.split([':', ' ', '\t']).find(|part| !part.is_empty()).unwrap_or("Key");
            format!("a key and its value have a = between them; write {} = …", key.trim())
        }
        "unclosed table, expected `]`" => "a [ is opened and not closed on its line".into(),
        other => format!("this is not TOML: {other}"),
    }
}

/// The line, from 1, of the first [ of a value that is still open at the end of `text`.
fn open_array(text: &str) -> Option<usize> {
    let mut open: Vec<usize> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let is_header = open.is_empty() && line.trim_start().starts_with('[');
        let mut quote = None;
        let mut escaped = false;
        for c in line.chars().take_while(|_| !is_header) {
            match (quote, c) {
                _ if escaped => escaped = false,
                (Some('"'), '\\') => escaped = true,
                (Some(q), c) if c == q => quote = None,
                (Some(_), _) => {}
                (None, '"' | '\'') => quote = Some(c),
                (None, '#') => break,
                (None, '[') => open.push(index + 1),
                (None, ']') => drop(open.pop()),
                (None, _) => {}
            }
        }
    }
    open.first().copied()
}
