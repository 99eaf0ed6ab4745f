//! One main process of a generation.

use super::{End, Word};
use crate::machine::event::Proc;
use crate::time::{Monotime, Span, UNSEEN};
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
    /// Whether it got one more interval since its last WATCHDOG=1, because nobody was awake when the last one ended.
    pub(crate) spared: bool,
}

impl Watchdog {
    pub(crate) fn new(every: Span, deadline: Option<Monotime>) -> Watchdog {
        Watchdog { every, deadline, spared: false }
    }

    /// Whether its time is over, and we come so late to that that the service may not have been awake either. It then has
    /// one more interval.
    pub(crate) fn is_unseen(&mut self, now: Monotime) -> bool {
        let late = self.deadline.map_or(Span::ZERO, |deadline| now.since(deadline));
        if self.spared || late < UNSEEN.min(Span(self.every.0 / 2)) {
            return false;
        }
        self.spared = true;
        self.deadline = now.after(self.every);
        true
    }
}

/// A worker that has got its `WatchdogSignal`, or was killed because it did not come up again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Doom {
    pub(crate) word: Word,
    /// What it did, as [`End::text`] has it.
    pub(crate) why: String,
    /// When the next signal comes.
    pub(crate) kill_at: Option<Monotime>,
    /// Whether the final signal was sent.
    pub(crate) killed: bool,
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
            self.watchdog = Some(Watchdog::new(every, now.after(every)));
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Monotime> {
        let watchdog = self.watchdog.and_then(|watchdog| watchdog.deadline);
        let doom = self.doomed.as_ref().and_then(|doom| doom.kill_at);
        [self.again, self.up_by, watchdog, doom].into_iter().flatten().min()
    }
}
