//! Readers of commands: a string, an array of strings, or an array of such arrays.

use super::super::Command;
use super::super::read::{Value, raw_text, specified};
use super::super::value::{command_from_text, command_from_words, literal_word, shell_text};

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
        return match command_from_words(words?) {
            Ok(command) => {
                one_word(value, &command);
                literal(value, &command);
                Some(command)
            }
            Err(why) => value.fail(why),
        };
    }
    if !value.get().is_str() {
        return value.is_not(WHAT, HINT);
    }
    let text = raw_text(value)?;
    match command_from_text(text, &value.reader().specifiers) {
        Ok(command) => {
            literal(value, &command);
            if let Some(word) = shell_text(text, &command) {
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

/// Warns about a whole command line where one word belongs.
fn one_word(value: &Value<'_>, command: &Command) {
    if let [program] = command.argv.as_slice()
        && program.contains(char::is_whitespace)
    {
        let warning = format!(
            "\"{program}\" is taken as the name of a program; write each argument as a word of its own, or the command as \
             one string without the brackets"
        );
        value.reader().warn(value.at(), warning);
    }
}

/// Warns about a variable or the like in a place where it is passed on as it is written.
fn literal(value: &Value<'_>, command: &Command) {
    let Some(part) = literal_word(command) else { return };
    let how = match part.strip_prefix('$').filter(|name| !name.starts_with(['(', '{'])) {
        Some(name) => format!("inside a word write ${{{name}}} for the variable, or $${name} for the text"),
        None => "no shell is involved; write [\"/bin/sh\", \"-c\", \"…\"] for one".into(),
    };
    value.reader().warn(value.at(), format!("\"{part}\" is passed to the program as it is: {how}"));
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
