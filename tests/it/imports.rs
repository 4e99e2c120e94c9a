//! Host functions by closure, with serde values, against real components.

use crate::support::{built, host, text};
use isopod::{CallOptions, Context, ErrorKind, Function, FunctionBuilder, Limits, ms};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// A component that passes its calls on to an interface of two functions, and to one that stands by itself.
const PASSES_ON: &str = r#"(component
    (import "acme:db/query@1.2.0" (instance $db
        (export "add" (func (param "a" u32) (param "b-side" u32) (result u32)))
        (export "get" (func (param "key" string) (result string)))))
    (import "log" (func $log (param "level" u32)))
    (core module $libc (memory (export "m") 1)
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
    (core instance $libc (instantiate $libc))
    (core func $add (canon lower (func $db "add")))
    (core func $get (canon lower (func $db "get") (memory (core memory $libc "m")) (realloc (core func $libc "realloc"))))
    (core func $log' (canon lower (func $log)))
    (core module $m
        (import "w" "add" (func $add (param i32 i32) (result i32)))
        (import "w" "get" (func $get (param i32 i32 i32)))
        (import "w" "log" (func $log (param i32)))
        (func (export "add") (param i32 i32) (result i32) (call $add (local.get 0) (local.get 1)))
        (func (export "get") (param i32 i32) (result i32)
            (call $get (local.get 0) (local.get 1) (i32.const 8)) (i32.const 8))
        (func (export "log") (param i32) (call $log (local.get 0))))
    (core instance $w (export "add" (func $add)) (export "get" (func $get)) (export "log" (func $log')))
    (core instance $i (instantiate $m (with "w" (instance $w))))
    (func (export "add") (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $i "add")))
    (func (export "get") (param "key" string) (result string)
        (canon lift (core func $i "get") (memory (core memory $libc "m")) (realloc (core func $libc "realloc"))))
    (func (export "log") (param "level" u32) (canon lift (core func $i "log"))))"#;

#[derive(Deserialize)]
struct Sides {
    a: u32,
    b_side: u32,
}

fn passes_on() -> FunctionBuilder {
    host().function("passes-on").component_wat(PASSES_ON).limits(Limits::default().deadline(ms(2_000)))
}

fn complete() -> FunctionBuilder {
    passes_on()
        .import("acme:db/query", "add", async |_, Sides { a, b_side }| a + b_side)
        .import("acme:db/query@1.2.0", "get", async |_, (key,): (String,)| format!("{key}!"))
        .import("", "log", async |_, (_,): (u32,)| ())
}

#[tokio::test]
async fn closures_take_and_give_serde_values() {
    let function = complete().load().await.unwrap();
    let sum = function.call::<u32>("add", (2, 3)).await.unwrap();
    assert_eq!((sum.value, sum.usage.host_calls), (5, 1));
    assert_eq!(function.call::<String>("get", ("ä",)).await.unwrap().value, "ä!");
    function.call::<()>("log", (7,)).await.unwrap();
    // Whatever JSON says of them.
    let function = passes_on()
        .import("acme:db/query", "add", async |_, args: serde_json::Value| args["a"].as_u64().unwrap() * 2)
        .import("acme:db/query", "get", async |_, args: serde_json::Value| args)
        .import("", "log", async |_, _: serde::de::IgnoredAny| serde_json::Value::Null)
        .load()
        .await
        .unwrap();
    assert_eq!(function.call::<u32>("add", (2, 3)).await.unwrap().value, 4);
    function.call::<()>("log", (7,)).await.unwrap();
    let error = function.call::<String>("get", ("x",)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(
        text(&error)
            .contains(r#"the host function for "acme:db/query#get" does not fit the import: result: expected string"#),
        "{error:?}"
    );
}

#[tokio::test]
async fn the_context_is_that_of_the_call() {
    let seen: Arc<Mutex<Vec<Context>>> = Arc::default();
    let writes = Arc::clone(&seen);
    let function = passes_on()
        .import("acme:db/query", "add", move |context: Context, (a, b): (u32, u32)| {
            writes.lock().unwrap().push(context);
            async move { a + b }
        })
        .deny_at_call()
        .load()
        .await
        .unwrap();
    function.tenant("acme").call::<u32>("add", (1, 2)).await.unwrap();
    function.deadline(ms(1_000)).call::<u32>("add", (1, 2)).await.unwrap();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    let [first, second] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((first.function(), first.tenant(), second.tenant()), ("passes-on", Some("acme"), None));
    assert!(first.call_id() != second.call_id());
    assert!(first.remaining() <= ms(2_000) && second.remaining() <= ms(1_000) && !format!("{first:?}").is_empty());
    // What no closure is for is denied like any other import.
    let error = function.call::<String>("get", ("x",)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(
        error.denials()[0].explain().starts_with("acme:db/query@1.2.0#get was denied"),
        "{}",
        error.denials()[0].explain()
    );
}

#[tokio::test]
async fn every_import_has_a_closure_and_every_closure_an_import() {
    let error =
        passes_on().import("acme:db/query", "add", async |_, (a, b): (u32, u32)| a + b).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UngrantedImport);
    assert!(
        error.to_string().contains("acme:db/query@1.2.0#get") && error.to_string().contains("`.import("),
        "{error}"
    );
    assert!(!error.to_string().contains("#add"), "{error}");
    for (interface, function) in
        [("acme:db/query@1.3.0", "add"), ("acme:db/query", "put"), ("", "add"), ("acme:db/query", "add")]
    {
        // The last one is there already.
        let error = complete().import(interface, function, async |_, ()| ()).load().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse, "{interface}#{function}: {error}");
        assert!(error.to_string().contains("has no effect"), "{error}");
    }
    let shapes = host().function("shapes").component_file(built("shapes")).deny_at_call();
    let error = shapes.import("test:shapes/db", "get", async |_, (key,): (String,)| key).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(error.to_string().contains("has resources"), "{error}");
}

async fn adding<A, R, F>(call: impl Fn(A) -> F + Send + Sync + 'static) -> Function
where
    A: for<'de> Deserialize<'de>,
    R: Serialize,
    F: Future<Output = R> + Send + 'static,
{
    let limits = Limits::default().deadline(ms(50)).host_calls(5);
    passes_on()
        .limits(limits)
        .import("acme:db/query", "add", move |_, args| call(args))
        .deny_at_call()
        .load()
        .await
        .unwrap()
}

/// What goes wrong in a closure, or between it and the import, ends that call alone.
#[tokio::test]
async fn closures_are_bounded_like_all_host_functions() {
    let ends = async |function: &Function| function.call::<u32>("add", (1, 2)).await.unwrap_err();
    let stuck = adding(|(_, _): (u32, u32)| std::future::pending::<u32>()).await;
    let error = ends(&stuck).await;
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.usage().wall < ms(450), "{}", error.usage());
    let panics = adding(|(a, _): (u32, u32)| async move { if a == 1 { panic!("no row {a}") } else { a } }).await;
    let error = ends(&panics).await;
    assert_eq!(error.kind(), ErrorKind::HostPanic);
    assert!(error.to_string().contains("no row 1"), "{error}");
    assert_eq!(panics.call::<u32>("add", (2, 0)).await.unwrap().value, 2);
    for (error, expected) in [
        (ends(&adding(|(a,): (u32,)| async move { a }).await).await, "1 elements more than were asked for"),
        (
            ends(&adding(|(a, _): (String, u32)| async move { a.len() }).await).await,
            "expected a string, got integer `1`",
        ),
        (ends(&adding(|(_, _): (u32, u32)| async { -1 }).await).await, "expected u32, got -1"),
        (ends(&adding(|(_, _): (u32, u32)| async {}).await).await, "expected u32, got null"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Misuse, "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// An `async func` among the imports, on the engine that has them.
#[tokio::test]
async fn closures_serve_async_imports() {
    let wat = r#"(component
        (import "acme:db/query" (instance $db (export "add" (func async (param "a" u32) (result u32)))))
        (core func $add (canon lower (func $db "add")))
        (core module $m (import "w" "add" (func $add (param i32) (result i32)))
            (func (export "run") (result i32) (call $add (call $add (i32.const 1)))))
        (core instance $w (export "add" (func $add)))
        (core instance $i (instantiate $m (with "w" (instance $w))))
        (func (export "run") async (result u32) (canon lift (core func $i "run"))))"#;
    let limits = Limits::default().host_calls(2);
    let builder = host().function("async").component_wat(wat).limits(limits);
    let function = builder
        .import("acme:db/query", "add", async |context: Context, (a,): (u32,)| {
            tokio::task::yield_now().await;
            a + context.function().len() as u32
        })
        .load()
        .await
        .unwrap();
    let reply = function.call::<u32>("run", ()).await.unwrap();
    assert_eq!((reply.value, reply.usage.host_calls), (11, 2));
}

/// One host function for all that nothing else serves: told which it is, and strict about what it gives.
#[tokio::test]
async fn one_closure_serves_all_imports_that_no_other_does() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let book = Arc::clone(&asked);
    let builder = passes_on().import("acme:db/query", "add", async |_, (a, b): (u32, u32)| a * b);
    let function = builder
        .import_others(move |context, import, arguments: Vec<Value>| {
            book.lock().unwrap().push((context.function().to_owned(), import.to_string(), arguments));
            let answer = if import.ends_with("#get") { json!("found") } else { json!(null) };
            async move { answer }
        })
        .load()
        .await
        .unwrap();
    assert_eq!(function.call::<u32>("add", (2, 3)).await.unwrap().value, 6, "its own comes first");
    assert_eq!(function.call::<String>("get", ("k",)).await.unwrap().value, "found");
    function.call::<()>("log", (7,)).await.unwrap();
    let expected = [("acme:db/query@1.2.0#get", json!(["k"])), ("log", json!([7]))];
    let asked = std::mem::take(&mut *asked.lock().unwrap());
    let asked: Vec<(&str, Value)> = asked.iter().map(|(_, import, args)| (import.as_str(), json!(args))).collect();
    assert_eq!(asked, expected);

    let misfit = passes_on().import_others(async |_, _, _: Vec<Value>| json!({ "no": "string" })).load().await.unwrap();
    let error = misfit.call::<String>("get", ("k",)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse, "{}", text(&error));
    assert!(error.to_string().contains("acme:db/query@1.2.0#get"), "{}", text(&error));
}

/// It is for nobody's standard interfaces, and for none with resources.
#[tokio::test]
async fn one_closure_for_all_others_opens_nothing_else() {
    let nothing = async |_: Context, _: Arc<str>, _: Vec<Value>| json!(null);
    complete().import_others(nothing).load().await.unwrap();
    let standard = r#"(component (import "wasi:keyvalue/store@0.2.0-draft2" (instance (export "f" (func)))))"#;
    let error = host().function("f").component_wat(standard).import_others(nothing).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UngrantedImport, "{}", text(&error));
    let shapes = host().function("shapes").component_file(built("shapes")).import_others(nothing);
    let error = shapes.load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UngrantedImport, "{}", text(&error));
    assert!(error.to_string().contains("test:shapes/db"), "{}", text(&error));
}
