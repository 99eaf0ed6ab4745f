//! What a launch runs: its content's release, with what its own `ExecStartPre` has changed; where something of it is gone,
//! an automatic start takes what is there now, unless a reload has given that up.

use super::{Gone, Part, Release};
use crate::daemon::shared::Shared;
use crate::daemon::supervised::Supervised;
use crate::machine::event::{ContentId, Gen, IfGone, Role, Spawn, SpawnFailure};
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
        let release = self.around_pre(spawn, release);
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

    /// What the launch's own `ExecStartPre` changes is taken, for this launch and from then on.
    fn around_pre(&mut self, spawn: &Spawn, release: Arc<Release>) -> Arc<Release> {
        // What was checked is what runs.
        let checked = spawn.content.unit.reload.binary_sha256.is_some();
        let shell = spawn.generation.and_then(|number| self.generations.get_mut(&number));
        let Some(shell) = shell.filter(|_| !checked) else { return release };
        match spawn.role {
            Role::StartPre(0) => shell.before = Some(Box::new(release.before())),
            Role::Main { .. } | Role::Instance(_) => {
                let changed = shell.before.take().and_then(|before| release.after(&before));
                if let Some(changed) = changed.map(Arc::new) {
                    self.releases.insert(spawn.content.id, Arc::clone(&changed));
                    return changed;
                }
            }
            _ => {}
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
        let Some(gone) = release.gone(part) else {
            self.tell_newer(spawn, &release);
            return Ok(release);
        };
        let refuse = |text: String| SpawnFailure {
            gone: true,
            ..SpawnFailure::ours(format!("cannot start {}: {text}", spawn.content.unit.name))
        };
        if spawn.if_gone == IfGone::Refuse {
            return Err(refuse(gone.told(spawn.generation)));
        }
        if spawn.content.unit.reload.binary_sha256.is_some() {
            // What is there now was not checked, and must not run for what was.
            let text = format!("{} has been written to since it was checked", gone.path().display());
            return Err(SpawnFailure { code: 126, ..refuse(text) });
        }
        let ran = self.machine.generation_of(spawn.content.id).or(spawn.generation);
        let what = told_of(&gone, ran);
        let now = Arc::new(Release::read(&spawn.content.unit, shared));
        let place = now.main().map_or_else(|| gone.path().to_owned(), |pin| pin.name().to_owned());
        let place = place.display();
        if let Some(given_up) = self.releases.given_up(now.identity()) {
            return Err(refuse(format!(
                "{what}; what is there now, {place}, was given up by the reload at {} ({}); \
                 put another in its place, then aeternactl start {}",
                of_day(given_up.at),
                given_up.why,
                self.name
            )));
        }
        log::warn!("{}: {what}; starting what is there now, {place}, which no reload has tried", self.name);
        // What is kept for a rollback stays what it was.
        if spawn.content.id == self.machine.content().id {
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
        let Some(pin) = release.main().filter(|_| release.newer_on_disk() == Some(true)) else { return };
        let name = pin.name().display();
        if spawn.if_gone == IfGone::Refuse {
            if self.releases.fresh == Some(spawn.content.id) {
                log::warn!(
                    "{}: {name} was replaced while pre-flight ran; the one that was checked is launched",
                    self.name
                );
            }
            return;
        }
        let ran = self.machine.generation_of(spawn.content.id).or(spawn.generation);
        if self.releases.told != Some(spawn.content.id) {
            self.releases.told = Some(spawn.content.id);
            log::info!(
                "{}: restarting {}'s program, {name} as of {}; the one on disk is newer and was not promoted",
                self.name,
                ran.map_or_else(|| "its".into(), |Gen(number)| format!("generation {number}")),
                of_day(release.read_at)
            );
        }
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
        Gone::Overwritten(_, at) => format!("was overwritten in place at {}", of_day(*at)),
        Gone::ReplacedScript(_) => "is a script and was replaced".to_owned(),
    };
    format!("the release of {whose} is gone ({path} {why})")
}
