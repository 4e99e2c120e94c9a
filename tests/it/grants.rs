//! Clocks, randomness, standard interfaces: what a guest sees of them by default, by grant, and where they are denied.

use crate::support::{host, text};
use isopod::{Clocks, ErrorKind, Function, Grant, Random, ms};
use std::time::{Duration, SystemTime};

/// A component whose `run` gives 64 bits from one function of one interface. `ty` is the function's type, with `types`
/// before it; `core` that of the lowered function; `get` calls `$f` and leaves the bits.
fn reads(interface: &str, types: &str, function: &str, ty: &str, core: &str, get: &str) -> String {
    format!(
        r#"(component
            (import "{interface}" (instance $w {types} (export "{function}" (func {ty}))))
            (core module $libc (memory (export "m") 1))
            (core instance $libc (instantiate $libc))
            (alias core export $libc "m" (core memory $mem))
            (core func $f (canon lower (func $w "{function}") (memory $mem)))
            (core module $m (import "libc" "m" (memory 1)) (import "w" "f" (func $f {core}))
                (func (export "run") (result i64) {get}))
            (core instance $w' (export "f" (func $f)))
            (core instance $i (instantiate $m (with "libc" (instance $libc)) (with "w" (instance $w'))))
            (func (export "run") (result u64) (canon lift (core func $i "run"))))"#
    )
}

/// A function of an interface that gives a plain u64.
fn reads_u64(interface: &str, function: &str) -> String {
    reads(interface, "", function, "(result u64)", "(result i64)", "(call $f)")
}

/// A function of an interface that gives a record of seconds and nanoseconds; `run` gives the nanoseconds of both.
fn reads_time(interface: &str, record: &str, seconds: &str) -> String {
    let types = format!(
        r#"(type $t' (record (field "seconds" {seconds}) (field "nanoseconds" u32))) (export "{record}" (type $t (eq $t')))"#
    );
    let get = "(call $f (i32.const 0)) (i64.add (i64.mul (i64.load (i32.const 0)) (i64.const 1000000000)) (i64.load32_u (i32.const 8)))";
    reads(interface, &types, "now", "(result $t)", "(param i32)", get)
}

async fn load(wat: &str, grant: Option<Grant>) -> Function {
    let builder = host().function("reader").component_wat(wat);
    let builder = match grant {
        Some(grant) => builder.grant(grant),
        None => builder,
    };
    builder.load().await.unwrap()
}

async fn read(function: &Function) -> u64 {
    function.call("run", ()).await.unwrap().value
}

fn wall_clocks() -> [String; 2] {
    [
        reads_time("wasi:clocks/wall-clock@0.2.0", "datetime", "u64"),
        reads_time("wasi:clocks/system-clock@0.3.0", "instant", "s64"),
    ]
}

fn monotonic_clocks() -> [String; 2] {
    ["wasi:clocks/monotonic-clock@0.2.0", "wasi:clocks/monotonic-clock@0.3.0"]
        .map(|interface| reads_u64(interface, "now"))
}

/// By default a guest is told the right time, at a resolution that cannot time the machine.
#[tokio::test]
async fn clocks_are_coarse_unless_granted_fine() {
    const STEP: u64 = 1_000_000;
    for clock in wall_clocks().iter().chain(&monotonic_clocks()) {
        let coarse = load(clock, None).await;
        let fine = load(clock, Some(Clocks::fine().into())).await;
        let mut off_step = 0;
        for _ in 0..50 {
            assert_eq!(read(&coarse).await % STEP, 0, "{clock}");
            off_step += u32::from(!read(&fine).await.is_multiple_of(STEP));
        }
        assert!(off_step > 40, "{off_step} of 50 fine times were between the steps: {clock}");
    }
    for clock in wall_clocks() {
        let told = Duration::from_nanos(read(&load(&clock, None).await).await);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert!(told <= now && now - told < Duration::from_secs(60), "{told:?} at {now:?}");
    }
}

#[tokio::test]
async fn simulated_clocks_begin_where_they_are_told() {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_007);
    for clock in wall_clocks() {
        assert_eq!(read(&load(&clock, Some(Clocks::simulated(time).into())).await).await, 1_000_000_007_000_000_000);
        let coarse = load(&clock, Some(Clocks::coarse(Duration::from_secs(10)).into())).await;
        assert_eq!(read(&coarse).await % 10_000_000_000, 0);
    }
    for clock in monotonic_clocks() {
        let simulated = load(&clock, Some(Clocks::simulated(time).into())).await;
        assert_eq!((read(&simulated).await, read(&simulated).await), (0, 0));
    }
}

#[tokio::test]
async fn randomness_repeats_only_if_seeded() {
    let tuple = "(result (tuple u64 u64))";
    let seed = |interface: &str, function: &str| {
        reads(interface, "", function, tuple, "(param i32)", "(call $f (i32.const 0)) (i64.load (i32.const 0))")
    };
    let sources = [
        reads_u64("wasi:random/random@0.2.0", "get-random-u64"),
        reads_u64("wasi:random/random@0.3.0", "get-random-u64"),
        reads_u64("wasi:random/insecure@0.2.0", "get-insecure-random-u64"),
        reads_u64("wasi:random/insecure@0.3.0", "get-insecure-random-u64"),
        seed("wasi:random/insecure-seed@0.2.0", "insecure-seed"),
        seed("wasi:random/insecure-seed@0.3.0", "get-insecure-seed"),
    ];
    for source in &sources {
        let free = load(source, None).await;
        assert_ne!(read(&free).await, read(&free).await, "{source}");
        let seeded = |seed| load(source, Some(Random::seeded(seed).into()));
        let (one, same, other) = (seeded(7).await, seeded(7).await, seeded(8).await);
        let bits = read(&one).await;
        assert_eq!((read(&one).await, read(&same).await), (bits, bits), "{source}");
        assert_ne!(read(&other).await, bits, "{source}");
    }
}

/// What holds for all functions of a host holds for those that are granted nothing else.
#[tokio::test]
async fn a_host_has_clocks_and_randomness_of_its_own() {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
    let own = isopod::Host::builder().clocks(Clocks::simulated(start)).random(Random::seeded(7)).build().unwrap();
    let run = async |wat: &str, grant: Option<Grant>| {
        let builder = own.function("reader").component_wat(wat);
        let builder = grant.into_iter().fold(builder, isopod::FunctionBuilder::grant);
        read(&builder.load().await.unwrap()).await
    };
    for clock in wall_clocks() {
        assert_eq!(run(&clock, None).await, 5_000_000_000);
        assert!(run(&clock, Some(Clocks::default().into())).await > 1_000_000_000_000_000_000);
    }
    let random = reads_u64("wasi:random/random@0.3.0", "get-random-u64");
    assert_eq!(run(&random, None).await, run(&random, Some(Random::seeded(7).into())).await);
    assert_ne!(run(&random, None).await, run(&random, Some(Random::seeded(8).into())).await);
}

/// A grant for an interface that the component does not import would be a setting without effect.
#[tokio::test]
async fn a_grant_without_effect_is_refused() {
    let clock = reads_u64("wasi:clocks/monotonic-clock@0.2.0", "now");
    let error = host().function("f").component_wat(clock).grant(Random::seeded(1)).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(error.to_string().contains("Random has no effect"), "{}", text(&error));
}

/// Sleeping is a host call like others: the deadline ends it, in both generations of WASI.
#[tokio::test]
async fn a_sleeping_guest_ends_at_its_deadline() {
    let wat = r#"(component
        (import "wasi:io/poll@0.2.0" (instance $poll
            (export "pollable" (type $p (sub resource)))
            (export "[method]pollable.block" (func (param "self" (borrow $p))))))
        (alias export $poll "pollable" (type $pollable))
        (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
            (alias outer 1 $pollable (type $q))
            (export "pollable" (type $p (eq $q)))
            (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
        (core func $after (canon lower (func $clock "subscribe-duration")))
        (core func $block (canon lower (func $poll "[method]pollable.block")))
        (core module $m (import "w" "after" (func $after (param i64) (result i32))) (import "w" "block" (func $block (param i32)))
            (func (export "run") (call $block (call $after (i64.const -1)))))
        (core instance $w (export "after" (func $after)) (export "block" (func $block)))
        (core instance $i (instantiate $m (with "w" (instance $w))))
        (func (export "run") (canon lift (core func $i "run"))))"#;
    let limits = isopod::Limits::default().deadline(ms(40));
    let function = host().function("sleeper").component_wat(wat).limits(limits).load().await.unwrap();
    let error = function.call::<()>("run", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{}", text(&error));
    assert!(error.usage().busy < ms(40) && error.usage().wall >= ms(40), "{}", error.usage());
}
