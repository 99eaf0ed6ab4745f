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
    /// Seconds; a look a second.
    soak: u32,
    /// The part that goes to the new generation.
    part: f64,
    /// So many failures come together on average, within ten seconds; 1: each by itself.
    burst: f64,
    /// By so much more of the new ones are bad at the beginning, less and less within seconds, and from which second on is
    /// judged.
    warm_up: (f64, u32),
}

const LIMIT: Limit = Limit { max: Some(0.002), relative: Some(1.25) };

fn case(rate: f64, old: f64, new: f64) -> Case {
    Case { rate, old, new, limit: LIMIT, soak: 30, part: 0.1, burst: 1.0, warm_up: (0.0, 0) }
}

/// The failures of every second of a soak, which come in bursts that are spread over ten seconds.
fn bursts(random: &mut Random, mean: f64, burst: f64, seconds: u32) -> Vec<u64> {
    const SPREAD: usize = 10;
    let mut bad = vec![0; seconds as usize + 2 * SPREAD];
    for second in 0..seconds as usize + SPREAD {
        for _ in 0..random.poisson(mean / burst) {
            let mut size = 1;
            while random.unit() > 1.0 / burst {
                size += 1;
            }
            for _ in 0..size {
                bad[second + (random.unit() * SPREAD as f64) as usize] += 1;
            }
        }
    }
    bad.drain(..SPREAD);
    bad
}

/// Of how many soaks in a hundred the release is rolled back, and after how many seconds on average.
fn play(case: Case, soaks: u64) -> (f64, f64) {
    let (mut failed, mut seconds) = (0, 0);
    for seed in 0..soaks {
        let mut random = Random::new(seed);
        let mut evidence = Evidence::new(case.limit);
        let rates = (case.rate * case.part, case.rate * (1.0 - case.part));
        let from = case.warm_up.1;
        let in_bursts = (case.burst > 1.0).then(|| {
            let mut of = |rate, share| bursts(&mut random, rate * share, case.burst, case.soak);
            (of(rates.0, case.new), of(rates.1, case.old))
        });
        for look in 1..=case.soak {
            let warm_up = case.warm_up.0 * (-f64::from(look + from - 1) / 5.0).exp();
            let at = look as usize - 1;
            let mut count = |rate: f64, share: f64, bad: Option<u64>| {
                let all = random.poisson(rate);
                let bad = bad.unwrap_or_else(|| random.binomial(all, share));
                Count { all: all.max(bad), bad }
            };
            let new = count(rates.0, case.new + warm_up, in_bursts.as_ref().map(|(new, _)| new[at]));
            evidence.add(new, count(rates.1, case.old, in_bursts.as_ref().map(|(_, old)| old[at])));
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

/// A row of the design's table: what is played, and of how many soaks in a hundred the release is rolled back, after how
/// many seconds on average, at 50, 200, 1,000 and 5,000 requests a second. No seconds: the table has none.
type Row = (&'static str, Case, [(f64, f64); 4]);

fn table() -> Vec<Row> {
    let at = |old, new| case(0.0, old, new);
    let never = [(0.0, 0.0); 4];
    let latency = Limit { max: None, relative: Some(1.25) };
    let slow = Case { limit: latency, ..at(0.01, 0.0274) };
    let warm = |from| Case { limit: latency, warm_up: (0.2, from), ..at(0.01, 0.01) };
    vec![
        ("same quality, 0.1 %", at(0.001, 0.001), never),
        ("same quality, 1 %", at(0.01, 0.01), never),
        ("at the limit, 1 to 1.25 %", at(0.01, 0.0125), never),
        ("outage behind both, 20 %", at(0.2, 0.2), never),
        (
            "bursts of 5",
            Case { burst: 5.0, ..at(0.01, 0.01) },
            [(2.0, 0.0), (4.0, 0.0), (5.0, 0.0), (2.0, 0.0)],
        ),
        (
            "bursts of 20",
            Case { burst: 20.0, ..at(0.01, 0.01) },
            [(3.0, 0.0), (5.0, 0.0), (7.0, 0.0), (7.0, 0.0)],
        ),
        ("warm-up", warm(0), [(27.0, 0.0), (81.0, 0.0), (91.0, 0.0), (100.0, 0.0)]),
        ("warm-up, from 15 s on", warm(15), [(0.1, 0.0), (0.1, 0.0), (0.5, 0.0), (1.2, 0.0)]),
        ("warm-up, from 30 s on", warm(30), never),
        ("0.1 to 1 %", at(0.001, 0.01), [(1.0, 0.0), (25.0, 21.0), (98.0, 14.0), (100.0, 6.0)]),
        (
            "0.1 to 1 %, 120 s",
            Case { soak: 120, ..at(0.001, 0.01) },
            [(27.0, 80.0), (99.0, 51.0), (100.0, 15.0), (100.0, 6.0)],
        ),
        ("1 to 2 %", at(0.01, 0.02), [(1.0, 0.0), (2.0, 0.0), (30.0, 21.0), (100.0, 12.4)]),
        (
            "1 to 2 %, 120 s",
            Case { soak: 120, ..at(0.01, 0.02) },
            [(2.0, 0.0), (25.0, 79.0), (100.0, 48.0), (100.0, 12.0)],
        ),
        ("1 to 5 %", at(0.01, 0.05), [(20.0, 21.0), (92.0, 16.0), (100.0, 6.5), (100.0, 5.0)]),
        ("0.1 to 30 %", at(0.001, 0.3), [(100.0, 5.5), (100.0, 4.2), (100.0, 3.0), (100.0, 3.0)]),
        ("p99 and a half", slow, [(2.0, 0.0), (16.0, 22.0), (95.0, 16.0), (100.0, 6.3)]),
        (
            "p99 and a half, 120 s",
            Case { soak: 120, ..slow },
            [(24.0, 82.0), (94.0, 59.0), (100.0, 16.0), (100.0, 6.7)],
        ),
    ]
}

/// `cargo test evidence -- --nocapture` prints it.
#[test]
fn the_table_of_the_design_is_what_this_code_does() {
    let mut wrong = Vec::new();
    for (name, case, expected) in table() {
        let mut line = format!("{name:<28}");
        for (rate, (share, after)) in [50.0, 200.0, 1000.0, 5000.0].into_iter().zip(expected) {
            let (rolled_back, seconds) = play(Case { rate, ..case }, 300);
            line += &format!(" {rolled_back:5.1} % @{seconds:4.1} s |");
            // Three times the error of 300 soaks; the table's own figures are rounded.
            let error =
                3.0 * (share.clamp(1.0, 99.0) * (100.0 - share.clamp(1.0, 99.0)) / 300.0).sqrt() + 0.6;
            let in_time = after == 0.0 || (seconds - after).abs() <= 0.12 * after + 0.7;
            if (rolled_back - share).abs() > error || !in_time {
                wrong.push(format!(
                    "{name} at {rate}/s: {rolled_back} % @{seconds} s, the table has {share} % @{after} s"
                ));
            }
        }
        println!("{line}");
    }
    let half = |rate, old, new, limit| play(Case { part: 0.5, limit, ..case(rate, old, new) }, 300);
    let relative = Limit { max: None, relative: Some(1.25) };
    for (what, (share, after), (rolled_back, seconds)) in [
        ("half, 1 to 2 %, 1,000/s", (85.0, 19.0), half(1000.0, 0.01, 0.02, LIMIT)),
        ("half, p99 and a half, 1,000/s", (100.0, 9.0), half(1000.0, 0.01, 0.0274, relative)),
        ("half, 0.1 to 1 %, 200/s", (83.0, 18.0), half(200.0, 0.001, 0.01, LIMIT)),
        ("90 % at 5/s", (99.0, 13.0), play(case(5.0, 0.0001, 0.9), 300)),
        ("90 % at 2/s, 120 s", (99.7, 50.0), play(Case { soak: 120, ..case(2.0, 0.0001, 0.9) }, 300)),
    ] {
        println!("{what:<30} {rolled_back:5.1} % @{seconds:4.1} s");
        if f64::abs(rolled_back - share) > 7.0 || f64::abs(seconds - after) > 0.12 * after + 0.7 {
            wrong.push(format!("{what}: {rolled_back} % @{seconds} s, the table has {share} % @{after} s"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The exposure of each look is its own: steps of the weight are no evidence.
#[test]
fn steps_of_the_weight_are_no_evidence() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut evidence = Evidence::new(LIMIT);
        for look in 0..30 {
            // An outage behind both comes with the second step.
            let (part, share) = [(0.01, 0.001), (0.1, 0.05), (0.5, 0.001)][look / 10];
            let mut count = |rate: f64| {
                let all = random.poisson(rate);
                Count { all, bad: random.binomial(all, share) }
            };
            let new = count(1000.0 * part);
            evidence.add(new, count(1000.0 * (1.0 - part)));
        }
        assert!(!evidence.fails(), "{seed}: {evidence:?}");
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
