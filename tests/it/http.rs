//! The HTTP interface of a running aeternad (contract section 8).

use crate::common;
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
fn a_unit_is_stopped_and_started_and_its_history_and_log_are_read() {
    let service = "StandardOutput = \"log\"\n    StandardError = \"log\"\n    Type";
    let (env, address) = running(&UNIT.replacen("Type", service, 1).replace("60s", "50ms"));
    assert_eq!(
        json(&get(&address, "/v1/status"))["host"],
        nix::unistd::gethostname().unwrap().to_str().unwrap()
    );
    assert_eq!(env.ctl(&["reload", "app", "--reason", "new"]).code, 0);
    let history = json(&get(&address, "/v1/units/app/history"));
    assert_eq!((&history["unit"], &history["reloads"][0]["asked"]), (&"app".into(), &"new".into()));
    for path in ["/v1/units/none/history", "/v1/units/none/logs"] {
        assert_eq!(get(&address, path).status, 404, "{path}");
    }
    assert_eq!(get(&address, "/v1/units/app/logs?lines=x").status, 400);

    assert_eq!(ask(&address, "POST", "/v1/units/app/stop", "", "").status, 202);
    env.wait_state("app", UnitState::Stopped);
    assert_eq!(ask(&address, "POST", "/v1/units/app/start", "", "{\"to\": 3}").status, 400);
    assert_eq!(ask(&address, "POST", "/v1/units/app/start", "", "").status, 202);
    env.wait_state("app", UnitState::Running);
}

#[test]
fn what_services_write_is_for_those_who_may_give_orders() {
    let token = "[Daemon]\nHttpTokenFile = \"{dir}/token\"\n";
    let service = "StandardError = \"log\"\n    ExecStartPre = [\"/bin/sh\", \"-c\", \"echo s3cret-line >&2\"]\n    Type";
    let mut env = Env::new();
    env.file("token", "w0rd\n");
    env.arguments(&["--http", "127.0.0.1:0"]);
    env.unit("app", &format!("{}{token}", UNIT.replacen("Type", service, 1)));
    env.start();
    env.wait_state("app", UnitState::Running);
    let address = listening(&env);
    assert!(env.ctl(&["logs", "app"]).stdout.contains("s3cret-line"));
    assert_eq!(get(&address, "/v1/units/app/logs").status, 401);
    for path in ["/v1/status", "/v1/units/app", "/v1/units/app/history", "/", "/metrics"] {
        let open = get(&address, path);
        assert!(open.status == 200 && !open.body.contains("s3cret-line"), "{path}: {open:?}");
    }
    let logs = ask(&address, "GET", "/v1/units/app/logs?lines=5", "Authorization: Bearer w0rd\r\n", "");
    assert!(logs.status == 200 && logs.body.contains("s3cret-line"), "{logs:?}");
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
        let error = json(&busy)["error"].as_str().unwrap().to_owned();
        assert!(error.starts_with("app: a reload is under way: SOAKING, began"), "{error}");
        assert!(error.ends_with("asked for by hand"), "{error}");
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
    assert_eq!(env.unit_status("app").why, "rolled back by a command");
    assert_eq!(ask(&address, "POST", "/v1/units/app/reload", "", "").status, 202);
    let why = env.wait_state("app", UnitState::Soaking).why;
    assert!(why.starts_with("the soak ends in "), "{why:?}: the rollback was the last one");
}

#[test]
fn a_reload_of_all_starts_nothing_while_one_is_still_starting() {
    let mut env = Env::new();
    env.arguments(&["--http", "127.0.0.1:0"]);
    env.unit("app", UNIT);
    env.unit("late", "[Service]\nExecStart = \"{probe} ready=never\"\nType = \"notify\"");
    env.start();
    let address = listening(&env);
    env.wait_state("app", UnitState::Running);
    env.wait_state("late", UnitState::Starting);
    for body in ["", r#"{"force":true}"#] {
        let busy = ask(&address, "POST", "/v1/reload", "", body);
        assert_eq!(
            (busy.status, json(&busy)["error"].as_str()),
            (409, Some("late: its first generation is still starting"))
        );
    }
    assert_eq!(env.unit_status("app").state, UnitState::Running);
    let history = env.ctl(&["history", "late", "--json"]).stdout;
    assert_eq!(history.matches("\"refused\"").count(), 2, "{history}");
    assert!(env.ctl(&["history", "app"]).stdout.contains("has not been reloaded"));
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
            "--noproxy",
            "*",
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

/// The value of a sample of `/metrics`.
fn sample(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

#[test]
fn slow_clients_delay_nobody() {
    let (env, address) = running(UNIT);
    let mut slow: Vec<_> = (0..200).map(|_| connect(&address).unwrap()).collect();
    for stream in &mut slow {
        // Those that had to make room already are gone.
        let _ = stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: loc");
    }
    let begun = std::time::Instant::now();
    assert_eq!(get(&address, "/metrics").status, 200);
    assert_eq!(env.get("app", "/").status, 200);
    assert_eq!(env.ctl(&["status"]).code, 0);
    // A slow request is given ten seconds: nobody has waited for the end of one.
    assert!(begun.elapsed() < std::time::Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[test]
fn a_thousand_connections_cost_no_thread_and_no_descriptor_for_long() {
    // Our own ends are a thousand descriptors beside those of the tests around.
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let (env, address) = running(UNIT);
    let before = common::process::descriptors(env.pid());
    let many: Vec<_> = (0..1000).map(|_| connect(&address).unwrap()).collect();
    assert_eq!(get(&address, "/health").status, 200);
    let threads = sample(&get(&address, "/metrics").body, "process_threads");
    assert!(threads < 150.0, "{threads}");
    drop(many);
    env.wait("every connection to be closed", || {
        (common::process::descriptors(env.pid()) <= before).then_some(())
    });
    assert_eq!(env.get("app", "/").status, 200);
}

#[test]
fn every_error_says_what_is_wrong_and_what_to_do() {
    let (_env, address) = running(UNIT);
    let long = format!("X-Long: {}\r\n", "x".repeat(20_000));
    let large = "x".repeat(70_000);
    for (method, path, fields, body, status) in [
        ("GET", "/v1/units/none", "", "", 404),
        ("GET", "/v1/events?unit=none", "", "", 404),
        ("GET", "/none", "", "", 404),
        ("POST", "/v1/units/none/reload", "", "", 404),
        ("POST", "/v1/reload", "", r#"{"unit":"none"}"#, 404),
        ("POST", "/v1/reload", "", "{", 400),
        ("POST", "/v1/reload", "", r#"{"unti":"app"}"#, 400),
        ("GET", "/v1/reload", "", "", 405),
        ("POST", "/metrics", "", "", 405),
        ("DELETE", "/v1/units/app", "", "", 405),
        ("POST", "/v1/units/app/promote", "", "", 409),
        ("GET", "/v1/status", long.as_str(), "", 413),
        ("POST", "/v1/reload", "", large.as_str(), 413),
        ("GET", "/v1/status", "Origin: http://evil.example\r\n", "", 403),
        ("POST", "/v1/reload", "Origin: http://evil.example\r\n", "", 403),
        ("POST", "/v1/reload", "Origin: null\r\n", "", 403),
    ] {
        let answer = ask(&address, method, path, fields, body);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        let told = json(&answer);
        for key in ["error", "hint"] {
            assert!(told[key].as_str().is_some_and(|text| !text.is_empty()), "{method} {path}: {told}");
        }
    }
    for (raw, status) in [
        ("GET /v1/status HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
        ("GET /v1/status HTTP/1.1\r\n\r\n", 400),
        ("nonsense\r\n\r\n", 400),
    ] {
        let mut client = Client::connect(&address).unwrap();
        client.write(raw.as_bytes()).unwrap();
        assert_eq!(client.receive().unwrap().status, status, "{raw}");
    }
    let mut kept = Client::connect(&address).unwrap();
    for _ in 0..3 {
        assert_eq!(kept.get("/health").unwrap().status, 200);
    }
    kept.write(b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let head = kept.rest().unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn what_was_refused_is_counted() {
    let (env, address) = running(&format!("{UNIT}\n[Daemon]\nLogLevel = \"info\"\n"));
    let mut control =
        std::os::unix::net::UnixStream::connect(env.runtime_dir().join("control.sock")).unwrap();
    control.write_all(b"{\"nonsense\":1}\n").unwrap();
    let mut answer = String::new();
    BufReader::new(control).read_line(&mut answer).unwrap();
    assert!(answer.contains("error"), "{answer}");
    assert_eq!(sample(&get(&address, "/metrics").body, "aeterna_control_errors_total"), 1.0);
}

#[test]
fn the_drain_and_every_state_of_a_reload_are_ready() {
    let (env, address) = running(UNIT);
    let mut client = Client::connect(&env.address("app", 0)).unwrap();
    assert_eq!(client.get("/").unwrap().status, 200);
    assert_eq!(ask(&address, "POST", "/v1/units/app/reload", "", "").status, 202);
    env.wait_state("app", UnitState::Soaking);
    assert_eq!(get(&address, "/ready").status, 200);
    assert_eq!(ask(&address, "POST", "/v1/units/app/promote", "", "").status, 202);
    assert_eq!(get(&address, "/ready").status, 200);
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    let ready = get(&address, "/ready");
    assert_eq!((ready.status, json(&ready)["error"].as_str().unwrap().contains("STOPPED")), (503, true));
}

/// A value that Prometheus has, by a query.
fn queried(address: &str, query: &str) -> Option<f64> {
    let answer = get(address, &format!("/api/v1/query?query={query}"));
    // It answers 503 until it has read what it has stored.
    let body: Value = serde_json::from_str(&answer.body).ok()?;
    body["data"]["result"][0]["value"][1].as_str()?.parse().ok()
}

#[test]
fn a_real_prometheus_sees_a_reload_and_a_rollback() {
    let (env, address) = running(UNIT);
    let config = format!(
        "global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}\n\
         scrape_configs: [{{job_name: aeterna, static_configs: [{{targets: [\"{address}\"]}}]}}]\n"
    );
    let mut command = env.command("prometheus");
    command
        .arg(format!("--config.file={}", env.file("prometheus.yml", &config).display()))
        .arg(format!("--storage.tsdb.path={}", env.path("tsdb").display()))
        .arg("--web.listen-address=127.0.0.1:0")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped());
    let Ok(mut prometheus) = command.spawn() else {
        return common::skip("prometheus is not installed");
    };
    let (told, listens) = std::sync::mpsc::channel();
    let log = BufReader::new(prometheus.stderr.take().unwrap());
    std::thread::spawn(move || {
        // To its end, so that Prometheus never waits for us.
        for line in log.lines().map_while(Result::ok).filter(|line| line.contains("\"Listening on\"")) {
            let _ = told.send(line.rsplit_once("address=").unwrap().1.to_owned());
        }
    });
    let server = env.wait("Prometheus to listen", || listens.try_recv().ok());
    let sees = |query: &str, value: f64| {
        env.wait(&format!("{query} to be {value}"), || {
            (queried(&server, query) == Some(value)).then_some(())
        });
    };
    sees("up", 1.0);
    sees("aeterna_generation", 1.0);
    for (end, outcome, generation) in [("promote", "promoted", 2.0), ("rollback", "rolled_back", 2.0)] {
        assert_eq!(ask(&address, "POST", "/v1/units/app/reload", "", "").status, 202);
        sees("aeterna_process_state", 1.0);
        assert_eq!(ask(&address, "POST", &format!("/v1/units/app/{end}"), "", "").status, 202);
        sees(&format!("aeterna_reloads_total%7Boutcome=\"{outcome}\"%7D").replace('"', "%22"), 1.0);
        sees("aeterna_generation", generation);
        sees("aeterna_process_state", 0.0);
    }
    sees("aeterna_last_reload_successful", 0.0);
    prometheus.kill().unwrap();
    prometheus.wait().unwrap();
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
