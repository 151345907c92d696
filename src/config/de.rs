//! Deserialises a tree, with errors that know which value caused them.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::tree::{Content, Entry, Meaning, Node, Step};

/// What is wrong, and where. The steps are collected from the innermost outwards while the error rises.
#[derive(Debug)]
pub(super) struct Error {
    message: String,
    upwards: Vec<Step>,
}

impl Error {
    /// What is wrong, in serde's words.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// Where it is.
    pub(super) fn path(&self) -> Vec<Step> {
        self.upwards.iter().rev().cloned().collect()
    }

    fn under(mut self, step: Step) -> Self {
        self.upwards.push(step);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), upwards: Vec::new() }
    }
}

/// Deserialises a value from a tree.
pub(super) fn from_node<'de, T: de::Deserialize<'de>>(node: &'de Node) -> Result<T, Error> {
    T::deserialize(node)
}

/// Where text is expected, a value that looks like a number or a boolean is still text: a password may be all digits.
macro_rules! text {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match &self.content {
                Content::Scalar { text, .. } if !self.is_null() => visitor.visit_borrowed_str(text),
                _ => self.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> de::Deserializer<'de> for &'de Node {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.content {
            Content::Scalar { text, plain: false } => visitor.visit_borrowed_str(text),
            Content::Scalar { text, plain: true } => match Meaning::of(text) {
                Meaning::Null => visitor.visit_unit(),
                Meaning::Bool(flag) => visitor.visit_bool(flag),
                Meaning::Whole(number) => match u64::try_from(number) {
                    Ok(number) => visitor.visit_u64(number),
                    Err(_) => visitor.visit_i64(number),
                },
                Meaning::Large(number) => visitor.visit_u64(number),
                Meaning::Number(number) => visitor.visit_f64(number),
                Meaning::Text => visitor.visit_borrowed_str(text),
            },
            Content::List(items) => visitor.visit_seq(Items { items: items.iter(), index: 0 }),
            Content::Map(entries) => visitor.visit_map(Entries { entries: entries.iter(), current: None }),
        }
    }

    text! { deserialize_str deserialize_string deserialize_char deserialize_identifier deserialize_bytes deserialize_byte_buf }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        // A section whose keys are all commented out.
        if self.is_null() { visitor.visit_map(Entries { entries: [].iter(), current: None }) } else { self.deserialize_any(visitor) }
    }

    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        // Given a list, serde would take its items as the fields, in order.
        match &self.content {
            Content::List(_) => Err(de::Error::invalid_type(de::Unexpected::Seq, &visitor)),
            _ => self.deserialize_map(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, words: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        match &self.content {
            Content::Scalar { text, .. } if !self.is_null() => visitor.visit_enum(text.as_str().into_deserializer()),
            // All our enums are written as a single word.
            _ => Err(de::Error::custom(format_args!("must be one of {}", words.join(", ")))),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! { bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 unit unit_struct seq tuple tuple_struct }
}

struct Items<'de> {
    items: std::slice::Iter<'de, Node>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(item).map(Some).map_err(|error| error.under(Step::Index(index)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'de> {
    entries: std::slice::Iter<'de, Entry>,
    current: Option<&'de Entry>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(entry) = self.entries.next() else { return Ok(None) };
        self.current = Some(entry);
        let key: StrDeserializer<'_, Error> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|error| error.under(Step::Key(entry.key.clone())))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let entry = self.current.take().ok_or_else(|| de::Error::custom("a value was requested before its key"))?;
        seed.deserialize(&entry.node).map_err(|error| error.under(Step::Key(entry.key.clone())))
    }
}
