//! Counting what steering does: the same decision as [`steer::program`]'s, carried out by an eBPF program that adds each
//! new connection of a draw to one of two counters. bpf(2), socket(7) `SO_ATTACH_REUSEPORT_EBPF`.
//!
//! Needs CAP_BPF, so it is tried and done without: the classic program decides the same, and nobody
//! knows what came of it. Classic programs have no memory, and the kernel counts nothing per listener.

use super::bpf::assembler::Step;
use super::bpf::{self, Kind, Map, Shape};
use super::sockopt;
use super::steer::{self, Instruction, Plan};
use nix::libc;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// New connections of a draw. Probes are in neither number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Those that went to the serving member.
    pub serving: u64,
    /// Those that went to the canary.
    pub canary: u64,
}

/// Two counters in the kernel. Dropping it ends the counting once no program counts any more.
#[derive(Debug)]
pub struct Tally {
    map: Map,
    spoilt: Cell<bool>,
}

const SERVING: i32 = 0;
const CANARY: i32 = 1;

/// Two counters of eight bytes.
const SHAPE: Shape = Shape { kind: Kind::Array, key: 4, value: 8, entries: 2 };

impl Tally {
    /// Counters that stand at nought.
    ///
    /// # Errors
    /// Those of [`bpf::available`]; `ENOMEM`.
    pub fn new() -> io::Result<Tally> {
        bpf::available()?;
        Ok(Tally { map: Map::new(SHAPE)?, spoilt: Cell::new(false) })
    }

    /// Attaches a plan's program, which counts, as [`steer::attach`] attaches one that does not.
    ///
    /// # Errors
    /// As there, and those of bpf(2). The counts are worth nothing after one.
    pub fn attach(&self, member: BorrowedFd<'_>, plan: &Plan) -> io::Result<()> {
        let code = translate(&steer::program(plan), self.map.as_fd().as_raw_fd());
        let result = bpf::load(bpf::SOCKET_FILTER, "aeterna_tally", &code).and_then(|program| {
            let number = program.as_raw_fd().to_ne_bytes();
            sockopt::set_bytes(member, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_EBPF, &number)
        });
        if result.is_err() {
            self.spoilt.set(true);
        }
        result
    }

    /// What [`Tally::restored`] makes it of.
    pub fn parts(&self) -> (BorrowedFd<'_>, bool) {
        (self.map.as_fd(), self.spoilt.get())
    }

    /// Counters that a program before this one has made.
    pub fn restored(map: OwnedFd, spoilt: bool) -> Tally {
        Tally { map: Map::restored(map, SHAPE), spoilt: Cell::new(spoilt) }
    }

    /// What was counted so far; `None` if a program could not be attached meanwhile.
    pub fn counts(&self) -> Option<Counts> {
        if self.spoilt.get() {
            return None;
        }
        Some(Counts { serving: self.count(SERVING)?, canary: self.count(CANARY)? })
    }

    fn count(&self, key: i32) -> Option<u64> {
        let mut value = [0; 8];
        self.map.get(&key.to_ne_bytes(), &mut value).ok().map(|()| u64::from_ne_bytes(value))
    }
}

/// What a call returns and the program ends with.
const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
/// The packet: loads from it want it there.
const PACKET: u8 = 6;
/// The classic program's X.
const X: u8 = 7;
/// The classic program's A.
const A: u8 = 8;
/// The member that has been chosen.
const CHOICE: u8 = 9;
const FRAME: u8 = 10;

const MOVE: u8 = 0xbf;
const MOVE_VALUE: u8 = 0xb7;
const ADD_VALUE: u8 = 0x07;
const MOVE_32: u8 = 0xbc;
const MOVE_VALUE_32: u8 = 0xb4;
const AND_VALUE_32: u8 = 0x54;
const LEFT_VALUE_32: u8 = 0x64;
const STORE_VALUE_32: u8 = 0x62;
const LOAD_MAP: u8 = 0x18;
const JUMP: u8 = 0x05;
const IF_EQUAL: u8 = 0x15;
const IF_EQUAL_32: u8 = 0x16;
const IF_AT_LEAST_32: u8 = 0x36;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const ATOMIC_ADD: u8 = 0xdb;

const MAP_LOOKUP: i32 = 1;
const RANDOM: i32 = 7;

const fn step(code: u8, to: u8, from: u8, value: i32) -> Step {
    Step { code, registers: to | from << 4, offset: 0, value }
}

/// A classic program of ours in eBPF.
fn translate(program: &[Instruction], map: RawFd) -> Vec<Step> {
    let start = [step(MOVE, PACKET, R1, 0), step(MOVE_VALUE, A, 0, 0), step(MOVE_VALUE, X, 0, 0)];
    let mut starts = Vec::with_capacity(program.len() + 1);
    let mut length = start.len();
    for at in 0..program.len() {
        starts.push(length);
        length += expand(program, at, map, &|_, _| 0).len();
    }
    let mut out = start.to_vec();
    for at in 0..program.len() {
        let here = out.len();
        // From the step number `nth` of this expansion to the first one of another.
        let distance = |nth: usize, to: usize| {
            let to = starts.get(to).copied().unwrap_or(length);
            (to as isize - (here + nth + 1) as isize) as i16
        };
        out.extend(expand(program, at, map, &distance));
    }
    out
}

/// One classic instruction. `distance` gives the offset of a jump: (which of these steps, to which instruction).
fn expand(
    program: &[Instruction],
    at: usize,
    map: RawFd,
    distance: &dyn Fn(usize, usize) -> i16,
) -> Vec<Step> {
    let Some(one) = program.get(at) else { return Vec::new() };
    let value = one.k as i32;
    let load = |code: u16, from: u8| vec![step(code as u8, 0, from, value), step(MOVE_32, A, R0, 0)];
    match one.code {
        steer::LOAD_WORD if one.k == steer::RANDOM => {
            vec![step(CALL, 0, 0, RANDOM), step(MOVE_32, A, R0, 0)]
        }
        steer::LOAD_BYTE | steer::LOAD_HALF | steer::LOAD_WORD => load(one.code, 0),
        steer::LOAD_HALF_X => load(one.code, X),
        steer::LOAD_X_IHL => vec![
            step(steer::LOAD_BYTE as u8, 0, 0, value),
            step(AND_VALUE_32, R0, 0, 0xf),
            step(LEFT_VALUE_32, R0, 0, 2),
            step(MOVE_32, X, R0, 0),
        ],
        steer::TO_X => vec![step(MOVE_32, X, A, 0)],
        steer::XOR_X => vec![step(one.code as u8, A, X, 0)],
        steer::RIGHT | steer::MULTIPLY | steer::XOR => vec![step(one.code as u8, A, 0, value)],
        steer::IF_EQUAL | steer::IF_AT_LEAST => {
            let code = if one.code == steer::IF_EQUAL { IF_EQUAL_32 } else { IF_AT_LEAST_32 };
            let (yes, no) = (at + 1 + usize::from(one.jt), at + 1 + usize::from(one.jf));
            vec![
                Step { offset: distance(0, yes), ..step(code, A, 0, value) },
                Step { offset: distance(1, no), ..step(JUMP, 0, 0, 0) },
            ]
        }
        steer::JUMP => {
            vec![Step { offset: distance(0, at + 1 + one.k as usize), ..step(JUMP, 0, 0, 0) }]
        }
        _ => finish(value, drawn(program, at), map),
    }
}

/// Which counter a RETURN is for: a draw is followed by the canary's and by the serving one's; others are of probes.
fn drawn(program: &[Instruction], at: usize) -> Option<i32> {
    let is_draw = |back: usize| {
        at.checked_sub(back).and_then(|at| program.get(at)).is_some_and(|one| one.code == steer::IF_AT_LEAST)
    };
    if is_draw(1) {
        Some(CANARY)
    } else if is_draw(2) {
        Some(SERVING)
    } else {
        None
    }
}

/// The end of the program with this member, counted.
fn finish(member: i32, counter: Option<i32>, map: RawFd) -> Vec<Step> {
    const MAP_BY_DESCRIPTOR: u8 = 1;
    let Some(counter) = counter else {
        return vec![step(MOVE_VALUE_32, R0, 0, member), step(EXIT, 0, 0, 0)];
    };
    vec![
        step(MOVE_VALUE_32, CHOICE, 0, member),
        Step { offset: -4, ..step(STORE_VALUE_32, FRAME, 0, counter) },
        step(LOAD_MAP, R1, MAP_BY_DESCRIPTOR, map),
        step(0, 0, 0, 0),
        step(MOVE, R2, FRAME, 0),
        step(ADD_VALUE, R2, 0, -4),
        step(CALL, 0, 0, MAP_LOOKUP),
        Step { offset: 2, ..step(IF_EQUAL, R0, 0, 0) },
        step(MOVE_VALUE, R1, 0, 1),
        step(ATOMIC_ADD, R0, R1, 0),
        step(MOVE_32, R0, CHOICE, 0),
        step(EXIT, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket::{self, Place};
    use crate::unit::{Address, Listen, ListenKind, undeclared_socket};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use steer::{Canary, Draw, Probe};

    /// Two members of a group, and their address.
    fn group(at: &str) -> Option<([TcpListener; 2], SocketAddr)> {
        let address = Address::Inet(at.parse().unwrap());
        let listen = Listen { kind: ListenKind::Stream, address };
        let options = undeclared_socket("test", listen.clone()).options;
        let first = socket::open(&listen, &options, Place::FirstSlot).ok()?;
        let at = first.at.unwrap();
        let second = socket::open(&listen, &options, Place::NextSlot { at, owned: first.owned }).unwrap();
        let members = [first.fd, second.fd].map(TcpListener::from);
        members.iter().for_each(|member| member.set_nonblocking(true).unwrap());
        Some((members, at))
    }

    /// How many connections each member gets of so many that were made. The kernel may finish a handshake later than
    /// connect(2).
    fn taken(members: &[TcpListener; 2], made: u64) -> [u64; 2] {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let mut got = [0; 2];
        while got[0] + got[1] < made {
            assert!(std::time::Instant::now() < until, "{got:?} of {made}");
            for (member, got) in members.iter().zip(&mut got) {
                *got += std::iter::from_fn(|| member.accept().ok()).count() as u64;
            }
        }
        got
    }

    fn tally() -> Option<Tally> {
        match Tally::new() {
            Ok(tally) => Some(tally),
            Err(error) => {
                println!("skipped: {error}");
                None
            }
        }
    }

    #[test]
    fn every_connection_is_counted_where_it_goes() {
        let Some(tally) = tally() else { return };
        for (at, draw) in [
            ("127.0.0.1:0", Draw::Connection),
            ("127.0.0.1:0", Draw::Client(7)),
            ("[::1]:0", Draw::Connection),
            ("[::1]:0", Draw::Client(7)),
        ] {
            let Some((members, at)) = group(at) else { continue };
            let plan =
                Plan { serving: 0, canary: Some(Canary { index: 1, weight: 30, draw }), probes: vec![] };
            let before = tally.counts().unwrap();
            tally.attach(members[0].as_fd(), &plan).unwrap();
            let clients: Vec<_> = (0..300).map(|_| TcpStream::connect(at).unwrap()).collect();
            let counts = tally.counts().unwrap();
            let got = [counts.serving - before.serving, counts.canary - before.canary];
            assert_eq!(got, taken(&members, 300), "{at} {draw:?}");
            match draw {
                Draw::Connection => assert!((45..150).contains(&got[1]), "{got:?}"),
                Draw::Client(_) => assert!(got.contains(&0), "one client is on one side: {got:?}"),
            }
            drop(clients);
        }
    }

    #[test]
    fn probes_arrive_and_are_not_counted() {
        let Some(tally) = tally() else { return };
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let Some((members, at)) = group(at) else { continue };
            let (source, from) = socket::probe_socket(at).unwrap();
            let plan = Plan {
                serving: 0,
                canary: Some(Canary { index: 0, weight: 50, draw: Draw::Connection }),
                probes: vec![Probe { from, index: 1 }],
            };
            let before = tally.counts().unwrap();
            tally.attach(members[0].as_fd(), &plan).unwrap();
            socket::dial(source.as_fd(), at).unwrap();
            assert_eq!(taken(&members, 1), [0, 1]);
            assert_eq!(tally.counts().unwrap(), before);
        }
    }

    #[test]
    fn the_largest_program_is_accepted() {
        let Some(tally) = tally() else { return };
        let Some((members, _)) = group("[::1]:0") else { return };
        let probes = (0..steer::PROBES_MAX).map(|n| {
            let ip = std::net::Ipv6Addr::from(n as u128 + 1);
            Probe { from: (ip, n as u16).into(), index: 1 }
        });
        let canary = Some(Canary { index: 1, weight: 50, draw: Draw::Client(1) });
        let plan = Plan { serving: 0, canary, probes: probes.collect() };
        tally.attach(members[0].as_fd(), &plan).unwrap();
    }

    #[test]
    fn after_a_refusal_nothing_is_said() {
        let Some(tally) = tally() else { return };
        let plain = TcpListener::bind("127.0.0.1:0").unwrap();
        let canary = Some(Canary { index: 1, weight: 50, draw: Draw::Connection });
        assert!(tally.attach(plain.as_fd(), &Plan { serving: 0, canary, probes: vec![] }).is_err());
        assert_eq!(tally.counts(), None);
    }
}
