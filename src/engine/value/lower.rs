//! In: serde to [`Val`], a serializer that is led by the type it is to reach.

use super::handle::{HANDLE, Use};
use super::mismatch::{Quoted, Result};
use super::{BASE64, DISCRIMINANT, Handles, Mismatch, Param, WORD, bytes, is_octets, same_name, snake};
use crate::engine::schema;
use base64::Engine as _;
use serde::ser::{self, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt::{self, Display};
use wasmtime::component::Val;
use wasmtime::component::types::{Field, Flags, Type};

/// The names of fields and cases are copied into every `Val` and chosen by the guest, so they need a bound of their
/// own: this many times the payload's. A name of 64 bytes on a payload of one byte is already unusual.
const NAMES_PER_BYTE: u64 = 64;

/// Turns arguments into the values of `params`, and counts their payload as [`bytes`] does.
///
/// Handles given to `own` parameters leave the table only if everything fits.
pub(crate) fn lower<A: Serialize + ?Sized>(
    args: &A,
    params: &[Param],
    handles: &mut Handles,
    max_bytes: u64,
) -> Result<(Vec<Val>, u64)> {
    let names_left = max_bytes.saturating_mul(NAMES_PER_BYTE);
    let mut cx = Cx { handles, left: max_bytes, names_left, exceeded: false };
    let lowered = args.serialize(Lower { want: Want::Args(params), cx: &mut cx });
    // A foreign `Serialize` may have swallowed the error or wrapped it into another.
    let lowered = if cx.exceeded { Err(Mismatch::TooLarge) } else { lowered };
    let payload = max_bytes - cx.left;
    handles.settle(lowered.is_ok());
    match lowered? {
        Val::Tuple(vals) => Ok((vals, payload)),
        _ => Err(Mismatch::new("the arguments did not form a list")),
    }
}

/// What all parts of one `lower` share.
struct Cx<'h> {
    handles: &'h mut Handles,
    left: u64,
    names_left: u64,
    exceeded: bool,
}

impl Cx<'_> {
    fn spend(&mut self, bytes: u64) -> Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| self.exceed())?;
        Ok(())
    }

    /// Copies a name out of the component's types.
    fn name(&mut self, name: &str) -> Result<String> {
        self.names_left = self.names_left.checked_sub(name.len() as u64).ok_or_else(|| self.exceed())?;
        Ok(name.to_owned())
    }

    fn exceed(&mut self) -> Mismatch {
        self.exceeded = true;
        Mismatch::TooLarge
    }

    /// An element of a list counts at least one byte.
    fn element<T>(&mut self, lower: impl FnOnce(&mut Self) -> Result<T, Mismatch>) -> Result<T> {
        let before = self.left;
        let lowered = lower(self)?;
        if self.left == before {
            self.spend(1)?;
        }
        Ok(lowered)
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T, ty: &Type) -> Result<Val> {
        value.serialize(Lower { want: Want::One(ty), cx: self })
    }

    /// A name that stands in the arguments. It is compared and not handed on, so it is no payload.
    fn key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<String> {
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
    fn scalar(self, found: Scalar<'_>) -> Result<Val> {
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
                    None => return Err(Mismatch::unknown("case", name, names.names())),
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

    fn open(self, found: Found) -> Result<Compound<'a, 'h>> {
        let (shape, wraps) = Shape::new(self.want, found, self.cx)?;
        Ok(Compound { cx: self.cx, shape, wraps })
    }

    /// Begins the payload of a Rust variant with fields: `{"case": [..]}` or `{"case": {..}}`.
    fn nest(self, case: &str, found: Found) -> Result<Compound<'a, 'h>> {
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
    fn case(self, name: &str) -> Result<Compound<'a, 'h>> {
        let mut open = self.open(Found::Object)?;
        open.set_key(name)?;
        Ok(open)
    }

    fn handle<T: Serialize + ?Sized>(self, number: &T) -> Result<Val> {
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
    fn around(self, val: Option<Val>, cx: &mut Cx<'_>) -> Result<Val> {
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
fn choose(ty: &Type, name: &str, cx: &mut Cx<'_>) -> Result<(Wrap, Option<Type>)> {
    match ty {
        Type::Variant(variant) => match variant.cases().find(|case| same_name(case.name, name)) {
            Some(case) => Ok((Wrap::Case(cx.name(case.name)?), case.ty)),
            None => Err(Mismatch::unknown("case", name, variant.cases().map(|case| case.name))),
        },
        Type::Result(result) if same_name("ok", name) => Ok((Wrap::Ok, result.ok())),
        Type::Result(result) if same_name("err", name) => Ok((Wrap::Err, result.err())),
        Type::Result(_) => Err(Mismatch::unknown("case", name, ["ok", "err"])),
        Type::Option(option) if same_name("some", name) => Ok((Wrap::Some, Some(option.ty()))),
        Type::Option(_) => Err(Mismatch::unknown("case", name, ["some"])),
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
        args: bool,
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

fn noun(args: bool) -> &'static str {
    if args { "parameter" } else { "field" }
}

struct Slot {
    name: String,
    ty: Type,
    val: Option<Val>,
}

impl Shape {
    /// Begins an array or an object, and says what to put around it.
    fn new(want: Want<'_>, found: Found, cx: &mut Cx<'_>) -> Result<(Shape, Vec<Wrap>)> {
        let by_name = found == Found::Object;
        let ty = match want {
            Want::One(ty) => ty,
            Want::Args(params) => {
                let slot = |param: &Param| Slot { name: param.name.clone(), ty: param.ty.clone(), val: None };
                let slots = params.iter().map(slot).collect();
                return Ok((Shape::Fields { args: true, slots, next: 0, by_name }, Vec::new()));
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
                let slots = record.fields().map(slot).collect::<Result<_>>()?;
                Shape::Fields { args: false, slots, next: 0, by_name }
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
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
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
                    return Err(Mismatch::unknown("flag", &given, flags.names()));
                };
                if !names.iter().any(|name| name == wit) {
                    names.push(cx.name(wit)?);
                }
            }
            Shape::Fields { args, slots, next, .. } => {
                let count = slots.len();
                let Some(slot) = slots.get_mut(*next) else {
                    return Err(Mismatch::new(format_args!("expected {count} arguments, got more")));
                };
                *next += 1;
                slot.val = Some(cx.value(value, &slot.ty).map_err(|e| match args {
                    true => e.at_parameter(&slot.name),
                    false => e.at_name(&slot.name),
                })?);
            }
            Shape::Cases { ty, .. } => return Err(Mismatch::of_type(ty, Found::Array)),
        }
        Ok(())
    }

    fn key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        let key = self.cx.key(key)?;
        self.set_key(&key)
    }

    /// The name whose value comes next.
    fn set_key(&mut self, name: &str) -> Result<()> {
        match &mut self.shape {
            Shape::Fields { args, slots, next, .. } => {
                // Fields mostly come in the order of their declaration, in which case `next` is already right.
                let found = match slots.get(*next) {
                    Some(slot) if same_name(&slot.name, name) => Some(*next),
                    _ => slots.iter().position(|slot| same_name(&slot.name, name)),
                };
                *next = found
                    .ok_or_else(|| Mismatch::unknown(noun(*args), name, slots.iter().map(|slot| slot.name.as_str())))?;
                if slots[*next].val.is_some() {
                    return Err(Mismatch::new(format_args!("{} {} is given twice", noun(*args), Quoted(name))));
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

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
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

    fn finish(self) -> Result<Val> {
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
            Shape::Fields { args, slots, next, by_name } => {
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
                            return Err(Mismatch::missing(noun(args), &name, &ty));
                        }
                    };
                    fields.push((name, val));
                }
                match args {
                    true => Val::Tuple(fields.into_iter().map(|(_, val)| val).collect()),
                    false => Val::Record(fields),
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
        $(fn $method(self, v: $ty) -> Result<Val> {
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

    fn serialize_u128(self, v: u128) -> Result<Val> {
        // No WIT integer reaches that far: the largest i128 is as wrong as any.
        self.scalar(Scalar::Int(v.try_into().unwrap_or(i128::MAX)))
    }
    fn serialize_str(self, v: &str) -> Result<Val> {
        self.scalar(Scalar::Str(v))
    }
    fn serialize_bytes(self, v: &[u8]) -> Result<Val> {
        self.scalar(Scalar::Bytes(v))
    }
    fn serialize_none(self) -> Result<Val> {
        self.scalar(Scalar::Unit)
    }
    fn serialize_unit(self) -> Result<Val> {
        self.scalar(Scalar::Unit)
    }
    fn serialize_unit_struct(self, _name: &'static str) -> Result<Val> {
        self.scalar(Scalar::Unit)
    }
    fn serialize_unit_variant(self, _name: &'static str, _index: u32, case: &'static str) -> Result<Val> {
        self.scalar(Scalar::Str(case))
    }

    /// Rust says which option a `Some` belongs to, so `Option<Option<T>>` needs no `{"some": ..}` here.
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Val> {
        match self.want {
            Want::One(Type::Option(option)) => {
                let val = self.cx.value(value, &option.ty())?;
                Wrap::Some.around(Some(val), self.cx)
            }
            _ => value.serialize(self),
        }
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<Val> {
        if name == HANDLE { self.handle(value) } else { value.serialize(self) }
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        case: &'static str,
        value: &T,
    ) -> Result<Val> {
        let mut open = self.case(case)?;
        open.value(value)?;
        open.finish()
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<Compound<'a, 'h>> {
        self.open(Found::Array)
    }
    fn serialize_tuple(self, _len: usize) -> Result<Compound<'a, 'h>> {
        self.open(Found::Array)
    }
    fn serialize_tuple_struct(self, _name: &'static str, _len: usize) -> Result<Compound<'a, 'h>> {
        self.open(Found::Array)
    }
    fn serialize_map(self, _len: Option<usize>) -> Result<Compound<'a, 'h>> {
        self.open(Found::Object)
    }
    fn serialize_struct(self, _name: &'static str, _len: usize) -> Result<Compound<'a, 'h>> {
        self.open(Found::Object)
    }
    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        case: &'static str,
        _len: usize,
    ) -> Result<Compound<'a, 'h>> {
        self.nest(case, Found::Array)
    }
    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        case: &'static str,
        _len: usize,
    ) -> Result<Compound<'a, 'h>> {
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
            fn $element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
                self.push(value).map_err(|e| self.locate(e))
            }
            fn end(self) -> Result<Val> {
                self.finish()
            }
        })*
    };
    ($($of:ident by name;)*) => {
        $(impl ser::$of for Compound<'_, '_> {
            type Ok = Val;
            type Error = Mismatch;
            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<()> {
                self.set_key(name).and_then(|()| self.value(value)).map_err(|e| self.locate(e))
            }
            fn end(self) -> Result<Val> {
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
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        self.key(key).map_err(|e| self.locate(e))
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.value(value).map_err(|e| self.locate(e))
    }
    fn end(self) -> Result<Val> {
        self.finish()
    }
}
