//! Start limits, back-off and the restart table: arithmetic that knows no phases.

use super::event::{Exit, SpawnFailure};
use crate::time::{Monotime, Span};
use crate::unit::{ExitStatusSet, Restart, Service, ServiceType};
use serde::{Deserialize, Serialize};

/// systemd's `SERVICE_RESULT` words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Word {
    Success,
    Protocol,
    Timeout,
    ExitCode,
    Signal,
    CoreDump,
    Watchdog,
    StartLimitHit,
    Resources,
    /// Ours: an `Always` health check failed.
    Health,
}

impl Word {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Word::Success => "success",
            Word::Protocol => "protocol",
            Word::Timeout => "timeout",
            Word::ExitCode => "exit-code",
            Word::Signal => "signal",
            Word::CoreDump => "core-dump",
            Word::Watchdog => "watchdog",
            Word::StartLimitHit => "start-limit-hit",
            Word::Resources => "resources",
            Word::Health => "health",
        }
    }
}

/// How a process or a whole generation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) result: Word,
    pub(super) exit: Option<Exit>,
    /// As an exit status of aeternad.
    pub(super) code: u8,
    /// What it did, after "generation 2 ": "exited with status 3".
    pub(super) text: String,
}

impl End {
    /// A main process has exited.
    pub(super) fn of_main(exit: Exit, service: &Service) -> End {
        let extra = &service.success_exit_status;
        let oneshot = service.service_type == ServiceType::Oneshot;
        // HUP, INT, TERM and PIPE are how a service is told to end.
        let clean_signal = |signal: i32| !oneshot && matches!(signal, 1 | 2 | 13 | 15);
        let result = match exit {
            Exit::Code(0) => Word::Success,
            Exit::Code(code) if extra.codes.contains(&code) => Word::Success,
            Exit::Code(_) | Exit::Unknown => Word::ExitCode,
            Exit::Signal { signal, .. } if extra.signals.contains(&signal) => Word::Success,
            Exit::Signal { core: true, .. } => Word::CoreDump,
            Exit::Signal { signal, .. } if clean_signal(signal) => Word::Success,
            Exit::Signal { .. } => Word::Signal,
        };
        End { result, exit: Some(exit), code: code_of(exit), text: describe(exit) }
    }

    /// A hook or control command has exited: only 0 is a success.
    pub(super) fn of_command(exit: Exit) -> End {
        let result = match exit {
            Exit::Code(0) => Word::Success,
            Exit::Code(_) | Exit::Unknown => Word::ExitCode,
            Exit::Signal { core: true, .. } => Word::CoreDump,
            Exit::Signal { .. } => Word::Signal,
        };
        End { result, exit: Some(exit), code: code_of(exit), text: describe(exit) }
    }

    /// There was no process.
    pub(super) fn not_started(failure: &SpawnFailure) -> End {
        // 126 and 127 are the program's fault, as systemd's 203 is; everything else is ours.
        let result = if failure.code == 1 { Word::Resources } else { Word::ExitCode };
        // "cannot start app: exec …": which unit it is, the reader knows.
        let why = failure.text.strip_prefix("cannot start ").and_then(|text| text.split_once(": "));
        let text = format!("could not be started: {}", why.map_or(failure.text.as_str(), |(_, why)| why));
        End { result, exit: None, code: failure.code.max(1), text }
    }

    /// It was given up on.
    pub(super) fn given_up(result: Word, text: String) -> End {
        End { result, exit: None, code: 1, text }
    }

    pub(super) fn is_success(&self) -> bool {
        self.result == Word::Success
    }

    /// `SERVICE_RESULT`, `EXIT_CODE` and `EXIT_STATUS` for `ExecStopPost`.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let mut environment = vec![("SERVICE_RESULT".into(), self.result.text().into())];
        let (kind, status) = match self.exit {
            Some(Exit::Code(code)) => ("exited", code.to_string()),
            Some(Exit::Signal { signal, core }) => {
                (if core { "dumped" } else { "killed" }, signal_name(signal))
            }
            Some(Exit::Unknown) | None => return environment,
        };
        environment.push(("EXIT_CODE".into(), kind.into()));
        environment.push(("EXIT_STATUS".into(), status));
        environment
    }

    /// The exit status that aeternad ends with if this is the end of the one service.
    pub(super) fn exit_status(&self) -> u8 {
        if self.is_success() { self.code } else { self.code.max(1) }
    }
}

fn code_of(exit: Exit) -> u8 {
    match exit {
        Exit::Code(code) => code,
        Exit::Signal { signal, .. } => 128u8.saturating_add(u8::try_from(signal).unwrap_or(127)),
        Exit::Unknown => 1,
    }
}

/// What a process did, for people: "exited with status 3".
pub(super) fn describe(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exited with status {code}"),
        Exit::Signal { signal, core } => {
            let dumped = if core { " and dumped core" } else { "" };
            format!("was killed by SIG{}{dumped}", signal_name(signal))
        }
        Exit::Unknown => "ended, and nobody can say how".into(),
    }
}

/// A signal's name without SIG, as `EXIT_STATUS` has it; the number where there is none.
pub(super) fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 32] = [
        "", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU",
        "XFSZ", "VTALRM", "PROF", "WINCH", "POLL", "PWR", "SYS",
    ];
    match usize::try_from(signal).ok().and_then(|at| NAMES.get(at)) {
        Some(name) if !name.is_empty() => (*name).into(),
        Some(_) | None => signal.to_string(),
    }
}

fn listed(set: &ExitStatusSet, exit: Option<Exit>) -> bool {
    match exit {
        Some(Exit::Code(code)) => set.codes.contains(&code),
        Some(Exit::Signal { signal, .. }) => set.signals.contains(&signal),
        Some(Exit::Unknown) | None => false,
    }
}

/// systemd.service(5), table 1, with `RestartPreventExitStatus` and `RestartForceExitStatus`.
pub(super) fn wants_restart(service: &Service, end: &End) -> bool {
    if listed(&service.restart_prevent_exit_status, end.exit) {
        return false;
    }
    if listed(&service.restart_force_exit_status, end.exit) || end.result == Word::Health {
        return true;
    }
    match service.restart {
        Restart::No => false,
        Restart::Always => true,
        Restart::OnSuccess => end.result == Word::Success,
        Restart::OnFailure => end.result != Word::Success,
        Restart::OnAbnormal => !matches!(end.result, Word::Success | Word::ExitCode),
        Restart::OnAbort => matches!(end.result, Word::Signal | Word::CoreDump),
        Restart::OnWatchdog => end.result == Word::Watchdog,
    }
}

/// How long to wait before restart number `attempt` (0 for the first): geometric from `RestartSec` to
/// `RestartMaxDelaySec` in `RestartSteps` steps.
pub(super) fn delay(service: &Service, attempt: u32) -> Span {
    let (first, last) = (service.restart_sec, service.restart_max_delay);
    if attempt == 0
        || service.restart_steps == 0
        || last.is_infinite()
        || first.is_infinite()
        || first.is_zero()
        || first >= last
    {
        return first;
    }
    if attempt >= service.restart_steps {
        return last;
    }
    let ratio = last.0 as f64 / first.0 as f64;
    let factor = ratio.powf(f64::from(attempt) / f64::from(service.restart_steps));
    Span((first.0 as f64 * factor) as u64).min(last)
}

/// So many things in so long, as systemd counts them: a window begins with the first one after the last window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Window {
    begin: Option<Monotime>,
    count: u32,
}

impl Window {
    /// Counts one. False, without counting, if `burst` were already counted. Zero in either is no limit.
    pub(super) fn take(&mut self, now: Monotime, interval: Span, burst: u32) -> bool {
        if interval.is_zero() || burst == 0 {
            return true;
        }
        let over = self.begin.is_none_or(|begin| begin.after(interval).is_some_and(|end| now >= end));
        if over {
            *self = Window { begin: Some(now), count: 0 };
        }
        if self.count >= burst {
            return false;
        }
        self.count += 1;
        true
    }

    /// When the next one would be allowed: `None` for at once.
    pub(super) fn opens(&self, now: Monotime, interval: Span, burst: u32) -> Option<Monotime> {
        if interval.is_zero() || burst == 0 || self.count < burst {
            return None;
        }
        self.begin.map(|begin| begin + interval).filter(|end| now < *end)
    }
}
