//! The guarantees of contract section 6, as they are asserted after every event.

use crate::world::{Child, Tree};
use aeterna::machine::UnitMachine;
use aeterna::machine::event::*;
use aeterna::time::{Monotime, Span};
use aeterna::unit::{KillMode, Strategy, Unit};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is known of a generation from the actions alone.
#[derive(Debug, Clone)]
struct Known {
    unit: Arc<Unit>,
    release: u64,
    slot: u32,
    ready: bool,
    killed: bool,
    stopping: bool,
}

/// How often what was seen: outcomes, drains, stranded connections, restarts, states, rescues.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen(pub(crate) [u64; 23]);

impl Seen {
    pub(crate) fn add(&mut self, other: &Seen) {
        self.0.iter_mut().zip(other.0).for_each(|(all, more)| *all += more);
    }

    pub(crate) fn report(&self) -> String {
        let names = [
            "promoted",
            "rolled back",
            "failed",
            "refused",
            "aborted",
            "drains",
            "stranded",
            "restarts",
            "PENDING",
            "LISTENING",
            "STARTING",
            "RUNNING",
            "PRE_CHECKING",
            "HANDSHAKING",
            "SOAKING",
            "DRAINING",
            "ROLLING_BACK",
            "BACKOFF",
            "STOPPING",
            "STOPPED",
            "FAILED",
            "rescues",
            "deaths",
        ];
        names.iter().zip(self.0).map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    }
}

/// One event, what it changed and what followed.
pub(crate) struct Turned<'a> {
    pub(crate) event: &'a Event,
    pub(crate) before: Summary,
    pub(crate) after: Summary,
    pub(crate) actions: &'a [Action],
    pub(crate) children: &'a [Child],
    pub(crate) now: Monotime,
}

impl Turned<'_> {
    /// Whether a command stops, restarts or signals the service.
    fn is_stop(&self) -> bool {
        let Event::Command { command, .. } = self.event else { return false };
        match command {
            Command::Reload { .. }
            | Command::Promote
            | Command::Rollback { .. }
            | Command::DropRelease(_)
            | Command::RefuseReloads => false,
            Command::Start
            | Command::Stop { .. }
            | Command::Restart
            | Command::Kill { .. }
            | Command::Shutdown
            | Command::KillAll => true,
        }
    }
}

#[derive(Default)]
struct Counts {
    records: u32,
    announced: u32,
    ended: u32,
}

/// Everything that is watched.
pub(crate) struct Checks {
    generations: BTreeMap<Gen, Known>,
    /// Generations of which something cannot be killed.
    given_up: Vec<Gen>,
    /// Some only leaves processes behind on purpose.
    leaves_some: bool,
    contents: BTreeMap<ContentId, Arc<Unit>>,
    serving: Option<Gen>,
    /// Releases that were promoted once, and those that a reload has launched and given up.
    proven: BTreeSet<u64>,
    refused: BTreeSet<u64>,
    steering: Steering,
    steered: bool,
    /// What the machine has said counts.
    content: ContentId,
    waiting: Vec<Req>,
    open: Vec<Conn>,
    /// The unit that the reload under way goes to, once it is known.
    reload_unit: Option<Arc<Unit>>,
    /// What has been seen, so that a world in which nothing happens does not pass.
    pub(crate) seen: Seen,
    reload_since: Option<Monotime>,
    bound: Span,
    watched: bool,
    state: Moving,
}

/// State on its way (contract section 7).
#[derive(Default)]
struct Moving {
    relay: Option<Transfer>,
    /// The relay was told to end: its end may come at any time, and tells the source.
    cancelled: bool,
    /// Who has got REQUEST, and neither COMMIT nor RESUME yet.
    asked: Option<Gen>,
}

impl Moving {
    fn event(&mut self, event: &Event) {
        let Event::RelayEnded(relayed) = event else { return };
        let Some(relay) = self.relay.filter(|r| r.from == relayed.from && r.to == relayed.to) else { return };
        if relayed.result.is_err() && !relay.back && self.asked == Some(relayed.from) {
            // The shell has sent RESUME.
            self.asked = None;
        }
        self.relay = None;
        self.cancelled = false;
    }

    fn action(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Relay(transfer) => {
                if transfer.back {
                    self.asked = self.asked.filter(|asked| *asked != transfer.to);
                } else {
                    // One that was asked before has died, or the end of its relay has told it.
                    self.asked = Some(transfer.from);
                }
                self.relay = Some(*transfer);
                self.cancelled = false;
            }
            Action::Resume(generation) if self.asked == Some(*generation) => self.asked = None,
            Action::Resume(generation) => {
                return Err(format!("RESUME to {generation:?}, which was not asked"));
            }
            Action::Commit(generation) if self.asked == Some(*generation) => self.asked = None,
            Action::Commit(generation) => {
                return Err(format!("COMMIT to {generation:?}, which was not asked"));
            }
            Action::CancelRelay => self.cancelled = true,
            _ => {}
        }
        Ok(())
    }

    fn stop_signal(&self, generation: Gen, stopping: bool) -> Result<(), String> {
        if self.asked == Some(generation) && !self.cancelled {
            return Err(format!("{generation:?} is stopped, and was told neither COMMIT nor RESUME"));
        }
        if !stopping && !self.cancelled && self.relay.is_some_and(|relay| relay.from == generation) {
            return Err(format!("{generation:?} is stopped while its state is on the way"));
        }
        Ok(())
    }
}

impl Checks {
    pub(crate) fn new(content: Content) -> Checks {
        let leaves_some = leaves_some(&content.unit);
        Checks {
            generations: BTreeMap::new(),
            given_up: Vec::new(),
            leaves_some,
            proven: BTreeSet::from([content.release]),
            refused: BTreeSet::new(),
            content: content.id,
            contents: BTreeMap::from([(content.id, content.unit)]),
            serving: None,
            steering: Steering { serving: 0, canary: None, by: SteerBy::Connection },
            steered: true,
            waiting: Vec::new(),
            open: Vec::new(),
            reload_unit: None,
            seen: Seen::default(),
            reload_since: None,
            bound: Span::ZERO,
            watched: false,
            state: Moving::default(),
        }
    }

    pub(crate) fn asked(&mut self, req: Req) {
        self.waiting.push(req);
    }

    /// aeternad has died: its clients are gone, and whose state was on its way goes on as it was.
    pub(crate) fn died(&mut self) {
        self.seen.0[22] += 1;
        self.waiting.clear();
        self.watched = false;
        if self.state.relay.take().is_some() {
            self.state.asked = None;
        }
        self.state.cancelled = false;
    }

    pub(crate) fn connected(&mut self, conn: Conn) {
        self.open.push(conn);
    }

    pub(crate) fn said_stopping(&mut self, generation: Gen) {
        if let Some(known) = self.generations.get_mut(&generation) {
            known.stopping = true;
        }
    }

    fn lives(children: &[Child], generation: Gen) -> bool {
        children.iter().any(|child| child.generation == Some(generation) && child.is_main())
    }

    /// What must hold of one event and the actions that followed from it.
    pub(crate) fn after(&mut self, turn: &Turned<'_>) -> Result<(), String> {
        let (before, after) = (turn.before, turn.after);
        if let Event::Sockets { steered } = turn.event {
            self.steered = *steered;
        }
        match turn.event {
            Event::Answered(_, Answer::Loaded(Ok(content))) => {
                self.refused.remove(&content.release);
            }
            Event::Command { command: Command::Rollback { to: Some(_) }, .. } => self.refused.clear(),
            _ => {}
        }
        if matches!(turn.event, Event::Traffic | Event::Accepted { .. }) {
            self.watched = false;
        }
        self.state.event(turn.event);
        let mut counts = Counts::default();
        let replies = turn.actions.iter().skip_while(|action| !matches!(action, Action::Reply { .. }));
        if replies.clone().any(|action| !matches!(action, Action::Reply { .. })) {
            return Err("something follows a reply".into());
        }
        for action in turn.actions {
            self.action(turn, action, &mut counts)?;
        }
        if counts.records != counts.announced {
            return Err("guarantee 7: a reload is in the history or in the events, but not in both".into());
        }
        if before.reloading && !after.reloading && counts.ended == 0 {
            return Err("guarantee 7: a reload ended without a record".into());
        }
        if !before.reloading && !after.reloading && counts.ended > 1 {
            return Err("guarantee 7: more records than reloads".into());
        }
        if !after.reloading {
            self.reload_unit = None;
        }
        self.bounded(before, after, counts.ended, turn.now)?;
        self.drains(turn.children)
    }

    fn action(&mut self, turn: &Turned<'_>, action: &Action, counts: &mut Counts) -> Result<(), String> {
        self.state.action(action)?;
        match action {
            Action::Spawn(spawn) => self.spawned(spawn, turn.after)?,
            Action::Announce(fact) => self.announced(fact, counts),
            Action::Promoted(generation) => self.promoted(*generation)?,
            Action::GaveUp { generation, .. } => self.gave_up(*generation)?,
            Action::Content(content) => self.content = *content,
            Action::Steer(steering) => self.steer(*steering)?,
            Action::Stranded { .. } => self.seen.0[6] += 1,
            Action::BeginDrain { generation, slot } => {
                self.seen.0[5] += 1;
                if self.generations.get(generation).is_some_and(|known| known.slot != *slot) {
                    return Err(format!("drain of slot {slot}, which is not that of {generation:?}"));
                }
            }
            Action::Signal { to, signal } => self.signalled(*to, *signal, turn)?,
            Action::GiveUp(Target::Everyone(generation)) => self.given_up.push(*generation),
            Action::Forget(generation) => self.forgotten(*generation, turn.children)?,
            Action::Reply { req, .. } => {
                let Some(at) = self.waiting.iter().position(|waiting| waiting == req) else {
                    return Err(format!("{req:?} is answered twice, or never asked"));
                };
                self.waiting.remove(at);
            }
            Action::CloseConnection(conn) => self.disconnected(*conn),
            Action::Record(record) => {
                counts.records += 1;
                counts.ended += u32::from(record.outcome != Outcome::Refused);
                self.recorded(record)?;
            }
            Action::WatchTraffic if self.watched => return Err("traffic is watched twice".into()),
            Action::WatchTraffic => self.watched = true,
            Action::IgnoreTraffic => self.watched = false,
            Action::Ask(_, Question::OpenSockets(content)) => {
                self.contents.insert(content.id, Arc::clone(&content.unit));
                self.reload_unit = turn.after.reloading.then(|| Arc::clone(&content.unit));
            }
            _ => {}
        }
        Ok(())
    }

    fn announced(&mut self, fact: &Announcement, counts: &mut Counts) {
        match fact {
            Announcement::Ready { generation } => {
                if let Some(known) = self.generations.get_mut(generation) {
                    known.ready = true;
                }
            }
            Announcement::Reloaded { .. } => counts.announced += 1,
            Announcement::Restarting { .. } => self.seen.0[7] += 1,
            Announcement::State { to, .. } => self.seen.0[8 + *to as usize] += 1,
            Announcement::Step { generation: None, text } if text.contains("slot") => self.seen.0[21] += 1,
            _ => {}
        }
    }

    fn forgotten(&mut self, generation: Gen, children: &[Child]) -> Result<(), String> {
        let given_up = self.given_up.contains(&generation);
        if Checks::lives(children, generation) && !self.may_leave(generation) && !given_up {
            return Err(format!("{generation:?} is forgotten, but a main of it lives"));
        }
        self.generations.remove(&generation);
        if self.serving == Some(generation) {
            self.serving = None;
        }
        Ok(())
    }

    fn spawned(&mut self, spawn: &Spawn, after: Summary) -> Result<(), String> {
        self.contents.insert(spawn.content.id, Arc::clone(&spawn.content.unit));
        self.leaves_some |= leaves_some(&spawn.content.unit);
        if let Role::Instance(conn) = spawn.role {
            self.disconnected(conn);
        }
        let Some(generation) = spawn.generation else { return Ok(()) };
        if matches!(after.state, UnitState::Stopped) {
            return Err("a process is started for a unit that is stopped".into());
        }
        let unit = Arc::clone(&spawn.content.unit);
        let release = spawn.content.release;
        let main = matches!(spawn.role, Role::Main { .. } | Role::Instance(_));
        if main && spawn.if_gone == IfGone::TakeNew && self.refused.contains(&release) {
            return Err(format!("guarantee 8: {generation:?} runs what a reload has given up"));
        }
        let new = Known {
            unit: Arc::clone(&unit),
            release,
            slot: spawn.slot,
            ready: false,
            killed: false,
            stopping: false,
        };
        let known = self.generations.entry(generation).or_insert(new);
        if known.unit != unit && !matches!(spawn.role, Role::Reload(_)) {
            return Err(format!("{generation:?} gets a process of another content"));
        }
        Ok(())
    }

    /// Whether the reload under way leaves the old generation alone until it has succeeded.
    fn overlaps(&self) -> bool {
        let unit = self.reload_unit.as_ref();
        unit.is_none_or(|unit| matches!(unit.reload.strategy, Strategy::Canary | Strategy::Immediate))
    }

    fn disconnected(&mut self, conn: Conn) {
        self.open.retain(|open| *open != conn);
    }

    fn promoted(&mut self, generation: Gen) -> Result<(), String> {
        match self.generations.get(&generation) {
            Some(known) if known.ready => {}
            Some(_) => return Err(format!("guarantee 1: {generation:?} is promoted, but it is not ready")),
            None => return Err(format!("{generation:?} is promoted, but it does not exist")),
        }
        self.serving = Some(generation);
        if let Some(known) = self.generations.get(&generation) {
            self.proven.insert(known.release);
            self.refused.remove(&known.release);
        }
        Ok(())
    }

    fn gave_up(&mut self, generation: Gen) -> Result<(), String> {
        let Some(known) = self.generations.get(&generation) else {
            return Err(format!("{generation:?} is given up, but nothing of it was ever started"));
        };
        // What a start by hand has chosen is what serves, proven or not: a reload of the same refuses nothing else.
        let serves = known.release == u64::from(self.content.0);
        if !serves && !self.proven.contains(&known.release) {
            self.refused.insert(known.release);
        }
        Ok(())
    }

    fn steer(&mut self, steering: Steering) -> Result<(), String> {
        self.steering = steering;
        if let Some((slot, weight)) = steering.canary {
            if weight > 100 || slot == steering.serving {
                return Err(format!("nonsense: {steering:?}"));
            }
            let ready = self.generations.values().any(|known| known.slot == slot && known.ready);
            // With state on its way it gets everything: the old one accepts nothing more.
            let moving =
                self.generations.values().any(|known| known.slot == slot && known.unit.state.enabled);
            if weight > 0 && !ready && !moving {
                return Err(format!("{steering:?}, but nobody on that slot is ready"));
            }
        }
        Ok(())
    }

    fn recorded(&mut self, record: &ReloadRecord) -> Result<(), String> {
        let (outcome, reason) = (record.outcome, &record.reason);
        self.seen.0[match outcome {
            Outcome::Promoted => 0,
            Outcome::RolledBack => 1,
            Outcome::Failed => 2,
            Outcome::Refused => 3,
            Outcome::Aborted => 4,
        }] += 1;
        if reason.is_empty() && !matches!(outcome, Outcome::Promoted) {
            return Err(format!("guarantee 7: {outcome:?} without a reason"));
        }
        if outcome == Outcome::Failed && record.new_generation.is_some() {
            return Err("failed, though something was launched".into());
        }
        if outcome == Outcome::RolledBack && record.new_generation.is_none() && record.strategy != "replace" {
            return Err("rolled back, though nothing was launched".into());
        }
        if matches!(outcome, Outcome::RolledBack)
            && self.steering.canary.is_some_and(|(_, weight)| weight > 0)
        {
            return Err("a reload was rolled back, and the new generation still has a weight".into());
        }
        Ok(())
    }

    fn signalled(&mut self, to: Target, signal: i32, turn: &Turned<'_>) -> Result<(), String> {
        let children = turn.children;
        let by_command = turn.is_stop();
        let stopping = by_command
            || matches!(turn.after.state, UnitState::Stopping | UnitState::Stopped | UnitState::Failed);
        let before = turn.before;
        let (Target::Mains(generation) | Target::Everyone(generation)) = to else { return Ok(()) };
        let lives = Checks::lives(children, generation);
        let steering = self.steering;
        let serving = self.serving;
        let Some(known) = self.generations.get_mut(&generation) else { return Ok(()) };
        known.killed |= signal == known.unit.service.final_kill_signal || signal == 9;
        let polite = signal == known.unit.service.kill_signal;
        if polite
            && lives
            && !known.stopping
            && !matches!(turn.event, Event::Command { command: Command::Kill { .. }, .. })
        {
            self.state.stop_signal(generation, stopping)?;
        }
        if !polite || by_command || !lives || known.stopping {
            return Ok(());
        }
        if serving == Some(generation) && before.reloading && self.overlaps() && !stopping {
            return Err(format!("guarantees 1 and 2: {generation:?} serves, and is signalled in a reload"));
        }
        let Some(known) = self.generations.get(&generation) else { return Ok(()) };
        if self.steered && known.ready && !stopping && serving.is_some() && serving != Some(generation) {
            let gets = steering.serving == known.slot
                || steering.canary.is_some_and(|(slot, weight)| slot == known.slot && weight > 0);
            let other = serving.and_then(|serving| self.generations.get(&serving));
            let same_slot = other.is_some_and(|other| other.slot == self.generations[&generation].slot);
            if gets && !same_slot {
                return Err(format!(
                    "guarantee 3: {generation:?} gets its stop signal while it gets connections"
                ));
            }
        }
        Ok(())
    }

    /// Guarantee 4.
    fn bounded(&mut self, before: Summary, after: Summary, ended: u32, now: Monotime) -> Result<(), String> {
        if !after.reloading {
            self.reload_since = None;
            return Ok(());
        }
        if !before.reloading || ended > 0 || self.reload_since.is_none() {
            self.reload_since = Some(now);
            self.bound = Span::ZERO;
        }
        let longest = |f: &dyn Fn(&Unit) -> Span| {
            self.contents.values().map(|unit| f(unit)).max().unwrap_or(Span::ZERO)
        };
        let times = |span: Span, n: u64| Span(span.0.saturating_mul(n));
        let start = longest(&|unit| unit.service.timeout_start);
        let stop = longest(&|unit| unit.service.timeout_stop);
        let drain = longest(&|unit| unit.reload.drain_timeout);
        let soak = longest(&|unit| {
            let looks = unit.analysis.as_ref().map(|analysis| {
                let most = analysis.soak_time_max.unwrap_or(Span::ZERO).max(unit.reload.soak_time);
                most + times(analysis.timeout, 2) + Span::from_secs(2)
            });
            looks.unwrap_or(unit.reload.soak_time)
        });
        // Pre-flight; two starts of two stretches each, both stretched by EXTEND_TIMEOUT_USEC now and then;
        // soak; stops with their commands, and a killed tree's second round.
        let bound = times(Span::from_secs(6), 2)
            + times(start, 6)
            + times(Span::from_secs(10), 30)
            + soak
            + times(stop, 16)
            + times(drain, 2)
            + times(longest(&|unit| unit.state.timeout), 6)
            + Span::from_secs(120);
        let since = self.reload_since.unwrap_or(now);
        if now.since(since) > bound {
            return Err(format!("guarantee 4: the reload takes longer than {bound}"));
        }
        Ok(())
    }

    fn drains(&self, children: &[Child]) -> Result<(), String> {
        let draining = self.generations.iter().filter(|(generation, known)| {
            known.ready
                && !known.killed
                && Some(**generation) != self.serving
                && Checks::lives(children, **generation)
        });
        // The new generation of a reload, a rescue and instances are ready too.
        let instances = self.contents.values().any(|unit| unit.accepts());
        if !instances && draining.count() > 8 + 3 {
            return Err("more than 8 generations drain".into());
        }
        Ok(())
    }

    fn may_leave(&self, generation: Gen) -> bool {
        self.generations.get(&generation).is_none_or(|known| leaves_some(&known.unit))
    }

    /// When every answer that comes at once has come.
    pub(crate) fn at_rest(
        &mut self,
        machine: &UnitMachine,
        children: &[Child],
        trees: &[Tree],
    ) -> Result<(), String> {
        let summary = machine.summary();
        if machine.content().id != self.content {
            return Err(format!(
                "{:?} counts, and the machine has said {:?}",
                machine.content(),
                self.content
            ));
        }
        let over = matches!(summary.state, UnitState::Stopped | UnitState::Failed);
        if over && !self.leaves_some {
            if let Some(child) = children.iter().find(|child| child.generation.is_some()) {
                return Err(format!("guarantee 6: {:?}, and {child:?} lives", summary.state));
            }
            if let Some(tree) = trees.iter().find(|tree| tree.grandchildren > 0) {
                return Err(format!("guarantee 6: {:?}, and {tree:?} lives", summary.state));
            }
        }
        if let Some(serving) = self.serving
            && self.steered
            && Checks::lives(children, serving)
            && let Some(known) = self.generations.get(&serving)
            && aeterna_steered(&known.unit)
            && self.steering.serving != known.slot
        {
            return Err(format!("{serving:?} serves slot {}, and {:?}", known.slot, self.steering));
        }
        Ok(())
    }

    pub(crate) fn at_the_end(&self, machine: &UnitMachine, children: &[Child]) -> Result<(), String> {
        if !self.waiting.is_empty() {
            return Err(format!("never answered: {:?}", self.waiting));
        }
        if !self.open.is_empty() {
            return Err(format!("neither served nor closed: {:?}", self.open));
        }
        if !self.leaves_some && !children.is_empty() {
            return Err(format!("guarantee 6: never reaped: {children:?}"));
        }
        match machine.next_deadline() {
            Some(next) => Err(format!("a stopped unit has a deadline: {next:?}")),
            None => Ok(()),
        }
    }
}

fn leaves_some(unit: &Unit) -> bool {
    unit.service.kill_mode == KillMode::Process || !unit.service.send_sigkill
}

/// Whether the unit declares a steered socket, as the units of these tests do it.
fn aeterna_steered(unit: &Unit) -> bool {
    !unit.accepts() && unit.sockets.iter().any(|s| s.sharing != aeterna::unit::Sharing::Shared)
}
