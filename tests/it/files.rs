//! Unit files that come, change and go while aeternad runs, and those that cannot be used.

use crate::common;
use aeterna::proto::status::UnitState;
use common::{Env, Finished, process};
use nix::sys::signal::Signal;
use std::net::TcpStream;

const UNIT: &str = "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{probe} body=@\"\nType = \
                    \"notify\"\nTimeoutStopSec = 5\n[Reload]\nSoakTime = 0\n";

fn unit(body: &str) -> String {
    UNIT.replace('@', body)
}

/// One unit, `a`, that runs.
fn one() -> Env {
    let mut env = Env::new();
    env.unit("a", &unit("first"));
    env.start();
    env.wait_state("a", UnitState::Running);
    env
}

fn remove(env: &Env, name: &str) {
    std::fs::remove_file(env.path(&format!("units/{name}.toml"))).unwrap();
}

fn names(env: &Env) -> Vec<String> {
    env.status().units.into_iter().map(|unit| unit.name).collect()
}

fn ended(said: Finished, code: i32, lines: &[&str]) {
    assert_eq!(said.code, code, "{said:?}");
    for line in lines {
        assert!(said.stdout.contains(line), "{line}: {said:?}");
    }
}

#[test]
fn load_takes_new_files_in_reloads_changed_ones_and_drops_what_is_gone() {
    let env = one();
    ended(env.ctl(&["load"]), 0, &["nothing has changed\n"]);
    let untouched = env.main_pid("a");
    env.unit("b", &unit("b"));
    ended(env.ctl(&["load", "--dry-run"]), 0, &["b: would be started ("]);
    assert_eq!(names(&env), ["a"]);
    ended(env.ctl(&["load"]), 0, &["b: started: its file is new\n"]);
    assert_eq!(env.get("b", "/").body, "b");
    assert_eq!(env.main_pid("a"), untouched, "a file that has not changed is not reloaded");
    let kept = env.main_pid("b");
    env.unit("a", &unit("second"));
    ended(env.ctl(&["load"]), 0, &["a: promoted"]);
    assert_eq!((env.get("a", "/").body.as_str(), env.main_pid("b")), ("second", kept));
    let address = env.address("a", 0);
    remove(&env, "a");
    ended(env.ctl(&["load", "--dry-run"]), 0, &["a: would be stopped and dropped: its file is gone"]);
    ended(env.ctl(&["load"]), 0, &["a: stopped and dropped: its file is gone\n"]);
    assert_eq!(names(&env), ["b"]);
    assert!(TcpStream::connect(address).is_err(), "its sockets are closed");
    assert_eq!(env.ctl(&["status", "a"]).code, 6);
    assert!(!env.runtime_dir().join("u0.1.notify").exists());
    // Its place is used again, and nothing of it is known any more.
    env.unit("c", &unit("c"));
    ended(env.ctl(&["load", "--json"]), 0, &["\"file\":\"added\""]);
    assert_eq!(env.get("c", "/").body, "c");
    assert_eq!(env.unit_status("c").generation, 1);
    process::kill(env.main_pid("c"), Signal::SIGKILL);
    env.wait_state("c", UnitState::Failed);
    assert_eq!((env.main_pid("b"), env.get("b", "/").body.as_str()), (kept, "b"));
}

#[test]
fn reload_all_and_sighup_do_the_same() {
    let env = one();
    let before = env.main_pid("a");
    env.unit("b", &unit("b"));
    ended(env.ctl(&["reload", "--all"]), 0, &["b: started: its file is new\n", "a: promoted"]);
    assert_ne!(env.main_pid("a"), before, "what has not changed is reloaded too");
    env.unit("c", &unit("c"));
    remove(&env, "b");
    let mark = env.mark();
    env.signal(Signal::SIGHUP);
    env.wait_event(mark, "the end of b", |event| event.unit == "b" && event.text.starts_with("dropped"));
    env.wait_reloaded("a", mark);
    env.wait("c", || env.status().units.into_iter().find(|u| u.name == "c" && u.state == UnitState::Running));
    assert_eq!(names(&env), ["a", "c"]);
}

#[test]
fn a_bad_file_is_its_own_failure_and_runs_once_it_is_mended() {
    let mut env = Env::new();
    env.unit("bad", "[Service]\nExecStrat = \"x\"\nRestart = \"sometimes\"\n");
    env.unit("good", &unit("good"));
    env.start();
    env.wait_state("good", UnitState::Running);
    let bad = env.unit_status("bad");
    assert_eq!(bad.state, UnitState::Failed);
    assert!(bad.why.contains("bad.toml:1:1: [Service] has no ExecStart"), "{bad:?}");
    for place in ["bad.toml:2:1: unknown key \"ExecStrat\" in [Service]; did you mean", "bad.toml:3:11:"] {
        assert!(bad.notes.iter().any(|note| note.contains(place)), "{bad:?}");
    }
    ended(env.ctl(&["is-failed", "bad"]), 0, &["failed\n"]);
    assert_eq!(env.ctl(&["is-active", "bad"]).code, 3);
    ended(env.ctl(&["is-ready"]), 3, &["bad is FAILED"]);
    ended(env.ctl(&["status", "bad"]), 3, &["FAILED", "bad.toml:2:1:", "bad.toml:3:11:"]);
    assert!(env.log().contains(" 2 | ExecStrat"), "the line itself is in the log: {}", env.log());
    // Whatever is tried: the answer is what is wrong with it.
    for command in ["start", "reload", "stop", "rollback", "history", "show"] {
        let said = env.ctl(&[command, "bad"]);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains("bad.toml:2:1:") && said.stderr.contains("^^^"), "{said:?}");
    }
    ended(
        env.ctl(&["load"]),
        1,
        &["bad: its file cannot be used:\n", "bad.toml:2:1:", "\n   2 | ExecStrat", "^^^^"],
    );
    env.unit("bad", &unit("mended"));
    ended(env.ctl(&["start", "bad"]), 0, &["done"]);
    assert_eq!(env.get("bad", "/").body, "mended");
    ended(env.ctl(&["is-ready"]), 0, &[]);
    // A running unit whose file has become bad goes on, and is not another one beside itself.
    env.unit("good", "[Servic]\n");
    ended(env.ctl(&["load"]), 1, &["good: failed", "good.toml:1:1:"]);
    assert_eq!((names(&env).len(), env.get("good", "/").body.as_str()), (2, "good"));
}

#[test]
fn what_two_files_both_want_the_first_one_has() {
    let mut env = Env::new();
    let port = common::port::free_port();
    let fixed = |body: &str| unit(body).replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    env.unit("a", &fixed("a"));
    env.unit("b", &fixed("b"));
    env.unit("c", &format!("[Unit]\nName = \"a\"\n{}", unit("c")));
    env.start();
    env.wait_state("a", UnitState::Running);
    let says = |name: &str, words: &str| {
        let unit = env.unit_status(name);
        assert!(unit.state == UnitState::Failed && unit.why.contains(words), "{unit:?}");
    };
    says("b", "the units \"a\" and \"b\" both listen on");
    says("c", "two units are called \"a\"");
    // Once its file is gone, the next one has what it had: when it has gone, not before.
    remove(&env, "a");
    remove(&env, "c");
    ended(env.ctl(&["load"]), 0, &["a: stopped and dropped", "b: started: its file is new"]);
    assert_eq!((names(&env), env.get("b", "/").body.as_str()), (vec!["b".to_owned()], "b"));
}

#[test]
fn a_renamed_file_is_the_same_unit_if_it_says_so() {
    let env = one();
    env.unit("a", &format!("[Unit]\nName = \"a\"\n{}", unit("first")));
    ended(env.ctl(&["load"]), 0, &["a: promoted"]);
    let before = env.main_pid("a");
    std::fs::rename(env.path("units/a.toml"), env.path("units/z.toml")).unwrap();
    ended(env.ctl(&["load"]), 0, &["nothing has changed"]);
    assert_eq!(env.main_pid("a"), before);
    assert!(env.unit_status("a").file.ends_with("z.toml"));
    ended(env.ctl(&["reload", "a"]), 0, &["a: promoted"]);
}

#[test]
fn what_cannot_be_read_stops_nothing() {
    let mut env = Env::new();
    let units = env.path("units").display().to_string();
    let single = env.file("single.toml", &env.fill(&unit("single"))).display().to_string();
    env.unit("a", &unit("a"));
    env.start_with(&["--unit", &units, &single]);
    env.wait_state("a", UnitState::Running);
    env.wait_state("single", UnitState::Running);
    let before = (env.main_pid("a"), env.main_pid("single"));
    let fails = |words: &str| {
        let said = env.ctl(&["load"]);
        assert!(said.code == 1 && said.stdout.contains(words), "{said:?}");
        assert_eq!((env.main_pid("a"), env.main_pid("single")), before);
    };
    // A link that leads nowhere.
    std::fs::remove_file(env.path("units/a.toml")).unwrap();
    std::os::unix::fs::symlink("nowhere", env.path("units/a.toml")).unwrap();
    fails("No such file or directory");
    // An empty folder may be a file system that is not mounted; a folder that is gone, too.
    std::fs::remove_file(env.path("units/a.toml")).unwrap();
    fails("no *.toml in this folder");
    std::fs::remove_dir(env.path("units")).unwrap();
    fails("No such file or directory");
    assert_eq!(env.ctl(&["is-ready"]).code, 3, "a folder that cannot be used is a failure");
    // A file that the command line names is not gone because nobody sees it.
    std::fs::remove_file(&single).unwrap();
    fails("single: failed");
    // A folder in a file's place, a FIFO and what is no text.
    env.unit("a", &unit("a"));
    env.file("single.toml", &env.fill(&unit("single")));
    ended(env.ctl(&["load"]), 0, &["nothing has changed"]);
    std::fs::create_dir(env.path("units/folder.toml")).unwrap();
    nix::unistd::mkfifo(&env.path("units/fifo.toml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::write(env.path("units/noise.toml"), [0xff, 0xfe, 0]).unwrap();
    fails("is not a regular file");
    fails("line 1 is not UTF-8");
    assert_eq!(env.ctl(&["is-ready"]).code, 3);
    for name in ["fifo.toml", "noise.toml"] {
        std::fs::remove_file(env.path("units").join(name)).unwrap();
    }
    std::fs::remove_dir(env.path("units/folder.toml")).unwrap();
    ended(env.ctl(&["load"]), 0, &["nothing has changed"]);
    assert_eq!(env.ctl(&["is-ready"]).code, 0, "what is gone is forgotten");
}

#[test]
fn a_unit_leaves_in_the_middle_of_its_reload() {
    let env = one();
    env.unit("b", &unit("b"));
    env.unit("a", &unit("next").replace("SoakTime = 0", "SoakTime = \"1min\""));
    let loading = env.ctl_start(&["load"]);
    env.wait_state("a", UnitState::Soaking);
    remove(&env, "a");
    ended(env.ctl(&["load"]), 0, &["a: stopped and dropped"]);
    let first = env.finish_child(loading);
    assert_eq!(first.code, 3, "its reload was ended by another command: {first:?}");
    assert_eq!(names(&env), ["b"]);
    assert!(env.ctl(&["start", "a"]).stderr.contains("no unit is called"));
}

#[test]
fn all_of_that_outlasts_an_upgrade() {
    let env = one();
    env.unit("bad", "[Servic]\n");
    env.unit("b", &unit("b"));
    assert_eq!(env.ctl(&["load"]).code, 1);
    remove(&env, "a");
    assert_eq!(env.ctl(&["load"]).code, 1);
    let before = env.main_pid("b");
    let upgraded = env.ctl(&["upgrade"]);
    assert_eq!(upgraded.code, 0, "{upgraded:?}");
    assert_eq!(names(&env), ["b", "bad"]);
    assert!(env.unit_status("bad").why.contains("bad.toml:1:1:"));
    env.unit("bad", &unit("mended"));
    env.unit("a", &unit("again"));
    ended(env.ctl(&["load"]), 0, &["a: started", "bad: started"]);
    assert_eq!((env.get("a", "/").body.as_str(), env.main_pid("b")), ("again", before));
}

#[test]
fn a_hundred_files_come_and_go_at_once() {
    let env = one();
    let idle = "[Socket]\nListenStream = \"{dir}/@.sock\"\n[Service]\nExecStart = \"{probe}\"\nStartOn = \"connection\"\n";
    for number in 0..100 {
        env.unit(&format!("n{number}"), &idle.replace('@', &number.to_string()));
    }
    ended(env.ctl(&["load"]), 0, &["n0: started", "n99: started"]);
    assert_eq!(env.status().units.len(), 101);
    for number in 0..100 {
        remove(&env, &format!("n{number}"));
    }
    ended(env.ctl(&["load"]), 0, &["n0: stopped", "n99: stopped"]);
    assert_eq!(names(&env), ["a"]);
    assert!(!env.path("7.sock").exists());
    // The same places again: nothing grows.
    for number in 0..100 {
        env.unit(&format!("m{number}"), &idle.replace('@', &number.to_string()));
    }
    ended(env.ctl(&["load"]), 0, &["m0: started", "m99: started"]);
    assert_eq!(env.status().units.len(), 101);
}

#[test]
fn a_file_that_was_named_from_a_folder_that_is_gone_is_read_again() {
    let mut env = Env::new();
    env.file("app.toml", &env.fill(&unit("first")));
    let folder = env.path("work/deep");
    std::fs::create_dir_all(&folder).unwrap();
    env.working_directory(&folder);
    env.start_with(&["--unit", "./../../app.toml"]);
    env.wait_state("app", UnitState::Running);
    env.working_directory(&std::env::temp_dir());
    std::fs::remove_dir_all(env.path("work")).unwrap();
    env.file("app.toml", &env.fill(&unit("second")));
    ended(env.ctl(&["reload", "app"]), 0, &[]);
    assert_eq!(env.get("app", "/").body, "second");
}
