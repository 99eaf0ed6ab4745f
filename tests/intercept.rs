//! `InterceptBind` and `--intercept`: programs as their makers ship them, replaced under load.
#![cfg(test)]

mod common;

use aeterna::proto::status::{Outcome, UnitState};
use common::{AETERNACTL, AETERNAD, Env, skip};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const HTTP: (&str, &str) = ("GET / HTTP/1.0\r\nHost: x\r\n\r\n", "HTTP/1");
const CLIENTS: usize = 4;
const RELOADS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(10);

/// Where clients go.
#[derive(Clone)]
enum To {
    Port(u16),
    Path(PathBuf),
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn dial(to: &To) -> std::io::Result<Box<dyn Stream>> {
    match to {
        To::Port(port) => {
            let stream = TcpStream::connect(("127.0.0.1", *port))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(Box::new(stream))
        }
        To::Path(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(Box::new(stream))
        }
    }
}

/// One connection, one request; what came if it is not what was expected.
fn ask(to: &To, (request, expected): (&str, &str)) -> Result<(), String> {
    let mut stream = dial(to).map_err(|error| format!("connect: {error}"))?;
    stream.write_all(request.as_bytes()).map_err(|error| format!("write: {error}"))?;
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&got).contains(expected) {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(format!("ended after {:?}", String::from_utf8_lossy(&got))),
            Ok(count) => got.extend(&buffer[..count]),
            Err(error) => return Err(format!("read: {error}")),
        }
    }
    Ok(())
}

/// Clients with a connection per request.
struct Hammer {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<std::thread::JoinHandle<Vec<String>>>,
}

impl Hammer {
    fn start(to: &To, talk: (&'static str, &'static str)) -> Hammer {
        let mut hammer = Hammer { stop: Arc::default(), answered: Arc::default(), clients: Vec::new() };
        for _ in 0..CLIENTS {
            let (to, stop, answered) = (to.clone(), Arc::clone(&hammer.stop), Arc::clone(&hammer.answered));
            hammer.clients.push(std::thread::spawn(move || {
                let mut failed = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match ask(&to, talk) {
                        Ok(()) => _ = answered.fetch_add(1, Ordering::Relaxed),
                        Err(why) => failed.push(why),
                    }
                }
                failed
            }));
        }
        hammer
    }

    fn finish(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failed = self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        (self.answered.load(Ordering::Relaxed), failed)
    }
}

fn free_port() -> u16 {
    TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

fn find(program: &str) -> Option<PathBuf> {
    ["/usr/local/bin", "/usr/bin", "/usr/sbin", "/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.exists())
}

const RELOAD: &str = "\n[Reload]\nSoakTime = \"200ms\"\nCanaryWeight = 50\nDrainTimeout = \"10s\"\n";

/// A unit whose program binds by itself.
fn intercepted(command: &str) -> String {
    format!(
        "[Service]\nExecStart = \"{command}\"\nInterceptBind = true\nStandardOutput = \"null\"\nStandardError = \"null\"\n{RELOAD}"
    )
}

/// Starts it, reloads it under load, and counts.
fn replaced_under_load(env: &mut Env, name: &str, unit: &str, to: &To, talk: (&'static str, &'static str)) {
    env.unit(name, unit);
    env.start();
    env.wait_state(name, UnitState::Running);
    let hammer = Hammer::start(to, talk);
    for _ in 0..RELOADS {
        let mark = env.mark();
        let done = env.ctl(&["reload", name]);
        assert_eq!(done.code, 0, "{}\n{}\n{}", done.stdout, done.stderr, env.log());
        env.wait_reloaded(name, mark);
    }
    let (answered, failed) = hammer.finish();
    assert!(
        failed.is_empty(),
        "{name}: {} of {answered} failed: {:?}",
        failed.len(),
        &failed[..failed.len().min(5)]
    );
    assert!(answered > 100, "{name}: {answered}");
    let status = env.unit_status(name);
    assert_eq!(status.last_reload.unwrap().outcome, Outcome::Promoted);
}

fn http_program(name: &str, command: &str, port: u16) {
    let mut env = Env::new();
    replaced_under_load(&mut env, name, &intercepted(command), &To::Port(port), HTTP);
    assert!(env.unit_status(name).sockets.iter().all(|socket| socket.sharing == "steered"));
}

#[test]
fn python_http_server() {
    let port = free_port();
    http_program(
        "python",
        &format!("/usr/bin/python3 -m http.server {port} --directory {{dir}}/units"),
        port,
    );
}

#[test]
fn a_shell_in_between() {
    let port = free_port();
    http_program(
        "shell",
        &format!("/bin/sh -c 'cd {{dir}}/units; python3 -m http.server {port}; true'"),
        port,
    );
}

#[test]
fn node_and_its_cluster() {
    let Some(node) = find("node") else { return skip("there is no node") };
    for script in [
        "require('http').createServer((q,r)=>r.end('hi')).listen(+process.argv[2])",
        "const c=require('cluster');if(c.isPrimary){c.fork();c.fork()}else require('http').createServer((q,r)=>r.end('hi')).listen(+process.argv[2])",
    ] {
        let port = free_port();
        let mut env = Env::new();
        let file = env.file("app.js", script);
        let unit = intercepted(&format!("{} {} {port}", node.display(), file.display()));
        replaced_under_load(&mut env, "node", &unit, &To::Port(port), HTTP);
    }
}

#[test]
fn static_go() {
    let Some(go) = find("go") else { return skip("there is no go") };
    let mut env = Env::new();
    let source = env.file(
        "main.go",
        "package main\nimport (\"net/http\"; \"os\")\nfunc main() {\n\thttp.HandleFunc(\"/\", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(\"hi\")) })\n\tpanic(http.ListenAndServe(\":\"+os.Args[1], nil))\n}\n",
    );
    let program = env.path("server");
    let mut build = Command::new(go);
    build.args(["build", "-o"]).arg(&program).arg(&source).env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=mod");
    build.env("GOCACHE", env.path("go-cache")).env("GO111MODULE", "off").current_dir(env.dir());
    assert!(build.status().unwrap().success());
    let port = free_port();
    let unit = intercepted(&format!("{} {port}", program.display()));
    replaced_under_load(&mut env, "go", &unit, &To::Port(port), HTTP);
}

fn nginx_configuration(env: &Env, listen: &str) -> PathBuf {
    let dir = env.dir().display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {dir}/{kind};"))
        .concat();
    env.file(
        "nginx.conf",
        &format!(
            "worker_processes 2;\npid {dir}/nginx.pid;\nerror_log {dir}/error.log;\nevents {{ worker_connections 500; }}\nhttp {{ access_log off; {temporary} server {{ {listen} return 200 hi; }} }}\n"
        ),
    )
}

#[test]
fn nginx_with_two_addresses() {
    let Some(nginx) = find("nginx") else { return skip("there is no nginx") };
    let mut env = Env::new();
    let port = free_port();
    let file = nginx_configuration(&env, &format!("listen {port}; listen [::]:{port};"));
    let unit = intercepted(&format!("{} -c {} -g 'daemon off;'", nginx.display(), file.display()));
    replaced_under_load(&mut env, "nginx", &unit, &To::Port(port), HTTP);
    let mut sockets: Vec<String> = env.unit_status("nginx").sockets.into_iter().map(|s| s.address).collect();
    sockets.sort();
    assert_eq!(sockets, [format!("0.0.0.0:{port}"), format!("[::]:{port}")]);
}

#[test]
fn nginx_on_a_steered_unix_path() {
    let Some(nginx) = find("nginx") else { return skip("there is no nginx") };
    let mut env = Env::new();
    let path = env.path("web.sock");
    let file = nginx_configuration(&env, &format!("listen unix:{};", path.display()));
    let unit = format!(
        "[Socket]\nListenStream = \"{}\"\nSharing = \"steered\"\n{}",
        path.display(),
        intercepted(&format!("{} -c {} -g 'daemon off;'", nginx.display(), file.display()))
    );
    replaced_under_load(&mut env, "nginx", &unit, &To::Path(path), HTTP);
}

#[test]
fn redis_memcached_haproxy_and_lighttpd() {
    let port = free_port();
    let env = Env::new();
    let haproxy = env.file(
        "haproxy.cfg",
        &format!("global\n maxconn 500\ndefaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 5s\nfrontend f\n bind :{port}\n http-request return status 200\n"),
    );
    let lighttpd = env.file(
        "lighttpd.conf",
        &format!("server.document-root = \"{}\"\nserver.port = {port}\n", env.dir().display()),
    );
    let programs = [
        ("redis-server", format!("--port {port} --save '' --daemonize no"), ("PING\r\n", "+PONG")),
        ("memcached", format!("-u nobody -p {port} -U 0 -l 0.0.0.0"), ("version\r\n", "VERSION")),
        ("haproxy", format!("-db -f {}", haproxy.display()), HTTP),
        ("lighttpd", format!("-D -f {}", lighttpd.display()), HTTP),
    ];
    for (program, arguments, talk) in programs {
        let Some(path) = find(program) else {
            eprintln!("skipped: there is no {program}");
            continue;
        };
        let unit = intercepted(&format!("{} {arguments}", path.display()));
        replaced_under_load(&mut Env::new(), program, &unit, &To::Port(port), talk);
    }
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
fn python(env: &Env, script: &str) -> String {
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
    // Below the ports that clients are given.
    let port = (20_000..30_000).find(|port| UdpSocket::bind(("127.0.0.1", *port)).is_ok()).unwrap();
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
    let client = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(("127.0.0.1", port)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                socket.send(b"x").unwrap();
                socket.recv(&mut [0; 8]).expect("a datagram was lost");
                count += 1;
            }
            count
        }
    });
    for _ in 0..2 {
        assert_eq!(env.ctl(&["reload", "app"]).code, 0, "{}", env.log());
    }
    stop.store(true, Ordering::Relaxed);
    assert!(client.join().unwrap() > 100);
    assert_eq!(env.unit_status("app").sockets[0].sharing, "shared");
}

#[test]
fn an_overlap_is_said_loudly_and_the_program_goes_on() {
    let mut env = Env::new();
    let port = free_port();
    let script = format!(
        "s = tcp(socket.AF_INET6); s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
try: s.bind(('::', {port}))
except OSError as e: say('told', e.errno == 98)
t = tcp(); t.bind(('0.0.0.0', {port})); t.listen(5); serve(t)"
    );
    let command = python(&env, &script);
    let unit = intercepted(&command).replace("StandardOutput = \"null\"\n", "");
    env.unit("app", &format!("[Socket]\nListenStream = \"0.0.0.0:{port}\"\n{unit}"));
    env.start();
    env.wait_state("app", UnitState::Running);
    env.wait_log("told True");
    let log = env.wait_log("overlaps");
    assert!(log.contains(&format!("binds [::]:{port} (IPv6 and IPv4)")), "{log}");
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
    let log = env.log();
    assert!(log.contains(&format!("does not listen on 127.0.0.1:{two}, as the one before did")), "{log}");
    assert_eq!(env.unit_status("app").sockets.len(), 1);
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
    env.wait("the program goes on", || ask(&To::Port(port), HTTP).ok());
}

#[test]
fn a_low_port_only_if_it_is_declared() {
    if !nix::unistd::geteuid().is_root() {
        return skip("only root has low ports to give");
    }
    let low = (600..1000).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap();
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
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let copy = |program: &str| {
        let to = folder.path().join(Path::new(program).file_name().unwrap());
        std::fs::copy(program, &to).unwrap();
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
    let until = std::time::Instant::now() + common::WAIT;
    while ask(&To::Port(port), HTTP).is_err() {
        assert!(std::time::Instant::now() < until, "{}", std::fs::read_to_string(&log).unwrap());
        std::thread::yield_now();
    }
    let hammer = Hammer::start(&To::Port(port), HTTP);
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
    let (answered, failed) = hammer.finish();
    // The wrapper has become aeternad, or passes the signal on.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(aeternad.id() as i32),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    aeternad.wait().unwrap();
    assert!(failed.is_empty() && answered > 50, "{answered} answered, {failed:?}");
}

#[test]
fn as_an_ordinary_user() {
    if !nix::unistd::geteuid().is_root() || find("setpriv").is_none() {
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
