use super::*;
use crate::proto::status::{GenerationStatus, PhaseTime, SocketStatus, UnitStatus, Usage};
use std::io::Write;
use std::process::{Command, Stdio};

fn generation(number: u32, phase: &str, age: f64, connections: Option<u32>) -> GenerationStatus {
    GenerationStatus {
        number,
        phase: phase.into(),
        pids: vec![1],
        weight: None,
        share: None,
        age,
        ready: true,
        status_text: None,
        connections,
        flows: None,
        kill_in: None,
        content: String::new(),
        usage: Usage { memory: Some(u64::from(number) << 20), tasks: Some(2), ..Usage::default() },
        program_is_newer: None,
    }
}

/// For each unit of [`status`].
fn totals() -> [Total; 2] {
    [
        Total { cpu_seconds: Some(1.5), oom_kills: 2, releases: 3 },
        Total { cpu_seconds: None, oom_kills: 0, releases: 0 },
    ]
}

fn socket(name: &str, queue: Option<u32>) -> SocketStatus {
    SocketStatus {
        name: name.into(),
        address: String::new(),
        kind: "stream".into(),
        sharing: "steered".into(),
        why: String::new(),
        queue,
        limit: queue.map(|_| 4096),
        repairs: 2,
        flows: None,
        flows_max: None,
        unserved: false,
    }
}

fn unit(name: &str, state: UnitState) -> UnitStatus {
    UnitStatus {
        name: name.into(),
        description: String::new(),
        file: String::new(),
        state,
        reloading: false,
        why: String::new(),
        since: 1.0,
        generation: 3,
        main_pids: vec![],
        generations: vec![
            generation(1, "draining", 90.0, Some(4)),
            generation(2, "draining", 60.0, None),
            generation(3, "serving", 1.0, None),
        ],
        sockets: vec![socket("http", Some(5)), socket("http", Some(0)), socket("fifo", None)],
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

fn status() -> Status {
    Status {
        host: String::new(),
        version: "1.2.3".into(),
        pid: 1,
        stopping: false,
        units: vec![unit("chat", UnitState::Draining), unit("a\"b\\c\nd", UnitState::Pending)],
        single: None,
    }
}

fn record(outcome: Outcome) -> ReloadRecord {
    let phase = |phase: &str, seconds| PhaseTime { phase: phase.into(), seconds };
    ReloadRecord {
        outcome,
        reason: String::new(),
        asked: String::new(),
        old_generation: Some(1),
        new_generation: Some(2),
        strategy: "canary".into(),
        started_at: 0.0,
        duration: 1.0,
        phases: vec![phase("pre_checking", 0.2), phase("soaking", 30.0), phase("surprising", 1.0)],
        checks: vec![],
        usage: None,
        shares: vec![],
        state_bytes: 0,
        state_frames: 0,
        state_descriptors: 0,
        state_seconds: 0.0,
        last_lines: vec![],
    }
}

fn process() -> ProcessFacts {
    let stat =
        "7 (a (b) c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 5 0 1000 5242880 300 18446744073709551615";
    let status = "Name:\taeternad\nVmSize:\t    5120 kB\nVmRSS:\t    2048 kB\nThreads:\t5\n";
    let limits = "Limit Soft Limit Hard Limit Units\nMax open files            1024                 4096       files\n\
                  Max address space         unlimited            unlimited            bytes\n";
    let facts = ProcessFacts::parse(stat, status, limits, "cpu 1 2\nbtime 1700000000\n");
    ProcessFacts { open_fds: Some(11), ..facts }
}

fn rendered(metrics: &Metrics) -> String {
    metrics.render(&MetricsInput {
        status: &status(),
        totals: &totals(),
        ready: true,
        orphans: 9,
        process: process(),
    })
}

fn fed() -> Metrics {
    let mut metrics = Metrics::default();
    metrics.on_reload("chat", &record(Outcome::Promoted));
    metrics.on_reload("chat", &record(Outcome::Promoted));
    metrics.on_reload("chat", &ReloadRecord { phases: vec![], ..record(Outcome::Refused) });
    metrics.on_state("chat", UnitState::Draining, 0.02);
    metrics.on_state("chat", UnitState::Running, 100.0);
    metrics.on_restart("chat", "exit-code");
    metrics.on_restart("chat", "never heard of");
    metrics.on_health("chat", "never_reached");
    metrics.on_handover(0.003, 1000);
    metrics.on_handover(99.0, 24);
    metrics.on_stranded("chat", 3);
    metrics.on_notify_error();
    metrics.on_control_error();
    metrics
}

#[track_caller]
fn has(text: &str, line: &str) {
    assert!(text.lines().any(|other| other == line), "{line} is missing in\n{text}");
}

#[test]
fn every_fact_is_counted_where_the_contract_says() {
    let text = rendered(&fed());
    for line in [
        "aeterna_build_info{version=\"1.2.3\"} 1",
        "aeterna_process_state{unit=\"chat\"} 2",
        "aeterna_process_state{unit=\"a\\\"b\\\\c\\nd\"} 12",
        "aeterna_generation{unit=\"chat\"} 3",
        "aeterna_reloads_total{unit=\"chat\",outcome=\"promoted\"} 2",
        "aeterna_reloads_total{unit=\"chat\",outcome=\"refused\"} 1",
        "aeterna_reloads_total{unit=\"chat\",outcome=\"rolled_back\"} 0",
        "aeterna_last_reload_successful{unit=\"chat\"} 1",
        "aeterna_restarts_total{unit=\"chat\",reason=\"exit-code\"} 1",
        "aeterna_restarts_total{unit=\"chat\",reason=\"other\"} 1",
        "aeterna_restarts_total{unit=\"chat\",reason=\"watchdog\"} 0",
        "aeterna_health_checks_total{unit=\"chat\",result=\"never_reached\"} 1",
        "aeterna_health_checks_total{unit=\"chat\",result=\"pass\"} 0",
        "aeterna_connections_stranded_total{unit=\"chat\"} 3",
        "aeterna_reload_phase_duration_seconds_count{unit=\"chat\",phase=\"soaking\"} 2",
        "aeterna_reload_phase_duration_seconds_bucket{unit=\"chat\",phase=\"soaking\",le=\"10\"} 0",
        "aeterna_reload_phase_duration_seconds_bucket{unit=\"chat\",phase=\"soaking\",le=\"30\"} 2",
        "aeterna_reload_phase_duration_seconds_sum{unit=\"chat\",phase=\"soaking\"} 60",
        "aeterna_reload_phase_duration_seconds_count{unit=\"chat\",phase=\"draining\"} 1",
        "aeterna_handover_duration_seconds_bucket{le=\"0.005\"} 1",
        "aeterna_handover_duration_seconds_bucket{le=\"+Inf\"} 2",
        "aeterna_handover_duration_seconds_count 2",
        "aeterna_handover_bytes_total 1024",
        "aeterna_socket_accept_queue{unit=\"chat\",socket=\"http\"} 5",
        "aeterna_socket_accept_queue{unit=\"chat\",socket=\"http_2\"} 0",
        "aeterna_socket_accept_queue_limit{unit=\"chat\",socket=\"http_2\"} 4096",
        "aeterna_socket_repairs_total{unit=\"chat\",socket=\"fifo\"} 2",
        "aeterna_draining_generations{unit=\"chat\"} 2",
        "aeterna_draining_connections{unit=\"chat\"} 4",
        "aeterna_draining_oldest_age_seconds{unit=\"chat\"} 90",
        "aeterna_cpu_seconds_total{unit=\"chat\"} 1.5",
        "aeterna_oom_kills_total{unit=\"chat\"} 2",
        "aeterna_releases_kept{unit=\"chat\"} 3",
        "aeterna_memory_bytes{unit=\"chat\",generation=\"serving\"} 3145728",
        "aeterna_memory_bytes{unit=\"chat\",generation=\"draining\"} 3145728",
        "aeterna_tasks{unit=\"chat\",generation=\"draining\"} 4",
        "aeterna_notify_errors_total 1",
        "aeterna_control_errors_total 1",
        "aeterna_orphans_reaped_total 9",
        "aeterna_ready 1",
        "process_cpu_seconds_total 2",
        "process_open_fds 11",
        "process_max_fds 1024",
        "process_virtual_memory_bytes 5242880",
        "process_virtual_memory_max_bytes 18446744073709552000",
        "process_resident_memory_bytes 2097152",
        "process_start_time_seconds 1700000010",
        "process_threads 5",
    ] {
        has(&text, line);
    }
    assert!(!text.contains("surprising"), "{text}");
    assert!(!text.contains("socket=\"fifo\"} 0"), "a FIFO has no queue: {text}");
}

#[test]
fn no_series_is_there_twice_and_every_family_has_help_and_type() {
    let text = rendered(&fed());
    let mut series: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(s, _)| s)
        .collect();
    let count = series.len();
    series.sort_unstable();
    series.dedup();
    assert_eq!(series.len(), count);
    assert_eq!(text.matches("# HELP").count(), text.matches("# TYPE").count());
    let mut types: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
    let count = types.len();
    types.sort_unstable();
    types.dedup();
    assert_eq!(types.len(), count, "{text}");
}

#[test]
fn every_state_has_its_own_number() {
    let mut numbers: Vec<u8> = UnitState::ALL.into_iter().map(state_number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..13).collect::<Vec<u8>>());
}

#[test]
fn what_a_process_does_not_tell_is_left_out() {
    assert_eq!(ProcessFacts::parse("", "", "", ""), ProcessFacts::default());
    let facts = ProcessFacts::parse("1 (x) S 1", "VmRSS: x kB", "Max open files x", "btime");
    assert_eq!(facts, ProcessFacts::default());
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    for metrics in [fed(), Metrics::default()] {
        let mut command = Command::new("promtool");
        command
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let Ok(mut child) = command.spawn() else {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "promtool is not installed");
            eprintln!("skipped: promtool (Debian: prometheus) is not installed");
            return;
        };
        child.stdin.take().unwrap().write_all(rendered(&metrics).as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    }
}
