//! aeternad is replaced in place: nobody notices, whatever it was at; and a program that is no good is not let in.

use crate::common;
use aeterna::proto::control::{Line, Reply, Request, UpgradeOutcome};
use aeterna::proto::status::{Outcome, UnitState};
use common::app::{APP, App, LONG_SOAK};
use common::http::{self, Client};
use common::load::{Load, Manner};
use common::port::free_port;
use common::{AETERNAD, Env, example, process, skip};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

impl Env {
    /// An upgrade that must be made: to the program that runs.
    fn upgrade(&self) {
        let mark = self.mark();
        let done = self.ctl(&["upgrade"]);
        if done.code != 0 || !done.stdout.contains(" → ") {
            self.fail(&format!("the upgrade ended with {done:?}"));
        }
        self.wait_event(mark, "the upgrade", |event| event.kind == "upgraded");
    }

    /// One that must not be made; why not.
    fn no_upgrade(&self, program: &str, code: i32) -> String {
        let done = self.ctl(&["upgrade", "--program", program]);
        if done.code != code {
            self.fail(&format!("the upgrade to {program} ended with {done:?}"));
        }
        assert_eq!(self.ctl(&["status"]).code, 0);
        done.stdout
    }
}

#[test]
fn nobody_notices_twenty_upgrades_in_a_row_and_nothing_grows() {
    let env = App { service: "Type = \"notify\"\nRestart = \"always\"\nRestartSec = \"1ms\"", ..APP }.start();
    let (daemon, main) = (env.pid(), env.main_pid("app"));
    let address = env.address("app", 0);
    env.upgrade();
    let memory = || process::status_number(daemon, "RssAnon").unwrap();
    let (descriptors, before) = (process::descriptors(daemon), memory());
    let kept = Load::start(&address, 2, Manner::KeepAlive);
    let fresh = Load::start(&address, 2, Manner::Fresh);
    for _ in 0..20 {
        env.upgrade();
        fresh.wait_answers(3);
    }
    assert_eq!((env.pid(), env.main_pid("app")), (daemon, main));
    // The last client may be closed a moment after it has its answer.
    env.wait("no more descriptors", || (process::descriptors(daemon) <= descriptors).then_some(()));
    let more = memory().saturating_sub(before);
    assert!(more < 512, "{more} KiB more after 20 upgrades");
    for load in [kept, fresh] {
        let counts = load.finish();
        assert!(counts.failed.is_empty() && counts.ok > 0, "{counts:?}");
    }
    // It is a daemon like any other, and gives its services the limits that it was started with itself.
    let limits = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let first = limits(main);
    env.reload_well();
    assert_eq!(limits(env.main_pid("app")), first);
    assert_eq!(env.unit_status("app").generation, 2);
    assert_ne!(env.main_pid("app"), main);
    process::kill(env.main_pid("app"), Signal::SIGKILL);
    env.wait_unit("app", "its restart", |unit| unit.generation == 3 && unit.state == UnitState::Running);
}

#[test]
fn a_signal_asks_for_it_too() {
    let env = APP.start();
    let mark = env.mark();
    env.signal(Signal::SIGUSR2);
    env.wait_event(mark, "the upgrade", |event| event.kind == "upgraded");
    env.wait_state("app", UnitState::Running);
}

#[test]
fn a_reload_goes_on_in_its_phase_and_who_waits_for_it_hears_its_end() {
    let env = App { reload: LONG_SOAK, ..APP }.start();
    // Starting: the new one says READY=1 when it is told to.
    env.next_start("ready=order");
    let mark = env.mark();
    let waiting = env.ctl_start(&["reload", "app"]);
    env.wait_unit("app", "the new one", |unit| unit.generations.len() == 2);
    env.upgrade();
    env.order(2, "/ready");
    env.wait_state("app", UnitState::Soaking);
    let held = env.hold();
    env.upgrade();
    assert_eq!(env.unit_status("app").state, UnitState::Soaking);
    let weight = |number| {
        let unit = env.unit_status("app");
        unit.generations.iter().find(|one| one.number == number).and_then(|one| one.weight)
    };
    assert_eq!(weight(2), Some(10));
    assert_eq!(env.ctl(&["promote", "app"]).code, 0);
    env.wait_reloaded("app", mark);
    let waited = env.finish_child(waiting);
    assert_eq!(waited.code, 0, "{waited:?}");
    // What the old one holds keeps it draining, if it was the one.
    env.upgrade();
    drop(held);
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.generations(), [(2, "serving".to_owned())]);
    let states = env.states_since(mark);
    let times = |state| states.iter().filter(|seen| **seen == state).count();
    assert_eq!((times(UnitState::Soaking), times(UnitState::RollingBack)), (1, 0), "{states:?}");
    assert_eq!(env.last_reload().outcome, Outcome::Promoted);
}

#[test]
fn a_drain_goes_on() {
    let env = APP.start();
    let (mut client, generation) = env.hold();
    assert_eq!(generation, 1);
    env.reload_well();
    env.wait_state("app", UnitState::Draining);
    env.upgrade();
    assert_eq!(env.unit_status("app").state, UnitState::Draining);
    assert_eq!(client.line().unwrap(), "term", "the one that drains has its stop signal");
    drop(client);
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.answers(), 2);
}

#[test]
fn a_pre_flight_check_and_a_rollback_go_on() {
    let hook = "[[Reload.PreFlight]]\nExec = \"/bin/sh -c 'while ! test -e {dir}/go; do sleep 0.02; done'\"\n\
                Timeout = \"1min\"";
    let env = App { more: hook, reload: LONG_SOAK, ..APP }.start();
    env.next_start("term=hang");
    env.begin_reload();
    env.wait_state("app", UnitState::PreChecking);
    env.upgrade();
    assert_eq!(env.unit_status("app").state, UnitState::PreChecking);
    env.file("go", "");
    env.wait_state("app", UnitState::Soaking);
    let rollback = env.ctl_start(&["rollback", "app"]);
    env.wait_state("app", UnitState::RollingBack);
    env.upgrade();
    assert_eq!(env.unit_status("app").state, UnitState::RollingBack);
    assert_eq!(env.ctl(&["kill", "--signal=KILL", "--generation=2", "app"]).code, 0);
    env.wait_state("app", UnitState::Running);
    env.finish_child(rollback);
    assert_eq!((env.last_reload().outcome, env.answers()), (Outcome::RolledBack, 1));
}

#[test]
fn who_rests_goes_on_resting() {
    let service = "Type = \"notify\"\nRestart = \"always\"\nRestartSec = \"1h\"";
    let env = App { service, ..APP }.start();
    process::kill(env.main_pid("app"), Signal::SIGKILL);
    env.wait_state("app", UnitState::Backoff);
    env.upgrade();
    assert_eq!(env.unit_status("app").state, UnitState::Backoff);
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    env.upgrade();
    assert_eq!(env.unit_status("app").state, UnitState::Stopped);
    assert_eq!(env.ctl(&["start", "app"]).code, 0);
    env.wait_state("app", UnitState::Running);
}

#[test]
fn processes_that_end_just_then_are_reaped_with_their_status() {
    let service = "Type = \"notify\"\nRestart = \"always\"\nRestartSec = \"1ms\"\nStartLimitBurst = 0";
    let env = App { service, ..APP }.start();
    for round in 1..=8_u32 {
        let upgrade = env.ctl_start(&["upgrade"]);
        process::kill(env.main_pid("app"), Signal::SIGKILL);
        let upgrade = env.finish_child(upgrade);
        assert_eq!(upgrade.code, 0, "{upgrade:?}");
        env.wait_unit("app", "its restart", |unit| {
            unit.generation == round + 1 && unit.state == UnitState::Running
        });
    }
    assert_eq!(env.unit_status("app").restarts, 8);
}

#[test]
fn a_socket_that_only_aeternad_has_loses_nobody() {
    let mut env = Env::new();
    env.unit(
        "lazy",
        "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{probe}\"\nType = \"notify\"\nStartOn = \"connection\"",
    );
    env.unit(
        "each",
        "[Socket]\nListenStream = \"127.0.0.1:0\"\nAccept = true\n[Service]\nExecStart = \"/bin/cat\"\nStandardInput = \"socket\"\nStandardOutput = \"socket\"",
    );
    env.start();
    env.wait_state("lazy", UnitState::Listening);
    env.wait_state("each", UnitState::Listening);
    let say = |stream: &mut std::net::TcpStream, text: &str| {
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, text.as_bytes());
    };
    let connect = |unit: &str| {
        let stream = std::net::TcpStream::connect(env.address(unit, 0)).unwrap();
        stream.set_read_timeout(Some(common::WAIT)).unwrap();
        stream
    };
    let mut before = connect("each");
    say(&mut before, "before");
    for _ in 0..3 {
        env.upgrade();
    }
    say(&mut before, "after");
    let mut during: Vec<_> = Vec::new();
    let upgrade = env.ctl_start(&["upgrade"]);
    for _ in 0..20 {
        during.push(connect("each"));
    }
    assert_eq!(env.finish_child(upgrade).code, 0);
    during.iter_mut().for_each(|stream| say(stream, "x"));
    assert_eq!(env.get("lazy", "/").status, 200);
    env.wait_state("lazy", UnitState::Running);
    env.upgrade();
    assert_eq!(env.get("lazy", "/").status, 200);
}

#[test]
fn what_a_service_has_stored_and_said_goes_along() {
    let service =
        "Type = \"notify\"\nFileDescriptorStoreMax = 4\nStandardError = \"log\"\nStandardOutput = \"log\"";
    let env = App { service, ..APP }.start();
    env.order(1, "/fdstore?name=memo&content=remember");
    env.order(1, "/barrier");
    env.upgrade();
    env.order(1, "/stderr?after+the+upgrade");
    env.wait_log("after+the+upgrade");
    env.order(1, "/notify?STATUS=still+here");
    env.wait_unit("app", "its status", |unit| {
        unit.generations.iter().any(|one| one.status_text.as_deref() == Some("still+here"))
    });
    env.reload_well();
    assert_eq!(env.order(2, "/read?fd=4"), "remember");
    env.upgrade();
    env.reload_well();
    assert_eq!(env.order(3, "/read?fd=4"), "remember");
}

#[test]
fn state_is_handed_over_after_an_upgrade() {
    common::app::state_is_handed_over_after_each(|env| env.upgrade());
}

#[test]
fn a_program_that_binds_by_itself_is_answered_by_the_next_one() {
    let port = free_port();
    let mut env = Env::new();
    env.start_with(&[
        "--intercept",
        "--",
        "python3",
        "-m",
        "http.server",
        "--bind",
        "127.0.0.1",
        &port.to_string(),
    ]);
    env.wait_state("python3", UnitState::Running);
    let address = format!("127.0.0.1:{port}");
    assert_eq!(http::get(&address, "/").unwrap().status, 200);
    env.upgrade();
    assert_eq!(http::get(&address, "/").unwrap().status, 200);
    assert_eq!(env.ctl(&["reload", "python3"]).code, 0);
    assert_eq!(http::get(&address, "/").unwrap().status, 200);
    env.upgrade();
    assert_eq!(env.unit_status("python3").generation, 2);
}

#[test]
fn http_and_files_that_are_watched_go_on() {
    let port = free_port();
    let mut env = Env::new();
    let watched = env.file("watched", "1");
    let reload =
        format!("SoakTime = \"50ms\"\nWatchPaths = [\"{}\"]\nWatchDebounce = \"50ms\"", watched.display());
    App { reload: &reload, ..APP }.write(&env);
    env.arguments(&["--http", &format!("127.0.0.1:{port}")]);
    env.start();
    env.wait_state("app", UnitState::Running);
    let address = format!("127.0.0.1:{port}");
    assert_eq!(http::get(&address, "/health").unwrap().status, 200);
    for generation in 2..=3 {
        env.upgrade();
        assert_eq!(http::get(&address, "/health").unwrap().status, 200);
        env.file("watched", &generation.to_string());
        env.wait_unit("app", "a reload", |unit| unit.generation == generation);
        env.wait_state("app", UnitState::Running);
    }
}

#[test]
fn a_program_that_is_no_good_is_not_let_in_and_says_why() {
    let env = APP.start();
    let main = env.main_pid("app");
    let write = |name: &str, bytes: &[u8], mode: u32| {
        let path = env.path(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path.display().to_string()
    };
    let whole = std::fs::read(AETERNAD).unwrap();
    for (program, words) in [
        (env.path("nothing").display().to_string(), "No such file or directory"),
        (write("plain", b"text", 0o644), "Permission denied"),
        (write("empty", b"", 0o755), "Exec format error"),
        // What it breaks off in is code, however much the file has of what is not loaded.
        (write("half", &whole[..256 * 1024], 0o755), "is no aeternad that can take over"),
        (
            "/bin/true".into(),
            "/bin/true is no aeternad that can take over: it ended with status 0 and said: nothing",
        ),
        (
            write("old", b"#!/bin/sh\necho 'unknown option --can-take-over' >&2; exit 2\n", 0o755),
            "unknown option",
        ),
        (write("crash", b"#!/bin/sh\nkill -SEGV $$\n", 0o755), "ended with SIGSEGV"),
        (
            write(
                "liar",
                b"#!/bin/sh\necho '{\"program\":\"aeternad\",\"version\":\"9\",\"why\":\"no\"}'; exit 1\n",
                0o755,
            ),
            "aeternad 9 cannot take over: no",
        ),
        (write("flood", b"#!/bin/sh\nexec yes\n", 0o755), "ended with"),
        (write("open", &whole, 0o757), "can be changed by other users"),
    ] {
        let said = env.no_upgrade(&program, 1);
        assert!(said.starts_with("aeternad 0.1.0 goes on: "), "{said}");
        // A half-copied program may fail in several ways, depending on where it breaks off.
        assert!(
            said.contains(words) || (program.ends_with("half") && said.contains("half")),
            "{program}: {said}"
        );
    }
    let busy = write("busy", &whole, 0o755);
    let writer = std::fs::File::options().append(true).open(&busy).unwrap();
    assert!(env.no_upgrade(&busy, 1).contains("Text file busy"));
    drop(writer);
    let checked = env.ctl(&["upgrade", "--check", "--program", &busy]);
    assert_eq!((checked.code, checked.stdout.contains("can take over 1 unit")), (0, true), "{checked:?}");
    assert_eq!(env.main_pid("app"), main);
    env.upgrade();
    // Another place, and from then on what is there.
    assert_eq!(env.ctl(&["upgrade", "--program", &busy]).code, 0);
    std::fs::rename(env.path("half"), &busy).unwrap();
    assert_eq!(env.ctl(&["upgrade"]).code, 1);
    assert_eq!(env.ctl(&["upgrade", "--program", AETERNAD]).code, 0);
    env.reload_well();
}

/// aeternad as another program that passes the check and then does what `TURNCOAT` says.
fn turncoat(does: &str) -> (Env, PathBuf) {
    let mut env = Env::new();
    APP.write(&env);
    env.variable("TURNCOAT", does).variable("TURNCOAT_REAL", AETERNAD);
    env.start();
    env.wait_state("app", UnitState::Running);
    (env, example("turncoat"))
}

#[test]
fn a_new_program_that_fails_gives_back_and_the_old_one_goes_on() {
    for (does, words) in [
        ("panic", "it panicked"),
        ("fault", "it ended with SIGSEGV"),
        ("abort", "it ended with SIGABRT"),
        ("error", "it does not like it"),
    ] {
        let (env, program) = turncoat(does);
        let (daemon, main) = (env.pid(), env.main_pid("app"));
        let load = Load::start(&env.address("app", 0), 2, Manner::Fresh);
        let said = env.no_upgrade(&program.display().to_string(), 3);
        assert!(said.contains("the new program gave back: ") && said.contains(words), "{does}: {said}");
        load.wait_answers(3);
        let counts = load.finish();
        assert!(counts.failed.is_empty(), "{counts:?}");
        assert_eq!((env.pid(), env.main_pid("app")), (daemon, main));
        env.reload_well();
        env.upgrade();
    }
}

#[test]
fn everybody_who_is_connected_gets_his_answers() {
    let env = App { reload: LONG_SOAK, ..APP }.start();
    let path = env.runtime_dir().join("control.sock");
    let mut half = std::os::unix::net::UnixStream::connect(&path).unwrap();
    half.set_read_timeout(Some(common::WAIT)).unwrap();
    half.write_all(b"{\"command\":").unwrap();
    let mut idle = std::os::unix::net::UnixStream::connect(&path).unwrap();
    idle.set_read_timeout(Some(common::WAIT)).unwrap();
    env.upgrade();
    half.write_all(b"\"version\"}\n").unwrap();
    idle.write_all(b"{\"command\":\"version\"}\n").unwrap();
    for stream in [&mut half, &mut idle] {
        let mut buffer = [0; 256];
        let count = stream.read(&mut buffer).unwrap();
        assert!(String::from_utf8_lossy(&buffer[..count]).contains("\"version\":\"0.1.0\""));
    }
    let reply = env.request(&Request::Upgrade { program: None, check: true, timeout: None });
    match reply {
        Line::Result(Reply::Upgrade(reply)) => assert_eq!(reply.outcome, UpgradeOutcome::Possible),
        other => panic!("{other:?}"),
    }
}

#[test]
fn any_user_and_an_init_can_be_replaced() {
    let mut env = Env::new();
    if env.as_nobody() {
        APP.write(&env);
        env.start();
        env.wait_state("app", UnitState::Running);
        env.upgrade();
        env.reload_well();
        env.upgrade();
    }
    let mut env = Env::new();
    APP.write(&env);
    let mut command = env.command("unshare");
    command.args(["-fp", "--mount-proc", "--kill-child"]);
    let mut trial = env.command("unshare");
    trial.args(["-fp", "--mount-proc", "--kill-child", "true"]);
    if env.finish(trial).code != 0 {
        return skip("no pid namespace can be made here");
    }
    command.arg(AETERNAD);
    let unit = env.path("units/app.toml").display().to_string();
    env.launch_by(command, &["--unit", &unit]);
    env.wait_control();
    env.wait_state("app", UnitState::Running);
    assert!(env.ctl(&["status"]).stdout.contains("pid 1,"));
    let mut client = Client::connect(&env.address("app", 0)).unwrap();
    assert_eq!(client.get("/").unwrap().status, 200);
    env.upgrade();
    assert_eq!(client.get("/").unwrap().status, 200);
    env.reload_well();
    // With its init the namespace ends when it ends: what is looked at afterwards is gone before.
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    let unshare = env.pid();
    let init = env.wait("the namespace's PID 1", || process::children(unshare).first().copied());
    env.wait("nothing left", || process::children(init).is_empty().then_some(()));
}

#[test]
fn the_hidden_option_is_of_no_use_to_anybody_else() {
    let env = Env::new();
    for word in ["--take-over=0", "--take-over=3", "--take-over=99"] {
        let done = env.daemon(&[word, "--unit", "x"]);
        assert_eq!(done.code, 2, "{done:?}");
    }
    assert_eq!(env.daemon(&["--can-take-over"]).code, 1);
}
