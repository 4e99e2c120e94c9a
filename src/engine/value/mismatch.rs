//! What a value that does not fit its type is told, and where in it: short whatever the value is.

use super::{is_octets, nullable, snake};
use crate::engine::schema;
use crate::text::{head, sanitise};
use serde::{de, ser};
use std::fmt::{self, Display};
use wasmtime::component::types::Type;

/// Longest text of a name, of a value that did not fit, of the type it should have had, of a path, of the rest.
const MAX_NAME: usize = 64;
const MAX_FOUND: usize = 48;
const MAX_EXPECTED: usize = 120;
const MAX_PATH: usize = 240;
const MAX_WHAT: usize = 512;
/// How many names a message lists.
const MAX_LISTED: usize = 12;

/// All that goes wrong between serde and WIT is a [`Mismatch`].
pub(super) type Result<T, E = Mismatch> = std::result::Result<T, E>;

/// Why a value does not fit its type, and where in it.
#[derive(Debug)]
pub(crate) enum Mismatch {
    /// The payload passed its limit.
    TooLarge,
    /// `path` is built from the inside out while the error travels up, so that a value that fits pays nothing for it.
    Shape { path: String, what: String },
}

impl Mismatch {
    pub(super) fn new(what: impl Display) -> Mismatch {
        Mismatch::Shape { path: String::new(), what: clip(what, MAX_WHAT) }
    }

    pub(super) fn expected(expected: impl Display, found: impl Display) -> Mismatch {
        Mismatch::new(format_args!("expected {}, got {}", clip(expected, MAX_EXPECTED), clip(found, MAX_FOUND)))
    }

    pub(super) fn of_type(ty: &Type, found: impl Display) -> Mismatch {
        match ty {
            Type::Own(_) | Type::Borrow(_) => Mismatch::expected("an isopod::Handle of this session", found),
            Type::Future(_) | Type::Stream(_) | Type::ErrorContext => {
                Mismatch::new(format_args!("{} cannot be passed in a dynamic call", schema::wit(ty)))
            }
            _ if is_octets(ty) => Mismatch::expected(format_args!("{} as base64 or bytes", schema::wit(ty)), found),
            Type::Option(_) if nullable(ty).is_none() => {
                Mismatch::expected(format_args!(r#"{}: null or {{"some": ..}}"#, schema::wit(ty)), found)
            }
            _ => Mismatch::expected(schema::wit(ty), found),
        }
    }

    /// There is no parameter, field, case or flag of that name.
    pub(super) fn unknown<'n>(noun: &str, name: &str, known: impl IntoIterator<Item = &'n str>) -> Mismatch {
        let mut known = known.into_iter();
        let mut listed: Vec<String> = known.by_ref().take(MAX_LISTED).map(short).collect();
        if known.next().is_some() {
            listed.push("…".to_owned());
        }
        let name = quoted(name);
        match listed.as_slice() {
            [] => Mismatch::new(format_args!("unknown {noun} {name}; there are none")),
            _ => Mismatch::new(format_args!("unknown {noun} {name}; the {noun}s are: {}", listed.join(", "))),
        }
    }

    pub(super) fn missing(noun: &str, name: &str, ty: &Type) -> Mismatch {
        let ty = clip(schema::wit(ty), MAX_EXPECTED);
        Mismatch::new(format_args!("missing {noun} \"{}\" of type {ty}", short(name)))
    }

    pub(super) fn at_parameter(self, name: &str) -> Mismatch {
        self.at(format_args!("parameter \"{}\"", short(name)))
    }

    pub(super) fn at_name(self, name: &str) -> Mismatch {
        self.at(format_args!(".{}", short(name)))
    }

    pub(super) fn at_index(self, index: usize) -> Mismatch {
        self.at(format_args!("[{index}]"))
    }

    /// Puts a step before the path. Of a long one, the outer part is kept.
    pub(super) fn at(mut self, step: impl Display) -> Mismatch {
        if let Mismatch::Shape { path, .. } = &mut self {
            *path = clip(format_args!("{step}{path}"), MAX_PATH);
        }
        self
    }
}

impl Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::TooLarge => f.write_str("the arguments are too large"),
            Mismatch::Shape { path, what } if path.is_empty() => f.write_str(what),
            Mismatch::Shape { path, what } => write!(f, "{path}: {what}"),
        }
    }
}

impl std::error::Error for Mismatch {}

impl ser::Error for Mismatch {
    fn custom<T: Display>(msg: T) -> Mismatch {
        Mismatch::new(msg)
    }
}

impl de::Error for Mismatch {
    fn custom<T: Display>(msg: T) -> Mismatch {
        Mismatch::new(msg)
    }
    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Mismatch {
        Mismatch::expected(expected, found)
    }
    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Mismatch {
        Mismatch::expected(expected, found)
    }
}

/// A name as we write it, cut short.
fn short(name: &str) -> String {
    clip(snake(name), MAX_NAME)
}

/// At most `max` bytes of a text, made fit to show. A value of megabytes costs no more than its head.
fn clip(text: impl Display, max: usize) -> String {
    // A few bytes more than are shown, so that a cut is seen as one.
    sanitise(&head(text, max + 4), max)
}

/// A text in quotes, cut short.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", clip(text, MAX_FOUND - 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_keeps_its_outer_part() {
        let deep = (0..1000).rev().fold(Mismatch::new("no"), Mismatch::at_index).at("result").to_string();
        assert!(deep.starts_with("result[0][1][2]") && deep.ends_with("…: no") && deep.len() <= MAX_PATH + 4, "{deep}");
    }
}
