//! Starting a program: everything is prepared before the clone, the child only makes system calls on that memory.
//!
//! The child shares our memory, and we wait until it has executed or failed: the time that takes does not grow with our own
//! size, and a failure comes back exact, as a [`Stage`] and an errno. We do not wait as vfork(2) does: as soon as the child
//! has become the service's user that user may stop it, and folder and program may be on a file system that does not answer.
//! Who is late is ended, and starts again with memory of its own ([`Starting`]): that tells by a pipe, and nobody waits for
//! it. Where clone3 is forbidden (Docker's default), clone(2) does the same. std's `Command` hands its signal mask and ignored signals to the
//! child and cannot say LISTEN_PID; glibc's setuid(2) would speak to our own threads: hence raw system calls.
//!
//! Main thread only: a death signal and an upgrade by execve(2) count on one thread that starts every process.

mod badness;
mod child;
mod clone;
mod errand;
mod find;
mod gate;
mod job;
mod reasons;

use super::aside::Foreign;
use super::message;
use super::oom_score::{self, Lent};
use super::pin::Stamp;
use super::seccomp::Listener;
use crate::time::Span;
use clone::Way;
pub use errand::kill_as;
pub use find::{far_program, find_program, pin_program};
use gate::Gate;
pub use gate::Register;
use job::Job;
pub use reasons::why_not_executed;
use std::ffi::{CString, OsString};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

/// Everything about a process to start.
///
/// The child is always a session leader, with an empty signal mask, default signal dispositions, and no descriptor but
/// `stdio` and `fds`.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    /// The file to execute, absolute: nothing is searched. See [`find_program`].
    pub program: CString,
    /// Which file `program` has to be; `None`: whichever it is.
    pub pinned: Option<Pinned<'a>>,
    /// What a file has to have in it.
    pub checked: Option<Checked<'a>>,
    /// The arguments, the program's own name first.
    pub argv: Vec<CString>,
    /// The whole environment, each `NAME=VALUE`.
    pub env: Vec<CString>,
    /// Adds `LISTEN_PID=` with the child's own pid (it replaces one that is in `env`).
    pub stamp_listen_pid: bool,
    /// The same with `WATCHDOG_PID=`.
    pub stamp_watchdog_pid: bool,
    /// What becomes 0, 1 and 2. One descriptor may be given several times.
    pub stdio: [BorrowedFd<'a>; 3],
    /// What becomes 3, 4, 5…
    pub fds: Vec<BorrowedFd<'a>>,
    /// Who to become; `None`: who we are.
    pub credentials: Option<Credentials>,
    /// Limits: (the kernel's number, soft, hard), `u64::MAX` is infinity. See [`super::limits::rlimit_number`]. Above our own
    /// hard limit the child gets that, unless we may have more: [`Process::lowered`]. The child has ours where none is
    /// given, so give LimitNOFILE back after [`super::fd::raise_nofile`].
    pub limits: Vec<(i32, u64, u64)>,
    /// The umask.
    pub umask: u32,
    /// The working directory, entered with the rights of the new user; `None`: ours.
    pub directory: Option<CString>,
    /// Which folder (device, inode) `directory` has to be; `None`: whichever it is.
    pub directory_is: Option<(u64, u64)>,
    /// Whether the directory may be missing or closed to the user: then the child stays in ours.
    pub directory_optional: bool,
    /// The nice value, -20 to 19.
    pub nice: Option<i32>,
    /// The badness for the out-of-memory killer, -1000 to 1000.
    pub oom_score_adjust: Option<i32>,
    /// Whether the out-of-memory killer takes it before all others, until [`super::oom_score::put_back`].
    pub oom_goes_first: bool,
    /// Processor numbers; empty: ours.
    pub cpu_affinity: Vec<u32>,
    /// Sets no_new_privs.
    pub no_new_privileges: bool,
    /// Whether SIGPIPE is ignored instead of default.
    pub ignore_sigpipe: bool,
    /// The directory of the cgroup to start in; `None`: ours.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Whether descriptor 0 becomes the controlling terminal of the child's session, if it is nobody's.
    pub terminal: bool,
    /// Whether the child joins the cgroup by itself: see [`super::cgroup::Cgroup::was_killed`].
    pub joins_cgroup: bool,
    /// Whether its calls of bind(2), listen(2) and unlink(2) come to us: [`super::seccomp`].
    pub traps: Traps,
    /// Who writes down that the child is there, before it does anything.
    pub register: Option<Register<'a>>,
}

/// The file that a program has to be. It is executed by its name where that still leads to it: then nothing tells the program
/// that it was held. Else by where the name once led, else by its descriptor.
#[derive(Debug, Clone)]
pub struct Pinned<'a> {
    /// The file, opened for nothing (O_PATH).
    pub fd: BorrowedFd<'a>,
    /// Its device and inode.
    pub is: (u64, u64),
    /// Another name for it.
    pub other: Option<CString>,
    /// Whether it may be executed by its descriptor.
    pub by: ByDescriptor,
}

/// When a program is executed by its descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByDescriptor {
    /// A script: its interpreter opens a name.
    Never,
    /// Where no name leads to it any more.
    WhenReplaced,
    /// Nothing may come between a check of the file and its execution. By a name all the same where the kernel or its
    /// interpreter cannot do it.
    Always,
}

/// What a file has to have in it before anything is executed.
///
/// The child reads it, before it becomes the service's user: nobody waits for that, and who ends the child ends it.
#[derive(Debug, Clone)]
pub struct Checked<'a> {
    /// The file, open for reading; `None`: it is known to have it.
    pub file: Option<BorrowedFd<'a>>,
    /// Its SHA-256 sum.
    pub sum: [u8; 32],
    /// What it was like before anybody read it: it has to be like that at its execution.
    pub stamp: Stamp,
    /// Its name, for people.
    pub name: CString,
}

impl Plan<'_> {
    /// What words about a failure need of it, when the descriptors have gone.
    pub fn outline(&self) -> Plan<'static> {
        // SAFETY: 0, 1 and 2 are always open: see `fd::secure_std_fds`. Nothing is started from an outline anyway.
        let stdio = [0, 1, 2].map(|number| unsafe { BorrowedFd::borrow_raw(number) });
        Plan {
            directory: self.directory.clone(),
            credentials: self.credentials.clone(),
            checked: self.checked.as_ref().map(|checked| Checked {
                file: None,
                sum: checked.sum,
                stamp: checked.stamp,
                name: checked.name.clone(),
            }),
            ..Plan::new(self.program.clone(), stdio)
        }
    }
}

/// Whether a process gets a filter that sends some of its calls to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traps {
    /// No.
    None,
    /// Yes; a process that may not have it without no_new_privs gets that too. It is started even if the
    /// filter cannot be installed.
    Sockets,
}

impl<'a> Plan<'a> {
    /// A plan with nothing special: no arguments but the program's name, an empty environment, umask 022.
    pub fn new(program: CString, stdio: [BorrowedFd<'a>; 3]) -> Plan<'a> {
        Plan {
            argv: vec![program.clone()],
            program,
            pinned: None,
            checked: None,
            env: Vec::new(),
            stamp_listen_pid: false,
            stamp_watchdog_pid: false,
            stdio,
            fds: Vec::new(),
            credentials: None,
            limits: Vec::new(),
            umask: 0o022,
            directory: None,
            directory_is: None,
            directory_optional: false,
            nice: None,
            oom_score_adjust: None,
            oom_goes_first: false,
            cpu_affinity: Vec::new(),
            no_new_privileges: false,
            ignore_sigpipe: false,
            cgroup: None,
            terminal: false,
            traps: Traps::None,
            joins_cgroup: false,
            register: None,
        }
    }
}

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Real, effective and saved user id.
    pub uid: u32,
    /// Real, effective and saved group id.
    pub gid: u32,
    /// The supplementary groups, all of them: ours are dropped.
    pub groups: Vec<u32>,
}

/// A process that has been started.
#[derive(Debug)]
pub struct Process {
    /// Its pid; it is also its process group and session.
    pub pid: i32,
    /// Its pidfd(2); `None` on a kernel before 5.2.
    pub pidfd: Option<OwnedFd>,
    /// What came of [`Plan::traps`], if it was asked for: where the calls come from, or an errno. `EBUSY`: it is
    /// under the filter of another supervisor already.
    pub listener: Option<Result<Listener, i32>>,
    /// The limits of the plan that are lower than it says, because our own hard limit is and we may not raise it: bit N
    /// for the kernel's number N.
    pub lowered: u32,
}

/// The steps of a start, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Stage {
    /// Making the process.
    Clone = 1,
    /// Default signal dispositions.
    Signals,
    /// A session of its own.
    Session,
    /// Joining the cgroup.
    Cgroup,
    /// The badness for the out-of-memory killer.
    OomScore,
    /// The nice value.
    Nice,
    /// The processors.
    Affinity,
    /// The descriptors.
    Descriptors,
    /// The resource limits.
    Limits,
    /// The supplementary groups.
    Groups,
    /// The group.
    Group,
    /// The user.
    User,
    /// The working directory.
    Directory,
    /// no_new_privs.
    NoNewPrivileges,
    /// The program.
    Exec,
    /// The program, by its descriptor.
    ExecPinned,
    /// The sum of a file.
    Checksum,
}

impl Stage {
    /// The step with this number.
    fn of(number: u32) -> Option<Stage> {
        const ALL: [Stage; 17] = [
            Stage::Clone,
            Stage::Signals,
            Stage::Session,
            Stage::Cgroup,
            Stage::OomScore,
            Stage::Nice,
            Stage::Affinity,
            Stage::Descriptors,
            Stage::Limits,
            Stage::Groups,
            Stage::Group,
            Stage::User,
            Stage::Directory,
            Stage::NoNewPrivileges,
            Stage::Exec,
            Stage::ExecPinned,
            Stage::Checksum,
        ];
        ALL.into_iter().find(|stage| *stage as u32 == number)
    }

    /// What could not be done, for people: it follows "cannot ".
    pub fn words(self) -> &'static str {
        match self {
            Stage::Clone => "make a process",
            Stage::Signals => "set signal dispositions",
            Stage::Session => "make a session",
            Stage::Cgroup => "join the cgroup",
            Stage::OomScore => "set OOMScoreAdjust",
            Stage::Nice => "set the nice value",
            Stage::Affinity => "set the CPU affinity",
            Stage::Descriptors => "place the descriptors",
            Stage::Limits => "set the resource limits",
            Stage::Groups => "set the supplementary groups",
            Stage::Group => "change the group",
            Stage::User => "change the user",
            Stage::Directory => "change the working directory",
            Stage::NoNewPrivileges => "set no_new_privs",
            Stage::Exec => "execute the program",
            Stage::ExecPinned => "execute the held program",
            Stage::Checksum => "check the program",
        }
    }
}

/// Why a process was not started. Nothing is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpawnError {
    /// The step that failed.
    pub stage: Stage,
    /// The error number.
    pub errno: i32,
}

impl fmt::Display for SpawnError {
    /// "cannot VERB OBJECT: reason".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.stage.words(), nix::Error::from_raw(self.errno).desc())
    }
}

impl std::error::Error for SpawnError {}

impl SpawnError {
    /// The same for people who know the plan: "cannot VERB OBJECT: reason", and what to do.
    pub fn explain(&self, plan: &Plan<'_>) -> String {
        let reason = nix::Error::from_raw(self.errno).desc();
        let program = plan.program.to_string_lossy();
        let advice = self.advice(plan).unwrap_or_else(|| reason.to_owned());
        match (self.stage, &plan.directory) {
            (Stage::Exec | Stage::ExecPinned, _) => format!("cannot execute {program}: {advice}"),
            (Stage::Checksum, _) => format!("cannot execute {}: {advice}", checked_name(plan)),
            (Stage::Directory, Some(directory)) => {
                format!("cannot change to the directory {}: {reason}", directory.to_string_lossy())
            }
            _ => format!("cannot {} of {program}: {advice}", self.stage.words()),
        }
    }
}

/// The name of the file that has to have a sum.
pub fn checked_name<'a>(plan: &'a Plan<'_>) -> std::borrow::Cow<'a, str> {
    plan.checked.as_ref().map_or(&plan.program, |checked| &checked.name).to_string_lossy()
}

/// A process that has not got to its program in time: it goes on by itself, and tells by a pipe.
#[derive(Debug)]
pub struct Starting {
    process: Process,
    report: OwnedFd,
    channel: Option<OwnedFd>,
    /// What it has said so far.
    said: Vec<u8>,
}

/// How far a start has come when it is no longer waited for.
#[derive(Debug)]
pub enum Started {
    /// Its program runs.
    Running(Process),
    /// It still prepares itself: it is held up in its folder, its program's file system, or by who may stop it.
    Slow(Starting),
}

/// How long a child that has failed is waited for.
const BURIAL: Span = Span::from_millis(50);

/// What a child with memory of its own says: stage and errno of its failure (0: none, it is about to execute), the limits
/// that were lowered, and why there is no filter (0: there is).
type Report = [u32; 4];

/// Our own environment, for a child that is to have the same.
pub fn own_environment() -> Vec<CString> {
    let entry = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        CString::new(name.into_vec()).ok()
    };
    std::env::vars_os().filter_map(entry).collect()
}

/// Starts a process; returns when its program runs, or has failed to. A child that failed is reaped already; one SIGCHLD
/// of it may still arrive.
///
/// Blocks while the child prepares itself, however long that takes: for tests, and where nobody can hold it up.
///
/// # Errors
/// The exact step and errno. `Stage::Exec`: `ENOENT` not found, or its interpreter is not; `EACCES`; `ENOEXEC` no program.
pub fn spawn(plan: &Plan<'_>) -> Result<Process, SpawnError> {
    spawn_by(plan, &clone::WAYS)
}

/// Starts a process and waits at most about `patience` until its program runs. Without patience it is not waited for at all.
/// SIGCHLDs of children that failed or were late may still arrive.
///
/// # Errors
/// As [`spawn`].
pub fn start(plan: &Plan<'_>, patience: Span) -> Result<Started, SpawnError> {
    start_by(plan, &clone::WAYS, patience)
}

/// The descriptor that the child has sent before its execve(2): it is there already, or never comes.
fn receive(channel: OwnedFd, refused: Option<i32>) -> Result<Listener, i32> {
    if let Some(errno) = refused {
        return Err(errno);
    }
    let received = message::recv(channel.as_fd(), &mut [0; 1], 1);
    let received = received.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
    received.fds.into_iter().next().and_then(Foreign::into_owned).map(Listener::new).ok_or(libc::EMFILE)
}

/// [`spawn`] by the given ways.
fn spawn_by(plan: &Plan<'_>, ways: &[Way]) -> Result<Process, SpawnError> {
    let mut started = start_by(plan, ways, Span::from_secs(1))?;
    loop {
        match started {
            Started::Running(process) => return Ok(process),
            Started::Slow(starting) => {
                super::fd::readable(starting.as_fd(), Span::INFINITY);
                started = starting.settle()?;
            }
        }
    }
}

/// [`start`] by the given ways.
fn start_by(plan: &Plan<'_>, ways: &[Way], patience: Span) -> Result<Started, SpawnError> {
    // What is read through takes its time.
    let is_short = plan.checked.as_ref().is_none_or(|checked| checked.file.is_none());
    // Whoever shares our memory shares the badness too, as long as we are not suspended: see __set_oom_adj of the kernel. So
    // he inherits it. To go first is no matter before there is a program: that waits for it.
    let lent = if is_short && !patience.is_zero() { Lent::of(plan.oom_score_adjust) } else { None };
    if let Some(_lent) = lent.filter(|_| clone::may_share()) {
        let mut job = Job::new(plan);
        let channel = channel(plan)?;
        job.channel = channel.as_ref().map(|(_, theirs)| theirs.as_raw_fd());
        let gate = Gate::of(plan)?;
        job.gate = gate.as_ref().map(Gate::numbers);
        match clone::share(job, ways, patience).map_err(not_cloned)? {
            clone::Shared::Left(process, job) => {
                let channel = channel.map(|(ours, _)| ours);
                let end = finish(process, channel, job.failure, job.refused, job.lowered)?;
                if plan.oom_goes_first {
                    // One that is gone already needs it no more, and one that belongs to root could not be put back.
                    let _ = oom_score::go_first(end.pid);
                }
                return Ok(Started::Running(end));
            }
            clone::Shared::Late => return start_copy(plan, ways).map(Started::Slow),
        }
    }
    let starting = start_copy(plan, ways)?;
    if patience.is_zero() || !super::fd::readable(starting.as_fd(), patience) {
        return Ok(Started::Slow(starting));
    }
    // It has said that it executes: that ends at once, or takes its time.
    match starting.settle()? {
        Started::Slow(starting) => {
            super::fd::readable(starting.as_fd(), patience);
            starting.settle()
        }
        running @ Started::Running(_) => Ok(running),
    }
}

fn not_cloned(errno: i32) -> SpawnError {
    SpawnError { stage: Stage::Clone, errno }
}

fn no_descriptors(error: &std::io::Error) -> SpawnError {
    SpawnError { stage: Stage::Descriptors, errno: error.raw_os_error().unwrap_or(libc::EMFILE) }
}

/// The socket pair for the filter's descriptor, if there is to be one: ours and the child's.
fn channel(plan: &Plan<'_>) -> Result<Option<(OwnedFd, OwnedFd)>, SpawnError> {
    match plan.traps {
        Traps::None => Ok(None),
        Traps::Sockets => message::pair().map(Some).map_err(|error| no_descriptors(&error)),
    }
}

/// Starts a process with memory of its own.
fn start_copy(plan: &Plan<'_>, ways: &[Way]) -> Result<Starting, SpawnError> {
    let mut job = Job::new(plan);
    let channel = channel(plan)?;
    job.channel = channel.as_ref().map(|(_, theirs)| theirs.as_raw_fd());
    let (report, theirs) = super::fd::pipe().map_err(|error| no_descriptors(&error))?;
    super::fd::set_blocking(report.as_fd(), super::fd::Blocking::No)
        .map_err(|error| no_descriptors(&error))?;
    job.report = Some(theirs.as_raw_fd());
    let gate = Gate::of(plan)?;
    job.gate = gate.as_ref().map(Gate::numbers);
    let process = clone::copy(&mut job, ways).map_err(not_cloned)?;
    Ok(Starting { process, report, channel: channel.map(|(ours, _)| ours), said: Vec::new() })
}

/// What has come of a child that has executed or ended.
fn finish(
    mut process: Process,
    channel: Option<OwnedFd>,
    failure: Option<SpawnError>,
    refused: Option<i32>,
    lowered: u32,
) -> Result<Process, SpawnError> {
    process.listener = channel.map(|channel| receive(channel, refused));
    process.lowered = lowered;
    match failure {
        None => Ok(process),
        Some(failure) => {
            clone::bury(&process, BURIAL);
            Err(failure)
        }
    }
}

impl AsFd for Starting {
    /// Readable when there may be news: see [`Starting::settle`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }
}

impl Starting {
    /// Its pid: it is there, and can be sent signals.
    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    /// Its pidfd, another one than we keep; `None` on a kernel before 5.2.
    pub fn pidfd(&self) -> Option<OwnedFd> {
        self.process.pidfd.as_ref().and_then(|pidfd| super::fd::dup(pidfd.as_fd()).ok())
    }

    /// What has become of it. Never waits. One that was ended before it could execute counts as running: its end is told
    /// like that of any process.
    ///
    /// # Errors
    /// As [`spawn`]; it is reaped.
    pub fn settle(mut self) -> Result<Started, SpawnError> {
        let mut buffer = [0; 2 * size_of::<Report>()];
        loop {
            match nix::unistd::read(&self.report, &mut buffer) {
                Ok(0) => break,
                Ok(count) => self.said.extend_from_slice(buffer.get(..count).unwrap_or_default()),
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => return Ok(Started::Slow(self)),
                Err(_) => break,
            }
        }
        // The last word counts: it was about to execute, and then could not.
        let last = self.said.rchunks_exact(size_of::<Report>()).next().unwrap_or_default();
        let mut words =
            last.chunks_exact(size_of::<u32>()).map(|word| word.try_into().map_or(0, u32::from_ne_bytes));
        let mut word = || words.next().unwrap_or(0);
        let (stage, errno, lowered, refused) = (word(), word(), word(), word());
        let failure = Stage::of(stage).map(|stage| SpawnError { stage, errno: errno.cast_signed() });
        let refused = (refused != 0).then_some(refused.cast_signed());
        finish(self.process, self.channel, failure, refused, lowered).map(Started::Running)
    }
}

#[cfg(test)]
mod tests;
