//! The loop: waits, turns what is ready into events, in the order in which facts should be believed.
//!
//! Order of a turn: threads' reports, notify messages, traffic and log lines, signals and exits, commands,
//! deadlines last, so that a deadline never beats a fact that has already arrived.

use crate::daemon::core::{Daemon, News, Report};
use crate::daemon::sockets::SocketId;
use crate::daemon::supervised::Traffic;
use crate::daemon::token::Owner;
use crate::machine::daemon::DaemonEvent;
use crate::machine::event::{Beside, Conn, Event, Exit, Gen, Proc, Role};
use crate::sys::aside;
use crate::sys::cgroup::Cgroup;
use crate::sys::clock;
use crate::sys::poll::{Readiness, Token};
use crate::sys::signal::Signals;
use crate::sys::tree;
use crate::sys::wait::{self, WaitStatus};
use crate::sys::wake::Wakeups;
use crate::time::{Monotime, Span};
use std::net::SocketAddr;
use std::os::fd::AsFd;

/// How long accepting pauses when there is no descriptor for a connection.
pub const ACCEPT_PAUSE: Span = Span::from_secs(1);

/// How many processes are reaped in one turn.
const MAX_REAPED: usize = 1024;

/// SIGHUP.
const SIGHUP: i32 = 1;

/// SIGKILL.
const SIGKILL: i32 = 9;

/// SIGWINCH.
const SIGWINCH: i32 = 28;

/// SIGCHLD.
const SIGCHLD: i32 = 17;

/// What the loop waits on beside the poll set.
#[derive(Debug)]
pub struct Sources {
    /// The signalfd.
    pub signals: Signals,
    /// The self-pipe's read end.
    pub wakeups: Wakeups,
}

/// Runs until the exit status is known.
pub fn run(daemon: &mut Daemon, sources: &Sources) -> u8 {
    let mut ready: Vec<(Token, Readiness)> = Vec::new();
    loop {
        if let Some(code) = daemon.exit {
            return code;
        }
        ready.clear();
        if let Err(error) = daemon.poller.wait(daemon.next_deadline(), &mut ready) {
            log::error!("cannot wait for events: {error}");
        }
        // A deadline that passes while the turn is at work waits for the next one: what came meanwhile came before it.
        turn(daemon, sources, &ready, clock::now());
    }
}

fn turn(daemon: &mut Daemon, sources: &Sources, ready: &[(Token, Readiness)], now: Monotime) {
    let has = |token: Token| ready.iter().any(|(have, _)| *have == token);
    if has(Token::WAKE) {
        sources.wakeups.drain();
        daemon.take_reports();
    }
    let (mut commands, mut kills) = (Vec::new(), Vec::new());
    for (token, readiness) in ready {
        let owner = Owner::of(*token);
        if let Some(unit) = owner.and_then(Owner::changes) {
            daemon.survival.touch(unit);
        }
        match owner {
            Some(Owner::Filter(unit, id)) => daemon.trapped(unit, id, *readiness),
            Some(Owner::Notify(unit, number)) => daemon.read_notifications(unit, Gen(number)),
            Some(Owner::Socket(unit, id)) => daemon.socket_ready(unit, id, *readiness),
            Some(Owner::Log(unit, id)) => {
                daemon.read_log(unit, id);
            }
            Some(Owner::Adopted(unit, id)) => daemon.adopted_ended(unit, Proc(id)),
            Some(Owner::Stored(unit, id)) => daemon.stored_ready(unit, id, *readiness),
            Some(Owner::Cgroup(unit, number)) => daemon.check_empty(unit, Gen(number)),
            Some(Owner::Kills(unit, number)) => kills.push((unit, Gen(number))),
            Some(Owner::Starting(pid)) => drop(daemon.start_ready(pid.cast_signed())),
            Some(Owner::StateSocket(unit)) => daemon.accept_state(unit),
            Some(Owner::StateConnection(unit, id)) => daemon.state_ready(unit, id, *readiness),
            Some(Owner::Paths(unit)) => daemon.paths_changed(unit),
            Some(Owner::SocketPaths(unit)) => daemon.socket_paths_changed(unit),
            Some(Owner::UpgradeCheck) => daemon.check_ready(),
            Some(Owner::Home) => daemon.home_changed(*readiness),
            Some(Owner::Claim) => daemon.claim_asked(),
            Some(Owner::Keeper) => daemon.holder_ready(),
            Some(owner @ (Owner::Control | Owner::Client(_))) => commands.push((owner, *readiness)),
            None => {}
        }
    }
    if has(Token::SIGNALS) || daemon.reap_more {
        take_signals(daemon, &sources.signals);
    }
    // Those whose ends were told by now need not be told of.
    for (unit, number) in kills {
        daemon.kills_told(unit, number);
    }
    for (owner, readiness) in commands {
        match owner {
            Owner::Client(id) => daemon.client_ready(id, readiness),
            _ => daemon.accept_clients(),
        }
    }
    daemon.tick(now);
    let lost = aside::take_lost();
    if lost > 0 {
        log::error!("{lost} descriptors that came from services stay open: too many wait to be closed");
    }
    daemon.serve_http();
    daemon.write_down();
    daemon.upgrade_turn();
    daemon.serve_clients();
}

fn take_signals(daemon: &mut Daemon, signals: &Signals) {
    let mut reap = false;
    loop {
        match signals.read() {
            Ok(Some(info)) if info.signal == SIGCHLD => reap = true,
            // A terminal that is not the service's own tells only us.
            Ok(Some(info)) if info.signal == SIGWINCH && !info.sent => daemon.window_changed(),
            // A terminal's, for whoever reads from it: no message to us.
            Ok(Some(info)) if !info.sent && daemon.machine.means_nothing(info.signal) => {}
            Ok(Some(info)) => {
                // Exits that came before a signal are facts that it should find.
                daemon.reap();
                if info.signal == SIGHUP {
                    daemon.home_wanted();
                }
                daemon.machine_event(DaemonEvent::Signal(info.signal));
            }
            Ok(None) => break,
            Err(error) => {
                log::error!("cannot read signals: {error}");
                break;
            }
        }
    }
    if reap || daemon.reap_more {
        daemon.reap();
    }
}

/// How a process ended, in the machine's words.
pub fn exit_of(status: WaitStatus) -> Exit {
    match status {
        WaitStatus::Exited(code) => Exit::Code((code & 0xff) as u8),
        WaitStatus::Signaled { signal, core } => Exit::Signal { signal, core },
    }
}

impl Daemon {
    /// Threads' results.
    pub fn take_reports(&mut self) {
        while let Ok(Report { unit, news }) = self.inbox.try_recv() {
            match news {
                News::Event(event) => self.deliver(unit, event),
                News::Tried(ticket, seen, from) => {
                    self.end_probes(unit, from);
                    self.tried(unit, ticket, &seen);
                }
                News::Memory(seen) => self.newcomers_seen(seen),
                News::Relayed(outcome) => self.state_relayed(unit, *outcome),
                News::Called(called) => self.called(unit, *called),
                News::Unseen(number, address) => self.unseen(unit, number, address),
                News::Opened(proc, ahead) => self.files_opened(unit, proc, *ahead),
                News::Probed(event, from) => {
                    self.end_probes(unit, from);
                    self.deliver(unit, event);
                }
                News::Looked(event, from) => {
                    self.end_probes(unit, from);
                    self.deliver(unit, event);
                }
            }
        }
    }

    /// Nobody is steered by these source addresses any more.
    fn end_probes(&mut self, unit: usize, from: impl IntoIterator<Item = SocketAddr>) {
        let Some(unit) = self.units.get_mut(unit) else { return };
        for from in from {
            if let Err(why) = unit.sockets.end_probe(from) {
                log::warn!("{}: cannot steer its connections: {why}", unit.name);
            }
        }
    }

    /// Reaps everything that has died. SIGCHLDs coalesce: until none is left.
    pub fn reap(&mut self) {
        let mut strangers = false;
        self.reap_more = true;
        // Whoever forks fast enough could keep us here: the rest is for the next turn.
        for _ in 0..MAX_REAPED {
            match wait::reap_any() {
                Ok(Some((pid, status))) => strangers |= !self.reaped(pid, status),
                Ok(None) => {
                    self.reap_more = false;
                    break;
                }
                Err(error) => {
                    log::error!("cannot reap: {error}");
                    self.reap_more = false;
                    break;
                }
            }
        }
        self.oom.forget();
        if strangers {
            self.look_for_empty();
        }
    }

    /// A process has been reaped. Returns whether it was one of ours.
    fn reaped(&mut self, pid: i32, status: WaitStatus) -> bool {
        // Its beginning comes before its end.
        if self.start_ready(pid) {
            return true;
        }
        let Some((index, proc)) = self.pids.remove(&pid) else {
            if self.check_reaped(pid, status) || self.keeper_reaped(pid) {
                return true;
            }
            self.orphans += 1;
            return false;
        };
        self.process_gone(index, proc, pid, exit_of(status));
        true
    }

    /// A process of a unit is there no more.
    pub fn process_gone(&mut self, index: usize, proc: Proc, pid: i32, exit: Exit) {
        // What it said came before its end, also where both arrived since the last look.
        if let Some(number) = self.units[index].children.get(&proc).and_then(|child| child.generation) {
            self.read_notifications(index, number);
        }
        // The machine may want to sweep what it has left behind: it is forgotten when that has been told.
        let child = self.units[index].children.get_mut(&proc).map(|child| {
            child.gone = true;
            (child.pidfd.take().filter(|_| child.watched), child.watched, child.generation)
        });
        let (watched, adopted, generation) = child.unwrap_or_default();
        if !adopted {
            self.keep_group(index, generation, pid);
        }
        if let Some(watched) = watched {
            let _ = self.poller.remove(watched.as_fd());
        } else {
            self.keep_group(index, generation, pid);
        }
        let mut last = None;
        if let Some((number, shell)) =
            generation.and_then(|number| self.units[index].generations.get_mut(&number).map(|s| (number, s)))
        {
            shell.alive = shell.alive.saturating_sub(1);
            shell.started.iter_mut().filter(|main| main.pid == pid).for_each(|main| main.reaped = true);
            if shell.alive == 0 {
                shell.watch_empty = true;
                last = Some(number);
            }
        }
        let is_main =
            self.units[index].children.get(&proc).is_some_and(|c| matches!(c.role, Role::Main { .. }));
        if let (Exit::Code(_), Some(number), true) = (exit, generation, is_main) {
            self.release_paths(index, number);
        }
        // Its last words may still be in the pipe: they belong before its end in the log.
        self.drain_streams_of(index, pid);
        if let Some(line) = self.units[index].children.get_mut(&proc).and_then(|child| child.said.take()) {
            self.deliver(index, Event::Said { proc, line });
        }
        let beside = self.seen_beside(index, proc, exit);
        if beside == Beside::OutOfMemory {
            self.units[index].used.killed();
        }
        if matches!(beside, Beside::OutOfMemory | Beside::MemoryShort) {
            self.newcomers_die_first(index, generation);
        }
        self.deliver(index, Event::Exited { proc, exit, beside });
        if let Some(number) = last {
            self.check_empty(index, number);
        }
    }

    /// What explains the end of a process that has just been reaped.
    fn seen_beside(&mut self, index: usize, proc: Proc, exit: Exit) -> Beside {
        let unit = &self.units[index];
        let Some(child) = unit.children.get(&proc) else { return Beside::Nothing };
        match (exit, child.role, child.generation) {
            (Exit::Signal { signal: SIGKILL, .. }, _, number) if !child.killed => {
                self.was_killed_for_memory(index, number)
            }
            (Exit::Code(0), Role::Main { .. }, Some(number)) => {
                let others =
                    unit.children.values().any(|other| !other.gone && other.generation == Some(number));
                if others || self.is_empty(unit, number) { Beside::Nothing } else { Beside::Others }
            }
            _ => Beside::Nothing,
        }
    }

    /// Tells the machine if nothing of a generation's tree is left.
    pub fn check_empty(&mut self, index: usize, number: Gen) {
        self.check_empty_in(index, number, None);
    }

    /// As [`Daemon::check_empty`], where there is no control group by what was seen of all processes already.
    fn check_empty_in(&mut self, index: usize, number: Gen, seen: Option<&tree::Snapshot>) {
        let Some(unit) = self.units.get(index) else { return };
        if !unit.generations.get(&number).is_some_and(|shell| shell.watch_empty && shell.alive == 0) {
            return;
        }
        let empty = match seen {
            Some(seen) => self.is_empty_in(unit, number, seen),
            None => self.is_empty(unit, number),
        };
        if empty {
            if let Some(shell) = self.units[index].generations.get_mut(&number) {
                shell.watch_empty = false;
            }
            self.unwatch_group(index, number);
            self.deliver(index, Event::Emptied(number));
        } else {
            self.watch_group(index, number);
        }
    }

    /// A control group's emptiness rings by itself; without one, the death of an orphan is the hint.
    fn watch_group(&mut self, index: usize, number: Gen) {
        let group = self.units[index].generations.get(&number).and_then(|shell| shell.kit.cgroup.as_ref());
        if let Some(events) = group.map(Cgroup::events_fd) {
            // Added already the last time it was found populated: no matter.
            let _ = self.poller.add_priority(Owner::Cgroup(index, number.0).token(), events);
        }
    }

    fn unwatch_group(&mut self, index: usize, number: Gen) {
        let group = self.units[index].generations.get(&number).and_then(|shell| shell.kit.cgroup.as_ref());
        if let Some(events) = group.map(Cgroup::events_fd) {
            let _ = self.poller.remove(events);
        }
    }

    fn look_for_empty(&mut self) {
        let waiting: Vec<(usize, Gen)> = self
            .units
            .iter()
            .enumerate()
            .flat_map(|(index, unit)| {
                unit.generations
                    .iter()
                    .filter(|(_, shell)| shell.watch_empty)
                    .map(move |(number, _)| (index, *number))
            })
            .collect();
        // One look at all processes for all of them.
        let seen = if waiting.is_empty() { None } else { Some(tree::Snapshot::take()) };
        for (index, number) in waiting {
            self.check_empty_in(index, number, seen.as_ref());
        }
    }

    /// Takes one connection for an `Accept` unit.
    pub fn accept_connection(&mut self, index: usize, id: u32) {
        let unit = &mut self.units[index];
        match unit.sockets.accept(SocketId(id)) {
            Ok(Some((fd, source, peer))) => {
                let unit = &mut self.units[index];
                let socket = unit.sockets.table_of(&unit.current.unit, SocketId(id)).unwrap_or(0);
                self.last_req += 1;
                let conn = Conn(self.last_req);
                unit.connections.insert(conn, (fd, peer));
                self.watch_sockets(index, Traffic::Ignored);
                self.deliver(index, Event::Accepted { conn, socket, source });
            }
            // Somebody hung up before we came.
            Ok(None) => {}
            Err(error) => {
                // Out of descriptors, most likely: the connection waits in its queue, and would ring at once.
                log::warn!("{}: cannot accept a connection: {error}; the next try is in 1s", unit.name);
                unit.accept_again = clock::now().after(ACCEPT_PAUSE);
                self.watch_sockets(index, Traffic::Ignored);
            }
        }
    }

    /// A stored descriptor hung up: out of the store.
    fn stored_ready(&mut self, index: usize, id: u32, readiness: Readiness) {
        if !(readiness.hangup || readiness.error) {
            return;
        }
        let Some(unit) = self.units.get_mut(index) else { return };
        unit.store.hung_up(id);
        self.watch_stored(index);
    }
}
