//! Units for the tests, built by hand: the machine never sees the file that they might have come from.

use aeterna::machine::event::{Content, ContentId};
use aeterna::proto::exposition::Selector;
use aeterna::time::Span;
use aeterna::unit::*;
use std::sync::Arc;

pub(crate) fn command(name: &str) -> Command {
    Command { argv: vec![name.into()], argv0: None, ignore_failure: false, expand: true }
}

pub(crate) fn hook(name: &str, seconds: u64) -> Hook {
    let timeout = Span::from_secs(seconds);
    Hook { name: name.into(), exec: command(name), timeout, block_on_fail: true }
}

fn options() -> SocketOptions {
    SocketOptions {
        backlog: u32::MAX,
        bind_ipv6_only: BindIpv6Only::Default,
        reuse_port: false,
        free_bind: false,
        transparent: false,
        bind_to_device: None,
        no_delay: false,
        defer_accept: Span::ZERO,
        keep_alive: false,
        keep_alive_time: None,
        keep_alive_interval: None,
        keep_alive_probes: None,
        priority: None,
        mark: None,
        ip_tos: None,
        ip_ttl: None,
        receive_buffer: None,
        send_buffer: None,
        pipe_size: None,
        tcp_congestion: None,
        protocol: None,
        pass_credentials: false,
        socket_user: None,
        socket_group: None,
        socket_mode: 0o666,
        directory_mode: 0o755,
        symlinks: Vec::new(),
        remove_on_stop: false,
        flows: FlowOptions::default(),
    }
}

/// A TCP socket on port 80 named "http".
pub(crate) fn socket() -> Socket {
    Socket {
        listen: vec![Listen { kind: ListenKind::Stream, address: Address::Port(80) }],
        name: "http".into(),
        options: options().into(),
        sharing: Sharing::Auto,
        accept: false,
        max_connections: 64,
        max_connections_per_source: 0,
        flush_pending: false,
        trigger_limit_interval: Span::from_secs(2),
        trigger_limit_burst: 20,
    }
}

fn service() -> Service {
    Service {
        group_limits: GroupLimits::default(),
        exec_start: vec![command("/srv/app")],
        exec_start_pre: Vec::new(),
        exec_start_post: Vec::new(),
        exec_stop: Vec::new(),
        exec_stop_post: Vec::new(),
        exec_reload: Vec::new(),
        service_type: ServiceType::Notify,
        notify_access: NotifyAccess::Main,
        start_on: StartOn::Boot,
        stop_when_idle: Span::INFINITY,
        workers: 1,
        socket_environment: Vec::new(),
        intercept_bind: false,
        non_blocking: false,
        restart: Restart::No,
        restart_sec: Span::from_millis(100),
        restart_steps: 0,
        restart_max_delay: Span::INFINITY,
        start_limit_interval: Span::from_secs(10),
        start_limit_burst: 5,
        success_exit_status: ExitStatusSet::default(),
        restart_prevent_exit_status: ExitStatusSet::default(),
        restart_force_exit_status: ExitStatusSet::default(),
        timeout_start: Span::from_secs(90),
        timeout_stop: Span::from_secs(90),
        watchdog: Span::ZERO,
        watchdog_signal: 6,
        kill_mode: KillMode::ControlGroup,
        kill_signal: 15,
        final_kill_signal: 9,
        send_sigkill: true,
        send_sighup: false,
        user: None,
        group: None,
        supplementary_groups: Vec::new(),
        working_directory: None,
        release: None,
        umask: 0o022,
        environment: Vec::new(),
        environment_file: Vec::new(),
        pass_environment: None,
        unset_environment: Vec::new(),
        standard_input: Input::Null,
        standard_output: Output::Inherit,
        standard_error: Output::Inherit,
        limits: Vec::new(),
        nice: None,
        oom_score_adjust: None,
        cpu_affinity: Vec::new(),
        no_new_privileges: false,
        ignore_sigpipe: true,
        fd_store_max: 0,
        runtime_directory: Vec::new(),
    }
}

/// A `notify` unit with one shared socket and the `canary` strategy, every other default filled in.
pub(crate) fn base() -> Unit {
    Unit {
        name: "app".into(),
        description: String::new(),
        sockets: vec![Socket { sharing: Sharing::Shared, ..socket() }],
        service: service(),
        reload: Reload {
            strategy: Strategy::Canary,
            pre_flight: Vec::new(),
            warmup_delay: Span::ZERO,
            soak_time: Span::from_secs(30),
            canary_weight: vec![10],
            canary_by: CanaryBy::Connection,
            drain_timeout: Span::from_secs(30),
            reload_signal: 1,
            on_success: Vec::new(),
            on_failure: Vec::new(),
            watch_paths: Vec::new(),
            watch_debounce: Span::from_millis(200),
            keep_releases: 3,
            binary_path: None,
            binary_sha256: None,
        },
        health: None,
        analysis: None,
        state: aeterna::unit::State::default(),
        daemon: DaemonSettings::default(),
    }
}

pub(crate) fn health(check: Check) -> HealthCheck {
    HealthCheck {
        check,
        interval: Span::from_secs(5),
        timeout: Span::from_secs(2),
        initial_delay: Span::ZERO,
        success_threshold: 1,
        failure_threshold: 3,
        expect_status: vec![(200, 399)],
        always: false,
    }
}

pub(crate) fn content(id: u32, unit: Unit) -> Content {
    Content { id: ContentId(id), unit: Arc::new(unit), hash: u64::from(id) * 1_000, release: u64::from(id) }
}

/// splitmix64: small, seeded, the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }
}

/// How many contents of each kind the library has.
pub(crate) const EACH: u32 = 192;

/// Contents 0 to EACH-1 are ordinary units, EACH to 2·EACH-1 are `Accept` units.
pub(crate) fn library() -> Vec<Content> {
    let mut random = Random(2026);
    (0..2 * EACH).map(|id| content(id, random_unit(&mut random, id >= EACH))).collect()
}

fn random_unit(random: &mut Random, accept: bool) -> Unit {
    let mut unit = base();
    let s = &mut unit.service;
    s.service_type = random.pick(&[
        ServiceType::Notify,
        ServiceType::Notify,
        ServiceType::Notify,
        ServiceType::Notify,
        ServiceType::NotifyReload,
        ServiceType::Exec,
        ServiceType::Simple,
        ServiceType::Oneshot,
    ]);
    let oneshot = s.service_type == ServiceType::Oneshot;
    s.restart = random.pick(&[
        Restart::No,
        Restart::Always,
        Restart::OnFailure,
        Restart::OnFailure,
        Restart::OnSuccess,
        Restart::OnAbnormal,
        Restart::OnAbort,
        Restart::OnWatchdog,
    ]);
    s.workers = if oneshot || accept { 1 } else { random.pick(&[1, 1, 1, 2, 3]) };
    s.kill_mode =
        random.pick(&[KillMode::ControlGroup, KillMode::ControlGroup, KillMode::Mixed, KillMode::Process]);
    s.send_sigkill = !random.one_in(12);
    s.final_kill_signal = if random.one_in(8) { 3 } else { 9 };
    s.notify_access = random.pick(&[NotifyAccess::Main, NotifyAccess::Exec, NotifyAccess::All]);
    s.watchdog = if random.one_in(4) { Span::from_secs(3) } else { Span::ZERO };
    s.start_on = if accept || random.one_in(4) { StartOn::Connection } else { StartOn::Boot };
    s.stop_when_idle = if random.one_in(2) { Span::from_secs(20) } else { Span::INFINITY };
    s.timeout_start = random.pick(&[Span::from_secs(5), Span::from_secs(90)]);
    s.timeout_stop = random.pick(&[Span::from_secs(4), Span::from_secs(20)]);
    s.restart_sec = random.pick(&[Span::ZERO, Span::from_millis(100), Span::from_secs(2)]);
    if random.one_in(3) {
        s.restart_steps = 3;
        s.restart_max_delay = Span::from_secs(8);
    }
    for list in [
        &mut s.exec_start_pre,
        &mut s.exec_start_post,
        &mut s.exec_stop,
        &mut s.exec_stop_post,
        &mut s.exec_reload,
    ] {
        let count = random.pick(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        *list = (0..count).map(|_| command("/srv/tool")).collect();
    }
    if oneshot && random.one_in(2) && !accept {
        s.exec_start.push(command("/srv/more"));
    }
    random_reload(random, &mut unit, oneshot || accept);
    random_sockets(random, &mut unit, accept);
    random_state(random, &mut unit, accept);
    unit.service.group_limits.oom_policy =
        random.pick(&[OomPolicy::Continue, OomPolicy::Continue, OomPolicy::Stop, OomPolicy::Kill]);
    unit
}

fn random_reload(random: &mut Random, unit: &mut Unit, no_overlap: bool) {
    let r = &mut unit.reload;
    r.strategy = random.pick(&[
        Strategy::Canary,
        Strategy::Canary,
        Strategy::Canary,
        Strategy::Canary,
        Strategy::Canary,
        Strategy::Immediate,
        Strategy::Replace,
        Strategy::Signal,
    ]);
    if no_overlap && matches!(r.strategy, Strategy::Canary | Strategy::Immediate) {
        r.strategy = Strategy::Replace;
    }
    r.soak_time = random.pick(&[Span::from_secs(30), Span::from_secs(5), Span::ZERO]);
    r.drain_timeout = random.pick(&[Span::from_secs(30), Span::from_secs(3), Span::ZERO]);
    r.canary_weight = random.pick(&[vec![10], vec![1, 10, 50], vec![0, 100]]);
    r.warmup_delay = if random.one_in(4) { Span::from_secs(1) } else { Span::ZERO };
    for list in [&mut r.pre_flight, &mut r.on_success, &mut r.on_failure] {
        if random.one_in(4) {
            list.push(Hook { block_on_fail: !random.one_in(4), ..hook("check", 6) });
        }
    }
    if !no_overlap && random.one_in(3) {
        unit.analysis = Some(random_analysis(random));
    }
    if !no_overlap && random.one_in(3) {
        let check = if random.one_in(2) {
            Check::Exec(command("/srv/check"))
        } else {
            Check::TcpConnect(Address::Port(80))
        };
        unit.health = Some(HealthCheck {
            success_threshold: random.pick(&[1, 2]),
            failure_threshold: random.pick(&[1, 3]),
            always: random.one_in(2),
            ..health(check)
        });
    }
}

/// A share of errors, a figure of our own, a command: every kind that the machine tells apart.
pub(crate) fn analysis() -> Analysis {
    let selector = |text: &str| Selector::parse(text).unwrap();
    let check = |name: &str, kind| AnalysisCheck {
        name: name.into(),
        kind,
        max: Some(2.0),
        max_relative: None,
        min_samples: 100,
        initial_delay: Some(Span::ZERO),
        block_on_fail: true,
    };
    let errors = AnalysisKind::Share { bad: selector("bad"), of: selector("all") };
    Analysis {
        http_get: None,
        interval: Span::from_secs(1),
        timeout: Span::from_secs(2),
        failure_threshold: 3,
        inconclusive: Inconclusive::Promote,
        soak_time_max: None,
        checks: vec![
            AnalysisCheck { max_relative: Some(1.25), ..check("errors", errors) },
            check("tasks", AnalysisKind::Value { value: selector("@tasks"), per: None }),
            check("smoke", AnalysisKind::Exec(command("/srv/smoke"))),
        ],
    }
}

fn random_analysis(random: &mut Random) -> Analysis {
    let mut analysis = analysis();
    analysis.inconclusive = random.pick(&[Inconclusive::Promote, Inconclusive::Rollback]);
    analysis.soak_time_max = random.pick(&[None, Some(Span::from_secs(60))]);
    if random.one_in(2) {
        analysis.checks.truncate(1);
    }
    for check in &mut analysis.checks {
        check.block_on_fail = !random.one_in(3);
        check.initial_delay = random.pick(&[Some(Span::ZERO), Some(Span::from_secs(3)), None]);
    }
    analysis
}

fn random_state(random: &mut Random, unit: &mut Unit, accept: bool) {
    if !accept && random.one_in(2) {
        unit.state.enabled = true;
        unit.state.required = random.one_in(3);
        unit.state.signal = random.pick(&[None, None, Some(10)]);
    }
}

fn random_sockets(random: &mut Random, unit: &mut Unit, accept: bool) {
    let socket = &mut unit.sockets[0];
    if accept {
        socket.accept = true;
        socket.max_connections = random.pick(&[2, 64]);
        socket.max_connections_per_source = random.pick(&[0, 1]);
    } else {
        socket.sharing = random.pick(&[Sharing::Auto, Sharing::Shared, Sharing::Steered]);
    }
    socket.flush_pending = random.one_in(4);
    socket.trigger_limit_burst = random.pick(&[0, 2, 20]);
}
