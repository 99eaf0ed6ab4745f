//! `[Reload]`, `[HealthCheck]` and `[Daemon]`.

use super::{Address, Command};
use crate::time::Span;
use serde::{Deserialize, Serialize};

/// `[Reload] Strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Start beside, soak, promote.
    Canary,
    /// Start beside, promote when ready.
    Immediate,
    /// Stop, then start.
    Replace,
    /// `ExecReload` or `ReloadSignal` to the running generation.
    Signal,
}

/// `CanaryBy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CanaryBy {
    /// Each connection is drawn by itself.
    Connection,
    /// A client address stays on one side.
    Client,
}

/// A hook: pre-flight, `OnSuccess`, `OnFailure`.
#[derive(Debug, Clone, PartialEq)]
pub struct Hook {
    /// `Name`; default: the program's base name.
    pub name: String,
    /// `Exec`.
    pub exec: Command,
    /// `Timeout`, default 30s.
    pub timeout: Span,
    /// `BlockOnFail`, default true; pre-flight only.
    pub block_on_fail: bool,
}

/// `[Reload]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Reload {
    /// `Strategy`.
    pub strategy: Strategy,
    /// `PreFlight`.
    pub pre_flight: Vec<Hook>,
    /// `WarmupDelay`.
    pub warmup_delay: Span,
    /// `SoakTime`.
    pub soak_time: Span,
    /// `CanaryWeight`: percentages 0 to 100 that divide the soak into equal steps; never empty.
    pub canary_weight: Vec<u8>,
    /// `CanaryBy`.
    pub canary_by: CanaryBy,
    /// `DrainTimeout`.
    pub drain_timeout: Span,
    /// `ReloadSignal`, default SIGHUP.
    pub reload_signal: i32,
    /// `OnSuccess`.
    pub on_success: Vec<Hook>,
    /// `OnFailure`.
    pub on_failure: Vec<Hook>,
    /// `WatchPaths`: absolute paths; relative ones begin in our own working directory.
    pub watch_paths: Vec<String>,
    /// `WatchDebounce`.
    pub watch_debounce: Span,
    /// `KeepReleases`: how many that were promoted are kept beside the one that serves.
    pub keep_releases: u32,
    /// `BinaryPath`: default the program of `ExecStart`.
    pub binary_path: Option<String>,
    /// `BinarySHA256`: 64 lower-case hex digits.
    pub binary_sha256: Option<String>,
}

/// What a health check does.
#[derive(Debug, Clone, PartialEq)]
pub enum Check {
    /// `HttpGet`.
    HttpGet(HttpTarget),
    /// `TcpConnect`: an address, or a Unix path.
    TcpConnect(Address),
    /// `Exec`.
    Exec(Command),
}

/// A parsed `http://HOST:PORT/PATH`, or `unix:/PATH:/HTTP-PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTarget {
    /// As it was written.
    pub url: String,
    /// Where to connect.
    pub to: Address,
    /// The host of the URL.
    pub host: String,
    /// `HttpHost`: the Host header, if it is another one.
    pub named: Option<String>,
    /// Path and query, starts with `/`.
    pub path: String,
}

/// `[HealthCheck]`.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    /// Which check.
    pub check: Check,
    /// `Interval`.
    pub interval: Span,
    /// `Timeout`.
    pub timeout: Span,
    /// `InitialDelay`.
    pub initial_delay: Span,
    /// `SuccessThreshold`, at least 1.
    pub success_threshold: u32,
    /// `FailureThreshold`, at least 1.
    pub failure_threshold: u32,
    /// `ExpectStatus`: inclusive ranges.
    pub expect_status: Vec<(u16, u16)>,
    /// `Always`.
    pub always: bool,
}

/// `[Daemon]`: `None` where the unit says nothing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DaemonSettings {
    /// `Http`: the address of the HTTP listener.
    pub http: Option<String>,
    /// `HttpTokenFile`.
    pub http_token_file: Option<String>,
    /// `LogLevel`: `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: Option<String>,
    /// `LogFormat`: `text` or `json`.
    pub log_format: Option<String>,
    /// `StopDelaySec`.
    pub stop_delay: Option<Span>,
}
