//! What of a unit a rollback could not bring back, though it looks as if it could: pure, from what is found of its paths.

use super::value::runs_a_language;
use super::{Unit, named_files};

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// The first component of the path that is a symlink.
    pub link: Option<String>,
    /// What the path leads to.
    pub what: What,
    /// What the first line of a script names.
    pub interpreter: Option<String>,
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum What {
    /// Nothing, or what nobody may see.
    #[default]
    Nothing,
    /// A folder.
    Folder,
    /// A file that begins with `#!`.
    Script,
    /// Another file.
    File,
}

/// What is to be said, and the text in the unit that it is about.
pub(super) type Advice = (String, String);

/// Folders that a package manager fills: nobody moves links there to deploy a service.
const OTHERS: &[&str] = &[
    "/usr",
    "/etc",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix",
    "/gnu",
    "/dev",
    "/proc",
    "/sys",
    "/run",
    "/var/run",
    "/var/lock",
    "/snap",
];

/// The advice for a unit, from what `look` finds at a path.
pub(super) fn advice(unit: &Unit, look: &dyn Fn(&str) -> Found) -> Vec<Advice> {
    let mut found: Vec<Advice> = about_interpreters(unit, look).collect();
    if let Some(name) = &unit.service.release {
        found.extend(about_release(name, look));
        return found;
    }
    let mut links: Vec<String> = Vec::new();
    for named in named_files(unit).into_iter().filter(|named| !is_others(&named.path)) {
        let Found { link: Some(link), what, .. } = look(&named.path) else { continue };
        if what == What::Nothing || is_others(&link) || links.contains(&link) {
            continue;
        }
        let text = format!(
            "{} names {} through the symlink {link}: a restart may run another release than the reload; add \
             Release = \"{link}\"",
            named.key, named.path
        );
        links.push(link);
        found.push((named.path, text));
    }
    if found.is_empty() {
        found.extend(about_script(unit, look));
    }
    found
}

/// The link that a unit's `Release` should name, as far as its paths tell: the one that `look` finds in them or, of paths
/// that are not here, the one that deployment tools call so.
pub(super) fn release_of(unit: &Unit, look: &dyn Fn(&str) -> Found) -> Option<String> {
    let service = &unit.service;
    if service.release.is_some() {
        return None;
    }
    let named = named_files(unit);
    let programs = service.exec_start.iter().filter_map(|command| command.argv.first().map(String::as_str));
    let folder = service.working_directory.as_ref().map(|folder| folder.path.as_str());
    let all = programs.chain(folder).chain(named.iter().map(|named| named.path.as_str()));
    let all: Vec<&str> = all.filter(|path| path.starts_with('/') && !is_others(path)).collect();
    let here = all.iter().find_map(|path| {
        let Found { link, what, .. } = look(path);
        // The link of a program alone is its version, which a launch resolves.
        let link = link.filter(|link| what != What::Nothing && !is_others(link))?;
        (link.as_str() != *path || look(&link).what == What::Folder).then_some(link)
    });
    here.or_else(|| all.iter().find_map(|path| customary(path).filter(|_| look(path).what == What::Nothing)))
}

/// The part of a path up to a component that Capistrano, Deployer, Mina and their kin make a link.
fn customary(path: &str) -> Option<String> {
    let end = path.match_indices("/current").map(|(at, name)| at + name.len());
    let mut ends = end.filter(|end| path[*end..].is_empty() || path[*end..].starts_with('/'));
    ends.next().map(|end| path[..end].to_owned())
}

/// Scripts whose first line goes through the link that deployments move, as pip(1) writes it in an environment that was made
/// under that name: the kernel follows it at each start.
fn about_interpreters(unit: &Unit, look: &dyn Fn(&str) -> Found) -> impl Iterator<Item = Advice> {
    let programs = unit.service.exec_start.iter().filter_map(|command| command.argv.first());
    programs.filter_map(move |program| {
        let interpreter = look(program).interpreter.filter(|path| !is_others(path))?;
        // Its own last component may be a link: python -> python3.
        let (folder, _) = interpreter.rsplit_once('/')?;
        let link = look(folder).link.filter(|link| !is_others(link))?;
        let text = format!(
            "the first line of {program} names {interpreter} through the symlink {link}: a restart may run another \
             release's interpreter, with Release too; make the environment under its real path"
        );
        Some((program.clone(), text))
    })
}

fn about_release(name: &str, look: &dyn Fn(&str) -> Found) -> Option<Advice> {
    let Found { link, what, .. } = look(name);
    let what = match what {
        What::Nothing => return None,
        What::Folder => "folder",
        What::Script | What::File => "file",
    };
    if link.is_some() {
        return None;
    }
    let text = format!(
        "Release = \"{name}\" is a {what} itself: what is overwritten there is not kept, and a rollback cannot bring it \
         back; name a link that each deployment moves"
    );
    Some((name.to_owned(), text))
}

/// A script, or what an interpreter is given, that has one name for all releases.
fn about_script(unit: &Unit, look: &dyn Fn(&str) -> Found) -> Option<Advice> {
    let command = unit.service.exec_start.first()?;
    let program = command.argv.first()?;
    let is_one = |path: &str| {
        let Found { link, what, .. } = look(path);
        path.starts_with('/')
            && link.is_none()
            && !is_others(path)
            && matches!(what, What::Script | What::File)
    };
    let script = if runs_a_language(program) {
        let mut words = command.argv.iter().skip(1);
        words.find(|word| is_one(word) && (look(word).what == What::Script || is_source(word)))?
    } else if is_one(program) && look(program).what == What::Script {
        program
    } else {
        return None;
    };
    let text = format!(
        "{script} has one name for every release: a rollback cannot bring it back once it was replaced; deploy each \
         release to a folder of its own, behind a link that Release names"
    );
    Some((script.clone(), text))
}

fn is_others(path: &str) -> bool {
    OTHERS
        .iter()
        .any(|folder| path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Whether a file is what an interpreter runs, by its name.
fn is_source(path: &str) -> bool {
    const SOURCES: [&str; 12] =
        ["py", "pyz", "js", "mjs", "cjs", "ts", "rb", "php", "pl", "sh", "jar", "dll"];
    path.rsplit_once('.').is_some_and(|(_, end)| SOURCES.contains(&end))
}

#[cfg(test)]
mod tests {
    use super::super::{Context, parse};
    use super::*;

    fn said(service: &str) -> Vec<String> {
        let context =
            Context { stem: "app".into(), file: String::new(), runtime_dir: "/run/a".into(), pid1: false };
        let unit = parse(&format!("[Service]\n{service}\n"), &context).unwrap().unit;
        let look = |path: &str| {
            let link = path.starts_with("/srv/current").then(|| "/srv/current".to_owned());
            let what = match path {
                _ if path.contains("missing") => What::Nothing,
                "/srv/current" | "/srv/app" => What::Folder,
                _ if path.contains("run") => What::Script,
                _ => What::File,
            };
            let interpreter = match path {
                "/srv/current/serve" => Some("/srv/current/venv/bin/python".to_owned()),
                "/srv/current/run" => Some("/usr/bin/python3".to_owned()),
                _ => None,
            };
            Found { link, what, interpreter }
        };
        advice(&unit, &look).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn the_link_that_a_release_is_behind_is_found_here_or_by_its_customary_name() {
        let release = |service: &str, here: bool| {
            let context = Context {
                stem: "app".into(),
                file: String::new(),
                runtime_dir: "/run/a".into(),
                pid1: false,
            };
            let unit = parse(&format!("[Service]\n{service}\n"), &context).unwrap().unit;
            let look = |path: &str| {
                let link = ["/srv/live", "/srv/app"].into_iter().find(|link| path.starts_with(link));
                match (here, path) {
                    (false, _) => Found::default(),
                    (_, "/srv/live") => {
                        Found { link: link.map(str::to_owned), what: What::Folder, interpreter: None }
                    }
                    _ => Found { link: link.map(str::to_owned), what: What::File, interpreter: None },
                }
            };
            release_of(&unit, &look)
        };
        for (service, here, expected) in [
            ("ExecStart = ['/usr/bin/node', '/srv/live/app.js']", true, Some("/srv/live")),
            ("ExecStart = '/srv/live/venv/bin/gunicorn app'", true, Some("/srv/live")),
            ("ExecStart = '/usr/bin/puma'\nWorkingDirectory = '/srv/live'", true, Some("/srv/live")),
            // A program whose own name is a link to one of its versions.
            ("ExecStart = '/srv/app'", true, None),
            ("ExecStart = '/usr/bin/app'", true, None),
            ("ExecStart = ['/usr/bin/node', '/srv/live/app.js']\nRelease = '/srv/live'", true, None),
            ("ExecStart = ['/usr/bin/node', '/srv/live/app.js']", false, None),
            (
                "ExecStart = '/usr/bin/puma'\nWorkingDirectory = '/srv/a/current'",
                false,
                Some("/srv/a/current"),
            ),
            ("ExecStart = '/srv/currently/b /srv/a/current/x'", false, Some("/srv/a/current")),
            ("ExecStart = '/srv/a/current/x'", true, None),
        ] {
            assert_eq!(release(service, here).as_deref(), expected, "{service} {here}");
        }
    }

    #[test]
    fn what_cannot_be_brought_back_is_said_once_and_nothing_else() {
        let link = "through the symlink /srv/current: a restart may run another release than the reload; add Release = \"/srv/current\"";
        let name = "has one name for every release";
        for (service, expected) in [
            ("ExecStart = ['/usr/bin/python3', '/srv/current/app.py', '--x=/srv/current/y']", link),
            (
                "ExecStart = '/opt/app'\nEnvironment = { ROOT = '/srv/current' }",
                "Environment names /srv/current",
            ),
            ("ExecStart = ['/usr/bin/node', '/srv/app.js']", name),
            ("ExecStart = ['/usr/bin/java', '-jar', '/srv/app.jar']", name),
            ("ExecStart = ['/bin/sh', '/srv/run']", name),
            ("ExecStart = '/srv/run'", "/srv/run has one name"),
            ("ExecStart = '/a'\nRelease = '/srv/app'", "is a folder itself"),
            ("ExecStart = '/a'\nRelease = '/srv/file'", "is a file itself"),
            (
                "ExecStart = '/srv/current/serve'\nRelease = '/srv/current'",
                "the first line of /srv/current/serve names /srv/current/venv/bin/python through the symlink /srv/current",
            ),
            ("ExecStart = '/srv/current/serve'", "another release's interpreter, with Release too"),
        ] {
            let said = said(service);
            assert!(said.len() == 1 && said[0].contains(expected), "{service}: {said:?}");
        }
        for service in [
            "ExecStart = '/srv/current/run'",
            "ExecStart = '/srv/app/bin'",
            "ExecStart = ['/usr/bin/python3', '/usr/lib/app.py']",
            "ExecStart = ['/usr/bin/python3', '/srv/missing.py']",
            "ExecStart = ['/usr/bin/python3', '-m', 'app', '/srv/data']",
            "ExecStart = ['/usr/sbin/nginx', '-c', '/etc/nginx/run']",
            "ExecStart = ['/usr/bin/python3', '/srv/current/app.py']\nRelease = '/srv/current'",
            "ExecStart = '/a'\nRelease = '/srv/missing'",
        ] {
            assert_eq!(said(service), [""; 0], "{service}");
        }
    }
}
