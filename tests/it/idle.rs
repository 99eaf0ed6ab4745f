//! Nothing to do means doing nothing, and nothing is left behind by doing something often.

use crate::common;
use aeterna::proto::status::UnitState;
use common::{Env, process};

/// Context switches of all threads of a process: each wake-up is at least one.
fn switches(pid: i32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .flatten()
        .map(|task| {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap();
            let numbers = status.lines().filter(|line| line.contains("ctxt_switches"));
            numbers.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum::<u64>()
        })
        .sum()
}

#[test]
fn nothing_wakes_an_idle_daemon() {
    let mut env = Env::new();
    env.arguments(&["--http", "127.0.0.1:0"]);
    let unit = |on: &str| {
        format!(
            "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{{probe}}\"\nType = \"notify\"\nStartOn = \"{on}\"\nRestart = \"always\""
        )
    };
    env.unit("boot", &unit("boot"));
    env.unit("lazy", &unit("connection"));
    env.unit(
        "instances",
        "[Socket]\nListenStream = \"{dir}/sock\"\nAccept = true\n[Service]\nExecStart = \"{probe}\"",
    );
    env.unit("ended", "[Service]\nExecStart = [\"/bin/sleep\", \"1000\"]\nInterceptBind = true\n[Reload]\nStrategy = \"immediate\"");
    env.start();
    env.wait_state("boot", UnitState::Running);
    env.wait_state("lazy", UnitState::Listening);
    // Nobody is under its filter any more.
    assert_eq!(env.ctl(&["stop", "ended"]).code, 0);
    let pid = env.pid();
    // The one thing in this project that is measured by the clock: that nothing happens. On a busy machine the
    // daemon may come late to what was there before, so one of three windows has to be still.
    let still = (0..3).any(|_| {
        let before = switches(pid);
        std::thread::sleep(std::time::Duration::from_secs(10));
        switches(pid) == before
    });
    assert!(still, "woken without a reason");
}

#[test]
fn a_hundred_restarts_leave_nothing_behind() {
    let mut env = Env::new();
    env.unit(
        "app",
        "[Socket]\nListenStream = [\"127.0.0.1:0\", \"{dir}/sock\"]\n[Service]\nExecStart = \"{probe} exit_after_ready_ms=1\"\nType = \"notify\"\n\
         Restart = \"always\"\nRestartSec = \"1ms\"\nStartLimitBurst = 0\nStandardOutput = \"log\"",
    );
    env.start();
    let generation = |number: u32| {
        env.wait_unit("app", "a later generation", |u| u.generation >= number);
    };
    generation(20);
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    let pid = env.pid();
    let before = env.wait("a quiet daemon", || {
        let count = process::descriptors(pid);
        (count == process::descriptors(pid)).then_some(count)
    });
    assert_eq!(env.ctl(&["start", "app"]).code, 0);
    for number in [45, 70, 95, 120] {
        generation(number);
    }
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    env.wait("as many descriptors as before", || (process::descriptors(pid) <= before).then_some(()));
    let name = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let children: Vec<String> = process::children(pid).iter().map(name).collect();
    assert_eq!(children, ["aeterna-keeper\n"]);
    let names: Vec<_> =
        std::fs::read_dir(env.runtime_dir()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(names.len(), 4, "control socket, lock, journal and keeper's socket: {names:?}");
}
