//! Which release runs, for every event and every way to deploy: the table of what is promised, with real processes. Version 1
//! serves; version 2 is put in its place.

use crate::common::http::Client;
use crate::common::load::{Load, Manner};
use crate::common::{self, Env, http, process};
use crate::releases::{Way, deploy, deploy_tree, kill, reload_well, settled, shell, version};
use aeterna::proto::status::UnitState;
use nix::sys::signal::Signal;

/// How a release gets there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A native program, replaced by rename.
    Renamed,
    /// A native program behind a link.
    Linked,
    /// Scripts and data behind a link that `Release` names.
    Tree,
}

const KINDS: [Kind; 3] = [Kind::Renamed, Kind::Linked, Kind::Tree];

impl Kind {
    fn deploy(self, env: &Env, number: u32) {
        match self {
            Kind::Renamed => deploy(env, Way::Rename, number),
            Kind::Linked => deploy(env, Way::Link, number),
            Kind::Tree => deploy_tree(env, number),
        }
    }

    /// Version 2, which fails at once.
    fn deploy_bad(self, env: &Env) {
        self.deploy(env, 2);
        let script = match self {
            Kind::Renamed => "cp /bin/false fresh; mv fresh app",
            Kind::Linked => "cp /bin/false fresh; mv fresh rels/2/app",
            Kind::Tree => "echo 'exit 1' > rels/2/run",
        };
        shell(env, script);
    }

    /// `ExecStart`, and what goes with it.
    fn command(self) -> &'static str {
        match self {
            Kind::Renamed => "ExecStart = \"{dir}/app orders={dir}/orders-%%g.sock\"",
            Kind::Linked => "ExecStart = \"{dir}/current/app orders={dir}/orders-%%g.sock\"",
            Kind::Tree => {
                "ExecStart = \"/bin/sh {dir}/current/run {dir}/current orders={dir}/orders-%%g.sock\"\nRelease = \"{dir}/current\""
            }
        }
    }

    /// A world in which version 1 runs, or waits for its first connection.
    fn world(self, service: &str, reload: &str) -> Env {
        let mut env = Env::new();
        self.deploy(&env, 1);
        let command = self.command();
        env.unit(
            "app",
            &format!(
                "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\n{command}\nEnvironment = {{ PROBE_FILE = \"{{dir}}/probe\" }}\n\
                 Type = \"notify\"\n{service}\n[Reload]\nDrainTimeout = \"10s\"\n{reload}\n"
            ),
        );
        env.start();
        let waits = service.contains("\"connection\"");
        env.wait_state("app", if waits { UnitState::Listening } else { UnitState::Running });
        env
    }
}

/// Which version has written an answer.
fn whose(body: &str) -> u32 {
    match serde_json::from_str::<serde_json::Value>(body) {
        Ok(serde_json::Value::Object(fields)) => version(fields["pid"].as_i64().unwrap() as i32),
        _ => body.trim().parse().unwrap_or_else(|_| panic!("no version: {body:?}")),
    }
}

/// Which version answers.
fn serves(env: &Env) -> u32 {
    // Kept open: its process is looked at.
    let mut client = Client::connect(&env.address("app", 0)).unwrap();
    whose(&client.get("/").unwrap().body)
}

const AGAIN: &str = "Restart = \"always\"\nRestartSec = 0";
const AT_ONCE: &str = "SoakTime = 0";

/// Version 2 is bad, and a reload finds that out.
fn reject(kind: Kind, env: &Env) {
    kind.deploy(env, 2);
    env.next_start("exit=7");
    assert_eq!(env.ctl(&["reload", "app"]).code, 3, "{kind:?}");
    env.next_start("");
    settled(env);
}

#[test]
fn a_process_that_dies_comes_back_as_it_was() {
    for kind in KINDS {
        let env = kind.world(AGAIN, AT_ONCE);
        kind.deploy(&env, 2);
        for _ in 0..2 {
            kill(&env);
            assert_eq!(serves(&env), 1, "{kind:?}");
        }
    }
}

#[test]
fn a_crash_after_a_rejected_reload_runs_the_release_that_serves() {
    for kind in KINDS {
        let env = kind.world(AGAIN, AT_ONCE);
        reject(kind, &env);
        for _ in 0..2 {
            kill(&env);
            assert_eq!(serves(&env), 1, "{kind:?}");
        }
    }
}

#[test]
fn traffic_wakes_the_release_that_was_idle() {
    for kind in KINDS {
        let env = kind.world("StartOn = \"connection\"", AT_ONCE);
        assert_eq!(serves(&env), 1, "{kind:?}");
        kind.deploy(&env, 2);
        env.order(1, "/exit?code=0");
        env.wait_state("app", UnitState::Listening);
        assert_eq!(serves(&env), 1, "{kind:?}");
    }
}

#[test]
fn an_instance_runs_the_release_that_was_promoted() {
    for kind in KINDS {
        let mut env = Env::new();
        // Two programs that say different things of one argument.
        let put = |env: &Env, number: u32| {
            let program = if number == 1 { "basename" } else { "dirname" };
            let link = |target: &str| format!("ln -sfn {target} next; mv -T next current");
            let script = match kind {
                Kind::Renamed => format!("cp /usr/bin/{program} fresh; mv fresh app"),
                Kind::Linked => format!(
                    "mkdir -p rels/{number}; cp /usr/bin/{program} rels/{number}/app; {}",
                    link(&format!("rels/{number}"))
                ),
                Kind::Tree => format!(
                    "mkdir -p rels/{number}; echo 'exec {program} \"$1\"' > rels/{number}/run; {}",
                    link(&format!("rels/{number}"))
                ),
            };
            shell(env, &script);
        };
        put(&env, 1);
        let command = match kind {
            Kind::Renamed => "ExecStart = \"{dir}/app /1/2\"",
            Kind::Linked => "ExecStart = \"{dir}/current/app /1/2\"",
            Kind::Tree => "ExecStart = \"/bin/sh {dir}/current/run /1/2\"\nRelease = \"{dir}/current\"",
        };
        env.unit(
            "app",
            &format!(
                "[Socket]\nListenStream = \"127.0.0.1:0\"\nAccept = true\n[Service]\n{command}\nStandardInput = \"socket\"\nStandardOutput = \"socket\"\n"
            ),
        );
        env.start();
        env.wait_state("app", UnitState::Listening);
        let says = |env: &Env| {
            let mut text = String::new();
            std::io::Read::read_to_string(&mut http::connect(&env.address("app", 0)).unwrap(), &mut text)
                .unwrap();
            text
        };
        assert_eq!(says(&env), "2\n", "{kind:?}");
        put(&env, 2);
        assert_eq!(says(&env), "2\n", "{kind:?}");
        assert_eq!(env.ctl(&["reload", "app"]).code, 0);
        assert_eq!(says(&env), "/1\n", "{kind:?}");
        assert_eq!(env.ctl(&["rollback", "app"]).code, 0);
        assert_eq!(says(&env), "2\n", "{kind:?}");
    }
}

#[test]
fn what_a_crashed_release_left_is_served_by_the_one_before() {
    for kind in KINDS {
        let env = kind.world("", "SoakTime = \"infinity\"\nCanaryWeight = 100");
        kind.deploy(&env, 2);
        env.next_start("no_accept");
        let waiting = env.ctl_start(&["reload", "app"]);
        env.wait_state("app", UnitState::Soaking);
        let mut client = Client::connect(&env.address("app", 0)).unwrap();
        client.send("/", "").unwrap();
        env.wait_unit("app", "one in the queue", |unit| unit.sockets[0].queue == Some(1));
        let new = env.unit_status("app").generations.iter().find(|one| one.number == 2).unwrap().pids[0];
        env.next_start("");
        process::kill(new, Signal::SIGKILL);
        assert_eq!(whose(&client.receive().unwrap().body), 1, "{kind:?}");
        assert_eq!(env.finish_child(waiting).code, 3);
        drop(client);
    }
}

#[test]
fn stop_commands_of_what_drains_are_its_own() {
    let service = "ExecStop = \"/bin/sh {dir}/current/stop stop {dir}\"\nExecStopPost = \"/bin/sh {dir}/current/stop post {dir}\"";
    let mut env = Env::new();
    let put = |env: &Env, number: u32| {
        deploy_tree(env, number);
        shell(env, &format!("echo 'echo $1 {number} >> $2/said' > rels/{number}/stop"));
    };
    put(&env, 1);
    let command = Kind::Tree.command();
    env.unit(
        "app",
        &format!(
            "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\n{command}\nEnvironment = {{ PROBE_FILE = \"{{dir}}/probe\" }}\nType = \"notify\"\n{service}\n[Reload]\nSoakTime = 0\n"
        ),
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    put(&env, 2);
    reload_well(&env);
    let said = env.wait("both have run", || {
        std::fs::read_to_string(env.path("said")).ok().filter(|said| said.contains("post"))
    });
    assert_eq!(said, "stop 1\npost 1\n");
}

#[test]
fn a_rollback_brings_it_back_under_load_and_nobody_notices() {
    for kind in KINDS {
        let env = kind.world("", AT_ONCE);
        let load = Load::start(&env.address("app", 0), 2, Manner::Fresh);
        kind.deploy(&env, 2);
        reload_well(&env);
        assert_eq!(serves(&env), 2, "{kind:?}");
        assert_eq!(env.ctl(&["rollback", "app"]).code, 0, "{kind:?}");
        settled(&env);
        assert_eq!(serves(&env), 1, "{kind:?}");
        load.wait_answers(50);
        let counts = load.finish();
        assert!(counts.failed.is_empty(), "{kind:?}: {:?}", counts.failed);
    }
}

#[test]
fn replace_starts_the_one_before_again() {
    for kind in KINDS {
        let env = kind.world(AGAIN, "Strategy = \"replace\"");
        kind.deploy_bad(&env);
        assert_eq!(env.ctl(&["reload", "app"]).code, 3, "{kind:?}");
        settled(&env);
        assert_eq!(serves(&env), 1, "{kind:?}");
    }
}

#[test]
fn when_both_die_in_the_soak_the_promoted_one_comes_back() {
    for kind in KINDS {
        let env = kind.world(AGAIN, "SoakTime = \"infinity\"");
        kind.deploy(&env, 2);
        let waiting = env.ctl_start(&["reload", "app"]);
        let both = env.wait_unit("app", "the soak", |unit| {
            unit.state == UnitState::Soaking && unit.generations.iter().all(|one| !one.pids.is_empty())
        });
        for generation in both.generations.iter().rev() {
            process::kill(generation.pids[0], Signal::SIGKILL);
        }
        env.finish_child(waiting);
        env.wait_unit("app", "one again", |unit| unit.state == UnitState::Running && unit.generation > 2);
        // Where the old one is seen to die first, the new one is promoted at once.
        let promoted = env.log().contains("the new one took over at once");
        assert_eq!(serves(&env), if promoted { 2 } else { 1 }, "{kind:?}");
    }
}

#[test]
fn a_start_a_restart_and_a_reload_by_hand_go_forward() {
    for kind in KINDS {
        let env = kind.world("", AT_ONCE);
        for (number, commands) in [(2, &["restart"][..]), (3, &["stop", "start"]), (4, &["reload"])] {
            kind.deploy(&env, number);
            for command in commands {
                assert_eq!(env.ctl(&[command, "app"]).code, 0, "{kind:?} {command}");
            }
            assert_eq!(serves(&env), number, "{kind:?}");
        }
    }
}

#[test]
fn a_release_folder_that_was_removed_is_said_and_a_rejected_one_does_not_take_its_place() {
    // A native program is still held.
    let env = Kind::Linked.world(AGAIN, AT_ONCE);
    Kind::Linked.deploy(&env, 2);
    std::fs::remove_dir_all(env.path("rels/1")).unwrap();
    kill(&env);
    assert_eq!(serves(&env), 1);
    // A tree is not: what is there now has not been tried.
    let env = Kind::Tree.world(AGAIN, AT_ONCE);
    Kind::Tree.deploy(&env, 2);
    std::fs::remove_dir_all(env.path("rels/1")).unwrap();
    kill(&env);
    assert_eq!(serves(&env), 2);
    env.wait_log("which no reload has tried");
    // It has, and was given up.
    let env = Kind::Tree.world(AGAIN, AT_ONCE);
    reject(Kind::Tree, &env);
    std::fs::remove_dir_all(env.path("rels/1")).unwrap();
    process::kill(env.main_pid("app"), Signal::SIGKILL);
    let line = env.wait_log("STARTING → FAILED");
    assert!(line.contains("was given up by the reload at "), "{line}");
    assert!(line.contains("/rels/1 has been removed"), "{line}");
    assert!(line.contains("/rels/2, was given up"), "{line}");
}

#[test]
fn a_volume_of_kubernetes_keeps_the_environment_and_says_that_its_files_are_gone() {
    // As kubelet writes it: a folder of a new name, `..data` moved, the old folder removed at once.
    let write = |env: &Env, number: u32| {
        let probe = common::example("probe").display().to_string();
        let old = number - 1;
        shell(
            env,
            &format!(
                "mkdir -p volume/..{number}; echo WORD=word-{number} > volume/..{number}/env; \
                 printf 'exec {probe} body={number}$WORD\\n' > volume/..{number}/run; \
                 ln -sfn ..{number} volume/..data_tmp; mv -T volume/..data_tmp volume/..data; \
                 ln -sfn ..data/env volume/env; ln -sfn ..data/run volume/run; rm -rf volume/..{old}"
            ),
        );
    };
    let body = |env: &Env| env.get("app", "/").body.trim().to_owned();
    for release in ["", "Release = \"{dir}/volume/..data\""] {
        let mut env = Env::new();
        write(&env, 1);
        let run = if release.is_empty() { "{dir}/volume/run" } else { "{dir}/volume/..data/run" };
        let text = format!(
            "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"/bin/sh {run}\"\nEnvironmentFile = \"{{dir}}/volume/env\"\n\
             Type = \"notify\"\n{release}\n{AGAIN}\n[Reload]\nSoakTime = 0\n"
        );
        env.unit("app", &text);
        env.start();
        env.wait_state("app", UnitState::Running);
        assert_eq!(body(&env), "1word-1");
        write(&env, 2);
        kill(&env);
        if release.is_empty() {
            // The script is had by its name; its environment is what it was.
            assert_eq!(body(&env), "2word-1");
        } else {
            // What is gone is said, and both are of one release.
            env.wait_log("which no reload has tried");
            assert_eq!(body(&env), "2word-2");
        }
        write(&env, 3);
        reload_well(&env);
        assert_eq!(body(&env), "3word-3");
    }
}
