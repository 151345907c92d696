//! `/healthz`, `/readyz`, `/metrics`: nothing secret, no token.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;

use super::{App, answer};

/// Looks only at the process: it answers, so it is alive.
pub(super) async fn healthz() -> Response {
    fresh(answer::written(StatusCode::OK, br#"{"status":"ok"}"#.to_vec()))
}

/// Whether the node can accept durably; the state of its sources is in the body, and never makes it unready.
pub(super) async fn readyz(State(app): State<App>) -> Response {
    let status = app.handle().status();
    let code = if status.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    fresh(answer::json(code, &status))
}

pub(super) async fn metrics(State(app): State<App>) -> Response {
    let text = (app.0.metrics)();
    let kind = if text.ends_with("# EOF\n") {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// An answer that must not be cached.
fn fresh(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
