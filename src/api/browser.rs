//! What a web page may not do to a node that requires no token.
//!
//! A node without a token listens on loopback, where every program on the machine may submit, and so may a browser on behalf of any page it shows. A
//! page of another site is recognised by its `Origin`; one whose name was made to point here (DNS rebinding), which can disguise everything else, by
//! the `Host` that the browser believes it is talking to. Programs send no `Origin`, and address this machine by its own name. No browser opens a
//! Unix socket, so any `Host` is accepted there.

use std::net::IpAddr;

use axum::http::HeaderMap;
use axum::http::header::{HOST, ORIGIN};

use super::listener::Door;

/// Whether the request comes from a web page of another machine.
pub(super) fn is_foreign(headers: &HeaderMap, door: Door) -> bool {
    if let Some(origin) = headers.get(ORIGIN) {
        // `null` is the origin of pages that hide theirs.
        return !origin.to_str().ok().and_then(|origin| origin.split_once("://")).is_some_and(|(_, host)| is_local(host));
    }
    door == Door::Tcp && headers.get(HOST).is_some_and(|host| !host.to_str().is_ok_and(is_local))
}

/// Whether a host, with or without a port, names this machine in a way that no other site can.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::header::USER_AGENT;
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn foreign(pairs: &[(HeaderName, &'static str)]) -> bool {
        is_foreign(&headers(pairs), Door::Tcp)
    }

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_page_of_another_site_is_foreign() {
        for origin in ["https://evil.example", "http://localhost.evil.example", "null", "http://10.0.0.1", "http://127.0.0.1.evil.example:80", ""] {
            assert!(foreign(&[(ORIGIN, origin)]), "{origin}");
        }
        for origin in ["http://localhost", "http://localhost:3000", "http://127.0.0.1:8087", "http://[::1]:8087"] {
            assert!(!foreign(&[(ORIGIN, origin)]), "{origin}");
        }
    }

    #[test]
    fn a_name_that_was_made_to_point_here_is_foreign_whatever_else_is_sent() {
        for host in ["evil.example:8087", "redrive", "10.0.0.1:8087", "localhost.evil.example", ""] {
            assert!(foreign(&[(HOST, host)]), "{host}");
            assert!(foreign(&[(HOST, host), (USER_AGENT, "curl/8.0")]), "{host}");
            assert!(!is_foreign(&headers(&[(HOST, host)]), Door::Unix), "{host}");
        }
        for host in ["127.0.0.1:8087", "localhost", "LOCALHOST:80", "[::1]:8087"] {
            assert!(!foreign(&[(HOST, host), (USER_AGENT, "Mozilla/5.0 (X11; Linux x86_64)")]), "{host}");
        }
        assert!(!foreign(&[]), "no browser leaves it out");
        assert!(is_foreign(&headers(&[(ORIGIN, "https://evil.example")]), Door::Unix));
    }
}
