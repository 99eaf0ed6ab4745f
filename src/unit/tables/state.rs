//! `[State]`.

use super::super::State;
use super::super::read::{Table, Value, flag, positive_time, signal, size, text};
use super::{set, set_some};

/// Reads `[State]`.
pub(crate) fn read_state(table: &Table<'_>) -> State {
    let mut state = State::default();
    set(&mut state.enabled, table.take("Enabled", flag));
    set_some(&mut state.socket_path, table.take("SocketPath", socket_path));
    set(&mut state.timeout, table.take("Timeout", positive_time));
    set(&mut state.required, table.take("Required", flag));
    set(&mut state.max_bytes, table.take("MaxBytes", size));
    set(&mut state.descriptor, table.take("Descriptor", flag));
    set_some(&mut state.signal, table.take("Signal", signal));
    if table.is_there() && !state.enabled {
        for key in ["SocketPath", "Timeout", "Required", "MaxBytes", "Signal"] {
            if table.has(key) {
                table.reader().warn(table.at(key), format!("{key} has no effect without Enabled = true"));
            }
        }
        return State { descriptor: state.descriptor, ..State::default() };
    }
    state
}

fn socket_path(value: &Value<'_>) -> Option<String> {
    let path = text(value)?;
    if !path.starts_with('/') || path.ends_with('/') {
        return value.fail(format!("SocketPath \"{path}\" is not the absolute path of a socket"));
    }
    Some(path)
}
