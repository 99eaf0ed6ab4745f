//! Addresses of programs that bind by themselves (contract section 5, `InterceptBind`).
//!
//! An address that is held, declared or learned, is given to a program by putting the socket of its
//! generation's slot in place of the program's own. An address that nobody knew is learned when the program
//! listens on it: its own socket, which has the options that it set, becomes the socket of its slot, and the
//! other slots get the same options. From then on it is an address like any other: permanent slots that are
//! never closed, steered by weight, drained, rescued. It is held until a newer generation does not want it.

use super::ListenSet;
use super::endpoint::{Endpoint, Way, keep_as};
use crate::sys::aside::Foreign;
use crate::sys::seccomp::FdFlags;
use crate::sys::sockopt::{self, Nature};
use crate::sys::unixpath::BoundPath;
use crate::sys::{socket, steer};
use crate::unit::{Address, BindIpv6Only, Listen, ListenKind, Socket, Unit};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

/// Where a program wants its socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Kind and address.
    pub listen: Listen,
    /// For IPv6: not for IPv4 too. `None` where that cannot be seen.
    pub v6_only: Option<bool>,
}

/// What is held of an address that a program wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The very address.
    Held(Listen),
    /// One that overlaps it, so that both cannot be without SO_REUSEPORT.
    Overlaps(Listen),
    /// Nothing.
    Nothing,
}

impl ListenSet {
    /// Looks for an address that a program wants: family, address, port, type and IPV6_V6ONLY must be the same.
    pub fn find(&self, wanted: &Wanted) -> Found {
        let mut overlap = Found::Nothing;
        for endpoint in &self.endpoints {
            match compare(endpoint, wanted) {
                Found::Nothing => {}
                held @ Found::Held(_) => return held,
                found @ Found::Overlaps(_) => overlap = found,
            }
        }
        overlap
    }

    /// The address of ours that a socket belongs to, by its inode number.
    pub fn address_of(&self, inode: u64) -> Option<Listen> {
        let is_it = |endpoint: &&Endpoint| {
            endpoint.slots.iter().any(|slot| socket::inode(slot.fd.as_fd()).is_ok_and(|found| found == inode))
        };
        self.endpoints.iter().find(is_it).map(|endpoint| endpoint.listen.endpoint())
    }

    /// The address whose visible name in the file system is this inode.
    pub fn address_at(&self, inode: (u64, u64)) -> Option<Listen> {
        let is_it = |endpoint: &&Endpoint| endpoint.path.as_ref().is_some_and(|path| path.inode == inode);
        self.endpoints.iter().find(is_it).map(|endpoint| endpoint.listen.endpoint())
    }

    /// The socket of a held address for a process on `slot`, with the options of `own`, the socket that it is to
    /// replace. Non-blocking if `flags` say so; never made blocking while somebody else has it. The error is a
    /// sentence.
    pub fn adopt(
        &mut self,
        address: &Listen,
        slot: u32,
        own: Option<BorrowedFd<'_>>,
        flags: FdFlags,
    ) -> Result<BorrowedFd<'_>, String> {
        let index = self.index_of(address).ok_or("it is not held any more")?;
        self.prepare(index, slot as usize, flags.non_blocking)?;
        let endpoint = &self.endpoints[index];
        let held = endpoint.socket_of(slot as usize).ok_or("it has no such slot")?;
        if let Some(own) = own {
            sockopt::copy(own, held.fd.as_fd());
        }
        Ok(held.fd.as_fd())
    }

    /// Binds a program's own socket beside the held one of its slot, whose place it takes when it listens
    /// ([`ListenSet::join`]): for a program whose socket is known to others, so that it cannot be replaced.
    ///
    /// # Errors
    /// A sentence: shared addresses have one socket for all; what waits in a queue cannot be moved.
    pub fn bind_own(&mut self, address: &Listen, slot: u32, own: BorrowedFd<'_>) -> Result<(), String> {
        let index = self.index_of(address).ok_or("it is not held any more")?;
        if self.endpoints[index].way != Way::Group {
            return Err("generations share one socket there".into());
        }
        self.prepare(index, slot as usize, false)?;
        let endpoint = &self.endpoints[index];
        let held = endpoint.socket_of(slot as usize).ok_or("it has no such slot")?;
        let waiting = super::drain::queue(endpoint, held).map_or(0, |queue| queue.length);
        if waiting > 0 {
            return Err(format!("{waiting} connections wait on the held one"));
        }
        let at = endpoint.at.ok_or("it has no address")?;
        socket::bind_beside(own, at, endpoint.owned).map_err(|error| socket::errno_text(&error))
    }

    /// Puts a program's own socket, which is bound beside ([`ListenSet::bind_own`]), in place of its slot's, and lets it
    /// listen. The old one leaves the group: the last member, which is the new one, moves into its place.
    ///
    /// # Errors
    /// Those of listen(2).
    pub fn join(&mut self, address: &Listen, slot: u32, own: Foreign) -> std::io::Result<()> {
        let Some(index) = self.index_of(address) else { return Ok(()) };
        let endpoint = &mut self.endpoints[index];
        socket::listen(own.as_fd(), endpoint.options.backlog)?;
        let Some(held) = endpoint.slots.get_mut(slot as usize) else { return Ok(()) };
        let old = std::mem::replace(&mut held.fd, own.into());
        (held.watched, held.fresh) = (false, false);
        let left = steer::leave(old.as_fd());
        endpoint.retired.push(old);
        left
    }

    /// The inode numbers of the sockets of an address.
    pub fn inodes_of(&self, address: &Listen) -> Vec<u64> {
        let slots = self.index_of(address).map(|index| &self.endpoints[index].slots);
        slots.into_iter().flatten().filter_map(|slot| socket::inode(slot.fd.as_fd()).ok()).collect()
    }

    /// The owner and the place of a steered address: another socket can be bound beside it.
    pub fn can_be_beside(&self, address: &Listen) -> Option<(SocketAddr, bool)> {
        let endpoint = self.index_of(address).map(|index| &self.endpoints[index])?;
        endpoint.at.filter(|_| endpoint.way == Way::Group).map(|at| (at, endpoint.owned))
    }

    /// Lets the socket of an address listen, with room for as many connections as ever: a program that asks for
    /// fewer would take them from the others.
    ///
    /// # Errors
    /// Those of listen(2).
    pub fn listen_again(&self, address: &Listen, slot: u32) -> std::io::Result<()> {
        let endpoint = self.index_of(address).and_then(|index| self.endpoints.get(index));
        let held = endpoint.and_then(|endpoint| Some((endpoint, endpoint.socket_of(slot as usize)?)));
        held.map_or(Ok(()), |(endpoint, slot)| socket::listen(slot.fd.as_fd(), endpoint.options.backlog))
    }

    /// Holds the address that `own` is bound to and is about to listen on; when this returns, it listens. A
    /// warning is a sentence.
    ///
    /// # Errors
    /// A sentence: it could not listen. Nothing is held then.
    pub fn learn(
        &mut self,
        unit: &Unit,
        wanted: &Wanted,
        slot: u32,
        own: Foreign,
    ) -> Result<Option<String>, String> {
        let nature = sockopt::nature(own.as_fd()).ok().flatten();
        let socket = template(&unit.name, wanted, nature.as_ref());
        let mut endpoint = Endpoint::learned(unit, &socket, &wanted.listen);
        endpoint.at = socket::local(own.as_fd()).ok();
        endpoint.address = match endpoint.at {
            Some(at) => at.to_string(),
            None => socket::spell(&wanted.listen.address),
        };
        let warning = match endpoint.way {
            Way::Group if nature.is_some_and(|nature| nature.plain) => {
                endpoint.learn_group(own, slot as usize, &mut self.ids)?
            }
            Way::Group | Way::Shared | Way::Flows | Way::Renamed => {
                let is_special = endpoint.way == Way::Group;
                endpoint.learn_shared(own, &mut self.ids)?;
                if is_special {
                    endpoint.why = "bound by the program; an MPTCP listener cannot be steered".into();
                }
                None
            }
        };
        self.endpoints.push(endpoint);
        self.watch_folders();
        Ok(warning)
    }

    /// Holds the name in the file system of an address that was just learned; whether its program has renamed it before
    /// it listened.
    pub fn name_learned(&mut self, address: &Listen, name: BoundPath) -> bool {
        let mut renamed = false;
        if let Some(endpoint) = self.index_of(address).and_then(|index| self.endpoints.get_mut(index)) {
            let bound = match &endpoint.listen.address {
                Address::Path(path) => Path::new(path).file_name().unwrap_or_default().to_owned(),
                _ => return false,
            };
            endpoint.keep = keep_as(&name, &bound);
            // Its program may have renamed it before it listened.
            renamed = name.place().name() != bound;
            if renamed {
                endpoint.renamed = Some(name);
            } else {
                endpoint.path = Some(name);
            }
            self.watch_folders();
        }
        renamed
    }

    /// Binds an address for a program whose own socket cannot be had (a container without pidfd_getfd), and
    /// holds it: what follows is [`ListenSet::adopt`].
    ///
    /// # Errors
    /// A sentence.
    pub fn learn_blind(&mut self, unit: &Unit, wanted: &Wanted) -> Result<(), String> {
        let socket = template(&unit.name, wanted, None);
        let (mut endpoint, _) = Endpoint::open(unit, &socket, &wanted.listen, &mut self.ids)?;
        endpoint.learned = true;
        endpoint.why = format!("bound by the program; {}", endpoint.why).into();
        self.endpoints.push(endpoint);
        Ok(())
    }

    /// Closes the learned addresses that are not in `wanted`; how people spell them. As with
    /// [`ListenSet::keep`], the descriptors leave the poller before.
    pub fn forget_learned(&mut self, wanted: &[Listen]) -> Vec<String> {
        let mut dropped = Vec::new();
        self.endpoints.retain(|endpoint| {
            let stays = !endpoint.learned || wanted.contains(&endpoint.listen.endpoint());
            if !stays {
                endpoint.unlink();
                dropped.push(endpoint.address.clone());
            }
            stays
        });
        self.watch_folders();
        dropped
    }

    /// Lets go of one address; whether it was held. Nobody else has it, so that it leaves the poll set by itself.
    pub fn forget(&mut self, address: &Listen) -> bool {
        let Some(index) = self.index_of(address) else { return false };
        self.endpoints.remove(index).unlink();
        self.watch_folders();
        true
    }

    /// The addresses that programs have taught us.
    pub fn learned_addresses(&self) -> Vec<Listen> {
        self.endpoints.iter().filter(|endpoint| endpoint.learned).map(|e| e.listen.endpoint()).collect()
    }

    /// Whether an address is held.
    pub fn is_held(&self, address: &Listen) -> bool {
        self.index_of(address).is_some()
    }

    /// Whether an address is a learned one.
    pub fn is_learned(&self, address: &Listen) -> bool {
        self.index_of(address).is_some_and(|index| self.endpoints[index].learned)
    }

    /// Whether a newer generation should bind it too: not a path that its program has renamed.
    pub fn is_expected(&self, address: &Listen) -> bool {
        self.index_of(address).is_some_and(|index| !self.endpoints[index].is_nameless())
    }

    /// Whether a wildcard among these addresses gets what this address does.
    pub fn is_covered(&self, address: &Listen, by: &[Listen]) -> bool {
        let at = |listen: &Listen| self.index_of(listen).and_then(|index| self.endpoints[index].at);
        let Some(own) = at(address) else { return false };
        by.iter().filter(|wide| wide.kind == address.kind).filter_map(at).any(|wide| {
            let dual = wide.is_ipv6() || own.ip().to_canonical().is_ipv4();
            wide != own && wide.port() == own.port() && wide.ip().is_unspecified() && dual
        })
    }

    /// Whether an address is held in slots.
    pub fn is_steered(&self, address: &Listen) -> bool {
        self.index_of(address).is_some_and(|index| self.endpoints[index].steered())
    }

    /// How many addresses were learned.
    pub fn learned(&self) -> usize {
        self.endpoints.iter().filter(|endpoint| endpoint.learned).count()
    }

    /// An address as people spell it, with its real port.
    pub fn spelt(&self, address: &Listen) -> String {
        match self.index_of(address) {
            Some(index) => super::names::shown(&self.endpoints[index]).to_owned(),
            None => socket::spell(&address.address),
        }
    }

    /// A learned address that is steered and that can be connected to, for a probe: of those that `listening` names, and
    /// where nothing narrower takes the connection.
    pub fn learned_stream(&self, listening: &[Listen]) -> Option<SocketAddr> {
        let steered = |e: &&Endpoint| e.learned && e.way == Way::Group;
        let named = |e: &&Endpoint| listening.is_empty() || listening.contains(&e.listen.endpoint());
        let at = self.endpoints.iter().filter(steered).find(named)?.at?;
        let has = |ip: IpAddr| {
            self.endpoints.iter().filter_map(|e| e.at).any(|held| held == SocketAddr::new(ip, at.port()))
        };
        // Every address of 127/8 is this machine's.
        let narrower = at.ip() == Ipv4Addr::UNSPECIFIED && has(Ipv4Addr::LOCALHOST.into());
        Some(if narrower { SocketAddr::from(([127, 0, 0, 2], at.port())) } else { at })
    }

    fn index_of(&self, address: &Listen) -> Option<usize> {
        // The newest: an older one may have lost its name.
        self.endpoints.iter().rposition(|endpoint| endpoint.listen.endpoint() == *address)
    }
}

/// The table that would declare a learned address.
fn template(name: &str, wanted: &Wanted, nature: Option<&Nature>) -> Socket {
    let mut socket = crate::unit::undeclared_socket(name, wanted.listen.clone());
    let options = Arc::make_mut(&mut socket.options);
    options.bind_ipv6_only = match wanted.v6_only {
        Some(true) => BindIpv6Only::Ipv6Only,
        Some(false) => BindIpv6Only::Both,
        None => BindIpv6Only::Default,
    };
    if let Some(nature) = nature {
        options.bind_to_device.clone_from(&nature.device);
        options.free_bind = nature.free_bind;
        options.transparent = nature.transparent;
    }
    socket
}

/// What an endpoint is to an address that a program wants.
fn compare(endpoint: &Endpoint, wanted: &Wanted) -> Found {
    if endpoint.listen.kind != wanted.listen.kind {
        return Found::Nothing;
    }
    let held = || Found::Held(endpoint.listen.endpoint());
    let (Some(at), Some(asked)) = (endpoint.at, ip_of(&wanted.listen.address)) else {
        let same = endpoint.listen.address == wanted.listen.address && !endpoint.is_nameless();
        return if same { held() } else { Found::Nothing };
    };
    if at.port() != asked.port() {
        return Found::Nothing;
    }
    let held_v6_only = endpoint.slots.first().and_then(|slot| socket::v6_only(slot.fd.as_fd()));
    let same_reach = match (held_v6_only, wanted.v6_only) {
        (Some(held), Some(asked)) => held == asked,
        (None, _) | (_, None) => true,
    };
    // An IPv4 address of an IPv6 socket (`::ffff:127.0.0.1`, as Java binds it) is an IPv4 address. A program with an IPv6
    // socket reads IPv4 peers anyway; the other way round its peers would have addresses that it cannot read.
    let readable = at.is_ipv4() || asked.is_ipv6();
    let (here, there) = (at.ip().to_canonical(), asked.ip().to_canonical());
    let one_family = here.is_ipv4() == there.is_ipv4();
    if here == there && scope(at) == scope(asked) && same_reach && readable {
        return held();
    }
    let dual = |at: SocketAddr, v6_only: Option<bool>| {
        at.is_ipv6() && at.ip().is_unspecified() && v6_only != Some(true)
    };
    let everywhere = dual(at, held_v6_only) || dual(asked, wanted.v6_only);
    let one_place = here == there || here.is_unspecified() || there.is_unspecified();
    if everywhere || (one_family && one_place) {
        return Found::Overlaps(endpoint.listen.endpoint());
    }
    Found::Nothing
}

fn scope(at: SocketAddr) -> u32 {
    match at {
        SocketAddr::V6(v6) => v6.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

fn ip_of(address: &Address) -> Option<SocketAddr> {
    match address {
        Address::Inet(at) => Some(*at),
        Address::Port(_)
        | Address::Scoped(..)
        | Address::Path(_)
        | Address::Abstract(_)
        | Address::Vsock { .. }
        | Address::Netlink { .. } => None,
    }
}

impl Endpoint {
    /// Whether it is a learned path that has lost its name: nobody finds it any more.
    pub(super) fn is_nameless(&self) -> bool {
        self.learned && self.path.is_none() && matches!(self.listen.address, Address::Path(_))
    }

    fn learned(unit: &Unit, socket: &Socket, listen: &Listen) -> Endpoint {
        let (way, why) = super::endpoint::decide(unit, socket, listen);
        // The name in the file system is the program's: there is none to move.
        let way = if way == Way::Renamed { Way::Shared } else { way };
        let mut endpoint =
            Endpoint::empty(socket, listen, way, way, format!("bound by the program; {why}").into());
        endpoint.learned = true;
        endpoint
    }

    fn learn_shared(&mut self, own: Foreign, ids: &mut super::endpoint::Ids) -> Result<(), String> {
        self.way = Way::Shared;
        self.wanted = Way::Shared;
        if self.listen.kind != ListenKind::Datagram {
            socket::listen(own.as_fd(), self.options.backlog).map_err(|error| {
                format!("cannot listen on {}: {}", self.address, socket::errno_text(&error))
            })?;
        }
        let mut slot = ids.slot(own, None);
        slot.fresh = false;
        self.slots.push(slot);
        Ok(())
    }

    /// The program's socket becomes the first member of a group. Where that cannot be, its only one: the warning
    /// says why.
    fn learn_group(
        &mut self,
        own: Foreign,
        slot: usize,
        ids: &mut super::endpoint::Ids,
    ) -> Result<Option<String>, String> {
        let Some(at) = self.at else { return Err("it has no address".into()) };
        let listen = |fd: &Foreign, endpoint: &Endpoint| {
            socket::listen(fd.as_fd(), endpoint.options.backlog).map_err(|error| {
                format!("cannot listen on {}: {}", endpoint.address, socket::errno_text(&error))
            })
        };
        self.owned = socket::claim(own.as_fd());
        let shared = sockopt::set_reuse_port(own.as_fd());
        listen(&own, self)?;
        let to_first = steer::to_first();
        let mut why = shared.and_then(|()| steer::attach(own.as_fd(), &to_first)).err();
        let mut others = Vec::new();
        for number in (0..=slot.max(1)).filter(|number| *number != slot) {
            if why.is_some() {
                break;
            }
            let place = socket::Place::NextSlot { at, owned: self.owned };
            match socket::open(&self.listen, &self.options, place) {
                Ok(opened) => {
                    sockopt::copy(own.as_fd(), opened.fd.as_fd());
                    others.push((number, ids.slot(opened.fd, None)));
                }
                Err(error) => why = Some(std::io::Error::other(error.text)),
            }
        }
        let mut first = ids.slot(own, None);
        first.fresh = false;
        if let Some(why) = why {
            self.way = Way::Shared;
            let why = socket::errno_text(&why);
            self.why = format!("bound by the program; it cannot be steered ({why})").into();
            self.slots.push(first);
            return Ok(Some(format!("{} cannot be steered, generations share it: {why}", self.address)));
        }
        // In the order of listen(2).
        self.attached = to_first;
        self.order = std::iter::once(slot).chain(others.iter().map(|(number, _)| *number)).collect();
        others.push((slot, first));
        others.sort_by_key(|(number, _)| *number);
        self.slots = others.into_iter().map(|(_, slot)| slot).collect();
        self.lent = vec![slot];
        self.target = slot;
        Ok(None)
    }
}
