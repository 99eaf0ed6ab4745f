//! Each socket of a slot is watched from its making to its end: nobody who connects waits for ever.

use crate::common;
use aeterna::proto::status::UnitState;
use common::WAIT;
use common::app::{APP, App};
use common::http::Client;
use std::io::{Read, Write};
use std::net::TcpStream;

const AT_ONCE: &str = "Strategy = \"immediate\"\nDrainTimeout = \"50s\"";

#[test]
fn a_third_slot_is_watched_like_the_first_two() {
    let env = App {
        service: "Type = \"notify\"\nStartOn = \"connection\"\nStopWhenIdleSec = \"1s\"",
        reload: AT_ONCE,
        ..APP
    };
    let mut bench = common::Env::new();
    env.write(&bench);
    bench.start();
    bench.wait_state("app", UnitState::Listening);
    // Two generations drain, the third has the third slot.
    let first = bench.hold();
    bench.reload_well();
    let second = bench.hold();
    bench.reload_well();
    assert_eq!((first.1, second.1, bench.answers()), (1, 2, 3));
    drop((first, second));
    bench.wait_state("app", UnitState::Listening);
    assert_eq!(bench.answers(), 4, "whoever comes starts it again");
    let log = bench.log();
    assert!(!log.contains("cannot watch"), "{log}");
}

#[test]
fn a_listener_that_is_shut_down_in_a_third_slot_is_repaired() {
    let env = App { reload: AT_ONCE, ..APP }.start();
    let first = env.hold();
    env.reload_well();
    let second = env.hold();
    env.reload_well();
    env.order(3, "/shutdown?fd=3");
    env.wait_log("listening on it again");
    assert_eq!(env.unit_status("app").sockets[0].repairs, 1);
    drop((first, second));
}

#[test]
fn each_connection_that_completes_late_on_a_slot_that_was_left_is_answered() {
    let env = App {
        socket: "ListenStream = \"127.0.0.1:0\"\nDeferAcceptSec = \"30s\"\nFileDescriptorName = \"http\"",
        reload: AT_ONCE,
        ..APP
    }
    .start();
    let address = env.address("app", 0);
    // Their handshake is over for them, and not for the kernel here, which waits for the first byte.
    let mut late: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let old = env.main_pid("app");
    env.reload_well();
    env.wait_gone(old);
    for (number, client) in late.iter_mut().enumerate() {
        client.set_read_timeout(Some(WAIT)).unwrap();
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        let read = client.read_to_string(&mut answer);
        assert!(read.is_ok() && answer.contains("200"), "client {number}: {read:?} {answer}\n{}", env.log());
        // Each of them has a rescue of its own.
        env.wait_unit("app", "the rescue is over", |unit| unit.generations.len() == 1);
    }
    assert_eq!(env.unit_status("app").sockets[0].queue, Some(0));
}

#[test]
fn what_waits_on_a_left_slot_starts_a_unit_that_sleeps() {
    let bench = App {
        socket: "ListenStream = \"127.0.0.1:0\"\nDeferAcceptSec = \"30s\"\nFileDescriptorName = \"http\"",
        service: "Type = \"notify\"\nStartOn = \"connection\"\nStopWhenIdleSec = \"1s\"",
        reload: AT_ONCE,
        ..APP
    };
    let mut env = common::Env::new();
    bench.write(&env);
    env.start();
    env.wait_state("app", UnitState::Listening);
    let address = env.address("app", 0);
    assert_eq!(env.answers(), 1);
    let mut late = TcpStream::connect(&address).unwrap();
    late.set_read_timeout(Some(WAIT)).unwrap();
    env.reload_well();
    env.wait_state("app", UnitState::Listening);
    late.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    late.read_to_string(&mut answer).unwrap_or_else(|error| env.fail(&format!("no answer: {error}")));
    assert!(answer.contains("200"), "{answer}");
    let mut client = Client::connect(&address).unwrap();
    assert_eq!(client.get("/").unwrap().status, 200);
}

#[test]
fn an_instance_has_its_connection_and_keeps_no_port_open() {
    let mut env = common::Env::new();
    let (kept, dropped) = (common::port::free_port(), common::port::free_port());
    let unit = |ports: &[u16]| {
        let ports: Vec<String> = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        format!(
            "[Socket]\nListenStream = [{}]\nAccept = true\n[Service]\nExecStart = \"/bin/cat\"\n\
             StandardInput = \"socket\"\nStandardOutput = \"socket\"\n",
            ports.join(", ")
        )
    };
    env.unit("app", &unit(&[kept, dropped]));
    env.start();
    env.wait_state("app", UnitState::Listening);
    let mut old = TcpStream::connect(("127.0.0.1", kept)).unwrap();
    old.set_read_timeout(Some(WAIT)).unwrap();
    let mut echoes = |text: &[u8]| {
        old.write_all(text).unwrap();
        let mut back = vec![0; text.len()];
        old.read_exact(&mut back).unwrap();
        assert_eq!(back, text);
    };
    echoes(b"before");
    env.unit("app", &unit(&[kept]));
    env.reload_well();
    assert_eq!(env.unit_status("app").sockets.len(), 1);
    assert!(TcpStream::connect(("127.0.0.1", dropped)).is_err(), "nobody answers there any more");
    echoes(b"after");
}
