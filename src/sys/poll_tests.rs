//! Tests of the poll set.

use super::super::wake::{Waker, Wakeups, self_pipe};
use super::*;
use crate::time::Span;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// A poll set whose two fixed descriptors are self-pipes.
struct World {
    poller: Poller,
    signals: (Waker, Wakeups),
    wake: (Waker, Wakeups),
    out: Vec<(Token, Readiness)>,
}

impl World {
    fn new() -> World {
        let (signals, wake) = (self_pipe().unwrap(), self_pipe().unwrap());
        let poller = Poller::new(signals.1.fd(), wake.1.fd()).unwrap();
        World { poller, signals, wake, out: Vec::new() }
    }

    /// What is ready now.
    fn ready(&mut self) -> Vec<(Token, Readiness)> {
        self.poller.wait(Some(clock::now()), &mut self.out).unwrap();
        self.out.clone()
    }

    /// What is ready first, within twenty seconds.
    fn next(&mut self) -> Vec<(Token, Readiness)> {
        let limit = clock::now() + Span::from_secs(20);
        self.poller.wait(Some(limit), &mut self.out).unwrap();
        assert!(!self.out.is_empty(), "nothing became ready");
        self.out.clone()
    }
}

const READABLE: Readiness = Readiness { readable: true, writable: false, hangup: false, error: false };
const HANGUP: Readiness = Readiness { readable: true, writable: false, hangup: true, error: false };

#[test]
fn the_fixed_descriptors_come_first() {
    let mut world = World::new();
    let (mut near, mut far) = UnixStream::pair().unwrap();
    world.poller.add(Token(1), near.as_fd(), Interest::READ).unwrap();
    assert_eq!(world.ready(), []);
    far.write_all(b"x").unwrap();
    world.wake.0.wake();
    world.signals.0.wake();
    let all = [(Token::SIGNALS, READABLE), (Token::WAKE, READABLE), (Token(1), READABLE)];
    assert_eq!(world.next(), all);
    assert_eq!(world.ready(), all, "level-triggered");
    world.wake.1.drain();
    world.signals.1.drain();
    near.read_exact(&mut [0]).unwrap();
    assert_eq!(world.ready(), []);
}

#[test]
fn a_shut_down_listener_is_reported_without_any_interest() {
    let mut world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    world.poller.add(Token(5), listener.as_fd(), Interest::HANGUP_ONLY).unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert_eq!(world.ready(), [], "a waiting connection is not of interest");
    // SAFETY: the descriptor is open.
    assert_eq!(unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) }, 0);
    let ready = world.next();
    assert_eq!(ready[0].0, Token(5));
    assert!(ready[0].1.hangup);
    // What was shut down listens again: the report ends.
    // SAFETY: as above.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 16) }, 0);
    assert_eq!(world.ready(), []);
}

#[test]
fn a_pipe_without_writers_is_readable_and_hung_up() {
    let mut world = World::new();
    let (rx, tx) = fd::pipe().unwrap();
    world.poller.add(Token(2), rx.as_fd(), Interest::READ).unwrap();
    assert_eq!(world.ready(), []);
    drop(tx);
    assert_eq!(world.next(), [(Token(2), HANGUP)]);
}

#[test]
fn a_pipe_without_readers_is_an_error_even_without_interest() {
    let mut world = World::new();
    let (rx, tx) = fd::pipe().unwrap();
    world.poller.add(Token(2), tx.as_fd(), Interest::HANGUP_ONLY).unwrap();
    assert_eq!(world.ready(), []);
    drop(rx);
    let ready = world.next();
    assert!(ready[0].1.error);
}

#[test]
fn interest_is_changed_and_switched_off() {
    let mut world = World::new();
    let (near, mut far) = UnixStream::pair().unwrap();
    world.poller.add(Token(1), near.as_fd(), Interest::BOTH).unwrap();
    far.write_all(b"x").unwrap();
    let both = Readiness { readable: true, writable: true, ..Readiness::default() };
    assert_eq!(world.next(), [(Token(1), both)]);
    world.poller.change(Token(9), near.as_fd(), Interest::WRITE).unwrap();
    assert_eq!(world.next(), [(Token(9), Readiness { writable: true, ..Readiness::default() })]);
    world.poller.change(Token(9), near.as_fd(), Interest::HANGUP_ONLY).unwrap();
    assert_eq!(world.ready(), []);
}

#[test]
fn what_is_removed_while_ready_is_not_reported() {
    let mut world = World::new();
    let (near, mut far) = UnixStream::pair().unwrap();
    world.poller.add(Token(1), near.as_fd(), Interest::READ).unwrap();
    far.write_all(b"x").unwrap();
    assert_eq!(world.next(), [(Token(1), READABLE)]);
    world.poller.remove(near.as_fd()).unwrap();
    assert_eq!(world.ready(), []);
    assert_eq!(world.poller.remove(near.as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    world.poller.add(Token(3), near.as_fd(), Interest::READ).unwrap();
    assert_eq!(world.next(), [(Token(3), READABLE)]);
}

#[test]
fn a_copy_elsewhere_does_not_matter_once_it_was_removed() {
    let mut world = World::new();
    let (near, mut far) = UnixStream::pair().unwrap();
    let copy = near.try_clone().unwrap();
    world.poller.add(Token(1), near.as_fd(), Interest::READ).unwrap();
    world.poller.remove(near.as_fd()).unwrap();
    drop(near);
    far.write_all(b"x").unwrap();
    assert_eq!(world.ready(), []);
    drop(copy);
}

#[test]
fn an_edge_is_told_once_until_it_is_armed_again() {
    let mut world = World::new();
    let (near, mut far) = UnixStream::pair().unwrap();
    world.poller.add_edge_oneshot(Token(4), near.as_fd()).unwrap();
    assert_eq!(world.ready(), []);
    far.write_all(b"x").unwrap();
    assert_eq!(world.next(), [(Token(4), READABLE)]);
    assert_eq!(world.ready(), []);
    far.write_all(b"y").unwrap();
    assert_eq!(world.ready(), [], "silent although more has arrived");
    world.poller.rearm_edge_oneshot(Token(4), near.as_fd()).unwrap();
    assert_eq!(world.next(), [(Token(4), READABLE)]);
    assert_eq!(world.ready(), []);
}

#[test]
fn a_deadline_is_never_early() {
    let mut world = World::new();
    for span in [Span(1), Span(1_500), Span::from_micros(900), Span::from_millis(3)] {
        let deadline = clock::now() + span;
        world.poller.wait(Some(deadline), &mut world.out).unwrap();
        assert!(clock::now() >= deadline, "{span}");
        assert_eq!(world.out, []);
    }
}

#[test]
fn a_very_late_deadline_does_not_overflow() {
    let mut world = World::new();
    world.wake.0.wake();
    world.poller.wait(Some(Monotime(u64::MAX)), &mut world.out).unwrap();
    assert_eq!(world.out, [(Token::WAKE, READABLE)]);
}

#[test]
fn thousands_of_silent_descriptors_do_not_hide_the_ready_ones() {
    super::super::testing::isolated(
        "sys::poll::tests::thousands_of_silent_descriptors_do_not_hide_the_ready_ones",
        || {
            fd::raise_nofile().unwrap();
            let mut world = World::new();
            let pairs: Vec<_> = (0..2_000).map(|_| fd::pipe().unwrap()).collect();
            for (index, (rx, _)) in pairs.iter().enumerate() {
                world.poller.add(Token(index as u64), rx.as_fd(), Interest::READ).unwrap();
            }
            assert_eq!(world.ready(), []);
            for index in [7, 1_999] {
                let mut tx = File::from(pairs[index].1.try_clone().unwrap());
                tx.write_all(b"x").unwrap();
            }
            let mut tokens: Vec<_> = world.next().iter().map(|(token, _)| token.0).collect();
            tokens.sort_unstable();
            assert_eq!(tokens, [7, 1_999]);
            // More than one batch: all come, in some turns.
            for (_, tx) in pairs.iter().take(1_000) {
                File::from(tx.try_clone().unwrap()).write_all(b"x").unwrap();
            }
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..1_001_usize.div_ceil(BATCH) {
                seen.extend(world.ready().iter().map(|(token, _)| token.0));
            }
            assert_eq!(seen.len(), 1_001);
        },
    );
}

#[test]
fn a_turn_allocates_nothing_in_the_list_it_fills() {
    let mut world = World::new();
    world.out.reserve(BATCH + 2);
    let room = (world.out.as_ptr(), world.out.capacity());
    world.wake.0.wake();
    for _ in 0..10 {
        world.poller.wait(None, &mut world.out).unwrap();
        assert_eq!((world.out.as_ptr(), world.out.capacity()), room);
    }
}

/// A handler that does nothing: it only makes the system call return.
extern "C" fn ignore(_: libc::c_int) {}

#[test]
fn an_interruption_by_a_signal_is_not_noticed() {
    super::super::testing::isolated("sys::poll::tests::an_interruption_by_a_signal_is_not_noticed", || {
        let action = nix::sys::signal::SigAction::new(
            nix::sys::signal::SigHandler::Handler(ignore),
            nix::sys::signal::SaFlags::empty(),
            nix::sys::signal::SigSet::empty(),
        );
        // SAFETY: the handler does nothing.
        unsafe { nix::sys::signal::sigaction(nix::sys::signal::Signal::SIGUSR1, &action) }.unwrap();
        let mut world = World::new();
        let waker = world.wake.0.clone();
        // SAFETY: takes nothing, returns the number of this thread.
        let thread = unsafe { libc::gettid() };
        let sender = std::thread::spawn(move || {
            for _ in 0..10 {
                wait_until_asleep(thread);
                let us = super::super::process::pid();
                // SAFETY: sends a signal to a thread of this process.
                unsafe { libc::syscall(libc::SYS_tgkill, us, thread, libc::SIGUSR1) };
            }
            waker.wake();
        });
        world.poller.wait(None, &mut world.out).unwrap();
        assert_eq!(world.out, [(Token::WAKE, READABLE)]);
        sender.join().unwrap();
    });
}

/// Waits until a thread of this process sleeps in a system call.
fn wait_until_asleep(thread: i32) {
    let path = format!("/proc/self/task/{thread}/stat");
    while !std::fs::read_to_string(&path).unwrap().contains(") S ") {
        std::thread::yield_now();
    }
}
