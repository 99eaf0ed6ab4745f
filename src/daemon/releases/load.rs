//! Reading a unit again, and checking what a reload would launch before anything is launched.

use super::{Gone, Part, Release};
use crate::daemon::core::Daemon;
use crate::daemon::{load, preflight};
use crate::machine::event::{Announcement, Answer, Content, ContentId, Gen, Ticket};
use crate::machine::gone::GivenUp;
use crate::sys::clock;
use std::sync::Arc;

impl Daemon {
    /// Holds what the units' names mean as aeternad starts.
    pub fn hold_releases(&mut self) {
        for unit in &mut self.units {
            let id = unit.current.id;
            let release = unit.release_of(id, &self.shared);
            if let Some(why) = release.and_then(|release| release.unheld()) {
                log::warn!("{}: {why}", unit.name);
            }
        }
    }

    /// Reads a unit again, and what its names mean now.
    pub fn load(&mut self, index: usize) -> Answer {
        let result = self.read_again(index);
        let unit = &mut self.units[index];
        Answer::Loaded(result.and_then(|loaded| {
            for warning in &loaded.warnings {
                log::warn!("{}: {warning}", unit.name);
            }
            let serves = unit.releases.get(unit.machine.content().id);
            let release = match serves.filter(|release| release.is_still(&loaded.unit, &self.shared)) {
                Some(release) => Arc::clone(release),
                None => Arc::new(Release::read(&loaded.unit, &self.shared)),
            };
            if let Some(why) = release.missing() {
                return Err(why.to_owned());
            }
            if let Some(why) = release.unheld() {
                log::warn!("{}: {why}", unit.name);
            }
            // What was held since may have changed the number that a content was made with.
            let mut known = unit.machine.contents();
            known.extend(unit.contents.iter().cloned());
            for content in &mut known {
                content.release = unit.releases.get(content.id).map_or(0, |release| release.identity());
            }
            let content = load::content(&loaded, release.identity(), &known, &mut unit.last_content);
            if unit.content(content.id).is_none() {
                unit.contents.push(content.clone());
            }
            if unit.releases.get(content.id).is_none() {
                unit.releases.insert(content.id, release);
            }
            unit.releases.fresh = Some(content.id);
            unit.releases.just_read = Some(content.id);
            unit.releases.told = None;
            Ok(content)
        }))
    }

    /// Looks that what would be launched is there. Only a checksum takes long enough for a thread.
    pub fn check_binary(&mut self, index: usize, ticket: Ticket, content: &Content) {
        if let Err(why) = self.reload_is_heard(index, &content.unit) {
            let result = Err(why);
            return self.found_out(index, ticket, Answer::BinaryChecked { content: content.id, result });
        }
        let unit = &mut self.units[index];
        let release = unit.release_of(content.id, &self.shared);
        let release = release.unwrap_or_else(|| Arc::new(Release::read(&content.unit, &self.shared)));
        // What was just read is there; what is gone back to may be gone.
        let gone = if unit.machine.goes_back() { release.gone(Part::All) } else { None };
        let result = match gone {
            Some(gone) => {
                let why = self.cannot_go_back(index, content.id, &gone);
                self.look_at_releases(index);
                Err(why)
            }
            None if content.unit.reload.binary_sha256.is_none() => {
                preflight::found(&release, &self.shared).map(drop)
            }
            None => {
                let name = self.units[index].name.clone();
                let pin = preflight::found(&release, &self.shared);
                let (reports, waker) = (self.reports.clone(), self.waker.clone());
                let checking = preflight::check_binary(index, ticket, content, pin, name, reports, waker);
                // One that nobody waits for any more breaks off.
                self.units[index].checking = Some(checking);
                return;
            }
        };
        self.found_out(index, ticket, Answer::BinaryChecked { content: content.id, result });
    }

    /// Why a rollback starts nothing, and what else could be gone back to.
    pub fn cannot_go_back(&self, index: usize, content: ContentId, gone: &Gone) -> String {
        let unit = &self.units[index];
        let others: Vec<String> = unit
            .machine
            .kept()
            .filter(|kept| kept.content != content && kept.content != unit.machine.content().id)
            .filter_map(|kept| {
                let release =
                    unit.releases.get(kept.content).filter(|release| release.gone(Part::All).is_none())?;
                let Gen(number) = kept.generation?;
                let place =
                    release.place().map_or_else(String::new, |place| format!(" ({})", place.display()));
                Some(format!("generation {number}{place}"))
            })
            .collect();
        let kept = if others.is_empty() { String::new() } else { format!(". Kept: {}", others.join(", ")) };
        format!("{}; nothing was started{kept}", gone.told(unit.machine.generation_of(content)))
    }

    /// Says of each release that is kept, once, that it is gone.
    pub fn look_at_releases(&mut self, index: usize) {
        let unit = &mut self.units[index];
        let kept: Vec<_> = unit.machine.kept().map(|kept| (kept.content, kept.generation)).collect();
        for (content, generation) in kept {
            let gone = unit.releases.get(content).and_then(|release| release.gone(Part::All));
            if let Some(gone) = gone {
                unit.releases.lost(content, generation, &gone);
            }
        }
        self.tell_losses(index);
    }

    /// Says what was found to be gone.
    pub fn tell_losses(&mut self, index: usize) {
        for (generation, text) in self.units[index].releases.take_losses() {
            self.announce(index, Announcement::ReleaseGone { generation, text });
        }
    }

    /// A reload has launched this generation and given it up.
    pub fn gave_up(&mut self, index: usize, generation: Gen, why: String) {
        self.keep_usage(index, generation);
        let unit = &mut self.units[index];
        unit.releases.still_there = None;
        let Some(release) = unit.generations.get(&generation).and_then(|shell| shell.release.clone()) else {
            return;
        };
        let serving = unit.machine.content();
        let serves = unit.releases.get(serving.id).map(|release| release.identity());
        let content = unit.generations.get(&generation).and_then(|shell| unit.content(shell.content?));
        // Whether what was wrong may be what the unit says.
        let is_same_text = content.is_some_and(|content| content.hash == serving.hash);
        if serves != Some(release.identity()) {
            let identity = release.identity();
            unit.releases.given_up.add(GivenUp { identity, at: clock::unix_time(), why });
        }
        // Whoever has OnFailure may be about to put it back.
        if release.unit.reload.on_failure.is_empty() {
            let then = "a restart of aeternad or of the machine would run it";
            let file = Some(unit.source.file()).filter(|file| !file.is_empty());
            unit.releases.still_there = match is_same_text {
                true => release
                    .still_there(&self.shared)
                    .map(|name| format!("{name} still is what was given up: {then}")),
                false => file.map(|file| format!("{file} still says what was given up: {then}")),
            };
        }
    }

    /// Lets go of what no content needs any more.
    pub fn drop_releases(&mut self, index: usize) {
        let unit = &mut self.units[index];
        if unit.releases.len() > 1 {
            let (machine, contents) = (&unit.machine, &unit.contents);
            unit.releases.retain(|id| machine.holds(id) || contents.iter().any(|content| content.id == id));
        }
    }
}
