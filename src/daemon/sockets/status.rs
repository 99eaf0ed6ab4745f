//! What people are shown of a unit's sockets.

use super::ListenSet;
use super::drain::queue;
use super::endpoint::{Endpoint, Way};
use crate::proto::status::SocketStatus;
use crate::sys::sockdiag::{self, state};
use crate::sys::sockopt;
use crate::unit::ListenKind;
use std::collections::BTreeSet;
use std::os::fd::AsFd;

impl ListenSet {
    /// A row for each address, in the order in which they were bound.
    pub fn status(&self) -> Vec<SocketStatus> {
        self.endpoints.iter().map(row).collect()
    }

    /// Where each address of a unit is really bound, in its order: with the port that the kernel chose. `None`
    /// for what is no IP address, or not bound.
    pub fn bound_addresses(&self, unit: &crate::unit::Unit) -> Vec<Option<std::net::SocketAddr>> {
        let held = self.plan(unit).into_iter().map(|index| self.endpoints.get(index?));
        held.map(|endpoint| crate::sys::socket::local(endpoint?.slots.first()?.fd.as_fd()).ok()).collect()
    }

    /// Listeners of somebody else beside our steered ones, who would take connections from us; sentences. Only
    /// a process of aeternad's own user can be that, and as root nobody.
    pub fn strangers(&self) -> Vec<String> {
        let ours: BTreeSet<u64> = self
            .endpoints
            .iter()
            .flat_map(|endpoint| &endpoint.slots)
            .filter_map(|slot| sockopt::cookie(slot.fd.as_fd()).ok())
            .collect();
        let mut found = Vec::new();
        for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.way == Way::Group) {
            let Some(at) = endpoint.at else { continue };
            let rows = sockdiag::tcp_rows(at.port(), &[state::LISTEN]).unwrap_or_default();
            for row in rows.iter().filter(|row| !ours.contains(&row.cookie)) {
                let (here, there) = (at.ip(), row.local.ip());
                if here == there || here.is_unspecified() || there.is_unspecified() {
                    let (address, local, uid) = (&endpoint.address, row.local, row.uid);
                    found
                        .push(format!("another process (uid {uid}) listens on {local} beside our {address}"));
                }
            }
        }
        found
    }
}

fn row(endpoint: &Endpoint) -> SocketStatus {
    let queues: Vec<_> = endpoint.slots.iter().filter_map(|slot| queue(endpoint, slot)).collect();
    let kind = match endpoint.listen.kind {
        ListenKind::Stream => "stream",
        ListenKind::Datagram => "datagram",
        ListenKind::SequentialPacket => "seqpacket",
        ListenKind::Fifo => "fifo",
        ListenKind::Netlink => "netlink",
    };
    let mut why = endpoint.why.to_string();
    if endpoint.slots.iter().any(|slot| slot.broken) {
        why.push_str("; shut down by a process, made anew as soon as nobody holds it");
    }
    SocketStatus {
        name: endpoint.name.clone(),
        address: endpoint.address.clone(),
        kind: kind.to_owned(),
        sharing: if endpoint.steered() { "steered" } else { "shared" }.to_owned(),
        why,
        queue: (!queues.is_empty()).then(|| queues.iter().map(|queue| queue.length).sum()),
        limit: queues.iter().map(|queue| queue.limit).max(),
        repairs: endpoint.repairs,
    }
}
