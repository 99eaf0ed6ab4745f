//! The pure machines: events in, actions out. No I/O, no clock, no log, no thread.

#![forbid(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]

pub mod event;

use crate::proto::status::UnitStatus;
use crate::time::Monotime;
use event::{Action, Content, Event, Summary};

/// The machine of one unit.
#[derive(Debug, Clone)]
pub struct UnitMachine {
    content: Content,
}

impl UnitMachine {
    /// A unit in `PENDING`, whose sockets the shell has bound. Waits for [`Event::Boot`].
    pub fn new(content: Content) -> UnitMachine {
        UnitMachine { content }
    }

    /// The only mutation: what happens, and what is then to be done, appended to `out`.
    pub fn handle(&mut self, now: Monotime, event: Event, out: &mut Vec<Action>) {
        let _ = (now, event, out);
    }

    /// When [`Event::Tick`] is wanted next; `None` for never.
    pub fn next_deadline(&self) -> Option<Monotime> {
        None
    }

    /// What the daemon's machine needs to know.
    pub fn summary(&self) -> Summary {
        todo!()
    }

    /// A snapshot for people. The shell adds the file, the sockets and what only the kernel knows.
    pub fn status(&self, now: Monotime) -> UnitStatus {
        let _ = (now, &self.content);
        todo!()
    }
}
