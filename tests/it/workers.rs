//! `Workers`: several processes, one generation.

use crate::common;
use aeterna::proto::status::UnitState;
use common::app::{APP, LONG_SOAK};
use common::http::Client;
use common::load::{Load, Manner};
use common::{Env, process};
use nix::sys::signal::Signal;

const WORKERS: &str = "Type = \"notify\"\nWorkers = 4\nRestart = \"always\"\nRestartSec = 0";

/// Without private sockets for orders: four workers would bind one.
fn start(reload: &str) -> Env {
    let mut env = Env::new();
    env.unit(
        "app",
        &format!(
            "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{{probe}}\"\n\
             Environment = {{ PROBE_FILE = \"{{dir}}/probe\" }}\n{WORKERS}\n[Reload]\n{reload}\n"
        ),
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    env
}

#[test]
fn all_of_a_generation_are_replaced_and_lose_nothing() {
    let env = start("Strategy = \"immediate\"\nDrainTimeout = \"10s\"");
    let old = env.unit_status("app").main_pids;
    assert_eq!(old.len(), 4);
    let address = env.address("app", 0);
    let (fresh, kept) =
        (Load::start(&address, 3, Manner::Fresh), Load::start(&address, 2, Manner::KeepAlive));
    for _ in 0..5 {
        fresh.wait_answers(50);
        env.reload_well();
        env.wait_state("app", UnitState::Running);
    }
    let (fresh, kept) = (fresh.finish(), kept.finish());
    assert_eq!((fresh.failed, kept.failed), (Vec::<String>::new(), Vec::<String>::new()));
    let new = env.unit_status("app").main_pids;
    assert_eq!(new.len(), 4);
    assert!(old.iter().all(|pid| !process::exists(*pid)));
    // Whom the kernel wakes first is its affair: each that answers stops accepting, so that the next one is another.
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let mut client = Client::connect(&address).unwrap();
        let answer: serde_json::Value = serde_json::from_str(&client.get("/").unwrap().body).unwrap();
        seen.insert(answer["worker"].as_u64());
        client.get("/stop-accepting").unwrap();
    }
    assert_eq!(seen.len(), 4, "each worker serves: {seen:?}");
}

#[test]
fn a_dead_worker_of_the_serving_generation_is_restarted_in_it() {
    let env = start("SoakTime = 0");
    let before = env.unit_status("app").main_pids;
    process::kill(before[2], Signal::SIGKILL);
    let after = env.wait_unit("app", "four again", |u| u.main_pids.len() == 4 && u.main_pids != before);
    assert_eq!((after.generation, after.state), (1, UnitState::Running));
    assert_eq!(after.main_pids[0], before[0]);
}

#[test]
fn a_worker_that_dies_in_the_soak_rolls_back() {
    let env = start(LONG_SOAK);
    let before = env.unit_status("app").main_pids;
    let waiting = env.ctl_start(&["reload", "app"]);
    env.wait_state("app", UnitState::Soaking);
    let new = env.unit_status("app").generations.iter().find(|g| g.number == 2).unwrap().pids.clone();
    assert_eq!(new.len(), 4);
    process::kill(new[3], Signal::SIGKILL);
    let done = env.finish_child(waiting);
    assert_eq!(done.code, 3, "{done:?}");
    let after = env.wait_unit("app", "the old ones", |u| u.generations.len() == 1);
    assert_eq!(after.main_pids, before);
    assert!(new.iter().all(|pid| !process::exists(*pid)));
}

#[test]
fn a_worker_of_the_old_one_that_dies_in_the_soak_is_restarted() {
    let env = start(LONG_SOAK);
    env.reload_until(UnitState::Soaking);
    let before = env.unit_status("app").main_pids;
    process::kill(before[1], Signal::SIGKILL);
    env.wait_unit("app", "four again, still soaking", |u| {
        u.state == UnitState::Soaking && u.main_pids.len() == 4 && u.main_pids != before
    });
    assert_eq!(env.ctl(&["promote", "app"]).code, 0);
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.unit_status("app").generation, 2);
}

#[test]
fn one_that_is_never_ready_keeps_the_generation_from_being_ready() {
    let env = APP.start();
    env.unit(
        "app",
        "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nType = \"notify\"\nWorkers = 4\nTimeoutStartSec = \"2s\"\n\
         ExecStart = [\"/bin/sh\", \"-c\", \"test $AETERNA_WORKER != 2 && exec {probe}; exec {probe} ready=never\"]\n",
    );
    let done = env.reload();
    assert_eq!(done.code, 3, "{done:?}");
    assert_eq!(env.answers(), 1);
}
