//! New, changed and removed unit files become new, reloaded and stopped units.

use super::{Arrival, Reason, Unusable, Waiting};
use crate::daemon::core::Daemon;
use crate::daemon::home;
use crate::daemon::inherit::Inherited;
use crate::daemon::load::Loaded;
use crate::daemon::requests::Part;
use crate::daemon::sockets::ListenSet;
use crate::daemon::supervised::{Standing, Supervised};
use crate::machine::UnitMachine;
use crate::machine::daemon::DaemonEvent;
use crate::machine::event::{Command, CommandResult, Content, ContentId, Event};
use crate::proto::control::FileChange;
use crate::proto::status::UnitState;
use crate::unit::{self, DaemonSettings, Unit};
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// What is done with units whose files are there.
#[derive(Debug, Clone)]
pub enum How {
    /// Those whose file has changed are reloaded.
    Changed,
    /// This command for all of them.
    All(Command),
}

/// What is found in the files, before anything is done about it.
#[derive(Debug, Default)]
struct Found {
    /// Files that no unit has.
    new: Vec<(PathBuf, Result<Loaded, String>)>,
    /// Units whose file has another name now.
    moved: Vec<(usize, PathBuf)>,
    /// Units whose file is gone.
    gone: Vec<usize>,
    /// Files and folders that cannot be used.
    unusable: Vec<Unusable>,
}

impl Daemon {
    /// Looks what is new and what is gone. Changes nothing.
    fn look_at_files(&self) -> Found {
        let paths: HashMap<&Path, usize> = self
            .units_here()
            .filter(|(_, unit)| unit.standing == Standing::Here)
            .filter_map(|(index, unit)| Some((unit.source.path()?, index)))
            .collect();
        let known: Vec<&Path> = self.units_here().filter_map(|(_, unit)| unit.source.path()).collect();
        let scan = self.files.scan(&known);
        let is_gone = |path: &Path| {
            let folder = path.parent().is_some_and(|folder| scan.folders.contains(folder));
            folder && !scan.files.iter().any(|file| file == path)
        };
        let mut gone: Vec<usize> =
            paths.iter().filter(|(path, _)| is_gone(path)).map(|(_, index)| *index).collect();
        gone.sort_unstable();
        let mut found = Found { gone, ..Found::default() };
        for path in scan.files.iter().filter(|path| !paths.contains_key(path.as_path())) {
            let loaded = self.files.source(path.clone()).load();
            let name = loaded.as_ref().ok().map(|loaded| loaded.unit.name.as_str());
            // The same unit in another file.
            let same = found.gone.iter().position(|index| Some(self.units[*index].name.as_str()) == name);
            match same {
                Some(at) => found.moved.push((found.gone.remove(at), path.clone())),
                None => found.new.push((path.clone(), loaded)),
            }
        }
        // What could not be looked through is as it was.
        let unread = |path: &Path| scan.errors.iter().any(|(root, _)| path.parent() == Some(root));
        found.unusable = self.files.unusable.iter().filter(|one| unread(&one.path)).cloned().collect();
        found.unusable.extend(scan.errors.iter().map(|(root, why)| Unusable::new(root, why.clone())));
        found
    }

    /// Takes in what is new, lets go what is gone, and tells the units whose files are there. Each part has its answer
    /// later, or has it already; what is to be done waits in the queue.
    pub fn take_files(&mut self, how: &How) -> Vec<Part> {
        let Found { new, moved, gone, unusable } = self.look_at_files();
        let mut parts = Vec::new();
        for (index, path) in moved {
            let name = self.units[index].name.clone();
            self.tell_of_file(&name, "step", format!("its file is {} now", path.display()));
            self.units[index].source = self.files.source(path);
        }
        let known = self.staying();
        for index in &gone {
            self.let_go(*index);
        }
        let before = std::mem::replace(&mut self.files.unusable, unusable);
        for unusable in self.files.unusable.clone() {
            parts.push(self.failed_part(unusable));
        }
        let mut starts = Vec::new();
        for (path, loaded) in new {
            match loaded.and_then(|loaded| self.admit(&path, loaded)) {
                Ok(Admitted::As(index)) => starts.push(index),
                Ok(Admitted::Later(name)) => {
                    let req = self.new_req();
                    self.files.waiting.push(Waiting { req, what: Arrival::File(path) });
                    parts.push(Part { file: Some(FileChange::Added), ..Part::waits(req, None, name) });
                }
                Err(why) => {
                    let mut unusable = Unusable::new(&path, why);
                    if let Some(before) = before.iter().find(|one| one.path == path) {
                        unusable.since = before.since;
                    }
                    parts.push(self.failed_part(unusable.clone()));
                    self.files.unusable.push(unusable);
                }
            }
        }
        self.name_unusable();
        for index in gone {
            parts.push(self.part(index, Some(FileChange::Removed), Command::Stop { close: true }));
        }
        for index in starts {
            parts.push(self.part(index, Some(FileChange::Added), Command::Start));
        }
        for index in known {
            if self.stays(index) {
                parts.extend(self.reload_part(index, how));
            }
        }
        parts
    }

    /// What would be done, in words; and the units that would be reloaded.
    pub fn about_files(&self, how: &How) -> (String, Vec<usize>) {
        let Found { new, moved, gone, unusable } = self.look_at_files();
        let mut text = String::new();
        let mut line = |what: String| text.push_str(&format!("{what}\n"));
        unusable.into_iter().for_each(|unusable| line(unusable.why));
        for index in &gone {
            line(format!("{}: would be stopped and dropped: its file is gone", self.units[*index].name));
        }
        for (index, path) in &moved {
            line(format!("{}: would be read from {}", self.units[*index].name, path.display()));
        }
        for (path, loaded) in new {
            match loaded.and_then(|loaded| self.fits(&loaded.unit).map(|_| loaded)) {
                Ok(loaded) => line(format!("{}: would be started ({})", loaded.unit.name, path.display())),
                Err(why) => line(why),
            }
        }
        let changed = |index: &usize| !gone.contains(index) && self.is_meant(*index, how);
        (text, self.staying().into_iter().filter(changed).collect())
    }

    /// Whether a unit whose file is there is reloaded.
    fn is_meant(&self, index: usize, how: &How) -> bool {
        let unit = &self.units[index];
        match how {
            How::All(_) => true,
            // One that cannot be read is tried: the unit then has it in its history.
            How::Changed => unit
                .source
                .load_beside(&unit.contents)
                .map_or(true, |loaded| loaded.hash != unit.current.hash),
        }
    }

    fn reload_part(&mut self, index: usize, how: &How) -> Option<Part> {
        if !self.is_meant(index, how) {
            return None;
        }
        let command = match how {
            How::All(command) => command.clone(),
            How::Changed => {
                Command::Reload { force: false, remember: false, reason: "its file has changed".into() }
            }
        };
        let unit = &self.units[index];
        // The reload itself reads it: nobody waits for a second reading.
        let leaving = self.units.iter().any(|unit| unit.standing == Standing::Leaving);
        let loaded = leaving.then(|| unit.source.load_beside(&unit.contents));
        let waits = loaded.is_some_and(|loaded| loaded.is_ok_and(|loaded| self.is_in_the_way(&loaded.unit)));
        if let (true, Command::Reload { force, remember, reason }) = (waits, &command) {
            let (name, req) = (unit.name.clone(), self.new_req());
            let reason = Reason { force: *force, remember: *remember, reason: reason.clone() };
            self.files.waiting.push(Waiting { req, what: Arrival::Reload(index, reason) });
            return Some(Part::waits(req, Some(index), name));
        }
        Some(self.part(index, None, command))
    }

    /// Hands a command to a unit and gives the part of an answer that waits for its reply.
    fn part(&mut self, index: usize, file: Option<FileChange>, command: Command) -> Part {
        let (name, mark) = (self.units[index].name.clone(), self.units[index].log.end());
        let req = self.new_req();
        self.queue.push_back((index, Event::Command { req: Some(req), command }));
        Part { file, mark, ..Part::waits(req, Some(index), name) }
    }

    /// Says what cannot be used, and gives the part of an answer that says so.
    fn failed_part(&mut self, unusable: Unusable) -> Part {
        let Unusable { name, why, .. } = unusable;
        self.tell_of_file(&name, "warning", why.clone());
        let part = Part::waits(self.new_req(), None, name);
        Part { file: Some(FileChange::Unusable), result: Some(CommandResult::Failed(why)), ..part }
    }

    /// The file that could not be used is tried once more; its unit's number, if it can be now.
    ///
    /// # Errors
    /// Every error, in whole lines.
    pub fn try_again(&mut self, name: &str) -> Result<usize, String> {
        let Some(at) = self.files.unusable.iter().position(|one| one.name == name) else {
            return Err(format!("no unit is called \"{name}\""));
        };
        let path = self.files.unusable[at].path.clone();
        let loaded = self.files.source(path.clone()).load().and_then(|loaded| self.admit(&path, loaded));
        let result = match loaded {
            Ok(Admitted::As(index)) => {
                self.files.unusable.remove(at);
                Ok(index)
            }
            Ok(Admitted::Later(_)) => Err("another unit is in its way, which is being stopped".to_owned()),
            Err(why) => Err(why),
        };
        if let Err(why) = &result {
            self.files.unusable[at].why.clone_from(why);
        }
        self.name_unusable();
        result
    }

    /// Whether a unit that leaves has what this one needs.
    fn is_in_the_way(&self, wanted: &Unit) -> bool {
        let leaving = self.units.iter().filter(|unit| unit.standing == Standing::Leaving);
        leaving.into_iter().any(|unit| !unit::clashes_of(wanted, [unit.current.unit.as_ref()]).is_empty())
    }

    /// Whether a new unit agrees with those that stay.
    fn fits(&self, new: &Unit) -> Result<(), String> {
        let staying = self.units.iter().filter(|unit| unit.standing == Standing::Here);
        let clashes = unit::clashes_of(new, staying.map(|unit| unit.current.unit.as_ref()));
        if clashes.is_empty() { Ok(()) } else { Err(clashes.join("\n")) }
    }

    /// Makes a unit of a file. It waits to be started.
    ///
    /// # Errors
    /// What others have that it wants, what cannot be bound: in whole lines.
    fn admit(&mut self, path: &Path, loaded: Loaded) -> Result<Admitted, String> {
        self.fits(&loaded.unit)?;
        home::check_root(&loaded.unit, &self.shared.runtime_root)?;
        if self.is_in_the_way(&loaded.unit) {
            return Ok(Admitted::Later(loaded.unit.name.clone()));
        }
        self.free_addresses();
        let (sockets, more) =
            ListenSet::open(&loaded.unit, &mut Inherited::none()).map_err(|errors| errors.join("\n"))?;
        let content = Content { id: ContentId(1), unit: loaded.unit, hash: loaded.hash, release: 0 };
        let place = self.units.iter().position(|unit| unit.standing == Standing::Gone);
        let index = place.unwrap_or(self.units.len());
        let machine = match place {
            Some(place) => UnitMachine::in_place_of(&self.units[place].machine, content.clone()),
            None => UnitMachine::new(content.clone()),
        };
        let mut unit = Supervised::new(self.files.source(path.to_owned()), content, sockets, machine);
        for warning in &loaded.warnings {
            log::warn!("{warning}");
        }
        for warning in &more {
            log::warn!("{}: {warning}", unit.name);
        }
        unit.started_with = self.in_effect(&unit.started_with);
        let steered = unit.sockets.steered(&unit.current.unit);
        let name = unit.name.clone();
        match self.units.get_mut(index) {
            Some(gone) => *gone = unit,
            None => self.units.push(unit),
        }
        let Daemon { units, shared, .. } = self;
        let id = units[index].current.id;
        units[index].release_of(id, shared);
        self.rewatch_sockets(index);
        self.watch_paths(index);
        self.machine_event(DaemonEvent::Added { unit: index });
        self.tell_of_file(&name, "step", format!("its file is new: {}", path.display()));
        self.queue.push_back((index, Event::Sockets { steered }));
        Ok(Admitted::As(index))
    }

    /// What of `[Daemon]` is in effect already: the rest waits for the next start of aeternad.
    fn in_effect(&self, asked: &DaemonSettings) -> DaemonSettings {
        let all = |key: fn(&DaemonSettings) -> &Option<String>| {
            let found = self.units_here().find_map(|(_, unit)| key(&unit.started_with).clone());
            found.filter(|value| key(asked).as_ref() == Some(value))
        };
        let delay = self.units_here().find_map(|(_, unit)| unit.started_with.stop_delay);
        DaemonSettings {
            http: all(|daemon| &daemon.http),
            http_token_file: all(|daemon| &daemon.http_token_file),
            log_level: all(|daemon| &daemon.log_level),
            log_format: all(|daemon| &daemon.log_format),
            stop_delay: delay.filter(|delay| asked.stop_delay == Some(*delay)),
        }
    }

    /// A unit whose file is gone: nothing begins for it any more.
    fn let_go(&mut self, index: usize) {
        let unit = &mut self.units[index];
        unit.standing = Standing::Leaving;
        if let Some(watch) = unit.watch.take() {
            let _ = self.poller.remove(watch.watcher.fd());
        }
        let (name, file) = (unit.name.clone(), unit.source.file());
        self.tell_of_file(&name, "step", format!("its file {file} is gone: it is stopped and dropped"));
    }

    /// After each event of a unit: drops it if it was to leave and nothing of it is left.
    pub fn drop_if_left(&mut self, index: usize) {
        let unit = &self.units[index];
        let over = unit.machine.summary();
        if unit.standing == Standing::Leaving && over.state == UnitState::Stopped && !over.alive {
            self.drop_unit(index);
        }
    }

    fn drop_unit(&mut self, index: usize) {
        self.unwatch_sockets(index);
        self.drop_state_socket(index);
        let gone = Supervised::gone(self.units[index].machine.clone());
        let unit = std::mem::replace(&mut self.units[index], gone);
        for stream in unit.streams.values() {
            // Whoever has left the service may hold the other end for ever.
            let _ = self.poller.remove(stream.pipe.as_fd());
        }
        if let Some(spare) = unit.spare {
            spare.remove();
        }
        unit.sockets.close();
        self.nothing_survives_of(&unit.name);
        self.web.metrics.forget(&unit.name);
        self.machine_event(DaemonEvent::Removed { unit: index });
        self.tell_of_file(&unit.name, "step", "dropped: its file is gone".to_owned());
        self.after_leaving();
    }

    /// What has waited for a unit to leave goes on, if nobody else is in its way.
    fn after_leaving(&mut self) {
        for Waiting { req, what } in std::mem::take(&mut self.files.waiting) {
            match what {
                Arrival::Reload(index, reason) => {
                    self.queue
                        .push_back((index, Event::Command { req: Some(req), command: reason.command() }));
                }
                Arrival::File(path) => {
                    let loaded = self.files.source(path.clone()).load();
                    match loaded.and_then(|loaded| self.admit(&path, loaded)) {
                        Ok(Admitted::As(index)) => {
                            let command = Command::Start;
                            self.queue.push_back((index, Event::Command { req: Some(req), command }));
                        }
                        Ok(Admitted::Later(_)) => {
                            self.files.waiting.push(Waiting { req, what: Arrival::File(path) });
                        }
                        Err(why) => self.never_came(req, &path, why),
                    }
                }
            }
        }
    }

    fn never_came(&mut self, req: crate::machine::event::Req, path: &Path, why: String) {
        let unusable = Unusable::new(path, why.clone());
        self.tell_of_file(&unusable.name, "warning", why.clone());
        self.files.unusable.push(unusable);
        self.name_unusable();
        self.replied(req, CommandResult::Failed(why));
    }

    /// aeternad is stopping: nothing is waited for any more.
    pub fn call_off_arrivals(&mut self) {
        for Waiting { req, .. } in std::mem::take(&mut self.files.waiting) {
            self.replied(req, CommandResult::Failed("aeternad is stopping".into()));
        }
    }
}

/// What has become of a new file.
enum Admitted {
    /// It is the unit with this number.
    As(usize),
    /// A unit that leaves is in the way of this one.
    Later(String),
}
