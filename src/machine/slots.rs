//! Slots and steering: which generation gets new connections, how a slot is emptied before its generation is
//! stopped, and who serves what a dead one left behind.

use super::event::{Action, Announcement, ContentId, Flowing, Gen, Question, SteerBy, Steering, Ticket};
use super::model::{Clock, DirtySlot, Generation, Kind, Look, Phase, Place, Quiesce, Rest, State, StopPlan};
use super::table::{Weight, row};
use super::turn::Turn;
use crate::time::Span;
use crate::unit::{Address, ListenKind, Sharing, Unit};

/// Whether a unit asks for at least one steered socket (contract section 6, `Sharing`).
pub(super) fn declares_steered(unit: &Unit) -> bool {
    // What is adopted at bind(2) is steered as soon as it is known, unless everything is declared to be otherwise.
    let auto = !unit.state.enabled;
    !unit.accepts()
        && ((unit.service.intercept_bind && auto && unit.listens().next().is_none())
            || unit.listens().any(|(socket, listen)| match socket.sharing {
                Sharing::Shared => false,
                Sharing::Auto => auto && listen.kind == ListenKind::Stream && is_inet(&listen.address),
                Sharing::Steered => is_inet(&listen.address) || matches!(listen.address, Address::Path(_)),
            }))
}

/// The name of the first steered stream socket.
fn steered_stream(unit: &Unit) -> Option<&str> {
    unit.listens()
        .find(|(socket, listen)| {
            socket.sharing != Sharing::Shared
                && listen.kind == ListenKind::Stream
                && (is_inet(&listen.address)
                    || (socket.sharing == Sharing::Steered && matches!(listen.address, Address::Path(_))))
        })
        .map(|(socket, _)| socket.name.as_str())
        .or(unit.service.intercept_bind.then_some("the sockets that it binds"))
}

fn is_inet(address: &Address) -> bool {
    match address {
        Address::Port(_) | Address::Inet(_) | Address::Scoped(..) => true,
        Address::Path(_) | Address::Abstract(_) | Address::Vsock { .. } | Address::Netlink { .. } => false,
    }
}

impl Turn<'_> {
    /// Whether a generation of this content has a slot. An address that is held stays as it is while anybody
    /// lives who has it, whatever a newer content says.
    pub(super) fn is_steered(&self, content: ContentId) -> bool {
        let living = self.s.generations.iter().any(|g| g.steered);
        self.s.steered.unwrap_or_else(|| living || declares_steered(&self.contents.get(content).unit))
    }

    /// Before a launch beside others: if the new content is steered, those who live have slots too (the first
    /// one, if they were launched with a shared socket).
    pub(super) fn give_slots(&mut self, content: ContentId) {
        let steered = self.is_steered(content);
        for generation in self.s.generations.iter_mut().filter(|g| matches!(g.kind, Kind::Full)) {
            generation.steered = steered;
        }
    }

    /// The steered stream socket that a new generation must have accepted from, if there is one.
    pub(super) fn steered_stream_name(&self, number: Gen) -> Option<String> {
        let generation = self.s.generation(number).filter(|g| g.steered)?;
        steered_stream(&self.contents.get(generation.content).unit).map(str::to_owned)
    }

    /// The slot of a new generation: the one that gets the connections if nobody holds it, else the lowest that
    /// is free.
    pub(super) fn free_slot(&self) -> u32 {
        let holds = |g: &Generation| g.steered || matches!(g.kind, Kind::Rescue { .. });
        let held = |slot: u32| self.s.generations.iter().any(|g| holds(g) && g.slot == slot);
        let serving = self.s.steering.serving;
        if !held(serving) {
            return serving;
        }
        (0..).find(|slot| !held(*slot)).unwrap_or(serving)
    }

    /// Says where connections go, if that has changed.
    pub(super) fn steer(&mut self) {
        let serving = self.s.current.and_then(|g| self.s.generation(g)).filter(|g| g.ready_at.is_some());
        let steered = serving.filter(|g| g.steered).map(|g| g.slot);
        let new = self.s.reload.as_ref().and_then(|reload| {
            let new = self.s.generation(reload.stage.new_generation()?).filter(|g| g.steered)?;
            let weight = match row(&reload.stage).weight {
                Weight::Nothing => return None,
                Weight::ZeroOrAll => Turn::handover_weight(reload.stage.handover()).unwrap_or(0),
                Weight::Step(weight) => Turn::handover_weight(reload.stage.handover()).unwrap_or(weight),
            };
            Some((new.slot, weight))
        });
        let by = match self.s.reload.as_ref().and_then(|reload| reload.stage.content()) {
            Some(content) => SteerBy::from(self.contents.get(content).unit.reload.canary_by),
            None => self.s.steering.by,
        };
        let serving = steered.unwrap_or(self.s.steering.serving);
        let wanted = Steering { serving, canary: new.filter(|(slot, _)| *slot != serving), by };
        let gets = |slot: u32| {
            slot == serving || wanted.canary.is_some_and(|(canary, weight)| canary == slot && weight > 0)
        };
        let full = self.s.generations.iter_mut().filter(|g| g.steered && matches!(g.kind, Kind::Full));
        full.filter(|g| gets(g.slot)).for_each(|g| g.served = true);
        if wanted == self.s.steering {
            return;
        }
        let before = self.s.steering;
        self.s.steering = wanted;
        if wanted.serving != before.serving || wanted.canary != before.canary {
            self.push(Action::Steer(wanted));
        }
        let left = before.serving;
        if left != serving && !self.s.generations.iter().any(|g| g.steered && g.slot == left && g.lives()) {
            self.slot_is_dirty(left);
        }
        let weight = |steering: &Steering| steering.canary.map(|(_, weight)| weight);
        if let Some(weight_now) = weight(&wanted).filter(|now| *now > 0 && Some(*now) != weight(&before))
            && let Some(generation) = self.s.reload.as_ref().and_then(|reload| reload.stage.new_generation())
        {
            self.announce(Announcement::Weight { generation, weight: weight_now });
        }
    }

    /// Stops a generation that may have connections waiting on its slot: they are waited for first, half of
    /// `DrainTimeout` at most. An old generation's datagram flows are waited for until they are idle, at most all of
    /// `DrainTimeout`; those of one that was rolled back are not: they are better off with the other.
    pub(super) fn drain(&mut self, number: Gen, timeout: Span) {
        let now = self.now;
        let plan = StopPlan { clock: Clock::Until(now.after(timeout)), exec_stop: true };
        let Some(generation) = self.s.generation(number) else { return };
        if matches!(generation.phase, Phase::Stopping { .. }) {
            self.begin_stop(number, plan.clock);
            return;
        }
        let (steered, lives, slot) = (generation.steered, generation.lives(), generation.slot);
        let plan = StopPlan { exec_stop: generation.ready_at.is_some(), ..plan };
        let half = if timeout.is_infinite() { timeout } else { Span(timeout.0 / 2) };
        // With its predecessor's state on the way it got every connection, ready or not.
        let served = generation.ready_at.is_some() || generation.served;
        if !steered || !lives || !served || half.is_zero() {
            if steered && served {
                self.slot_is_dirty(slot);
            }
            self.run_stop(number, plan);
            return;
        }
        let mut wait = Quiesce::new(now, now.after(half));
        if self.s.place(number) == Place::Draining {
            wait = wait.with_flows(now.after(timeout));
        }
        if let Some(generation) = self.s.generation_mut(number) {
            generation.phase = Phase::Quiescing { wait, plan };
            generation.health.stop();
            for worker in &mut generation.workers {
                worker.watchdog = None;
                worker.again = None;
                worker.up_by = None;
            }
        }
        self.kill_health_check(number);
        self.push(Action::BeginDrain { generation: number, slot });
    }

    /// `waiting`: connections that are half open or in a queue.
    pub(super) fn drain_state(&mut self, ticket: Ticket, number: Gen, waiting: u32, flows: Flowing) {
        let now = self.now;
        let is_empty = waiting == 0;
        if self.s.current == Some(number) {
            self.emptying(ticket, number, is_empty);
        }
        let Some(generation) = self.s.generation_mut(number) else { return };
        let Phase::Quiescing { wait, plan } = &mut generation.phase else { return };
        if wait.asked != Some(ticket) {
            return;
        }
        let plan = *plan;
        if let Kind::Rescue { left } = &mut generation.kind {
            *left = waiting;
        }
        let live = if wait.waits_for_flows(now) { flows.live } else { 0 };
        let (before, end) = (std::mem::replace(&mut wait.live, live), wait.flows_until);
        if !is_empty {
            wait.look_again(now);
        } else if live > 0 {
            wait.look_at_flows_again(now, flows.idle_in);
        } else {
            generation.drained = true;
            self.run_stop(number, plan);
        }
        if live > 0 && before == 0 {
            let most =
                end.map_or(String::new(), |end| format!(", {:.1}s at most", end.since(now).as_secs_f64()));
            let text = format!(
                "{live} datagram flows are live on generation {}: its stop signal waits until they are idle{most}",
                number.0
            );
            self.announce(Announcement::Step { generation: Some(number), text });
        }
    }

    pub(super) fn tick_quiesce(&mut self, number: Gen) {
        let now = self.now;
        let Some(generation) = self.s.generation(number) else { return };
        let slot = generation.slot;
        let Phase::Quiescing { mut wait, mut plan } = generation.phase else { return };
        if wait.live > 0 && wait.end().is_some_and(|end| end <= now) {
            let (number, live) = (number.0, wait.live);
            self.warn(format!(
                "generation {number} gets its stop signal with {live} live datagram flows: DrainTimeout has passed"
            ));
            // It has had no time of its own for that yet.
            plan.clock = self.stop_timeout(Gen(number));
            self.run_stop(Gen(number), plan);
        } else if wait.end().is_some_and(|end| end <= now) {
            self.warn(format!(
                "generation {} gets its stop signal although its slot is not empty: half of DrainTimeout has passed",
                number.0
            ));
            self.run_stop(number, plan);
        } else if wait.next.is_some_and(|next| next <= now) {
            wait.look(self.ask(Question::CheckDrain { generation: number, slot }));
            if let Some(generation) = self.s.generation_mut(number) {
                generation.phase = Phase::Quiescing { wait, plan };
            }
        }
    }

    /// A main of a generation whose slot is being emptied has ended.
    pub(super) fn quiescing_main_ended(&mut self, number: Gen) {
        let Some(generation) = self.s.generation(number).filter(|g| !g.lives()) else { return };
        let Phase::Quiescing { plan, .. } = generation.phase else { return };
        let slot = generation.slot;
        self.slot_is_dirty(slot);
        self.run_stop(number, StopPlan { exec_stop: false, ..plan });
    }

    /// Nobody serves this slot any more, and something may wait there.
    pub(super) fn slot_is_dirty(&mut self, slot: u32) {
        let rescued =
            self.s.generations.iter().any(|g| g.slot == slot && matches!(g.kind, Kind::Rescue { .. }));
        if !rescued && !self.s.dirty.iter().any(|dirty| dirty.slot == slot) {
            self.s.dirty.push(DirtySlot { slot, look: Look::Wanted, stranded: 0 });
        }
    }

    /// Something has landed on a slot that was left: whoever has it by now serves it.
    pub(super) fn stray(&mut self, slot: u32) {
        let held = self.s.generations.iter().any(|g| g.steered && g.slot == slot && g.lives());
        if !held && slot != self.s.steering.serving {
            self.slot_is_dirty(slot);
        }
    }

    /// Looks after slots that nobody serves, as soon as another one gets the connections.
    pub(super) fn check_dirty_slots(&mut self) {
        let ready = self.s.current.and_then(|g| self.s.generation(g)).filter(|g| g.ready_at.is_some());
        let serving = ready.filter(|g| matches!(g.phase, Phase::Up)).map(|g| g.slot);
        let over = matches!(self.s.rest, Rest::Stopped | Rest::Failed) && self.s.current.is_none();
        for at in 0..self.s.dirty.len() {
            let dirty = self.s.dirty[at];
            let wanted = match serving {
                Some(serving) => dirty.slot != serving && !self.s.is_down(),
                // Nobody is left who could serve it: say so, once.
                None => over && dirty.stranded == 0 && dirty.slot != self.s.steering.serving,
            };
            if dirty.look == Look::Wanted && wanted {
                self.s.dirty[at].look = Look::Asked(self.ask(Question::CheckSlot(dirty.slot)));
            }
        }
    }

    pub(super) fn slot_state(&mut self, ticket: Ticket, slot: u32, queued: u32, migrated: bool) {
        let Some(at) = self.s.dirty.iter().position(|dirty| dirty.look == Look::Asked(ticket)) else {
            return;
        };
        self.s.dirty[at].look = Look::Done;
        if queued == 0 || migrated {
            self.s.dirty.remove(at);
            // What is left of a dead generation there needs no second look when it is gone.
            for generation in self.s.generations.iter_mut().filter(|g| g.slot == slot && !g.lives()) {
                generation.drained = true;
            }
            return;
        }
        let holder =
            self.s.generations.iter().any(|g| {
                g.steered && g.slot == slot && matches!(g.phase, Phase::Starting { .. } | Phase::Up)
            });
        let serving = self.s.serving().map(|g| g.content);
        match serving.filter(|_| !holder && !self.s.is_down()) {
            Some(content) => {
                let text =
                    format!("{queued} connections were left on slot {slot}: the serving content takes them");
                self.announce(Announcement::Step { generation: None, text });
                let rescue = self.launch(content, Kind::Rescue { left: queued }, slot);
                self.begin_start(rescue);
            }
            None => self.strand(slot, queued),
        }
    }

    /// They wait on their slot for the next launch.
    fn strand(&mut self, slot: u32, count: u32) {
        let already = match self.s.dirty.iter_mut().find(|dirty| dirty.slot == slot) {
            Some(dirty) => {
                dirty.look = Look::Done;
                std::mem::replace(&mut dirty.stranded, count.max(1))
            }
            None => {
                self.s.dirty.push(DirtySlot { slot, look: Look::Done, stranded: count.max(1) });
                0
            }
        };
        if already == 0 && count > 0 {
            self.push(Action::Stranded { count });
        }
    }

    pub(super) fn rescue_is_ready(&mut self, number: Gen) {
        let timeout = self.unit_of(number).reload.drain_timeout;
        let timeout = Span(timeout.0.max(1_000_000));
        self.drain(number, timeout);
    }

    /// A rescue has ended: if something is still there, nobody can serve it now.
    pub(super) fn rescue_is_gone(&mut self, slot: u32, drained: bool, left: u32) {
        self.s.dirty.retain(|dirty| dirty.slot != slot);
        if !drained && left > 0 {
            self.strand(slot, left);
        }
    }

    /// Whether a generation gets a weight, and which, for `status`.
    pub(super) fn weight_of(s: &State, number: Gen) -> Option<u8> {
        let generation = s.generation(number).filter(|g| g.steered)?;
        match s.steering.canary.filter(|(slot, _)| *slot == generation.slot) {
            Some((_, weight)) => Some(weight),
            None if generation.slot == s.steering.serving && s.place(number) == Place::Current => {
                Some(100 - s.steering.canary.map_or(0, |(_, weight)| weight))
            }
            None => Some(0),
        }
    }
}
