//! `WatchPaths`: edit, build, run.

use crate::common;
use aeterna::proto::status::{Outcome, UnitState};
use common::Env;
use common::app::{APP, App};

const WATCH: &str = "Strategy = \"immediate\"\nWatchPaths = [\"{dir}/src\"]\nWatchDebounce = \"1s\"";

fn start(reload: &str) -> Env {
    let mut env = Env::new();
    std::fs::create_dir(env.path("src")).unwrap();
    App { reload, ..APP }.write(&env);
    env.start();
    env.wait_state("app", UnitState::Running);
    env
}

#[test]
fn a_change_reloads_once_it_has_settled() {
    let env = start(WATCH);
    let mark = env.mark();
    let mut file = std::fs::File::create(env.path("src/main.c")).unwrap();
    for _ in 0..20 {
        std::io::Write::write_all(&mut file, b"more\n").unwrap();
    }
    drop(file);
    let end = env.wait_reloaded("app", mark);
    assert_eq!(end.outcome, Some(Outcome::Promoted));
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.unit_status("app").generation, 2, "one reload for all of it");
    let history = env.ctl(&["history", "app", "--json"]).stdout;
    assert!(history.contains("main.c"), "the reason names the file: {history}");
    // In a folder that is made later, and by rename.
    let mark = env.mark();
    std::fs::create_dir(env.path("src/deep")).unwrap();
    env.wait_reloaded("app", mark);
    env.wait_state("app", UnitState::Running);
    let mark = env.mark();
    env.file("src/deep/other.c", "int x;");
    env.wait_reloaded("app", mark);
}

#[test]
fn a_relative_path_begins_in_the_working_directory() {
    let reload = "Strategy = \"immediate\"\nWatchPaths = \"./src\"\nWatchDebounce = \"50ms\"";
    for service in ["", "\nWorkingDirectory = \"{dir}\""] {
        let mut env = Env::new();
        std::fs::create_dir(env.path("src")).unwrap();
        App { reload, service: &format!("{}{service}", APP.service), ..APP }.write(&env);
        if service.is_empty() {
            let folder = env.dir().to_path_buf();
            env.working_directory(&folder);
        }
        env.start();
        env.wait_state("app", UnitState::Running);
        let mark = env.mark();
        env.file("src/main.c", "int x;");
        let end = env.wait_reloaded("app", mark);
        assert_eq!(end.outcome, Some(Outcome::Promoted), "{service}");
        let history = env.ctl(&["history", "app", "--json"]).stdout;
        assert!(history.contains("src/main.c"), "{history}");
    }
}

#[test]
fn what_editors_drop_is_ignored() {
    let env = start(WATCH);
    let mark = env.mark();
    for name in [".main.c.swp", "main.c~", "4913", "#main.c#", ".#main.c", ".main.c.swx"] {
        std::fs::write(env.path("src").join(name), "x").unwrap();
        std::fs::remove_file(env.path("src").join(name)).unwrap();
    }
    // A real change comes after them: whatever they had caused would come before its end.
    std::fs::write(env.path("marker"), "").unwrap();
    std::fs::write(env.path("src/real.c"), "x").unwrap();
    env.wait_reloaded("app", mark);
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.unit_status("app").generation, 2);
    let history = env.ctl(&["history", "app", "--json"]).stdout;
    assert!(history.contains("real.c"), "{history}");
}

#[test]
fn the_build_is_a_pre_flight_and_its_failure_changes_nothing() {
    let build =
        "PreFlight = [{ Name = \"build\", Exec = [\"/bin/sh\", \"-c\", \"grep -q good {dir}/src/main.c\"] }]";
    let env = start(&format!("{WATCH}\n{build}"));
    let mark = env.mark();
    env.file("src/main.c", "bad");
    assert_eq!(env.wait_reloaded("app", mark).outcome, Some(Outcome::Failed));
    assert_eq!(env.unit_status("app").generation, 1);
    let mark = env.mark();
    env.file("src/main.c", "good");
    assert_eq!(env.wait_reloaded("app", mark).outcome, Some(Outcome::Promoted));
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.answers(), 2);
}

#[test]
fn a_change_during_a_reload_is_remembered() {
    let env = start(WATCH);
    env.next_start("ready=order");
    env.reload_until(UnitState::Starting);
    env.order(2, "/");
    let mark = env.mark();
    env.file("src/main.c", "1");
    env.wait_log("main.c changed");
    env.next_start("");
    env.order(2, "/ready");
    env.wait("both ends", || {
        (env.events_since(mark).iter().filter(|e| e.outcome == Some(Outcome::Promoted)).count() == 2)
            .then_some(())
    });
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.answers(), 3);
}

#[test]
fn a_program_that_is_being_copied_is_not_started() {
    let env = Env::new();
    let mut env = env;
    let program = env.path("program");
    let whole = std::fs::read(common::example("probe")).unwrap();
    let mode =
        || std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // Not by us: a process that another test starts just then would inherit what we have open for writing, and what
    // somebody has open for writing cannot be executed.
    let mut copy = env.command("/bin/cp");
    copy.arg(common::example("probe")).arg(&program);
    assert_eq!(env.finish(copy).code, 0);
    env.unit(
        "app",
        "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{dir}/program\"\nType = \"notify\"\n\
         [Reload]\nStrategy = \"immediate\"\nWatchPaths = [\"{dir}/program\"]\nWatchDebounce = \"1s\"\n",
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    let mark = env.mark();
    std::fs::remove_file(&program).unwrap();
    let mut file = std::fs::File::create(&program).unwrap();
    mode();
    for piece in whole.chunks(whole.len() / 5 + 1) {
        std::io::Write::write_all(&mut file, piece).unwrap();
        // Longer pieces of the copy than the debounce time must not matter as long as the file is being written.
        let until = std::time::Instant::now() + std::time::Duration::from_millis(60);
        while std::time::Instant::now() < until {
            std::thread::yield_now();
        }
    }
    drop(file);
    assert_eq!(env.wait_reloaded("app", mark).outcome, Some(Outcome::Promoted), "{}", env.log());
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.unit_status("app").generation, 2);
}

#[test]
fn what_somebody_still_writes_is_waited_for_however_long_the_next_piece_takes() {
    let env = start(WATCH);
    let mark = env.mark();
    let mut file = std::fs::File::create(env.path("src/script")).unwrap();
    std::io::Write::write_all(&mut file, b"#!/bin/sh\n").unwrap();
    // Longer than WatchDebounce, and longer once more.
    let waits = |log: String| log.matches("still being written").count();
    env.wait("it waits", || (waits(env.log()) >= 2).then_some(()));
    assert!(env.events_since(mark).iter().all(|e| e.outcome.is_none()));
    assert_eq!(env.unit_status("app").generation, 1);
    std::io::Write::write_all(&mut file, b"exec app\n").unwrap();
    drop(file);
    assert_eq!(env.wait_reloaded("app", mark).outcome, Some(Outcome::Promoted));
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.unit_status("app").generation, 2, "one reload, when it was whole");
}

#[test]
fn a_reload_that_launches_nothing_counts_for_what_is_watched_too() {
    let mut env = Env::new();
    for folder in ["one", "two"] {
        std::fs::create_dir(env.path(folder)).unwrap();
    }
    let write = |env: &Env, service: &str, reload: &str, folder: &str| {
        let reload = format!("{reload}\nWatchPaths = [\"{{dir}}/{folder}\"]\nWatchDebounce = \"50ms\"");
        App { service, reload: &reload, ..APP }.write(env);
    };
    // A LISTENING one is only reread.
    let idle = "Type = \"notify\"\nStartOn = \"connection\"";
    write(&env, idle, "", "one");
    env.start();
    env.wait_state("app", UnitState::Listening);
    write(&env, idle, "", "two");
    env.reload_well();
    let changes = env.ctl(&["reload", "app", "--dry-run"]).stdout;
    assert!(changes.contains("no difference"), "{changes}");
    let mark = env.mark();
    env.file("two/x", "");
    assert_eq!(env.wait_reloaded("app", mark).outcome, Some(Outcome::Promoted));
    // By `signal`: the folder is another one, and what waits for a launch still does.
    let told = "Strategy = \"signal\"\nReloadSignal = \"SIGUSR1\"";
    env.next_start("handle=USR1");
    write(&env, "Type = \"notify\"", told, "two");
    assert_eq!(env.ctl(&["restart", "app"]).code, 0);
    env.ctl(&["start", "app"]);
    env.wait_state("app", UnitState::Running);
    write(&env, "Type = \"notify\"", told, "one");
    env.reload_well();
    let mark = env.mark();
    env.file("one/x", "");
    assert_eq!(env.wait_reloaded("app", mark).outcome, Some(Outcome::Promoted));
    assert_eq!(env.unit_status("app").state, UnitState::Running);
}

#[test]
fn a_release_that_is_switched_by_a_link_on_the_way_is_seen() {
    let mut env = Env::new();
    for release in ["r1", "r2"] {
        std::fs::create_dir_all(env.path(release).join("bin")).unwrap();
        std::fs::write(env.path(release).join("bin/chat"), "1").unwrap();
    }
    std::os::unix::fs::symlink("r1", env.path("current")).unwrap();
    let reload =
        "Strategy = \"immediate\"\nWatchPaths = \"{dir}/current/bin/chat\"\nWatchDebounce = \"100ms\"";
    App { reload, ..APP }.write(&env);
    env.start();
    env.wait_state("app", UnitState::Running);
    let mark = env.mark();
    std::os::unix::fs::symlink("r2", env.path("next")).unwrap();
    std::fs::rename(env.path("next"), env.path("current")).unwrap();
    assert_eq!(env.wait_reloaded("app", mark).outcome, Some(Outcome::Promoted));
    env.wait_state("app", UnitState::Running);
    let mark = env.mark();
    std::fs::write(env.path("r2/bin/chat"), "2").unwrap();
    assert_eq!(env.wait_reloaded("app", mark).outcome, Some(Outcome::Promoted));
}

#[test]
fn what_aeternad_makes_itself_in_a_watched_folder_is_no_change() {
    let mut env = Env::new();
    std::fs::create_dir(env.path("src")).unwrap();
    let socket =
        "ListenStream = \"{dir}/src/app.sock\"\nSharing = \"steered\"\nFileDescriptorName = \"http\"";
    let reload = WATCH.replace("1s", "100ms");
    App { socket, reload: &reload, ..APP }.write(&env);
    env.start();
    env.wait_state("app", UnitState::Running);
    for number in 1..=3 {
        let mark = env.mark();
        env.file(&format!("src/{number}.c"), "x");
        env.wait_reloaded("app", mark);
        env.wait_state("app", UnitState::Running);
        // Each reload moves the path's name; if that were a change, there would be more of them by now.
        assert_eq!(env.unit_status("app").generation, number + 1);
    }
    let history = env.ctl(&["history", "app", "--json"]).stdout;
    assert!(!history.contains("app.sock") && !history.contains(".aeterna"), "{history}");
}
