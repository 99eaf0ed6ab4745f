//! `Strategy = "signal"` with `Type = "notify-reload"`: which READY=1 ends a reload.

use crate::rig::*;
use crate::units::*;
use aeterna::machine::event::*;
use aeterna::time::Span;
use aeterna::unit::*;

fn unit() -> Unit {
    let mut unit = base();
    unit.reload.strategy = Strategy::Signal;
    unit.service.service_type = ServiceType::NotifyReload;
    unit
}

/// RELOADING=1, `early` before now by its own clock (or without a time).
fn reloading(rig: &Rig, early: Option<Span>) -> Notification {
    let time = early.map(|early| (rig.now.0 - early.0) / 1_000);
    Notification { reloading: true, monotonic_usec: time, ..Notification::default() }
}

#[test]
fn the_end_of_a_reload_that_the_service_began_itself_is_not_that_of_ours() {
    let mut rig = Rig::running(unit());
    let own = reloading(&rig, Some(Span::ZERO));
    rig.says(1, 0, own);
    rig.now = rig.now + Span::from_secs(1);
    rig.reload_to(2, unit());
    assert_eq!(rig.ready(1, 0), [""; 0], "it still has to take our signal");
    let ours = reloading(&rig, Some(Span::ZERO));
    rig.says(1, 0, ours);
    assert_eq!(rig.ready(1, 0), ["=RUNNING", "reply 1 promoted"]);
    // Its message may be read late: what it says of the time counts.
    rig.now = rig.now + Span::from_secs(1);
    rig.reload_to(3, unit());
    let late = reloading(&rig, Some(Span::from_millis(1)));
    rig.says(1, 0, late);
    assert_eq!(rig.ready(1, 0), [""; 0]);
    // Without a time, when it was read counts; without RELOADING=1, every READY=1 does.
    let untimed = reloading(&rig, None);
    rig.says(1, 0, untimed);
    assert_eq!(rig.ready(1, 0), ["keep [1, 3]", "=RUNNING", "reply 2 promoted"]);
    rig.reload_to(4, unit());
    assert_eq!(rig.ready(1, 0), ["keep [1, 4]", "=RUNNING", "reply 3 promoted"]);
}

#[test]
fn every_worker_is_waited_for_and_one_that_dies_of_it_is_a_failure() {
    let mut two = unit();
    two.service.workers = 2;
    two.service.restart = Restart::Always;
    let start = || {
        let mut rig = Rig::new(two.clone());
        rig.event(Event::Boot);
        for worker in 0..2 {
            rig.spawned(worker + 1);
            rig.ready(1, worker);
        }
        rig
    };
    let mut rig = start();
    rig.reload_to(2, two.clone());
    assert_eq!(rig.ready(1, 1), [""; 0]);
    assert_eq!(rig.ready(1, 0), ["=RUNNING", "reply 1 promoted"]);
    let mut rig = start();
    rig.reload_to(2, two.clone());
    rig.ready(1, 0);
    assert_eq!(rig.exits(2, CODE3).last().unwrap(), "reply 1 failed");
    rig.outcome(Outcome::Failed, "worker 1 of generation 1 exited with status 3 before it said READY=1");
    // One that had said it may die, and one that comes back has read everything anew.
    let mut rig = start();
    rig.exits(2, CODE3);
    rig.reload_to(2, two.clone());
    rig.after(100, &["spawn 3 main1 g1 slot0"]);
    rig.spawned(3);
    assert_eq!(rig.ready(1, 0), ["=RUNNING", "reply 1 promoted"]);
    let mut rig = start();
    rig.reload_to(2, two.clone());
    rig.ready(1, 1);
    rig.exits(2, CODE3);
    assert_eq!(rig.ready(1, 0), ["=RUNNING", "reply 1 promoted"]);
}

#[test]
fn what_runs_keeps_its_type_until_it_is_launched_anew() {
    let mut rig = Rig::running(unit());
    let mut plain = unit();
    plain.service.service_type = ServiceType::Notify;
    assert_eq!(rig.reload_to(2, plain), ["signal 1 mains g1", "=STARTING"]);
    assert_eq!(rig.ready(1, 0), ["=RUNNING", "reply 1 promoted"]);
}
