//! One unit in a stored state.

use super::generation::{
    SavedChild, SavedGeneration, SavedSpare, SavedStream, restore_children, restore_generation,
    restore_spare, restore_streams, save_children, save_generation, save_spare, save_streams,
};
use super::{Incoming, Key, Outgoing, StoredPath};
use crate::daemon::complaints::Complaints;
use crate::daemon::fdstore::{FdStore, SavedStore};
use crate::daemon::handover::{SavedStateSocket, StateSocket};
use crate::daemon::intercept::{Filters, SavedFilters};
use crate::daemon::linelog::{LineLog, SavedLines};
use crate::daemon::load::{Setting, Source};
use crate::daemon::releases::{Releases, SavedReleases};
use crate::daemon::settling::{SavedSettling, Settling};
use crate::daemon::sockets::{ListenSet, PeerName, SavedSet, SavedWatcher};
use crate::daemon::srp::{Endpoint, SavedSrp};
use crate::daemon::supervised::{LastWords, PathWatch, Standing, Supervised, Traffic};
use crate::daemon::used::Used;
use crate::machine::event::{Conn, Content, ContentId, Gen, ReloadRecord, Summary, Transfer};
use crate::machine::owed::Owed;
use crate::machine::{SavedState, UnitMachine};
use crate::sys::aside::Foreign;
use crate::time::Monotime;
use crate::unit::{self, Context, DaemonSettings, Unit};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::AsFd;
use std::sync::Arc;

/// A [`Supervised`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedUnit {
    name: String,
    source: SavedSource,
    standing: Standing,
    contents: Vec<SavedContent>,
    /// Which of them are in use.
    used: Vec<ContentId>,
    /// Which of them the machine refers to, the one that it serves first.
    machines: Vec<ContentId>,
    current: ContentId,
    machine: SavedState,
    /// What the machine wants a tick at: whoever reads this must come to the same.
    deadline: Option<Monotime>,
    summary: Option<Summary>,
    releases: SavedReleases,
    sockets: SavedSet,
    traffic: Traffic,
    used_slots: BTreeSet<u32>,
    left_slots: BTreeSet<u32>,
    arrived: bool,
    accept_again: Option<Monotime>,
    children: Vec<SavedChild>,
    generations: Vec<SavedGeneration>,
    spare: Option<SavedSpare>,
    started_with: DaemonSettings,
    last_content: u32,
    serving_slot: u32,
    store: SavedStore,
    connections: Vec<(Conn, Key, PeerName)>,
    history: Vec<ReloadRecord>,
    last_words: Option<LastWords>,
    complaints: Complaints,
    state_complaints: Complaints,
    filters: SavedFilters,
    log: SavedLines,
    streams: Vec<SavedStream>,
    last_stream: u32,
    state_socket: Option<SavedStateSocket>,
    srp: SavedSrp,
    promoted: Option<Gen>,
    watch: Option<SavedWatch>,
    #[serde(default)]
    usage_gone: Used,
    restarts: BTreeMap<String, u64>,
    put_off: Option<Transfer>,
    owed: Vec<Owed>,
}

#[derive(Debug, Serialize, Deserialize)]
enum SavedSource {
    File { path: StoredPath, runtime_root: String, pid1: bool },
    Inline { text: String, runtime_root: String, pid1: bool },
}

/// A unit as text, with every default written out: what another version takes for a default does not change it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedContent {
    id: ContentId,
    hash: u64,
    release: u64,
    text: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedWatch {
    watcher: SavedWatcher,
    paths: Vec<String>,
    settling: SavedSettling,
}

/// Stores a unit.
///
/// # Errors
/// State is on its way between two of its generations; those of [`Outgoing::put`].
#[expect(clippy::too_many_lines, reason = "a list of fields, each in two places")]
pub fn save(
    unit: &Supervised,
    pid1: bool,
    runtime_root: &str,
    out: &mut Outgoing,
) -> Result<SavedUnit, String> {
    let Supervised {
        name,
        source,
        standing,
        machine,
        summary,
        // The machine's, told once it has done what is in hand.
        deadline: _,
        releases,
        sockets,
        traffic,
        used_slots,
        left_slots,
        arrived,
        accept_again,
        children,
        generations,
        spare,
        contents,
        current,
        started_with,
        last_content,
        serving_slot,
        store,
        connections,
        history,
        last_words,
        complaints,
        state_complaints,
        filters,
        log,
        streams,
        last_stream,
        state_socket,
        endpoint,
        promoted,
        watch,
        used: usage_gone,
        restarts,
        put_off,
        // The machine asks again.
        checking: _,
        owed,
        // Over before a turn is.
        going_on: _,
    } = unit;
    out.of_unit(name);
    let (all, machines) = every_content(unit);
    Ok(SavedUnit {
        name: name.clone(),
        source: match source {
            Source::File { path, setting: Setting { runtime_root, pid1 } } => SavedSource::File {
                path: StoredPath(path.clone()),
                runtime_root: runtime_root.clone(),
                pid1: *pid1,
            },
            Source::Inline(unit) => {
                SavedSource::Inline { text: unit::print(unit), runtime_root: runtime_root.to_owned(), pid1 }
            }
        },
        standing: *standing,
        contents: all,
        used: contents.iter().map(|content| content.id).collect(),
        machines,
        current: current.id,
        machine: machine.save(),
        deadline: machine.next_deadline(),
        summary: *summary,
        releases: releases.save(out)?,
        sockets: sockets.save(out)?,
        traffic: *traffic,
        used_slots: used_slots.clone(),
        left_slots: left_slots.clone(),
        arrived: *arrived,
        accept_again: *accept_again,
        children: save_children(children, out)?,
        generations: generations
            .iter()
            .map(|(number, shell)| save_generation(*number, shell, out))
            .collect::<Result<_, _>>()?,
        spare: spare.as_ref().map(|spare| save_spare(spare, out)).transpose()?,
        started_with: started_with.clone(),
        last_content: *last_content,
        serving_slot: *serving_slot,
        store: store.save(out)?,
        connections: save_connections(connections, out)?,
        history: history.iter().cloned().collect(),
        last_words: last_words.clone(),
        complaints: complaints.clone(),
        state_complaints: state_complaints.clone(),
        filters: filters.save(out)?,
        log: log.save(),
        streams: save_streams(streams, out)?,
        last_stream: *last_stream,
        state_socket: state_socket.as_ref().map(|socket| socket.save(out)).transpose()?,
        srp: endpoint.save(out).map_err(|why| format!("{name}: {why}"))?,
        promoted: *promoted,
        watch: watch.as_ref().map(|watch| save_watch(watch, out)).transpose()?,
        usage_gone: *usage_gone,
        restarts: restarts.clone(),
        put_off: *put_off,
        owed: owed.clone(),
    })
}

/// Every content that anything refers to, once, and those of the machine.
fn every_content(unit: &Supervised) -> (Vec<SavedContent>, Vec<ContentId>) {
    let of_machine = unit.machine.contents();
    let mut all: BTreeMap<ContentId, SavedContent> = BTreeMap::new();
    for Content { id, unit, hash, release } in unit.contents.iter().chain([&unit.current]).chain(&of_machine)
    {
        all.entry(*id).or_insert_with(|| SavedContent {
            id: *id,
            hash: *hash,
            release: *release,
            text: unit::print(unit),
        });
    }
    (all.into_values().collect(), of_machine.iter().map(|content| content.id).collect())
}

fn save_connections(
    connections: &HashMap<Conn, (Foreign, PeerName)>,
    out: &mut Outgoing,
) -> Result<Vec<(Conn, Key, PeerName)>, String> {
    let mut saved = Vec::with_capacity(connections.len());
    for (conn, (fd, peer)) in connections {
        // Nobody else has it for long: a copy would keep it open when its instance has closed it.
        saved.push((
            *conn,
            out.put_short_lived(format_args!("connection.{}", conn.0), fd.as_fd())?,
            peer.clone(),
        ));
    }
    saved.sort_by_key(|(conn, ..)| *conn);
    Ok(saved)
}

fn save_watch(watch: &PathWatch, out: &mut Outgoing) -> Result<SavedWatch, String> {
    let PathWatch { watcher, paths, settling } = watch;
    Ok(SavedWatch {
        watcher: SavedWatcher::save(watcher, "watch", out)?,
        paths: paths.clone(),
        settling: settling.save(),
    })
}

/// A unit again.
///
/// # Errors
/// What does not fit together, or cannot be understood here.
pub fn restore(saved: SavedUnit, from: &mut Incoming) -> Result<Supervised, String> {
    let name = saved.name.clone();
    try_restore(saved, from).map_err(|why| format!("{name}: {why}"))
}

#[expect(clippy::too_many_lines, reason = "a list of fields")]
fn try_restore(saved: SavedUnit, from: &mut Incoming) -> Result<Supervised, String> {
    let (source, context) = restore_source(saved.source, &saved.name)?;
    let contents = restore_contents(saved.contents, &context)?;
    let find = |id: &ContentId| {
        contents.get(id).cloned().ok_or_else(|| format!("its content {} is not there", id.0))
    };
    let of_machine = saved.machines.iter().map(find).collect::<Result<Vec<Content>, String>>()?;
    let machine = UnitMachine::restore(saved.machine, of_machine)?;
    if machine.next_deadline() != saved.deadline {
        return Err("its next deadline is another one here".into());
    }
    let mut connections = HashMap::new();
    for (conn, key, peer) in saved.connections {
        if let Some(fd) = from.take_if_there(&key)? {
            connections.insert(conn, (fd.into(), peer));
        }
    }
    let mut generations = BTreeMap::new();
    for generation in saved.generations {
        let (number, shell) = restore_generation(generation, &contents, from)?;
        generations.insert(number, Box::new(shell));
    }
    Ok(Supervised {
        name: saved.name,
        source,
        standing: saved.standing,
        machine,
        summary: saved.summary,
        deadline: saved.deadline,
        releases: Releases::restore(saved.releases, &contents, from)?,
        sockets: ListenSet::restore(saved.sockets, from)?,
        traffic: saved.traffic,
        used_slots: saved.used_slots,
        left_slots: saved.left_slots,
        arrived: saved.arrived,
        accept_again: saved.accept_again,
        children: restore_children(saved.children, from)?,
        generations,
        spare: saved.spare.map(|spare| restore_spare(spare, from)).transpose()?.map(Box::new),
        contents: saved.used.iter().map(find).collect::<Result<_, _>>()?,
        current: find(&saved.current)?,
        started_with: saved.started_with,
        last_content: saved.last_content,
        serving_slot: saved.serving_slot,
        store: FdStore::restore(saved.store, from)?,
        connections,
        history: saved.history.into(),
        last_words: saved.last_words,
        complaints: saved.complaints,
        state_complaints: saved.state_complaints,
        filters: Filters::restore(saved.filters, from)?,
        log: LineLog::restore(saved.log),
        streams: restore_streams(saved.streams, from)?,
        last_stream: saved.last_stream,
        state_socket: saved.state_socket.map(|socket| StateSocket::restore(socket, from)).transpose()?,
        endpoint: Endpoint::restore(saved.srp, from)?,
        promoted: saved.promoted,
        watch: saved.watch.map(|watch| restore_watch(watch, from)).transpose()?,
        used: saved.usage_gone,
        restarts: saved.restarts,
        put_off: saved.put_off,
        checking: None,
        owed: saved.owed,
        going_on: false,
    })
}

/// Parses what [`unit::print`] has printed; it must print the same again.
fn parse(text: &str, context: &Context) -> Result<Arc<Unit>, String> {
    let parsed = unit::parse(text, context).map_err(|errors| {
        let first = errors.first().map(ToString::to_string).unwrap_or_default();
        format!("a unit that runs cannot be read here: {first}")
    })?;
    if unit::print(&parsed.unit) == text {
        Ok(Arc::new(parsed.unit))
    } else {
        Err("a unit that runs means something else here".into())
    }
}

fn restore_source(saved: SavedSource, name: &str) -> Result<(Source, Context), String> {
    let context = |runtime_dir: &str, pid1| Context {
        stem: name.to_owned(),
        file: "the stored state".into(),
        runtime_dir: runtime_dir.to_owned(),
        pid1,
    };
    Ok(match saved {
        SavedSource::File { path, runtime_root, pid1 } => {
            let context = context(&runtime_root, pid1);
            (Source::File { path: path.0, setting: Setting { runtime_root, pid1 } }, context)
        }
        SavedSource::Inline { text, runtime_root, pid1 } => {
            let context = context(&runtime_root, pid1);
            (Source::Inline(parse(&text, &context)?), context)
        }
    })
}

fn restore_contents(
    saved: Vec<SavedContent>,
    context: &Context,
) -> Result<BTreeMap<ContentId, Content>, String> {
    let one = |SavedContent { id, hash, release, text }: SavedContent| {
        Ok((id, Content { id, hash, release, unit: parse(&text, context)? }))
    };
    saved.into_iter().map(one).collect()
}

fn restore_watch(saved: SavedWatch, from: &mut Incoming) -> Result<PathWatch, String> {
    let SavedWatch { watcher, paths, settling } = saved;
    Ok(PathWatch { watcher: watcher.restore(from)?, paths, settling: Settling::restore(settling) })
}
