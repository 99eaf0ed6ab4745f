//! The self-pipe: how a thread wakes the loop. The loop drains first and looks afterwards, so no wake-up is lost.

use nix::fcntl::OFlag;
use nix::unistd::{pipe2, read, write};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The end that any thread wakes the loop with.
#[derive(Debug, Clone)]
pub struct Waker {
    tx: Arc<OwnedFd>,
}

/// The end that the loop polls. Main thread only.
#[derive(Debug)]
pub struct Wakeups {
    rx: OwnedFd,
}

/// A self-pipe; neither end ever blocks.
///
/// # Errors
/// `EMFILE`, `ENFILE`.
pub fn self_pipe() -> io::Result<(Waker, Wakeups)> {
    let (rx, tx) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    Ok((Waker { tx: Arc::new(tx) }, Wakeups { rx }))
}

impl Waker {
    /// Makes the loop turn once more. Never blocks; does nothing if the loop is gone.
    pub fn wake(&self) {
        // A full pipe already says "wake up", and without a reader there is nobody to wake.
        let _ = write(&*self.tx, &[1]);
    }
}

impl Wakeups {
    /// Takes every wake-up that has arrived. Call it before looking for the reason.
    pub fn drain(&self) {
        let mut bytes = [0; 64];
        while read(&self.rx, &mut bytes).is_ok_and(|count| count == bytes.len()) {}
    }

    /// What to poll for reading.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.rx.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn is_readable(wakeups: &Wakeups) -> bool {
        poll(&mut [PollFd::new(wakeups.fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn another_thread_wakes_the_loop_and_draining_ends_it() {
        let (waker, wakeups) = self_pipe().unwrap();
        assert!(!is_readable(&wakeups));
        let other = waker.clone();
        std::thread::spawn(move || other.wake()).join().unwrap();
        assert!(is_readable(&wakeups));
        wakeups.drain();
        assert!(!is_readable(&wakeups));
    }

    #[test]
    fn more_wakeups_than_the_pipe_holds_neither_block_nor_stay() {
        let (waker, wakeups) = self_pipe().unwrap();
        for _ in 0..100_000 {
            waker.wake();
        }
        wakeups.drain();
        assert!(!is_readable(&wakeups));
        drop(wakeups);
        waker.wake();
    }
}
