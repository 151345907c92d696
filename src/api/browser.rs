//! What a web page may not do to a node that asks for no token.
//!
//! A node without a token listens on loopback, where every program of the machine may submit, and so may a browser on behalf of any
//! page that it shows. A page of another site gives itself away by its `Origin`; one whose name was made to point here (DNS rebinding)
//! by the `Host` that the browser believes to talk to. Programs send neither `Origin` nor a browser's `User-Agent`.

use std::net::IpAddr;

use axum::http::HeaderMap;
use axum::http::header::{HOST, ORIGIN, USER_AGENT};

/// Whether the request comes from a web page that is not of this machine.
pub(super) fn is_foreign(headers: &HeaderMap) -> bool {
    if let Some(origin) = headers.get(ORIGIN) {
        // `null` is the origin of pages that hide theirs.
        return !origin.to_str().ok().and_then(|origin| origin.split_once("://")).is_some_and(|(_, host)| is_local(host));
    }
    let browser = headers.get(USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"Mozilla/"));
    browser && headers.get(HOST).is_some_and(|host| !host.to_str().is_ok_and(is_local))
}

/// Whether a host, with or without a port, is this machine by a name that no other site can have.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn foreign(pairs: &[(HeaderName, &'static str)]) -> bool {
        is_foreign(&pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect())
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
    fn a_name_that_was_made_to_point_here_is_foreign_to_a_browser_only() {
        let browser = (USER_AGENT, "Mozilla/5.0 (X11; Linux x86_64)");
        assert!(foreign(&[browser.clone(), (HOST, "evil.example:8087")]));
        assert!(!foreign(&[browser, (HOST, "127.0.0.1:8087")]));
        assert!(!foreign(&[(USER_AGENT, "curl/8.0"), (HOST, "redrive:8087")]));
        assert!(!foreign(&[(HOST, "redrive")]));
    }
}
