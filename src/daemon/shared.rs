//! What every unit of the daemon shares: folders, the environment that we were started with, limits.

use crate::daemon::launch::describe;
use crate::daemon::supervised::NotifySocket;
use crate::sys::cgroup::CgroupRoot;
use crate::sys::{dir, message, oom_score, process, random, user};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The longest path that fits a sockaddr_un with its final NUL, bytes.
pub const MAX_SUN_PATH: usize = 107;

/// Facts that are fixed for the daemon's life.
#[derive(Debug)]
pub struct Shared {
    /// The runtime dir (contract section 2).
    pub runtime_dir: PathBuf,
    /// `%t`, and where `RuntimeDirectory` lives: `/run`, or $XDG_RUNTIME_DIR.
    pub runtime_root: String,
    /// A short path to the runtime dir, where its own is too long for a socket's address.
    pub short_dir: Option<ShortDir>,
    /// Our own environment at the start.
    pub environment: Vec<(String, String)>,
    /// What of it is no text: names, and values as they are.
    pub unreadable: Vec<(String, OsString)>,
    /// RLIMIT_NOFILE as we found it, soft and hard: services get it back.
    pub original_nofile: (u64, u64),
    /// Where control groups can be made.
    pub cgroups: Option<CgroupRoot>,
    /// Whether we are PID 1.
    pub pid1: bool,
    /// Whether standard input is a terminal that the only unit, which reads from it, is to have for itself.
    pub terminal: bool,
    /// Our own badness for the out-of-memory killer, where it can be known.
    pub badness: Option<i32>,
    /// Our own pid.
    pub pid: i32,
    /// Children that we had before we started any: whoever executed us left them.
    pub born_with: Vec<i32>,
    /// Where our program was when we were started: what an upgrade takes. Not what we are now: that may be deleted.
    pub program: Option<PathBuf>,
}

/// A link in a folder of our own, removed when we end.
#[derive(Debug)]
pub struct ShortDir {
    folder: PathBuf,
    link: PathBuf,
    /// Whether it goes with us: not before an upgrade is over.
    is_ours: bool,
}

impl ShortDir {
    /// Makes `/tmp/.aeterna-XXXX/r` → `target`.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn make(target: &Path) -> std::io::Result<ShortDir> {
        use std::os::unix::fs::DirBuilderExt;
        // mkdir fails on a name that is taken, so nobody can prepare it for us.
        let folder = PathBuf::from(format!("/tmp/.aeterna-{:016x}", random::bits()));
        std::fs::DirBuilder::new().mode(0o711).create(&folder)?;
        let link = folder.join("r");
        std::os::unix::fs::symlink(target, &link)?;
        Ok(ShortDir { folder, link, is_ours: true })
    }

    /// Whether it still leads there.
    pub fn leads_to(&self, target: &Path) -> bool {
        std::fs::read_link(&self.link).is_ok_and(|found| found == target)
    }

    /// Makes it again under the same names, as services know them.
    ///
    /// # Errors
    /// Whatever the file system says; `PermissionDenied` if somebody else has taken the folder's name.
    pub fn make_again(&self, target: &Path) -> std::io::Result<()> {
        dir::make_private_dir(&self.folder, 0o711)?;
        dir::remove_file(&self.link)?;
        std::os::unix::fs::symlink(target, &self.link)
    }

    /// What [`ShortDir::restored`] makes it of.
    pub fn parts(&self) -> (&Path, &Path) {
        (&self.folder, &self.link)
    }

    /// One that another program has made. It stays when this is dropped, until [`ShortDir::own`].
    pub fn restored(folder: PathBuf, link: PathBuf) -> ShortDir {
        ShortDir { folder, link, is_ours: false }
    }

    /// From now on it is removed at our end.
    pub fn own(&mut self) {
        self.is_ours = true;
    }
}

impl Drop for ShortDir {
    fn drop(&mut self) {
        if !self.is_ours {
            return;
        }
        // Nothing to be done if it is gone already.
        let _ = std::fs::remove_file(&self.link);
        let _ = std::fs::remove_dir(&self.folder);
    }
}

impl Shared {
    /// What this process can find out by itself; the rest is as if there were nothing.
    pub fn of_this_process(runtime_dir: PathBuf, runtime_root: String) -> Shared {
        Shared {
            runtime_dir,
            runtime_root,
            short_dir: None,
            environment: std::env::vars_os()
                .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
            unreadable: std::env::vars_os()
                .filter_map(|(key, value)| Some((key.into_string().ok()?, value)))
                .filter(|(_, value)| value.to_str().is_none())
                .collect(),
            original_nofile: (0, 0),
            cgroups: None,
            pid1: process::is_pid1(),
            badness: oom_score::own(),
            pid: process::pid(),
            terminal: false,
            born_with: Vec::new(),
            program: None,
        }
    }

    /// A new `INVOCATION_ID`: 32 hex digits.
    pub fn new_invocation(&self) -> String {
        format!("{:016x}{:016x}", random::bits(), random::bits())
    }

    /// Makes a generation's notify socket: mode and owner are right before its name is visible.
    ///
    /// # Errors
    /// Which path, and why.
    pub fn notify_socket(
        &self,
        unit: &str,
        index: usize,
        generation: u32,
        owner: Option<(u32, u32)>,
    ) -> Result<NotifySocket, String> {
        let (path, shown) = self.socket_path(unit, index, &format!("{generation}.notify"));
        let (fd, name) = message::notify_socket(&path, owner).map_err(|error| {
            let other = owner.is_some_and(|(uid, _)| uid != user::effective_uid());
            if other && error.kind() == std::io::ErrorKind::PermissionDenied && user::effective_uid() != 0 {
                // The start would fail at this anyway: it is said as what it is.
                return "change the user: Operation not permitted (only root can become another user)".into();
            }
            format!("make the notify socket {}: {}", path.display(), describe(&error))
        })?;
        Ok(NotifySocket { fd: fd.into(), name, shown, first: None })
    }

    /// The path of a unit's socket in the runtime dir, and the path that a service is given for it.
    pub fn socket_path(&self, unit: &str, index: usize, suffix: &str) -> (PathBuf, String) {
        let full = self.runtime_dir.join(format!("{unit}.{suffix}"));
        if full.as_os_str().len() <= MAX_SUN_PATH {
            let shown = full.to_string_lossy().into_owned();
            return (full, shown);
        }
        // Too long for an address: a short name, and the short way to the folder where that is needed too.
        let name = format!("u{index}.{suffix}");
        let full = self.runtime_dir.join(&name);
        let shown = match &self.short_dir {
            Some(short) if full.as_os_str().len() > MAX_SUN_PATH => short.link.join(&name),
            _ => full.clone(),
        };
        (full, shown.to_string_lossy().into_owned())
    }
}
