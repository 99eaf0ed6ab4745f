//! aeternad's log, and what services write through it.

use crate::common;
use aeterna::proto::status::UnitState;
use common::{Env, http, process};
use nix::sys::signal::Signal;
use serde_json::Value;

fn app(env: &mut Env, probe: &str, more: &str) {
    env.unit(
        "app",
        &format!(
            "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = [\"{{probe}}\", \"orders={{dir}}/orders\"{probe}]\nType = \"notify\"\nStandardOutput = \"log\"\nStandardError = \"log\"\n{more}"
        ),
    );
    env.start();
    env.wait_state("app", UnitState::Running);
}

#[test]
fn lines_of_a_service_come_with_unit_generation_and_pid() {
    let mut env = Env::new();
    app(&mut env, ", \"stdout=one\\\\ntwo\", \"stderr=three\"", "");
    let pid = env.main_pid("app");
    for line in ["one", "two", "three"] {
        let seen = env.wait_log(&format!("app.1[{pid}]: {line}"));
        assert!(seen.ends_with(line), "{seen}");
    }
    env.get("app", &format!("/stdout?{}", "y".repeat(20_000)));
    env.wait_log(&"y".repeat(8 * 1024));
    assert!(!env.log().contains(&"y".repeat(8 * 1024 + 1)), "a line is bounded");
    // Control characters do not reach a terminal.
    env.get("app", "/stdout?%1b[31mred");
    env.wait_log("[31mred");
    assert!(!env.log().contains('\u{1b}'));
}

#[test]
fn what_is_written_last_is_not_lost() {
    let mut env = Env::new();
    env.unit(
        "app",
        "[Service]\nExecStart = [\"{probe}\", \"stdout=last words\", \"exit=3\"]\nStandardOutput = \"log\"",
    );
    env.launch(&["--unit", &env.path("units").display().to_string()]);
    assert_eq!(process::code(env.wait_exit()), 3);
    env.wait_log(": last words");
}

#[test]
fn a_flood_blocks_nobody_else() {
    let mut env = Env::new();
    env.arguments(&["--log-level", "warn"]);
    env.unit("noisy", "[Service]\nExecStart = [\"/bin/sh\", \"-c\", \"while :; do echo noise; done\"]\nStandardOutput = \"log\"");
    app(&mut env, "", "");
    for _ in 0..20 {
        assert_eq!(env.get("app", "/").status, 200);
        assert_eq!(env.ctl(&["status"]).code, 0);
    }
    assert_eq!(env.ctl(&["stop", "noisy"]).code, 0);
}

#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    let mut env = Env::new();
    env.unit("noisy", "[Service]\nExecStart = [\"/bin/sh\", \"-c\", \"while :; do echo noise; done\"]\nStandardOutput = \"log\"");
    let unit = env.unit(
        "app",
        "[Service]\nExecStart = \"{probe}\"\nType = \"notify\"\nRestart = \"always\"\nRestartSec = \"10ms\"",
    );
    let (mut unread, stderr) = std::io::pipe().unwrap();
    let room = stderr.try_clone().unwrap();
    let mut command = env.command(common::AETERNAD);
    command.arg("--runtime-dir").arg(env.runtime_dir()).arg("--unit").arg(unit.parent().unwrap());
    command.stderr(stderr);
    env.adopt(command.spawn().unwrap());
    drop(command);
    env.wait_control();
    env.wait("a pipe without room", || {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(&room), PollFlags::POLLOUT)];
        (poll(&mut fds, PollTimeout::ZERO).unwrap() == 0).then_some(())
    });
    drop(room);
    // A restart is a matter of many lines, of which none finds room.
    for generation in 1..4 {
        env.wait_unit("app", "another", |u| u.generation == generation && u.state == UnitState::Running);
        process::kill(env.main_pid("app"), Signal::SIGKILL);
    }
    assert_eq!(env.ctl(&["stop", "noisy"]).code, 0);
    // Now somebody reads, and is told what is missing.
    let read = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let so_far = std::sync::Arc::clone(&read);
    let reader = std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = std::io::Read::read(&mut unread, &mut bytes) {
            so_far.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    });
    env.wait("the number of missing lines", || {
        env.signal(Signal::SIGUSR1);
        read.lock().unwrap().contains("lines were left out here: nobody read them").then_some(())
    });
    env.signal(Signal::SIGTERM);
    assert!(env.wait_exit().success());
    reader.join().unwrap();
    assert!(read.lock().unwrap().ends_with("aeternad has stopped\n"));
}

#[test]
fn a_log_pipe_outlives_its_process() {
    let mut env = Env::new();
    env.allow_survivors();
    app(&mut env, "", "KillMode = \"process\"");
    let orders = env.path("orders").display().to_string();
    // A grandchild with the same pipe; the service's end neither waits for it nor is kept open by it.
    let child: i32 = http::get(&orders, "/spawn?mode=setsid").unwrap().body.parse().unwrap();
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    assert!(process::exists(child));
    assert_eq!(env.ctl(&["start", "app"]).code, 0);
    env.get("app", "/stdout?again");
    env.wait_log("]: again");
    process::kill(child, Signal::SIGKILL);
}

#[test]
fn json_lines_are_json() {
    let mut env = Env::new();
    env.arguments(&["--log-format", "json"]);
    app(&mut env, ", \"stdout=a \\\"quoted\\\" line\"", "");
    env.wait_log("quoted");
    env.signal(Signal::SIGTERM);
    assert!(env.wait_exit().success());
    env.wait_log("aeternad has stopped");
    let log = env.log();
    let mut states = 0;
    for line in log.lines().filter(|line| !line.starts_with("(the event stream")) {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(object["level"].is_string() && object["message"].is_string(), "{line}");
        states += usize::from(object["message"].as_str().unwrap().contains("STARTING → RUNNING"));
    }
    assert_eq!(states, 1, "one line per change of state");
}

#[test]
fn the_level_is_taken_from_flag_environment_and_unit() {
    let quiet = |env: &mut Env, arguments: &[&str]| {
        let mut command = env.command(common::AETERNAD);
        command.arg("--runtime-dir").arg(env.runtime_dir()).args(arguments);
        command.arg("--unit").arg(env.path("units"));
        env.finish(command).stderr
    };
    let mut env = Env::new();
    env.unit("app", "[Service]\nExecStart = \"/bin/true\"\n[Daemon]\nLogLevel = \"error\"");
    assert_eq!(quiet(&mut env, &[]), "");
    assert!(quiet(&mut env, &["--log-level", "debug"]).contains("DEBUG"));
    env.variable("AETERNA_LOG", "debug");
    assert!(quiet(&mut env, &[]).contains("DEBUG"));
    assert!(!quiet(&mut env, &["--log-level", "warn"]).contains("DEBUG"), "flags win");
}

const LOG: &str = "StandardOutput = \"log\"\nStandardError = \"log\"\n";

fn texts(finished: &common::Finished) -> Vec<&str> {
    finished.stdout.lines().map(|line| line.split_once("]: ").map_or(line, |(_, text)| text)).collect()
}

#[test]
fn logs_shows_the_last_lines_of_a_unit_and_of_one_generation() {
    let mut env = Env::new();
    app(&mut env, ", \"stdout=one\\\\ntwo\", \"stderr=<3>three\"", "[Reload]\nSoakTime = 0");
    env.wait_log("]: three");
    env.get("app", "/stdout?%1b[31mred%09tab");
    env.wait_log("[31mred");
    let all = env.ctl(&["logs", "app"]);
    assert_eq!(all.code, 0, "{all:?}");
    let mut seen = texts(&all);
    assert_eq!(seen.pop(), Some("\\u{1b}[31mred\ttab"), "{all:?}");
    seen.sort_unstable();
    assert_eq!(seen, ["one", "three", "two"], "{all:?}");
    let pid = env.main_pid("app");
    let first = all.stdout.lines().next().unwrap();
    assert!(first.contains(&format!("Z app.1[{pid}]: ")) && first.starts_with("20"), "{first}");
    assert_eq!(texts(&env.ctl(&["logs", "app", "-n", "1"])).len(), 1);
    assert_eq!(env.ctl(&["reload", "app"]).code, 0);
    env.wait("its lines", || (texts(&env.ctl(&["logs", "app/2"])).len() == 3).then_some(()));
    assert_eq!(texts(&env.ctl(&["logs", "app", "--generation", "1"])).len(), 4);
    assert_eq!(texts(&env.ctl(&["logs", "app", "--since", "1h"])).len(), 7);
    let json = env.ctl(&["logs", "app", "--json"]);
    let objects: Vec<Value> = json.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let three = objects.iter().find(|object| object["text"] == "three").unwrap();
    assert_eq!(
        (&three["priority"], &three["error"], &three["unit"]),
        (&3.into(), &true.into(), &"app".into())
    );
    // The journal's priority is the level in our own log, and in the status the last lines stand too.
    assert!(env.wait_log("]: three").contains(" ERROR app.1["));
    let status = env.ctl(&["status", "app"]);
    assert!(status.stdout.contains("Last lines\n") && status.stdout.contains("]: three"), "{status:?}");
    // They outlast an upgrade; a unit that is not there, a generation that is none, and words are refused.
    assert_eq!(env.ctl(&["upgrade"]).code, 0);
    assert_eq!(texts(&env.ctl(&["logs", "app"])).len(), 7);
    assert_eq!(env.ctl(&["logs", "nobody"]).code, 6);
    for wrong in
        [&["logs", "app/x"][..], &["logs", "app/1", "--generation", "2"], &["logs", "app", "-n", "x"]]
    {
        assert_eq!(env.ctl(wrong).code, 2, "{wrong:?}");
    }
}

#[test]
fn logs_of_a_service_that_writes_elsewhere_says_where() {
    let mut env = Env::new();
    env.unit("app", "[Service]\nExecStart = \"{probe}\"\nType = \"notify\"\n");
    env.unit(
        "file",
        "[Service]\nExecStart = \"{probe}\"\nType = \"notify\"\nStandardOutput = \"append:{dir}/out\"",
    );
    env.start();
    env.wait_state("file", UnitState::Running);
    for (unit, words) in
        [("app", "goes where aeternad's own goes"), ("file", "/out. StandardOutput = \"log\"")]
    {
        let said = env.ctl(&["logs", unit]);
        assert!(said.code == 1 && said.stderr.contains(words), "{said:?}");
    }
}

#[test]
fn logs_follows_a_flood_and_a_reader_that_is_slow_or_gone_holds_nobody_up() {
    use std::io::{BufRead, BufReader};
    let mut env = Env::new();
    env.arguments(&["--log-level", "error"]);
    let noise = "while :; do echo noise noise noise noise noise noise noise noise; done";
    env.unit("noisy", &format!("[Service]\nExecStart = [\"/bin/sh\", \"-c\", \"{noise}\"]\n{LOG}"));
    app(&mut env, "", "");
    // Nobody reads this one: aeternactl waits in its write, and aeternad leaves lines out for it.
    let mut slow = env.ctl_start(&["logs", "-f", "noisy"]);
    let mut gone = env.ctl_start(&["logs", "-f", "noisy"]);
    let mut lines = BufReader::new(gone.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().ends_with("noise noise"));
    drop(lines);
    assert!(gone.wait().unwrap().success(), "a closed pipe is the end, and no failure");
    let mut first = BufReader::new(slow.stdout.take().unwrap());
    let mut line = String::new();
    first.read_line(&mut line).unwrap();
    for _ in 0..20 {
        assert_eq!(env.get("app", "/").status, 200);
        assert!(env.ctl(&["logs", "noisy", "-n", "3"]).stdout.lines().count() == 3);
    }
    // Read on until the place where lines are missing: it is said, with their number.
    while !line.contains("missing here: they came faster than they were read") {
        line.clear();
        assert!(first.read_line(&mut line).unwrap() > 0, "the stream has ended");
    }
    slow.kill().unwrap();
    slow.wait().unwrap();
    let kept = env.ctl(&["logs", "noisy"]);
    assert!(kept.stdout.lines().count() <= 1000, "{}", kept.stdout.len());
    assert_eq!(env.ctl(&["stop", "noisy"]).code, 0);
}

#[test]
fn a_line_without_an_end_and_no_text_are_kept_in_bounds() {
    let mut env = Env::new();
    let big = "head -c 1000000 /dev/zero | tr '\\\\0' x; echo; printf '\\\\377\\\\000\\\\033]0;evil\\\\007 end\\\\n'; sleep 1000";
    env.unit("big", &format!("[Service]\nExecStart = [\"/bin/sh\", \"-c\", \"{big}\"]\n{LOG}"));
    env.start();
    env.wait("the last line", || {
        env.ctl(&["logs", "big", "-n", "1"]).stdout.contains(" end\n").then_some(())
    });
    let last = env.ctl(&["logs", "big", "-n", "1"]);
    assert!(texts(&last)[0] == "\\xff\\u{0}\\u{1b}]0;evil\\u{7} end", "{last:?}");
    let all = env.ctl(&["logs", "big"]);
    assert!(all.stdout.len() < 140 * 1024 && all.stdout.len() > 100 * 1024, "{}", all.stdout.len());
}

#[test]
fn a_failure_shows_what_was_written() {
    let mut env = Env::new();
    env.unit("app", &format!("[Service]\nExecStart = \"{{probe}}\"\nType = \"notify\"\n{LOG}"));
    // aeternad ends with its only service.
    env.unit("other", "[Service]\nExecStart = \"{probe}\"\nType = \"notify\"\n");
    env.start();
    env.wait_state("app", UnitState::Running);
    // A start.
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    let bad = "[\"/bin/sh\", \"-c\", \"echo to output; echo no config >&2; exit 3\"]";
    env.unit("app", &format!("[Service]\nExecStart = {bad}\nType = \"notify\"\n{LOG}"));
    let started = env.ctl(&["start", "app"]);
    assert_eq!(started.code, 1);
    assert!(
        started.stderr.contains("  | no config") && started.stderr.contains("  | to output"),
        "{started:?}"
    );
    let json = env.ctl(&["start", "app", "--json"]);
    assert!(json.stdout.contains("\"last_lines\":["), "{json:?}");
    assert!(env.ctl(&["status", "app"]).stdout.contains("no config"));
    // A reload, and one that a check before it ends.
    let good = format!("[Service]\nExecStart = \"{{probe}}\"\nType = \"notify\"\n{LOG}");
    env.unit("app", &good);
    assert_eq!(env.ctl(&["start", "app"]).code, 0);
    env.unit("app", &format!("[Service]\nExecStart = {bad}\nType = \"notify\"\n{LOG}"));
    let reloaded = env.ctl(&["reload", "app"]);
    assert_eq!(reloaded.code, 3);
    assert!(
        reloaded.stdout.contains("  | no config") && reloaded.stdout.contains("  | to output"),
        "{reloaded:?}"
    );
    let check = "[[Reload.PreFlight]]\nExec = [\"/bin/sh\", \"-c\", \"echo the schema is old; exit 1\"]\n";
    env.unit("app", &format!("{good}{check}"));
    let checked = env.ctl(&["reload", "app"]);
    assert_eq!(checked.code, 1);
    assert!(checked.stdout.contains("  | the schema is old"), "{checked:?}");
}

#[test]
fn events_have_a_past() {
    let mut env = Env::new();
    app(&mut env, "", "[Reload]\nSoakTime = 0");
    let past = env.ctl(&["events", "--no-follow"]);
    assert!(past.code == 0 && past.stdout.contains("STARTING → RUNNING"), "{past:?}");
    assert_eq!(env.ctl(&["reload", "app"]).code, 0);
    let last = env.ctl(&["events", "app", "-n", "2", "--no-follow"]);
    assert_eq!(last.stdout.lines().count(), 2, "{last:?}");
    assert_eq!(env.ctl(&["upgrade"]).code, 0);
    let since = env.ctl(&["events", "--since", "1h", "--no-follow", "--json"]);
    assert!(since.stdout.contains("STARTING → RUNNING") && since.stdout.contains("upgraded"), "{since:?}");
    assert_eq!(env.ctl(&["events", "--since", "soon"]).code, 2);
    assert_eq!(env.ctl(&["events", "nobody", "-n", "1"]).code, 6);
}
