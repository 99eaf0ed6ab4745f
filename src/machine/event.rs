//! The vocabulary between the pure machine and the shell: what can happen to a unit ([`Event`]) and what is
//! then to be done ([`Action`]).
//!
//! Rules of the game, which the simulation plays too:
//!
//! * The shell carries actions out in the order in which they come, and hands a failure back as the named
//!   event before it waits again. `Spawned` or `SpawnFailed` answers every [`Action::Spawn`], nearly always at once, and
//!   later where the process is held up on its way to its program; signals reach it meanwhile, and an `Exited` never
//!   precedes its `Spawned`.
//! * An event about something that is gone (a dead process, a forgotten generation) is a no-op.
//! * Every [`Req`] gets exactly one [`Action::Reply`]; replies are the last actions of their turn.
//! * [`Event::Sockets`] comes before [`Event::Boot`].
//! * Every question ([`Action::Ask`]) has a [`Ticket`], and its answer names it. An answer that comes too late, twice
//!   or from before a recovery finds nobody who holds its ticket.
//! * Deadlines are asked for with `UnitMachine::next_deadline` and arrive as [`Event::Tick`]; a tick that comes
//!   early is a no-op.

use crate::proto::status::CheckStatus;
use crate::time::{Monotime, Span};
use crate::unit::{CanaryBy, Unit};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

pub use super::failure::SpawnFailure;
pub use super::fault::{Failure, Fault};
pub use super::seen::{Flowing, Looked, MemoryLevel, MemorySeen, NoPage, Page, Seen};
pub use crate::proto::notify::Notification;
pub use crate::proto::status::{Outcome, ReloadRecord, Share, UnitState};

/// A generation of one unit: 1, 2, 3… An instance of an `Accept` unit takes a number from the same count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Gen(pub u32);

/// One process that the shell started for the unit. Numbers are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Proc(pub u32);

/// One parsed version of the unit file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContentId(pub u32);

/// Somebody who waits for the result of a command. Given out by the shell, unique over all units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Req(pub u64);

/// The number of one question of the machine; its answer has the same. Never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket(pub u32);

/// A connection that the shell accepted for an `Accept` unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Conn(pub u64);

/// A parsed unit file and what it was parsed from.
#[derive(Clone, PartialEq)]
pub struct Content {
    /// Given out by the shell, ascending; one id always means the same content.
    pub id: ContentId,
    /// The unit.
    pub unit: Arc<Unit>,
    /// Hash of the text, for people: two contents with one hash are the same text.
    pub hash: u64,
    /// Hash of what the names in it meant when it was read: programs, folders, environment files. The things themselves
    /// are the shell's to hold.
    pub release: u64,
}

impl std::fmt::Debug for Content {
    /// Short: a whole unit on each line of a debug log would hide the rest.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Content({} of {}, {:016x})", self.id.0, self.unit.name, self.hash)
    }
}

/// What somebody asks of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `aeternactl start`: rereads the file. A unit that runs already is left alone (a success).
    Start,
    /// `aeternactl stop`: ends every generation, also an automatic restart that is waiting.
    Stop {
        /// Close the sockets too.
        close: bool,
    },
    /// `aeternactl restart`: stop and start with a gap; rereads the file.
    Restart,
    /// `aeternactl reload`, SIGHUP, `WatchPaths`, HTTP.
    Reload {
        /// First abandon a reload that is under way.
        force: bool,
        /// Remember it while a reload is under way, once, and run it when that ends (SIGHUP, `WatchPaths`)
        /// instead of refusing it.
        remember: bool,
        /// Why, for the history; may be empty.
        reason: String,
    },
    /// End the soak with success.
    Promote,
    /// End the soak with a rollback; outside a reload: a reload to what was promoted before, or to what a generation ran.
    Rollback {
        /// Which generation; `None` for the release before the one that serves.
        to: Option<Gen>,
    },
    /// Keep what a generation ran no longer: nothing leads back to it.
    DropRelease(Gen),
    /// A signal to the main processes.
    Kill {
        /// The signal's number.
        signal: i32,
        /// Which generation; `None` for all that live.
        generation: Option<Gen>,
    },
    /// aeternad itself stops: every generation ends, nothing is started again, a reload is `aborted`.
    Shutdown,
    /// No more waiting: the final signal to everything.
    KillAll,
    /// No new reloads from now on (`StopDelaySec` has begun); restarts go on.
    RefuseReloads,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It exited with this code.
    Code(u8),
    /// This signal ended it.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Whether it dumped core.
        core: bool,
    },
    /// It is gone, and nobody can say how (a service taken over after a crash of aeternad): unclean.
    Unknown,
}

/// What was seen beside the end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Beside {
    /// Nothing special.
    #[default]
    Nothing,
    /// Other processes of its generation's tree live on.
    Others,
    /// The kernel has killed it: the memory of its control group, or of ours, was used up.
    OutOfMemory,
    /// The kernel's OOM killer was at work on this machine just then.
    MemoryShort,
}

/// Who sent an sd_notify message; the shell looks, `NotifyAccess` is the machine's to apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sender {
    /// The main process of this worker.
    Main(u32),
    /// A process that aeternad started for the unit (a hook, `ExecStartPost`…).
    Started(Proc),
    /// Another process of the generation's tree: its pid.
    Member(i32),
    /// Nobody of ours, or already gone and not known.
    Stranger,
}

/// What a health check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeResult {
    /// The generation that it was meant for answered as expected.
    Pass,
    /// It answered otherwise or refused: why, for people.
    Fail(String),
    /// No answer within `Timeout`.
    TimedOut,
    /// It passed, but nobody may look who answered: counts as passed, with a warning.
    Unattributed,
    /// Another generation answered: counts neither way, is repeated at once within the deadline.
    NeverReached,
    /// It could not be made: why, for people. What aeternad lacks says nothing of the service: counts neither way.
    NotMade(String),
}

/// What a generation of an `InterceptBind` unit does not yet listen on, of what its predecessor did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Missing {
    /// Nothing: it is up.
    Nothing,
    /// Only addresses that the unit does not declare: it is waited for a while. Their names, for people.
    Learned(String),
    /// Addresses that the unit declares. Their names, for people.
    Declared(String),
}

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeKind {
    /// `[HealthCheck]` `HttpGet` or `TcpConnect` (an `Exec` check is an [`Action::Spawn`] of [`Role::Health`]).
    Health,
    /// A steered stream socket of a unit without `[HealthCheck]`: has the generation accepted one connection?
    Accepts,
}

/// Everything that can happen to a unit.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// aeternad has bound every unit's sockets and begins: launch, or listen for traffic.
    Boot,
    /// A command; answered by exactly one [`Action::Reply`] (at once, or when it has been carried out).
    Command {
        /// Who waits; `None` for nobody (a signal, a changed file, aeternad's own stop).
        req: Option<Req>,
        /// What is asked.
        command: Command,
    },
    /// Answers [`Action::Ask`], at once or later. One whose ticket nobody waits for any more is a no-op.
    Answered(Ticket, Answer),
    /// Whether any socket of the unit is really steered, whatever the unit declares (inherited sockets, a kernel that
    /// refuses). Comes before [`Event::Boot`] and before [`Answer::Opened`]; holds until the next one.
    Sockets {
        /// Whether a generation has a slot.
        steered: bool,
    },
    /// Answers [`Action::WatchTraffic`]: something waits on a socket.
    Traffic,
    /// Answers [`Action::WatchTraffic`] of an `Accept` unit: a connection was accepted.
    Accepted {
        /// Answer it with [`Role::Instance`] or [`Action::CloseConnection`].
        conn: Conn,
        /// Index of the `[[Socket]]` table that it came through.
        socket: usize,
        /// The source as limits count it: an IP, `cid:N`, `uid:N`.
        source: String,
    },
    /// Answers [`Action::Spawn`]: the process exists and execve has succeeded.
    Spawned {
        /// Which.
        proc: Proc,
        /// Its pid.
        pid: i32,
    },
    /// Answers [`Action::Spawn`]: there is no process.
    SpawnFailed {
        /// Which.
        proc: Proc,
        /// Why.
        failure: SpawnFailure,
    },
    /// The last line that a command of an analysis has written: before its [`Event::Exited`].
    Said {
        /// Which.
        proc: Proc,
        /// What, for people.
        line: String,
    },
    /// A process that was started has ended, and has been reaped.
    Exited {
        /// Which.
        proc: Proc,
        /// How.
        exit: Exit,
        /// What was seen beside that.
        beside: Beside,
    },
    /// The last process of a generation's tree (grandchildren included) is gone. Comes after the `Exited` of
    /// its last known process, each time the tree becomes empty, at once if it was empty then.
    Emptied(Gen),
    /// An sd_notify message on the generation's own socket. Descriptors stay with the shell.
    Notified {
        /// Whose socket it came through.
        generation: Gen,
        /// Who sent it.
        from: Sender,
        /// What it says.
        message: Notification,
    },
    /// `InterceptBind`: a generation listens on something, or what it still has to listen on has changed. Also
    /// when nothing can be intercepted, with [`Missing::Nothing`].
    Listened {
        /// Whose.
        generation: Gen,
        /// What its predecessor listened on, and it does not yet.
        missing: Missing,
    },
    /// A connection has arrived on a slot that nobody serves: a SYN that was under way when the slot was left.
    Stray {
        /// Which.
        slot: u32,
    },
    /// A generation has connected to the SRP socket to get state.
    SinkConnected(Gen),
    /// A transfer of state is over, however it ended. If it was a handover that failed, the source has got
    /// RESUME and the sink ERROR.
    RelayEnded(Relayed),
    /// What a generation that was launched beside a serving one has of the memory: about once a second until it is
    /// promoted.
    Memory(Gen, Box<MemorySeen>),
    /// The kernel has killed so many processes of a generation for memory whose ends were not told as that.
    OomKilled(Gen, u64),
    /// A deadline may have passed.
    Tick,
}

/// How a transfer of state ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Relayed {
    /// Who gave.
    pub from: Gen,
    /// Who got.
    pub to: Gen,
    /// `Err`: why not. `Ok` means acknowledged.
    pub result: Result<(), Failure>,
    /// State bytes.
    pub bytes: u64,
    /// State frames.
    pub frames: u64,
    /// Descriptors.
    pub descriptors: u64,
    /// From REQUEST to the end.
    pub took: Span,
}

/// What a process is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// `ExecStart`: worker 0…N-1; for `oneshot`, `command` is the index of the command.
    Main {
        /// Which worker.
        worker: u32,
        /// Index into `exec_start`.
        command: u32,
    },
    /// `ExecStart` for one connection of an `Accept` unit.
    Instance(Conn),
    /// `ExecStartPre`, by index.
    StartPre(u32),
    /// `ExecStartPost`, by index.
    StartPost(u32),
    /// `ExecStop`, by index.
    Stop(u32),
    /// `ExecStopPost`, by index.
    StopPost(u32),
    /// `ExecReload`, by index.
    Reload(u32),
    /// `[[Reload.PreFlight]]`, by index.
    PreFlight(u32),
    /// `OnSuccess`, by index.
    OnSuccess(u32),
    /// `OnFailure`, by index.
    OnFailure(u32),
    /// `[HealthCheck] Exec`.
    Health,
    /// `[[Analysis.Check]] Exec`, by index.
    Analysis(u32),
}

/// Who gets a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// One process that was started, and nobody else.
    Proc(Proc),
    /// A process that was started and everything below it (a hook's or a control command's whole tree); after
    /// its end: what it has left behind.
    ProcTree(Proc),
    /// The main processes of a generation.
    Mains(Gen),
    /// Every process of a generation's tree, grandchildren included.
    Everyone(Gen),
}

/// What the machine wants to know. Whoever asks remembers the ticket; a question that was never answered can be asked
/// again with it (`UnitMachine::resume`).
#[derive(Debug, Clone, PartialEq)]
pub enum Question {
    /// Reread and parse the unit file: [`Answer::Loaded`].
    Load,
    /// Bind every address of this content that is not yet held, all or nothing: [`Answer::Opened`].
    OpenSockets(Content),
    /// Is the program there, executable and (if asked) of the right SHA-256: [`Answer::BinaryChecked`].
    CheckBinary(Content),
    /// Probe a generation: [`Answer::Probed`], within the check's `Timeout`.
    Probe {
        /// Whom.
        generation: Gen,
        /// What for.
        kind: ProbeKind,
    },
    /// What is left on the slot that a generation drains: [`Answer::DrainState`].
    CheckDrain {
        /// Whose slot.
        generation: Gen,
        /// Which.
        slot: u32,
    },
    /// Is anything left on a slot whose generation died? Move it if the kernel can: [`Answer::SlotState`].
    CheckSlot(u32),
    /// How many connections are there: [`Answer::Connections`].
    CountConnections,
    /// The page and the figures of both generations of a soak: [`Answer::Looked`], within `[Analysis] Timeout`.
    Look {
        /// The new generation.
        new: Gen,
        /// The old one, if it lives.
        old: Option<Gen>,
    },
}

/// What the shell has found out.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// To [`Question::Load`]; `Err`: every error of the file.
    Loaded(Result<Content, String>),
    /// To [`Question::OpenSockets`].
    Opened {
        /// Whose sockets.
        content: ContentId,
        /// `Err`: which address, why, who holds it. Nothing was changed then.
        result: Result<(), String>,
    },
    /// To [`Question::CheckBinary`].
    BinaryChecked {
        /// Which content's.
        content: ContentId,
        /// `Err`: what is wrong with it.
        result: Result<(), String>,
    },
    /// To [`Question::Probe`].
    Probed {
        /// Whom it was meant for.
        generation: Gen,
        /// What came of it.
        result: ProbeResult,
    },
    /// To [`Question::CheckDrain`].
    DrainState {
        /// Whose slot.
        generation: Gen,
        /// Half-open connections of the snapshot that are still there and not yet given up on.
        half_open: u32,
        /// Connections in its accept queues, datagrams that it has not read.
        queued: u32,
        /// Its datagram flows.
        flows: Flowing,
    },
    /// To [`Question::CheckSlot`].
    SlotState {
        /// Which.
        slot: u32,
        /// Connections in its accept queues, and half-open ones that may still land there.
        queued: u32,
        /// Whether the shell moved them to the serving slot (`net.ipv4.tcp_migrate_req=1`).
        migrated: bool,
    },
    /// To [`Question::CountConnections`].
    Connections {
        /// Established connections on the unit's sockets.
        established: u32,
        /// Whether anything arrived on a socket since the last count.
        arrived: bool,
    },
    /// To [`Question::Look`].
    Looked(Box<Looked>),
}

/// Everything that the machine asks the shell to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Find something out; answer [`Event::Answered`] with the same ticket, exactly once.
    Ask(Ticket, Question),
    /// Close what none of these contents declares. An empty list closes everything.
    KeepSockets(Vec<ContentId>),
    /// Report the next traffic on the sockets, once: [`Event::Traffic`] (for `Accept` units: accept one
    /// connection and report [`Event::Accepted`]).
    WatchTraffic,
    /// No longer.
    IgnoreTraffic,
    /// Throw away what is queued on sockets with `FlushPending`.
    FlushPending,
    /// Close a connection that no instance gets.
    CloseConnection(Conn),
    /// Start a process. Answered by [`Event::Spawned`] or [`Event::SpawnFailed`].
    Spawn(Spawn),
    /// Send a signal. A target that is gone is no error. The shell adds nothing of its own.
    Signal {
        /// To whom.
        to: Target,
        /// Its number.
        signal: i32,
    },
    /// `MAINPID=`: from now on this process number means another process of the generation's tree: signals go
    /// to it, and [`Event::Exited`] tells its end (not that of the process that was started). If there is no
    /// such process in the tree, nothing changes.
    AdoptMain {
        /// The number.
        proc: Proc,
        /// The other process.
        pid: i32,
    },
    /// Where new connections of steered sockets go. Replaces what was said before.
    Steer(Steering),
    /// A slot is about to be drained: remember which connections are half open now.
    BeginDrain {
        /// Whose slot.
        generation: Gen,
        /// Which.
        slot: u32,
    },
    /// Connections that stay on a slot because nobody can serve them now: for the metric.
    Stranded {
        /// How many.
        count: u32,
    },
    /// A sink has no predecessor with state: FINISHED at once.
    AnswerCold(Gen),
    /// Send REQUEST to the source's generation (as soon as it is connected) and relay its state to the sink's;
    /// answer [`Event::RelayEnded`], also when `until` has passed, or when either is gone.
    Relay(Transfer),
    /// Give a transfer up; it ends with [`Event::RelayEnded`].
    CancelRelay,
    /// RESUME to a source that was asked and gets nothing back. A no-op where it was not asked, or told already.
    Resume(Gen),
    /// COMMIT to a source: its state is the newer generation's for good. Written before its stop signal.
    Commit(Gen),
    /// A generation that a reload has launched was given up: what its content holds is not taken in the place of
    /// something that is gone.
    GaveUp {
        /// Which.
        generation: Gen,
        /// Why, for people.
        why: String,
    },
    /// This content counts from now on: an automatic restart launches it, traffic starts it.
    Content(ContentId),
    /// This generation serves from now on: its changes to the descriptor store count, its state too.
    Promoted(Gen),
    /// What is left there cannot be killed: say which processes these are, and in which state. Nobody waits for them any
    /// more.
    GiveUp(Target),
    /// What is left there was killed a while ago and is waited for: say which processes these are, and what may help.
    Lingers(Target),
    /// A generation has ended and everything of it is gone, or was given up: drop what belongs to it.
    Forget(Gen),
    /// The unit was stopped on purpose: the descriptor store is emptied.
    DropStore,
    /// A fact for the log, the event stream and the metrics.
    Announce(Announcement),
    /// A reload is over: for the history.
    Record(ReloadRecord),
    /// Answers a command.
    Reply {
        /// Whom.
        req: Req,
        /// What came of it.
        result: CommandResult,
    },
}

/// A process to start.
#[derive(Debug, Clone, PartialEq)]
pub struct Spawn {
    /// Its number.
    pub proc: Proc,
    /// What for.
    pub role: Role,
    /// The unit as it was parsed for this launch.
    pub content: Content,
    /// The generation that it belongs to; `None` for pre-flight and for hooks.
    pub generation: Option<Gen>,
    /// Which slot's sockets it gets: a main process and an instance only.
    pub slot: u32,
    /// `AETERNA_HANDOVER=1`: an earlier generation is serving at this launch.
    pub handover: bool,
    /// What is done when something that its content held is gone.
    pub if_gone: IfGone,
    /// Whether the kernel is to kill it before all others when memory runs out: until [`Action::Promoted`].
    pub goes_first: bool,
    /// More environment, made by the machine: `MAINPID`, `SERVICE_RESULT`, `AETERNA_RELOAD_OUTCOME`…
    pub environment: Vec<(String, String)>,
}

/// What a start does when a program or a folder that its content held is gone: removed, or written over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfGone {
    /// It fails: a reload and a rollback were asked for one thing.
    Refuse,
    /// An automatic start takes what the names mean now, unless a reload has given that up.
    TakeNew,
}

/// State that is to move from one generation to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Who gives.
    pub from: Gen,
    /// Who gets.
    pub to: Gen,
    /// Whether this is the way back after a handover that was given up: RESUME first, to `to`.
    pub back: bool,
    /// When it must be acknowledged.
    pub until: Option<Monotime>,
    /// The most state, bytes.
    pub max_bytes: u64,
}

/// Where new connections of steered sockets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steering {
    /// The slot that gets the rest.
    pub serving: u32,
    /// The slot of the new generation and its percentage, 0 to 100.
    pub canary: Option<(u32, u8)>,
    /// How a connection is drawn.
    pub by: SteerBy,
}

/// [`CanaryBy`] in a form that can be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SteerBy {
    /// Each connection by itself.
    Connection,
    /// A client address stays on one side.
    Client,
}

impl From<CanaryBy> for SteerBy {
    fn from(by: CanaryBy) -> SteerBy {
        match by {
            CanaryBy::Connection => SteerBy::Connection,
            CanaryBy::Client => SteerBy::Client,
        }
    }
}

/// A fact that is logged (one line), streamed to `aeternactl events`, and counted.
#[derive(Debug, Clone, PartialEq)]
pub enum Announcement {
    /// The unit's state changed.
    State {
        /// Before.
        from: UnitState,
        /// Now.
        to: UnitState,
        /// Why, in words for a person; may be empty.
        why: String,
        /// How long the state before lasted.
        lasted: Span,
        /// The generation that it is about: the new one of a reload, if it lives, else the one that serves.
        generation: Option<Gen>,
    },
    /// A main process runs.
    Started {
        /// Whose.
        generation: Gen,
        /// Which worker.
        worker: u32,
        /// Its pid.
        pid: i32,
    },
    /// A generation is ready.
    Ready {
        /// Which.
        generation: Gen,
    },
    /// A main process has ended.
    Ended {
        /// Whose.
        generation: Gen,
        /// Which worker.
        worker: u32,
        /// Its pid.
        pid: i32,
        /// How.
        exit: Exit,
        /// Whether that was asked for or is a success.
        expected: bool,
    },
    /// An automatic restart is about to be made, with systemd's SERVICE_RESULT word as its reason.
    Restarting {
        /// `exit-code`, `signal`, `core-dump`, `timeout`, `watchdog`, `start-limit-hit`, `resources`…
        result: String,
    },
    /// A step of a reload that is not a change of state: a pre-flight command, a weight, a health result.
    Step {
        /// Whose.
        generation: Option<Gen>,
        /// For people.
        text: String,
    },
    /// The share of new connections that the new generation gets has changed.
    Weight {
        /// Whose.
        generation: Gen,
        /// Percent.
        weight: u8,
    },
    /// What came of a weight until it changed: of the shell's own, the kernel has counted it.
    Measured {
        /// The new generation.
        generation: Gen,
        /// What was asked for and what was got.
        share: Share,
    },
    /// A health check has been made: `pass`, `fail`, `timeout`, `unattributed`, `never_reached`; or could not be:
    /// `not_made`.
    Health {
        /// Whose.
        generation: Gen,
        /// The result's word.
        result: &'static str,
        /// More, for people; may be empty.
        detail: String,
    },
    /// A check of a soak's analysis says something else than before, or its last word.
    Analysis {
        /// The check as it stands.
        check: CheckStatus,
    },
    /// State was relayed, or was not.
    Handover {
        /// How it ended.
        relayed: Relayed,
    },
    /// STATUS=… of a generation.
    Status {
        /// Whose.
        generation: Gen,
        /// What it says.
        text: String,
    },
    /// A reload is over.
    Reloaded {
        /// How it ended.
        outcome: Outcome,
        /// Why.
        reason: String,
    },
    /// A start has failed: for the log as an error, whatever follows.
    StartFailed {
        /// Whose.
        generation: Gen,
        /// What it did: "generation 2 …".
        text: String,
    },
    /// Something that a kept release needs is gone: removed, or written over.
    ReleaseGone {
        /// The last that ran it.
        generation: Option<Gen>,
        /// What, and why.
        text: String,
    },
    /// Something surprising that is handled: for the log as a warning.
    Warning {
        /// For people.
        text: String,
    },
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandResult {
    /// It was done; a note for people, may be empty.
    Done(String),
    /// A reload ended.
    Reload {
        /// How.
        outcome: Outcome,
        /// Why, for people.
        reason: String,
    },
    /// Refused because a reload is under way (exit status 4): who is at it.
    Busy(String),
    /// It failed (exit status 1): why.
    Failed(String),
}

/// Why a reload that is asked for now would be refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Busy {
    /// Another one is under way: who is at it, in words.
    Reload(String),
    /// Something else is, in words; it is waited for.
    Other(&'static str),
}

impl Busy {
    /// Whether `force` makes way.
    pub fn ends_by_force(&self) -> bool {
        matches!(self, Busy::Reload(_))
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Busy::Reload(who) => who,
            Busy::Other(what) => what,
        })
    }
}

/// What the machine of the daemon is told about a unit after each event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The unit's state.
    pub state: UnitState,
    /// Whether any process of it lives.
    pub alive: bool,
    /// Whether its first start is over, one way or the other (or it only listens).
    pub settled: bool,
    /// How the service ended, if it ended by itself and is not restarted (start limit too). As an exit status
    /// of aeternad: the code, 128 + signal, 126 or 127.
    pub ended: Option<u8>,
    /// `StartOn = "boot"`.
    pub boot: bool,
    /// Whether a reload is under way.
    pub reloading: bool,
}
