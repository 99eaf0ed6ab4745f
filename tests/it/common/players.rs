//! Players of `examples/game.rs`: each has a socket of its own, waits for every answer, and notices if it is moved.

use super::WAIT;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// How many datagrams a game of [`Players`] has.
const ROUNDS: u64 = 40;
/// How many games a thread of [`Players`] has at a time.
const TABLES: usize = 8;

/// One player.
#[derive(Debug)]
pub struct Game {
    socket: UdpSocket,
    sent: u64,
    /// Which generation has answered last, and how many datagrams it has had by then.
    at: Option<(u32, u64)>,
}

impl Game {
    /// Sits down.
    pub fn begin(address: &str) -> Game {
        let to: SocketAddr = address.parse().unwrap();
        // A port that another player has had a moment ago would make this one the same flow.
        static PLAYERS: AtomicU32 = AtomicU32::new(0);
        let [_, a, b, c] = PLAYERS.fetch_add(1, Ordering::SeqCst).to_be_bytes();
        let own: IpAddr =
            if to.is_ipv6() { Ipv6Addr::LOCALHOST.into() } else { [127, 64 + a % 64, b, c].into() };
        let socket = UdpSocket::bind((own, 0)).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        Game { socket, sent: 0, at: None }
    }

    /// One datagram and its answer: the generation. `Err`: no answer, or one that shows that something was lost or moved
    /// within a generation.
    pub fn play(&mut self) -> Result<u32, String> {
        self.sent += 1;
        let text = format!("move {}", self.sent);
        self.socket.send(text.as_bytes()).map_err(|error| format!("send: {error}"))?;
        let mut buffer = [0; 256];
        let length =
            self.socket.recv(&mut buffer).map_err(|error| format!("no answer to {text}: {error}"))?;
        let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let mut words = answer.splitn(3, ' ');
        let generation: u32 = words.next().unwrap().parse().unwrap();
        let count: u64 = words.next().unwrap().parse().unwrap();
        let before = match self.at {
            Some((same, before)) if same == generation => before,
            Some(_) | None => 0,
        };
        if words.next() != Some(text.as_str()) || count != before + 1 {
            return Err(format!("{text} was answered by {answer} after {:?}", self.at));
        }
        self.at = Some((generation, count));
        Ok(generation)
    }
}

/// What players have seen.
#[derive(Debug, Default)]
pub struct Seen {
    pub datagrams: u64,
    pub games: u64,
    /// Games that were going on when another generation answered a game that began later.
    pub over_a_switch: u64,
    pub generations: BTreeSet<u32>,
    pub wrong: Vec<String>,
}

/// Players at work, without a pause.
pub struct Players {
    stop: Arc<AtomicBool>,
    games: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<Seen>>,
}

impl Players {
    /// Starts so many threads, each with some games at a time.
    pub fn start(address: &str, threads: usize) -> Players {
        let (stop, games, newest) = (Arc::default(), Arc::default(), Arc::default());
        let mut players = Players { stop, games, threads: Vec::new() };
        for _ in 0..threads {
            let (stop, games, newest) =
                (Arc::clone(&players.stop), Arc::clone(&players.games), Arc::clone(&newest));
            let address = address.to_owned();
            players.threads.push(std::thread::spawn(move || play(&address, &stop, &games, &newest)));
        }
        players
    }

    /// Waits until so many more games are over.
    pub fn wait_games(&self, more: u64) {
        let wanted = self.games.load(Ordering::SeqCst) + more;
        let until = std::time::Instant::now() + WAIT;
        while self.games.load(Ordering::SeqCst) < wanted && self.threads.iter().any(|t| !t.is_finished()) {
            assert!(std::time::Instant::now() < until, "nobody plays to the end");
            std::thread::yield_now();
        }
    }

    /// Ends them.
    pub fn finish(self) -> Seen {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Seen::default();
        for thread in self.threads {
            let seen = thread.join().unwrap();
            all.datagrams += seen.datagrams;
            all.games += seen.games;
            all.over_a_switch += seen.over_a_switch;
            all.generations.extend(seen.generations);
            all.wrong.extend(seen.wrong);
        }
        all
    }
}

fn play(address: &str, stop: &AtomicBool, games: &AtomicU64, newest: &AtomicU32) -> Seen {
    let mut seen = Seen::default();
    let mut tables: Vec<Option<Game>> = (0..TABLES).map(|_| None).collect();
    let mut at = 0;
    loop {
        let ending = stop.load(Ordering::SeqCst);
        if ending && tables.iter().all(Option::is_none) {
            return seen;
        }
        at = (at + 1) % TABLES;
        if tables[at].is_none() && !ending {
            tables[at] = Some(Game::begin(address));
        }
        let Some(game) = &mut tables[at] else { continue };
        let before = game.at.map(|(generation, _)| generation);
        let played = game.play();
        seen.datagrams += 1;
        match (played, before) {
            (Ok(generation), Some(before)) if generation != before => {
                seen.wrong.push(format!("a player of generation {before} was moved to {generation}"));
            }
            (Ok(generation), _) => {
                let newest = newest.fetch_max(generation, Ordering::SeqCst).max(generation);
                seen.generations.insert(generation);
                if game.sent < ROUNDS {
                    continue;
                }
                seen.over_a_switch += u64::from(newest > generation);
            }
            (Err(why), _) => seen.wrong.push(why),
        }
        seen.games += 1;
        games.fetch_add(1, Ordering::SeqCst);
        tables[at] = None;
        if seen.wrong.len() > 20 {
            return seen;
        }
    }
}
