//! Connections that aeternad accepts itself: for `Accept` units, and to throw away what is queued.

use super::endpoint::Endpoint;
use super::{ListenSet, SocketId};
use crate::sys::aside::{self, Foreign};
use crate::sys::limits;
use crate::sys::peer::peer_credentials;
use crate::sys::socket::{self, Remote};
use crate::unit::ListenKind;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::AsFd;

/// How many messages or connections of one socket are thrown away at a time.
const FLUSH_MAX: usize = 65_536;

/// How many connections are closed in one go.
const BUNDLE: usize = 64;

/// The other end of a connection, as its instance's environment shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerName {
    /// `REMOTE_ADDR`: an IP address, a Unix name, a vsock context id; empty for a nameless Unix socket.
    pub remote_addr: String,
    /// `REMOTE_PORT`; empty where there are no ports.
    pub remote_port: String,
}

impl ListenSet {
    /// Accepts one connection of an `Accept` unit: blocking, close-on-exec. With it the source that
    /// `MaxConnectionsPerSource` counts by (an IP address, `uid:N`, `cid:N`) and its name. `None` if nothing
    /// waits. Errors: those of accept4(2), EMFILE among them; there are hardly any descriptors left.
    pub fn accept(&mut self, id: SocketId) -> io::Result<Option<(Foreign, String, PeerName)>> {
        let mut slots = self.endpoints.iter().flat_map(|endpoint| &endpoint.slots);
        let Some(slot) = slots.find(|slot| slot.id == id) else { return Ok(None) };
        if limits::would_be_scarce(slot.fd.as_fd()) {
            // It waits in its queue: the last ones are for orders and for starts.
            return Err(io::Error::other("aeternad has hardly any descriptors left"));
        }
        let Some(connection) = socket::accept(slot.fd.as_fd())?.map(Foreign::from) else { return Ok(None) };
        // It may have gone already: then nobody counts it.
        let Ok(remote) = socket::remote(connection.as_fd()) else { return Ok(None) };
        let (source, name) = match remote {
            Remote::Inet(at) => {
                let ip = at.ip().to_string();
                (ip.clone(), PeerName { remote_addr: ip, remote_port: at.port().to_string() })
            }
            Remote::Vsock { cid, port } => {
                let name = PeerName { remote_addr: cid.to_string(), remote_port: port.to_string() };
                (format!("cid:{cid}"), name)
            }
            Remote::Unix(name) => {
                let peer = peer_credentials(connection.as_fd())?;
                let name = PeerName { remote_addr: name.unwrap_or_default(), ..PeerName::default() };
                (format!("uid:{}", peer.uid), name)
            }
        };
        Ok(Some((connection, source, name)))
    }

    /// Throws away what waits on the sockets that `unit` marks with `FlushPending`; nobody else may be
    /// serving them. How many connections and messages that were.
    pub fn flush_pending(&mut self, unit: &crate::unit::Unit) -> usize {
        let plan = self.plan(unit);
        let marked = unit.listens().zip(plan).filter(|((table, _), _)| table.flush_pending);
        marked.filter_map(|(_, index)| self.endpoints.get(index?)).map(flush).sum()
    }
}

fn flush(endpoint: &Endpoint) -> usize {
    let connects = matches!(endpoint.listen.kind, ListenKind::Stream | ListenKind::SequentialPacket);
    let one = |slot: &super::endpoint::Slot| {
        if !connects {
            return socket::discard(slot.fd.as_fd(), FLUSH_MAX);
        }
        let mut count = 0;
        // In bundles: each may have inherited SO_LINGER from the listener, and is closed where that holds nobody up.
        let mut bundle = Vec::with_capacity(BUNDLE);
        while count < FLUSH_MAX
            && let Ok(Some(connection)) = socket::accept(slot.fd.as_fd())
        {
            bundle.push(connection);
            count += 1;
            if bundle.len() == BUNDLE {
                aside::close_all(std::mem::take(&mut bundle));
            }
        }
        aside::close_all(bundle);
        count
    };
    endpoint.slots.iter().map(one).sum()
}
