//! What a process is started for, in terms of the unit.

use crate::machine::event::Role;
use crate::unit::{self, Command, Unit};

/// The command of a role; `None` if the unit has no such one.
pub fn command_of(unit: &Unit, role: Role) -> Option<&Command> {
    let service = &unit.service;
    let at = |list: &'_ [Command], index: u32| -> Option<usize> {
        ((index as usize) < list.len()).then_some(index as usize)
    };
    match role {
        Role::Main { command, .. } => at(&service.exec_start, command).map(|i| &service.exec_start[i]),
        Role::Instance(_) => service.exec_start.first(),
        Role::StartPre(n) => service.exec_start_pre.get(n as usize),
        Role::StartPost(n) => service.exec_start_post.get(n as usize),
        Role::Stop(n) => service.exec_stop.get(n as usize),
        Role::StopPost(n) => service.exec_stop_post.get(n as usize),
        Role::Reload(n) => service.exec_reload.get(n as usize),
        Role::PreFlight(n) => unit.reload.pre_flight.get(n as usize).map(|hook| &hook.exec),
        Role::OnSuccess(n) => unit.reload.on_success.get(n as usize).map(|hook| &hook.exec),
        Role::OnFailure(n) => unit.reload.on_failure.get(n as usize).map(|hook| &hook.exec),
        Role::Analysis(n) => {
            let check = unit.analysis.as_ref().and_then(|analysis| analysis.checks.get(n as usize));
            match check.map(|check| &check.kind) {
                Some(unit::AnalysisKind::Exec(command)) => Some(command),
                _ => None,
            }
        }
        Role::Health => match unit.health.as_ref().map(|health| &health.check) {
            Some(unit::Check::Exec(command)) => Some(command),
            Some(unit::Check::HttpGet(_) | unit::Check::TcpConnect(_)) | None => None,
        },
    }
}

/// Whether a role is the one that a person at a terminal talks to.
pub fn is_first(role: Role) -> bool {
    matches!(role, Role::Main { worker: 0, .. })
}

/// Whether a role gets the sockets.
pub fn gets_sockets(role: Role) -> bool {
    matches!(role, Role::Main { .. } | Role::Instance(_))
}
