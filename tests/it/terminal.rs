//! A person at a terminal: what aeternad is the first process of has the terminal for itself.

use crate::common;
use common::{AETERNAD, Env, process};
use nix::pty::{OpenptyResult, openpty};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::mpsc;

/// A terminal, and what was written to it.
pub(crate) struct Terminal {
    keyboard: File,
    slave: OwnedFd,
    pieces: mpsc::Receiver<Vec<u8>>,
    text: String,
}

impl Terminal {
    pub(crate) fn new() -> Terminal {
        let OpenptyResult { master, slave } = openpty(None, None).unwrap();
        let keyboard = File::from(master);
        let mut screen = keyboard.try_clone().unwrap();
        let (sender, pieces) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            // EIO when nobody has the other end any more.
            while let Ok(count @ 1..) = screen.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal { keyboard, slave, pieces, text: String::new() }
    }

    /// Gives it another size.
    pub(crate) fn resize(&self, env: &Env, rows: u16, columns: u16) {
        let name = nix::unistd::ttyname(self.slave.as_fd()).unwrap();
        let mut command = env.command("stty");
        command.arg("-F").arg(name).args(["rows", &rows.to_string(), "cols", &columns.to_string()]);
        assert_eq!(env.finish(command).code, 0);
    }

    /// Waits until this has been written since the last time that something was waited for here.
    pub(crate) fn sees(&mut self, what: &str) {
        loop {
            if let Some(at) = self.text.find(what) {
                self.text.drain(..at + what.len());
                return;
            }
            match self.pieces.recv_timeout(common::WAIT) {
                Ok(piece) => self.text.push_str(&String::from_utf8_lossy(&piece)),
                Err(_) => panic!("{what:?} is not on the screen:\n{:?}", self.text),
            }
        }
    }

    /// Whether keys wait for the end of their line and are shown, as a shell leaves it.
    pub(crate) fn is_as_before(&self) -> bool {
        use nix::sys::termios::{LocalFlags, tcgetattr};
        let now = tcgetattr(self.slave.as_fd()).unwrap().local_flags;
        now.contains(LocalFlags::ICANON | LocalFlags::ECHO)
    }

    /// A command with the terminal as its streams.
    pub(crate) fn attach(&self, command: &mut Command) {
        command.stdin(self.slave.try_clone().unwrap());
        command.stdout(self.slave.try_clone().unwrap());
        command.stderr(self.slave.try_clone().unwrap());
    }

    pub(crate) fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until this is on the screen; the rest of its line.
    pub(crate) fn shows(&mut self, what: &str) -> String {
        loop {
            if let Some(at) = self.text.find(what)
                && let Some(length) = self.text[at..].find('\n')
            {
                return self.text[at + what.len()..at + length].trim().to_owned();
            }
            match self.pieces.recv_timeout(common::WAIT) {
                Ok(piece) => self.text.push_str(&String::from_utf8_lossy(&piece)),
                Err(_) => panic!("{what:?} is not on the screen:\n{}", self.text),
            }
        }
    }
}

/// A program that tells what it has of its terminal, and what reaches it.
const PROGRAM: &str = "trap 'echo interrupted; exit 7' INT; trap 'echo resized' WINCH; \
    set -- $(sed 's/.*) //' /proc/$$/stat); echo session=$4 group=$6 self=$$; \
    while :; do read line && echo read=$line; done";

/// aeternad with an inline command, by a command that ends in its program.
fn start(env: &mut Env, terminal: &Terminal, mut command: Command) {
    command.arg("--runtime-dir").arg(env.runtime_dir());
    command.args(["--log-level", "error", "--", "/bin/sh", "-c", PROGRAM]);
    terminal.attach(&mut command);
    env.adopt(command.spawn().unwrap());
}

fn works_in(env: &mut Env, mut terminal: Terminal) {
    let line = terminal.shows("session=");
    let numbers: Vec<&str> = line.split([' ', '=']).filter(|word| word.parse::<i32>().is_ok()).collect();
    let [session, group, own] = numbers[..] else { panic!("{line}") };
    assert_eq!((session, group), (own, own), "the session is its own and so is the terminal: {line}");
    terminal.types("hello\n");
    assert_eq!(terminal.shows("read="), "hello");
    resize(env, &terminal);
    terminal.shows("resized");
    terminal.types("\x03");
    terminal.shows("interrupted");
    assert_eq!(process::code(env.wait_exit()), 7);
}

fn resize(env: &Env, terminal: &Terminal) {
    terminal.resize(env, 51, 99);
}

#[test]
fn an_inline_command_of_a_session_leader_has_the_terminal_for_itself() {
    let mut env = Env::new();
    let terminal = Terminal::new();
    // As a container's first process: a session, whose terminal it is.
    let mut command = env.command("setsid");
    command.args(["--ctty", "--wait", AETERNAD]);
    start(&mut env, &terminal, command);
    works_in(&mut env, terminal);
}

#[test]
fn an_inline_command_gets_a_terminal_that_is_nobodys() {
    let mut env = Env::new();
    let terminal = Terminal::new();
    let command = env.command(AETERNAD);
    start(&mut env, &terminal, command);
    works_in(&mut env, terminal);
}

#[test]
fn a_terminal_that_is_a_shells_stays_the_shells() {
    let mut env = Env::new();
    let mut terminal = Terminal::new();
    let mut command = env.command("setsid");
    let script = "trap : INT; \"$@\"; echo status=$?; read line; echo shell=$line";
    command.args(["--ctty", "--wait", "sh", "-c", script, "sh", AETERNAD]);
    start(&mut env, &terminal, command);
    terminal.shows("session=");
    resize(&env, &terminal);
    terminal.shows("resized");
    // To aeternad, which stops; the shell goes on.
    terminal.types("\x03");
    terminal.shows("status=");
    terminal.types("still here\n");
    assert_eq!(terminal.shows("shell="), "still here");
    env.wait_exit();
}
