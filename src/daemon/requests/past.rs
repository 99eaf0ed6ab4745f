//! `events` and `logs`: what has happened and what was written, and what follows.

use crate::daemon::control::{ClientId, MAX_PAST};
use crate::daemon::core::Daemon;
use crate::daemon::linelog::MOST_LINES;
use crate::proto::control::{Line, LogLines, RefusalCode, Reply};
use crate::unit::{Output, Service};

impl Daemon {
    /// The events of the past, and then those that come.
    pub(super) fn events_request(
        &mut self,
        id: ClientId,
        unit: Option<String>,
        (lines, since): (Option<u32>, Option<f64>),
        follow: bool,
    ) {
        if let Some(name) = &unit
            && self.unusable(name).is_none()
            && self.find_units(id, std::slice::from_ref(name)).is_none()
        {
            return;
        }
        let past = lines.map(|lines| lines as usize);
        let count = past.or((since.is_some() || !follow).then_some(MAX_PAST)).unwrap_or_default();
        self.clients.send_past(id, unit.as_deref(), count, since);
        if follow {
            self.clients.subscribe(id, unit.as_deref());
        } else {
            self.result(id, Reply::Done { note: String::new() });
        }
    }

    /// The lines of a unit's output that are kept, and then those that come.
    pub(super) fn logs_request(
        &mut self,
        id: ClientId,
        name: &str,
        generation: Option<u32>,
        (lines, since): (Option<u32>, Option<f64>),
        follow: bool,
    ) {
        let Some(index) = self.find_units(id, &[name.to_owned()]).and_then(|found| found.first().copied())
        else {
            return;
        };
        let unit = &self.units[index];
        let count = lines.map_or(MOST_LINES, |lines| lines as usize);
        let mut lines = unit.log.last(count, generation);
        lines.retain(|line| since.is_none_or(|since| line.time >= since));
        if let (true, Some(why)) = (lines.is_empty(), elsewhere(&unit.current.unit.service)) {
            let text = format!("{name}: its output does not come through aeternad: {why}");
            return self.refuse(id, RefusalCode::Failed, text);
        }
        self.send(id, &Line::Lines(LogLines { unit: name.to_owned(), lines, missing: 0 }));
        if follow {
            self.clients.subscribe_lines(id, name, generation);
        } else {
            self.result(id, Reply::Done { note: String::new() });
        }
    }
}

/// Where a service's output goes, if none of it comes through us; and how it would.
pub fn elsewhere(service: &Service) -> Option<String> {
    let (out, error) = (&service.standard_output, &service.standard_error);
    if *out == Output::Log || *error == Output::Log {
        return None;
    }
    let place = match out {
        Output::File(path) | Output::Append(path) => format!("it goes to {path}"),
        Output::Null => "it goes to /dev/null".into(),
        Output::Socket => "it goes to the service's socket".into(),
        Output::Inherit | Output::Log => "it goes where aeternad's own goes".into(),
    };
    Some(format!("{place}. StandardOutput = \"log\" and StandardError = \"log\" keep the last lines here"))
}
