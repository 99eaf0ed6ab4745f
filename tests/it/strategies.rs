//! `replace`, `signal`, `oneshot` and `Accept`; hooks; the program's checksum; weights.

use crate::common;
use aeterna::proto::status::{Outcome, UnitState};
use common::app::{APP, App, LONG_SOAK};
use common::http::{self, Client};
use common::{Env, process};
use nix::sys::signal::Signal;

const REPLACE: &str = "Strategy = \"replace\"";

#[test]
fn replace_stops_then_starts() {
    let env = App { reload: REPLACE, ..APP }.start();
    let old = env.main_pid("app");
    let (address, mark) = (env.address("app", 0), env.mark());
    env.next_start("ready=order");
    let waiting = env.ctl_start(&["reload", "app"]);
    env.wait_gone(old);
    let mut queued = Client::connect(&address).unwrap();
    queued.send("/", "Connection: close\r\n").unwrap();
    env.order(2, "/ready");
    assert_eq!(env.finish_child(waiting).code, 0);
    assert!(queued.receive().unwrap().body.contains("\"generation\":2"), "it waited in the queue");
    let started = env.events_since(mark).into_iter().position(|e| e.kind == "started");
    let ended = env.events_since(mark).into_iter().position(|e| e.kind == "ended");
    assert!(ended.is_some() && ended < started, "never two at a time");
    assert_eq!(env.unit_status("app").state, UnitState::Running);
}

#[test]
fn a_replace_that_fails_starts_the_previous_content_again() {
    let env = App { reload: REPLACE, ..APP }.start();
    let text = std::fs::read_to_string(env.path("units/app.toml")).unwrap();
    env.unit(
        "app",
        &text
            .replace("/probe orders=", "/probe exit=5 orders=")
            .replace("[Reload]", "UMask = \"0077\"\n[Reload]"),
    );
    let done = env.reload();
    assert_eq!(done.code, 3, "{done:?}");
    assert!(done.stdout.contains("exited with status 5"), "{done:?}");
    assert_eq!(env.json("app", "/report")["umask"], "0022");
    assert_eq!(env.unit_status("app").generation, 3);
}

#[test]
fn a_replace_with_a_content_that_can_not_start_comes_back() {
    let env = App { reload: REPLACE, ..APP }.start();
    env.next_start("");
    App { reload: REPLACE, service: "Type = \"notify\"\nExecStartPre = \"/bin/false\"", ..APP }.write(&env);
    let done = env.reload();
    assert_eq!(done.code, 3, "{done:?}");
    let status = env.wait_state("app", UnitState::Running);
    assert_eq!(status.last_reload.unwrap().outcome, Outcome::RolledBack);
    assert!(env.answers() >= 2, "the previous content, started again");
}

#[test]
fn signal_tells_the_running_generation() {
    let reload = "Strategy = \"signal\"\nReloadSignal = \"SIGUSR1\"";
    let env = App { reload, ..APP }.start();
    env.next_start("handle=USR1");
    assert_eq!(env.ctl(&["restart", "app"]).code, 0);
    let pid = env.main_pid("app");
    let mark = env.mark();
    App { reload, service: "Type = \"notify\"\nUMask = \"0077\"", ..APP }.write(&env);
    let done = env.reload();
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(env.main_pid("app"), pid);
    assert!(!env.states_since(mark).contains(&UnitState::Soaking));
    env.wait("the signal arrived", || {
        env.json("app", "/report")["signals"]["SIGUSR1"].as_u64().filter(|n| *n == 1)
    });
    let pending = env.unit_status("app").pending;
    assert!(pending.iter().any(|key| key.contains("UMask")), "what needs a launch is listed: {pending:?}");
}

#[test]
fn signal_runs_exec_reload_and_tells_its_failure() {
    let reload = "Strategy = \"signal\"";
    let service = "Type = \"notify\"\nExecReload = [\"/bin/sh\", \"-c\", \"echo $MAINPID > {dir}/told; test ! -e {dir}/bad\"]";
    let env = App { reload, service, ..APP }.start();
    env.reload_well();
    assert_eq!(std::fs::read_to_string(env.path("told")).unwrap().trim(), env.main_pid("app").to_string());
    env.file("bad", "");
    let done = env.reload();
    assert_eq!(done.code, 1, "{done:?}");
    assert_eq!(env.answers(), 1);
}

#[test]
fn notify_reload_is_done_at_ready() {
    let reload = "Strategy = \"signal\"";
    let mut env = Env::new();
    env.file("probe", "hup=reload");
    App { reload, service: "Type = \"notify-reload\"", ..APP }.write(&env);
    env.start();
    env.wait_state("app", UnitState::Running);
    let done = env.reload();
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(env.answers(), 1);
    env.next_start("handle=HUP");
    assert_eq!(env.ctl(&["restart", "app"]).code, 0);
    App { reload, service: "Type = \"notify-reload\"\nTimeoutStartSec = \"2s\"", ..APP }.write(&env);
    let silent = env.reload();
    assert_eq!(silent.code, 1, "one that never says READY=1: {silent:?}");
    assert!(silent.stdout.contains("READY=1"));
}

#[test]
fn a_oneshot_or_accept_unit_can_not_overlap() {
    let env = Env::new();
    for (text, word) in [
        (
            "[Service]\nExecStart = \"/bin/true\"\nType = \"oneshot\"\n[Reload]\nStrategy = \"canary\"\n",
            "oneshot",
        ),
        (
            "[Socket]\nListenStream = \"127.0.0.1:0\"\nAccept = true\n[Service]\nExecStart = \"/bin/cat\"\n[Reload]\nStrategy = \"immediate\"\n",
            "Accept",
        ),
    ] {
        let path = env.unit("bad", text).display().to_string();
        let checked = env.daemon(&["--check", "--unit", &path]);
        assert_eq!(checked.code, 78, "{checked:?}");
        assert!((checked.stdout + &checked.stderr).contains(word));
    }
}

#[test]
fn a_reload_of_an_accept_unit_changes_what_new_connections_get() {
    let mut env = Env::new();
    let text = |mask: &str| {
        format!(
            "[Socket]\nListenStream = \"127.0.0.1:0\"\nAccept = true\n[Service]\nExecStart = \"{{probe}} stdin=\"\nUMask = \"{mask}\"\n"
        )
    };
    env.unit("app", &text("0022"));
    env.start();
    env.wait_state("app", UnitState::Listening);
    let address = env.address("app", 0);
    let mut first = Client::connect(&address).unwrap();
    assert!(first.get("/report").unwrap().body.contains("\"umask\":\"0022\""));
    env.unit("app", &text("0077"));
    env.reload_well();
    assert!(first.get("/report").unwrap().body.contains("\"umask\":\"0022\""), "running instances stay");
    assert!(http::get(&address, "/report").unwrap().body.contains("\"umask\":\"0077\""));
    assert_eq!(env.unit_status("app").state, UnitState::Listening);
}

#[test]
fn hooks_hear_how_it_ended() {
    let hook = |name: &str| {
        format!(
            "On{name} = [{{ Name = \"tell\", Exec = [\"{{probe}}\", \"exit=0\", \"append={{dir}}/{name}\", \"note=x\", \"show=AETERNA_RELOAD_OUTCOME,AETERNA_RELOAD_REASON,AETERNA_RELOAD_OLD_PID,AETERNA_RELOAD_NEW_PID,LISTEN_FDS,NOTIFY_SOCKET\"] }}]\n"
        )
    };
    let reload = format!("SoakTime = 0\n{}{}", hook("Success"), hook("Failure"));
    let env = App { reload: &reload, ..APP }.start();
    let read = |name: &str| {
        env.wait(name, || std::fs::read_to_string(env.path(name)).ok().filter(|text| text.ends_with('\n')))
    };
    let old = env.main_pid("app");
    env.reload_well();
    env.wait_state("app", UnitState::Running);
    let new = env.main_pid("app");
    let told = read("Success");
    assert!(told.contains("AETERNA_RELOAD_OUTCOME=promoted"), "{told}");
    assert!(told.contains(&format!("AETERNA_RELOAD_OLD_PID={old}")), "{told}");
    assert!(told.contains(&format!("AETERNA_RELOAD_NEW_PID={new}")), "{told}");
    assert!(told.contains("LISTEN_FDS= ") && told.trim_end().ends_with("NOTIFY_SOCKET="), "{told}");
    env.next_start("exit=6");
    assert_eq!(env.reload().code, 3);
    let told = read("Failure");
    assert!(told.contains("AETERNA_RELOAD_OUTCOME=rolled_back"), "{told}");
    assert!(told.contains("status 6") && told.contains(&format!("AETERNA_RELOAD_OLD_PID={new}")), "{told}");
    assert_eq!(read("Success").lines().count(), 1);
}

#[test]
fn the_program_must_have_the_checksum_that_is_asked_for() {
    use sha2::Digest;
    let sum: String = sha2::Sha256::digest(std::fs::read(common::example("probe")).unwrap())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let env = APP.start();
    App { reload: &format!("SoakTime = 0\nBinarySHA256 = \"{}\"", "0".repeat(64)), ..APP }.write(&env);
    let done = env.reload();
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stdout.contains(&sum), "{done:?}");
    App { reload: &format!("SoakTime = 0\nBinarySHA256 = \"{sum}\""), ..APP }.write(&env);
    env.reload_well();
    let path = common::example("echo").display().to_string();
    App { reload: &format!("SoakTime = 0\nBinarySHA256 = \"{sum}\"\nBinaryPath = \"{path}\""), ..APP }
        .write(&env);
    assert_eq!(env.reload().code, 1, "BinaryPath is what is looked at");
}

#[test]
fn an_accept_unit_that_got_another_socket_counts_by_its_own_limits() {
    let mut env = Env::new();
    let socket = |name: &str, limit: u32| {
        format!(
            "[[Socket]]\nListenStream = \"{{dir}}/{name}.sock\"\nAccept = true\nMaxConnections = {limit}\n"
        )
    };
    let service = "[Service]\nExecStart = \"{probe} stdin=\"\n";
    env.unit("app", &format!("{}{service}", socket("a", 1)));
    env.start();
    env.wait_state("app", UnitState::Listening);
    env.unit("app", &format!("{}{}{service}", socket("a", 1), socket("b", 2)));
    env.reload_well();
    let ask = |name: &str| {
        let mut client = Client::connect(&env.path(name).display().to_string()).unwrap();
        let status = client.get("/").map(|answer| answer.status);
        (client, status.ok())
    };
    let (kept, first) = ask("b.sock");
    let (more, second) = ask("b.sock");
    assert_eq!((first, second), (Some(200), Some(200)));
    assert_eq!(ask("b.sock").1, None, "MaxConnections of its own table");
    let (other, first) = ask("a.sock");
    assert_eq!((first, ask("a.sock").1), (Some(200), None));
    drop((kept, more, other));
    env.wait_unit("app", "no instance is left", |u| u.generations.is_empty());
}

/// How many of `count` new connections the new generation answers.
fn share(env: &Env, count: u32) -> u32 {
    let address = env.address("app", 0);
    let new = |_: &u32| http::get(&address, "/").unwrap().body.contains("\"generation\":2");
    (0..count).filter(new).count() as u32
}

#[test]
fn the_new_generation_gets_its_percentage() {
    for (weight, least, most) in [(0, 0, 0), (10, 10, 75), (50, 150, 250), (100, 400, 400)] {
        let reload = format!("SoakTime = \"infinity\"\nDrainTimeout = \"10s\"\nCanaryWeight = {weight}");
        let env = App { reload: &reload, ..APP }.start();
        let waiting = env.ctl_start(&["reload", "app"]);
        env.wait_state("app", UnitState::Soaking);
        let got = share(&env, 400);
        assert!((least..=most).contains(&got), "{weight} %: {got} of 400");
        let generations = env.unit_status("app").generations;
        assert_eq!(generations[1].weight, Some(weight));
        assert_eq!(env.ctl(&["rollback", "app"]).code, 0);
        assert_eq!(env.finish_child(waiting).code, 3);
        assert_eq!(share(&env, 20), 0);
    }
}

#[test]
fn a_list_of_weights_divides_the_soak() {
    let reload = "SoakTime = \"900ms\"\nDrainTimeout = \"10s\"\nCanaryWeight = [1, 10, 50]";
    let env = App { reload, ..APP }.start();
    let mark = env.mark();
    env.reload_well();
    let events = env.events_since(mark);
    let weights: Vec<&str> = events.iter().filter(|e| e.kind == "weight").map(|e| e.text.as_str()).collect();
    let expected: Vec<String> =
        [1, 10, 50].iter().map(|w| format!("generation 2 gets {w} % of new connections")).collect();
    assert_eq!(weights, expected);
    let soaked = env.last_reload().phases.into_iter().find(|phase| phase.phase == "soaking").unwrap();
    assert!(soaked.seconds >= 0.9, "no step is left out: {soaked:?}");
}

#[test]
fn by_client_keeps_an_address_on_one_side() {
    let reload = format!("{LONG_SOAK}\nCanaryWeight = 50\nCanaryBy = \"client\"");
    let env = App { reload: &reload, ..APP }.start();
    env.reload_until(UnitState::Soaking);
    let first = share(&env, 1);
    assert_eq!(share(&env, 30), first * 30);
    // Other clients are drawn otherwise: of sixty addresses some are on each side.
    let port: u16 = env.address("app", 0).rsplit(':').next().unwrap().parse().unwrap();
    let mut new = 0;
    for host in 1..=60 {
        new += u32::from(from(&format!("127.0.1.{host}"), port).contains("\"generation\":2"));
    }
    assert!((5..=55).contains(&new), "{new} of 60");
    env.ctl(&["rollback", "app"]);
}

/// The answer to a request from this source address.
fn from(source: &str, port: u16) -> String {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
    let at = |text: String| SockaddrIn::from(text.parse::<std::net::SocketAddrV4>().unwrap());
    bind(fd.as_raw_fd(), &at(format!("{source}:0"))).unwrap();
    connect(fd.as_raw_fd(), &at(format!("127.0.0.1:{port}"))).unwrap();
    let mut stream = std::net::TcpStream::from(fd);
    stream.set_read_timeout(Some(common::WAIT)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_unix_path_can_be_steered_too() {
    let socket = "ListenStream = \"{dir}/app.sock\"\nSharing = \"steered\"";
    let env = App { socket, reload: LONG_SOAK, ..APP }.start();
    let waiting = env.ctl_start(&["reload", "app"]);
    env.wait_state("app", UnitState::Soaking);
    assert_eq!(env.answers(), 2, "the new generation has the path from the start of the soak");
    assert_eq!(env.ctl(&["rollback", "app"]).code, 0);
    assert_eq!(env.finish_child(waiting).code, 3);
    assert_eq!(env.answers(), 1);
    env.begin_reload();
    env.wait_state("app", UnitState::Soaking);
    assert_eq!(env.ctl(&["promote", "app"]).code, 0);
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.answers(), 3);
    process::kill(env.main_pid("app"), Signal::SIGTERM);
}
