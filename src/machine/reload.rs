//! A reload from its beginning to the launch of the new generation; what follows is in `soak.rs`.

use super::event::{Action, Announcement, Content, ContentId, Proc, Question, Req, Role, Target, Ticket};
use super::hooks::command_ok;
use super::model::{Before, End, Kind, Newcomer, Reload, Rest, SIGKILL, Stage, Step, Telling, Told};
use super::pending::pending_keys;
use super::rest::started;
use super::turn::Turn;
use crate::time::{Monotime, UNSEEN};
use crate::unit::{Strategy, Unit};

impl Turn<'_> {
    /// Begins a reload of the file, or to a content that was there before.
    pub(super) fn begin_reload(&mut self, req: Option<Req>, asked: String, to: Option<ContentId>) {
        self.second_chance();
        let old = self.s.serving().map(|g| (g.number, g.first_pid()));
        if old.is_some() {
            // Why the last one was rolled back says nothing about this one. Why there is no service still does.
            self.s.why.clear();
        }
        let before = match to {
            Some(content) => Before::Opening { content, asked: self.ticket() },
            None => Before::Loading(self.ask(Question::Load)),
        };
        self.s.reload = Some(Reload {
            req,
            waiters: Vec::new(),
            asked,
            back: to.is_some(),
            old: old.map(|(number, _)| number),
            old_content: self.s.content,
            old_pid: old.and_then(|(_, pid)| pid),
            old_end: None,
            launched: None,
            new_pid: None,
            began: self.now,
            phases: Vec::new(),
            shown: false,
            asked_for_state: None,
            relayed: None,
            stage: Stage::Before(before),
            spared: false,
            judging: None,
        });
        if let Some(id) = to {
            self.reload_open(self.contents.get(id).clone());
        }
    }

    pub(super) fn set_stage(&mut self, stage: Stage) {
        if let Some(reload) = self.s.reload.as_mut() {
            reload.stage = stage;
        }
    }

    pub(super) fn loaded(&mut self, ticket: Ticket, result: Result<Content, String>) {
        if !self.reload_waits_for(Before::Loading(ticket)) {
            return self.job_loaded(ticket, result);
        }
        match result {
            Ok(content) => self.reload_open(content),
            Err(why) => self.fail_reload(why),
        }
    }

    fn reload_waits_for(&self, before: Before) -> bool {
        self.s.reload.as_ref().is_some_and(|reload| reload.stage == Stage::Before(before))
    }

    fn reload_open(&mut self, content: Content) {
        self.contents.add(content.clone());
        let id = content.id;
        let asked = self.ticket();
        self.set_stage(Stage::Before(Before::Opening { content: id, asked }));
        if content.unit.accepts() != self.unit(self.s.content).accepts() {
            self.fail_reload("Accept cannot be changed by a reload: use restart".into());
            return;
        }
        self.push(Action::Ask(asked, Question::OpenSockets(content)));
    }

    pub(super) fn opened(&mut self, ticket: Ticket, content: ContentId, result: Result<(), String>) {
        if result.is_ok() && !self.s.held.contains(&content) {
            self.s.held.push(content);
        }
        if !self.reload_waits_for(Before::Opening { content, asked: ticket }) {
            return self.job_opened(ticket, result);
        }
        match result {
            Ok(()) => self.reload_opened(content),
            Err(why) => self.fail_reload(why),
        }
    }

    fn reload_opened(&mut self, id: ContentId) {
        let content = self.contents.get(id).clone();
        // What is gone back to may be gone itself: that is found out before anything else.
        if self.is_listening(&content.unit) && !self.s.reload.as_ref().is_some_and(|reload| reload.back) {
            self.take_content("the next launch gets it");
            return;
        }
        let deadline = self.now.after(content.unit.service.timeout_start);
        let asked = self.ask(Question::CheckBinary(content));
        self.set_stage(Stage::Before(Before::Binary { content: id, asked, deadline }));
    }

    /// Whether nothing runs, and the next connection starts it.
    fn is_listening(&self, unit: &Unit) -> bool {
        self.s.rest == Rest::Listening && self.s.current.is_none() && !unit.accepts()
    }

    pub(super) fn binary_checked(&mut self, ticket: Ticket, content: ContentId, result: Result<(), String>) {
        match self.s.reload.as_ref().map(|reload| &reload.stage) {
            Some(Stage::Before(Before::Binary { asked, .. })) if *asked == ticket => {}
            Some(_) | None => return,
        }
        match result {
            Ok(()) if self.is_listening(&self.unit(content)) => self.take_content("the next launch gets it"),
            Ok(()) => self.pre_flight(content, 0),
            Err(why) => self.fail_reload(why),
        }
    }

    fn pre_flight(&mut self, content: ContentId, index: u32) {
        let unit = self.unit(content);
        let Some(hook) = unit.reload.pre_flight.get(index as usize) else {
            return self.pre_checked(content);
        };
        self.announce(Announcement::Step { generation: None, text: format!("pre-flight \"{}\"", hook.name) });
        let proc = self.spawn(Role::PreFlight(index), content, None, Vec::new());
        let deadline = self.now.after(hook.timeout);
        self.set_stage(Stage::Before(Before::PreFlight { content, index, proc, deadline, late: false }));
    }

    pub(super) fn pre_flight_ended(&mut self, ended: Proc, end: &End) {
        self.sweep(ended);
        let Some(reload) = self.s.reload.as_ref() else { return };
        let Stage::Before(Before::PreFlight { content, index, proc, late, .. }) = reload.stage else {
            return;
        };
        if proc != ended {
            return;
        }
        let unit = self.unit(content);
        let Some(hook) = unit.reload.pre_flight.get(index as usize) else { return };
        let text = if late {
            format!("pre-flight \"{}\" did not end within {}", hook.name, hook.timeout)
        } else {
            format!("pre-flight \"{}\" {}", hook.name, end.text)
        };
        if !late && command_ok(&hook.exec, end) {
            self.pre_flight(content, index + 1);
        } else if hook.block_on_fail {
            self.fail_reload(text);
        } else {
            self.warn(format!("{text}, which does not matter (BlockOnFail=false)"));
            self.pre_flight(content, index + 1);
        }
    }

    /// A command has ended or is to end: nothing that belongs to it lives on.
    pub(super) fn sweep(&mut self, proc: Proc) {
        self.give_up_later(proc);
        self.push(Action::Signal { to: Target::ProcTree(proc), signal: SIGKILL });
    }

    /// Everything that can be known before a launch is known.
    fn pre_checked(&mut self, content: ContentId) {
        let unit = self.unit(content);
        if unit.accepts() {
            self.take_content("new connections get it");
            return;
        }
        let Some(current) = self.s.current else {
            let service = &unit.service;
            if !self.s.starts.take(self.now, service.start_limit_interval, service.start_limit_burst) {
                self.fail_reload(format!(
                    "{} within {}, as often as StartLimitBurst allows: wait",
                    started(service.start_limit_burst),
                    service.start_limit_interval
                ));
                return;
            }
            self.launch_new(content);
            return;
        };
        match unit.reload.strategy {
            Strategy::Canary | Strategy::Immediate => self.launch_new(content),
            Strategy::Replace => {
                self.set_stage(Stage::StoppingOld { content });
                let clock = self.stop_timeout(current);
                self.begin_stop(current, clock);
            }
            Strategy::Signal => self.reload_command(content, current, 0, Told::at(self.now)),
        }
    }

    pub(super) fn launch_new(&mut self, content: ContentId) {
        self.give_slots(content);
        let slot = self.free_slot();
        let new = self.launch(content, Kind::Full, slot);
        if let Some(reload) = self.s.reload.as_mut() {
            reload.launched = Some(new);
            let new = Newcomer { generation: new, handover: None };
            reload.stage = Stage::Beside { content, new, step: Step::Starting };
        }
        self.s.ended = None;
        self.expect_handover(new);
        self.steer();
        self.begin_start(new);
    }

    /// The new content counts from now on, without a launch.
    pub(super) fn take_content(&mut self, note: &str) {
        let Some(content) = self.s.reload.as_ref().and_then(|reload| reload.stage.content()) else { return };
        if let Some(generation) = self.s.serving() {
            let running = self.unit(generation.content);
            self.s.pending = pending_keys(&running, &self.unit(content));
        }
        self.promote_content(content);
        self.end_reload(super::event::Outcome::Promoted, note.to_owned());
    }

    pub(super) fn promote_content(&mut self, content: ContentId) {
        if content != self.s.content {
            self.s.content = content;
            self.push(Action::Content(content));
        }
        let keep = self.unit(content).reload.keep_releases;
        self.s.kept.promote(content, keep);
    }

    /// Whether a step before the launch gets its time again because nobody saw it pass: once, so that every wait ends.
    fn reload_once_more(&mut self) -> bool {
        let now = self.now;
        let Some(stage) = self.s.reload.as_ref().filter(|reload| !reload.spared).map(|r| &r.stage) else {
            return false;
        };
        let Some(unit) = stage.content().map(|content| self.unit(content)) else { return false };
        let hook = if let Stage::Before(Before::PreFlight { index, .. }) = stage {
            unit.reload.pre_flight.get(*index as usize)
        } else {
            None
        };
        let again = now.after(hook.map_or(unit.service.timeout_start, |hook| hook.timeout));
        let Some(reload) = self.s.reload.as_mut() else { return false };
        let (Some(deadline), Some(again)) = (reload.stage.own_deadline(), again) else { return false };
        if now.since(*deadline) <= UNSEEN {
            return false;
        }
        *deadline = again;
        reload.spared = true;
        self.warn(
            "aeternad itself was not awake in time: this step of the reload gets its timeout once more"
                .into(),
        );
        true
    }

    /// What is due in the reload itself.
    pub(super) fn tick_reload(&mut self) {
        if self.reload_once_more() {
            return;
        }
        let Some(reload) = self.s.reload.as_mut() else { return };
        let now = self.now;
        let due = |deadline: &Option<Monotime>| deadline.is_some_and(|deadline| deadline <= now);
        match &mut reload.stage {
            Stage::Before(Before::PreFlight { proc, deadline, late, .. }) if due(deadline) => {
                *deadline = None;
                *late = true;
                let proc = *proc;
                self.sweep(proc);
            }
            Stage::Before(Before::Binary { deadline, .. }) if due(deadline) => {
                self.fail_reload("the program could not be read through within TimeoutStartSec".into());
            }
            Stage::Told { step: Telling::Command { proc, deadline, .. }, .. } if due(deadline) => {
                let proc = *proc;
                self.sweep(proc);
                self.fail_reload("ExecReload did not end within TimeoutStartSec; the service runs on".into());
            }
            Stage::Told { step: Telling::AwaitReady { deadline }, .. } if due(deadline) => {
                self.fail_reload(
                    "the service did not say READY=1 within TimeoutStartSec after the signal".into(),
                );
            }
            Stage::Beside { .. } => self.tick_soak(),
            Stage::Before(_)
            | Stage::Told { .. }
            | Stage::StoppingOld { .. }
            | Stage::GivingUp { .. }
            | Stage::Restoring { .. } => {}
        }
    }
}
