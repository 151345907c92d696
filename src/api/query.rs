//! Query strings: each key at most once, each known, each value well-formed; anything else is 422 and names the key.

use std::borrow::Cow;
use std::fmt;
use std::num::IntErrorKind;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use percent_encoding::percent_decode_str;
use uuid::Uuid;

use super::problem::{Code, Problem};

/// The pairs of a query string, in order.
pub(super) struct Query<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Query<'a> {
    /// Reads a query string in which only the keys in `known` are allowed.
    pub(super) fn parse(text: Option<&'a str>, known: &[&'static str]) -> Result<Self, Problem> {
        let mut pairs: Vec<(Cow<'a, str>, Cow<'a, str>)> = Vec::new();
        for part in text.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let name = decode(name).ok_or_else(|| Problem::new(Code::UnknownField, "a query key is not UTF-8"))?;
            if !known.contains(&name.as_ref()) {
                let detail = format!("there is no query key `{}`; the keys are {}", name.escape_debug(), known.join(", "));
                return Err(Problem::new(Code::UnknownField, detail).at(name.into_owned()));
            }
            if pairs.iter().any(|(have, _)| *have == name) {
                return Err(Problem::field(name.into_owned(), "is given twice"));
            }
            let Some(value) = decode(value) else {
                return Err(Problem::field(name.into_owned(), "is not UTF-8"));
            };
            if value.contains('\0') {
                return Err(Problem::field(name.into_owned(), "contains NUL"));
            }
            pairs.push((name, value));
        }
        Ok(Self { pairs })
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The text of a key.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_ref())
    }

    /// The text of a key, owned.
    pub(super) fn owned(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    /// The parsed value of a key.
    pub(super) fn value<T: FromStr<Err: fmt::Display>>(&self, name: &'static str) -> Result<Option<T>, Problem> {
        self.text(name).map(str::parse::<T>).transpose().map_err(|error: T::Err| Problem::field(name, error.to_string()))
    }

    /// The whole number of a key. A number too large or too small for the type becomes the type's limit, for the caller to reject.
    pub(super) fn number(&self, name: &'static str) -> Result<Option<i64>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse::<i64>() {
            Ok(number) => Ok(Some(number)),
            Err(error) => match error.kind() {
                IntErrorKind::PosOverflow => Ok(Some(i64::MAX)),
                IntErrorKind::NegOverflow => Ok(Some(i64::MIN)),
                _ => Err(Problem::field(name, "is not a whole number")),
            },
        }
    }

    /// The time of a key.
    pub(super) fn time(&self, name: &'static str) -> Result<Option<DateTime<Utc>>, Problem> {
        // `+` in a query means a space; in a time it can only have been the sign of the offset.
        self.text(name).map(|text| parse_time(&text.replace(' ', "+")).map_err(|detail| Problem::field(name, detail))).transpose()
    }
}

fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['%', '+']) {
        return Some(Cow::Borrowed(text));
    }
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(|text| Cow::Owned(text.into_owned()))
}

/// The error text for something that is not an id.
pub(super) const NO_ID: &str = "is not a message id; ids look like 01890a5d-ac96-774b-bcce-b302099a8057";

/// Reads an id, which has only one spelling: hyphenated.
pub(super) fn parse_id(text: &str) -> Option<Uuid> {
    if text.len() == 36 { Uuid::try_parse(text).ok() } else { None }
}

/// Reads a time in RFC 3339 format. A leap second becomes the first instant of the next minute, since databases have none.
pub(super) fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    let wrong = || format!("`{}` is not an RFC 3339 time, such as 2026-01-31T12:00:00Z", text.escape_debug());
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| wrong())?.to_utc();
    if time.timestamp_subsec_nanos() < 1_000_000_000 {
        return Ok(time);
    }
    DateTime::from_timestamp(time.timestamp() + 1, 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Span;

    const KNOWN: [&str; 3] = ["key", "delay", "due_at"];

    fn problem(text: &str) -> serde_json::Value {
        serde_json::to_value(Query::parse(Some(text), &KNOWN).map(|_| ()).unwrap_err().item()).unwrap()
    }

    #[test]
    fn values_are_decoded() {
        let query = Query::parse(Some("key=a%2Fb+c%C3%A9&delay=5s&&due_at=2026-01-31T12:00:00+02:00"), &KNOWN).unwrap();
        assert_eq!(query.text("key"), Some("a/b cé"));
        assert_eq!(query.value::<Span>("delay").unwrap(), Some(Span::secs(5)));
        assert_eq!(query.time("due_at").unwrap().unwrap().to_rfc3339(), "2026-01-31T10:00:00+00:00");
        assert!(Query::parse(None, &KNOWN).unwrap().is_empty());
        assert_eq!(Query::parse(Some("key"), &KNOWN).unwrap().text("key"), Some(""));
    }

    #[test]
    fn a_number_is_told_in_no_words_of_the_machine() {
        let query = Query::parse(Some("key=300&delay=99999999999999999999&due_at=few"), &KNOWN).unwrap();
        assert_eq!((query.number("key").unwrap(), query.number("delay").unwrap()), (Some(300), Some(i64::MAX)));
        let item = serde_json::to_value(query.number("due_at").unwrap_err().item()).unwrap();
        assert_eq!((&item["field"], &item["detail"]), (&"due_at".into(), &"is not a whole number".into()));
    }

    #[test]
    fn what_is_unknown_repeated_or_no_text_is_named() {
        assert_eq!((&problem("color=red")["code"], &problem("color=red")["field"]), (&"unknown_field".into(), &"color".into()));
        assert_eq!((&problem("key=1&key=2")["code"], &problem("key=1&key=2")["field"]), (&"invalid_field".into(), &"key".into()));
        assert_eq!(problem("key=%ff")["field"], "key");
        assert_eq!(problem("key=a%00")["field"], "key");
    }

    #[test]
    fn a_leap_second_is_the_next_minute_and_nonsense_no_time() {
        assert_eq!(parse_time("2016-12-31T23:59:60Z").unwrap().to_rfc3339(), "2017-01-01T00:00:00+00:00");
        for text in ["", "2026", "2026-01-31", "2026-13-01T00:00:00Z", "now", "1767225600"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_id_has_one_spelling() {
        let id = Uuid::now_v7();
        assert_eq!(parse_id(&id.to_string()), Some(id));
        for text in [id.simple().to_string(), id.braced().to_string(), id.urn().to_string(), String::new(), "x".repeat(36)] {
            assert_eq!(parse_id(&text), None, "{text}");
        }
    }
}
