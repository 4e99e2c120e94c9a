//! Calls that overlap in one instance: of one tenant, so many at once; what ends one, and what that does to the others.

use crate::support::{Book, built, host, load};
use bytes::Bytes;
use http_body_util::BodyExt;
use isopod::{
    CallOptions, Context, ErrorKind, Function, FunctionBuilder, Host, Limit, Limits, Reply, Result, Reuse, ms,
};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Counts the calls that begin in it. `wait` stands at a gate of the host's and says how many had begun when it went on.
const GUEST: &str = r#"(component
    (import "test:it/host" (instance $host
        (export "pass" (func async (param "n" u32) (result u32)))
        (export "tick" (func (param "n" u32)))))
    (alias export $host "pass" (func $pass))
    (alias export $host "tick" (func $tick))
    (core module $libc (memory (export "m") 1))
    (core instance $libc (instantiate $libc))
    (core func $pass (canon lower (func $pass) async (memory (core memory $libc "m"))))
    (core func $tick (canon lower (func $tick)))
    (core func $return (canon task.return (result u32)))
    (core func $set (canon waitable-set.new))
    (core func $drop-set (canon waitable-set.drop))
    (core func $join (canon waitable.join))
    (core func $drop (canon subtask.drop))
    (core func $get (canon context.get i32 0))
    (core func $put (canon context.set i32 0))
    (core module $m
        (import "w" "m" (memory 1))
        (import "w" "pass" (func $pass (param i32 i32) (result i32)))
        (import "w" "tick" (func $tick (param i32)))
        (import "w" "return" (func $return (param i32)))
        (import "w" "set" (func $set (result i32)))
        (import "w" "drop-set" (func $drop-set (param i32)))
        (import "w" "join" (func $join (param i32 i32)))
        (import "w" "drop" (func $drop (param i32)))
        (import "w" "get" (func $get (result i32)))
        (import "w" "put" (func $put (param i32)))
        (global $n (mut i32) (i32.const 0))
        (func $begin (global.set $n (i32.add (global.get $n) (i32.const 1))))
        (func $end (result i32) (call $return (global.get $n)) (i32.const 0))
        (func (export "wait") (param i32) (result i32) (local $status i32) (local $set i32)
            (call $begin)
            (local.set $status (call $pass (local.get 0) (i32.const 8)))
            (if (i32.eq (i32.and (local.get $status) (i32.const 15)) (i32.const 2)) (then (return (call $end))))
            (local.set $set (call $set))
            (call $put (local.get $set))
            (call $join (i32.shr_u (local.get $status) (i32.const 4)) (local.get $set))
            (i32.or (i32.const 2) (i32.shl (local.get $set) (i32.const 4))))
        (func (export "went") (param i32 i32 i32) (result i32)
            (if (i32.ne (local.get 2) (i32.const 2))
                (then (return (i32.or (i32.const 2) (i32.shl (call $get) (i32.const 4))))))
            (call $drop (local.get 1))
            (call $drop-set (call $get))
            (call $end))
        (func (export "bump") (result i32) (call $begin) (call $end))
        (func (export "count") (result i32) (global.get $n))
        (func (export "trap") (result i32) unreachable)
        (func (export "spin") (result i32) (loop $l (br $l)) unreachable)
        (func (export "ticks") (param i32 i32) (result i32)
            (loop $l
                (call $tick (local.get 0))
                (local.set 1 (i32.sub (local.get 1) (i32.const 1)))
                (br_if $l (local.get 1)))
            (call $end))
        (func (export "grow") (param i32) (result i32)
            (call $return (memory.grow (local.get 0))) (i32.const 0))
        (func (export "cb") (param i32 i32 i32) (result i32) unreachable))
    (core instance $i (instantiate $m (with "w" (instance
        (export "m" (memory $libc "m")) (export "pass" (func $pass)) (export "tick" (func $tick))
        (export "return" (func $return)) (export "set" (func $set)) (export "drop-set" (func $drop-set))
        (export "join" (func $join)) (export "drop" (func $drop)) (export "get" (func $get)) (export "put" (func $put))))))
    (func (export "wait") async (param "n" u32) (result u32)
        (canon lift (core func $i "wait") async (callback (core func $i "went"))))
    (func (export "bump") async (result u32) (canon lift (core func $i "bump") async (callback (core func $i "cb"))))
    (func (export "count") (result u32) (canon lift (core func $i "count")))
    (func (export "trap") async (result u32) (canon lift (core func $i "trap") async (callback (core func $i "cb"))))
    (func (export "spin") async (result u32) (canon lift (core func $i "spin") async (callback (core func $i "cb"))))
    (func (export "ticks") async (param "n" u32) (param "times" u32) (result u32)
        (canon lift (core func $i "ticks") async (callback (core func $i "cb"))))
    (func (export "grow") async (param "pages" u32) (result u32)
        (canon lift (core func $i "grow") async (callback (core func $i "cb")))))"#;

/// The host's side: how many stand at the gate, and how many may pass.
#[derive(Clone)]
struct Gate {
    arrived: Arc<Semaphore>,
    open: Arc<Semaphore>,
    ticks: Arc<AtomicU32>,
    /// The number of the call that ticked last.
    ticked: Arc<AtomicU64>,
}

/// Numbers with which the host's functions panic: as they are called, and as they go on.
const PANIC: u32 = 1;
const PANIC_LATER: u32 = 2;

impl Gate {
    fn new() -> Gate {
        let shut = || Arc::new(Semaphore::new(0));
        Gate { arrived: shut(), open: shut(), ticks: Arc::default(), ticked: Arc::default() }
    }

    fn guest(&self, host: &Host) -> FunctionBuilder {
        self.give(host.function("guest").component_wat(GUEST))
    }

    fn give(&self, builder: FunctionBuilder) -> FunctionBuilder {
        let (gate, ticking) = (self.clone(), self.clone());
        builder
            .import("test:it/host", "pass", move |_: Context, (n,): (u32,)| {
                let gate = gate.clone();
                async move {
                    // What comes after it comes beside the guest.
                    tokio::task::yield_now().await;
                    // Whoever hears that it has come finds it in the line.
                    let (mut pass, mut told) = (std::pin::pin!(gate.open.acquire()), false);
                    let passed = std::future::poll_fn(|cx| {
                        let passed = pass.as_mut().poll(cx);
                        if !std::mem::replace(&mut told, true) {
                            gate.arrived.add_permits(1);
                        }
                        passed
                    });
                    passed.await.unwrap().forget();
                    assert_ne!(n, PANIC_LATER, "asked for");
                    n
                }
            })
            .import("test:it/host", "tick", move |context: Context, (n,): (u32,)| {
                assert_ne!(n, PANIC, "asked for");
                ticking.ticks.fetch_add(1, Ordering::SeqCst);
                ticking.ticked.store(context.call_id(), Ordering::SeqCst);
                async {}
            })
    }

    async fn arrive(&self, calls: u32) {
        self.arrived.acquire_many(calls).await.unwrap().forget();
    }

    /// So many that wait, begun one after the other: a call that comes while an instance is being made has another.
    async fn waiting(&self, function: &Function, calls: u32) -> Vec<JoinHandle<Result<Reply<u32>>>> {
        let mut waiting = Vec::new();
        for _ in 0..calls {
            waiting.push(wait(function));
            self.arrive(1).await;
        }
        waiting
    }

    fn open(&self, calls: usize) {
        self.open.add_permits(calls);
    }
}

fn reuse(calls: u32) -> Reuse {
    Reuse::within_tenant().overlapping(calls)
}

async fn guest(gate: &Gate, reuse: Reuse, limits: Limits) -> Function {
    load(gate.guest(&host()).reuse(reuse), limits).await
}

fn wait(function: &Function) -> JoinHandle<Result<Reply<u32>>> {
    let function = function.clone();
    tokio::spawn(async move { function.call("wait", (0,)).await })
}

async fn bump(function: &Function) -> u32 {
    function.call::<u32>("bump", ()).await.unwrap().value
}

fn long() -> Limits {
    Limits::default().deadline(Duration::from_secs(120)).busy(Duration::from_secs(60))
}

/// That another call ended it.
fn is_carried_off(ended: Result<Reply<u32>>) {
    let error = ended.unwrap_err();
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Cancelled, Some(Duration::ZERO)), "{error:?}");
    assert!(error.to_string().contains("another call in the same instance"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_begins_and_ends_while_another_waits() {
    let gate = Gate::new();
    let function = guest(&gate, reuse(8), long()).await;
    let waiting = wait(&function);
    gate.arrive(1).await;
    let bumped = function.call::<u32>("bump", ()).await.unwrap();
    assert_eq!((bumped.value, bumped.usage.cold), (2, false), "in the instance that waits");
    assert_eq!(function.idle(), 0);
    gate.open(1);
    let waited = waiting.await.unwrap().unwrap();
    assert_eq!((waited.value, waited.usage.cold), (2, true));
    assert_eq!(function.idle(), 1, "kept, as after any other call");
    // What is no async export has the instance to itself, and sees what the others left.
    assert_eq!(function.call::<u32>("count", ()).await.unwrap().value, 2);
    assert_eq!((bump(&function).await, function.idle()), (3, 1));
    let session = async |session: &mut isopod::Session<'_>| session.call::<u32>("bump", ()).await;
    assert_eq!(function.session(session).await.unwrap().value, 4);
}

/// On one thread, with nobody but the callers to go on.
#[tokio::test]
async fn callers_of_one_task_go_on_for_each_other() {
    let gate = Gate::new();
    let function = guest(&gate, reuse(4), long()).await;
    let open = async {
        gate.arrive(4).await;
        gate.open(4);
    };
    let calls = (0..4).map(|_| async { function.call::<u32>("wait", (0,)).await.unwrap().value });
    let (values, ()) = tokio::join!(futures_util::future::join_all(calls), open);
    assert_eq!(values, [4; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_instance_is_shared_between_tenants() {
    let gate = Gate::new();
    let function = guest(&gate, reuse(8), long()).await;
    let waiting = wait(&function.tenant("a"));
    gate.arrive(1).await;
    assert_eq!([bump(&function.tenant("b")).await, bump(&function).await], [1, 1]);
    assert_eq!([bump(&function.tenant("a")).await, bump(&function.tenant("b")).await], [2, 2]);
    gate.open(1);
    assert_eq!(waiting.await.unwrap().unwrap().value, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_run_at_once() {
    let gate = Gate::new();
    let function = guest(&gate, reuse(2), long()).await;
    let mut waiting = gate.waiting(&function, 3).await;
    gate.open(3);
    let third = waiting.pop().unwrap();
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap().unwrap().value, 2);
    }
    assert_eq!(third.await.unwrap().unwrap().value, 1, "in another instance");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_serves_only_so_many_calls_overlapping_or_not() {
    let gate = Gate::new();
    let function = guest(&gate, reuse(2).at_most(3), long()).await;
    for _ in 0..2 {
        let waiting = wait(&function);
        gate.arrive(1).await;
        assert_eq!([bump(&function).await, bump(&function).await, bump(&function).await], [2, 3, 1]);
        gate.open(1);
        assert_eq!(waiting.await.unwrap().unwrap().value, 3);
        // The other instance has served one.
        assert_eq!([bump(&function).await, bump(&function).await], [2, 3]);
        assert_eq!(function.idle(), 0);
    }
}

/// An instance that was started ahead serves the first of them, and is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_call_takes_from_the_stock() {
    let gate = Gate::new();
    let function = load(gate.guest(&host()).reuse(reuse(2)).prewarm(1), long()).await;
    let bumped = function.call::<u32>("bump", ()).await.unwrap();
    assert_eq!((bumped.value, bumped.usage.cold), (1, false));
    let stocked = async {
        while function.idle() < 2 {
            tokio::time::sleep(ms(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), stocked).await.expect("the one that was used, and a new one");
    assert_eq!(bump(&function).await, 2, "in the one that was used");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_call_is_charged_for_a_start_ahead_of_it() {
    // Some hundred milliseconds.
    let start = "(func $s (local $i i32) (loop $l
        (local.set $i (i32.add (local.get $i) (i32.const 1))) (br_if $l (i32.lt_u (local.get $i) (i32.const 200000000)))))
        (start $s) (global $n";
    let text = GUEST.replacen("(global $n", start, 1);
    let function =
        load(Gate::new().give(host().function("slow").component_wat(text)).reuse(reuse(2)).prewarm(1), long());
    let function = function.await;
    let [first, second] = [function.call::<u32>("bump", ()).await.unwrap(), function.call("bump", ()).await.unwrap()];
    assert_eq!((first.value, first.usage.cold, second.value), (1, false, 2));
    assert!(
        first.usage.busy > first.usage.wall && second.usage.busy <= second.usage.wall,
        "{} {}",
        first.usage,
        second.usage
    );
}

/// Says `said` twice.
const SAYS: &str = r#"(component
    (import "wasi:logging/logging@0.1.0-draft" (instance $l
        (type $level' (enum "trace" "debug" "info" "warn" "error" "critical"))
        (export "level" (type $level (eq $level')))
        (export "log" (func (param "level" $level) (param "context" string) (param "message" string)))))
    (core module $mem (memory (export "m") 1) (data (i32.const 0) "said"))
    (core instance $mem (instantiate $mem))
    (alias core export $mem "m" (core memory $m))
    (core func $log (canon lower (func $l "log") (memory $m)))
    (core func $return (canon task.return))
    (core module $c
        (import "" "log" (func $log (param i32 i32 i32 i32 i32)))
        (import "" "return" (func $return))
        (func $say (call $log (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 4)))
        (func (export "say") (result i32) (call $say) (call $say) (call $return) (i32.const 0))
        (func (export "cb") (param i32 i32 i32) (result i32) unreachable))
    (core instance $c (instantiate $c (with "" (instance (export "log" (func $log)) (export "return" (func $return))))))
    (func (export "say") async (canon lift (core func $c "say") async (callback (core func $c "cb")))))"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_the_guest_says_is_bounded_and_told_call_by_call() {
    // A record is its text and 64 bytes.
    let limits = long().log(100);
    let function = load(host().function("says").component_wat(SAYS).reuse(reuse(2)), limits).await;
    for cold in [true, false, false] {
        let reply = function.call::<()>("say", ()).await.unwrap();
        let said: Vec<_> = reply.output().log.iter().map(|line| line.message.as_str()).collect();
        let usage = reply.usage;
        assert_eq!((said, usage.cold, usage.host_calls), (vec!["said"], cold, 2));
        assert_eq!((usage.log_bytes, usage.log_dropped), (68, 68));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_waits_for_too_long_goes() {
    let gate = Gate::new();
    let function = guest(&gate, reuse(2).idle(ms(20)), long()).await;
    assert_eq!(bump(&function).await, 1);
    let started = Instant::now();
    while function.idle() > 0 {
        assert!(started.elapsed() < ms(20_000));
        tokio::task::yield_now().await;
    }
    assert_eq!(bump(&function).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_the_guest_ends_every_call_in_it() {
    let gate = Gate::new();
    let book = Book::default();
    let host = Host::builder().meter(book.clone()).build().unwrap();
    let limits = Limits::default().deadline(Duration::from_secs(120)).host_calls(100).busy(ms(40));
    let function = load(gate.guest(&host).reuse(reuse(8)), limits).await;
    for (export, args, kind) in [
        ("trap", vec![], ErrorKind::Trapped),
        ("ticks", vec![PANIC, 1], ErrorKind::HostPanic),
        ("ticks", vec![0, u32::MAX], ErrorKind::LimitExceeded(Limit::HostCalls)),
        ("spin", vec![], ErrorKind::TimedOut),
    ] {
        let waiting = gate.waiting(&function, 2).await;
        let error = function.call::<u32>(export, args).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        for waiting in waiting {
            is_carried_off(waiting.await.unwrap());
        }
        assert_eq!((function.idle(), bump(&function).await), (0, 1), "after {export}");
        let mut told: Vec<_> = book.take().into_iter().map(|(_, error)| error).collect();
        told.sort_by_key(|error| error.map_or(0, |error| if error == ErrorKind::Cancelled { 1 } else { 2 }));
        assert_eq!(told, [None, Some(ErrorKind::Cancelled), Some(ErrorKind::Cancelled), Some(kind)]);
        // One in it that was used: the next starts with another.
        function.call::<u32>("trap", ()).await.unwrap_err();
        book.take();
    }
    assert!(format!("{host:?}").contains("free_seats: 1000"), "{host:?}");
}

/// A host function that goes on beside the guest is nobody's in particular.
#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_can_tell_whose_it_was_all_end_alike() {
    let gate = Gate::new();
    let function = guest(&gate, reuse(8), long()).await;
    let waiting = wait(&function);
    gate.arrive(1).await;
    let panics = {
        let function = function.clone();
        tokio::spawn(async move { function.call::<u32>("wait", (PANIC_LATER,)).await })
    };
    gate.arrive(1).await;
    gate.open(2);
    assert_eq!(panics.await.unwrap().unwrap_err().kind(), ErrorKind::HostPanic);
    // It may have passed before.
    if let Err(error) = waiting.await.unwrap() {
        assert_eq!(error.kind(), ErrorKind::HostPanic, "{error:?}");
    }
    assert_eq!((function.idle(), bump(&function).await), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_and_a_cancelled_call_leave_the_others_to_their_end() {
    let gate = Gate::new();
    let function = guest(&gate, reuse(8), long()).await;
    for cancels in [false, true] {
        let waiting = wait(&function);
        gate.arrive(1).await;
        let narrow = function.deadline(if cancels { ms(60_000) } else { ms(2_000) });
        let given_up = wait(&narrow);
        gate.arrive(1).await;
        match cancels {
            true => {
                given_up.abort();
                assert!(given_up.await.unwrap_err().is_cancelled());
            }
            false => assert_eq!(given_up.await.unwrap().unwrap_err().kind(), ErrorKind::TimedOut),
        }
        assert_eq!(bump(&function).await, 1, "nobody enters it any more");
        // Whoever came first passes first.
        gate.open(1);
        assert_eq!(waiting.await.unwrap().unwrap().value, 2);
        assert_eq!(function.idle(), 1, "the other one");
        assert_eq!(bump(&function).await, 2);
        function.call::<u32>("trap", ()).await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_computes_holds_nobody_beyond_a_deadline() {
    let gate = Gate::new();
    let function = guest(&gate, reuse(8), long()).await;
    let patient = wait(&function);
    gate.arrive(1).await;
    let spinning = {
        let function = function.deadline(Duration::from_secs(30));
        tokio::spawn(async move { function.call::<u32>("spin", ()).await })
    };
    let started = Instant::now();
    let error = function.deadline(ms(50)).call::<u32>("wait", (0,)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(20), "the one that computes has 30");
    // Nobody waits for it any more, and it would compute for ever.
    spinning.abort();
    is_carried_off(patient.await.unwrap());
    assert_eq!((function.idle(), bump(&function).await), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_guest_runs_when_the_last_caller_is_gone() {
    let gate = Gate::new();
    let host = host();
    let limits = long().host_calls(u64::MAX);
    let function = load(gate.guest(&host).reuse(reuse(8)), limits).await;
    let ticking: Vec<_> = (0..3)
        .map(|_| {
            let function = function.clone();
            tokio::spawn(async move { function.call::<u32>("ticks", (0, 0)).await })
        })
        .collect();
    while gate.ticks.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    for ticking in ticking {
        ticking.abort();
        let _ = ticking.await;
    }
    let ticks = gate.ticks.load(Ordering::SeqCst);
    assert_eq!(bump(&function).await, 1);
    assert_eq!((gate.ticks.load(Ordering::SeqCst), function.idle()), (ticks, 1));
    assert!(format!("{host:?}").contains("free_seats: 1000"), "{host:?}");
    // The host is gone with its last function, and whatever its instances hold.
    let waiting = wait(&function);
    gate.arrive(1).await;
    drop((function, host));
    waiting.abort();
    let _ = waiting.await;
    assert_eq!(Arc::strong_count(&gate.ticked), 1, "the closures are gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_has_a_seat_and_limits_of_its_own() {
    let gate = Gate::new();
    let host = host();
    let limits = long().concurrency(3).queue(0).host_calls(10).memory(3 << 16);
    let function = load(gate.guest(&host).reuse(reuse(3)), limits).await;
    let waiting = gate.waiting(&function, 2).await;
    assert!(format!("{host:?}").contains("free_seats: 998"), "{host:?}");
    // Each has host calls as if it were alone, and the memory of the instance.
    for _ in 0..5 {
        let ticked = function.call::<u32>("ticks", (0, 9)).await.unwrap();
        assert_eq!(ticked.usage.host_calls, 9);
    }
    assert_eq!(function.call::<u32>("grow", (1,)).await.unwrap().value, 1);
    let grown = function.call::<u32>("grow", (1,)).await.unwrap();
    assert_eq!((grown.value, grown.usage.peak_memory), (2, 3 << 16));
    assert_eq!(function.call::<u32>("grow", (1,)).await.unwrap().value, u32::MAX, "the limit is the instance's");
    let third = wait(&function);
    gate.arrive(1).await;
    assert_eq!(function.call::<u32>("bump", ()).await.unwrap_err().kind(), ErrorKind::Overloaded);
    gate.open(3);
    for waiting in waiting.into_iter().chain([third]) {
        assert_eq!(waiting.await.unwrap().unwrap().usage.host_calls, 1);
    }
    assert!(format!("{host:?}").contains("free_seats: 1000"), "{host:?}");
}

/// A host function is told of the call for which the guest calls it.
#[tokio::test(flavor = "multi_thread")]
async fn the_context_is_that_of_the_call() {
    #[derive(Clone, Default)]
    struct Numbers(Arc<AtomicU64>);
    impl isopod::Meter for Numbers {
        fn record(&self, receipt: &isopod::Receipt<'_>) {
            self.0.store(receipt.call_id, Ordering::SeqCst);
        }
    }
    let (gate, last) = (Gate::new(), Numbers::default());
    let host = Host::builder().meter(last.clone()).build().unwrap();
    let function = load(gate.guest(&host).reuse(reuse(3)), long()).await;
    let waiting = wait(&function);
    gate.arrive(1).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        function.call::<u32>("ticks", (0, 2)).await.unwrap();
        seen.push(gate.ticked.load(Ordering::SeqCst));
        assert_eq!(seen.last(), Some(&last.0.load(Ordering::SeqCst)));
    }
    gate.open(1);
    waiting.await.unwrap().unwrap();
    seen.push(last.0.load(Ordering::SeqCst));
    seen.dedup();
    assert_eq!(seen.len(), 4);
}

/// Many at once from many threads, so that a wake-up that gets lost is found.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_calls_come_to_their_end() {
    let builder = host().function("shapes").component_file(built("async-shapes"));
    let function = load(builder.reuse(reuse(8)), long()).await;
    for bytes in [false, true] {
        let calls = (0..400).map(|n| {
            let function = function.tenant(["a", "b", "c"][n % 3]);
            tokio::spawn(async move {
                let text = format!("call {n}");
                match bytes {
                    true => {
                        let given = serde_bytes::ByteBuf::from(text.as_bytes());
                        let back = function.call::<serde_bytes::ByteBuf>("delay-bytes", (given,)).await.unwrap();
                        assert_eq!((&back.value[..], back.usage.bytes_in), (text.as_bytes(), text.len() as u64));
                        assert_eq!(back.usage.bytes_out, text.len() as u64);
                    }
                    false => assert_eq!(function.call::<String>("delay-echo", (&text,)).await.unwrap().value, text),
                }
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
    }
    assert!(function.idle() > 0);
}

/// What a call waits for belongs to the runtime of whoever went on for it, so that nobody depends on another's.
#[test]
fn callers_of_other_runtimes_have_instances_of_their_own() {
    let gate = Gate::new();
    let function = gate.guest(&host()).reuse(reuse(2)).limits(long()).load_blocking().unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| function.call_blocking::<u32>("wait", (0,)).unwrap().value);
        isopod::block_on(async {
            gate.arrive(1).await;
            Ok(())
        })
        .unwrap();
        assert_eq!(function.call_blocking::<u32>("bump", ()).unwrap().value, 1);
        gate.open(1);
        assert_eq!(first.join().unwrap(), 1);
    });
}

/// A host function of one such guest calls another such guest.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_function_beside_a_guest_may_call_another() {
    let (host, gate) = (host(), Gate::new());
    let other = load(gate.guest(&host).reuse(reuse(2)), long()).await;
    let called = other.clone();
    let builder =
        host.function("first").component_wat(GUEST).import("test:it/host", "tick", |_, (_,): (u32,)| async {});
    let builder = builder.import("test:it/host", "pass", move |_, (n,): (u32,)| {
        let other = called.clone();
        async move {
            for _ in 1..n {
                other.call::<u32>("bump", ()).await.unwrap();
            }
            other.call::<u32>("bump", ()).await.unwrap().value
        }
    });
    let first = load(builder, long()).await;
    assert_eq!(first.call::<u32>("wait", (3,)).await.unwrap().value, 1);
    assert_eq!(bump(&other).await, 4);
}

#[tokio::test]
async fn an_overlap_that_overlaps_nothing_is_an_error() {
    let gate = Gate::new();
    let host = host();
    let sync = r#"(component (core module $m (func (export "f"))) (core instance $i (instantiate $m))
        (func (export "f") (canon lift (core func $i "f"))))"#;
    let plain = || host.function("plain").component_wat(sync);
    let old = || host.function("old").component_file(built("http-hello-p2"));
    let limits = |limits: Limits| gate.guest(&host).limits(limits);
    for (builder, reuse, expected) in [
        (gate.guest(&host), reuse(1), "fewer than 2"),
        (gate.guest(&host), reuse(0), "fewer than 2"),
        (gate.guest(&host), reuse(8).at_most(7), "Reuse::at_most"),
        (limits(Limits::default().concurrency(7)), reuse(8), "Limits::concurrency"),
        (limits(Limits::default().fuel(1_000_000)), reuse(8), "Limits::fuel"),
        (plain(), reuse(8), "none can overlap"),
        (old(), reuse(8), "none can overlap"),
    ] {
        let error = builder.reuse(reuse).load().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// Calls by the world's types, which go the same way.
#[tokio::test(flavor = "multi_thread")]
async fn typed_calls_overlap() {
    mod world {
        isopod::world!({ inline: "
            package test:overlap;
            world guest {
                export wait: async func(n: u32) -> u32;
                export bump: async func() -> u32;
                export count: func() -> u32;
                export spin: async func() -> u32;
            }
        " });
    }
    let gate = Gate::new();
    let builder = gate.guest(&host()).reuse(reuse(2)).limits(long().input(3).output(3));
    let small = builder.load_typed::<world::Guest>().await.unwrap();
    assert_eq!(small.wait(0).await.unwrap_err().kind(), ErrorKind::LimitExceeded(Limit::Input));
    assert_eq!(small.bump().await.unwrap_err().kind(), ErrorKind::OutputTooLarge);
    assert_eq!(small.as_ref().idle(), 0, "that is no normal end");
    let builder = gate.guest(&host()).reuse(reuse(2)).limits(long());
    let guest = builder.load_typed::<world::Guest>().await.unwrap();
    for carried in [false, true] {
        let waiting = {
            let guest = guest.clone();
            tokio::spawn(async move { guest.wait(0).await })
        };
        gate.arrive(1).await;
        let bumped = guest.bump().await.unwrap();
        assert_eq!((bumped.usage.cold, bumped.usage.bytes_out), (false, 4));
        if carried {
            guest.as_ref().call::<u32>("trap", ()).await.unwrap_err();
            is_carried_off(waiting.await.unwrap());
        } else {
            gate.open(1);
            let waited = waiting.await.unwrap().unwrap();
            assert_eq!((waited.value, waited.usage.bytes_in, waited.usage.cold), (2, 4, true));
            assert_eq!((guest.count().await.unwrap().value, guest.as_ref().idle()), (2, 1));
        }
    }
    let error = gate.guest(&host()).imports(()).reuse(reuse(2)).load_typed::<world::Guest>().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Misuse && error.to_string().contains("imports"), "{error}");
    assert_eq!(guest.deadline(ms(30)).spin().await.unwrap_err().kind(), ErrorKind::TimedOut);
}

/// In its caller's own instance each would wait for the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_a_guest_makes_has_its_instance_to_itself() {
    let (gate, host) = (Gate::new(), host());
    let function = load(gate.guest(&host).reuse(reuse(8)).callable(), long()).await;
    let caller = host.function("caller").component_file(built("caller")).grant(isopod::Functions::named("guest"));
    let caller = load(caller, long()).await;
    let waiting = wait(&function);
    gate.arrive(1).await;
    let answer = caller.call::<std::result::Result<String, String>>("call", ("guest", "bump", "[]", 1)).await.unwrap();
    assert_eq!(answer.value, Ok("1".to_owned()));
    gate.open(1);
    assert_eq!(waiting.await.unwrap().unwrap().value, 1);
}

async fn hello(calls: u32) -> Function {
    let builder = host().function("hello").component_file(built("http-hello-p3"));
    load(builder.reuse(reuse(calls)), long()).await
}

fn get(path: &str) -> http::Request<http_body_util::Empty<Bytes>> {
    http::Request::get(path).body(http_body_util::Empty::new()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn http_requests_overlap() {
    let hello = hello(8).await;
    // The body of the first comes only when the second is answered.
    let (more, body) = tokio::sync::oneshot::channel();
    let body =
        futures_util::stream::once(async { Ok::<_, std::io::Error>(http_body::Frame::data(body.await.unwrap())) });
    let body = http_body_util::StreamBody::new(body);
    let first = hello.http(http::Request::post("/echo").body(body).unwrap()).await.unwrap();
    let second = hello.http(get("/hello")).await.unwrap().into_body().bytes().await.unwrap();
    assert_eq!((&second.value[..], second.usage.cold), (&b"Hello from WASI 0.3\n"[..], false));
    assert_eq!((second.usage.bytes_in, second.usage.bytes_out), (0, 20));
    more.send(Bytes::from_static(b"late")).unwrap();
    let first = first.into_body().bytes().await.unwrap();
    assert_eq!((&first.value[..], first.usage.bytes_in, first.usage.bytes_out), (&b"late"[..], 4, 4));
    assert_eq!(hello.idle(), 1);
    // A response that nobody reads on holds nobody up, and one that is dropped ends for its reader alone.
    let unread = hello.http(get("/stream?n=1000")).await.unwrap();
    let read = hello.http(get("/stream?n=3")).await.unwrap();
    let other = hello.http(get("/hello")).await.unwrap().into_body().bytes().await.unwrap();
    assert_eq!(other.value.len(), 20);
    drop(unread);
    assert_eq!(read.into_body().bytes().await.unwrap().value.len(), 24);
    assert_eq!(hello.idle(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_ends_the_responses_of_others() {
    let hello = hello(8).await;
    let held = hello.http(get("/stream?n=1000")).await.unwrap();
    let trapped = hello.http(get("/trap")).await.unwrap().into_body().bytes().await.unwrap_err();
    assert_eq!(trapped.kind(), ErrorKind::Trapped, "{trapped:?}");
    let error = held.into_body().bytes().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error:?}");
    let next = hello.http(get("/hello")).await.unwrap().into_body().bytes().await.unwrap();
    assert!(next.usage.cold);
}

/// Of calls whose responses nobody has read yet, the guest is done with, and their tasks' numbers are used again.
#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_waits_for_its_reader_answers_for_no_other_call() {
    let hello = hello(8).await;
    let get = || hello.http(get("/nothing"));
    let alone = get().await.unwrap().into_body().bytes().await.unwrap().usage.host_calls;
    assert!(alone > 0);
    // The first of these end in the guest as the others are gone on with, and their numbers are free.
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(get().await.unwrap());
    }
    let reply = get().await.unwrap().into_body().bytes().await.unwrap();
    assert_eq!((reply.usage.host_calls, reply.usage.cold), (alone, false));
    for response in held {
        assert_eq!(response.into_body().bytes().await.unwrap().usage.host_calls, alone);
    }
}

/// One call's response is another's request, in the same instance: where the end of the one is polled, the instance goes on
/// for the other, which asks for more of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_response_can_be_the_request_of_another_call() {
    let book = Book::default();
    let host = Host::builder().meter(book.clone()).build().unwrap();
    let builder = host.function("hello").component_file(built("http-hello-p3")).reuse(reuse(8));
    let hello = load(builder, long()).await;
    // It says that there is more, and then nothing.
    let silent = http_body_util::StreamBody::new(futures_util::stream::pending::<Result<http_body::Frame<Bytes>>>());
    let first = hello.deadline(ms(200)).http(http::Request::post("/echo").body(silent).unwrap()).await.unwrap();
    let second = hello.http(http::Request::post("/echo").body(first.into_body()).unwrap()).await.unwrap();
    let mut second = second.into_body();
    // Long enough for the guest to ask for the request's body.
    assert!(tokio::time::timeout(ms(50), second.frame()).await.is_err());
    let (mut ended, started) = (Vec::new(), Instant::now());
    while ended.is_empty() {
        assert!(started.elapsed() < ms(20_000), "the first never ends");
        tokio::task::yield_now().await;
        ended = book.take();
    }
    assert_eq!(ended[0].1, Some(ErrorKind::TimedOut));
    let second = tokio::time::timeout(ms(20_000), second.bytes()).await.expect("it goes on");
    second.unwrap_err();
}

/// A request's body that does something as it is first asked for, and panics as it is dropped.
struct Rude(Option<Box<dyn FnOnce() + Send>>);

impl http_body::Body for Rude {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<Option<FrameOf>> {
        if let Some(act) = self.0.take() {
            act();
        }
        Poll::Pending
    }
}

type FrameOf = std::result::Result<http_body::Frame<Bytes>, std::io::Error>;

impl Drop for Rude {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "a body that is dropped");
    }
}

/// One call breaks the instance while another stands at its door: that one's body is dropped there, and may panic.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_call_that_never_began_brought_along_hurts_nobody() {
    let hello = hello(8).await;
    let post = |body| http::Request::post("/echo").body(body).unwrap();
    let second = Arc::new(std::sync::Mutex::new(None));
    let (door, other) = (Arc::clone(&second), hello.clone());
    let body = Rude(Some(Box::new(move || {
        // It comes in as the guest runs for the first, which has the thread until after it has panicked.
        let mut call = Box::pin(async move { other.http(post(Rude(None))).await.map(drop) });
        assert!(call.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())).is_pending());
        *door.lock().unwrap() = Some(call);
        panic!("a body that is read");
    })));
    let error = hello.http(post(body)).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HostPanic, "{error:?}");
    assert!(error.to_string().contains("a body that is read"), "{error}");
    let second = second.lock().unwrap().take().unwrap();
    assert_eq!(second.await.unwrap_err().kind(), ErrorKind::Cancelled);
    let next = hello.http(get("/hello")).await.unwrap().into_body().bytes().await.unwrap();
    assert_eq!((next.value.len(), next.usage.cold), (20, true));
}
