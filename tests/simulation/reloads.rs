//! Reload rules of contract section 6, row by row.

use crate::rig::*;
use crate::units::*;
use aeterna::machine::event::*;
// Both globs have a `Command`; this is the one that is asked of a unit.
use aeterna::machine::event::Command;
use aeterna::time::Span;
use aeterna::unit::*;

fn steered() -> Unit {
    let mut unit = base();
    unit.sockets[0] = socket();
    unit
}

#[test]
fn a_steered_canary_from_beginning_to_end() {
    let mut unit = steered();
    unit.reload.canary_weight = vec![1, 10, 50];
    let mut rig = Rig::running(unit.clone());
    assert_eq!(rig.reload(), ["load", "=PRE_CHECKING"]);
    rig.row(Answer::Loaded(Ok(content(2, unit))), &["open 2"]);
    rig.row(Answer::Opened { content: ContentId(2), result: Ok(()) }, &["binary 2"]);
    rig.row(
        Answer::BinaryChecked { content: ContentId(2), result: Ok(()) },
        &["steer 0 +1:0", "spawn 2 main0 g2 slot1", "=STARTING"],
    );
    assert!(matches!(rig.all.last(), Some(Action::Announce(_))));
    rig.spawned(2);
    assert_eq!(rig.ready(2, 0), ["steer 0 +1:1", "=SOAKING"]);
    rig.after(10_000, &["steer 0 +1:10"]);
    rig.after(10_000, &["steer 0 +1:50"]);
    rig.after(10_000, &["promoted g2", "steer 1", "drain g1 slot0", "=DRAINING", "reply 1 promoted"]);
    // The short requests that are in hand are over before anything else.
    rig.after(10, &["drained? g1 slot0"]);
    let state = |half_open, queued| Answer::DrainState {
        generation: Gen(1),
        half_open,
        queued,
        flows: Flowing::default(),
    };
    rig.row(state(1, 0), &[]);
    for wait in [1, 2, 4, 8, 16, 32, 50, 50] {
        rig.after(wait, &["drained? g1 slot0"]);
        rig.row(state(0, 1), &[]);
    }
    rig.after(50, &["drained? g1 slot0"]);
    rig.row(state(0, 0), &["signal 15 everyone g1", "signal 18 everyone g1"]);
    rig.exits(1, Exit::Code(1));
    assert_eq!(rig.empty(1), ["forget g1", "keep [2]", "=RUNNING"]);
    rig.outcome(Outcome::Promoted, "");
    let phases: Vec<_> = rig.records()[0].phases.iter().map(|p| (p.phase.clone(), p.seconds)).collect();
    let wanted = [("pre_checking", 0.0), ("starting", 0.0), ("soaking", 30.0)];
    assert_eq!(phases, wanted.map(|(name, seconds)| (name.to_owned(), seconds)));
    assert_eq!(rig.m.next_deadline(), None);
}

#[test]
fn a_soak_that_is_looked_at_late_leaves_no_step_out() {
    let mut unit = steered();
    unit.reload.canary_weight = vec![1, 10, 50];
    let mut rig = Rig::running(unit.clone());
    rig.reload_to(2, unit);
    rig.spawned(2);
    rig.ready(2, 0);
    // The machine stood still for longer than the whole soak: that was none.
    rig.now = rig.now + Span::from_secs(40);
    rig.row(Event::Tick, &[]);
    rig.pass(9_000);
    // A little late: the next step is as long as the others.
    rig.now = rig.now + Span::from_millis(1_900);
    rig.row(Event::Tick, &["steer 0 +1:10"]);
    rig.after(10_000, &["steer 0 +1:50"]);
    rig.pass(9_000);
    rig.now = rig.now + Span::from_secs(1);
    assert!(rig.event(Event::Tick).contains(&"promoted g2".to_owned()));
}

#[test]
fn generations_alternate_between_two_slots() {
    let mut unit = steered();
    unit.reload.strategy = Strategy::Immediate;
    let mut rig = Rig::running(unit.clone());
    for (id, slot) in [(2, 1), (3, 0), (4, 1)] {
        let launched = rig.reload_to(id, unit.clone());
        let spawn = format!("spawn {id} main0 g{id} slot{slot}");
        assert!(launched.contains(&spawn), "{launched:?}");
        rig.spawned(id);
        rig.ready(id, 0);
        rig.drained(id - 1);
        rig.exits(id - 1, Exit::Code(0));
        rig.empty(id - 1);
        assert_eq!(rig.state(), UnitState::Running);
    }
    // While the old one still drains, a third slot is taken.
    rig.reload_to(5, unit.clone());
    rig.spawned(5);
    rig.ready(5, 0);
    assert!(rig.reload_to(6, unit).contains(&"spawn 6 main0 g6 slot2".to_owned()));
}

#[test]
fn a_restart_launches_on_the_slot_that_the_last_one_had() {
    let mut unit = steered();
    unit.reload.strategy = Strategy::Immediate;
    unit.service.restart = Restart::Always;
    let mut rig = Rig::running(unit.clone());
    rig.reload_to(2, unit);
    rig.spawned(2);
    rig.ready(2, 0);
    rig.drained(1);
    rig.exits(1, Exit::Code(0));
    rig.empty(1);
    rig.exits(2, CODE3);
    rig.empty(2);
    rig.after(100, &["spawn 3 main0 g3 slot1", "=STARTING"]);
    let launched = rig.all.iter().rev().find_map(|action| match action {
        Action::Spawn(spawn) => Some(spawn.content.id),
        _ => None,
    });
    assert_eq!(launched, Some(ContentId(2)), "what was promoted last, not what was there before");
}

#[test]
fn half_of_drain_timeout_is_the_most_that_a_queue_is_waited_for() {
    let mut unit = steered();
    unit.reload.strategy = Strategy::Immediate;
    unit.reload.drain_timeout = Span::from_millis(20);
    let mut rig = Rig::running(unit.clone());
    rig.reload_to(2, unit);
    rig.spawned(2);
    rig.ready(2, 0);
    rig.after(10, &["signal 15 everyone g1", "signal 18 everyone g1"]);
    rig.after(10, &["signal 9 everyone g1"]);
    rig.exits(1, Exit::Signal { signal: 9, core: false });
    // Something may have been left: it is looked after.
    assert_eq!(rig.empty(1), ["forget g1", "slot? 0", "keep [2]", "=RUNNING"]);
}

#[test]
fn a_crash_in_the_soak_rolls_back_and_its_queue_is_served() {
    let unit = steered();
    let mut rig = Rig::running(unit.clone());
    rig.reload_to(2, unit);
    rig.spawned(2);
    rig.ready(2, 0);
    rig.now = rig.now + Span::from_millis(1_200);
    assert_eq!(
        rig.exits(2, CODE3),
        ["steer 0", "signal 15 everyone g2", "signal 18 everyone g2", "slot? 1", "=ROLLING_BACK"]
    );
    // The instance that serves the rest is the serving content's, on the dead one's slot.
    rig.row(Answer::SlotState { slot: 1, queued: 4, migrated: false }, &["spawn 3 main0 g3 slot1"]);
    assert_eq!(rig.empty(2), ["forget g2", "keep [1]", "=RUNNING", "reply 1 rolled_back"]);
    rig.outcome(Outcome::RolledBack, "generation 2 exited with status 3 while it soaked (after 1.2s)");
    rig.spawned(3);
    assert_eq!(rig.ready(3, 0), ["drain g3 slot1"]);
    rig.after(10, &["drained? g3 slot1"]);
    rig.row(
        Answer::DrainState { generation: Gen(3), half_open: 0, queued: 0, flows: Flowing::default() },
        &["signal 15 everyone g3", "signal 18 everyone g3"],
    );
    rig.exits(3, TERM);
    assert_eq!(rig.empty(3), ["forget g3"]);
    assert_eq!(rig.state(), UnitState::Running);
}

#[test]
fn what_was_moved_or_cannot_be_served_needs_no_rescue() {
    for (queued, migrated) in [(0, false), (4, true)] {
        let mut rig = Rig::running(steered());
        rig.reload_to(2, steered());
        rig.spawned(2);
        rig.ready(2, 0);
        rig.exits(2, CODE3);
        rig.row(Answer::SlotState { slot: 1, queued, migrated }, &[]);
    }
    let mut rig = Rig::running(steered());
    rig.reload_to(2, steered());
    rig.spawned(2);
    rig.ready(2, 0);
    rig.exits(2, CODE3);
    rig.event(Answer::SlotState { slot: 1, queued: 4, migrated: false });
    let failure =
        SpawnFailure { text: "no memory".into(), code: 1, exhausted: false, gone: false, busy: false };
    rig.row(Event::SpawnFailed { proc: Proc(3), failure }, &["forget g3", "stranded 4"]);
}

#[test]
fn a_program_that_somebody_writes_is_tried_again_for_a_while() {
    let busy = |proc: u32| {
        let failure =
            SpawnFailure { text: "busy".into(), code: 126, exhausted: false, gone: false, busy: true };
        Event::SpawnFailed { proc: Proc(proc), failure }
    };
    let mut rig = Rig::running(base());
    rig.reload_to(2, base());
    rig.row(busy(2), &[]);
    rig.after(200, &["spawn 3 main0 g2 slot0"]);
    rig.row(busy(3), &[]);
    rig.after(200, &["spawn 4 main0 g2 slot0"]);
    rig.spawned(4);
    assert_eq!(rig.state(), UnitState::Starting);
    rig.ready(2, 0);
    assert_eq!((rig.state(), rig.m.status(rig.now).restarts), (UnitState::Soaking, 0));
    // Not for ever.
    let tick = |rig: &mut Rig| {
        rig.now = rig.m.next_deadline().expect("a deadline");
        rig.event(Event::Tick)
    };
    let mut rig = Rig::running(base());
    rig.reload_to(2, base());
    let mut proc = 2;
    while rig.event(busy(proc)).is_empty() {
        proc += 1;
        assert_eq!(tick(&mut rig), [format!("spawn {proc} main0 g2 slot0")]);
        assert!(proc < 40, "it never ends");
    }
    assert!(proc > 20, "{proc}");
    rig.outcome(Outcome::RolledBack, "generation 2 could not be started: busy");
    // Whoever gives the reload up does not wait for it.
    let mut rig = Rig::running(base());
    rig.reload_to(2, base());
    rig.event(busy(2));
    rig.command(Command::Rollback { to: None });
    assert_eq!((rig.state(), rig.records().len()), (UnitState::Running, 1));
    assert_eq!(rig.m.next_deadline(), None);
    // A worker: no attempt counts as a start.
    let mut unit = base();
    unit.service.workers = 2;
    unit.service.restart = Restart::Always;
    unit.service.start_limit_burst = 3;
    let mut rig = Rig::new(unit);
    rig.event(Event::Boot);
    rig.spawned(1);
    rig.spawned(2);
    rig.ready(1, 0);
    rig.ready(1, 1);
    rig.exits(1, CODE3);
    for proc in 3..13 {
        assert_eq!(tick(&mut rig), [format!("spawn {proc} main0 g1 slot0")]);
        rig.row(busy(proc), &[]);
    }
    tick(&mut rig);
    rig.spawned(13);
    rig.ready(1, 0);
    assert_eq!((rig.state(), rig.m.status(rig.now).main_pids.len()), (UnitState::Running, 2));
}

#[test]
fn guarantee_5_who_dies_when() {
    // In PRE_CHECKING: given up, and Restart applies.
    let mut unit = base();
    unit.service.restart = Restart::Always;
    let mut rig = Rig::running(unit.clone());
    rig.reload();
    rig.event(Answer::Loaded(Ok(content(2, unit.clone()))));
    assert_eq!(rig.exits(1, CODE3).last().unwrap(), "reply 1 failed");
    rig.outcome(
        Outcome::Failed,
        "generation 1 exited with status 3 before anything was launched: the reload was given up",
    );
    rig.empty(1);
    assert_eq!(rig.state(), UnitState::Backoff);
    // In STARTING: it goes on, and the new one takes over when ready.
    let mut rig = Rig::running(unit.clone());
    rig.reload_to(2, unit.clone());
    rig.spawned(2);
    rig.exits(1, CODE3);
    rig.empty(1);
    assert_eq!(rig.state(), UnitState::Starting);
    assert_eq!(rig.ready(2, 0), ["promoted g2", "keep [2]", "=RUNNING", "reply 1 promoted"]);
    // In the soak: a ready new one takes over at once.
    let mut rig = Rig::running(unit.clone());
    rig.reload_to(2, unit.clone());
    rig.spawned(2);
    rig.ready(2, 0);
    assert_eq!(rig.exits(1, SEGV)[0], "promoted g2");
    // Both: Restart applies to what was promoted last.
    let mut rig = Rig::running(unit.clone());
    rig.reload_to(2, unit);
    rig.spawned(2);
    rig.exits(1, CODE3);
    rig.empty(1);
    rig.exits(2, CODE3);
    rig.empty(2);
    rig.outcome(Outcome::RolledBack, "generation 2 exited with status 3 before it was ready (after 0.0s)");
    assert_eq!(rig.state(), UnitState::Backoff);
    rig.after(100, &["spawn 3 main0 g3 slot0", "=STARTING"]);
    let launched = rig.all.iter().rev().find_map(|action| match action {
        Action::Spawn(spawn) => Some(spawn.content.id),
        _ => None,
    });
    assert_eq!(launched, Some(ContentId(1)));
}

#[test]
fn more_than_eight_draining_generations_and_the_oldest_is_killed() {
    let mut unit = base();
    unit.reload.strategy = Strategy::Immediate;
    let mut rig = Rig::running(unit.clone());
    for id in 2..=9 {
        rig.reload_to(id, unit.clone());
        rig.spawned(id);
        let lines = rig.ready(id, 0);
        assert!(!lines.iter().any(|line| line.starts_with("signal 9")), "{lines:?}");
    }
    rig.reload_to(10, unit);
    rig.spawned(10);
    assert!(rig.ready(10, 0).contains(&"signal 9 everyone g1".to_owned()));
}

#[test]
fn without_a_check_a_steered_program_must_accept_one_connection() {
    let mut unit = steered();
    unit.service.service_type = ServiceType::Exec;
    let mut rig = Rig::new(unit.clone());
    rig.event(Event::Boot);
    assert_eq!(rig.spawned(1), ["promoted g1", "=RUNNING"]);
    rig.reload_to(2, unit);
    assert_eq!(rig.spawned(2), ["probe g2 Accepts"]);
    let probed = |result| Answer::Probed { generation: Gen(2), result };
    rig.row(probed(ProbeResult::TimedOut), &[]);
    rig.after(1_000, &["probe g2 Accepts"]);
    // Another one answered: again soon, and then ever less often.
    for pause in [1, 2, 4, 8, 16, 32, 50, 50] {
        rig.row(probed(ProbeResult::NeverReached), &[]);
        rig.after(pause, &["probe g2 Accepts"]);
    }
    rig.now = rig.m.next_deadline().unwrap();
    rig.event(Event::Tick);
    assert_eq!(rig.state(), UnitState::RollingBack);
    rig.exits(2, TERM);
    rig.empty(2);
    rig.outcome(
        Outcome::RolledBack,
        "generation 2 was not ready within TimeoutStartSec (1min 30s): it never accepted a connection on http",
    );
}

#[test]
fn what_it_answered_itself_is_said_and_not_that_another_answered_last() {
    let mut unit = steered();
    unit.health = Some(health(Check::TcpConnect(Address::Port(80))));
    for (results, said) in [
        (vec![ProbeResult::NeverReached], "another generation answered"),
        (vec![ProbeResult::NeverReached, ProbeResult::Fail("status 503".into())], "status 503"),
        (vec![ProbeResult::Fail("status 503".into()), ProbeResult::NeverReached], "status 503"),
    ] {
        let mut rig = Rig::new(unit.clone());
        rig.event(Event::Boot);
        rig.spawned(1);
        rig.ready(1, 0);
        rig.event(Answer::Probed { generation: Gen(1), result: ProbeResult::Pass });
        rig.reload_to(2, unit.clone());
        rig.spawned(2);
        rig.ready(2, 0);
        for result in results {
            rig.event(Answer::Probed { generation: Gen(2), result });
            rig.now = rig.m.next_deadline().unwrap();
            rig.event(Event::Tick);
        }
        while rig.state() != UnitState::RollingBack {
            rig.now = rig.m.next_deadline().unwrap();
            rig.event(Event::Tick);
        }
        rig.exits(2, TERM);
        rig.empty(2);
        let reason = format!(
            "generation 2 was not ready within TimeoutStartSec (1min 30s): its health check has not passed: {said}"
        );
        rig.outcome(Outcome::RolledBack, &reason);
    }
}

#[test]
fn health_before_and_after_readiness() {
    let mut unit = base();
    unit.health = Some(HealthCheck { success_threshold: 2, ..health(Check::TcpConnect(Address::Port(80))) });
    let mut rig = Rig::new(unit.clone());
    rig.event(Event::Boot);
    rig.spawned(1);
    assert_eq!(rig.ready(1, 0), ["probe g1 Health"]);
    let probed = |g, result| Answer::Probed { generation: Gen(g), result };
    let fail = || ProbeResult::Fail("500".into());
    for _ in 1..=9 {
        rig.row(probed(1, fail()), &[]);
        rig.after(1_000, &["probe g1 Health"]);
    }
    rig.row(probed(1, ProbeResult::Pass), &[]);
    rig.after(5_000, &["probe g1 Health"]);
    rig.row(probed(1, ProbeResult::Unattributed), &["promoted g1", "=RUNNING"]);
    assert_eq!(rig.m.next_deadline(), None, "without Always nothing is checked outside reloads");
    rig.reload_to(2, unit);
    rig.spawned(2);
    rig.ready(2, 0);
    rig.event(probed(2, ProbeResult::Pass));
    rig.after(5_000, &["probe g2 Health"]);
    rig.row(probed(2, ProbeResult::Pass), &["=SOAKING"]);
    for _ in 14..=15 {
        rig.after(5_000, &["probe g2 Health"]);
        rig.row(probed(2, fail()), &[]);
    }
    rig.after(5_000, &["probe g2 Health"]);
    assert_eq!(rig.event(probed(2, ProbeResult::TimedOut)).last().unwrap(), "=ROLLING_BACK");
    rig.exits(2, TERM);
    rig.empty(2);
    let reason = "generation 2 failed 3 health checks in a row: no answer within Timeout while it soaked (after 15.0s)";
    rig.outcome(Outcome::RolledBack, reason);
}

#[test]
fn without_always_the_checks_end_with_the_soak() {
    for always in [false, true] {
        let mut unit = base();
        let check = health(Check::TcpConnect(Address::Port(80)));
        unit.health = Some(HealthCheck { always, ..check });
        let mut rig = Rig::new(unit.clone());
        rig.event(Event::Boot);
        rig.spawned(1);
        rig.ready(1, 0);
        rig.event(Answer::Probed { generation: Gen(1), result: ProbeResult::Pass });
        rig.reload_to(2, unit);
        rig.spawned(2);
        rig.ready(2, 0);
        rig.event(Answer::Probed { generation: Gen(2), result: ProbeResult::Pass });
        assert_eq!(rig.state(), UnitState::Soaking);
        rig.command(Command::Promote);
        match always {
            false => rig.after(30_000, &["signal 9 everyone g1"]),
            true => rig.after(5_000, &["probe g2 Health"]),
        }
    }
}

#[test]
fn successes_count_in_a_row() {
    let mut unit = base();
    unit.health = Some(HealthCheck { success_threshold: 2, ..health(Check::TcpConnect(Address::Port(80))) });
    let mut rig = Rig::new(unit);
    rig.event(Event::Boot);
    rig.spawned(1);
    rig.ready(1, 0);
    let probed = |result| Answer::Probed { generation: Gen(1), result };
    rig.row(probed(ProbeResult::Pass), &[]);
    rig.after(5_000, &["probe g1 Health"]);
    rig.row(probed(ProbeResult::TimedOut), &[]);
    rig.after(1_000, &["probe g1 Health"]);
    rig.row(probed(ProbeResult::Pass), &[]);
    rig.after(5_000, &["probe g1 Health"]);
    rig.row(probed(ProbeResult::Pass), &["promoted g1", "=RUNNING"]);
}

#[test]
fn an_always_check_restarts_whatever_restart_says() {
    let mut unit = base();
    let check = health(Check::TcpConnect(Address::Port(80)));
    unit.health = Some(HealthCheck { always: true, failure_threshold: 1, ..check });
    let mut rig = Rig::new(unit);
    rig.event(Event::Boot);
    rig.spawned(1);
    rig.ready(1, 0);
    rig.event(Answer::Probed { generation: Gen(1), result: ProbeResult::Pass });
    rig.after(5_000, &["probe g1 Health"]);
    let failed = Answer::Probed { generation: Gen(1), result: ProbeResult::TimedOut };
    rig.row(failed, &["signal 15 everyone g1", "signal 18 everyone g1", "=STOPPING"]);
    rig.exits(1, Exit::Code(0));
    assert_eq!(rig.empty(1), ["forget g1", "=BACKOFF"]);
}

#[test]
fn busy_remembered_and_forced() {
    let mut rig = Rig::running(base());
    rig.reload_to(2, base());
    rig.spawned(2);
    assert_eq!(rig.reload(), ["reply 2 busy"]);
    rig.outcome(Outcome::Refused, "a reload is under way: STARTING, began 0.0s ago");
    let remember = || Command::Reload { force: false, remember: true, reason: "SIGHUP".into() };
    assert_eq!(rig.command(remember()), ["reply 3 done"]);
    assert_eq!(rig.command(remember()), ["reply 4 done"]);
    let force = Command::Reload { force: true, remember: false, reason: String::new() };
    assert!(rig.command(force).contains(&"=ROLLING_BACK".to_owned()));
    rig.exits(2, TERM);
    let lines = rig.empty(2);
    // One reload follows, not three.
    assert_eq!(lines.iter().filter(|line| *line == "load").count(), 1);
    assert!(lines.contains(&"reply 1 aborted".to_owned()), "{lines:?}");
    rig.pre_check(3, base());
    rig.spawned(3);
    rig.ready(3, 0);
    assert!(rig.command(Command::Promote).contains(&"reply 5 promoted".to_owned()));
    assert_eq!(rig.state(), UnitState::Draining);
}

#[test]
fn what_was_remembered_follows_when_the_reload_is_over_once() {
    let mut rig = Rig::running(base());
    rig.reload_to(2, base());
    rig.spawned(2);
    let remember = || Command::Reload { force: false, remember: true, reason: "SIGHUP".into() };
    assert_eq!(rig.command(remember()), ["reply 2 done"]);
    assert_eq!(rig.command(remember()), ["reply 3 done"]);
    rig.ready(2, 0);
    let lines = rig.command(Command::Promote);
    assert_eq!(lines.iter().filter(|line| *line == "load").count(), 1, "{lines:?}");
    assert_eq!(rig.state(), UnitState::PreChecking);
    let lines = rig.event(Answer::Loaded(Err("line 3".into())));
    assert!(!lines.contains(&"load".to_owned()), "{lines:?}");
    assert_eq!(rig.records().last().unwrap().asked, "SIGHUP");
}

#[test]
fn promote_and_rollback_by_command() {
    let mut rig = Rig::running(base());
    assert_eq!(rig.command(Command::Promote), ["reply 1 failed"]);
    assert_eq!(rig.command(Command::Rollback { to: None }), ["reply 2 failed"]);
    rig.reload_to(2, base());
    rig.spawned(2);
    assert_eq!(rig.command(Command::Promote), ["reply 4 failed"]);
    rig.ready(2, 0);
    let lines = rig.command(Command::Rollback { to: None });
    assert_eq!(lines, ["signal 15 everyone g2", "signal 18 everyone g2", "=ROLLING_BACK"]);
    rig.exits(2, TERM);
    assert_eq!(rig.empty(2), ["forget g2", "keep [1]", "=RUNNING", "reply 3 rolled_back", "reply 5 done"]);
    // Outside a reload: a reload to what was there before, without reading the file.
    rig.reload_to(3, base());
    rig.spawned(3);
    rig.ready(3, 0);
    rig.command(Command::Promote);
    assert_eq!(rig.command(Command::Rollback { to: None }), ["open 1", "=PRE_CHECKING"]);
}

#[test]
fn a_rollback_goes_to_the_content_before_and_to_none_if_there_was_no_other() {
    let mut unit = base();
    unit.reload.strategy = Strategy::Immediate;
    let mut rig = Rig::running(unit.clone());
    rig.reload_to(1, unit.clone());
    rig.spawned(2);
    rig.ready(2, 0);
    assert_eq!(rig.command(Command::Rollback { to: None }), ["reply 2 failed"]);
    let mut rig = Rig::running(unit.clone());
    for (generation, id) in [(2, 2), (3, 2)] {
        rig.reload_to(id, unit.clone());
        rig.spawned(generation);
        rig.ready(generation, 0);
    }
    assert_eq!(rig.command(Command::Rollback { to: None })[0], "open 1");
}

#[test]
fn a_rollback_never_goes_forward_but_by_the_number_of_a_generation() {
    let mut unit = base();
    unit.reload.strategy = Strategy::Immediate;
    let mut rig = Rig::running(unit.clone());
    let launched = |rig: &mut Rig, generation: u32, id: u32| {
        rig.event(Answer::Opened { content: ContentId(id), result: Ok(()) });
        rig.event(Answer::BinaryChecked { content: ContentId(id), result: Ok(()) });
        rig.spawned(generation);
        rig.ready(generation, 0);
    };
    for id in [2, 3] {
        rig.reload_to(id, unit.clone());
        rig.spawned(id);
        rig.ready(id, 0);
    }
    assert_eq!(rig.command(Command::Rollback { to: None })[0], "open 2");
    launched(&mut rig, 4, 2);
    assert_eq!(rig.command(Command::Rollback { to: None })[0], "open 1");
    launched(&mut rig, 5, 1);
    assert_eq!(rig.command(Command::Rollback { to: None }), ["reply 5 failed"]);
    assert_eq!(rig.command(Command::Rollback { to: Some(Gen(9)) }), ["reply 6 failed"]);
    assert_eq!(rig.command(Command::Rollback { to: Some(Gen(3)) })[0], "open 3");
    launched(&mut rig, 6, 3);
    assert_eq!(rig.command(Command::Rollback { to: None })[0], "open 1", "2 was left");
}

#[test]
fn as_many_releases_are_kept_as_the_unit_says_and_one_is_let_go_by_a_command() {
    let mut unit = base();
    unit.reload.strategy = Strategy::Immediate;
    let mut rig = Rig::running(unit.clone());
    for id in [2, 3, 4] {
        rig.reload_to(id, unit.clone());
        rig.spawned(id);
        rig.ready(id, 0);
    }
    let kept = |rig: &Rig| rig.m.kept().map(|kept| kept.content.0).collect::<Vec<_>>();
    assert_eq!(kept(&rig), [1, 2, 3, 4]);
    assert_eq!(rig.command(Command::DropRelease(Gen(9))), ["reply 4 failed"]);
    assert_eq!(rig.command(Command::DropRelease(Gen(4))), ["reply 5 failed"], "it serves");
    assert!(rig.command(Command::DropRelease(Gen(3))).contains(&"reply 6 done".to_owned()));
    assert_eq!(kept(&rig), [1, 2, 4]);
    assert_eq!(rig.command(Command::Rollback { to: Some(Gen(3)) }), ["reply 7 failed"]);
    assert_eq!(rig.command(Command::Rollback { to: None })[0], "open 2");
    assert_eq!(rig.command(Command::DropRelease(Gen(2))), ["reply 9 failed"], "a reload to it is under way");
    rig.event(Answer::Opened { content: ContentId(2), result: Err("no".into()) });
    unit.reload.keep_releases = 0;
    rig.reload_to(5, unit);
    rig.spawned(5);
    rig.ready(5, 0);
    assert_eq!(kept(&rig), [5]);
}

#[test]
fn a_rollback_whose_target_is_gone_launches_nothing_also_where_nothing_runs() {
    let mut unit = base();
    unit.service.start_on = StartOn::Connection;
    let mut rig = Rig::new(unit.clone());
    rig.event(Event::Boot);
    rig.reload_to(2, unit.clone());
    assert_eq!(rig.state(), UnitState::Listening);
    rig.command(Command::Rollback { to: None });
    let lines = rig.event(Answer::Opened { content: ContentId(1), result: Ok(()) });
    assert_eq!(lines, ["binary 1"]);
    rig.event(Answer::BinaryChecked { content: ContentId(1), result: Err("it has been removed".into()) });
    rig.outcome(Outcome::Failed, "it has been removed");
    assert_eq!(rig.state(), UnitState::Listening);
}

#[test]
fn what_is_gone_for_good_is_not_tried_again() {
    for on in [StartOn::Boot, StartOn::Connection] {
        let mut unit = base();
        unit.service.restart = Restart::Always;
        unit.service.start_on = on;
        let mut rig = Rig::new(unit);
        rig.event(Event::Boot);
        if on == StartOn::Connection {
            rig.event(Event::Traffic);
        }
        let failure = SpawnFailure {
            text: "cannot start app: it is gone".into(),
            code: 1,
            exhausted: false,
            gone: true,
            busy: false,
        };
        rig.event(Event::SpawnFailed { proc: Proc(1), failure });
        rig.empty(1);
        assert_eq!(rig.state(), UnitState::Failed, "{on:?}");
    }
}

#[test]
fn a_promotion_without_a_reason_of_its_own_has_the_one_that_was_given() {
    let mut rig = Rig::running(base());
    rig.command(Command::Reload { force: false, remember: false, reason: "release 7".into() });
    rig.pre_check(2, base());
    rig.spawned(2);
    rig.ready(2, 0);
    rig.after(
        30_000,
        &["promoted g2", "signal 15 everyone g1", "signal 18 everyone g1", "=DRAINING", "reply 1 promoted"],
    );
    rig.outcome(Outcome::Promoted, "release 7");
}

#[test]
fn a_stop_aborts_the_reload() {
    let mut rig = Rig::running(base());
    rig.reload_to(2, base());
    rig.spawned(2);
    rig.ready(2, 0);
    let lines = rig.command(Command::Stop { close: false });
    assert_eq!(lines[lines.len() - 2..], ["=STOPPING", "reply 1 aborted"]);
    for (proc, generation) in [(1, 1), (2, 2)] {
        rig.exits(proc, TERM);
        rig.empty(generation);
    }
    assert_eq!(rig.state(), UnitState::Stopped);
    rig.outcome(Outcome::Aborted, "stopped by a command");
}

#[test]
fn replace_starts_the_previous_content_again() {
    let mut unit = base();
    unit.reload.strategy = Strategy::Replace;
    let mut rig = Rig::running(unit.clone());
    assert_eq!(rig.reload_to(2, unit), ["signal 15 everyone g1", "signal 18 everyone g1", "=STOPPING"]);
    rig.exits(1, TERM);
    assert_eq!(rig.empty(1), ["forget g1", "spawn 2 main0 g2 slot0", "=STARTING"]);
    rig.spawned(2);
    rig.exits(2, CODE3);
    assert_eq!(rig.empty(2), ["forget g2", "spawn 3 main0 g3 slot0"]);
    assert_eq!(rig.state(), UnitState::RollingBack);
    rig.spawned(3);
    assert_eq!(rig.ready(3, 0), ["promoted g3", "keep [1]", "=RUNNING", "reply 1 rolled_back"]);
    rig.outcome(Outcome::RolledBack, "generation 2 exited with status 3 before it was ready (after 0.0s)");
}

#[test]
fn signal_tells_the_running_service() {
    let mut unit = base();
    unit.reload.strategy = Strategy::Signal;
    let mut rig = Rig::running(unit.clone());
    let mut newer = unit.clone();
    newer.service.environment.push(("A".into(), "b".into()));
    assert_eq!(rig.reload_to(2, newer), ["signal 1 mains g1", "=RUNNING", "reply 1 promoted"]);
    assert_eq!(rig.m.status(rig.now).pending, ["Environment"]);
    // notify-reload: done at READY=1.
    unit.service.service_type = ServiceType::NotifyReload;
    let mut rig = Rig::running(unit.clone());
    assert_eq!(rig.reload_to(2, unit.clone()), ["signal 1 mains g1", "=STARTING"]);
    assert_eq!(rig.ready(1, 0), ["=RUNNING", "reply 1 promoted"]);
    rig.reload_to(3, unit.clone());
    rig.after(90_000, &["keep [1, 2]", "=RUNNING", "reply 2 failed"]);
    // ExecReload instead of the signal, with MAINPID.
    unit.service.service_type = ServiceType::Notify;
    unit.service.exec_reload = vec![command("/bin/reload")];
    let mut rig = Rig::running(unit.clone());
    assert_eq!(rig.reload_to(2, unit.clone()), ["spawn 2 reload0 g1 slot0", "=STARTING"]);
    assert_eq!(rig.environment(Role::Reload(0)), [("MAINPID".into(), "101".into())]);
    rig.spawned(2);
    assert_eq!(rig.exits(2, CODE3), ["keep [1]", "=RUNNING", "reply 1 failed"]);
}

#[test]
fn pre_flight_blocks_or_does_not() {
    let mut unit = base();
    unit.reload.pre_flight = vec![Hook { block_on_fail: false, ..hook("lint", 5) }, hook("config", 5)];
    unit.reload.on_failure = vec![hook("page", 5)];
    let mut rig = Rig::running(unit.clone());
    assert_eq!(rig.reload_to(2, unit), ["spawn 2 preflight0 - slot0"]);
    rig.spawned(2);
    assert_eq!(rig.exits(2, CODE3), ["signal 9 tree2", "spawn 3 preflight1 - slot0"]);
    rig.spawned(3);
    rig.after(5_000, &["signal 9 tree3"]);
    let lines = rig.exits(3, Exit::Signal { signal: 9, core: false });
    assert_eq!(
        lines,
        ["signal 9 tree3", "spawn 4 onfailure0 - slot0", "keep [1]", "=RUNNING", "reply 1 failed"]
    );
    rig.outcome(Outcome::Failed, "pre-flight \"config\" did not end within 5s");
    let environment = rig.environment(Role::OnFailure(0));
    assert_eq!(environment[0], ("AETERNA_RELOAD_OUTCOME".into(), "failed".into()));
    assert_eq!(environment[2], ("AETERNA_RELOAD_OLD_PID".into(), "101".into()));
}

#[test]
fn a_reload_that_fails_early_changes_nothing() {
    let mut rig = Rig::running(base());
    rig.reload();
    rig.row(Answer::Loaded(Err("line 3".into())), &["=RUNNING", "reply 1 failed"]);
    rig.reload();
    rig.event(Answer::Loaded(Ok(content(2, base()))));
    let taken = Answer::Opened { content: ContentId(2), result: Err("0.0.0.0:80 is taken".into()) };
    rig.row(taken, &["=RUNNING", "reply 2 failed"]);
    rig.outcome(Outcome::Failed, "0.0.0.0:80 is taken");
    rig.reload();
    rig.event(Answer::Loaded(Ok(content(3, base()))));
    rig.event(Answer::Opened { content: ContentId(3), result: Ok(()) });
    let missing = Answer::BinaryChecked { content: ContentId(3), result: Err("no such program".into()) };
    rig.row(missing, &["keep [1]", "=RUNNING", "reply 3 failed"]);
    rig.outcome(Outcome::Failed, "no such program");
}

#[test]
fn what_a_reload_does_to_a_unit_that_does_not_run() {
    // FAILED: rereads and starts.
    let mut rig = Rig::running(base());
    rig.exits(1, CODE3);
    rig.empty(1);
    assert_eq!((rig.state(), rig.m.summary().ended), (UnitState::Failed, Some(3)));
    assert_eq!(rig.reload_to(2, base()), ["spawn 2 main0 g2 slot0", "=STARTING"]);
    rig.spawned(2);
    assert_eq!(rig.ready(2, 0), ["promoted g2", "keep [2]", "=RUNNING", "reply 1 promoted"]);
    // LISTENING: only rereads.
    let mut unit = base();
    unit.service.start_on = StartOn::Connection;
    let mut rig = Rig::new(unit.clone());
    rig.event(Event::Boot);
    rig.reload();
    rig.event(Answer::Loaded(Ok(content(2, unit))));
    let lines = rig.event(Answer::Opened { content: ContentId(2), result: Ok(()) });
    assert_eq!(lines, ["watch", "keep [2]", "=LISTENING", "reply 1 promoted"]);
    // The first start is under way: busy.
    let mut rig = Rig::new(base());
    rig.event(Event::Boot);
    assert_eq!(rig.reload(), ["reply 1 busy"]);
}

#[test]
fn a_workers_death_in_the_soak_rolls_back_and_in_service_does_not() {
    let mut unit = base();
    unit.service.workers = 2;
    unit.service.restart = Restart::Always;
    let mut rig = Rig::new(unit.clone());
    rig.event(Event::Boot);
    rig.spawned(1);
    rig.spawned(2);
    assert_eq!(rig.ready(1, 0), [""; 0]);
    assert_eq!(rig.ready(1, 1), ["promoted g1", "=RUNNING"]);
    assert_eq!(rig.exits(2, CODE3), [""; 0]);
    rig.after(100, &["spawn 3 main1 g1 slot0"]);
    rig.spawned(3);
    rig.reload_to(2, unit);
    rig.spawned(4);
    rig.spawned(5);
    rig.ready(2, 0);
    assert_eq!(rig.ready(2, 1), ["=SOAKING"]);
    assert_eq!(rig.exits(1, CODE3), [""; 0], "the old one's workers are its own affair");
    assert_eq!(rig.exits(5, CODE3).last().unwrap(), "=ROLLING_BACK");
}

#[test]
fn what_the_old_one_left_when_it_crashed_is_looked_after_at_the_switch() {
    let mut rig = Rig::running(steered());
    rig.reload_to(2, steered());
    rig.spawned(2);
    rig.exits(1, CODE3);
    rig.empty(1);
    let lines = rig.ready(2, 0);
    assert_eq!(lines, ["promoted g2", "steer 1", "slot? 0", "keep [2]", "=RUNNING", "reply 1 promoted"]);
    rig.row(Answer::SlotState { slot: 0, queued: 2, migrated: false }, &["spawn 3 main0 g3 slot0"]);
}

#[test]
fn the_answer_to_an_abandoned_load_is_nobodys() {
    let mut rig = Rig::running(base());
    rig.reload();
    let first = rig.ticket(&Answer::Loaded(Err(String::new())));
    let force = Command::Reload { force: true, remember: false, reason: String::new() };
    assert_eq!(rig.command(force), ["load", "reply 1 aborted"]);
    rig.row(Event::Answered(first, Answer::Loaded(Err("line 3".into()))), &[]);
    rig.row(Answer::Loaded(Ok(content(2, base()))), &["open 2"]);
    // Nor is one that comes twice.
    rig.row(Answer::Loaded(Ok(content(3, base()))), &[]);
}

#[test]
fn who_goes_on_asks_again_and_owes_nobody_who_is_gone() {
    let unit = steered();
    let mut rig = Rig::running(unit.clone());
    rig.reload();
    assert_eq!(rig.resume(&[1], &[1]), ["load"]);
    rig.row(Answer::Loaded(Ok(content(2, unit.clone()))), &["open 2"]);
    assert_eq!(rig.resume(&[1], &[]), ["open 2"], "who asked is gone");
    rig.event(Answer::Opened { content: ContentId(2), result: Ok(()) });
    assert_eq!(rig.resume(&[1], &[]), ["binary 2"]);
    rig.event(Answer::BinaryChecked { content: ContentId(2), result: Ok(()) });
    rig.spawned(2);
    // The new generation has ended meanwhile, and nobody knows how.
    let lines = rig.resume(&[1], &[]);
    assert!(lines.contains(&"=ROLLING_BACK".to_owned()), "{lines:?}");
    rig.empty(2);
    rig.outcome(
        Outcome::RolledBack,
        "generation 2 ended, and nobody can say how before it was ready (after 0.0s)",
    );
    assert!(!rig.all.iter().any(|action| matches!(action, Action::Reply { .. })));
}

#[test]
fn nothing_follows_the_hook_that_runs_when_a_stop_begins() {
    let mut unit = base();
    unit.reload.strategy = Strategy::Immediate;
    unit.reload.on_success = vec![hook("one", 5), hook("two", 5)];
    let mut rig = Rig::running(unit.clone());
    rig.reload_to(2, unit);
    rig.spawned(2);
    assert!(rig.ready(2, 0).contains(&"spawn 3 onsuccess0 - slot0".to_owned()));
    rig.spawned(3);
    rig.command(Command::Stop { close: false });
    for (proc, generation) in [(1, 1), (2, 2)] {
        rig.exits(proc, TERM);
        rig.empty(generation);
    }
    assert_eq!(rig.state(), UnitState::Stopping, "the hook still runs");
    assert_eq!(rig.exits(3, Exit::Code(0)), ["signal 9 tree3", "dropstore", "=STOPPED", "reply 2 done"]);
}

#[test]
fn a_stopped_unit_whose_start_by_reload_fails_has_failed() {
    let mut rig = Rig::running(base());
    rig.exits(1, Exit::Code(0));
    rig.empty(1);
    assert_eq!(rig.state(), UnitState::Stopped);
    rig.reload_to(2, base());
    rig.spawned(2);
    rig.exits(2, CODE3);
    assert!(rig.empty(2).contains(&"=FAILED".to_owned()));
}

fn listened(generation: u32, missing: Missing) -> Event {
    Event::Listened { generation: Gen(generation), missing }
}

#[test]
fn an_adopted_program_is_up_when_it_listens() {
    let mut unit = base();
    unit.service.service_type = ServiceType::Exec;
    unit.service.intercept_bind = true;
    unit.health = Some(health(Check::TcpConnect(Address::Port(80))));
    let pass = |g| Answer::Probed { generation: Gen(g), result: ProbeResult::Pass };
    let mut rig = Rig::new(unit.clone());
    rig.event(Event::Boot);
    rig.row(Event::Spawned { proc: Proc(1), pid: 101 }, &[]);
    assert_eq!(rig.state(), UnitState::Starting, "execve alone says nothing");
    rig.row(listened(1, Missing::Nothing), &["probe g1 Health"]);
    rig.event(pass(1));
    assert_eq!(rig.state(), UnitState::Running);
    rig.reload_to(2, unit.clone());
    rig.spawned(2);
    rig.row(listened(2, Missing::Declared("a, b".into())), &[]);
    rig.row(listened(2, Missing::Learned("b".into())), &[]);
    // It is waited for from the first listen on, and no longer than this.
    let first = rig.now;
    rig.now = rig.m.next_deadline().unwrap();
    assert_eq!(rig.now - first, Span::from_secs(5));
    assert!(rig.event(Event::Tick).contains(&"probe g2 Health".to_owned()));
    rig.event(pass(2));
    assert_eq!(rig.state(), UnitState::Soaking);
}

#[test]
fn a_declared_address_is_waited_for_until_the_start_times_out() {
    let mut unit = base();
    unit.service.service_type = ServiceType::Exec;
    unit.service.intercept_bind = true;
    let mut rig = Rig::new(unit.clone());
    rig.event(Event::Boot);
    rig.spawned(1);
    rig.event(listened(1, Missing::Nothing));
    rig.reload_to(2, unit);
    rig.spawned(2);
    rig.row(listened(2, Missing::Declared("[::]:80".into())), &[]);
    rig.now = rig.m.next_deadline().unwrap();
    rig.event(Event::Tick);
    rig.exits(2, TERM);
    rig.empty(2);
    let reason = "generation 2 was not ready within TimeoutStartSec (1min 30s): it never listened on [::]:80, as the one before did";
    rig.outcome(Outcome::RolledBack, reason);
}

#[test]
fn the_ninth_that_drains_is_killed_and_cleaned_up_after() {
    let mut unit = base();
    unit.reload.strategy = Strategy::Immediate;
    unit.service.exec_stop_post = vec![command("/after")];
    let mut rig = Rig::running(unit.clone());
    for id in 2..=10 {
        rig.reload_to(id, unit.clone());
        rig.spawned(id);
        rig.ready(id, 0);
    }
    rig.exits(1, Exit::Signal { signal: 9, core: false });
    assert_eq!(rig.empty(1), ["spawn 11 stoppost0 g1 slot0"]);
    // It is as good as gone: nothing more is done to it.
    rig.spawned(11);
    rig.exits(2, TERM);
    rig.empty(2);
    rig.reload_to(11, unit);
    rig.spawned(13);
    let lines = rig.ready(11, 0);
    assert!(!lines.iter().any(|line| line.ends_with("g1")), "{lines:?}");
}

#[test]
fn whoever_starts_what_has_failed_is_not_held_up_by_the_start_limit() {
    let mut unit = base();
    unit.service.start_limit_burst = 1;
    for command in [Command::Start, Command::Restart, Command::Rollback { to: None }] {
        let mut rig = Rig::running(unit.clone());
        rig.reload_to(2, unit.clone());
        rig.spawned(2);
        rig.ready(2, 0);
        rig.command(Command::Promote);
        rig.exits(1, TERM);
        rig.empty(1);
        rig.exits(2, CODE3);
        rig.empty(2);
        assert_eq!(rig.state(), UnitState::Failed);
        rig.command(command.clone());
        rig.event(Answer::Loaded(Ok(content(3, unit.clone()))));
        let id = ContentId(if matches!(command, Command::Rollback { .. }) { 1 } else { 3 });
        rig.event(Answer::Opened { content: id, result: Ok(()) });
        rig.event(Answer::BinaryChecked { content: id, result: Ok(()) });
        assert_eq!(rig.state(), UnitState::Starting, "{command:?}");
    }
    let mut rig = Rig::running(unit.clone());
    rig.exits(1, CODE3);
    rig.empty(1);
    assert_eq!(rig.reload_to(2, unit.clone()), ["spawn 2 main0 g2 slot0", "=STARTING"]);
    // What has ended well is under the limit like everything else.
    let mut rig = Rig::running(unit.clone());
    rig.exits(1, Exit::Code(0));
    rig.empty(1);
    assert_eq!(rig.reload_to(2, unit).last().unwrap(), "reply 1 failed");
}

#[test]
fn a_program_that_cannot_be_read_through_ends_the_reload() {
    let mut rig = Rig::running(base());
    rig.reload();
    rig.event(Answer::Loaded(Ok(content(2, base()))));
    rig.event(Answer::Opened { content: ContentId(2), result: Ok(()) });
    rig.after(90_000, &["keep [1]", "=RUNNING", "reply 1 failed"]);
    rig.outcome(Outcome::Failed, "the program could not be read through within TimeoutStartSec");
    rig.row(Answer::BinaryChecked { content: ContentId(2), result: Ok(()) }, &[]);
}
