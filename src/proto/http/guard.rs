//! Who may ask what (contract section 8): names that lead to a loopback listener, pages of elsewhere, tokens.

use crate::proto::http::request::{Head, Method};
use crate::proto::http::response::Response;
use crate::proto::http::route;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Who can reach a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Programs of this machine, over a loopback address.
    Loopback,
    /// Programs of this machine, over a Unix socket.
    Unix,
    /// Anybody.
    Network,
}

/// Whether `Host` and `Origin` allow this request.
///
/// A page of elsewhere can make a browser send a request to this machine: directly (then its `Origin` is not
/// ours), or under a name of its own that it lets point here (then its `Host` is not a loopback one).
///
/// # Errors
/// 403.
pub fn check_names(head: &Head, reach: Reach) -> Result<(), Response> {
    // No browser speaks HTTP/1.0; health checks do, without a Host. They change nothing.
    let named = match &head.host {
        Some(host) => is_loopback(host),
        None => head.method != Method::Post,
    };
    if reach == Reach::Loopback && !named {
        let text = "this Host is not a name of the loopback address that aeternad listens on";
        return Err(Response::error(403, text, "use localhost or 127.0.0.1 in the URL"));
    }
    if let Some(origin) = &head.origin {
        let own = head.host.as_deref().map(|host| format!("http://{host}"));
        if !own.is_some_and(|own| own.eq_ignore_ascii_case(origin)) {
            let hint = "only aeternad's own page may call it from a browser";
            return Err(Response::error(403, "the request comes from a page of another origin", hint));
        }
    }
    Ok(())
}

/// Whether a `Host`, with or without a port, is `localhost` or a loopback address.
fn is_loopback(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let port = if rest.is_empty() { Some("") } else { rest.strip_prefix(':') };
            let loopback = |ip: Ipv6Addr| ip.to_canonical().is_loopback();
            return port.is_some_and(is_port) && address.parse().is_ok_and(loopback);
        }
        None => host.split_once(':').unwrap_or((host, "")),
    };
    let named = name.eq_ignore_ascii_case("localhost");
    is_port(port) && (named || name.parse().is_ok_and(|ip: Ipv4Addr| ip.is_loopback()))
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

/// What a listener knows about the rights of its callers.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The tokens that `aeternactl page` has given out and that still count.
    pub page_tokens: &'a [String],
    /// Who can reach it.
    pub reach: Reach,
    /// What is in `HttpTokenFile`, if there is one.
    pub token: Option<&'a str>,
    /// The daemon's own user.
    pub own_uid: u32,
}

/// Whether this order may be carried out; over TCP without a token, [`check_holders`] comes after it. `peer` finds out which user of this machine is at the other end
/// (`None`: nobody knows); it is asked only if that decides.
///
/// # Errors
/// 401 where a token would help, 403 where none can.
pub fn check_post(
    head: &Head,
    rules: Rules<'_>,
    peer: impl FnOnce() -> Result<Option<u32>, String>,
) -> Result<(), Response> {
    if !route::is_guarded(head) {
        return Ok(());
    }
    if has_page_token(head, rules.page_tokens) {
        return Ok(());
    }
    if let Some(token) = rules.token {
        return check_token(head, token);
    }
    if rules.reach == Reach::Network {
        let hint = "set [Daemon] HttpTokenFile and send its token, or let aeternad listen on 127.0.0.1";
        return Err(Response::error(
            403,
            "nobody may change anything, or read logs, over the network without a token",
            hint,
        ));
    }
    let hint = TOKENLESS;
    match peer() {
        Ok(Some(uid)) if uid == 0 || uid == rules.own_uid => Ok(()),
        Ok(Some(uid)) => Err(Response::error(403, &format!("uid {uid} may look, but change nothing"), hint)),
        Ok(None) => Err(Response::error(403, "cannot tell which user asks", hint)),
        Err(why) => Err(Response::error(403, &format!("cannot tell which user asks: {why}"), hint)),
    }
}

/// A process that holds the socket at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Its pid.
    pub pid: i32,
    /// When it was started, in clock ticks since the machine has started: with the pid it names one process for ever.
    pub started: u64,
    /// Its real, effective, saved and file system user.
    pub uids: [u32; 4],
}

/// Who can be seen to hold a socket, and who cannot be looked into.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    /// Those that hold it.
    pub found: Vec<Holder>,
    /// The users of each process that may hold it too.
    pub hidden: Vec<[u32; 4]>,
}

/// More processes than this share no connection that gives orders.
const MAX_HOLDERS: usize = 8;

/// Whether the processes that hold the peer's socket may give orders without a token. Who made a socket proves nothing:
/// services hold sockets that root has made. That none of them belongs to a unit is for the main loop to see.
///
/// `creator` is the user that the kernel tells for the socket, `own_pid` aeternad's own pid.
///
/// # Errors
/// 403, with what to do.
pub fn check_holders(holders: &Holders, creator: u32, own_uid: u32, own_pid: i32) -> Result<(), Response> {
    let trusted = |uids: &[u32; 4]| uids.iter().all(|uid| *uid == 0 || *uid == own_uid);
    let no = |text: &str| Err(Response::error(403, text, TOKENLESS));
    if holders.found.iter().any(|holder| holder.pid == own_pid || holder.pid == 1) {
        // Handed out: whoever else has a copy need not be seen at this moment.
        return no("the connection is on a socket that a supervisor has given to services");
    }
    if let Some(other) = holders.found.iter().find(|holder| !trusted(&holder.uids)) {
        let [uid, ..] = other.uids;
        return no(&format!(
            "process {} of uid {uid} holds this connection and may change nothing",
            other.pid
        ));
    }
    if holders.found.is_empty() || holders.found.len() > MAX_HOLDERS {
        return no("cannot tell which process asks");
    }
    // What runs as our own user can do everything to us anyway; what is hidden from root is another matter.
    let unseen =
        if own_uid == 0 { holders.hidden.iter().any(|uids| !trusted(uids)) } else { creator != own_uid };
    if unseen {
        return no(
            "cannot tell which processes hold this connection: aeternad may not look into all of them",
        );
    }
    Ok(())
}

/// What somebody can do who may not give orders over TCP as he is.
pub const TOKENLESS: &str = "use aeternactl, open the page with \"aeternactl page\", let aeternad listen on a Unix path, or set [Daemon] HttpTokenFile";

/// Whether a request brings a token of `aeternactl page`: then it needs nothing else.
pub fn has_page_token(head: &Head, tokens: &[String]) -> bool {
    let given = head.bearer.as_deref().unwrap_or_default();
    // Every one is compared: the time tells nothing.
    tokens.iter().fold(false, |found, token| same(given.as_bytes(), token.as_bytes()) | found)
}

fn check_token(head: &Head, token: &str) -> Result<(), Response> {
    let given = head.bearer.as_deref();
    if given.is_some_and(|given| same(given.as_bytes(), token.as_bytes())) {
        return Ok(());
    }
    let text = if given.is_some() { "this is not the token" } else { "this needs a token" };
    let hint = "send Authorization: Bearer with the content of HttpTokenFile";
    Err(Response::error(401, text, hint).with("WWW-Authenticate", "Bearer realm=\"aeternad\"".into()))
}

/// Whether two secrets are the same, in a time that does not tell how far they agree. No secret is empty.
fn same(given: &[u8], expected: &[u8]) -> bool {
    let mut difference = given.len() ^ expected.len();
    for (at, byte) in given.iter().enumerate() {
        let other = expected.get(at % expected.len().max(1)).copied().unwrap_or_default();
        difference |= usize::from(byte ^ other);
    }
    std::hint::black_box(difference) == 0 && !expected.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http::request::parse_head;

    fn head(method: &str, fields: &str) -> Head {
        let text = format!("{method} /v1/reload HTTP/1.1\r\n{fields}\r\n");
        parse_head(text.as_bytes()).unwrap().unwrap().0
    }

    fn status(result: Result<(), Response>) -> u16 {
        result.map_or_else(|response| response.status, |()| 200)
    }

    #[test]
    fn a_loopback_listener_is_reached_under_loopback_names_only() {
        for good in [
            "localhost",
            "LocalHost:9091",
            "127.0.0.1",
            "127.8.0.1:1",
            "[::1]",
            "[::1]:9091",
            "[::ffff:127.0.0.1]:9091",
        ] {
            let head = head("GET", &format!("Host: {good}\r\n"));
            assert_eq!(status(check_names(&head, Reach::Loopback)), 200, "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example:9091",
            "127.0.0.1.evil.example",
            "localhost.evil",
            "10.0.0.1",
            "[::2]",
            "[::ffff:10.0.0.1]",
            "[::1",
            "[::1]x",
            "",
            "localhost:9091@evil",
            "2130706433",
        ] {
            let head = head("GET", &format!("Host: {bad}\r\n"));
            assert_eq!(status(check_names(&head, Reach::Loopback)), 403, "{bad}");
            assert_eq!(status(check_names(&head, Reach::Network)), 200, "{bad}");
        }
        let (old, _) = parse_head(b"GET /health HTTP/1.0\r\n\r\n").unwrap().unwrap();
        assert_eq!(status(check_names(&old, Reach::Loopback)), 200);
        let (old, _) = parse_head(b"POST /v1/reload HTTP/1.0\r\n\r\n").unwrap().unwrap();
        assert_eq!(status(check_names(&old, Reach::Loopback)), 403);
        assert_eq!(status(check_names(&old, Reach::Unix)), 200);
    }

    #[test]
    fn a_page_of_elsewhere_gets_nothing() {
        for (origin, expected) in [
            ("http://localhost:9091", 200),
            ("HTTP://LOCALHOST:9091", 200),
            ("http://localhost", 403),
            ("https://localhost:9091", 403),
            ("http://evil.example", 403),
            ("null", 403),
            ("", 403),
        ] {
            let head = head("GET", &format!("Host: localhost:9091\r\nOrigin: {origin}\r\n"));
            for reach in [Reach::Loopback, Reach::Unix, Reach::Network] {
                assert_eq!(status(check_names(&head, reach)), expected, "{origin}");
            }
        }
    }

    #[test]
    fn with_a_token_file_the_token_decides_and_nothing_else() {
        let rules = Rules { page_tokens: &[], reach: Reach::Network, token: Some("s3cret"), own_uid: 7 };
        for (field, expected) in [
            ("Authorization: Bearer s3cret\r\n", 200),
            ("Authorization: Bearer s3cre\r\n", 401),
            ("Authorization: Bearer s3crets3cret\r\n", 401),
            ("Authorization: Bearer \r\n", 401),
            ("Authorization: Basic s3cret\r\n", 401),
            ("", 401),
        ] {
            let head = head("POST", &format!("Host: a\r\n{field}"));
            let result = check_post(&head, rules, || panic!("nobody asks for the peer"));
            assert_eq!(status(result), expected, "{field}");
        }
        let unix = Rules { page_tokens: &[], reach: Reach::Unix, token: Some(""), own_uid: 0 };
        let empty = head("POST", "Host: a\r\nAuthorization: Bearer \r\n");
        assert_eq!(status(check_post(&empty, unix, || Ok(Some(0)))), 401);
    }

    #[test]
    fn a_token_of_the_page_counts_everywhere_and_beside_the_file() {
        let page = ["p4ge".to_owned()];
        for (reach, token) in
            [(Reach::Network, None), (Reach::Loopback, None), (Reach::Network, Some("s3cret"))]
        {
            let rules = Rules { page_tokens: &page, reach, token, own_uid: 0 };
            let ask = |field: &str| {
                status(check_post(&head("POST", &format!("Host: a\r\n{field}")), rules, || Ok(Some(33))))
            };
            assert_eq!(ask("Authorization: Bearer p4ge\r\n"), 200, "{reach:?}");
            for wrong in ["Authorization: Bearer p4g\r\n", "Authorization: Bearer \r\n", ""] {
                assert_ne!(ask(wrong), 200, "{reach:?} {wrong}");
            }
        }
    }

    #[test]
    fn without_a_token_file_only_root_and_the_own_user_of_this_machine_may() {
        let post = head("POST", "Host: a\r\n");
        for reach in [Reach::Loopback, Reach::Unix] {
            let rules = Rules { page_tokens: &[], reach, token: None, own_uid: 7 };
            assert_eq!(status(check_post(&post, rules, || Ok(Some(0)))), 200);
            assert_eq!(status(check_post(&post, rules, || Ok(Some(7)))), 200);
            assert_eq!(status(check_post(&post, rules, || Ok(Some(8)))), 403);
            assert_eq!(status(check_post(&post, rules, || Ok(None))), 403);
            assert_eq!(status(check_post(&post, rules, || Err("EPERM".into()))), 403);
        }
        let rules = Rules { page_tokens: &[], reach: Reach::Network, token: None, own_uid: 7 };
        assert_eq!(status(check_post(&post, rules, || Ok(Some(0)))), 403);
        assert_eq!(status(check_post(&head("GET", "Host: a\r\n"), rules, || Ok(None))), 200);
    }

    #[test]
    fn every_process_that_holds_the_connection_counts() {
        let holder = |pid: i32, uids: [u32; 4]| Holder { pid, started: 1, uids };
        let check = |found: Vec<Holder>, hidden: Vec<[u32; 4]>, creator: u32, own_uid: u32| {
            status(check_holders(&Holders { found, hidden }, creator, own_uid, 500))
        };
        let root = holder(7, [0; 4]);
        assert_eq!(check(vec![root], vec![], 0, 0), 200);
        assert_eq!(check(vec![root, holder(8, [0; 4])], vec![[0; 4]], 0, 0), 200);
        // A service has a copy of what root has made; or a program changes its user and only looks like root.
        for uids in [[33; 4], [33, 0, 0, 0], [0, 33, 33, 33], [0, 0, 0, 33], [0, 0, 33, 0]] {
            assert_eq!(check(vec![root, holder(8, uids)], vec![], 0, 0), 403, "{uids:?}");
        }
        // In flight between two processes, or nowhere to be seen.
        assert_eq!(check(vec![], vec![], 0, 0), 403);
        assert_eq!(check(vec![root, holder(500, [0; 4])], vec![], 0, 0), 403, "aeternad has handed it out");
        assert_eq!(check(vec![root, holder(1, [0; 4])], vec![], 0, 0), 403, "init has handed it out");
        assert_eq!(check(vec![root; MAX_HOLDERS + 1], vec![], 0, 0), 403);
        // Somebody whom we may not look into may have a copy.
        assert_eq!(check(vec![root], vec![[33; 4]], 0, 0), 403);
        // An ordinary user's aeternad.
        assert_eq!(check(vec![holder(7, [9; 4])], vec![[33; 4], [0; 4]], 9, 9), 200);
        assert_eq!(check(vec![holder(7, [9; 4])], vec![], 0, 9), 403);
        assert_eq!(check(vec![holder(7, [8; 4])], vec![], 9, 9), 403);
    }

    #[test]
    fn secrets_are_compared_whole() {
        assert!(same(b"abc", b"abc"));
        for (a, b) in [("abc", "abd"), ("abc", "ab"), ("ab", "abc"), ("", ""), ("", "a"), ("abab", "ab")] {
            assert!(!same(a.as_bytes(), b.as_bytes()), "{a} {b}");
        }
    }
}
