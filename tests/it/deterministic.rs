//! Functions that answer alike: in each call, in each host, in each process.

use crate::support::{built, host, said_alone, text};
use isopod::{Clocks, ErrorKind, FunctionBuilder, Host, Limits, Profile, Random, Reuse, ms};
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::SystemTime;

/// Asks for all that differs from call to call: random bits, the time before and after it sleeps for an hour, and the bits
/// of a NaN that it computes from its argument. With data, and a start function that works.
const VARIES: &str = r#"(component
    (import "wasi:random/random@0.2.0" (instance $random (export "get-random-u64" (func (result u64)))))
    (import "wasi:io/poll@0.2.0" (instance $poll
        (export "pollable" (type $p (sub resource)))
        (export "[method]pollable.block" (func (param "self" (borrow $p))))))
    (alias export $poll "pollable" (type $pollable))
    (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
        (alias outer 1 $pollable (type $q))
        (export "pollable" (type $p (eq $q)))
        (export "now" (func (result u64)))
        (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
    (core func $random (canon lower (func $random "get-random-u64")))
    (core func $now (canon lower (func $clock "now")))
    (core func $after (canon lower (func $clock "subscribe-duration")))
    (core func $block (canon lower (func $poll "[method]pollable.block")))
    (core module $m
        (import "" "random" (func $random (result i64)))
        (import "" "now" (func $now (result i64)))
        (import "" "after" (func $after (param i64) (result i32)))
        (import "" "block" (func $block (param i32)))
        (memory (export "m") 1)
        (data (i32.const 4096) "begins with this")
        (func $start (local $i i32)
            (loop (local.set $i (i32.add (local.get $i) (i32.const 1))) (br_if 0 (i32.lt_u (local.get $i) (i32.const 1000)))))
        (start $start)
        (func (export "run") (param f32) (result i32)
            (i64.store (i32.const 0) (call $random))
            (i64.store (i32.const 8) (call $now))
            (call $block (call $after (i64.const 3600000000000)))
            (i64.store (i32.const 16) (call $now))
            (f32.store (i32.const 24) (f32.div (local.get 0) (local.get 0)))
            (i32.store8 (i32.const 28) (i32.load8_u (i32.const 4096)))
            (i32.const 0)))
    (core instance $i (instantiate $m (with "" (instance
        (export "random" (func $random)) (export "now" (func $now)) (export "after" (func $after)) (export "block" (func $block))))))
    (func (export "run") (param "zero" f32) (result (tuple u64 u64 u64 u32 u8))
        (canon lift (core func $i "run") (memory (core memory $i "m")))))"#;

type Varies = (u64, u64, u64, u32, u8);

const FUEL: u64 = 10_000_000;
const HOUR: u64 = 3_600_000_000_000;

fn metered(host: &Host) -> FunctionBuilder {
    host.function("metered").component_wat(VARIES).limits(Limits::default().fuel(FUEL))
}

/// All that there is to tell of two calls of each of some functions.
fn transcript(host: &Host) -> String {
    let mut said = String::new();
    let mut note = |name: &str, reply: isopod::Reply<Value>| {
        let (usage, output) = (reply.usage, reply.output());
        writeln!(
            said,
            "{name} {} fuel {:?} calls {} peak {} log {:?} {:?}",
            reply.value, usage.fuel, usage.host_calls, usage.peak_memory, output.stdout, output.log
        )
        .unwrap();
    };
    let mut functions = vec![("run", json!([0.0]), metered(host).deterministic(7).load_blocking().unwrap())];
    for name in ["text-stats", "content-hash", "secret-scan"] {
        let builder = host.function(name).component_file(built(name)).limits(Limits::default().fuel(FUEL));
        let file = json!({ "path": "a.txt", "content": "c29tZSB3b3JkcyBhbmQgc29tZSBtb3Jl" });
        functions.push(("inspect", json!([file]), builder.deterministic(7).load_blocking().unwrap()));
    }
    for _ in 0..2 {
        for (export, arguments, function) in &functions {
            note(function.name(), function.call_blocking(export, arguments).unwrap());
        }
    }
    said
}

#[test]
fn calls_answer_alike_in_each_call_host_and_process() {
    const MARK: &str = "transcript: ";
    let transcript = || transcript(&host());
    let first = transcript();
    println!("{MARK}{first:?}");
    let (one, two) = first.split_at(first.len() / 2);
    assert_eq!(one, two, "twice in a row");
    assert!(one.lines().count() == 4 && !one.contains("null"), "{one}");
    let dense = Host::builder().profile(Profile::Density).instances(100).seats(10).build().unwrap();
    assert_eq!(self::transcript(&dense), first, "whatever the host is best at");
    let Some(said) = said_alone("deterministic::calls_answer_alike_in_each_call_host_and_process", "") else { return };
    let line = said.lines().find_map(|line| line.split_once(MARK)).unwrap().1;
    assert_eq!(line, format!("{first:?}"), "in another process");
}

#[tokio::test]
async fn a_seed_decides_the_randomness_and_sleeping_the_time() {
    let call = async |seed| {
        let function = metered(&host()).deterministic(seed).load().await.unwrap();
        // It sleeps for an hour, and its deadline is in some seconds.
        function.call::<Varies>("run", (0.0_f32,)).await.unwrap().value
    };
    let (one, other) = (call(1).await, call(2).await);
    assert_eq!(&one.1..=&one.2, &0..=&HOUR);
    assert_ne!(one.0, other.0);
    assert_eq!((one.1, one.2, one.3, one.4), (other.1, other.2, other.3, other.4));
    // What is granted holds before what is so by itself.
    let builder = metered(&host()).deterministic(1).grant(Random::seeded(2));
    let given: Varies = builder.load().await.unwrap().call("run", (0.0_f32,)).await.unwrap().value;
    assert_eq!(given.0, other.0);
}

/// What a processor makes of 0/0 is not what another makes of it.
#[tokio::test]
async fn a_nan_is_the_canonical_one_where_fuel_is_counted() {
    let clocks = Clocks::simulated(SystemTime::UNIX_EPOCH);
    let function = metered(&host()).grant(clocks).load().await.unwrap();
    for zero in [0.0_f32, -0.0] {
        let nan = function.call::<Varies>("run", (zero,)).await.unwrap().value.3;
        assert_eq!(nan, 0x7fc0_0000, "{nan:#x}");
    }
}

#[tokio::test]
async fn what_makes_calls_differ_is_refused() {
    let timed = host().function("timed").component_wat(VARIES).limits(Limits::default().busy(ms(100)));
    let cases = [
        (timed, "`Limits::fuel`"),
        (metered(&host()).reuse(Reuse::within_tenant()), "`reuse`"),
        (metered(&host()).grant(Clocks::fine()), "`Clocks::simulated`"),
        (metered(&host()).grant(Random::default()), "`Random::seeded`"),
    ];
    for (builder, hint) in cases {
        let error = builder.deterministic(1).load().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse, "{}", text(&error));
        assert!(error.to_string().contains(hint), "{}", text(&error));
    }
}

/// An instance of the stock was started before anybody called, and answers as one that was not.
#[test]
fn an_instance_made_ahead_answers_as_one_that_is_not() {
    let call = |builder: FunctionBuilder| {
        let function = builder.deterministic(3).load_blocking().unwrap();
        let reply = function.call_blocking::<Varies>("run", (0.0_f32,)).unwrap();
        (reply.value, reply.usage.fuel, reply.usage.host_calls, reply.usage.cold)
    };
    let (fresh, ahead) = (call(metered(&host())), call(metered(&host()).prewarm(2)));
    assert_eq!((fresh.0, fresh.1, fresh.2), (ahead.0, ahead.1, ahead.2));
    assert!(fresh.3 && !ahead.3);
}
