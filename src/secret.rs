//! Reads secrets from files, for every key that ends in `_file`.

use std::path::Path;

use crate::bounded;
use crate::units::Secret;

/// The maximum size of a file that holds a secret, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// The secret in a file, without the line ends after it and the byte order mark that some editors put before it.
///
/// # Errors
/// Why the file holds no usable secret, in words for the author of the configuration.
pub(crate) fn read(file: &Path) -> Result<Secret, String> {
    let shown = file.display();
    let bytes = bounded::read(file, MAX_BYTES).map_err(|error| format!("{shown} can't be read: {error}"))?;
    let bytes = bytes.ok_or_else(|| format!("{shown} is larger than {MAX_BYTES} bytes; this is not a secret"))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{shown} is not UTF-8 text"))?;
    match text.strip_prefix('\u{feff}').unwrap_or(&text).trim_end_matches(['\r', '\n']) {
        "" => Err(format!("{shown} is empty")),
        secret => Ok(Secret::new(secret)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_are_removed_and_files_without_a_secret_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        assert!(read(&file).unwrap_err().contains("secret can't be read: "));
        let of = |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            read(&file).map(|secret| secret.expose().to_owned())
        };
        for whole in ["hunter2", "hunter2\n", "hunter2\r\n", "hunter2\n\n", "\u{feff}hunter2\n"] {
            assert_eq!(of(whole.as_bytes()).as_deref(), Ok("hunter2"), "{whole:?}");
        }
        assert_eq!(of(b" one\ntwo \n").as_deref(), Ok(" one\ntwo "), "everything else is part of the secret");
        let large = vec![b'x'; 64 * 1024 + 1];
        assert_eq!(of(&large[1..]).map(|text| text.len()), Ok(64 * 1024));
        for (bytes, words) in [
            (&b""[..], "is empty"),
            (&b"\n"[..], "is empty"),
            (&b"\xef\xbb\xbf\n"[..], "is empty"),
            (&b"hunter2\xff"[..], "is not UTF-8"),
            (&large[..], "is larger than"),
        ] {
            let said = of(bytes).unwrap_err();
            assert!(said.contains(words) && !said.contains("hunter2"), "{said}");
        }
    }
}
