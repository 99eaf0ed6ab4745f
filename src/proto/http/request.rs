//! The head of a request to aeternad's HTTP server: bounded, strict about everything that decides where a
//! request ends, and without regard for what is not used.

use crate::proto::http::response::Response;

/// The longest head of a request, bytes.
pub const MAX_REQUEST_HEAD: usize = 16 * 1024;

/// The longest body of a request, bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// The most fields in the head of a request.
pub const MAX_REQUEST_FIELDS: usize = 100;

/// What is to be done with what the path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Show it.
    Get,
    /// As GET, without the content.
    Head,
    /// Do it.
    Post,
    /// Nothing that aeternad knows.
    Other,
}

/// A parsed head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The method.
    pub method: Method,
    /// The path, still percent-encoded; begins with `/`.
    pub path: String,
    /// What follows the `?`, or nothing.
    pub query: String,
    /// `Host`; only a client of HTTP/1.0 may leave it out.
    pub host: Option<String>,
    /// `Origin`: a browser says from which page a request comes.
    pub origin: Option<String>,
    /// The token of `Authorization: Bearer`.
    pub bearer: Option<String>,
    /// `Last-Event-ID`: where an interrupted event stream is to go on.
    pub last_event_id: Option<u64>,
    /// How many bytes of body follow.
    pub body_length: usize,
    /// Whether the client waits for 100 before it sends its body.
    pub expects_continue: bool,
    /// Whether the client wants to use the connection again.
    pub keep_alive: bool,
}

/// Parses the head of the request that `bytes` begins with: the head and its length, or `None` while it is
/// not complete.
///
/// # Errors
/// The answer to send: 400 for what is not a request, 413 for what is too long. The connection is of no
/// use after it.
pub fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, Response> {
    let seen = &bytes[..bytes.len().min(MAX_REQUEST_HEAD)];
    let mut fields = [httparse::EMPTY_HEADER; MAX_REQUEST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(seen) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= MAX_REQUEST_HEAD => {
            let text = format!("the head of the request is longer than {MAX_REQUEST_HEAD} bytes");
            return Err(Response::error(413, &text, "send fewer or shorter header fields"));
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            let text = format!("the request has more than {MAX_REQUEST_FIELDS} header fields");
            return Err(Response::error(413, &text, "send fewer header fields"));
        }
        Err(error) => {
            return Err(bad(&format!("this is not a request of HTTP/1: {error}")));
        }
    };
    head(&request).map(|head| Some((head, length)))
}

fn bad(error: &str) -> Response {
    Response::error(400, error, "aeternad speaks HTTP/1.1; see aeternad(8)")
}

fn head(request: &httparse::Request<'_, '_>) -> Result<Head, Response> {
    let method = match request.method {
        Some("GET") => Method::Get,
        Some("HEAD") => Method::Head,
        Some("POST") => Method::Post,
        _ => Method::Other,
    };
    let (path, query) = target(request.path.unwrap_or_default())?;
    let modern = request.version == Some(1);
    let mut head = Head {
        method,
        path,
        query,
        host: None,
        origin: None,
        bearer: None,
        last_event_id: None,
        body_length: 0,
        expects_continue: false,
        keep_alive: modern,
    };
    let mut length = None;
    for field in request.headers.iter() {
        let value = std::str::from_utf8(field.value)
            .map_err(|_| bad(&format!("the header field {} is not text", field.name)))?
            .trim();
        match field.name.to_ascii_lowercase().as_str() {
            "host" => once(&mut head.host, value, "Host")?,
            "origin" => once(&mut head.origin, value, "Origin")?,
            "authorization" => once(&mut head.bearer, bearer(value), "Authorization")?,
            // Two lengths that differ are two requests to two readers.
            "content-length" => once(&mut length, value, "Content-Length")?,
            "transfer-encoding" => {
                return Err(Response::error(
                    400,
                    "a body of unknown length is not taken",
                    "send Content-Length instead of Transfer-Encoding",
                ));
            }
            "expect" => head.expects_continue = modern && value.eq_ignore_ascii_case("100-continue"),
            "connection" => head.keep_alive = keeps(value, head.keep_alive),
            "last-event-id" => head.last_event_id = value.parse().ok(),
            _ => {}
        }
    }
    if modern && head.host.is_none() {
        return Err(bad("the request has no Host"));
    }
    head.body_length = length.as_deref().map_or(Ok(0), body_length)?;
    Ok(head)
}

fn once(slot: &mut Option<String>, value: &str, name: &str) -> Result<(), Response> {
    if slot.is_some() {
        return Err(bad(&format!("the request has more than one {name}")));
    }
    *slot = Some(value.to_owned());
    Ok(())
}

/// The token; empty (which is nobody's) if this is another scheme.
fn bearer(value: &str) -> &str {
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => "",
    }
}

fn keeps(value: &str, so_far: bool) -> bool {
    value.split(',').map(str::trim).fold(so_far, |keeps, word| {
        if word.eq_ignore_ascii_case("close") {
            false
        } else {
            keeps || word.eq_ignore_ascii_case("keep-alive")
        }
    })
}

fn body_length(value: &str) -> Result<usize, Response> {
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad("Content-Length is not a number"));
    }
    // What does not fit into a usize is too long as well.
    let length = value.parse().unwrap_or(usize::MAX);
    if length > MAX_BODY {
        let text = format!("the body of the request is longer than {MAX_BODY} bytes");
        return Err(Response::error(
            413,
            &text,
            "a reload takes {\"unit\", \"reason\", \"force\"} and no more",
        ));
    }
    Ok(length)
}

/// Path and query of a request target, in its origin form or with `http://HOST` before it.
fn target(target: &str) -> Result<(String, String), Response> {
    let rest = match target.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case("http://") => {
            let rest = &target[7..];
            rest.find(['/', '?']).map_or("/", |at| &rest[at..])
        }
        _ => target,
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !path.starts_with('/') {
        return Err(bad("the path does not begin with \"/\""));
    }
    Ok((path.to_owned(), query.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Head {
        let (head, length) = parse_head(text.as_bytes()).unwrap().unwrap();
        assert_eq!(length, text.len());
        head
    }

    fn refused(text: &str) -> (u16, String) {
        let response = parse_head(text.as_bytes()).unwrap_err();
        (response.status, String::from_utf8(response.body).unwrap())
    }

    #[test]
    fn a_request_is_read_when_it_is_complete() {
        let text = "POST /v1/reload?x=1 HTTP/1.1\r\nhost: localhost:9091\r\nAuthorization: bearer  s3cret \r\n\
                    Content-Length: 12\r\nOrigin: http://localhost:9091\r\nExpect: 100-continue\r\n\
                    Last-Event-ID: 7\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(parse_head(&text.as_bytes()[..end]), Ok(None), "{end}");
        }
        let head = parsed(text);
        assert_eq!(
            (head.method, head.path.as_str(), head.query.as_str()),
            (Method::Post, "/v1/reload", "x=1")
        );
        assert_eq!(head.host.as_deref(), Some("localhost:9091"));
        assert_eq!(head.origin.as_deref(), Some("http://localhost:9091"));
        assert_eq!(head.bearer.as_deref(), Some("s3cret"));
        assert_eq!((head.body_length, head.last_event_id), (12, Some(7)));
        assert!(head.expects_continue && head.keep_alive);
    }

    #[test]
    fn what_follows_the_head_is_not_part_of_it() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /next";
        assert_eq!(parse_head(bytes).unwrap().unwrap().1, bytes.len() - 9);
    }

    #[test]
    fn the_connection_is_kept_as_the_version_and_the_client_say() {
        for (lines, keeps) in [
            ("1.1\r\nHost: a\r\n", true),
            ("1.1\r\nHost: a\r\nConnection: Close\r\n", false),
            ("1.1\r\nHost: a\r\nConnection: TE, close\r\n", false),
            ("1.0\r\n", false),
            ("1.0\r\nConnection: keep-alive\r\n", true),
        ] {
            assert_eq!(parsed(&format!("GET / HTTP/{lines}\r\n")).keep_alive, keeps, "{lines:?}");
        }
    }

    #[test]
    fn an_absolute_target_is_a_path_too() {
        assert_eq!(parsed("GET http://a:1/x?y HTTP/1.1\r\nHost: a\r\n\r\n").path, "/x");
        assert_eq!(parsed("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n").path, "/");
        assert_eq!(refused("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").0, 400);
    }

    #[test]
    fn what_would_leave_the_end_of_a_request_open_is_refused() {
        for fields in [
            "Transfer-Encoding: chunked",
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: +1",
            "Content-Length: 1, 1",
            "Content-Length:",
            "Content-Length : 1",
            "Host: b",
            "Authorization: Bearer a\r\nAuthorization: Bearer b",
            " folded: x",
        ] {
            let (status, _) = refused(&format!("POST /v1/reload HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"));
            assert_eq!(status, 400, "{fields}");
        }
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n").0, 400);
        assert_eq!(refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").0, 400);
        assert_eq!(refused("\x16\x03\x01").0, 400);
    }

    #[test]
    fn what_is_too_long_is_refused_as_that() {
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(MAX_REQUEST_HEAD));
        assert_eq!(refused(&long).0, 413);
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(MAX_REQUEST_FIELDS));
        assert_eq!(refused(&many).0, 413);
        for length in ["65537", "99999999999999999999999999"] {
            let text = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
            assert_eq!(refused(&text).0, 413);
        }
        assert_eq!(
            parsed("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\n").body_length,
            MAX_BODY
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = parse_head(&bytes);
            let _ = parse_head(&[b"GET / HTTP/1.1\r\n".as_slice(), &bytes].concat());
            let _ = parse_head(&[b"GET ".as_slice(), &bytes, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
        }
    }
}
