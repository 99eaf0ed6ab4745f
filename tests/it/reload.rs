//! A reload from outside: what it prints, how it ends, who is refused, what it rereads.

use crate::common;
use aeterna::proto::status::{Outcome, UnitState};
use common::app::{APP, App, LONG_SOAK};
use common::{Env, http, process};
use nix::sys::signal::Signal;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

/// A pre-flight that waits until the gate is opened.
const GATE: &str = "PreFlight = [{ Name = \"gate\", Exec = [\"/bin/sh\", \"-c\", \"read x < {dir}/gate\"] }]";

fn gate(env: &Env) {
    nix::unistd::mkfifo(&env.path("gate"), nix::sys::stat::Mode::S_IRWXU).unwrap();
}

/// Until the pre-flight has passed it: one that was just killed may still hold the other end.
fn open_gate(env: &Env) {
    let nonblocking = nix::fcntl::OFlag::O_NONBLOCK.bits();
    env.wait("the gate is passed", || {
        if env.unit_status("app").state != UnitState::PreChecking {
            return Some(());
        }
        let gate = std::fs::File::options().write(true).custom_flags(nonblocking).open(env.path("gate"));
        // Nobody reads yet, or not any more.
        let _ = gate.and_then(|mut gate| gate.write_all(b"go\n"));
        None
    });
}

#[test]
fn a_reload_shows_its_phases_and_leaves_the_new_generation() {
    let env = APP.start();
    let old = env.main_pid("app");
    let mark = env.mark();
    let done = env.ctl(&["reload", "app", "--reason", "a better one"]);
    assert_eq!(done.code, 0, "{done:?}");
    for phase in ["PRE_CHECKING", "STARTING  (PRE_CHECKING took ", "SOAKING  (STARTING took ", "promoted"] {
        assert!(done.stdout.contains(phase), "{phase} is missing:\n{}", done.stdout);
    }
    env.wait_state("app", UnitState::Running);
    let expected = [
        UnitState::PreChecking,
        UnitState::Starting,
        UnitState::Soaking,
        UnitState::Draining,
        UnitState::Running,
    ];
    assert_eq!(env.states_since(mark), expected);
    let status = env.unit_status("app");
    assert_eq!((status.generation, status.generations.len()), (2, 1));
    assert_ne!(status.main_pids, [old]);
    assert!(!process::exists(old));
    assert_eq!(env.answers(), 2);
    let last = env.last_reload();
    assert_eq!(last.outcome, Outcome::Promoted);
    let phases: Vec<&str> = last.phases.iter().map(|p| p.phase.as_str()).collect();
    assert_eq!(phases, ["pre_checking", "starting", "soaking"]);
    assert!(last.phases[2].seconds >= 0.05, "{:?}", last.phases);
    let history = env.ctl(&["history", "app", "--json"]);
    let history: serde_json::Value = serde_json::from_str(&history.stdout).unwrap();
    let record = &history["reloads"][0];
    assert_eq!(
        (record["outcome"].as_str(), record["asked"].as_str()),
        (Some("promoted"), Some("a better one"))
    );
    assert!(env.events_since(mark).iter().any(|e| e.outcome == Some(Outcome::Promoted)));
    env.wait_log("reload promoted");
    let detail = env.ctl(&["status", "app"]).stdout;
    assert!(detail.contains("soaking"), "how long each phase took is shown:\n{detail}");
}

#[test]
fn the_exit_status_tells_what_came_of_it() {
    let env = App { reload: LONG_SOAK, ..APP }.start();
    assert_eq!(env.ctl(&["reload", "nobody"]).code, 6);
    let late = env.ctl(&["reload", "app", "--timeout", "1s"]);
    assert_eq!(late.code, 124, "{late:?}");
    let busy = env.reload();
    assert_eq!(busy.code, 4, "{busy:?}");
    assert!((busy.stdout + &busy.stderr).contains("under way"));
    assert_eq!(env.ctl(&["rollback", "app"]).code, 0, "the command that ends it answers 0");
    env.wait_state("app", UnitState::Running);
    env.next_start("exit=7");
    assert_eq!(env.reload().code, 3);
    assert!(env.unit_status("app").why.contains("exited with status 7"), "{:?}", env.unit_status("app"));
    env.next_start("");
    assert_eq!(env.ctl(&["reload", "app", "--no-wait"]).code, 0);
    env.wait_state("app", UnitState::Soaking);
    let why = env.unit_status("app").why;
    assert!(why.starts_with("the soak "), "what was before the reload is not why it soaks: {why}");
    assert_eq!(env.ctl(&["rollback", "app"]).code, 0);
    env.wait_state("app", UnitState::Running);
    env.unit("app", "[Service]\nExecStart = 5\n");
    let failed = env.reload();
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!((failed.stdout + &failed.stderr).contains("app.toml"));
    let outcomes: Vec<Outcome> = match env
        .request(&aeterna::proto::control::Request::History { unit: "app".into() })
    {
        aeterna::proto::control::Line::Result(aeterna::proto::control::Reply::History {
            reloads, ..
        }) => reloads.iter().map(|r| r.outcome).collect(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        outcomes,
        [Outcome::Refused, Outcome::RolledBack, Outcome::RolledBack, Outcome::RolledBack, Outcome::Failed]
    );
    assert_eq!(env.answers(), 1);
}

#[test]
fn no_wait_answers_at_once_and_json_is_one_object() {
    let env = App { reload: LONG_SOAK, ..APP }.start();
    let begun = env.ctl(&["reload", "app", "--no-wait"]);
    assert_eq!(begun.code, 0, "{begun:?}");
    env.wait_state("app", UnitState::Soaking);
    assert_eq!(env.ctl(&["promote", "app"]).code, 0);
    env.wait_state("app", UnitState::Running);
    env.next_start("exit=7");
    let done = env.ctl(&["reload", "app", "--json"]);
    assert_eq!(done.code, 3);
    let answer: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(answer["reloads"][0]["outcome"], "rolled_back", "{answer}");
}

#[test]
fn a_reload_during_a_reload_is_refused_and_force_ends_the_first() {
    let env = App { reload: LONG_SOAK, ..APP }.start();
    let first = env.ctl_start(&["reload", "app"]);
    env.wait_state("app", UnitState::Soaking);
    let refused = env.reload();
    assert_eq!(refused.code, 4, "{refused:?}");
    for command in ["start", "restart"] {
        assert_eq!(env.ctl(&[command, "app"]).code, 4, "{command}");
    }
    let mark = env.mark();
    let second = env.ctl_start(&["reload", "app", "--force"]);
    let first = env.finish_child(first);
    assert_eq!(first.code, 3, "ended by --force: {first:?}");
    assert_eq!(env.wait_reloaded("app", mark).outcome, Some(Outcome::Aborted));
    env.wait_state("app", UnitState::Soaking);
    assert_eq!(env.ctl(&["promote", "app"]).code, 0);
    assert_eq!(env.finish_child(second).code, 0);
    assert_eq!(env.answers(), 3);
}

#[test]
fn force_ends_a_pre_flight_and_a_start_too() {
    let more = GATE;
    let env = App { reload: &format!("SoakTime = 0\nDrainTimeout = \"10s\"\n{more}"), ..APP }.start();
    gate(&env);
    let first = env.ctl_start(&["reload", "app"]);
    env.wait_state("app", UnitState::PreChecking);
    let second = env.ctl_start(&["reload", "app", "--force"]);
    assert_eq!(env.finish_child(first).code, 3);
    env.next_start("ready=never");
    open_gate(&env);
    env.wait_state("app", UnitState::Starting);
    let third = env.ctl_start(&["reload", "app", "--force"]);
    assert_eq!(env.finish_child(second).code, 3);
    env.next_start("");
    open_gate(&env);
    assert_eq!(env.finish_child(third).code, 0);
    assert_eq!(env.answers(), 3);
}

#[test]
fn a_reload_is_accepted_while_an_older_generation_drains() {
    let env = APP.start();
    let (held, first) = env.hold();
    assert_eq!(first, 1);
    env.reload_well();
    assert_eq!(env.unit_status("app").state, UnitState::Draining);
    env.reload_well();
    assert_eq!(env.answers(), 3);
    let drains: Vec<u32> =
        env.generations().iter().filter(|(_, p)| p == "draining").map(|(n, _)| *n).collect();
    assert!(drains.contains(&1), "{:?}", env.generations());
    drop(held);
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.generations(), [(3, "serving".to_string())]);
}

#[test]
fn a_storm_of_sighups_is_one_reload_and_one_that_is_remembered() {
    let env = App { reload: LONG_SOAK, ..APP }.start();
    let mark = env.mark();
    env.signal(Signal::SIGHUP);
    env.wait_state("app", UnitState::Soaking);
    for _ in 0..200 {
        env.signal(Signal::SIGHUP);
    }
    // Served after the signals: they have been read.
    env.wait_log("command: Reload {");
    env.status();
    assert_eq!(env.ctl(&["promote", "app"]).code, 0);
    env.wait_unit("app", "generation 3 soaks", |u| {
        u.state == UnitState::Soaking && u.generations.iter().any(|g| g.number == 3)
    });
    assert_eq!(env.ctl(&["promote", "app"]).code, 0);
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.unit_status("app").generation, 3, "200 signals are one more reload");
    let ends = env.events_since(mark).iter().filter(|e| e.outcome.is_some()).count();
    assert_eq!(ends, 2);
}

#[test]
fn a_storm_of_sighups_at_any_time_ends_with_a_running_service() {
    let env = App { reload: "Strategy = \"immediate\"\nDrainTimeout = \"10s\"", ..APP }.start();
    for _ in 0..200 {
        env.signal(Signal::SIGHUP);
        std::thread::yield_now();
    }
    env.wait_unit("app", "at rest in a later generation", |u| {
        u.state == UnitState::Running && u.generation > 1 && u.generations.len() == 1
    });
    assert!(env.answers() > 1);
}

#[test]
fn a_dry_run_tells_the_differences_and_does_nothing() {
    let env = App { socket: "ListenStream = [\"{dir}/kept.sock\", \"{dir}/dropped.sock\"]", ..APP }.start();
    let same = env.ctl(&["reload", "app", "--dry-run"]);
    assert_eq!(same.code, 0);
    App {
        socket: "ListenStream = [\"{dir}/kept.sock\", \"{dir}/added.sock\"]",
        reload: "SoakTime = \"3s\"",
        ..APP
    }
    .write(&env);
    let told = env.ctl(&["reload", "app", "--dry-run"]);
    assert_eq!(told.code, 0, "{told:?}");
    for (name, word) in [("kept.sock", "kept"), ("dropped.sock", "dropped"), ("added.sock", "added")] {
        let line = told.stdout.lines().find(|line| line.contains(name)).unwrap_or_default();
        assert!(line.contains(word), "{name}:\n{}", told.stdout);
    }
    assert!(told.stdout.contains("SoakTime"), "{}", told.stdout);
    let object: serde_json::Value =
        serde_json::from_str(&env.ctl(&["reload", "app", "--dry-run", "--json"]).stdout).unwrap();
    let changes = &object["units"][0];
    assert_eq!(changes["unit"], "app");
    let words: Vec<&str> =
        changes["sockets"].as_array().unwrap().iter().map(|s| s["change"].as_str().unwrap()).collect();
    assert_eq!(words, ["kept", "added", "dropped"]);
    let soak = changes["keys"].as_array().unwrap().iter().find(|key| key["key"] == "SoakTime").unwrap();
    assert_eq!((&soak["table"], &soak["new"]), (&"[Reload]".into(), &"\"3s\"".into()));
    let status = env.unit_status("app");
    assert_eq!((status.generation, status.state), (1, UnitState::Running));
    assert!(!env.path("added.sock").exists());
    env.unit("app", "nonsense");
    assert_eq!(env.ctl(&["reload", "app", "--dry-run"]).code, 1);
}

#[test]
fn what_waits_for_a_restart_of_aeternad_is_said_until_then() {
    let env = App { reload: "SoakTime = 0\n[Daemon]\nStopDelaySec = 0", ..APP }.start();
    App { reload: "SoakTime = 0\n[Daemon]\nStopDelaySec = \"1ms\"\nLogFormat = \"text\"", ..APP }.write(&env);
    for _ in 0..2 {
        let told = env.ctl(&["reload", "app", "--dry-run"]).stdout;
        assert!(told.contains("[Daemon] StopDelaySec: \"0\" → \"1ms\" (waits for a restart"), "{told}");
        env.reload_well();
    }
    let detail = env.ctl(&["status", "app"]).stdout;
    assert!(detail.contains("[Daemon] LogFormat, [Daemon] StopDelaySec"), "{detail}");
    assert_eq!(env.unit_status("app").pending, ["[Daemon] LogFormat", "[Daemon] StopDelaySec"]);
}

#[test]
fn what_a_socket_keeps_from_its_making_is_said_until_it_is_made_anew() {
    let made = "ListenStream = \"127.0.0.1:0\"\nFileDescriptorName = \"http\"\nIPTTL = 7\nNoDelay = true";
    let read = "ListenStream = \"127.0.0.1:0\"\nFileDescriptorName = \"http\"\nSharing = \"shared\"";
    let env = App { socket: made, ..APP }.start();
    App { socket: read, ..APP }.write(&env);
    let keys = ["IPTTL", "Sharing"];
    for round in 0..2 {
        let told = env.ctl(&["reload", "app", "--dry-run"]).stdout;
        for key in keys {
            let line = told.lines().find(|line| line.contains(&format!("[[Socket]] 127.0.0.1:0 {key}: ")));
            assert!(line.is_some_and(|line| line.ends_with("(waits for a restart of aeternad)")), "{told}");
        }
        // What can be set at once is no news any more.
        assert_eq!(told.contains("NoDelay: true → false"), round == 0, "{told}");
        let done = env.reload();
        assert_eq!(done.code, 0, "{done:?}");
        let said = |key: &str| done.stdout.contains(&format!("{key} of 127.0.0.1:"));
        assert!(said("Sharing") && said("IPTTL") == (round == 0), "{}", done.stdout);
    }
    let pending = keys.map(|key| format!("[[Socket]] 127.0.0.1:0 {key}"));
    assert_eq!(env.unit_status("app").pending, pending);
    assert_eq!(env.ctl(&["upgrade"]).code, 0);
    assert_eq!(env.unit_status("app").pending, pending);
    // It is as it was made: nothing waits.
    App { socket: made, ..APP }.write(&env);
    let done = env.reload();
    assert!(done.code == 0 && !done.stdout.contains("takes effect"), "{done:?}");
    assert_eq!(env.unit_status("app").pending, [""; 0]);
}

#[test]
fn mode_and_owner_of_a_path_follow_the_unit() {
    use std::os::unix::fs::MetadataExt;
    let mut env = Env::new();
    if !nix::unistd::geteuid().is_root() {
        return common::skip("only root can give a socket away");
    }
    let socket = |more: &str| format!("ListenStream = \"{{dir}}/app.sock\"\n{more}");
    App { socket: &socket("SocketMode = \"0600\""), ..APP }.write(&env);
    env.start();
    env.wait_state("app", UnitState::Running);
    let access = || {
        let found = std::fs::metadata(env.path("app.sock")).unwrap();
        (found.mode() & 0o777, found.uid(), found.gid())
    };
    assert_eq!(access(), (0o600, 0, 0));
    for (more, wanted) in [
        ("SocketMode = \"0660\"\nSocketGroup = 65534", (0o660, 0, 65534)),
        ("SocketUser = 65534\nSocketGroup = 12", (0o666, 65534, 12)),
        ("SocketMode = \"0640\"", (0o640, 0, 0)),
    ] {
        App { socket: &socket(more), ..APP }.write(&env);
        env.reload_well();
        assert_eq!(access(), wanted, "{more}");
    }
}

#[test]
fn sockets_are_compared_added_dropped_and_kept_with_their_open_file_description() {
    let shared = "Sharing = \"shared\"\nListenStream = [\"127.0.0.1:0\", \"{dir}/dropped.sock\"]";
    let env = App { socket: shared, ..APP }.start();
    let (tcp, unix) = (env.address("app", 0), env.address("app", 1));
    let before = env.json("app", "/report")["sockets"].clone();
    let (held, _) = env.hold();
    let shared = "Sharing = \"shared\"\nListenStream = [\"{dir}/added.sock\", \"127.0.0.1:0\"]";
    App { socket: shared, ..APP }.write(&env);
    env.reload_well();
    // The old generation still drains: who comes to the dropped address is refused instead of left waiting.
    env.wait("a dropped address that refuses", || std::os::unix::net::UnixStream::connect(&unix).err());
    drop(held);
    env.wait_state("app", UnitState::Running);
    assert!(http::get(&unix, "/").is_err());
    assert!(!env.path("dropped.sock").exists());
    assert_eq!(env.address("app", 1), tcp, "port 0 is kept");
    let after = env.json("app", "/report")["sockets"].clone();
    assert_eq!(after.as_array().map(Vec::len), Some(2));
    assert_eq!(after[1]["inode"], before[0]["inode"], "the same open file description");
    assert_eq!(after[0]["address"], env.path("added.sock").display().to_string());
    assert!(http::get(&tcp, "/").is_ok());
}

#[test]
fn a_steered_address_keeps_its_port_and_its_slots() {
    let env = App { reload: "Strategy = \"immediate\"\nDrainTimeout = \"10s\"", ..APP }.start();
    let address = env.address("app", 0);
    let inode = |env: &Env| env.json("app", "/report")["sockets"][0]["inode"].clone();
    let mut seen = vec![inode(&env)];
    for _ in 0..3 {
        env.reload_well();
        env.wait_state("app", UnitState::Running);
        assert_eq!(env.address("app", 0), address);
        seen.push(inode(&env));
    }
    assert_ne!(seen[0], seen[1]);
    assert_eq!((&seen[0], &seen[1]), (&seen[2], &seen[3]), "generations alternate between two slots");
    let sharing = env.unit_status("app").sockets[0].sharing.clone();
    assert_eq!(sharing, "steered");
}

#[test]
fn a_broken_file_or_a_taken_address_refuses_the_reload_and_changes_nothing() {
    let env = APP.start();
    let before = env.unit_status("app");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let socket = format!("ListenStream = [\"127.0.0.1:0\", \"{{dir}}/new.sock\", \"{address}\"]");
    App { socket: &socket, ..APP }.write(&env);
    let failed = env.reload();
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.stdout.contains(&address.to_string()), "{failed:?}");
    assert!(!env.path("new.sock").exists(), "all or nothing");
    env.unit("app", "[Service]\nExecStart = \"x\"\nTipe = \"notify\"\n");
    let failed = env.reload();
    assert_eq!(failed.code, 1);
    assert!(failed.stdout.contains("Tipe") && failed.stdout.contains("Type"), "{failed:?}");
    let after = env.unit_status("app");
    assert_eq!((after.state, after.generation, after.main_pids), (UnitState::Running, 1, before.main_pids));
    assert_eq!(after.sockets, before.sockets);
    assert_eq!(env.answers(), 1);
    assert_eq!(env.last_reload().outcome, Outcome::Failed);
}

#[test]
fn the_descriptors_of_aeternad_are_the_same_after_a_hundred_reloads() {
    let reload = "Strategy = \"immediate\"\nDrainTimeout = \"10s\"";
    let env = App { reload, service: "Type = \"notify\"\nStandardError = \"log\"", ..APP }.start();
    for _ in 0..2 {
        env.reload_well();
        env.wait_state("app", UnitState::Running);
    }
    let before = process::descriptors(env.pid());
    for round in 0..100 {
        let mark = env.mark();
        if round % 10 == 9 {
            env.next_start("exit=3");
        } else {
            env.next_start("");
        }
        env.begin_reload();
        env.wait_reloaded("app", mark);
        env.wait_state("app", UnitState::Running);
    }
    env.wait("no more descriptors than before", || (process::descriptors(env.pid()) <= before).then_some(()));
    assert_eq!(env.unit_status("app").generation, 102, "the last of them failed");
}

#[test]
fn promote_and_rollback_end_the_soak() {
    let env = App { reload: LONG_SOAK, ..APP }.start();
    let first = env.ctl_start(&["reload", "app"]);
    env.wait_state("app", UnitState::Soaking);
    assert_eq!(env.ctl(&["promote", "app"]).code, 0);
    assert_eq!(env.finish_child(first).code, 0);
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.answers(), 2);
    let old = env.main_pid("app");
    let second = env.ctl_start(&["reload", "app"]);
    env.wait_state("app", UnitState::Soaking);
    assert_eq!(env.ctl(&["rollback", "app"]).code, 0);
    assert_eq!(env.finish_child(second).code, 3);
    env.wait_state("app", UnitState::Running);
    assert_eq!((env.answers(), env.main_pid("app")), (2, old));
    let nothing = env.ctl(&["promote", "app"]);
    assert_eq!(nothing.code, 1, "{nothing:?}");
}

#[test]
fn a_rollback_outside_a_reload_is_a_reload_to_the_previous_content() {
    let env = APP.start();
    let none = env.ctl(&["rollback", "app"]);
    assert_eq!(none.code, 1, "there is nothing to go back to: {none:?}");
    App { service: "Type = \"notify\"\nUMask = \"0077\"", ..APP }.write(&env);
    env.reload_well();
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.json("app", "/report")["umask"], "0077");
    let text = std::fs::read_to_string(env.path("units/app.toml")).unwrap();
    let back = env.ctl(&["rollback", "app"]);
    assert_eq!(back.code, 0, "{back:?}");
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.json("app", "/report")["umask"], "0022");
    assert_eq!(env.answers(), 3);
    assert_eq!(std::fs::read_to_string(env.path("units/app.toml")).unwrap(), text, "the file is not touched");
    env.reload_well();
    assert_eq!(env.json("app", "/report")["umask"], "0077", "the next reload reads it");
}

#[test]
fn a_stopped_or_failed_unit_is_reread_and_started_a_listening_one_only_reread() {
    let env = APP.start();
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    env.reload_well();
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.answers(), 2);
    let mut env = Env::new();
    let service = "Type = \"notify\"\nStartOn = \"connection\"";
    App { service, ..APP }.write(&env);
    env.start();
    env.wait_state("app", UnitState::Listening);
    App { service: &format!("{service}\nUMask = \"0077\""), ..APP }.write(&env);
    env.reload_well();
    let status = env.unit_status("app");
    assert_eq!((status.state, status.generation), (UnitState::Listening, 0));
    assert_eq!(env.json("app", "/report")["umask"], "0077");
}

#[test]
fn a_stop_of_aeternad_ends_every_state_of_a_reload() {
    let all = format!("{LONG_SOAK}\n{GATE}");
    let states = [
        UnitState::PreChecking,
        UnitState::Starting,
        UnitState::Soaking,
        UnitState::RollingBack,
        UnitState::Draining,
    ];
    for state in states {
        let mut env =
            App { reload: &all, service: "Type = \"notify\"\nTimeoutStopSec = \"5s\"", ..APP }.start();
        gate(&env);
        let held = (state == UnitState::Draining).then(|| env.hold());
        env.next_start(match state {
            UnitState::Starting => "ready=never",
            UnitState::RollingBack => "term=ignore",
            _ => "",
        });
        let waiting = env.ctl_start(&["reload", "app"]);
        env.wait_state("app", UnitState::PreChecking);
        if state != UnitState::PreChecking {
            open_gate(&env);
            env.wait_unit("app", "past pre-flight", |u| u.state != UnitState::PreChecking);
        }
        let mut ender = None;
        if matches!(state, UnitState::RollingBack | UnitState::Draining) {
            env.wait_state("app", UnitState::Soaking);
            let command = if state == UnitState::Draining { "promote" } else { "rollback" };
            ender = Some(env.ctl_start(&[command, "app"]));
        }
        env.wait_state("app", state);
        env.signal(Signal::SIGTERM);
        drop(held);
        let status = env.wait_exit();
        assert!(status.success(), "{state:?}: {status}\n{}", env.log());
        ender.map(|child| env.finish_child(child));
        let code = env.finish_child(waiting).code;
        assert!(env.processes().is_empty(), "{state:?}: {:?}", env.processes());
        assert_eq!(code, if state == UnitState::Draining { 0 } else { 3 }, "{state:?}");
    }
}

/// The notify sockets in the runtime dir.
fn notify_sockets(env: &Env) -> Vec<String> {
    let names = std::fs::read_dir(env.runtime_dir()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name.ends_with(".notify"));
    names.sort();
    names
}

#[test]
fn what_the_next_generation_needs_is_made_ahead_and_again_if_it_is_no_use() {
    let env = APP.start();
    assert_eq!(notify_sockets(&env), ["app.1.notify"], "it may never be reloaded");
    env.reload_well();
    let alone = |number: u32| {
        let names = [format!("app.{number}.notify"), format!("app.{}.notify", number + 1)];
        env.wait("the old one is gone", || (notify_sockets(&env) == names).then_some(()));
    };
    alone(2);
    env.reload_well();
    alone(3);
    // Somebody cleaned up.
    std::fs::remove_file(env.runtime_dir().join("app.4.notify")).unwrap();
    env.reload_well();
    alone(4);
    // Somebody was quicker than the generation.
    let early = env.runtime_dir().join("app.5.notify");
    std::os::unix::net::UnixDatagram::unbound().unwrap().send_to(b"READY=1", &early).unwrap();
    env.reload_well();
    alone(5);
    // Another kind of unit does not need it.
    App { service: "Type = \"exec\"\nNotifyAccess = \"none\"", ..APP }.write(&env);
    env.reload_well();
    env.wait("no notify socket", || notify_sockets(&env).is_empty().then_some(()));
    assert_eq!(env.answers(), 6);
    APP.write(&env);
    env.reload_well();
    alone(7);
    env.wait_log("ahead for generation 7 is made anew");
    let anew = env.log().matches(" is made anew").count();
    assert_eq!(anew, 4, "of 4 to 7, and that of 3 was used");
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    assert_eq!(notify_sockets(&env), [""; 0]);
    assert_eq!(env.ctl(&["start", "app"]).code, 0);
    assert_eq!(env.answers(), 8);
}
