//! Steered UDP: a socket for each slot, and a program that remembers which flow belongs to which.

use super::ListenSet;
use super::endpoint::{Endpoint, Ids, Way};
use crate::machine::event::Flowing;
use crate::sys::flows::{Flows, Keeper, Live, Plan};
use crate::sys::{socket, sockopt};
use crate::unit::{Address, FlowBy, FlowOptions, Listen, Unit};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

/// How many datagrams of one socket are thrown away at a time.
const DISCARD_MAX: usize = 65_536;

/// `AETERNA_FLOW_TAG` of each slot's generation.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tags {
    of_slots: BTreeMap<u32, u8>,
    last: u8,
}

impl Tags {
    /// The slot's own, or the next of 1 to 255 that no other slot has.
    fn of(&mut self, slot: u32) -> u8 {
        if let Some(tag) = self.of_slots.get(&slot) {
            return *tag;
        }
        let taken = |tag: &u8| self.of_slots.values().any(|other| other == tag);
        let mut next = (self.last..u8::MAX).chain(0..self.last).map(|tag| tag + 1);
        let tag = next.find(|tag| !taken(tag)).unwrap_or(u8::MAX);
        self.last = tag;
        self.of_slots.insert(slot, tag);
        tag
    }
}

/// Why UDP cannot be steered here, and what to do.
fn unavailable(error: &io::Error) -> String {
    let why = socket::errno_text(error);
    format!("steering UDP takes CAP_BPF and Linux 5.6 ({why}; aeternactl doctor)")
}

impl Endpoint {
    /// Binds two slots, and steers between them; where that cannot be, one socket for all, which a warning says.
    pub(super) fn open_flows(&mut self, ids: &mut Ids) -> Result<Vec<String>, String> {
        let wanted = self.options.flows.clone();
        // The address first: what is wrong with it is what people must read.
        let first =
            socket::open(&self.listen, &self.options, socket::Place::FirstSlot).map_err(|e| e.text)?;
        let flows = match Flows::new(wanted.max, wanted.timeout) {
            Ok(flows) => flows,
            Err(error) => {
                drop(first);
                self.way = Way::Shared;
                let why = unavailable(&error);
                let mut warnings = self.open_shared(ids)?;
                warnings.push(format!("{} is shared by all generations: {why}", self.address));
                self.why = why.into();
                return Ok(warnings);
            }
        };
        self.address = first.address;
        self.at = first.at;
        self.owned = first.owned;
        self.slots.push(ids.slot(first.fd, None));
        self.flows = Some(flows);
        self.add_slot(ids)?;
        let failed = |error: io::Error| format!("cannot steer UDP: {}", socket::errno_text(&error));
        if let (Some(flows), Some(first)) = (&self.flows, self.slots.first()) {
            // Only with another one beside it is it a member of a group.
            flows.place(0, first.fd.as_fd()).map_err(failed)?;
            flows.attach(first.fd.as_fd()).map_err(failed)?;
        }
        Ok(first.warnings)
    }

    /// Another socket of the address, beside the others.
    fn open_beside_flows(&self, at: SocketAddr) -> Result<socket::Opened, String> {
        let listen = Listen { kind: self.listen.kind, address: Address::Inet(at) };
        let place = socket::Place::NextSlot { at, owned: self.owned };
        socket::open(&listen, &self.options, place).map_err(|error| error.text)
    }

    /// The next slot.
    pub(super) fn add_flow_slot(&mut self, at: SocketAddr, ids: &mut Ids) -> Result<(), String> {
        let next = self.open_beside_flows(at)?;
        self.slots.push(ids.slot(next.fd, None));
        self.place_again(&[self.slots.len() - 1])
    }

    /// Tells the program which sockets these slots are now.
    pub(super) fn place_again(&self, slots: &[usize]) -> Result<(), String> {
        let Some(flows) = &self.flows else { return Ok(()) };
        // A socket is in one place at a time.
        slots.iter().for_each(|slot| flows.clear(*slot as u32));
        for slot in slots {
            let Some(member) = self.slots.get(*slot) else { continue };
            flows
                .place(*slot as u32, member.fd.as_fd())
                .map_err(|error| format!("cannot steer {}: {}", self.address, socket::errno_text(&error)))?;
        }
        Ok(())
    }

    /// A socket of a slot's own again, in place of one that a process has connected and shut down.
    pub(super) fn renew_flow_slot(&mut self, slot: usize) -> Result<(), String> {
        let Some(at) = self.at else { return Ok(()) };
        let new = self.open_beside_flows(at)?;
        let Some(old) = self.slots.get_mut(slot) else { return Ok(()) };
        self.retired.push(std::mem::replace(&mut old.fd, new.fd.into()));
        (old.watched, old.fresh) = (false, true);
        self.place_again(&[slot])
    }

    /// Sends new flows where the plan says. Those of the slot that served before are taken down, by what
    /// [`ListenSet::take_keepers`] gives, so that a flood that comes later pushes none of them out.
    pub(super) fn steer_flows(&mut self, before: usize, plan: Plan) -> io::Result<()> {
        let leaves = before != plan.serving as usize && self.lent.contains(&before);
        let Some(flows) = &mut self.flows else { return Ok(()) };
        if leaves {
            flows.keep(before as u32)?;
        }
        flows.steer(plan)?;
        if leaves {
            self.keepers.push(flows.keeper(Some(before as u32))?);
        }
        Ok(())
    }

    /// What a newer content says of flows; what has to wait, as a sentence.
    pub(super) fn update_flows(&mut self, options: &FlowOptions) -> Vec<String> {
        let Some(flows) = &mut self.flows else { return Vec::new() };
        let mut warnings = Vec::new();
        if options.max != self.options.flows.max {
            warnings.push(format!("FlowsMax of {} takes effect when the socket is made anew", self.address));
        }
        if options.timeout != self.options.flows.timeout
            && let Err(error) = flows.set_timeout(options.timeout)
        {
            let why = socket::errno_text(&error);
            warnings.push(format!("cannot set FlowTimeoutSec of {}: {why}", self.address));
        }
        warnings
    }
}

impl ListenSet {
    /// A slot's generation is gone, and another slot serves: its flows are new ones from now on, and what it has not read
    /// is thrown away. How many datagrams that were.
    pub fn vacate(&mut self, slot: u32) -> usize {
        let mut discarded = 0;
        let tag = self.tags.of_slots.remove(&slot);
        for endpoint in &mut self.endpoints {
            let Some(flows) = &mut endpoint.flows else { continue };
            if let Some(tag) = tag {
                let _ = flows.tag(tag, None);
            }
            // It can only fail for want of the map, which is ours.
            let _ = flows.vacate(slot);
            // Who has the slot next may have another content, without this address.
            endpoint.lent.retain(|lent| *lent != slot as usize);
            endpoint.keepers.extend(flows.keeper(None));
            let left = endpoint.slots.get(slot as usize);
            discarded += left.map_or(0, |slot| socket::discard(slot.fd.as_fd(), DISCARD_MAX));
        }
        discarded
    }

    /// What has to be done about flows, and takes a while: each with its address. For another thread.
    pub fn take_keepers(&mut self) -> Vec<(String, Keeper)> {
        let of = |endpoint: &mut Endpoint| {
            let address = endpoint.address.clone();
            std::mem::take(&mut endpoint.keepers).into_iter().map(move |keeper| (address.clone(), keeper))
        };
        self.endpoints.iter_mut().flat_map(of).collect()
    }

    /// The tag of the generation on this slot, if its unit has flows told apart by tags.
    pub fn flow_tag(&mut self, unit: &Unit, slot: u32) -> Option<u8> {
        let by_tag = unit.listens().any(|(socket, listen)| {
            socket.options.flows.by == FlowBy::Tag && listen.is_unicast_udp() && !socket.accept
        });
        by_tag.then(|| self.tags.of(slot))
    }

    /// Sends what has the slot's tag to the slot. The error is a sentence.
    pub(super) fn tell_tag(&mut self, slot: u32) -> Result<(), String> {
        let Some(tag) = self.tags.of_slots.get(&slot).copied() else { return Ok(()) };
        for endpoint in &mut self.endpoints {
            let Some(flows) = endpoint.flows.as_mut().filter(|_| endpoint.options.flows.by == FlowBy::Tag)
            else {
                continue;
            };
            flows.tag(tag, Some(slot)).map_err(|error| {
                format!("cannot steer {}: {}", endpoint.address, socket::errno_text(&error))
            })?;
        }
        Ok(())
    }

    /// The flows of a slot that are not idle, on all addresses.
    pub fn flowing(&self, slot: u32) -> Flowing {
        let mut found = Flowing::default();
        for flows in self.endpoints.iter().filter_map(|endpoint| endpoint.flows.as_ref()) {
            let live = flows.live().unwrap_or_default().get(&slot).copied().unwrap_or_default();
            found.live = found.live.saturating_add(live.count);
            found.idle_in = found.idle_in.max(live.idle_in);
        }
        found
    }

    /// For each address its live flows by slot; `None` for one that has none.
    pub fn live_flows(&self) -> Vec<Option<BTreeMap<u32, Live>>> {
        let of = |endpoint: &Endpoint| Some(endpoint.flows.as_ref()?.live_lately());
        self.endpoints.iter().map(of).collect()
    }

    /// How many of a slot's datagram sockets have something to read.
    pub(super) fn unread(&self, slot: u32) -> u32 {
        let steered = self.endpoints.iter().filter(|endpoint| endpoint.flows.is_some());
        let slots = steered.filter_map(|endpoint| endpoint.slots.get(slot as usize));
        slots.filter(|slot| sockopt::unread(slot.fd.as_fd()).is_ok_and(|bytes| bytes > 0)).count() as u32
    }
}
