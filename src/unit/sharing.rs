//! `Sharing`: whether generations have sockets of their own at an address, and why (aeterna.unit(5)).

use super::value::print_address;
use super::{Address, Listen, ListenKind, Sharing, Socket, Unit};

/// How an address of a unit is shared, [`Sharing::Steered`] or [`Sharing::Shared`], and why, in words. The kernel and
/// what is inherited may change it later.
pub fn sharing(unit: &Unit, socket: &Socket, listen: &Listen) -> (Sharing, &'static str) {
    let tcp = listen.kind == ListenKind::Stream
        && matches!(listen.address, Address::Port(_) | Address::Inet(_) | Address::Scoped(..));
    let unix_stream = matches!(listen.address, Address::Path(_))
        && matches!(listen.kind, ListenKind::Stream | ListenKind::SequentialPacket);
    match socket.sharing {
        _ if socket.accept => (Sharing::Shared, "with Accept each connection gets its own instance"),
        Sharing::Shared => (Sharing::Shared, "the unit says so"),
        Sharing::Steered if tcp || unix_stream => (Sharing::Steered, "the unit says so"),
        Sharing::Steered => (Sharing::Shared, "only TCP and Unix paths that are connected to can be steered"),
        Sharing::Auto if unit.state.enabled => (
            Sharing::Shared,
            "with [State] connections wait while the memory moves, unless the unit says otherwise",
        ),
        Sharing::Auto if tcp => (Sharing::Steered, "TCP is steered unless the unit says otherwise"),
        Sharing::Auto => (Sharing::Shared, "only TCP is steered unless the unit says otherwise"),
    }
}

/// The same for every address of a unit, a sentence each.
pub fn sharing_notes(unit: &Unit) -> Vec<String> {
    let tell = |(socket, listen): (&Socket, &Listen)| {
        let (how, why) = sharing(unit, socket, listen);
        let how = if how == Sharing::Steered { "steered" } else { "shared" };
        format!("{} at {} is {how}: {why}", socket.name, print_address(listen))
    };
    unit.listens().map(tell).collect()
}
