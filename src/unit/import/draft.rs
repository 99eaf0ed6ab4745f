//! The TOML that grows: every line knows where it comes from, so that what the parser says about it can be said
//! about its origin.

use super::super::file::{Context, keys, parse};
use super::super::print::quote;
use super::Finding;

/// Where something stood: which source and which line in it, from 1; 0 for the whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin {
    pub(super) source: usize,
    pub(super) line: usize,
}

/// A value that is TOML already, and what it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) toml: String,
    pub(super) origin: Option<Origin>,
}

/// A key with one value, or with a list of them, each on a line of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    key: String,
    items: Vec<Item>,
}

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// `[Service]`, `[[Socket]]`.
    header: &'static str,
    /// What stands above it, without `#`.
    pub(super) comments: Vec<String>,
    entries: Vec<Entry>,
}

/// A unit in the making.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Draft {
    /// What stands at the top, without `#`.
    pub(super) comments: Vec<String>,
    pub(super) tables: Vec<Table>,
}

/// Which item stands on a line of the text: table, entry, item.
type Place = Option<(usize, usize, usize)>;

impl Item {
    /// A text, a number or a truth value of the source's line.
    pub(super) fn of(toml: impl Into<String>, origin: Origin) -> Item {
        Item { toml: toml.into(), origin: Some(origin) }
    }
}

impl Table {
    pub(super) fn new(header: &'static str) -> Table {
        Table { header, ..Table::default() }
    }

    /// Sets a key; an earlier value goes.
    pub(super) fn set(&mut self, key: &str, item: Item) {
        self.remove(key);
        self.push(key, item);
    }

    /// Sets a key to what no line of the source says.
    pub(super) fn imply(&mut self, key: &str, toml: impl Into<String>) {
        self.set(key, Item { toml: toml.into(), origin: None });
    }

    /// Adds to a key's list.
    pub(super) fn push(&mut self, key: &str, item: Item) {
        match self.entries.iter_mut().find(|entry| entry.key == key) {
            Some(entry) => entry.items.push(item),
            None => self.entries.push(Entry { key: key.into(), items: vec![item] }),
        }
    }

    pub(super) fn remove(&mut self, key: &str) {
        self.entries.retain(|entry| entry.key != key);
    }

    /// Adds every entry of `other`.
    pub(super) fn extend(&mut self, other: &Table) {
        self.entries.extend(other.entries.iter().cloned());
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// The key's first value as TOML.
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        entry.items.first().map(|item| item.toml.as_str())
    }

    /// The keys of `[Service]` in the order of the manual. Elsewhere the order has a meaning, or is the sources'.
    fn arrange(&mut self) {
        if self.header == "[Service]" {
            let keys = keys();
            let place =
                |key: &str| keys.iter().position(|(table, known)| *table == self.header && *known == key);
            self.entries.sort_by_key(|entry| place(&entry.key).unwrap_or(usize::MAX));
        }
    }

    fn is_dead(&self) -> bool {
        self.entries.is_empty()
            || (self.header == "[[Socket]]" && !self.entries.iter().any(|e| e.key.starts_with("Listen")))
    }
}

impl Draft {
    /// The text, once everything that the parser refuses is left out and named in `warnings`.
    ///
    /// # Errors
    /// What is wrong and comes from no line that could be left out.
    pub(super) fn settle(mut self, name: &str, warnings: &mut Vec<Finding>) -> Result<String, Finding> {
        let context = context(name);
        self.tables.iter_mut().for_each(Table::arrange);
        loop {
            self.tables.retain(|table| !table.is_dead());
            let (text, places) = self.render();
            let place = |line: usize| places.get(line.wrapping_sub(1)).copied().flatten();
            let errors = match parse(&text, &context) {
                Ok(parsed) => {
                    for warning in parsed.warnings {
                        let origin = place(warning.line).and_then(|place| self.item(place)?.origin);
                        warnings.push(Finding { origin, message: warning.message });
                    }
                    return Ok(text);
                }
                Err(errors) => errors,
            };
            let mut refused: Vec<(usize, usize, usize)> = Vec::new();
            for error in &errors {
                let Some(at) = place(error.line) else { continue };
                if refused.contains(&at) {
                    continue;
                }
                let origin = self.item(at).and_then(|item| item.origin);
                if let Some(key) = self.key(at).filter(|key| is_guard(key)) {
                    let message = format!("{}; {}", error.message, without(key));
                    return Err(Finding { origin, message });
                }
                // What no line says goes without a word: it was to go with something that went before.
                if let Some(origin) = origin {
                    let message = format!("not carried over: {}", error.message);
                    warnings.push(Finding::at(origin, message));
                }
                refused.push(at);
            }
            if refused.is_empty() {
                let first = errors.first().map_or(String::new(), |error| error.message.clone());
                return Err(Finding::of_no_file(format!("cannot make a unit of it: {first}")));
            }
            self.leave_out(refused);
        }
    }

    /// The key of an item, unless its table is of names that the sources choose.
    fn key(&self, (table, entry, _): (usize, usize, usize)) -> Option<&str> {
        let table =
            self.tables.get(table).filter(|table| ["[Service]", "[[Socket]]"].contains(&table.header))?;
        Some(table.entries.get(entry)?.key.as_str())
    }

    fn item(&self, (table, entry, item): (usize, usize, usize)) -> Option<&Item> {
        self.tables.get(table)?.entries.get(entry)?.items.get(item)
    }

    /// Removes items, the last first, so that the places of the others stay right.
    fn leave_out(&mut self, mut refused: Vec<(usize, usize, usize)>) {
        refused.sort_unstable();
        for (table, entry, item) in refused.into_iter().rev() {
            self.tables[table].entries[entry].items.remove(item);
        }
        for table in &mut self.tables {
            table.entries.retain(|entry| !entry.items.is_empty());
        }
    }

    /// The text, and for each of its lines the item that stands there.
    fn render(&self) -> (String, Vec<Place>) {
        let mut lines: Vec<(String, Place)> = Vec::new();
        let mut say = |text: String, place: Place| lines.push((text, place));
        // A comment of TOML's has no control characters.
        let remark = |text: &str| {
            let plain = text.replace(|c: char| c.is_control(), " ");
            format!("# {plain}").trim_end().to_string()
        };
        for comment in &self.comments {
            say(remark(comment), None);
        }
        for (t, table) in self.tables.iter().enumerate() {
            if t > 0 || !self.comments.is_empty() {
                say(String::new(), None);
            }
            for comment in &table.comments {
                say(remark(comment), None);
            }
            say(table.header.to_string(), None);
            for (e, entry) in table.entries.iter().enumerate() {
                if let [one] = entry.items.as_slice() {
                    say(format!("{} = {}", entry.key, one.toml), Some((t, e, 0)));
                    continue;
                }
                say(format!("{} = [", entry.key), Some((t, e, 0)));
                for (i, item) in entry.items.iter().enumerate() {
                    say(format!("    {},", item.toml), Some((t, e, i)));
                }
                say("]".into(), None);
            }
        }
        let text = lines.iter().fold(String::new(), |text, (line, _)| text + line + "\n");
        (text, lines.into_iter().map(|(_, place)| place).collect())
    }
}

/// What a unit of this name is parsed with.
pub(super) fn context(name: &str) -> Context {
    // A template is judged with an instance: its file will have one.
    let stem = match name {
        "" => "unit".into(),
        template if template.ends_with('@') => format!("{template}instance"),
        name => name.to_string(),
    };
    Context { stem, file: String::new(), runtime_dir: "/run".into(), pid1: false }
}

/// Whether a key takes rights away: to lose it is no matter for a warning.
pub(super) fn is_guard(key: &str) -> bool {
    const GUARDS: &[&str] = &[
        "User",
        "Group",
        "UMask",
        "NoNewPrivileges",
        "SocketUser",
        "SocketGroup",
        "SocketMode",
        "DirectoryMode",
    ];
    GUARDS.contains(&key)
}

/// Why nothing is made without a key that takes rights away.
pub(super) fn without(key: &str) -> &'static str {
    match key {
        "User" => "without its User the service would run as root: write what is meant (a drop-in will do)",
        _ => {
            "without it the unit would have or give more rights than it says: write what is meant (a drop-in will do)"
        }
    }
}

/// `text` as TOML, its percent signs as they are (they are specifiers, or escaped already).
pub(super) fn toml_text(text: &str) -> String {
    quote(text)
}

/// A whole number as TOML's, anything else as text: what is wrong with it, the parser says.
pub(super) fn toml_number(text: &str) -> String {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let plain = !digits.is_empty() && digits.len() < 16 && digits.bytes().all(|byte| byte.is_ascii_digit());
    // TOML has no leading zeros.
    if plain && (digits == "0" || !digits.starts_with('0')) { text.to_string() } else { quote(text) }
}

/// Words as an array.
pub(super) fn toml_words(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
    format!("[{}]", words.join(", "))
}
