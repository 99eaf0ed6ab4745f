//! `aeternactl upgrade` and SIGUSR2: another program takes the place of this one, in this process, with everything that it
//! holds. Until the new one has made the state its own, whatever goes wrong leads back here.
//!
//! | step | if it fails |
//! | --- | --- |
//! | the program is opened (`O_PATH`), and ours for the way back | said; we go on |
//! | it is run as a child with the state of this moment, and says whether it understands it | said; we go on |
//! | state on its way between generations is waited for; no relay is begun | refused after a while; we go on |
//! | the state is stored once more, and asked about once more | said; we go on |
//! | execveat(2) of the same descriptor | it returns: said; we go on |
//! | the new one restores everything, without any effect ([`takeover`]) | it executes us again, and we go on |
//! | it watches, answers, and closes what the state came in | it is the daemon |

pub mod check;
pub mod takeover;

use crate::daemon::control::ClientId;
use crate::daemon::core::Daemon;
use crate::daemon::intercept;
use crate::daemon::launch::describe;
use crate::daemon::saved::{self, Head, StoredPath};
use crate::daemon::token::Owner;
use crate::machine::upgrade::{UpgradeAction, UpgradeAnswer, UpgradeEvent, UpgradeMachine};
use crate::proto::control::{Reply, UpgradeOutcome, UpgradeReply};
use crate::sys::fd::CloseOnExec;
use crate::sys::{aside, capability, clock, fd, later, replace, user};
use crate::time::{Monotime, Span};
use check::{Check, Verdict};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// How long state may be on its way, where nobody says.
pub const PATIENCE: Span = Span::from_secs(10);

/// How long the second question may take: nothing else is done meanwhile.
const LAST_CHECK: Span = Span::from_secs(5);

/// How long a close that has just begun may take.
const A_MOMENT: Span = Span::from_millis(10);

/// How long one that has begun since may take, before nothing can be taken back.
const AT_LAST: Span = Span::from_secs(1);

/// Our own version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the first argument of a program that takes over begins with.
pub const TAKE_OVER: &str = "--take-over=";
/// What the second one begins with, where it was given the state back: why follows.
pub const BACK: &str = "--back=";

/// An upgrade that is made: what the program after it needs to know to say so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    /// Who asked; nobody for a signal.
    pub client: Option<ClientId>,
    /// The version before.
    pub from: String,
    /// What the new program said that it is.
    pub to: String,
    /// When nothing else was done any more.
    pub began: Monotime,
    /// Where the new program is: the next upgrade takes what is there then.
    pub program: StoredPath,
}

/// The upgrades of this daemon.
#[derive(Debug, Default)]
pub struct Upgrades {
    machine: UpgradeMachine,
    count: u32,
    check: Option<Check>,
    program: Option<OwnedFd>,
    shown: String,
    path: PathBuf,
    /// What the new program says that it is.
    to: String,
    client: Option<ClientId>,
}

impl Upgrades {
    /// Those of a stored state.
    pub fn restored(count: u32) -> Upgrades {
        Upgrades { count, ..Upgrades::default() }
    }

    /// How many were made.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Another one was made.
    pub fn one_more(&mut self) {
        self.count = self.count.saturating_add(1);
    }

    /// Whether no relay may be begun.
    pub fn is_quiet(&self) -> bool {
        self.machine.is_quiet()
    }

    /// When something of it is due.
    pub fn deadline(&self) -> Option<Monotime> {
        self.machine.next_deadline()
    }
}

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Another program than the one that we were started from.
    pub program: Option<PathBuf>,
    /// Only to know whether it could be done.
    pub only_check: bool,
    /// How long state may be on its way.
    pub patience: Span,
}

/// The arguments that we were started with, without those of an upgrade.
pub fn own_arguments() -> (OsString, Vec<OsString>) {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_else(|| "aeternad".into());
    let is_ours = |word: &OsString| {
        let bytes = word.as_encoded_bytes();
        bytes.starts_with(TAKE_OVER.as_bytes()) || bytes.starts_with(BACK.as_bytes())
    };
    // Only in front: behind `--` stands what is the service's.
    (name, words.skip_while(is_ours).collect())
}

impl Daemon {
    /// Somebody wants aeternad's program replaced.
    pub fn ask_upgrade(&mut self, client: Option<ClientId>, wish: &Wish) {
        if !self.upgrades.machine.is_busy() && !self.stopping {
            self.upgrades.client = client;
            match self.open_program(wish.program.as_deref()) {
                Ok((program, path)) => {
                    self.upgrades.program = Some(program);
                    self.upgrades.shown = path.display().to_string();
                    self.upgrades.path = path;
                }
                Err(why) => return self.answer_upgrade(client, UpgradeOutcome::Failed, why),
            }
        } else {
            let why = if self.stopping { "aeternad is stopping" } else { "an upgrade is under way already" };
            return self.answer_upgrade(client, UpgradeOutcome::Refused, why.into());
        }
        self.upgrade_event(UpgradeEvent::Asked {
            only_check: wish.only_check,
            patience: wish.patience,
            stopping: self.stopping,
        });
    }

    /// The program that is to take over, and where it is.
    fn open_program(&self, wanted: Option<&Path>) -> Result<(OwnedFd, PathBuf), String> {
        let path = wanted.or(self.shared.program.as_deref());
        let path = path.ok_or("where its program is was not known at the start; name one with --program")?;
        let shown = path.display().to_string();
        let cannot = |error: &std::io::Error| format!("{shown}: {}", describe(error));
        let program = replace::program(path).map_err(|error| cannot(&error))?;
        if replace::is_writable_by_others(path, user::effective_uid()).map_err(|error| cannot(&error))? {
            return Err(format!("{shown}: it, or its folder, can be changed by other users"));
        }
        Ok((program, path.to_owned()))
    }

    fn upgrade_event(&mut self, event: UpgradeEvent) {
        log::debug!("upgrade: event {event:?}");
        let mut actions = Vec::new();
        self.upgrades.machine.handle(clock::now(), event, &mut actions);
        for action in actions {
            log::debug!("upgrade: action {action:?}");
            self.perform_upgrade(action);
        }
    }

    fn perform_upgrade(&mut self, action: UpgradeAction) {
        match action {
            UpgradeAction::Check => {
                if let Err(why) = self.begin_check() {
                    self.upgrade_event(UpgradeEvent::Checked(Err(why)));
                }
            }
            UpgradeAction::EndCheck => self.end_check(),
            UpgradeAction::Quiet => self.web.pause(),
            UpgradeAction::Resume => self.resume_upgrade(),
            UpgradeAction::Go => {
                let why = self.go();
                self.upgrade_event(UpgradeEvent::Failed(why));
            }
            UpgradeAction::Answer(answer) => {
                let client = self.upgrades.client.take();
                self.upgrades.program = None;
                match answer {
                    UpgradeAnswer::Possible(what) => {
                        self.answer_upgrade(client, UpgradeOutcome::Possible, what);
                    }
                    UpgradeAnswer::Refused(why) => self.answer_upgrade(client, UpgradeOutcome::Refused, why),
                    UpgradeAnswer::Failed(why) => self.answer_upgrade(client, UpgradeOutcome::Failed, why),
                }
            }
        }
    }

    fn answer_upgrade(&mut self, client: Option<ClientId>, outcome: UpgradeOutcome, reason: String) {
        match outcome {
            UpgradeOutcome::Possible => log::info!("upgrade: {reason}"),
            _ => log::warn!("upgrade: aeternad {VERSION} goes on: {reason}"),
        }
        let Some(client) = client else { return };
        let reply = UpgradeReply {
            outcome,
            from: VERSION.into(),
            to: Some(self.upgrades.to.clone()).filter(|to| !to.is_empty()),
            pause: None,
            reason,
        };
        self.result(client, Reply::Upgrade(reply));
    }

    /// Asks the new program, while everything goes on.
    fn begin_check(&mut self) -> Result<(), String> {
        self.upgrades.to.clear();
        let state = self.store(None)?;
        let program = self.upgrades.program.as_ref().ok_or("there is no program")?;
        let check = Check::begin(program.as_fd(), state.memory.as_fd(), &self.upgrades.shown)?;
        let token = Owner::UpgradeCheck.token();
        self.poller
            .add(token, check.answer_fd(), crate::sys::poll::Interest::READ)
            .map_err(|error| format!("cannot watch the new program: {error}"))?;
        self.upgrades.check = Some(check);
        Ok(())
    }

    fn end_check(&mut self) {
        if let Some(check) = self.upgrades.check.take() {
            let _ = self.poller.remove(check.answer_fd());
            check.end();
        }
    }

    /// The new program has said something, or has hung up.
    pub fn check_ready(&mut self) {
        let Some(check) = &mut self.upgrades.check else { return };
        if check.read() {
            let _ = self.poller.remove(check.answer_fd());
        }
        self.look_at_check();
    }

    /// Whether a process that was reaped is the one that was asked.
    pub fn check_reaped(&mut self, pid: i32, status: crate::sys::wait::WaitStatus) -> bool {
        let is_it = self.upgrades.check.as_mut().is_some_and(|check| check.reaped(pid, status));
        if is_it {
            self.look_at_check();
        }
        is_it
    }

    fn look_at_check(&mut self) {
        let Some(verdict) = self.upgrades.check.as_ref().and_then(Check::verdict) else { return };
        self.upgrades.check = None;
        self.checked(verdict);
    }

    fn checked(&mut self, verdict: Result<Verdict, String>) {
        let result = verdict.map(|verdict| {
            let units = self.units_here().count();
            let word = if units == 1 { "unit" } else { "units" };
            self.upgrades.to.clone_from(&verdict.version);
            format!("{}: aeternad {} can take over {units} {word}", self.upgrades.shown, verdict.version)
        });
        self.upgrade_event(UpgradeEvent::Checked(result));
    }

    /// The end of a turn.
    pub fn upgrade_turn(&mut self) {
        if !self.upgrades.machine.is_busy() {
            return;
        }
        if self.stopping {
            return self.upgrade_event(UpgradeEvent::Stopping);
        }
        let busy = self.unstorable();
        self.upgrade_event(UpgradeEvent::Turn(busy));
    }

    /// What cannot be handed over just now.
    fn unstorable(&self) -> Option<String> {
        let relays = self.units.iter().find(|unit| unit.endpoint.is_transferring());
        if let Some(unit) = relays {
            return Some(format!(
                "{}: state is on its way from one generation to another; try again",
                unit.name
            ));
        }
        if !self.slows.is_empty() {
            return Some("a process is still on its way to its program; try again".to_owned());
        }
        if let Some(unit) = self.units.iter().find(|unit| unit.filters.has_pending()) {
            return Some(format!("{}: what it binds is being read; try again, or stop it", unit.name));
        }
        if self.web.unfinished() {
            return Some("an HTTP request is being answered; try again".to_owned());
        }
        may_hang(A_MOMENT)
    }

    /// What was put off is begun now.
    fn resume_upgrade(&mut self) {
        self.web.resume();
        for index in 0..self.units.len() {
            self.begin_put_off(index);
        }
        self.settle();
    }

    /// The state of this moment.
    fn store(&self, under_way: Option<Done>) -> Result<Stored, String> {
        let (state, out) = saved::save(self, under_way)?;
        let own = replace::program(Path::new("/proc/self/exe"))
            .map_err(|error| format!("there is no way back: /proc/self/exe: {}", describe(&error)))?;
        let head = Head {
            program: "aeternad".into(),
            version: VERSION.into(),
            format: saved::FORMAT,
            pid: self.shared.pid,
            old_program: own.as_raw_fd(),
            capabilities: capability::effective(),
            fds: out.numbers().clone(),
        };
        let bytes = saved::write(&head, &state)?;
        let memory = replace::sealed(&bytes)
            .map_err(|error| format!("no memory for the state: {}", describe(&error)))?;
        Ok(Stored { memory, own, numbers: head.fds.values().copied().collect() })
    }

    /// Executes the new program; comes back with what was in the way.
    fn go(&mut self) -> String {
        let began = clock::now();
        self.take_reports();
        self.reap();
        self.settle();
        let to = self.upgrades.to.clone();
        let done = Done {
            client: self.upgrades.client,
            from: VERSION.into(),
            to,
            began,
            program: StoredPath(self.upgrades.path.clone()),
        };
        let stored = match self.store(Some(done)) {
            Ok(stored) => stored,
            Err(why) => return why,
        };
        let Some(program) = self.upgrades.program.as_ref() else { return "there is no program".into() };
        if let Err(why) = check::ask(program.as_fd(), stored.memory.as_fd(), &self.upgrades.shown, LAST_CHECK)
        {
            return why;
        }
        // What has come since the last turn. It ends at once, or never.
        if let Some(why) = may_hang(AT_LAST) {
            return why;
        }
        log::info!("upgrade: {} takes over", self.upgrades.shown);
        let (name, rest) = own_arguments();
        let first = OsString::from(format!("{TAKE_OVER}{}", stored.memory.as_raw_fd()));
        let words = [name, first].into_iter().chain(rest).collect();
        let passed = stored.pass(CloseOnExec::No).map(|()| replace::execute(program.as_fd(), words));
        // What stays inheritable would go to the next service.
        if let Err(error) = stored.pass(CloseOnExec::Yes) {
            log::error!("upgrade: cannot keep descriptors from services: {error}");
        }
        let error = passed.unwrap_or_else(|error| error);
        format!("cannot execute {}: {}", self.upgrades.shown, describe(&error))
    }
}

/// Whether a thread may wait for a file system that does not answer. The kernel cannot end it as long as that is so, and
/// execve(2) would wait for it, with all of us.
fn may_hang(patience: Span) -> Option<String> {
    let at_work = !intercept::is_quiet() || !later::is_quiet();
    let is_quiet = !at_work && aside::is_quiet_within(patience);
    let text = "something that a service has shown or given us is being looked at or closed: if trying again does not help, \
                its file system (FUSE, NFS) does not answer";
    (!is_quiet).then(|| text.to_owned())
}

/// A stored state, and what goes with it.
struct Stored {
    memory: OwnedFd,
    own: OwnedFd,
    numbers: Vec<i32>,
}

impl Stored {
    fn pass(&self, closes: CloseOnExec) -> std::io::Result<()> {
        let more = [self.memory.as_raw_fd(), self.own.as_raw_fd()];
        if closes == CloseOnExec::Yes {
            return fd::close_on_exec_from(3);
        }
        replace::pass_on(self.numbers.iter().copied().chain(more), closes)
    }
}
