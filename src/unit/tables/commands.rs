//! Readers of commands: a string, an array of strings, or an array of such arrays.

use super::super::Command;
use super::super::read::{Value, raw_text, specified};
use super::super::value::{command_from_text, command_from_words, shell_word};

const WHAT: &str = "a command";
const HINT: &str = "write \"/bin/x --flag\" or [\"/bin/x\", \"--flag\"]";

/// One command.
pub(crate) fn command(value: &Value<'_>) -> Option<Command> {
    if let Some(array) = value.get().as_array() {
        if array.is_empty() {
            return value.fail("an empty command; the first word is the program");
        }
        if value.items().iter().any(|item| item.get().is_array()) {
            return value.fail("one command belongs here; write it as one string or one array of strings");
        }
        let words: Vec<Option<String>> = value.items().iter().map(argument).collect();
        let words: Option<Vec<String>> = words.into_iter().collect();
        return command_from_words(words?).map_or_else(|why| value.fail(why), Some);
    }
    if !value.get().is_str() {
        return value.is_not(WHAT, HINT);
    }
    let text = raw_text(value)?;
    match command_from_text(text, &value.reader().specifiers) {
        Ok(command) => {
            if let Some(word) = shell_word(&command) {
                let warning = format!(
                    "\"{word}\" is passed to the program as it is, no shell is involved; write [\"/bin/sh\", \"-c\", \"…\"] for one"
                );
                value.reader().warn(value.at(), warning);
            }
            Some(command)
        }
        Err(why) => value.fail(why),
    }
}

/// Any number of commands. An array of strings is one; an array with an array in it is several.
pub(crate) fn commands(value: &Value<'_>) -> Option<Vec<Command>> {
    match value.get().as_array() {
        Some(array) if array.is_empty() => Some(Vec::new()),
        Some(array) if array.iter().any(|item| item.get_ref().is_array()) => {
            let commands: Vec<Option<Command>> = value.items().iter().map(command).collect();
            commands.into_iter().collect()
        }
        _ => command(value).map(|command| vec![command]),
    }
}

/// One word of an array: as written, but for specifiers.
fn argument(value: &Value<'_>) -> Option<String> {
    if !value.get().is_str() {
        return value.is_not("a word of a command", "write it in quotes");
    }
    specified(value, raw_text(value)?)
}
