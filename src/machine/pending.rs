//! Which keys of a newer content a running generation has not got: for `status` after a `signal` reload.

use crate::unit::{Difference, Needs, SocketChange, Unit, differences};

/// What differs between what runs and what was read, and only a launch brings into effect: keys, with their table
/// where it is not `[Service]`, and addresses.
pub(super) fn pending_keys(running: &Unit, read: &Unit) -> Vec<String> {
    let waiting = |difference| match difference {
        Difference::Key { table, key, needs: Needs::Launch, .. } if table == "[Service]" => Some(key.into()),
        Difference::Key { table, key, needs: Needs::Launch, .. } => Some(format!("{table} {key}")),
        Difference::Socket { address, change: SocketChange::Added | SocketChange::Dropped, .. } => {
            Some(format!("[[Socket]] {address}"))
        }
        Difference::Key { .. } | Difference::Socket { .. } => None,
    };
    differences(running, read).into_iter().filter_map(waiting).collect()
}
