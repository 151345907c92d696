//! What is on the wire, and where it goes.

use std::path::Path;
use std::sync::Barrier;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use redrive::message::{Headers, Key};
use redrive::outcome::{Class, Outcome};
use serde_json::json;

use crate::support::changed;
use crate::support::endpoint::{SOON, Server, answer, build, http_to, message, said};

fn ok() -> Server {
    Server::start(|_| answer("200 OK", "", "fine"))
}

#[tokio::test]
async fn a_message_is_one_post_with_its_payload_and_its_facts() {
    let server = ok();
    let source = http_to(&server, &json!({ "headers": { "X-Static": "s" } }), json!({}));
    let forged = [("tenant", "a"), ("Redrive-Id", "forged"), ("X-Static", "forged")];
    let message = changed(message(r#"{"n":1}"#), |message| {
        message.topic = Some("orders/öst".into());
        message.key = Some(Key::Binary(Bytes::from_static(b"k\xff 1")));
        message.headers = Headers::new(forged.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec());
        message.attempt = 3;
    });
    assert_eq!(source.send(&message).await, Outcome::succeeded());
    let request = server.request();
    assert_eq!(request.line, "POST /hook HTTP/1.1");
    assert_eq!(request.body, br#"{"n":1}"#);
    let expected = [
        ("content-length", "7"),
        ("content-type", "application/json"),
        ("redrive-id", &message.id.to_string()),
        ("redrive-topic", "orders/%C3%B6st"),
        ("redrive-key", "k%FF%201"),
        ("redrive-attempt", "3"),
        ("tenant", "a"),
        ("x-static", "s"),
        ("user-agent", concat!("redrive/", env!("CARGO_PKG_VERSION"))),
        ("host", &server.address().to_string()),
    ];
    for (name, value) in expected {
        assert_eq!(request.header(name), value, "{name}");
    }
    assert!(!request.headers.contains_key("transfer-encoding"));
    assert!(!request.headers.contains_key("webhook-signature"));
}

#[tokio::test]
async fn a_tombstone_is_an_empty_body() {
    let server = ok();
    let source = http_to(&server, &json!({ "method": "DELETE" }), json!({}));
    assert_eq!(source.send(&changed(message(""), |message| message.payload = None)).await, Outcome::succeeded());
    let request = server.request();
    assert_eq!((request.line.as_str(), request.header("content-length"), request.body.len()), ("DELETE /hook HTTP/1.1", "0", 0));
    assert!(!request.headers.contains_key("content-type") && !request.headers.contains_key("redrive-key"));
}

#[tokio::test]
async fn a_payload_of_16_mib_arrives_byte_for_byte() {
    let server = ok();
    let payload: Bytes = (0..16_usize << 20).map(|n| u8::try_from(n % 251).unwrap()).collect::<Vec<_>>().into();
    let source = http_to(&server, &json!({}), json!({}));
    assert_eq!(source.send(&message(payload.clone())).await, Outcome::succeeded());
    let request = server.request();
    assert_eq!(request.header("content-type"), "application/octet-stream");
    assert!(request.body == payload);
}

#[tokio::test]
async fn the_topic_goes_into_the_url_only_where_it_says_so() {
    let server = ok();
    let source = build("http", json!({ "url": server.url("/t/{topic}?q={topic}") }), json!({}), Path::new(".")).unwrap();
    let with = |topic: &str| changed(message("x"), |message| message.topic = Some(topic.into()));
    assert_eq!(source.send(&with("a/b c?d")).await, Outcome::succeeded());
    assert_eq!(server.request().line, "POST /t/a%2Fb%20c%3Fd?q=a%2Fb%20c%3Fd HTTP/1.1");
    for bad in [message("x"), with(".."), with("")] {
        assert_eq!(said(&source.send(&bad).await), (Class::Permanent, "http_topic"));
        assert!(source.check(bad.topic.as_deref()).is_err());
    }
    assert!(source.check(Some("orders")).is_ok());
    assert!(!server.has_request(), "nothing was sent");
    assert!(http_to(&server, &json!({}), json!({})).check(None).is_ok());
}

#[tokio::test]
async fn credentials_come_from_the_configuration_or_from_files() {
    let server = ok();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "hunter2\n").unwrap();
    let send = async |section: serde_json::Value| {
        let mut section = section;
        section["url"] = json!(server.url("/"));
        let source = build("http", section, json!({}), folder.path()).unwrap();
        let forged = Headers::new(vec![("authorization".into(), "forged".into()), ("x-api-key".into(), "forged".into())]);
        assert_eq!(source.send(&changed(message("x"), |message| message.headers = forged)).await, Outcome::succeeded());
        server.request()
    };
    let bearer = "Bearer hunter2";
    let basic = format!("Basic {}", STANDARD.encode("redrive:hunter2"));
    assert_eq!(send(json!({ "bearer": "hunter2" })).await.header("authorization"), bearer);
    assert_eq!(send(json!({ "bearer_file": "token" })).await.header("authorization"), bearer);
    assert_eq!(send(json!({ "basic": { "username": "redrive", "password": "hunter2" } })).await.header("authorization"), basic);
    assert_eq!(send(json!({ "basic": { "username": "redrive", "password_file": "token" } })).await.header("authorization"), basic);
    assert_eq!(send(json!({ "headers_file": { "X-Api-Key": "token" } })).await.header("x-api-key"), "hunter2");
    assert_eq!(send(json!({ "headers": { "X-Api-Key": "hunter2" } })).await.header("x-api-key"), "hunter2");
}

/// Verified by different code than signs it: OpenSSL's HMAC over the bytes on the wire.
#[tokio::test]
async fn a_receiver_can_verify_the_signature_as_standard_webhooks_says() {
    let server = ok();
    let folder = tempfile::tempdir().unwrap();
    let keys = [[3_u8; 32], [4; 32]];
    let secrets = keys.map(|key| format!("whsec_{}", STANDARD.encode(key)));
    std::fs::write(folder.path().join("secrets"), secrets.join("\n")).unwrap();
    let section = json!({ "url": server.url("/"), "webhook_secret_file": "secrets" });
    let source = build("http", section, json!({}), folder.path()).unwrap();
    let forged = Headers::new(vec![("webhook-signature".into(), "v1,forged".into()), ("webhook-id".into(), "forged".into())]);
    let message = changed(message("\u{0}payload. with dots."), |message| message.headers = forged);
    assert_eq!(source.send(&message).await, Outcome::succeeded());

    let request = server.request();
    let (id, time) = (request.header("webhook-id"), request.header("webhook-timestamp"));
    assert_eq!(id, message.id.to_string());
    let age = chrono::Utc::now().timestamp() - time.parse::<i64>().unwrap();
    assert!((0..60).contains(&age), "{time}");
    let signed = [format!("{id}.{time}.").as_bytes(), &request.body].concat();
    let expected = keys.map(|key| {
        let key = PKey::hmac(&key).unwrap();
        format!("v1,{}", STANDARD.encode(Signer::new(MessageDigest::sha256(), &key).unwrap().sign_oneshot_to_vec(&signed).unwrap()))
    });
    assert_eq!(request.header("webhook-signature"), expected.join(" "));
}

#[tokio::test]
async fn a_handler_behind_a_unix_socket_is_reached() {
    let folder = tempfile::tempdir().unwrap();
    let requests = Server::start_unix(&folder.path().join("handler.sock"), |_| answer("204 No Content", "", ""));
    let source = build("http", json!({ "unix": "handler.sock" }), json!({}), folder.path()).unwrap();
    assert_eq!(source.send(&message("x")).await, Outcome::succeeded());
    let request = requests.recv_timeout(SOON).unwrap();
    assert_eq!((request.line.as_str(), request.header("host")), ("POST / HTTP/1.1", "localhost"));
    drop(source);

    let with_url = json!({ "unix": "handler.sock", "url": "http://handler/jobs/{topic}" });
    let source = build("http", with_url, json!({}), folder.path()).unwrap();
    assert_eq!(source.send(&changed(message("x"), |message| message.topic = Some("t".into()))).await, Outcome::succeeded());
    assert_eq!(requests.recv_timeout(SOON).unwrap().line, "POST /jobs/t HTTP/1.1");

    let nobody = build("http", json!({ "unix": "absent.sock" }), json!({}), folder.path()).unwrap();
    assert_eq!(said(&nobody.send(&message("x")).await), (Class::Unreachable, "http_connect"));
}

#[tokio::test]
async fn a_proxy_is_used_where_one_is_configured() {
    let proxy = Server::start(|request| match request.header("proxy-authorization") {
        "" => answer("407 Proxy Authentication Required", "", ""),
        _ => answer("200 OK", "", ""),
    });
    let url = "http://redrive.invalid/hook";
    let through = |user: &str| {
        let section = json!({ "url": url, "proxy": format!("http://{user}{}", proxy.address()) });
        build("http", section, json!({}), Path::new(".")).unwrap()
    };
    assert_eq!(through("redrive:hunter2@").send(&message("x")).await, Outcome::succeeded());
    let request = proxy.request();
    assert_eq!(request.line, "POST http://redrive.invalid/hook HTTP/1.1");
    assert_eq!(request.header("proxy-authorization"), format!("Basic {}", STANDARD.encode("redrive:hunter2")));
    assert_eq!(said(&through("").send(&message("x")).await), (Class::Refused, "http_407"));
}

#[tokio::test]
async fn a_hundred_sends_run_at_once() {
    const COUNT: usize = 100;
    // Each answer waits for the hundredth request: if they were sent one after another, none would be answered.
    let barrier = Barrier::new(COUNT);
    let server = Server::start(move |_| {
        barrier.wait();
        answer("200 OK", "", "")
    });
    let source = http_to(&server, &json!({}), json!({ "in_flight": COUNT }));
    let sends = (0..COUNT).map(|n| {
        let source = source.clone();
        tokio::spawn(async move { source.send(&message(n.to_string())).await })
    });
    for send in sends.collect::<Vec<_>>() {
        assert_eq!(send.await.unwrap(), Outcome::succeeded());
    }
    assert_eq!(server.connections(), COUNT);
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let server = Server::start(|_| answer("200 OK", "", &"x".repeat(5000)));
    let source = http_to(&server, &json!({}), json!({}));
    for _ in 0..20 {
        assert_eq!(source.send(&message("x")).await, Outcome::succeeded());
    }
    assert_eq!(server.connections(), 1);
}
