//! The pure machines: events in, actions out. No I/O, no clock, no log, no thread.

#![forbid(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]

pub mod daemon;
pub mod event;

mod command;
mod generation;
mod health;
mod hooks;
mod job;
mod notify;
mod pending;
mod reload;
mod rest;
mod restart;
mod slots;
mod soak;
mod state;
mod status;
mod stop;
mod traffic;
mod worker;

use crate::proto::status::UnitStatus;
use crate::time::Monotime;
use event::{Action, Content, Event, SteerBy, Steering, Summary, UnitState};
use restart::Window;
use serde::{Deserialize, Serialize};
use state::{Contents, Rest, State, Turn, Watch};
use std::collections::VecDeque;

/// The machine of one unit.
#[derive(Debug, Clone)]
pub struct UnitMachine {
    contents: Contents,
    state: State,
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

    /// The only mutation: what happens, and what is then to be done, appended to `out`.
    pub fn handle(&mut self, now: Monotime, event: Event, out: &mut Vec<Action>) {
        Turn { now, contents: &mut self.contents, s: &mut self.state, out }.event(event);
    }

    /// When [`Event::Tick`] is wanted next; `None` for never.
    pub fn next_deadline(&self) -> Option<Monotime> {
        self.state.next_deadline()
    }

    /// What the daemon's machine needs to know.
    pub fn summary(&self) -> Summary {
        self.state.summary(self.contents.get(self.state.content).unit.service.start_on)
    }

    /// A snapshot for people. The shell adds the file, the sockets and what only the kernel knows.
    pub fn status(&self, now: Monotime) -> UnitStatus {
        self.state.status(&self.contents, now)
    }

    /// Every parsed version of the unit that the machine still refers to: what [`UnitMachine::restore`] needs
    /// beside the saved state. The first is the one that an automatic restart launches.
    pub fn contents(&self) -> Vec<Content> {
        self.contents.all().cloned().collect()
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

impl State {
    fn new(content: event::ContentId) -> State {
        State {
            shown: UnitState::Pending,
            since: Monotime::default(),
            why: String::new(),
            content,
            previous: None,
            generations: Vec::new(),
            procs: Vec::new(),
            next_generation: 1,
            next_proc: 1,
            next_probe: 1,
            current: None,
            last_number: 0,
            rest: Rest::Pending,
            watch: Watch::Off,
            job: None,
            down: None,
            reload: None,
            queued: None,
            stale_loads: 0,
            held: vec![content],
            starts: Window::default(),
            triggers: Window::default(),
            attempt: 0,
            restarts: 0,
            result: None,
            idle: None,
            idle_stop: false,
            steered: None,
            steering: Steering { serving: 0, canary: None, by: SteerBy::Connection },
            dirty: Vec::new(),
            hooks: VecDeque::new(),
            last_reload: None,
            refuse_reloads: false,
            shutdown: false,
            settled: false,
            ended: None,
            last_status: None,
            pending: Vec::new(),
        }
    }
}
