//! The descriptor store in a stored state.

use super::{Change, FdStore, Stored};
use crate::daemon::saved::{Incoming, Key, Outgoing};
use crate::machine::event::Gen;
use serde::{Deserialize, Serialize};
use std::os::fd::AsFd;

/// An [`FdStore`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedStore {
    held: Vec<SavedStored>,
    pending: Vec<(Gen, Vec<SavedChange>)>,
    serving: Option<Gen>,
    next_id: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedStored {
    name: String,
    fd: Key,
    watched: bool,
    id: u32,
}

#[derive(Debug, Serialize, Deserialize)]
enum SavedChange {
    Add(SavedStored),
    Remove(String),
}

impl FdStore {
    /// Stores it.
    ///
    /// # Errors
    /// Those of [`Outgoing::put`].
    pub fn save(&self, out: &mut Outgoing) -> Result<SavedStore, String> {
        // What was dropped is only to be closed.
        let FdStore { held, pending, serving, next_id, dropped: _ } = self;
        let mut waiting = Vec::new();
        for (generation, changes) in pending {
            let changes = changes.iter().map(|change| {
                Ok::<_, String>(match change {
                    Change::Add(stored) => SavedChange::Add(stored.save(out)?),
                    Change::Remove(name) => SavedChange::Remove(name.clone()),
                })
            });
            waiting.push((*generation, changes.collect::<Result<_, _>>()?));
        }
        Ok(SavedStore {
            held: held.iter().map(|stored| stored.save(out)).collect::<Result<_, _>>()?,
            pending: waiting,
            serving: *serving,
            next_id: *next_id,
        })
    }

    /// The store again; [`FdStore::take_unwatched`] gives all that is to be watched.
    ///
    /// # Errors
    /// Those of [`Incoming::take`].
    pub fn restore(saved: SavedStore, from: &mut Incoming) -> Result<FdStore, String> {
        let SavedStore { held, pending, serving, next_id } = saved;
        let mut store = FdStore { serving, next_id, ..FdStore::default() };
        for stored in held {
            store.held.push(Stored::restore(stored, from)?);
        }
        for (generation, changes) in pending {
            let changes = changes.into_iter().map(|change| {
                Ok::<_, String>(match change {
                    SavedChange::Add(stored) => Change::Add(Stored::restore(stored, from)?),
                    SavedChange::Remove(name) => Change::Remove(name),
                })
            });
            store.pending.insert(generation, changes.collect::<Result<_, _>>()?);
        }
        Ok(store)
    }
}

impl Stored {
    fn save(&self, out: &mut Outgoing) -> Result<SavedStored, String> {
        let Stored { name, fd, watched, id, polled: _ } = self;
        let fd = out.put(format_args!("stored.{id}"), fd.as_fd())?;
        Ok(SavedStored { name: name.clone(), fd, watched: *watched, id: *id })
    }

    fn restore(saved: SavedStored, from: &mut Incoming) -> Result<Stored, String> {
        let SavedStored { name, fd, watched, id } = saved;
        Ok(Stored { name, fd: from.take(&fd)?.into(), watched, id, polled: false })
    }
}
