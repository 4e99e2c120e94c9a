//! Values between serde and the component model: Rust or JSON data to [`Val`] and back, guided by the component's
//! own types and without a detour through `serde_json::Value`.
//!
//! **Arguments** are always either a sequence (by position; a tuple, an array) or an object (by name; a struct, a map).
//! A lone value is never taken for "the" argument: a function with one parameter is called with `(x,)`, `[x]` or
//! `{"name": x}`. So a record for the only parameter is passed as `(record,)`, and a plain struct always means
//! parameters by name. A function without parameters accepts `()`, null, `[]` and `{}`.
//!
//! **Shapes** (`schema.rs` says the same in JSON Schema; keep the two together):
//!
//! | WIT | serde and JSON |
//! |---|---|
//! | record | object; an unknown or missing field is an error, a missing `option` field is none |
//! | tuple, list | array |
//! | `list<u8>` | in: bytes, base64 or an array; out: bytes or an array to whoever asks for them, else base64 |
//! | enum; flags | the name; an array of names |
//! | variant | `"nothing"`, `{"circle": 2.5}` |
//! | result | `{"Ok": x}`, `{"Err": e}`; null where there is no payload |
//! | option | null or the value; an option of an option writes its own `some` as `{"some": x}` |
//! | char | a string of one character |
//! | f32, f64 | a number; not finite: itself to whoever asks for a float, else "NaN", "Infinity", "-Infinity" |
//! | own, borrow | [`Handle`], which has no JSON form |
//!
//! Maps and lists of fixed length are off in our engines and do not occur here.
//!
//! Names are read in kebab or snake case, letter case ignored (WIT forbids names that differ only so), and written in
//! snake case, unless the Rust type asks for the kebab one.
//!
//! Invariants: nothing here panics on a value that a caller or a guest chose; recursion is as deep as the WIT type;
//! `lower` stops at `max_bytes`, before it makes the copy that would pass it; messages are short whatever the value.

use crate::engine::schema;
use crate::error::sanitise;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, Engine as _};
use serde::Deserialize;
use serde::de::value::{SeqDeserializer, StrDeserializer, U32Deserializer, UnitDeserializer};
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, Visitor};
use serde::ser::{self, Serialize, Serializer};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Write as _};
use wasmtime::component::types::{Field, Flags, ResourceType, Type};
use wasmtime::component::{ResourceAny, Val};

/// Written with padding, read with or without it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The names of fields and cases are copied into every `Val` and chosen by the guest, so they need a bound of their
/// own: this many times the payload's. A name of 64 bytes on a payload of one byte is already unusual.
const NAMES_PER_BYTE: u64 = 64;

/// Longest text of a name, of a value that did not fit, of the type it should have had, of a path, of the rest.
const MAX_NAME: usize = 64;
const MAX_FOUND: usize = 48;
const MAX_EXPECTED: usize = 120;
const MAX_PATH: usize = 240;
const MAX_WHAT: usize = 512;
/// How many names a message lists.
const MAX_LISTED: usize = 12;

/// A parameter of an exported function, under its WIT name.
#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub(crate) name: String,
    pub(crate) ty: Type,
}

/// Turns arguments into the values of `params`, and counts their payload as [`bytes`] does.
///
/// Handles given to `own` parameters leave the table only if everything fits.
pub(crate) fn lower<A: Serialize + ?Sized>(
    args: &A,
    params: &[Param],
    handles: &mut Handles,
    max_bytes: u64,
) -> Result<(Vec<Val>, u64), Mismatch> {
    let names_left = max_bytes.saturating_mul(NAMES_PER_BYTE);
    let mut cx = Cx { handles, used: Vec::new(), max_bytes, left: max_bytes, names_left, exceeded: false };
    let lowered = args.serialize(Lower { want: Want::Args(params), cx: &mut cx });
    // A foreign `Serialize` may have swallowed the error or wrapped it into another.
    let lowered = if cx.exceeded { Err(Mismatch::TooLarge { max_bytes }) } else { lowered };
    let used = std::mem::take(&mut cx.used);
    let payload = max_bytes - cx.left;
    handles.settle(&used, lowered.is_ok());
    match lowered? {
        Val::Tuple(vals) => Ok((vals, payload)),
        _ => Err(Mismatch::new("the arguments did not form a list")),
    }
}

/// Turns a function's result into a Rust value; a function without a result gives unit.
///
/// If the value does not fit `T`, nobody can name its handles; their resources end with the session's instance.
pub(crate) fn lift<T: DeserializeOwned>(
    result: Option<&Val>,
    ty: Option<&Type>,
    handles: &mut Handles,
) -> Result<T, Mismatch> {
    let (val, ty) = match (result, ty) {
        (Some(val), Some(ty)) => (val, ty),
        (None, None) => return T::deserialize(UnitDeserializer::new()).map_err(|e: Mismatch| e.within("result")),
        _ => return Err(Mismatch::new("the function's result and its type do not belong together")),
    };
    let before = handles.next;
    let lifted = T::deserialize(Lift { val, ty: Cow::Borrowed(ty), handles });
    lifted.map_err(|mismatch| {
        handles.held.split_off(&before);
        mismatch.within("result")
    })
}

/// The payload of a value: sizes of scalars, bytes of strings, a byte for which case it is. An element of a list counts
/// at least one byte, so that a list of a million empty strings is not free.
pub(crate) fn bytes(val: &Val) -> u64 {
    let boxed = |val: &Option<Box<Val>>| DISCRIMINANT + val.as_deref().map_or(0, bytes);
    match val {
        Val::Bool(_) | Val::S8(_) | Val::U8(_) => 1,
        Val::S16(_) | Val::U16(_) => 2,
        Val::S32(_) | Val::U32(_) | Val::Float32(_) | Val::Char(_) => 4,
        Val::S64(_) | Val::U64(_) | Val::Float64(_) => 8,
        Val::String(text) => text.len() as u64,
        Val::List(vals) => vals.iter().map(|val| bytes(val).max(1)).sum(),
        Val::Record(fields) => fields.iter().map(|(_, val)| bytes(val)).sum(),
        Val::Tuple(vals) => vals.iter().map(bytes).sum(),
        Val::Variant(_, val) | Val::Option(val) => boxed(val),
        Val::Result(Ok(val) | Err(val)) => boxed(val),
        Val::Enum(_) => DISCRIMINANT,
        Val::Flags(_) => WORD,
        Val::Resource(_) | Val::Future(_) | Val::Stream(_) | Val::ErrorContext(_) => WORD,
        // Off in our engines.
        Val::Map(_) | Val::FixedLengthList(_) => 0,
    }
}

/// Payload of "which case", and of flags and handles, whatever the canonical ABI packs them into.
const DISCRIMINANT: u64 = 1;
const WORD: u64 = 4;

// ---- handles ----

/// A resource of the guest, for as long as the session lasts that it came from: an opaque number.
///
/// It fits where a function takes that resource: `own` uses it up, `borrow` does not. It has no JSON form.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Handle(u32);

/// How a [`Handle`] makes itself known to the two halves below.
const HANDLE: &str = "$isopod::Handle";
const NO_JSON: &str = "a handle fits only where a resource is expected, and has no JSON form";

impl Serialize for Handle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Ours say "not human readable" exactly where a resource stands. Others would write a number, and a number read
        // back would be a forged handle.
        if serializer.is_human_readable() {
            return Err(ser::Error::custom(NO_JSON));
        }
        serializer.serialize_newtype_struct(HANDLE, &self.0)
    }
}

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Handle, D::Error> {
        struct Number;
        impl<'de> Visitor<'de> for Number {
            type Value = Handle;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a resource handle")
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(self, number: D) -> Result<Handle, D::Error> {
                u32::deserialize(number).map(Handle)
            }
        }
        if deserializer.is_human_readable() {
            return Err(de::Error::custom(NO_JSON));
        }
        deserializer.deserialize_newtype_struct(HANDLE, Number)
    }
}

/// The resources that the caller of one session holds. Numbers are not used again, so an old handle stays unknown.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    next: u32,
    held: BTreeMap<u32, Held>,
}

#[derive(Debug)]
struct Held {
    resource: ResourceAny,
    /// The type under which it came. Types that are taken from one component compare, whether instantiated or not; the
    /// resource's own type is always an instantiated one.
    ty: ResourceType,
    /// What the call being prepared does with it.
    use_: Use,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Use {
    Free,
    Lent,
    Given,
}

impl Handles {
    /// Takes one resource out, for its owner to drop it.
    pub(crate) fn remove(&mut self, handle: Handle) -> Option<ResourceAny> {
        self.held.remove(&handle.0).map(|held| held.resource)
    }

    fn insert(&mut self, resource: ResourceAny, ty: ResourceType) -> Result<u32, Mismatch> {
        let number = self.next;
        self.next = number.checked_add(1).ok_or_else(|| Mismatch::new("the session ran out of handles"))?;
        self.held.insert(number, Held { resource, ty, use_: Use::Free });
        Ok(number)
    }

    /// Looks a handle up for one use in the call being prepared.
    fn employ(&mut self, number: u32, ty: &ResourceType, use_: Use) -> Result<ResourceAny, Mismatch> {
        let Some(held) = self.held.get_mut(&number) else {
            return Err(Mismatch::new("unknown handle: it was used up, or belongs to another session"));
        };
        if held.ty != *ty {
            return Err(Mismatch::new("the handle is of another resource type"));
        }
        if held.use_ == Use::Given || (held.use_ == Use::Lent && use_ == Use::Given) {
            return Err(Mismatch::new("a handle that is given away cannot be used twice in one call"));
        }
        held.use_ = use_;
        Ok(held.resource)
    }

    /// Ends the preparation of a call: what was given away is gone if the call takes place.
    fn settle(&mut self, used: &[u32], takes_place: bool) {
        for number in used {
            match self.held.get_mut(number) {
                Some(held) if held.use_ == Use::Given && takes_place => drop(self.held.remove(number)),
                Some(held) => held.use_ = Use::Free,
                None => {}
            }
        }
    }
}

// ---- what did not fit ----

/// Why a value does not fit its type, and where in it.
#[derive(Debug)]
pub(crate) enum Mismatch {
    /// The payload passed its limit.
    TooLarge { max_bytes: u64 },
    /// `path` is built from the inside out while the error travels up, so that a value that fits pays nothing for it.
    Shape { path: String, what: String },
}

impl Mismatch {
    fn new(what: impl Display) -> Mismatch {
        Mismatch::Shape { path: String::new(), what: clip(what, MAX_WHAT) }
    }

    fn expected(expected: impl Display, found: impl Display) -> Mismatch {
        Mismatch::new(format_args!("expected {}, got {}", clip(expected, MAX_EXPECTED), clip(found, MAX_FOUND)))
    }

    fn of_type(ty: &Type, found: impl Display) -> Mismatch {
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
    fn unknown<'n>(noun: Noun, name: &str, known: impl IntoIterator<Item = &'n str>) -> Mismatch {
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

    fn at_name(self, name: &str) -> Mismatch {
        self.at(format_args!(".{}", clip(snake(name), MAX_NAME)))
    }

    fn at_index(self, index: usize) -> Mismatch {
        self.at(format_args!("[{index}]"))
    }

    fn at(mut self, step: impl Display) -> Mismatch {
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
    fn within(self, root: &str) -> Mismatch {
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
enum Noun {
    Parameter,
    Field,
    Case,
    Flag,
}

impl Noun {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Noun::Parameter => ("parameter", "parameters"),
            Noun::Field => ("field", "fields"),
            Noun::Case => ("case", "cases"),
            Noun::Flag => ("flag", "flags"),
        }
    }

    fn locate(self, mismatch: Mismatch, name: &str) -> Mismatch {
        match self {
            Noun::Parameter => mismatch.at(format_args!("parameter \"{}\"", clip(snake(name), MAX_NAME))),
            _ => mismatch.at_name(name),
        }
    }
}

/// At most `max` bytes of a text, made fit to show. A value of megabytes costs no more than its head.
fn clip(text: impl Display, max: usize) -> String {
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
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", clip(self.0, MAX_FOUND - 4))
    }
}

// ---- names ----

/// A WIT name as we write it.
pub(super) fn snake(name: &str) -> String {
    name.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

/// Whether `given` means the WIT name `wit`.
fn same_name(wit: &str, given: &str) -> bool {
    let fold = |b: u8| if b == b'-' { b'_' } else { b.to_ascii_lowercase() };
    wit.len() == given.len() && wit.bytes().zip(given.bytes()).all(|(a, b)| fold(a) == fold(b))
}

/// The spelling a Rust type asks for, or else ours. `guess` is where it is likely to stand.
fn asked<'a>(wit: &'a str, names: &'static [&'static str], guess: usize) -> Cow<'a, str> {
    match names.get(guess).into_iter().chain(names).find(|name| same_name(wit, name)) {
        Some(name) => Cow::Borrowed(name),
        None => Cow::Owned(snake(wit)),
    }
}

pub(super) fn is_octets(ty: &Type) -> bool {
    matches!(ty, Type::List(list) if matches!(list.ty(), Type::U8))
}

// ---- in: serde to Val ----

/// What all parts of one `lower` share.
struct Cx<'h> {
    handles: &'h mut Handles,
    used: Vec<u32>,
    max_bytes: u64,
    left: u64,
    names_left: u64,
    exceeded: bool,
}

impl Cx<'_> {
    fn spend(&mut self, bytes: u64) -> Result<(), Mismatch> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| self.exceed())?;
        Ok(())
    }

    /// Copies a name out of the component's types.
    fn name(&mut self, name: &str) -> Result<String, Mismatch> {
        self.names_left = self.names_left.checked_sub(name.len() as u64).ok_or_else(|| self.exceed())?;
        Ok(name.to_owned())
    }

    fn exceed(&mut self) -> Mismatch {
        self.exceeded = true;
        Mismatch::TooLarge { max_bytes: self.max_bytes }
    }

    /// An element of a list counts at least one byte.
    fn element<T>(&mut self, lower: impl FnOnce(&mut Self) -> Result<T, Mismatch>) -> Result<T, Mismatch> {
        let before = self.left;
        let lowered = lower(self)?;
        if self.left == before {
            self.spend(1)?;
        }
        Ok(lowered)
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T, ty: &Type) -> Result<Val, Mismatch> {
        value.serialize(Lower { want: Want::One(ty), cx: self })
    }

    /// A name that stands in the arguments. It is compared and not handed on, so it is no payload.
    fn key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<String, Mismatch> {
        let before = self.left;
        let key = self.value(key, &Type::String)?;
        self.left = before;
        match key {
            Val::String(key) => Ok(key),
            _ => Err(Mismatch::new("expected a name")),
        }
    }
}

/// The serializer.
struct Lower<'a, 'h> {
    want: Want<'a>,
    cx: &'a mut Cx<'h>,
}

#[derive(Clone, Copy)]
enum Want<'a> {
    One(&'a Type),
    /// All arguments of a function; they become a `Val::Tuple`.
    Args(&'a [Param]),
}

/// What serde hands over in one piece.
#[derive(Clone, Copy)]
enum Scalar<'v> {
    Unit,
    Bool(bool),
    Int(i128),
    Float(f64),
    Char(char),
    Str(&'v str),
    Bytes(&'v [u8]),
}

impl Display for Scalar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Unit => f.write_str("null"),
            Scalar::Bool(v) => write!(f, "{v}"),
            Scalar::Int(v) => write!(f, "{v}"),
            Scalar::Float(v) => write!(f, "{v:?}"),
            Scalar::Char(v) => write!(f, "{:?}", v),
            Scalar::Str(v) => write!(f, "{}", Quoted(v)),
            Scalar::Bytes(v) => write!(f, "{} bytes", v.len()),
        }
    }
}

impl<'v> Scalar<'v> {
    /// JSON knows no difference between 3 and 3.0. Beyond 2^53 a float no longer says which integer was meant.
    fn int<T: TryFrom<i128>>(self) -> Option<T> {
        const EXACT: f64 = (1u64 << 53) as f64;
        match self {
            Scalar::Int(v) => T::try_from(v).ok(),
            Scalar::Float(v) if v.fract() == 0.0 && v.abs() <= EXACT => T::try_from(v as i128).ok(),
            _ => None,
        }
    }

    fn f64(self) -> Option<f64> {
        match self {
            Scalar::Float(v) => Some(v),
            Scalar::Int(v) => Some(v as f64),
            Scalar::Str("NaN") => Some(f64::NAN),
            Scalar::Str("Infinity") => Some(f64::INFINITY),
            Scalar::Str("-Infinity") => Some(f64::NEG_INFINITY),
            _ => None,
        }
    }

    /// Rounds, as JSON numbers do, but does not make an infinity of a finite number.
    fn f32(self) -> Option<f32> {
        let wide = self.f64()?;
        let narrow = wide as f32;
        (narrow.is_infinite() == wide.is_infinite()).then_some(narrow)
    }

    fn char(self) -> Option<char> {
        match self {
            Scalar::Char(v) => Some(v),
            Scalar::Str(v) => v.chars().next().filter(|c| c.len_utf8() == v.len()),
            _ => None,
        }
    }

    fn octets(self) -> Option<Cow<'v, [u8]>> {
        match self {
            Scalar::Bytes(v) => Some(Cow::Borrowed(v)),
            Scalar::Str(v) => BASE64.decode(v).ok().map(Cow::Owned),
            _ => None,
        }
    }
}

impl<'a, 'h> Lower<'a, 'h> {
    fn scalar(self, found: Scalar<'_>) -> Result<Val, Mismatch> {
        let cx = self.cx;
        let ty = match self.want {
            Want::One(ty) => ty,
            Want::Args([]) if matches!(found, Scalar::Unit) => return Ok(Val::Tuple(Vec::new())),
            Want::Args(_) => {
                return Err(Mismatch::expected("the arguments as a list, or as an object of parameters", found));
            }
        };
        let val = match ty {
            Type::Bool => match found {
                Scalar::Bool(v) => Some(Val::Bool(v)),
                _ => None,
            },
            Type::S8 => found.int().map(Val::S8),
            Type::U8 => found.int().map(Val::U8),
            Type::S16 => found.int().map(Val::S16),
            Type::U16 => found.int().map(Val::U16),
            Type::S32 => found.int().map(Val::S32),
            Type::U32 => found.int().map(Val::U32),
            Type::S64 => found.int().map(Val::S64),
            Type::U64 => found.int().map(Val::U64),
            Type::Float32 => found.f32().map(Val::Float32),
            Type::Float64 => found.f64().map(Val::Float64),
            Type::Char => found.char().map(Val::Char),
            // What may be large is paid for before it is copied.
            Type::String => match found {
                Scalar::Str(v) => {
                    cx.spend(v.len() as u64)?;
                    return Ok(Val::String(v.to_owned()));
                }
                Scalar::Char(v) => {
                    cx.spend(v.len_utf8() as u64)?;
                    return Ok(Val::String(v.to_string()));
                }
                _ => None,
            },
            Type::List(_) if is_octets(ty) => match found.octets() {
                Some(octets) => {
                    cx.spend(octets.len() as u64)?;
                    return Ok(Val::List(octets.iter().copied().map(Val::U8).collect()));
                }
                None => None,
            },
            Type::Enum(names) => match found {
                Scalar::Str(name) => match names.names().find(|wit| same_name(wit, name)) {
                    Some(wit) => Some(Val::Enum(cx.name(wit)?)),
                    None => return Err(Mismatch::unknown(Noun::Case, name, names.names())),
                },
                _ => None,
            },
            Type::Variant(_) | Type::Result(_) => match found {
                Scalar::Str(name) => match choose(ty, name, cx)? {
                    (wrap, None) => return wrap.around(None, cx),
                    (wrap, Some(payload)) => {
                        let form =
                            format_args!("{{{}: ..}} with {}", Quoted(&wrap.name()), schema::wit(&payload)).to_string();
                        return Err(Mismatch::expected(form, found));
                    }
                },
                _ => None,
            },
            Type::Option(option) => match (found, option.ty()) {
                (Scalar::Unit, _) => Some(Val::Option(None)),
                (_, Type::Option(_)) => None,
                (_, inner) => {
                    let val = Lower { want: Want::One(&inner), cx: &mut *cx }.scalar(found)?;
                    return Wrap::Some.around(Some(val), cx);
                }
            },
            _ => None,
        };
        let val = val.ok_or_else(|| Mismatch::of_type(ty, found))?;
        cx.spend(bytes(&val))?;
        Ok(val)
    }

    fn open(self, found: Found) -> Result<Compound<'a, 'h>, Mismatch> {
        let (shape, wraps) = Shape::new(self.want, found, self.cx)?;
        Ok(Compound { cx: self.cx, shape, wraps })
    }

    /// Begins the payload of a Rust variant with fields: `{"case": [..]}` or `{"case": {..}}`.
    fn nest(self, case: &str, found: Found) -> Result<Compound<'a, 'h>, Mismatch> {
        let Compound { cx, shape, wraps: outer } = self.case(case)?;
        let (wrap, payload) = match shape {
            Shape::Cases { chosen: Some((wrap, Some(payload))), .. } => (wrap, payload),
            Shape::Cases { ty, .. } => return Err(Mismatch::of_type(&ty, found).at_name(case)),
            _ => return Err(Mismatch::new(format_args!("the variant {} does not fit here", Quoted(case)))),
        };
        let (shape, mut wraps) = Shape::new(Want::One(&payload), found, cx).map_err(|e| e.at_name(case))?;
        wraps.push(wrap);
        wraps.extend(outer);
        Ok(Compound { cx, shape, wraps })
    }

    /// `{"name": ..}`, whose value is to follow.
    fn case(self, name: &str) -> Result<Compound<'a, 'h>, Mismatch> {
        let mut open = self.open(Found::Object)?;
        open.set_key(name)?;
        Ok(open)
    }

    fn handle<T: Serialize + ?Sized>(self, number: &T) -> Result<Val, Mismatch> {
        let (Want::One(ty), cx) = (self.want, self.cx) else {
            return Err(Mismatch::expected("the arguments", "a handle"));
        };
        let (resource, use_) = match ty {
            Type::Own(resource) => (resource, Use::Given),
            Type::Borrow(resource) => (resource, Use::Lent),
            Type::Option(option) if !matches!(option.ty(), Type::Option(_)) => {
                let val = Lower { want: Want::One(&option.ty()), cx: &mut *cx }.handle(number)?;
                return Wrap::Some.around(Some(val), cx);
            }
            _ => return Err(Mismatch::of_type(ty, "a handle")),
        };
        let Val::U32(number) = cx.value(number, &Type::U32)? else {
            return Err(Mismatch::new("expected the number of a handle"));
        };
        let resource = cx.handles.employ(number, resource, use_)?;
        cx.used.push(number);
        Ok(Val::Resource(resource))
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Found {
    Array,
    Object,
}

impl Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Found::Array { "an array" } else { "an object" })
    }
}

/// What stands around a payload.
enum Wrap {
    Some,
    Ok,
    Err,
    Case(String),
}

impl Wrap {
    fn around(self, val: Option<Val>, cx: &mut Cx<'_>) -> Result<Val, Mismatch> {
        cx.spend(DISCRIMINANT)?;
        let val = val.map(Box::new);
        Ok(match self {
            Wrap::Some => Val::Option(val),
            Wrap::Ok => Val::Result(Ok(val)),
            Wrap::Err => Val::Result(Err(val)),
            Wrap::Case(name) => Val::Variant(name, val),
        })
    }

    fn name(&self) -> String {
        match self {
            Wrap::Some => "some".into(),
            Wrap::Ok => "Ok".into(),
            Wrap::Err => "Err".into(),
            Wrap::Case(name) => snake(name),
        }
    }
}

/// The case of a variant, a result or an option of an option that `name` means, and the type of its payload.
fn choose(ty: &Type, name: &str, cx: &mut Cx<'_>) -> Result<(Wrap, Option<Type>), Mismatch> {
    match ty {
        Type::Variant(variant) => match variant.cases().find(|case| same_name(case.name, name)) {
            Some(case) => Ok((Wrap::Case(cx.name(case.name)?), case.ty)),
            None => Err(Mismatch::unknown(Noun::Case, name, variant.cases().map(|case| case.name))),
        },
        Type::Result(result) if same_name("ok", name) => Ok((Wrap::Ok, result.ok())),
        Type::Result(result) if same_name("err", name) => Ok((Wrap::Err, result.err())),
        Type::Result(_) => Err(Mismatch::unknown(Noun::Case, name, ["ok", "err"])),
        Type::Option(option) if same_name("some", name) => Ok((Wrap::Some, Some(option.ty()))),
        Type::Option(_) => Err(Mismatch::unknown(Noun::Case, name, ["some"])),
        _ => Err(Mismatch::of_type(ty, Found::Object)),
    }
}

/// An array or an object under construction.
struct Compound<'a, 'h> {
    cx: &'a mut Cx<'h>,
    shape: Shape,
    /// Around the finished value, innermost first.
    wraps: Vec<Wrap>,
}

enum Shape {
    List {
        item: Type,
        vals: Vec<Val>,
    },
    Tuple {
        items: Vec<Type>,
        vals: Vec<Val>,
    },
    Flags {
        flags: Flags,
        names: Vec<String>,
    },
    /// A record, or the arguments, which may come by position too.
    Fields {
        noun: Noun,
        slots: Vec<Slot>,
        next: usize,
        by_name: bool,
    },
    Cases {
        ty: Type,
        chosen: Option<(Wrap, Option<Type>)>,
        val: Option<Val>,
    },
}

struct Slot {
    name: String,
    ty: Type,
    val: Option<Val>,
}

impl Shape {
    /// Begins an array or an object, and says what to put around it.
    fn new(want: Want<'_>, found: Found, cx: &mut Cx<'_>) -> Result<(Shape, Vec<Wrap>), Mismatch> {
        let by_name = found == Found::Object;
        let ty = match want {
            Want::One(ty) => ty,
            Want::Args(params) => {
                let slot = |param: &Param| Slot { name: param.name.clone(), ty: param.ty.clone(), val: None };
                let slots = params.iter().map(slot).collect();
                return Ok((Shape::Fields { noun: Noun::Parameter, slots, next: 0, by_name }, Vec::new()));
            }
        };
        let shape = match (ty, found) {
            (Type::Option(option), _) if !matches!(option.ty(), Type::Option(_)) => {
                // The recursion ends at once: what is inside is no option.
                let (shape, mut wraps) = Shape::new(Want::One(&option.ty()), found, cx)?;
                wraps.push(Wrap::Some);
                return Ok((shape, wraps));
            }
            (Type::List(list), Found::Array) => Shape::List { item: list.ty(), vals: Vec::new() },
            (Type::Tuple(tuple), Found::Array) => Shape::Tuple { items: tuple.types().collect(), vals: Vec::new() },
            (Type::Flags(flags), Found::Array) => Shape::Flags { flags: flags.clone(), names: Vec::new() },
            (Type::Record(record), Found::Object) => {
                let slot = |field: Field<'_>| Ok(Slot { name: cx.name(field.name)?, ty: field.ty, val: None });
                let slots = record.fields().map(slot).collect::<Result<_, Mismatch>>()?;
                Shape::Fields { noun: Noun::Field, slots, next: 0, by_name }
            }
            (Type::Variant(_) | Type::Result(_) | Type::Option(_), Found::Object) => {
                Shape::Cases { ty: ty.clone(), chosen: None, val: None }
            }
            _ => return Err(Mismatch::of_type(ty, found)),
        };
        Ok((shape, Vec::new()))
    }
}

impl Compound<'_, '_> {
    /// Puts the cases that stand around this payload into the path.
    fn locate(&self, mismatch: Mismatch) -> Mismatch {
        self.wraps.iter().fold(mismatch, |mismatch, wrap| match wrap {
            Wrap::Some => mismatch,
            case => mismatch.at_name(&case.name()),
        })
    }

    /// The next element of an array.
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Mismatch> {
        let cx = &mut *self.cx;
        match &mut self.shape {
            Shape::List { item, vals } => {
                let index = vals.len();
                vals.push(cx.element(|cx| cx.value(value, item)).map_err(|e| e.at_index(index))?);
            }
            Shape::Tuple { items, vals } => {
                let index = vals.len();
                let Some(ty) = items.get(index) else {
                    return Err(Mismatch::new(format_args!("expected {index} elements, got more")));
                };
                vals.push(cx.value(value, ty).map_err(|e| e.at_index(index))?);
            }
            Shape::Flags { flags, names } => {
                let given = cx.key(value).map_err(|e| e.at_index(names.len()))?;
                let Some(wit) = flags.names().find(|wit| same_name(wit, &given)) else {
                    return Err(Mismatch::unknown(Noun::Flag, &given, flags.names()));
                };
                if !names.iter().any(|name| name == wit) {
                    names.push(cx.name(wit)?);
                }
            }
            Shape::Fields { noun, slots, next, .. } => {
                let count = slots.len();
                let Some(slot) = slots.get_mut(*next) else {
                    return Err(Mismatch::new(format_args!("expected {count} arguments, got more")));
                };
                *next += 1;
                slot.val = Some(cx.value(value, &slot.ty).map_err(|e| noun.locate(e, &slot.name))?);
            }
            Shape::Cases { ty, .. } => return Err(Mismatch::of_type(ty, Found::Array)),
        }
        Ok(())
    }

    fn key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Mismatch> {
        let key = self.cx.key(key)?;
        self.set_key(&key)
    }

    /// The name whose value comes next.
    fn set_key(&mut self, name: &str) -> Result<(), Mismatch> {
        match &mut self.shape {
            Shape::Fields { noun, slots, next, .. } => {
                // Fields mostly come in the order of their declaration, in which case `next` is already right.
                let found = match slots.get(*next) {
                    Some(slot) if same_name(&slot.name, name) => Some(*next),
                    _ => slots.iter().position(|slot| same_name(&slot.name, name)),
                };
                *next =
                    found.ok_or_else(|| Mismatch::unknown(*noun, name, slots.iter().map(|slot| slot.name.as_str())))?;
                if slots[*next].val.is_some() {
                    return Err(Mismatch::new(format_args!("{} {} is given twice", noun.words().0, Quoted(name))));
                }
                Ok(())
            }
            Shape::Cases { chosen: Some(_), .. } => Err(Mismatch::expected("one case", "an object with more keys")),
            Shape::Cases { ty, chosen, .. } => {
                *chosen = Some(choose(ty, name, self.cx)?);
                Ok(())
            }
            _ => Err(Mismatch::expected("an array", Found::Object)),
        }
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Mismatch> {
        let cx = &mut *self.cx;
        match &mut self.shape {
            // `next` stands where `set_key` left it.
            Shape::Fields { .. } => self.push(value),
            Shape::Cases { chosen: Some((wrap, payload)), val, .. } => {
                match payload {
                    Some(ty) => *val = Some(cx.value(value, ty).map_err(|e| e.at_name(&wrap.name()))?),
                    None => value.serialize(Lower { want: Want::Args(&[]), cx }).map(drop).map_err(|_| {
                        Mismatch::new(format_args!("the case {} has no payload; pass null", Quoted(&wrap.name())))
                    })?,
                }
                Ok(())
            }
            _ => Err(Mismatch::new("a value without a key")),
        }
    }

    fn finish(self) -> Result<Val, Mismatch> {
        let Compound { cx, shape, mut wraps } = self;
        let val = match shape {
            Shape::List { vals, .. } => Val::List(vals),
            Shape::Tuple { items, vals } if vals.len() == items.len() => Val::Tuple(vals),
            Shape::Tuple { items, vals } => {
                return Err(Mismatch::new(format_args!("expected {} elements, got {}", items.len(), vals.len())));
            }
            Shape::Flags { names, .. } => {
                cx.spend(WORD)?;
                Val::Flags(names)
            }
            Shape::Fields { noun, slots, next, by_name } => {
                let count = slots.len();
                if !by_name && next < count {
                    return Err(Mismatch::new(format_args!("expected {count} arguments, got {next}")));
                }
                let mut fields = Vec::with_capacity(count);
                for Slot { name, ty, val } in slots {
                    let val = match (val, ty) {
                        (Some(val), _) => val,
                        (None, Type::Option(_)) => {
                            cx.spend(DISCRIMINANT)?;
                            Val::Option(None)
                        }
                        (None, ty) => {
                            let (noun, ty) = (noun.words().0, clip(schema::wit(&ty), MAX_EXPECTED));
                            let name = clip(snake(&name), MAX_NAME);
                            return Err(Mismatch::new(format_args!("missing {noun} \"{name}\" of type {ty}")));
                        }
                    };
                    fields.push((name, val));
                }
                match noun {
                    Noun::Parameter => Val::Tuple(fields.into_iter().map(|(_, val)| val).collect()),
                    _ => Val::Record(fields),
                }
            }
            Shape::Cases { chosen: Some((wrap, _)), val, .. } => wrap.around(val, cx)?,
            Shape::Cases { ty, chosen: None, .. } => return Err(Mismatch::of_type(&ty, "an empty object")),
        };
        wraps.drain(..).try_fold(val, |val, wrap| wrap.around(Some(val), cx))
    }
}

macro_rules! lower_scalars {
    ($($method:ident($ty:ty) => $scalar:ident,)*) => {
        $(fn $method(self, v: $ty) -> Result<Val, Mismatch> {
            self.scalar(Scalar::$scalar(v.into()))
        })*
    };
}

impl<'a, 'h> Serializer for Lower<'a, 'h> {
    type Ok = Val;
    type Error = Mismatch;
    type SerializeSeq = Compound<'a, 'h>;
    type SerializeTuple = Compound<'a, 'h>;
    type SerializeTupleStruct = Compound<'a, 'h>;
    type SerializeTupleVariant = Compound<'a, 'h>;
    type SerializeMap = Compound<'a, 'h>;
    type SerializeStruct = Compound<'a, 'h>;
    type SerializeStructVariant = Compound<'a, 'h>;

    lower_scalars! {
        serialize_bool(bool) => Bool,
        serialize_i8(i8) => Int,
        serialize_i16(i16) => Int,
        serialize_i32(i32) => Int,
        serialize_i64(i64) => Int,
        serialize_i128(i128) => Int,
        serialize_u8(u8) => Int,
        serialize_u16(u16) => Int,
        serialize_u32(u32) => Int,
        serialize_u64(u64) => Int,
        serialize_f32(f32) => Float,
        serialize_f64(f64) => Float,
        serialize_char(char) => Char,
    }

    fn serialize_u128(self, v: u128) -> Result<Val, Mismatch> {
        // No WIT integer reaches that far: the largest i128 is as wrong as any.
        self.scalar(Scalar::Int(v.try_into().unwrap_or(i128::MAX)))
    }
    fn serialize_str(self, v: &str) -> Result<Val, Mismatch> {
        self.scalar(Scalar::Str(v))
    }
    fn serialize_bytes(self, v: &[u8]) -> Result<Val, Mismatch> {
        self.scalar(Scalar::Bytes(v))
    }
    fn serialize_none(self) -> Result<Val, Mismatch> {
        self.scalar(Scalar::Unit)
    }
    fn serialize_unit(self) -> Result<Val, Mismatch> {
        self.scalar(Scalar::Unit)
    }
    fn serialize_unit_struct(self, _name: &'static str) -> Result<Val, Mismatch> {
        self.scalar(Scalar::Unit)
    }
    fn serialize_unit_variant(self, _name: &'static str, _index: u32, case: &'static str) -> Result<Val, Mismatch> {
        self.scalar(Scalar::Str(case))
    }

    /// Rust says which option a `Some` belongs to, so `Option<Option<T>>` needs no `{"some": ..}` here.
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Val, Mismatch> {
        match self.want {
            Want::One(Type::Option(option)) => {
                let val = self.cx.value(value, &option.ty())?;
                Wrap::Some.around(Some(val), self.cx)
            }
            _ => value.serialize(self),
        }
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<Val, Mismatch> {
        if name == HANDLE { self.handle(value) } else { value.serialize(self) }
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        case: &'static str,
        value: &T,
    ) -> Result<Val, Mismatch> {
        let mut open = self.case(case)?;
        open.value(value)?;
        open.finish()
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<Compound<'a, 'h>, Mismatch> {
        self.open(Found::Array)
    }
    fn serialize_tuple(self, _len: usize) -> Result<Compound<'a, 'h>, Mismatch> {
        self.open(Found::Array)
    }
    fn serialize_tuple_struct(self, _name: &'static str, _len: usize) -> Result<Compound<'a, 'h>, Mismatch> {
        self.open(Found::Array)
    }
    fn serialize_map(self, _len: Option<usize>) -> Result<Compound<'a, 'h>, Mismatch> {
        self.open(Found::Object)
    }
    fn serialize_struct(self, _name: &'static str, _len: usize) -> Result<Compound<'a, 'h>, Mismatch> {
        self.open(Found::Object)
    }
    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        case: &'static str,
        _len: usize,
    ) -> Result<Compound<'a, 'h>, Mismatch> {
        self.nest(case, Found::Array)
    }
    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        case: &'static str,
        _len: usize,
    ) -> Result<Compound<'a, 'h>, Mismatch> {
        self.nest(case, Found::Object)
    }

    /// See `Handle`: where a resource stands, only a handle fits, and it is not for people to read.
    fn is_human_readable(&self) -> bool {
        match self.want {
            Want::One(Type::Option(option)) => !matches!(option.ty(), Type::Own(_) | Type::Borrow(_)),
            Want::One(ty) => !matches!(ty, Type::Own(_) | Type::Borrow(_)),
            _ => true,
        }
    }
}

/// A number of elements, keys and values, then the end: all the ways in which serde hands over compounds.
macro_rules! lower_compounds {
    ($($of:ident: $element:ident;)*) => {
        $(impl ser::$of for Compound<'_, '_> {
            type Ok = Val;
            type Error = Mismatch;
            fn $element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Mismatch> {
                self.push(value).map_err(|e| self.locate(e))
            }
            fn end(self) -> Result<Val, Mismatch> {
                self.finish()
            }
        })*
    };
    ($($of:ident by name;)*) => {
        $(impl ser::$of for Compound<'_, '_> {
            type Ok = Val;
            type Error = Mismatch;
            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Mismatch> {
                self.set_key(name).and_then(|()| self.value(value)).map_err(|e| self.locate(e))
            }
            fn end(self) -> Result<Val, Mismatch> {
                self.finish()
            }
        })*
    };
}

lower_compounds! {
    SerializeSeq: serialize_element;
    SerializeTuple: serialize_element;
    SerializeTupleStruct: serialize_field;
    SerializeTupleVariant: serialize_field;
}

lower_compounds! {
    SerializeStruct by name;
    SerializeStructVariant by name;
}

impl ser::SerializeMap for Compound<'_, '_> {
    type Ok = Val;
    type Error = Mismatch;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Mismatch> {
        self.key(key).map_err(|e| self.locate(e))
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Mismatch> {
        self.value(value).map_err(|e| self.locate(e))
    }
    fn end(self) -> Result<Val, Mismatch> {
        self.finish()
    }
}

// ---- out: Val to serde ----

/// The deserializer. The type comes along because a `Val` does not say of what it is a list, or an option.
struct Lift<'a> {
    val: &'a Val,
    ty: Cow<'a, Type>,
    handles: &'a mut Handles,
}

impl<'a> Lift<'a> {
    /// `Some(x)` reads like `x` to whoever did not ask for an option.
    fn peeled(mut self) -> Lift<'a> {
        if let (Val::Option(Some(val)), Type::Option(option)) = (self.val, &*self.ty) {
            let inner = option.ty();
            if !matches!(inner, Type::Option(_)) {
                self.val = val;
                self.ty = Cow::Owned(inner);
            }
        }
        self
    }

    fn octets(&self) -> Option<Vec<u8>> {
        let Val::List(vals) = self.val else { return None };
        let octet = |val: &Val| if let Val::U8(octet) = val { Some(*octet) } else { None };
        if is_octets(&self.ty) { vals.iter().map(octet).collect() } else { None }
    }

    fn items<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        let handles = self.handles;
        match (self.val, &*self.ty) {
            (Val::List(vals), Type::List(list)) => {
                let item = list.ty();
                Items::visit(vals.iter().map(|val| (val, Cow::Borrowed(&item))), handles, visitor)
            }
            (Val::Tuple(vals), Type::Tuple(tuple)) => {
                Items::visit(vals.iter().zip(tuple.types().map(Cow::Owned)), handles, visitor)
            }
            (_, ty) => Err(broken(ty)),
        }
    }

    /// `names` is how the reader spells the fields of a record.
    fn fields<'de, V: Visitor<'de>>(self, names: &'static [&'static str], visitor: V) -> Result<V::Value, Mismatch> {
        match (self.val, &*self.ty) {
            (Val::Record(vals), Type::Record(record)) => {
                let fields = vals.iter().zip(record.fields()).enumerate();
                let fields =
                    fields.map(|(i, ((name, val), field))| (asked(name, names, i), Some((val, Cow::Owned(field.ty)))));
                Entries::visit(fields, self.handles, visitor)
            }
            (_, ty) => Err(broken(ty)),
        }
    }

    /// The case of a variant or a result in our spelling, and its payload.
    fn case(&self) -> Option<(Cow<'a, str>, Payload<'a>)> {
        let (name, payload, ty) = match (self.val, &*self.ty) {
            (Val::Variant(name, payload), Type::Variant(variant)) => {
                let case = variant.cases().find(|case| case.name == name)?;
                (Cow::Owned(snake(name)), payload, case.ty)
            }
            (Val::Result(Ok(payload)), Type::Result(result)) => (Cow::Borrowed("Ok"), payload, result.ok()),
            (Val::Result(Err(payload)), Type::Result(result)) => (Cow::Borrowed("Err"), payload, result.err()),
            _ => return None,
        };
        match (payload, ty) {
            (Some(payload), Some(ty)) => Some((name, Some((payload, Cow::Owned(ty))))),
            (None, None) => Some((name, None)),
            _ => None,
        }
    }
}

/// A value that is not of its type. wasmtime does not hand out such.
fn broken(ty: &Type) -> Mismatch {
    Mismatch::new(format_args!("the value is not of its type {}", schema::wit(ty)))
}

fn not_finite(v: f64) -> &'static str {
    if v.is_nan() {
        "NaN"
    } else if v > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

macro_rules! lift_as_any {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
            self.deserialize_any(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Lift<'_> {
    type Error = Mismatch;

    /// The JSON form.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        let this = self.peeled();
        match (this.val, &*this.ty) {
            (Val::Bool(v), _) => visitor.visit_bool(*v),
            (Val::S8(v), _) => visitor.visit_i8(*v),
            (Val::U8(v), _) => visitor.visit_u8(*v),
            (Val::S16(v), _) => visitor.visit_i16(*v),
            (Val::U16(v), _) => visitor.visit_u16(*v),
            (Val::S32(v), _) => visitor.visit_i32(*v),
            (Val::U32(v), _) => visitor.visit_u32(*v),
            (Val::S64(v), _) => visitor.visit_i64(*v),
            (Val::U64(v), _) => visitor.visit_u64(*v),
            (Val::Float32(v), _) if v.is_finite() => visitor.visit_f32(*v),
            (Val::Float32(v), _) => visitor.visit_str(not_finite(f64::from(*v))),
            (Val::Float64(v), _) if v.is_finite() => visitor.visit_f64(*v),
            (Val::Float64(v), _) => visitor.visit_str(not_finite(*v)),
            (Val::Char(v), _) => visitor.visit_char(*v),
            (Val::String(v), _) => visitor.visit_str(v),
            (Val::Enum(name), _) => visitor.visit_string(snake(name)),
            (Val::Flags(names), _) => visitor.visit_seq(SeqDeserializer::new(names.iter().map(|name| snake(name)))),
            (Val::List(_) | Val::Tuple(_), _) => match this.octets() {
                Some(octets) => visitor.visit_string(BASE64.encode(octets)),
                None => this.items(visitor),
            },
            (Val::Record(_), _) => this.fields(&[], visitor),
            (Val::Option(None), _) => visitor.visit_unit(),
            (Val::Option(Some(val)), Type::Option(option)) => {
                let some = (Cow::Borrowed("some"), Some((&**val, Cow::Owned(option.ty()))));
                Entries::visit([some].into_iter(), this.handles, visitor)
            }
            (Val::Variant(..) | Val::Result(_), ty) => match this.case() {
                Some((name, None)) if matches!(ty, Type::Variant(_)) => visitor.visit_str(&name),
                Some(entry) => Entries::visit([entry].into_iter(), this.handles, visitor),
                None => Err(broken(ty)),
            },
            (Val::Resource(_), _) => Err(Mismatch::new("a handle has no JSON form: take it as an isopod::Handle")),
            (_, ty) => Err(broken(ty)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match (self.val, &*self.ty) {
            (Val::Option(None), _) => visitor.visit_none(),
            (Val::Option(Some(val)), Type::Option(option)) => {
                visitor.visit_some(Lift { val, ty: Cow::Owned(option.ty()), handles: self.handles })
            }
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Mismatch> {
        if name != HANDLE {
            return visitor.visit_newtype_struct(self);
        }
        let this = self.peeled();
        match (this.val, &*this.ty) {
            (Val::Resource(resource), Type::Own(ty) | Type::Borrow(ty)) => {
                let number = this.handles.insert(*resource, *ty)?;
                visitor.visit_newtype_struct(U32Deserializer::new(number))
            }
            (_, ty) => Err(Mismatch::new(format_args!("{} is no handle", schema::wit(ty)))),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        cases: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        let this = self.peeled();
        let (name, payload) = match this.val {
            Val::Enum(name) => (Cow::Borrowed(name.as_str()), None),
            Val::String(text) => return visitor.visit_enum(StrDeserializer::new(text)),
            _ => match this.case() {
                Some(case) => case,
                None => return this.deserialize_any(visitor),
            },
        };
        visitor.visit_enum(Case { name: asked(&name, cases, 0), payload, handles: this.handles })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        let this = self.peeled();
        if let Val::Record(_) = this.val { this.fields(fields, visitor) } else { this.deserialize_any(visitor) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        let this = self.peeled();
        match this.val {
            Val::List(_) | Val::Tuple(_) => this.items(visitor),
            _ => this.deserialize_any(visitor),
        }
    }
    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Mismatch> {
        self.deserialize_seq(visitor)
    }
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        let this = self.peeled();
        match this.octets() {
            Some(octets) => visitor.visit_byte_buf(octets),
            None => this.deserialize_any(visitor),
        }
    }
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.deserialize_byte_buf(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        let this = self.peeled();
        match this.val {
            Val::Float32(v) => visitor.visit_f32(*v),
            Val::Float64(v) => visitor.visit_f64(*v),
            _ => this.deserialize_any(visitor),
        }
    }
    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Mismatch> {
        self.deserialize_any(visitor)
    }
    lift_as_any! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_char deserialize_str deserialize_string deserialize_unit deserialize_map deserialize_identifier
    }

    /// See `Handle`.
    fn is_human_readable(&self) -> bool {
        match (self.val, &*self.ty) {
            (Val::Option(Some(val)), _) => !matches!(**val, Val::Resource(_)),
            (val, _) => !matches!(val, Val::Resource(_)),
        }
    }
}

/// The elements of a list or a tuple.
struct Items<'a, I> {
    items: I,
    index: usize,
    handles: &'a mut Handles,
}

impl<'a, I: ExactSizeIterator<Item = (&'a Val, Cow<'a, Type>)>> Items<'a, I> {
    fn visit<'de, V: Visitor<'de>>(items: I, handles: &'a mut Handles, visitor: V) -> Result<V::Value, Mismatch> {
        let mut items = Items { items, index: 0, handles };
        let value = visitor.visit_seq(&mut items)?;
        match items.items.len() {
            0 => Ok(value),
            more => Err(Mismatch::new(format_args!("{more} elements more than were asked for"))),
        }
    }
}

impl<'de, 'a, I: ExactSizeIterator<Item = (&'a Val, Cow<'a, Type>)>> de::SeqAccess<'de> for Items<'a, I> {
    type Error = Mismatch;
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Mismatch> {
        let Some((val, ty)) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(Lift { val, ty, handles: self.handles }).map(Some).map_err(|e| e.at_index(index))
    }
    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

/// The entries of an object; a case without a payload has none.
struct Entries<'a, I> {
    entries: I,
    value: Option<(Cow<'a, str>, Payload<'a>)>,
    handles: &'a mut Handles,
}

type Payload<'a> = Option<(&'a Val, Cow<'a, Type>)>;

impl<'a, I: ExactSizeIterator<Item = (Cow<'a, str>, Payload<'a>)>> Entries<'a, I> {
    fn visit<'de, V: Visitor<'de>>(entries: I, handles: &'a mut Handles, visitor: V) -> Result<V::Value, Mismatch> {
        let mut entries = Entries { entries, value: None, handles };
        let value = visitor.visit_map(&mut entries)?;
        match entries.entries.len() {
            0 => Ok(value),
            more => Err(Mismatch::new(format_args!("{more} entries more than were asked for"))),
        }
    }
}

impl<'de, 'a, I: ExactSizeIterator<Item = (Cow<'a, str>, Payload<'a>)>> de::MapAccess<'de> for Entries<'a, I> {
    type Error = Mismatch;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mismatch> {
        let Some((name, payload)) = self.entries.next() else { return Ok(None) };
        let read = seed.deserialize(StrDeserializer::new(&name));
        self.value = Some((name, payload));
        read.map(Some)
    }
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Mismatch> {
        let (name, payload) = self.value.take().ok_or_else(|| Mismatch::new("a value was asked for before its key"))?;
        payload_into(payload, self.handles, seed).map_err(|e| e.at_name(&name))
    }
    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

fn payload_into<'de, T: DeserializeSeed<'de>>(
    payload: Payload<'_>,
    handles: &mut Handles,
    seed: T,
) -> Result<T::Value, Mismatch> {
    match payload {
        Some((val, ty)) => seed.deserialize(Lift { val, ty, handles }),
        None => seed.deserialize(UnitDeserializer::new()),
    }
}

/// The case of an enum, a variant or a result.
struct Case<'a> {
    name: Cow<'a, str>,
    payload: Payload<'a>,
    handles: &'a mut Handles,
}

impl<'de, 'a> de::EnumAccess<'de> for Case<'a> {
    type Error = Mismatch;
    type Variant = Case<'a>;
    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Case<'a>), Mismatch> {
        Ok((seed.deserialize(StrDeserializer::new(&self.name))?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Case<'_> {
    type Error = Mismatch;
    fn unit_variant(self) -> Result<(), Mismatch> {
        match self.payload {
            None => Ok(()),
            Some((_, ty)) => {
                let text =
                    format_args!("the case has a payload of type {}, none was asked for", schema::wit(&ty)).to_string();
                Err(Mismatch::new(text).at_name(&self.name))
            }
        }
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Mismatch> {
        payload_into(self.payload, self.handles, seed).map_err(|e| e.at_name(&self.name))
    }
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Mismatch> {
        match self.payload {
            Some((val, ty)) => Lift { val, ty, handles: self.handles }.deserialize_tuple(len, visitor),
            None => visitor.visit_unit(),
        }
        .map_err(|e: Mismatch| e.at_name(&self.name))
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        match self.payload {
            Some((val, ty)) => Lift { val, ty, handles: self.handles }.deserialize_struct("", fields, visitor),
            None => visitor.visit_unit(),
        }
        .map_err(|e: Mismatch| e.at_name(&self.name))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::collections::HashMap;
    use wasmtime::component::types::ComponentItem;
    use wasmtime::component::{Component, Linker};
    use wasmtime::{Engine, Store};

    /// The parameters and the result of the function `f` that a component imports.
    pub(in crate::engine) fn signature(wat: &str) -> (Vec<Param>, Option<Type>) {
        let engine = Engine::default();
        let component = Component::new(&engine, format!("(component {wat})")).unwrap();
        let ty = component.component_type();
        for (_, item) in ty.imports(&engine) {
            if let ComponentItem::ComponentFunc(f) = item.ty {
                let params = f.params().map(|(name, ty)| Param { name: name.into(), ty }).collect();
                return (params, f.results().next());
            }
        }
        panic!("no function");
    }

    /// A type written in WAT; `defs` come before it.
    pub(in crate::engine) fn ty_with(defs: &str, wat: &str) -> Type {
        signature(&format!(r#"{defs} (import "f" (func (param "x" {wat})))"#)).0.remove(0).ty
    }

    pub(in crate::engine) fn ty(wat: &str) -> Type {
        ty_with("", wat)
    }

    const SHAPES: &str = r#"
        (type $c' (enum "red" "dark-blue")) (import "c" (type $c (eq $c')))
        (type $fl' (flags "can-read" "write")) (import "fl" (type $fl (eq $fl')))
        (type $p' (record (field "pos-x" f64) (field "pos-y" f64))) (import "p" (type $p (eq $p')))
        (type $v' (variant (case "nothing") (case "circle" f64) (case "pair" (tuple u8 u8)) (case "at-point" $p)))
        (import "v" (type $v (eq $v')))
        (type $o' (record (field "need" u8) (field "may" (option u8)))) (import "o" (type $o (eq $o')))"#;

    fn shape(wat: &str) -> Type {
        ty_with(SHAPES, wat)
    }

    fn to_val<T: Serialize>(value: T, ty: &Type) -> Result<Val, Mismatch> {
        let params = [Param { name: "x".into(), ty: ty.clone() }];
        let (mut vals, payload) = lower(&(value,), &params, &mut Handles::default(), 1 << 20)?;
        let val = vals.remove(0);
        assert_eq!(payload, bytes(&val), "{val:?}");
        Ok(val)
    }

    fn from_val<T: DeserializeOwned>(val: &Val, ty: &Type) -> Result<T, Mismatch> {
        lift(Some(val), Some(ty), &mut Handles::default())
    }

    #[test]
    fn json_goes_in_and_comes_out_in_one_form() {
        // Type, what goes in, what comes out of a reader that takes anything.
        let big = u64::MAX;
        let cases = [
            ("bool", json!(true), json!(true)),
            ("u64", json!(big), json!(big)),
            ("s64", json!(i64::MIN), json!(i64::MIN)),
            ("u8", json!(3.0), json!(3)),
            ("float64", json!(0.1), json!(0.1)),
            ("float64", json!(1), json!(1.0)),
            ("float64", json!("NaN"), json!("NaN")),
            ("float32", json!("-Infinity"), json!("-Infinity")),
            ("float32", json!(2.5), json!(2.5)),
            ("char", json!("é"), json!("é")),
            ("string", json!(""), json!("")),
            ("(list u8)", json!("AQID/w=="), json!("AQID/w==")),
            ("(list u8)", json!("AQID/w"), json!("AQID/w==")),
            ("(list u8)", json!([1, 2, 3, 255]), json!("AQID/w==")),
            ("(list u8)", json!([]), json!("")),
            ("(list u16)", json!([]), json!([])),
            ("(tuple u8 string)", json!([1, "a"]), json!([1, "a"])),
            ("(option u8)", json!(null), json!(null)),
            ("(option u8)", json!(7), json!(7)),
            ("(option (list u16))", json!([7]), json!([7])),
            ("(option (option u8))", json!(null), json!(null)),
            ("(option (option u8))", json!({"some": null}), json!({"some": null})),
            ("(option (option u8))", json!({"some": 5}), json!({"some": 5})),
            ("(option (option (option u8)))", json!({"some": {"some": 5}}), json!({"some": {"some": 5}})),
            ("(result u8 (error string))", json!({"Ok": 1}), json!({"Ok": 1})),
            ("(result u8 (error string))", json!({"err": "no"}), json!({"Err": "no"})),
            ("(result)", json!({"ok": null}), json!({"Ok": null})),
            ("(result)", json!("Err"), json!({"Err": null})),
            ("$c", json!("dark-blue"), json!("dark_blue")),
            ("$c", json!("dark_blue"), json!("dark_blue")),
            ("$fl", json!([]), json!([])),
            ("$fl", json!(["can-read", "can_read"]), json!(["can_read"])),
            ("$p", json!({"pos-x": 1.5, "pos_y": 2.5}), json!({"pos_x": 1.5, "pos_y": 2.5})),
            ("$p", json!({"pos-y": 1.5, "pos_x": 2.5}), json!({"pos_x": 2.5, "pos_y": 1.5})),
            ("$o", json!({"need": 1}), json!({"need": 1, "may": null})),
            ("$v", json!("nothing"), json!("nothing")),
            ("$v", json!({"nothing": null}), json!("nothing")),
            ("$v", json!({"circle": 2.5}), json!({"circle": 2.5})),
            ("$v", json!({"pair": [1, 2]}), json!({"pair": [1, 2]})),
            (
                "$v",
                json!({"at-point": {"pos-x": 1.5, "pos-y": 0.5}}),
                json!({"at_point": {"pos_x": 1.5, "pos_y": 0.5}}),
            ),
            ("(option $v)", json!({"circle": 2.5}), json!({"circle": 2.5})),
        ];
        for (wat, given, expected) in cases {
            let ty = shape(wat);
            let val = to_val(&given, &ty).unwrap_or_else(|e| panic!("{given} as {wat}: {e}"));
            let back: Value = from_val(&val, &ty).unwrap_or_else(|e| panic!("{given} as {wat}: {e}"));
            assert_eq!(back, expected, "{given} as {wat}");
            assert_eq!(to_val(&back, &ty).unwrap(), val, "{back} as {wat}");
        }
    }

    #[test]
    fn what_does_not_fit_is_said_with_its_place() {
        let long = "!".repeat(1 << 20);
        let cases = [
            ("u64", json!(-1), r#"parameter "x": expected u64, got -1"#),
            ("u8", json!(256), r#"parameter "x": expected u8, got 256"#),
            ("s8", json!(-129), r#"parameter "x": expected s8, got -129"#),
            ("s64", json!(u64::MAX), r#"parameter "x": expected s64, got 18446744073709551615"#),
            ("u32", json!(1.5), r#"parameter "x": expected u32, got 1.5"#),
            ("u64", json!(1e19), r#"parameter "x": expected u64, got 1e19"#),
            ("u32", json!("1"), r#"parameter "x": expected u32, got "1""#),
            ("u32", json!(null), r#"parameter "x": expected u32, got null"#),
            ("float32", json!(1e300), r#"parameter "x": expected f32, got 1e300"#),
            ("float64", json!("nan"), r#"parameter "x": expected f64, got "nan""#),
            ("bool", json!([]), r#"parameter "x": expected bool, got an array"#),
            ("char", json!("ab"), r#"parameter "x": expected char, got "ab""#),
            ("char", json!(""), r#"parameter "x": expected char, got """#),
            ("(list u8)", json!("?"), r#"parameter "x": expected list<u8> as base64 or bytes, got "?""#),
            ("(list u8)", json!([1, 256]), r#"parameter "x"[1]: expected u8, got 256"#),
            ("(tuple u8 u8)", json!([1]), r#"parameter "x": expected 2 elements, got 1"#),
            ("(tuple u8 u8)", json!([1, 2, 3]), r#"parameter "x": expected 2 elements, got more"#),
            (
                "(option (option u8))",
                json!(5),
                r#"parameter "x": expected option<option<u8>>: null or {"some": ..}, got 5"#,
            ),
            ("(result u8)", json!({}), r#"parameter "x": expected result<u8>, got an empty object"#),
            (
                "(result u8 (error u8))",
                json!({"Ok": 1, "Err": 2}),
                r#"parameter "x": expected one case, got an object with more keys"#,
            ),
            ("(result u8)", json!({"Err": 2}), r#"parameter "x": the case "Err" has no payload; pass null"#),
            ("(result u8)", json!({"good": 2}), r#"parameter "x": unknown case "good"; the cases are: ok, err"#),
            ("(result u8)", json!("Ok"), r#"parameter "x": expected {"Ok": ..} with u8, got "Ok""#),
            ("$c", json!("blue"), r#"parameter "x": unknown case "blue"; the cases are: red, dark_blue"#),
            ("$c", json!(0), r#"parameter "x": expected enum { red, dark-blue }, got 0"#),
            ("$fl", json!(["x"]), r#"parameter "x": unknown flag "x"; the flags are: can_read, write"#),
            ("$fl", json!([1]), r#"parameter "x"[0]: expected string, got 1"#),
            (
                "$p",
                json!({"pos-x": 1, "colour": 2}),
                r#"parameter "x": unknown field "colour"; the fields are: pos_x, pos_y"#,
            ),
            ("$p", json!({"pos-x": 1}), r#"parameter "x": missing field "pos_y" of type f64"#),
            ("$p", json!({"pos-x": 1, "pos_x": 1}), r#"parameter "x": field "pos_x" is given twice"#),
            ("$p", json!([1, 2]), r#"parameter "x": expected record { pos-x: f64, pos-y: f64 }, got an array"#),
            (
                "$v",
                json!({"at-point": {"pos-x": 1, "pos-y": [1]}}),
                r#"parameter "x".at_point.pos_y: expected f64, got an array"#,
            ),
            ("(list (list u16))", json!([[1], [1, -1]]), r#"parameter "x"[1][1]: expected u16, got -1"#),
        ];
        for (wat, given, expected) in cases {
            let error = to_val(&given, &shape(wat)).map(|_| ()).unwrap_err();
            assert_eq!(error.to_string(), expected, "{given} as {wat}");
        }
        for wat in ["u8", "char", "$c", "(list u8)", "$v", "(result)", "$p"] {
            for given in [json!(long), json!({ long.clone(): 1 }), json!([long])] {
                let error = to_val(&given, &shape(wat)).map(|_| ()).unwrap_err().to_string();
                assert!(error.len() < 800, "{wat}: {} bytes", error.len());
            }
        }
    }

    #[test]
    fn arguments_are_a_list_or_an_object() {
        let two = signature(r#"(import "f" (func (param "the-name" string) (param "n" (option u8))))"#).0;
        let none: Vec<Param> = Vec::new();
        fn call(params: &[Param], args: impl Serialize) -> Result<Vec<Val>, String> {
            lower(&args, params, &mut Handles::default(), 1 << 20).map(|(vals, _)| vals).map_err(|e| e.to_string())
        }
        let json = |params: &[Param], args: Value| call(params, args);
        let name = Val::String("a".into());
        let one = || Val::Option(Some(Box::new(Val::U8(1))));
        for args in [json!(["a", 1]), json!({"the_name": "a", "n": 1}), json!({"n": 1, "the-name": "a"})] {
            assert_eq!(json(&two, args).unwrap(), [name.clone(), one()]);
        }
        assert_eq!(json(&two, json!({"the-name": "a"})).unwrap(), [name.clone(), Val::Option(None)]);
        assert_eq!(json(&two[..1], json!(["a"])).unwrap(), std::slice::from_ref(&name));
        assert_eq!(call(&two, ("a", Some(1))).unwrap(), [name, one()]);
        for args in [json!(null), json!([]), json!({})] {
            assert!(json(&none, args).unwrap().is_empty());
        }
        assert!(lower(&(), &none, &mut Handles::default(), 0).unwrap().0.is_empty());
        for (args, expected) in [
            (json!("a"), r#"expected the arguments as a list, or as an object of parameters, got "a""#),
            (json!(null), "expected the arguments as a list, or as an object of parameters, got null"),
            (json!(["a"]), "expected 2 arguments, got 1"),
            (json!(["a", 1, 2]), "expected 2 arguments, got more"),
            (json!({"n": 1}), r#"missing parameter "the_name" of type string"#),
            (json!({"m": 1}), r#"unknown parameter "m"; the parameters are: the_name, n"#),
            (json!({"the-name": 1}), r#"parameter "the_name": expected string, got 1"#),
        ] {
            assert_eq!(json(&two, args).unwrap_err(), expected);
        }
        assert_eq!(json(&none, json!([1])).unwrap_err(), "expected 0 arguments, got more");
        assert_eq!(json(&none, json!({"a": 1})).unwrap_err(), r#"unknown parameter "a"; there are none"#);
    }

    #[derive(Debug, Deserialize, PartialEq, serde::Serialize)]
    #[serde(rename_all = "kebab-case")]
    enum Shape {
        Nothing,
        Circle(f64),
        Pair(u8, u8),
        AtPoint { pos_x: f64, pos_y: f64 },
    }

    #[derive(Debug, Deserialize, PartialEq, serde::Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Colour {
        Red,
        DarkBlue,
    }

    #[derive(Debug, Deserialize, PartialEq, serde::Serialize)]
    #[serde(rename_all = "kebab-case")]
    struct Everything {
        big_id: u64,
        title: String,
        colour: Colour,
        rights: Vec<String>,
        shape: Shape,
        maybe: Option<u32>,
        twice: Option<Option<u32>>,
        items: Vec<(i64, char)>,
        blob: Vec<u8>,
        outcome: Result<u32, String>,
        bare: Result<(), ()>,
        ratio: f32,
        exact: f64,
    }

    const EVERYTHING: &str = r#"
        (type $c' (enum "red" "dark-blue")) (TYPE "c" (type $c (eq $c')))
        (type $fl' (flags "can-read" "write")) (TYPE "fl" (type $fl (eq $fl')))
        (type $p' (record (field "pos-x" f64) (field "pos-y" f64))) (TYPE "p" (type $p (eq $p')))
        (type $v' (variant (case "nothing") (case "circle" f64) (case "pair" (tuple u8 u8)) (case "at-point" $p)))
        (TYPE "v" (type $v (eq $v')))
        (type $r' (record (field "big-id" u64) (field "title" string) (field "colour" $c) (field "rights" $fl)
            (field "shape" $v) (field "maybe" (option u32)) (field "twice" (option (option u32)))
            (field "items" (list (tuple s64 char))) (field "blob" (list u8)) (field "outcome" (result u32 (error string)))
            (field "bare" (result)) (field "ratio" float32) (field "exact" float64)))
        (TYPE "r" (type $r (eq $r')))"#;

    fn everything(shape: Shape, twice: Option<Option<u32>>) -> Everything {
        Everything {
            big_id: u64::MAX,
            title: "tïtle".into(),
            colour: Colour::DarkBlue,
            rights: vec!["can_read".into()],
            shape,
            maybe: Some(3),
            twice,
            items: vec![(i64::MIN, 'é'), (i64::MAX, '\u{10ffff}')],
            blob: vec![0, 255, 3],
            outcome: Err("no".into()),
            bare: Ok(()),
            ratio: 0.1,
            exact: f64::INFINITY,
        }
    }

    /// Through a guest that hands back the pointer it was given: both record and result are passed in memory.
    #[test]
    fn a_rust_struct_of_every_kind_comes_back_through_a_component() {
        let engine = Engine::default();
        let wat = format!(
            r#"(component
            (core module $m
                (memory (export "m") 1) (global $next (mut i32) (i32.const 1024))
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
                    (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
                    (global.set $next (i32.add (local.get $at) (local.get 3))) (local.get $at))
                (func (export "echo") (param i32) (result i32) (local.get 0)))
            (core instance $i (instantiate $m))
            {}
            (func (export "f") (param "the-item" $r) (result $r)
                (canon lift (core func $i "echo") (memory (core memory $i "m")) (realloc (core func $i "realloc")))))"#,
            EVERYTHING.replace("TYPE", "import")
        );
        let component = Component::new(&engine, wat).unwrap();
        let mut linker = Linker::<()>::new(&engine);
        linker.define_unknown_imports_as_traps(&component).unwrap();
        let mut store = Store::new(&engine, ());
        let func = linker.instantiate(&mut store, &component).unwrap().get_func(&mut store, "f").unwrap();
        let ty = func.ty(&store);
        let params: Vec<Param> = ty.params().map(|(name, ty)| Param { name: name.into(), ty }).collect();
        let result = ty.results().next();

        let shapes = [
            Shape::Nothing,
            Shape::Circle(2.5),
            Shape::Pair(1, 2),
            Shape::AtPoint { pos_x: -0.5, pos_y: f64::MIN_POSITIVE },
        ];
        let twice = [None, Some(None), Some(Some(7)), Some(Some(8))];
        for (shape, twice) in shapes.into_iter().zip(twice) {
            let given = everything(shape, twice);
            let mut handles = Handles::default();
            let (vals, payload) = lower(&(&given,), &params, &mut handles, 1 << 20).unwrap();
            assert_eq!(payload, vals.iter().map(bytes).sum::<u64>());
            let mut results = [Val::Bool(false)];
            func.call(&mut store, &vals, &mut results).unwrap();
            let back: Everything = lift(Some(&results[0]), result.as_ref(), &mut handles).unwrap();
            assert_eq!(back, given);
            // The same by name and by way of JSON, which is how a caller without types does it.
            let json: Value = lift(Some(&results[0]), result.as_ref(), &mut handles).unwrap();
            let (again, _) = lower(&json!({ "the_item": json }), &params, &mut handles, 1 << 20).unwrap();
            assert_eq!(again, vals);
        }
    }

    /// Types that serde_derive treats in ways of their own.
    #[test]
    fn rust_types_of_all_sorts() {
        #[derive(Debug, Deserialize, PartialEq, serde::Serialize)]
        struct Wrapped(u8);
        #[derive(Debug, Deserialize, PartialEq, serde::Serialize)]
        struct Raw(#[serde(with = "raw")] Vec<u8>);
        mod raw {
            pub(super) fn serialize<S: serde::Serializer>(v: &[u8], s: S) -> Result<S::Ok, S::Error> {
                s.serialize_bytes(v)
            }
            pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
                struct Buf;
                impl serde::de::Visitor<'_> for Buf {
                    type Value = Vec<u8>;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("bytes")
                    }
                    fn visit_byte_buf<E>(self, v: Vec<u8>) -> Result<Vec<u8>, E> {
                        Ok(v)
                    }
                }
                d.deserialize_byte_buf(Buf)
            }
        }
        fn back<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(value: T, wat: &str) {
            let ty = shape(wat);
            let val = to_val(&value, &ty).unwrap_or_else(|e| panic!("{value:?}: {e}"));
            let back: T = from_val(&val, &ty).unwrap_or_else(|e| panic!("{value:?}: {e}"));
            assert_eq!(back, value);
        }
        back(Wrapped(3), "u8");
        back(Raw(vec![1, 2, 255]), "(list u8)");
        back(vec![1u8, 2, 255], "(list u8)");
        back(HashMap::from([("pos_x".to_string(), 1.5), ("pos_y".into(), 2.5)]), "$p");
        back(Some(Some(1u8)), "(option (option u8))");
        back(Some(None::<u8>), "(option (option u8))");
        back(None::<Option<u8>>, "(option (option u8))");
        back(Some(Some(None::<u8>)), "(option (option (option u8)))");
        back(5u8, "(option u8)");
        back(Some(5u8), "u8");
        back(HashMap::from([("circle".to_string(), 1.5)]), "$v");
        back(Colour::DarkBlue, "$c");
        back(Colour::DarkBlue, "string");
        back(vec![Shape::Nothing, Shape::Pair(1, 2)], "(list $v)");
        back(Ok::<Vec<u8>, ()>(vec![1]), "(result (list u8))");
        back(std::net::Ipv4Addr::LOCALHOST, "string");
        back(u64::MAX as u128, "u64");
        back(i64::MIN as i128, "s64");
        let nan: f64 = from_val(&to_val(f32::NAN, &ty("float32")).unwrap(), &ty("float32")).unwrap();
        assert!(nan.is_nan());
        assert!(to_val(u128::MAX, &ty("u64")).is_err());

        let () = lift(None, None, &mut Handles::default()).unwrap();
        assert_eq!(lift::<Value>(None, None, &mut Handles::default()).unwrap(), Value::Null);
        for (error, expected) in [
            (from_val::<u8>(&Val::U64(300), &ty("u64")).map(drop), "result: invalid value: integer `300`, expected u8"),
            (
                from_val::<(u8,)>(&Val::Tuple(vec![Val::U8(1); 2]), &ty("(tuple u8 u8)")).map(drop),
                "result: 1 elements more than were asked for",
            ),
            (
                from_val::<Vec<String>>(&Val::List(vec![Val::U16(1)]), &ty("(list u16)")).map(drop),
                "result[0]: invalid type: integer `1`, expected a string",
            ),
            (
                from_val::<Colour>(&Val::Enum("green".into()), &shape("$c")).map(drop),
                "result: unknown variant `green`, expected `red` or `dark_blue`",
            ),
            (
                lift::<u8>(None, None, &mut Handles::default()).map(drop),
                "result: invalid type: unit value, expected u8",
            ),
            (
                from_val::<Value>(&Val::Tuple(vec![]), &ty("(list u16)")).map(drop),
                "result: the value is not of its type list<u16>",
            ),
        ] {
            assert_eq!(error.unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn the_limit_holds_before_the_copy() {
        let text = ty("string");
        let params = [Param { name: "x".into(), ty: text }];
        let fits = |args: &Value, params: &[Param], max| lower(args, params, &mut Handles::default(), max);
        let ten = json!(["0123456789"]);
        assert_eq!(fits(&ten, &params, 10).unwrap().1, 10);
        for max in 0..10 {
            assert!(matches!(fits(&ten, &params, max), Err(Mismatch::TooLarge { max_bytes }) if max_bytes == max));
        }
        // Elements without a payload count nevertheless, and so do the names that a guest may make long.
        let empties = [Param { name: "x".into(), ty: ty("(list (list string))") }];
        assert!(matches!(fits(&json!([vec![json!([]); 100]]), &empties, 99), Err(Mismatch::TooLarge { .. })));
        assert_eq!(fits(&json!([vec![json!([]); 100]]), &empties, 100).unwrap().1, 100);
        let name = "n".repeat(10_000);
        let defs = format!(r#"(type $p' (record (field "{name}" u8))) (import "p" (type $p (eq $p')))"#);
        let long = [Param { name: "x".into(), ty: ty_with(&defs, "(list $p)") }];
        let args = json!([vec![json!({ name: 1 }); 100]]);
        assert!(matches!(fits(&args, &long, 1000), Err(Mismatch::TooLarge { .. })));
        assert!(fits(&args, &long, 100_000).is_ok());

        // A foreign implementation that swallows the error does not get around it.
        struct Sly;
        impl Serialize for Sly {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str("0123456789").map_err(|_| ser::Error::custom("never mind"))
            }
        }
        assert!(matches!(lower(&(Sly,), &params, &mut Handles::default(), 5), Err(Mismatch::TooLarge { .. })));
    }

    #[test]
    fn handles_are_used_up_by_own_and_not_by_borrow() {
        let engine = Engine::default();
        let wat = r#"(component
            (type $r' (resource (rep i32)))
            (core func $new (canon resource.new $r'))
            (export $r "r" (type $r'))
            (core module $m (import "" "new" (func $new (param i32) (result i32)))
                (func (export "make") (result i32) (call $new (i32.const 7)))
                (func (export "look") (param i32)) (func (export "take") (param i32))
                (func (export "both") (param i32 i32)))
            (core instance $i (instantiate $m (with "" (instance (export "new" (func $new))))))
            (func (export "make") (result (own $r)) (canon lift (core func $i "make")))
            (func (export "look") (param "x" (borrow $r)) (canon lift (core func $i "look")))
            (func (export "both") (param "x" (own $r)) (param "y" (own $r)) (canon lift (core func $i "both"))))"#;
        let component = Component::new(&engine, wat).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Linker::<()>::new(&engine).instantiate(&mut store, &component).unwrap();
        // Types of the component itself, as they are known after the load.
        let exported = |name: &str| {
            let ty = component.component_type();
            let item = ty.exports(&engine).find(|(found, _)| *found == name).unwrap().1;
            let ComponentItem::ComponentFunc(f) = item.ty else { panic!() };
            let params: Vec<Param> = f.params().map(|(name, ty)| Param { name: name.into(), ty }).collect();
            (params, f.results().next())
        };
        let mut results = [Val::Bool(false)];
        instance.get_func(&mut store, "make").unwrap().call(&mut store, &[], &mut results).unwrap();
        let (made, (look, _), (both, _)) = (exported("make").1.unwrap(), exported("look"), exported("both"));
        let mut handles = Handles::default();
        let val = &results[0];

        let handle: Handle = lift(Some(val), Some(&made), &mut handles).unwrap();
        let (vals, payload) = lower(&(handle,), &look, &mut handles, 100).unwrap();
        assert_eq!((payload, &vals[0]), (4, val));
        instance.get_func(&mut store, "look").unwrap().call(&mut store, &vals, &mut []).unwrap();
        // No JSON form, in either direction, whoever asks.
        let error = lift::<Value>(Some(val), Some(&made), &mut handles).unwrap_err().to_string();
        assert_eq!(error, "result: a handle has no JSON form: take it as an isopod::Handle");
        assert!(serde_json::to_value(handle).unwrap_err().to_string().contains("no JSON form"));
        assert!(serde_json::from_value::<Handle>(json!(0)).unwrap_err().to_string().contains("no JSON form"));
        for (args, expected) in [
            (json!([0]), r#"parameter "x": expected an isopod::Handle of this session, got 0"#),
            (json!([{}]), r#"parameter "x": expected an isopod::Handle of this session, got an object"#),
        ] {
            assert_eq!(lower(&args, &look, &mut handles, 100).unwrap_err().to_string(), expected);
        }
        let error = to_val(handle, &ty("string")).map(drop).unwrap_err().to_string();
        assert_eq!(error, format!(r#"parameter "x": {NO_JSON}"#));
        // A failed preparation uses nothing up; a successful one does; numbers do not come back.
        let error = lower(&(handle, handle), &both, &mut handles, 100).unwrap_err().to_string();
        assert_eq!(error, r#"parameter "y": a handle that is given away cannot be used twice in one call"#);
        let other: Handle = lift(Some(val), Some(&made), &mut handles).unwrap();
        assert_eq!(lower(&(handle, other), &both, &mut handles, 100).unwrap().0.len(), 2);
        let error = lower(&(handle,), &look, &mut handles, 100).unwrap_err().to_string();
        assert_eq!(error, r#"parameter "x": unknown handle: it was used up, or belongs to another session"#);
        let third: Handle = lift(Some(val), Some(&made), &mut handles).unwrap();
        assert!(third != handle && third != other);
        assert!(handles.remove(third).is_some() && handles.remove(third).is_none());
    }
}
