//! A unit without a file: `aeternad --listen ADDR -- COMMAND`.

use super::diagnostic::Diagnostic;
use super::file::Context;
use super::read::one_line;
use super::tables::{
    DESCRIPTOR_NAME, check_name, is_descriptor_name, reload_defaults, service_defaults, socket_defaults,
};
use super::value::{Specifiers, command_from_words, parse_address};
use super::{Command, DaemonSettings, Input, Listen, ListenKind, Socket, Unit, same_endpoint};

/// What an address may start with to be another kind than a stream.
const KINDS: [(&str, ListenKind); 3] = [
    ("udp:", ListenKind::Datagram),
    ("seqpacket:", ListenKind::SequentialPacket),
    ("fifo:", ListenKind::Fifo),
];

/// How the command of an inline unit gets its sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sockets {
    /// By sd_listen_fds(3) only.
    Handed,
    /// Also at its own bind(2): `InterceptBind`.
    Intercepted,
}

/// The unit that a command line describes: `Type = "exec"`, `Restart = "no"`, streams inherited, named after the
/// command, its sockets `socket1`, `socket2`… in the order of `listen`, or as `NAME=` says.
///
/// An address is as in `ListenStream`, or `udp:ADDR`, `seqpacket:/path`, `fifo:/path`, behind `NAME=` or not. `%` and `$`
/// in `command` are literal. Of `context`, the stem is not used.
///
/// # Errors
/// Everything that is wrong with the command or an address, without positions.
pub fn inline(
    command: Vec<String>,
    listen: &[String],
    way: Sockets,
    context: &Context,
) -> Result<Unit, Vec<Diagnostic>> {
    let mut errors = Vec::new();
    let name = unit_name(command.first().map(String::as_str).unwrap_or_default());
    let command = literal(command).map_err(|why| errors.push(why)).ok();
    let specifiers = Specifiers { name: name.clone(), runtime_dir: context.runtime_dir.clone() };
    let mut sockets: Vec<Socket> = Vec::new();
    for (index, text) in listen.iter().enumerate() {
        match named_address(text, &specifiers) {
            Err(why) => errors.push(format!("--listen {text}: {why}")),
            Ok((_, one))
                if sockets
                    .iter()
                    .flat_map(|socket| &socket.listen)
                    .any(|known| !one.any_port() && same_endpoint(known, &one)) =>
            {
                errors.push(format!("--listen {text}: this address is there twice"));
            }
            Ok((own, one)) => {
                let mut socket = socket_defaults(&name, false);
                socket.name = own.unwrap_or_else(|| format!("socket{}", index + 1));
                socket.listen.push(one);
                sockets.push(socket);
            }
        }
    }
    let mut service = service_defaults(context.pid1);
    service.standard_input = Input::Inherit;
    service.intercept_bind = way == Sockets::Intercepted;
    service.exec_start.extend(command);
    if errors.is_empty() {
        return Ok(Unit {
            name,
            description: String::new(),
            sockets,
            service,
            reload: reload_defaults(),
            health: None,
            analysis: None,
            state: super::State::default(),
            daemon: DaemonSettings::default(),
        });
    }
    let place =
        |message| Diagnostic { file: context.file.clone(), line: 0, column: 0, message: one_line(message) };
    Err(errors.into_iter().map(place).collect())
}

/// The table of a socket that no unit declares, with every default: a program has bound it by itself.
pub fn undeclared_socket(unit: &str, listen: Listen) -> Socket {
    let mut socket = socket_defaults(unit, false);
    socket.listen.push(listen);
    socket
}

/// The program's base name as the name of a unit.
fn unit_name(program: &str) -> String {
    let base = program.rsplit('/').find(|part| !part.is_empty()).unwrap_or("command");
    let valid = |c: char| if check_name(&c.to_string()).is_ok() { c } else { '_' };
    base.chars().take(255).map(valid).collect()
}

/// The command as it is: no prefixes, no variables.
fn literal(words: Vec<String>) -> Result<Command, String> {
    if words.iter().any(|word| word.contains('\0')) {
        return Err("a NUL character cannot be passed to any program".into());
    }
    if let Some(program) = words.first()
        && program.starts_with(['-', '@', ':', '+', '!', '|'])
    {
        return Err(format!(
            "the program \"{program}\" starts with a sign; write \"./{program}\" or its whole path"
        ));
    }
    let command = command_from_words(words)?;
    Ok(Command { expand: false, ..command })
}

/// `http=8080`: what it is called, and the address. A `=` behind one of `/:@[` is the address's own.
fn named_address(text: &str, specifiers: &Specifiers) -> Result<(Option<String>, Listen), String> {
    match text.split_once('=') {
        Some((name, rest)) if !name.contains(['/', ':', '@', '[']) => {
            if name.is_empty() || !is_descriptor_name(name) {
                return Err(format!("{name:?} is not a descriptor's name: {DESCRIPTOR_NAME}"));
            }
            Ok((Some(name.to_owned()), address(rest, specifiers)?))
        }
        Some(_) | None => Ok((None, address(text, specifiers)?)),
    }
}

fn address(text: &str, specifiers: &Specifiers) -> Result<Listen, String> {
    let kind = KINDS.iter().find_map(|(prefix, kind)| Some((*kind, text.strip_prefix(prefix)?)));
    let (kind, text) = kind.unwrap_or((ListenKind::Stream, text));
    Ok(Listen { kind, address: parse_address(kind, text, specifiers)? })
}

#[cfg(test)]
mod tests {
    use super::super::{Address, Output, Restart, ServiceType, parse, print};
    use super::*;

    fn context() -> Context {
        Context {
            stem: "x".into(),
            file: "command line".into(),
            runtime_dir: "/run/aeterna".into(),
            pid1: false,
        }
    }

    fn made(command: &[&str], listen: &[&str]) -> Result<Unit, Vec<String>> {
        let command = command.iter().map(ToString::to_string).collect();
        let listen: Vec<String> = listen.iter().map(ToString::to_string).collect();
        let shown = |errors: Vec<Diagnostic>| errors.iter().map(ToString::to_string).collect();
        inline(command, &listen, Sockets::Handed, &context()).map_err(shown)
    }

    #[test]
    fn a_command_line_is_a_unit() {
        let addresses =
            ["8080", "127.0.0.1:80", "/run/x", "@x", "[::1]:80", "udp:53", "seqpacket:/s", "fifo:/f"];
        let unit = made(&["/usr/bin/my server", "$HOME", "100%"], &addresses).unwrap();
        assert_eq!(unit.name, "my_server");
        assert_eq!((unit.service.service_type, unit.service.restart), (ServiceType::Exec, Restart::No));
        assert_eq!(
            (unit.service.standard_input.clone(), unit.service.standard_output.clone()),
            (Input::Inherit, Output::Inherit)
        );
        assert_eq!(unit.service.exec_start[0].argv, ["/usr/bin/my server", "$HOME", "100%"]);
        assert!(!unit.service.exec_start[0].expand);
        let names: Vec<&str> = unit.sockets.iter().map(|socket| socket.name.as_str()).collect();
        assert_eq!(names[..2], ["socket1", "socket2"]);
        let last = unit.sockets[5..].iter().map(|socket| socket.listen[0].clone());
        let expected = [
            (ListenKind::Datagram, Address::Port(53)),
            (ListenKind::SequentialPacket, Address::Path("/s".into())),
            (ListenKind::Fifo, Address::Path("/f".into())),
        ];
        assert!(last.eq(expected.map(|(kind, address)| Listen { kind, address })));
        assert_eq!(parse(&print(&unit), &context()).unwrap().unit, unit);
    }

    #[test]
    fn a_socket_is_called_what_stands_before_its_address() {
        let unit =
            made(&["x"], &["http=8080", "9090", "admin=/run/a=b", "/run/c=d", "@e=f", "q=udp:53"]).unwrap();
        let names: Vec<&str> = unit.sockets.iter().map(|socket| socket.name.as_str()).collect();
        assert_eq!(names, ["http", "socket2", "admin", "socket4", "socket5", "q"]);
        let at = |index: usize| unit.sockets[index].listen[0].clone();
        assert_eq!(at(0), Listen { kind: ListenKind::Stream, address: Address::Port(8080) });
        assert_eq!(at(2).address, Address::Path("/run/a=b".into()));
        assert_eq!(at(3).address, Address::Path("/run/c=d".into()));
        assert_eq!(at(5), Listen { kind: ListenKind::Datagram, address: Address::Port(53) });
        assert_eq!(parse(&print(&unit), &context()).unwrap().unit, unit);
        assert!(made(&["x"], &["=8080"]).unwrap_err()[0].contains("not a descriptor's name"));
        assert!(made(&["x"], &["ä=8080"]).unwrap_err()[0].contains("not a descriptor's name"));
        assert!(made(&["x"], &["a=80", "b=80"]).unwrap_err()[0].contains("twice"));
    }

    #[test]
    fn relative_programs_start_in_the_working_directory() {
        for (program, expected) in
            [("app", "app"), ("./app", "./app"), ("bin/app", "bin/app"), ("../a", "../a")]
        {
            assert_eq!(made(&[program], &[]).unwrap().service.exec_start[0].argv, [expected]);
        }
    }

    #[test]
    fn every_error_of_a_command_line_is_reported() {
        let errors = made(&[], &["localhost:80", "8080", "[::]:8080"]).unwrap_err();
        assert_eq!(errors.len(), 3, "{errors:?}");
        assert!(errors[0].starts_with("command line: an empty command"), "{errors:?}");
        assert!(errors[1].contains("host name") && errors[2].contains("twice"), "{errors:?}");
        assert!(made(&["a/\n/"], &[]).unwrap_err()[0].contains("a/\\n/"));
        assert!(made(&["-x"], &[]).unwrap_err()[0].contains("./-x"));
        assert!(made(&[""], &[]).unwrap_err()[0].contains("empty"));
        assert!(made(&["/bin/"], &[]).unwrap_err()[0].contains("folder"));
    }
}
