//! aeternad's own log: env_logger on standard error, as text or as JSON lines.

use crate::daemon::logsink::Sink;
use crate::proto::harmless::is_seen;
use crate::sys::fd;
use crate::time::Span;
use env_logger::{Builder, Target};
use log::{Level, LevelFilter};
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::{Mutex, OnceLock, PoisonError};

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
    let error = std::io::stderr();
    // Services that inherit it have ways of their own, which write at its end: so must ours.
    fd::append_only(error.as_fd());
    fd::append_only(std::io::stdout().as_fd());
    // Our own way to a pipe or a terminal, because others who have it need not like it to be non-blocking.
    let target = fd::reopen_pipe(error.as_fd()).or_else(|| fd::dup(error.as_fd()).ok());
    match target {
        Some(target) => {
            let sink = SINK.get_or_init(|| Mutex::new(Sink::new(target, format)));
            builder.target(Target::Pipe(Box::new(Shared(sink))))
        }
        None => builder.target(Target::Stderr),
    };
    builder.format(move |out, record| {
        out.write_all(line(format, record.level(), &record.args().to_string()).as_bytes())
    });
    // A second start in one process (a test) keeps the first logger: nothing to be done about it.
    let _ = builder.try_init();
}

/// Where the log goes, for its end.
static SINK: OnceLock<Mutex<Sink>> = OnceLock::new();

/// The logger's way to it.
struct Shared(&'static Mutex<Sink>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// How long the last lines wait for somebody who reads them.
const LAST_PATIENCE: Span = Span::from_secs(2);

/// The end of the log: what a late reader has not taken yet is waited for a little. The last line is mostly the one that
/// says why.
pub fn finish() {
    if let Some(sink) = SINK.get() {
        sink.lock().unwrap_or_else(PoisonError::into_inner).finish(LAST_PATIENCE);
    }
}

/// Changes the level while running (a unit's `LogLevel` is known only after the first line may be logged).
pub fn set_level(level: &str) {
    if let Ok(level) = level.parse() {
        log::set_max_level(level);
    }
}

/// One line of the log, its newline included.
pub fn line(format: Format, level: Level, text: &str) -> String {
    match format {
        Format::Text => format!("{level:5} {}\n", printable(text)),
        Format::Json => {
            let object = serde_json::json!({
                "time": crate::sys::clock::unix_time(),
                "level": level.as_str().to_ascii_lowercase(),
                "message": text,
            });
            format!("{object}\n")
        }
    }
}

/// What a service says, and names that others have given, must not steer the terminal of whoever reads the log.
fn printable(text: &str) -> String {
    // Most of it was made harmless where it came in; this is for what nobody thought of.
    text.replace(|c: char| !is_seen(c) && c != '\n' && c != '\t', "\u{fffd}")
}
