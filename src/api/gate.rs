//! What every request passes before a handler sees it: the check of its token, the limits, and the reading of its whole body.

use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, EXPECT};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Request};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::browser;
use super::connection::{Activity, Phase};
use super::listener::Door;
use super::problem::{Code, Problem};
use super::routes::Routes;
use crate::units::Secret;

/// The maximum length of path and query, in bytes. A key of the maximum length fits.
const MAX_URI: usize = 32 << 10;
/// How much of a refused body is read and discarded, so that a caller that is busy writing gets to read the answer.
const MAX_DISCARD: usize = 64 << 20;
/// And how long this may take.
const DISCARD_FOR: Duration = Duration::from_secs(5);
/// Bodies are counted in units of this many bytes, rounded up.
const UNIT: usize = 1 << 10;

/// The limits of a gate.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// The token that callers must send, if any.
    pub(super) token: Option<Secret>,
    /// The largest body; 0 if none is read.
    pub(super) max_body: usize,
    /// All bodies together.
    pub(super) max_bodies: usize,
    /// How long a body may take.
    pub(super) body_timeout: Duration,
}

/// The gate before the handlers.
pub(super) struct Gate {
    routes: Routes,
    limits: Limits,
    budget: Arc<Semaphore>,
}

impl Gate {
    pub(super) fn new(routes: Routes, limits: Limits) -> Self {
        let budget = Arc::new(Semaphore::new((limits.max_bodies / UNIT).clamp(1, Semaphore::MAX_PERMITS)));
        Self { routes, limits, budget }
    }

    /// Answers a request.
    pub(super) async fn answer(&self, request: Request<Incoming>, activity: &Activity, door: Door) -> Response {
        let (head, body) = request.into_parts();
        // Probes and scrapers send no body. A request that announces one and sends nothing would hold a place while it is waited for, and needs no
        // token for that: hyper answers, discards what has arrived, and closes the connection if that was not all.
        let reads = self.limits.max_body > 0 && !super::is_open(head.uri.path());
        let admitted = if reads {
            tokio::select! {
                biased;
                admitted = self.whole(&head, body, activity, door) => admitted,
                () = activity.enough() => {
                    Err(Problem::new(Code::Draining, "the node is stopping, and the rest of the body has not arrived; nothing was kept"))
                }
            }
        } else {
            drop(body);
            self.admit(&head, door).map(|()| (Bytes::new(), None))
        };
        activity.enter(Phase::Handling);
        let response = match admitted {
            Ok((bytes, permit)) => {
                let response = self.routes.answer(head, bytes).await;
                drop(permit);
                response
            }
            Err(problem) => problem.into_response(),
        };
        activity.enter(Phase::Writing);
        response
    }

    /// The whole body of an authorised request. Until that is known, others may take the connection's place.
    async fn whole(&self, head: &Parts, body: Incoming, activity: &Activity, door: Door) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Problem> {
        let admitted =
            self.admit(head, door).and_then(|()| if body.size_hint().lower() > self.limits.max_body as u64 { Err(self.too_large()) } else { Ok(()) });
        match admitted {
            Ok(()) => {
                activity.enter(Phase::Body);
                self.read(body, activity).await
            }
            Err(problem) => {
                discard(&head.headers, body, activity).await;
                Err(problem)
            }
        }
    }

    fn admit(&self, head: &Parts, door: Door) -> Result<(), Problem> {
        if !super::is_open(head.uri.path()) {
            self.allow(&head.headers, door)?;
        }
        if head.uri.path_and_query().is_some_and(|uri| uri.as_str().len() > MAX_URI) {
            return Err(Problem::new(Code::UriTooLong, format!("path and query may be at most {MAX_URI} bytes long")));
        }
        Ok(())
    }

    fn allow(&self, headers: &HeaderMap, door: Door) -> Result<(), Problem> {
        let Some(token) = &self.limits.token else {
            // A token is proof enough: no browser sends one by itself.
            if browser::is_foreign(headers, door) {
                let detail = "the request may come from a web page of another site, because its `Origin` or `Host` is neither `localhost` nor a \
                              loopback address; use one of these, or set `api.token` and send the token";
                return Err(Problem::new(Code::Forbidden, detail));
            }
            return Ok(());
        };
        match bearer(headers) {
            Some(given) if same(given, token.expose().as_bytes()) => Ok(()),
            Some(_) => Err(Problem::new(Code::Unauthorized, "the token does not match `api.token`")),
            None => Err(Problem::new(Code::Unauthorized, "send `Authorization: Bearer …`")),
        }
    }

    /// Reads the whole body and counts it as it arrives: a request that announces much and sends nothing takes nothing away from others.
    async fn read(&self, body: Incoming, activity: &Activity) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Problem> {
        if body.is_end_stream() {
            return Ok((Bytes::new(), None));
        }
        let Ok(read) = timeout(self.limits.body_timeout, self.collect(body)).await else {
            let detail = format!("the body did not arrive within {:?}", self.limits.body_timeout);
            return Err(Problem::new(Code::RequestTimeout, detail));
        };
        match read {
            Ok(read) => Ok(read),
            Err((problem, Some(rest))) => {
                discard(&HeaderMap::new(), rest, activity).await;
                Err(problem)
            }
            Err((problem, None)) => Err(problem),
        }
    }

    async fn collect(&self, mut body: Incoming) -> Result<(Bytes, Option<OwnedSemaphorePermit>), (Problem, Option<Incoming>)> {
        let (mut first, mut all) = (Bytes::new(), BytesMut::new());
        let (mut weight, mut held) = (0_usize, None::<OwnedSemaphorePermit>);
        while let Some(frame) = body.frame().await {
            let data = match frame.map(Frame::into_data) {
                Ok(Ok(data)) => data,
                // Trailers have no meaning here.
                Ok(Err(_)) => continue,
                Err(error) => return Err((Problem::new(Code::IncompleteBody, format!("the request body ended early: {error}")), None)),
            };
            let before = weight.div_ceil(UNIT);
            weight = weight.saturating_add(data.len());
            if weight > self.limits.max_body {
                return Err((self.too_large(), Some(body)));
            }
            let more = u32::try_from(weight.div_ceil(UNIT) - before).unwrap_or(u32::MAX);
            match (Arc::clone(&self.budget).try_acquire_many_owned(more), &mut held) {
                (Ok(permit), None) => held = Some(permit),
                (Ok(permit), Some(held)) => held.merge(permit),
                (Err(_), _) => {
                    let detail = "the bodies of other requests fill the memory reserved for them; try again";
                    return Err((Problem::new(Code::Overloaded, detail), Some(body)));
                }
            }
            // A single frame is used as it is; only a body that comes in several is copied together.
            if first.is_empty() && all.is_empty() {
                first = data;
            } else {
                if all.is_empty() {
                    let left = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX).min(self.limits.max_body);
                    // An announced length is trusted only up to twice of what has arrived.
                    all.reserve(weight + left.min(weight));
                    all.extend_from_slice(&std::mem::take(&mut first));
                }
                all.extend_from_slice(&data);
            }
        }
        let body = if all.is_empty() { first } else { all.freeze() };
        Ok((body, held))
    }

    fn too_large(&self) -> Problem {
        Problem::new(Code::BodyTooLarge, format!("a body may have at most {} bytes", self.limits.max_body))
    }
}

/// Reads the rest of a refused body. A caller that waits for permission to send it (`Expect`) does not get it.
async fn discard(headers: &HeaderMap, mut body: Incoming, activity: &Activity) {
    activity.enter(Phase::Refused);
    if headers.contains_key(EXPECT) {
        return;
    }
    let mut left = MAX_DISCARD;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            let size = frame.data_ref().map_or(0, Bytes::len);
            let Some(less) = left.checked_sub(size) else { return };
            left = less;
        }
    };
    let _ = timeout(DISCARD_FOR, reading).await;
}

/// The token of a request. The scheme is case-insensitive (RFC 9110).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Whether two texts are equal, in a time that does not reveal where they differ (it may reveal their length).
fn same(given: &[u8], wanted: &[u8]) -> bool {
    if given.len() != wanted.len() {
        return false;
    }
    let differences = given.iter().zip(wanted).fold(0, |differences, (a, b)| std::hint::black_box(differences | (a ^ b)));
    std::hint::black_box(differences) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_token_is_the_same() {
        assert!(same(b"abc", b"abc"));
        for other in [&b"abd"[..], b"ab", b"abcd", b"", b"ABC"] {
            assert!(!same(other, b"abc"));
        }
    }

    #[test]
    fn a_token_is_read_behind_its_scheme() {
        let shown = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, axum::http::HeaderValue::from_static(value));
            bearer(&headers).map(<[u8]>::to_vec)
        };
        assert_eq!(shown("Bearer t"), Some(b"t".to_vec()));
        assert_eq!(shown("bearer  t "), Some(b"t".to_vec()));
        for other in ["Basic dDp0", "t", "Bearer", ""] {
            assert_eq!(shown(other), None, "{other}");
        }
    }
}
