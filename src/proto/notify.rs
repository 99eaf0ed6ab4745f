//! sd_notify(3) datagrams: text → [`Notification`]. Unknown keys are left out, they are no error.
//!
//! A value that makes no sense (a number that is none, a name that may not be one) is left out too, as if its
//! line were not there: a message is never refused because of one line of it.

use crate::proto::harmless::harmless;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The longest datagram that is read, bytes. systemd stops at 4096; a longer STATUS does no harm.
pub const MAX_DATAGRAM: usize = 16 * 1024;

/// The longest STATUS that is kept, bytes; what follows is cut off.
pub const MAX_STATUS: usize = 1024;

/// The longest FDNAME, bytes (sd_notify(3)).
const MAX_FD_NAME: usize = 255;

/// What one datagram says. A key that stands twice counts as its last value.
///
/// The default says nothing: as an empty datagram does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// `READY=1`.
    pub ready: bool,
    /// `RELOADING=1`.
    pub reloading: bool,
    /// `STOPPING=1`.
    pub stopping: bool,
    /// `STATUS=`.
    pub status: Option<String>,
    /// `ERRNO=`.
    pub errno: Option<i32>,
    /// `EXIT_STATUS=`.
    pub exit_status: Option<i32>,
    /// `MAINPID=`.
    pub main_pid: Option<i32>,
    /// `WATCHDOG=1`.
    pub watchdog: bool,
    /// `WATCHDOG=trigger`.
    pub watchdog_trigger: bool,
    /// `WATCHDOG_USEC=`, microseconds.
    pub watchdog_usec: Option<u64>,
    /// `EXTEND_TIMEOUT_USEC=`, microseconds.
    pub extend_timeout_usec: Option<u64>,
    /// `FDSTORE=1`.
    pub fd_store: bool,
    /// `FDSTOREREMOVE=1`.
    pub fd_store_remove: bool,
    /// `FDNAME=`, if it is a valid name.
    pub fd_name: Option<String>,
    /// False after `FDPOLL=0`.
    pub fd_poll: bool,
    /// `BARRIER=1`.
    pub barrier: bool,
    /// `MONOTONIC_USEC=`, microseconds.
    pub monotonic_usec: Option<u64>,
}

impl Default for Notification {
    fn default() -> Notification {
        Notification {
            ready: false,
            reloading: false,
            stopping: false,
            status: None,
            errno: None,
            exit_status: None,
            main_pid: None,
            watchdog: false,
            watchdog_trigger: false,
            watchdog_usec: None,
            extend_timeout_usec: None,
            fd_store: false,
            fd_store_remove: false,
            fd_name: None,
            // Only FDPOLL=0 turns the watching of stored descriptors off.
            fd_poll: true,
            barrier: false,
            monotonic_usec: None,
        }
    }
}

/// Why a datagram counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotifyError {
    /// It is longer than [`MAX_DATAGRAM`].
    TooLong,
    /// There is a NUL before its last byte: who reads it as a C string would read something else.
    EmbeddedNul,
    /// It is not UTF-8.
    NotUtf8,
}

impl fmt::Display for NotifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotifyError::TooLong => write!(f, "longer than {MAX_DATAGRAM} bytes"),
            NotifyError::EmbeddedNul => f.write_str("a NUL byte in the middle"),
            NotifyError::NotUtf8 => f.write_str("not UTF-8"),
        }
    }
}

impl std::error::Error for NotifyError {}

/// Reads one datagram.
///
/// Shape: `KEY=VALUE` lines, separated by newlines; one trailing NUL is allowed. Lines without `=`, unknown keys
/// (`X_…` too) and values that make no sense are left out.
///
/// # Errors
/// [`NotifyError`]: the whole message is to be ignored.
///
/// Source: sd_notify(3), "Well-known assignments".
pub fn parse(datagram: &[u8]) -> Result<Notification, NotifyError> {
    if datagram.len() > MAX_DATAGRAM {
        return Err(NotifyError::TooLong);
    }
    let text = datagram.strip_suffix(b"\0").unwrap_or(datagram);
    if text.contains(&0) {
        return Err(NotifyError::EmbeddedNul);
    }
    let text = std::str::from_utf8(text).map_err(|_| NotifyError::NotUtf8)?;
    let mut message = Notification::default();
    for line in text.split('\n') {
        if let Some((key, value)) = line.split_once('=') {
            message.take(key, value);
        }
    }
    Ok(message)
}

impl Notification {
    /// Adds what one line says.
    fn take(&mut self, key: &str, value: &str) {
        match key {
            "READY" => self.ready = value == "1",
            "RELOADING" => self.reloading = value == "1",
            "STOPPING" => self.stopping = value == "1",
            "STATUS" => self.status = Some(harmless(value, MAX_STATUS)),
            // The kernel's error numbers end at 4095.
            "ERRNO" => keep(&mut self.errno, number(value, 0, 4095)),
            "EXIT_STATUS" => keep(&mut self.exit_status, number(value, 0, 255)),
            "MAINPID" => keep(&mut self.main_pid, number(value, 1, i32::MAX)),
            "WATCHDOG" => {
                self.watchdog = value == "1";
                self.watchdog_trigger = value == "trigger";
            }
            "WATCHDOG_USEC" => keep(&mut self.watchdog_usec, number(value, 0, u64::MAX)),
            "EXTEND_TIMEOUT_USEC" => keep(&mut self.extend_timeout_usec, number(value, 0, u64::MAX)),
            "FDSTORE" => self.fd_store = value == "1",
            "FDSTOREREMOVE" => self.fd_store_remove = value == "1",
            "FDNAME" => keep(&mut self.fd_name, is_fd_name(value).then(|| value.to_string())),
            "FDPOLL" => self.fd_poll = value != "0",
            "BARRIER" => self.barrier = value == "1",
            "MONOTONIC_USEC" => keep(&mut self.monotonic_usec, number(value, 0, u64::MAX)),
            _ => {}
        }
    }
}

/// Replaces `old` by `new` if there is one.
fn keep<T>(old: &mut Option<T>, new: Option<T>) {
    if new.is_some() {
        *old = new;
    }
}

/// A whole number from `least` to `most`.
fn number<T: std::str::FromStr + PartialOrd>(text: &str, least: T, most: T) -> Option<T> {
    text.trim().parse::<T>().ok().filter(|n| *n >= least && *n <= most)
}

/// Whether a text may be the name of a stored descriptor (or of a socket): 1 to 255 printable ASCII
/// characters without `:`.
pub fn is_fd_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_FD_NAME
        && text.bytes().all(|b| (b.is_ascii_graphic() || b == b' ') && b != b':')
}

/// The datagram that says `pairs`: what aeternad sends to its own supervisor.
///
/// A newline in a value becomes a space and a NUL is left out, so that a value can never say another key.
pub fn message(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (key, value) in pairs {
        text.push_str(key);
        text.push('=');
        text.extend(value.chars().filter(|c| *c != '\0').map(|c| if c == '\n' { ' ' } else { c }));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn says(text: &str) -> Notification {
        parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn every_key_is_understood() {
        let all = says(
            "READY=1\nRELOADING=1\nSTOPPING=1\nSTATUS=busy: 3 = 1+2\nERRNO=2\nEXIT_STATUS=7\nMAINPID=42\n\
             WATCHDOG=1\nWATCHDOG_USEC=1000\nEXTEND_TIMEOUT_USEC=2000\nFDSTORE=1\nFDSTOREREMOVE=1\n\
             FDNAME=cache\nFDPOLL=0\nBARRIER=1\nMONOTONIC_USEC=18446744073709551615\n",
        );
        let expected = Notification {
            ready: true,
            reloading: true,
            stopping: true,
            status: Some("busy: 3 = 1+2".into()),
            errno: Some(2),
            exit_status: Some(7),
            main_pid: Some(42),
            watchdog: true,
            watchdog_trigger: false,
            watchdog_usec: Some(1000),
            extend_timeout_usec: Some(2000),
            fd_store: true,
            fd_store_remove: true,
            fd_name: Some("cache".into()),
            fd_poll: false,
            barrier: true,
            monotonic_usec: Some(u64::MAX),
        };
        assert_eq!(all, expected);
        assert!(says("WATCHDOG=trigger").watchdog_trigger);
        assert!(!says("WATCHDOG=trigger").watchdog);
    }

    #[test]
    fn what_says_nothing_is_the_default() {
        for text in
            ["", "\n\n", "READY", "X_ME_READY=1", "READY=yes", "READY= 1", "ready=1", "=1", "FOO=1\nBAR"]
        {
            assert_eq!(says(text), Notification::default(), "{text:?}");
        }
        assert!(Notification::default().fd_poll);
    }

    #[test]
    fn the_last_value_counts() {
        assert!(!says("READY=1\nREADY=0").ready);
        assert_eq!(says("STATUS=a\nSTATUS=b").status.as_deref(), Some("b"));
        assert_eq!(says("MAINPID=5\nMAINPID=6").main_pid, Some(6));
        assert!(says("FDPOLL=0\nFDPOLL=1").fd_poll);
        assert_eq!(says("STATUS=a\nSTATUS=").status.as_deref(), Some(""), "an empty STATUS clears it");
    }

    #[test]
    fn a_senseless_value_is_as_if_its_line_were_not_there() {
        for text in [
            "MAINPID=0",
            "MAINPID=-1",
            "MAINPID=",
            "MAINPID=4294967297",
            "ERRNO=-1",
            "ERRNO=4096",
            "EXIT_STATUS=256",
            "WATCHDOG_USEC=1s",
            "WATCHDOG_USEC=18446744073709551616",
            "EXTEND_TIMEOUT_USEC=-5",
            "FDNAME=",
            "FDNAME=a:b",
            "FDNAME=a\tb",
            "FDNAME=größe",
        ] {
            assert_eq!(says(text), Notification::default(), "{text:?}");
        }
        assert_eq!(says(&format!("FDNAME={}", "x".repeat(256))).fd_name, None);
        assert_eq!(says(&format!("FDNAME={}", "x".repeat(255))).fd_name, Some("x".repeat(255)));
        assert_eq!(says("MAINPID=5\nMAINPID=x").main_pid, Some(5));
    }

    #[test]
    fn a_trailing_nul_is_allowed_and_any_other_is_not() {
        assert!(parse(b"READY=1\0").unwrap().ready);
        assert!(parse(b"READY=1\n\0").unwrap().ready);
        assert_eq!(parse(b"READY=1\0\0"), Err(NotifyError::EmbeddedNul));
        assert_eq!(parse(b"STATUS=a\0b\nREADY=1"), Err(NotifyError::EmbeddedNul));
    }

    #[test]
    fn what_is_no_text_or_too_long_is_refused() {
        assert_eq!(parse(b"STATUS=\xff\nREADY=1"), Err(NotifyError::NotUtf8));
        assert_eq!(parse(&vec![b'x'; MAX_DATAGRAM + 1]), Err(NotifyError::TooLong));
        assert!(parse(&vec![b'x'; MAX_DATAGRAM]).is_ok());
    }

    #[test]
    fn a_long_status_is_cut_between_characters() {
        let text = says(&format!("STATUS=a{}", "é".repeat(MAX_STATUS))).status.unwrap();
        assert_eq!(text.len(), MAX_STATUS - 1 + "…".len());
        assert!(text.ends_with("é…"));
        let text = says("STATUS=ok\r\u{1b}[2Jroot\u{202e}#").status;
        assert_eq!(text.as_deref(), Some("ok\\r\\u{1b}[2Jroot\\u{202e}#"));
    }

    #[test]
    fn a_value_cannot_say_another_key() {
        assert_eq!(message(&[("READY", "1"), ("STATUS", "2 units")]), "READY=1\nSTATUS=2 units\n");
        assert_eq!(message(&[("STATUS", "a\nSTOPPING=1\0")]), "STATUS=a STOPPING=1\n");
    }

    proptest! {
        #[test]
        fn no_datagram_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn no_lines_make_it_panic(text in "((READY|STATUS|ERRNO|MAINPID|WATCHDOG_USEC|FDNAME|X_A)=.{0,12}\n){0,9}") {
            let _ = parse(text.as_bytes());
        }

        #[test]
        fn what_is_sent_is_what_is_read(status in "[^\n\0]{0,80}") {
            let sent = message(&[("STATUS", status.as_str()), ("READY", "1")]);
            let read = parse(sent.as_bytes()).unwrap();
            prop_assert_eq!(read.status, Some(harmless(&status, MAX_STATUS)));
            prop_assert!(read.ready);
        }
    }
}
