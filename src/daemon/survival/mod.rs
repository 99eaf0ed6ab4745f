//! Coming back after our own death (aeternad(8), WHEN AETERNAD DIES): what is written down and held while we live, and what
//! the next aeternad makes of it.
//!
//! Before what cannot be taken back, and at the end of a turn, each unit of which something has changed is written to the
//! [`Journal`] in the form of an upgrade ([`crate::daemon::saved`]), and copies of its descriptors go to a [`Holder`].
//! New descriptors go before the text that names them, and what the text names no more is let go after it: at every moment
//! the holder has all that the newest whole text names.

pub mod facts;
pub mod holder;
pub mod journal;
pub mod recover;

use crate::daemon::core::Daemon;
use crate::daemon::saved::{self, Incoming, Outgoing, StoredPath};
use crate::daemon::shared::Shared;
use crate::daemon::supervised::{Standing, Supervised};
use crate::daemon::token::Owner;
use crate::machine::event::Proc;
use crate::sys::poll::Interest;
use crate::sys::{clock, killpoint, process};
use crate::time::{Monotime, Patience, Span};
use holder::{Holder, SavedHolder};
use journal::Journal;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};

/// How long a unit may be written in a second, where what has changed can be found out again: one that changes all the time
/// must not keep the loop from the others.
const BUDGET: Span = Span::from_millis(if cfg!(debug_assertions) { 200 } else { 20 });

/// How long what is beyond that is put off.
const LATER: Span = Span::from_millis(50);

/// How long after a failure the next try is.
const AGAIN: Span = Span::from_secs(10);

/// What is done for the one who comes after us.
#[derive(Debug)]
pub struct Survival {
    /// What is written; `None` where nobody can come after us.
    pub journal: Option<Journal>,
    /// Who holds our descriptors.
    pub holder: Holder,
    /// Units of which something has changed since they were written.
    dirty: BTreeSet<usize>,
    /// What writing may take of each unit's time on the main thread where nothing forces it.
    budgets: BTreeMap<usize, Patience>,
    /// When what was put off is written.
    later: Option<Monotime>,
    /// When what has failed is tried again.
    again: Option<Monotime>,
}

/// Names a process in the journal before it does anything.
#[derive(Debug)]
pub struct Registrar<'a> {
    journal: &'a Journal,
    unit: String,
    proc: Proc,
}

impl Registrar<'_> {
    /// The process is there, and waits for this.
    pub fn enter(&self, invocation: &str, pid: i32, pidfd: Option<BorrowedFd<'_>>) {
        killpoint::here();
        self.journal.enter(&self.unit, self.proc, invocation, pid, pidfd);
        killpoint::here();
    }
}

/// A [`Survival`] in a stored state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSurvival {
    journal: Option<StoredPath>,
    holder: SavedHolder,
}

impl Survival {
    /// Stores it. Everything is written again by whoever goes on.
    ///
    /// # Errors
    /// Those of [`Outgoing::put`].
    pub fn save(&self, out: &mut Outgoing) -> Result<SavedSurvival, String> {
        let Survival { journal, holder, dirty: _, budgets: _, later: _, again: _ } = self;
        let journal = journal.as_ref().map(|journal| StoredPath(journal.runtime_dir().to_owned()));
        Ok(SavedSurvival { journal, holder: holder.save(out)? })
    }

    /// It again.
    ///
    /// # Errors
    /// The journal cannot be written any more; those of [`Incoming::take`].
    pub fn restore(saved: SavedSurvival, from: &mut Incoming) -> Result<Survival, String> {
        let journal = saved.journal.map(|dir| Journal::reopen(&dir.0)).transpose()?;
        let holder = Holder::restore(saved.holder, from)?;
        Ok(Survival { journal, ..Survival::with(holder) })
    }

    /// Of an aeternad that nobody can come after.
    pub fn none(why: &str) -> Survival {
        Survival::with(Holder::none(why))
    }

    /// With a journal and a holder.
    pub fn new(journal: Journal, holder: Holder) -> Survival {
        Survival { journal: Some(journal), ..Survival::with(holder) }
    }

    fn with(holder: Holder) -> Survival {
        let (dirty, budgets) = (BTreeSet::new(), BTreeMap::new());
        Survival { journal: None, holder, dirty, budgets, later: None, again: None }
    }

    /// Who names a process that is about to be started; nobody, where nobody can come after us.
    pub fn registrar(&self, unit: &str, proc: Proc) -> Option<Registrar<'_>> {
        let journal = self.journal.as_ref()?;
        Some(Registrar { journal, unit: unit.to_owned(), proc })
    }

    /// Something of this unit is not as it was written.
    pub fn touch(&mut self, unit: usize) {
        if self.journal.is_some() {
            self.dirty.insert(unit);
        }
    }

    /// When something of it is due.
    pub fn deadline(&self) -> Option<Monotime> {
        self.again.into_iter().chain(self.later).min()
    }

    /// Whether a unit may be written although nothing forces it.
    fn affords(&mut self, unit: usize) -> bool {
        let budget = self.budgets.entry(unit).or_insert(const { Patience::new(Span::ZERO, BUDGET) });
        !budget.now(clock::now()).is_zero()
    }

    fn spent(&mut self, unit: usize, began: Monotime) {
        if let Some(budget) = self.budgets.get_mut(&unit) {
            budget.spend(clock::now().since(began));
        }
    }

    /// Writes a unit down, and has its descriptors held.
    fn write(&mut self, unit: &Supervised, shared: &Shared) {
        let mut out = Outgoing::for_journal();
        let saved = saved::save_unit(unit, shared.pid1, &shared.runtime_root, &mut out);
        let Survival { journal: Some(journal), holder, again, .. } = self else { return };
        killpoint::here();
        let (held, over) = holder.put(&unit.name, &out);
        killpoint::here();
        let written = saved.and_then(|saved| journal.write_unit(&unit.name, &held, &saved));
        killpoint::here();
        match written {
            Ok(()) => {
                if journal.is_well_again() {
                    log::info!("the journal is written again: aeternad's own death would be survived");
                }
                holder.drop_keys(&over);
            }
            Err(why) => {
                if journal.has_failed() {
                    log::warn!(
                        "the journal cannot be written: {why}; if aeternad were killed now, the next one would not find its services again"
                    );
                }
                *again = clock::now().after(AGAIN);
            }
        }
    }

    /// Sockets of a unit were closed, and another one is about to be bound in their place: nobody may hold them any more.
    pub fn free(&mut self, unit: &Supervised, shared: &Shared) {
        if self.journal.as_ref().is_some_and(|journal| journal.names(&unit.name)) {
            self.write(unit, shared);
            self.holder.settle();
        }
    }
}

impl Daemon {
    /// The end of a turn: what has changed is written down.
    pub fn write_down(&mut self) {
        self.survive_again();
        let now = clock::now();
        if self.survival.later.is_some_and(|later| later <= now) {
            self.survival.later = None;
        }
        if let Some(journal) = self.survival.journal.as_mut().filter(|journal| journal.lacks(self.last_req))
            && let Err(why) = journal.write_core(&self.shared, &self.units, self.last_req)
        {
            log::warn!("the journal cannot be written: {why}");
        }
        for index in std::mem::take(&mut self.survival.dirty) {
            if self.survival.affords(index) {
                self.write_unit(index);
            } else {
                self.survival.dirty.insert(index);
                self.survival.later.get_or_insert(now + LATER);
            }
        }
        self.settle_holder();
    }

    /// Before something that cannot be taken back, and after a process was started.
    pub fn write_now(&mut self, index: usize) {
        if self.survival.journal.is_some() {
            self.write_unit(index);
            self.survival.touch(index);
        }
    }

    /// Something was said that is said once: as [`Daemon::write_now`], as long as it is not said all the time.
    pub fn write_soon(&mut self, index: usize) {
        if self.survival.affords(index) {
            self.write_now(index);
        }
    }

    fn write_unit(&mut self, index: usize) {
        let began = clock::now();
        self.try_write_unit(index);
        self.survival.spent(index, began);
    }

    fn try_write_unit(&mut self, index: usize) {
        let Some(unit) = self.units.get_mut(index) else { return };
        let Some(journal) = &mut self.survival.journal else { return };
        if unit.standing == Standing::Gone {
            return;
        }
        let is_new = !journal.names(&unit.name);
        for child in unit.children.values_mut().filter(|child| child.started.is_none() && !child.gone) {
            // Our child, and not reaped: it is this one.
            child.started = process::start_time(child.pid);
        }
        if let Some(journal) = self.survival.journal.as_mut().filter(|_| is_new)
            && let Err(why) = journal.write_core(&self.shared, &self.units, self.last_req)
        {
            log::warn!("the journal cannot be written: {why}");
        }
        self.survival.write(&self.units[index], &self.shared);
    }

    /// Tries again what has failed.
    fn survive_again(&mut self) {
        let now = clock::now();
        if self.survival.again.is_none_or(|again| again > now) {
            return;
        }
        self.survival.again = None;
        if self.survival.holder.try_again() {
            self.watch_holder();
        }
        (0..self.units.len()).for_each(|index| self.survival.touch(index));
    }

    /// Waits for the keeper's word that it has let go what is to be free from now on.
    fn settle_holder(&mut self) {
        self.survival.holder.settle();
        self.follow_holder();
    }

    /// A unit was dropped: nobody comes back to it, or has its addresses.
    pub fn nothing_survives_of(&mut self, unit: &str) {
        let Survival { journal: Some(journal), holder, .. } = &mut self.survival else { return };
        journal.forget(unit);
        let over = holder.forget(unit);
        holder.drop_keys(&over);
        self.settle_holder();
    }

    /// Sockets of a unit were closed: nobody may hold them any longer than this turn.
    pub fn free_soon(&mut self, index: usize) {
        if self.survival.journal.is_some() {
            self.write_unit(index);
            self.survival.touch(index);
            self.settle_holder();
        }
    }

    /// Before an address is bound: nobody of ours may still have it.
    pub fn free_addresses(&mut self) {
        self.settle_holder();
    }

    /// The keeper has said something, or is gone.
    pub fn holder_ready(&mut self) {
        self.survival.holder.read();
        self.follow_holder();
    }

    /// The keeper was lost: another one takes its place, and gets everything.
    fn follow_holder(&mut self) {
        let Some(link) = self.survival.holder.take_lost() else { return };
        let _ = self.poller.remove(link.as_fd());
        drop(link);
        if self.survival.holder.try_again() {
            log::info!("another keeper has taken its place");
            self.watch_holder();
            for index in 0..self.units.len() {
                self.write_unit(index);
            }
        } else {
            self.survival.again = clock::now().after(AGAIN);
        }
    }

    /// Begins to hear what the keeper says.
    pub fn watch_holder(&mut self) {
        let Some(link) = self.survival.holder.link() else { return };
        if let Err(error) = self.poller.add(Owner::Keeper.token(), link, Interest::READ) {
            log::warn!("cannot watch the keeper: {error}");
        }
    }

    /// What of it somebody has removed from the runtime dir is made again, and added to `made`.
    ///
    /// # Errors
    /// What cannot be made.
    pub fn renew_survival(&mut self, made: &mut Vec<String>) -> Result<(), String> {
        let Some(journal) = &mut self.survival.journal else { return Ok(()) };
        if !journal.is_there() {
            journal.renew()?;
            journal.write_core(&self.shared, &self.units, self.last_req)?;
            made.push("the journal".into());
            (0..self.units.len()).for_each(|index| self.survival.touch(index));
        }
        let Some(old) = self.survival.holder.take_unreachable() else { return Ok(()) };
        let _ = self.poller.remove(old.as_fd());
        if self.survival.holder.try_again() {
            made.push("the keeper's socket".into());
            self.watch_holder();
            (0..self.units.len()).for_each(|index| self.write_unit(index));
        }
        // The new one has everything.
        old.quit();
        Ok(())
    }

    /// Whether a process that was reaped was the keeper.
    pub fn keeper_reaped(&mut self, pid: i32) -> bool {
        self.survival.holder.reaped(pid)
    }

    /// Nobody will come back to anything.
    pub fn end_survival(&mut self) {
        if let Some(journal) = self.survival.journal.take() {
            journal.remove();
            self.survival.holder.end();
        }
    }

    /// From now on our death is survived: starts the holder, writes everything.
    pub fn begin_to_survive(&mut self) {
        let Some(journal) = &mut self.survival.journal else { return };
        let written = journal.write_core(&self.shared, &self.units, self.last_req);
        if let Err(why) = written {
            log::warn!("the journal cannot be written: {why}; aeternad's own death would not be survived");
        }
        self.survival.holder.begin();
        self.watch_holder();
        (0..self.units.len()).for_each(|index| self.survival.touch(index));
        self.write_down();
    }
}
