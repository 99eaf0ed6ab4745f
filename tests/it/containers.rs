//! Containers as they are built, run and played: the last stage of the Dockerfile by buildah, and the Kubernetes file by
//! podman and runc. No registry is asked: images are made from scratch, of the programs of this build.

use crate::common;
use common::hammer::{HTTP, Hammer, To, ask};
use common::port::free_port;
use common::{AETERNACTL, AETERNAD, Env, Finished, example};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// podman and buildah with a store of their own; what runs there ends with the test.
struct Engine {
    env: Env,
}

impl Drop for Engine {
    fn drop(&mut self) {
        for what in [["pod", "rm"], ["container", "rm"]] {
            let mut command = self.command("podman", &what);
            let _ = command.args(["--all", "--force", "--time", "0"]).output();
        }
        // Layers may have files of other users' modes: the folder is emptied by who made it.
        let _ = fs::remove_dir_all(self.env.path("store"));
    }
}

impl Engine {
    /// `None` (with a printed reason) where containers cannot be run.
    fn new() -> Option<Engine> {
        if !nix::unistd::geteuid().is_root() {
            common::skip("only root runs containers here");
            return None;
        }
        for program in ["podman", "buildah", "runc", "catatonit"] {
            if Command::new(program).arg("--version").output().is_err() {
                common::skip(&format!("{program} is not installed"));
                return None;
            }
        }
        let env = Env::new();
        // A limit above ours is refused to who has no CAP_SYS_RESOURCE.
        env.file(
            "containers.conf",
            "[engine]\ncgroup_manager = \"cgroupfs\"\nruntime = \"runc\"\nevents_logger = \"file\"\n\
             [containers]\ndefault_ulimits = [\"nofile=4096:4096\", \"nproc=4096:4096\"]\n",
        );
        Some(Engine { env })
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.env.command(program);
        command.env("CONTAINERS_CONF", self.env.path("containers.conf")).env("BUILDAH_ISOLATION", "chroot");
        for (option, folder) in [("--root", "store"), ("--runroot", "runroot")] {
            command.arg(option).arg(self.env.path(folder));
        }
        if program == "podman" {
            command.arg("--tmpdir").arg(self.env.path("tmpdir"));
        }
        command.args(["--storage-driver", "vfs"]).args(arguments);
        command
    }

    fn ended(&self, program: &str, arguments: &[&str]) -> Finished {
        self.env.finish(self.command(program, arguments))
    }

    /// What must work.
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let done = self.ended(program, arguments);
        assert_eq!(done.code, 0, "{program} {arguments:?}: {done:?}");
        done.stdout
    }

    /// aeternactl in a container.
    fn ctl(&self, container: &str, arguments: &[&str]) -> Finished {
        let mut words = vec!["exec", container, "/bin/aeternactl"];
        words.extend(arguments);
        self.ended("podman", &words)
    }

    fn ctl_well(&self, container: &str, arguments: &[&str]) -> String {
        let done = self.ctl(container, arguments);
        assert_eq!(done.code, 0, "{arguments:?}: {done:?}\n{}", self.log(container));
        done.stdout
    }

    fn log(&self, container: &str) -> String {
        let done = self.ended("podman", &["logs", container]);
        done.stdout + &done.stderr
    }

    /// Waits until the history of `app` says that a reload of this generation was promoted.
    fn wait_promoted(&self, container: &str, generations: &str) {
        self.env.wait(&format!("{generations} promoted"), || {
            let history = self.ctl(container, &["history", "app"]).stdout;
            history.lines().any(|line| line.contains("promoted") && line.contains(generations)).then_some(())
        });
    }

    /// An image of these programs, each with the libraries that it loads.
    fn image(&self, name: &str, programs: &[(&str, &Path)]) {
        let folder = self.env.path(name);
        for (place, program) in programs {
            copy(program, &folder.join(place));
            libraries(program, &folder);
        }
        self.env.file(&format!("{name}/Dockerfile"), "FROM scratch\nCOPY . /\nENV PATH=/bin\n");
        let tag = format!("registry.example.invalid/{name}:1");
        self.run("buildah", &["bud", "-q", "-t", &tag, &folder.display().to_string()]);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap();
}

/// What a program loads, where it looks for it: an image from scratch has no libraries. Release builds are static.
fn libraries(program: &Path, root: &Path) {
    let listed = Command::new("ldd").arg(program).output().unwrap();
    for word in
        String::from_utf8_lossy(&listed.stdout).split_whitespace().filter(|word| word.starts_with("/lib"))
    {
        copy(Path::new(word), &root.join(word.trim_start_matches('/')));
    }
}

fn deploy(name: &str) -> String {
    fs::read_to_string(common::repository().join("units/deploy").join(name)).unwrap()
}

/// A release as a folder, and the link that says which one is meant.
fn release(folder: &Path, number: u32) {
    copy(&example("echo"), &folder.join(number.to_string()).join("app"));
    let next = folder.join("next");
    std::os::unix::fs::symlink(number.to_string(), &next).unwrap();
    fs::rename(next, folder.join("current")).unwrap();
}

/// The folder that the last stage of the shipped Dockerfile is built in, with what its earlier stages would have made.
fn context(env: &Env, ports: [u16; 2]) -> PathBuf {
    let folder = env.path("context");
    let text = deploy("Dockerfile");
    let (_, stage) = text.split_once("FROM scratch\n").unwrap();
    let stage = stage
        .replace(
            "--from=build /src/target/release/aeternad /src/target/release/aeternactl",
            "aeternad aeternactl",
        )
        .replace("--from=app /release", "release")
        .replace("units/deploy/app.toml", "app.toml")
        .replace("--from=build --chown=65532:65532 /var/empty", "--chown=65532:65532 empty");
    assert!(!stage.contains("--from"), "{stage}");
    env.file("context/Dockerfile", &format!("FROM scratch\nCOPY libraries /\n{stage}"));
    env.file("context/app.toml", &quick(&deploy("app.toml"), ports));
    for program in [AETERNAD, AETERNACTL] {
        let program = Path::new(program);
        copy(program, &folder.join(program.file_name().unwrap()));
        libraries(program, &folder.join("libraries"));
    }
    libraries(&example("echo"), &folder.join("libraries"));
    fs::create_dir(folder.join("empty")).unwrap();
    release(&folder.join("release"), 1);
    folder
}

/// A shipped file with ports of the test's own, and without its long waits.
fn quick(text: &str, [service, daemon]: [u16; 2]) -> String {
    for part in ["8080", "9091", "SoakTime = \"30s\"", "StopDelaySec = \"5s\""] {
        assert!(text.contains(part), "{part}");
    }
    text.replace("8080", &service.to_string())
        .replace("9091", &daemon.to_string())
        .replace("SoakTime = \"30s\"", "SoakTime = \"300ms\"")
        .replace("StopDelaySec = \"5s\"", "StopDelaySec = \"100ms\"")
}

#[test]
fn the_dockerfiles_image_runs_reloads_rolls_back_upgrades_and_stops() {
    let Some(engine) = Engine::new() else { return };
    let ports = [free_port(), free_port()];
    let folder = context(&engine.env, ports);
    let volume = engine.env.path("volume");
    release(&volume, 1);
    engine.run(
        "buildah",
        &["bud", "-q", "--format", "docker", "-t", "localhost/app:1", &folder.display().to_string()],
    );
    let mount = format!("{}:/release", volume.display());
    let words = [
        "run",
        "-d",
        "--name",
        "app",
        "--network",
        "host",
        "--stop-timeout",
        "30",
        "-v",
        &mount,
        "localhost/app:1",
    ];
    engine.run("podman", &words);
    engine.env.wait("the service", || (engine.ctl("app", &["is-ready"]).code == 0).then_some(()));
    engine.run("podman", &["healthcheck", "run", "app"]);
    let hammer = Hammer::start(&To::Port(ports[0]), HTTP);
    hammer.wait_answers(20);
    release(&volume, 2);
    engine.wait_promoted("app", "1→2");
    hammer.wait_answers(20);
    engine.ctl_well("app", &["rollback", "app"]);
    let releases = engine.ctl_well("app", &["releases", "app"]);
    assert!(
        releases.lines().any(|line| line.contains("serving") && line.contains("/release/1")),
        "{releases}"
    );
    engine.ctl_well("app", &["upgrade"]);
    hammer.wait_answers(20);
    let (answered, failed) = hammer.finish();
    assert!(failed.is_empty(), "{} of {answered}: {:?}\n{}", failed.len(), failed.first(), engine.log("app"));
    ask(&To::Port(ports[1]), HTTP).unwrap();
    engine.run("podman", &["stop", "app"]);
    assert_eq!(engine.run("podman", &["inspect", "-f", "{{.State.ExitCode}}", "app"]).trim(), "0");
    assert!(engine.log("app").contains("aeternad has stopped"), "{}", engine.log("app"));
}

/// The Kubernetes file with images of the test's own, in the network of the host, and with a volume that has its first
/// release: podman 4 waits 20 s for an init container's end, and then fails now and then.
fn manifest(ports: [u16; 2], volume: &Path) -> String {
    let names = "          ports:\n            - name: http\n              containerPort: 8080\n            - name: aeterna\n              containerPort: 9091\n";
    let text = deploy("kubernetes/deployment.yaml");
    let first = text.find("      # The release that is in the image").unwrap();
    let volumes = text.find("      volumes:\n").unwrap();
    let text = format!("{}{}", &text[..first], &text[volumes..]);
    let volume = format!("- name: release\n          hostPath:\n            path: {}\n", volume.display());
    let mut text = quick(&text, ports);
    for (part, here) in [
        (names.replace("8080", &ports[0].to_string()).replace("9091", &ports[1].to_string()).as_str(), ""),
        ("port: aeterna\n", &format!("port: {}\n", ports[1])),
        ("replicas: 2\n", "replicas: 1\n"),
        ("\n    spec:\n", "\n    spec:\n      hostNetwork: true\n"),
        ("image: busybox:1.36", "image: registry.example.invalid/busybox:1"),
        ("- name: release\n          emptyDir: {}\n", &volume),
    ] {
        assert!(text.contains(part), "{part}");
        text = text.replace(part, here);
    }
    text
}

#[test]
fn the_kubernetes_file_plays_and_a_release_comes_by_its_volume() {
    let Some(engine) = Engine::new() else { return };
    let ports = [free_port(), free_port()];
    engine.image("app", &[("bin/aeternad", Path::new(AETERNAD)), ("bin/aeternactl", Path::new(AETERNACTL))]);
    engine
        .env
        .file("app/Dockerfile", "FROM scratch\nCOPY . /\nENV PATH=/bin\nENTRYPOINT [\"/bin/aeternad\"]\n");
    let app = engine.env.path("app").display().to_string();
    engine.run("buildah", &["bud", "-q", "-t", "registry.example.invalid/app:1", &app]);
    let volume = engine.env.path("volume");
    release(&volume, 1);
    std::os::unix::fs::chown(&volume, Some(65532), Some(65532)).unwrap();
    let tools: Vec<(String, PathBuf)> =
        ["ln", "mv", "sh", "sleep"].map(|name| (format!("bin/{name}"), Path::new("/bin").join(name))).into();
    let tools: Vec<(&str, &Path)> =
        tools.iter().map(|(place, path)| (place.as_str(), path.as_path())).collect();
    engine.image("busybox", &tools);
    let file = engine.env.file("deployment.yaml", &manifest(ports, &volume));
    engine.run("podman", &["play", "kube", &file.display().to_string()]);
    engine.env.wait("the service", || (engine.ctl("app-pod-0-app", &["is-ready"]).code == 0).then_some(()));
    let hammer = Hammer::start(&To::Port(ports[0]), HTTP);
    hammer.wait_answers(20);
    // As the file's own comments say it.
    copy(&example("echo"), &engine.env.path("new/app"));
    let new = engine.env.path("new").display().to_string();
    engine.run("podman", &["cp", &new, "app-pod-0-release:/release/2"]);
    let link = "ln -s 2 /release/next && mv -T /release/next /release/current";
    assert!(deploy("kubernetes/deployment.yaml").contains(link));
    engine.run("podman", &["exec", "app-pod-0-release", "/bin/sh", "-c", link]);
    engine.wait_promoted("app-pod-0-app", "1→2");
    let releases = engine.ctl_well("app-pod-0-app", &["releases", "app"]);
    assert!(
        releases.lines().any(|line| line.contains("serving") && line.contains("/release/2")),
        "{releases}"
    );
    hammer.wait_answers(20);
    let (answered, failed) = hammer.finish();
    assert!(failed.is_empty(), "{} of {answered}: {:?}", failed.len(), failed.first());
    engine.run("podman", &["stop", "-t", "30", "app-pod-0-app"]);
    let log = engine.log("app-pod-0-app");
    assert!(log.contains("aeternad has stopped"), "{log}");
}
