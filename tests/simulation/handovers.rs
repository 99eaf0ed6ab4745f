//! Rules of contract section 7 about who is told what, row by row.

use crate::rig::*;
use crate::units::*;
use aeterna::machine::event::Command;
use aeterna::machine::event::*;
use aeterna::time::Span;
use aeterna::unit::*;

fn unit() -> Unit {
    let mut unit = base();
    unit.state = State { enabled: true, ..State::default() };
    unit
}

/// A reload whose relay runs.
fn relaying(unit: &Unit) -> Rig {
    let mut rig = Rig::running(unit.clone());
    rig.reload_to(2, unit.clone());
    rig.spawned(2);
    rig.row(Event::SinkConnected(Gen(2)), &["relay g1 g2", "=HANDSHAKING"]);
    rig
}

fn ended(from: u32, to: u32, fault: Option<Fault>) -> Event {
    let result = fault.map_or(Ok(()), |fault| Err(Failure { fault, why: "why".into() }));
    let (from, to) = (Gen(from), Gen(to));
    Event::RelayEnded(Relayed { from, to, result, bytes: 1, frames: 1, descriptors: 0, took: Span::ZERO })
}

#[test]
fn commit_precedes_the_stop_signal() {
    let mut rig = relaying(&unit());
    rig.row(ended(1, 2, None), &["=STARTING"]);
    assert_eq!(rig.ready(2, 0), ["=SOAKING"]);
    let lines = rig.command(Command::Promote);
    let place = |what: &str| lines.iter().position(|line| line == what);
    assert!(place("commit g1").unwrap() < place("signal 15 everyone g1").unwrap(), "{lines:?}");
}

#[test]
fn a_source_that_fails_means_a_cold_start_or_with_required_a_rollback() {
    let mut rig = relaying(&unit());
    rig.row(ended(1, 2, Some(Fault::Source)), &["=STARTING"]);
    assert_eq!(rig.ready(2, 0), ["=SOAKING"]);
    assert!(!rig.command(Command::Promote).contains(&"commit g1".to_string()), "its state is its own");
    let mut required = unit();
    required.state.required = true;
    let mut rig = relaying(&required);
    rig.event(ended(1, 2, Some(Fault::Source)));
    assert_eq!(rig.state(), UnitState::RollingBack);
}

#[test]
fn a_sink_that_refuses_starts_cold_and_one_that_hangs_is_given_up() {
    let mut rig = relaying(&unit());
    rig.row(ended(1, 2, Some(Fault::Sink)), &["=STARTING"]);
    let mut rig = relaying(&unit());
    rig.event(ended(1, 2, Some(Fault::SinkSilent)));
    assert_eq!(rig.state(), UnitState::RollingBack);
    rig.exits(2, TERM);
    rig.empty(2);
    assert_eq!(rig.state(), UnitState::Running);
}

#[test]
fn a_sink_that_connects_anew_is_given_the_state_again_within_the_same_time() {
    let mut rig = relaying(&unit());
    rig.row(Event::SinkConnected(Gen(2)), &[]);
    rig.row(ended(1, 2, Some(Fault::Cancelled)), &["relay g1 g2"]);
    assert_eq!(rig.state(), UnitState::Handshaking);
    rig.row(Event::SinkConnected(Gen(2)), &[]);
    rig.now = rig.now + Span::from_secs(5);
    rig.row(ended(1, 2, Some(Fault::Cancelled)), &["cold g2", "=STARTING"]);
    // The older connection may be seen to end before the relay is told of the newer one.
    let mut rig = relaying(&unit());
    rig.row(Event::SinkConnected(Gen(2)), &[]);
    rig.row(ended(1, 2, Some(Fault::Sink)), &["relay g1 g2"]);
    // One whose source fails meanwhile is told that there is nothing.
    let mut rig = relaying(&unit());
    rig.row(Event::SinkConnected(Gen(2)), &[]);
    rig.row(ended(1, 2, Some(Fault::Source)), &["cold g2", "=STARTING"]);
    // Nobody is left to give it to.
    let mut rig = relaying(&unit());
    rig.row(ended(1, 2, Some(Fault::Cancelled)), &["=STARTING"]);
}

#[test]
fn the_shell_has_a_second_to_say_whose_fault_a_late_transfer_is() {
    let mut rig = relaying(&unit());
    rig.after(6000, &["cancel relay"]);
}

#[test]
fn a_rollback_gives_the_state_back_before_the_new_one_goes() {
    let mut rig = relaying(&unit());
    rig.event(ended(1, 2, None));
    rig.ready(2, 0);
    let lines = rig.command(Command::Rollback { to: None });
    assert!(lines.contains(&"back g2 g1".to_string()), "{lines:?}");
    assert!(!lines.iter().any(|line| line.starts_with("signal 15")), "{lines:?}");
    let lines = rig.event(ended(2, 1, None));
    assert!(lines.contains(&"signal 15 everyone g2".to_string()), "{lines:?}");
}

#[test]
fn a_new_one_that_dies_with_the_state_leaves_the_old_one_with_its_own() {
    let mut rig = relaying(&unit());
    rig.event(ended(1, 2, None));
    rig.ready(2, 0);
    let lines = rig.exits(2, SEGV);
    assert!(lines.contains(&"resume g1".to_string()), "{lines:?}");
}

#[test]
fn without_a_predecessor_the_answer_comes_at_once() {
    let mut rig = Rig::new(unit());
    rig.event(Event::Boot);
    rig.spawned(1);
    rig.row(Event::SinkConnected(Gen(1)), &["cold g1"]);
    // The old one dies before the sink connects: its memory is gone with it.
    let mut rig = Rig::running(unit());
    rig.reload_to(2, unit());
    rig.spawned(2);
    rig.exits(1, SEGV);
    rig.empty(1);
    rig.row(Event::SinkConnected(Gen(2)), &["cold g2"]);
}

#[test]
fn steered_on_purpose_the_old_queue_is_emptied_first() {
    let mut steered = unit();
    steered.sockets[0] = socket();
    steered.sockets[0].sharing = Sharing::Steered;
    let mut rig = Rig::running(steered.clone());
    rig.reload_to(2, steered);
    rig.spawned(2);
    let lines = rig.event(Event::SinkConnected(Gen(2)));
    assert!(lines.contains(&"steer 0 +1:100".to_string()), "{lines:?}");
    assert!(!lines.iter().any(|line| line.starts_with("relay")), "{lines:?}");
    rig.after(10, &["drained? g1 slot0"]);
    rig.row(
        Answer::DrainState { generation: Gen(1), half_open: 0, queued: 1, flows: Flowing::default() },
        &[],
    );
    rig.after(1, &["drained? g1 slot0"]);
    rig.row(
        Answer::DrainState { generation: Gen(1), half_open: 0, queued: 0, flows: Flowing::default() },
        &["relay g1 g2"],
    );
}

#[test]
fn what_one_got_with_its_predecessors_state_is_looked_after_also_when_it_was_never_ready() {
    let mut steered = unit();
    steered.sockets[0] = socket();
    steered.sockets[0].sharing = Sharing::Steered;
    let begin = |unit: &Unit| {
        let mut rig = Rig::running(unit.clone());
        rig.reload_to(2, unit.clone());
        rig.spawned(2);
        rig.event(Event::SinkConnected(Gen(2)));
        rig.drained(1);
        rig
    };
    let mut rig = begin(&steered);
    let lines = rig.exits(2, SEGV);
    assert!(lines.contains(&"slot? 1".to_string()), "{lines:?}");
    // One that lives is not stopped before it has taken what waits for it.
    steered.state.required = true;
    let mut rig = begin(&steered);
    let lines = rig.event(ended(1, 2, Some(Fault::Source)));
    assert!(lines.contains(&"drain g2 slot1".to_string()), "{lines:?}");
    assert!(!lines.iter().any(|line| line.starts_with("signal")), "{lines:?}");
}
