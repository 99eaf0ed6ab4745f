//! The example service and the probe do what the other tests rely on; `aeternad` plays no part here.

use crate::common;
use common::http::{self, Client};
use common::{Env, example, process};
use nix::sys::signal::Signal;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Child, Command, Stdio};

/// A program with `socket` as its descriptor 3 and LISTEN_PID right, as a supervisor would start it.
fn launch(env: &Env, name: &str, socket: OwnedFd, arguments: &[&str]) -> (Child, UnixDatagram) {
    let notify = env.path("notify.sock");
    let notify_socket = UnixDatagram::bind(&notify).unwrap();
    notify_socket.set_read_timeout(Some(common::WAIT)).unwrap();
    let mut command: Command = env.command("/bin/sh");
    command.args(["-c", "exec 3<&0 0</dev/null; export LISTEN_PID=$$; exec \"$0\" \"$@\""]);
    command.arg(example(name)).args(arguments);
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "http").env("AETERNA_GENERATION", "7");
    // However long a test is kept from its next request.
    command.env("IDLE_IN_DRAIN_MS", "30000");
    command.env("NOTIFY_SOCKET", notify).stdin(Stdio::from(socket)).stdout(Stdio::null());
    (command.spawn().unwrap(), notify_socket)
}

fn message(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn listener() -> (OwnedFd, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener.into(), address)
}

fn end(mut child: Child) -> i32 {
    process::code(child.wait().unwrap())
}

#[test]
fn echo_serves_what_it_was_lent_and_drains_on_sigterm() {
    let env = Env::new();
    let (socket, address) = listener();
    let (child, notify) = launch(&env, "echo", socket, &[]);
    assert_eq!(message(&notify), "READY=1");
    let first = http::get(&address, "/").unwrap();
    assert!(first.body.contains("\"generation\":7,\"count\":1"), "{}", first.body);
    let mut kept = Client::connect(&address).unwrap();
    assert!(!kept.get("/").unwrap().closes);
    process::kill(child.id() as i32, Signal::SIGTERM);
    assert_eq!(message(&notify), "STOPPING=1");
    let last = kept.get("/").unwrap();
    assert!(last.body.contains("\"count\":3"), "{}", last.body);
    assert!(last.closes, "a kept connection is told to go");
    assert_eq!(end(child), 0);
}

#[test]
fn echo_binds_its_port_when_nobody_lends_it_a_socket() {
    let env = Env::new();
    let port = common::port::free_port().to_string();
    let address = format!("127.0.0.1:{port}");
    let mut child = env.command(example("echo")).env("PORT", port).spawn().unwrap();
    let response = env.wait("an answer", || http::get(&address, "/").ok());
    assert!(response.body.contains("\"generation\":0"), "{}", response.body);
    process::kill(child.id() as i32, Signal::SIGTERM);
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_probe_reports_what_it_was_given() {
    let env = Env::new();
    let (socket, address) = listener();
    let (child, notify) = launch(&env, "probe", socket, &["ready=order", "orders=orders-%g.sock"]);
    let orders = env.path("orders-7.sock").display().to_string();
    env.wait("the order socket", || orders_answer(&orders));
    assert_eq!(http::get(&orders, "/ready").unwrap().body, "said\n");
    assert_eq!(message(&notify), "READY=1");
    let report: serde_json::Value =
        serde_json::from_str(&http::get(&address, "/report").unwrap().body).unwrap();
    assert_eq!(report["pid"], child.id());
    assert_eq!(report["env"]["LISTEN_FDNAMES"], "http");
    assert_eq!(report["sockets"][0]["name"], "http");
    assert_eq!(report["sockets"][0]["address"], address);
    assert_eq!(report["sockets"][0]["listening"], true);
    assert_eq!(report["listen_pid_is_mine"], true);
    assert_eq!(report["sig_cgt"], 0, "no runtime has been at work before the report");
    assert_eq!(report["fds"]["0"], "/dev/null");
    assert!(report["limits"]["Max open files"][0].is_string(), "{}", report["limits"]);
    assert_eq!(http::get(&address, "/exit?code=3").unwrap().body, "bye\n");
    assert_eq!(end(child), 3);
}

fn orders_answer(path: &str) -> Option<()> {
    http::get(path, "/").ok().map(drop)
}

#[test]
fn a_held_connection_hears_of_sigterm_and_keeps_the_drain_waiting() {
    let env = Env::new();
    let (socket, address) = listener();
    let (mut child, notify) = launch(&env, "probe", socket, &[]);
    assert_eq!(message(&notify), "READY=1");
    let mut held = Client::connect(&address).unwrap();
    held.send("/hold", "").unwrap();
    while !held.line().unwrap().is_empty() {}
    assert_eq!(held.line().unwrap(), format!("{} 7", child.id()));
    process::kill(child.id() as i32, Signal::SIGTERM);
    assert_eq!(held.line().unwrap(), "term");
    assert!(child.try_wait().unwrap().is_none(), "it waits for the connection");
    drop(held);
    assert_eq!(end(child), 0);
}

#[test]
fn the_probe_leaves_grandchildren_stores_descriptors_and_dies_of_signals() {
    let env = Env::new();
    let path = env.path("http.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let (child, notify) = launch(&env, "probe", socket.into(), &["spawn=double+ignore", "fdstore=a:b"]);
    assert_eq!(message(&notify), "FDSTORE=1\nFDNAME=a");
    assert_eq!(message(&notify), "READY=1");
    let address = path.display().to_string();
    let pid: i32 = http::get(&address, "/spawn?mode=setsid").unwrap().body.parse().unwrap();
    assert_eq!(process::state(pid).unwrap().1, child.id() as i32);
    let grandchildren: Vec<_> =
        env.processes().into_iter().filter(|seen| seen.command.contains("role=grandchild")).collect();
    assert_eq!(grandchildren.len(), 2, "{grandchildren:?}");
    assert_eq!(http::get(&address, "/notify?STATUS=a%20b%0AX=1").unwrap().body, "true\n");
    assert_eq!(message(&notify), "STATUS=a b\nX=1");
    drop(http::get(&address, "/signal?signal=ABRT"));
    assert_eq!(end(child), 134);
    for seen in grandchildren {
        process::kill(seen.pid, Signal::SIGKILL);
        env.wait("the end of a grandchild", || {
            process::state(seen.pid).is_none_or(|(state, _)| state == 'Z').then_some(())
        });
    }
}
