//! The descriptor store of a unit (FDSTORE=1, sd_notify(3)).
//!
//! It belongs to the unit: a launch gets what is in it at that moment. A generation that is not yet promoted
//! changes a list of its own, which counts from its promotion; what a draining one says is dropped.

mod saved;

pub use saved::SavedStore;

use crate::machine::event::Gen;
use crate::sys::aside::Foreign;
use crate::sys::fd;
use std::collections::BTreeMap;
use std::os::fd::AsFd;

/// The name under which `[State] Descriptor` hands state on.
pub const STATE: &str = "aeterna-state";

/// A descriptor in the store.
#[derive(Debug)]
pub struct Stored {
    /// `FDNAME`, `stored` without one.
    pub name: String,
    /// The descriptor.
    pub fd: Foreign,
    /// Whether a hang-up takes it out (not after `FDPOLL=0`).
    pub watched: bool,
    /// A number for the poller, never used again in one daemon.
    pub id: u32,
    /// Whether [`FdStore::take_unwatched`] has given it to the poller.
    polled: bool,
}

/// How many names FDSTOREREMOVE=1 can wait for a promotion with, at the least: else as many as can be stored.
const REMOVALS: usize = 64;

#[derive(Debug)]
enum Change {
    Add(Stored),
    Remove(String),
}

/// The store of one unit.
#[derive(Debug, Default)]
pub struct FdStore {
    held: Vec<Stored>,
    /// Changes of generations that are not promoted yet.
    pending: BTreeMap<Gen, Vec<Change>>,
    serving: Option<Gen>,
    next_id: u32,
    /// What the poller has and the store no longer.
    dropped: Vec<Stored>,
}

/// What became of descriptors that were to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// All are in the store, or will be at the promotion.
    All,
    /// So many were above the limit.
    Refused(usize),
    /// They come from a draining generation, whose word counts for nothing.
    Ignored,
}

impl FdStore {
    /// What a launch gets, in the order in which it was stored.
    pub fn held(&self) -> impl Iterator<Item = &Stored> {
        self.held.iter()
    }

    /// How many descriptors are held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Takes descriptors from a generation. `max` is `FileDescriptorStoreMax`: what is over it is closed. What is
    /// called [`STATE`] takes the place of the one before, and one of them is always held: whether it may be
    /// stored at all is the caller's to say.
    pub fn store(
        &mut self,
        generation: Gen,
        name: &str,
        fds: Vec<impl Into<Foreign>>,
        watched: bool,
        max: u32,
    ) -> Taken {
        if self.serving.is_some_and(|serving| generation < serving) {
            return Taken::Ignored;
        }
        let mut refused = 0;
        for fd in fds {
            if name == STATE {
                let pending = self.pending.entry(generation).or_default();
                pending.retain(|change| !matches!(change, Change::Add(stored) if stored.name == STATE));
            } else if self.counted(generation) >= max as usize {
                refused += 1;
                continue;
            }
            self.next_id = self.next_id.wrapping_add(1);
            let id = self.next_id;
            let stored = Stored { name: name.to_owned(), fd: fd.into(), watched, id, polled: false };
            if self.serving == Some(generation) {
                self.add(stored);
            } else {
                self.pending.entry(generation).or_default().push(Change::Add(stored));
            }
        }
        if refused > 0 { Taken::Refused(refused) } else { Taken::All }
    }

    /// What the poller is to watch from now on.
    pub fn take_unwatched(&mut self) -> impl Iterator<Item = &Stored> {
        self.held.iter_mut().filter(|stored| stored.watched && !stored.polled).map(|stored| {
            stored.polled = true;
            &*stored
        })
    }

    /// What the poller is to forget, before it is closed.
    pub fn take_dropped(&mut self) -> Vec<Stored> {
        std::mem::take(&mut self.dropped)
    }

    fn drop_those(&mut self, which: impl Fn(&Stored) -> bool) {
        self.dropped.extend(self.held.extract_if(.., |stored| which(stored)));
    }

    /// What counts against the limit, beside the state.
    fn counted(&self, generation: Gen) -> usize {
        let held = self.held.iter().filter(|stored| stored.name != STATE).count();
        let waits = |change: &&Change| matches!(change, Change::Add(stored) if stored.name != STATE);
        held + self.pending.get(&generation).map_or(0, |waiting| waiting.iter().filter(waits).count())
    }

    /// `FDSTOREREMOVE=1`. Returns whether it was taken: before its promotion a generation can name no more than the
    /// store could hold (`max` is `FileDescriptorStoreMax`), each name once.
    pub fn remove(&mut self, generation: Gen, name: &str, max: u32) -> bool {
        if self.serving == Some(generation) {
            self.drop_those(|stored| stored.name == name);
            return true;
        }
        if self.serving.is_some_and(|serving| generation < serving) {
            return true;
        }
        let waiting = self.pending.entry(generation).or_default();
        // What it has stored itself under this name is gone at once, like everything of that name at the promotion.
        for change in waiting.extract_if(.., |change| matches!(change, Change::Add(s) if s.name == name)) {
            if let Change::Add(stored) = change {
                self.dropped.push(stored);
            }
        }
        let names =
            || waiting.iter().filter_map(|c| if let Change::Remove(name) = c { Some(name) } else { None });
        if names().any(|known| known == name) {
            return true;
        }
        if names().count() > REMOVALS.max(max as usize) {
            return false;
        }
        waiting.push(Change::Remove(name.to_owned()));
        true
    }

    /// Takes out what hung up.
    pub fn hung_up(&mut self, id: u32) {
        self.drop_those(|stored| stored.id == id);
    }

    /// This generation serves from now on: what it said before counts.
    pub fn promoted(&mut self, generation: Gen) {
        self.serving = Some(generation);
        for change in self.pending.remove(&generation).unwrap_or_default() {
            match change {
                Change::Add(stored) => self.add(stored),
                Change::Remove(name) => self.drop_those(|stored| stored.name == name),
            }
        }
        self.pending.retain(|waiting, _| *waiting > generation);
    }

    /// A generation has gone: what it had said and never counted is dropped.
    pub fn forget(&mut self, generation: Gen) {
        self.pending.remove(&generation);
    }

    /// `stop`: empties it.
    pub fn clear(&mut self) {
        self.drop_those(|_| true);
        self.pending.clear();
    }

    fn add(&mut self, stored: Stored) {
        if stored.name == STATE {
            // Only the last one is the state.
            self.drop_those(|have| have.name == STATE);
        }
        // As sd_notify(3): a copy of one that is there is dropped, whatever its name.
        let mut others = self.held.iter().filter(|have| (have.name == STATE) == (stored.name == STATE));
        if !others.any(|have| fd::same(have.fd.as_fd(), stored.fd.as_fd())) {
            self.held.push(stored);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    fn file() -> OwnedFd {
        tempfile::tempfile().unwrap().into()
    }

    fn names(store: &FdStore) -> Vec<&str> {
        store.held().map(|s| s.name.as_str()).collect()
    }

    #[test]
    fn a_new_generations_changes_count_from_promotion() {
        let mut store = FdStore::default();
        store.store(Gen(1), "a", vec![file()], true, 8);
        assert!(store.is_empty());
        store.promoted(Gen(1));
        assert_eq!(names(&store), ["a"]);
        store.store(Gen(2), "b", vec![file()], true, 8);
        assert!(store.remove(Gen(2), "a", 8));
        assert_eq!(names(&store), ["a"]);
        store.store(Gen(1), "c", vec![file()], true, 8);
        store.promoted(Gen(2));
        assert_eq!(names(&store), ["c", "b"]);
    }

    #[test]
    fn a_rollback_drops_and_a_draining_one_is_ignored() {
        let mut store = FdStore::default();
        store.promoted(Gen(2));
        assert_eq!(store.store(Gen(1), "old", vec![file()], true, 8), Taken::Ignored);
        store.store(Gen(3), "new", vec![file()], true, 8);
        store.forget(Gen(3));
        store.promoted(Gen(4));
        assert!(store.is_empty());
    }

    #[test]
    fn state_takes_the_place_of_state_whatever_the_limit() {
        let mut store = FdStore::default();
        store.promoted(Gen(1));
        for _ in 0..3 {
            assert_eq!(store.store(Gen(1), STATE, vec![file()], false, 0), Taken::All);
        }
        assert_eq!(names(&store), [STATE]);
        assert_eq!(
            store.store(Gen(1), "x", vec![file(), file()], true, 1),
            Taken::Refused(1),
            "the state counts for nothing"
        );
        for _ in 0..3 {
            assert_eq!(store.store(Gen(2), STATE, vec![file()], false, 0), Taken::All);
        }
        let before = store.held().next().map(|s| s.id);
        store.promoted(Gen(2));
        assert_eq!(names(&store), ["x", STATE]);
        assert_ne!(store.held().last().map(|s| s.id), before);
    }

    #[test]
    fn the_limit_and_duplicates() {
        let mut store = FdStore::default();
        store.promoted(Gen(1));
        let one = file();
        let same = one.try_clone().unwrap();
        assert_eq!(store.store(Gen(1), "x", vec![one, same], true, 8), Taken::All);
        assert_eq!(store.len(), 1);
        let copy = store.held().next().unwrap().fd.as_fd().try_clone_to_owned().unwrap();
        store.store(Gen(1), "other", vec![copy], true, 8);
        assert_eq!(names(&store), ["x"], "a copy is dropped whatever its name");
        assert_eq!(store.store(Gen(1), "y", vec![file(), file(), file()], true, 2), Taken::Refused(2));
        assert_eq!(store.len(), 2);
    }

    #[test]
    fn a_flood_of_removals_before_a_promotion_keeps_each_name_once_and_not_too_many() {
        let mut store = FdStore::default();
        let waiting = |store: &FdStore| store.pending.values().map(Vec::len).sum::<usize>();
        for _ in 0..10_000 {
            assert!(store.remove(Gen(1), "same", 8));
        }
        assert_eq!(waiting(&store), 1);
        let taken = (0..10_000).filter(|n| store.remove(Gen(1), &n.to_string(), 8)).count();
        assert_eq!((taken, waiting(&store)), (REMOVALS, REMOVALS + 1));
        // They take no room from descriptors.
        assert_eq!(store.store(Gen(1), "x", (0..8).map(|_| file()).collect(), true, 8), Taken::All);
        assert_eq!(store.store(Gen(1), "x", vec![file()], true, 8), Taken::Refused(1));
        assert!(store.remove(Gen(1), "same", 8));
        store.promoted(Gen(1));
        assert_eq!(store.len(), 8);
    }

    #[test]
    fn a_removal_before_the_promotion_counts_in_its_place() {
        let mut store = FdStore::default();
        store.store(Gen(1), "a", vec![file()], true, 8);
        store.remove(Gen(1), "a", 8);
        assert_eq!(store.take_dropped().len(), 1, "closed at once");
        store.store(Gen(1), "a", vec![file()], true, 8);
        store.remove(Gen(1), "b", 8);
        store.promoted(Gen(1));
        assert_eq!(names(&store), ["a"]);
    }

    #[test]
    fn both_ends_of_a_pipe_and_one_file_opened_twice_are_not_the_same() {
        let mut store = FdStore::default();
        store.promoted(Gen(1));
        let (source, sink) = fd::pipe().unwrap();
        store.store(Gen(1), "pipe", vec![source, sink], true, 8);
        assert_eq!(store.len(), 2);
        let path = tempfile::NamedTempFile::new().unwrap();
        let open = || OwnedFd::from(std::fs::File::open(path.path()).unwrap());
        store.store(Gen(1), "file", vec![open(), open()], true, 8);
        assert_eq!(store.len(), 4);
    }

    #[test]
    fn what_was_watched_is_given_back_before_it_is_closed() {
        let mut store = FdStore::default();
        store.promoted(Gen(1));
        store.store(Gen(1), "a", vec![file(), file()], true, 8);
        store.store(Gen(1), "plain", vec![file()], false, 8);
        store.store(Gen(1), STATE, vec![file()], true, 8);
        assert_eq!(store.take_unwatched().count(), 3);
        assert_eq!(store.take_unwatched().count(), 0, "once each");
        store.store(Gen(1), STATE, vec![file()], true, 8);
        let dropped = |store: &mut FdStore| {
            store.take_dropped().iter().map(|stored| stored.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(dropped(&mut store), [STATE], "a newer one took its place");
        store.remove(Gen(2), "a", 8);
        assert!(dropped(&mut store).is_empty());
        store.promoted(Gen(2));
        assert_eq!(dropped(&mut store), ["a", "a"]);
        store.clear();
        assert_eq!(dropped(&mut store), ["plain", STATE]);
    }
}
