//! Waiting until a slot is empty.

use crate::machine::event::Ticket;
use crate::time::{Monotime, Span};
use serde::{Deserialize, Serialize};

/// How long a generation is left alone after the switch, at least: the short requests that it had just accepted are then
/// answered, before a program that drops everything at its stop signal gets one, or before its memory is asked for.
const IN_HAND: Span = Span::from_millis(10);

/// Waiting until a slot is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Quiesce {
    /// When to look again; `None` while an answer is awaited.
    pub(crate) next: Option<Monotime>,
    /// That answer.
    pub(crate) asked: Option<Ticket>,
    /// No longer than this.
    pub(crate) until: Option<Monotime>,
    pub(crate) pause_ms: u64,
}

impl Quiesce {
    /// Looks for the first time when the short requests that are in hand are over.
    pub(crate) fn new(now: Monotime, until: Option<Monotime>) -> Quiesce {
        Quiesce { next: now.after(IN_HAND), asked: None, until, pause_ms: 1 }
    }

    /// Looks now: the answer has this ticket.
    pub(crate) fn look(&mut self, ticket: Ticket) {
        self.next = None;
        self.asked = Some(ticket);
    }

    /// Not empty yet: 1, 2, 4 … 50 ms.
    pub(crate) fn look_again(&mut self, now: Monotime) {
        self.asked = None;
        self.next = Some(now + Span::from_millis(self.pause_ms));
        self.pause_ms = (self.pause_ms * 2).min(50);
    }

    pub(crate) fn next_deadline(&self) -> Option<Monotime> {
        [self.next, self.until].into_iter().flatten().min()
    }
}
