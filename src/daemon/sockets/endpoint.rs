//! One address of a unit: its sockets, one or a slot each, and how they share its traffic.

use super::SocketId;
use super::moved::Former;
use crate::sys::aside::Lent;
use crate::sys::flows::{Flows, Keeper};
use crate::sys::unixpath::{self, BoundPath, Site};
use crate::sys::{socket, sockopt, steer};
use crate::unit::{self, Address, Listen, ListenKind, Sharing, Socket, SocketOptions, Unit, waiting_keys};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// How an address' traffic is shared between generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Way {
    /// One socket for all.
    Shared,
    /// TCP: a listening socket per slot in one SO_REUSEPORT group, and a BPF program.
    Group,
    /// UDP: a socket per slot in one SO_REUSEPORT group, and a BPF program that remembers flows.
    Flows,
    /// A Unix path: a socket per slot under a hidden name, and the visible name for one of them.
    Renamed,
}

/// Decides how an address is shared, and says why in words.
pub(super) fn decide(unit: &Unit, socket: &Socket, listen: &Listen) -> (Way, Cow<'static, str>) {
    let (sharing, why) = unit::sharing(unit, socket, listen);
    let way = match (sharing, &listen.address) {
        (Sharing::Steered, Address::Path(_)) => Way::Renamed,
        (Sharing::Steered, _) if listen.kind == ListenKind::Datagram => Way::Flows,
        (Sharing::Steered, _) => Way::Group,
        (Sharing::Auto | Sharing::Shared, _) => Way::Shared,
    };
    (way, why.into())
}

/// A socket of an address.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: SocketId,
    pub(super) fd: Lent,
    /// Its hidden name, for [`Way::Renamed`].
    pub(super) path: Option<BoundPath>,
    /// Nobody that lives has set its blocking mode: it is set as the unit says when it is lent next.
    pub(super) fresh: bool,
    /// It was made anew: whoever serves has the one before.
    pub(super) anew: bool,
    /// Somebody shut it down, and it cannot be made anew while they hold it.
    pub(super) broken: bool,
    /// The poll set has it.
    pub(super) watched: bool,
}

/// One address and everything that belongs to it.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) listen: Listen,
    pub(super) name: String,
    pub(super) options: Arc<SocketOptions>,
    /// What its sockets were made with, as far as that cannot be changed.
    pub(super) born: Arc<SocketOptions>,
    /// With its real port.
    pub(super) address: String,
    pub(super) at: Option<SocketAddr>,
    pub(super) way: Way,
    /// What the unit asked for, where something else had to do.
    pub(super) wanted: Way,
    pub(super) why: Cow<'static, str>,
    /// Index is the slot's number; a shared address has one.
    pub(super) slots: Vec<Slot>,
    /// The slots in the order of the SO_REUSEPORT group.
    pub(super) order: Vec<usize>,
    /// The program that we attached to the group last: attaching takes the kernel longer than anything else that
    /// is done with a socket, so what stands already is left alone. Empty where it has to be attached anew.
    pub(super) attached: Vec<steer::Instruction>,
    /// What remembers flows, for [`Way::Flows`].
    pub(super) flows: Option<Flows>,
    /// What another thread is to do about them.
    pub(super) keepers: Vec<Keeper>,
    /// Slots that a generation has been given. The others' queues would be served by nobody.
    pub(super) lent: Vec<usize>,
    /// Which slot gets what arrives while there is no canary.
    pub(super) target: usize,
    /// The visible name, if it is ours.
    pub(super) path: Option<BoundPath>,
    /// What the program that has bound it has renamed it to.
    pub(super) renamed: Option<BoundPath>,
    /// A hidden second name, which keeps the socket when the visible one is removed.
    pub(super) keep: Option<BoundPath>,
    /// Who has taken our visible name, if that was reported.
    pub(super) displaced: Option<(u64, u64)>,
    pub(super) owned: bool,
    /// A program bound it: no unit declares it.
    pub(super) learned: bool,
    pub(super) repairs: u32,
    /// Our parent process left it to us.
    pub(super) inherited: bool,
    /// Nobody can connect any more; the interface that it was bound to.
    pub(super) hidden: Option<i32>,
    /// What it was before the reload that is under way, where that has made it anew.
    pub(super) former: Option<Former>,
    /// Sockets that others have taken the place of: closed when they have left the poll set.
    pub(super) retired: Vec<Lent>,
}

/// Gives each socket its number.
#[derive(Debug, Default)]
pub(super) struct Ids(pub(super) u32);

impl Ids {
    fn next(&mut self) -> SocketId {
        self.0 += 1;
        SocketId(self.0)
    }

    /// A socket of its own that has not been lent.
    pub(super) fn slot(&mut self, fd: impl Into<Lent>, path: Option<BoundPath>) -> Slot {
        Slot { id: self.next(), fd: fd.into(), path, fresh: true, anew: false, broken: false, watched: false }
    }
}

fn same_but(listen: &Listen, path: &Path) -> Listen {
    Listen { kind: listen.kind, address: Address::Path(path.display().to_string()) }
}

/// Options of a slot under a hidden name: the aliases are the visible name's.
fn without_aliases(options: &SocketOptions) -> SocketOptions {
    SocketOptions { symlinks: Vec::new(), ..options.clone() }
}

impl Endpoint {
    /// Binds an address. Warnings are sentences; an error leaves nothing behind.
    pub(super) fn open(
        unit: &Unit,
        socket: &Socket,
        listen: &Listen,
        ids: &mut Ids,
    ) -> Result<(Endpoint, Vec<String>), String> {
        let (way, why) = decide(unit, socket, listen);
        let mut endpoint = Endpoint::empty(socket, listen, way, way, why);
        let warnings = match way {
            Way::Shared => endpoint.open_shared(ids)?,
            Way::Group => endpoint.open_group(socket::Place::FirstSlot, ids)?,
            Way::Flows => endpoint.open_flows(ids)?,
            Way::Renamed => endpoint.open_renamed(ids)?,
        };
        if socket.accept {
            // Nobody else has it, and accept(2) must never wait.
            let _ = socket::set_nonblocking(endpoint.slots[0].fd.as_fd(), true);
        }
        Ok((endpoint, warnings))
    }

    /// Binds an address that gets what narrower ones of ours do not; `owned` is whether theirs have an owner of their own.
    pub(super) fn open_beside(
        unit: &Unit,
        socket: &Socket,
        listen: &Listen,
        owned: bool,
        ids: &mut Ids,
    ) -> Result<(Endpoint, Vec<String>), String> {
        let (way, why) = decide(unit, socket, listen);
        let mut endpoint = Endpoint::empty(socket, listen, way, way, why);
        let warnings = endpoint.open_group(socket::Place::Beside { owned }, ids)?;
        Ok((endpoint, warnings))
    }

    /// Takes over a socket that the parent process left us.
    pub(super) fn inherit(
        unit: &Unit,
        socket: &Socket,
        listen: &Listen,
        fd: OwnedFd,
        ids: &mut Ids,
    ) -> (Endpoint, Vec<String>) {
        let why = "inherited from the process that started aeternad".to_owned();
        let mut endpoint =
            Endpoint::empty(socket, listen, Way::Shared, decide(unit, socket, listen).0, why.into());
        endpoint.inherited = true;
        endpoint.at = socket::local(fd.as_fd()).ok();
        endpoint.address = match (endpoint.at, socket::describe(fd.as_fd())) {
            (Some(at), _) => at.to_string(),
            (None, Ok(found)) => socket::spell(&found.address),
            (None, Err(_)) => socket::spell(&listen.address),
        };
        let mut warnings = endpoint.set_options(fd.as_fd(), &socket.options);
        let listens = matches!(listen.kind, ListenKind::Stream | ListenKind::SequentialPacket);
        if listens && let Err(error) = socket::listen(fd.as_fd(), socket.options.backlog) {
            let why = socket::errno_text(&error);
            warnings.push(format!("cannot listen on the inherited {}: {why}", endpoint.address));
        }
        if socket.accept {
            let _ = socket::set_nonblocking(fd.as_fd(), true);
        }
        endpoint.slots.push(ids.slot(fd, None));
        (endpoint, warnings)
    }

    pub(super) fn empty(
        socket: &Socket,
        listen: &Listen,
        way: Way,
        wanted: Way,
        why: Cow<'static, str>,
    ) -> Endpoint {
        Endpoint {
            listen: listen.clone(),
            name: socket.name.clone(),
            options: Arc::clone(&socket.options),
            born: Arc::clone(&socket.options),
            address: String::new(),
            at: None,
            way,
            wanted,
            why,
            slots: Vec::with_capacity(2),
            order: Vec::with_capacity(2),
            attached: Vec::new(),
            flows: None,
            keepers: Vec::new(),
            lent: Vec::with_capacity(1),
            target: 0,
            path: None,
            renamed: None,
            keep: None,
            displaced: None,
            owned: false,
            learned: false,
            repairs: 0,
            inherited: false,
            hidden: None,
            former: None,
            retired: Vec::new(),
        }
    }

    pub(super) fn open_shared(&mut self, ids: &mut Ids) -> Result<Vec<String>, String> {
        let opened = socket::open(&self.listen, &self.options, socket::Place::Alone).map_err(|e| e.text)?;
        self.address = opened.address;
        self.at = opened.at;
        self.path = opened.path;
        self.slots.push(ids.slot(opened.fd, None));
        self.keep = self.path.as_ref().and_then(keep);
        Ok(opened.warnings)
    }

    fn open_group(&mut self, place: socket::Place, ids: &mut Ids) -> Result<Vec<String>, String> {
        let first = socket::open(&self.listen, &self.options, place).map_err(|e| e.text)?;
        let to_first = steer::to_first();
        if let Err(error) = steer::attach(first.fd.as_fd(), &to_first) {
            drop(first);
            self.way = Way::Shared;
            let why = socket::errno_text(&error);
            self.why = format!("this kernel or container does not allow steering by BPF ({why})").into();
            return self.open_shared(ids);
        }
        self.address = first.address;
        self.at = first.at;
        self.owned = first.owned;
        self.slots.push(ids.slot(first.fd, None));
        self.order.push(0);
        self.attached = to_first;
        self.add_slot(ids)?;
        Ok(first.warnings)
    }

    fn open_renamed(&mut self, ids: &mut Ids) -> Result<Vec<String>, String> {
        let Address::Path(path) = &self.listen.address else { return self.open_shared(ids) };
        let path = path.clone();
        self.address = path.clone();
        let path = Path::new(&path);
        let error =
            |error: std::io::Error| format!("cannot bind {}: {}", path.display(), socket::errno_text(&error));
        let site = Site::make(path, self.options.directory_mode).map_err(error)?;
        socket::make_way(&site, &self.address).map_err(|e| e.text)?;
        self.add_slot(ids)?;
        self.add_slot(ids)?;
        self.show(0).map_err(error).inspect_err(|_| self.unlink())?;
        Ok(unixpath::make_aliases(path, &self.options.symlinks, self.options.directory_mode))
    }

    /// Makes the next slot of a steered address.
    pub(super) fn add_slot(&mut self, ids: &mut Ids) -> Result<(), String> {
        let number = self.slots.len();
        match (self.way, self.at, &self.listen.address) {
            (Way::Group, Some(at), _) => {
                let place = socket::Place::NextSlot { at, owned: self.owned };
                let next = socket::open(&self.listen, &self.options, place).map_err(|e| e.text)?;
                if let Some(first) = self.slots.first().filter(|_| self.learned) {
                    sockopt::copy(first.fd.as_fd(), next.fd.as_fd());
                }
                self.slots.push(ids.slot(next.fd, None));
                self.order.push(number);
            }
            (Way::Flows, Some(at), _) => self.add_flow_slot(at, ids)?,
            (Way::Renamed, _, Address::Path(path)) => {
                let path = Path::new(path);
                let name = path.file_name().unwrap_or_default();
                let hidden = path.with_file_name(unixpath::hidden(name, &format!("-{number}")));
                let listen = same_but(&self.listen, &hidden);
                let options = without_aliases(&self.options);
                let next = socket::open(&listen, &options, socket::Place::Alone).map_err(|e| e.text)?;
                self.slots.push(ids.slot(next.fd, next.path));
            }
            (Way::Shared | Way::Group | Way::Flows | Way::Renamed, _, _) => {}
        }
        Ok(())
    }

    /// Points the visible name of a [`Way::Renamed`] address at a slot.
    pub(super) fn show(&mut self, slot: usize) -> std::io::Result<()> {
        let (Address::Path(path), Some(Some(hidden))) =
            (&self.listen.address, self.slots.get(slot).map(|slot| &slot.path))
        else {
            return Ok(());
        };
        let visible = hidden.place().named(Path::new(path));
        self.path = Some(hidden.replace(&visible)?);
        Ok(())
    }

    /// A fresh socket under this address' name in place of one that is of no more use.
    pub(super) fn renew(&mut self, slot: usize) -> Result<(), String> {
        let Address::Path(visible) = &self.listen.address else {
            return Err(format!("{} cannot be made anew while somebody holds it", self.address));
        };
        if self.learned {
            // Made by the program with its own rights: not by us with ours.
            return Err(format!(
                "{} is bound by the program, not by aeternad: reload the unit",
                self.address
            ));
        }
        let visible = Path::new(visible).to_path_buf();
        let name = match self.slots.get(slot).and_then(|slot| slot.path.as_ref()) {
            Some(hidden) => hidden.path.clone(),
            None => visible.clone(),
        };
        // A name that is taken is replaced in one step: getsockname(2) then shows the other one.
        let site = Site::make(&name, self.options.directory_mode).map_err(|error| {
            format!("cannot make the folder of {}: {}", self.address, socket::errno_text(&error))
        })?;
        let temporary = match site.identity() {
            None => name.clone(),
            Some(_) => unixpath::sibling(&site, "new").path,
        };
        let listen = same_but(&self.listen, &temporary);
        let place = socket::Place::Alone;
        let new = socket::open(&listen, &without_aliases(&self.options), place).map_err(|e| e.text)?;
        let mut bound = new.path;
        if let Some(made) = bound.take() {
            let named = if temporary == name { Ok(made) } else { made.rename(site.name()) };
            bound =
                Some(named.map_err(|error| {
                    format!("cannot bind {}: {}", self.address, socket::errno_text(&error))
                })?);
        }
        self.born = Arc::clone(&self.options);
        let Some(old) = self.slots.get_mut(slot) else { return Ok(()) };
        self.retired.push(std::mem::replace(&mut old.fd, new.fd.into()));
        old.watched = false;
        old.anew |= !old.fresh;
        old.fresh = true;
        self.lent.retain(|lent| *lent != slot);
        if self.way == Way::Renamed {
            old.path = bound;
        } else {
            self.path = bound;
            if let Some(old) = self.keep.take() {
                old.remove();
            }
            self.keep = self.path.as_ref().and_then(keep);
        }
        Ok(())
    }

    /// A fresh FIFO under a name that is gone.
    pub(super) fn remake_fifo(&mut self) -> Result<(), String> {
        let opened =
            socket::open(&self.listen, &self.options, socket::Place::Alone).map_err(|error| error.text)?;
        if let Some(slot) = self.slots.first_mut() {
            self.retired.push(std::mem::replace(&mut slot.fd, opened.fd.into()));
            slot.watched = false;
            slot.anew |= !slot.fresh;
            slot.fresh = true;
        }
        self.born = Arc::clone(&self.options);
        self.path = opened.path;
        self.keep = self.path.as_ref().and_then(keep);
        Ok(())
    }

    /// Sets every option that can be set on a socket that is in use.
    pub(super) fn set_options(&self, fd: BorrowedFd<'_>, options: &SocketOptions) -> Vec<String> {
        let family = match (self.at, &self.listen.address) {
            (Some(SocketAddr::V4(_)), _) => sockopt::Family::Inet,
            (Some(SocketAddr::V6(_)), _) => sockopt::Family::Inet6,
            (None, Address::Vsock { .. }) => sockopt::Family::Vsock,
            (None, Address::Netlink { .. }) => sockopt::Family::Netlink,
            (None, _) if self.listen.kind == ListenKind::Fifo => return Vec::new(),
            (None, _) => sockopt::Family::Unix,
        };
        socket::adjust(fd, &self.address, family, self.listen.kind, options)
    }

    /// The keys of which the sockets that are there keep an older value than `unit` has.
    pub(super) fn waiting(&self, unit: &Unit, socket: &Socket, listen: &Listen) -> Vec<&'static str> {
        let mut keys = waiting_keys(&self.born, &socket.options);
        let (way, _) = decide(unit, socket, listen);
        if way != self.way && self.wanted != way {
            keys.push("Sharing");
        }
        keys
    }

    /// Whether generations have sockets of their own here.
    pub(super) fn steered(&self) -> bool {
        self.way != Way::Shared
    }

    /// The socket that a slot's generation gets.
    pub(super) fn socket_of(&self, slot: usize) -> Option<&Slot> {
        self.slots.get(if self.steered() { slot } else { 0 })
    }

    /// Removes every name that is ours: not a FIFO's, which was perhaps there before us, unless the unit says so.
    pub(super) fn unlink(&self) {
        let Address::Path(path) = &self.listen.address else { return };
        if self.options.remove_on_stop {
            unixpath::remove_aliases(Path::new(path), &self.options.symlinks);
        }
        if let Some(path) = &self.path
            && (self.listen.kind != ListenKind::Fifo || self.options.remove_on_stop)
        {
            path.remove();
        }
        let hidden = self.slots.iter().filter_map(|slot| slot.path.as_ref());
        for hidden in hidden.chain(&self.keep).chain(&self.renamed) {
            hidden.remove();
        }
    }
}

/// A hidden second name for a socket or FIFO. Where the file system has no hard links there is none.
pub(super) fn keep(bound: &BoundPath) -> Option<BoundPath> {
    keep_as(bound, bound.place().name())
}

/// The same, beside the name and called after another one: generations of a program that renames its socket have one name
/// in common.
pub(super) fn keep_as(bound: &BoundPath, name: &OsStr) -> Option<BoundPath> {
    let hidden = bound.place().beside(unixpath::hidden(name, ""));
    unixpath::remove_stale(&hidden).ok()?;
    bound.link(hidden.name()).ok()
}
