//! What does one fresh, isolated call cost, against bare wasmtime in its best configuration?
//!
//! `cargo bench --bench call`. Both sides in one process and one run, sampled in turn, as the machine's speed drifts;
//! the ratio is what to quote. Bare means: pooling allocator with isopod's own pool settings, no concurrency support, a
//! new store, instantiate, one typed call of 64 bytes in and out, drop.

use isopod::{Function, Host};
use std::time::{Duration, Instant};
use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store, UpdateDeadline};

mod echo;
use echo::{ECHO, Echo};

struct Bare {
    engine: Engine,
    pre: InstancePre<()>,
}

impl Bare {
    fn new(epochs: bool) -> Bare {
        let mut pool = PoolingAllocationConfig::new();
        pool.linear_memory_keep_resident(256 << 10).table_keep_resident(256 << 10).pagemap_scan(Enabled::Auto);
        let mut config = Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool)).concurrency_support(false);
        config.wasm_component_model_async(false).epoch_interruption(epochs);
        let engine = Engine::new(&config).unwrap();
        let component = Component::new(&engine, wat::parse_str(ECHO).unwrap()).unwrap();
        let pre = Linker::new(&engine).instantiate_pre(&component).unwrap();
        Bare { engine, pre }
    }

    fn sync(&self, data: &[u8]) -> Vec<u8> {
        let mut store = Store::new(&self.engine, ());
        let instance = self.pre.instantiate(&mut store).unwrap();
        let echo = instance.get_typed_func::<(&[u8],), (Vec<u8>,)>(&mut store, "echo").unwrap();
        echo.call(&mut store, (data,)).unwrap().0
    }

    async fn yielding(&self, data: &[u8]) -> Vec<u8> {
        let mut store = Store::new(&self.engine, ());
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
        let instance = self.pre.instantiate_async(&mut store).await.unwrap();
        let echo = instance.get_typed_func::<(&[u8],), (Vec<u8>,)>(&mut store, "echo").unwrap();
        echo.call_async(&mut store, (data,)).await.unwrap().0
    }
}

/// A name, and one call.
type Case<'a> = (&'a str, Box<dyn FnMut() + 'a>);

/// How long one sample of a case goes on, and how many are taken of each.
const SAMPLE: Duration = Duration::from_millis(3);
const SAMPLES: usize = 400;

/// Nanoseconds per call of one sample.
fn sample(mut call: impl FnMut()) -> f64 {
    let started = Instant::now();
    let mut calls = 0u32;
    while started.elapsed() < SAMPLE {
        for _ in 0..16 {
            call();
        }
        calls += 16;
    }
    started.elapsed().as_nanos() as f64 / f64::from(calls)
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * q) as usize]
}

fn main() {
    // `cargo test --benches` only wants to know that it builds.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let (bare, epochs) = (Bare::new(false), Bare::new(true));
    let host = Host::new().unwrap();
    let dynamic: Function = runtime.block_on(host.function("echo").component_wat(ECHO).load()).unwrap();
    let typed = runtime.block_on(host.function("echo").component_wat(ECHO).load_typed::<Echo>()).unwrap();
    let data = vec![7u8; 64];
    let mut cases: Vec<Case<'_>> = vec![
        ("bare, sync, no metering", Box::new(|| drop(bare.sync(&data)))),
        ("bare, async, epoch yields", Box::new(|| drop(futures_now(epochs.yielding(&data))))),
        ("isopod, typed", Box::new(|| drop(futures_now(typed.echo(&data)).unwrap()))),
        ("isopod, dynamic", Box::new(|| drop(futures_now(dynamic.call::<Vec<u8>>("echo", (&data,))).unwrap()))),
    ];
    let mut samples = vec![Vec::new(); cases.len()];
    for _ in 0..SAMPLES {
        for (case, samples) in cases.iter_mut().zip(&mut samples) {
            samples.push(sample(&mut case.1));
        }
    }
    println!("| fresh call, 64 B in and out | median | p10 - p90 | x of bare sync | x of bare async |");
    println!("|---|---:|---:|---:|---:|");
    samples.iter_mut().for_each(|samples| samples.sort_by(f64::total_cmp));
    let (sync, yielding) = (quantile(&samples[0], 0.5), quantile(&samples[1], 0.5));
    for ((name, _), samples) in cases.iter().zip(&samples) {
        let [low, median, high] = [0.1, 0.5, 0.9].map(|q| quantile(samples, q));
        let (a, b) = (median / sync, median / yielding);
        println!("| {name} | {median:.0} ns | {low:.0} - {high:.0} ns | {a:.2} | {b:.2} |");
    }
}

/// Polls a future that never waits. A runtime's own `block_on` would add its cost to each call.
fn futures_now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}
