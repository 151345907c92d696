//! `tls:` in the configuration of a store or a source, and the files it names.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bounded;
use crate::fault::Fault;

/// The maximum size of a file that holds a certificate or key.
const MOST_BYTES: u64 = 1 << 20;
/// The label of the PEM sections that hold certificates.
const CERTIFICATE: &[&str] = &["CERTIFICATE"];
/// The label of PKCS#8 keys, the only ones that most clients accept.
pub(crate) const PKCS8: &[&str] = &["PRIVATE KEY"];
/// The labels of the keys that OpenSSL accepts.
pub(crate) const ANY_KEY: &[&str] = &["PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "DSA PRIVATE KEY"];

/// Certificates in PEM files.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// The certificate authority to trust.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The client's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// The client's key, PKCS#8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// The contents of the files, each from the section that it is read for.
pub(crate) struct Pem {
    /// The certificate authority.
    pub(crate) ca: Option<Vec<u8>>,
    /// The client's certificate and its key.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Tls {
    /// Reads the files. Relative paths start at `folder`; `key` lists the labels that the section of the key may have. A client would notice a
    /// missing or empty file only late, and report it as if the server could not be reached.
    ///
    /// # Errors
    /// Every fault, with a path that begins with `tls.`.
    pub(crate) fn read(&self, folder: &Path, key: &[&str]) -> Result<Pem, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut take = |name: &str, file: Option<&PathBuf>, sections: &[&str]| {
            pem(&folder.join(file?), sections).map_err(|message| faults.push(Fault::new(format!("tls.{name}"), message))).ok()
        };
        let ca = take("ca", self.ca.as_ref(), CERTIFICATE);
        let identity = take("cert", self.cert.as_ref(), CERTIFICATE).zip(take("key", self.key.as_ref(), key));
        if self.cert.is_some() != self.key.is_some() {
            let missing = if self.cert.is_some() { "tls.key" } else { "tls.cert" };
            faults.push(Fault::new(missing, "is missing: a client certificate needs both cert and key"));
        }
        if faults.is_empty() { Ok(Pem { ca, identity }) } else { Err(faults) }
    }
}

/// The contents of a file from the first section with one of these labels on. Tools write comments, attributes or the certificate of a key before it;
/// native-tls accepts a key only at the very beginning.
fn pem(file: &Path, sections: &[&str]) -> Result<Vec<u8>, String> {
    let shown = file.display();
    let bytes = bounded::read(file, MOST_BYTES).map_err(|error| format!("{shown} can't be read: {error}"))?;
    let mut bytes = bytes.ok_or_else(|| format!("{shown} is larger than 1 MiB"))?;
    if let Some(start) = start(&bytes, sections) {
        return Ok(bytes.split_off(start));
    }
    let wanted = sections.first().copied().unwrap_or_default();
    // Most tools write another kind of key.
    let make = if sections == PKCS8 { " (`openssl pkcs8 -topk8 -nodes` converts other keys)" } else { "" };
    Err(format!("{shown} holds no PEM section `-----BEGIN {wanted}-----`{make}"))
}

/// Where the first section with one of these labels begins.
fn start(bytes: &[u8], labels: &[&str]) -> Option<usize> {
    let is_wanted = |line: &[u8]| {
        let label = line.trim_ascii_end().strip_prefix(b"-----BEGIN ").and_then(|rest| rest.strip_suffix(b"-----"));
        label.is_some_and(|label| labels.iter().any(|wanted| wanted.as_bytes() == label))
    };
    let mut next = 0;
    bytes.split_inclusive(|byte| *byte == b'\n').find_map(|line| {
        let start = next;
        next += line.len();
        is_wanted(line).then_some(start)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTHORITY: &str = "some words\n-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

    /// The faults of files with these contents; `None` leaves the key out.
    fn faults(ca: Option<&str>, cert: Option<&str>, key: Option<&str>, keys: &[&str]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: Option<&str>| {
            content.map(|content| {
                std::fs::write(folder.path().join(name), content).unwrap();
                PathBuf::from(name)
            })
        };
        let tls = Tls { ca: file("ca", ca), cert: file("cert", cert), key: file("key", key) };
        tls.read(folder.path(), keys).err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_file_without_the_section_it_needs_is_a_fault_at_its_key() {
        let (pkcs8, rsa) = ("-----BEGIN PRIVATE KEY-----\r\n", "-----BEGIN RSA PRIVATE KEY-----\n");
        assert!(faults(None, None, None, PKCS8).is_empty());
        assert!(faults(Some(AUTHORITY), Some(AUTHORITY), Some(pkcs8), PKCS8).is_empty());
        assert!(faults(None, Some(AUTHORITY), Some(rsa), ANY_KEY).is_empty());
        let nonsense = faults(Some("hunter2"), Some("hunter2"), Some("hunter2"), PKCS8);
        assert_eq!(nonsense.len(), 3, "{nonsense:?}");
        for (fault, key) in nonsense.iter().zip(["tls.ca: ", "tls.cert: ", "tls.key: "]) {
            assert!(fault.starts_with(key) && fault.contains("holds no PEM section `-----BEGIN ") && !fault.contains("hunter2"), "{fault}");
        }
        // Certificate and key swapped, and a key that is not PKCS#8.
        assert_eq!(faults(None, Some(pkcs8), Some(AUTHORITY), ANY_KEY).len(), 2);
        assert!(faults(None, Some(AUTHORITY), Some(rsa), PKCS8)[0].contains("openssl pkcs8 -topk8"));
        assert!(faults(Some(&"x".repeat(2 << 20)), None, None, PKCS8)[0].contains("larger than 1 MiB"));
    }

    #[test]
    fn what_stands_before_a_section_is_left_out() {
        // As `openssl pkcs12 -nodes` writes them, with line ends of another system in between.
        let both = "Bag Attributes\n    friendlyName: x\n-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n\
                    Key Attributes: <No Attributes>\r\n-----BEGIN PRIVATE KEY-----\r\nMIIE\r\n-----END PRIVATE KEY-----\r\n";
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("both.pem"), both).unwrap();
        let file = || Some(PathBuf::from("both.pem"));
        let pem = Tls { ca: file(), cert: file(), key: file() }.read(folder.path(), PKCS8).ok().unwrap();
        let (cert, key) = pem.identity.unwrap();
        assert_eq!((both.find("-----BEGIN CERT"), pem.ca.as_ref()), (both.len().checked_sub(cert.len()), Some(&cert)));
        assert_eq!(String::from_utf8(key).unwrap(), both[both.find("-----BEGIN PRIVATE").unwrap()..]);
        // Only a whole line begins a section.
        for other in ["x -----BEGIN PRIVATE KEY-----\n", "-----BEGIN PRIVATE KEY----- x\n", "-----BEGIN PRIVATE KEY\n-----\n"] {
            assert_eq!(start(other.as_bytes(), PKCS8), None, "{other}");
        }
    }

    #[test]
    fn a_certificate_without_a_key_and_the_reverse_are_faults_at_the_missing_key() {
        assert_eq!(faults(None, Some(AUTHORITY), None, PKCS8), ["tls.key: is missing: a client certificate needs both cert and key"]);
        let tls = Tls { key: Some("absent".into()), ..Tls::default() };
        let paths: Vec<String> = tls.read(Path::new("/nowhere"), PKCS8).err().unwrap().into_iter().map(|fault| fault.path).collect();
        assert_eq!(paths, ["tls.key", "tls.cert"]);
    }
}
