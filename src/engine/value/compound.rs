//! Arrays and objects on their way in, which serde hands over piece by piece, and the cases that stand around values.

use super::lower::{Cx, Found, Lower, Want};
use super::mismatch::{Result, quoted};
use super::{DISCRIMINANT, Mismatch, Param, WORD, nullable, same_name, snake};
use serde::ser::{self, Serialize};
use wasmtime::component::Val;
use wasmtime::component::types::{Flags, Type};

pub(super) struct Compound<'a, 'h> {
    shape: Shape,
    around: Around,
    cx: &'a mut Cx<'h>,
}

enum Shape {
    /// With the type of the elements.
    List(Type, Vec<Val>),
    Flags(Flags, Vec<String>),
    /// A tuple, a record or the arguments. The number is the slot whose value comes next.
    Slots(Noun, Vec<Slot>, usize),
    /// A variant, a result or an option of an option, with the case that was chosen and the type of its payload.
    Cases(Type, Option<(Val, Option<Type>)>),
}

struct Slot {
    name: String,
    ty: Type,
    val: Option<Val>,
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

impl<'a, 'h> Compound<'a, 'h> {
    pub(super) fn new(want: Want<'_>, mut around: Around, found: Found<'_>, cx: &'a mut Cx<'h>) -> Result<Self> {
        if let Want::One(ty) = want
            && let Some(inner) = nullable(ty)
        {
            around.enter(Val::Option(None), cx)?;
            return Compound::new(Want::One(&inner), around, found, cx);
        }
        let shape = Shape::new(want, found, cx).map_err(|e| around.locate(e))?;
        Ok(Compound { shape, around, cx })
    }

    /// The name of the value that is put next. Elements of an array have none.
    pub(super) fn key(&mut self, name: &str) -> Result<()> {
        self.shape.key(name, self.cx).map_err(|e| self.around.locate(e))
    }

    pub(super) fn put<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.shape.put(value, self.cx).map_err(|e| self.around.locate(e))
    }

    pub(super) fn finish(self) -> Result<Val> {
        let val = self.shape.finish(self.cx).map_err(|e| self.around.locate(e))?;
        Ok(self.around.wrap(val))
    }
}

impl Shape {
    fn new(want: Want<'_>, found: Found<'_>, cx: &mut Cx<'_>) -> Result<Shape> {
        let slot = |name, ty| Slot { name, ty, val: None };
        let (noun, slots) = match (want, found) {
            (Want::Args(params), _) => {
                let noun = if let Found::Array = found { Noun::Argument } else { Noun::Parameter };
                (noun, params.iter().map(|Param { name, ty }| slot(name.clone(), ty.clone())).collect())
            }
            (Want::One(Type::Tuple(tuple)), Found::Array) => {
                (Noun::Element, tuple.types().map(|ty| slot(String::new(), ty)).collect())
            }
            (Want::One(Type::Record(record)), Found::Object) => {
                let slots = record.fields().map(|field| Ok(slot(cx.name(field.name)?, field.ty)));
                (Noun::Field, slots.collect::<Result<_>>()?)
            }
            (Want::One(Type::List(list)), Found::Array) => return Ok(Shape::List(list.ty(), Vec::new())),
            (Want::One(Type::Flags(flags)), Found::Array) => return Ok(Shape::Flags(flags.clone(), Vec::new())),
            (Want::One(ty @ (Type::Variant(_) | Type::Result(_) | Type::Option(_))), Found::Object) => {
                return Ok(Shape::Cases(ty.clone(), None));
            }
            (Want::One(ty), _) => return Err(Mismatch::of_type(ty, found)),
        };
        Ok(Shape::Slots(noun, slots, 0))
    }

    fn key(&mut self, name: &str, cx: &mut Cx<'_>) -> Result<()> {
        match self {
            Shape::Slots(noun, slots, next) => {
                // Fields mostly come in the order of their declaration, in which case the first look finds them.
                let (before, after) = slots.split_at((*next).min(slots.len()));
                let names = after.iter().chain(before).map(|slot| slot.name.as_str());
                let Some(place) = cx.find(names, name)?.map(|at| (at + *next) % slots.len()) else {
                    return Err(Mismatch::unknown(noun.word(), name, slots.iter().map(|slot| slot.name.as_str())));
                };
                *next = place;
                match slots[*next].val {
                    Some(_) => Err(Mismatch::new(format_args!("{} {} is given twice", noun.word(), quoted(name)))),
                    None => Ok(()),
                }
            }
            Shape::Cases(_, Some(_)) => Err(Mismatch::expected("one case", "an object with more keys")),
            Shape::Cases(ty, chosen) => {
                *chosen = Some(choose(ty, name, cx)?);
                Ok(())
            }
            Shape::List(..) | Shape::Flags(..) => Err(Mismatch::expected("an array", Found::Object)),
        }
    }

    fn put<T: Serialize + ?Sized>(&mut self, value: &T, cx: &mut Cx<'_>) -> Result<()> {
        match self {
            Shape::List(item, vals) => {
                let before = cx.spent;
                vals.push(cx.value(value, item).map_err(|e| e.at_index(vals.len()))?);
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
            Shape::Slots(noun, slots, next) => {
                let count = slots.len();
                let Some(Slot { name, ty, val }) = slots.get_mut(*next) else {
                    return Err(Mismatch::expected(format_args!("{count} {}s", noun.word()), "more"));
                };
                *val = Some(cx.value(value, ty).map_err(|e| match noun {
                    Noun::Element => e.at_index(*next),
                    Noun::Argument | Noun::Parameter => e.at_parameter(name),
                    Noun::Field => e.at_name(name),
                })?);
                *next += 1;
            }
            Shape::Cases(_, Some((case, Some(ty)))) => {
                let payload = cx.value(value, ty).map_err(|e| e.at_name(&case_name(case)))?;
                fill(case, payload);
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

    fn finish(self, cx: &mut Cx<'_>) -> Result<Val> {
        match self {
            Shape::List(_, vals) => Ok(Val::List(vals)),
            Shape::Flags(_, names) => {
                cx.spend(WORD)?;
                Ok(Val::Flags(names))
            }
            Shape::Slots(noun @ (Noun::Element | Noun::Argument), slots, next) if next < slots.len() => {
                Err(Mismatch::expected(format_args!("{} {}s", slots.len(), noun.word()), next))
            }
            Shape::Slots(noun, slots, _) => {
                let filled = slots.into_iter().map(|Slot { name, ty, val }| match (val, ty) {
                    (Some(val), _) => Ok((name, val)),
                    (None, Type::Option(_)) => cx.spend(DISCRIMINANT).map(|()| (name, Val::Option(None))),
                    (None, ty) => Err(Mismatch::missing(noun.word(), &name, &ty)),
                });
                match noun {
                    Noun::Field => Ok(Val::Record(filled.collect::<Result<_>>()?)),
                    _ => Ok(Val::Tuple(filled.map(|slot| Ok(slot?.1)).collect::<Result<_>>()?)),
                }
            }
            Shape::Cases(_, Some((case, _))) => {
                cx.spend(DISCRIMINANT)?;
                Ok(case)
            }
            Shape::Cases(ty, None) => Err(Mismatch::of_type(&ty, "an empty object")),
        }
    }
}

macro_rules! compounds {
    ($($of:ident::$method:ident($($name:ident)?);)*) => {
        $(impl ser::$of for Compound<'_, '_> {
            type Ok = Val;
            type Error = Mismatch;
            fn $method<T: Serialize + ?Sized>(&mut self, $($name: &'static str,)? value: &T) -> Result<()> {
                $(self.key($name)?;)?
                self.put(value)
            }
            fn end(self) -> Result<Val> {
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
    type Ok = Val;
    type Error = Mismatch;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        let name = self.cx.key(key)?;
        self.key(&name)
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.put(value)
    }
    fn end(self) -> Result<Val> {
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

    pub(super) fn wrap(self, val: Val) -> Val {
        self.0.into_iter().rev().fold(val, |val, mut case| {
            fill(&mut case, val);
            case
        })
    }

    fn locate(&self, mismatch: Mismatch) -> Mismatch {
        self.0.iter().rev().fold(mismatch, |mismatch, case| match case {
            Val::Option(_) => mismatch,
            case => mismatch.at_name(&case_name(case)),
        })
    }
}
