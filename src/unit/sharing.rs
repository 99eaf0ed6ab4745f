//! How an address is shared between generations, and why: what `status` and `--check` say of each.

use super::{Address, Listen, ListenKind, Sharing, Socket, SocketProtocol, Unit};

/// [`Sharing::Steered`] or [`Sharing::Shared`] for an address of `unit`, and the reason in words. What the kernel, or a
/// socket that was inherited, makes of it is not known here.
pub fn sharing(unit: &Unit, socket: &Socket, listen: &Listen) -> (Sharing, &'static str) {
    use Sharing::{Auto, Shared, Steered};
    let tcp = listen.kind == ListenKind::Stream
        && matches!(listen.address, Address::Port(_) | Address::Inet(_) | Address::Scoped(..));
    let path = matches!(listen.address, Address::Path(_))
        && matches!(listen.kind, ListenKind::Stream | ListenKind::SequentialPacket);
    match socket.sharing {
        _ if socket.accept => (Shared, "with Accept each connection gets its own instance"),
        Shared => (Shared, "the unit says so"),
        _ if tcp && socket.options.protocol == Some(SocketProtocol::Mptcp) => {
            (Shared, "an MPTCP listener cannot be steered")
        }
        _ if tcp && socket.options.protocol == Some(SocketProtocol::Sctp) => {
            (Shared, "an SCTP listener cannot be steered")
        }
        Steered if tcp || path || listen.is_unicast_udp() => (Steered, "the unit says so"),
        Steered => (Shared, "only TCP, UDP and Unix paths that are connected to can be steered"),
        Auto if unit.state.enabled => {
            (Shared, "with [State] connections wait while the memory moves, unless the unit says otherwise")
        }
        Auto if tcp => (Steered, "TCP is steered unless the unit says otherwise"),
        Auto => (Shared, "only TCP is steered unless the unit says otherwise"),
    }
}
