//! What a value that does not fit its type is told, and where in it: short whatever the value is.

use super::{is_octets, snake};
use crate::engine::schema;
use crate::error::sanitise;
use serde::{de, ser};
use std::fmt::{self, Display, Write as _};
use wasmtime::component::types::Type;

/// Longest text of a name, of a value that did not fit, of the type it should have had, of a path, of the rest.
pub(super) const MAX_NAME: usize = 64;
const MAX_FOUND: usize = 48;
pub(super) const MAX_EXPECTED: usize = 120;
const MAX_PATH: usize = 240;
const MAX_WHAT: usize = 512;
/// How many names a message lists.
const MAX_LISTED: usize = 12;

/// Why a value does not fit its type, and where in it.
#[derive(Debug)]
pub(crate) enum Mismatch {
    /// The payload passed its limit.
    TooLarge { max_bytes: u64 },
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
            Type::Option(option) if matches!(option.ty(), Type::Option(_)) => {
                Mismatch::expected(format_args!(r#"{}: null or {{"some": ..}}"#, schema::wit(ty)), found)
            }
            _ => Mismatch::expected(schema::wit(ty), found),
        }
    }

    /// There is no field, case or flag of that name.
    pub(super) fn unknown<'n>(noun: Noun, name: &str, known: impl IntoIterator<Item = &'n str>) -> Mismatch {
        let (one, many) = noun.words();
        let mut list = String::new();
        for (i, name) in known.into_iter().enumerate() {
            if i == MAX_LISTED {
                list.push_str(", …");
                break;
            }
            let comma = if i == 0 { "" } else { ", " };
            // Writing into a String cannot fail.
            let _ = write!(list, "{comma}{}", clip(snake(name), MAX_NAME));
        }
        let list = if list.is_empty() { "there are none".into() } else { format!("the {many} are: {list}") };
        Mismatch::new(format_args!("unknown {one} {}; {list}", Quoted(name)))
    }

    pub(super) fn at_name(self, name: &str) -> Mismatch {
        self.at(format_args!(".{}", clip(snake(name), MAX_NAME)))
    }

    pub(super) fn at_index(self, index: usize) -> Mismatch {
        self.at(format_args!("[{index}]"))
    }

    pub(super) fn at(mut self, step: impl Display) -> Mismatch {
        if let Mismatch::Shape { path, .. } = &mut self {
            if path.len() > MAX_PATH {
                *path = format!("{step}…{}", path.trim_start_matches(|c| c != '…').trim_start_matches('…'));
            } else {
                path.insert_str(0, &step.to_string());
            }
        }
        self
    }

    /// Names the root of the path.
    pub(super) fn within(self, root: &str) -> Mismatch {
        self.at(root)
    }
}

impl Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::TooLarge { max_bytes } => write!(f, "the arguments are larger than {max_bytes} bytes"),
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
}

/// What a name can name.
#[derive(Clone, Copy)]
pub(super) enum Noun {
    Parameter,
    Field,
    Case,
    Flag,
}

impl Noun {
    pub(super) fn words(self) -> (&'static str, &'static str) {
        match self {
            Noun::Parameter => ("parameter", "parameters"),
            Noun::Field => ("field", "fields"),
            Noun::Case => ("case", "cases"),
            Noun::Flag => ("flag", "flags"),
        }
    }

    pub(super) fn locate(self, mismatch: Mismatch, name: &str) -> Mismatch {
        match self {
            Noun::Parameter => mismatch.at(format_args!("parameter \"{}\"", clip(snake(name), MAX_NAME))),
            _ => mismatch.at_name(name),
        }
    }
}

/// At most `max` bytes of a text, made fit to show. A value of megabytes costs no more than its head.
pub(super) fn clip(text: impl Display, max: usize) -> String {
    struct Head(String, usize);
    impl fmt::Write for Head {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let room = self.1.saturating_sub(self.0.len());
            self.0.push_str(&text[..text.floor_char_boundary(room)]);
            if text.len() > room { Err(fmt::Error) } else { Ok(()) }
        }
    }
    // A few bytes more than are shown, so that a cut is seen as one.
    let mut head = Head(String::new(), max + 4);
    let _ = write!(head, "{text}");
    sanitise(&head.0, max)
}

/// A text in quotes, cut short.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", clip(self.0, MAX_FOUND - 4))
    }
}
