//! Help texts, made from the table of commands.

use super::args::{CommandSpec, OptionSpec, commands, global_options};
use serde_json::{Value, json};

/// What `aeternactl help` prints.
pub(super) fn overview() -> String {
    let mut text = String::from(
        "aeternactl controls aeternad, which replaces running services without losing a connection.\n\n\
         Usage: aeternactl [options] COMMAND\n\nCommands:\n",
    );
    let rows: Vec<(String, &str)> = commands()
        .iter()
        .map(|command| (format!("{} {}", command.name, command.operands.usage()), command.summary))
        .collect();
    push_rows(&mut text, &rows);
    text.push_str("\nOptions:\n");
    push_options(&mut text, global_options());
    text.push_str(
        "\nThe daemon is found by --control, else --runtime-dir, else AETERNA_RUNTIME_DIR, else in /run/aeterna for\n\
         root and in $XDG_RUNTIME_DIR/aeterna or /tmp/aeterna-UID for others.\n\n\
         Exit status: 0 done, 1 failed, 2 wrong command line, 3 rolled back, or the unit is not running (status\n\
         UNIT, is-active), or the answer is no (is-failed, is-ready), 4 a reload is under way, 5 no daemon,\n\
         6 no such unit, 78 an invalid unit (check), 124 --timeout expired.\n\n\
         See \"aeternactl help COMMAND\" for more about a command.\n",
    );
    text
}

/// What `aeternactl help COMMAND` prints.
pub(super) fn about(command: &CommandSpec) -> String {
    let mut text = format!("Usage: {}\n\n", command.usage());
    text.push_str(&format!("{}: {}.\n{}\n", command.name, command.summary, command.details));
    if !command.options.is_empty() {
        text.push_str("\nOptions:\n");
        push_options(&mut text, command.options);
    }
    text.push_str("\nOptions of every command:\n");
    push_options(&mut text, global_options());
    text
}

/// The same for programs: one command, or all.
pub(super) fn to_json(about: Option<&CommandSpec>) -> Value {
    match about {
        Some(command) => command_to_json(command),
        None => json!({
            "commands": commands().iter().map(command_to_json).collect::<Vec<_>>(),
            "options": options_to_json(global_options()),
        }),
    }
}

fn command_to_json(command: &CommandSpec) -> Value {
    json!({
        "name": command.name,
        "usage": command.usage(),
        "summary": command.summary,
        "details": command.details,
        "options": options_to_json(command.options),
    })
}

fn options_to_json(options: &[OptionSpec]) -> Value {
    let one = |option: &OptionSpec| json!({"short": option.short, "long": option.long, "value": option.value, "help": option.help});
    options.iter().map(one).collect()
}

fn push_options(text: &mut String, options: &[OptionSpec]) {
    let rows: Vec<(String, &str)> = options.iter().map(|option| (spelling(option), option.help)).collect();
    push_rows(text, &rows);
}

/// `-s, --signal SIGNAL`.
fn spelling(option: &OptionSpec) -> String {
    let short = option.short.map(|short| format!("-{short}, ")).unwrap_or_default();
    let value = option.value.map(|value| format!(" {value}")).unwrap_or_default();
    format!("{short}--{}{value}", option.long)
}

/// Two columns, indented.
fn push_rows(text: &mut String, rows: &[(String, &str)]) {
    let width = rows.iter().map(|(left, _)| left.trim_end().len()).max().unwrap_or(0);
    for (left, right) in rows {
        text.push_str(&format!("  {:width$}  {right}\n", left.trim_end()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overview_names_every_command_and_fits_a_terminal() {
        let text = overview();
        for command in commands() {
            assert!(text.contains(&format!("\n  {}", command.name)), "{}", command.name);
        }
        assert!(text.lines().all(|line| line.chars().count() <= 110), "{text}");
    }

    #[test]
    fn a_commands_help_names_its_options() {
        for command in commands() {
            let text = about(command);
            assert_eq!(to_json(Some(command))["name"], command.name);
            for option in command.options.iter().chain(global_options()) {
                assert!(text.contains(&format!("--{}", option.long)), "{text}");
            }
        }
        assert!(about(super::super::args::find("kill").unwrap()).contains("-s, --signal SIGNAL  the signal"));
    }
}
