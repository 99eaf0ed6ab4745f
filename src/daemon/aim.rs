//! Connections to one generation: what a probe and a look of an analysis have in common.

use crate::daemon::lookups;
use crate::daemon::supervised::Supervised;
use crate::machine::event::Gen;
use crate::sys::probe::Connection;
use crate::unit::Address;
use std::io;
use std::net::SocketAddr;

/// A connection that is not made yet.
#[derive(Debug)]
pub struct Aimed {
    /// Where it goes.
    pub to: Address,
    /// The socket, bound where that decides whom it reaches.
    pub connection: io::Result<Connection>,
    /// Whether only that generation can accept it.
    pub is_sure: bool,
    /// The source address that is steered to the generation, until the probe has ended.
    pub from: Option<SocketAddr>,
}

/// Prepares a connection from here to an address as one generation has it.
pub fn at(unit: &mut Supervised, number: Gen, to: &Address) -> Aimed {
    let slot = unit.generations.get(&number).map_or(0, |shell| shell.slot);
    let mut to = lookups::detour(&unit.sockets, to, slot).unwrap_or_else(|| to.clone());
    let mut is_sure = false;
    if let Address::Path(path) = &to
        && let Some(own) = unit.sockets.probe_path(slot, path)
    {
        to = Address::Path(own.to_string_lossy().into_owned());
        is_sure = true;
    }
    let connection = Connection::prepare(&to);
    let remote = connection.as_ref().ok().and_then(Connection::remote);
    let steered = remote.is_some_and(|to| unit.sockets.aims(to));
    let from = connection.as_ref().ok().and_then(Connection::source).filter(|_| steered);
    if let Some(from) = from {
        match unit.sockets.probe_port(slot, from) {
            Ok(()) => is_sure = true,
            Err(why) => {
                log::warn!("{}: cannot aim a connection at generation {}: {why}", unit.name, number.0);
            }
        }
    }
    Aimed { to, connection, is_sure, from }
}
