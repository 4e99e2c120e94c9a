//! What every call promises: fresh, isolated, counted, cancellable.

use crate::support::{Book, Journal, WAITS, alone, built, host, load, resident, runner};
use isopod::{CallOptions, Context, ErrorKind, Function, Host, Limits, Meter, Receipt, ms};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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

#[tokio::test]
async fn the_meter_is_told_once_per_call_however_it_ends() {
    let book = Book::default();
    let host = Host::builder().meter(book.clone()).build().unwrap();
    let function = counter(&host).await;
    function.tenant("good").call::<u32>("count", ()).await.unwrap();
    function.tenant("bad").call::<()>("trap", ()).await.unwrap_err();
    let dropped = function.tenant("gone");
    poll_once_and_drop(dropped.call::<()>("spin", ())).await;
    // In the line as well: the only seat is taken.
    let limits = Limits::default().concurrency(1).deadline(ms(60_000)).busy(ms(60_000));
    let narrow = load(host.function("counter").component_wat(COUNT), limits).await;
    let mut taken = Box::pin(narrow.call::<()>("spin", ()));
    std::future::poll_fn(|cx| std::task::Poll::Ready(taken.as_mut().poll(cx).is_pending())).await;
    poll_once_and_drop(narrow.tenant("waiting").call::<()>("spin", ())).await;
    let full = load(host.function("counter").component_wat(COUNT), Limits::default().concurrency(1).queue(0)).await;
    let mut other = Box::pin(full.call::<()>("spin", ()));
    std::future::poll_fn(|cx| std::task::Poll::Ready(other.as_mut().poll(cx).is_pending())).await;
    assert_eq!(full.tenant("full").call::<()>("spin", ()).await.unwrap_err().kind(), ErrorKind::Overloaded);
    let expected = [
        ("good", None),
        ("bad", Some(ErrorKind::Trapped)),
        ("gone", Some(ErrorKind::Cancelled)),
        ("waiting", Some(ErrorKind::Cancelled)),
        ("full", Some(ErrorKind::Overloaded)),
    ];
    assert_eq!(book.take(), expected.map(|(tenant, kind)| (tenant.to_owned(), kind)));
}

#[test]
fn callers_without_async_are_served() {
    let host = host();
    let function = host.function("counter").component_wat(COUNT).load_blocking().unwrap();
    assert_eq!(function.call_blocking::<u32>("double", (21,)).unwrap().value, 42);
}

/// Polls a call once, sees that it goes on, and drops it.
async fn poll_once_and_drop<T>(call: impl Future<Output = T>) {
    let mut call = std::pin::pin!(call);
    let pending = std::future::poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx).is_pending())).await;
    assert!(pending, "the call ended at its first poll");
}

const ROUNDS: u32 = 100_000;

/// Calls that are dropped, in the guest or in a host function, and calls that trap: no slot is lost, no memory is kept.
/// The pool has four slots, so that a leak would stop the fifth call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_and_trapping_calls_leave_nothing_behind() {
    if !alone("calls::dropped_and_trapping_calls_leave_nothing_behind", "") {
        return;
    }
    let host = Host::builder().seats(4).build().unwrap();
    let function = counter(&host).await;
    let imports = |_| Faulty { panics_in_drop: false };
    let needy = host.function("needy").component_wat(NEEDY).imports_with(imports).load_typed::<Needy>().await.unwrap();
    let rounds = async |count: u32| {
        for n in 0..count {
            match n % 20 {
                0 => assert_eq!(function.call::<()>("trap", ()).await.unwrap_err().kind(), ErrorKind::Trapped),
                _ => assert_eq!(function.call::<u32>("count", ()).await.unwrap().value, 1),
            }
            poll_once_and_drop(needy.run(WAIT)).await;
            // This one takes a tick.
            if n % 500 == 0 {
                poll_once_and_drop(function.call::<()>("spin", ())).await;
            }
        }
    };
    rounds(ROUNDS / 100).await;
    let before = resident();
    rounds(ROUNDS).await;
    let after = resident();
    assert!(after < before + 4 * 1024, "{before} KiB, then {after} KiB");
    assert!(format!("{host:?}").contains("free_seats: 4"), "{host:?}");
}

/// What one function's call wrote is not there for the next call in the same slot, be it of another function.
#[tokio::test]
async fn a_slot_keeps_nothing_for_the_next_function() {
    let guest = |tag: &str| {
        format!(
            r#"(component
            (core module $m (memory 1) (table $t 64 funcref) (elem declare func $f) (func $f)
                (func (export "write") (local $at i32)
                    (drop (memory.grow (i32.const 15)))
                    (loop $l (i64.store (local.get $at) (i64.const -1)) (local.set $at (i32.add (local.get $at) (i32.const 8)))
                        (br_if $l (i32.lt_u (local.get $at) (i32.const 1048576))))
                    (table.fill $t (i32.const 0) (ref.func $f) (i32.const 64)))
                (func (export "sum") (result i64) (local $at i32) (local $sum i64)
                    (drop (memory.grow (i32.const 15)))
                    (loop $l (local.set $sum (i64.add (local.get $sum) (i64.popcnt (i64.load (local.get $at)))))
                        (local.set $at (i32.add (local.get $at) (i32.const 8)))
                        (br_if $l (i32.lt_u (local.get $at) (i32.const 1048576))))
                    (local.set $at (i32.const 0))
                    (loop $l (if (i32.eqz (ref.is_null (table.get $t (local.get $at))))
                            (then (local.set $sum (i64.add (local.get $sum) (i64.const 1)))))
                        (local.set $at (i32.add (local.get $at) (i32.const 1)))
                        (br_if $l (i32.lt_u (local.get $at) (i32.const 64))))
                    (local.get $sum))
                (func (export "{tag}")))
            (core instance $i (instantiate $m))
            (func (export "write") (canon lift (core func $i "write")))
            (func (export "sum") (result u64) (canon lift (core func $i "sum"))))"#
        )
    };
    let host = Host::builder().seats(1).build().unwrap();
    let load =
        async |tag: &str| host.function("f").component_wat(guest(tag)).load().await.unwrap().tenant(tag.to_owned());
    // A host with one seat has three slots. A component has the slot again that it had before; one that had none has one
    // that nobody had yet, or that of whoever left theirs first: of four in turn, some have those that `acme` wrote to.
    let acme = load("acme").await;
    for round in 0..2 {
        acme.call::<()>("write", ()).await.unwrap();
        assert_eq!(acme.call::<u64>("sum", ()).await.unwrap().value, 0);
        acme.call::<()>("write", ()).await.unwrap();
        for n in 0..4 {
            let other = load(&format!("other-{round}-{n}")).await;
            assert_eq!(other.call::<u64>("sum", ()).await.unwrap().value, 0);
            other.call::<()>("write", ()).await.unwrap();
        }
    }
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

/// The ticker sleeps while nothing runs, and a call wakes it.
#[tokio::test]
async fn a_lone_call_after_a_pause_still_has_its_deadline() {
    let host = host();
    let function = load(host.function("spin").component_wat(COUNT), Limits::default().deadline(ms(30))).await;
    for _ in 0..2 {
        while format!("{host:?}").contains("ticking: true") {
            tokio::time::sleep(ms(1)).await;
        }
        assert_eq!(function.call::<()>("spin", ()).await.unwrap_err().kind(), ErrorKind::TimedOut);
    }
}

#[tokio::test]
async fn many_functions_share_a_host() {
    let host = host();
    for n in 0..20 {
        let body = format!(r#"(func (export "run") (result i32) (i32.const {n}))"#);
        let wat =
            runner(&body).replace(r#"(func (export "run") (canon"#, r#"(func (export "run") (result u32) (canon"#);
        let function = host.function(format!("f{n}")).component_wat(wat).load().await.unwrap();
        assert_eq!(function.call::<u32>("run", ()).await.unwrap().value, n);
    }
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

pub(crate) const NEEDY: &str = r#"(component
    (import "help" (func $help (param "how" u32) (result u32)))
    (core func $f (canon lower (func $help)))
    (core module $m (import "w" "f" (func $f (param i32) (result i32)))
        (func (export "run") (param i32) (result i32) (call $f (local.get 0))))
    (core instance $w (export "f" (func $f)))
    (core instance $i (instantiate $m (with "w" (instance $w))))
    (func (export "run") (param "how" u32) (result u32) (canon lift (core func $i "run"))))"#;

/// A host function with every fault an embedder's may have.
#[derive(Clone)]
pub(crate) struct Faulty {
    pub(crate) panics_in_drop: bool,
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
            WAIT => std::future::pending().await,
            _ => {
                let _bomb = Bomb;
                std::future::pending().await
            }
        }
    }
}

/// What a faulty host function does: never answers; never answers, and panics when it is given up.
const WAIT: u32 = 3;
const WAIT_WITH_A_BOMB: u32 = 4;

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("in the drop of a future");
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
    let rounds = 200;
    for panics_in_drop in [false, true] {
        let make = move |_| Faulty { panics_in_drop };
        let function =
            host.function("needy").component_wat(NEEDY).imports_with(make).load_typed::<Needy>().await.unwrap();
        for n in 0..rounds {
            match n % 5 {
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
                3 => assert_eq!(function.deadline(ms(1)).run(WAIT).await.unwrap_err().kind(), ErrorKind::TimedOut),
                _ => {
                    let error = function.deadline(ms(1)).run(WAIT_WITH_A_BOMB).await.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::TimedOut);
                }
            }
        }
    }
    assert!(format!("{host:?}").contains("free_seats: 2"), "{host:?}");
}

/// A deadline also ends a call that only waits: nothing polls it but the ticker's alarm.
#[tokio::test]
async fn a_sleeping_host_function_ends_at_the_deadline() {
    let make = |_| Faulty { panics_in_drop: false };
    let limits = Limits::default().deadline(ms(30));
    let builder = host().function("needy").component_wat(NEEDY).limits(limits);
    let function = builder.imports_with(make).load_typed::<Needy>().await.unwrap();
    let error = function.run(WAIT).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.usage().wall >= ms(30) && error.usage().wall < ms(430), "{}", error.usage());
    assert!(error.usage().busy < ms(30), "{}", error.usage());
}

/// Where the address space is too small for the pool, a host makes instances on demand, and says so; one that was asked
/// for its seats fails instead.
#[tokio::test]
async fn a_host_without_address_space_works_without_a_pool() {
    if !alone("calls::a_host_without_address_space_works_without_a_pool", "ulimit -v 3000000") {
        return;
    }
    let journal = Journal::default();
    tracing::subscriber::set_global_default(journal.clone()).unwrap();
    let function = counter(&host()).await;
    assert_eq!(function.call::<u32>("count", ()).await.unwrap().value, 1);
    assert_eq!(function.call::<u32>("count", ()).await.unwrap().value, 1);
    assert_eq!(function.call::<()>("trap", ()).await.unwrap_err().kind(), ErrorKind::Trapped);
    let error = Host::builder().seats(1_000).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error:?}");
    assert!(journal.text().contains("on demand"), "{}", journal.text());
}

/// A receipt tells how long a call took, also if nobody looked at it since it last waited.
#[tokio::test]
async fn a_cancelled_call_took_the_time_it_took() {
    #[derive(Clone, Default)]
    struct Walls(Arc<Mutex<Vec<Duration>>>);
    impl Meter for Walls {
        fn record(&self, receipt: &Receipt<'_>) {
            assert_eq!(receipt.error, Some(ErrorKind::Cancelled));
            self.0.lock().unwrap().push(receipt.usage.wall);
            panic!("a meter that panics is nobody's loss");
        }
    }
    let walls = Walls::default();
    let host = Host::builder().meter(walls.clone()).build().unwrap();
    let waits = host
        .function("waits")
        .component_wat(WAITS)
        .import("", "wait", async |_, ()| std::future::pending::<()>().await);
    let waits = waits.load().await.unwrap();
    assert!(tokio::time::timeout(ms(30), waits.call::<()>("run", ())).await.is_err());
    let walls = walls.0.lock().unwrap().clone();
    assert!(walls.len() == 1 && walls[0] >= ms(30), "{walls:?}");
}

/// What a session is told when time is up on fuel, between two of its polls.
#[tokio::test]
async fn a_session_on_fuel_is_told_of_the_deadline() {
    let limits = Limits::default().deadline(ms(20)).fuel(1_000_000);
    // Blocks the thread, so that the call is not polled when its time is up.
    let late =
        host().function("late").component_wat(WAITS).limits(limits).import("", "wait", async |context: Context, ()| {
            while !context.remaining().is_zero() {
                std::hint::spin_loop();
            }
        });
    let kinds: Mutex<Vec<ErrorKind>> = Mutex::default();
    let late = late.load().await.unwrap();
    let ended = late
        .session(async |s| {
            let told = s.call::<()>("run", ()).await.map_err(|e| e.kind()).unwrap_err();
            kinds.lock().unwrap().push(told);
            Ok(())
        })
        .await;
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(*kinds.lock().unwrap(), [ErrorKind::TimedOut]);
}

#[test]
fn loading_outside_of_a_runtime_is_an_error() {
    let loading = host().function("f").component_wat("(component)").load();
    let error = futures_util::FutureExt::now_or_never(loading).unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(error.to_string().contains("load_blocking"), "{error}");
}
