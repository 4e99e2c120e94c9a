//! What people read when something goes wrong: every kind of error that a load or a call can end with, provoked for
//! real, and its whole text kept as a snapshot. `cargo insta review`, or `INSTA_UPDATE=always`, accepts a new wording.

use crate::calls::{Faulty, NEEDY, Needy};
use crate::limits;
use crate::support::{built, host, runner};
use isopod::{
    CallOptions, Clocks, Command, Error, ErrorKind, Function, Host, KIB, Limits, LoadLimits, Random, Result, Trust, ms,
};
use serde_json::{Value, json};

/// The texts of all errors, each under a name.
#[derive(Default)]
struct Texts(String);

impl Texts {
    fn add<T>(&mut self, name: &str, kind: ErrorKind, end: Result<T>) {
        let error = end.err().unwrap_or_else(|| panic!("{name} went well"));
        assert_eq!(error.kind(), kind, "{name}: {error:?}");
        self.0.push_str(&format!("## {name}\n{}\n\n", stable(&error)));
    }
}

/// The text without what differs from run to run.
fn stable(error: &Error) -> String {
    let mut text = format!("{error:?}").replace(env!("CARGO_MANIFEST_DIR"), "..");
    for (before, after) in [("(busy ", ")"), ("free for ", ";")] {
        if let Some(start) = text.find(before).map(|at| at + before.len()) {
            let end = text[start..].find(after).map_or(text.len(), |at| start + at);
            text.replace_range(start..end, "[time]");
        }
    }
    text
}

async fn load(name: &str, wat: impl Into<String>) -> Result<Function> {
    host().function(name).component_wat(wat).load().await
}

fn bounded(wat: &str, limits: Limits) -> impl Future<Output = Result<Function>> + use<> {
    host().function("bounded").component_wat(wat).limits(limits).load()
}

#[tokio::test]
async fn texts_of_loading() {
    let host = host();
    let mut texts = Texts::default();
    let bytes = |bytes: &[u8]| host.function("f").component_bytes(bytes).load();
    use ErrorKind::*;
    texts.add("no component", Misuse, host.function("f").load().await);
    texts.add("no file", InvalidComponent, host.function("f").component_file("no/such.wasm").load().await);
    texts.add("a folder", InvalidComponent, host.function("f").component_file("src").load().await);
    texts.add("empty", InvalidComponent, bytes(b"").await);
    texts.add("not wasm", InvalidComponent, bytes(b"#!/bin/sh").await);
    texts.add("a core module", InvalidComponent, bytes(b"\0asm\x01\0\0\0").await);
    texts.add("an old encoding", InvalidComponent, bytes(b"\0asm\x0c\0\x01\0").await);
    texts.add("native code", InvalidComponent, bytes(b"\x7fELF\x02\x01\x01\0").await);
    texts.add("cut off", InvalidComponent, bytes(b"\0asm\x0d\0\x01\0\x01\xff").await);
    texts.add("not valid", InvalidComponent, load("f", r#"(component (core module (func (result i32))))"#).await);
    texts.add("bad text", InvalidComponent, load("f", "(component (import))").await);
    texts.add("exceptions are off", InvalidComponent, load("f", "(component (core module (tag)))").await);
    let many = format!("(component (core module $m) {})", "(core instance (instantiate $m))".repeat(65));
    texts.add("too many instances", TooComplex, load("f", many).await);
    let tables =
        format!("(component (core module $m {}) (core instance (instantiate $m)))", "(table 1 funcref)".repeat(17));
    texts.add("too many tables", TooComplex, load("f", tables).await);
    let big =
        host.function("f").component_wat("(component)").load_limits(LoadLimits::from(Trust::Own).component_bytes(4));
    texts.add("too many bytes", TooComplex, big.load().await);
    let instances = LoadLimits::from(Trust::Own).core_instances(1_000);
    let wide = host.function("f").component_wat("(component)").load_limits(instances);
    texts.add("a load limit beyond the pool", Misuse, wide.load().await);
    let memory = "(component (core module $m (memory 100)) (core instance (instantiate $m)))";
    texts.add("too much memory at the start", OutOfMemory, bounded(memory, Limits::default().memory(64 * KIB)).await);
    let needy = r#"(component
        (import "wasi:sockets/tcp@0.2.0" (instance)) (import "wasi:http/outgoing-handler@0.2.0" (instance))
        (import "wasi:keyvalue/store@0.2.0-draft" (instance))
        (import "acme:app/db@1.0.0" (instance (export "get" (func)))) (import "note" (func)))"#;
    texts.add("ungranted imports", UngrantedImport, load("f", needy).await);
    let typed =
        r#"(component (import "wasi:clocks/monotonic-clock@0.2.0" (instance (export "now" (func (result string))))))"#;
    texts.add("an import of another type", UngrantedImport, load("f", typed).await);
    let own = |grant: isopod::Grant| host.function("f").component_wat("(component)").grant(grant);
    texts.add("a grant without effect", Misuse, own(Clocks::fine().into()).load().await);
    let twice = host.function("f").component_file(built("command")).grant(isopod::Args::new(["a"]));
    texts.add("a grant given twice", Misuse, twice.grant(isopod::Args::new(["b"])).load().await);
    texts.add("no randomness to seed", Misuse, own(Random::seeded(1).into()).load().await);
    let never = isopod::Env::from_host("ISOPOD_TEST_NEVER_SET");
    texts.add(
        "no such variable",
        Misuse,
        host.function("f").component_file(built("command")).grant(never).load().await,
    );
    let contradictions = [
        Limits::default().fuel(1).busy(ms(1)),
        Limits::default().deadline(ms(5)).busy(ms(6)),
        Limits::default().deadline(ms(5)).queue_wait(ms(6)),
        Limits::default().output(100).transfer(10),
        Limits::default().memory(0),
        Limits::default().deadline(ms(0)),
    ];
    for limits in contradictions {
        texts.add("contradictory limits", Misuse, bounded("(component)", limits).await);
    }
    texts.add("an unknown limit", Misuse, Limits::from_json(r#"{"memory_mb": 1}"#));
    texts.add("a limit out of range", Misuse, Limits::from_json(r#"{"fuel": -1}"#));
    texts.add("no seats", Misuse, Host::builder().seats(0).build());
    texts.add("more seats than fit", Misuse, Host::builder().seats(1_000_000).build());
    texts.add("a tick out of range", Misuse, Host::builder().tick(ms(1_000)).build());
    texts.add("blocking in a runtime", Misuse, host.function("f").component_wat("(component)").load_blocking());
    insta::assert_snapshot!("loading", texts.0);
}

/// A component with an export for each way to end badly that needs no host function.
const BAD: &str = r#"(component
    (core module $m (memory (export "m") 2) (data (i32.const 16) "\ff\fe\fd")
        (func $inner unreachable)
        (func (export "trap") (call $inner))
        (func (export "divide") (drop (i32.div_u (i32.const 1) (i32.const 0))))
        (func (export "outside") (drop (i32.load (i32.const -8))))
        (func $deep (export "deep") (call $deep))
        (func (export "spin") (loop $l (br $l)))
        (func (export "grow") (if (i32.eq (memory.grow (i32.const 1000)) (i32.const -1)) (then unreachable)))
        (func (export "text") (result i32) (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 3)) (i32.const 0))
        (func (export "pointer") (result i32) (i32.store (i32.const 0) (i32.const -16)) (i32.store (i32.const 4) (i32.const 3)) (i32.const 0))
        (func (export "char") (result i32) (i32.const 0xd800))
        (func (export "much") (result i32) (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 100000)) (i32.const 0))
        (func (export "take") (param i32 i32 i32))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
    (core instance $i (instantiate $m))
    (alias core export $i "m" (core memory $mem))
    (func (export "trap") (canon lift (core func $i "trap")))
    (func (export "divide") (canon lift (core func $i "divide")))
    (func (export "outside") (canon lift (core func $i "outside")))
    (func (export "deep") (canon lift (core func $i "deep")))
    (func (export "spin") (canon lift (core func $i "spin")))
    (func (export "grow") (canon lift (core func $i "grow")))
    (func (export "text") (result string) (canon lift (core func $i "text") (memory $mem)))
    (func (export "pointer") (result string) (canon lift (core func $i "pointer") (memory $mem)))
    (func (export "char") (result char) (canon lift (core func $i "char")))
    (func (export "much") (result (list u8)) (canon lift (core func $i "much") (memory $mem)))
    (func (export "take") (param "count" u32) (param "label" string)
        (canon lift (core func $i "take") (memory $mem) (realloc (core func $i "realloc")))))"#;

#[tokio::test]
async fn texts_of_calls() {
    use ErrorKind::*;
    use isopod::Limit;
    let mut texts = Texts::default();
    let bad = load("bad", BAD).await.unwrap();
    for (export, kind) in [
        ("trap", Trapped),
        ("divide", Trapped),
        ("outside", Trapped),
        ("deep", Trapped),
        ("text", GuestAbi),
        ("pointer", GuestAbi),
        ("char", GuestAbi),
    ] {
        texts.add(export, kind, bad.call::<Value>(export, ()).await);
    }
    texts.add("no such export", WrongExport, bad.call::<()>("tarp", ()).await);
    texts.add("too few arguments", WrongArguments, bad.call::<()>("take", (1,)).await);
    texts.add("an argument out of range", WrongArguments, bad.call::<()>("take", (-1, "x")).await);
    texts.add(
        "an argument of another type",
        WrongArguments,
        bad.call::<()>("take", json!({"count": 1, "label": 2})).await,
    );
    texts.add("an unknown argument", WrongArguments, bad.call::<()>("take", json!({"count": 1, "lable": "x"})).await);
    texts.add("another result than asked for", Misuse, bad.call::<u32>("much", ()).await);
    texts.add("another kind: command", WrongExport, bad.command(Command::new()).await);
    texts.add("another kind: event", WrongExport, bad.handle(Default::default()).await);
    texts.add("another kind: http", WrongExport, bad.http(http::Request::new(http_body_util::Empty::new())).await);
    let fuel = bounded(BAD, Limits::default().fuel(10_000)).await.unwrap();
    texts.add("out of fuel", OutOfFuel, fuel.call::<()>("spin", ()).await);
    let short = bounded(BAD, Limits::default().deadline(ms(20))).await.unwrap();
    texts.add("the deadline", TimedOut, short.call::<()>("spin", ()).await);
    texts.add("a caller's deadline", TimedOut, bad.deadline(ms(10)).call::<()>("spin", ()).await);
    let busy = bounded(BAD, Limits::default().busy(ms(10))).await.unwrap();
    texts.add("busy time", TimedOut, busy.call::<()>("spin", ()).await);
    let small = bounded(BAD, Limits::default().memory(128 * KIB).output(1_000).input(4)).await.unwrap();
    texts.add("memory", OutOfMemory, small.call::<()>("grow", ()).await);
    texts.add("output", OutputTooLarge, small.call::<Value>("much", ()).await);
    texts.add("input", LimitExceeded(Limit::Input), small.call::<()>("take", (1, "12345")).await);
    let line =
        bounded(BAD, Limits::default().deadline(ms(500)).concurrency(1).queue(1).queue_wait(ms(20))).await.unwrap();
    let (first, second, third) =
        tokio::join!(line.call::<()>("spin", ()), line.call::<()>("spin", ()), line.call::<()>("spin", ()));
    texts.add("first in line", TimedOut, first);
    texts.add("second in line", Overloaded, second);
    texts.add("third in line", Overloaded, third);
    let needy = r#"(component
        (import "acme:app/db@1.0.0" (instance $db (export "get" (func))))
        (core func $get (canon lower (func $db "get")))
        (core module $m (import "db" "get" (func $get)) (func (export "use") (call $get)))
        (core instance $db' (export "get" (func $get)))
        (core instance $i (instantiate $m (with "db" (instance $db'))))
        (func (export "use") (canon lift (core func $i "use"))))"#;
    let denied = host().function("denied").component_wat(needy).deny_at_call().load().await.unwrap();
    texts.add("a denied import", Denied, denied.call::<()>("use", ()).await);
    let exits = r#"(component
        (import "wasi:cli/exit@0.2.0" (instance $exit (export "exit" (func (param "status" (result))))))
        (core func $exit (canon lower (func $exit "exit")))
        (core module $m (import "w" "exit" (func $exit (param i32))) (func (export "leave") (call $exit (i32.const 1))))
        (core instance $w (export "exit" (func $exit)))
        (core instance $i (instantiate $m (with "w" (instance $w))))
        (func (export "leave") (canon lift (core func $i "leave"))))"#;
    texts.add("exit", Exited, load("exits", exits).await.unwrap().call::<()>("leave", ()).await);
    let start = runner(r#"(func $s unreachable) (start $s) (func (export "run"))"#);
    texts.add("a start function", Trapped, load("start", start).await.unwrap().call::<()>("run", ()).await);
    let faulty = |_| Faulty { panics_in_drop: false };
    let panics =
        host().function("needy").component_wat(NEEDY).imports_with(faulty).load_typed::<Needy>().await.unwrap();
    texts.add("a panic of a host function", HostPanic, panics.run(1).await);
    let tight = Limits::default().host_calls(100).random_bytes(100).handles(50);
    for (name, limit, wat) in [
        ("host calls", Limit::HostCalls, limits::clock(101)),
        ("randomness", Limit::Random, limits::random(101)),
        ("handles", Limit::Handles, limits::holds(60)),
        ("transfer", Limit::Transfer, limits::passes(5_000_000)),
    ] {
        let function = host().function("bounded").component_wat(wat).deny_at_call().limits(tight.clone()).load().await;
        texts.add(name, LimitExceeded(limit), function.unwrap().call::<()>("run", ()).await);
    }
    insta::assert_snapshot!("calls", texts.0);
}
