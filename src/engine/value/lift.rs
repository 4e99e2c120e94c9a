//! Out: [`Val`] to serde, a deserializer that gives the JSON form unless the Rust type asks for another.

use super::handle::HANDLE;
use super::mismatch::Result;
use super::{BASE64, Handles, Mismatch, is_octets, same_name, snake};
use crate::engine::schema;
use base64::Engine as _;
use serde::de::value::{SeqDeserializer, StrDeserializer, U32Deserializer, UnitDeserializer};
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, Visitor};
use std::borrow::Cow;
use wasmtime::component::Val;
use wasmtime::component::types::Type;

/// Turns a function's result into a Rust value; a function without a result gives unit.
///
/// If the value does not fit `T`, nobody can name its handles; their resources end with the session's instance.
pub(crate) fn lift<T: DeserializeOwned>(result: Option<&Val>, ty: Option<&Type>, handles: &mut Handles) -> Result<T> {
    let (val, ty) = match (result, ty) {
        (Some(val), Some(ty)) => (val, ty),
        (None, None) => return T::deserialize(UnitDeserializer::new()).map_err(|e: Mismatch| e.at("result")),
        _ => return Err(Mismatch::new("the function's result and its type do not belong together")),
    };
    let mark = handles.mark();
    let lifted = T::deserialize(Lift { val, ty: Cow::Borrowed(ty), handles });
    lifted.map_err(|mismatch| {
        handles.forget_since(mark);
        mismatch.at("result")
    })
}

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

    fn items<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
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
    fn fields<'de, V: Visitor<'de>>(self, names: &'static [&'static str], visitor: V) -> Result<V::Value> {
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
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            self.deserialize_any(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Lift<'_> {
    type Error = Mismatch;

    /// The JSON form.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
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

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match (self.val, &*self.ty) {
            (Val::Option(None), _) => visitor.visit_none(),
            (Val::Option(Some(val)), Type::Option(option)) => {
                visitor.visit_some(Lift { val, ty: Cow::Owned(option.ty()), handles: self.handles })
            }
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value> {
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
    ) -> Result<V::Value> {
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
    ) -> Result<V::Value> {
        let this = self.peeled();
        if let Val::Record(_) = this.val { this.fields(fields, visitor) } else { this.deserialize_any(visitor) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let this = self.peeled();
        match this.val {
            Val::List(_) | Val::Tuple(_) => this.items(visitor),
            _ => this.deserialize_any(visitor),
        }
    }
    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let this = self.peeled();
        match this.octets() {
            Some(octets) => visitor.visit_byte_buf(octets),
            None => this.deserialize_any(visitor),
        }
    }
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_byte_buf(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let this = self.peeled();
        match this.val {
            Val::Float32(v) => visitor.visit_f32(*v),
            Val::Float64(v) => visitor.visit_f64(*v),
            _ => this.deserialize_any(visitor),
        }
    }
    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value> {
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
    fn visit<'de, V: Visitor<'de>>(items: I, handles: &'a mut Handles, visitor: V) -> Result<V::Value> {
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
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
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
    fn visit<'de, V: Visitor<'de>>(entries: I, handles: &'a mut Handles, visitor: V) -> Result<V::Value> {
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
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        let Some((name, payload)) = self.entries.next() else { return Ok(None) };
        let read = seed.deserialize(StrDeserializer::new(&name));
        self.value = Some((name, payload));
        read.map(Some)
    }
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value> {
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
) -> Result<T::Value> {
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
    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Case<'a>)> {
        Ok((seed.deserialize(StrDeserializer::new(&self.name))?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Case<'_> {
    type Error = Mismatch;
    fn unit_variant(self) -> Result<()> {
        match self.payload {
            None => Ok(()),
            Some((_, ty)) => {
                let text =
                    format_args!("the case has a payload of type {}, none was asked for", schema::wit(&ty)).to_string();
                Err(Mismatch::new(text).at_name(&self.name))
            }
        }
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value> {
        payload_into(self.payload, self.handles, seed).map_err(|e| e.at_name(&self.name))
    }
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value> {
        match self.payload {
            Some((val, ty)) => Lift { val, ty, handles: self.handles }.deserialize_tuple(len, visitor),
            None => visitor.visit_unit(),
        }
        .map_err(|e: Mismatch| e.at_name(&self.name))
    }
    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value> {
        match self.payload {
            Some((val, ty)) => Lift { val, ty, handles: self.handles }.deserialize_struct("", fields, visitor),
            None => visitor.visit_unit(),
        }
        .map_err(|e: Mismatch| e.at_name(&self.name))
    }
}

/// The spelling a Rust type asks for, or else ours. `guess` is where it is likely to stand.
fn asked<'a>(wit: &'a str, names: &'static [&'static str], guess: usize) -> Cow<'a, str> {
    match names.get(guess).into_iter().chain(names).find(|name| same_name(wit, name)) {
        Some(name) => Cow::Borrowed(name),
        None => Cow::Owned(snake(wit)),
    }
}
