//! What a command reports about a server that rejects it.

use std::time::{Duration, Instant};

use crate::cli::{PLAIN, code, err, folder, run};
use crate::support::service;

#[test]
fn a_run_waits_for_no_password_that_somebody_must_mend() {
    let began = Instant::now();
    let mut url: url::Url = service("REDRIVE_TEST_POSTGRES_URL").parse().unwrap();
    url.set_password(Some("hunter2")).unwrap();
    let wrong = folder(&PLAIN.replace("sqlite://t.db", url.as_str()));
    let output = run(wrong.path(), &["run"]);
    assert_eq!(code(&output), 64, "{}", err(&output));
    assert!(!err(&output).contains("hunter2"));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
