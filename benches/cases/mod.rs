//! What is measured, and two ways to measure it: each case by criterion, or all cases of a group in turn.
//!
//! The names of groups and cases are public: people compare runs by them. In each group `bare` is wasmtime itself, by its
//! async entry points and with epochs on, in the best configuration that we know; `bare_sync` is the same by its
//! synchronous ones, without yields; `isopod` has every limit on. A table compares a group's cases with the first: `bare`,
//! or one of several kinds of it, unless there is none.

// Each bench uses some of it.
#![allow(dead_code)]

pub mod bare;
pub mod guests;
pub mod large;
pub mod table;

use criterion::{Criterion, SamplingMode};
use std::time::{Duration, Instant};

/// Cases that do the same work.
pub struct Group {
    pub name: String,
    /// What is done, and what makes it dearer.
    pub note: &'static str,
    pub cases: Vec<Case>,
}

/// One way to do it.
pub struct Case {
    pub id: &'static str,
    /// Does it as often as it is told, and says how long that took.
    pub run: Box<dyn FnMut(u64) -> Duration>,
}

impl Case {
    /// All of it is measured.
    pub fn new(id: &'static str, mut work: impl FnMut() + 'static) -> Case {
        Case::timed(id, move |times| {
            let started = Instant::now();
            for _ in 0..times {
                work();
            }
            started.elapsed()
        })
    }

    /// It keeps the time itself.
    pub fn timed(id: &'static str, run: impl FnMut(u64) -> Duration + 'static) -> Case {
        Case { id, run: Box::new(run) }
    }
}

/// Makes the groups one after the other, as some need much memory.
pub type Groups = Vec<fn() -> Group>;

/// The front end of a bench.
pub fn criterion(groups: Groups) {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30)
        .configure_from_args();
    for group in groups {
        let Group { name, cases, .. } = group();
        let mut measured = criterion.benchmark_group(name);
        measured.sampling_mode(SamplingMode::Flat);
        for Case { id, mut run } in cases {
            measured.bench_function(id, |bencher| bencher.iter_custom(&mut run));
        }
        measured.finish();
    }
    criterion.final_summary();
}

/// Calls between two fillings of the stock: so few that the processor's caches hold what was made ahead.
const CHUNK: u64 = 7;
/// Instances made ahead for each of them: less than half is used in a chunk, so that nobody is told to fill it up.
pub const STOCK: u32 = 16;

/// Measures calls in chunks, with what must be done between them left out.
pub fn in_chunks(times: u64, mut chunk: impl FnMut(u64) -> Duration) -> Duration {
    let mut left = times;
    let mut total = Duration::ZERO;
    while left > 0 {
        let calls = left.min(CHUNK);
        total += chunk(calls);
        left -= calls;
    }
    total
}

pub fn time(times: u64, mut work: impl FnMut()) -> Duration {
    let started = Instant::now();
    for _ in 0..times {
        work();
    }
    started.elapsed()
}

/// Polls a future that never waits. A runtime's own `block_on` would add its cost to each call.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}

/// A runtime that lives as long as the process, and is not in the way of the measured thread.
pub fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
}
