//! Arrays and objects on their way in, which serde hands over piece by piece, and the cases that stand around values.

use super::lower::{Cx, Found, Lower, Octet, Want};
use super::mismatch::{Result, quoted};
use super::{DISCRIMINANT, Lowered, Mismatch, Param, WORD, is_octets, nullable, same_name, snake};
use crate::limits::MIB;
use serde::ser::{self, Serialize};
use std::borrow::Cow;
use wasmtime::component::Val;
use wasmtime::component::types::{Flags, Type};

pub(super) struct Compound<'a, 'h> {
    shape: Shape<'a>,
    around: Around,
    cx: &'a mut Cx<'h>,
}

enum Shape<'a> {
    /// With the type of the elements.
    List(Type, Vec<Val>),
    Octets(Vec<u8>),
    Flags(Flags, Vec<String>),
    /// A tuple, a record or the arguments: what is to come, and what has come. The number is the slot whose value comes
    /// next.
    Slots(Noun, Cow<'a, [Param]>, Vec<Option<Lowered>>, usize),
    /// A variant, a result or an option of an option, with the case that was chosen and the type of its payload.
    Cases(Type, Option<(Val, Option<Type>)>),
}

/// What goes into a slot: the first two come by position, the others by name.
#[derive(Clone, Copy)]
enum Noun {
    Element,
    Argument,
    Parameter,
    Field,
}

impl Noun {
    fn word(self) -> &'static str {
        match self {
            Noun::Element => "element",
            Noun::Argument => "argument",
            Noun::Parameter => "parameter",
            Noun::Field => "field",
        }
    }
}

/// Bytes that are reserved at most because somebody says that so many will come; what comes beyond grows as it does.
const MAX_RESERVED: u64 = MIB;

impl<'a, 'h> Compound<'a, 'h> {
    pub(super) fn new(ty: &Type, mut around: Around, found: Found<'_>, cx: &'a mut Cx<'h>) -> Result<Self> {
        if let Some(inner) = nullable(ty) {
            around.enter(Val::Option(None), cx)?;
            return Compound::new(&inner, around, found, cx);
        }
        let shape = Shape::new(ty, found, cx).map_err(|e| around.locate(e))?;
        Ok(Compound { shape, around, cx })
    }

    /// All arguments of a function.
    pub(super) fn args(params: &'a [Param], found: Found<'_>, cx: &'a mut Cx<'h>) -> Self {
        let noun = if let Found::Array = found { Noun::Argument } else { Noun::Parameter };
        Compound { shape: Shape::slots(noun, Cow::Borrowed(params)), around: Around::default(), cx }
    }

    /// The name of the value that is put next. Elements of an array have none.
    pub(super) fn key(&mut self, name: &str) -> Result<()> {
        self.shape.key(name, self.cx).map_err(|e| self.around.locate(e))
    }

    /// Makes room for as many elements as are said to come, where that is cheap.
    pub(super) fn reserve(&mut self, len: Option<usize>) {
        if let (Shape::Octets(octets), Some(len)) = (&mut self.shape, len) {
            octets.reserve((len as u64).min(self.cx.room()).min(MAX_RESERVED) as usize);
        }
    }

    #[inline]
    pub(super) fn put<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.shape.put(value, self.cx).map_err(|e| self.around.locate(e))
    }

    pub(super) fn finish(self) -> Result<Lowered> {
        let val = self.shape.finish(self.cx).map_err(|e| self.around.locate(e))?;
        Ok(self.around.wrap(val))
    }
}

impl<'a> Shape<'a> {
    fn slots(noun: Noun, parts: Cow<'a, [Param]>) -> Shape<'a> {
        let vals = parts.iter().map(|_| None).collect();
        Shape::Slots(noun, parts, vals, 0)
    }

    fn new(ty: &Type, found: Found<'_>, cx: &mut Cx<'_>) -> Result<Shape<'a>> {
        match (ty, found) {
            (Type::Tuple(tuple), Found::Array) => {
                let parts = tuple.types().map(|ty| Param { name: String::new(), ty });
                Ok(Shape::slots(Noun::Element, parts.collect()))
            }
            (Type::Record(record), Found::Object) => {
                let parts = record.fields().map(|field| Ok(Param { name: cx.name(field.name)?, ty: field.ty }));
                Ok(Shape::slots(Noun::Field, parts.collect::<Result<_>>()?))
            }
            (ty, Found::Array) if is_octets(ty) => Ok(Shape::Octets(Vec::new())),
            (Type::List(list), Found::Array) => Ok(Shape::List(list.ty(), Vec::new())),
            (Type::Flags(flags), Found::Array) => Ok(Shape::Flags(flags.clone(), Vec::new())),
            (Type::Variant(_) | Type::Result(_) | Type::Option(_), Found::Object) => Ok(Shape::Cases(ty.clone(), None)),
            (ty, _) => Err(Mismatch::of_type(ty, found)),
        }
    }

    fn key(&mut self, name: &str, cx: &mut Cx<'_>) -> Result<()> {
        match self {
            Shape::Slots(noun, parts, vals, next) => {
                // Fields mostly come in the order of their declaration, in which case the first look finds them.
                let (before, after) = parts.split_at((*next).min(parts.len()));
                let names = after.iter().chain(before).map(|part| part.name.as_str());
                let Some(place) = cx.find(names, name)?.map(|at| (at + *next) % parts.len()) else {
                    return Err(Mismatch::unknown(noun.word(), name, parts.iter().map(|part| part.name.as_str())));
                };
                *next = place;
                match vals[*next] {
                    Some(_) => Err(Mismatch::new(format_args!("{} {} is given twice", noun.word(), quoted(name)))),
                    None => Ok(()),
                }
            }
            Shape::Cases(_, Some(_)) => Err(Mismatch::expected("one case", "an object with more keys")),
            Shape::Cases(ty, chosen) => {
                *chosen = Some(choose(ty, name, cx)?);
                Ok(())
            }
            Shape::List(..) | Shape::Octets(_) | Shape::Flags(..) => Err(Mismatch::expected("an array", Found::Object)),
        }
    }

    #[inline]
    fn put<T: Serialize + ?Sized>(&mut self, value: &T, cx: &mut Cx<'_>) -> Result<()> {
        match self {
            Shape::Octets(octets) => {
                let octet = value.serialize(Octet(cx)).map_err(|e| e.at_index(octets.len()))?;
                octets.push(octet);
            }
            Shape::List(item, vals) => {
                let before = cx.spent;
                vals.push(cx.value(value, item).map_err(|e| e.at_index(vals.len()))?.val());
                // See `bytes`: no element is free.
                if cx.spent == before {
                    cx.spend(1)?;
                }
            }
            Shape::Flags(flags, names) => {
                let given = cx.key(value).map_err(|e| e.at_index(names.len()))?;
                let Some(wit) = flags.names().find(|wit| same_name(wit, &given)) else {
                    return Err(Mismatch::unknown("flag", &given, flags.names()));
                };
                if !names.iter().any(|name| name == wit) {
                    names.push(cx.name(wit)?);
                }
            }
            Shape::Slots(noun, parts, vals, next) => {
                let Some(Param { name, ty }) = parts.get(*next) else {
                    return Err(Mismatch::expected(format_args!("{} {}s", parts.len(), noun.word()), "more"));
                };
                vals[*next] = Some(cx.value(value, ty).map_err(|e| match noun {
                    Noun::Element => e.at_index(*next),
                    Noun::Argument | Noun::Parameter => e.at_parameter(name),
                    Noun::Field => e.at_name(name),
                })?);
                *next += 1;
            }
            Shape::Cases(_, Some((case, Some(ty)))) => {
                let payload = cx.value(value, ty).map_err(|e| e.at_name(&case_name(case)))?;
                fill(case, payload.val());
            }
            Shape::Cases(_, Some((case, None))) => {
                // What stands for no arguments stands for no payload too.
                let nothing = value.serialize(Lower::new(Want::Args(&[]), cx));
                nothing.map_err(|_| {
                    Mismatch::new(format_args!("the case {} has no payload; pass null", quoted(&case_name(case))))
                })?;
            }
            Shape::Cases(_, None) => return Err(Mismatch::new("a value without a key")),
        }
        Ok(())
    }

    fn finish(self, cx: &mut Cx<'_>) -> Result<Lowered> {
        let val = match self {
            Shape::Octets(octets) => return Ok(Lowered::Octets(octets)),
            Shape::List(_, vals) => Val::List(vals),
            Shape::Flags(_, names) => {
                cx.spend(WORD)?;
                Val::Flags(names)
            }
            Shape::Slots(noun @ (Noun::Element | Noun::Argument), parts, _, next) if next < parts.len() => {
                return Err(Mismatch::expected(format_args!("{} {}s", parts.len(), noun.word()), next));
            }
            Shape::Slots(noun, parts, vals, _) => {
                let vals = vals.into_iter().zip(parts.iter()).map(|(val, part)| match val {
                    Some(val) => Ok(val),
                    None if matches!(part.ty, Type::Option(_)) => {
                        cx.spend(DISCRIMINANT).map(|()| Lowered::Val(Val::Option(None)))
                    }
                    None => Err(Mismatch::missing(noun.word(), &part.name, &part.ty)),
                });
                match noun {
                    Noun::Argument | Noun::Parameter => return Ok(Lowered::Args(vals.collect::<Result<_>>()?)),
                    Noun::Element => Val::Tuple(vals.map(|val| Ok(val?.val())).collect::<Result<_>>()?),
                    Noun::Field => {
                        let vals: Vec<Val> = vals.map(|val| Ok(val?.val())).collect::<Result<_>>()?;
                        let names = parts.into_owned().into_iter().map(|part| part.name);
                        Val::Record(names.zip(vals).collect())
                    }
                }
            }
            Shape::Cases(_, Some((case, _))) => {
                cx.spend(DISCRIMINANT)?;
                case
            }
            Shape::Cases(ty, None) => return Err(Mismatch::of_type(&ty, "an empty object")),
        };
        Ok(Lowered::Val(val))
    }
}

macro_rules! compounds {
    ($($of:ident::$method:ident($($name:ident)?);)*) => {
        $(impl ser::$of for Compound<'_, '_> {
            type Ok = Lowered;
            type Error = Mismatch;
            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, $($name: &'static str,)? value: &T) -> Result<()> {
                $(self.key($name)?;)?
                self.put(value)
            }
            fn end(self) -> Result<Lowered> {
                self.finish()
            }
        })*
    };
}

compounds! {
    SerializeSeq::serialize_element();
    SerializeTuple::serialize_element();
    SerializeTupleStruct::serialize_field();
    SerializeTupleVariant::serialize_field();
    SerializeStruct::serialize_field(name);
    SerializeStructVariant::serialize_field(name);
}

impl ser::SerializeMap for Compound<'_, '_> {
    type Ok = Lowered;
    type Error = Mismatch;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        let name = self.cx.key(key)?;
        self.key(&name)
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.put(value)
    }
    fn end(self) -> Result<Lowered> {
        self.finish()
    }
}

/// The case of a variant, a result or an option of an option that `name` means, still without the payload, and the
/// payload's type.
pub(super) fn choose(ty: &Type, name: &str, cx: &mut Cx<'_>) -> Result<(Val, Option<Type>)> {
    match ty {
        Type::Variant(variant) => {
            match cx.find(variant.cases().map(|case| case.name), name)?.and_then(|at| variant.cases().nth(at)) {
                Some(case) => Ok((Val::Variant(cx.name(case.name)?, None), case.ty)),
                None => Err(Mismatch::unknown("case", name, variant.cases().map(|case| case.name))),
            }
        }
        Type::Result(result) if same_name("ok", name) => Ok((Val::Result(Ok(None)), result.ok())),
        Type::Result(result) if same_name("err", name) => Ok((Val::Result(Err(None)), result.err())),
        Type::Result(_) => Err(Mismatch::unknown("case", name, ["ok", "err"])),
        Type::Option(option) if same_name("some", name) => Ok((Val::Option(None), Some(option.ty()))),
        Type::Option(_) => Err(Mismatch::unknown("case", name, ["some"])),
        _ => Err(Mismatch::of_type(ty, variant(name))),
    }
}

/// A Rust variant that came where none fits.
pub(super) fn variant(name: &str) -> String {
    format!("the variant {}", quoted(name))
}

/// Gives a case its payload.
fn fill(case: &mut Val, payload: Val) {
    if let Val::Variant(_, slot) | Val::Option(slot) | Val::Result(Ok(slot) | Err(slot)) = case {
        *slot = Some(Box::new(payload));
    }
}

/// As it is written in JSON.
pub(super) fn case_name(case: &Val) -> String {
    match case {
        Val::Variant(name, _) => snake(name),
        Val::Result(Ok(_)) => "Ok".to_owned(),
        Val::Result(Err(_)) => "Err".to_owned(),
        _ => "some".to_owned(),
    }
}

/// The cases in which a value is to stand, outermost first, although nothing in the arguments is an object for them.
#[derive(Default)]
pub(super) struct Around(Vec<Val>);

impl Around {
    pub(super) fn enter(&mut self, case: Val, cx: &mut Cx<'_>) -> Result<()> {
        self.0.push(case);
        cx.spend(DISCRIMINANT)
    }

    #[inline]
    pub(super) fn wrap(self, lowered: Lowered) -> Lowered {
        if self.0.is_empty() {
            return lowered;
        }
        Lowered::Val(self.0.into_iter().rev().fold(lowered.val(), |val, mut case| {
            fill(&mut case, val);
            case
        }))
    }

    fn locate(&self, mismatch: Mismatch) -> Mismatch {
        self.0.iter().rev().fold(mismatch, |mismatch, case| match case {
            Val::Option(_) => mismatch,
            case => mismatch.at_name(&case_name(case)),
        })
    }
}
