//! An HTTP server of aeternad's with a daemon behind it that is made up.

#![allow(missing_docs, reason = "every item that is not plain says what it does")]
#![allow(unreachable_pub, reason = "a module of a test crate")]

use aeterna::daemon::http::answer::{Task, View, answer_to, task};
use aeterna::daemon::http::outside::Outside;
use aeterna::daemon::http::{HttpServer, Stream};
use aeterna::machine::event::{Busy, Command};
use aeterna::proto::http::guard::{Holder, Holders};
use aeterna::proto::status::*;
use aeterna::time::Monotime;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn now() -> Monotime {
    static START: OnceLock<Instant> = OnceLock::new();
    Monotime(START.get_or_init(Instant::now).elapsed().as_nanos() as u64)
}

fn root(_: &Stream) -> Result<Option<u32>, String> {
    Ok(Some(0))
}

fn one_of_root(_: &Stream) -> Result<Holders, String> {
    Ok(Holders { found: vec![Holder { pid: 400, started: 1, uids: [0; 4] }], hidden: Vec::new() })
}

pub struct World {
    pub address: String,
    state: Arc<Mutex<State>>,
    events: Option<mpsc::Sender<EventLine>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct State {
    status: Status,
    commands: Vec<(String, Command)>,
}

struct Shown<'a>(&'a Status);

impl View for Shown<'_> {
    fn status(&self) -> Status {
        self.0.clone()
    }
    fn unit(&self, name: &str) -> Option<UnitStatus> {
        self.0.units.iter().find(|unit| unit.name == name).cloned()
    }
    fn history(&self, name: &str) -> Option<Vec<ReloadRecord>> {
        self.unit(name).map(|unit| history(&unit))
    }
    fn logs(&self, name: &str, _: Option<u32>, _: usize) -> Option<(Vec<LogLine>, Option<String>)> {
        self.unit(name).map(|unit| (lines(&unit), Some("Its output goes to /dev/null".into())))
    }
    fn metrics(&self) -> String {
        String::new()
    }
    fn unready(&self) -> Option<String> {
        None
    }
    fn names(&self) -> Vec<String> {
        self.0.units.iter().map(|unit| unit.name.clone()).collect()
    }
    fn busy(&self, unit: &str) -> Option<Busy> {
        self.unit(unit).filter(|unit| unit.state.is_reload()).map(|unit| Busy::Reload(unit.why))
    }
    fn is_stopping(&self) -> bool {
        false
    }
}

impl World {
    pub fn new(status: Status, token: Option<&Path>) -> World {
        let (wake, woken) = mpsc::channel();
        let wake = Arc::new(move || wake.send(()).unwrap_or_default());
        let outside =
            Outside { wake, now, first_event: 0, peer_uid: root, holders: one_of_root, own_pid: 500 };
        let server = HttpServer::start("127.0.0.1:0", token, outside, 0).unwrap();
        let address = server.address().to_owned();
        let state = Arc::new(Mutex::new(State { status, commands: Vec::new() }));
        let (events, lines) = mpsc::channel();
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            loop {
                while let Ok(call) = server.calls().try_recv() {
                    let mut state = shared.lock().unwrap();
                    let answer = match task(&call.call, &Shown(&state.status)) {
                        Task::Answer(answer) => answer,
                        Task::Command { units, command, location } => {
                            state.commands.extend(units.into_iter().map(|unit| (unit, command.clone())));
                            answer_to(&[], &location)
                        }
                    };
                    let _ = call.reply.send(answer);
                }
                match lines.try_recv() {
                    Ok(line) => server.broadcast(&line),
                    Err(mpsc::TryRecvError::Disconnected) => return server.stop(),
                    Err(mpsc::TryRecvError::Empty) => {}
                }
                let _ = woken.recv_timeout(Duration::from_millis(5));
            }
        });
        World { address, state, events: Some(events), thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub fn event(&self, line: EventLine) {
        self.events.as_ref().unwrap().send(line).unwrap();
    }

    pub fn change(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.state.lock().unwrap().status);
    }

    pub fn commands(&self) -> Vec<(String, Command)> {
        self.state.lock().unwrap().commands.clone()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.events.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Seconds before a moment that is the same for all, or what lies between two events would not be what was said.
pub fn event(ago: f64, unit: &str, kind: &str, text: &str) -> EventLine {
    static MOMENT: OnceLock<f64> = OnceLock::new();
    let moment = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let time = MOMENT.get_or_init(moment) - ago;
    EventLine {
        time,
        unit: unit.into(),
        kind: kind.into(),
        text: text.into(),
        generation: None,
        state: None,
        lasted: None,
        pid: None,
        outcome: None,
    }
}

pub fn generation(number: u32, phase: &str, pid: i32, age: f64, weight: Option<u8>) -> GenerationStatus {
    GenerationStatus {
        number,
        phase: phase.into(),
        pids: vec![pid],
        weight,
        share: None,
        age,
        ready: phase != "starting",
        status_text: None,
        connections: None,
        flows: None,
        kill_in: None,
        content: "00c0ffee00c0ffee".into(),
        usage: aeterna::proto::status::Usage::default(),
        program_is_newer: None,
    }
}

pub fn socket(name: &str, address: &str, sharing: &str, queue: u32) -> SocketStatus {
    SocketStatus {
        name: name.into(),
        address: address.into(),
        kind: "stream".into(),
        sharing: sharing.into(),
        why: "a TCP address".into(),
        queue: Some(queue),
        limit: Some(4096),
        repairs: 0,
        flows: None,
        flows_max: None,
        unserved: false,
    }
}

pub fn unit(name: &str, state: UnitState, since: f64, generations: Vec<GenerationStatus>) -> UnitStatus {
    let serving = generations.iter().find(|one| one.phase == "serving");
    UnitStatus {
        name: name.into(),
        description: String::new(),
        file: format!("/etc/aeterna/{name}.toml"),
        state,
        reloading: false,
        why: String::new(),
        since,
        generation: serving.map_or(0, |one| one.number),
        main_pids: serving.map(|one| one.pids.clone()).unwrap_or_default(),
        generations,
        sockets: vec![],
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

/// A reload that soaks, one that drains, a unit at rest, one that only listens, and one that has failed.
pub fn status() -> Status {
    let mut backup = unit("backup", UnitState::Listening, 310.0, vec![]);
    backup.sockets = vec![socket("backup", "127.0.0.1:873", "shared", 0)];
    let mut worker = unit("worker", UnitState::Failed, 75.0, vec![]);
    worker.why = "the start limit was hit: 5 starts within 10s, the last one exited with status 1".into();
    worker.restarts = 5;
    let units = vec![chat(), web(), mail(), backup, worker];
    Status { host: "web1".into(), version: "0.1.0".into(), pid: 1, stopping: false, units, single: None }
}

fn chat() -> UnitStatus {
    let generations = vec![
        generation(7, "serving", 41_207, 93_784.0, Some(90)),
        generation(8, "soaking", 52_311, 15.4, Some(10)),
    ];
    let mut chat = unit("chat", UnitState::Soaking, 14.0, generations);
    chat.description = "Chat gateway".into();
    chat.soak_ends_in = Some(16.0);
    chat.generations[1].share = Some(10.2);
    chat.sockets = vec![
        socket("http", "0.0.0.0:8080", "steered", 3),
        socket("http", "[::1]:8080", "steered", 0),
        socket("admin", "/run/chat/admin.sock", "shared", 0),
    ];
    chat.generations[1].status_text = Some("1,204 sessions".into());
    let usage = |cpu_seconds, memory| Usage {
        cpu_seconds: Some(cpu_seconds),
        memory: Some(memory),
        tasks: Some(9),
        pressure: Pressure { cpu: Some(1.5), ..Pressure::default() },
        ..Usage::default()
    };
    chat.generations[0].usage = usage(5301.0, 410 << 20);
    chat.generations[1].usage = usage(1.2, 96 << 20);
    let side = |bad, of| CheckSide {
        bad: Some(bad),
        of: Some(of),
        share: Some(bad as f64 / of as f64),
        value: None,
    };
    chat.analysis = vec![CheckStatus {
        name: "errors".into(),
        kind: "share".into(),
        verdict: CheckVerdict::Open,
        text: "0.2 % of 1,204 requests of generation 8 are bad, 0.1 % of 10,871 of generation 7".into(),
        new: side(2, 1204),
        old: Some(side(11, 10_871)),
        limit: Some(0.01),
        noticed_from: Some(0.021),
        looks: 12,
    }];
    chat
}

fn web() -> UnitStatus {
    let generations = vec![
        generation(2, "draining", 39_001, 4210.0, Some(0)),
        generation(3, "serving", 52_001, 41.2, Some(100)),
    ];
    let mut web = unit("web", UnitState::Draining, 9.0, generations);
    web.description = "Public site".into();
    web.sockets = vec![socket("web", "0.0.0.0:443", "steered", 3580)];
    web.generations[0].connections = Some(17);
    web.generations[0].kill_in = Some(21.0);
    let phase = |phase: &str, seconds| PhaseTime { phase: phase.into(), seconds };
    web.last_reload = Some(LastReload {
        outcome: Outcome::Promoted,
        reason: String::new(),
        ago: 9.0,
        duration: 32.9,
        phases: vec![phase("pre_checking", 0.7), phase("starting", 2.2), phase("soaking", 30.0)],
    });
    web
}

fn mail() -> UnitStatus {
    let generations = vec![generation(1, "serving", 812, 1_300_000.0, None)];
    let mut mail = unit("mail", UnitState::Running, 1_300_000.0, generations);
    mail.description =
        "Mail relay with a name for itself that is rather long, so that it has to be cut off somewhere"
            .into();
    mail.sockets = vec![socket("smtp", "0.0.0.0:25", "steered", 0)];
    mail.generations[0].program_is_newer = Some(true);
    mail.restarts = 2;
    mail.last_reload = Some(LastReload {
        outcome: Outcome::RolledBack,
        reason: "generation 2 was ended by SIGSEGV while it soaked; its last line was \"no route to db\""
            .into(),
        ago: 7300.0,
        duration: 11.8,
        phases: vec![],
    });
    mail
}

fn history(unit: &UnitStatus) -> Vec<ReloadRecord> {
    let of = |last: &LastReload| ReloadRecord {
        outcome: last.outcome,
        reason: last.reason.clone(),
        asked: "release <1.4>".into(),
        old_generation: Some(1),
        new_generation: Some(2),
        strategy: "canary".into(),
        started_at: 1_763_660_000.0,
        duration: last.duration,
        phases: last.phases.clone(),
        shares: vec![Share::counted(10, 1204, 123)],
        checks: vec![],
        usage: None,
        state_bytes: 0,
        state_frames: 0,
        state_descriptors: 0,
        state_seconds: 0.0,
        last_lines: vec![],
    };
    unit.last_reload.iter().map(of).collect()
}

fn lines(unit: &UnitStatus) -> Vec<LogLine> {
    let line = |text: &str, error| LogLine {
        time: 1_763_660_000.0,
        generation: Some(1),
        pid: 812,
        error,
        priority: None,
        text: text.into(),
    };
    match unit.name.as_str() {
        "mail" => vec![line("listening on <smtp>", false), line("no route to db", true)],
        _ => vec![],
    }
}

/// What has happened so far in [`status`].
pub fn past(world: &World) {
    let with = |mut line: EventLine, generation: u32| {
        line.generation = Some(generation);
        line
    };
    let state =
        |ago, unit: &str, text: &str, to| EventLine { state: Some(to), ..event(ago, unit, "state", text) };
    let of = |number: u32, line: EventLine| with(line, number);
    world.event(event(75.0, "worker", "restarting", "restarting it (exit-code)"));
    world.event(state(75.0, "worker", "STARTING → FAILED (the start limit was hit)", UnitState::Failed));
    world.event(state(42.0, "web", "RUNNING → PRE_CHECKING", UnitState::PreChecking));
    world.event(of(3, state(41.3, "web", "PRE_CHECKING → STARTING", UnitState::Starting)));
    world.event(with(event(41.2, "web", "started", "generation 3 started, pid 52001"), 3));
    world.event(with(event(39.0, "web", "ready", "generation 3 is ready"), 3));
    world.event(of(3, state(39.0, "web", "STARTING → SOAKING", UnitState::Soaking)));
    world.event(with(event(39.0, "web", "weight", "generation 3 gets 10 % of new connections"), 3));
    world.event(state(15.9, "chat", "RUNNING → PRE_CHECKING", UnitState::PreChecking));
    world.event(with(event(15.4, "chat", "started", "generation 8 started, pid 52311"), 8));
    world.event(with(event(14.0, "chat", "ready", "generation 8 is ready"), 8));
    world.event(of(8, state(14.0, "chat", "STARTING → SOAKING", UnitState::Soaking)));
    world.event(with(event(9.0, "web", "weight", "generation 3 gets 100 % of new connections"), 3));
    let promoted = event(9.0, "web", "reloaded", "reload promoted");
    world.event(EventLine { outcome: Some(Outcome::Promoted), ..promoted });
    world.event(of(3, state(9.0, "web", "SOAKING → DRAINING", UnitState::Draining)));
    world.event(event(2.0, "chat", "warning", "the queue of http is longer than it was"));
}
