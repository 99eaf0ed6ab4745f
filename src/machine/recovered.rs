//! Whose a process is that an aeternad before us has started: decided by what was written of it and what is there now.
//!
//! A pid alone proves nothing. Where anything contradicts, the process is somebody else's: it is never signalled, and ours
//! has ended.

use super::event::Exit;

/// What was written of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// When it was started, in clock ticks, if somebody has looked.
    pub start_time: Option<u64>,
    /// The inode of its pidfd, where that is one number for one process for ever (from Linux 6.9 on).
    pub inode: Option<u64>,
}

/// What is there under its pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum There {
    /// A pidfd of it was held for us: this is it, whoever has its number. Whether and how it has ended.
    Held(Life),
    /// Nobody has this pid.
    Nobody,
    /// Somebody has; what was read of him while he lived.
    Somebody(Somebody),
}

/// Whether a process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It does.
    Lives,
    /// It does not; how it ended, where the kernel still tells.
    Over(Option<Exit>),
}

/// Who has a pid now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Somebody {
    /// When he was started; `None` where /proc does not tell.
    pub start_time: Option<u64>,
    /// The inode of a pidfd of his, as [`Written::inode`].
    pub inode: Option<u64>,
    /// Whether he is in the generation's control group; `None` if it has none.
    pub in_group: Option<bool>,
    /// Whether the generation's mark is in his environment; `None` if that cannot be read.
    pub marked: Option<bool>,
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It is ours, and lives.
    Alive,
    /// It has ended.
    Ended(Exit),
    /// Who has its pid is somebody else, or nothing proves that he is not: why, for people.
    Stranger(String),
}

/// Decides it.
pub fn judge(written: Written, there: There) -> Found {
    let somebody = match there {
        There::Held(Life::Lives) => return Found::Alive,
        There::Held(Life::Over(exit)) => return Found::Ended(exit.unwrap_or(Exit::Unknown)),
        There::Nobody => return Found::Ended(Exit::Unknown),
        There::Somebody(somebody) => somebody,
    };
    let differs =
        |what: &str, was: u64, is: u64| Found::Stranger(format!("its {what} is {is}, and was {was}"));
    if let (Some(was), Some(is)) = (written.start_time, somebody.start_time)
        && was != is
    {
        return differs("start time", was, is);
    }
    match (written.inode, somebody.inode) {
        (Some(was), Some(is)) if was == is => return Found::Alive,
        (Some(was), Some(is)) => return differs("number", was, is),
        _ => {}
    }
    if somebody.in_group == Some(false) {
        return Found::Stranger("it is not in the control group of ours".into());
    }
    let same_start = written.start_time.is_some() && written.start_time == somebody.start_time;
    if same_start || somebody.in_group == Some(true) || somebody.marked == Some(true) {
        return Found::Alive;
    }
    Found::Stranger("nothing proves that it is ours".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn somebody(start_time: u64, inode: u64, in_group: i8, marked: i8) -> There {
        let known = |number: u64| (number != 0).then_some(number);
        let answer = |word: i8| (word >= 0).then_some(word == 1);
        There::Somebody(Somebody {
            start_time: known(start_time),
            inode: known(inode),
            in_group: answer(in_group),
            marked: answer(marked),
        })
    }

    #[test]
    fn a_pidfd_that_was_held_is_the_process_itself() {
        let nothing = Written::default();
        assert_eq!(judge(nothing, There::Held(Life::Lives)), Found::Alive);
        assert_eq!(judge(nothing, There::Held(Life::Over(Some(Exit::Code(7))))), Found::Ended(Exit::Code(7)));
        assert_eq!(judge(nothing, There::Held(Life::Over(None))), Found::Ended(Exit::Unknown));
        assert_eq!(judge(nothing, There::Nobody), Found::Ended(Exit::Unknown));
    }

    #[test]
    fn a_pid_alone_proves_nothing_and_a_contradiction_disproves() {
        // start time and inode as written; start time, inode, group and mark as seen (0 and -1: not known).
        let table = [
            (9, 0, somebody(9, 0, -1, -1), true),
            (9, 0, somebody(9, 0, 1, 0), true),
            (9, 5, somebody(9, 5, -1, -1), true),
            (0, 5, somebody(9, 5, -1, -1), true),
            (0, 0, somebody(9, 0, 1, -1), true),
            (0, 0, somebody(9, 0, -1, 1), true),
            (9, 0, somebody(0, 0, -1, 1), true),
            (9, 0, somebody(10, 0, -1, 1), false),
            (9, 5, somebody(9, 6, 1, 1), false),
            (9, 0, somebody(9, 0, 0, 1), false),
            (9, 5, somebody(10, 5, 1, 1), false),
            (0, 0, somebody(9, 7, -1, -1), false),
            (0, 0, somebody(9, 7, -1, 0), false),
            (9, 0, somebody(0, 0, -1, -1), false),
            (0, 5, somebody(9, 0, -1, 0), false),
        ];
        for (start, inode, there, ours) in table {
            let known = |number: u64| (number != 0).then_some(number);
            let found = judge(Written { start_time: known(start), inode: known(inode) }, there);
            assert_eq!(found == Found::Alive, ours, "{start} {inode} {there:?}: {found:?}");
            assert!(!matches!(found, Found::Ended(_)), "somebody is there: {found:?}");
        }
    }
}
