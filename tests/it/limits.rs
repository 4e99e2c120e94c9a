//! Each limit, with a guest that breaks it: the exact kind, in time, and the host goes on.

use crate::support::{built, host, load, run, runner};
use isopod::{Command, ErrorKind, Event, Limit, Limits, MIB, ms};
use std::time::{Duration, Instant};

const LOOP: &str = r#"(func (export "run") (loop $l (br $l)))"#;

/// How much later than its deadline a call may end on a machine that is busy with other tests.
const SLACK: Duration = Duration::from_millis(400);

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_loop_ends_at_the_deadline() {
    let started = Instant::now();
    let error = run(LOOP, Limits::default().deadline(ms(50))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
    assert!(error.usage().wall >= ms(50), "{}", error.usage());
    assert!(error.usage().busy > Duration::ZERO);
    assert!(started.elapsed() < ms(50) + SLACK + Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_looping_start_function_ends_at_the_deadline() {
    let body = r#"(func $s (loop $l (br $l))) (start $s) (func (export "run"))"#;
    let error = run(body, Limits::default().deadline(ms(30))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.usage().wall < ms(30) + SLACK, "{}", error.usage());
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_time_is_bounded_apart_from_the_deadline() {
    let error = run(LOOP, Limits::default().busy(ms(20))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("busy"), "{error}");
    assert!(error.usage().busy >= ms(20));
}

#[tokio::test]
async fn fuel_is_exact_and_repeatable() {
    let first = run(LOOP, Limits::default().fuel(1_000_000)).await.unwrap_err();
    assert_eq!(first.kind(), ErrorKind::OutOfFuel, "{first:?}");
    let second = run(LOOP, Limits::default().fuel(1_000_000)).await.unwrap_err();
    assert_eq!((first.usage().fuel, second.usage().fuel), (Some(1_000_000), Some(1_000_000)));
    let small = run(r#"(func (export "run"))"#, Limits::default().fuel(1_000_000)).await.unwrap();
    assert!(small.usage.fuel.is_some_and(|fuel| fuel < 100), "{:?}", small.usage);
}

#[tokio::test]
async fn a_fuel_function_keeps_its_deadline() {
    let error = run(LOOP, Limits::default().fuel(u64::MAX / 2).deadline(ms(50))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[tokio::test]
async fn memory_counts_all_memories_and_tables_together() {
    // Two instances of a module, each with a memory of 40 pages of 64 KiB: one fits into 4 MiB, both do not.
    let wat = r#"(component
        (core module $m (memory (export "m") 40) (func (export "run")))
        (core instance $a (instantiate $m))
        (core instance $b (instantiate $m))
        (func (export "run") (canon lift (core func $b "run"))))"#;
    let host = host();
    let function = load(host.function("two").component_wat(wat), Limits::default().memory(4 * MIB)).await;
    let error = function.call::<()>("run", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error:?}");
    let function = load(host.function("two").component_wat(wat), Limits::default().memory(6 * MIB)).await;
    assert_eq!(function.call::<()>("run", ()).await.unwrap().usage.peak_memory, 2 * 40 * 65536);
}

#[tokio::test]
async fn growing_beyond_the_limit_fails_inside_the_guest_and_labels_its_end() {
    let body = r#"(memory (export "m") 1)
        (func (export "run") (if (i32.eq (memory.grow (i32.const 1000)) (i32.const -1)) (then unreachable)))"#;
    let error = run(body, Limits::default().memory(MIB)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error:?}");
    let body = r#"(table $t 1 funcref)
        (func (export "run") (if (i32.eq (table.grow $t (ref.null func) (i32.const 10000)) (i32.const -1)) (then unreachable)))"#;
    let error = run(body, Limits::default().memory(1024)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error:?}");
}

#[tokio::test]
async fn deep_recursion_is_a_trap() {
    let error = run(r#"(func $f (export "run") (call $f))"#, Limits::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Trapped, "{error:?}");
    assert!(error.to_string().contains("stack"), "{error}");
}

#[tokio::test]
async fn traps_say_where() {
    let error =
        run(r#"(func $inner unreachable) (func (export "run") (call $inner))"#, Limits::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Trapped);
    assert!(error.guest_backtrace()[0].contains("inner"), "{:?}", error.guest_backtrace());
}

/// A guest that answers with `length` bytes, at an address of its choice.
fn answers_with(length: u32) -> String {
    format!(
        r#"(component
            (core module $m (memory (export "m") 200)
                (func (export "f") (result i32)
                    (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const {length})) (i32.const 0)))
            (core instance $i (instantiate $m))
            (alias core export $i "m" (core memory $mem))
            (func (export "f") (result (list u8)) (canon lift (core func $i "f") (memory $mem))))"#
    )
}

#[tokio::test]
async fn a_result_beyond_the_output_limit_is_refused() {
    let host = host();
    for (length, limit, fits) in [(1_000, 1_000, true), (1_001, 1_000, false), (10_000_000, 4 * MIB, false)] {
        let function =
            load(host.function("f").component_wat(answers_with(length)), Limits::default().output(limit)).await;
        let answer = function.call::<Vec<u8>>("f", ()).await;
        match answer {
            Ok(reply) => assert!(fits && reply.usage.bytes_out == u64::from(length), "{length} for {limit}"),
            Err(error) => assert!(!fits && error.kind() == ErrorKind::OutputTooLarge, "{error:?}"),
        }
    }
}

#[tokio::test]
async fn arguments_beyond_the_input_limit_are_refused_before_the_guest_runs() {
    let wat = r#"(component
        (core module $m (memory (export "m") 200)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
            (func (export "f") (param i32 i32) unreachable))
        (core instance $i (instantiate $m))
        (alias core export $i "m" (core memory $mem))
        (alias core export $i "realloc" (core func $realloc))
        (func (export "f") (param "text" string) (canon lift (core func $i "f") (memory $mem) (realloc $realloc))))"#;
    let function = load(host().function("f").component_wat(wat), Limits::default().input(10)).await;
    let error = function.call::<()>("f", ("12345678901",)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded(Limit::Input), "{error:?}");
    let error = function.call::<()>("f", ("1234567890",)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Trapped, "the guest ran: {error:?}");
    assert_eq!(error.usage().bytes_in, 10);
}

#[tokio::test]
async fn the_line_is_bounded_and_says_when_to_return() {
    let host = host();
    let limits = Limits::default().concurrency(1).queue(1).queue_wait(ms(50)).deadline(ms(500));
    let function = load(host.function("slow").component_wat(runner(LOOP)), limits).await;
    let start = |function: &isopod::Function| {
        let function = function.clone();
        tokio::spawn(async move { function.call::<()>("run", ()).await.unwrap_err() })
    };
    let all = [start(&function), start(&function), start(&function)];
    let mut kinds = Vec::new();
    for one in all {
        let error = one.await.unwrap();
        assert_eq!(error.retry_after().is_some(), error.kind() == ErrorKind::Overloaded, "{error:?}");
        kinds.push(error.kind());
    }
    // One had the seat to its deadline, one waited in vain, and the third found the line full.
    assert_eq!(kinds.iter().filter(|kind| **kind == ErrorKind::Overloaded).count(), 2, "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| **kind == ErrorKind::TimedOut).count(), 1, "{kinds:?}");
}

/// A component that imports one interface of WASI 0.2 and calls one function of it in `run`, `times` over.
fn calls_wasi(interface: &str, function: &str, ty: &str, lower: &str, params: &str, args: &str, times: u32) -> String {
    format!(
        r#"(component
            (import "{interface}" (instance $w (export "{function}" (func {ty}))))
            (core module $libc (memory (export "m") 100)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096)))
            (core instance $libc (instantiate $libc))
            (alias core export $libc "m" (core memory $mem))
            (alias core export $libc "realloc" (core func $realloc))
            (core func $f (canon lower (func $w "{function}") {lower}))
            (core module $m (import "w" "f" (func $f {params}))
                (func (export "run") (local $n i32)
                    (loop $l {args} (local.set $n (i32.add (local.get $n) (i32.const 1)))
                        (br_if $l (i32.lt_u (local.get $n) (i32.const {times}))))))
            (core instance $w' (export "f" (func $f)))
            (core instance $i (instantiate $m (with "w" (instance $w'))))
            (func (export "run") (canon lift (core func $i "run"))))"#
    )
}

/// Asks for the time, so often.
pub(crate) fn clock(times: u32) -> String {
    let now = "(call $f) drop";
    calls_wasi("wasi:clocks/monotonic-clock@0.2.0", "now", "(result u64)", "", "(result i64)", now, times)
}

#[tokio::test]
async fn host_calls_are_counted_and_bounded() {
    let host = host();
    for limits in [Limits::default(), Limits::default().fuel(1_000_000)] {
        let function = load(host.function("f").component_wat(clock(100)), limits.clone().host_calls(100)).await;
        assert_eq!(function.call::<()>("run", ()).await.unwrap().usage.host_calls, 100);
        let function = load(host.function("f").component_wat(clock(101)), limits.clone().host_calls(100)).await;
        let error = function.call::<()>("run", ()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded(Limit::HostCalls), "{error:?}");
        let endless = load(host.function("f").component_wat(clock(u32::MAX)), limits.host_calls(100)).await;
        let error = endless.call::<()>("run", ()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded(Limit::HostCalls), "{error:?}");
    }
}

/// Asks for that many random bytes at once.
pub(crate) fn random(bytes: u64) -> String {
    randoms(bytes, 1)
}

/// The same, so often.
pub(crate) fn randoms(bytes: u64, times: u32) -> String {
    let args = format!("(call $f (i64.const {bytes}) (i32.const 0))");
    let lower = "(memory $mem) (realloc $realloc)";
    let ty = "(param \"len\" u64) (result (list u8))";
    calls_wasi("wasi:random/random@0.2.0", "get-random-bytes", ty, lower, "(param i64 i32)", &args, times)
}

#[tokio::test]
async fn randomness_is_bounded_per_request_and_the_result_fits_the_transfer() {
    let host = host();
    let function = load(host.function("f").component_wat(random(1_000)), Limits::default().random_bytes(1_000)).await;
    function.call::<()>("run", ()).await.unwrap();
    let function = load(host.function("f").component_wat(random(1_001)), Limits::default().random_bytes(1_000)).await;
    let error = function.call::<()>("run", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded(Limit::Random), "{error:?}");
}

/// Passes that many bytes to an import.
pub(crate) fn passes(bytes: u32) -> String {
    format!(
        r#"(component
            (import "sink" (func $sink (param "data" (list u8))))
            (core module $libc (memory (export "m") 100))
            (core instance $libc (instantiate $libc))
            (alias core export $libc "m" (core memory $mem))
            (core func $f (canon lower (func $sink) (memory $mem)))
            (core module $m (import "w" "f" (func $f (param i32 i32)))
                (func (export "run") (call $f (i32.const 0) (i32.const {bytes}))))
            (core instance $w (export "f" (func $f)))
            (core instance $i (instantiate $m (with "w" (instance $w))))
            (func (export "run") (canon lift (core func $i "run"))))"#
    )
}

#[tokio::test]
async fn what_a_guest_passes_at_once_is_bounded() {
    for (bytes, kind) in [(1_000, ErrorKind::Denied), (5_000_000, ErrorKind::LimitExceeded(Limit::Transfer))] {
        let function = load(host().function("f").component_wat(passes(bytes)).deny_at_call(), Limits::default()).await;
        let error = function.call::<()>("run", ()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
    }
}

/// Makes that many handles of a resource of its own, and drops none.
pub(crate) fn holds(count: u32) -> String {
    format!(
        r#"(component
            (type $r (resource (rep i32)))
            (core func $new (canon resource.new $r))
            (core module $m (import "w" "new" (func $new (param i32) (result i32)))
                (func (export "run") (local $n i32)
                    (loop $l (drop (call $new (i32.const 1))) (local.set $n (i32.add (local.get $n) (i32.const 1)))
                        (br_if $l (i32.lt_u (local.get $n) (i32.const {count}))))))
            (core instance $w (export "new" (func $new)))
            (core instance $i (instantiate $m (with "w" (instance $w))))
            (func (export "run") (canon lift (core func $i "run"))))"#
    )
}

#[tokio::test]
async fn handles_are_bounded() {
    let host = host();
    let limits = Limits::default().handles(50);
    load(host.function("f").component_wat(holds(49)), limits.clone()).await.call::<()>("run", ()).await.unwrap();
    let function = load(host.function("f").component_wat(holds(60)), limits).await;
    let error = function.call::<()>("run", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded(Limit::Handles), "{error:?}");
}

/// What runs before and after the export itself is the guest's code too.
#[tokio::test]
async fn realloc_and_post_return_run_under_the_deadline() {
    let spin = "(loop $l (br $l))";
    let guest = |realloc: &str, post: &str| {
        format!(
            r#"(component
                (core module $m (memory (export "m") 1)
                    (func (export "realloc") (param i32 i32 i32 i32) (result i32) {realloc} (i32.const 1024))
                    (func (export "f") (param i32 i32) (result i32) (i32.const 7))
                    (func (export "post") (param i32) {post}))
                (core instance $i (instantiate $m))
                (alias core export $i "m" (core memory $mem))
                (func (export "f") (param "text" string) (result u32) (canon lift (core func $i "f") (memory $mem)
                    (realloc (core func $i "realloc")) (post-return (core func $i "post")))))"#
        )
    };
    let host = host();
    for (realloc, post) in [(spin, ""), ("", spin)] {
        let function = load(host.function("f").component_wat(guest(realloc, post)), Limits::default().deadline(ms(30)));
        let error = function.await.call::<u32>("f", ("x",)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
        assert!(error.usage().wall < ms(30) + SLACK, "{}", error.usage());
    }
    let function = load(host.function("f").component_wat(guest("", "")), Limits::default()).await;
    assert_eq!(function.call::<u32>("f", ("x",)).await.unwrap().value, 7);
}

/// Without a callback at the yield, a guest that counts fuel would go on to the end of it.
#[tokio::test]
async fn a_guest_on_fuel_stops_soon_after_its_last_host_call() {
    let wat = clock(u32::MAX);
    let function = load(host().function("f").component_wat(wat), Limits::default().fuel(u64::MAX / 2).host_calls(10));
    let error = function.await.call::<()>("run", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded(Limit::HostCalls), "{error:?}");
    assert!(error.usage().fuel.is_some_and(|fuel| fuel <= 200_000), "{:?}", error.usage());
}

/// Host resources count as handles: here pollables, of which the guest drops none.
#[tokio::test]
async fn resources_of_the_host_are_bounded() {
    let wat = |count: u32| {
        format!(
            r#"(component
            (import "wasi:io/poll@0.2.0" (instance $poll (export "pollable" (type $p (sub resource)))))
            (alias export $poll "pollable" (type $pollable))
            (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
                (alias outer 1 $pollable (type $q))
                (export "pollable" (type $p (eq $q)))
                (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
            (core func $after (canon lower (func $clock "subscribe-duration")))
            (core module $m (import "w" "after" (func $after (param i64) (result i32)))
                (func (export "run") (local $n i32)
                    (loop $l (drop (call $after (i64.const -1))) (local.set $n (i32.add (local.get $n) (i32.const 1)))
                        (br_if $l (i32.lt_u (local.get $n) (i32.const {count}))))))
            (core instance $w (export "after" (func $after)))
            (core instance $i (instantiate $m (with "w" (instance $w))))
            (func (export "run") (canon lift (core func $i "run"))))"#
        )
    };
    let host = host();
    let limits = Limits::default().handles(50);
    load(host.function("f").component_wat(wat(20)), limits.clone()).await.call::<()>("run", ()).await.unwrap();
    let function = load(host.function("f").component_wat(wat(60)), limits).await;
    let error = function.call::<()>("run", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded(Limit::Handles), "{error:?}");
}

/// The names of a record's fields are copied into each value of a dynamic result, so they count as what is passed.
#[tokio::test]
async fn long_names_in_a_result_are_bounded() {
    let name = "n".repeat(10_000);
    let wat = format!(
        r#"(component
            (type $r' (record (field "{name}" u8))) (import "r" (type $r (eq $r')))
            (core module $m (memory (export "m") 2)
                (func (export "f") (result i32) (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 10000)) (i32.const 0)))
            (core instance $i (instantiate $m))
            (func (export "f") (result (list $r)) (canon lift (core func $i "f") (memory (core memory $i "m")))))"#
    );
    let function = load(host().function("f").component_wat(wat), Limits::default()).await;
    let error = function.call::<serde_json::Value>("f", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutputTooLarge, "{error:?}");
}

/// Input and output have the same bounds on every surface.
#[tokio::test]
async fn every_surface_bounds_what_goes_in_and_out() {
    let host = host();
    let file = |name| host.function(name).component_file(built(name));
    let input = |error: isopod::Error| assert_eq!(error.kind(), ErrorKind::LimitExceeded(Limit::Input), "{error:?}");
    let output = |error: isopod::Error| assert_eq!(error.kind(), ErrorKind::OutputTooLarge, "{error:?}");

    let event = |data: &'static [u8]| Event { data: Some(data.into()), ..Event::default() };
    let handler = load(file("event-handler"), Limits::default().input(10).output(10)).await;
    handler.handle(event(b"0123456789")).await.unwrap().value.unwrap();
    input(handler.handle(event(b"0123456789a")).await.unwrap_err());
    let handler = load(file("event-handler"), Limits::default().output(9)).await;
    output(handler.handle(event(b"0123456789")).await.unwrap_err());

    let command = load(file("command"), Limits::default().input(20)).await;
    command.command(Command::new().arg("command").stdin("0123456789")).await.unwrap();
    input(command.command(Command::new().arg("command").stdin("0123456789abcdef")).await.unwrap_err());
    input(command.command(Command::new().arg("command").env("NAME", "0123456789")).await.unwrap_err());

    let shapes = load(file("shapes").deny_at_call(), Limits::default().input(10).output(10)).await;
    let echo = async |n: usize| shapes.call::<String>("echo-bytes", (vec![7u8; n],)).await;
    assert_eq!(echo(10).await.unwrap().usage.bytes_out, 10);
    input(echo(11).await.unwrap_err());
    let twice = shapes.session(async |s| {
        s.call::<String>("echo-bytes", (vec![7u8; 6],)).await?;
        s.call::<String>("echo-bytes", (vec![7u8; 6],)).await
    });
    input(twice.await.unwrap_err());
    let shapes = load(file("shapes").deny_at_call(), Limits::default().output(10)).await;
    output(shapes.call::<String>("echo-bytes", (vec![7u8; 11],)).await.unwrap_err());
    let twice = shapes.session(async |s| {
        s.call::<String>("echo-bytes", (vec![7u8; 6],)).await?;
        s.call::<String>("echo-bytes", (vec![7u8; 6],)).await
    });
    output(twice.await.unwrap_err());
}
