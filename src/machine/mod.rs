//! The pure machines: events in, actions out. No I/O, no clock, no log, no thread.
//!
//! What holds at every instant (1, 2 and 5 for the strategies `canary` and `immediate`), and is asserted after
//! every event of every schedule that `tests/simulation` plays:
//!
//! 1. While a reload runs, a ready generation holds the sockets. The old one gets no stop signal before the new
//!    one is ready and has passed its soak; only a ready generation is ever promoted.
//! 2. A reload that fails leaves the old generation serving: nothing was sent to it.
//! 3. No generation gets its stop signal while new connections are steered to its slot, and what a dead one
//!    left there is served by somebody else, moved, or counted as stranded.
//! 4. Every reload ends, in a time bounded by its timeouts. No deadline is in the past after a tick that had
//!    nothing to do: nothing spins.
//! 5. If the old generation dies in `PRE_CHECKING` the reload is given up and `Restart` applies; while the new
//!    one starts, it goes on; in the soak the new one takes over at once. If both die, `Restart` applies to
//!    what was promoted last.
//! 6. A unit in `STOPPED` or `FAILED` has no process, grandchildren included (except by `KillMode = "process"`
//!    and `SendSIGKILL = false`).
//! 7. Every reload has exactly one record, with a reason, and every command exactly one reply.
//! 8. What a reload has launched and given up is launched again by a load or by its number only.
//!
//! Also: at most one reload at a time, at most 8 draining generations, weight 0 before readiness and after a
//! rollback, and a machine that comes back from its stored form goes on exactly like the one that was stored, or asks
//! again for what died with its shell (`resume.rs`).
//!
//! How it is built: [`UnitMachine`] is a state and the contents that it refers to. What it remembers is data
//! (`model/`); the rules, one file for each subject, read and change it; no two files import each other. Every event
//! is one turn (`turn.rs`), the only writer of the state. A generation has a phase with its deadline inside: on its way
//! to ready (`generation.rs`, `worker.rs`, `health.rs`, `notify.rs`), up, or on its way out (`slots.rs` empties its slot,
//! `stop.rs` stops it). What a generation is to its unit follows from the unit's current generation and the
//! reload that is under way (`reload.rs`, `tell.rs`, `soak.rs`), whose stages have their meaning in one table (`table.rs`);
//! the unit's state follows from these (`status.rs`) and is stored nowhere but as what was last told. `rest.rs` decides what follows an end, with the arithmetic of
//! `restart.rs`; `command.rs` and `job.rs` answer people, `traffic.rs` starts services on demand.

#![forbid(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]

pub mod daemon;
pub mod event;
pub mod upgrade;

mod analysis;
mod command;
pub mod evidence;
mod failure;
mod fault;
mod figures;
mod generation;
pub mod gone;
mod handover;
mod health;
mod hooks;
mod job;
mod memory;
mod model;
mod notify;
pub mod owed;
mod pending;
pub mod recovered;
mod reload;
mod rest;
mod restart;
mod resume;
mod seen;
mod slots;
mod soak;
mod status;
mod stop;
mod table;
mod tell;
mod traffic;
mod trial;
mod turn;
mod verdicts;
mod worker;

use crate::proto::status::UnitStatus;
use crate::time::Monotime;
pub use command::Back;
use event::{Action, Busy, Content, Event, Proc, Req, Summary};
use model::{Contents, State};
use serde::{Deserialize, Serialize};
pub use trial::trial;
use turn::Turn;

/// The machine of one unit.
#[derive(Debug, Clone)]
pub struct UnitMachine {
    contents: Contents,
    state: State,
}

/// A content that can be gone back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptContent {
    /// Which.
    pub content: event::ContentId,
    /// The last generation that ran it; `None` if none did.
    pub generation: Option<event::Gen>,
    /// Whether a rollback has led away from it: none leads to it again, but by its number.
    pub left: bool,
}

/// Everything that a [`UnitMachine`] remembers, without the contents: they are named by their ids.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SavedState(State);

impl UnitMachine {
    /// A unit in `PENDING`, whose sockets the shell has bound. Waits for [`Event::Boot`].
    pub fn new(content: Content) -> UnitMachine {
        let id = content.id;
        UnitMachine { contents: Contents::new(content), state: State::new(id) }
    }

    /// As [`UnitMachine::new`], in the place of another unit, which is gone: answers to its questions, which may still be
    /// on their way, are nobody's here.
    pub fn in_place_of(gone: &UnitMachine, content: Content) -> UnitMachine {
        let mut machine = UnitMachine::new(content);
        machine.state.next_ticket = gone.state.next_ticket;
        machine
    }

    /// The only mutation: what happens, and what is then to be done, appended to `out`.
    pub fn handle(&mut self, now: Monotime, event: Event, out: &mut Vec<Action>) {
        self.turn(now, out, |turn| turn.event(event));
    }

    /// Goes on under another shell, after the last one was replaced or has died: what was asked and not answered is
    /// asked again, with the same tickets. Only the processes in `alive` are left (of an unanswered
    /// [`Action::Spawn`], the shell says first what came of it), and only the requests in `waiting` are still to be
    /// answered. A transfer of state that was under way is over.
    pub fn resume(&mut self, now: Monotime, alive: &[Proc], waiting: &[Req], out: &mut Vec<Action>) {
        self.turn(now, out, |turn| turn.resume(alive, waiting));
    }

    /// As [`UnitMachine::resume`], where the last shell has died: nobody waits any more, and a stop of aeternad itself was its
    /// own.
    pub fn recover(&mut self, now: Monotime, alive: &[Proc], out: &mut Vec<Action>) {
        self.turn(now, out, |turn| turn.recover(alive));
    }

    fn turn(&mut self, now: Monotime, out: &mut Vec<Action>, what: impl FnOnce(&mut Turn<'_>)) {
        let begin = out.len();
        what(&mut Turn::new(now, &mut self.contents, &mut self.state, out));
        // Whoever waits hears the answer after the facts that it ends.
        let new = out.get_mut(begin..).unwrap_or_default();
        new.sort_by_key(|action| matches!(action, Action::Reply { .. }));
    }

    /// Every question that waits for its answer, and [`Action::WatchTraffic`] if traffic is waited for.
    pub fn outstanding(&self) -> Vec<Action> {
        self.state.outstanding(&self.contents)
    }

    /// Processes of which it was not said yet whether they were started: what for, and for which generation.
    pub fn unanswered(&self) -> Vec<(Proc, event::Role, Option<event::Gen>)> {
        let waits = self.state.procs.iter().filter(|owned| owned.pid.is_none());
        waits.map(|owned| (owned.proc, owned.role, owned.generation)).collect()
    }

    /// When [`Event::Tick`] is wanted next; `None` for never.
    pub fn next_deadline(&self) -> Option<Monotime> {
        self.state.next_deadline()
    }

    /// What the daemon's machine needs to know.
    pub fn summary(&self) -> Summary {
        self.state.summary(self.contents.get(self.state.content).unit.service.start_on)
    }

    /// Why a reload that is asked for now would be refused; `None` if it would begin.
    pub fn busy(&self, now: Monotime) -> Option<Busy> {
        self.state.busy(now)
    }

    /// A snapshot for people. The shell adds the file, the sockets and what only the kernel knows.
    pub fn status(&self, now: Monotime) -> UnitStatus {
        self.state.status(&self.contents, now)
    }

    /// What was promoted last: what an automatic restart launches, and what traffic starts.
    pub fn content(&self) -> &Content {
        self.contents.get(self.state.content)
    }

    /// Every parsed version of the unit that the machine still refers to: what [`UnitMachine::restore`] needs
    /// beside the saved state. The first is the one that an automatic restart launches.
    pub fn contents(&self) -> Vec<Content> {
        self.contents.all().cloned().collect()
    }

    /// What can be gone back to, the one that serves included, in the order of the first promotion.
    pub fn kept(&self) -> impl Iterator<Item = KeptContent> {
        self.state.kept.all().map(|entry| KeptContent {
            content: entry.content,
            generation: entry.generations.last().copied(),
            left: entry.left,
        })
    }

    /// What a rollback would do now.
    ///
    /// # Errors
    /// Why it would be refused.
    pub fn back(&self, to: Option<event::Gen>) -> Result<Back, String> {
        self.state.back(to)
    }

    /// The generation that ran a content last, of those that were promoted.
    pub fn generation_of(&self, id: event::ContentId) -> Option<event::Gen> {
        self.state.kept.entry(id)?.generations.last().copied()
    }

    /// Whether the machine still refers to this content.
    pub fn holds(&self, id: event::ContentId) -> bool {
        self.contents.find(id).is_some()
    }

    /// Whether the reload that is under way goes back to a content that was there before.
    pub fn goes_back(&self) -> bool {
        self.state.reload.as_ref().is_some_and(|reload| reload.back)
    }

    /// The state, for storing.
    pub fn save(&self) -> SavedState {
        SavedState(self.state.clone())
    }

    /// A machine that goes on where `saved` was.
    ///
    /// # Errors
    /// Says which content is missing if `contents` does not hold all that `saved` refers to.
    pub fn restore(saved: SavedState, contents: Vec<Content>) -> Result<UnitMachine, String> {
        let mut all = contents.into_iter();
        let Some(first) = all.next() else {
            return Err("cannot restore a unit: there is no parsed content of it".into());
        };
        let mut contents = Contents::new(first);
        for content in all {
            contents.add(content);
        }
        let state = saved.0;
        match state.contents_needed().into_iter().find(|id| contents.find(*id).is_none()) {
            Some(id) => Err(format!("cannot restore a unit: its content {} is missing", id.0)),
            None => Ok(UnitMachine { contents, state }),
        }
    }
}
