//! Which connections there are: a bounded number, all of which can be ended.

use super::{MAX_CONNECTIONS, Stream};
use crate::sys::wake::Waker;
use std::collections::BTreeMap;
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The most threads: those of [`MAX_CONNECTIONS`], and as many that are about to end.
const MAX_THREADS: usize = 2 * MAX_CONNECTIONS;
/// How long a new connection waits for one of the latter to end: a busy machine may take a second or two to run it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everybody who is connected.
#[derive(Debug, Default)]
pub(super) struct Registry {
    inner: Mutex<Inner>,
    /// Told when somebody leaves.
    left: Condvar,
}

/// What a connection is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum At {
    /// It has asked for nothing yet: whoever connects and says nothing, or says it slowly, makes room first.
    Silent,
    /// It was answered, and nothing is being done for it now.
    Idle,
    /// Something is being done for it: it stays.
    Served,
}

#[derive(Debug)]
struct Member {
    stream: Arc<Stream>,
    at: At,
}

#[derive(Debug, Default)]
struct Inner {
    members: BTreeMap<u64, Member>,
    /// Threads that have not ended yet, also those whose connection had to make room.
    threads: usize,
    last: u64,
    closed: bool,
    /// Who wants to know that nothing is being answered any more.
    waker: Option<Waker>,
}

impl Inner {
    /// Whether there is a place, if need be by sending away whoever has the least right to one.
    fn makes_room(&mut self) -> bool {
        if self.members.len() < MAX_CONNECTIONS {
            return true;
        }
        let least = self.members.iter().filter(|(_, member)| member.at != At::Served);
        let Some(number) =
            least.min_by_key(|(number, member)| (member.at, **number)).map(|(number, _)| *number)
        else {
            return false;
        };
        if let Some(member) = self.members.remove(&number) {
            member.stream.shutdown(Shutdown::Both);
        }
        true
    }
}

/// A place; dropping it leaves.
#[derive(Debug)]
pub(super) struct Slot {
    registry: Arc<Registry>,
    number: u64,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing is left half done by a panic: every change is one call.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, if need be that of a connection for which nothing is being done; `None` if there is none, or
    /// no more are wanted. Blocks for [`PATIENCE`] at most.
    pub(super) fn enter(registry: &Arc<Registry>, stream: &Arc<Stream>) -> Option<Slot> {
        let inner = registry.lock();
        // Whoever had to make room ends as soon as its thread runs: a crowd that comes at once waits for that.
        let full = |inner: &mut Inner| !inner.closed && inner.threads >= MAX_THREADS;
        let waited = registry.left.wait_timeout_while(inner, PATIENCE, full);
        let (mut inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if inner.closed || inner.threads >= MAX_THREADS || !inner.makes_room() {
            return None;
        }
        inner.threads += 1;
        inner.last += 1;
        let number = inner.last;
        inner.members.insert(number, Member { stream: Arc::clone(stream), at: At::Silent });
        drop(inner);
        Some(Slot { registry: Arc::clone(registry), number })
    }

    /// Wakes somebody whenever something was answered.
    pub(super) fn tell(&self, waker: Waker) {
        self.lock().waker = Some(waker);
    }

    /// Whether something is being answered.
    pub(super) fn is_serving(&self) -> bool {
        self.lock().members.values().any(|member| member.at == At::Served)
    }

    /// Nobody asks any more; whoever has not written everything by then is cut off.
    pub(super) fn close(&self, time: Duration) {
        let mut inner = self.lock();
        inner.closed = true;
        for member in inner.members.values() {
            member.stream.shutdown(Shutdown::Read);
        }
        let waited = self.left.wait_timeout_while(inner, time, |inner| inner.threads > 0);
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        for member in inner.members.values() {
            member.stream.shutdown(Shutdown::Both);
        }
    }
}

impl Slot {
    /// Says what the connection is at. One that had to make room stays gone.
    pub(super) fn is_at(&self, at: At) {
        let mut inner = self.registry.lock();
        if let Some(member) = inner.members.get_mut(&self.number) {
            member.at = at;
        }
        if let Some(waker) = inner.waker.as_ref().filter(|_| at != At::Served) {
            waker.wake();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut inner = self.registry.lock();
        inner.members.remove(&self.number);
        inner.threads -= 1;
        if let Some(waker) = &inner.waker {
            waker.wake();
        }
        drop(inner);
        self.registry.left.notify_all();
    }
}
