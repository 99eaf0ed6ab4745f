//! What a unit's processes do wrong, for the log: a flood of nonsense does not become a flood of lines.

use crate::sys::clock;
use crate::time::{Monotime, Span};
use serde::{Deserialize, Serialize};

/// How much was complained about one kind of thing. Main thread only.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Complaints {
    since: Option<Monotime>,
    count: u32,
}

impl Complaints {
    /// So many lines in so long.
    pub const MOST: u32 = 20;
    const WINDOW: Span = Span::from_secs(10);

    /// Logs a warning about a unit, unless there were too many of them lately: then it is only counted, and the number
    /// is told with the next one.
    pub fn warn(&mut self, unit: &str, text: &str) {
        match self.one_more(clock::now()) {
            None => {}
            Some(0) => log::warn!("{unit}: {text}"),
            Some(unsaid) => log::warn!("{unit}: {text} ({unsaid} such lines before it were left out)"),
        }
    }

    /// Counts one. `None`: it is not worth a line; else how many were not since the last line.
    fn one_more(&mut self, now: Monotime) -> Option<u32> {
        let over = self.since.is_none_or(|since| now.since(since) >= Complaints::WINDOW);
        if over {
            let unsaid = self.count.saturating_sub(Complaints::MOST);
            *self = Complaints { since: Some(now), count: 1 };
            return Some(unsaid);
        }
        self.count = self.count.saturating_add(1);
        (self.count <= Complaints::MOST).then_some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_in_few_lines_and_then_as_a_number() {
        let mut complaints = Complaints::default();
        let at = |seconds: u64| Monotime(1) + Span::from_secs(seconds);
        let told = (0..500).filter(|_| complaints.one_more(at(0)).is_some()).count();
        assert_eq!(told, Complaints::MOST as usize);
        assert_eq!(complaints.one_more(at(9)), None);
        assert_eq!(complaints.one_more(at(10)), Some(481));
        assert_eq!(complaints.one_more(at(10)), Some(0));
        assert_eq!(complaints.one_more(at(20)), Some(0));
    }
}
