//! What each stage of a reload means: the one match over the stages. A new stage is one row here and one rule that
//! moves it on; aeterna(7), "STATES", has the same table for people, and a test compares the two.

use super::event::UnitState;
use super::model::{Before, Handover, Stage, Step, Telling};

/// What a stage means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    /// What the unit shows.
    pub(super) shown: UnitState,
    /// What `status` calls the new generation.
    pub(super) new_is: &'static str,
    /// The generation that serves fails, or says STOPPING=1.
    pub(super) old_dies: OldDies,
    /// Everything of it is gone.
    pub(super) old_gone: OldGone,
    /// The new generation fails.
    pub(super) new_dies: NewDies,
    /// `reload --force`.
    pub(super) force: End,
    /// `rollback`.
    pub(super) rollback: End,
    /// `promote`; or why not.
    pub(super) promote: Result<(), &'static str>,
    /// The new generation's share of new connections.
    pub(super) weight: Weight,
    /// Why the unit is in its state.
    pub(super) why: Why,
}

/// What the death of the serving generation does to the reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OldDies {
    /// It is given up: there is nobody to be replaced or told.
    Fails,
    /// The new one takes over at once.
    Promotes,
    /// It goes on.
    GoesOn,
}

/// What follows when the serving generation is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OldGone {
    /// The new content is launched.
    Launches,
    /// What served before is started again, unless the new generation is still there.
    Restores,
    /// The reload is over, and `Restart` applies.
    Ends,
    /// How it ended is remembered until the reload has ended.
    Waits,
}

/// What the death of the new generation does to the reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NewDies {
    /// It is rolled back: when it died, for the reason.
    RollsBack(&'static str),
    /// It was going anyway; state that it was to give back is lost.
    IsGone,
    /// There is none.
    Nobody,
}

/// How a command that ends the reload does that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// At once: nothing was done yet.
    Aborts,
    /// By a rollback.
    RollsBack,
    /// It is ending already: the command waits.
    Waits,
    /// It cannot.
    Refused(&'static str),
}

/// The share of the new generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// It has none.
    Nothing,
    /// 0, until its state is on the way: the old one then accepts nothing more.
    ZeroOrAll,
    /// That of the step.
    Step(u8),
}

/// What `why` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Nothing: what was said before the reload is not about the reload.
    Nothing,
    /// When the soak ends.
    Soak,
    /// What led to it.
    Given,
}

const NOTHING_SOAKS: &str = "the reload has not launched a generation that soaks";
const TOLD: &str = "the service has been told to reload, and that cannot be taken back";

/// Before anything was launched or told.
const BEFORE: Row = Row {
    shown: UnitState::PreChecking,
    new_is: "starting",
    old_dies: OldDies::Fails,
    old_gone: OldGone::Waits,
    new_dies: NewDies::Nobody,
    force: End::Aborts,
    rollback: End::Aborts,
    promote: Err(NOTHING_SOAKS),
    weight: Weight::Nothing,
    why: Why::Nothing,
};

/// While the new generation is there.
const BESIDE: Row = Row {
    shown: UnitState::Starting,
    old_dies: OldDies::GoesOn,
    new_dies: NewDies::RollsBack("before it was ready"),
    force: End::RollsBack,
    rollback: End::RollsBack,
    promote: Err("the new generation is not ready yet"),
    weight: Weight::ZeroOrAll,
    ..BEFORE
};

/// While the reload is being given up.
const ENDING: Row = Row {
    shown: UnitState::RollingBack,
    new_is: "rolling_back",
    old_dies: OldDies::GoesOn,
    new_dies: NewDies::IsGone,
    force: End::Waits,
    rollback: End::Waits,
    promote: Err("the reload is being rolled back"),
    why: Why::Given,
    ..BEFORE
};

/// The row of a stage.
pub(super) fn row(stage: &Stage) -> Row {
    match stage {
        Stage::Before(
            Before::Loading(_) | Before::Opening { .. } | Before::Binary { .. } | Before::PreFlight { .. },
        ) => BEFORE,
        Stage::Told { step: Telling::Command { .. } | Telling::AwaitReady { .. }, .. } => {
            Row { shown: UnitState::Starting, rollback: End::Refused(TOLD), ..BEFORE }
        }
        Stage::StoppingOld { .. } => Row {
            shown: UnitState::Stopping,
            old_dies: OldDies::GoesOn,
            old_gone: OldGone::Launches,
            force: End::RollsBack,
            rollback: End::RollsBack,
            ..BEFORE
        },
        Stage::Beside { step: Step::Starting, new, .. } => match new.handover {
            Some(Handover::Emptying { .. } | Handover::Running { .. }) => {
                Row { shown: UnitState::Handshaking, ..BESIDE }
            }
            Some(
                Handover::Awaited { .. }
                | Handover::Acknowledged
                | Handover::Cold
                | Handover::GivingBack { .. },
            )
            | None => BESIDE,
        },
        Stage::Beside { step: Step::Soaking(soak), .. } => Row {
            shown: UnitState::Soaking,
            new_is: "soaking",
            old_dies: OldDies::Promotes,
            new_dies: NewDies::RollsBack("while it soaked"),
            promote: Ok(()),
            weight: Weight::Step(soak.weight),
            why: Why::Soak,
            ..BESIDE
        },
        Stage::GivingUp { .. } => Row { old_gone: OldGone::Restores, ..ENDING },
        Stage::Restoring { .. } => {
            Row { new_is: "starting", old_gone: OldGone::Ends, new_dies: NewDies::Nobody, ..ENDING }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::event::{ContentId, Gen, Outcome, Proc, Ticket};
    use crate::machine::model::{GivenUp, Newcomer, Soak, Told};
    use crate::time::Monotime;

    /// One of each, as the manual calls it.
    fn stages() -> Vec<(&'static str, Stage)> {
        let content = ContentId(1);
        let new = |handover| Newcomer { generation: Gen(2), handover };
        let why = GivenUp { outcome: Outcome::RolledBack, reason: String::new() };
        let running = Handover::Running { until: None, began: Monotime(0), start_by: None, again: false };
        let soak = Soak { began: Monotime(0), until: None, step: 0, next: None, pulse: None, weight: 10 };
        let command = Telling::Command { index: 0, proc: Proc(1), deadline: None };
        let told = Told::at(Monotime(0));
        let starting = |handover| Stage::Beside { content, new: new(handover), step: Step::Starting };
        vec![
            ("checks", Stage::Before(Before::Loading(Ticket(1)))),
            ("told", Stage::Told { content, told, step: command }),
            ("replacing", Stage::StoppingOld { content }),
            ("starting", starting(None)),
            ("handing over", starting(Some(running))),
            ("soaking", Stage::Beside { content, new: new(None), step: Step::Soaking(soak) }),
            ("given up", Stage::GivingUp { content, new: None, why: why.clone() }),
            ("restoring", Stage::Restoring { content, why }),
        ]
    }

    /// The row in the manual's words.
    fn printed(name: &str, row: &Row) -> String {
        let old = match row.old_dies {
            OldDies::Fails => "failed",
            OldDies::Promotes => "promoted",
            OldDies::GoesOn => "-",
        };
        let new = match row.new_dies {
            NewDies::RollsBack(_) => "rollback",
            NewDies::IsGone | NewDies::Nobody => "-",
        };
        let end = |end| match end {
            End::Aborts => "aborted",
            End::RollsBack => "rollback",
            End::Waits => "waits",
            End::Refused(_) => "refused",
        };
        let promote = if row.promote.is_ok() { "promoted" } else { "refused" };
        let columns = [row.shown.name(), old, new, end(row.force), end(row.rollback), promote];
        format!(".It {name} Ta {}", columns.join(" Ta "))
    }

    #[test]
    fn the_manual_has_this_table() {
        let rows =
            stages().iter().map(|(name, stage)| printed(name, &row(stage))).collect::<Vec<_>>().join("\n");
        let manual = include_str!("../../man/aeterna.7");
        assert!(manual.contains(&rows), "aeterna(7), STATES, must have these rows:\n{rows}");
    }

    #[test]
    fn only_a_soak_gives_a_share_and_nothing_is_promoted_before() {
        for (name, stage) in stages() {
            let row = row(&stage);
            assert_eq!(row.promote.is_ok(), matches!(row.weight, Weight::Step(_)), "{name}");
            assert_eq!(
                row.weight != Weight::Nothing,
                matches!(row.new_dies, NewDies::RollsBack(_)),
                "{name}"
            );
        }
    }
}
