//! Actions of a unit's machine become system calls: one function per action. A failure is no error here, it
//! goes back to the machine as an event.

use crate::daemon::ahead::{Ahead, Asking};
use crate::daemon::core::Daemon;
use crate::daemon::launch::{Begun, Launch, Launched};
use crate::daemon::spare::Spare;
use crate::daemon::supervised::{Child, LastWords, NotifySocket, Traffic};
use crate::daemon::token::Owner;
use crate::daemon::{home, launch, load, looks, probes};
use crate::machine::event::{
    Action, Announcement, Answer, Content, ContentId, Event, Gen, Proc, Question, Role, Spawn, SpawnFailure,
    Steering, Ticket,
};
use crate::sys::poll::Interest;
use crate::sys::tree::Main;
use crate::sys::{clock, dir, killpoint};
use crate::unit::{self, Unit};
use std::os::fd::AsFd;
use std::sync::Arc;

impl Daemon {
    /// Carries one action out.
    pub fn perform(&mut self, index: usize, action: Action) {
        self.trace_action(index, &action);
        match action {
            Action::Ask(ticket, question) => self.question(index, ticket, question),
            Action::KeepSockets(ids) => self.keep_sockets(index, &ids),
            Action::WatchTraffic => self.watch_sockets(index, Traffic::Watched),
            Action::IgnoreTraffic => self.watch_sockets(index, Traffic::Ignored),
            Action::FlushPending => self.flush_pending(index),
            Action::CloseConnection(conn) => {
                self.units[index].connections.remove(&conn);
            }
            Action::Spawn(spawn) => self.spawn(index, spawn),
            Action::Signal { to, signal } => self.signal(index, to, signal),
            Action::AdoptMain { proc, pid } => self.adopt_main(index, proc, pid),
            Action::Steer(steering) => self.steer(index, steering),
            Action::BeginDrain { generation, slot } => self.begin_drain(index, generation, slot),
            Action::Stranded { count } => {
                self.web.metrics.on_stranded(&self.units[index].name, u64::from(count))
            }
            Action::AnswerCold(generation) => {
                self.units[index].endpoint.cold(generation);
                self.pump_state(index);
            }
            // It would have to be waited for.
            Action::Relay(transfer) if self.upgrades.is_quiet() => {
                self.units[index].put_off = Some(transfer);
            }
            Action::Relay(transfer) => self.relay_state(index, transfer),
            Action::CancelRelay => {
                // What was put off is about to be ended, and has its answer then.
                self.begin_put_off(index);
                self.units[index].endpoint.cancel(clock::now());
                self.pump_state(index);
            }
            Action::Resume(generation) => {
                self.units[index].endpoint.resume(generation);
                self.pump_state(index);
            }
            Action::Commit(generation) => self.commit_state(index, generation),
            Action::GaveUp { generation, why } => self.gave_up(index, generation, why),
            Action::Content(_) => self.follow_content(index),
            Action::Promoted(generation) => self.promoted(index, generation),
            Action::GiveUp(what) => self.give_up(index, what),
            Action::Lingers(what) => self.lingers(index, what),
            Action::Forget(generation) => self.forget(index, generation),
            Action::DropStore => self.drop_store(index),
            Action::Announce(fact) => self.announce(index, fact),
            Action::Record(record) => self.record(index, record),
            Action::Reply { req, result } => self.reply(index, req, result),
        }
    }

    /// Finds out what the machine wants to know.
    fn question(&mut self, index: usize, ticket: Ticket, question: Question) {
        let answer = match question {
            Question::Load => self.load(index),
            Question::OpenSockets(content) => self.open_sockets(index, content),
            Question::CheckBinary(content) => return self.check_binary(index, ticket, &content),
            Question::Probe { generation, kind } => {
                return probes::start(self, index, ticket, generation, kind);
            }
            Question::Look { new, old } => return looks::start(self, index, ticket, (new, old)),
            Question::CheckDrain { generation, slot } => self.check_drain(index, generation, slot),
            Question::CheckSlot(slot) => self.check_slot(index, slot),
            Question::CountConnections => self.count_connections(index),
        };
        self.found_out(index, ticket, answer);
    }

    /// Answers a question of the machine.
    pub fn found_out(&mut self, index: usize, ticket: Ticket, answer: Answer) {
        self.queue.push_back((index, Event::Answered(ticket, answer)));
    }

    fn begin_drain(&mut self, index: usize, generation: Gen, slot: u32) {
        self.begin_answering(index, generation);
        self.units[index].sockets.begin_drain(slot);
    }

    fn check_drain(&mut self, index: usize, generation: Gen, slot: u32) -> Answer {
        let (half_open, queued, flows) = self.units[index].sockets.drain_state_with_flows(slot);
        let queued = if queued == 0 { self.still_answering(index, generation) } else { queued };
        Answer::DrainState { generation, half_open, queued, flows }
    }

    fn flush_pending(&mut self, index: usize) {
        let unit = &mut self.units[index];
        let content = Arc::clone(&unit.current.unit);
        let count = unit.sockets.flush_pending(&content);
        if count > 0 {
            log::info!(
                "{}: threw away {count} connections and messages that waited (FlushPending)",
                unit.name
            );
        }
    }

    /// What the unit's source says now, if it can take the place of what it said before.
    ///
    /// # Errors
    /// The file's errors, another name, what another unit has.
    pub fn read_again(&self, index: usize) -> Result<load::Loaded, String> {
        let unit = &self.units[index];
        let loaded = unit.source.load_beside(&unit.contents)?;
        if loaded.unit.name != unit.name {
            return Err(format!(
                "the unit is called \"{}\" now, and was \"{}\" when it was started; a new name needs a restart of aeternad",
                loaded.unit.name, unit.name
            ));
        }
        home::check_root(&loaded.unit, &self.shared.runtime_root)?;
        let others = self.units_here().filter(|(at, _)| *at != index);
        let others = others.map(|(_, other)| other.current.unit.as_ref());
        let clashes = unit::clashes_of(&loaded.unit, others);
        if clashes.is_empty() { Ok(loaded) } else { Err(clashes.join("\n")) }
    }

    fn open_sockets(&mut self, index: usize, content: Content) -> Answer {
        self.free_addresses();
        let unit = &mut self.units[index];
        let held = unit.sockets.count();
        let added = unit.sockets.add(&content.unit);
        let grown = unit.sockets.count() != held;
        let (result, warnings) = match added {
            Ok(warnings) => (Ok(()), warnings),
            Err(why) => (Err(why), Vec::new()),
        };
        let steered = unit.sockets.steered(&content.unit);
        // A rollback brings a content back that nothing has used since it was dropped from the list.
        if unit.content(content.id).is_none() {
            unit.contents.push(content.clone());
        }
        let strangers = unit.sockets.strangers();
        if grown {
            self.unwatch_sockets(index);
        }
        // Also what is where its path leads now.
        self.rewatch_sockets(index);
        let of_stranger =
            |stranger| format!("{stranger}: stop it, or run aeternad as root, which keeps others out");
        for text in warnings.into_iter().chain(strangers.into_iter().map(of_stranger)) {
            self.announce(index, Announcement::Warning { text });
        }
        self.queue.push_back((index, Event::Sockets { steered }));
        Answer::Opened { content: content.id, result }
    }

    fn keep_sockets(&mut self, index: usize, ids: &[ContentId]) {
        // A descriptor leaves the poll set before it is closed: a service's copy would keep it ringing.
        self.unwatch_sockets(index);
        let unit = &mut self.units[index];
        let kept: Vec<Arc<Unit>> =
            ids.iter().filter_map(|id| unit.content(*id)).map(|content| Arc::clone(&content.unit)).collect();
        let borrowed: Vec<&Unit> = kept.iter().map(Arc::as_ref).collect();
        let closed = unit.sockets.keep(&borrowed, unit.filters.bound(&unit.current.unit));
        if closed > 0 {
            log::info!("{}: closed {closed} sockets that nothing uses any more", unit.name);
        }
        let current = unit.current.id;
        let lives = |id: ContentId| unit.generations.values().any(|shell| shell.content == Some(id));
        unit.contents
            .retain(|content| ids.contains(&content.id) || content.id == current || lives(content.id));
        self.rewatch_sockets(index);
        if closed > 0 {
            self.free_soon(index);
        }
    }

    fn spawn(&mut self, index: usize, spawn: Spawn) {
        let newcomer = spawn
            .generation
            .filter(|number| spawn.goes_first && !self.units[index].generations.contains_key(number));
        let begun = match self.need_generation(index, &spawn) {
            Ok(()) => self.try_spawn(index, &spawn, newcomer, None),
            Err(failure) => Err(failure),
        };
        self.spawned(index, spawn.proc, begun);
    }

    /// The files that a start has waited for are there.
    pub fn start_with_files(&mut self, index: usize, spawn: Spawn, newcomer: Option<Gen>, ahead: Ahead) {
        let begun = self.try_spawn(index, &spawn, newcomer, Some(ahead));
        self.spawned(index, spawn.proc, begun);
    }

    fn spawned(&mut self, index: usize, proc: Proc, begun: Result<Option<i32>, SpawnFailure>) {
        let event = match begun {
            Ok(Some(pid)) => Event::Spawned { proc, pid },
            // It is on its way.
            Ok(None) => return,
            Err(failure) => Event::SpawnFailed { proc, failure },
        };
        self.queue.push_back((index, event));
    }

    fn try_spawn(
        &mut self,
        index: usize,
        spawn: &Spawn,
        newcomer: Option<Gen>,
        ahead: Option<Ahead>,
    ) -> Result<Option<i32>, SpawnFailure> {
        if matches!(spawn.role, Role::Main { .. }) {
            self.take_slot(index, spawn.slot);
            self.mend_sockets(index);
        }
        self.write_now(index);
        let begun = clock::now();
        let patience = self.slows.patience(index, begun);
        let later = self.tell_later(index, spawn.proc);
        let unanswered = self.slows.unanswered.get(&index).copied().unwrap_or(0);
        let asking = Asking { patience, unanswered, ahead, later: &later };
        let unit = &mut self.units[index];
        let register = self.survival.registrar(&unit.name, spawn.proc);
        let launched = launch::launch(unit, &self.shared, spawn, asking, register.as_ref());
        killpoint::here();
        self.slows.waited(clock::now().since(begun));
        self.tell_losses(index);
        // A slot that was made for it, or a socket that was made anew, is watched from now on.
        self.follow_sockets(index);
        let launched = match launched? {
            Launch::Begun(launched) => launched,
            Launch::Awaits(names) => {
                self.await_files(index, spawn, newcomer, names);
                return Ok(None);
            }
        };
        if let Some(number) = newcomer {
            self.memory.watch(index, number);
        }
        Ok(self.begun(index, spawn, launched))
    }

    /// There is a process; its pid, if it has come to its program.
    fn begun(&mut self, index: usize, spawn: &Spawn, launched: Launched) -> Option<i32> {
        let pid = launched.pid;
        self.pids.insert(pid, (index, spawn.proc));
        let child = Child {
            pid,
            role: spawn.role,
            generation: spawn.generation,
            invocation: launched.invocation,
            pidfd: launched.pidfd,
            started: None,
            watched: false,
            gone: false,
            killed: false,
            said: None,
        };
        let unit = &mut self.units[index];
        unit.children.insert(spawn.proc, child);
        if let Role::Instance(conn) = spawn.role {
            // The instance has its own copy now.
            unit.connections.remove(&conn);
        }
        let mut watched_empty = false;
        if let Some(shell) = spawn.generation.and_then(|number| unit.generations.get_mut(&number)) {
            shell.alive += 1;
            watched_empty = std::mem::replace(&mut shell.watch_empty, false);
            shell.started.push(Main { pid, reaped: false, start_time: None });
        }
        self.adopt_streams(index, spawn.generation, pid, launched.logs);
        self.write_now(index);
        let listener = match launched.begun {
            Begun::Running(listener) => listener,
            Begun::Slow(beginning) => {
                self.await_start(index, (spawn.proc, spawn.generation), watched_empty, *beginning);
                return None;
            }
        };
        if let (Some(number), Some(listener)) = (spawn.generation, listener) {
            self.adopt_filter(index, number, listener);
        }
        Some(pid)
    }

    /// Makes what a generation needs at its first process.
    fn need_generation(&mut self, index: usize, spawn: &Spawn) -> Result<(), SpawnFailure> {
        let Some(number) = spawn.generation else { return Ok(()) };
        if self.units[index].generations.contains_key(&number) {
            return Ok(());
        }
        self.need_home();
        let unit = &mut self.units[index];
        let shell = launch::prepare_generation(unit, &self.shared, spawn, index)
            .map_err(|why| SpawnFailure::ours(format!("cannot start {}: {why}", unit.name)))?;
        if let Some(socket) = &shell.kit.notify {
            let token = Owner::Notify(index, number.0).token();
            self.poller.add(token, socket.fd.as_fd(), Interest::READ).map_err(|error| {
                SpawnFailure::ours(format!("cannot watch the notify socket of {}: {error}", unit.name))
            })?;
        }
        let owner = shell.owner;
        unit.generations.insert(number, Box::new(shell));
        self.watch_kills(index, number);
        let content = Arc::clone(&spawn.content.unit);
        self.need_state_socket(index, &content, owner)
            .map_err(|why| SpawnFailure::ours(format!("cannot start {}: {why}", content.name)))
    }

    fn steer(&mut self, index: usize, steering: Steering) {
        self.tell_share(index);
        let unit = &mut self.units[index];
        let before = std::mem::replace(&mut unit.serving_slot, steering.serving);
        let canary = steering.canary.filter(|(_, weight)| *weight > 0).map(|(slot, _)| slot);
        unit.used_slots.extend(canary.into_iter().chain([steering.serving]));
        for shell in unit.generations.values_mut() {
            shell.served |= shell.slot == steering.serving || Some(shell.slot) == canary;
        }
        if let Err(why) = unit.sockets.steer(steering.serving, steering.canary, steering.by) {
            log::error!("{}: cannot steer its connections: {why}", unit.name);
        }
        self.keep_flows(index);
        if before != steering.serving {
            self.take_slot(index, steering.serving);
            self.leave_slot(index, before, true);
        }
    }

    /// Before a weight changes: what came of it, if anybody came.
    fn tell_share(&mut self, index: usize) {
        let unit = &mut self.units[index];
        let Some((slot, share)) = unit.sockets.end_step() else { return };
        let holder = unit.generations.iter().rfind(|(_, shell)| shell.slot == slot);
        if let Some(generation) = holder.map(|(number, _)| *number).filter(|_| share.share.is_some()) {
            self.announce(index, Announcement::Measured { generation, share });
        }
    }

    fn count_connections(&mut self, index: usize) -> Answer {
        let unit = &mut self.units[index];
        let established = unit.sockets.established();
        let arrived = std::mem::replace(&mut unit.arrived, false);
        self.watch_sockets(index, Traffic::Counted);
        Answer::Connections { established, arrived }
    }

    /// Goes by the content that the machine goes by now, also where nothing was launched: by `signal`, in LISTENING,
    /// with `Accept`.
    pub fn follow_content(&mut self, index: usize) {
        let unit = &mut self.units[index];
        unit.current = unit.machine.content().clone();
        self.watch_paths(index);
    }

    fn promoted(&mut self, index: usize, generation: Gen) {
        let unit = &mut self.units[index];
        unit.promoted = Some(generation);
        unit.store.promoted(generation);
        if let Some(shell) = unit.generations.get_mut(&generation) {
            shell.served = true;
            if let Some(release) = &shell.release {
                unit.releases.given_up.absolve(release.identity());
            }
        }
        self.watch_stored(index);
        self.watch_paths(index);
        self.settle_learned(index, generation);
        let unit = &mut self.units[index];
        let content = Arc::clone(&unit.current.unit);
        unit.sockets.hide_dropped(&content, unit.filters.bound(&content));
        self.look_at_left_slots(index);
    }

    fn forget(&mut self, index: usize, generation: Gen) {
        self.units[index].endpoint.forget(generation, clock::now());
        self.pump_state(index);
        let unit = &mut self.units[index];
        unit.store.forget(generation);
        if let Some(shell) = unit.generations.remove(&generation) {
            unit.used.gone(&shell);
            let content = shell.content.and_then(|id| unit.content(id));
            unit.last_words = Some(LastWords {
                generation,
                went_to: content.map(|content| content.unit.service.standard_error.clone()),
                lines: shell.last_lines.into(),
            });
            for fd in shell.kit.notify.iter().flat_map(NotifySocket::fds) {
                let _ = self.poller.remove(fd);
            }
            if let Some(group) = &shell.kit.cgroup {
                let _ = self.poller.remove(group.events_fd());
            }
            if let Some(kills) = &shell.kills {
                let _ = self.poller.remove(kills.fd());
            }
            shell.kit.remove();
            self.leave_slot(index, shell.slot, shell.served);
            self.release_unheld(index);
        }
        Spare::renew(&mut self.units[index], &self.shared, index);
        if self.units[index].generations.is_empty() {
            self.remove_runtime_directories(index);
        }
    }

    /// `RuntimeDirectory` goes when the last process of the unit has gone.
    fn remove_runtime_directories(&self, index: usize) {
        let unit = &self.units[index];
        for name in &unit.current.unit.service.runtime_directory {
            let root = std::path::Path::new(&self.shared.runtime_root);
            let removed = dir::remove_for_service(root, std::path::Path::new(name));
            if let Err(error) = removed {
                log::warn!("{}: cannot remove {}: {error}", unit.name, root.join(name).display());
            }
        }
    }

    fn drop_store(&mut self, index: usize) {
        self.units[index].store.clear();
        self.watch_stored(index);
    }
}
