//! The replacement of aeternad's own program, up to the moment at which it is made: when, and why not.
//!
//! Checking: a child of the new program says whether it understands the state; everything goes on. Quieting: what cannot
//! be handed over (state on its way between two generations) is waited for, and nothing of that kind is begun. Then the
//! shell goes. Whatever is in the way, the program that is there goes on.

use crate::time::{Monotime, Span};

/// How long the new program may take to say whether it understands the state.
pub const CHECK_TIME: Span = Span::from_secs(30);

/// How far an upgrade has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Idle,
    Checking {
        until: Monotime,
        only: bool,
        patience: Span,
    },
    Quieting {
        until: Option<Monotime>,
    },
}

/// What can happen to an upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpgradeEvent {
    /// Somebody wants it.
    Asked {
        /// Only to know whether it could be done.
        only_check: bool,
        /// How long state may be on its way before it is given up.
        patience: Span,
        /// Whether aeternad is stopping.
        stopping: bool,
    },
    /// What the new program says: what it is, or what is wrong.
    Checked(Result<String, String>),
    /// The shell could not go: why.
    Failed(String),
    /// aeternad begins to stop.
    Stopping,
    /// A turn of the loop is over; why it cannot be done just now, if so.
    Turn(Option<String>),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpgradeAction {
    /// Ask the new program.
    Check,
    /// Nobody waits for the answer of the new program any more: end it.
    EndCheck,
    /// Begin nothing that cannot be handed over.
    Quiet,
    /// Begin it all the same.
    Resume,
    /// Now.
    Go,
    /// Tell whoever asked.
    Answer(UpgradeAnswer),
}

/// What becomes of an upgrade that is not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpgradeAnswer {
    /// It could be made: what the new program is.
    Possible(String),
    /// Not now; trying again may help.
    Refused(String),
    /// Something is wrong.
    Failed(String),
}

/// The machine.
#[derive(Debug, Clone, Default)]
pub struct UpgradeMachine {
    phase: Phase,
}

impl UpgradeMachine {
    /// The only mutation: what happens, and what is then to be done, appended to `out`.
    pub fn handle(&mut self, now: Monotime, event: UpgradeEvent, out: &mut Vec<UpgradeAction>) {
        match event {
            UpgradeEvent::Asked { stopping: true, .. } => {
                out.push(refused("aeternad is stopping".into()));
            }
            UpgradeEvent::Asked { only_check, patience, .. } => self.asked(now, only_check, patience, out),
            UpgradeEvent::Checked(result) => self.checked(now, result, out),
            UpgradeEvent::Failed(why) => self.give_up(UpgradeAnswer::Failed(why), out),
            UpgradeEvent::Stopping => {
                self.give_up(UpgradeAnswer::Refused("aeternad is stopping".into()), out);
            }
            UpgradeEvent::Turn(busy) => self.turn(now, busy, out),
        }
    }

    /// When [`UpgradeEvent::Turn`] is wanted at the latest; `None` for never.
    pub fn next_deadline(&self) -> Option<Monotime> {
        match self.phase {
            Phase::Idle => None,
            Phase::Checking { until, .. } => Some(until),
            Phase::Quieting { until } => until,
        }
    }

    /// Whether nothing may be begun that cannot be handed over.
    pub fn is_quiet(&self) -> bool {
        matches!(self.phase, Phase::Quieting { .. })
    }

    /// Whether an upgrade is under way.
    pub fn is_busy(&self) -> bool {
        self.phase != Phase::Idle
    }

    fn asked(&mut self, now: Monotime, only: bool, patience: Span, out: &mut Vec<UpgradeAction>) {
        if self.is_busy() {
            out.push(refused("an upgrade is under way already".into()));
            return;
        }
        self.phase = Phase::Checking { until: now + CHECK_TIME, only, patience };
        out.push(UpgradeAction::Check);
    }

    fn checked(&mut self, now: Monotime, result: Result<String, String>, out: &mut Vec<UpgradeAction>) {
        let Phase::Checking { only, patience, .. } = self.phase else { return };
        match result {
            Err(why) => self.give_up(UpgradeAnswer::Failed(why), out),
            Ok(what) if only => self.give_up(UpgradeAnswer::Possible(what), out),
            Ok(_) => {
                self.phase = Phase::Quieting { until: now.after(patience) };
                out.push(UpgradeAction::Quiet);
            }
        }
    }

    fn turn(&mut self, now: Monotime, busy: Option<String>, out: &mut Vec<UpgradeAction>) {
        match (self.phase, busy) {
            (Phase::Checking { until, .. }, _) if until <= now => {
                let why = format!("the new program has not said after {CHECK_TIME} whether it can take over");
                self.give_up(UpgradeAnswer::Failed(why), out);
            }
            (Phase::Quieting { .. }, None) => out.push(UpgradeAction::Go),
            (Phase::Quieting { until: Some(until) }, Some(why)) if until <= now => {
                self.give_up(UpgradeAnswer::Refused(why), out);
            }
            (Phase::Idle | Phase::Checking { .. } | Phase::Quieting { .. }, _) => {}
        }
    }

    fn give_up(&mut self, answer: UpgradeAnswer, out: &mut Vec<UpgradeAction>) {
        match std::mem::take(&mut self.phase) {
            Phase::Idle => return,
            Phase::Checking { .. } => out.push(UpgradeAction::EndCheck),
            Phase::Quieting { .. } => out.push(UpgradeAction::Resume),
        }
        out.push(UpgradeAction::Answer(answer));
    }
}

fn refused(why: String) -> UpgradeAction {
    UpgradeAction::Answer(UpgradeAnswer::Refused(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotime {
        Monotime(1) + Span::from_secs(seconds)
    }

    fn asked(only_check: bool) -> UpgradeEvent {
        UpgradeEvent::Asked { only_check, patience: Span::from_secs(10), stopping: false }
    }

    fn step(machine: &mut UpgradeMachine, now: u64, event: UpgradeEvent) -> Vec<UpgradeAction> {
        let mut out = Vec::new();
        machine.handle(at(now), event, &mut out);
        out
    }

    #[test]
    fn what_is_checked_waits_for_quiet_and_goes() {
        let mut machine = UpgradeMachine::default();
        assert_eq!(step(&mut machine, 0, UpgradeEvent::Turn(None)), []);
        assert_eq!(step(&mut machine, 0, asked(false)), [UpgradeAction::Check]);
        assert_eq!(step(&mut machine, 0, asked(false)), [refused("an upgrade is under way already".into())]);
        assert_eq!(step(&mut machine, 1, UpgradeEvent::Turn(None)), [], "nobody has said anything yet");
        assert_eq!(step(&mut machine, 1, UpgradeEvent::Checked(Ok("x".into()))), [UpgradeAction::Quiet]);
        assert!(machine.is_quiet());
        assert_eq!(step(&mut machine, 2, UpgradeEvent::Turn(Some("a relay".into()))), []);
        assert_eq!(machine.next_deadline(), Some(at(11)));
        assert_eq!(step(&mut machine, 3, UpgradeEvent::Turn(None)), [UpgradeAction::Go]);
        let failed = UpgradeAnswer::Failed("no memory".into());
        assert_eq!(
            step(&mut machine, 3, UpgradeEvent::Failed("no memory".into())),
            [UpgradeAction::Resume, UpgradeAction::Answer(failed)]
        );
        assert!(!machine.is_busy());
    }

    #[test]
    fn a_check_only_ends_with_its_answer() {
        let mut machine = UpgradeMachine::default();
        step(&mut machine, 0, asked(true));
        let possible = UpgradeAnswer::Possible("0.2.0".into());
        assert_eq!(
            step(&mut machine, 1, UpgradeEvent::Checked(Ok("0.2.0".into()))),
            [UpgradeAction::EndCheck, UpgradeAction::Answer(possible)]
        );
        assert_eq!(machine.next_deadline(), None);
    }

    #[test]
    fn whatever_is_in_the_way_ends_it() {
        let end = |answer| vec![UpgradeAction::EndCheck, UpgradeAction::Answer(answer)];
        let mut machine = UpgradeMachine::default();
        step(&mut machine, 0, asked(false));
        let refusal = UpgradeAnswer::Failed("half copied".into());
        assert_eq!(step(&mut machine, 1, UpgradeEvent::Checked(Err("half copied".into()))), end(refusal));
        step(&mut machine, 2, asked(false));
        assert_eq!(machine.next_deadline(), Some(at(2) + CHECK_TIME));
        let late = step(&mut machine, 40, UpgradeEvent::Turn(None));
        assert!(matches!(
            &late[..],
            [UpgradeAction::EndCheck, UpgradeAction::Answer(UpgradeAnswer::Failed(_))]
        ));
        step(&mut machine, 50, asked(false));
        let stopping = UpgradeAnswer::Refused("aeternad is stopping".into());
        assert_eq!(step(&mut machine, 50, UpgradeEvent::Stopping), end(stopping));
        step(&mut machine, 60, asked(false));
        step(&mut machine, 60, UpgradeEvent::Checked(Ok(String::new())));
        assert_eq!(
            step(&mut machine, 70, UpgradeEvent::Turn(Some("a relay".into()))),
            [UpgradeAction::Resume, UpgradeAction::Answer(UpgradeAnswer::Refused("a relay".into()))]
        );
        assert_eq!(step(&mut machine, 71, UpgradeEvent::Stopping), []);
        let asked = UpgradeEvent::Asked { only_check: false, patience: Span::ZERO, stopping: true };
        assert_eq!(step(&mut machine, 72, asked), [refused("aeternad is stopping".into())]);
    }
}
