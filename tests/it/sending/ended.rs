//! What is left running once an application has ended, or was dropped: nothing.

use std::sync::Arc;
use std::time::Duration;

use redrive::store;
use redrive::units::Secret;
use tokio::net::TcpStream;

use crate::api::client;
use crate::support::app::start_in;
use crate::support::eventually;

/// A semaphore gives a permit to whoever waits for it at once.
#[tokio::test]
async fn a_send_that_outlives_the_grace_is_dropped() {
    let client = client("shutdown: { accept_for: 0s, grace: 100ms }").await;
    let id = client.submitted(r#","topic":"hold""#).await;
    client.until(&id, "sending").await;
    let hold = client.app.hold.clone();
    client.app.end().await;
    hold.add_permits(1);
    assert_eq!(hold.available_permits(), 1, "nobody waits for it any longer");
}

#[tokio::test]
async fn an_application_that_is_dropped_stops_and_leaves_the_store_to_the_next() {
    let client = client("").await;
    let id = client.submitted(r#","topic":"hold""#).await;
    client.until(&id, "sending").await;
    let (api, hold) = (client.app.api, client.app.hold.clone());
    let config = store::Config { url: Secret::new(client.app.store_url()), ..store::Config::default() };
    let taken = || store::guard(&config).is_err();
    assert!(taken());
    let folder = client.app.cut().await;
    eventually(Duration::from_secs(10), async || (!taken()).then_some(())).await;
    eventually(Duration::from_secs(10), async || (Arc::strong_count(&hold) == 1).then_some(())).await;
    assert!(TcpStream::connect(api).await.is_err(), "nobody listens");
    start_in(folder, "").await.end().await;
}
