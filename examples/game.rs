//! A small game server over UDP that lets itself be replaced: who plays is remembered by address and port, in memory, and
//! stays with the generation that it began with (`Sharing = "steered"`).
//!
//! Each datagram is answered by the generation, how many this player has sent, and the datagram itself. A player that was
//! moved to another process would count from 1 again. It knows nothing of being replaced: SIGTERM ends it, when its last
//! player is gone.

use aeterna::sdk::{self, Listeners};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

fn main() -> io::Result<()> {
    let mut listeners = Listeners::take()?;
    let socket = listeners.udp(0, "127.0.0.1:7777")?;
    sdk::ready()?;
    let generation = sdk::generation();
    let mut players: HashMap<SocketAddr, u64> = HashMap::new();
    let mut datagram = [0; 2048];
    loop {
        let (length, from) = match socket.recv_from(&mut datagram) {
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let count = players.entry(from).or_default();
        *count += 1;
        let text = String::from_utf8_lossy(datagram.get(..length).unwrap_or_default());
        // Who is gone meanwhile gets no answer.
        let _ = socket.send_to(format!("{generation} {count} {text}").as_bytes(), from);
    }
}
