//! The test bench: a folder of units, an `aeternad` of its own, and ways to wait for facts.
//!
//! A test never sleeps to let time pass: it waits for an event, a line of the log, a byte, an end of file or
//! the end of a process. Every wait has an upper bound ([`WAIT`]) that fails the test and prints the log, the
//! status and the processes. A test file begins with
//! `use crate::common;`.
//!
//! ```ignore
//! let mut env = Env::new();
//! env.unit("app", r#"
//!     [Socket]
//!     ListenStream = "127.0.0.1:0"
//!     [Service]
//!     ExecStart = "{probe}"
//!     Type = "notify"
//! "#);
//! env.start();
//! env.wait_state("app", UnitState::Running);
//! assert_eq!(env.get("app", "/").status, 200);
//! ```

#![allow(unreachable_pub, reason = "a module of several test crates")]
#![allow(missing_docs, reason = "every item that is not plain says what it does")]

pub mod app;
pub mod control;
pub mod facts;
pub mod hammer;
pub mod http;
pub mod load;
pub mod players;
pub mod port;
pub mod process;

use aeterna::proto::control::{Line, Reply, Request};
use aeterna::proto::status::{EventLine, Status, UnitState, UnitStatus};
use facts::Facts;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The upper bound of one wait: passing it fails the test.
pub const WAIT: Duration = Duration::from_secs(60);

/// The daemon under test.
pub const AETERNAD: &str = env!("CARGO_BIN_EXE_aeternad");
/// Its client.
pub const AETERNACTL: &str = env!("CARGO_BIN_EXE_aeternactl");

/// Says why a test can't run on this machine; in CI, where everything is installed, that is a failure.
pub fn skip(reason: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "a test was skipped in CI: {reason}");
    eprintln!("skipped: {reason}");
}

/// The path of a built example program (`probe`, `echo`): `cargo test` builds them beside the tests.
pub fn example(name: &str) -> PathBuf {
    let path = Path::new(AETERNAD).with_file_name("examples").join(name);
    assert!(path.exists(), "{} is not built: run `cargo test`, or `cargo build --examples`", path.display());
    path
}

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What a finished command left.
#[derive(Debug)]
pub struct Finished {
    /// The exit status; 128+N for signal N.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// One test's own world. Dropping it stops the daemon (SIGINT, SIGTERM: no waiting) and fails the test if any
/// process of the test is left.
pub struct Env {
    dir: tempfile::TempDir,
    mark: String,
    facts: Arc<Facts>,
    daemon: Option<Child>,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    working_directory: PathBuf,
    survivors_allowed: bool,
    user: Option<u32>,
}

impl Default for Env {
    fn default() -> Env {
        Env::new()
    }
}

impl Env {
    /// An empty world: a fresh folder that other users may enter, no units, no daemon.
    pub fn new() -> Env {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::Builder::new().prefix("ae").tempdir().unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        std::fs::create_dir(dir.path().join("units")).unwrap();
        let mark = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Env {
            working_directory: dir.path().to_path_buf(),
            dir,
            mark,
            facts: Arc::new(Facts::default()),
            daemon: None,
            arguments: Vec::new(),
            variables: Vec::new(),
            survivors_allowed: false,
            user: None,
        }
    }

    /// The world's folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path in the world's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The daemon's runtime dir.
    pub fn runtime_dir(&self) -> PathBuf {
        self.path("run")
    }

    /// Writes (or replaces) a file in the world's folder and returns its path. Replacing is atomic.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let fresh = path.with_extension("fresh~");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        path
    }

    /// Writes (or replaces) `units/NAME.toml`; `{probe}`, `{echo}` and `{dir}` in the text are replaced.
    pub fn unit(&self, name: &str, text: &str) -> PathBuf {
        self.file(&format!("units/{name}.toml"), &self.fill(text))
    }

    /// Replaces `{probe}`, `{echo}`, `{hostile}` and `{dir}`.
    pub fn fill(&self, text: &str) -> String {
        let mut text = text.replace("{dir}", &self.dir().display().to_string());
        for name in ["probe", "echo", "hostile"] {
            let place = format!("{{{name}}}");
            if text.contains(&place) {
                text = text.replace(&place, &example(name).display().to_string());
            }
        }
        text
    }

    /// More arguments for the daemon's next start.
    pub fn arguments(&mut self, arguments: &[&str]) -> &mut Env {
        self.arguments.extend(arguments.iter().map(|a| (*a).to_string()));
        self
    }

    /// A variable in the daemon's environment at its next start.
    pub fn variable(&mut self, name: &str, value: &str) -> &mut Env {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// The daemon's working directory at its next start; without this, the world's folder.
    pub fn working_directory(&mut self, path: &Path) -> &mut Env {
        self.working_directory = path.to_path_buf();
        self
    }

    /// The daemon runs as nobody at its next start: no control groups, no privileges, a folder of its own.
    /// Whether this machine lets us.
    pub fn as_nobody(&mut self) -> bool {
        const NOBODY: u32 = 65534;
        if !nix::unistd::geteuid().is_root() {
            skip("only root can start a daemon as another user");
            return false;
        }
        std::os::unix::fs::chown(self.dir(), Some(NOBODY), Some(NOBODY)).unwrap();
        self.user = Some(NOBODY);
        true
    }

    /// Processes may outlive the daemon in this test (`KillMode = "process"`); they are killed in the end.
    pub fn allow_survivors(&mut self) -> &mut Env {
        self.survivors_allowed = true;
        self
    }

    /// A command with the world's mark in its environment, so that nothing of it is overlooked in the end.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.working_directory).env("TEST_MARK", &self.mark);
        for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "AETERNA_LOG"] {
            command.env_remove(name);
        }
        command.envs(self.variables.iter().map(|(k, v)| (k, v)));
        command
    }

    /// Starts aeternad on the folder of units, and waits until its control socket answers.
    pub fn start(&mut self) -> &mut Env {
        let units = self.path("units").display().to_string();
        self.start_with(&["--unit", &units])
    }

    /// Starts aeternad with these arguments (and `--runtime-dir`, and [`Env::arguments`] before them), and
    /// waits until its control socket answers. The events are followed from then on.
    pub fn start_with(&mut self, arguments: &[&str]) -> &mut Env {
        self.launch(arguments);
        self.wait_control()
    }

    /// Waits until the control socket answers, and follows the events from then on.
    pub fn wait_control(&mut self) -> &mut Env {
        let socket = self.runtime_dir().join("control.sock");
        let stream = loop {
            match control::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => {
                    if let Some(status) = self.daemon.as_mut().and_then(|d| d.try_wait().unwrap()) {
                        self.fail(&format!("aeternad ended at once with {status}"));
                    }
                    self.facts.pause_or(|| self.fail(&format!("no control socket: {error}")));
                }
            }
        };
        facts::follow(Arc::clone(&self.facts), stream);
        self
    }

    /// Starts aeternad and waits for nothing.
    pub fn launch(&mut self, arguments: &[&str]) {
        let command = self.command(AETERNAD);
        self.launch_by(command, arguments);
    }

    /// Starts aeternad by a command that ends in its program (`unshare … aeternad`), and waits for nothing.
    pub fn launch_by(&mut self, mut command: Command, arguments: &[&str]) {
        assert!(self.daemon.is_none(), "the daemon runs already");
        command.arg("--runtime-dir").arg(self.runtime_dir());
        if !self.arguments.iter().any(|a| a == "--log-level") {
            command.args(["--log-level", "debug"]);
        }
        command.args(&self.arguments).args(arguments);
        let (rx, tx) = std::io::pipe().unwrap();
        if let Some(user) = self.user {
            std::os::unix::process::CommandExt::uid(&mut command, user);
            std::os::unix::process::CommandExt::gid(&mut command, user);
        }
        command.stdin(Stdio::null()).stdout(tx.try_clone().unwrap()).stderr(tx);
        self.facts = Arc::new(Facts::default());
        self.daemon = Some(command.spawn().unwrap());
        let facts = Arc::clone(&self.facts);
        std::thread::spawn(move || {
            for line in BufReader::new(rx).split(b'\n').map_while(Result::ok) {
                facts.add_log(&String::from_utf8_lossy(&line));
            }
        });
    }

    /// Takes over a daemon that was started by other means; its streams stay its own.
    pub fn adopt(&mut self, daemon: Child) {
        assert!(self.daemon.is_none(), "the daemon runs already");
        self.daemon = Some(daemon);
    }

    /// The daemon's pid.
    pub fn pid(&self) -> i32 {
        self.daemon.as_ref().map(Child::id).unwrap() as i32
    }

    /// A signal to the daemon.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        process::kill(self.pid(), signal);
    }

    /// Waits for the daemon's end. Everything that it was is kept: a new start may follow.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().unwrap();
        let until = Instant::now() + WAIT;
        loop {
            if let Some(status) = daemon.try_wait().unwrap() {
                return status;
            }
            if Instant::now() > until {
                self.daemon = Some(daemon);
                self.fail("aeternad does not end");
            }
            self.facts.pause();
        }
    }

    /// Until something may have happened.
    pub fn pause(&self) {
        self.facts.pause();
    }

    /// Whether the daemon has ended; [`Env::wait_exit`] says how.
    pub fn has_ended(&self) -> bool {
        process::is_over(self.pid())
    }

    /// Everything that the daemon (and services with inherited streams) wrote so far.
    pub fn log(&self) -> String {
        self.facts.log()
    }

    /// Waits until the log contains `text`, and returns that line.
    pub fn wait_log(&self, text: &str) -> String {
        self.wait(&format!("a log line with {text:?}"), || {
            self.facts.log().lines().find(|line| line.contains(text)).map(str::to_string)
        })
    }

    /// Waits until `look` finds something; it is asked again at every new fact, and every 20 ms for facts
    /// that announce themselves to nobody.
    pub fn wait<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let until = Instant::now() + WAIT;
        loop {
            let seen = self.facts.count();
            if let Some(found) = look() {
                return found;
            }
            if Instant::now() > until {
                self.fail(&format!("waited {} s for {what}", WAIT.as_secs()));
            }
            self.facts.wait_beyond(seen);
        }
    }

    /// How many events there are so far: a place to begin a search after.
    pub fn mark(&self) -> usize {
        self.catch_up();
        self.facts.events().len()
    }

    /// The events come on a connection of their own: waits until those are known that were sent before whatever the
    /// caller has seen.
    fn catch_up(&self) {
        // Answered in a later turn of the daemon's than what was seen; a daemon that is gone says nothing more.
        let _ = control::request(&self.runtime_dir().join("control.sock"), &Request::Version);
        let until = Instant::now() + WAIT;
        while !self.facts.is_caught_up() && Instant::now() < until {
            self.facts.pause();
        }
    }

    /// Every event since `mark`.
    pub fn events_since(&self, mark: usize) -> Vec<EventLine> {
        self.catch_up();
        self.facts.events().split_off(mark)
    }

    /// Waits for an event after `mark`.
    pub fn wait_event(&self, mark: usize, what: &str, is_it: impl Fn(&EventLine) -> bool) -> EventLine {
        self.wait(what, || self.facts.events().split_off(mark).into_iter().find(|e| is_it(e)))
    }

    /// Waits for the end of a reload of `unit` after `mark`: the event with its outcome.
    pub fn wait_reloaded(&self, unit: &str, mark: usize) -> EventLine {
        self.wait_event(mark, &format!("the end of a reload of {unit}"), |e| {
            e.unit == unit && e.outcome.is_some()
        })
    }

    /// The daemon's status, over the control socket.
    pub fn status(&self) -> Status {
        match self.request(&Request::Status { unit: None }) {
            Line::Result(Reply::Status(status)) => *status,
            other => self.fail(&format!("a status was asked for, the answer is {other:?}")),
        }
    }

    /// One unit's status.
    pub fn unit_status(&self, unit: &str) -> UnitStatus {
        let found = self.status().units.into_iter().find(|u| u.name == unit);
        found.unwrap_or_else(|| self.fail(&format!("there is no unit {unit}")))
    }

    /// Waits until the unit is in this state.
    pub fn wait_state(&self, unit: &str, state: UnitState) -> UnitStatus {
        self.wait_unit(unit, state.name(), |u| u.state == state)
    }

    /// Waits until the unit's status is as asked for.
    pub fn wait_unit(&self, unit: &str, what: &str, is_it: impl Fn(&UnitStatus) -> bool) -> UnitStatus {
        self.wait(&format!("{unit}: {what}"), || Some(self.unit_status(unit)).filter(&is_it))
    }

    /// The pid of the serving generation's first main process.
    pub fn main_pid(&self, unit: &str) -> i32 {
        let status = self.unit_status(unit);
        *status.main_pids.first().unwrap_or_else(|| self.fail(&format!("{unit} has no main process")))
    }

    /// Where a client connects to reach the unit's socket number `index`.
    pub fn address(&self, unit: &str, index: usize) -> String {
        let status = self.unit_status(unit);
        let socket = status.sockets.get(index);
        let socket = socket.unwrap_or_else(|| self.fail(&format!("{unit} has no socket {index}")));
        http::reachable(&socket.address)
    }

    /// `GET path` on the unit's first socket; a failure fails the test.
    pub fn get(&self, unit: &str, path: &str) -> http::Response {
        let address = self.address(unit, 0);
        http::get(&address, path)
            .unwrap_or_else(|e| self.fail(&format!("GET {path} of {unit} at {address}: {e}")))
    }

    /// `GET path` on the unit's first socket, as JSON.
    pub fn json(&self, unit: &str, path: &str) -> serde_json::Value {
        let response = self.get(unit, path);
        serde_json::from_str(&response.body)
            .unwrap_or_else(|e| self.fail(&format!("GET {path} of {unit}: {e}: {}", response.body)))
    }

    /// One request over the control socket, and its last line.
    pub fn request(&self, request: &Request) -> Line {
        let socket = self.runtime_dir().join("control.sock");
        control::request(&socket, request).unwrap_or_else(|e| self.fail(&format!("{request:?}: {e}")))
    }

    /// Runs `aeternactl` against this daemon.
    pub fn ctl(&self, arguments: &[&str]) -> Finished {
        let mut command = self.command(AETERNACTL);
        command.arg("--runtime-dir").arg(self.runtime_dir()).args(arguments);
        self.finish(command)
    }

    /// Starts `aeternactl` and does not wait for it.
    pub fn ctl_start(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(AETERNACTL);
        command.arg("--runtime-dir").arg(self.runtime_dir()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs an `aeternad` of its own to its end, with exactly these arguments.
    pub fn daemon(&self, arguments: &[&str]) -> Finished {
        let mut command = self.command(AETERNAD);
        command.args(arguments);
        self.finish(command)
    }

    /// Runs a command to its end within [`WAIT`].
    pub fn finish(&self, mut command: Command) -> Finished {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap_or_else(|e| self.fail(&format!("{command:?}: {e}")));
        self.finish_child(child)
    }

    /// Waits for a child with piped streams.
    pub fn finish_child(&self, mut child: Child) -> Finished {
        let stdout = child.stdout.take().map(drain);
        let stderr = child.stderr.take().map(drain);
        let pid = child.id() as i32;
        let status = self.wait(&format!("the end of process {pid}"), || child.try_wait().unwrap());
        let text = |reader: Option<std::thread::JoinHandle<String>>| {
            reader.map(|r| r.join().unwrap()).unwrap_or_default()
        };
        Finished { code: process::code(status), stdout: text(stdout), stderr: text(stderr) }
    }

    /// Waits until this process is gone (a zombie is not gone).
    pub fn wait_gone(&self, pid: i32) {
        self.wait(&format!("the end of process {pid}"), || (!process::exists(pid)).then_some(()));
    }

    /// The processes of this test that live.
    pub fn processes(&self) -> Vec<process::Seen> {
        let folder = self.dir().display().to_string();
        process::of(&format!("TEST_MARK={}", self.mark), &folder)
    }

    /// Fails the test with everything that helps to see why.
    pub fn fail(&self, what: &str) -> ! {
        let status =
            control::request(&self.runtime_dir().join("control.sock"), &Request::Status { unit: None });
        let status = match status {
            Ok(line) => serde_json::to_string_pretty(&line).unwrap_or_default(),
            Err(error) => error.to_string(),
        };
        let processes: Vec<String> = self.processes().iter().map(ToString::to_string).collect();
        eprintln!(
            "--- log\n{}--- status\n{status}\n--- processes\n{}\n---",
            self.facts.log(),
            processes.join("\n")
        );
        panic!("{what}");
    }

    /// Ends the daemon without waiting for anything, then looks for what it left.
    fn end(&mut self) -> Vec<process::Seen> {
        if let Some(mut daemon) = self.daemon.take() {
            // Two different signals: two of one kind that are pending at once count as one.
            for signal in [nix::sys::signal::Signal::SIGINT, nix::sys::signal::Signal::SIGTERM] {
                if daemon.try_wait().ok().flatten().is_none() {
                    process::kill(daemon.id() as i32, signal);
                }
            }
            let until = Instant::now() + Duration::from_secs(30);
            while daemon.try_wait().ok().flatten().is_none() {
                if Instant::now() > until {
                    let _ = daemon.kill();
                    let _ = daemon.wait();
                    break;
                }
                self.facts.pause();
            }
        }
        // What the daemon has killed may need the processor to die.
        let lives = |seen: &process::Seen| !process::is_over(seen.pid);
        let left: Vec<process::Seen> = self.processes().into_iter().filter(lives).collect();
        for seen in &left {
            process::kill(seen.pid, nix::sys::signal::Signal::SIGKILL);
        }
        left
    }
}

impl Drop for Env {
    fn drop(&mut self) {
        let left = self.end();
        if !left.is_empty() && !self.survivors_allowed && !std::thread::panicking() {
            let left: Vec<String> = left.iter().map(ToString::to_string).collect();
            panic!("processes outlived the daemon:\n{}\n--- log\n{}", left.join("\n"), self.facts.log());
        }
    }
}

/// Reads to the end on a thread of its own, so that a full pipe never stops the writer.
fn drain(mut stream: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
