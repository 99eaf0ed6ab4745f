//! The target of an HTTP health check: `http://127.0.0.1:8080/health`, or `unix:/path:/health`; and where aeternad
//! itself serves HTTP.

use super::super::{Address, HttpTarget, ListenKind};
use super::address::parse_address;
use super::specifier::Specifiers;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Whether aeternad can be asked to serve HTTP there: `IP:PORT`, `PORT`, `/path` or `@abstract`. A host name is looked
/// up when it is bound.
///
/// # Errors
/// Why not.
pub fn check_http_address(text: &str) -> Result<(), String> {
    let digits = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let is_port = |port: &str| digits(port) && port.parse::<u16>().is_ok();
    let good = match text.rsplit_once(':') {
        _ if text.starts_with('/') => !text.ends_with('/'),
        _ if text.starts_with('@') => text.len() > 1,
        Some((host, port)) => {
            let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
            !host.is_empty() && !host.contains('/') && !bare_v6 && is_port(port)
        }
        None => is_port(text),
    };
    if good {
        return Ok(());
    }
    Err(format!(
        "\"{}\" is no address for HTTP; write 127.0.0.1:9091, [::1]:9091, 9091, /path or @name",
        plain(text)
    ))
}

/// The target that `url` names. Specifiers work in a Unix socket's path only: in a URL `%` is its own escape.
pub(crate) fn parse_http_target(url: &str, specifiers: &Specifiers) -> Result<HttpTarget, String> {
    if let Some(rest) = url.strip_prefix("unix:") {
        return unix(url, rest, specifiers);
    }
    let Some(rest) = url.strip_prefix("http://") else {
        return Err(if url.starts_with("https://") {
            "a health check speaks no TLS; check a plain port, or use Exec with a client that does".into()
        } else {
            format!(
                "\"{}\" is not a URL of this kind; write http://HOST:PORT/PATH or unix:/PATH:/HTTP-PATH",
                plain(url)
            )
        });
    };
    let (host, path) = match rest.find(['/', '?']) {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let path = if path.starts_with('?') { format!("/{path}") } else { path.to_string() };
    check_path(&path)?;
    let to = Address::Inet(connect_to(host)?);
    Ok(HttpTarget { url: url.to_string(), to, host: host.to_string(), named: None, path })
}

/// `unix:/PATH:/HTTP-PATH`; without the second half `/` is asked for.
fn unix(url: &str, rest: &str, specifiers: &Specifiers) -> Result<HttpTarget, String> {
    let (socket, path) = rest.split_once(":/").map_or((rest, "/".to_string()), |(a, b)| (a, format!("/{b}")));
    let to = parse_address(ListenKind::Stream, socket, specifiers)?;
    if !matches!(to, Address::Path(_) | Address::Abstract(_)) {
        return Err(format!("\"{}\" is not a Unix socket's path; it starts with / or @", plain(socket)));
    }
    check_path(&path)?;
    Ok(HttpTarget { url: url.to_string(), to, host: "localhost".into(), named: None, path })
}

/// The address behind `HOST` or `HOST:PORT`; names are not looked up, but `localhost` is known.
fn connect_to(host: &str) -> Result<SocketAddr, String> {
    if host.contains('@') {
        return Err("a health check's URL cannot carry a user name".into());
    }
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, "80"),
    };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port: u16 = match port.parse() {
        Ok(port) if digits && port > 0 => port,
        _ => return Err(format!("\"{}\" is not a port; ports go from 1 to 65535", plain(port))),
    };
    let ip = if name == "localhost" {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else if let Some(inside) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let ip: Ipv6Addr =
            inside.parse().map_err(|_| format!("\"{}\" is not an IPv6 address", plain(inside)))?;
        IpAddr::V6(ip)
    } else {
        let why = || {
            format!(
                "\"{}\" is not an address; write a numeric one such as 127.0.0.1, or localhost",
                plain(name)
            )
        };
        IpAddr::V4(name.parse().map_err(|_| why())?)
    };
    Ok(SocketAddr::new(ip, port))
}

/// Whether `path` can stand in a request line.
fn check_path(path: &str) -> Result<(), String> {
    if path.contains('#') {
        return Err("a \"#\" and what follows it never reach the server; leave them out".into());
    }
    match path.chars().find(|c| !c.is_ascii_graphic()) {
        None => Ok(()),
        Some(c) => Err(format!("a {c:?} cannot stand in a URL; write it as %XX")),
    }
}

/// Text for a message on one line.
fn plain(text: &str) -> String {
    text.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Result<HttpTarget, String> {
        parse_http_target(url, &Specifiers { name: "app".into(), runtime_dir: "/run/a".into() })
    }

    #[test]
    fn urls_are_taken_apart() {
        for (url, to, host, path) in [
            ("http://127.0.0.1:8080/health?a=b%20c", "127.0.0.1:8080", "127.0.0.1:8080", "/health?a=b%20c"),
            ("http://localhost", "127.0.0.1:80", "localhost", "/"),
            ("http://[::1]:81", "[::1]:81", "[::1]:81", "/"),
            ("http://[::1]?x", "[::1]:80", "[::1]", "/?x"),
        ] {
            let target = parsed(url).unwrap();
            let expected = Address::Inet(to.parse().unwrap());
            assert_eq!(
                (target.to, target.host.as_str(), target.path.as_str()),
                (expected, host, path),
                "{url}"
            );
        }
        let target = parsed("unix:%t/app.sock:/health%20").unwrap();
        assert_eq!(
            (target.to, target.path.as_str()),
            (Address::Path("/run/a/app.sock".into()), "/health%20")
        );
        assert_eq!(parsed("unix:@app").unwrap().to, Address::Abstract("app".into()));
    }

    #[test]
    fn where_http_is_served() {
        for good in ["127.0.0.1:9091", "[::1]:0", "9091", "/run/x.sock", "@x", "localhost:80"] {
            assert_eq!(check_http_address(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "foo",
            ":80",
            "::1:80",
            "127.0.0.1",
            "1.2.3.4:65536",
            "70000",
            "/run/",
            "@",
            "http://h:80",
            "-1",
        ] {
            assert!(check_http_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn other_urls_are_refused() {
        for (url, part) in [
            ("https://127.0.0.1/", "no TLS"),
            ("127.0.0.1:80", "http://HOST"),
            ("http://example.com/", "localhost"),
            ("http://127.0.0.1:0/", "not a port"),
            ("http://127.0.0.1:x/", "not a port"),
            ("http://u@127.0.0.1/", "user name"),
            ("http://127.0.0.1/a b", "%XX"),
            ("http://127.0.0.1/a\r\nb", "%XX"),
            ("http://127.0.0.1/#a", "#"),
            ("http://[x]/", "IPv6"),
            ("unix:8080:/", "Unix socket"),
            ("unix:a/b:/", "relative path"),
        ] {
            let why = parsed(url).unwrap_err();
            assert!(why.contains(part), "{url}: {why}");
        }
    }
}
