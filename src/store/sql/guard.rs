//! Only one `serve` at a time on a SQLite file.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::sqlite::MODE;
use crate::store::Error;

/// A lock on a file beside the database. The kernel releases it when the process ends, in whatever way.
#[derive(Debug)]
pub struct Guard {
    _file: File,
}

impl Guard {
    /// Takes the lock of a database file.
    pub(super) fn take(database: &Path) -> Result<Self, Error> {
        let mut path = database.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        // Not on the database file itself, so as not to interfere with the locks of SQLite and other programs.
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(MODE)
            .open(&path)
            .map_err(|error| Error::Config(format!("{} can't be opened: {error}; the folder must exist and be writable", path.display())))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(Errno::WOULDBLOCK) => Err(Error::InUse(format!(
                "another `redrive serve` is using {}; SQLite serves one at a time (several need PostgreSQL or MySQL)",
                database.display()
            ))),
            Err(error) => Err(Error::Config(format!("{} can't be locked: {error}", path.display()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn one_has_it_until_it_lets_go() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("redrive.db");
        let first = Guard::take(&database).unwrap();
        assert!(matches!(Guard::take(&database), Err(Error::InUse(_))));
        let mode = std::fs::metadata(folder.path().join("redrive.db.lock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7, 0, "{mode:o}: whoever may open it may keep nodes from starting");
        drop(first);
        Guard::take(&database).unwrap();
        assert!(matches!(Guard::take(&folder.path().join("no/where.db")), Err(Error::Config(_))));
    }
}
