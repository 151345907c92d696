//! The contents of a variable or a secret's file are shown nowhere: not in faults, not in `Debug`.

use super::parse_with;

const SECRET: &str = "hunter2-5d-\"quoted\"";

/// A variable in every possible place: where it fits, and where it is a fault.
#[test]
fn what_a_variable_holds_is_in_no_fault() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), SECRET).unwrap();
    let schema = redrive::config::schema::schema(&redrive::source::Registry::default());
    let mut texts = vec![
        "project: ${S}".to_owned(),
        "project: x\nnode: \"a b ${S}\"".to_owned(),
        "project: x\nstore: ${S}".to_owned(),
        "project: x\nsources: ${S}".to_owned(),
        "project: x\nsources: { a: '${S}' }".to_owned(),
        "project: x\nsources: { a: { kind: '${S}' } }".to_owned(),
        "project: x\nsources: { a: { kind: log, outcomes: { x: '${S}' } } }".to_owned(),
        "project: x\nsources: { a: { kind: log, timeout: '5${S}' } }".to_owned(),
        "project: x\nsources: { a: { kind: amqp, url: 'amqp://localhost', heartbeat: '5${S}' } }".to_owned(),
        "project: x\npoller: { lease: '5${S}' }".to_owned(),
        "project: x\nsources: { a: { kind: command, argv: '${S}' } }".to_owned(),
        "project: x\nsources: { a: { kind: http, url: 'http://u:${S}@[/' } }".to_owned(),
        "project: x\nsources: { a: { kind: http, url: 'http://localhost/', headers: { x: \"a\\n${S}\" } } }".to_owned(),
        "project: x\nsources: { a: { kind: kafka, brokers: ['${S}'], properties: { '${S}': '${S}', linger.ms: '${S}' } } }".to_owned(),
        "project: x\nstore: { url_file: secret }\napi: { token_file: secret, listen: '0.0.0.0:1' }".to_owned(),
        "project: x\nstore: { url: 'postgres://u:p@db/x', password: '${S}' }".to_owned(),
        "project: x\nstore: { url: 'postgres://u:p@db/x', password_file: secret }".to_owned(),
        "project: x\nstore: { url: 'mysql://u:${S}/@db/x' }".to_owned(),
        "project: x\nstore: { url: '${S}' }".to_owned(),
        "project: x\napi: { token: '${S} with a space' }".to_owned(),
    ];
    for (name, section) in schema["properties"].as_object().unwrap() {
        let section = redrive::config::schema::resolve(section, &schema["$defs"]);
        for key in section["properties"].as_object().into_iter().flat_map(|keys| keys.keys()) {
            texts.push(format!("project: x\n{name}: {{ {key}: '${{S}}' }}"));
            texts.push(format!("project: x\n{name}: {{ {key}: ['${{S}}'] }}"));
        }
    }
    for kind in schema["properties"]["sources"]["additionalProperties"]["oneOf"].as_array().unwrap() {
        // The options of every source are read the same way for each kind; a log is built quickly.
        let common = |key: &str| redrive::source::Options::KEYS.contains(&key) && kind["title"] != "log";
        for key in kind["properties"].as_object().unwrap().keys().filter(|key| !common(key)) {
            texts.push(format!("project: x\nsources: {{ a: {{ kind: {}, {key}: '${{S}}' }} }}", kind["title"].as_str().unwrap()));
            texts.push(format!("project: x\nsources: {{ a: {{ kind: {}, {key}: ['${{S}}'] }} }}", kind["title"].as_str().unwrap()));
            texts.push(format!("project: x\nsources: {{ a: {{ kind: {}, {key}: {{ x: '${{S}}' }} }} }}", kind["title"].as_str().unwrap()));
        }
    }
    let mut refused = 0;
    for text in texts {
        let said = match parse_with(&text, &folder.path().join("x.yaml"), &[("S", SECRET)]) {
            Ok(config) => format!("{:?} {:?}", config.store, config.api.token),
            Err(faults) => {
                refused += 1;
                format!("{faults} {faults:?}")
            }
        };
        // Not even a part of it, such as an unknown unit of time.
        assert!(!said.contains("hunter"), "{text}\n{said}");
        assert!(!said.contains("\"d\"") && !said.contains("quoted\\\\\""), "{text}\n{said}");
    }
    assert!(refused > 50, "only {refused} texts were at fault");
}

#[test]
fn a_fault_shows_the_variable_as_it_is_written() {
    let faults = parse_with("project: x\nstore: { pool: '${POOL}', timeout: '${WAIT}' }", "x.yaml".as_ref(), &[("POOL", "lots"), ("WAIT", "ages")]);
    let said = faults.unwrap_err().to_string();
    assert!(said.contains("`${WAIT}` is not a duration"), "{said}");
    assert!(!said.contains("lots") && !said.contains("ages"), "{said}");
}

#[test]
fn text_in_the_wrong_place_is_not_quoted() {
    // A URL one level too high, including its password.
    let faults = parse_with("project: x\nstore: postgres://redrive:hunter2@db/orders\n", "x.yaml".as_ref(), &[]);
    let said = faults.unwrap_err().to_string();
    assert!(said.contains("store: expected a mapping") && !said.contains("hunter2"), "{said}");
}

#[test]
fn a_file_that_holds_no_secret_is_a_fault_wherever_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (content, words) in [(b"\n".to_vec(), "is empty"), (vec![b'x'; 70_000], "is larger than"), (b"a\xff".to_vec(), "is not UTF-8")] {
        std::fs::write(folder.path().join("secret"), content).unwrap();
        let text = "\
project: x
store: { url_file: secret, password_file: secret }
api: { token_file: secret }
sources:
  h: { kind: http, url: 'http://localhost/', bearer_file: secret, headers_file: { X-Key: secret } }
  p: { kind: http, url_file: secret, proxy_file: secret }
  k: { kind: kafka, brokers: ['localhost:1'], username: u, password_file: secret }
  a: { kind: amqp, url_file: secret, password_file: secret }
";
        let faults = parse_with(text, &folder.path().join("x.yaml"), &[]).unwrap_err();
        let places = [
            "store.url_file",
            "store.password_file",
            "api.token_file",
            "sources.h.bearer_file",
            "sources.h.headers_file.X-Key",
            "sources.p.url_file",
            "sources.p.proxy_file",
            "sources.k.password_file",
            "sources.a.url_file",
        ];
        for place in places {
            let found = faults.list().iter().find(|fault| fault.path == place);
            assert!(found.is_some_and(|fault| fault.message.contains(words)), "{place} should say `{words}`: {faults}");
        }
    }
}
