//! A generation is a release: what was promoted is what restarts, workers, stop commands and rollbacks run, whatever the
//! names in the unit mean by then.

use crate::common::load::{Load, Manner};
use crate::common::{self, Env, http, process};
use aeterna::proto::status::UnitState;
use nix::sys::signal::Signal;
use std::path::PathBuf;

/// Where a version stands in a copy of the probe: behind its end, where nothing looks.
const MARK: &str = "<<version ";

/// How a program gets a new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// `mv app.new app`.
    Rename,
    /// `rels/N/app`, and a link `current` that is moved.
    Link,
}

/// Runs a shell script in the world's folder: by a process of its own, because nobody can execute what somebody has open
/// for writing, and another test may start a process just then.
pub(crate) fn shell(env: &Env, script: &str) {
    let mut command = env.command("/bin/sh");
    command.args(["-ec", script]).current_dir(env.dir());
    let done = env.finish(command);
    assert_eq!(done.code, 0, "{script}: {done:?}");
}

/// Deploys a version of the probe.
pub(crate) fn deploy(env: &Env, way: Way, version: u32) {
    let probe = common::example("probe").display().to_string();
    let fresh = format!("cp {probe} fresh; printf '{MARK}{version}>>' >> fresh; chmod 755 fresh");
    let put = match way {
        Way::Rename => "mv -f fresh app".to_owned(),
        Way::Link => format!(
            "mkdir -p rels/{version}; mv fresh rels/{version}/app; ln -sfn rels/{version} next; mv -T next current"
        ),
    };
    shell(env, &format!("{fresh}; {put}"));
}

/// Killed processes come back at once.
pub(crate) const AGAIN: &str = "Restart = \"always\"\nRestartSec = 0";

/// The unit: `program` with one socket.
pub(crate) fn write(env: &Env, program: &str, service: &str, reload: &str) {
    let text = format!(
        "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{program} orders={{dir}}/orders-%%g.sock\"\n\
         Environment = {{ PROBE_FILE = \"{{dir}}/probe\" }}\nType = \"notify\"\n{service}\n[Reload]\nSoakTime = 0\nDrainTimeout = \"10s\"\n{reload}\n"
    );
    env.unit("app", &text);
}

pub(crate) fn started(way: Way, service: &str, reload: &str) -> Env {
    let mut env = Env::new();
    deploy(&env, way, 1);
    let program = if way == Way::Link { "{dir}/current/app" } else { "{dir}/app" };
    write(&env, program, &format!("{AGAIN}\n{service}"), reload);
    env.start();
    env.wait_state("app", UnitState::Running);
    env
}

/// Which version of the probe a process runs.
pub(crate) fn version(pid: i32) -> u32 {
    let program = std::fs::read(format!("/proc/{pid}/exe")).unwrap();
    let tail = String::from_utf8_lossy(&program[program.len() - 40..]).into_owned();
    let at = tail.find(MARK).unwrap_or_else(|| panic!("no version in {tail:?}"));
    tail[at + MARK.len()..].trim_end_matches('>').parse().unwrap()
}

/// What a process sees as its own name.
fn first_word(env: &Env, pid: i32) -> String {
    // For a moment after execve(2) there is none.
    env.wait("its arguments", || {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        line.split('\0').next().filter(|word| !word.is_empty()).map(str::to_owned)
    })
}

pub(crate) fn serves(env: &Env) -> u32 {
    version(env.main_pid("app"))
}

/// Kills a main process and waits until another has taken its place.
pub(crate) fn kill(env: &Env) -> i32 {
    let pid = env.main_pid("app");
    process::kill(pid, Signal::SIGKILL);
    let after = env.wait_unit("app", "another process", |unit| {
        unit.state == UnitState::Running && unit.main_pids.first().is_some_and(|new| *new != pid)
    });
    after.main_pids[0]
}

pub(crate) fn reload_well(env: &Env) {
    let done = env.ctl(&["reload", "app"]);
    assert_eq!(done.code, 0, "{done:?}\n{}", env.log());
    settled(env);
}

/// Waits until the old generation is gone.
pub(crate) fn settled(env: &Env) {
    env.wait_unit("app", "one generation", |unit| {
        unit.state == UnitState::Running && unit.generations.len() == 1
    });
}

pub(crate) fn rollback(env: &Env, arguments: &[&str], code: i32) -> String {
    let done = env.ctl(&[&["rollback", "app"], arguments].concat());
    assert_eq!(done.code, code, "{done:?}");
    if code == 0 {
        settled(env);
    }
    done.stdout + &done.stderr
}

#[test]
fn a_rollback_runs_what_was_promoted_before_though_its_name_means_another() {
    for way in [Way::Rename, Way::Link] {
        let env = started(way, "", "");
        let load = Load::start(&env.address("app", 0), 2, Manner::Fresh);
        for number in [2, 3] {
            deploy(&env, way, number);
            reload_well(&env);
            assert_eq!(serves(&env), number, "{way:?}");
        }
        load.wait_answers(50);
        rollback(&env, &[], 0);
        assert_eq!(serves(&env), 2, "{way:?}");
        // Restarts of it too.
        assert_eq!(version(kill(&env)), 2);
        rollback(&env, &[], 0);
        assert_eq!(serves(&env), 1);
        let told = rollback(&env, &[], 1);
        assert!(told.contains("there is no earlier release to go back to"), "{told}");
        load.wait_answers(50);
        let counts = load.finish();
        // The kill may have hit one or two that it had in its hands.
        assert!(counts.failed.len() <= 2, "{way:?}: {:?}", counts.failed);
        // A reload by hand goes forward to what the name means, and a rollback from there to what served before.
        reload_well(&env);
        assert_eq!(serves(&env), 3);
        rollback(&env, &[], 0);
        assert_eq!(serves(&env), 1, "2 was left by a rollback");
    }
}

#[test]
fn a_reload_without_a_change_is_no_release_to_go_back_from() {
    let env = started(Way::Rename, "", "");
    reload_well(&env);
    let told = rollback(&env, &[], 1);
    assert!(told.contains("generation 2 runs the same program and unit as generation 1"), "{told}");
    assert_eq!(env.unit_status("app").generation, 2);
}

#[test]
fn what_a_reload_has_refused_is_not_started_when_the_old_one_dies() {
    for way in [Way::Rename, Way::Link] {
        let env = started(way, "", "");
        deploy(&env, way, 2);
        env.next_start("exit=7");
        assert_eq!(env.ctl(&["reload", "app"]).code, 3);
        env.next_start("");
        settled(&env);
        for _ in 0..3 {
            assert_eq!(version(kill(&env)), 1, "{way:?}");
        }
        env.wait_log("the one on disk is newer and was not promoted");
        assert_eq!(env.log().matches("the one on disk is newer").count(), 1);
    }
}

#[test]
fn a_worker_comes_back_with_its_generations_program_and_folder() {
    let env = started(Way::Link, "Workers = 2\nWorkingDirectory = \"{dir}/current\"", "");
    let before = env.unit_status("app").main_pids;
    deploy(&env, Way::Link, 2);
    process::kill(before[0], Signal::SIGKILL);
    let after = env.wait_unit("app", "two workers again", |unit| {
        unit.main_pids.len() == 2 && !unit.main_pids.contains(&before[0])
    });
    let real = std::fs::canonicalize(env.path("rels/1")).unwrap();
    for pid in after.main_pids {
        assert_eq!(version(pid), 1);
        assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), real);
        assert_eq!(first_word(&env, pid), real.join("app").display().to_string());
    }
}

#[test]
fn a_program_that_was_removed_serves_on_and_comes_back() {
    let env = started(Way::Link, "", "");
    std::fs::remove_dir_all(env.path("rels/1")).unwrap();
    std::fs::remove_file(env.path("current")).unwrap();
    assert_eq!(version(kill(&env)), 1);
    deploy(&env, Way::Link, 2);
    reload_well(&env);
    assert_eq!(serves(&env), 2);
    rollback(&env, &[], 0);
    assert_eq!(serves(&env), 1);
}

#[test]
fn a_rollback_to_what_is_gone_starts_nothing_and_says_why() {
    let env = started(Way::Rename, "", "");
    let old = env.main_pid("app");
    deploy(&env, Way::Rename, 2);
    std::fs::hard_link(env.path("app"), env.path("two")).unwrap();
    reload_well(&env);
    deploy(&env, Way::Rename, 3);
    reload_well(&env);
    env.wait_gone(old);
    // Written in place under another name: nobody runs it any more, so the kernel lets it happen.
    shell(&env, "echo >> two");
    let told = rollback(&env, &[], 1);
    assert!(told.contains("app: failed after "), "{told}");
    assert!(told.contains("/app was overwritten in place at "), "{told}");
    assert!(told.contains("what generation 2 ran exists no more; replace programs by rename"), "{told}");
    assert!(told.contains("nothing was started. Kept: generation 1 ("), "{told}");
    let after = env.unit_status("app");
    assert_eq!((after.generation, after.generations.len()), (3, 1));
    assert_eq!(serves(&env), 3);
}

#[test]
fn a_folder_that_was_removed_or_is_another_is_told_before_anything_is_started() {
    let env = started(Way::Link, "WorkingDirectory = \"{dir}/current\"", "");
    deploy(&env, Way::Link, 2);
    reload_well(&env);
    std::fs::remove_dir_all(env.path("rels/1")).unwrap();
    let told = rollback(&env, &[], 1);
    assert!(told.contains("the release of generation 1, "), "{told}");
    assert!(told.contains("/rels/1, has been removed; nothing was started"), "{told}");
    deploy(&env, Way::Link, 1);
    let told = rollback(&env, &[], 1);
    assert!(told.contains("/rels/1 is not the folder any more that generation 1 ran in"), "{told}");
    assert_eq!(serves(&env), 2);
}

#[test]
fn a_script_runs_by_its_name_and_is_told_when_that_is_another() {
    let mut env = Env::new();
    let script = |env: &Env, body: &str| {
        let probe = common::example("probe").display().to_string();
        shell(
            env,
            &format!(
                "printf '#!/bin/sh\\nexec {probe} body={body} \"$@\"\\n' > fresh; chmod 755 fresh; mv fresh run.sh"
            ),
        );
    };
    script(&env, "one");
    write(&env, "{dir}/run.sh", "", "");
    env.start();
    env.wait_state("app", UnitState::Running);
    script(&env, "two");
    reload_well(&env);
    assert_eq!(env.get("app", "/").body, "two");
    let told = rollback(&env, &[], 1);
    assert!(
        told.contains("/run.sh is a script and was replaced by rename; a script runs by its name"),
        "{told}"
    );
    assert!(told.contains("behind a link that Release names"), "{told}");
    assert_eq!(env.get("app", "/").body, "two");
}

/// A unit that listens for its first connection, and stops when it is told to.
const ON_DEMAND: &str = "StartOn = \"connection\"\nRestart = \"no\"";

fn on_demand() -> Env {
    let mut env = Env::new();
    deploy(&env, Way::Rename, 1);
    write(&env, "{dir}/app", ON_DEMAND, "");
    env.start();
    env.wait_state("app", UnitState::Listening);
    env.get("app", "/");
    env.wait_state("app", UnitState::Running);
    // Another name of its file, which it can be written by when nobody runs it.
    std::fs::hard_link(env.path("app"), env.path("one")).unwrap();
    env
}

/// Ends the service, and writes to the file that it ran.
fn end_and_spoil(env: &Env, generation: u32) {
    env.order(generation, "/exit?code=0");
    env.wait_state("app", UnitState::Listening);
    shell(env, "echo >> one");
}

#[test]
fn an_automatic_start_takes_what_is_there_when_its_own_is_gone() {
    let env = on_demand();
    deploy(&env, Way::Rename, 2);
    end_and_spoil(&env, 1);
    env.get("app", "/");
    assert_eq!(serves(&env), 2);
    let line = env.wait_log("is gone (");
    assert!(line.contains("the release of generation 1 is gone ("), "{line}");
    assert!(line.contains("/app was overwritten in place at "), "{line}");
    assert!(line.contains("which no reload has tried"), "{line}");
}

#[test]
fn what_was_not_checked_does_not_run_in_the_place_of_what_was() {
    let mut env = Env::new();
    deploy(&env, Way::Rename, 1);
    shell(&env, "sha256sum app | cut -d ' ' -f 1 | tr -d '\\n' > sum; ln app one");
    let sum = std::fs::read_to_string(env.path("sum")).unwrap();
    write(&env, "{dir}/app", ON_DEMAND, &format!("BinarySHA256 = \"{sum}\""));
    env.start();
    env.wait_state("app", UnitState::Listening);
    env.get("app", "/");
    deploy(&env, Way::Rename, 2);
    let done = env.ctl(&["reload", "app"]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stdout.contains("is not the program that BinarySHA256 names"), "{done:?}");
    // The one that was checked runs again, though its name means another.
    assert_eq!(serves(&env), 1);
    end_and_spoil(&env, 1);
    drop(http::connect(&env.address("app", 0)));
    env.wait_state("app", UnitState::Failed);
    env.wait_log("has been written to since it was checked");
    assert!(env.processes().iter().all(|seen| !seen.command.contains("/app orders=")));
}

/// A unit on demand with the sum of the program that is there.
fn with_sum() -> (Env, String) {
    let env = Env::new();
    deploy(&env, Way::Rename, 1);
    shell(&env, "sha256sum app | cut -d ' ' -f 1 | tr -d '\\n' > sum");
    let sum = std::fs::read_to_string(env.path("sum")).unwrap();
    write(&env, "{dir}/app", ON_DEMAND, &format!("BinarySHA256 = \"{sum}\""));
    (env, sum)
}

#[test]
fn a_start_runs_only_what_has_the_sum() {
    let (mut env, _) = with_sum();
    // Before aeternad has seen anything.
    shell(&env, "printf x >> app");
    env.start();
    env.wait_state("app", UnitState::Listening);
    drop(http::connect(&env.address("app", 0)));
    env.wait_state("app", UnitState::Failed);
    let line = env.wait_log("is not the program that BinarySHA256 names");
    assert!(line.contains("/app is not the program"), "{line}");
    assert!(line.contains("it does not have the SHA-256 sum that is wanted"), "{line}");
    assert!(env.processes().iter().all(|seen| !seen.command.contains("/app orders=")));
}

#[test]
fn a_restart_sees_a_change_that_leaves_length_and_time_as_they_were() {
    let (mut env, sum) = with_sum();
    env.start();
    env.wait_state("app", UnitState::Listening);
    env.get("app", "/");
    // What was read is executed by its descriptor, whatever its name means by then.
    assert_eq!(serves(&env), 1);
    let pid = env.main_pid("app");
    process::kill(pid, Signal::SIGTERM);
    env.wait_state("app", UnitState::Listening);
    shell(
        &env,
        "touch -r app then; size=$(stat -c %s app); printf x | dd of=app bs=1 seek=$((size - 1)) conv=notrunc 2>&1; touch -r then app",
    );
    drop(http::connect(&env.address("app", 0)));
    env.wait_state("app", UnitState::Failed);
    env.wait_log("is not the program that BinarySHA256 names");
    // The right one again: its sum is what counts, not its stamp.
    shell(&env, "printf '>' | dd of=app bs=1 seek=$((size = $(stat -c %s app) - 1)) conv=notrunc 2>&1");
    shell(&env, &format!("echo {sum} app | sha256sum -c -"));
    assert_eq!(env.ctl(&["start", "app"]).code, 0, "{}", env.log());
    env.get("app", "/");
    assert_eq!(serves(&env), 1);
}

#[test]
fn what_a_reload_has_given_up_is_not_taken_in_the_place_of_what_is_gone() {
    let env = on_demand();
    deploy(&env, Way::Rename, 2);
    env.next_start("exit=7");
    assert_eq!(env.ctl(&["reload", "app"]).code, 3);
    env.next_start("");
    env.wait_unit("app", "one generation", |unit| unit.generations.len() == 1);
    end_and_spoil(&env, 1);
    let mark = env.mark();
    drop(http::connect(&env.address("app", 0)));
    let after = env.wait_state("app", UnitState::Failed);
    let text = format!("{after:?}\n{}", env.log());
    assert!(text.contains("the release of generation 1 is gone ("), "{text}");
    assert!(text.contains("was given up by the reload at "), "{text}");
    assert!(text.contains("exited with status 7"), "{text}");
    assert!(text.contains("put another in its place, then aeternactl start app"), "{text}");
    assert!(!env.states_since(mark).contains(&UnitState::Backoff));
    deploy(&env, Way::Rename, 3);
    assert_eq!(env.ctl(&["start", "app"]).code, 0);
    env.get("app", "/");
    assert_eq!(serves(&env), 3);
}

#[test]
fn a_rollback_while_nothing_runs_is_refused_too_when_its_target_is_gone() {
    let env = on_demand();
    deploy(&env, Way::Rename, 2);
    reload_well(&env);
    env.order(2, "/exit?code=0");
    env.wait_state("app", UnitState::Listening);
    shell(&env, "echo >> one");
    let told = rollback(&env, &[], 1);
    assert!(told.contains("was overwritten in place"), "{told}");
    env.get("app", "/");
    assert_eq!(serves(&env), 2);
}

#[test]
fn stop_and_reload_commands_of_a_generation_are_its_own() {
    let env = started(
        Way::Link,
        "ExecStop = \"{dir}/current/app append={dir}/stopped show=AETERNA_GENERATION no_serve\"",
        "",
    );
    deploy(&env, Way::Link, 2);
    shell(&env, "mv rels/1 rels/one");
    reload_well(&env);
    assert_eq!(serves(&env), 2);
    env.wait("ExecStop has run", || std::fs::read_to_string(env.path("stopped")).ok());
}

#[test]
fn what_exec_start_pre_makes_is_taken() {
    let mut env = Env::new();
    deploy(&env, Way::Rename, 1);
    shell(&env, "mv app built");
    let service = "ExecStartPre = [\"/bin/sh\", \"-c\", \"cp {dir}/built {dir}/app.new && mv {dir}/app.new {dir}/app\"]";
    write(&env, "{dir}/app", &format!("{AGAIN}\n{service}"), "");
    env.start();
    env.wait_state("app", UnitState::Running);
    assert_eq!(serves(&env), 1);
    deploy(&env, Way::Rename, 2);
    shell(&env, "cp app built");
    reload_well(&env);
    assert_eq!(serves(&env), 2);
    // Its own ExecStartPre has made another file of it again: that is what it runs.
    assert_eq!(version(kill(&env)), 2);
    assert!(!env.log().contains("is gone"), "{}", env.log());
}

#[test]
fn nothing_shows_where_nothing_was_replaced() {
    let env = started(Way::Rename, "", "");
    let pid = env.main_pid("app");
    let own: PathBuf = env.path("app");
    assert_eq!(first_word(&env, pid), own.display().to_string());
    let real = std::fs::canonicalize(&own).unwrap();
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/exe")).unwrap(), real);
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "app\n");
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let held = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    assert!(!held.into_iter().any(|target| target == real));
}

#[test]
fn a_hundred_deployments_leave_no_descriptors_behind() {
    let env = started(Way::Rename, "", "");
    let count = |env: &Env| process::descriptors(env.pid());
    for number in 2..6 {
        deploy(&env, Way::Rename, number);
        reload_well(&env);
    }
    let before = count(&env);
    for number in 6..16 {
        deploy(&env, Way::Rename, number);
        reload_well(&env);
    }
    env.wait("no more descriptors than before", || (count(&env) <= before).then_some(()));
}

/// What a deployment of a tree is: a script beside its data, and a link that moves.
pub(crate) fn deploy_tree(env: &Env, version: u32) {
    let probe = common::example("probe").display().to_string();
    shell(
        env,
        &format!(
            "mkdir -p rels/{version}; echo {version} > rels/{version}/version; \
             printf '#!/bin/sh\\nexec {probe} \"body=$(cat $1/version)\" \"$2\"\\n' > rels/{version}/run; \
             chmod 755 rels/{version}/run; ln -sfn rels/{version} next; mv -T next current"
        ),
    );
}

/// A tree behind `Release`, and what it says of itself.
const TREE: &str = "Release = \"{dir}/current\"\nEnvironment = { PROBE_FILE = \"{dir}/probe\", TREE = \"at={dir}/current\" }";

fn write_tree(env: &Env, service: &str, reload: &str) {
    let text = format!(
        "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\n{TREE}\nExecStart = [\"/bin/sh\", \"{{dir}}/current/run\", \
         \"{{dir}}/current\", \"orders={{dir}}/orders-%%g.sock\"]\nType = \"notify\"\n{service}\n[Reload]\nSoakTime = 0\nDrainTimeout = \"10s\"\n{reload}\n"
    );
    env.unit("app", &text);
}

fn tree(service: &str, reload: &str) -> Env {
    let mut env = Env::new();
    deploy_tree(&env, 1);
    write_tree(&env, service, reload);
    env.start();
    env.wait_state("app", UnitState::Running);
    env
}

fn body(env: &Env) -> String {
    env.get("app", "/").body.trim().to_owned()
}

fn real(env: &Env, name: &str) -> String {
    std::fs::canonicalize(env.path(name)).unwrap().display().to_string()
}

#[test]
fn a_tree_of_scripts_behind_release_restarts_and_rolls_back_as_it_was() {
    let env = tree(AGAIN, "");
    let load = Load::start(&env.address("app", 0), 2, Manner::Fresh);
    deploy_tree(&env, 2);
    assert_eq!(body(&env), "1");
    let newer = env.unit_status("app").notes.join("\n");
    let moved = format!("release: {} → {}", real(&env, "rels/1"), real(&env, "rels/2"));
    assert!(newer.contains(&moved), "{newer}");
    let dry = env.ctl(&["reload", "app", "--dry-run"]);
    assert!(dry.stdout.contains(&format!("app: {moved}")), "{dry:?}");
    reload_well(&env);
    assert_eq!(body(&env), "2");
    rollback(&env, &[], 0);
    assert_eq!(body(&env), "1");
    load.wait_answers(50);
    let counts = load.finish();
    assert!(counts.failed.is_empty(), "{:?}", counts.failed);
    for _ in 0..2 {
        kill(&env);
        assert_eq!(body(&env), "1");
    }
    rollback(&env, &["--to", "2"], 0);
    assert_eq!(body(&env), "2");
    let shown = env.ctl(&["releases", "app"]);
    assert!(shown.stdout.contains(&real(&env, "rels/1")), "{shown:?}");
    assert!(shown.stdout.contains(" serving"), "{shown:?}");
    std::fs::remove_dir_all(env.path("rels/1")).unwrap();
    let shown = env.ctl(&["releases", "app"]);
    assert!(shown.stdout.contains("has been removed"), "{shown:?}");
    let told = rollback(&env, &[], 1);
    assert!(told.contains("/rels/1, has been removed; nothing was started"), "{told}");
    assert_eq!(body(&env), "2");
}

#[test]
fn a_service_sees_its_release_and_a_hook_the_one_that_serves() {
    let env = tree(
        AGAIN,
        "WatchPaths = [\"{dir}/current\"]\n\
         OnFailure = { Exec = [\"/bin/sh\", \"-c\", \"echo $AETERNA_RELEASE > {dir}/was; ln -sfn $AETERNA_RELEASE_SERVING {dir}/back; mv -T {dir}/back {dir}/current\"] }",
    );
    let one = real(&env, "rels/1");
    let pid = env.main_pid("app");
    let variables = env.wait("its environment", || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
        text.contains("TREE").then_some(text)
    });
    for expected in [format!("AETERNA_RELEASE={one}"), format!("TREE=at={one}")] {
        assert!(variables.split('\0').any(|known| known == expected), "{variables}");
    }
    assert!(
        env.ctl(&["show", "app"]).stdout.contains(&format!("Release = \"{}/current\"", env.dir().display()))
    );
    env.next_start("exit=7");
    let mark = env.mark();
    deploy_tree(&env, 2);
    env.wait_reloaded("app", mark);
    // The hook puts the link back, and that is no deployment.
    env.wait_log("leads to the release that serves: no reload");
    env.next_start("");
    assert_eq!(std::fs::read_to_string(env.path("was")).unwrap().trim(), real(&env, "rels/2"));
    assert_eq!(real(&env, "current"), one);
    assert_eq!(body(&env), "1");
    assert_eq!(env.unit_status("app").generation, 1);
}

#[test]
fn a_release_that_leads_nowhere_fails_the_reload_and_starts_when_it_leads_somewhere() {
    let env = tree("", "");
    std::fs::remove_file(env.path("current")).unwrap();
    let done = env.ctl(&["reload", "app"]);
    assert_eq!(done.code, 1, "{done:?}");
    let why = format!("Release {}/current: No such file or directory", env.dir().display());
    assert!(done.stdout.contains(&why), "{done:?}");
    assert!(env.unit_status("app").notes.iter().any(|note| note.contains(&why)));
    assert_eq!(body(&env), "1");
    let mut env = Env::new();
    write_tree(&env, "StartOn = \"connection\"", "");
    env.start();
    env.wait_state("app", UnitState::Listening);
    let mut waiting = http::Client::connect(&env.address("app", 0)).unwrap();
    waiting.send("/", "").unwrap();
    env.wait_log("/current: No such file or directory");
    // Who waits is served as soon as it leads somewhere.
    deploy_tree(&env, 5);
    assert_eq!(waiting.receive().unwrap().body.trim(), "5");
}

#[test]
fn a_release_may_be_one_file() {
    let mut env = Env::new();
    let put = |env: &Env, version: u32| {
        shell(
            env,
            &format!(
                "echo {version} > app-{version}.jar; ln -sfn app-{version}.jar next; mv -T next app.jar"
            ),
        );
    };
    put(&env, 1);
    let probe = common::example("probe").display().to_string();
    let text = format!(
        "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nRelease = \"{{dir}}/app.jar\"\nType = \"notify\"\n{AGAIN}\n\
         ExecStart = [\"/bin/sh\", \"-c\", \"exec {probe} body=$(cat {{dir}}/app.jar)\"]\n[Reload]\nSoakTime = 0\n"
    );
    env.unit("app", &text);
    env.start();
    env.wait_state("app", UnitState::Running);
    put(&env, 2);
    kill(&env);
    assert_eq!(body(&env), "1");
    reload_well(&env);
    assert_eq!(body(&env), "2");
    rollback(&env, &[], 0);
    assert_eq!(body(&env), "1");
    // Replaced under its own name: that is no release.
    shell(&env, "echo 3 > fresh; mv fresh app-2.jar");
    let told = rollback(&env, &["--to", "3"], 1);
    assert!(told.contains("app-2.jar is not the file any more that generation 3 ran"), "{told}");
}

#[test]
fn environment_files_are_what_they_were() {
    let mut env = Env::new();
    env.file("env", "WORD=one\nSECRET=s3cr3t-1\n");
    let text = "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = [\"{probe}\", \"body=${WORD}\"]\nType = \"notify\"\n\
                EnvironmentFile = [\"{dir}/env\", \"-{dir}/more\"]\nRestart = \"always\"\nRestartSec = 0\n[Reload]\nSoakTime = 0\n";
    env.unit("app", text);
    env.start();
    env.wait_state("app", UnitState::Running);
    env.file("env", "WORD=two\nSECRET=s3cr3t-2\n");
    env.file("more", "WORD=more\n");
    kill(&env);
    assert_eq!(body(&env), "one");
    let dry = env.ctl(&["reload", "app", "--dry-run"]);
    assert!(dry.stdout.contains("app: environment: SECRET, WORD changed in "), "{dry:?}");
    reload_well(&env);
    assert_eq!(body(&env), "more");
    rollback(&env, &[], 0);
    assert_eq!(body(&env), "one");
    // Not where others look.
    let all = [
        env.log(),
        env.ctl(&["status", "app", "--json"]).stdout,
        env.ctl(&["show", "app"]).stdout,
        dry.stdout,
    ];
    assert!(all.iter().all(|text| !text.contains("s3cr3t")), "{all:?}");
}

#[test]
fn an_environment_file_that_exec_start_pre_makes_is_read_when_it_is_made() {
    let mut env = Env::new();
    env.file("env", "WORD=old\n");
    let text = "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = [\"{probe}\", \"body=${WORD}${MORE}\"]\nType = \"notify\"\n\
                ExecStartPre = [[\"/bin/sh\", \"-c\", \"echo WORD=new > {dir}/fresh; mv {dir}/fresh {dir}/env\"], [\"/bin/sh\", \"-c\", \"echo MORE=$WORD > {dir}/made\"]]\n\
                EnvironmentFile = [\"{dir}/env\", \"-{dir}/made\"]\n[Reload]\nSoakTime = 0\n";
    env.unit("app", text);
    env.start();
    env.wait_state("app", UnitState::Running);
    assert_eq!(body(&env), "newnew");
}

#[test]
fn what_is_let_go_is_not_gone_back_to_and_its_descriptors_are_closed() {
    let env = started(Way::Rename, "", "");
    deploy(&env, Way::Rename, 2);
    reload_well(&env);
    let deleted = |env: &Env| {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", env.pid())).unwrap();
        let targets = fds.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        targets.filter(|target| target.to_string_lossy().contains("/app (deleted)")).count()
    };
    assert!(deleted(&env) > 0);
    let shown = env.ctl(&["releases", "app"]).stdout;
    assert!(shown.contains("its program has no name any more; "), "{shown}");
    let refused = env.ctl(&["releases", "app", "--drop", "2"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("generation 2 runs what serves now: that stays"), "{refused:?}");
    assert_eq!(env.ctl(&["releases", "app", "--drop", "1"]).code, 0);
    env.wait("its descriptors are closed", || (deleted(&env) == 0).then_some(()));
    let told = rollback(&env, &["--to", "1"], 1);
    assert!(told.contains("no release of generation 1 is kept; there is 2 (serving)"), "{told}");
}

#[test]
fn a_rolled_back_reload_says_that_the_disk_still_has_it() {
    for way in [Way::Rename, Way::Link] {
        let env = started(way, "", "");
        deploy(&env, way, 2);
        env.next_start("exit=7");
        let done = env.ctl(&["reload", "app"]);
        env.next_start("");
        assert_eq!(done.code, 3, "{done:?}");
        let told = "/app still is what was given up: a restart of aeternad or of the machine would run it";
        assert!(done.stdout.contains(told), "{done:?}");
        settled(&env);
        let notes = env.unit_status("app").notes.join("\n");
        assert!(notes.contains("what is on disk was given up by the reload at "), "{notes}");
    }
}

#[test]
fn a_release_is_a_folder_or_a_file() {
    let mut env = Env::new();
    let probe = common::example("probe").display().to_string();
    env.unit(
        "app",
        &format!("[Service]\nExecStart = \"{probe}\"\nRelease = \"{{dir}}/pipe\"\nType = \"notify\"\n"),
    );
    env.unit("other", &format!("[Service]\nExecStart = \"{probe}\"\nType = \"notify\"\n"));
    shell(&env, "mkfifo pipe");
    env.start();
    env.wait_state("app", UnitState::Failed);
    env.wait_log("/pipe: it is neither a folder nor a file");
}

#[test]
fn a_program_that_somebody_writes_is_waited_for() {
    let env = on_demand();
    env.order(1, "/exit?code=0");
    env.wait_state("app", UnitState::Listening);
    // Whoever has it open may write to it, and nobody can execute it.
    let writer = std::fs::OpenOptions::new().append(true).open(env.path("app")).unwrap();
    let mut client = http::Client::connect(&env.address("app", 0)).unwrap();
    client.send("/", "").unwrap();
    env.wait_log("Text file busy");
    assert_ne!(env.unit_status("app").state, UnitState::Failed);
    drop(writer);
    assert_eq!(client.receive().unwrap().status, 200);
    assert_eq!(serves(&env), 1);
}
