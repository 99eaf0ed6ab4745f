//! `aeternactl import`, the real program: own fixtures with golden files beside them, and the units that Debian
//! ships where its packages are installed.
//!
//! `UPDATE_GOLDEN=1 cargo test --test it import` writes the golden files anew; look at the difference before it is
//! committed.

use crate::common;
use aeterna::unit::{Context, Unit, parse};
use common::skip;
use std::path::{Path, PathBuf};
use std::process::Command;

const UNITS: &str = "/lib/systemd/system";

/// What an import said: exit status, the unit, the warnings.
struct Said {
    code: i32,
    unit: String,
    warnings: String,
}

/// Runs `aeternactl import` in a folder.
fn import(folder: &Path, arguments: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_aeternactl"))
        .arg("import")
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    Said {
        code: output.status.code().unwrap(),
        unit: String::from_utf8(output.stdout).unwrap(),
        warnings: String::from_utf8(output.stderr).unwrap(),
    }
}

fn parsed(said: &Said, stem: &str) -> Unit {
    assert_eq!(said.code, 0, "{}", said.warnings);
    let context = Context { stem: stem.into(), file: stem.into(), runtime_dir: "/run".into(), pid1: false };
    parse(&said.unit, &context).unwrap_or_else(|errors| panic!("{errors:?}\n{}", said.unit)).unit
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import")
}

/// The import of a fixture's files is what its golden files say.
fn golden(fixture: &str, arguments: &[&str], golden: &str) -> Unit {
    let folder = fixtures().join(fixture);
    let said = import(&folder, arguments);
    for (suffix, text) in [("toml", &said.unit), ("warnings", &said.warnings)] {
        let path = folder.join(format!("{golden}.{suffix}"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, text).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(*text, expected, "{}", path.display());
    }
    parsed(&said, golden)
}

#[test]
fn a_pair_with_its_drop_ins() {
    let unit = golden("web", &["web.socket", "web.service"], "web");
    let addresses = unit.listens().count();
    assert_eq!((unit.name.as_str(), addresses, unit.sockets.len()), ("web", 4, 2));
}

#[test]
fn a_socket_alone_brings_its_service() {
    let folder = fixtures().join("web");
    assert_eq!(import(&folder, &["web.socket"]).unit, import(&folder, &["web.socket", "web.service"]).unit);
}

#[test]
fn an_instance_of_a_template() {
    let unit = golden("chat@eu", &["chat@eu.service"], "chat@eu");
    assert_eq!(unit.service.exec_start[0].argv[2], "eu");
}

#[test]
fn a_template_waits_for_its_file_name() {
    let said = import(&fixtures().join("chat@eu"), &["chat@.service"]);
    assert_eq!(
        parsed(&said, "chat@us").service.exec_start[0].argv,
        ["/usr/bin/chat", "--room", "us", "--dir", "/var/lib/chat/us"]
    );
}

#[test]
fn a_socket_that_accepts() {
    assert!(golden("ask", &["ask.socket", "ask@.service"], "ask").accepts());
}

#[test]
fn manifests_of_the_earlier_version() {
    assert_eq!(golden("agent", &["aeterna.yaml"], "assistant").reload.pre_flight.len(), 2);
    assert_eq!(golden("flat", &["service.yml"], "tiny").listens().count(), 2);
}

#[test]
fn processes_of_a_procfile() {
    assert_eq!(golden("procfile", &["Procfile"], "web").name, "web");
    assert_eq!(golden("procfile", &["Procfile", "--process", "worker"], "worker").name, "worker");
    let said = import(&fixtures().join("procfile"), &["Procfile", "--process", "clock"]);
    assert_eq!(said.code, 1);
    assert!(said.warnings.contains("there are: release, web, worker, api"), "{}", said.warnings);
}

#[test]
fn a_web_process_is_held_where_its_command_says_that_it_binds() {
    let unit = golden("local", &["Procfile"], "web");
    assert_eq!(
        unit.listens().map(|(_, listen)| listen.address.to_string()).collect::<Vec<_>>(),
        ["0.0.0.0:5000"]
    );
    golden("local", &["Procfile", "--process", "release"], "release");
    let unit = golden("procfile", &["Procfile", "--process", "api"], "api");
    assert!(unit.sockets.is_empty() && unit.service.environment.is_empty());
}

#[test]
fn a_service_behind_a_link_is_told_of_release() {
    let unit = golden("shop", &["shop.service"], "shop");
    assert_eq!(unit.service.release, None, "only the deployment knows");
    let folder = tempfile::tempdir().unwrap();
    let root = std::fs::canonicalize(folder.path()).unwrap();
    std::fs::create_dir_all(root.join("rels/1")).unwrap();
    std::fs::write(root.join("rels/1/app.js"), "").unwrap();
    std::os::unix::fs::symlink("rels/1", root.join("live")).unwrap();
    for (number, path, told) in [(1, "live", true), (2, "rels/1", false)] {
        let text = format!("[Service]\nExecStart=/usr/bin/node {}/{path}/app.js\n", root.display());
        std::fs::write(root.join(format!("a{number}.service")), text).unwrap();
        let said = import(&root, &[&format!("a{number}.service")]);
        parsed(&said, "a");
        let line = format!("# Release = \"{}/live\"\n", root.display());
        assert_eq!(said.unit.contains(&line), told, "{}", said.unit);
        // The line is right as it stands there.
        let taken = Said { unit: said.unit.replace("# Release", "Release"), ..said };
        assert_eq!(parsed(&taken, "a").service.release.is_some(), told);
    }
}

#[test]
fn a_template_keeps_its_instances_user() {
    let files = ["work@.service", "work@.socket"];
    let said = import(&fixtures().join("work"), &files);
    let unit = parsed(&said, "work@eve");
    assert_eq!(unit.service.user.as_deref(), Some("eve"));
    assert_eq!(unit.service.exec_start[0].argv[2], r"find /srv/eve -exec rm {} \;");
    assert_eq!(unit.sockets[0].name, "work@eve.socket");
    golden("work", &["work@eve.service", "work@eve.socket"], "work@eve");
}

/// A unit with fewer locks than its source is not made.
#[test]
fn a_lost_user_or_group_is_an_error() {
    for (name, text, part) in [
        ("a.service", "User=%H", "User=%H: %H is known only"),
        ("a@.service", "Group=%I", "more rights than it says"),
        ("a.service", "User=no such:user", "would run as root"),
        ("a.service", "DynamicUser=yes", "would run as root"),
        ("a.service", "UMask=9", "more rights than it says"),
        ("a.service", "NoNewPrivileges=perhaps", "more rights than it says"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(name);
        std::fs::write(&file, format!("[Service]\nExecStart=/bin/a\n{text}\n")).unwrap();
        let said = import(dir.path(), &[name]);
        assert_eq!((said.code, said.unit.as_str()), (1, ""), "{text}");
        assert!(
            said.warnings.contains(part) && said.warnings.contains(":3:1: "),
            "{text}: {}",
            said.warnings
        );
        // A later line may say what is meant.
        let key = text.split('=').next().unwrap().replace("Dynamic", "");
        let value = match key.as_str() {
            "UMask" => "077",
            "NoNewPrivileges" => "yes",
            _ => "app",
        };
        std::fs::create_dir(dir.path().join(format!("{name}.d"))).unwrap();
        std::fs::write(dir.path().join(format!("{name}.d/1.conf")), format!("[Service]\n{key}={value}\n"))
            .unwrap();
        parsed(&import(dir.path(), &[name]), "a@x");
    }
}

#[test]
fn what_cannot_be_imported_is_said() {
    let folder = fixtures().join("web");
    for (file, part) in [("web.timer", "cannot read web.timer"), ("web.toml", "nothing that can be imported")]
    {
        let said = import(&folder, &[file]);
        assert_eq!((said.code, said.unit.as_str()), (1, ""), "{file}");
        assert!(said.warnings.contains(part), "{}", said.warnings);
    }
}

/// Files of a package, and what must have come of them.
type Shipped = (&'static [&'static str], fn(&Unit));

/// The files of Debian's packages.
const DEBIAN: &[Shipped] = &[
    (&["nginx.service"], |unit| assert_eq!(unit.service.exec_start[0].argv[0], "/usr/sbin/nginx")),
    (&["redis-server.service"], |unit| assert_eq!(unit.service.user.as_deref(), Some("redis"))),
    (&["redis-server@cache.service"], |unit| assert_eq!(unit.name, "redis-server@cache")),
    (&["rsyslog.service", "syslog.socket"], |unit| assert_eq!(unit.listens().count(), 1)),
    (&["ssh.service"], |unit| assert_eq!(unit.service.exec_reload.len(), 2)),
    (&["ssh.service", "ssh.socket"], |unit| assert_eq!(unit.sockets[0].name, "ssh.socket")),
    (&["haproxy.service"], |unit| assert_eq!(unit.service.environment.len(), 3)),
    (&["php8.2-fpm.service"], |unit| assert!(!unit.service.exec_reload.is_empty())),
    (&["memcached.service"], |unit| assert!(unit.service.no_new_privileges)),
    (&["dbus.service", "dbus.socket"], |unit| assert_eq!(unit.listens().count(), 1)),
    (&["cups.service", "cups.socket"], |unit| assert_eq!(unit.listens().count(), 1)),
    (&["avahi-daemon.service", "avahi-daemon.socket"], |unit| assert_eq!(unit.listens().count(), 1)),
    (&["dovecot.service", "dovecot.socket"], |unit| assert!(unit.listens().count() > 1)),
    (&["uuidd.service", "uuidd.socket"], |unit| assert_eq!(unit.listens().count(), 1)),
    (&["unbound.service"], |unit| assert!(unit.sockets.is_empty())),
];

#[test]
fn what_debian_ships_becomes_units() {
    // Not installed by .ci/run: tried where they are.
    const MORE: [&str; 4] = ["avahi-daemon", "dovecot", "uuidd", "unbound"];
    let mut missing = Vec::new();
    for (files, check) in DEBIAN {
        let folder = Path::new(UNITS);
        let there = |file: &str| {
            let template = file.split_once('@').map(|(prefix, _)| format!("{prefix}@.service"));
            folder.join(template.as_deref().unwrap_or(file)).exists()
        };
        if !files.iter().all(|file| there(file)) {
            let more = MORE.iter().any(|name| files[0].starts_with(name));
            missing.extend((!more).then(|| files.join(" + ")));
            continue;
        }
        let said = import(folder, files);
        check(&parsed(&said, "unit"));
        every_line_is_accounted_for(folder, files, &said);
    }
    if !missing.is_empty() {
        skip(&format!("not installed: {}", missing.join(", ")));
    }
}

/// Each assignment's key is in the unit, or its line is named, or a later one replaces it.
fn every_line_is_accounted_for(folder: &Path, files: &[&str], said: &Said) {
    const ELSEWHERE: &[&str] = &["WantedBy", "Accept", "TimeoutSec", "BusName", "Service", "StandardError"];
    for file in files {
        let Ok(text) = std::fs::read_to_string(folder.join(file)) else { continue };
        for (index, line) in text.lines().enumerate() {
            let Some((key, value)) =
                line.split_once('=').filter(|(key, _)| key.bytes().all(|b| b.is_ascii_alphanumeric()))
            else {
                continue;
            };
            let named = said.warnings.contains(&format!("{file}:{}:", index + 1));
            let carried = said.unit.contains(key) || said.unit.contains("Documentation");
            assert!(
                named || carried || value.trim().is_empty() || ELSEWHERE.contains(&key),
                "{file}:{}: {line}\n{}\n{}",
                index + 1,
                said.warnings,
                said.unit
            );
        }
    }
}
