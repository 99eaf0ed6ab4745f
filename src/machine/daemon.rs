//! The machine of aeternad itself: signals, the units' summaries, stopping, and the exit status.
//!
//! The shell hands it a [`DaemonEvent::Summary`] after every event that a unit's machine has handled, and
//! carries its actions out in order. Until every unit has sent one, nothing is said upward.

use super::event::{Command, Summary, UnitState};
use super::model::Window;
use crate::time::{Monotime, Span};
use serde::{Deserialize, Serialize};

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;
const SIGUSR1: i32 = 10;
const SIGUSR2: i32 = 12;
const SIGTERM: i32 = 15;
const SIGPWR: i32 = 30;
/// SIGRTMIN+3 as init systems count it: what container engines send to "halt".
const SIGRTMIN_3: i32 = 37;

/// How long killed processes may take to be gone after a second SIGTERM.
const AFTER_KILL: Span = Span::from_secs(2);

/// So many signals that mean nothing are told of in ten seconds.
const STRANGE_BURST: u32 = 5;

/// What can happen to aeternad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DaemonEvent {
    /// A signal has come: its number. Signals that mean nothing are no-ops.
    Signal(i32),
    /// What a unit's machine says after an event.
    Summary {
        /// Which unit, 0 to the number given to [`DaemonMachine::new`] less one.
        unit: usize,
        /// What it says.
        summary: Summary,
    },
    /// A unit's file was found while aeternad runs. It counts from its first summary on.
    Added {
        /// Its number: one that is free, or the next one.
        unit: usize,
    },
    /// A unit was stopped because its file is gone, and is no more. Its number is free.
    Removed {
        /// Which unit.
        unit: usize,
    },
    /// So many unit files cannot be used: no unit stands for them.
    Unusable(usize),
    /// aeternad is to stop for another reason than a signal: as SIGTERM.
    Stop,
    /// A deadline may have passed.
    Tick,
}

/// What aeternad is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DaemonAction {
    /// This command for every unit, in order; nobody waits for the answers.
    All(Command),
    /// Look for new, changed and removed unit files, and reload every unit; each of them says something afterwards.
    /// Nobody waits for the answers.
    ReloadAll,
    /// `/ready` is 503 from now on.
    NotReady,
    /// Tell the supervisor above (NOTIFY_SOCKET): an sd_notify(3) message.
    Notify(String),
    /// The whole status to the log.
    DumpStatus,
    /// Replace aeternad's own program.
    Upgrade,
    /// A signal has come that means nothing: whoever has sent it waits for something.
    Meaningless(i32),
    /// End with this exit status.
    Exit(u8),
}

/// Where aeternad is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Course {
    Running,
    /// `StopDelaySec`: services go on.
    Delaying {
        until: Option<Monotime>,
    },
    /// Every unit was told to stop.
    Stopping {
        code: u8,
    },
    /// No more waiting.
    Killing {
        until: Monotime,
    },
    Exited,
}

/// What is known of the unit with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Known {
    /// There is none: its file was removed.
    Free,
    /// It has said nothing yet.
    Silent,
    /// What it said last.
    Says(Summary),
}

impl Known {
    fn summary(&self) -> Option<&Summary> {
        match self {
            Known::Says(summary) => Some(summary),
            Known::Free | Known::Silent => None,
        }
    }
}

/// The machine of aeternad.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DaemonMachine {
    stop_delay: Span,
    units: Vec<Known>,
    /// Unit files that cannot be used.
    unusable: usize,
    /// Whether a unit was removed, or a file was unusable: what is left is not all that aeternad was started for.
    had_others: bool,
    course: Course,
    /// Whether READY=1 was said.
    ready: bool,
    /// After SIGHUP: which units have not answered yet.
    reloading: Option<Vec<bool>>,
    said: String,
    /// Signals that mean nothing.
    strange: Window,
}

impl DaemonMachine {
    /// A daemon with this many units; `stop_delay` is `StopDelaySec`.
    pub fn new(units: usize, stop_delay: Span) -> DaemonMachine {
        DaemonMachine {
            stop_delay,
            units: vec![Known::Silent; units],
            unusable: 0,
            had_others: false,
            course: Course::Running,
            ready: false,
            reloading: None,
            said: String::new(),
            strange: Window::default(),
        }
    }

    /// The only mutation: what happens, and what is then to be done, appended to `out`.
    pub fn handle(&mut self, now: Monotime, event: DaemonEvent, out: &mut Vec<DaemonAction>) {
        match event {
            DaemonEvent::Signal(signal) => self.signal(now, signal, out),
            DaemonEvent::Summary { unit, summary } => self.summary(unit, summary, out),
            DaemonEvent::Added { unit } => self.added(unit),
            DaemonEvent::Removed { unit } => self.removed(unit, out),
            DaemonEvent::Unusable(count) => {
                self.unusable = count;
                self.had_others |= count > 0;
                self.say_ready(out);
            }
            DaemonEvent::Stop => self.stop(now, self.stop_delay, out),
            DaemonEvent::Tick => {}
        }
        self.progress(now, out);
    }

    /// When [`DaemonEvent::Tick`] is wanted next; `None` for never.
    pub fn next_deadline(&self) -> Option<Monotime> {
        match self.course {
            Course::Delaying { until } => until,
            Course::Killing { until } => Some(until),
            Course::Running | Course::Stopping { .. } | Course::Exited => None,
        }
    }

    /// How many units it is about.
    pub fn units(&self) -> usize {
        self.units.len()
    }

    /// Whether a stop is under way.
    pub fn is_stopping(&self) -> bool {
        self.course != Course::Running
    }

    /// Whether a signal says nothing to aeternad.
    pub fn means_nothing(&self, signal: i32) -> bool {
        !matches!(signal, SIGHUP | SIGTERM | SIGQUIT | SIGPWR | SIGRTMIN_3 | SIGINT | SIGUSR1 | SIGUSR2)
    }

    fn signal(&mut self, now: Monotime, signal: i32, out: &mut Vec<DaemonAction>) {
        match signal {
            SIGHUP if self.course == Course::Running => self.reload_all(now, out),
            SIGTERM | SIGQUIT | SIGPWR | SIGRTMIN_3 => self.stop(now, self.stop_delay, out),
            SIGINT => self.stop(now, Span::ZERO, out),
            SIGUSR1 => out.push(DaemonAction::DumpStatus),
            SIGUSR2 if self.course == Course::Running => out.push(DaemonAction::Upgrade),
            _ if self.means_nothing(signal) && self.strange.take(now, Span::from_secs(10), STRANGE_BURST) => {
                out.push(DaemonAction::Meaningless(signal));
            }
            _ => {}
        }
    }

    fn reload_all(&mut self, now: Monotime, out: &mut Vec<DaemonAction>) {
        let microseconds = now.0 / 1_000;
        out.push(DaemonAction::Notify(format!("RELOADING=1\nMONOTONIC_USEC={microseconds}")));
        self.reloading = Some(self.units.iter().map(|unit| *unit == Known::Free).collect());
        out.push(DaemonAction::ReloadAll);
    }

    fn stop(&mut self, now: Monotime, delay: Span, out: &mut Vec<DaemonAction>) {
        match self.course {
            Course::Running => {
                out.push(DaemonAction::NotReady);
                out.push(DaemonAction::Notify("STOPPING=1".into()));
                self.reloading = None;
                if delay.is_zero() || !self.alive() {
                    self.shut_down(0, out);
                } else {
                    out.push(DaemonAction::All(Command::RefuseReloads));
                    self.course = Course::Delaying { until: now.after(delay) };
                }
            }
            Course::Delaying { .. } | Course::Stopping { .. } => {
                out.push(DaemonAction::All(Command::KillAll));
                self.course = Course::Killing { until: now + AFTER_KILL };
            }
            Course::Killing { .. } | Course::Exited => {}
        }
    }

    fn shut_down(&mut self, code: u8, out: &mut Vec<DaemonAction>) {
        self.course = Course::Stopping { code };
        out.push(DaemonAction::All(Command::Shutdown));
        // What they said before this does not count: each answers the command with a summary.
        for unit in &mut self.units {
            if let Known::Says(summary) = unit
                && summary.state == UnitState::Stopped
            {
                summary.state = UnitState::Stopping;
            }
        }
    }

    fn alive(&self) -> bool {
        self.units.iter().filter_map(Known::summary).any(|summary| summary.alive)
    }

    fn added(&mut self, unit: usize) {
        if unit == self.units.len() {
            self.units.push(Known::Silent);
        } else if let Some(known) = self.units.get_mut(unit) {
            *known = Known::Silent;
        }
        if let Some(answered) = &mut self.reloading {
            answered.resize(self.units.len(), false);
            answered.get_mut(unit).into_iter().for_each(|answered| *answered = false);
        }
    }

    fn removed(&mut self, unit: usize, out: &mut Vec<DaemonAction>) {
        let Some(known) = self.units.get_mut(unit) else { return };
        *known = Known::Free;
        self.had_others = true;
        if let Some(answered) = self.reloading.as_mut().and_then(|answered| answered.get_mut(unit)) {
            *answered = true;
        }
        self.say_ready(out);
    }

    fn summary(&mut self, unit: usize, summary: Summary, out: &mut Vec<DaemonAction>) {
        let Some(known) = self.units.get_mut(unit) else { return };
        if *known == Known::Free {
            return;
        }
        *known = Known::Says(summary);
        if let Some(answered) = self.reloading.as_mut().and_then(|answered| answered.get_mut(unit)) {
            *answered = true;
        }
        self.say_ready(out);
    }

    /// What the supervisor above wants to know.
    fn say_ready(&mut self, out: &mut Vec<DaemonAction>) {
        if self.course != Course::Running {
            return;
        }
        if self.units.contains(&Known::Silent) {
            return;
        }
        let all: Vec<Summary> = self.units.iter().filter_map(Known::summary).copied().collect();
        let settled = all.iter().filter(|summary| summary.boot).all(|summary| summary.settled);
        // What was added has come up, or has not, before that is said.
        let over = self.reloading.as_ref().is_some_and(|answered| answered.iter().all(|a| *a))
            && settled
            && !all.iter().any(|summary| summary.reloading);
        if over {
            self.reloading = None;
        }
        let first = settled && !self.ready;
        let status = describe(&all, self.unusable);
        if first || (over && self.ready) {
            self.ready = true;
            out.push(DaemonAction::Notify(format!("READY=1\nSTATUS={status}")));
        } else if status != self.said && self.ready {
            out.push(DaemonAction::Notify(format!("STATUS={status}")));
        } else {
            return;
        }
        self.said = status;
    }

    fn progress(&mut self, now: Monotime, out: &mut Vec<DaemonAction>) {
        if let Course::Delaying { until } = self.course
            && until.is_some_and(|until| until <= now)
        {
            self.shut_down(0, out);
        }
        match self.course {
            Course::Running => {
                if let Some(code) = self.own_status() {
                    out.push(DaemonAction::NotReady);
                    out.push(DaemonAction::Notify("STOPPING=1".into()));
                    self.shut_down(code, out);
                    self.exit_if_over(out);
                }
            }
            Course::Killing { until } if until <= now => self.exit(1, out),
            Course::Stopping { .. } | Course::Killing { .. } => self.exit_if_over(out),
            Course::Delaying { .. } | Course::Exited => {}
        }
    }

    fn exit_if_over(&mut self, out: &mut Vec<DaemonAction>) {
        let code = match self.course {
            Course::Stopping { code } => code,
            Course::Killing { .. } => 1,
            Course::Running | Course::Delaying { .. } | Course::Exited => return,
        };
        let over = |summary: &Summary| !summary.alive && summary.state == UnitState::Stopped;
        let done = |unit: &Known| match unit {
            Known::Free => true,
            Known::Silent => false,
            Known::Says(summary) => over(summary),
        };
        if self.units.iter().all(done) {
            self.exit(code, out);
        }
    }

    fn exit(&mut self, code: u8, out: &mut Vec<DaemonAction>) {
        self.course = Course::Exited;
        out.push(DaemonAction::Exit(code));
    }

    /// The exit status of the one service that aeternad was started for, when that has ended by itself.
    fn own_status(&self) -> Option<u8> {
        if self.had_others || self.units.contains(&Known::Silent) {
            return None;
        }
        let mut boot = self.units.iter().filter_map(Known::summary).filter(|summary| summary.boot);
        match (boot.next(), boot.next()) {
            (Some(only), None) => only.ended,
            (Some(_) | None, _) => None,
        }
    }
}

/// One line for `systemctl status`.
fn describe(all: &[Summary], unusable: usize) -> String {
    // The older generation serves while a reload's new one is STARTING.
    let serves = |summary: &&Summary| {
        matches!(summary.state, UnitState::Running | UnitState::Draining | UnitState::Listening)
            || summary.state.is_reload()
            || summary.reloading
    };
    let serving = all.iter().filter(serves).count();
    let has_failed = |summary: &&Summary| matches!(summary.state, UnitState::Failed | UnitState::Backoff);
    let failed = all.iter().filter(has_failed).count() + unusable;
    let count = all.len() + unusable;
    let units = if count == 1 { "unit" } else { "units" };
    if failed > 0 {
        format!("{serving} of {count} {units} serve, {failed} failed")
    } else {
        format!("{serving} of {count} {units} serve")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: Summary = Summary {
        state: UnitState::Running,
        alive: true,
        settled: true,
        ended: None,
        boot: true,
        reloading: false,
    };
    const STOPPED: Summary = Summary { state: UnitState::Stopped, alive: false, ..RUNNING };

    struct Rig {
        machine: DaemonMachine,
        now: Monotime,
    }

    impl Rig {
        fn new(units: usize, delay: u64) -> Rig {
            Rig { machine: DaemonMachine::new(units, Span::from_secs(delay)), now: Monotime(1_000_000) }
        }

        fn event(&mut self, event: DaemonEvent) -> Vec<DaemonAction> {
            let mut out = Vec::new();
            self.machine.handle(self.now, event, &mut out);
            out
        }

        fn says(&mut self, unit: usize, summary: Summary) -> Vec<DaemonAction> {
            self.event(DaemonEvent::Summary { unit, summary })
        }

        fn signal(&mut self, signal: i32) -> Vec<DaemonAction> {
            self.event(DaemonEvent::Signal(signal))
        }

        fn pass(&mut self, seconds: u64) -> Vec<DaemonAction> {
            self.now = self.now + Span::from_secs(seconds);
            self.event(DaemonEvent::Tick)
        }
    }

    fn stopping() -> Vec<DaemonAction> {
        vec![DaemonAction::NotReady, DaemonAction::Notify("STOPPING=1".into())]
    }

    #[test]
    fn ready_is_said_once_when_every_boot_unit_has_settled() {
        let mut rig = Rig::new(2, 0);
        let starting = Summary { state: UnitState::Starting, settled: false, ..RUNNING };
        assert_eq!(rig.says(0, RUNNING), []);
        assert_eq!(rig.says(1, starting), []);
        assert_eq!(rig.says(1, RUNNING), [DaemonAction::Notify("READY=1\nSTATUS=2 of 2 units serve".into())]);
        assert_eq!(rig.says(1, RUNNING), []);
        let failed = Summary { state: UnitState::Failed, alive: false, ended: Some(3), ..RUNNING };
        assert_eq!(rig.says(1, failed), [DaemonAction::Notify("STATUS=1 of 2 units serve, 1 failed".into())]);
    }

    #[test]
    fn a_connection_unit_does_not_hold_ready_back_nor_end_the_daemon() {
        let mut rig = Rig::new(2, 0);
        let idle = Summary {
            state: UnitState::Failed,
            alive: false,
            settled: false,
            ended: Some(1),
            boot: false,
            reloading: false,
        };
        rig.says(0, idle);
        let said = rig.says(1, RUNNING);
        assert!(matches!(&said[..], [DaemonAction::Notify(text)] if text.starts_with("READY=1")));
    }

    #[test]
    fn sigterm_waits_stop_delay_and_sigint_does_not() {
        let mut rig = Rig::new(1, 5);
        rig.says(0, RUNNING);
        let mut wanted = stopping();
        wanted.push(DaemonAction::All(Command::RefuseReloads));
        assert_eq!(rig.signal(SIGTERM), wanted);
        assert_eq!(rig.pass(4), []);
        assert_eq!(rig.pass(1), [DaemonAction::All(Command::Shutdown)]);
        assert_eq!(rig.says(0, Summary { state: UnitState::Stopping, ..RUNNING }), []);
        assert_eq!(rig.says(0, STOPPED), [DaemonAction::Exit(0)]);
        assert_eq!(rig.says(0, STOPPED), []);

        let mut rig = Rig::new(1, 5);
        rig.says(0, RUNNING);
        let mut wanted = stopping();
        wanted.push(DaemonAction::All(Command::Shutdown));
        assert_eq!(rig.signal(SIGINT), wanted);
    }

    #[test]
    fn with_nothing_alive_a_stop_waits_for_nothing() {
        let mut rig = Rig::new(1, 5);
        rig.says(0, STOPPED);
        let mut wanted = stopping();
        wanted.push(DaemonAction::All(Command::Shutdown));
        assert_eq!(rig.signal(SIGTERM), wanted);
        assert_eq!(rig.says(0, STOPPED), [DaemonAction::Exit(0)]);
        assert_eq!(Rig::new(0, 5).signal(SIGTERM).last(), Some(&DaemonAction::Exit(0)));
    }

    #[test]
    fn a_second_signal_kills_and_the_exit_status_is_1() {
        for (first, second) in [(SIGTERM, SIGTERM), (SIGTERM, SIGINT), (SIGINT, SIGINT), (SIGRTMIN_3, SIGPWR)]
        {
            let mut rig = Rig::new(1, 5);
            rig.says(0, RUNNING);
            rig.signal(first);
            assert_eq!(rig.signal(second), [DaemonAction::All(Command::KillAll)]);
            assert_eq!(rig.signal(second), []);
            assert_eq!(rig.says(0, STOPPED), [DaemonAction::Exit(1)]);
        }
        // What cannot be killed does not keep aeternad.
        let mut rig = Rig::new(1, 0);
        rig.says(0, RUNNING);
        rig.signal(SIGTERM);
        rig.signal(SIGTERM);
        assert_eq!(rig.pass(2), [DaemonAction::Exit(1)]);
    }

    #[test]
    fn the_one_boot_unit_gives_the_exit_status_if_it_ended_by_itself() {
        let ended = Summary { state: UnitState::Failed, alive: false, ended: Some(7), ..RUNNING };
        let mut rig = Rig::new(1, 5);
        rig.says(0, RUNNING);
        let mut wanted = stopping();
        wanted.push(DaemonAction::All(Command::Shutdown));
        let said = rig.says(0, ended);
        assert_eq!(said[said.len() - 3..], wanted);
        assert_eq!(rig.says(0, STOPPED), [DaemonAction::Exit(7)]);

        // After a stop by command it stays.
        let mut rig = Rig::new(1, 5);
        rig.says(0, RUNNING);
        assert!(!rig.says(0, STOPPED).contains(&DaemonAction::All(Command::Shutdown)));

        // With two it stays.
        let mut rig = Rig::new(2, 5);
        rig.says(0, RUNNING);
        rig.says(1, RUNNING);
        assert!(!rig.says(0, ended).contains(&DaemonAction::All(Command::Shutdown)));
    }

    #[test]
    fn sighup_reloads_all_and_says_ready_when_that_is_over() {
        let mut rig = Rig::new(2, 0);
        rig.says(0, RUNNING);
        rig.says(1, RUNNING);
        let said = rig.signal(SIGHUP);
        assert_eq!(said[0], DaemonAction::Notify("RELOADING=1\nMONOTONIC_USEC=1000".into()));
        assert_eq!(said[1], DaemonAction::ReloadAll);
        let reloading = Summary { state: UnitState::PreChecking, reloading: true, ..RUNNING };
        let starting = Summary { state: UnitState::Starting, reloading: true, ..RUNNING };
        assert_eq!(rig.says(0, starting), [], "the older generation serves");
        let ready = |out: Vec<DaemonAction>| {
            out.iter().any(|a| matches!(a, DaemonAction::Notify(text) if text.starts_with("READY=1")))
        };
        assert!(!ready(rig.says(0, reloading)));
        assert!(!ready(rig.says(0, RUNNING)));
        assert!(!ready(rig.says(1, reloading)));
        assert!(ready(rig.says(1, RUNNING)));
        assert!(!ready(rig.says(1, RUNNING)));
    }

    #[test]
    fn a_sighup_is_over_when_what_was_added_has_come_up_and_what_was_removed_is_gone() {
        let ready = |out: Vec<DaemonAction>| {
            out.iter().any(|a| matches!(a, DaemonAction::Notify(text) if text.starts_with("READY=1")))
        };
        let mut rig = Rig::new(2, 0);
        rig.says(0, RUNNING);
        rig.says(1, RUNNING);
        rig.signal(SIGHUP);
        rig.event(DaemonEvent::Added { unit: 2 });
        assert!(!ready(rig.says(0, RUNNING)));
        assert!(!ready(rig.says(2, Summary { state: UnitState::Starting, settled: false, ..RUNNING })));
        assert!(!ready(rig.says(1, RUNNING)));
        assert!(ready(rig.says(2, RUNNING)));
        let mut rig = Rig::new(2, 0);
        rig.says(0, RUNNING);
        rig.says(1, RUNNING);
        rig.signal(SIGHUP);
        rig.says(0, RUNNING);
        assert!(ready(rig.event(DaemonEvent::Removed { unit: 1 })));
        // Its number is used again.
        rig.event(DaemonEvent::Added { unit: 1 });
        assert_eq!(rig.says(1, STOPPED), [DaemonAction::Notify("STATUS=1 of 2 units serve".into())]);
    }

    #[test]
    fn what_is_left_after_a_removal_or_beside_an_unusable_file_does_not_end_the_daemon() {
        let ended = Summary { state: UnitState::Failed, alive: false, ended: Some(7), ..RUNNING };
        let stops = |out: &[DaemonAction]| out.contains(&DaemonAction::All(Command::Shutdown));
        let mut rig = Rig::new(2, 0);
        rig.says(0, ended);
        rig.says(1, RUNNING);
        assert!(!stops(&rig.event(DaemonEvent::Removed { unit: 1 })));
        assert!(!stops(&rig.says(0, ended)));
        // A removed unit is not waited for.
        rig.signal(SIGTERM);
        assert_eq!(rig.says(0, STOPPED), [DaemonAction::Exit(0)]);

        let mut rig = Rig::new(1, 0);
        rig.event(DaemonEvent::Unusable(1));
        let said = rig.says(0, RUNNING);
        assert_eq!(said, [DaemonAction::Notify("READY=1\nSTATUS=1 of 2 units serve, 1 failed".into())]);
        assert!(!stops(&rig.says(0, ended)));
        assert!(!stops(&rig.event(DaemonEvent::Unusable(0))));
        let mut rig = Rig::new(1, 0);
        rig.event(DaemonEvent::Unusable(0));
        rig.says(0, RUNNING);
        assert!(stops(&rig.says(0, ended)));
    }

    #[test]
    fn the_other_signals() {
        let mut rig = Rig::new(1, 0);
        rig.says(0, RUNNING);
        assert_eq!(rig.signal(SIGUSR1), [DaemonAction::DumpStatus]);
        assert_eq!(rig.signal(SIGUSR2), [DaemonAction::Upgrade]);
        for _ in 0..STRANGE_BURST {
            assert_eq!(rig.signal(28), [DaemonAction::Meaningless(28)]);
        }
        // A flood is no reason to say more.
        assert_eq!(rig.signal(40), []);
        assert_eq!(rig.signal(SIGQUIT).last(), Some(&DaemonAction::All(Command::Shutdown)));
        assert_eq!(rig.signal(SIGHUP), []);
    }
}
