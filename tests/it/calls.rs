//! What every call promises: fresh, isolated, counted, cancellable.

use crate::support::{built, host, load, runner};
use isopod::{CallOptions, ErrorKind, Function, Host, Limits, Meter, Receipt, ms};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

const COUNT: &str = r#"(component
    (core module $m (global $n (mut i32) (i32.const 0)) (memory 1)
        (func (export "count") (result i32) (global.set $n (i32.add (global.get $n) (i32.const 1))) (global.get $n))
        (func (export "peek") (result i32) (i32.load (i32.const 4096)))
        (func (export "poke") (i32.store (i32.const 4096) (i32.const 0xbad)))
        (func (export "trap") unreachable)
        (func (export "spin") (loop $l (br $l)))
        (func (export "double") (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2))))
    (core instance $i (instantiate $m))
    (func (export "count") (result u32) (canon lift (core func $i "count")))
    (func (export "peek") (result u32) (canon lift (core func $i "peek")))
    (func (export "poke") (canon lift (core func $i "poke")))
    (func (export "trap") (canon lift (core func $i "trap")))
    (func (export "spin") (canon lift (core func $i "spin")))
    (func (export "double") (param "n" u32) (result u32) (canon lift (core func $i "double"))))"#;

async fn counter(host: &Host) -> Function {
    load(host.function("counter").component_wat(COUNT), Limits::default()).await
}

#[tokio::test]
async fn fresh_means_fresh() {
    let host = host();
    let function = counter(&host).await;
    for tenant in ["a", "b", "a"] {
        let function = function.tenant(tenant);
        assert_eq!(function.call::<u32>("count", ()).await.unwrap().value, 1);
        assert_eq!(function.call::<u32>("peek", ()).await.unwrap().value, 0);
        function.call::<()>("poke", ()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_calls_at_once_are_right_and_apart() {
    let host = host();
    let function = load(host.function("counter").component_wat(COUNT), Limits::default().deadline(ms(20_000))).await;
    let calls: Vec<_> = (0..1_000u32)
        .map(|n| {
            let function = function.clone();
            tokio::spawn(async move {
                match n % 20 {
                    7 => assert_eq!(function.call::<()>("trap", ()).await.unwrap_err().kind(), ErrorKind::Trapped),
                    11 => {
                        let spin = function.deadline(ms(20));
                        let kind = spin.call::<()>("spin", ()).await.unwrap_err().kind();
                        assert!(matches!(kind, ErrorKind::TimedOut | ErrorKind::Overloaded), "{kind:?}");
                    }
                    13 => drop(tokio::time::timeout(ms(2), function.call::<()>("spin", ())).await),
                    _ => assert_eq!(function.call::<u32>("double", (n,)).await.unwrap().value, 2 * n),
                }
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    assert!(format!("{host:?}").contains("free_seats: 1000"), "{host:?}");
}

/// Whom a call was for, and how it ended.
type Entry = (String, Option<ErrorKind>);

#[derive(Clone, Default)]
struct Book(Arc<Mutex<Vec<Entry>>>);

impl Meter for Book {
    fn record(&self, receipt: &Receipt<'_>) {
        self.0.lock().unwrap().push((receipt.tenant.to_owned(), receipt.error));
    }
}

#[tokio::test]
async fn the_meter_is_told_once_per_call_however_it_ends() {
    let book = Book::default();
    let host = Host::builder().meter(book.clone()).build().unwrap();
    let function = counter(&host).await;
    function.tenant("good").call::<u32>("count", ()).await.unwrap();
    function.tenant("bad").call::<()>("trap", ()).await.unwrap_err();
    let dropped = function.tenant("gone");
    let mut call = Box::pin(dropped.call::<()>("spin", ()));
    std::future::poll_fn(|cx| {
        assert!(call.as_mut().poll(cx).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    drop(call);
    let expected = [("good", None), ("bad", Some(ErrorKind::Trapped)), ("gone", Some(ErrorKind::Cancelled))];
    let expected: Vec<Entry> = expected.map(|(tenant, kind)| (tenant.to_owned(), kind)).into();
    assert_eq!(*book.0.lock().unwrap(), expected);
}

#[test]
fn callers_without_async_are_served() {
    let host = host();
    let function = host.function("counter").component_wat(COUNT).load_blocking().unwrap();
    assert_eq!(function.call_blocking::<u32>("double", (21,)).unwrap().value, 42);
}

/// Resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Calls dropped and calls that trap lose no slot and leave no memory behind. `ISOPOD_LONG` makes it the full length.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_and_trapping_calls_leave_nothing_behind() {
    let rounds: u64 = if std::env::var_os("ISOPOD_LONG").is_some() { 100_000 } else { 10_000 };
    let host = Host::builder().seats(4).build().unwrap();
    let function = counter(&host).await;
    let poll_once_and_drop = async || {
        let mut call = Box::pin(function.call::<()>("spin", ()));
        std::future::poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx).is_pending())).await
    };
    let cycle = async |n: u64| {
        if n.is_multiple_of(20) {
            function.call::<()>("trap", ()).await.unwrap_err();
        } else {
            assert_eq!(function.call::<u32>("count", ()).await.unwrap().value, 1);
        }
    };
    for n in 0..1_000 {
        cycle(n).await;
    }
    let before = resident();
    for n in 0..rounds {
        cycle(n).await;
    }
    for _ in 0..rounds / 100 {
        assert!(poll_once_and_drop().await);
    }
    // Other tests of this process come and go: what counts is that it comes back.
    let mut after = resident();
    for _ in 0..200 {
        if after < before + 32 * 1024 {
            break;
        }
        tokio::time::sleep(ms(50)).await;
        after = resident();
    }
    assert!(after < before + 32 * 1024, "{before} KiB, then {after} KiB");
    assert!(format!("{host:?}").contains("free_seats: 4"), "{host:?}");
}

#[tokio::test]
async fn usage_tells_what_happened() {
    let host = host();
    let function = counter(&host).await;
    let reply = function.call::<u32>("double", (4,)).await.unwrap();
    assert!(reply.usage.cold && reply.usage.wall >= reply.usage.busy && reply.usage.busy > ms(0));
    assert_eq!((reply.usage.bytes_in, reply.usage.bytes_out, reply.usage.fuel), (4, 4, None));
    assert_eq!(reply.usage.peak_memory, 65_536);
}

#[tokio::test]
async fn a_lone_call_after_a_pause_still_has_its_deadline() {
    let host = host();
    let function = load(host.function("spin").component_wat(COUNT), Limits::default().deadline(ms(30))).await;
    // Long enough for the ticker to fall asleep.
    tokio::time::sleep(ms(200)).await;
    assert_eq!(function.call::<()>("spin", ()).await.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[tokio::test]
async fn many_functions_share_a_host() {
    let host = host();
    let made = AtomicU64::new(0);
    for n in 0..20 {
        let body = format!(r#"(func (export "run") (result i32) (i32.const {n}))"#);
        let wat =
            runner(&body).replace(r#"(func (export "run") (canon"#, r#"(func (export "run") (result u32) (canon"#);
        let function = host.function(format!("f{n}")).component_wat(wat).load().await.unwrap();
        assert_eq!(function.call::<u32>("run", ()).await.unwrap().value, n);
        made.fetch_add(1, Ordering::Relaxed);
    }
    assert_eq!(made.into_inner(), 20);
}

#[tokio::test]
async fn short_export_names() {
    let function = host().function("shapes").component_file(built("event-handler")).load().await.unwrap();
    let names: Vec<_> = function.exports().iter().map(|export| export.name().to_owned()).collect();
    assert_eq!(names, ["isopod:function/handler@0.1.0#handle"]);
}

isopod::world!({
    world: "needy",
    inline: "package test:needy; world needy { import help: func(how: u32) -> u32; export run: func(how: u32) -> u32; }",
});

const NEEDY: &str = r#"(component
    (import "help" (func $help (param "how" u32) (result u32)))
    (core func $f (canon lower (func $help)))
    (core module $m (import "w" "f" (func $f (param i32) (result i32)))
        (func (export "run") (param i32) (result i32) (call $f (local.get 0))))
    (core instance $w (export "f" (func $f)))
    (core instance $i (instantiate $m (with "w" (instance $w))))
    (func (export "run") (param "how" u32) (result u32) (canon lift (core func $i "run"))))"#;

/// A host function with every fault an embedder's may have.
#[derive(Clone)]
struct Faulty {
    panics_in_drop: bool,
}

impl NeedyImports for Faulty {
    async fn help(&mut self, how: u32) -> u32 {
        match how {
            0 => 42,
            1 => panic!("at once"),
            2 => {
                tokio::task::yield_now().await;
                panic!("after a while \u{1b}[31m")
            }
            _ => {
                tokio::time::sleep(ms(60_000)).await;
                0
            }
        }
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        if self.panics_in_drop && !std::thread::panicking() {
            panic!("in drop");
        }
    }
}

/// Host functions that panic, sleep for ever, or panic when they are dropped: each a typed end, and no slot lost. The
/// pool has two slots, so that a leak would stop the third call.
#[tokio::test]
async fn faulty_host_functions_lose_nothing() {
    let host = Host::builder().seats(2).build().unwrap();
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let rounds = if std::env::var_os("ISOPOD_LONG").is_some() { 10_000 } else { 200 };
    for panics_in_drop in [false, true] {
        let make = move || Faulty { panics_in_drop };
        let function =
            host.function("needy").component_wat(NEEDY).imports_with(make).load_typed::<Needy>().await.unwrap();
        for n in 0..rounds {
            match n % 4 {
                0 => assert_eq!(function.run(0).await.unwrap().value, 42),
                1 => {
                    let error = function.run(1).await.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::HostPanic);
                    assert!(error.to_string().contains("at once"), "{error}");
                }
                2 => {
                    let error = function.run(2).await.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::HostPanic);
                    assert!(!error.to_string().contains('\u{1b}'));
                }
                _ => assert_eq!(function.deadline(ms(1)).run(3).await.unwrap_err().kind(), ErrorKind::TimedOut),
            }
        }
    }
    std::panic::set_hook(quiet);
    assert!(format!("{host:?}").contains("free_seats: 2"), "{host:?}");
}

/// A deadline also ends a call that only waits: nothing polls it but the ticker's alarm.
#[tokio::test]
async fn a_sleeping_host_function_ends_at_the_deadline() {
    let make = || Faulty { panics_in_drop: false };
    let limits = Limits::default().deadline(ms(30));
    let builder = host().function("needy").component_wat(NEEDY).limits(limits);
    let function = builder.imports_with(make).load_typed::<Needy>().await.unwrap();
    let error = function.run(3).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.usage().wall >= ms(30) && error.usage().wall < ms(430), "{}", error.usage());
    assert!(error.usage().busy < ms(30), "{}", error.usage());
}
