//! Cursors: a [`Table`] hands out its keys one by one and reports those that nobody took; a [`Value`] knows its
//! place in the text.

use super::{Reader, nearest};
use std::cell::RefCell;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One TOML table under a label such as `[Service]`; perhaps absent, then every key is.
pub(crate) struct Table<'a> {
    label: &'static str,
    entries: Option<&'a DeTable<'a>>,
    at: usize,
    reader: &'a Reader<'a>,
    /// Every key that was asked for: what is not in here is unknown.
    asked: RefCell<Vec<&'static str>>,
    /// Keys that are there and whose value is wrong: rules about them would only add noise.
    bad: RefCell<Vec<&'static str>>,
}

impl<'a> Table<'a> {
    /// A cursor over `entries`, which stand at byte offset `at`.
    pub(crate) fn new(
        label: &'static str,
        entries: Option<&'a DeTable<'a>>,
        at: usize,
        reader: &'a Reader<'a>,
    ) -> Table<'a> {
        Table { label, entries, at, reader, asked: RefCell::default(), bad: RefCell::default() }
    }

    /// The table's name in messages, with its brackets.
    pub(crate) fn label(&self) -> &'static str {
        self.label
    }

    /// Where findings go.
    pub(crate) fn reader(&self) -> &'a Reader<'a> {
        self.reader
    }

    /// The value of `key`, if it is there.
    pub(crate) fn get(&self, key: &'static str) -> Option<Value<'a>> {
        self.asked.borrow_mut().push(key);
        let value = self.entries?.get(key)?;
        Some(Value::new(value, self.reader))
    }

    /// The value of `key` as `read` makes it out, `None` if the key is not there or `read` found it wrong
    /// (and said so to the reader).
    pub(crate) fn take<T>(&self, key: &'static str, read: impl FnOnce(&Value<'a>) -> Option<T>) -> Option<T> {
        let value = self.get(key)?;
        let before = self.reader.error_count();
        let taken = read(&value);
        if taken.is_none() || self.reader.error_count() > before {
            self.bad.borrow_mut().push(key);
        }
        taken
    }

    /// Whether the file has `key` in this table.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.is_some_and(|entries| entries.contains_key(key))
    }

    /// Whether `key` is there and wrong.
    pub(crate) fn is_bad(&self, key: &str) -> bool {
        self.bad.borrow().contains(&key)
    }

    /// Whether the table is in the file.
    pub(crate) fn is_there(&self) -> bool {
        self.entries.is_some()
    }

    /// Where `key` stands, or the table itself if the key is not there.
    pub(crate) fn at(&self, key: &str) -> usize {
        self.entries
            .and_then(|entries| entries.get_key_value(key))
            .map_or(self.at, |(name, _)| name.span().start)
    }

    /// The keys that the file has, in the order of the file.
    pub(crate) fn keys_in_order(&self) -> Vec<&'a str> {
        let mut keys: Vec<(usize, &str)> = self
            .entries
            .into_iter()
            .flat_map(|entries| entries.keys())
            .map(|key| (key.span().start, key.get_ref().as_ref()))
            .collect();
        keys.sort_unstable();
        keys.into_iter().map(|(_, key)| key).collect()
    }

    /// Every key that was asked for, in that order.
    pub(crate) fn asked(&self) -> Vec<&'static str> {
        self.asked.borrow().clone()
    }

    /// Reports each key that nobody asked for. `hint` says what to do about one, given the keys that are known here;
    /// without it the nearest of them is named.
    pub(crate) fn report_unknown(&self, hint: &dyn Fn(&str, &[&'static str]) -> Option<String>) {
        let asked = self.asked.borrow();
        for key in self.keys_in_order() {
            if asked.contains(&key) {
                continue;
            }
            let hint = match (hint(key, &asked), nearest(key, asked.iter().copied())) {
                (Some(hint), _) => format!("; {hint}"),
                (None, Some(name)) => format!("; did you mean \"{name}\"?"),
                (None, None) => String::new(),
            };
            self.reader
                .error(self.at(key), format!("unknown key \"{}\" in {}{hint}", plain(key), self.label));
        }
    }
}

/// A key as a message can show it on one line.
pub(crate) fn plain(key: &str) -> String {
    key.escape_debug().to_string()
}

/// One value and its place.
#[derive(Clone, Copy)]
pub(crate) struct Value<'a> {
    node: &'a Spanned<DeValue<'a>>,
    reader: &'a Reader<'a>,
}

impl<'a> Value<'a> {
    /// The value `node`.
    pub(crate) fn new(node: &'a Spanned<DeValue<'a>>, reader: &'a Reader<'a>) -> Value<'a> {
        Value { node, reader }
    }

    /// What it is.
    pub(crate) fn get(&self) -> &'a DeValue<'a> {
        self.node.get_ref()
    }

    /// Where it starts, as a byte offset.
    pub(crate) fn at(&self) -> usize {
        self.node.span().start
    }

    /// Where findings go.
    pub(crate) fn reader(&self) -> &'a Reader<'a> {
        self.reader
    }

    /// The value as it is written, on one line.
    pub(crate) fn written(&self) -> String {
        let span: Range<usize> = self.node.span();
        self.reader.quote(span)
    }

    /// Its elements if it is an array, else itself.
    pub(crate) fn items(&self) -> Vec<Value<'a>> {
        match self.get().as_array() {
            Some(array) => array.iter().map(|node| Value::new(node, self.reader)).collect(),
            None => vec![*self],
        }
    }

    /// Records `message` as an error at this value.
    pub(crate) fn fail<T>(&self, message: impl Into<String>) -> Option<T> {
        self.reader.error(self.at(), message);
        None
    }

    /// Records that the value is not `what`, with the reason or a hint after a colon.
    pub(crate) fn is_not<T>(&self, what: &str, why: &str) -> Option<T> {
        let colon = if why.is_empty() { "" } else { ": " };
        self.fail(format!("{} is not {what}{colon}{why}", self.written()))
    }
}
