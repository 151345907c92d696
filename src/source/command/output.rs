//! Reads a program's output: all of it, so that the program never blocks on us, while keeping only a little.

use std::collections::VecDeque;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::outcome::MAX_RESULT;

const CHUNK: usize = 8 << 10;
/// The maximum number of lines of standard error in an error's text.
const LINES: usize = 5;
/// The maximum number of bytes of them: their end explains most, while an error's text is cut at its end.
const LINES_BYTES: usize = 600;

/// The first bytes of a stream.
#[derive(Debug, Default)]
pub(super) struct Head(Vec<u8>);

/// The last bytes of a stream.
#[derive(Debug, Default)]
pub(super) struct Tail(VecDeque<u8>);

/// What is kept of a stream.
pub(super) trait Keep {
    /// Takes the next bytes.
    fn take(&mut self, bytes: &[u8]);
}

impl Keep for Head {
    fn take(&mut self, bytes: &[u8]) {
        let room = MAX_RESULT.saturating_sub(self.0.len()).min(bytes.len());
        self.0.extend_from_slice(&bytes[..room]);
    }
}

impl Keep for Tail {
    fn take(&mut self, bytes: &[u8]) {
        self.0.extend(&bytes[bytes.len().saturating_sub(MAX_RESULT)..]);
        let over = self.0.len().saturating_sub(MAX_RESULT);
        self.0.drain(..over);
    }
}

impl Head {
    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Tail {
    /// The last lines as text, in one line.
    pub(super) fn last_lines(&self) -> String {
        let bytes: Vec<u8> = self.0.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let joined = lines[lines.len().saturating_sub(LINES)..].join(" | ");
        let start = (joined.len().saturating_sub(LINES_BYTES)..joined.len()).find(|at| joined.is_char_boundary(*at));
        start.map(|start| joined[start..].to_owned()).unwrap_or_default()
    }
}

/// Reads a stream to its end.
pub(super) async fn read(stream: Option<impl AsyncRead + Unpin>, keep: &mut impl Keep) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; CHUNK];
    while let Ok(count) = stream.read(&mut buffer).await
        && count > 0
    {
        keep.take(&buffer[..count]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_keeps_the_beginning_and_the_tail_the_end() {
        let (mut head, mut tail) = (Head::default(), Tail::default());
        for n in 0..10_000 {
            let line = format!("line {n}\n");
            head.take(line.as_bytes());
            tail.take(line.as_bytes());
        }
        assert!(head.bytes().starts_with(b"line 0\nline 1\n") && head.bytes().len() == MAX_RESULT);
        assert_eq!(tail.last_lines(), "line 9995 | line 9996 | line 9997 | line 9998 | line 9999");
        tail.take(&vec![b'x'; 100_000]);
        assert_eq!(tail.last_lines().len(), LINES_BYTES);
        tail.take("é".repeat(1000).as_bytes());
        assert!(tail.last_lines().ends_with('é'));
    }
}
