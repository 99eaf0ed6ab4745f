//! What of a release is gone, and how that is said.

use crate::machine::event::Gen;
use crate::sys::pin::{Kind, Look, Pin};
use crate::time::of_day;
use std::path::{Path, PathBuf};

/// What cannot be run any more.
#[derive(Debug, Clone, PartialEq)]
pub enum Gone {
    /// A folder was removed, or moved.
    Folder(PathBuf),
    /// Another folder has its name.
    OtherFolder(PathBuf),
    /// Another file has its name.
    OtherFile(PathBuf),
    /// The file was written to, at this time (seconds since 1970).
    Overwritten(PathBuf, f64),
    /// A script whose name means another file.
    ReplacedScript(PathBuf),
    /// A script that has no name any more.
    RemovedScript(PathBuf),
}

impl Gone {
    /// Of a folder, or of a file that is not executed.
    pub fn of_place(pin: &Pin) -> Option<Gone> {
        let path = pin.name().to_owned();
        match pin.look() {
            Look::Same => None,
            Look::Removed => Some(Gone::Folder(path)),
            Look::Replaced if pin.kind() != Kind::Folder => Some(Gone::OtherFile(path)),
            Look::Replaced => Some(Gone::OtherFolder(path)),
            Look::Overwritten(at) => Some(Gone::Overwritten(path, at)),
        }
    }

    /// Of a program.
    pub fn of_program(pin: &Pin) -> Option<Gone> {
        let look = pin.look();
        let path = pin.name().to_owned();
        match look {
            Look::Same => None,
            Look::Overwritten(at) => Some(Gone::Overwritten(path, at)),
            Look::Removed | Look::Replaced if pin.runs() => None,
            Look::Replaced => Some(Gone::ReplacedScript(path)),
            Look::Removed if pin.kind() == Kind::Folder => Some(Gone::Folder(path)),
            Look::Removed => Some(Gone::RemovedScript(path)),
        }
    }

    /// What it is that is gone.
    pub fn path(&self) -> &Path {
        match self {
            Gone::Folder(path)
            | Gone::OtherFolder(path)
            | Gone::OtherFile(path)
            | Gone::Overwritten(path, _)
            | Gone::ReplacedScript(path)
            | Gone::RemovedScript(path) => path,
        }
    }

    /// For people: what `generation` ran, why it is no more, and what to do.
    pub fn told(&self, generation: Option<Gen>) -> String {
        let path = self.path().display();
        let whose =
            generation.map_or_else(|| "this release".into(), |Gen(number)| format!("generation {number}"));
        match self {
            Gone::Folder(_) => format!("the release of {whose}, {path}, has been removed"),
            Gone::OtherFolder(_) => format!("{path} is not the folder any more that {whose} ran in"),
            Gone::OtherFile(_) => format!(
                "{path} is not the file any more that {whose} ran; \
                 deploy each release under a name of its own, behind a link that Release names"
            ),
            Gone::Overwritten(_, at) => format!(
                "{path} was overwritten in place at {}, so what {whose} ran exists no more; \
                 replace programs by rename (mv, install, rsync without --inplace)",
                of_day(*at)
            ),
            Gone::ReplacedScript(_) => format!(
                "{path} is a script and was replaced by rename; a script runs by its name. \
                 Deploy each release to a folder of its own, behind a link that Release names (Release = \"/srv/app/current\")"
            ),
            Gone::RemovedScript(_) => format!(
                "{path} is a script and was removed; a script runs by its name. \
                 Deploy each release to a folder of its own, behind a link that Release names (Release = \"/srv/app/current\")"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_loss_is_told_with_its_object_and_what_to_do() {
        let path = || PathBuf::from("/srv/app");
        for (gone, expected) in [
            (Gone::Folder(path()), "the release of generation 3, /srv/app, has been removed"),
            (Gone::OtherFolder(path()), "/srv/app is not the folder any more that generation 3 ran in"),
            (
                Gone::Overwritten(path(), 43_381.5),
                "overwritten in place at 12:03:01Z, so what generation 3 ran",
            ),
            (Gone::ReplacedScript(path()), "/srv/app is a script and was replaced by rename"),
            (Gone::OtherFile(path()), "/srv/app is not the file any more that generation 3 ran"),
            (Gone::RemovedScript(path()), "behind a link that Release names"),
        ] {
            let told = gone.told(Some(Gen(3)));
            assert!(told.contains(expected), "{told}");
        }
    }
}
