//! Where new connections of steered addresses go.

use super::ListenSet;
use super::endpoint::{Endpoint, Way};
use crate::machine::event::SteerBy;
use crate::proto::status::Share;
use crate::sys::tally::{Counts, Tally};
use crate::sys::{flows, socket, steer};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

/// What was asked for last: for endpoints that come later, and for those that are repaired.
#[derive(Debug, Default)]
pub(super) struct Steered {
    pub(super) serving: usize,
    pub(super) canary: Option<(usize, u8, steer::Draw)>,
    pub(super) probes: Vec<(SocketAddr, usize)>,
    /// Counts while there is a draw, where the kernel lets us.
    pub(super) tally: Option<Tally>,
    /// What it said when the present step of the soak began.
    pub(super) counted: Counts,
    /// The steps that are over.
    pub(super) shares: Vec<Share>,
}

/// A weight that needs a draw: the others send everything to one side.
fn draws(weight: u8) -> bool {
    (1..=99).contains(&weight)
}

/// The sentence for an address that cannot be steered.
pub(super) fn refused(endpoint: &Endpoint, error: &io::Error) -> String {
    format!("cannot steer {}: {}", endpoint.address, socket::errno_text(error))
}

impl Steered {
    /// The slots that an endpoint's traffic goes to: a slot that no generation has been given gets nothing, or
    /// what is queued there would wait for nobody.
    fn slots(&self, endpoint: &Endpoint) -> (usize, Option<(usize, u8, steer::Draw)>) {
        let is_lent = |slot: &usize| endpoint.lent.contains(slot);
        let canary = self.canary.filter(|(slot, _, _)| is_lent(slot));
        let serving = if is_lent(&self.serving) {
            self.serving
        } else {
            let canary = canary.map(|(slot, _, _)| slot);
            canary.or(endpoint.lent.last().copied()).unwrap_or(endpoint.target)
        };
        (serving, canary.filter(|(slot, _, _)| *slot != serving))
    }

    /// Steers one endpoint as was asked for.
    pub(super) fn apply(&self, endpoint: &mut Endpoint) -> io::Result<()> {
        let (serving, canary) = self.slots(endpoint);
        let before = std::mem::replace(&mut endpoint.target, serving);
        match endpoint.way {
            Way::Shared => Ok(()),
            // A name has no percentages: the new generation has it, or not.
            Way::Renamed => {
                endpoint.show(canary.filter(|(_, w, _)| *w > 0).map_or(serving, |(slot, _, _)| slot))
            }
            Way::Group => self.attach(endpoint, serving, canary),
            Way::Flows => {
                let canary = canary.map(|(slot, weight, draw)| (slot as u32, weight, draw));
                endpoint.steer_flows(before, flows::Plan { serving: serving as u32, canary })
            }
        }
    }

    fn attach(
        &self,
        endpoint: &mut Endpoint,
        serving: usize,
        canary: Option<(usize, u8, steer::Draw)>,
    ) -> io::Result<()> {
        let index = |slot: usize| endpoint.order.iter().position(|s| *s == slot).map(|at| at as u32);
        // With everybody gone from the group there is nobody to attach through, and nothing to steer.
        let Some(member) = endpoint.order.first().and_then(|slot| endpoint.slots.get(*slot)) else {
            return Ok(());
        };
        let canary =
            canary.and_then(|(slot, weight, draw)| Some(steer::Canary { index: index(slot)?, weight, draw }));
        let probes = self.probes.iter().filter_map(|(from, slot)| {
            let slot = index(*slot).filter(|_| endpoint.lent.contains(slot))?;
            Some(steer::Probe { from: *from, index: slot })
        });
        let plan = steer::Plan { serving: index(serving).unwrap_or(0), canary, probes: probes.collect() };
        let counts = self.tally.as_ref().filter(|_| canary.is_some_and(|canary| draws(canary.weight)));
        if counts.is_some_and(|tally| tally.attach(member.fd.as_fd(), &plan).is_ok()) {
            endpoint.attached.clear();
            return Ok(());
        }
        let program = steer::program(&plan);
        if program != endpoint.attached {
            steer::attach(member.fd.as_fd(), &program)?;
            endpoint.attached = program;
        }
        Ok(())
    }

    /// Connections and flows that were drawn, where all of them are counted.
    fn counts(&self, endpoints: &[Endpoint]) -> Option<Counts> {
        let (canary, ..) = self.canary?;
        let mut sum = Counts::default();
        if endpoints.iter().any(|endpoint| endpoint.way == Way::Group) {
            sum = self.tally.as_ref().and_then(Tally::counts)?;
        }
        for flows in endpoints.iter().filter_map(|endpoint| endpoint.flows.as_ref()) {
            sum.serving += flows.drawn(self.serving as u32);
            sum.canary += flows.drawn(canary as u32);
        }
        Some(sum)
    }

    /// What has come of the present step so far; `None` if there is no draw.
    fn measured(&self, endpoints: &[Endpoint]) -> Option<Share> {
        let (_, weight, _) = self.canary.filter(|(_, weight, _)| draws(*weight))?;
        let Some(now) = self.counts(endpoints) else {
            return Some(Share::uncounted(weight));
        };
        let to_new = now.canary.saturating_sub(self.counted.canary);
        let to_old = now.serving.saturating_sub(self.counted.serving);
        Some(Share::counted(weight, to_new + to_old, to_new))
    }

    /// Counts where there will be a draw; forgets the soak before.
    fn begin_step(&mut self, before: Option<(usize, u8, steer::Draw)>, endpoints: &[Endpoint]) {
        if self.canary.is_some() && before.is_none() {
            self.shares.clear();
            self.tally = None;
        }
        let is_group = endpoints.iter().any(|endpoint| endpoint.way == Way::Group);
        let drew = before.is_some_and(|(_, weight, _)| draws(weight));
        if !self.canary.is_some_and(|(_, weight, _)| draws(weight)) {
            self.tally = None;
        } else if !drew || (is_group && self.tally.is_none()) {
            self.tally = if is_group { Tally::new().ok() } else { None };
            self.counted = self.counts(endpoints).unwrap_or_default();
        }
    }
}

impl Endpoint {
    /// Before the first launch the socket that gets the traffic becomes the slot that is launched on, whatever
    /// its number: what is queued already is then served. The error is a sentence.
    pub(super) fn take_target(&mut self, slot: usize) -> Result<(), String> {
        let target = self.target;
        if target == slot || target >= self.slots.len() || slot >= self.slots.len() {
            return Ok(());
        }
        self.slots.swap(target, slot);
        for number in &mut self.order {
            if *number == target {
                *number = slot;
            } else if *number == slot {
                *number = target;
            }
        }
        self.target = slot;
        self.place_again(&[target, slot])
    }
}

impl ListenSet {
    /// Sends new connections of every steered address to `serving`, and `canary`'s percentage to its slot. In
    /// force when this returns, but for a SYN that a processor is just handling. The error is a sentence for
    /// each address that could not be steered.
    pub fn steer(&mut self, serving: u32, canary: Option<(u32, u8)>, by: SteerBy) -> Result<(), String> {
        let before = self.steered.canary;
        self.steered.serving = serving as usize;
        self.steered.canary = canary.map(|(slot, weight)| {
            let slot = slot as usize;
            let draw = match (by, before) {
                (SteerBy::Connection, _) => steer::Draw::Connection,
                // One number for the whole upgrade: a growing weight then only adds clients.
                (SteerBy::Client, Some((old, _, steer::Draw::Client(salt)))) if old == slot => {
                    steer::Draw::Client(salt)
                }
                (SteerBy::Client, _) => steer::Draw::Client(steer::salt()),
            };
            (slot, weight, draw)
        });
        self.steered.begin_step(before, &self.endpoints);
        self.apply_all()
    }

    /// Steers as was said last: somebody before us may have said it, and not have come to it.
    ///
    /// # Errors
    /// As [`ListenSet::steer`].
    pub fn steer_again(&mut self) -> Result<(), String> {
        self.apply_all()
    }

    /// Of the new connections and flows since the weight was set last, how many the canary got; `None` if there is no
    /// draw.
    pub fn measured(&self) -> Option<Share> {
        let has_draw = |endpoint: &Endpoint| matches!(endpoint.way, Way::Group | Way::Flows);
        self.steered.measured(&self.endpoints).filter(|_| self.endpoints.iter().any(has_draw))
    }

    /// The same with the canary's slot, before the weight changes: it becomes one of [`ListenSet::take_shares`].
    pub fn end_step(&mut self) -> Option<(u32, Share)> {
        let share = self.measured()?;
        let (slot, ..) = self.steered.canary?;
        self.steered.counted = self.steered.counts(&self.endpoints).unwrap_or_default();
        match self.steered.shares.last_mut() {
            // Only who serves has changed.
            Some(last) if last.weight == share.weight => *last = last.and(share),
            _ => self.steered.shares.push(share),
        }
        Some((slot as u32, share))
    }

    /// What came of the steps of the soak that is over.
    pub fn take_shares(&mut self) -> Vec<Share> {
        std::mem::take(&mut self.steered.shares)
    }

    /// Sends the connection that will come from exactly this address and port of our own to `slot`: for a
    /// probe, whose socket is bound (`sys::socket::probe_socket`) and not yet connected. Until
    /// [`ListenSet::end_probe`]. Errors are sentences: too many probes at a time, no such slot.
    pub fn probe_port(&mut self, slot: u32, from: SocketAddr) -> Result<(), String> {
        self.steered.probes.retain(|(known, _)| *known != from);
        if self.steered.probes.len() >= steer::PROBES_MAX {
            return Err(format!("cannot probe from {from}: {} probes are under way", steer::PROBES_MAX));
        }
        self.steered.probes.push((from, slot as usize));
        self.apply_all()
    }

    /// The probe from this address is over.
    pub fn end_probe(&mut self, from: SocketAddr) -> Result<(), String> {
        self.steered.probes.retain(|(known, _)| *known != from);
        self.apply_all()
    }

    /// Whether the source of a connection to this address decides which slot it reaches.
    pub fn aims(&self, to: SocketAddr) -> bool {
        let groups = self.endpoints.iter().filter(|endpoint| endpoint.way == Way::Group);
        groups.filter_map(|endpoint| endpoint.at).any(|at| {
            let same = at.ip().is_unspecified() || at.ip().to_canonical() == to.ip().to_canonical();
            same && at.port() == to.port()
        })
    }

    /// The name under which one slot of a steered Unix path is reached, whichever has the path itself.
    pub fn probe_path(&self, slot: u32, path: &str) -> Option<&std::path::Path> {
        let named = |endpoint: &&Endpoint| endpoint.way == Way::Renamed && endpoint.address == path;
        let found = self.endpoints.iter().find(named)?.slots.get(slot as usize)?;
        found.path.as_ref().map(|bound| bound.path.as_path())
    }

    fn apply_all(&mut self) -> Result<(), String> {
        let mut errors = Vec::new();
        for endpoint in &mut self.endpoints {
            if let Err(error) = self.steered.apply(endpoint) {
                errors.push(refused(endpoint, &error));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors.join("\n")) }
    }
}
