//! Steering: the classic BPF program that says which member of an SO_REUSEPORT group gets a new connection.
//!
//! socket(7) `SO_ATTACH_REUSEPORT_CBPF`, bpf(4) of the BSDs for the instruction set, and the kernel's
//! Documentation/networking/filter.rst for `SKF_NET_OFF` and `SKF_AD_RANDOM`. Building a [`program`] is pure.
//!
//! The number that a program returns is an index into the group: members in the order of their listen(2). A
//! member that leaves (close, shutdown) is replaced by the last one; one that listens again becomes the last.
//! A number without a member falls back to the kernel's own hash: nothing is refused.

use super::{random, sockopt};
use nix::libc;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

/// One instruction, as `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// Instructions to skip if a test holds.
    pub jt: u8,
    /// Instructions to skip if not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// How a new connection is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Draw {
    /// Each connection by itself.
    Connection,
    /// A client address (IPv6: its /64) stays on one side; the number makes each upgrade draw other clients.
    Client(u32),
}

/// A share of the new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canary {
    /// The member that gets them.
    pub index: u32,
    /// Percent, at most 100.
    pub weight: u8,
    /// How they are drawn.
    pub draw: Draw,
}

/// A probe: the connection from exactly this address goes to a member of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// The probing socket's own address and port.
    pub from: SocketAddr,
    /// The member that gets it.
    pub index: u32,
}

/// Where new connections go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The member that gets the rest.
    pub serving: u32,
    /// The new generation's share.
    pub canary: Option<Canary>,
    /// Probes that are under way, at most [`PROBES_MAX`].
    pub probes: Vec<Probe>,
}

/// How many probes a program has room for.
pub const PROBES_MAX: usize = 64;

/// The network header, whatever the packet's data pointer is at: there it is the payload.
const NET: u32 = 0xfff0_0000;
/// A random number for each packet.
pub(super) const RANDOM: u32 = 0xffff_f038;

pub(super) const LOAD_BYTE: u16 = 0x30;
pub(super) const LOAD_HALF: u16 = 0x28;
pub(super) const LOAD_WORD: u16 = 0x20;
pub(super) const LOAD_HALF_X: u16 = 0x48;
pub(super) const LOAD_X_IHL: u16 = 0xb1;
pub(super) const RIGHT: u16 = 0x74;
pub(super) const MULTIPLY: u16 = 0x24;
pub(super) const XOR: u16 = 0xa4;
pub(super) const XOR_X: u16 = 0xac;
pub(super) const TO_X: u16 = 0x07;
pub(super) const IF_EQUAL: u16 = 0x15;
pub(super) const IF_AT_LEAST: u16 = 0x35;
pub(super) const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;

const TCP: u32 = 6;

fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// The program that sends everything to the first member.
pub fn to_first() -> Vec<Instruction> {
    program(&Plan { serving: 0, canary: None, probes: Vec::new() })
}

/// The program for a plan.
pub fn program(plan: &Plan) -> Vec<Instruction> {
    let by_client =
        plan.canary.is_some_and(|c| matches!(c.draw, Draw::Client(_)) && (1..=99).contains(&c.weight));
    if plan.probes.is_empty() && !by_client {
        return rest(plan, &[]);
    }
    let v4 = v4_part(plan);
    let mut out = vec![
        plain(LOAD_BYTE, NET),
        plain(RIGHT, 4),
        // IPv4 clients of a dual-stack socket arrive as IPv4 packets: the packet decides, not the socket.
        branch(IF_EQUAL, 6, 0, 1),
        plain(JUMP, v4.len() as u32),
    ];
    out.extend(v4);
    out.extend(v6_part(plan));
    out
}

fn v4_part(plan: &Plan) -> Vec<Instruction> {
    let mut out = vec![plain(LOAD_X_IHL, NET)];
    for probe in &plan.probes {
        if let IpAddr::V4(ip) = probe.from.ip().to_canonical() {
            out.extend([
                plain(LOAD_HALF_X, NET),
                branch(IF_EQUAL, probe.from.port().into(), 0, 3),
                plain(LOAD_WORD, NET + 12),
                branch(IF_EQUAL, ip.into(), 0, 1),
                plain(RETURN, probe.index),
            ]);
        }
    }
    out.extend(rest(plan, &[plain(LOAD_WORD, NET + 12)]));
    out
}

fn v6_part(plan: &Plan) -> Vec<Instruction> {
    let mut probes = Vec::new();
    for probe in &plan.probes {
        if let IpAddr::V6(ip) = probe.from.ip().to_canonical() {
            probes.push(plain(LOAD_HALF, NET + 40));
            probes.push(branch(IF_EQUAL, probe.from.port().into(), 0, 9));
            let bits = u128::from(ip);
            for word in 0..4u32 {
                probes.push(plain(LOAD_WORD, NET + 8 + 4 * word));
                // Onto the next probe, past what is left of this one.
                let left = 7 - 2 * word as u8;
                probes.push(branch(IF_EQUAL, (bits >> (96 - 32 * word)) as u32, 0, left));
            }
            probes.push(plain(RETURN, probe.index));
        }
    }
    let mut out = Vec::new();
    if !probes.is_empty() {
        // An extension header comes first in some packets: then it is no probe of ours.
        out.extend([
            plain(LOAD_BYTE, NET + 6),
            branch(IF_EQUAL, TCP, 1, 0),
            plain(JUMP, probes.len() as u32),
        ]);
        out.extend(probes);
    }
    let network = [
        plain(LOAD_WORD, NET + 8),
        plain(TO_X, 0),
        plain(LOAD_WORD, NET + 12),
        plain(MULTIPLY, 0x85eb_ca6b),
        plain(XOR_X, 0),
    ];
    out.extend(rest(plan, &network));
    out
}

/// The weight part: `client` loads a number that stands for the client.
fn rest(plan: &Plan, client: &[Instruction]) -> Vec<Instruction> {
    let Some(canary) = plan.canary.filter(|canary| canary.weight > 0) else {
        return vec![plain(RETURN, plan.serving)];
    };
    if canary.weight >= 100 {
        return vec![plain(RETURN, canary.index)];
    }
    let mut out = match canary.draw {
        Draw::Connection => vec![plain(LOAD_WORD, RANDOM)],
        Draw::Client(salt) => {
            let mut hash = client.to_vec();
            hash.push(plain(XOR, salt));
            for (shift, factor) in [(16, Some(0x85eb_ca6b)), (13, Some(0xc2b2_ae35)), (16, None)] {
                hash.extend([plain(TO_X, 0), plain(RIGHT, shift), plain(XOR_X, 0)]);
                hash.extend(factor.map(|factor| plain(MULTIPLY, factor)));
            }
            hash
        }
    };
    out.extend([
        branch(IF_AT_LEAST, threshold(canary.weight), 1, 0),
        plain(RETURN, canary.index),
        plain(RETURN, plan.serving),
    ]);
    out
}

/// The first 32-bit number that a canary of this weight (1 to 99) does not get.
fn threshold(weight: u8) -> u32 {
    ((u64::from(weight) << 32) / 100) as u32
}

/// Attaches a [`program`] to the whole group that `member` belongs to; it replaces what was attached.
///
/// `member` must listen, or be the first of its group: attaching through one that is only bound makes its
/// listen(2) fail. Errors: EINVAL (no SO_REUSEPORT), EPERM, ENOPROTOOPT where the kernel has no such thing.
pub fn attach(member: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    let mut code: Vec<libc::sock_filter> =
        program.iter().map(|i| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect();
    let len = u16::try_from(code.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let filter = libc::sock_fprog { len, filter: code.as_mut_ptr() };
    let pointer: *const libc::sock_fprog = &raw const filter;
    // SAFETY: the struct is alive, and its bytes (two integers and padding of a repr(C) struct that was made
    // whole) are only handed to the kernel.
    let bytes = unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), size_of::<libc::sock_fprog>()) };
    sockopt::set_bytes(member, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, bytes)
}

/// A random number for [`Draw::Client`].
pub fn salt() -> u32 {
    random::bits() as u32
}

/// Takes a listener out of its group: connect(2) to AF_UNSPEC. With `net.ipv4.tcp_migrate_req = 1` what is queued moves
/// to the others, otherwise it is lost. [`super::socket::listen`] brings it back as the last member. Works too on one
/// that somebody has shut down, and forgets that: shutdown(2) on it would stay, and be inherited by every connection
/// that it accepts later, which would then read an end of file.
pub fn leave(member: BorrowedFd<'_>) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let mut nowhere = [0_u8; size_of::<libc::sockaddr_in>()];
    nowhere[..2].copy_from_slice(&(libc::AF_UNSPEC as u16).to_ne_bytes());
    // SAFETY: the address is alive and as long as is said; its family is all that is read.
    let r = unsafe { libc::connect(member.as_raw_fd(), nowhere.as_ptr().cast(), nowhere.len() as u32) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the kernel moves a closing listener's queue to the others of its group.
pub fn migrates() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req").is_ok_and(|text| text.trim() == "1")
}

#[cfg(test)]
#[path = "steer_tests.rs"]
mod tests;
