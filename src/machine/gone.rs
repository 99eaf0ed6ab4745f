//! What runs when something that a launch's content held is gone: removed, or written over.

use super::event::IfGone;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// How many releases that a reload has given up are remembered of a unit.
const MOST: usize = 8;

/// What the shell has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// What the launch is for: see [`IfGone`].
    pub if_gone: IfGone,
    /// `BinarySHA256`: what was checked is what runs, or nothing.
    pub checked: bool,
    /// What the names mean now was given up by a reload.
    pub given_up: bool,
    /// The content that lost it is the one that serves.
    pub serves: bool,
}

/// What runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instead {
    /// Nothing: what was wanted is that, or nothing.
    Nothing,
    /// Nothing: what is there now was not checked.
    Unchecked,
    /// Nothing: what is there now is known to be bad.
    GivenUp,
    /// What the names mean now, by this launch only: what is kept to be gone back to stays what it was.
    NowOnce,
    /// What the names mean now, from now on.
    Now,
}

/// An untested program is better than an outage; one that is known to be bad, or that nobody has checked, is not.
pub fn instead(loss: Loss) -> Instead {
    match loss {
        Loss { if_gone: IfGone::Refuse, .. } => Instead::Nothing,
        Loss { checked: true, .. } => Instead::Unchecked,
        Loss { given_up: true, .. } => Instead::GivenUp,
        Loss { serves: false, .. } => Instead::NowOnce,
        Loss { serves: true, .. } => Instead::Now,
    }
}

/// A release that a reload has launched and given up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenUp {
    /// Which: a hash of everything that it holds.
    pub identity: u64,
    /// When, seconds since 1970.
    pub at: f64,
    /// Why, for people.
    pub why: String,
}

/// Those of a unit, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AllGivenUp(VecDeque<GivenUp>);

impl AllGivenUp {
    /// One more; the oldest is forgotten when there are too many.
    pub fn add(&mut self, one: GivenUp) {
        self.absolve(one.identity);
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back(one);
    }

    /// It was promoted after all.
    pub fn absolve(&mut self, identity: u64) {
        self.0.retain(|known| known.identity != identity);
    }

    /// Whether a reload has given this one up, when and why.
    pub fn find(&self, identity: u64) -> Option<&GivenUp> {
        self.0.iter().find(|known| known.identity == identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_in_the_place_of_what_is_gone() {
        const YES: bool = true;
        const NO: bool = false;
        let table = [
            // (if_gone, checked, given up, serves)
            (IfGone::Refuse, NO, NO, YES, Instead::Nothing),
            (IfGone::Refuse, NO, NO, NO, Instead::Nothing),
            (IfGone::Refuse, NO, YES, YES, Instead::Nothing),
            (IfGone::Refuse, NO, YES, NO, Instead::Nothing),
            (IfGone::Refuse, YES, NO, YES, Instead::Nothing),
            (IfGone::Refuse, YES, NO, NO, Instead::Nothing),
            (IfGone::Refuse, YES, YES, YES, Instead::Nothing),
            (IfGone::Refuse, YES, YES, NO, Instead::Nothing),
            (IfGone::TakeNew, NO, NO, YES, Instead::Now),
            (IfGone::TakeNew, NO, NO, NO, Instead::NowOnce),
            (IfGone::TakeNew, NO, YES, YES, Instead::GivenUp),
            (IfGone::TakeNew, NO, YES, NO, Instead::GivenUp),
            (IfGone::TakeNew, YES, NO, YES, Instead::Unchecked),
            (IfGone::TakeNew, YES, NO, NO, Instead::Unchecked),
            (IfGone::TakeNew, YES, YES, YES, Instead::Unchecked),
            (IfGone::TakeNew, YES, YES, NO, Instead::Unchecked),
        ];
        for (if_gone, checked, given_up, serves, expected) in table {
            let loss = Loss { if_gone, checked, given_up, serves };
            assert_eq!(instead(loss), expected, "{loss:?}");
        }
    }

    #[test]
    fn the_last_few_are_known_and_a_promotion_absolves() {
        let mut all = AllGivenUp::default();
        for number in 0..10 {
            all.add(GivenUp { identity: number, at: 1.0, why: number.to_string() });
        }
        assert_eq!((all.0.len(), all.find(1)), (MOST, None));
        all.add(GivenUp { identity: 5, at: 2.0, why: "again".into() });
        assert_eq!(all.find(5).map(|known| known.why.as_str()), Some("again"));
        assert!(all.find(2).is_some(), "one that comes again takes nobody's place");
        all.absolve(5);
        assert_eq!(all.find(5), None);
    }
}
