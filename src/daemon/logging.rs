//! aeternad's own log: env_logger on standard error, as text or as JSON lines.

use env_logger::{Builder, Target, fmt::Formatter};
use log::{LevelFilter, Record};
use std::io::{self, Write};

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `INFO app: RUNNING → SOAKING (generation 2 is ready)`.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. `level` is a word (`info`), `filter` the text of `AETERNA_LOG`, which wins.
pub fn start(level: &str, filter: Option<&str>, format: Format) {
    let mut builder = Builder::new();
    builder.filter_level(level.parse().unwrap_or(LevelFilter::Info));
    if let Some(filter) = filter {
        builder.parse_filters(filter);
    }
    builder.target(Target::Stderr);
    match format {
        Format::Text => builder.format(text),
        Format::Json => builder.format(json),
    };
    // A second start in one process (a test) keeps the first logger: nothing to be done about it.
    let _ = builder.try_init();
}

/// Changes the level while running (a unit's `LogLevel` is known only after the first line may be logged).
pub fn set_level(level: &str) {
    if let Ok(level) = level.parse() {
        log::set_max_level(level);
    }
}

fn text(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    writeln!(out, "{:5} {}", record.level(), printable(record.args().to_string()))
}

/// What a service says, and names that others have given, must not steer the terminal of whoever reads the log.
fn printable(text: String) -> String {
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
    if text.contains(steers) { text.replace(steers, "\u{fffd}") } else { text }
}

fn json(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let line = serde_json::json!({
        "time": crate::sys::clock::unix_time(),
        "level": record.level().as_str().to_ascii_lowercase(),
        "message": record.args().to_string(),
    });
    writeln!(out, "{line}")
}
