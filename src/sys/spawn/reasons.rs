//! Why a program could not be started, in words that help: what an errno hides is looked up where it can be seen.

use super::child::WRONG_SUM;
use super::{Plan, SpawnError, Stage};
use crate::sys::{dir, near};
use nix::sys::statvfs::{FsFlags, statvfs};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// How much of a program is looked at.
const HEAD: usize = 4096;

impl SpawnError {
    /// Whether there was too little of something: processes, memory, descriptors. A moment later it may be there.
    pub fn is_exhaustion(&self) -> bool {
        match self.stage {
            Stage::Clone => matches!(self.errno, libc::EAGAIN | libc::ENOMEM),
            Stage::Descriptors => matches!(self.errno, libc::EMFILE | libc::ENFILE),
            Stage::Exec | Stage::ExecPinned => matches!(self.errno, libc::ENOMEM | libc::EAGAIN),
            _ => false,
        }
    }

    /// Whether somebody is just writing the program.
    pub fn is_busy(&self) -> bool {
        self.errno == libc::ETXTBSY && matches!(self.stage, Stage::Exec | Stage::ExecPinned)
    }

    /// What is missing and what to do about it, where that is known; `None` where the errno says it all. Looks at the
    /// program's file.
    pub fn advice(&self, plan: &Plan<'_>) -> Option<String> {
        let program = plan.program.to_string_lossy();
        let program = Path::new(&*program);
        if self.stage == Stage::Exec {
            return why_not_executed(program, self.errno, plan.credentials.as_ref().map(|who| who.uid));
        }
        let text = match (self.stage, self.errno) {
            (Stage::Checksum, WRONG_SUM) => "it does not have the SHA-256 sum that is wanted",
            (Stage::Checksum, libc::ESTALE) => "somebody has written to it since it was read",
            (Stage::ExecPinned, libc::ENOENT | libc::ENOSYS | libc::ESTALE) => {
                "its name means another file by now, and it cannot be executed without a name"
            }
            (Stage::ExecPinned, libc::EACCES) => {
                "it is held, and no longer executable, or its mount is noexec"
            }
            (Stage::ExecPinned, libc::ETXTBSY) => "somebody is writing it: replace programs by rename",
            (Stage::Directory, libc::ESTALE) => "it is another folder by now",
            (Stage::Groups | Stage::Group | Stage::User, libc::EPERM) => {
                return Some(why_nobody_else(self.stage));
            }
            (Stage::Groups | Stage::Group | Stage::User, libc::EINVAL) => {
                return Some(unmapped(self.stage, plan));
            }
            (Stage::User, libc::EAGAIN) => "this user has too many processes: see LimitNPROC",
            (Stage::OomScore, libc::EACCES) => "a lower value than our own needs CAP_SYS_RESOURCE",
            (Stage::OomScore, libc::ENOENT) => "/proc is not mounted",
            (Stage::Nice, libc::EACCES | libc::EPERM) => "a lower value than our own needs CAP_SYS_NICE",
            (Stage::Affinity, libc::EINVAL) => "none of these processors exists, or none is allowed here",
            (Stage::Limits, libc::EPERM) => "above our own hard limit: that needs CAP_SYS_RESOURCE",
            (Stage::Clone, libc::EAGAIN) => {
                "too many processes: see LimitNPROC, pids.max (TasksMax of systemd) and kernel.pid_max"
            }
            (Stage::Clone, libc::ENOMEM) => "there is too little memory for one more process",
            (Stage::Descriptors, libc::EMFILE) => "too many descriptors: see LimitNOFILE of aeternad",
            (Stage::Directory, libc::EACCES) => "the service's user may not enter it, or a folder above it",
            (Stage::Directory, libc::ENOENT) => "make it, or set WorkingDirectory = \"-/path\" to do without",
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// Which capability is missing: root need not have all.
fn why_nobody_else(stage: Stage) -> String {
    let capability = if stage == Stage::User { "CAP_SETUID" } else { "CAP_SETGID" };
    if crate::sys::user::effective_uid() != 0 {
        return format!("only root can become another user; aeternad has no {capability}");
    }
    let setgroups = fs::read_to_string("/proc/self/setgroups").unwrap_or_default();
    if stage == Stage::Groups && setgroups.trim() == "deny" {
        return "this user namespace denies setgroups (/proc/self/setgroups)".to_owned();
    }
    format!("aeternad is root without {capability}")
}

/// The kernel says EINVAL to an id that the user namespace does not have.
fn unmapped(stage: Stage, plan: &Plan<'_>) -> String {
    let who = plan.credentials.as_ref();
    let (what, number, map) = match stage {
        Stage::User => ("uid", who.map(|who| who.uid), "uid_map"),
        _ => ("gid", who.map(|who| who.gid), "gid_map"),
    };
    let number = number.map_or(String::new(), |number| format!(" {number}"));
    match stage {
        Stage::Groups => format!("not all of its groups exist in this user namespace: see /proc/self/{map}"),
        _ => format!("{what}{number} does not exist in this user namespace: see /proc/self/{map}"),
    }
}

/// What is behind an errno of execve(2), or of looking for the program: for people. `user`: who was to execute it, if not we.
///
/// The file is looked at on another thread: its file system may not answer. Then only the errno tells.
pub fn why_not_executed(program: &Path, errno: i32, user: Option<u32>) -> Option<String> {
    let program = program.to_owned();
    near::asked(move || what_is_behind(&program, errno, user)).flatten()
}

fn what_is_behind(program: &Path, errno: i32, user: Option<u32>) -> Option<String> {
    Some(match errno {
        libc::EACCES => why_denied(program, user),
        libc::ENOENT if fs::symlink_metadata(program).is_ok() => why_not_found(program),
        libc::ENOEXEC => why_no_program(program),
        libc::ETXTBSY => "somebody is writing it: replace programs by rename".into(),
        libc::E2BIG => "its arguments and environment are too long".into(),
        libc::ENOMEM => "there is too little memory for it".into(),
        libc::EAGAIN => "its user has too many processes: see LimitNPROC".into(),
        libc::EPERM => "it has file capabilities or setuid rights that may not be given here".into(),
        _ => return None,
    })
}

fn why_denied(program: &Path, user: Option<u32>) -> String {
    let metadata = match fs::metadata(program) {
        Ok(metadata) => metadata,
        Err(_) => return "a folder above it is closed to aeternad".into(),
    };
    if metadata.is_dir() {
        return "it is a folder".into();
    }
    if !metadata.is_file() {
        return "it is no regular file".into();
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return "make it executable: chmod +x".into();
    }
    if statvfs(program).is_ok_and(|system| system.flags().contains(FsFlags::ST_NOEXEC)) {
        return "its file system is mounted noexec".into();
    }
    let who = user.map_or("aeternad".to_owned(), |uid| format!("user {uid}"));
    format!(
        "{who} may not execute it, or may not enter a folder above it; nor may its interpreter be executed otherwise"
    )
}

/// It is there, so something that it names is not.
fn why_not_found(program: &Path) -> String {
    if fs::metadata(program).is_err() {
        return "it is a link to something that does not exist".into();
    }
    let head = head_of(program).unwrap_or_default();
    match interpreter(&head) {
        Some(name) => {
            format!("its interpreter {name} does not exist: check its first line, or what it is linked with")
        }
        None => "its interpreter does not exist: check its first line, or what it is linked with".into(),
    }
}

fn why_no_program(program: &Path) -> String {
    let head = head_of(program).unwrap_or_default();
    if head.is_empty() {
        return "it is empty".into();
    }
    match elf_machine(&head) {
        Some(machine)
            if machine
                != elf_machine(&head_of(Path::new("/proc/self/exe")).unwrap_or_default()).unwrap_or(0) =>
        {
            format!("it is a program for another kind of processor ({})", machine_name(machine))
        }
        Some(_) => "it is a damaged program".into(),
        None => "not a program: a script needs a first line like #!/bin/sh".into(),
    }
}

/// The beginning of a regular file.
fn head_of(program: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD);
    dir::open_regular(program)?.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// What a script's first line or a dynamic program names.
fn interpreter(head: &[u8]) -> Option<String> {
    let name = match head.strip_prefix(b"#!") {
        Some(line) => {
            let line = line.split(|byte| *byte == b'\n').next()?.trim_ascii();
            line.split(|byte| byte.is_ascii_whitespace()).next()?
        }
        None => elf_interpreter(head)?,
    };
    Some(String::from_utf8_lossy(name).escape_default().to_string())
}

/// PT_INTERP of a 64-bit program of our byte order, see elf(5).
fn elf_interpreter(head: &[u8]) -> Option<&[u8]> {
    const PT_INTERP: u64 = 3;
    elf_machine(head)?;
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = head.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let (table, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
    (0..count).find_map(|index| {
        let at = usize::try_from(table.checked_add(size * index)?).ok()?;
        if number(at, 4)? != PT_INTERP {
            return None;
        }
        let from = usize::try_from(number(at.checked_add(8)?, 8)?).ok()?;
        head.get(from..)?.split(|byte| *byte == 0).next()
    })
}

/// `e_machine` of a program.
fn elf_machine(head: &[u8]) -> Option<u16> {
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let bytes = [*head.get(18)?, *head.get(19)?];
    // EI_DATA: 2 is the big end first.
    Some(if head.get(5) == Some(&2) { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
}

fn machine_name(machine: u16) -> String {
    match machine {
        3 => "x86".into(),
        8 => "MIPS".into(),
        20 | 21 => "PowerPC".into(),
        22 => "s390".into(),
        40 => "32-bit ARM".into(),
        62 => "x86-64".into(),
        183 => "arm64".into(),
        243 => "RISC-V".into(),
        258 => "LoongArch".into(),
        other => format!("machine {other} of ELF"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn file(folder: &Path, name: &str, bytes: &[u8], mode: u32) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn each_errno_of_an_execution_is_explained_by_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        std::os::unix::fs::symlink("nowhere", at.join("link")).unwrap();
        let mut arm = fs::read("/proc/self/exe").unwrap();
        arm.truncate(HEAD);
        arm[18..20].copy_from_slice(&183_u16.to_le_bytes());
        let own = fs::read("/bin/sh").unwrap();
        for (path, errno, words) in [
            (at.to_owned(), libc::EACCES, "it is a folder"),
            (file(at, "plain", b"#!/bin/sh\n", 0o644), libc::EACCES, "chmod +x"),
            (PathBuf::from("/dev/null"), libc::EACCES, "no regular file"),
            (file(at, "closed", b"#!/bin/sh\n", 0o700), libc::EACCES, "user 7 may not execute it"),
            (at.join("link"), libc::ENOENT, "a link to something that does not exist"),
            (
                file(at, "script", b"#! /no/such -x\n", 0o755),
                libc::ENOENT,
                "its interpreter /no/such does not exist",
            ),
            (file(at, "elf", &own, 0o755), libc::ENOENT, "its interpreter /lib"),
            (file(at, "empty", b"", 0o755), libc::ENOEXEC, "it is empty"),
            (file(at, "text", b"text", 0o755), libc::ENOEXEC, "#!/bin/sh"),
            (file(at, "arm", &arm, 0o755), libc::ENOEXEC, "another kind of processor (arm64)"),
        ] {
            let told = why_not_executed(&path, errno, Some(7)).unwrap();
            assert!(told.contains(words), "{}: {told}", path.display());
        }
        assert_eq!(why_not_executed(&at.join("missing"), libc::ENOENT, None), None);
    }

    #[test]
    fn a_short_or_wrong_header_is_no_panic() {
        let own = fs::read("/proc/self/exe").unwrap();
        for length in 0..200 {
            let _ = interpreter(&own[..length]);
        }
        let mut wild = own[..HEAD].to_vec();
        wild[0x20..0x28].fill(0xff);
        wild[0x36..0x3a].fill(0xff);
        assert_eq!(interpreter(&wild), None);
    }
}
