//! Rules of `[Service]`.

use super::super::file::{Context, Tables};
use super::super::signal_name;
use super::super::value::{NOTIFY_ACCESS, RESTARTS, TYPES, word_of};
use super::super::{Input, NotifyAccess, Output, Restart, ServiceType, StartOn, Unit};
use super::{error, warn};
use crate::time::Span;

/// The grace of a container's first process is 30s with most managers; what is left of it is for exits and disks.
const CONTAINER_GRACE: Span = Span::from_secs(25);

/// Defaults that depend on other keys: `StartOn` with `Accept`, `NotifyAccess` where messages are needed.
pub(super) fn settle(unit: &mut Unit, tables: &Tables<'_>) {
    if unit.accepts() && !tables.service.has("StartOn") {
        unit.service.start_on = StartOn::Connection;
    }
    let descriptor = unit.state.descriptor;
    let service = &mut unit.service;
    let talks = matches!(service.service_type, ServiceType::Notify | ServiceType::NotifyReload);
    let (table, needs) = if talks {
        (&tables.service, "Type")
    } else if !service.watchdog.is_zero() {
        (&tables.service, "WatchdogSec")
    } else if service.fd_store_max > 0 {
        (&tables.service, "FileDescriptorStoreMax")
    } else if descriptor {
        (&tables.state, "Descriptor")
    } else {
        return;
    };
    if service.notify_access == NotifyAccess::None {
        service.notify_access = NotifyAccess::Main;
        let main = word_of(NOTIFY_ACCESS, &NotifyAccess::Main);
        warn(
            &[(&tables.service, "NotifyAccess"), (table, needs)],
            format!("NotifyAccess is taken as \"{main}\": {needs} needs the service's messages"),
        );
    }
}

/// Applies the rules.
pub(super) fn check(unit: &Unit, tables: &Tables<'_>, context: &Context) {
    commands(unit, tables);
    start(unit, tables);
    restart(unit, tables);
    streams(unit, tables);
    stop(unit, tables, context);
    signals(unit, tables);
}

fn commands(unit: &Unit, tables: &Tables<'_>) {
    let service = &tables.service;
    let count = unit.service.exec_start.len();
    if !tables.has_service {
        service.reader().error(0, "there is no [Service]; a unit needs one, with ExecStart");
    } else if service.is_there() && count == 0 {
        error(&[(service, "ExecStart")], "[Service] has no ExecStart: what is to be started?");
    }
    if count > 1 && unit.service.service_type != ServiceType::Oneshot {
        let name = word_of(TYPES, &unit.service.service_type);
        error(
            &[(service, "ExecStart"), (service, "Type")],
            format!(
                "{count} commands in ExecStart: only Type = \"oneshot\" runs several, this is \"{name}\""
            ),
        );
    }
}

fn start(unit: &Unit, tables: &Tables<'_>) {
    let service = &tables.service;
    if unit.service.start_on == StartOn::Connection && unit.sockets.is_empty() && tables.sockets.is_empty() {
        error(
            &[(service, "StartOn")],
            "StartOn = \"connection\" needs a [[Socket]] that a connection can come to",
        );
    }
    if !unit.service.stop_when_idle.is_infinite() && unit.service.start_on != StartOn::Connection {
        error(
            &[(service, "StopWhenIdleSec"), (service, "StartOn")],
            "StopWhenIdleSec needs StartOn = \"connection\": nothing else would start the service again",
        );
    }
    let Some(socket) =
        tables.sockets.iter().zip(&unit.sockets).find(|(_, s)| s.accept).map(|(table, _)| table)
    else {
        return;
    };
    if unit.service.workers > 1 {
        error(
            &[(service, "Workers"), (socket, "Accept")],
            "Workers beside Accept = true: each connection has an instance of its own",
        );
    }
    if unit.state.enabled {
        error(
            &[(&tables.state, "Enabled"), (socket, "Accept")],
            "[State] beside Accept = true: an instance has no memory that could move to another",
        );
    }
    if unit.service.start_on != StartOn::Connection {
        error(
            &[(service, "StartOn"), (socket, "Accept")],
            "StartOn beside Accept = true can only be \"connection\": each connection starts an instance",
        );
    }
}

fn restart(unit: &Unit, tables: &Tables<'_>) {
    let service = &tables.service;
    let restart = unit.service.restart;
    if unit.service.service_type == ServiceType::Oneshot
        && matches!(restart, Restart::Always | Restart::OnSuccess)
    {
        let word = word_of(RESTARTS, &restart);
        error(
            &[(service, "Restart"), (service, "Type")],
            format!("Restart = \"{word}\" would run a oneshot service for ever; it can be \"on-failure\""),
        );
    }
    let infinite = unit.service.restart_max_delay.is_infinite();
    if unit.service.restart_steps > 0 && infinite {
        warn(
            &[(service, "RestartSteps"), (service, "RestartMaxDelaySec")],
            "RestartSteps has no effect without RestartMaxDelaySec",
        );
    }
    if unit.service.restart_steps == 0 && !infinite {
        warn(
            &[(service, "RestartMaxDelaySec"), (service, "RestartSteps")],
            "RestartMaxDelaySec has no effect without RestartSteps",
        );
    }
    if unit.service.restart_max_delay < unit.service.restart_sec {
        warn(
            &[(service, "RestartMaxDelaySec"), (service, "RestartSec")],
            format!(
                "RestartMaxDelaySec is below RestartSec ({}): the delay does not grow",
                unit.service.restart_sec
            ),
        );
    }
}

fn streams(unit: &Unit, tables: &Tables<'_>) {
    let service = &tables.service;
    if !tables.sockets.is_empty() {
        return;
    }
    if unit.service.standard_input == Input::Socket {
        error(&[(service, "StandardInput")], "StandardInput = \"socket\" needs a [[Socket]]");
    }
    for (key, stream) in
        [("StandardOutput", &unit.service.standard_output), ("StandardError", &unit.service.standard_error)]
    {
        if *stream == Output::Socket {
            error(&[(service, key)], format!("{key} = \"socket\" needs a [[Socket]]"));
        }
    }
}

/// What ends nothing, and what starts nothing again.
fn signals(unit: &Unit, tables: &Tables<'_>) {
    let (table, service) = (&tables.service, &unit.service);
    let sent = [
        ("KillSignal", service.kill_signal, "a stop waits until TimeoutStopSec has passed"),
        ("FinalKillSignal", service.final_kill_signal, "what does not end by itself stays"),
    ];
    for (key, number, then) in sent {
        if let Some(what) = no_end(number) {
            let name = signal_name(number);
            warn(&[(table, key)], format!("{key} = \"{name}\" {what}: {then}"));
        }
    }
    if !service.send_sigkill {
        let rest = if service.timeout_stop.is_infinite() {
            "a stop may wait for ever"
        } else {
            "processes may stay"
        };
        warn(
            &[(table, "SendSIGKILL")],
            format!("SendSIGKILL = false: what does not end by itself is not killed, {rest}"),
        );
    }
    if service.restart != Restart::No && service.restart_sec.is_infinite() {
        warn(
            &[(table, "RestartSec"), (table, "Restart")],
            "RestartSec is infinity: the service is never restarted",
        );
    }
}

/// Why a signal ends no process, if so.
fn no_end(number: i32) -> Option<&'static str> {
    Some(match signal_name(number).as_str() {
        "SIGSTOP" | "SIGTSTP" | "SIGTTIN" | "SIGTTOU" => "halts processes and ends none",
        "SIGCONT" | "SIGCHLD" => "ends no process that does not ask for it",
        _ => return None,
    })
}

fn stop(unit: &Unit, tables: &Tables<'_>, context: &Context) {
    let delay = unit.daemon.stop_delay.unwrap_or(Span::ZERO);
    let together = unit.service.timeout_stop + delay;
    if context.pid1 && together > CONTAINER_GRACE {
        let key = if tables.service.has("TimeoutStopSec") {
            (&tables.service, "TimeoutStopSec")
        } else {
            (&tables.daemon, "StopDelaySec")
        };
        warn(
            &[key, (&tables.daemon, "StopDelaySec")],
            format!(
                "TimeoutStopSec and StopDelaySec are {together} together, more than {CONTAINER_GRACE}: most container \
                 managers kill after 30s (Docker: 10s)"
            ),
        );
    }
}
