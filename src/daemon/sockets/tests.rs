//! Real sockets on loopback and in temporary folders.

use super::*;
use crate::machine::event::SteerBy;
use crate::sys::clock;
use crate::sys::socket::{dial, probe_socket};
use crate::time::Span;
use crate::unit::*;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

fn options() -> SocketOptions {
    SocketOptions {
        backlog: u32::MAX,
        bind_ipv6_only: BindIpv6Only::Default,
        reuse_port: false,
        free_bind: false,
        transparent: false,
        bind_to_device: None,
        no_delay: false,
        defer_accept: Span::ZERO,
        keep_alive: false,
        keep_alive_time: None,
        keep_alive_interval: None,
        keep_alive_probes: None,
        priority: None,
        mark: None,
        ip_tos: None,
        ip_ttl: None,
        receive_buffer: None,
        send_buffer: None,
        pipe_size: None,
        tcp_congestion: None,
        protocol: None,
        pass_credentials: false,
        socket_user: None,
        socket_group: None,
        socket_mode: 0o666,
        directory_mode: 0o755,
        symlinks: vec![],
        remove_on_stop: false,
        flows: FlowOptions::default(),
    }
}

pub(super) fn table(listen: Vec<Listen>) -> Socket {
    Socket {
        listen,
        name: "http".into(),
        options: options().into(),
        sharing: Sharing::Auto,
        accept: false,
        max_connections: 64,
        max_connections_per_source: 0,
        flush_pending: false,
        trigger_limit_interval: Span::from_secs(2),
        trigger_limit_burst: 20,
    }
}

pub(super) fn unit(sockets: Vec<Socket>) -> Unit {
    let text = "[Socket]\nListenStream = 1\n[Service]\nExecStart = \"/bin/true\"\n";
    let context = Context {
        file: "app.toml".into(),
        stem: "app".into(),
        runtime_dir: "/run/aeterna".into(),
        pid1: false,
    };
    let mut unit = parse(text, &context).unwrap().unit;
    unit.sockets = sockets;
    unit
}

fn tcp(address: &str) -> Listen {
    Listen { kind: ListenKind::Stream, address: Address::Inet(address.parse().unwrap()) }
}

pub(super) fn path(kind: ListenKind, at: &Path) -> Listen {
    Listen { kind, address: Address::Path(at.display().to_string()) }
}

pub(super) fn open(unit: &Unit) -> ListenSet {
    let (set, warnings) = ListenSet::open(unit, &mut Inherited::none()).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    set
}

pub(super) fn address(set: &ListenSet) -> SocketAddr {
    set.endpoints[0].at.map(socket::reachable).unwrap()
}

fn is_root() -> bool {
    std::process::Command::new("id").arg("-u").output().unwrap().stdout == b"0\n"
}

/// A descriptor as a service has it after exec: its own copy of the same description.
pub(super) fn copy(set: &mut ListenSet, unit: &Unit, slot: u32) -> OwnedFd {
    set.lend(unit, slot).unwrap()[0].fd.try_clone_to_owned().unwrap()
}

/// A service on one slot: answers every connection with its letter.
struct Server {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
    listener: TcpListener,
}

impl Server {
    fn start(set: &mut ListenSet, unit: &Unit, slot: u32, letter: u8) -> Server {
        let listener = TcpListener::from(copy(set, unit, slot));
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count, accepting) = (stop.clone(), answered.clone(), listener.try_clone().unwrap());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let mut polled = [nix::poll::PollFd::new(accepting.as_fd(), nix::poll::PollFlags::POLLIN)];
                if nix::poll::poll(&mut polled, 5u8).unwrap_or(0) == 0 {
                    continue;
                }
                let Ok((mut connection, _)) = accepting.accept() else { continue };
                count.fetch_add(1, Ordering::SeqCst);
                let _ = connection.write_all(&[letter]);
            }
        });
        Server { stop, answered, thread: Some(thread), listener }
    }

    fn end(mut self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        self.answered.load(Ordering::SeqCst)
    }
}

fn answer(mut stream: impl Read) -> std::io::Result<u8> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    Ok(byte[0])
}

/// How many of `count` connections were answered with each letter.
fn ask(at: SocketAddr, count: usize) -> BTreeMap<u8, usize> {
    let mut found = BTreeMap::new();
    for _ in 0..count {
        *found.entry(answer(TcpStream::connect(at).unwrap()).unwrap()).or_default() += 1;
    }
    found
}

/// Waits until so many connections wait on an address: the kernel may finish a handshake later than connect(2).
fn wait_queue(set: &ListenSet, endpoint: usize, length: u32) {
    let until = clock::now() + Span::from_secs(60);
    while set.status()[endpoint].queue != Some(length) {
        assert!(clock::now() < until, "{:?}", set.status()[endpoint].queue);
        std::thread::yield_now();
    }
}

pub(super) fn steered_unit() -> Unit {
    unit(vec![table(vec![tcp("127.0.0.1:0")])])
}

#[test]
fn weights_are_kept() {
    for listen in
        [tcp("127.0.0.1:0"), tcp("[::1]:0"), Listen { kind: ListenKind::Stream, address: Address::Port(0) }]
    {
        let unit = unit(vec![table(vec![listen])]);
        let mut set = open(&unit);
        assert!(set.steered(&unit));
        let at = address(&set);
        let (a, b) = (Server::start(&mut set, &unit, 0, b'a'), Server::start(&mut set, &unit, 1, b'b'));
        assert_eq!(ask(at, 50), BTreeMap::from([(b'a', 50)]), "nothing for a slot before it is asked for");
        set.steer(0, Some((1, 0)), SteerBy::Connection).unwrap();
        assert_eq!(ask(at, 50), BTreeMap::from([(b'a', 50)]));
        set.steer(0, Some((1, 50)), SteerBy::Connection).unwrap();
        let half = ask(at, 400);
        assert!((120..280).contains(&half[&b'b']), "{half:?}");
        set.steer(0, Some((1, 50)), SteerBy::Client).unwrap();
        assert_eq!(ask(at, 50).len(), 1, "one client, one side");
        set.steer(0, Some((1, 100)), SteerBy::Connection).unwrap();
        assert_eq!(ask(at, 50), BTreeMap::from([(b'b', 50)]));
        set.steer(1, None, SteerBy::Connection).unwrap();
        assert_eq!(ask(at, 50), BTreeMap::from([(b'b', 50)]));
        a.end();
        b.end();
        set.close();
    }
}

#[test]
fn a_probe_reaches_its_slot_and_nobody_else() {
    let unit = steered_unit();
    let mut set = open(&unit);
    let at = address(&set);
    let (a, b) = (Server::start(&mut set, &unit, 0, b'a'), Server::start(&mut set, &unit, 1, b'b'));
    for _ in 0..20 {
        let (fd, from) = probe_socket(at).unwrap();
        set.probe_port(1, from).unwrap();
        assert_eq!(ask(at, 2), BTreeMap::from([(b'a', 2)]));
        dial(fd.as_fd(), at).unwrap();
        socket::set_nonblocking(fd.as_fd(), false).unwrap();
        let mut polled = [nix::poll::PollFd::new(fd.as_fd(), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut polled, nix::poll::PollTimeout::NONE).unwrap();
        assert_eq!(answer(TcpStream::from(fd)).unwrap(), b'b');
        set.end_probe(from).unwrap();
    }
    a.end();
    assert_eq!(b.end(), 20);
}

#[test]
fn switching_under_load_loses_nothing() {
    let unit = steered_unit();
    let mut set = open(&unit);
    let at = address(&set);
    let done = Arc::new(AtomicUsize::new(0));
    let failures = Arc::new(Mutex::new(Vec::new()));
    let mut serving = Server::start(&mut set, &unit, 0, b'0');
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (done, failures) = (done.clone(), failures.clone());
            std::thread::spawn(move || {
                for _ in 0..500 {
                    if let Err(error) = TcpStream::connect(at).and_then(answer) {
                        failures.lock().unwrap().push(error.to_string());
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let mut switches = 0;
    let mut slot = 0;
    while done.load(Ordering::SeqCst) < 1900 {
        let next = 1 - slot;
        let new = Server::start(&mut set, &unit, next, b'0' + next as u8);
        set.steer(slot, Some((next, 30)), SteerBy::Connection).unwrap();
        set.steer(next, None, SteerBy::Connection).unwrap();
        set.begin_drain(slot);
        while set.drain_state(slot) != (0, 0) {
            std::thread::yield_now();
        }
        // The old generation drops everything that it has not taken.
        std::mem::replace(&mut serving, new).end();
        slot = next;
        switches += 1;
    }
    // What a processor was still handling at the last switch may land on the old slot later than that.
    let rescue = Server::start(&mut set, &unit, 1 - slot, b'r');
    clients.into_iter().for_each(|client| client.join().unwrap());
    rescue.end();
    serving.end();
    assert!(switches > 0, "{switches}");
    assert_eq!(*failures.lock().unwrap(), Vec::<String>::new(), "after {switches} switches");
}

#[test]
fn a_quiet_slot_is_drained_soon() {
    let unit = steered_unit();
    let mut set = open(&unit);
    let _fd = copy(&mut set, &unit, 0);
    set.begin_drain(0);
    assert_eq!(set.drain_state(0), (0, 0));
    let _waiting = TcpStream::connect(address(&set)).unwrap();
    wait_queue(&set, 0, 1);
    assert_eq!(set.drain_state(0), (0, 1));
    assert_eq!((set.slot_state(0, 0), set.established()), ((1, false), 1));
    let status = set.status();
    assert_eq!((status[0].queue, status[0].sharing.as_str()), (Some(1), "steered"));
    assert!(status[0].limit.unwrap() >= 128);
    assert!(!status[0].address.ends_with(":0"), "{}", status[0].address);
}

#[test]
fn what_a_crash_left_is_served_on_its_slot() {
    let unit = steered_unit();
    let mut set = open(&unit);
    let at = address(&set);
    let a = Server::start(&mut set, &unit, 0, b'a');
    drop(copy(&mut set, &unit, 1));
    set.steer(0, Some((1, 100)), SteerBy::Connection).unwrap();
    let left: Vec<_> = (0..20).map(|_| TcpStream::connect(at).unwrap()).collect();
    wait_queue(&set, 0, 20);
    set.steer(0, None, SteerBy::Connection).unwrap();
    let (queued, migrated) = set.slot_state(1, 0);
    if !migrated {
        assert_eq!(queued, 20);
        let rescue = Server::start(&mut set, &unit, 1, b'r');
        for client in left {
            assert_eq!(answer(client).unwrap(), b'r');
        }
        assert_eq!(set.slot_state(1, 0), (0, false));
        rescue.end();
    } else {
        for client in left {
            assert_eq!(answer(client).unwrap(), b'a');
        }
    }
    assert_eq!(ask(at, 20), BTreeMap::from([(b'a', 20)]));
    a.end();
}

#[test]
fn a_slot_that_was_shut_down_is_revived_in_its_place() {
    let unit = steered_unit();
    let mut set = open(&unit);
    let at = address(&set);
    for serving in [0, 1, 0] {
        let server = Server::start(&mut set, &unit, serving, b's');
        set.steer(serving, None, SteerBy::Connection).unwrap();
        nix::sys::socket::shutdown(server.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
        let id = set.endpoints[0].slots[serving as usize].id;
        let text = set.repair(id).unwrap();
        assert!(text.contains("listening on it again"), "{text}");
        assert_eq!(set.repair(id), None);
        assert_eq!(address(&set), at, "the port stays");
        assert_eq!(ask(at, 30), BTreeMap::from([(b's', 30)]));
        server.end();
    }
    assert_eq!(set.status()[0].repairs, 3);
}

#[test]
fn a_third_slot_comes_when_it_is_asked_for() {
    let unit = steered_unit();
    let mut set = open(&unit);
    let at = address(&set);
    let servers: Vec<_> =
        (0..4).map(|slot| Server::start(&mut set, &unit, slot, b'0' + slot as u8)).collect();
    assert_eq!(set.watch_list().len(), 4);
    for slot in [3, 1, 2, 0] {
        set.steer(slot, None, SteerBy::Connection).unwrap();
        assert_eq!(ask(at, 20), BTreeMap::from([(b'0' + slot as u8, 20)]));
    }
    assert_eq!(servers.into_iter().map(Server::end).collect::<Vec<_>>(), [20; 4]);
}

#[test]
fn what_waits_before_the_first_launch_is_served_on_any_slot() {
    let unit = steered_unit();
    let mut set = open(&unit);
    let early = TcpStream::connect(address(&set)).unwrap();
    let server = Server::start(&mut set, &unit, 1, b'b');
    assert_eq!(answer(early).unwrap(), b'b');
    assert_eq!(ask(address(&set), 10), BTreeMap::from([(b'b', 10)]));
    server.end();
}

#[test]
fn a_new_address_goes_to_the_generation_that_knows_it() {
    let old = steered_unit();
    let mut set = open(&old);
    let a = Server::start(&mut set, &old, 0, b'a');
    set.steer(0, None, SteerBy::Connection).unwrap();
    let new = unit(vec![table(vec![tcp("127.0.0.1:0"), tcp("127.0.0.1:0")])]);
    set.add(&new).unwrap();
    let second = set.endpoints[1].at.unwrap();
    let early = TcpStream::connect(second).unwrap();
    wait_queue(&set, 1, 1);
    let fds: Vec<_> =
        set.lend(&new, 1).unwrap().iter().map(|lent| lent.fd.try_clone_to_owned().unwrap()).collect();
    set.steer(0, Some((1, 10)), SteerBy::Connection).unwrap();
    let late = TcpStream::connect(second).unwrap();
    let [_, listener] = <[OwnedFd; 2]>::try_from(fds).unwrap().map(TcpListener::from);
    for client in [early, late] {
        let (connection, from) = listener.accept().unwrap();
        assert_eq!(from, client.local_addr().unwrap());
        drop(connection);
    }
    set.steer(0, None, SteerBy::Connection).unwrap();
    assert_eq!(set.keep(&[&old], &[]), 1);
    assert_eq!(set.keep(&[&old], &[]), 0);
    assert_eq!(ask(address(&set), 10), BTreeMap::from([(b'a', 10)]));
    a.end();
}

#[test]
fn a_taken_address_is_an_error_that_names_the_holder() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = held.local_addr().unwrap();
    let both = unit(vec![table(vec![tcp("127.0.0.1:0"), tcp(&at.to_string())])]);
    let errors = ListenSet::open(&both, &mut Inherited::none()).unwrap_err();
    let me = format!("pid {}", std::process::id());
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0].starts_with(&format!("cannot bind {at}: Address already in use (held by ")),
        "{errors:?}"
    );
    assert!(errors[0].contains(&me), "{errors:?}");
    let mut set = open(&steered_unit());
    assert!(set.add(&both).unwrap_err().contains(&me));
    assert_eq!(set.endpoints.len(), 1, "all or nothing");
    // Our own steered address is as taken as any other.
    let again = unit(vec![table(vec![tcp(&address(&set).to_string())])]);
    assert!(ListenSet::open(&again, &mut Inherited::none()).is_err());
}

#[test]
fn a_stranger_cannot_join_the_group() {
    if !is_root() {
        return println!("skipped: only root can give its sockets to another user");
    }
    let set = open(&steered_unit());
    let at = address(&set);
    for stranger in [at, SocketAddr::from(([0, 0, 0, 0], at.port()))] {
        let mut options = options();
        options.reuse_port = true;
        let listen = tcp(&stranger.to_string());
        assert!(socket::open(&listen, &options, socket::Place::Alone).is_err(), "{stranger}");
    }
    assert_eq!(set.strangers(), Vec::<String>::new());
}

#[test]
fn port_nought_is_kept() {
    let unit = unit(vec![table(vec![tcp("127.0.0.1:0"), tcp("127.0.0.1:0")])]);
    let mut set = open(&unit);
    let before: Vec<_> = set.endpoints.iter().map(|endpoint| endpoint.at).collect();
    assert_ne!(before[0], before[1]);
    assert_eq!(set.add(&unit).unwrap(), Vec::<String>::new());
    assert_eq!(set.keep(&[&unit], &[]), 0);
    assert_eq!(before, set.endpoints.iter().map(|endpoint| endpoint.at).collect::<Vec<_>>());
}

#[test]
fn options_change_while_a_socket_is_held() {
    let mut unit = steered_unit();
    let mut set = open(&unit);
    let options = Arc::make_mut(&mut unit.sockets[0].options);
    options.keep_alive = true;
    options.free_bind = true;
    unit.sockets[0].sharing = Sharing::Shared;
    let warnings = set.add(&unit).unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings.iter().all(|text| text.contains("takes effect when the socket is made anew")));
    for slot in &set.endpoints[0].slots {
        let on = sockopt::get_int(slot.fd.as_fd(), nix::libc::SOL_SOCKET, nix::libc::SO_KEEPALIVE).unwrap();
        assert_eq!(on, 1);
    }
}

#[test]
fn root_gets_buffers_that_are_larger_than_the_kernels_maximum() {
    if !is_root() {
        return println!("skipped: only root may have larger buffers");
    }
    let most = fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap().trim().parse::<u64>().unwrap();
    let mut unit = unit(vec![table(vec![Listen { kind: ListenKind::Datagram, ..tcp("127.0.0.1:0") }])]);
    Arc::make_mut(&mut unit.sockets[0].options).receive_buffer = Some(most + 65_536);
    let set = open(&unit);
    let fd = set.endpoints[0].slots[0].fd.as_fd();
    let got = sockopt::get_int(fd, nix::libc::SOL_SOCKET, nix::libc::SO_RCVBUF).unwrap();
    // The kernel reports twice what was asked for.
    assert_eq!(got as u64, 2 * (most + 65_536));
}

#[test]
fn an_inherited_socket_is_taken_over_and_shared() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let unit = unit(vec![table(vec![tcp(&at.to_string())])]);
    let mut inherited = Inherited::of_tests(vec![(listener.into(), "x")]);
    let (mut set, warnings) = ListenSet::open(&unit, &mut inherited).unwrap();
    assert_eq!((warnings, inherited.close()), (vec![], vec![]));
    assert!(!set.steered(&unit));
    assert_eq!(address(&set), at);
    assert!(set.status()[0].why.contains("inherited"));
    let server = Server::start(&mut set, &unit, 1, b'i');
    assert_eq!(ask(at, 3), BTreeMap::from([(b'i', 3)]));
    server.end();
}

#[test]
fn a_unix_path_is_bound_kept_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("sub/s");
    let alias = dir.path().join("alias");
    let mut table = table(vec![path(ListenKind::Stream, &at)]);
    let options = Arc::make_mut(&mut table.options);
    options.symlinks = vec![alias.display().to_string()];
    options.remove_on_stop = true;
    let unit = unit(vec![table]);
    let mut set = open(&unit);
    assert!(!set.steered(&unit));
    let listener = UnixListener::from(copy(&mut set, &unit, 0));
    assert_eq!(listener.local_addr().unwrap().as_pathname().unwrap(), at);
    let _first = UnixStream::connect(&alias).unwrap();
    fs::remove_file(&at).unwrap();
    let text = set.check_paths();
    assert!(text[0].contains("put it back, with its queue"), "{text:?}");
    let _second = UnixStream::connect(&at).unwrap();
    assert_eq!(set.status()[0].queue, Some(2));
    assert_eq!(set.established(), 2);
    assert_eq!(set.check_paths(), Vec::<String>::new());
    // Without the hidden name, and without the folder.
    fs::remove_dir_all(at.parent().unwrap()).unwrap();
    assert!(set.check_paths()[0].contains("made it anew"));
    let _third = UnixStream::connect(&at).unwrap();
    UnixListener::from(copy(&mut set, &unit, 0)).accept().unwrap();
    set.close();
    assert_eq!(fs::read_dir(at.parent().unwrap()).unwrap().count(), 0);
    assert!(fs::symlink_metadata(&alias).is_err());
}

#[test]
fn a_name_that_somebody_else_took_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("s");
    let mut set = open(&unit(vec![table(vec![path(ListenKind::Stream, &at)])]));
    fs::remove_file(&at).unwrap();
    let _other = UnixListener::bind(&at).unwrap();
    assert!(set.check_paths()[0].contains("not ours any more"));
    assert!(set.check_paths().is_empty(), "said once");
    set.close();
    assert!(at.exists());
}

#[test]
fn the_folder_of_a_name_is_watched() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("s");
    let mut set = open(&unit(vec![table(vec![path(ListenKind::Stream, &at)])]));
    let ready = |set: &ListenSet| {
        let watch = set.path_watch().unwrap();
        let mut polled = [nix::poll::PollFd::new(watch, nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut polled, nix::poll::PollTimeout::ZERO).unwrap() == 1
    };
    set.check_paths();
    assert!(!ready(&set));
    fs::remove_file(&at).unwrap();
    assert!(ready(&set));
    assert_eq!(set.check_paths().len(), 1);
    set.check_paths();
    assert!(!ready(&set));
}

#[test]
fn a_unix_socket_that_was_shut_down_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("s");
    let unit = unit(vec![table(vec![path(ListenKind::Stream, &at)])]);
    let mut set = open(&unit);
    let old = copy(&mut set, &unit, 0);
    nix::sys::socket::shutdown(old.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
    assert!(UnixStream::connect(&at).is_err());
    let id = set.watch_list()[0].id;
    assert!(set.repair(id).unwrap().contains("made it anew"));
    let _client = UnixStream::connect(&at).unwrap();
    UnixListener::from(copy(&mut set, &unit, 0)).accept().unwrap();
    assert_eq!(set.check_paths(), Vec::<String>::new());
    set.close();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn an_abstract_socket_that_was_shut_down_waits_for_its_holder() {
    let name = format!("aeterna-test-{}", std::process::id());
    let listen = Listen { kind: ListenKind::Stream, address: Address::Abstract(name) };
    let unit = unit(vec![table(vec![listen])]);
    let mut set = open(&unit);
    let old = copy(&mut set, &unit, 0);
    nix::sys::socket::shutdown(old.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
    let id = set.watch_list()[0].id;
    assert!(set.repair(id).unwrap().contains("Address already in use"));
    assert!(set.watch_list().is_empty(), "it would hang up for ever");
    assert!(set.lend(&unit, 0).is_err());
    drop(old);
    // A child of another test may have a copy for as long as it has not yet executed.
    while set.lend(&unit, 0).is_err() {
        std::thread::yield_now();
    }
    assert_eq!(set.lend(&unit, 0).unwrap().len(), 1);
    assert_eq!(set.watch_list().len(), 1);
}

#[test]
fn a_steered_unix_path_is_switched_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("s");
    let mut table = table(vec![path(ListenKind::Stream, &at)]);
    table.sharing = Sharing::Steered;
    let unit = unit(vec![table]);
    let mut set = open(&unit);
    assert!(set.steered(&unit));
    let [a, b] = [0, 1].map(|slot| UnixListener::from(copy(&mut set, &unit, slot)));
    let lands_on = |listener: &UnixListener| {
        let _client = UnixStream::connect(&at).unwrap();
        socket::accept(listener.as_fd()).unwrap().is_some()
    };
    assert!(lands_on(&a));
    set.steer(0, Some((1, 0)), SteerBy::Connection).unwrap();
    assert!(lands_on(&a));
    set.steer(0, Some((1, 10)), SteerBy::Connection).unwrap();
    assert!(lands_on(&b));
    set.steer(0, None, SteerBy::Connection).unwrap();
    assert!(lands_on(&a));
    set.steer(1, None, SteerBy::Connection).unwrap();
    assert!(lands_on(&b));
    fs::remove_file(&at).unwrap();
    assert!(set.check_paths()[0].contains("put it back"));
    assert!(lands_on(&b));
    let _probe = UnixStream::connect(set.probe_path(0, at.to_str().unwrap()).unwrap()).unwrap();
    assert_eq!((set.drain_state(0), set.drain_state(1)), ((0, 1), (0, 0)));
    set.close();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn every_kind_of_address_opens() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let unit = unit(vec![table(vec![
        tcp("127.0.0.1:0"),
        Listen { kind: ListenKind::Datagram, address: Address::Inet("127.0.0.1:0".parse().unwrap()) },
        Listen { kind: ListenKind::Stream, address: Address::Port(0) },
        Listen {
            kind: ListenKind::Stream,
            address: Address::Scoped("[::1]:0".parse().unwrap(), "lo".into()),
        },
        path(ListenKind::Stream, &at("s")),
        path(ListenKind::Datagram, &at("d")),
        path(ListenKind::SequentialPacket, &at("q")),
        path(ListenKind::Fifo, &at("f")),
        Listen {
            kind: ListenKind::Netlink,
            address: Address::Netlink { family: "route".into(), protocol: 0, group: 0 },
        },
    ])]);
    let mut set = open(&unit);
    let kinds: Vec<_> = set.status().iter().map(|row| row.kind.clone()).collect();
    assert_eq!(
        kinds,
        ["stream", "datagram", "stream", "stream", "stream", "datagram", "seqpacket", "fifo", "netlink"]
    );
    assert_eq!(set.lend(&unit, 0).unwrap().len(), 9);
    assert!(set.status()[3].address.ends_with("%lo"), "{}", set.status()[3].address);
    let Address::Port(_) = set.endpoints[2].listen.address else { panic!() };
    let port = set.endpoints[2].at.unwrap().port();
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    if set.endpoints[2].at.unwrap().is_ipv6() {
        TcpStream::connect(("::1", port)).unwrap();
    }
    UnixDatagram::unbound().unwrap().send_to(b"x", at("d")).unwrap();
    fs::OpenOptions::new().write(true).open(at("f")).unwrap().write_all(b"x").unwrap();
    set.close();
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["f"], "a FIFO stays");
}

#[test]
fn what_is_pending_is_flushed_where_the_unit_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut flushed = table(vec![tcp("127.0.0.1:0"), path(ListenKind::Datagram, &at("d"))]);
    flushed.flush_pending = true;
    let unit = unit(vec![flushed, table(vec![path(ListenKind::Stream, &at("s"))])]);
    let mut set = open(&unit);
    let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address(&set)).unwrap()).collect();
    let _kept = UnixStream::connect(at("s")).unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    sender.send_to(b"1", at("d")).unwrap();
    sender.send_to(b"2", at("d")).unwrap();
    wait_queue(&set, 0, 3);
    assert_eq!(set.flush_pending(&unit), 5);
    assert_eq!(set.flush_pending(&unit), 0);
    for mut client in clients {
        assert_eq!(client.read(&mut [0; 1]).unwrap_or(0), 0);
    }
    assert_eq!(set.status()[2].queue, Some(1));
}

#[test]
fn accepted_connections_have_a_source_and_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("s");
    let mut inet = table(vec![Listen { kind: ListenKind::Stream, address: Address::Port(0) }]);
    let mut unix = table(vec![path(ListenKind::Stream, &at)]);
    (inet.accept, unix.accept) = (true, true);
    let unit = unit(vec![inet, unix]);
    let mut set = open(&unit);
    assert!(!set.steered(&unit), "with Accept nothing is steered");
    let ids: Vec<_> = set.watch_list().iter().map(|watched| watched.id).collect();
    assert!(set.accept(ids[0]).unwrap().is_none());
    let client = TcpStream::connect(("127.0.0.1", set.endpoints[0].at.unwrap().port())).unwrap();
    wait_queue(&set, 0, 1);
    let (_, source, name) = set.accept(ids[0]).unwrap().unwrap();
    assert_eq!((source.as_str(), name.remote_addr.as_str()), ("127.0.0.1", "127.0.0.1"));
    assert_eq!(name.remote_port, client.local_addr().unwrap().port().to_string());
    let _client = UnixStream::connect(&at).unwrap();
    let (_, source, name) = set.accept(ids[1]).unwrap().unwrap();
    assert!(source.starts_with("uid:"), "{source}");
    assert_eq!(name, PeerName::default());
    assert_eq!((set.table_of(&unit, ids[0]), set.table_of(&unit, ids[1])), (Some(0), Some(1)));
}

#[test]
fn the_blocking_mode_is_only_cleared_when_nobody_else_holds_it() {
    let unit = unit(vec![{
        let mut table = table(vec![tcp("127.0.0.1:0")]);
        table.sharing = Sharing::Shared;
        table
    }]);
    let mut set = open(&unit);
    let first = copy(&mut set, &unit, 0);
    let non_blocking = |fd: &OwnedFd| {
        let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFL).unwrap();
        flags & nix::libc::O_NONBLOCK != 0
    };
    assert!(!non_blocking(&first));
    socket::set_nonblocking(first.as_fd(), true).unwrap();
    set.in_use(&[0]);
    let second = copy(&mut set, &unit, 1);
    assert!(non_blocking(&second), "the first one counts on it");
    set.in_use(&[]);
    assert!(!non_blocking(&copy(&mut set, &unit, 0)));
    assert_eq!(set.established_of(&[], crate::sys::clock::Effort::glance()), Some(0));
}

#[test]
fn what_goes_the_way_of_nginx_never_blocks() {
    let mut unit = steered_unit();
    let mut set = open(&unit);
    let non_blocking = |fd: &OwnedFd| {
        let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFL).unwrap();
        flags & nix::libc::O_NONBLOCK != 0
    };
    assert!(!non_blocking(&copy(&mut set, &unit, 0)));
    unit.service.socket_environment = vec![SocketEnvironment::Einhorn, SocketEnvironment::Nginx];
    assert!(non_blocking(&copy(&mut set, &unit, 1)), "its workers would wait in accept(2)");
}

#[test]
fn connections_are_counted_by_their_process() {
    let unit = steered_unit();
    let mut set = open(&unit);
    let listener = TcpListener::from(copy(&mut set, &unit, 0));
    let at = address(&set);
    let _clients = [TcpStream::connect(at).unwrap(), TcpStream::connect(at).unwrap()];
    let _accepted = listener.accept().unwrap();
    wait_queue(&set, 0, 1);
    assert_eq!(set.established(), 2);
    let far = crate::sys::clock::Effort::whatever();
    assert_eq!(set.established_of(&[std::process::id().cast_signed()], far), Some(1));
}
