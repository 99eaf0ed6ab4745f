//! The HTTP interface of a running aeternad (contract section 8).

#![cfg(test)]

mod common;

use aeterna::proto::status::UnitState;
use common::http::{Client, Response, connect};
use common::{Env, example};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};

const UNIT: &str = r#"
    [Socket]
    ListenStream = "127.0.0.1:0"
    [Service]
    ExecStart = "{probe}"
    Type = "notify"
    [Reload]
    SoakTime = "60s"
    DrainTimeout = "5s"
"#;

/// A daemon with one unit that runs, and where it listens for HTTP.
fn running(unit: &str) -> (Env, String) {
    let mut env = Env::new();
    env.arguments(&["--http", "127.0.0.1:0"]);
    env.unit("app", unit);
    env.start();
    env.wait_state("app", UnitState::Running);
    let address = listening(&env);
    (env, address)
}

fn listening(env: &Env) -> String {
    let line = env.wait_log("http: listening on ");
    line.rsplit(' ').next().unwrap().trim_matches('"').to_owned()
}

/// One request with its own connection.
fn ask(address: &str, method: &str, path: &str, fields: &str, body: &str) -> Response {
    let mut client = Client::connect(address).unwrap();
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{fields}");
    client.write(format!("{head}Connection: close\r\n\r\n{body}").as_bytes()).unwrap();
    client.receive().unwrap()
}

fn get(address: &str, path: &str) -> Response {
    ask(address, "GET", path, "", "")
}

fn json(response: &Response) -> Value {
    serde_json::from_str(&response.body).unwrap_or_else(|error| panic!("{error}: {response:?}"))
}

#[test]
fn reads_show_what_the_control_socket_shows() {
    let (env, address) = running(UNIT);
    assert_eq!(get(&address, "/health").status, 200);
    assert_eq!(get(&address, "/ready").status, 200);
    let status = json(&get(&address, "/v1/status"));
    assert_eq!(status["pid"], env.pid());
    assert_eq!(status["units"][0]["name"], "app");
    assert_eq!(status["units"][0]["main_pids"][0], env.main_pid("app"));
    assert_eq!(json(&get(&address, "/v1/units/app"))["state"], "RUNNING");
    let missing = get(&address, "/v1/units/apq");
    assert_eq!((missing.status, json(&missing)["hint"].as_str()), (404, Some("did you mean \"app\"?")));
    let page = get(&address, "/");
    assert!(page.headers.contains("Content-Security-Policy") && page.body.contains("<h2>app "), "{page:?}");
    assert_eq!(ask(&address, "DELETE", "/v1/status", "", "").status, 405);
}

#[test]
fn a_reload_over_http_soaks_and_is_promoted_over_http() {
    let (env, address) = running(UNIT);
    let mark = env.mark();
    let order = r#"{"unit":"app","reason":"by hand"}"#;
    let accepted = ask(&address, "POST", "/v1/reload", "", order);
    assert_eq!(accepted.status, 202, "{accepted:?}");
    assert!(accepted.headers.contains("Location: /v1/units/app"), "{accepted:?}");
    env.wait_state("app", UnitState::Soaking);
    for path in ["/v1/reload", "/v1/units/app/reload"] {
        let busy = ask(&address, "POST", path, "", "");
        assert_eq!(busy.status, 409, "{busy:?}");
    }
    assert_eq!(get(&address, "/ready").status, 200);
    let metrics = get(&address, "/metrics").body;
    assert!(metrics.contains("aeterna_process_state{unit=\"app\"} 1\n"), "{metrics}");
    assert_eq!(ask(&address, "POST", "/v1/units/app/promote", "", "").status, 202);
    env.wait_reloaded("app", mark);
    let metrics = get(&address, "/metrics").body;
    for line in [
        "aeterna_reloads_total{unit=\"app\",outcome=\"promoted\"} 1\n",
        "aeterna_reload_phase_duration_seconds_count{unit=\"app\",phase=\"soaking\"} 1\n",
        "aeterna_generation{unit=\"app\"} 2\n",
    ] {
        assert!(metrics.contains(line), "{line}{metrics}");
    }
    let history = env.ctl(&["history", "app", "--json"]);
    assert!(history.stdout.contains("by hand"), "{history:?}");
}

#[test]
fn a_rollback_over_http_leaves_the_old_generation() {
    let (env, address) = running(UNIT);
    let (pid, mark) = (env.main_pid("app"), env.mark());
    assert_eq!(ask(&address, "POST", "/v1/units/app/reload", "", "").status, 202);
    env.wait_state("app", UnitState::Soaking);
    assert_eq!(ask(&address, "POST", "/v1/units/app/rollback", "", "").status, 202);
    env.wait_reloaded("app", mark);
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.main_pid("app"), pid);
    assert!(get(&address, "/metrics").body.contains("outcome=\"rolled_back\"} 1\n"));
    assert_eq!(ask(&address, "POST", "/v1/units/app/promote", "", "").status, 409);
}

#[test]
fn events_are_streamed_as_they_happen() {
    let (env, address) = running(UNIT);
    let mut stream = BufReader::new(connect(&address).unwrap());
    stream.get_mut().write_all(b"GET /v1/events?unit=app HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut line = String::new();
    while !line.starts_with(": aeternad") {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0);
    }
    assert_eq!(ask(&address, "POST", "/v1/reload", "", "").status, 202);
    loop {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0);
        let Some(data) = line.strip_prefix("data: ") else { continue };
        let event: Value = serde_json::from_str(data).unwrap();
        assert_eq!(event["unit"], "app");
        if event["state"] == "SOAKING" {
            break;
        }
    }
    env.signal(nix::sys::signal::Signal::SIGINT);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("STOPPING"), "the stream ends with the daemon, after its events: {rest}");
}

#[test]
fn a_stop_turns_ready_off_while_the_service_goes_on() {
    let (mut env, address) = running(&format!("{UNIT}\n[Daemon]\nStopDelaySec = \"60s\"\n"));
    env.signal(nix::sys::signal::Signal::SIGTERM);
    env.wait("/ready to turn 503", || (get(&address, "/ready").status == 503).then_some(()));
    assert_eq!(get(&address, "/health").status, 200);
    assert_eq!(env.get("app", "/").status, 200);
    assert_eq!(ask(&address, "POST", "/v1/reload", "", "").status, 503);
    env.signal(nix::sys::signal::Signal::SIGINT);
    env.wait_exit();
}

#[test]
fn a_unit_that_has_failed_is_not_ready() {
    let mut env = Env::new();
    env.arguments(&["--http", "127.0.0.1:0"]);
    env.unit("bad", "[Service]\nExecStart = \"/bin/false\"\n");
    env.unit("good", UNIT);
    env.start();
    env.wait_state("bad", UnitState::Failed);
    let address = listening(&env);
    let ready = get(&address, "/ready");
    assert_eq!(ready.status, 503);
    assert!(json(&ready)["error"].as_str().unwrap().contains("bad"), "{ready:?}");
}

#[test]
fn the_address_and_the_token_may_come_from_a_unit() {
    let mut env = Env::new();
    let token = env.file("token", "s3cret\n");
    let http = env.path("http.sock").display().to_string();
    let daemon = format!("[Daemon]\nHttp = {http:?}\nHttpTokenFile = {token:?}\n");
    env.unit("app", &format!("{UNIT}\n{daemon}"));
    env.start();
    env.wait_state("app", UnitState::Running);
    assert_eq!(get(&http, "/health").status, 200);
    assert_eq!(ask(&http, "POST", "/v1/reload", "", "").status, 401);
    assert_eq!(ask(&http, "POST", "/v1/reload", "Authorization: Bearer no\r\n", "").status, 401);
    assert_eq!(ask(&http, "POST", "/v1/reload", "Authorization: Bearer s3cret\r\n", "").status, 202);
}

#[test]
fn another_user_may_look_and_change_nothing() {
    if !nix::unistd::geteuid().is_root() {
        return common::skip("only root can be another user for a moment");
    }
    let (_env, address) = running(UNIT);
    let post = |user: &str| {
        let url = format!("http://{address}/v1/reload");
        let mut command = std::process::Command::new("setpriv");
        command.args([
            "--reuid",
            user,
            "--clear-groups",
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
        ]);
        String::from_utf8(command.args(["-X", "POST", &url]).output().unwrap().stdout).unwrap()
    };
    assert_eq!(post("65534"), "403");
    assert_eq!(get(&address, "/v1/units/app").status, 200);
    assert_eq!(post("0"), "202");
}

#[test]
fn slow_clients_delay_nobody() {
    let (env, address) = running(UNIT);
    let mut slow: Vec<_> = (0..40).map(|_| connect(&address).unwrap()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: loc").unwrap();
    }
    assert_eq!(get(&address, "/health").status, 200);
    assert_eq!(env.get("app", "/").status, 200);
    assert_eq!(env.ctl(&["status"]).code, 0);
}

#[test]
fn an_address_that_is_taken_ends_the_start() {
    let env = Env::new();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let run = env.runtime_dir().display().to_string();
    let probe = example("probe").display().to_string();
    let ended = env.daemon(&["--runtime-dir", &run, "--http", &address, "--", &probe]);
    assert_eq!(ended.code, 69, "{ended:?}");
    assert!(ended.stderr.contains(&format!("cannot listen for HTTP on {address}")), "{ended:?}");
}
