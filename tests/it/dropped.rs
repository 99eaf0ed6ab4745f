//! Addresses that a reload drops, or makes wider, while the generation that has them lives on.

use crate::common;
use aeterna::proto::status::UnitState;
use common::app::{APP, App};
use common::hammer::{HTTP, Hammer, To};
use common::http;
use common::port::free_port;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

const AT_ONCE: &str = "Strategy = \"immediate\"\nDrainTimeout = \"50s\"";

/// The app with these addresses.
fn with(addresses: &[String]) -> String {
    let list: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    format!("ListenStream = [{}]\nFileDescriptorName = \"http\"", list.join(", "))
}

#[test]
fn a_dropped_address_is_refused_while_the_old_generation_drains_and_comes_back_with_it() {
    let (kept, dropped) = (free_port(), free_port());
    let both = with(&[format!("127.0.0.1:{kept}"), format!("127.0.0.1:{dropped}")]);
    let env = App { socket: &both, reload: AT_ONCE, ..APP }.start();
    let held = env.hold();
    let one = with(&[format!("127.0.0.1:{kept}")]);
    App { socket: &one, reload: AT_ONCE, ..APP }.write(&env);
    env.reload_well();
    assert_eq!(env.generations().len(), 2, "the old one drains");
    for _ in 0..5 {
        let refused = TcpStream::connect(("127.0.0.1", dropped)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(env.answers(), 2);
    }
    if nix::unistd::geteuid().is_root() {
        App { socket: &both, reload: AT_ONCE, ..APP }.write(&env);
        env.reload_well();
        let answer = http::get(&format!("127.0.0.1:{dropped}"), "/").unwrap();
        assert!(answer.body.contains("\"generation\":3"), "{}", answer.body);
    }
    drop(held);
    env.wait_state("app", UnitState::Running);
}

#[test]
fn so_is_a_dropped_path() {
    let bench = common::Env::new();
    let (kept, dropped) = (bench.path("kept.sock"), bench.path("dropped.sock"));
    let paths = [kept.display().to_string(), dropped.display().to_string()];
    let env = App { socket: &with(&paths), reload: AT_ONCE, ..APP }.start();
    let held = env.hold();
    App { socket: &with(&paths[..1]), reload: AT_ONCE, ..APP }.write(&env);
    env.reload_well();
    assert_eq!(env.generations().len(), 2, "the old one drains");
    assert!(UnixStream::connect(&dropped).is_err());
    App { socket: &with(&paths), reload: AT_ONCE, ..APP }.write(&env);
    env.reload_well();
    let answer = http::get(&dropped.display().to_string(), "/").unwrap();
    assert_eq!(answer.status, 200);
    drop(held);
    env.wait_state("app", UnitState::Running);
}

#[test]
fn an_address_becomes_wider_and_nobody_notices() {
    let port = free_port();
    let reload = "SoakTime = \"50ms\"\nCanaryWeight = 50\nDrainTimeout = \"20s\"";
    let address = |host: &str| with(&[format!("{host}:{port}")]) + "\nBindIPv6Only = \"both\"";
    let more = format!("[HealthCheck]\nTcpConnect = \"127.0.0.1:{port}\"\nInterval = \"50ms\"");
    let env = App { socket: &with(&[format!("127.0.0.1:{port}")]), reload, more: &more, ..APP }.start();
    let hammer = Hammer::start(&To::Port(port), HTTP);
    for host in ["0.0.0.0", "[::]"] {
        hammer.wait_answers(20);
        App { socket: &address(host), reload, more: &more, ..APP }.write(&env);
        env.reload_well();
        env.wait_unit("app", "the old one is gone", |unit| unit.generations.len() == 1);
        hammer.wait_answers(20);
        let sockets = env.unit_status("app").sockets;
        assert_eq!((sockets.len(), sockets[0].address.clone()), (1, format!("{host}:{port}")));
    }
    let (answered, failed) = hammer.finish();
    assert!(failed.is_empty(), "{} of {answered} failed: {:?}", failed.len(), failed.first());
    // A narrower one would take connections before anybody serves them.
    App { socket: &with(&[format!("127.0.0.1:{port}")]), reload, ..APP }.write(&env);
    let refused = env.reload();
    assert_ne!(refused.code, 0);
    let text = refused.stdout + &refused.stderr;
    assert!(text.contains(&format!("the unit has [::]:{port} itself")), "{text}");
    assert!(text.contains("aeternactl stop --close app"), "{text}");
    // And that is the way.
    assert_eq!(env.ctl(&["stop", "--close", "app"]).code, 0);
    assert_eq!(env.ctl(&["start", "app"]).code, 0);
    assert_eq!(env.unit_status("app").sockets[0].address, format!("127.0.0.1:{port}"));
}
