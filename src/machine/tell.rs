//! `Strategy = "signal"`: the running generation is told to reload, by `ExecReload` or by a signal.

use super::event::{Action, ContentId, Gen, Proc, Role, Target};
use super::hooks::command_ok;
use super::model::{End, Stage, Telling, Told};
use super::turn::Turn;
use crate::time::Monotime;
use crate::unit::ServiceType;

impl Turn<'_> {
    pub(super) fn reload_command(&mut self, content: ContentId, current: Gen, index: u32, told: Told) {
        let unit = self.unit(content);
        if unit.service.exec_reload.len() > index as usize {
            let pid = self.s.generation(current).and_then(|g| g.first_pid());
            let environment = pid.map(|pid| ("MAINPID".to_owned(), pid.to_string())).into_iter().collect();
            let proc = self.spawn(Role::Reload(index), content, Some(current), environment);
            let deadline = self.now.after(unit.service.timeout_start);
            let step = Telling::Command { index, proc, deadline };
            self.set_stage(Stage::Told { content, told, step });
            return;
        }
        if unit.service.exec_reload.is_empty() {
            let signal = unit.reload.reload_signal;
            self.push(Action::Signal { to: Target::Mains(current), signal });
        }
        // What runs was launched with the older content, and does what that says.
        if self.unit_of(current).service.service_type == ServiceType::NotifyReload {
            let deadline = self.now.after(unit.service.timeout_start);
            let step = Telling::AwaitReady { deadline };
            self.set_stage(Stage::Told { content, told, step });
            self.reload_acked(current);
        } else {
            self.take_content("the service was told");
        }
    }

    pub(super) fn reload_command_ended(&mut self, ended: u32, of: Proc, end: &End) {
        let Some(reload) = self.s.reload.as_ref() else { return };
        let Some(current) = self.s.current else { return };
        let Stage::Told { content, told, step: Telling::Command { index, proc, .. } } = &reload.stage else {
            return;
        };
        if (*index, *proc) != (ended, of) {
            return;
        }
        let (told, content) = (told.clone(), *content);
        let unit = self.unit(content);
        match unit.service.exec_reload.get(ended as usize) {
            Some(command) if !command_ok(command, end) => {
                self.fail_reload(format!("ExecReload {}; the service runs on as it was", end.text));
            }
            Some(_) | None => self.reload_command(content, current, ended + 1, told),
        }
    }

    /// READY=1 of a worker while a `signal` reload is under way. `began`: since when it was reloading, if it said
    /// so; the end of a reload that it had begun before it was told is not the one that is waited for.
    pub(super) fn reload_ready(&mut self, number: Gen, worker: u32, began: Option<Monotime>) {
        if self.s.current != Some(number) {
            return;
        }
        let Some(told) = self.told_mut() else { return };
        if began.is_some_and(|began| told.is_after(began)) {
            return;
        }
        told.acked.push(worker);
        self.reload_acked(number);
    }

    fn reload_acked(&mut self, number: Gen) {
        let Some(Stage::Told { told, step: Telling::AwaitReady { .. }, .. }) =
            self.s.reload.as_ref().map(|reload| &reload.stage)
        else {
            return;
        };
        let Some(generation) = self.s.generation(number) else { return };
        let mut alive = generation.workers.iter().zip(0u32..).filter(|(worker, _)| worker.proc.is_some());
        if alive.all(|(_, index)| told.acked.contains(&index)) {
            self.take_content("the service has said READY=1");
        }
    }

    /// A worker that is started now reads what is there now.
    pub(super) fn starts_anew(&mut self, worker: u32) {
        if let Some(told) = self.told_mut() {
            told.acked.push(worker);
        }
    }

    fn told_mut(&mut self) -> Option<&mut Told> {
        match &mut self.s.reload.as_mut()?.stage {
            Stage::Told { told, .. } => Some(told),
            Stage::Before(_)
            | Stage::StoppingOld { .. }
            | Stage::Beside { .. }
            | Stage::GivingUp { .. }
            | Stage::Restoring { .. } => None,
        }
    }

    /// A worker has died; if it was told to reload and has not said that it has, it never will.
    pub(super) fn told_is_lost(&mut self, number: Gen, worker: u32, end: &End) {
        let Some(Stage::Told { told, .. }) = self.s.reload.as_ref().map(|reload| &reload.stage) else {
            return;
        };
        let acks = self.unit_of(number).service.service_type == ServiceType::NotifyReload;
        if acks && !told.acked.contains(&worker) {
            self.fail_reload(format!(
                "worker {worker} of generation {} {} before it said READY=1",
                number.0, end.text
            ));
        }
    }
}
