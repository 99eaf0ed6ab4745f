//! What a launch runs: its content's release, with what its own `ExecStartPre` has changed; where something of it is gone,
//! an automatic start takes what is there now, unless a reload has given that up.

use super::{Gone, Part, Release};
use crate::daemon::shared::Shared;
use crate::daemon::supervised::Supervised;
use crate::machine::event::{ContentId, Gen, IfGone, Role, Spawn, SpawnFailure};
use crate::machine::gone::{self, Instead, Loss};
use crate::sys::pin::Pin;
use crate::time::of_day;
use crate::unit::Command;
use std::sync::Arc;

impl Supervised {
    /// The release of a content: as it was read, or read now if that is its first use.
    pub fn release_of(&mut self, content: ContentId, shared: &Shared) -> Option<Arc<Release>> {
        if let Some(release) = self.releases.get(content) {
            return Some(Arc::clone(release));
        }
        let unit = Arc::clone(&self.content(content)?.unit);
        let release = Arc::new(Release::read(&unit, shared));
        self.releases.insert(content, Arc::clone(&release));
        Some(release)
    }

    /// What a process of this launch runs.
    ///
    /// # Errors
    /// It is gone, and nothing may run in its place.
    pub fn release_for(&mut self, shared: &Shared, spawn: &Spawn) -> Result<Arc<Release>, SpawnFailure> {
        let own = spawn.generation.and_then(|number| self.generations.get(&number)?.release.clone());
        let release = match own.or_else(|| self.release_of(spawn.content.id, shared)) {
            Some(release) => release,
            None => Arc::new(Release::read(&spawn.content.unit, shared)),
        };
        let release = self.unless_missing(shared, spawn, release);
        let release = self.around_pre(shared, spawn, release);
        if let (Some(why), false) = (release.missing(), matches!(spawn.role, Role::StartPre(_))) {
            let text = format!("cannot start {}: {why}", self.name);
            return Err(SpawnFailure { code: 127, ..SpawnFailure::ours(text) });
        }
        let release = match spawn.role {
            Role::StartPre(0) => self.unless_gone(shared, spawn, release, Part::Places)?,
            Role::Main { .. } | Role::Instance(_) => self.unless_gone(shared, spawn, release, Part::All)?,
            _ => release,
        };
        if let Some(shell) = spawn.generation.and_then(|number| self.generations.get_mut(&number)) {
            shell.release = Some(Arc::clone(&release));
        }
        Ok(release)
    }

    /// `Release` led nowhere when the unit was read: it may lead somewhere by now.
    fn unless_missing(&mut self, shared: &Shared, spawn: &Spawn, release: Arc<Release>) -> Arc<Release> {
        if release.missing().is_none() {
            return release;
        }
        let now = Arc::new(Release::read(&spawn.content.unit, shared));
        self.releases.insert(spawn.content.id, Arc::clone(&now));
        now
    }

    /// What the launch's own `ExecStartPre` changes is taken, for this launch and from then on.
    fn around_pre(&mut self, shared: &Shared, spawn: &Spawn, release: Arc<Release>) -> Arc<Release> {
        let shell = spawn.generation.and_then(|number| self.generations.get_mut(&number));
        let Some(shell) = shell else { return release };
        let before = match spawn.role {
            Role::StartPre(0) => None,
            Role::StartPre(_) | Role::Main { .. } | Role::Instance(_) => shell.before.take(),
            _ => return release,
        };
        let changed = before.and_then(|before| release.after(&before, shared)).map(Arc::new);
        let now = changed.as_ref().unwrap_or(&release);
        if matches!(spawn.role, Role::StartPre(_)) {
            shell.before = Some(Box::new(now.before()));
        }
        if let Some(changed) = changed {
            self.releases.insert(spawn.content.id, Arc::clone(&changed));
            return changed;
        }
        release
    }

    fn unless_gone(
        &mut self,
        shared: &Shared,
        spawn: &Spawn,
        release: Arc<Release>,
        part: Part,
    ) -> Result<Arc<Release>, SpawnFailure> {
        // Nothing is asked twice of what was read a moment ago.
        if spawn.if_gone == IfGone::Refuse && self.releases.just_read == Some(spawn.content.id) {
            return Ok(release);
        }
        let Some(gone) = release.gone(part) else {
            self.tell_newer(spawn, &release);
            return Ok(release);
        };
        let refuse = |text: String| SpawnFailure {
            gone: true,
            ..SpawnFailure::ours(format!("cannot start {}: {text}", spawn.content.unit.name))
        };
        let ran = self.machine.generation_of(spawn.content.id).or(spawn.generation);
        self.releases.lost(spawn.content.id, ran, &gone);
        let now = Arc::new(Release::read(&spawn.content.unit, shared));
        let given_up = self.releases.given_up.find(now.identity());
        let loss = Loss {
            if_gone: spawn.if_gone,
            checked: spawn.content.unit.reload.binary_sha256.is_some(),
            given_up: given_up.is_some(),
            serves: spawn.content.id == self.machine.content().id,
        };
        let what = told_of(&gone, ran);
        let place = now.named().or_else(|| now.main().map(Arc::as_ref)).map(|pin| pin.name().to_owned());
        let place = place.unwrap_or_else(|| gone.path().to_owned());
        let place = place.display();
        let instead = gone::instead(loss);
        match (instead, given_up) {
            (Instead::Nothing, _) => return Err(refuse(gone.told(None))),
            (Instead::Unchecked, _) => {
                let text = format!("{} has been written to since it was checked", gone.path().display());
                return Err(SpawnFailure { code: 126, ..refuse(text) });
            }
            (Instead::GivenUp, Some(given_up)) => {
                return Err(refuse(format!(
                    "{what}; what is there now, {place}, was given up by the reload at {} ({}); \
                     put another in its place, then aeternactl start {}",
                    of_day(given_up.at),
                    given_up.why,
                    self.name
                )));
            }
            (Instead::GivenUp | Instead::Now | Instead::NowOnce, _) => {}
        }
        log::warn!("{}: {what}; starting what is there now, {place}, which no reload has tried", self.name);
        if instead == Instead::Now {
            self.releases.insert(spawn.content.id, Arc::clone(&now));
        }
        Ok(now)
    }

    /// Says it, once a release, when a restart runs what is not the newest; of a reload, that something was replaced
    /// behind its back.
    fn tell_newer(&mut self, spawn: &Spawn, release: &Release) {
        if !matches!(spawn.role, Role::Main { .. } | Role::Instance(_)) {
            return;
        }
        let fresh = self.releases.fresh == Some(spawn.content.id);
        let said = if spawn.if_gone == IfGone::Refuse {
            // Nothing has run since it was read.
            !fresh || spawn.content.unit.reload.pre_flight.is_empty()
        } else {
            self.releases.told == Some(spawn.content.id)
        };
        if said {
            return;
        }
        let Some(pin) = release.main().filter(|_| release.newer_on_disk() == Some(true)) else { return };
        let name = pin.name().display();
        if spawn.if_gone == IfGone::Refuse {
            log::warn!(
                "{}: {name} was replaced while pre-flight ran; the one that was checked is launched",
                self.name
            );
            return;
        }
        let ran = self.machine.generation_of(spawn.content.id).or(spawn.generation);
        self.releases.told = Some(spawn.content.id);
        log::info!(
            "{}: restarting {}'s program, {name} as of {}; the one on disk is newer and was not promoted",
            self.name,
            ran.map_or_else(|| "its".into(), |Gen(number)| format!("generation {number}")),
            of_day(release.read_at)
        );
    }

    /// A program that was not there when its content was read is held from now on.
    pub fn hold_program(
        &mut self,
        spawn: &Spawn,
        release: &Arc<Release>,
        command: &Command,
        pin: Option<&Arc<Pin>>,
    ) {
        let (Some(word), Some(pin)) = (command.argv.first(), pin) else { return };
        let held = Arc::new(release.with(word, Arc::clone(pin)));
        if self.releases.get(spawn.content.id).is_some_and(|known| Arc::ptr_eq(known, release)) {
            self.releases.insert(spawn.content.id, Arc::clone(&held));
        }
        if let Some(shell) = spawn.generation.and_then(|number| self.generations.get_mut(&number)) {
            shell.release = Some(held);
        }
    }
}

/// `the release of generation 4 is gone (/srv/app was …)`.
fn told_of(gone: &Gone, ran: Option<Gen>) -> String {
    let whose = ran.map_or_else(|| "this unit".into(), |Gen(number)| format!("generation {number}"));
    let path = gone.path().display();
    let why = match gone {
        Gone::Folder(_) | Gone::RemovedScript(_) => "has been removed".to_owned(),
        Gone::OtherFolder(_) => "is another folder now".to_owned(),
        Gone::OtherFile(_) => "is another file now".to_owned(),
        Gone::Overwritten(_, at) => format!("was overwritten in place at {}", of_day(*at)),
        Gone::ReplacedScript(_) => "is a script and was replaced".to_owned(),
    };
    format!("the release of {whose} is gone ({path} {why})")
}
