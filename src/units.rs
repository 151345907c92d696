//! Values with a unit, as they are written in YAML, queries and JSON: `5s`, `2h`, `16MiB`.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest span that is accepted: 100 years. Anything longer is a typing error, and sums of spans stay far from overflow.
pub const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The whole milliseconds of a span.
#[doc(hidden)]
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// One or more numbers with their units, as a regular expression. Long forms such as `5min` and `2days` are accepted too.
const SUM: &str = r"([0-9]+(\.[0-9]+)?\s*[a-z]+\s*)+";

/// Reads what is written as text. A number instead of it gets the message that the same text would get, which says what to write.
struct Written<T> {
    what: &'static str,
    of: PhantomData<T>,
}

impl<T: FromStr<Err = String>> Written<T> {
    /// `what` is expected.
    fn read<'de, D: Deserializer<'de>>(what: &'static str, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_any(Self { what, of: PhantomData })
    }
}

impl<T: FromStr<Err = String>> de::Visitor<'_> for Written<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

/// A duration written with its unit: `500ms`, `5s`, `10m`, `1.5h`, `1d`, `2w`, `7d 12h`. At most 100 years.
///
/// ```
/// use redrive::units::Span;
/// let span: Span = "1m 30s".parse().unwrap();
/// assert_eq!(span.get().as_secs(), 90);
/// assert_eq!(span.to_string(), "1m 30s");
/// assert!("5".parse::<Span>().is_err());
/// assert!("5M".parse::<Span>().is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(Duration);

impl Span {
    /// A span of whole seconds, at most 100 years.
    #[must_use]
    pub const fn secs(seconds: u64) -> Self {
        let longest = LONGEST.as_secs();
        Self(Duration::from_secs(if seconds > longest { longest } else { seconds }))
    }

    /// A span of milliseconds.
    #[must_use]
    pub const fn millis(millis: u32) -> Self {
        Self(Duration::from_millis(millis as u64))
    }

    /// The same as a [`Duration`].
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.0
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        // In humantime, `M` is a month: `5M`, meant as minutes, would be 150 days.
        let is_clear = !text.contains(char::is_uppercase);
        // The only number that it accepts without a unit is `0`, which can't be misread; so do we.
        let parsed = humantime::parse_duration(text).ok().filter(|_| is_clear).ok_or_else(|| {
            format!("`{text}` is not a duration; write a number with its unit, ms, s, m, h, d or w, such as 500ms, 10m, 1.5h or 7d 12h")
        })?;
        if parsed > LONGEST {
            return Err(format!("`{text}` is longer than 100 years"));
        }
        Ok(Self(parsed))
    }
}

impl fmt::Display for Span {
    // Must parse back to the same span: a message's own policy is stored in its row in this form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (secs, nanos) = (self.0.as_secs(), self.0.subsec_nanos());
        let mut parts: Vec<String> = [(secs / 86_400, "d"), (secs / 3600 % 24, "h"), (secs / 60 % 60, "m"), (secs % 60, "s")]
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, unit)| format!("{count}{unit}"))
            .collect();
        if nanos > 0 {
            let millis = format!("{}.{:06}", nanos / 1_000_000, nanos % 1_000_000);
            parts.push(format!("{}ms", millis.trim_end_matches('0').trim_end_matches('.')));
        }
        if parts.is_empty() { f.write_str("0s") } else { f.write_str(&parts.join(" ")) }
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Written::read("a duration such as 10m", deserializer)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number with its unit, ms, s, m, h, d or w, or a sum of these: 500ms, 10m, 1.5h, 7d 12h.",
            "anyOf": [{"const": 0}, {"type": "string", "pattern": format!(r"^\s*(0\s*|{SUM})$")}],
        })
    }
}

/// A span, or `never`.
///
/// ```
/// use redrive::units::Limit;
/// assert_eq!("never".parse::<Limit>().unwrap().get(), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// No limit.
    Never,
    /// Ends after this span.
    After(Span),
}

impl Limit {
    /// The span, `None` for `never`.
    #[must_use]
    pub const fn get(self) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::After(span) => Some(span.get()),
        }
    }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim() == "never" { Ok(Self::Never) } else { text.parse().map(Self::After).map_err(|error| format!("{error}, or never")) }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("never"),
            Self::After(span) => span.fmt(f),
        }
    }
}

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Written::read("a duration such as 10m, or never", deserializer)
    }
}

impl JsonSchema for Limit {
    fn schema_name() -> Cow<'static, str> {
        "DurationOrNever".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number with its unit, ms, s, m, h, d or w, or a sum of these (500ms, 10m, 1.5h, 7d 12h), or `never`.",
            "anyOf": [{"const": 0}, {"type": "string", "pattern": format!(r"^\s*((never|0)\s*|{SUM})$")}],
        })
    }
}

/// A number of bytes, written `512`, `64KiB`, `16MiB` or `1GiB`.
///
/// ```
/// use redrive::units::Size;
/// assert_eq!("16MiB".parse::<Size>().unwrap().bytes(), 16 << 20);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// This many MiB.
    #[must_use]
    pub const fn mib(count: u32) -> Self {
        Self((count as u64) << 20)
    }

    /// The number of bytes, at most what the machine can address.
    #[must_use]
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let trimmed = text.trim();
        let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = trimmed.split_at(digits);
        let shift = match unit.trim() {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return Err(format!("`{text}` is not a size; write bytes or a number with KiB, MiB or GiB, such as 16MiB")),
        };
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(1 << shift))
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a size; write bytes or a number with KiB, MiB or GiB, such as 16MiB"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl fmt::Debug for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(u64),
            Text(String),
        }
        match Raw::deserialize(deserializer).map_err(|_| de::Error::custom("expected a size such as 16MiB or a number of bytes"))? {
            Raw::Number(bytes) => Ok(Self(bytes)),
            Raw::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Bytes, or a number with KiB, MiB or GiB: 16MiB.",
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\s*[0-9]+\s*(B|KiB|MiB|GiB)?\s*$"}],
        })
    }
}

/// A secret: a password, a token, or a URL that contains one. Never printed.
///
/// ```
/// use redrive::units::Secret;
/// assert_eq!(format!("{:?}", Secret::new("hunter2")), "[redacted]");
/// ```
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value so that it can't be logged by accident.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_written_the_way_it_is_read() {
        for text in ["500ms", "5s", "1m 40s", "2h", "1d", "7d 12h", "0s", "0.5ms", "1s 10.25ms", "90d", "400d 1h", "36500d"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        for (text, shown) in [("1.5s", "1s 500ms"), ("2w", "14d"), (" 90 m ", "1h 30m"), ("1h30m", "1h 30m"), ("0.5d", "12h"), ("0", "0s")] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn an_ambiguous_unit_is_refused() {
        for (text, seconds) in [("5 minutes", 300), ("5min", 300), ("1sec", 1), ("2days", 172_800)] {
            assert_eq!(text.parse(), Ok(Span::secs(seconds)), "{text}");
        }
        // `5M` would be five months.
        for text in ["5M", "1h 5M", "5S", "1D", "7x"] {
            let said = text.parse::<Span>().unwrap_err();
            assert!(said.contains("write a number with its unit, ms, s, m, h, d or w"), "{said}");
            assert!(text.parse::<Limit>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_span_without_a_unit_or_past_a_century_is_refused() {
        for text in ["5", "", "five", "-1s", "36501d", "99999999999999999999s"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_number_is_told_what_to_write_as_its_text_is() {
        fn said<T: serde::de::DeserializeOwned + fmt::Debug>(written: &str) -> String {
            serde_json::from_str::<T>(written).unwrap_err().to_string()
        }
        for number in ["5", "-1", "1.5"] {
            let text = format!("\"{number}\"");
            let words = format!("`{number}` is not a duration; write a number with its unit, ");
            for (of_number, of_text) in [(said::<Span>(number), said::<Span>(&text)), (said::<Limit>(number), said::<Limit>(&text))] {
                assert!(of_number.starts_with(&words) && of_text.starts_with(&words), "{of_number} {of_text}");
            }
        }
        assert_eq!(serde_json::from_str::<Span>("0").unwrap(), Span::secs(0));
        assert_eq!(serde_json::from_str::<Limit>(r#""never""#).unwrap(), Limit::Never);
        assert!(said::<Span>("[5]").starts_with("invalid type: sequence, expected a duration such as 10m"));
        assert!(said::<Limit>("true").starts_with("invalid type: boolean `true`, expected a duration such as 10m, or never"));
    }

    #[test]
    fn a_size_has_binary_units_and_no_overflow() {
        assert_eq!("0".parse::<Size>().unwrap().bytes(), 0);
        assert_eq!("3 KiB".parse::<Size>().unwrap().to_string(), "3KiB");
        for text in ["", "MiB", "1MB", "-1", "99999999999999GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
