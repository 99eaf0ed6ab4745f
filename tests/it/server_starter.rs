//! What Server::Starter promises to its servers, `aeternad` keeps with `SocketEnvironment = "server-starter"`: the
//! same script, written with Server::Starter's own client code, lives through the same events under both.

use crate::common;
use common::load::{Load, Manner};
use common::port::free_port;
use common::{Env, http, process, repository, skip};
use nix::sys::signal::Signal;
use std::path::Path;
use std::process::Command;

const START_SERVER: &str = "/usr/bin/start_server";

/// A supervisor with the script under it.
struct Bench {
    env: Env,
    address: String,
    /// Whom to send signals to.
    supervisor: i32,
    /// A file that makes the script fail at its start.
    broken: std::path::PathBuf,
    /// The process, if it is not `env`'s own.
    child: Option<std::process::Child>,
}

/// What the script said.
#[derive(Debug, PartialEq)]
struct Answer {
    pid: i32,
    generation: i64,
    address: String,
}

/// Whether Perl and Server::Starter are there.
fn installed() -> bool {
    let there = Path::new(START_SERVER).exists()
        && Command::new("perl").args(["-MServer::Starter", "-e", "1"]).status().is_ok_and(|s| s.success());
    if !there {
        skip("Server::Starter needs perl and libserver-starter-perl");
    }
    there
}

fn script() -> String {
    repository().join("tests/compat/server-starter.pl").display().to_string()
}

impl Bench {
    fn aeternad() -> Bench {
        let mut env = Env::new();
        let (broken, port) = (env.path("broken"), free_port());
        let unit = format!(
            "[Socket]\nListenStream = '127.0.0.1:{port}'\n\
             [Service]\nExecStart = ['perl', '{}']\nSocketEnvironment = 'server-starter'\nRestart = 'always'\n\
             RestartSec = '50ms'\nEnvironment = {{ BROKEN_FILE = '{}' }}\n\
             [Reload]\nSoakTime = '3s'\n",
            script(),
            broken.display()
        );
        env.unit("app", &unit);
        env.start();
        let supervisor = env.pid();
        Bench { env, address: format!("127.0.0.1:{port}"), supervisor, broken, child: None }
    }

    fn start_server() -> Bench {
        let env = Env::new();
        let (broken, port) = (env.path("broken"), free_port());
        let mut command = env.command(START_SERVER);
        command.args(["--interval=3", &format!("--port=127.0.0.1:{port}"), "--", "perl", &script()]);
        command.env("BROKEN_FILE", &broken).stderr(std::process::Stdio::null());
        let child = command.spawn().unwrap();
        let supervisor = child.id() as i32;
        Bench { env, address: format!("127.0.0.1:{port}"), supervisor, broken, child: Some(child) }
    }

    fn ask(&self) -> Option<Answer> {
        let body: serde_json::Value = serde_json::from_str(&http::get(&self.address, "/").ok()?.body).ok()?;
        Some(Answer {
            pid: body["pid"].as_i64()? as i32,
            generation: body["generation"].as_i64()?,
            address: body["address"].as_str()?.to_string(),
        })
    }

    /// Waits for an answer of another process than `old`.
    fn other_than(&self, old: i32) -> Answer {
        self.env.wait("an answer of another process", || self.ask().filter(|answer| answer.pid != old))
    }

    fn wait_gone(&self, pid: i32) {
        self.env.wait("the end of a server", || (!process::exists(pid)).then_some(()));
    }

    fn finish(mut self) {
        if let Some(mut child) = self.child.take() {
            process::kill(self.supervisor, Signal::SIGTERM);
            child.wait().unwrap();
        }
    }
}

/// The events that Server::Starter's manual tells of.
fn lives_as_promised(bench: Bench) {
    let first = bench.env.wait("the first answer", || bench.ask());
    assert_eq!(first.address, bench.address, "SERVER_STARTER_PORT names the address as it was asked for");

    // "When it receives HUP, it starts a new server, and when that lives, ends the old one": nobody notices.
    let load = Load::start(&bench.address, 2, Manner::Fresh);
    load.wait_answers(5);
    process::kill(bench.supervisor, Signal::SIGHUP);
    let second = bench.other_than(first.pid);
    assert!(second.generation > first.generation, "{second:?} after {first:?}");
    bench.wait_gone(first.pid);
    load.wait_answers(5);
    let counts = load.finish();
    assert_eq!(counts.failed, [""; 0], "of {} requests", counts.ok);

    // "If the server dies, it is started again."
    process::kill(second.pid, Signal::SIGKILL);
    let third = bench.other_than(second.pid);
    assert!(third.generation > second.generation, "{third:?} after {second:?}");

    // A new server that does not live leaves the old one serving.
    std::fs::write(&bench.broken, "").unwrap();
    process::kill(bench.supervisor, Signal::SIGHUP);
    let mut answers = 0;
    bench.env.wait("answers of the old server beside a broken one", || {
        let answer = bench.ask()?;
        assert_eq!(answer.pid, third.pid, "the old server goes on");
        answers += 1;
        (answers == 50).then_some(())
    });
    std::fs::remove_file(&bench.broken).unwrap();
    bench.finish();
}

#[test]
fn start_server_itself_keeps_its_promises() {
    if installed() {
        lives_as_promised(Bench::start_server());
    }
}

#[test]
fn aeternad_keeps_server_starters_promises() {
    if installed() {
        lives_as_promised(Bench::aeternad());
    }
}
