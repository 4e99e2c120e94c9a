//! [`Event`]: the attributes and the payload of a CloudEvents 1.0 event, and what makes it a valid one.
//!
//! Its JSON format is in `json.rs`, the call of a function with it in `handle.rs`.

mod handle;
mod json;

pub use handle::{Handled, Unhandled};

use crate::error::{Error, ErrorKind, Result};
use crate::text::sanitise;
use bytes::Bytes;
use std::fmt;

/// What a trigger hands to a function: an event of [CloudEvents 1.0](https://cloudevents.io).
///
/// The fields are what they are set to; where an event is accepted or written, it is checked as the standard has it, see
/// [`check`](Event::check).
///
/// ```
/// # fn main() -> isopod::Result<()> {
/// use isopod::Event;
///
/// let mut event = Event::new("com.example.order.created", "/shop").json(r#"{"order":7}"#);
/// event.subject = Some("order/7".into());
/// event.extensions.push(("priority".into(), 3.into()));
/// let text = event.to_json()?;
/// assert_eq!(Event::from_json(&text)?, event);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Event {
    /// Unique together with `source`; a redelivered event keeps it.
    pub id: String,
    /// Where the event comes from: a URI reference.
    pub source: String,
    /// What kind of event it is, such as `com.example.order.created`: the attribute `type`.
    pub kind: String,
    /// What it is about within `source`.
    pub subject: Option<String>,
    /// When it happened, as an RFC 3339 timestamp.
    pub time: Option<String>,
    /// The media type of `data`: the attribute `datacontenttype`.
    pub content_type: Option<String>,
    /// A URI that names the schema of `data`: the attribute `dataschema`.
    pub schema: Option<String>,
    /// Extension attributes by name, in the order in which they came; each name at most once.
    pub extensions: Vec<(String, Attribute)>,
    /// The payload.
    pub data: Option<Bytes>,
}

/// The value of an extension attribute.
///
/// Of the types of CloudEvents, timestamps, URIs and binary data are texts here, as they are in JSON, where nothing tells
/// them apart from other texts. A guest is given texts: `true`, `-7`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Attribute {
    /// `true` or `false`.
    Boolean(bool),
    /// A number of 32 bits.
    Integer(i32),
    /// A text without control characters.
    String(String),
}

impl Attribute {
    fn len(&self) -> usize {
        match self {
            Attribute::Boolean(_) => 5,
            Attribute::Integer(_) => 11,
            Attribute::String(text) => text.len(),
        }
    }
}

impl fmt::Display for Attribute {
    /// The form that the standard gives it as text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attribute::Boolean(value) => value.fmt(f),
            Attribute::Integer(value) => value.fmt(f),
            Attribute::String(text) => f.write_str(text),
        }
    }
}

impl From<bool> for Attribute {
    fn from(value: bool) -> Attribute {
        Attribute::Boolean(value)
    }
}

impl From<i32> for Attribute {
    fn from(value: i32) -> Attribute {
        Attribute::Integer(value)
    }
}

impl From<&str> for Attribute {
    fn from(text: &str) -> Attribute {
        Attribute::String(text.to_owned())
    }
}

impl From<String> for Attribute {
    fn from(text: String) -> Attribute {
        Attribute::String(text)
    }
}

/// The attributes that the standard itself names.
const NAMES: [&str; 9] =
    ["id", "source", "type", "specversion", "subject", "time", "datacontenttype", "dataschema", "data"];
/// Longest name of an extension. The standard asks to stay within 20 characters, and names no bound.
const MAX_NAME: usize = 64;
/// Extensions of an event.
const MAX_EXTENSIONS: usize = 64;
/// Bytes of one attribute's value: an event's attributes are read, kept and compared as a whole.
const MAX_VALUE: usize = 8 * 1024;
/// How much of a name is shown.
const SHOWN: usize = 80;

impl Event {
    /// An event of that type from that source, with a random id, and nothing else.
    pub fn new(kind: impl Into<String>, source: impl Into<String>) -> Event {
        Event {
            id: format!("{:032x}", rand::random::<u128>()),
            source: source.into(),
            kind: kind.into(),
            ..Event::default()
        }
    }

    /// With that payload, which is JSON.
    pub fn json(self, data: impl Into<Bytes>) -> Event {
        self.data("application/json", data)
    }

    /// With that payload, of that media type.
    pub fn data(mut self, content_type: impl Into<String>, data: impl Into<Bytes>) -> Event {
        (self.content_type, self.data) = (Some(content_type.into()), Some(data.into()));
        self
    }

    /// The value of an attribute, as text: one of the standard's by its name there, such as `type` or `datacontenttype`, or
    /// an extension. None for one that the event does not have.
    pub fn attribute(&self, name: &str) -> Option<std::borrow::Cow<'_, str>> {
        let text = match name {
            "specversion" => Some("1.0"),
            "id" => Some(self.id.as_str()),
            "source" => Some(self.source.as_str()),
            "type" => Some(self.kind.as_str()),
            "subject" => self.subject.as_deref(),
            "time" => self.time.as_deref(),
            "datacontenttype" => self.content_type.as_deref(),
            "dataschema" => self.schema.as_deref(),
            _ => {
                let (_, value) = self.extensions.iter().find(|(own, _)| own == name)?;
                return Some(match value {
                    Attribute::String(text) => text.as_str().into(),
                    value => value.to_string().into(),
                });
            }
        };
        text.map(Into::into)
    }

    /// Whether it is an event as CloudEvents 1.0 has it: `id`, `source` and `type` are not empty, `source` is a URI
    /// reference, `schema` a URI, `time` a timestamp of RFC 3339, `content_type` a media type, the names of extensions are
    /// lower case letters and digits, and no value holds control characters. Bounds besides: 8 KiB for a value, and 64
    /// extensions with names of 64 bytes.
    ///
    /// # Errors
    /// [`ErrorKind::WrongArguments`], and which attribute it is about.
    pub fn check(&self) -> Result<()> {
        for (name, value) in [("id", &self.id), ("source", &self.source), ("type", &self.kind)] {
            if value.is_empty() {
                return Err(invalid(format!("its `{name}` is empty")));
            }
            text(name, value)?;
        }
        let options = [
            ("subject", &self.subject),
            ("time", &self.time),
            ("datacontenttype", &self.content_type),
            ("dataschema", &self.schema),
        ];
        for (name, value) in options {
            let Some(value) = value else { continue };
            if value.is_empty() {
                return Err(invalid(format!("its `{name}` is empty; leave it out")));
            }
            text(name, value)?;
        }
        if !is_reference(&self.source) {
            return Err(invalid("its `source` is no URI reference, such as `/orders` or `https://example.com/orders`"));
        }
        if self.schema.as_ref().is_some_and(|schema| url::Url::parse(schema).is_err()) {
            return Err(invalid("its `dataschema` is no URI with a scheme"));
        }
        if self.time.as_ref().is_some_and(|time| !is_timestamp(time)) {
            return Err(invalid("its `time` is no timestamp of RFC 3339, such as `2026-11-28T09:30:00Z`"));
        }
        if self.content_type.as_ref().is_some_and(|kind| !is_media_type(kind)) {
            return Err(invalid("its `datacontenttype` is no media type, such as `application/json`"));
        }
        if self.extensions.len() > MAX_EXTENSIONS {
            return Err(invalid(format!("it has more than {MAX_EXTENSIONS} extensions")));
        }
        for (at, (name, value)) in self.extensions.iter().enumerate() {
            if !is_name(name) {
                let name = sanitise(name, SHOWN);
                return Err(invalid(format!(
                    "`{name}` is no name of an extension: lower case letters and digits, at most {MAX_NAME}, none of the standard's"
                )));
            }
            if self.extensions[..at].iter().any(|(other, _)| other == name) {
                return Err(invalid(format!("its extension `{name}` is there twice")));
            }
            if let Attribute::String(value) = value {
                text(name, value)?;
            }
        }
        Ok(())
    }
}

fn invalid(why: impl AsRef<str>) -> Error {
    Error::new(ErrorKind::WrongArguments, format!("this is no event of CloudEvents 1.0: {}", why.as_ref()))
}

/// The standard's type String, and not longer than is sensible.
fn text(name: &str, value: &str) -> Result<()> {
    if value.len() > MAX_VALUE {
        return Err(invalid(format!("its `{name}` has {} bytes, more than {MAX_VALUE}", value.len())));
    }
    // The two characters at the end of each plane are no characters for good, and neither are these 32.
    let is_none = |c: char| u32::from(c) & 0xfffe == 0xfffe || ('\u{fdd0}'..='\u{fdef}').contains(&c);
    if value.chars().any(|c| c.is_control() || is_none(c)) {
        return Err(invalid(format!("its `{name}` holds a control character")));
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && !NAMES.contains(&name)
}

/// RFC 3986, section 4.1: as what is relative to some URI.
fn is_reference(text: &str) -> bool {
    use std::sync::LazyLock;
    static BASE: LazyLock<Option<url::Url>> = LazyLock::new(|| url::Url::parse("http://base/").ok());
    let allowed = |b: u8| b.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&b);
    text.bytes().all(allowed) && BASE.as_ref().is_some_and(|base| base.join(text).is_ok())
}

/// RFC 3339, section 5.6; what jiff reads is wider.
fn is_timestamp(text: &str) -> bool {
    let shape = |text: &str, shape: &str| {
        text.len() == shape.len()
            && text.bytes().zip(shape.bytes()).all(|(b, s)| if s == b'0' { b.is_ascii_digit() } else { b == s })
    };
    let Some((day_and_time, rest)) = text.split_at_checked(19) else { return false };
    let fraction = rest.strip_prefix('.').map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    let zone = match fraction {
        Some(zone) if rest.len() - zone.len() < 2 => return false,
        Some(zone) => zone,
        None => rest,
    };
    shape(&day_and_time.to_ascii_uppercase(), "0000-00-00T00:00:00")
        && (zone.eq_ignore_ascii_case("z") || shape(zone, "+00:00") || shape(zone, "-00:00"))
        && text.parse::<jiff::Timestamp>().is_ok()
}

/// RFC 9110, section 8.3.1, without a look at the parameters' values.
fn is_media_type(text: &str) -> bool {
    let token = |text: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        !text.is_empty() && text.bytes().all(allowed)
    };
    let (kind, _) = text.split_once(';').unwrap_or((text, ""));
    kind.trim_end().split_once('/').is_some_and(|(kind, sub)| token(kind) && token(sub))
}

#[cfg(test)]
mod tests;
