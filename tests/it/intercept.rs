//! `InterceptBind` and `--intercept`: what an adopted program gets, and what is said where it cannot be adopted.
//! Programs as their makers ship them are in `intercept_programs.rs`.
use crate::common;
use aeterna::proto::status::UnitState;
use common::hammer::{HTTP, Hammer, To, ask};
use common::port::{free_low_port, free_port};
use common::{AETERNACTL, AETERNAD, Env, WAIT, skip};
use std::io::Read;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A unit whose program binds by itself.
pub(crate) fn intercepted(command: &str) -> String {
    format!(
        "[Service]\nExecStart = \"{command}\"\nInterceptBind = true\nStandardOutput = \"null\"\nStandardError = \"null\"\n\
         [Reload]\nSoakTime = \"200ms\"\nCanaryWeight = 50\nDrainTimeout = \"10s\"\n"
    )
}

#[test]
fn one_line_makes_any_server_replaceable() {
    let port = free_port();
    let mut env = Env::new();
    let server = port.to_string();
    env.start_with(&["--intercept", "--", "python3", "-m", "http.server", &server]);
    env.wait_state("python3", UnitState::Running);
    ask(&To::Port(port), HTTP).unwrap();
    let reload = env.ctl_start(&["reload", "python3"]);
    env.wait_state("python3", UnitState::Soaking);
    assert_eq!(env.ctl(&["promote", "python3"]).code, 0);
    assert_eq!(env.finish_child(reload).code, 0);
    ask(&To::Port(port), HTTP).unwrap();
    assert_eq!(env.unit_status("python3").sockets[0].address, format!("0.0.0.0:{port}"));
}

/// A program that does what `script` says; `wait(name)` waits for a file.
pub(crate) fn python(env: &Env, script: &str) -> String {
    let file = env.file(
        "app.py",
        &format!(
            "import socket, os, time, sys\ndef tcp(family=socket.AF_INET):\n  s = socket.socket(family); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); return s\ndef say(*a): os.write(1, (' '.join(map(str, a)) + chr(10)).encode())\ndef wait(name):\n  while not os.path.exists(name): time.sleep(0.005)\ndef serve(s):\n  while True:\n    c, _ = s.accept(); c.close()\n{script}\n"
        ),
    );
    format!("/usr/bin/python3 -u {}", file.display())
}

#[test]
fn ready_is_when_it_listens() {
    let mut env = Env::new();
    let (port, go) = (free_port(), env.path("go"));
    let script = format!(
        "s = tcp(); s.bind(('127.0.0.1', {port})); say('bound'); wait('{}'); s.listen(5); serve(s)",
        go.display()
    );
    let command = python(&env, &script);
    env.unit("app", &intercepted(&command).replace("StandardOutput = \"null\"\n", ""));
    env.start();
    env.wait_log("bound");
    assert_eq!(env.unit_status("app").fsm(), UnitState::Starting);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "it does not listen yet");
    env.file("go", "");
    env.wait_state("app", UnitState::Running);
    let socket = env.unit_status("app").sockets.remove(0);
    assert!(socket.limit > Some(5), "the backlog is as ever: {socket:?}");
}

trait State {
    fn fsm(&self) -> UnitState;
}

impl State for aeterna::proto::status::UnitStatus {
    fn fsm(&self) -> UnitState {
        self.state
    }
}

#[test]
fn options_are_the_programs_in_every_generation() {
    let mut env = Env::new();
    let port = free_port();
    let script = format!(
        "s = tcp()
S = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77)]
for l, n, v in S: s.setsockopt(l, n, v)
s.bind(('127.0.0.1', {port})); s.listen(1)
assert not os.get_inheritable(s.fileno()) and s.getblocking()
say('options', all(s.getsockopt(l, n) == v for l, n, v in S), s.getsockname()[1] == {port})
serve(s)"
    );
    let command = python(&env, &script);
    env.unit("app", &intercepted(&command).replace("StandardOutput = \"null\"\n", ""));
    env.start();
    env.wait_state("app", UnitState::Running);
    for _ in 0..3 {
        assert_eq!(env.ctl(&["reload", "app"]).code, 0, "{}", env.log());
    }
    env.wait("four generations with their options", || {
        (env.log().matches("options True True").count() == 4).then_some(())
    });
}

#[test]
fn a_unix_path_stays_while_it_is_held() {
    let mut env = Env::new();
    let path = env.path("app.sock");
    let script = format!(
        "p = '{0}'
try: os.unlink(p)
except FileNotFoundError: pass
s = socket.socket(socket.AF_UNIX); s.bind(p); s.listen(5)
import signal
def end(*a):
  os.unlink(p); os._exit(0)
signal.signal(signal.SIGTERM, end)
while True:
  c, _ = s.accept(); c.send(b'hi'); c.close()",
        path.display()
    );
    let unit = intercepted(&python(&env, &script));
    env.unit("app", &unit);
    env.start();
    env.wait_state("app", UnitState::Running);
    let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
    assert_eq!(env.ctl(&["reload", "app"]).code, 0, "{}", env.log());
    env.wait("the old one is gone", || (env.unit_status("app").generations.len() == 1).then_some(()));
    ask(&To::Path(path.clone()), ("", "hi")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap()), inode);
    env.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(env.wait_exit().success());
    assert!(!path.exists(), "the name goes with aeternad");
}

#[test]
fn udp_is_shared_and_loses_nothing() {
    let mut env = Env::new();
    let port = free_port();
    let script = format!(
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', {port}))
import signal
stop = []
signal.signal(signal.SIGTERM, lambda *a: stop.append(1))
s.settimeout(0.05)
while not stop:
  try: d, a = s.recvfrom(100)
  except TimeoutError: continue
  s.sendto(d, a)"
    );
    let unit = intercepted(&python(&env, &script));
    env.unit("app", &unit);
    env.start();
    env.wait_state("app", UnitState::Running);
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let client = std::thread::spawn({
        let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
        move || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(("127.0.0.1", port)).unwrap();
            socket.set_read_timeout(Some(WAIT)).unwrap();
            while !stop.load(Ordering::Relaxed) {
                socket.send(b"x").unwrap();
                socket.recv(&mut [0; 8]).expect("a datagram was lost");
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let some_more = || {
        let target = answered.load(Ordering::Relaxed) + 50;
        env.wait("50 answers", || {
            (client.is_finished() || answered.load(Ordering::Relaxed) >= target).then_some(())
        });
    };
    some_more();
    for _ in 0..2 {
        assert_eq!(env.ctl(&["reload", "app"]).code, 0, "{}", env.log());
        some_more();
    }
    stop.store(true, Ordering::Relaxed);
    client.join().unwrap();
    assert_eq!(env.unit_status("app").sockets[0].sharing, "shared");
}

#[test]
fn an_overlap_is_said_loudly_and_the_program_goes_on() {
    let mut env = Env::new();
    let port = free_port();
    let script = format!(
        "s = tcp()
try: s.bind(('0.0.0.0', {port}))
except OSError as e: say('told', e.errno == 98)
t = tcp(socket.AF_INET6); t.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
t.bind(('::', {port})); t.listen(5); serve(t)"
    );
    let command = python(&env, &script);
    let unit = intercepted(&command).replace("StandardOutput = \"null\"\n", "");
    let socket = format!("[Socket]\nListenStream = \"[::]:{port}\"\nBindIPv6Only = \"both\"\n{unit}");
    env.unit("app", &socket);
    env.start();
    env.wait_state("app", UnitState::Running);
    env.wait_log("told True");
    let log = env.wait_log("overlaps");
    assert!(log.contains(&format!("binds 0.0.0.0:{port}")), "{log}");
    assert!(log.contains("BindIPv6Only"), "{log}");
}

#[test]
fn an_address_of_somebody_else_is_explained() {
    let mut env = Env::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, other) = (free_port(), taken.local_addr().unwrap().port());
    let script = format!(
        "s = tcp(); s.bind(('127.0.0.1', {port})); s.listen(5)
try: tcp().bind(('127.0.0.1', {other}))
except OSError as e: say('told', e.errno == 98)
serve(s)"
    );
    let command = python(&env, &script);
    env.unit("app", &intercepted(&command).replace("StandardOutput = \"null\"\n", ""));
    env.start();
    env.wait_state("app", UnitState::Running);
    env.wait_log("told True");
    env.wait_log(&format!("cannot bind 127.0.0.1:{other}: Address already in use"));
    assert_eq!(env.unit_status("app").sockets.len(), 1);
}

#[test]
fn what_is_not_bound_any_more_is_given_up_at_promotion() {
    let mut env = Env::new();
    let (one, two) = (free_port(), free_port());
    let second = env.file("second", "");
    let script = format!(
        "s = tcp(); s.bind(('127.0.0.1', {one})); s.listen(5)
if os.path.exists('{}'):
  t = tcp(); t.bind(('127.0.0.1', {two})); t.listen(5)
serve(s)",
        second.display()
    );
    let unit = intercepted(&python(&env, &script));
    env.unit("app", &unit);
    env.start();
    env.wait_unit("app", "two sockets", |unit| unit.sockets.len() == 2);
    std::fs::remove_file(second).unwrap();
    assert_eq!(env.ctl(&["reload", "app"]).code, 0, "{}", env.log());
    env.wait_log(&format!("does not listen on 127.0.0.1:{two}, as the one before did"));
    assert_eq!(env.unit_status("app").sockets.len(), 1);
}

#[test]
fn what_is_bound_in_another_network_stays_there() {
    let works = Command::new("unshare").args(["-Urn", "true"]).status().is_ok_and(|status| status.success());
    if !works {
        return skip("network namespaces are not allowed here");
    }
    let mut env = Env::new();
    let port = free_port();
    let script = format!("s = tcp(); s.bind(('0.0.0.0', {port})); s.listen(5); say('listens'); serve(s)");
    let command = format!("/usr/bin/unshare -Urn {}", python(&env, &script));
    env.unit("app", &intercepted(&command).replace("StandardOutput = \"null\"\n", ""));
    env.start();
    env.wait_log("listens");
    env.wait_log(&format!("binds 0.0.0.0:{port} in a network namespace of its own"));
    env.wait_state("app", UnitState::Running);
    assert!(TcpListener::bind(("0.0.0.0", port)).is_ok(), "nobody has it here");
    assert_eq!(env.unit_status("app").sockets.len(), 0);
}

#[test]
fn a_filter_in_a_filter_is_explained() {
    let mut env = Env::new();
    let port = free_port();
    let inner = env.path("inner");
    env.unit(
        "outer",
        &intercepted(&format!(
            "{AETERNAD} --runtime-dir {} --intercept -- /usr/bin/python3 -m http.server {port}",
            inner.display()
        ))
        .replace("StandardOutput = \"null\"\nStandardError = \"null\"\n", ""),
    );
    env.start();
    let log = env.wait_log("filter of another supervisor");
    assert!(log.contains("LISTEN_FDS"), "{log}");
    let told = env.wait("the inner one's status", || {
        let mut status = env.command(AETERNACTL);
        status.arg("--runtime-dir").arg(&inner).args(["status", "python3"]);
        Some(env.finish(status)).filter(|done| done.code == 0)
    });
    assert!(told.stdout.contains("filter of another supervisor"), "{}", told.stdout);
    env.wait("the program goes on", || ask(&To::Port(port), HTTP).ok());
}

#[test]
fn a_low_port_only_if_it_is_declared() {
    if !nix::unistd::geteuid().is_root() {
        return skip("only root has low ports to give");
    }
    let low = free_low_port();
    for declared in [true, false] {
        let mut env = Env::new();
        let script = format!(
            "s = tcp()
try: s.bind(('127.0.0.1', {low})); s.listen(5); say('low port', os.getuid()); serve(s)
except PermissionError: say('refused', os.getuid()); time.sleep(100)"
        );
        let command = python(&env, &script);
        let unit = intercepted(&command)
            .replace("StandardOutput = \"null\"\n", "User = \"nobody\"\nTimeoutStartSec = \"20s\"\n");
        let sockets = format!("[Socket]\nListenStream = \"127.0.0.1:{low}\"\n");
        env.unit("app", &if declared { sockets + &unit } else { unit });
        env.start();
        env.wait_log(if declared { "low port 65534" } else { "refused 65534" });
    }
}

/// aeternad under a wrapper, by hand: `Env` starts it as we are.
fn works_under(wrapper: &[&str]) {
    let folder = tempfile::Builder::new().prefix("ai").tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let copy = |program: &str| {
        let to = folder.path().join(Path::new(program).file_name().unwrap());
        // Not by this process: a child of another test would have it open for writing until it has executed, and nobody
        // can execute what is open for writing.
        assert!(Command::new("cp").arg(program).arg(&to).status().unwrap().success());
        to
    };
    let (daemon, client) = (copy(AETERNAD), copy(AETERNACTL));
    let (port, run) = (free_port(), folder.path().join("run"));
    let wrapped = |program: &Path| {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(program).arg("--runtime-dir").arg(&run);
        command.current_dir(folder.path());
        command
    };
    let mut aeternad = wrapped(&daemon);
    aeternad.args(["--intercept", "--", "/usr/bin/python3", "-m", "http.server", &port.to_string()]);
    let log = folder.path().join("log");
    let file = std::fs::File::create(&log).unwrap();
    aeternad.stdout(file.try_clone().unwrap()).stderr(file).stdin(Stdio::null());
    let mut aeternad = aeternad.spawn().unwrap();
    let until = std::time::Instant::now() + WAIT;
    while ask(&To::Port(port), HTTP).is_err() {
        assert!(std::time::Instant::now() < until, "{}", std::fs::read_to_string(&log).unwrap());
        std::thread::yield_now();
    }
    let hammer = Hammer::start(&To::Port(port), HTTP);
    hammer.wait_answers(20);
    let mut reload = wrapped(&client);
    reload.args(["reload", "python3"]);
    let mut reload = reload.stdout(Stdio::piped()).spawn().unwrap();
    let mut told = reload.stdout.take().unwrap();
    let mut text = String::new();
    while !text.contains("SOAKING") {
        let mut buffer = [0; 256];
        let count = told.read(&mut buffer).unwrap();
        assert!(count > 0, "{text}\n{}", std::fs::read_to_string(&log).unwrap());
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    let mut promote = wrapped(&client);
    assert!(promote.args(["promote", "python3"]).stdout(Stdio::null()).status().unwrap().success());
    assert!(reload.wait().unwrap().success());
    hammer.wait_answers(20);
    let (answered, failed) = hammer.finish();
    // The wrapper has become aeternad, or passes the signal on.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(aeternad.id() as i32),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    aeternad.wait().unwrap();
    assert!(failed.is_empty(), "{answered} answered, {failed:?}");
}

#[test]
fn as_an_ordinary_user() {
    if !nix::unistd::geteuid().is_root() || !Path::new("/usr/bin/setpriv").exists() {
        return skip("setpriv and root are needed to become somebody else");
    }
    works_under(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]);
}

#[test]
fn in_a_user_namespace() {
    let works = Command::new("unshare").args(["-Ur", "true"]).status().is_ok_and(|status| status.success());
    if !works {
        return skip("user namespaces are not allowed here");
    }
    works_under(&["unshare", "-Ur"]);
}

#[test]
fn in_a_container_without_pidfd_getfd() {
    let file = |name: &str| common::repository().join("tests/it/places").join(name).display().to_string();
    works_under(&["/usr/bin/python3", &file("container.py"), &file("seccomp.json")]);
}
