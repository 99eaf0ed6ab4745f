//! The rules of the game between the machine and the shell, as `src/machine/event.rs` writes them down and the
//! simulation plays them, looked for in the log of a daemon that runs.

use crate::common;
use aeterna::proto::status::UnitState;
use common::Env;
use common::app::{APP, App};
use std::collections::{BTreeMap, BTreeSet};

/// What one unit's machine was told, and what it wanted, in the order in which it happened.
#[derive(Default)]
struct Played {
    events: Vec<String>,
    /// Tickets and processes that are not answered yet.
    asked: BTreeSet<String>,
    unborn: BTreeSet<String>,
    born: BTreeSet<String>,
    /// Requests: how often answered.
    replies: BTreeMap<String, u32>,
    /// A reply of the turn has come.
    replied: bool,
}

/// The first `Name(number)` in a line: `Ticket(3)`.
fn named(line: &str, name: &str) -> Option<String> {
    let at = line.find(&format!("{name}("))?;
    let end = line[at..].find(')')?;
    Some(line[at..=at + end].to_owned())
}

impl Played {
    fn event(&mut self, event: &str) {
        self.replied = false;
        let proc = named(event, "Proc").unwrap_or_default();
        if event.starts_with("Answered") {
            let ticket = named(event, "Ticket").unwrap();
            assert!(self.asked.remove(&ticket), "{ticket} was not asked, or is answered twice: {event}");
        } else if event.starts_with("Spawned") || event.starts_with("SpawnFailed") {
            assert!(self.unborn.remove(&proc), "nobody wanted {proc}: {event}");
            self.born.insert(proc);
        } else if event.starts_with("Exited") {
            assert!(self.born.remove(&proc), "{proc} ends before it exists, or twice: {event}");
        } else if event.starts_with("Command")
            && let Some(req) = named(event, "Req")
        {
            self.replies.insert(req, 0);
        } else if event.starts_with("Boot") {
            let before = self.events.iter().any(|event| event.starts_with("Sockets"));
            assert!(before, "Sockets does not come before Boot: {:?}", self.events);
        }
        self.events.push(event.to_owned());
    }

    fn action(&mut self, action: &str) {
        let is_reply = action.starts_with("Reply");
        assert!(is_reply || !self.replied, "something follows a reply: {action}");
        if action.starts_with("Ask") {
            let ticket = named(action, "Ticket").unwrap();
            assert!(self.asked.insert(ticket), "a ticket is used twice: {action}");
        } else if action.starts_with("Spawn") {
            self.unborn.insert(named(action, "Proc").unwrap());
        } else if is_reply {
            let req = named(action, "Req").unwrap();
            *self.replies.get_mut(&req).unwrap_or_else(|| panic!("nobody asked: {action}")) += 1;
            self.replied = true;
        }
    }
}

#[test]
fn a_daemon_keeps_the_rules_that_the_simulation_plays() {
    let mut env = Env::new();
    env.arguments(&["--log-level", "debug"]);
    App { reload: "SoakTime = \"100ms\"", ..APP }.write(&env);
    env.start();
    env.wait_state("app", UnitState::Running);
    for orders in ["", "exit=7"] {
        env.next_start(orders);
        let _ = env.reload();
        env.wait_unit("app", "one generation", |u| u.generations.len() == 1);
    }
    // The next one starts again: without a service this aeternad would end.
    env.next_start("");
    for command in [&["restart", "app"][..], &["rollback", "app"], &["stop", "app"]] {
        let _ = env.ctl(command);
    }
    env.wait_state("app", UnitState::Stopped);
    let log = env.log();
    let mut played = Played::default();
    for line in log.lines() {
        if let Some((_, event)) = line.split_once("app: event ") {
            played.event(event);
        } else if let Some((_, action)) = line.split_once("app: action ") {
            played.action(action);
        }
    }
    assert!(played.events.len() > 20, "no events in the log:\n{log}");
    assert!(
        played.replies.len() >= 5 && played.replies.values().all(|count| *count == 1),
        "{:?}",
        played.replies
    );
    let nothing = (played.asked.is_empty(), played.unborn.is_empty(), played.born.is_empty());
    assert_eq!(nothing, (true, true, true), "{:?} {:?} {:?}", played.asked, played.unborn, played.born);
}
