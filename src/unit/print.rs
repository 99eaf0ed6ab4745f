//! Canonical printing: a [`Unit`] as TOML with every default filled in.

use super::Unit;

/// The unit as TOML that [`super::parse`] reads back to an equal unit (with the same context).
pub fn print(unit: &Unit) -> String {
    format!("[Unit]\nName = {:?}\n", unit.name)
}
