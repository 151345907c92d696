//! `api:` and `health:` in the configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::units::{Secret, Size, Span, millis};

/// Where and how producers reach redrive.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The address and port for TCP; port 0 takes any free one. HTTP without TLS: if other machines can reach it, a token is required, and a proxy or
    /// a mesh has to add TLS. `null`: no TCP, only the Unix socket.
    #[schemars(with = "Option<String>", regex(pattern = r":[0-9]+$"))]
    pub listen: Option<SocketAddr>,
    /// The path of a Unix socket to listen on in addition to TCP. A relative one starts at the working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unix: Option<PathBuf>,
    /// The permissions of the Unix socket, in octal.
    pub unix_mode: String,
    /// What callers must send as `Authorization: Bearer …`: 1 to 4096 visible ASCII characters. Health and metrics need no token. It crosses the
    /// network unencrypted, unless a proxy or a mesh adds TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// A file that holds the token instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The largest body that is accepted (413 beyond), 1KiB to 1GiB.
    pub max_body: Size,
    /// The maximum number of connections, 1 to 100000. Beyond it, an idle connection is closed for the next one; if all are busy, further ones wait
    /// to be accepted.
    pub max_connections: u32,
    /// How long a connection may take to send the head of a request, or stay idle between two requests: 100ms to 1h.
    pub header_timeout: Span,
    /// How long the body of a request may take to arrive: 100ms to 1h.
    pub body_timeout: Span,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 8087))),
            unix: None,
            unix_mode: "0660".to_owned(),
            token: None,
            token_file: None,
            max_body: Size::mib(16),
            max_connections: 1024,
            header_timeout: Span::secs(60),
            body_timeout: Span::secs(30),
        }
    }
}

/// The maximum length of a token, in bytes.
pub const MAX_TOKEN: usize = 4096;

impl Config {
    /// The permissions of the Unix socket as a number.
    #[must_use]
    pub fn unix_permissions(&self) -> Option<u32> {
        u32::from_str_radix(&self.unix_mode, 8).ok().filter(|mode| *mode <= 0o777)
    }

    /// Every value that is out of range.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut check = |wrong: bool, path: &str, message: &str| {
            if wrong {
                faults.push(Fault::new(path, message));
            }
        };
        check(self.listen.is_none() && self.unix.is_none(), "listen", "either `listen` or `unix` is required");
        check(self.unix_permissions().is_none(), "unix_mode", "must be octal permissions in quotes, such as \"0660\"");
        if let Some(token) = &self.token {
            let token = token.expose();
            check(token.is_empty() || token.len() > MAX_TOKEN, "token", "must be 1 to 4096 bytes long; omit it for none");
            // A header can't carry anything else.
            check(!token.bytes().all(|byte| byte.is_ascii_graphic()), "token", "must contain only visible ASCII characters, without spaces");
        }
        let body = self.max_body.bytes();
        check(!(1024..=1 << 30).contains(&body), "max_body", "must be between 1KiB and 1GiB");
        check(!(1..=100_000).contains(&self.max_connections), "max_connections", "must be between 1 and 100000");
        check(!(100..=3_600_000).contains(&millis(self.header_timeout.get())), "header_timeout", "must be between 100ms and 1h");
        check(!(100..=3_600_000).contains(&millis(self.body_timeout.get())), "body_timeout", "must be between 100ms and 1h");
        // From other machines anybody could submit; 127.0.0.0/8 and ::1 are this machine.
        if let Some(listen) = self.listen
            && !listen.ip().to_canonical().is_loopback()
            && self.token.is_none()
        {
            let message = format!("{listen} can be reached from other machines: set `api.token` or `api.token_file`, or listen on 127.0.0.1");
            faults.push(Fault::new("listen", message));
        }
        faults
    }
}

/// Where health and metrics are served in addition to the API's own port: nothing secret, no token.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// The address and port; `0.0.0.0:8088` makes it reachable for an orchestrator. Absent: only on the API's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", regex(pattern = r":[0-9]+$"))]
    pub listen: Option<SocketAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(listen: &str, token: Option<&str>) -> usize {
        Config { listen: Some(listen.parse().unwrap()), token: token.map(Secret::new), ..Config::default() }.faults().len()
    }

    #[test]
    fn beyond_loopback_a_token_is_required() {
        for open in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "192.168.1.1:80", "[::ffff:10.0.0.1]:1"] {
            assert_eq!(faults(open, None), 1, "{open}");
            assert_eq!(faults(open, Some("t0ken")), 0, "{open}");
        }
        for local in ["127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(faults(local, None), 0, "{local}");
        }
    }

    #[test]
    fn a_token_that_no_header_carries_is_a_fault() {
        for token in ["", "a b", "tökn", "a\nb"] {
            assert!(faults("127.0.0.1:1", Some(token)) > 0, "{token:?}");
        }
    }
}
