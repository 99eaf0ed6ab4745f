//! What `/metrics` of a running aeternad tells (contract section 8), through whatever can happen to a unit.

use crate::common;
use aeterna::proto::status::UnitState;
use common::http;
use common::{Env, example, skip};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::Stdio;

/// A daemon with these units, and where it listens for HTTP.
fn started(units: &[(&str, &str)]) -> (Env, String) {
    let mut env = Env::new();
    env.arguments(&["--http", "127.0.0.1:0"]);
    for (name, text) in units {
        env.unit(name, text);
    }
    env.start();
    let line = env.wait_log("http: listening on ");
    (env, line.rsplit(' ').next().unwrap().trim_matches('"').to_owned())
}

fn text(address: &str) -> String {
    let answer = http::get(address, "/metrics").unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

/// Every sample by its name and labels.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(k, v)| (k.to_owned(), v.parse().unwrap()))
        .collect()
}

/// Waits until a sample has this value.
fn wait(env: &Env, address: &str, sample: &str, value: f64) {
    env.wait(&format!("{sample} to be {value}"), || {
        (samples(&text(address)).get(sample) == Some(&value)).then_some(())
    });
}

/// No counter has gone back.
fn grown(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) {
    for (name, value) in before {
        let family = name.split('{').next().unwrap();
        if ["_total", "_count", "_sum", "_bucket"].iter().any(|end| family.ends_with(end)) {
            let now = after.get(name).unwrap_or_else(|| panic!("{name} is gone"));
            assert!(now >= value, "{name} was {value} and is {now}");
        }
    }
}

const APP: &str = r#"
    [Socket]
    ListenStream = "127.0.0.1:0"
    [Service]
    ExecStart = "{probe}"
    Type = "notify"
    Restart = "on-failure"
    RestartSec = "1ms"
    [Reload]
    SoakTime = "60s"
    DrainTimeout = "60s"
    [HealthCheck]
    TcpConnect = "127.0.0.1:1"
    Timeout = "10s"
"#;

#[test]
fn metrics_follow_a_reload_a_rollback_a_crash_and_a_stop() {
    let app = APP.split("[HealthCheck]").next().unwrap();
    let (env, address) = started(&[("app", app)]);
    let sees = |sample: &str, value: f64| wait(&env, &address, sample, value);
    let state = "aeterna_process_state{unit=\"app\"}";
    sees(state, 0.0);
    let first = samples(&text(&address));
    assert_eq!(first["aeterna_generation{unit=\"app\"}"], 1.0);
    assert_eq!(first["aeterna_socket_accept_queue{unit=\"app\",socket=\"app\"}"], 0.0);
    assert!(first["aeterna_socket_accept_queue_limit{unit=\"app\",socket=\"app\"}"] > 0.0);

    // A connection that the old generation has is what its drain waits for.
    let (held, _) = env.hold();
    assert_eq!(env.ctl(&["reload", "app", "--no-wait"]).code, 0);
    sees(state, 1.0);
    assert_eq!(env.ctl(&["reload", "app"]).code, 4);
    sees("aeterna_reloads_total{unit=\"app\",outcome=\"refused\"}", 1.0);
    assert_eq!(env.ctl(&["promote", "app"]).code, 0);
    sees(state, 2.0);
    sees("aeterna_generation{unit=\"app\"}", 2.0);
    sees("aeterna_draining_generations{unit=\"app\"}", 1.0);
    sees("aeterna_draining_connections{unit=\"app\"}", 1.0);
    sees("aeterna_reload_phase_duration_seconds_count{unit=\"app\",phase=\"soaking\"}", 1.0);
    drop(held);
    sees(state, 0.0);
    sees("aeterna_draining_connections{unit=\"app\"}", 0.0);
    sees("aeterna_reload_phase_duration_seconds_count{unit=\"app\",phase=\"draining\"}", 1.0);
    sees("aeterna_reloads_total{unit=\"app\",outcome=\"promoted\"}", 1.0);
    sees("aeterna_last_reload_successful{unit=\"app\"}", 1.0);
    let second = samples(&text(&address));
    grown(&first, &second);

    assert_eq!(env.ctl(&["reload", "app", "--no-wait"]).code, 0);
    env.wait_state("app", UnitState::Soaking);
    assert_eq!(env.ctl(&["rollback", "app"]).code, 0);
    sees("aeterna_reloads_total{unit=\"app\",outcome=\"rolled_back\"}", 1.0);
    sees("aeterna_reload_phase_duration_seconds_count{unit=\"app\",phase=\"rolling_back\"}", 1.0);
    sees("aeterna_last_reload_successful{unit=\"app\"}", 0.0);
    sees("aeterna_generation{unit=\"app\"}", 2.0);
    sees(state, 0.0);

    env.get("app", "/exit?code=3");
    sees("aeterna_restarts_total{unit=\"app\",reason=\"exit-code\"}", 1.0);
    env.wait_unit("app", "the fourth generation", |u| u.generation == 4 && u.state == UnitState::Running);
    env.get("app", "/signal?signal=KILL");
    sees("aeterna_restarts_total{unit=\"app\",reason=\"signal\"}", 1.0);
    sees(state, 0.0);
    grown(&second, &samples(&text(&address)));
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    sees(state, 10.0);
    sees("aeterna_ready", 0.0);
}

#[test]
fn every_state_that_is_not_of_a_reload_has_its_number() {
    let lazy =
        APP.split("[HealthCheck]").next().unwrap().replace("Type =", "StartOn = \"connection\"\n    Type =");
    let (env, address) = started(&[
        ("bad", "[Service]\nExecStart = \"/bin/false\""),
        ("late", "[Service]\nExecStart = \"{probe} ready=never\"\nType = \"notify\""),
        ("again", "[Service]\nExecStart = \"/bin/false\"\nRestart = \"always\"\nRestartSec = \"100s\""),
        ("lazy", &lazy),
        ("sick", APP),
    ]);
    for (unit, number) in [("bad", 11.0), ("late", 3.0), ("again", 8.0), ("lazy", 7.0), ("sick", 3.0)] {
        wait(&env, &address, &format!("aeterna_process_state{{unit=\"{unit}\"}}"), number);
    }
    env.wait("a health check that fails", || {
        (samples(&text(&address))["aeterna_health_checks_total{unit=\"sick\",result=\"fail\"}"] > 0.0)
            .then_some(())
    });
    assert_eq!(http::get(&address, "/ready").unwrap().status, 503);
}

#[test]
fn the_handover_of_state_is_counted() {
    let unit = format!(
        "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{}\"\nType = \"notify\"\n\
         [Reload]\nSoakTime = \"60s\"\n[State]\nEnabled = true\n",
        example("chat").display()
    );
    let (env, address) = started(&[("chat", &unit)]);
    wait(&env, &address, "aeterna_process_state{unit=\"chat\"}", 0.0);
    let bytes = "aeterna_handover_bytes_total";
    assert_eq!(samples(&text(&address))[bytes], 0.0);
    // Its name is what the client brings along.
    let mut client = http::connect(&env.address("chat", 0)).unwrap();
    client.write_all(b"somebody\n").unwrap();
    let mut reader = std::io::BufReader::new(client);
    std::io::BufRead::read_line(&mut reader, &mut String::new()).unwrap();
    for number in 1..=2 {
        let before = samples(&text(&address))[bytes];
        assert_eq!(env.ctl(&["reload", "chat", "--no-wait"]).code, 0);
        env.wait_state("chat", UnitState::Soaking);
        wait(&env, &address, "aeterna_handover_duration_seconds_count", f64::from(number));
        let after = samples(&text(&address));
        assert!(after[bytes] > before && after["aeterna_handover_duration_seconds_sum"] > 0.0, "{after:?}");
        assert_eq!(env.ctl(&["promote", "chat"]).code, 0);
        wait(&env, &address, "aeterna_process_state{unit=\"chat\"}", 0.0);
        let phase = "aeterna_reload_phase_duration_seconds_count{unit=\"chat\",phase=\"handshaking\"}";
        wait(&env, &address, phase, f64::from(number));
    }
}

#[test]
fn a_reload_that_replaces_has_a_phase_in_which_it_stops() {
    let unit = "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = \"{probe}\"\nType = \"notify\"\n\
                [Reload]\nStrategy = \"replace\"\n";
    let (env, address) = started(&[("app", unit)]);
    wait(&env, &address, "aeterna_process_state{unit=\"app\"}", 0.0);
    assert_eq!(env.ctl(&["reload", "app"]).code, 0);
    for phase in ["pre_checking", "stopping", "starting"] {
        let count = format!("aeterna_reload_phase_duration_seconds_count{{unit=\"app\",phase=\"{phase}\"}}");
        wait(&env, &address, &count, 1.0);
    }
}

/// Every query in a dashboard, at whatever depth.
fn queries(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => fields.iter().for_each(|(name, value)| match value.as_str() {
            Some(text) if name == "expr" || name == "query" || name == "definition" => {
                found.push(text.to_owned());
            }
            Some(_) | None => queries(value, found),
        }),
        serde_json::Value::Array(list) => list.iter().for_each(|value| queries(value, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_metrics_that_there_are() {
    let (_env, address) = started(&[("app", "[Service]\nExecStart = \"/bin/sleep 1000\"")]);
    let text = text(&address);
    let read = |name: &str| std::fs::read_to_string(common::repository().join(name)).unwrap();
    let mut asked = Vec::new();
    queries(&serde_json::from_str(&read("units/deploy/grafana-dashboard.json")).unwrap(), &mut asked);
    let alerts = read(RULES);
    let alerts = alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    asked.extend(alerts.map(str::to_owned));
    let words: Vec<&str> = asked
        .iter()
        .flat_map(|query| query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
        .filter(|word| word.starts_with("aeterna_") || word.starts_with("process_"))
        .collect();
    assert!(words.len() > 30, "{asked:?}");
    for word in words {
        let family = word.trim_end_matches("_bucket");
        assert!(text.contains(&format!("# TYPE {family} ")), "they ask for {word}, which there is not");
    }
}

/// Alerts for Prometheus.
const RULES: &str = "units/deploy/prometheus-rules.yaml";

#[test]
fn each_alert_is_explained_and_promtool_takes_them() {
    let rules = std::fs::read_to_string(common::repository().join(RULES)).unwrap();
    let guide = std::fs::read_to_string(common::repository().join("docs/monitoring.md")).unwrap();
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 5, "{alerts:?}");
    for alert in &alerts {
        assert!(guide.contains(&format!("| {alert} | ")), "docs/monitoring.md does not explain {alert}");
    }
    let mut promtool = std::process::Command::new("promtool");
    promtool.args(["check", "rules"]).arg(common::repository().join(RULES));
    let Ok(said) = promtool.output() else { return skip("promtool is not installed") };
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success() && text.contains(&format!("{} rules found", alerts.len())), "{said:?}");
}

#[test]
fn promtool_likes_what_a_running_daemon_tells() {
    let (env, address) = started(&[
        ("app", APP.split("[HealthCheck]").next().unwrap()),
        ("dull", "[Service]\nExecStart = \"/bin/sleep 1000\""),
    ]);
    env.wait_state("app", UnitState::Running);
    let early = text(&address);
    for name in [
        "aeterna_process_state",
        "aeterna_handover_duration_seconds",
        "aeterna_handover_bytes_total",
        "aeterna_restarts_total",
        "aeterna_reloads_total",
        "aeterna_reload_phase_duration_seconds",
        "aeterna_generation",
        "aeterna_socket_accept_queue",
        "aeterna_socket_accept_queue_limit",
        "aeterna_draining_connections",
        "aeterna_health_checks_total",
        "aeterna_connections_stranded_total",
        "aeterna_build_info",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_max_fds",
        "process_virtual_memory_bytes",
        "process_virtual_memory_max_bytes",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
    ] {
        assert!(
            early.contains(&format!("# TYPE {name} ")),
            "{name} is missing before the first reload in\n{early}"
        );
    }
    assert_eq!(env.ctl(&["reload", "app", "--no-wait"]).code, 0);
    env.wait_state("app", UnitState::Soaking);
    assert_eq!(env.ctl(&["promote", "app"]).code, 0);
    for text in [early, text(&address)] {
        let mut command = env.command("promtool");
        command
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let Ok(mut promtool) = command.spawn() else { return skip("promtool is not installed") };
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let ended = env.finish_child(promtool);
        assert!(ended.code == 0 && ended.stdout.is_empty() && ended.stderr.is_empty(), "{ended:?}\n{text}");
    }
}
