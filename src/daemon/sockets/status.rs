//! What people are shown of a unit's sockets.

use super::ListenSet;
use super::drain::queue;
use super::endpoint::{Endpoint, Way};
use crate::proto::status::SocketStatus;
use crate::sys::clock::Effort;
use crate::sys::sockdiag::{self, state};
use crate::sys::{holder, sockopt};
use crate::unit::{ListenKind, Sharing, Socket, Unit, in_effect};
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::Arc;

impl ListenSet {
    /// A row for each address, in the order in which they were bound.
    pub fn status(&self) -> Vec<SocketStatus> {
        self.endpoints.iter().map(row).collect()
    }

    /// Says in the rows of [`ListenSet::status`] who else listens there: the kernel has to be asked for each address. Who it is
    /// is found out until `end`.
    pub fn tell_strangers(&self, rows: &mut [SocketStatus], end: Effort) {
        let ours = self.cookies();
        for (endpoint, row) in self.endpoints.iter().zip(rows) {
            for stranger in strangers_of(endpoint, &ours, end) {
                row.why.push_str("; ");
                row.why.push_str(&stranger);
            }
        }
    }

    /// Keys that were read and wait until their sockets are made anew, as people know them.
    pub fn waiting(&self, unit: &Unit) -> Vec<String> {
        let plan = self.plan(unit);
        let keys = unit.listens().zip(plan).flat_map(|((socket, listen), found)| {
            let endpoint = found.and_then(|index| self.endpoints.get(index));
            let keys = endpoint.map(|endpoint| endpoint.waiting(unit, socket, listen)).unwrap_or_default();
            keys.into_iter().map(|key| format!("[[Socket]] {} {key}", listen.address))
        });
        keys.collect()
    }

    /// The tables of a unit as its sockets really are: what waits has the value that they were made with.
    pub fn in_effect(&self, unit: &Unit) -> Vec<Socket> {
        let mut tables = unit.sockets.clone();
        let plan = self.plan(unit);
        for ((table, listen), found) in unit.listens().zip(plan) {
            let at = unit.sockets.iter().position(|known| std::ptr::eq(known, table));
            let endpoint = found.and_then(|index| self.endpoints.get(index));
            let (Some(endpoint), Some(now)) = (endpoint, at.and_then(|at| tables.get_mut(at))) else {
                continue;
            };
            let waiting = endpoint.waiting(unit, table, listen);
            if !waiting.is_empty() {
                now.options = Arc::new(in_effect(&endpoint.born, &now.options));
            }
            if waiting.contains(&"Sharing") {
                now.sharing = if endpoint.steered() { Sharing::Steered } else { Sharing::Shared };
            }
        }
        tables
    }

    /// Where each address of a unit is really bound, in its order: with the port that the kernel chose. `None`
    /// for what is no IP address, or not bound.
    pub fn bound_addresses(&self, unit: &crate::unit::Unit) -> Vec<Option<std::net::SocketAddr>> {
        let held = self.plan(unit).into_iter().map(|index| self.endpoints.get(index?));
        held.map(|endpoint| crate::sys::socket::local(endpoint?.slots.first()?.fd.as_fd()).ok()).collect()
    }

    /// Listeners of somebody else beside our steered ones, who would take connections from us; sentences. Only
    /// a process of aeternad's own user can be that, and as root nobody: our sockets then have an owner of their own.
    pub fn strangers(&self) -> Vec<String> {
        let (ours, end) = (self.cookies(), Effort::glance());
        self.endpoints.iter().flat_map(|endpoint| strangers_of(endpoint, &ours, end)).collect()
    }

    /// Our own sockets, where strangers could be beside them.
    fn cookies(&self) -> BTreeSet<u64> {
        let slots = self.endpoints.iter().filter(|endpoint| is_exposed(endpoint)).flat_map(|e| &e.slots);
        slots.filter_map(|slot| sockopt::cookie(slot.fd.as_fd()).ok()).collect()
    }
}

/// Whether others can listen beside us: steered, and without an owner of its own.
fn is_exposed(endpoint: &Endpoint) -> bool {
    endpoint.way == Way::Group && !endpoint.owned
}

/// Who else listens beside an address; `ours` are the cookies of our own sockets.
fn strangers_of(endpoint: &Endpoint, ours: &BTreeSet<u64>, end: Effort) -> Vec<String> {
    let Some(at) = endpoint.at.filter(|_| is_exposed(endpoint)) else { return Vec::new() };
    let rows = sockdiag::tcp_rows(at.port(), &[state::LISTEN]).unwrap_or_default();
    let beside = rows.iter().filter(|row| {
        let (here, there) = (at.ip(), row.local.ip());
        let meets = here == there || here.is_unspecified() || there.is_unspecified();
        meets && !ours.contains(&row.cookie)
    });
    let tell = |row: &sockdiag::TcpRow| {
        let who = holder::of_inode(row.inode.into(), end).unwrap_or_else(|| "another process".into());
        let (address, local, uid) = (&endpoint.address, row.local, row.uid);
        format!("{who} (uid {uid}) listens on {local} too, and may take connections from {address}")
    };
    beside.map(tell).collect()
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
    if endpoint.hidden.is_some() {
        why.push_str("; dropped: refused while the generation that has it drains");
    }
    let unserved = endpoint.is_unserved();
    if unserved {
        why.push_str("; made anew, and no process has it: reload the unit");
    }
    SocketStatus {
        name: endpoint.name.clone(),
        address: super::names::shown(endpoint).to_owned(),
        unserved,
        kind: kind.to_owned(),
        sharing: if endpoint.steered() { "steered" } else { "shared" }.to_owned(),
        why,
        queue: (!queues.is_empty()).then(|| queues.iter().map(|queue| queue.length).sum()),
        limit: queues.iter().map(|queue| queue.limit).max(),
        repairs: endpoint.repairs,
        flows: None,
        flows_max: endpoint.flows.as_ref().map(crate::sys::flows::Flows::max),
    }
}
