//! Pages of figures as they are met in the wild, and worse: each is read or said to be unreadable, and none holds anything up.

use crate::common;
use aeterna::proto::status::{Outcome, ReloadRecord, UnitState};
use common::{Env, http};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Answers on descriptor 3, and has on 4 the page that `PAGE` says.
const SERVICE: &str = r##"
import gzip, os, socket, threading, time
mode, n, lock = os.environ["PAGE"], 0, threading.Lock()
def text(name="requests_total"):
    return "# TYPE %s counter\n%s{code=\"500\"} 0\n%s{code=\"200\"} %d\n" % (name, name, name, n)
def plain(body, head="HTTP/1.1 200 OK"):
    body = body.encode() if isinstance(body, str) else body
    return b"%s\r\nContent-Length: %d\r\n\r\n%s" % (head.encode(), len(body), body)
def page(c):
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    if mode == "endless":
        c.sendall(head)
        while True:
            c.sendall(b"other{a=\"b\"} 1\n" * 4096)
    if mode == "drip":
        c.sendall(head)
        while True:
            c.sendall(b"#")
            time.sleep(0.2)
    if mode == "long":
        c.sendall(head + b"other{a=\"" + b"x" * (1 << 20) + b"\"} 1\n")
    answers = {
        "usual": lambda: plain(text()),
        "10 MB": lambda: plain("".join("other{number=\"%d\"} 1\n" % i for i in range(400000)) + text()),
        "half": lambda: b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + text().encode(),
        "half a line": lambda: head + b"requests_total{code=\"20",
        "renamed": lambda: plain(text("http_requests_total")),
        "gzip": lambda: plain(gzip.compress(text().encode()), "HTTP/1.1 200 OK\r\nContent-Encoding: gzip"),
        "redirect": lambda: plain("", "HTTP/1.1 302 Found\r\nLocation: /elsewhere"),
        "html": lambda: plain("<html><body>\x1b[31mrequests_total</body></html>\n"),
        "escape": lambda: plain("requests_total{code=\"\x1b[31m\x07\"} many\n"),
        "1.0": lambda: b"HTTP/1.0 200 OK\r\n\r\n" + text().encode(),
        "nan": lambda: plain(text() + "requests_total{code=\"x\"} NaN\n"),
        "empty": lambda: plain(""),
        "openmetrics": lambda: plain(
            "# TYPE requests counter\n# UNIT requests things\nrequests_total{code=\"500\"} 0 1395066363.000\n"
            "requests_total{code=\"200\",path=\"/a}{\\\",\"} %d 1395066363.000 # {trace_id=\"x} y\"} 0.67 1395066363.9\n"
            "requests_created{code=\"200\"} 1.5e9\n# EOF\n" % n),
    }
    c.sendall(answers[mode]())
def serve(listener, answer):
    while True:
        c, _ = listener.accept()
        threading.Thread(target=one, args=(c, answer), daemon=True).start()
def one(c, answer):
    try:
        c.recv(65536)
        answer(c)
        c.shutdown(socket.SHUT_WR)
        c.recv(1)
    except OSError:
        pass
    c.close()
def work(c):
    global n
    with lock:
        n += 1
    c.sendall(b"HTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n")
http, figures = (socket.socket(fileno=fd) for fd in (3, 4))
threading.Thread(target=serve, args=(figures, page), daemon=True).start()
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ["NOTIFY_SOCKET"])
s.send(b"READY=1")
serve(http, work)
"##;

struct Clients(Arc<AtomicBool>, Vec<std::thread::JoinHandle<()>>);

impl Clients {
    fn start(address: &str) -> Clients {
        let stop = Arc::new(AtomicBool::new(false));
        let one = || {
            let (stop, address) = (Arc::clone(&stop), address.to_string());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let _ = http::get(&address, "/");
                }
            })
        };
        let threads = (0..2).map(|_| one()).collect();
        Clients(stop, threads)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// A unit with a page of figures; `sharing` of its socket.
fn write(env: &Env, port: u16, mode: &str, sharing: &str, soak: &str, check: &str) {
    env.unit(
        "app",
        &format!(
            "[[Socket]]\nListenStream = \"127.0.0.1:0\"\nFileDescriptorName = \"http\"\n\
             [[Socket]]\nListenStream = \"127.0.0.1:{port}\"\nFileDescriptorName = \"figures\"\n{sharing}\n\
             [Service]\nExecStart = [\"python3\", \"{{dir}}/app.py\"]\nType = \"notify\"\n\
             Environment = {{ PAGE = \"{mode}\" }}\n\
             [Reload]\nSoakTime = \"{soak}\"\nCanaryWeight = 50\nDrainTimeout = \"5s\"\n\
             [Analysis]\nHttpGet = \"http://127.0.0.1:{port}/metrics\"\nInterval = \"200ms\"\nTimeout = \"{}\"\n\
             SoakTimeMax = \"{}\"\n{check}",
            // What never ends, ends here; everything else has time, on a busy machine too.
            if mode == "drip" { "1s" } else { "60s" },
            // What can be read is waited for.
            if soak == "1s" && READABLE.contains(&mode) { "5min" } else { soak }
        ),
    );
}

/// Pages that judge.
const READABLE: [&str; 4] = ["usual", "10 MB", "openmetrics", "1.0"];

const ERRORS: &str = "[[Analysis.Check]]\nName = \"errors\"\nBad = 'requests_total{code=\"5*\"}'\n\
                      Of = \"requests_total\"\nMax = \"2%\"\nMinSamples = 1\n";

fn last_record(env: &Env) -> ReloadRecord {
    let text = env.ctl(&["history", "app", "--json"]).stdout;
    let history: serde_json::Value = serde_json::from_str(&text).unwrap();
    let reloads = history["reloads"].as_array().unwrap();
    serde_json::from_value(reloads[reloads.len() - 1].clone()).unwrap_or_else(|why| panic!("{why}: {text}"))
}

/// The same service behind a page of another kind each time: what can be read judges, what cannot is said with its reason.
#[test]
fn a_page_is_read_or_it_is_said_why_not() {
    let mut env = Env::new();
    env.file("app.py", SERVICE);
    let port = common::port::free_port();
    write(&env, port, "usual", "", "1s", ERRORS);
    env.start();
    env.wait_state("app", UnitState::Running);
    let _clients = Clients::start(&env.address("app", 0));
    for (mode, said) in [
        ("10 MB", None),
        ("openmetrics", None),
        ("1.0", None),
        ("endless", Some("the page is too large (16 MiB, 64 KiB a line, 10,000 series)")),
        ("long", Some("the page is too large (16 MiB, 64 KiB a line, 10,000 series)")),
        ("drip", Some("the page did not come within Timeout")),
        ("half", Some("the connection ended in the middle of the answer")),
        (
            "half a line",
            Some("the page is no Prometheus text: a quote is not closed: requests_total{code=\"20"),
        ),
        ("renamed", Some("no series of requests_total matches; did you mean http_requests_total?")),
        ("gzip", Some("the page comes as gzip, although only plain text was asked for")),
        ("redirect", Some("the page's status is 302")),
        ("html", Some("no series of requests_total matches")),
        ("escape", Some("the page is no Prometheus text: its value is no number: requests_total{code=")),
        ("nan", Some("requests_total{code=\"x\"} is NaN, which is no number to go by")),
        ("empty", Some("no series of requests_total matches")),
    ] {
        write(&env, port, mode, "", "1s", ERRORS);
        let done = env.ctl(&["reload", "app"]);
        assert_eq!(done.code, 0, "{mode}: {done:?}");
        let record = last_record(&env);
        assert_eq!(record.outcome, Outcome::Promoted, "{mode}: {record:?}");
        let number = record.new_generation.unwrap();
        match said {
            None => assert!(record.reason.is_empty(), "{mode}: {record:?}"),
            Some(said) => {
                let reason = format!("not judged: errors (generation {number}: ");
                assert!(
                    record.reason.starts_with(&reason) && record.reason.contains(said),
                    "{mode}: {record:?}"
                );
            }
        }
        // The next comparison is with a page that can be read.
        write(&env, port, "usual", "", "0s", ERRORS);
        assert_eq!(env.ctl(&["reload", "app"]).code, 0, "{mode}");
    }
    let log = env.log();
    assert!(!log.contains('\x1b') && !log.contains('\x07'), "{log:?}");
}

/// On a shared socket whoever is first answers: only answers of the generation that is asked count.
#[test]
fn an_answer_of_the_other_generation_is_nobodys_figure() {
    let mut env = Env::new();
    env.file("app.py", SERVICE);
    let port = common::port::free_port();
    let shared = "Sharing = \"shared\"";
    let check = format!(
        "{ERRORS}[[Analysis.Check]]\nName = \"asked\"\nValue = \"requests_total\"\nMax = 1000000000\nInitialDelay = 0\n"
    );
    write(&env, port, "usual", shared, "infinity", &check);
    env.start();
    env.wait_state("app", UnitState::Running);
    // The old one has answered many; the new one none: nobody asks.
    for _ in 0..50 {
        env.get("app", "/");
    }
    let waiting = env.ctl_start(&["reload", "app"]);
    let unit = env.wait_unit("app", "looks at both", |unit| {
        unit.analysis.iter().all(|one| one.looks >= 5) && unit.analysis.len() == 2
    });
    let errors = &unit.analysis[0];
    assert_eq!((errors.new.of, errors.old.and_then(|old| old.of)), (Some(0), Some(0)), "{errors:?}");
    assert_eq!(env.ctl(&["rollback", "app"]).code, 0);
    env.finish_child(waiting);
}

/// Commands that hang, leave others behind, write without end or are killed are bounded, and their words are told.
#[test]
fn a_command_that_hangs_or_writes_without_end_is_bounded() {
    let mut env = Env::new();
    env.file("app.py", SERVICE);
    let port = common::port::free_port();
    let mark = format!("{}.25", 100_000 + std::process::id());
    for (name, text) in [
        ("hang.sh", format!("echo before; sleep {mark} & setsid sleep {mark} & sleep {mark}\n")),
        ("write.sh", "while :; do echo loud and long; done\n".to_owned()),
        ("wrong.sh", "echo first; echo cart total is NaN >&2; echo; exit 3\n".to_owned()),
        ("killed.sh", "kill -KILL $$\n".to_owned()),
    ] {
        env.file(name, &text);
    }
    let check = |command: &str| {
        format!("[[Analysis.Check]]\nName = \"smoke\"\nExec = [\"sh\", \"{{dir}}/{command}\"]\n")
    };
    let write = |env: &Env, command: &str, timeout: &str| {
        write(env, port, "usual", "", "2s", &check(command));
        let path = env.path("units/app.toml");
        let text = std::fs::read_to_string(&path).unwrap().replace("Timeout = \"60s\"", timeout);
        std::fs::write(path, text).unwrap();
    };
    write(&env, "hang.sh", "Timeout = \"300ms\"");
    env.start();
    env.wait_state("app", UnitState::Running);
    for (command, timeout, outcome, words) in [
        (
            "hang.sh",
            "Timeout = \"300ms\"",
            Outcome::Promoted,
            "the command did not end within Timeout: \"before\": that says nothing",
        ),
        (
            "write.sh",
            "Timeout = \"300ms\"",
            Outcome::Promoted,
            "the command did not end within Timeout: \"loud and long\": that says nothing",
        ),
        (
            "wrong.sh",
            "Timeout = \"60s\"",
            Outcome::RolledBack,
            "smoke: the command exited with status 3, 3 times in a row: \"cart total is NaN\"",
        ),
        (
            "killed.sh",
            "Timeout = \"60s\"",
            Outcome::RolledBack,
            "smoke: the command was killed by SIGKILL, 3 times in a row",
        ),
    ] {
        write(&env, command, timeout);
        env.ctl(&["reload", "app"]);
        let record = last_record(&env);
        assert_eq!(record.outcome, outcome, "{command}: {record:?}");
        assert!(record.reason.contains(words), "{command}: {record:?}");
        // Whatever it has started is gone.
        env.wait("nothing of the command is left", || (!is_running(&mark)).then_some(()));
    }
}

/// Whether a process has this word in its command line.
fn is_running(word: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        std::fs::read(entry.path().join("cmdline"))
            .is_ok_and(|words| words.split(|byte| *byte == 0).any(|one| one == word.as_bytes()))
    })
}
