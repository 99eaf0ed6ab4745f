//! What the tests of this folder show.

use crate::proto::status::*;

pub(super) fn generation(number: u32, phase: &str, pids: Vec<i32>) -> GenerationStatus {
    GenerationStatus {
        number,
        phase: phase.into(),
        pids,
        weight: None,
        share: None,
        age: 7.0,
        ready: true,
        status_text: None,
        connections: None,
        flows: None,
        kill_in: None,
        content: "00c0ffee00c0ffee".into(),
        usage: Usage::default(),
        program_is_newer: None,
    }
}

pub(super) fn socket(name: &str, address: &str) -> SocketStatus {
    SocketStatus {
        name: name.into(),
        address: address.into(),
        kind: "stream".into(),
        sharing: "steered".into(),
        why: "TCP".into(),
        queue: Some(0),
        limit: Some(4096),
        repairs: 0,
        flows: None,
        flows_max: None,
        unserved: false,
    }
}

/// A unit that runs.
pub(super) fn unit(name: &str) -> UnitStatus {
    UnitStatus {
        name: name.into(),
        description: String::new(),
        file: format!("/etc/aeterna/{name}.toml"),
        state: UnitState::Running,
        reloading: false,
        why: String::new(),
        since: 90.0,
        generation: 1,
        main_pids: vec![100],
        generations: vec![generation(1, "serving", vec![100])],
        sockets: vec![socket(name, "0.0.0.0:80")],
        last_reload: None,
        last_handover: None,
        soak_ends_in: None,
        restarts: 0,
        restart_in: None,
        stored_descriptors: 0,
        pending: vec![],
        analysis: vec![],
        releases: vec![],
        last_lines: vec![],
        notes: vec![],
    }
}

/// A unit in the soak of its second reload, with everything that can be shown.
pub(super) fn soaking() -> UnitStatus {
    let mut old = generation(2, "serving", vec![4711, 4712]);
    old.weight = Some(90);
    old.age = 4.0 * 86_400.0;
    old.program_is_newer = Some(true);
    let mut new = generation(3, "soaking", vec![4800]);
    new.weight = Some(10);
    new.share = Some(9.76);
    new.age = 12.0;
    new.status_text = Some("serving 3 clients".into());
    let mut draining = generation(1, "draining", vec![4000]);
    draining.connections = Some(17);
    draining.kill_in = Some(9.5);
    draining.weight = Some(0);
    let mut second = socket("http", "[::1]:8080");
    second.repairs = 2;
    UnitStatus {
        description: "Chat gateway".into(),
        state: UnitState::Soaking,
        reloading: true,
        why: "the soak ends in 18s".into(),
        soak_ends_in: Some(18.0),
        since: 12.0,
        generation: 2,
        main_pids: vec![4711, 4712],
        generations: vec![draining, old, new],
        sockets: vec![socket("http", "0.0.0.0:8080"), second],
        last_reload: Some(last_reload()),
        restarts: 1,
        stored_descriptors: 3,
        pending: vec!["[Daemon] Http".into()],
        notes: vec!["no_new_privs is set".into()],
        ..unit("chat")
    }
}

pub(super) fn last_reload() -> LastReload {
    LastReload {
        outcome: Outcome::RolledBack,
        reason: "the new generation exited with status 1 in the soak".into(),
        ago: 7384.0,
        duration: 2.5,
        phases: phases(),
    }
}

pub(super) fn phases() -> Vec<PhaseTime> {
    [("pre_checking", 0.12), ("starting", 0.38), ("soaking", 2.0)]
        .map(|(phase, seconds)| PhaseTime { phase: phase.into(), seconds })
        .to_vec()
}

/// A unit that waits to be restarted.
pub(super) fn backing_off() -> UnitStatus {
    UnitStatus {
        state: UnitState::Backoff,
        why: "exited with status 1".into(),
        since: 3.0,
        main_pids: vec![],
        generations: vec![],
        sockets: vec![],
        restarts: 4,
        restart_in: Some(7.0),
        ..unit("worker")
    }
}

pub(super) fn status(units: Vec<UnitStatus>) -> Status {
    Status { host: "".into(), version: "0.1.0".into(), pid: 12, stopping: false, units, single: None }
}

pub(super) fn event(kind: &str, text: &str) -> EventLine {
    EventLine {
        time: 1_763_660_000.25,
        unit: "chat".into(),
        kind: kind.into(),
        text: text.into(),
        generation: None,
        state: None,
        lasted: None,
        pid: None,
        outcome: None,
    }
}
