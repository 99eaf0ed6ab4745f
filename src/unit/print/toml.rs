//! Values in TOML's syntax.

use super::super::Command;
use super::super::value::{escape, words_of_command};

/// `text` as a basic string of TOML.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// An array of values that are TOML already.
pub(super) fn array(values: impl IntoIterator<Item = String>) -> String {
    let values: Vec<String> = values.into_iter().collect();
    format!("[{}]", values.join(", "))
}

/// One command as an array.
pub(super) fn command(command: &Command) -> String {
    array(words_of_command(command).iter().map(|word| quote(&escape(word))))
}

/// Any number of commands: one alone, several in an array.
pub(super) fn commands(commands: &[Command]) -> String {
    match commands {
        [one] => command(one),
        several => array(several.iter().map(command)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_reads_back() {
        for text in ["", "plain", "a \"b\" \\c\n\t\u{7f}\u{1}\u{9f}ä😀", "'"] {
            let document = format!("x = {}", quote(text));
            let table = ::toml::de::DeTable::parse(&document).unwrap();
            assert_eq!(table.get_ref().get("x").unwrap().get_ref().as_str(), Some(text), "{document}");
        }
    }
}
