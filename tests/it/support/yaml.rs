//! YAML as JSON, for tests that read files of this repository.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// The documents in a file, for as much of YAML as ours use.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let mut events = Parser::new_from_str(text).map(|event| event.unwrap().0);
    let mut documents = Vec::new();
    loop {
        match events.next() {
            None | Some(Event::StreamEnd) => return documents,
            Some(Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing) => {}
            Some(event) => documents.push(node(event, &mut events)),
        }
    }
}

fn node<'a>(event: Event<'a>, events: &mut impl Iterator<Item = Event<'a>>) -> Value {
    match event {
        Event::Scalar(text, ScalarStyle::Plain, ..) if matches!(&*text, "" | "~") => Value::Null,
        Event::Scalar(text, ScalarStyle::Plain, ..) => {
            // In YAML a number may begin with zeros.
            let number = text.parse::<i64>().ok().map(Value::from);
            number.or_else(|| serde_json::from_str(&text).ok()).unwrap_or_else(|| Value::String(text.into_owned()))
        }
        Event::Scalar(text, ..) => Value::String(text.into_owned()),
        Event::SequenceStart(..) => {
            let mut items = Vec::new();
            loop {
                match events.next().unwrap() {
                    Event::SequenceEnd => return Value::Array(items),
                    event => items.push(node(event, events)),
                }
            }
        }
        Event::MappingStart(..) => {
            let mut entries = Map::new();
            loop {
                let key = match events.next().unwrap() {
                    Event::MappingEnd => return Value::Object(entries),
                    Event::Scalar(text, ..) => text.into_owned(),
                    other => panic!("{other:?}"),
                };
                let event = events.next().unwrap();
                let value = node(event, events);
                assert!(entries.insert(key.clone(), value).is_none(), "`{key}` stands twice");
            }
        }
        other => panic!("{other:?}"),
    }
}
