//! A path that leads to another file system since a reload has begun: its sockets were made anew there, and what it was before
//! is kept until the reload has ended. The generation that goes on after a rollback has nothing else.

use super::ListenSet;
use super::endpoint::Endpoint;
use super::steering::Steered;
use crate::sys::aside::Lent;
use crate::sys::unixpath::BoundPath;
use crate::unit::ListenKind;
use std::os::fd::AsFd;

/// The sockets and names of an address before it was made anew.
#[derive(Debug)]
pub(super) struct Former {
    path: BoundPath,
    keep: Option<BoundPath>,
    slots: Vec<(Lent, Option<BoundPath>)>,
    lent: Vec<usize>,
    target: usize,
}

impl Former {
    /// Takes them out of an address that is about to be made anew; `None` where that cannot be undone.
    pub(super) fn of(endpoint: &mut Endpoint, path: &BoundPath) -> Option<Former> {
        if endpoint.listen.kind == ListenKind::Fifo || !path.is_ours() {
            return None;
        }
        let copy = |slot: &super::endpoint::Slot| {
            Some((slot.fd.as_fd().try_clone_to_owned().ok()?.into(), slot.path.clone()))
        };
        let slots = endpoint.slots.iter().map(copy).collect::<Option<Vec<_>>>()?;
        let (lent, target) = (endpoint.lent.clone(), endpoint.target);
        Some(Former { path: path.clone(), keep: endpoint.keep.take(), slots, lent, target })
    }

    /// The address is what it was before.
    pub(super) fn restore(self, endpoint: &mut Endpoint, steered: &Steered) {
        endpoint.unlink();
        let count = self.slots.len();
        let more = endpoint.slots.split_off(count.min(endpoint.slots.len()));
        endpoint.retired.extend(more.into_iter().map(|slot| slot.fd));
        (endpoint.lent, endpoint.target) = (self.lent, self.target);
        for (slot, (fd, path)) in endpoint.slots.iter_mut().zip(self.slots) {
            endpoint.retired.push(std::mem::replace(&mut slot.fd, fd));
            (slot.path, slot.watched, slot.anew, slot.fresh) = (path, false, false, false);
        }
        endpoint.path = Some(self.path);
        endpoint.keep = self.keep;
        // What it is called there, it is called already.
        let _ = steered.apply(endpoint);
    }

    /// Nobody goes back to it.
    fn discard(self) {
        let hidden = self.slots.iter().filter_map(|(_, path)| path.as_ref());
        for name in hidden.chain(&self.keep).chain([&self.path]) {
            name.remove();
        }
    }
}

impl ListenSet {
    /// A reload has ended. Sentences for the log; descriptors may be others then, as after [`ListenSet::repair`].
    pub fn settle_moved(&mut self, is_promoted: bool) -> Vec<String> {
        let mut done = Vec::new();
        for endpoint in &mut self.endpoints {
            let Some(former) = endpoint.former.take() else { continue };
            if is_promoted {
                former.discard();
                continue;
            }
            former.restore(endpoint, &self.steered);
            done.push(format!(
                "{} leads to a folder on another file system, where the generation that goes on has no name: nobody finds it \
                 until the path leads back, or a reload is promoted",
                endpoint.address
            ));
        }
        if !done.is_empty() {
            self.watch_folders();
        }
        done
    }
}
