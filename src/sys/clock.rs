//! The clocks. The only place that reads one. Any thread.

use crate::time::Monotime;
use nix::time::{ClockId, clock_gettime};

/// The time on `CLOCK_MONOTONIC` (clock_gettime(2)), nanoseconds. Never blocks.
pub fn now() -> Monotime {
    // The call fails only for a clock that the kernel does not have: this one is always there.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Monotime(0), |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        let nanoseconds = u64::try_from(time.tv_nsec()).unwrap_or(0);
        Monotime(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
    })
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
    fn the_time_of_day_is_in_seconds() {
        let reference = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((unix_time() - reference).abs() < 5.0);
    }
}
