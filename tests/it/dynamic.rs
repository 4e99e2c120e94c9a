//! Calls by serde values against real components: shapes as JSON, handles in a session, async exports.

use crate::support::{built, host, text};
use isopod::{ErrorKind, Function, Handle, Limit, Limits};
use serde_json::{Value, json};

async fn shapes() -> Function {
    host().function("shapes").component_file(built("shapes")).deny_at_call().load().await.unwrap()
}

#[tokio::test]
async fn every_shape_has_a_json_form() {
    let shapes = shapes().await;
    let item = json!({
        "flag": true, "byte": 255, "short": 65535, "int": u32::MAX, "long": u64::MAX,
        "sbyte": -128, "sshort": -32768, "sint": i32::MIN, "slong": i64::MIN,
        "single": 1.5, "double": "NaN", "letter": "ß", "text": "ä\0🦀", "maybe": {"some": null},
        "place": {"x": -1, "y": 1}, "names": ["a", ""], "blob": "AP8=", "pair": [1, "p"], "outcome": {"Err": "e"},
    });
    let same = async |export: &str, value: Value| {
        let reply = shapes.call::<Value>(export, (&value,)).await.unwrap_or_else(|e| panic!("{value}: {e:?}"));
        assert_eq!(reply.value, value, "{export}");
    };
    same("echo-item", item).await;
    for shape in [json!("empty"), json!({"circle": 2.5}), json!({"named": ["n", {"x": 0, "y": 1}]})] {
        same("types#echo-shape", shape).await;
    }
    same("test:shapes/types#echo-color", json!("deep_blue")).await;
    same("test:shapes/types@0.1.0#echo-permissions", json!(["read", "run_as_root"])).await;
    for outcome in [json!({"Ok": null}), json!({"Err": "red"})] {
        same("echo-outcome", outcome).await;
    }
    // By name, and as the types of the caller's own program.
    let reply = shapes.call::<String>("greet", json!({ "name": "you" })).await.unwrap();
    assert_eq!(reply.value, "Hello, you!");
    assert!((reply.usage.bytes_in, reply.usage.bytes_out) == (3, 11), "{:?}", reply.usage);
}

/// An exported function is described as it is: in WIT for people, in JSON Schema for programs.
#[tokio::test]
async fn exports_describe_themselves() {
    let shapes = shapes().await;
    let find = |name: &str| shapes.exports().iter().find(|export| export.name() == name).unwrap();
    assert_eq!(find("greet").to_string(), "greet(name: string) -> string");
    let schema = find("test:shapes/types@0.1.0#echo-color").json_schema();
    assert_eq!(
        schema["parameters"]["properties"]["c"],
        json!({ "type": "string", "enum": ["red", "green", "deep_blue"] })
    );
    assert_eq!(schema["result"], schema["parameters"]["properties"]["c"]);
}

#[tokio::test]
async fn handles_live_in_their_session() {
    let shapes = shapes().await;
    let reply = shapes
        .session(async |s| {
            let five: Handle = s.call("[constructor]counter", (5,)).await?;
            assert_eq!(s.call::<u32>("[method]counter.add", (five, 2)).await?, 7);
            let ten: Handle = s.call("make-counter", (10,)).await?;
            assert_eq!(s.call::<u32>("[static]counter.sum", (five, ten)).await?, 17);
            // `consume` takes it away; then it is gone, and the session goes on.
            assert_eq!(s.call::<u32>("consume", (ten,)).await?, 10);
            let gone = s.call::<u32>("[method]counter.value", (ten,)).await.unwrap_err();
            assert_eq!(gone.kind(), ErrorKind::WrongArguments, "{}", text(&gone));
            s.release(five).await?;
            s.release(five).await?;
            assert!(s.call::<u32>("[method]counter.value", (five,)).await.is_err());
            // A number is no handle.
            assert!(s.call::<u32>("[method]counter.value", (0,)).await.is_err());
            s.call::<Handle>("make-counter", (1,)).await
        })
        .await
        .unwrap();
    let stale = reply.value;
    let error = shapes
        .session(async |s| {
            for _ in 0..5 {
                s.call::<Handle>("make-counter", (1,)).await?;
            }
            s.call::<u32>("[method]counter.value", (stale,)).await
        })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongArguments, "{}", text(&error));
    // Outside of a session a handle would be of no use.
    let error = shapes.call::<Handle>("make-counter", (1,)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongExport);
    assert!(error.to_string().contains("session"), "{error}");
}

/// A call that is refused for its size gives nothing away.
#[tokio::test]
async fn a_refused_call_uses_up_no_handle() {
    let limits = Limits::default().input(10);
    let shapes = host().function("shapes").component_file(built("shapes")).limits(limits).deny_at_call();
    let reply = shapes
        .load()
        .await
        .unwrap()
        .session(async |s| {
            let counter: Handle = s.call("make-counter", (3,)).await?;
            s.call::<String>("greet", ("ab",)).await?;
            s.call::<u32>("[method]counter.value", (counter,)).await.map(|value| assert_eq!(value, 3))?;
            let error = s.call::<u32>("consume", (counter,)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::LimitExceeded(Limit::Input), "{}", text(&error));
            s.release(counter).await
        })
        .await
        .unwrap();
    assert_eq!(reply.usage.bytes_in, 10);
}

/// Whoever takes bytes out of a dynamic call pays for a value each, and is told which limit that is.
#[tokio::test]
async fn long_lists_are_bounded_as_what_they_take_in_the_host() {
    let wat = r#"(component
        (core module $m (memory (export "m") 16)
            (func (export "f") (param i32) (result i32)
                (i32.store (i32.const 4) (local.get 0)) (i32.const 0)))
        (core instance $i (instantiate $m))
        (func (export "bytes") (param "n" u32) (result (list u8)) (canon lift (core func $i "f")
            (memory (core memory $i "m")))))"#;
    let load = |limits| host().function("list").component_wat(wat).limits(limits).load();
    let function = load(Limits::default()).await.unwrap();
    let reply = function.call::<serde_bytes::ByteBuf>("bytes", (100_000,)).await.unwrap();
    assert_eq!((reply.value.len(), reply.usage.bytes_out), (100_000, 100_000));
    let error = function.call::<serde_bytes::ByteBuf>("bytes", (1_000_000,)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutputTooLarge, "{}", text(&error));
    assert!(error.to_string().contains("Limits::transfer"), "{error}");
    let function = load(Limits::default().transfer(40_000_000)).await.unwrap();
    let reply = function.call::<serde_bytes::ByteBuf>("bytes", (1_000_000,)).await.unwrap();
    assert_eq!(reply.value.len(), 1_000_000);
}

#[tokio::test]
async fn a_session_is_one_instance_and_ends_with_its_guest() {
    let shapes = shapes().await;
    let counts = shapes.session(async |s| Ok([s.call::<u32>("count", ()).await?, s.call("count", ()).await?])).await;
    assert_eq!(counts.unwrap().value, [1, 2]);
    let reply = shapes
        .session(async |s| {
            let counter: Handle = s.call("make-counter", (u32::MAX,)).await?;
            let trap = s.call::<u32>("[method]counter.add", (counter, 1)).await.unwrap_err();
            assert_eq!(trap.kind(), ErrorKind::Trapped, "{}", text(&trap));
            Ok(s.call::<u32>("count", ()).await.is_err())
        })
        .await;
    assert!(reply.unwrap().value, "a guest that trapped was called again");
}

#[tokio::test]
async fn async_exports_are_called_like_others() {
    let load = |limits| host().function("async").component_file(built("async-shapes")).limits(limits).load();
    for limits in [Limits::default(), Limits::default().fuel(10_000_000)] {
        let reply = load(limits).await.unwrap().call::<String>("delay-echo", ("hi",)).await.unwrap();
        assert_eq!(reply.value, "hi");
    }
    let function = load(Limits::default().output(1_000)).await.unwrap();
    let error = function.call::<String>("delay-bytes", (vec![7u8; 1_001],)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutputTooLarge, "{}", text(&error));
    let function = load(Limits::default().transfer(1_000)).await.unwrap();
    let error = function.call::<String>("delay-bytes", (vec![7u8; 5_000],)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded(Limit::Transfer), "{}", text(&error));
}
