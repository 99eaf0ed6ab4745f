//! A simulated machine room: children, kernel and operators, driven by a list of numbers, with a virtual clock.
//! What must hold is asserted after every event (`check.rs`).

use crate::check::{Checks, Turned};
use crate::units::EACH;
use aeterna::machine::UnitMachine;
use aeterna::machine::event::*;
use aeterna::proto::exposition::{Kind, Sum};
use aeterna::proto::status::Usage;
use aeterna::time::{Monotime, Span};
use aeterna::unit::ServiceType;
use std::collections::VecDeque;

/// A process of the simulated world.
#[derive(Debug, Clone)]
pub(crate) struct Child {
    pub(crate) proc: Proc,
    pub(crate) generation: Option<Gen>,
    pub(crate) role: Role,
    pub(crate) ignores_term: bool,
    /// It is dead, and its `Exited` is on its way.
    pub(crate) dead: bool,
}

impl Child {
    pub(crate) fn is_main(&self) -> bool {
        matches!(self.role, Role::Main { .. } | Role::Instance(_))
    }
}

/// A generation's tree beyond the processes that were started.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    pub(crate) generation: Gen,
    pub(crate) grandchildren: u32,
    populated: bool,
}

/// Where the numbers of a schedule come from; zeros when they have run out, and zero is always harmless.
#[derive(Debug, Clone)]
pub(crate) struct Choices<'a> {
    numbers: &'a [u16],
    at: usize,
}

impl Choices<'_> {
    fn next(&mut self) -> u32 {
        let number = self.numbers.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        u32::from(number)
    }

    fn below(&mut self, n: u32) -> u32 {
        self.next() % n
    }

    /// True for one number in `n`, never for 0.
    fn rarely(&mut self, n: u32) -> bool {
        self.next() % n == n - 1
    }

    fn is_over(&self) -> bool {
        self.at >= self.numbers.len()
    }
}

pub(crate) struct World<'a> {
    pub(crate) machine: UnitMachine,
    /// The same machine, as it came back from JSON; must never differ.
    twin: Option<UnitMachine>,
    pub(crate) now: Monotime,
    library: &'a [Content],
    choices: Choices<'a>,
    accepts: bool,
    pub(crate) children: Vec<Child>,
    pub(crate) trees: Vec<Tree>,
    /// Answers that come at once.
    now_events: VecDeque<Event>,
    /// Answers and exits that come when they come.
    later: Vec<Event>,
    /// Answers that have come: they may come once more.
    answered: Vec<Event>,
    pub(crate) armed: bool,
    next_req: u64,
    next_conn: u64,
    next_pid: i32,
    /// Nothing more is done to annoy it.
    fair: bool,
    pub(crate) checks: Checks,
    pub(crate) trace: Option<Vec<String>>,
    out: Vec<Action>,
    twin_out: Vec<Action>,
}

impl<'a> World<'a> {
    pub(crate) fn new(library: &'a [Content], numbers: &'a [u16]) -> World<'a> {
        let mut choices = Choices { numbers, at: 0 };
        let accepts = choices.rarely(10);
        let first = choices.below(EACH) + if accepts { EACH } else { 0 };
        let content = library[first as usize].clone();
        World {
            machine: UnitMachine::new(content.clone()),
            twin: None,
            now: Monotime(1_000_000_000),
            library,
            choices,
            accepts,
            children: Vec::new(),
            trees: Vec::new(),
            now_events: VecDeque::new(),
            later: Vec::new(),
            answered: Vec::new(),
            armed: false,
            next_req: 1,
            next_conn: 1,
            next_pid: 100,
            fair: false,
            checks: Checks::new(content),
            trace: None,
            out: Vec::new(),
            twin_out: Vec::new(),
        }
    }

    /// Plays the whole schedule: the annoying part, then a fair one in which everything must come to an end.
    pub(crate) fn play(&mut self) -> Result<(), String> {
        if self.choices.rarely(16) {
            self.feed(Event::Sockets { steered: false })?;
        }
        self.feed(Event::Boot)?;
        while !self.choices.is_over() {
            self.step()?;
        }
        self.finish()
    }

    /// Everybody behaves (or just hangs): what is under way ends, then the unit is stopped and leaves nothing.
    fn finish(&mut self) -> Result<(), String> {
        self.fair = true;
        for _ in 0..400 {
            if !self.machine.summary().reloading {
                break;
            }
            self.settle_or_wait()?;
        }
        if self.machine.summary().reloading {
            return Err("guarantee 4: the reload does not end".into());
        }
        let req = self.new_req();
        let command =
            if self.choices.at.is_multiple_of(2) { Command::Shutdown } else { Command::Stop { close: true } };
        self.feed(Event::Command { req: Some(req), command })?;
        for _ in 0..400 {
            if self.machine.summary().state == UnitState::Stopped {
                break;
            }
            self.settle_or_wait()?;
        }
        if self.machine.summary().state != UnitState::Stopped {
            return Err(format!("the stop does not end: {:?}", self.machine.summary()));
        }
        while !self.later.is_empty() {
            self.deliver(0)?;
        }
        self.checks.at_the_end(&self.machine, &self.children)
    }

    fn settle_or_wait(&mut self) -> Result<(), String> {
        if self.later.is_empty() { self.advance() } else { self.deliver(0) }
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = self.trace.as_mut() {
            trace.push(text());
        }
    }

    /// Hands over one event and everything that follows from it at once.
    pub(crate) fn feed(&mut self, event: Event) -> Result<(), String> {
        self.now_events.push_back(event);
        while let Some(event) = self.now_events.pop_front() {
            let self_now = self.now;
            self.note(|| format!("-> @{} {}", self_now.0 / 1_000_000, brief_event(&event)));
            let mut out = std::mem::take(&mut self.out);
            out.clear();
            let before = self.machine.summary();
            self.machine.handle(self.now, event.clone(), &mut out);
            if let Some(twin) = self.twin.as_mut() {
                self.twin_out.clear();
                twin.handle(self.now, event.clone(), &mut self.twin_out);
                if self.twin_out != out || twin.next_deadline() != self.machine.next_deadline() {
                    return Err(format!("the restored machine differs: {:?} and {out:?}", self.twin_out));
                }
            }
            for action in &out {
                if let Action::GiveUp(what) = action {
                    self.give_up(*what);
                }
            }
            self.followed(&event, before, &out)?;
            if event == Event::Tick {
                self.late_ticks(&out)?;
            }
            for action in out.drain(..) {
                self.act(action)?;
            }
            self.out = out;
            self.checks.at_rest(&self.machine, &self.children, &self.trees)?;
        }
        Ok(())
    }

    /// What must hold of an event and what followed from it.
    fn followed(&mut self, event: &Event, before: Summary, out: &[Action]) -> Result<(), String> {
        for action in out {
            self.note(|| format!("     {}", brief(action)));
        }
        let after = self.machine.summary();
        self.note(|| format!("   = {:?}", after.state));
        let (actions, children, now) = (out, self.children.as_slice(), self.now);
        self.checks.after(&Turned { event, before, after, actions, children, now })
    }

    /// A deadline that is due when it is set (a timeout of 0) is done with at the next tick, and each such tick
    /// does something: nothing spins.
    fn late_ticks(&mut self, out: &[Action]) -> Result<(), String> {
        match self.machine.next_deadline().filter(|next| *next <= self.now) {
            None => Ok(()),
            Some(_) if !out.is_empty() => {
                self.now_events.push_back(Event::Tick);
                Ok(())
            }
            Some(next) => Err(format!("a deadline in the past after a tick that did nothing: {next:?}")),
        }
    }

    fn act(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Ask(ticket, question) => self.asked(ticket, question),
            Action::WatchTraffic => self.armed = true,
            Action::IgnoreTraffic => self.armed = false,
            Action::Spawn(spawn) => self.spawn(&spawn),
            Action::Signal { to, signal } => self.signal(to, signal),
            Action::Relay(transfer) => self.relay(transfer),
            Action::AnswerCold(_)
            | Action::CancelRelay
            | Action::Resume(_)
            | Action::Commit(_)
            | Action::AdoptMain { .. }
            | Action::KeepSockets(_)
            | Action::FlushPending
            | Action::CloseConnection(_)
            | Action::Steer(_)
            | Action::BeginDrain { .. }
            | Action::Stranded { .. }
            | Action::GaveUp { .. }
            | Action::Content(_)
            | Action::Promoted(_)
            | Action::Forget(_)
            | Action::GiveUp(_)
            | Action::Lingers(_)
            | Action::DropStore
            | Action::Announce(_)
            | Action::Record(_)
            | Action::Reply { .. } => {}
        }
        Ok(())
    }

    /// Everything but the number of connections is found out now; the answer comes when it comes.
    /// What a look sees of a generation: anything, or nothing.
    fn seen(&mut self, worse: u32) -> Seen {
        let usage = Usage { tasks: Some(u64::from(self.choices.below(4))), ..Usage::default() };
        if self.choices.rarely(5) {
            return Seen { page: Err(NoPage::TimedOut), usage };
        }
        let requests = f64::from(self.next_pid) * 1e3 + self.now.0 as f64 / 1e6;
        let bad = if self.choices.rarely(2) { requests * f64::from(worse) / 3.0 } else { 0.0 };
        let sum = |value: f64| Sum { value, kind: Kind::Counter, series: 1, ..Sum::default() };
        let process = self.choices.below(3) as i32;
        Seen {
            page: Ok(Page { process, alone: self.choices.rarely(2), sums: vec![sum(bad), sum(requests)] }),
            usage,
        }
    }

    fn asked(&mut self, ticket: Ticket, question: Question) {
        let answer = match question {
            // A look may never come back.
            Question::Look { .. } if !self.fair && self.choices.rarely(6) => return,
            Question::Look { old, .. } => {
                let new = self.seen(1);
                Answer::Looked(Box::new(Looked { new, old: old.map(|_| self.seen(0)) }))
            }
            Question::Load => {
                let bad = !self.fair && self.choices.rarely(8);
                let id = self.choices.below(EACH) + if self.accepts { EACH } else { 0 };
                Answer::Loaded(if bad {
                    Err("line 3: unknown key".into())
                } else {
                    Ok(self.library[id as usize].clone())
                })
            }
            Question::OpenSockets(content) => {
                Answer::Opened { content: content.id, result: self.refused("0.0.0.0:80 is taken") }
            }
            Question::CheckBinary(content) => {
                Answer::BinaryChecked { content: content.id, result: self.refused("no such program") }
            }
            Question::Probe { generation, .. } => Answer::Probed { generation, result: self.probe_result() },
            Question::CheckDrain { generation, .. } => {
                let busy = !self.fair && self.choices.rarely(3);
                let (half_open, queued) = if busy { (1, 2) } else { (0, 0) };
                let live = if self.fair { 0 } else { self.choices.below(3) };
                let flows = Flowing { live, idle_in: Span::from_millis(100) };
                Answer::DrainState { generation, half_open, queued, flows }
            }
            Question::CheckSlot(slot) => {
                let (queued, migrated) = match if self.fair { 0 } else { self.choices.below(4) } {
                    1 => (3, false),
                    2 => (3, true),
                    _ => (0, false),
                };
                Answer::SlotState { slot, queued, migrated }
            }
            Question::CountConnections => {
                Answer::Connections { established: self.choices.below(2), arrived: false }
            }
        };
        self.later.push(Event::Answered(ticket, answer));
    }

    fn relay(&mut self, transfer: Transfer) {
        let fault = match self.choices.below(6) {
            0 => Fault::SinkSilent,
            1 => Fault::Sink,
            2 => {
                // A newer connection of the sink ends the relay that runs for the older one.
                self.later.push(Event::SinkConnected(transfer.to));
                Fault::Cancelled
            }
            _ => Fault::Source,
        };
        let refused = self.refused("it came to nothing");
        let result = refused.map_err(|why| Failure { fault, why });
        let (from, to) = (transfer.from, transfer.to);
        let took = Span::from_millis(1);
        let relayed = Relayed { from, to, result, bytes: 3, frames: 1, descriptors: 0, took };
        self.later.push(Event::RelayEnded(relayed));
    }

    fn refused(&mut self, why: &str) -> Result<(), String> {
        if !self.fair && self.choices.rarely(12) { Err(why.into()) } else { Ok(()) }
    }

    fn probe_result(&mut self) -> ProbeResult {
        match if self.fair { 0 } else { self.choices.below(8) } {
            4 => ProbeResult::Unattributed,
            5 => ProbeResult::Fail("500".into()),
            6 => ProbeResult::TimedOut,
            7 => ProbeResult::NeverReached,
            _ => ProbeResult::Pass,
        }
    }

    fn spawn(&mut self, spawn: &Spawn) {
        let proc = spawn.proc;
        if !self.fair && self.choices.rarely(20) {
            let code = if self.choices.rarely(2) { 1 } else { 127 };
            let gone = self.choices.rarely(3);
            let busy = !gone && self.choices.rarely(3);
            let failure = SpawnFailure { text: "no such file".into(), code, exhausted: false, gone, busy };
            let failed = Event::SpawnFailed { proc, failure };
            if self.choices.rarely(3) {
                self.later.push(failed)
            } else {
                self.now_events.push_back(failed)
            }
            return;
        }
        let ignores_term = self.choices.rarely(6);
        let (generation, role) = (spawn.generation, spawn.role);
        self.children.push(Child { proc, generation, role, ignores_term, dead: false });
        if let Some(generation) = generation {
            self.tree(generation).populated = true;
        }
        self.next_pid += 1;
        let spawned = Event::Spawned { proc, pid: self.next_pid };
        // Held up on its way to its program.
        if !self.fair && self.choices.rarely(12) {
            self.later.push(spawned)
        } else {
            self.now_events.push_back(spawned)
        }
        let is_main = matches!(role, Role::Main { .. } | Role::Instance(_));
        if let (Role::Main { .. }, Some(generation), true) =
            (role, generation, spawn.content.unit.state.enabled)
            && !self.choices.rarely(4)
        {
            self.later.push(Event::SinkConnected(generation));
        }
        // Commands end by themselves sooner or later, unless they hang.
        let oneshot = spawn.content.unit.service.service_type == ServiceType::Oneshot;
        if (!is_main || oneshot) && !self.choices.rarely(6) {
            let code = if !self.fair && self.choices.rarely(6) { 1 } else { 0 };
            self.exits(proc, Exit::Code(code));
        }
    }

    fn tree(&mut self, generation: Gen) -> &mut Tree {
        let at = match self.trees.iter().position(|tree| tree.generation == generation) {
            Some(at) => at,
            None => {
                self.trees.push(Tree { generation, grandchildren: 0, populated: false });
                self.trees.len() - 1
            }
        };
        &mut self.trees[at]
    }

    fn exits(&mut self, proc: Proc, exit: Exit) {
        if let Some(child) = self.children.iter_mut().find(|child| child.proc == proc && !child.dead) {
            child.dead = true;
            let killed = matches!(exit, Exit::Signal { signal: 9, .. }) && self.choices.rarely(3);
            let beside = if killed { Beside::OutOfMemory } else { Beside::Nothing };
            self.later.push(Event::Exited { proc, exit, beside });
        }
    }

    fn signal(&mut self, to: Target, signal: i32) {
        let hit: Vec<(Proc, bool)> = self
            .children
            .iter()
            .filter(|child| {
                !child.dead
                    && match to {
                        Target::Proc(proc) | Target::ProcTree(proc) => child.proc == proc,
                        Target::Mains(generation) => child.generation == Some(generation) && child.is_main(),
                        Target::Everyone(generation) => child.generation == Some(generation),
                    }
            })
            .map(|child| (child.proc, child.ignores_term))
            .collect();
        let ends = |ignores: bool| signal == 9 || (matches!(signal, 3 | 6 | 15) && !ignores);
        for (proc, ignores) in hit {
            if ends(ignores) {
                let by_code = signal == 15 && proc.0 % 2 == 0;
                let core = signal == 6;
                self.exits(proc, if by_code { Exit::Code(0) } else { Exit::Signal { signal, core } });
            }
        }
        if let Target::Everyone(generation) = to
            && matches!(signal, 9 | 15)
            && let Some(tree) = self.trees.iter_mut().find(|tree| tree.generation == generation)
        {
            tree.grandchildren = if signal == 9 { 0 } else { tree.grandchildren / 2 };
            self.empty_trees();
        }
    }

    /// Nobody waits for these any more, dead or not.
    fn give_up(&mut self, what: Target) {
        self.children.retain(|child| match what {
            Target::Proc(proc) | Target::ProcTree(proc) => child.proc != proc,
            Target::Mains(generation) | Target::Everyone(generation) => child.generation != Some(generation),
        });
        if let Target::Everyone(generation) = what {
            self.trees.retain(|tree| tree.generation != generation);
        }
    }

    /// Says which trees have become empty.
    fn empty_trees(&mut self) {
        let children = &self.children;
        for tree in &mut self.trees {
            let alive = children.iter().any(|child| child.generation == Some(tree.generation));
            if tree.populated && tree.grandchildren == 0 && !alive {
                tree.populated = false;
                self.now_events.push_back(Event::Emptied(tree.generation));
            }
        }
    }

    /// Delivers one of the answers that are on their way.
    fn deliver(&mut self, which: u32) -> Result<(), String> {
        let at = which as usize % self.later.len();
        let event = self.later.remove(at);
        if let Event::Answered(..) = event {
            self.answered.push(event.clone());
        }
        if let Event::Exited { proc, .. } = event {
            self.children.retain(|child| child.proc != proc);
            // Its beginning comes before its end.
            let begins =
                |event: &Event| matches!(event, Event::Spawned { proc: other, .. } if *other == proc);
            if let Some(at) = self.later.iter().position(begins) {
                let spawned = self.later.remove(at);
                self.feed(spawned)?;
            }
        }
        self.feed(event)?;
        self.empty_trees();
        if let Some(event) = self.now_events.pop_front() {
            self.feed(event)?;
        }
        Ok(())
    }

    /// Time passes until the next deadline.
    fn advance(&mut self) -> Result<(), String> {
        if let Some(next) = self.machine.next_deadline() {
            self.now = self.now.max(next);
        }
        self.feed(Event::Tick)
    }

    fn new_req(&mut self) -> Req {
        let req = Req(self.next_req);
        self.next_req += 1;
        self.checks.asked(req);
        req
    }

    /// One of [`World::STIMULI`] things that can be told apart happens, with nothing left to chance.
    pub(crate) fn stimulus(&mut self, which: u32) -> Result<(), String> {
        let reload = |force| Command::Reload { force, remember: false, reason: String::new() };
        let command = match which {
            0 => return if self.later.is_empty() { Ok(()) } else { self.deliver(0) },
            1 => return self.advance(),
            2 => return self.calm(),
            3 | 4 => {
                let mains = self.mains();
                let Some(child) = (if which == 3 { mains.first() } else { mains.last() }) else {
                    return Ok(());
                };
                self.exits(child.proc, Exit::Code(3));
                let last = self.later.len() - 1;
                return self.deliver(last as u32);
            }
            5 => return self.come(),
            6 => reload(false),
            7 => reload(true),
            8 => Command::Promote,
            9 => Command::Rollback { to: None },
            10 => Command::Stop { close: true },
            11 => Command::Start,
            _ => Command::Restart,
        };
        let req = Some(self.new_req());
        self.feed(Event::Command { req, command })
    }

    /// How many stimuli there are.
    pub(crate) const STIMULI: u32 = 13;

    /// Plays these stimuli one after the other, then lets everything come to an end.
    pub(crate) fn walk(&mut self, stimuli: &[u32]) -> Result<(), String> {
        self.feed(Event::Boot)?;
        for stimulus in stimuli {
            self.stimulus(*stimulus)?;
        }
        self.finish()
    }

    /// One thing happens.
    fn step(&mut self) -> Result<(), String> {
        let kind = self.choices.below(32);
        match kind {
            0..=12 if !self.later.is_empty() => {
                let which = self.choices.next();
                self.deliver(which)
            }
            0..=12 => self.say_ready(),
            13..=16 => self.advance(),
            17 | 18 => self.say_ready(),
            19..=21 => self.calm(),
            22..=25 => self.command(),
            26 | 27 => self.crash(),
            28 => self.come(),
            29 => self.notify(),
            30 => self.odd(),
            _ => self.twist(),
        }
    }

    fn mains(&self) -> Vec<Child> {
        self.children.iter().filter(|child| !child.dead && child.is_main()).cloned().collect()
    }

    fn some_main(&mut self) -> Option<Child> {
        let mains = self.mains();
        if mains.is_empty() {
            return None;
        }
        let at = self.choices.next() as usize % mains.len();
        Some(mains[at].clone())
    }

    fn say(&mut self, child: &Child, message: Notification) -> Result<(), String> {
        let Some(generation) = child.generation else { return Ok(()) };
        let worker = match child.role {
            Role::Main { worker, .. } => worker,
            _ => 0,
        };
        if message.stopping {
            self.checks.said_stopping(generation);
        }
        self.feed(Event::Notified { generation, from: Sender::Main(worker), message })
    }

    fn say_ready(&mut self) -> Result<(), String> {
        match self.some_main() {
            Some(child) => self.say(&child, Notification { ready: true, ..Notification::default() }),
            None => self.come(),
        }
    }

    /// For a while nothing goes wrong: what is on its way arrives, and everybody is ready.
    fn calm(&mut self) -> Result<(), String> {
        let annoying = std::mem::replace(&mut self.fair, true);
        let mut result = Ok(());
        for _ in 0..3 {
            for _ in 0..20 {
                if self.later.is_empty() {
                    break;
                }
                result = result.and_then(|()| self.deliver(0));
            }
            for child in self.mains() {
                let ready = Notification { ready: true, ..Notification::default() };
                result = result.and_then(|()| self.say(&child, ready));
            }
        }
        self.fair = annoying;
        result
    }

    fn notify(&mut self) -> Result<(), String> {
        let Some(child) = self.some_main() else { return Ok(()) };
        let mut message = Notification::default();
        match self.choices.below(8) {
            0 | 1 => message.watchdog = true,
            2 => message.watchdog_trigger = true,
            3 => message.watchdog_usec = Some(500_000),
            4 => message.extend_timeout_usec = Some(10_000_000),
            5 => message.main_pid = Some(7777),
            6 => message.stopping = true,
            _ => message.status = Some("busy".into()),
        }
        self.say(&child, message)
    }

    fn crash(&mut self) -> Result<(), String> {
        let Some(child) = self.some_main() else { return Ok(()) };
        let exit = match self.choices.below(6) {
            0 => Exit::Code(3),
            1 => Exit::Code(0),
            2 => Exit::Signal { signal: 11, core: true },
            3 => Exit::Signal { signal: 9, core: false },
            4 => Exit::Signal { signal: 15, core: false },
            _ => Exit::Unknown,
        };
        self.exits(child.proc, exit);
        let last = self.later.len().saturating_sub(1) as u32;
        if self.later.is_empty() { Ok(()) } else { self.deliver(last) }
    }

    /// Traffic, or a connection.
    fn come(&mut self) -> Result<(), String> {
        if !self.armed {
            return Ok(());
        }
        self.armed = false;
        if self.accepts {
            let conn = Conn(self.next_conn);
            self.next_conn += 1;
            self.checks.connected(conn);
            let source = format!("10.0.0.{}", self.choices.below(3));
            self.feed(Event::Accepted { conn, socket: 0, source })
        } else {
            self.feed(Event::Traffic)
        }
    }

    fn command(&mut self) -> Result<(), String> {
        let reload = |force, remember| Command::Reload { force, remember, reason: "deploy".into() };
        let running = self.machine.summary().state == UnitState::Running;
        let command = match if running && !self.choices.rarely(3) { 0 } else { self.choices.below(24) } {
            0..=9 => reload(false, false),
            10 | 11 => reload(true, false),
            12 | 13 => reload(false, true),
            14 | 15 => Command::Promote,
            16 | 17 => Command::Rollback { to: None },
            18 => Command::Stop { close: self.choices.rarely(3) },
            19 => Command::Restart,
            20 | 21 => Command::Start,
            22 => Command::Kill { signal: 10, generation: None },
            _ => match self.choices.below(6) {
                0..=3 => Command::RefuseReloads,
                4 => Command::Shutdown,
                _ => Command::KillAll,
            },
        };
        let req = Some(self.new_req());
        self.feed(Event::Command { req, command })
    }

    /// Things that are too late, come twice, or were never asked for.
    fn odd(&mut self) -> Result<(), String> {
        let number = self.choices.below(6) + 1;
        let (generation, proc) = (Gen(number), Proc(number));
        match self.choices.below(10) {
            0 => self.feed(Event::Tick),
            9 => self.feed(Event::OomKilled(generation, 1)),
            8 => {
                let kills = u64::from(self.choices.rarely(3));
                let level = MemoryLevel { of: "this machine".into(), limit: 100, used: 96 };
                let has = Some(u64::from(self.choices.below(10)));
                self.feed(Event::Memory(
                    generation,
                    Box::new(MemorySeen { has, kills, most: None, levels: vec![level] }),
                ))
            }
            1 if !self.children.iter().any(|child| child.proc == proc) => {
                self.feed(Event::Exited { proc, exit: Exit::Code(9), beside: Beside::Nothing })
            }
            2 => {
                let answer = Answer::Probed { generation, result: ProbeResult::Pass };
                self.feed(Event::Answered(Ticket(0), answer))
            }
            3 | 5 if !self.answered.is_empty() => {
                let at = self.choices.next() as usize % self.answered.len();
                self.feed(self.answered[at].clone())
            }
            4 => {
                let slot = self.choices.below(3);
                self.feed(Event::Stray { slot })
            }
            6 if !self.accepts && !self.armed => self.feed(Event::Traffic),
            _ => self.feed(Event::Boot),
        }
    }

    /// Grandchildren come and go; the clock moves a little; aeternad is replaced by itself.
    fn twist(&mut self) -> Result<(), String> {
        match self.choices.below(8) {
            0..=2 => {
                if let Some(generation) = self.some_main().and_then(|child| child.generation) {
                    self.tree(generation).grandchildren += 1;
                }
                Ok(())
            }
            3 | 4 => {
                if let Some(tree) = self.trees.iter_mut().find(|tree| tree.grandchildren > 0) {
                    tree.grandchildren -= 1;
                }
                self.empty_trees();
                match self.now_events.pop_front() {
                    Some(event) => self.feed(event),
                    None => Ok(()),
                }
            }
            5 | 6 => {
                let passed = Span::from_millis(u64::from(self.choices.below(4_000)));
                self.now = match self.machine.next_deadline() {
                    Some(next) => (self.now + passed).min(next),
                    None => self.now + passed,
                };
                Ok(())
            }
            _ if self.choices.rarely(3) => self.die(),
            _ => self.restore(),
        }
    }

    /// aeternad dies and comes back: answers, clients, the transfer under way and how processes ended meanwhile are
    /// lost.
    fn die(&mut self) -> Result<(), String> {
        self.restore()?;
        let Some(mut machine) = self.twin.take() else { return Ok(()) };
        self.note(|| "-- aeternad dies and comes back".into());
        // Whoever was on its way to its program still is.
        self.later.retain(|event| matches!(event, Event::SinkConnected(_) | Event::Spawned { .. }));
        self.answered.clear();
        self.children.retain(|child| !child.dead);
        self.armed = false;
        self.checks.died();
        let alive: Vec<Proc> = self.children.iter().map(|child| child.proc).collect();
        let before = machine.summary();
        let mut out = Vec::new();
        machine.resume(self.now, &alive, &[], &mut out);
        self.machine = machine;
        self.followed(&Event::Tick, before, &out)?;
        for action in out {
            self.act(action)?;
        }
        self.empty_trees();
        match self.now_events.pop_front() {
            Some(event) => self.feed(event),
            None => Ok(()),
        }
    }

    fn restore(&mut self) -> Result<(), String> {
        let text = serde_json::to_string(&self.machine.save()).map_err(|e| e.to_string())?;
        let saved = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        self.twin = Some(UnitMachine::restore(saved, self.machine.contents())?);
        Ok(())
    }
}

/// An action without the whole unit in it.
fn brief(action: &Action) -> String {
    match action {
        Action::Spawn(spawn) => {
            let s = &spawn.content.unit.service;
            format!(
                "Spawn {:?} {:?} {:?} slot {} ({:?} x{} {:?} {:?})",
                spawn.proc,
                spawn.role,
                spawn.generation,
                spawn.slot,
                s.service_type,
                s.workers,
                s.kill_mode,
                spawn.content.unit.reload.strategy,
            )
        }
        Action::Ask(ticket, Question::OpenSockets(content)) => {
            format!("{ticket:?} OpenSockets {:?}", content.id)
        }
        Action::Ask(ticket, Question::CheckBinary(content)) => {
            format!("{ticket:?} CheckBinary {:?}", content.id)
        }
        other => format!("{other:?}"),
    }
}

fn brief_event(event: &Event) -> String {
    match event {
        Event::Answered(ticket, Answer::Loaded(Ok(content))) => format!("{ticket:?} Loaded {:?}", content.id),
        other => format!("{other:?}"),
    }
}
