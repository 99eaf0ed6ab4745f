//! sd_notify messages: who may say what, and what it means.

use super::event::{Action, Announcement, Gen, Notification, Sender};
use super::model::{Clock, End, Phase, Place, StartStep, StopStep, Watchdog, Word};
use super::turn::{Follow, Turn};
use crate::time::{Monotime, Span};
use crate::unit::{NotifyAccess, ServiceType};

/// So many different texts of a generation are announced in a second.
const STATUS_BURST: u32 = 10;

fn may_speak(access: NotifyAccess, from: Sender) -> bool {
    match (access, from) {
        (_, Sender::Stranger) | (NotifyAccess::None, _) => false,
        (_, Sender::Main(_)) | (NotifyAccess::Exec | NotifyAccess::All, Sender::Started(_)) => true,
        (NotifyAccess::All, Sender::Member(_)) => true,
        (NotifyAccess::Main, Sender::Started(_) | Sender::Member(_))
        | (NotifyAccess::Exec, Sender::Member(_)) => false,
    }
}

fn access_name(access: NotifyAccess) -> &'static str {
    match access {
        NotifyAccess::None => "none",
        NotifyAccess::Main => "main",
        NotifyAccess::Exec => "exec",
        NotifyAccess::All => "all",
    }
}

impl Turn<'_> {
    pub(super) fn notified(&mut self, number: Gen, from: Sender, message: &Notification) {
        let now = self.now;
        let unit = self.unit_of(number);
        let Some(generation) = self.s.generation(number) else { return };
        if !may_speak(unit.service.notify_access, from) {
            return self.not_heard(number, from, message);
        }
        // Only a main process can say for itself which worker it is.
        let waiting = generation.workers.iter().position(|worker| worker.proc.is_some() && !worker.up);
        let index = match from {
            Sender::Main(index) => index,
            Sender::Started(_) | Sender::Member(_) | Sender::Stranger => {
                u32::try_from(waiting.unwrap_or(0)).unwrap_or(0)
            }
        };
        if let Some(text) = &message.status {
            self.said_status(number, text);
        }
        if let Some(pid) = message.main_pid {
            self.adopt_main(number, index, pid);
        }
        if let Some(microseconds) = message.extend_timeout_usec {
            self.extend_timeout(number, Span::from_micros(microseconds));
        }
        self.watchdog_said(number, index, message);
        self.follow_up();
        if message.reloading
            && let Some(worker) = self.worker_mut(number, index).filter(|worker| worker.proc.is_some())
        {
            let said =
                message.monotonic_usec.map(|microseconds| Monotime(microseconds.saturating_mul(1_000)));
            worker.reloading = Some(said.unwrap_or(now));
        }
        if message.ready {
            self.said_ready(number, index);
        }
        if message.stopping {
            self.said_stopping(number);
        }
    }

    /// A process that `NotifyAccess` does not let speak has said what is waited for. Without a word about it, the service
    /// would seem to be silent.
    fn not_heard(&mut self, number: Gen, from: Sender, message: &Notification) {
        let what = match message {
            message if message.ready => "READY=1",
            message if message.watchdog => "WATCHDOG=1",
            _ => return,
        };
        let access = access_name(self.unit_of(number).service.notify_access);
        let pid = match from {
            Sender::Member(pid) => Some(pid),
            Sender::Started(proc) => {
                self.s.procs_of(number).find(|owned| owned.proc == proc).and_then(|o| o.pid)
            }
            Sender::Main(_) | Sender::Stranger => None,
        };
        let Some(pid) = pid else { return };
        let Some(generation) = self.s.generation_mut(number) else { return };
        let main = generation.first_pid().map_or(String::new(), |pid| format!(" ({pid})"));
        let text = format!(
            "process {pid} has said {what}, but with NotifyAccess = \"{access}\" only the main process{main} is heard: \
             start the program with exec, or set NotifyAccess = \"all\""
        );
        let first = generation.unheard.as_ref().is_none_or(|(known, _)| known != what);
        generation.unheard = Some((what.to_owned(), text.clone()));
        if first {
            self.warn(format!("generation {}: {text}", number.0));
        }
    }

    /// Why a message that was waited for did not come, if it came from the wrong process: the rest of a sentence.
    pub(super) fn but_unheard(&self, number: Gen, what: &str) -> String {
        let unheard = self.s.generation(number).and_then(|generation| generation.unheard.as_ref());
        unheard.filter(|(said, _)| said == what).map_or(String::new(), |(_, text)| format!(" ({text})"))
    }

    /// The last one is shown; news is only what is new, and not more of it than somebody can follow.
    fn said_status(&mut self, number: Gen, text: &str) {
        let now = self.now;
        let Some(generation) = self.s.generation_mut(number) else { return };
        let new = generation.status_text.as_deref() != Some(text);
        generation.status_text = Some(text.to_owned());
        if new && generation.told.take(now, Span::from_secs(1), STATUS_BURST) {
            self.announce(Announcement::Status { generation: number, text: text.to_owned() });
        }
    }

    fn adopt_main(&mut self, number: Gen, index: u32, pid: i32) {
        let Some(worker) = self.worker_mut(number, index) else { return };
        let Some(proc) = worker.proc.filter(|_| worker.pid.is_some() && worker.pid != Some(pid)) else {
            return;
        };
        if pid <= 1 {
            return;
        }
        worker.pid = Some(pid);
        self.push(Action::AdoptMain { proc, pid });
    }

    /// The service needs longer: its next step must come within this time, or the deadline that it had.
    fn extend_timeout(&mut self, number: Gen, by: Span) {
        let Some(until) = self.now.after(by) else { return };
        let Some(generation) = self.s.generation_mut(number) else { return };
        match &mut generation.phase {
            Phase::Starting { deadline: Some(deadline), .. } => *deadline = (*deadline).max(until),
            Phase::Stopping { step: StopStep::Signalled { deadline: Some(deadline) }, plan } => {
                match plan.clock {
                    Clock::Each(_) => *deadline = (*deadline).max(until),
                    // DrainTimeout is the operator's, not the service's.
                    Clock::Until(_) => {}
                }
            }
            Phase::Starting { deadline: None, .. }
            | Phase::Up
            | Phase::Quiescing { .. }
            | Phase::Stopping { .. } => {}
        }
    }

    fn watchdog_said(&mut self, number: Gen, index: u32, message: &Notification) {
        let now = self.now;
        let Some(generation) = self.s.generation_mut(number) else { return };
        let up = matches!(generation.phase, Phase::Up);
        let ending = matches!(generation.phase, Phase::Quiescing { .. } | Phase::Stopping { .. });
        let Some(worker) = generation.workers.get_mut(index as usize) else { return };
        if worker.proc.is_none() || worker.doomed.is_some() || ending {
            return;
        }
        if let Some(microseconds) = message.watchdog_usec {
            let every = Span::from_micros(microseconds);
            let deadline = if up && !every.is_zero() { now.after(every) } else { None };
            worker.watchdog = Some(Watchdog::new(every, deadline));
        } else if message.watchdog
            && let Some(watchdog) = worker.watchdog.as_mut()
            && watchdog.deadline.is_some()
        {
            *watchdog = Watchdog::new(watchdog.every, now.after(watchdog.every));
        }
        if message.watchdog_trigger {
            self.watchdog_expired(number, index, "has said WATCHDOG=trigger");
        }
    }

    fn said_ready(&mut self, number: Gen, index: u32) {
        let unit = self.unit_of(number);
        match unit.service.service_type {
            ServiceType::Notify | ServiceType::NotifyReload => {}
            ServiceType::Simple | ServiceType::Exec | ServiceType::Oneshot => return,
        }
        let now = self.now;
        let Some(generation) = self.s.generation_mut(number) else { return };
        let (starting, up) = (
            matches!(generation.phase, Phase::Starting { step: StartStep::Mains, .. }),
            matches!(generation.phase, Phase::Up),
        );
        let Some(worker) = generation.workers.get_mut(index as usize).filter(|w| w.proc.is_some()) else {
            return;
        };
        let first = !worker.up;
        let began = worker.reloading.take();
        if first && (starting || up) {
            worker.up = true;
            worker.up_by = None;
            if up {
                worker.arm_watchdog(now, unit.service.watchdog);
            }
        }
        if starting {
            self.mains_progress(number);
        } else if up && !first {
            self.reload_ready(number, index, began);
        }
    }

    /// STOPPING=1: expected of a generation that is being stopped; any other goes by itself.
    fn said_stopping(&mut self, number: Gen) {
        let Some(generation) = self.s.generation(number) else { return };
        let workers = generation.workers.iter().filter(|worker| worker.proc.is_some()).count();
        match generation.phase {
            Phase::Quiescing { .. } | Phase::Stopping { .. } => return,
            Phase::Up if workers > 1 && self.s.place(number) == Place::Current => return,
            Phase::Up | Phase::Starting { .. } => {}
        }
        match self.s.place(number) {
            Place::New => {
                let end = End::given_up(Word::Protocol, "has said STOPPING=1".into());
                self.follow(Follow::MainsDead(number, end));
            }
            Place::Current => self.follow(Follow::StopsByItself(number)),
            Place::Instance | Place::Rescue | Place::Draining => self.stops_by_itself(number),
        }
    }
}
