//! `aeternactl doctor`: what this machine or container allows, what each missing thing costs, and how to get it.
//! Needs no daemon: everything is tried here, with the rights of whoever asks.

use super::client::{Target, lives_in};
use super::output::Output;
use super::render;
use crate::error::exit;
use crate::proto::amount::Bytes;
use crate::proto::paths::control_path;
use crate::sys::cgroup::CgroupRoot;
use crate::sys::groups::Outlook;
use crate::sys::inotify::Watcher;
use crate::sys::memory::Limits;
use crate::sys::{ability, dir, limits, oom_score, socket};
use serde::Serialize;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// How good something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    Limited,
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) name: &'static str,
    pub(super) verdict: Verdict,
    pub(super) found: String,
    /// What is lost without it; empty if nothing is.
    pub(super) cost: &'static str,
    /// How to get it; empty if there is nothing to do.
    pub(super) cure: &'static str,
}

fn good(name: &'static str, found: impl Into<String>) -> Finding {
    Finding { name, verdict: Verdict::Ok, found: found.into(), cost: "", cure: "" }
}

impl Finding {
    /// The same, but not good enough.
    fn but(self, verdict: Verdict, cost: &'static str, cure: &'static str) -> Finding {
        Finding { verdict, cost, cure, ..self }
    }
}

/// A thing that works, which `means` something, or does not.
fn tried(
    name: &'static str,
    result: io::Result<()>,
    means: &'static str,
    cost: &'static str,
    cure: &'static str,
) -> Finding {
    match result {
        Ok(()) => good(name, means),
        Err(error) => good(name, socket::errno_text(&error)).but(Verdict::Missing, cost, cure),
    }
}

/// Looks at everything. The exit status is 0: a machine that allows less is no failure.
pub(super) fn doctor(target: &Target, json: bool, output: &mut Output) -> u8 {
    let mut findings = kernel();
    let folder = target.path.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    findings.extend(surroundings(&folder));
    if json {
        let ok = findings.iter().all(|finding| finding.verdict == Verdict::Ok);
        output.json(&serde_json::json!({ "ok": ok, "checks": findings }));
        return exit::OK;
    }
    let text = render::doctor(&findings, output.look());
    output.text(&text);
    exit::OK
}

fn kernel() -> Vec<Finding> {
    let steering = ability::steering();
    let programs = steering.is_ok().then(programs);
    let mut findings = vec![
        interception(),
        tried(
            "pidfd_getfd",
            ability::descriptor_copies(),
            "programs under InterceptBind keep the options of their own sockets",
            "InterceptBind binds new addresses with default options",
            "Linux 5.6; in a container --cap-add SYS_PTRACE; with Yama, sysctl -w kernel.yama.ptrace_scope=1",
        ),
        tried(
            "clone3",
            ability::clone3(),
            "processes are started in their control group, fast",
            "nothing but speed: processes are started by clone, and join their control group by themselves",
            "Linux 5.3; in Docker --security-opt seccomp=unconfined, or a profile that allows clone3",
        ),
        tried(
            "BPF steering",
            steering,
            "a canary gets its exact percentage of new TCP connections",
            "TCP sockets are shared: no exact percentage for a canary, and what a program has not answered at its \
             stop signal is lost",
            "Linux 4.6; a sandbox such as gVisor has to be left",
        ),
        tried(
            "sock_diag",
            ability::connection_lists(),
            "drains see which connections are still to come; queues are in status",
            "drains wait a fixed second instead of watching half-open connections; status shows no queues",
            "the kernel modules inet_diag, tcp_diag and unix_diag",
        ),
        migration(),
    ];
    findings.extend(programs);
    findings
}

fn programs() -> Finding {
    const NAME: &str = "eBPF steering";
    match ability::programs() {
        Ok(()) => good(NAME, "UDP flows stay with their generation where they are to be steered; shares are counted"),
        Err(error) => good(NAME, socket::errno_text(&error)).but(
            Verdict::Limited,
            "UDP addresses are shared by both generations during a reload, whatever Sharing says; a canary on TCP gets its \
             exact share all the same, but nobody can show what was measured",
            "Linux 5.6 and CAP_BPF for aeternad: root outside containers; AmbientCapabilities=CAP_BPF in systemd; in Docker \
             --cap-add BPF and a seccomp profile that allows bpf",
        ),
    }
}

fn migration() -> Finding {
    const NAME: &str = "tcp_migrate_req";
    if ability::migration() {
        return good(NAME, "1: what waits for a generation that has crashed moves to the other one");
    }
    good(NAME, "0: what waits for a generation that has crashed stays on its socket").but(
        Verdict::Limited,
        "a process of the old release is started for a moment to answer it; nothing is lost unless that fails",
        "Linux 5.14: sysctl -w net.ipv4.tcp_migrate_req=1 (concerns every listener of this network namespace)",
    )
}

fn interception() -> Finding {
    const NAME: &str = "seccomp notification";
    match ability::interception() {
        Ok(false) => good(NAME, "InterceptBind works, and sudo and setuid programs under it"),
        Ok(true) => good(NAME, "InterceptBind works, with no_new_privs").but(
            Verdict::Limited,
            "under InterceptBind sudo and setuid programs fail inside the service",
            "run aeternad as root (CAP_SYS_ADMIN), or ignore it if the service uses neither",
        ),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            good(NAME, "another supervisor's filter is in force").but(
                Verdict::Missing,
                "InterceptBind does not work: services bind their sockets themselves",
                "use InterceptBind in one aeternad only, not inside another; leave LXD's interception",
            )
        }
        Err(error) => good(NAME, socket::errno_text(&error)).but(
            Verdict::Missing,
            "InterceptBind does not work: only programs that take LISTEN_FDS are replaced without a gap",
            "Linux 5.9 on x86_64 or aarch64; a container profile that allows seccomp",
        ),
    }
}

fn surroundings(runtime_dir: &Path) -> Vec<Finding> {
    vec![
        cgroups(),
        limited_groups(runtime_dir),
        memory_limit(),
        oom_order(),
        pressure(),
        folder(runtime_dir),
        inotify(),
        descriptors(),
        backlog(),
        low_ports(),
    ]
}

fn cgroups() -> Finding {
    if CgroupRoot::probe("aeterna-doctor").is_some() {
        return good("cgroups", "a group for each generation");
    }
    good("cgroups", "none can be made here").but(
        Verdict::Limited,
        "grandchildren are found by session and environment, which a daemon can shed",
        "cgroup v2, writable: systemd's Delegate=yes, or in a container --cgroupns=private with a writable /sys/fs/cgroup",
    )
}

fn limited_groups(runtime_dir: &Path) -> Finding {
    const NAME: &str = "control limits";
    let cost =
        "MemoryMax, TasksMax, CPUQuota and their kin are not enforced; MemoryMax is watched until promotion";
    let cure = "systemd 254 with Delegate=yes and DelegateSubgroup=supervisor, or a container with a writable \
                /sys/fs/cgroup of its own; no controllers of the first version (kernel: cgroup_no_v1=all)";
    let outlook = Outlook::of(runtime_dir);
    let from = outlook.seen_from();
    match outlook.missing() {
        // What nobody has tried yet is tried.
        Ok(_) if outlook.pid.is_none() && CgroupRoot::probe("aeterna-doctor").is_none() => {
            good(NAME, "no control groups can be made here").but(Verdict::Limited, cost, cure)
        }
        Ok(missing) if missing.is_empty() => {
            good(NAME, format!("memory, pids, cpu for each generation, {from}"))
        }
        Ok(missing) => {
            let found = format!("no controller {}, {from}", missing.join(", "));
            good(NAME, found).but(Verdict::Limited, cost, cure)
        }
        Err(why) => good(NAME, why).but(Verdict::Limited, cost, cure),
    }
}

fn memory_limit() -> Finding {
    const NAME: &str = "memory limit";
    let Some((level, together)) = Limits::find().nearest() else {
        return good(NAME, "none but the machine's");
    };
    let found = format!("{} of {}", Bytes(level.limit), level.of);
    if !together {
        return good(NAME, found);
    }
    good(NAME, format!("{found}, memory.oom.group = 1")).but(
        Verdict::Limited,
        "when it is used up the kernel kills every process in it, aeternad too",
        "MemoryMax in each unit where limits can be set; in Kubernetes the kubelet's singleProcessOOMKill (1.32)",
    )
}

fn oom_order() -> Finding {
    const NAME: &str = "oom order";
    match oom_score::own() {
        Some(own) if own < oom_score::FIRST => {
            good(NAME, format!("a new generation goes first; aeternad's own oom_score_adj is {own}"))
        }
        own => good(
            NAME,
            own.map_or("/proc does not say".into(), |own| format!("everybody has {own} already")),
        )
        .but(
            Verdict::Limited,
            "when memory runs out the kernel may kill the generation that serves instead of the new one",
            "a lower OOMScoreAdjust for aeternad; in Kubernetes requests, so that the pod is not BestEffort",
        ),
    }
}

fn pressure() -> Finding {
    const NAME: &str = "pressure";
    if Path::new("/proc/pressure/memory").exists() {
        return good(NAME, "status shows what generations wait for");
    }
    good(NAME, "the kernel does not tell").but(
        Verdict::Limited,
        "status shows no waiting for processors, memory and disks",
        "Linux 4.20 with CONFIG_PSI, booted with psi=1",
    )
}

fn folder(path: &Path) -> Finding {
    const NAME: &str = "runtime dir";
    let shown = path.display().to_string();
    let uid = crate::sys::user::effective_uid();
    if let Some(pid) = lives_in(path, uid).filter(|_| !control_path(path).exists()) {
        return good(NAME, format!("{shown}: aeternad (pid {pid}) has it, but its control socket is gone"))
            .but(
                Verdict::Missing,
                "aeternactl cannot reach it",
                "its log says why it could not make it again; SIGHUP lets it try again",
            );
    }
    match std::fs::metadata(path) {
        Ok(found) if found.uid() == uid && found.permissions().mode() & 0o022 == 0 => good(NAME, shown),
        Ok(_) => good(NAME, format!("{shown} belongs to somebody else, or others may write to it")).but(
            Verdict::Missing,
            "aeternad refuses to start with it",
            "remove it, or give aeternad and aeternactl another one with --runtime-dir",
        ),
        // It is made by aeternad: what counts is whether it can be.
        Err(_) => match path.ancestors().skip(1).find(|parent| parent.exists()) {
            Some(parent) if dir::may_write(parent) => good(NAME, format!("{shown}, made at the first start")),
            _ => good(NAME, format!("{shown} cannot be made")).but(
                Verdict::Missing,
                "aeternad cannot start",
                "set XDG_RUNTIME_DIR, or give --runtime-dir",
            ),
        },
    }
}

fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

fn inotify() -> Finding {
    const NAME: &str = "inotify";
    let instances = number("/proc/sys/fs/inotify/max_user_instances");
    let watches = number("/proc/sys/fs/inotify/max_user_watches");
    let (Some(instances), Some(watches)) = (instances, watches) else {
        return good(NAME, "how many watches there may be is not known without /proc");
    };
    let found = good(NAME, format!("{instances} instances, {watches} watches a user"));
    let few = instances < 64 || watches < 1024;
    if Watcher::new().is_ok() && !few {
        return found;
    }
    found.but(
        Verdict::Limited,
        "WatchPaths and the repair of removed Unix paths may find no room",
        "sysctl -w fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=65536",
    )
}

fn descriptors() -> Finding {
    const ENOUGH: u64 = 16_384;
    let hard = ability::most_descriptors().unwrap_or(0);
    let found = good("open files", format!("{hard} at most"));
    if hard >= ENOUGH {
        return found;
    }
    found.but(
        Verdict::Limited,
        "many units, stored descriptors or relayed connections may run out of them",
        "LimitNOFILE= of the unit that starts aeternad, --ulimit nofile=65536 in Docker",
    )
}

fn backlog() -> Finding {
    const ENOUGH: u64 = 4096;
    const NAME: &str = "somaxconn";
    let Some(most) = number("/proc/sys/net/core/somaxconn") else {
        return good(NAME, "how many connections can wait on a socket is not known without /proc");
    };
    let found = good(NAME, format!("{most} connections can wait on a socket"));
    if most >= ENOUGH {
        return found;
    }
    found.but(
        Verdict::Limited,
        "bursts during a gap or a slow start are refused earlier",
        "sysctl -w net.core.somaxconn=4096",
    )
}

fn low_ports() -> Finding {
    const NAME: &str = "low ports";
    let first = limits::first_free_port();
    match ability::low_ports() {
        Ok(()) => good(NAME, "units may have any port"),
        Err(error) => {
            let why = socket::errno_text(&error);
            good(NAME, format!("everybody may bind from {first}, nobody here below that ({why})")).but(
                Verdict::Limited,
                "units cannot have those ports, neither can aeternad bind them for a program",
                "run aeternad as root of this network, setcap cap_net_bind_service+ep aeternad, or sysctl -w \
                 net.ipv4.ip_unprivileged_port_start=80",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_good_says_what_it_costs_and_how_to_get_it() {
        let folder = tempfile::tempdir().unwrap();
        for finding in surroundings(&folder.path().join("run")) {
            let bad = finding.verdict != Verdict::Ok;
            assert_eq!(!finding.cost.is_empty() && !finding.cure.is_empty(), bad, "{finding:?}");
            assert!(!finding.found.is_empty(), "{finding:?}");
        }
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(super::folder(folder.path()).verdict, Verdict::Ok);
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(super::folder(folder.path()).verdict, Verdict::Missing);
    }
}
