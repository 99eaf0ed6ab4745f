//! The daemon in a stored state: what is above the units.

use super::unit::{self, SavedUnit};
use super::{Incoming, Key, Outgoing, StoredPath};
use crate::daemon::control::{Clients, SavedClients};
use crate::daemon::core::Daemon;
use crate::daemon::files::{Files, SavedFiles};
use crate::daemon::http::{SavedHttp, web::Web};
use crate::daemon::requests::{Pending, SavedPending};
use crate::daemon::shared::{Shared, ShortDir};
use crate::daemon::supervised::Supervised;
use crate::daemon::survival::{SavedSurvival, Survival};
use crate::daemon::upgrade::{Done, Upgrades};
use crate::daemon::upstream::SavedUpstream;
use crate::machine::daemon::DaemonMachine;
use crate::proto::metrics::{Metrics, SavedMetrics};
use crate::sys::cgroup::CgroupRoot;
use crate::sys::unixpath::BoundPath;
use crate::time::Monotime;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, OwnedFd};

/// Everything.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedDaemon {
    machine: DaemonMachine,
    files: SavedFiles,
    shared: SavedShared,
    lock: Key,
    control: Key,
    control_name: BoundPath,
    control_again: Option<Monotime>,
    clients: SavedClients,
    pending: Vec<SavedPending>,
    last_req: u64,
    orphans: u64,
    metrics: SavedMetrics,
    http: Option<SavedHttp>,
    upstream: SavedUpstream,
    upgrades: SavedUpgrades,
    survival: SavedSurvival,
    units: Vec<SavedUnit>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedShared {
    runtime_dir: StoredPath,
    runtime_root: String,
    short_dir: Option<(StoredPath, StoredPath)>,
    original_nofile: (u64, u64),
    cgroups: Option<(StoredPath, String)>,
    born_with: Vec<i32>,
    terminal: bool,
    program: Option<StoredPath>,
}

/// The upgrades so far, and the one that this is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedUpgrades {
    count: u32,
    under_way: Option<Done>,
}

/// Whether nothing is under way that cannot be stored. Who only asks whether the state is understood does not need all of it:
/// a start that takes its time is waited for later.
fn is_quiet(daemon: &Daemon, is_asked: bool) -> Result<(), String> {
    let Daemon { stopping, exit, slows, queue, dry_runs, .. } = daemon;
    if *stopping || exit.is_some() {
        return Err("aeternad is stopping".into());
    }
    if is_asked {
        return Ok(());
    }
    if !slows.is_empty() {
        return Err("a process is still on its way to its program".into());
    }
    if !queue.is_empty() || !dry_runs.is_empty() {
        return Err("something is being done just now".into());
    }
    Ok(())
}

/// Stores the daemon. `under_way` is the upgrade that this is for.
///
/// # Errors
/// What cannot be stored now, and why: for people.
pub fn save(daemon: &Daemon, under_way: Option<Done>) -> Result<(SavedDaemon, Outgoing), String> {
    is_quiet(daemon, under_way.is_none())?;
    let Daemon {
        units,
        files,
        machine,
        shared,
        // Made anew.
        poller: _,
        control,
        control_again,
        clients,
        pending,
        // See `is_quiet`.
        dry_runs: _,
        last_req,
        // Follows from the units' processes.
        pids: _,
        settling: _,
        // Whoever takes over looks for all of them.
        reap_more: _,
        queue: _,
        reports: _,
        inbox: _,
        waker: _,
        // Looks at what is killed from now on.
        oom: _,
        // Looks on.
        memory: _,
        upstream,
        stopping: _,
        exit: _,
        orphans,
        web,
        home,
        upgrades,
        slows: _,
        survival,
    } = daemon;
    let mut out = Outgoing::default();
    let saved = SavedDaemon {
        machine: machine.clone(),
        files: files.save(),
        shared: save_shared(shared),
        lock: out.put("lock", home.lock.as_fd())?,
        control: out.put("control", control.as_fd())?,
        control_name: home.control.clone(),
        control_again: *control_again,
        clients: clients.save(&mut out)?,
        pending: pending.iter().map(Pending::save).collect(),
        last_req: *last_req,
        orphans: *orphans,
        metrics: web.metrics.save(),
        http: web.save(&mut out)?,
        upstream: upstream.save(),
        upgrades: SavedUpgrades { count: upgrades.count(), under_way },
        survival: survival.save(&mut out)?,
        units: units
            .iter()
            .map(|unit| unit::save(unit, shared.pid1, &shared.runtime_root, &mut out))
            .collect::<Result<_, _>>()?,
    };
    Ok((saved, out))
}

fn save_shared(shared: &Shared) -> SavedShared {
    let Shared {
        runtime_dir,
        runtime_root,
        short_dir,
        // The same for whoever takes over, and found out anew.
        environment: _,
        unreadable: _,
        original_nofile,
        cgroups,
        pid1: _,
        badness: _,
        pid: _,
        terminal,
        born_with,
        program,
    } = shared;
    let short = |short: &ShortDir| {
        let (folder, link) = short.parts();
        (StoredPath(folder.to_owned()), StoredPath(link.to_owned()))
    };
    let root = |root: &CgroupRoot| {
        let (own, prefix) = root.parts();
        (StoredPath(own.to_owned()), prefix.to_owned())
    };
    SavedShared {
        runtime_dir: StoredPath(runtime_dir.clone()),
        runtime_root: runtime_root.clone(),
        short_dir: short_dir.as_ref().map(short),
        original_nofile: *original_nofile,
        cgroups: cgroups.as_ref().map(root),
        born_with: born_with.clone(),
        terminal: *terminal,
        program: program.clone().map(StoredPath),
    }
}

/// What a daemon is made of again, and nothing of it has had an effect yet.
#[derive(Debug)]
pub struct Restored {
    /// The units.
    pub units: Vec<Supervised>,
    /// Their files.
    pub files: Files,
    /// The machine above them.
    pub machine: DaemonMachine,
    /// What they share.
    pub shared: Shared,
    /// The lock on the runtime dir.
    pub lock: OwnedFd,
    /// The control socket.
    pub control: OwnedFd,
    /// Its name.
    pub control_name: BoundPath,
    /// When it is accepted on again.
    pub control_again: Option<Monotime>,
    /// Who is connected to it.
    pub clients: Clients,
    /// Requests that wait for their end.
    pub pending: Vec<Pending>,
    /// The newest request.
    pub last_req: u64,
    /// Orphans that were reaped and were nobody's.
    pub orphans: u64,
    /// HTTP; it does not run.
    pub web: Web,
    /// Our own supervisor.
    pub upstream: SavedUpstream,
    /// The upgrades so far.
    pub upgrades: Upgrades,
    /// What is done for the one who comes after us.
    pub survival: Survival,
    /// The upgrade that this is.
    pub under_way: Option<Done>,
}

/// The daemon again. Without any effect on the world.
///
/// # Errors
/// What does not fit together, or cannot be understood here: for people.
pub fn restore(saved: SavedDaemon, from: &mut Incoming) -> Result<Restored, String> {
    let count = saved.units.len();
    let mut units = Vec::with_capacity(count);
    for unit in saved.units {
        units.push(unit::restore(unit, from)?);
    }
    if saved.machine.units() != count {
        return Err("the number of units is not the same everywhere".into());
    }
    let web = Web::restore(Metrics::restore(saved.metrics)?, saved.http, from)?;
    let pending = saved.pending.into_iter().map(|one| Pending::restore(one, count));
    Ok(Restored {
        units,
        files: Files::restore(saved.files, count)?,
        machine: saved.machine,
        shared: restore_shared(saved.shared),
        lock: from.take(&saved.lock)?,
        control: from.take(&saved.control)?,
        control_name: saved.control_name,
        control_again: saved.control_again,
        clients: Clients::restore(saved.clients, from)?,
        pending: pending.collect::<Result<_, _>>()?,
        last_req: saved.last_req,
        orphans: saved.orphans,
        web,
        upstream: saved.upstream,
        upgrades: Upgrades::restored(saved.upgrades.count),
        survival: Survival::restore(saved.survival, from)?,
        under_way: saved.upgrades.under_way,
    })
}

fn restore_shared(saved: SavedShared) -> Shared {
    let SavedShared {
        runtime_dir,
        runtime_root,
        short_dir,
        original_nofile,
        cgroups,
        born_with,
        terminal,
        program,
    } = saved;
    Shared {
        short_dir: short_dir.map(|(folder, link)| ShortDir::restored(folder.0, link.0)),
        original_nofile,
        cgroups: cgroups.map(|(own, prefix)| CgroupRoot::restored(own.0, prefix)),
        born_with,
        terminal,
        program: program.map(|path| path.0),
        ..Shared::of_this_process(runtime_dir.0, runtime_root)
    }
}

impl Restored {
    /// Stores it again: whoever understands all of it writes what it has read.
    ///
    /// # Errors
    /// As [`save`].
    pub fn save(&self) -> Result<SavedDaemon, String> {
        let mut out = Outgoing::default();
        Ok(SavedDaemon {
            machine: self.machine.clone(),
            files: self.files.save(),
            shared: save_shared(&self.shared),
            lock: out.put("lock", self.lock.as_fd())?,
            control: out.put("control", self.control.as_fd())?,
            control_name: self.control_name.clone(),
            control_again: self.control_again,
            clients: self.clients.save(&mut out)?,
            pending: self.pending.iter().map(Pending::save).collect(),
            last_req: self.last_req,
            orphans: self.orphans,
            metrics: self.web.metrics.save(),
            http: self.web.save(&mut out)?,
            upstream: self.upstream.clone(),
            upgrades: SavedUpgrades { count: self.upgrades.count(), under_way: self.under_way.clone() },
            survival: self.survival.save(&mut out)?,
            units: self
                .units
                .iter()
                .map(|unit| unit::save(unit, self.shared.pid1, &self.shared.runtime_root, &mut out))
                .collect::<Result<_, _>>()?,
        })
    }
}
