//! Who follows the events: a bounded queue each. One that is too slow loses events and is told how many.

use super::MAX_FOLLOWERS;
use crate::proto::http::route::MAX_RECENT;
use crate::proto::status::EventLine;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

/// How many events wait for one follower.
const QUEUE: usize = 256;

/// An event as it goes over the wire.
#[derive(Debug)]
pub(super) struct Line {
    number: u64,
    unit: String,
    /// `id: …`, `data: …` and an empty line.
    pub(super) text: String,
}

/// Everybody who follows, and the events of the last time for those who come.
#[derive(Debug)]
pub(super) struct Followers {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    list: Vec<Follower>,
    recent: VecDeque<Arc<Line>>,
    /// What the first event comes after.
    first: u64,
    last: u64,
    closed: bool,
}

#[derive(Debug)]
struct Follower {
    unit: Option<String>,
    lines: mpsc::SyncSender<Arc<Line>>,
    lost: Arc<AtomicU64>,
}

/// What somebody wants to follow.
#[derive(Debug)]
pub(super) struct Wish {
    /// This unit only.
    pub(super) unit: Option<String>,
    /// The last so many first…
    pub(super) recent: usize,
    /// …or everything after this one.
    pub(super) after: Option<u64>,
}

/// One follower's end.
#[derive(Debug)]
pub(super) struct Following {
    /// What is to be sent; its end is the end of the stream.
    pub(super) lines: mpsc::Receiver<Arc<Line>>,
    lost: Arc<AtomicU64>,
}

impl Following {
    /// How many events were lost since this was asked last.
    pub(super) fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

impl Line {
    fn is_for(&self, unit: Option<&str>) -> bool {
        unit.is_none_or(|unit| unit == self.unit)
    }
}

impl Followers {
    /// Nobody yet. Events are numbered from `first` on: one that is above all numbers of an earlier aeternad lets
    /// its followers go on with all that this one has told.
    pub(super) fn new(first: u64) -> Followers {
        let inner = Inner { list: Vec::new(), recent: VecDeque::new(), first, last: first, closed: false };
        Followers { inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more; `None` if there are too many, or the server stops.
    pub(super) fn follow(&self, wish: Wish) -> Option<Following> {
        let mut inner = self.lock();
        if inner.closed || inner.list.len() >= MAX_FOLLOWERS {
            return None;
        }
        let (sender, lines) = mpsc::sync_channel(QUEUE);
        // Who was away for longer than is remembered has missed something; of which units nobody knows.
        let oldest = inner.recent.front().map_or(inner.last, |line| line.number - 1);
        let known = wish.after.filter(|after| (inner.first..=inner.last).contains(after));
        let missed = known.map_or(0, |after| oldest.saturating_sub(after));
        let lost = Arc::new(AtomicU64::new(missed));
        let unit = wish.unit.as_deref();
        let past: Vec<&Arc<Line>> = inner.recent.iter().filter(|line| line.is_for(unit)).collect();
        let from = match (known, wish.after) {
            (Some(after), _) => past.partition_point(|line| line.number <= after),
            // A number of another aeternad: all of this one is new.
            (None, Some(_)) => 0,
            (None, None) => past.len().saturating_sub(wish.recent),
        };
        for line in &past[from..] {
            // The queue is longer than what is remembered.
            let _ = sender.try_send(Arc::clone(line));
        }
        inner.list.push(Follower { unit: wish.unit, lines: sender, lost: Arc::clone(&lost) });
        Some(Following { lines, lost })
    }

    /// Sends an event to everybody whom it concerns. Never blocks on them.
    pub(super) fn broadcast(&self, event: &EventLine) {
        let data = match serde_json::to_string(event) {
            Ok(data) => data,
            Err(error) => return log::warn!("http: cannot write an event: {error}"),
        };
        let mut inner = self.lock();
        inner.last += 1;
        let number = inner.last;
        let text = format!("id: {number}\ndata: {data}\n\n");
        let line = Arc::new(Line { number, unit: event.unit.clone(), text });
        inner.list.retain(|follower| {
            if !line.is_for(follower.unit.as_deref()) {
                return true;
            }
            match follower.lines.try_send(Arc::clone(&line)) {
                Ok(()) => true,
                Err(mpsc::TrySendError::Full(_)) => {
                    follower.lost.fetch_add(1, Ordering::Relaxed);
                    true
                }
                Err(mpsc::TrySendError::Disconnected(_)) => false,
            }
        });
        if inner.recent.len() >= MAX_RECENT {
            inner.recent.pop_front();
        }
        inner.recent.push_back(line);
    }

    /// Somebody has left: makes room for the next.
    pub(super) fn forget(&self, gone: Following) {
        let lost = Arc::clone(&gone.lost);
        drop(gone);
        self.lock().list.retain(|follower| !Arc::ptr_eq(&follower.lost, &lost));
    }

    /// Every stream ends after what was sent to it; nobody comes any more.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.list.clear();
    }
}
