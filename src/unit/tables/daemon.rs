//! `[Daemon]`: what the unit asks of aeternad itself.

use super::super::DaemonSettings;
use super::super::read::{Table, Value, choice, limited, time};
use super::super::value::{LOG_FORMATS, LOG_LEVELS, check_http_address};
use super::options::absolute_path;

/// Reads `[Daemon]`.
pub(crate) fn read_daemon(table: &Table<'_>) -> DaemonSettings {
    DaemonSettings {
        http: table.take("Http", http),
        http_token_file: table.take("HttpTokenFile", absolute_path),
        log_level: table.take("LogLevel", |v| choice(v, "a LogLevel", LOG_LEVELS)).map(str::to_string),
        log_format: table.take("LogFormat", |v| choice(v, "a LogFormat", LOG_FORMATS)).map(str::to_string),
        stop_delay: table.take("StopDelaySec", time),
    }
}

/// Where HTTP is served; a port may be a number.
fn http(value: &Value<'_>) -> Option<String> {
    limited(value, |text| check_http_address(text).map(|()| text.to_string()))
}
