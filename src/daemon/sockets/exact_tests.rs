//! How exact steering is: shares over tens of thousands of connections, hundreds of switches under load.

use super::tests::{address, copy, open, path, steered_unit, table, unit};
use super::*;
use crate::machine::event::SteerBy;
use crate::unit::ListenKind;
use nix::sys::socket::{setsockopt, sockopt as options};
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// Connections for each weight.
const MANY: usize = 50_000;

/// Connects, to go away with a reset: no port stays taken.
fn knock(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).unwrap();
    setsockopt(&stream, options::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
    stream
}

/// The connections that wait on a listener.
fn taken(listener: &TcpListener) -> impl Iterator<Item = TcpStream> {
    listener.set_nonblocking(true).unwrap();
    std::iter::from_fn(|| Some(listener.accept().ok()?.0))
}

#[test]
fn shares_are_within_a_point_over_fifty_thousand_connections() {
    let unit = steered_unit();
    let mut set = open(&unit);
    let at = address(&set);
    let [old, new] = [0, 1].map(|slot| TcpListener::from(copy(&mut set, &unit, slot)));
    for weight in [1_u8, 10, 50] {
        set.steer(0, Some((1, weight)), SteerBy::Connection).unwrap();
        let mut counts = [0, 0];
        for _ in 0..MANY / 100 {
            // The kernel may finish a handshake a moment later than connect(2): a reset that overtakes it would end it.
            let clients: Vec<_> = (0..100).map(|_| knock(at)).collect();
            let mut got = [Vec::new(), Vec::new()];
            let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
            while got[0].len() + got[1].len() < clients.len() {
                assert!(std::time::Instant::now() < until, "{} and {}", got[0].len(), got[1].len());
                got[0].extend(taken(&old));
                got[1].extend(taken(&new));
            }
            counts = [counts[0] + got[0].len(), counts[1] + got[1].len()];
            drop(clients);
            // A connection that is closed before its reset is there is answered to with a packet that belongs to nobody and
            // is counted.
            for mut connection in got.into_iter().flatten() {
                assert!(connection.read(&mut [0; 1]).is_err(), "it is reset");
            }
        }
        let (_, told) = set.end_step().unwrap();
        if let (Some(all), Some(to_new)) = (told.connections, told.to_new) {
            assert_eq!([all - to_new, to_new].map(|count| count as usize), counts, "what is measured");
        }
        let share = 100.0 * counts[1] as f64 / MANY as f64;
        assert!((share - f64::from(weight)).abs() < 1.0, "{weight} % asked, {share} % got");
    }
}

/// Accepts until it is told to stop, and answers each connection with a byte.
fn serve<S: std::io::Write>(
    stop: &Arc<AtomicBool>,
    mut accept: impl FnMut() -> std::io::Result<S> + Send + 'static,
) -> JoinHandle<()> {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        while !stop.load(Ordering::SeqCst) {
            match accept() {
                Ok(mut stream) => stream.write_all(b"x").unwrap_or(()),
                Err(_) => std::thread::yield_now(),
            }
        }
    })
}

/// Asks until it is told to stop; how many times in vain.
fn client<S: Read>(
    stop: &Arc<AtomicBool>,
    done: &Arc<AtomicUsize>,
    connect: impl Fn() -> std::io::Result<S> + Send + 'static,
) -> JoinHandle<usize> {
    let (stop, done) = (Arc::clone(stop), Arc::clone(done));
    std::thread::spawn(move || {
        let mut failed = 0;
        while !stop.load(Ordering::SeqCst) {
            let answered = connect().and_then(|mut stream| stream.read_exact(&mut [0; 1]));
            failed += usize::from(answered.is_err());
            done.fetch_add(1, Ordering::SeqCst);
        }
        failed
    })
}

/// Switches `times` times, at least one answer between two switches.
fn switch(set: &mut ListenSet, times: u32, done: &AtomicUsize) {
    for turn in 0..times {
        let before = done.load(Ordering::SeqCst);
        let (from, to) = (turn % 2, (turn + 1) % 2);
        set.steer(from, Some((to, 30)), SteerBy::Connection).unwrap();
        set.steer(to, None, SteerBy::Connection).unwrap();
        while done.load(Ordering::SeqCst) == before {
            std::thread::yield_now();
        }
    }
}

#[test]
fn three_hundred_switches_lose_nothing() {
    let unit = steered_unit();
    let mut set = open(&unit);
    let at = address(&set);
    let (stop, stop_clients, done) = (Arc::default(), Arc::default(), Arc::default());
    let servers = [0, 1].map(|slot| {
        let listener = TcpListener::from(copy(&mut set, &unit, slot));
        listener.set_nonblocking(true).unwrap();
        serve(&stop, move || listener.accept().map(|(stream, _)| stream))
    });
    let clients = [(); 3].map(|()| client(&stop_clients, &done, move || TcpStream::connect(at)));
    switch(&mut set, 300, &done);
    stop_clients.store(true, Ordering::SeqCst);
    let failed: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    stop.store(true, Ordering::SeqCst);
    servers.into_iter().for_each(|server| server.join().unwrap());
    assert_eq!(failed, 0, "of {}", done.load(Ordering::SeqCst));
}

#[test]
fn a_unix_path_is_switched_a_hundred_times_without_a_loss() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("app.sock");
    let mut steered = table(vec![path(ListenKind::Stream, &name)]);
    steered.sharing = crate::unit::Sharing::Steered;
    let unit = unit(vec![steered]);
    let mut set = open(&unit);
    let (stop, stop_clients, done) = (Arc::default(), Arc::default(), Arc::default());
    let servers = [0, 1].map(|slot| {
        let listener = UnixListener::from(copy(&mut set, &unit, slot));
        listener.set_nonblocking(true).unwrap();
        serve(&stop, move || listener.accept().map(|(stream, _)| stream))
    });
    let clients = [(); 3].map(|()| {
        let name = name.clone();
        client(&stop_clients, &done, move || UnixStream::connect(&name))
    });
    switch(&mut set, 100, &done);
    stop_clients.store(true, Ordering::SeqCst);
    let failed: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    stop.store(true, Ordering::SeqCst);
    servers.into_iter().for_each(|server| server.join().unwrap());
    assert_eq!(failed, 0, "of {}", done.load(Ordering::SeqCst));
    set.close();
}
