//! So many things in so long.

use crate::time::{Monotime, Span};
use serde::{Deserialize, Serialize};

/// So many things in so long, as systemd counts them: a window begins with the first one after the last window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Window {
    begin: Option<Monotime>,
    count: u32,
}

impl Window {
    /// Counts one. False, without counting, if `burst` were already counted. Zero in either is no limit.
    pub(crate) fn take(&mut self, now: Monotime, interval: Span, burst: u32) -> bool {
        if interval.is_zero() || burst == 0 {
            return true;
        }
        let over = self.begin.is_none_or(|begin| begin.after(interval).is_some_and(|end| now >= end));
        if over {
            *self = Window { begin: Some(now), count: 0 };
        }
        if self.count >= burst {
            return false;
        }
        self.count += 1;
        true
    }

    /// The last one that was counted was none.
    pub(crate) fn give_back(&mut self) {
        self.count = self.count.saturating_sub(1);
    }

    /// When the next one would be allowed: `None` for at once.
    pub(crate) fn opens(&self, now: Monotime, interval: Span, burst: u32) -> Option<Monotime> {
        if interval.is_zero() || burst == 0 || self.count < burst {
            return None;
        }
        self.begin.map(|begin| begin + interval).filter(|end| now < *end)
    }
}
