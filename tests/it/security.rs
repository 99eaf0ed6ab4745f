//! What a hostile service, another user or a web page tries, one thing at a time (see SECURITY.md). All of it at once is
//! in `neighbours.rs`.

use crate::common::http::{Client, Response};
use crate::common::port::free_port;
use crate::common::{Env, process, skip};
use crate::intercept::{intercepted, python};
use aeterna::proto::status::UnitState;

/// A daemon that listens for HTTP, with a unit `app` that others would like to move; and where it listens.
fn with_http(settings: &str) -> (Env, String) {
    let mut env = Env::new();
    env.arguments(&["--http", "127.0.0.1:0"]);
    env.unit(
        "app",
        &format!(
            "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{{probe}}\"\nType = \"notify\"\n{settings}"
        ),
    );
    env.unit("evil", EVIL);
    env.start();
    env.wait_state("app", UnitState::Running);
    let line = env.wait_log("http: listening on ");
    let address = line.rsplit(' ').next().unwrap().trim_matches('"').to_owned();
    (env, address)
}

/// Where it listens is not known before it does.
const EVIL: &str = "[Socket]\nListenStream = \"127.0.0.1:0\"\nSharing = \"shared\"\n[Service]\nStartOn = \"connection\"\n\
                    ExecStart = \"{hostile}\"\nStandardOutput = \"log\"\n";

fn post(address: &str, path: &str, fields: &str) -> Response {
    let mut client = Client::connect(address).unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n{fields}");
    client.write(format!("{head}Connection: close\r\n\r\n").as_bytes()).unwrap();
    client.receive().unwrap()
}

/// The `evil` unit orders a reload of `app`: what came of it on its own socket, and on one that aeternad has made.
fn orders(user: &str) -> (String, String) {
    let (env, address) = with_http("");
    let unit = EVIL.replace("{hostile}", &format!("{{hostile}} orders {address} app"));
    env.unit("evil", &format!("{unit}{user}"));
    assert_eq!(env.ctl(&["start", "evil"]).code, 0);
    let (own, given) = (env.wait_log("own: "), env.wait_log("given: "));
    assert_eq!(env.unit_status("app").generation, 1);
    assert!(env.unit_status("app").last_reload.is_none(), "{own}\n{given}");
    // Who is nobody's service may, in the same manner.
    let ours = post(&address, "/v1/units/app/reload", "");
    assert_eq!(ours.status, 202, "{ours:?}");
    (own, given)
}

#[test]
fn a_service_gives_no_orders_over_http_on_a_socket_that_root_has_made() {
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can start a service as another user");
    }
    let (own, given) = orders("User = \"nobody\"\n");
    assert!(own.contains(": 403 ") && own.contains("uid 65534 may look, but change nothing"), "{own}");
    assert!(given.contains(": 403 ") && given.contains("given to services"), "{given}");
}

#[test]
fn a_service_of_the_daemons_own_user_gives_no_orders_over_http_either() {
    let (own, given) = orders("");
    assert!(own.contains(": 403 ") && own.contains("a process of a unit"), "{own}");
    assert!(given.contains(": 403 ") && given.contains("given to services"), "{given}");
}

#[test]
fn the_page_brings_a_token_of_its_own() {
    let mut env = Env::new();
    env.arguments(&["--http", "127.0.0.1:0"]);
    env.file("token", "a long secret");
    env.unit(
        "app",
        "[Service]\nExecStart = \"{probe}\"\nType = \"notify\"\n[Daemon]\nHttpTokenFile = \"{dir}/token\"\n",
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    let page = env.ctl(&["page"]);
    assert_eq!(page.code, 0, "{page:?}");
    let url = page.stdout.trim();
    let (address, token) = url.strip_prefix("http://").unwrap().split_once("/#token=").unwrap();
    assert!(token.len() == 32 && token.bytes().all(|byte| byte.is_ascii_hexdigit()), "{url}");
    let ask = |token: &str| {
        post(address, "/v1/units/app/promote", &format!("Authorization: Bearer {token}\r\n")).status
    };
    // There is no reload to promote: it is said to who may ask.
    assert_eq!((ask(token), ask("a long secret")), (409, 409));
    let other = if token.starts_with('0') { "1" } else { "0" };
    for wrong in ["", "x", &token[..31], &format!("{other}{}", &token[1..])] {
        assert_eq!(ask(wrong), 401, "{wrong}");
    }
    // A page of elsewhere that has got hold of it is still of elsewhere.
    let fields = format!("Authorization: Bearer {token}\r\nOrigin: http://evil.example\r\n");
    assert_eq!(post(address, "/v1/units/app/promote", &fields).status, 403);
}

#[test]
fn without_http_there_is_no_page() {
    let mut env = Env::new();
    env.unit("app", "[Service]\nExecStart = \"{probe}\"\nType = \"notify\"\n");
    env.start();
    let page = env.ctl(&["page"]);
    assert_eq!(page.code, 1, "{page:?}");
    assert!(page.stderr.contains("does not listen for HTTP; start it with --http"), "{page:?}");
}

#[test]
fn without_control_groups_a_stop_says_who_may_have_outlived_it() {
    let mut env = Env::new();
    if !env.as_nobody() {
        return;
    }
    let script = "(env -i setsid sleep 1000 </dev/null >/dev/null 2>&1 &); exec {probe}";
    env.unit(
        "app",
        &format!("[Service]\nExecStart = [\"/bin/sh\", \"-c\", \"{script}\"]\nType = \"notify\"\n"),
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    // It has left its parent and cleared its environment when it is this program.
    let stray = env.wait("the process that has left", || {
        let name = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        process::children(env.pid()).into_iter().find(|pid| name(*pid) == "sleep\n")
    });
    assert!(env.unit_status("app").notes.is_empty(), "it may be wanted while the unit runs");
    let stop = env.ctl(&["stop", "app"]);
    assert_eq!(stop.code, 0);
    let said = format!("{stray} (sleep)");
    assert!(stop.stdout.contains(&said) && stop.stdout.contains("without control groups"), "{stop:?}");
    let notes = env.unit_status("app").notes;
    assert!(notes.iter().any(|note| note.contains(&said)), "{notes:?}");
    process::kill(stray, nix::sys::signal::Signal::SIGKILL);
    env.wait("its end", || env.unit_status("app").notes.is_empty().then_some(()));
}

#[test]
fn what_a_service_inherits_of_our_log_is_a_way_of_its_own_into_it() {
    let mut env = Env::new();
    let script = "import fcntl, os, socket\nfor number in (1, 2):\n fcntl.fcntl(number, fcntl.F_SETFL, os.O_NONBLOCK | os.O_DIRECT)\n\
                  n = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); n.connect(os.environ['NOTIFY_SOCKET']); n.send(b'READY=1')\n\
                  while True: os.read(os.pipe()[0], 1)\n";
    let file = env.file("changes.py", script);
    env.unit(
        "app",
        &format!("[Service]\nExecStart = \"/usr/bin/python3 {}\"\nType = \"notify\"\n", file.display()),
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    let flags = |pid: i32, number: u32| {
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim().to_owned();
        u32::from_str_radix(&line, 8).unwrap()
    };
    let (nonblock, direct) = (0o4000, 0o40000);
    for number in [1, 2] {
        assert_eq!(flags(env.main_pid("app"), number) & (nonblock | direct), nonblock | direct);
        assert_eq!(flags(env.pid(), number) & direct, 0, "aeternad's own has changed");
    }
}

#[test]
fn nothing_of_our_own_supervisor_reaches_a_service() {
    let mut env = Env::new();
    let names = ["JOURNAL_STREAM", "CREDENTIALS_DIRECTORY", "MANAGERPID", "SYSTEMD_EXEC_PID", "FDSTORE"];
    for name in names {
        env.variable(name, "1:2");
    }
    env.variable("INVOCATION_ID", "not-this");
    env.variable("OTHERS", "are handed on");
    env.unit("app", "[Service]\nExecStart = [\"/bin/sh\", \"-c\", \"env >{dir}/new; mv {dir}/new {dir}/env; exec sleep 1000\"]\n");
    env.start();
    let found = env.wait("its environment", || std::fs::read_to_string(env.path("env")).ok());
    for name in names {
        assert!(!found.lines().any(|line| line.starts_with(&format!("{name}="))), "{name}\n{found}");
    }
    assert!(found.contains("OTHERS=are handed on") && !found.contains("not-this"), "{found}");
}

#[test]
fn a_thread_with_descriptors_of_its_own_binds_its_own_socket() {
    let mut env = Env::new();
    let port = free_port();
    let program = format!(
        "
import ctypes
kept = [socket.socket() for _ in range(3)]
number = kept[1].fileno()
def work():
  if ctypes.CDLL(None).unshare(0x400): os._exit(9)
  os.close(number)
  mine = socket.socket()
  if mine.fileno() != number: os._exit(8)
  mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  mine.bind(('127.0.0.1', {port})); mine.listen(9)
  while True: mine.accept()[0].send(b'it')
threading.Thread(target=work).start()
while True: time.sleep(1000)"
    );
    let command = python(&env, &format!("import threading\n{program}"));
    env.unit("app", &intercepted(&command));
    env.start();
    env.wait_log("generation 1 listens on ");
    for _ in 0..2 {
        let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut said = [0; 2];
        std::io::Read::read_exact(&mut client, &mut said).unwrap();
        assert_eq!(&said, b"it");
        assert_eq!(env.ctl(&["reload", "app"]).code, 0, "{}", env.log());
    }
}
