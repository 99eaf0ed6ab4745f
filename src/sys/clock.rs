//! The clocks. The only place that reads one. Any thread.

use crate::time::{Monotime, Span};
use nix::time::{ClockId, clock_gettime};

/// The time on `CLOCK_MONOTONIC` (clock_gettime(2)), nanoseconds. Never blocks.
pub fn now() -> Monotime {
    read(ClockId::CLOCK_MONOTONIC)
}

fn read(clock: ClockId) -> Monotime {
    // The call fails only for a clock that the kernel does not have: these are always there.
    clock_gettime(clock).map_or(Monotime(0), |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        let nanoseconds = u64::try_from(time.tv_nsec()).unwrap_or(0);
        Monotime(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
    })
}

/// How much work may be done: so much processor time of the thread that it is made on. How busy the machine is makes no
/// difference to that.
#[derive(Debug, Clone, Copy)]
pub struct Effort(Monotime);

impl Effort {
    /// Until the thread has worked for this long from now on.
    pub fn of(time: Span) -> Effort {
        Effort(worked() + time)
    }

    /// A glance at something: what the main thread may do for one question about what a service chooses the size of.
    pub fn glance() -> Effort {
        Effort::of(Span::from_millis(20))
    }

    /// However much it takes. Not on the main thread.
    pub fn whatever() -> Effort {
        Effort(Monotime(u64::MAX))
    }

    /// Whether it is spent.
    pub fn is_spent(self) -> bool {
        worked() >= self.0
    }
}

/// The processor time of the calling thread.
fn worked() -> Monotime {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// The time of day: seconds since 1970-01-01 00:00 UTC, with a fraction. Jumps when the clock is set.
pub fn unix_time() -> f64 {
    clock_gettime(ClockId::CLOCK_REALTIME)
        .map_or(0.0, |time| time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Instant, SystemTime, UNIX_EPOCH};

    #[test]
    fn the_monotonic_clock_runs_as_fast_as_the_standard_one() {
        let (start, reference) = (now(), Instant::now());
        while reference.elapsed().as_millis() < 5 {}
        let passed = now().since(start);
        assert!(passed.0 >= 5_000_000, "{passed}");
        assert!(start.0 > 0);
    }

    #[test]
    fn an_effort_is_spent_by_work_and_by_nothing_else() {
        let (effort, start) = (Effort::of(Span::from_millis(5)), now());
        assert!(!effort.is_spent() && Effort::of(Span::ZERO).is_spent());
        let other = std::thread::spawn(|| Effort::of(Span::from_millis(5)).is_spent());
        while !effort.is_spent() {}
        assert!(now().since(start).0 >= 5_000_000);
        assert!(!other.join().unwrap() && !Effort::whatever().is_spent());
    }

    #[test]
    fn the_time_of_day_is_in_seconds() {
        let reference = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((unix_time() - reference).abs() < 5.0);
    }
}
