//! How many fresh calls a second do one thread and two threads make? The time of one call, of all threads together.

use crate::cases::bare::Bare;
use crate::cases::guests::{ECHO, Echo};
use crate::cases::{Case, Group, Groups, now};
use isopod::{Host, block_on};
use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

pub fn groups() -> Groups {
    vec![|| fresh("fresh_1thread", 1), || fresh("fresh_2threads", 2)]
}

static DATA: [u8; 64] = [7; 64];

fn fresh(name: &str, threads: u64) -> Group {
    let bare = Bare::new(ECHO, "echo");
    let host = Host::new().unwrap();
    let typed = block_on(host.function("echo").component_wat(ECHO).load_typed::<Echo>()).unwrap();
    let cases = vec![
        Case::timed("bare", move |times| {
            on(threads, times, || {
                black_box(now(async { bare.make::<_, Vec<u8>>().await.call((&DATA[..],)).await }));
            })
        }),
        // What the machine lets so many threads have at all.
        Case::timed("compute", move |times| {
            on(threads, times, || {
                black_box((0..4_000u64).fold(1u64, |a, b| black_box(a.wrapping_mul(31) + b)));
            })
        }),
        Case::timed("isopod", move |times| {
            on(threads, times, || {
                black_box(now(typed.echo(&DATA)).unwrap());
            })
        }),
    ];
    Group {
        name: name.into(),
        note: "`fresh_64B` by that many threads at once, the time of one call of them all together; `compute` is a loop without memory, what the machine lets the threads have. Dearer: processors that are shared with others.",
        cases,
    }
}

/// Shares the work out among threads that begin together; says how long it took until all had done their part.
fn on(threads: u64, times: u64, work: impl Fn() + Sync) -> Duration {
    let (each, barrier) = (times.div_ceil(threads), Barrier::new(threads as usize));
    let took: Vec<Duration> = std::thread::scope(|scope| {
        let run = || {
            barrier.wait();
            let started = Instant::now();
            for _ in 0..each {
                work();
            }
            started.elapsed()
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    // What was rounded up is not to count.
    took.into_iter().max().unwrap_or_default().mul_f64(times as f64 / (each * threads) as f64)
}
