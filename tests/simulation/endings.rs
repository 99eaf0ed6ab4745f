//! Every wait ends, with words: processes that cannot be killed, time that nobody saw, what aeternad lacks itself.

use crate::rig::*;
use crate::units::*;
use aeterna::machine::event::*;
// Both globs have a `Command`; this is the one that is asked of a unit.
use aeterna::machine::event::Command;
use aeterna::time::Span;
use aeterna::unit::*;

fn warnings(rig: &Rig) -> Vec<String> {
    let text = |action: &Action| match action {
        Action::Announce(Announcement::Warning { text } | Announcement::StartFailed { text, .. }) => {
            Some(text.clone())
        }
        _ => None,
    };
    rig.all.iter().filter_map(text).collect()
}

#[test]
fn a_stop_gives_a_process_up_that_cannot_be_killed() {
    let mut unit = base();
    unit.service.timeout_stop = Span::from_secs(7);
    let mut rig = Rig::running(unit.clone());
    rig.command(Command::Stop { close: false });
    rig.after(7_000, &["signal 9 everyone g1"]);
    rig.after(1_000, &["signal 9 everyone g1"]);
    // It is said long before it is given up.
    rig.after(2_000, &["lingers everyone g1", "signal 9 everyone g1"]);
    rig.after(4_000, &["give up everyone g1", "forget g1", "dropstore", "=STOPPED", "reply 1 done"]);
    assert!(!rig.m.summary().alive);
    // It ends after all: nobody is interested any more.
    assert!(rig.exits(1, Exit::Signal { signal: 9, core: false }).is_empty());
    // And the unit can be started again.
    rig.command(Command::Start);
    rig.event(Answer::Loaded(Ok(content(2, unit))));
    let lines = rig.event(Answer::Opened { content: ContentId(2), result: Ok(()) });
    assert_eq!(lines[0], "spawn 2 main0 g2 slot0");
}

#[test]
fn a_rollback_ends_though_the_new_generation_cannot_be_killed_and_the_next_reload_may_come() {
    let mut unit = base();
    unit.service.timeout_stop = Span::from_secs(6);
    unit.service.exec_stop_post = vec![command("cleanup")];
    unit.reload.drain_timeout = Span::from_secs(2);
    let mut rig = Rig::running(unit.clone());
    rig.reload_to(2, unit.clone());
    rig.spawned(2);
    rig.command(Command::Rollback { to: None });
    while rig.state() == UnitState::RollingBack {
        rig.now = rig.m.next_deadline().expect("it waits for ever");
        for line in rig.event(Event::Tick) {
            if line.starts_with("spawn 3 stoppost0 g2") {
                rig.spawned(3);
                rig.exits(3, Exit::Code(0));
            }
        }
        assert!(rig.now.since(aeterna::time::Monotime(1_000_000_000_000)) < Span::from_secs(60));
    }
    assert_eq!(rig.state(), UnitState::Running);
    let given_up = rig.all.iter().filter(|action| matches!(action, Action::GiveUp(_))).count();
    assert_eq!(given_up, 1, "said once, and ExecStopPost was run");
    rig.reload_to(3, unit);
    assert_eq!(rig.state(), UnitState::Starting);
}

#[test]
fn a_hook_and_a_pre_flight_command_that_cannot_be_killed_hold_nobody_up() {
    let mut unit = base();
    unit.service.timeout_stop = Span::from_secs(6);
    unit.reload.pre_flight = vec![hook("check", 5)];
    unit.reload.on_failure = vec![hook("page", 5), hook("mail", 5)];
    let mut rig = Rig::running(unit.clone());
    rig.reload_to(2, unit);
    rig.spawned(2);
    rig.after(5_000, &["signal 9 tree2"]);
    rig.after(
        6_000,
        &[
            "give up tree2",
            "signal 9 tree2",
            "spawn 3 onfailure0 - slot0",
            "keep [1]",
            "=RUNNING",
            "reply 1 failed",
        ],
    );
    rig.outcome(Outcome::Failed, "pre-flight \"check\" did not end within 5s");
    rig.spawned(3);
    rig.after(5_000, &["signal 9 tree3"]);
    rig.after(6_000, &["give up tree3", "signal 9 tree3", "spawn 4 onfailure1 - slot0"]);
    rig.spawned(4);
    rig.exits(4, Exit::Code(0));
    // Nothing of it is waited for at a stop.
    rig.command(Command::Stop { close: false });
    rig.exits(1, TERM);
    assert!(rig.empty(1).contains(&"=STOPPED".to_owned()));
}

#[test]
fn a_watchdogs_signal_wakes_a_stopped_process_and_its_reason_stays() {
    let mut unit = base();
    unit.service.watchdog = Span::from_secs(3);
    unit.service.timeout_stop = Span::from_secs(7);
    unit.service.exec_stop_post = vec![command("cleanup")];
    let mut rig = Rig::running(unit);
    rig.after(3_000, &["signal 6 proc1", "signal 18 proc1"]);
    rig.after(7_000, &["signal 9 proc1"]);
    rig.exits(1, Exit::Signal { signal: 9, core: false });
    rig.empty(1);
    let environment = rig.environment(Role::StopPost(0));
    assert!(environment.contains(&("SERVICE_RESULT".into(), "watchdog".into())), "{environment:?}");
    let why = rig.m.status(rig.now).why;
    assert_eq!(why, "generation 1 sent no WATCHDOG=1 within WatchdogSec and was killed by SIGKILL");
}

#[test]
fn a_watchdogs_victim_that_cannot_be_killed_is_given_up() {
    let mut unit = base();
    unit.service.watchdog = Span::from_secs(3);
    unit.service.timeout_stop = Span::from_secs(7);
    unit.service.restart = Restart::Always;
    let mut rig = Rig::running(unit);
    rig.after(3_000, &["signal 6 proc1", "signal 18 proc1"]);
    rig.after(7_000, &["signal 9 proc1"]);
    rig.after(7_000, &["give up proc1", "signal 15 everyone g1", "signal 18 everyone g1", "=STOPPING"]);
    rig.after(7_000, &["signal 9 everyone g1"]);
    while rig.state() == UnitState::Stopping {
        rig.now = rig.m.next_deadline().expect("it waits for ever");
        rig.event(Event::Tick);
    }
    assert_eq!(rig.state(), UnitState::Backoff);
}

#[test]
fn a_watchdog_that_ends_while_nobody_is_awake_is_given_one_more_interval_and_no_third() {
    let mut unit = base();
    unit.service.watchdog = Span::from_secs(3);
    let mut rig = Rig::running(unit);
    rig.late(20_000, &[]);
    rig.says(1, 0, Notification { watchdog: true, ..Notification::default() });
    rig.late(20_000, &[]);
    rig.after(3_000, &["signal 6 proc1", "signal 18 proc1"]);
    assert!(warnings(&rig)[0].contains("not awake"), "{:?}", warnings(&rig));
}

#[test]
fn time_that_nobody_saw_is_no_soak() {
    let mut unit = base();
    unit.reload.soak_time = Span::from_secs(30);
    let mut rig = Rig::running(unit.clone());
    rig.reload_to(2, unit);
    rig.spawned(2);
    rig.ready(2, 0);
    assert_eq!(rig.state(), UnitState::Soaking);
    let began = rig.now;
    rig.late(100_000, &[]);
    assert_eq!(rig.state(), UnitState::Soaking);
    // 100 s, and what lay before it since it was looked at last.
    while rig.state() == UnitState::Soaking {
        rig.now = rig.m.next_deadline().unwrap();
        rig.event(Event::Tick);
    }
    assert_eq!(rig.now.since(began), Span::from_millis(133_750));
    rig.outcome(Outcome::Promoted, "");
}

#[test]
fn a_start_and_a_stop_get_their_time_once_more_if_nobody_saw_it_pass() {
    let mut unit = base();
    unit.service.timeout_stop = Span::from_secs(7);
    let mut rig = Rig::new(unit);
    rig.event(Event::Boot);
    rig.spawned(1);
    rig.late(5_000, &[]);
    rig.after(90_000, &["signal 15 everyone g1", "signal 18 everyone g1", "=STOPPING"]);
    rig.late(5_000, &[]);
    rig.after(7_000, &["signal 9 everyone g1"]);
}

#[test]
fn a_check_that_could_not_be_made_counts_for_nothing() {
    let mut unit = base();
    unit.health = Some(HealthCheck {
        check: Check::TcpConnect(Address::Port(80)),
        interval: Span::from_secs(5),
        timeout: Span::from_secs(2),
        initial_delay: Span::ZERO,
        success_threshold: 1,
        failure_threshold: 1,
        expect_status: vec![(200, 399)],
        always: true,
    });
    let mut rig = Rig::new(unit);
    rig.event(Event::Boot);
    rig.spawned(1);
    let probed = |result| Answer::Probed { generation: Gen(1), result };
    assert!(rig.ready(1, 0).contains(&"probe g1 Health".to_owned()));
    rig.event(probed(ProbeResult::NotMade("no thread".into())));
    rig.after(1_000, &["probe g1 Health"]);
    rig.event(probed(ProbeResult::Pass));
    assert_eq!(rig.state(), UnitState::Running);
    rig.after(5_000, &["probe g1 Health"]);
    rig.event(probed(ProbeResult::NotMade("no thread".into())));
    assert_eq!(rig.state(), UnitState::Running);
    // An answer that comes after a time in which nobody was awake says nothing either.
    rig.after(1_000, &["probe g1 Health"]);
    rig.now = rig.now + Span::from_secs(60);
    rig.event(probed(ProbeResult::TimedOut));
    assert_eq!(rig.state(), UnitState::Running);
    rig.after(1_000, &["probe g1 Health"]);
    rig.event(probed(ProbeResult::TimedOut));
    assert_eq!(rig.state(), UnitState::Stopping);
}

#[test]
fn who_may_not_speak_is_named_with_what_it_said() {
    let mut rig = Rig::new(base());
    rig.event(Event::Boot);
    rig.spawned(1);
    let message = Notification { ready: true, ..Notification::default() };
    for _ in 0..3 {
        let from = Sender::Member(4711);
        rig.event(Event::Notified { generation: Gen(1), from, message: message.clone() });
    }
    let told = warnings(&rig);
    assert_eq!(told.len(), 1, "{told:?}");
    for part in ["4711", "READY=1", "NotifyAccess = \"main\"", "101", "exec"] {
        assert!(told[0].contains(part), "{part}: {told:?}");
    }
    rig.now = rig.m.next_deadline().unwrap();
    rig.event(Event::Tick);
    let why = rig.m.status(rig.now).why;
    assert!(why.contains("never said READY=1 (process 4711 has said READY=1"), "{why}");
}

#[test]
fn a_failed_start_is_told_apart_from_what_is_only_news() {
    // Timeout, an end before READY=1, ExecStartPre.
    let mut rig = Rig::new(base());
    rig.event(Event::Boot);
    rig.spawned(1);
    rig.exits(1, CODE3);
    let failed = |rig: &Rig| {
        let is_failure =
            |action: &&Action| matches!(action, Action::Announce(Announcement::StartFailed { .. }));
        rig.all.iter().filter(is_failure).count()
    };
    assert_eq!((failed(&rig), warnings(&rig)), (1, vec!["generation 1 exited with status 3".to_owned()]));
    let mut unit = base();
    unit.service.exec_start_pre = vec![command("pre")];
    let mut rig = Rig::new(unit);
    rig.event(Event::Boot);
    rig.spawned(1);
    rig.exits(1, CODE3);
    assert_eq!(warnings(&rig), ["generation 1 was not started: ExecStartPre exited with status 3"]);
    // A process that could not be started has a line already.
    let mut rig = Rig::new(base());
    rig.event(Event::Boot);
    let failure = SpawnFailure {
        text: "cannot start app: no".into(),
        code: 1,
        exhausted: true,
        gone: false,
        busy: false,
    };
    rig.event(Event::SpawnFailed { proc: Proc(1), failure });
    assert_eq!((failed(&rig), rig.state()), (0, UnitState::Failed));
}

#[test]
fn what_was_seen_beside_an_end_is_part_of_its_reason() {
    let kill = Exit::Signal { signal: 9, core: false };
    for (exit, beside, result, words) in [
        (kill, Beside::OutOfMemory, "oom-kill", "was killed by the kernel for memory"),
        (kill, Beside::MemoryShort, "signal", "OOM killer was at work on this machine"),
        (kill, Beside::Nothing, "signal", "was killed by SIGKILL"),
        (Exit::Code(0), Beside::Others, "success", "stay in the foreground"),
        (CODE3, Beside::Others, "exit-code", "exited with status 3"),
    ] {
        let mut unit = base();
        unit.service.exec_stop_post = vec![command("cleanup")];
        let mut rig = Rig::running(unit);
        rig.event(Event::Exited { proc: Proc(1), exit, beside });
        rig.empty(1);
        let environment = rig.environment(Role::StopPost(0));
        assert!(environment.contains(&("SERVICE_RESULT".into(), result.into())), "{environment:?}");
        let why = rig.m.status(rig.now).why;
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn on_failure_is_told_the_pid_of_a_generation_that_was_never_ready() {
    let mut unit = base();
    unit.reload.on_failure = vec![hook("page", 5)];
    let mut rig = Rig::running(unit.clone());
    rig.reload_to(2, unit);
    rig.spawned(2);
    rig.exits(2, CODE3);
    rig.empty(2);
    let environment = rig.environment(Role::OnFailure(0));
    assert!(environment.contains(&("AETERNA_RELOAD_NEW_PID".into(), "102".into())), "{environment:?}");
}

#[test]
fn steps_of_a_reload_before_the_launch_get_their_time_once_more_if_nobody_saw_it_pass() {
    let mut unit = base();
    unit.reload.pre_flight = vec![hook("check", 5)];
    unit.reload.on_success = vec![hook("page", 5)];
    let mut rig = Rig::running(unit.clone());
    rig.reload_to(2, unit.clone());
    rig.spawned(2);
    rig.late(20_000, &[]);
    assert!(warnings(&rig)[0].contains("not awake"), "{:?}", warnings(&rig));
    rig.exits(2, Exit::Code(0));
    rig.spawned(3);
    rig.ready(2, 0);
    rig.command(Command::Promote);
    rig.exits(1, TERM);
    rig.empty(1);
    // The hook too.
    rig.spawned(4);
    rig.late(20_000, &[]);
    rig.after(5_000, &["signal 9 tree4"]);
    // And there is no third time.
    let mut rig = Rig::running(unit.clone());
    rig.reload_to(2, unit);
    rig.spawned(2);
    rig.late(20_000, &[]);
    rig.late(20_000, &["signal 9 tree2"]);
}

#[test]
fn a_service_that_is_told_to_reload_gets_its_time_once_more_if_nobody_saw_it_pass() {
    for by_command in [true, false] {
        let mut unit = base();
        unit.reload.strategy = Strategy::Signal;
        if by_command {
            unit.service.exec_reload = vec![command("tell")];
        } else {
            unit.service.service_type = ServiceType::NotifyReload;
        }
        let mut rig = Rig::running(unit.clone());
        rig.reload_to(2, unit);
        if by_command {
            rig.spawned(2);
        }
        rig.late(20_000, &[]);
        assert_eq!(rig.records(), [], "it goes on");
        rig.now = rig.m.next_deadline().unwrap() + Span::from_secs(20);
        rig.event(Event::Tick);
        assert_eq!(rig.records().len(), 1, "and ends");
    }
}

#[test]
fn a_handover_gets_its_time_once_more_if_nobody_saw_it_pass() {
    let mut unit = base();
    unit.state = State { enabled: true, timeout: Span::from_secs(5), ..State::default() };
    let waiting = || {
        let mut rig = Rig::running(unit.clone());
        rig.reload_to(2, unit.clone());
        rig.spawned(2);
        rig
    };
    // Nobody has asked for the state yet.
    let mut rig = waiting();
    rig.ready(2, 0);
    rig.late(20_000, &[]);
    rig.row(Event::SinkConnected(Gen(2)), &["relay g1 g2", "=HANDSHAKING"]);
    // It is on its way.
    let mut rig = waiting();
    rig.row(Event::SinkConnected(Gen(2)), &["relay g1 g2", "=HANDSHAKING"]);
    rig.late(20_000, &[]);
    rig.after(6_000, &["cancel relay"]);
}
