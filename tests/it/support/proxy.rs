//! A TCP proxy on loopback in front of a server, which a test can stall or cut. It can also replace a word on its way to the server.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A word, and the replacement of the same length.
type Instead = Option<(&'static [u8], &'static [u8])>;

/// What a [`Proxy`] does with the bytes it receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Open,
    /// Nothing passes and nothing is closed, like a server that was stopped.
    Stalled,
    /// Connections are closed, and so are new ones, like a server that is dead.
    Cut,
}

/// Listens on its own port for as long as it lives.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    flow: watch::Sender<Flow>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of `target` (`host:port`).
    pub(crate) async fn to(target: &str) -> Self {
        Self::saying(target, None).await
    }

    /// One that replaces `word` by `another` on the way to the server, wherever it is within a single read.
    pub(crate) async fn saying_instead(target: &str, word: &'static str, another: &'static str) -> Self {
        assert_eq!(word.len(), another.len());
        Self::saying(target, Some((word.as_bytes(), another.as_bytes()))).await
    }

    async fn saying(target: &str, instead: Instead) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (flow, seen) = watch::channel(Flow::Open);
        let target = target.to_owned();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (target, seen) = (target.clone(), seen.clone());
                tokio::spawn(async move {
                    if *seen.borrow() == Flow::Cut {
                        return;
                    }
                    let Ok(server) = TcpStream::connect(target).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                    tokio::join!(pass(from_client, to_server, seen.clone(), instead), pass(from_server, to_client, seen, None));
                });
            }
        });
        Self { address, flow, task }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn open(&self) {
        self.flow.send_replace(Flow::Open);
    }

    pub(crate) fn stall(&self) {
        self.flow.send_replace(Flow::Stalled);
    }

    pub(crate) fn cut(&self) {
        self.flow.send_replace(Flow::Cut);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut flow: watch::Receiver<Flow>, instead: Instead) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let now = *flow.borrow_and_update();
        match now {
            Flow::Cut => return,
            Flow::Stalled => {
                if flow.changed().await.is_err() {
                    return;
                }
            }
            Flow::Open => tokio::select! {
                changed = flow.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                read = from.read(&mut buffer) => {
                    let Ok(count @ 1..) = read else { return };
                    say_instead(&mut buffer[..count], instead);
                    if to.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            },
        }
    }
}

fn say_instead(said: &mut [u8], instead: Instead) {
    let Some((word, another)) = instead else { return };
    for start in 0..=said.len().saturating_sub(word.len()) {
        if said[start..].starts_with(word) {
            said[start..start + word.len()].copy_from_slice(another);
        }
    }
}
