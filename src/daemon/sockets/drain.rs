//! Waiting until a slot gets nothing more: half-open connections and accept queues.

use super::endpoint::{Endpoint, Slot, Way};
use super::{ListenSet, SocketId};
use crate::machine::event::Flowing;
use crate::sys::clock::Effort;
use crate::sys::sockdiag::{self, Family, Queue, state};
use crate::sys::{clock, holder, socket, steer};
use crate::time::{Monotime, Span};
use crate::unit::ListenKind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::os::fd::AsFd;

/// How long half-open connections are waited for where the kernel does not list them.
const WITHOUT_LIST: Span = Span::from_secs(1);
/// A SYN-ACK that was sent this often without an answer, 3 s, goes to somebody who will not come.
const GIVEN_UP: u8 = 2;

/// The half-open connections that may still land on a slot.
///
/// A SYN that another processor is handling with the old program at this very moment, and a request that has just
/// stopped being half open, are in no list. A membarrier(2) would wait for them, for 10 ms and with everybody
/// else; instead the slot, which stays open, is watched once nobody serves it ([`ListenSet::watch_list`]), and
/// what has landed there after all is served like the rest of a crashed generation.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drain {
    half_open: BTreeSet<u64>,
    not_before: Option<Monotime>,
    settled: bool,
}

impl Drain {
    /// A snapshot. Nothing that is sent to the slot after this belongs to it.
    fn begin(endpoints: &[Endpoint]) -> Drain {
        let mut drain = Drain { half_open: BTreeSet::new(), not_before: None, settled: false };
        match half_open(endpoints) {
            Ok(found) => drain.half_open = found,
            Err(_) => drain.not_before = Some(clock::now() + WITHOUT_LIST),
        }
        drain
    }

    /// How many may still come.
    fn left(&mut self, endpoints: &[Endpoint]) -> u32 {
        if self.settled {
            return 0;
        }
        if !self.half_open.is_empty() {
            let now = half_open(endpoints).unwrap_or_default();
            self.half_open.retain(|cookie| now.contains(cookie));
        }
        if !self.half_open.is_empty() {
            return self.half_open.len() as u32;
        }
        if self.not_before.is_some_and(|time| clock::now() < time) {
            return 1;
        }
        self.settled = true;
        0
    }
}

/// Cookies of half-open connections to steered addresses that may still become whole.
fn half_open(endpoints: &[Endpoint]) -> std::io::Result<BTreeSet<u64>> {
    let mut found = BTreeSet::new();
    for (family, port) in groups(endpoints) {
        let rows = sockdiag::tcp_rows_of(family, port, &[state::SYN_RECV])?;
        found.extend(rows.iter().filter(|row| row.retransmits < GIVEN_UP).map(|row| row.cookie));
    }
    Ok(found)
}

/// Families and ports of the steered TCP addresses where a handshake takes a while. IPv4 clients of an IPv6 socket are
/// IPv6 rows. Not loopback: there it is over before anybody could look, and looking takes the kernel longer than
/// the rest of a reload; what comes late even so is seen on the slot.
fn groups(endpoints: &[Endpoint]) -> BTreeSet<(Family, u16)> {
    let groups = endpoints.iter().filter(|endpoint| endpoint.way == Way::Group).filter_map(|e| e.at);
    let groups = groups.filter(|at| !at.ip().to_canonical().is_loopback());
    groups.map(|at| (if at.is_ipv4() { Family::V4 } else { Family::V6 }, at.port())).collect()
}

fn ports<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> BTreeSet<u16> {
    endpoints.filter(|e| e.listen.kind == ListenKind::Stream).filter_map(|e| Some(e.at?.port())).collect()
}

/// The accept queue of one socket, where the kernel tells.
pub(super) fn queue(endpoint: &Endpoint, slot: &Slot) -> Option<Queue> {
    if endpoint.listen.kind == ListenKind::Datagram {
        return None;
    }
    let fd = slot.fd.as_fd();
    let found = if endpoint.at.is_some() { sockdiag::tcp_queue(fd) } else { sockdiag::unix_queue(fd) };
    found.ok().flatten()
}

impl ListenSet {
    /// A slot gets nothing more from now on (steer first): remembers which connections are half open.
    pub fn begin_drain(&mut self, slot: u32) {
        self.drains.insert(slot, Drain::begin(&self.endpoints));
    }

    /// Half-open connections of the snapshot that may still land on the slot, and connections that wait in its accept
    /// queues. Both 0: nothing comes any more.
    pub fn drain_state(&mut self, slot: u32) -> (u32, u32) {
        let endpoints = &self.endpoints;
        let drain = self.drains.entry(slot).or_insert_with(|| Drain::begin(endpoints));
        (drain.left(endpoints), self.queued(slot))
    }

    /// The same with what is unread on its datagram sockets, and their flows.
    pub fn drain_state_with_flows(&mut self, slot: u32) -> (u32, u32, Flowing) {
        let (half_open, queued) = self.drain_state(slot);
        (half_open, queued + self.unread(slot), self.flowing(slot))
    }

    /// What is left on a slot whose generation is dead, half-open connections included, and whether the queues
    /// were moved to `serving`, which happens where `net.ipv4.tcp_migrate_req` is 1 once nothing is half
    /// open any more. Traffic must already go elsewhere.
    pub fn slot_state(&mut self, slot: u32, serving: u32) -> (u32, bool) {
        let (half_open, queued) = self.drain_state(slot);
        if half_open > 0 || queued == 0 {
            return (half_open + queued, false);
        }
        let moved = slot != serving && steer::migrates() && self.migrate(slot as usize);
        // Only TCP can be moved: a Unix socket's queue stays.
        let left = self.queued(slot);
        (left, moved && left == 0)
    }

    fn migrate(&mut self, slot: usize) -> bool {
        let mut moved = false;
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| endpoint.way == Way::Group) {
            let waits =
                endpoint.slots.get(slot).and_then(|s| queue(endpoint, s)).is_some_and(|q| q.length > 0);
            if waits && endpoint.order.len() > 1 {
                moved |= super::repair::relisten(endpoint, slot, &self.steered).is_ok();
            }
        }
        moved
    }

    /// The slot that a socket belongs to.
    pub fn slot_of(&self, id: SocketId) -> Option<u32> {
        let mut steered = self.endpoints.iter().filter(|endpoint| endpoint.steered());
        steered.find_map(|e| e.slots.iter().position(|slot| slot.id == id)).map(|slot| slot as u32)
    }

    /// Connections in the accept queues of a slot's own sockets.
    pub fn queued(&self, slot: u32) -> u32 {
        let steered = self.endpoints.iter().filter(|endpoint| endpoint.steered());
        steered.filter_map(|e| queue(e, e.slots.get(slot as usize)?)).map(|queue| queue.length).sum()
    }

    /// Established connections on the unit's sockets, those that wait to be accepted included.
    pub fn established(&self) -> u32 {
        self.connections().len() as u32
    }

    /// How many of them belong to these processes; `None` where nobody may look at their descriptors, or there are too many
    /// to be looked at until `end`.
    pub fn established_of(&self, pids: &[i32], end: Effort) -> Option<u32> {
        let ours = self.connections().into_iter().filter(|inode| *inode != 0).map(u64::from).collect();
        holder::glance(pids, &ours, end).count().map(|count| count as u32)
    }

    /// The inodes of established connections, 0 for each that waits to be accepted.
    fn connections(&self) -> Vec<u32> {
        const OPEN: &[u8] = &[state::ESTABLISHED, state::FIN_WAIT1, state::FIN_WAIT2, state::CLOSE_WAIT];
        let mut found = Vec::new();
        for port in ports(self.endpoints.iter()) {
            let here = |at: std::net::IpAddr| {
                self.endpoints.iter().filter_map(|e| e.at.filter(|at| at.port() == port)).any(|bound| {
                    bound.ip().is_unspecified() || bound.ip().to_canonical() == at.to_canonical()
                })
            };
            let rows = sockdiag::tcp_rows(port, OPEN).unwrap_or_default();
            // What a process has closed has no inode either, and is no longer established.
            let open = rows.iter().filter(|row| row.state == state::ESTABLISHED || row.inode != 0);
            found.extend(open.filter(|row| here(row.local.ip())).map(|row| row.inode));
        }
        for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.at.is_none()) {
            for slot in &endpoint.slots {
                // The kernel lists the accepted ones; those that wait are only counted.
                let waiting = queue(endpoint, slot).map_or(0, |queue| queue.length);
                found.extend((0..waiting).map(|_| 0));
                if let Some(name) = socket::unix_name(slot.fd.as_fd()) {
                    found.extend(sockdiag::unix_connections(&name).unwrap_or_default());
                }
            }
        }
        found
    }
}
