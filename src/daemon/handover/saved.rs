//! A unit's SRP socket in a stored state.

use super::StateSocket;
use crate::daemon::saved::{Incoming, Key, Outgoing};
use crate::sys::poll::Interest;
use crate::sys::unixpath::BoundPath;
use crate::time::Monotime;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd};

/// A [`StateSocket`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedStateSocket {
    fd: Key,
    again: Option<Monotime>,
    name: BoundPath,
    shown: String,
    owner: Option<(u32, u32)>,
    wanted: Option<String>,
}

impl StateSocket {
    /// Stores it.
    ///
    /// # Errors
    /// Those of [`Outgoing::put`].
    pub fn save(&self, out: &mut Outgoing) -> Result<SavedStateSocket, String> {
        let StateSocket { fd, again, name, shown, owner, wanted, is_ours: _ } = self;
        Ok(SavedStateSocket {
            fd: out.put("srp", fd.as_fd())?,
            again: *again,
            name: name.clone(),
            shown: shown.clone(),
            owner: *owner,
            wanted: wanted.clone(),
        })
    }

    /// The socket again. Its name stays when it is dropped, until [`StateSocket::own`].
    ///
    /// # Errors
    /// Those of [`Incoming::take`].
    pub fn restore(saved: SavedStateSocket, from: &mut Incoming) -> Result<StateSocket, String> {
        let SavedStateSocket { fd, again, name, shown, owner, wanted } = saved;
        Ok(StateSocket { fd: from.take(&fd)?.into(), again, name, shown, owner, wanted, is_ours: false })
    }

    /// From now on its name is removed with it.
    pub fn own(&mut self) {
        self.is_ours = true;
    }

    /// What to wait on, and for what.
    pub fn watched(&self) -> (BorrowedFd<'_>, Interest) {
        let interest = if self.again.is_some() { Interest::HANGUP_ONLY } else { Interest::READ };
        (self.fd.as_fd(), interest)
    }
}
