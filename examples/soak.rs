//! Shows that a host stays as it is: keeps one busy for a while with calls of several tenants, some of them hostile,
//! and compares what it holds at the end with what it held before.
//!
//! ```text
//! cargo run --release --features testkit --example soak -- --minutes 30 [--hostile PERCENT]
//! ```
//!
//! The host has all limits. Calls that mean no harm are of four functions: one with fresh instances and a host call,
//! one whose instances are made ahead, one that counts fuel, and one whose instances serve their tenant again. Their
//! answers are checked, and are wrong where an instance is not fresh, or is another tenant's. Beside them, one after
//! the other, run the hostile guests of `isopod::testkit::corpus()`: one call in twenty, unless `--hostile` says
//! otherwise. Those that want all seats or a core for themselves are left out.
//!
//! Each minute ends when all its calls have, and prints a line: calls a second; the resident memory then and the most
//! that there was; free seats; how hostile calls ended, by the kind of their error; and what went wrong. A run is three
//! such parts at least: of less than three minutes, each is a third of it.
//!
//! It exits with 1 where an answer was wrong, a call failed that meant no harm, a hostile one ended otherwise than it
//! must (but for being late, which the machine can be the reason for), or a seat was not given back; and where
//! something drifted: what the parts in the last third of the run held, against those in the second; the first is for
//! what is made once. Memory must not have a peak that is more than 4 MiB higher, in a run of five minutes at least:
//! what slots keep of the stacks that guests ran on takes some minutes to come to its most, and in a shorter run it is
//! not compared. Of threads, tasks and open files, the fewest in the last third must not be more than the most in
//! the second. Where there is no `/proc`, memory, threads and files are not compared.

use anyhow::{Context, Result, bail, ensure};
use futures_util::{StreamExt, stream};
use isopod::testkit::{Attempt, Promise, corpus};
use isopod::{CallOptions, Function, Host, Limits, MIB, Reuse, ms};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Parts of a run: minutes, of which there are so many at least.
const PARTS: u32 = 3;
/// Minutes of a run whose first third is enough for memory to settle.
const SETTLED: f64 = 5.0;
/// What a peak may be higher, in bytes.
const DRIFT: u64 = 4 * MIB;
/// Threads for work that blocks, such as loading. The allocator keeps memory for each: it would take long until there are
/// as many as there can be.
const BLOCKING: usize = 2;
/// Calls at once that mean no harm. Few, with few tenants: a slot keeps the pages of its stack, as deep as a guest once
/// went, and memory rests when every slot that is ever used had a guest that goes as deep as it may.
const AT_ONCE: usize = 6;
const TENANTS: [&str; 3] = ["acme", "globex", "initech"];
/// Wrong things that are shown.
const SHOWN: usize = 8;
/// How soon seats must be back.
const BACK: Duration = Duration::from_secs(2);
/// How often the memory is looked at.
const LOOK: Duration = Duration::from_millis(2);

fn main() -> Result<ExitCode> {
    // Strangers' components are compiled in a process of their own, as in a host that takes them from strangers.
    isopod::compile_worker();
    let (minutes, hostile) = arguments(std::env::args().skip(1))?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all().max_blocking_threads(BLOCKING).build()?.block_on(run(minutes, hostile))
}

fn arguments(mut args: impl Iterator<Item = String>) -> Result<(f64, u64)> {
    let (mut minutes, mut hostile) = (None, 5);
    while let Some(arg) = args.next() {
        let value = args.next().with_context(|| format!("{arg} needs a value"))?;
        match arg.as_str() {
            "--minutes" => minutes = Some(value.parse().context("--minutes needs a number")?),
            "--hostile" => hostile = value.parse().context("--hostile needs a number")?,
            _ => bail!("there is no {arg}; there are --minutes and --hostile"),
        }
    }
    let minutes: f64 = minutes.context("say how long, such as `--minutes 5`")?;
    ensure!((0.05..1e6).contains(&minutes), "--minutes needs a number from 0.05 on");
    ensure!(hostile <= 99, "--hostile needs a number from 0 to 99");
    Ok((minutes, hostile))
}

async fn run(minutes: f64, hostile: u64) -> Result<ExitCode> {
    let host = Host::new()?;
    let mut soak = Soak::load(&host, hostile).await?;
    let seats = host.free_seats();
    let parts = PARTS.max(minutes as u32);
    let length = Duration::from_secs_f64(minutes * 60.0 / f64::from(parts));
    let watch = Watch::start();
    let (mut all, mut wrong) = (Vec::new(), Vec::new());
    for part in 1..=parts {
        watch.begin();
        let mut tally = soak.part(length).await;
        if !soon(|| host.free_seats() == seats).await {
            tally.wrong.push("not all seats were given back".to_owned());
        }
        let (held, at) = (Held::now(watch.peak()), minutes * f64::from(part) / f64::from(parts));
        println!("{at:>6.1} min  {tally}  {held}  {} of {seats} seats free", host.free_seats());
        println!("            hostile: {}", tally.ends());
        tally.wrong.iter().take(SHOWN).for_each(|text| println!("            wrong: {text}"));
        wrong.extend(tally.wrong);
        all.push(held);
    }
    wrong.extend(drift(&all, minutes >= SETTLED));
    wrong.iter().take(SHOWN).for_each(|text| println!("wrong: {text}"));
    if minutes < SETTLED {
        println!("memory was not compared, in less than {SETTLED} minutes");
    }
    println!("{}", if wrong.is_empty() { "all is as it was" } else { "NOT all is as it was" });
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What there is more of in the last third than in the second.
fn drift(all: &[Held], settled: bool) -> Vec<String> {
    let (second, last) = all[all.len() / 3..].split_at((2 * all.len() / 3) - all.len() / 3);
    let mut found = Vec::new();
    let peak = |of: &[Held]| of.iter().filter_map(|held| held.peak).max();
    if let (Some(before), Some(now)) = (peak(second), peak(last))
        && settled
        && now > before + DRIFT
    {
        found.push(format!("the peak of memory rose by {} KiB", (now - before) >> 10));
    }
    type Count = fn(&Held) -> Option<usize>;
    let threads: Count = |held| held.threads;
    let tasks: Count = |held| Some(held.tasks);
    let files: Count = |held| held.files;
    for (what, count) in [("threads", threads), ("tasks", tasks), ("open files", files)] {
        let (before, now) = (second.iter().filter_map(count).max(), last.iter().filter_map(count).min());
        if let (Some(before), Some(now)) = (before, now)
            && now > before
        {
            found.push(format!("{now} {what}, and {before} before"));
        }
    }
    found
}

/// Everything that makes calls.
struct Soak {
    plain: Arc<Plain>,
    guests: Vec<Attempt>,
    /// Of a hundred calls.
    hostile: u64,
    /// Calls so far: those that mean no harm, and those that do.
    calls: u64,
    attacks: usize,
    /// Calls that are due beside the hostile ones, in `hostile`ths.
    due: u64,
}

impl Soak {
    async fn load(host: &Host, hostile: u64) -> Result<Soak> {
        let by_time = Limits::default().deadline(ms(100)).busy(ms(50));
        let by_fuel = Limits::default().deadline(ms(100)).fuel(10_000_000);
        let mut guests = Vec::new();
        for case in corpus() {
            if !matches!(case.promise(), Promise::Concurrency | Promise::Busy) {
                let limits = if case.promise() == Promise::Fuel { &by_fuel } else { &by_time };
                guests.push(case.load(host, limits).await?);
            }
        }
        Ok(Soak { plain: Arc::new(Plain::load(host).await?), guests, hostile, calls: 0, attacks: 0, due: 0 })
    }

    /// Makes calls for so long.
    async fn part(&mut self, length: Duration) -> Tally {
        let (started, mut tally) = (Instant::now(), Tally::default());
        while started.elapsed() < length {
            if self.hostile == 0 {
                tally.count(self.plain.calls(self.calls, 100).await);
                self.calls += 100;
                continue;
            }
            // So many for one hostile one, as nearly as whole calls can be.
            self.due += 100 - self.hostile;
            let beside = self.due / self.hostile;
            self.due %= self.hostile;
            let guest = &self.guests[self.attacks % self.guests.len()];
            let (attempted, plain) = tokio::join!(guest.run(), self.plain.calls(self.calls, beside));
            self.calls += beside;
            self.attacks += 1;
            tally.count(plain);
            tally.calls += 1;
            *tally.ends.entry(attempted.kind.map_or("no harm".into(), |kind| format!("{kind:?}"))).or_default() += 1;
            let broken = attempted.broken.into_iter().filter(|(promise, _)| *promise != Promise::Punctual);
            tally.wrong.extend(broken.map(|(promise, text)| format!("{promise} is not held: {text}")));
        }
        tally.took = started.elapsed();
        tally
    }
}

/// What became of the calls of a part.
#[derive(Default)]
struct Tally {
    calls: u64,
    took: Duration,
    /// How hostile ones ended.
    ends: BTreeMap<String, u64>,
    wrong: Vec<String>,
}

impl Tally {
    fn count(&mut self, plain: Vec<Result<(), String>>) {
        self.calls += plain.len() as u64;
        self.wrong.extend(plain.into_iter().filter_map(Result::err));
    }

    fn ends(&self) -> String {
        self.ends.iter().map(|(kind, count)| format!("{kind} {count}")).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>7.0} calls/s", self.calls as f64 / self.took.as_secs_f64())
    }
}

/// Functions whose calls mean no harm.
struct Plain {
    fresh: Function,
    stocked: Function,
    counted: Function,
    reused: Function,
}

/// Asks the host what follows a number, and squares it; then adds how often this instance was called.
const FRESH: &str = r#"(component
    (import "after" (func $after (param "n" u64) (result u64)))
    (core func $after' (canon lower (func $after)))
    (core module $m (import "" "after" (func $after (param i64) (result i64))) (memory 1)
        (func (export "run") (param $n i64) (result i64)
            (i64.store (i32.const 8) (i64.add (i64.load (i32.const 8)) (i64.const 1)))
            (local.set $n (call $after (local.get $n)))
            (i64.add (i64.mul (local.get $n) (local.get $n)) (i64.load (i32.const 8)))))
    (core instance $i (instantiate $m (with "" (instance (export "after" (func $after'))))))
    (func (export "run") (param "n" u64) (result u64) (canon lift (core func $i "run"))))"#;

/// Adds the numbers up to one, in a loop.
const COUNTED: &str = r#"(component
    (core module $m (func (export "run") (param $n i64) (result i64) (local $sum i64)
        (loop $l
            (local.set $sum (i64.add (local.get $sum) (local.get $n)))
            (local.set $n (i64.sub (local.get $n) (i64.const 1)))
            (br_if $l (i64.ne (local.get $n) (i64.const 0))))
        (local.get $sum)))
    (core instance $i (instantiate $m))
    (func (export "run") (param "n" u64) (result u64) (canon lift (core func $i "run"))))"#;

/// Remembers the first number that it was ever given, and gives that.
const REUSED: &str = r#"(component
    (core module $m (global $first (mut i64) (i64.const 0))
        (func (export "run") (param $n i64) (result i64)
            (if (i64.eqz (global.get $first)) (then (global.set $first (local.get $n))))
            (global.get $first)))
    (core instance $i (instantiate $m))
    (func (export "run") (param "n" u64) (result u64) (canon lift (core func $i "run"))))"#;

impl Plain {
    async fn load(host: &Host) -> Result<Plain> {
        // They wait for seats and turns beside guests that take all they can.
        let limits = || Limits::default().deadline(ms(30_000)).busy(ms(30_000));
        let built = concat!(env!("CARGO_MANIFEST_DIR"), "/guests/built/json-transform.wasm");
        let fresh = host.function("fresh").component_wat(FRESH).limits(limits());
        Ok(Plain {
            fresh: fresh.import("", "after", async |_, (n,): (u64,)| n + 1).load().await?,
            stocked: host.function("stocked").component_file(built).limits(limits()).prewarm(4).load().await?,
            counted: {
                let limits = Limits::default().deadline(ms(30_000)).fuel(1_000_000);
                host.function("counted").component_wat(COUNTED).limits(limits).load().await?
            },
            reused: {
                let reuse = Reuse::within_tenant().at_most(100).idle(ms(1_000));
                host.function("reused").component_wat(REUSED).limits(limits()).reuse(reuse).load().await?
            },
        })
    }

    /// Calls with the numbers from `first` on: what was wrong with each.
    async fn calls(self: &Arc<Self>, first: u64, count: u64) -> Vec<Result<(), String>> {
        let call = |n| {
            let plain = Arc::clone(self);
            tokio::spawn(async move { plain.call(n).await })
        };
        let ended = stream::iter(first..first + count).map(call).buffer_unordered(AT_ONCE);
        ended.map(|ended| ended.unwrap_or_else(|panic| Err(panic.to_string()))).collect().await
    }

    async fn call(&self, n: u64) -> Result<(), String> {
        let tenant = (n / 4) as usize % TENANTS.len();
        match n % 4 {
            0 => answers(&self.fresh, tenant, "run", (n % 1_000,), (n % 1_000 + 1).pow(2) + 1).await,
            1 => {
                let flat = Ok::<_, String>(format!(r#"{{"a.b.0":{n},"a.b.1":"x"}}"#));
                answers(&self.stocked, tenant, "transform", (format!(r#"{{"a":{{"b":[{n},"x"]}}}}"#),), flat).await
            }
            2 => answers(&self.counted, tenant, "run", (n % 1_000 + 1,), (n % 1_000 + 1) * (n % 1_000 + 2) / 2).await,
            _ => answers(&self.reused, tenant, "run", (tenant as u64 + 1,), tenant as u64 + 1).await,
        }
    }
}

async fn answers<T>(
    function: &Function,
    tenant: usize,
    export: &str,
    args: impl Serialize,
    right: T,
) -> Result<(), String>
where
    T: DeserializeOwned + PartialEq + fmt::Debug,
{
    match function.tenant(TENANTS[tenant]).call::<T>(export, args).await {
        Ok(reply) if reply.value == right => Ok(()),
        Ok(reply) => Err(format!("{} answered {:?}, and not {right:?}", function.name(), reply.value)),
        Err(error) => Err(format!("{} failed as {:?}: {error}", function.name(), error.kind())),
    }
}

/// What the process holds when no call is under way.
struct Held {
    /// Bytes of memory, and the most there were since the part began.
    resident: Option<u64>,
    peak: Option<u64>,
    threads: Option<usize>,
    tasks: usize,
    files: Option<usize>,
}

impl Held {
    fn now(peak: Option<u64>) -> Held {
        let entries = |path: &str| std::fs::read_dir(path).ok().map(Iterator::count);
        Held {
            resident: resident(),
            peak,
            threads: entries("/proc/self/task"),
            tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
            files: entries("/proc/self/fd"),
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: Option<u64>| {
            bytes.map_or("? MiB".to_owned(), |bytes| format!("{:.1} MiB", bytes as f64 / MIB as f64))
        };
        let count = |count: Option<usize>| count.map_or("?".to_owned(), |count| count.to_string());
        write!(f, "{} resident, {} at most", mib(self.resident), mib(self.peak))?;
        write!(f, "  {} threads, {} tasks, {} files", count(self.threads), self.tasks, count(self.files))
    }
}

/// Resident memory of this process, in bytes.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// A thread that looks at the memory of the process, and knows the most that it saw.
struct Watch {
    most: Arc<AtomicU64>,
}

impl Watch {
    fn start() -> Watch {
        let most = Arc::new(AtomicU64::new(0));
        let sees = Arc::downgrade(&most);
        std::thread::spawn(move || {
            while let Some(most) = sees.upgrade() {
                most.fetch_max(resident().unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(LOOK);
            }
        });
        Watch { most }
    }

    fn begin(&self) {
        self.most.store(0, Ordering::Relaxed);
    }

    fn peak(&self) -> Option<u64> {
        Some(self.most.load(Ordering::Relaxed)).filter(|most| *most > 0)
    }
}

/// Waits until it is so, as it will be soon.
async fn soon(is_so: impl Fn() -> bool) -> bool {
    let started = Instant::now();
    while !is_so() {
        if started.elapsed() > BACK {
            return false;
        }
        tokio::time::sleep(ms(1)).await;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_more_of_is_found() {
        let held = |peak: u64, threads, tasks, files| Held {
            resident: Some(peak),
            peak: Some(peak),
            threads: Some(threads),
            tasks,
            files: Some(files),
        };
        // The first third may hold what it likes.
        let run = |last: Held| [held(1, 1, 1, 1), held(100 * MIB, 5, 9, 20), last];
        for (last, found) in [
            (held(100 * MIB, 5, 9, 20), None),
            (held(50 * MIB, 4, 0, 3), None),
            (held(104 * MIB, 5, 9, 20), None),
            (held(105 * MIB, 5, 9, 20), Some("the peak of memory rose by 5120 KiB")),
            (held(100 * MIB, 6, 9, 20), Some("6 threads, and 5 before")),
            (held(100 * MIB, 5, 10, 20), Some("10 tasks, and 9 before")),
            (held(100 * MIB, 5, 9, 21), Some("21 open files, and 20 before")),
        ] {
            assert_eq!(drift(&run(last), true), found.into_iter().collect::<Vec<_>>());
        }
        assert!(drift(&run(held(105 * MIB, 5, 9, 20)), false).is_empty(), "a short run does not compare memory");
    }
}
