//! The control socket and `aeternactl` against a real daemon, friendly and hostile.

use crate::common;
use aeterna::proto::control::Line;
use aeterna::proto::status::UnitState;
use common::{Env, control, process};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};

const APP: &str = "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{probe} handle=USR1\"\nType = \"notify\"\n";

fn app() -> Env {
    let mut env = Env::new();
    env.unit("app", APP);
    env.start();
    env.wait_state("app", UnitState::Running);
    env
}

#[test]
fn start_stop_restart_and_their_exit_statuses() {
    let env = app();
    let address = env.address("app", 0);
    let first = env.main_pid("app");
    assert_eq!(env.ctl(&["start", "app"]).code, 0, "it runs already");
    assert_eq!(env.main_pid("app"), first);
    let stopped = env.ctl(&["stop", "app", "--json"]);
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    let answer: Value = serde_json::from_str(stopped.stdout.lines().last().unwrap()).unwrap();
    assert!(answer.is_object());
    assert_eq!(env.unit_status("app").state, UnitState::Stopped);
    assert!(!process::exists(first));
    // The socket is held, and traffic starts nothing.
    let waiting = std::net::TcpStream::connect(&address).unwrap();
    assert_eq!(env.unit_status("app").state, UnitState::Stopped);
    assert_eq!(env.ctl(&["start", "app"]).code, 0);
    let mut client = BufReader::new(waiting);
    client.get_mut().write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let second = env.main_pid("app");
    assert_eq!(env.ctl(&["restart", "app"]).code, 0);
    assert_ne!(env.main_pid("app"), second);
    // Closed: nobody listens there any more.
    assert_eq!(env.ctl(&["stop", "app", "--close"]).code, 0);
    assert!(std::net::TcpStream::connect(&address).is_err());
    assert_eq!(env.ctl(&["start", "app"]).code, 0);
    assert_eq!(env.get("app", "/").status, 200);
}

#[test]
fn start_and_restart_reread_the_file_and_say_what_is_wrong_with_it() {
    let env = app();
    env.unit("app", &APP.replace("handle=USR1", "body=new"));
    assert_eq!(env.ctl(&["restart", "app"]).code, 0);
    assert_eq!(env.get("app", "/").body, "new");
    env.unit("app", "[Service]\nExecStrat = \"x\"");
    let refused = env.ctl(&["restart", "app"]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("ExecStart"), "{}", refused.stderr);
    assert_eq!(env.get("app", "/").body, "new", "the old one serves on");
}

#[test]
fn a_start_that_fails_says_why() {
    let mut env = Env::new();
    env.unit("app", "[Service]\nExecStart = \"{dir}/missing\"");
    env.unit("other", APP);
    env.start();
    env.wait_state("app", UnitState::Failed);
    let started = env.ctl(&["start", "app"]);
    assert_eq!(started.code, 1);
    assert!(started.stderr.contains("No such file or directory"), "{}{}", started.stdout, started.stderr);
}

#[test]
fn whether_a_unit_runs_is_told_by_the_exit_status() {
    let mut env = Env::new();
    env.unit("app", APP);
    env.unit("bad", "[Service]\nExecStart = \"{dir}/missing\"");
    env.start();
    env.wait_state("app", UnitState::Running);
    env.wait_state("bad", UnitState::Failed);
    let told = |line: &[&str]| {
        let ended = env.ctl(line);
        (ended.code, ended.stdout.trim_end().to_owned())
    };
    assert_eq!(told(&["is-active", "app"]), (0, "active".into()));
    assert_eq!(told(&["is-failed", "bad"]), (0, "failed".into()));
    assert_eq!(told(&["is-ready"]), (3, "not ready: bad is FAILED".into()));
    assert_eq!(told(&["is-active", "nobody"]).0, 4);
    assert_eq!((told(&["status", "app"]).0, told(&["status", "bad"]).0), (0, 3));
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    assert_eq!(told(&["is-active", "app"]), (3, "inactive".into()));
}

#[test]
fn unknown_units_wrong_lines_and_no_daemon() {
    let env = app();
    for command in [
        "start", "stop", "restart", "reload", "status", "history", "kill", "promote", "rollback", "show",
        "cat",
    ] {
        let ended = env.ctl(&[command, "nobody"]);
        assert_eq!(ended.code, 6, "{command}: {}{}", ended.stdout, ended.stderr);
        assert!(ended.stderr.contains("no unit is called \"nobody\""), "{command}: {}", ended.stderr);
    }
    for line in [&["frobnicate"][..], &["stop"], &["kill", "app", "-s", "NOSUCH"], &["status", "--nope"]] {
        assert_eq!(env.ctl(line).code, 2, "{line:?}");
    }
    let nobody = Env::new();
    let ended = nobody.ctl(&["status"]);
    assert_eq!(ended.code, 5, "{}", ended.stderr);
    assert!(ended.stderr.contains("run"), "{}", ended.stderr);
    let missing = env.ctl(&["upgrade", "--program", "/nowhere"]);
    assert_eq!(missing.code, 1);
    assert_eq!(missing.stdout, "aeternad 0.1.0 goes on: /nowhere: No such file or directory\n");
}

#[test]
fn show_prints_what_serves_and_cat_what_lies_there() {
    let env = app();
    let shown = env.ctl(&["show", "app"]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    assert!(shown.stdout.contains("SoakTime = ") && shown.stdout.contains("handle=USR1"), "{}", shown.stdout);
    // What is printed is the same unit again.
    let path = env.file("app.toml", &shown.stdout).display().to_string();
    let again = env.daemon(&["--show", "--unit", &path]);
    assert_eq!((again.code, again.stdout.as_str()), (0, shown.stdout.as_str()), "{}", again.stderr);
    // A file that has not been read yet changes what `cat` prints, and nothing else.
    let file = env.unit("app", &APP.replace("handle=USR1", "body=new"));
    assert_eq!(env.ctl(&["show", "app"]).stdout, shown.stdout);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("body=new"));
    let printed = env.ctl(&["cat", "app"]);
    assert_eq!((printed.code, printed.stdout), (0, format!("# {}\n{text}", file.display())));
    let object: Value = serde_json::from_str(&env.ctl(&["cat", "app", "--json"]).stdout).unwrap();
    assert_eq!(object["text"], text);
    std::fs::remove_file(&file).unwrap();
    let gone = env.ctl(&["cat", "app"]);
    assert_eq!(gone.code, 1);
    assert!(gone.stderr.contains("cannot read") && gone.stderr.contains("app.toml"), "{}", gone.stderr);
}

#[test]
fn kill_reaches_the_main_processes() {
    let env = app();
    assert_eq!(env.ctl(&["kill", "app", "-s", "USR1"]).code, 0);
    env.wait("the signal", || (env.json("app", "/report")["signals"]["SIGUSR1"] == 1).then_some(()));
    assert_ne!(env.ctl(&["kill", "app", "-s", "USR1", "--generation", "7"]).code, 0);
    let pid = env.main_pid("app");
    assert_eq!(env.ctl(&["kill", "app", "-s", "9"]).code, 0);
    env.wait_gone(pid);
}

#[test]
fn status_and_version_for_people_and_programs() {
    let env = app();
    let shown = env.ctl(&["status"]);
    assert_eq!(shown.code, 0);
    assert!(shown.stdout.contains("app") && shown.stdout.contains("RUNNING"), "{}", shown.stdout);
    assert!(!shown.stdout.contains('\u{1b}'), "no colour in a pipe");
    let json: Value = serde_json::from_str(&env.ctl(&["status", "--json"]).stdout).unwrap();
    assert_eq!(json["pid"], env.pid());
    assert_eq!(json["units"][0]["name"], "app");
    assert_eq!(json["units"][0]["state"], "RUNNING");
    assert_eq!(json["units"][0]["main_pids"][0], env.main_pid("app"));
    assert_eq!(json["units"][0]["generations"][0]["number"], 1);
    assert_eq!(json["units"][0]["sockets"][0]["sharing"], "steered");
    assert_eq!(json["fsm_state"], "RUNNING");
    assert_eq!(json["current_pid"], env.main_pid("app"));
    let json: Value = serde_json::from_str(&env.ctl(&["status", "app", "--json"]).stdout).unwrap();
    assert_eq!(json["units"].as_array().unwrap().len(), 1);
    assert!(env.ctl(&["version"]).stdout.contains(env!("CARGO_PKG_VERSION")));
    for words in [
        &["help"][..],
        &["--help"],
        &["completions", "bash"],
        &["completions", "zsh"],
        &["completions", "fish"],
    ] {
        let ended = env.ctl(words);
        assert_eq!(ended.code, 0, "{words:?}");
        assert!(ended.stdout.contains("aeternactl"), "{words:?}");
    }
    let control = env.runtime_dir().join("control.sock").display().to_string();
    let mut by_path = env.command(common::AETERNACTL);
    by_path.args(["--control", &control, "status"]);
    assert_eq!(env.finish(by_path).code, 0);
    let mut by_variable = env.command(common::AETERNACTL);
    by_variable.arg("status").env("AETERNA_RUNTIME_DIR", env.runtime_dir());
    assert_eq!(env.finish(by_variable).code, 0);
}

#[test]
fn events_are_followed_as_they_happen() {
    let mut env = Env::new();
    // Without a limit: nobody knows how many restarts it takes until the follower is there.
    env.unit("app", &format!("{APP}StartLimitBurst = 0"));
    env.start();
    env.wait_state("app", UnitState::Running);
    let mut follower = env.ctl_start(&["events", "app", "--json"]);
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    // The subscription is in place once an event comes through: restart until one does.
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| lines.next().unwrap().unwrap());
        while !reader.is_finished() {
            env.ctl(&["restart", "app"]);
        }
        reader.join().unwrap()
    });
    let event: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!(event["unit"], "app", "{event}");
    assert!(event["kind"].is_string() && event["time"].as_f64().unwrap() > 1e9);
    process::kill(follower.id() as i32, Signal::SIGTERM);
    follower.wait().unwrap();
}

#[test]
fn nonsense_is_answered_or_cut_off_and_harms_nobody() {
    let env = app();
    let socket = env.runtime_dir().join("control.sock");
    for line in [
        "",
        "{}",
        "nonsense",
        "[]",
        "{\"command\":\"frobnicate\"}",
        "{\"command\":\"kill\",\"unit\":\"app\",\"signal\":999}",
    ] {
        match control::raw(&socket, line) {
            Ok(Line::Error(_)) => {}
            Ok(other) => panic!("{line:?} was answered with {other:?}"),
            Err(error) => assert_eq!(line, "", "{error}"),
        }
    }
    // Bytes that are no text, and a line that never ends.
    let mut stream = control::connect(&socket).unwrap();
    stream.write_all(b"\xff\xfe\0\n").unwrap();
    let mut answer = String::new();
    let _ = BufReader::new(&stream).read_line(&mut answer);
    assert!(answer.is_empty() || answer.contains("error"), "{answer}");
    let mut stream = control::connect(&socket).unwrap();
    let chunk = vec![b'x'; 64 * 1024];
    let cut = (0..1024).find(|_| stream.write_all(&chunk).is_err());
    assert!(cut.is_some(), "64 MiB without a newline were swallowed");
    assert_eq!(env.ctl(&["status"]).code, 0);
}

#[test]
fn slow_and_many_clients_do_not_keep_others_waiting() {
    let env = app();
    let socket = env.runtime_dir().join("control.sock");
    // Somebody asks and never reads, somebody sends half a request, a hundred do nothing.
    let mut greedy = control::connect(&socket).unwrap();
    greedy.set_nonblocking(true).unwrap();
    for _ in 0..5000 {
        if greedy.write_all(b"{\"command\":\"status\"}\n").is_err() {
            break;
        }
    }
    let mut half = control::connect(&socket).unwrap();
    half.write_all(b"{\"command\":").unwrap();
    let mut idle = Vec::new();
    for _ in 0..100 {
        if let Ok(stream) = control::connect(&socket) {
            idle.push(stream);
        }
    }
    assert_eq!(env.get("app", "/").status, 200);
    assert_eq!(env.ctl(&["status"]).code, 0, "whoever is silent makes room");
    assert_eq!(env.ctl(&["restart", "app"]).code, 0);
}

#[test]
fn who_hangs_up_before_the_answer_is_let_go_at_once() {
    let mut env = Env::new();
    env.unit("app", &format!("{}TimeoutStopSec = \"1h\"", APP.replace("handle=USR1", "term=ignore")));
    env.start();
    env.wait_state("app", UnitState::Running);
    let before = process::descriptors(env.pid());
    for _ in 0..3 {
        let mut waiting = env.ctl_start(&["stop", "app"]);
        env.wait_state("app", UnitState::Stopping);
        waiting.kill().unwrap();
        waiting.wait().unwrap();
    }
    // As long as the stop takes, a closed connection would keep the daemon awake. One of our own may be there.
    env.wait("closed connections", || (process::descriptors(env.pid()) <= before + 1).then_some(()));
    assert_eq!(env.unit_status("app").state, UnitState::Stopping);
}

#[test]
fn without_a_descriptor_for_it_a_client_waits_and_the_daemon_is_quiet() {
    let env = app();
    let limit = |most: &str| {
        let mut command = env.command("prlimit");
        command.arg("--pid").arg(env.pid().to_string()).arg(format!("--nofile={most}:"));
        assert_eq!(env.finish(command).code, 0);
    };
    let before = process::status_number(env.pid(), "voluntary_ctxt_switches").unwrap();
    limit("3");
    let asking = env.ctl_start(&["status"]);
    let tries = || env.log().matches("cannot accept a control client").count();
    env.wait("three tries", || (tries() >= 3).then_some(()));
    limit("1000");
    let ended = env.finish_child(asking);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let after = process::status_number(env.pid(), "voluntary_ctxt_switches").unwrap();
    assert!(tries() < 20 && after - before < 200, "{} tries, {} switches", tries(), after - before);
    assert_eq!(env.get("app", "/").status, 200);
}

#[test]
fn another_user_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        return common::skip("only root can become another user");
    }
    let env = app();
    let socket = env.runtime_dir().join("control.sock");
    // As if the mode had not kept it out.
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let mut command = env.command(common::AETERNACTL);
    command.arg("--control").arg(&socket).arg("status");
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    let ended = env.finish(command);
    assert_ne!(ended.code, 0, "{}", ended.stdout);
    env.wait_log("a control client was refused");
}
