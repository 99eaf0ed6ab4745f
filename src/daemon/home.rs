//! What is ours in the runtime dir: it comes back when somebody has taken it away (`rm -rf`, a cleaner of temporary files,
//! a new file system over /run), and two daemons never share it.
//!
//! The lock says that nobody else is here. A file can be removed, though: a claim on the folder stands beside it, an
//! abstract name that goes only with us. The folder is looked at when the kernel tells of a change, at SIGHUP, and when a
//! generation is launched.

use crate::daemon::args::Args;
use crate::daemon::core::Daemon;
use crate::daemon::launch::describe;
use crate::daemon::token::Owner;
use crate::error::{Fatal, exit};
use crate::proto::paths;
use crate::sys::claim::{Attempt, Claim};
use crate::sys::dir::{self, Folder};
use crate::sys::nest::Nest;
use crate::sys::peer::Peer;
use crate::sys::poll::{Interest, Readiness};
use crate::sys::unixpath::{self, BoundPath, Occupant, Site};
use crate::sys::{clock, message, pidfd, process, user};
use crate::time::{Monotime, Span};
use crate::unit::{self, Unit};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Whoever removes a folder removes what is in it first, and should find it empty then.
const SETTLES: Span = Span::from_millis(50);

/// How long nobody looks after a look: who removes it again and again keeps us from nothing else.
const REST: Span = Span::from_secs(1);

/// ESRCH.
const NOBODY: i32 = 3;

/// How long the lock of an aeternad that is gone is waited for.
const LOCK_PATIENCE: Span = Span::from_secs(2);

/// How many clients at most wait on a control socket that goes: as many as there can be.
const TURNS: u32 = 4;

/// What is ours in the runtime dir for the daemon's life.
#[derive(Debug)]
pub struct Home {
    /// The control socket's name, removed at the end.
    pub control: BoundPath,
    /// Held for as long as the daemon lives.
    pub lock: OwnedFd,
    /// Beside the lock, where the kernel has such names.
    claim: Option<Claim>,
    nest: Option<Nest>,
    /// A lock on the folder itself: systemd-tmpfiles(8) spares what has one.
    guard: Option<OwnedFd>,
    /// When the next look is due.
    due: Option<Monotime>,
    looked: Option<Monotime>,
    /// What was said last of what cannot be made again: not said twice.
    said: String,
}

impl Home {
    /// What is ours; it is not yet watched.
    pub fn new(control: BoundPath, lock: OwnedFd, claim: Option<Claim>) -> Home {
        let (nest, guard, due, looked) = (None, None, None, None);
        Home { control, lock, claim, nest, guard, due, looked, said: String::new() }
    }

    /// When [`Daemon::look_at_home`] is wanted.
    pub fn deadline(&self) -> Option<Monotime> {
        self.due
    }
}

/// The runtime dir of this command line, locked.
#[derive(Debug)]
pub struct Place {
    /// The folder.
    pub dir: PathBuf,
    /// Where the control socket will be.
    pub control: PathBuf,
    /// The lock.
    pub lock: OwnedFd,
    /// The claim.
    pub claim: Option<Claim>,
}

impl Place {
    /// Finds, checks and locks it.
    ///
    /// # Errors
    /// Exit status 1: it cannot be used, or another aeternad runs there.
    pub fn take(args: &Args) -> Result<Place, Fatal> {
        let fatal = |why| Fatal::new(exit::FAILURE, why);
        let env = |name: &str| std::env::var(name).ok();
        let dir = paths::runtime_dir(args.runtime_dir.as_deref(), &env, user::effective_uid());
        let dir = std::path::absolute(&dir).unwrap_or(dir);
        let control = args.control.as_ref().map_or_else(|| paths::control_path(&dir), PathBuf::from);
        let claim = claimed(&dir).map_err(fatal)?;
        dir::check_runtime_dir(&dir).map_err(fatal)?;
        // A child of one that was killed has a copy until it executes, of its control socket too: that is waited for.
        let lives = message::listener_of(&control).is_some_and(|who| is_alive(&who));
        let patience = if lives { Span::ZERO } else { LOCK_PATIENCE };
        match dir::lock_file_within(&lock_path(&dir), patience) {
            Ok(Some(lock)) => Ok(Place { dir, control, lock, claim }),
            Ok(None) => Err(fatal(another(&dir, ""))),
            Err(error) => {
                Err(fatal(format!("cannot lock {}: {}", lock_path(&dir).display(), describe(&error))))
            }
        }
    }
}

fn lock_path(dir: &Path) -> PathBuf {
    dir.join("aeternad.lock")
}

fn another(dir: &Path, who: &str) -> String {
    format!(
        "another aeternad{who} runs in {}; talk to it with aeternactl, or give this one its own --runtime-dir",
        dir.display()
    )
}

/// Claims the folder. Somebody else's name is no claim: anybody may have taken it.
///
/// # Errors
/// Another aeternad of our own user has it.
fn claimed(dir: &Path) -> Result<Option<Claim>, String> {
    let held = match Claim::take(dir) {
        Ok(Attempt::Taken(claim)) => return Ok(Some(claim)),
        Ok(Attempt::Held(who)) => who,
        Err(error) => {
            log::debug!("no claim beside the lock: {error}");
            return Ok(None);
        }
    };
    match held {
        // A child of ours on its way to its program has a copy.
        Some(who) if who.pid == process::pid() => {}
        Some(who) if who.uid == user::effective_uid() && is_alive(&who) => {
            return Err(another(dir, &format!(" (pid {})", who.pid)));
        }
        Some(who) => log::warn!(
            "process {} of uid {} has taken the name of this aeternad's claim on {}: should its lock be removed, \
             nothing keeps a second aeternad out",
            who.pid,
            who.uid,
            dir.display()
        ),
        None => log::warn!("somebody has taken the name of this aeternad's claim on {}", dir.display()),
    }
    Ok(None)
}

/// A copy of the name may have outlived its holder for the moment in which a child executes. Pid 0 is in another namespace.
fn is_alive(who: &Peer) -> bool {
    if who.pid == 0 {
        return true;
    }
    match process::pidfd_open(who.pid) {
        // One that nobody has reaped yet is over too.
        Ok(pidfd) => !pidfd::is_over(pidfd.as_fd()),
        Err(error) if error.raw_os_error() == Some(NOBODY) => false,
        // Without a /proc of ours nobody's start time is known.
        Err(_) => process::start_time(who.pid).is_some() || process::start_time(process::pid()).is_none(),
    }
}

/// Whether a unit that uses `%t` may: in a folder under /tmp somebody else may have been first.
///
/// # Errors
/// Whose it is, and what to do.
pub fn check_root(unit: &Unit, root: &str) -> Result<(), String> {
    let uses = || !unit.service.runtime_directory.is_empty() || unit::print(unit).contains(root);
    if user::effective_uid() == 0 || !uses() {
        return Ok(());
    }
    let root = Path::new(root);
    let safe = match dir::spot(&root.join("x")) {
        Ok(place) if place.is_safe => return Ok(()),
        Ok(place) => Err(format!("somebody else can put things there ({})", place.why)),
        // It is ours to make, where nobody gives us one.
        Err(error) if error.kind() == ErrorKind::NotFound && root.starts_with("/tmp") => {
            return dir::check_runtime_dir(root).map_err(|why| format!("{}: %t: {why}", unit.name));
        }
        Err(error) => Err(describe(&error)),
    };
    safe.map_err(|why| {
        format!(
            "{}: %t is {}, which cannot be used: {why}: set XDG_RUNTIME_DIR to a folder of your own",
            unit.name,
            root.display()
        )
    })
}

impl Daemon {
    /// From now on the folder is watched.
    pub fn settle_in(&mut self) {
        if self.home.claim.is_none() {
            // That another one is here already was found out at the start.
            self.home.claim = claimed(&self.shared.runtime_dir).unwrap_or_default();
        }
        if let Some(claim) = &self.home.claim {
            let _ = self.poller.add(Owner::Claim.token(), claim.fd(), Interest::READ);
        }
        match Nest::new() {
            Ok(nest) => self.watch_nest(nest),
            Err(error) => log::warn!(
                "cannot watch {}: {error}; when something is removed from it, SIGHUP makes it again",
                self.shared.runtime_dir.display()
            ),
        }
        self.look_at_home();
    }

    fn watch_nest(&mut self, nest: Nest) {
        let (events, mounts) = nest.fds();
        if let Err(error) = self.poller.add(Owner::Home.token(), events, Interest::READ) {
            log::warn!("cannot watch {}: {error}", self.shared.runtime_dir.display());
        }
        // Where mounts are not told there is none that we could see.
        let _ = mounts.map(|fd| self.poller.add_priority(Owner::Home.token(), fd));
        self.home.nest = Some(nest);
    }

    /// Somebody asks who holds the claim.
    pub fn claim_asked(&mut self) {
        if let Some(claim) = &self.home.claim {
            claim.turn_away();
        }
    }

    /// Something has happened to the folder, or to the table of mounts.
    pub fn home_changed(&mut self, readiness: Readiness) {
        let news = self.home.nest.as_ref().is_some_and(Nest::has_news);
        if (news || readiness.error) && self.home.due.is_none() {
            let settled = clock::now().after(SETTLES);
            let rested = self.home.looked.and_then(|looked| looked.after(REST));
            self.home.due = settled.max(rested);
        }
    }

    /// Somebody wants it looked at: soon, so that a launch in this turn, and its first answer, do not wait for it.
    pub fn home_wanted(&mut self) {
        let soon = clock::now().after(SETTLES);
        self.home.due = self.home.due.min(soon).or(soon);
    }

    /// Before a generation is launched: what it needs of the folder may be gone since a moment.
    pub fn need_home(&mut self) {
        if !dir::is_still(&self.home.lock, &lock_path(&self.shared.runtime_dir)) {
            self.look_at_home();
        }
    }

    /// Makes again what is missing in the runtime dir.
    pub fn look_at_home(&mut self) {
        self.home.due = None;
        self.home.looked = Some(clock::now());
        let mut made = Vec::new();
        let result = self.furnish(&mut made);
        let dir = self.shared.runtime_dir.display().to_string();
        if !made.is_empty() {
            log::warn!("{dir}: somebody has removed {}; made again", made.join(", "));
        }
        let why = result.err().unwrap_or_default();
        if !why.is_empty() && why != self.home.said {
            log::error!(
                "{dir} is not as it should be: {why}. Services go on; SIGHUP to pid {} tries again",
                self.shared.pid
            );
        }
        self.home.said = why;
        let control = self.home.control.path.parent().map(Path::to_path_buf);
        let folders: Vec<PathBuf> = [self.shared.runtime_dir.clone()].into_iter().chain(control).collect();
        if let Some(nest) = &mut self.home.nest
            && let Err(error) = nest.aim(&folders)
        {
            log::warn!("cannot watch {dir} as a whole: {error}");
        }
    }

    /// What was made again is added to `made`.
    ///
    /// # Errors
    /// What could not be made. Without the folder and the lock nothing else is made.
    fn furnish(&mut self, made: &mut Vec<String>) -> Result<(), String> {
        let dir = self.shared.runtime_dir.clone();
        self.renew_lock(&dir, made)?;
        if self.home.guard.is_none() {
            self.home.guard = dir::share_lock(&dir).ok();
        }
        let mut result = self.renew_control(made);
        let folder = Folder::open(&dir).map_err(|error| describe(&error))?;
        if let Some(short) = &self.shared.short_dir
            && !short.leads_to(&dir)
        {
            made.push("the short way to it".into());
            result = result.and(short.make_again(&dir).map_err(|error| {
                format!("{} cannot be made again: {}", short.parts().1.display(), describe(&error))
            }));
        }
        result = result.and(self.renew_survival(made));
        for index in 0..self.units.len() {
            result = result.and(self.renew_notify(index, &folder, made));
            result = result.and(self.renew_state(index, made));
            let spare = self.units[index].spare.as_ref().and_then(|spare| spare.kit.notify.as_ref());
            if spare.is_some_and(|spare| !stands_in(&folder, &spare.name)) {
                self.units[index].spare.take().into_iter().for_each(|spare| spare.remove());
            }
        }
        result
    }

    fn renew_lock(&mut self, dir: &Path, made: &mut Vec<String>) -> Result<(), String> {
        let path = lock_path(dir);
        if dir::is_still(&self.home.lock, &path) {
            return Ok(());
        }
        self.home.guard = None;
        let is_new = !dir.exists();
        dir::check_runtime_dir(dir)?;
        match dir::lock_file(&path) {
            Ok(Some(lock)) => self.home.lock = lock,
            Ok(None) => {
                return Err("its lock was removed, and another aeternad has taken the folder. Stop one of \
                            them; when that one is gone, this one takes it back"
                    .into());
            }
            Err(error) => return Err(format!("cannot lock {}: {}", path.display(), describe(&error))),
        }
        made.push(if is_new { "it" } else { "its lock" }.into());
        Ok(())
    }

    fn renew_control(&mut self, made: &mut Vec<String>) -> Result<(), String> {
        let path = self.home.control.path.clone();
        if unixpath::identity(&path) == Some(self.home.control.inode) {
            return Ok(());
        }
        let cannot =
            |error: &std::io::Error| format!("cannot listen on {}: {}", path.display(), describe(error));
        // One that lies elsewhere (--control) is in nobody's lock.
        let elsewhere = path.parent() != Some(self.shared.runtime_dir.as_path());
        let site = Site::of(&path).map_err(|error| cannot(&error))?;
        if elsewhere && matches!(unixpath::occupant(&site), Ok(Occupant::Live)) {
            return Err(format!("somebody else serves {} now", path.display()));
        }
        let (control, name) = message::listen_private(&path).map_err(|error| cannot(&error))?;
        // Who has come through the old name is heard.
        (0..TURNS).for_each(|_| self.accept_clients());
        let _ = self.poller.remove(self.control.as_fd());
        self.home.control.remove();
        (self.control, self.home.control, self.control_again) = (control, name, None);
        made.push("the control socket".into());
        let token = Owner::Control.token();
        self.poller.add(token, self.control.as_fd(), Interest::READ).map_err(|error| cannot(&error))
    }

    /// A service sends by name: what it says is lost while the name is. One that has connected to it before goes on by the
    /// socket that it knows.
    fn renew_notify(&mut self, index: usize, folder: &Folder, made: &mut Vec<String>) -> Result<(), String> {
        let mut lost = Vec::new();
        for (number, shell) in &self.units[index].generations {
            if shell.kit.notify.as_ref().is_some_and(|socket| !stands_in(folder, &socket.name)) {
                lost.push((*number, shell.owner));
            }
        }
        let mut result = Ok(());
        for (number, owner) in lost {
            let name = self.units[index].name.clone();
            let fresh = match self.shared.notify_socket(&name, index, number.0, owner) {
                Ok(fresh) => fresh,
                Err(why) => {
                    result = Err(format!("cannot {why}"));
                    continue;
                }
            };
            self.read_notifications(index, number);
            let token = Owner::Notify(index, number.0).token();
            if let Err(error) = self.poller.add(token, fresh.fd.as_fd(), Interest::READ) {
                result = Err(format!("cannot watch a notify socket of {name}: {error}"));
            }
            let shell = self.units[index].generations.get_mut(&number);
            if let Some(socket) = shell.and_then(|shell| shell.kit.notify.as_mut()) {
                let gone = socket.renew(fresh);
                let _ = gone.map(|fd| self.poller.remove(fd.as_fd()));
            }
            made.push(format!("the notify socket of {name}"));
        }
        result
    }
}

/// Whether a name of ours in the folder stands for what it stood for.
fn stands_in(folder: &Folder, name: &BoundPath) -> bool {
    name.path.file_name().and_then(|file| folder.inode_at(file)) == Some(name.inode)
}
