//! `$VAR` and `${VAR}` at launch, by the rules of systemd.service(5), COMMAND LINES.

use super::Command;

/// The command's words with environment variables replaced; `env` answers what a variable is set to.
///
/// `${FOO}` anywhere in a word becomes the value, and the word stays one word; a word that is `$FOO` becomes
/// as many words as the value has (split at white space, quotes respected), perhaps none; `$$` becomes `$`. What is
/// not set is empty. The first word, the program, stays as it is, and so does everything if
/// [`Command::expand`] is false. [`Command::argv0`] is not looked at.
pub fn expand_command(command: &Command, env: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    if !command.expand {
        return command.argv.clone();
    }
    let mut words = Vec::with_capacity(command.argv.len());
    for (index, word) in command.argv.iter().enumerate() {
        if index == 0 {
            words.push(word.clone());
        } else if let Some(name) = word.strip_prefix('$').filter(|name| is_name(name)) {
            split_value(&env(name).unwrap_or_default(), &mut words);
        } else {
            words.push(expand_word(word, env));
        }
    }
    words
}

/// The text of an `Environment` value with every `${NAME}` that is set replaced.
///
/// Elsewhere `$` has no meaning there, as in systemd: a name that is not set stays as it is written, and so does
/// `$$`; only `$${` is `${` itself.
pub fn expand_text(text: &str, env: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$${") {
            out.push_str("${");
            rest = after;
            continue;
        }
        match braced(rest).and_then(|(name, after)| env(name).map(|value| (value, after))) {
            Some((value, after)) => {
                out.push_str(&value);
                rest = after;
            }
            None => {
                out.push('$');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// One word of a command line: `${NAME}` and `$$`.
fn expand_word(word: &str, env: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = braced(rest) {
            out.push_str(&env(name).unwrap_or_default());
            rest = after;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    out
}

/// The name in the `${NAME}` that `text` starts with, and what follows it.
fn braced(text: &str) -> Option<(&str, &str)> {
    let (name, after) = text.strip_prefix("${")?.split_once('}')?;
    is_name(name).then_some((name, after))
}

/// Whether `text` can be the name of an environment variable: letters, digits and `_`, no digit first.
pub(super) fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Adds the words of a variable's value to `words`. A backslash takes the next character as it is; a quote that is
/// never closed reaches to the end.
fn split_value(value: &str, words: &mut Vec<String>) {
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match quote {
            _ if c == '\\' => word.get_or_insert_default().extend(chars.next()),
            Some(q) if c == q => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_ascii_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        let value = match name {
            "ONE" => "'one'",
            "TWO" => "'two two' too",
            "THREE" => "",
            "ESCAPED" => r#"a\ b "c\"d" e\"#,
            "HOME" => "/here",
            "AETERNA_FD_http" => "3",
            _ => return None,
        };
        Some(value.into())
    }

    fn expanded(words: &[&str]) -> Vec<String> {
        let argv = words.iter().map(ToString::to_string).collect();
        expand_command(&Command { argv, argv0: None, ignore_failure: false, expand: true }, &env)
    }

    #[test]
    fn commands_expand_as_the_manual_page_shows() {
        assert_eq!(
            expanded(&["/bin/echo", "${ONE}", "${TWO}", "${THREE}"]),
            ["/bin/echo", "'one'", "'two two' too", ""]
        );
        assert_eq!(
            expanded(&["/bin/echo", "$ONE", "$TWO", "$THREE"]),
            ["/bin/echo", "one", "two two", "too"]
        );
    }

    #[test]
    fn a_backslash_in_a_value_takes_the_next_character_as_it_is() {
        assert_eq!(
            expanded(&["a", "$ESCAPED", "${ESCAPED}"]),
            ["a", "a b", "c\"d", "e", r#"a\ b "c\"d" e\"#]
        );
    }

    #[test]
    fn dollars_in_every_place() {
        assert_eq!(
            expanded(&[
                "$HOME/x",
                "$$HOME",
                "a$HOME",
                "a${HOME}b",
                "${UNSET}",
                "$UNSET",
                "${",
                "${1}",
                "$",
                "$HOME/x",
                "$$"
            ]),
            ["$HOME/x", "$HOME", "a$HOME", "a/hereb", "", "${", "${1}", "$", "$HOME/x", "$"]
        );
        assert_eq!(expanded(&["uvicorn", "--fd", "${AETERNA_FD_http}"]), ["uvicorn", "--fd", "3"]);
    }

    #[test]
    fn a_colon_turns_expansion_off() {
        let argv = vec!["echo".to_string(), "$HOME".into(), "$$".into()];
        let command = Command { argv: argv.clone(), argv0: None, ignore_failure: false, expand: false };
        assert_eq!(expand_command(&command, &env), argv);
    }

    #[test]
    fn environment_values_replace_only_what_is_set() {
        for (text, expected) in [
            ("fd@${AETERNA_FD_http}", "fd@3"),
            ("pa$$word$", "pa$$word$"),
            ("${UNSET} $HOME", "${UNSET} $HOME"),
            ("$${HOME}", "${HOME}"),
            ("${HOME}${HOME}", "/here/here"),
            ("${HOME", "${HOME"),
        ] {
            assert_eq!(expand_text(text, &env), expected, "{text}");
        }
    }
}
