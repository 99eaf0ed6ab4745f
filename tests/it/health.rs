//! Health checks in reloads: only what the new generation answered counts.

use crate::common;
use aeterna::proto::status::{Outcome, UnitState};
use common::app::{APP, App, LONG_SOAK};
use common::port::free_port;
use common::{Env, process};
use nix::sys::signal::Signal;

/// `app` on a port of its own with an `HttpGet` check that is given all the time that it needs: a check that a busy
/// machine holds up is no failure. Returns the unit's parts.
fn parts(sharing: &str, more: &str) -> (String, String) {
    let port = free_port();
    let socket = format!("ListenStream = \"127.0.0.1:{port}\"\nSharing = \"{sharing}\"");
    let health = format!(
        "[HealthCheck]\nHttpGet = \"http://127.0.0.1:{port}/health\"\nInterval = \"50ms\"\nTimeout = \"20s\"\n{more}"
    );
    (socket, health)
}

/// Starts `app` with all the time that it needs; what a reload launches is given up after `limit`.
fn soon_given_up(app: App<'_>, limit: &str) -> Env {
    let env = app.start();
    App { service: &format!("{}\nTimeoutStartSec = \"{limit}\"", app.service), ..app }.write(&env);
    env
}

fn results(env: &Env, mark: usize, generation: u32) -> Vec<String> {
    let events = env.events_since(mark).into_iter();
    let texts = events.filter(|e| e.kind == "health" && e.generation == Some(generation)).map(|e| e.text);
    texts.collect()
}

/// A reload whose new generation is checked until five results have this word, and then ended by a command; all results.
fn never_passes(env: &Env, generation: u32, word: &str) -> Vec<String> {
    let mark = env.mark();
    let waiting = env.ctl_start(&["reload", "app"]);
    env.wait(&format!("five times {word}"), || {
        let texts = results(env, mark, generation);
        (texts.iter().filter(|text| text.contains(word)).count() >= 5).then_some(())
    });
    assert_eq!(env.ctl(&["rollback", "app"]).code, 0, "it is not ready yet");
    assert_eq!(env.finish_child(waiting).code, 3);
    results(env, mark, generation)
}

#[test]
fn a_generation_is_ready_when_its_checks_pass() {
    for sharing in ["steered", "shared"] {
        let (socket, health) = parts(sharing, "SuccessThreshold = 3");
        let env = App { socket: &socket, more: &health, service: "Type = \"exec\"", ..APP }.start();
        let mark = env.mark();
        env.reload_well();
        env.wait_state("app", UnitState::Running);
        assert_eq!(env.answers(), 2);
        let passes = results(&env, mark, 2).iter().filter(|text| text.contains(": pass")).count();
        assert!(passes >= 3, "{sharing}: {:?}", results(&env, mark, 2));
    }
}

#[test]
fn one_whose_checks_never_pass_is_rolled_back() {
    for sharing in ["steered", "shared"] {
        let (socket, health) = parts(sharing, "");
        let app = App { socket: &socket, more: &health, ..APP };
        let env = soon_given_up(app, "8s");
        env.next_start("health=503");
        let mark = env.mark();
        let done = env.reload();
        assert_eq!(done.code, 3, "{sharing}: {done:?}");
        assert!(done.stdout.contains("503"), "the last result is said: {done:?}");
        let texts = results(&env, mark, 2);
        assert!(texts.iter().any(|t| t.contains("fail: status 503")), "{texts:?}");
        env.wait_state("app", UnitState::Running);
        assert_eq!(env.answers(), 1);
    }
}

#[test]
fn checks_that_only_the_old_one_answers_never_reach() {
    let (socket, health) = parts("shared", "");
    let env = App { socket: &socket, more: &health, ..APP }.start();
    env.next_start("no_accept");
    let texts = never_passes(&env, 2, "never_reached");
    assert!(!texts.iter().any(|t| t.contains(": pass")), "{texts:?}");
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.answers(), 1);
}

#[test]
fn failures_in_the_soak_roll_back_at_the_threshold() {
    let (socket, health) = parts("steered", "FailureThreshold = 2");
    let env = App { socket: &socket, more: &health, reload: LONG_SOAK, ..APP }.start();
    let waiting = env.ctl_start(&["reload", "app"]);
    env.wait_state("app", UnitState::Soaking);
    let mark = env.mark();
    env.order(2, "/set-health?code=500");
    let done = env.finish_child(waiting);
    assert_eq!(done.code, 3, "{done:?}");
    assert!(done.stdout.contains("500"), "{done:?}");
    let fails = results(&env, mark, 2).iter().filter(|t| t.contains("fail")).count();
    assert_eq!(fails, 2);
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.answers(), 1);
}

#[test]
fn a_check_that_hangs_times_out() {
    let (socket, health) = parts("steered", "");
    let health = health.replace("Timeout = \"20s\"", "Timeout = \"100ms\"");
    let env = App { socket: &socket, more: &health, ..APP }.start();
    env.next_start("no_accept");
    let texts = never_passes(&env, 2, "timeout");
    assert!(!texts.iter().any(|t| t.contains(": pass")), "{texts:?}");
    // What the probes left in its queue is nobody's.
    env.wait_unit("app", "no generation is left", |u| u.generations.len() == 1);
}

#[test]
fn without_a_check_an_exec_service_must_accept_one_connection() {
    let service = "Type = \"exec\"";
    let env = App { service, ..APP }.start();
    env.reload_well();
    env.wait_state("app", UnitState::Running);
    env.next_start("no_accept");
    App { service: &format!("{service}\nTimeoutStartSec = \"4s\""), ..APP }.write(&env);
    let done = env.reload();
    assert_eq!(done.code, 3, "{done:?}");
    assert!(done.stdout.contains("never accepted a connection on http"), "{done:?}");
    assert_eq!(env.answers(), 2);
}

#[test]
fn exec_checks_get_the_pid_and_tcp_checks_need_an_accept() {
    let health = "[HealthCheck]\nExec = [\"/bin/sh\", \"-c\", \"echo $AETERNA_PROBE_PID >> {dir}/pids; test ! -e {dir}/bad\"]\nInterval = \"50ms\"";
    let service = "Type = \"notify\"\nTimeoutStartSec = \"3s\"";
    let env = App { more: health, ..APP }.start();
    env.reload_well();
    let pids = std::fs::read_to_string(env.path("pids")).unwrap();
    env.wait_state("app", UnitState::Running);
    assert!(pids.lines().any(|line| line == env.main_pid("app").to_string()), "{pids}");
    env.file("bad", "");
    App { more: health, service, ..APP }.write(&env);
    assert_eq!(env.reload().code, 3);
    let port = free_port();
    let socket = format!("ListenStream = \"127.0.0.1:{port}\"");
    let health =
        format!("[HealthCheck]\nTcpConnect = \"127.0.0.1:{port}\"\nInterval = \"50ms\"\nTimeout = \"200ms\"");
    let env = App { more: &health, socket: &socket, ..APP }.start();
    env.reload_well();
    env.wait_state("app", UnitState::Running);
    env.next_start("no_accept");
    App { more: &health, service, socket: &socket, ..APP }.write(&env);
    assert_eq!(env.reload().code, 3, "a connection in a queue is no answer");
}

#[test]
fn always_restarts_a_sick_service_outside_reloads() {
    let (socket, health) = parts("steered", "Always = true\nFailureThreshold = 2");
    let service = "Type = \"notify\"\nRestart = \"on-failure\"\nRestartSec = 0";
    let env = App { socket: &socket, more: &health, service, ..APP }.start();
    let sick = env.main_pid("app");
    env.order(1, "/set-health?code=500");
    env.wait_gone(sick);
    env.wait_unit("app", "another process", |u| {
        u.state == UnitState::Running && !u.main_pids.contains(&sick)
    });
    let well = env.main_pid("app");
    // Without Always nothing outside a reload is asked.
    App { socket: &socket, more: &health.replace("Always = true\n", ""), service, ..APP }.write(&env);
    env.reload_well();
    env.wait_gone(well);
    let pid = env.main_pid("app");
    let mark = env.mark();
    env.get("app", "/set-health?code=500");
    process::kill(pid, Signal::SIGUSR1);
    env.wait_gone(pid);
    assert_eq!(results(&env, mark, 3), Vec::<String>::new());
    assert_eq!(env.last_reload().outcome, Outcome::Promoted);
}

#[test]
fn over_a_unix_path_too_only_what_the_new_one_answered_counts() {
    let socket = "ListenStream = \"{dir}/app.sock\"";
    for check in ["HttpGet = \"unix:{dir}/app.sock:/health\"", "TcpConnect = \"{dir}/app.sock\""] {
        for sharing in ["shared", "steered"] {
            let health = format!("[HealthCheck]\n{check}\nInterval = \"50ms\"\nTimeout = \"300ms\"");
            let socket = format!("{socket}\nSharing = \"{sharing}\"");
            let env = App { socket: &socket, more: &health, ..APP }.start();
            let mark = env.mark();
            env.reload_well();
            assert!(results(&env, mark, 2).iter().any(|t| t.ends_with(": pass")), "{check} {sharing}");
            env.wait_state("app", UnitState::Running);
            env.next_start("no_accept");
            let word = if sharing == "shared" { "never_reached" } else { "timeout" };
            let texts = never_passes(&env, 3, word);
            assert!(!texts.iter().any(|t| t.contains(": pass")), "{check} {sharing}: {texts:?}");
            env.wait_state("app", UnitState::Running);
            assert_eq!(env.answers(), 2);
        }
    }
}

#[test]
fn a_service_that_closes_at_once_passes_a_tcp_check() {
    let port = free_port();
    let mut env = Env::new();
    let text = "[Socket]\nListenStream = \"127.0.0.1:PORT\"\n[Service]\nType = \"exec\"\nTimeoutStartSec = \"20s\"\n\
         ExecStart = [\"/usr/bin/python3\", \"-c\", \"import socket\\ns = socket.socket(fileno=3)\\ns.setblocking(True)\\nwhile True: s.accept()[0].close()\"]\n\
         [Reload]\nSoakTime = 0\n[HealthCheck]\nTcpConnect = \"127.0.0.1:PORT\"\nInterval = \"50ms\"\n";
    env.unit("app", &text.replace("PORT", &port.to_string()));
    env.start();
    env.wait_state("app", UnitState::Running);
    env.reload_well();
}

#[test]
fn a_check_names_the_host_that_it_is_told_to() {
    let mut env = Env::new();
    let port = free_port();
    let script = env.file(
        "app.py",
        "import http.server, socket\nclass H(http.server.BaseHTTPRequestHandler):\n\
         \x20 def do_GET(self):\n\
         \x20   self.send_response(200 if self.headers['Host'] == 'shop.example' else 421); self.end_headers()\n\
         s = http.server.HTTPServer(('', 0), H, False); s.socket = socket.socket(fileno=3); s.serve_forever()\n",
    );
    let unit = |host: &str| {
        format!(
            "[Socket]\nListenStream = \"127.0.0.1:{port}\"\n[Service]\nExecStart = [\"python3\", \"{}\"]\n\
             TimeoutStartSec = \"3s\"\n[Reload]\nSoakTime = \"50ms\"\n[HealthCheck]\n\
             HttpGet = \"http://127.0.0.1:{port}/\"\nInterval = \"50ms\"\nTimeout = \"20s\"\n{host}\n",
            script.display()
        )
    };
    env.unit("app", &unit("HttpHost = \"shop.example\""));
    env.start();
    env.wait_state("app", UnitState::Running);
    env.unit("app", &unit(""));
    let done = env.ctl(&["reload", "app"]);
    assert!(done.code == 3 && done.stdout.contains("status 421"), "{done:?}");
    env.unit("app", &unit("HttpHost = \"shop.example\""));
    assert_eq!(env.ctl(&["reload", "app"]).code, 0, "{}", env.log());
}

#[test]
fn a_check_for_which_aeternad_has_no_thread_counts_for_nothing() {
    let port = free_port();
    let mut env = Env::new();
    if !env.as_nobody() {
        return;
    }
    let health = format!(
        "[HealthCheck]\nTcpConnect = \"127.0.0.1:{port}\"\nInterval = \"50ms\"\nFailureThreshold = 1\nAlways = true\n"
    );
    let socket = format!("ListenStream = \"127.0.0.1:{port}\"");
    App { socket: &socket, more: &health, service: "Type = \"notify\"\nRestart = \"no\"", ..APP }.write(&env);
    env.start();
    env.wait_state("app", UnitState::Running);
    let main = env.main_pid("app");
    // As its own user: another one's limits are a matter of CAP_SYS_RESOURCE. The soft limit only.
    let limit = |number: &str| {
        let mut command = env.command("prlimit");
        std::os::unix::process::CommandExt::uid(&mut command, 65534);
        std::os::unix::process::CommandExt::gid(&mut command, 65534);
        command.args([format!("--pid={}", env.pid()), format!("--nproc={number}:")]);
        let done = env.finish(command);
        assert_eq!(done.code, 0, "{done:?}");
    };
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", env.pid())).unwrap();
    let before = limits.lines().find_map(|line| line.strip_prefix("Max processes")).unwrap();
    let before = before.split_whitespace().next().unwrap();
    let mark = env.mark();
    limit("1");
    env.wait_event(mark, "a check that was not made", |event| {
        event.kind == "health" && event.text.contains("cannot start a thread")
    });
    // Nor does an order hang, or end it.
    let refused = env.ctl(&["reload", "app"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    limit(before);
    let mark = env.mark();
    env.wait_event(mark, "a check that passes", |e| e.kind == "health" && e.text.contains("pass"));
    assert_eq!((env.main_pid("app"), env.unit_status("app").restarts), (main, 0), "{}", env.log());
    env.reload_well();
}
