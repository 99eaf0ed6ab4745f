//! Lines before they are text: what printing and comparing two units share.

use super::super::Hook;
use super::super::signal::signal_name;
use super::super::value::escape;
use super::toml::{array, quote};
use crate::time::Span;

/// One table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Section {
    /// Its heading.
    pub(crate) label: &'static str,
    /// Its keys.
    pub(crate) entries: Vec<Entry>,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: &'static str,
    pub(crate) shown: Shown,
}

/// A key's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shown {
    /// In TOML.
    Value(String),
    /// There is none, and no default.
    Unset,
    /// The default, where other keys make it meaningless.
    Void(String),
}

/// A table without keys.
pub(super) fn section(label: &'static str) -> Section {
    Section { label, entries: Vec::new() }
}

impl Section {
    /// A value that is TOML already.
    pub(super) fn put(&mut self, key: &'static str, value: String) {
        self.entries.push(Entry { key, shown: Shown::Value(value) });
    }

    pub(super) fn void(&mut self, key: &'static str, value: String) {
        self.entries.push(Entry { key, shown: Shown::Void(value) });
    }

    pub(super) fn optional(&mut self, key: &'static str, value: Option<String>) {
        self.entries.push(Entry { key, shown: value.map_or(Shown::Unset, Shown::Value) });
    }

    /// Text in which percent signs mean themselves.
    pub(super) fn raw(&mut self, key: &'static str, text: &str) {
        self.put(key, quote(text));
    }

    /// Text in which percent signs start specifiers.
    pub(super) fn text(&mut self, key: &'static str, text: &str) {
        self.put(key, quote(&escape(text)));
    }

    pub(super) fn optional_text(&mut self, key: &'static str, text: Option<&str>) {
        self.optional(key, text.map(|text| quote(&escape(text))));
    }

    pub(super) fn texts(&mut self, key: &'static str, texts: &[String]) {
        self.put(key, array(texts.iter().map(|text| quote(&escape(text)))));
    }

    pub(super) fn word(&mut self, key: &'static str, word: &str) {
        self.put(key, quote(word));
    }

    pub(super) fn flag(&mut self, key: &'static str, flag: bool) {
        self.put(key, flag.to_string());
    }

    pub(super) fn number(&mut self, key: &'static str, number: impl Into<i64>) {
        self.put(key, number.into().to_string());
    }

    pub(super) fn optional_number(&mut self, key: &'static str, number: Option<impl Into<i64>>) {
        self.optional(key, number.map(|number| number.into().to_string()));
    }

    pub(super) fn time(&mut self, key: &'static str, span: Span) {
        self.put(key, quote(&span.to_string()));
    }

    pub(super) fn mode(&mut self, key: &'static str, mode: u32) {
        self.put(key, format!("\"{mode:04o}\""));
    }

    pub(super) fn signal(&mut self, key: &'static str, signal: i32) {
        self.put(key, quote(&signal_name(signal)));
    }

    /// `[]` for a key without hooks; hooks have tables of their own.
    pub(super) fn no_hooks(&mut self, key: &'static str, hooks: &[Hook]) {
        if hooks.is_empty() {
            self.put(key, "[]".into());
        }
    }
}
