//! Starting a program: everything is prepared before the clone, the child only makes system calls on that memory.
//!
//! The child shares our memory and we are suspended until it has executed or failed (clone3(2) with VM and VFORK): the time
//! that takes does not grow with our own size, and a failure comes back exact, as a [`Stage`] and an errno. Where clone3 is
//! forbidden (Docker's default), clone(2) does the same. std's `Command` hands its signal mask and ignored signals to the
//! child and cannot say LISTEN_PID; glibc's setuid(2) would speak to our own threads: hence raw system calls.
//!
//! Main thread only: a death signal and an upgrade by execve(2) count on one thread that starts every process.

mod child;
mod clone;
mod errand;
mod find;
mod job;
mod reasons;

use super::aside::Foreign;
use super::seccomp::Listener;
use super::{message, wait};
use clone::Way;
pub use errand::kill_as;
pub use find::{find_program, pin_program};
use job::Job;
pub use reasons::why_not_executed;
use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

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
            cpu_affinity: Vec::new(),
            no_new_privileges: false,
            ignore_sigpipe: false,
            cgroup: None,
            terminal: false,
            traps: Traps::None,
            joins_cgroup: false,
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
}

impl Stage {
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
            (Stage::Directory, Some(directory)) => {
                format!("cannot change to the directory {}: {reason}", directory.to_string_lossy())
            }
            _ => format!("cannot {} of {program}: {advice}", self.stage.words()),
        }
    }
}

/// Starts a process; returns when its program runs, or has failed to. A child that failed is reaped already; one SIGCHLD
/// of it may still arrive.
///
/// Blocks while the child prepares itself (microseconds; longer if its directory or program is on a slow disk).
///
/// # Errors
/// The exact step and errno. `Stage::Exec`: `ENOENT` not found, or its interpreter is not; `EACCES`; `ENOEXEC` no program.
pub fn spawn(plan: &Plan<'_>) -> Result<Process, SpawnError> {
    spawn_by(plan, &clone::WAYS)
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
    let mut job = Job::new(plan);
    let channel = match plan.traps {
        Traps::None => None,
        Traps::Sockets => Some(message::pair().map_err(|error| SpawnError {
            stage: Stage::Descriptors,
            errno: error.raw_os_error().unwrap_or(libc::EMFILE),
        })?),
    };
    job.channel = channel.as_ref().map(|(_, theirs)| theirs.as_raw_fd());
    let started = clone::start(&mut job, ways);
    job.restore_dumpable();
    let mut process = started.map_err(|errno| SpawnError { stage: Stage::Clone, errno })?;
    process.listener = channel.map(|(ours, _)| receive(ours, job.refused));
    process.lowered = job.lowered;
    match job.failure {
        None => Ok(process),
        Some(failure) => {
            // It has ended, or is about to. There is nobody to tell if it cannot be reaped.
            let _ = wait::reap(process.pid);
            Err(failure)
        }
    }
}

#[cfg(test)]
mod tests;
