//! The [JSON format](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md) of CloudEvents 1.0:
//! one event as an object, several as an array.
//!
//! A payload that is JSON stands in `data` byte by byte, one that is text as a string, and any other in `data_base64`. What
//! is read back is the same event.

use super::{Attribute, Event, invalid, is_name};
use crate::error::{Error, ErrorKind, Result};
use crate::text::sanitise;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::fmt;

impl Event {
    /// The media type of [`to_json`](Event::to_json).
    pub const JSON: &str = "application/cloudevents+json";
    /// The media type of [`batch_to_json`](Event::batch_to_json).
    pub const JSON_BATCH: &str = "application/cloudevents-batch+json";

    /// Reads an event in the JSON format.
    ///
    /// # Errors
    /// [`ErrorKind::WrongArguments`] for what is no JSON, or no event that passes [`check`](Event::check).
    pub fn from_json(text: &[u8]) -> Result<Event> {
        let fields: Fields<'_> = serde_json::from_slice(text).map_err(|error| not_json(&error))?;
        fields.event()
    }

    /// The event in the JSON format.
    ///
    /// # Errors
    /// [`ErrorKind::WrongArguments`] for one that does not pass [`check`](Event::check).
    pub fn to_json(&self) -> Result<Vec<u8>> {
        self.check()?;
        serde_json::to_vec(&Json(self)).map_err(|error| internal(&error))
    }

    /// Reads a batch of events in the JSON format: an array.
    ///
    /// # Errors
    /// As [`from_json`](Event::from_json), and which of the events it is about, from 0.
    pub fn batch_from_json(text: &[u8]) -> Result<Vec<Event>> {
        let batch: Vec<Fields<'_>> = serde_json::from_slice(text).map_err(|error| not_json(&error))?;
        let events = batch.into_iter().enumerate().map(|(at, fields)| fields.event().map_err(|error| of(at, &error)));
        events.collect()
    }

    /// Events as a batch in the JSON format.
    ///
    /// # Errors
    /// As [`to_json`](Event::to_json), and which of the events it is about, from 0.
    pub fn batch_to_json(events: &[Event]) -> Result<Vec<u8>> {
        for (at, event) in events.iter().enumerate() {
            event.check().map_err(|error| of(at, &error))?;
        }
        serde_json::to_vec(&events.iter().map(Json).collect::<Vec<_>>()).map_err(|error| internal(&error))
    }
}

fn not_json(error: &serde_json::Error) -> Error {
    invalid(format!("its JSON cannot be read: {error}"))
}

/// Nothing of an event that was checked has no form in JSON.
fn internal(error: &serde_json::Error) -> Error {
    Error::new(ErrorKind::Internal, format!("an event cannot be written as JSON: {error}; please report this"))
}

fn of(at: usize, error: &Error) -> Error {
    Error::new(error.kind(), format!("event {at} of the batch: {error}"))
}

/// The members of an object, in their order, each once.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fields<'de>, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields: Vec<(String, &RawValue)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    // Readers would disagree about which one counts.
                    if fields.iter().any(|(other, _)| *other == name) {
                        let name = sanitise(&name, super::SHOWN);
                        return Err(serde::de::Error::custom(format!("`{name}` is there twice")));
                    }
                    if fields.len() == MOST_MEMBERS {
                        return Err(serde::de::Error::custom("it has too many attributes"));
                    }
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// More than these are not read: each is compared with the others.
const MOST_MEMBERS: usize = super::MAX_EXTENSIONS + super::NAMES.len() + 1;

impl Fields<'_> {
    fn event(self) -> Result<Event> {
        let mut event = Event::default();
        let mut version = None;
        let (mut data, mut base64) = (None, None);
        for (name, value) in self.0 {
            match name.as_str() {
                "data" => data = Some(value),
                // An attribute that is null is one that is not there.
                _ if value.get() == "null" => {}
                "data_base64" => base64 = Some(string(&name, value)?),
                "specversion" => version = Some(string(&name, value)?),
                "id" => event.id = string(&name, value)?,
                "source" => event.source = string(&name, value)?,
                "type" => event.kind = string(&name, value)?,
                "subject" => event.subject = Some(string(&name, value)?),
                "time" => event.time = Some(string(&name, value)?),
                "datacontenttype" => event.content_type = Some(string(&name, value)?),
                "dataschema" => event.schema = Some(string(&name, value)?),
                _ => {
                    let value = attribute(value).ok_or_else(|| {
                        let name = sanitise(&name, super::SHOWN);
                        invalid(format!("its `{name}` is neither a string, a boolean, nor a number of 32 bits"))
                    })?;
                    event.extensions.push((name, value));
                }
            }
        }
        match version.as_deref() {
            Some("1.0") => {}
            Some(other) => {
                return Err(invalid(format!(
                    "its `specversion` is `{}`, and not `1.0`",
                    sanitise(other, super::SHOWN)
                )));
            }
            None => return Err(invalid("it has no `specversion`")),
        }
        event.data = match (data, base64) {
            (Some(_), Some(_)) => return Err(invalid("it has both `data` and `data_base64`")),
            (Some(data), None) => Some(payload(&event, data)?),
            (None, Some(text)) => {
                Some(STANDARD.decode(text).map_err(|_| invalid("its `data_base64` is no base64"))?.into())
            }
            (None, None) => None,
        };
        event.check()?;
        Ok(event)
    }
}

fn string(name: &str, value: &RawValue) -> Result<String> {
    serde_json::from_str(value.get()).map_err(|_| invalid(format!("its `{name}` is no string")))
}

fn attribute(value: &RawValue) -> Option<Attribute> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Value {
        Boolean(bool),
        Integer(i32),
        String(String),
    }
    Some(match serde_json::from_str(value.get()).ok()? {
        Value::Boolean(value) => Attribute::Boolean(value),
        Value::Integer(value) => Attribute::Integer(value),
        Value::String(text) => Attribute::String(text),
    })
}

/// The bytes that a `data` stands for: of a string its text where the media type says that it is no JSON.
fn payload(event: &Event, data: &RawValue) -> Result<Bytes> {
    let text = data.get();
    if text.starts_with('"') && event.content_type.as_deref().is_some_and(|kind| !is_json(kind)) {
        return Ok(string("data", data)?.into());
    }
    Ok(Bytes::copy_from_slice(text.as_bytes()))
}

/// Without its parameters.
fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim_end()
}

fn is_json(media_type: &str) -> bool {
    let (_, sub) = essence(media_type).split_once('/').unwrap_or_default();
    sub.eq_ignore_ascii_case("json") || sub.rsplit_once('+').is_some_and(|(_, form)| form.eq_ignore_ascii_case("json"))
}

fn is_text(media_type: &str) -> bool {
    let (kind, sub) = essence(media_type).split_once('/').unwrap_or_default();
    let form = sub.rsplit_once('+').map_or(sub, |(_, form)| form);
    kind.eq_ignore_ascii_case("text") || form.eq_ignore_ascii_case("xml") || form.eq_ignore_ascii_case("yaml")
}

/// How a payload is written.
enum Data<'a> {
    Json(&'a RawValue),
    Text(&'a str),
    Base64(String),
}

impl Data<'_> {
    fn of<'a>(media_type: Option<&str>, data: &'a Bytes) -> Data<'a> {
        let text = std::str::from_utf8(data).ok();
        match (text, media_type) {
            // Only what comes back as it is: spaces around it would not.
            (Some(text), kind) if kind.is_none_or(is_json) => {
                if let Ok(json) = serde_json::from_str::<&RawValue>(text)
                    && json.get().len() == text.len()
                {
                    return Data::Json(json);
                }
            }
            (Some(text), Some(kind)) if is_text(kind) => return Data::Text(text),
            _ => {}
        }
        Data::Base64(STANDARD.encode(data))
    }
}

/// An event that was checked.
struct Json<'a>(&'a Event);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("specversion", "1.0")?;
        map.serialize_entry("id", &event.id)?;
        map.serialize_entry("source", &event.source)?;
        map.serialize_entry("type", &event.kind)?;
        let options = [
            ("subject", &event.subject),
            ("time", &event.time),
            ("datacontenttype", &event.content_type),
            ("dataschema", &event.schema),
        ];
        for (name, value) in options {
            if let Some(value) = value {
                map.serialize_entry(name, value)?;
            }
        }
        for (name, value) in &event.extensions {
            debug_assert!(is_name(name));
            match value {
                Attribute::Boolean(value) => map.serialize_entry(name, value)?,
                Attribute::Integer(value) => map.serialize_entry(name, value)?,
                Attribute::String(text) => map.serialize_entry(name, text)?,
            }
        }
        if let Some(data) = &event.data {
            match Data::of(event.content_type.as_deref(), data) {
                Data::Json(json) => map.serialize_entry("data", json)?,
                Data::Text(text) => map.serialize_entry("data", text)?,
                Data::Base64(text) => map.serialize_entry("data_base64", &text)?,
            }
        }
        map.end()
    }
}
