//! Who holds an address: /proc/net (proc_net(5)) gives the socket's inode, /proc/PID/fd the process.
//!
//! Whoever asks on the main thread makes a limited [`Effort`] for it: services choose how many processes and descriptors
//! there are to be looked at.

use super::clock::Effort;
use super::process;
use crate::proto::harmless::harmless;
use crate::proto::http::guard::{Holder, Holders};
use crate::time::Span;
use crate::unit::ListenKind;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::ControlFlow;

/// How much a search through all processes may cost, for the words of an error that is rare.
const SEARCH: Span = Span::from_millis(80);

/// After how many descriptors the clock is looked at.
const STRIDE: u32 = 64;

/// Where processes have sockets, as far as there was time to look.
#[derive(Debug, Default)]
pub struct Glance {
    /// By inode number: the first process that has it, and the descriptor.
    at: HashMap<u64, (i32, i32)>,
    /// Not everything was seen: there was no time, or a process may not be looked at.
    partly: bool,
}

impl Glance {
    /// A process that has the socket with this inode number, and its descriptor there.
    pub fn at(&self, inode: u64) -> Option<(i32, i32)> {
        self.at.get(&inode).copied()
    }

    /// Whether one of them has one of these sockets, or may have, as not everything was seen.
    pub fn may_have(&self, inodes: &[u64]) -> bool {
        self.partly || inodes.iter().any(|inode| self.at.contains_key(inode))
    }

    /// How many of those that were wanted they have; `None` if not everything was seen.
    pub fn count(&self) -> Option<usize> {
        (!self.partly).then_some(self.at.len())
    }
}

/// Looks which of the `wanted` sockets, by their inode numbers, these processes have; until `end` at most, and no longer than
/// it takes to find them all.
pub fn glance(pids: &[i32], wanted: &BTreeSet<u64>, end: Effort) -> Glance {
    let mut glance = Glance::default();
    let mut looked = 0_u32;
    let mut look = |task: i32, glance: &mut Glance| {
        let seen = each_descriptor(task, |number, inode| {
            looked += 1;
            if let Some(inode) = inode.filter(|inode| wanted.contains(inode)) {
                glance.at.entry(inode).or_insert((task, number));
            }
            let is_over = glance.at.len() >= wanted.len();
            glance.partly |= !is_over && looked.is_multiple_of(STRIDE) && end.is_spent();
            if is_over || glance.partly { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        // One that is gone has none.
        glance.partly |= seen.is_err_and(|error| error.kind() != io::ErrorKind::NotFound);
    };
    let goes_on = |glance: &Glance| glance.at.len() < wanted.len() && !glance.partly;
    for pid in pids {
        if goes_on(&glance) {
            look(*pid, &mut glance);
        }
    }
    for thread in pids.iter().flat_map(|pid| apart(*pid)) {
        if !goes_on(&glance) {
            break;
        }
        look(thread, &mut glance);
    }
    glance
}

/// How many threads of a process are looked at.
const THREADS: usize = 64;

/// Threads of a process that have a table of descriptors of their own (CLONE_FILES), where the kernel tells (kcmp(2)).
fn apart(pid: i32) -> Vec<i32> {
    const KCMP_FILES: i32 = 2;
    let threads = process::threads(pid).into_iter().flatten().take(THREADS);
    threads
        .filter(|thread| {
            // SAFETY: takes numbers only.
            *thread != pid && unsafe { libc::syscall(libc::SYS_kcmp, pid, *thread, KCMP_FILES, 0, 0) } > 0
        })
        .collect()
}

/// Looks at the descriptors of a process, the lowest first, with the inode number of each that is a socket.
fn each_descriptor(pid: i32, mut look: impl FnMut(i32, Option<u64>) -> ControlFlow<()>) -> io::Result<()> {
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let target = fs::read_link(entry.path()).ok();
        let name = target.as_ref().and_then(|target| target.to_str());
        let inode = name.and_then(|name| name.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        if look(number, inode).is_break() {
            break;
        }
    }
    Ok(())
}

/// The process that holds an IP address, as "nginx, pid 812"; `None` if nobody can be seen to.
pub fn of_port(at: SocketAddr, kind: ListenKind) -> Option<String> {
    let inodes = inodes_at(at, kind);
    // The tables may be long, and are not what the search is to be short for.
    let end = Effort::of(SEARCH);
    inodes.into_iter().find_map(|inode| of_inode(inode, end))
}

/// The sockets that have an IP address, by their inode numbers.
fn inodes_at(at: SocketAddr, kind: ListenKind) -> Vec<u64> {
    let (tables, state): (_, &[&str]) = match kind {
        ListenKind::Stream => (["tcp6", "tcp"], &["0A", "07"]),
        ListenKind::Datagram | ListenKind::SequentialPacket | ListenKind::Fifo | ListenKind::Netlink => {
            (["udp6", "udp"], &["07"])
        }
    };
    let mut found = Vec::new();
    for table in tables {
        let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        for row in text.lines().skip(1).filter_map(row) {
            let clashes = row.local.port() == at.port()
                && (row.local.ip() == at.ip() || row.local.ip().is_unspecified() || at.ip().is_unspecified());
            if clashes && state.contains(&row.state) && row.inode != 0 {
                found.push(row.inode);
            }
        }
    }
    found
}

/// The process that holds a Unix address, spelt as a path or `@name`.
pub fn of_unix(address: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let end = Effort::of(SEARCH);
    for line in text.lines().skip(1) {
        let mut fields = line.split_ascii_whitespace();
        let inode = fields.nth(6).and_then(|inode| inode.parse().ok());
        let name = fields.next();
        if name == Some(address)
            && let Some(who) = inode.and_then(|inode| of_inode(inode, end))
        {
            return Some(who);
        }
    }
    None
}

/// A row of /proc/net/tcp and its like.
pub(super) struct Row<'a> {
    /// Our end.
    pub(super) local: SocketAddr,
    /// The other end.
    pub(super) remote: SocketAddr,
    /// The state in hexadecimal: `01` established, `0A` listening.
    pub(super) state: &'a str,
    /// The socket's owner.
    pub(super) uid: u32,
    /// The socket's inode, 0 if no process has it.
    pub(super) inode: u64,
}

/// Reads one line of /proc/net/{tcp,tcp6,udp,udp6}.
pub(super) fn row(line: &str) -> Option<Row<'_>> {
    let mut fields = line.split_ascii_whitespace();
    let local = endpoint(fields.nth(1)?)?;
    let remote = endpoint(fields.next()?)?;
    let state = fields.next()?;
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some(Row { local, remote, state, uid, inode })
}

/// `0100007F:1F90`: the address as words in the machine's own byte order, the port in the ordinary one.
fn endpoint(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..address.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => IpAddr::V4(Ipv4Addr::from(v4)),
        Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?)),
    };
    Some(SocketAddr::new(ip, port))
}

/// The first process with a socket of this inode among its descriptors, as "nginx, pid 812"; `None` if nobody can be seen to
/// have it until `end`.
pub fn of_inode(inode: u64, end: Effort) -> Option<String> {
    let wanted = BTreeSet::from([inode]);
    let mut looked_at = process::all().ok()?.take_while(|_| !end.is_spent());
    let pid = looked_at.find(|pid| glance(&[*pid], &wanted, end).at(inode).is_some())?;
    let name = process::name_of(pid).unwrap_or_default();
    // Whoever holds it has chosen its name.
    Some(format!("{}, pid {pid}", harmless(name.trim_end(), 64)))
}

/// Every process that holds a socket, by its inode. A scan of all of /proc: not for the main thread.
///
/// What only passes from one process to another at that moment, or is registered with io_uring, is in no table and is
/// not found.
///
/// # Errors
/// There is no /proc.
pub fn all_of_inode(inode: u64) -> io::Result<Holders> {
    let wanted = format!("socket:[{inode}]");
    let mut holders = Holders::default();
    for pid in process::all()? {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            // It may be gone: then it has no user either.
            holders.hidden.extend(uids_of(pid));
            continue;
        };
        let has = descriptors
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str()));
        if let Some(started) = process::start_time(pid).filter(|_| has)
            && let Some(uids) = uids_of(pid)
        {
            holders.found.push(Holder { pid, started, uids });
        }
    }
    Ok(holders)
}

/// The real, effective, saved and file system user of a process; `None` if it is gone.
fn uids_of(pid: i32) -> Option<[u32; 4]> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let uids: Vec<u32> = line.split_ascii_whitespace().filter_map(|uid| uid.parse().ok()).collect();
    uids.try_into().ok()
}

/// The inodes of every socket among a process's descriptors; empty if nobody may look. Not for the main thread.
pub fn sockets_of(pid: i32) -> Vec<u64> {
    let mut found = Vec::new();
    // Nobody may look, or it is gone.
    let _ = each_descriptor(pid, |_, inode| {
        found.extend(inode);
        ControlFlow::Continue(())
    });
    found
}

/// An address that one of these processes listens on, or receives datagrams at, as people spell it. In the network that
/// they see. Not for the main thread.
pub fn listening(pids: &[i32]) -> Option<String> {
    pids.iter().find_map(|pid| {
        let theirs = sockets_of(*pid);
        let table = |name: &str| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
        for (name, state) in [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")] {
            let text = table(name);
            let mut rows = text.lines().skip(1).filter_map(row);
            if let Some(row) = rows.find(|row| row.state == state && theirs.contains(&row.inode)) {
                return Some(row.local.to_string());
            }
        }
        table("unix").lines().skip(1).find_map(|line| listening_unix(line, &theirs))
    })
}

/// `ffff…: 00000002 00000000 00010000 0001 01 4711 /run/x`: flags, type, state, inode, name.
fn listening_unix(line: &str, inodes: &[u64]) -> Option<String> {
    const ACCEPTS: &str = "00010000";
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, _, _, flags, _, _, inode, name] = fields.as_slice() else { return None };
    let is_one = *flags == ACCEPTS && inodes.contains(&inode.parse().ok()?);
    is_one.then(|| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0";
        let found = row(line).unwrap();
        if cfg!(target_endian = "little") {
            assert_eq!(found.local, "127.0.0.1:8080".parse().unwrap());
        }
        assert_eq!((found.state, found.uid, found.inode), ("0A", 1000, 4711));
        assert!(row("garbage").is_none());
        if cfg!(target_endian = "little") {
            let v6 = endpoint("00000000000000000000000001000000:0050").unwrap();
            assert_eq!(v6, "[::1]:80".parse().unwrap());
        }
    }

    #[test]
    fn a_glance_costs_so_much_and_no_more_however_many_descriptors_there_are() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let inode = nix::sys::stat::fstat(&ours).unwrap().st_ino;
        let copies: Vec<_> = (0..4 * STRIDE).map(|_| ours.try_clone().unwrap()).collect();
        let (me, far) = (process::pid(), Effort::whatever());
        let none = Effort::of(Span::ZERO);
        let wanted = BTreeSet::from([inode]);
        let seen = glance(&[i32::MAX, me], &wanted, far);
        assert_eq!((seen.at(inode).map(|(pid, _)| pid), seen.count()), (Some(me), Some(1)));
        assert!(seen.may_have(&[inode]) && !seen.may_have(&[1]));
        assert!(!glance(&[i32::MAX], &wanted, far).may_have(&[inode]), "who is gone has none");
        // What was not looked at may be anything: one look at the clock is one stride of descriptors.
        let unseen = glance(&[me], &BTreeSet::from([1, inode]), none);
        assert_eq!(unseen.count(), None);
        assert!(unseen.may_have(&[1]) && copies.len() > STRIDE as usize);
        assert_eq!(of_inode(inode, none), None);
        assert!(of_inode(inode, far).is_some());
    }

    #[test]
    fn everybody_who_holds_a_socket_is_found_with_all_of_its_users() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let inode = nix::sys::stat::fstat(&ours).unwrap().st_ino;
        // It holds a copy as its standard input.
        let input = std::process::Stdio::from(std::os::fd::OwnedFd::from(ours.try_clone().unwrap()));
        let mut child = std::process::Command::new("/bin/sleep").arg("1000").stdin(input).spawn().unwrap();
        let holders = all_of_inode(inode).unwrap();
        let uid = nix::unistd::geteuid().as_raw();
        for pid in [process::pid(), child.id().cast_signed()] {
            // Others are children of other tests that have not yet executed.
            let holder = holders.found.iter().find(|holder| holder.pid == pid).unwrap();
            assert_eq!((holder.uids, Some(holder.started)), ([uid; 4], process::start_time(pid)));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_a_process_listens_on_is_found() {
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 4711 @name";
        assert_eq!(listening_unix(line, &[4711]).as_deref(), Some("@name"));
        assert_eq!(listening_unix(line, &[4712]), None);
        let connected = "0000000000000000: 00000003 00000000 00000000 0001 03 4711 @name";
        assert_eq!(listening_unix(connected, &[4711]), None);
        let _listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let us = std::process::id().cast_signed();
        assert!(listening(&[us]).is_some());
    }

    #[test]
    fn we_find_ourselves() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let who = of_port(at, ListenKind::Stream).unwrap();
        assert!(who.ends_with(&format!("pid {}", std::process::id())), "{who}");
    }
}
