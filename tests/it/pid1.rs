//! aeternad as PID 1 of a namespace, and as a subreaper elsewhere.

use crate::common;
use aeterna::proto::status::UnitState;
use common::{Env, process};
use nix::sys::signal::Signal;
use std::process::Command;

/// `unshare` into a pid namespace of its own; without root by way of a user namespace. `None` where neither is allowed.
fn namespace(env: &Env) -> Option<Command> {
    let flags: &[&[&str]] = &[
        &["-fp", "--mount-proc", "--kill-child"],
        &["-Ufp", "--map-root-user", "--mount-proc", "--kill-child"],
    ];
    for flags in flags {
        let mut trial = env.command("unshare");
        trial.args(*flags).arg("true");
        if env.finish(trial).code == 0 {
            let mut command = env.command("unshare");
            command.args(*flags).arg(common::AETERNAD);
            return Some(command);
        }
    }
    common::skip("no pid namespace can be made here");
    None
}

/// The pid, as we see it, of the namespace's PID 1: `unshare`'s only child.
fn init(env: &Env) -> i32 {
    let unshare = env.pid();
    env.wait("the namespace's PID 1", || process::children(unshare).first().copied())
}

#[test]
fn it_ends_with_the_services_status() {
    for (does, code) in [("exit=0", 0), ("exit=42", 42), ("signal=KILL", 137)] {
        let mut env = Env::new();
        let unit = env.unit("app", &format!("[Service]\nExecStart = \"{{probe}} {does}\""));
        let Some(command) = namespace(&env) else { return };
        env.launch_by(command, &["--unit", &unit.display().to_string()]);
        assert_eq!(process::code(env.wait_exit()), code, "{does}: {}", env.log());
    }
}

#[test]
fn it_reaps_orphans_and_obeys_sigterm() {
    let mut env = Env::new();
    let unit = env.unit(
        "app",
        "[Socket]\nListenStream = \"{dir}/sock\"\n[Service]\nExecStart = \"{probe}\"\nType = \"notify\"",
    );
    let Some(command) = namespace(&env) else { return };
    env.launch_by(command, &["--unit", &unit.display().to_string()]);
    env.wait_control();
    env.wait_state("app", UnitState::Running);
    let init = init(&env);
    let main = env.wait("the service", || match process::children(init)[..] {
        [main] => Some(main),
        _ => None,
    });
    // Orphans, which end: their parent is PID 1, and none stays a zombie.
    for _ in 0..5 {
        env.get("app", "/spawn?mode=double");
    }
    let orphans = env.wait("five orphans", || {
        let orphans: Vec<i32> = process::children(init);
        (orphans.len() == 6).then_some(orphans)
    });
    assert_eq!(env.unit_status("app").main_pids.len(), 1);
    for orphan in orphans.iter().filter(|pid| **pid != main) {
        process::kill(*orphan, Signal::SIGKILL);
    }
    env.wait("no zombie", || (process::children(init) == [main]).then_some(()));
    process::kill(init, Signal::SIGTERM);
    assert!(env.wait_exit().success(), "{}", env.log());
}

#[test]
fn an_inline_command_is_a_containers_init() {
    let mut env = Env::new();
    let Some(mut command) = namespace(&env) else { return };
    command.args(["--listen", "127.0.0.1:0"]);
    env.launch_by(
        command,
        &["--", "/bin/sh", "-c", "test $LISTEN_FDS = 1 && test $LISTEN_PID = $$ && exit 5"],
    );
    assert_eq!(process::code(env.wait_exit()), 5, "{}", env.log());
}

#[test]
fn elsewhere_it_is_a_subreaper() {
    let mut env = Env::new();
    env.unit(
        "app",
        "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{probe}\"\nType = \"notify\"",
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    let orphan: i32 = env.get("app", "/spawn?mode=double").body.parse().unwrap();
    env.wait("its new parent", || (process::state(orphan)?.1 == env.pid()).then_some(()));
    process::kill(orphan, Signal::SIGKILL);
    env.wait_gone(orphan);
    assert_eq!(env.unit_status("app").state, UnitState::Running);
}
