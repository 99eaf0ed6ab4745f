//! What is shipped beside the programs is complete and means what it says: the Debian package's files, completions,
//! and the deployment files in `units/deploy`.

use crate::common;
use aeterna::unit::{Context, Unit, parse};
use common::{AETERNACTL, AETERNAD, Env, repository, skip};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn deploy(name: &str) -> PathBuf {
    repository().join("units/deploy").join(name)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn parsed(text: &str) -> Unit {
    let context = Context { stem: "app".into(), file: "app".into(), runtime_dir: "/run".into(), pid1: true };
    let parsed = parse(text, &context).unwrap_or_else(|errors| panic!("{errors:?}"));
    assert_eq!(parsed.warnings, [], "even as PID 1");
    parsed.unit
}

#[test]
fn every_file_of_the_package_is_there_and_every_page_is_in_it() {
    let text = read(&repository().join("Cargo.toml"));
    let manifest = toml::de::DeTable::parse(&text).unwrap();
    let deb = ["metadata", "deb"]
        .iter()
        .fold(&manifest.get_ref()["package"], |table, name| &table.get_ref().as_table().unwrap()[*name]);
    let assets = deb.get_ref().as_table().unwrap()["assets"].get_ref().as_array().unwrap();
    let source = |asset: &toml::Spanned<toml::de::DeValue<'_>>| {
        asset.get_ref().as_array().unwrap()[0].get_ref().as_str().unwrap().to_string()
    };
    let sources: Vec<String> = assets.iter().map(source).collect();
    for source in sources.iter().filter(|source| !source.starts_with("target/release/")) {
        let path = repository().join(source.replace("*.toml", "echo.toml").replace("*.md", "README.md"));
        assert!(path.is_file(), "{source} is not there");
    }
    for bin in ["aeternad", "aeternactl"] {
        let name = format!("target/release/{bin}");
        assert!(sources.contains(&name), "{name} is not in the package");
    }
    for page in std::fs::read_dir(repository().join("man")).unwrap() {
        let name = page.unwrap().file_name().to_string_lossy().into_owned();
        let packed = sources.contains(&format!("man/{name}"));
        assert!(packed, "{name} is not in the package");
    }
}

#[test]
fn the_packed_completions_are_the_programs_own() {
    for (shell, file) in [("bash", "aeternactl.bash"), ("zsh", "_aeternactl"), ("fish", "aeternactl.fish")] {
        let path = repository().join("pkg/completions").join(file);
        let output = Command::new(AETERNACTL).args(["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &script).unwrap();
        }
        assert!(read(&path) == script, "{file}: make it anew with `aeternactl completions {shell}`");
    }
}

/// The value of a key of a systemd unit.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.split_once('=').filter(|(k, _)| *k == key).map(|(_, value)| value))
}

#[test]
fn the_systemd_service_is_sound() {
    let text = read(&deploy("aeternad.service"));
    // It would keep every valid unit down for an invalid one.
    assert!(!text.contains("--check") && !read(&deploy("aeternad.openrc")).contains("--check"), "{text}");
    for (key, expected) in [
        ("Type", "notify"),
        // Any other mode kills every service when aeternad dies.
        ("KillMode", "process"),
        ("OOMPolicy", "continue"),
        // Groups that can have limits are beside the one that aeternad is in.
        ("Delegate", "yes"),
        ("DelegateSubgroup", "supervisor"),
        ("Restart", "always"),
        ("StartLimitIntervalSec", "0"),
        // A signal has no exit status: whoever deploys would not hear that it failed.
        ("ExecReload", "/usr/bin/aeternactl reload --all"),
    ] {
        assert_eq!(value(&text, key), Some(expected), "{key}");
    }
    let env = Env::new();
    let unit = env.file(
        "aeternad.service",
        &text.replace("/usr/bin/aeternad", AETERNAD).replace("/usr/bin/aeternactl", AETERNACTL),
    );
    let Ok(verified) = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output()
    else {
        return skip("systemd-analyze is not installed");
    };
    let said = String::from_utf8_lossy(&verified.stderr);
    // systemd before 254 says that it ignores it.
    let known = |line: &&str| !line.contains("Unknown key 'DelegateSubgroup'");
    let about_us: Vec<&str> = said.lines().filter(|line| line.contains("aeternad")).filter(known).collect();
    assert!(about_us.is_empty(), "{}", about_us.join("\n"));
}

#[test]
fn the_openrc_script_is_a_shell_script_with_what_openrc_asks_for() {
    let path = deploy("aeternad.openrc");
    let checked = Command::new("sh").arg("-n").arg(&path).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let text = read(&path);
    assert!(text.starts_with("#!/sbin/openrc-run\n"));
    // The functions run, with OpenRC's own helpers played by the shell.
    let play = format!(
        "checkpath() {{ echo checkpath \"$@\"; }}; ebegin() {{ :; }}; eend() {{ return $1; }}\n\
         need() {{ :; }}; after() {{ :; }}; supervise-daemon() {{ echo supervise-daemon \"$@\"; }}\n\
         RC_SVCNAME=aeternad; . {}\ncommand=/bin/true; depend && start_pre && reload",
        path.display()
    );
    let played = Command::new("bash").args(["-euc", &play]).output().unwrap();
    let said = String::from_utf8_lossy(&played.stdout);
    assert!(played.status.success(), "{said}{}", String::from_utf8_lossy(&played.stderr));
    assert!(said.contains("supervise-daemon aeternad --signal HUP"), "{said}");
    match Command::new("shellcheck").args(["--shell=sh", "--exclude=SC2034"]).arg(&path).output() {
        Ok(found) => assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stdout)),
        Err(_) => skip("shellcheck is not installed"),
    }
}

#[test]
fn the_dockerfile_copies_what_there_is_and_ends_in_nothing_but_two_programs() {
    let text = read(&deploy("Dockerfile"));
    let known = [
        "FROM",
        "RUN",
        "WORKDIR",
        "COPY",
        "ENV",
        "USER",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    ];
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let mut stages = vec!["scratch", "rust:1-alpine"];
    for line in &lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert!(known.contains(&words[0]), "{line}");
        if words[0] == "FROM" {
            assert!(stages.contains(&words[1]), "{line}");
            stages.extend(words.get(3));
        }
        if words[0] == "COPY" {
            let paths: Vec<&&str> = words[1..].iter().filter(|word| !word.starts_with("--")).collect();
            let from = words.iter().find_map(|word| word.strip_prefix("--from="));
            assert!(from.is_none_or(|stage| stages.contains(&stage)), "{line}");
            let own = &paths[..paths.len() - 1];
            assert!(from.is_some() || own.iter().all(|path| repository().join(path).exists()), "{line}");
        }
        if ["ENTRYPOINT", "CMD"].contains(&words[0]) {
            let form: Vec<String> = serde_json::from_str(line[words[0].len()..].trim()).unwrap();
            assert!(form[0].starts_with('/') || words[0] == "CMD", "{line}");
        }
    }
    let last = lines.iter().rposition(|line| line.starts_with("FROM")).unwrap();
    assert_eq!(lines[last], "FROM scratch");
    assert!(!lines[last..].iter().any(|line| line.starts_with("RUN")), "there is no shell in it");
    assert!(lines.iter().any(|line| line.starts_with("STOPSIGNAL SIGTERM")));
    // `status` alone is content with a unit that has failed.
    assert!(lines.iter().any(|line| line.starts_with("HEALTHCHECK") && line.contains("\"is-ready\"")));
    parsed(&read(&deploy("app.toml")));
}

/// The documents of a YAML file, or `None` if nothing here can read YAML.
fn yaml(path: &Path) -> Option<Vec<Value>> {
    let program = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    for python in ["python3", "/usr/bin/python3"] {
        let Ok(output) = Command::new(python).args(["-c", program]).arg(path).output() else { continue };
        if output.status.success() {
            return Some(serde_json::from_slice(&output.stdout).unwrap());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("No module named"), "{said}");
    }
    skip("PyYAML (python3-yaml) is not installed");
    None
}

#[test]
fn the_kubernetes_files_fit_together() {
    let Some(documents) = yaml(&deploy("kubernetes/deployment.yaml")) else { return };
    let kind = |kind: &str| documents.iter().find(|document| document["kind"] == kind).unwrap();
    for (name, version) in [("ConfigMap", "v1"), ("Deployment", "apps/v1"), ("Service", "v1")] {
        assert_eq!(kind(name)["apiVersion"], version);
    }
    // The unit of the ConfigMap is the one of the image.
    let mut unit = parsed(kind("ConfigMap")["data"]["app.toml"].as_str().unwrap());
    let shipped = parsed(&read(&deploy("app.toml")));
    unit.description.clone_from(&shipped.description);
    assert_eq!(unit, shipped);

    let spec = &kind("Deployment")["spec"];
    let (pod, labels) = (&spec["template"]["spec"], &spec["template"]["metadata"]["labels"]);
    assert_eq!(&spec["selector"]["matchLabels"], labels);
    assert_eq!(&kind("Service")["spec"]["selector"], labels);
    let app = &pod["containers"][0];
    let ports = names(&app["ports"]);
    for (probe, path) in
        [("startupProbe", "/ready"), ("readinessProbe", "/ready"), ("livenessProbe", "/health")]
    {
        let get = &app[probe]["httpGet"];
        assert_eq!(get["path"], path, "{probe}");
        assert!(ports.contains(&get["port"].as_str().unwrap().to_string()), "{probe}");
    }
    let target = kind("Service")["spec"]["ports"][0]["targetPort"].as_str().unwrap().to_string();
    assert!(ports.contains(&target));
    let volumes = names(&pod["volumes"]);
    let containers =
        pod["containers"].as_array().unwrap().iter().chain(pod["initContainers"].as_array().unwrap());
    for container in containers {
        for mount in names(&container["volumeMounts"]) {
            assert!(volumes.contains(&mount), "{mount}");
        }
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
    }
    // A stop has the time that the unit asks for.
    let stop = shipped.service.timeout_stop + shipped.daemon.stop_delay.unwrap();
    let grace = pod["terminationGracePeriodSeconds"].as_f64().unwrap();
    assert!(stop.as_secs_f64() < grace, "{stop} of {grace}s");
}

fn names(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_string()).collect()
}

#[test]
fn the_long_form_names_what_there_is() {
    let text = read(&repository().join(".ci/long"));
    let sources = |file: &str| read(&repository().join("tests").join(file));
    let mut named = 0;
    for word in text.split_whitespace() {
        if let Some((module, test)) = word.split_once("::") {
            assert!(sources(&format!("it/{module}.rs")).contains(&format!("fn {test}")), "{word}");
            named += 1;
        } else if let Some((variable, _)) = word.split_once("=$") {
            let files = ["it/doors.rs", "it/neighbours.rs", "simulation/main.rs"].map(sources).concat();
            assert!(variable.chars().any(char::is_lowercase) || files.contains(variable), "{variable}");
            named += 1;
        }
    }
    assert!(named >= 6 && sources("simulation/main.rs").contains("fn a_million_schedules()"), "{named}");
    match Command::new("shellcheck").args(["--severity=warning"]).arg(repository().join(".ci/long")).output()
    {
        Ok(found) => assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stdout)),
        Err(_) => skip("shellcheck is not installed"),
    }
}
