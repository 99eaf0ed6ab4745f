//! What a service is handed, and when it is started: descriptors, names, variables, signal state; the first
//! connection, idleness, an instance for each connection, sockets that our own parent held.

use crate::common;
use aeterna::proto::status::UnitState;
use common::http::{self, Client};
use common::{Env, example, process};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;

/// The report of a service that reads orders from a private socket `orders` in the world's folder.
fn report(env: &Env) -> Value {
    let orders = env.path("orders").display().to_string();
    let text = env.wait("an answer to /report", || http::get(&orders, "/report").ok()).body;
    serde_json::from_str(&text).unwrap()
}

/// One unit called `app` with these sockets, whose service is the probe with a private socket for orders.
fn app(sockets: &str, service: &str) -> Env {
    let mut env = Env::new();
    env.unit(
        "app",
        &format!("{sockets}\n[Service]\nExecStart = \"{{probe}} orders={{dir}}/orders\"\nType = \"notify\"\n{service}"),
    );
    env.start();
    env
}

fn names(report: &Value) -> Vec<&str> {
    report["sockets"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect()
}

#[test]
fn sockets_come_from_3_on_in_the_order_of_the_file_and_nothing_else() {
    let env = app(
        r#"
        [[Socket]]
        ListenStream = ["127.0.0.1:0", "{dir}/web.sock"]
        FileDescriptorName = "web"
        [[Socket]]
        ListenDatagram = "127.0.0.1:0"
        ListenSequentialPacket = "@{dir}/seq"
        FileDescriptorName = "more.stuff"
        [[Socket]]
        ListenFIFO = "{dir}/fifo"
        "#,
        "",
    );
    env.wait_state("app", UnitState::Running);
    let report = report(&env);
    let kinds: Vec<&str> =
        report["sockets"].as_array().unwrap().iter().map(|s| s["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["stream", "stream", "datagram", "seqpacket", "fifo"]);
    assert_eq!(names(&report), ["web", "web", "more.stuff", "more.stuff", "app"]);
    let fds: Vec<&String> = report["fds"].as_object().unwrap().keys().collect();
    let mut fds: Vec<u32> = fds.iter().map(|fd| fd.parse().unwrap()).collect();
    fds.sort_unstable();
    assert_eq!(fds, [0, 1, 2, 3, 4, 5, 6, 7], "{report}");
    let env_of = |name: &str| report["env"][name].as_str();
    assert_eq!(env_of("LISTEN_FDS"), Some("5"));
    assert_eq!(env_of("AETERNA_INHERITED_FDS"), Some("5"));
    assert_eq!(env_of("LISTEN_FDNAMES"), Some("web:web:more.stuff:more.stuff:app"));
    assert_eq!(report["listen_pid_is_mine"], true);
    assert_eq!(env_of("AETERNA_MANAGED"), Some("1"));
    assert_eq!(env_of("AETERNA_UNIT"), Some("app"));
    assert_eq!(env_of("AETERNA_GENERATION"), Some("1"));
    assert_eq!(env_of("AETERNA_HANDOVER"), None);
    assert_eq!(env_of("AETERNA_FD_web"), Some("3"));
    assert_eq!(env_of("AETERNA_FD_web_2"), Some("4"));
    assert_eq!(env_of("AETERNA_FD_more_stuff"), Some("5"));
    assert_eq!(env_of("WATCHDOG_USEC"), None);
    for socket in report["sockets"].as_array().unwrap() {
        assert_eq!(socket["close_on_exec"], false, "{socket}");
    }
    // The path is bound under its own name.
    assert_eq!(report["sockets"][1]["address"], env.path("web.sock").display().to_string());
}

#[test]
fn the_signal_state_is_that_of_a_fresh_process() {
    let env = app("[Socket]\nListenStream = \"127.0.0.1:0\"", "");
    env.wait_state("app", UnitState::Running);
    let report = report(&env);
    assert_eq!(report["sig_blk"], 0);
    assert_eq!(report["sig_ign"], 1 << (Signal::SIGPIPE as i32 - 1), "SIGPIPE only");
    assert_eq!(report["sig_cgt"], 0);
    let env = app("[Socket]\nListenStream = \"127.0.0.1:0\"", "IgnoreSIGPIPE = false");
    env.wait_state("app", UnitState::Running);
    assert_eq!(self::report(&env)["sig_ign"], 0);
}

#[test]
fn what_a_daemon_was_started_with_does_not_reach_the_service() {
    let mut env = Env::new();
    env.unit(
        "app",
        "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{probe} orders={dir}/orders\"\nType = \"notify\"",
    );
    // A shell opens stray descriptors, ignores signals, and leaves variables of another supervisor.
    let script = format!(
        "exec 7</dev/null 8</etc/passwd; trap '' HUP USR2; export LISTEN_FDS=1 LISTEN_PID=1 LISTEN_FDNAMES=x \
         WATCHDOG_USEC=1 WATCHDOG_PID=1 AETERNA_UNIT=other AETERNA_FOO=1 MAINPID=4; exec {} \"$@\"",
        common::AETERNAD
    );
    let mut command = env.command("/bin/sh");
    command.args(["-c", &script, "sh"]);
    let units = env.path("units").display().to_string();
    env.launch_by(command, &["--unit", &units]);
    env.wait_control();
    env.wait_state("app", UnitState::Running);
    let report = report(&env);
    let fds: Vec<&String> = report["fds"].as_object().unwrap().keys().collect();
    assert_eq!(fds.len(), 4, "{report}");
    assert_eq!(report["sig_ign"], 1 << (Signal::SIGPIPE as i32 - 1));
    assert_eq!(report["env"]["AETERNA_UNIT"], "app");
    assert_eq!(report["env"]["LISTEN_FDS"], "1");
    for gone in ["WATCHDOG_USEC", "WATCHDOG_PID", "AETERNA_FOO", "MAINPID"] {
        assert!(report["env"][gone].is_null(), "{gone}");
    }
}

#[test]
fn a_socket_on_standard_input() {
    let env = app(
        "[Socket]\nListenStream = \"127.0.0.1:0\"",
        "StandardInput = \"socket\"\nStandardOutput = \"null\"",
    );
    env.wait_state("app", UnitState::Running);
    let report = report(&env);
    assert_eq!(report["fds"]["0"], report["fds"]["3"], "{report}");
    assert_eq!(report["fds"]["1"], "/dev/null");
}

#[test]
fn unix_paths_have_their_mode_and_go_where_it_is_asked() {
    let mut env = app(
        r#"
        [[Socket]]
        ListenStream = "{dir}/deep/er/a.sock"
        SocketMode = "0640"
        DirectoryMode = "0710"
        Symlinks = "{dir}/alias.sock"
        RemoveOnStop = true
        [[Socket]]
        ListenFIFO = "{dir}/fifo"
        SocketMode = "0600"
        RemoveOnStop = true
        "#,
        "",
    );
    env.wait_state("app", UnitState::Running);
    let path = env.path("deep/er/a.sock");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o640);
    assert_eq!(mode(path.parent().unwrap()), 0o710);
    assert!(std::fs::metadata(env.path("fifo")).unwrap().file_type().is_fifo());
    assert_eq!(mode(&env.path("fifo")), 0o600);
    let alias = env.path("alias.sock");
    assert_eq!(std::fs::read_link(&alias).unwrap(), path);
    assert_eq!(http::get(&alias.display().to_string(), "/").unwrap().status, 200);
    std::fs::OpenOptions::new().write(true).open(env.path("fifo")).unwrap().write_all(b"hello\n").unwrap();
    env.wait("the line", || report(&env)["received"].to_string().contains("hello").then_some(()));
    env.signal(Signal::SIGTERM);
    assert!(env.wait_exit().success());
    assert!(!path.exists() && !alias.exists() && !env.path("fifo").exists());
}

#[test]
fn a_path_longer_than_an_address_works() {
    let long = format!("{}/{}", "d".repeat(60), "s".repeat(60));
    let env = app(&format!("[Socket]\nListenStream = \"{{dir}}/{long}\""), "");
    env.wait_state("app", UnitState::Running);
    let status = env.unit_status("app");
    assert_eq!(status.sockets[0].address, env.path(&long).display().to_string());
    assert!(std::fs::metadata(env.path(&long)).unwrap().file_type().is_socket());
}

#[test]
fn datagrams_and_abstract_names_reach_the_service() {
    let mut env = Env::new();
    let name = format!("@{}/abstract", env.dir().display());
    env.unit(
        "app",
        &format!(
            "[[Socket]]\nListenStream = \"{name}\"\n[[Socket]]\nListenDatagram = \"{{dir}}/log\"\n\
             [Service]\nExecStart = \"{{probe}}\"\nType = \"notify\""
        ),
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.address("app", 0), name);
    assert_eq!(env.get("app", "/").status, 200);
    let client = UnixDatagram::bind(env.path("client")).unwrap();
    client.set_read_timeout(Some(common::WAIT)).unwrap();
    client.send_to(b"hello", env.path("log")).unwrap();
    let mut buffer = [0; 64];
    let count = client.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], b"hello");
}

#[test]
fn port_0_is_a_real_port_that_stays_over_restarts() {
    let env = app("[Socket]\nListenStream = \"127.0.0.1:0\"", "");
    env.wait_state("app", UnitState::Running);
    let address = env.address("app", 0);
    assert!(!address.ends_with(":0"), "{address}");
    let first = env.main_pid("app");
    assert_eq!(env.ctl(&["restart", "app"]).code, 0);
    env.wait_unit("app", "another process", |u| {
        u.state == UnitState::Running && u.main_pids.first().is_some_and(|pid| *pid != first)
    });
    assert_eq!(env.address("app", 0), address);
    assert_eq!(env.json("app", "/")["generation"], 2);
}

#[test]
fn numbers_of_descriptors_in_the_command_and_the_environment() {
    let mut env = Env::new();
    env.unit(
        "app",
        r#"
        [[Socket]]
        ListenStream = "127.0.0.1:0"
        FileDescriptorName = "http"
        [[Socket]]
        ListenStream = "127.0.0.1:0"
        FileDescriptorName = "adm-in"
        [Service]
        ExecStart = "{probe} orders={dir}/orders body=${AETERNA_FD_http}-${AETERNA_FD_adm_in}-$WORDS"
        Type = "notify"
        NonBlocking = true
        Environment = { MINE = "fd ${AETERNA_FD_adm_in}", WORDS = "w" }
        SocketEnvironment = ["server-starter", "einhorn", "nginx", "php-fpm"]
        "#,
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.get("app", "/").body, "3-4-$WORDS");
    let report = report(&env);
    let value = |name: &str| report["env"][name].as_str().unwrap_or_default().to_owned();
    let (a, b) = (env.address("app", 0), env.address("app", 1));
    assert_eq!(value("MINE"), "fd 4");
    assert_eq!(value("SERVER_STARTER_PORT"), format!("{a}=3;{b}=4"));
    assert_eq!(value("SERVER_STARTER_GENERATION"), "1");
    assert_eq!(value("EINHORN_FD_COUNT"), "2");
    assert_eq!(value("EINHORN_FD_1"), "4");
    assert_eq!(value("EINHORN_FDS"), "3 4");
    assert_eq!(value("NGINX"), "3;4;");
    assert_eq!(value("FPM_SOCKETS"), format!("{a}=3,{b}=4"));
    for socket in report["sockets"].as_array().unwrap() {
        assert_eq!(socket["non_blocking"], true, "{socket}");
    }
}

#[test]
fn the_first_connection_starts_the_service_and_is_answered() {
    let env = app("[Socket]\nListenStream = \"127.0.0.1:0\"", "StartOn = \"connection\"");
    let status = env.wait_state("app", UnitState::Listening);
    assert!(status.main_pids.is_empty());
    assert_eq!(env.json("app", "/")["count"], 1);
    env.wait_state("app", UnitState::Running);
}

#[test]
fn a_datagram_starts_the_service_too_and_is_not_lost() {
    let env = app("[Socket]\nListenDatagram = \"{dir}/log\"", "StartOn = \"connection\"");
    env.wait_state("app", UnitState::Listening);
    UnixDatagram::unbound().unwrap().send_to(b"first", env.path("log")).unwrap();
    env.wait_state("app", UnitState::Running);
    env.wait("the datagram", || report(&env)["received"].to_string().contains("first").then_some(()));
}

#[test]
fn a_start_that_fails_waits_for_its_back_off_and_never_loops() {
    let mut env = Env::new();
    env.file("behaviour", "exit=3");
    env.unit(
        "app",
        r#"
        [Socket]
        ListenStream = "127.0.0.1:0"
        [Service]
        ExecStart = "{probe}"
        Type = "notify"
        StartOn = "connection"
        Environment = { PROBE_FILE = "{dir}/behaviour" }
        Restart = "on-failure"
        RestartSec = "200ms"
        StartLimitBurst = 100
        "#,
    );
    env.start();
    env.wait_state("app", UnitState::Listening);
    let address = env.address("app", 0);
    let begin = std::time::Instant::now();
    let mut client = Client::connect(&address).unwrap();
    client.send("/", "").unwrap();
    env.wait_event(0, "the first failure", |e| e.kind == "ended");
    env.wait_event(0, "a second try", |e| e.kind == "started" && e.generation == Some(3));
    let starts = env.events_since(0).iter().filter(|e| e.kind == "started").count();
    let allowed = 1 + begin.elapsed().as_millis() / 200;
    assert!(starts as u128 <= allowed, "{starts} starts where the back-off allows {allowed}");
    env.file("behaviour", "");
    assert_eq!(client.receive().unwrap().status, 200, "the connection waited in the queue");
    env.wait_state("app", UnitState::Running);
}

#[test]
fn a_start_that_cannot_succeed_fails_and_keeps_the_socket() {
    let mut env = Env::new();
    env.unit(
        "app",
        "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{dir}/missing\"\nStartOn = \"connection\"\nStartLimitBurst = 2\nStartLimitIntervalSec = \"1h\"",
    );
    env.start();
    env.wait_state("app", UnitState::Listening);
    let address = env.address("app", 0);
    let waiting = Client::connect(&address).unwrap();
    let failed = env.wait_state("app", UnitState::Failed);
    assert!(failed.why.contains("No such file or directory"), "{failed:?}");
    assert_eq!(env.events_since(0).iter().filter(|e| e.state == Some(UnitState::Backoff)).count(), 2);
    // Still there: the queue takes connections until the next start.
    let also_waiting = Client::connect(&address).unwrap();
    // No copy: what a child of a parallel test still has open for writing is not executed.
    std::os::unix::fs::symlink(example("probe"), env.path("missing")).unwrap();
    assert_eq!(env.ctl(&["start", "app"]).code, 0);
    let mut clients = [waiting, also_waiting];
    for client in &mut clients {
        let answer = client.get("/").unwrap_or_else(|e| env.fail(&format!("no answer: {e}")));
        assert_eq!(answer.status, 200);
    }
}

#[test]
fn an_idle_service_stops_and_the_next_connection_starts_it_again() {
    let env = app(
        "[Socket]\nListenStream = \"127.0.0.1:0\"",
        "StartOn = \"connection\"\nStopWhenIdleSec = \"300ms\"",
    );
    env.wait_state("app", UnitState::Listening);
    let address = env.address("app", 0);
    let mut held = Client::connect(&address).unwrap();
    assert_eq!(held.get("/").unwrap().status, 200);
    let mark = env.mark();
    drop(held);
    env.wait_event(mark, "listening again", |e| e.state == Some(UnitState::Listening));
    assert!(env.unit_status("app").main_pids.is_empty());
    assert_eq!(env.json("app", "/")["generation"], 2);
}

#[test]
fn an_established_connection_is_not_idle() {
    let env = app(
        "[Socket]\nListenStream = \"127.0.0.1:0\"",
        "StartOn = \"connection\"\nStopWhenIdleSec = \"150ms\"",
    );
    env.wait_state("app", UnitState::Listening);
    let address = env.address("app", 0);
    let mut held = Client::connect(&address).unwrap();
    // Longer than the idle time: the silent connection keeps it alive, the same process answers.
    let first = held.get("/").unwrap().body;
    assert_eq!(held.get("/slow?ms=600").unwrap().status, 200);
    let second = held.get("/").unwrap().body;
    assert!(first.contains("\"count\":1") && second.contains("\"count\":3"), "{first} {second}");
}

#[test]
fn an_instance_for_each_connection() {
    let mut env = Env::new();
    env.unit(
        "app",
        r#"
        [Socket]
        ListenStream = "127.0.0.1:0"
        Accept = true
        MaxConnections = 3
        MaxConnectionsPerSource = 2
        [Service]
        ExecStart = "{probe}"
        "#,
    );
    env.start();
    let status = env.wait_state("app", UnitState::Listening);
    assert_eq!(status.sockets[0].sharing, "shared");
    let address = env.address("app", 0);
    let mut one = Client::connect(&address).unwrap();
    let report: Value = serde_json::from_str(&one.get("/report").unwrap().body).unwrap();
    assert_eq!(report["env"]["LISTEN_FDS"], "1");
    assert_eq!(report["env"]["LISTEN_FDNAMES"], "connection");
    assert_eq!(report["env"]["REMOTE_ADDR"], "127.0.0.1");
    assert!(report["env"]["REMOTE_PORT"].as_str().unwrap().parse::<u16>().unwrap() > 0);
    assert_eq!(report["sockets"][0]["listening"], false);
    assert_eq!(report["fds"].as_object().unwrap().len(), 4, "{report}");
    let mut two = Client::connect(&address).unwrap();
    let pid_of = |client: &mut Client| {
        let body: Value = serde_json::from_str(&client.get("/").unwrap().body).unwrap();
        body["pid"].as_i64().unwrap()
    };
    let (first, second) = (pid_of(&mut one), pid_of(&mut two));
    assert_ne!(first, second);
    // One too many of this source: accepted and closed.
    let mut three = Client::connect(&address).unwrap();
    assert_eq!(three.rest().unwrap_or_default(), "");
    assert_eq!(env.unit_status("app").state, UnitState::Listening);
    drop(one);
    env.wait_gone(first as i32);
    // Its place is free once more, and nothing has failed for good.
    let again = env.wait("a free place", || {
        let mut client = Client::connect(&address).ok()?;
        client.get("/").ok().map(|r| r.status)
    });
    assert_eq!(again, 200);
}

#[test]
fn an_inetd_service_talks_over_its_standard_streams() {
    let mut env = Env::new();
    env.unit(
        "app",
        r#"
        [Socket]
        ListenStream = "{dir}/sock"
        Accept = true
        [Service]
        ExecStart = ["/bin/sh", "-c", "read line; echo \"got $line $LISTEN_FDS\""]
        StandardInput = "socket"
        StandardOutput = "socket"
        "#,
    );
    env.start();
    env.wait_state("app", UnitState::Listening);
    for round in 0..5 {
        let mut client = Client::connect(&env.path("sock").display().to_string()).unwrap();
        client.write(format!("hello{round}\n").as_bytes()).unwrap();
        assert_eq!(client.rest().unwrap(), format!("got hello{round} 1\n"));
    }
}

/// Starts the daemon with these sockets from descriptor 3 on, as a parent with LISTEN_FDS would.
fn start_with_inherited(env: &mut Env, sockets: Vec<OwnedFd>, fd_names: &str) {
    let count = sockets.len();
    assert!(count <= 2);
    let mut sockets = sockets.into_iter();
    let script = format!(
        "exec 3<&0 {} 0</dev/null; export LISTEN_FDS={count} LISTEN_PID=$$ LISTEN_FDNAMES={fd_names}; exec {} \"$@\"",
        if count == 2 { "4<&1 1>&2" } else { "" },
        common::AETERNAD
    );
    // The bench's own launcher gives both streams away, so a shell of its own passes the sockets on.
    let mut command = env.command("/bin/sh");
    command.args(["-c", &script, "sh"]);
    command.arg("--runtime-dir").arg(env.runtime_dir()).arg("--unit").arg(env.path("units"));
    command.stdin(Stdio::from(sockets.next().unwrap()));
    if let Some(second) = sockets.next() {
        command.stdout(Stdio::from(second));
    } else {
        command.stdout(Stdio::null());
    }
    command.stderr(std::fs::File::create(env.path("stderr")).unwrap());
    env.adopt(command.spawn().unwrap());
    env.wait_control();
}

#[test]
fn sockets_of_a_parent_are_taken_over_by_address_and_by_name() {
    let mut env = Env::new();
    let one = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let two = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (first, second) = (one.local_addr().unwrap().to_string(), two.local_addr().unwrap().to_string());
    env.unit(
        "app",
        &format!(
            "[[Socket]]\nListenStream = \"{first}\"\n[[Socket]]\nListenStream = \"127.0.0.1:0\"\nFileDescriptorName = \"named\"\n\
             [Service]\nExecStart = \"{{probe}} orders={{dir}}/orders\"\nType = \"notify\""
        ),
    );
    let inode = |l: &std::net::TcpListener| {
        let fd = std::os::fd::AsRawFd::as_raw_fd(l);
        std::fs::metadata(format!("/proc/self/fd/{fd}")).unwrap().ino()
    };
    let inodes = [inode(&one), inode(&two)];
    start_with_inherited(&mut env, vec![one.into(), two.into()], "x:named");
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.address("app", 0), first);
    assert_eq!(env.address("app", 1), second);
    let report = report(&env);
    for (at, inode) in inodes.iter().enumerate() {
        assert_eq!(report["sockets"][at]["inode"], format!("socket:[{inode}]"), "the same socket");
    }
    let status = env.unit_status("app");
    assert_eq!(status.sockets[0].sharing, "shared");
    assert_eq!(
        status.generations[0].weight, None,
        "a shared socket has no shares, whatever the unit declares"
    );
    assert_eq!(env.get("app", "/").status, 200);
}

#[test]
fn an_inherited_name_with_another_address_is_an_error_and_strays_are_closed() {
    let env = Env::new();
    let one = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let unit = env.unit(
        "app",
        "[Socket]\nListenStream = \"{dir}/sock\"\nFileDescriptorName = \"web\"\n[Service]\nExecStart = \"{probe}\"",
    );
    let script = format!(
        "exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=web; exec {} --runtime-dir {} --unit {}",
        common::AETERNAD,
        env.runtime_dir().display(),
        unit.display()
    );
    let mut command = env.command("/bin/sh");
    command.args(["-c", &script]).stdin(Stdio::from(OwnedFd::from(one))).stderr(Stdio::piped());
    let ended = env.finish_child(command.spawn().unwrap());
    assert_eq!(ended.code, 69, "{}", ended.stderr);
    assert!(ended.stderr.contains("\"web\""), "{}", ended.stderr);
    let mut env = Env::new();
    env.unit(
        "app",
        "[Socket]\nListenStream = \"{dir}/sock\"\n[Service]\nExecStart = \"{probe}\"\nType = \"notify\"",
    );
    let one = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = one.local_addr().unwrap();
    start_with_inherited(&mut env, vec![one.into()], "stray");
    env.wait_state("app", UnitState::Running);
    let log = std::fs::read_to_string(env.path("stderr")).unwrap();
    assert!(log.contains("closed the inherited socket \"stray\""), "{log}");
    // A child of another test may have a copy until its exec.
    env.wait("nobody listens there any more", || std::net::TcpStream::connect(address).err());
}

#[test]
fn descriptors_that_were_promised_and_not_given_are_an_error() {
    let env = Env::new();
    let unit = env.unit("app", "[Socket]\nListenStream = \"{dir}/sock\"\n[Service]\nExecStart = \"{probe}\"");
    for (count, says) in
        [("3", "cannot take over descriptor 3 of LISTEN_FDS=3"), ("x", "LISTEN_FDS=x is no number")]
    {
        let script = format!(
            "exec 3<&- 4<&- 5<&-; export LISTEN_FDS={count} LISTEN_PID=$$; exec {} --runtime-dir {} --unit {}",
            common::AETERNAD,
            env.runtime_dir().display(),
            unit.display()
        );
        let mut command = env.command("/bin/sh");
        command.args(["-c", &script]);
        let ended = env.finish(command);
        assert_eq!(ended.code, 1, "{}", ended.stderr);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
}

#[test]
fn a_stopped_unit_is_not_started_by_traffic_and_answers_it_after_a_start() {
    let env = app("[Socket]\nListenStream = \"127.0.0.1:0\"", "StartOn = \"connection\"");
    env.wait_state("app", UnitState::Listening);
    let address = env.address("app", 0);
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    let mut waiting = Client::connect(&address).unwrap();
    waiting.send("/", "").unwrap();
    // Two questions and answers later it would have started long ago.
    for _ in 0..2 {
        assert_eq!(env.unit_status("app").state, UnitState::Stopped);
    }
    assert_eq!(env.ctl(&["start", "app"]).code, 0);
    assert_eq!(waiting.receive().unwrap().status, 200);
}

#[test]
fn a_trigger_limit_pauses_and_the_socket_lives_on() {
    let mut env = Env::new();
    env.unit(
        "app",
        r#"
        [Socket]
        ListenStream = "{dir}/sock"
        Accept = true
        TriggerLimitIntervalSec = "400ms"
        TriggerLimitBurst = 3
        [Service]
        ExecStart = ["/bin/sh", "-c", "echo hello"]
        StandardOutput = "socket"
        "#,
    );
    env.start();
    env.wait_state("app", UnitState::Listening);
    let path = env.path("sock").display().to_string();
    let mut clients: Vec<Client> = (0..8).map(|_| Client::connect(&path).unwrap()).collect();
    for client in &mut clients {
        assert_eq!(client.rest().unwrap(), "hello\n", "late, but served");
    }
    assert_eq!(env.unit_status("app").state, UnitState::Listening);
}

#[test]
fn what_waits_is_thrown_away_where_that_is_asked_for() {
    let mut env = Env::new();
    env.unit(
        "app",
        r#"
        [Socket]
        ListenStream = "{dir}/sock"
        FlushPending = true
        [Service]
        ExecStart = "{probe} no_accept"
        Type = "notify"
        StartOn = "connection"
        "#,
    );
    env.start();
    env.wait_state("app", UnitState::Listening);
    let mut client = Client::connect(&env.path("sock").display().to_string()).unwrap();
    env.wait_state("app", UnitState::Running);
    process::kill(env.main_pid("app"), Signal::SIGTERM);
    assert_eq!(client.rest().unwrap_or_default(), "", "closed, not served");
    env.wait_state("app", UnitState::Listening);
}

#[test]
fn without_privileges_everything_is_handed_over_too() {
    let mut env = Env::new();
    if !env.as_nobody() {
        return;
    }
    env.unit(
        "app",
        "[Socket]\nListenStream = [\"127.0.0.1:0\", \"{dir}/sock\"]\n[Service]\nExecStart = \"{probe} orders={dir}/orders\"\nType = \"notify\"\nRestart = \"always\"",
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    let report = report(&env);
    assert_eq!(report["uid"][0], 65534);
    assert_eq!(report["fds"].as_object().unwrap().len(), 5, "{report}");
    process::kill(env.main_pid("app"), Signal::SIGKILL);
    env.wait_unit("app", "generation 2", |u| u.generation == 2 && u.state == UnitState::Running);
    assert_eq!(env.get("app", "/").status, 200);
}

#[test]
fn a_listener_of_another_protocol_is_lent_and_replaced() {
    for (protocol, number) in [("mptcp", 262), ("sctp", 132)] {
        let python = |env: &Env, script: &str| {
            let mut command = env.command("python3");
            command.args(["-c", script]);
            env.finish(command)
        };
        let there = python(&Env::new(), &format!("import socket; socket.socket(2, 1, {number})")).code == 0;
        let sockets = format!(
            "[[Socket]]\nListenStream = \"127.0.0.1:0\"\nNoDelay = true\nSocketProtocol = \"{protocol}\""
        );
        if !there {
            // It is said what is missing.
            let env = Env::new();
            let unit = env.unit("app", &format!("{sockets}\n[Service]\nExecStart = \"{{probe}}\"\n"));
            let run = env.runtime_dir().display().to_string();
            let ended = env.daemon(&["--runtime-dir", &run, "--unit", &unit.display().to_string()]);
            let words = format!("this kernel has no {}", protocol.to_uppercase());
            assert!(ended.code == 69 && ended.stderr.contains(&words), "{ended:?}");
            continue;
        }
        let env = app(&sockets, "");
        env.wait_state("app", UnitState::Running);
        let status = env.unit_status("app");
        assert_eq!(status.sockets[0].sharing, "shared");
        assert!(status.sockets[0].why.contains(&protocol.to_uppercase()), "{}", status.sockets[0].why);
        if protocol == "mptcp" {
            // Who knows nothing of it is served as ever.
            assert_eq!(env.get("app", "/").status, 200);
            assert_eq!(env.ctl(&["reload", "app"]).code, 0, "{}", env.log());
            assert_eq!(env.get("app", "/").status, 200);
        }
        let name = format!(
            "import os; print(os.getxattr('/proc/{}/fd/3', 'system.sockprotoname'))",
            env.main_pid("app")
        );
        assert!(python(&env, &name).stdout.contains(&protocol.to_uppercase()));
    }
}
