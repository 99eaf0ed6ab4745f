//! Command lines: words and prefixes become a [`Command`], and back.

use super::super::Command;
use super::quoting::split_words;
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

/// The first word that only a shell would understand, in a command that starts no shell.
pub(crate) fn shell_word(command: &Command) -> Option<&str> {
    const SHELL: &[&str] = &["|", "||", "&", "&&", ">", ">>", "<", "2>&1", "2>", "&>"];
    command.argv.iter().skip(1).map(String::as_str).find(|word| SHELL.contains(word))
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
        ] {
            let why = parsed(text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
        assert_eq!(parsed(r"/bin/x \;").unwrap().argv, ["/bin/x", ";"]);
    }

    #[test]
    fn shell_words_are_noticed() {
        assert_eq!(shell_word(&parsed("/bin/a | /bin/b").unwrap()), Some("|"));
        assert_eq!(shell_word(&parsed("/bin/a --b").unwrap()), None);
    }
}
