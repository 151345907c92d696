//! The AMQP source against a broker that this file is, which does what no real one can be told to: it confirms what it likes.

use std::time::Duration;

use redrive::outcome::Class;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::sends::{build, context_with_timeout, message, send_all};

/// Ends each frame.
const END: u8 = 0xce;

/// A frame of a method, as AMQP 0-9-1 has it.
fn method(channel: u16, [class, number]: [u16; 2], arguments: &[u8]) -> Vec<u8> {
    let length = u32::try_from(4 + arguments.len()).unwrap();
    let head = [&[1][..], &channel.to_be_bytes(), &length.to_be_bytes(), &class.to_be_bytes(), &number.to_be_bytes()].concat();
    [&head[..], arguments, &[END]].concat()
}

/// Serves one connection: takes `count` messages on its channel and confirms all but the first.
async fn serve(mut stream: TcpStream, count: u64) {
    stream.read_exact(&mut [0; 8]).await.unwrap();
    // Version, no properties, one mechanism, one locale.
    let start = [&[0, 9, 0, 0, 0, 0][..], &5_u32.to_be_bytes(), b"PLAIN", &5_u32.to_be_bytes(), b"en_US"].concat();
    stream.write_all(&method(0, [10, 10], &start)).await.unwrap();
    let mut published = 0;
    // Until the connection is cut.
    while let Ok(kind) = stream.read_u8().await {
        let (channel, length) = (stream.read_u16().await.unwrap(), stream.read_u32().await.unwrap());
        let mut body = vec![0; length as usize + 1];
        stream.read_exact(&mut body).await.unwrap();
        let answer = match (kind, &body[..]) {
            // Start-ok is answered by tune: channels, the largest frame, no heartbeat.
            (1, [0, 10, 0, 11, ..]) => method(0, [10, 30], &[&100_u16.to_be_bytes()[..], &131_072_u32.to_be_bytes(), &[0, 0]].concat()),
            (1, [0, 10, 0, 40, ..]) => method(0, [10, 41], &[0]),
            (1, [0, 20, 0, 10, ..]) => method(channel, [20, 11], &[0, 0, 0, 0]),
            (1, [0, 85, 0, 10, ..]) => method(channel, [85, 11], &[]),
            // The body of a message.
            (3, _) => {
                published += 1;
                (2..=count)
                    .filter(|_| published == count)
                    .flat_map(|tag| method(channel, [60, 80], &[&tag.to_be_bytes()[..], &[0]].concat()))
                    .collect()
            }
            _ => continue,
        };
        stream.write_all(&answer).await.unwrap();
    }
}

#[tokio::test]
async fn what_was_confirmed_behind_one_that_was_not_has_arrived() {
    const COUNT: u64 = 10;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://{}", listener.local_addr().unwrap());
    let broker = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, COUNT).await;
    });
    let sender = build("amqp", json!({"url": url, "channels": 1}), &context_with_timeout("2s"));
    let messages: Vec<_> = (0..COUNT).map(|n| message("orders", n.to_string())).collect();
    let first = messages[0].id;
    for (id, outcome) in send_all(&sender, messages, Duration::from_secs(20)).await {
        let expected = if id == first { Class::Unreachable } else { Class::Succeeded };
        assert_eq!(outcome.class, expected, "{outcome:?}");
    }
    broker.await.unwrap();
}
