//! `Strategy = "signal"`: the running generation is told to reload, by `ExecReload` or by a signal.

use super::event::{Action, ContentId, Gen, Proc, Role, Target};
use super::hooks::command_ok;
use super::reload::ReloadPhase;
use super::restart::End;
use super::turn::Turn;
use crate::unit::ServiceType;

impl Turn<'_> {
    pub(super) fn reload_command(&mut self, content: ContentId, current: Gen, index: u32, acked: Vec<u32>) {
        let unit = self.unit(content);
        if unit.service.exec_reload.len() > index as usize {
            let pid = self.s.generation(current).and_then(|g| g.first_pid());
            let environment = pid.map(|pid| ("MAINPID".to_owned(), pid.to_string())).into_iter().collect();
            let proc = self.spawn(Role::Reload(index), content, Some(current), environment);
            let deadline = self.now.after(unit.service.timeout_start);
            self.set_reload(ReloadPhase::Command { index, proc, deadline, acked });
            return;
        }
        if unit.service.exec_reload.is_empty() {
            let signal = unit.reload.reload_signal;
            self.push(Action::Signal { to: Target::Mains(current), signal });
        }
        if unit.service.service_type == ServiceType::NotifyReload {
            let deadline = self.now.after(unit.service.timeout_start);
            self.set_reload(ReloadPhase::AwaitReady { deadline, acked });
            self.reload_acked(current);
        } else {
            self.take_content("the service was told");
        }
    }

    pub(super) fn reload_command_ended(&mut self, ended: u32, of: Proc, end: &End) {
        let Some(reload) = self.s.reload.as_ref() else { return };
        let (Some(content), Some(current)) = (reload.content, self.s.current) else { return };
        let ReloadPhase::Command { index, proc, acked, .. } = &reload.phase else { return };
        if (*index, *proc) != (ended, of) {
            return;
        }
        let acked = acked.clone();
        let unit = self.unit(content);
        match unit.service.exec_reload.get(ended as usize) {
            Some(command) if !command_ok(command, end) => {
                self.fail_reload(format!("ExecReload {}; the service runs on as it was", end.text));
            }
            Some(_) | None => self.reload_command(content, current, ended + 1, acked),
        }
    }

    /// READY=1 of a worker while a `signal` reload is under way.
    pub(super) fn reload_ready(&mut self, number: Gen, worker: u32) {
        if self.s.current != Some(number) {
            return;
        }
        let Some(reload) = self.s.reload.as_mut() else { return };
        match &mut reload.phase {
            ReloadPhase::Command { acked, .. } | ReloadPhase::AwaitReady { acked, .. } => acked.push(worker),
            ReloadPhase::Loading
            | ReloadPhase::Opening
            | ReloadPhase::Binary
            | ReloadPhase::PreFlight { .. }
            | ReloadPhase::StoppingOld
            | ReloadPhase::Starting
            | ReloadPhase::Soaking(_)
            | ReloadPhase::RollingBack { .. }
            | ReloadPhase::Restoring { .. } => return,
        }
        self.reload_acked(number);
    }

    fn reload_acked(&mut self, number: Gen) {
        let Some(ReloadPhase::AwaitReady { acked, .. }) = self.s.reload.as_ref().map(|reload| &reload.phase)
        else {
            return;
        };
        let Some(generation) = self.s.generation(number) else { return };
        let mut alive = generation.workers.iter().zip(0u32..).filter(|(worker, _)| worker.proc.is_some());
        if alive.all(|(_, index)| acked.contains(&index)) {
            self.take_content("the service has said READY=1");
        }
    }
}
