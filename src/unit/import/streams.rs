//! `StandardInput`, `StandardOutput`, `StandardError`: systemd's words are not all ours.

use super::Work;
use super::draft::{Item, Origin, Table, toml_text};

/// What a unit says about its streams.
#[derive(Debug, Default)]
pub(super) struct Streams {
    input: Option<(String, Origin)>,
    output: Option<(String, Origin)>,
    error: Option<(String, Origin)>,
}

impl Streams {
    /// Notes an assignment; an empty value takes it back.
    pub(super) fn take(&mut self, key: &str, value: String, origin: Origin) {
        let slot = match key {
            "StandardInput" => &mut self.input,
            "StandardOutput" => &mut self.output,
            _ => &mut self.error,
        };
        *slot = (!value.is_empty()).then_some((value, origin));
    }

    /// Puts what is left into `[Service]`.
    pub(super) fn settle(self, service: &mut Table, work: &mut Work<'_>) {
        let from_socket = self.input.as_ref().is_some_and(|(value, _)| value == "socket");
        if let Some((value, origin)) = &self.input
            && (value.starts_with("file:") || ["null", "socket"].contains(&value.as_str()))
        {
            service.set("StandardInput", Item::of(toml_text(value), *origin));
        } else if let Some((value, origin)) = self.input {
            work.warn(
                origin,
                format!("StandardInput={value}: a service gets no terminal or data; it is null"),
            );
        }
        let output = self.output.and_then(|(value, origin)| {
            let word = output("StandardOutput", &value, origin, work)?;
            // `inherit` is the descriptor of standard input.
            let word = if word == "inherit" && from_socket { "socket".to_string() } else { word };
            Some((word, origin))
        });
        let error = self.error.and_then(|(value, origin)| {
            output_of_error(&value, origin, output.as_ref(), from_socket, work).map(|word| (word, origin))
        });
        match (&output, from_socket) {
            (Some((word, origin)), _) => {
                service.set("StandardOutput", Item::of(toml_text(word), *origin));
            }
            // systemd.exec(5): without a word about them, both follow a socket on standard input.
            (None, true) => service.imply("StandardOutput", "\"socket\""),
            (None, false) => {}
        }
        match (error, from_socket) {
            (Some((word, origin)), _) => service.set("StandardError", Item::of(toml_text(&word), origin)),
            (None, true) if output.is_none() => service.imply("StandardError", "\"socket\""),
            (None, _) => {
                if let Some((word, origin)) = output.filter(|(word, _)| word != "inherit") {
                    service.set("StandardError", Item::of(toml_text(&word), origin));
                }
            }
        }
    }
}

/// StandardError's word: `inherit` is what standard output is.
fn output_of_error(
    value: &str,
    origin: Origin,
    of_output: Option<&(String, Origin)>,
    from_socket: bool,
    work: &mut Work<'_>,
) -> Option<String> {
    let word = output("StandardError", value, origin, work)?;
    if word != "inherit" {
        return Some(word);
    }
    let follows = of_output.map(|(word, _)| word.clone());
    Some(follows.unwrap_or_else(|| if from_socket { "socket".into() } else { word }))
}

/// One stream's word, or a warning that there is none.
fn output(key: &str, value: &str, origin: Origin, work: &mut Work<'_>) -> Option<String> {
    match value {
        "inherit" | "null" | "socket" | "journal" => {
            Some(if value == "journal" { "log".into() } else { value.into() })
        }
        _ if value.starts_with("file:") || value.starts_with("append:") => Some(value.into()),
        "syslog" | "kmsg" | "journal+console" | "syslog+console" | "kmsg+console" => {
            work.warn(origin, format!("{key}={value}: lines go through aeternad's own log instead"));
            Some("log".into())
        }
        _ if value.starts_with("truncate:") => {
            work.warn(origin, format!("{key}={value}: the file is written from its start and not truncated"));
            value.strip_prefix("truncate:").map(|path| format!("file:{path}"))
        }
        _ => {
            work.warn(origin, format!("{key}={value} has no equivalent; the stream is aeternad's own"));
            None
        }
    }
}
