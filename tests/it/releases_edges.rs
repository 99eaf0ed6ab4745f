//! Releases where it is tight: what changes while a reload is at work, other users, an upgrade between, sums, filters, links
//! and what is seen of what is gone.

use crate::common::http::{self, Client};
use crate::common::{self, Env, process};
use crate::releases::{
    AGAIN, Way, deploy, deploy_tree, kill, reload_well, rollback, serves, settled, shell, started, version,
};
use aeterna::proto::status::{UnitState, UnitStatus};
use nix::sys::signal::Signal;

/// A pre-flight that says that it has begun, and ends when it is told to.
const HELD: &str =
    "PreFlight = { Exec = [\"/bin/sh\", \"-c\", \"read go < {dir}/begun; read go < {dir}/go\"] }";

/// A unit that goes on when the other has failed: aeternad ends with its last one.
fn beside(env: &Env) {
    env.unit("other", "[Service]\nExecStart = \"/bin/sleep 1000\"\n");
}

/// Reloads, and does something while pre-flight runs.
fn meanwhile(env: &Env, act: impl FnOnce()) -> common::Finished {
    during(env, "reload", act)
}

fn during(env: &Env, command: &str, act: impl FnOnce()) -> common::Finished {
    let waiting = env.ctl_start(&[command, "app"]);
    // A pipe is opened when both ends are there.
    shell(env, "echo > begun");
    act();
    shell(env, "echo > go");
    env.finish_child(waiting)
}

#[test]
fn what_was_read_is_launched_though_it_is_replaced_while_pre_flight_runs() {
    for way in [Way::Rename, Way::Link] {
        let env = started(way, "", HELD);
        shell(&env, "mkfifo begun go");
        deploy(&env, way, 2);
        let done = meanwhile(&env, || deploy(&env, way, 3));
        assert_eq!(done.code, 0, "{done:?}");
        settled(&env);
        assert_eq!(serves(&env), 2, "{way:?}");
        let line = env.wait_log("was replaced while pre-flight ran");
        assert!(line.contains("the one that was checked is launched"), "{line}");
        // The newer one is seen, and is what the next reload runs.
        assert_eq!(meanwhile(&env, || {}).code, 0);
        settled(&env);
        assert_eq!(serves(&env), 3, "{way:?}");
    }
}

#[test]
fn a_link_that_moves_twice_during_a_reload_leaves_one_release_running_whole() {
    let mut env = Env::new();
    deploy_tree(&env, 1);
    env.unit(
        "app",
        &format!(
            "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nRelease = \"{{dir}}/current\"\n\
             ExecStart = \"/bin/sh {{dir}}/current/run {{dir}}/current orders={{dir}}/orders-%%g.sock\"\nType = \"notify\"\n\
             Environment = {{ PROBE_FILE = \"{{dir}}/probe\" }}\n{AGAIN}\n[Reload]\nSoakTime = 0\n{HELD}\n"
        ),
    );
    shell(&env, "mkfifo begun go");
    env.start();
    env.wait_state("app", UnitState::Running);
    deploy_tree(&env, 2);
    let done = meanwhile(&env, || {
        deploy_tree(&env, 3);
        deploy_tree(&env, 1);
    });
    assert_eq!(done.code, 0, "{done:?}");
    settled(&env);
    assert_eq!(env.get("app", "/").body, "2");
    kill(&env);
    assert_eq!(env.get("app", "/").body, "2");
    let done = during(&env, "rollback", || deploy_tree(&env, 4));
    assert_eq!(done.code, 0, "{done:?}");
    settled(&env);
    assert_eq!(env.get("app", "/").body, "1");
}

#[test]
fn a_probe_of_a_health_check_is_the_releases_own() {
    let mut env = Env::new();
    shell(&env, "cp /bin/true check; mkfifo begun go");
    env.unit(
        "app",
        &format!(
            "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{{probe}}\"\nType = \"notify\"\n\
             [HealthCheck]\nExec = \"{{dir}}/check\"\nInterval = \"20ms\"\nFailureThreshold = 1\n[Reload]\nSoakTime = 0\n{HELD}\n"
        ),
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    let done = meanwhile(&env, || shell(&env, "cp /bin/false next; mv next check"));
    assert_eq!(done.code, 0, "{done:?}");
    settled(&env);
}

#[test]
fn a_rollback_checks_the_old_sum_on_the_old_program() {
    let mut env = Env::new();
    let unit = |env: &Env, number: u32| {
        deploy(env, Way::Rename, number);
        shell(env, "sha256sum app | cut -d ' ' -f 1 | tr -d '\\n' > sum");
        let sum = std::fs::read_to_string(env.path("sum")).unwrap();
        let text = format!("BinarySHA256 = \"{sum}\"");
        crate::releases::write(env, "{dir}/app", AGAIN, &text);
    };
    unit(&env, 1);
    env.start();
    env.wait_state("app", UnitState::Running);
    unit(&env, 2);
    reload_well(&env);
    assert_eq!(serves(&env), 2);
    rollback(&env, &[], 0);
    assert_eq!(serves(&env), 1);
    assert_eq!(version(kill(&env)), 1);
    rollback(&env, &["--to", "2"], 0);
    assert_eq!(serves(&env), 2);
}

#[test]
fn what_was_checked_is_launched_though_its_name_means_another_by_then() {
    let mut env = Env::new();
    let unit = |env: &Env| {
        shell(env, "sha256sum app | cut -d ' ' -f 1 | tr -d '\\n' > sum");
        let sum = std::fs::read_to_string(env.path("sum")).unwrap();
        crate::releases::write(env, "{dir}/app", "", &format!("{HELD}\nBinarySHA256 = \"{sum}\""));
    };
    deploy(&env, Way::Rename, 1);
    unit(&env);
    shell(&env, "mkfifo begun go");
    env.start();
    env.wait_state("app", UnitState::Running);
    deploy(&env, Way::Rename, 2);
    unit(&env);
    let done = meanwhile(&env, || deploy(&env, Way::Rename, 3));
    assert_eq!(done.code, 0, "{done:?}");
    settled(&env);
    assert_eq!(serves(&env), 2);
}

#[test]
fn releases_go_through_an_upgrade_of_aeternad() {
    let env = started(Way::Link, "", "");
    deploy(&env, Way::Link, 2);
    reload_well(&env);
    std::fs::remove_dir_all(env.path("rels/1")).unwrap();
    let mark = env.mark();
    assert_eq!(env.ctl(&["upgrade"]).code, 0);
    env.wait_event(mark, "the upgrade", |event| event.kind == "upgraded");
    rollback(&env, &[], 0);
    assert_eq!(serves(&env), 1, "its program has no name any more");
    assert_eq!(version(kill(&env)), 1);
    rollback(&env, &["--to", "2"], 0);
    assert_eq!(serves(&env), 2);
}

#[test]
fn what_a_reload_gave_up_is_known_after_an_upgrade() {
    let mut env = Env::new();
    deploy_tree(&env, 1);
    env.unit(
        "app",
        &format!(
            "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nRelease = \"{{dir}}/current\"\n\
             ExecStart = \"/bin/sh {{dir}}/current/run {{dir}}/current\"\nType = \"notify\"\n{AGAIN}\n[Reload]\nSoakTime = 0\n"
        ),
    );
    beside(&env);
    env.start();
    env.wait_state("app", UnitState::Running);
    deploy_tree(&env, 2);
    shell(&env, "echo 'exit 7' > rels/2/run");
    assert_eq!(env.ctl(&["reload", "app"]).code, 3);
    settled(&env);
    let mark = env.mark();
    assert_eq!(env.ctl(&["upgrade"]).code, 0);
    env.wait_event(mark, "the upgrade", |event| event.kind == "upgraded");
    std::fs::remove_dir_all(env.path("rels/1")).unwrap();
    process::kill(env.main_pid("app"), Signal::SIGKILL);
    let failed = env.wait_state("app", UnitState::Failed);
    assert!(failed.why.contains("was given up by the reload at "), "{failed:?}");
    assert!(failed.why.contains("exited with status 7"), "{failed:?}");
}

#[test]
fn an_intercepted_program_is_the_releases_own() {
    let env = started(Way::Rename, "InterceptBind = true", "");
    deploy(&env, Way::Rename, 2);
    assert_eq!(version(kill(&env)), 1);
    assert_eq!(env.get("app", "/").status, 200);
}

#[test]
fn without_privileges_and_without_the_right_to_read_the_program() {
    let mut env = Env::new();
    if !env.as_nobody() {
        return;
    }
    deploy(&env, Way::Rename, 1);
    // Root's: nobody may execute it, and not read it.
    shell(&env, "chmod 711 app");
    crate::releases::write(&env, "{dir}/app", AGAIN, "");
    env.start();
    env.wait_state("app", UnitState::Running);
    deploy(&env, Way::Rename, 2);
    assert_eq!(version(kill(&env)), 1);
    reload_well(&env);
    rollback(&env, &[], 0);
    assert_eq!(serves(&env), 1);
}

#[test]
fn the_services_user_needs_no_more_rights_than_before() {
    let mut env = Env::new();
    if !nix::unistd::geteuid().is_root() {
        return common::skip("only root starts services of other users");
    }
    deploy(&env, Way::Link, 1);
    shell(
        &env,
        "chmod 755 . rels; mkdir locked; mv rels locked/; ln -sfn locked/rels/1 next; mv -T next current",
    );
    // A folder on the way that the user may not search.
    shell(&env, "chmod 700 locked");
    env.unit(
        "app",
        "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{dir}/current/app\"\nType = \"notify\"\nUser = \"nobody\"\n",
    );
    beside(&env);
    env.start();
    env.wait_state("app", UnitState::Failed);
    env.wait_log("Permission denied");
    shell(&env, "chmod 711 locked");
    assert_eq!(env.ctl(&["start", "app"]).code, 0, "{}", env.log());
    assert_eq!(serves(&env), 1);
}

#[test]
fn links_upon_links_are_followed_once() {
    let mut env = Env::new();
    deploy(&env, Way::Link, 1);
    // `app` is a link to a file beside it, `current` a relative link to a link.
    shell(
        &env,
        "mv rels/1/app rels/1/app-1; ln -s app-1 rels/1/app; ln -sfn rels/1 stable; ln -sfn ./stable next; mv -T next current",
    );
    crate::releases::write(&env, "{dir}/current/app", AGAIN, "");
    env.start();
    env.wait_state("app", UnitState::Running);
    let probe = common::example("probe").display().to_string();
    shell(
        &env,
        &format!(
            "mkdir rels/2; cp {probe} rels/2/app; printf '<<version 2>>' >> rels/2/app; ln -sfn rels/2 next; mv -T next stable"
        ),
    );
    assert_eq!(version(kill(&env)), 1);
    // The link beside it moves too: what it led to still is there.
    shell(&env, "cp rels/2/app rels/1/app-2; ln -sfn app-2 rels/1/next; mv -T rels/1/next rels/1/app");
    assert_eq!(version(kill(&env)), 1);
    let own = std::fs::read_to_string(format!("/proc/{}/cmdline", env.main_pid("app"))).unwrap();
    assert!(own.contains("/rels/1/app\0"), "{own}");
    reload_well(&env);
    assert_eq!(serves(&env), 2);
}

#[test]
fn a_release_that_leads_in_a_circle_is_said() {
    let mut env = Env::new();
    shell(&env, "ln -s b a; ln -s a b");
    env.unit("app", "[Service]\nExecStart = \"/bin/sleep 1000\"\nRelease = \"{dir}/a\"\n");
    beside(&env);
    env.start();
    env.wait_state("app", UnitState::Failed);
    let line = env.wait_log("cannot start app: Release ");
    assert!(line.contains("/a: Too many levels of symbolic links"), "{line}");
    env.unit("app", "[Service]\nExecStart = \"/bin/sleep 1000\"\nRelease = \"current\"\n");
    let said = env.daemon(&["--check", "--unit", &env.path("units/app.toml").display().to_string()]);
    assert_eq!(said.code, 78, "{said:?}");
    assert!(said.stderr.contains("Release"), "{said:?}");
}

#[test]
fn what_is_gone_is_an_event_once_and_what_is_kept_a_figure() {
    let mut env = Env::new();
    env.arguments(&["--http", "127.0.0.1:0"]);
    deploy(&env, Way::Link, 1);
    crate::releases::write(
        &env,
        "{dir}/current/app",
        &format!("{AGAIN}\nWorkingDirectory = \"{{dir}}/current\""),
        "KeepReleases = 2",
    );
    env.start();
    let line = env.wait_log("http: listening on ");
    let address = line.rsplit(' ').next().unwrap().trim_matches('"').to_owned();
    let kept = |number: u32| {
        let line = format!("aeterna_releases_kept{{unit=\"app\"}} {number}\n");
        env.wait(&line, || http::get(&address, "/metrics").unwrap().body.contains(&line).then_some(()));
    };
    env.wait_state("app", UnitState::Running);
    kept(0);
    for number in 2..6 {
        deploy(&env, Way::Link, number);
        reload_well(&env);
        kept((number - 1).min(2));
    }
    let mark = env.mark();
    let told = |env: &Env| {
        let all = env.events_since(mark).into_iter().filter(|event| event.kind == "release_gone");
        all.map(|event| (event.generation, event.text)).collect::<Vec<_>>()
    };
    assert_eq!(env.ctl(&["releases", "app"]).code, 0);
    assert_eq!(told(&env), []);
    shell(&env, "rm -r rels/3");
    for _ in 0..2 {
        assert_eq!(env.ctl(&["releases", "app"]).code, 0);
        assert_eq!(env.ctl(&["status", "app"]).code, 0);
    }
    let [(Some(3), text)] = &told(&env)[..] else { panic!("{:?}", told(&env)) };
    assert!(text.contains("the release of generation 3, ") && text.contains("has been removed"), "{text}");
    shell(&env, "rm -r rels/4");
    rollback(&env, &[], 1);
    assert_eq!(told(&env).iter().map(|(number, _)| *number).collect::<Vec<_>>(), [Some(3), Some(4)]);
    // What starts by itself finds it too.
    shell(&env, "rm -r rels/5; cp -r rels/2 rels/5");
    process::kill(env.main_pid("app"), Signal::SIGKILL);
    env.wait_event(mark, "the loss", |event| event.kind == "release_gone" && event.generation == Some(5));
}

#[test]
fn a_dry_run_names_the_release_and_the_program_that_would_run() {
    let mut env = Env::new();
    deploy(&env, Way::Link, 1);
    crate::releases::write(&env, "{dir}/current/app", "Release = \"{dir}/current\"", "");
    env.start();
    env.wait_state("app", UnitState::Running);
    let dry = |env: &Env| env.ctl(&["reload", "app", "--dry-run"]).stdout;
    assert!(dry(&env).contains("no difference"), "{}", dry(&env));
    deploy(&env, Way::Link, 2);
    let real = |name: &str| std::fs::canonicalize(env.path(name)).unwrap().display().to_string();
    let (one, two) = (real("rels/1"), real("rels/2"));
    let said = dry(&env);
    assert!(said.contains(&format!("app: release: {one} → {two}\n")), "{said}");
    assert!(said.contains(&format!("app: program: {one}/app → {two}/app\n")), "{said}");
    // The same name, another folder.
    shell(&env, "ln -sfn rels/1 next; mv -T next current; mv rels/1 away; cp -r away rels/1");
    let said = dry(&env);
    assert!(said.contains(&format!("app: release: {one} is another one than it was\n")), "{said}");
}

#[test]
fn an_interpreter_through_the_link_is_told_by_check() {
    let env = Env::new();
    shell(&env, "mkdir -p rels/1/bin; ln -s /bin/sh rels/1/bin/python; ln -s rels/1 current");
    env.unit(
        "app",
        "[Service]\nExecStart = \"{dir}/current/bin/serve\"\nRelease = \"{dir}/current\"\nType = \"notify\"\n",
    );
    let check = || {
        let said = env.daemon(&["--check", "--unit", &env.path("units/app.toml").display().to_string()]);
        assert_eq!(said.code, 0, "{said:?}");
        said.stderr + &said.stdout
    };
    let script = |interpreter: &str| {
        let dir = env.dir().display();
        shell(
            &env,
            &format!("printf '#!{dir}/{interpreter}\\n' > rels/1/bin/serve; chmod 755 rels/1/bin/serve"),
        );
    };
    script("current/bin/python");
    let said = check();
    assert!(said.contains("/current/bin/python through the symlink "), "{said}");
    assert!(said.contains("make the environment under its real path"), "{said}");
    script("rels/1/bin/python");
    assert!(!check().contains("the first line of"), "{}", check());
}

#[test]
fn a_hard_link_beside_a_program_is_no_other_release_and_keeps_it() {
    let env = started(Way::Rename, "", "");
    std::fs::hard_link(env.path("app"), env.path("app-1")).unwrap();
    deploy(&env, Way::Rename, 2);
    reload_well(&env);
    // Deployment tools that link files of the release before: the name leads to the first file again.
    shell(&env, "ln -f app-1 next; mv -f next app");
    let dry = env.ctl(&["reload", "app", "--dry-run"]).stdout;
    assert!(dry.contains("was replaced"), "{dry}");
    reload_well(&env);
    assert_eq!(serves(&env), 1);
    let told = rollback(&env, &[], 1);
    assert!(told.contains("there is no earlier release to go back to"), "{told}");
    rollback(&env, &["--to", "2"], 0);
    assert_eq!(serves(&env), 2);
}

#[test]
fn a_program_that_is_replaced_while_its_unit_has_failed_is_what_start_runs() {
    let mut env = Env::new();
    deploy(&env, Way::Rename, 1);
    crate::releases::write(&env, "{dir}/app", "", "");
    beside(&env);
    env.start();
    env.wait_state("app", UnitState::Running);
    process::kill(env.main_pid("app"), Signal::SIGKILL);
    env.wait_state("app", UnitState::Failed);
    deploy(&env, Way::Rename, 2);
    assert_eq!(env.ctl(&["start", "app"]).code, 0);
    assert_eq!(serves(&env), 2);
    rollback(&env, &[], 0);
    assert_eq!(serves(&env), 1);
}

#[test]
fn a_worker_waits_for_who_writes_its_script() {
    let mut env = Env::new();
    let probe = common::example("probe").display().to_string();
    shell(&env, &format!("printf '#!/bin/sh\\nexec {probe} \"$@\"\\n' > serve; chmod 755 serve"));
    crate::releases::write(&env, "{dir}/serve", &format!("{AGAIN}\nWorkers = 2\nStartLimitBurst = 3"), "");
    env.start();
    let both = |unit: &UnitStatus| unit.state == UnitState::Running && unit.main_pids.len() == 2;
    let before = env.wait_unit("app", "two workers", both).main_pids;
    // Whoever has a script open for writing keeps it from being executed, whatever runs it.
    let writer = std::fs::OpenOptions::new().append(true).open(env.path("serve")).unwrap();
    process::kill(before[0], Signal::SIGKILL);
    env.wait("four attempts", || (env.log().matches("Text file busy").count() >= 4).then_some(()));
    drop(writer);
    let after = env.wait_unit("app", "two workers again", both).main_pids;
    assert!(after.contains(&before[1]) && !after.contains(&before[0]), "{before:?} {after:?}");
    let mut client = Client::connect(&env.address("app", 0)).unwrap();
    assert_eq!(client.get("/").unwrap().status, 200);
}
