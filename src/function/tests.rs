//! Calls of both kinds, direct and by a `Val` for each byte, are told apart by nothing but their cost.

use super::*;
use crate::engine::value::Handle;
use serde::de::IgnoredAny;
use serde_bytes::{ByteBuf, Bytes};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Debug;

const LEAVES: [&str; 2] = ["(list u8)", "string"];

/// Types of results: all that have a direct form, and some that have none.
const RESULTS: [&str; 18] = [
    "",
    "(list u8)",
    "string",
    "(option (list u8))",
    "(option string)",
    "(result)",
    "(result (error string))",
    "(result (error (list u8)))",
    "(result (list u8))",
    "(result (list u8) (error string))",
    "(result (list u8) (error (list u8)))",
    "(result string)",
    "(result string (error string))",
    "(result string (error (list u8)))",
    "(tuple (list u8))",
    "(option (option string))",
    "(list s8)",
    "(result (option string) (error (list s8)))",
];

/// A component with a function for each of these results and each count and kind of up to two parameters. It gives back
/// its first argument, in the first case of its type or the second, depending on whether its length is odd.
fn wat() -> String {
    let mut params: Vec<Vec<&str>> = vec![vec![]];
    params.extend(LEAVES.map(|one| vec![one]));
    params.extend(LEAVES.iter().flat_map(|one| LEAVES.map(|two| vec![one, two])));
    params.push(vec!["u8"]);
    let mut exports = String::new();
    for params in &params {
        for (n, result) in RESULTS.iter().enumerate() {
            let core = match *result {
                "" => "none",
                "(result)" => "case",
                "(list u8)" | "string" | "(list s8)" | "(tuple (list u8))" => "plain",
                "(option (option string))" | "(result (option string) (error (list s8)))" => "nested",
                _ => "payload",
            };
            let names = ["x", "the-other"];
            let declared: String =
                params.iter().zip(names).map(|(ty, name)| format!("(param \"{name}\" {ty})")).collect();
            let declared = if result.is_empty() { declared } else { format!("{declared} (result {result})") };
            exports += &format!(
                "(func (export \"f{}-r{n}\") {declared} (canon lift (core func $i \"{core}{}\") (memory $mem) (realloc $realloc)))",
                params
                    .iter()
                    .map(|ty| match *ty {
                        "string" => "-t",
                        "u8" => "-u",
                        _ => "-o",
                    })
                    .collect::<String>(),
                if params == &["u8"] { 1 } else { params.len() * 2 },
            );
        }
    }
    let mut functions = String::new();
    for count in [0, 1, 2, 4] {
        let declared = format!("(param {}) (local $at i32) (local $len i32)", "i32 ".repeat(count));
        let read = match count {
            0 => "(local.set $at (i32.const 32)) (local.set $len (i32.const 3))",
            1 => "(local.set $at (i32.const 32)) (local.set $len (local.get 0))",
            _ => "(local.set $at (local.get 0)) (local.set $len (local.get 1))",
        };
        let odd = "(i32.and (local.get $len) (i32.const 1))";
        let store = |at: u32| {
            format!(
                "(i32.store (i32.const {at}) (local.get $at)) (i32.store (i32.const {}) (local.get $len)) (i32.const 0)",
                at + 4
            )
        };
        let declared = declared.replace("(param )", "");
        for (name, result, body) in [
            ("none", "", String::new()),
            ("case", "(result i32)", odd.to_owned()),
            ("plain", "(result i32)", store(0)),
            ("payload", "(result i32)", format!("(i32.store8 (i32.const 0) {odd}) {}", store(4))),
            (
                "nested",
                "(result i32)",
                format!("(i32.store8 (i32.const 0) {odd}) (i32.store8 (i32.const 4) (i32.const 1)) {}", store(8)),
            ),
        ] {
            let (params, locals) = declared.split_once(" (local").unwrap();
            functions += &format!("(func (export \"{name}{count}\") {params} {result} (local{locals} {read} {body})\n");
        }
    }
    format!(
        r#"(component
        (core module $m (memory (export "m") 2) (global $next (mut i32) (i32.const 1024)) (data (i32.const 32) "abc")
            (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                (global.get $next) (global.set $next (i32.add (global.get $next) (local.get 3))))
            {functions})
        (core instance $i (instantiate $m))
        (alias core export $i "m" (core memory $mem))
        (alias core export $i "realloc" (core func $realloc))
        {exports})"#
    )
}

/// The same function twice: called directly where it can be, and never.
async fn both(limits: Limits) -> [Function; 2] {
    let host = Host::new().unwrap();
    let load = async || host.function("f").component_wat(wat()).limits(limits.clone()).load().await.unwrap();
    let (direct, mut plain) = (load().await, load().await);
    Arc::get_mut(&mut plain.inner).unwrap().exports.forget_direct();
    [direct, plain]
}

/// What a caller sees of a call: the value or the error, and what was counted.
async fn seen<T: DeserializeOwned + Debug>(function: &Function, export: &str, args: impl Serialize) -> String {
    let ended = function.call::<T>(export, args).await;
    let usage = ended.as_ref().map_or_else(Error::usage, |reply| reply.usage);
    let ended = ended.map(|reply| reply.value);
    format!("{ended:?} {} {} {}", usage.bytes_in, usage.bytes_out, usage.peak_memory)
}

async fn compare<T: DeserializeOwned + Debug>([direct, plain]: &[Function; 2], export: &str, args: impl Serialize) {
    let (direct, plain) = (seen::<T>(direct, export, &args).await, seen::<T>(plain, export, &args).await);
    assert_eq!(direct, plain, "{export} as {}", std::any::type_name::<T>());
}

#[derive(Serialize)]
struct New<T>(T);

#[derive(Serialize)]
struct By<T> {
    x: T,
    the_other: T,
}

#[derive(Serialize)]
enum Cases {
    Unit,
    One(u8),
    Two(u8, u8),
    Named { x: u8 },
}

/// Fails, and hides why.
struct Sly;

impl Serialize for Sly {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&[0; 2_000]).map_err(|_| serde::ser::Error::custom("never mind"))
    }
}

fn lists_are_direct(function: &Function) -> usize {
    function.exports().iter().filter(|export| export.is_direct()).count()
}

#[tokio::test]
async fn arguments_of_every_form_are_taken_or_refused_alike() {
    let both = both(Limits::default().input(1_000)).await;
    assert_eq!(both.each_ref().map(lists_are_direct), [37, 0]);
    let bytes = Bytes::new(b"ab");
    let exports: Vec<String> = both[0].exports().iter().map(|export| export.name().to_owned()).collect();
    for export in &exports {
        let json = [
            json!(null),
            json!("aGk="),
            json!([]),
            json!({}),
            json!(["aGk="]),
            json!(["aGk"]),
            json!(["aGkh", "aGk="]),
            json!(["not base64"]),
            json!([[1, 2, 3]]),
            json!([[1, 2, 3], "text"]),
            json!([[1.0, 255]]),
            json!([[1, 256]]),
            json!([[1, -1], [1]]),
            json!([[1, null]]),
            json!([[1, "2"]]),
            json!([[1, [2]]]),
            json!([[1, {"x": 2}]]),
            json!([null]),
            json!([true, true]),
            json!([{"0": 1}, {}]),
            json!({"x": "aGk="}),
            json!({"x": "aGk=", "the-other": "aGkh"}),
            json!({"the_other": [1], "x": [2, 3]}),
            json!({"y": "aGk="}),
            json!({"x": 1.5}),
            json!(["aGk=", "aGk=", "aGk="]),
            json!(["A".repeat(2_000)]),
            json!([vec![7; 999], [1]]),
            json!([vec![7; 1_000], [1]]),
        ];
        for args in &json {
            compare::<Value>(&both, export, args).await;
        }
        macro_rules! compare_all {
            ($($args:expr),* $(,)?) => { $(compare::<Value>(&both, export, $args).await;)* };
        }
        compare_all!(
            (),
            (bytes,),
            (bytes, bytes),
            [bytes],
            ([1u8, 2], vec![3u8]),
            ("text", bytes),
            (bytes, "text"),
            ("text", "other"),
            (String::new(),),
            (Some(bytes),),
            (Some(Some("text")), None::<u8>),
            (New(bytes), New("text")),
            New((bytes,)),
            By { x: bytes, the_other: bytes },
            By { x: "text", the_other: "other" },
            BTreeMap::from([("x", bytes)]),
            ('c', 'd'),
            (1u8,),
            (1.5f32, i128::MIN),
            ([Some(1u8), None],),
            ([New(1u8)], [1.0, 300.0]),
            ([u128::MAX],),
            ([1u64, 2], [3i8, -1]),
            ([Cases::Unit, Cases::Unit],),
            ([Cases::One(1)],),
            ([Cases::Two(1, 2)],),
            ([Cases::Named { x: 1 }],),
            (Cases::Unit, Cases::One(1)),
            (Cases::Two(1, 2), Cases::Named { x: 1 }),
            Cases::One(1),
            (Sly,),
            ([Sly], [Sly]),
            (bytes, Sly),
        );
    }
}

#[derive(Debug, serde::Deserialize)]
struct Taken<T>(#[allow(dead_code)] T);

#[derive(Debug, serde::Deserialize)]
#[allow(dead_code)]
struct Record {
    x: u8,
}

#[derive(Debug, serde::Deserialize)]
#[allow(dead_code)]
enum Outcome {
    Ok(Vec<u8>),
    Err {
        x: u8,
    },
    #[serde(rename = "text")]
    Text,
}

/// Borrows, where it can.
#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
#[allow(dead_code)]
enum Any {
    Number(u8),
    Bytes(ByteBuf),
    Text(String),
    Option(Option<Vec<u8>>),
}

#[tokio::test]
async fn results_are_read_alike_whatever_they_are_asked_as() {
    let both = both(Limits::default().output(1_000).transfer(1_000_000)).await;
    let exports: Vec<String> = both[0].exports().iter().map(|export| export.name().to_owned()).collect();
    for export in &exports {
        let params = export.split_once("-r").unwrap().0;
        // Even and odd, empty, no UTF-8, and more than the result may have.
        for first in ["", "text", "odd", "\u{fe}", "a name", &"x".repeat(1_001)] {
            macro_rules! compare_all {
                ($($ty:ty),* $(,)?) => { $(match params {
                    "f" => compare::<$ty>(&both, export, ()).await,
                    "f-u" => compare::<$ty>(&both, export, (first.len().min(200),)).await,
                    "f-o" => compare::<$ty>(&both, export, (Bytes::new(first.as_bytes()),)).await,
                    "f-t" => compare::<$ty>(&both, export, (first,)).await,
                    "f-o-o" => compare::<$ty>(&both, export, (Bytes::new(b"\xff"), Bytes::new(first.as_bytes()))).await,
                    "f-t-t" => compare::<$ty>(&both, export, (first, first)).await,
                    "f-o-t" => compare::<$ty>(&both, export, (Bytes::new(first.as_bytes()), first)).await,
                    _ => compare::<$ty>(&both, export, (first, Bytes::new(first.as_bytes()))).await,
                })* };
            }
            compare_all!(
                Value,
                IgnoredAny,
                (),
                ByteBuf,
                Vec<u8>,
                String,
                Taken<Vec<u8>>,
                Option<ByteBuf>,
                Option<String>,
                Option<Option<Vec<u8>>>,
                Vec<Option<u8>>,
                Vec<Taken<u16>>,
                Vec<f64>,
                Vec<IgnoredAny>,
                Vec<Vec<u8>>,
                Vec<Handle>,
                Handle,
                [u8; 4],
                (u8, u8, u8),
                u8,
                bool,
                char,
                Record,
                Outcome,
                Any,
                Vec<Any>,
                BTreeMap<String, Value>,
                std::result::Result<ByteBuf, String>,
                std::result::Result<String, Vec<u8>>,
                std::result::Result<(), ()>,
                std::result::Result<Option<u8>, Value>,
            );
        }
    }
}

/// It writes to so much memory at once.
const FILLS: &str = r#"(component
    (core module $m (memory 1000) (func (export "run") (param i32)
        (memory.fill (i32.const 0) (i32.const 1) (local.get 0))))
    (core instance $i (instantiate $m))
    (func (export "run") (param "bytes" u32) (canon lift (core func $i "run"))))"#;

#[tokio::test]
async fn a_function_that_held_its_thread_is_known_by_it_for_a_while() {
    let host = Host::new().unwrap();
    let function = host.function("fills").component_wat(FILLS).load().await.unwrap();
    let call = async |bytes: u32| drop(function.call::<()>("run", (bytes,)).await.unwrap());
    call(65_000_000).await;
    assert!(function.inner.pace.holds());
    call(0).await;
    assert!(function.inner.pace.holds(), "a quick call does not hide it");
    // The machine may hold up one of them, which then counts as well.
    for _ in 0..10_000 {
        call(0).await;
        if !function.inner.pace.holds() {
            return;
        }
    }
    panic!("it is never forgotten");
}
