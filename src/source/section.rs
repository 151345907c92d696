//! The section of a source as its kind reads it.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Map, Value};

/// JSON that is read as the rest of the file is: a list is no mapping (serde would take its items for the fields, in their order), and nothing is an
/// empty mapping, one whose keys are all commented out.
pub(crate) struct Section(pub(crate) Value);

impl<'de> Deserializer<'de> for Section {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => SeqDeserializer::<_, Error>::new(items.into_iter().map(Self)).deserialize_any(visitor),
            Value::Object(entries) => {
                let entries = entries.into_iter().map(|(key, value)| (Key(key), Self(value)));
                MapDeserializer::<_, Error>::new(entries).deserialize_any(visitor)
            }
            scalar => scalar.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        // By such a name serde_json's own types, such as `RawValue`, ask for what only serde_json can give them.
        if name.starts_with("$serde_json::") { self.0.deserialize_newtype_struct(name, visitor) } else { visitor.visit_newtype_struct(self) }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { Self(Value::Object(Map::new())).deserialize_any(visitor) } else { self.deserialize_any(visitor) }
    }

    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        if self.0.is_array() { Err(Error::invalid_type(Unexpected::Seq, &visitor)) } else { self.deserialize_map(visitor) }
    }

    fn deserialize_enum<V: Visitor<'de>>(self, name: &'static str, words: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            value @ (Value::String(_) | Value::Object(_)) => value.deserialize_enum(name, words, visitor),
            _ => Err(Error::custom(format_args!("must be one of {}", words.join(", ")))),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct
        identifier ignored_any
    }
}

/// A key, which JSON can only write as text: where a number or a boolean is wanted, it is the one that it spells.
struct Key(String);

macro_rules! spelt {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match serde_json::from_str::<Value>(&self.0) {
                Ok(value @ (Value::Number(_) | Value::Bool(_))) => value.$method(visitor),
                _ => Value::String(self.0).$method(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Key {
    type Error = Error;

    spelt! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(self, name: &'static str, words: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        Value::String(self.0).deserialize_enum(name, words, visitor)
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl IntoDeserializer<'_, Error> for Section {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl IntoDeserializer<'_, Error> for Key {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use serde::Deserialize;
    use serde_json::json;
    use serde_json::value::RawValue;

    use super::*;

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    struct Name(String);

    #[derive(Debug, PartialEq, Eq, Hash, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        One,
        Other,
    }

    #[derive(Debug, Default, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Inner {
        name: Option<String>,
        names: BTreeMap<String, Name>,
    }

    #[derive(Debug, Default, PartialEq, Eq, Deserialize)]
    #[serde(default)]
    struct Outer {
        inner: Inner,
        maybe: Option<Inner>,
        many: Vec<Inner>,
        pair: (u8, i8),
        word: Option<Word>,
    }

    fn read(value: Value) -> Result<Outer, String> {
        Outer::deserialize(Section(value)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_section_is_read_whole() {
        let inner = || Inner { name: Some("x".to_owned()), names: [("a".to_owned(), Name("b".to_owned()))].into() };
        let written = json!({ "name": "x", "names": { "a": "b" } });
        let whole = json!({ "inner": written, "maybe": written, "many": [written, {}], "pair": [7, -7], "word": "other" });
        let expected = Outer { inner: inner(), maybe: Some(inner()), many: vec![inner(), Inner::default()], pair: (7, -7), word: Some(Word::Other) };
        assert_eq!(read(whole), Ok(expected));
        assert_eq!(read(json!({ "inner": null, "maybe": null, "word": null, "many": [{ "names": null }] })).map(|outer| outer.many.len()), Ok(1));
    }

    #[test]
    fn a_key_is_the_number_or_the_boolean_that_it_spells() {
        #[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
        struct Port(u16);
        #[derive(Deserialize)]
        struct Keys {
            ports: BTreeMap<Port, String>,
            levels: BTreeMap<i64, u8>,
            flags: BTreeMap<bool, u8>,
            words: BTreeMap<Option<String>, Word>,
            kinds: HashMap<Word, u8>,
        }
        let written = json!({
            "ports": { "80": "http", "65535": "last" }, "levels": { "-1": 1 }, "flags": { "true": 1, "false": 0 },
            "words": { "12": "one", "true": "other" }, "kinds": { "other": 1 },
        });
        let keys = Keys::deserialize(Section(written)).unwrap();
        assert_eq!(keys.ports, BTreeMap::from([(Port(80), "http".to_owned()), (Port(65535), "last".to_owned())]));
        assert_eq!((keys.levels, keys.flags), (BTreeMap::from([(-1, 1)]), BTreeMap::from([(true, 1), (false, 0)])));
        assert_eq!(keys.words, BTreeMap::from([(Some("12".to_owned()), Word::One), (Some("true".to_owned()), Word::Other)]));
        assert_eq!(keys.kinds, HashMap::from([(Word::Other, 1)]));
        for (key, said) in [("http", "invalid type: string \"http\", expected u16"), ("70000", "invalid value: integer `70000`, expected u16")] {
            assert_eq!(BTreeMap::<u16, u8>::deserialize(Section(json!({ key: 1 }))).unwrap_err().to_string(), said);
        }
        assert!(BTreeMap::<bool, u8>::deserialize(Section(json!({ "1": 1 }))).is_err());
    }

    #[test]
    fn json_may_be_taken_as_it_is() {
        #[derive(Deserialize)]
        struct Raw {
            body: Box<RawValue>,
            others: BTreeMap<String, Box<RawValue>>,
        }
        let raw = Raw::deserialize(Section(json!({ "body": { "a": [1, null] }, "others": { "x": "y" } }))).unwrap();
        assert_eq!((raw.body.get(), raw.others["x"].get()), (r#"{"a":[1,null]}"#, r#""y""#));
    }

    #[test]
    fn a_list_is_no_mapping_and_a_word_no_list() {
        for section in [json!({ "inner": ["x"] }), json!({ "maybe": ["x"] }), json!({ "many": [["x"]] }), json!(["x"])] {
            let said = read(section.clone()).unwrap_err();
            assert!(said.starts_with("invalid type: sequence, expected struct "), "{section}: {said}");
        }
        assert_eq!(read(json!({ "word": ["one"] })), Err("must be one of one, other".to_owned()));
        for wrong in [json!({ "pair": [1, 2, 3] }), json!({ "word": "third" }), json!({ "inner": { "nam": "x" } })] {
            assert!(read(wrong).is_err());
        }
    }
}
