//! State moves from the old generation to the new one through the daemon, or honestly does not.

use crate::common;
use aeterna::proto::status::{EventLine, Outcome, UnitState};
use common::{Env, process, repository, skip};
use serde_json::{Value, json};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;

/// A unit `app` whose service does as it is told by plans, and tells what happens (tests/srp/service.py).
struct Play {
    env: Env,
}

impl Play {
    /// `state`: the lines of `[State]` beside `Enabled`. Where the time is not what the test is about, there is plenty.
    fn new(state: &str) -> Play {
        Play::with("", state)
    }

    /// `service`: more lines of `[Service]`.
    fn with(service: &str, state: &str) -> Play {
        let play = Play { env: Env::new() };
        play.unit(service, state);
        play
    }

    fn unit(&self, service: &str, state: &str) {
        let program = repository().join("tests/srp/service.py");
        let timeout = if state.contains("Timeout") { "" } else { "Timeout = \"1min\"" };
        let text = format!(
            "[Service]\nExecStart = [\"python3\", \"{}\", \"{{dir}}\"]\nType = \"notify\"\nRestart = \"no\"\n\
             TimeoutStartSec = \"1min\"\n{service}\n[Reload]\nSoakTime = \"100ms\"\nDrainTimeout = \"10s\"\n\
             [State]\nEnabled = true\n{timeout}\n{state}\n",
            program.display()
        );
        self.env.unit("app", &text);
    }

    fn plan(&self, generation: u32, plan: &Value) {
        self.env.file(&format!("plan-{generation}"), &plan.to_string());
    }

    /// The first generation runs.
    fn start(&mut self) {
        self.env.start();
        self.env.wait_state("app", UnitState::Running);
    }

    fn all(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.env.path("said")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// What a generation has said under this name so far.
    fn said(&self, generation: u32, what: &str) -> Vec<Value> {
        self.all().into_iter().filter(|v| v["g"] == generation && v["what"] == what).collect()
    }

    fn hears(&self, generation: u32, what: &str) -> Value {
        self.env.wait(&format!("generation {generation} to say {what}; it said {:?}", self.all()), || {
            self.said(generation, what).into_iter().next()
        })
    }

    /// Reloads and waits for the end.
    fn reload(&self) -> EventLine {
        let mark = self.env.mark();
        let mut ctl = self.env.ctl_start(&["reload", "app"]);
        let end = self.env.wait_reloaded("app", mark);
        ctl.wait().unwrap();
        end
    }

    fn promoted(&self) {
        let end = self.reload();
        assert_eq!(end.outcome, Some(Outcome::Promoted), "{}\n{:?}", end.text, self.all());
    }

    fn rolled_back(&self) -> String {
        let end = self.reload();
        assert_eq!(end.outcome, Some(Outcome::RolledBack), "{}\n{:?}", end.text, self.all());
        end.text
    }

    /// The old generation goes on with what it had, and may hand it over at the next reload.
    fn serves_on(&self, state: &str) {
        let last = self.env.wait_state("app", UnitState::Running).generation;
        assert_eq!(last, 1);
        self.promoted();
        let next = self.env.unit_status("app").generation;
        assert_eq!(self.hears(next, "begins")["state"], format!("{state}+{next}"));
    }
}

#[test]
fn state_of_any_size_arrives_whole() {
    for (size, frames) in [(0u64, 1u64), (1, 1), (64 << 20, 64)] {
        let mut play = Play::new("");
        play.plan(1, &json!({ "size": size }));
        play.start();
        let first = play.hears(1, "hello");
        assert_eq!((&first["generation"], &first["predecessor"]), (&json!(1), &json!(false)));
        assert_eq!(play.hears(1, "took")["frames"], 0, "a cold start is answered at once");
        let mark = play.env.mark();
        play.promoted();
        let (gave, took) = (play.hears(1, "gave"), play.hears(2, "took"));
        assert_eq!(took["bytes"], size);
        assert_eq!((&gave["sha"], &gave["frames"]), (&took["sha"], &took["frames"]));
        assert_eq!(play.hears(2, "hello")["predecessor"], true);
        assert_eq!(play.hears(1, "term")["committed"], true, "COMMIT comes before the stop signal");
        let status = play.env.unit_status("app").last_handover.unwrap();
        assert_eq!((status.status.as_str(), status.size_bytes, status.frames), ("success", size, frames));
        let shown = play.env.events_since(mark);
        let told = shown.iter().find(|event| event.kind == "handover").unwrap();
        assert!(
            told.text.contains(&format!("{size} bytes in {frames} frames, 0 descriptors")),
            "{}",
            told.text
        );
        let shaking = shown.iter().position(|e| e.state == Some(UnitState::Handshaking)).unwrap();
        assert!(shown[shaking + 1..].iter().any(|e| e.state.is_some() && e.lasted.is_some()));
        let history = play.env.ctl(&["--json", "history", "app"]);
        assert!(history.stdout.contains("\"handshaking\""), "{}", history.stdout);
        assert!(history.stdout.contains(&format!("\"state_bytes\":{size}")), "{}", history.stdout);
    }
}

/// Some 5 GiB, which takes its time: `cargo test --release --test it srp -- --ignored`.
#[test]
#[ignore = "minutes on a small machine"]
fn state_of_five_gibibytes_arrives_whole_and_costs_no_memory() {
    let mut play = Play::new("Timeout = \"30min\"");
    play.plan(1, &json!({ "size": 5u64 << 30, "chunk": 16 << 20 }));
    play.start();
    let anonymous = || process::status_number(play.env.pid(), "RssAnon").unwrap();
    let before = anonymous();
    let mut ctl = play.env.ctl_start(&["reload", "app"]);
    let mut most = before;
    while ctl.try_wait().unwrap().is_none() {
        most = most.max(anonymous());
        std::thread::yield_now();
    }
    let (gave, took) = (play.hears(1, "gave"), play.hears(2, "took"));
    assert_eq!((&took["bytes"], &took["sha"]), (&json!(5u64 << 30), &gave["sha"]));
    assert!(most - before < 1024, "RssAnon grew from {before} to {most} KiB");
}

#[test]
fn roles_are_implied_by_silence() {
    let mut play = Play::new("");
    play.plan(1, &json!({ "state": "a", "sink": "none", "source": "silent" }));
    play.plan(2, &json!({ "sink": "silent" }));
    play.start();
    play.promoted();
    assert_eq!(play.hears(2, "begins")["state"], "a+2");
    play.promoted();
    assert_eq!(
        play.hears(3, "begins")["state"],
        "a+2+3",
        "the sink's connection was the source's afterwards"
    );
}

#[test]
fn a_source_that_connects_at_a_signal() {
    let mut play = Play::new("Signal = \"SIGUSR1\"");
    play.plan(1, &json!({ "state": "a", "sink": "none", "source": "signal" }));
    play.start();
    play.promoted();
    play.hears(1, "signalled");
    assert_eq!(play.hears(2, "begins")["state"], "a+2");
}

#[test]
fn a_service_may_be_ready_before_it_asks() {
    let mut play = Play::new("");
    play.plan(1, &json!({ "state": "a" }));
    play.plan(2, &json!({ "ready": "before" }));
    play.start();
    play.promoted();
    assert_eq!(play.hears(2, "begins")["state"], "a+2");
}

#[test]
fn without_a_source_in_time_the_new_one_starts_cold() {
    let failures = [
        json!({ "give": "hang" }),
        json!({ "give": "half" }),
        json!({ "give": "error" }),
        json!({ "give": "raw:0000000800000000010200001111" }),
        json!({ "source": "none", "sink": "none" }),
    ];
    for failure in &failures {
        let mut play = Play::new("Timeout = \"1s\"");
        play.plan(1, failure);
        play.start();
        play.promoted();
        let error = play.hears(2, "error");
        assert!(error["code"].as_str().is_some_and(|code| code.starts_with("source_")), "{failure}: {error}");
        assert_eq!(play.hears(2, "begins")["state"], "fresh");
        assert_eq!(play.said(1, "commit").len(), 0, "{failure}: it keeps what is its own");
        assert_eq!(play.env.unit_status("app").last_handover.unwrap().status, "failed");
    }
}

#[test]
fn a_descriptor_comes_with_its_frame() {
    let mut play = Play::new("");
    play.plan(1, &json!({ "give": "fds:1" }));
    play.start();
    play.promoted();
    assert_eq!(play.hears(2, "took")["descriptors"], 1);
}

#[test]
fn with_required_there_is_no_cold_start() {
    let mut play = Play::new("Required = true");
    play.plan(1, &json!({ "state": "a", "give": "error" }));
    play.start();
    let why = play.rolled_back();
    assert!(why.contains("cannot save") && why.contains("Required"), "{why}");
    play.hears(1, "resumed");
    let mut play = Play::new("Timeout = \"500ms\"\nRequired = true");
    play.plan(2, &json!({ "sink": "none", "source": "none" }));
    play.start();
    let why = play.rolled_back();
    assert!(why.contains("no sink connected"), "{why}");
    play.unit("", "Required = true");
    play.serves_on("fresh");
}

#[test]
fn more_than_max_bytes_is_not_taken() {
    let mut play = Play::new("MaxBytes = \"1M\"");
    play.plan(1, &json!({ "size": (1 << 20) + 1 }));
    play.start();
    play.promoted();
    let error = play.hears(2, "error");
    assert!(error["message"].as_str().unwrap().contains("MaxBytes"), "{error}");
    assert_eq!(play.hears(2, "begins")["state"], "fresh");
}

#[test]
fn the_old_one_may_die_at_any_point() {
    for point in ["request", "half", "state", "finished"] {
        let mut play = Play::new("");
        play.plan(1, &json!({ "state": "a", "give": format!("die:{point}") }));
        play.start();
        play.promoted();
        let begins = play.hears(2, "begins")["state"].clone();
        assert_eq!(begins, if point == "finished" { "a+2" } else { "fresh" }, "{point}");
        assert_eq!(play.env.wait_state("app", UnitState::Running).generation, 2, "{point}");
    }
}

#[test]
fn the_new_one_may_die_at_any_point_and_the_old_one_serves_on() {
    for point in ["connect", "header", "state", "ack"] {
        let mut play = Play::new("");
        play.plan(1, &json!({ "state": "a" }));
        play.plan(2, &json!({ "sink": format!("die:{point}") }));
        play.start();
        play.rolled_back();
        if point != "connect" {
            play.hears(1, "resumed");
        }
        assert_eq!(play.said(1, "term").len(), 0, "{point}");
        play.serves_on("a");
    }
}

#[test]
fn a_new_one_that_refuses_the_state_starts_cold() {
    let mut play = Play::new("");
    play.plan(1, &json!({ "state": "a" }));
    play.plan(2, &json!({ "sink": "error" }));
    play.start();
    play.promoted();
    play.hears(2, "refused");
    play.hears(1, "resumed");
    assert_eq!(play.said(1, "commit").len(), 0);
}

#[test]
fn a_new_one_that_hangs_with_the_state_is_given_up() {
    for how in ["noack", "stall"] {
        // So long the old one has to have given its state.
        let mut play = Play::new("Timeout = \"5s\"");
        play.plan(1, &json!({ "state": "a" }));
        play.plan(2, &json!({ "sink": how }));
        play.start();
        let why = play.rolled_back();
        assert!(why.contains("did not acknowledge"), "{why}");
        play.hears(1, "resumed");
        play.unit("", "");
        play.serves_on("a");
    }
}

#[test]
fn what_changed_in_the_soak_is_given_back() {
    let mut play = Play::new("");
    play.env.file("units/app.toml", "");
    play.unit("WatchdogSec = 0", "");
    let text = std::fs::read_to_string(play.env.path("units/app.toml")).unwrap();
    play.env.file("units/app.toml", &text.replace("\"100ms\"", "\"1h\""));
    play.plan(1, &json!({ "state": "a" }));
    play.start();
    let mark = play.env.mark();
    let mut ctl = play.env.ctl_start(&["reload", "app"]);
    play.env.wait_state("app", UnitState::Soaking);
    assert_eq!(play.hears(2, "begins")["state"], "a+2");
    assert_eq!(play.env.ctl(&["rollback", "app"]).code, 0);
    assert_eq!(play.env.wait_reloaded("app", mark).outcome, Some(Outcome::RolledBack));
    ctl.wait().unwrap();
    assert_eq!(play.hears(1, "resumed")["state"], "a+2");
    play.hears(2, "request");
    play.hears(2, "term");
    assert_eq!(play.said(1, "commit").len() + play.said(2, "commit").len(), 0);
}

#[test]
fn a_sink_that_connects_anew_gets_the_state_again() {
    let mut play = Play::new("");
    // So much that the relay is under way when the sink leaves.
    play.plan(1, &json!({ "size": 8 << 20 }));
    play.plan(2, &json!({ "sink": "again" }));
    play.start();
    let mark = play.env.mark();
    let mut ctl = play.env.ctl_start(&["reload", "app"]);
    play.hears(1, "request");
    play.env.file("again", "");
    assert_eq!(play.env.wait_reloaded("app", mark).outcome, Some(Outcome::Promoted));
    ctl.wait().unwrap();
    assert_eq!(play.hears(2, "took")["bytes"], 8 << 20);
    assert_eq!(play.said(1, "request").len(), 2);
    assert_eq!(play.hears(1, "term")["committed"], true);
}

#[test]
fn what_is_no_srp_gets_its_error() {
    let frame = |length: u32, magic: u32, version: u8, kind: u8, reserved: u16| {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend(magic.to_be_bytes());
        bytes.extend([version, kind]);
        bytes.extend(reserved.to_be_bytes());
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let good = 0xAE7E_2024;
    let wrong = [
        (frame(8, 0xAE7E_2025, 1, 0xFF, 0), "bad_magic"),
        (frame(8, good, 2, 0xFF, 0), "bad_version"),
        (frame(7, good, 1, 0xFF, 0), "bad_length"),
        (frame(8, good, 1, 0x77, 0), "bad_type"),
        (frame(8, good, 1, 0xFF, 1), "bad_reserved"),
        (frame(8, good, 1, 0x01, 0), "bad_json"),
        (frame(8, good, 1, 0x10, 0), "unexpected"),
        (frame(8 + (1 << 30), good, 1, 0x01, 0), "too_long"),
        ("47455420".repeat(4), "bad_magic"),
    ];
    let raws: Vec<&String> = wrong.iter().map(|(bytes, _)| bytes).collect();
    let mut play = Play::new("");
    play.plan(1, &json!({ "state": "a", "raws": raws, "flood": 40 }));
    play.start();
    let codes: Vec<Value> = play.said(1, "answered").iter().map(|v| v["code"].clone()).collect();
    let expected: Vec<Value> = wrong.iter().map(|(_, code)| json!(code)).collect();
    assert_eq!(codes, expected);
    assert_eq!(play.hears(1, "flooded")["codes"], json!(["too_many"]));
    play.promoted();
    assert_eq!(play.hears(2, "begins")["state"], "a+2", "all that did not harm the unit");
}

#[test]
fn too_many_descriptors_and_endless_state_end_in_error() {
    let mut play = Play::new("MaxBytes = \"64M\"");
    play.plan(1, &json!({ "give": "more", "size": 1 }));
    play.start();
    let before = process::status_number(play.env.pid(), "RssAnon").unwrap();
    play.promoted();
    assert!(play.hears(2, "error")["message"].as_str().unwrap().contains("MaxBytes"));
    let after = process::status_number(play.env.pid(), "RssAnon").unwrap();
    assert!(after < before + 4096, "RssAnon {before} then {after} KiB");
    let descriptors = process::descriptors(play.env.pid());
    let mut play = Play::new("");
    play.plan(1, &json!({ "state": "a", "give": "fds:253" }));
    play.start();
    play.promoted();
    assert_eq!(play.hears(2, "took")["descriptors"], 253);
    assert!(process::descriptors(play.env.pid()) < descriptors + 16, "none stays behind");
}

#[test]
fn strangers_are_refused_and_the_socket_is_its_users_alone() {
    let mut play = Play::new("");
    play.start();
    let path = play.hears(1, "connected")["path"].as_str().unwrap().to_string();
    let about = std::fs::symlink_metadata(&path).unwrap();
    assert!(about.file_type().is_socket());
    assert_eq!(about.mode() & 0o777, 0o600);
    // The same user, but none of the unit's processes.
    let mut stranger = UnixStream::connect(&path).unwrap();
    stranger.set_read_timeout(Some(common::WAIT)).unwrap();
    let mut answer = Vec::new();
    let _ = stranger.read_to_end(&mut answer);
    assert!(String::from_utf8_lossy(&answer).contains("not_a_member"), "{answer:?}");
    play.env.wait_log("refused");
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can start a service as another user");
    }
    let mut play = Play::new("");
    play.env.unit(
        "app",
        "[Service]\nExecStart = [\"/bin/sleep\", \"1000\"]\nUser = \"nobody\"\nUMask = \"0000\"\n[State]\nEnabled = true\n",
    );
    play.start();
    let about = std::fs::symlink_metadata(play.env.runtime_dir().join("app.srp")).unwrap();
    assert_eq!((about.uid(), about.mode() & 0o777), (65534, 0o600));
}

#[test]
fn a_socket_path_of_ones_own_and_a_long_runtime_dir() {
    let mut play = Play::new("SocketPath = \"{dir}/own.sock\"");
    play.start();
    assert_eq!(play.hears(1, "connected")["path"], play.env.path("own.sock").display().to_string());
    play.promoted();
    assert_eq!(play.hears(2, "begins")["state"], "fresh+2");
}

#[test]
fn a_gibibyte_in_a_memfd_is_not_copied() {
    let mut play = Play::new("");
    play.plan(1, &json!({ "state": "a", "memfd": 1 << 30 }));
    play.start();
    play.promoted();
    assert_eq!(play.hears(2, "descriptor")["size"], 1 << 30);
    let last = play.env.unit_status("app").last_handover.unwrap();
    assert_eq!((last.frames, last.descriptors), (2, 1));
    // How long it takes is the bench's to say.
    assert!(last.size_bytes < 100, "{last:?}");
}

#[test]
fn state_without_the_protocol_is_the_descriptor_that_was_stored_last() {
    let mut play = Play::new("");
    let path = play.env.path("units/app.toml");
    let text = std::fs::read_to_string(path).unwrap();
    play.env.file("units/app.toml", &text.replace("Enabled = true", "Descriptor = true"));
    let plan = |store: Value| json!({ "sink": "none", "source": "none", "store": store });
    play.plan(1, &plan(json!(["a", "b"])));
    play.plan(2, &plan(json!(["c"])));
    play.plan(3, &plan(json!([])));
    play.start();
    play.promoted();
    assert_eq!(play.hears(2, "stored")["text"], "b");
    play.promoted();
    assert_eq!(play.hears(3, "stored")["text"], "c");
    assert_eq!(play.said(1, "stored").len() + play.said(2, "stored").len() + play.said(3, "stored").len(), 2);
}

#[test]
fn the_store_follows_promotions() {
    let mut play = Play::with("FileDescriptorStoreMax = 8", "");
    let text = std::fs::read_to_string(play.env.path("units/app.toml")).unwrap();
    let text = text.replace("Enabled = true", "").replace("\"100ms\"", "\"1h\"");
    play.env.file("units/app.toml", &text);
    let plan = |more: Value| {
        let mut plan = json!({ "sink": "none", "source": "none" });
        plan.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        plan
    };
    play.plan(1, &plan(json!({ "store": [["a", "1"], ["b", "2"]] })));
    play.plan(2, &plan(json!({ "store": [["c", "3"]], "unstore": ["a"] })));
    play.plan(3, &plan(json!({ "store": [["d", "4"]], "unstore": ["b"], "late": true })));
    for number in 4..7 {
        play.plan(number, &plan(json!({})));
    }
    let given = |play: &Play, number: u32| {
        let given = play.hears(number, "given");
        let names: Vec<String> =
            given["names"].as_array().unwrap().iter().map(|n| n.as_str().unwrap().into()).collect();
        (names.join(" "), given["handover"].as_bool().unwrap())
    };
    let soaks = |play: &Play, word: &str| {
        let mark = play.env.mark();
        let mut ctl = play.env.ctl_start(&["reload", "app"]);
        play.env.wait_state("app", UnitState::Soaking);
        assert_eq!(play.env.ctl(&[word, "app"]).code, 0);
        play.env.wait_reloaded("app", mark);
        ctl.wait().unwrap();
        play.env.wait_state("app", UnitState::Running);
    };
    play.start();
    assert_eq!(given(&play, 1), (String::new(), false));
    soaks(&play, "rollback");
    assert_eq!(given(&play, 2), ("a b".into(), true));
    soaks(&play, "promote");
    assert_eq!(given(&play, 3), ("a b".into(), true), "what generation 2 wanted went with it");
    soaks(&play, "promote");
    assert_eq!(given(&play, 4), ("a d".into(), true));
    play.hears(3, "term");
    assert_eq!(play.env.ctl(&["restart", "app"]).code, 0);
    assert_eq!(given(&play, 5), ("a d".into(), false), "a draining generation's word is nothing");
    assert_eq!(play.env.ctl(&["stop", "app"]).code, 0);
    assert_eq!(play.env.ctl(&["start", "app"]).code, 0);
    assert_eq!(given(&play, 6), (String::new(), false), "a stop empties it");
}

#[test]
fn a_stop_in_the_middle_says_resume_before_the_signal() {
    let mut play = Play::new("");
    play.plan(1, &json!({ "state": "a" }));
    play.plan(2, &json!({ "sink": "noack" }));
    play.start();
    let mut ctl = play.env.ctl_start(&["reload", "app"]);
    play.hears(2, "silent");
    assert_eq!(play.env.ctl(&["stop", "app"]).code, 0);
    ctl.wait().unwrap();
    // It has read RESUME, or it lies in its connection (which is what it calls committed, too).
    let waits = play.hears(1, "term")["committed"] == true;
    assert!(waits || !play.said(1, "resume").is_empty(), "{:?}", play.all());
}

#[test]
fn one_that_had_no_state_is_no_predecessor() {
    let mut play = Play::new("");
    let text = std::fs::read_to_string(play.env.path("units/app.toml")).unwrap();
    play.env.file("units/app.toml", &text.replace("Enabled = true", "Enabled = false"));
    play.plan(1, &json!({ "sink": "none", "source": "none" }));
    play.start();
    play.env.file("units/app.toml", &text);
    play.promoted();
    assert_eq!(play.hears(2, "hello")["predecessor"], false);
    assert_eq!(play.hears(2, "took")["frames"], 0);
}

#[test]
fn steered_on_purpose() {
    let mut play = Play::new("");
    let text = std::fs::read_to_string(play.env.path("units/app.toml")).unwrap();
    let socket = "[Socket]\nListenStream = \"127.0.0.1:0\"\nSharing = \"steered\"\n";
    // Nobody accepts there: what readiness would otherwise ask for in a reload is the health check's.
    play.env.file("units/app.toml", &format!("{socket}{text}"));
    play.plan(1, &json!({ "state": "a" }));
    play.start();
    play.promoted();
    assert_eq!(play.hears(2, "begins")["state"], "a+2");
    assert_eq!(play.hears(1, "term")["committed"], true);
}
