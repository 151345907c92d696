//! `kind: http` in the configuration, and how it becomes a client.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use super::signature::Signer;
use super::target::Target;
use super::{Http, request, table};
use crate::fault::Fault;
use crate::source::codes::Code;
use crate::source::{Context, Sender};
use crate::tls::{self, Tls};
use crate::units::Secret;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Shorter than the five seconds after which common servers close an idle connection: a send on a connection that is just being closed is lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
const MOST_IDLE: usize = 64;
/// The maximum number of headers in an answer. A receiver behind several proxies may well send more than the hundred that a library usually allows.
const MOST_ANSWER_HEADERS: usize = 1000;

/// `kind: http`: sends one request per message to an HTTP endpoint, or to a handler on this machine.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where to send: `https://host/path`. `{topic}` in the path or the query is replaced by the message's topic, percent-encoded. With `unix` it
    /// sets only the path and the `Host`, and may be omitted (`http://localhost/`).
    pub url: Option<Secret>,
    /// A file that holds the URL instead.
    pub url_file: Option<PathBuf>,
    /// The path of a Unix socket to connect to instead of the URL's host. A relative one starts at the configuration file's folder.
    pub unix: Option<PathBuf>,
    /// The method of the request.
    pub method: Method,
    /// Headers of each request; a message can't override them, except for `Content-Type`.
    pub headers: BTreeMap<String, Secret>,
    /// Headers whose values are read from files: `{ X-Api-Key: /run/secrets/key }`.
    pub headers_file: BTreeMap<String, PathBuf>,
    /// A token, sent as `Authorization: Bearer …`.
    pub bearer: Option<Secret>,
    /// A file that holds the token instead.
    pub bearer_file: Option<PathBuf>,
    /// User and password, sent as `Authorization: Basic …`.
    pub basic: Option<Basic>,
    /// A proxy for all requests: `http://user:password@proxy:3128`. Variables such as `HTTP_PROXY` are ignored.
    pub proxy: Option<Secret>,
    /// A file that holds the proxy's URL instead.
    pub proxy_file: Option<PathBuf>,
    /// Signs each request according to Standard Webhooks: `whsec_` and base64; two secrets, separated by a space, during a rotation.
    pub webhook_secret: Option<Secret>,
    /// A file that holds the secret instead (or several, one per line).
    pub webhook_secret_file: Option<PathBuf>,
}

/// The methods that carry a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// `POST`
    #[default]
    Post,
    /// `PUT`
    Put,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
}

/// User and password.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Basic {
    /// The user.
    pub username: String,
    /// The password.
    pub password: Option<Secret>,
    /// A file that holds the password instead.
    pub password_file: Option<PathBuf>,
}

impl crate::source::Config for Config {
    fn build(self, cx: &Context) -> Result<Sender, Vec<Fault>> {
        let mut faults = Vec::new();
        let target = self.target(cx, &mut faults);
        let timeout = cx.options.timeout.map_or(DEFAULT_TIMEOUT, Into::into);
        let key = if self.webhook_secret_file.is_some() { "webhook_secret_file" } else { "webhook_secret" };
        let signer = secret("webhook_secret", self.webhook_secret.as_ref(), self.webhook_secret_file.as_deref(), cx, &mut faults)
            .and_then(|secret| or_fault(Signer::try_new(secret.expose()), key, &mut faults));
        let headers = self.headers(signer.is_some(), cx, &mut faults);
        let client = self.client(target.as_ref(), timeout, cx, &mut faults);
        let (Some(target), Some(client), true) = (target, client, faults.is_empty()) else {
            return Err(faults);
        };
        let method = match self.method {
            Method::Post => reqwest::Method::POST,
            Method::Put => reqwest::Method::PUT,
            Method::Patch => reqwest::Method::PATCH,
            Method::Delete => reqwest::Method::DELETE,
        };
        Ok(Sender::each(Http { client, target, method, headers, signer, timeout, keep_result: cx.options.keep_result }))
    }

    fn codes() -> Option<Vec<Code>> {
        Some(table::codes())
    }

    fn uses_tls() -> bool {
        true
    }
}

impl Config {
    fn target(&self, cx: &Context, faults: &mut Vec<Fault>) -> Option<Target> {
        let before = faults.len();
        let url = match (secret("url", self.url.as_ref(), self.url_file.as_deref(), cx, faults), &self.unix) {
            (Some(url), _) => url,
            (None, _) if faults.len() > before => return None,
            (None, Some(_)) => Secret::new("http://localhost/"),
            (None, None) => {
                faults.push(Fault::new("url", "is missing; write where to send, such as https://host/path, or `unix` with the path of a socket"));
                return None;
            }
        };
        or_fault(Target::try_new(url.expose()), if self.url_file.is_some() { "url_file" } else { "url" }, faults)
    }

    /// The headers of every request. Values are marked sensitive, so that no client library logs them.
    fn headers(&self, signed: bool, cx: &Context, faults: &mut Vec<Fault>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("redrive/", env!("CARGO_PKG_VERSION"))));
        let mut set = |path: String, name: &str, value: &str, faults: &mut Vec<Fault>| match header(name, value, signed) {
            Ok((name, value)) => {
                let twice = name != USER_AGENT && headers.insert(name.clone(), value.clone()).is_some();
                if twice {
                    faults.push(Fault::new(path, format!("`{name}` is set twice")));
                } else {
                    headers.insert(name, value);
                }
            }
            Err(message) => faults.push(Fault::new(path, message)),
        };
        for (name, value) in &self.headers {
            set(format!("headers.{name}"), name, value.expose(), faults);
        }
        for (name, file) in &self.headers_file {
            let path = format!("headers_file.{name}");
            if let Some(value) = or_fault(crate::secret::read(&cx.path(file)), &path, faults) {
                set(path, name, value.expose(), faults);
            }
        }
        if let Some(token) = secret("bearer", self.bearer.as_ref(), self.bearer_file.as_deref(), cx, faults) {
            let key = if self.bearer_file.is_some() { "bearer_file" } else { "bearer" };
            set(key.into(), AUTHORIZATION.as_str(), &format!("Bearer {}", token.expose()), faults);
        }
        if let Some(basic) = &self.basic {
            if basic.username.contains(':') {
                faults.push(Fault::new("basic.username", "must not contain a colon"));
            }
            let password = secret("basic.password", basic.password.as_ref(), basic.password_file.as_deref(), cx, faults);
            let pair = format!("{}:{}", basic.username, password.as_ref().map_or("", Secret::expose));
            set("basic".into(), AUTHORIZATION.as_str(), &format!("Basic {}", STANDARD.encode(pair)), faults);
        }
        headers
    }

    fn client(&self, target: Option<&Target>, timeout: Duration, cx: &Context, faults: &mut Vec<Fault>) -> Option<reqwest::Client> {
        let before = faults.len();
        let idle = cx.options.in_flight.map_or(MOST_IDLE, |count| usize::try_from(count).unwrap_or(MOST_IDLE).min(1024));
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .tls_backend_native()
            .tcp_keepalive(Duration::from_secs(15))
            // With HTTP/2 all requests would share one connection: a message that waits there for a free stream times out, and is sent twice.
            .http1_only()
            // A message that was taken must not be sent again because the answer's head is sloppy: only the status and two headers matter.
            .http1_max_headers(MOST_ANSWER_HEADERS)
            .http1_allow_obsolete_multiline_headers_in_responses(true)
            .http1_allow_spaces_after_header_name_in_responses(true)
            .http1_ignore_invalid_headers_in_responses(true)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(idle)
            .dns_resolver(Resolver);
        // If the send's timeout is shorter, it fires first, and reports itself.
        if timeout > CONNECT_TIMEOUT {
            builder = builder.connect_timeout(CONNECT_TIMEOUT);
        }
        if let Some(socket) = &self.unix {
            builder = builder.unix_socket(cx.folder.join(socket));
        }
        if let Some(proxy) = secret("proxy", self.proxy.as_ref(), self.proxy_file.as_deref(), cx, faults) {
            let key = if self.proxy_file.is_some() { "proxy_file" } else { "proxy" };
            if self.unix.is_some() {
                faults.push(Fault::new(key, "can't be used with `unix`"));
            }
            if let Some(proxy) = or_fault(proxy_for(&proxy), key, faults) {
                builder = builder.proxy(proxy);
            }
        }
        if let Some(tls) = &cx.options.tls {
            if target.is_some_and(|target| !target.is_https()) {
                faults.push(Fault::new("tls", "has no effect: the URL is not https"));
            }
            builder = with_tls(builder, tls, cx, faults);
        }
        if faults.len() > before {
            return None;
        }
        or_fault(builder.build().map_err(|error| format!("no HTTP client can be built with it: {error}")), "", faults)
    }
}

fn header(name: &str, value: &str, signed: bool) -> Result<(HeaderName, HeaderValue), String> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is not a valid HTTP header name"))?;
    if request::is_reserved(&name) || (signed && request::is_signature(&name)) {
        return Err(format!("`{name}` is set by redrive itself"));
    }
    let mut value = request::header_value(value).ok_or_else(|| format!("the value of `{name}` contains a character that HTTP does not allow"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

fn proxy_for(proxy: &Secret) -> Result<reqwest::Proxy, String> {
    let url = Url::parse(proxy.expose()).map_err(|error| format!("is not a URL ({error}); write http://proxy:3128"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must begin with http:// or https://".into());
    }
    reqwest::Proxy::all(url).map_err(|error| error.without_url().to_string())
}

fn with_tls(mut builder: reqwest::ClientBuilder, tls: &Tls, cx: &Context, faults: &mut Vec<Fault>) -> reqwest::ClientBuilder {
    let files = match tls.read(&cx.folder, tls::PKCS8) {
        Ok(files) => files,
        Err(more) => {
            faults.extend(more);
            return builder;
        }
    };
    if let Some(ca) = files.ca {
        let certificates = reqwest::Certificate::from_pem_bundle(&ca).map_err(|error| format!("is not a bundle of certificates in PEM: {error}"));
        if let Some(certificates) = or_fault(certificates, "tls.ca", faults) {
            builder = builder.tls_certs_merge(certificates);
        }
    }
    if let Some((cert, key)) = files.identity {
        let identity = reqwest::Identity::from_pkcs8_pem(&cert, &key)
            .map_err(|error| format!("certificate and key can't be used ({error}); the key must be PKCS#8 and fit the certificate"));
        if let Some(identity) = or_fault(identity, "tls.key", faults) {
            builder = builder.identity(identity);
        }
    }
    builder
}

/// A secret that may be given in the configuration or in a file.
fn secret(key: &str, value: Option<&Secret>, file: Option<&Path>, cx: &Context, faults: &mut Vec<Fault>) -> Option<Secret> {
    let secret = cx.secret(key, value.cloned(), file).map_err(|fault| faults.push(fault)).ok()??;
    if secret.expose().is_empty() {
        faults.push(Fault::new(key, "is empty"));
        return None;
    }
    Some(secret)
}

fn or_fault<T>(result: Result<T, String>, path: &str, faults: &mut Vec<Fault>) -> Option<T> {
    result.map_err(|message| faults.push(Fault::new(path, message))).ok()
}

/// The system's own resolver, with an error type that can be told apart from others.
struct Resolver;

impl reqwest::dns::Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        Box::pin(async move {
            match tokio::net::lookup_host((name.as_str(), 0)).await {
                Ok(addresses) => Ok(Box::new(addresses.collect::<Vec<_>>().into_iter()) as reqwest::dns::Addrs),
                Err(error) => Err(table::LookUp(error).into()),
            }
        })
    }
}
