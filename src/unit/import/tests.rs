//! Whatever the text, what is imported parses, and nothing panics.

use super::*;
use crate::unit::{Context, parse};
use proptest::prelude::*;

fn source(name: &str, text: &str) -> Source {
    Source { file: name.into(), name: name.into(), text: text.into() }
}

fn check(sources: &[Source]) {
    let Ok(unit) = import(sources, None) else { return };
    let context = Context {
        stem: format!("{}x", unit.name),
        file: String::new(),
        runtime_dir: "/run".into(),
        pid1: false,
    };
    assert!(parse(&unit.text, &context).is_ok(), "{}\n{sources:?}", unit.text);
    for warning in &unit.warnings {
        let source = sources.iter().find(|source| source.file == warning.file);
        let lines = source.map_or(0, |source| source.text.lines().count());
        assert!(warning.line <= lines, "{warning}");
    }
}

/// Lines out of which units are made, whole and broken.
const LINES: &[&str] = &[
    "[Unit]",
    "[Service]",
    "[Socket]",
    "[Install]",
    "[X-A]",
    "Description=a %n",
    "ExecStart=/bin/a $B ; /bin/c",
    "ExecStart=-@:/bin/a x %i",
    "ExecStart=",
    "ExecStart=+/bin/a \"",
    "Environment=A=1 \"B=2 ${C}\" 3",
    "Environment=",
    "Type=forking",
    "Type=oneshot",
    "Type=nonsense",
    "KillMode=none",
    "Restart=always",
    "RestartSec=5s",
    "ListenStream=80",
    "ListenStream=[::]:80",
    "ListenStream=/run/x",
    "ListenDatagram=%t/y",
    "ListenStream=",
    "Accept=yes",
    "Backlog=007",
    "NoDelay=maybe",
    "SocketMode=0660",
    "StandardInput=socket",
    "StandardError=tty",
    "WantedBy=multi-user.target",
    "UMask=\\",
    "# comment",
    "stray",
    "User=%H",
    "Nice=-5",
    "LimitNOFILE=1:2",
    "RuntimeDirectory=a b/../c",
    "Symlinks=/a /b",
    "ExecReload=/bin/kill -HUP $MAINPID",
    "BogusKey=1",
];

const YAML: &[&str] = &[
    "service:",
    "  name: a",
    "  command: [\"a\", b]",
    "  command:",
    "    - x %",
    "  env:",
    "    - A=${B}",
    "    - C",
    "  listen: \":80\"",
    "listen: [80, unix:/x, udp://:53]",
    "command: a 'b c'",
    "orchestration:",
    "  strategy: \"nonsense\"",
    "  canary:",
    "    enabled: false",
    "    health_check: {http_get: \"http://h/x\"}",
    "  pre_flight:",
    "    - name: n",
    "      command: [c]",
    "      timeout: 5x",
    "  state_handoff: true",
    "  drain: 5",
    "observability: {metrics_port: \":9091\", log_level: INFO}",
    "\tx: 1",
    "- a",
    "&a",
    "env: {A: 1, 'b c': 2}",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn systemd_units_become_units(
        service in prop::collection::vec(prop::sample::select(LINES), 0..20),
        socket in prop::collection::vec(prop::sample::select(LINES), 0..12),
        name in prop::sample::select(vec!["a.service", "a@.service", "a@b-c.service"]),
    ) {
        let service = source(name, &format!("[Service]\n{}\nExecStart=/bin/true", service.join("\n")));
        check(std::slice::from_ref(&service));
        check(&[service, source("a.socket", &format!("[Socket]\n{}", socket.join("\n")))]);
    }

    #[test]
    fn manifests_become_units(lines in prop::collection::vec(prop::sample::select(YAML), 0..15)) {
        check(&[source("aeterna.yaml", &format!("command: [z]\n{}", lines.join("\n")))]);
        check(&[source("aeterna.yaml", &lines.join("\n"))]);
    }

    #[test]
    fn any_text_is_read(text in any::<String>()) {
        for name in ["a.service", "aeterna.yaml", "Procfile"] {
            check(&[source(name, &text)]);
        }
        check(&[source("a.service", &format!("[Service]\nExecStart={text}\nEnvironment={text}"))]);
        check(&[source("Procfile", &format!("web: {text}"))]);
        check(&[source("aeterna.yaml", &format!("name: {text}\ncommand: {text}\nenv: [{text}]"))]);
    }
}

#[test]
fn what_makes_no_unit_is_said() {
    for (sources, part) in [
        (vec![], "nothing to import"),
        (vec![source("a.timer", "")], "nothing that can be imported"),
        (vec![source("a.socket", "")], "has no service"),
        (vec![source("a.service", ""), source("b.service", "")], "second service"),
        (vec![source("a.service", "[Service]\n")], "no ExecStart"),
        (vec![source("x.yaml", "- a")], "no map"),
        (vec![source("x.yaml", "name: a")], "no command"),
        (vec![source("Procfile", "nothing")], "no process"),
        (vec![source("Procfile", "a: b"), source("Procfile", "")], "imported alone"),
    ] {
        let errors = import(&sources, None).unwrap_err();
        assert!(errors.iter().any(|error| error.message.contains(part)), "{part}: {errors:?}");
    }
}

fn imported(service: &str, socket: &str) -> Imported {
    let sources = [source("a.service", service), source("a.socket", socket)];
    let count = if socket.is_empty() { 1 } else { 2 };
    import(&sources[..count], None).unwrap()
}

#[test]
fn an_escape_that_is_none_stays_as_systemd_lets_it() {
    let unit = imported("[Service]\nExecStart=/bin/sed 's/\\./x/' \\$A\nEnvironment='B=\\d'\n", "");
    assert!(unit.text.contains(r#"ExecStart = ["/bin/sed", "s/\\./x/", "\\$A"]"#), "{}", unit.text);
    assert!(unit.text.contains(r#"B = "\\d""#), "{}", unit.text);
    assert_eq!(unit.warnings, []);
}

#[test]
fn a_socket_of_nothing_that_can_be_held_leaves_a_service_that_starts_by_itself() {
    let unit = imported("[Service]\nExecStart=/bin/a\n", "[Socket]\nListenSpecial=/dev/rfkill\n");
    assert!(!unit.text.contains("StartOn") && unit.text.contains("replace"), "{}", unit.text);
    let refused = imported("[Service]\nExecStart=/bin/a\n", "[Socket]\nListenStream=nowhere\n");
    assert!(!refused.text.contains("StartOn"), "{}", refused.text);
    assert!(refused.warnings[0].message.starts_with("not carried over: "), "{:?}", refused.warnings);
}

#[test]
fn no_line_goes_without_a_word() {
    let service = "[Unit]\nDescription=The one\n[Service]\nExecStart=/bin/a\nBusName=a.b\n[Install]\nWantedBy=multi-user.target\n\
                   [X-Other]\nKey=1\n";
    let socket = "[Unit]\nDescription=The door of %p\n[Socket]\nListenStream=80\n";
    let unit = imported(service, socket);
    for part in ["Description = \"The one\"", "# The door of a\n[[Socket]]", "StartOn = \"boot\""] {
        assert!(unit.text.contains(part), "{part}: {}", unit.text);
    }
    let lines: Vec<usize> = unit.warnings.iter().map(|warning| warning.line).collect();
    assert_eq!(lines, [5, 9]);
}
