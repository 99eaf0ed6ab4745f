//! The text format of Prometheus, version 0.0.4.

use super::Histogram;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The text as it grows. A family without samples (no reload yet, no socket) is there with its help and type.
#[derive(Debug, Default)]
pub(super) struct Text {
    text: String,
    name: &'static str,
}

impl Text {
    /// The samples that follow are of this family.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.name = name;
        // Writing to a String cannot fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// One sample; `suffix` is `_bucket`, `_sum`, `_count` or nothing.
    pub(super) fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        for (at, (name, value)) in labels.iter().enumerate() {
            self.text.push(if at == 0 { '{' } else { ',' });
            self.text.push_str(name);
            self.text.push_str("=\"");
            self.escaped(value);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// A label's value. Most need no escape, and there are thousands of them.
    fn escaped(&mut self, value: &str) {
        let mut rest = value;
        while let Some(at) = rest.find(['\\', '"', '\n']) {
            self.text.push_str(&rest[..at]);
            self.text.push_str(match rest.as_bytes()[at] {
                b'\n' => "\\n",
                b'"' => "\\\"",
                _ => "\\\\",
            });
            rest = &rest[at + 1..];
        }
        self.text.push_str(rest);
    }

    /// A family of one counter without labels.
    pub(super) fn counter(&mut self, name: &'static str, help: &str, value: u64) {
        self.family(name, Kind::Counter, help);
        self.sample("", &[], value as f64);
    }

    /// One sample a word, also for words that were not counted yet: a rate needs the 0 before the 1.
    pub(super) fn words(
        &mut self,
        owner: &str,
        of: &str,
        label: &str,
        words: &[&'static str],
        counts: &BTreeMap<&'static str, u64>,
    ) {
        for word in words {
            let count = counts.get(word).copied().unwrap_or_default();
            self.sample("", &[(owner, of), (label, word)], count as f64);
        }
    }

    /// The samples of one histogram.
    pub(super) fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut total = 0;
        for (at, count) in histogram.counts.iter().enumerate() {
            total += count;
            let bound = histogram.bounds.get(at).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            let mut labels = labels.to_vec();
            labels.push(("le", &bound));
            self.sample("_bucket", &labels, total as f64);
        }
        self.sample("_sum", labels, histogram.sum);
        self.sample("_count", labels, total as f64);
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.text
    }
}
