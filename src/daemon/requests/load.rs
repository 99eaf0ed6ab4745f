//! `load` and `reload --all`: all unit files at once.

use super::Pending;
use crate::daemon::control::ClientId;
use crate::daemon::core::Daemon;
use crate::daemon::files::How;
use crate::machine::event::Command;
use crate::proto::control::RefusalCode;

impl Daemon {
    /// Looks for new, changed and removed files, and does what follows from them.
    pub(super) fn load_request(&mut self, client: ClientId, wait: bool, how: &How) {
        if self.stopping {
            let text = "aeternad is stopping: nothing is loaded any more".to_owned();
            return self.refuse(client, RefusalCode::Failed, text);
        }
        let parts = self.take_files(how);
        for part in &parts {
            self.clients.subscribe(client, Some(&part.name));
        }
        let pending = Pending { client, parts, reload: true, all: true };
        if pending.is_over() {
            return self.answer(pending);
        }
        self.pending.push(pending);
        self.settle();
        self.answer_now_unless(client, wait);
    }

    /// What that would do.
    pub(super) fn dry_load(&mut self, client: ClientId, how: &How) {
        let (mut text, units) = self.about_files(how);
        if text.is_empty() && units.is_empty() {
            text = "nothing has changed\n".into();
        }
        self.tell_differences(client, text, units);
    }

    /// `start`, `restart` or `reload` of a file that could not be used: it is tried once more. Whether it is such a name.
    pub(super) fn start_unusable(&mut self, client: ClientId, name: &str) -> bool {
        if self.unit_named(name).is_some() || self.unusable(name).is_none() {
            return false;
        }
        match self.try_again(name) {
            Ok(index) => self.ask(client, &[index], &Command::Start, false),
            Err(why) => self.refuse(client, RefusalCode::Failed, format!("{name} cannot be used:\n{why}")),
        }
        true
    }
}
