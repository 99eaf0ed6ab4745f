//! What the probe found at its start, as JSON.

use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};
use serde_json::{Map, Value, json};
use std::os::unix::fs::FileTypeExt;

/// The report, but for what may change later.
pub(crate) fn at_start() -> Value {
    let fds = descriptors();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let environment: Map<String, Value> = std::env::vars_os()
        .map(|(k, v)| (k.to_string_lossy().into_owned(), json!(v.to_string_lossy())))
        .collect();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let stat: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let stat_number = |index: usize| stat.get(index).and_then(|text| text.parse::<i64>().ok());
    let hex = |key: &str| u64::from_str_radix(&field(&status, key), 16).ok();
    let numbers = |key: &str| -> Vec<u64> {
        field(&status, key).split_whitespace().filter_map(|word| word.parse().ok()).collect()
    };
    json!({
        "pid": std::process::id(),
        "ppid": stat_number(1),
        "pgid": stat_number(2),
        "sid": stat_number(3),
        "nice": stat_number(16),
        "argv": std::env::args().collect::<Vec<_>>(),
        "argv0": std::env::args().next(),
        "cwd": std::env::current_dir().ok(),
        "exe": std::env::current_exe().ok(),
        "env": environment,
        "fds": fds.iter().map(|(fd, target)| (fd.to_string(), json!(target))).collect::<Map<_, _>>(),
        "sockets": lent().into_iter().map(describe).collect::<Vec<_>>(),
        "listen_pid_is_mine": variable("LISTEN_PID") == Some(i64::from(std::process::id())),
        "sig_blk": hex("SigBlk"),
        "sig_ign": hex("SigIgn"),
        "sig_cgt": hex("SigCgt"),
        "uid": numbers("Uid"),
        "gid": numbers("Gid"),
        "groups": numbers("Groups"),
        "umask": field(&status, "Umask"),
        "no_new_privs": field(&status, "NoNewPrivs") == "1",
        "cpus": field(&status, "Cpus_allowed_list"),
        "oom_score_adj": std::fs::read_to_string("/proc/self/oom_score_adj").ok().map(|t| t.trim().to_string()),
        "cgroup": std::fs::read_to_string("/proc/self/cgroup").ok(),
        "limits": limits(),
        "generation": variable("AETERNA_GENERATION"),
        "worker": variable("AETERNA_WORKER"),
    })
}

fn field(status: &str, key: &str) -> String {
    let line = status.lines().find(|line| line.split(':').next() == Some(key));
    line.and_then(|line| line.split_once(':')).map(|(_, v)| v.trim().to_string()).unwrap_or_default()
}

/// An environment variable that is a number.
pub(crate) fn variable(name: &str) -> Option<i64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The descriptors from `LISTEN_FDS`.
pub(crate) fn lent() -> Vec<i32> {
    let count = variable("LISTEN_FDS").unwrap_or(0) as i32;
    (3..3 + count).collect()
}

/// Every open descriptor and what it is.
pub(crate) fn descriptors() -> Vec<(i32, String)> {
    let Ok(folder) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let numbers: Vec<i32> =
        folder.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    // The folder's own descriptor is closed by now, and has no target any more.
    let target = |fd: i32| std::fs::read_link(format!("/proc/self/fd/{fd}")).ok();
    let mut found: Vec<(i32, String)> =
        numbers.into_iter().filter_map(|fd| Some((fd, target(fd)?.display().to_string()))).collect();
    found.sort_unstable();
    found
}

/// One lent descriptor.
fn describe(fd: i32) -> Value {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let name = names.split(':').nth((fd - 3) as usize).unwrap_or("").to_string();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    let flags = i64::from_str_radix(&field(&info, "flags"), 8).unwrap_or(0);
    let kind = kind(fd);
    let socket = crate::borrowed(fd);
    json!({
        "fd": fd,
        "name": name,
        "kind": kind,
        "listening": getsockopt(&socket, sockopt::AcceptConn).unwrap_or(false),
        "address": address(fd),
        "inode": std::fs::read_link(format!("/proc/self/fd/{fd}")).ok(),
        "non_blocking": flags & 0o4000 != 0,
        "close_on_exec": flags & 0o2_000_000 != 0,
    })
}

/// `stream`, `datagram`, `seqpacket`, `fifo`, `netlink`, or `other` (a memfd).
pub(crate) fn kind(fd: i32) -> &'static str {
    let netlink = family(fd) == Some(AddressFamily::Netlink);
    match getsockopt(&crate::borrowed(fd), sockopt::SockType) {
        Ok(_) if netlink => "netlink",
        Ok(SockType::Stream) => "stream",
        Ok(SockType::Datagram) => "datagram",
        Ok(SockType::SeqPacket) => "seqpacket",
        Ok(_) => "other",
        Err(_) => {
            let data = std::fs::metadata(format!("/proc/self/fd/{fd}"));
            if data.is_ok_and(|d| d.file_type().is_fifo()) { "fifo" } else { "other" }
        }
    }
}

/// The socket's family.
pub(crate) fn family(fd: i32) -> Option<AddressFamily> {
    getsockname::<SockaddrStorage>(fd).ok()?.family()
}

/// What getsockname(2) says: `127.0.0.1:80`, `/path`, `@name`.
pub(crate) fn address(fd: i32) -> Option<String> {
    let address = getsockname::<SockaddrStorage>(fd).ok()?;
    if let Some(unix) = address.as_unix_addr() {
        let path = unix.path().map(|path| path.display().to_string());
        let name = unix.as_abstract().map(|name| format!("@{}", String::from_utf8_lossy(name)));
        return path.or(name);
    }
    Some(address.to_string())
}

fn limits() -> Value {
    let text = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let mut limits = Map::new();
    for line in text.lines().skip(1) {
        let (name, rest) = line.split_at_checked(26).unwrap_or((line, ""));
        let values: Vec<&str> = rest.split_whitespace().take(2).collect();
        limits.insert(name.trim().to_string(), json!(values));
    }
    Value::Object(limits)
}
