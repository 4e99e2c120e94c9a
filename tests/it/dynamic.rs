//! Calls by serde values against real components: shapes as JSON, handles in a session, async exports.

use crate::support::{built, host, text};
use isopod::{ErrorKind, Function, Handle, Limit, Limits, ms};
use serde_bytes::{ByteBuf, Bytes};
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

/// A list of anything but bytes is a value for each element in the host, and so are bytes within something else. Whoever
/// takes many out of a dynamic call is told which limit that is.
#[tokio::test]
async fn long_lists_are_bounded_as_what_they_take_in_the_host() {
    let wat = r#"(component
        (core module $m (memory (export "m") 32)
            (func (export "f") (param i32) (result i32)
                (i32.store (i32.const 4) (local.get 0)) (i32.const 0)))
        (core instance $i (instantiate $m))
        (func (export "words") (param "n" u32) (result (list u16)) (canon lift (core func $i "f")
            (memory (core memory $i "m"))))
        (func (export "bytes") (param "n" u32) (result (list u8)) (canon lift (core func $i "f")
            (memory (core memory $i "m")))))"#;
    let load = |limits| host().function("list").component_wat(wat).limits(limits).load();
    let function = load(Limits::default()).await.unwrap();
    let reply = function.call::<Vec<u16>>("words", (100_000,)).await.unwrap();
    assert_eq!((reply.value.len(), reply.usage.bytes_out), (100_000, 200_000));
    let reply = function.call::<ByteBuf>("bytes", (100_000,)).await.unwrap();
    assert_eq!((reply.value.len(), reply.usage.bytes_out), (100_000, 100_000));
    for export in ["words", "bytes"] {
        let error = function.call::<Value>(export, (1_000_000,)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutputTooLarge, "{}", text(&error));
        assert!(error.to_string().contains("Limits::transfer"), "{error}");
    }
    let function = load(Limits::default().transfer(40_000_000)).await.unwrap();
    let reply = function.call::<ByteBuf>("bytes", (1_000_000,)).await.unwrap();
    assert_eq!(reply.value.len(), 1_000_000);
}

/// Exports of bytes to bytes, which pass in one piece.
const DIRECT: &str = r#"(component
    (core module $m (memory (export "m") 1 200)
        (func (export "realloc") (param i32 i32 i32 i32) (result i32)
            (drop (memory.grow (i32.const 90))) (i32.const 1024))
        (func $give (param $at i32) (param $len i32) (result i32)
            (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $len)) (i32.const 0))
        (func (export "echo") (param i32 i32) (result i32) (call $give (local.get 0) (local.get 1)))
        (func (export "huge") (param i32 i32) (result i32) (call $give (i32.const 0) (i32.const 5000000)))
        (func (export "outside") (param i32 i32) (result i32) (call $give (i32.const -16) (i32.const 3)))
        (func (export "spin") (param i32 i32) (result i32) (loop $l (br $l)) (i32.const 0))
        (func (export "trap") (param i32 i32) (result i32) unreachable)
        (func (export "grow") (param i32 i32) (result i32)
            (if (i32.eq (memory.grow (i32.const 100)) (i32.const -1)) (then unreachable)) (i32.const 0)))
    (core instance $i (instantiate $m))
    (alias core export $i "m" (core memory $mem))
    (alias core export $i "realloc" (core func $realloc))
    EXPORTS)"#;

fn direct(limits: Limits) -> isopod::FunctionBuilder {
    let export = |name: &str| {
        format!(
            r#"(func (export "{name}") (param "data" (list u8)) (result (list u8))
                (canon lift (core func $i "{name}") (memory $mem) (realloc $realloc)))"#
        )
    };
    let exports = ["echo", "huge", "outside", "spin", "trap", "grow"].map(export).concat();
    host().function("direct").component_wat(DIRECT.replace("EXPORTS", &exports)).limits(limits)
}

/// Bytes that pass in one piece count as what they are: megabytes pass within the defaults, and every limit holds.
#[tokio::test]
async fn bytes_in_one_piece_are_bounded_by_every_limit() {
    let function = direct(Limits::default()).load().await.unwrap();
    let large = vec![7u8; 4 << 20];
    let reply = function.call::<ByteBuf>("echo", (Bytes::new(&large),)).await.unwrap();
    assert!(reply.value == large && reply.usage.bytes_in == 4 << 20 && reply.usage.bytes_out == 4 << 20);

    let ends = async |limits: Limits, export: &str, bytes: usize| {
        let function = direct(limits.deadline(ms(200))).load().await.unwrap();
        let error = function.call::<ByteBuf>(export, (Bytes::new(&large[..bytes]),)).await.unwrap_err();
        (error.kind(), text(&error), error.usage())
    };
    let limits = || Limits::default();
    // It is refused before there is an instance.
    let (kind, _, usage) = ends(limits().input(1_000), "trap", 1_001).await;
    assert_eq!((kind, usage.peak_memory), (ErrorKind::LimitExceeded(Limit::Input), 0));
    for (limits, export, bytes, expected, says) in [
        (limits().output(1_000), "echo", 1_001, ErrorKind::OutputTooLarge, "more than 1000 bytes"),
        // What is beyond the transfer limit is not even copied.
        (limits().output(1_000), "huge", 0, ErrorKind::OutputTooLarge, "more than 4194304 bytes in the host"),
        (limits().transfer(1_000), "echo", 1_001, ErrorKind::OutputTooLarge, "more than 1000 bytes in the host"),
        (limits(), "outside", 0, ErrorKind::GuestAbi, "out of bounds"),
        (limits(), "trap", 0, ErrorKind::Trapped, "unreachable"),
        (limits().memory(8 << 20), "grow", 1, ErrorKind::OutOfMemory, "8388608 bytes of memory"),
        // There is no room for the argument.
        (limits().memory(1 << 20), "echo", 200_000, ErrorKind::GuestAbi, "beyond end of memory"),
        (limits().fuel(10_000), "spin", 0, ErrorKind::OutOfFuel, "10000 units"),
        (limits(), "spin", 0, ErrorKind::TimedOut, "deadline"),
    ] {
        let (kind, text, _) = ends(limits, export, bytes).await;
        assert!(kind == expected && text.contains(says), "{export}: {text}");
    }
}

/// A session's calls are direct as well, and are counted together.
#[tokio::test]
async fn a_session_counts_bytes_in_one_piece_together() {
    let function = direct(Limits::default().input(20).output(15)).load().await.unwrap();
    let ends = function.session(async |s| {
        s.call::<ByteBuf>("echo", (Bytes::new(&[1; 10]),)).await?;
        let error = s.call::<ByteBuf>("echo", (Bytes::new(&[1; 11]),)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded(Limit::Input), "{}", text(&error));
        s.call::<ByteBuf>("echo", (Bytes::new(&[1; 10]),)).await
    });
    let error = ends.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutputTooLarge, "{}", text(&error));
    let reply = function.session(async |s| {
        let trap = s.call::<ByteBuf>("trap", (Bytes::new(b""),)).await.unwrap_err();
        assert_eq!(trap.kind(), ErrorKind::Trapped, "{}", text(&trap));
        Ok(s.call::<ByteBuf>("echo", (Bytes::new(b""),)).await.is_err())
    });
    assert!(reply.await.unwrap().value, "a guest that trapped was called again");
}

/// Among hundreds of exports, by every form of a name.
#[tokio::test]
async fn exports_are_found_by_their_names() {
    let mut exports = String::new();
    for n in 0..400 {
        exports += &format!(
            r#"(func $f{n} (result u32) (canon lift (core func $i "f{n}"))) (export "f{n}" (func $f{n}))
            (instance $i{n} (export "only{n}" (func $f{n})) (export "f0" (func $f{n})) (export "same" (func $f{n})))
            (export "acme:tools/i{n}@1.{n}.0" (instance $i{n}))"#
        );
    }
    let core: String = (0..400).map(|n| format!(r#"(func (export "f{n}") (result i32) (i32.const {n}))"#)).collect();
    let wat = format!("(component (core module $m {core}) (core instance $i (instantiate $m)) {exports})");
    let function = host().function("many").component_wat(wat).load().await.unwrap();
    assert_eq!(function.exports().len(), 1_600);
    assert_eq!(function.exports()[0].name(), "f0");
    for n in [0, 7, 70, 399] {
        for asked in [
            format!("f{n}"),
            format!("only{n}"),
            format!("i{n}#same"),
            format!("acme:tools/i{n}#f0"),
            format!("acme:tools/i{n}@1.{n}.0#only{n}"),
        ] {
            assert_eq!(function.call::<u32>(&asked, ()).await.unwrap().value, n, "{asked}");
        }
    }
    for asked in ["", "f1000", "f", "i1#only2", "acme:tools/i1@1.2.0#same", "tools/i1#same"] {
        let error = function.call::<u32>(asked, ()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongExport);
        assert!(error.to_string().contains(r#"it has "f0", "#), "{asked}: {error}");
    }
    let error = function.call::<u32>("same", ()).await.unwrap_err();
    assert!(error.to_string().contains("give more of its name"), "{error}");
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
