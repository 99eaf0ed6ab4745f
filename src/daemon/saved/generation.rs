//! The generations of a unit, and its processes, in a stored state.

use super::{Incoming, Key, Outgoing, StoredPath};
use crate::daemon::intercept::{Adopted, SavedAdopted};
use crate::daemon::limits::Unenforced;
use crate::daemon::logpipe::LogPipe;
use crate::daemon::releases::{Before, Release, SavedRelease};
use crate::daemon::spare::{Kit, Spare};
use crate::daemon::supervised::{Child, GenerationShell, NotifySocket, Stream};
use crate::machine::event::{Content, ContentId, Gen, Proc, Role};
use crate::sys::aside::Foreign;
use crate::sys::cgroup::Cgroup;
use crate::sys::oom::GroupKills;
use crate::sys::tree::Main;
use crate::sys::unixpath::BoundPath;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsFd;
use std::sync::Arc;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedChild {
    proc: Proc,
    pid: i32,
    role: Role,
    generation: Option<Gen>,
    invocation: String,
    pidfd: Option<Key>,
    started: Option<u64>,
    watched: bool,
    gone: bool,
    killed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    said: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedKit {
    notify: Option<SavedNotify>,
    cgroup: Option<SavedCgroup>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedNotify {
    fd: Key,
    name: BoundPath,
    shown: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<Key>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedCgroup {
    path: StoredPath,
    name: String,
    folder: Key,
    events: Key,
    killed: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedSpare {
    number: Gen,
    owner: Option<(u32, u32)>,
    kit: SavedKit,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedGeneration {
    number: Gen,
    kit: SavedKit,
    invocation: String,
    started: Vec<Main>,
    groups: Vec<i32>,
    strayed: bool,
    alive: u32,
    watch_empty: bool,
    owner: Option<(u32, u32)>,
    slot: u32,
    served: bool,
    #[serde(default)]
    goes_first: bool,
    /// Limits that it does not have: why, and `MemoryMax`.
    #[serde(default)]
    unenforced: (Option<String>, Option<u64>),
    /// How many processes of it the kernel had killed for memory.
    #[serde(default)]
    kills: u64,
    content: Option<ContentId>,
    release: Option<SavedRelease>,
    before: Option<Before>,
    adopted: SavedAdopted,
    last_lines: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedStream {
    id: u32,
    fd: Key,
    partial: Vec<u8>,
    generation: Option<Gen>,
    pid: i32,
    is_error: bool,
}

/// Stores the processes of a unit.
///
/// # Errors
/// Those of [`Outgoing::put`] or [`Incoming::take`].
pub(super) fn save_children(
    children: &HashMap<Proc, Child>,
    out: &mut Outgoing,
) -> Result<Vec<SavedChild>, String> {
    let mut saved = Vec::with_capacity(children.len());
    for (proc, Child { pid, role, generation, invocation, pidfd, started, watched, gone, killed, said }) in
        children
    {
        let put = |pidfd: &std::os::fd::OwnedFd| out.put(format_args!("process.{}", proc.0), pidfd.as_fd());
        saved.push(SavedChild {
            proc: *proc,
            pid: *pid,
            role: *role,
            generation: *generation,
            invocation: invocation.clone(),
            pidfd: pidfd.as_ref().map(put).transpose()?,
            started: *started,
            watched: *watched,
            gone: *gone,
            killed: *killed,
            said: said.clone(),
        });
    }
    saved.sort_by_key(|child| child.proc);
    Ok(saved)
}

fn save_kit(kit: &Kit, name: &str, out: &mut Outgoing) -> Result<SavedKit, String> {
    let Kit { notify, cgroup } = kit;
    let notify = notify.as_ref().map(|NotifySocket { fd, name: bound, shown, first }| {
        let first = first.as_ref().map(|fd| out.put(format_args!("{name}.notify.first"), fd.as_fd()));
        Ok::<_, String>(SavedNotify {
            fd: out.put(format_args!("{name}.notify"), fd.as_fd())?,
            name: bound.clone(),
            shown: shown.clone(),
            first: first.transpose()?,
        })
    });
    let notify = notify.transpose()?;
    let cgroup = cgroup.as_ref().map(|group| {
        Ok::<_, String>(SavedCgroup {
            path: StoredPath(group.path().to_owned()),
            name: group.name().to_owned(),
            folder: out.put(format_args!("{name}.cgroup"), group.dir_fd())?,
            events: out.put(format_args!("{name}.events"), group.events_fd())?,
            killed: group.was_killed(),
        })
    });
    Ok(SavedKit { notify, cgroup: cgroup.transpose()? })
}

/// Stores what was made ahead.
///
/// # Errors
/// Those of [`Outgoing::put`] or [`Incoming::take`].
pub(super) fn save_spare(spare: &Spare, out: &mut Outgoing) -> Result<SavedSpare, String> {
    let Spare { number, owner, kit } = spare;
    Ok(SavedSpare { number: *number, owner: *owner, kit: save_kit(kit, "spare", out)? })
}

/// Stores a generation.
///
/// # Errors
/// Those of [`Outgoing::put`] or [`Incoming::take`].
pub(super) fn save_generation(
    number: Gen,
    shell: &GenerationShell,
    out: &mut Outgoing,
) -> Result<SavedGeneration, String> {
    let GenerationShell {
        kit,
        invocation,
        started,
        groups,
        strayed,
        alive,
        watch_empty,
        owner,
        slot,
        served,
        goes_first,
        unenforced: Unenforced { why, memory_max },
        kills,
        content,
        release,
        before,
        adopted,
        last_lines,
    } = shell;
    Ok(SavedGeneration {
        number,
        kit: save_kit(kit, &format!("generation.{}", number.0), out)?,
        invocation: invocation.clone(),
        started: started.clone(),
        groups: groups.clone(),
        strayed: *strayed,
        alive: *alive,
        watch_empty: *watch_empty,
        owner: *owner,
        slot: *slot,
        served: *served,
        goes_first: *goes_first,
        unenforced: (why.clone(), *memory_max),
        kills: kills.as_ref().map_or(0, GroupKills::seen),
        content: *content,
        release: match release {
            Some(release) => Some(release.save(&format!("generation.{}", number.0), out)?),
            None => None,
        },
        before: before.as_deref().cloned(),
        adopted: adopted.save(),
        last_lines: last_lines.iter().cloned().collect(),
    })
}

/// Stores the log pipes.
///
/// # Errors
/// Those of [`Outgoing::put`] or [`Incoming::take`].
pub(super) fn save_streams(
    streams: &HashMap<u32, Stream>,
    out: &mut Outgoing,
) -> Result<Vec<SavedStream>, String> {
    let mut saved = Vec::with_capacity(streams.len());
    for (id, Stream { pipe, generation, pid, is_error }) in streams {
        saved.push(SavedStream {
            id: *id,
            fd: out.put(format_args!("log.{id}"), pipe.as_fd())?,
            partial: pipe.partial().to_vec(),
            generation: *generation,
            pid: *pid,
            is_error: *is_error,
        });
    }
    saved.sort_by_key(|stream| stream.id);
    Ok(saved)
}

/// The processes again.
///
/// # Errors
/// Those of [`Outgoing::put`] or [`Incoming::take`].
pub(super) fn restore_children(
    saved: Vec<SavedChild>,
    from: &mut Incoming,
) -> Result<HashMap<Proc, Child>, String> {
    let mut children = HashMap::new();
    for SavedChild { proc, pid, role, generation, invocation, pidfd, started, watched, gone, killed, said } in
        saved
    {
        let pidfd = match pidfd {
            Some(key) => from.take_if_there(&key)?,
            None => None,
        };
        children.insert(
            proc,
            Child { pid, role, generation, invocation, pidfd, started, watched, gone, killed, said },
        );
    }
    Ok(children)
}

fn restore_kit(saved: SavedKit, from: &mut Incoming) -> Result<Kit, String> {
    let SavedKit { notify, cgroup } = saved;
    let notify = match notify {
        Some(SavedNotify { fd, name, shown, first }) => Some(NotifySocket {
            fd: from.take(&fd)?.into(),
            name,
            shown,
            first: first.map(|key| from.take(&key)).transpose()?.map(Foreign::from),
        }),
        None => None,
    };
    let cgroup = match cgroup {
        Some(SavedCgroup { path, name, folder, events, killed }) => {
            Some(Cgroup::restored(path.0, name, from.take(&folder)?, from.take(&events)?, killed))
        }
        None => None,
    };
    Ok(Kit { notify, cgroup })
}

/// What was made ahead, again.
///
/// # Errors
/// Those of [`Outgoing::put`] or [`Incoming::take`].
pub(super) fn restore_spare(saved: SavedSpare, from: &mut Incoming) -> Result<Spare, String> {
    let SavedSpare { number, owner, kit } = saved;
    Ok(Spare { number, owner, kit: restore_kit(kit, from)? })
}

/// A generation again, and its number.
///
/// # Errors
/// Those of [`Outgoing::put`] or [`Incoming::take`].
pub(super) fn restore_generation(
    saved: SavedGeneration,
    contents: &BTreeMap<ContentId, Content>,
    from: &mut Incoming,
) -> Result<(Gen, GenerationShell), String> {
    let number = saved.number;
    let release = match (saved.release, saved.content.and_then(|id| contents.get(&id))) {
        (Some(release), Some(content)) => Some(Arc::new(Release::restore(release, &content.unit, from)?)),
        (Some(_), None) => return Err("what a generation runs has no content".into()),
        (None, _) => None,
    };
    let kit = restore_kit(saved.kit, from)?;
    let group = kit.cgroup.as_ref().map(Cgroup::dir_fd);
    let kills = group.and_then(|group| GroupKills::restored(group, saved.kills));
    let shell = GenerationShell {
        kit,
        kills,
        invocation: saved.invocation,
        started: saved.started,
        groups: saved.groups,
        strayed: saved.strayed,
        alive: saved.alive,
        watch_empty: saved.watch_empty,
        owner: saved.owner,
        slot: saved.slot,
        served: saved.served,
        goes_first: saved.goes_first,
        unenforced: Unenforced { why: saved.unenforced.0, memory_max: saved.unenforced.1 },
        content: saved.content,
        release,
        before: saved.before.map(Box::new),
        adopted: Adopted::restore(saved.adopted),
        last_lines: saved.last_lines.into(),
    };
    Ok((number, shell))
}

/// The log pipes again.
///
/// # Errors
/// Those of [`Outgoing::put`] or [`Incoming::take`].
pub(super) fn restore_streams(
    saved: Vec<SavedStream>,
    from: &mut Incoming,
) -> Result<HashMap<u32, Stream>, String> {
    let mut streams = HashMap::new();
    for SavedStream { id, fd, partial, generation, pid, is_error } in saved {
        let pipe = LogPipe::restored(from.take(&fd)?.into(), partial);
        streams.insert(id, Stream { pipe, generation, pid, is_error });
    }
    Ok(streams)
}
