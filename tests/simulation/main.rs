//! The unit's machine against a simulated world with a virtual clock: random schedules, every one of them
//! asserted after every event, and tables for the named rules.
//!
//! A failing schedule is shrunk and printed with its trace. `SIMULATION_SEED=n` plays one seed again,
//! `SIMULATION_COUNT=n` plays more of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]
#![allow(missing_docs, reason = "a test")]

mod analyses;
mod check;
mod endings;
mod handovers;
mod reloads;
mod rig;
mod services;
mod told;
mod units;
mod world;

use aeterna::machine::event::Content;
use check::Seen;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use units::{Random, library};
use world::World;

/// How many schedules the test suite plays.
const SCHEDULES: u64 = 1_000_000;

fn numbers(seed: u64) -> Vec<u16> {
    let mut random = Random(seed);
    let length = 20 + random.below(60);
    (0..length).map(|_| random.next() as u16).collect()
}

fn play(
    library: &[Content],
    numbers: &[u16],
    trace: bool,
    seen: &mut Seen,
) -> (Result<(), String>, Vec<String>) {
    let mut world = World::new(library, numbers);
    world.trace = trace.then(Vec::new);
    let result = match catch_unwind(AssertUnwindSafe(|| world.play())) {
        Ok(result) => result,
        Err(_) => Err("the machine panicked".into()),
    };
    seen.add(&world.checks.seen);
    (result, world.trace.take().unwrap_or_default())
}

/// Leaves out whatever is not needed for the same failure.
fn shrink(library: &[Content], mut numbers: Vec<u16>) -> Vec<u16> {
    let fails = |numbers: &[u16]| play(library, numbers, false, &mut Seen::default()).0.is_err();
    let mut chunk = numbers.len() / 2;
    while chunk > 0 {
        let mut at = 0;
        while at + chunk <= numbers.len() {
            let mut shorter = numbers.clone();
            shorter.drain(at..at + chunk);
            if fails(&shorter) {
                numbers = shorter;
            } else {
                at += chunk;
            }
        }
        chunk /= 2;
    }
    for at in 0..numbers.len() {
        let mut simpler = numbers.clone();
        simpler[at] = 0;
        if fails(&simpler) {
            numbers = simpler;
        }
    }
    numbers
}

fn report(library: &[Content], seed: u64) -> String {
    let short = shrink(library, numbers(seed));
    let (result, trace) = play(library, &short, true, &mut Seen::default());
    format!("seed {seed}, shrunk to {short:?}:\n{}\n{}", trace.join("\n"), result.err().unwrap_or_default())
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn a_million_schedules() {
    let library = library();
    if let Some(seed) = variable("SIMULATION_SEED") {
        let (result, _) = play(&library, &numbers(seed), false, &mut Seen::default());
        assert!(result.is_ok(), "{}", report(&library, seed));
        return;
    }
    let count = variable("SIMULATION_COUNT").unwrap_or(SCHEDULES);
    let seen = Mutex::new(Seen::default());
    let first_bad = AtomicU64::new(u64::MAX);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (library, first_bad) = (&library, &first_bad);
            let seen = &seen;
            scope.spawn(move || {
                let mut mine = Seen::default();
                for seed in (thread..count).step_by(2) {
                    if first_bad.load(Ordering::Relaxed) != u64::MAX {
                        return;
                    }
                    if play(library, &numbers(seed), false, &mut mine).0.is_err() {
                        first_bad.fetch_min(seed, Ordering::Relaxed);
                    }
                }
                seen.lock().unwrap().add(&mine);
            });
        }
    });
    let bad = first_bad.load(Ordering::Relaxed);
    assert!(bad == u64::MAX, "{}", report(&library, bad));
    let seen = seen.into_inner().unwrap();
    println!("{count} schedules: {}", seen.report());
    // PENDING is never entered.
    let never: Vec<usize> = (0..23).filter(|at| seen.0[*at] == 0 && *at != 8).collect();
    assert!(never.is_empty() || count < 100_000, "never happened: {never:?} of {}", seen.report());
}

/// Units of every shape: the numbers are places in the library, found by looking for the shape.
fn shapes(library: &[Content]) -> Vec<Content> {
    use aeterna::unit::{Sharing, StartOn, Strategy};
    let shape = |strategy: Strategy, sharing: Sharing, boot: bool| {
        let mut content = library[0].clone();
        let mut unit = units::base();
        unit.reload.strategy = strategy;
        unit.sockets[0].sharing = sharing;
        unit.service.restart = aeterna::unit::Restart::OnFailure;
        unit.service.start_on = if boot { StartOn::Boot } else { StartOn::Connection };
        content.unit = std::sync::Arc::new(unit);
        content
    };
    vec![
        shape(Strategy::Canary, Sharing::Steered, true),
        shape(Strategy::Canary, Sharing::Shared, true),
        shape(Strategy::Immediate, Sharing::Steered, true),
        shape(Strategy::Replace, Sharing::Shared, true),
        shape(Strategy::Signal, Sharing::Shared, true),
        shape(Strategy::Canary, Sharing::Shared, false),
    ]
}

#[test]
fn every_short_sequence() {
    const LENGTH: u32 = 4;
    let library = library();
    for content in shapes(&library) {
        // Every load finds the same text again, as a new content.
        let mut library = library.clone();
        for (entry, id) in library.iter_mut().zip(0..) {
            *entry = Content { id: aeterna::machine::event::ContentId(id), ..content.clone() };
        }
        for prelude in [&[][..], &[2], &[2, 6], &[2, 6, 2]] {
            for code in 0..World::STIMULI.pow(LENGTH) {
                let digit = |at: u32| code / World::STIMULI.pow(at) % World::STIMULI;
                let mut stimuli = prelude.to_vec();
                stimuli.extend((0..LENGTH).map(digit));
                let mut world = World::new(&library, &[]);
                if let Err(why) = world.walk(&stimuli) {
                    let mut world = World::new(&library, &[]);
                    world.trace = Some(Vec::new());
                    let _ = world.walk(&stimuli);
                    let trace = world.trace.unwrap_or_default().join("\n");
                    panic!("{:?} {stimuli:?}:\n{trace}\n{why}", content.unit.reload.strategy);
                }
            }
        }
    }
}
