//! A question that is answered at once nearly always, and may never be: asked on a thread of its own, waited for a little, and
//! answered later if it comes to that. Any thread.
//!
//! [`super::near::asked`] gives up what is late; here nothing is given up, and nobody is kept waiting either.

use crate::time::Span;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How many questions may have no answer yet. Each is a thread.
const MOST: usize = 512;

/// The stack of a thread, bytes. Only what is touched becomes memory.
const STACK: usize = 256 * 1024;

/// How many have none.
static ASKED: AtomicUsize = AtomicUsize::new(0);

/// Whether every question was answered. A thread that waits for a file system that does not answer cannot even be ended.
pub fn is_quiet() -> bool {
    ASKED.load(Ordering::Relaxed) == 0
}

/// What came of a question.
#[derive(Debug)]
pub enum Asked<T> {
    /// Its answer.
    Now(T),
    /// The answer comes later, if it ever comes.
    Later,
    /// It is not asked: too many have no answer, or there can be no thread.
    Never,
}

/// Where the thread and whoever asks meet.
struct Meeting<T> {
    state: Mutex<State<T>>,
    come: Condvar,
}

enum State<T> {
    Awaited,
    Answered(T),
    /// Nobody waits here any more.
    Left,
}

/// Asks, and waits at most for `patience`; an answer that comes after that is given to `later`, on the thread.
pub fn ask<T: Send + 'static>(
    patience: Span,
    ask: impl FnOnce() -> T + Send + 'static,
    later: impl FnOnce(T) + Send + 'static,
) -> Asked<T> {
    if ASKED.fetch_add(1, Ordering::Relaxed) >= MOST {
        ASKED.fetch_sub(1, Ordering::Relaxed);
        return Asked::Never;
    }
    let meeting = Arc::new(Meeting { state: Mutex::new(State::Awaited), come: Condvar::new() });
    let theirs = Arc::clone(&meeting);
    let work = move || {
        let answer = ask();
        ASKED.fetch_sub(1, Ordering::Relaxed);
        let mut state = theirs.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Left) {
            drop(state);
            later(answer);
        } else {
            *state = State::Answered(answer);
            theirs.come.notify_one();
        }
    };
    let thread = std::thread::Builder::new().name("later".into()).stack_size(STACK);
    if thread.spawn(work).is_err() {
        ASKED.fetch_sub(1, Ordering::Relaxed);
        return Asked::Never;
    }
    let state = meeting.state.lock().unwrap_or_else(PoisonError::into_inner);
    let patience = Duration::from_nanos(patience.0);
    let waits = |state: &mut State<T>| matches!(state, State::Awaited);
    let (mut state, _) =
        meeting.come.wait_timeout_while(state, patience, waits).unwrap_or_else(PoisonError::into_inner);
    match std::mem::replace(&mut *state, State::Left) {
        State::Answered(answer) => Asked::Now(answer),
        State::Awaited | State::Left => Asked::Later,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn what_is_late_is_told_later_and_nobody_waits_for_it() {
        super::super::testing::isolated(
            "sys::later::tests::what_is_late_is_told_later_and_nobody_waits_for_it",
            || {
                assert!(matches!(ask(Span::INFINITY, || 7, |_| ()), Asked::Now(7)));
                let (tell, told) = mpsc::channel();
                let mut ends = Vec::new();
                for number in 0..MOST {
                    let (end, wait) = mpsc::channel::<()>();
                    let tell = tell.clone();
                    let asked = ask(
                        Span::ZERO,
                        move || wait.recv().is_err().then_some(number),
                        move |answer| tell.send(answer).unwrap(),
                    );
                    assert!(matches!(asked, Asked::Later));
                    ends.push(end);
                }
                assert!(!is_quiet());
                assert!(matches!(ask(Span::INFINITY, || 7, |_| ()), Asked::Never), "they are bounded");
                drop(ends);
                let mut all: Vec<_> = (0..MOST).map(|_| told.recv().unwrap().unwrap()).collect();
                all.sort_unstable();
                assert_eq!(all, (0..MOST).collect::<Vec<_>>());
                assert!(is_quiet());
            },
        );
    }
}
