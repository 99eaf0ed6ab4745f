//! Command lines: words and prefixes become a [`Command`], and back.

use super::super::Command;
use super::super::expand::is_name;
use super::quoting::{Word, split_words};
use super::specifier::Specifiers;

/// The command that a string stands for: words by systemd's quoting rules, then specifiers, then prefixes.
pub(crate) fn command_from_text(text: &str, specifiers: &Specifiers) -> Result<Command, String> {
    let words = split_words(text)?;
    if words.iter().any(|word| word.written == ";") {
        return Err(
            "a \";\" of its own would start a second command; write several commands as an array of \
                    arrays, or \\; for a semicolon"
                .into(),
        );
    }
    let words: Result<Vec<String>, String> = words.iter().map(|word| specifiers.expand(&word.text)).collect();
    command_from_words(words?)
}

/// What of a command that is written as one text only a shell would understand, though none is started.
pub(crate) fn shell_text(text: &str, command: &Command) -> Option<String> {
    if is_interpreter(command) {
        return None;
    }
    // What stands in quotes is meant as it is.
    let plain = |word: &&Word<'_>| !word.written.contains(['"', '\'', '\\']);
    let words = split_words(text).ok()?;
    let of_shell = |word: &str| {
        let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
        SHELL.contains(&word)
            || (rest.starts_with(['<', '>']) && !rest.ends_with('>'))
            || word.ends_with(';')
            || (word.contains('*') && !word.starts_with('-'))
    };
    words.iter().skip(1).filter(plain).find(|word| of_shell(&word.text)).map(|word| word.text.clone())
}

/// What of a word that is passed on looks as if something would take its place, and nothing does.
pub(crate) fn literal_word(command: &Command) -> Option<String> {
    if is_interpreter(command) {
        return None;
    }
    command.argv.iter().skip(1).find_map(|word| literal_part(word, command.expand))
}

/// Whether a program runs what it is given: an interpreter, a shell, a virtual machine.
pub(crate) fn runs_a_language(program: &str) -> bool {
    const MORE: &[&str] = &["java", "dotnet", "deno", "bun"];
    let base = program.rsplit('/').next().unwrap_or_default();
    // python3.11, php8.2
    let plain = base.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    [base, plain].iter().any(|name| LANGUAGES.contains(name) || SHELLS.contains(name) || MORE.contains(name))
}

/// Programs that are given a text in a language of its own, in which `$` and its like have a meaning.
fn is_interpreter(command: &Command) -> bool {
    let base = |word: &String| word.rsplit('/').next().unwrap_or_default().to_string();
    let mut bases = command.argv.iter().map(base);
    bases.any(|base| LANGUAGES.contains(&base.as_str()) || SHELLS.contains(&base.as_str()))
}

const LANGUAGES: &[&str] = &[
    "perl", "python", "python3", "ruby", "node", "php", "awk", "gawk", "mawk", "sed", "busybox", "tclsh",
    "lua",
];

const SHELLS: &[&str] = &["sh", "bash", "dash", "ash", "zsh", "ksh", "fish"];

fn literal_part(word: &str, expands: bool) -> Option<String> {
    if word.contains('`') && word.matches('`').count() > 1 {
        return Some("`…`".into());
    }
    if !expands {
        return None;
    }
    let whole = word.strip_prefix('$').is_some_and(is_name);
    let mut rest = word;
    while let Some(at) = rest.find('$').filter(|_| !whole) {
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            rest = after;
            continue;
        }
        if after.starts_with('(') {
            return Some("$(…)".into());
        }
        if let Some((inside, _)) = after.strip_prefix('{').and_then(|after| after.split_once('}'))
            && !is_name(inside)
        {
            return Some(format!("${{{inside}}}"));
        }
        let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        if is_name(&after[..end]) {
            return Some(format!("${}", &after[..end]));
        }
        rest = after;
    }
    None
}

/// Words by which a shell joins commands and files.
const SHELL: &[&str] = &["|", "||", "&", "&&", ">", ">>", "<", "2>&1", "2>", "&>"];

/// The command that words stand for; the first starts with the prefixes `-`, `@` and `:`, if there are any.
pub(crate) fn command_from_words(mut words: Vec<String>) -> Result<Command, String> {
    let Some(first) = words.first_mut() else {
        return Err("an empty command; the first word is the program".into());
    };
    let mut command = Command { argv: Vec::new(), argv0: None, ignore_failure: false, expand: true };
    let mut own_name = false;
    let mut program = first.as_str();
    while let Some(prefix) = program.chars().next() {
        let repeated = match prefix {
            '-' => std::mem::replace(&mut command.ignore_failure, true),
            '@' => std::mem::replace(&mut own_name, true),
            ':' => !std::mem::replace(&mut command.expand, false),
            '+' | '!' | '|' => return Err(refused_prefix(prefix)),
            _ => break,
        };
        if repeated {
            return Err(format!("the prefix \"{prefix}\" is there twice"));
        }
        program = &program[1..];
    }
    check_program(program)?;
    *first = program.to_string();
    if own_name {
        if words.len() < 2 {
            return Err("after \"@PROGRAM\" comes the name that the program sees as its own".into());
        }
        command.argv0 = Some(words.remove(1));
    }
    command.argv = words;
    Ok(command)
}

/// Why a prefix of systemd does not work here.
fn refused_prefix(prefix: char) -> String {
    let why = match prefix {
        '|' => "no shell is involved; write [\"/bin/sh\", \"-c\", \"…\"]",
        _ => "a command always runs with the service's own user and privileges",
    };
    format!("the prefix \"{prefix}\" is not supported: {why}")
}

/// Whether `program` can be a program: a path (from the working directory, if it is not whole) or a name.
fn check_program(program: &str) -> Result<(), String> {
    if program.is_empty() {
        return Err("the program's name is empty".into());
    }
    if program.ends_with('/') {
        return Err(format!("\"{program}\" is a folder, not a program"));
    }
    if let Some((name, _)) = program.split_once('=').filter(|(name, _)| is_name(name)) {
        return Err(format!(
            "\"{program}\" sets a variable and is no program; {name} belongs in [Service.Environment]"
        ));
    }
    if program == "~" || program.starts_with("~/") {
        return Err(format!("\"{program}\" is a shell's way to say it; write the whole path of the program"));
    }
    if program.starts_with('$') {
        return Err(format!(
            "\"{program}\": the program cannot be a variable; write its whole path, or its name"
        ));
    }
    if program.ends_with(';') {
        return Err(format!(
            "\"{program}\": a \";\" separates commands for a shell only; write several commands as an array of arrays"
        ));
    }
    Ok(())
}

/// The words that [`command_from_words`] makes the same command of.
pub(crate) fn words_of_command(command: &Command) -> Vec<String> {
    let mut words = command.argv.clone();
    if let Some(name) = &command.argv0 {
        words.insert(1.min(words.len()), name.clone());
    }
    if let Some(program) = words.first_mut() {
        let mut prefixes = String::new();
        for (prefix, is_there) in
            [('-', command.ignore_failure), (':', !command.expand), ('@', command.argv0.is_some())]
        {
            if is_there {
                prefixes.push(prefix);
            }
        }
        program.insert_str(0, &prefixes);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Command, String> {
        command_from_text(text, &Specifiers { name: "app".into(), runtime_dir: "/run/a".into() })
    }

    #[test]
    fn prefixes_combine_in_any_order() {
        let command = parsed("@-:/bin/sh -sh %t/x $HOME").unwrap();
        assert_eq!(command.argv, ["/bin/sh", "/run/a/x", "$HOME"]);
        assert_eq!(command.argv0.as_deref(), Some("-sh"));
        assert!(command.ignore_failure && !command.expand);
        assert_eq!(command_from_words(words_of_command(&command)).unwrap(), command);
    }

    #[test]
    fn names_and_explicit_paths_are_programs() {
        for text in ["nginx", "/usr/sbin/nginx", "./app", "../app"] {
            assert_eq!(parsed(text).unwrap().argv, [text]);
        }
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for (text, part) in [
            ("", "empty command"),
            ("''", "name is empty"),
            ("-", "name is empty"),
            ("--/bin/x", "twice"),
            ("+/bin/x", "not supported"),
            ("-!/bin/x", "not supported"),
            ("|/bin/x", "no shell"),
            ("/bin/", "a folder"),
            ("@/bin/x", "sees as its own"),
            ("/bin/x ; /bin/y", "second command"),
            ("/bin/x %q", "unknown specifier"),
            ("PORT=80 /bin/x", "[Service.Environment]"),
            ("$HOME/bin/x", "cannot be a variable"),
            ("${HOME}/bin/x", "cannot be a variable"),
            ("~/bin/x", "whole path"),
            ("/bin/a; /bin/b", "array of arrays"),
        ] {
            let why = parsed(text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
        assert_eq!(parsed(r"/bin/x \;").unwrap().argv, ["/bin/x", ";"]);
    }

    #[test]
    fn what_only_a_shell_would_understand_is_noticed() {
        for (text, expected) in [
            ("/bin/a | /bin/b", Some("|")),
            ("/bin/a --b", None),
            ("/bin/a x; /bin/b", Some("x;")),
            ("/bin/rm *.txt", Some("*.txt")),
            ("/bin/a >/file", Some(">/file")),
            ("/bin/a 2>/file", Some("2>/file")),
            ("/bin/a '*.txt' \"|\" --name=*", None),
            ("/bin/a <html>", None),
            ("/bin/sh -c 'a | b' > x", None),
        ] {
            assert_eq!(shell_text(text, &parsed(text).unwrap()).as_deref(), expected, "{text}");
        }
        for (text, expected) in [
            ("/bin/a --home=$HOME", Some("$HOME")),
            ("/bin/a $PORT/x", Some("$PORT")),
            ("/bin/a ${PORT:-8080}", Some("${PORT:-8080}")),
            ("/bin/a --host=$(hostname)", Some("$(…)")),
            ("/bin/a `hostname`", Some("`…`")),
            ("/bin/a $HOME ${A}/x $$x costs5$ $1", None),
            (":/bin/a x$HOME", None),
            ("/bin/sh -c 'echo a$HOME'", None),
            ("/usr/bin/env bash -c 'echo a$HOME'", None),
        ] {
            assert_eq!(literal_word(&parsed(text).unwrap()).as_deref(), expected, "{text}");
        }
    }
}
