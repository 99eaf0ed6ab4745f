//! One main process of a generation.

use super::{End, Word};
use crate::machine::event::Proc;
use crate::time::{Monotime, Span};
use serde::{Deserialize, Serialize};

/// One main process of a generation, or its place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Worker {
    /// `Some` while the process exists or is being started.
    pub(crate) proc: Option<Proc>,
    pub(crate) pid: Option<i32>,
    /// Which `ExecStart` command it runs.
    pub(crate) command: u32,
    /// Whether it is up as its `Type` says.
    pub(crate) up: bool,
    /// How it ended, while it is not running.
    pub(crate) end: Option<End>,
    /// When it is started again within its generation.
    pub(crate) again: Option<Monotime>,
    /// When it must be up, if it was started again within its generation.
    pub(crate) up_by: Option<Monotime>,
    pub(crate) attempt: u32,
    pub(crate) watchdog: Option<Watchdog>,
    /// RELOADING=1, since then, and no READY=1 yet.
    pub(crate) reloading: Option<Monotime>,
    /// Why it was told to die, and when it is killed.
    pub(crate) doomed: Option<Doom>,
}

/// `WatchdogSec` of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Watchdog {
    pub(crate) every: Span,
    /// `None` until the start-up is complete.
    pub(crate) deadline: Option<Monotime>,
}

/// A worker that has got its `WatchdogSignal`, or was killed because it did not come up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Doom {
    pub(crate) word: Word,
    pub(crate) kill_at: Option<Monotime>,
}

impl Worker {
    pub(crate) fn start(&mut self, proc: Proc, command: u32) {
        let attempt = self.attempt;
        *self = Worker { proc: Some(proc), command, attempt, ..Worker::default() };
    }

    /// Start-up is complete: from now on WATCHDOG=1 is expected.
    pub(crate) fn arm_watchdog(&mut self, now: Monotime, configured: Span) {
        let every = self.watchdog.map_or(configured, |watchdog| watchdog.every);
        if !every.is_zero() && self.proc.is_some() {
            self.watchdog = Some(Watchdog { every, deadline: now.after(every) });
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Monotime> {
        let watchdog = self.watchdog.and_then(|watchdog| watchdog.deadline);
        let doom = self.doomed.and_then(|doom| doom.kill_at);
        [self.again, self.up_by, watchdog, doom].into_iter().flatten().min()
    }
}
