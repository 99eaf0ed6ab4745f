//! What aeternad's HTTP server answers, as a value and as bytes.

use serde::Serialize;

/// What may be loaded by whatever shows an answer: nothing. The page replaces it by its own.
const NO_CONTENT: &str = "default-src 'none'; frame-ancestors 'none'";

/// An answer. `Content-Length`, `Connection` and what protects a browser are added when it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// 200, 202, 400, 401, 403, 404, 405, 409, 413, 503.
    pub status: u16,
    /// Fields of this answer, `Content-Type` among them.
    pub fields: Vec<(&'static str, String)>,
    /// The content.
    pub body: Vec<u8>,
}

/// Whether the connection can be used again after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// The next request may come.
    KeepAlive,
    /// It is closed.
    Close,
}

/// Whether the content is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Head and content.
    Sent,
    /// The head only: the answer to HEAD.
    LeftOut,
}

#[derive(Serialize)]
struct Problem<'a> {
    error: &'a str,
    hint: &'a str,
}

impl Response {
    /// `text` as `content_type`, with status 200.
    pub fn ok(content_type: &str, text: impl Into<Vec<u8>>) -> Response {
        Response { status: 200, fields: vec![("Content-Type", content_type.into())], body: text.into() }
    }

    /// A value as JSON, with a newline at its end.
    pub fn json<T: Serialize>(status: u16, value: &T) -> Response {
        let fields = vec![("Content-Type", "application/json".to_owned())];
        match serde_json::to_vec(value) {
            Ok(mut body) => {
                body.push(b'\n');
                Response { status, fields, body }
            }
            Err(error) => Response::error(503, &format!("cannot write the answer: {error}"), "report this"),
        }
    }

    /// `{"error","hint"}`: what is wrong, and what to do about it.
    pub fn error(status: u16, error: &str, hint: &str) -> Response {
        Response::json(status, &Problem { error, hint })
    }

    /// 200 or, while it is not so, 503, for whoever looks at the status only.
    pub fn check(good: bool, yes: &str, no: &str, hint: &str) -> Response {
        if good {
            Response::ok("text/plain; charset=utf-8", format!("{yes}\n"))
        } else {
            Response::error(503, no, hint)
        }
    }

    /// 202: it has begun; `location` is where its progress shows.
    pub fn accepted(location: &str, note: &str) -> Response {
        Response::json(202, &serde_json::json!({ "accepted": true, "note": note, "location": location }))
            .with("Location", location.to_owned())
    }

    /// 409: another reload is under way, or the unit is in no state for this; nothing was started.
    pub fn busy(error: &str) -> Response {
        let hint =
            "GET /v1/events tells when it is over; \"force\": true abandons a reload that is under way";
        Response::error(409, error, hint)
    }

    /// 409: it was asked for at the wrong time; nothing has changed.
    pub fn conflict(error: &str) -> Response {
        Response::error(409, error, "GET /v1/status shows the state of every unit")
    }

    /// 404: no unit has this name.
    pub fn no_such_unit(name: &str, known: &[&str]) -> Response {
        let near = crate::proto::nearest::nearest(name, known.iter().copied());
        let hint = match near {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => "GET /v1/status lists the units".to_owned(),
        };
        let short: String = name.chars().take(80).collect();
        Response::error(404, &format!("no unit is called {short:?}"), &hint)
    }

    /// 405 with its `Allow`.
    pub fn wrong_method(path: &str, allow: &'static str) -> Response {
        let hint = format!("{path} is for {allow}");
        Response::error(405, "this method does nothing here", &hint).with("Allow", allow.to_owned())
    }

    /// 503: not now.
    pub fn unavailable(error: &str, hint: &str) -> Response {
        Response::error(503, error, hint).with("Retry-After", "1".to_owned())
    }

    /// The same with one more field.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: String) -> Response {
        self.fields.push((name, value));
        self
    }

    /// As it goes over the wire.
    pub fn to_bytes(&self, after: After, content: Content) -> Vec<u8> {
        let mut bytes = head(self.status, &self.fields);
        let end = match after {
            After::KeepAlive => "",
            After::Close => "Connection: close\r\n",
        };
        bytes.extend_from_slice(format!("Content-Length: {}\r\n{end}\r\n", self.body.len()).as_bytes());
        if content == Content::Sent {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// The head of a stream of server-sent events. It has no length: the connection's end is its end.
pub fn event_stream_head() -> Vec<u8> {
    let mut bytes = head(200, &[("Content-Type", "text/event-stream".to_owned())]);
    bytes.extend_from_slice(b"Connection: close\r\n\r\n");
    bytes
}

/// The interim answer for a client that waits before it sends its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

fn head(status: u16, fields: &[(&'static str, String)]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} {}\r\nServer: aeternad\r\n", reason(status));
    text.push_str(
        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n",
    );
    if !fields.iter().any(|(name, _)| *name == "Content-Security-Policy") {
        text.push_str(&format!("Content-Security-Policy: {NO_CONTENT}\r\n"));
    }
    for (name, value) in fields {
        // A unit's name may hold anything; a line break in a field would begin another one.
        let value: String = value.chars().filter(|c| !c.is_control()).collect();
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.into_bytes()
}

const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        413 => "Content Too Large",
        _ => "Service Unavailable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(response: &Response, after: After, content: Content) -> String {
        String::from_utf8(response.to_bytes(after, content)).unwrap()
    }

    #[test]
    fn an_answer_is_a_whole_http_response() {
        let whole = text(&Response::ok("text/plain", "hello"), After::KeepAlive, Content::Sent);
        assert!(whole.starts_with("HTTP/1.1 200 OK\r\n"), "{whole}");
        assert!(whole.contains("\r\nContent-Length: 5\r\n\r\nhello"), "{whole}");
        assert!(!whole.contains("Connection:"), "{whole}");
        let mut fields = [httparse::EMPTY_HEADER; 16];
        assert!(httparse::Response::new(&mut fields).parse(whole.as_bytes()).unwrap().is_complete());
    }

    #[test]
    fn the_answer_to_head_has_the_length_and_nothing_else() {
        let head = text(&Response::ok("text/plain", "hello"), After::Close, Content::LeftOut);
        assert!(head.ends_with("Content-Length: 5\r\nConnection: close\r\n\r\n"), "{head}");
    }

    #[test]
    fn an_error_says_what_and_what_to_do() {
        let response = Response::no_such_unit("chta", &["chat", "web"]);
        let value: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(value["error"], "no unit is called \"chta\"");
        assert_eq!(value["hint"], "did you mean \"chat\"?");
        assert_eq!(value.as_object().unwrap().len(), 2);
    }

    #[test]
    fn no_field_begins_another_one() {
        let bytes = text(&Response::accepted("/v1/units/a\r\nX: y", ""), After::Close, Content::LeftOut);
        assert!(bytes.contains("Location: /v1/units/aX: y\r\n"), "{bytes}");
    }

    #[test]
    fn the_page_may_bring_its_own_policy() {
        let plain = text(&Response::ok("a/b", ""), After::Close, Content::Sent);
        assert!(plain.contains("default-src 'none'; frame-ancestors"), "{plain}");
        let own = Response::ok("a/b", "").with("Content-Security-Policy", "default-src x".into());
        assert_eq!(text(&own, After::Close, Content::Sent).matches("Content-Security-Policy").count(), 1);
    }
}
