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

mod compound;
mod handle;
mod lift;
mod lower;
mod mismatch;
#[cfg(test)]
pub(super) mod tests;

pub use handle::Handle;
pub(crate) use handle::Handles;
pub(crate) use lift::{Leaf, Piece, lift, lift_args};
pub(crate) use lower::{Lowered, lower, lower_result};
pub(crate) use mismatch::Mismatch;

use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use wasmtime::component::Val;
use wasmtime::component::types::Type;

/// A parameter of an exported function, under its WIT name.
#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub(crate) name: String,
    pub(crate) ty: Type,
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

/// Values within a value; a list of bytes counts as one.
pub(crate) fn count(val: &Val) -> usize {
    let boxed = |val: &Option<Box<Val>>| 1 + val.as_deref().map_or(0, count);
    match val {
        Val::List(vals) if matches!(vals.first(), Some(Val::U8(_))) => 1,
        Val::List(vals) | Val::Tuple(vals) => 1 + vals.iter().map(count).sum::<usize>(),
        Val::Record(fields) => 1 + fields.iter().map(|(_, val)| count(val)).sum::<usize>(),
        Val::Variant(_, val) | Val::Option(val) => boxed(val),
        Val::Result(Ok(val) | Err(val)) => boxed(val),
        _ => 1,
    }
}

/// Payload of "which case", and of flags and handles, whatever the canonical ABI packs them into.
const DISCRIMINANT: u64 = 1;
const WORD: u64 = 4;

/// Written with padding, read with or without it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A WIT name as we write it.
pub(super) fn snake(name: &str) -> String {
    name.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

/// Whether `given` means the WIT name `wit`.
fn same_name(wit: &str, given: &str) -> bool {
    let fold = |b: u8| if b == b'-' { b'_' } else { b.to_ascii_lowercase() };
    wit.len() == given.len() && wit.bytes().zip(given.bytes()).all(|(a, b)| fold(a) == fold(b))
}

/// The `T` of an `option<T>` that is written as null or `T`, as all are except options of an option.
fn nullable(ty: &Type) -> Option<Type> {
    let Type::Option(option) = ty else { return None };
    Some(option.ty()).filter(|inner| !matches!(inner, Type::Option(_)))
}

pub(super) fn is_octets(ty: &Type) -> bool {
    matches!(ty, Type::List(list) if matches!(list.ty(), Type::U8))
}
