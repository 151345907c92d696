//! A lane of the AMQP source: one channel, and the batches that go over it one after another.
//!
//! lapin attaches a returned message to whichever confirm comes next, so a single confirm proves nothing about its own message. Two things are
//! certain: the broker sends a return before the confirm of the same message, and returns come in the order of the sends. Once every send up to some
//! point is confirmed, every return up to that point has been attached to *some* confirm. A confirm without a return shows that none was waiting, so
//! if its own message was returned, that return is on an earlier confirm. Therefore a batch is awaited as a whole, the ids of all returned messages
//! are gathered from all confirms, and each message is judged by its own id. If a confirm is withheld or lost, only those later messages are in doubt
//! whose confirm came with another message's return.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Confirmation, ExchangeKind};
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;
use uuid::Uuid;

use super::connection::{Link, Links};
use super::errors;
use super::publishing::Publishing;
use crate::message::Message;
use crate::outcome::Outcome;
use crate::source::Receipt;

/// At most this many messages are under way on a channel.
pub(super) const BATCH: usize = 256;
/// At most this many bytes. A larger message goes alone, so that if it exceeds the broker's limit it takes no other with it.
const BATCH_BYTES: usize = 1 << 20;
/// How long to wait for what lapin had already heard when a connection was cut.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A message on its way.
pub(super) struct Row {
    pub(super) message: Message,
    pub(super) receipt: Receipt,
    pub(super) since: Instant,
}

/// What every lane of a source shares.
pub(super) struct Route {
    pub(super) links: Links,
    pub(super) exchange: ShortString,
    pub(super) routing_key: Option<String>,
    pub(super) mandatory: bool,
    pub(super) timeout: Duration,
}

struct Open {
    link: Arc<Link>,
    channel: Channel,
}

/// Why some messages of a batch could not be judged.
enum Cause {
    /// The channel or the connection was lost.
    Lost(lapin::Error),
    /// Time ran out, and the connection was cut for it.
    Late,
}

/// The work on one channel.
pub(super) struct Lane {
    route: Arc<Route>,
    open: Option<Open>,
}

impl Lane {
    pub(super) const fn new(route: Arc<Route>) -> Self {
        Self { route, open: None }
    }

    /// Sends what comes until the queue is closed.
    pub(super) async fn run(mut self, rows: Arc<Mutex<mpsc::Receiver<Row>>>) {
        let mut batch = Vec::with_capacity(BATCH);
        while rows.lock().await.recv_many(&mut batch, BATCH).await > 0 {
            for part in parts(batch.drain(..)) {
                self.send(part).await;
            }
        }
    }

    /// Sends a batch and finishes each of its messages.
    async fn send(&mut self, rows: Vec<Row>) {
        let now = Instant::now();
        // Messages that have already waited half their time go back unsent: the rest would not be enough, and a send that is cut short costs all of
        // them the connection.
        let (rows, late): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| now.saturating_duration_since(row.since) <= self.route.timeout / 2);
        finish(late, &Outcome::unreachable("amqp_timeout", "messages arrive faster than the broker takes them"));
        let Some(since) = rows.iter().map(|row| row.since).min() else { return };
        let deadline = since + self.route.timeout;

        if let Some(reason) = self.route.links.blocked() {
            return finish(rows, &Outcome::unreachable("amqp_blocked", reason));
        }
        if let Err(outcome) = self.ready(deadline).await {
            return finish(rows, &outcome);
        }
        let (lost, cause) = self.publish(rows, deadline).await;
        match cause {
            Cause::Lost(error) if errors::is_of_channel(&error) && lost.len() > 1 => self.repeat(lost, deadline).await,
            // All others were confirmed, so the error is about this one.
            cause => finish_lost(lost, &cause),
        }
    }

    /// The broker closed the channel because of one of these and does not say which: each is sent again, alone.
    async fn repeat(&mut self, rows: Vec<Row>, deadline: Instant) {
        for row in rows {
            if Instant::now() >= deadline {
                finish([row], &Outcome::unreachable("amqp_channel_closed", "the broker closed the channel for another message"));
            } else if let Err(outcome) = self.ready(deadline).await {
                finish([row], &outcome);
            } else {
                let (lost, cause) = self.publish(vec![row], deadline).await;
                finish_lost(lost, &cause);
            }
        }
    }

    /// Makes sure that there is an open channel in confirm mode, to an exchange that exists.
    async fn ready(&mut self, deadline: Instant) -> Result<(), Outcome> {
        if self.open.as_ref().is_some_and(|open| open.link.alive() && open.channel.status().connected()) {
            return Ok(());
        }
        self.open = None;
        let late = || Outcome::unreachable("amqp_timeout", "no connection in time");
        let link = tokio::time::timeout_at(deadline, self.route.links.get()).await.map_err(|_| late())??;
        let opened = tokio::time::timeout_at(deadline, open(&link, &self.route.exchange)).await;
        match opened {
            Ok(Ok(channel)) => {
                self.open = Some(Open { link, channel });
                Ok(())
            }
            // The whole source has one exchange: nothing was sent, and nothing could be.
            Ok(Err(error)) => Err(errors::closed(&error, true)),
            Err(_) => {
                link.kill();
                Err(late())
            }
        }
    }

    /// Publishes on the open channel and finishes every message that can be judged. Returns the rest, and why; the channel is then not used again.
    async fn publish(&mut self, rows: Vec<Row>, deadline: Instant) -> (Vec<Row>, Cause) {
        let Some(open) = self.open.take() else { return (rows, Cause::Late) };
        let (messages, publishings, receipts) = prepare(rows, &self.route, open.link.frame_max);
        let Confirmed { confirmations, late, cause } = confirm(&open, &self.route, &messages, publishings, deadline).await;

        let mut returned = HashMap::new();
        for message in confirmations.iter().flatten().chain(&late).filter_map(returned_message) {
            if let Some(id) = message.properties.message_id() {
                returned.insert(
                    id.as_str().to_owned(),
                    errors::returned(message.reply_code, message.reply_text.as_str(), self.route.exchange.as_str(), message.routing_key.as_str()),
                );
            }
        }
        let mut lost = Vec::new();
        for ((message, (receipt, since)), confirmation) in messages.into_iter().zip(receipts).zip(confirmations) {
            let row = Row { message, receipt, since };
            let outcome = returned.remove(&*row.message.id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
            match confirmation {
                None => lost.push(row),
                // After the first missing confirm, this message's own return may be attached to that one.
                Some(Confirmation::Ack(Some(_))) if !lost.is_empty() && outcome.is_none() => lost.push(row),
                Some(confirmation) => {
                    row.receipt.finish(outcome.unwrap_or_else(|| match confirmation {
                        Confirmation::Ack(_) => Outcome::succeeded(),
                        Confirmation::Nack(_) => Outcome::refused("amqp_nack", "the broker did not take the message"),
                        Confirmation::NotRequested => Outcome::unreachable("amqp_not_confirmed", "the channel was not in confirm mode"),
                    }));
                }
            }
        }
        if lost.is_empty() {
            self.open = Some(open);
        }
        (lost, cause)
    }
}

/// Cuts a batch into parts of at most [`BATCH_BYTES`]; a larger message is a part of its own.
fn parts(rows: impl Iterator<Item = Row>) -> Vec<Vec<Row>> {
    let mut parts: Vec<Vec<Row>> = Vec::new();
    let mut bytes = 0_usize;
    for row in rows {
        let size = row.message.payload.as_ref().map_or(0, Bytes::len);
        bytes = bytes.saturating_add(size);
        match parts.last_mut() {
            Some(part) if bytes <= BATCH_BYTES => part.push(row),
            _ => {
                bytes = size;
                parts.push(vec![row]);
            }
        }
    }
    parts
}

fn returned_message(confirmation: &Confirmation) -> Option<&BasicReturnMessage> {
    match confirmation {
        Confirmation::Ack(message) | Confirmation::Nack(message) => message.as_ref(),
        Confirmation::NotRequested => None,
    }
}

/// Splits off what can be sent, in AMQP's form, with the receipts; the others are finished.
fn prepare(rows: Vec<Row>, route: &Route, frame_max: u32) -> (Vec<Message>, Vec<Publishing>, Vec<(Receipt, Instant)>) {
    let mut messages = Vec::with_capacity(rows.len());
    let mut publishings = Vec::with_capacity(rows.len());
    let mut receipts = Vec::with_capacity(rows.len());
    for Row { message, receipt, since } in rows {
        match Publishing::of(&message, route.routing_key.as_deref(), frame_max) {
            Ok(publishing) => {
                messages.push(message);
                publishings.push(publishing);
                receipts.push((receipt, since));
            }
            Err(outcome) => receipt.finish(outcome),
        }
    }
    (messages, publishings, receipts)
}

/// What the broker reported about a batch.
struct Confirmed {
    /// The confirms in order; `None` where none came.
    confirmations: Vec<Option<Confirmation>>,
    /// Confirms that came while the others were being looked at: too late to count, but they may carry returns of the others.
    late: Vec<Confirmation>,
    cause: Cause,
}

/// Sends and waits for every confirm until the deadline; then the connection is cut, since lapin can't take a publish back.
async fn confirm(open: &Open, route: &Route, messages: &[Message], publishings: Vec<Publishing>, deadline: Instant) -> Confirmed {
    let mut sends = Vec::with_capacity(messages.len());
    for (message, Publishing { routing_key, properties }) in messages.iter().zip(publishings) {
        let options = BasicPublishOptions { mandatory: route.mandatory, immediate: false };
        let payload = message.payload.as_deref().unwrap_or_default();
        let publish = open.channel.basic_publish(route.exchange.clone(), routing_key, options, payload, properties);
        let mut send = Box::pin(async { publish.await?.await }.fuse());
        // The first poll hands over the frames, in order; the rest is waiting for them to be written and confirmed.
        let first = futures::poll!(&mut send);
        sends.push((send, first));
    }
    let mut patience = Patience { until: deadline, cause: Cause::Late };
    let mut confirmations = Vec::with_capacity(sends.len());
    let mut unheard = Vec::new();
    for (mut send, first) in sends {
        let confirmation = match first {
            Poll::Ready(result) => patience.note(result),
            Poll::Pending => patience.wait(&mut send, &open.link).await,
        };
        if confirmation.is_none() {
            unheard.push(send);
        }
        confirmations.push(confirmation);
    }
    let late = unheard.into_iter().filter_map(|send| send.now_or_never()?.ok()).collect();
    Confirmed { confirmations, late, cause: patience.cause }
}

/// Waits for many things with one deadline. When it has passed, the connection is cut and what lapin knew already gets a moment to arrive.
struct Patience {
    until: Instant,
    cause: Cause,
}

impl Patience {
    async fn wait<T>(&mut self, what: impl Future<Output = lapin::Result<T>>, link: &Link) -> Option<T> {
        let mut what = std::pin::pin!(what);
        if let Ok(result) = tokio::time::timeout_at(self.until, &mut what).await {
            return self.note(result);
        }
        if link.alive() {
            link.kill();
            self.until = Instant::now() + LAST_WORDS;
            // Anything that lapin reports from here on is a result of the cut.
            return tokio::time::timeout_at(self.until, what).await.ok().and_then(Result::ok);
        }
        None
    }

    fn note<T>(&mut self, result: lapin::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                // The broker's own words say more than the errors that follow from them.
                if !matches!(&self.cause, Cause::Lost(have) if have.is_amqp_error() || !error.is_amqp_error()) {
                    self.cause = Cause::Lost(error);
                }
                None
            }
        }
    }
}

fn finish(rows: impl IntoIterator<Item = Row>, outcome: &Outcome) {
    for row in rows {
        row.receipt.finish(outcome.clone());
    }
}

/// Finishes messages that were sent alone, or lost with the whole connection.
fn finish_lost(rows: Vec<Row>, cause: &Cause) {
    let outcome = match cause {
        Cause::Lost(error) => errors::closed(error, rows.len() == 1),
        Cause::Late => Outcome::unreachable("amqp_timeout", "the broker did not confirm in time; the connection was cut"),
    };
    finish(rows, &outcome);
}

/// A channel in confirm mode to an exchange that exists.
async fn open(link: &Link, exchange: &ShortString) -> lapin::Result<Channel> {
    let channel = link.connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    if !exchange.as_str().is_empty() {
        // Checked once per channel, so that a missing exchange takes no message with it.
        let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(exchange.clone(), ExchangeKind::Direct, passive, FieldTable::default()).await?;
    }
    Ok(channel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Delivery;

    #[test]
    fn a_large_message_goes_alone_and_the_order_stays() {
        let row = |size: usize| {
            let (message, receipt) = Delivery::new(Message::new("log", "x".repeat(size)), |_| ()).split();
            Row { message, receipt, since: Instant::now() }
        };
        let sizes = [10, 20, BATCH_BYTES + 1, 30, BATCH_BYTES - 30, 1];
        let parts: Vec<Vec<usize>> = parts(sizes.into_iter().map(row))
            .into_iter()
            .map(|part| part.iter().map(|row| row.message.payload.as_ref().unwrap().len()).collect())
            .collect();
        assert_eq!(parts, [vec![10, 20], vec![BATCH_BYTES + 1], vec![30, BATCH_BYTES - 30], vec![1]]);
    }
}
