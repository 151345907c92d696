//! Which handler answers a request.

use axum::Router;
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Method, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use bytes::Bytes;
use tower_service::Service;

use super::problem::{Code, Problem};
use super::{App, batch, health, messages, publish, submit};

/// The handlers of a port.
pub(super) struct Routes {
    router: Router,
    /// Set if messages are accepted here.
    publish: Option<App>,
}

impl Routes {
    /// The whole API.
    pub(super) fn api(app: App) -> Self {
        let router = Router::new()
            .route("/v1/messages", get(messages::list).post(submit::submit))
            .route("/v1/messages/batch", post(batch::submit))
            .route("/v1/messages/retry", post(messages::retry_many))
            .route("/v1/messages/{id}", get(messages::get))
            .route("/v1/messages/{id}/attempts", get(messages::attempts))
            .route("/v1/messages/{id}/retry", post(messages::retry))
            .route("/v1/messages/{id}/cancel", post(messages::cancel))
            .route("/v1/messages/{id}/payload", put(messages::replace_payload))
            .route("/v1/publish/{source}", post(publish::publish))
            .route("/v1/publish/{source}/{topic}", post(publish::publish_to));
        Self { router: with_health(router, app.clone()), publish: Some(app) }
    }

    /// Health and metrics alone, for a port that is open to others.
    pub(super) fn health(app: App) -> Self {
        Self::of(with_health(Router::new(), app))
    }

    /// Only what a router has.
    pub(super) fn of(router: Router) -> Self {
        Self { router, publish: None }
    }

    /// Answers a request whose body has arrived.
    pub(super) async fn answer(&self, head: Parts, body: Bytes) -> Response {
        // Most requests publish, and the router's work (boxed futures, a map of extensions) would be a tenth of what such a request costs.
        if let Some(app) = &self.publish
            && let Some((source, topic)) = plain_target(&head)
        {
            return publish::take(app, source.to_owned(), topic.map(str::to_owned), &head, body).await.into_response();
        }
        let body = if body.is_empty() { Body::empty() } else { Body::from(body) };
        self.router.clone().call(Request::from_parts(head, body)).await.unwrap_or_else(|never| match never {})
    }
}

fn with_health(router: Router<App>, app: App) -> Router {
    router
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .fallback(async || Problem::new(Code::NotFound, "there is nothing at this path; docs/api.md lists the paths"))
        .method_not_allowed_fallback(async |method: Method| {
            Problem::new(Code::MethodNotAllowed, format!("{method} is not allowed; the header Allow lists the methods"))
        })
        .with_state(app)
}

/// The source and topic to publish to, if the path spells them without any encoding; every other path is left to the router.
fn plain_target(head: &Parts) -> Option<(&str, Option<&str>)> {
    let path = head.uri.path().strip_prefix("/v1/publish/").filter(|path| head.method == Method::POST && !path.contains('%'))?;
    let (source, topic) = path.split_once('/').map_or((path, None), |(source, topic)| (source, Some(topic)));
    (!source.is_empty() && topic.is_none_or(|topic| !topic.is_empty() && !topic.contains('/'))).then_some((source, topic))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(method: Method, uri: &str) -> Option<(String, Option<String>)> {
        let (head, ()) = Request::builder().method(method).uri(uri).body(()).unwrap().into_parts();
        plain_target(&head).map(|(source, topic)| (source.to_owned(), topic.map(str::to_owned)))
    }

    /// What the router makes of the same paths.
    async fn routed(method: Method, uri: &str) -> Option<(String, Option<String>)> {
        use axum::extract::Path;
        let one = async |Path(source): Path<String>| source;
        let two = async |Path((source, topic)): Path<(String, String)>| format!("{source}\n{topic}");
        let mut router = Router::<()>::new().route("/v1/publish/{source}", post(one)).route("/v1/publish/{source}/{topic}", post(two));
        let response = router.call(Request::builder().method(method).uri(uri).body(Body::empty()).unwrap()).await.unwrap();
        let found = response.status().is_success();
        let text = String::from_utf8(axum::body::to_bytes(response.into_body(), 1024).await.unwrap().to_vec()).unwrap();
        found.then(|| text.split_once('\n').map_or((text.clone(), None), |(source, topic)| (source.to_owned(), Some(topic.to_owned()))))
    }

    #[tokio::test]
    async fn a_plain_path_means_what_it_means_to_the_router() {
        for path in ["a", "a/b", "a?key=x/y%20", "a+b/c.d~e", "a;b=c", ":a/*b", ".", "a/.."] {
            let uri = format!("/v1/publish/{path}");
            let plain = target(Method::POST, &uri);
            assert!(plain.is_some(), "{uri}");
            assert_eq!(plain, routed(Method::POST, &uri).await, "{uri}");
            assert_eq!(target(Method::GET, &uri), None, "{uri}");
        }
        let others = ["/v1/publish", "/v1/publish/", "/v1/publish//", "/v1/publish/a/", "/v1/publish//a", "/v1/publish/a//b", "/v1/publish/a/b/"];
        for uri in others.into_iter().chain(["/v1/publish/a/b/c", "/v1/publish/a%2Fb", "/v1/publish/a/%ff", "/v1/publis/a", "/V1/publish/a"]) {
            assert_eq!(target(Method::POST, uri), None, "{uri} is the router's");
        }
    }
}
