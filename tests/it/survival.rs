//! aeternad is killed: its services go on, and the next one finds them again.

use crate::common;
use aeterna::proto::control::{Line, Reply, Request};
use aeterna::proto::status::{Outcome, UnitState};
use common::app::{APP, App, LONG_SOAK};
use common::load::{Load, Manner};
use common::{Env, process};
use nix::sys::signal::Signal;

impl Env {
    /// aeternad is killed, and started again as it was.
    fn die_and_come_back(&mut self) {
        self.die();
        self.start();
    }

    /// Whether `app` serves with one generation; nothing if there is nobody to say so.
    fn rests(&self) -> Option<bool> {
        let request = Request::Status { unit: Some("app".into()) };
        match common::control::request(&self.runtime_dir().join("control.sock"), &request).ok()? {
            Line::Result(Reply::Status(status)) => {
                let unit = status.units.first()?;
                Some(unit.state == UnitState::Running && unit.generations.len() == 1)
            }
            _ => None,
        }
    }

    /// aeternad is killed.
    fn die(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait_exit();
    }
}

#[test]
fn a_service_goes_on_and_is_found_again_and_no_request_fails() {
    let mut env =
        App { service: "Type = \"notify\"\nRestart = \"always\"\nRestartSec = \"1ms\"", ..APP }.start();
    let (daemon, main) = (env.pid(), env.main_pid("app"));
    let address = env.address("app", 0);
    let kept = Load::start(&address, 2, Manner::KeepAlive);
    let fresh = Load::start(&address, 2, Manner::Fresh);
    for _ in 0..3 {
        env.die();
        fresh.wait_answers(3);
        env.start();
        env.wait_state("app", UnitState::Running);
        fresh.wait_answers(3);
    }
    assert_ne!(env.pid(), daemon);
    assert_eq!(env.main_pid("app"), main);
    env.reload_well();
    assert_eq!(env.unit_status("app").generation, 2);
    assert_ne!(env.main_pid("app"), main);
    fresh.wait_answers(3);
    for load in [kept, fresh] {
        let counts = load.finish();
        assert!(counts.failed.is_empty() && counts.ok > 0, "{counts:?}");
    }
    // Its end is seen, and what is started then is ours.
    env.die_and_come_back();
    let before = env.main_pid("app");
    process::kill(before, Signal::SIGKILL);
    env.wait_unit("app", "its restart", |unit| unit.generation == 3 && unit.state == UnitState::Running);
    assert_eq!(env.get("app", "/").status, 200);
}

#[test]
fn what_ends_while_nobody_is_there_is_seen_with_its_status() {
    let mut env =
        App { service: "Type = \"notify\"\nRestart = \"always\"\nRestartSec = \"1ms\"", ..APP }.start();
    let main = env.main_pid("app");
    env.die();
    process::kill(main, Signal::SIGKILL);
    env.wait_gone(main);
    env.start();
    env.wait_unit("app", "its restart", |unit| unit.generation == 2 && unit.state == UnitState::Running);
    assert!(env.log().contains("app: found again, with 0 of 1 process"), "{}", env.log());
    assert_ne!(env.main_pid("app"), main);
}

#[test]
fn a_service_that_died_too_is_started_as_at_any_start() {
    let mut env = App { service: "Type = \"notify\"\nRestart = \"no\"", ..APP }.start();
    let main = env.main_pid("app");
    let address = env.address("app", 0);
    env.die();
    process::kill(main, Signal::SIGKILL);
    env.wait_gone(main);
    // Somebody holds the socket: who connects waits.
    let mut client = common::http::Client::connect(&address).unwrap();
    client.send("/", "").unwrap();
    env.start();
    env.wait_state("app", UnitState::Running);
    assert_eq!(client.receive().unwrap().status, 200);
}

#[test]
fn sockets_that_nobody_else_has_lose_nobody() {
    let mut env = Env::new();
    App { service: "Type = \"notify\"\nStartOn = \"connection\"", ..APP }.write(&env);
    env.start();
    env.wait_state("app", UnitState::Listening);
    let address = env.address("app", 0);
    env.die();
    let mut client = common::http::Client::connect(&address).unwrap();
    client.send("/", "").unwrap();
    env.start();
    assert_eq!(client.receive().unwrap().status, 200);
    assert_eq!(env.unit_status("app").generation, 1);
}

#[test]
fn a_stranger_gets_nothing_from_a_keeper() {
    if !nix::unistd::geteuid().is_root() {
        return common::skip("only root can become another user");
    }
    let env = APP.start();
    let socket = env.runtime_dir().join("keeper.sock");
    let ask = || {
        let mut command = env.command("/usr/bin/python3");
        let script = "import socket, sys\n\
                      s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
                      s.connect(sys.argv[1])\n\
                      s.send(b'G')\n\
                      sys.exit(len(s.recv(1000)))";
        command.args(["-c", script]).arg(&socket);
        std::os::unix::process::CommandExt::uid(&mut command, 65534);
        env.finish(command)
    };
    let refused = ask();
    assert!(refused.stderr.contains("PermissionError"), "{refused:?}");
    // As if the mode had not kept it out.
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let refused = ask();
    assert!(refused.code == 0 || refused.stderr.contains("Error"), "{refused:?}");
    // While nobody else is there, either: the connection is closed at once.
    let mut env = env;
    env.die();
    let socket = env.runtime_dir().join("keeper.sock");
    let mut command = env.command("/usr/bin/python3");
    command.args(["-c", "import socket, sys\ns = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\ns.connect(sys.argv[1])\nassert s.recv(1000) == b''"]).arg(&socket);
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    let refused = env.finish(command);
    assert!(refused.code == 0 || refused.stderr.contains("ConnectionReset"), "{refused:?}");
    env.start();
    env.wait_state("app", UnitState::Running);
}

#[test]
fn a_keeper_that_is_stopped_is_replaced_and_keeps_nothing() {
    let mut env = APP.start();
    let keeper = |env: &Env| {
        let all = || env.processes().into_iter().find(|one| one.command.contains("--keeper"));
        env.wait("a keeper", all).pid
    };
    // Our own child, and one that an aeternad before us has started.
    for generation in 2..=3 {
        if generation == 3 {
            env.die_and_come_back();
        }
        let stopped = keeper(&env);
        common::process::kill(stopped, Signal::SIGSTOP);
        env.reload_well();
        env.wait_log("another keeper has taken its place");
        env.wait("its end", || common::process::is_over(stopped).then_some(()));
        env.wait_unit("app", "the new one alone", |unit| {
            unit.state == UnitState::Running && unit.generation == generation && unit.generations.len() == 1
        });
    }
    common::process::kill(keeper(&env), Signal::SIGSTOP);
    env.signal(Signal::SIGTERM);
    // What is left is told by the bench.
    assert!(env.wait_exit().success(), "{}", env.log());
}

#[test]
fn a_keeper_that_is_killed_is_replaced() {
    let mut env = APP.start();
    let main = env.main_pid("app");
    let keeper = || {
        let all = process::children(env.pid());
        let name = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        all.into_iter().find(|pid| name(pid).trim() == "aeterna-keeper")
    };
    let first = env.wait("a keeper", keeper);
    process::kill(first, Signal::SIGKILL);
    env.wait("another one", || keeper().filter(|pid| *pid != first));
    let waited = env.wait_log("another keeper has taken its place");
    assert!(waited.contains("INFO"), "{waited}");
    env.die_and_come_back();
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.main_pid("app"), main);
    env.reload_well();
}

#[test]
fn nothing_is_left_of_it_after_a_stop() {
    let mut env = APP.start();
    env.wait("the journal", || env.path("run/journal/u-app.0").exists().then_some(()));
    env.signal(Signal::SIGTERM);
    env.wait_exit();
    assert!(!env.path("run/journal").exists() && !env.path("run/keeper.sock").exists());
    // And so the next one begins anew.
    env.start();
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.unit_status("app").generation, 1);
}

/// Kills aeternad at the `at`-th of the places to die at that it comes to from now on.
fn kill_at(env: &Env, at: u32) {
    env.file("kill", &at.to_string());
}

/// Whatever a reload is at when aeternad is killed: afterwards one generation serves, everybody was answered, and nothing
/// runs twice. At every `step`-th place, from `first` on.
fn killed_everywhere(first: u32, step: u32) -> u32 {
    let mut at = first;
    loop {
        let mut env = Env::new();
        let kill = env.path("kill").display().to_string();
        env.variable("AETERNA_KILL_AT", &kill);
        App { service: "Type = \"notify\"\nRestart = \"always\"\nRestartSec = \"1ms\"", ..APP }.write(&env);
        env.start();
        env.wait_state("app", UnitState::Running);
        let address = env.address("app", 0);
        let load = Load::start(&address, 1, Manner::Fresh);
        kill_at(&env, at);
        let mut command = env.ctl_start(&["reload", "app"]);
        let died = loop {
            if env.has_ended() {
                break true;
            }
            let is_over = command.try_wait().unwrap().is_some();
            if is_over && env.rests() == Some(true) {
                break false;
            }
            env.pause();
        };
        if !died {
            // The place may be one of what comes now.
            env.allow_survivors();
            assert!(load.finish().failed.is_empty());
            return at;
        }
        env.wait_exit();
        load.wait_answers(2);
        env.start();
        env.finish_child(command);
        env.wait_unit("app", "its one generation", |unit| {
            unit.state == UnitState::Running && unit.generations.len() == 1
        });
        let probes = env.processes().into_iter().filter(|seen| seen.command.contains("/probe ")).count();
        if probes != 1 {
            env.fail(&format!("{probes} processes serve after a death at place {at}"));
        }
        load.wait_answers(2);
        let counts = load.finish();
        if !counts.failed.is_empty() {
            env.fail(&format!("after a death at place {at}: {counts:?}"));
        }
        // It is a unit like any other.
        env.reload_well();
        at += step;
    }
}

#[test]
fn a_death_at_any_place_of_a_reload_loses_nobody_and_starts_nothing_twice() {
    // `.ci/long` looks at every place.
    let step = if std::env::var_os("AETERNA_EVERY_PLACE").is_some() { 1 } else { 7 };
    let places = killed_everywhere(1, step);
    assert!(places > 30, "only {places} places were found");
}

#[test]
fn a_soak_goes_on_and_who_waits_for_the_reload_hears_its_end() {
    let mut env = App { reload: LONG_SOAK, ..APP }.start();
    let waiting = env.ctl_start(&["reload", "app"]);
    env.wait_state("app", UnitState::Soaking);
    let seen = |env: &Env| {
        let unit = env.wait_state("app", UnitState::Soaking);
        let all = unit.generations.into_iter().map(|one| (one.number, one.pids, one.weight));
        all.collect::<Vec<_>>()
    };
    let before = seen(&env);
    env.die_and_come_back();
    let mark = env.mark();
    assert_eq!(seen(&env), before);
    assert_eq!(env.ctl(&["promote", "app"]).code, 0);
    env.wait_reloaded("app", mark);
    let waited = env.finish_child(waiting);
    assert_eq!(waited.code, 0, "{waited:?}");
    assert!(waited.stderr.contains("waiting for the next one"), "{waited:?}");
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.generations(), [(2, "serving".to_owned())]);
    assert_eq!(env.last_reload().outcome, Outcome::Promoted);
}

#[test]
fn a_new_generation_that_dies_meanwhile_is_rolled_back_and_an_old_one_gives_way() {
    for (dies, outcome, left) in [(2, Outcome::RolledBack, 1), (1, Outcome::Promoted, 2)] {
        let mut env = App { reload: LONG_SOAK, ..APP }.start();
        env.begin_reload();
        env.wait_state("app", UnitState::Soaking);
        let unit = env.unit_status("app");
        let one = unit.generations.iter().find(|one| one.number == dies).unwrap();
        env.die();
        process::kill(one.pids[0], Signal::SIGKILL);
        env.wait_gone(one.pids[0]);
        env.start();
        env.wait_unit("app", "its one generation", |unit| {
            unit.state == UnitState::Running && unit.generations.len() == 1
        });
        assert_eq!(env.generations(), [(left, "serving".to_owned())]);
        assert_eq!(env.last_reload().outcome, outcome);
        assert_eq!(env.get("app", "/").status, 200);
    }
}

#[test]
fn who_had_been_stopped_stays_so_and_a_stop_of_aeternad_that_was_cut_is_none() {
    let mut env = APP.start();
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    env.die_and_come_back();
    env.wait_state("app", UnitState::Stopped);
    assert_eq!(env.ctl(&["start", "app"]).code, 0);
    // It takes long to stop, and aeternad is killed meanwhile: who starts it again wants its services.
    let mut env = App { service: "Type = \"notify\"\nTimeoutStopSec = \"1min\"", ..APP }.start();
    let held = env.hold();
    env.signal(Signal::SIGTERM);
    env.wait_state("app", UnitState::Stopping);
    env.die_and_come_back();
    drop(held);
    env.wait_unit("app", "its new start", |unit| unit.state == UnitState::Running && unit.generation == 2);
}

#[test]
fn a_program_that_binds_by_itself_is_answered_by_the_next_one() {
    let port = common::port::free_port();
    let mut env = Env::new();
    // It binds when it is told to: while nobody is there to answer, its call waits.
    let program = env.file(
        "app.py",
        "import os, socket, sys, http.server\n\
         class Handler(http.server.SimpleHTTPRequestHandler):\n    pass\n\
         open(sys.argv[2], 'w').close()\n\
         os.mkfifo(sys.argv[3]) if not os.path.exists(sys.argv[3]) else None\n\
         open(sys.argv[3]).read()\n\
         s = http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler)\n\
         open(sys.argv[2] + '.bound', 'w').close()\n\
         s.serve_forever()\n",
    );
    let (runs, order) = (env.path("runs"), env.path("order"));
    let arguments = [
        "--intercept".to_owned(),
        "--".to_owned(),
        "python3".to_owned(),
        program.display().to_string(),
        port.to_string(),
        runs.display().to_string(),
        order.display().to_string(),
    ];
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    env.start_with(&words);
    env.wait("its program", || order.exists().then_some(()));
    env.die();
    std::fs::write(&order, "now").unwrap();
    env.start_with(&words);
    let address = format!("127.0.0.1:{port}");
    env.wait("its listener", || common::http::get(&address, "/").ok());
    env.die();
    assert_eq!(common::http::get(&address, "/").unwrap().status, 200);
    env.start_with(&words);
    env.wait_state("python3", UnitState::Running);
    assert_eq!(common::http::get(&address, "/").unwrap().status, 200);
}

#[test]
fn what_a_service_has_stored_and_said_is_there_for_the_next_one() {
    let service =
        "Type = \"notify\"\nFileDescriptorStoreMax = 4\nStandardError = \"log\"\nStandardOutput = \"log\"";
    let mut env = App { service, ..APP }.start();
    env.order(1, "/fdstore?name=memo&content=remember");
    env.order(1, "/barrier");
    env.die();
    // Nobody reads, and nobody fails.
    env.order(1, "/stderr?while+nobody+was+there");
    env.order(1, "/notify?STATUS=still+here");
    env.start();
    env.wait_log("while+nobody+was+there");
    env.wait_unit("app", "its status", |unit| {
        unit.generations.iter().any(|one| one.status_text.as_deref() == Some("still+here"))
    });
    env.reload_well();
    assert_eq!(env.order(2, "/read?fd=4"), "remember");
    env.die_and_come_back();
    env.reload_well();
    assert_eq!(env.order(3, "/read?fd=4"), "remember");
}

#[test]
fn state_is_handed_over_after_a_death() {
    common::app::state_is_handed_over_after_each(|env| env.die_and_come_back());
}

#[test]
fn what_was_removed_from_the_runtime_dir_is_there_when_aeternad_dies() {
    let mut env = APP.start();
    let main = env.main_pid("app");
    env.wait("the keeper", || env.path("run/keeper.sock").exists().then_some(()));
    std::fs::remove_dir_all(env.path("run")).unwrap();
    env.wait("the journal and the keeper", || {
        let there = ["run/keeper.sock", "run/journal/u-app.0", "run/journal/daemon.0", "run/control.sock"];
        there.iter().all(|name| env.path(name).exists()).then_some(())
    });
    env.wait_state("app", UnitState::Running);
    env.die_and_come_back();
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.main_pid("app"), main);
    env.reload_well();
}
