//! The daemon's own machine at work: signals, stopping, the exit status.

use crate::daemon::core::Daemon;
use crate::daemon::files::How;
use crate::daemon::upgrade::{self, Wish};
use crate::machine::daemon::{DaemonAction, DaemonEvent};
use crate::machine::event::{Command, Summary};
use crate::sys::{clock, signal};
use crate::time::Monotime;

impl Daemon {
    /// A unit says something new about itself.
    pub fn summary_changed(&mut self, index: usize, summary: Summary) {
        self.machine_event(DaemonEvent::Summary { unit: index, summary });
    }

    /// The daemon's machine wants a tick.
    pub fn machine_tick(&mut self, _now: Monotime) {
        self.machine_event(DaemonEvent::Tick);
    }

    /// Hands an event to the daemon's machine and carries out what it wants.
    pub fn machine_event(&mut self, event: DaemonEvent) {
        log::debug!("daemon: event {event:?}");
        let mut actions = Vec::new();
        self.machine.handle(clock::now(), event, &mut actions);
        for action in actions {
            log::debug!("daemon: action {action:?}");
            self.perform_daemon(action);
        }
        self.settle();
    }

    fn perform_daemon(&mut self, action: DaemonAction) {
        match action {
            DaemonAction::ReloadAll => {
                let reason = "SIGHUP".to_owned();
                let command = Command::Reload { force: false, remember: true, reason };
                let _ = self.take_files(&How::All(command));
                // Each is counted on to say something.
                for index in self.staying() {
                    self.units[index].summary = None;
                }
            }
            DaemonAction::All(command) => {
                for index in self.units_here().map(|(index, _)| index).collect::<Vec<usize>>() {
                    // It counts on an answer from each, also where nothing changes.
                    self.units[index].summary = None;
                    self.command(index, command.clone());
                }
            }
            DaemonAction::NotReady => {
                self.stopping = true;
                self.call_off_arrivals();
                log::info!("stopping");
            }
            DaemonAction::Notify(text) => self.upstream.tell(&text),
            DaemonAction::DumpStatus => self.log_status(),
            DaemonAction::Upgrade => {
                let wish = Wish { program: None, only_check: false, patience: upgrade::PATIENCE };
                self.ask_upgrade(None, &wish);
            }
            DaemonAction::Meaningless(number) => log::warn!(
                "{} means nothing to aeternad: SIGTERM stops it (a container's STOPSIGNAL should be that), SIGHUP reloads",
                signal::name(number)
            ),
            DaemonAction::Exit(code) => self.exit = Some(code),
        }
    }
}
