//! The analysis of a soak: what each check has seen so far.

use crate::machine::event::{Proc, Ticket};
use crate::machine::evidence::{Evidence, Limit};
use crate::proto::status::CheckVerdict;
use crate::time::Monotime;
use crate::unit::{Analysis, AnalysisCheck, AnalysisKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many processes of a generation are told apart.
const MOST_PROCESSES: usize = 64;
/// If one process answered so many looks and no other did, there is no other that counts.
const SURELY_ALONE: u32 = 5;

/// The analysis of the soak that is under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Judging {
    /// When the next look is due; `None` while one is awaited that must come first.
    pub(crate) next: Option<Monotime>,
    /// The look that is awaited, and when it counts as lost.
    pub(crate) asked: Option<(Ticket, Monotime)>,
    /// The soak's time is over: the next answer decides.
    pub(crate) last: bool,
    /// The soak goes on beyond `SoakTime`, because a check is open.
    pub(crate) extended: bool,
    /// The soak is over, and so is this.
    pub(crate) ended: bool,
    pub(crate) checks: Vec<Judged>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Judged {
    pub(crate) verdict: CheckVerdict,
    /// For people: the figures, or why there are none.
    pub(crate) text: String,
    /// Looks that said something.
    pub(crate) looks: u32,
    /// Failures in a row (`Value`, `Exec`).
    pub(crate) in_row: u32,
    pub(crate) evidence: Evidence,
    pub(crate) new: Book,
    pub(crate) old: Book,
    /// `Value`: what it was at the last look, of both.
    pub(crate) values: (Option<f64>, Option<f64>),
    /// `Histogram`: the bound that is judged.
    pub(crate) bound: Option<f64>,
    /// `Exec`: the command that runs, and until when it may.
    pub(crate) running: Option<(Proc, Option<Monotime>)>,
    /// `Value`: counters of aeternad's own, which are of all processes together.
    #[serde(default)]
    pub(crate) own_new: Book,
    #[serde(default)]
    pub(crate) own_old: Book,
    /// `Exec`: the last line of the command that runs.
    #[serde(default)]
    pub(crate) said: Option<String>,
    /// Why the last look said nothing.
    #[serde(default)]
    pub(crate) silent: Option<String>,
    /// A warning is said once a soak.
    pub(crate) warned: bool,
    /// So is what is odd about counters.
    #[serde(default)]
    pub(crate) odd: bool,
}

impl Judging {
    /// Nothing seen yet.
    pub(crate) fn new(analysis: &Analysis, now: Monotime) -> Judging {
        Judging {
            next: Some(now),
            asked: None,
            last: false,
            extended: false,
            ended: false,
            checks: analysis.checks.iter().map(Judged::new).collect(),
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Monotime> {
        let running = self.checks.iter().filter_map(|check| check.running?.1);
        let look = self.asked.map(|(_, until)| until).or(self.next);
        running.chain(look).min()
    }
}

impl Judged {
    pub(crate) fn new(check: &AnalysisCheck) -> Judged {
        // Shares are written in percent.
        let percent = !matches!(check.kind, AnalysisKind::Value { .. });
        let max = check.max.map(|max| if percent { max / 100.0 } else { max });
        Judged {
            verdict: CheckVerdict::Open,
            text: String::new(),
            looks: 0,
            in_row: 0,
            evidence: Evidence::new(Limit { max, relative: check.max_relative }),
            new: Book::default(),
            old: Book::default(),
            values: (None, None),
            bound: None,
            running: None,
            said: None,
            own_new: Book::default(),
            own_old: Book::default(),
            silent: None,
            warned: false,
            odd: false,
        }
    }
}

/// The counters of one generation. Its processes may each count for themselves, or all write one set: that is known
/// once one of them was met again after another.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Book {
    /// What each process said last.
    by_process: BTreeMap<i32, Vec<f64>>,
    /// What was said last, by whomever.
    last: Option<(i32, Vec<f64>)>,
    met: u32,
    /// A process was met again after another.
    returned: bool,
    /// The sums fell when another process answered: they are each its own.
    own: bool,
    was_shared: bool,
    /// Increases that nobody has taken yet.
    pending_own: Vec<f64>,
    pending_shared: Vec<f64>,
    /// All increases that were taken ([`Book::since`]).
    total: Vec<f64>,
    /// The first process whose counters have fallen.
    #[serde(default)]
    pub(crate) fell: Option<i32>,
}

/// What a look adds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Increase {
    /// Whose counters these are is not known yet.
    NotYet,
    /// So much more than before.
    By(Vec<f64>),
    /// What was taken before was wrong; this counts.
    Anew(Vec<f64>),
}

impl Book {
    /// Takes what a process says. `alone`: the generation has no other.
    pub(crate) fn add(&mut self, process: i32, alone: bool, sums: &[f64]) -> Increase {
        let none = vec![0.0; sums.len()];
        self.pending_own.resize(sums.len(), 0.0);
        self.pending_shared.resize(sums.len(), 0.0);
        let known = self.by_process.get(&process);
        match known.map(|before| growth(before, sums)) {
            Some(Some(growth)) => add(&mut self.pending_own, &growth),
            Some(None) => self.fell = self.fell.or(Some(process)),
            None => {}
        }
        if known.is_none() && self.by_process.len() >= MOST_PROCESSES {
            return Increase::NotYet;
        }
        if let Some((before, said)) = &self.last {
            match growth(said, sums) {
                Some(growth) => add(&mut self.pending_shared, &growth),
                // A counter begins anew with its process, not with another's answer.
                None => self.own |= *before != process,
            }
            self.returned |= *before != process && known.is_some();
        }
        self.by_process.insert(process, sums.to_vec());
        self.last = Some((process, sums.to_vec()));
        self.met += 1;
        let single = self.by_process.len() == 1;
        if !(self.returned || (single && (alone || self.met >= SURELY_ALONE))) {
            return Increase::NotYet;
        }
        let shared = !single && !self.own;
        let anew = self.was_shared && !shared;
        self.was_shared = shared;
        let own = std::mem::replace(&mut self.pending_own, none.clone());
        let all = std::mem::replace(&mut self.pending_shared, none);
        match (shared, anew) {
            (true, _) => Increase::By(all),
            (false, true) => Increase::Anew(own),
            (false, false) => Increase::By(own),
        }
    }
}

impl Book {
    /// By how much the counters have grown since the first look; `None` before that is known.
    pub(crate) fn since(&mut self, process: i32, alone: bool, sums: &[f64]) -> Option<Vec<f64>> {
        self.total.resize(sums.len(), 0.0);
        match self.add(process, alone, sums) {
            Increase::NotYet => None,
            Increase::By(grown) => {
                add(&mut self.total, &grown);
                Some(self.total.clone())
            }
            Increase::Anew(grown) => {
                self.total.clone_from(&grown);
                Some(grown)
            }
        }
    }
}

/// By how much each has grown; `None` if one has fallen.
fn growth(before: &[f64], now: &[f64]) -> Option<Vec<f64>> {
    if before.len() != now.len() {
        return None;
    }
    let grown = before.iter().zip(now).map(|(before, now)| (now >= before).then_some(now - before));
    grown.collect()
}

fn add(sums: &mut [f64], growth: &[f64]) {
    for (sum, growth) in sums.iter_mut().zip(growth) {
        *sum += growth;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(book: &mut Book, said: &[(i32, f64)]) -> Vec<Option<f64>> {
        let one = |(process, sum): &(i32, f64)| match book.add(*process, false, &[*sum]) {
            Increase::NotYet => None,
            Increase::By(grown) => Some(grown[0]),
            Increase::Anew(grown) => Some(-grown[0]),
        };
        said.iter().map(one).collect()
    }

    #[test]
    fn processes_that_count_for_themselves_are_added() {
        let said = [(1, 100.0), (2, 50.0), (1, 110.0), (2, 70.0), (1, 115.0)];
        assert_eq!(taken(&mut Book::default(), &said), [None, None, Some(10.0), Some(20.0), Some(5.0)]);
    }

    #[test]
    fn processes_that_share_a_set_count_once() {
        let said = [(1, 100.0), (2, 110.0), (1, 120.0), (2, 125.0)];
        assert_eq!(taken(&mut Book::default(), &said), [None, None, Some(20.0), Some(5.0)]);
    }

    #[test]
    fn what_was_taken_for_shared_and_falls_begins_anew() {
        let said = [(1, 100.0), (2, 110.0), (1, 120.0), (2, 115.0), (1, 121.0)];
        assert_eq!(taken(&mut Book::default(), &said), [None, None, Some(20.0), Some(-5.0), Some(1.0)]);
    }

    #[test]
    fn a_counter_that_begins_anew_loses_nothing_that_was_counted() {
        let mut book = Book::default();
        for (sum, grown) in [(10.0, 0.0), (15.0, 5.0), (2.0, 0.0), (4.0, 2.0)] {
            assert_eq!(book.add(7, true, &[sum]), Increase::By(vec![grown]), "{sum}");
        }
    }

    #[test]
    fn a_worker_that_takes_anothers_place_begins_anew() {
        let said = [(1, 100.0), (2, 50.0), (1, 110.0), (3, 7.0), (1, 115.0), (3, 9.0), (2, 1.0), (2, 3.0)];
        let mut book = Book::default();
        let grown = taken(&mut book, &said);
        assert_eq!(grown.iter().flatten().sum::<f64>(), 10.0 + 5.0 + 2.0 + 2.0);
        assert_eq!(book.fell, Some(2), "a pid that another process has by now");
    }

    #[test]
    fn a_process_that_is_always_met_is_the_only_one_that_counts() {
        let said: Vec<(i32, f64)> = (0..6).map(|n| (1, f64::from(n))).collect();
        assert_eq!(taken(&mut Book::default(), &said), [None, None, None, None, Some(4.0), Some(1.0)]);
    }

    #[test]
    fn there_are_never_many_processes() {
        let mut book = Book::default();
        for process in 0..1000 {
            book.add(process, false, &[1.0]);
        }
        assert!(book.by_process.len() <= MOST_PROCESSES);
    }
}
