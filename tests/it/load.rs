//! No connection is lost at full load. The full measure is in `benches/`: this is its small sister.

use crate::common;
use aeterna::proto::status::UnitState;
use common::Env;
use common::app::{APP, App};
use common::load::{Counts, Load, Manner};

/// Clients of both kinds, and reloads without a pause; what the clients saw.
fn reloads(env: &Env, rounds: u32) -> (Counts, Counts) {
    let address = env.address("app", 0);
    let fresh = Load::start(&address, 4, Manner::Fresh);
    let kept = Load::start(&address, 3, Manner::KeepAlive);
    for _ in 0..rounds {
        fresh.wait_answers(40);
        kept.wait_answers(20);
        env.reload_well();
        env.wait_state("app", UnitState::Running);
    }
    (fresh.finish(), kept.finish())
}

fn nothing_is_lost(app: App<'_>, rounds: u32) -> Env {
    let env = app.start();
    let (fresh, kept) = reloads(&env, rounds);
    assert_eq!(fresh.failed, Vec::<String>::new(), "of {}", fresh.ok);
    assert_eq!(kept.failed, Vec::<String>::new(), "of {}", kept.ok);
    assert!(fresh.by_generation.len() as u32 > rounds / 2, "{:?}", fresh.by_generation);
    assert_eq!(env.unit_status("app").generation, rounds + 1);
    env
}

#[test]
fn steered_at_once() {
    nothing_is_lost(App { reload: "Strategy = \"immediate\"\nDrainTimeout = \"10s\"", ..APP }, 20);
}

#[test]
fn steered_with_a_soak() {
    let reload = "SoakTime = \"60ms\"\nCanaryWeight = [10, 50]\nDrainTimeout = \"10s\"";
    let env = nothing_is_lost(App { reload, ..APP }, 15);
    let history = env.ctl(&["history", "app", "--json"]).stdout;
    let history: serde_json::Value = serde_json::from_str(&history).unwrap();
    for reload in history["reloads"].as_array().unwrap() {
        let steps = reload["shares"].as_array().unwrap();
        let weights: Vec<u64> = steps.iter().map(|step| step["weight"].as_u64().unwrap()).collect();
        assert_eq!(weights, [10, 50], "{reload}");
        // Where nobody may count, only what was asked for is there.
        for step in steps.iter().filter(|step| !step["connections"].is_null()) {
            let (all, new) = (step["connections"].as_u64().unwrap(), step["to_new"].as_u64().unwrap());
            assert!(new <= all, "{step}");
        }
    }
}

#[test]
fn shared() {
    let socket = "ListenStream = \"127.0.0.1:0\"\nSharing = \"shared\"";
    let env = App { socket, reload: "SoakTime = \"20ms\"\nDrainTimeout = \"10s\"", ..APP }.start();
    let (fresh, kept) = reloads(&env, 15);
    // One queue for all: a request that the old one takes at the very moment of its stop signal is in its hands
    // alone. That is what steering is there for.
    assert!(fresh.failed.len() <= 2, "{:?} of {}", fresh.failed, fresh.ok);
    assert_eq!(kept.failed, Vec::<String>::new(), "of {}", kept.ok);
    assert_eq!(env.unit_status("app").generation, 16);
}

#[test]
fn a_unix_path() {
    for sharing in ["shared", "steered"] {
        let socket = format!("ListenStream = \"{{dir}}/app.sock\"\nSharing = \"{sharing}\"");
        nothing_is_lost(
            App { socket: &socket, reload: "SoakTime = \"20ms\"\nDrainTimeout = \"10s\"", ..APP },
            10,
        );
    }
}

#[test]
fn reloads_that_fail() {
    let env =
        App { reload: "SoakTime = \"infinity\"\nCanaryWeight = 50\nDrainTimeout = \"10s\"", ..APP }.start();
    let load = Load::start(&env.address("app", 0), 4, Manner::Fresh);
    for _ in 0..10 {
        let waiting = env.ctl_start(&["reload", "app"]);
        env.wait_state("app", UnitState::Soaking);
        load.wait_answers(100);
        assert_eq!(env.ctl(&["rollback", "app"]).code, 0);
        assert_eq!(env.finish_child(waiting).code, 3);
    }
    let counts = load.finish();
    assert_eq!(counts.failed, Vec::<String>::new(), "of {}", counts.ok);
    assert!(counts.by_generation.len() > 5, "the new ones had their share: {:?}", counts.by_generation);
}
