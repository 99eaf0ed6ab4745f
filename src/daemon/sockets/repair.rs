//! Sockets that a process has shut down, and names that somebody has removed.

use super::endpoint::{Endpoint, Slot, Way};
use super::steering::Steered;
use super::{ListenSet, SocketId, Watched};
use crate::sys::dir::Folder;
use crate::sys::inotify::Watcher;
use crate::sys::{aside, socket, steer, unixpath};
use crate::unit::{Address, ListenKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// Takes a slot out of its group and lets it listen again as the last one. What goes where is right before it
/// is back, and again after.
pub(super) fn relisten(endpoint: &mut Endpoint, slot: usize, steered: &Steered) -> Result<(), String> {
    let error = |endpoint: &Endpoint, error: std::io::Error| {
        format!("cannot listen on {} again: {}", endpoint.address, socket::errno_text(&error))
    };
    let Some(member) = endpoint.slots.get(slot) else { return Ok(()) };
    steer::leave(member.fd.as_fd()).map_err(|e| error(endpoint, e))?;
    // The last member moves into the hole.
    if let Some(at) = endpoint.order.iter().position(|known| *known == slot) {
        endpoint.order.swap_remove(at);
    }
    // Where nobody is left the group, and its program with it, is gone.
    endpoint.attached.clear();
    steered.apply(endpoint).map_err(|e| error(endpoint, e))?;
    let backlog = endpoint.options.backlog;
    socket::listen(endpoint.slots[slot].fd.as_fd(), backlog).map_err(|e| error(endpoint, e))?;
    endpoint.order.push(slot);
    endpoint.attached.clear();
    steered.apply(endpoint).map_err(|e| error(endpoint, e))
}

/// Makes a slot's socket work again if somebody has shut it down; whether that was so. The error is a sentence.
pub(super) fn revive(endpoint: &mut Endpoint, slot: usize, steered: &Steered) -> Result<bool, String> {
    let Some(member) = endpoint.slots.get(slot) else { return Ok(false) };
    if !member.broken && !socket::hung_up(member.fd.as_fd()) {
        return Ok(false);
    }
    match (endpoint.way, &endpoint.listen.address) {
        (Way::Group, _) => relisten(endpoint, slot, steered)?,
        (Way::Flows, _) => endpoint.renew_flow_slot(slot)?,
        (_, Address::Path(_)) => {
            endpoint.renew(slot)?;
            steered.apply(endpoint).map_err(|error| super::steering::refused(endpoint, &error))?;
        }
        (_, Address::Abstract(_)) => reopen(endpoint, slot)?,
        _ if endpoint.listen.kind == ListenKind::Datagram => reopen(endpoint, slot)?,
        _ => {
            let fd = member.fd.as_fd();
            let left = if endpoint.at.is_some() { steer::leave(fd) } else { Ok(()) };
            left.and_then(|()| socket::listen(fd, endpoint.options.backlog)).map_err(|error| {
                format!("cannot listen on {} again: {}", endpoint.address, socket::errno_text(&error))
            })?;
        }
    }
    endpoint.slots[slot].broken = false;
    endpoint.repairs += 1;
    Ok(true)
}

/// Binds the address anew: possible as soon as nobody else holds the old socket.
fn reopen(endpoint: &mut Endpoint, slot: usize) -> Result<(), String> {
    let placeholder =
        crate::sys::fd::dev_null().map_err(|error| format!("cannot open /dev/null: {error}"))?;
    let member = &mut endpoint.slots[slot];
    member.fd = placeholder.into();
    member.watched = false;
    member.broken = true;
    member.anew |= !member.fresh;
    member.fresh = true;
    let mut listen = endpoint.listen.clone();
    if let Some(at) = endpoint.at {
        listen.address = Address::Inet(at);
    }
    let opened =
        socket::open(&listen, &endpoint.options, socket::Place::Alone).map_err(|error| error.text)?;
    member.fd = opened.fd.into();
    endpoint.born = std::sync::Arc::clone(&endpoint.options);
    Ok(())
}

impl ListenSet {
    /// A socket hung up: a process has shut it down. Makes it listen again, or makes it anew, and says so in
    /// words for the log; `None` if nothing was wrong.
    ///
    /// The descriptor behind the id may be another one afterwards: take the old one from the poller before,
    /// and register what [`ListenSet::watch_list`] gives then.
    pub fn repair(&mut self, id: SocketId) -> Option<String> {
        for endpoint in &mut self.endpoints {
            let Some(slot) = endpoint.slots.iter().position(|slot| slot.id == id) else { continue };
            let renewed = endpoint.way == Way::Renamed || endpoint.path.is_some();
            return match revive(endpoint, slot, &self.steered) {
                Ok(false) => None,
                Ok(true) if renewed => Some(format!(
                    "a process has shut down {}: made it anew, processes that run have the old one",
                    endpoint.address
                )),
                Ok(true) => {
                    Some(format!("a process has shut down {}: listening on it again", endpoint.address))
                }
                Err(error) => {
                    endpoint.slots[slot].broken = true;
                    Some(format!("a process has shut down {}: {error}", endpoint.address))
                }
            };
        }
        None
    }

    /// Sockets to watch, each with its slot if its address has slots. One that cannot be repaired is left out until it
    /// is lent again.
    pub fn watch_list(&self) -> Vec<Watched<'_>> {
        self.watchable(|_| true)
    }

    /// Those of [`ListenSet::watch_list`] that the poll set does not have yet: a slot that was made, a socket that was
    /// made anew.
    pub fn unwatched(&self) -> Vec<Watched<'_>> {
        self.watchable(|slot| !slot.watched)
    }

    fn watchable(&self, wanted: impl Fn(&Slot) -> bool) -> Vec<Watched<'_>> {
        let mut found = Vec::new();
        for endpoint in &self.endpoints {
            let slots = endpoint.slots.iter().enumerate().filter(|(_, slot)| !slot.broken && wanted(slot));
            found.extend(slots.map(|(number, slot)| Watched {
                id: slot.id,
                slot: endpoint.steered().then_some(number as u32),
                fd: slot.fd.as_fd(),
            }));
        }
        found
    }

    /// The poll set has all of them, or none any more.
    pub fn set_watched(&mut self, watched: bool) {
        let slots = self.endpoints.iter_mut().flat_map(|endpoint| &mut endpoint.slots);
        slots.filter(|slot| !slot.broken).for_each(|slot| slot.watched = watched);
    }

    /// What has to leave the poll set before it is closed.
    pub fn take_retired(&mut self) -> Vec<aside::Lent> {
        self.endpoints.iter_mut().flat_map(|endpoint| std::mem::take(&mut endpoint.retired)).collect()
    }

    /// Sockets that somebody has shut down.
    pub fn hung_up(&self) -> Vec<SocketId> {
        let slots = self.endpoints.iter().flat_map(|endpoint| &endpoint.slots);
        slots.filter(|slot| !slot.broken && socket::hung_up(slot.fd.as_fd())).map(|slot| slot.id).collect()
    }

    /// Readable when one of our names may have been removed or replaced: call [`ListenSet::check_paths`] then.
    /// `None` if there is no name, or no inotify left: then call it now and again.
    pub fn path_watch(&self) -> Option<BorrowedFd<'_>> {
        self.paths.as_ref().map(Watcher::fd)
    }

    /// Whether a name in the file system is one that this set makes, moves or removes.
    pub fn makes(&self, path: &Path) -> bool {
        let (Some(at), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return false;
        };
        let identity = |folder: &Path| Folder::open(folder).ok()?.identity();
        let same_folder = |other: &Path| {
            let other = other.parent().unwrap_or(other);
            other == at || identity(other).is_some_and(|other| identity(at) == Some(other))
        };
        let is_it = |own: &str| {
            let own = Path::new(own);
            let Some(plain) = own.file_name() else { return false };
            let hidden = unixpath::hidden(plain, "");
            let is_hidden = hidden.to_str().is_some_and(|hidden| name.starts_with(hidden));
            (plain.to_str() == Some(name) || is_hidden) && same_folder(own)
        };
        name.starts_with(unixpath::TEMPORARY)
            || self.endpoints.iter().any(|endpoint| match &endpoint.listen.address {
                Address::Path(own) => {
                    is_it(own) || endpoint.options.symlinks.iter().any(|alias| is_it(alias))
                }
                _ => false,
            })
    }

    /// Puts back every name that somebody has removed; what was done, as sentences for the log. After it
    /// descriptors may be others, as after [`ListenSet::repair`].
    pub fn check_paths(&mut self) -> Vec<String> {
        if let Some(watcher) = &mut self.paths {
            // Only the wake-up matters: which name it was, lstat(2) tells.
            let _ = watcher.read();
        }
        let mut done = Vec::new();
        for endpoint in &mut self.endpoints {
            if let Some(text) = check(endpoint, &self.steered) {
                endpoint.repairs += 1;
                done.push(text);
            }
        }
        done
    }

    /// Watches the folders of all names.
    pub(super) fn watch_folders(&mut self) {
        let names: Vec<_> =
            self.endpoints.iter().filter_map(|e| Some(e.path.as_ref()?.path.clone())).collect();
        self.paths = None;
        if names.is_empty() {
            return;
        }
        let Ok(mut watcher) = Watcher::of_names() else { return };
        if names.iter().all(|name| watcher.add(name).is_ok()) {
            self.paths = Some(watcher);
        }
    }
}

/// Looks at one endpoint's visible name.
fn check(endpoint: &mut Endpoint, steered: &Steered) -> Option<String> {
    let path = endpoint.path.clone().filter(|_| endpoint.hidden.is_none())?;
    let address = endpoint.address.clone();
    match unixpath::identity(&path.path) {
        Some(found) if found == path.inode => {
            endpoint.displaced = None;
            return None;
        }
        Some(found) if endpoint.displaced == Some(found) => return None,
        Some(found) => {
            endpoint.displaced = Some(found);
            return Some(format!(
                "{address} is not ours any more: something else has taken the name, and is left alone"
            ));
        }
        // It is where it was, and the path leads elsewhere: that counts at the next reload.
        None if path.is_ours() => {
            endpoint.displaced = None;
            return None;
        }
        None => endpoint.displaced = None,
    }
    if endpoint.learned && endpoint.keep.as_ref().is_some_and(unixpath::BoundPath::has_other_names) {
        // The program has bound it under a name of the moment, and renamed it.
        endpoint.renamed = super::names::renamed(endpoint);
        endpoint.path = None;
        return None;
    }
    let kept = match endpoint.way {
        Way::Renamed => {
            steered.apply(endpoint).is_ok() && endpoint.path.as_ref().is_some_and(|p| p.is_ours())
        }
        Way::Shared | Way::Group | Way::Flows => {
            endpoint.keep.as_ref().is_some_and(|keep| keep.link_at(&path).is_ok())
        }
    };
    if kept {
        return Some(format!("somebody has removed {address}: put it back, with its queue"));
    }
    if endpoint.learned {
        // Made by the program with its own rights: not by us with ours.
        endpoint.path = None;
        return Some(format!(
            "somebody has removed {address}: nobody finds it until a generation binds it again"
        ));
    }
    Some(match renew_all(endpoint, steered) {
        Ok(()) => {
            format!("somebody has removed {address}: made it anew, processes that run have the old one")
        }
        Err(error) => format!("somebody has removed {address}: {error}"),
    })
}

pub(super) fn renew_all(endpoint: &mut Endpoint, steered: &Steered) -> Result<(), String> {
    if endpoint.listen.kind == ListenKind::Fifo {
        return endpoint.remake_fifo();
    }
    for slot in 0..endpoint.slots.len() {
        endpoint.renew(slot)?;
    }
    steered.apply(endpoint).map_err(|error| super::steering::refused(endpoint, &error))
}
