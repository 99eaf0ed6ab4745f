//! Real services, each from its unit in `units/`: answering, restarted after a kill, stopped without leftovers.

use crate::common;
use aeterna::proto::status::UnitState;
use common::port::free_port;
use common::{Env, http, process, repository};
use nix::sys::signal::Signal;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

/// Whether a program is there.
fn has(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    path.split(':').any(|folder| Path::new(folder).join(program).exists())
}

/// The unit as it ships, on another port, with its paths made absolute.
fn shipped(env: &Env, name: &str, port: Option<&str>) {
    let mut text = std::fs::read_to_string(repository().join(format!("units/{name}.toml"))).unwrap();
    if let Some(port) = port {
        text = text.replace(port, &free_port().to_string());
    }
    let programs = [
        ("target/debug/examples/", common::example("echo").parent().unwrap().display().to_string()),
        ("target/apps/", env.dir().display().to_string()),
    ];
    for (folder, real) in programs {
        for prefix in ["\"./", "\""] {
            text = text.replace(&format!("{prefix}{folder}"), &format!("\"{real}/"));
        }
    }
    env.file(&format!("units/{name}.toml"), &text);
}

/// Answers, is killed, answers again on the same address, and leaves nothing.
fn lives(env: &mut Env, name: &str, path: &str) {
    env.working_directory(repository());
    env.start();
    env.wait_state(name, UnitState::Running);
    assert_eq!(env.get(name, path).status, 200);
    let pid = env.main_pid(name);
    process::kill(pid, Signal::SIGKILL);
    env.wait_unit(name, "a second generation", |u| u.generation == 2 && u.state == UnitState::Running);
    assert_eq!(env.get(name, path).status, 200);
    assert_ne!(env.main_pid(name), pid);
    stops(env);
}

fn stops(env: &mut Env) {
    env.signal(Signal::SIGTERM);
    assert!(env.wait_exit().success(), "{}", env.log());
    let left: Vec<String> = env.processes().iter().map(ToString::to_string).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_example() {
    let mut env = Env::new();
    shipped(&env, "echo", Some("8080"));
    lives(&mut env, "echo", "/");
}

#[test]
fn gunicorn() {
    if !has("gunicorn") {
        return common::skip("gunicorn is not installed");
    }
    let mut env = Env::new();
    shipped(&env, "gunicorn", Some("8081"));
    lives(&mut env, "gunicorn", "/");
}

fn go(name: &str, port: &str, package: &str) {
    if !has("go") || !Path::new("/usr/share/gocode/src").join(package).exists() {
        return common::skip(&format!("go or {package} is not installed"));
    }
    let mut env = Env::new();
    let mut build = Command::new("go");
    build.current_dir(repository()).env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode");
    build.arg("build").arg("-o").arg(env.path(name)).arg(format!("units/apps/{name}/main.go"));
    let built = build.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    shipped(&env, name, Some(port));
    lives(&mut env, name, "/");
}

#[test]
fn go_with_the_activation_package() {
    go("go", "8082", "github.com/coreos/go-systemd");
}

#[test]
fn gin() {
    go("gin", "8083", "github.com/gin-gonic/gin");
}

#[test]
fn node() {
    if !has("node") {
        return common::skip("node is not installed");
    }
    let mut env = Env::new();
    shipped(&env, "node", Some("8084"));
    lives(&mut env, "node", "/");
}

#[test]
fn inetd() {
    let mut env = Env::new();
    shipped(&env, "inetd", Some("8085"));
    env.working_directory(repository());
    env.start();
    env.wait_state("inetd", UnitState::Listening);
    for _ in 0..3 {
        let mut client = http::Client::connect(&env.address("inetd", 0)).unwrap();
        client.write(b"somebody\n").unwrap();
        let text = client.rest().unwrap();
        assert!(text.contains("127.0.0.1"), "{text}");
    }
    stops(&mut env);
}

#[test]
fn rsyslogd() {
    if !has("rsyslogd") {
        return common::skip("rsyslogd is not installed");
    }
    let mut env = Env::new();
    shipped(&env, "rsyslogd", None);
    let text = std::fs::read_to_string(env.path("units/rsyslogd.toml")).unwrap();
    env.unit("rsyslogd", &text.replace("/tmp/aeterna-rsyslogd", "{dir}"));
    env.working_directory(repository());
    env.start();
    env.wait_state("rsyslogd", UnitState::Running);
    let say = |text: &str| {
        let socket = UnixDatagram::unbound().unwrap();
        socket.send_to(format!("<13>test: {text}").as_bytes(), env.path("log")).unwrap();
    };
    let written = |text: &str| {
        env.wait(text, || {
            std::fs::read_to_string(env.path("messages")).ok().filter(|file| file.contains(text))
        });
    };
    say("the first message");
    written("the first message");
    process::kill(env.main_pid("rsyslogd"), Signal::SIGKILL);
    // Nobody listens just now: it waits in the socket.
    say("a message in between");
    env.wait_unit("rsyslogd", "a second one", |u| u.generation == 2 && u.state == UnitState::Running);
    written("a message in between");
    stops(&mut env);
}
