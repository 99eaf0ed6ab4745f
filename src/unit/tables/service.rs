//! `[Service]`: what is started, when, and how it ends. What the process runs as is in `process.rs`.

use super::super::read::{
    Table, Value, choice, flag, integer, limited, list, positive_time, signal, time, timeout,
};
use super::super::value::{
    KILL_MODES, NOTIFY_ACCESS, RESTARTS, SOCKET_ENVIRONMENTS, START_ON, TYPES, parse_exit_status,
};
use super::super::{
    ExitStatusSet, GroupLimits, Input, KillMode, NotifyAccess, Output, Restart, Service, ServiceType,
    SocketEnvironment, StartOn,
};
use super::commands::commands;
use super::environment::read_environment;
use super::process::{read_identity, read_limits, read_streams};
use super::set;
use crate::time::Span;

/// The most workers of one generation: beyond is a slip of the keyboard.
const MOST_WORKERS: i64 = 4096;

/// A service without a command and with every default. `pid1`: aeternad is a container's first process,
/// whose grace is short.
pub(crate) fn service_defaults(pid1: bool) -> Service {
    Service {
        exec_start: Vec::new(),
        exec_start_pre: Vec::new(),
        exec_start_post: Vec::new(),
        exec_stop: Vec::new(),
        exec_stop_post: Vec::new(),
        exec_reload: Vec::new(),
        service_type: ServiceType::Exec,
        notify_access: NotifyAccess::Main,
        start_on: StartOn::Boot,
        stop_when_idle: Span::INFINITY,
        workers: 1,
        intercept_bind: false,
        socket_environment: Vec::new(),
        non_blocking: false,
        restart: Restart::No,
        restart_sec: Span::from_millis(100),
        restart_steps: 0,
        restart_max_delay: Span::INFINITY,
        start_limit_interval: Span::from_secs(10),
        start_limit_burst: 5,
        success_exit_status: ExitStatusSet::default(),
        restart_prevent_exit_status: ExitStatusSet::default(),
        restart_force_exit_status: ExitStatusSet::default(),
        timeout_start: Span::from_secs(90),
        timeout_stop: Span::from_secs(if pid1 { 20 } else { 90 }),
        watchdog: Span::ZERO,
        watchdog_signal: 6,
        kill_mode: KillMode::ControlGroup,
        kill_signal: 15,
        final_kill_signal: 9,
        send_sigkill: true,
        send_sighup: false,
        user: None,
        group: None,
        supplementary_groups: Vec::new(),
        working_directory: None,
        release: None,
        umask: 0o022,
        environment: Vec::new(),
        environment_file: Vec::new(),
        pass_environment: None,
        unset_environment: Vec::new(),
        standard_input: Input::Null,
        standard_output: Output::Inherit,
        standard_error: Output::Inherit,
        limits: Vec::new(),
        nice: None,
        oom_score_adjust: None,
        group_limits: GroupLimits::default(),
        cpu_affinity: Vec::new(),
        no_new_privileges: false,
        ignore_sigpipe: true,
        fd_store_max: 0,
        runtime_directory: Vec::new(),
    }
}

/// Reads `[Service]`.
pub(crate) fn read_service(table: &Table<'_>, pid1: bool) -> Service {
    let mut service = service_defaults(pid1);
    read_commands(table, &mut service);
    read_start(table, &mut service);
    read_restart(table, &mut service);
    read_timeouts(table, &mut service);
    read_stop(table, &mut service);
    read_identity(table, &mut service);
    read_environment(table, &mut service);
    read_streams(table, &mut service);
    read_limits(table, &mut service);
    service
}

fn read_commands(table: &Table<'_>, service: &mut Service) {
    set(&mut service.exec_start, table.take("ExecStart", commands));
    set(&mut service.exec_start_pre, table.take("ExecStartPre", commands));
    set(&mut service.exec_start_post, table.take("ExecStartPost", commands));
    set(&mut service.exec_stop, table.take("ExecStop", commands));
    set(&mut service.exec_stop_post, table.take("ExecStopPost", commands));
    set(&mut service.exec_reload, table.take("ExecReload", commands));
}

/// `Type`. What systemd has and we have not is answered with what to do instead.
fn service_type(value: &Value<'_>) -> Option<ServiceType> {
    match value.get().as_str() {
        Some("forking") => value.fail(
            "\"forking\" is no Type here: aeternad supervises the process that it starts; give the program its option to \
             stay in the foreground, and use \"exec\" or \"notify\"",
        ),
        _ => choice(value, "a Type", TYPES),
    }
}

fn read_start(table: &Table<'_>, service: &mut Service) {
    set(&mut service.service_type, table.take("Type", service_type));
    set(
        &mut service.notify_access,
        table.take("NotifyAccess", |v| choice(v, "a NotifyAccess", NOTIFY_ACCESS)),
    );
    set(&mut service.start_on, table.take("StartOn", |v| choice(v, "a StartOn", START_ON)));
    set(&mut service.stop_when_idle, table.take("StopWhenIdleSec", positive_time));
    set(&mut service.workers, table.take("Workers", |v| integer(v, 1..=MOST_WORKERS)));
    set(&mut service.intercept_bind, table.take("InterceptBind", flag));
    let conventions = |v: &Value<'_>| list(v, |v| choice(v, "a SocketEnvironment", SOCKET_ENVIRONMENTS));
    set(&mut service.socket_environment, table.take("SocketEnvironment", conventions));
    // nginx makes its own sockets so and counts on it of those that it inherits: a worker that meets nothing to
    // accept would sleep in accept(2), deaf to its master.
    service.non_blocking = service.socket_environment.contains(&SocketEnvironment::Nginx);
    set(&mut service.non_blocking, table.take("NonBlocking", flag));
    let most_descriptors = i64::from(i32::MAX);
    set(
        &mut service.fd_store_max,
        table.take("FileDescriptorStoreMax", |v| integer(v, 0..=most_descriptors)),
    );
}

fn read_restart(table: &Table<'_>, service: &mut Service) {
    set(&mut service.restart, table.take("Restart", |v| choice(v, "a Restart", RESTARTS)));
    set(&mut service.restart_sec, table.take("RestartSec", time));
    set(&mut service.restart_steps, table.take("RestartSteps", |v| integer(v, 0..=i64::from(u32::MAX))));
    set(&mut service.restart_max_delay, table.take("RestartMaxDelaySec", time));
    set(&mut service.start_limit_interval, table.take("StartLimitIntervalSec", time));
    set(
        &mut service.start_limit_burst,
        table.take("StartLimitBurst", |v| integer(v, 0..=i64::from(u32::MAX))),
    );
    set(&mut service.success_exit_status, table.take("SuccessExitStatus", exit_statuses));
    set(&mut service.restart_prevent_exit_status, table.take("RestartPreventExitStatus", exit_statuses));
    set(&mut service.restart_force_exit_status, table.take("RestartForceExitStatus", exit_statuses));
}

fn read_timeouts(table: &Table<'_>, service: &mut Service) {
    if service.service_type == ServiceType::Oneshot {
        service.timeout_start = Span::INFINITY;
    }
    set(&mut service.timeout_start, table.take("TimeoutStartSec", timeout));
    set(&mut service.timeout_stop, table.take("TimeoutStopSec", timeout));
    // Not to be watched is zero, however it is written.
    let watchdog = |v: &Value<'_>| time(v).map(|span| if span.is_infinite() { Span::ZERO } else { span });
    set(&mut service.watchdog, table.take("WatchdogSec", watchdog));
    set(&mut service.watchdog_signal, table.take("WatchdogSignal", signal));
}

fn read_stop(table: &Table<'_>, service: &mut Service) {
    set(&mut service.kill_mode, table.take("KillMode", |v| choice(v, "a KillMode", KILL_MODES)));
    set(&mut service.kill_signal, table.take("KillSignal", signal));
    set(&mut service.final_kill_signal, table.take("FinalKillSignal", signal));
    set(&mut service.send_sigkill, table.take("SendSIGKILL", flag));
    set(&mut service.send_sighup, table.take("SendSIGHUP", flag));
}

/// Codes, names and signals: items of a list, or words of a string.
fn exit_statuses(value: &Value<'_>) -> Option<ExitStatusSet> {
    let mut set = ExitStatusSet::default();
    let items = list(value, |item| limited(item, |text| Ok(text.to_string())).map(|text| (*item, text)))?;
    let mut good = true;
    for (item, text) in items {
        for word in text.split_ascii_whitespace() {
            if let Err(why) = parse_exit_status(word, &mut set) {
                item.fail::<()>(why);
                good = false;
            }
        }
    }
    good.then_some(set)
}
