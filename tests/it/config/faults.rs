//! Every fault at once, each with its line; no input causes a panic.

use std::path::Path;

use redrive::config::{Config, Scope};
use redrive::source::Registry;

use super::{parse, parse_with, places};

#[test]
fn a_file_with_many_faults_shows_them_all_with_their_lines() {
    let text = "\
project: Orders!
store:
  url: ${DATABASE_URL_THAT_IS_NOT_SET}
  pol: 8
  pool: many
  timeout: 5
api:
  listen: 0.0.0.0:8087
  max_body: 16MB
poller: { lease: 1s, interval: 10ms, enabled: yes }
polller: {}
sources:
  crm:
    kind: htpp
  a b:
    kind: log
    retry: { jitter: 3, max_retries: -1 }
    brokers: x
    in_flight: \"7\"
    mode: writeahead
  b: { kind: log, timeout: 10s, timeout: 5s }
  c: *x
  d: { timeout: 4s }
  e: 7
  f:
    kind: log
    outcomes: { http_409: fine }
    topics: 5
log: { level: verbose }
health: { listen: 127.0.0.1:8087 }
history: hello
";
    // An alias of nothing is a syntax error, after which nothing more is known.
    let text = text.replace("  c: *x\n", "  c: &x { kind: log }\n");
    let text = format!("{text}idempotency: {{ keep: 1ms }}\n");
    let expected = [
        "1 project",
        "3 store.url",
        "4 store.pol",
        "5 store.pool",
        "6 store.timeout",
        "8 api.listen",
        "9 api.max_body",
        "10 poller.enabled",
        "10 poller.lease",
        "11 polller",
        "14 sources.crm.kind",
        "15 sources.a b",
        "17 sources.a b.retry.max_retries",
        "17 sources.a b.retry.jitter",
        "18 sources.a b.brokers",
        "19 sources.a b.in_flight",
        "20 sources.a b.mode",
        "21 sources.b.timeout",
        "23 sources.d.kind",
        "24 sources.e",
        "27 sources.f.outcomes.http_409",
        "28 sources.f.topics",
        "29 log.level",
        "30 health.listen",
        "31 history",
        "32 idempotency.keep",
    ];
    let mut found = places(&text);
    found.sort_by_key(|place| place.split(' ').next().and_then(|line| line.parse::<usize>().ok()));
    let mut expected = expected.map(str::to_owned).to_vec();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn faults_come_in_order_of_lines_and_name_the_file() {
    let faults = parse("project: orders\npolller: {}\nstore: { pol: 1 }\n").unwrap_err();
    assert_eq!(
        faults.to_string(),
        "redrive.yaml:2: polller: unknown key; did you mean `poller`?\nredrive.yaml:3: store.pol: unknown key; did you mean `pool`?"
    );
}

#[test]
fn a_message_says_what_to_write_instead() {
    let says = |text: &str, words: &str| {
        let faults = parse(text).unwrap_err().to_string();
        assert!(faults.contains(words), "`{faults}` should say `{words}`");
    };
    says("{}", "project: is missing");
    says("project: orders\nstore: { url: ${NONE_SUCH} }", "NONE_SUCH is not set");
    says("project: orders\nstore: { url: $DATABASE_URL }", "write ${NAME} for a variable, or $$NAME for the text itself");
    says("project: orders\nstore: { timeout: 5 }", "write a number with its unit");
    says(
        "project: orders\nsources: { a: { kind: amqp, url: 'amqp://localhost', heartbeat: 5 } }",
        "heartbeat: `5` is not a duration; write a number with its unit",
    );
    says("project: orders\nstore: { timeout: [5] }", "store.timeout: expected a duration such as 10m, found a list");
    says("project: orders\nstore: { timeout: 5M }", "ms, s, m, h, d or w");
    for listen in ["8087", "':8087'", "'*:8087'", "localhost:8087"] {
        says(
            &format!("project: orders\napi: {{ listen: {listen} }}"),
            "write an address and a port such as 127.0.0.1:8087; host names are not accepted",
        );
        says(&format!("project: orders\nhealth: {{ listen: {listen} }}"), "health.listen: write an address and a port");
    }
    says("project: orders\napi: { listen: [8087] }", "expected an address and a port such as 127.0.0.1:8087, found a list");
    says("project: orders\nlog: { format: ~ }", "log.format: must be one of auto, json, text");
    says("project: orders\nlog: { format: { json: 1 } }", "log.format: must be one of auto, json, text");
    says("project: orders\nsources: { a: { kind: log, mode: ~ } }", "mode: must be one of write_ahead, on_failure");
    says("project: orders\nsources: { a: { kind: http, url: 'http://localhost/', method: ~ } }", "method: must be one of POST, PUT, PATCH, DELETE");
    says("project: orders\nsources: { a: { kind: log, tls: {} } }", "tls: has no effect");
    says("project: orders\nsources: { a: { kind: command, argv: [x], tls: {} } }", "tls: has no effect: sources of kind `command` use no");
    says("project: orders\nsources: { a: { kind: http, url: 'http://localhost/', tls: {} } }", "tls: has no effect: the URL is not https");
    says("project: orders\nstore: { tls: {} }", "store.tls: does not apply to SQLite");
    says("project: orders\nstore: { password: x }", "store.password: does not apply to SQLite");
    says("project: orders\nstore: { url: 'postgres://redrive:a/b@db/orders' }", "write @ / ? # % as %40 %2F %3F %23 %25");
    says("project: orders\nstore: { password: x, password_file: y, url: 'mysql://db/x' }", "`store.password` is given too");
    says("project: orders\napi: { listen: 0.0.0.0:1 }", "set `api.token`");
    says("project: orders\nsources: { a: { kind: kafak } }", "did you mean `kafka`?");
    says("project: orders\nsources: { a: { kind: log, tiemout: 1s } }", "did you mean `timeout`?");
    says("project: orders\n\tstore: {}", "tab");
    says("project: orders\nstore: {}\nstore: {}", "given twice, first on line 2");
    says("project: orders\nstore: &a {}\napi: *a", "aliases");
    says("project: orders\n---\nproject: more", "second document");
    says("project: orders\nstore: { url_file: none.txt, url: x }", "leave one of them out");
    says("project: orders\nstore: { url_file: none.txt }", "none.txt can't be read");
    says("project: orders\nsources: { a: { kind: http, url: 'http://localhost/', basic: { user: x } } }", "did you mean `username`?");
    says("project: orders\nstore: { migrate: vrify }", "did you mean `verify`?");
    says("project: orders\npoller: !yes {}\nnode: !secret x", "`!secret` has no meaning here");
}

#[test]
fn a_list_is_no_mapping_wherever_it_stands() {
    let text = "\
project: orders
store: [\"sqlite://x.db\"]
poller: [false]
history:
  keep: [1d]
sources:
  a: { kind: log, retry: [9] }
  b:
    kind: http
    url: http://localhost/
    basic: [u, p]
";
    assert_eq!(places(text), ["2 store", "3 poller", "5 history.keep", "7 sources.a.retry", "11 sources.b.basic"]);
    let faults = parse(text).unwrap_err();
    for fault in faults.list() {
        assert_eq!(fault.message, "expected a mapping (`key: value`), found a list", "{faults}");
    }
    assert_eq!(parse("- a\n").unwrap_err().to_string(), "redrive.yaml:1: expected a mapping (`key: value`), found a list");
}

#[test]
fn what_is_cut_off_is_reported_on_its_last_line() {
    for (text, line) in [
        ("project: orders\nstore: { pool: 1", 2),
        ("project: orders\nstore: { pool: 1\n", 2),
        ("project: orders\nstore:\n  url: x\n  pool\n", 4),
        ("project: orders\nstore:\n  url: x\n  pool\n\n\n", 4),
        ("project: orders\nnode", 2),
        ("project", 1),
    ] {
        assert_eq!(places(text), [format!("{line} ")], "{text:?}");
    }
}

/// Who only looks at the store, or submits to one source, has neither the variables nor the files of the rest.
#[test]
fn what_is_not_looked_at_need_not_be_there() {
    let text = "\
project: orders
store: { url: 'sqlite://x.db' }
api:
  listen: 0.0.0.0:8087
  token: ${TOKEN}
sources:
  a: { kind: amqp, url: 'amqp://localhost', username: \"${A_USER}\", password_file: absent }
  b: { kind: command, argv: [\"${B_PROGRAM}\"], directory: $HOME }
";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let read = |text: &str, scope, variables: &[(&str, &str)]| {
        let environment = |name: &str| variables.iter().find(|(have, _)| *have == name).map(|(_, value)| (*value).to_owned());
        Config::parse(text, Path::new("x.yaml"), &environment, &Registry::default(), scope)
    };
    let at_fault = |text: &str, scope| -> Vec<String> {
        match read(text, scope, &[]) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.list().iter().map(|fault| fault.path.clone()).collect(),
        }
    };
    let of_b = ["sources.b.argv[0]", "sources.b.directory"];
    assert_eq!(at_fault(text, Scope::Store), Vec::<String>::new());
    assert_eq!(at_fault(text, Scope::Source("b")), of_b);
    let all = ["api.token", "sources.a.username", "sources.a.password_file", of_b[0], of_b[1]];
    assert_eq!(at_fault(text, Scope::Whole), all);
    for file in ["token_file: absent", "token_file: ${TOKEN_FILE}"] {
        let text = text.replace("token: ${TOKEN}", file);
        assert_eq!(at_fault(&text, Scope::Store), Vec::<String>::new(), "{file}");
        assert_eq!(at_fault(&text, Scope::Whole)[..2], ["api.token_file", "sources.a.username"], "{file}");
    }
    // One is meant, so that none is missing; it is not one that could be guessed.
    let token = |variables: &[(&str, &str)]| read(text, Scope::Store, variables).unwrap().api.token.unwrap().expose().to_owned();
    assert_ne!(token(&[]), token(&[]));
    assert_eq!(token(&[("TOKEN", "t0ken")]), "t0ken");
    // What it does look at must be there.
    let text = "project: orders\nstore: { url: \"${DB}\" }\nsources: { a: { kind: \"${KIND}\", retry: { max_retries: \"${MOST}\" } } }\n";
    assert_eq!(at_fault(text, Scope::Store), ["store.url", "sources.a.kind", "sources.a.retry.max_retries"]);
}

#[test]
fn a_secret_of_a_file_is_at_fault_where_the_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "hunter2 hunter3\n").unwrap();
    let text = "\
project: orders
store: { url: 'postgres://u:p@db/x', password_file: secret }
api: { token_file: secret }
sources:
  h: { kind: http, url: 'http://localhost/', webhook_secret_file: secret }
  k: { kind: kafka, brokers: ['localhost:1'], username: u, password_file: secret, properties: { sasl.password: x } }
";
    let faults = parse_with(text, &folder.path().join("x.yaml"), &[]).unwrap_err();
    let found: Vec<&str> = faults.list().iter().map(|fault| fault.path.as_str()).collect();
    assert_eq!(found, ["store.password_file", "api.token_file", "sources.h.webhook_secret_file", "sources.k.password_file"], "{faults}");
    assert!(!faults.to_string().contains("hunter"), "{faults}");
}

/// Not that it is a number: once it has quotes, there would be another fault.
#[test]
fn a_number_as_a_property_is_told_what_is_wrong_with_its_value() {
    let said = |property: &str| {
        let text = format!("project: orders\nsources: {{ k: {{ kind: kafka, brokers: ['localhost:1'], properties: {{ {property} }} }} }}\n");
        parse(&text).unwrap_err().list()[0].message.clone()
    };
    for property in ["acks: 1", "enable.idempotence: false", "no.such: 1"] {
        let (name, value) = property.split_once(": ").unwrap();
        let message = said(property);
        assert_eq!(message, said(&format!("{name}: '{value}'")));
        assert!(!message.contains("expected text"), "{message}");
    }
}

#[test]
fn what_is_at_fault_is_reported_once() {
    assert_eq!(places("project: ${NONE_SUCH}"), ["1 project"]);
    assert_eq!(places("project: orders\napi: { listen: '0.0.0.0:1', token: '${NONE_SUCH}' }"), ["2 api.token"]);
    assert_eq!(places("project: orders\napi: { listen: '0.0.0.0:1', token_file: none }"), ["2 api.token_file"]);
    assert_eq!(places("project: orders\nsources:\n  a:\n    kind: kafka\n    brokers: ['${NONE_SUCH}']\n"), ["5 sources.a.brokers[0]"]);
    assert_eq!(places("project: orders\nsources:\n  a:\n    kind: http\n    url: ${NONE_SUCH}\n"), ["5 sources.a.url"]);
}

/// What the value of a variable might have been is not guessed at.
#[test]
fn a_missing_variable_is_the_only_fault_of_what_depends_on_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    let kafka = |keys: &str| format!("sources: {{ k: {{ kind: kafka, brokers: ['localhost:1'], {keys} }} }}");
    for (keys, path) in [
        ("store: { url: '${NONE}', schema: s, notify: true, password: p, tls: { ca: ca.pem } }".to_owned(), "store.url"),
        (kafka("username: u, password: '${NONE}'"), "sources.k.password"),
        (kafka("username: '${NONE}', password_file: ca.pem"), "sources.k.username"),
        (kafka("username: $USER, password: p"), "sources.k.username"),
        (kafka("properties: { security.protocol: ssl, ssl.ca.location: '${NONE}' }"), "sources.k.properties.ssl.ca.location"),
    ] {
        let faults = parse_with(&format!("project: orders\n{keys}\n"), &folder.path().join("x.yaml"), &[]).unwrap_err();
        let found: Vec<&str> = faults.list().iter().map(|fault| fault.path.as_str()).collect();
        assert_eq!(found, [path], "{faults}");
    }
    // This is the user name itself.
    parse(&format!("project: orders\n{}\n", kafka("username: $ConnectionString, password: p"))).unwrap();
}

#[test]
fn a_number_out_of_range_is_told_the_range() {
    let of = |channels: &str, variables: &[(&str, &str)]| {
        let text = format!("project: orders\nsources: {{ q: {{ kind: amqp, url: 'amqp://localhost', channels: {channels} }} }}\n");
        parse_with(&text, Path::new("x.yaml"), variables).unwrap_err().list()[0].message.clone()
    };
    assert_eq!(of("70000", &[]), "expected a whole number from 0 to 65535, found `70000`");
    assert_eq!(of("'7'", &[]), "expected a whole number from 0 to 65535, found text; remove the quotes if there are any");
    for value in ["70000", "-1", "lots"] {
        let told = "expected a whole number from 0 to 65535, but the variable holds something else";
        assert_eq!(of("${N}", &[("N", value)]), told, "{value}");
    }
    let faults = parse_with("project: orders\nstore: { pool: ${N} }\n", Path::new("x.yaml"), &[("N", "5000000000")]).unwrap_err();
    assert!(
        faults.to_string().ends_with("store.pool: expected a whole number from 0 to 4294967295, but the variable holds something else"),
        "{faults}"
    );
}

#[test]
fn a_store_tells_all_its_faults_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.yaml");
    let text = "project: orders\nstore: { url: \"mysql://u@h\", schema: x, table_prefix: \"1A\", pool: 0, timeout: 1ms, notify: true, tls: { ca: c.yaml } }\n";
    std::fs::write(&file, text).unwrap();
    let faults = parse_with(text, &file, &[]).unwrap_err();
    let mut found: Vec<&str> = faults.list().iter().map(|fault| fault.path.as_str()).collect();
    found.sort_unstable();
    assert_eq!(found, ["store.notify", "store.pool", "store.schema", "store.table_prefix", "store.timeout", "store.tls.ca", "store.url"], "{faults}");
}

#[test]
fn a_kind_tells_all_its_faults_too() {
    let text = "\
project: orders
sources:
  a:
    kind: http
    url: nonsense
    method: GRAB
    headrs: {}
    basic: { user: x }
    bearer: [1]
";
    assert_eq!(places(text), ["5 sources.a.url", "6 sources.a.method", "7 sources.a.headrs", "8 sources.a.basic.user", "9 sources.a.bearer"]);
}

#[test]
fn a_file_that_would_take_all_memory_is_refused() {
    let says = |text: &str, words: &str| {
        let faults = parse(text).unwrap_err().to_string();
        assert!(faults.contains(words), "{} should say {words}", faults.chars().take(300).collect::<String>());
    };
    says(&"[".repeat(100_000), "deeper than");
    says(&"{a: ".repeat(100_000), "deeper than");
    says(&format!("project: {}", "x".repeat(2 << 20)), "larger than");
    says(&format!("project: orders\nx: [{}]", "1,".repeat(30_000)), "more than");
    let many = (0..5000).map(|index| format!("key{index}: 1")).collect::<Vec<_>>().join("\n");
    let faults = parse(&many).unwrap_err();
    assert!(faults.list().len() <= 201);
    says(&many, "only the first");
}

/// Every prefix of a rich file, and thousands of damaged copies: each either loads or has faults.
#[test]
fn no_damage_makes_a_panic() {
    let whole = super::documents::uncommented();
    let bytes = whole.as_bytes();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        // xorshift: the same damage in every run.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % below as u64).unwrap()
    };
    let alphabet = b"{}[]:,-#&*!|>'\"%@`$~ \n\t\\?\0\xff\xe2ab01";
    for round in 0..600 {
        let mut damaged = bytes.to_vec();
        if round % 3 == 0 {
            damaged.truncate(random(bytes.len()));
        }
        for _ in 0..=random(6) {
            if damaged.is_empty() {
                break;
            }
            let at = random(damaged.len());
            match random(3) {
                0 => damaged[at] = alphabet[random(alphabet.len())],
                1 => damaged.insert(at, alphabet[random(alphabet.len())]),
                _ => drop(damaged.drain(at..(at + random(40)).min(damaged.len()))),
            }
        }
        let text = String::from_utf8_lossy(&damaged);
        // What can't be built here is built often enough elsewhere; only the reading matters.
        let registry = redrive::source::Registry::default();
        let parsed = redrive::config::Config::parse(&text, "x.yaml".as_ref(), &|_| None, &registry, redrive::config::Scope::Store);
        if let Err(faults) = parsed {
            assert!(!faults.to_string().is_empty());
        }
    }
    for round in 0..1000 {
        let noise: Vec<u8> = (0..random(80)).map(|_| alphabet[random(alphabet.len())]).collect();
        let text = String::from_utf8_lossy(&noise);
        let _ = parse(&format!("{}{text}", if round % 2 == 0 { "project: x\nsources: " } else { "" }));
    }
}

#[test]
fn a_key_that_looks_like_a_path_is_found_or_taken_at_its_word() {
    let long = ".[x".repeat(300);
    for key in [".[", "[", "[0]", "[[.", ".", "a[0].b", "a..b", &long] {
        let text = format!("project: p\nsources:\n  \"{key}\": {{ kind: log,\n    in_flight: 0 }}\n");
        let found = places(&text);
        assert!(found.iter().any(|place| place.starts_with("4 ") && place.ends_with("in_flight")), "{key:.50}: {found:?}");
    }
}
