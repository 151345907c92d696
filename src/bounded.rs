//! Reads files that must not be larger than a limit: the configuration, and the secrets and certificates that it names.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// At most `max` bytes of a file; `None` if there are more. The file may be a pipe, so reading is cut off instead of trusting the size that the file
/// reports.
pub(crate) fn read(file: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(max + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= max).then_some(bytes))
}
