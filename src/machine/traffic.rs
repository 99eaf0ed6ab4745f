//! Activation: the first traffic starts the service, each connection an instance, and idleness ends it.

use super::event::{Action, Conn, Question, Ticket};
use super::model::{Course, Idle, JobPhase, Kind, Rest, Watch};
use super::turn::Turn;
use crate::time::Span;
use crate::unit::StartOn;

impl Turn<'_> {
    /// Whether the next traffic is wanted.
    fn wants_traffic(&self) -> bool {
        let accepts = self.unit(self.s.content).accepts();
        let reload = self.s.reload.is_some() && !accepts;
        let job = self.s.job.as_ref().map(|job| job.phase).filter(|phase| *phase != JobPhase::Waiting);
        // Connections have an instance until a restart begins to stop them.
        let job = if accepts { matches!(job, Some(JobPhase::Stopping(_))) } else { job.is_some() };
        self.s.rest == Rest::Listening && self.s.current.is_none() && self.s.down.is_none() && !reload && !job
    }

    /// The strictest trigger limit of the unit's sockets.
    fn trigger_limit(&self) -> (Span, u32) {
        let unit = self.unit(self.s.content);
        let limits =
            unit.sockets.iter().filter(|s| s.trigger_limit_burst > 0 && !s.trigger_limit_interval.is_zero());
        limits
            .map(|socket| (socket.trigger_limit_interval, socket.trigger_limit_burst))
            .min_by_key(|(_, burst)| *burst)
            .unwrap_or((Span::ZERO, 0))
    }

    /// Watches the sockets exactly while that is wanted; after a limit was hit, later.
    pub(super) fn rearm(&mut self) {
        if !self.wants_traffic() {
            if self.s.watch != Watch::Off {
                self.forget_watch();
            }
            return;
        }
        let (interval, burst) = self.trigger_limit();
        match self.s.watch {
            Watch::Armed => {}
            Watch::Paused(until) if until > self.now => {}
            Watch::Paused(_) | Watch::Off => match self.s.triggers.opens(self.now, interval, burst) {
                Some(until) => {
                    self.s.watch = Watch::Paused(until);
                    self.warn(format!(
                        "started {burst} times within {interval} by traffic: waits until that is over \
                         (TriggerLimitBurst)"
                    ));
                }
                None => {
                    self.s.watch = Watch::Armed;
                    self.push(Action::WatchTraffic);
                }
            },
        }
    }

    pub(super) fn traffic(&mut self) {
        if self.s.watch != Watch::Armed {
            return;
        }
        self.s.watch = Watch::Off;
        if !self.wants_traffic() || self.unit(self.s.content).accepts() {
            return;
        }
        let (interval, burst) = self.trigger_limit();
        self.s.triggers.take(self.now, interval, burst);
        self.s.why = "a connection came".into();
        self.start_current();
    }

    pub(super) fn accepted(&mut self, conn: Conn, socket: usize, source: String) {
        let unit = self.unit(self.s.content);
        if self.s.watch == Watch::Armed {
            self.s.watch = Watch::Off;
        }
        let Some(table) = unit.sockets.get(socket).filter(|_| unit.accepts() && self.wants_traffic()) else {
            self.push(Action::CloseConnection(conn));
            return;
        };
        let (interval, burst) = self.trigger_limit();
        self.s.triggers.take(self.now, interval, burst);
        let (mut all, mut same) = (0, 0);
        for generation in &self.s.generations {
            if let Kind::Instance { socket: of, source: from, .. } = &generation.kind
                && *of == socket
            {
                all += 1;
                same += u32::from(*from == source);
            }
        }
        let per_source = table.max_connections_per_source;
        if all >= table.max_connections || (per_source > 0 && same >= per_source) {
            let limit =
                if all >= table.max_connections { "MaxConnections" } else { "MaxConnectionsPerSource" };
            self.warn(format!("a connection from {source} is closed: {limit} is reached"));
            self.push(Action::CloseConnection(conn));
            return;
        }
        let kind = Kind::Instance { conn, socket, source, delivered: false };
        let number = self.launch(self.s.content, kind, 0);
        self.s.last_number = number.0;
        self.begin_start(number);
    }

    /// Counts connections while the service may be stopped for being idle.
    pub(super) fn keep_idle_count(&mut self) {
        let unit = self.unit(self.s.content);
        let quarter = idle_quarter(unit.service.stop_when_idle);
        let wanted = unit.service.start_on == StartOn::Connection
            && !unit.service.stop_when_idle.is_infinite()
            && self.s.job.is_none()
            && matches!(self.s.course(), Course::Serving);
        match (wanted, self.s.idle) {
            (true, None) => self.s.idle = Some(Idle { next: self.now.after(quarter), asked: None, quiet: 0 }),
            (false, Some(_)) => self.s.idle = None,
            (true, Some(_)) | (false, None) => {}
        }
    }

    pub(super) fn tick_idle(&mut self) {
        let now = self.now;
        if let Some(idle) = self.s.idle.filter(|idle| idle.next.is_some_and(|next| next <= now)) {
            let asked = Some(self.ask(Question::CountConnections));
            self.s.idle = Some(Idle { next: None, asked, ..idle });
        }
    }

    pub(super) fn connections(&mut self, ticket: Ticket, established: u32, arrived: bool) {
        let unit = self.unit(self.s.content);
        let next = self.now.after(idle_quarter(unit.service.stop_when_idle));
        let Some(idle) = self.s.idle.as_mut().filter(|idle| idle.asked == Some(ticket)) else { return };
        idle.next = next;
        idle.asked = None;
        idle.quiet = if established == 0 && !arrived { idle.quiet + 1 } else { 0 };
        if idle.quiet >= 4
            && let Some(current) = self.s.current
        {
            self.s.idle = None;
            self.s.idle_stop = true;
            self.s.why = format!("idle for {}", unit.service.stop_when_idle);
            let clock = self.stop_timeout(current);
            self.begin_stop(current, clock);
        }
    }
}

fn idle_quarter(idle: Span) -> Span {
    Span(idle.0 / 4).max(Span::from_millis(1))
}
