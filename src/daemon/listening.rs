//! The poll set's view of a unit's sockets: each of them is in it from its making to its end, and what is waited for
//! follows from three facts: what the machine wants to know of traffic, whether the socket's slot was left, and
//! whether anybody has it.

use crate::daemon::core::Daemon;
use crate::daemon::sockets::{SocketId, Watched};
use crate::daemon::supervised::{Supervised, Traffic};
use crate::daemon::token::Owner;
use crate::machine::event::{Answer, Event};
use crate::sys::poll::{Interest, Poller, Readiness, Token};
use std::io;
use std::os::fd::AsFd;

/// What is waited for on one socket.
fn wait_for(poller: &mut Poller, token: Token, unit: &Supervised, socket: &Watched<'_>) -> io::Result<()> {
    let is_left = socket.slot.is_some_and(|slot| unit.left_slots.contains(&slot));
    match unit.traffic {
        Traffic::Watched => poller.change(token, socket.fd, Interest::READ),
        // Nobody reads there: a level would ring for ever, and one that rings once would miss the next.
        Traffic::Ignored | Traffic::Counted if is_left => poller.change_to_edge(token, socket.fd),
        Traffic::Counted => poller.rearm_edge_oneshot(token, socket.fd),
        Traffic::Ignored => poller.change(token, socket.fd, Interest::HANGUP_ONLY),
    }
}

impl Daemon {
    /// Changes what the poll set waits for on a unit's sockets.
    pub fn watch_sockets(&mut self, index: usize, traffic: Traffic) {
        let unit = &mut self.units[index];
        if unit.traffic == traffic && traffic != Traffic::Counted {
            return;
        }
        unit.traffic = traffic;
        self.wait_for_all(index, |_| true);
    }

    fn wait_for_all(&mut self, index: usize, wanted: impl Fn(&Watched<'_>) -> bool) {
        let unit = &self.units[index];
        for socket in unit.sockets.watch_list().iter().filter(|socket| wanted(socket)) {
            let token = Owner::Socket(index, socket.id.0).token();
            if let Err(error) = wait_for(&mut self.poller, token, unit, socket) {
                log::warn!("{}: cannot watch a socket: {error}", unit.name);
            }
        }
    }

    /// Takes a unit's sockets out of the poll set, before any of them is closed.
    pub fn unwatch_sockets(&mut self, index: usize) {
        let unit = &mut self.units[index];
        for socket in unit.sockets.watch_list() {
            // One that was never in is no matter.
            let _ = self.poller.remove(socket.fd);
        }
        unit.sockets.set_watched(false);
    }

    /// Puts a unit's sockets into the poll set again, with what is waited for now.
    pub fn rewatch_sockets(&mut self, index: usize) {
        self.follow_sockets(index);
        self.watch_socket_paths(index);
    }

    /// After anything that may have made a socket: what is new is watched, what was replaced is not any more.
    pub fn follow_sockets(&mut self, index: usize) {
        let unit = &mut self.units[index];
        for retired in unit.sockets.take_retired() {
            // A process that still holds it would keep it ringing.
            let _ = self.poller.remove(retired.as_fd());
        }
        let unwatched = unit.sockets.unwatched();
        if unwatched.is_empty() {
            return;
        }
        for socket in unwatched {
            let token = Owner::Socket(index, socket.id.0).token();
            let added = self.poller.add(token, socket.fd, Interest::HANGUP_ONLY);
            if let Err(error) = added.and_then(|()| wait_for(&mut self.poller, token, unit, &socket)) {
                log::warn!("{}: cannot watch a socket: {error}", unit.name);
            }
        }
        self.units[index].sockets.set_watched(true);
        self.watch_socket_paths(index);
    }

    /// Before sockets are lent: what a process has shut down since the last look is repaired.
    pub fn mend_sockets(&mut self, index: usize) {
        for id in self.units[index].sockets.hung_up() {
            self.repair_socket(index, id);
        }
    }

    /// Something happened on a socket that we hold.
    pub fn socket_ready(&mut self, index: usize, id: u32, readiness: Readiness) {
        let Some(unit) = self.units.get_mut(index) else { return };
        if readiness.hangup || readiness.error {
            return self.repair_socket(index, SocketId(id));
        }
        if !readiness.readable {
            return;
        }
        let left = unit.sockets.slot_of(SocketId(id)).filter(|slot| unit.left_slots.contains(slot));
        let was_watched = unit.traffic == Traffic::Watched;
        if was_watched && unit.current.unit.accepts() {
            return self.accept_connection(index, id);
        }
        unit.arrived |= unit.traffic == Traffic::Counted;
        if was_watched {
            self.watch_sockets(index, Traffic::Ignored);
        }
        if let Some(slot) = left {
            self.deliver(index, Event::Stray { slot });
        }
        if was_watched {
            self.deliver(index, Event::Traffic);
        }
    }

    /// A socket hung up: somebody shut it down. The descriptor may be another one afterwards, and the old one
    /// would ring for ever while a service still holds it: out of the poll set first.
    fn repair_socket(&mut self, index: usize, id: SocketId) {
        self.unwatch_sockets(index);
        let unit = &mut self.units[index];
        if let Some(text) = unit.sockets.repair(id) {
            log::warn!("{}: {text}", unit.name);
        }
        self.rewatch_sockets(index);
    }

    /// A generation is gone. Its slot is watched from now on, if users' connections were ever sent there and nobody
    /// else has it.
    pub fn leave_slot(&mut self, index: usize, slot: u32, served: bool) {
        let unit = &mut self.units[index];
        if served {
            unit.used_slots.insert(slot);
        }
        let held = unit.generations.values().any(|shell| shell.slot == slot);
        if slot != unit.serving_slot && !held {
            self.vacate_slot(index, slot);
        }
        let unit = &mut self.units[index];
        if unit.used_slots.contains(&slot)
            && slot != unit.serving_slot
            && !held
            && unit.left_slots.insert(slot)
        {
            self.wait_for_all(index, |socket| socket.slot == Some(slot));
        }
    }

    /// Nobody reads the datagrams of a slot any more: those who send them go elsewhere from now on.
    fn vacate_slot(&mut self, index: usize, slot: u32) {
        let unit = &mut self.units[index];
        let discarded = unit.sockets.vacate(slot);
        if discarded > 0 {
            log::info!("{}: {discarded} datagrams were left unread on slot {slot}", unit.name);
        }
        self.keep_flows(index);
    }

    /// Takes down flows after a switch, and what was taken down out again after a drain, on a thread of its own.
    pub fn keep_flows(&mut self, index: usize) {
        let unit = &mut self.units[index];
        let keepers = unit.sockets.take_keepers();
        if keepers.is_empty() {
            return;
        }
        let name = unit.name.clone();
        let told = name.clone();
        let keep = move || {
            for (address, keeper) in keepers {
                if let Err(error) = keeper.run() {
                    log::warn!(
                        "{name}: cannot take down the flows of {address} ({error}): a flood may move some"
                    );
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("flows".into()).spawn(keep) {
            log::warn!("{told}: cannot take down flows ({error}): a flood may move some");
        }
    }

    /// A slot gets somebody who serves it.
    pub fn take_slot(&mut self, index: usize, slot: u32) {
        if self.units[index].left_slots.remove(&slot) {
            self.wait_for_all(index, |socket| socket.slot == Some(slot));
        }
    }

    /// Somebody serves who could take what was left on other slots: what waits there is told again.
    pub fn look_at_left_slots(&mut self, index: usize) {
        let left = self.units[index].left_slots.clone();
        if !left.is_empty() {
            self.wait_for_all(index, |socket| socket.slot.is_some_and(|slot| left.contains(&slot)));
        }
    }

    /// How many connections wait on a slot that nobody serves.
    pub fn check_slot(&mut self, index: usize, slot: u32) -> Answer {
        let held = self.units[index].generations.values().any(|shell| shell.slot == slot);
        if !held && slot != self.units[index].serving_slot {
            // Datagrams that were under way when it was left.
            self.vacate_slot(index, slot);
        }
        let unit = &mut self.units[index];
        let (queued, migrated) = unit.sockets.slot_state(slot, unit.serving_slot);
        Answer::SlotState { slot, queued, migrated }
    }
}
