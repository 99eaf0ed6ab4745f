//! Rules that concern several keys, and defaults that depend on other keys. A rule says nothing about a key whose
//! value is wrong already.

mod analysis;
mod reload;
mod service;
mod sockets;
mod variables;

pub(super) use reload::no_canary;

use super::Unit;
use super::file::{Context, Tables};
use super::read::Table;

/// Fills in what depends on several keys, then applies every rule. `places`: where each address of each socket
/// stands.
pub(super) fn check(unit: &mut Unit, tables: &Tables<'_>, places: &[Vec<usize>], context: &Context) {
    service::settle(unit, tables);
    reload::settle(unit, tables);
    service::check(unit, tables, context);
    sockets::check(unit, tables, places);
    variables::check(unit, tables);
    reload::check(unit, tables);
    analysis::check(unit, tables);
}

/// A key of a table, as rules name it.
type Key<'t, 'a> = (&'t Table<'a>, &'static str);

/// Whether every key that a rule looks at has a value that could be read, or is not there.
fn sound(keys: &[Key<'_, '_>]) -> bool {
    keys.iter().all(|(table, key)| !table.is_bad(key))
}

/// Records an error at the first of the keys, unless one of them is wrong by itself.
fn error(keys: &[Key<'_, '_>], message: impl Into<String>) {
    if let [(table, key), ..] = keys
        && sound(keys)
    {
        table.reader().error(table.at(key), message);
    }
}

/// Records a warning at the first of the keys, unless one of them is wrong by itself.
fn warn(keys: &[Key<'_, '_>], message: impl Into<String>) {
    if let [(table, key), ..] = keys
        && sound(keys)
    {
        table.reader().warn(table.at(key), message);
    }
}
