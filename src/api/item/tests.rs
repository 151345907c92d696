use std::time::Duration;

use super::*;

fn submit(text: &str) -> Result<Submission, Problem> {
    let body = Bytes::copy_from_slice(text.as_bytes());
    parse(&body, &body, Take::Share)
}

fn problem(text: &str) -> (String, String) {
    let item = serde_json::to_value(submit(text).expect_err(text).item()).unwrap();
    (item["code"].as_str().unwrap().to_owned(), item["field"].as_str().unwrap_or_default().to_owned())
}

fn payload(value: &str) -> Option<Bytes> {
    submit(&format!(r#"{{"source":"s","payload":{value}}}"#)).unwrap().payload
}

#[test]
fn a_string_is_its_text_and_any_other_value_the_bytes_as_written() {
    for (written, sent) in [
        (r#""hi""#, "hi"),
        (r#""a\nb \u00e9""#, "a\nb é"),
        (r#""""#, ""),
        (r#"{"b": 1.0,"a":123456789012345678901234567890, "a":2}"#, r#"{"b": 1.0,"a":123456789012345678901234567890, "a":2}"#),
        ("[ 1 , 2 ]", "[ 1 , 2 ]"),
        ("1e400", "1e400"),
        ("null", "null"),
        ("true", "true"),
    ] {
        assert_eq!(payload(written).unwrap(), sent.as_bytes(), "{written}");
    }
}

#[test]
fn a_payload_may_be_base64_or_a_tombstone_and_is_exactly_one() {
    assert_eq!(submit(r#"{"source":"s","payload_base64":"AP8="}"#).unwrap().payload.unwrap(), &[0_u8, 255][..]);
    assert_eq!(submit(r#"{"source":"s","tombstone":true}"#).unwrap().payload, None);
    assert_eq!(submit(r#"{"source":"s","payload":"x","tombstone":false}"#).unwrap().payload.unwrap(), "x");
    for text in [
        r#"{"source":"s"}"#,
        r#"{"source":"s","tombstone":false}"#,
        r#"{"source":"s","payload":"x","tombstone":true}"#,
        r#"{"source":"s","payload":"x","payload_base64":"AP8="}"#,
        r#"{"source":"s","payload":null,"tombstone":true}"#,
    ] {
        assert_eq!(problem(text), ("invalid_field".into(), "payload".into()), "{text}");
    }
    assert_eq!(problem(r#"{"source":"s","payload_base64":"?"}"#).1, "payload_base64");
    assert_eq!(problem(r#"{"source":"s","payload":"\ud800"}"#).1, "payload");
}

#[test]
fn every_field_arrives() {
    let submission = submit(
        r#"{ "source": "orders-events", "topic": "orders", "key": "o-17", "payload": {"any": "json"}, "headers": {"tenant": "a"},
             "priority": 3, "delay": "5s", "expires_after": "2d", "retry": {"max_retries": 8},
             "idempotency_key": "o-17-created", "mode": "on_failure" }"#,
    )
    .unwrap();
    assert_eq!((submission.source.as_str(), submission.topic.as_deref()), ("orders-events", Some("orders")));
    assert_eq!(submission.key, Some(Key::Text("o-17".into())));
    assert_eq!(submission.headers.get("tenant"), Some("a"));
    assert_eq!((submission.priority, submission.due), (3, Some(Due::After(Duration::from_secs(5)))));
    assert_eq!(submission.expires_after, Some(Limit::After(Span::secs(2 * 24 * 3600))));
    assert_eq!((submission.retry.max_retries, submission.mode), (Some(8), Some(Mode::OnFailure)));
    assert_eq!(submission.idempotency_key.as_deref(), Some("o-17-created"));
}

#[test]
fn a_binary_key_is_base64_and_a_due_time_has_an_offset() {
    let submission = submit(r#"{"source":"s","payload":1,"key_base64":"AP8=","due_at":"2026-01-31T12:00:00+02:00"}"#).unwrap();
    assert_eq!(submission.key, Some(Key::Binary(Bytes::from_static(&[0, 255]))));
    let Some(Due::At(at)) = submission.due else { panic!("{:?}", submission.due) };
    assert_eq!(at.to_rfc3339(), "2026-01-31T10:00:00+00:00");
}

#[test]
fn what_is_wrong_is_named_with_its_path() {
    for (text, code, field) in [
        (r#"{"payload":1}"#, "invalid_field", "source"),
        (r#"{"source":7,"payload":1}"#, "invalid_field", "source"),
        (r#"{"source":"s","payload":1,"colour":"red"}"#, "unknown_field", "colour"),
        (r#"{"source":"s","payload":1,"retry":{"tries":3}}"#, "unknown_field", "retry.tries"),
        (r#"{"source":"s","payload":1,"retry":{"max_retries":-1}}"#, "invalid_field", "retry.max_retries"),
        (r#"{"source":"s","payload":1,"retry":{"first_delay":"soon"}}"#, "invalid_field", "retry.first_delay"),
        (r#"{"source":"s","payload":1,"retry":[8]}"#, "invalid_field", "retry"),
        (r#"{"source":"s","source":"t","payload":1}"#, "invalid_field", "source"),
        (r#"{"source":"s","payload":1,"payload":2}"#, "invalid_field", "payload"),
        (r#"{"source":"s","payload":1,"headers":{"a":{}}}"#, "invalid_field", "headers.a"),
        (r#"{"source":"s","payload":1,"headers":[]}"#, "invalid_field", "headers"),
        (r#"{"source":"s","payload":1,"priority":"high"}"#, "invalid_field", "priority"),
        (r#"{"source":"s","payload":1,"delay":5}"#, "invalid_field", "delay"),
        (r#"{"source":"s","payload":1,"delay":"5s","due_at":"2026-01-31T12:00:00Z"}"#, "invalid_field", "due_at"),
        (r#"{"source":"s","payload":1,"due_at":"tomorrow"}"#, "invalid_field", "due_at"),
        (r#"{"source":"s","payload":1,"due_at":"9999-12-31T23:59:59-10:00"}"#, "invalid_field", "due_at"),
        (r#"{"source":"s","payload":1,"expires_after":"200y"}"#, "invalid_field", "expires_after"),
        (r#"{"source":"s","payload":1,"mode":"later"}"#, "invalid_field", "mode"),
        (r#"{"source":"s","payload":1,"key":"a","key_base64":"YQ=="}"#, "invalid_field", "key_base64"),
        (r#"{"source":"s","payload":1,"order_key":"o-1"}"#, "not_supported", "order_key"),
        (r#"{"source":"s","payload":1,"retry":{"multiplier":1e400}}"#, "invalid_field", "retry.multiplier"),
        (r#"{"source":"s","payload":1,"topic":"\ud800"}"#, "invalid_field", "topic"),
        (r#"["s"]"#, "invalid_field", ""),
        (r#""s""#, "invalid_field", ""),
        ("", "malformed_json", ""),
        ("{", "malformed_json", ""),
        (r#"{"source":"s","payload":1}x"#, "malformed_json", ""),
        (r#"{"source":"s","payload":tru}"#, "malformed_json", ""),
        (r#"{"source":"s","payload":1,"retry":{"multiplier":1e400}"#, "malformed_json", ""),
        (r#"{"source":"s","payload":1,"topic":"\ud80"}"#, "malformed_json", ""),
    ] {
        assert_eq!(problem(text), (code.to_owned(), field.to_owned()), "{text}");
    }
    for priority in ["300", "-1", "10", "9223372036854775807"] {
        let invalid = submit(&format!(r#"{{"source":"s","payload":1,"priority":{priority}}}"#)).unwrap().check().unwrap_err();
        assert_eq!((&*invalid.field, invalid.detail.as_str()), ("priority", "must be between 0 and 9"), "{priority}");
    }
    let not_text = Bytes::from_static(b"{\"source\":\"\xff\",\"payload\":1}");
    assert!(parse(&not_text, &not_text, Take::Share).is_err());
}

#[test]
fn what_is_expected_is_told_in_words() {
    for (text, detail) in [
        (r#"{"source":"s","payload":1,"priority":"high"}"#, r#"invalid type: string "high", expected a whole number"#),
        (r#"{"source":"s","payload":1,"priority":9223372036854775808}"#, "invalid value: integer `9223372036854775808`, expected a smaller number"),
        (r#"{"source":"s","payload":1,"priority":1.5}"#, "invalid type: floating point `1.5`, expected a whole number"),
        (r#"{"source":"s","payload":1,"retry":{"max_retries":-1}}"#, "invalid value: integer `-1`, expected 0 or more"),
        (r#"{"source":"s","payload":1,"retry":{"max_retries":4294967296}}"#, "invalid value: integer `4294967296`, expected a smaller number"),
        (r#"{"source":"s","payload":1,"retry":{"jitter":"much"}}"#, r#"invalid type: string "much", expected a number"#),
        (r#"{"source":7,"payload":1}"#, "invalid type: integer `7`, expected a string"),
        (r#"{"source":"s","payload":1,"mode":"foo"}"#, "must be write_ahead or on_failure"),
    ] {
        let item = serde_json::to_value(submit(text).expect_err(text).item()).unwrap();
        assert_eq!(item["detail"], detail, "{text}");
    }
}

#[test]
fn a_deep_payload_overflows_no_stack() {
    let deep = format!(r#"{{"source":"s","payload":{}{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
    assert_eq!(submit(&deep).unwrap().payload.unwrap().len(), 400_000);
    assert!(submit(&format!(r#"{{"source":"s","payload":1,"headers":{}{}}}"#, "[".repeat(200_000), "]".repeat(200_000))).is_err());
}

#[test]
fn a_large_payload_shares_the_memory_of_its_body_and_a_small_one_does_not_hold_it() {
    let text = format!(r#"{{"source":"s","payload":"{}"}}"#, "x".repeat(100_000));
    let body = Bytes::from(text);
    let within = |part: &Bytes| body.as_ptr_range().contains(&part.as_ptr());
    assert!(within(&parse(&body, &body, Take::Share).unwrap().payload.unwrap()));
    assert!(!within(&parse(&body, &body, Take::Copy).unwrap().payload.unwrap()));
    let body = Bytes::from(format!(r#"{{"source":"s","payload":"{}"}}"#, "small".repeat(100)));
    assert!(!body.as_ptr_range().contains(&parse(&body, &body, Take::Share).unwrap().payload.unwrap().as_ptr()));
}
