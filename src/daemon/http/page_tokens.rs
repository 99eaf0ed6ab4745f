//! What `aeternactl page` gives out: a token for one browser, for a while. In memory only.

use crate::sys::random;
use crate::time::{Monotime, Span};
use serde::{Deserialize, Serialize};

/// How long a token counts: a day's work.
const LIFETIME: Span = Span::from_secs(12 * 60 * 60);

/// How many count at a time; the oldest goes.
const MOST: usize = 16;

/// The tokens that count. Shared by threads under a lock.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageTokens {
    /// Oldest first, and until when.
    made: Vec<(String, Monotime)>,
}

impl PageTokens {
    /// A new one: 128 random bits as 32 hex digits.
    pub(super) fn make(&mut self, now: Monotime) -> String {
        self.forget(now);
        if self.made.len() >= MOST {
            self.made.remove(0);
        }
        let token = format!("{:016x}{:016x}", random::bits(), random::bits());
        self.made.push((token.clone(), now + LIFETIME));
        token
    }

    /// Those that count now.
    pub(super) fn valid(&mut self, now: Monotime) -> Vec<String> {
        self.forget(now);
        self.made.iter().map(|(token, _)| token.clone()).collect()
    }

    fn forget(&mut self, now: Monotime) {
        self.made.retain(|(_, until)| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_end_with_their_time_and_are_few() {
        let mut tokens = PageTokens::default();
        let at = |hours: u64| Monotime(1) + Span::from_secs(hours * 3600);
        let first = tokens.make(at(0));
        let second = tokens.make(at(6));
        assert_ne!(first, second);
        assert_eq!(first.len(), 32);
        assert_eq!(tokens.valid(at(11)), [first, second.clone()]);
        assert_eq!(tokens.valid(at(12)), [second]);
        assert!(tokens.valid(at(18)).is_empty());
        let many: Vec<String> = (0..100).map(|_| tokens.make(at(20))).collect();
        assert_eq!(tokens.valid(at(20)), many[100 - MOST..]);
    }
}
