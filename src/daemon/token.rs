//! What a ready descriptor belongs to, packed into the poller's 64 bits.

use crate::sys::poll::Token;

/// The owner of a descriptor in the poll set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The control socket's listener.
    Control,
    /// A control client.
    Client(u32),
    /// A socket of a unit, by its id in the listen set.
    Socket(usize, u32),
    /// The notify socket of a unit's generation.
    Notify(usize, u32),
    /// A log pipe of a unit.
    Log(usize, u32),
    /// `cgroup.events` of a unit's generation.
    Cgroup(usize, u32),
    /// `memory.events` of a unit's generation.
    Kills(usize, u32),
    /// The pidfd of a process that has become a main one, by its number in the unit.
    Adopted(usize, u32),
    /// A stored descriptor of a unit.
    Stored(usize, u32),
    /// The filter of a unit's processes, by its number.
    Filter(usize, u32),
    /// A unit's SRP socket.
    StateSocket(usize),
    /// A connection to it.
    StateConnection(usize, u32),
    /// inotify over a unit's `WatchPaths`.
    Paths(usize),
    /// inotify over the folders of a unit's Unix sockets.
    SocketPaths(usize),
    /// A process on its way to its program, by its pid.
    Starting(u32),
    /// Changes of the runtime dir, and of the table of mounts.
    Home,
    /// The claim on the runtime dir.
    Claim,
    /// What a program says that is asked whether it can take our place.
    UpgradeCheck,
    /// The keeper of our descriptors.
    Keeper,
}

const KIND_SHIFT: u32 = 56;
const UNIT_SHIFT: u32 = 32;
const UNIT_MASK: u64 = 0x00ff_ffff;

impl Owner {
    /// The unit of which something other than its machine changes when this is ready.
    pub fn changes(self) -> Option<usize> {
        match self {
            Owner::Notify(unit, _)
            | Owner::Stored(unit, _)
            | Owner::Filter(unit, _)
            | Owner::StateSocket(unit)
            | Owner::StateConnection(unit, _)
            | Owner::SocketPaths(unit) => Some(unit),
            _ => None,
        }
    }

    /// Packs it: 8 bits kind, 24 bits unit, 32 bits id. The kinds start at 1; 0 and 255 are the poller's own.
    pub fn token(self) -> Token {
        let (kind, unit, id) = match self {
            Owner::Control => (1, 0, 0),
            Owner::Client(id) => (2, 0, id),
            Owner::Socket(unit, id) => (3, unit, id),
            Owner::Notify(unit, id) => (4, unit, id),
            Owner::Log(unit, id) => (5, unit, id),
            Owner::Cgroup(unit, id) => (6, unit, id),
            Owner::Stored(unit, id) => (7, unit, id),
            Owner::Paths(unit) => (8, unit, 0),
            Owner::SocketPaths(unit) => (9, unit, 0),
            Owner::Filter(unit, id) => (17, unit, id),
            Owner::Adopted(unit, id) => (18, unit, id),
            Owner::UpgradeCheck => (20, 0, 0),
            Owner::Home => (21, 0, 0),
            Owner::Claim => (22, 0, 0),
            Owner::Kills(unit, id) => (23, unit, id),
            Owner::Keeper => (24, 0, 0),
            Owner::StateSocket(unit) => (10, unit, 0),
            Owner::StateConnection(unit, id) => (11, unit, id),
            Owner::Starting(pid) => (19, 0, pid),
        };
        Token((kind << KIND_SHIFT) | ((unit as u64 & UNIT_MASK) << UNIT_SHIFT) | u64::from(id))
    }

    /// Unpacks it; `None` for a token that no owner made.
    pub fn of(token: Token) -> Option<Owner> {
        let unit = ((token.0 >> UNIT_SHIFT) & UNIT_MASK) as usize;
        let id = (token.0 & u64::from(u32::MAX)) as u32;
        Some(match token.0 >> KIND_SHIFT {
            1 => Owner::Control,
            2 => Owner::Client(id),
            3 => Owner::Socket(unit, id),
            4 => Owner::Notify(unit, id),
            5 => Owner::Log(unit, id),
            6 => Owner::Cgroup(unit, id),
            7 => Owner::Stored(unit, id),
            8 => Owner::Paths(unit),
            9 => Owner::SocketPaths(unit),
            17 => Owner::Filter(unit, id),
            18 => Owner::Adopted(unit, id),
            20 => Owner::UpgradeCheck,
            21 => Owner::Home,
            22 => Owner::Claim,
            23 => Owner::Kills(unit, id),
            24 => Owner::Keeper,
            10 => Owner::StateSocket(unit),
            11 => Owner::StateConnection(unit, id),
            19 => Owner::Starting(id),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_owner_comes_back() {
        for owner in [
            Owner::Control,
            Owner::Client(7),
            Owner::Socket(499, u32::MAX),
            Owner::Notify(3, 12),
            Owner::Log(0, 1),
            Owner::Cgroup(1, 2),
            Owner::Kills(1, 2),
            Owner::Stored(1, 2),
            Owner::Filter(3, 4),
            Owner::Adopted(2, 9),
            Owner::Paths(5),
            Owner::SocketPaths(6),
            Owner::StateSocket(6),
            Owner::StateConnection(6, 8),
            Owner::UpgradeCheck,
            Owner::Home,
            Owner::Claim,
            Owner::Starting(4_194_304),
        ] {
            assert_eq!(Owner::of(owner.token()), Some(owner));
        }
        assert_eq!(Owner::of(Token(0)), None);
    }
}
