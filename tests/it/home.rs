//! The runtime dir is taken away under a running aeternad: it comes back, services notice nothing, and a second aeternad is
//! kept out all the while.

use crate::common::{AETERNACTL, Env, Finished, control, process, skip};
use aeterna::proto::control::Request;
use aeterna::proto::status::{UnitState, UnitStatus};
use aeterna::sys::claim::{Attempt, Claim};
use nix::sys::signal::Signal;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;

const APP: &str = r#"
    [Socket]
    ListenStream = "127.0.0.1:0"
    [Service]
    ExecStart = "{probe}"
    Type = "notify"
    [Reload]
    SoakTime = "0s"
"#;

/// Connects to its notify socket once and for all, and says so at each SIGUSR1.
const FAITHFUL: &str = r#"
import os, signal, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ["NOTIFY_SOCKET"])
s.send(b"READY=1")
n = 0
while True:
    signal.sigwait([signal.SIGUSR1]) if n else signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    s.send(b"STATUS=%d" % n)
    n += 1
"#;

/// A second aeternad in the same folder, which must end.
fn second(env: &Env) -> Finished {
    let run = env.runtime_dir().display().to_string();
    let ended = env.daemon(&["--runtime-dir", &run, "--listen", "127.0.0.1:0", "--", "/bin/sleep", "1000"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    ended
}

fn wait_answer(env: &Env) {
    let socket = env.runtime_dir().join("control.sock");
    env.wait("an answer on the control socket", || control::request(&socket, &Request::Version).ok());
}

fn status_text(unit: &UnitStatus) -> Option<String> {
    unit.generations.first().and_then(|generation| generation.status_text.clone())
}

fn take_away(env: &Env) {
    std::fs::remove_dir_all(env.runtime_dir()).unwrap();
}

#[test]
fn what_is_removed_comes_back_and_services_notice_nothing() {
    let mut env = Env::new();
    env.unit("app", APP);
    let script = env.file("faithful.py", FAITHFUL);
    env.unit(
        "faithful",
        &format!("[Service]\nExecStart = \"python3 {}\"\nType = \"notify\"\n", script.display()),
    );
    env.start();
    for unit in ["app", "faithful"] {
        env.wait_state(unit, UnitState::Running);
    }
    let pids = ["app", "faithful"].map(|unit| env.main_pid(unit));
    let mode = |name: &str| {
        let found = std::fs::symlink_metadata(env.runtime_dir().join(name));
        found.map_or(0, |found| found.mode() & 0o7777)
    };
    for round in 1..=3 {
        match round {
            1 => take_away(&env),
            2 => std::fs::rename(env.runtime_dir(), env.path("away")).unwrap(),
            // As cleaners do it: each name by itself.
            _ => std::fs::read_dir(env.runtime_dir()).unwrap().map(|entry| entry.unwrap().path()).for_each(
                |path| {
                    let removed = if path.is_dir() {
                        std::fs::remove_dir_all(&path)
                    } else {
                        std::fs::remove_file(&path)
                    };
                    removed.unwrap();
                },
            ),
        }
        wait_answer(&env);
        assert_eq!((mode(""), mode("control.sock"), mode("aeternad.lock")), (0o711, 0o600, 0o600));
        assert!(second(&env).stderr.contains("another aeternad"));
        // Both are heard: who looks the name up, and who has the socket since its start.
        let text = format!("round {round}");
        env.wait("a message by name", || {
            let sent = env.get("app", &format!("/notify?STATUS={}", text.replace(' ', "%20")));
            let status = status_text(&env.unit_status("app"));
            (sent.status == 200 && status.as_deref() == Some(text.as_str())).then_some(())
        });
        process::kill(pids[1], Signal::SIGUSR1);
        let number = round.to_string();
        env.wait_unit("faithful", "heard", |unit| status_text(unit).as_deref() == Some(number.as_str()));
    }
    assert_eq!(["app", "faithful"].map(|unit| env.main_pid(unit)), pids, "nobody was restarted");
    assert!(env.log().contains("made again"));
    // What was made ahead for the next generation comes back too, and an upgrade keeps all of it.
    for _ in 0..2 {
        assert_eq!(env.ctl(&["reload", "--force", "app"]).code, 0);
        take_away(&env);
        wait_answer(&env);
    }
    assert_eq!(env.ctl(&["upgrade"]).code, 0);
    take_away(&env);
    wait_answer(&env);
    process::kill(pids[1], Signal::SIGUSR1);
    env.wait_unit("faithful", "heard", |unit| status_text(unit).as_deref() == Some("4"));
    assert_eq!(env.ctl(&["reload", "--force", "app"]).code, 0);
}

#[test]
fn a_second_aeternad_is_kept_out_when_the_lock_is_gone() {
    let mut env = Env::new();
    env.unit("app", APP);
    env.start();
    env.wait_state("app", UnitState::Running);
    // It cannot have made anything again yet.
    env.signal(Signal::SIGSTOP);
    take_away(&env);
    let ended = second(&env);
    assert!(ended.stderr.contains(&format!("another aeternad (pid {})", env.pid())), "{}", ended.stderr);
    assert!(!env.runtime_dir().exists(), "it has touched nothing");
    env.signal(Signal::SIGCONT);
    wait_answer(&env);
    assert_eq!(env.get("app", "/").status, 200);
}

#[test]
fn a_new_file_system_over_it_is_seen() {
    let mut env = Env::new();
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can mount");
    }
    env.unit("app", APP);
    let mut command = env.command("unshare");
    command.args(["-m", crate::common::AETERNAD]);
    let units = env.path("units").display().to_string();
    env.launch_by(command, &["--unit", &units]);
    env.wait_control();
    env.wait_state("app", UnitState::Running);
    let inside = |words: &[&str]| {
        let mut command = env.command("nsenter");
        command.args(["-t", &env.pid().to_string(), "-m"]).args(words);
        env.finish(command)
    };
    let run = env.runtime_dir().display().to_string();
    let mounted = inside(&["mount", "-t", "tmpfs", "-o", "mode=0755", "none", &run]);
    if mounted.code != 0 {
        return skip(&format!("mount: {}", mounted.stderr));
    }
    env.wait("an answer in the new file system", || {
        let words = [AETERNACTL, "--runtime-dir", &run, "reload", "--force", "app"];
        (inside(&words).code == 0).then_some(())
    });
}

#[test]
fn without_the_folder_services_go_on_and_it_is_said_and_tried_again() {
    let mut env = Env::new();
    env.unit("app", APP);
    env.unit(
        "plain",
        "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{probe}\"\nType = \"exec\"\n\
         Restart = \"always\"\nRestartSec = \"0s\"\n[Reload]\nSoakTime = \"0s\"\n",
    );
    env.start();
    for unit in ["app", "plain"] {
        env.wait_state(unit, UnitState::Running);
    }
    let (plain, pid) = (env.address("plain", 0), env.main_pid("plain"));
    // It has told all that it tells at its start.
    assert_eq!(env.get("plain", "/").status, 200);
    env.signal(Signal::SIGSTOP);
    take_away(&env);
    std::fs::write(env.runtime_dir(), "").unwrap();
    env.signal(Signal::SIGCONT);
    env.wait_log("it is a link or a file");
    process::kill(pid, Signal::SIGKILL);
    env.wait_log("plain: it starts without a NOTIFY_SOCKET");
    env.wait("an answer", || crate::common::http::get(&plain, "/").ok());
    let said = env.ctl(&["status"]);
    assert!(said.code != 0 && said.stderr.contains(&format!("kill -HUP {}", env.pid())), "{}", said.stderr);
    let said = env.ctl(&["doctor"]);
    assert!(said.stdout.contains("its control socket is gone"), "{}", said.stdout);
    // Somebody mends it: no order is needed.
    std::fs::remove_file(env.runtime_dir()).unwrap();
    wait_answer(&env);
    assert_eq!(env.ctl(&["reload", "--force", "plain"]).code, 0);
    assert_eq!(env.get("app", "/").status, 200);
}

#[test]
fn the_name_of_the_claim_is_no_lock_that_strangers_could_take() {
    let mut env = Env::new();
    if !env.as_nobody() {
        return;
    }
    let Attempt::Taken(stranger) = Claim::take(&env.runtime_dir()).unwrap() else { panic!("it is taken") };
    env.unit("app", APP);
    env.start();
    env.wait_log("has taken the name of this aeternad's claim");
    env.wait_state("app", UnitState::Running);
    drop(stranger);
    take_away(&env);
    wait_answer(&env);
}

#[test]
fn aeternactl_asks_nobody_who_was_put_in_the_daemons_place() {
    const ASKER: u32 = 1234;
    let env = Env::new();
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can be several users");
    }
    let ask = |folder: &Path, uid: u32| {
        let mut command = env.command(AETERNACTL);
        command.uid(uid).gid(uid).arg("--runtime-dir").arg(folder).arg("status");
        env.finish(command)
    };
    let open = |path: &Path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
    // Root has made the listener, for a service of somebody else.
    let his = env.path("his");
    std::fs::create_dir(&his).unwrap();
    let _listener = UnixListener::bind(his.join("control.sock")).unwrap();
    open(&his.join("control.sock"));
    chown(&his, Some(65534), Some(65534)).unwrap();
    let said = ask(&his, ASKER);
    assert!(said.code != 0 && said.stderr.contains("somebody else could have put"), "{}", said.stderr);
    chown(his.join("control.sock"), Some(65534), None).unwrap();
    for uid in [ASKER, 0] {
        let said = ask(&his, uid);
        assert!(said.stderr.contains("belongs to uid 65534"), "{uid}: {}", said.stderr);
    }
}

#[test]
fn a_unit_is_not_led_into_a_folder_that_somebody_else_has_made() {
    let mut env = Env::new();
    if !env.as_nobody() {
        return;
    }
    // As /tmp is.
    let sticky = env.path("sticky");
    std::fs::create_dir(&sticky).unwrap();
    std::fs::set_permissions(&sticky, PermissionsExt::from_mode(0o1777)).unwrap();
    let root = sticky.join("root");
    std::fs::create_dir(&root).unwrap();
    chown(&root, Some(1234), None).unwrap();
    env.variable("XDG_RUNTIME_DIR", &root.display().to_string());
    for key in ["RuntimeDirectory = [\"app\"]", "EnvironmentFile = \"-%t/app.env\""] {
        env.unit("app", &format!("[Service]\nExecStart = \"/bin/sleep 1000\"\n{key}\n"));
        let units = env.path("units").display().to_string();
        env.launch(&["--unit", &units]);
        let ended = env.wait_exit();
        assert_eq!(process::code(ended), 69, "{}", env.log());
        env.wait_log("belongs to uid 1234");
    }
    // Nothing of it is used: nothing is wrong with it.
    env.unit("app", "[Service]\nExecStart = \"/bin/sleep 1000\"\n");
    env.start();
    env.wait_state("app", UnitState::Running);
    env.unit("app", "[Service]\nExecStart = \"/bin/sleep 1000\"\nRuntimeDirectory = [\"app\"]\n");
    let said = env.ctl(&["reload", "app"]);
    assert!(said.code != 0 && format!("{}{}", said.stdout, said.stderr).contains("belongs to uid 1234"));
    chown(&root, Some(65534), None).unwrap();
    assert_eq!(env.ctl(&["reload", "app"]).code, 0);
}
