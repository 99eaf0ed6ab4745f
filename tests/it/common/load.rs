//! Clients that ask without a pause and count: an answer is an answer, and everything else is a failure.

use super::http::{self, Client};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// No load runs longer than this, whatever the test does.
const LONGEST: Duration = Duration::from_secs(120);

/// How the clients connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// A new connection for each request.
    Fresh,
    /// One connection for as long as the server keeps it.
    KeepAlive,
}

/// What the clients saw.
#[derive(Debug, Default, Clone)]
pub struct Counts {
    /// Requests with an answer of status 200.
    pub ok: u64,
    /// Everything else, in words.
    pub failed: Vec<String>,
    /// Answers by the generation that gave them, where the body tells.
    pub by_generation: BTreeMap<u64, u64>,
}

/// Clients at work; [`Load::finish`] ends them.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<(Mutex<u64>, Condvar)>,
    counts: Arc<Mutex<Counts>>,
    clients: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    /// Starts `clients` threads that ask for `/` at `address`.
    pub fn start(address: &str, clients: usize, manner: Manner) -> Load {
        let mut load = Load {
            stop: Arc::default(),
            answered: Arc::default(),
            counts: Arc::default(),
            clients: Vec::new(),
        };
        for _ in 0..clients {
            let (address, stop) = (address.to_string(), Arc::clone(&load.stop));
            let (answered, counts) = (Arc::clone(&load.answered), Arc::clone(&load.counts));
            load.clients.push(std::thread::spawn(move || {
                let mine = run(&address, manner, &stop, &answered);
                counts.lock().unwrap().add(mine);
            }));
        }
        load
    }

    /// Waits until `more` further requests have been answered.
    pub fn wait_answers(&self, more: u64) {
        let (count, changed) = &*self.answered;
        let count = count.lock().unwrap();
        let target = *count + more;
        let (count, _) = changed.wait_timeout_while(count, super::WAIT, |n| *n < target).unwrap();
        assert!(*count >= target, "the load is not answered any more");
    }

    /// Ends the load, each client after the request that it is at.
    pub fn finish(mut self) -> Counts {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().unwrap();
        }
        self.counts.lock().unwrap().clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Counts {
    fn add(&mut self, other: Counts) {
        self.ok += other.ok;
        self.failed.extend(other.failed);
        for (generation, count) in other.by_generation {
            *self.by_generation.entry(generation).or_default() += count;
        }
    }

    fn note(&mut self, outcome: std::io::Result<http::Response>) -> bool {
        match outcome {
            Ok(response) if response.status == 200 => {
                self.ok += 1;
                let body: Option<serde_json::Value> = serde_json::from_str(&response.body).ok();
                if let Some(generation) = body.and_then(|b| b.get("generation")?.as_u64()) {
                    *self.by_generation.entry(generation).or_default() += 1;
                }
                return !response.closes;
            }
            Ok(response) => self.failed.push(format!("status {}", response.status)),
            Err(error) => self.failed.push(error.to_string()),
        }
        false
    }
}

fn run(address: &str, manner: Manner, stop: &AtomicBool, answered: &(Mutex<u64>, Condvar)) -> Counts {
    let mut counts = Counts::default();
    let mut kept: Option<Client> = None;
    let until = Instant::now() + LONGEST;
    while !stop.load(Ordering::Relaxed) && Instant::now() < until && counts.failed.len() < 100 {
        match manner {
            Manner::Fresh => {
                counts.note(http::get(address, "/"));
            }
            Manner::KeepAlive => {
                let client = kept.take().map_or_else(|| Client::connect(address), Ok);
                kept = match client {
                    Ok(mut client) => counts.note(client.get("/")).then_some(client),
                    Err(error) => {
                        counts.note(Err(error));
                        None
                    }
                };
            }
        }
        *answered.0.lock().unwrap() += 1;
        answered.1.notify_all();
    }
    counts
}
