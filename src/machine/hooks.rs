//! `OnSuccess` and `OnFailure`: run one after the other when a reload has ended; nobody waits for them.

use super::event::{Announcement, Proc, Role};
use super::model::{End, HookRun};
use super::turn::Turn;
use crate::time::{Span, UNSEEN};
use crate::unit::Command;

/// Whether a command counts as successful.
pub(super) fn command_ok(command: &Command, end: &End) -> bool {
    end.is_success() || command.ignore_failure
}

impl Turn<'_> {
    pub(super) fn start_hooks(&mut self, run: HookRun) {
        if self.s.is_down() || run.list(&self.unit(run.content)).is_empty() {
            return;
        }
        self.s.hooks.push_back(run);
        if self.s.hooks.len() == 1 {
            self.next_hook();
        }
    }

    /// Starts the next command of the first run, and the next run if that was the last.
    fn next_hook(&mut self) {
        while let Some(run) = self.s.hooks.front().cloned() {
            let unit = self.unit(run.content);
            if let Some(hook) = run.list(&unit).get(run.index as usize) {
                let role = if run.success { Role::OnSuccess(run.index) } else { Role::OnFailure(run.index) };
                let proc = self.spawn(role, run.content, None, run.environment.clone());
                let deadline = self.now.after(hook.timeout);
                if let Some(front) = self.s.hooks.front_mut() {
                    front.running = Some((proc, deadline));
                    front.spared = false;
                }
                return;
            }
            self.s.hooks.pop_front();
        }
    }

    pub(super) fn hook_ended(&mut self, proc: Proc, end: &End) {
        self.sweep(proc);
        let Some(run) = self.s.hooks.front_mut().filter(|run| run.running.is_some_and(|(p, _)| p == proc))
        else {
            return;
        };
        let index = run.index as usize;
        run.index += 1;
        run.running = None;
        let run = run.clone();
        let unit = self.unit(run.content);
        if let Some(hook) = run.list(&unit).get(index).filter(|hook| !command_ok(&hook.exec, end)) {
            let text = format!("hook \"{}\" {}", hook.name, end.text);
            self.warn(text);
        } else if let Some(hook) = run.list(&unit).get(index) {
            let text = format!("hook \"{}\" has run", hook.name);
            self.announce(Announcement::Step { generation: None, text });
        }
        self.next_hook();
    }

    /// Whether the command that runs gets its time again because nobody saw it pass.
    fn hook_once_more(&mut self) -> bool {
        let now = self.now;
        let Some(run) = self.s.hooks.front().filter(|run| !run.spared).cloned() else { return false };
        let unit = self.unit(run.content);
        let hook = run.list(&unit).get(run.index as usize);
        let Some((again, name)) = hook.and_then(|hook| Some((now.after(hook.timeout)?, hook.name.clone())))
        else {
            return false;
        };
        let Some(run) = self.s.hooks.front_mut() else { return false };
        let Some((_, Some(deadline))) = &mut run.running else { return false };
        if now.since(*deadline) <= UNSEEN {
            return false;
        }
        *deadline = again;
        run.spared = true;
        self.warn(format!(
            "aeternad itself was not awake in time: hook \"{name}\" gets its timeout once more"
        ));
        true
    }

    pub(super) fn tick_hooks(&mut self) {
        if self.hook_once_more() {
            return;
        }
        let now = self.now;
        let Some((proc, deadline)) = self.s.hooks.front_mut().and_then(|run| run.running.as_mut()) else {
            return;
        };
        if deadline.is_some_and(|deadline| deadline <= now) {
            *deadline = None;
            let proc = *proc;
            self.sweep(proc);
        }
    }

    /// A stop has begun: what runs may end in time, nothing follows it.
    pub(super) fn hurry_hooks(&mut self, timeout: Span) {
        let limit = self.now.after(timeout);
        self.s.hooks.truncate(1);
        if let Some(run) = self.s.hooks.front_mut() {
            run.index = u32::MAX - 1;
            if let (Some((_, Some(deadline))), Some(limit)) = (run.running.as_mut(), limit) {
                *deadline = (*deadline).min(limit);
            }
        }
    }

    /// No more waiting.
    pub(super) fn kill_hooks(&mut self) {
        let procs: Vec<Proc> =
            self.s.procs.iter().filter(|owned| owned.generation.is_none()).map(|owned| owned.proc).collect();
        for proc in procs {
            self.sweep(proc);
        }
    }
}
