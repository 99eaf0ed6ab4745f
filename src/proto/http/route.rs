//! Which request means what.

use crate::proto::control::one_line;
use crate::proto::harmless::{LONGEST, harmless};
use crate::proto::http::request::{Head, Method};
use crate::proto::http::response::Response;
use crate::proto::nearest::nearest;
use serde::Deserialize;

/// The most events of the past that a new follower gets.
pub const MAX_RECENT: usize = 200;

/// What is asked of aeternad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `GET /metrics`.
    Metrics,
    /// `GET /health`.
    Health,
    /// `GET /ready`.
    Ready,
    /// `GET /v1/status`.
    Status,
    /// `GET /v1/units/NAME`.
    Unit(String),
    /// `GET /v1/units/NAME/history`.
    History(String),
    /// `GET /v1/units/NAME/logs`: what the unit has written last.
    Logs {
        /// Which.
        unit: String,
        /// Of this generation only.
        generation: Option<u32>,
        /// The last so many.
        lines: usize,
    },
    /// `GET /v1/events`: server-sent events.
    Events {
        /// Of this unit only.
        unit: Option<String>,
        /// So many of the past first.
        recent: usize,
    },
    /// `POST /v1/reload`, `POST /v1/units/NAME/reload`.
    Reload {
        /// Which; all without.
        unit: Option<String>,
        /// For the history; one line, may be empty.
        reason: String,
        /// First abandon what is under way.
        force: bool,
    },
    /// `POST /v1/units/NAME/start`.
    Start(String),
    /// `POST /v1/units/NAME/stop`; its sockets stay.
    Stop(String),
    /// `POST /v1/units/NAME/promote`.
    Promote(String),
    /// `POST /v1/units/NAME/rollback`.
    Rollback {
        /// Which.
        unit: String,
        /// To what this generation ran.
        to: Option<u32>,
    },
    /// `GET /`.
    Page,
}

/// A path that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Metrics,
    Health,
    Ready,
    Status,
    Unit(String),
    History(String),
    Logs(String),
    Events,
    Reload,
    UnitAction(String, Action),
    Page,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Reload,
    Start,
    Stop,
    Promote,
    Rollback,
}

/// What the body of a POST may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    #[serde(default)]
    unit: Option<String>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    force: bool,
    #[serde(default)]
    to: Option<u32>,
}

/// Whether there is such a path, and whether it takes this method: to be asked before the body is read.
///
/// # Errors
/// 404, 405, and 400 for a name that is not one.
pub fn check(head: &Head) -> Result<(), Response> {
    let place = place(&head.path)?;
    let (allow, taken) = match place {
        Place::Reload | Place::UnitAction(..) => ("POST", head.method == Method::Post),
        _ => ("GET, HEAD", matches!(head.method, Method::Get | Method::Head)),
    };
    if taken { Ok(()) } else { Err(Response::wrong_method(&head.path, allow)) }
}

/// Whether only those may ask who may give orders: what services write is not for everybody who can look.
pub fn is_guarded(head: &Head) -> bool {
    head.method == Method::Post || matches!(place(&head.path), Ok(Place::Logs(_)))
}

/// What the request means.
///
/// # Errors
/// As [`check`], and 400 for a body that is not understood.
pub fn route(head: &Head, body: &[u8]) -> Result<Call, Response> {
    check(head)?;
    Ok(match place(&head.path)? {
        Place::Metrics => Call::Metrics,
        Place::Health => Call::Health,
        Place::Ready => Call::Ready,
        Place::Status => Call::Status,
        Place::Unit(name) => Call::Unit(name),
        Place::History(name) => Call::History(name),
        Place::Logs(name) => logs(head, name)?,
        Place::Events => events(head)?,
        Place::Page => Call::Page,
        Place::Reload => reload(order(body)?)?,
        Place::UnitAction(name, action) => {
            let order = order(body)?;
            if order.unit.as_ref().is_some_and(|unit| *unit != name) {
                return Err(Response::error(400, "path and body name two units", "leave \"unit\" out"));
            }
            match action {
                Action::Reload => reload(Order { unit: Some(name), ..order })?,
                Action::Start | Action::Stop | Action::Promote | Action::Rollback if order.force => {
                    return Err(Response::error(400, "only a reload can be forced", "leave \"force\" out"));
                }
                Action::Start | Action::Stop | Action::Promote if order.to.is_some() => {
                    return Err(only_a_rollback());
                }
                Action::Start => Call::Start(name),
                Action::Stop => Call::Stop(name),
                Action::Promote => Call::Promote(name),
                Action::Rollback => Call::Rollback { unit: name, to: order.to },
            }
        }
    })
}

fn reload(order: Order) -> Result<Call, Response> {
    if order.to.is_some() {
        return Err(only_a_rollback());
    }
    let reason = one_line(&order.reason.unwrap_or_default());
    Ok(Call::Reload { unit: order.unit, reason, force: order.force })
}

fn only_a_rollback() -> Response {
    Response::error(400, "only a rollback leads to a generation", "leave \"to\" out")
}

/// No body is an empty order.
fn order(body: &[u8]) -> Result<Order, Response> {
    let bad = |why: &str| {
        let hint = "send JSON as {\"unit\": \"NAME\", \"reason\": \"why\", \"force\": false}, or no body";
        Response::error(400, &format!("cannot understand the body: {why}"), hint)
    };
    match body.trim_ascii().first() {
        None => Ok(Order::default()),
        Some(b'{') => {
            serde_json::from_slice(body).map_err(|error| bad(&harmless(&error.to_string(), LONGEST)))
        }
        // An array would be taken for the fields in their order.
        Some(_) => Err(bad("it is not a JSON object")),
    }
}

/// The most lines that are sent: as many as are kept.
const MAX_LINES: usize = 1000;

fn logs(head: &Head, unit: String) -> Result<Call, Response> {
    let (mut generation, mut lines) = (None, MAX_LINES);
    for pair in head.query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let number = || {
            let text = format!("\"{key}\" is not a number");
            value.parse::<u32>().map_err(|_| Response::error(400, &text, "as in ?lines=50&generation=3"))
        };
        match key {
            "generation" => generation = Some(number()?),
            "lines" => lines = (number()? as usize).min(MAX_LINES),
            _ => {}
        }
    }
    Ok(Call::Logs { unit, generation, lines })
}

fn events(head: &Head) -> Result<Call, Response> {
    let (mut unit, mut recent) = (None, 0);
    for pair in head.query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("unit", value) => unit = Some(decoded(&value.replace('+', " "))?),
            ("recent", value) => {
                let number: usize = value.parse().map_err(|_| {
                    Response::error(400, "\"recent\" is not a number", "as in /v1/events?recent=50")
                })?;
                recent = number.min(MAX_RECENT);
            }
            _ => {}
        }
    }
    Ok(Call::Events { unit, recent })
}

fn place(path: &str) -> Result<Place, Response> {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    Ok(match parts.as_slice() {
        [""] => Place::Page,
        ["metrics"] => Place::Metrics,
        ["health"] => Place::Health,
        ["ready"] => Place::Ready,
        ["v1", "status"] => Place::Status,
        ["v1", "events"] => Place::Events,
        ["v1", "reload"] => Place::Reload,
        ["v1", "units", name] if !name.is_empty() => Place::Unit(decoded(name)?),
        ["v1", "units", name, "history"] if !name.is_empty() => Place::History(decoded(name)?),
        ["v1", "units", name, "logs"] if !name.is_empty() => Place::Logs(decoded(name)?),
        ["v1", "units", name, word] if !name.is_empty() => match action(word) {
            Some(action) => Place::UnitAction(decoded(name)?, action),
            None => return Err(unknown(path)),
        },
        _ => return Err(unknown(path)),
    })
}

fn action(word: &str) -> Option<Action> {
    match word {
        "reload" => Some(Action::Reload),
        "start" => Some(Action::Start),
        "stop" => Some(Action::Stop),
        "promote" => Some(Action::Promote),
        "rollback" => Some(Action::Rollback),
        _ => None,
    }
}

fn unknown(path: &str) -> Response {
    let known =
        ["/", "/metrics", "/health", "/ready", "/v1/status", "/v1/events", "/v1/reload", "/v1/units/NAME"];
    let hint = match nearest(path.trim_end_matches('/'), known) {
        Some(near) => format!("did you mean {near}?"),
        None => format!(
            "there are {}, and /v1/units/NAME/history, …/logs, …/reload, …/start, …/stop, …/promote, …/rollback",
            known.join(", ")
        ),
    };
    Response::error(404, "there is nothing at this path", &hint)
}

/// Undoes percent-encoding.
fn decoded(text: &str) -> Result<String, Response> {
    let bad = || Response::error(400, "a name in the URL is not percent-encoded UTF-8", "encode it as %XX");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
            let (Some(high), Some(low)) = (digit(), digit()) else { return Err(bad()) };
            bytes.push(u8::try_from(high * 16 + low).map_err(|_| bad())?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::control::MAX_REASON;
    use crate::proto::http::request::parse_head;
    use proptest::prelude::*;

    fn routed(method: &str, target: &str, body: &str) -> Result<Call, u16> {
        let text = format!("{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        let (head, _) = parse_head(text.as_bytes()).unwrap().unwrap();
        route(&head, body.as_bytes()).map_err(|response| response.status)
    }

    #[test]
    fn every_path_of_the_contract_means_what_it_says() {
        for (target, call) in [
            ("/", Call::Page),
            ("/?x", Call::Page),
            ("/metrics", Call::Metrics),
            ("/health", Call::Health),
            ("/ready", Call::Ready),
            ("/v1/status", Call::Status),
            ("/v1/units/chat", Call::Unit("chat".into())),
            ("/v1/units/a%20b%2Fc", Call::Unit("a b/c".into())),
            ("/v1/units/a%20b/history", Call::History("a b".into())),
            (
                "/v1/units/a/logs?lines=5&generation=3",
                Call::Logs { unit: "a".into(), generation: Some(3), lines: 5 },
            ),
            ("/v1/events", Call::Events { unit: None, recent: 0 }),
            (
                "/v1/events?unit=a+b&recent=999&z",
                Call::Events { unit: Some("a b".into()), recent: MAX_RECENT },
            ),
        ] {
            assert_eq!(routed("GET", target, ""), Ok(call.clone()), "{target}");
            assert_eq!(routed("HEAD", target, ""), Ok(call), "{target}");
            assert_eq!(routed("POST", target, ""), Err(405), "{target}");
        }
        assert_eq!(routed("POST", "/v1/units/chat/promote", ""), Ok(Call::Promote("chat".into())));
        assert_eq!(routed("POST", "/v1/units/chat/start", ""), Ok(Call::Start("chat".into())));
        assert_eq!(routed("POST", "/v1/units/chat/stop", ""), Ok(Call::Stop("chat".into())));
        assert_eq!(routed("POST", "/v1/units/chat/stop", r#"{"force":true}"#), Err(400));
        assert_eq!(routed("POST", "/v1/units/chat/start", r#"{"to":1}"#), Err(400));
        assert_eq!(routed("GET", "/v1/units/chat/logs?lines=x", ""), Err(400));
        let to = Call::Rollback { unit: "chat".into(), to: Some(4) };
        assert_eq!(routed("POST", "/v1/units/chat/rollback", "{\"to\": 4}"), Ok(to));
        for wrong in ["/v1/units/chat/reload", "/v1/units/chat/promote", "/v1/reload"] {
            assert_eq!(routed("POST", wrong, "{\"to\": 4}").unwrap_err(), 400, "{wrong}");
        }
        assert_eq!(
            routed("POST", "/v1/units/chat/rollback", "{}"),
            Ok(Call::Rollback { unit: "chat".into(), to: None })
        );
    }

    #[test]
    fn a_reload_takes_its_order_from_the_body() {
        let reload = |unit: Option<&str>, reason: &str, force| {
            Ok(Call::Reload { unit: unit.map(str::to_owned), reason: reason.into(), force })
        };
        assert_eq!(routed("POST", "/v1/reload", ""), reload(None, "", false));
        assert_eq!(routed("POST", "/v1/reload", " \n"), reload(None, "", false));
        assert_eq!(routed("POST", "/v1/reload", "{}"), reload(None, "", false));
        assert_eq!(routed("POST", "/v1/reload", r#"{"unit":null,"reason":"x"}"#), reload(None, "x", false));
        assert_eq!(
            routed("POST", "/v1/reload", r#"{"unit":"chat","reason":"a\nb ","force":true}"#),
            reload(Some("chat"), "a b", true)
        );
        assert_eq!(routed("POST", "/v1/units/chat/reload", ""), reload(Some("chat"), "", false));
        assert_eq!(routed("POST", "/v1/units/a/reload", r#"{"unit":"a"}"#), reload(Some("a"), "", false));
        for bad in ["x", "[]", r#"{"units":"a"}"#, r#"{"force":1}"#, "{", "\"\""] {
            assert_eq!(routed("POST", "/v1/reload", bad), Err(400), "{bad}");
        }
        for action in ["reload", "promote", "rollback"] {
            for bad in [r#"{"unit":"b"}"#, "x", r#"{"reasno":""}"#] {
                assert_eq!(routed("POST", &format!("/v1/units/a/{action}"), bad), Err(400), "{action} {bad}");
            }
        }
        let why = r#"{"unit":"a","reason":"it is slow"}"#;
        assert_eq!(
            routed("POST", "/v1/units/a/rollback", why),
            Ok(Call::Rollback { unit: "a".into(), to: None })
        );
        assert_eq!(routed("POST", "/v1/units/a/promote", r#"{"force":true}"#), Err(400));
        let long = format!("{{\"reason\":\"{}\"}}", "x".repeat(MAX_REASON + 9));
        let Ok(Call::Reload { reason, .. }) = routed("POST", "/v1/reload", &long) else { panic!() };
        assert_eq!(reason.len(), MAX_REASON);
    }

    #[test]
    fn another_method_is_told_which_there_is() {
        let (head, _) = parse_head(b"DELETE /v1/reload HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().unwrap();
        let response = check(&head).unwrap_err();
        assert_eq!(response.status, 405);
        assert!(response.fields.contains(&("Allow", "POST".into())), "{response:?}");
        let (head, _) = parse_head(b"POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().unwrap();
        assert!(check(&head).unwrap_err().fields.contains(&("Allow", "GET, HEAD".into())));
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        for target in [
            "/metric",
            "//",
            "/v1",
            "/v1/units",
            "/v1/units/",
            "/v1/units/a/halt",
            "/v1/units/a/reload/x",
            "/v1/status/",
            "/..",
            "/v1/units//reload",
        ] {
            assert_eq!(routed("GET", target, ""), Err(404), "{target}");
        }
        assert_eq!(routed("GET", "/v1/units/%zz", ""), Err(400));
        assert_eq!(routed("GET", "/v1/units/%ff", ""), Err(400));
        assert_eq!(routed("GET", "/v1/events?recent=x", ""), Err(400));
    }

    proptest! {
        #[test]
        fn no_path_and_no_body_make_it_panic(path in "/[!-~]{0,60}", body in "\\PC{0,80}") {
            let _ = routed("GET", &path, "");
            let _ = routed("POST", "/v1/reload", &body);
        }
    }
}
