//! The units of `units/` with the applications that they are for, unmodified: reloads under load lose nothing.

use crate::common;
use aeterna::proto::status::UnitState;
use common::load::{Load, Manner};
use common::port::free_port;
use common::{Env, http, process, repository, skip};
use std::process::Command;

/// A program of the PATH.
fn installed(name: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(name).exists())
}

/// Builds a Go application as its unit says; false where the tools for it are missing.
fn built(name: &str) -> bool {
    let program = repository().join("target/apps").join(name);
    if program.exists() {
        return true;
    }
    let source = format!("units/apps/{name}/main.go");
    let mut command = Command::new("go");
    command.args(["build", "-o", &format!("target/apps/{name}"), &source]).current_dir(repository());
    command.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode");
    installed("go") && command.output().is_ok_and(|output| output.status.success())
}

/// Reloads `units/NAME.toml` on a port of its own while clients of both kinds ask.
fn reloads(name: &str) {
    let text = std::fs::read_to_string(repository().join("units").join(format!("{name}.toml"))).unwrap();
    let port = free_port();
    let line = text.lines().find(|line| line.starts_with("ListenStream")).unwrap();
    let old = line.rsplit(':').next().unwrap().trim_end_matches('"').to_owned();
    let text = text
        .replace(&format!(":{old}"), &format!(":{port}"))
        .replace("SoakTime = \"5s\"", "SoakTime = \"300ms\"")
        .replace("Interval = \"1s\"", "Interval = \"100ms\"");
    let mut env = Env::new();
    env.unit(name, &text);
    env.working_directory(repository());
    env.start();
    env.wait_state(name, UnitState::Running);
    let address = format!("127.0.0.1:{port}");
    env.wait("the first answer", || http::get(&address, "/").ok());
    let fresh = Load::start(&address, 3, Manner::Fresh);
    for _ in 0..3 {
        let old = env.main_pid(name);
        fresh.wait_answers(100);
        let done = env.ctl(&["reload", name]);
        assert_eq!(done.code, 0, "{name}: {done:?}\n{}", env.log());
        env.wait_gone(old);
        assert!(!process::exists(old));
    }
    fresh.wait_answers(100);
    let counts = fresh.finish();
    assert_eq!(counts.failed, Vec::<String>::new(), "{name}: of {}", counts.ok);
    assert_eq!(env.unit_status(name).generation, 4);
}

#[test]
fn gunicorn() {
    if !installed("gunicorn") {
        return skip("gunicorn is not installed");
    }
    reloads("gunicorn");
}

#[test]
fn node() {
    if !installed("node") {
        return skip("node is not installed");
    }
    reloads("node");
}

#[test]
fn go() {
    if !built("go") {
        return skip("no Go compiler, or no golang-github-coreos-go-systemd-dev");
    }
    reloads("go");
}

#[test]
fn gin() {
    if !built("gin") {
        return skip("no Go compiler, or no golang-github-gin-gonic-gin-dev");
    }
    reloads("gin");
}
