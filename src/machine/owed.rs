//! What is still to be done of a machine's actions when aeternad dies in the middle of them: stored beside the state that
//! has decided them, and done by the next aeternad, be it a second time.
//!
//! Not here is what the machine asks or is told again ([`super::UnitMachine::resume`]), what nobody waits for any more, and
//! a spawn: whether that has begun is looked at.

use super::event::{Action, Conn, ContentId, Gen, Proc, ReloadRecord, Steering, Target};
use serde::{Deserialize, Serialize};

/// An action that is owed. See [`Action`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Owed {
    /// [`Action::KeepSockets`].
    KeepSockets(Vec<ContentId>),
    /// [`Action::CloseConnection`].
    CloseConnection(Conn),
    /// [`Action::Signal`].
    Signal {
        /// To whom.
        to: Target,
        /// Its number.
        signal: i32,
    },
    /// [`Action::AdoptMain`].
    AdoptMain {
        /// The number.
        proc: Proc,
        /// The other process.
        pid: i32,
    },
    /// [`Action::Steer`].
    Steer(Steering),
    /// [`Action::BeginDrain`].
    BeginDrain {
        /// Whose slot.
        generation: Gen,
        /// Which.
        slot: u32,
    },
    /// [`Action::AnswerCold`].
    AnswerCold(Gen),
    /// [`Action::Resume`].
    Resume(Gen),
    /// [`Action::Commit`].
    Commit(Gen),
    /// [`Action::GaveUp`].
    GaveUp {
        /// Which.
        generation: Gen,
        /// Why, for people.
        why: String,
    },
    /// [`Action::Content`].
    Content(ContentId),
    /// [`Action::Promoted`].
    Promoted(Gen),
    /// [`Action::Forget`].
    Forget(Gen),
    /// [`Action::DropStore`].
    DropStore,
    /// [`Action::Record`].
    Record(Box<ReloadRecord>),
}

impl Owed {
    /// What of an action is owed until it is done; nothing, if nobody has to do it later.
    pub fn of(action: &Action) -> Option<Owed> {
        Some(match action {
            Action::KeepSockets(ids) => Owed::KeepSockets(ids.clone()),
            Action::CloseConnection(conn) => Owed::CloseConnection(*conn),
            Action::Signal { to, signal } => Owed::Signal { to: *to, signal: *signal },
            Action::AdoptMain { proc, pid } => Owed::AdoptMain { proc: *proc, pid: *pid },
            Action::Steer(steering) => Owed::Steer(*steering),
            Action::BeginDrain { generation, slot } => {
                Owed::BeginDrain { generation: *generation, slot: *slot }
            }
            Action::AnswerCold(generation) => Owed::AnswerCold(*generation),
            Action::Resume(generation) => Owed::Resume(*generation),
            Action::Commit(generation) => Owed::Commit(*generation),
            Action::GaveUp { generation, why } => Owed::GaveUp { generation: *generation, why: why.clone() },
            Action::Content(id) => Owed::Content(*id),
            Action::Promoted(generation) => Owed::Promoted(*generation),
            Action::Forget(generation) => Owed::Forget(*generation),
            Action::DropStore => Owed::DropStore,
            Action::Record(record) => Owed::Record(Box::new(record.clone())),
            Action::Ask(..)
            | Action::WatchTraffic
            | Action::IgnoreTraffic
            | Action::FlushPending
            | Action::Spawn(_)
            | Action::Stranded { .. }
            | Action::Relay(_)
            | Action::CancelRelay
            | Action::GiveUp(_)
            | Action::Lingers(_)
            | Action::Announce(_)
            | Action::Reply { .. } => return None,
        })
    }

    /// The action.
    pub fn into_action(self) -> Action {
        match self {
            Owed::KeepSockets(ids) => Action::KeepSockets(ids),
            Owed::CloseConnection(conn) => Action::CloseConnection(conn),
            Owed::Signal { to, signal } => Action::Signal { to, signal },
            Owed::AdoptMain { proc, pid } => Action::AdoptMain { proc, pid },
            Owed::Steer(steering) => Action::Steer(steering),
            Owed::BeginDrain { generation, slot } => Action::BeginDrain { generation, slot },
            Owed::AnswerCold(generation) => Action::AnswerCold(generation),
            Owed::Resume(generation) => Action::Resume(generation),
            Owed::Commit(generation) => Action::Commit(generation),
            Owed::GaveUp { generation, why } => Action::GaveUp { generation, why },
            Owed::Content(id) => Action::Content(id),
            Owed::Promoted(generation) => Action::Promoted(generation),
            Owed::Forget(generation) => Action::Forget(generation),
            Owed::DropStore => Action::DropStore,
            Owed::Record(record) => Action::Record(*record),
        }
    }

    /// Whether an action must not be begun before it is written down: what it does is seen by others, and nothing that is
    /// there afterwards says that it was decided.
    pub fn is_final(action: &Action) -> bool {
        matches!(
            action,
            Action::Signal { .. }
                | Action::AdoptMain { .. }
                | Action::AnswerCold(_)
                | Action::Relay(_)
                | Action::Resume(_)
                | Action::Commit(_)
                | Action::DropStore
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{Announcement, Transfer};
    use super::*;

    #[test]
    fn what_is_owed_is_the_same_action_again_and_the_rest_is_not() {
        let owed = [
            Action::KeepSockets(vec![ContentId(3)]),
            Action::CloseConnection(Conn(9)),
            Action::Signal { to: Target::Everyone(Gen(2)), signal: 15 },
            Action::AdoptMain { proc: Proc(1), pid: 7 },
            Action::BeginDrain { generation: Gen(1), slot: 1 },
            Action::AnswerCold(Gen(1)),
            Action::Resume(Gen(1)),
            Action::Commit(Gen(1)),
            Action::GaveUp { generation: Gen(1), why: "x".into() },
            Action::Content(ContentId(2)),
            Action::Promoted(Gen(2)),
            Action::Forget(Gen(1)),
            Action::DropStore,
        ];
        for action in owed {
            let text = serde_json::to_string(&Owed::of(&action).unwrap()).unwrap();
            assert_eq!(serde_json::from_str::<Owed>(&text).unwrap().into_action(), action);
        }
        let transfer = Transfer { from: Gen(1), to: Gen(2), back: false, until: None, max_bytes: 1 };
        for action in [
            Action::WatchTraffic,
            Action::Relay(transfer),
            Action::Announce(Announcement::Warning { text: String::new() }),
        ] {
            assert_eq!(Owed::of(&action), None);
        }
    }

    #[test]
    fn what_is_final_is_owed_or_cut_by_our_death() {
        let signal = Action::Signal { to: Target::Mains(Gen(1)), signal: 15 };
        assert!(Owed::is_final(&signal) && Owed::is_final(&Action::Commit(Gen(1))));
        assert!(!Owed::is_final(&Action::Forget(Gen(1))) && !Owed::is_final(&Action::WatchTraffic));
    }
}
