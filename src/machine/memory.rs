//! Memory that runs out while a new generation is tried: it goes, before the kernel chooses.

use super::event::{Gen, MemorySeen, Outcome};
use super::model::{End, Phase, Place, Stage, Word};
use super::turn::{Follow, Turn};
use crate::proto::amount::Bytes;
use crate::unit::{Amount, OomPolicy};

/// So many hundredths of a limit have to be left, and no less makes a newcomer one of those who use it up.
const LITTLE: u64 = 5;

impl Turn<'_> {
    /// Whether a generation is tried beside one that serves. Without that one it is the only one there is.
    fn is_tried(&self, generation: Gen) -> bool {
        let beside =
            self.s.reload.as_ref().is_some_and(|reload| matches!(reload.stage, Stage::Beside { .. }));
        beside && self.s.place(generation) == Place::New && self.s.serving().is_some()
    }

    /// What a newcomer has of the memory.
    pub(super) fn memory(&mut self, generation: Gen, seen: &MemorySeen) {
        if !self.is_tried(generation) {
            return;
        }
        if let Some(reason) = must_go(generation, seen) {
            self.roll_back(Outcome::RolledBack, reason);
        }
    }

    /// The kernel has killed processes of a generation for memory, and others are left.
    pub(super) fn oom_killed(&mut self, number: Gen, count: u64) {
        let Some(generation) = self.s.generation(number) else { return };
        let goes_on = matches!(generation.phase, Phase::Starting { .. } | Phase::Up);
        let knows = generation.end.as_ref().is_some_and(|end| end.result == Word::OomKill);
        // The kernel may count a process more than once.
        let processes = if count == 1 { "a process" } else { "processes" };
        let limit = self.memory_max(number);
        let lost = format!("lost {processes} to the kernel's OOM killer{limit}");
        if self.is_tried(number) {
            let reason = format!("generation {} {lost} before it was promoted", number.0);
            return self.roll_back(Outcome::RolledBack, reason);
        }
        let policy = match self.oom_policy(number) {
            OomPolicy::Continue => None,
            OomPolicy::Stop => Some("stop"),
            OomPolicy::Kill => Some("kill"),
        };
        match policy.filter(|_| goes_on) {
            Some(policy) => {
                let text = format!("{lost}, OOMPolicy is {policy}");
                self.follow(Follow::MainsDead(number, End::given_up(Word::OomKill, text)));
            }
            // It ends for that already.
            None if knows => {}
            None => self.warn(format!("generation {} {lost}", number.0)),
        }
    }

    /// What follows when a generation loses a process for memory. While somebody is tried beside it, or might be, who
    /// serves is left alone: it may be the other's fault, and two outages are no better than one.
    pub(super) fn oom_policy(&self, number: Gen) -> OomPolicy {
        if self.s.reload.is_some() && self.s.place(number) == Place::Current {
            return OomPolicy::Continue;
        }
        self.unit_of(number).service.group_limits.oom_policy
    }

    /// ` (MemoryMax 512M)`, where there is one.
    fn memory_max(&self, number: Gen) -> String {
        match self.unit_of(number).service.group_limits.memory_max {
            Some(Amount::Of(bytes)) => format!(" (MemoryMax {})", Bytes(bytes)),
            Some(Amount::Share(share)) => format!(" (MemoryMax {}%)", f64::from(share) / 100.0),
            Some(Amount::Infinity) | None => String::new(),
        }
    }

    /// Whether a generation that has lost a process for memory is killed as a whole.
    pub(super) fn is_killed_whole(&self, number: Gen) -> bool {
        let killed = |end: &End| end.result == Word::OomKill;
        self.s.generation(number).and_then(|generation| generation.end.as_ref()).is_some_and(killed)
            && self.oom_policy(number) == OomPolicy::Kill
    }
}

/// Why a newcomer is rolled back.
fn must_go(Gen(number): Gen, seen: &MemorySeen) -> Option<String> {
    if seen.kills > 0 {
        return Some(format!(
            "generation {number} lost a process to the kernel's OOM killer before it was promoted"
        ));
    }
    let has = seen.has?;
    if let Some(most) = seen.most.filter(|most| has > *most) {
        return Some(format!(
            "generation {number} has {} of memory, and MemoryMax is {} (only watched here)",
            Bytes(has),
            Bytes(most)
        ));
    }
    let part = |part: u64, of: u64| u128::from(part) * 100 / u128::from(of.max(1));
    let level = seen.levels.iter().find(|level| {
        let left = level.limit.saturating_sub(level.used);
        part(left, level.limit) < u128::from(LITTLE) && part(has, level.limit) >= u128::from(LITTLE)
    })?;
    Some(format!(
        "memory runs out: {} % of the {} of {} are left, generation {number} has {}",
        part(level.limit.saturating_sub(level.used), level.limit),
        Bytes(level.limit),
        level.of,
        Bytes(has)
    ))
}

#[cfg(test)]
mod tests {
    use super::super::event::MemoryLevel;
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_newcomer_goes_when_little_is_left_and_some_of_it_is_its_own() {
        // Limit and used of one group, what the newcomer has, kills; whether it goes.
        for (limit, used, has, kills, goes) in [
            (1000, 949, Some(500), 0, false),
            (1000, 950, Some(500), 0, false),
            (1000, 951, Some(500), 0, true),
            (1000, 1000, Some(50), 0, true),
            (1000, 1001, Some(50), 0, true),
            (1000, 1000, Some(49), 0, false),
            (1000, 1000, None, 0, false),
            (1000, 0, Some(1), 1, true),
            (1000, 0, None, 1, true),
            (0, 0, Some(1), 0, true),
            (u64::MAX, u64::MAX, Some(u64::MAX), 0, true),
            (u64::MAX, u64::MAX / 2, Some(u64::MAX / 2), 0, false),
        ] {
            let level = MemoryLevel { of: "this machine".into(), limit, used };
            let seen = MemorySeen { has, kills, most: None, levels: vec![level] };
            assert_eq!(must_go(Gen(2), &seen).is_some(), goes, "{seen:?}");
        }
    }

    #[test]
    fn a_limit_that_nobody_enforces_is_watched() {
        for (has, most, goes) in [(Some(5), Some(4), true), (Some(4), Some(4), false), (None, Some(4), false)]
        {
            let seen = MemorySeen { has, kills: 0, most, levels: Vec::new() };
            assert_eq!(must_go(Gen(2), &seen).is_some(), goes, "{seen:?}");
        }
    }

    #[test]
    fn the_reason_says_what_and_how_much() {
        let level = |of: &str, limit, used| MemoryLevel { of: of.into(), limit, used };
        let levels =
            vec![level("the control group /a", 2048 * MIB, 1990 * MIB), level("this machine", 1 << 40, 0)];
        let seen = MemorySeen { has: Some(870 * MIB), kills: 0, most: None, levels };
        assert_eq!(
            must_go(Gen(4), &seen).unwrap(),
            "memory runs out: 2 % of the 2G of the control group /a are left, generation 4 has 870M"
        );
    }
}
