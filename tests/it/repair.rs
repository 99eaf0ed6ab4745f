//! The lent socket comes back whole.

use crate::common;
use aeterna::proto::status::UnitState;
use common::app::{APP, App};
use common::load::{Load, Manner};
use common::{Env, http};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

#[test]
fn a_listener_that_a_child_shuts_down_is_repaired() {
    for sharing in ["steered", "shared"] {
        let socket = format!("ListenStream = \"127.0.0.1:0\"\nSharing = \"{sharing}\"");
        let env = App {
            socket: &socket,
            service: "Type = \"notify\"\nRestart = \"always\"\nRestartSec = 0",
            ..APP
        }
        .start();
        let address = env.address("app", 0);
        env.order(1, "/shutdown?fd=3");
        env.wait_unit("app", "repaired", |u| u.sockets[0].repairs >= 1);
        // Whether its own process accepts again is its affair: the next generation does.
        env.reload_well();
        env.wait_state("app", UnitState::Running);
        assert_eq!(http::get(&address, "/").unwrap().status, 200, "{sharing}");
        assert_eq!(env.address("app", 0), address);
    }
}

#[test]
fn an_old_generation_that_shuts_its_listener_down_at_its_end_loses_nothing() {
    let env = App { reload: "Strategy = \"immediate\"\nDrainTimeout = \"10s\"", ..APP }.start();
    env.next_start("term=hang");
    env.reload_well();
    env.wait_state("app", UnitState::Running);
    let load = Load::start(&env.address("app", 0), 3, Manner::Fresh);
    for round in 1..=5 {
        load.wait_answers(30);
        let old = env.unit_status("app").generation;
        let mut held = env.orders(old);
        held.send("/hold", "").unwrap();
        env.reload_well();
        // Its stop signal says that its queue was emptied: what waited there would be lost with the listener.
        env.wait("the old one has its stop signal", || (held.line().ok()? == "term").then_some(()));
        assert_eq!(env.order(old, "/shutdown?fd=3"), "done\n");
        env.wait_unit("app", "repaired", |u| u.sockets[0].repairs >= round);
        assert_eq!(env.ctl(&["kill", "app", "-s", "KILL", "--generation", &old.to_string()]).code, 0);
        env.wait_state("app", UnitState::Running);
    }
    let counts = load.finish();
    assert_eq!(counts.failed, Vec::<String>::new(), "of {}", counts.ok);
}

#[test]
fn a_unix_path_that_is_unlinked_comes_back_with_its_queue() {
    let env = App { socket: "ListenStream = \"{dir}/app.sock\"", ..APP }.start();
    let path = env.path("app.sock");
    let address = path.display().to_string();
    let mut orders = env.orders(1);
    orders.get("/stop-accepting").unwrap();
    let mut queued = http::Client::connect(&address).unwrap();
    queued.send("/", "Connection: close\r\n").unwrap();
    env.wait_unit("app", "one in the queue", |u| u.sockets[0].queue == Some(1));
    std::fs::remove_file(&path).unwrap();
    env.wait("the path is back", || path.exists().then_some(()));
    let mut later = http::Client::connect(&address).unwrap();
    later.send("/", "Connection: close\r\n").unwrap();
    orders.get("/accept-again").unwrap();
    assert_eq!(queued.receive().unwrap().status, 200);
    env.reload_well();
    assert_eq!(later.receive().unwrap().status, 200, "no later than after the next reload");
    assert_eq!(http::get(&address, "/").unwrap().status, 200);
}

#[test]
fn the_queue_and_its_limit_are_in_the_status() {
    let env = App { socket: "ListenStream = \"127.0.0.1:0\"\nBacklog = 17", ..APP }.start();
    let mut orders = env.orders(1);
    orders.get("/stop-accepting").unwrap();
    let address = env.address("app", 0);
    // One may be accepted that the service was waiting for already.
    let clients: Vec<_> = (0..6).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
    let socket = env.wait_unit("app", "queued", |u| u.sockets[0].queue >= Some(5)).sockets.remove(0);
    assert_eq!(socket.limit, Some(17));
    drop(clients);
    orders.get("/accept-again").unwrap();
    env.wait_unit("app", "empty", |u| u.sockets[0].queue == Some(0));
}

#[test]
fn somebody_else_who_listens_on_a_steered_address_is_named() {
    let mut env = Env::new();
    if !env.as_nobody() {
        return;
    }
    App { reload: "Strategy = \"immediate\"\nDrainTimeout = \"10s\"", ..APP }.write(&env);
    env.start();
    env.wait_state("app", UnitState::Running);
    assert!(!env.unit_status("app").sockets[0].why.contains("listens"));
    let address = env.address("app", 0);
    let port = address.rsplit(':').next().unwrap();
    let script = format!(
        "import socket, os\ns = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n\
         s.bind(('127.0.0.1', {port})); s.listen(5); print('there', flush=True); input()"
    );
    let mut stranger = env.command("/usr/bin/python3");
    std::os::unix::process::CommandExt::uid(&mut stranger, 65534);
    std::os::unix::process::CommandExt::gid(&mut stranger, 65534);
    let stranger = stranger.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut stranger = stranger.unwrap();
    let mut line = String::new();
    BufReader::new(stranger.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "there\n");
    env.reload_well();
    let log = env.wait_log("listens on");
    let told = format!("python3, pid {} (uid 65534) listens on {address} too", stranger.id());
    assert!(log.contains(&told) && log.contains("as root"), "{log}");
    assert!(env.unit_status("app").sockets[0].why.contains(&told));
    // It is the last member of the group, and gets nothing as long as ours are there.
    (0..20).for_each(|_| assert_eq!(env.answers(), 2));
    drop(stranger.stdin.take());
    stranger.wait().unwrap();
    assert!(!env.unit_status("app").sockets[0].why.contains("listens"));
}

#[test]
fn a_path_is_where_it_leads_at_a_reload() {
    for sharing in ["shared", "steered"] {
        let socket = format!("ListenStream = \"{{dir}}/current/run/app.sock\"\nSharing = \"{sharing}\"");
        let mut env = Env::new();
        for release in ["r1", "r2", "r3"] {
            std::fs::create_dir_all(env.path(release).join("run")).unwrap();
        }
        let switch = |release: &str| {
            std::os::unix::fs::symlink(release, env.path("next")).unwrap();
            std::fs::rename(env.path("next"), env.path("current")).unwrap();
        };
        switch("r1");
        App { socket: &socket, reload: "Strategy = \"immediate\"", ..APP }.write(&env);
        env.start();
        env.wait_state("app", UnitState::Running);
        let path = env.path("current/run/app.sock").display().to_string();
        assert_eq!(http::get(&path, "/").unwrap().status, 200);
        // The link is switched, back, and to a folder whose predecessor is gone already.
        for release in ["r2", "r1", "r3"] {
            std::os::unix::fs::symlink(release, env.path("next")).unwrap();
            std::fs::rename(env.path("next"), env.path("current")).unwrap();
            if release == "r3" {
                std::fs::remove_dir_all(env.path("r1")).unwrap();
                env.wait_log("made it anew");
                assert!(env.unit_status("app").sockets[0].unserved, "{sharing}");
                assert!(env.status().unready().unwrap().contains("made anew"), "{sharing}");
                assert_eq!(env.ctl(&["is-ready"]).code, 3, "{sharing}");
            }
            env.reload_well();
            assert_eq!(http::get(&path, "/").unwrap().status, 200, "{sharing}, {release}");
            assert_eq!(env.status().unready(), None, "{sharing}, {release}");
        }
        let left = |release: &str| std::fs::read_dir(env.path(release).join("run")).unwrap().count();
        assert_eq!(left("r2"), 0, "nothing of ours stays where it leads no more");
        // Somebody else serves where it leads now: that is no reason to take it from him.
        let _other = std::os::unix::net::UnixListener::bind(env.path("r2/run/app.sock")).unwrap();
        std::os::unix::fs::symlink("r2", env.path("next")).unwrap();
        std::fs::rename(env.path("next"), env.path("current")).unwrap();
        let refused = env.ctl(&["reload", "app"]);
        let said = format!("{}{}", refused.stdout, refused.stderr);
        assert!(refused.code != 0 && said.contains("somebody else serves it there"), "{sharing}: {said}");
        let old = env.path("r3/run/app.sock").display().to_string();
        assert_eq!(http::get(&old, "/").unwrap().status, 200, "{sharing}");
    }
}

#[test]
fn a_path_on_another_file_system_is_given_back_when_the_reload_fails() {
    use std::os::unix::fs::MetadataExt;
    let other = tempfile::Builder::new().prefix("ae").tempdir_in("/dev/shm");
    let Ok(other) = other else { return common::skip("there is no second file system to write to") };
    for sharing in ["shared", "steered"] {
        let socket = format!("ListenStream = \"{{dir}}/current/run/app.sock\"\nSharing = \"{sharing}\"");
        let mut env = Env::new();
        if std::fs::metadata(other.path()).unwrap().dev() == std::fs::metadata(env.dir()).unwrap().dev() {
            return common::skip("/dev/shm is no file system of its own");
        }
        let far = other.path().join(sharing);
        for folder in [env.path("r1"), far.clone()] {
            std::fs::create_dir_all(folder.join("run")).unwrap();
        }
        let near = env.path("r1");
        let (next, current) = (env.path("next"), env.path("current"));
        let switch = |to: &std::path::Path| {
            std::os::unix::fs::symlink(to, &next).unwrap();
            std::fs::rename(&next, &current).unwrap();
        };
        switch(&near);
        App { socket: &socket, reload: "SoakTime = \"50ms\"\nDrainTimeout = \"10s\"", ..APP }.write(&env);
        env.start();
        env.wait_state("app", UnitState::Running);
        let path = env.path("current/run/app.sock").display().to_string();
        let old = near.join("run/app.sock").display().to_string();
        let names = |folder: &std::path::Path| std::fs::read_dir(folder.join("run")).unwrap().count();
        let before = names(&near);
        assert_eq!(http::get(&path, "/").unwrap().status, 200);
        // One that is rolled back, and one that is over before anything is launched.
        for orders in ["exit=3", ""] {
            switch(&far);
            let broken = format!("{socket}\n[[Socket]]\nListenStream = \"203.0.113.7:1\"");
            let fails = App { socket: if orders.is_empty() { &broken } else { &socket }, ..APP };
            fails.write(&env);
            env.next_start(orders);
            assert_ne!(env.ctl(&["reload", "app"]).code, 0);
            env.wait_state("app", UnitState::Running);
            assert!(std::os::unix::net::UnixStream::connect(&path).is_err(), "nobody waits there for ever");
            assert_eq!(http::get(&old, "/").unwrap().status, 200, "{sharing}\n{}", env.log());
            assert_eq!((names(&near), names(&far)), (before, 0), "{sharing}");
            switch(&near);
            assert_eq!(http::get(&path, "/").unwrap().status, 200, "{sharing}");
        }
        env.next_start("");
        App { socket: &socket, ..APP }.write(&env);
        switch(&far);
        env.reload_well();
        assert_eq!(http::get(&path, "/").unwrap().status, 200, "{sharing}");
        env.wait_unit("app", "the old one is gone", |unit| unit.generations.len() == 1);
        assert_eq!(names(&near), 0, "nothing of ours stays where it leads no more");
        env.reload_well();
        assert_eq!(http::get(&path, "/").unwrap().status, 200, "{sharing}");
    }
}
