//! Who holds copies of our descriptors, and what he has.

use crate::daemon::launch::describe;
use crate::daemon::saved::{Key, Outgoing};
use crate::sys::fd;
use crate::sys::keeper::{Link, News};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The keeper's socket in the runtime dir.
const SOCKET: &str = "keeper.sock";

/// A descriptor that is held, or could not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// What the holder calls it. Never used again for another one.
    pub number: u64,
    /// Its device and inode.
    pub file: (u64, u64),
}

/// By unit and name.
type Names = BTreeMap<String, BTreeMap<Key, Held>>;

/// Who holds copies of our descriptors.
#[derive(Debug)]
pub struct Holder {
    /// Where the keeper listens; `None`: there is to be none.
    path: Option<PathBuf>,
    link: Option<Link>,
    /// One that has broken, and is still in the poll set.
    lost: Option<Link>,
    /// The keeper, if it is our child.
    pid: Option<i32>,
    last: u64,
    names: Names,
    /// Which it had no room for.
    full: BTreeSet<u64>,
    /// Why there is none.
    why: String,
}

/// What another program needs to go on with the same keeper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedHolder {
    path: Option<crate::daemon::saved::StoredPath>,
    link: Option<Key>,
    pid: Option<i32>,
    last: u64,
    names: Names,
    full: BTreeSet<u64>,
    why: String,
}

impl Holder {
    /// Nobody.
    pub fn none(why: &str) -> Holder {
        Holder {
            path: None,
            link: None,
            lost: None,
            pid: None,
            last: 0,
            names: Names::new(),
            full: BTreeSet::new(),
            why: why.to_owned(),
        }
    }

    /// A keeper in this runtime dir, from [`Holder::begin`] on.
    pub fn keeper(dir: &Path) -> Holder {
        Holder { path: Some(dir.join(SOCKET)), ..Holder::none("") }
    }

    /// The keeper that somebody before us has left, and what it has, by its numbers.
    ///
    /// # Errors
    /// It is there, and cannot be used: why.
    pub fn find(dir: &Path) -> Result<(Holder, BTreeMap<u64, OwnedFd>), String> {
        let mut holder = Holder::keeper(dir);
        let path = dir.join(SOCKET);
        match Link::find(&path) {
            Ok(None) => Ok((holder, BTreeMap::new())),
            Ok(Some((link, all))) => {
                holder.link = Some(link);
                holder.last = all.keys().next_back().copied().unwrap_or_default();
                Ok((holder, all))
            }
            Err(error) => Err(format!("the keeper at {}: {}", path.display(), describe(&error))),
        }
    }

    /// What it holds for a unit that was restored.
    pub fn know(&mut self, unit: &str, names: BTreeMap<Key, Held>) {
        self.last = names.values().map(|held| held.number).fold(self.last, u64::max);
        self.names.insert(unit.to_owned(), names);
    }

    /// What it held for a unit that is gone, to be let go.
    pub fn forget(&mut self, unit: &str) -> Vec<u64> {
        self.names.remove(unit).unwrap_or_default().into_values().map(|held| held.number).collect()
    }

    /// Numbers up to this one are taken.
    pub fn skip_to(&mut self, number: u64) {
        self.last = self.last.max(number);
    }

    /// Starts the keeper, if there is to be one and none was found.
    pub fn begin(&mut self) {
        if self.link.is_none() {
            self.try_again();
        }
    }

    /// Starts a keeper. Whether there is one now.
    pub fn try_again(&mut self) -> bool {
        let Some(path) = self.path.as_ref().filter(|_| self.link.is_none()) else { return false };
        match Link::start(path) {
            Ok((link, pid)) => {
                (self.link, self.pid) = (Some(link), Some(pid));
                self.names.clear();
                self.full.clear();
                self.why.clear();
                true
            }
            Err(error) => {
                let why = format!("no keeper can be started: {}", describe(&error));
                if self.why != why {
                    log::warn!("{why}; sockets that no service holds would be lost with aeternad");
                }
                self.why = why;
                false
            }
        }
    }

    /// What to wait on.
    pub fn link(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(Link::as_fd)
    }

    /// `keeper` or `none`.
    pub fn kind(&self) -> &'static str {
        if self.link.is_some() { "keeper" } else { "none" }
    }

    /// Why not everything is held; nothing if it is.
    pub fn why(&self) -> Option<String> {
        match (self.link.is_some(), self.full.len()) {
            (true, 0) => None,
            (true, count) => {
                Some(format!("the keeper has no room for {count} descriptors: raise LimitNOFILE"))
            }
            (false, _) => Some(self.why.clone()),
        }
    }

    /// The keeper's pid, if it is our child.
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Has the descriptors of a unit held, those that are not yet. What the journal is to say of them, and which are to
    /// be let go once it does.
    pub fn put(&mut self, unit: &str, out: &Outgoing) -> (BTreeMap<Key, Held>, Vec<u64>) {
        let before = self.names.remove(unit).unwrap_or_default();
        let mut now = BTreeMap::new();
        let mut fresh = Vec::new();
        for (key, number) in out.numbers() {
            let file = fd::identity(*number).unwrap_or_default();
            let held = match before.get(key) {
                Some(held) if held.file == file => *held,
                _ => {
                    self.last += 1;
                    fresh.push((self.last, *number));
                    Held { number: self.last, file }
                }
            };
            now.insert(key.clone(), held);
        }
        let kept: BTreeSet<u64> = now.values().map(|held| held.number).collect();
        let over = before.values().map(|held| held.number).filter(|number| !kept.contains(number)).collect();
        if let Some(Err(error)) = self.link.as_ref().map(|link| link.put(&fresh)) {
            self.lose(&describe(&error));
        }
        self.names.insert(unit.to_owned(), now.clone());
        (now, over)
    }

    /// Lets descriptors go.
    pub fn drop_keys(&mut self, keys: &[u64]) {
        self.full.retain(|number| !keys.contains(number));
        if keys.is_empty() {
            return;
        }
        if let Some(Err(error)) = self.link.as_mut().map(|link| link.drop(keys)) {
            self.lose(&describe(&error));
        }
    }

    /// Waits until what was to be let go is closed: its address is free.
    pub fn settle(&mut self) {
        match self.link.as_mut().map(Link::settle) {
            None => {}
            Some(Ok(news)) => self.take(news),
            Some(Err(error)) => self.lose(&describe(&error)),
        }
    }

    /// Reads what the keeper has said.
    pub fn read(&mut self) {
        let news = self.link.as_mut().map(Link::read).unwrap_or_default();
        self.take(news);
    }

    fn take(&mut self, news: Vec<News>) {
        for one in news {
            match one {
                News::Gone => self.lose("it has ended"),
                News::Full(keys) => {
                    if self.full.is_empty() {
                        log::warn!(
                            "the keeper has no room for {} descriptors: they would be lost with aeternad; raise LimitNOFILE",
                            keys.len()
                        );
                    }
                    self.full.extend(keys);
                }
            }
        }
    }

    fn lose(&mut self, why: &str) {
        let Some(link) = self.link.take() else { return };
        log::warn!("the keeper of our descriptors is lost: {why}");
        link.kill();
        self.lost = Some(link);
        self.names.clear();
        self.why = format!("the keeper was lost: {why}");
    }

    /// The link to a keeper that nobody would find: its name was removed.
    pub fn take_unreachable(&mut self) -> Option<Link> {
        let path = self.path.as_ref()?;
        if crate::sys::unixpath::identity(path).is_some() { None } else { self.link.take() }
    }

    /// A link that has broken.
    pub fn take_lost(&mut self) -> Option<Link> {
        self.lost.take()
    }

    /// Whether a process that was reaped was the keeper.
    pub fn reaped(&mut self, pid: i32) -> bool {
        let is_it = self.pid == Some(pid);
        if is_it {
            self.pid = None;
        }
        is_it
    }

    /// Nobody comes after us: ends the keeper.
    pub fn end(&mut self) {
        if let Some(link) = self.link.take() {
            link.quit();
        }
        if let Some(path) = &self.path {
            let _ = crate::sys::dir::remove_file(path);
        }
    }

    /// For another program.
    ///
    /// # Errors
    /// Those of [`Outgoing::put`].
    pub fn save(&self, out: &mut Outgoing) -> Result<SavedHolder, String> {
        let Holder { path, link, lost: _, pid, last, names, full, why } = self;
        Ok(SavedHolder {
            path: path.clone().map(crate::daemon::saved::StoredPath),
            link: link.as_ref().map(|link| out.put("keeper", link.as_fd())).transpose()?,
            pid: *pid,
            last: *last,
            names: names.clone(),
            full: full.clone(),
            why: why.clone(),
        })
    }

    /// The holder again.
    ///
    /// # Errors
    /// Those of [`crate::daemon::saved::Incoming::take`].
    pub fn restore(saved: SavedHolder, from: &mut crate::daemon::saved::Incoming) -> Result<Holder, String> {
        let SavedHolder { path, link, pid, last, names, full, why } = saved;
        let link = link.map(|key| from.take(&key).map(|fd| Link::restored(fd, pid))).transpose()?;
        Ok(Holder { path: path.map(|path| path.0), link, lost: None, pid, last, names, full, why })
    }
}
