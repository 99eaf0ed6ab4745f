//! A soak that is judged: when both generations are looked at, and what follows.

use crate::rig::Rig;
use crate::units::{analysis, base};
use aeterna::machine::event::*;
use aeterna::proto::exposition::{Kind, Selector, Sum};
use aeterna::proto::status::{CheckVerdict, Usage};
use aeterna::time::Span;
use aeterna::unit::{Amount, AnalysisKind, Inconclusive, OomPolicy, Restart, Unit};

/// A unit whose errors are judged, and nothing else.
fn judged() -> Unit {
    let mut analysis = analysis();
    analysis.checks.truncate(1);
    Unit { analysis: Some(analysis), ..base() }
}

fn sum(value: f64) -> Sum {
    Sum { value, kind: Kind::Counter, series: 1, ..Sum::default() }
}

fn seen(bad: u64, all: u64) -> Seen {
    let page = Page { process: 7, alone: true, sums: vec![sum(bad as f64), sum(all as f64)] };
    Seen { page: Ok(page), usage: Usage::default() }
}

/// What both have counted since they were started.
fn looked(new: (u64, u64), old: (u64, u64)) -> Answer {
    Answer::Looked(Box::new(Looked { new: seen(new.0, new.1), old: Some(seen(old.0, old.1)) }))
}

fn blind() -> Answer {
    let nothing = Seen { page: Err(NoPage::TimedOut), usage: Usage::default() };
    Answer::Looked(Box::new(Looked { new: nothing.clone(), old: Some(nothing) }))
}

/// In the soak of generation 2, the first look not answered yet.
fn soaking(unit: &Unit) -> Rig {
    let mut rig = Rig::running(unit.clone());
    rig.reload_to(2, unit.clone());
    rig.spawned(2);
    assert_eq!(rig.ready(2, 0), ["look g2 Some(1)", "=SOAKING"]);
    rig
}

/// A look a second, until `until` seconds have passed; the new one fails `bad` of 100 requests a second.
fn look_on(rig: &mut Rig, seconds: u64, bad: u64) -> Vec<String> {
    for second in 0..seconds {
        let lines = rig.event(looked((second * bad, second * 100), (second, second * 900)));
        if !lines.is_empty() {
            return lines;
        }
        rig.after(1_000, &["look g2 Some(1)"]);
    }
    Vec::new()
}

#[test]
fn a_release_that_fails_one_request_in_ten_is_rolled_back_and_told_why() {
    let mut rig = soaking(&judged());
    let lines = look_on(&mut rig, 29, 10);
    assert!(lines.iter().any(|line| line == "=ROLLING_BACK"), "{lines:?}");
    let announced = rig.all.iter().find_map(|action| match action {
        Action::Announce(Announcement::Analysis { check }) => Some(check.clone()),
        _ => None,
    });
    let check = announced.unwrap();
    assert_eq!(check.verdict, CheckVerdict::Fail);
    // It is told when it fails, and not again at the end.
    rig.exits(2, Exit::Signal { signal: 15, core: false });
    rig.empty(2);
    rig.outcome(Outcome::RolledBack, &format!("errors: {}", check.text));
    let told = |action: &&Action| matches!(action, Action::Announce(Announcement::Analysis { .. }));
    assert_eq!(rig.all.iter().filter(told).count(), 1);
    assert!(
        check.text.starts_with("10.0 % of ")
            && check.text.contains(" requests of generation 2 are bad, 0.1 % of "),
        "{}",
        check.text
    );
    assert!(
        check.text.ends_with("allowed is 2 % or 1.25 times the old one's (sure to 99 %)"),
        "{}",
        check.text
    );
}

#[test]
fn an_equal_release_is_promoted_after_one_more_look() {
    let mut rig = soaking(&judged());
    assert_eq!(look_on(&mut rig, 29, 0), [""; 0]);
    rig.event(looked((0, 2900), (29, 26_100)));
    rig.after(1_000, &["look g2 Some(1)"]);
    let lines = rig.event(looked((0, 3000), (30, 27_000)));
    assert!(lines.contains(&"promoted g2".to_string()), "{lines:?}");
    rig.outcome(Outcome::Promoted, "");
    let check = &rig.records()[0].checks[0];
    assert_eq!(
        (check.verdict, check.new.of, check.old.unwrap().of),
        (CheckVerdict::Pass, Some(3000), Some(27_000))
    );
    assert!(check.noticed_from.is_some_and(|share| share > 0.02 && share < 0.06), "{check:?}");
}

#[test]
fn a_soak_without_requests_is_not_judged_and_says_so() {
    for (inconclusive, most, word) in [
        (Inconclusive::Promote, None, "promoted g2"),
        (Inconclusive::Rollback, None, "=ROLLING_BACK"),
        (Inconclusive::Promote, Some(60), "promoted g2"),
        (Inconclusive::Rollback, Some(60), "=ROLLING_BACK"),
    ] {
        let mut unit = judged();
        if let Some(analysis) = unit.analysis.as_mut() {
            analysis.inconclusive = inconclusive;
            analysis.soak_time_max = most.map(Span::from_secs);
        }
        let mut rig = soaking(&unit);
        let mut lines = Vec::new();
        let mut seconds = 0;
        while !lines.contains(&word.to_string()) && seconds < 100 {
            lines = rig.event(looked((0, 40), (0, 900)));
            if lines.is_empty() {
                rig.after(1_000, &["look g2 Some(1)"]);
                seconds += 1;
            }
        }
        assert_eq!(seconds, most.unwrap_or(30), "{word}");
        if inconclusive == Inconclusive::Promote {
            rig.outcome(Outcome::Promoted, "not judged: errors (0 of 100 requests that it needs)");
        }
    }
}

#[test]
fn a_check_that_was_open_passes_as_soon_as_it_has_seen_enough() {
    let mut unit = judged();
    if let Some(analysis) = unit.analysis.as_mut() {
        analysis.soak_time_max = Some(Span::from_secs(600));
    }
    let mut rig = soaking(&unit);
    for second in 0..40 {
        assert_eq!(rig.event(looked((0, second), (0, second))), [""; 0], "{second}");
        rig.after(1_000, &["look g2 Some(1)"]);
    }
    let lines = rig.event(looked((0, 500), (0, 500)));
    assert!(lines.contains(&"promoted g2".to_string()), "{lines:?}");
}

#[test]
fn a_look_that_never_comes_back_holds_nothing_up() {
    let mut rig = soaking(&judged());
    // Timeout and a second.
    rig.after(3_000, &["look g2 Some(1)"]);
    // What comes now answers the look before: nobody waits for it, or the newest gets it once.
    assert_eq!(rig.event(blind()), [""; 0]);
    let mut lines = Vec::new();
    for _ in 0..40 {
        rig.now = rig.m.next_deadline().unwrap();
        lines = rig.event(Event::Tick);
        if lines.contains(&"promoted g2".to_string()) {
            break;
        }
    }
    assert!(lines.contains(&"promoted g2".to_string()), "{lines:?}");
    rig.outcome(Outcome::Promoted, "not judged: errors (generation 2: the page did not come within Timeout)");
}

#[test]
fn a_failed_check_that_does_not_block_is_said_and_recorded() {
    let mut unit = judged();
    if let Some(analysis) = unit.analysis.as_mut() {
        analysis.checks[0].block_on_fail = false;
    }
    let mut rig = soaking(&unit);
    assert_eq!(look_on(&mut rig, 29, 50), [""; 0]);
    rig.event(looked((1450, 2900), (29, 26_100)));
    rig.after(1_000, &["look g2 Some(1)"]);
    rig.event(looked((1500, 3000), (30, 27_000)));
    rig.outcome(Outcome::Promoted, "");
    assert_eq!(rig.records()[0].checks[0].verdict, CheckVerdict::Fail);
}

#[test]
fn who_promotes_by_hand_overrules_and_no_look_follows() {
    let mut rig = soaking(&judged());
    let lines = rig.command(Command::Promote);
    assert!(lines.contains(&"promoted g2".to_string()), "{lines:?}");
    assert_eq!(rig.records()[0].checks[0].verdict, CheckVerdict::Inconclusive);
    assert_eq!(rig.event(looked((500, 1000), (0, 1000))), [""; 0]);
}

#[test]
fn a_figure_of_the_kernel_too_high_at_three_looks_in_a_row_rolls_back() {
    let mut unit = judged();
    let mut all = analysis();
    all.checks.drain(..1);
    all.checks.truncate(1);
    unit.analysis = Some(all);
    let mut rig = soaking(&unit);
    let tasks = |count| {
        let usage = Usage { tasks: Some(count), ..Usage::default() };
        let one = Seen { page: Err(NoPage::NotAsked), usage };
        Answer::Looked(Box::new(Looked { new: one.clone(), old: Some(one) }))
    };
    for count in [3, 3, 2, 3, 3] {
        assert_eq!(rig.event(tasks(count)), [""; 0]);
        rig.after(1_000, &["look g2 Some(1)"]);
    }
    let lines = rig.event(tasks(3));
    assert!(lines.contains(&"=ROLLING_BACK".to_string()), "{lines:?}");
}

/// What a command of a check has written last is in the reason; one that could not run or was killed for memory says nothing.
#[test]
fn a_commands_last_line_is_told_and_what_is_no_fault_of_the_release_is_no_failure() {
    let mut unit = judged();
    let mut all = analysis();
    all.checks.drain(..2);
    unit.analysis = Some(all);
    let mut rig = Rig::running(unit.clone());
    rig.reload_to(2, unit);
    rig.spawned(2);
    rig.ready(2, 0);
    let nothing = || Seen { page: Err(NoPage::NotAsked), usage: Usage::default() };
    let look = || Answer::Looked(Box::new(Looked { new: nothing(), old: Some(nothing()) }));
    let kill = Exit::Signal { signal: 9, core: false };
    let mut proc = 3;
    for _ in 0..5 {
        rig.event(look());
        rig.spawned(proc);
        rig.event(Event::Exited { proc: Proc(proc), exit: kill, beside: Beside::OutOfMemory });
        assert_eq!(rig.state(), UnitState::Soaking);
        proc += 1;
        rig.after(1_000, &["look g2 Some(1)", &format!("spawn {proc} analysis0 - slot0")]);
    }
    for round in 1..=3 {
        rig.event(look());
        rig.spawned(proc);
        rig.event(Event::Said { proc: Proc(proc), line: "cart total is NaN".into() });
        rig.exits(proc, Exit::Code(1));
        proc += 1;
        if round < 3 {
            rig.after(1_000, &["look g2 Some(1)", &format!("spawn {proc} analysis0 - slot0")]);
        }
    }
    rig.exits(2, Exit::Signal { signal: 15, core: false });
    rig.empty(2);
    let reason = "smoke: the command exited with status 1, 3 times in a row: \"cart total is NaN\"";
    rig.outcome(Outcome::RolledBack, reason);
    assert_eq!(
        warnings(&rig),
        ["the check \"smoke\" says nothing: the command was killed by the kernel for memory"]
    );
}

#[test]
fn a_command_that_fails_three_times_in_a_row_rolls_back_and_one_that_cannot_say_does_not() {
    let mut unit = judged();
    let mut all = analysis();
    all.checks.drain(..2);
    unit.analysis = Some(all);
    let mut rig = Rig::running(unit.clone());
    rig.reload_to(2, unit.clone());
    rig.spawned(2);
    assert_eq!(rig.ready(2, 0), ["look g2 Some(1)", "spawn 3 analysis0 - slot0", "=SOAKING"]);
    let nothing = || Seen { page: Err(NoPage::NotAsked), usage: Usage::default() };
    let mut proc = 3;
    for status in [75, 1, 75, 1, 1] {
        rig.event(Answer::Looked(Box::new(Looked { new: nothing(), old: Some(nothing()) })));
        rig.spawned(proc);
        let lines = rig.exits(proc, Exit::Code(status));
        proc += 1;
        if lines.contains(&"=ROLLING_BACK".to_string()) {
            assert_eq!(proc, 8);
            return;
        }
        rig.after(1_000, &["look g2 Some(1)", &format!("spawn {proc} analysis0 - slot0")]);
    }
    panic!("it was never rolled back");
}

/// Little is left, and half of it is this generation's.
fn short_of_memory(generation: u32) -> Event {
    let level = MemoryLevel { of: "this machine".into(), limit: 1 << 30, used: 1 << 30 };
    let (has, levels) = (Some(1 << 29), vec![level]);
    Event::Memory(Gen(generation), Box::new(MemorySeen { has, kills: 0, most: None, levels }))
}

#[test]
fn a_newcomer_that_uses_the_memory_up_is_rolled_back_at_any_time_before_its_promotion() {
    for soaks in [false, true] {
        let mut rig = Rig::running(base());
        rig.reload_to(2, base());
        rig.spawned(2);
        if soaks {
            rig.ready(2, 0);
        }
        for other in [1, 3] {
            assert_eq!(rig.event(short_of_memory(other)), [""; 0]);
        }
        let lines = rig.event(short_of_memory(2));
        assert!(lines.contains(&"=ROLLING_BACK".to_string()), "{lines:?}");
        // Once is enough.
        assert_eq!(rig.event(short_of_memory(2)), [""; 0]);
        rig.exits(2, Exit::Signal { signal: 15, core: false });
        rig.empty(2);
        let reason = "memory runs out: 0 % of the 1G of this machine are left, generation 2 has 512M";
        rig.outcome(Outcome::RolledBack, reason);
    }
}

#[test]
fn who_serves_is_never_ended_for_the_memory_that_it_has() {
    let mut rig = Rig::running(base());
    assert_eq!(rig.event(short_of_memory(1)), [""; 0]);
    rig.reload_to(2, base());
    rig.spawned(2);
    rig.ready(2, 0);
    rig.command(Command::Promote);
    assert_eq!(rig.event(short_of_memory(2)), [""; 0]);
}

#[test]
fn only_who_is_launched_beside_another_one_goes_first() {
    let mut rig = Rig::running(base());
    rig.reload_to(2, base());
    let first = |rig: &Rig, generation: u32| {
        let spawns = rig.all.iter().filter_map(|action| match action {
            Action::Spawn(spawn) if spawn.generation == Some(Gen(generation)) => Some(spawn.goes_first),
            _ => None,
        });
        spawns.collect::<Vec<bool>>()
    };
    assert_eq!((first(&rig, 1), first(&rig, 2)), (vec![false], vec![true]));
}

/// xorshift: the same numbers in every run; how many of `all` are bad, each with the chance of one in `one_in`.
fn some_of(all: u64, one_in: u64, random: &mut u64) -> u64 {
    let draw = |_: u64| {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        u64::from((*random >> 20).is_multiple_of(one_in))
    };
    (0..all).map(draw).sum()
}

/// A soak of 30 s with a look a second: 100 requests a second for the new generation, 900 for the old one. How it ends, and
/// after how many seconds.
fn soak(seed: u64, new_one_in: u64, old_one_in: u64) -> (bool, u64) {
    let mut unit = judged();
    if let Some(analysis) = unit.analysis.as_mut() {
        analysis.checks[0].max = Some(0.2);
    }
    let mut random = 0x9E37_79B9_7F4A_7C15 ^ seed.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mut rig = soaking(&unit);
    let (mut new, mut old) = ((0, 0), (0, 0));
    for second in 0..=30 {
        let lines = rig.event(looked(new, old));
        if lines.iter().any(|line| line == "=ROLLING_BACK") {
            return (false, second);
        }
        if lines.iter().any(|line| line == "promoted g2") {
            return (true, second);
        }
        rig.after(1_000, &["look g2 Some(1)"]);
        new = (new.0 + some_of(100, new_one_in, &mut random), new.1 + 100);
        old = (old.0 + some_of(900, old_one_in, &mut random), old.1 + 900);
    }
    panic!("the soak of seed {seed} never ended");
}

#[test]
fn of_five_hundred_soaks_of_an_equal_release_none_is_rolled_back() {
    for one_in in [1000, 100] {
        let back = (0..500).filter(|seed| !soak(*seed, one_in, one_in).0).count();
        assert_eq!(back, 0, "one in {one_in}");
    }
}

#[test]
fn a_release_that_fails_one_in_a_hundred_where_the_old_one_fails_one_in_a_thousand_is_found_in_time() {
    let ends: Vec<(bool, u64)> = (0..300).map(|seed| soak(seed, 100, 1000)).collect();
    let found: Vec<u64> =
        ends.iter().filter(|(promoted, _)| !promoted).map(|(_, seconds)| *seconds).collect();
    let mean = found.iter().sum::<u64>() as f64 / found.len() as f64;
    // The table of the manual: 98 of 100, after 14 seconds.
    assert!(found.len() >= 285 && mean <= 16.0, "{} of 300 after {mean}", found.len());
}

fn warnings(rig: &Rig) -> Vec<String> {
    let text = |action: &Action| match action {
        Action::Announce(Announcement::Warning { text }) => Some(text.clone()),
        _ => None,
    };
    rig.all.iter().filter_map(text).collect()
}

/// A look at two counters, or at what stands for them.
fn page(process: i32, alone: bool, sums: Vec<Sum>) -> Seen {
    Seen { page: Ok(Page { process, alone, sums }), usage: Usage::default() }
}

fn both(new: Seen, old: Seen) -> Answer {
    Answer::Looked(Box::new(Looked { new, old: Some(old) }))
}

/// What is no count says nothing of either side, is told once with its name, and the soak is not judged by it.
#[test]
fn what_is_no_number_says_nothing_and_is_told_once() {
    let odd = |text: &str| Sum { odd: Some(text.into()), ..sum(0.0) };
    let there = || page(7, true, vec![sum(1.0), sum(100.0)]);
    for (new, old, told) in [
        (
            page(7, true, vec![odd("bad is NaN"), sum(5.0)]),
            there(),
            "generation 2: bad is NaN, which is no number to go by",
        ),
        (
            page(7, true, vec![sum(0.0), odd("all{a=\"b\"} is +Inf")]),
            there(),
            "generation 2: all{a=\"b\"} is +Inf, which is no number to go by",
        ),
        (
            there(),
            page(8, true, vec![sum(0.0), sum(-3.0)]),
            "generation 1: all is negative, which no counter is",
        ),
        (
            there(),
            page(8, true, vec![sum(-1.0), sum(3.0)]),
            "generation 1: bad is negative, which no counter is",
        ),
        (
            page(7, true, vec![Sum::default(), Sum::default()]),
            there(),
            "generation 2: no series of all matches",
        ),
    ] {
        let mut rig = soaking(&judged());
        for _ in 0..30 {
            assert_eq!(rig.event(both(new.clone(), old.clone())), [""; 0]);
            rig.after(1_000, &["look g2 Some(1)"]);
        }
        rig.event(both(new, old));
        rig.outcome(Outcome::Promoted, &format!("not judged: errors ({told})"));
        assert_eq!(warnings(&rig), [format!("the check \"errors\" says nothing: {told}")]);
        assert_eq!(rig.records()[0].checks[0].verdict, CheckVerdict::Inconclusive);
    }
}

/// Counters that begin anew in the same process: nothing that was counted is lost or made up, and it is told once.
#[test]
fn counters_that_fall_are_told_and_count_anew() {
    let mut rig = soaking(&judged());
    let looks = [(100, 1000), (110, 1100), (0, 10), (10, 110), (0, 5), (1, 105)];
    for (bad, all) in looks {
        assert_eq!(rig.event(looked((bad, all), (0, 1000))), [""; 0]);
        rig.after(1_000, &["look g2 Some(1)"]);
    }
    rig.command(Command::Promote);
    let check = &rig.records()[0].checks[0];
    assert_eq!((check.new.bad, check.new.of), (Some(21), Some(300)));
    assert_eq!(
        warnings(&rig),
        [
            "the check \"errors\": counters of generation 2 (pid 7) have fallen: what was counted stays, and from there they count anew"
        ]
    );
}

#[test]
fn bad_requests_that_are_no_part_of_all_are_told() {
    let mut rig = soaking(&judged());
    for second in 0..5 {
        rig.event(looked((second * 500, second * 40), (0, second * 900)));
        if rig.state() != UnitState::Soaking {
            break;
        }
        rig.after(1_000, &["look g2 Some(1)"]);
    }
    let told = warnings(&rig);
    assert_eq!(
        told,
        ["the check \"errors\": more bad requests than requests were counted: Bad has to be a part of Of"]
    );
}

/// A unit that is judged by one value.
fn by_value(value: &str, per: Option<&str>, max: Option<f64>, relative: Option<f64>) -> Unit {
    let selector = |text: &str| Selector::parse(text).unwrap();
    let mut all = analysis();
    all.checks.drain(..1);
    all.checks.truncate(1);
    all.checks[0].kind = AnalysisKind::Value { value: selector(value), per: per.map(selector) };
    (all.checks[0].max, all.checks[0].max_relative) = (max, relative);
    Unit { analysis: Some(all), ..base() }
}

fn gauge(value: f64) -> Sum {
    Sum { value, kind: Kind::Gauge, series: 1, ..Sum::default() }
}

#[test]
fn a_multiple_of_what_is_below_nothing_is_no_limit() {
    for (max, ends) in [
        (None, "not judged: tasks (generation 1: it is -5, and no multiple of that is a limit: give Max)"),
        (Some(0.0), ""),
    ] {
        let mut rig = soaking(&by_value("heat", None, max, Some(1.25)));
        let look = || both(page(7, true, vec![gauge(-5.0)]), page(8, true, vec![gauge(-5.0)]));
        for _ in 0..30 {
            assert_eq!(rig.event(look()), [""; 0]);
            rig.after(1_000, &["look g2 Some(1)"]);
        }
        rig.event(look());
        rig.outcome(Outcome::Promoted, ends);
    }
}

/// A gauge below the line goes up and down, and takes nothing from the counter above it.
#[test]
fn a_gauge_that_falls_leaves_the_counter_beside_it_alone() {
    let mut rig = soaking(&by_value("errors_total", Some("pool"), Some(1e9), None));
    let pools = [4.0, 2.0, 8.0, 1.0, 5.0];
    for (second, pool) in (0..).zip(pools) {
        let seen = |process| page(process, true, vec![sum(f64::from(second) * 10.0), gauge(pool)]);
        rig.event(both(seen(7), seen(8)));
        rig.after(1_000, &["look g2 Some(1)"]);
    }
    rig.command(Command::Promote);
    assert_eq!(rig.records()[0].checks[0].new.value, Some(8.0));
    assert_eq!(warnings(&rig), [""; 0]);
}

/// aeternad's own figures are of all processes together, whoever answers for the page.
#[test]
fn a_figure_of_all_processes_is_not_counted_for_each() {
    let mut rig = soaking(&by_value("@cpu_seconds", Some("requests_total"), Some(1e9), None));
    for second in 0..7 {
        let process = 7 + second % 2;
        // Each process has its own counter; the second began later.
        let served = f64::from(second / 2 * 100) + if process == 7 { 1000.0 } else { 0.0 };
        let usage = Usage { cpu_seconds: Some(f64::from(second)), ..Usage::default() };
        let one = Seen { usage, ..page(process, false, vec![sum(served)]) };
        rig.event(both(one.clone(), one));
        rig.after(1_000, &["look g2 Some(1)"]);
    }
    rig.command(Command::Promote);
    // 6 s of the processor; 300 requests of the one, 200 of the other.
    assert_eq!(rig.records()[0].checks[0].new.value, Some(6.0 / 500.0));
}

fn oom_unit(policy: OomPolicy) -> Unit {
    let mut unit = base();
    unit.service.group_limits.oom_policy = policy;
    unit.service.group_limits.memory_max = Some(Amount::Of(512 << 20));
    unit.service.exec_stop = vec![crate::units::command("bye")];
    unit.service.restart = Restart::OnFailure;
    unit
}

/// A child of the generation that serves is killed for memory: what systemd.service(5) says of `OOMPolicy`.
#[test]
fn what_follows_when_a_process_of_who_serves_is_killed_for_memory() {
    let mut rig = Rig::running(oom_unit(OomPolicy::Continue));
    assert_eq!(rig.event(Event::OomKilled(Gen(1), 2)), [""; 0]);
    assert_eq!(warnings(&rig), ["generation 1 lost processes to the kernel's OOM killer (MemoryMax 512M)"]);

    let mut rig = Rig::running(oom_unit(OomPolicy::Stop));
    assert_eq!(rig.event(Event::OomKilled(Gen(1), 1)), ["spawn 2 stop0 g1 slot0", "=STOPPING"]);
    rig.spawned(2);
    assert_eq!(rig.exits(2, Exit::Code(0)), ["signal 15 everyone g1", "signal 18 everyone g1"]);
    // It is stopped for that already: nothing more follows, and nothing is said twice.
    let said = warnings(&rig);
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(rig.event(Event::OomKilled(Gen(1), 1)), [""; 0]);
    assert_eq!(warnings(&rig), said);
    rig.exits(1, Exit::Code(0));
    rig.empty(1);
    assert_eq!(rig.state(), UnitState::Backoff);
    let why = rig.m.status(rig.now).why;
    assert!(
        why.contains("lost a process to the kernel's OOM killer (MemoryMax 512M), OOMPolicy is stop"),
        "{why}"
    );
    let restarting = |action: &Action| matches!(action, Action::Announce(Announcement::Restarting { result }) if result == "oom-kill");
    rig.now = rig.m.next_deadline().unwrap();
    rig.event(Event::Tick);
    assert!(rig.all.iter().any(restarting));

    let mut rig = Rig::running(oom_unit(OomPolicy::Kill));
    assert_eq!(rig.event(Event::OomKilled(Gen(1), 1)), ["signal 9 everyone g1", "=STOPPING"]);
    rig.exits(1, Exit::Signal { signal: 9, core: false });
    rig.empty(1);
    assert_eq!(rig.state(), UnitState::Backoff);
}

/// The same where only the ends of main processes are seen.
#[test]
fn what_follows_when_a_worker_is_killed_for_memory() {
    for (policy, wanted) in [
        (OomPolicy::Continue, vec![]),
        (OomPolicy::Stop, vec!["signal 15 everyone g1", "signal 18 everyone g1", "=STOPPING"]),
        (OomPolicy::Kill, vec!["signal 9 everyone g1", "=STOPPING"]),
    ] {
        let mut unit = oom_unit(policy);
        unit.service.workers = 2;
        let mut rig = Rig::new(unit);
        rig.event(Event::Boot);
        rig.spawned(1);
        rig.spawned(2);
        rig.ready(1, 0);
        rig.ready(1, 1);
        assert_eq!(rig.state(), UnitState::Running);
        let exit = Exit::Signal { signal: 9, core: false };
        let lines = rig.event(Event::Exited { proc: Proc(2), exit, beside: Beside::OutOfMemory });
        assert_eq!(lines, wanted, "{policy:?}");
    }
}

/// While a generation is tried any such kill rolls it back, whatever the policy is, and the old one notices nothing.
#[test]
fn a_newcomer_that_loses_a_process_for_memory_is_rolled_back_whatever_its_policy_is() {
    for policy in [OomPolicy::Continue, OomPolicy::Stop, OomPolicy::Kill] {
        for soaks in [false, true] {
            let mut unit = oom_unit(policy);
            unit.service.exec_stop.clear();
            let mut rig = Rig::running(unit.clone());
            rig.reload_to(2, unit);
            rig.spawned(2);
            if soaks {
                rig.ready(2, 0);
            }
            let lines = rig.event(Event::OomKilled(Gen(2), 1));
            assert!(lines.contains(&"=ROLLING_BACK".to_string()), "{policy:?} {lines:?}");
            assert!(!lines.iter().any(|line| line.contains("g1")), "{lines:?}");
            assert_eq!(rig.event(Event::OomKilled(Gen(2), 1)), [""; 0]);
            rig.exits(2, Exit::Signal { signal: 15, core: false });
            rig.empty(2);
            let reason = "generation 2 lost a process to the kernel's OOM killer (MemoryMax 512M) before it was promoted";
            rig.outcome(Outcome::RolledBack, reason);
        }
    }
}

/// Nothing is sent to who serves while another one is tried: it may be that one's fault.
#[test]
fn who_serves_is_left_alone_in_a_reload_whatever_its_policy_is() {
    for policy in [OomPolicy::Stop, OomPolicy::Kill] {
        let mut unit = oom_unit(policy);
        unit.service.workers = 2;
        let mut rig = Rig::new(unit.clone());
        rig.event(Event::Boot);
        (1..3).for_each(|proc| drop(rig.spawned(proc)));
        (0..2).for_each(|worker| drop(rig.ready(1, worker)));
        rig.reload_to(2, unit);
        rig.spawned(3);
        assert_eq!(rig.event(Event::OomKilled(Gen(1), 1)), [""; 0]);
        let exit = Exit::Signal { signal: 9, core: false };
        let lines = rig.event(Event::Exited { proc: Proc(2), exit, beside: Beside::OutOfMemory });
        assert_eq!(lines, [""; 0]);
        assert_eq!(rig.state(), UnitState::Starting);
    }
}

/// Who drains or is gone has nothing more to lose.
#[test]
fn a_kill_of_who_drains_or_is_gone_changes_nothing() {
    let mut rig = Rig::running(oom_unit(OomPolicy::Stop));
    rig.reload_to(2, oom_unit(OomPolicy::Stop));
    rig.spawned(2);
    rig.ready(2, 0);
    rig.command(Command::Promote);
    assert_eq!(rig.event(Event::OomKilled(Gen(1), 1)), [""; 0]);
    assert_eq!(rig.event(Event::OomKilled(Gen(9), 1)), [""; 0]);
    assert_eq!(rig.state(), UnitState::Draining);
}

#[test]
fn one_request_less_than_it_needs_leaves_a_check_open() {
    for (all, passes) in [(99, false), (100, true)] {
        let mut rig = soaking(&judged());
        for _ in 0..30 {
            rig.event(looked((0, 0), (0, 0)));
            rig.after(1_000, &["look g2 Some(1)"]);
        }
        rig.event(looked((0, all), (0, 5)));
        let reason = if passes { "" } else { "not judged: errors (99 of 100 requests that it needs)" };
        rig.outcome(Outcome::Promoted, reason);
        let verdict = if passes { CheckVerdict::Pass } else { CheckVerdict::Inconclusive };
        assert_eq!(rig.records()[0].checks[0].verdict, verdict);
    }
}

/// What comes of a look after its reload was given up, or is over, is nobody's: the next soak begins with nothing.
#[test]
fn an_answer_of_a_reload_that_is_over_counts_for_no_other() {
    let mut rig = soaking(&judged());
    let late = rig.ticket(&blind());
    let bad = || Box::new(Looked { new: seen(900, 1000), old: Some(seen(0, 1000)) });
    rig.command(Command::Rollback { to: None });
    assert_eq!(rig.event(Event::Answered(late, Answer::Looked(bad()))), [""; 0]);
    rig.exits(2, Exit::Signal { signal: 15, core: false });
    rig.empty(2);
    rig.reload_to(3, judged());
    rig.spawned(3);
    assert_eq!(rig.ready(3, 0), ["look g3 Some(1)", "=SOAKING"]);
    assert_eq!(rig.event(Event::Answered(late, Answer::Looked(bad()))), [""; 0]);
    assert_eq!(rig.m.status(rig.now).analysis[0].looks, 0);
}

/// Whoever ends a soak by hand ends it, whatever the check says and whether or not a look is under way.
#[test]
fn every_command_ends_a_soak_at_every_verdict() {
    let force = Command::Reload { force: true, remember: false, reason: String::new() };
    for blocks in [true, false] {
        for bad in [0, 50] {
            if blocks && bad > 0 {
                continue;
            }
            for waits in [true, false] {
                for (command, outcome) in [
                    (Command::Promote, Outcome::Promoted),
                    (Command::Rollback { to: None }, Outcome::RolledBack),
                    (force.clone(), Outcome::Aborted),
                    (Command::Stop { close: false }, Outcome::Aborted),
                ] {
                    let mut unit = judged();
                    unit.analysis.as_mut().unwrap().checks[0].block_on_fail = blocks;
                    let mut rig = soaking(&unit);
                    assert_eq!(look_on(&mut rig, 5, bad), [""; 0]);
                    if !waits {
                        rig.event(looked((5 * bad, 500), (5, 4500)));
                    }
                    rig.command(command.clone());
                    for generation in [2, 1] {
                        rig.exits(generation, Exit::Signal { signal: 15, core: false });
                        rig.empty(generation);
                    }
                    let record = rig.records()[0].clone();
                    let why = format!("{command:?} {blocks} {bad} {waits}: {record:?}");
                    assert!(record.outcome == outcome || record.outcome == Outcome::RolledBack, "{why}");
                    assert_eq!(record.outcome == Outcome::Promoted, outcome == Outcome::Promoted, "{why}");
                    let failed = record.checks[0].verdict == CheckVerdict::Fail;
                    assert_eq!(failed, bad > 0, "{why}");
                }
            }
        }
    }
}

#[test]
fn the_old_ones_death_in_the_middle_of_a_look_promotes_unjudged() {
    let mut rig = soaking(&judged());
    look_on(&mut rig, 3, 0);
    let lines = rig.exits(1, Exit::Code(9));
    assert!(lines.contains(&"promoted g2".to_string()), "{lines:?}");
    assert_eq!(rig.event(looked((900, 1000), (0, 0))), [""; 0]);
    assert_eq!(rig.records()[0].checks[0].verdict, CheckVerdict::Pass);
}

#[test]
fn a_soak_without_end_ends_when_a_check_fails() {
    let mut unit = judged();
    unit.reload.soak_time = Span::INFINITY;
    let mut rig = Rig::running(unit.clone());
    rig.reload_to(2, unit);
    rig.spawned(2);
    rig.ready(2, 0);
    let lines = look_on(&mut rig, 60, 20);
    assert!(lines.contains(&"=ROLLING_BACK".to_string()), "{lines:?}");
}

/// Both are killed for memory in the same moment. The old one's death alone would promote the other; known to be dying, that
/// one is given up, and what served before is started again.
#[test]
fn a_newcomer_that_dies_with_the_old_one_is_not_promoted() {
    let mut unit = oom_unit(OomPolicy::Continue);
    unit.service.exec_stop.clear();
    let mut rig = Rig::running(unit.clone());
    rig.reload_to(2, unit);
    rig.spawned(2);
    rig.ready(2, 0);
    let kill = Exit::Signal { signal: 9, core: false };
    rig.event(Event::OomKilled(Gen(2), 1));
    rig.event(Event::Exited { proc: Proc(1), exit: kill, beside: Beside::OutOfMemory });
    rig.event(Event::Exited { proc: Proc(2), exit: kill, beside: Beside::OutOfMemory });
    for generation in [1, 2] {
        rig.empty(generation);
    }
    let record = rig.records()[0].clone();
    assert_eq!(record.outcome, Outcome::RolledBack, "{record:?}");
    assert!(!rig.all.iter().any(|action| matches!(action, Action::Promoted(Gen(2)))));
    while rig.state() == UnitState::Backoff {
        rig.now = rig.m.next_deadline().unwrap();
        rig.event(Event::Tick);
    }
    let last = rig.all.iter().rev().find_map(|action| match action {
        Action::Spawn(spawn) => Some((spawn.content.id, spawn.role)),
        _ => None,
    });
    assert_eq!(last, Some((ContentId(1), Role::Main { worker: 0, command: 0 })));
}
