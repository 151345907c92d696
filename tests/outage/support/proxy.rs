//! A TCP proxy in front of a server, which comes and goes as the test likes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Listens for as long as it lives; its connections end with it.
#[derive(Debug)]
pub(crate) struct Proxy {
    task: JoinHandle<()>,
    is_mute: Arc<AtomicBool>,
}

impl Proxy {
    /// A proxy at this port in front of `target` (`host:port`).
    pub(crate) async fn at(port: u16, target: String) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let is_mute = Arc::new(AtomicBool::new(false));
        let mute = is_mute.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (target, mute) = (target.clone(), mute.clone());
                connections.spawn(async move {
                    let Ok(server) = TcpStream::connect(&target).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                    tokio::select! {
                        () = pass(from_client, to_server, None) => {}
                        () = pass(from_server, to_client, Some(mute)) => {}
                    }
                });
            }
        });
        Self { task, is_mute }
    }

    /// Turns muting on or off: the server still does what it is asked, but a connection ends instead of passing on the answer.
    pub(crate) fn mute(&self, is_mute: bool) {
        self.is_mute.store(is_mute, Ordering::SeqCst);
    }

    /// Disappears, with all its connections.
    pub(crate) async fn vanish(self) {
        self.task.abort();
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mute: Option<Arc<AtomicBool>>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if mute.as_ref().is_some_and(|mute| mute.load(Ordering::SeqCst)) || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}
