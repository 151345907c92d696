//! The error table, row by row, and servers that behave badly.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redrive::message::Headers;
use redrive::outcome::{Class, MAX_RESULT, Outcome};
use redrive::source::Source;
use serde_json::{Value, json};

use crate::support::changed;
use crate::support::endpoint::{Reply, SOON, Server, answer, build, closed_port, http_to, message, raw_server, said};

fn to(url: &str, options: Value) -> Arc<dyn Source> {
    build("http", json!({ "url": url }), options, Path::new(".")).unwrap()
}

#[tokio::test]
async fn each_status_is_what_the_table_says() {
    let status = Arc::new(Mutex::new(200_u16));
    let now = status.clone();
    let server = Server::start(move |_| answer(&format!("{} Because", now.lock().unwrap()), "", ""));
    let source = http_to(&server, &json!({}), json!({}));
    for code in [200, 201, 202, 206, 299] {
        *status.lock().unwrap() = code;
        assert_eq!(source.send(&message("x")).await, Outcome::succeeded(), "{code}");
    }
    let permanent = [400, 410, 413, 414, 415, 422, 431, 451];
    let unreachable = [502, 503, 504, 521, 522, 523, 524];
    let refused = [
        300, 301, 302, 303, 307, 308, 401, 402, 403, 404, 405, 406, 407, 408, 409, 412, 421, 423, 425, 428, 429, 500, 501, 505, 507, 511, 520, 599,
        999,
    ];
    for (class, codes) in [(Class::Permanent, &permanent[..]), (Class::Unreachable, &unreachable), (Class::Refused, &refused)] {
        for code in codes {
            *status.lock().unwrap() = *code;
            let outcome = source.send(&message("x")).await;
            assert_eq!(said(&outcome), (class, format!("http_{code}").as_str()));
            assert!(outcome.detail.starts_with(&code.to_string()), "{}", outcome.detail);
        }
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::start(|_| answer("200 OK", "", ""));
    let location = format!("Location: {}\r\n", elsewhere.url("/stolen"));
    let server = Server::start(move |_| answer("307 Temporary Redirect", &location, ""));
    let source = http_to(&server, &json!({ "bearer": "hunter2" }), json!({}));
    let outcome = source.send(&message("x")).await;
    assert_eq!(said(&outcome), (Class::Refused, "http_307"));
    assert!(outcome.detail.contains("redirects are not followed"));
    assert_eq!(elsewhere.connections(), 0);
}

/// A time long ago, plus this many seconds.
fn http_date(seconds: i64) -> String {
    chrono::DateTime::from_timestamp(784_111_740 + seconds, 0).unwrap().format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

#[tokio::test]
async fn the_wait_that_a_server_asks_for_is_heard() {
    let asked = Arc::new(Mutex::new(("429 Too Many Requests", String::new())));
    let now = asked.clone();
    let server = Server::start(move |_| {
        let (status, wait) = now.lock().unwrap().clone();
        answer(status, &format!("Date: {}\r\nRetry-After: {wait}\r\n", http_date(0)), "")
    });
    let source = http_to(&server, &json!({}), json!({}));
    let ask = async |status, wait: String| {
        *asked.lock().unwrap() = (status, wait);
        source.send(&message("x")).await.retry_after
    };
    assert_eq!(ask("429 Too Many Requests", "120".into()).await, Some(Duration::from_secs(120)));
    assert_eq!(ask("503 Service Unavailable", "7".into()).await, Some(Duration::from_secs(7)));
    assert_eq!(ask("503 Service Unavailable", http_date(100)).await, Some(Duration::from_secs(100)), "whose clock is hours behind ours");
    assert_eq!(ask("503 Service Unavailable", "soon".into()).await, None);
}

#[tokio::test]
async fn nobody_there_is_unreachable_and_says_how() {
    let refused = to(&format!("http://127.0.0.1:{}/?key=hunter2", closed_port()), json!({}));
    let outcome = refused.send(&message("x")).await;
    assert_eq!(said(&outcome), (Class::Unreachable, "http_connect"));
    assert!(outcome.detail.contains("refused") && !outcome.detail.contains("hunter2"), "{}", outcome.detail);

    let nowhere = to("http://redrive.invalid/", json!({}));
    assert_eq!(said(&nowhere.send(&message("x")).await), (Class::Unreachable, "http_dns"));

    let address = raw_server(drop);
    assert_eq!(said(&to(&format!("http://{address}/"), json!({})).send(&message("x")).await), (Class::Unreachable, "http_closed"));

    let plain = Server::start(|_| answer("200 OK", "", ""));
    let tls = to(&plain.url("/").replace("http:", "https:"), json!({}));
    assert_eq!(said(&tls.send(&message("x")).await), (Class::Unreachable, "http_tls"));
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_times_out() {
    for said_before in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 100 Continue\r\n\r\n"] {
        let server = Server::start(move |_| Reply::Stall(said_before.to_vec()));
        let source = http_to(&server, &json!({}), json!({ "timeout": "200ms" }));
        let begun = Instant::now();
        let outcome = source.send(&message("x")).await;
        assert_eq!(said(&outcome), (Class::Unreachable, "http_timeout"), "{}", outcome.detail);
        assert!(begun.elapsed() >= Duration::from_millis(200) && begun.elapsed() < SOON);
    }
}

#[tokio::test]
async fn half_a_head_is_no_answer() {
    let server = Server::start(|_| Reply::Last(b"HTTP/1.1 200 OK\r\nContent-".to_vec()));
    assert_eq!(said(&http_to(&server, &json!({}), json!({})).send(&message("x")).await), (Class::Unreachable, "http_closed"));
}

#[tokio::test]
async fn what_speaks_no_http_is_refused() {
    for greeting in ["SSH-2.0-OpenSSH_9.2\r\n", "HTTP/1.1 2000 OK\r\n\r\n"] {
        let server = Server::start(|_| Reply::Last(greeting.into()));
        let outcome = http_to(&server, &json!({}), json!({})).send(&message("x")).await;
        assert_eq!(said(&outcome), (Class::Refused, "http_protocol"), "{}", outcome.detail);
    }
}

#[tokio::test]
async fn an_answer_whose_head_is_sloppy_is_heard_all_the_same() {
    let many: String = (0..150).map(|n| format!("X-{n}: a\r\n")).collect();
    for lines in [many, "X-A: a\r\n b\r\n".to_owned(), "X-A : a\r\n".to_owned(), "no header at all\r\n".to_owned()] {
        let sloppy = lines.clone();
        let server = Server::start(move |request| match request.body.as_slice() {
            b"good" => answer("201 Created", &sloppy, ""),
            _ => answer("503 Service Unavailable", &format!("{sloppy}Retry-After: 7\r\n"), ""),
        });
        let source = http_to(&server, &json!({}), json!({}));
        assert_eq!(source.send(&message("good")).await, Outcome::succeeded(), "{lines}");
        let outcome = source.send(&message("bad")).await;
        assert_eq!((said(&outcome), outcome.retry_after), ((Class::Unreachable, "http_503"), Some(Duration::from_secs(7))), "{lines}");
    }
}

#[tokio::test]
async fn the_head_of_an_answer_counts_whatever_becomes_of_its_body() {
    let heads = ["HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nnonsense"];
    for head in heads {
        let server = Server::start(|_| Reply::Last(head.into()));
        let source = http_to(&server, &json!({}), json!({ "keep_result": true }));
        assert_eq!(source.send(&message("x")).await, Outcome::succeeded().with_result(r#"{"status":200,"body":"half"}"#));
        let stalling = Server::start(|_| Reply::Stall(head.into()));
        let begun = Instant::now();
        let source = http_to(&stalling, &json!({}), json!({ "keep_result": true, "timeout": "2m" }));
        assert_eq!(source.send(&message("x")).await, Outcome::succeeded().with_result(r#"{"status":200,"body":"half"}"#));
        assert!(begun.elapsed() < Duration::from_secs(60), "the body is not waited for: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let address = raw_server(move |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = [b"10000\r\n", &vec![b'"'; 0x10000][..], b"\r\n"].concat();
        while stream.write_all(&chunk).is_ok() && count.fetch_add(chunk.len(), Ordering::SeqCst) < 1 << 30 {}
    });
    let source = to(&format!("http://{address}/"), json!({ "keep_result": true }));
    let outcome = source.send(&message("x")).await;
    assert_eq!(outcome.class, Class::Succeeded);
    let result = outcome.result.unwrap();
    assert!(result.len() <= MAX_RESULT && serde_json::from_str::<Value>(&result).is_ok());
    assert!(written.load(Ordering::SeqCst) < 64 << 20, "what the kernel buffers, not all of it");
}

#[tokio::test]
async fn what_a_server_says_of_a_failure_is_kept_where_results_are() {
    let server = Server::start(|_| answer("422 Unprocessable Entity", "", "no such \"customer\"\0"));
    let kept = http_to(&server, &json!({}), json!({ "keep_result": true })).send(&message("x")).await;
    assert_eq!(kept.result.unwrap(), "{\"status\":422,\"body\":\"no such \\\"customer\\\"\u{fffd}\"}");
    assert_eq!(http_to(&server, &json!({}), json!({})).send(&message("x")).await.result, None);
}

#[tokio::test]
async fn a_refusal_before_the_body_is_read_is_heard() {
    let address = raw_server(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let _ = stream.shutdown(Shutdown::Write);
        // The rest is read and discarded, as servers do, so that the answer is not lost to a reset.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let outcome = to(&format!("http://{address}/"), json!({})).send(&message(vec![0; 8 << 20])).await;
    assert_eq!(said(&outcome), (Class::Permanent, "http_413"), "{}", outcome.detail);
}

#[tokio::test]
async fn headers_past_every_measure_fail_the_message_and_nothing_else() {
    let server = Server::start(|_| answer("200 OK", "", ""));
    let source = http_to(&server, &json!({}), json!({}));
    let pairs = (0..100_000).map(|n| (format!("x-{n}"), "v".to_owned())).collect();
    let outcome = source.send(&changed(message("x"), |message| message.headers = Headers::new(pairs))).await;
    assert_eq!(said(&outcome), (Class::Permanent, "http_headers"));
    assert_eq!(source.send(&message("x")).await, Outcome::succeeded());
}
