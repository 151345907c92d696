//! The error codes that the sends of a kind may report, against which the keys of `outcomes:` are checked.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

/// Codes that the engine assigns, whatever the kind: the source dropped the message, panicked, or took too long.
pub(super) const OF_THE_ENGINE: [&str; 3] = ["dropped", "panic", "timeout"];

/// An error code, or several that differ in a number.
///
/// ```
/// use redrive::source::codes::Code;
/// assert!(Code::from("http_dns").is("http_dns"));
/// assert!(Code::Numbered("exit_", 1..=255).is("exit_75"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Code {
    /// A single code, such as `http_dns`.
    One(Cow<'static, str>),
    /// Codes that have this prefix and end in one of these numbers, such as `exit_1` to `exit_255`.
    Numbered(&'static str, RangeInclusive<u16>),
}

impl Code {
    /// Whether this is the code, or one of them.
    #[must_use]
    pub fn is(&self, code: &str) -> bool {
        match self {
            Self::One(one) => one == code,
            // Only as numbers are written in codes: `exit_075` and `exit_+75` don't match.
            Self::Numbered(prefix, numbers) => code
                .strip_prefix(prefix)
                .is_some_and(|digits| digits.parse::<u16>().is_ok_and(|number| numbers.contains(&number) && number.to_string() == digits)),
        }
    }
}

impl From<&'static str> for Code {
    fn from(code: &'static str) -> Self {
        Self::One(code.into())
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(one) => f.write_str(one),
            Self::Numbered(prefix, numbers) => write!(f, "{prefix}{} to {prefix}{}", numbers.start(), numbers.end()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_one_of_those_and_written_as_the_code_has_it() {
        let exits = Code::Numbered("exit_", 1..=255);
        assert!(exits.is("exit_1") && exits.is("exit_255"));
        for other in ["exit_0", "exit_256", "exit_", "exit_07", "exit_+7", "exit_7 ", "exit7", "exit_99999", "signal_7"] {
            assert!(!exits.is(other), "{other}");
        }
        assert_eq!(exits.to_string(), "exit_1 to exit_255");
    }
}
