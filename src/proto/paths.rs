//! Where aeternad and aeternactl meet: the runtime directory and the control socket in it.

use std::path::{Path, PathBuf};

/// The runtime directory (contract section 2).
///
/// `explicit` is `--runtime-dir`; `env` looks an environment variable up; `uid` is the effective user.
/// In this order: `explicit`, `AETERNA_RUNTIME_DIR`, for root `/run/aeterna`, `$XDG_RUNTIME_DIR/aeterna`,
/// `/tmp/aeterna-UID`. An empty variable counts as unset, a relative `XDG_RUNTIME_DIR` too (XDG Base
/// Directory Specification).
pub fn runtime_dir(explicit: Option<&str>, env: &dyn Fn(&str) -> Option<String>, uid: u32) -> PathBuf {
    if let Some(dir) = explicit {
        return PathBuf::from(dir);
    }
    if let Some(dir) = env("AETERNA_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        return PathBuf::from(dir);
    }
    if uid == 0 {
        return PathBuf::from("/run/aeterna");
    }
    match env("XDG_RUNTIME_DIR").filter(|dir| dir.starts_with('/')) {
        Some(dir) => Path::new(&dir).join("aeterna"),
        None => PathBuf::from(format!("/tmp/aeterna-{uid}")),
    }
}

/// What `%t` stands for in a unit: `/run` for root, else `$XDG_RUNTIME_DIR` (systemd.unit(5), "Specifiers"), else the
/// user's own folder in /tmp. Arguments as for [`runtime_dir`].
pub fn unit_runtime_root(env: &dyn Fn(&str) -> Option<String>, uid: u32) -> String {
    if uid == 0 {
        return "/run".into();
    }
    let dir = env("XDG_RUNTIME_DIR").filter(|dir| dir.starts_with('/'));
    dir.map_or(format!("/tmp/aeterna-{uid}"), |dir| dir.trim_end_matches('/').to_string())
}

/// The control socket in a runtime directory.
pub fn control_path(dir: &Path) -> PathBuf {
    dir.join("control.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(explicit: Option<&str>, variables: &[(&str, &str)], uid: u32) -> String {
        let env =
            |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_string());
        runtime_dir(explicit, &env, uid).display().to_string()
    }

    #[test]
    fn the_first_that_is_said_counts() {
        let both = [("AETERNA_RUNTIME_DIR", "/a"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        assert_eq!(dir(Some("/x"), &both, 0), "/x");
        assert_eq!(dir(None, &both, 0), "/a");
        assert_eq!(dir(None, &both[1..], 0), "/run/aeterna");
        assert_eq!(dir(None, &both[1..], 7), "/run/user/7/aeterna");
        assert_eq!(dir(None, &[], 7), "/tmp/aeterna-7");
    }

    #[test]
    fn an_empty_variable_is_none() {
        assert_eq!(dir(None, &[("AETERNA_RUNTIME_DIR", ""), ("XDG_RUNTIME_DIR", "")], 7), "/tmp/aeterna-7");
        assert_eq!(dir(None, &[("XDG_RUNTIME_DIR", "here")], 7), "/tmp/aeterna-7");
    }

    #[test]
    fn a_units_runtime_root_is_systemds() {
        let env = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| "/run/user/7/".to_string());
        assert_eq!(unit_runtime_root(&env, 0), "/run");
        assert_eq!(unit_runtime_root(&env, 7), "/run/user/7");
        assert_eq!(unit_runtime_root(&|_| None, 7), "/tmp/aeterna-7");
    }

    #[test]
    fn the_control_socket_is_in_it() {
        assert_eq!(control_path(Path::new("/run/aeterna")), Path::new("/run/aeterna/control.sock"));
    }
}
