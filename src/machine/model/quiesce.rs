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
    /// Live flows at the last look. While there are any, [`Quiesce::flows_until`] counts.
    #[serde(default)]
    pub(crate) live: u32,
    /// Flows are waited for no longer than this; the past, where they are not waited for.
    #[serde(default)]
    pub(crate) flows_until: Option<Monotime>,
}

/// How soon is looked again whether flows are idle, at the earliest.
const FLOWS_AGAIN: Span = Span::from_millis(20);

impl Quiesce {
    /// Looks for the first time when the short requests that are in hand are over.
    pub(crate) fn new(now: Monotime, until: Option<Monotime>) -> Quiesce {
        let flows_until = Some(now);
        Quiesce { next: now.after(IN_HAND), asked: None, until, pause_ms: 1, live: 0, flows_until }
    }

    /// The same, and flows are waited for until then.
    pub(crate) fn with_flows(self, flows_until: Option<Monotime>) -> Quiesce {
        Quiesce { flows_until, ..self }
    }

    /// Whether flows are waited for at this time.
    pub(crate) fn waits_for_flows(&self, now: Monotime) -> bool {
        self.flows_until.is_none_or(|until| until > now)
    }

    /// Only flows are left: looks again when they may all be idle.
    pub(crate) fn look_at_flows_again(&mut self, now: Monotime, idle_in: Span) {
        self.asked = None;
        self.next = Some(now + idle_in.max(FLOWS_AGAIN));
    }

    /// When the waiting ends.
    pub(crate) fn end(&self) -> Option<Monotime> {
        if self.live > 0 { self.flows_until } else { self.until }
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
        [self.next, self.end()].into_iter().flatten().min()
    }
}
