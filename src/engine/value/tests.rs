//! Values into WIT types and out of them, through JSON, through Rust types, and through a component.

use super::*;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde::ser::{self, Serialize, Serializer};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, Store};

/// Arguments as wasmtime is given them.
pub(in crate::engine) fn lower<A: Serialize + ?Sized>(
    args: &A,
    params: &[Param],
    handles: &mut Handles,
    max_bytes: u64,
) -> Result<(Vec<Val>, u64), Mismatch> {
    let (args, bytes) = super::lower(args, params, handles, max_bytes)?;
    Ok((args.into_iter().map(Lowered::val).collect(), bytes))
}

/// A result as wasmtime gives it.
pub(in crate::engine) fn lift<T: DeserializeOwned>(
    result: Option<&Val>,
    ty: Option<&Type>,
    handles: &mut Handles,
) -> Result<T, Mismatch> {
    super::lift(result.map(Piece::Val), ty, handles)
}

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
        ("$v", json!({"at-point": {"pos-x": 1.5, "pos-y": 0.5}}), json!({"at_point": {"pos_x": 1.5, "pos_y": 0.5}})),
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
fn variants_with_fields_that_do_not_fit_say_where() {
    let wrong = |value: Shape, wat: &str| to_val(value, &shape(wat)).map(drop).unwrap_err().to_string();
    let defs = r#"(type $p' (record (field "pos-x" f64) (field "z" (tuple u8)))) (import "p" (type $p (eq $p')))
        (type $v' (variant (case "nothing" u8) (case "circle") (case "pair" (option (tuple u8 u8 u8))) (case "at-point" $p)))
        (import "v" (type $v (eq $v')))"#;
    let other = |value: Shape| to_val(value, &ty_with(defs, "(option $v)")).map(drop).unwrap_err().to_string();
    let at_point = || Shape::AtPoint { pos_x: 1.0, pos_y: 2.0 };
    assert_eq!(other(Shape::Nothing), r#"parameter "x": expected {"nothing": ..} with u8, got "nothing""#);
    assert_eq!(other(Shape::Circle(1.0)), r#"parameter "x": the case "circle" has no payload; pass null"#);
    assert_eq!(other(Shape::Pair(1, 2)), r#"parameter "x".pair: expected 3 elements, got 2"#);
    assert_eq!(other(at_point()), r#"parameter "x".at_point: unknown field "pos_y"; the fields are: pos_x, z"#);
    assert_eq!(wrong(at_point(), "u8"), r#"parameter "x": expected u8, got the variant "at-point""#);
    assert_eq!(wrong(at_point(), "(result)"), r#"parameter "x": unknown case "at-point"; the cases are: ok, err"#);
    let params = [Param { name: "pair".into(), ty: ty("(tuple u8 u8)") }];
    let error = lower(&Shape::Pair(1, 2), &params, &mut Handles::default(), 100).unwrap_err().to_string();
    assert_eq!(error, r#"expected the arguments as a list, or as an object of parameters, got the variant "pair""#);
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
        (from_val::<u8>(&Val::U64(300), &ty("u64")).map(drop), "result: expected u8, got integer `300`"),
        (
            from_val::<(u8,)>(&Val::Tuple(vec![Val::U8(1); 2]), &ty("(tuple u8 u8)")).map(drop),
            "result: 1 elements more than were asked for",
        ),
        (
            from_val::<Vec<String>>(&Val::List(vec![Val::U16(1)]), &ty("(list u16)")).map(drop),
            "result[0]: expected a string, got integer `1`",
        ),
        (
            from_val::<Colour>(&Val::Enum("green".into()), &shape("$c")).map(drop),
            "result: unknown variant `green`, expected `red` or `dark_blue`",
        ),
        (lift::<u8>(None, None, &mut Handles::default()).map(drop), "result: expected u8, got unit value"),
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
        assert!(matches!(fits(&ten, &params, max), Err(Mismatch::TooLarge)));
    }
    let octets = [Param { name: "x".into(), ty: ty("(list u8)") }];
    for text in ["AQIDBAUGBwgJCg==", "AQIDBAUGBwgJCg"] {
        assert_eq!(fits(&json!([text]), &octets, 10).unwrap().1, 10);
        assert!(matches!(fits(&json!([text]), &octets, 9), Err(Mismatch::TooLarge)));
    }
    // Elements without a payload count nevertheless, and so do the names that a guest may make long.
    let empties = [Param { name: "x".into(), ty: ty("(list (list string))") }];
    assert!(matches!(fits(&json!([vec![json!([]); 100]]), &empties, 99), Err(Mismatch::TooLarge)));
    assert_eq!(fits(&json!([vec![json!([]); 100]]), &empties, 100).unwrap().1, 100);
    let name = "n".repeat(10_000);
    let defs = format!(r#"(type $p' (record (field "{name}" u8))) (import "p" (type $p (eq $p')))"#);
    let long = [Param { name: "x".into(), ty: ty_with(&defs, "(list $p)") }];
    let args = json!([vec![json!({ name: 1 }); 100]]);
    assert!(matches!(fits(&args, &long, 1000), Err(Mismatch::TooLarge)));
    assert!(fits(&args, &long, 100_000).is_ok());
    // The names that the caller writes are no payload, however little of it is left.
    let points = [Param { name: "x".into(), ty: shape("(list $p)") }];
    let args = json!([[{"pos-x": 1, "pos-y": 2}, {"pos-x": 3, "pos-y": 4}]]);
    assert_eq!(fits(&args, &points, 32).unwrap().1, 32);
    assert!(matches!(fits(&args, &points, 31), Err(Mismatch::TooLarge)));

    // A foreign implementation that swallows the error does not get around it.
    struct Sly;
    impl Serialize for Sly {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_str("0123456789").map_err(|_| ser::Error::custom("never mind"))
        }
    }
    assert!(matches!(lower(&(Sly,), &params, &mut Handles::default(), 5), Err(Mismatch::TooLarge)));
}
