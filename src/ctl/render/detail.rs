//! `aeternactl status UNIT`: everything about one unit.

use super::logs::log_line;
use super::overview::{note, queue};
use super::table::{Cell, Table, cell};
use super::{Look, Tone, clean, numbers, outcome_tone, outcome_words, paint, state_tone, time};
use crate::proto::status::{
    CheckVerdict, Figure, GenerationStatus, LastReload, PhaseTime, UnitStatus, Usage,
};

/// Everything about one unit.
pub(crate) fn detail(unit: &UnitStatus, look: Look) -> String {
    let mut text = paint(look, Tone::Strong, &clean(&unit.name));
    if !unit.description.is_empty() {
        text.push_str(&format!(" - {}", clean(&unit.description)));
    }
    text.push('\n');
    text.push_str(&facts(unit).render(look, 2));
    for (head, part) in [
        ("Generations", generations(unit, look)),
        ("Figures", figures(unit, look)),
        ("Analysis", analysis(unit, look)),
        ("Sockets", sockets(unit, look)),
    ] {
        if let Some(part) = part {
            text.push_str(&format!("\n{}\n{part}", paint(look, Tone::Strong, head)));
        }
    }
    if let Some(reload) = &unit.last_reload {
        text.push_str(&format!(
            "\n{}\n{}",
            paint(look, Tone::Strong, "Last reload"),
            last_reload(reload, look)
        ));
    }
    if !unit.last_lines.is_empty() {
        text.push_str(&format!("\n{}\n", paint(look, Tone::Strong, "Last lines")));
        for line in &unit.last_lines {
            text.push_str(&format!("  {}", log_line(&unit.name, line, look)));
        }
    }
    text
}

/// Name and value, one fact a line; what there is nothing to say about is left out.
fn facts(unit: &UnitStatus) -> Table {
    let mut table = Table::default();
    let mut fact = |name: &str, value: Cell| table.row(vec![cell(name), value]);
    let state = format!("{} for {}", unit.state.name(), time::age(unit.since));
    fact("State", cell(state).tone(state_tone(unit.state)));
    if let Some(why) = note(unit) {
        fact("Why", cell(why));
    }
    if !unit.file.is_empty() {
        fact("File", cell(&unit.file));
    }
    if unit.generation > 0 {
        let pids = match unit.main_pids.as_slice() {
            [] => String::new(),
            [pid] => format!(", pid {pid}"),
            pids => format!(", pids {}", numbers(pids)),
        };
        fact("Generation", cell(format!("{}{pids}", unit.generation)));
    }
    if unit.restarts > 0 {
        fact("Restarts", cell(unit.restarts.to_string()));
    }
    if unit.stored_descriptors > 0 {
        fact("Stored", cell(super::count(unit.stored_descriptors as usize, "descriptor", "descriptors")));
    }
    if !unit.pending.is_empty() {
        let keys = unit.pending.join(", ");
        fact("Pending", cell(format!("{keys} (changed in the file, not yet in effect)")).tone(Tone::Busy));
    }
    for note in &unit.notes {
        fact("Note", cell(note).tone(Tone::Busy));
    }
    table
}

fn generations(unit: &UnitStatus, look: Look) -> Option<String> {
    if unit.generations.is_empty() {
        return None;
    }
    let mut table = Table::new(&["GEN", "PHASE", "AGE", "READY", "WEIGHT", "PIDS", "CONTENT"]);
    let compared = compared(unit);
    for generation in &unit.generations {
        table.row(vec![
            cell(generation.number.to_string()).right(),
            cell(&generation.phase),
            cell(time::age(generation.age)),
            cell(if generation.ready { "yes" } else { "no" }),
            cell(generation.weight.map_or("-".into(), |weight| format!("{weight}%"))).right(),
            cell(if generation.pids.is_empty() { "-".into() } else { numbers(&generation.pids) }),
            cell(&generation.content).tone(Tone::Faint),
        ]);
        for note in generation_notes(generation, compared.is_none()) {
            table.note(&format!("     {note}"));
        }
    }
    Some(table.render(look, 2))
}

/// What else is to be said about a generation, a line each.
fn generation_notes(generation: &GenerationStatus, with_usage: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(share) = generation.share {
        notes.push(format!("{share:.1}% of the new connections, as measured since the weight was set"));
    }
    let left = generation
        .connections
        .map(|n| format!("{} left", super::count(n as usize, "connection", "connections")));
    let flows = generation.flows.map(|n| super::count(n as usize, "live flow", "live flows"));
    let killed = generation.kill_in.map(|seconds| format!("killed in {}", time::age(seconds)));
    let progress: Vec<String> = [left, flows, killed].into_iter().flatten().collect();
    if !progress.is_empty() {
        notes.push(progress.join(", "));
    }
    if let Some(status) = generation.status_text.as_ref().filter(|status| !status.is_empty()) {
        notes.push(format!("says: {status}"));
    }
    let used = used(&generation.usage);
    if with_usage && !used.is_empty() {
        notes.push(used);
    }
    if generation.program_is_newer == Some(true) {
        notes.push("the program on disk is newer than the one that runs".into());
    }
    notes
}

/// Who is compared in a soak: the new generation and the old one.
fn compared(unit: &UnitStatus) -> Option<(&GenerationStatus, &GenerationStatus)> {
    let one = |phase: &str| unit.generations.iter().find(|one| one.phase == phase);
    one("soaking").zip(one("serving")).filter(|(new, old)| *new != *old && new.usage != Usage::default())
}

/// What the kernel says of both generations of a soak, side by side.
fn figures(unit: &UnitStatus, look: Look) -> Option<String> {
    let (new, old) = compared(unit)?;
    let head = [String::new(), format!("GEN {} (NEW)", new.number), format!("GEN {} (OLD)", old.number)];
    let mut table = Table::new(&[&head[0], &head[1], &head[2]]);
    for (name, new, old) in rows(&new.usage, &old.usage) {
        table.row(vec![cell(name), cell(new).right(), cell(old).right()]);
    }
    Some(table.render(look, 2))
}

/// Name, new and old of everything that is known of either.
pub(super) fn rows(new: &Usage, old: &Usage) -> Vec<(&'static str, String, String)> {
    let text = |figure: Option<Figure>| figure.map_or_else(|| "-".into(), written);
    let pairs = new.figures().into_iter().zip(old.figures());
    pairs
        .filter(|((_, new), (_, old))| new.is_some() || old.is_some())
        .map(|((name, new), (_, old))| (name, text(new), text(old)))
        .collect()
}

fn written(figure: Figure) -> String {
    match figure {
        Figure::Seconds(seconds) => time::took(seconds),
        Figure::Bytes(count) => super::bytes(count),
        Figure::Count(count) => count.to_string(),
        Figure::Percent(share) => format!("{share:.1}%"),
    }
}

/// What the kernel says of a generation, in one line.
fn used(usage: &Usage) -> String {
    let count = |count: Option<u64>, one, many| count.map(|n| super::count(n as usize, one, many));
    let facts = [
        usage.cpu_seconds.map(|seconds| format!("{} of processor time", time::took(seconds))),
        usage.memory.map(|bytes| format!("{} of memory", super::bytes(bytes))),
        count(usage.tasks, "thread", "threads"),
        count(usage.descriptors, "descriptor", "descriptors"),
        count(usage.oom_kills.filter(|kills| *kills > 0), "process", "processes")
            .map(|killed| format!("{killed} killed by the kernel for memory")),
    ];
    facts.into_iter().flatten().collect::<Vec<String>>().join(", ")
}

/// The checks of the soak that is under way, a line each.
fn analysis(unit: &UnitStatus, look: Look) -> Option<String> {
    if unit.analysis.is_empty() {
        return None;
    }
    let mut table = Table::new(&["CHECK", "VERDICT", "LOOKS", "FIGURES"]);
    for check in &unit.analysis {
        let tone = match check.verdict {
            CheckVerdict::Fail => Tone::Bad,
            CheckVerdict::Open | CheckVerdict::Inconclusive => Tone::Busy,
            CheckVerdict::Pass => Tone::Good,
        };
        table.row(vec![
            cell(&check.name),
            cell(check.verdict.name()).tone(tone),
            cell(check.looks.to_string()).right(),
            cell(&check.text),
        ]);
    }
    Some(table.render(look, 2))
}

fn sockets(unit: &UnitStatus, look: Look) -> Option<String> {
    if unit.sockets.is_empty() {
        return None;
    }
    let mut table = Table::new(&["NAME", "ADDRESS", "KIND", "QUEUE", "SHARING"]);
    for socket in &unit.sockets {
        let why = if socket.why.is_empty() { String::new() } else { format!(" ({})", socket.why) };
        table.row(vec![
            cell(&socket.name),
            cell(&socket.address),
            cell(&socket.kind),
            queue(socket),
            cell(format!("{}{why}", socket.sharing)),
        ]);
        if let (Some(live), Some(most)) = (socket.flows, socket.flows_max) {
            table.note(&format!(
                "{} of at most {most}",
                super::count(live as usize, "live flow", "live flows")
            ));
        }
        if socket.repairs > 0 {
            let times = super::count(socket.repairs as usize, "time", "times");
            table
                .note(&format!("repaired {times}: a service had closed it for all, or had removed its path"));
        }
    }
    Some(table.render(look, 2))
}

fn last_reload(reload: &LastReload, look: Look) -> String {
    let outcome = paint(look, outcome_tone(reload.outcome), outcome_words(reload.outcome));
    let mut text =
        format!("  {outcome} {} ago, took {}\n", time::age(reload.ago), time::took(reload.duration));
    if !reload.reason.is_empty() {
        text.push_str(&format!("  {}\n", clean(&reload.reason)));
    }
    if !reload.phases.is_empty() {
        text.push_str(&format!("  {}\n", phases(&reload.phases)));
    }
    text
}

/// `pre_checking 120ms, soaking 30.0s`.
pub(super) fn phases(phases: &[PhaseTime]) -> String {
    let each = phases.iter().map(|phase| format!("{} {}", clean(&phase.phase), time::took(phase.seconds)));
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    const PLAIN: Look = Look { colour: false, width: None };

    #[test]
    fn a_soaking_unit_shows_all_of_it() {
        assert_eq!(
            detail(&samples::soaking(), PLAIN),
            "\
chat - Chat gateway
  State       SOAKING for 12s
  Why         the soak ends in 18s
  File        /etc/aeterna/chat.toml
  Generation  2, pids 4711 4712
  Restarts    1
  Stored      3 descriptors
  Pending     [Daemon] Http (changed in the file, not yet in effect)
  Note        no_new_privs is set

Generations
  GEN  PHASE     AGE  READY  WEIGHT  PIDS       CONTENT
    1  draining  7s   yes        0%  4000       00c0ffee00c0ffee
         17 connections left, killed in 9s
    2  serving   4d   yes       90%  4711 4712  00c0ffee00c0ffee
         the program on disk is newer than the one that runs
    3  soaking   12s  yes       10%  4800       00c0ffee00c0ffee
         9.8% of the new connections, as measured since the weight was set
         says: serving 3 clients

Sockets
  NAME  ADDRESS       KIND    QUEUE   SHARING
  http  0.0.0.0:8080  stream  0/4096  steered (TCP)
  http  [::1]:8080    stream  0/4096  steered (TCP)
    repaired 2 times: a service had closed it for all, or had removed its path

Last reload
  rolled back 2h 3min ago, took 2.50s
  the new generation exited with status 1 in the soak
  pre_checking 120ms, starting 380ms, soaking 2.00s
"
        );
    }

    #[test]
    fn what_there_is_nothing_to_say_about_is_left_out() {
        assert_eq!(
            detail(&samples::backing_off(), PLAIN),
            "\
worker
  State       BACKOFF for 3s
  Why         exited with status 1; starts again in 7s
  File        /etc/aeterna/worker.toml
  Generation  1
  Restarts    4
"
        );
    }

    #[test]
    fn a_services_words_are_cleaned() {
        let mut unit = samples::soaking();
        unit.generations[2].status_text = Some("\x1b]0;evil\x07".into());
        unit.why = "two\nlines".into();
        let text = detail(&unit, PLAIN);
        assert!(!text.contains('\x1b') && !text.contains('\x07'), "{text:?}");
        assert!(text.contains("two\u{fffd}lines"));
    }
}
