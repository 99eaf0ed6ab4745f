//! Steered UDP: who talks to a generation goes on talking to it.

use crate::common;
use aeterna::proto::status::UnitState;
use common::players::{Game, Players};
use common::{AETERNAD, Env, example, skip};
use std::collections::BTreeSet;
use std::net::UdpSocket;

/// Whether the tests' user may have the programs that steering takes; says so if not.
fn can_steer() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip("steering UDP takes CAP_BPF");
    }
    root
}

fn write(env: &Env, socket: &str, reload: &str) {
    let game = example("game").display().to_string();
    env.unit(
        "app",
        &format!(
            "[Socket]\nListenDatagram = \"127.0.0.1:0\"\nSharing = \"steered\"\n{socket}\n\
             [Service]\nExecStart = \"{game}\"\nType = \"notify\"\n[Reload]\n{reload}\n"
        ),
    );
}

fn start(socket: &str, reload: &str) -> Env {
    let mut env = Env::new();
    write(&env, socket, reload);
    env.start();
    env.wait_state("app", UnitState::Running);
    env
}

#[test]
fn players_stay_over_twenty_reloads_with_a_soak_and_every_datagram_is_answered() {
    if !can_steer() {
        return;
    }
    let env =
        start("FlowTimeoutSec = \"1s\"", "SoakTime = \"200ms\"\nCanaryWeight = 30\nDrainTimeout = \"60s\"");
    let players = Players::start(&env.address("app", 0), 4);
    for round in 2..=21 {
        players.wait_games(8);
        let done = env.ctl(&["reload", "app"]);
        assert_eq!(done.code, 0, "{done:?}");
        assert_eq!(env.unit_status("app").generation, round);
    }
    players.wait_games(8);
    let seen = players.finish();
    assert_eq!(seen.wrong, [""; 0], "of {} datagrams", seen.datagrams);
    assert!(seen.generations.len() >= 21, "{:?}", seen.generations);
    assert!(seen.over_a_switch > 0, "nobody has played over a switch: {seen:?}");
    println!(
        "{} datagrams in {} games, {} of them over a switch",
        seen.datagrams, seen.games, seen.over_a_switch
    );
    env.wait_unit("app", "the old ones are gone", |unit| unit.generations.len() == 1);
}

#[test]
fn an_old_generation_ends_when_its_last_flow_is_idle() {
    if !can_steer() {
        return;
    }
    let env = start("FlowTimeoutSec = \"1s\"", "Strategy = \"immediate\"\nDrainTimeout = \"600s\"");
    let address = env.address("app", 0);
    let mut old = Game::begin(&address);
    assert_eq!(old.play(), Ok(1));
    let done = env.ctl(&["reload", "app"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(Game::begin(&address).play(), Ok(2));
    // It has a flow that lives, and gets no signal before that is idle.
    env.wait_log("datagram flows are live on generation 1");
    for _ in 0..20 {
        assert_eq!(old.play(), Ok(1));
    }
    let status = env.wait_unit("app", "a flow each", |unit| {
        let flows: Vec<_> = unit.generations.iter().map(|g| (g.number, g.flows)).collect();
        flows == [(1, Some(1)), (2, Some(1))]
    });
    assert_eq!((status.sockets[0].sharing.as_str(), status.sockets[0].flows), ("steered", Some(2)));
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.unit_status("app").generations.len(), 1);
    assert_eq!(old.play(), Ok(2), "it is a new flow");
}

#[test]
fn drain_timeout_ends_a_generation_whose_flows_never_end() {
    if !can_steer() {
        return;
    }
    let env = start("FlowTimeoutSec = \"3600s\"", "Strategy = \"immediate\"\nDrainTimeout = \"1s\"");
    let mut old = Game::begin(&env.address("app", 0));
    assert_eq!(old.play(), Ok(1));
    let pid = env.main_pid("app");
    assert_eq!(env.ctl(&["reload", "app"]).code, 0);
    assert_eq!(old.play(), Ok(1));
    env.wait_gone(pid);
    env.wait_state("app", UnitState::Running);
    assert!(env.log().contains("gets its stop signal with 1 live datagram flows"), "{}", env.log());
    assert_eq!(old.play(), Ok(2));
}

#[test]
fn flows_of_a_canary_that_dies_or_is_rolled_back_go_to_the_one_that_serves() {
    if !can_steer() {
        return;
    }
    let env = start("", "SoakTime = \"infinity\"\nCanaryWeight = 50\nDrainTimeout = \"600s\"");
    let address = env.address("app", 0);
    for round in 0..2 {
        let mark = env.mark();
        env.begin_reload();
        env.wait_state("app", UnitState::Soaking);
        let mut games: Vec<Game> = (0..60).map(|_| Game::begin(&address)).collect();
        let first: Vec<u32> = games.iter_mut().map(|game| game.play().unwrap()).collect();
        let canary = 2 + round;
        let new = first.iter().filter(|generation| **generation == canary).count();
        assert!((10..50).contains(&new), "{new} of 60");
        let status = env.unit_status("app");
        let soaking = status.generations.iter().find(|g| g.phase == "soaking").unwrap();
        let share = soaking.share.unwrap();
        assert!((share - 100.0 * new as f64 / 60.0).abs() < 0.1, "{share} of {new}");
        // Each stays where it began.
        let second: Vec<u32> = games.iter_mut().map(|game| game.play().unwrap()).collect();
        assert_eq!(first, second);
        if round == 0 {
            let pid = env.unit_status("app").generations.last().unwrap().pids[0];
            common::process::kill(pid, nix::sys::signal::Signal::SIGKILL);
        } else {
            assert_eq!(env.ctl(&["rollback", "app"]).code, 0);
        }
        env.wait_reloaded("app", mark);
        env.wait_unit("app", "only the old one is left", |unit| unit.generations.len() == 1);
        assert!(games.iter_mut().all(|game| game.play() == Ok(1)));
    }
}

#[test]
fn an_upgrade_of_aeternad_in_a_drain_moves_nobody() {
    if !can_steer() {
        return;
    }
    let env = start("FlowTimeoutSec = \"2s\"", "Strategy = \"immediate\"\nDrainTimeout = \"600s\"");
    let address = env.address("app", 0);
    let mut games: Vec<Game> = (0..20).map(|_| Game::begin(&address)).collect();
    assert!(games.iter_mut().all(|game| game.play() == Ok(1)));
    assert_eq!(env.ctl(&["reload", "app"]).code, 0);
    let mut new: Vec<Game> = (0..20).map(|_| Game::begin(&address)).collect();
    assert!(new.iter_mut().all(|game| game.play() == Ok(2)));
    for _ in 0..3 {
        let mark = env.mark();
        assert_eq!(env.ctl(&["upgrade"]).code, 0);
        env.wait_event(mark, "the upgrade", |event| event.kind == "upgraded");
        assert!(games.iter_mut().all(|game| game.play() == Ok(1)));
        assert!(new.iter_mut().all(|game| game.play() == Ok(2)));
    }
    env.wait_unit("app", "as many flows", |unit| unit.sockets[0].flows == Some(40));
    // And a reload after it steers them on.
    assert_eq!(env.ctl(&["reload", "app"]).code, 0);
    assert_eq!(Game::begin(&address).play(), Ok(3));
    assert!(new.iter_mut().all(|game| game.play() == Ok(2)));
    env.wait_unit("app", "the old ones are gone", |unit| unit.generations.len() == 1);
}

#[test]
fn a_killed_aeternad_leaves_the_flows_where_they_are() {
    if !can_steer() {
        return;
    }
    let mut env = start("", "Strategy = \"immediate\"\nDrainTimeout = \"600s\"");
    env.allow_survivors();
    let address = env.address("app", 0);
    let mut old = Game::begin(&address);
    assert_eq!(old.play(), Ok(1));
    assert_eq!(env.ctl(&["reload", "app"]).code, 0);
    let pids: BTreeSet<i32> =
        env.unit_status("app").generations.iter().flat_map(|g| g.pids.iter().copied()).collect();
    assert_eq!(pids.len(), 2);
    common::process::kill(env.pid(), nix::sys::signal::Signal::SIGKILL);
    env.wait_exit();
    assert_eq!((old.play(), Game::begin(&address).play()), (Ok(1), Ok(2)));
    pids.into_iter().for_each(|pid| common::process::kill(pid, nix::sys::signal::Signal::SIGKILL));
}

#[test]
fn without_the_right_it_is_shared_and_says_what_is_missing() {
    if !can_steer() {
        return;
    }
    let mut env = Env::new();
    write(&env, "", "Strategy = \"immediate\"\nDrainTimeout = \"5s\"");
    let mut command = env.command("setpriv");
    command.args(["--bounding-set", "-bpf,-sys_admin", "--inh-caps", "-bpf,-sys_admin", AETERNAD]);
    let units = env.path("units").display().to_string();
    env.launch_by(command, &["--unit", &units]);
    env.wait_control();
    env.wait_state("app", UnitState::Running);
    let log = env.log();
    assert!(log.contains("is shared by all generations: steering UDP takes CAP_BPF"), "{log}");
    let status = env.unit_status("app");
    assert_eq!(status.sockets[0].sharing, "shared");
    assert!(status.sockets[0].why.contains("CAP_BPF"), "{}", status.sockets[0].why);
    let address = env.address("app", 0);
    assert_eq!(Game::begin(&address).play(), Ok(1));
    assert_eq!(env.ctl(&["reload", "app"]).code, 0);
    env.wait_unit("app", "the old one is gone", |unit| unit.generations.len() == 1);
    assert_eq!(Game::begin(&address).play(), Ok(2));
}

#[test]
fn both_families_reach_the_slot_of_their_flow() {
    if !can_steer() || UdpSocket::bind("[::1]:0").is_err() {
        return;
    }
    let mut env = Env::new();
    let game = example("game").display().to_string();
    env.unit(
        "app",
        &format!(
            "[Socket]\nListenDatagram = \"[::]:0\"\nBindIPv6Only = \"both\"\nSharing = \"steered\"\n\
             [Service]\nExecStart = \"{game}\"\nType = \"notify\"\n[Reload]\nStrategy = \"immediate\"\n"
        ),
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    let port = env.address("app", 0).rsplit(':').next().unwrap().to_owned();
    let mut games = [format!("127.0.0.1:{port}"), format!("[::1]:{port}")].map(|at| Game::begin(&at));
    assert!(games.iter_mut().all(|game| game.play() == Ok(1)));
    assert_eq!(env.ctl(&["reload", "app"]).code, 0);
    assert!(games.iter_mut().all(|game| game.play() == Ok(1)));
    assert_eq!(Game::begin(&format!("127.0.0.1:{port}")).play(), Ok(2));
    assert_eq!(Game::begin(&format!("[::1]:{port}")).play(), Ok(2));
}

/// A datagram as QUIC's with a short header, whose connection ID begins with this; who answers.
fn from_elsewhere(address: &str, first: u8) -> u32 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(common::WAIT)).unwrap();
    socket.send_to(&[0x43, first, 1, 2, 3, 4], address).unwrap();
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..length]).split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_client_whose_address_changes_is_found_by_its_tag() {
    if !can_steer() {
        return;
    }
    let env = start("FlowBy = \"tag\"", "Strategy = \"immediate\"\nDrainTimeout = \"600s\"");
    let address = env.address("app", 0);
    let tag = |pid: i32| {
        let variables = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        let text = String::from_utf8_lossy(&variables).into_owned();
        let tag = text.split('\0').find_map(|pair| pair.strip_prefix("AETERNA_FLOW_TAG=").map(str::to_owned));
        u8::from_str_radix(&tag.unwrap(), 16).unwrap()
    };
    let mut old = Game::begin(&address);
    assert_eq!(old.play(), Ok(1));
    let (first, pid) = (tag(env.main_pid("app")), env.main_pid("app"));
    assert_eq!(env.ctl(&["reload", "app"]).code, 0);
    let second = tag(env.main_pid("app"));
    assert_ne!(first, second);
    let unknown = (1..=255).find(|tag| ![first, second].contains(tag)).unwrap();
    let found = [first, second, unknown, 0].map(|tag| from_elsewhere(&address, tag));
    assert_eq!(found, [1, 2, 2, 2]);
    common::process::kill(pid, nix::sys::signal::Signal::SIGKILL);
    env.wait_state("app", UnitState::Running);
    assert_eq!((from_elsewhere(&address, first), old.play()), (2, Ok(2)));
}

#[test]
fn an_address_that_is_dropped_stays_with_the_generation_that_has_flows_there() {
    if !can_steer() {
        return;
    }
    let (first, second) = (common::port::free_port(), common::port::free_port());
    let game = example("game").display().to_string();
    let write = |env: &Env, port: u16| {
        env.unit(
            "app",
            &format!(
                "[Socket]\nListenDatagram = \"127.0.0.1:{port}\"\nSharing = \"steered\"\nFlowTimeoutSec = \"1s\"\n\
                 [Service]\nExecStart = \"{game}\"\nType = \"notify\"\n[Reload]\nStrategy = \"immediate\"\n\
                 DrainTimeout = \"600s\"\n"
            ),
        )
    };
    let mut env = Env::new();
    write(&env, first);
    env.start();
    env.wait_state("app", UnitState::Running);
    let at = |port: u16| format!("127.0.0.1:{port}");
    assert_eq!(env.ctl(&["reload", "app"]).code, 0);
    env.wait_unit("app", "the first one is gone", |unit| unit.generations.len() == 1);
    let mut old = Game::begin(&at(first));
    assert_eq!(old.play(), Ok(2));
    write(&env, second);
    assert_eq!(env.ctl(&["reload", "app"]).code, 0);
    // The third generation has the slot that the first one had, and not this address.
    assert_eq!((old.play(), Game::begin(&at(first)).play()), (Ok(2), Ok(2)));
    assert_eq!(Game::begin(&at(second)).play(), Ok(3));
    env.wait_unit("app", "the second one is gone", |unit| unit.generations.len() == 1);
}
