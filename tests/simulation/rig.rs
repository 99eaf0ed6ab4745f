//! Scenario tables: an event, and the actions that must follow from it, one short line each.

use crate::units::content;
use aeterna::machine::UnitMachine;
use aeterna::machine::event::*;
use aeterna::time::{Monotime, Span};
use aeterna::unit::Unit;

pub(crate) struct Rig {
    pub(crate) m: UnitMachine,
    pub(crate) now: Monotime,
    pub(crate) all: Vec<Action>,
    next_req: u64,
}

/// An action in one short line; `None` for those that only tell people something.
pub(crate) fn short(action: &Action) -> Option<String> {
    Some(match action {
        Action::Spawn(spawn) => {
            let role = match spawn.role {
                Role::Main { worker, command: 0 } => format!("main{worker}"),
                Role::Main { worker, command } => format!("main{worker}.{command}"),
                Role::Instance(conn) => format!("instance{}", conn.0),
                other => format!("{other:?}").to_lowercase().replace(['(', ')'], ""),
            };
            let generation = spawn.generation.map_or("-".into(), |g| format!("g{}", g.0));
            format!("spawn {} {role} {generation} slot{}", spawn.proc.0, spawn.slot)
        }
        Action::Signal { to, signal } => {
            format!("signal {signal} {}", target(*to))
        }
        Action::Announce(Announcement::State { to, .. }) => format!("={}", to.name()),
        Action::Announce(_) | Action::Record(_) | Action::GaveUp { .. } | Action::Content(_) => return None,
        Action::Steer(steering) => match steering.canary {
            Some((slot, weight)) => format!("steer {} +{slot}:{weight}", steering.serving),
            None => format!("steer {}", steering.serving),
        },
        Action::Ask(_, question) => asked(question),
        Action::KeepSockets(ids) => format!("keep {:?}", ids.iter().map(|id| id.0).collect::<Vec<_>>()),
        Action::WatchTraffic => "watch".into(),
        Action::IgnoreTraffic => "ignore".into(),
        Action::FlushPending => "flush".into(),
        Action::CloseConnection(conn) => format!("close {}", conn.0),
        Action::BeginDrain { generation, slot } => format!("drain g{} slot{slot}", generation.0),
        Action::Stranded { count } => format!("stranded {count}"),
        Action::AnswerCold(g) => format!("cold g{}", g.0),
        Action::Relay(t) => {
            let how = if t.back { "back" } else { "relay" };
            format!("{how} g{} g{}", t.from.0, t.to.0)
        }
        Action::CancelRelay => "cancel relay".into(),
        Action::Resume(g) => format!("resume g{}", g.0),
        Action::Commit(g) => format!("commit g{}", g.0),
        Action::Promoted(g) => format!("promoted g{}", g.0),
        Action::Forget(g) => format!("forget g{}", g.0),
        Action::Lingers(to) => format!("lingers {}", target(*to)),
        Action::GiveUp(to) => format!("give up {}", target(*to)),
        Action::DropStore => "dropstore".into(),
        Action::AdoptMain { proc, pid } => format!("adopt {} {pid}", proc.0),
        Action::Reply { req, result } => match result {
            CommandResult::Done(_) => format!("reply {} done", req.0),
            CommandResult::Busy(_) => format!("reply {} busy", req.0),
            CommandResult::Failed(_) => format!("reply {} failed", req.0),
            CommandResult::Reload { outcome, .. } => format!("reply {} {}", req.0, outcome.name()),
        },
    })
}

fn asked(question: &Question) -> String {
    match question {
        Question::Load => "load".into(),
        Question::OpenSockets(content) => format!("open {}", content.id.0),
        Question::CheckBinary(content) => format!("binary {}", content.id.0),
        Question::Probe { generation, kind } => format!("probe g{} {kind:?}", generation.0),
        Question::CheckDrain { generation, slot } => format!("drained? g{} slot{slot}", generation.0),
        Question::CheckSlot(slot) => format!("slot? {slot}"),
        Question::CountConnections => "count".into(),
        Question::Look { new, old } => format!("look g{} {:?}", new.0, old.map(|old| old.0)),
    }
}

/// Whether this is the answer to that.
pub(crate) fn answers(answer: &Answer, question: &Question) -> bool {
    match (answer, question) {
        (Answer::Loaded(_), Question::Load) | (Answer::Connections { .. }, Question::CountConnections) => {
            true
        }
        (Answer::Opened { content, .. }, Question::OpenSockets(asked))
        | (Answer::BinaryChecked { content, .. }, Question::CheckBinary(asked)) => *content == asked.id,
        (Answer::Probed { generation, .. }, Question::Probe { generation: asked, .. })
        | (Answer::DrainState { generation, .. }, Question::CheckDrain { generation: asked, .. }) => {
            generation == asked
        }
        (Answer::SlotState { slot, .. }, Question::CheckSlot(asked)) => slot == asked,
        (Answer::Looked(_), Question::Look { .. }) => true,
        _ => false,
    }
}

/// What is handed to the machine: an event, or the answer to its newest question of that kind.
#[derive(Debug, Clone)]
pub(crate) enum Said {
    Event(Event),
    Answer(Answer),
}

impl From<Event> for Said {
    fn from(event: Event) -> Said {
        Said::Event(event)
    }
}

impl From<Answer> for Said {
    fn from(answer: Answer) -> Said {
        Said::Answer(answer)
    }
}

fn target(to: Target) -> String {
    match to {
        Target::Proc(proc) => format!("proc{}", proc.0),
        Target::ProcTree(proc) => format!("tree{}", proc.0),
        Target::Mains(g) => format!("mains g{}", g.0),
        Target::Everyone(g) => format!("everyone g{}", g.0),
    }
}

impl Rig {
    pub(crate) fn new(unit: Unit) -> Rig {
        let m = UnitMachine::new(content(1, unit));
        Rig { m, now: Monotime(1_000_000_000_000), all: Vec::new(), next_req: 1 }
    }

    /// Hands over an event; what must follow, in order.
    #[track_caller]
    pub(crate) fn row(&mut self, said: impl Into<Said>, wanted: &[&str]) {
        let said = said.into();
        let got = self.event(said.clone());
        assert_eq!(got, wanted, "after {said:?}");
    }

    pub(crate) fn event(&mut self, said: impl Into<Said>) -> Vec<String> {
        let event = match said.into() {
            Said::Event(event) => event,
            Said::Answer(answer) => Event::Answered(self.ticket(&answer), answer),
        };
        let mut out = Vec::new();
        self.m.handle(self.now, event, &mut out);
        let lines = out.iter().filter_map(short).collect();
        self.all.extend(out);
        lines
    }

    /// The ticket of the newest question that this answers; one that nobody has if there was none.
    pub(crate) fn ticket(&self, answer: &Answer) -> Ticket {
        let asked = self.all.iter().rev().find_map(|action| match action {
            Action::Ask(ticket, question) if answers(answer, question) => Some(*ticket),
            _ => None,
        });
        asked.unwrap_or(Ticket(0))
    }

    /// Another aeternad goes on, with these processes and these requests.
    pub(crate) fn resume(&mut self, alive: &[u32], waiting: &[u64]) -> Vec<String> {
        let alive: Vec<Proc> = alive.iter().copied().map(Proc).collect();
        let waiting: Vec<Req> = waiting.iter().copied().map(Req).collect();
        let mut out = Vec::new();
        self.m.resume(self.now, &alive, &waiting, &mut out);
        let lines = out.iter().filter_map(short).collect();
        self.all.extend(out);
        lines
    }

    /// Nothing is left on the slot of a generation that drains.
    pub(crate) fn drained(&mut self, generation: u32) -> Vec<String> {
        let state = Answer::DrainState {
            generation: Gen(generation),
            half_open: 0,
            queued: 0,
            flows: Flowing::default(),
        };
        if self.ticket(&state) == Ticket(0) {
            self.now = self.m.next_deadline().expect("a look at the slot");
            self.event(Event::Tick);
        }
        self.event(state)
    }

    /// Every process that was asked for and not answered exists now.
    pub(crate) fn spawned(&mut self, proc: u32) -> Vec<String> {
        self.event(Event::Spawned { proc: Proc(proc), pid: 100 + proc as i32 })
    }

    pub(crate) fn ready(&mut self, generation: u32, worker: u32) -> Vec<String> {
        self.says(generation, worker, Notification { ready: true, ..Notification::default() })
    }

    pub(crate) fn says(&mut self, generation: u32, worker: u32, message: Notification) -> Vec<String> {
        let from = Sender::Main(worker);
        self.event(Event::Notified { generation: Gen(generation), from, message })
    }

    pub(crate) fn exits(&mut self, proc: u32, exit: Exit) -> Vec<String> {
        self.event(Event::Exited { proc: Proc(proc), exit, beside: Beside::Nothing })
    }

    pub(crate) fn empty(&mut self, generation: u32) -> Vec<String> {
        self.event(Event::Emptied(Gen(generation)))
    }

    pub(crate) fn command(&mut self, command: Command) -> Vec<String> {
        let req = Some(Req(self.next_req));
        self.next_req += 1;
        self.event(Event::Command { req, command })
    }

    pub(crate) fn reload(&mut self) -> Vec<String> {
        self.command(Command::Reload { force: false, remember: false, reason: String::new() })
    }

    /// A reload to this content, up to the launch.
    pub(crate) fn reload_to(&mut self, id: u32, unit: Unit) -> Vec<String> {
        self.reload();
        self.pre_check(id, unit)
    }

    pub(crate) fn pre_check(&mut self, id: u32, unit: Unit) -> Vec<String> {
        self.event(Answer::Loaded(Ok(content(id, unit))));
        self.event(Answer::Opened { content: ContentId(id), result: Ok(()) });
        self.event(Answer::BinaryChecked { content: ContentId(id), result: Ok(()) })
    }

    /// Boots a `notify` unit up to RUNNING: process 1, generation 1.
    pub(crate) fn running(unit: Unit) -> Rig {
        let mut rig = Rig::new(unit);
        rig.event(Event::Boot);
        rig.spawned(1);
        rig.ready(1, 0);
        assert_eq!(rig.state(), UnitState::Running);
        rig
    }

    /// The next deadline comes, if it is this long away; those before it (the pulse of a soak) do nothing.
    #[track_caller]
    pub(crate) fn after(&mut self, milliseconds: u64, wanted: &[&str]) {
        let at = self.now + Span::from_millis(milliseconds);
        loop {
            let next = self.m.next_deadline().expect("a deadline");
            assert!(next <= at, "the next deadline is {:?} away", next.since(self.now));
            self.now = next;
            if next == at {
                return self.row(Event::Tick, wanted);
            }
            self.row(Event::Tick, &[]);
        }
    }

    /// So much time passes, in which nothing is to be done.
    #[track_caller]
    pub(crate) fn pass(&mut self, milliseconds: u64) {
        let at = self.now + Span::from_millis(milliseconds);
        while let Some(next) = self.m.next_deadline().filter(|next| *next <= at) {
            self.now = next;
            self.row(Event::Tick, &[]);
        }
        self.now = at;
    }

    /// The next deadline is noticed this much too late.
    #[track_caller]
    pub(crate) fn late(&mut self, milliseconds: u64, wanted: &[&str]) {
        self.now = self.m.next_deadline().expect("a deadline") + Span::from_millis(milliseconds);
        self.row(Event::Tick, wanted);
    }

    pub(crate) fn state(&self) -> UnitState {
        self.m.summary().state
    }

    pub(crate) fn records(&self) -> Vec<ReloadRecord> {
        let record = |action: &Action| match action {
            Action::Record(record) => Some(record.clone()),
            _ => None,
        };
        self.all.iter().filter_map(record).collect()
    }

    #[track_caller]
    pub(crate) fn outcome(&self, outcome: Outcome, reason: &str) {
        let records = self.records();
        let last = records.last().expect("a record");
        assert_eq!((last.outcome, last.reason.as_str()), (outcome, reason));
    }

    pub(crate) fn environment(&self, role: Role) -> Vec<(String, String)> {
        let of = |action: &Action| match action {
            Action::Spawn(spawn) if spawn.role == role => Some(spawn.environment.clone()),
            _ => None,
        };
        self.all.iter().rev().find_map(of).expect("a process of that role")
    }
}

pub(crate) const CODE3: Exit = Exit::Code(3);
pub(crate) const SEGV: Exit = Exit::Signal { signal: 11, core: true };
pub(crate) const TERM: Exit = Exit::Signal { signal: 15, core: false };
