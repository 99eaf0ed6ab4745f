//! The unit that most tests of reloads use: the probe as `app`, which reads its orders from `DIR/probe` at each
//! start, so that a test can make the next generation behave badly.

use super::http::Client;
use super::{Env, Finished};
use aeterna::proto::control::Request;
use aeterna::proto::status::{LastReload, UnitState};

/// What differs from test to test: lines of each table. Later lines of a key don't replace the defaults, so the
/// defaults are few.
#[derive(Debug, Clone, Copy)]
pub struct App<'a> {
    /// `[Socket]`.
    pub socket: &'a str,
    /// `[Service]`, without `ExecStart` and `Environment`.
    pub service: &'a str,
    /// `[Reload]`.
    pub reload: &'a str,
    /// More tables.
    pub more: &'a str,
}

/// One TCP socket, `Type = "notify"`, a soak that is over at once, a drain of 10 s.
pub const APP: App<'static> = App {
    socket: "ListenStream = \"127.0.0.1:0\"\nFileDescriptorName = \"http\"",
    service: "Type = \"notify\"",
    reload: "SoakTime = \"50ms\"\nDrainTimeout = \"10s\"",
    more: "",
};

/// A soak that only a command ends.
pub const LONG_SOAK: &str = "SoakTime = \"infinity\"\nDrainTimeout = \"10s\"";

impl App<'_> {
    /// Writes the unit.
    pub fn write(&self, env: &Env) {
        let App { socket, service, reload, more } = self;
        env.unit(
            "app",
            &format!(
                "[Socket]\n{socket}\n[Service]\nExecStart = \"{{probe}} orders={{dir}}/orders-%g.sock\"\n\
                 Environment = {{ PROBE_FILE = \"{{dir}}/probe\" }}\n{service}\n[Reload]\n{reload}\n{more}\n"
            )
            // The probe fills in its own `%g`; systemd's `%%` is a percent sign.
            .replace("%g", "%%g"),
        );
    }

    /// Writes the unit, starts aeternad, and waits until it runs.
    pub fn start(&self) -> Env {
        let mut env = Env::new();
        self.write(&env);
        env.start();
        env.wait_state("app", UnitState::Running);
        env
    }
}

/// A service hands its state over in two reloads, each after something has happened to aeternad.
pub fn state_is_handed_over_after_each(mut happens: impl FnMut(&mut Env)) {
    let mut env = Env::new();
    let program = super::repository().join("tests/srp/service.py");
    env.unit(
        "app",
        &format!(
            "[Service]\nExecStart = [\"python3\", \"{}\", \"{{dir}}\"]\nType = \"notify\"\nTimeoutStartSec = \"1min\"\n\
             [Reload]\nSoakTime = \"100ms\"\nDrainTimeout = \"10s\"\n[State]\nEnabled = true\nTimeout = \"1min\"\n",
            program.display()
        ),
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    for generation in 2..=3 {
        happens(&mut env);
        assert_eq!(env.ctl(&["reload", "app"]).code, 0);
        let unit = env.wait_state("app", UnitState::Running);
        assert_eq!((unit.generation, unit.last_handover.unwrap().status.as_str()), (generation, "success"));
    }
}

impl Env {
    /// What the next start of the probe does.
    pub fn next_start(&self, orders: &str) {
        self.file("probe", &self.fill(orders));
    }

    /// `aeternactl reload app`, to its end.
    pub fn reload(&self) -> Finished {
        self.ctl(&["reload", "app"])
    }

    /// A reload that must be promoted.
    pub fn reload_well(&self) {
        let done = self.reload();
        if done.code != 0 {
            self.fail(&format!("the reload ended with {done:?}"));
        }
    }

    /// Begins a reload and waits for nothing.
    pub fn begin_reload(&self) {
        let request = Request::Reload {
            units: vec!["app".into()],
            all: false,
            wait: false,
            force: false,
            reason: String::new(),
        };
        self.request(&request);
    }

    /// Begins a reload and waits until the unit is in `state`.
    pub fn reload_until(&self, state: UnitState) {
        self.begin_reload();
        self.wait_state("app", state);
    }

    /// How the last reload of `app` ended.
    pub fn last_reload(&self) -> LastReload {
        self.unit_status("app").last_reload.unwrap_or_else(|| self.fail("there has been no reload"))
    }

    /// An order to one generation of `app`, whoever gets the connections of its socket.
    pub fn order(&self, generation: u32, path: &str) -> String {
        let socket = self.path(&format!("orders-{generation}.sock")).display().to_string();
        self.wait(&format!("generation {generation} takes {path}"), || {
            super::http::get(&socket, path).ok().map(|answer| answer.body)
        })
    }

    /// A kept connection to one generation of `app` for orders: it outlives the accepting.
    pub fn orders(&self, generation: u32) -> Client {
        let socket = self.path(&format!("orders-{generation}.sock")).display().to_string();
        self.wait(&format!("generation {generation} takes orders"), || {
            let mut client = Client::connect(&socket).ok()?;
            client.get("/fds").ok().map(|_| client)
        })
    }

    /// Which generation answers a new connection.
    pub fn answers(&self) -> u64 {
        let answer = self.json("app", "/");
        answer["generation"].as_u64().unwrap_or_else(|| self.fail(&format!("no generation in {answer}")))
    }

    /// A connection that a generation of `app` keeps until it is dropped, and that generation.
    pub fn hold(&self) -> (Client, u64) {
        let mut client = Client::connect(&self.address("app", 0)).unwrap();
        client.send("/hold", "").unwrap();
        while !client.line().unwrap().is_empty() {}
        let line = client.line().unwrap();
        let generation = line.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap();
        (client, generation)
    }

    /// The states that `app` came into since `mark`.
    pub fn states_since(&self, mark: usize) -> Vec<UnitState> {
        self.events_since(mark).into_iter().filter(|e| e.unit == "app").filter_map(|e| e.state).collect()
    }

    /// The living generations of `app` with their phases.
    pub fn generations(&self) -> Vec<(u32, String)> {
        self.unit_status("app").generations.into_iter().map(|g| (g.number, g.phase)).collect()
    }
}
