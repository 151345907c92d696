//! A TCP proxy before a server, which a test can stall: connections stay open, and nothing comes back. Or it says another word to the server than the
//! one it was given.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A word, and another of the same length that the server is given in its place.
type Instead = Option<(&'static [u8], &'static [u8])>;

/// Listens on a port of its own for as long as it lives.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    stalled: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy before `target` (`host:port`).
    pub(crate) async fn before(target: String) -> Self {
        Self::saying(target, None).await
    }

    /// One that says `another` word to the server instead of `word`, wherever it finds it in what it reads at once.
    pub(crate) async fn saying_instead(target: String, word: &'static str, another: &'static str) -> Self {
        assert_eq!(word.len(), another.len());
        Self::saying(target, Some((word.as_bytes(), another.as_bytes()))).await
    }

    async fn saying(target: String, instead: Instead) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stalled, watching) = watch::channel(false);
        let target: Arc<str> = target.into();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (target, watching) = (target.clone(), watching.clone());
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(&*target).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                    tokio::select! {
                        () = pass(from_client, to_server, watching.clone(), instead) => {}
                        () = pass(from_server, to_client, watching, None) => {}
                    }
                });
            }
        });
        Self { address, stalled, task }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on nothing passes, until [`Self::go_on`].
    pub(crate) fn stall(&self) {
        self.stalled.send_replace(true);
    }

    pub(crate) fn go_on(&self) {
        self.stalled.send_replace(false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut stalled: watch::Receiver<bool>, instead: Instead) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        if let Some((word, another)) = instead {
            for start in 0..=read.saturating_sub(word.len()) {
                if buffer[..read][start..].starts_with(word) {
                    buffer[start..start + word.len()].copy_from_slice(another);
                }
            }
        }
        if stalled.wait_for(|stalled| !stalled).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
