//! `aeternactl status`: one table of all units.

use super::table::{Cell, Table, cell};
use super::{Look, Tone, count, numbers, outcome_tone, outcome_words, paint, state_tone, time};
use crate::proto::status::{LastReload, SocketStatus, Status, UnitState, UnitStatus};

/// The most sockets of a unit that the table shows; the unit's own status shows all.
const MOST_SOCKETS: usize = 4;

/// The table of all units.
pub(crate) fn overview(status: &Status, look: Look) -> String {
    let stopping = if status.stopping { paint(look, Tone::Busy, ", stopping") } else { String::new() };
    let units = count(status.units.len(), "unit", "units");
    let head = format!("aeternad {}, pid {}, {units}{stopping}\n", super::clean(&status.version), status.pid);
    if status.units.is_empty() {
        return head;
    }
    let mut table = table(status, Room::Plenty);
    for room in [Room::Little, Room::Least, Room::States] {
        if !table.fits(look) {
            table = self::table(status, room);
        }
    }
    format!("{head}\n{}", table.render_with_short_names(look))
}

/// `aeternactl list`: a line each.
pub(crate) fn list(units: &[UnitStatus], look: Look) -> String {
    let mut table = Table::new(&["UNIT", "STATE", "SINCE", "GEN", "DESCRIPTION"]);
    for unit in failed_first(units) {
        let mut row = state_cells(unit);
        row.push(cell(&unit.description));
        table.row(row);
    }
    format!("{}\n{}\n", table.render_with_short_names(look), super::count(units.len(), "unit", "units"))
}

/// What somebody has to look after first; the others as they come.
fn failed_first(units: &[UnitStatus]) -> Vec<&UnitStatus> {
    let mut all: Vec<&UnitStatus> = units.iter().collect();
    all.sort_by_key(|unit| match unit.state {
        UnitState::Failed => 0,
        UnitState::Backoff | UnitState::RollingBack => 1,
        _ => 2,
    });
    all
}

/// How much of the table the terminal has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Room {
    /// Which unit is in which state, and nothing else.
    States,
    /// The queues matter more than whose processes serve them.
    Least,
    /// The last reload stands below.
    Little,
    /// Everything.
    Plenty,
}

fn table(status: &Status, room: Room) -> Table {
    let mut head = vec!["UNIT", "STATE", "SINCE", "GEN"];
    if room > Room::Least {
        head.push("PIDS");
    }
    if room > Room::States {
        head.extend(["SOCKETS", "QUEUE"]);
    }
    if room == Room::Plenty {
        head.extend(["SHARING", "LAST RELOAD"]);
    }
    let mut table = Table::new(&head);
    for unit in failed_first(&status.units) {
        push_unit(&mut table, unit, room);
    }
    table
}

fn push_unit(table: &mut Table, unit: &UnitStatus, room: Room) {
    let mut row = state_cells(unit);
    if room == Room::States {
        table.row(row);
        if let Some(note) = note(unit) {
            table.note(&note);
        }
        return;
    }
    if room > Room::Least {
        row.push(cell(if unit.main_pids.is_empty() { "-".into() } else { numbers(&unit.main_pids) }));
    }
    let before = vec![cell(""); row.len()];
    let columns = if room == Room::Plenty { 3 } else { 2 };
    row.extend(unit.sockets.first().map_or_else(|| vec![cell("-"); 1], |one| socket_cells(one, columns)));
    if room == Room::Plenty {
        row.resize(before.len() + columns, cell(""));
        row.push(last_reload(unit).unwrap_or_else(|| cell("-")));
    }
    table.row(row);
    for socket in unit.sockets.iter().take(MOST_SOCKETS).skip(1) {
        table.row([before.clone(), socket_cells(socket, columns)].concat());
    }
    if let Some(more) = unit.sockets.len().checked_sub(MOST_SOCKETS).filter(|more| *more > 0) {
        let more = cell(format!("and {more} more")).tone(Tone::Faint);
        table.row([before, vec![more]].concat());
    }
    if let Some(note) = note(unit) {
        table.note(&note);
    }
    if room < Room::Plenty
        && let Some(last) = &unit.last_reload
    {
        table.note(&format!("last reload: {}", ended(last)));
    }
}

/// Name, state, since when, generation.
fn state_cells(unit: &UnitStatus) -> Vec<Cell> {
    vec![
        cell(&unit.name),
        cell(unit.state.name()).tone(state_tone(unit.state)),
        cell(time::age(unit.since)),
        cell(if unit.generation == 0 { "-".into() } else { unit.generation.to_string() }).right(),
    ]
}

/// The first so many of name and address, queue, sharing.
fn socket_cells(socket: &SocketStatus, columns: usize) -> Vec<Cell> {
    let mut cells =
        vec![cell(format!("{} {}", socket.name, socket.address)), queue(socket), cell(&socket.sharing)];
    cells.truncate(columns);
    cells
}

/// `0/4096`: how many connections wait, of how many that can.
pub(super) fn queue(socket: &SocketStatus) -> Cell {
    match (socket.queue, socket.limit) {
        (Some(queue), Some(limit)) => {
            let full = limit > 0 && queue >= limit;
            cell(format!("{queue}/{limit}")).tone(if full { Tone::Bad } else { Tone::Plain })
        }
        (Some(queue), None) => cell(queue.to_string()),
        (None, _) => cell("-"),
    }
}

fn last_reload(unit: &UnitStatus) -> Option<Cell> {
    unit.last_reload.as_ref().map(|last| cell(ended(last)).tone(outcome_tone(last.outcome)))
}

fn ended(reload: &LastReload) -> String {
    format!("{} {} ago", outcome_words(reload.outcome), time::age(reload.ago))
}

/// Why the unit is in its state, in one line, if there is something to say.
pub(super) fn note(unit: &UnitStatus) -> Option<String> {
    let soon = |seconds: f64| if seconds < 1.0 { time::took(seconds) } else { time::age(seconds) };
    let restart = unit.restart_in.map(|seconds| format!("starts again in {}", soon(seconds)));
    let parts: Vec<String> =
        [Some(unit.why.clone()).filter(|why| !why.is_empty()), restart].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::super::samples::*;
    use super::*;

    const PLAIN: Look = Look { colour: false, width: None };

    #[test]
    fn all_units_are_one_table() {
        let text = overview(&status(vec![soaking(), unit("web"), backing_off()]), PLAIN);
        assert_eq!(
            text,
            "\
aeternad 0.1.0, pid 12, 3 units

UNIT    STATE    SINCE     GEN  PIDS       SOCKETS            QUEUE   SHARING  LAST RELOAD
worker  BACKOFF  3s          1  -          -                                   -
  exited with status 1; starts again in 7s
chat    SOAKING  12s         2  4711 4712  http 0.0.0.0:8080  0/4096  steered  rolled back 2h 3min ago
                                           http [::1]:8080    0/4096  steered
  the soak ends in 18s
web     RUNNING  1min 30s    1  100        web 0.0.0.0:80     0/4096  steered  -
"
        );
    }

    #[test]
    fn a_narrow_terminal_shows_what_matters_most() {
        let all = status(vec![soaking(), unit("web")]);
        let at = |width| overview(&all, Look { colour: false, width: Some(width) });
        assert_eq!(
            at(80),
            "\
aeternad 0.1.0, pid 12, 2 units

UNIT  STATE    SINCE     GEN  PIDS       SOCKETS            QUEUE
chat  SOAKING  12s         2  4711 4712  http 0.0.0.0:8080  0/4096
                                         http [::1]:8080    0/4096
  the soak ends in 18s
  last reload: rolled back 2h 3min ago
web   RUNNING  1min 30s    1  100        web 0.0.0.0:80     0/4096
"
        );
        assert!(!at(60).contains("PIDS") && at(60).contains("0/4096"), "{}", at(60));
    }

    #[test]
    fn the_state_is_there_however_narrow_the_terminal_and_long_the_name() {
        let mut long = unit("accounting-of-invoices-of-the-northern-branch");
        long.state = UnitState::Failed;
        long.why = "exited with status 3".into();
        let all = status(vec![unit("web"), long]);
        let at = |width| overview(&all, Look { colour: false, width: Some(width) });
        for width in [20, 24, 40, 60, 80] {
            let text = at(width);
            let rows: Vec<&str> = text.lines().skip(2).collect();
            let known = |word: &str| rows.iter().any(|row| row.contains(word));
            assert!(known("FAILED") && known("RUNNING") && known("STATE"), "{width}\n{text}");
        }
        assert_eq!(
            at(40),
            "\
aeternad 0.1.0, pid 12, 2 units

UNIT              STATE    SINCE     GEN
accounti…-branch  FAILED   1min 30s    1
  exited with status 3
web               RUNNING  1min 30s    1
"
        );
    }

    #[test]
    fn a_list_has_a_line_for_each_unit_and_those_that_failed_first() {
        let mut failed = unit("worker");
        failed.state = UnitState::Failed;
        failed.description = "Sends mail".into();
        assert_eq!(
            list(&[soaking(), failed], PLAIN),
            "\
UNIT    STATE    SINCE     GEN  DESCRIPTION
worker  FAILED   1min 30s    1  Sends mail
chat    SOAKING  12s         2  Chat gateway

2 units
"
        );
        assert_eq!(list(&[], PLAIN).lines().last(), Some("0 units"));
    }

    #[test]
    fn no_units_are_said_to_be_none() {
        let mut nothing = status(vec![]);
        nothing.stopping = true;
        assert_eq!(overview(&nothing, PLAIN), "aeternad 0.1.0, pid 12, 0 units, stopping\n");
    }

    #[test]
    fn many_sockets_are_counted() {
        let mut many = unit("web");
        many.sockets = (0..10).map(|n| socket("web", &format!("0.0.0.0:{n}"))).collect();
        many.generation = 0;
        many.sockets[1].queue = None;
        let text = overview(&status(vec![many]), PLAIN);
        assert_eq!(text.lines().count(), 3 + MOST_SOCKETS + 1);
        assert!(text.ends_with("and 6 more\n"), "{text}");
    }

    #[test]
    fn states_and_full_queues_are_coloured() {
        let mut full = unit("web");
        full.sockets[0].queue = Some(4096);
        let text = overview(&status(vec![full, backing_off()]), Look { colour: true, width: None });
        for part in ["\x1b[32mRUNNING\x1b[0m", "\x1b[31m4096/4096\x1b[0m", "\x1b[31mBACKOFF\x1b[0m"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
