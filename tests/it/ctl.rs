//! The real `aeternactl` against a control socket that the test serves itself: no daemon is needed.
//!
//! The test is the daemon: it accepts, reads the request, and answers what it likes. Whatever would wait for
//! ever ends after [`LIMIT`] and fails.

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// A runtime dir with a control socket.
struct Canned {
    dir: tempfile::TempDir,
    accepted: Receiver<UnixStream>,
}

impl Canned {
    fn new() -> Canned {
        let dir = tempfile::tempdir().unwrap();
        let accepted = listen(&dir.path().join("control.sock"));
        Canned { dir, accepted }
    }

    /// Starts aeternactl with this runtime dir.
    fn run(&self, arguments: &str) -> Ctl {
        Ctl::start(arguments, |command| {
            command.env("AETERNA_RUNTIME_DIR", self.dir.path());
        })
    }

    /// The next connection.
    fn accept(&self) -> Peer {
        let stream = self.accepted.recv_timeout(LIMIT).expect("aeternactl connects");
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Peer { reader: BufReader::new(stream) }
    }

    /// Runs aeternactl, expects this request, answers these lines, and hangs up.
    fn exchange(&self, arguments: &str, request: Value, answer: &[Value]) -> Ended {
        let ctl = self.run(arguments);
        let mut peer = self.accept();
        assert_eq!(peer.request(), request, "{arguments}");
        for line in answer {
            peer.send(line);
        }
        drop(peer);
        ctl.end()
    }
}

/// A listener whose connections come out of a channel, so that a test can wait for one with a limit.
fn listen(path: &Path) -> Receiver<UnixStream> {
    let listener = UnixListener::bind(path).unwrap();
    let (tx, rx) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if tx.send(stream.unwrap()).is_err() {
                break;
            }
        }
    });
    rx
}

/// The daemon's end of a connection.
struct Peer {
    reader: BufReader<UnixStream>,
}

impl Peer {
    fn request(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "a whole line, not {line:?}");
        serde_json::from_str(&line).unwrap()
    }

    fn send(&mut self, line: &Value) {
        self.raw(format!("{line}\n").as_bytes());
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).unwrap();
    }
}

/// A running aeternactl; killed if the test fails or [`LIMIT`] passes.
struct Ctl {
    child: Child,
    _over: Sender<()>,
}

struct Ended {
    status: i32,
    out: String,
    err: String,
}

impl Ctl {
    fn start(arguments: &str, prepare: impl FnOnce(&mut Command)) -> Ctl {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aeternactl"));
        command.args(arguments.split_whitespace()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_remove("AETERNA_RUNTIME_DIR");
        prepare(&mut command);
        Ctl::new(command.spawn().unwrap())
    }

    fn new(child: Child) -> Ctl {
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let (over, rx) = channel::<()>();
        std::thread::spawn(move || {
            if rx.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        Ctl { child, _over: over }
    }

    /// The next line of standard output.
    fn line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        let out = self.child.stdout.as_mut().unwrap();
        while byte[0] != b'\n' && out.read(&mut byte).unwrap() == 1 {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }

    fn end(mut self) -> Ended {
        let (mut out, mut err) = (String::new(), String::new());
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout.read_to_string(&mut out).unwrap();
        }
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        let status = self.child.wait().unwrap();
        Ended { status: status.code().expect("not ended by a signal"), out, err }
    }
}

impl Drop for Ctl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    #[track_caller]
    fn is(&self, status: i32) -> &Ended {
        assert_eq!(self.status, status, "out: {}\nerr: {}", self.out, self.err);
        self
    }

    #[track_caller]
    fn says(&self, part: &str) -> &Ended {
        assert!(self.err.contains(part), "{part:?} is not in {:?}", self.err);
        self
    }

    fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "one object on one line: {}", self.out);
        serde_json::from_str(&self.out).unwrap()
    }
}

fn unit(name: &str) -> Value {
    json!({
        "name": name, "state": "RUNNING", "since": 125.0, "generation": 3, "main_pids": [4711],
        "generations": [{"number": 3, "phase": "serving", "pids": [4711], "weight": null, "age": 125.0,
                         "ready": true, "content": "0123456789abcdef"}],
        "sockets": [{"name": "http", "address": "0.0.0.0:80", "kind": "stream", "sharing": "steered",
                     "why": "TCP", "queue": 0, "limit": 4096}],
        "last_reload": null, "restarts": 0
    })
}

fn status(units: &[Value]) -> Value {
    json!({"result": {"type": "status", "version": "9.9", "pid": 12, "units": units}})
}

fn done(note: &str) -> Value {
    json!({"result": {"type": "done", "note": note}})
}

fn state(time: f64, state: &str, lasted: f64) -> Value {
    json!({"event": {"time": time, "unit": "chat", "kind": "state", "text": "changed", "state": state,
                     "lasted": lasted}})
}

fn outcome(outcome: &str, reason: &str) -> Value {
    json!({"result": {"type": "reloads", "reloads": [{"unit": "chat", "outcome": outcome, "reason": reason}]}})
}

fn reload_request() -> Value {
    json!({"command": "reload", "units": ["chat"], "all": false, "wait": true, "force": false, "reason": ""})
}

#[test]
fn status_is_a_table_and_json_is_what_the_daemon_says() {
    let canned = Canned::new();
    let request = json!({"command": "status", "unit": null});
    let table = canned.exchange("status", request.clone(), &[status(&[unit("chat"), unit("web")])]);
    table.is(0);
    assert!(table.out.starts_with("aeternad 9.9, pid 12, 2 units\n\nUNIT "), "{}", table.out);
    assert!(table.out.contains("chat  RUNNING  2min 5s    3  4711"), "{}", table.out);
    assert!(!table.out.contains('\x1b'), "a pipe gets no colour");

    let object = canned.exchange("status --json", request, &[status(&[unit("chat")])]).is(0).json();
    assert_eq!(object["units"][0]["name"], "chat");
    assert_eq!(object["pid"], 12);
    assert!(object.get("type").is_none());
}

#[test]
fn status_of_a_unit_shows_all_of_it() {
    let canned = Canned::new();
    let request = json!({"command": "status", "unit": "chat"});
    let shown = canned.exchange("status chat", request.clone(), &[status(&[unit("chat")])]);
    shown.is(0);
    for part in ["chat\n", "State       RUNNING for 2min 5s", "Generations\n", "steered (TCP)"] {
        assert!(shown.out.contains(part), "{part}: {}", shown.out);
    }
    canned.exchange("status chat", request, &[status(&[])]).is(6).says("no unit \"chat\"");
}

fn in_state(state: &str, reloading: bool) -> Value {
    let mut unit = unit("chat");
    unit["state"] = state.into();
    unit["reloading"] = reloading.into();
    unit
}

#[test]
fn a_unit_that_does_not_run_is_3_as_systemctl_says_it() {
    let canned = Canned::new();
    let request = json!({"command": "status", "unit": "chat"});
    for (state, reloading, word, code) in [
        ("RUNNING", false, "active", 0),
        ("LISTENING", false, "active", 0),
        ("DRAINING", false, "active", 0),
        ("SOAKING", true, "reloading", 0),
        ("STARTING", true, "reloading", 0),
        ("STARTING", false, "activating", 3),
        ("BACKOFF", false, "activating", 3),
        ("STOPPED", false, "inactive", 3),
        ("FAILED", false, "failed", 3),
    ] {
        let answer = [status(&[in_state(state, reloading)])];
        let ask = |line: &str| canned.exchange(line, request.clone(), &answer);
        ask("status chat").is(code);
        assert_eq!(ask("is-active chat").is(code).out, format!("{word}\n"), "{state}");
        assert_eq!(ask("is-active -q chat").is(code).out, "");
        let failed = if word == "failed" { 0 } else { 3 };
        assert_eq!(ask("is-failed chat").is(failed).out, format!("{word}\n"), "{state}");
        let object = ask("is-active chat --json").is(code).json();
        assert_eq!((object["active"].as_str(), object["state"].as_str()), (Some(word), Some(state)));
    }
    let missing = json!({"error": {"code": "no_such_unit", "message": "no unit is called \"chat\""}});
    for command in ["is-active", "is-failed"] {
        let ask = |line: &str| canned.exchange(line, request.clone(), std::slice::from_ref(&missing));
        ask(&format!("{command} chat")).is(4).says("no unit is called");
        let silent = ask(&format!("{command} chat --quiet"));
        assert_eq!((silent.status, silent.out.as_str(), silent.err.as_str()), (4, "", ""));
        assert_eq!(ask(&format!("{command} chat --json")).is(4).json()["error"]["code"], "no_such_unit");
    }
}

#[test]
fn is_ready_says_what_is_missing() {
    let canned = Canned::new();
    let request = json!({"command": "status", "unit": null});
    let ask = |line: &str, answer: Value| canned.exchange(line, request.clone(), &[answer]);
    assert_eq!(ask("is-ready", status(&[unit("web"), in_state("SOAKING", true)])).is(0).out, "ready\n");
    let failed = status(&[unit("web"), in_state("FAILED", false)]);
    assert_eq!(ask("is-ready", failed.clone()).is(3).out, "not ready: chat is FAILED\n");
    assert_eq!(ask("is-ready -q", failed.clone()).is(3).out, "");
    assert_eq!(ask("is-ready --json", failed).is(3).json(), json!({"ready": false, "why": "chat is FAILED"}));
    let mut stopping = status(&[unit("web")]);
    stopping["result"]["stopping"] = true.into();
    assert_eq!(ask("is-ready", stopping).is(3).out, "not ready: aeternad is stopping\n");
}

#[test]
fn a_reload_prints_each_phase_and_its_outcome() {
    let canned = Canned::new();
    let answer = [
        state(100.0, "PRE_CHECKING", 86_400.0),
        state(100.25, "STARTING", 0.25),
        state(100.5, "SOAKING", 0.25),
        state(130.5, "DRAINING", 30.0),
        outcome("promoted", ""),
    ];
    let ended = canned.exchange("reload chat", reload_request(), &answer);
    ended.is(0);
    assert_eq!(
        ended.out,
        "chat: PRE_CHECKING\n\
         chat: STARTING  (PRE_CHECKING took 250ms)\n\
         chat: SOAKING  (STARTING took 250ms)\n\
         chat: DRAINING  (SOAKING took 30.0s)\n\
         chat: promoted after 30.5s\n"
    );
    let object = canned.exchange("reload chat --json", reload_request(), &answer).is(0).json();
    assert_eq!(object["reloads"][0]["outcome"], "promoted");
}

#[test]
fn the_exit_status_of_a_reload_is_its_outcome() {
    let canned = Canned::new();
    for (word, code) in [("failed", 1), ("rolled_back", 3), ("aborted", 3), ("refused", 4)] {
        let ended = canned.exchange("reload chat", reload_request(), &[outcome(word, "because")]);
        ended.is(code);
        assert_eq!(ended.out, format!("chat: {}: because\n", word.replace('_', " ")));
    }
}

#[test]
fn a_rolled_back_reload_shows_what_the_new_generation_wrote() {
    let canned = Canned::new();
    let answer = json!({"result": {"type": "reloads", "reloads": [
        {"unit": "chat", "outcome": "rolled_back", "reason": "it crashed", "last_lines": ["panic!", "at main"]}]}});
    let ended = canned.exchange("reload chat", reload_request(), &[answer]);
    assert!(ended.out.ends_with("\n  | panic!\n  | at main\n"), "{}", ended.out);
}

#[test]
fn the_options_of_a_reload_reach_the_daemon() {
    let canned = Canned::new();
    let request =
        json!({"command": "reload", "units": [], "all": true, "wait": false, "force": true, "reason": "fix"});
    let begun = json!({"result": {"type": "reloads", "reloads": [{"unit": "chat", "outcome": null}]}});
    let ended = canned.exchange("reload --all --no-wait --force --reason fix", request, &[begun]);
    assert_eq!(ended.is(0).out, "chat: the reload has begun\n");

    let request = json!({"command": "dry_run", "units": ["a", "b"], "all": false});
    let text = json!({"result": {"type": "changes", "text": "a: nothing would change", "units": []}});
    let ended = canned.exchange("reload a b --dry-run", request, &[text]);
    assert_eq!(ended.is(0).out, "a: nothing would change\n");
}

#[test]
fn a_refusal_is_printed_as_it_is_with_its_status() {
    let canned = Canned::new();
    for (code, status) in
        [("failed", 1), ("bad_request", 2), ("busy", 4), ("no_such_unit", 6), ("unsupported", 1)]
    {
        let refusal = json!({"error": {"code": code, "message": "no, because"}});
        let ended = canned.exchange("reload chat", reload_request(), std::slice::from_ref(&refusal));
        assert_eq!(ended.is(status).err, "aeternactl: no, because\n");
        assert_eq!(ended.out, "");
        let ended = canned.exchange("reload chat --json", reload_request(), std::slice::from_ref(&refusal));
        assert_eq!(ended.is(status).json(), refusal);
        assert_eq!(ended.err, "");
    }
}

#[test]
fn every_simple_command_asks_and_prints_the_note() {
    let canned = Canned::new();
    for (line, request) in [
        ("promote chat", json!({"command": "promote", "unit": "chat"})),
        ("rollback chat", json!({"command": "rollback", "unit": "chat"})),
        ("start chat", json!({"command": "start", "unit": "chat"})),
        ("stop chat", json!({"command": "stop", "unit": "chat", "close": false})),
        ("stop chat --close", json!({"command": "stop", "unit": "chat", "close": true})),
        ("restart chat", json!({"command": "restart", "unit": "chat"})),
        ("kill chat", json!({"command": "kill", "unit": "chat", "signal": 15, "generation": null})),
        (
            "kill chat -s HUP --generation 2",
            json!({"command": "kill", "unit": "chat", "signal": 1, "generation": 2}),
        ),
        ("upgrade", json!({"command": "upgrade"})),
    ] {
        assert_eq!(canned.exchange(line, request.clone(), &[done("chat: fine")]).is(0).out, "chat: fine\n");
        assert_eq!(canned.exchange(line, request.clone(), &[done("")]).is(0).out, "done\n");
        let object = canned.exchange(&format!("{line} --json"), request, &[done("fine")]).is(0).json();
        assert_eq!(object, json!({"type": "done", "note": "fine"}));
    }
}

#[test]
fn history_is_a_table_or_json() {
    let canned = Canned::new();
    let request = json!({"command": "history", "unit": "chat"});
    let record = json!({"outcome": "promoted", "old_generation": 1, "new_generation": 2, "strategy": "canary",
                        "started_at": 1_763_660_000.0, "duration": 2.5, "phases": []});
    let answer = json!({"result": {"type": "history", "unit": "chat", "reloads": [record]}});
    let shown = canned.exchange("history chat", request.clone(), std::slice::from_ref(&answer));
    assert!(shown.is(0).out.contains("2025-11-20 17:33:20Z  promoted  2.50s  1→2  canary"), "{}", shown.out);
    let object = canned.exchange("history chat --json", request, &[answer]).is(0).json();
    assert_eq!(object["reloads"][0]["new_generation"], 2);
}

#[test]
fn events_are_followed_until_the_daemon_ends() {
    let canned = Canned::new();
    let mut ctl = canned.run("events chat");
    let mut peer = canned.accept();
    assert_eq!(peer.request(), json!({"command": "events", "unit": "chat"}));
    let event =
        json!({"event": {"time": 1.5, "unit": "chat", "kind": "ready", "text": "ready", "generation": 2}});
    for _ in 0..2 {
        peer.send(&event);
        assert_eq!(ctl.line(), "1970-01-01T00:00:01.500Z chat gen=2: ready\n");
    }
    drop(peer);
    ctl.end().is(1).says("it has ended");

    let mut ctl = canned.run("events --json");
    let mut peer = canned.accept();
    assert_eq!(peer.request(), json!({"command": "events", "unit": null}));
    peer.send(&event);
    assert_eq!(serde_json::from_str::<Value>(&ctl.line()).unwrap(), event["event"]);
}

#[test]
fn a_reader_that_goes_away_ends_events_quietly() {
    let canned = Canned::new();
    // Also where no event ever comes that could not be written.
    for events in [0, 1] {
        let mut ctl = canned.run("events");
        let mut peer = canned.accept();
        peer.request();
        // It finds both at once, however late we are with the second.
        let pid = Pid::from_raw(ctl.child.id().try_into().unwrap());
        kill(pid, Signal::SIGSTOP).unwrap();
        assert_eq!(
            waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap(),
            WaitStatus::Stopped(pid, Signal::SIGSTOP)
        );
        drop(ctl.child.stdout.take());
        for _ in 0..events {
            peer.send(&json!({"event": {"time": 1.5, "unit": "", "kind": "warning", "text": "x"}}));
        }
        kill(pid, Signal::SIGCONT).unwrap();
        assert_eq!(ctl.end().is(0).err, "");
    }
}

#[test]
fn a_reader_that_goes_away_does_not_change_the_outcome() {
    let canned = Canned::new();
    let mut ctl = canned.run("reload chat");
    let mut peer = canned.accept();
    peer.request();
    drop(ctl.child.stdout.take());
    peer.send(&state(1.0, "PRE_CHECKING", 1.0));
    peer.send(&outcome("rolled_back", ""));
    assert_eq!(ctl.end().is(3).err, "");
}

#[test]
fn watch_shows_the_status_again_at_each_event() {
    let canned = Canned::new();
    let mut ctl = canned.run("status --watch --json");
    let mut events = canned.accept();
    assert_eq!(events.request(), json!({"command": "events", "unit": null}));
    let mut statuses = canned.accept();
    for round in 0..3 {
        assert_eq!(statuses.request(), json!({"command": "status", "unit": null}));
        statuses.send(&status(&[unit(&format!("chat{round}"))]));
        let object: Value = serde_json::from_str(&ctl.line()).unwrap();
        assert_eq!(object["units"][0]["name"], format!("chat{round}"));
        // A burst in one write is one new picture.
        let line = state(1.0, "RUNNING", 1.0).to_string();
        events.raw(format!("{line}\n{line}\n").as_bytes());
    }
    statuses.request();
    statuses.send(&status(&[]));
    drop(events);
    let ended = ctl.end();
    assert!(ended.is(1).out.contains("it has ended"), "{}", ended.out);
}

#[test]
fn version_says_both_and_does_without_a_daemon() {
    let canned = Canned::new();
    let request = json!({"command": "version"});
    let answer = json!({"result": {"type": "version", "version": "9.9"}});
    let own = env!("CARGO_PKG_VERSION");
    let shown = canned.exchange("version", request.clone(), std::slice::from_ref(&answer));
    assert_eq!(shown.is(0).out, format!("aeternactl {own}\naeternad 9.9\n"));
    let object = canned.exchange("version --json", request, &[answer]).is(0).json();
    assert_eq!(object, json!({"aeternactl": own, "aeternad": "9.9"}));

    let nobody = Ctl::start("version --control /nowhere/control.sock", |_| {}).end();
    assert_eq!(nobody.is(0).out, format!("aeternactl {own}\naeternad not there (/nowhere/control.sock)\n"));
    let only = Ctl::start("--version", |_| {}).end();
    assert_eq!(only.is(0).out, format!("aeternactl {own}\n"));
}

#[test]
fn no_daemon_is_said_with_the_socket_that_was_tried() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = dir.path().display();
    let ended = Ctl::start(&format!("status --runtime-dir {nowhere}"), |_| {}).end();
    ended.is(5).says("no aeternad is there").says(&format!("{nowhere}/control.sock")).says("Start aeternad");
    let object = Ctl::start(&format!("status --json --runtime-dir {nowhere}"), |_| {}).end().is(5).json();
    assert_eq!(object["error"]["code"], "no_daemon");

    let stale = dir.path().join("control.sock");
    drop(UnixListener::bind(&stale).unwrap());
    // Another test's child has a copy of everything between its fork and its exec.
    let begun = Instant::now();
    while UnixStream::connect(&stale).is_ok() {
        assert!(begun.elapsed() < LIMIT, "somebody holds the socket");
    }
    let ended = Ctl::start(&format!("reload x --control {}", stale.display()), |_| {}).end();
    ended.is(5).says("nobody listens on it any more");

    std::fs::write(dir.path().join("file"), "").unwrap();
    Ctl::start(&format!("status --control {nowhere}/file"), |_| {}).end().is(5);
}

#[test]
fn the_command_line_wins_over_the_environment() {
    let canned = Canned::new();
    let path = canned.dir.path().join("control.sock");
    let elsewhere = |command: &mut Command| {
        command.env("AETERNA_RUNTIME_DIR", "/nowhere");
    };
    for place in
        [format!("--control {}", path.display()), format!("--runtime-dir {}", canned.dir.path().display())]
    {
        let ctl = Ctl::start(&format!("{place} start chat"), elsewhere);
        let mut peer = canned.accept();
        peer.request();
        peer.send(&done(""));
        ctl.end().is(0);
    }
}

#[test]
fn a_socket_with_a_long_path_is_reached() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("d".repeat(120));
    std::fs::create_dir(&long).unwrap();
    // Bound where the path is short, then moved.
    let accepted = listen(&dir.path().join("s"));
    std::fs::rename(dir.path().join("s"), long.join("control.sock")).unwrap();
    let canned = Canned { dir, accepted };
    let ctl = Ctl::start(&format!("start chat --runtime-dir {}", long.display()), |_| {});
    let mut peer = canned.accept();
    peer.request();
    peer.send(&done("here"));
    assert_eq!(ctl.end().is(0).out, "here\n");
}

#[test]
fn a_daemon_that_breaks_off_is_no_success() {
    let canned = Canned::new();
    let request = json!({"command": "status", "unit": null});
    canned.exchange("status", request, &[]).is(1).says("closed the connection before it answered");
    let begun = [state(1.0, "PRE_CHECKING", 1.0)];
    let ended = canned.exchange("reload chat", reload_request(), &begun);
    ended.is(1).says("nobody knows what came of the reload of chat").says("aeternactl status chat");
}

#[test]
fn garbage_from_the_daemon_is_no_success() {
    let canned = Canned::new();
    for (garbage, part) in [
        (&b"HTTP/1.1 400 Bad Request\r\n"[..], "HTTP/1.1 400"),
        (b"\xff\xfe\x00\n", "not a line that aeternad sends"),
        (b"{\"result\":{\"type\":\"status\"", "in the middle of a line"),
        (b"{\"result\":{\"type\":\"version\",\"version\":\"1\"}}\n", "something else than was asked"),
        (b"{\"result\":{\"type\":\"new\"}}\n", "not a line that aeternad sends"),
        (b"\x1b[2J\n", "\\u{1b}[2J"),
    ] {
        let ctl = canned.run("status");
        let mut peer = canned.accept();
        peer.request();
        peer.raw(garbage);
        drop(peer);
        ctl.end().is(1).says(part);
    }
}

#[test]
fn a_newer_daemon_may_say_more() {
    let canned = Canned::new();
    let mut newer = status(&[unit("chat")]);
    newer["result"]["moon"] = json!("full");
    newer["result"]["units"][0]["mood"] = json!(["good"]);
    canned.exchange("status", json!({"command": "status", "unit": null}), &[newer]).is(0);
}

#[test]
fn an_interrupt_leaves_the_reload_running() {
    let canned = Canned::new();
    let mut ctl = canned.run("reload chat");
    let mut peer = canned.accept();
    peer.request();
    peer.send(&state(1.0, "SOAKING", 1.0));
    assert_eq!(ctl.line(), "chat: SOAKING\n");
    kill(Pid::from_raw(ctl.child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let ended = ctl.end();
    ended.is(130).says("interrupted: the reload of chat goes on").says("aeternactl status chat");
    let mut rest = Vec::new();
    peer.reader.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"", "nothing else was asked of the daemon");
}

#[test]
fn a_timeout_leaves_the_reload_running() {
    let canned = Canned::new();
    let ctl = canned.run("reload chat --timeout 50ms");
    let mut peer = canned.accept();
    assert_eq!(peer.request(), reload_request());
    ctl.end().is(124).says("has not ended within 50ms").says("goes on");

    let ctl = canned.run("reload chat --timeout 50ms --json");
    let _peer = canned.accept();
    assert_eq!(ctl.end().is(124).json()["error"]["code"], "timeout");
}

#[test]
fn a_wrong_command_line_is_told_what_was_meant() {
    for (line, part) in [
        ("", "no command"),
        ("relaod chat", "did you mean \"reload\"?"),
        ("reload", "reload which unit?"),
        ("reload chat --tiemout 5", "did you mean --timeout?"),
        ("status a b", "one argument too many"),
        ("kill chat -s FOO", "\"FOO\" is not a signal"),
    ] {
        let ended = Ctl::start(line, |_| {}).end();
        assert_eq!(ended.is(2).says(part).says("Try \"aeternactl help").out, "");
    }
}

#[test]
fn help_is_there_for_every_command() {
    let overview = Ctl::start("help", |_| {}).end();
    overview.is(0);
    for command in aeterna::ctl::args::commands() {
        assert!(overview.out.contains(command.name));
        for line in [format!("help {}", command.name), format!("{} --help", command.name)] {
            let ended = Ctl::start(&line, |_| {}).end();
            assert!(ended.is(0).out.starts_with(&format!("Usage: {}\n", command.usage())), "{}", ended.out);
        }
    }
}

#[test]
fn everything_is_there_as_json_too() {
    let json = |line: &str, status| Ctl::start(&format!("{line} --json"), |_| {}).end().is(status).json();
    let all = json("help", 0);
    assert_eq!(all["commands"].as_array().unwrap().len(), aeterna::ctl::args::commands().len());
    let kill = json("help kill", 0);
    assert_eq!(kill["usage"], "aeternactl kill UNIT [options]");
    assert_eq!(kill["options"][0]["short"], "s");
    assert!(json("completions bash", 0)["script"].as_str().unwrap().contains("complete -F"));
    assert_eq!(json("--version", 0)["aeternactl"], env!("CARGO_PKG_VERSION"));
    let wrong = json("relaod", 2);
    assert_eq!(wrong["error"]["code"], "usage");
    assert!(wrong["error"]["message"].as_str().unwrap().contains("did you mean \"reload\"?"));
}

#[test]
fn check_says_what_is_wrong_with_which_file() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = dir.path().join("wrong.toml");
    std::fs::write(&wrong, "[Servcie]\n").unwrap();
    let missing = dir.path().join("missing.toml");
    let ended = Ctl::start(&format!("check {} {}", wrong.display(), missing.display()), |_| {}).end();
    ended
        .is(78)
        .says(&format!("{}:1:", wrong.display()))
        .says(&format!("cannot read {}: ", missing.display()));
    let object = Ctl::start(&format!("check --json {}", dir.path().display()), |_| {}).end().is(78).json();
    assert_eq!(object["ok"], false);
    assert_eq!(object["files"].as_array().unwrap().len(), 1);
    assert_eq!(object["files"][0]["file"], wrong.display().to_string());
}

#[test]
fn completions_are_scripts_that_their_shells_can_read() {
    for shell in ["bash", "zsh", "fish"] {
        let script = Ctl::start(&format!("completions {shell}"), |_| {}).end();
        script.is(0);
        let Some(program) = in_path(shell) else {
            assert_ne!(shell, "bash", "bash is needed for this test");
            continue;
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &script.out).unwrap();
        let checked = Command::new(program).arg("-n").arg(file.path()).output().unwrap();
        assert!(checked.status.success(), "{shell}: {}", String::from_utf8_lossy(&checked.stderr));
        assert!(checked.stderr.is_empty(), "{shell}: {}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[test]
fn fish_completes_commands_options_and_values() {
    let Some(fish) = in_path("fish") else {
        eprintln!("skipped: fish is not installed");
        return;
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), Ctl::start("completions fish", |_| {}).end().out).unwrap();
    let complete = |line: &str| {
        let code = format!("source {}; complete -C '{line}'", file.path().display());
        let output = Command::new(&fish).args(["--no-config", "-c", &code]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.split('\t').next().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(complete("aeternactl rel"), ["reload"]);
    assert_eq!(complete("aeternactl reload a --no"), ["--no-wait"]);
    assert_eq!(complete("aeternactl kill a -s SIGT"), ["SIGTERM"]);
    assert_eq!(complete("aeternactl completions z"), ["zsh"]);
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.exists())
}

#[test]
fn bash_completes_commands_options_and_units() {
    let canned = Canned::new();
    let script = Ctl::start("completions bash", |_| {}).end().out;
    let complete = |words: &[&str]| {
        let line = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
        let code = format!(
            "{script}\nCOMP_WORDS=({line}); COMP_CWORD={}; _aeternactl 2>/dev/null; echo \"${{COMPREPLY[*]}}\"",
            words.len() - 1
        );
        let bin = Path::new(env!("CARGO_BIN_EXE_aeternactl")).parent().unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("bash");
        command.args(["-c", &code]).env("PATH", path).env("AETERNA_RUNTIME_DIR", canned.dir.path());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Ctl::new(child)
    };
    assert_eq!(complete(&["aeternactl", "re"]).end().out, "reload releases restart\n");
    assert_eq!(complete(&["aeternactl", "--control", "/x", "pro"]).end().out, "promote\n");
    assert_eq!(complete(&["aeternactl", "reload", "--no-w"]).end().out, "--no-wait\n");
    assert_eq!(complete(&["aeternactl", "kill", "x", "-s", "SIGH"]).end().out, "SIGHUP\n");
    assert_eq!(complete(&["aeternactl", "completions", "f"]).end().out, "fish\n");

    assert_eq!(complete(&["aeternactl", "--control", "=", "/x", "pro"]).end().out, "promote\n");

    // The daemon that the line names is asked, however it is written and wherever it stands.
    let other = Canned::new();
    let dir = other.dir.path().display().to_string();
    let (joined, control) = (format!("--runtime-dir={dir}"), format!("{dir}/control.sock"));
    for line in [
        &["aeternactl", "--runtime-dir", &dir, "reload", "c"][..],
        &["aeternactl", "--runtime-dir", "=", &dir, "reload", "c"],
        &["aeternactl", &joined, "reload", "c"],
        &["aeternactl", "reload", "--control", "=", &control, "c"],
    ] {
        let completing = complete(line);
        let mut peer = other.accept();
        assert_eq!(peer.request(), json!({"command": "status", "unit": null}), "{line:?}");
        peer.send(&status(&[unit("chat"), unit("web")]));
        drop(peer);
        assert_eq!(completing.end().out, "chat\n", "{line:?}");
    }

    let completing = complete(&["aeternactl", "reload", "c"]);
    let mut peer = canned.accept();
    assert_eq!(peer.request(), json!({"command": "status", "unit": null}));
    peer.send(&status(&[unit("chat"), unit("web"), unit("cron")]));
    drop(peer);
    assert_eq!(completing.end().out, "chat cron\n");
}
