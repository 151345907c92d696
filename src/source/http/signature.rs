//! The signature of Standard Webhooks (<https://www.standardwebhooks.com>): HMAC-SHA256 over id, time and body.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The specification's range: 24 to 64 random bytes.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Signs with one key, or with several during a rotation.
#[derive(Clone)]
pub(super) struct Signer {
    keys: Vec<Hmac<Sha256>>,
}

impl Signer {
    /// Reads `whsec_` and the key in base64; several are separated by white space.
    pub(super) fn try_new(secrets: &str) -> Result<Self, String> {
        let keys: Result<Vec<_>, String> = secrets.split_whitespace().map(key).collect();
        let keys = keys?;
        if keys.is_empty() { Err("contains no secret".into()) } else { Ok(Self { keys }) }
    }

    /// The value of `webhook-signature`: one `v1,…` per key, separated by spaces.
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut signatures = String::with_capacity(48 * self.keys.len());
        for key in &self.keys {
            let mut mac = key.clone();
            mac.update(id.as_bytes());
            mac.update(b".");
            mac.update(timestamp.to_string().as_bytes());
            mac.update(b".");
            mac.update(body);
            if !signatures.is_empty() {
                signatures.push(' ');
            }
            signatures.push_str("v1,");
            STANDARD.encode_string(mac.finalize().into_bytes(), &mut signatures);
        }
        signatures
    }
}

fn key(secret: &str) -> Result<Hmac<Sha256>, String> {
    const WANTED: &str = "must be `whsec_` and 24 to 64 random bytes in base64, such as made by `echo whsec_$(openssl rand -base64 32)`";
    let encoded = secret.strip_prefix("whsec_").ok_or(WANTED)?;
    let bytes = STANDARD.decode(encoded).map_err(|_| WANTED)?;
    if !KEY_BYTES.contains(&bytes.len()) {
        return Err(WANTED.into());
    }
    Hmac::new_from_slice(&bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the reference implementations.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    #[test]
    fn it_is_that_of_the_reference_implementations() {
        assert_eq!(Signer::try_new(SECRET).unwrap().sign(ID, 1_614_265_330, BODY), SIGNATURE);
    }

    #[test]
    fn while_keys_are_changed_each_signs() {
        let other = format!("whsec_{}", STANDARD.encode([7; 32]));
        let both = Signer::try_new(&format!("{SECRET} {other}\n")).unwrap().sign(ID, 1_614_265_330, BODY);
        let (first, second) = both.split_once(' ').unwrap();
        assert_eq!(first, SIGNATURE);
        assert!(second.starts_with("v1,") && second != first);
    }

    #[test]
    fn a_secret_that_is_short_or_not_base64_is_refused_and_not_repeated() {
        for secret in ["", " ", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_c2hvcnQ=", "whsec_***not-base64***"] {
            let error = Signer::try_new(secret).err().unwrap();
            assert!(!error.contains("MfKQ") && !error.contains("***"), "{error}");
        }
    }
}
