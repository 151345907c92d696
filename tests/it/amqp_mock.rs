//! The AMQP source against a broker that answers as the test tells it to: no server is needed.

use std::time::Duration;

use redrive::message::Message;
use redrive::outcome::{Class, Outcome};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::sends::{build, context_with_timeout, message, send_all};

/// The broker's answer for a message, by the message's number in the batch, from 1.
#[derive(Clone, Copy)]
enum Word {
    Ack(u64),
    AckUpTo(u64),
    Nack(u64),
    Return(u64),
}
use Word::{Ack, AckUpTo, Nack, Return};

/// The outcomes of a batch, in order, if the broker gives these answers once it has all of it, and then no more.
async fn outcomes(count: usize, words: Vec<Word>) -> Vec<Outcome> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { broker(listener.accept().await.unwrap().0, count, words).await });
    let sender = build("amqp", json!({ "url": url, "channels": 1 }), &context_with_timeout("2s"));
    let messages: Vec<Message> = (0..count).map(|n| message("queue", n.to_string())).collect();
    let ids: Vec<_> = messages.iter().map(|message| message.id).collect();
    // There is one thread: the lane finds all of them on its turn, and takes them as one batch.
    let mut outcomes = send_all(&sender, messages, Duration::from_secs(20)).await;
    ids.iter().map(|id| outcomes.remove(id).unwrap()).collect()
}

/// One connection: the handshake, the expected number of publishes, then the answers.
async fn broker(mut stream: TcpStream, count: usize, words: Vec<Word>) {
    stream.read_exact(&mut [0; 8]).await.unwrap();
    // connection.start: version 0-9, no properties, the mechanisms, the locales
    say(&mut stream, 0, 10, 10, &[[0, 9].as_slice(), &[0; 4], &long("PLAIN"), &long("en_US")].concat()).await;
    let mut headers = Vec::new();
    while headers.len() < count {
        let (kind, channel, payload) = frame(&mut stream).await;
        match (kind, payload.as_slice()) {
            // connection.tune: 2047 channels, frames of 128 KiB, no heartbeats
            (1, [0, 10, 0, 11, ..]) => say(&mut stream, channel, 10, 30, &[7, 255, 0, 2, 0, 0, 0, 0]).await,
            (1, [0, 10, 0, 40, ..]) => say(&mut stream, channel, 10, 41, &[0]).await,
            (1, [0, 20, 0, 10, ..]) => say(&mut stream, channel, 20, 11, &[0; 4]).await,
            (1, [0, 85, 0, 10, ..]) => say(&mut stream, channel, 85, 11, &[]).await,
            (2, _) => headers.push(payload),
            _ => {}
        }
    }
    // The last one's body.
    frame(&mut stream).await;
    for word in words {
        match word {
            Ack(tag) => say(&mut stream, 1, 60, 80, &[tag.to_be_bytes().as_slice(), &[0]].concat()).await,
            AckUpTo(tag) => say(&mut stream, 1, 60, 80, &[tag.to_be_bytes().as_slice(), &[1]].concat()).await,
            Nack(tag) => say(&mut stream, 1, 60, 120, &[tag.to_be_bytes().as_slice(), &[0]].concat()).await,
            Return(tag) => {
                // 312 NO_ROUTE, the default exchange, the routing key; then its header without a body.
                say(&mut stream, 1, 60, 50, b"\x01\x38\x08NO_ROUTE\x00\x05queue").await;
                let mut header = headers[usize::try_from(tag).unwrap() - 1].clone();
                header[4..12].fill(0);
                write(&mut stream, 2, 1, &header).await;
            }
        }
    }
    // It stays and keeps reading until the other side has had enough.
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

fn long(text: &str) -> Vec<u8> {
    [&u32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

async fn say(stream: &mut TcpStream, channel: u16, class: u16, method: u16, arguments: &[u8]) {
    write(stream, 1, channel, &[&class.to_be_bytes(), &method.to_be_bytes(), arguments].concat()).await;
}

async fn write(stream: &mut TcpStream, kind: u8, channel: u16, payload: &[u8]) {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    stream.write_all(&[&[kind], channel.to_be_bytes().as_slice(), &size, payload, &[0xce]].concat()).await.unwrap();
}

async fn frame(stream: &mut TcpStream) -> (u8, u16, Vec<u8>) {
    let (kind, channel) = (stream.read_u8().await.unwrap(), stream.read_u16().await.unwrap());
    let mut payload = vec![0; usize::try_from(stream.read_u32().await.unwrap()).unwrap()];
    stream.read_exact(&mut payload).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), 0xce);
    (kind, channel, payload)
}

/// Whether a message arrived, whether it did is not known, or why it was refused.
fn verdicts(outcomes: &[Outcome]) -> Vec<&str> {
    outcomes
        .iter()
        .map(|outcome| match outcome.class {
            Class::Succeeded => "arrived",
            Class::Unreachable => "unknown",
            Class::Refused | Class::Permanent => outcome.code.as_ref(),
        })
        .collect()
}

#[tokio::test]
async fn a_confirm_that_is_withheld_holds_up_none_of_those_behind_it() {
    let mut expected = vec!["arrived"; 10];
    expected[0] = "unknown";
    assert_eq!(verdicts(&outcomes(10, (2..=10).map(Ack).collect()).await), expected);
    // Nor do answers out of order, or those for messages that were not taken.
    expected[1..3].fill("amqp_nack");
    assert_eq!(verdicts(&outcomes(10, [Nack(3), Nack(2)].into_iter().chain((4..=10).rev().map(Ack)).collect()).await), expected);
}

#[tokio::test]
async fn what_was_returned_past_a_withheld_confirm_is_told_by_whoever_brought_it() {
    // The second's confirm brings the third's return, so that its own might still be waiting; the third's brings none.
    let words = vec![Return(3), Ack(2), Ack(3), Ack(4)];
    assert_eq!(verdicts(&outcomes(4, words).await), ["unknown", "unknown", "amqp_unroutable", "arrived"]);
    // Two were returned; the only confirm carries the other's return, and that of its own message never arrives.
    assert_eq!(verdicts(&outcomes(3, vec![Return(2), Return(3), Ack(3)]).await), ["unknown"; 3]);
}

#[tokio::test]
async fn a_word_for_many_that_brings_several_returns_is_sorted_out() {
    let words = vec![Return(2), Return(4), AckUpTo(5)];
    assert_eq!(verdicts(&outcomes(5, words).await), ["arrived", "amqp_unroutable", "arrived", "amqp_unroutable", "arrived"]);
}
