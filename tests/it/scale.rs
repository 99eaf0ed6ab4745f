//! Many sockets, many units.

use crate::common;
use aeterna::proto::status::UnitState;
use common::{Env, http};

#[test]
fn three_hundred_sockets_in_a_unit() {
    let mut env = Env::new();
    let addresses: Vec<String> = (0..300).map(|n| format!("\"{{dir}}/s{n}\"")).collect();
    env.unit(
        "app",
        &format!(
            "[Socket]\nListenStream = [{}, \"127.0.0.1:0\"]\n[Service]\nExecStart = \"{{probe}}\"\nType = \"notify\"\nLimitNOFILE = \"4096\"",
            addresses.join(", ")
        ),
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    for n in [0, 150, 299] {
        let path = env.path(&format!("s{n}")).display().to_string();
        assert_eq!(http::get(&path, "/").unwrap().status, 200, "{path}");
    }
    assert_eq!(http::get(&env.address("app", 300), "/").unwrap().status, 200);
    assert_eq!(env.unit_status("app").sockets.len(), 301);
}

#[test]
fn two_hundred_units_in_a_daemon() {
    let mut env = Env::new();
    env.arguments(&["--log-level", "warn"]);
    for n in 0..200 {
        env.unit(
            &format!("u{n:03}"),
            "[Socket]\nListenStream = \"{dir}/%n.sock\"\n[Service]\nExecStart = \"/bin/sleep 1000\"\nType = \"exec\"",
        );
    }
    env.start();
    let running = |env: &Env| env.status().units.iter().filter(|u| u.state == UnitState::Running).count();
    env.wait("200 running units", || (running(&env) == 200).then_some(()));
    let shown = env.ctl(&["status"]);
    assert_eq!(shown.stdout.matches("RUNNING").count(), 200);
    env.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(env.wait_exit().success());
}
