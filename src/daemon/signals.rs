//! Who gets a signal: one process, or everything that belongs to a generation or a command, as far as that can be seen.
//!
//! To nobody else, whoever has their pids by now. Whatever cannot be seen (no /proc, one that hides other users' processes), what we started ourselves always can be
//! reached: it is our child until we reap it, and leads a process group.

use crate::daemon::core::Daemon;
use crate::daemon::supervised::{Child, GenerationShell, Supervised};
use crate::machine::event::{Announcement, Gen, Proc, Role, Target};
use crate::sys::tree::{self, Main, Member, TreeKey};
use crate::sys::{hung, process, procfs, spawn};
use crate::unit::{Input, Strategy, Unit, signal_name};
use std::collections::HashSet;
use std::os::fd::AsFd;

/// SIGKILL, by its number: a control group can do it in one step.
const SIGKILL: i32 = 9;

/// SIGWINCH.
const SIGWINCH: i32 = 28;

/// ESRCH.
const NO_SUCH_PROCESS: i32 = 3;

/// EPERM.
const NOT_PERMITTED: i32 = 1;

/// How many processes that do not end are named.
const SHOWN: usize = 8;

/// Whom a signal is sent to.
#[derive(Debug, Default)]
struct Reach<'a> {
    /// Of a control group, and our own children.
    pids: Vec<i32>,
    /// Of a tree: the start time tells them from whoever has their pid later.
    members: Vec<Member>,
    /// Process groups, by their leaders: where single processes cannot be seen.
    groups: Vec<i32>,
    /// Processes that need not lead a group: they have become main ones by MAINPID=.
    adopted: Vec<&'a Child>,
}

impl<'a> Reach<'a> {
    fn everybody(&self) -> impl Iterator<Item = i32> {
        let members = self.members.iter().map(|member| member.pid);
        let adopted = self.adopted.iter().map(|child| child.pid);
        self.pids.iter().copied().chain(members).chain(self.groups.iter().copied()).chain(adopted)
    }

    /// Who they are, for people; `None` if nobody is left.
    fn names(&self) -> Option<String> {
        let shown: Vec<String> = self.everybody().take(SHOWN).map(process::portrait).collect();
        let more = self.everybody().skip(SHOWN).count();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        (!shown.is_empty()).then(|| format!("{}{more}", shown.join(", ")))
    }

    /// What holds one of them up that does not end, where that can be seen.
    fn why(&self) -> Option<String> {
        self.everybody().take(SHOWN).find_map(hung::explain)
    }

    /// Adds children that are not among what was seen.
    fn add_unseen(&mut self, children: impl Iterator<Item = &'a Child>) {
        let seen: HashSet<i32> = self.everybody().collect();
        for child in children.filter(|child| !seen.contains(&child.pid)) {
            if child.watched {
                self.adopted.push(child);
            } else {
                self.groups.push(child.pid);
            }
        }
    }
}

impl Daemon {
    /// Sends a signal. A target that is gone is no error.
    pub fn signal(&mut self, index: usize, to: Target, signal: i32) {
        if signal == SIGKILL {
            self.note_killed(index, to);
        }
        self.end_awaited(index, to, signal);
        let unit = &self.units[index];
        match to {
            Target::Proc(proc) => {
                if let Some(child) = unit.children.get(&proc).filter(|child| !child.gone) {
                    self.send_to_child(unit, child, signal);
                }
            }
            Target::Mains(number) => {
                for child in mains(unit, number) {
                    self.send_to_child(unit, child, signal);
                }
            }
            Target::Everyone(number) => {
                let group = unit.generations.get(&number).and_then(|shell| shell.kit.cgroup.as_ref());
                if signal == SIGKILL && group.is_some_and(|group| group.kill().is_ok()) {
                    return;
                }
                self.send_all(unit, &self.reach_of_generation(unit, number), signal);
            }
            Target::ProcTree(proc) => self.send_all(unit, &self.reach_of_tree(unit, proc), signal),
        }
    }

    /// The size of the terminal that we share with the one service has changed.
    pub fn window_changed(&mut self) {
        let whose = self.units.iter().find(|unit| unit.current.unit.service.standard_input == Input::Inherit);
        if let (true, Some(unit)) = (self.shared.terminal, whose) {
            for child in living(unit).filter(|child| is_main(child)) {
                self.send_to_child(unit, child, SIGWINCH);
            }
        }
    }

    /// What SIGKILL ends from now on was ended by us.
    fn note_killed(&mut self, index: usize, to: Target) {
        for (proc, child) in &mut self.units[index].children {
            child.killed |= match to {
                Target::Proc(of) | Target::ProcTree(of) => *proc == of,
                Target::Mains(number) => child.generation == Some(number) && is_main(child),
                Target::Everyone(number) => child.generation == Some(number),
            };
        }
    }

    fn send_to_child(&self, unit: &Supervised, child: &Child, signal: i32) {
        let sent = match &child.pidfd {
            Some(pidfd) => process::pidfd_signal(pidfd.as_fd(), signal),
            None => process::kill(child.pid, signal),
        };
        if let Err(error) = sent {
            self.not_sent(unit, child.pid, signal, &error);
        }
    }

    fn send_all(&self, unit: &Supervised, reach: &Reach<'_>, signal: i32) {
        for pid in &reach.pids {
            if let Err(error) = process::kill(*pid, signal) {
                self.not_sent(unit, *pid, signal, &error);
            }
        }
        for member in &reach.members {
            if let Err(error) = process::signal_exactly(member.pid, member.start_time, signal) {
                self.not_sent(unit, member.pid, signal, &error);
            }
        }
        for child in &reach.adopted {
            self.send_to_child(unit, child, signal);
        }
        for group in &reach.groups {
            if let Err(error) = process::kill_group(*group, signal) {
                self.not_sent(unit, -*group, signal, &error);
            }
        }
    }

    /// A signal could not be sent to a process, or to a group (negative). Without CAP_KILL it takes the rights of the
    /// service's user, whom we may become.
    fn not_sent(&self, unit: &Supervised, whom: i32, signal: i32, error: &std::io::Error) {
        if error.raw_os_error() == Some(NO_SUCH_PROCESS) {
            return;
        }
        let pid = whom.abs();
        let user = process::user_of(pid).or_else(|| owner_of(unit, pid));
        if error.raw_os_error() == Some(NOT_PERMITTED)
            && user.is_some_and(|uid| spawn::kill_as(uid, whom, signal).is_ok())
        {
            return;
        }
        let advice = match (error.raw_os_error(), user) {
            (Some(NOT_PERMITTED), Some(uid)) => {
                format!(" (it runs as user {uid}, and aeternad has neither CAP_KILL nor CAP_SETUID)")
            }
            (Some(NOT_PERMITTED), None) => " (aeternad has no CAP_KILL)".into(),
            _ => String::new(),
        };
        log::warn!("{}: cannot send {} to process {pid}: {error}{advice}", unit.name, signal_name(signal));
    }

    fn reach_of_generation<'a>(&self, unit: &'a Supervised, number: Gen) -> Reach<'a> {
        let mut reach = Reach::default();
        let Some(shell) = unit.generations.get(&number) else { return reach };
        match &shell.kit.cgroup {
            Some(group) => reach.pids = group.pids(),
            None => {
                reach.members = tree::members_of(&shell.tree_key(), self.shared.pid);
            }
        }
        // A control group knows everybody, unless its file system was taken away.
        if shell.kit.cgroup.as_ref().is_none_or(|group| reach.pids.is_empty() && group.populated()) {
            reach.add_unseen(living(unit).filter(|child| child.generation == Some(number)));
            reach.groups.extend(&shell.groups);
        }
        reach
    }

    /// What a command has started, while it lives and at its end.
    fn reach_of_tree<'a>(&self, unit: &'a Supervised, proc: Proc) -> Reach<'a> {
        let Some(child) = unit.children.get(&proc) else { return Reach::default() };
        // The mark of a generation is on its main processes too, which are not below this one.
        let invocation = if child.generation.is_some() { "" } else { child.invocation.as_str() };
        let mains = [Main { pid: child.pid, reaped: child.gone, start_time: child.started }];
        let members =
            tree::members_of(&TreeKey { mains: &mains, invocation, strayed: child.watched }, self.shared.pid);
        let mut reach = Reach { members, ..Reach::default() };
        if !child.gone || !procfs::shows_us() {
            reach.add_unseen(std::iter::once(child));
        }
        reach
    }

    /// Every process of a generation's tree that can be seen.
    pub fn members(&self, unit: &Supervised, number: Gen) -> Vec<i32> {
        unit.generations.get(&number).map_or_else(Vec::new, |shell| shell.members(self.shared.pid))
    }

    /// Whether a process belongs to a generation. Asks about this one only: a service chooses how many there are, and
    /// how often it is asked.
    pub fn is_member(&self, unit: &Supervised, number: Gen, pid: i32) -> bool {
        let Some(shell) = unit.generations.get(&number) else { return false };
        match &shell.kit.cgroup {
            Some(group) => group.holds(pid),
            None => tree::is_member(&shell.tree_key(), pid, self.shared.pid),
        }
    }

    /// Whether nothing of a generation is left.
    pub fn is_empty(&self, unit: &Supervised, number: Gen) -> bool {
        let Some(shell) = unit.generations.get(&number) else { return true };
        match &shell.kit.cgroup {
            Some(group) => !group.populated(),
            None => self.members(unit, number).is_empty() && !has_group(shell),
        }
    }

    /// As [`Daemon::is_empty`], where there is no control group by what was seen of all processes already.
    pub fn is_empty_in(&self, unit: &Supervised, number: Gen, seen: &tree::Snapshot) -> bool {
        let Some(shell) = unit.generations.get(&number).filter(|shell| shell.kit.cgroup.is_none()) else {
            return self.is_empty(unit, number);
        };
        seen.members(&shell.tree_key(), self.shared.pid).is_empty() && !has_group(shell)
    }

    /// A process that led a group has been reaped. Where its tree cannot be seen, the group is what reaches the others:
    /// its number stays taken for as long as anybody is in it.
    pub fn keep_group(&mut self, index: usize, generation: Option<Gen>, pid: i32) {
        if procfs::shows_us() || process::kill_group(pid, 0).is_err() {
            return;
        }
        // Who was not ours to reap may have left the number to anybody.
        let ours = |shell: &&mut Box<GenerationShell>| !shell.strayed;
        if let Some(shell) =
            generation.and_then(|number| self.units[index].generations.get_mut(&number)).filter(ours)
        {
            shell.groups.retain(|group| process::kill_group(*group, 0).is_ok());
            shell.groups.push(pid);
        }
    }

    /// Whether the processes that `Strategy = "signal"` would signal do something with it: most signals end whoever does not.
    ///
    /// # Errors
    /// Which process does not, and what to do.
    pub fn reload_is_heard(&self, index: usize, content: &Unit) -> Result<(), String> {
        let unit = &self.units[index];
        let signal = content.reload.reload_signal;
        if content.reload.strategy != Strategy::Signal || !content.service.exec_reload.is_empty() {
            return Ok(());
        }
        let serving = unit.promoted.into_iter().flat_map(|number| mains(unit, number));
        let deaf =
            serving.map(|child| child.pid).find(|pid| process::signal_handled(*pid, signal) == Some(false));
        deaf.map_or(Ok(()), |pid| {
            Err(format!(
                "{} does not handle {}, which would end it or do nothing: set ReloadSignal or ExecReload, or another Strategy",
                process::portrait(pid),
                signal_name(signal)
            ))
        })
    }

    /// Who is meant, for people, and the processes of it that are left.
    fn left_of<'a>(&self, unit: &'a Supervised, what: Target) -> (String, Reach<'a>) {
        match what {
            Target::Everyone(number) | Target::Mains(number) => {
                (format!("generation {}", number.0), self.reach_of_generation(unit, number))
            }
            Target::ProcTree(proc) => (name_of(unit, proc).into(), self.reach_of_tree(unit, proc)),
            Target::Proc(proc) => {
                let alone = unit.children.get(&proc).filter(|child| !child.gone).map(|child| child.pid);
                (name_of(unit, proc).into(), Reach { pids: alone.into_iter().collect(), ..Reach::default() })
            }
        }
    }

    /// Says what was killed and has not ended yet, and what may help: the stop waits for it, for as long as it may.
    pub fn lingers(&mut self, index: usize, what: Target) {
        let (who, reach) = self.left_of(&self.units[index], what);
        let Some(left) = reach.names() else { return };
        let why = reach.why().map_or_else(String::new, |why| format!("; {why}"));
        let text = format!("{who} was killed and has not ended yet: {left}{why}");
        self.announce(index, Announcement::Warning { text });
    }

    /// Says what could not be killed: nobody waits for it any more.
    pub fn give_up(&mut self, index: usize, what: Target) {
        let (who, reach) = self.left_of(&self.units[index], what);
        let Some(left) = reach.names() else {
            // It has ended meanwhile, and we have not heard of it yet.
            return;
        };
        let why = reach.why();
        let text = format!(
            "{who} was killed and does not end: {}; it is left alone, and nothing waits for it any more. {}",
            left,
            why.as_deref()
                .unwrap_or("A process in state D hangs in the kernel or is frozen with its control group")
        );
        self.announce(index, Announcement::Warning { text });
    }
}

/// Whether anybody is left in a group that its leader has left.
fn has_group(shell: &GenerationShell) -> bool {
    shell.groups.iter().any(|group| process::kill_group(*group, 0).is_ok())
}

fn is_main(child: &Child) -> bool {
    matches!(child.role, Role::Main { .. } | Role::Instance(_))
}

/// The processes that we have started and not reaped.
fn living(unit: &Supervised) -> impl Iterator<Item = &Child> {
    unit.children.values().filter(|child| !child.gone)
}

fn mains(unit: &Supervised, number: Gen) -> impl Iterator<Item = &Child> {
    living(unit).filter(move |child| child.generation == Some(number) && is_main(child))
}

/// The user that the generation of a process was started as.
fn owner_of(unit: &Supervised, pid: i32) -> Option<u32> {
    let number = living(unit).find(|child| child.pid == pid)?.generation?;
    unit.generations.get(&number)?.owner.map(|(uid, _)| uid)
}

fn name_of(unit: &Supervised, proc: Proc) -> &'static str {
    let Some(child) = unit.children.get(&proc) else { return "a command" };
    match child.role {
        Role::Main { .. } | Role::Instance(_) => "a main process",
        Role::StartPre(_) => "ExecStartPre",
        Role::StartPost(_) => "ExecStartPost",
        Role::Stop(_) => "ExecStop",
        Role::StopPost(_) => "ExecStopPost",
        Role::Reload(_) => "ExecReload",
        Role::PreFlight(_) => "a pre-flight command",
        Role::OnSuccess(_) => "an OnSuccess hook",
        Role::OnFailure(_) => "an OnFailure hook",
        Role::Health => "a health check",
        Role::Analysis(_) => "a command of the analysis",
    }
}
