//! `--dry-run`: what a reload would change, and what the checks of its analysis read of the generation that serves; what a
//! rollback leads to.

use crate::daemon::control::ClientId;
use crate::daemon::core::Daemon;
use crate::daemon::releases::Part;
use crate::daemon::{limits, looks};
use crate::machine::event::{Gen, Seen};
use crate::machine::{Back, trial};
use crate::proto::control::{RefusalCode, Reply};
use crate::proto::status::UnitChanges;
use crate::sys::clock;
use crate::time::Span;
use crate::unit::Unit;
use std::sync::Arc;

/// An answer that waits for looks.
#[derive(Debug)]
pub struct DryRun {
    client: ClientId,
    /// What is said before that.
    text: String,
    /// What is said about each unit, in order.
    told: Vec<(String, UnitChanges)>,
    /// The looks that have not come back: which look, and of which unit in `told`.
    waits: Vec<(u64, usize, Arc<Unit>)>,
}

impl Daemon {
    /// Answers a client with `text` and what reloads of these units would change, once their checks were tried.
    ///
    /// # Errors
    /// What would make a reload fail before anything is tried.
    pub fn try_reloads(&mut self, client: ClientId, text: String, found: &[usize]) -> Result<(), String> {
        let mut run = DryRun { client, text, told: Vec::new(), waits: Vec::new() };
        for index in found {
            let loaded = self.read_again(*index)?;
            let (mut text, changes) = self.differences(*index, &loaded.unit)?;
            if let Some(why) = limits::preview(&loaded.unit.service.group_limits, &self.shared) {
                text.push_str(&format!("{}: limits {why}\n", loaded.unit.name));
            }
            run.told.push((text, changes));
            let unit = &self.units[*index];
            let serving = Gen(unit.machine.status(clock::now()).generation);
            if loaded.unit.analysis.is_some() && unit.generations.contains_key(&serving) {
                self.last_req += 1;
                run.waits.push((self.last_req, run.told.len() - 1, Arc::clone(&loaded.unit)));
                looks::try_out(self, *index, serving, &loaded.unit, self.last_req);
            }
        }
        if run.waits.is_empty() {
            self.tell_dry_run(run);
        } else {
            self.dry_runs.push(run);
        }
        Ok(())
    }

    /// A look for a dry run has come back.
    pub fn tried(&mut self, index: usize, ticket: u64, seen: &Seen) {
        let waits = |run: &DryRun| run.waits.iter().position(|(number, ..)| *number == ticket);
        let Some((at, place)) =
            self.dry_runs.iter().enumerate().find_map(|(at, run)| Some((at, waits(run)?)))
        else {
            return;
        };
        let (_, part, unit) = self.dry_runs[at].waits.remove(place);
        let status = self.units[index].machine.status(clock::now());
        let age =
            status.generations.iter().find(|one| one.number == status.generation).map_or(0.0, |one| one.age);
        let checks = trial(&unit, seen, Span((age.max(0.0) * 1e9) as u64));
        let (text, changes) = &mut self.dry_runs[at].told[part];
        for check in &checks {
            let word = if check.ok { "" } else { "says nothing: " };
            text.push_str(&format!("{}: check {}: {word}{}\n", unit.name, check.name, check.text));
        }
        changes.checks = checks;
        if self.dry_runs[at].waits.is_empty() {
            let run = self.dry_runs.remove(at);
            self.tell_dry_run(run);
        }
    }

    /// What a rollback would do: nothing of it is done.
    pub fn dry_rollback(&mut self, client: ClientId, name: &str, to: Option<Gen>) {
        let Some(index) =
            self.find_units(client, &[name.to_owned()]).and_then(|found| found.first().copied())
        else {
            return;
        };
        match self.way_back(index, to) {
            Ok((text, changes)) => self.result(client, Reply::Changes { text, units: vec![changes] }),
            Err(why) => self.refuse(client, RefusalCode::Failed, format!("{name}: {why}")),
        }
    }

    /// What a rollback leads to, and what is other there.
    fn way_back(&self, index: usize, to: Option<Gen>) -> Result<(String, UnitChanges), String> {
        let unit = &self.units[index];
        let name = &unit.name;
        let content = match unit.machine.back(to)? {
            Back::To(id) => {
                let known = unit.machine.contents().into_iter().find(|known| known.id == id);
                known.ok_or("it is not known any more what ran before")?
            }
            Back::GivesUp => {
                let serving = unit.machine.status(clock::now()).generation;
                let text = format!(
                    "{name}: the reload that is under way is given up; generation {serving} goes on\n"
                );
                return Ok((text, UnitChanges { unit: name.clone(), ..UnitChanges::default() }));
            }
        };
        let release = unit.releases.get(content.id);
        if let Some(gone) = release.and_then(|release| release.gone(Part::All)) {
            return Err(self.cannot_go_back(index, content.id, &gone));
        }
        let ran = unit.machine.generation_of(content.id);
        let what = ran.map_or_else(String::new, |Gen(number)| format!(" to what generation {number} ran"));
        let place = release.and_then(|release| release.place());
        let place = place.map_or_else(String::new, |place| format!(", {}", place.display()));
        let head = format!("{name}: a reload{what}{place}; files are not touched\n");
        let serving = unit.releases.get(unit.machine.content().id);
        let changes =
            serving.zip(release).map(|(serving, back)| serving.changes(back, "the one that serves"));
        let (text, changes) = self.told_differences(index, &content.unit, changes.unwrap_or_default());
        Ok((head + &text, changes))
    }

    fn tell_dry_run(&mut self, run: DryRun) {
        let (texts, units): (Vec<String>, Vec<UnitChanges>) = run.told.into_iter().unzip();
        self.result(run.client, Reply::Changes { text: run.text + &texts.concat(), units });
    }
}
