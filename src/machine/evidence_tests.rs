//! The figures that aeterna.unit(5) promises, played with simulated requests.

use super::*;

/// xorshift128+: the same numbers in every run.
struct Random([u64; 2]);

impl Random {
    fn new(seed: u64) -> Random {
        Random([88_172_645_463_325_252 ^ seed.wrapping_mul(0x9E37_79B9_7F4A_7C15), 1_234_567 + seed])
    }

    /// Between 0 and 1, neither of them.
    fn unit(&mut self) -> f64 {
        let (mut a, b) = (self.0[0], self.0[1]);
        a ^= a << 23;
        self.0 = [b, a ^ b ^ (a >> 17) ^ (b >> 26)];
        ((self.0[1].wrapping_add(b) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    fn poisson(&mut self, mean: f64) -> u64 {
        if mean >= 40.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0) as u64;
        }
        let (limit, mut product, mut count) = ((-mean).exp(), self.unit(), 0);
        while product > limit {
            product *= self.unit();
            count += 1;
        }
        count
    }

    fn binomial(&mut self, all: u64, share: f64) -> u64 {
        let mean = all as f64 * share;
        if all == 0 || share <= 0.0 {
            return 0;
        }
        if mean >= 40.0 {
            let found = (mean + (mean * (1.0 - share)).sqrt() * self.normal()).round();
            return found.clamp(0.0, all as f64) as u64;
        }
        let (mut at, mut found) = (0.0, 0);
        loop {
            at += (self.unit().ln() / (1.0 - share).ln()).floor() + 1.0;
            if at > all as f64 {
                return found;
            }
            found += 1;
        }
    }
}

#[derive(Clone, Copy)]
struct Case {
    /// Requests a second, of both generations together.
    rate: f64,
    /// Shares of bad requests.
    old: f64,
    new: f64,
    limit: Limit,
    /// Seconds; a look a second; a tenth goes to the new generation.
    soak: u32,
}

const LIMIT: Limit = Limit { max: Some(0.002), relative: Some(1.25) };

fn case(rate: f64, old: f64, new: f64) -> Case {
    Case { rate, old, new, limit: LIMIT, soak: 30 }
}

/// Of how many soaks in a hundred the release is rolled back, and after how many seconds on average.
fn play(case: Case, soaks: u64) -> (f64, f64) {
    let (mut failed, mut seconds) = (0, 0);
    for seed in 0..soaks {
        let mut random = Random::new(seed);
        let mut evidence = Evidence::new(case.limit);
        for look in 1..=case.soak {
            let mut count = |rate: f64, share: f64| {
                let all = random.poisson(rate);
                Count { all, bad: random.binomial(all, share) }
            };
            let new = count(case.rate * 0.1, case.new);
            evidence.add(new, count(case.rate * 0.9, case.old));
            if evidence.fails() {
                failed += 1;
                seconds += u64::from(look);
                break;
            }
        }
    }
    (100.0 * failed as f64 / soaks as f64, seconds as f64 / failed.max(1) as f64)
}

#[test]
fn an_equal_release_is_never_rolled_back_in_five_hundred_soaks() {
    for rate in [50.0, 200.0, 1000.0, 5000.0] {
        for share in [0.001, 0.01] {
            assert_eq!(play(case(rate, share, share), 500).0, 0.0, "{rate}/s, {share}");
        }
        let (at_the_limit, _) = play(case(rate, 0.01, 0.0125), 1000);
        assert!(at_the_limit <= 1.0, "{rate}/s at the limit: {at_the_limit} %");
        assert_eq!(play(case(rate, 0.2, 0.2), 300).0, 0.0, "{rate}/s: an outage behind both");
    }
    let long = Case { soak: 300, ..case(1000.0, 0.01, 0.0125) };
    assert!(play(long, 300).0 <= 1.0);
}

#[test]
fn a_worse_release_is_rolled_back_as_soon_as_the_manual_says() {
    let latency = Limit { max: None, relative: Some(1.25) };
    // Requests a second, old share, new share, limit; rolled back in at least … of a hundred, within … seconds.
    for (rate, old, new, limit, least, within) in [
        (1000.0, 0.001, 0.01, LIMIT, 95.0, 16.0),
        (5000.0, 0.001, 0.01, LIMIT, 100.0, 7.0),
        (5000.0, 0.01, 0.02, LIMIT, 99.0, 15.0),
        (200.0, 0.01, 0.05, LIMIT, 87.0, 18.0),
        (1000.0, 0.01, 0.05, LIMIT, 100.0, 8.0),
        (5000.0, 0.01, 0.05, LIMIT, 100.0, 6.0),
        (50.0, 0.001, 0.3, LIMIT, 100.0, 7.0),
        (200.0, 0.001, 0.3, LIMIT, 100.0, 5.5),
        (1000.0, 0.001, 0.3, LIMIT, 100.0, 3.5),
        (5.0, 0.0001, 0.9, LIMIT, 97.0, 15.0),
        (1000.0, 0.01, 0.0274, latency, 90.0, 19.0),
        (5000.0, 0.01, 0.0274, latency, 100.0, 8.0),
    ] {
        let (rolled_back, seconds) = play(Case { limit, ..case(rate, old, new) }, 300);
        assert!(
            rolled_back >= least && seconds <= within,
            "{rate}/s, {old} to {new}: {rolled_back} % after {seconds} s"
        );
    }
}

#[test]
fn one_look_never_decides() {
    let mut evidence = Evidence::new(LIMIT);
    evidence.add(Count { all: 1000, bad: 1000 }, Count { all: 1000, bad: 0 });
    assert!(!evidence.fails());
    evidence.add(Count { all: 1000, bad: 0 }, Count { all: 1000, bad: 0 });
    assert!(!evidence.fails());
}

#[test]
fn an_old_generation_without_requests_leaves_max_alone() {
    let none = Count::default();
    let bad = Count { all: 100, bad: 50 };
    for (limit, fails) in [
        (LIMIT, true),
        (Limit { relative: None, ..LIMIT }, true),
        (Limit { max: None, ..LIMIT }, false),
        (Limit { max: None, relative: None }, false),
    ] {
        let mut evidence = Evidence::new(limit);
        for _ in 0..10 {
            evidence.add(bad, none);
        }
        assert_eq!(evidence.fails(), fails, "{limit:?}");
    }
}

#[test]
fn what_a_soak_could_have_seen_is_what_the_simulation_says() {
    for (new, old_bad, old_all, percent) in [
        (15, 1, 135, 27.0),
        (150, 13, 1350, 6.7),
        (600, 54, 5400, 3.5),
        (3000, 270, 27_000, 2.1),
        (15_000, 1350, 135_000, 1.6),
    ] {
        let mut evidence = Evidence::new(LIMIT);
        evidence.add(Count { all: new, bad: 0 }, Count { all: old_all, bad: old_bad });
        let seen = evidence.noticed_from().unwrap() * 100.0;
        assert!((seen - percent).abs() < 0.35 || new == 15, "{new}: {seen}");
        assert!(seen >= percent - 0.35, "{new}: {seen}");
    }
    assert_eq!(Evidence::new(LIMIT).noticed_from(), None);
}

#[test]
fn bursts_count_less() {
    let play = |burst: u64| {
        let mut evidence = Evidence::new(LIMIT);
        for look in 0..30 {
            let bad = if look % burst == 0 { burst } else { 0 };
            evidence.add(Count { all: 100, bad }, Count { all: 900, bad: 1 });
        }
        evidence.logarithm()
    };
    assert!(play(10) < play(1) / 2.0, "{} {}", play(10), play(1));
}

#[test]
fn many_looks_take_no_more_room() {
    let mut evidence = Evidence::new(LIMIT);
    for _ in 0..100_000 {
        evidence.add(Count { all: 10, bad: 0 }, Count { all: 90, bad: 0 });
    }
    assert!(evidence.batches.whole.len() < MOST_BATCHES);
    let text = serde_json::to_string(&evidence).unwrap();
    assert_eq!(serde_json::from_str::<Evidence>(&text).unwrap(), evidence);
}
