//! TLS with a private authority and client certificates.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{AlpnError, HandshakeError, SslAcceptor, SslMethod, SslVerifyMode, select_next_proto};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};
use redrive::outcome::{Class, Outcome};
use serde_json::{Value, json};

use crate::support::endpoint::{Request, answer, build, faults, message, said, serve};

type Pair = (X509, PKey<Private>);

fn certificate(name: &str, issuer: Option<&Pair>) -> Pair {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&BigNum::from_u32(rand::random()).unwrap().to_asn1_integer().unwrap()).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(issuer.map_or(&*subject, |(certificate, _)| certificate.subject_name())).unwrap();
    if issuer.is_some() {
        let san = SubjectAlternativeName::new().ip("127.0.0.1").build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(san).unwrap();
    } else {
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    }
    builder.sign(issuer.map_or(&key, |(_, key)| key), MessageDigest::sha256()).unwrap();
    (builder.build(), key)
}

/// Writes a pair as PEM files into a folder.
fn save(folder: &Path, name: &str, (certificate, key): &Pair) {
    std::fs::write(folder.join(format!("{name}.pem")), certificate.to_pem().unwrap()).unwrap();
    std::fs::write(folder.join(format!("{name}.key")), key.private_key_to_pem_pkcs8().unwrap()).unwrap();
}

/// Reads whatever the client still sends: if the connection were closed before that, it would be reset, and the alert lost with it.
fn hear_out(mut refused: &TcpStream) {
    let _ = refused.set_read_timeout(Some(Duration::from_secs(5)));
    let _ = refused.shutdown(Shutdown::Write);
    let _ = std::io::copy(&mut refused, &mut std::io::sink());
}

/// The protocols of most servers in ALPN's form: HTTP/2, which comes first, and HTTP/1.1.
const BOTH: &[u8] = b"\x02h2\x08http/1.1";

/// A TLS server that requires a client certificate of `clients`, if that is given.
fn server(own: &Pair, clients: Option<&X509>) -> (String, Receiver<Request>) {
    server_of(BOTH, own, clients)
}

/// The same, with the protocols that it offers.
fn server_of(protocols: &'static [u8], own: &Pair, clients: Option<&X509>) -> (String, Receiver<Request>) {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_certificate(&own.0).unwrap();
    acceptor.set_private_key(&own.1).unwrap();
    acceptor.set_alpn_select_callback(move |_, offered| select_next_proto(protocols, offered).ok_or(AlpnError::ALERT_FATAL));
    if let Some(clients) = clients {
        acceptor.cert_store_mut().add_cert(clients.clone()).unwrap();
        acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    }
    let acceptor = Arc::new(acceptor.build());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/hook", listener.local_addr().unwrap());
    let (tell, requests) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = match acceptor.accept(stream) {
                Ok(stream) => stream,
                Err(refused) => {
                    if let HandshakeError::Failure(refused) = refused {
                        hear_out(refused.get_ref());
                    }
                    continue;
                }
            };
            let status = if stream.ssl().selected_alpn_protocol() == Some(&b"http/1.1"[..]) { "200 OK" } else { "421 Misdirected Request" };
            // One request per connection; the stream can't be split, so the request is read first.
            let mut answer_bytes = Vec::new();
            let reply = |_: &Request| match answer(status, "Connection: close\r\n", "") {
                crate::support::endpoint::Reply::Bytes(bytes) => crate::support::endpoint::Reply::Last(bytes),
                other => other,
            };
            serve(&mut stream, &mut answer_bytes, &reply, &tell);
            let _ = std::io::Write::write_all(&mut stream, &answer_bytes);
            let _ = stream.shutdown();
        }
    });
    (url, requests)
}

async fn send(url: &str, tls: Value, folder: &Path) -> Outcome {
    let options = if tls.is_null() { json!({}) } else { json!({ "tls": tls }) };
    build("http", json!({ "url": url }), options, folder).unwrap().send(&message("x")).await
}

#[tokio::test]
async fn a_private_authority_is_trusted_only_where_it_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, other) = (certificate("redrive test CA", None), certificate("another CA", None));
    save(folder.path(), "ca", &ca);
    save(folder.path(), "other", &other);
    let (url, requests) = server(&certificate("redrive test server", Some(&ca)), None);
    assert_eq!(send(&url, json!({ "ca": "ca.pem" }), folder.path()).await, Outcome::succeeded());
    assert_eq!(requests.recv().unwrap().line, "POST /hook HTTP/1.1");
    for untrusting in [Value::Null, json!({ "ca": "other.pem" })] {
        let outcome = send(&url, untrusting, folder.path()).await;
        assert_eq!(said(&outcome), (Class::Unreachable, "http_tls"), "{}", outcome.detail);
        assert!(outcome.detail.contains("certificate"), "{}", outcome.detail);
    }
    // The certificate names 127.0.0.1 only.
    let wrong_name = url.replace("127.0.0.1", "localhost");
    assert_eq!(said(&send(&wrong_name, json!({ "ca": "ca.pem" }), folder.path()).await), (Class::Unreachable, "http_tls"));
    assert!(requests.try_recv().is_err(), "no request went to a server that is not trusted");
}

#[tokio::test]
async fn a_client_certificate_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let ca = certificate("redrive test CA", None);
    save(folder.path(), "ca", &ca);
    save(folder.path(), "client", &certificate("producer", Some(&ca)));
    let (url, requests) = server(&certificate("redrive test server", Some(&ca)), Some(&ca.0));
    let with = json!({ "ca": "ca.pem", "cert": "client.pem", "key": "client.key" });
    assert_eq!(send(&url, with, folder.path()).await, Outcome::succeeded());
    assert!(requests.recv().is_ok());
    let without = send(&url, json!({ "ca": "ca.pem" }), folder.path()).await;
    assert_eq!(said(&without), (Class::Unreachable, "http_tls"), "{}", without.detail);
}

#[tokio::test]
async fn a_server_that_would_rather_speak_http_2_is_spoken_to_in_http_1_1() {
    let folder = tempfile::tempdir().unwrap();
    let ca = certificate("redrive test CA", None);
    save(folder.path(), "ca", &ca);
    let own = certificate("redrive test server", Some(&ca));
    let trusting = json!({ "ca": "ca.pem" });
    let (url, requests) = server_of(BOTH, &own, None);
    assert_eq!(send(&url, trusting.clone(), folder.path()).await, Outcome::succeeded());
    assert_eq!(requests.recv().unwrap().line, "POST /hook HTTP/1.1");
    let (url, requests) = server_of(b"\x02h2", &own, None);
    let outcome = send(&url, trusting, folder.path()).await;
    assert_eq!(said(&outcome), (Class::Unreachable, "http_tls"), "{}", outcome.detail);
    assert!(requests.try_recv().is_err());
}

#[test]
fn files_that_hold_no_certificate_are_faults() {
    let folder = tempfile::tempdir().unwrap();
    let nonsense = folder.path().join("nonsense");
    std::fs::write(&nonsense, "nonsense").unwrap();
    let section = json!({ "url": "https://localhost/" });
    assert_eq!(faults("http", section.clone(), json!({ "tls": { "ca": nonsense } })), ["tls.ca"]);
    assert_eq!(faults("http", section.clone(), json!({ "tls": { "cert": nonsense, "key": nonsense } })), ["tls.cert", "tls.key"]);
    assert_eq!(
        faults("http", section, json!({ "tls": { "ca": "/absent", "cert": "/absent", "key": "/absent" } })),
        ["tls.ca", "tls.cert", "tls.key"]
    );
}
