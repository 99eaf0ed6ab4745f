//! The SRP connections of a unit in a stored state. A transfer that is under way cannot be stored: it is waited for.

use super::conn::{Conn, Debts, Phase};
use super::{ConnId, Endpoint, Peer};
use crate::daemon::relay::Held;
use crate::daemon::saved::{Incoming, Key, Outgoing, Purpose};
use crate::proto::srp::{Decoder, Role};
use crate::time::Monotime;
use serde::{Deserialize, Serialize};
use std::os::fd::AsFd;

/// An [`Endpoint`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSrp {
    conns: Vec<(ConnId, SavedConn)>,
    last: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedConn {
    fd: Key,
    peer: Peer,
    role: Option<Role>,
    greeted: Option<Role>,
    used: bool,
    cold: bool,
    replaced: bool,
    phase: Phase,
    decoder: Decoder,
    held: Option<Held>,
    descriptors: Vec<Key>,
    debts: Debts,
    hung_up: bool,
    output: Vec<u8>,
    silent_by: Option<Monotime>,
    whole_by: Option<Monotime>,
}

impl Endpoint {
    /// Stores it.
    ///
    /// # Errors
    /// A transfer is under way; those of [`Outgoing::put`].
    pub fn save(&self, out: &mut Outgoing) -> Result<SavedSrp, String> {
        let Endpoint { conns, last, events, ended, active, queued } = self;
        let is_moving = active.is_some() || queued.is_some() || !events.is_empty() || !ended.is_empty();
        if is_moving && out.purpose() == Purpose::Upgrade {
            return Err("state is on its way from one generation to another".into());
        }
        let mut saved = Vec::with_capacity(conns.len());
        // What a relay has in hand ends with us: both sides see it, and the source goes on.
        let is_here = |conn: &Conn| conn.stream.is_some() && conn.lent.is_none();
        for (id, conn) in conns.iter().filter(|(_, conn)| !is_moving || is_here(conn)) {
            saved.push((*id, conn.save(*id, out)?));
        }
        Ok(SavedSrp { conns: saved, last: *last })
    }

    /// The connections again; [`Endpoint::take_changes`] asks for them to be polled.
    ///
    /// # Errors
    /// Those of [`Incoming::take`].
    pub fn restore(saved: SavedSrp, from: &mut Incoming) -> Result<Endpoint, String> {
        let mut endpoint = Endpoint { last: saved.last, ..Endpoint::default() };
        for (id, conn) in saved.conns {
            endpoint.conns.insert(id, Conn::restore(conn, from)?);
        }
        Ok(endpoint)
    }
}

impl Conn {
    fn save(&self, id: ConnId, out: &mut Outgoing) -> Result<SavedConn, String> {
        let Conn {
            stream,
            lent: _,
            peer,
            role,
            greeted,
            used,
            cold,
            replaced,
            phase,
            decoder,
            held,
            descriptors,
            debts,
            hung_up,
            output,
            silent_by,
            whole_by,
            registered: _,
        } = self;
        let stream = stream.as_ref().ok_or("a connection is with the relay")?;
        let mut keys = Vec::with_capacity(descriptors.len());
        for (number, fd) in descriptors.iter().enumerate() {
            keys.push(out.put(format_args!("srp.{}.{number}", id.0), fd.as_fd())?);
        }
        Ok(SavedConn {
            fd: out.put(format_args!("srp.{}", id.0), stream.as_fd())?,
            peer: *peer,
            role: *role,
            greeted: *greeted,
            used: *used,
            cold: *cold,
            replaced: *replaced,
            phase: *phase,
            decoder: decoder.clone(),
            held: *held,
            descriptors: keys,
            debts: *debts,
            hung_up: *hung_up,
            output: output.clone(),
            silent_by: *silent_by,
            whole_by: *whole_by,
        })
    }

    fn restore(saved: SavedConn, from: &mut Incoming) -> Result<Conn, String> {
        Ok(Conn {
            stream: Some(from.take(&saved.fd)?.into()),
            lent: None,
            peer: saved.peer,
            role: saved.role,
            greeted: saved.greeted,
            used: saved.used,
            cold: saved.cold,
            replaced: saved.replaced,
            phase: saved.phase,
            decoder: saved.decoder,
            held: saved.held,
            descriptors: saved
                .descriptors
                .iter()
                .map(|key| from.take(key).map(Into::into))
                .collect::<Result<_, _>>()?,
            debts: saved.debts,
            hung_up: saved.hung_up,
            output: saved.output,
            silent_by: saved.silent_by,
            whole_by: saved.whole_by,
            registered: None,
        })
    }
}
