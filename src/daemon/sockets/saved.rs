//! The sockets of a unit in a stored state.

use super::drain::Drain;
use super::endpoint::{Endpoint, Ids, Slot, Way};
use super::flowing::Tags;
use super::steering::Steered;
use super::{ListenSet, SocketId};
use crate::daemon::saved::{Incoming, Key, Outgoing, StoredPath};
use crate::proto::status::Share;
use crate::sys::flows::{Figures, Flows};
use crate::sys::inotify::Watcher;
use crate::sys::steer::Draw;
use crate::sys::tally::{Counts, Tally};
use crate::sys::unixpath::BoundPath;
use crate::unit::{Listen, SocketOptions};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

/// A [`ListenSet`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSet {
    endpoints: Vec<SavedEndpoint>,
    last_id: u32,
    steered: SavedSteered,
    drains: BTreeMap<u32, Drain>,
    #[serde(default)]
    tags: Tags,
    paths: Option<SavedWatcher>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedEndpoint {
    listen: Listen,
    name: String,
    options: SocketOptions,
    /// Where that is not what they were made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    born: Option<SocketOptions>,
    address: String,
    at: Option<SocketAddr>,
    way: Way,
    wanted: Way,
    why: String,
    slots: Vec<SavedSlot>,
    order: Vec<usize>,
    lent: Vec<usize>,
    target: usize,
    path: Option<BoundPath>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    renamed: Option<BoundPath>,
    keep: Option<BoundPath>,
    displaced: Option<(u64, u64)>,
    owned: bool,
    learned: bool,
    repairs: u32,
    hidden: Option<i32>,
    inherited: bool,
    flows: Option<SavedFlows>,
}

/// A [`Flows`]: its maps and its program go along, and steer on meanwhile.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedFlows {
    parts: [Key; 8],
    figures: Figures,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedSlot {
    id: SocketId,
    fd: Key,
    path: Option<BoundPath>,
    fresh: bool,
    #[serde(default)]
    anew: bool,
    broken: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedSteered {
    serving: usize,
    canary: Option<(usize, u8, Draw)>,
    tally: Option<SavedTally>,
    counted: Counts,
    shares: Vec<Share>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedTally {
    map: Key,
    spoilt: bool,
}

/// A [`Watcher`]: its inotify(7) descriptor, with what has happened meanwhile in its queue, goes along.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedWatcher {
    fd: Key,
    wanted: Vec<StoredPath>,
    follows_writes: bool,
    watches_ways: bool,
}

impl SavedWatcher {
    /// Stores one.
    ///
    /// # Errors
    /// Those of [`Outgoing::put`].
    pub fn save(watcher: &Watcher, name: &str, out: &mut Outgoing) -> Result<SavedWatcher, String> {
        Ok(SavedWatcher {
            fd: out.put_short_lived(name, watcher.fd())?,
            wanted: watcher.wanted().iter().map(|path| StoredPath(path.clone())).collect(),
            follows_writes: watcher.follows_writes(),
            watches_ways: watcher.watches_ways(),
        })
    }

    /// The watcher; it tells nothing before [`Watcher::resume`].
    ///
    /// # Errors
    /// Those of [`Incoming::take`].
    pub fn restore(self, from: &mut Incoming) -> Result<Watcher, String> {
        let wanted = self.wanted.into_iter().map(|path| path.0).collect();
        let fd = from.take_or(&self.fd, Watcher::fresh)?;
        Ok(Watcher::restored(fd, wanted, self.follows_writes, self.watches_ways))
    }
}

impl ListenSet {
    /// Stores the set.
    ///
    /// # Errors
    /// Those of [`Outgoing::put`].
    pub fn save(&self, out: &mut Outgoing) -> Result<SavedSet, String> {
        let ListenSet { endpoints, ids: Ids(last_id), steered, drains, tags, paths } = self;
        Ok(SavedSet {
            endpoints: endpoints.iter().map(|endpoint| endpoint.save(out)).collect::<Result<_, _>>()?,
            last_id: *last_id,
            steered: steered.save(out)?,
            drains: drains.clone(),
            tags: tags.clone(),
            paths: paths.as_ref().map(|paths| SavedWatcher::save(paths, "folders", out)).transpose()?,
        })
    }

    /// The set again.
    ///
    /// # Errors
    /// Those of [`Incoming::take`].
    pub fn restore(saved: SavedSet, from: &mut Incoming) -> Result<ListenSet, String> {
        let SavedSet { endpoints, last_id, steered, drains, tags, paths } = saved;
        Ok(ListenSet {
            endpoints: endpoints
                .into_iter()
                .map(|endpoint| Endpoint::restore(endpoint, from))
                .collect::<Result<_, _>>()?,
            ids: Ids(last_id),
            steered: Steered::restore(steered, from)?,
            drains,
            tags,
            paths: paths.map(|paths| paths.restore(from)).transpose()?,
        })
    }

    /// After a restoration, once the set is ours: looks again at the names, which somebody may have changed meanwhile.
    pub fn resume(&mut self) {
        if let Some(paths) = &mut self.paths {
            paths.resume();
        }
    }
}

impl Endpoint {
    fn save(&self, out: &mut Outgoing) -> Result<SavedEndpoint, String> {
        let Endpoint {
            listen,
            name,
            options,
            born,
            address,
            at,
            way,
            wanted,
            why,
            slots,
            order,
            // The kernel has it; to attach it again is harmless.
            attached: _,
            flows,
            // What is left out is found in the tables all the same.
            keepers: _,
            lent,
            target,
            path,
            renamed,
            keep,
            displaced,
            owned,
            learned,
            repairs,
            hidden,
            inherited,
            // What only waits to be closed is closed.
            former: _,
            retired: _,
        } = self;
        Ok(SavedEndpoint {
            listen: listen.clone(),
            name: name.clone(),
            options: options.as_ref().clone(),
            born: (born != options).then(|| born.as_ref().clone()),
            address: address.clone(),
            at: *at,
            way: *way,
            wanted: *wanted,
            why: why.to_string(),
            slots: slots.iter().map(|slot| slot.save(out)).collect::<Result<_, _>>()?,
            order: order.clone(),
            lent: lent.clone(),
            target: *target,
            path: path.clone(),
            renamed: renamed.clone(),
            keep: keep.clone(),
            displaced: *displaced,
            owned: *owned,
            learned: *learned,
            repairs: *repairs,
            hidden: *hidden,
            inherited: *inherited,
            flows: flows.as_ref().map(|flows| save_flows(flows, slots, out)).transpose()?,
        })
    }

    fn restore(saved: SavedEndpoint, from: &mut Incoming) -> Result<Endpoint, String> {
        let count = saved.slots.len();
        let is_slot = |number: &usize| *number < count;
        if count == 0 || !saved.order.iter().chain(&saved.lent).chain([&saved.target]).all(is_slot) {
            return Err(format!("the slots of {} do not fit together", saved.address));
        }
        let options = Arc::new(saved.options);
        Ok(Endpoint {
            listen: saved.listen,
            name: saved.name,
            born: saved.born.map_or_else(|| Arc::clone(&options), Arc::new),
            options,
            address: saved.address,
            at: saved.at,
            way: saved.way,
            wanted: saved.wanted,
            why: saved.why.into(),
            slots: saved.slots.into_iter().map(|slot| Slot::restore(slot, from)).collect::<Result<_, _>>()?,
            order: saved.order,
            attached: Vec::new(),
            keepers: Vec::new(),
            flows: saved.flows.map(|flows| restore_flows(flows, from)).transpose()?,
            lent: saved.lent,
            target: saved.target,
            path: saved.path,
            renamed: saved.renamed,
            keep: saved.keep,
            displaced: saved.displaced,
            owned: saved.owned,
            learned: saved.learned,
            repairs: saved.repairs,
            hidden: saved.hidden,
            inherited: saved.inherited,
            former: None,
            retired: Vec::new(),
        })
    }
}

fn save_flows(flows: &Flows, slots: &[Slot], out: &mut Outgoing) -> Result<SavedFlows, String> {
    let (parts, figures) = flows.parts();
    let first = slots.first().map_or(0, |slot| slot.id.0);
    let mut keys = Vec::with_capacity(parts.len());
    for (name, fd) in parts {
        keys.push(out.put(format_args!("flows.{first}.{name}"), fd)?);
    }
    let parts = keys.try_into().map_err(|_| "the parts of flows are eight")?;
    Ok(SavedFlows { parts, figures })
}

fn restore_flows(saved: SavedFlows, from: &mut Incoming) -> Result<Flows, String> {
    let mut taken = Vec::with_capacity(saved.parts.len());
    for key in &saved.parts {
        taken.push(from.take(key)?);
    }
    let parts = taken.try_into().map_err(|_| "the parts of flows are eight")?;
    Ok(Flows::restored(parts, saved.figures))
}

impl Slot {
    fn save(&self, out: &mut Outgoing) -> Result<SavedSlot, String> {
        let Slot { id, fd, path, fresh, anew, broken, watched: _ } = self;
        let fd = out.put(format_args!("socket.{}", id.0), fd.as_fd())?;
        Ok(SavedSlot { id: *id, fd, path: path.clone(), fresh: *fresh, anew: *anew, broken: *broken })
    }

    fn restore(saved: SavedSlot, from: &mut Incoming) -> Result<Slot, String> {
        let SavedSlot { id, fd, path, fresh, anew, broken } = saved;
        Ok(Slot { id, fd: from.take(&fd)?.into(), path, fresh, anew, broken, watched: false })
    }
}

impl Steered {
    fn save(&self, out: &mut Outgoing) -> Result<SavedSteered, String> {
        // Probes that are under way are made again, from other ports.
        let Steered { serving, canary, probes: _, tally, counted, shares } = self;
        let tally = tally.as_ref().map(|tally| {
            let (map, spoilt) = tally.parts();
            Ok::<_, String>(SavedTally { map: out.put_short_lived("tally", map)?, spoilt })
        });
        Ok(SavedSteered {
            serving: *serving,
            canary: *canary,
            tally: tally.transpose()?,
            counted: *counted,
            shares: shares.clone(),
        })
    }

    fn restore(saved: SavedSteered, from: &mut Incoming) -> Result<Steered, String> {
        let SavedSteered { serving, canary, tally, counted, shares } = saved;
        // What was counted before our death stays uncounted.
        let map = match &tally {
            Some(saved) => from.take_if_there(&saved.map)?,
            None => None,
        };
        let tally = map.zip(tally).map(|(map, saved)| Tally::restored(map, saved.spoilt));
        Ok(Steered { serving, canary, probes: Vec::new(), tally, counted, shares })
    }
}
