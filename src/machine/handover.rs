//! State on its way from the old generation to the new one (contract section 7): when it is asked for, what its
//! failure means, and who is told what afterwards.
//!
//! A handover belongs to a reload. The old generation has been *asked* from the first REQUEST on; it is told
//! exactly one of COMMIT (at promotion) and RESUME (in every other case), and never gets a stop signal between
//! REQUEST and the ACK.

use super::event::{Action, Announcement, Failure, Fault, Gen, Outcome, Question, Relayed, Ticket, Transfer};
use super::model::{Generation, Handover, Newcomer, Phase, Quiesce, Stage, Step};
use super::turn::{Follow, Turn};
use crate::time::{Monotime, Span};
use crate::unit::State as StateRules;

/// The shell minds a transfer's deadline, and says whose fault it was: it is given that much more before it is
/// told to end what it should have ended.
const SHELL_TIME: Span = Span::from_secs(1);

impl Turn<'_> {
    fn handover(&self) -> Option<Handover> {
        self.s.reload.as_ref().and_then(|reload| reload.stage.handover())
    }

    fn newcomer(&mut self) -> Option<&mut Newcomer> {
        self.s.reload.as_mut()?.stage.newcomer_mut()
    }

    fn set_handover(&mut self, next: Handover) {
        if let Some(new) = self.newcomer() {
            new.handover = Some(next);
        }
    }

    fn rules_of(&self, number: Gen) -> StateRules {
        self.unit_of(number).state.clone()
    }

    /// Whether the old generation has state for the one that the reload launches: both speak SRP, both live.
    fn predecessor(&self) -> Option<Gen> {
        let old = self.s.serving()?;
        self.rules_of(old.number).enabled.then_some(old.number)
    }

    /// A launch beside a generation that has state: the handover is expected.
    pub(super) fn expect_handover(&mut self, new: Gen) {
        let wanted = self.rules_of(new).enabled && self.predecessor().is_some();
        if let Some(new) = self.newcomer() {
            new.handover = wanted.then_some(Handover::Awaited { until: None });
        }
    }

    /// A generation asks for state.
    pub(super) fn sink_connected(&mut self, number: Gen) {
        let is_new =
            self.s.reload.as_ref().is_some_and(|reload| reload.stage.new_generation() == Some(number));
        match self.handover().filter(|_| is_new) {
            Some(Handover::Awaited { .. }) => match self.predecessor() {
                Some(old) => self.begin_handover(old, number),
                // It died meanwhile, and its memory with it.
                None => {
                    self.set_handover(Handover::Cold);
                    self.push(Action::AnswerCold(number));
                }
            },
            // It has connected anew while its state is on the way: the relay ends, and then begins once more.
            Some(Handover::Running { until, began, start_by, .. }) => {
                self.set_handover(Handover::Running { until, began, start_by, again: true });
            }
            Some(Handover::Emptying { .. } | Handover::GivingBack { .. }) => {}
            Some(Handover::Acknowledged | Handover::Cold) | None => self.push(Action::AnswerCold(number)),
        }
        self.after_handover();
    }

    fn begin_handover(&mut self, old: Gen, new: Gen) {
        let rules = self.rules_of(new);
        let steered = self.s.generation(new).is_some_and(|g| g.steered);
        if !steered {
            self.begin_relay(old, new);
            return;
        }
        // What the old one has not accepted yet would be served with memory that it no longer owns.
        let slot = self.s.generation(old).map_or(0, |g| g.slot);
        let until = self.now.after(rules.timeout);
        self.set_handover(Handover::Emptying { wait: Quiesce::new(self.now, until) });
        self.steer();
        self.push(Action::BeginDrain { generation: old, slot });
    }

    fn begin_relay(&mut self, old: Gen, new: Gen) {
        let until = self.now.after(self.rules_of(new).timeout);
        let start_by = self.hold_start(new);
        let end_by = until.map(|until| until + SHELL_TIME);
        self.set_handover(Handover::Running { until: end_by, began: self.now, start_by, again: false });
        self.ask_for_state(old, new, until);
    }

    /// REQUEST, and `Signal` for a source that only connects then.
    fn ask_for_state(&mut self, old: Gen, new: Gen, until: Option<Monotime>) {
        if let Some(reload) = self.s.reload.as_mut() {
            reload.asked_for_state = Some(old);
        }
        let rules = self.rules_of(new);
        let old_rules = self.rules_of(old);
        self.push(Action::Relay(Transfer {
            from: old,
            to: new,
            back: false,
            until,
            max_bytes: rules.max_bytes,
        }));
        if let Some(signal) = old_rules.signal {
            self.push(Action::Signal { to: super::event::Target::Mains(old), signal });
        }
    }

    /// What is on the old generation's slot while it is being emptied for the handover.
    pub(super) fn emptying(&mut self, ticket: Ticket, number: Gen, is_empty: bool) {
        let now = self.now;
        let Some(Newcomer { generation: new, handover: Some(Handover::Emptying { wait }) }) = self.newcomer()
        else {
            return;
        };
        let new = *new;
        if wait.asked != Some(ticket) {
            return;
        }
        if is_empty {
            self.begin_relay(number, new);
        } else {
            wait.look_again(now);
        }
    }

    /// A transfer is over.
    pub(super) fn relay_ended(&mut self, relayed: Relayed) {
        let (from, to) = (relayed.from, relayed.to);
        let result = relayed.result.clone();
        let new = self.s.reload.as_ref().and_then(|reload| reload.stage.new_generation());
        if new != Some(to) && new != Some(from) {
            // A transfer of an earlier reload, whose end comes late.
            return self.give_up_late(&relayed);
        }
        self.s.last_handover = Some((relayed.clone(), self.now));
        match self.handover() {
            Some(Handover::Running { began, start_by, again, .. }) => {
                self.note_handover(&relayed);
                self.announce(Announcement::Handover { relayed });
                let until = began.after(self.rules_of(to).timeout);
                let in_time = until.is_none_or(|until| until > self.now);
                match result {
                    // The relay has heard of the newer connection, or first of the older one's end.
                    Err(Failure { fault: Fault::Cancelled | Fault::Sink, .. })
                        if again && in_time && self.predecessor() == Some(from) =>
                    {
                        let end_by = until.map(|until| until + SHELL_TIME);
                        let next = Handover::Running { until: end_by, began, start_by, again: false };
                        self.set_handover(next);
                        self.ask_for_state(from, to, until);
                    }
                    Ok(()) => {
                        self.go_on_with_start(to, began, start_by);
                        self.set_handover(Handover::Acknowledged);
                    }
                    Err(failure) => {
                        self.go_on_with_start(to, began, start_by);
                        self.handover_failed(from, to, &failure);
                        if again && matches!(self.handover(), Some(Handover::Cold)) {
                            self.push(Action::AnswerCold(to));
                        }
                    }
                }
            }
            Some(Handover::GivingBack { .. }) => {
                self.announce(Announcement::Handover { relayed });
                self.given_back();
            }
            Some(
                Handover::Awaited { .. }
                | Handover::Emptying { .. }
                | Handover::Acknowledged
                | Handover::Cold,
            )
            | None => self.give_up_late(&relayed),
        }
        self.after_handover();
    }

    /// It was acknowledged just as it was given up: the source still waits for a word.
    fn give_up_late(&mut self, relayed: &Relayed) {
        let is_handover = relayed.from < relayed.to;
        if is_handover && relayed.result.is_ok() && self.s.generation(relayed.from).is_some() {
            self.push(Action::Resume(relayed.from));
        }
    }

    fn note_handover(&mut self, relayed: &Relayed) {
        if let Some(reload) = self.s.reload.as_mut() {
            reload.relayed = Some(relayed.clone());
        }
    }

    /// The relay's time does not count against `TimeoutStartSec`: the deadline is taken out until its end.
    fn hold_start(&mut self, number: Gen) -> Option<Monotime> {
        match self.s.generation_mut(number).map(|g| &mut g.phase) {
            Some(Phase::Starting { deadline, .. }) => deadline.take(),
            Some(Phase::Up | Phase::Quiescing { .. } | Phase::Stopping { .. }) | None => None,
        }
    }

    fn go_on_with_start(&mut self, number: Gen, began: Monotime, start_by: Option<Monotime>) {
        let took = self.now.since(began);
        if let Some(Phase::Starting { deadline, .. }) = self.s.generation_mut(number).map(|g| &mut g.phase) {
            *deadline = start_by.map(|by| by + took);
        }
    }

    /// Loss of memory is better than loss of service, unless the unit says otherwise.
    fn handover_failed(&mut self, from: Gen, to: Gen, failure: &Failure) {
        let Failure { fault, why } = failure;
        if let Some(reload) = self.s.reload.as_mut() {
            // The shell has told it to go on as it was.
            reload.asked_for_state = None;
        }
        self.set_handover(Handover::Cold);
        let text = format!("the state of generation {} did not reach generation {}: {why}", from.0, to.0);
        if self.rules_of(to).required {
            self.roll_back(Outcome::RolledBack, format!("{text} ([State] Required)"));
        } else if *fault == Fault::SinkSilent {
            // It may have all of it or nothing, and hangs: the old one still has it for certain.
            self.roll_back(Outcome::RolledBack, text);
        } else {
            self.warn(format!("{text}; it starts without"));
        }
    }

    /// Whether readiness waits for the handover; begins the wait for a sink that has not come yet.
    pub(super) fn must_wait_for_state(&mut self, number: Gen) -> bool {
        match self.handover() {
            Some(Handover::Awaited { until: None }) if self.predecessor().is_some() => {
                let until = self.now.after(self.rules_of(number).timeout);
                self.set_handover(Handover::Awaited { until });
                true
            }
            Some(
                Handover::Awaited { until: Some(_) } | Handover::Emptying { .. } | Handover::Running { .. },
            ) => true,
            Some(Handover::Awaited { until: None }) => {
                self.set_handover(Handover::Cold);
                false
            }
            Some(Handover::Acknowledged | Handover::Cold | Handover::GivingBack { .. }) | None => false,
        }
    }

    /// The new generation may have been ready but for its state.
    fn after_handover(&mut self) {
        let Some(reload) = self.s.reload.as_ref() else { return };
        let Stage::Beside { new, step: Step::Starting, .. } = &reload.stage else { return };
        let (new, handover) = (new.generation, new.handover);
        let settled = matches!(handover, Some(Handover::Acknowledged | Handover::Cold));
        let is_up = self.s.generation(new).is_some_and(|g| matches!(g.phase, Phase::Up));
        if settled && is_up {
            self.follow(Follow::Ready(new));
        }
    }

    /// What is due in a handover.
    pub(super) fn tick_handover(&mut self) {
        let now = self.now;
        let Some(reload) = self.s.reload.as_ref() else { return };
        let Some(&Newcomer { generation: new, handover: Some(handover) }) = reload.stage.newcomer() else {
            return;
        };
        if handover.deadline().is_some_and(|until| self.is_unseen(until)) && self.once_more(new) {
            return self.handover_once_more(new, handover);
        }
        match handover {
            Handover::Awaited { until: Some(until) } if until <= now => {
                let old = self.predecessor().unwrap_or(new);
                let limit = self.rules_of(new).timeout;
                let why = format!("it did not ask for it within {limit} (no sink connected)");
                self.handover_failed(old, new, &Failure { fault: Fault::Sink, why });
                self.after_handover();
            }
            Handover::Emptying { wait } => self.tick_emptying(wait, new),
            Handover::Running { until: Some(until), .. } | Handover::GivingBack { until: Some(until) }
                if until <= now =>
            {
                // The shell has the same deadline; this is for a shell that has not said so.
                self.push(Action::CancelRelay);
                self.forget_deadline();
            }
            Handover::Awaited { .. }
            | Handover::Running { .. }
            | Handover::GivingBack { .. }
            | Handover::Acknowledged
            | Handover::Cold => {}
        }
    }

    /// The relay gives itself its time again, too.
    fn handover_once_more(&mut self, new: Gen, handover: Handover) {
        let again = self.now.after(self.rules_of(new).timeout);
        let of_relay = again.map(|until| until + SHELL_TIME);
        self.set_handover(match handover {
            Handover::Running { began, start_by, again, .. } => {
                Handover::Running { until: of_relay, began, start_by, again }
            }
            Handover::GivingBack { .. } => Handover::GivingBack { until: of_relay },
            Handover::Awaited { .. }
            | Handover::Emptying { .. }
            | Handover::Acknowledged
            | Handover::Cold => Handover::Awaited { until: again },
        });
    }

    fn tick_emptying(&mut self, mut wait: Quiesce, new: Gen) {
        let Some(old) = self.predecessor() else {
            self.set_handover(Handover::Cold);
            self.push(Action::AnswerCold(new));
            self.after_handover();
            return;
        };
        if wait.until.is_some_and(|until| until <= self.now) {
            self.begin_relay(old, new);
        } else if wait.next.is_some_and(|next| next <= self.now) {
            let slot = self.s.generation(old).map_or(0, |g| g.slot);
            wait.look(self.ask(Question::CheckDrain { generation: old, slot }));
            self.set_handover(Handover::Emptying { wait });
        }
    }

    fn forget_deadline(&mut self) {
        if let Some(Handover::Running { until, .. } | Handover::GivingBack { until }) =
            self.newcomer().and_then(|new| new.handover.as_mut())
        {
            *until = None;
        }
    }

    /// Promotion: what the old one gave is gone from it for good.
    pub(super) fn commit_state(&mut self) {
        let Some(reload) = self.s.reload.as_mut() else { return };
        if let Some(old) = reload.asked_for_state.take()
            && self.s.generation(old).is_some_and(Generation::lives)
        {
            self.push(Action::Commit(old));
        }
    }

    /// The reload is given up. Whether the new generation must live on until it has given the state back.
    pub(super) fn take_state_back(&mut self) -> bool {
        let Some(reload) = self.s.reload.as_mut() else { return false };
        let (handover, new) = (reload.stage.handover(), reload.stage.new_generation());
        // A sink that comes now is too late.
        if let Some(new) = reload.stage.newcomer_mut() {
            new.handover = handover.map(|_| Handover::Cold);
        }
        let asked = reload.asked_for_state.take();
        if matches!(handover, Some(Handover::Running { .. })) {
            // The end of the relay tells the source to go on.
            self.push(Action::CancelRelay);
            return false;
        }
        let Some(old) = asked else { return false };
        // One that hangs or falls apart is not asked: it would only keep everybody waiting.
        let well = |g: &Generation| {
            g.ready_at.is_some() && g.workers.iter().all(|w| w.proc.is_some() && w.doomed.is_none())
        };
        let gives = new.filter(|new| self.s.generation(*new).is_some_and(well));
        let serves = self.s.generation(old).is_some_and(|g| matches!(g.phase, Phase::Up));
        match gives.filter(|_| serves) {
            Some(new) => {
                let rules = self.rules_of(new);
                let until = self.now.after(rules.timeout);
                self.set_handover(Handover::GivingBack { until: until.map(|until| until + SHELL_TIME) });
                let max_bytes = rules.max_bytes;
                self.push(Action::Relay(Transfer { from: new, to: old, back: true, until, max_bytes }));
                true
            }
            None => {
                self.push(Action::Resume(old));
                false
            }
        }
    }

    /// The state is back, or is not coming: the new generation may go.
    fn given_back(&mut self) {
        self.set_handover(Handover::Cold);
        let Some(Stage::GivingUp { new: Some(new), .. }) = self.s.reload.as_ref().map(|reload| &reload.stage)
        else {
            return;
        };
        self.stop_given_up(new.generation);
    }

    /// The one who gives the state back has died: there is nothing to wait for.
    pub(super) fn giver_is_lost(&mut self) {
        if matches!(self.handover(), Some(Handover::GivingBack { .. })) {
            self.push(Action::CancelRelay);
            self.set_handover(Handover::Cold);
        }
    }

    /// A stop ends the reload: whoever was asked for its state keeps it.
    pub(super) fn keep_state(&mut self) {
        let Some(reload) = self.s.reload.as_mut() else { return };
        let asked = reload.asked_for_state.take();
        match reload.stage.handover() {
            // The end of the relay tells the source to go on.
            Some(Handover::Running { .. } | Handover::GivingBack { .. }) => self.push(Action::CancelRelay),
            Some(
                Handover::Awaited { .. }
                | Handover::Emptying { .. }
                | Handover::Acknowledged
                | Handover::Cold,
            )
            | None => asked.into_iter().for_each(|old| self.push(Action::Resume(old))),
        }
    }

    /// The share of new connections of a generation whose handover has begun: everything, as the old one accepts
    /// nothing more.
    pub(super) fn handover_weight(handover: Option<Handover>) -> Option<u8> {
        match handover {
            Some(Handover::Emptying { .. } | Handover::Running { .. } | Handover::Acknowledged) => Some(100),
            Some(Handover::Awaited { .. } | Handover::Cold | Handover::GivingBack { .. }) | None => None,
        }
    }

    /// The old generation has died while its state was awaited: there is nothing to wait for.
    pub(super) fn settle_handover(&mut self) {
        let (Some(handover), None) = (self.handover(), self.predecessor()) else { return };
        let new = self.s.reload.as_ref().and_then(|reload| reload.stage.new_generation());
        match handover {
            Handover::Awaited { until: Some(_) } => self.set_handover(Handover::Cold),
            Handover::Emptying { .. } => {
                self.set_handover(Handover::Cold);
                new.into_iter().for_each(|new| self.push(Action::AnswerCold(new)));
            }
            Handover::Awaited { until: None }
            | Handover::Running { .. }
            | Handover::Acknowledged
            | Handover::Cold
            | Handover::GivingBack { .. } => return,
        }
        self.after_handover();
    }
}
