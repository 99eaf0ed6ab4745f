//! What `aeternactl status`, `history`, `events` and `/v1/status` show: values that are printed as JSON.
//! Times are in seconds.

pub use super::usage::{Figure, Pressure, Usage, UsageOfBoth};

use serde::{Deserialize, Serialize};

/// The state of a unit (contract section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UnitState {
    /// Not yet begun.
    Pending,
    /// Bound, not started; or an `Accept` unit at work.
    Listening,
    /// A generation starts.
    Starting,
    /// A generation serves.
    Running,
    /// A reload checks before it launches anything.
    PreChecking,
    /// State moves from the old generation to the new one.
    Handshaking,
    /// The new generation serves beside the old one under observation.
    Soaking,
    /// The new generation serves, the old one finishes what it has.
    Draining,
    /// A reload is being given up.
    RollingBack,
    /// Waiting to restart.
    Backoff,
    /// Being stopped.
    Stopping,
    /// Stopped on purpose, or ended with success and not restarted.
    Stopped,
    /// Ended without success and not restarted.
    Failed,
}

impl UnitState {
    /// Every state, in the order of the contract.
    pub const ALL: [UnitState; 13] = [
        UnitState::Pending,
        UnitState::Listening,
        UnitState::Starting,
        UnitState::Running,
        UnitState::PreChecking,
        UnitState::Handshaking,
        UnitState::Soaking,
        UnitState::Draining,
        UnitState::RollingBack,
        UnitState::Backoff,
        UnitState::Stopping,
        UnitState::Stopped,
        UnitState::Failed,
    ];

    /// The state's name, as in JSON: `RUNNING`.
    pub const fn name(self) -> &'static str {
        match self {
            UnitState::Pending => "PENDING",
            UnitState::Listening => "LISTENING",
            UnitState::Starting => "STARTING",
            UnitState::Running => "RUNNING",
            UnitState::PreChecking => "PRE_CHECKING",
            UnitState::Handshaking => "HANDSHAKING",
            UnitState::Soaking => "SOAKING",
            UnitState::Draining => "DRAINING",
            UnitState::RollingBack => "ROLLING_BACK",
            UnitState::Backoff => "BACKOFF",
            UnitState::Stopping => "STOPPING",
            UnitState::Stopped => "STOPPED",
            UnitState::Failed => "FAILED",
        }
    }

    /// Whether a reload is under way in this state (`DRAINING` is not a reload).
    pub const fn is_reload(self) -> bool {
        matches!(
            self,
            UnitState::PreChecking | UnitState::Handshaking | UnitState::Soaking | UnitState::RollingBack
        )
    }

    /// Whether a unit in this state counts as serving (contract section 8): in RUNNING, LISTENING, and in every
    /// state of a reload, DRAINING included.
    pub const fn serves(self, reloading: bool) -> bool {
        match self {
            UnitState::Running
            | UnitState::Listening
            | UnitState::PreChecking
            | UnitState::Soaking
            | UnitState::Draining
            | UnitState::RollingBack => true,
            UnitState::Starting | UnitState::Handshaking | UnitState::Stopping => reloading,
            UnitState::Pending | UnitState::Backoff | UnitState::Stopped | UnitState::Failed => false,
        }
    }

    /// The state in systemctl's words, as `systemctl is-active` prints them: `active`, `reloading`, `activating`,
    /// `deactivating`, `inactive`, `failed`. The first two are those that count as running.
    pub const fn active(self, reloading: bool) -> &'static str {
        match self {
            UnitState::Running | UnitState::Listening | UnitState::Draining => "active",
            UnitState::PreChecking | UnitState::Soaking | UnitState::RollingBack => "reloading",
            UnitState::Starting | UnitState::Handshaking | UnitState::Stopping if reloading => "reloading",
            UnitState::Pending | UnitState::Starting | UnitState::Handshaking | UnitState::Backoff => {
                "activating"
            }
            UnitState::Stopping => "deactivating",
            UnitState::Stopped => "inactive",
            UnitState::Failed => "failed",
        }
    }
}

/// How a reload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The new content serves.
    Promoted,
    /// Something was launched and given up.
    RolledBack,
    /// Nothing was launched: a bad unit, a taken address, pre-flight.
    Failed,
    /// Not begun, because another one is under way or a stop has begun.
    Refused,
    /// Ended by a stop, by `--force`.
    Aborted,
}

impl Outcome {
    /// The outcome's word, as in JSON: `rolled_back`.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Promoted => "promoted",
            Outcome::RolledBack => "rolled_back",
            Outcome::Failed => "failed",
            Outcome::Refused => "refused",
            Outcome::Aborted => "aborted",
        }
    }
}

/// One finished reload, for the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReloadRecord {
    /// How it ended.
    pub outcome: Outcome,
    /// Why, in words that a person can act on; empty when there is nothing to say.
    #[serde(default)]
    pub reason: String,
    /// What the one who asked for it gave as the reason (`--reason`); may be empty.
    #[serde(default)]
    pub asked: String,
    /// The generation that served before, if there was one.
    pub old_generation: Option<u32>,
    /// The generation that was launched, if one was.
    pub new_generation: Option<u32>,
    /// `canary`, `immediate`, `replace`, `signal`.
    pub strategy: String,
    /// When it began, Unix time in seconds; filled in by the shell.
    #[serde(default)]
    pub started_at: f64,
    /// How long it took, seconds.
    pub duration: f64,
    /// How long each phase took: the state's name in lower case, seconds; in order.
    pub phases: Vec<PhaseTime>,
    /// The steps of a soak on steered TCP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<Share>,
    /// The checks of the soak's analysis as they stood at its end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckStatus>,
    /// What both generations used, as the kernel tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Box<UsageOfBoth>>,
    /// State bytes that were relayed.
    #[serde(default)]
    pub state_bytes: u64,
    /// State frames that were relayed.
    #[serde(default)]
    pub state_frames: u64,
    /// Descriptors that were relayed.
    #[serde(default)]
    pub state_descriptors: u64,
    /// How long that took, seconds.
    #[serde(default)]
    pub state_seconds: f64,
    /// The last lines that the failed generation wrote, where they went through aeternad.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
}

/// What a check of a soak's analysis says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckVerdict {
    /// Not judged yet.
    Open,
    /// Within its limit.
    Pass,
    /// Above its limit.
    Fail,
    /// It could not be judged.
    Inconclusive,
}

impl CheckVerdict {
    /// Its word, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            CheckVerdict::Open => "open",
            CheckVerdict::Pass => "pass",
            CheckVerdict::Fail => "fail",
            CheckVerdict::Inconclusive => "inconclusive",
        }
    }
}

/// One side of a check: what was counted since the soak began, or the value at the last look.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CheckSide {
    /// Bad requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad: Option<u64>,
    /// All requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// The share of bad ones, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// The value of a `Value` check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
}

/// A check of a soak's analysis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// Its name.
    pub name: String,
    /// `share`, `latency`, `value` or `exec`.
    pub kind: String,
    /// What it says.
    pub verdict: CheckVerdict,
    /// The figures in words.
    pub text: String,
    /// The new generation.
    pub new: CheckSide,
    /// The old one.
    pub old: Option<CheckSide>,
    /// What is allowed: a share, or a value.
    pub limit: Option<f64>,
    /// The least share of bad requests that would have been noticed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noticed_from: Option<f64>,
    /// Looks that said something.
    pub looks: u32,
}

/// A check that was tried on the generation that serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriedCheck {
    /// Its name.
    pub name: String,
    /// Whether it finds what it reads.
    pub ok: bool,
    /// What it found, or why it finds nothing.
    pub text: String,
}

/// What was asked for in one step of a soak, and what was measured where new connections may be counted (CAP_BPF).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Percent of the new connections that the new generation was to get.
    pub weight: u8,
    /// New connections in this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// Those of them that the new generation got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_new: Option<u64>,
    /// The same in percent; nothing where nobody came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}

impl Share {
    /// A step in which nobody could count.
    pub const fn uncounted(weight: u8) -> Share {
        Share { weight, connections: None, to_new: None, share: None }
    }

    /// A step with so many connections.
    pub fn counted(weight: u8, connections: u64, to_new: u64) -> Share {
        let share = (connections > 0).then(|| 100.0 * to_new as f64 / connections as f64);
        Share { weight, connections: Some(connections), to_new: Some(to_new), share }
    }

    /// This step and its continuation as one.
    pub fn and(self, more: Share) -> Share {
        match (self.connections.zip(self.to_new), more.connections.zip(more.to_new)) {
            (Some((a, to_a)), Some((b, to_b))) => Share::counted(self.weight, a + b, to_a + to_b),
            _ => Share::uncounted(self.weight),
        }
    }
}

/// How long a phase took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// The state's name in lower case.
    pub phase: String,
    /// Seconds.
    pub seconds: f64,
}

/// A living generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationStatus {
    /// 1, 2, 3…
    pub number: u32,
    /// `starting`, `soaking`, `serving`, `draining`, `rolling_back`, `stopping`, `instance`, `rescue`.
    pub phase: String,
    /// Main processes.
    pub pids: Vec<i32>,
    /// Percent of new connections that it gets, where sockets are steered.
    pub weight: Option<u8>,
    /// Percent of new connections and flows that it has really got since the weight was set, in a soak on steered TCP or
    /// UDP, where they may be counted (CAP_BPF).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// Seconds since it was launched.
    pub age: f64,
    /// Whether it has said (or shown) that it is ready.
    pub ready: bool,
    /// Its last STATUS=, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_text: Option<String>,
    /// While it drains: established connections that are left, where the kernel tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Datagram flows that are its own and not idle, where UDP is steered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<u32>,
    /// Seconds until it is killed, while it drains or stops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kill_in: Option<f64>,
    /// Hash of the unit's text that it was launched with, 16 hex digits.
    pub content: String,
    /// Whether the program on disk is newer than the one that runs; unknown where nobody may look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_is_newer: Option<bool>,
    /// What the kernel says of it.
    #[serde(default)]
    pub usage: Usage,
}

/// A release that can be gone back to, or the one that serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseStatus {
    /// The generation that ran it last; absent where none has yet.
    pub generation: Option<u32>,
    /// Whether it is the one that serves.
    pub serves: bool,
    /// When its unit was read, Unix time in seconds.
    pub since: f64,
    /// What `Release` led to, else the working directory or the program.
    pub release: Option<String>,
    /// The program of `ExecStart`.
    pub program: Option<String>,
    /// `same`, `replaced`, `removed` or `overwritten`: what its program's name leads to now; `not held`: it runs by its name,
    /// whatever that leads to.
    pub state: String,
    /// Why it cannot be gone back to, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<String>,
    /// Bytes on the disk that only aeternad and its services hold.
    #[serde(default)]
    pub held_bytes: u64,
    /// Whether a rollback has led away from it: it is gone back to by its number only.
    #[serde(default)]
    pub left: bool,
}

/// One socket of a unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SocketStatus {
    /// `FileDescriptorName`.
    pub name: String,
    /// The address with its real port.
    pub address: String,
    /// `stream`, `datagram`, `seqpacket`, `fifo`, `netlink`.
    pub kind: String,
    /// `steered` or `shared`.
    pub sharing: String,
    /// Why it is the one or the other.
    pub why: String,
    /// Connections that wait to be accepted, where the kernel tells.
    pub queue: Option<u32>,
    /// The longest that the queue can get.
    pub limit: Option<u32>,
    /// How often aeternad had to repair it.
    #[serde(default)]
    pub repairs: u32,
    /// Datagram flows that are not idle, where UDP is steered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<u32>,
    /// How many of them are remembered at most: `FlowsMax`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows_max: Option<u32>,
    /// It was made anew, and no process has been given it since: nobody answers there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unserved: bool,
}

/// The last reload, in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastReload {
    /// How it ended.
    pub outcome: Outcome,
    /// Why.
    pub reason: String,
    /// Seconds since it ended.
    pub ago: f64,
    /// Seconds that it took.
    pub duration: f64,
    /// Its phases.
    pub phases: Vec<PhaseTime>,
}

/// One unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitStatus {
    /// Its name.
    pub name: String,
    /// `[Unit] Description`.
    #[serde(default)]
    pub description: String,
    /// The file that it was read from; empty for a unit without a file.
    #[serde(default)]
    pub file: String,
    /// Its state.
    pub state: UnitState,
    /// Whether a reload is under way, whatever state it shows.
    #[serde(default)]
    pub reloading: bool,
    /// Why it is in this state, in one line for a person: why it is not running, what it waits for.
    #[serde(default)]
    pub why: String,
    /// Seconds since it came into this state.
    pub since: f64,
    /// The number of the serving generation, or of the last one; 0 before the first.
    pub generation: u32,
    /// The main processes of the serving generation.
    pub main_pids: Vec<i32>,
    /// Every generation that lives, oldest first.
    pub generations: Vec<GenerationStatus>,
    /// Its sockets, in the order of the descriptors.
    pub sockets: Vec<SocketStatus>,
    /// The last reload.
    pub last_reload: Option<LastReload>,
    /// The last handover of state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handover: Option<HandoverStatus>,
    /// Seconds until the soak ends by itself, while there is one that does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak_ends_in: Option<f64>,
    /// Automatic restarts so far.
    pub restarts: u32,
    /// Seconds until the next automatic restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_in: Option<f64>,
    /// Descriptors in the store.
    #[serde(default)]
    pub stored_descriptors: u32,
    /// Keys that were read anew and wait for a launch or for a restart of aeternad.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<String>,
    /// What it cannot do here, or only at a price, in sentences: a filter that costs no_new_privs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The checks of the soak that is under way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub analysis: Vec<CheckStatus>,
    /// What is kept to be gone back to, and the one that serves, oldest first; where this unit alone was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub releases: Vec<ReleaseStatus>,
    /// Its last lines of output, if it was asked for alone and they come through aeternad.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<LogLine>,
}

/// `/v1/status` and `aeternactl status --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The name of the machine, or of the container; empty where nobody knows.
    #[serde(default)]
    pub host: String,
    /// aeternad's version.
    pub version: String,
    /// Its pid.
    pub pid: i32,
    /// Whether it is stopping.
    #[serde(default)]
    pub stopping: bool,
    /// Its units, by name.
    pub units: Vec<UnitStatus>,
    /// With exactly one unit: the same in the words of the first protocol version.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub single: Option<SingleStatus>,
}

impl Status {
    /// What keeps aeternad from being ready, as `/ready` says it: for people, with commas between; `None` if nothing does.
    pub fn unready(&self) -> Option<String> {
        if self.stopping {
            return Some("aeternad is stopping".into());
        }
        let missing = self.units.iter().filter(|unit| !unit.serves());
        let mut rest: Vec<String> =
            missing.map(|unit| format!("{} is {}", unit.name, unit.state.name())).collect();
        for unit in self.units.iter().filter(|unit| unit.serves() && !unit.generations.is_empty()) {
            let unserved = unit.sockets.iter().filter(|socket| socket.unserved);
            rest.extend(unserved.map(|socket| nobody_has(&unit.name, &socket.address)));
        }
        if rest.is_empty() { None } else { Some(rest.join(", ")) }
    }
}

/// Why a unit that runs does not serve an address.
pub fn nobody_has(unit: &str, address: &str) -> String {
    format!("{unit}: {address} was made anew and no process has it")
}

impl UnitStatus {
    /// Whether it counts as running: [`UnitState::serves`].
    pub const fn serves(&self) -> bool {
        self.state.serves(self.reloading)
    }
}

/// What stands at the top of [`Status`] when there is exactly one unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SingleStatus {
    /// The unit's state.
    pub fsm_state: UnitState,
    /// The first main process of the serving generation.
    pub current_pid: Option<i32>,
    /// The first main process of the generation that served before and still lives.
    pub old_pid: Option<i32>,
    /// Seconds since the serving generation was launched.
    pub uptime: f64,
    /// The last handover of state.
    pub last_handover: Option<HandoverStatus>,
}

/// The last handover of state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandoverStatus {
    /// `success`, `failed`, `cold`.
    pub status: String,
    /// Unix time in seconds.
    pub timestamp: f64,
    /// State bytes.
    pub size_bytes: u64,
    /// State frames.
    #[serde(default)]
    pub frames: u64,
    /// Descriptors that came with them.
    #[serde(default)]
    pub descriptors: u64,
    /// Seconds from REQUEST to the end.
    #[serde(default)]
    pub duration: f64,
}

/// One line of `aeternactl events --json`, of `/v1/events`, and of a command's progress.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventLine {
    /// Unix time in seconds.
    pub time: f64,
    /// The unit; empty for the daemon's own.
    pub unit: String,
    /// `state`, `started`, `ready`, `ended`, `restarting`, `step`, `weight`, `health`, `status`, `reloaded`, `warning`.
    pub kind: String,
    /// The line for people, without time and unit.
    pub text: String,
    /// The generation that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// The state after a change of state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<UnitState>,
    /// Seconds that the state before lasted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasted: Option<f64>,
    /// The pid that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// A reload's outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// A line of a service's output that came through aeternad (`StandardOutput = "log"`): `aeternactl logs --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was read, Unix time in seconds.
    pub time: f64,
    /// The generation that wrote it; `None` for a hook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// The process that was started and that has the stream.
    pub pid: i32,
    /// Whether it came on standard error.
    pub error: bool,
    /// The priority that it gave itself, 0 (emergency) to 7 (debug): `<3>text`, as for the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// What was written, made harmless.
    pub text: String,
}

/// What a reload would change in one unit: `aeternactl reload --dry-run --json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitChanges {
    /// Which unit.
    pub unit: String,
    /// Every address of either version.
    pub sockets: Vec<SocketChangeLine>,
    /// Every key whose value is another one.
    pub keys: Vec<KeyChangeLine>,
    /// What the names mean that they did not, a sentence each: program, release, folder, environment (names, no values).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub release: Vec<String>,
    /// What the checks of its analysis read of the generation that serves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<TriedCheck>,
}

impl UnitChanges {
    /// Whether everything stays as it is.
    pub fn is_nothing(&self) -> bool {
        let kept = self.sockets.iter().all(|socket| socket.change == "kept");
        kept && self.release.is_empty() && self.keys.is_empty()
    }
}

/// What becomes of an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketChangeLine {
    /// The descriptor's name.
    pub name: String,
    /// The address.
    pub address: String,
    /// `kept`, `added` or `dropped`.
    pub change: String,
    /// What it waits for: `reload` or `launch`.
    pub needs: String,
}

/// A key whose value is another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChangeLine {
    /// The table's heading, such as `[Service]`.
    pub table: String,
    /// The key.
    pub key: String,
    /// The old value as TOML, if there was one.
    pub old: Option<String>,
    /// The new value as TOML, if there is one.
    pub new: Option<String>,
    /// What it waits for: `reload`, `launch` (the next one), or `restart` (aeternad's own).
    pub needs: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_serves_in_every_state_of_a_reload_and_not_before_its_first() {
        for state in UnitState::ALL {
            let never = [UnitState::Pending, UnitState::Backoff, UnitState::Stopped, UnitState::Failed];
            assert_eq!(state.serves(true), !never.contains(&state), "{state:?}");
        }
        for state in [UnitState::Starting, UnitState::Handshaking, UnitState::Stopping] {
            assert!(!state.serves(false));
        }
        assert!(UnitState::Draining.serves(false));
    }

    #[test]
    fn systemctls_words_for_what_runs_are_those_of_what_serves() {
        for state in UnitState::ALL {
            for reloading in [false, true] {
                let runs = ["active", "reloading"].contains(&state.active(reloading));
                assert_eq!(runs, state.serves(reloading), "{state:?} {reloading}");
            }
        }
        assert_eq!(UnitState::Failed.active(false), "failed");
        assert_eq!(UnitState::Starting.active(false), "activating");
        assert_eq!(UnitState::Stopping.active(false), "deactivating");
    }
}
