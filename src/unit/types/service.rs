//! `[Service]`: what is started and what it runs as.

use super::GroupLimits;
use crate::time::Span;
use serde::{Deserialize, Serialize};

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// `InterceptBind`: sockets are given at bind(2), to programs that know of nothing else.
    pub intercept_bind: bool,
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
    /// `Release`: an absolute path without a slash at its end.
    pub release: Option<String>,
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
    /// `MemoryMax` and the others.
    pub group_limits: GroupLimits,
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

impl Service {
    /// Whether the sockets have `O_NONBLOCK`: as `NonBlocking` says, and always for nginx's way, which hands over
    /// sockets that an nginx has already made so. An nginx never sets it on those; its workers wake up together, and
    /// the one that comes second would wait in accept(2), deaf to everything else, its stop included.
    pub fn wants_non_blocking(&self) -> bool {
        self.non_blocking || self.socket_environment.contains(&SocketEnvironment::Nginx)
    }
}

/// `WorkingDirectory`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkingDirectory {
    /// Absolute path, or `~`.
    pub path: String,
    /// `-`: may be missing.
    pub optional: bool,
}
