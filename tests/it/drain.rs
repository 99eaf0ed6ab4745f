//! The end of the old generation.

use crate::common;
use aeterna::proto::status::UnitState;
use common::app::{APP, App};
use common::http::Client;
use common::load::{Load, Manner};
use common::{Env, process};
use nix::sys::signal::Signal;

/// Nothing here takes that long: it is there for a machine that is busy with something else.
const AT_ONCE: &str = "Strategy = \"immediate\"\nDrainTimeout = \"50s\"";

#[test]
fn connections_that_are_open_are_finished_and_counted() {
    let env = App { reload: AT_ONCE, ..APP }.start();
    let (mut held, _) = env.hold();
    let (second, _) = env.hold();
    env.reload_well();
    assert_eq!(held.line().unwrap(), "term", "the old one hears of it by SIGTERM");
    let draining = |env: &Env| env.unit_status("app").generations.iter().find(|g| g.number == 1).cloned();
    let seen = draining(&env).unwrap();
    assert_eq!((seen.phase.as_str(), seen.connections), ("draining", Some(2)));
    assert!(seen.kill_in.is_some_and(|left| left > 1.0 && left <= 50.0), "{seen:?}");
    let shown = env.ctl(&["status", "app"]).stdout;
    assert!(shown.contains("2 connections"), "{shown}");
    drop(second);
    env.wait("one is left", || draining(&env).filter(|g| g.connections == Some(1)));
    assert_eq!(env.answers(), 2);
    drop(held);
    env.wait_state("app", UnitState::Running);
}

#[test]
fn one_that_ignores_sigterm_is_killed_at_drain_timeout() {
    let env = App { reload: "Strategy = \"immediate\"\nDrainTimeout = \"600ms\"", ..APP }.start();
    env.next_start("term=ignore");
    env.reload_well();
    env.wait_state("app", UnitState::Running);
    let old = env.main_pid("app");
    env.next_start("");
    let mark = env.mark();
    env.reload_well();
    env.wait_state("app", UnitState::Running);
    let lasted =
        env.events_since(mark).iter().filter(|e| e.state == Some(UnitState::Running)).find_map(|e| e.lasted);
    assert!(lasted.is_some_and(|s| (0.5..30.0).contains(&s)), "DRAINING lasted {lasted:?}");
    assert!(!process::exists(old));
    assert_eq!(env.last_reload().outcome.name(), "promoted", "how an old one ends is no failure");
}

#[test]
fn one_that_is_stopped_is_continued_and_ends() {
    let env = App { reload: AT_ONCE, ..APP }.start();
    let old = env.main_pid("app");
    process::kill(old, Signal::SIGSTOP);
    env.wait("it stands still", || (process::state(old)?.0 == 'T').then_some(()));
    env.reload_well();
    env.wait_gone(old);
    env.wait_state("app", UnitState::Running);
}

#[test]
fn a_stopped_one_with_a_full_queue_serves_it_after_all() {
    let env = App { reload: "Strategy = \"immediate\"\nDrainTimeout = \"6s\"", ..APP }.start();
    let old = env.main_pid("app");
    process::kill(old, Signal::SIGSTOP);
    env.wait("it stands still", || (process::state(old)?.0 == 'T').then_some(()));
    let address = env.address("app", 0);
    let mut queued: Vec<Client> = (0..20)
        .map(|_| {
            let mut client = Client::connect(&address).unwrap();
            client.send("/", "Connection: close\r\n").unwrap();
            client
        })
        .collect();
    env.reload_well();
    for client in &mut queued {
        assert_eq!(client.receive().unwrap().status, 200);
    }
    env.wait_state("app", UnitState::Running);
}

#[test]
fn more_than_eight_draining_generations_cost_the_oldest_its_life() {
    let env = App { reload: "Strategy = \"immediate\"\nDrainTimeout = \"infinity\"", ..APP }.start();
    let mut held = Vec::new();
    let first = env.main_pid("app");
    for round in 1..=9 {
        let (client, generation) = env.hold();
        assert_eq!(generation, round);
        held.push(client);
        env.reload_well();
    }
    env.wait_gone(first);
    let status = env.wait_unit("app", "eight drain", |u| {
        u.generations.iter().filter(|g| g.phase == "draining").count() == 8
    });
    assert_eq!(status.generation, 10);
    assert!(held[0].rest().is_ok());
    assert_eq!(env.answers(), 10);
    drop(held);
    env.wait_state("app", UnitState::Running);
}

#[test]
fn a_service_that_drops_everything_on_sigterm_loses_nothing_that_it_had_not_taken() {
    for sharing in ["steered", "shared"] {
        let socket = format!("ListenStream = \"127.0.0.1:0\"\nSharing = \"{sharing}\"");
        let env = App { socket: &socket, reload: AT_ONCE, ..APP }.start();
        env.next_start("no_accept;term=drop");
        env.reload_well();
        env.wait_state("app", UnitState::Running);
        // Generation 2 takes nothing: everything waits in the queue when generation 3 comes.
        let address = env.address("app", 0);
        let mut queued: Vec<Client> = (0..20)
            .map(|_| {
                let mut client = Client::connect(&address).unwrap();
                client.send("/", "Connection: close\r\n").unwrap();
                client
            })
            .collect();
        env.next_start("");
        App { socket: &socket, reload: "Strategy = \"immediate\"\nDrainTimeout = \"5s\"", ..APP }.write(&env);
        env.reload_well();
        for client in &mut queued {
            assert_eq!(client.receive().unwrap().status, 200, "{sharing}");
        }
        env.wait_state("app", UnitState::Running);
    }
}

#[test]
fn a_dropping_service_under_load_fails_only_what_it_had_in_hand() {
    let env = App { reload: AT_ONCE, ..APP }.start();
    env.next_start("term=drop");
    env.reload_well();
    let load = Load::start(&env.address("app", 0), 4, Manner::Fresh);
    for _ in 0..10 {
        load.wait_answers(50);
        env.reload_well();
        env.wait_state("app", UnitState::Running);
    }
    let counts = load.finish();
    // Each client has one request at a time, and each of ten services may have had it in its hands. Mostly none
    // had: a slot is left alone for a moment before the stop signal.
    assert!(counts.failed.len() <= 40, "{:?} of {}", counts.failed, counts.ok);
    assert!(
        counts.failed.iter().all(|why| why.contains("reset") || why.contains("no answer")),
        "{:?}",
        counts.failed
    );
}

#[test]
fn stop_commands_and_grandchildren_belong_to_the_drain() {
    let service = "Type = \"notify\"\nExecStop = \"{probe} exit=0 append={dir}/told note=stop\"\nExecStopPost = \"{probe} exit=0 append={dir}/told note=post\"";
    let env = App { service, reload: "Strategy = \"immediate\"\nDrainTimeout = \"4s\"", ..APP }.start();
    let grandchild: i32 = env.order(1, "/spawn?mode=setsid%2bignore").parse().unwrap();
    env.reload_well();
    env.wait_state("app", UnitState::Running);
    assert!(!process::exists(grandchild), "a grandchild that ignores SIGTERM is killed at DrainTimeout");
    assert_eq!(std::fs::read_to_string(env.path("told")).unwrap(), "stop\npost\n", "{}", env.log());
}
