//! `redrive demo` with a broker that outlives it.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::demo::{demo, interrupted};
use crate::support::service;

/// The existing topics of demos.
fn topics() -> Vec<String> {
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", service("REDRIVE_TEST_KAFKA")).create().unwrap();
    let metadata = consumer.fetch_metadata(None, Duration::from_secs(20)).unwrap();
    metadata.topics().iter().map(|topic| topic.name().to_owned()).filter(|name| name.starts_with("redrive-demo-")).collect()
}

#[test]
fn an_interrupted_demo_takes_its_topic_along() {
    let (folder, before) = (tempfile::tempdir().unwrap(), topics());
    let ours = || topics().into_iter().any(|name| !before.contains(&name));
    let mut command = demo(folder.path());
    command.args(["--kafka", &service("REDRIVE_TEST_KAFKA")]);
    interrupted(command, "-INT", ours);
    // Brokers delete it in their own time.
    let deadline = Instant::now() + Duration::from_secs(20);
    while ours() {
        assert!(Instant::now() < deadline, "its topic is still there");
        std::thread::sleep(Duration::from_millis(100));
    }
}
