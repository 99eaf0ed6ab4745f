//! sd_notify(3) from real processes: who may speak, what is believed, what is kept; and the other way round,
//! what aeternad tells its own supervisor.

use crate::common;
use aeterna::proto::status::UnitState;
use common::{Env, http, process};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::Write;
use std::os::unix::net::UnixDatagram;

/// A running unit called `app`.
fn app(keys: &str) -> Env {
    let mut env = Env::new();
    env.unit(
        "app",
        &format!("[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{{probe}}\"\nType = \"notify\"\n{keys}"),
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    env
}

fn status_text(env: &Env) -> Option<String> {
    env.unit_status("app").generations.first().and_then(|g| g.status_text.clone())
}

#[test]
fn a_status_is_shown() {
    let env = app("");
    env.get("app", "/notify?STATUS=all%20is%20well");
    env.wait("the status", || status_text(&env).filter(|text| text == "all is well"));
    let shown = env.ctl(&["status", "app"]);
    assert!(shown.stdout.contains("all is well"), "{}", shown.stdout);
}

#[test]
fn readiness_is_awaited() {
    let mut env = Env::new();
    env.unit("app", "[Service]\nExecStart = \"{probe} ready=order orders={dir}/orders\"\nType = \"notify\"");
    env.start();
    let orders = env.path("orders").display().to_string();
    env.wait("its orders", || http::get(&orders, "/").ok());
    assert_eq!(env.unit_status("app").state, UnitState::Starting);
    http::get(&orders, "/ready").unwrap();
    env.wait_state("app", UnitState::Running);
}

#[test]
fn a_barrier_is_acknowledged_after_what_came_before() {
    let env = app("");
    for round in 0..20 {
        env.get("app", &format!("/notify?STATUS=round%20{round}"));
        assert_eq!(env.get("app", "/barrier").body, "true\n");
        assert_eq!(status_text(&env), Some(format!("round {round}")));
    }
}

#[test]
fn only_the_main_process_speaks_unless_others_may() {
    for (access, heard) in [("main", false), ("exec", false), ("all", true)] {
        let env = app(&format!("NotifyAccess = \"{access}\""));
        env.get("app", "/spawn?mode=setsid%2Bnotify");
        assert_eq!(env.get("app", "/barrier").body, "true\n");
        assert_eq!(status_text(&env).is_some(), heard, "NotifyAccess = {access}");
    }
    // No socket at all.
    let mut env = Env::new();
    env.unit("app", "[Service]\nExecStart = \"{probe} orders={dir}/orders\"\nNotifyAccess = \"none\"");
    env.start();
    let orders = env.path("orders").display().to_string();
    let report = env.wait("its report", || http::get(&orders, "/report").ok()).body;
    let report: Value = serde_json::from_str(&report).unwrap();
    assert!(report["env"]["NOTIFY_SOCKET"].is_null());
}

#[test]
fn a_stranger_is_not_heard() {
    let env = app("NotifyAccess = \"all\"");
    let report = env.json("app", "/report");
    let socket = report["env"]["NOTIFY_SOCKET"].as_str().unwrap().to_owned();
    let stranger = UnixDatagram::unbound().unwrap();
    stranger.send_to(b"STATUS=a lie", &socket).unwrap();
    env.wait_log("which is not generation 1's");
    assert_eq!(status_text(&env), None);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn nonsense_and_oversize_are_survived() {
    let env = app("");
    env.get("app", "/notify?no%20assignment%20at%20all");
    env.get("app", "/notify?%00%0A=%0A%0AREADY%0ASTATUS=still%20here");
    env.get("app", &format!("/notify?STATUS={}", "x".repeat(20_000)));
    env.wait_log("too large");
    env.get("app", "/notify?STATUS=fine");
    env.wait("the status", || status_text(&env).filter(|text| text == "fine"));
    assert_eq!(env.unit_status("app").state, UnitState::Running);
}

#[test]
fn stored_descriptors_come_back_behind_the_sockets() {
    let env = app("FileDescriptorStoreMax = 3\nRestart = \"on-failure\"");
    for (name, content) in [("one", "alpha"), ("two", "beta")] {
        env.get("app", &format!("/fdstore?name={name}&content={content}&more=FDPOLL=0"));
    }
    env.get("app", "/barrier");
    assert_eq!(env.unit_status("app").stored_descriptors, 2);
    process::kill(env.main_pid("app"), Signal::SIGKILL);
    env.wait_unit("app", "generation 2", |u| u.generation == 2 && u.state == UnitState::Running);
    let report = env.json("app", "/report");
    assert_eq!(report["env"]["LISTEN_FDS"], "3");
    assert_eq!(report["env"]["LISTEN_FDNAMES"], "app:one:two");
    assert_eq!(report["env"]["FDSTORE"], "3");
    assert_eq!(env.get("app", "/read?fd=4").body, "alpha");
    assert_eq!(env.get("app", "/read?fd=5").body, "beta");
    // One more fits, the next one does not.
    env.get("app", "/fdstore?name=three&content=x");
    env.get("app", "/fdstore?name=four&content=x");
    env.wait_log("were not stored: FileDescriptorStoreMax is 3");
    env.get("app", "/notify?FDSTOREREMOVE=1%0AFDNAME=one");
    env.get("app", "/barrier");
    assert_eq!(env.unit_status("app").stored_descriptors, 2);
    // A stop empties it.
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    assert_eq!(env.unit_status("app").stored_descriptors, 0);
}

#[test]
fn descriptors_that_nobody_stores_are_closed() {
    let env = app("FileDescriptorStoreMax = 2");
    env.get("app", "/barrier");
    let before = process::descriptors(env.pid());
    for _ in 0..20 {
        env.get("app", "/fdstore?name=x&content=c&listener=1");
        env.get("app", "/barrier");
    }
    env.wait("equal descriptors but the two stored", || {
        (process::descriptors(env.pid()) <= before + 2).then_some(())
    });
}

#[test]
fn a_start_may_be_extended() {
    let mut env = Env::new();
    env.unit(
        "app",
        "[Service]\nExecStart = \"{probe} ready=6000 notify=EXTEND_TIMEOUT_USEC=60000000\"\nType = \"notify\"\nTimeoutStartSec = \"4s\"",
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.unit_status("app").generation, 1);
}

#[test]
fn another_process_becomes_the_main_one() {
    let mut env = Env::new();
    env.unit(
        "app",
        "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{probe}\"\nType = \"notify\"\nNotifyAccess = \"all\"\nRestart = \"on-failure\"",
    );
    env.unit("bystander", "[Service]\nExecStart = \"{probe}\"\nType = \"notify\"");
    env.start();
    env.wait_state("app", UnitState::Running);
    let first = env.main_pid("app");
    let child: i32 = env.get("app", "/spawn?mode=double").body.parse().unwrap();
    // Somebody else's process is refused.
    env.get("app", &format!("/notify?MAINPID={}", env.main_pid("bystander")));
    env.wait_log("is no process of generation 1");
    assert_eq!(env.main_pid("app"), first);
    env.get("app", &format!("/notify?MAINPID={child}"));
    env.wait("the new main process", || (env.main_pid("app") == child).then_some(()));
    // The old one may go; the new one's death is the service's.
    process::kill(first, Signal::SIGTERM);
    env.wait_gone(first);
    assert_eq!(env.unit_status("app").generation, 1);
    let mark = env.mark();
    process::kill(child, Signal::SIGKILL);
    env.wait_event(mark, "a restart", |e| e.unit == "app" && e.kind == "restarting");
}

#[test]
fn a_main_process_that_is_somebody_elses_child_is_seen_to_end_too() {
    let env = app("NotifyAccess = \"all\"\nRestart = \"on-failure\"\nRestartSec = \"10ms\"");
    for generation in 1..3 {
        let child: i32 = env.get("app", "/spawn?mode=child").body.parse().unwrap();
        env.get("app", &format!("/notify?MAINPID={child}"));
        env.wait("the new main process", || (env.main_pid("app") == child).then_some(()));
        // What is a main process already need not become one.
        env.get("app", &format!("/notify?MAINPID={child}"));
        if generation == 1 {
            process::kill(child, Signal::SIGKILL);
            env.wait_unit("app", "generation 2", |u| u.generation == 2 && u.state == UnitState::Running);
        }
    }
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    assert_eq!(env.unit_status("app").state, UnitState::Stopped);
}

#[test]
fn notify_reload_is_signalled_and_waits_for_ready() {
    let mut env = Env::new();
    env.unit(
        "app",
        "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{probe} hup=reload\"\nType = \"notify-reload\"\n[Reload]\nStrategy = \"signal\"",
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    let ended = env.ctl(&["reload", "app"]);
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    assert_eq!(env.json("app", "/report")["signals"]["SIGHUP"], 1);
    assert_eq!(env.unit_status("app").generation, 1);
}

/// A socket of a supervisor above aeternad.
fn supervisor(env: &mut Env) -> UnixDatagram {
    let path = env.path("upward");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(common::WAIT)).unwrap();
    env.variable("NOTIFY_SOCKET", &path.display().to_string());
    socket
}

fn message(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let count = loop {
        match socket.recv(&mut buffer) {
            // With a time limit it is not begun anew after a stop and a SIGCONT.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => break other.unwrap(),
        }
    };
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

fn wait_message(socket: &UnixDatagram, wanted: &str) -> String {
    let until = std::time::Instant::now() + common::WAIT;
    loop {
        let text = message(socket);
        // Watchdog messages would come for ever.
        assert!(std::time::Instant::now() < until, "no {wanted}, but {text}");
        if text.lines().any(|line| line == wanted) {
            return text;
        }
    }
}

#[test]
fn aeternad_tells_its_own_supervisor() {
    let mut env = Env::new();
    let upward = supervisor(&mut env);
    env.variable("WATCHDOG_USEC", "200000");
    env.unit("app", "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{probe} ready=order orders={dir}/orders\"\nType = \"notify\"");
    env.start();
    let orders = env.path("orders").display().to_string();
    env.wait("its orders", || http::get(&orders, "/").ok());
    // Not ready before the unit is.
    upward.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    while let Ok(count) = upward.recv(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        assert!(!text.contains("READY=1"), "{text}");
    }
    upward.set_nonblocking(false).unwrap();
    http::get(&orders, "/ready").unwrap();
    let ready = wait_message(&upward, "READY=1");
    assert!(ready.contains("STATUS="), "{ready}");
    for _ in 0..3 {
        wait_message(&upward, "WATCHDOG=1");
    }
    env.signal(Signal::SIGTERM);
    wait_message(&upward, "STOPPING=1");
    assert!(env.wait_exit().success());
}

#[test]
fn a_unit_that_listens_or_has_failed_holds_nobody_up() {
    let mut env = Env::new();
    let upward = supervisor(&mut env);
    env.unit("a", "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{probe}\"\nStartOn = \"connection\"");
    env.unit("b", "[Service]\nExecStart = \"{dir}/missing\"");
    env.unit("c", "[Service]\nExecStart = \"{probe}\"");
    env.start();
    wait_message(&upward, "READY=1");
    env.wait_state("b", UnitState::Failed);
}

#[test]
fn aeternactl_tells_a_supervisor_what_it_is_told() {
    let env = Env::new();
    let socket = env.path("notify.sock");
    let listener = UnixDatagram::bind(&socket).unwrap();
    listener.set_read_timeout(Some(common::WAIT)).unwrap();
    let heard = || {
        let mut buffer = [0; 200];
        let count = listener.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    let notify = |arguments: &[&str]| {
        let mut command = env.command(common::AETERNACTL);
        command.arg("notify").args(arguments).env("NOTIFY_SOCKET", &socket);
        command
    };
    assert_eq!(env.finish(notify(&["READY=1", "STATUS=all is well"])).code, 0);
    assert_eq!(heard(), "READY=1\nSTATUS=all is well");
    let mut relay = notify(&["-"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut input = relay.stdin.take().unwrap();
    input.write_all(b"READY=1\0STATUS=a\0").unwrap();
    assert_eq!((heard(), heard()), ("READY=1".into(), "STATUS=a".into()));
    // A supervisor that is gone may come back.
    std::fs::rename(&socket, env.path("elsewhere")).unwrap();
    input.write_all(b"STATUS=lost\0").unwrap();
    drop(input);
    assert!(relay.wait().unwrap().success());
    let wrong = env.finish(notify(&["READY"]));
    assert!(wrong.code == 2 && wrong.stderr.contains("KEY=VALUE"), "{wrong:?}");
    let mut without = notify(&["READY=1"]);
    without.env_remove("NOTIFY_SOCKET");
    let without = env.finish(without);
    assert!(without.code == 1 && without.stderr.contains("NOTIFY_SOCKET is not set"), "{without:?}");
}
