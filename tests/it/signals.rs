//! Signals to aeternad (contract section 2).

use crate::common;
use aeterna::proto::status::{Outcome, UnitState};
use common::http::Client;
use common::{Env, process};
use nix::sys::signal::Signal;
use std::time::Instant;

const APP: &str =
    "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{probe}\"\nType = \"notify\"\n";

fn app(more: &str) -> Env {
    let mut env = Env::new();
    env.unit("app", &format!("{APP}{more}"));
    env.start();
    env.wait_state("app", UnitState::Running);
    env
}

#[test]
fn hup_reloads_every_unit() {
    let mut env = Env::new();
    for name in ["a", "b"] {
        env.unit(name, &format!("{APP}[Reload]\nStrategy = \"immediate\""));
    }
    env.start();
    for name in ["a", "b"] {
        env.wait_state(name, UnitState::Running);
    }
    let mark = env.mark();
    env.signal(Signal::SIGHUP);
    for name in ["a", "b"] {
        assert_eq!(env.wait_reloaded(name, mark).outcome, Some(Outcome::Promoted));
        env.wait_unit(name, "generation 2", |u| u.generation == 2);
    }
}

#[test]
fn term_stops_everything_cleanly() {
    let mut env = app("");
    let pid = env.main_pid("app");
    let mut held = Client::connect(&env.address("app", 0)).unwrap();
    held.send("/hold", "").unwrap();
    assert!(held.line().unwrap().contains("200"));
    env.signal(Signal::SIGTERM);
    // The service is asked, and has the time that it needs.
    let mut heard = held.line().unwrap();
    while heard != "term" {
        let line = held.line().unwrap();
        assert!(!(heard.is_empty() && line.is_empty()), "it ended without a word: {}", env.log());
        heard = line;
    }
    assert!(process::exists(pid));
    drop(held);
    assert!(env.wait_exit().success(), "{}", env.log());
    assert!(!process::exists(pid));
    assert!(!env.runtime_dir().join("control.sock").exists());
    let left: Vec<_> =
        std::fs::read_dir(env.runtime_dir()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(left.iter().all(|name| name.to_string_lossy().ends_with(".lock")), "{left:?}");
}

#[test]
fn the_stop_delay_keeps_serving_and_int_does_not_wait() {
    let mut env = app("[Daemon]\nStopDelaySec = \"600s\"");
    let first = env.main_pid("app");
    env.signal(Signal::SIGTERM);
    env.wait("a stop under way", || env.status().stopping.then_some(()));
    assert_eq!(env.get("app", "/").status, 200, "it serves during the delay");
    let refused = env.ctl(&["reload", "app"]);
    assert_eq!(refused.code, 4, "{}{}", refused.stdout, refused.stderr);
    assert_eq!(env.main_pid("app"), first);
    // The second signal, whichever it is, waits for nothing.
    env.signal(Signal::SIGINT);
    assert_eq!(process::code(env.wait_exit()), 1);

    let mut env = app("[Daemon]\nStopDelaySec = \"700ms\"");
    let begin = Instant::now();
    env.signal(Signal::SIGTERM);
    assert!(env.wait_exit().success());
    assert!(begin.elapsed().as_millis() >= 700);

    let mut env = app("[Daemon]\nStopDelaySec = \"600s\"");
    env.signal(Signal::SIGINT);
    assert!(env.wait_exit().success());
}

#[test]
fn a_second_signal_ends_the_waiting_with_status_1() {
    for second in [Signal::SIGTERM, Signal::SIGINT] {
        let mut env = Env::new();
        env.unit("app", &APP.replace("{probe}", "{probe} term=hang"));
        env.start();
        env.wait_state("app", UnitState::Running);
        let pid = env.main_pid("app");
        env.signal(Signal::SIGTERM);
        env.wait_state("app", UnitState::Stopping);
        env.signal(second);
        assert_eq!(process::code(env.wait_exit()), 1);
        assert!(process::is_over(pid));
    }
}

#[test]
fn usr1_writes_the_status() {
    let env = app("");
    env.signal(Signal::SIGUSR1);
    env.wait_log("RUNNING");
    let line = env.wait_log("\"state\":\"RUNNING\"");
    assert!(line.contains("\"main_pids\""), "{line}");
    assert_eq!(env.get("app", "/").status, 200);
}

#[test]
fn units_stop_in_parallel_and_with_a_hard_end() {
    let mut env = Env::new();
    for name in ["a", "b", "c", "d"] {
        let unit = APP.replace("{probe}", "{probe} term=ignore");
        env.unit(name, &format!("{unit}TimeoutStopSec = \"700ms\""));
    }
    env.start();
    for name in ["a", "b", "c", "d"] {
        env.wait_state(name, UnitState::Running);
    }
    env.signal(Signal::SIGTERM);
    assert!(env.wait_exit().success());
    env.wait_log("aeternad has stopped");
    let log = env.log();
    let at = |text: &str| log.match_indices(text).map(|(at, _)| at).collect::<Vec<_>>();
    let (told, killed) = (at("RUNNING → STOPPING"), at("was ended by SIGKILL"));
    assert_eq!((told.len(), killed.len()), (4, 4), "{log}");
    assert!(told.last() < killed.first(), "side by side, not one after the other:\n{log}");
}

#[test]
fn term_is_obeyed_in_every_state() {
    let rows = [
        ("STARTING", "ExecStart = \"{probe} ready=never\"\nType = \"notify\"\n"),
        ("BACKOFF", "ExecStart = \"{probe} exit=1\"\nRestart = \"always\"\nRestartSec = \"100s\"\n"),
        ("LISTENING", "ExecStart = \"{probe}\"\nStartOn = \"connection\"\n"),
        ("STARTING", "ExecStartPre = \"{probe}\"\nExecStart = \"{probe}\"\n"),
    ];
    for (state, service) in rows {
        let mut env = Env::new();
        env.unit("app", &format!("[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\n{service}"));
        env.start();
        env.wait_unit("app", state, |u| u.state.name() == state);
        env.signal(Signal::SIGTERM);
        assert!(env.wait_exit().success(), "in {state}: {}", env.log());
    }
    // STOPPED and FAILED: a second unit keeps the daemon.
    let mut env = Env::new();
    env.unit("app", APP);
    env.unit("bad", "[Service]\nExecStart = \"/no/such/program\"");
    env.start();
    env.wait_state("bad", UnitState::Failed);
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    env.signal(Signal::SIGTERM);
    assert!(env.wait_exit().success());
}

#[test]
fn a_stop_in_the_soak_abandons_the_reload() {
    let mut env = app("[Reload]\nSoakTime = \"600s\"");
    let reload = env.ctl_start(&["reload", "app"]);
    env.wait_state("app", UnitState::Soaking);
    env.signal(Signal::SIGTERM);
    let ended = env.finish_child(reload);
    assert_eq!(ended.code, 3, "{}{}", ended.stdout, ended.stderr);
    assert!(env.wait_exit().success());
}
