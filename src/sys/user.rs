//! Users and groups of the system's database. May read files and ask a directory service: never after a clone. The
//! service may be far away and not answer: it is asked on another thread, and not waited for longer than a little.

use super::{aside, clock};
use crate::time::{Patience, Span};
use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, getgrouplist};
use std::any::Any;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Main group.
    pub gid: u32,
    /// Login name; the number, if it has none.
    pub name: String,
    /// Home directory; `/` if it has none.
    pub home: String,
    /// Login shell.
    pub shell: String,
}

/// The user of a name or number. A number that the database does not know is a user of that uid, with the same number as its
/// group.
///
/// # Errors
/// `NotFound` with a text for people; what reading the database says.
pub fn account(name_or_number: &str) -> Result<Account, io::Error> {
    let name = name_or_number.to_owned();
    asked(format!("user {name}"), move || account_now(&name))
}

/// The answers that came last, by question.
type Known = BTreeMap<String, Box<dyn Any + Send>>;
static KNOWN: Mutex<Known> = Mutex::new(BTreeMap::new());

/// How long the database is waited for where it is not a file of this machine, and how long where we know what it said last.
static PATIENCE: Mutex<Patience> = Mutex::new(Patience::new(Span::from_millis(20), Span::from_secs(2)));
const KNOWN_PATIENCE: Span = Span::from_millis(20);

/// Asks the database. Where no answer comes in time, what it has said before counts, or has said too late to somebody else.
fn asked<T: Clone + Send + 'static>(
    question: String,
    ask: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    if is_local() { ask() } else { asked_far(question, ask) }
}

fn asked_far<T: Clone + Send + 'static>(
    question: String,
    ask: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let begun = clock::now();
    let mut patience = locked(&PATIENCE).now(begun);
    if locked(&KNOWN).contains_key(&question) {
        patience = patience.min(KNOWN_PATIENCE);
    }
    let remembered = question.clone();
    let answer = aside::within(patience, move || {
        let answer = ask();
        if let Ok(answer) = &answer {
            locked(&KNOWN).insert(remembered, Box::new(answer.clone()));
        }
        answer
    });
    locked(&PATIENCE).spend(clock::now().since(begun));
    answer.unwrap_or_else(|| {
        let known = locked(&KNOWN).get(&question).and_then(|kept| kept.downcast_ref()).cloned();
        known.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                "the user database does not answer (see nsswitch.conf(5))",
            )
        })
    })
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the database is files of this machine and nothing else.
fn is_local() -> bool {
    static SEEN: Mutex<Option<(Option<SystemStamp>, bool)>> = Mutex::new(None);
    let stamp = std::fs::metadata(SWITCH).ok().map(|found| (found.mtime(), found.mtime_nsec(), found.ino()));
    if let Some((seen, local)) = *locked(&SEEN)
        && seen == stamp
    {
        return local;
    }
    let text = stamp.and_then(|_| std::fs::read_to_string(SWITCH).ok()).unwrap_or_default();
    let local = names_only_files(&text) && !std::path::Path::new("/var/run/nscd/socket").exists();
    *locked(&SEEN) = Some((stamp, local));
    local
}

/// Where it says who is asked about users and groups.
const SWITCH: &str = "/etc/nsswitch.conf";

/// When a file was changed, and which one it is.
type SystemStamp = (i64, i64, u64);

/// Whether nsswitch.conf(5) names nobody for users and groups who could be far away.
fn names_only_files(text: &str) -> bool {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let named = lines.filter_map(|line| line.split_once(':'));
    let about = named.filter(|(name, _)| matches!(name.trim(), "passwd" | "group" | "initgroups"));
    let is_near = |word: &str| matches!(word, "files" | "compat" | "db" | "systemd") || word.starts_with('[');
    about.flat_map(|(_, modules)| modules.split_whitespace()).all(is_near)
}

fn account_now(name_or_number: &str) -> Result<Account, io::Error> {
    let number = name_or_number.parse::<u32>().ok();
    let found = match number {
        Some(uid) => User::from_uid(Uid::from_raw(uid))?,
        None => User::from_name(name_or_number)?,
    };
    match (found, number) {
        (Some(user), _) => Ok(Account {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            name: user.name,
            home: user.dir.to_string_lossy().into_owned(),
            shell: user.shell.to_string_lossy().into_owned(),
        }),
        // The last number means "no change" to the kernel.
        (None, Some(uid)) if uid != u32::MAX => Ok(Account {
            uid,
            gid: uid,
            name: uid.to_string(),
            home: "/".to_owned(),
            shell: "/bin/sh".to_owned(),
        }),
        _ => Err(unknown("user", name_or_number)),
    }
}

/// The group of a name or number; a number need not be in the database.
///
/// # Errors
/// As [`account`].
pub fn group(name_or_number: &str) -> Result<u32, io::Error> {
    match name_or_number.parse::<u32>() {
        Ok(gid) if gid != u32::MAX => return Ok(gid),
        _ => {}
    }
    let name = name_or_number.to_owned();
    asked(format!("group {name}"), move || {
        Group::from_name(&name)?.map(|group| group.gid.as_raw()).ok_or_else(|| unknown("group", &name))
    })
}

fn unknown(what: &str, name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no {what} \"{name}\""))
}

/// Every group of a user, its main group too.
///
/// # Errors
/// `TimedOut`: whoever were started now would lack groups.
pub fn groups_of(account: &Account) -> io::Result<Vec<u32>> {
    let (name, gid) = (CString::new(account.name.as_str())?, account.gid);
    asked(format!("groups of {} {gid}", account.name), move || {
        let listed = getgrouplist(&name, Gid::from_raw(gid)).ok();
        Ok(listed.map_or_else(|| vec![gid], |groups| groups.into_iter().map(Gid::as_raw).collect()))
    })
}

/// Our effective user id.
pub fn effective_uid() -> u32 {
    geteuid().as_raw()
}

/// Our effective group id.
pub fn effective_gid() -> u32 {
    getegid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_may_be_far_away_is_recognised() {
        let local = "passwd: files systemd # ldap\ngroup:\tfiles [SUCCESS=merge] systemd\nhosts: files dns\n";
        assert!(names_only_files(local) && names_only_files(""));
        for far in
            ["passwd: files sss", "group:ldap", "passwd:\tfiles\ngroup: files sss\n", "initgroups:files nis"]
        {
            assert!(!names_only_files(far), "{far}");
        }
    }

    #[test]
    fn a_database_that_does_not_answer_is_not_waited_for() {
        let (ends, never) = std::sync::mpsc::channel::<()>();
        let late = asked_far("what nobody knows".into(), move || {
            let _ = never.recv();
            Ok(7)
        });
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(ends);
        // What has come too late is known the next time.
        while !locked(&KNOWN).contains_key("what nobody knows") {
            std::thread::yield_now();
        }
        let (_ends, never) = std::sync::mpsc::channel::<()>();
        let again = asked_far("what nobody knows".into(), move || {
            let _ = never.recv();
            Ok(8)
        });
        assert_eq!(again.unwrap(), 7);
    }

    #[test]
    fn root_is_known_by_name_and_number() {
        let root = account("root").unwrap();
        assert_eq!((root.uid, root.gid, root.home.as_str()), (0, 0, "/root"));
        assert_eq!(account("0").unwrap(), root);
        assert!(groups_of(&root).unwrap().contains(&0));
        assert_eq!(group("root").unwrap(), 0);
    }

    #[test]
    fn a_number_needs_no_entry_but_a_name_does() {
        let nobody = account("3999999").unwrap();
        assert_eq!((nobody.uid, nobody.gid, nobody.home.as_str()), (3_999_999, 3_999_999, "/"));
        assert_eq!(groups_of(&nobody).unwrap(), [3_999_999]);
        assert_eq!(group("3999999").unwrap(), 3_999_999);
        let error = account("no such user").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(error.to_string(), "there is no user \"no such user\"");
        assert_eq!(group("no such group").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_number_that_changes_nothing_is_nobody() {
        assert_eq!(account("4294967295").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(group("4294967295").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(account("-1").is_err() && account("").is_err());
    }

    #[test]
    fn we_are_who_the_kernel_says() {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let id = |key| {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap();
            line.split_whitespace().nth(2).unwrap().parse::<u32>().unwrap()
        };
        assert_eq!((effective_uid(), effective_gid()), (id("Uid:"), id("Gid:")));
    }
}
