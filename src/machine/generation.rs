//! One generation: its phases with their deadlines inside, and the way from launch to ready.

use super::event::{Action, Announcement, Conn, ContentId, Gen, Missing, Proc, Role, Target};
use super::model::{
    End, Generation, Health, Kind, Listens, Phase, SIGKILL, Stage, StartStep, Window, Word, Worker,
};
use super::turn::{Follow, Turn};
use crate::time::Span;
use crate::unit::ServiceType;

/// How long a learned address is waited for after the first listen.
const LEARNED_PATIENCE: Span = Span::from_secs(5);

impl Turn<'_> {
    /// Launches a generation; what comes of it arrives with later events.
    pub(super) fn launch(&mut self, content: ContentId, kind: Kind, slot: u32) -> Gen {
        let number = Gen(self.s.next_generation);
        self.s.next_generation += 1;
        let unit = self.unit(content);
        let steered = self.is_steered(content) && !matches!(kind, Kind::Instance { .. });
        let handover = matches!(kind, Kind::Full) && self.s.serving().is_some();
        let generation = Generation {
            number,
            content,
            kind,
            slot,
            steered,
            handover,
            launched: self.now,
            ready_at: None,
            phase: Phase::Starting {
                step: StartStep::Mains,
                deadline: self.now.after(unit.service.timeout_start),
            },
            workers: Vec::new(),
            listens: Listens::default(),
            empty: true,
            had_process: false,
            served: false,
            drained: false,
            end: None,
            spared: false,
            given_up: false,
            status_text: None,
            told: Window::default(),
            unheard: None,
            health: Health::default(),
        };
        // Mostly there is one: room for four would be most of a unit's memory.
        self.s.generations.reserve_exact(1);
        self.s.generations.push(generation);
        self.s.dirty.retain(|dirty| dirty.slot != slot || !steered);
        number
    }

    /// Takes the first step of a launch, after the caller has noted what the generation is for.
    pub(super) fn begin_start(&mut self, number: Gen) {
        self.start_pre(number, 0);
    }

    fn set_step(&mut self, number: Gen, next: StartStep) {
        if let Some(generation) = self.s.generation_mut(number)
            && let Phase::Starting { step, .. } = &mut generation.phase
        {
            *step = next;
        }
    }

    pub(super) fn step_of(&self, number: Gen) -> Option<StartStep> {
        self.s.generation(number)?.step()
    }

    fn start_pre(&mut self, number: Gen, index: u32) {
        let unit = self.unit_of(number);
        if unit.service.exec_start_pre.len() > index as usize {
            self.set_step(number, StartStep::Pre { index });
            self.spawn_for(number, Role::StartPre(index), Vec::new());
            return;
        }
        if index > 0 && self.s.generation(number).is_some_and(|g| !g.empty) {
            // What the commands before have left must not live beside the service.
            self.push(Action::Signal { to: Target::Everyone(number), signal: SIGKILL });
        }
        self.start_mains(number);
    }

    pub(super) fn pre_ended(&mut self, number: Gen, index: u32, end: &End) {
        if self.step_of(number) != Some(StartStep::Pre { index }) {
            return;
        }
        let unit = self.unit_of(number);
        let forgiven = unit.service.exec_start_pre.get(index as usize).is_some_and(|c| c.ignore_failure);
        if end.is_success() || forgiven {
            self.start_pre(number, index + 1);
        } else {
            let text = format!("was not started: ExecStartPre {}", end.text);
            self.follow(Follow::MainsDead(number, End { text, ..end.clone() }));
        }
    }

    fn start_mains(&mut self, number: Gen) {
        let unit = self.unit_of(number);
        let deadline = self.now.after(unit.service.timeout_start);
        let Some(generation) = self.s.generation_mut(number) else { return };
        generation.phase = Phase::Starting { step: StartStep::Mains, deadline };
        let (workers, conn) = match generation.kind {
            Kind::Full => (unit.service.workers.max(1), None),
            Kind::Rescue { .. } => (1, None),
            Kind::Instance { conn, .. } => (1, Some(conn)),
        };
        generation.workers = vec![Worker::default(); workers as usize];
        for worker in 0..workers {
            self.spawn_main(number, worker, conn, 0);
        }
    }

    pub(super) fn spawn_main(&mut self, number: Gen, worker: u32, conn: Option<Conn>, command: u32) {
        let role = conn.map_or(Role::Main { worker, command }, Role::Instance);
        let proc = self.spawn_for(number, role, Vec::new());
        if let Some(worker) = self.worker_mut(number, worker) {
            worker.start(proc, command);
        }
    }

    pub(super) fn spawn_for(
        &mut self,
        number: Gen,
        role: Role,
        mut environment: Vec<(String, String)>,
    ) -> Proc {
        let (content, pid) = self
            .s
            .generation(number)
            .map_or((self.s.content, None), |generation| (generation.content, generation.first_pid()));
        let control =
            matches!(role, Role::StartPost(_) | Role::Stop(_) | Role::Reload(_) | Role::StopPost(_));
        if let Some(pid) = pid.filter(|_| control) {
            environment.push(("MAINPID".into(), pid.to_string()));
        }
        if let Some(pid) = pid.filter(|_| role == Role::Health) {
            environment.push(("AETERNA_PROBE_PID".into(), pid.to_string()));
        }
        self.spawn(role, content, Some(number), environment)
    }

    /// Goes on when every worker is up as its `Type` says.
    pub(super) fn mains_progress(&mut self, number: Gen) {
        if self.step_of(number) != Some(StartStep::Mains) {
            return;
        }
        let all = self.s.generation(number).is_some_and(|g| g.workers.iter().all(|worker| worker.up));
        if all && self.listens_enough(number) {
            self.start_post(number, 0);
        }
    }

    /// A first generation is up at its first listen, a later one when it listens on all that counts. A service
    /// that tells by READY=1 when it is up is believed, but for a while: many say so before they listen, and who connects
    /// would wait where the one before answers.
    fn listens_enough(&mut self, number: Gen) -> bool {
        let unit = self.unit_of(number);
        if !unit.service.intercept_bind {
            return true;
        }
        let tells = !matches!(unit.service.service_type, ServiceType::Simple | ServiceType::Exec);
        let before = self.s.serving().filter(|old| old.number != number);
        let before = before.is_some_and(|old| old.listens == Listens::Everywhere);
        let patience = self.now.after(LEARNED_PATIENCE);
        let Some(generation) = self.s.generation_mut(number) else { return false };
        match &mut generation.listens {
            Listens::Everywhere => true,
            Listens::Nowhere | Listens::Partly { .. } if tells && !before => true,
            Listens::Nowhere if tells => {
                let missing = Missing::Learned("anything".into());
                generation.listens = Listens::Partly { missing, until: patience };
                false
            }
            Listens::Partly { missing, until } if tells => {
                if let Missing::Declared(names) = missing {
                    (*missing, *until) = (Missing::Learned(std::mem::take(names)), patience);
                }
                false
            }
            Listens::Nowhere | Listens::Partly { .. } => false,
        }
    }

    pub(super) fn listened(&mut self, number: Gen, missing: Missing) {
        let now = self.now;
        let Some(generation) = self.s.generation_mut(number) else { return };
        let since_first = match &generation.listens {
            Listens::Nowhere => now.after(LEARNED_PATIENCE),
            Listens::Partly { until, .. } => *until,
            Listens::Everywhere => return,
        };
        generation.listens = match missing {
            Missing::Nothing => Listens::Everywhere,
            missing @ (Missing::Learned(_) | Missing::Declared(_)) => {
                Listens::Partly { missing, until: since_first }
            }
        };
        self.mains_progress(number);
    }

    /// What only the program has bound is not waited for for ever.
    fn tick_listens(&mut self, number: Gen) {
        let now = self.now;
        let Some(generation) = self.s.generation_mut(number) else { return };
        let Listens::Partly { missing: Missing::Learned(names), until: Some(until) } = &generation.listens
        else {
            return;
        };
        if *until > now || generation.step() != Some(StartStep::Mains) {
            return;
        }
        let text = format!(
            "generation {} does not listen on {names}, as the one before did; not waited for any longer, and given up at promotion",
            number.0
        );
        generation.listens = Listens::Everywhere;
        self.warn(text);
        self.mains_progress(number);
    }

    fn start_post(&mut self, number: Gen, index: u32) {
        let unit = self.unit_of(number);
        if unit.service.exec_start_post.len() > index as usize {
            self.set_step(number, StartStep::Post { index });
            self.spawn_for(number, Role::StartPost(index), Vec::new());
            return;
        }
        let full = self.s.generation(number).is_some_and(|g| matches!(g.kind, Kind::Full));
        if !full || unit.service.service_type == ServiceType::Oneshot {
            self.become_ready(number);
            return;
        }
        match self.now.after(unit.reload.warmup_delay) {
            Some(until) if until > self.now => self.set_step(number, StartStep::Warmup { until }),
            Some(_) | None => self.start_checking(number),
        }
    }

    pub(super) fn post_ended(&mut self, number: Gen, index: u32, end: &End) {
        if self.step_of(number) != Some(StartStep::Post { index }) {
            return;
        }
        let unit = self.unit_of(number);
        let forgiven = unit.service.exec_start_post.get(index as usize).is_some_and(|c| c.ignore_failure);
        if end.is_success() || forgiven {
            self.start_post(number, index + 1);
        } else {
            let text = format!("was started, but ExecStartPost {}", end.text);
            self.follow(Follow::MainsDead(number, End { text, ..end.clone() }));
        }
    }

    fn start_checking(&mut self, number: Gen) {
        self.set_step(number, StartStep::Checking);
        if !self.begin_health(number) {
            self.become_ready(number);
        }
    }

    pub(super) fn become_ready(&mut self, number: Gen) {
        let unit = self.unit_of(number);
        let now = self.now;
        let Some(generation) = self.s.generation_mut(number) else { return };
        generation.phase = Phase::Up;
        generation.ready_at = Some(now);
        for worker in &mut generation.workers {
            worker.arm_watchdog(now, unit.service.watchdog);
        }
        self.announce(Announcement::Ready { generation: number });
        self.follow(Follow::Ready(number));
        if unit.service.service_type == ServiceType::Oneshot {
            self.oneshot_is_done(number);
        }
    }

    fn oneshot_is_done(&mut self, number: Gen) {
        let end = self.s.generation(number).and_then(|g| g.workers.first()?.end.clone());
        let done = || End { code: 0, ..End::given_up(Word::Success, "has run".into()) };
        self.follow(Follow::MainsDead(number, end.unwrap_or_else(done)));
    }

    /// The current generation has become ready outside a reload.
    pub(super) fn current_is_ready(&mut self, number: Gen) {
        self.s.why.clear();
        self.s.last_number = number.0;
        if let Some(content) = self.s.generation(number).map(|g| g.content) {
            self.s.kept.ran(content, number);
        }
        self.push(Action::Promoted(number));
        self.recheck_slots();
        self.job_done(Ok(()));
        let restored = match self.s.reload.as_ref().map(|reload| &reload.stage) {
            Some(Stage::Restoring { why, .. }) => Some(why.clone()),
            Some(_) | None => None,
        };
        if let Some(why) = restored {
            self.end_reload(why.outcome, why.reason);
        }
    }

    /// What is due in the phase of a start.
    pub(super) fn tick_start(&mut self, number: Gen) {
        let Some(Phase::Starting { step, deadline }) = self.s.generation(number).map(|g| g.phase.clone())
        else {
            return;
        };
        if let Some(deadline) = deadline.filter(|deadline| *deadline <= self.now) {
            if self.is_unseen(deadline) && self.once_more(number) {
                return self.start_once_more(number);
            }
            self.start_timed_out(number, step);
        } else if let StartStep::Warmup { until } = step
            && until <= self.now
        {
            self.start_checking(number);
        } else {
            self.tick_listens(number);
        }
    }

    fn start_once_more(&mut self, number: Gen) {
        let again = self.now.after(self.unit_of(number).service.timeout_start);
        if let Some(generation) = self.s.generation_mut(number)
            && let Phase::Starting { deadline, .. } = &mut generation.phase
        {
            *deadline = again;
        }
    }

    /// What a start waits for when all processes run.
    fn why_not_listening(&self, number: Gen) -> String {
        match self.s.generation(number).map(|g| &g.listens) {
            Some(Listens::Nowhere) if self.unit_of(number).service.intercept_bind => {
                "it never listened on anything (InterceptBind waits for its first listen)".into()
            }
            Some(Listens::Partly { missing: Missing::Declared(names) | Missing::Learned(names), .. }) => {
                format!("it never listened on {names}, as the one before did")
            }
            Some(Listens::Nowhere | Listens::Partly { .. } | Listens::Everywhere) | None => {
                "it did not start".into()
            }
        }
    }

    fn start_timed_out(&mut self, number: Gen, step: StartStep) {
        let unit = self.unit_of(number);
        let limit = unit.service.timeout_start;
        let what = match step {
            StartStep::Pre { .. } => "ExecStartPre did not end".to_owned(),
            StartStep::Mains => match unit.service.service_type {
                ServiceType::Notify | ServiceType::NotifyReload => {
                    format!("it never said READY=1{}", self.but_unheard(number, "READY=1"))
                }
                ServiceType::Oneshot => "it did not end".into(),
                ServiceType::Simple | ServiceType::Exec => self.why_not_listening(number),
            },
            StartStep::Post { .. } => "ExecStartPost did not end".into(),
            StartStep::Warmup { .. } => "WarmupDelay is longer".into(),
            StartStep::Checking => self.why_not_healthy(number),
        };
        let text = format!("was not ready within TimeoutStartSec ({limit}): {what}");
        self.follow(Follow::MainsDead(number, End::given_up(Word::Timeout, text)));
    }
}
