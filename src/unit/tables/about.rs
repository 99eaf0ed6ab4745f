//! `[Unit]`: what the unit is called.

use super::super::read::{Table, Value, raw_text, text};

/// The longest name of a unit, as systemd has it.
const LONGEST_NAME: usize = 255;

/// Why `name` cannot be a unit's name, if it cannot.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a unit's name must not be empty".into());
    }
    if name.len() > LONGEST_NAME {
        return Err(format!("a unit's name has at most {LONGEST_NAME} characters"));
    }
    match name.chars().find(|c| !c.is_ascii_alphanumeric() && !":-_.\\@".contains(*c)) {
        None => Ok(()),
        Some(c) => Err(format!("a unit's name cannot have {c:?}; it has letters, digits and :-_.\\@")),
    }
}

/// `Name` without specifiers (they are made of it), `stem` if the key is not there.
pub(crate) fn read_name(table: &Table<'_>, stem: &str) -> String {
    let name = |value: &Value<'_>| {
        let name = raw_text(value)?;
        check_name(name).map(|()| name.to_string()).or_else(|why| value.fail(why).ok_or(())).ok()
    };
    if let Some(name) = table.take("Name", name) {
        return name;
    }
    if !table.has("Name")
        && let Err(why) = check_name(stem)
    {
        let stem = stem.escape_debug();
        let reader = table.reader();
        reader.error(
            0,
            format!(
                "the file name makes \"{stem}\" the unit's name: {why}; rename the file or set Name in [Unit]"
            ),
        );
    }
    stem.to_string()
}

/// `Name` and `Description`.
pub(crate) fn read_about(table: &Table<'_>, stem: &str) -> (String, String) {
    let name = read_name(table, stem);
    let description = table.take("Description", |value| {
        if value.get().as_str() == Some("") { Some(String::new()) } else { text(value) }
    });
    (name, description.unwrap_or_default())
}
