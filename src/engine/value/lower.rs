//! In: serde to [`Val`], a serializer that is led by the type it is to reach.
//!
//! Bytes are kept in one piece, as [`Lowered`] has them, until something makes a `Val` for each of them necessary.

use super::compound::{Around, Compound, case_name, choose, variant};
use super::handle::{HANDLE, Use};
use super::mismatch::{Result, quoted};
use super::{BASE64, Handles, Mismatch, Param, bytes, is_octets, nullable, same_name};
use crate::engine::schema;
use crate::limits::KIB;
use base64::Engine as _;
use serde::ser::{Impossible, Serialize, Serializer};
use std::fmt::{self, Display};
use wasmtime::component::Val;
use wasmtime::component::types::Type;

/// Turns arguments into the values of `params`, and counts their payload as [`bytes()`] does.
///
/// Handles given to `own` parameters leave the table only if everything fits.
pub(crate) fn lower<A: Serialize + ?Sized>(
    args: &A,
    params: &[Param],
    handles: &mut Handles,
    max_bytes: u64,
) -> Result<(Vec<Lowered>, u64)> {
    let max_names = max_bytes.saturating_mul(NAMES_PER_BYTE);
    let mut cx = Cx { handles, max_bytes, max_names, spent: 0, names: 0, compared: 0 };
    let lowered = args.serialize(Lower::new(Want::Args(params), &mut cx));
    // A foreign `Serialize` may have swallowed this error, or wrapped it into another.
    let lowered = cx.within_limits().and(lowered);
    let spent = cx.spent;
    handles.settle(lowered.is_ok());
    match lowered? {
        Lowered::Args(args) => Ok((args, spent)),
        _ => Err(Mismatch::new("the arguments did not form a list")),
    }
}

/// Turns what a host function gave into its result. A function without a result gives unit. Its payload has at most
/// `max_bytes`, and so have the names that the guest's type makes of it.
pub(crate) fn lower_result<R: Serialize + ?Sized>(value: &R, ty: Option<&Type>, max_bytes: u64) -> Result<Option<Val>> {
    let mut handles = Handles::default();
    let max_names = max_bytes;
    let mut cx = Cx { handles: &mut handles, max_bytes, max_names, spent: 0, names: 0, compared: 0 };
    let lowered = match ty {
        Some(ty) => cx.value(value, ty).map(|lowered| Some(lowered.val())),
        None => value.serialize(Lower::new(Want::Args(&[]), &mut cx)).map(|_| None),
    };
    cx.within_limits().and(lowered)
}

/// A value, with its bytes in one piece where it is nothing but bytes.
#[derive(Debug)]
pub(crate) enum Lowered {
    Val(Val),
    /// A `list<u8>`.
    Octets(Vec<u8>),
    /// All arguments of a function.
    Args(Vec<Lowered>),
}

impl Lowered {
    /// As wasmtime has it.
    pub(crate) fn val(self) -> Val {
        match self {
            Lowered::Val(val) => val,
            Lowered::Octets(octets) => Val::List(octets.into_iter().map(Val::U8).collect()),
            Lowered::Args(args) => Val::Tuple(args.into_iter().map(Lowered::val).collect()),
        }
    }
}

/// The names of fields and cases are copied into every `Val` and chosen by the guest, so they need a bound of their
/// own: this many times the payload's. A name of 64 bytes on a payload of one byte is already unusual.
const NAMES_PER_BYTE: u64 = 64;
/// The same for the names that are looked at in vain to find one, of which a guest may have thousands that look alike.
/// Few arguments have names as well, so some are free.
const COMPARED_PER_BYTE: u64 = 8;
const COMPARED_FREELY: u64 = 512 * KIB;

/// What all parts of one `lower` share.
pub(super) struct Cx<'h> {
    handles: &'h mut Handles,
    max_bytes: u64,
    max_names: u64,
    /// Payload so far.
    pub(super) spent: u64,
    /// Bytes of names so far.
    names: u64,
    /// Bytes of names that were looked at in vain so far.
    compared: u64,
}

impl<'h> Cx<'h> {
    /// Pays for payload, before it is copied.
    #[inline]
    pub(super) fn spend(&mut self, bytes: u64) -> Result<()> {
        self.spent = self.spent.saturating_add(bytes);
        if self.spent <= self.max_bytes { Ok(()) } else { Err(Mismatch::TooLarge) }
    }

    /// How many bytes of payload may still be spent.
    pub(super) fn room(&self) -> u64 {
        self.max_bytes.saturating_sub(self.spent)
    }

    /// Copies a name out of the component's types.
    pub(super) fn name(&mut self, name: &str) -> Result<String> {
        self.names = self.names.saturating_add(name.len() as u64);
        self.within_limits()?;
        Ok(name.to_owned())
    }

    /// Where among `names` the one is that `given` means.
    pub(super) fn find<'n>(&mut self, names: impl IntoIterator<Item = &'n str>, given: &str) -> Result<Option<usize>> {
        for (at, name) in names.into_iter().enumerate() {
            if name.len() == given.len() {
                if same_name(name, given) {
                    return Ok(Some(at));
                }
                self.compared = self.compared.saturating_add(name.len() as u64);
                self.within_limits()?;
            }
        }
        Ok(None)
    }

    #[inline]
    fn within_limits(&self) -> Result<()> {
        let fits = self.spent <= self.max_bytes
            && self.names <= self.max_names
            && self.compared <= self.max_bytes.saturating_mul(COMPARED_PER_BYTE).saturating_add(COMPARED_FREELY);
        if fits { Ok(()) } else { Err(Mismatch::TooLarge) }
    }

    #[inline]
    pub(super) fn value<T: Serialize + ?Sized>(&mut self, value: &T, ty: &Type) -> Result<Lowered> {
        value.serialize(Lower::new(Want::One(ty), self))
    }

    /// A name that stands in the arguments.
    pub(super) fn key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<String> {
        // It is looked at and not handed on, so it is no payload. Alone, it may be as large as all payload.
        let before = std::mem::take(&mut self.spent);
        let key = self.value(key, &Type::String);
        self.within_limits()?;
        self.spent = before;
        match key? {
            Lowered::Val(Val::String(key)) => Ok(key),
            _ => Err(Mismatch::new("expected a name")),
        }
    }

    /// The number of a handle, which is no payload however little of it is left.
    fn number<T: Serialize + ?Sized>(&mut self, number: &T) -> Result<u64> {
        let (spent, max_bytes) = (self.spent, std::mem::replace(&mut self.max_bytes, u64::MAX));
        let val = self.value(number, &Type::U64);
        (self.spent, self.max_bytes) = (spent, max_bytes);
        match val? {
            Lowered::Val(Val::U64(number)) => Ok(number),
            _ => Err(Mismatch::new("expected the number of a handle")),
        }
    }

    fn scalar(&mut self, ty: &Type, found: Found<'_>) -> Result<Lowered> {
        let val = match (ty, found) {
            (Type::Bool, Found::Bool(v)) => Some(Val::Bool(v)),
            (Type::S8, _) => found.int().map(Val::S8),
            (Type::U8, _) => found.int().map(Val::U8),
            (Type::S16, _) => found.int().map(Val::S16),
            (Type::U16, _) => found.int().map(Val::U16),
            (Type::S32, _) => found.int().map(Val::S32),
            (Type::U32, _) => found.int().map(Val::U32),
            (Type::S64, _) => found.int().map(Val::S64),
            (Type::U64, _) => found.int().map(Val::U64),
            (Type::Float32, _) => found.f32().map(Val::Float32),
            (Type::Float64, _) => found.f64().map(Val::Float64),
            (Type::Char, _) => found.char().map(Val::Char),
            // What may be large is paid for before it is copied.
            (Type::String, Found::Str(v)) => {
                self.spend(v.len() as u64)?;
                return Ok(Lowered::Val(Val::String(v.to_owned())));
            }
            (Type::String, Found::Char(v)) => Some(Val::String(v.to_string())),
            (Type::List(_), Found::Bytes(v)) if is_octets(ty) => {
                self.spend(v.len() as u64)?;
                return Ok(Lowered::Octets(v.to_owned()));
            }
            (Type::List(_), Found::Str(v)) if is_octets(ty) => {
                self.spend(v.trim_end_matches('=').len() as u64 * 3 / 4)?;
                match BASE64.decode(v) {
                    Ok(v) => return Ok(Lowered::Octets(v)),
                    Err(_) => None,
                }
            }
            (Type::Enum(names), Found::Str(name)) => {
                match self.find(names.names(), name)?.and_then(|at| names.names().nth(at)) {
                    Some(wit) => Some(Val::Enum(self.name(wit)?)),
                    None => return Err(Mismatch::unknown("case", name, names.names())),
                }
            }
            (Type::Variant(_) | Type::Result(_), Found::Str(name)) => match choose(ty, name, self)? {
                (case, None) => Some(case),
                (case, Some(payload)) => {
                    let form = format!("{{{}: ..}} with {}", quoted(&case_name(&case)), schema::wit(&payload));
                    return Err(Mismatch::expected(form, found));
                }
            },
            (Type::Option(_), Found::Unit) => Some(Val::Option(None)),
            (Type::Own(resource) | Type::Borrow(resource), Found::Handle(number)) => {
                let use_ = if let Type::Own(_) = ty { Use::Given } else { Use::Lent };
                Some(Val::Resource(self.handles.employ(number, resource, use_)?))
            }
            _ => None,
        };
        let val = val.ok_or_else(|| Mismatch::of_type(ty, found))?;
        self.spend(bytes(&val))?;
        Ok(Lowered::Val(val))
    }
}

/// The serializer: what it is to reach, and what goes around that.
pub(super) struct Lower<'a, 'h> {
    want: Want<'a>,
    around: Around,
    cx: &'a mut Cx<'h>,
}

#[derive(Clone, Copy)]
pub(super) enum Want<'a> {
    One(&'a Type),
    /// All arguments of a function; they become [`Lowered::Args`].
    Args(&'a [Param]),
}

impl<'a, 'h> Lower<'a, 'h> {
    #[inline]
    pub(super) fn new(want: Want<'a>, cx: &'a mut Cx<'h>) -> Self {
        Lower { want, around: Around::default(), cx }
    }

    fn scalar(mut self, found: Found<'_>) -> Result<Lowered> {
        match self.want {
            Want::One(ty) => match nullable(ty) {
                Some(inner) if !matches!(found, Found::Unit) => {
                    self.around.enter(Val::Option(None), self.cx)?;
                    Ok(self.around.wrap(self.cx.scalar(&inner, found)?))
                }
                _ => Ok(self.around.wrap(self.cx.scalar(ty, found)?)),
            },
            Want::Args([]) if matches!(found, Found::Unit) => Ok(Lowered::Args(Vec::new())),
            Want::Args(_) => Err(not_arguments(found)),
        }
    }

    fn compound(self, found: Found<'_>) -> Result<Compound<'a, 'h>> {
        match self.want {
            Want::One(ty) => Compound::new(ty, self.around, found, self.cx),
            Want::Args(params) => Ok(Compound::args(params, found, self.cx)),
        }
    }

    /// Enters the case of a Rust enum that has fields, as `found` tells.
    fn case(mut self, name: &str, found: Found<'_>) -> Result<Compound<'a, 'h>> {
        let Want::One(ty) = self.want else { return Err(not_arguments(variant(name))) };
        let inner = nullable(ty);
        if inner.is_some() {
            self.around.enter(Val::Option(None), self.cx)?;
        }
        let ty = inner.as_ref().unwrap_or(ty);
        let (case, payload) = choose(ty, name, self.cx)?;
        let Some(payload) = payload else { return Err(Mismatch::of_type(ty, found).at_name(name)) };
        self.around.enter(case, self.cx)?;
        Compound::new(&payload, self.around, found, self.cx)
    }
}

fn not_arguments(found: impl Display) -> Mismatch {
    Mismatch::expected("the arguments as a list, or as an object of parameters", found)
}

/// What serde hands over: in one piece, or piece by piece.
#[derive(Clone, Copy)]
pub(super) enum Found<'v> {
    Unit,
    Bool(bool),
    Int(i128),
    Float(f64),
    Char(char),
    Str(&'v str),
    Bytes(&'v [u8]),
    Handle(u64),
    Array,
    Object,
}

impl Found<'_> {
    /// JSON knows no difference between 3 and 3.0. Beyond 2^53 a float no longer says which integer was meant.
    fn int<T: TryFrom<i128>>(self) -> Option<T> {
        const EXACT: f64 = (1u64 << 53) as f64;
        match self {
            Found::Int(v) => T::try_from(v).ok(),
            Found::Float(v) if v.fract() == 0.0 && v.abs() <= EXACT => T::try_from(v as i128).ok(),
            _ => None,
        }
    }

    fn f64(self) -> Option<f64> {
        match self {
            Found::Float(v) => Some(v),
            Found::Int(v) => Some(v as f64),
            Found::Str("NaN") => Some(f64::NAN),
            Found::Str("Infinity") => Some(f64::INFINITY),
            Found::Str("-Infinity") => Some(f64::NEG_INFINITY),
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
            Found::Char(v) => Some(v),
            Found::Str(v) => v.chars().next().filter(|c| c.len_utf8() == v.len()),
            _ => None,
        }
    }
}

impl Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Unit => f.write_str("null"),
            Found::Bool(v) => write!(f, "{v}"),
            Found::Int(v) => write!(f, "{v}"),
            Found::Float(v) => write!(f, "{v:?}"),
            Found::Char(v) => write!(f, "{v:?}"),
            Found::Str(v) => f.write_str(&quoted(v)),
            Found::Bytes(v) => write!(f, "{} bytes", v.len()),
            Found::Handle(_) => f.write_str("a handle"),
            Found::Array => f.write_str("an array"),
            Found::Object => f.write_str("an object"),
        }
    }
}

/// What comes in one piece, to a serializer that has `scalar`.
macro_rules! scalars {
    () => {
        scalars! {
            Bool: serialize_bool(bool);
            Int: serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64) serialize_i128(i128)
                serialize_u16(u16) serialize_u32(u32) serialize_u64(u64);
            Float: serialize_f32(f32) serialize_f64(f64);
            Char: serialize_char(char);
            Str: serialize_str(&str);
            Bytes: serialize_bytes(&[u8]);
        }
    };
    ($($found:ident: $($method:ident($ty:ty))*;)*) => {
        $($(fn $method(self, v: $ty) -> Result<Self::Ok> {
            self.scalar(Found::$found(v.into()))
        })*)*
        fn serialize_u128(self, v: u128) -> Result<Self::Ok> {
            // No WIT integer reaches that far: the largest i128 is as wrong as any.
            self.scalar(Found::Int(v.try_into().unwrap_or(i128::MAX)))
        }
        fn serialize_none(self) -> Result<Self::Ok> {
            self.scalar(Found::Unit)
        }
        fn serialize_unit(self) -> Result<Self::Ok> {
            self.scalar(Found::Unit)
        }
        fn serialize_unit_struct(self, _: &'static str) -> Result<Self::Ok> {
            self.scalar(Found::Unit)
        }
        fn serialize_unit_variant(self, _: &'static str, _: u32, case: &'static str) -> Result<Self::Ok> {
            self.scalar(Found::Str(case))
        }
    };
}

impl<'a, 'h> Serializer for Lower<'a, 'h> {
    type Ok = Lowered;
    type Error = Mismatch;
    type SerializeSeq = Compound<'a, 'h>;
    type SerializeTuple = Compound<'a, 'h>;
    type SerializeTupleStruct = Compound<'a, 'h>;
    type SerializeTupleVariant = Compound<'a, 'h>;
    type SerializeMap = Compound<'a, 'h>;
    type SerializeStruct = Compound<'a, 'h>;
    type SerializeStructVariant = Compound<'a, 'h>;

    scalars!();

    fn serialize_u8(self, v: u8) -> Result<Lowered> {
        self.scalar(Found::Int(v.into()))
    }

    /// Rust says which option a `Some` belongs to, so `Option<Option<T>>` needs no `{"some": ..}` here.
    fn serialize_some<T: Serialize + ?Sized>(mut self, value: &T) -> Result<Lowered> {
        let Want::One(Type::Option(option)) = self.want else { return value.serialize(self) };
        self.around.enter(Val::Option(None), self.cx)?;
        value.serialize(Lower { want: Want::One(&option.ty()), ..self })
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<Lowered> {
        if name != HANDLE {
            return value.serialize(self);
        }
        let number = self.cx.number(value)?;
        self.scalar(Found::Handle(number))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        case: &'static str,
        value: &T,
    ) -> Result<Lowered> {
        let mut object = self.compound(Found::Object)?;
        object.key(case)?;
        object.put(value)?;
        object.finish()
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Compound<'a, 'h>> {
        let mut array = self.compound(Found::Array)?;
        array.reserve(len);
        Ok(array)
    }
    fn serialize_tuple(self, _: usize) -> Result<Compound<'a, 'h>> {
        self.compound(Found::Array)
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Compound<'a, 'h>> {
        self.compound(Found::Array)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        case: &'static str,
        _: usize,
    ) -> Result<Compound<'a, 'h>> {
        self.case(case, Found::Array)
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Compound<'a, 'h>> {
        self.compound(Found::Object)
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Compound<'a, 'h>> {
        self.compound(Found::Object)
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        case: &'static str,
        _: usize,
    ) -> Result<Compound<'a, 'h>> {
        self.case(case, Found::Object)
    }

    /// See `Handle`: where a resource stands, only a handle fits, and it is not for people to read.
    fn is_human_readable(&self) -> bool {
        let Want::One(ty) = self.want else { return true };
        !matches!(nullable(ty).as_ref().unwrap_or(ty), Type::Own(_) | Type::Borrow(_))
    }
}

/// The serializer of a byte in a sequence. It is as strict as [`Lower`] with a `u8`, and apart because there may be
/// millions of them.
pub(super) struct Octet<'a, 'h>(pub(super) &'a mut Cx<'h>);

impl Octet<'_, '_> {
    fn scalar(self, found: Found<'_>) -> Result<u8> {
        let octet = found.int().ok_or_else(|| Mismatch::of_type(&Type::U8, found))?;
        self.0.spend(1)?;
        Ok(octet)
    }
}

impl Serializer for Octet<'_, '_> {
    type Ok = u8;
    type Error = Mismatch;
    type SerializeSeq = Impossible<u8, Mismatch>;
    type SerializeTuple = Impossible<u8, Mismatch>;
    type SerializeTupleStruct = Impossible<u8, Mismatch>;
    type SerializeTupleVariant = Impossible<u8, Mismatch>;
    type SerializeMap = Impossible<u8, Mismatch>;
    type SerializeStruct = Impossible<u8, Mismatch>;
    type SerializeStructVariant = Impossible<u8, Mismatch>;

    scalars!();

    #[inline]
    fn serialize_u8(self, v: u8) -> Result<u8> {
        self.0.spend(1)?;
        Ok(v)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<u8> {
        value.serialize(self)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<u8> {
        if name != HANDLE {
            return value.serialize(self);
        }
        let number = self.0.number(value)?;
        self.scalar(Found::Handle(number))
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<u8> {
        Err(Mismatch::of_type(&Type::U8, Found::Object))
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq> {
        Err(Mismatch::of_type(&Type::U8, Found::Array))
    }
    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple> {
        Err(Mismatch::of_type(&Type::U8, Found::Array))
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct> {
        Err(Mismatch::of_type(&Type::U8, Found::Array))
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        case: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant> {
        Err(Mismatch::of_type(&Type::U8, variant(case)))
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap> {
        Err(Mismatch::of_type(&Type::U8, Found::Object))
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct> {
        Err(Mismatch::of_type(&Type::U8, Found::Object))
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        case: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant> {
        Err(Mismatch::of_type(&Type::U8, variant(case)))
    }
}
