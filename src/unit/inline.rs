//! A unit without a file: `aeternad --listen ADDR -- COMMAND`.

use super::Unit;
use super::diagnostic::Diagnostic;
use super::file::Context;

/// The unit that a command line describes: `Type = "exec"`, `Restart = "no"`, streams inherited, named after the
/// command, its sockets `socket1`, `socket2`… in the order of `listen`.
///
/// An address is as in `ListenStream`, or `udp:ADDR`, `seqpacket:/path`, `fifo:/path`. `%` and `$` in `command`
/// are literal. Of `context`, the stem is not used.
///
/// # Errors
/// Everything that is wrong with the command or an address, without positions.
pub fn inline(_command: Vec<String>, _listen: &[String], context: &Context) -> Result<Unit, Vec<Diagnostic>> {
    Err(vec![Diagnostic {
        file: context.file.clone(),
        line: 0,
        column: 0,
        message: "units without a file cannot be made in this build yet".into(),
    }])
}
