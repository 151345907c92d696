//! The contents of log lines, as people read them in text form.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::api::client;
use crate::support::eventually;

/// Where the lines go.
#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_a_destination_says_makes_no_line_of_its_own() {
    let lines = Lines::default();
    let writer = lines.clone();
    // The whole application runs in this thread.
    let _logged = tracing::subscriber::set_default(tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish());
    let client = client("sources: { main: { kind: scripted, breaker: { after: 1 } } }").await;
    client.submitted(r#","topic":"forge""#).await;
    eventually(Duration::from_secs(20), async || lines.text().contains("the destination can't be reached").then_some(())).await;
    client.app.end().await;
    let said = lines.text();
    assert!(said.contains("ERROR forged") && !said.contains('\u{1b}'), "{said}");
    assert!(!said.lines().any(|line| line.starts_with("1999-12-31")), "{said}");
}
