//! A good unit beside hostile ones that use every door at once: it answers everybody, aeternad answers its user, and
//! neither descriptors nor memory grow. `AETERNA_NEIGHBOURS_SECS=300` plays it for minutes, and then measures in earnest.

use crate::common::load::{Load, Manner};
use crate::common::{Env, process};
use aeterna::proto::status::UnitState;
use std::time::{Duration, Instant};

/// How long `status` may take beside a flood: a person's patience on a machine that tests keep busy; and what is promised
/// on one that has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(5);
const PROMISED: Duration = Duration::from_millis(100);

/// What hostile units may come to have, at one moment or another: 32 connections about state, 64 learned addresses with their
/// slots, and what is on its way. A descriptor that is lost with each message would be thousands.
const DESCRIPTORS: usize = 300;
const MEMORY_KB: u64 = 24 * 1024;

/// What one round has seen.
struct Round {
    slowest: Duration,
    descriptors: usize,
    memory: u64,
}

/// The good unit under load, and ten questions for the status meanwhile.
fn round(env: &Env, good: &str) -> Round {
    let load = Load::start(good, 2, Manner::Fresh);
    let mut slowest = Duration::ZERO;
    let (mut descriptors, mut memory) = (usize::MAX, u64::MAX);
    for _ in 0..10 {
        let begin = Instant::now();
        let status = env.unit_status("good");
        slowest = slowest.max(begin.elapsed());
        assert_eq!(status.state, UnitState::Running);
        load.wait_answers(4);
        // The least of some looks: what is only on its way does not count.
        descriptors = descriptors.min(process::descriptors(env.pid()));
        memory = memory.min(process::status_number(env.pid(), "VmRSS").unwrap());
    }
    let counts = load.finish();
    assert!(counts.failed.is_empty(), "the good unit was not there for everybody: {:?}", counts.failed);
    Round { slowest, descriptors, memory }
}

fn hostile(env: &Env, name: &str, modes: &str, more: &str) {
    let user = if nix::unistd::geteuid().is_root() { "User = \"nobody\"\n" } else { "" };
    env.unit(
        name,
        &format!(
            "[Service]\nExecStart = \"{{hostile}} {modes}\"\nType = \"notify\"\nNotifyAccess = \"all\"\n{user}\
             FileDescriptorStoreMax = 8\nStandardOutput = \"log\"\nEnvironment = {{ HOSTILE_CONTROL = \"{{dir}}/run/control.sock\" }}\n{more}"
        ),
    );
}

#[test]
fn a_hostile_unit_costs_its_neighbours_nothing() {
    let seconds = std::env::var("AETERNA_NEIGHBOURS_SECS").ok().and_then(|text| text.parse().ok());
    let mut env = Env::new();
    env.unit(
        "good",
        "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{probe}\"\nType = \"notify\"\n",
    );
    // What a service writes is not kept by the test for minutes.
    env.arguments(&["--log-level", if seconds.is_some() { "warn" } else { "info" }]);
    env.start();
    env.wait_state("good", UnitState::Running);
    let good = env.address("good", 0);
    let quiet = round(&env, &good);
    drop(env);

    let mut env = Env::new();
    env.unit(
        "good",
        "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{probe}\"\nType = \"notify\"\n",
    );
    hostile(&env, "talker", "notify store lines", "");
    hostile(&env, "forker", "forks srp control", "[State]\nEnabled = true\n");
    hostile(&env, "binder", "binds notify", "InterceptBind = true\n");
    env.arguments(&["--log-level", if seconds.is_some() { "warn" } else { "info" }]);
    env.start();
    for unit in ["good", "talker", "forker", "binder"] {
        env.wait_state(unit, UnitState::Running);
    }
    let good = env.address("good", 0);
    // They get what they are given, and aeternad's own memory its usual size.
    let warm: Vec<Round> = (0..3).map(|_| round(&env, &good)).collect();
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
    let mut rounds = Vec::new();
    while rounds.len() < 6 || Instant::now() < until {
        rounds.push(round(&env, &good));
    }
    let slowest = rounds.iter().map(|round| round.slowest).max().unwrap();
    let allowed =
        if seconds.is_some() { PROMISED.max(quiet.slowest * 4) } else { PATIENCE.max(quiet.slowest * 20) };
    assert!(slowest < allowed, "status took {slowest:?} beside a flood, {:?} before it", quiet.slowest);
    let before = warm.iter().map(|round| (round.descriptors, round.memory));
    let before = before.reduce(|a, b| (a.0.max(b.0), a.1.max(b.1))).unwrap();
    let last = &rounds[rounds.len() - 3..];
    let after = last.iter().map(|round| (round.descriptors, round.memory));
    let after = after.reduce(|a, b| (a.0.min(b.0), a.1.min(b.1))).unwrap();
    println!("status {slowest:?} (quiet {:?}), descriptors {before:?} → {after:?} (and kB)", quiet.slowest);
    assert!(after.0 <= before.0 + DESCRIPTORS, "descriptors grow: {} → {}", before.0, after.0);
    assert!(after.1 <= before.1 + MEMORY_KB, "memory grows: {} → {} kB", before.1, after.1);
    for unit in ["good", "talker", "forker", "binder"] {
        assert_eq!(env.unit_status(unit).state, UnitState::Running, "{unit}");
    }
    // What they said is in the log, in few lines, and as what it is.
    let log = env.log();
    assert!(!log.contains(['\u{1b}', '\u{202e}']), "a service has written to the terminal");
    for nonsense in
        ["a notify message that is", "breaks the state protocol", "were not stored", "MAINPID=1 is"]
    {
        let lines = log.lines().filter(|line| line.contains(nonsense)).count();
        let windows = 2 + usize::try_from(seconds.unwrap_or(60) / 10).unwrap();
        assert!(lines <= 20 * windows, "{nonsense}: {lines} lines");
    }
    for unit in ["talker", "forker", "binder"] {
        assert_eq!(env.ctl(&["stop", unit]).code, 0, "{unit}");
    }
}
