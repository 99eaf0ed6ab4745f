//! HTTP/1.1. Here: as far as a health probe needs it, one GET and the status of what comes back. Below: the
//! server's side, from the bytes of a request to a [`route::Call`] and from a [`response::Response`] to bytes.

pub mod body;
pub mod guard;
pub mod request;
pub mod response;
pub mod route;

use crate::unit::HttpTarget;

/// The longest response head that is read, bytes.
pub const MAX_HEAD: usize = 16 * 1024;

/// The most header fields of a response.
const MAX_FIELDS: usize = 128;

/// The request of a probe: GET, with `Connection: close`.
///
/// It is complete only with its last byte: a caller who holds that byte back has a connection that the
/// server accepts but cannot answer yet (contract section 6, probes).
pub fn request(target: &HttpTarget) -> Vec<u8> {
    let (path, version) = (&target.path, env!("CARGO_PKG_VERSION"));
    let host = target.named.as_ref().unwrap_or(&target.host);
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: aeterna/{version}\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    )
    .into_bytes()
}

/// The request for a page of figures in the Prometheus text format; complete only with its last byte, as [`request()`].
pub fn page_request(target: &HttpTarget) -> Vec<u8> {
    let (path, version) = (&target.path, env!("CARGO_PKG_VERSION"));
    let host = target.named.as_ref().unwrap_or(&target.host);
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: aeterna/{version}\r\n\
         Accept: text/plain;version=0.0.4\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
    )
    .into_bytes()
}

/// The status of the response whose first bytes are `bytes`; `None` while its head is not complete.
///
/// Interim responses (100 Continue, 103 Early Hints) are passed over. The head counts only as a whole: a
/// server that hangs after its status line has not answered.
///
/// # Errors
/// Why this is no response to HTTP/1: for people.
pub fn response_status(bytes: &[u8]) -> Result<Option<u16>, String> {
    let mut rest = &bytes[..bytes.len().min(MAX_HEAD)];
    loop {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let parsed = response.parse(rest).map_err(|error| format!("the answer is not HTTP: {error}"))?;
        match (parsed, response.code) {
            // 101 is the last that comes in HTTP.
            (httparse::Status::Complete(length), Some(code)) if (100..200).contains(&code) && code != 101 => {
                rest = &rest[length..];
            }
            (httparse::Status::Complete(_), code) => return Ok(code),
            (httparse::Status::Partial, _) if bytes.len() >= MAX_HEAD => {
                return Err(format!("the head of the answer is longer than {MAX_HEAD} bytes"));
            }
            (httparse::Status::Partial, _) => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::Address;
    use proptest::prelude::*;

    #[test]
    fn a_request_is_complete_only_with_its_last_byte() {
        let target = HttpTarget {
            url: "http://127.0.0.1:8080/health?full=1".into(),
            to: Address::Port(8080),
            host: "127.0.0.1:8080".into(),
            named: None,
            path: "/health?full=1".into(),
        };
        let named = request(&HttpTarget { named: Some("shop.example".into()), ..target.clone() });
        assert!(String::from_utf8(named).unwrap().contains("\r\nHost: shop.example\r\n"));
        let bytes = request(&target);
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(
            text.starts_with("GET /health?full=1 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: aeterna/")
        );
        assert!(text.contains("\r\nConnection: close\r\n"));
        let mut fields = [httparse::EMPTY_HEADER; 16];
        assert!(httparse::Request::new(&mut fields).parse(&bytes).unwrap().is_complete());
        let mut fields = [httparse::EMPTY_HEADER; 16];
        assert!(httparse::Request::new(&mut fields).parse(&bytes[..bytes.len() - 1]).unwrap().is_partial());
    }

    #[test]
    fn the_status_is_known_when_the_head_is_complete() {
        let whole = b"HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(response_status(&whole[..end]), Ok(None), "{end}");
        }
        assert_eq!(response_status(whole), Ok(Some(204)));
        assert_eq!(response_status(b"HTTP/1.0 503 \r\n\r\nbusy"), Ok(Some(503)));
    }

    #[test]
    fn interim_responses_are_passed_over() {
        let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_vec();
        assert_eq!(response_status(&hints), Ok(None));
        let whole = [hints.as_slice(), b"HTTP/1.1 200 OK\r\n\r\n"].concat();
        assert_eq!(response_status(&whole), Ok(Some(200)));
        assert_eq!(response_status(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), Ok(Some(101)));
    }

    #[test]
    fn what_is_not_http_or_too_long_is_an_error() {
        assert!(response_status(b"SSH-2.0-OpenSSH_9\r\n").unwrap_err().contains("not HTTP"));
        let long = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &vec![b'a'; MAX_HEAD]].concat();
        assert!(response_status(&long).unwrap_err().contains("16384"));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(MAX_FIELDS + 1));
        assert!(response_status(many.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = response_status(&bytes);
            let _ = response_status(&[b"HTTP/1.1 100 x\r\n".as_slice(), &bytes].concat());
        }
    }
}
