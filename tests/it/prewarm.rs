//! Instances that are started ahead of calls: as fresh, as bounded and as much the call's own as those that are not.

use crate::support::{Book, Journal, alone, built, host, load, runner, until};
use isopod::{
    CallOptions, Command, Config, Context, Env, Error, ErrorKind, Event, Function, Host, KeyValue, Limits, Profile, ms,
};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Counts its calls, and says how often its start function ran. Some work to start, and a way to trap and to spin.
const COUNT: &str = r#"(component
    (core module $m (global $n (mut i32) (i32.const 0)) (global $s (mut i32) (i32.const 0)) (memory 1)
        (func $start (local $i i32) (global.set $s (i32.add (global.get $s) (i32.const 1)))
            (loop $l (local.set $i (i32.add (local.get $i) (i32.const 1))) (br_if $l (i32.lt_u (local.get $i) (i32.const 1000)))))
        (start $start)
        (func (export "count") (result i32) (global.set $n (i32.add (global.get $n) (i32.const 1))) (global.get $n))
        (func (export "starts") (result i32) (global.get $s))
        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
        (func (export "trap") unreachable)
        (func (export "spin") (loop $l (br $l))))
    (core instance $i (instantiate $m))
    (func (export "count") (result u32) (canon lift (core func $i "count")))
    (func (export "starts") (result u32) (canon lift (core func $i "starts")))
    (func (export "grow") (param "pages" u32) (result s32) (canon lift (core func $i "grow")))
    (func (export "trap") (canon lift (core func $i "trap")))
    (func (export "spin") (canon lift (core func $i "spin"))))"#;

async fn counter(host: &Host, stock: u32, limits: Limits) -> Function {
    load(host.function("counter").component_wat(COUNT).prewarm(stock), limits).await
}

async fn refusal(builder: isopod::FunctionBuilder) -> Error {
    builder.load().await.unwrap_err()
}

#[tokio::test]
async fn a_stocked_instance_was_used_by_nobody() {
    let function = counter(&host(), 4, Limits::default()).await;
    assert_eq!(function.idle(), 4, "loading fills the stock");
    let mut stocked = 0;
    for call in 0..100 {
        let reply = function.call::<u32>("count", ()).await.unwrap();
        assert_eq!(reply.value, 1, "call {call}");
        stocked += u32::from(!reply.usage.cold);
        assert_eq!(function.call::<u32>("starts", ()).await.unwrap().value, 1);
        if call % 10 == 0 {
            function.restock().await;
            assert!(function.idle() >= 3, "{}", function.idle());
        }
    }
    assert!(stocked >= 10, "{stocked} of 100 were stocked");
}

/// What was used is replaced without anybody asking for it, once less than half is left. What calls take while that is done
/// may be left for the next time.
#[tokio::test(flavor = "multi_thread")]
async fn a_thread_of_the_host_fills_the_stock() {
    let function = counter(&host(), 8, Limits::default()).await;
    for _ in 0..8 {
        function.call::<u32>("count", ()).await.unwrap();
    }
    until("the stock is half full", || function.idle() >= 4);
}

/// A thread that waits for its answer fills the stock itself, before it goes on, unless the host's thread is just at it, or
/// it takes longer than a millisecond: where the machine has much else to do, that happens.
#[test]
fn a_blocking_caller_fills_the_stock() {
    let host = host();
    let function = host.function("counter").component_wat(COUNT).prewarm(8).load_blocking().unwrap();
    let mut told = Vec::new();
    while told.len() < 50 && told.last().is_none_or(|filled| *filled < 90) {
        let mut filled = 0;
        for _ in 0..100 {
            let reply = function.call_blocking::<u32>("count", ()).unwrap();
            assert_eq!(reply.value, 1);
            filled += u32::from(!reply.usage.cold && function.idle() >= 4);
        }
        told.push(filled);
    }
    assert!(told.last().is_some_and(|filled| *filled >= 90), "the stock was half full after so many of 100: {told:?}");
}

#[tokio::test]
async fn limits_hold_for_a_stocked_instance() {
    let memory = Limits::default().memory(2 << 20);
    let function = counter(&host(), 4, memory.clone().deadline(ms(50))).await;
    let error = function.call::<()>("spin", ()).await.unwrap_err();
    assert_eq!((error.kind(), error.usage().cold), (ErrorKind::TimedOut, false), "{error}");
    assert!(error.usage().wall >= ms(50), "the deadline is the call's: {}", error.usage());
    assert_eq!(function.call::<i32>("grow", (32,)).await.unwrap().value, -1, "one page is there, 32 are allowed");
    let reply = function.call::<i32>("grow", (31,)).await.unwrap();
    assert_eq!((reply.value, reply.usage.peak_memory), (1, 2 << 20));
    let function = counter(&host(), 2, memory.busy(ms(20))).await;
    let error = function.call::<()>("spin", ()).await.unwrap_err();
    assert!((error.usage().cold, error.to_string().contains("busy")) == (false, true), "{error}");
}

/// What the guest used as it started is counted, whether that was before the call or in it.
#[tokio::test]
async fn fuel_is_the_same_with_a_stock() {
    let host = host();
    let limits = Limits::default().fuel(1_000_000);
    let fresh = load(host.function("counter").component_wat(COUNT), limits.clone()).await;
    let stocked = counter(&host, 2, limits).await;
    let [fresh, stocked] = [fresh.call::<u32>("count", ()).await.unwrap(), stocked.call("count", ()).await.unwrap()];
    assert_eq!((fresh.usage.cold, stocked.usage.cold), (true, false));
    assert!(fresh.usage.fuel > Some(1_000), "the start function's is among it");
    assert_eq!(fresh.usage.fuel, stocked.usage.fuel);
    let error = load(host.function("counter").component_wat(COUNT).prewarm(1), Limits::default().fuel(60_000)).await;
    let error = error.call::<()>("spin", ()).await.unwrap_err();
    assert_eq!((error.kind(), error.usage().fuel), (ErrorKind::OutOfFuel, Some(60_000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_function_has_its_limits_ahead_of_the_call_as_well() {
    let body = r#"(func $s (loop $l (br $l))) (start $s) (func (export "run"))"#;
    let spin = host().function("spin").component_wat(runner(body)).prewarm(1);
    let started = Instant::now();
    let error = refusal(spin.limits(Limits::default().deadline(ms(50)))).await;
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let body = r#"(func $s unreachable) (start $s) (func (export "run"))"#;
    let error = refusal(host().function("trap").component_wat(runner(body)).prewarm(1)).await;
    assert_eq!(error.kind(), ErrorKind::Trapped, "{error}");
    let body = r#"(func $s (loop $l (br $l))) (start $s) (func (export "run"))"#;
    let fuel = host().function("fuel").component_wat(runner(body)).prewarm(1);
    assert_eq!(refusal(fuel.limits(Limits::default().fuel(10_000))).await.kind(), ErrorKind::OutOfFuel);
}

/// A component whose start function calls an import: `import` in WIT's text form, with one u32.
fn early(interface: &str, function: &str) -> String {
    format!(
        r#"(component
            (import "{interface}" (instance $i (export "{function}" (func (result u64)))))
            (core func $f (canon lower (func $i "{function}")))
            (core module $m (import "" "f" (func $f (result i64))) (global $seen (mut i64) (i64.const 0))
                (func $s (global.set $seen (call $f))) (start $s)
                (func (export "seen") (result i64) (global.get $seen)))
            (core instance $c (instantiate $m (with "" (instance (export "f" (func $f))))))
            (func (export "seen") (result u64) (canon lift (core func $c "seen"))))"#
    )
}

#[tokio::test]
async fn a_guest_that_needs_a_call_as_it_starts_cannot_be_prewarmed() {
    let host = host();
    let asked = Arc::new(Mutex::new(0));
    let load = |name: &'static str, prewarm: bool| {
        let asked = Arc::clone(&asked);
        let builder = host.function(name).component_wat(early("acme:db/query", "get"));
        let builder = builder.import("acme:db/query", "get", move |context: Context, (): ()| {
            *asked.lock().unwrap() += 1;
            let len = context.tenant().map_or(0, str::len) as u64;
            async move { len }
        });
        if prewarm { builder.prewarm(1) } else { builder }
    };
    let error = refusal(load("early", true)).await;
    assert_eq!(error.kind(), ErrorKind::Misuse);
    let text = error.to_string();
    assert!(text.contains("acme:db/query#get") && text.contains("prewarm"), "{text}");
    assert_eq!(*asked.lock().unwrap(), 0, "nobody was asked");
    let function = load("in-call", false).load().await.unwrap();
    assert_eq!(function.tenant("acme").call::<u64>("seen", ()).await.unwrap().value, 4);
}

#[tokio::test]
async fn clocks_and_randomness_answer_early() {
    let host = host();
    for (interface, function) in [
        ("wasi:random/random@0.2.0", "get-random-u64"),
        ("wasi:random/insecure@0.2.0", "get-insecure-random-u64"),
        ("wasi:clocks/monotonic-clock@0.2.0", "now"),
    ] {
        let function =
            host.function("early").component_wat(early(interface, function)).prewarm(2).load().await.unwrap();
        assert!(!function.call::<u64>("seen", ()).await.unwrap().usage.cold, "{interface}");
    }
    // Two instances that start early are no twins.
    let random = early("wasi:random/random@0.2.0", "get-random-u64");
    let function = host.function("early").component_wat(random).prewarm(2).load().await.unwrap();
    let [one, other] = [function.call::<u64>("seen", ()).await, function.call::<u64>("seen", ()).await];
    assert_ne!(one.unwrap().value, other.unwrap().value);
}

#[tokio::test]
async fn a_stock_has_a_place_in_the_pool() {
    let small = Host::builder().seats(3).build().unwrap();
    let error = refusal(small.function("counter").component_wat(COUNT).prewarm(4)).await;
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(error.to_string().contains("prewarm(4)") && error.to_string().contains("has 3"), "{error}");
    let error = refusal(small.function("counter").component_wat(COUNT).prewarm(0)).await;
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
    let roomy = Host::builder().seats(3).instances(4).build().unwrap();
    let all = counter(&roomy, 4, Limits::default()).await;
    assert_eq!(all.idle(), 4);
    // A component with two memories takes two slots.
    let two = r#"(component (core module $m (memory 1) (memory 1)) (core instance $i (instantiate $m)))"#;
    let error = refusal(roomy.function("two").component_wat(two).prewarm(3)).await;
    assert!(error.to_string().contains("needs 6 slots") && error.to_string().contains("has 4"), "{error}");
    assert_eq!(
        load(roomy.function("two").component_wat(two).prewarm(2), Limits::default()).await.idle(),
        0,
        "no slot is left"
    );
    assert_eq!(all.idle(), 4);
}

/// Those that wait give way to those that are called, and no slot is lost on the way.
#[tokio::test(flavor = "multi_thread")]
async fn a_stock_gives_way_to_calls() {
    let host = Host::builder().seats(4).build().unwrap();
    let stocked = counter(&host, 4, Limits::default()).await;
    let other = load(host.function("other").component_wat(COUNT), Limits::default().deadline(ms(20_000))).await;
    assert_eq!(stocked.idle(), 4);
    other.call::<u32>("count", ()).await.unwrap();
    assert!(stocked.idle() < 4, "{}", stocked.idle());
    let spins: Vec<_> = (0..4)
        .map(|_| {
            let other = other.deadline(ms(200));
            tokio::spawn(async move { other.call::<()>("spin", ()).await.unwrap_err().kind() })
        })
        .collect();
    for spin in spins {
        assert_eq!(spin.await.unwrap(), ErrorKind::TimedOut, "all four seats were to be had");
    }
    for round in 0..500 {
        let (one, other) = (stocked.call::<u32>("count", ()), other.call::<u32>("count", ()));
        let (one, other) = tokio::join!(one, other);
        assert_eq!((one.unwrap().value, other.unwrap().value), (1, 1), "round {round}");
        if round % 7 == 0 {
            stocked.call::<()>("trap", ()).await.unwrap_err();
        }
    }
    stocked.restock().await;
    assert!(stocked.idle() > 0, "slots are given back");
    assert!(format!("{host:?}").contains("free_seats: 4"));
}

/// The tenant, the call and its grants are those of the call, also where the guest had started to log before.
#[tokio::test]
async fn what_belongs_to_a_call_is_set_when_it_takes_the_instance() {
    let book = Book::default();
    let host = Host::builder().meter(book.clone()).build().unwrap();
    let builder = host.function("kv").component_file(built("keyvalue")).grant(KeyValue::bucket("state")).prewarm(2);
    let function = builder.load().await.unwrap();
    let set = |tenant: &'static str, value: &'static str| {
        let function = function.tenant(tenant);
        async move {
            let reply = function.call::<Result<(), String>>("set", ("state", "key", value.as_bytes())).await.unwrap();
            (reply.value.unwrap(), reply.usage.cold).1
        }
    };
    assert!(!set("a", "of a").await && !set("b", "of b").await, "both were stocked");
    for (tenant, expected) in [("a", "of a"), ("b", "of b")] {
        let reply = function.tenant(tenant).call::<Result<Option<Vec<u8>>, String>>("get", ("state", "key")).await;
        assert_eq!(reply.unwrap().value.unwrap().unwrap(), expected.as_bytes());
    }
    assert_eq!(book.take().iter().map(|(tenant, _)| tenant.as_str()).collect::<Vec<_>>(), ["a", "b", "a", "b"]);
}

/// Logs as it starts and when it is called.
const LOGS: &str = r#"(component
    (import "wasi:logging/logging@0.1.0-draft" (instance $l
        (type $level' (enum "trace" "debug" "info" "warn" "error" "critical"))
        (export "level" (type $level (eq $level')))
        (export "log" (func (param "level" $level) (param "context" string) (param "message" string)))))
    (core module $mem (memory (export "m") 1) (data (i32.const 0) "startrun"))
    (core instance $mem (instantiate $mem))
    (alias core export $mem "m" (core memory $m))
    (core func $log (canon lower (func $l "log") (memory $m)))
    (core module $c (import "" "log" (func $log (param i32 i32 i32 i32 i32)))
        (func $s (call $log (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 5))) (start $s)
        (func (export "run") (call $log (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 5) (i32.const 3))))
    (core instance $c (instantiate $c (with "" (instance (export "log" (func $log))))))
    (func (export "run") (canon lift (core func $c "run"))))"#;

#[tokio::test]
async fn what_a_guest_logs_as_it_starts_its_first_call_has() {
    let function = load(host().function("logs").component_wat(LOGS).prewarm(1), Limits::default()).await;
    let reply = function.tenant("acme").call::<()>("run", ()).await.unwrap();
    assert!(!reply.usage.cold);
    let said: Vec<_> = reply.output().log.iter().map(|line| line.message.as_str()).collect();
    assert_eq!((said, reply.usage.host_calls), (vec!["start", "run"], 2), "as with an instance of its own");
    let fresh = load(host().function("logs").component_wat(LOGS), Limits::default()).await;
    let fresh = fresh.call::<()>("run", ()).await.unwrap();
    assert_eq!((fresh.output(), fresh.usage.log_bytes), (reply.output(), reply.usage.log_bytes));
}

#[tokio::test]
async fn every_kind_of_call_takes_from_the_stock() {
    let host = host();
    let command = host.function("command").component_file(built("command")).grant(Env::var("HOME", "/")).prewarm(1);
    let command = command.load().await.unwrap();
    let reply =
        command.command(Command::new().arg("command").arg("x").env("NAME", "value").stdin("abc")).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&reply.output().stdout), "arg x\nenv HOME=/\nenv NAME=value\nABC");
    assert!(!reply.usage.cold);
    let handler = host.function("event").component_file(built("event-handler")).prewarm(1).load().await.unwrap();
    assert!(!handler.handle(Event::default()).await.unwrap().usage.cold);
    for guest in ["http-hello-p2", "http-hello-p3"] {
        let hello = host.function("hello").component_file(built(guest)).prewarm(1).load().await.unwrap();
        let response = hello.http(http::Request::get("/").body(http_body_util::Empty::new()).unwrap()).await.unwrap();
        let reply = response.into_body().bytes().await.unwrap();
        assert!(!reply.usage.cold, "{guest}: {:?}", reply.usage);
    }
}

#[tokio::test]
async fn grants_are_there_for_the_call_of_a_stocked_instance() {
    let host = host();
    let builder = host.function("ambient").component_file(built("ambient")).grant(Config::var("greeting", "hello"));
    let function = builder.prewarm(1).load().await.unwrap();
    let reply = function.call::<Option<String>>("setting", ("greeting",)).await.unwrap();
    assert_eq!((reply.value.as_deref(), reply.usage.cold), (Some("hello"), false));
}

/// A component that imports what it has no call to ask for, and does not as it starts, is prewarmed like any other.
#[tokio::test(flavor = "multi_thread")]
async fn what_toolchains_make_can_be_prewarmed() {
    let host = host();
    for guest in ["content-hash", "text-stats", "json-transform", "shapes", "async-shapes", "secret-scan", "files-std"]
    {
        let builder = host.function(guest).component_file(built(guest)).prewarm(1).deny_at_call();
        let function = builder.load().await.unwrap_or_else(|e| panic!("{guest}: {e:?}"));
        assert_eq!(function.idle(), 1, "{guest}");
    }
}

/// A guest that traps as it starts, from one second to another.
fn moody(from: u64, to: u64) -> String {
    format!(
        r#"(component
            (import "wasi:clocks/wall-clock@0.2.0" (instance $i
                (type $at' (record (field "seconds" u64) (field "nanoseconds" u32)))
                (export "datetime" (type $at (eq $at')))
                (export "now" (func (result $at)))))
            (core module $mem (memory (export "m") 1))
            (core instance $mem (instantiate $mem))
            (alias core export $mem "m" (core memory $m))
            (core func $now (canon lower (func $i "now") (memory $m)))
            (core module $m (import "" "now" (func $now (param i32))) (import "" "m" (memory 1)) (global $at (mut i64) (i64.const 0))
                (func $s (call $now (i32.const 0)) (global.set $at (i64.load (i32.const 0)))
                    (if (i32.and (i64.ge_u (global.get $at) (i64.const {from})) (i64.lt_u (global.get $at) (i64.const {to})))
                        (then unreachable)))
                (start $s) (func (export "run")))
            (core instance $c (instantiate $m (with "" (instance (export "now" (func $now)) (export "m" (memory $m))))))
            (func (export "run") (canon lift (core func $c "run"))))"#
    )
}

/// What could not be started is not tried for a while, whoever calls meanwhile; then it is.
#[test]
fn a_stock_that_cannot_be_filled_is_left_alone_for_a_second() {
    if !alone("prewarm::a_stock_that_cannot_be_filled_is_left_alone_for_a_second", "") {
        return;
    }
    let journal = Journal::default();
    tracing::subscriber::set_global_default(journal.clone()).unwrap();
    let second = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    // It may take a while to load.
    let from = second() + 3;
    let function = host().function("moody").component_wat(moody(from, from + 3)).prewarm(1).load_blocking().unwrap();
    assert_eq!(function.idle(), 1);
    let (mut trapped, started) = (0, Instant::now());
    while trapped < 1_000 && second() < from + 2 {
        trapped += u32::from(function.call_blocking::<()>("run", ()).is_err_and(|e| e.kind() == ErrorKind::Trapped));
    }
    let tried = journal.text().matches("could not be started ahead").count() as u64;
    // By the caller, and then by the refiller.
    let most = 2 * (started.elapsed().as_secs() + 1);
    assert!(trapped >= 100 && (1..=most).contains(&tried), "tried {tried} times; {trapped} calls trapped");
    until("the stock is filled again", || {
        let _ = function.call_blocking::<()>("run", ());
        second() >= from + 3 && function.idle() > 0
    });
}

/// Of instances that run code as they start only so many may wait. Those beyond are not started in vain at each call, and
/// are when others have gone.
#[test]
fn a_stock_without_stacks_to_wait_on_is_left_alone() {
    if !alone("prewarm::a_stock_without_stacks_to_wait_on_is_left_alone", "") {
        return;
    }
    let journal = Journal::default();
    tracing::subscriber::set_global_default(journal.clone()).unwrap();
    let host = Host::builder().profile(Profile::Density).seats(8).instances(200).build().unwrap();
    let load = |name: &'static str| host.function(name).component_wat(LOGS).prewarm(1).load_blocking().unwrap();
    let mut early: Vec<_> = (0..128).map(|_| load("early")).collect();
    assert!(early.iter().all(|function| function.idle() == 1));
    let late = [load("late"), load("late")];
    for _ in 0..50 {
        late.iter().for_each(|function| assert!(function.call_blocking::<()>("run", ()).unwrap().usage.cold));
    }
    assert!(late.iter().all(|function| function.idle() == 0));
    let text = journal.text();
    let starts = text.lines().filter(|line| line.contains("late") && line.contains("message=start")).count();
    assert_eq!(starts, 2 * (1 + 50), "to see whether it can be prewarmed, and by each call for itself");
    early.truncate(126);
    let restock = async || {
        late[0].restock().await;
        Ok(late[0].idle())
    };
    until("a stack is free again", || isopod::block_on(restock()).unwrap() == 1);
}

/// Without an order for it there is no thread; with the last handle it goes.
#[test]
fn the_refiller_comes_and_goes_with_those_who_need_it() {
    if !alone("prewarm::the_refiller_comes_and_goes_with_those_who_need_it", "") {
        return;
    }
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("isopod-refille")).count()
    };
    let host = host();
    let plain = host.function("counter").component_wat(COUNT).load_blocking().unwrap();
    assert_eq!(threads(), 0);
    let stocked = host.function("counter").component_wat(COUNT).prewarm(1).load_blocking().unwrap();
    until("the refiller is there", || threads() == 1);
    drop((plain, stocked, host));
    until("it is gone", || threads() == 0);
}

/// Threads that call and drop at once what others prewarm: nothing is lost, nothing is used twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_callers_share_a_stock() {
    let host = Host::builder().seats(64).build().unwrap();
    let function = counter(&host, 16, Limits::default().deadline(ms(60_000))).await;
    let callers: Vec<_> = (0..32)
        .map(|n| {
            let function = function.clone();
            tokio::spawn(async move {
                for call in 0..200 {
                    match (n + call) % 16 {
                        3 => assert_eq!(function.call::<()>("trap", ()).await.unwrap_err().kind(), ErrorKind::Trapped),
                        7 => drop(tokio::time::timeout(ms(1), function.call::<()>("spin", ())).await),
                        9 => function.restock().await,
                        _ => assert_eq!(function.call::<u32>("count", ()).await.unwrap().value, 1),
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(format!("{host:?}").contains("free_seats: 64"), "{host:?}");
    function.restock().await;
    assert!(function.idle() >= 1);
}

/// A guest that takes long to start: some hundred milliseconds of computing.
const SLOW: &str = r#"(component
    (core module $m
        (func $s (local $i i32) (loop $l
            (local.set $i (i32.add (local.get $i) (i32.const 1))) (br_if $l (i32.lt_u (local.get $i) (i32.const 200000000)))))
        (start $s) (func (export "run")))
    (core instance $i (instantiate $m))
    (func (export "run") (canon lift (core func $i "run"))))"#;

/// Nobody waits for others' guests to start: not who has its answer, and not who loads for longer than a call may take.
#[test]
fn slow_starts_are_the_refillers_business() {
    let host = host();
    let limits = Limits::default().deadline(ms(2_000));
    let builder = host.function("slow").component_wat(SLOW).limits(limits).prewarm(100);
    let slow = builder.load_blocking().unwrap();
    assert!(slow.idle() > 0 && slow.idle() < 100, "{} of 100", slow.idle());
    let limits = Limits::default().deadline(ms(20_000)).busy(ms(20_000));
    let few = host.function("slow").component_wat(SLOW).limits(limits).prewarm(2).load_blocking().unwrap();
    // Two are gone after these, so that both filled up the stock; the thread's own share of that is a millisecond.
    let mut longest = Duration::ZERO;
    let mut started = Duration::MAX;
    for _ in 0..8 {
        let begun = Instant::now();
        let usage = few.call_blocking::<()>("run", ()).unwrap().usage;
        match usage.cold {
            true => started = started.min(usage.busy),
            false => {
                assert!(usage.busy > usage.wall, "whoever uses it is charged for its start: {usage}");
                longest = longest.max(begun.elapsed() - usage.wall);
            }
        }
    }
    assert!(started < Duration::MAX, "the refiller is slower than this loop");
    assert!(longest < started, "{longest:?} after the answer, and {started:?} to start one");
}

/// While calls take instances sooner than they can be made, nobody makes more than a few; then the stock fills up again.
#[tokio::test(flavor = "multi_thread")]
async fn a_stock_that_calls_outran_fills_up_after_them() {
    let text = SLOW.replace("200000000", "1000000");
    let function = host().function("brief").component_wat(text).prewarm(64).load().await.unwrap();
    until("it is full at first", || function.idle() == 64);
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let function = function.clone();
            tokio::spawn(async move {
                let mut cold = 0;
                for _ in 0..100 {
                    cold += u32::from(function.call::<()>("run", ()).await.unwrap().usage.cold);
                }
                cold
            })
        })
        .collect();
    let mut cold = 0;
    for caller in callers {
        cold += caller.await.unwrap();
    }
    assert!(cold > 100, "they outran it: {cold} of 800 were started for their call");
    until("half of it is there again", || function.idle() >= 32);
}

/// Instances that were used and not dropped yet know of the slots that they are kept with.
#[test]
fn a_host_that_is_dropped_takes_its_instances_along() {
    if !alone("prewarm::a_host_that_is_dropped_takes_its_instances_along", "") {
        return;
    }
    let address_space = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let round = || {
        let host = host();
        let function = host.function("counter").component_wat(COUNT).prewarm(64).load_blocking().unwrap();
        for _ in 0..20 {
            function.call_blocking::<u32>("count", ()).unwrap();
        }
    };
    round();
    // A pool has four tebibytes of it.
    let before = address_space();
    (0..8).for_each(|_| round());
    until("their pools are gone", || address_space() <= before + (4 << 30));
}
