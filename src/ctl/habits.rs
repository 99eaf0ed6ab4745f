//! Commands that are not there: what was probably meant.

use super::args::commands;
use crate::proto::nearest::nearest;

/// What other programs call it, and what does it here.
const HABITS: &[(&str, &str)] = &[
    ("top", "status --watch"),
    ("watch", "status --watch"),
    ("monitor", "status --watch"),
    ("ps", "list"),
    ("ls", "list"),
    ("log", "logs"),
    ("tail", "logs -f"),
    ("journal", "logs"),
    ("daemon-reload", "load"),
    ("reload-or-restart", "reload"),
    ("deploy", "reload"),
    ("undo", "rollback"),
    ("revert", "rollback"),
    ("abort", "rollback"),
    ("verify", "check"),
    ("validate", "check"),
    ("list-sockets", "status"),
];

/// What is wrong, and what was probably meant.
pub(super) fn unknown_command(name: &str) -> String {
    let habit = HABITS.iter().find(|(word, _)| *word == name).map(|(_, here)| *here);
    // A slip seldom hits the first letter, and "stop" for "top" would do harm.
    let begins = |command: &&str| {
        let mut first = name.chars().take(2).map(|c| c.to_ascii_lowercase());
        let known = command.chars().next();
        first.next() == known || (first.next() == known && command.chars().nth(1) == name.chars().next())
    };
    let near = || nearest(name, commands().iter().map(|command| command.name).filter(begins));
    let hint = habit.or_else(near).map(|near| format!(": did you mean \"{near}\"?")).unwrap_or_default();
    format!("unknown command {name:?}{hint}")
}
