//! A client connection for loads: HTTP/1.1 over TCP, kept alive, one request under way, next to no work per request.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The maximum size of an answer, head and body.
const MOST: usize = 4 << 20;

/// A connection.
pub(super) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer.
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    pub(super) body: &'a [u8],
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 2048] })
    }

    /// Sends a whole request and reads the whole answer.
    pub(super) async fn ask(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        let (status, from, to) = loop {
            if let Some((status, from, length)) = head(self.buffer.get(..filled).unwrap_or_default())? {
                let to = from.checked_add(length).filter(|to| *to <= MOST).ok_or_else(|| invalid("is too long"))?;
                if filled >= to {
                    break (status, from, to);
                }
                if self.buffer.len() < to {
                    self.buffer.resize(to, 0);
                }
            } else if filled == self.buffer.len() {
                if filled >= MOST {
                    return Err(invalid("has no end of head"));
                }
                self.buffer.resize(filled * 2, 0);
            }
            let read = self.stream.read(self.buffer.get_mut(filled..).unwrap_or_default()).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
        };
        Ok(Answer { status, body: self.buffer.get(from..to).unwrap_or_default() })
    }

    /// Requests a path.
    pub(super) async fn get(&mut self, path: &str) -> io::Result<Answer<'_>> {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the answer {what}"))
}

/// The status, where the body begins, and its length; `None` while the head is incomplete.
fn head(bytes: &[u8]) -> io::Result<Option<(u16, usize, usize)>> {
    const LENGTH: &[u8] = b"content-length:";
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = bytes.get(..end).unwrap_or_default();
    let status = head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| digits.parse().ok());
    let status = status.ok_or_else(|| invalid("has no status"))?;
    for line in head.split(|byte| *byte == b'\n') {
        if line.get(..LENGTH.len()).is_some_and(|name| name.eq_ignore_ascii_case(LENGTH)) {
            let value = line.get(LENGTH.len()..).and_then(|value| std::str::from_utf8(value).ok()).and_then(|value| value.trim().parse().ok());
            return value.map(|length| Some((status, end + 4, length))).ok_or_else(|| invalid("has no valid length"));
        }
        if line.get(..18).is_some_and(|name| name.eq_ignore_ascii_case(b"transfer-encoding:")) {
            return Err(invalid("is chunked, which no answer to a load should be"));
        }
    }
    Ok(Some((status, end + 4, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_whole() {
        assert_eq!(head(b"HTTP/1.1 202 Accepted\r\nContent-Len").unwrap(), None);
        assert_eq!(head(b"HTTP/1.1 202 Accepted\r\ncontent-length: 7\r\n\r\n{}").unwrap(), Some((202, 44, 7)));
        assert_eq!(head(b"HTTP/1.1 204 No\r\n\r\n").unwrap(), Some((204, 19, 0)));
        assert!(head(b"nonsense\r\n\r\n").is_err());
        assert!(head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}
