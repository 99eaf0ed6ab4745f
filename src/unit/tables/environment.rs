//! `[Service]`: what the process finds in its environment.

use super::super::expand::is_name;
use super::super::read::{Table, Value, list, raw_text, specified, text};
use super::super::value::split_words;
use super::super::{EnvironmentFile, Service};
use super::set;
use toml::de::DeValue;

const NAME_RULE: &str = "a name has letters, digits and _, and no digit first";

/// Reads `Environment`, `EnvironmentFile`, `PassEnvironment` and `UnsetEnvironment`.
pub(crate) fn read_environment(table: &Table<'_>, service: &mut Service) {
    set(&mut service.environment, table.take("Environment", environment));
    literal_values(table, &service.environment);
    set(&mut service.environment_file, table.take("EnvironmentFile", |v| list(v, environment_file)));
    let pass = table.take("PassEnvironment", |v| words(v, variable_name));
    if pass.is_some() {
        service.pass_environment = pass;
    }
    set(&mut service.unset_environment, table.take("UnsetEnvironment", |v| list(v, unset)));
}

/// A table of values, a string of assignments (systemd's quoting), or a list of single assignments.
fn environment(value: &Value<'_>) -> Option<Vec<(String, String)>> {
    let mut variables = Vec::new();
    let mut good = true;
    match value.get() {
        DeValue::Table(entries) => {
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_by_key(|(name, _)| name.span().start);
            for (name, node) in entries {
                let item = Value::new(node, value.reader());
                if !is_name(name.get_ref()) {
                    let shown = name.get_ref().escape_debug();
                    value
                        .reader()
                        .error(name.span().start, format!("\"{shown}\" cannot be a variable: {NAME_RULE}"));
                    good = false;
                } else if let Some(text) = variable_value(&item) {
                    put(&mut variables, name.get_ref().to_string(), text);
                } else {
                    good = false;
                }
            }
        }
        DeValue::Array(_) => {
            for item in value.items() {
                match raw_text(&item).and_then(|text| assignment(&item, text)) {
                    Some((name, text)) => put(&mut variables, name, text),
                    None => good = false,
                }
            }
        }
        DeValue::String(_) => {
            let words = split_words(raw_text(value)?).or_else(|why| value.fail(why).ok_or(())).ok()?;
            for word in words {
                match assignment(value, &word.text) {
                    Some((name, text)) => put(&mut variables, name, text),
                    None => good = false,
                }
            }
        }
        _ => return value.is_not("an environment", "write { NAME = \"value\" }, or \"NAME=value\""),
    }
    good.then_some(variables)
}

/// Warns about values in which a variable is named and not replaced.
fn literal_values(table: &Table<'_>, variables: &[(String, String)]) {
    let own = |name: &str| variables.iter().any(|(known, _)| known == name);
    for (name, value) in variables {
        let warning = if let Some(other) = unbraced(value) {
            format!("\"${other}\" in {name} stays as it is; write ${{{other}}} for the variable's value")
        } else if let Some(other) = braced_names(value).find(|other| *other != name && own(other)) {
            format!(
                "${{{other}}} in {name} is not the {other} of this table but what is set before it; write its value out"
            )
        } else {
            continue;
        };
        table.reader().warn(table.at("Environment"), warning);
    }
}

/// The first `$NAME` without braces that looks like a variable: in capitals, at the begin of a part.
fn unbraced(value: &str) -> Option<&str> {
    value.match_indices('$').find_map(|(at, _)| {
        let begins = value[..at].chars().next_back().is_none_or(|c| ":/= ,".contains(c));
        let rest = &value[at + 1..];
        let end = rest.find(|c: char| !c.is_ascii_uppercase() && c != '_').unwrap_or(rest.len());
        (begins && end > 1 && is_name(&rest[..end])).then_some(&rest[..end])
    })
}

/// The names in `${NAME}`, but for those that are written `$${NAME}`.
fn braced_names(value: &str) -> impl Iterator<Item = &str> {
    value
        .match_indices("${")
        .filter(|(at, _)| !value[..*at].ends_with('$'))
        .filter_map(|(at, _)| Some(value[at + 2..].split_once('}')?.0))
}

/// Sets a variable; a later one wins, in the place of the earlier.
fn put(variables: &mut Vec<(String, String)>, name: String, value: String) {
    match variables.iter_mut().find(|(known, _)| *known == name) {
        Some((_, old)) => *old = value,
        None => variables.push((name, value)),
    }
}

/// A variable's value: text, a whole number or a truth value.
fn variable_value(value: &Value<'_>) -> Option<String> {
    match value.get() {
        DeValue::String(_) => specified(value, raw_text(value)?),
        DeValue::Integer(integer) if integer.radix() == 10 => Some(integer.as_str().to_string()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        _ => value.is_not("a variable's value", "write it in quotes"),
    }
}

/// `NAME=value`; findings are at `value`.
fn assignment(value: &Value<'_>, text: &str) -> Option<(String, String)> {
    let shown = text.escape_debug();
    match text.split_once('=') {
        None => value.fail(format!("\"{shown}\" has no \"=\"; write NAME=value")),
        Some((name, _)) if !is_name(name) => {
            value.fail(format!("\"{}\" cannot be a variable: {NAME_RULE}", name.escape_debug()))
        }
        Some((name, text)) => Some((name.to_string(), specified(value, text)?)),
    }
}

/// `/path`, or `-/path` for one that may be missing.
fn environment_file(value: &Value<'_>) -> Option<EnvironmentFile> {
    let text = text(value)?;
    let (path, optional) = text.strip_prefix('-').map_or((text.as_str(), false), |path| (path, true));
    if !path.starts_with('/') {
        return value.is_not("an absolute path", "it starts with /, or with -/ if the file may be missing");
    }
    Some(EnvironmentFile { path: path.to_string(), optional })
}

/// The names of variables, each one item or several in a string with white space between them.
pub(crate) fn words(
    value: &Value<'_>,
    check: impl Fn(&Value<'_>, &str) -> Option<String>,
) -> Option<Vec<String>> {
    let items = list(value, |item| {
        let text = text(item)?;
        let words: Vec<Option<String>> =
            text.split_ascii_whitespace().map(|word| check(item, word)).collect();
        words.into_iter().collect::<Option<Vec<String>>>()
    })?;
    Some(items.concat())
}

fn variable_name(value: &Value<'_>, word: &str) -> Option<String> {
    if !is_name(word) {
        return value.fail(format!("\"{}\" cannot be a variable: {NAME_RULE}", word.escape_debug()));
    }
    Some(word.to_string())
}

/// `NAME`, or `NAME=value` for one that is only taken away when it has this value.
fn unset(value: &Value<'_>) -> Option<String> {
    let text = text(value)?;
    let name = text.split_once('=').map_or(text.as_str(), |(name, _)| name);
    variable_name(value, name)?;
    Some(text)
}
