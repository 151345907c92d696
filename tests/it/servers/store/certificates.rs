//! TLS to the database: a private authority is trusted if it is named, another is not, and a client presents its own certificate.

use std::path::PathBuf;

use redrive::store::{self, Config, Error};
use redrive::tls::Tls;
use redrive::units::{Secret, Span};

use crate::support::service;

fn certificate(name: &str) -> PathBuf {
    PathBuf::from(service("REDRIVE_TEST_CERTS")).join(name)
}

/// The user of this URL must show a certificate.
fn at(url: &str, tls: Option<Tls>) -> Config {
    Config { url: Secret::new(service(url)), tls, timeout: Span::secs(5), ..Config::default() }
}

/// The result of connecting; no tables are made.
async fn connected(config: &Config) -> Result<(), Error> {
    let verify = Config { migrate: store::config::Migrate::Verify, table_prefix: "absent_".to_owned(), ..config.clone() };
    let store = store::open(&verify, "orders").unwrap();
    let prepared = store.prepare().await;
    store.close().await;
    match prepared {
        Err(Error::Schema(_)) => Ok(()),
        Err(error) => Err(error),
        Ok(prepared) => panic!("{prepared:?}"),
    }
}

async fn certificates_count(url: &str) {
    let tls = |ca, cert: Option<&str>, key: Option<&str>| Tls { ca: Some(certificate(ca)), cert: cert.map(certificate), key: key.map(certificate) };
    connected(&at(url, Some(tls("ca.pem", Some("client.pem"), Some("client.key"))))).await.unwrap();
    // One file for both, the key last, as many tools write it.
    let folder = tempfile::tempdir().unwrap();
    let both = folder.path().join("both.pem");
    let contents = ["client.pem", "client.key"].map(|name| std::fs::read_to_string(certificate(name)).unwrap());
    std::fs::write(&both, format!("of the client\n{}", contents.concat())).unwrap();
    connected(&at(url, Some(Tls { ca: Some(certificate("ca.pem")), cert: Some(both.clone()), key: Some(both) }))).await.unwrap();
    let wrong = [
        ("no certificate at all", None),
        ("none of the client", Some(tls("ca.pem", None, None))),
        ("another authority", Some(tls("other-ca.pem", Some("client.pem"), Some("client.key")))),
        ("a client of another authority", Some(tls("ca.pem", Some("other-client.pem"), Some("other-client.key")))),
    ];
    for (what, tls) in wrong {
        let error = connected(&at(url, tls)).await.expect_err(what);
        assert!(!matches!(error, Error::TimedOut(_)), "{what}: {error:?}");
    }
    let error = connected(&at(url, Some(tls("other-ca.pem", Some("client.pem"), Some("client.key"))))).await.unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{error:?}");
    let missing = at(url, Some(tls("no-such.pem", None, None)));
    let faults = store::open(&missing, "orders").map(drop).unwrap_err();
    assert!(faults.iter().any(|fault| fault.path == "tls.ca" && fault.message.contains("no-such.pem")), "{faults:?}");
}

#[tokio::test]
async fn on_postgres() {
    certificates_count("REDRIVE_TEST_POSTGRES_CERT_URL").await;
}

#[tokio::test]
async fn on_mariadb() {
    certificates_count("REDRIVE_TEST_MARIADB_CERT_URL").await;
}

#[tokio::test]
async fn on_mysql() {
    certificates_count("REDRIVE_TEST_MYSQL_CERT_URL").await;
}
