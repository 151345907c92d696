//! The file of a SQLite store.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::{PLAIN, code, done, err, folder, out, raw, run};

#[test]
fn a_message_is_sent_into_no_file_that_nobody_serves() {
    let (folder, elsewhere) = (folder(PLAIN), tempfile::tempdir().unwrap());
    done(folder.path(), &["migrate"]);
    let config = folder.path().join("redrive.yaml");
    let output = run(elsewhere.path(), &["send", "l", "--payload", "x", "-c", config.to_str().unwrap()]);
    assert_eq!((code(&output), out(&output).as_str()), (1, ""));
    assert!(err(&output).contains(elsewhere.path().join("t.db").to_str().unwrap()), "{}", err(&output));
    assert!(!elsewhere.path().join("t.db").exists());
}

#[tokio::test]
async fn the_files_of_sqlite_are_for_their_owner_and_group_alone() {
    let mode = |file: &Path| std::fs::metadata(file).unwrap().permissions().mode() & 0o777;
    let folder = folder(PLAIN);
    let folder = folder.path();
    done(folder, &["migrate"]);
    // The files beside it go with the last connection.
    let mut raw = raw(folder).await;
    raw.run("DELETE FROM resend_log").await;
    for name in ["t.db", "t.db-wal", "t.db-shm"] {
        let mode = mode(&folder.join(name));
        assert_eq!((mode & 0o600, mode & 0o7), (0o600, 0), "{name}: {mode:o}");
    }
    drop(raw);
    let chosen = tempfile::tempdir().unwrap();
    std::fs::write(chosen.path().join("redrive.yaml"), PLAIN).unwrap();
    let file = chosen.path().join("t.db");
    std::fs::write(&file, "").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o604)).unwrap();
    done(chosen.path(), &["migrate"]);
    assert_eq!(mode(&file), 0o604, "what is there is left as it is");
}
