//! Processes that die, hang, leave children behind, or cannot be started: restarts, limits, timeouts, killing,
//! hooks, and the surroundings that a service is given.

use crate::common;
use aeterna::proto::status::UnitState;
use common::http::{self, Client};
use common::{Env, example, process};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;

const SOCKET: &str = "[Socket]\nListenStream = \"127.0.0.1:0\"\n";

/// One unit called `app` on a port of its own.
fn app(service: &str) -> Env {
    let mut env = Env::new();
    env.unit("app", &format!("{SOCKET}[Service]\n{service}"));
    env.start();
    env
}

/// Another unit, so that the daemon stays whatever happens to `app`.
fn with_company(service: &str) -> Env {
    let mut env = Env::new();
    env.unit("app", &format!("{SOCKET}[Service]\n{service}"));
    env.unit("bystander", "[Service]\nExecStart = \"{probe}\"\nType = \"notify\"");
    env.start();
    env
}

/// How often `app` was started, as the log has it: the events are followed from a little later on.
fn starts(env: &Env) -> usize {
    env.log()
        .lines()
        .filter(|line| line.contains("app: generation ") && line.contains(" started, pid"))
        .count()
}

/// What happens to `app` after its first end: restarted, or the state in which it stays.
fn after_first_end(env: &Env) -> UnitState {
    env.wait("what follows", || {
        let status = env.unit_status("app");
        if status.restarts > 0 {
            return Some(UnitState::Running);
        }
        matches!(status.state, UnitState::Stopped | UnitState::Failed).then_some(status.state)
    })
}

#[test]
fn the_restart_table() {
    use UnitState::{Failed, Running, Stopped};
    // What the service does, Restart, and what follows.
    let rows = [
        ("exit=0", "no", Stopped),
        ("exit=0", "on-failure", Stopped),
        ("exit=0", "on-success", Running),
        ("exit=0", "always", Running),
        ("exit=3", "no", Failed),
        ("exit=3", "on-success", Failed),
        ("exit=3", "on-failure", Running),
        ("exit=3", "on-abnormal", Failed),
        ("signal=TERM", "on-success", Running),
        ("signal=TERM", "on-failure", Stopped),
        ("signal=KILL", "on-success", Failed),
        ("signal=KILL", "on-failure", Running),
        ("signal=KILL", "on-abnormal", Running),
        ("signal=KILL", "on-abort", Running),
        ("signal=KILL", "on-watchdog", Failed),
    ];
    for (does, restart, follows) in rows {
        let env = with_company(&format!(
            "ExecStart = \"{{probe}} {does}\"\nType = \"exec\"\nRestart = \"{restart}\"\nRestartSec = \"20ms\"\nStartLimitBurst = 3"
        ));
        assert_eq!(after_first_end(&env), follows, "{does} with Restart = {restart}");
    }
}

#[test]
fn exit_statuses_that_prevent_force_and_succeed() {
    use UnitState::{Failed, Running, Stopped};
    let rows = [
        ("exit=7", "Restart = \"always\"\nRestartPreventExitStatus = 7", Failed),
        ("exit=7", "Restart = \"no\"\nRestartForceExitStatus = [7]", Running),
        ("exit=7", "Restart = \"on-failure\"\nSuccessExitStatus = [7, \"SIGUSR1\"]", Stopped),
        ("signal=USR1", "Restart = \"on-failure\"\nSuccessExitStatus = [7, \"SIGUSR1\"]", Stopped),
    ];
    for (does, keys, follows) in rows {
        let env = with_company(&format!(
            "ExecStart = \"{{probe}} {does}\"\nType = \"exec\"\n{keys}\nRestartSec = \"20ms\"\nStartLimitBurst = 3"
        ));
        assert_eq!(after_first_end(&env), follows, "{does} with {keys}");
    }
}

#[test]
fn a_killed_service_is_restarted_on_the_same_socket() {
    let env = app("ExecStart = \"{probe}\"\nType = \"notify\"\nRestart = \"on-failure\"");
    env.wait_state("app", UnitState::Running);
    let address = env.address("app", 0);
    let pid = env.main_pid("app");
    process::kill(pid, Signal::SIGKILL);
    // The queue holds what comes in between.
    let mut client = Client::connect(&address).unwrap();
    let body: Value = serde_json::from_str(&client.get("/").unwrap().body).unwrap();
    assert_ne!(body["pid"], pid);
    assert_eq!(body["generation"], 2);
    let status = env.wait_state("app", UnitState::Running);
    assert_eq!(status.restarts, 1);
}

#[test]
fn the_start_limit_fails_the_unit_and_holds_its_socket() {
    let env = with_company(
        "ExecStart = \"{probe} exit=3\"\nType = \"exec\"\nRestart = \"always\"\nRestartSec = \"10ms\"\nStartLimitBurst = 3\n\
         StartLimitIntervalSec = \"1h\"",
    );
    let status = env.wait_state("app", UnitState::Failed);
    assert!(
        status.why.contains("start-limit-hit") && status.why.contains("exited with status 3"),
        "{}",
        status.why
    );
    env.wait("three starts in the log", || (starts(&env) == 3).then_some(()));
    assert!(Client::connect(&env.address("app", 0)).is_ok(), "the socket is held");
    assert_eq!(env.unit_status("bystander").state, UnitState::Running);
}

#[test]
fn the_back_off_grows() {
    // Not before its events are followed. It is never ready: one that was for as long as the longest pause, be it only
    // because its end was seen late, would begin again with the shortest.
    let env = with_company(
        "ExecStart = \"{probe} exit=3\"\nType = \"notify\"\nRestart = \"always\"\nRestartSec = \"20ms\"\n\
         RestartSteps = 3\nRestartMaxDelaySec = \"160ms\"\nStartLimitBurst = 5\nStartLimitIntervalSec = \"1h\"\nStartOn = \"connection\"",
    );
    env.wait_state("app", UnitState::Listening);
    drop(Client::connect(&env.address("app", 0)).unwrap());
    env.wait_event(0, "the end", |e| e.unit == "app" && e.state == Some(UnitState::Failed));
    let pauses: Vec<f64> = env
        .events_since(0)
        .iter()
        .filter(|e| e.unit == "app" && e.text.starts_with("BACKOFF → STARTING"))
        .filter_map(|e| e.lasted)
        .collect();
    // From BACKOFF to STARTING: 20, 40, 80, 160 ms, and never less.
    assert_eq!(pauses.len(), 4, "{pauses:?}");
    for (pause, least) in pauses.iter().zip([0.020, 0.040, 0.080, 0.160]) {
        assert!(*pause >= least - 0.001, "{pauses:?}");
    }
}

#[test]
fn aeternad_ends_as_its_only_service_does() {
    for (does, code) in [("exit=0", 0), ("exit=3", 3), ("signal=KILL", 137), ("signal=TERM", 143)] {
        let mut env = Env::new();
        let unit = env.unit("app", &format!("[Service]\nExecStart = \"{{probe}} {does}\""));
        env.launch(&["--unit", &unit.display().to_string()]);
        assert_eq!(process::code(env.wait_exit()), code, "{does}\n{}", env.log());
    }
}

/// A file that another process writes. A child of a parallel test could have a copy of our descriptor until its exec,
/// and what is open for writing is not executed.
fn written_by_another(env: &Env, name: &str, text: &str) -> std::path::PathBuf {
    let path = env.path(name);
    let mut command = env.command("/bin/sh");
    command.args(["-c", "printf %s \"$1\" >\"$2\"", "sh", text]).arg(&path);
    assert_eq!(env.finish(command).code, 0);
    path
}

#[test]
fn aeternad_ends_with_126_and_127_for_what_cannot_be_executed() {
    let mut env = Env::new();
    let plain = written_by_another(&env, "plain", "no program");
    let unit = env.unit("app", "[Service]\nExecStart = \"{dir}/plain\"");
    env.launch(&["--unit", &unit.display().to_string()]);
    assert_eq!(process::code(env.wait_exit()), 126, "{}", env.log());
    let wanted = format!("cannot start app: exec {}: Permission denied", plain.display());
    env.wait_log(&wanted);
    let unit = env.unit("app", "[Service]\nExecStart = \"{dir}/missing\"");
    env.launch(&["--unit", &unit.display().to_string()]);
    assert_eq!(process::code(env.wait_exit()), 127, "{}", env.log());
    let wanted =
        format!("cannot start app: exec {}: No such file or directory", env.path("missing").display());
    env.wait_log(&wanted);
    std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o755)).unwrap();
    let unit = env.unit("app", "[Service]\nExecStart = \"{dir}/plain\"");
    env.launch(&["--unit", &unit.display().to_string()]);
    assert_eq!(process::code(env.wait_exit()), 126, "{}", env.log());
    env.wait_log("Exec format error");
    let script = written_by_another(&env, "script", "#!/no/such/interpreter\n");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let unit = env.unit("app", "[Service]\nExecStart = \"{dir}/script\"");
    env.launch(&["--unit", &unit.display().to_string()]);
    assert_eq!(process::code(env.wait_exit()), 127, "{}", env.log());
    env.wait_log("No such file or directory (its interpreter /no/such/interpreter does not exist");
}

#[test]
fn a_start_limit_of_the_only_service_ends_aeternad_with_its_status() {
    let mut env = Env::new();
    let unit = env.unit(
        "app",
        "[Service]\nExecStart = \"{probe} exit=9\"\nRestart = \"always\"\nRestartSec = \"10ms\"\nStartLimitBurst = 2",
    );
    env.launch(&["--unit", &unit.display().to_string()]);
    assert_eq!(process::code(env.wait_exit()), 9, "{}", env.log());
}

#[test]
fn a_missing_watchdog_message_is_a_failure() {
    // Not before its events are followed.
    let env = app(
        "ExecStart = \"{probe}\"\nType = \"notify\"\nWatchdogSec = \"300ms\"\nRestart = \"on-watchdog\"\nRestartSec = \"10ms\"\n\
         StartOn = \"connection\"",
    );
    env.wait_state("app", UnitState::Listening);
    drop(Client::connect(&env.address("app", 0)).unwrap());
    let ended = env.wait_event(0, "the first one's end", |e| e.kind == "ended");
    assert!(ended.text.contains("SIGABRT"), "{ended:?}");
    env.wait_event(0, "a restart", |e| e.kind == "restarting" && e.text.contains("watchdog"));
    let env = app(
        "ExecStart = \"{probe} watchdog=50 orders={dir}/orders\"\nType = \"notify\"\nWatchdogSec = \"5s\"",
    );
    env.wait_state("app", UnitState::Running);
    let orders = env.path("orders").display().to_string();
    let report: Value = serde_json::from_str(&http::get(&orders, "/report").unwrap().body).unwrap();
    assert_eq!(report["env"]["WATCHDOG_USEC"], "5000000");
    assert_eq!(report["env"]["WATCHDOG_PID"], report["pid"].to_string());
    // Fed for longer than it would have to starve.
    assert_eq!(http::get(&orders, "/slow?ms=7000").unwrap().status, 200);
    assert_eq!(env.unit_status("app").generation, 1);
    // A failure that it declares itself.
    // It may be dead before it has answered.
    drop(http::get(&orders, "/notify?WATCHDOG=trigger"));
    env.wait_event(0, "the end", |e| e.kind == "ended");
}

#[test]
fn a_start_that_takes_too_long_is_ended() {
    let env =
        with_company("ExecStart = \"{probe} ready=never\"\nType = \"notify\"\nTimeoutStartSec = \"200ms\"");
    let status = env.wait_state("app", UnitState::Failed);
    assert!(status.why.contains("200ms"), "{}", status.why);
    assert!(env.unit_status("app").generations.is_empty());
}

#[test]
fn a_stop_that_takes_too_long_is_forced() {
    let env =
        with_company("ExecStart = \"{probe} term=ignore\"\nType = \"notify\"\nTimeoutStopSec = \"200ms\"");
    env.wait_state("app", UnitState::Running);
    let pid = env.main_pid("app");
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    assert!(!process::exists(pid));
    assert_eq!(env.unit_status("app").state, UnitState::Stopped);
    env.wait_event(0, "its end", |e| e.kind == "ended" && e.text.contains("SIGKILL"));
}

#[test]
fn a_stopped_process_is_woken_to_be_ended() {
    let env = with_company("ExecStart = \"{probe}\"\nType = \"notify\"\nTimeoutStopSec = \"20s\"");
    env.wait_state("app", UnitState::Running);
    let pid = env.main_pid("app");
    process::kill(pid, Signal::SIGSTOP);
    env.wait("a stopped process", || process::state(pid).filter(|(state, _)| *state == 'T'));
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    env.wait_event(0, "a clean end", |e| e.kind == "ended" && e.text.contains("status 0"));
}

/// Grandchildren in every shape end with the unit.
fn grandchildren(env: &mut Env, kill_mode: &str) {
    env.unit(
        "app",
        &format!(
            "{SOCKET}[Service]\nExecStart = \"{{probe}}\"\nType = \"notify\"\nKillMode = \"{kill_mode}\"\nTimeoutStopSec = \"300ms\""
        ),
    );
    env.unit("bystander", "[Service]\nExecStart = \"{probe}\"\nType = \"notify\"");
    env.start();
    env.wait_state("app", UnitState::Running);
    let mut pids = vec![];
    for mode in ["child", "setsid", "double", "double%2Bignore", "setsid%2Bignore"] {
        let answer = env.get("app", &format!("/spawn?mode={mode}"));
        pids.push(answer.body.parse::<i32>().unwrap_or_else(|_| env.fail(&answer.body)));
    }
    assert!(pids.iter().all(|pid| process::exists(*pid)));
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    if kill_mode == "process" {
        assert!(!pids.iter().any(|pid| process::is_over(*pid)), "left by intent");
        for pid in pids {
            process::kill(pid, Signal::SIGKILL);
            env.wait_gone(pid);
        }
    } else {
        for pid in pids {
            // Dead by now; an orphan may wait to be reaped for a moment more.
            env.wait_gone(pid);
        }
    }
    assert_eq!(env.unit_status("app").state, UnitState::Stopped);
}

#[test]
fn grandchildren_end_with_the_unit() {
    for kill_mode in ["control-group", "mixed", "process"] {
        grandchildren(&mut Env::new(), kill_mode);
    }
}

#[test]
fn grandchildren_end_with_the_unit_without_control_groups() {
    for kill_mode in ["control-group", "mixed", "process"] {
        let mut env = Env::new();
        if !env.as_nobody() {
            return;
        }
        grandchildren(&mut env, kill_mode);
    }
}

#[test]
fn without_control_groups_not_even_who_has_cleared_every_trace_outlives_the_daemon() {
    let mut env = Env::new();
    if !env.as_nobody() {
        return;
    }
    let traceless = "(setsid env -i /bin/sh -c 'echo $$ > {dir}/pid.new; mv {dir}/pid.new {dir}/pid; trap \"\" TERM HUP; while :; do sleep 1000; done' &)";
    env.file("run.sh", &env.fill(&format!("{traceless}; exec sleep 1000\n")));
    env.unit("app", "[Service]\nExecStart = \"/bin/sh {dir}/run.sh\"");
    env.start();
    let pid = env.wait("the orphan", || std::fs::read_to_string(env.path("pid")).ok()?.trim().parse().ok());
    env.wait("its new parent", || (process::state(pid)?.1 == env.pid()).then_some(()));
    env.signal(Signal::SIGTERM);
    assert!(env.wait_exit().success());
    assert!(process::is_over(pid));
}

#[test]
fn what_a_dead_main_process_leaves_is_killed_before_the_next_one() {
    let env =
        app("ExecStart = \"{probe}\"\nType = \"notify\"\nRestart = \"always\"\nTimeoutStopSec = \"300ms\"");
    env.wait_state("app", UnitState::Running);
    let left: i32 = env.get("app", "/spawn?mode=double").body.parse().unwrap();
    process::kill(env.main_pid("app"), Signal::SIGKILL);
    env.wait_unit("app", "the second generation", |u| u.state == UnitState::Running && u.generation == 2);
    assert!(process::is_over(left));
}

#[test]
fn one_of_many_workers_is_replaced() {
    let env = app(
        "ExecStart = \"{probe} orders={dir}/orders-%%p\"\nType = \"notify\"\nWorkers = 3\nRestart = \"on-failure\"",
    );
    let status = env.wait_state("app", UnitState::Running);
    assert_eq!(status.main_pids.len(), 3);
    let workers = |env: &Env, pids: &[i32]| -> Vec<i64> {
        let mut workers: Vec<i64> = pids
            .iter()
            .map(|pid| {
                let orders = env.path(&format!("orders-{pid}")).display().to_string();
                let answer = env.wait("its orders", || http::get(&orders, "/").ok());
                let body: Value = serde_json::from_str(&answer.body).unwrap();
                body["worker"].as_i64().unwrap()
            })
            .collect();
        workers.sort_unstable();
        workers
    };
    assert_eq!(workers(&env, &status.main_pids), [0, 1, 2]);
    let dead = status.main_pids[1];
    process::kill(dead, Signal::SIGKILL);
    let status = env.wait_unit("app", "three workers again", |u| {
        u.main_pids.len() == 3 && !u.main_pids.contains(&dead) && u.state == UnitState::Running
    });
    assert_eq!(status.generation, 1, "the same generation");
    assert_eq!(workers(&env, &status.main_pids), [0, 1, 2]);
}

#[test]
fn hooks_run_in_their_order_with_their_variables() {
    let env = with_company(
        r#"
        ExecStartPre = [["{probe}", "append={dir}/trace", "note=pre1", "exit=0", "show=AETERNA_UNIT,LISTEN_FDS,MAINPID"], ["{probe}", "append={dir}/trace", "note=pre2", "exit=0"]]
        ExecStart = "{probe}"
        Type = "notify"
        ExecStartPost = "{probe} append={dir}/trace note=post exit=0 show=MAINPID"
        ExecStop = "{probe} append={dir}/trace note=stop exit=0 show=MAINPID"
        ExecStopPost = "{probe} append={dir}/trace note=stoppost exit=0 show=MAINPID,SERVICE_RESULT,EXIT_CODE,EXIT_STATUS"
        "#,
    );
    env.wait_state("app", UnitState::Running);
    let pid = env.main_pid("app");
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    let trace = std::fs::read_to_string(env.path("trace")).unwrap();
    let lines: Vec<&str> = trace.lines().collect();
    assert_eq!(lines[0], "pre1 AETERNA_UNIT=app LISTEN_FDS= MAINPID=");
    assert_eq!(lines[1], "pre2");
    assert_eq!(lines[2], format!("post MAINPID={pid}"));
    assert_eq!(lines[3], format!("stop MAINPID={pid}"));
    assert!(lines[4].ends_with("SERVICE_RESULT=success EXIT_CODE=exited EXIT_STATUS=0"), "{}", lines[4]);
    assert_eq!(lines.len(), 5);
}

#[test]
fn a_failed_preparation_stops_the_start_and_says_which() {
    let env = with_company(
        r#"
        ExecStartPre = ["{probe}", "exit=4"]
        ExecStart = "{probe}"
        ExecStopPost = "{probe} append={dir}/trace exit=0 show=SERVICE_RESULT,EXIT_STATUS"
        "#,
    );
    let status = env.wait_state("app", UnitState::Failed);
    assert!(status.why.contains("ExecStartPre"), "{}", status.why);
    let trace = std::fs::read_to_string(env.path("trace")).unwrap();
    assert_eq!(trace, "started SERVICE_RESULT=exit-code EXIT_STATUS=4\n");
    // With "-" its failure does not matter.
    let env = with_company("ExecStartPre = \"-{probe} exit=4\"\nExecStart = \"{probe}\"\nType = \"notify\"");
    env.wait_state("app", UnitState::Running);
}

#[test]
fn a_crash_is_told_to_exec_stop_post() {
    let env = with_company(
        "ExecStart = \"{probe}\"\nType = \"notify\"\nExecStopPost = \"{probe} append={dir}/trace exit=0 show=SERVICE_RESULT,EXIT_CODE,EXIT_STATUS\"",
    );
    env.wait_state("app", UnitState::Running);
    process::kill(env.main_pid("app"), Signal::SIGKILL);
    env.wait_state("app", UnitState::Failed);
    let trace = std::fs::read_to_string(env.path("trace")).unwrap();
    assert_eq!(trace, "started SERVICE_RESULT=signal EXIT_CODE=killed EXIT_STATUS=KILL\n");
}

#[test]
fn a_oneshot_runs_its_commands_in_order_and_is_done() {
    let env = with_company(
        r#"
        Type = "oneshot"
        ExecStart = [["{probe}", "append={dir}/trace", "note=one", "exit=0"], ["{probe}", "append={dir}/trace", "note=two", "exit=0"]]
        "#,
    );
    env.wait_state("app", UnitState::Stopped);
    assert_eq!(std::fs::read_to_string(env.path("trace")).unwrap(), "one\ntwo\n");
}

/// The report of a service with these keys.
fn surroundings(env: &mut Env, keys: &str) -> Value {
    env.unit(
        "app",
        &format!("[Service]\nExecStart = \"{{probe}} orders={{dir}}/orders\"\nType = \"notify\"\n{keys}"),
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    let orders = env.path("orders").display().to_string();
    serde_json::from_str(&http::get(&orders, "/report").unwrap().body).unwrap()
}

#[test]
fn limits_mask_folder_and_environment_are_as_asked() {
    let mut env = Env::new();
    env.file("one.env", "# comment\nA=from file\nQUOTED=\"a b\"\n; more\nLONG=x \\\ny\n");
    let report = surroundings(
        &mut env,
        r#"
        LimitNOFILE = "123:456"
        LimitCORE = 0
        UMask = "0027"
        Nice = 3
        OOMScoreAdjust = 100
        CPUAffinity = [0]
        NoNewPrivileges = true
        WorkingDirectory = "/tmp"
        Environment = { A = "from unit", B = "b %n" }
        EnvironmentFile = ["{dir}/one.env", "-{dir}/missing.env"]
        UnsetEnvironment = ["LANG"]
        "#,
    );
    assert_eq!(report["limits"]["Max open files"], serde_json::json!(["123", "456"]));
    assert_eq!(report["limits"]["Max core file size"], serde_json::json!(["0", "0"]));
    assert_eq!(report["umask"], "0027");
    assert_eq!(report["nice"], 3);
    assert_eq!(report["oom_score_adj"], "100");
    assert_eq!(report["cpus"], "0");
    assert_eq!(report["no_new_privs"], true);
    assert_eq!(report["cwd"], "/tmp");
    assert_eq!(report["env"]["A"], "from file");
    assert_eq!(report["env"]["QUOTED"], "a b");
    assert_eq!(report["env"]["LONG"], "x y");
    assert_eq!(report["env"]["B"], "b app");
    assert!(report["env"]["LANG"].is_null());
    assert_eq!(report["sid"], report["pid"], "a session of its own");
}

#[test]
fn the_daemons_own_limit_and_folder_are_the_default() {
    let mut env = Env::new();
    let report = surroundings(&mut env, "");
    assert_eq!(report["cwd"], env.dir().canonicalize().unwrap().display().to_string());
    assert_eq!(report["umask"], "0022");
    let ours = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    assert_eq!(report["limits"]["Max open files"][0], ours.0.to_string(), "not what aeternad raised it to");
}

#[test]
fn a_variable_that_is_no_text_is_inherited_as_it_is() {
    use std::os::unix::ffi::OsStrExt;
    let value = std::ffi::OsStr::from_bytes(b"a\xffb");
    for (keys, there) in
        [("", true), ("PassEnvironment = \"RAW\"", true), ("UnsetEnvironment = \"RAW\"", false)]
    {
        let mut env = Env::new();
        let service = "[Service]\nExecStart = \"{probe}\"\nType = \"notify\"\n";
        let unit = env.unit("app", &format!("{service}{keys}")).display().to_string();
        let mut command = env.command(common::AETERNAD);
        command.env("RAW", value);
        env.launch_by(command, &["--unit", &unit]);
        env.wait_control();
        env.wait_state("app", UnitState::Running);
        let block = std::fs::read(format!("/proc/{}/environ", env.main_pid("app"))).unwrap();
        assert_eq!(block.split(|byte| *byte == 0).any(|line| line == b"RAW=a\xffb"), there, "{keys}");
        env.allow_survivors();
    }
}

#[test]
fn only_what_is_passed_is_inherited() {
    let mut env = Env::new();
    env.variable("SECRET", "s").variable("WANTED", "w").variable("LANG", "C");
    let report = surroundings(&mut env, "PassEnvironment = [\"WANTED\"]");
    assert!(report["env"]["SECRET"].is_null());
    assert_eq!(report["env"]["WANTED"], "w");
    assert_eq!(report["env"]["LANG"], "C");
    assert!(!report["env"]["PATH"].is_null());
    // The test's own marks are gone with the rest.
    env.allow_survivors();
}

#[test]
fn another_user_gets_its_own_notify_socket_and_groups() {
    if !nix::unistd::geteuid().is_root() {
        return common::skip("only root can start a service as another user");
    }
    let mut env = Env::new();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    std::fs::set_permissions(env.dir(), open).unwrap();
    let report = surroundings(
        &mut env,
        "User = \"65534\"\nSupplementaryGroups = [\"1234\"]\nRuntimeDirectory = \"aeterna-test-%n-x\"",
    );
    assert_eq!(report["uid"], serde_json::json!([65534, 65534, 65534, 65534]));
    assert!(report["groups"].as_array().unwrap().iter().any(|g| *g == 1234), "{report}");
    assert!(!report["groups"].as_array().unwrap().iter().any(|g| *g == 0), "{report}");
    let folder = report["env"]["RUNTIME_DIRECTORY"].as_str().unwrap().to_owned();
    assert_eq!(folder, "/run/aeterna-test-app-x");
    let about = std::fs::metadata(&folder).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&about), 65534);
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    assert!(!std::path::Path::new(&folder).exists());
}

#[test]
fn without_rights_nobody_becomes_somebody_else_and_a_limit_is_as_high_as_it_may_be() {
    let mut env = Env::new();
    if !env.as_nobody() {
        return;
    }
    env.unit("app", "[Service]\nExecStart = \"{probe}\"\nUser = \"1\"");
    env.unit("high", "[Service]\nExecStart = \"{probe}\"\nType = \"notify\"\nLimitNOFILE = \"infinity\"");
    env.start();
    let status = env.wait_state("app", UnitState::Failed);
    assert!(status.why.contains("(only root can become another user"), "{}", status.why);
    env.wait_state("high", UnitState::Running);
    env.wait_log("high: LimitNOFILE is not as high as the unit says");
    let ours = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", env.main_pid("high"))).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().nth(3), Some(ours.1.to_string().as_str()), "{line}");
}

#[test]
fn an_unknown_user_is_said_to_be_one() {
    let env = with_company("ExecStart = \"{probe}\"\nUser = \"nobody-of-this-name\"");
    let status = env.wait_state("app", UnitState::Failed);
    assert!(status.why.contains("nobody-of-this-name"), "{}", status.why);
    let env = with_company("ExecStart = \"{probe}\"\nWorkingDirectory = \"/no/such/folder\"");
    let status = env.wait_state("app", UnitState::Failed);
    assert!(status.why.contains("chdir /no/such/folder: No such file or directory"), "{}", status.why);
    let env =
        with_company("ExecStart = \"{probe}\"\nType = \"notify\"\nWorkingDirectory = \"-/no/such/folder\"");
    env.wait_state("app", UnitState::Running);
}

#[test]
fn a_program_without_a_slash_is_looked_up_in_the_services_path() {
    let mut env = Env::new();
    std::fs::create_dir(env.path("bin")).unwrap();
    std::os::unix::fs::symlink(example("probe"), env.path("bin/my-probe")).unwrap();
    env.unit(
        "app",
        "[Service]\nExecStart = \"@my-probe renamed orders={dir}/orders\"\nType = \"notify\"\nEnvironment = { PATH = \"{dir}/bin\" }",
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    let orders = env.path("orders").display().to_string();
    let report: Value = serde_json::from_str(&http::get(&orders, "/report").unwrap().body).unwrap();
    assert_eq!(report["argv0"], "renamed");
}

#[test]
fn what_is_printed_goes_where_it_is_asked() {
    let mut env = Env::new();
    env.file("old", "before and much longer\n");
    env.unit(
        "app",
        r#"
        [Service]
        ExecStart = "{probe} stdout=out stderr=err"
        Type = "notify"
        StandardInput = "null"
        StandardOutput = "append:{dir}/old"
        StandardError = "file:{dir}/new"
        "#,
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    assert_eq!(std::fs::read_to_string(env.path("old")).unwrap(), "before and much longer\nout\n");
    assert_eq!(std::fs::read_to_string(env.path("new")).unwrap(), "err\n");
}
