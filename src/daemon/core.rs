//! The daemon's state, and how an event goes through a unit's machine and becomes effects.

use crate::daemon::ahead::Ahead;
use crate::daemon::control::Clients;
use crate::daemon::dry::DryRun;
use crate::daemon::files::Files;
use crate::daemon::home::Home;
use crate::daemon::http::web::Web;
use crate::daemon::intercept::Called;
use crate::daemon::memory::MemoryWatch;
use crate::daemon::oom::OomWatch;
use crate::daemon::relay::RelayOutcome;
use crate::daemon::requests::Pending;
use crate::daemon::shared::Shared;
use crate::daemon::starting::Slows;
use crate::daemon::supervised::{Supervised, Traffic};
use crate::daemon::survival::Survival;
use crate::daemon::upgrade::Upgrades;
use crate::daemon::upstream::Upstream;
use crate::machine::daemon::DaemonMachine;
use crate::machine::event::{Action, Command, Event, Gen, Proc, Req, Seen};
use crate::machine::owed::Owed;
use crate::proto::status::UnitState;
use crate::sys::poll::Poller;
use crate::sys::wake::Waker;
use crate::sys::{clock, killpoint};
use crate::time::Monotime;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::mpsc;

/// What a thread has found out; it reaches the machine as an event.
#[derive(Debug)]
pub struct Report {
    /// Whose.
    pub unit: usize,
    /// What.
    pub news: News,
}

/// The kinds of news.
#[derive(Debug)]
pub enum News {
    /// Something for the machine.
    Event(Event),
    /// A probe is over: nobody is to be steered by its source address any more.
    Probed(Event, Option<SocketAddr>),
    /// A look of an analysis is over: nobody is to be steered by these source addresses any more.
    Looked(Event, Vec<SocketAddr>),
    /// Somebody has looked at the memory of new generations: of which units, and what each is told.
    Memory(Vec<(usize, Event)>),
    /// A look for a dry run is over: which, what it has seen, and the source address that is steered no more.
    Tried(u64, Box<Seen>, Option<SocketAddr>),
    /// A relay is over.
    Relayed(Box<RelayOutcome>),
    /// The caller of a trapped call was read.
    Called(Box<Called>),
    /// What a generation of an `InterceptBind` unit listens on without our having seen it.
    Unseen(Gen, Option<String>),
    /// The files of a process that waits for them are open.
    Opened(Proc, Box<Ahead>),
}

/// The whole daemon. Lives on the main thread.
#[derive(Debug)]
pub struct Daemon {
    /// The units, in the order of the command line.
    pub units: Vec<Supervised>,
    /// Their files.
    pub files: Files,
    /// The machine above them.
    pub machine: DaemonMachine,
    /// What they share.
    pub shared: Shared,
    /// The poll set.
    pub poller: Poller,
    /// The control socket.
    pub control: OwnedFd,
    /// When it is accepted on again, after there was no descriptor for a client.
    pub control_again: Option<Monotime>,
    /// Who is connected to it.
    pub clients: Clients,
    /// Requests that wait for their end.
    pub pending: Vec<Pending>,
    /// Answers that wait for looks.
    pub dry_runs: Vec<DryRun>,
    /// The newest request.
    pub last_req: u64,
    /// Which process of which unit a pid is.
    pub pids: HashMap<i32, (usize, Proc)>,
    /// Whether the queue is being worked through.
    pub settling: bool,
    /// What waits to be handed to a machine.
    pub queue: VecDeque<(usize, Event)>,
    /// For threads: where they report.
    pub reports: mpsc::Sender<Report>,
    /// For us: where their reports arrive.
    pub inbox: mpsc::Receiver<Report>,
    /// For threads: wakes the loop.
    pub waker: Waker,
    /// Processes on their way to their programs.
    pub slows: Slows,
    /// Our own supervisor.
    pub upstream: Upstream,
    /// Whether a stop has begun.
    pub stopping: bool,
    /// The exit status, once it is known.
    pub exit: Option<u8>,
    /// There were more dead processes than one turn reaps.
    pub reap_more: bool,
    /// Orphans that were reaped and are not ours.
    pub orphans: u64,
    /// What the kernel kills for memory.
    pub oom: OomWatch,
    /// The memory that new generations have.
    pub memory: MemoryWatch,
    /// HTTP, and everything that is counted.
    pub web: Web,
    /// What is ours in the runtime dir.
    pub home: Home,
    /// The replacement of our own program.
    pub upgrades: Upgrades,
    /// What is done for the one who comes after our death.
    pub survival: Survival,
}

impl Daemon {
    /// Hands an event to a unit's machine, carries out what it wants, and goes on until nothing is left.
    pub fn deliver(&mut self, unit: usize, event: Event) {
        self.queue.push_back((unit, event));
        self.settle();
    }

    /// Works through everything that waits to be handed to a machine.
    pub fn settle(&mut self) {
        // A machine's action may come back here: its events wait until it is done.
        if std::mem::replace(&mut self.settling, true) {
            return;
        }
        let mut loaded = Vec::new();
        while let Some((unit, event)) = self.queue.pop_front() {
            self.step(unit, event);
            let has_read = self.units.get(unit).is_some_and(|unit| unit.releases.is_just_read());
            if has_read && !loaded.contains(&unit) {
                loaded.push(unit);
            }
        }
        for unit in loaded {
            if let Some(unit) = self.units.get_mut(unit) {
                unit.releases.rest();
            }
        }
        self.settling = false;
    }

    fn step(&mut self, index: usize, event: Event) {
        let Some(unit) = self.units.get_mut(index) else { return };
        log::debug!("{}: event {event:?}", unit.name);
        if let Event::SpawnFailed { failure, .. } = &event {
            // Not when it happened: the line that it was being started comes first.
            log::error!("{}", failure.text);
        }
        let ended = if let Event::Exited { proc, .. } = &event { Some(*proc) } else { None };
        let mut actions = Vec::new();
        unit.machine.handle(clock::now(), event, &mut actions);
        self.carry_out(index, actions, ended);
    }

    /// Another aeternad has driven this machine: it goes on under us. Of its processes those in `alive` are there.
    pub fn recover_machine(&mut self, index: usize, alive: &[Proc]) {
        let Some(unit) = self.units.get_mut(index) else { return };
        let mut actions = Vec::new();
        unit.machine.recover(clock::now(), alive, &mut actions);
        self.carry_out(index, actions, None);
        self.settle();
    }

    /// Carries out what a machine wants. `ended` is a process of whose end it has just heard.
    fn carry_out(&mut self, index: usize, actions: Vec<Action>, ended: Option<Proc>) {
        self.survival.touch(index);
        if let Some(unit) = self.units.get_mut(index) {
            unit.owed = actions.iter().filter_map(Owed::of).collect();
        }
        let mut written = false;
        let promoted = actions.iter().find_map(|action| match action {
            Action::Promoted(generation) => Some(*generation),
            _ => None,
        });
        for action in actions {
            if Owed::is_final(&action) && !std::mem::replace(&mut written, true) {
                self.write_now(index);
            }
            killpoint::here();
            self.perform(index, action);
        }
        killpoint::here();
        // Connections have gone to it meanwhile: they do not wait for this.
        if let Some(generation) = promoted {
            self.put_back_badness(index, generation);
        }
        self.drop_releases(index);
        let Some(unit) = self.units.get_mut(index) else { return };
        unit.owed.clear();
        if let Some(proc) = ended {
            unit.children.remove(&proc);
        }
        unit.deadline = unit.machine.next_deadline();
        let summary = unit.machine.summary();
        if unit.summary != Some(summary) && !unit.going_on {
            unit.summary = Some(summary);
            if summary.state == UnitState::RollingBack {
                self.give_names_back(index);
            }
            self.summary_changed(index, summary);
        }
        self.drop_if_left(index);
    }

    /// A command for a unit that nobody waits for.
    pub fn command(&mut self, unit: usize, command: Command) {
        self.queue.push_back((unit, Event::Command { req: None, command }));
    }

    /// A new number for somebody who waits.
    pub fn new_req(&mut self) -> Req {
        self.last_req += 1;
        Req(self.last_req)
    }

    /// The nearest deadline of anything that has one.
    pub fn next_deadline(&self) -> Option<Monotime> {
        let units = self.units.iter().filter_map(|unit| unit.deadline);
        let given = self.units.iter().filter_map(|unit| unit.filters.deadline());
        let accepts = self.units.iter().filter_map(|unit| unit.accept_again);
        let states = self.units.iter().filter_map(|unit| unit.endpoint.deadline());
        let paused = self.units.iter().filter_map(|unit| unit.state_socket.as_ref()?.again);
        let settled = self
            .units
            .iter()
            .filter_map(|unit| unit.watch.as_ref().and_then(|watch| watch.settling.deadline()));
        units
            .chain(settled)
            .chain(accepts)
            .chain(given)
            .chain(states)
            .chain(paused)
            .chain(self.control_again)
            .chain(self.home.deadline())
            .chain(self.reap_more.then(clock::now))
            .chain(self.machine.next_deadline())
            .chain(self.clients.deadline())
            .chain(self.slows.deadline())
            .chain(self.upstream.deadline())
            .chain(self.upgrades.deadline())
            .chain(self.survival.deadline())
            .chain(self.web.deadline())
            .chain(self.memory.deadline())
            .min()
    }

    /// Gives a tick to everything whose deadline has passed.
    pub fn tick(&mut self, now: Monotime) {
        let due = |deadline: Option<Monotime>| deadline.is_some_and(|at| at <= now);
        for index in 0..self.units.len() {
            if due(self.units[index].deadline) {
                self.queue.push_back((index, Event::Tick));
            }
            if due(self.units[index].watch.as_ref().and_then(|watch| watch.settling.deadline())) {
                self.paths_settled(index);
            }
            if due(self.units[index].filters.deadline()) {
                self.silent_listens(index);
            }
            if due(self.units[index].endpoint.deadline()) {
                self.state_deadline(index);
            }
            if due(self.units[index].state_socket.as_ref().and_then(|socket| socket.again)) {
                self.resume_state(index);
            }
            if due(self.units[index].accept_again) {
                self.units[index].accept_again = None;
                self.watch_sockets(index, Traffic::Watched);
            }
        }
        self.settle();
        if due(self.machine.next_deadline()) {
            self.machine_tick(now);
        }
        if due(self.control_again) {
            self.resume_control();
        }
        if due(self.home.deadline()) {
            self.look_at_home();
        }
        if due(self.slows.deadline()) {
            self.end_slow_starts(now);
            self.end_late_files(now);
        }
        if due(self.clients.deadline()) {
            self.clients.on_deadline(now);
        }
        if due(self.memory.deadline()) {
            self.look_at_newcomers();
        }
        if due(self.upstream.deadline()) {
            self.upstream.tick(now);
        }
    }

    /// A unit by its name.
    pub fn unit_named(&self, name: &str) -> Option<usize> {
        self.units_here().find(|(_, unit)| unit.name == name).map(|(index, _)| index)
    }

    /// Whether an action is the kind that changes what the log says at `debug`.
    pub fn trace_action(&self, index: usize, action: &Action) {
        if log::log_enabled!(log::Level::Debug)
            && !matches!(action, Action::Announce(_))
            && let Some(unit) = self.units.get(index)
        {
            log::debug!("{}: action {action:?}", unit.name);
        }
    }
}
