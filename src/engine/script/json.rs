//! JSON in and out of scripts, and bytes beside it: what is nothing but bytes passes as it is, as a `Uint8Array`; bytes
//! within something else are base64, as everywhere in JSON.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde::de::value::SeqDeserializer;
use serde::de::{Deserializer, IntoDeserializer, Visitor};
use serde::ser::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};
use std::io::{self, Write};

/// What a script is given.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Given {
    Json(Vec<u8>),
    Bytes(Vec<u8>),
}

/// Why arguments cannot be given.
#[derive(Debug)]
pub(super) enum Unfit {
    TooLarge,
    Other(String),
}

/// The only one of the arguments, of at most so many bytes. No argument is `null`.
pub(super) fn only(args: &impl Serialize, most: u64) -> Result<Given, Unfit> {
    let mut text = Bounded { text: Vec::with_capacity(USUAL), most, full: false };
    let mut outer = Outer::default();
    let written = args.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Only(&mut outer)));
    // A foreign `Serialize` may have swallowed that error.
    if text.full {
        return Err(Unfit::TooLarge);
    }
    written.map_err(|e| Unfit::Other(format!("the argument has no form in JSON: {e}")))?;
    match (outer.values, outer.is_array, outer.bytes) {
        (1, true, Some(bytes)) => Ok(Given::Bytes(bytes)),
        (1, true, None) => Ok(Given::Json(text.text)),
        (0, true, _) => Ok(Given::Json(b"null".into())),
        (0, false, _) if text.text == b"null" => Ok(Given::Json(text.text)),
        (values, true, _) => Err(Unfit::Other(format!("a script takes one argument, and not {values}"))),
        _ => Err(Unfit::Other("what was passed is no list of arguments".to_owned())),
    }
}

/// Bytes of an argument that take no more than one allocation.
const USUAL: usize = 512;

struct Bounded {
    text: Vec<u8>,
    most: u64,
    full: bool,
}

impl Write for Bounded {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        if (self.text.len() + more.len()) as u64 > self.most {
            self.full = true;
            return Err(io::Error::other("more than there is room for"));
        }
        self.text.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What was seen of the list of arguments.
#[derive(Default)]
struct Outer {
    depth: u32,
    is_array: bool,
    values: u32,
    bytes: Option<Vec<u8>>,
}

/// Writes what is in the list, and not its brackets.
struct Only<'a>(&'a mut Outer);

impl Formatter for Only<'_> {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.depth += 1;
        if self.0.depth == 1 {
            self.0.is_array = true;
            return Ok(());
        }
        CompactFormatter.begin_array(writer)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if self.0.depth == 1 && self.0.is_array {
            self.0.values += 1;
        }
        CompactFormatter.begin_array_value(writer, first)
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.depth -= 1;
        if self.0.depth == 0 { Ok(()) } else { CompactFormatter.end_array(writer) }
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.depth += 1;
        CompactFormatter.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.depth -= 1;
        CompactFormatter.end_object(writer)
    }

    fn write_byte_array<W: ?Sized + Write>(&mut self, writer: &mut W, bytes: &[u8]) -> io::Result<()> {
        if self.0.depth == 1 && self.0.is_array {
            // Counted as text is, and not as base64.
            writer.write_all(bytes)?;
            self.0.bytes = Some(bytes.to_vec());
            return Ok(());
        }
        write!(writer, "\"{}\"", BASE64.encode(bytes))
    }
}

/// What a value may take in the host beyond the text it is read from: an element of a list, an entry of an object, and the
/// first of them, with which an object has room for eleven.
const ELEMENT: u64 = 40;
const ENTRY: u64 = 100;
const OBJECT: u64 = 640;

/// Bytes that the value of that text takes in the host, if it is read as `serde_json::Value`. Seven bytes of text can be some
/// hundreds.
pub(super) fn size(json: &[u8]) -> u64 {
    let (mut size, mut is_text, mut escaped) = (json.len() as u64, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = is_text,
            b'"' => is_text = !is_text,
            _ if is_text => {}
            b'[' | b',' => size += ELEMENT,
            b':' => size += ENTRY,
            b'{' => size += OBJECT,
            _ => {}
        }
    }
    size
}

/// Bytes that a script gave, as whatever they were asked as.
pub(super) struct Octets<'a>(pub &'a [u8]);

impl<'de> Deserializer<'de> for Octets<'_> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, serde_json::Error> {
        visitor.visit_string(BASE64.encode(self.0))
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, serde_json::Error> {
        visitor.visit_bytes(self.0)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, serde_json::Error> {
        visitor.visit_byte_buf(self.0.to_vec())
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, serde_json::Error> {
        visitor.visit_seq(SeqDeserializer::new(self.0.iter().map(|byte| (*byte).into_deserializer())))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, serde_json::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, serde_json::Error> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string unit unit_struct tuple tuple_struct map struct
        enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_bytes::{ByteBuf, Bytes};
    use serde_json::{Value, json};

    fn json(text: &str) -> Given {
        Given::Json(text.into())
    }

    #[test]
    fn one_argument_is_given_as_json_or_bytes() {
        for (args, given) in [
            (json!([{"a": [1, [2]]}]), json(r#"{"a":[1,[2]]}"#)),
            (json!([[1, 2]]), json("[1,2]")),
            (json!([null]), json("null")),
            (json!([]), json("null")),
            (json!(null), json("null")),
        ] {
            assert_eq!(only(&args, 100).unwrap(), given, "{args}");
        }
        assert_eq!(only(&(Bytes::new(b"ab"),), 2).unwrap(), Given::Bytes(b"ab".into()));
        let nested = [(1, Bytes::new(b"ab"))];
        assert_eq!(only(&nested, 100).unwrap(), json(r#"[1,"YWI="]"#));
        assert_eq!(only(&(), 100).unwrap(), json("null"));
    }

    #[test]
    fn what_is_no_single_argument_is_refused() {
        for args in [json!([1, 2]), json!({"input": 1}), json!("a"), json!(7)] {
            assert!(matches!(only(&args, 100), Err(Unfit::Other(_))), "{args}");
        }
        assert!(matches!(only(&("abc",), 4), Err(Unfit::TooLarge)), "quotes count");
        assert!(matches!(only(&(Bytes::new(b"abc"),), 2), Err(Unfit::TooLarge)));
        assert!(only(&("abc",), 5).is_ok());
    }

    #[test]
    fn the_size_is_of_what_is_no_text() {
        for (json, expected) in [
            ("1", 1),
            (r#""[,:{""#, 6),
            (r#""\"[\\""#, 7),
            ("[]", 2 + ELEMENT),
            ("[1,2]", 5 + 2 * ELEMENT),
            (r#"{"a":1}"#, 7 + OBJECT + ENTRY),
            (r#"[{},"{"]"#, 8 + 2 * ELEMENT + OBJECT),
        ] {
            assert_eq!(size(json.as_bytes()), expected, "{json}");
        }
    }

    #[test]
    fn bytes_come_back_as_what_they_are_asked_as() {
        let octets = || Octets(&[97, 98]);
        assert_eq!(ByteBuf::deserialize(octets()).unwrap(), ByteBuf::from("ab"));
        assert_eq!(Vec::<u8>::deserialize(octets()).unwrap(), b"ab");
        assert_eq!(Value::deserialize(octets()).unwrap(), json!("YWI="));
        assert_eq!(Option::<ByteBuf>::deserialize(octets()).unwrap(), Some(ByteBuf::from("ab")));
        assert!(u32::deserialize(octets()).is_err());
    }
}
