//! What the configuration of a store may contain. Nothing connects.

use redrive::store::{self, Config};
use redrive::tls::Tls;
use redrive::units::{Secret, Span};

fn faults(config: &Config) -> Vec<String> {
    store::open(config, "orders").map(drop).unwrap_err().into_iter().map(|fault| fault.to_string()).collect()
}

fn at(url: &str) -> Config {
    Config { url: Secret::new(url), ..Config::default() }
}

#[test]
fn a_url_that_leads_nowhere_is_refused_without_its_password() {
    for url in ["", "redrive.db", "oracle://u:hunter2@db/x", "http://u:hunter2@db", "postgres://u:hunter2@db:99999/x", "://"] {
        let faults = faults(&at(url));
        assert!(faults.iter().any(|fault| fault.starts_with("url: ")), "{url}: {faults:?}");
        assert!(!faults.concat().contains("hunter2"), "{faults:?}");
    }
}

#[test]
fn a_store_shows_no_password() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    for scheme in ["postgres", "mysql"] {
        let inside = at(&format!("{scheme}://redrive:hunter2@db/x"));
        let beside = Config { password: Some(Secret::new("hunter2")), ..at(&format!("{scheme}://redrive@db/x")) };
        for config in [inside, beside] {
            let store = store::open(&config, "orders").unwrap_or_else(|faults| panic!("{faults:?}"));
            assert!(!format!("{config:?} {store:?}").contains("hunter2"), "{config:?} {store:?}");
        }
    }
}

#[test]
fn certificates_are_looked_at_before_anything_is_connected() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        Some(path)
    };
    let (cert, nonsense) = (file("cert.pem", "-----BEGIN CERTIFICATE-----\n"), file("nonsense.pem", "nonsense"));
    for (url, tls, expected) in [
        ("postgres://db/x", Tls { cert: cert.clone(), ..Tls::default() }, "tls.key: is missing"),
        ("mysql://db/x", Tls { cert: cert.clone(), ..Tls::default() }, "tls.key: is missing"),
        ("postgres://db/x", Tls { ca: nonsense, ..Tls::default() }, "tls.ca: "),
        ("mysql://db/x", Tls { ca: Some("/absent.pem".into()), ..Tls::default() }, "tls.ca: /absent.pem can't be read"),
        ("sqlite://x.db", Tls { cert, ..Tls::default() }, "tls: does not apply to SQLite"),
    ] {
        let faults = faults(&Config { tls: Some(tls), ..at(url) });
        assert!(faults.len() == 1 && faults[0].starts_with(expected), "{url}: {faults:?}");
    }
}

#[test]
fn a_name_that_could_hold_sql_is_refused() {
    let postgres = at("postgres://db/x");
    for name in ["a b", "a\"; DROP TABLE x; --", "a.b", "ä", "1a\0", &"a".repeat(64)] {
        let prefixed = faults(&Config { table_prefix: name.to_owned(), ..postgres.clone() });
        assert!(prefixed.iter().any(|fault| fault.starts_with("table_prefix: ")), "{name}: {prefixed:?}");
        let within = faults(&Config { schema: Some(name.to_owned()), ..postgres.clone() });
        assert!(within.iter().any(|fault| fault.starts_with("schema: ")), "{name}: {within:?}");
    }
    assert!(faults(&Config { schema: Some("x".to_owned()), ..at("mysql://db/x") }).iter().any(|fault| fault.starts_with("schema: ")));
}

#[test]
fn every_fault_is_told_at_once() {
    let wrong = Config { table_prefix: "a b".to_owned(), pool: 0, timeout: Span::secs(0), ..at("oracle://db") };
    let faults = faults(&wrong);
    for path in ["url: ", "table_prefix: ", "pool: ", "timeout: "] {
        assert!(faults.iter().any(|fault| fault.starts_with(path)), "{path} {faults:?}");
    }
    // What only one database has or lacks is told along with the rest.
    let wrong = |url: &str| {
        let (password, schema, tls) = (Some(Secret::new("p")), Some("a b".to_owned()), Some(Tls { ca: Some("/absent".into()), ..Tls::default() }));
        let config = Config { password, schema, tls, notify: true, pool: 0, ..at(url) };
        self::faults(&config).into_iter().map(|fault| fault.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(wrong("sqlite://x.db"), ["password", "schema", "pool", "schema", "notify", "tls"]);
    assert_eq!(wrong("mysql://u:p@db"), ["password", "schema", "pool", "schema", "notify", "tls.ca", "url"]);
    assert_eq!(wrong("postgres://u:p@db/x"), ["password", "schema", "pool", "tls.ca"]);
    assert_eq!(wrong("oracle://db"), ["url", "schema", "pool", "tls.ca"]);
}

#[test]
fn a_url_of_each_kind_is_taken() {
    for url in [
        "sqlite://redrive.db",
        "sqlite:redrive.db",
        "sqlite:///var/lib/redrive.db",
        "postgres://u:p@db/x",
        "postgresql://db:5433/x",
        "mysql://u@db/x",
        "mariadb://db/x",
    ] {
        // Some drivers need a runtime to make a pool.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        store::open(&at(url), "orders").unwrap_or_else(|faults| panic!("{url}: {faults:?}"));
    }
}
