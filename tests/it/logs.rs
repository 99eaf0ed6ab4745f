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
