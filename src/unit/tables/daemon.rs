//! `[Daemon]`: what the unit asks of aeternad itself.

use super::super::DaemonSettings;
use super::super::read::{Table, choice, time};
use super::super::value::{LOG_FORMATS, LOG_LEVELS};

/// Reads `[Daemon]`.
pub(crate) fn read_daemon(table: &Table<'_>) -> DaemonSettings {
    DaemonSettings {
        log_level: table.take("LogLevel", |v| choice(v, "a LogLevel", LOG_LEVELS)).map(str::to_string),
        log_format: table.take("LogFormat", |v| choice(v, "a LogFormat", LOG_FORMATS)).map(str::to_string),
        stop_delay: table.take("StopDelaySec", time),
    }
}
