//! What the shell keeps for one unit: its machine, its sockets, its processes and their descriptors.

use crate::daemon::complaints::Complaints;
use crate::daemon::fdstore::FdStore;
use crate::daemon::handover::StateSocket;
use crate::daemon::intercept::{Adopted, Filters};
use crate::daemon::limits::Unenforced;
use crate::daemon::linelog::LineLog;
use crate::daemon::load::Source;
use crate::daemon::logpipe::LogPipe;
use crate::daemon::preflight::Checking;
use crate::daemon::releases::{Before, Release, Releases};
use crate::daemon::settling::Settling;
use crate::daemon::sockets::{ListenSet, PeerName};
use crate::daemon::spare::{Kit, Spare};
use crate::daemon::srp::Endpoint;
use crate::daemon::used::Used;
use crate::machine::UnitMachine;
use crate::machine::event::{Conn, Content, ContentId, Gen, Proc, ReloadRecord, Role, Summary, Transfer};
use crate::machine::owed::Owed;
use crate::proto::status::Outcome;
use crate::sys::aside::Foreign;
use crate::sys::inotify::Watcher;
use crate::sys::oom::GroupKills;
use crate::sys::tree::{self, Main, TreeKey};
use crate::sys::unixpath::BoundPath;
use crate::time::Monotime;
use crate::unit::{DaemonSettings, Output};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// How many finished reloads are remembered.
pub const HISTORY: usize = 32;

/// How many of them can be refused ones.
const REFUSED: usize = 8;

/// How many of a generation's last lines are kept for the answer of a failed reload.
pub const LAST_LINES: usize = 20;

/// A process that was started and not yet reaped.
#[derive(Debug)]
pub struct Child {
    /// Its pid. It cannot be used again before we reap it.
    pub pid: i32,
    /// What for.
    pub role: Role,
    /// The generation that it belongs to.
    pub generation: Option<Gen>,
    /// `INVOCATION_ID` in its environment.
    pub invocation: String,
    /// Its pidfd: what is signalled through it is never another process. `None` on a kernel without.
    pub pidfd: Option<OwnedFd>,
    /// When it was started, in clock ticks: with the pid it is one process for ever. `None` until somebody has looked.
    pub started: Option<u64>,
    /// Whether the pidfd is in the poll set: it has become a main process by `MAINPID=`, and may not be our child.
    pub watched: bool,
    /// It has been reaped, and the machine has not been told yet: what it left behind is still found by it.
    pub gone: bool,
    /// Whether we have sent it SIGKILL.
    pub killed: bool,
    /// The last line that a command of an analysis has written.
    pub said: Option<String>,
}

/// The notify socket of a generation.
#[derive(Debug)]
pub struct NotifySocket {
    /// The socket. What waits in it may be descriptors of anybody.
    pub fd: Foreign,
    /// Its real name.
    pub name: BoundPath,
    /// The path that the service is given: short enough for a sockaddr_un.
    pub shown: String,
    /// The first one, where its name was removed and made again: a process may be connected to it.
    pub first: Option<Foreign>,
}

impl NotifySocket {
    /// Takes the place of one whose name is gone. What leaves the poll set with it.
    pub fn renew(&mut self, fresh: NotifySocket) -> Option<Foreign> {
        let old = std::mem::replace(self, fresh);
        let (first, gone) = match old.first {
            Some(first) => (first, Some(old.fd)),
            None => (old.fd, None),
        };
        self.first = Some(first);
        gone
    }

    /// What messages arrive on.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.first.iter().chain([&self.fd]).map(AsFd::as_fd)
    }
}

/// What belongs to one generation.
#[derive(Debug, Default)]
pub struct GenerationShell {
    /// Its notify socket and its control group.
    pub kit: Kit,
    /// `INVOCATION_ID`: marks its processes.
    pub invocation: String,
    /// Every pid that was started for it, dead ones too: their session ids mark grandchildren.
    pub started: Vec<Main>,
    /// Process groups whose leaders are gone, where the tree cannot be seen.
    pub groups: Vec<i32>,
    /// Its processes are not our children: an aeternad before us has started them. Orphans among them do not come to us.
    pub strayed: bool,
    /// Processes of it that live and that we started.
    pub alive: u32,
    /// Its processes may all be gone; tell the machine when they are.
    pub watch_empty: bool,
    /// The user that its sockets belong to.
    pub owner: Option<(u32, u32)>,
    /// The slot whose sockets it has.
    pub slot: u32,
    /// Whether users' connections were ever steered to its slot.
    pub served: bool,
    /// It was launched beside one that serves and is not promoted yet: the kernel kills it first.
    pub goes_first: bool,
    /// Limits of its unit that it does not have.
    pub unenforced: Unenforced,
    /// Its processes that the kernel has killed for memory, where its control group counts them.
    pub kills: Option<GroupKills>,
    /// The content that it was launched with.
    pub content: Option<ContentId>,
    /// What it runs.
    pub release: Option<Arc<Release>>,
    /// What names meant before its `ExecStartPre`.
    pub before: Option<Box<Before>>,
    /// With `InterceptBind`: what it has bound and listens on.
    pub adopted: Adopted,
    /// Its last lines, where they go through us.
    pub last_lines: VecDeque<String>,
}

impl GenerationShell {
    /// What marks its processes where there is no control group.
    pub fn tree_key(&self) -> TreeKey<'_> {
        TreeKey { mains: &self.started, invocation: &self.invocation, strayed: self.strayed }
    }

    /// Every process of its tree; `us` is aeternad's pid.
    pub fn members(&self, us: i32) -> Vec<i32> {
        match &self.kit.cgroup {
            Some(group) => group.pids(),
            None => tree::tree(&self.tree_key(), us),
        }
    }
}

/// What a generation that is gone has left.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastWords {
    /// Whose.
    pub generation: Gen,
    /// Its last lines, where they went through us.
    pub lines: Vec<String>,
    /// Its `StandardError`.
    pub went_to: Option<Output>,
}

/// A log pipe and where its lines come from.
#[derive(Debug)]
pub struct Stream {
    /// The pipe.
    pub pipe: LogPipe,
    /// The generation that writes; `None` for hooks.
    pub generation: Option<Gen>,
    /// Its pid, for the log.
    pub pid: i32,
    /// Whether it is standard error.
    pub is_error: bool,
}

/// `WatchPaths` at work.
#[derive(Debug)]
pub struct PathWatch {
    /// The watcher.
    pub watcher: Watcher,
    /// What it was made for: made anew when a reload changes it.
    pub paths: Vec<String>,
    /// What has changed, until that has settled.
    pub settling: Settling,
}

/// One unit.
#[derive(Debug)]
pub struct Supervised {
    /// Its name; a reload can't change it.
    pub name: String,
    /// Where it is read from.
    pub source: Source,
    /// Whether it is still there.
    pub standing: Standing,
    /// The machine that decides.
    pub machine: UnitMachine,
    /// What it said last about itself; nothing before its first event.
    pub summary: Option<Summary>,
    /// When it wants a tick.
    pub deadline: Option<Monotime>,
    /// Its sockets.
    pub sockets: ListenSet,
    /// Whether traffic is watched for.
    pub traffic: Traffic,
    /// Slots that users' connections were sent to: late ones may land there as long as the address is held.
    pub used_slots: BTreeSet<u32>,
    /// Those of them that nobody has now: a connection that lands there is looked after.
    pub left_slots: BTreeSet<u32>,
    /// Whether traffic arrived since the last count.
    pub arrived: bool,
    /// When an `Accept` unit tries to accept again, after there was no descriptor for it.
    pub accept_again: Option<Monotime>,
    /// Its processes.
    pub children: HashMap<Proc, Child>,
    /// Its generations; boxed, since a node of the map has room for eleven of them.
    pub generations: BTreeMap<Gen, Box<GenerationShell>>,
    /// What the next one will need.
    pub spare: Option<Box<Spare>>,
    /// Contents that are in use: of living generations, and of a reload under way.
    pub contents: Vec<Content>,
    /// What the names in them meant.
    pub releases: Releases,
    /// The content that serves, or that was promoted last.
    pub current: Content,
    /// `[Daemon]` as it was when aeternad started: what counts until it starts again.
    pub started_with: DaemonSettings,
    /// The number of the newest content.
    pub last_content: u32,
    /// The slot that gets new connections, apart from a canary's share.
    pub serving_slot: u32,
    /// Its descriptor store.
    pub store: FdStore,
    /// Accepted connections that wait for the machine's word.
    pub connections: HashMap<Conn, (Foreign, PeerName)>,
    /// The last reloads, oldest first.
    pub history: VecDeque<ReloadRecord>,
    /// What the generation that went last wrote at its end, for the answer of a failed reload.
    pub last_words: Option<LastWords>,
    /// What was complained about its notify messages.
    pub complaints: Complaints,
    /// What was complained about the use of its SRP socket.
    pub state_complaints: Complaints,
    /// With `InterceptBind`: the filters of its processes, and what has to be listened on.
    pub filters: Filters,
    /// The last lines of its output, of all generations and hooks.
    pub log: LineLog,
    /// Log pipes by id.
    pub streams: HashMap<u32, Stream>,
    /// The newest id of a log pipe.
    pub last_stream: u32,
    /// Its SRP socket, once a launch wanted one.
    pub state_socket: Option<StateSocket>,
    /// Who is connected to it.
    pub endpoint: Endpoint,
    /// The generation that was promoted last.
    pub promoted: Option<Gen>,
    /// `WatchPaths`.
    pub watch: Option<PathWatch>,
    /// What its generations have used that are gone.
    pub used: Used,
    /// Restarts by reason, for the metrics.
    pub restarts: BTreeMap<String, u64>,
    /// A relay of state that is not begun, because an upgrade is about to be made.
    pub put_off: Option<Transfer>,
    /// A check of a program that is under way.
    pub checking: Option<Checking>,
    /// What is being done just now: what the next aeternad does if we die at it.
    pub owed: Vec<Owed>,
    /// It hears what has happened while no aeternad was there: nobody is told what it is before it has heard all.
    pub going_on: bool,
}

/// Where a unit stands with its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It is a unit of this aeternad.
    Here,
    /// Its file is gone: it is being stopped, and is dropped then.
    Leaving,
    /// It was dropped. Its place is kept for the next unit, so that the others keep their numbers.
    Gone,
}

/// What the poll set waits for on a unit's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Traffic {
    /// A hang-up only: somebody shut a listener down.
    Ignored,
    /// The next connection or datagram.
    Watched,
    /// One note that something arrived, for `StopWhenIdleSec`.
    Counted,
}

impl Supervised {
    /// A unit whose sockets are bound.
    pub fn new(source: Source, content: Content, sockets: ListenSet, machine: UnitMachine) -> Supervised {
        Supervised {
            name: content.unit.name.clone(),
            source,
            standing: Standing::Here,
            machine,
            summary: None,
            deadline: None,
            sockets,
            traffic: Traffic::Ignored,
            used_slots: BTreeSet::new(),
            left_slots: BTreeSet::new(),
            arrived: false,
            accept_again: None,
            children: HashMap::new(),
            generations: BTreeMap::new(),
            spare: None,
            started_with: content.unit.daemon.clone(),
            last_content: content.id.0,
            contents: vec![content.clone()],
            releases: Releases::default(),
            current: content,
            serving_slot: 0,
            store: FdStore::default(),
            connections: HashMap::new(),
            history: VecDeque::new(),
            last_words: None,
            complaints: Complaints::default(),
            state_complaints: Complaints::default(),
            filters: Filters::default(),
            log: LineLog::default(),
            streams: HashMap::new(),
            last_stream: 0,
            state_socket: None,
            endpoint: Endpoint::new(),
            promoted: None,
            watch: None,
            used: Used::default(),
            restarts: BTreeMap::new(),
            put_off: None,
            checking: None,
            owed: Vec::new(),
            going_on: false,
        }
    }

    /// The place of a unit that was dropped.
    pub fn gone(machine: UnitMachine) -> Supervised {
        let content = machine.content().clone();
        let source = Source::Inline(Arc::clone(&content.unit));
        let gone = Supervised::new(source, content, ListenSet::default(), machine);
        Supervised { name: String::new(), standing: Standing::Gone, ..gone }
    }

    /// The unit of a content in use.
    pub fn content(&self, id: ContentId) -> Option<&Content> {
        self.contents.iter().find(|content| content.id == id)
    }

    /// `[State]` of a generation.
    pub fn rules_of(&self, number: Gen) -> Option<&crate::unit::State> {
        let content = self.content(self.generations.get(&number)?.content?)?;
        Some(&content.unit.state)
    }

    /// The last lines that a generation wrote, where they went through us.
    pub fn last_lines(&self, number: Gen) -> Vec<String> {
        match (self.generations.get(&number), &self.last_words) {
            (Some(shell), _) => shell.last_lines.iter().cloned().collect(),
            (None, Some(last)) if last.generation == number => last.lines.clone(),
            (None, _) => Vec::new(),
        }
    }

    /// Remembers a finished reload.
    pub fn remember(&mut self, record: ReloadRecord) {
        remember(&mut self.history, record);
    }
}

/// Adds a record to a history, which stays short: somebody who asks again and again while a reload is under way, or with
/// a file that is refused each time, does not push out what really happened.
fn remember(history: &mut VecDeque<ReloadRecord>, record: ReloadRecord) {
    let refused = |record: &ReloadRecord| record.outcome == Outcome::Refused;
    if refused(&record)
        && history.iter().filter(|have| refused(have)).count() >= REFUSED
        && let Some(oldest) = history.iter().position(refused)
    {
        history.remove(oldest);
    }
    if history.len() >= HISTORY {
        history.pop_front();
    }
    history.push_back(record);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(reason: &str, outcome: Outcome) -> ReloadRecord {
        serde_json::from_value(serde_json::json!({
            "outcome": outcome,
            "reason": reason,
            "old_generation": 1,
            "new_generation": 2,
            "strategy": "canary",
            "duration": 1.0,
            "phases": [],
        }))
        .unwrap()
    }

    #[test]
    fn refused_reloads_do_not_push_real_ones_out_of_the_history() {
        let mut history = VecDeque::new();
        for number in 0..HISTORY - REFUSED {
            remember(&mut history, record(&number.to_string(), Outcome::Promoted));
        }
        for number in 0..1000 {
            remember(&mut history, record(&format!("busy {number}"), Outcome::Refused));
        }
        let reasons: Vec<&str> = history.iter().map(|record| record.reason.as_str()).collect();
        assert_eq!(history.len(), HISTORY);
        assert_eq!((reasons[0], reasons[HISTORY - 1]), ("0", "busy 999"));
        for number in 0..100 {
            remember(&mut history, record(&format!("real {number}"), Outcome::RolledBack));
        }
        assert_eq!(history.len(), HISTORY);
        assert!(history.iter().all(|record| record.reason.starts_with("real")));
    }
}
