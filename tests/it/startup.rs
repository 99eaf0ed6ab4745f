//! What can be wrong before anything runs: command lines, units, addresses, folders; and the ways to look
//! without starting anything.

use crate::common;
use aeterna::proto::status::UnitState;
use common::{Env, Finished, http, process};
use nix::sys::signal::Signal;
use std::os::unix::fs::PermissionsExt;

const APP: &str =
    "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{probe}\"\nType = \"notify\"\n";

/// A path whose socket nobody serves, as a daemon leaves it that was killed. It was never listened on: a child of a
/// parallel test could have a copy of a listener until its exec, and would seem to serve it.
fn stale_socket(path: &std::path::Path) {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &UnixAddr::new(path).unwrap()).unwrap();
}

/// Runs the daemon with this unit and its own runtime dir, to its end.
fn refused(env: &Env, more: &[&str]) -> Finished {
    let (run, units) = (env.runtime_dir().display().to_string(), env.path("units").display().to_string());
    let mut arguments = vec!["--runtime-dir", &run, "--unit", &units];
    arguments.extend(more);
    env.daemon(&arguments)
}

/// What a check says of this folder of units.
fn check(env: &Env) -> Finished {
    env.daemon(&["--check", "--unit", &env.path("units").display().to_string()])
}

#[test]
fn wrong_command_lines_end_with_2_and_say_why() {
    let env = Env::new();
    let rows: [(&[&str], &str); 9] = [
        (&["--listen", "127.0.0.1:99999", "--", "x"], "port 99999 is out of range"),
        (&[], "nothing to do"),
        (&["--unti", "x"], "did you mean --unit?"),
        (&["--unit"], "--unit"),
        (&["app.toml"], "--unit"),
        (&["--"], "no command"),
        (&["--listen", "8080"], "--listen needs a command"),
        (&["--log-level", "loud", "--unit", "x"], "\"loud\" is not one of error, warn, info, debug, trace"),
        (&["--unit", "x", "--", "y"], "exclude each other"),
    ];
    for (arguments, says) in rows {
        let ended = env.daemon(arguments);
        assert_eq!(ended.code, 2, "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.starts_with("aeternad: "), "it says who speaks: {}", ended.stderr);
        assert_eq!(ended.stdout, "");
    }
    assert_eq!(env.daemon(&["--help"]).code, 0);
    assert!(env.daemon(&["--version"]).stdout.starts_with("aeternad 0."));
}

#[test]
fn every_error_of_every_unit_is_said() {
    let env = Env::new();
    env.unit("a", "[Service]\nExecStrat = \"x\"\nRestart = \"sometimes\"\n[Sockt]\n");
    env.unit("b", "[Service]\nExecStart = \"x\"\nRestartSec = \"1 fortnight\"\n");
    let file = |name: &str| env.path(&format!("units/{name}.toml")).display().to_string();
    let ended = refused(&env, &[]);
    assert_eq!(ended.code, 78);
    for says in [
        format!("{}:2:1:", file("a")),
        "ExecStart".into(),
        format!("{}:3:11:", file("a")),
        "sometimes".into(),
        "Socket".into(),
        format!("{}:3:14:", file("b")),
    ] {
        assert!(ended.stderr.contains(&says), "{says}\n{}", ended.stderr);
    }
    assert!(!env.runtime_dir().exists(), "nothing was begun");
    let checked = env.daemon(&["--check", "--unit", &file("a"), &file("b")]);
    assert_eq!(checked.code, 78);
    assert_eq!(env.ctl(&["check", &file("a")]).code, 78);
    let missing = env.daemon(&["--check", "--unit", &file("missing")]);
    assert_eq!(missing.code, 78);
    assert!(missing.stderr.ends_with("missing.toml: No such file or directory\n"), "{}", missing.stderr);
}

#[test]
fn good_units_are_ok_and_shown_as_they_parse_back() {
    let env = Env::new();
    let file = env.unit("app", APP).display().to_string();
    let checked = env.daemon(&["--check", "--unit", &file]);
    assert_eq!((checked.code, checked.stderr.as_str()), (0, ""));
    let lines: Vec<&str> = checked.stdout.lines().collect();
    assert_eq!(lines[0], format!("{file}: ok"));
    assert!(lines[1].starts_with("  ") && lines[1].contains("steered"), "{}", checked.stdout);
    let by_ctl = env.ctl(&["check", &file]);
    assert_eq!((by_ctl.code, &by_ctl.stdout, by_ctl.stderr.as_str()), (0, &checked.stdout, ""));
    let shown = env.daemon(&["--show", "--unit", &file]);
    assert_eq!(shown.code, 0);
    let again = env.file("again/app.toml", &shown.stdout).display().to_string();
    let twice = env.daemon(&["--show", "--unit", &again]);
    assert_eq!(twice.stdout, shown.stdout);
    assert!(shown.stdout.contains("TimeoutStopSec"), "{}", shown.stdout);
}

#[test]
fn two_units_with_one_address_or_one_name_are_found_by_check() {
    let env = Env::new();
    env.unit("a", "[Socket]\nListenStream = \"127.0.0.1:1234\"\n[Service]\nExecStart = \"/bin/true\"");
    env.unit("b", "[Socket]\nListenStream = \"127.0.0.1:1234\"\n[Service]\nExecStart = \"/bin/true\"");
    let ended = check(&env);
    assert_eq!(ended.code, 78);
    assert!(
        ended.stderr.contains("the units \"a\" and \"b\" both listen on 127.0.0.1:1234"),
        "{}",
        ended.stderr
    );
    env.unit("b", "[Unit]\nName = \"a\"\n[Service]\nExecStart = \"/bin/true\"");
    let ended = check(&env);
    assert_eq!(ended.code, 78);
    assert!(ended.stderr.contains("two units are called \"a\""), "{}", ended.stderr);
    env.unit("b", "[Service]\nExecStart = \"/bin/true\"\n[Daemon]\nLogLevel = \"info\"");
    env.unit("a", "[Service]\nExecStart = \"/bin/true\"\n[Daemon]\nLogLevel = \"warn\"");
    let ended = check(&env);
    assert_eq!(ended.code, 78);
    assert!(ended.stderr.contains("LogLevel"), "{}", ended.stderr);
}

#[test]
fn a_check_looks_at_all_units_together_and_tells_good_from_bad() {
    let env = Env::new();
    let socket = "[Socket]\nListenStream = \"/run/x.sock\"\n";
    let service = "[Service]\nExecStart = \"/bin/true\"\n";
    let a = env.unit("a", &format!("{socket}{service}[Daemon]\nStopDelaySec = 3")).display().to_string();
    let b = env.unit("b", &format!("{socket}{service}[Daemon]\nStopDelaySec = 4")).display().to_string();
    let bad = env.unit("c", "[Servic]").display().to_string();
    let folder = env.path("units").display().to_string();
    for checked in
        [env.daemon(&["--check", "--unit", &folder, "nowhere"]), env.ctl(&["check", &folder, "nowhere"])]
    {
        assert_eq!(checked.code, 78, "{checked:?}");
        for good in [&a, &b] {
            assert!(checked.stdout.contains(&format!("{good}: ok\n")), "{checked:?}");
        }
        for part in [
            "the units \"a\" and \"b\" both listen on /run/x.sock",
            "[Daemon] StopDelaySec is \"3s\" in the unit \"a\" and \"4s\" in \"b\"",
            &format!("{bad}:1:1: unknown table [Servic]"),
            "cannot read nowhere: No such file or directory",
        ] {
            assert!(checked.stderr.contains(part), "{part}: {checked:?}");
        }
        assert!(!checked.stdout.contains(&bad), "{checked:?}");
    }
}

#[test]
fn a_taken_port_names_its_holder() {
    let env = Env::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let path = env.path("live.sock");
    let _live = std::os::unix::net::UnixListener::bind(&path).unwrap();
    env.unit(
        "app",
        &format!(
            "[Socket]\nListenStream = [\"{address}\", \"{{dir}}/live.sock\", \"192.0.2.1:80\"]\n[Service]\nExecStart = \"{{probe}}\""
        ),
    );
    let ended = refused(&env, &[]);
    assert_eq!(ended.code, 69, "{}", ended.stderr);
    let line = ended.stderr.lines().find(|l| l.contains(&address)).unwrap_or_default();
    assert!(line.contains(&std::process::id().to_string()), "it says who: {}", ended.stderr);
    assert!(ended.stderr.contains("live.sock"), "every address is said: {}", ended.stderr);
    assert!(ended.stderr.contains("192.0.2.1:80"), "{}", ended.stderr);
    assert!(path.exists(), "what lives is left alone");
}

#[test]
fn a_stale_path_is_replaced_and_a_file_is_not() {
    let mut env = Env::new();
    stale_socket(&env.path("stale.sock"));
    env.unit("app", "[Socket]\nListenStream = \"{dir}/stale.sock\"\n[Service]\nExecStart = \"{probe}\"\nType = \"notify\"");
    env.start();
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.get("app", "/").status, 200);
    let env = Env::new();
    env.file("precious", "data");
    env.unit("app", "[Socket]\nListenStream = \"{dir}/precious\"\n[Service]\nExecStart = \"{probe}\"");
    let ended = refused(&env, &[]);
    assert_eq!(ended.code, 69, "{}", ended.stderr);
    assert_eq!(std::fs::read_to_string(env.path("precious")).unwrap(), "data");
}

#[test]
fn a_runtime_dir_must_be_ours_alone() {
    let env = Env::new();
    env.unit("app", APP);
    let run = env.runtime_dir();
    std::fs::create_dir(&run).unwrap();
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o777)).unwrap();
    let ended = refused(&env, &[]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("writ"), "{}", ended.stderr);
    std::fs::remove_dir(&run).unwrap();
    std::fs::create_dir(env.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(env.path("elsewhere"), &run).unwrap();
    let ended = refused(&env, &[]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    std::fs::remove_file(&run).unwrap();
    std::fs::write(&run, "").unwrap();
    let ended = refused(&env, &[]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    if nix::unistd::geteuid().is_root() {
        std::fs::remove_file(&run).unwrap();
        std::fs::create_dir(&run).unwrap();
        std::os::unix::fs::chown(&run, Some(65534), None).unwrap();
        let ended = refused(&env, &[]);
        assert_eq!(ended.code, 1, "{}", ended.stderr);
        assert!(ended.stderr.contains("65534") || ended.stderr.contains("nobody"), "{}", ended.stderr);
    }
}

#[test]
fn the_runtime_dir_gets_its_mode_and_a_stale_socket_goes() {
    let mut env = Env::new();
    env.unit("app", APP);
    let run = env.runtime_dir();
    std::fs::create_dir(&run).unwrap();
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o755)).unwrap();
    stale_socket(&run.join("control.sock"));
    env.start();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&run), 0o711);
    assert_eq!(mode(&run.join("control.sock")), 0o600);
    assert_eq!(mode(&run.join("aeternad.lock")), 0o600);
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let mut env = Env::new();
    env.unit("app", APP);
    env.start();
    env.wait_state("app", UnitState::Running);
    let ended = refused(&env, &[]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("another aeternad"), "{}", ended.stderr);
    assert_eq!(env.get("app", "/").status, 200);
    // Killed the hard way, it leaves names behind; the next one cleans up.
    env.allow_survivors();
    let service = env.main_pid("app");
    env.signal(Signal::SIGKILL);
    env.wait_exit();
    process::kill(service, Signal::SIGKILL);
    env.wait_gone(service);
    env.start();
    env.wait_state("app", UnitState::Running);
}

#[test]
fn a_runtime_dir_with_a_very_long_name_works() {
    let mut env = Env::new();
    let long = env.path(&format!("{}/{}", "x".repeat(90), "y".repeat(90)));
    std::fs::create_dir_all(long.parent().unwrap()).unwrap();
    let unit = env.unit(
        "app",
        "[Socket]\nListenStream = \"{dir}/sock\"\n[Service]\nExecStart = \"{probe}\"\nType = \"notify\"",
    );
    let mut command = env.command(common::AETERNAD);
    command.arg("--runtime-dir").arg(&long).arg("--unit").arg(&unit);
    command.stderr(std::fs::File::create(env.path("stderr")).unwrap());
    env.adopt(command.spawn().unwrap());
    let dir = long.display().to_string();
    let mut ask = env.command(common::AETERNACTL);
    ask.args(["--runtime-dir", &dir, "status", "--json"]);
    env.wait("a running service", || {
        let mut ask = env.command(common::AETERNACTL);
        ask.args(["--runtime-dir", &dir, "status", "--json"]);
        env.finish(ask).stdout.contains("RUNNING").then_some(())
    });
    let sock = env.path("sock").display().to_string();
    let report: serde_json::Value = serde_json::from_str(&http::get(&sock, "/report").unwrap().body).unwrap();
    let notify = report["env"]["NOTIFY_SOCKET"].as_str().unwrap();
    assert!(notify.len() <= 107, "{notify}");
    env.signal(Signal::SIGTERM);
    assert!(env.wait_exit().success());
    assert!(!std::path::Path::new(notify).parent().unwrap().exists(), "the short way is gone too");
}

#[test]
fn a_command_without_a_unit_file() {
    let mut env = Env::new();
    let probe = common::example("probe").display().to_string();
    env.start_with(&["--listen", "http=127.0.0.1:0", "--listen", "127.0.0.1:0", "--", &probe, "body=inline"]);
    env.wait_state("probe", UnitState::Running);
    let status = env.unit_status("probe");
    assert_eq!(status.sockets.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["http", "socket2"]);
    assert_eq!(env.get("probe", "/").body, "inline");
    assert_eq!(http::get(&env.address("probe", 1), "/").unwrap().body, "inline");
    process::kill(env.main_pid("probe"), Signal::SIGKILL);
    assert_eq!(process::code(env.wait_exit()), 137);
}

#[test]
fn a_folder_is_all_its_toml_files_and_an_empty_one_is_an_error() {
    let mut env = Env::new();
    for name in ["b", "a"] {
        env.unit(name, APP);
    }
    env.file("units/notes.txt", "not a unit");
    env.file("units/.hidden.toml", "nonsense");
    env.start();
    let names: Vec<String> = env.status().units.into_iter().map(|u| u.name).collect();
    assert_eq!(names, ["a", "b"]);
    let empty = Env::new();
    let ended = refused(&empty, &[]);
    assert_eq!(ended.code, 78);
    assert!(ended.stderr.contains("no *.toml"), "{}", ended.stderr);
}

#[test]
fn what_lies_in_the_place_of_the_control_socket_is_named_with_what_to_do() {
    let mut env = Env::new();
    env.unit("app", APP);
    let place = env.runtime_dir().join("control.sock");
    let lie = |what: &str| match what {
        "a FIFO" => nix::unistd::mkfifo(&place, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        "a folder" => std::fs::create_dir(&place).unwrap(),
        _ => std::os::unix::fs::symlink("/dev/null", &place).unwrap(),
    };
    std::fs::create_dir(env.runtime_dir()).unwrap();
    std::fs::set_permissions(env.runtime_dir(), PermissionsExt::from_mode(0o711)).unwrap();
    for what in ["a folder", "a link", "a FIFO"] {
        lie(what);
        let ended = refused(&env, &[]);
        let told = format!("{}: {what} has this name, and is left alone: remove it", place.display());
        assert!(ended.code == 1 && ended.stderr.contains(&told), "{}", ended.stderr);
        let is_folder = place.is_dir();
        if is_folder { std::fs::remove_dir(&place) } else { std::fs::remove_file(&place) }.unwrap();
    }
    // And one that comes while it runs.
    env.start();
    env.wait_state("app", UnitState::Running);
    env.signal(Signal::SIGSTOP);
    std::fs::remove_file(&place).unwrap();
    lie("a FIFO");
    env.signal(Signal::SIGCONT);
    env.wait_log("a FIFO has this name, and is left alone");
    std::fs::remove_file(&place).unwrap();
    env.wait("an answer", || (env.ctl(&["status"]).code == 0).then_some(()));
}
