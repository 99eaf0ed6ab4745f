//! `-H HOST`: the same command on another machine, by ssh(1).

use super::failure::Failure;
use crate::error::exit;
use std::ffi::OsString;
use std::io::{IsTerminal, stdin, stdout};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

/// What ssh says of itself.
const NOT_REACHED: i32 = 255;
/// What a shell says of a program that it does not find.
const NOT_THERE: i32 = 127;

/// Runs `aeternactl` with these words there. The exit status is the one that it has there.
pub(super) fn run(host: &str, words: &[OsString]) -> Result<u8, Failure> {
    let person = stdin().is_terminal() && stdout().is_terminal();
    let mut ssh = Command::new("ssh");
    if person {
        ssh.arg("-t");
    } else {
        // Whatever else reads from our standard input is not to lose it to ssh.
        ssh.arg("-T").stdin(Stdio::null());
    }
    if words.iter().any(|word| word == "completions") {
        // Nobody is asked for a password in the middle of a word.
        ssh.args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=2"]);
    }
    ssh.args(["--", host]).arg(line(words, std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty())));
    let status = ssh.status().map_err(|error| {
        Failure::Broken(format!("cannot start ssh: {error}.\nIt is in Debian's package openssh-client."))
    })?;
    match status.code() {
        Some(NOT_REACHED) => Err(Failure::NoDaemon(format!("{host} could not be asked: ssh says why"))),
        Some(NOT_THERE) => Err(Failure::NoDaemon(format!("there is no aeternactl in the PATH of {host}"))),
        Some(code) => Ok(u8::try_from(code).unwrap_or(exit::FAILURE)),
        None => Ok(128 + u8::try_from(status.signal().unwrap_or(0)).unwrap_or(0)),
    }
}

/// The line for the shell there: a word stays a word.
fn line(words: &[OsString], no_colour: bool) -> OsString {
    let mut line = OsString::from(if no_colour { "NO_COLOR=1 aeternactl" } else { "aeternactl" });
    for word in words {
        line.push(" ");
        line.push(quoted(word));
    }
    line
}

fn quoted(word: &OsString) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_=./:@%+,".contains(byte);
    let bytes = word.as_bytes();
    if !bytes.is_empty() && bytes.iter().all(plain) {
        return word.clone();
    }
    let mut text = vec![b'\''];
    for byte in bytes {
        match byte {
            b'\'' => text.extend_from_slice(b"'\\''"),
            byte => text.push(*byte),
        }
    }
    text.push(b'\'');
    OsString::from_vec(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_a_word_on_the_other_machine() {
        let words = ["reload", "--reason=it's $(new); \"x\"", "--", "chat", ""].map(OsString::from);
        assert_eq!(line(&words, false), r#"aeternactl reload '--reason=it'\''s $(new); "x"' -- chat ''"#);
        assert_eq!(line(&words[..1], true), "NO_COLOR=1 aeternactl reload");
    }
}
