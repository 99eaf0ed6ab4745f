//! Where the names of sockets lead now: a link on the way that was switched, a folder that another one has taken the place
//! of, a path that its program has renamed.

use super::ListenSet;
use super::endpoint::{Endpoint, Way, keep};
use super::moved::Former;
use super::steering::Steered;
use crate::sys::socket;
use crate::sys::unixpath::{self, BoundPath, Occupant, Site};
use crate::unit::{Address, Listen};
use std::io;

impl ListenSet {
    /// At a reload a path means what it leads to now: a declared one whose folder is another one gets its name there.
    /// Sentences for the log, and whether any name is another one.
    pub(super) fn follow_names(&mut self, errors: &mut Vec<String>) -> Vec<String> {
        let mut done = Vec::new();
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| !endpoint.learned) {
            match follow(endpoint, &self.steered) {
                Ok(text) => done.extend(text),
                Err(why) => errors.push(why),
            }
        }
        done
    }

    /// A newer program has renamed its socket over a path of the generation that goes on (`listening`): gives the path
    /// back. Sentences for the log.
    pub fn give_names_back(&mut self, listening: &[Listen]) -> Vec<String> {
        let names = self.endpoints.iter().flat_map(|endpoint| endpoint.keep.iter().chain(&endpoint.renamed));
        let ours: Vec<(u64, u64)> = names.map(|name| name.inode).collect();
        let mut done = Vec::new();
        for endpoint in self.endpoints.iter_mut().filter(|e| listening.contains(&e.listen.endpoint())) {
            let (Some(name), Some(keep)) = (&endpoint.renamed, &endpoint.keep) else { continue };
            let place = name.place();
            let is_free = || matches!(unixpath::occupant(&place), Ok(Occupant::Nobody | Occupant::Stale(_)));
            if name.is_ours() || !(place.identity().is_some_and(|inode| ours.contains(&inode)) || is_free()) {
                continue;
            }
            let shown = place.path.display();
            done.push(match keep.replace(&place) {
                Ok(_) => format!("{shown} leads to the generation that goes on again, as before the reload"),
                Err(error) => format!("cannot give {shown} back: {}", socket::errno_text(&error)),
            });
        }
        done
    }

    /// Addresses that were made anew under processes that go on with the old socket: nobody answers there.
    pub fn unserved(&self) -> impl Iterator<Item = &str> {
        self.endpoints.iter().filter(|endpoint| endpoint.is_unserved()).map(|e| e.address.as_str())
    }
}

impl Endpoint {
    /// Whether the socket that users reach was made anew since a process was given it.
    pub(super) fn is_unserved(&self) -> bool {
        self.socket_of(self.target).is_some_and(|slot| slot.anew)
    }
}

/// Gives a path its name where it leads now.
fn follow(endpoint: &mut Endpoint, steered: &Steered) -> Result<Option<String>, String> {
    let Some(path) = endpoint.path.clone() else { return Ok(None) };
    if unixpath::identity(&path.path) == Some(path.inode) {
        return Ok(None);
    }
    let error = |error: io::Error| {
        format!("cannot bind {} where it leads now: {}", endpoint.address, socket::errno_text(&error))
    };
    let site = Site::make(&path.path, endpoint.options.directory_mode).map_err(error)?;
    if site.folder().identity() == path.place().folder().identity() {
        // Its name was removed, or somebody has taken it: that is seen by itself.
        return Ok(None);
    }
    if matches!(unixpath::occupant(&site), Ok(Occupant::Live)) {
        return Err(format!(
            "{} leads to another folder now, and somebody else serves it there",
            endpoint.address
        ));
    }
    socket::make_way(&site, &endpoint.address).map_err(|error| error.text)?;
    let text = match move_names(endpoint, &path, &site, steered) {
        Ok(()) => {
            format!("{} leads to another folder now: it has its name there, and its queue", endpoint.address)
        }
        // Another file system, or the old folder was removed.
        Err(why) => {
            let former = Former::of(endpoint, &path);
            if let Err(error) = super::repair::renew_all(endpoint, steered) {
                former.into_iter().for_each(|former| former.restore(endpoint, steered));
                return Err(error);
            }
            endpoint.former = former;
            let why = socket::errno_text(&why);
            format!("{} leads to another folder now: it was made anew there ({why})", endpoint.address)
        }
    };
    endpoint.displaced = None;
    Ok(Some(text))
}

fn move_names(endpoint: &mut Endpoint, path: &BoundPath, site: &Site, steered: &Steered) -> io::Result<()> {
    if endpoint.way == Way::Renamed {
        for slot in &mut endpoint.slots {
            let Some(hidden) = slot.path.clone() else { continue };
            let place = site.beside(hidden.place().name().to_owned());
            slot.path = Some(hidden.replace(&place)?);
            hidden.remove();
        }
        steered.apply(endpoint)?;
    } else {
        let kept = endpoint.keep.clone().filter(BoundPath::is_ours);
        endpoint.path = Some(kept.as_ref().unwrap_or(path).replace(site)?);
        if let Some(old) = endpoint.keep.take() {
            old.remove();
        }
        endpoint.keep = endpoint.path.as_ref().and_then(keep);
    }
    path.remove();
    Ok(())
}

/// What a program has made of the name under which it had bound its socket; `None` if it is nowhere in that folder.
pub(super) fn renamed(endpoint: &Endpoint) -> Option<BoundPath> {
    endpoint.keep.as_ref().and_then(BoundPath::other_name)
}

/// How people know the address: a program may have bound a name of the moment.
pub(super) fn shown(endpoint: &Endpoint) -> &str {
    let renamed = endpoint.renamed.as_ref().and_then(|name| name.path.to_str());
    match &endpoint.listen.address {
        Address::Path(_) => renamed.unwrap_or(&endpoint.address),
        _ => &endpoint.address,
    }
}
