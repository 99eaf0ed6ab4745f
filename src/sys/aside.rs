//! What may last as long as somebody else likes, on threads of its own: close(2) of a descriptor that came from a
//! service (a socket may linger for years, a file's server may not answer), the removal of a tree, and questions whose
//! answer is not waited for longer than a little ([`within`]).
//!
//! One thread works, and one more stands by as soon as the first has something to do: a close that never ends holds
//! nobody up, until `MOST` of them do. What waits is bounded by `ROOM`: beyond it a descriptor stays open for good,
//! which is counted ([`take_lost`]), because the one thing that must not happen is that the caller waits.
//!
//! Any thread may call this. Nothing is started before the first call, and nothing wakes while there is nothing to do.

use super::sockopt;
use crate::time::Span;
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

/// The most threads. Each is one job that does not end.
const MOST: usize = 8;

/// The most jobs that wait. Each close is a descriptor that is open, so that their limit is nearer most of the time.
const ROOM: usize = 65_536;

/// How long the caller of [`close_soon`] waits at most.
const SOON: Duration = Duration::from_millis(50);

/// The stack of a thread, bytes: it makes system calls, walks a tree without recursion, and asks the user database, whose
/// modules are not modest. Only what is touched becomes memory.
const STACK: usize = 512 * 1024;

/// Something to do.
enum Job {
    Close(OwnedFd),
    CloseAll(Vec<OwnedFd>),
    Run(Box<dyn FnOnce() + Send>),
}

impl Job {
    fn work(self) {
        match self {
            Job::Close(fd) => close_here(fd),
            Job::CloseAll(all) => all.into_iter().for_each(close_here),
            Job::Run(work) => work(),
        }
    }
}

/// The jobs and who does them.
struct Queue {
    jobs: VecDeque<Job>,
    /// Threads that are there.
    threads: usize,
    /// Those of them that wait for a job.
    idle: usize,
}

/// Threads for one kind of jobs: who holds one kind up does not hold up the other.
struct Pool {
    queue: Mutex<Queue>,
    come: Condvar,
    /// A thread has become idle.
    done: Condvar,
}

/// Closes and removes.
static ENDS: Pool = Pool::new();
/// Answers questions.
static ANSWERS: Pool = Pool::new();

static LOST: AtomicU64 = AtomicU64::new(0);

impl Pool {
    const fn new() -> Pool {
        let queue = Queue { jobs: VecDeque::new(), threads: 0, idle: 0 };
        Pool { queue: Mutex::new(queue), come: Condvar::new(), done: Condvar::new() }
    }

    fn locked(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here panics while it holds the lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a job; gives it back if there is no room.
    fn push(&'static self, job: Job, room: usize) -> Result<(), Job> {
        let mut queue = self.locked();
        if queue.jobs.len() >= room {
            return Err(job);
        }
        queue.jobs.push_back(job);
        if queue.idle == 0 {
            self.add_thread(&mut queue);
        }
        drop(queue);
        self.come.notify_one();
        Ok(())
    }

    /// One more thread, if there may be one. Where none can be made the jobs wait for the next call.
    fn add_thread(&'static self, queue: &mut Queue) {
        if queue.threads >= MOST {
            return;
        }
        let thread = std::thread::Builder::new().name("aside".into()).stack_size(STACK);
        if thread.spawn(|| self.work()).is_ok() {
            queue.threads += 1;
            // It counts as idle from now on: it takes the first job that it finds.
            queue.idle += 1;
        }
    }

    fn work(&'static self) {
        let mut queue = self.locked();
        loop {
            let Some(job) = queue.jobs.pop_front() else {
                queue = self.come.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            queue.idle -= 1;
            if queue.idle == 0 {
                // Somebody stands by: this job may never end.
                self.add_thread(&mut queue);
            }
            drop(queue);
            job.work();
            queue = self.locked();
            queue.idle += 1;
            self.done.notify_all();
        }
    }

    /// Waits until nothing is being done and nothing waits to be done; whether it has come to that.
    fn is_quiet_within(&self, patience: Duration) -> bool {
        let is_busy = |queue: &mut Queue| !queue.jobs.is_empty() || queue.idle < queue.threads;
        let (mut queue, _) = self
            .done
            .wait_timeout_while(self.locked(), patience, is_busy)
            .unwrap_or_else(PoisonError::into_inner);
        !is_busy(&mut queue)
    }
}

/// Whether no thread of this module has anything to do, now or within `patience` for each kind of jobs. One that waits for
/// a file system that does not answer cannot even be ended: who executes another program would wait for it.
pub fn is_quiet_within(patience: Span) -> bool {
    let patience = Duration::from_nanos(patience.0);
    ENDS.is_quiet_within(patience) && ANSWERS.is_quiet_within(patience)
}

/// Asks something on another thread, and waits at most for `patience`; what comes later is dropped. `None`: it did not come in
/// time, or too many questions wait for their answers already.
pub fn within<T: Send + 'static>(patience: Span, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (answer, answers) = mpsc::sync_channel(1);
    // Whoever asked may have gone.
    let job = Job::Run(Box::new(move || drop(answer.send(work()))));
    ANSWERS.push(job, MOST).ok()?;
    answers.recv_timeout(Duration::from_nanos(patience.0)).ok()
}

/// Does something on a thread of this module; whether it will be done: `false` if too much waits already. Never waits. A
/// tree whose name is needed again gets another one before it is removed here.
pub fn run(work: impl FnOnce() + Send + 'static) -> bool {
    push(Job::Run(Box::new(work))).is_ok()
}

fn push(job: Job) -> Result<(), Job> {
    ENDS.push(job, ROOM)
}

/// Closes a descriptor that somebody else has, or had, a part in. Never waits.
pub fn close(fd: OwnedFd) {
    if let Err(job) = push(Job::Close(fd)) {
        lose(job);
    }
}

/// Closes many, one after the other. Never waits.
pub fn close_all(fds: Vec<OwnedFd>) {
    if !fds.is_empty()
        && let Err(job) = push(Job::CloseAll(fds))
    {
        lose(job);
    }
}

/// The same, and waits until it is done, at most for `SOON`: for a socket whose address is to be free afterwards.
pub fn close_soon(fd: OwnedFd) {
    let done = Arc::new((Mutex::new(false), Condvar::new()));
    let tell = Arc::clone(&done);
    let work = move || {
        close_here(fd);
        *tell.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        tell.1.notify_one();
    };
    match push(Job::Run(Box::new(work))) {
        Ok(()) => {
            let guard = done.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Late or not: it is not waited for any longer.
            let _ = done.1.wait_timeout_while(guard, SOON, |done| !*done);
        }
        Err(job) => lose(job),
    }
}

/// What cannot be closed stays open.
fn lose(job: Job) {
    let count = if let Job::CloseAll(all) = &job { all.len() as u64 } else { 1 };
    std::mem::forget(job);
    LOST.fetch_add(count, Ordering::Relaxed);
}

/// How many descriptors have stayed open since this was asked last, because `ROOM` others waited to be closed.
pub fn take_lost() -> u64 {
    LOST.swap(0, Ordering::Relaxed)
}

/// Closes it. A socket that would linger does not: its data are sent behind our back as without SO_LINGER.
fn close_here(fd: OwnedFd) {
    sockopt::forget_linger(fd.as_fd());
    drop(fd);
}

/// A descriptor that a service gave us, or shares with us: however it is dropped, it is closed by [`close`].
#[derive(Debug)]
pub struct Foreign(Option<OwnedFd>);

impl From<OwnedFd> for Foreign {
    fn from(fd: OwnedFd) -> Foreign {
        Foreign(Some(fd))
    }
}

impl Foreign {
    /// The descriptor, to be closed by whoever has it now.
    pub fn into_owned(mut self) -> Option<OwnedFd> {
        self.0.take()
    }
}

impl AsFd for Foreign {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(self.0.as_ref())
    }
}

impl AsRawFd for Foreign {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(fd) = self.0.take() {
            close(fd);
        }
    }
}

/// A socket of ours that services have, or had, a copy of, and whose address must be free soon after it is dropped: by
/// [`close_soon`].
#[derive(Debug)]
pub struct Lent(Option<OwnedFd>);

impl From<OwnedFd> for Lent {
    fn from(fd: OwnedFd) -> Lent {
        Lent(Some(fd))
    }
}

impl From<Foreign> for Lent {
    fn from(foreign: Foreign) -> Lent {
        Lent(foreign.into_owned())
    }
}

impl AsFd for Lent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(self.0.as_ref())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(fd) = self.0.take() {
            close_soon(fd);
        }
    }
}

/// The descriptor; only `drop` and a conversion take it out, and nobody has the value after them.
fn borrow(fd: Option<&OwnedFd>) -> BorrowedFd<'_> {
    match fd {
        Some(fd) => fd.as_fd(),
        // SAFETY: -1 is excluded; this number is no descriptor, and every call on it says EBADF.
        None => unsafe { BorrowedFd::borrow_raw(RawFd::MAX) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;
    use std::time::Instant;

    /// A TCP socket whose peer reads nothing, with more to send than fits, that lingers for an hour.
    fn lingering() -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        while std::io::Write::write(&mut &near, &[0; 65536]).is_ok() {}
        near.set_nonblocking(false).unwrap();
        sockopt::set_linger(near.as_fd(), 3600);
        (near.into(), far)
    }

    #[test]
    fn a_socket_that_lingers_holds_nobody_up() {
        let mut far_ends = Vec::new();
        let start = Instant::now();
        for _ in 0..3 * MOST {
            let (near, far) = lingering();
            far_ends.push(far);
            drop(Foreign::from(near));
            let (near, far) = lingering();
            far_ends.push(far);
            drop(Lent::from(near));
        }
        let (mine, mut theirs) = UnixStream::pair().unwrap();
        close(mine.into());
        assert_eq!(theirs.read(&mut [0; 1]).unwrap(), 0, "what comes later is closed too");
        assert!(start.elapsed() < Duration::from_secs(600), "an hour was not waited for");
    }

    #[test]
    fn a_question_is_not_waited_for_longer_than_it_is_worth() {
        assert_eq!(within(Span::INFINITY, || 7), Some(7));
        let (ends, never) = mpsc::channel::<()>();
        assert_eq!(within(Span::from_millis(1), move || never.recv()), None);
        // Too many that have no answer are not asked at all.
        let mut kept = vec![ends];
        for _ in 0..3 * MOST {
            let (ends, never) = mpsc::channel::<()>();
            kept.push(ends);
            assert_eq!(within(Span::from_millis(1), move || never.recv()), None);
        }
        drop(kept);
    }

    #[test]
    fn whoever_wants_to_end_all_threads_hears_of_one_that_may_not_end() {
        crate::sys::testing::isolated(
            "sys::aside::tests::whoever_wants_to_end_all_threads_hears_of_one_that_may_not_end",
            || {
                assert!(is_quiet_within(Span::ZERO), "nothing was ever done");
                let (ends, never) = mpsc::channel::<()>();
                assert!(run(move || never.recv().unwrap_or_default()));
                assert!(!is_quiet_within(Span::from_millis(1)));
                drop(ends);
                assert!(is_quiet_within(Span::from_secs(60)));
            },
        );
    }

    #[test]
    fn a_job_that_does_not_end_holds_no_other_up() {
        let (ends, never) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        assert!(run(move || {
            begun.send(()).unwrap();
            let _ = never.recv();
        }));
        begins.recv().unwrap();
        let (mine, mut theirs) = UnixStream::pair().unwrap();
        drop(Foreign::from(OwnedFd::from(mine)));
        assert_eq!(theirs.read(&mut [0; 1]).unwrap(), 0);
        drop(ends);
    }
}
