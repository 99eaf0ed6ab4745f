//! `InterceptBind` adopts a socket, not a number: what else refers to it, what its address means, what it is bound for,
//! and what cannot be seen.

use crate::common;
use crate::intercept::{intercepted, python};
use aeterna::proto::status::{Outcome, UnitState};
use common::hammer::{HTTP, Hammer, To, ask};
use common::port::free_port;
use common::{Env, skip};
use std::net::{TcpStream, UdpSocket};

/// How often each kind of program is replaced under load.
const RELOADS: u32 = 10;

/// A program whose log can be read.
fn app(script: &str, head: &str) -> Env {
    let mut env = Env::new();
    let unit = intercepted(&python(&env, &format!("{ANSWER}{script}")));
    let unit =
        unit.replace("StandardOutput = \"null\"\nStandardError = \"null\"\n", "TimeoutStartSec = \"20s\"\n");
    env.unit("app", &format!("{head}{unit}"));
    env.start();
    env
}

/// `answer(c)` answers like a web server, also at the stop signal; `busy` is what must not be interrupted.
const ANSWER: &str = "import signal
state = {'stop': False, 'busy': False}
def stop(*a):
  state['stop'] = True
  if not state['busy']: os._exit(0)
signal.signal(signal.SIGTERM, stop)
def busy(on):
  state['busy'] = on
  if state['stop'] and not on: os._exit(0)
def answer(c):
  was = state['busy']; busy(True)
  c.settimeout(9)
  try: c.recv(999); c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\n%d' % os.getpid())
  except OSError: pass
  c.close(); busy(was)
";

fn declared(address: &str) -> String {
    format!("[Socket]\nListenStream = \"{address}\"\n")
}

/// Replaces the program under load, and nobody notices.
fn replaced(env: &Env, to: &To, reloads: u32) {
    env.wait_state("app", UnitState::Running);
    let hammer = Hammer::start(to, HTTP);
    for _ in 0..reloads {
        hammer.wait_answers(10);
        let mark = env.mark();
        let done = env.ctl(&["reload", "app"]);
        let end = env.wait_reloaded("app", mark);
        assert_eq!(end.outcome, Some(Outcome::Promoted), "{done:?}\n{}", env.log());
    }
    hammer.wait_answers(10);
    let (answered, failed) = hammer.finish();
    assert!(failed.is_empty(), "{} of {answered} failed: {:?}\n{}", failed.len(), failed.first(), env.log());
}

/// The acceptor of an event loop that adds its socket before it binds it, and tries accept(2) once before it waits.
fn epoll_first(socket: &str, bind: &str) -> String {
    format!(
        "import select
s = {socket}; s.setblocking(False)
e = select.epoll(); e.register(s.fileno(), select.EPOLLIN | select.EPOLLET)
{bind}; s.listen(64)
def drain():
  while True:
    try: c, _ = s.accept()
    except BlockingIOError: return
    answer(c)
drain()
while True: e.poll(); busy(True); drain(); busy(False)"
    )
}

#[test]
fn an_event_loop_that_has_its_socket_before_it_is_bound_hears_of_every_connection() {
    for head in ["", "declared"] {
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let head = if head.is_empty() { String::new() } else { declared(&address) };
        let env = app(&epoll_first("tcp()", &format!("s.bind(('127.0.0.1', {port}))")), &head);
        replaced(&env, &To::Port(port), RELOADS);
        assert!(!env.log().contains("may never see"), "{}", env.log());
    }
}

#[test]
fn so_does_one_on_a_unix_path() {
    let folder = Env::new();
    let path = folder.path("loop.sock");
    let bind = format!("p = '{0}'\nif os.path.exists(p): os.unlink(p)\ns.bind(p)", path.display());
    let env = app(&epoll_first("socket.socket(socket.AF_UNIX)", &bind), "");
    replaced(&env, &To::Path(path), RELOADS);
}

#[test]
fn a_copy_that_was_made_before_bind_is_the_same_socket() {
    let port = free_port();
    let script = format!(
        "import select
s = tcp(); d = s.dup(); e = select.epoll(); e.register(d.fileno(), select.EPOLLIN)
s.bind(('127.0.0.1', {port})); s.listen(64); s.close()
while True:
  e.poll(); c, _ = d.accept(); answer(c)"
    );
    let env = app(&script, &declared(&format!("127.0.0.1:{port}")));
    replaced(&env, &To::Port(port), 3);
}

#[test]
fn a_child_may_bind_what_its_parent_accepts_from() {
    let port = free_port();
    let script = format!(
        "s = tcp()
if os.fork() == 0: s.bind(('127.0.0.1', {port})); s.listen(64); os._exit(0)
os.wait()
while True:
  c, _ = s.accept(); answer(c)"
    );
    let env = app(&script, "");
    replaced(&env, &To::Port(port), 3);
}

#[test]
fn a_generation_that_accepts_once_and_is_deaf_then_is_not_promoted() {
    let port = free_port();
    let mut env = Env::new();
    let deaf = env.path("deaf");
    let script = format!(
        "{ANSWER}s = tcp(); s.bind(('127.0.0.1', {port})); s.listen(64)
while True:
  c, _ = s.accept(); answer(c)
  if os.path.exists('{}'): time.sleep(1000)",
        deaf.display()
    );
    let unit = intercepted(&python(&env, &script));
    env.unit("app", &unit.replace("InterceptBind = true", "InterceptBind = true\nTimeoutStartSec = \"3s\""));
    env.start();
    env.wait_state("app", UnitState::Running);
    // The one that serves has passed its only look at the file by then.
    env.file("deaf", "");
    let done = env.ctl(&["reload", "app"]);
    assert_ne!(done.code, 0);
    env.wait_log("once and then no other");
    env.wait_state("app", UnitState::Running);
}

#[test]
fn a_listener_that_waits_for_the_first_byte_is_probed_all_the_same() {
    let port = free_port();
    let script = format!(
        "s = tcp(); s.bind(('127.0.0.1', {port})); s.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30); s.listen(64)
while True:
  c, _ = s.accept(); answer(c)"
    );
    let env = app(&script, "");
    replaced(&env, &To::Port(port), 3);
    let check = format!("\n[HealthCheck]\nTcpConnect = \"127.0.0.1:{port}\"\nInterval = \"50ms\"\n");
    let unit = std::fs::read_to_string(env.path("units/app.toml")).unwrap();
    env.file("units/app.toml", &(unit + &check));
    replaced(&env, &To::Port(port), 1);
}

#[test]
fn an_ipv4_address_of_an_ipv6_socket_is_an_ipv4_address() {
    let port = free_port();
    let script = format!(
        "s = tcp(socket.AF_INET6); s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
s.bind(('::ffff:127.0.0.1', {port})); s.listen(64)
while True:
  c, _ = s.accept(); answer(c)"
    );
    for head in [String::new(), declared(&format!("127.0.0.1:{port}"))] {
        let env = app(&script, &head);
        replaced(&env, &To::Port(port), 3);
        assert_eq!(env.unit_status("app").sockets.len(), 1);
    }
}

/// It asks two servers in turn, from a port of its own. With `late`, each sends a second answer, which comes when nobody waits
/// for it any more.
fn client(port: u16, own: u16, late: bool) -> String {
    let late = if late { "; peer.sendto(b'late ' + want, a)" } else { "" };
    format!(
        "p1 = socket.socket(2, 2); p1.bind(('127.0.0.1', 0)); p2 = socket.socket(2, 2); p2.bind(('127.0.0.1', 0))
def question(peer, want):
  u = socket.socket(2, 2); u.settimeout(9)
  while True:
    try: u.bind(('127.0.0.1', {own})); break
    except OSError: time.sleep(0.001)
  u.sendto(b'?', peer.getsockname())
  a = peer.recvfrom(9)[1]; peer.sendto(want, a); got = u.recv(99){late}; u.close(); return got
import select
s = tcp(); s.bind(('127.0.0.1', {port})); s.listen(64); s.setblocking(False)
while True:
  busy(False); select.select([s], [], []); busy(True)
  try: c, _ = s.accept()
  except BlockingIOError: continue
  for peer, want in [(p1, b'one'), (p2, b'two'), (p1, b'three')]:
    got = question(peer, want)
    if got != want: say('wrong answer', got)
  answer(c)"
    )
}

#[test]
fn a_client_with_a_port_of_its_own_reads_its_own_answers_only() {
    let (port, own) = (free_port(), free_port());
    let env = app(&client(port, own, true), "");
    env.wait_state("app", UnitState::Running);
    for _ in 0..3 {
        ask(&To::Port(port), HTTP).unwrap();
        assert!(UdpSocket::bind(("127.0.0.1", own)).is_ok(), "nobody has it between two questions");
        assert_eq!(env.ctl(&["reload", "app"]).code, 0, "{}", env.log());
    }
    assert!(!env.log().contains("wrong answer"), "{}", env.log());
    assert_eq!(env.unit_status("app").sockets.len(), 1);
}

#[test]
fn two_generations_of_a_client_take_turns_at_a_port_of_their_own() {
    let (port, own) = (free_port(), free_port());
    let env = app(&client(port, own, false), "");
    env.wait_state("app", UnitState::Running);
    replaced(&env, &To::Port(port), RELOADS);
    assert!(!env.log().contains("wrong answer"), "{}", env.log());
    assert_eq!(env.unit_status("app").sockets.len(), 1);
    // Whoever comes second is refused, and it is said why.
    env.wait_log("two generations ask from one port of their own");
}

#[test]
fn a_program_that_tries_out_its_port_gets_it() {
    let port = free_port();
    let script = format!(
        "for f, h in ((socket.AF_INET6, '::'), (socket.AF_INET, '0.0.0.0'), (socket.AF_INET, '127.0.0.1')):
  t = tcp(f); t.bind((h, {port})); t.listen(1); t.close()
s = tcp(); s.bind(('127.0.0.1', {port})); s.listen(64)
while True:
  c, _ = s.accept(); answer(c)"
    );
    let env = app(&script, "");
    env.wait_log(&format!("generation 1 listens on 127.0.0.1:{port}"));
    replaced(&env, &To::Port(port), RELOADS);
    let sockets: Vec<String> = env.unit_status("app").sockets.into_iter().map(|s| s.address).collect();
    assert_eq!(sockets, [format!("127.0.0.1:{port}")], "{}", env.log());
}

#[test]
fn a_program_may_move_to_a_wider_address() {
    let port = free_port();
    let mut env = Env::new();
    let hosts = env.file("host", "127.0.0.1");
    let script = format!(
        "{ANSWER}h = open('{}').read()
s = tcp(socket.AF_INET6 if ':' in h else socket.AF_INET)
if ':' in h: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
s.bind((h, {port})); s.listen(64)
while True:
  c, _ = s.accept(); answer(c)",
        hosts.display()
    );
    let unit = intercepted(&python(&env, &script));
    env.unit("app", &unit);
    env.start();
    env.wait_state("app", UnitState::Running);
    for host in ["0.0.0.0", "::"] {
        env.file("host", host);
        let done = env.ctl(&["reload", "app"]);
        assert_eq!(done.code, 0, "{done:?}\n{}", env.log());
        ask(&To::Port(port), HTTP).unwrap();
        assert_eq!(env.unit_status("app").sockets.len(), 1);
    }
    // And not to a narrower one, which would take connections before it serves: the reload says so.
    env.file("host", "127.0.0.1");
    assert_ne!(env.ctl(&["reload", "app"]).code, 0);
    assert!(env.log().contains(&format!("overlaps [::]:{port}")), "{}", env.log());
    ask(&To::Port(port), HTTP).unwrap();
}

#[test]
fn more_than_sixty_four_addresses_are_held() {
    let ports: Vec<u16> = (0..70).map(|_| free_port()).collect();
    let script = format!(
        "import select
L = []
for p in {ports:?}:
  s = tcp(); s.bind(('127.0.0.1', p)); s.listen(9); L.append(s)
while True:
  for s in select.select(L, [], [])[0]:
    c, _ = s.accept(); answer(c)"
    );
    let env = app(&script, "");
    env.wait_unit("app", "every address", |unit| unit.sockets.len() == 70);
    assert_eq!(env.ctl(&["reload", "app"]).code, 0, "{}", env.log());
    assert_eq!(env.unit_status("app").sockets.len(), 70);
    ask(&To::Port(ports[69]), HTTP).unwrap();
}

#[test]
fn a_datagram_server_on_a_high_port_is_seen() {
    let port = 61_000 + std::process::id() as u16 % 4_000;
    let script = format!(
        "s = socket.socket(2, 2); s.bind(('127.0.0.1', {port}))
while True:
  d, a = s.recvfrom(99); s.sendto(d, a)"
    );
    let env = app(&script, "");
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.ctl(&["reload", "app"]).code, 0, "{}", env.log());
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(common::WAIT)).unwrap();
    client.send_to(b"x", ("127.0.0.1", port)).unwrap();
    client.recv(&mut [0; 8]).unwrap();
}

/// Binds and listens by 32-bit system calls, which pass the filter.
const UNSEEN: &str = r#"
#define _GNU_SOURCE
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
static long call(long what, unsigned *args) {
  long r; __asm__ volatile("int $0x80" : "=a"(r) : "a"(102L), "b"(what), "c"(args) : "memory", "r8", "r9", "r10", "r11"); return r;
}
int main(int argc, char **argv) {
  unsigned *low = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
  struct sockaddr_in *at = (void *)(low + 16);
  int s = socket(AF_INET, SOCK_STREAM, 0);
  at->sin_family = AF_INET; at->sin_port = htons(atoi(argv[1])); at->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  low[0] = s; low[1] = (unsigned)(unsigned long)at; low[2] = sizeof *at;
  if (call(2, low)) return 3;
  low[1] = 9;
  if (call(4, low)) return 4;
  for (;;) { int c = accept(s, 0, 0); close(c); }
}
"#;

#[test]
fn what_cannot_be_seen_is_not_killed_for_it() {
    if !cfg!(target_arch = "x86_64") {
        return skip("32-bit system calls of another kind");
    }
    let mut env = Env::new();
    let (source, program) = (env.file("unseen.c", UNSEEN), env.path("unseen"));
    let mut build = env.command("gcc");
    build.arg("-o").arg(&program).arg(source);
    assert_eq!(env.finish(build).code, 0);
    let port = free_port();
    env.unit(
        "app",
        &intercepted(&format!("{} {port}", program.display()))
            .replace("InterceptBind = true", "InterceptBind = true\nTimeoutStartSec = \"3s\""),
    );
    env.start();
    let unit = env.wait_unit("app", "what comes of it", |unit| unit.state != UnitState::Starting);
    if env.log().contains("exited with code 3") {
        return skip("this kernel has no 32-bit system calls");
    }
    assert_eq!(unit.state, UnitState::Running, "{}", env.log());
    env.wait_log(&format!("listens on 127.0.0.1:{port}, and aeternad did not see it bind"));
    TcpStream::connect(("127.0.0.1", port)).unwrap();
}

#[test]
fn what_the_unit_declares_no_more_stays_while_its_program_binds_it() {
    let port = free_port();
    // Its first reload is by a shared socket: the stop signal may come right after accept(2), which is "busy" here.
    let script = format!(
        "import select
s = tcp(); s.bind(('127.0.0.1', {port})); s.listen(64); s.setblocking(False)
while True:
  select.select([s], [], []); busy(True)
  try: answer(s.accept()[0])
  except BlockingIOError: pass
  busy(False)"
    );
    let head = declared(&format!("127.0.0.1:{port}"));
    let env = app(&script, &head);
    env.wait_state("app", UnitState::Running);
    let unit = std::fs::read_to_string(env.path("units/app.toml")).unwrap();
    env.file("units/app.toml", unit.strip_prefix(&head).unwrap());
    replaced(&env, &To::Port(port), 2);
    let sockets = env.unit_status("app").sockets;
    assert_eq!((sockets.len(), sockets[0].sharing.as_str()), (1, "steered"), "{}", env.log());
}

#[test]
fn a_path_that_a_newer_program_has_renamed_its_socket_over_is_given_back() {
    // Before it listens, as HAProxy does it, and after that.
    for order in ["os.rename(t, p); s.listen(64)", "s.listen(64); os.rename(t, p)"] {
        let folder = Env::new();
        let path = folder.path("front.sock");
        let script = format!(
            "p = '{}'; t = '%s.%d.tmp' % (p, os.getpid())
s = socket.socket(socket.AF_UNIX); s.bind(t); {order}
while True: c, _ = s.accept(); answer(c)",
            path.display()
        );
        let mut env = Env::new();
        let unit = intercepted(&python(&env, &format!("{ANSWER}{script}"))).replace(
            "StandardOutput = \"null\"\nStandardError = \"null\"\n",
            "Type = \"exec\"\nTimeoutStopSec = \"2s\"\n",
        );
        // Nobody else ends the soak.
        env.unit("app", &unit.replace("SoakTime = \"200ms\"", "SoakTime = \"1h\""));
        env.start();
        let at = path.display().to_string();
        let who = |env: &Env| match common::http::get(&at, "/") {
            Ok(answer) => answer.body,
            Err(why) => env.fail(&format!("nobody answers: {why}")),
        };
        env.wait("its path", || path.exists().then_some(()));
        env.wait_log("generation 1 listens on");
        let first = who(&env);
        for round in 0..2 {
            let mark = env.mark();
            let reload = env.ctl_start(&["reload", "app"]);
            env.wait_state("app", UnitState::Soaking);
            env.wait("the newer one with the name", || (who(&env) != first).then_some(()));
            if round == 0 {
                assert_eq!(env.ctl(&["rollback", "app"]).code, 0);
            } else {
                let newest = env.unit_status("app").generations.iter().map(|g| g.pids[0]).max().unwrap();
                common::process::kill(newest, nix::sys::signal::Signal::SIGKILL);
            }
            assert_eq!(env.wait_reloaded("app", mark).outcome, Some(Outcome::RolledBack), "{order}");
            env.finish_child(reload);
            assert_eq!(who(&env), first, "{order}, {round}");
        }
        let shown = env.unit_status("app").sockets;
        assert_eq!(shown.iter().map(|s| s.address.as_str()).collect::<Vec<_>>(), [path.to_str().unwrap()]);
    }
}

/// A program that has a socket for each of its workers, and a BPF program of its own that chooses between them.
const SHARDS: &str = "import ctypes, select, struct
def shard():
  s = tcp(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); s.bind(('127.0.0.1', @PORT@)); s.listen(64)
  s.setblocking(False); return s
L = [shard() for _ in range(3)]
code = ctypes.create_string_buffer(struct.pack('HBBIHBBIHBBI', 0x20, 0, 0, 0xfffff038, 0x54, 0, 0, 1, 0x16, 0, 0, 0))
@STEER@
while True:
  for s in select.select(L, [], [])[0]:
    busy(True)
    try: answer(s.accept()[0])
    except BlockingIOError: pass
    busy(False)";

#[test]
fn sockets_of_one_address_for_each_worker_are_one() {
    let port = free_port();
    let env = app(&SHARDS.replace("@PORT@", &port.to_string()).replace("@STEER@", ""), "");
    replaced(&env, &To::Port(port), RELOADS);
    assert_eq!(env.unit_status("app").sockets.len(), 1);
}

#[test]
fn a_bpf_program_of_the_service_does_not_take_the_place_of_aeternads() {
    let port = free_port();
    let steer = "L[0].setsockopt(socket.SOL_SOCKET, 51, struct.pack('HxxxxxxP', 3, ctypes.addressof(code)))";
    let script = SHARDS.replace("@PORT@", &port.to_string()).replace("@STEER@", steer);
    for head in [String::new(), declared(&format!("127.0.0.1:{port}"))] {
        let env = app(&script, &head);
        env.wait_state("app", UnitState::Running);
        env.wait_log("SO_ATTACH_REUSEPORT");
        // The slot of the next generation is there already, and nobody accepts from it.
        for _ in 0..32 {
            ask(&To::Port(port), HTTP).unwrap();
        }
        replaced(&env, &To::Port(port), 3);
    }
}

#[test]
fn a_program_that_finds_another_one_at_its_own_path_is_told_what_to_do() {
    let folder = Env::new();
    let path = folder.path("own.sock");
    let script = format!(
        "p = '{}'; t = socket.socket(socket.AF_UNIX)
try: t.connect(p); say('another one runs'); os._exit(3)
except OSError: pass
if os.path.exists(p): os.unlink(p)
s = socket.socket(socket.AF_UNIX); s.bind(p); s.listen(64)
while True:
  c, _ = s.accept(); answer(c)",
        path.display()
    );
    let mut env = Env::new();
    let unit = intercepted(&python(&env, &format!("{ANSWER}{script}")));
    env.unit("app", &unit.replace("[Reload]", "Restart = \"always\"\nRestartSec = \"1ms\"\n[Reload]"));
    env.start();
    env.wait_state("app", UnitState::Running);
    let done = env.ctl(&["reload", "app"]);
    assert_eq!(done.code, 3, "{done:?}");
    for words in ["exited with status 3", "beside generation 1", "Strategy = \"replace\""] {
        assert!(done.stdout.contains(words), "{words}: {done:?}");
    }
    // One that dies comes back: what aeternad alone holds is no other one.
    let main = env.main_pid("app");
    common::process::kill(main, nix::sys::signal::Signal::SIGKILL);
    env.wait_log("is not held any more, in case it has taken that for another one");
    let comes_back = || {
        env.wait_unit("app", "its restart", |unit| {
            unit.state == UnitState::Running && unit.main_pids.first().is_some_and(|pid| *pid != main)
        });
        env.wait("an answer", || ask(&To::Path(path.clone()), HTTP).ok());
    };
    comes_back();
    // What the reload was told is true.
    let unit = std::fs::read_to_string(env.path("units/app.toml")).unwrap();
    let plain = unit.replace("InterceptBind = true\n", "");
    env.file("units/app.toml", &plain.replace("[Reload]", "[Reload]\nStrategy = \"replace\""));
    // The first attempt may still find what is held.
    env.ctl(&["restart", "app"]);
    comes_back();
    assert_eq!(env.ctl(&["reload", "app"]).code, 0, "{}", env.log());
    comes_back();
}

#[test]
fn ready_that_is_said_too_early_is_believed_only_for_a_while() {
    let port = free_port();
    let mut env = Env::new();
    let go = env.path("go");
    let script = format!(
        "{ANSWER}n = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); n.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])
if os.environ['AETERNA_GENERATION'] == '2': wait('{}')
if os.environ['AETERNA_GENERATION'] == '3': time.sleep(1000)
s = tcp(); s.bind(('127.0.0.1', {port})); s.listen(64)
while True:
  c, _ = s.accept(); answer(c)",
        go.display()
    );
    let unit = intercepted(&python(&env, &script));
    env.unit("app", &unit.replace("InterceptBind = true", "InterceptBind = true\nType = \"notify\""));
    env.start();
    env.wait_state("app", UnitState::Running);
    env.wait("its listener", || ask(&To::Port(port), HTTP).ok());
    let hammer = Hammer::start(&To::Port(port), HTTP);
    let mark = env.mark();
    let reload = env.ctl_start(&["reload", "app"]);
    env.wait_unit("app", "two generations", |unit| unit.generations.len() == 2);
    // The one before answers meanwhile.
    hammer.wait_answers(20);
    assert_eq!(env.unit_status("app").state, UnitState::Starting, "{}", env.log());
    env.file("go", "");
    assert_eq!(env.wait_reloaded("app", mark).outcome, Some(Outcome::Promoted));
    assert_eq!(env.finish_child(reload).code, 0);
    hammer.wait_answers(20);
    let (answered, failed) = hammer.finish();
    assert!(failed.is_empty(), "{} of {answered} failed: {:?}", failed.len(), failed.first());
    // One that does not listen at all any more may do so.
    let done = env.ctl(&["reload", "app"]);
    assert_eq!(done.code, 0, "{done:?}");
    env.wait_log("generation 3 does not listen on anything, as the one before did");
}
