//! Starting, stopping, restarting and activation, row by row.

use crate::rig::*;
use crate::units::*;
use aeterna::machine::event::*;
// Both globs have a `Command`; this is the one that is asked of a unit.
use aeterna::machine::event::Command;
use aeterna::time::Span;
use aeterna::unit::*;

#[test]
fn systemds_restart_table() {
    use Restart::{Always, No, OnAbnormal, OnAbort, OnFailure, OnSuccess, OnWatchdog};
    let table: [(Option<Exit>, &[Restart]); 6] = [
        (Some(Exit::Code(0)), &[Always, OnSuccess]),
        (Some(TERM), &[Always, OnSuccess]),
        (Some(CODE3), &[Always, OnFailure]),
        (Some(Exit::Signal { signal: 9, core: false }), &[Always, OnFailure, OnAbnormal, OnAbort]),
        (Some(SEGV), &[Always, OnFailure, OnAbnormal, OnAbort]),
        // The watchdog.
        (None, &[Always, OnFailure, OnAbnormal, OnWatchdog]),
    ];
    for (exit, restarted) in table {
        for restart in [No, Always, OnSuccess, OnFailure, OnAbnormal, OnAbort, OnWatchdog] {
            let mut unit = base();
            unit.service.restart = restart;
            unit.service.watchdog = Span::from_secs(3);
            let mut rig = Rig::running(unit);
            match exit {
                Some(exit) => {
                    rig.exits(1, exit);
                }
                None => {
                    rig.after(3_000, &["signal 6 proc1", "signal 18 proc1"]);
                    rig.exits(1, Exit::Signal { signal: 6, core: true });
                }
            }
            rig.empty(1);
            let wanted = if restarted.contains(&restart) {
                UnitState::Backoff
            } else if matches!(exit, Some(Exit::Code(0) | TERM)) {
                UnitState::Stopped
            } else {
                UnitState::Failed
            };
            assert_eq!(rig.state(), wanted, "{exit:?} with {restart:?}");
        }
    }
}

#[test]
fn exit_status_lists_prevent_force_and_forgive() {
    let run = |change: &dyn Fn(&mut Service), exit| {
        let mut unit = base();
        change(&mut unit.service);
        let mut rig = Rig::running(unit);
        rig.exits(1, exit);
        rig.empty(1);
        (rig.state(), rig.m.summary().ended)
    };
    let codes = || ExitStatusSet { codes: vec![3], signals: vec![11] };
    let prevent = |s: &mut Service| (s.restart, s.restart_prevent_exit_status) = (Restart::Always, codes());
    assert_eq!(run(&prevent, CODE3), (UnitState::Failed, Some(3)));
    assert_eq!(run(&prevent, SEGV), (UnitState::Failed, Some(139)));
    let force = |s: &mut Service| s.restart_force_exit_status = codes();
    assert_eq!(run(&force, CODE3), (UnitState::Backoff, None));
    let success = |s: &mut Service| s.success_exit_status = codes();
    assert_eq!(run(&success, CODE3), (UnitState::Stopped, Some(3)));
    assert_eq!(run(&success, SEGV), (UnitState::Stopped, Some(139)));
}

#[test]
fn the_back_off_grows_geometrically_and_the_file_is_not_read_again() {
    let mut unit = base();
    unit.service.restart = Restart::Always;
    unit.service.restart_sec = Span::from_secs(1);
    unit.service.restart_steps = 3;
    unit.service.restart_max_delay = Span::from_secs(8);
    unit.service.start_limit_burst = 0;
    let mut rig = Rig::running(unit);
    for (n, seconds) in (1..).zip([1, 2, 4, 8, 8]) {
        rig.exits(n, CODE3);
        rig.empty(n);
        assert_eq!(rig.m.status(rig.now).restart_in.map(f64::round), Some(f64::from(seconds)));
        rig.now = rig.m.next_deadline().unwrap();
        assert_eq!(rig.event(Event::Tick)[1], "=STARTING");
        rig.spawned(n + 1);
    }
    assert_eq!(rig.m.status(rig.now).restarts, 5);
    assert!(!rig.all.iter().any(|action| matches!(action, Action::Ask(_, Question::Load))));
}

#[test]
fn the_start_limit_ends_in_failed_and_a_later_start_works() {
    let mut unit = base();
    unit.service.restart = Restart::Always;
    unit.service.restart_sec = Span::ZERO;
    let mut rig = Rig::running(unit.clone());
    for n in 1..5 {
        rig.exits(n, CODE3);
        rig.empty(n);
        rig.after(0, &[&format!("spawn {0} main0 g{0} slot0", n + 1), "=STARTING"]);
        rig.spawned(n + 1);
    }
    rig.exits(5, CODE3);
    rig.empty(5);
    rig.after(0, &["=FAILED"]);
    assert_eq!(rig.m.summary().ended, Some(3));
    assert!(rig.m.status(rig.now).why.contains("start-limit-hit"));
    rig.command(Command::Start);
    rig.event(Answer::Loaded(Ok(content(2, unit.clone()))));
    let opened = |id| Answer::Opened { content: ContentId(id), result: Ok(()) };
    // By hand it may be tried again at once: there is nobody else who would clear the limit.
    rig.row(opened(2), &["spawn 6 main0 g6 slot0", "keep [2]", "=STARTING"]);
}

#[test]
fn ready_by_type() {
    for (service_type, at_once) in [
        (ServiceType::Simple, true),
        (ServiceType::Exec, true),
        (ServiceType::Notify, false),
        (ServiceType::NotifyReload, false),
    ] {
        let mut unit = base();
        unit.service.service_type = service_type;
        let mut rig = Rig::new(unit);
        rig.event(Event::Boot);
        let lines = rig.spawned(1);
        assert_eq!(lines.contains(&"=RUNNING".to_owned()), at_once, "{service_type:?}");
    }
}

#[test]
fn oneshot_runs_its_commands_one_after_the_other_and_is_stopped_then() {
    let mut unit = base();
    unit.service.service_type = ServiceType::Oneshot;
    unit.service.exec_start.push(command("/second"));
    unit.service.exec_stop_post = vec![command("/post")];
    let mut rig = Rig::new(unit);
    rig.row(Event::Boot, &["spawn 1 main0 g1 slot0", "=STARTING"]);
    rig.spawned(1);
    assert_eq!(rig.exits(1, Exit::Code(0)), ["spawn 2 main0.1 g1 slot0"]);
    rig.spawned(2);
    rig.exits(2, Exit::Code(0));
    assert_eq!(rig.empty(1), ["spawn 3 stoppost0 g1 slot0"]);
    rig.spawned(3);
    rig.exits(3, Exit::Code(0));
    assert_eq!((rig.state(), rig.m.summary().ended), (UnitState::Stopping, None));
    rig.empty(1);
    assert_eq!((rig.state(), rig.m.summary().ended), (UnitState::Stopped, Some(0)));
}

#[test]
fn warm_up_then_ready_within_one_deadline() {
    let mut unit = base();
    unit.reload.warmup_delay = Span::from_secs(2);
    unit.service.timeout_start = Span::from_secs(10);
    let mut rig = Rig::new(unit);
    rig.event(Event::Boot);
    rig.spawned(1);
    rig.ready(1, 0);
    rig.after(2_000, &["promoted g1", "=RUNNING"]);
}

#[test]
fn a_start_that_takes_too_long_and_one_that_asks_for_more_time() {
    let mut rig = Rig::new(base());
    rig.event(Event::Boot);
    rig.spawned(1);
    rig.says(1, 0, Notification { extend_timeout_usec: Some(100_000_000), ..Notification::default() });
    rig.after(100_000, &["signal 15 everyone g1", "signal 18 everyone g1", "=STOPPING"]);
    rig.exits(1, Exit::Code(0));
    rig.empty(1);
    assert_eq!((rig.state(), rig.m.summary().ended), (UnitState::Failed, Some(1)));
}

#[test]
fn pre_and_post_commands() {
    let mut unit = base();
    unit.service.exec_start_pre = vec![command("/pre")];
    unit.service.exec_start_post = vec![command("/post")];
    unit.service.exec_stop_post = vec![command("/after")];
    let mut rig = Rig::new(unit);
    rig.row(Event::Boot, &["spawn 1 startpre0 g1 slot0", "=STARTING"]);
    rig.spawned(1);
    // What ExecStartPre leaves does not live beside the service.
    assert_eq!(rig.exits(1, Exit::Code(0)), ["signal 9 everyone g1", "spawn 2 main0 g1 slot0"]);
    rig.spawned(2);
    assert_eq!(rig.ready(1, 0), ["spawn 3 startpost0 g1 slot0"]);
    assert_eq!(rig.environment(Role::StartPost(0)), [("MAINPID".into(), "102".into())]);
    rig.spawned(3);
    assert_eq!(rig.exits(3, Exit::Code(0)), ["promoted g1", "=RUNNING"]);
    rig.exits(2, SEGV);
    assert_eq!(rig.empty(1), ["spawn 4 stoppost0 g1 slot0"]);
    let wanted = [("SERVICE_RESULT", "core-dump"), ("EXIT_CODE", "dumped"), ("EXIT_STATUS", "SEGV")];
    assert_eq!(rig.environment(Role::StopPost(0)), wanted.map(|(k, v)| (k.to_owned(), v.to_owned())));
}

#[test]
fn a_failed_pre_command_aborts_the_start_and_runs_stop_post() {
    let mut unit = base();
    unit.service.exec_start_pre = vec![command("/pre")];
    unit.service.exec_stop = vec![command("/stop")];
    unit.service.exec_stop_post = vec![command("/after")];
    let mut rig = Rig::new(unit);
    rig.event(Event::Boot);
    rig.spawned(1);
    rig.exits(1, CODE3);
    assert_eq!(rig.empty(1), ["spawn 2 stoppost0 g1 slot0"]);
    let wanted = [("SERVICE_RESULT", "exit-code"), ("EXIT_CODE", "exited"), ("EXIT_STATUS", "3")];
    assert_eq!(rig.environment(Role::StopPost(0)), wanted.map(|(k, v)| (k.to_owned(), v.to_owned())));
}

#[test]
fn the_stop_sequence() {
    let mut unit = base();
    unit.service.exec_stop = vec![command("/stop")];
    unit.service.exec_stop_post = vec![command("/after")];
    unit.service.send_sighup = true;
    let mut rig = Rig::running(unit);
    assert_eq!(rig.command(Command::Stop { close: false }), ["spawn 2 stop0 g1 slot0", "=STOPPING"]);
    assert_eq!(rig.environment(Role::Stop(0)), [("MAINPID".into(), "101".into())]);
    rig.spawned(2);
    let politely = ["signal 15 everyone g1", "signal 18 everyone g1", "signal 1 everyone g1"];
    assert_eq!(rig.exits(2, Exit::Code(0)), politely);
    rig.after(90_000, &["signal 9 everyone g1"]);
    rig.exits(1, Exit::Signal { signal: 9, core: false });
    assert_eq!(rig.empty(1), ["spawn 3 stoppost0 g1 slot0"]);
    rig.spawned(3);
    rig.exits(3, Exit::Code(0));
    rig.after(1_000, &["signal 9 everyone g1"]);
    assert_eq!(rig.empty(1), ["forget g1", "dropstore", "=STOPPED", "reply 1 done"]);
    assert_eq!(rig.m.summary().ended, None);
}

#[test]
fn who_is_signalled_is_kill_mode() {
    let run = |kill_mode, send_sigkill| {
        let mut unit = base();
        unit.service.kill_mode = kill_mode;
        unit.service.send_sigkill = send_sigkill;
        let mut rig = Rig::running(unit);
        rig.command(Command::Stop { close: false });
        rig
    };
    let signals = |rig: &Rig| -> Vec<String> {
        rig.all.iter().filter_map(short).filter(|line| line.starts_with("signal")).collect()
    };
    let mut rig = run(KillMode::Mixed, true);
    assert_eq!(signals(&rig), ["signal 15 mains g1", "signal 18 mains g1"]);
    assert_eq!(rig.exits(1, TERM), ["signal 9 everyone g1"]);
    let mut rig = run(KillMode::Process, true);
    assert_eq!(signals(&rig), ["signal 15 mains g1", "signal 18 mains g1"]);
    assert!(rig.exits(1, TERM).contains(&"=STOPPED".to_owned()));
    let mut rig = run(KillMode::ControlGroup, false);
    rig.after(90_000, &["forget g1", "dropstore", "=STOPPED", "reply 1 done"]);
}

#[test]
fn commands_for_a_unit_that_is_stopped() {
    let mut rig = Rig::running(base());
    rig.command(Command::Stop { close: true });
    rig.exits(1, TERM);
    assert_eq!(rig.empty(1), ["forget g1", "dropstore", "keep []", "=STOPPED", "reply 1 done"]);
    assert_eq!(rig.command(Command::Stop { close: false }), ["reply 2 done"]);
    assert_eq!(rig.command(Command::Kill { signal: 10, generation: None }), ["reply 3 failed"]);
    assert_eq!(rig.command(Command::Start), ["load"]);
    rig.row(Answer::Loaded(Ok(content(2, base()))), &["open 2"]);
    let opened = Answer::Opened { content: ContentId(2), result: Ok(()) };
    rig.row(opened, &["spawn 2 main0 g2 slot0", "=STARTING"]);
    rig.spawned(2);
    assert_eq!(rig.ready(2, 0), ["promoted g2", "=RUNNING", "reply 4 done"]);
    assert_eq!(rig.command(Command::Start), ["reply 5 done"]);
}

#[test]
fn restart_reads_the_file_before_it_stops_anything() {
    let mut rig = Rig::running(base());
    assert_eq!(rig.command(Command::Restart), ["load"]);
    rig.row(Answer::Loaded(Err("line 3".into())), &["reply 1 failed"]);
    assert_eq!(rig.state(), UnitState::Running);
    rig.command(Command::Restart);
    rig.event(Answer::Loaded(Ok(content(2, base()))));
    let opened = Answer::Opened { content: ContentId(2), result: Ok(()) };
    rig.row(opened, &["signal 15 everyone g1", "signal 18 everyone g1", "=STOPPING"]);
    rig.exits(1, TERM);
    assert_eq!(rig.empty(1)[..2], ["forget g1", "spawn 2 main0 g2 slot0"]);
    rig.spawned(2);
    assert!(rig.ready(2, 0).contains(&"reply 2 done".to_owned()));
}

#[test]
fn a_failing_activation_does_not_spin() {
    let mut unit = base();
    unit.service.start_on = StartOn::Connection;
    unit.service.restart_sec = Span::from_secs(2);
    let mut rig = Rig::new(unit);
    rig.row(Event::Boot, &["watch", "=LISTENING"]);
    assert!(rig.m.summary().settled);
    rig.row(Event::Traffic, &["spawn 1 main0 g1 slot0", "=STARTING"]);
    rig.spawned(1);
    rig.exits(1, CODE3);
    assert_eq!(rig.empty(1), ["forget g1", "=BACKOFF"]);
    rig.after(2_000, &["watch", "=LISTENING"]);
    rig.event(Event::Traffic);
    rig.spawned(2);
    rig.ready(2, 0);
    rig.exits(2, Exit::Code(0));
    assert_eq!(rig.empty(2), ["forget g2", "watch", "=LISTENING"]);
}

#[test]
fn a_trigger_limit_pauses() {
    let mut unit = base();
    unit.service.start_on = StartOn::Connection;
    unit.sockets[0].trigger_limit_burst = 2;
    let mut rig = Rig::new(unit);
    rig.event(Event::Boot);
    for n in 1..=2 {
        rig.event(Event::Traffic);
        rig.spawned(n);
        rig.ready(n, 0);
        rig.exits(n, Exit::Code(0));
        let again = rig.empty(n).contains(&"watch".to_owned());
        assert_eq!(again, n == 1);
    }
    rig.after(2_000, &["watch"]);
}

#[test]
fn an_idle_service_is_stopped_after_four_quiet_quarters() {
    let mut unit = base();
    unit.service.start_on = StartOn::Connection;
    unit.service.stop_when_idle = Span::from_secs(20);
    let mut rig = Rig::new(unit);
    rig.event(Event::Boot);
    rig.event(Event::Traffic);
    rig.spawned(1);
    rig.ready(1, 0);
    let quiet = Answer::Connections { established: 0, arrived: false };
    rig.after(5_000, &["count"]);
    rig.row(Answer::Connections { established: 0, arrived: true }, &[]);
    rig.after(5_000, &["count"]);
    rig.row(Answer::Connections { established: 1, arrived: false }, &[]);
    for _ in 0..3 {
        rig.after(5_000, &["count"]);
        rig.row(quiet.clone(), &[]);
    }
    rig.after(5_000, &["count"]);
    rig.row(quiet, &["signal 15 everyone g1", "signal 18 everyone g1", "=STOPPING"]);
    rig.exits(1, TERM);
    assert_eq!(rig.empty(1), ["forget g1", "watch", "=LISTENING"]);
}

#[test]
fn accept_units_count_their_instances() {
    let mut unit = base();
    unit.service.start_on = StartOn::Connection;
    unit.service.service_type = ServiceType::Exec;
    unit.sockets[0].accept = true;
    unit.sockets[0].max_connections = 2;
    unit.sockets[0].max_connections_per_source = 1;
    let mut rig = Rig::new(unit.clone());
    rig.row(Event::Boot, &["watch", "=LISTENING"]);
    let from = |conn, source: &str| Event::Accepted { conn: Conn(conn), socket: 0, source: source.into() };
    rig.row(from(1, "10.0.0.1"), &["spawn 1 instance1 g1 slot0", "watch"]);
    rig.spawned(1);
    rig.row(from(2, "10.0.0.1"), &["close 2", "watch"]);
    rig.row(from(3, "10.0.0.2"), &["spawn 2 instance3 g2 slot0", "watch"]);
    rig.row(from(4, "10.0.0.3"), &["close 4", "watch"]);
    let failure = SpawnFailure { text: "no".into(), code: 127, exhausted: false, gone: false, busy: false };
    rig.row(Event::SpawnFailed { proc: Proc(2), failure }, &["forget g2", "close 3"]);
    // A reload: new connections get the new content, running instances stay.
    rig.reload_to(2, unit);
    assert_eq!(rig.state(), UnitState::Listening);
    rig.exits(1, CODE3);
    assert_eq!(rig.empty(1), ["forget g1"]);
    rig.row(from(5, "10.0.0.1"), &["spawn 3 instance5 g3 slot0", "watch"]);
}

#[test]
fn the_watchdog() {
    let mut unit = base();
    unit.service.watchdog = Span::from_secs(3);
    unit.service.timeout_stop = Span::from_secs(7);
    let mut rig = Rig::running(unit);
    rig.now = rig.now + Span::from_secs(2);
    rig.says(1, 0, Notification { watchdog: true, ..Notification::default() });
    rig.after(3_000, &["signal 6 proc1", "signal 18 proc1"]);
    rig.after(7_000, &["signal 9 proc1"]);
    rig.exits(1, Exit::Signal { signal: 9, core: false });
    rig.empty(1);
    let trigger = Notification { watchdog_trigger: true, ..Notification::default() };
    let mut rig = Rig::running(base());
    assert_eq!(rig.says(1, 0, trigger), ["signal 6 proc1", "signal 18 proc1"]);
    let faster = Notification { watchdog_usec: Some(500_000), ..Notification::default() };
    let mut rig = Rig::running(base());
    rig.says(1, 0, faster);
    rig.after(500, &["signal 6 proc1", "signal 18 proc1"]);
}

#[test]
fn who_may_speak() {
    use NotifyAccess::{All, Exec, Main};
    let senders = [Sender::Main(0), Sender::Started(Proc(9)), Sender::Member(7), Sender::Stranger];
    for (access, heard) in [
        (NotifyAccess::None, [false, false, false, false]),
        (Main, [true, false, false, false]),
        (Exec, [true, true, false, false]),
        (All, [true, true, true, false]),
    ] {
        for (from, heard) in senders.into_iter().zip(heard) {
            let mut unit = base();
            unit.service.notify_access = access;
            let mut rig = Rig::new(unit);
            rig.event(Event::Boot);
            rig.spawned(1);
            let message = Notification { ready: true, ..Notification::default() };
            rig.event(Event::Notified { generation: Gen(1), from, message });
            assert_eq!(rig.state() == UnitState::Running, heard, "{access:?} {from:?}");
        }
    }
}

#[test]
fn main_pid_and_status_text() {
    let mut rig = Rig::running(base());
    let message =
        Notification { main_pid: Some(4242), status: Some("hello".into()), ..Notification::default() };
    assert_eq!(rig.says(1, 0, message), ["adopt 1 4242"]);
    let status = rig.m.status(rig.now);
    assert_eq!(status.main_pids, [4242]);
    assert_eq!(status.generations[0].status_text.as_deref(), Some("hello"));
    assert_eq!(status.generations[0].phase, "serving");
}

#[test]
fn shutdown_and_no_more_waiting() {
    let mut rig = Rig::running(base());
    rig.command(Command::RefuseReloads);
    assert_eq!(rig.reload(), ["reply 2 refused"]);
    assert_eq!(rig.command(Command::Shutdown)[0], "signal 15 everyone g1");
    assert_eq!(rig.command(Command::Start), ["reply 4 failed"]);
    assert_eq!(rig.command(Command::KillAll), ["signal 9 everyone g1"]);
    rig.exits(1, Exit::Signal { signal: 9, core: false });
    let lines = rig.empty(1);
    assert_eq!(lines, ["forget g1", "=STOPPED", "reply 3 done", "reply 5 done"]);
}

#[test]
fn a_service_that_says_stopping_goes_by_itself() {
    let mut rig = Rig::running(base());
    let stopping = Notification { stopping: true, ..Notification::default() };
    assert_eq!(rig.says(1, 0, stopping), ["=STOPPING"]);
    rig.exits(1, Exit::Code(0));
    assert_eq!(rig.empty(1), ["forget g1", "=STOPPED"]);
}

#[test]
fn a_worker_that_was_started_again_has_a_watchdog_again() {
    let mut unit = base();
    unit.service.workers = 2;
    unit.service.restart = Restart::Always;
    unit.service.watchdog = Span::from_secs(3);
    let mut rig = Rig::new(unit);
    rig.event(Event::Boot);
    rig.spawned(1);
    rig.spawned(2);
    rig.ready(1, 0);
    rig.ready(1, 1);
    rig.says(1, 0, Notification { watchdog_usec: Some(60_000_000), ..Notification::default() });
    rig.exits(2, CODE3);
    rig.after(100, &["spawn 3 main1 g1 slot0"]);
    rig.spawned(3);
    rig.ready(1, 1);
    rig.after(3_000, &["signal 6 proc3", "signal 18 proc3"]);
}

#[test]
fn a_worker_that_comes_after_the_stop_signal_is_not_left_alive() {
    let mut unit = base();
    unit.service.workers = 2;
    let mut rig = Rig::new(unit);
    rig.event(Event::Boot);
    let failure = SpawnFailure { text: "no".into(), code: 127, exhausted: false, gone: false, busy: false };
    rig.event(Event::SpawnFailed { proc: Proc(1), failure });
    assert_eq!(rig.spawned(2), ["signal 9 proc2"]);
}

#[test]
fn what_a_pre_command_left_is_waited_for_when_the_service_cannot_be_started() {
    let mut unit = base();
    unit.service.exec_start_pre = vec![command("/pre")];
    let mut rig = Rig::new(unit);
    rig.event(Event::Boot);
    rig.spawned(1);
    rig.exits(1, Exit::Code(0));
    let failure = SpawnFailure { text: "no".into(), code: 127, exhausted: false, gone: false, busy: false };
    let lines = rig.event(Event::SpawnFailed { proc: Proc(2), failure });
    assert_eq!(lines, ["signal 15 everyone g1", "signal 18 everyone g1", "=STOPPING"]);
    assert_eq!(rig.empty(1), ["forget g1", "=FAILED"]);
    assert_eq!(rig.m.summary().ended, Some(127));
}

#[test]
fn a_program_that_somebody_writes_is_tried_again_for_a_while_and_that_is_no_start() {
    for restart in [Restart::No, Restart::Always] {
        let mut unit = base();
        unit.service.restart = restart;
        unit.service.restart_sec = Span::from_secs(1);
        unit.service.start_limit_burst = 1;
        let mut rig = Rig::new(unit);
        rig.event(Event::Boot);
        let failure =
            |busy| SpawnFailure { text: "no".into(), code: 126, exhausted: false, gone: false, busy };
        let began = rig.now;
        let mut tries = 1;
        while rig.now.since(began) < Span::from_secs(5) {
            rig.event(Event::SpawnFailed { proc: Proc(tries), failure: failure(true) });
            rig.empty(tries);
            if rig.now.since(began) >= Span::from_secs(5) {
                break;
            }
            assert_eq!(rig.state(), UnitState::Backoff, "{tries}");
            rig.now = rig.m.next_deadline().unwrap();
            rig.event(Event::Tick);
            assert_eq!(rig.state(), UnitState::Starting, "{tries}");
            tries += 1;
        }
        assert_eq!(tries, 26);
        rig.event(Event::SpawnFailed { proc: Proc(tries), failure: failure(true) });
        rig.empty(tries);
        let then = if restart == Restart::No { UnitState::Failed } else { UnitState::Backoff };
        assert_eq!(rig.state(), then);
    }
}
