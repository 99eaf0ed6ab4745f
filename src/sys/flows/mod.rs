//! Flows: which member of an SO_REUSEPORT group of datagram sockets gets a datagram, so that who talks to one goes on
//! talking to it. socket(7) `SO_ATTACH_REUSEPORT_EBPF`, linux/bpf.h `BPF_PROG_TYPE_SK_REUSEPORT`.
//!
//! One program for each address, loaded once and attached once; everything after that is a change in a map: which slot
//! serves, which is tried, which slot's generation is another one. The program and its maps live as long as the group does,
//! also without us. Nothing waits. A walk takes time in proportion to the flows.

mod program;
#[cfg(test)]
mod tests;

use super::bpf::{self, Kind, Map, Shape};
use super::steer::Draw;
use super::{clock, random, sockopt};
use crate::time::{Monotime, Span};
use nix::libc;
use program::{COUNTERS, FLOW, KEY, Maps, PLAN, SLOTS, TAGGED};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Flows of which only one datagram was seen.
const FRESH: u32 = 8192;
/// How many bits of an epoch there are.
const EPOCH_MASK: u32 = (1 << 28) - 1;

/// Where new flows go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The slot that gets the rest.
    pub serving: u32,
    /// The slot of the new generation, its percentage, and how it is drawn.
    pub canary: Option<(u32, u8, Draw)>,
}

/// The flows of one slot that have not been idle for as long as the time-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Live {
    /// How many.
    pub count: u32,
    /// In how long all of them would be idle, if nothing came.
    pub idle_in: Span,
}

/// The numbers that [`Flows::restored`] takes beside the descriptors.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    max: u32,
    timeout: Span,
    serving: u32,
    canary: Option<(u32, u8, Draw)>,
    salt: u32,
    epochs: [u32; SLOTS as usize],
    tags: bool,
    /// Of which slots the flows are taken down, a bit each.
    keeps: u32,
}

/// The steering of one address.
#[derive(Debug)]
pub struct Flows {
    plan: Map,
    slots: Map,
    fresh: Map,
    known: Map,
    kept: Map,
    tags: Map,
    counts: Map,
    program: OwnedFd,
    figures: Figures,
    /// For each slot how many datagrams had its tag at the last look, and when that was found to have grown.
    tagged: Cell<[(u64, u64); SLOTS as usize]>,
    /// What people were told last, and until when that will do.
    lately: RefCell<Option<(Monotime, BTreeMap<u32, Live>)>>,
}

fn shapes(max: u32) -> [(&'static str, Shape); 7] {
    let shape = |kind, key, value, entries| Shape { kind, key, value, entries };
    [
        ("plan", shape(Kind::Array, 4, PLAN, 1)),
        ("slots", shape(Kind::Sockets, 4, 8, SLOTS)),
        ("fresh", shape(Kind::Lru, KEY, FLOW, FRESH)),
        ("known", shape(Kind::Lru, KEY, FLOW, max)),
        ("kept", shape(Kind::Hash, KEY, FLOW, max.saturating_add(FRESH))),
        ("tags", shape(Kind::Array, 4, 4, 256)),
        ("counts", shape(Kind::Array, 4, 8, COUNTERS)),
    ]
}

type Key = [u8; KEY as usize];

fn keys_of(map: &Map) -> io::Result<HashSet<Key>> {
    let mut keys = HashSet::new();
    map.walk(|key, _| {
        keys.extend(Key::try_from(key));
    })?;
    Ok(keys)
}

fn is_in(keys: &HashSet<Key>, key: &[u8]) -> bool {
    !keys.is_empty() && Key::try_from(key).is_ok_and(|key| keys.contains(&key))
}

/// What is remembered of a flow: its slot, the slot's epoch, and when it was last heard of.
fn remembered(value: &[u8]) -> Option<(u32, u32, u64)> {
    let word = u32::from_ne_bytes(value.get(..4)?.try_into().ok()?);
    let last = u64::from_ne_bytes(value.get(8..16)?.try_into().ok()?);
    Some((word & (SLOTS - 1), word >> 4, last))
}

/// Takes down the flows of a slot, where nothing pushes them out.
#[derive(Debug)]
pub struct Keeper {
    fresh: Map,
    known: Map,
    kept: Map,
    epochs: [u32; SLOTS as usize],
    slot: Option<u32>,
    oldest: u64,
}

impl Keeper {
    /// Does it; how many flows were taken down.
    ///
    /// # Errors
    /// Those of bpf(2), `ENOMEM`: the flows stay where they are in the tables.
    pub fn run(self) -> io::Result<u32> {
        self.tidy()?;
        let Some(slot) = self.slot else { return Ok(0) };
        let epoch = self.epochs.get(slot as usize).copied().unwrap_or_default();
        let already = keys_of(&self.kept)?;
        let (mut keys, mut values, mut count) = (Vec::new(), Vec::new(), 0);
        for map in [&self.known, &self.fresh] {
            map.walk(|key, value| {
                let lives = remembered(value)
                    .is_some_and(|(at, then, last)| at == slot && then == epoch && last >= self.oldest);
                if lives && !is_in(&already, key) {
                    keys.extend(key);
                    values.extend(value);
                    count += 1;
                }
            })?;
        }
        self.kept.set_all(&keys, &values, count)?;
        Ok(count as u32)
    }

    /// Takes out the flows of generations that are gone.
    fn tidy(&self) -> io::Result<()> {
        let mut stale = Vec::new();
        self.kept.walk(|key, value| {
            let current = remembered(value).is_some_and(|(slot, epoch, _)| {
                self.epochs.get(slot as usize).is_some_and(|now| *now == epoch)
            });
            if !current {
                stale.push(key.to_vec());
            }
        })?;
        for key in stale {
            // The program may have been faster.
            let _ = self.kept.remove(&key);
        }
        Ok(())
    }
}

impl Flows {
    /// Makes the maps and loads the program: nothing is steered before [`Flows::attach`]. At most `max` flows are
    /// remembered, 102 bytes each, taken at once; one that was silent for `timeout` is a new one.
    ///
    /// # Errors
    /// `EPERM` without CAP_BPF, `ENOMEM`; those of [`bpf::available`].
    pub fn new(max: u32, timeout: Span) -> io::Result<Flows> {
        bpf::available()?;
        let [plan, slots, fresh, known, kept, tags, counts] = shapes(max).map(|(_, shape)| Map::new(shape));
        let (plan, slots, fresh, known, kept, tags, counts) =
            (plan?, slots?, fresh?, known?, kept?, tags?, counts?);
        let maps = Maps {
            plan: plan.as_fd(),
            slots: slots.as_fd(),
            fresh: fresh.as_fd(),
            known: known.as_fd(),
            kept: kept.as_fd(),
            tags: tags.as_fd(),
            counts: counts.as_fd(),
        };
        let code = program::write(maps).ok_or(io::ErrorKind::InvalidInput)?;
        let program = bpf::load(bpf::SK_REUSEPORT, "aeterna_flows", &code)?;
        let figures = Figures {
            max,
            timeout,
            serving: 0,
            canary: None,
            salt: 0,
            epochs: [1; SLOTS as usize],
            tags: false,
            keeps: 0,
        };
        let flows = Flows {
            plan,
            slots,
            fresh,
            known,
            kept,
            tags,
            counts,
            program,
            figures,
            tagged: Cell::default(),
            lately: RefCell::default(),
        };
        flows.write(flows.word())?;
        Ok(flows)
    }

    /// The descriptors with their names, and the numbers, for the program after this one.
    pub fn parts(&self) -> ([(&'static str, BorrowedFd<'_>); 8], Figures) {
        let Flows { plan, slots, fresh, known, kept, tags, counts, program, figures, tagged: _, lately: _ } =
            self;
        let all = [
            ("plan", plan.as_fd()),
            ("slots", slots.as_fd()),
            ("fresh", fresh.as_fd()),
            ("known", known.as_fd()),
            ("kept", kept.as_fd()),
            ("tags", tags.as_fd()),
            ("counts", counts.as_fd()),
            ("program", program.as_fd()),
        ];
        (all, figures.clone())
    }

    /// What a program before this one has made, which goes on without a gap: the descriptors in the order of
    /// [`Flows::parts`].
    pub fn restored(parts: [OwnedFd; 8], figures: Figures) -> Flows {
        let [plan, slots, fresh, known, kept, tags, counts, program] = parts;
        let [p, s, f, k, e, t, c] = shapes(figures.max).map(|(_, shape)| shape);
        Flows {
            plan: Map::restored(plan, p),
            slots: Map::restored(slots, s),
            fresh: Map::restored(fresh, f),
            known: Map::restored(known, k),
            kept: Map::restored(kept, e),
            tags: Map::restored(tags, t),
            counts: Map::restored(counts, c),
            program,
            figures,
            // What has come until now counts as having come now.
            tagged: Cell::default(),
            lately: RefCell::default(),
        }
    }

    /// How many flows are remembered at most.
    pub fn max(&self) -> u32 {
        self.figures.max
    }

    /// Attaches the program to the group of `member`, in place of what was attached.
    ///
    /// # Errors
    /// `EINVAL` if it is in no group.
    pub fn attach(&self, member: BorrowedFd<'_>) -> io::Result<()> {
        let number = self.program.as_raw_fd().to_ne_bytes();
        sockopt::set_bytes(member, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_EBPF, &number)
    }

    /// From now on `slot` is this socket, a member of the group.
    ///
    /// # Errors
    /// `E2BIG` for a slot that there is not; `EBUSY` for a socket that something in the kernel uses.
    pub fn place(&self, slot: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let value = u64::from(socket.as_raw_fd().unsigned_abs()).to_ne_bytes();
        self.slots.set(&slot.to_ne_bytes(), &value)
    }

    /// From now on `slot` is no socket: what is meant for it goes to the serving one.
    pub fn clear(&self, slot: u32) {
        // It may have been none already.
        let _ = self.slots.remove(&slot.to_ne_bytes());
    }

    fn word(&self) -> u64 {
        let Figures { serving, canary, tags, keeps, .. } = self.figures;
        let mut flags = 0;
        flags |= if tags { program::TAGS } else { 0 };
        flags |= if keeps != 0 { program::KEPT } else { 0 };
        let (mut serving, mut canary_slot, mut threshold) = (serving, serving, 0);
        match canary {
            Some((slot, 100.., _)) => serving = slot,
            Some((slot, weight, draw)) => {
                canary_slot = slot;
                threshold = (u64::from(weight) << 32) / 100;
                flags |= if matches!(draw, Draw::Client(_)) { program::BY_CLIENT } else { 0 };
            }
            None => {}
        }
        u64::from(serving & (SLOTS - 1)) | u64::from(canary_slot & (SLOTS - 1)) << 4 | flags | threshold << 32
    }

    fn write(&self, word: u64) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(PLAN as usize);
        bytes.extend(word.to_ne_bytes());
        bytes.extend(u64::from(self.figures.salt).to_ne_bytes());
        bytes.extend(i64::try_from(self.figures.timeout.0).unwrap_or(i64::MAX).to_ne_bytes());
        self.figures.epochs.iter().for_each(|epoch| bytes.extend(epoch.to_ne_bytes()));
        self.plan.set(&0_u32.to_ne_bytes(), &bytes)
    }

    /// Sends new flows where the plan says. In force when this returns.
    ///
    /// # Errors
    /// Those of bpf(2).
    pub fn steer(&mut self, plan: Plan) -> io::Result<()> {
        let before = (self.figures.serving, self.figures.canary, self.figures.salt);
        let word = self.word();
        self.figures.serving = plan.serving;
        self.figures.salt = match (plan.canary, before.1) {
            (Some((.., Draw::Client(salt))), _) => salt,
            // While one canary grows, the salt stands: what has been drawn for it is drawn again.
            (Some((slot, ..)), Some((old, ..))) if slot == old => self.figures.salt,
            (Some(_), _) => random::bits() as u32,
            (None, _) => self.figures.salt,
        };
        self.figures.canary = plan.canary;
        if self.figures.salt != before.2 {
            // Nobody draws by the new one before it is whole.
            self.write(word & u64::from(u32::MAX))?;
        }
        let done = self.write(self.word());
        if done.is_err() {
            (self.figures.serving, self.figures.canary, self.figures.salt) = before;
        }
        done
    }

    /// How long a flow may be silent.
    ///
    /// # Errors
    /// Those of bpf(2).
    pub fn set_timeout(&mut self, timeout: Span) -> io::Result<()> {
        self.figures.timeout = timeout;
        self.write(self.word())
    }

    /// The slot's generation is gone: its flows are new ones from now on.
    ///
    /// # Errors
    /// Those of bpf(2).
    pub fn vacate(&mut self, slot: u32) -> io::Result<()> {
        if let Some(epoch) = self.figures.epochs.get_mut(slot as usize) {
            *epoch = (*epoch + 1) & EPOCH_MASK;
        }
        let mut tagged = self.tagged.get();
        if let Some(entry) = tagged.get_mut(slot as usize) {
            *entry = (self.tagged(slot), 0);
        }
        self.tagged.set(tagged);
        self.figures.keeps &= !(1 << slot);
        self.write(self.word())
    }

    /// From now on what is taken down of this slot's flows counts first. They are not in the way of anything: what
    /// [`Flows::keeper`] has not taken down yet is still found in the tables.
    ///
    /// # Errors
    /// Those of bpf(2).
    pub fn keep(&mut self, slot: u32) -> io::Result<()> {
        self.figures.keeps |= 1 << slot;
        self.write(self.word())
    }

    /// What takes down the live flows of a slot, or only what was taken down of generations that are gone out again: it
    /// takes a while, and may run on any thread.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn keeper(&self, slot: Option<u32>) -> io::Result<Keeper> {
        Ok(Keeper {
            fresh: self.fresh.try_clone()?,
            known: self.known.try_clone()?,
            kept: self.kept.try_clone()?,
            epochs: self.figures.epochs,
            slot,
            oldest: clock::now().0.saturating_sub(self.figures.timeout.0),
        })
    }

    fn keys_kept(&self) -> io::Result<HashSet<Key>> {
        if self.figures.keeps == 0 { Ok(HashSet::new()) } else { keys_of(&self.kept) }
    }

    /// As [`Flows::live`], or what that said a short while ago if it takes long: for people.
    pub fn live_lately(&self) -> BTreeMap<u32, Live> {
        // Not more than a fiftieth of the time is spent on it.
        const REST: u64 = 50;
        let began = clock::now();
        if let Some((fresh_until, live)) = &*self.lately.borrow()
            && began < *fresh_until
        {
            return live.clone();
        }
        let live = self.live().unwrap_or_default();
        let now = clock::now();
        *self.lately.borrow_mut() = Some((now + Span(now.since(began).0.saturating_mul(REST)), live.clone()));
        live
    }

    /// The live flows of each slot that has any.
    ///
    /// # Errors
    /// Those of bpf(2).
    pub fn live(&self) -> io::Result<BTreeMap<u32, Live>> {
        let now = clock::now().0;
        let timeout = self.figures.timeout.0;
        let kept = self.keys_kept()?;
        let mut found: BTreeMap<u32, Live> = BTreeMap::new();
        let mut count = |value: &[u8]| {
            let Some((slot, epoch, last)) = remembered(value) else { return };
            let left = last.saturating_add(timeout).saturating_sub(now);
            if self.figures.epochs.get(slot as usize).is_some_and(|current| *current == epoch) && left > 0 {
                let live = found.entry(slot).or_default();
                live.count += 1;
                live.idle_in = live.idle_in.max(Span(left));
            }
        };
        for map in [&self.known, &self.fresh] {
            map.walk(|key, value| {
                if !is_in(&kept, key) {
                    count(value);
                }
            })?;
        }
        if self.figures.keeps != 0 {
            self.kept.walk(|_, value| count(value))?;
        }
        if self.figures.tags {
            self.look_at_tags(now, &mut found);
        }
        Ok(found)
    }

    /// What comes by its tag is in no table: where anything has come since the last look, there is a flow.
    fn look_at_tags(&self, now: u64, found: &mut BTreeMap<u32, Live>) {
        let mut tagged = self.tagged.get();
        for (slot, (count, at)) in (0..).zip(&mut tagged) {
            let current = self.tagged(slot);
            if current != *count {
                (*count, *at) = (current, now);
            }
            let left = at.saturating_add(self.figures.timeout.0).saturating_sub(now);
            if *count > 0 && left > 0 {
                let live = found.entry(slot).or_default();
                live.count = live.count.max(1);
                live.idle_in = live.idle_in.max(Span(left));
            }
        }
        self.tagged.set(tagged);
    }

    /// Datagrams of QUIC with this tag go to `slot`, or with `None` to nobody in particular.
    ///
    /// # Errors
    /// Those of bpf(2).
    pub fn tag(&mut self, tag: u8, slot: Option<u32>) -> io::Result<()> {
        let value = slot.map_or(0, |slot| slot + 1);
        self.tags.set(&u32::from(tag).to_ne_bytes(), &value.to_ne_bytes())?;
        if slot.is_some() && !self.figures.tags {
            self.figures.tags = true;
            self.write(self.word())?;
        }
        Ok(())
    }

    /// How many flows were drawn for a slot since the address was bound.
    pub fn drawn(&self, slot: u32) -> u64 {
        self.counter(slot)
    }

    /// How many datagrams their tag has brought to a slot.
    pub fn tagged(&self, slot: u32) -> u64 {
        self.counter(TAGGED + slot)
    }

    fn counter(&self, number: u32) -> u64 {
        let mut value = [0; 8];
        // There are as many as there are.
        let _ = self.counts.get(&number.to_ne_bytes(), &mut value);
        u64::from_ne_bytes(value)
    }
}
