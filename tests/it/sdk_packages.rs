//! Every SDK as its users get it: the package is built and installed in a folder outside of the repository, and the
//! program of its README runs there, under load, through reloads: no request fails and no update is lost.

use crate::common;
use aeterna::proto::status::{Outcome, UnitState};
use common::{AETERNACTL, Env, WAIT, repository, skip};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

const CLIENTS: usize = 4;

/// Clients that make a service count, and what they were told.
struct Counting {
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<Vec<u64>>>,
    answers: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
    clients: Vec<std::thread::JoinHandle<()>>,
}

/// How the clients connect.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Fresh,
    KeepAlive,
}

/// One POST over `stream`: the number in the answer.
fn count(stream: &mut TcpStream, manner: Manner) -> Result<u64, String> {
    let connection = if manner == Manner::Fresh { "close" } else { "keep-alive" };
    let text = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: {connection}\r\n\r\n");
    stream.write_all(text.as_bytes()).map_err(|error| format!("write: {error}"))?;
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&got);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            if !head.split_once("\r\n").is_some_and(|(status, _)| status.contains(" 200")) {
                return Err(text.into_owned());
            }
            if let Some(number) = body.strip_suffix('\n') {
                return number.parse().map_err(|_| text.into_owned());
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Err(format!("ended after {:?}", String::from_utf8_lossy(&got))),
            Ok(count) => got.extend(&buffer[..count]),
            Err(error) => return Err(format!("read: {error}")),
        }
    }
}

fn dial(address: &str) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(address).map_err(|error| format!("connect: {error}"))?;
    stream.set_read_timeout(Some(WAIT)).map_err(|error| error.to_string())?;
    Ok(stream)
}

impl Counting {
    fn start(address: &str, manner: Manner) -> Counting {
        let mut counting = Counting {
            stop: Arc::default(),
            told: Arc::default(),
            answers: Arc::default(),
            failed: Arc::default(),
            clients: Vec::new(),
        };
        for _ in 0..CLIENTS {
            let (stop, told, answers, failed, address) = (
                Arc::clone(&counting.stop),
                Arc::clone(&counting.told),
                Arc::clone(&counting.answers),
                Arc::clone(&counting.failed),
                address.to_string(),
            );
            counting.clients.push(std::thread::spawn(move || {
                let mut connection: Option<TcpStream> = None;
                while !stop.load(Ordering::Relaxed) && failed.lock().unwrap().len() < 100 {
                    let stream = connection.take().map_or_else(|| dial(&address), Ok);
                    let counted = stream.and_then(|mut stream| Ok((count(&mut stream, manner)?, stream)));
                    match counted {
                        Ok((number, stream)) => {
                            told.lock().unwrap().push(number);
                            answers.fetch_add(1, Ordering::Relaxed);
                            connection = (manner == Manner::KeepAlive).then_some(stream);
                        }
                        Err(why) => failed.lock().unwrap().push(why),
                    }
                }
            }));
        }
        counting
    }

    /// Waits until `more` further requests have been answered.
    fn wait(&self, env: &Env, more: u64) {
        let target = self.answers.load(Ordering::Relaxed) + more;
        let until = Instant::now() + WAIT;
        while self.answers.load(Ordering::Relaxed) < target {
            if Instant::now() > until || self.clients.iter().all(|client| client.is_finished()) {
                env.fail(&format!("nobody is answered any more; failed: {:?}", self.failed.lock().unwrap()));
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Ends the clients: what they were told, and what failed.
    fn finish(mut self) -> (Vec<u64>, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().unwrap();
        }
        (std::mem::take(&mut self.told.lock().unwrap()), std::mem::take(&mut self.failed.lock().unwrap()))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A service that counts, as a unit: how it is run.
struct Service {
    env: Env,
    command: Vec<String>,
    /// More lines of `[Service]`.
    lines: &'static str,
    variables: Vec<String>,
    /// Where it listens without aeternad.
    port: u16,
}

impl Service {
    fn new(command: &[&str]) -> Service {
        let command = command.iter().map(|word| (*word).to_string()).collect();
        let port = common::port::free_port();
        Service { env: Env::new(), command, lines: "", variables: Vec::new(), port }
    }

    /// The first fenced block of a language in an SDK's README, as a file.
    fn program(&self, folder: &str, language: &str, file: &str) -> String {
        let readme = repository().join("sdk").join(folder).join("README.md");
        let readme = std::fs::read_to_string(readme).unwrap();
        let (_, rest) = readme.split_once(&format!("\n```{language}\n")).expect("the README has a program");
        let (program, _) = rest.split_once("\n```\n").expect("the block ends");
        assert!(program.contains("8080"), "where it listens alone");
        let program = program.replace("8080", &self.port.to_string()) + "\n";
        self.env.file(file, &program).display().to_string()
    }

    /// Everything works without aeternad too.
    fn serves_alone(&self) {
        let mut process = self.env.command(&self.command[0]);
        process.args(&self.command[1..]).current_dir(self.env.dir());
        for name in ["AETERNA_STATE_SOCK", "AETERNA_MANAGED", "AETERNA_GENERATION"] {
            process.env_remove(name);
        }
        process.envs(self.variables.iter().map(|variable| variable.split_once('=').unwrap()));
        process.stderr(Stdio::piped());
        let mut child = process.spawn().unwrap();
        let address = format!("127.0.0.1:{}", self.port);
        let mut stream = self.env.wait("the service that runs alone", || dial(&address).ok());
        for number in 1..4 {
            assert_eq!(count(&mut stream, Manner::KeepAlive), Ok(number));
        }
        drop(stream);
        child.kill().unwrap();
        let mut complaints = String::new();
        child.stderr.take().unwrap().read_to_string(&mut complaints).unwrap();
        child.wait().unwrap();
        assert_eq!(complaints, "", "nothing is wrong with that");
    }

    fn unit(&self, soak: &str) {
        let command = serde_json::to_string(&self.command).unwrap();
        let variables = serde_json::to_string(&self.variables).unwrap();
        let text = format!(
            "[Socket]\nListenStream = \"127.0.0.1:0\"\nFileDescriptorName = \"http\"\n[Service]\nExecStart = {command}\n\
             WorkingDirectory = \"{{dir}}\"\nType = \"notify\"\nTimeoutStartSec = \"1min\"\n\
             Environment = {variables}\n{}\n\
             [Reload]\nSoakTime = \"{soak}\"\nDrainTimeout = \"10s\"\n[State]\nEnabled = true\nTimeout = \"1min\"\n",
            self.lines
        );
        self.env.unit("app", &text);
    }

    fn start(&mut self) -> String {
        self.unit("200ms");
        self.env.start();
        self.env.wait_state("app", UnitState::Running);
        self.env.address("app", 0)
    }

    fn reload(&self) {
        let mark = self.env.mark();
        let mut ctl = self.env.ctl_start(&["reload", "app"]);
        let end = self.env.wait_reloaded("app", mark);
        ctl.wait().unwrap();
        if end.outcome != Some(Outcome::Promoted) {
            self.env.fail(&end.text);
        }
    }

    /// A reload that is rolled back while the new one serves, with what it has counted.
    fn roll_back(&self, counting: &Counting) {
        self.unit("1min");
        let mark = self.env.mark();
        let mut ctl = self.env.ctl_start(&["reload", "app"]);
        self.env.wait_event(mark, "the soak", |event| event.state == Some(UnitState::Soaking));
        counting.wait(&self.env, 30);
        self.env.ctl(&["rollback", "app"]);
        let end = self.env.wait_reloaded("app", mark);
        ctl.wait().unwrap();
        if end.outcome != Some(Outcome::RolledBack) {
            self.env.fail(&end.text);
        }
        self.unit("200ms");
    }

    /// What every SDK promises: reloads under load, one of them rolled back.
    fn loses_nothing(&mut self) {
        self.serves_alone();
        let address = self.start();
        for manner in [Manner::Fresh, Manner::KeepAlive] {
            // A client that has begun to ask, and is in no hurry. The old generation has accepted it: it answers whoever
            // comes after it.
            let mut slow = dial(&address).unwrap();
            slow.write_all(b"POST / HTTP/1.1\r\nX-Slow: ").unwrap();
            let before = count(&mut dial(&address).unwrap(), Manner::Fresh).unwrap();
            let counting = Counting::start(&address, manner);
            counting.wait(&self.env, 50);
            self.reload();
            let handed = self.env.unit_status("app").last_handover.map(|handover| handover.status);
            assert_eq!(handed.as_deref(), Some("success"));
            if let Ok(number) = count(&mut slow, manner) {
                self.env.fail(&format!("a request that was too slow is told {number}"));
            }
            counting.wait(&self.env, 50);
            self.roll_back(&counting);
            counting.wait(&self.env, 50);
            self.reload();
            self.reload();
            counting.wait(&self.env, 50);
            let (told, failed) = counting.finish();
            let after = count(&mut dial(&address).unwrap(), Manner::Fresh).unwrap();
            self.judge(manner, before, &told, &failed, after);
        }
    }

    fn judge(&self, manner: Manner, before: u64, told: &[u64], failed: &[String], after: u64) {
        let distinct: BTreeSet<u64> = told.iter().copied().collect();
        let (asked, range) = (told.len() as u64, before + 1..after);
        let problem = if distinct.len() < told.len() {
            Some("a number was told twice: an update is lost")
        } else if !distinct.iter().all(|number| range.contains(number)) {
            Some("a number was told that is not counted any more: an update is lost")
        } else if manner == Manner::Fresh && !failed.is_empty() {
            Some("a request failed")
        } else if (asked..=asked + failed.len() as u64).contains(&(after - before - 1)) {
            None
        } else {
            Some("the count is not that of the answers")
        };
        if let Some(problem) = problem {
            let text = format!("{problem}: {asked} answers, {before} to {after}; failed: {failed:?}");
            self.env.fail(&text);
        }
        eprintln!("{asked} answers, {} connections ended, none lost", failed.len());
    }
}

/// Whether these programs are there; says so if one is not.
fn have(programs: &[&str]) -> bool {
    let is_there = |program: &&str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    };
    let missing: Vec<&&str> = programs.iter().filter(|program| !is_there(program)).collect();
    if !missing.is_empty() {
        skip(&format!("{missing:?} not installed"));
    }
    missing.is_empty()
}

/// Runs a command in a folder to its end; what it wrote to standard output.
fn run(env: &Env, folder: &Path, command: &[&str]) -> String {
    let mut process = env.command(command[0]);
    process.args(&command[1..]).current_dir(folder).env("GOPROXY", "off").env("GOFLAGS", "-mod=mod");
    let finished = env.finish(process);
    assert_eq!(finished.code, 0, "{command:?}: {}{}", finished.stdout, finished.stderr);
    finished.stdout
}

/// A copy of an SDK's folder, so that nothing is built in the repository.
fn copied(env: &Env, folder: &str) -> PathBuf {
    let to = env.path(&format!("source-{folder}"));
    let status =
        Command::new("cp").arg("-r").arg(repository().join("sdk").join(folder)).arg(&to).status().unwrap();
    assert!(status.success());
    to
}

/// The one file in a folder with this ending.
fn only(folder: &Path, ending: &str) -> PathBuf {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> =
        entries.filter(|path| path.display().to_string().ends_with(ending)).collect();
    assert_eq!(found.len(), 1, "{ending} in {}: {found:?}", folder.display());
    found.remove(0)
}

#[test]
fn python() {
    if !have(&["python3"]) {
        return;
    }
    let mut service = Service::new(&["python3", "-B", "counter.py"]);
    let (env, source) = (&service.env, copied(&service.env, "python"));
    let has_pip = Command::new("python3").args(["-c", "import setuptools, wheel, pip"]).output().unwrap();
    if has_pip.status.success() {
        let build = "import setuptools.build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')";
        run(env, &source, &["python3", "-c", build]);
        let (dist, site) = (source.join("dist"), env.path("site").display().to_string());
        // From the archive of the sources too, as whoever has no wheel would.
        for (package, target) in
            [(only(&dist, ".whl"), &site), (only(&dist, ".tar.gz"), &format!("{site}-source"))]
        {
            let package = package.display().to_string();
            let options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", target];
            let command = [&["python3", "-m", "pip", "install"][..], &options, &[&package]].concat();
            run(env, env.dir(), &command);
            assert!(Path::new(target).join("aeterna.py").is_file());
        }
        let version = "import importlib.metadata as m; print(m.version('aeterna-sdk'), end='')";
        let mut process = env.command("python3");
        process.args(["-c", version]).env("PYTHONPATH", &site);
        assert_eq!(env.finish(process).stdout, env!("CARGO_PKG_VERSION"));
        service.variables.push(format!("PYTHONPATH={site}"));
    } else {
        skip("pip, setuptools or wheel is not installed");
        service.variables.push(format!("PYTHONPATH={}", source.display()));
    }
    service.program("python", "python", "counter.py");
    service.loses_nothing();
}

/// Installs the headers in a folder, and compiles a README's program by what pkg-config says.
fn compiled(compiler: &str, language: &str, standard: &str) {
    if !have(&[compiler, "make", "pkg-config"]) {
        return;
    }
    let mut service = Service::new(&["./counter"]);
    let (env, source) = (&service.env, copied(&service.env, "c"));
    let prefix = format!("PREFIX={}", env.path("usr").display());
    run(env, &source, &["make", "install", &prefix]);
    let pkg_config = |what: &str| {
        let mut process = env.command("pkg-config");
        process.args([what, "aeterna-sdk"]).env("PKG_CONFIG_PATH", env.path("usr/share/pkgconfig"));
        env.finish(process).stdout.trim().to_string()
    };
    assert_eq!(pkg_config("--modversion"), env!("CARGO_PKG_VERSION"));
    let program = service.program("c", language, &format!("counter.{language}"));
    let flags = [pkg_config("--cflags"), pkg_config("--libs")].join(" ");
    let mut command =
        vec![compiler, standard, "-Wall", "-Wextra", "-Werror", "-pedantic", &program, "-o", "counter"];
    command.extend(flags.split_whitespace());
    run(env, env.dir(), &command);
    service.loses_nothing();
}

#[test]
fn c() {
    compiled("gcc", "c", "-std=c99");
}

#[test]
fn cpp() {
    compiled("g++", "cpp", "-std=c++17");
}

#[test]
fn go() {
    if !have(&["go"]) {
        return;
    }
    let mut service = Service::new(&["./counter"]);
    let (env, source) = (&service.env, copied(&service.env, "go"));
    service.program("go", "go", "main.go");
    let (module, version) = ("example.invalid/aeterna/sdk/go", env!("CARGO_PKG_VERSION"));
    run(env, env.dir(), &["go", "mod", "init", "counter"]);
    let (require, replace) = (format!("{module}@v{version}"), format!("{module}={}", source.display()));
    run(env, env.dir(), &["go", "mod", "edit", "-require", &require, "-replace", &replace]);
    run(env, env.dir(), &["go", "build", "-o", "counter", "."]);
    run(env, &source, &["go", "vet", "."]);
    service.loses_nothing();
}

#[test]
fn node() {
    if !have(&["node"]) {
        return;
    }
    let mut service = Service::new(&["node", "counter.js"]);
    // Notices come from a helper, and the one that is tried first is ours.
    service.lines = "NotifyAccess = \"all\"";
    service.variables.push(with_aeternactl());
    let (env, source) = (&service.env, copied(&service.env, "node"));
    let is_there = |folder: PathBuf| folder.join("npm").is_file();
    if std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(is_there) {
        let cache = env.path("npm-cache").display().to_string();
        let npm = ["npm", "--offline", "--cache", &cache, "--no-audit", "--no-fund"];
        run(env, env.dir(), &[&npm[..], &["pack", &source.display().to_string()]].concat());
        let package = only(env.dir(), ".tgz").display().to_string();
        run(env, env.dir(), &[&npm[..], &["install", &package]].concat());
    } else {
        // Debian's npm brings hundreds of packages along: what it would do.
        std::fs::create_dir(env.path("node_modules")).unwrap();
        std::fs::rename(&source, env.path("node_modules/aeterna-sdk")).unwrap();
    }
    let installed = env.path("node_modules/aeterna-sdk");
    for file in ["package.json", "aeterna.js", "aeterna.d.ts", "README.md"] {
        assert!(installed.join(file).is_file(), "{file} is not in the package");
    }
    let version = ["node", "-p", "require('aeterna-sdk/package.json').version"];
    assert_eq!(run(env, env.dir(), &version).trim(), env!("CARGO_PKG_VERSION"));
    service.program("node", "js", "counter.js");
    service.loses_nothing();
}

/// `PATH` with the folder of aeternactl in front.
fn with_aeternactl() -> String {
    let folder = Path::new(AETERNACTL).parent().unwrap().display().to_string();
    format!("PATH={folder}:{}", std::env::var("PATH").unwrap_or_default())
}

#[test]
fn java() {
    if !have(&["java", "javac", "jar"]) {
        return;
    }
    let mut service = Service::new(&[
        "java",
        "-Xshare:auto",
        "-XX:TieredStopAtLevel=1",
        "-cp",
        "lib.jar:classes",
        "Counter",
    ]);
    service.lines = "NotifyAccess = \"all\"\nStandardInput = \"socket\"\nSuccessExitStatus = [143]";
    service.variables.push(with_aeternactl());
    let (env, source) = (&service.env, copied(&service.env, "java"));
    // What `mvn package` does, which needs its plugins from the network.
    let library = source.join("src/main/java/invalid/example/aeterna/Aeterna.java").display().to_string();
    run(env, env.dir(), &["javac", "-Xlint:all", "-Werror", "--release", "16", "-d", "lib", &library]);
    run(env, env.dir(), &["jar", "--create", "--file", "lib.jar", "-C", "lib", "."]);
    let program = service.program("java", "java", "Counter.java");
    run(env, env.dir(), &["javac", "-Xlint:all", "-Werror", "-cp", "lib.jar", "-d", "classes", &program]);
    service.loses_nothing();
}

/// The value of an element right below the root, in a document whose elements are one a line.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(&format!("  <{name}>")))?;
    line.trim().strip_prefix(&format!("<{name}>"))?.strip_suffix(&format!("</{name}>"))
}

#[test]
fn every_package_has_the_name_and_the_version_of_aeterna() {
    let read = |path: &str| std::fs::read_to_string(repository().join("sdk").join(path)).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let says = |path: &str, line: &str| {
        assert!(read(path).lines().any(|other| other.trim() == line), "sdk/{path}: {line}");
    };
    says("python/pyproject.toml", "name = \"aeterna-sdk\"");
    says("python/pyproject.toml", &format!("version = \"{version}\""));
    says("python/aeterna.py", &format!("__version__ = \"{version}\""));
    let package: serde_json::Value = serde_json::from_str(&read("node/package.json")).unwrap();
    assert_eq!((&package["name"], &package["version"]), (&"aeterna-sdk".into(), &version.into()));
    says("go/aeterna.go", &format!("const Version = \"{version}\""));
    says("go/go.mod", "module example.invalid/aeterna/sdk/go");
    says("c/aeterna.h", &format!("#define AETERNA_VERSION \"{version}\""));
    says("c/Makefile", &format!("VERSION = {version}"));
    says("c/aeterna-sdk.pc.in", "Name: aeterna-sdk");
    says("java/src/main/java/invalid/example/aeterna/Aeterna.java", "package invalid.example.aeterna;");
    let version_of_java = format!("public static final String VERSION = \"{version}\";");
    says("java/src/main/java/invalid/example/aeterna/Aeterna.java", &version_of_java);
    let pom = read("java/pom.xml");
    let coordinates =
        ["groupId", "artifactId", "version"].map(|name| element(&pom, name).unwrap_or_default());
    assert_eq!(coordinates, ["invalid.example.aeterna", "aeterna-sdk", version]);
    if have(&["python3"]) {
        let parse = "import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])";
        let pom = repository().join("sdk/java/pom.xml");
        assert!(Command::new("python3").args(["-c", parse]).arg(pom).status().unwrap().success());
    }
}

/// What the gate does when things go wrong: tests/sdk/gate.py plays aeternad's part.
#[test]
fn the_gate_of_python_holds() {
    if have(&["python3"]) {
        let env = Env::new();
        let mut process = env.command("python3");
        process.arg("-B").arg(repository().join("tests/sdk/gate.py"));
        process.env("PYTHONPATH", repository().join("sdk/python")).env_remove("AETERNA_STATE_SOCK");
        let finished = env.finish(process);
        assert_eq!(finished.code, 0, "{}{}", finished.stdout, finished.stderr);
    }
}
