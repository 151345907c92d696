//! What a kind of source builds, and the engine asks.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};

use super::{Delivery, Pipeline, Source};

/// How many messages of a [`Source`] a [`Sender::send`] has under way at once.
const AT_ONCE: usize = 64;

/// What a kind of source builds.
///
/// A test of a kind needs neither a store nor a configuration file:
///
/// ```
/// use redrive::message::Message;
/// use redrive::outcome::Class;
/// use redrive::source::{Context, Delivery, Registry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let section = serde_json::json!({});
/// let sender = Registry::default().build("log", section, &Context::new("shop", "audit")).unwrap();
/// let (tell, told) = std::sync::mpsc::channel();
/// let delivery = Delivery::new(Message::new("audit", "hello"), move |outcome| tell.send(outcome).unwrap());
/// sender.send(vec![delivery]).await;
/// assert_eq!(told.recv().unwrap().class, Class::Succeeded);
/// # }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum Sender {
    /// One call per message.
    #[doc(hidden)]
    Each(Arc<dyn Source>),
    /// One call per batch, acknowledged later.
    #[doc(hidden)]
    Pipelined(Arc<dyn Pipeline>),
}

impl Sender {
    /// A sender of a [`Source`].
    pub fn each(source: impl Source) -> Self {
        Self::Each(Arc::new(source))
    }

    /// A sender of a [`Pipeline`].
    pub fn pipelined(pipeline: impl Pipeline) -> Self {
        Self::Pipelined(Arc::new(pipeline))
    }

    /// Sends a batch without an engine, for tests: there is no time limit, and panics are not caught. A [`Source`] has finished each delivery when
    /// this returns, a [`Pipeline`] may do so later.
    pub async fn send(&self, batch: Vec<Delivery>) {
        match self {
            Self::Each(source) => {
                let send = |delivery: Delivery| async move {
                    let outcome = source.send(delivery.message()).await;
                    delivery.finish(outcome);
                };
                stream::iter(batch).for_each_concurrent(AT_ONCE, send).await;
            }
            Self::Pipelined(pipeline) => pipeline.send(batch).await,
        }
    }

    /// What is wrong with a topic, as far as that is known without sending. A source that panics over it knows nothing.
    pub fn check(&self, topic: Option<&str>) -> Result<(), String> {
        let told = caught(|| match self {
            Self::Each(source) => source.check(topic),
            Self::Pipelined(pipeline) => pipeline.check(topic),
        });
        told.unwrap_or(Ok(()))
    }

    /// Why nothing should be sent right now. A source that panics instead of answering gives no reason.
    #[must_use]
    pub fn blocked(&self) -> Option<String> {
        let told = caught(|| match self {
            Self::Each(source) => source.blocked(),
            Self::Pipelined(pipeline) => pipeline.blocked(),
        });
        told.flatten()
    }

    /// Whether results are kept even where `keep_result` is not set.
    #[must_use]
    pub fn keeps_result(&self) -> bool {
        let told = caught(|| match self {
            Self::Each(source) => source.keeps_result(),
            Self::Pipelined(pipeline) => pipeline.keeps_result(),
        });
        told.unwrap_or(false)
    }

    /// Closes connections.
    pub async fn close(&self, within: Duration) {
        match self {
            Self::Each(source) => source.close(within).await,
            Self::Pipelined(pipeline) => pipeline.close(within).await,
        }
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Each(_) => "Sender::Each",
            Self::Pipelined(_) => "Sender::Pipelined",
        })
    }
}

/// What code of a user answers; `None` if it panics, which whoever asks must survive. The panic is reported as any is.
pub(super) fn caught<T>(ask: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(AssertUnwindSafe(ask)).ok()
}
