//! What one tenant's calls do to another's: seats, lines and turns.

use crate::support::{WAITS, load, runner};
use isopod::{CallOptions, Context, ErrorKind, Function, Host, Limits, Reply, Result, ms};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// A function whose calls wait at a gate, and who came to it in which order.
struct Gated {
    function: Function,
    gate: Arc<Semaphore>,
    came: Arc<Mutex<Vec<String>>>,
}

impl Gated {
    async fn load(host: &Host, limits: Limits) -> Gated {
        let (gate, came) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
        let inside = (Arc::clone(&gate), Arc::clone(&came));
        let builder = host.function("waits").component_wat(WAITS).limits(limits);
        let wait = move |context: Context, ()| {
            inside.1.lock().unwrap().push(context.tenant().unwrap_or("nobody").to_owned());
            let gate = Arc::clone(&inside.0);
            async move { gate.acquire().await.unwrap().forget() }
        };
        Gated { function: builder.import("", "wait", wait).load().await.unwrap(), gate, came }
    }

    /// A call for that tenant, polled once, so that it has its seat or its place in the line.
    async fn start(&self, tenant: &str) -> Started {
        let function = self.function.tenant(tenant);
        let mut call: Started = Box::pin(async move { function.call::<()>("run", ()).await });
        assert!(is_pending(&mut call).await, "a call of {tenant} ended at its first poll");
        call
    }

    async fn refused(&self, tenant: &str) -> isopod::Error {
        let error = self.function.tenant(tenant).call::<()>("run", ()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Overloaded, "{error:?}");
        error
    }

    fn came(&self) -> String {
        self.came.lock().unwrap().concat()
    }
}

type Started = Pin<Box<dyn Future<Output = Result<Reply<()>>> + Send>>;

/// Polls it once.
async fn is_pending(call: &mut Started) -> bool {
    std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending())).await
}

fn seats(seats: u32) -> Host {
    Host::builder().seats(seats).build().unwrap()
}

/// A runtime looks for timers and sockets after some dozens of polls, each of which takes such a guest a tick.
#[tokio::test]
async fn guests_that_compute_let_timers_go_first() {
    let host = Host::new().unwrap();
    let limits = Limits::default().busy(ms(200));
    let spins =
        load(host.function("spins").component_wat(runner(r#"(func (export "run") (loop $l (br $l)))"#)), limits).await;
    let fired = Arc::new(AtomicUsize::new(0));
    let timer = tokio::spawn({
        let fired = Arc::clone(&fired);
        async move {
            let mut every = tokio::time::interval(ms(1));
            every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                every.tick().await;
                fired.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let calls = ["a", "b", "c", "d"].map(|tenant| {
        let spins = spins.tenant(tenant);
        tokio::spawn(async move { spins.call::<()>("run", ()).await.unwrap_err().kind() })
    });
    for call in calls {
        assert_eq!(call.await.unwrap(), ErrorKind::TimedOut);
    }
    timer.abort();
    // In 800 ms: by itself it would have fired 13 times.
    let fired = fired.load(Ordering::Relaxed);
    // By itself it would have fired 13 times in these 800 ms.
    assert!(fired >= 40, "it fired {fired} times");
}

#[tokio::test]
async fn a_line_is_fair_between_tenants() {
    let gated = Gated::load(&seats(1), Limits::default()).await;
    let mut calls = Vec::new();
    for tenant in ["a", "a", "a", "a", "a", "a", "b", "c"] {
        calls.push(gated.start(tenant).await);
    }
    gated.gate.add_permits(100);
    futures_util::future::try_join_all(calls).await.unwrap();
    let came = gated.came();
    assert!(came.starts_with("abc"), "{came}");
}

#[tokio::test]
async fn a_full_line_refuses_whoever_filled_it() {
    let gated = Gated::load(&seats(8), Limits::default().concurrency(1).queue(3)).await;
    let holder = gated.start("a").await;
    let [first, second, mut third] = [gated.start("a").await, gated.start("a").await, gated.start("a").await];
    let error = gated.refused("a").await;
    assert!(error.to_string().contains("3 calls wait already"), "{error}");
    let other = gated.start("b").await;
    let error = third.as_mut().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    assert!(error.to_string().contains("its tenant has most") && error.retry_after().is_some(), "{error:?}");
    // Now it has two; after this everybody has one.
    let another = gated.start("c").await;
    assert_eq!(second.await.unwrap_err().kind(), ErrorKind::Overloaded);
    gated.refused("d").await;
    gated.gate.add_permits(100);
    futures_util::future::try_join_all([holder, first, other, another]).await.unwrap();
    assert!(gated.came().starts_with("ab"), "{}", gated.came());
}

#[tokio::test]
async fn a_tenant_takes_so_many_seats_and_no_more() {
    for (seats, of_tenant) in [(4, 0), (4, 5)] {
        let error = Host::builder().seats(seats).tenant_seats(of_tenant).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse);
        assert!(error.to_string().contains("tenant_seats"), "{error}");
    }
    let host = Host::builder().seats(8).tenant_seats(2).build().unwrap();
    let gated = Gated::load(&host, Limits::default().queue(0)).await;
    let other = Gated::load(&host, Limits::default().queue(1)).await;
    let _held = [gated.start("a").await, other.start("a").await];
    let error = gated.refused("a").await;
    assert!(
        error.to_string().contains("all 2 seats of this tenant are taken (`HostBuilder::tenant_seats`)"),
        "{error}"
    );
    let waits = other.start("a").await;
    let _others = [gated.start("b").await, gated.start("b").await];
    gated.refused("b").await;
    // Its own that waits is not in the way of others, nor are calls of nobody bounded.
    let mut nobody = Vec::new();
    for _ in 0..4 {
        let function = other.function.clone();
        let mut call: Started = Box::pin(async move { function.call::<()>("run", ()).await });
        // A tick may fall into it before it gets to the gate.
        let came = other.came();
        while other.came() == came {
            assert!(is_pending(&mut call).await);
        }
        nobody.push(call);
    }
    drop(waits);
    // By default one tenant cannot take all.
    let gated = Gated::load(&seats(8), Limits::default().queue(0)).await;
    let mut held = Vec::new();
    for _ in 0..7 {
        held.push(gated.start("a").await);
    }
    gated.refused("a").await;
    drop(gated.start("b").await);
}

#[tokio::test]
async fn a_seat_that_nobody_takes_goes_to_the_next() {
    let gated = Gated::load(&seats(1), Limits::default()).await;
    let holder = gated.start("a").await;
    let first = gated.start("b").await;
    let second = gated.start("c").await;
    drop(holder);
    // The first has the seat now, and has not heard of it.
    drop(first);
    gated.gate.add_permits(1);
    second.await.unwrap();
    assert!(gated.came().ends_with('c') && !gated.came().contains('b'), "{}", gated.came());
}

#[tokio::test]
async fn who_waits_too_long_makes_room() {
    let host = seats(8);
    let gated = Gated::load(&host, Limits::default().concurrency(1).queue(1).queue_wait(ms(20))).await;
    let holder = gated.start("a").await;
    for tenant in ["a", "b", "a"] {
        let error = gated.start(tenant).await.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Overloaded);
        assert!(error.to_string().contains("none was free for"), "{error}");
    }
    drop(holder);
    assert!(format!("{host:?}").contains("free_seats: 8"), "{host:?}");
}

/// Computes in a loop of `n` rounds.
const COMPUTES: &str = r#"(component
    (core module $m (func (export "run") (param i32) (local i32)
        (loop $l
            (local.set 1 (i32.add (i32.mul (local.get 1) (i32.const 1664525)) (local.get 0)))
            (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
        (if (i32.eqz (local.get 1)) (then unreachable))))
    (core instance $i (instantiate $m))
    (func (export "run") (param "n" u32) (canon lift (core func $i "run"))))"#;

const SPINS: &str = r#"(func (export "run") (loop $l (br $l)))"#;

fn long() -> Limits {
    Limits::default().deadline(ms(600_000)).busy(ms(600_000)).concurrency(1_000)
}

fn cores() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

/// A call that has its turn and is not polled any more keeps nobody from computing.
#[tokio::test]
async fn a_turn_that_nobody_takes_goes_to_the_next() {
    for limits in [long(), Limits::default().deadline(ms(600_000)).fuel(u64::MAX / 2)] {
        let host = Host::new().unwrap();
        let spins = load(host.function("spins").component_wat(runner(SPINS)), limits.clone()).await;
        let mut asleep = Vec::new();
        for tenant in 0..cores() {
            let function = spins.tenant(format!("t{tenant}"));
            let mut call: Started = Box::pin(async move { function.call::<()>("run", ()).await });
            // Until it has computed for some ticks, and so has a turn, or waits for one.
            let (started, mut polls) = (Instant::now(), 0);
            while polls < 10 || started.elapsed() < ms(10) {
                assert!(is_pending(&mut call).await);
                polls += 1;
            }
            asleep.push(call);
        }
        let computes = load(host.function("computes").component_wat(COMPUTES), limits).await;
        for tenant in ["other", "t0"] {
            let reply = computes.tenant(tenant).call::<()>("run", (20_000_000,)).await.unwrap();
            assert!(reply.usage.busy > ms(3), "{}", reply.usage);
        }
    }
}

/// A call whose turn does not come ends at its deadline, and one that is given up leaves its place.
#[tokio::test]
async fn a_call_that_waits_for_its_turn_has_its_deadline() {
    let host = Host::new().unwrap();
    let spins = load(host.function("spins").component_wat(runner(SPINS)), long()).await;
    let all: Vec<_> = (0..50u32)
        .map(|n| {
            let function = spins.tenant("a").deadline(ms(60 + u64::from(n % 3)));
            async move { function.call::<()>("run", ()).await.unwrap_err() }
        })
        .collect();
    for error in futures_util::future::join_all(all).await {
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
        assert!(error.usage().busy < error.usage().wall, "{}", error.usage());
    }
    let given_up = tokio::time::timeout(ms(20), spins.tenant("a").call::<()>("run", ())).await;
    assert!(given_up.is_err());
    assert!(format!("{host:?}").contains("free_seats: 1000"), "{host:?}");
}

/// Of guests of one tenant that compute, fewer run at once than there are cores, however many workers there are.
#[test]
fn guests_that_compute_leave_a_worker_free() {
    let turns = (cores() - 1).max(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(turns + 2).enable_all().build().unwrap();
    runtime.block_on(async {
        // A tick that is long beside what else the machine does.
        const TICK: Duration = ms(100);
        let host = Host::builder().tick(TICK).build().unwrap();
        let (inside, most, seen) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let (peak, look, begun) = (Arc::clone(&most), Arc::clone(&seen), Instant::now());
        let wat = WAITS.replace("(call $w))", "(loop $l (call $w) (br $l)))");
        let limits = long().host_calls(u64::MAX);
        let builder = host.function("spins").component_wat(wat).limits(limits).import("", "wait", move |_, ()| {
            let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
            // Those that began before any was known to compute had their first tick.
            if begun.elapsed() > 5 * TICK {
                peak.fetch_max(now, Ordering::SeqCst);
                look.add_permits(1);
            }
            let started = Instant::now();
            while started.elapsed() < ms(2) {
                std::hint::spin_loop();
            }
            inside.fetch_sub(1, Ordering::SeqCst);
            std::future::ready(())
        });
        let function = builder.load().await.unwrap().tenant("a");
        let calls: Vec<_> = (0..turns + 6)
            .map(|_| {
                let function = function.clone();
                tokio::spawn(async move { function.call::<()>("run", ()).await })
            })
            .collect();
        seen.acquire_many(300).await.unwrap().forget();
        let most = most.load(Ordering::SeqCst);
        assert!((1..=turns).contains(&most), "{most} at once of {turns}");
        calls.iter().for_each(tokio::task::JoinHandle::abort);
    });
}

/// Computes in rounds of `n`, and lets the host have the thread after each.
const PIECES: &str = r#"(component
    (import "wait" (func $wait))
    (core func $wait' (canon lower (func $wait)))
    (core module $m (import "" "wait" (func $wait))
        (func (export "run") (param $n i32) (local $left i32)
            (loop $for-ever
                (local.set $left (local.get $n))
                (loop $l (br_if $l (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
                (call $wait)
                (br $for-ever))))
    (core instance $i (instantiate $m (with "" (instance (export "wait" (func $wait'))))))
    (func (export "run") (param "n" u32) (canon lift (core func $i "run"))))"#;

/// How often a measurement may be disturbed by what else the machine does, before it counts.
const ATTEMPTS: u32 = 6;

/// The promise of a tenant's p99 beside a flood, on this machine: three ticks, and twice what it was, more.
#[test]
fn a_flood_of_computing_calls_leaves_others_their_p99() {
    let workers = cores().max(2);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap();
    runtime.block_on(async {
        const TICK: Duration = ms(2);
        let host = Host::builder().tick(TICK).build().unwrap();
        let spins = load(host.function("spins").component_wat(runner(SPINS)), long()).await.tenant("flood");
        let pieces = host.function("pieces").component_wat(PIECES).limits(long().host_calls(u64::MAX));
        let pieces = pieces.import("", "wait", |_, ()| tokio::task::yield_now()).load().await.unwrap().tenant("flood");
        let computes = load(host.function("computes").component_wat(COMPUTES), long()).await.tenant("benign");
        let rounds = 1_000_000u32;
        let mut speed = Duration::MAX;
        for _ in 0..20 {
            speed = speed.min(computes.call::<()>("run", (rounds,)).await.unwrap().usage.busy);
        }
        let rounds_for = |work: Duration| (f64::from(rounds) * work.as_secs_f64() / speed.as_secs_f64()) as u32;
        let [short, long] = [(Duration::from_micros(20), ms(1), 300), (ms(10), ms(5), 100)];
        // The second flood never computes for so long that a tick would find it at it.
        for ((work, pause, count), in_pieces) in [(short, false), (long, false), (short, true), (long, true)] {
            let n = rounds_for(work);
            let p99 = async || {
                let computes = computes.clone();
                let measure = tokio::spawn(async move {
                    let mut took = Vec::new();
                    for _ in 0..count {
                        tokio::time::sleep(pause).await;
                        let started = Instant::now();
                        computes.call::<()>("run", (n.max(1),)).await.unwrap();
                        took.push(started.elapsed());
                    }
                    took.sort_unstable();
                    took[took.len() * 99 / 100]
                });
                measure.await.unwrap()
            };
            let mut told = Vec::new();
            for _ in 0..ATTEMPTS {
                let solo = p99().await;
                let flood: Vec<_> = (0..300)
                    .map(|_| {
                        let (spins, pieces, n) = (spins.clone(), pieces.clone(), rounds_for(TICK * 2 / 5));
                        tokio::spawn(async move {
                            if in_pieces { pieces.call("run", (n,)).await } else { spins.call::<()>("run", ()).await }
                        })
                    })
                    .collect();
                let beside = p99().await;
                flood.iter().for_each(tokio::task::JoinHandle::abort);
                for call in flood {
                    assert!(call.await.unwrap_err().is_cancelled());
                }
                told.push((solo, beside));
                if beside <= solo + 3 * TICK + 2 * solo {
                    break;
                }
            }
            println!("{work:?}: {told:?}");
            let (solo, beside) = told[told.len() - 1];
            assert!(beside <= solo + 3 * TICK + 2 * solo, "calls of {work:?}, alone and beside a flood: {told:?}");
        }
    });
}
