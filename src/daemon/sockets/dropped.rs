//! Addresses that the serving content has dropped, or made wider.
//!
//! The generation before still has their sockets, and closing our copies would change nothing: whoever connects would
//! wait for a process that is about to go. Nor can its sockets be taken away from it, a program whose listener ends
//! spins or exits. So they are made to listen where nothing arrives: on an interface that does not exist. What is queued
//! already, or half open, stays; new connections are refused, or go to the wider address beside it.

use super::ListenSet;
use super::endpoint::{Endpoint, Way, decide};
use crate::sys::{socket, sockopt};
use crate::unit::{Address, Listen, ListenKind, Socket, Unit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

/// Whether an address gets only what another one does not.
pub fn is_wider(at: SocketAddr, than: SocketAddr) -> bool {
    let all = |at: SocketAddr| at.ip().to_canonical().is_unspecified();
    all(at) && (!all(than) || (at.is_ipv6() && than.is_ipv4()))
}

impl ListenSet {
    /// A content serves from now on: what it does not declare, and its program has not bound (`bound`), gets nothing new.
    pub fn hide_dropped(&mut self, unit: &Unit, bound: &[Listen]) {
        let plan = self.plan(unit);
        for (index, endpoint) in self.endpoints.iter_mut().enumerate() {
            if !plan.contains(&Some(index)) && !bound.contains(&endpoint.listen.endpoint()) {
                endpoint.hide();
            }
        }
    }

    /// The owner of the sockets beside which an address that is not held can be bound: all that it overlaps are
    /// narrower, and in slots.
    pub(super) fn beside(&self, unit: &Unit, socket: &Socket, listen: &Listen) -> Option<bool> {
        let at = place(listen).filter(|_| decide(unit, socket, listen).0 == Way::Group)?;
        let mut owned = None;
        for endpoint in self.endpoints.iter().filter(|e| e.overlaps(at, listen)) {
            if endpoint.way != Way::Group || !is_wider(at, endpoint.at?) {
                return None;
            }
            owned = Some(endpoint.owned);
        }
        owned
    }

    /// Where a probe of this machine reaches a slot's generation, if what it was to connect to is another address'
    /// connection: a narrower one takes it until its own generation is gone.
    pub fn detour(&self, to: SocketAddr, slot: u32) -> Option<SocketAddr> {
        let serves = |ip: IpAddr| {
            let found = self.receiver(SocketAddr::new(ip, to.port()))?;
            Some(!found.steered() || found.lent.contains(&(slot as usize)))
        };
        let meant = if to.ip() == Ipv4Addr::UNSPECIFIED { Ipv4Addr::LOCALHOST.into() } else { to.ip() };
        if !meant.to_canonical().is_loopback() || serves(meant) != Some(false) {
            return None;
        }
        // Every address of 127/8 is this machine's.
        let others = [IpAddr::from([127, 0, 0, 2]), Ipv6Addr::LOCALHOST.into()];
        let found = others.into_iter().find(|ip| serves(*ip) == Some(true))?;
        Some(SocketAddr::new(found, to.port()))
    }

    /// The address that the kernel gives a connection to: the narrowest.
    fn receiver(&self, to: SocketAddr) -> Option<&Endpoint> {
        let ip = to.ip().to_canonical();
        let fits = |endpoint: &&Endpoint| {
            let at = endpoint.at.filter(|at| at.port() == to.port() && endpoint.hidden.is_none())?;
            let here = at.ip().to_canonical();
            let rank = match (here == ip, here.is_unspecified(), here.is_ipv4() == ip.is_ipv4()) {
                (true, ..) => 3,
                (false, true, true) => 2,
                (false, true, false) if here.is_ipv6() => 1,
                _ => return None,
            };
            (endpoint.listen.kind == ListenKind::Stream).then_some(rank)
        };
        self.endpoints.iter().filter(|e| fits(e).is_some()).max_by_key(fits)
    }

    /// What to do about an address that cannot be bound because of one that the unit has itself.
    pub(super) fn in_our_own_way(&self, unit: &Unit, listen: &Listen) -> Option<String> {
        let at = place(listen)?;
        let held = self.endpoints.iter().find(|endpoint| endpoint.overlaps(at, listen))?;
        Some(format!(
            "cannot bind {at}: the unit has {} itself until its old generation is gone, and both cannot be at a time; \
             \"aeternactl stop --close {name}\" and \"aeternactl start {name}\" change it, with a moment in which nobody \
             listens",
            held.address,
            name = unit.name
        ))
    }
}

/// The IP address that a declared one becomes.
fn place(listen: &Listen) -> Option<SocketAddr> {
    match listen.address {
        Address::Inet(at) | Address::Scoped(at, _) => Some(at),
        Address::Port(port) => Some((Ipv6Addr::UNSPECIFIED, port).into()),
        Address::Path(_) | Address::Abstract(_) | Address::Vsock { .. } | Address::Netlink { .. } => None,
    }
    .filter(|at| at.port() != 0)
}

impl Endpoint {
    fn overlaps(&self, at: SocketAddr, listen: &Listen) -> bool {
        let Some(held) = self.at.filter(|held| held.port() == at.port() && self.listen.kind == listen.kind)
        else {
            return false;
        };
        let (here, there) = (held.ip().to_canonical(), at.ip().to_canonical());
        let dual = |at: SocketAddr| at.is_ipv6() && at.ip().is_unspecified();
        let one_place = here == there || here.is_unspecified() || there.is_unspecified();
        dual(held) || dual(at) || (here.is_ipv4() == there.is_ipv4() && one_place)
    }

    /// New connections don't come here any more. What cannot be hidden, an abstract name or where we have not the right,
    /// stays as it is until it is closed.
    fn hide(&mut self) {
        // Whoever left us a socket has it still, and gives it to the next aeternad as it is then. A client's port has no
        // clients, but answers.
        let is_client = self.learned && self.listen.kind == ListenKind::Datagram;
        // Flows stay with the generation that has them.
        if self.hidden.is_some() || self.inherited || is_client || self.way == Way::Flows {
            return;
        }
        if let Some(path) = &self.path {
            path.remove();
            self.hidden = Some(0);
            return;
        }
        if self.at.is_none() {
            return;
        }
        for slot in &self.slots {
            let fd = slot.fd.as_fd();
            if let Ok(before) = sockopt::interface(fd)
                && sockopt::set_interface(fd, sockopt::NOWHERE).is_ok()
            {
                self.hidden = Some(before);
            }
        }
    }

    /// It is wanted again. The error is a sentence.
    pub(super) fn reveal(&mut self) -> Result<(), String> {
        let Some(interface) = self.hidden else { return Ok(()) };
        let cannot = |error: &std::io::Error| {
            format!(
                "cannot serve {} again before the generation that has it still is gone: {} (CAP_NET_RAW for aeternad \
                 cures that)",
                self.address,
                socket::errno_text(error)
            )
        };
        if self.path.is_none() {
            for slot in &self.slots {
                sockopt::set_interface(slot.fd.as_fd(), interface).map_err(|error| cannot(&error))?;
            }
        } else if let (Some(path), Some(keep)) = (&self.path, &self.keep)
            && !path.is_ours()
        {
            keep.link_at(path).map_err(|error| cannot(&error))?;
        }
        self.hidden = None;
        Ok(())
    }
}
