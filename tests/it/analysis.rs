//! A soak that is judged by a real service's own figures.

use crate::common;
use aeterna::machine::evidence::{Count, Evidence, Limit};
use aeterna::proto::status::{CheckVerdict, UnitState};
use common::{Env, http};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Answers on descriptor 3, has its figures on 4, and fails as many of a hundred requests as `BAD` says.
const SERVICE: &str = r##"
import os, socket, threading
bad, n, failed, lock = int(os.environ.get("BAD", "0")), 0, 0, threading.Lock()
def serve(listener, answer):
    while True:
        c, _ = listener.accept()
        try:
            c.recv(65536)
            c.sendall(answer())
            c.shutdown(socket.SHUT_WR)
            c.recv(1)
        except OSError:
            pass
        c.close()
def work():
    global n, failed
    with lock:
        n += 1
        fails = n * 37 % 100 < bad
        failed += fails
    return b"HTTP/1.1 %s x\r\nContent-Length: 0\r\n\r\n" % (b"500" if fails else b"200")
def page():
    text = "# TYPE requests_total counter\nrequests_total{code=\"500\"} %d\nrequests_total{code=\"200\"} %d\n" % (failed, n - failed)
    return ("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)).encode()
http, figures = (socket.socket(fileno=fd) for fd in (3, 4))
threading.Thread(target=serve, args=(figures, page), daemon=True).start()
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ["NOTIFY_SOCKET"])
s.send(b"READY=1")
serve(http, work)
"##;

struct Shop {
    env: Env,
    /// Sockets of metrics cannot have port 0: the unit names it.
    port: u16,
}

impl Shop {
    fn new() -> Shop {
        let env = Env::new();
        env.file("shop.py", SERVICE);
        Shop { env, port: common::port::free_port() }
    }

    /// Writes the unit: a release that fails `bad` of a hundred requests.
    fn write(&self, bad: u32, soak: &str, check: &str) {
        let port = self.port;
        self.env.unit(
            "app",
            &format!(
                "[[Socket]]\nListenStream = \"127.0.0.1:0\"\nFileDescriptorName = \"http\"\n\
                 [[Socket]]\nListenStream = \"127.0.0.1:{port}\"\nFileDescriptorName = \"figures\"\n\
                 [Service]\nExecStart = [\"python3\", \"{{dir}}/shop.py\"]\nType = \"notify\"\n\
                 Environment = {{ BAD = \"{bad}\" }}\n\
                 [Reload]\nSoakTime = \"{soak}\"\nCanaryWeight = 50\nDrainTimeout = \"5s\"\n\
                 [Analysis]\nHttpGet = \"http://127.0.0.1:{port}/metrics\"\nInterval = \"200ms\"\nTimeout = \"20s\"\n\
                 {check}"
            ),
        );
    }
}

const ERRORS: &str = "[[Analysis.Check]]\nName = \"errors\"\nBad = 'requests_total{code=\"5*\"}'\n\
                      Of = \"requests_total\"\nMax = \"2%\"\nMinSamples = 20\n";

/// Clients that ask without a pause until they are dropped, and take whatever they get.
struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Clients {
    fn start(address: &str) -> Clients {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..3)
            .map(|_| {
                let (stop, address) = (Arc::clone(&stop), address.to_string());
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let _ = http::get(&address, "/");
                    }
                })
            })
            .collect();
        Clients { stop, threads }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[test]
fn a_release_that_fails_some_requests_is_rolled_back_and_an_equal_one_is_promoted() {
    let mut shop = Shop::new();
    shop.write(0, "2s", ERRORS);
    shop.env.start();
    shop.env.wait_state("app", UnitState::Running);
    let _clients = Clients::start(&shop.env.address("app", 0));

    let done = shop.env.ctl(&["reload", "app"]);
    assert_eq!(done.code, 0, "{done:?}");
    let history: serde_json::Value =
        serde_json::from_str(&shop.env.ctl(&["history", "app", "--json"]).stdout).unwrap();
    let text = history.to_string();
    assert!(text.contains("\"verdict\":\"pass\"") && text.contains("\"noticed_from\""), "{text}");
    let promoted = shop.env.unit_status("app").generation;

    shop.write(30, "10min", ERRORS);
    let done = shop.env.ctl(&["reload", "app"]);
    assert_eq!(done.code, 3, "{done:?}");
    assert!(done.stdout.contains("rolled back") && done.stdout.contains("errors: "), "{done:?}");
    assert!(done.stdout.contains("allowed is 2 % or 1.25 times the old one's (sure to 99 %)"), "{done:?}");
    shop.env.wait_unit("app", "the old one serves", |u| {
        u.state == UnitState::Running && u.generations.len() == 1
    });
    assert_eq!(shop.env.unit_status("app").generation, promoted);
    let shown = shop.env.ctl(&["history", "app"]).stdout;
    assert!(shown.contains("errors: fail, "), "{shown}");
}

/// After how many seconds the evidence decides on average, for this many requests a second of each generation and these
/// shares of bad ones: what the manual's table is made of.
fn seconds_to_decide(rate: (f64, f64), share: (f64, f64), max: f64, interval: f64) -> f64 {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bad_of = |all: u64, share: f64| {
        let draw = |_: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            u64::from(((random >> 11) as f64 / (1_u64 << 53) as f64) < share)
        };
        (0..all).map(draw).sum::<u64>()
    };
    let mut sum = 0.0;
    for _ in 0..50 {
        let mut evidence = Evidence::new(Limit { max: Some(max), relative: Some(1.25) });
        let mut looks = 0;
        while !evidence.fails() && looks < 10_000 {
            looks += 1;
            let mut count = |rate: f64, share: f64| {
                let all = (rate * interval).round() as u64;
                Count { all, bad: bad_of(all, share) }
            };
            let new = count(rate.0, share.0);
            evidence.add(new, count(rate.1, share.1));
        }
        sum += f64::from(looks) * interval;
    }
    sum / 50.0
}

#[test]
fn a_release_that_fails_one_request_in_fifty_is_rolled_back_in_the_time_that_the_table_says() {
    let mut shop = Shop::new();
    let strict = ERRORS.replace("Max = \"2%\"", "Max = \"0.2%\"");
    shop.write(0, "10min", &strict);
    shop.env.start();
    shop.env.wait_state("app", UnitState::Running);
    let _clients = Clients::start(&shop.env.address("app", 0));
    shop.write(2, "10min", &strict);
    let done = shop.env.ctl(&["reload", "app"]);
    assert_eq!(done.code, 3, "{done:?}");
    let history: serde_json::Value =
        serde_json::from_str(&shop.env.ctl(&["history", "app", "--json"]).stdout).unwrap();
    let record = &history["reloads"][0];
    let phases = record["phases"].as_array().unwrap();
    let soak = phases.iter().find(|phase| phase["phase"] == "soaking").unwrap();
    let took = soak["seconds"].as_f64().unwrap();
    let check = &record["checks"][0];
    let all = |side: &str| check[side]["of"].as_f64().unwrap();
    let expected = seconds_to_decide((all("new") / took, all("old") / took), (0.02, 0.0), 0.002, 0.2);
    eprintln!(
        "{:.0} requests/s: {took:.2} s, the table says {expected:.2} s on average",
        (all("new") + all("old")) / took
    );
    // Looks take their time on a busy machine; and an average is one.
    assert!(took <= 3.0 * expected + 3.0, "{took} s instead of {expected}: {record}");
    assert!(record["usage"]["new"]["cpu_seconds"].as_f64().is_some(), "{record}");
}

#[test]
fn equal_releases_are_promoted_one_after_the_other() {
    let mut shop = Shop::new();
    let strict = ERRORS.replace("Max = \"2%\"", "Max = \"0.2%\"");
    shop.write(1, "2s", &strict);
    shop.env.start();
    shop.env.wait_state("app", UnitState::Running);
    let _clients = Clients::start(&shop.env.address("app", 0));
    for round in 0..5 {
        let done = shop.env.ctl(&["reload", "app"]);
        assert_eq!(done.code, 0, "{round}: {done:?}");
    }
}

#[test]
fn a_dry_run_tries_the_checks_on_the_generation_that_serves() {
    let mut shop = Shop::new();
    shop.write(0, "2s", ERRORS);
    shop.env.start();
    shop.env.wait_state("app", UnitState::Running);
    let wrong = "[[Analysis.Check]]\nName = \"typo\"\nBad = \"requests_totl\"\nOf = \"requests_totl\"\nMax = \"1%\"\n\
                 [[Analysis.Check]]\nName = \"tasks\"\nValue = \"@tasks\"\nMax = 50\n";
    shop.write(0, "2s", &format!("{ERRORS}{wrong}"));
    for _ in 0..20 {
        shop.env.get("app", "/");
    }
    let told = shop.env.ctl(&["reload", "app", "--dry-run"]);
    assert_eq!(told.code, 0, "{told:?}");
    for words in [
        "app: check errors: 0.0 % of 20 requests are bad (1 of Bad, 2 of Of)",
        "app: check typo: says nothing: no series of requests_totl matches; did you mean requests_total?",
        "app: check tasks: @tasks is ",
    ] {
        assert!(told.stdout.contains(words), "{words} is missing in {told:?}");
    }
    let told = shop.env.ctl(&["reload", "app", "--dry-run", "--json"]);
    assert!(told.stdout.contains("\"checks\":[{\"name\":\"errors\",\"ok\":true"), "{told:?}");
    // Nothing was launched, and nobody is steered by a look any more.
    let unit = shop.env.unit_status("app");
    assert_eq!((unit.generation, unit.generations.len()), (1, 1));
}

#[test]
fn status_shows_both_sides_of_a_soak_and_a_wrong_name_is_said_once() {
    let mut shop = Shop::new();
    let wrong = "[[Analysis.Check]]\nName = \"typo\"\nBad = \"requests_totl\"\nOf = \"requests_totl\"\nMax = \"1%\"\n";
    shop.write(0, "infinity", &format!("{ERRORS}{wrong}"));
    shop.env.start();
    shop.env.wait_state("app", UnitState::Running);
    let _clients = Clients::start(&shop.env.address("app", 0));
    let waiting = shop.env.ctl_start(&["reload", "app"]);
    shop.env.wait_log("no series of requests_totl matches; did you mean requests_total?");
    let unit =
        shop.env.wait_unit("app", "figures", |unit| unit.analysis.first().is_some_and(|one| one.looks > 2));
    let check = &unit.analysis[0];
    assert_eq!((check.name.as_str(), check.verdict), ("errors", CheckVerdict::Open));
    assert!(check.text.contains("requests of generation 2"), "{}", check.text);
    assert!(unit.generations.iter().all(|one| one.usage.cpu_seconds.is_some() && one.usage.memory.is_some()));
    let shown = shop.env.ctl(&["status", "app"]).stdout;
    assert!(shown.contains("CHECK") && shown.contains("processor time"), "{shown}");
    let done = shop.env.ctl(&["promote", "app"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(shop.env.finish_child(waiting).code, 0);
}
