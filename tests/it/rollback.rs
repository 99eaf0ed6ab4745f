//! The failure list: whatever is wrong with a new generation, the old one serves on and nobody loses anything.

use crate::common;
use aeterna::proto::status::{Outcome, UnitState};
use common::app::{APP, App, LONG_SOAK};
use common::load::{Load, Manner};
use common::{Env, Finished, process};
use nix::sys::signal::Signal;

/// A reload that must fail with this exit status and these words, while clients ask without a pause: every
/// request is answered, the old generation is the same process with its memory.
fn fails(env: &Env, code: i32, words: &[&str]) -> Finished {
    fails_but_for(0, env, code, words, || ())
}

/// As [`fails`], of one that dies while it serves, of what happens `meanwhile`: this many requests may have been in its
/// hands.
fn fails_but_for(lost: usize, env: &Env, code: i32, words: &[&str], meanwhile: impl FnOnce()) -> Finished {
    let before = env.unit_status("app");
    let load = Load::start(&env.address("app", 0), 2, Manner::Fresh);
    load.wait_answers(50);
    let waiting = env.ctl_start(&["reload", "app"]);
    meanwhile();
    let done = env.finish_child(waiting);
    load.wait_answers(50);
    let counts = load.finish();
    assert!(counts.failed.len() <= lost, "{:?}", counts.failed);
    assert_eq!(done.code, code, "{done:?}");
    for word in words {
        assert!(done.stdout.contains(word), "{word:?} is missing: {done:?}");
    }
    // A rescue of what the failed one left in its queue may take a moment longer.
    let after =
        env.wait_unit("app", "one generation", |u| u.state == UnitState::Running && u.generations.len() == 1);
    assert_eq!((after.generation, &after.main_pids), (before.generation, &before.main_pids));
    let outcome = if code == 3 { Outcome::RolledBack } else { Outcome::Failed };
    assert_eq!(env.last_reload().outcome, outcome);
    env.wait_log(&format!("reload {}", outcome.name()));
    done
}

#[test]
fn it_crashes_before_it_is_ready() {
    let env = APP.start();
    env.next_start("exit=7");
    fails(&env, 3, &["rolled back", "exited with status 7", "before it was ready"]);
    env.next_start("signal=SEGV");
    fails(&env, 3, &["SIGSEGV"]);
}

#[test]
fn it_crashes_after_it_is_ready_in_the_soak() {
    let env = App { reload: LONG_SOAK, ..APP }.start();
    // On order, and not by its own clock: what serves the rest of its queue has the same settings, and stays.
    fails_but_for(2, &env, 3, &["SOAKING", "exited with status 9", "soak"], || {
        env.wait_state("app", UnitState::Soaking);
        env.order(2, "/exit?code=9");
    });
    env.next_start("exit_after_accepts=20;exit_signal=ABRT");
    let before = env.main_pid("app");
    // Crashing with a connection in its hands loses that one: what was only queued is served.
    let load = Load::start(&env.address("app", 0), 2, Manner::Fresh);
    let done = env.reload();
    assert_eq!(done.code, 3, "{done:?}");
    load.wait_answers(50);
    let counts = load.finish();
    assert!(counts.failed.len() <= 2, "only what it had accepted is lost: {:?}", counts.failed);
    assert_eq!(env.main_pid("app"), before);
}

#[test]
fn a_clean_exit_in_the_soak_is_a_failure_too() {
    let env = App { reload: LONG_SOAK, service: "Type = \"notify\"\nRestart = \"always\"", ..APP }.start();
    fails_but_for(2, &env, 3, &["exited with status 0"], || {
        env.wait_state("app", UnitState::Soaking);
        env.order(2, "/exit?code=0");
    });
}

#[test]
fn it_is_never_ready() {
    let env = APP.start();
    App { service: "Type = \"notify\"\nTimeoutStartSec = \"2s\"", ..APP }.write(&env);
    env.next_start("ready=never");
    fails(&env, 3, &["ready", "TimeoutStartSec"]);
    env.next_start("ready=never;term=ignore");
    let reload = "SoakTime = 0\nDrainTimeout = \"500ms\"";
    App { service: "Type = \"notify\"\nTimeoutStartSec = \"2s\"", reload, ..APP }.write(&env);
    fails(&env, 3, &["ready"]);
}

#[test]
fn it_is_not_there_not_executable_or_half_copied() {
    let mut env = Env::new();
    let probe = common::example("probe");
    // By a process of its own: one that another test starts just then would inherit a file that we write, and nobody
    // can execute what somebody has open for writing.
    let put = |env: &Env, length: u64, mode: &str| {
        let mut command = env.command("/bin/sh");
        let script = "head -c $1 \"$3\" > fresh && chmod $2 fresh && mv -f fresh program";
        command.args(["-c", script, "put", &length.to_string(), mode]).arg(&probe);
        let done = env.finish(command);
        assert_eq!(done.code, 0, "{done:?}");
    };
    let whole = probe.metadata().unwrap().len();
    put(&env, whole, "755");
    let unit = "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{dir}/program\"\nType = \"notify\"\n[Reload]\nSoakTime = 0\n";
    env.unit("app", unit);
    env.start();
    env.wait_state("app", UnitState::Running);
    put(&env, whole, "644");
    fails(&env, 1, &["program", "ermission"]);
    put(&env, 100, "755");
    let done = env.reload();
    assert!([1, 3].contains(&done.code), "{done:?}");
    put(&env, 20_000, "755");
    let done = env.reload();
    assert!([1, 3].contains(&done.code), "{done:?}");
    put(&env, 0, "755");
    let done = env.reload();
    assert!([1, 3].contains(&done.code), "{done:?}");
    std::fs::remove_file(env.path("program")).unwrap();
    fails(&env, 1, &["program", "No such file"]);
    assert_eq!(env.answers(), 1);
    put(&env, whole, "755");
    assert_eq!(env.reload().code, 0);
}

#[test]
fn pre_flight_fails_or_hangs() {
    let pre_flight = |command: &str, more: &str| {
        format!(
            "SoakTime = 0\nPreFlight = [{{ Name = \"look\", Exec = [\"/bin/sh\", \"-c\", \"{command}\"]{more} }}]"
        )
    };
    let env = APP.start();
    App { reload: &pre_flight("exit 5", ""), ..APP }.write(&env);
    fails(&env, 1, &["pre-flight \"look\" exited with status 5"]);
    App { reload: &pre_flight("sleep 1000 & sleep 1000", ", Timeout = \"300ms\""), ..APP }.write(&env);
    fails(&env, 1, &["did not end within 300ms"]);
    env.wait("nothing of the pre-flight is left", || {
        env.processes().iter().all(|seen| !seen.command.contains("sleep 1000")).then_some(())
    });
    App { reload: &pre_flight("exit 5", ", BlockOnFail = false"), ..APP }.write(&env);
    assert_eq!(env.reload().code, 0, "BlockOnFail=false");
    env.wait_log("BlockOnFail=false");
}

#[test]
fn the_last_lines_of_the_failed_generation_are_in_the_answer() {
    let env = App { service: "Type = \"notify\"\nStandardError = \"log\"", ..APP }.start();
    env.next_start("stderr=no database\\nwhere is it?;exit=4");
    let done = env.reload();
    assert_eq!(done.code, 3);
    assert!(done.stdout.contains("| no database") && done.stdout.contains("| where is it?"), "{done:?}");
    let history = env.ctl(&["history", "app", "--json"]);
    assert!(history.stdout.contains("where is it?"), "{history:?}");
    // Inherited, nobody has read it: the answer says where it went.
    App { service: "Type = \"notify\"", ..APP }.write(&env);
    let done = env.reload();
    assert_eq!(done.code, 3);
    assert!(!done.stdout.contains("| no database"));
    assert!(done.stdout.contains("StandardError"), "where to look is said: {done:?}");
}

#[test]
fn the_old_one_dies_in_the_soak_and_the_new_one_takes_over_at_once() {
    let env = App { reload: LONG_SOAK, ..APP }.start();
    let waiting = env.ctl_start(&["reload", "app"]);
    env.wait_state("app", UnitState::Soaking);
    let old = env.main_pid("app");
    process::kill(old, Signal::SIGKILL);
    let done = env.finish_child(waiting);
    assert_eq!(done.code, 0, "{done:?}");
    env.wait_state("app", UnitState::Running);
    for _ in 0..10 {
        assert_eq!(env.answers(), 2);
    }
}

#[test]
fn the_old_one_dies_while_the_new_one_starts() {
    let env = App { service: "Type = \"notify\"\nRestart = \"always\"", ..APP }.start();
    env.next_start("ready=order");
    let waiting = env.ctl_start(&["reload", "app"]);
    env.wait_state("app", UnitState::Starting);
    env.order(2, "/");
    process::kill(env.main_pid("app"), Signal::SIGKILL);
    env.wait_unit("app", "the old one is gone", |u| u.generations.len() == 1);
    env.order(2, "/ready");
    assert_eq!(env.finish_child(waiting).code, 0);
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.answers(), 2);
    assert_eq!(env.unit_status("app").restarts, 0);
}

#[test]
fn the_old_one_dies_in_pre_flight_and_is_restarted() {
    let reload = "SoakTime = 0\nPreFlight = [{ Name = \"gate\", Exec = [\"/bin/sh\", \"-c\", \"read x < {dir}/gate\"] }]";
    let env =
        App { reload, service: "Type = \"notify\"\nRestart = \"always\"\nRestartSec = 0", ..APP }.start();
    nix::unistd::mkfifo(&env.path("gate"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let old = env.main_pid("app");
    let waiting = env.ctl_start(&["reload", "app"]);
    env.wait_state("app", UnitState::PreChecking);
    process::kill(old, Signal::SIGKILL);
    let done = env.finish_child(waiting);
    assert_eq!(done.code, 1, "nothing was launched: {done:?}");
    let status = env.wait_unit("app", "restarted", |u| u.state == UnitState::Running && u.main_pids != [old]);
    assert_eq!(status.restarts, 1);
    env.get("app", "/");
}

#[test]
fn both_die_and_what_was_promoted_last_is_restarted() {
    let env =
        App { reload: LONG_SOAK, service: "Type = \"notify\"\nRestart = \"always\"\nRestartSec = 0", ..APP }
            .start();
    App {
        reload: LONG_SOAK,
        service: "Type = \"notify\"\nRestart = \"always\"\nRestartSec = 0\nUMask = \"0077\"",
        ..APP
    }
    .write(&env);
    env.next_start("ready=order");
    let waiting = env.ctl_start(&["reload", "app"]);
    env.wait_state("app", UnitState::Starting);
    env.order(2, "/");
    let status = env.unit_status("app");
    let pids: Vec<i32> = status.generations.iter().flat_map(|g| g.pids.clone()).collect();
    assert_eq!(pids.len(), 2);
    env.next_start("");
    for pid in pids {
        process::kill(pid, Signal::SIGKILL);
    }
    assert_eq!(env.finish_child(waiting).code, 3);
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.json("app", "/report")["umask"], "0022", "the content that was promoted last");
}

#[test]
fn a_crash_is_noticed_and_reported_at_once() {
    let env = App { reload: LONG_SOAK, ..APP }.start();
    let soon = std::time::Duration::from_millis(60);
    let mut times = Vec::new();
    // The best of ten, or of more on a machine that is busy with other tests: there is a client's start in it.
    while times.len() < 10 || (times.len() < 60 && times.iter().all(|time| *time >= soon)) {
        let waiting = env.ctl_start(&["reload", "app"]);
        let number = 2 + times.len() as u32;
        env.wait_unit("app", "the soak", |u| {
            u.state == UnitState::Soaking && u.generations.iter().any(|g| g.number == number)
        });
        let new = env.unit_status("app").generations.iter().find(|g| g.number == number).unwrap().pids[0];
        let began = std::time::Instant::now();
        process::kill(new, Signal::SIGKILL);
        let code = process::code(waiting.wait_with_output().unwrap().status);
        times.push(began.elapsed());
        assert_eq!(code, 3);
        env.wait_state("app", UnitState::Running);
    }
    assert!(times.iter().any(|time| *time < soon), "{times:?}");
}

#[test]
fn what_a_crashed_generation_left_in_its_queue_is_served() {
    use common::http::Client;
    let reload = "SoakTime = \"infinity\"\nCanaryWeight = 100\nDrainTimeout = \"10s\"";
    let env = App { reload, ..APP }.start();
    env.next_start("no_accept");
    let waiting = env.ctl_start(&["reload", "app"]);
    env.wait_state("app", UnitState::Soaking);
    let address = env.address("app", 0);
    let mut queued: Vec<Client> = (0..50)
        .map(|_| {
            let mut client = Client::connect(&address).unwrap();
            client.send("/", "Connection: close\r\n").unwrap();
            client
        })
        .collect();
    env.wait_unit("app", "50 in the queue", |u| u.sockets[0].queue == Some(50));
    let new = env.unit_status("app").generations.iter().find(|g| g.number == 2).unwrap().pids[0];
    env.next_start("");
    process::kill(new, Signal::SIGKILL);
    for client in &mut queued {
        assert_eq!(client.receive().unwrap().status, 200);
    }
    assert_eq!(env.finish_child(waiting).code, 3);
    let status = env.wait_unit("app", "the rescue is over", |u| u.generations.len() == 1);
    assert_eq!(status.generation, 1);
}
