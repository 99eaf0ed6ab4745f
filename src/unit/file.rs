//! From the text of a unit file to a [`Unit`], or to everything that is wrong with the text.

use super::Unit;
use super::check::check;
use super::diagnostic::Diagnostic;
use super::read::{Reader, Table, nearest};
use super::syntax;
use super::tables::{
    PlacedSocket, foreign, label, read_about, read_analysis, read_check, read_daemon, read_health, read_hook,
    read_reload, read_service, read_socket, read_state,
};
use super::value::Specifiers;
use std::path::Path;
use std::sync::LazyLock;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What a unit's text means depends on besides itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The file's stem: the unit's name unless `[Unit] Name` says otherwise.
    pub stem: String,
    /// The file as messages name it.
    pub file: String,
    /// What `%t` stands for, without a final `/`.
    pub runtime_dir: String,
    /// Whether aeternad is PID 1: the default of `TimeoutStopSec` is then 20s.
    pub pid1: bool,
}

impl Context {
    /// Of a file with this path, which is named in messages as it is here.
    pub fn of_file(path: &Path, runtime_dir: impl Into<String>, pid1: bool) -> Context {
        Context {
            stem: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            file: path.display().to_string(),
            runtime_dir: runtime_dir.into(),
            pid1,
        }
    }
}

/// The largest unit file, bytes: far above any that a person writes.
pub const MAX_FILE: u64 = 1 << 20;

/// A unit and what deserves a remark about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The unit, checked, with every default filled in.
    pub unit: Unit,
    /// What is valid and probably not meant, in the order of the text.
    pub warnings: Vec<Diagnostic>,
}

/// The tables of a file, kept for the rules that concern several keys.
pub(super) struct Tables<'a> {
    pub(super) unit: Table<'a>,
    pub(super) sockets: Vec<Table<'a>>,
    pub(super) service: Table<'a>,
    pub(super) reload: Table<'a>,
    pub(super) health: Table<'a>,
    pub(super) analysis: Table<'a>,
    pub(super) state: Table<'a>,
    pub(super) daemon: Table<'a>,
    /// Whether the file has anything called `Service` or nearly so, if not a table.
    pub(super) has_service: bool,
}

/// Top-level tables: the name in the file, the label in messages.
const TABLES: [(&str, &str); 8] = [
    ("Unit", label::UNIT),
    ("Socket", label::SOCKET),
    ("Service", label::SERVICE),
    ("Reload", label::RELOAD),
    ("HealthCheck", label::HEALTH),
    ("Analysis", label::ANALYSIS),
    ("State", label::STATE),
    ("Daemon", label::DAEMON),
];

/// Reads a unit file's text. Touches nothing outside its arguments.
///
/// # Errors
/// Every error of the text, in the order of the text, each with line and column.
pub fn parse(text: &str, context: &Context) -> Result<Parsed, Vec<Diagnostic>> {
    let (root, syntax) = DeTable::parse_recoverable(text);
    let specifiers = Specifiers { name: String::new(), runtime_dir: context.runtime_dir.clone() };
    // %n is only known when [Unit] has been read: a first pass finds the name, the second everything else.
    let first = Reader::new(text, specifiers.clone());
    let (name, _) = read_about(&Tables::open(root.get_ref(), &first).unit, &context.stem);
    let reader = Reader::new(text, Specifiers { name, ..specifiers });
    let unit = read_tables(root.get_ref(), &reader, context, syntax.is_empty());
    reader.forget_errors_on_lines(syntax.iter().filter_map(|error| error.span()).map(|span| span.start));
    syntax::report(&reader, &syntax);
    let (errors, warnings) = reader.finish(&context.file);
    if errors.is_empty() { Ok(Parsed { unit, warnings }) } else { Err(errors) }
}

/// Reads every table. `whole`: the text has no syntax error, so what is missing is really missing.
fn read_tables(root: &DeTable<'_>, reader: &Reader<'_>, context: &Context, whole: bool) -> Unit {
    let tables = Tables::open(root, reader);
    report_unknown_tables(root, reader);
    let (name, description) = read_about(&tables.unit, &context.stem);
    let placed: Vec<PlacedSocket> = tables.sockets.iter().map(|table| read_socket(table, &name)).collect();
    let service = read_service(&tables.service, context.pid1);
    let reload = read_reload(&tables.reload);
    let health = read_health(&tables.health);
    let analysis = read_analysis(&tables.analysis);
    let state = read_state(&tables.state);
    let daemon = read_daemon(&tables.daemon);
    let others = [
        &tables.unit,
        &tables.service,
        &tables.reload,
        &tables.health,
        &tables.analysis,
        &tables.state,
        &tables.daemon,
    ];
    for table in others.into_iter().chain(&tables.sockets) {
        table.report_unknown(&|key, known| foreign::hint(table.label(), key, known, &keys()));
    }
    let (sockets, places): (Vec<_>, Vec<_>) = placed.into_iter().map(|one| (one.socket, one.places)).unzip();
    let mut unit = Unit { name, description, sockets, service, reload, health, analysis, state, daemon };
    if whole {
        check(&mut unit, &tables, &places, context);
    }
    unit
}

impl<'a> Tables<'a> {
    /// Finds the tables in `root`; each that is not there is empty.
    fn open(root: &'a DeTable<'a>, reader: &'a Reader<'a>) -> Tables<'a> {
        let one = |name: &str, label: &'static str| {
            let value = meant(root, name);
            let entries = value.and_then(|value| value.get_ref().as_table());
            Table::new(label, entries, value.map_or(0, |value| value.span().start), reader)
        };
        Tables {
            unit: one("Unit", label::UNIT),
            sockets: sockets(root, reader),
            service: one("Service", label::SERVICE),
            reload: one("Reload", label::RELOAD),
            health: one("HealthCheck", label::HEALTH),
            analysis: one("Analysis", label::ANALYSIS),
            state: one("State", label::STATE),
            daemon: one("Daemon", label::DAEMON),
            has_service: root
                .keys()
                .any(|name| table_named(name.get_ref()).is_some_and(|(known, _)| known == "Service")),
        }
    }
}

/// The table that a top-level name means, even if it is misspelt.
fn table_named(name: &str) -> Option<(&'static str, &'static str)> {
    let called = |name: &str| TABLES.into_iter().find(|(known, _)| *known == name);
    // In a valid file each is called as it should be: no distance is worked out.
    called(name).or_else(|| called(nearest(name, TABLES.iter().map(|(known, _)| *known))?))
}

/// What is called `name`, or else what is so misspelt that it means it: its contents are looked at all the same.
fn meant<'a>(root: &'a DeTable<'a>, name: &str) -> Option<&'a Spanned<DeValue<'a>>> {
    let misspelt = |key: &str| {
        TABLES.iter().all(|(known, _)| *known != key)
            && table_named(key).is_some_and(|(known, _)| known == name)
    };
    let tables = |value: &DeValue<'_>| value.is_table() || value.is_array();
    root.get(name).or_else(|| {
        let mut others =
            root.iter().filter(|(key, value)| misspelt(key.get_ref()) && tables(value.get_ref()));
        others.next().map(|(_, value)| value)
    })
}

/// The `[[Socket]]` tables, or the one `[Socket]`.
fn sockets<'a>(root: &'a DeTable<'a>, reader: &'a Reader<'a>) -> Vec<Table<'a>> {
    let nodes: Vec<&Spanned<DeValue<'a>>> = match meant(root, "Socket") {
        None => Vec::new(),
        Some(value) => match value.get_ref().as_array() {
            Some(array) => array.iter().collect(),
            None => vec![value],
        },
    };
    nodes
        .into_iter()
        .filter_map(|node| {
            Some(Table::new(label::SOCKET, Some(node.get_ref().as_table()?), node.span().start, reader))
        })
        .collect()
}

/// Reports top-level names that are no table of a unit, and tables that have another shape.
fn report_unknown_tables(root: &DeTable<'_>, reader: &Reader<'_>) {
    for (name, value) in root {
        let (at, shown) = (name.span().start, name.get_ref().escape_debug());
        let is_table = value.get_ref().is_table();
        let in_array = value
            .get_ref()
            .as_array()
            .is_some_and(|array| !array.is_empty() && array.iter().all(|node| node.get_ref().is_table()));
        match TABLES.iter().find(|(known, _)| known == name.get_ref()) {
            Some((known, label)) => {
                let fits = is_table || (*known == "Socket" && in_array);
                if !fits && in_array {
                    reader.error(value.span().start, format!("there is one {label}, not a list of them"));
                } else if !fits {
                    reader.error(at, format!("\"{known}\" is a table; write {label} on a line of its own"));
                }
            }
            None if is_table || in_array => {
                let hint = match (foreign::of_table(name.get_ref()), table_named(name.get_ref())) {
                    (Some(why), _) => format!("; {why}"),
                    (None, Some((_, label))) => format!("; did you mean {label}?"),
                    (None, None) => String::new(),
                };
                reader.error(value.span().start, format!("unknown table [{shown}]{hint}"));
            }
            None => {
                let known = keys();
                let near = nearest(name.get_ref(), known.iter().map(|(_, key)| *key));
                let table = known.iter().find(|(_, key)| Some(*key) == near);
                let hint = table
                    .map_or("keys stand in tables such as [Service]".to_string(), |(table, key)| {
                        format!("\"{key}\" belongs in {table}")
                    });
                reader.error(at, format!("unknown key \"{shown}\" outside of any table; {hint}"));
            }
        }
    }
}

/// Every table and key that [`parse`] accepts, in the order of the manual. Taken from the readers themselves, which
/// read an empty file for it.
pub fn keys() -> Vec<(&'static str, &'static str)> {
    static KEYS: LazyLock<Vec<(&str, &str)>> = LazyLock::new(read_keys);
    KEYS.clone()
}

fn read_keys() -> Vec<(&'static str, &'static str)> {
    let reader = Reader::new("", Specifiers::default());
    let empty = DeTable::new();
    let tables = Tables::open(&empty, &reader);
    read_about(&tables.unit, "unit");
    let hook = |label| {
        let table = Table::new(label, None, 0, &reader);
        read_hook(&table);
        table
    };
    let socket = Table::new(label::SOCKET, None, 0, &reader);
    read_socket(&socket, "unit");
    read_service(&tables.service, false);
    read_reload(&tables.reload);
    read_health(&tables.health);
    read_analysis(&tables.analysis);
    let check = Table::new(label::ANALYSIS_CHECK, None, 0, &reader);
    read_check(&check);
    read_state(&tables.state);
    read_daemon(&tables.daemon);
    let hooks = [hook(label::PRE_FLIGHT), hook(label::ON_SUCCESS), hook(label::ON_FAILURE)];
    let [pre_flight, on_success, on_failure] = &hooks;
    [
        &tables.unit,
        &socket,
        &tables.service,
        &tables.reload,
        pre_flight,
        on_success,
        on_failure,
        &tables.health,
        &tables.analysis,
        &check,
        &tables.state,
        &tables.daemon,
    ]
    .into_iter()
    .flat_map(|table| table.asked().into_iter().map(|key| (table.label(), key)))
    .collect()
}
