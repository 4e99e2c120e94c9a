//! Random WIT types and values of them, through a guest that hands them to a host function and hands back what that gives:
//! dynamic calls give what they were given, and so do typed ones, for a type that is many in one.
#![no_main]

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use isopod::{Host, block_on};
use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::{Corpus, fuzz_target};
use many::fuzz::it::host::{self, Eight};
use many::{Many, ManyFunction};
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

static HOST: LazyLock<Host> = LazyLock::new(|| Host::builder().seats(1).build().unwrap());

/// A type that has a JSON form.
enum Type {
    Plain(&'static str),
    List(Box<Type>),
    Option(Box<Type>),
    Result([Option<Box<Type>>; 2]),
    Tuple(Vec<Type>),
    Record(Vec<Type>),
    Variant(Vec<Option<Type>>),
    Enum(usize),
    Flags(usize),
}

const PLAIN: [&str; 13] =
    ["bool", "u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64", "f32", "f64", "char", "string"];

impl Type {
    fn any(input: &mut Unstructured<'_>, depth: u32) -> Result<Type> {
        let one = |input: &mut Unstructured<'_>| Type::any(input, depth - 1);
        let maybe = |input: &mut Unstructured<'_>| bool::arbitrary(input)?.then(|| one(input)).transpose();
        fn some<T>(input: &mut Unstructured<'_>, each: impl Fn(&mut Unstructured<'_>) -> Result<T>) -> Result<Vec<T>> {
            (0..input.int_in_range(1..=6)?).map(|_| each(input)).collect()
        }
        Ok(match input.int_in_range(0..=if depth == 0 { 2 } else { 8 })? {
            0 => Type::Plain(input.choose(&PLAIN)?),
            1 => Type::Enum(input.int_in_range(1..=300)?),
            2 => Type::Flags(input.int_in_range(1..=32)?),
            3 => Type::List(one(input)?.into()),
            4 => Type::Option(one(input)?.into()),
            5 => Type::Result([maybe(input)?.map(Box::new), maybe(input)?.map(Box::new)]),
            6 => Type::Tuple(some(input, one)?),
            7 => Type::Record(some(input, one)?),
            _ => Type::Variant(some(input, maybe)?),
        })
    }

    /// As it is written in WAT. Types that need a name are put into `named`, and have the name of their place there.
    fn wat(&self, named: &mut Vec<String>) -> String {
        let payload = |ty: Option<&Type>, named: &mut _| ty.map(|ty| ty.wat(named)).unwrap_or_default();
        let define = |what: String, named: &mut Vec<String>| {
            named.push(what);
            format!("$t{}", named.len() - 1)
        };
        let list = |types: &[Type], named: &mut _| -> Vec<String> { types.iter().map(|ty| ty.wat(named)).collect() };
        let names = |count| (0..count).map(|at| format!(" \"c-{at}\"")).collect::<String>();
        match self {
            Type::Plain(name) => (*name).to_owned(),
            Type::List(item) => format!("(list {})", item.wat(named)),
            Type::Option(item) => format!("(option {})", item.wat(named)),
            Type::Result([ok, err]) => {
                let ok = payload(ok.as_deref(), named);
                match payload(err.as_deref(), named) {
                    err if err.is_empty() => format!("(result {ok})"),
                    err => format!("(result {ok} (error {err}))"),
                }
            }
            Type::Tuple(types) => format!("(tuple {})", list(types, named).join(" ")),
            Type::Record(types) => {
                let fields = list(types, named).into_iter().enumerate();
                define(fields.fold("record".into(), |text, (at, ty)| format!("{text} (field \"c-{at}\" {ty})")), named)
            }
            Type::Variant(types) => {
                let mut text = "variant".to_owned();
                for (at, ty) in types.iter().enumerate() {
                    text += &format!(" (case \"c-{at}\" {})", payload(ty.as_ref(), named));
                }
                define(text, named)
            }
            Type::Enum(count) => define(format!("enum{}", names(*count)), named),
            Type::Flags(count) => define(format!("flags{}", names(*count)), named),
        }
    }

    /// A value of it, in the form that we write in JSON.
    fn value(&self, input: &mut Unstructured<'_>) -> Result<Value> {
        let payload = |ty: Option<&Type>, input: &mut _| ty.map_or(Ok(Value::Null), |ty| ty.value(input));
        Ok(match self {
            Type::Plain(name) => match *name {
                "bool" => json!(bool::arbitrary(input)?),
                "u8" => json!(u8::arbitrary(input)?),
                "s8" => json!(i8::arbitrary(input)?),
                "u16" => json!(u16::arbitrary(input)?),
                "s16" => json!(i16::arbitrary(input)?),
                "u32" => json!(u32::arbitrary(input)?),
                "s32" => json!(i32::arbitrary(input)?),
                "u64" => json!(u64::arbitrary(input)?),
                "s64" => json!(i64::arbitrary(input)?),
                "f32" => float(f32::arbitrary(input)?.into()),
                "f64" => float(f64::arbitrary(input)?),
                "char" => json!(char::arbitrary(input)?),
                _ => json!(<&str>::arbitrary(input)?),
            },
            Type::List(item) if matches!(**item, Type::Plain("u8")) => {
                json!(BASE64_STANDARD.encode(<&[u8]>::arbitrary(input)?))
            }
            Type::List(item) => {
                (0..input.int_in_range(0..=8)?).map(|_| item.value(input)).collect::<Result<Vec<_>>>()?.into()
            }
            Type::Option(item) => match (bool::arbitrary(input)?, &**item) {
                (false, _) => Value::Null,
                (true, Type::Option(_)) => json!({ "some": item.value(input)? }),
                (true, item) => item.value(input)?,
            },
            Type::Result([ok, err]) => match bool::arbitrary(input)? {
                true => json!({ "Ok": payload(ok.as_deref(), input)? }),
                false => json!({ "Err": payload(err.as_deref(), input)? }),
            },
            Type::Tuple(types) => types.iter().map(|ty| ty.value(input)).collect::<Result<Vec<_>>>()?.into(),
            Type::Record(types) => {
                let fields = types.iter().enumerate();
                let fields = fields.map(|(at, ty)| Ok((format!("c_{at}"), ty.value(input)?)));
                fields.collect::<Result<Map<_, _>>>()?.into()
            }
            Type::Variant(types) => {
                let at = input.choose_index(types.len())?;
                match &types[at] {
                    None => json!(format!("c_{at}")),
                    Some(ty) => json!({ format!("c_{at}"): ty.value(input)? }),
                }
            }
            Type::Enum(count) => json!(format!("c_{}", input.choose_index(*count)?)),
            Type::Flags(count) => {
                let bits = u32::arbitrary(input)?;
                (0..*count).filter(|at| bits >> at & 1 == 1).map(|at| format!("c_{at}")).collect()
            }
        })
    }
}

fn float(value: f64) -> Value {
    match value {
        value if value.is_nan() => json!("NaN"),
        f64::INFINITY => json!("Infinity"),
        f64::NEG_INFINITY => json!("-Infinity"),
        value => json!(value),
    }
}

/// A component whose `same` hands its argument to the host's, and gives what that gives. What it takes is a pointer and a
/// length to its code: a string, or a list.
fn guest(ty: &Type) -> Vec<u8> {
    let mut named = Vec::new();
    let ty = ty.wat(&mut named);
    let (mut types, mut aliases) = (String::new(), String::new());
    for (n, what) in named.iter().enumerate() {
        types += &format!("(type $n{n} ({what})) (export \"t{n}\" (type $t{n} (eq $n{n})))");
        aliases += &format!("(alias export $host \"t{n}\" (type $t{n}))");
    }
    let wat = format!(
        r#"(component
            (import "fuzz:it/host" (instance $host {types}
                (export "same" (func (param "x" {ty}) (result {ty})))))
            {aliases}
            (core module $libc
                (memory (export "m") 64) (global $at (mut i32) (i32.const 1024))
                (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                    (global.get $at)
                    (global.set $at
                        (i32.and (i32.add (i32.add (global.get $at) (local.get 3)) (i32.const 7)) (i32.const -8)))))
            (core instance $libc (instantiate $libc))
            (core func $same
                (canon lower (func $host "same") (memory (core memory $libc "m")) (realloc (core func $libc "realloc"))))
            (core module $m
                (import "" "same" (func $same (param i32 i32 i32)))
                (func (export "same") (param i32 i32) (result i32)
                    (call $same (local.get 0) (local.get 1) (i32.const 16)) (i32.const 16)))
            (core instance $i (instantiate $m (with "" (instance (export "same" (func $same))))))
            (func (export "same") (param "x" {ty}) (result {ty})
                (canon lift (core func $i "same") (memory (core memory $libc "m")) (realloc (core func $libc "realloc")))))"#
    );
    wat::parse_str(&wat).unwrap_or_else(|e| panic!("{e}\n{wat}"))
}

mod many {
    isopod::world!({
        world: "many",
        inline: "
            package fuzz:it;
            interface host {
                type eight = tuple<u8, s64, bool, char, string, list<string>, option<option<u32>>, result<list<u8>, string>>;
                same: func(x: list<eight>) -> list<eight>;
            }
            world many {
                import host;
                use host.{eight};
                export same: func(x: list<eight>) -> list<eight>;
            }
        ",
    });
}

#[derive(Clone)]
struct Same;

impl host::Host for Same {
    async fn same(&mut self, x: Vec<Eight>) -> Vec<Eight> {
        x
    }
}

static TYPED: LazyLock<ManyFunction> = LazyLock::new(|| {
    let plain = |name| Type::Plain(name);
    let octets = Type::List(plain("u8").into());
    let eight = Type::Tuple(vec![
        plain("u8"),
        plain("s64"),
        plain("bool"),
        plain("char"),
        plain("string"),
        Type::List(plain("string").into()),
        Type::Option(Type::Option(plain("u32").into()).into()),
        Type::Result([Some(octets.into()), Some(plain("string").into())]),
    ]);
    let builder = HOST.function("many").component_bytes(guest(&Type::List(eight.into()))).imports(Same);
    block_on(builder.load_typed::<Many>()).unwrap()
});

fn typed(input: &mut Unstructured<'_>) -> Result<()> {
    let given = Vec::<Eight>::arbitrary(input)?;
    assert_eq!(block_on(TYPED.same(&given)).unwrap().value, given);
    assert_eq!(TYPED.as_ref().call_blocking::<Vec<Eight>>("same", (&given,)).unwrap().value, given);
    Ok(())
}

fn dynamic(input: &mut Unstructured<'_>) -> Result<()> {
    let ty = match Type::any(input, 3)? {
        ty @ (Type::List(_) | Type::Plain("string")) => ty,
        ty => Type::List(ty.into()),
    };
    let builder = HOST.function("any").component_bytes(guest(&ty));
    let builder = builder.import("fuzz:it/host", "same", async |_, (x,): (Value,)| x);
    let function = builder.load_blocking().unwrap();
    for _ in 0..4 {
        let given = ty.value(input)?;
        let back = function.call_blocking::<Value>("same", (&given,)).unwrap().value;
        assert_eq!(back, given, "{:?}", function.exports());
    }
    Ok(())
}

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let mut input = Unstructured::new(bytes);
    let done = match bool::arbitrary(&mut input) {
        Ok(true) => typed(&mut input),
        _ => dynamic(&mut input),
    };
    if done.is_ok() { Corpus::Keep } else { Corpus::Reject }
});
