//! Users and groups of the system's database. May read files and ask a directory service: never after a clone.

use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, getgrouplist};
use std::ffi::CString;
use std::io;

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
    let found = Group::from_name(name_or_number)?;
    found.map(|group| group.gid.as_raw()).ok_or_else(|| unknown("group", name_or_number))
}

fn unknown(what: &str, name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no {what} \"{name}\""))
}

/// Every group of a user, its main group too.
pub fn groups_of(account: &Account) -> Vec<u32> {
    let listed = CString::new(account.name.as_str())
        .ok()
        .and_then(|name| getgrouplist(&name, Gid::from_raw(account.gid)).ok());
    match listed {
        Some(groups) => groups.into_iter().map(Gid::as_raw).collect(),
        None => vec![account.gid],
    }
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
    fn root_is_known_by_name_and_number() {
        let root = account("root").unwrap();
        assert_eq!((root.uid, root.gid, root.home.as_str()), (0, 0, "/root"));
        assert_eq!(account("0").unwrap(), root);
        assert!(groups_of(&root).contains(&0));
        assert_eq!(group("root").unwrap(), 0);
    }

    #[test]
    fn a_number_needs_no_entry_but_a_name_does() {
        let nobody = account("3999999").unwrap();
        assert_eq!((nobody.uid, nobody.gid, nobody.home.as_str()), (3_999_999, 3_999_999, "/"));
        assert_eq!(groups_of(&nobody), [3_999_999]);
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
