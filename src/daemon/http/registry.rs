//! Which connections there are: a bounded number, all of which can be ended.

use super::{MAX_CONNECTIONS, Stream};
use std::collections::BTreeMap;
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Everybody who is connected.
#[derive(Debug, Default)]
pub(super) struct Registry {
    inner: Mutex<Inner>,
    /// Told when somebody leaves.
    left: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    streams: BTreeMap<u64, Arc<Stream>>,
    last: u64,
    closed: bool,
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

    /// Takes a place; `None` if there is none left, or no more are wanted.
    pub(super) fn enter(registry: &Arc<Registry>, stream: &Arc<Stream>) -> Option<Slot> {
        let mut inner = registry.lock();
        if inner.closed || inner.streams.len() >= MAX_CONNECTIONS {
            return None;
        }
        inner.last += 1;
        let number = inner.last;
        inner.streams.insert(number, Arc::clone(stream));
        drop(inner);
        Some(Slot { registry: Arc::clone(registry), number })
    }

    /// Nobody asks any more; whoever has not written everything by then is cut off.
    pub(super) fn close(&self, time: Duration) {
        let mut inner = self.lock();
        inner.closed = true;
        for stream in inner.streams.values() {
            stream.shutdown(Shutdown::Read);
        }
        let waited = self.left.wait_timeout_while(inner, time, |inner| !inner.streams.is_empty());
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        for stream in inner.streams.values() {
            stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.registry.lock().streams.remove(&self.number);
        self.registry.left.notify_all();
    }
}
