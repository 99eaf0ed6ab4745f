//! aeternad's own log: env_logger on standard error, as text or as JSON lines.

use crate::daemon::logsink::Sink;
use crate::proto::harmless::is_seen;
use crate::sys::fd;
use crate::time::Span;
use env_logger::{Builder, Target};
use log::{Level, LevelFilter};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, OnceLock, PoisonError};

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `2026-11-20T18:30:05.120Z INFO  app: RUNNING → SOAKING (generation 2 is ready)`.
    Text,
    /// One JSON object a line.
    Json,
}

/// How the log is written: its format, and whether journald reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// How a line looks.
    pub format: Format,
    /// Whether every line begins with its priority, `<4>`: journald takes it off again (sd-daemon(3)).
    pub priorities: bool,
}

/// Starts logging. `level` is a word (`info`), `filter` the text of `AETERNA_LOG`, which wins.
pub fn start(level: &str, filter: Option<&str>, format: Format) {
    let mut builder = Builder::new();
    builder.filter_level(level.parse().unwrap_or(LevelFilter::Info));
    if let Some(filter) = filter {
        builder.parse_filters(filter);
    }
    let error = std::io::stderr();
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let style = Style { format, priorities: is_journal(error.as_fd(), stream.as_deref()) };
    // Services that inherit it have ways of their own, which write at its end: so must ours.
    fd::append_only(error.as_fd());
    fd::append_only(std::io::stdout().as_fd());
    // Our own way to a pipe or a terminal, because others who have it need not like it to be non-blocking.
    let target = fd::reopen_pipe(error.as_fd()).or_else(|| fd::dup(error.as_fd()).ok());
    match target {
        Some(target) => {
            let sink = SINK.get_or_init(|| Mutex::new(Sink::new(target, style)));
            builder.target(Target::Pipe(Box::new(Shared(sink))))
        }
        None => builder.target(Target::Stderr),
    };
    builder.format(move |out, record| {
        out.write_all(line(style, record.level(), &record.args().to_string()).as_bytes())
    });
    // A second start in one process (a test) keeps the first logger: nothing to be done about it.
    let _ = builder.try_init();
}

/// Whether a descriptor is the stream to the journal that `JOURNAL_STREAM` names, `DEVICE:INODE` (systemd.exec(5)). A
/// service manager leaves the variable to whoever is started below it, with other streams too.
fn is_journal(stream: BorrowedFd<'_>, named: Option<&str>) -> bool {
    let numbers = named.and_then(|named| named.split_once(':'));
    let Some((Ok(device), Ok(inode))) = numbers.map(|(d, i)| (d.parse::<u64>(), i.parse::<u64>())) else {
        return false;
    };
    let about = fd::dup(stream).and_then(|copy| File::from(copy).metadata());
    about.is_ok_and(|about| (about.dev(), about.ino()) == (device, inode))
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
pub fn line(style: Style, level: Level, text: &str) -> String {
    let line = match style.format {
        // The priority is the level, and the journal shows it in its own way.
        Format::Text if style.priorities => format!("{}\n", printable(text)),
        Format::Text => {
            format!("{} {level:5} {}\n", crate::time::stamp(crate::sys::clock::unix_time()), printable(text))
        }
        Format::Json => {
            let object = serde_json::json!({
                "time": crate::sys::clock::unix_time(),
                "level": level.as_str().to_ascii_lowercase(),
                "message": text,
            });
            format!("{object}\n")
        }
    };
    if !style.priorities {
        return line;
    }
    // Each line is an entry of its own in the journal.
    line.lines().map(|line| format!("<{}>{line}\n", priority(level))).collect()
}

/// The level in syslog's numbers.
const fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// What a service says, and names that others have given, must not steer the terminal of whoever reads the log.
fn printable(text: &str) -> String {
    // Most of it was made harmless where it came in; this is for what nobody thought of.
    text.replace(|c: char| !is_seen(c) && c != '\n' && c != '\t', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_for_the_journal_has_its_priority() {
        let style = |format, priorities| Style { format, priorities };
        let journal = style(Format::Text, true);
        assert_eq!(line(journal, Level::Error, "app: no"), "<3>app: no\n");
        assert_eq!(line(journal, Level::Warn, "two\nlines"), "<4>two\n<4>lines\n");
        assert_eq!(line(journal, Level::Info, "x"), "<6>x\n");
        assert_eq!(line(journal, Level::Debug, "x"), "<7>x\n");
        assert!(line(style(Format::Json, true), Level::Warn, "two\nlines").starts_with("<4>{"));
        let stamped = line(style(Format::Text, false), Level::Warn, "x");
        assert!(stamped.ends_with("Z WARN  x\n") && stamped.starts_with("20"), "{stamped}");
    }

    #[test]
    fn the_journal_is_known_by_the_stream_itself_and_not_by_the_variable_alone() {
        let (reader, writer) = std::io::pipe().unwrap();
        let about = File::from(fd::dup(writer.as_fd()).unwrap()).metadata().unwrap();
        let named = format!("{}:{}", about.dev(), about.ino());
        assert!(is_journal(writer.as_fd(), Some(&named)));
        assert!(!is_journal(writer.as_fd(), None));
        for wrong in ["", ":", "1", "8:x", "18446744073709551616:1"] {
            assert!(!is_journal(writer.as_fd(), Some(wrong)), "{wrong:?}");
        }
        let other = std::fs::File::open("/dev/null").unwrap();
        assert!(!is_journal(other.as_fd(), Some(&named)));
        drop(reader);
    }
}
