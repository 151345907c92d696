//! The payloads of a benchmark: JSON of a given size that contains the run's tag and a number, so that a consumer can detect copies and losses.

use std::fmt::Write as _;

/// The number of digits of a message's number.
pub(super) const DIGITS: usize = 12;
/// The length of a run's tag.
pub(super) const TAG: usize = 8;
/// The text before the number.
const HEAD: &str = r#"{"bench":""#;
const BETWEEN: &str = r#"","seq":""#;
const PAD: &str = r#"","pad":""#;
const END: &str = r#""}"#;
/// The position of the number.
pub(super) const AT: usize = HEAD.len() + TAG + BETWEEN.len();
/// The size of the smallest payload.
pub(super) const SMALLEST: usize = AT + DIGITS + PAD.len() + END.len();

/// The payloads of one run.
#[derive(Clone, Debug)]
pub(super) struct Payloads {
    tag: String,
    size: usize,
}

impl Payloads {
    /// `tag` is cut or padded to [`TAG`] characters.
    pub(super) fn new(tag: &str, size: usize) -> Self {
        Self { tag: format!("{tag:0<TAG$.TAG$}"), size: size.max(SMALLEST) }
    }

    /// The text before and after the number.
    pub(super) fn around(&self) -> (String, String) {
        let pad = "x".repeat(self.size - SMALLEST);
        (format!("{HEAD}{}{BETWEEN}", self.tag), format!("{PAD}{pad}{END}"))
    }

    /// The payload of a number.
    pub(super) fn of(&self, number: u64) -> Vec<u8> {
        let (mut text, after) = self.around();
        // Writing to a string can't fail.
        let _ = write!(text, "{number:0DIGITS$}");
        text.push_str(&after);
        text.into_bytes()
    }

    /// The number in a payload of this run.
    pub(super) fn number(&self, payload: &[u8]) -> Option<u64> {
        if payload.get(HEAD.len()..HEAD.len() + TAG)? != self.tag.as_bytes() {
            return None;
        }
        std::str::from_utf8(payload.get(AT..AT + DIGITS)?).ok()?.parse().ok()
    }
}

/// Writes a number into its place in a template.
pub(super) fn write_number(template: &mut [u8], at: usize, mut number: u64) {
    if let Some(digits) = template.get_mut(at..at + DIGITS) {
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
            number /= 10;
        }
    }
}

/// What a consumer has seen.
#[derive(Debug)]
pub(super) struct Tally {
    payloads: Payloads,
    times: Vec<u8>,
}

/// A consumer's final result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// How often messages came again.
    pub(super) copies: u64,
    /// Accepted messages that never came.
    pub(super) lost: u64,
}

impl Tally {
    /// For messages numbered from 0 to `sent`.
    pub(super) fn new(payloads: Payloads, sent: u64) -> Self {
        Self { payloads, times: vec![0; usize::try_from(sent).unwrap_or(0)] }
    }

    /// Counts a payload; those of other runs are ignored.
    pub(super) fn see(&mut self, payload: &[u8]) {
        let index = self.payloads.number(payload).and_then(|number| usize::try_from(number).ok());
        if let Some(times) = index.and_then(|index| self.times.get_mut(index)) {
            *times = times.saturating_add(1);
        }
    }

    /// The verdict; refused messages need not have arrived.
    pub(super) fn verdict(&self, refused: &[u64]) -> Verdict {
        let copies = self.times.iter().map(|times| u64::from(times.saturating_sub(1))).sum();
        let missing = |number: &u64| usize::try_from(*number).ok().and_then(|index| self.times.get(index)).is_some_and(|times| *times == 0);
        let excused = refused.iter().filter(|number| missing(number)).count() as u64;
        let absent: u64 = self.times.iter().map(|times| u64::from(*times == 0)).sum();
        Verdict { copies, lost: absent.saturating_sub(excused) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_json_of_its_size_and_tells_its_number() {
        for size in [SMALLEST, 64, 512] {
            let payloads = Payloads::new("abcd1234", size);
            let payload = payloads.of(1_234_567);
            assert_eq!(payload.len(), size);
            assert!(serde_json::from_slice::<serde_json::Value>(&payload).is_ok());
            assert_eq!(payloads.number(&payload), Some(1_234_567));
            assert_eq!(Payloads::new("other", size).number(&payload), None);
            let mut patched = payloads.of(0);
            write_number(&mut patched, AT, 1_234_567);
            assert_eq!(patched, payload);
        }
        assert_eq!(Payloads::new("abcd1234", 64).number(b"something else"), None);
    }

    #[test]
    fn copies_and_losses_are_counted_and_what_was_refused_is_excused() {
        let payloads = Payloads::new("abcd1234", 64);
        let mut tally = Tally::new(payloads.clone(), 5);
        for number in [0, 1, 1, 1, 3, 99] {
            tally.see(&payloads.of(number));
        }
        tally.see(&Payloads::new("other", 64).of(2));
        assert_eq!(tally.verdict(&[]), Verdict { copies: 2, lost: 2 });
        assert_eq!(tally.verdict(&[2, 3]), Verdict { copies: 2, lost: 1 });
    }
}
