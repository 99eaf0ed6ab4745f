//! Who is connected to the control socket, in a stored state: nobody notices that another program answers.

use super::client::{Client, Phase, Topics};
use super::{ClientId, Clients, Wants};
use crate::daemon::saved::{Incoming, Key, Outgoing};
use crate::proto::status::EventLine;
use crate::time::Monotime;
use serde::{Deserialize, Serialize};
use std::os::fd::AsFd;

/// [`Clients`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedClients {
    own_uid: u32,
    clients: Vec<(ClientId, SavedClient)>,
    last: u64,
    heard: ClientId,
    past: Vec<EventLine>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedClient {
    fd: Key,
    phase: Phase,
    gone: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    busy: bool,
    topics: Topics,
    deadline: Option<Monotime>,
    dropped: u64,
    dropped_at: f64,
    refused: u64,
}

impl Clients {
    /// Stores them.
    ///
    /// # Errors
    /// Those of [`Outgoing::put`].
    pub fn save(&self, out: &mut Outgoing) -> Result<SavedClients, String> {
        let Clients { own_uid, clients, last, heard, past } = self;
        let mut saved = Vec::with_capacity(clients.len());
        for (id, client) in clients {
            saved.push((*id, client.save(*id, out)?));
        }
        let past = past.iter().cloned().collect();
        Ok(SavedClients { own_uid: *own_uid, clients: saved, last: *last, heard: *heard, past })
    }

    /// The clients again; [`Clients::watched`] says what to wait for.
    ///
    /// # Errors
    /// Those of [`Incoming::take`].
    pub fn restore(saved: SavedClients, from: &mut Incoming) -> Result<Clients, String> {
        let SavedClients { own_uid, clients, last, heard, past } = saved;
        let mut restored =
            Clients { own_uid, clients: std::collections::BTreeMap::new(), last, heard, past: past.into() };
        for (id, client) in clients {
            restored.clients.insert(id, Client::restore(client, from)?);
        }
        Ok(restored)
    }

    /// What the poll set is to wait for, of everybody who has not hung up.
    pub fn watched(&self) -> Vec<(ClientId, Wants)> {
        let here = self.clients.iter().filter(|(_, client)| !client.gone);
        here.map(|(id, client)| (*id, client.registered)).collect()
    }
}

impl Client {
    fn save(&self, id: ClientId, out: &mut Outgoing) -> Result<SavedClient, String> {
        let Client {
            stream,
            phase,
            gone,
            input,
            output,
            busy,
            topics,
            deadline,
            dropped,
            dropped_at,
            refused,
            registered: _,
        } = self;
        Ok(SavedClient {
            fd: out.put(format_args!("client.{}", id.0), stream.as_fd())?,
            phase: *phase,
            gone: *gone,
            input: input.clone(),
            output: output.iter().copied().collect(),
            busy: *busy,
            topics: topics.clone(),
            deadline: *deadline,
            dropped: *dropped,
            dropped_at: *dropped_at,
            refused: *refused,
        })
    }

    fn restore(saved: SavedClient, from: &mut Incoming) -> Result<Client, String> {
        let mut client = Client {
            stream: from.take(&saved.fd)?.into(),
            phase: saved.phase,
            gone: saved.gone,
            input: saved.input,
            output: saved.output.into(),
            busy: saved.busy,
            topics: saved.topics,
            deadline: saved.deadline,
            dropped: saved.dropped,
            dropped_at: saved.dropped_at,
            refused: saved.refused,
            registered: Wants { read: false, write: false },
        };
        client.registered = client.wants();
        Ok(client)
    }
}
