//! What cannot be ended, seen, heard or executed: it is said by name, and nothing waits for it for ever.

use crate::common;
use aeterna::proto::status::{Outcome, UnitState};
use common::{AETERNAD, Env, process};
use nix::sys::signal::Signal;
use std::process::Command;

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        common::skip("only root can take something away from aeternad here");
    }
    root
}

/// aeternad after a shell has run `before` in a mount namespace of its own, and with `flags` of unshare(1).
fn behind(env: &Env, flags: &[&str], before: &str) -> Command {
    let mut command = env.command("unshare");
    command.args(flags).args(["-m", "sh", "-c", &format!("{before} && exec \"$@\""), "sh", AETERNAD]);
    command
}

/// The pid that a process has written into a file.
fn pid_in(env: &Env, name: &str) -> i32 {
    env.wait(&format!("a pid in {name}"), || {
        std::fs::read_to_string(env.path(name)).ok()?.lines().next()?.trim().parse().ok()
    })
}

fn units(env: &Env) -> String {
    env.path("units").display().to_string()
}

const WITH_CHILD: &str = "[Service]\nExecStart = [\"/bin/sh\", \"-c\", \"sleep 1000 & echo $! > {dir}/child; echo $$$$ > {dir}/main; exec sleep 1000\"]\nTimeoutStopSec = \"5s\"\n";

#[test]
fn without_proc_a_stop_ends_the_main_process_and_its_group() {
    if !is_root() {
        return;
    }
    let mut env = Env::new();
    env.unit("app", WITH_CHILD);
    let command = behind(&env, &[], "mount -t tmpfs none /proc");
    env.launch_by(command, &["--unit", &units(&env)]);
    env.wait_control();
    env.wait_log("/proc is missing");
    let (main, child) = (pid_in(&env, "main"), pid_in(&env, "child"));
    env.wait_state("app", UnitState::Running);
    let stopped = env.ctl(&["stop", "app"]);
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    env.wait_gone(main);
    env.wait_gone(child);
    assert!(!env.log().contains("does not end"), "{}", env.log());
}

#[test]
fn without_proc_a_health_check_passes_though_nobody_sees_who_answers() {
    if !is_root() {
        return;
    }
    let port = common::port::free_port();
    let mut env = Env::new();
    env.unit(
        "app",
        &format!(
            "[Socket]\nListenStream = \"127.0.0.1:{port}\"\n[Service]\nExecStart = \"{{probe}}\"\nType = \"notify\"\n\
             [HealthCheck]\nTcpConnect = \"127.0.0.1:{port}\"\nInterval = \"100ms\"\n[Reload]\nSoakTime = \"300ms\"\n"
        ),
    );
    let command = behind(&env, &[], "mount -t tmpfs none /proc");
    env.launch_by(command, &["--unit", &units(&env)]);
    env.wait_control();
    env.wait_state("app", UnitState::Running);
    let reloaded = env.ctl(&["reload", "app", "--timeout", "30s"]);
    assert_eq!(reloaded.code, 0, "{} {}", reloaded.stdout, env.log());
    env.wait_log("who answered cannot be seen from here");
}

#[test]
fn without_proc_what_a_dead_main_process_leaves_is_ended_too() {
    if !is_root() {
        return;
    }
    let mut env = Env::new();
    env.unit("app", WITH_CHILD);
    env.unit("bystander", "[Service]\nExecStart = \"/bin/sleep 1000\"");
    let command = behind(&env, &[], "mount -t tmpfs none /proc");
    env.launch_by(command, &["--unit", &units(&env)]);
    env.wait_control();
    let (main, child) = (pid_in(&env, "main"), pid_in(&env, "child"));
    process::kill(main, Signal::SIGKILL);
    env.wait_gone(child);
    env.wait_state("app", UnitState::Failed);
    assert_eq!(env.unit_status("bystander").state, UnitState::Running);
}

#[test]
fn an_init_without_proc_mounts_it_and_stops() {
    if !is_root() {
        return;
    }
    let mut env = Env::new();
    env.unit("app", WITH_CHILD);
    let command = behind(&env, &["-fp", "--kill-child"], "mount -t tmpfs none /proc");
    env.launch_by(command, &["--unit", &units(&env)]);
    env.wait_control();
    env.wait_log("mounted /proc, which was missing");
    env.wait_state("app", UnitState::Running);
    let unshare = env.pid();
    let init = env.wait("the namespace's PID 1", || process::children(unshare).first().copied());
    process::kill(init, Signal::SIGTERM);
    assert!(env.wait_exit().success(), "{}", env.log());
}

#[test]
fn another_pid_namespaces_proc_is_not_believed() {
    if !is_root() {
        return;
    }
    let mut env = Env::new();
    env.unit("app", WITH_CHILD);
    // A pid namespace of its own, and /proc of the one around it.
    let command = behind(&env, &["-fp", "--kill-child"], "true");
    env.launch_by(command, &["--unit", &units(&env)]);
    env.wait_control();
    env.wait_log("/proc shows another pid namespace");
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    let unshare = env.pid();
    let init = env.wait("the namespace's PID 1", || process::children(unshare).first().copied());
    env.wait("nothing left", || process::children(init).is_empty().then_some(()));
}

/// A unit whose main process has a child that cannot be killed: the init of a pid namespace with a process in it whose
/// parent is outside and does not reap it.
struct Immortal {
    stopped_parent: std::process::Child,
    init: i32,
}

impl Immortal {
    fn of(env: &Env, main: i32) -> Immortal {
        let init = env.wait("the init", || process::children(main).first().copied());
        let mut nsenter = env.command("nsenter");
        nsenter.args(["-t", &init.to_string(), "-p", "sleep", "1000"]);
        let parent = nsenter.spawn().unwrap();
        let pid = parent.id() as i32;
        env.wait("a process inside", || process::children(pid).first().copied());
        process::kill(pid, Signal::SIGSTOP);
        Immortal { stopped_parent: parent, init }
    }

    fn end(mut self, env: &Env) {
        process::kill(self.stopped_parent.id() as i32, Signal::SIGCONT);
        self.stopped_parent.wait().unwrap();
        env.wait_gone(self.init);
    }
}

/// A control group counts a process no more that is about to end: without groups it is waited for.
fn start_without_groups(env: &mut Env) {
    let command = behind(env, &[], "mount -t tmpfs none /sys/fs/cgroup");
    env.launch_by(command, &["--unit", &units(env)]);
    env.wait_control();
    env.wait_state("app", UnitState::Running);
}

const NAMESPACE: &str =
    "[Service]\nExecStart = [\"unshare\", \"-fp\", \"sleep\", \"1000\"]\nTimeoutStopSec = \"100ms\"\n";

#[test]
fn a_stop_gives_up_what_cannot_be_killed_and_names_it() {
    if !is_root() {
        return;
    }
    let mut env = Env::new();
    env.unit("app", NAMESPACE);
    start_without_groups(&mut env);
    let immortal = Immortal::of(&env, env.main_pid("app"));
    let stopped = env.ctl(&["stop", "app"]);
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    let line = env.wait_log("was killed and does not end");
    assert!(
        line.contains("Z WARN ") && line.contains(&format!("process {} (sleep, state ", immortal.init)),
        "{line}"
    );
    assert_eq!(env.unit_status("app").state, UnitState::Stopped);
    // It can be started and stopped again, and aeternad itself ends.
    assert_eq!(env.ctl(&["start", "app"]).code, 0);
    env.wait_state("app", UnitState::Running);
    immortal.end(&env);
    env.signal(Signal::SIGTERM);
    assert!(env.wait_exit().success(), "{}", env.log());
}

#[test]
fn a_reload_ends_though_its_new_generation_cannot_be_killed() {
    if !is_root() {
        return;
    }
    let mut env = Env::new();
    let reload = "[Reload]\nSoakTime = \"1h\"\nDrainTimeout = \"100ms\"\n";
    env.unit("app", &format!("{NAMESPACE}{reload}"));
    start_without_groups(&mut env);
    let old = env.main_pid("app");
    let mark = env.mark();
    assert_eq!(env.ctl(&["reload", "app", "--no-wait"]).code, 0);
    let soaking = env.wait_unit("app", "the soak", |unit| unit.state == UnitState::Soaking);
    let new = soaking.generations.iter().find(|g| g.number == 2).unwrap().pids[0];
    let immortal = Immortal::of(&env, new);
    assert_eq!(env.ctl(&["rollback", "app"]).code, 0);
    assert_eq!(env.wait_reloaded("app", mark).outcome, Some(Outcome::RolledBack));
    env.wait_log("was killed and does not end");
    assert_eq!(env.main_pid("app"), old);
    let mark = env.mark();
    assert_eq!(env.ctl(&["reload", "app", "--no-wait"]).code, 0);
    env.wait_state("app", UnitState::Soaking);
    assert_eq!(env.ctl(&["promote", "app"]).code, 0);
    assert_eq!(env.wait_reloaded("app", mark).outcome, Some(Outcome::Promoted));
    immortal.end(&env);
}

#[test]
fn without_cap_kill_a_service_of_another_user_is_ended_with_that_users_rights() {
    if !is_root() {
        return;
    }
    let mut env = Env::new();
    env.unit("app", "[Service]\nExecStart = \"/bin/sleep 1000\"\nUser = \"nobody\"\nTimeoutStopSec = \"1h\"");
    let mut command = env.command("setpriv");
    command.args(["--bounding-set", "-kill", "--inh-caps", "-kill", AETERNAD]);
    env.launch_by(command, &["--unit", &units(&env)]);
    env.wait_control();
    env.wait_state("app", UnitState::Running);
    let pid = env.main_pid("app");
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    env.wait_gone(pid);
    assert!(!env.log().contains("cannot send"), "{}", env.log());
}

#[test]
fn a_stopped_process_hears_the_watchdog() {
    let mut env = Env::new();
    env.unit("bystander", "[Service]\nExecStart = \"/bin/sleep 1000\"");
    env.unit(
        "app",
        "[Service]\nExecStart = [\"/bin/sh\", \"-c\", \"kill -STOP $$$$; sleep 1000\"]\nWatchdogSec = \"1s\"\nTimeoutStopSec = \"1h\"",
    );
    env.start();
    let failed = env.wait_state("app", UnitState::Failed);
    assert!(
        failed.why.contains("sent no WATCHDOG=1 within WatchdogSec and was killed by SIGABRT"),
        "{}",
        failed.why
    );
}

#[test]
fn what_hooks_leave_running_does_not_outlive_them() {
    let mut env = Env::new();
    let leaves = |name: &str| {
        format!("[\"/bin/sh\", \"-c\", \"setsid sleep 1000 >/dev/null 2>&1 & echo $! > {{dir}}/{name}\"]")
    };
    let (check, good) = (leaves("check"), leaves("good"));
    env.unit(
        "app",
        &format!(
            "[Service]\nExecStart = \"/bin/sleep 1000\"\n[Reload]\nStrategy = \"immediate\"\nPreFlight = [{{ Name = \"check\", Exec = {check} }}]\nOnSuccess = [{{ Name = \"good\", Exec = {good} }}]\nOnFailure = [{{ Name = \"bad\", Exec = {} }}]\n",
            leaves("bad")
        ),
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.ctl(&["reload", "app"]).code, 0);
    for name in ["check", "good"] {
        env.wait_gone(pid_in(&env, name));
    }
    env.unit(
        "app",
        &format!(
            "[Service]\nExecStart = \"/bin/sleep 1000\"\n[Reload]\nPreFlight = [{{ Name = \"no\", Exec = \"/bin/false\" }}]\nOnFailure = [{{ Name = \"bad\", Exec = {} }}]\n",
            leaves("bad")
        ),
    );
    assert_eq!(env.ctl(&["reload", "app"]).code, 1);
    env.wait_gone(pid_in(&env, "bad"));
}

#[test]
fn a_reload_signal_that_the_service_does_not_handle_is_not_sent() {
    let mut env = Env::new();
    env.unit(
        "app",
        "[Service]\nExecStart = \"/bin/sleep 1000\"\n[Reload]\nStrategy = \"signal\"\nReloadSignal = \"SIGHUP\"",
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    let pid = env.main_pid("app");
    let refused = env.ctl(&["reload", "app"]);
    assert_eq!(refused.code, 1);
    for part in [format!("process {pid} (sleep"), "does not handle SIGHUP".into(), "ExecReload".into()] {
        let said = format!("{}{}", refused.stdout, refused.stderr);
        assert!(said.contains(&part), "{part}: {said}");
    }
    assert_eq!(env.main_pid("app"), pid);
}

#[test]
fn a_service_of_another_user_can_open_its_standard_output() {
    if !is_root() {
        return;
    }
    let mut env = Env::new();
    env.unit(
        "app",
        "[Service]\nExecStart = [\"/bin/sh\", \"-c\", \"echo to the file >/dev/stdout; echo also >/dev/stderr; sleep 1000\"]\nUser = \"nobody\"\nStandardOutput = \"log\"\nStandardError = \"log\"",
    );
    env.start();
    env.wait_log(": to the file");
    env.wait_log(": also");
}

#[test]
fn generations_do_not_write_over_each_others_lines() {
    let mut env = Env::new();
    env.unit(
        "app",
        "[Service]\nExecStart = [\"/bin/sh\", \"-c\", \"echo out $AETERNA_GENERATION; echo err $AETERNA_GENERATION >&2; sleep 1000\"]\nStandardOutput = \"file:{dir}/out\"\nStandardError = \"file:{dir}/out\"\n[Reload]\nStrategy = \"immediate\"",
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.ctl(&["reload", "app"]).code, 0);
    let text = env.wait("four lines", || {
        let text = std::fs::read_to_string(env.path("out")).ok()?;
        (text.lines().count() == 4).then_some(text)
    });
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["err 1", "err 2", "out 1", "out 2"]);
}

/// aeternad at a level, with one unit, until it has failed; what it has logged.
fn failing_at(level: &str, service: &str) -> String {
    let mut env = Env::new();
    env.arguments(&["--log-level", level]);
    env.unit("app", &format!("[Service]\n{service}"));
    env.unit("bystander", "[Service]\nExecStart = \"/bin/sleep 1000\"");
    env.start();
    env.wait_state("app", UnitState::Failed);
    env.wait_log("app: ");
    env.ctl(&["stop", "bystander"]);
    env.log()
}

#[test]
fn what_has_failed_is_said_at_every_level() {
    let limit =
        "Restart = \"always\"\nRestartSec = \"1ms\"\nStartLimitBurst = 2\nStartLimitIntervalSec = \"1h\"";
    let rows = [
        (
            "ExecStart = \"/bin/sleep 1000\"\nType = \"notify\"\nTimeoutStartSec = \"100ms\"".to_owned(),
            "not ready within TimeoutStartSec",
        ),
        ("ExecStart = \"/bin/false\"\nType = \"notify\"".to_owned(), "exited with status 1"),
        ("ExecStart = \"/bin/true\"\nType = \"notify\"".to_owned(), "before it said READY=1"),
        (
            "ExecStart = \"/bin/sleep 1000\"\nExecStartPre = \"/bin/false\"".to_owned(),
            "ExecStartPre exited with status 1",
        ),
        (format!("ExecStart = \"/bin/false\"\n{limit}"), "start-limit-hit"),
        ("ExecStart = \"/bin/false\"".to_owned(), "FAILED"),
    ];
    for (service, words) in rows {
        for level in ["error", "warn"] {
            let log = failing_at(level, &service);
            assert!(
                log.lines().any(|line| line.contains(" ERROR app: ") && line.contains(words)),
                "{level}: {words}: {log}"
            );
        }
    }
}

#[test]
fn a_child_that_says_ready_is_named() {
    let mut env = Env::new();
    env.unit("bystander", "[Service]\nExecStart = \"/bin/sleep 1000\"");
    env.unit(
        "app",
        "[Service]\nExecStart = [\"/bin/sh\", \"-c\", \"{probe} & echo $! > {dir}/child; wait\"]\nType = \"notify\"\nTimeoutStartSec = \"1s\"",
    );
    env.start();
    let child = pid_in(&env, "child");
    let line = env.wait_log("has said READY=1");
    for part in [format!("process {child}"), "NotifyAccess = \"main\"".into(), "exec".into()] {
        assert!(line.contains(&part), "{part}: {line}");
    }
    let failed = env.wait_state("app", UnitState::Failed);
    assert!(failed.why.contains(&format!("process {child} has said READY=1")), "{}", failed.why);
}

#[test]
fn a_program_that_goes_into_the_background_is_told_what_to_do() {
    for kind in ["exec", "notify"] {
        let mut env = Env::new();
        env.unit("bystander", "[Service]\nExecStart = \"/bin/sleep 1000\"");
        env.unit(
            "app",
            &format!("[Service]\nExecStart = [\"/bin/sh\", \"-c\", \"setsid sleep 1000 & exit 0\"]\nType = \"{kind}\""),
        );
        env.start();
        let line = env.wait_log("stay in the foreground");
        assert!(line.contains("Z WARN ") || line.contains("Z ERROR "), "{line}");
    }
}

#[test]
fn a_signal_that_means_nothing_is_said_to() {
    let mut env = Env::new();
    env.unit("app", "[Service]\nExecStart = \"/bin/sleep 1000\"");
    env.start();
    for (signal, name) in [(Signal::SIGWINCH, "SIGWINCH"), (Signal::SIGALRM, "SIGALRM")] {
        env.signal(signal);
        let line = env.wait_log(&format!("{name} means nothing to aeternad"));
        assert!(line.contains("Z WARN ") && line.contains("SIGTERM"), "{line}");
    }
    env.wait_state("app", UnitState::Running);
}

#[test]
fn an_unmapped_user_is_named_with_its_namespace() {
    let mut env = Env::new();
    env.unit("app", "[Service]\nExecStart = \"/bin/sleep 1000\"\nUser = \"65534\"\nNotifyAccess = \"none\"");
    let mut trial = env.command("unshare");
    trial.args(["-U", "--map-root-user", "true"]);
    if env.finish(trial).code != 0 {
        return common::skip("no user namespace can be made here");
    }
    let mut command = env.command("unshare");
    command.args(["-U", "--map-root-user", AETERNAD]);
    env.launch_by(command, &["--unit", &units(&env)]);
    assert_ne!(process::code(env.wait_exit()), 0);
    // Its groups, its user, or that groups cannot be set at all: whichever comes first.
    env.wait_log("user namespace");
}

#[test]
fn a_folder_and_a_mount_without_exec_are_named() {
    let mut env = Env::new();
    let mut rows = vec![("{dir}".to_owned(), "it is a folder".to_owned())];
    if nix::unistd::geteuid().is_root() {
        std::fs::create_dir(env.path("noexec")).unwrap();
        rows.push(("{dir}/noexec/true".into(), "mounted noexec".into()));
    }
    for (program, words) in rows {
        let unit = env.unit("app", &format!("[Service]\nExecStart = \"{program}\""));
        let mount = if program.contains("noexec") {
            env.fill("mount -t tmpfs -o noexec none {dir}/noexec && cp /bin/true {dir}/noexec/true")
        } else {
            "true".into()
        };
        let command =
            if nix::unistd::geteuid().is_root() { behind(&env, &[], &mount) } else { env.command(AETERNAD) };
        env.launch_by(command, &["--unit", &unit.display().to_string()]);
        assert_eq!(process::code(env.wait_exit()), 126, "{}", env.log());
        env.wait_log(&words);
    }
}

#[test]
fn what_systemd_does_for_daemons_is_answered_with_what_to_do_instead() {
    let env = Env::new();
    let unit = env
        .unit("app", "[Service]\nExecStart = \"/bin/true\"\nType = \"forking\"\nPIDFile = \"/run/app.pid\"");
    let checked = env.daemon(&["--check", "--unit", &unit.display().to_string()]);
    assert_eq!(checked.code, 78);
    for part in ["stay in the foreground, and use \"exec\" or \"notify\"", "PIDFile", "drop the key"] {
        assert!(checked.stderr.contains(part), "{part}: {}", checked.stderr);
    }
}

#[test]
fn without_cap_fowner_a_service_of_another_user_starts_and_what_takes_it_is_named() {
    if !is_root() {
        return;
    }
    let mut env = Env::new();
    let unit = |mode: &str| {
        format!(
            "[Socket]\nListenStream = \"{{dir}}/app.sock\"\nSocketUser = \"nobody\"\nSocketMode = \"{mode}\"\n[Service]\n\
             ExecStart = \"{{probe}}\"\nType = \"notify\"\nUser = \"nobody\"\n[Reload]\nStrategy = \"immediate\"\n"
        )
    };
    env.unit("app", &unit("0660"));
    let mut command = env.command("setpriv");
    command.args(["--bounding-set", "-fowner", "--inh-caps", "-fowner", AETERNAD]);
    env.launch_by(command, &["--unit", &units(&env)]);
    env.wait_control();
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.ctl(&["reload", "app"]).code, 0, "{}", env.log());
    env.unit("app", &unit("0600"));
    let done = env.ctl(&["reload", "app"]);
    assert!(done.code == 0 && done.stdout.contains("(this takes CAP_FOWNER)"), "{done:?}");
}
