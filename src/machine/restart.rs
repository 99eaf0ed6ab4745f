//! Start limits, back-off and the restart table: arithmetic that knows no phases.

use super::event::Exit;
use super::model::{End, Word};
use crate::time::Span;
use crate::unit::{ExitStatusSet, Restart, Service};

fn listed(set: &ExitStatusSet, exit: Option<Exit>) -> bool {
    match exit {
        Some(Exit::Code(code)) => set.codes.contains(&code),
        Some(Exit::Signal { signal, .. }) => set.signals.contains(&signal),
        Some(Exit::Unknown) | None => false,
    }
}

/// systemd.service(5), table 1, with `RestartPreventExitStatus` and `RestartForceExitStatus`.
pub(super) fn wants_restart(service: &Service, end: &End) -> bool {
    if end.gone || listed(&service.restart_prevent_exit_status, end.exit) {
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
