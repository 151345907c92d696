//! Faults of a configuration are reported at once and in full.

use serde_json::json;

use crate::support::endpoint::faults;

#[test]
fn every_fault_is_named_by_its_key() {
    let section = json!({
        "url": "ftp://host/",
        "headers": { "bad name": "x", "Content-Length": "7", "X-Line": "hunter2\n" },
        "headers_file": { "X-Key": "/absent/file" },
        "bearer": "hunter2",
        "basic": { "username": "a:b", "password": "hunter2", "password_file": "x" },
        "proxy": "socks5://hunter2@host",
        "webhook_secret": "whsec_hunter2",
    });
    let mut paths = faults("http", section, json!({}));
    paths.sort();
    let expected = [
        "basic",
        "basic.password_file",
        "basic.username",
        "headers.Content-Length",
        "headers.X-Line",
        "headers.bad name",
        "headers_file.X-Key",
        "proxy",
        "url",
        "webhook_secret",
    ];
    assert_eq!(paths, expected);
}

#[test]
fn what_does_not_go_together_is_refused() {
    let url = "http://localhost/";
    assert_eq!(faults("http", json!({}), json!({})), ["url"]);
    assert_eq!(faults("http", json!({ "url": url, "unix": "/s", "proxy": "http://p:1" }), json!({})), ["proxy"]);
    assert_eq!(faults("http", json!({ "url": url, "bearer": "a", "bearer_file": "b" }), json!({})), ["bearer_file"]);
    assert_eq!(faults("http", json!({ "url": url, "bearer": "" }), json!({})), ["bearer"]);
    assert_eq!(faults("http", json!({ "url": url, "bearer": "a", "headers": { "authorization": "b" } }), json!({})), ["bearer"]);
    assert_eq!(faults("http", json!({ "url": url }), json!({ "tls": {} })), ["tls"]);
    let half = json!({ "tls": { "cert": "/absent" } });
    assert_eq!(faults("http", json!({ "url": "https://localhost/" }), half), ["tls.cert", "tls.key"]);
    let signed = json!({ "url": url, "webhook_secret": "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "headers": { "Webhook-Id": "x" } });
    assert_eq!(faults("http", signed, json!({})), ["headers.Webhook-Id"]);
}

#[test]
fn what_may_hold_a_secret_may_stand_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (url, proxy) = (file("url", "https://hook.example/hunter2\n"), file("proxy", "http://user:hunter2@proxy:3128\n"));
    assert!(faults("http", json!({ "url_file": url, "proxy_file": proxy }), json!({})).is_empty());
    assert_eq!(faults("http", json!({ "url": "http://localhost/", "url_file": url }), json!({})), ["url_file"]);
    assert_eq!(faults("http", json!({ "url_file": url, "proxy": "http://p:1", "proxy_file": proxy }), json!({})), ["proxy_file"]);
    assert_eq!(faults("http", json!({ "url_file": url, "unix": "/s", "proxy_file": proxy }), json!({})), ["proxy_file"]);
    let nowhere = file("nowhere", "ftp://hook.example/");
    assert_eq!(faults("http", json!({ "url_file": nowhere, "proxy_file": nowhere }), json!({})), ["url_file", "proxy_file"]);
    let (two_lines, unsigned) = (file("two-lines", "hunter2\nhunter3\n"), file("webhook", "hunter2\n"));
    let keys = json!({ "url": "http://localhost/", "bearer_file": two_lines, "webhook_secret_file": unsigned });
    assert_eq!(faults("http", keys, json!({})), ["webhook_secret_file", "bearer_file"]);
    assert_eq!(faults("http", json!({ "url": "" }), json!({})), ["url"]);
}

#[test]
fn unknown_keys_and_methods_without_a_body_are_refused() {
    let url = "http://localhost/";
    assert_eq!(faults("http", json!({ "url": url, "methode": "POST" }), json!({})).len(), 1);
    assert_eq!(faults("http", json!({ "url": url, "method": "GET" }), json!({})), ["method"]);
    assert!(faults("http", json!({ "url": url, "method": "PUT" }), json!({})).is_empty());
}
