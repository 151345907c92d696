//! `docs/openapi.yaml` and the code agree.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use redrive::api::Code;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::client;
use crate::support::yaml::documents;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| documents(include_str!("../../../docs/openapi.yaml")).remove(0));

/// Statuses that any path may answer; the document mentions them once, at its top.
const ANYWHERE: [u16; 8] = [401, 403, 404, 405, 408, 413, 414, 429];
const METHODS: [&str; 3] = ["get", "post", "put"];

/// Fails if the document does not mention such an answer.
pub(crate) fn assert_documented(method: &Method, path: &str, status: StatusCode) {
    if ANYWHERE.contains(&status.as_u16()) {
        return;
    }
    let template = DOCUMENT["paths"].as_object().unwrap().keys().filter(|template| matches(template, path)).max_by_key(|template| {
        // A word beats a parameter.
        template.split('/').filter(|part| !part.starts_with('{')).count()
    });
    let template = template.unwrap_or_else(|| panic!("{path} is not in the document"));
    let responses = &DOCUMENT["paths"][template][method.as_str().to_lowercase()]["responses"];
    assert!(responses.get(status.as_str()).is_some(), "{method} {template} answered {status}, which the document does not know");
}

fn matches(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    template.len() == path.len() && template.iter().zip(&path).all(|(part, given)| part.starts_with('{') || part == given)
}

#[tokio::test]
async fn each_operation_of_the_document_is_served_and_each_route_is_in_the_document() {
    let client = client("").await;
    let mut documented = BTreeSet::new();
    for (template, item) in DOCUMENT["paths"].as_object().unwrap() {
        let path = template.replace("{id}", "01890a5d-ac96-774b-bcce-b302099a8057").replace("{source}", "main").replace("{topic}", "t");
        for method in METHODS.into_iter().filter(|method| item.get(method).is_some()) {
            documented.insert((template.clone(), method.to_owned()));
            let answer = client.send(client.request(method.to_uppercase().parse().unwrap(), &path)).await;
            assert!(answer.status != 405 && !answer.text.contains("nothing at this path"), "{method} {template}: {answer:?}");
        }
        let answer = client.send(client.request(Method::DELETE, &path)).await;
        assert_eq!(answer.problem().1, "method_not_allowed");
        let allowed: BTreeSet<_> = answer.headers["allow"].to_str().unwrap().split(',').map(|method| method.trim().to_lowercase()).collect();
        let written: BTreeSet<_> = METHODS.into_iter().filter(|method| item.get(method).is_some()).map(str::to_owned).collect();
        assert_eq!(allowed.into_iter().filter(|method| method != "head").collect::<BTreeSet<_>>(), written, "{template}");
    }
    // The router's paths are read from its source; the loop above checked that each is answered with the methods of the document.
    let routes = include_str!("../../../src/api/routes.rs").lines().filter_map(|line| line.trim().strip_prefix(".route(\"")?.split('"').next());
    let routes: BTreeSet<_> = routes.map(str::to_owned).collect();
    assert_eq!(routes, documented.into_iter().map(|(template, _)| template).collect());
    client.app.end().await;
}

#[test]
fn each_status_of_the_document_is_one_that_the_code_answers() {
    let problems: BTreeSet<u16> = Code::ALL.iter().map(|code| code.status().as_u16()).collect();
    for (template, item) in DOCUMENT["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(method, _)| METHODS.contains(&method.as_str())) {
            for status in operation["responses"].as_object().unwrap().keys() {
                let status: u16 = status.parse().unwrap();
                assert!(matches!(status, 200 | 202) || problems.contains(&status), "{method} {template}: {status}");
            }
        }
    }
}
