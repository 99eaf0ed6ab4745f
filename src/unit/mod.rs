//! A unit: what one TOML file declares, checked and with every default filled in.
//!
//! Only valid values exist: `parse` (in `file.rs`) turns text into a [`Unit`] or into every error of the text,
//! `print.rs` turns a [`Unit`] into canonical TOML that parses back to the same unit. Touches no file, no socket
//! and no clock. Names and meanings are systemd's (systemd.socket(5), systemd.service(5), systemd.exec(5),
//! systemd.kill(5)) unless aeterna.unit(5) says otherwise.

#![forbid(unsafe_code)]

mod check;
mod diagnostic;
mod differences;
mod expand;
mod file;
mod inline;
mod print;
mod read;
mod signal;
mod tables;
mod value;

pub use diagnostic::Diagnostic;
pub use differences::{Difference, Needs, SocketChange, differences};
pub use expand::{expand_command, expand_text};
pub use file::{Context, Parsed, keys, parse};
pub use inline::inline;
pub use print::print;
pub use signal::{parse_signal, signal_name};

use crate::time::Span;
use std::net::{IpAddr, SocketAddr};

/// One unit: sockets, a service, how it is reloaded.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// `[Unit] Name`, else the file's stem. Never empty; ASCII letters, digits, and `:-_.\@`.
    pub name: String,
    /// `[Unit] Description`, may be empty.
    pub description: String,
    /// The `[[Socket]]` tables in the order of the file.
    pub sockets: Vec<Socket>,
    /// `[Service]`.
    pub service: Service,
    /// `[Reload]`.
    pub reload: Reload,
    /// `[HealthCheck]`, if the table is there.
    pub health: Option<HealthCheck>,
    /// `[Daemon]`: what the unit asks of the supervisor itself.
    pub daemon: DaemonSettings,
}

impl Unit {
    /// Whether each connection gets its own instance (`Accept = true`; all sockets of a unit agree on it).
    pub fn accepts(&self) -> bool {
        self.sockets.iter().any(|socket| socket.accept)
    }

    /// Every address in the order in which a service gets its descriptors (3, 4, 5…), with its table.
    pub fn listens(&self) -> impl Iterator<Item = (&Socket, &Listen)> {
        self.sockets.iter().flat_map(|socket| socket.listen.iter().map(move |listen| (socket, listen)))
    }
}

/// A `[[Socket]]` table: addresses that share one set of options.
#[derive(Debug, Clone, PartialEq)]
pub struct Socket {
    /// The addresses: keys in the order of the table, then addresses in the order of an array.
    pub listen: Vec<Listen>,
    /// `FileDescriptorName`: 1 to 255 printable ASCII characters without `:`. Default: the unit's name
    /// (`connection` with `Accept`).
    pub name: String,
    /// Everything that is set on the socket itself.
    pub options: SocketOptions,
    /// `Sharing`.
    pub sharing: Sharing,
    /// `Accept`.
    pub accept: bool,
    /// `MaxConnections`, at least 1; with `Accept` only.
    pub max_connections: u32,
    /// `MaxConnectionsPerSource`, 0 is off; with `Accept` only.
    pub max_connections_per_source: u32,
    /// `FlushPending`: throw away what is queued when the service has ended.
    pub flush_pending: bool,
    /// `TriggerLimitIntervalSec`, zero is off.
    pub trigger_limit_interval: Span,
    /// `TriggerLimitBurst`, 0 is off.
    pub trigger_limit_burst: u32,
}

/// One address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Listen {
    /// Which `Listen…` key named it.
    pub kind: ListenKind,
    /// Where.
    pub address: Address,
}

/// Which `Listen…` key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListenKind {
    /// `ListenStream`: SOCK_STREAM.
    Stream,
    /// `ListenDatagram`: SOCK_DGRAM.
    Datagram,
    /// `ListenSequentialPacket`: SOCK_SEQPACKET, AF_UNIX (or vsock) only.
    SequentialPacket,
    /// `ListenFIFO`.
    Fifo,
    /// `ListenNetlink`.
    Netlink,
}

/// An address as systemd.socket(5) spells it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A bare port: the IPv6 wildcard, dual stack per `BindIPv6Only`; the IPv4 wildcard where there is no IPv6.
    Port(u16),
    /// `1.2.3.4:80`, `[::1]:80`.
    Inet(SocketAddr),
    /// `[fe80::1]:80%eth0`: the interface's name is resolved when the socket is bound.
    Scoped(SocketAddr, String),
    /// An absolute path: AF_UNIX, or the FIFO's. May be longer than 107 bytes.
    Path(String),
    /// `@name` in the abstract namespace, without the `@`.
    Abstract(String),
    /// `vsock:CID:PORT`; no CID means any.
    Vsock {
        /// The context id, `None` for VMADDR_CID_ANY.
        cid: Option<u32>,
        /// The port.
        port: u32,
    },
    /// `FAMILY [GROUP]` of `ListenNetlink`: the family's number and name, the multicast group bits.
    Netlink {
        /// The family's name as written, e.g. `kobject-uevent`.
        family: String,
        /// Its protocol number.
        protocol: i32,
        /// The multicast group mask, 0 for none.
        group: u32,
    },
}

/// `BindIPv6Only`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindIpv6Only {
    /// As net.ipv6.bindv6only says.
    Default,
    /// IPv4 too.
    Both,
    /// IPv6 only.
    Ipv6Only,
}

/// Options that are set on a socket before bind or listen. `None` leaves what the kernel has.
#[derive(Debug, Clone, PartialEq)]
pub struct SocketOptions {
    /// `Backlog`, default 4294967295 (the kernel caps it at net.core.somaxconn).
    pub backlog: u32,
    /// `BindIPv6Only`.
    pub bind_ipv6_only: BindIpv6Only,
    /// `ReusePort`.
    pub reuse_port: bool,
    /// `FreeBind`.
    pub free_bind: bool,
    /// `Transparent`.
    pub transparent: bool,
    /// `BindToDevice`.
    pub bind_to_device: Option<String>,
    /// `NoDelay`.
    pub no_delay: bool,
    /// `DeferAcceptSec`, rounded up to seconds by the kernel; zero is off.
    pub defer_accept: Span,
    /// `KeepAlive`.
    pub keep_alive: bool,
    /// `KeepAliveTimeSec`.
    pub keep_alive_time: Option<Span>,
    /// `KeepAliveIntervalSec`.
    pub keep_alive_interval: Option<Span>,
    /// `KeepAliveProbes`.
    pub keep_alive_probes: Option<u32>,
    /// `Priority`.
    pub priority: Option<i32>,
    /// `Mark`.
    pub mark: Option<u32>,
    /// `IPTOS`, 0 to 255.
    pub ip_tos: Option<u8>,
    /// `IPTTL`, 1 to 255.
    pub ip_ttl: Option<u8>,
    /// `ReceiveBuffer`, bytes.
    pub receive_buffer: Option<u64>,
    /// `SendBuffer`, bytes.
    pub send_buffer: Option<u64>,
    /// `PipeSize`, bytes; FIFO only.
    pub pipe_size: Option<u64>,
    /// `TCPCongestion`.
    pub tcp_congestion: Option<String>,
    /// `PassCredentials`.
    pub pass_credentials: bool,
    /// `SocketUser`: owner of a Unix path or FIFO.
    pub socket_user: Option<String>,
    /// `SocketGroup`.
    pub socket_group: Option<String>,
    /// `SocketMode`, default 0666.
    pub socket_mode: u32,
    /// `DirectoryMode`, default 0755: of parent folders that are made.
    pub directory_mode: u32,
    /// `Symlinks`: aliases of the one path.
    pub symlinks: Vec<String>,
    /// `RemoveOnStop`: remove the path (and aliases) when the socket is closed.
    pub remove_on_stop: bool,
}

/// `Sharing` (contract section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Steered for TCP, shared for everything else.
    Auto,
    /// A slot (TCP) or a socket (Unix path) per generation.
    Steered,
    /// One open file description that every generation accepts from.
    Shared,
}

/// A command line; no shell is involved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments; never empty. `${VAR}` and `$VAR` are not yet replaced.
    pub argv: Vec<String>,
    /// `@`: what the program sees as its own name instead of `argv[0]`.
    pub argv0: Option<String>,
    /// `-`: a failure of this command counts as success.
    pub ignore_failure: bool,
    /// False with `:`: no environment variable is replaced.
    pub expand: bool,
}

/// `Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceType {
    /// Up as soon as it is forked.
    Simple,
    /// Up when execve has succeeded.
    Exec,
    /// Up at READY=1.
    Notify,
    /// As `Notify`, and reloads by signal with RELOADING=1.
    NotifyReload,
    /// Up when the main process has exited with success.
    Oneshot,
}

/// `NotifyAccess`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotifyAccess {
    /// Nobody.
    None,
    /// The main process (each worker's).
    Main,
    /// Any process that aeternad started for the unit.
    Exec,
    /// Any process of the generation's tree.
    All,
}

/// `StartOn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartOn {
    /// When aeternad starts.
    Boot,
    /// At the first traffic on a socket.
    Connection,
}

/// `Restart`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Never.
    No,
    /// Whatever the end.
    Always,
    /// After a clean end.
    OnSuccess,
    /// After everything but a clean end.
    OnFailure,
    /// After an unclean signal, a timeout or the watchdog.
    OnAbnormal,
    /// After an unclean signal.
    OnAbort,
    /// After the watchdog.
    OnWatchdog,
}

/// `KillMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillMode {
    /// Every process of the generation gets the signals.
    ControlGroup,
    /// The main process gets the stop signal, every process the final one.
    Mixed,
    /// Only the main process gets signals; what it leaves stays.
    Process,
}

/// Where standard input comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// /dev/null.
    Null,
    /// aeternad's own.
    Inherit,
    /// The first socket (or the connection, with `Accept`).
    Socket,
    /// `file:/path`.
    File(String),
}

/// Where standard output or standard error goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// `inherit`: aeternad's own (systemd: stdout's for stderr).
    Inherit,
    /// /dev/null.
    Null,
    /// The same descriptor as standard input, if that is a socket.
    Socket,
    /// `file:/path`: opened for writing at its start, not truncated.
    File(String),
    /// `append:/path`.
    Append(String),
    /// Line by line through aeternad's log.
    Log,
}

/// `EnvironmentFile`: a path, optional with a leading `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentFile {
    /// Absolute path.
    pub path: String,
    /// Whether it may be missing.
    pub optional: bool,
}

/// Exit codes and signals, as `SuccessExitStatus` lists them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExitStatusSet {
    /// Exit codes.
    pub codes: Vec<u8>,
    /// Signal numbers.
    pub signals: Vec<i32>,
}

/// A `Limit…` key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Which.
    pub resource: Resource,
    /// Soft limit in the resource's unit; `u64::MAX` is infinity.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// The resources of setrlimit(2), by systemd's names (`LimitCPU` … `LimitRTTIME`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the RLIMIT_ constant of its name in setrlimit(2)")]
pub enum Resource {
    Cpu,
    Fsize,
    Data,
    Stack,
    Core,
    Rss,
    Nofile,
    As,
    Nproc,
    Memlock,
    Locks,
    Sigpending,
    Msgqueue,
    Nice,
    Rtprio,
    Rttime,
}

/// `SocketEnvironment`: other programs' ways of being given sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketEnvironment {
    /// `SERVER_STARTER_PORT`, `SERVER_STARTER_GENERATION`.
    ServerStarter,
    /// `EINHORN_FD_COUNT`, `EINHORN_FD_n`, `EINHORN_FDS`.
    Einhorn,
    /// `NGINX`.
    Nginx,
    /// `FPM_SOCKETS`.
    PhpFpm,
}

/// `[Service]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// `ExecStart`: one command; several only for `oneshot`, run one after the other.
    pub exec_start: Vec<Command>,
    /// `ExecStartPre`.
    pub exec_start_pre: Vec<Command>,
    /// `ExecStartPost`.
    pub exec_start_post: Vec<Command>,
    /// `ExecStop`.
    pub exec_stop: Vec<Command>,
    /// `ExecStopPost`.
    pub exec_stop_post: Vec<Command>,
    /// `ExecReload`.
    pub exec_reload: Vec<Command>,
    /// `Type`.
    pub service_type: ServiceType,
    /// `NotifyAccess`.
    pub notify_access: NotifyAccess,
    /// `StartOn`.
    pub start_on: StartOn,
    /// `StopWhenIdleSec`; infinity is off.
    pub stop_when_idle: Span,
    /// `Workers`, at least 1.
    pub workers: u32,
    /// `SocketEnvironment`.
    pub socket_environment: Vec<SocketEnvironment>,
    /// `NonBlocking`.
    pub non_blocking: bool,
    /// `Restart`.
    pub restart: Restart,
    /// `RestartSec`.
    pub restart_sec: Span,
    /// `RestartSteps`, 0 is off.
    pub restart_steps: u32,
    /// `RestartMaxDelaySec`, infinity is off.
    pub restart_max_delay: Span,
    /// `StartLimitIntervalSec`, zero is off.
    pub start_limit_interval: Span,
    /// `StartLimitBurst`, 0 is off.
    pub start_limit_burst: u32,
    /// `SuccessExitStatus`.
    pub success_exit_status: ExitStatusSet,
    /// `RestartPreventExitStatus`.
    pub restart_prevent_exit_status: ExitStatusSet,
    /// `RestartForceExitStatus`.
    pub restart_force_exit_status: ExitStatusSet,
    /// `TimeoutStartSec`; infinity for no limit (also written 0).
    pub timeout_start: Span,
    /// `TimeoutStopSec`; infinity for no limit (also written 0).
    pub timeout_stop: Span,
    /// `WatchdogSec`; zero is off.
    pub watchdog: Span,
    /// `WatchdogSignal`.
    pub watchdog_signal: i32,
    /// `KillMode`.
    pub kill_mode: KillMode,
    /// `KillSignal`.
    pub kill_signal: i32,
    /// `FinalKillSignal`.
    pub final_kill_signal: i32,
    /// `SendSIGKILL`.
    pub send_sigkill: bool,
    /// `SendSIGHUP`.
    pub send_sighup: bool,
    /// `User`: a name or a number.
    pub user: Option<String>,
    /// `Group`: a name or a number.
    pub group: Option<String>,
    /// `SupplementaryGroups`.
    pub supplementary_groups: Vec<String>,
    /// `WorkingDirectory`: absolute, `~` for the user's home; `None` is aeternad's own.
    pub working_directory: Option<WorkingDirectory>,
    /// `UMask`, default 0022.
    pub umask: u32,
    /// `Environment`, in order, later ones win. `${VAR}` is not yet replaced.
    pub environment: Vec<(String, String)>,
    /// `EnvironmentFile`.
    pub environment_file: Vec<EnvironmentFile>,
    /// `PassEnvironment`: `None` passes everything, `Some` only these.
    pub pass_environment: Option<Vec<String>>,
    /// `UnsetEnvironment`: names or `NAME=VALUE`.
    pub unset_environment: Vec<String>,
    /// `StandardInput`.
    pub standard_input: Input,
    /// `StandardOutput`.
    pub standard_output: Output,
    /// `StandardError`.
    pub standard_error: Output,
    /// `LimitNOFILE` and the others.
    pub limits: Vec<Limit>,
    /// `Nice`, -20 to 19.
    pub nice: Option<i32>,
    /// `OOMScoreAdjust`, -1000 to 1000.
    pub oom_score_adjust: Option<i32>,
    /// `CPUAffinity`: processor numbers, sorted.
    pub cpu_affinity: Vec<u32>,
    /// `NoNewPrivileges`.
    pub no_new_privileges: bool,
    /// `IgnoreSIGPIPE`.
    pub ignore_sigpipe: bool,
    /// `FileDescriptorStoreMax`, 0 is off.
    pub fd_store_max: u32,
    /// `RuntimeDirectory`: names below the runtime directory's parent (`/run` for root, else $XDG_RUNTIME_DIR).
    pub runtime_directory: Vec<String>,
}

/// `WorkingDirectory`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkingDirectory {
    /// Absolute path, or `~`.
    pub path: String,
    /// `-`: may be missing.
    pub optional: bool,
}

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
    /// `WatchPaths`: absolute paths.
    pub watch_paths: Vec<String>,
    /// `WatchDebounce`.
    pub watch_debounce: Span,
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
    /// The Host header.
    pub host: String,
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
#[derive(Debug, Clone, PartialEq, Default)]
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

/// Whether two addresses mean the same endpoint for one kind: what "keeps a socket at a reload" and what
/// "two units with one address" compare.
pub fn same_endpoint(a: &Listen, b: &Listen) -> bool {
    a == b
        || (a.kind == b.kind
            && wildcard(&a.address).is_some()
            && wildcard(&a.address) == wildcard(&b.address))
}

/// The port, if the address is the IPv6 wildcard in either spelling (`8080`, `[::]:8080`); never port 0.
fn wildcard(address: &Address) -> Option<u16> {
    match address {
        Address::Port(port) if *port != 0 => Some(*port),
        Address::Inet(SocketAddr::V6(v6)) if IpAddr::V6(*v6.ip()).is_unspecified() && v6.port() != 0 => {
            Some(v6.port())
        }
        Address::Port(_)
        | Address::Inet(_)
        | Address::Scoped(..)
        | Address::Path(_)
        | Address::Abstract(_)
        | Address::Vsock { .. }
        | Address::Netlink { .. } => None,
    }
}
