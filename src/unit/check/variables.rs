//! Rules of the variables that tell a service of its sockets: each name one meaning, each value no longer than the
//! kernel takes.

use super::super::file::Tables;
use super::super::value::print_address;
use super::super::{SocketEnvironment, Unit, fd_variables};
use super::error;
use std::collections::HashMap;

/// The longest variable, `NAME=value` with its end, bytes (`MAX_ARG_STRLEN`).
const LONGEST: usize = 131_072;

/// Applies the rules.
pub(super) fn check(unit: &Unit, tables: &Tables<'_>) {
    let names: Vec<&str> = unit.listens().map(|(socket, _)| socket.name.as_str()).collect();
    ambiguous(unit, tables, &names);
    let too_long = |name: &str, length: usize| {
        let length = name.len() + 2 + length;
        (length > LONGEST).then(|| {
            format!("{name} would be {length} bytes long, and the kernel takes {LONGEST}: use shorter names or fewer sockets")
        })
    };
    let joined: usize = names.iter().map(|name| name.len() + 1).sum();
    if let (Some(message), Some(table)) = (too_long("LISTEN_FDNAMES", joined), tables.sockets.first()) {
        error(&[(table, "FileDescriptorName"), (&tables.service, "Environment")], message);
    }
    for way in &unit.service.socket_environment {
        // A number has six digits at most; PHP-FPM's list is split.
        let (name, length) = match way {
            SocketEnvironment::ServerStarter => (
                "SERVER_STARTER_PORT",
                unit.listens().map(|(_, listen)| print_address(listen).len() + 6).sum(),
            ),
            SocketEnvironment::Einhorn => ("EINHORN_FDS", names.len() * 6),
            SocketEnvironment::Nginx => ("NGINX", names.len() * 6),
            SocketEnvironment::PhpFpm => continue,
        };
        if let Some(message) = too_long(name, length) {
            error(&[(&tables.service, "SocketEnvironment")], message);
        }
    }
}

/// Two sockets, one `AETERNA_FD_…`.
fn ambiguous(unit: &Unit, tables: &Tables<'_>, names: &[&str]) {
    let mut first: HashMap<String, &str> = HashMap::new();
    let tables =
        unit.sockets.iter().zip(&tables.sockets).flat_map(|(s, table)| s.listen.iter().map(move |_| table));
    for ((name, variable), table) in names.iter().zip(fd_variables(names)).zip(tables) {
        let earlier = *first.entry(variable.clone()).or_insert(name);
        if earlier != *name {
            let message = format!(
                "${{{variable}}} would mean a socket called \"{earlier}\" and one called \"{name}\"; give one of them \
                 another FileDescriptorName"
            );
            return error(&[(table, "FileDescriptorName")], message);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::unit::{Context, parse};
    use std::path::Path;

    /// What is said of a unit with so many sockets, each with a name of 200 characters.
    fn said(sockets: u32, more: &str) -> String {
        let name = "n".repeat(200);
        let mut text = format!("[Service]\nExecStart = \"/bin/app\"\n{more}\n");
        for number in 0..sockets {
            let address = format!("/run/{}/{number}", "a".repeat(80));
            text.push_str(&format!(
                "[[Socket]]\nListenStream = \"{address}\"\nFileDescriptorName = \"{name}{number}\"\n"
            ));
        }
        match parse(&text, &Context::of_file(Path::new("app.toml"), "/run", false)) {
            Ok(_) => String::new(),
            Err(errors) => errors.iter().map(|error| format!("{}\n", error.message)).collect(),
        }
    }

    #[test]
    fn a_variable_that_the_kernel_would_refuse_is_named_before_anything_is_started() {
        assert_eq!(said(600, ""), "");
        let text = said(700, "");
        assert!(text.contains("LISTEN_FDNAMES would be") && text.contains("use shorter names"), "{text}");
        // PHP-FPM's list is split into variables of its own; Server::Starter's is not.
        assert_eq!(said(600, "SocketEnvironment = \"php-fpm\""), "");
        let text = said(1500, "SocketEnvironment = \"server-starter\"");
        assert!(text.contains("SERVER_STARTER_PORT would be"), "{text}");
    }
}
