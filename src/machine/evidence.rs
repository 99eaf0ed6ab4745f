//! How sure it is that the share of bad requests is above its limit: the arithmetic of a soak's analysis.
//!
//! The evidence is a mixture of likelihood ratios, which is a test martingale while the release is within its limit:
//! however often is looked, the chance that it ever reaches 100 is at most 1 % (Ville's inequality). That holds for
//! requests that fail independently of one another; for those that fail in bursts the evidence is divided by the
//! dispersion of the counts, which is an estimate.

use serde::{Deserialize, Serialize};

/// How much worse than its limit a release may be: what the evidence is averaged over.
const WORSE: [f64; 7] = [1.25, 1.5, 2.0, 3.0, 6.0, 15.0, 40.0];
/// The evidence that decides.
const DECIDES: f64 = 100.0;
/// Fewer bad requests decide nothing.
const LEAST_BAD: u64 = 5;
/// Nor do bad requests in fewer looks.
const LEAST_LOOKS: u32 = 3;
/// Batches of looks are folded by halves when there are so many.
const MOST_BATCHES: usize = 20;

/// Requests and how many of them were bad.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Count {
    /// All of them.
    pub all: u64,
    /// The bad ones among them.
    pub bad: u64,
}

impl Count {
    /// No more bad ones than there are.
    fn possible(self) -> Count {
        Count { bad: self.bad.min(self.all), ..self }
    }

    fn add(&mut self, other: Count) {
        self.all = self.all.saturating_add(other.all);
        self.bad = self.bad.saturating_add(other.bad);
    }

    /// The share of bad ones, 0 to 1.
    pub fn share(self) -> f64 {
        if self.all == 0 { 0.0 } else { self.bad as f64 / self.all as f64 }
    }
}

/// What is allowed: `max`, or `relative` times the old generation's share, whichever is more.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// `Max`: a share, 0 to 1.
    pub max: Option<f64>,
    /// `MaxRelative`: a factor; `None` switches it off.
    pub relative: Option<f64>,
}

/// The counts of one check in one soak, and what follows from them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    limit: Limit,
    /// Logarithms of the likelihood ratios against `max` and against `relative`, for each of [`WORSE`].
    above: [f64; WORSE.len()],
    against: [f64; WORSE.len()],
    /// All that was counted of the new generation.
    pub new: Count,
    /// All that was counted of the old one meanwhile.
    pub old: Count,
    /// How many looks had anything.
    pub looks: u32,
    looks_with_bad: u32,
    batches: Batches,
    /// The bad ones of the new generation, even where they are more than all.
    #[serde(default)]
    bad: u64,
}

impl Evidence {
    /// No evidence yet.
    pub fn new(limit: Limit) -> Evidence {
        Evidence {
            limit,
            above: [0.0; WORSE.len()],
            against: [0.0; WORSE.len()],
            new: Count::default(),
            old: Count::default(),
            looks: 0,
            looks_with_bad: 0,
            batches: Batches::default(),
            bad: 0,
        }
    }

    /// Whether more bad requests of the new generation were counted than requests.
    pub fn is_impossible(&self) -> bool {
        self.bad > self.new.all
    }

    /// Adds what was counted between two looks. No look decides alone.
    pub fn add(&mut self, new: Count, old: Count) {
        self.bad = self.bad.saturating_add(new.bad);
        let (new, old) = (new.possible(), old.possible());
        self.new.add(new);
        self.old.add(old);
        self.looks = self.looks.saturating_add(1);
        self.looks_with_bad = self.looks_with_bad.saturating_add(u32::from(new.bad > 0));
        self.batches.add(new, old);
        let most = DECIDES.ln() / f64::from(LEAST_LOOKS);
        for (index, worse) in WORSE.into_iter().enumerate() {
            if let Some(max) = self.limit.max {
                self.above[index] += rise(max, new, worse).min(most);
            }
            if let (Some(relative), true) = (self.limit.relative, new.all > 0 && old.all > 0) {
                self.against[index] += rise_against(relative, new, old, worse).min(most);
            }
        }
    }

    /// The natural logarithm of the evidence. Both limits must be exceeded: whichever allows more counts.
    pub fn logarithm(&self) -> f64 {
        let above = self.limit.max.map(|_| mean(&self.above));
        // An old generation that gets nothing cannot be compared with: then `max` alone decides.
        let against = self.limit.relative.filter(|_| self.old.all > 0 || self.limit.max.is_none());
        let against = against.map(|_| mean(&self.against));
        let least = above.into_iter().chain(against).reduce(f64::min).unwrap_or(0.0);
        least / self.batches.dispersion()
    }

    /// Whether the share is above its limit.
    pub fn fails(&self) -> bool {
        self.new.bad >= LEAST_BAD && self.looks_with_bad >= LEAST_LOOKS && self.logarithm() >= DECIDES.ln()
    }

    /// The share that was allowed so far.
    pub fn allowed(&self) -> f64 {
        let relative = self.limit.relative.map_or(0.0, |relative| relative * self.old.share());
        self.limit.max.unwrap_or(0.0).max(relative).min(1.0)
    }

    /// The least share of bad requests that would have been noticed among so many, if they had come evenly spread.
    /// `None`: not even all of them.
    pub fn noticed_from(&self) -> Option<f64> {
        let all = self.new.all;
        let noticed = |bad: u64| {
            let new = Count { all, bad };
            let above = self.limit.max.map(|max| mean(&WORSE.map(|worse| rise(max, new, worse))));
            let against = self.limit.relative.filter(|_| self.old.all > 0);
            let against = against
                .map(|relative| mean(&WORSE.map(|worse| rise_against(relative, new, self.old, worse))));
            let least = above.into_iter().chain(against).reduce(f64::min).unwrap_or(0.0);
            bad >= LEAST_BAD && least >= DECIDES.ln()
        };
        if !noticed(all) {
            return None;
        }
        let (mut not, mut yes) = (0, all);
        while yes - not > 1 {
            let middle = not + (yes - not) / 2;
            if noticed(middle) { yes = middle } else { not = middle }
        }
        Some(Count { all, bad: yes }.share())
    }
}

/// By how much the logarithm grows if the true share is `worse` times `max` rather than `max`.
fn rise(max: f64, new: Count, worse: f64) -> f64 {
    let max = max.clamp(1e-9, 0.998);
    let is = (max * worse).min(0.999);
    let (all, bad) = (new.all as f64, new.bad.min(new.all) as f64);
    bad * (is / max).ln() + (all - bad) * ((1.0 - is) / (1.0 - max)).ln()
}

/// The same against `relative` times the old generation's share: given how many were bad, who had them.
fn rise_against(relative: f64, new: Count, old: Count, worse: f64) -> f64 {
    let (new_all, old_all) = (new.all as f64, old.all as f64);
    let share = |factor: f64| factor * new_all / (factor * new_all + old_all);
    let (allowed, is) = (share(relative), share(relative * worse));
    new.bad as f64 * (is / allowed).ln() + old.bad as f64 * ((1.0 - is) / (1.0 - allowed)).ln()
}

/// The logarithm of the mean of the numbers whose logarithms these are.
fn mean(logarithms: &[f64]) -> f64 {
    let most = logarithms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logarithms.iter().map(|one| (one - most).exp()).sum();
    most + (sum / logarithms.len() as f64).ln()
}

/// Counts of looks in a row, put together so that there are never many.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Batches {
    whole: Vec<(Count, Count)>,
    /// The batch that is being filled, and how many looks it has.
    filling: (Count, Count, u32),
    /// How many looks make a batch.
    size: u32,
}

impl Batches {
    fn add(&mut self, new: Count, old: Count) {
        self.size = self.size.max(1);
        self.filling.0.add(new);
        self.filling.1.add(old);
        self.filling.2 += 1;
        if self.filling.2 < self.size {
            return;
        }
        self.whole.push((self.filling.0, self.filling.1));
        self.filling = Default::default();
        if self.whole.len() == MOST_BATCHES {
            let halves = self.whole.chunks(2).map(|pair| {
                let mut sum = (Count::default(), Count::default());
                for (new, old) in pair {
                    sum.0.add(*new);
                    sum.1.add(*old);
                }
                sum
            });
            self.whole = halves.collect();
            self.size = self.size.saturating_mul(2);
        }
    }

    /// By how much more the counts vary than independent failures would: the larger of the two generations', at
    /// least 1.
    fn dispersion(&self) -> f64 {
        let of = |which: fn(&(Count, Count)) -> Count| dispersion(self.whole.iter().map(which));
        of(|pair| pair.0).max(of(|pair| pair.1))
    }
}

fn dispersion(batches: impl Iterator<Item = Count> + Clone) -> f64 {
    let mut sum = Count::default();
    batches.clone().for_each(|batch| sum.add(batch));
    let filled = batches.filter(|batch| batch.all > 0);
    let number = filled.clone().count();
    let share = sum.share();
    if number < 4 || sum.bad < 3 || share <= 0.0 {
        return 1.0;
    }
    let squares: f64 = filled
        .map(|batch| {
            let expected = batch.all as f64 * share;
            (batch.bad as f64 - expected).powi(2) / expected
        })
        .sum();
    (squares / (number as f64 - 1.0)).max(1.0)
}

#[cfg(test)]
#[path = "evidence_tests.rs"]
mod tests;
