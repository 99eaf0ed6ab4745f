//! The filters of a unit's processes in a stored state. Nothing is
//! stored while a call was received and not answered.

use super::{Adopted, Filter, Filters};
use crate::daemon::saved::{Incoming, Key, Outgoing, StoredPath};
use crate::daemon::sockets::Wanted;
use crate::machine::event::Gen;
use crate::sys::seccomp::Listener;
use crate::sys::unixpath::Site;
use crate::time::Monotime;
use crate::unit::Listen;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};

/// [`Filters`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedFilters {
    live: Vec<(u32, Key, Gen)>,
    last: u32,
    promoted: Option<Gen>,
    expected: Vec<Listen>,
    given: Vec<(Monotime, Gen, Listen)>,
    looks: Vec<(Monotime, Gen)>,
    #[serde(default)]
    clients: Vec<Listen>,
    said: Vec<String>,
    refused: Option<String>,
}

/// [`Adopted`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedAdopted {
    bound: Vec<(u64, Wanted)>,
    own: Vec<(u64, Listen)>,
    datagrams: Vec<(u64, Wanted)>,
    sites: Vec<(u64, StoredPath)>,
    listening: Vec<Listen>,
    refused: bool,
    answers_until: Option<Monotime>,
}

impl Filters {
    /// Stores them.
    ///
    /// # Errors
    /// Those of [`Outgoing::put`].
    pub fn save(&self, out: &mut Outgoing) -> Result<SavedFilters, String> {
        let Filters { live, last, promoted, expected, given, looks, clients, said, refused } = self;
        let mut saved = Vec::with_capacity(live.len());
        // Nothing is stored while a call has no answer; who was paused is heard again.
        for (id, Filter { listener, generation, pending: _, paused: _ }) in live {
            saved.push((*id, out.put(format_args!("filter.{id}"), listener.as_fd())?, *generation));
        }
        saved.sort_by_key(|(id, ..)| *id);
        Ok(SavedFilters {
            live: saved,
            last: *last,
            promoted: *promoted,
            expected: expected.clone(),
            given: given.clone(),
            looks: looks.clone(),
            clients: clients.clone(),
            said: said.clone(),
            refused: refused.clone(),
        })
    }

    /// The filters again.
    ///
    /// # Errors
    /// Those of [`Incoming::take`].
    pub fn restore(saved: SavedFilters, from: &mut Incoming) -> Result<Filters, String> {
        let SavedFilters { live, last, promoted, expected, given, looks, clients, said, refused } = saved;
        let mut filters =
            Filters { last, promoted, expected, given, looks, clients, said, refused, live: HashMap::new() };
        for (id, key, generation) in live {
            let listener = Listener::new(from.take(&key)?);
            filters.live.insert(id, Filter { listener, generation, pending: Vec::new(), paused: None });
        }
        Ok(filters)
    }

    /// What to wait on, by number.
    pub fn watched(&self) -> Vec<(u32, BorrowedFd<'_>)> {
        self.live.iter().map(|(id, filter)| (*id, filter.listener.as_fd())).collect()
    }
}

impl Adopted {
    /// Stores it.
    pub fn save(&self) -> SavedAdopted {
        let Adopted { bound, own, datagrams, sites, listening, refused, answers_until } = self;
        let mut sites: Vec<(u64, StoredPath)> =
            sites.iter().map(|(inode, site)| (*inode, StoredPath(site.path.clone()))).collect();
        sites.sort_by_key(|(inode, _)| *inode);
        SavedAdopted {
            bound: sorted(bound),
            own: sorted(own),
            datagrams: sorted(datagrams),
            sites,
            listening: listening.clone(),
            refused: *refused,
            answers_until: *answers_until,
        }
    }

    /// It again.
    pub fn restore(saved: SavedAdopted) -> Adopted {
        let SavedAdopted { bound, own, datagrams, sites, listening, refused, answers_until } = saved;
        // A folder that is gone has no socket in it that could still listen.
        let site = |(inode, path): (u64, StoredPath)| Some((inode, Site::of(&path.0).ok()?));
        Adopted {
            bound: bound.into_iter().collect(),
            own: own.into_iter().collect(),
            datagrams: datagrams.into_iter().collect(),
            sites: sites.into_iter().filter_map(site).collect(),
            listening,
            refused,
            answers_until,
        }
    }
}

/// By inode number: the same text for the same state.
fn sorted<T: Clone>(map: &HashMap<u64, T>) -> Vec<(u64, T)> {
    let mut all: Vec<(u64, T)> = map.iter().map(|(inode, what)| (*inode, what.clone())).collect();
    all.sort_by_key(|(inode, _)| *inode);
    all
}
