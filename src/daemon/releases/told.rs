//! Releases for people: what is kept, and what the names mean by now.

use super::{Part, Release};
use crate::daemon::shared::Shared;
use crate::daemon::supervised::Supervised;
use crate::machine::event::Gen;
use crate::proto::status::ReleaseStatus;
use crate::sys::pin::{Look, Pin};
use crate::time::of_day;
use crate::unit::Unit;
use std::sync::Arc;

impl Release {
    /// What another one has that this one has not, a sentence each. `whose`: who runs this one.
    pub fn changes(&self, other: &Release, whose: &str) -> Vec<String> {
        let mut told = Vec::new();
        let path = |pin: &Pin| pin.name().display().to_string();
        let differs = |old: &Pin, new: &Pin| old.name() != new.name() || old.was() != new.was();
        match (self.named(), other.named()) {
            (Some(old), Some(new)) if differs(old, new) => {
                told.push(moved("release", old, new));
                // Below a release everything is another.
                match (self.main(), other.main()) {
                    (Some(old), Some(new)) if old.name() != new.name() => {
                        told.push(moved("program", old, new));
                    }
                    _ => {}
                }
            }
            (None, Some(new)) => told.push(format!("release: (none) → {}", path(new))),
            _ => {}
        }
        if told.is_empty() {
            match (self.working(), other.working()) {
                (Some(old), Some(new)) if differs(old, new) => {
                    told.push(moved("folder", old, new));
                }
                _ => {}
            }
            for (word, new) in &other.programs {
                match self.programs.get(word) {
                    Some(old) if old.name() != new.name() => {
                        told.push(moved("program", old, new));
                    }
                    Some(old) if old.was() != new.was() => told.push(format!(
                        "program: {} was replaced at {}; {whose} runs the earlier one",
                        path(new),
                        of_day(new.was().mtime.0 as f64)
                    )),
                    _ => {}
                }
            }
        }
        for text in &other.texts {
            let changed =
                self.texts.iter().find(|known| known.path == text.path).map(|old| old.changed(text));
            let changed = changed.unwrap_or_default();
            if !changed.is_empty() {
                told.push(format!("environment: {} changed in {}", changed.join(", "), text.path));
            }
        }
        told
    }
}

impl Supervised {
    /// What is kept to be gone back to, and what serves, oldest first.
    pub fn releases_status(&self) -> Vec<ReleaseStatus> {
        let serving = self.machine.content().id;
        let status = |kept: crate::machine::KeptContent| {
            let release = self.releases.get(kept.content)?;
            let main = release.main();
            Some(ReleaseStatus {
                generation: kept.generation.map(|Gen(number)| number),
                serves: kept.content == serving,
                since: release.read_at,
                release: release.place().map(|place| place.display().to_string()),
                program: main.map(|pin| pin.name().display().to_string()),
                state: main.map_or("not held", |pin| word_of(pin.look())).into(),
                gone: release.gone(Part::All).map(|gone| gone.told(kept.generation)),
                held_bytes: main.map_or(0, |pin| pin.held_bytes()),
                left: kept.left,
            })
        };
        self.machine.kept().filter_map(status).collect()
    }

    /// What the names mean by now that the release which serves does not have, a sentence each.
    pub fn newer_on_disk(&self, shared: &Shared) -> Vec<String> {
        let content = self.machine.content();
        let serves = self.summary.is_some_and(|now| now.alive);
        let Some(release) = self.releases.get(content.id).filter(|_| serves) else { return Vec::new() };
        let now = Release::read(&content.unit, shared);
        let whose =
            format!("generation {}", self.machine.generation_of(content.id).map_or(0, |Gen(number)| number));
        let mut notes: Vec<String> = release
            .changes(&now, &whose)
            .into_iter()
            .map(|change| format!("newer on disk, and not reloaded: {change}"))
            .collect();
        if let Some(why) = now.missing() {
            notes.push(format!("{why}: a restart of aeternad or a reload would fail"));
        }
        if let Some(given_up) = self.releases.given_up.find(now.identity()) {
            let at = of_day(given_up.at);
            notes.push(format!("what is on disk was given up by the reload at {at}: {}", given_up.why));
        }
        notes
    }

    /// What a reload would find that the release which serves does not have, a sentence each.
    ///
    /// # Errors
    /// `Release` leads nowhere: the reload would fail.
    pub fn changes_on_disk(&self, unit: &Arc<Unit>, shared: &Shared) -> Result<Vec<String>, String> {
        let now = Release::read(unit, shared);
        if let Some(why) = now.missing() {
            return Err(why.to_owned());
        }
        let id = self.machine.content().id;
        let Some(release) = self.releases.get(id) else { return Ok(Vec::new()) };
        let whose = match self.machine.generation_of(id) {
            Some(Gen(number)) => format!("generation {number}"),
            None => "what was read before".into(),
        };
        let mut changes = release.changes(&now, &whose);
        if let Some(given_up) = self.releases.given_up.find(now.identity()) {
            changes.push(format!("given up by the reload at {}: {}", of_day(given_up.at), given_up.why));
        }
        Ok(changes)
    }
}

/// Where it was and where it is.
fn moved(what: &str, old: &Pin, new: &Pin) -> String {
    let (from, to) = (old.name().display(), new.name().display());
    if old.name() == new.name() {
        return format!("{what}: {to} is another one than it was");
    }
    format!("{what}: {from} → {to}")
}

fn word_of(look: Look) -> &'static str {
    match look {
        Look::Same => "same",
        Look::Replaced => "replaced",
        Look::Removed => "removed",
        Look::Overwritten(_) => "overwritten",
    }
}
