//! Out: [`Val`] to serde, a deserializer that gives the JSON form unless the Rust type asks for another.

use super::handle::HANDLE;
use super::mismatch::Result;
use super::{BASE64, DISCRIMINANT, Handles, Mismatch, Param, bytes, is_octets, nullable, same_name, snake};
use crate::engine::schema;
use base64::Engine as _;
use serde::de::value::{SeqDeserializer, StrDeserializer, U64Deserializer};
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, Visitor};
use std::borrow::Cow;
use std::iter::once;
use wasmtime::component::Val;
use wasmtime::component::types::Type;

/// Turns a function's result into a Rust value; a function without a result gives unit.
///
/// If the value does not fit `T`, nobody can name its handles; their resources end with the session's instance.
pub(crate) fn lift<T: DeserializeOwned>(
    result: Option<Piece<'_>>,
    ty: Option<&Type>,
    handles: &mut Handles,
) -> Result<T> {
    let (val, ty) = match (result, ty) {
        (Some(val), Some(ty)) => (val, ty.clone()),
        (None, None) => NULL,
        _ => return Err(Mismatch::new("the function's result and its type do not belong together")),
    };
    T::deserialize(Lift { val, ty, handles }).map_err(|mismatch| mismatch.at("result"))
}

/// A value as a call gave it.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    Val(&'a Val),
    Leaf(Leaf),
    /// What an option has.
    Some(Leaf),
    /// What a case of a result has.
    Case(Result<Leaf, Leaf>),
}

impl Piece<'_> {
    pub(crate) const NONE: Piece<'static> = Piece::Val(&Val::Option(None));
    pub(crate) const OK: Piece<'static> = Piece::Val(&Val::Result(Ok(None)));
    pub(crate) const ERR: Piece<'static> = Piece::Val(&Val::Result(Err(None)));

    /// Takes text out of a value, as it would be copied otherwise.
    pub(crate) fn take(val: &mut Val) -> Piece<'_> {
        match val {
            Val::String(text) => Piece::Leaf(Leaf::Text(std::mem::take(text))),
            val => Piece::Val(val),
        }
    }

    /// What is within an option.
    fn inner(self) -> Self {
        match self {
            Piece::Val(Val::Option(Some(val))) => Piece::Val(val),
            Piece::Some(leaf) => Piece::Leaf(leaf),
            other => other,
        }
    }

    /// As [`bytes`] counts them.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Piece::Val(val) => bytes(val),
            Piece::Leaf(leaf) => leaf.len(),
            Piece::Some(leaf) | Piece::Case(Ok(leaf) | Err(leaf)) => DISCRIMINANT + leaf.len(),
        }
    }
}

/// What a direct call gives in one piece, and serde may take without a copy.
#[derive(Debug)]
pub(crate) enum Leaf {
    Octets(Vec<u8>),
    Text(String),
}

impl Leaf {
    fn len(&self) -> u64 {
        match self {
            Leaf::Octets(octets) => octets.len() as u64,
            Leaf::Text(text) => text.len() as u64,
        }
    }
}

/// Turns the arguments of a host function into a Rust value: a tuple by position, a struct or a map by name.
pub(crate) fn lift_args<T: DeserializeOwned>(args: &[Val], params: &[Param]) -> Result<T> {
    T::deserialize(Args { args, params, handles: &mut Handles::default() })
}

/// The deserializer of arguments, which are no value of their own.
struct Args<'a> {
    args: &'a [Val],
    params: &'a [Param],
    handles: &'a mut Handles,
}

impl<'de> Deserializer<'de> for Args<'_> {
    type Error = Mismatch;

    /// By name, as in JSON.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_struct("", &[], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, names: Names, visitor: V) -> Result<V::Value> {
        let entries = self.args.iter().zip(self.params).enumerate();
        let entries =
            entries.map(|(at, (val, param))| (asked(&param.name, names, at), (Piece::Val(val), param.ty.clone())));
        Entries::visit(entries, self.handles, visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let items = self.args.iter().zip(self.params).map(|(val, param)| (Piece::Val(val), param.ty.clone()));
        Items::visit(items, self.handles, visitor)
    }
    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }
    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, _: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.args.is_empty() { visitor.visit_unit() } else { self.deserialize_any(visitor) }
    }
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit_struct map enum
        identifier
    }
}

/// A value and its type.
type Typed<'a> = (Piece<'a>, Type);

/// What a missing result or payload reads like; null is null whatever its type.
const NULL: Typed<'static> = (Piece::NONE, Type::Bool);

/// How a Rust type spells its fields or cases.
type Names = &'static [&'static str];

/// The deserializer. The type comes along because a `Val` does not say of what it is a list, or an option.
struct Lift<'a> {
    val: Piece<'a>,
    ty: Type,
    handles: &'a mut Handles,
}

impl<'a> Lift<'a> {
    /// `Some(x)` reads like `x` to whoever did not ask for an option.
    fn peeled(mut self) -> Lift<'a> {
        if matches!(self.val, Piece::Val(Val::Option(Some(_))) | Piece::Some(_))
            && let Some(inner) = nullable(&self.ty)
        {
            self.val = self.val.inner();
            self.ty = inner;
        }
        self
    }

    /// The value in one piece, if it is nothing but bytes.
    fn octets(self) -> Result<Vec<u8>, Lift<'a>> {
        let octet = |val: &Val| if let Val::U8(octet) = val { Some(*octet) } else { None };
        match self.val {
            Piece::Leaf(Leaf::Octets(octets)) => Ok(octets),
            Piece::Val(Val::List(vals)) if is_octets(&self.ty) => {
                vals.iter().map(octet).collect::<Option<_>>().ok_or(self)
            }
            _ => Err(self),
        }
    }

    /// The case of a variant or a result in our spelling, and its payload.
    fn case(self) -> Result<Case<'a>, Lift<'a>> {
        let (name, payload) = match (self.val, &self.ty) {
            (Piece::Val(Val::Variant(name, payload)), Type::Variant(variant))
                if let Some(case) = variant.cases().find(|case| case.name == name) =>
            {
                (Cow::Owned(snake(name)), payload.as_deref().map(Piece::Val).zip(case.ty))
            }
            (Piece::Val(Val::Result(payload)), Type::Result(result)) => match payload {
                Ok(payload) => (Cow::Borrowed("Ok"), payload.as_deref().map(Piece::Val).zip(result.ok())),
                Err(payload) => (Cow::Borrowed("Err"), payload.as_deref().map(Piece::Val).zip(result.err())),
            },
            (Piece::Case(case), Type::Result(result)) => match case {
                Ok(leaf) => (Cow::Borrowed("Ok"), Some(Piece::Leaf(leaf)).zip(result.ok())),
                Err(leaf) => (Cow::Borrowed("Err"), Some(Piece::Leaf(leaf)).zip(result.err())),
            },
            (val, _) => return Err(Lift { val, ..self }),
        };
        Ok(Case { name, payload, handles: self.handles })
    }

    /// The JSON form of a case.
    fn deserialize_case<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let bare = matches!(self.ty, Type::Variant(_));
        match self.case() {
            Ok(Case { name, payload: None, .. }) if bare => visitor.visit_str(&name),
            Ok(Case { name, payload, handles }) => {
                Entries::visit(once((name, payload.unwrap_or(NULL))), handles, visitor)
            }
            Err(this) => Err(broken(&this.ty)),
        }
    }
}

/// A value that is not of its type. wasmtime does not hand out such.
fn broken(ty: &Type) -> Mismatch {
    Mismatch::new(format_args!("the value is not of its type {}", schema::wit(ty)))
}

fn no_handle(ty: &Type) -> Mismatch {
    Mismatch::new(format_args!("{} is no handle", schema::wit(ty)))
}

fn not_finite(v: f64) -> &'static str {
    match v {
        v if v.is_nan() => "NaN",
        v if v > 0.0 => "Infinity",
        _ => "-Infinity",
    }
}

impl<'de> Deserializer<'de> for Lift<'_> {
    type Error = Mismatch;

    /// The JSON form.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let this = match self.peeled().octets() {
            Ok(octets) => return visitor.visit_string(BASE64.encode(octets)),
            Err(this) => this,
        };
        let val = match this.val {
            Piece::Val(val) => val,
            Piece::Leaf(Leaf::Text(text)) => return visitor.visit_string(text),
            Piece::Leaf(Leaf::Octets(_)) | Piece::Some(_) => return Err(broken(&this.ty)),
            Piece::Case(_) => return this.deserialize_case(visitor),
        };
        match (val, &this.ty) {
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
            (Val::List(_) | Val::Tuple(_), _) => this.deserialize_seq(visitor),
            (Val::Record(_), _) => this.deserialize_struct("", &[], visitor),
            (Val::Option(None), _) => visitor.visit_unit(),
            (Val::Option(Some(val)), Type::Option(option)) => {
                let some = (Cow::Borrowed("some"), (Piece::Val(val), option.ty()));
                Entries::visit(once(some), this.handles, visitor)
            }
            (Val::Variant(..) | Val::Result(_), _) => this.deserialize_case(visitor),
            (Val::Resource(_), _) => Err(Mismatch::new("a handle has no JSON form: take it as an isopod::Handle")),
            (_, ty) => Err(broken(ty)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match (&self.val, &self.ty) {
            (Piece::Val(Val::Option(None)), _) => visitor.visit_none(),
            (Piece::Val(Val::Option(Some(_))) | Piece::Some(_), Type::Option(option)) => {
                let ty = option.ty();
                visitor.visit_some(Lift { val: self.val.inner(), ty, handles: self.handles })
            }
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value> {
        if name != HANDLE {
            return visitor.visit_newtype_struct(self);
        }
        let this = self.peeled();
        match (&this.val, &this.ty) {
            (Piece::Val(Val::Resource(resource)), Type::Own(ty) | Type::Borrow(ty)) => {
                let number = this.handles.insert(*resource, *ty);
                visitor.visit_newtype_struct(U64Deserializer::new(number))
            }
            (_, ty) => Err(no_handle(ty)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, names: Names, visitor: V) -> Result<V::Value> {
        let this = self.peeled();
        match &this.val {
            Piece::Val(Val::Enum(name)) => {
                visitor.visit_enum(Case { name: asked(name, names, 0), payload: None, handles: this.handles })
            }
            Piece::Val(Val::String(text)) | Piece::Leaf(Leaf::Text(text)) => {
                visitor.visit_enum(StrDeserializer::new(text))
            }
            _ => match this.case() {
                Ok(case) => visitor.visit_enum(Case { name: asked(&case.name, names, 0), ..case }),
                Err(this) => this.deserialize_any(visitor),
            },
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, names: Names, visitor: V) -> Result<V::Value> {
        let this = self.peeled();
        match (&this.val, &this.ty) {
            (Piece::Val(Val::Record(vals)), Type::Record(record)) => {
                let fields = vals.iter().zip(record.fields()).enumerate();
                let fields =
                    fields.map(|(i, ((name, val), field))| (asked(name, names, i), (Piece::Val(val), field.ty)));
                Entries::visit(fields, this.handles, visitor)
            }
            (Piece::Val(Val::Record(_)), ty) => Err(broken(ty)),
            _ => this.deserialize_any(visitor),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let this = match self.peeled().octets() {
            Ok(octets) => return Items::visit(octets.into_iter(), &mut Handles::default(), visitor),
            Err(this) => this,
        };
        match (&this.val, &this.ty) {
            (Piece::Val(Val::List(vals)), Type::List(list)) => {
                let item = list.ty();
                Items::visit(vals.iter().map(|val| (Piece::Val(val), item.clone())), this.handles, visitor)
            }
            (Piece::Val(Val::Tuple(vals)), Type::Tuple(tuple)) => {
                Items::visit(vals.iter().map(Piece::Val).zip(tuple.types()), this.handles, visitor)
            }
            (Piece::Val(Val::List(_) | Val::Tuple(_)), ty) => Err(broken(ty)),
            _ => this.deserialize_any(visitor),
        }
    }
    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }
    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, _: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.peeled().octets() {
            Ok(octets) => visitor.visit_byte_buf(octets),
            Err(this) => this.deserialize_any(visitor),
        }
    }
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_byte_buf(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let this = self.peeled();
        match this.val {
            Piece::Val(Val::Float32(v)) => visitor.visit_f32(*v),
            Piece::Val(Val::Float64(v)) => visitor.visit_f64(*v),
            _ => this.deserialize_any(visitor),
        }
    }
    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 char str string unit unit_struct map identifier
    }

    /// See `Handle`.
    fn is_human_readable(&self) -> bool {
        let Piece::Val(val) = self.val else { return true };
        let val = if let Val::Option(Some(val)) = val { val } else { val };
        !matches!(val, Val::Resource(_))
    }
}

/// An octet of a list that is in one piece. It reads like a `u8` anywhere else.
struct Octet(u8);

impl<'de> Deserializer<'de> for Octet {
    type Error = Mismatch;
    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_u8(self.0)
    }
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_some(self)
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value> {
        if name == HANDLE { Err(no_handle(&Type::U8)) } else { visitor.visit_newtype_struct(self) }
    }
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }
    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct enum identifier
    }
}

/// An element of a list or a tuple.
trait Item {
    fn read<'de, T: DeserializeSeed<'de>>(self, seed: T, handles: &mut Handles) -> Result<T::Value>;
}

impl Item for Typed<'_> {
    fn read<'de, T: DeserializeSeed<'de>>(self, seed: T, handles: &mut Handles) -> Result<T::Value> {
        let (val, ty) = self;
        seed.deserialize(Lift { val, ty, handles })
    }
}

impl Item for u8 {
    #[inline]
    fn read<'de, T: DeserializeSeed<'de>>(self, seed: T, _: &mut Handles) -> Result<T::Value> {
        seed.deserialize(Octet(self))
    }
}

/// The elements of a list or a tuple.
struct Items<'a, I> {
    items: I,
    index: usize,
    handles: &'a mut Handles,
}

impl<'a, I: ExactSizeIterator<Item: Item>> Items<'a, I> {
    fn visit<'de, V: Visitor<'de>>(items: I, handles: &'a mut Handles, visitor: V) -> Result<V::Value> {
        let mut items = Items { items, index: 0, handles };
        let value = visitor.visit_seq(&mut items)?;
        match items.items.len() {
            0 => Ok(value),
            more => Err(Mismatch::new(format_args!("{more} elements more than were asked for"))),
        }
    }
}

impl<'de, I: ExactSizeIterator<Item: Item>> de::SeqAccess<'de> for Items<'_, I> {
    type Error = Mismatch;
    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        item.read(seed, self.handles).map(Some).map_err(|e| e.at_index(index))
    }
    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

/// The entries of an object.
struct Entries<'a, I> {
    entries: I,
    /// The entry whose key was read.
    open: Option<(Cow<'a, str>, Typed<'a>)>,
    handles: &'a mut Handles,
}

impl<'a, I: ExactSizeIterator<Item = (Cow<'a, str>, Typed<'a>)>> Entries<'a, I> {
    fn visit<'de, V: Visitor<'de>>(entries: I, handles: &'a mut Handles, visitor: V) -> Result<V::Value> {
        let mut entries = Entries { entries, open: None, handles };
        let value = visitor.visit_map(&mut entries)?;
        match entries.entries.len() {
            0 => Ok(value),
            more => Err(Mismatch::new(format_args!("{more} entries more than were asked for"))),
        }
    }
}

impl<'de, 'a, I: ExactSizeIterator<Item = (Cow<'a, str>, Typed<'a>)>> de::MapAccess<'de> for Entries<'a, I> {
    type Error = Mismatch;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        self.open = self.entries.next();
        let Some((name, _)) = &self.open else { return Ok(None) };
        seed.deserialize(StrDeserializer::new(name)).map(Some)
    }
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value> {
        let Some((name, (val, ty))) = self.open.take() else {
            return Err(Mismatch::new("a value was asked for before its key"));
        };
        seed.deserialize(Lift { val, ty, handles: self.handles }).map_err(|e| e.at_name(&name))
    }
}

/// The case of an enum, a variant or a result.
struct Case<'a> {
    name: Cow<'a, str>,
    payload: Option<Typed<'a>>,
    handles: &'a mut Handles,
}

impl<'a> Case<'a> {
    /// Reads the payload, or null where there is none.
    fn read<T>(self, read: impl FnOnce(Lift<'a>) -> Result<T>) -> Result<T> {
        let (val, ty) = self.payload.unwrap_or(NULL);
        read(Lift { val, ty, handles: self.handles }).map_err(|e| e.at_name(&self.name))
    }
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
        let Some((_, ty)) = self.payload else { return Ok(()) };
        let text = format!("the case has a payload of type {}, none was asked for", schema::wit(&ty));
        Err(Mismatch::new(text).at_name(&self.name))
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value> {
        self.read(|payload| seed.deserialize(payload))
    }
    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        self.read(|payload| payload.deserialize_seq(visitor))
    }
    fn struct_variant<V: Visitor<'de>>(self, names: Names, visitor: V) -> Result<V::Value> {
        self.read(|payload| payload.deserialize_struct("", names, visitor))
    }
}

/// The spelling a Rust type asks for, or else ours. `guess` is where it is likely to stand.
fn asked(wit: &str, names: Names, guess: usize) -> Cow<'static, str> {
    match names.get(guess).into_iter().chain(names).find(|name| same_name(wit, name)) {
        Some(name) => Cow::Borrowed(name),
        None => Cow::Owned(snake(wit)),
    }
}
