//! The next aeternad: from what was written and held to units that go on.

use super::Survival;
use super::facts;
use super::holder::{Held, Holder};
use super::journal::{self, Core, Entry, Journal, Page, Pages, Read};
use crate::daemon::core::Daemon;
use crate::daemon::saved::{self, Incoming, Key};
use crate::daemon::shared::ShortDir;
use crate::daemon::supervised::Supervised;
use crate::machine::event::{Command, Event, Exit, Proc, UnitState};
use crate::machine::recovered::Found;
use crate::sys::process;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;

/// What an aeternad that is gone has left.
#[derive(Debug)]
pub struct Left {
    core: Core,
    pages: Pages,
    entry: Option<Entry>,
    holder: Holder,
    fds: BTreeMap<u64, OwnedFd>,
}

/// A unit that goes on.
#[derive(Debug)]
pub struct Recovered {
    /// The unit. Nothing of it has been told, signalled or removed.
    pub unit: Box<Supervised>,
    /// What has become of its processes.
    pub found: Fate,
}

/// What has become of the processes of a unit.
#[derive(Debug)]
pub struct Fate {
    /// Those that were written.
    pub found: BTreeMap<Proc, Found>,
    /// One that was started and not written yet.
    pub entry: Option<Entry>,
}

/// Looks for what an aeternad before us has left in a runtime dir whose lock we have.
///
/// # Errors
/// There is something, and it cannot be used: why, for people. Whatever it was about may still run.
pub fn look(dir: &Path) -> Result<Option<Left>, String> {
    let read = journal::read(dir).map_err(|why| format!("the journal in {}: {why}", dir.display()))?;
    let Some(Read { core, pages, entry }) = read else {
        // Nobody knows what a keeper here would have: it ends.
        if let Ok((mut holder, _)) = Holder::find(dir) {
            holder.end();
        }
        return Ok(None);
    };
    let (mut holder, fds) = Holder::find(dir).unwrap_or_else(|why| {
        log::warn!("{why}; what only it holds is lost");
        (Holder::keeper(dir), BTreeMap::new())
    });
    let numbers = pages.values().flatten().flat_map(|page| page.fds.values()).map(|held| held.number);
    holder.skip_to(numbers.max().unwrap_or_default());
    Ok(Some(Left { core, pages, entry, holder, fds }))
}

impl Left {
    /// The units that are left, in their order.
    pub fn units(&self) -> Vec<String> {
        self.core.units.iter().filter(|name| self.pages.contains_key(*name)).cloned().collect()
    }

    /// A unit of this name, if there is one.
    ///
    /// # Errors
    /// It cannot be gone on with: why, for people.
    pub fn take(&mut self, name: &str) -> Option<Result<Recovered, String>> {
        let page = self.pages.remove(name)?;
        Some(page.and_then(|page| self.restore(page)).map_err(|why| {
            format!(
                "{name}: aeternad cannot go on with what the one before it (pid {}) has started: {why}",
                self.core.pid
            )
        }))
    }

    fn restore(&mut self, page: Page) -> Result<Recovered, String> {
        let Page { fds, unit } = page;
        let there = |(key, held): (&Key, &Held)| Some((key.clone(), self.fds.remove(&held.number)?));
        let all: BTreeMap<Key, OwnedFd> = fds.iter().filter_map(there).collect();
        let has: Vec<Key> = all.keys().cloned().collect();
        let mut unit = saved::restore_unit(unit, &mut Incoming::held(all))?;
        let found = facts::look(&mut unit, &fds);
        let held = fds.into_iter().filter(|(key, _)| has.contains(key)).collect();
        self.holder.know(&unit.name, held);
        let entry = self.entry.take_if(|entry| entry.unit == unit.name);
        Ok(Recovered { unit: Box::new(unit), found: Fate { found, entry } })
    }

    fn into_survival(self, journal: Journal) -> (Survival, u64, Option<ShortDir>) {
        let Left { core, holder, .. } = self;
        let short = core.short_dir.map(|(folder, link)| ShortDir::restored(folder.0, link.0));
        (Survival::new(journal, holder), core.last_req, short)
    }
}

/// What is done for the one who comes after us; the number of the newest request, and the short way to the runtime dir, as
/// the one before us has left them.
pub fn begin(dir: &Path, left: Option<Left>) -> (Survival, u64, Option<ShortDir>) {
    if process::is_pid1() {
        return (Survival::none("aeternad is PID 1: everything ends with it"), 0, None);
    }
    if let Err(error) = process::pidfd_open(process::pid()) {
        // Who is not our child could be neither watched nor told from whoever has its pid later.
        return (Survival::none(&format!("there are no pidfds: {error}")), 0, None);
    }
    if left.is_none() {
        // Of another life: its numbers would be taken for newer ones.
        journal::forget(dir);
    }
    match (Journal::open(dir), left) {
        (Ok(journal), Some(left)) => left.into_survival(journal),
        (Ok(journal), None) => (Survival::new(journal, Holder::keeper(dir)), 0, None),
        (Err(why), _) => {
            log::warn!("no journal can be written, so aeternad's own death would not be survived: {why}");
            (Survival::none(&why), 0, None)
        }
    }
}

impl Daemon {
    /// Goes on with a unit. Its processes are not our children: their ends are seen on pidfds.
    pub fn go_on(&mut self, index: usize, fate: &Fate) {
        let Fate { found, entry } = fate;
        let unit = &mut self.units[index];
        (unit.summary, unit.going_on) = (None, true);
        let before = unit.machine.summary();
        let mut lives = 0;
        for (proc, child) in &mut unit.children {
            let alive = found.get(proc) == Some(&Found::Alive);
            lives += usize::from(alive);
            child.watched = alive && child.pidfd.is_some();
            // Whatever is asked to signal it before its end was told.
            child.gone = !alive;
            if let Some(shell) = child.generation.and_then(|number| unit.generations.get_mut(&number)) {
                shell.strayed = true;
                let start = child.started.or_else(|| process::start_time(child.pid).filter(|_| alive));
                let of_it = shell.started.iter_mut().filter(|main| main.pid == child.pid);
                of_it.for_each(|main| main.start_time = start);
            }
        }
        let (count, name) = (unit.children.len(), &unit.name);
        let word = if count == 1 { "process" } else { "processes" };
        log::info!("{name}: found again, with {lives} of {count} {word}");
        self.own_unit(index);
        self.hear_again(index, found, entry.as_ref());
        self.pump_state(index);
        for number in self.units[index].generations.keys().copied().collect::<Vec<_>>() {
            self.check_empty(index, number);
        }
        let after = self.units[index].machine.summary();
        if lives == 0 && before.alive && after.state == UnitState::Failed {
            // Somebody has started aeternad: what has died with the one before is started, as at any start.
            self.command(index, Command::Start);
            self.settle();
        }
        let unit = &mut self.units[index];
        unit.going_on = false;
        let summary = unit.machine.summary();
        unit.summary = Some(summary);
        self.summary_changed(index, summary);
    }

    /// The machine hears what it could not hear while nobody was there.
    fn hear_again(&mut self, index: usize, found: &BTreeMap<Proc, Found>, entry: Option<&Entry>) {
        // Whoever was started and not yet told.
        for (proc, role, generation) in self.units[index].machine.unanswered() {
            let unit = &mut self.units[index];
            let known = unit.children.get(&proc).map(|child| child.pid);
            let entry = entry.filter(|entry| entry.proc == proc);
            let pid = known.or_else(|| facts::find_entered(unit, entry?, role, generation));
            if let Some(pid) = pid {
                if known.is_none() {
                    log::info!("{}: process {pid} was started just before aeternad was killed", unit.name);
                    self.watch_adopted(index, proc);
                }
                self.queue.push_back((index, Event::Spawned { proc, pid }));
            }
        }
        self.settle();
        // What was decided, and perhaps not done.
        for owed in std::mem::take(&mut self.units[index].owed) {
            self.perform(index, owed.into_action());
        }
        self.settle();
        if let Err(why) = self.units[index].sockets.steer_again() {
            log::error!("{}: cannot steer its connections: {why}", self.units[index].name);
        }
        let known: Vec<Proc> = self.units[index].children.keys().copied().collect();
        self.recover_machine(index, &known);
        for (proc, verdict) in found {
            let Some(pid) = self.units[index].children.get(proc).map(|child| child.pid) else { continue };
            let exit = match verdict {
                Found::Alive => continue,
                Found::Ended(exit) => *exit,
                Found::Stranger(why) => {
                    log::warn!(
                        "{}: process {pid} is not the one that was started: {why}; it is left alone",
                        self.units[index].name
                    );
                    Exit::Unknown
                }
            };
            self.process_gone(index, *proc, pid, exit);
        }
    }
}
