//! Hostile guests for host functions of your own, generated from the WIT of their world.
//!
//! A [`Fuzz`] makes one guest for a world: a component that calls the world's imports as a script says. Scripts are
//! made of bytes, by a generator or by a fuzzer: imports in any order, with values that fit and values that do not
//! (texts that are no UTF-8, lengths beyond memory, forged handles, handles of another kind, handles that were given
//! away), results and handles that are kept and used later, loops, floods. They are run for two tenants in turn, of
//! which each gives the host bytes that tell whose they are. What must come of it is the same for every host: see
//! [`Fault`].
//!
//! In a test, by a seed:
//!
//! ```
//! use isopod::testkit::fuzz::Fuzz;
//!
//! const WIT: &str = "
//!     package acme:app;
//!     interface db { get: func(key: string) -> option<string>; }
//!     world greeter {
//!         import db;
//!         export greet: func(name: string) -> string;
//!     }
//! ";
//! mod greeter {
//!     isopod::world!({ world: "greeter", inline: "
//!         package acme:app;
//!         interface db { get: func(key: string) -> option<string>; }
//!         world greeter {
//!             import db;
//!             export greet: func(name: string) -> string;
//!         }
//!     " });
//! }
//!
//! #[derive(Clone)]
//! struct MyImports;
//!
//! impl greeter::acme::app::db::Host for MyImports {
//!     async fn get(&mut self, key: String) -> Option<String> {
//!         (key == "a").then(|| "1".to_owned())
//!     }
//! }
//!
//! # fn main() -> isopod::Result<()> { isopod::block_on(async {
//! let host = isopod::Host::new()?;
//! let fuzz = Fuzz::inline(WIT, "greeter")?;
//! let function = host.function("greeter").component_bytes(fuzz.guest()).imports(MyImports);
//! let function = function.load_typed::<greeter::Greeter>().await?;
//! let report = fuzz.run(function.as_ref(), 1, 200).await?;
//! assert!(report.held(), "{report}");
//! # Ok(()) }) }
//! ```
//!
//! In a target of `cargo fuzz`, which looks for bytes by what they reach in your code: load the function once, as above,
//! and give [`Fuzz::once`] what the fuzzer gives. `fuzz/fuzz_targets/imports.rs` in isopod's repository is one, whole; run
//! it by `cargo +nightly fuzz run imports -- -timeout=10 -max_len=640`, as more bytes than that mean nothing more.
//!
//! # What is not attacked
//! Only what a world imports is; what it exports is there, and traps if it is called. Interfaces of `wasi:` are
//! isopod's own, and left out: [`prove`](super::prove()) attacks those. An import with a stream, a future, a map, a
//! list of fixed length or an `error-context` is refused as [`ErrorKind::Misuse`]. An
//! imported `async func` is called and waited for, one at a time. Handles that a guest holds are bounded by isopod
//! ([`Limits::handles`](crate::Limits::handles)); what your host keeps behind them it sees by [`Fuzz::count`] or as memory of the process.

mod guest;
mod judge;
mod report;
mod script;
mod value;
mod world;

pub use judge::Fault;
pub use report::{Finding, Report};

use super::case::Figures;
use super::watch::{Watch, resident};
use crate::{CallOptions, Error, ErrorKind, Function, Result, ms};
use judge::{Answer, Seen, judge};
use parking_lot::Mutex;
use script::{Script, TENANTS, foreign, nonce, scripts};
use serde::de::{Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use world::{RUN, World, unfit};

/// Hostile guests for the imports of one world. A clone is the same.
#[derive(Clone)]
pub struct Fuzz {
    world: Arc<World>,
    guest: Arc<[u8]>,
    words: Vec<String>,
    counts: Vec<(String, Count)>,
}

type Count = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Bytes of the input of a round.
const INPUT: usize = 640;
/// How often something is seen again before it is no chance.
const AGAIN: u32 = 2;
/// How long a call is waited for beyond its deadline, and how long is the longest deadline that is believed.
const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(60);
/// How often the thread that makes calls is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How soon what a call held must be given back.
const BACK: Duration = Duration::from_millis(200);
/// Faults after which no more are looked for, and findings of one kind that are kept.
const ENOUGH: u32 = 64;
const OF_ONE: usize = 3;
/// Inputs that are tried to make one shorter, and how long.
const TRIES: u32 = 400;
const SHORTENING: Duration = Duration::from_secs(3);
/// Rounds after which memory is compared, and bytes that it must grow by in each quarter of the rounds, and in all.
const ROUNDS: u32 = 200;
const QUARTER: u64 = 3 << 20;
const GROWN: u64 = 16 << 20;

impl Fuzz {
    /// For a world in a WIT text, which may hold several packages.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`] where the text or the world cannot be read, imports nothing that can be attacked, or
    /// imports what a generated guest cannot call; it lists what.
    pub fn inline(wit: &str, world: &str) -> Result<Fuzz> {
        Fuzz::of(World::inline(wit, world)?)
    }

    /// For a world in a `.wit` file, or in a folder with a package and the packages it uses in `deps`.
    ///
    /// # Errors
    /// As [`inline`](Fuzz::inline).
    pub fn path(path: impl AsRef<Path>, world: &str) -> Result<Fuzz> {
        Fuzz::of(World::path(path.as_ref(), world)?)
    }

    fn of(world: World) -> Result<Fuzz> {
        let guest = world.guest()?.into();
        Ok(Fuzz { world: Arc::new(world), guest, words: Vec::new(), counts: Vec::new() })
    }

    /// Texts that mean something to the host, such as names and keys that exist: scripts then use them too.
    pub fn words(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Fuzz {
        self.words.extend(words.into_iter().map(Into::into));
        self
    }

    /// Something that the host holds for a guest and must have given back 200 ms after its call, such as cursors or
    /// rows in a table. A call after which there are more than before is a [`Fault::Kept`].
    pub fn count(mut self, what: impl Into<String>, many: impl Fn() -> u64 + Send + Sync + 'static) -> Fuzz {
        self.counts.push((what.into(), Arc::new(many)));
        self
    }

    /// The guest, for [`component_bytes`](crate::FunctionBuilder::component_bytes). Load it with your imports as any
    /// component of the world. A short [`deadline`](crate::Limits::deadline) makes floods short.
    pub fn guest(&self) -> Vec<u8> {
        self.guest.to_vec()
    }

    /// Runs so many rounds against a function that was loaded from the [`guest`](Fuzz::guest), and reports what was
    /// found. The same seed is the same rounds. Each is up to four calls of fresh instances; a thousand make a million
    /// host calls and more, which takes some ten seconds in a debug build. It ends early when it has found much. Whether
    /// the process grows as long as calls are made is looked at from 200 rounds on.
    ///
    /// The memory it looks at is that of the process: what may be another thread's doing is tried again before it is
    /// found.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`] outside of a tokio runtime, and where there is no thread to be had; and what keeps the function
    /// from doing nothing at all, such as [`ErrorKind::WrongExport`] where it is another component.
    pub async fn run(&self, function: &Function, seed: u64, rounds: u32) -> Result<Report> {
        let run = Run::new(self, function).await?;
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|_| unfit("fuzzing needs a tokio runtime; call it in one, or in `isopod::block_on`", None))?;
        let stop = Stop(Arc::clone(&run.state));
        let patience = Duration::from_millis(run.figures.get("deadline_ms")).min(LONGEST) + PATIENCE;
        let (tell, mut told) = tokio::sync::oneshot::channel();
        // A host function that holds its thread holds this one, and neither the caller's nor one of the runtime's.
        let work = move || {
            runtime.block_on(run.rounds(seed, rounds));
            let _ = tell.send(());
        };
        let thread = std::thread::Builder::new().name("isopod-fuzz".into()).spawn(work);
        thread.map_err(|e| unfit("there is no thread to fuzz on", Some(e.to_string())))?;
        loop {
            match tokio::time::timeout(LOOK, &mut told).await {
                Ok(Ok(())) => return Ok(stop.0.report()),
                Ok(Err(_)) => return Err(Error::new(ErrorKind::Internal, "fuzzing failed; please report this")),
                Err(_) if stop.0.hangs(patience) => return Ok(stop.0.report()),
                Err(_) => {}
            }
        }
    }

    /// Runs what those bytes stand for: some calls, in the caller's task. For a fuzzer, and to repeat a [`Finding`], as a
    /// test of what was mended. A call that does not come back holds the caller: give the fuzzer a `-timeout`.
    ///
    /// # Errors
    /// As [`run`](Fuzz::run).
    pub async fn once(&self, function: &Function, input: &[u8]) -> Result<Report> {
        let run = Run::new(self, function).await?;
        let found = run.round(input, true).await;
        run.state.inner.lock().report.findings.extend(found);
        Ok(run.state.report())
    }
}

impl fmt::Debug for Fuzz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let imports: Vec<&str> = self.world.imports.iter().map(|import| import.name.as_str()).collect();
        f.debug_struct("Fuzz").field("imports", &imports).finish_non_exhaustive()
    }
}

/// The input of a round.
fn input(seed: u64, round: u32) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(&round.to_le_bytes());
    let mut bytes = vec![0; INPUT];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// What is known so far, which another thread looks at.
struct State {
    inner: Mutex<Inner>,
    stop: AtomicBool,
}

struct Inner {
    started: Instant,
    report: Report,
    faults: u32,
    /// The call that runs: since when, of which input, and in words.
    now: Option<(Instant, Vec<u8>, Vec<String>)>,
}

impl State {
    fn report(&self) -> Report {
        let inner = self.inner.lock();
        Report { took: inner.started.elapsed(), ..inner.report.clone() }
    }

    /// Whether the call that runs has run for longer than that; then it is found.
    fn hangs(&self, patience: Duration) -> bool {
        let mut inner = self.inner.lock();
        let Some((since, input, calls)) = inner.now.take_if(|(since, ..)| since.elapsed() > patience) else {
            return false;
        };
        let text = format!("a call did not come back in {:.1?}", since.elapsed());
        inner.report.findings.push(Finding { fault: Fault::Hang, text, input, repeats: false, calls });
        true
    }
}

/// The caller has given up, or has its report.
struct Stop(Arc<State>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Rounds against one function.
struct Run {
    fuzz: Fuzz,
    tenants: [Function; 2],
    figures: Figures,
    watch: Watch,
    state: Arc<State>,
}

impl Run {
    async fn new(fuzz: &Fuzz, function: &Function) -> Result<Run> {
        let nothing = [0; guest::HEAD as usize];
        function.call::<Bytes>(RUN, (Bytes(nothing.to_vec()),)).await?;
        let inner = Inner { started: Instant::now(), report: Report::default(), faults: 0, now: None };
        Ok(Run {
            fuzz: fuzz.clone(),
            tenants: TENANTS.map(|name| function.tenant(name)),
            figures: Figures::of(&function.limits())?,
            watch: Watch::start(),
            state: Arc::new(State { inner: Mutex::new(inner), stop: AtomicBool::new(false) }),
        })
    }

    async fn rounds(&self, seed: u64, rounds: u32) {
        let mut has = Vec::new();
        for round in 0..rounds {
            if self.state.stop.load(Ordering::Relaxed) {
                return;
            }
            let found = self.round(&input(seed, round), true).await;
            for finding in found {
                if self.is_new(&finding) {
                    let finding = self.shorter(finding).await;
                    self.state.inner.lock().report.findings.push(finding);
                }
            }
            if self.state.inner.lock().faults >= ENOUGH {
                return;
            }
            if rounds >= ROUNDS && (round + 1) % (rounds / 4) == 0 {
                has.extend(resident());
            }
        }
        let grown: Vec<u64> = has.windows(2).map(|two| two[1].saturating_sub(two[0])).collect();
        let all: u64 = grown.iter().sum();
        if grown.len() >= 3 && all >= GROWN && grown.iter().all(|grown| *grown >= QUARTER) {
            let text =
                format!("the process grew by {} MiB in three quarters of the rounds, in each of them", all >> 20);
            let finding = Finding { fault: Fault::Kept, text, input: Vec::new(), repeats: false, calls: Vec::new() };
            self.state.inner.lock().report.findings.push(finding);
        }
    }

    /// Whether the like of it was not found before, or only where it does not repeat.
    fn is_new(&self, finding: &Finding) -> bool {
        // Up to where it is of this one's values.
        let start = |text: &str| text.find(|c: char| c.is_ascii_digit() || "\"'`".contains(c)).unwrap_or(text.len());
        let like = |other: &Finding| {
            other.fault == finding.fault && other.text[..start(&other.text)] == finding.text[..start(&finding.text)]
        };
        let mut inner = self.state.inner.lock();
        // Some take long to be seen again.
        inner.faults += match finding.fault {
            Fault::Late | Fault::Memory => ENOUGH / 2,
            Fault::Kept => ENOUGH / 8,
            _ => 1,
        };
        let all = &mut inner.report.findings;
        all.retain(|other| !like(other) || other.repeats || !finding.repeats);
        all.iter().filter(|other| other.fault == finding.fault).count() < OF_ONE && !all.iter().any(like)
    }

    /// The same by fewer bytes, if it takes no more than them.
    async fn shorter(&self, mut best: Finding) -> Finding {
        // The former take long; and what others left is there for any input.
        if matches!(best.fault, Fault::Late | Fault::Memory) || !best.repeats {
            return best;
        }
        let same = async |input: &[u8], fault: Fault| {
            self.round(input, false).await.into_iter().find(|finding| finding.fault == fault && finding.repeats)
        };
        match same(&best.input, best.fault).await {
            Some(again) => best = again,
            None => return Finding { repeats: false, ..best },
        }
        let since = Instant::now();
        let (mut tries, mut size) = (0, best.input.len().next_power_of_two());
        while size > 0 {
            // From the end: what comes after the fault goes first.
            let mut end = best.input.len();
            while end > 0 && tries < TRIES && since.elapsed() < SHORTENING {
                tries += 1;
                let start = end.saturating_sub(size);
                let mut input = best.input.clone();
                input.drain(start..end);
                if let Some(again) = same(&input, best.fault).await {
                    best = again;
                }
                end = start;
            }
            size /= 2;
        }
        best
    }

    /// Runs the scripts of one input. What is found once, is found in the first of them that shows it.
    async fn round(&self, input: &[u8], counts: bool) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut calls = Vec::new();
        for script in scripts(&self.fuzz.world, &self.fuzz.words, input) {
            calls.push(format!("for {}:", TENANTS[script.tenant]));
            calls.extend(script.lines.iter().map(|line| format!("  {line}")));
            let began = || Some((Instant::now(), input.to_vec(), calls.clone()));
            self.state.inner.lock().now = began();
            let (seen, mut faults) = self.script(&script).await;
            for _ in 0..AGAIN {
                if !faults.iter().any(|(fault, _)| fault.may_be_chance()) {
                    break;
                }
                self.state.inner.lock().now = began();
                let (_, again) = self.script(&script).await;
                faults.retain(|(fault, _)| !fault.may_be_chance() || again.iter().any(|(other, _)| other == fault));
            }
            let mut inner = self.state.inner.lock();
            inner.now = None;
            if counts {
                self.counted(&mut inner.report, &script, &seen);
            }
            drop(inner);
            found.extend(faults.into_iter().map(|(fault, text)| {
                let repeats = fault != Fault::Tenant || text.contains(&nonce(input));
                Finding { fault, text, input: input.to_vec(), repeats, calls: calls.clone() }
            }));
            if !found.is_empty() {
                break;
            }
        }
        if counts {
            self.state.inner.lock().report.rounds += 1;
        }
        found
    }

    fn counted(&self, report: &mut Report, script: &Script, seen: &Seen) {
        report.scripts += 1;
        report.host_calls += seen.usage.host_calls;
        let end = seen.ended.as_ref().map_or_else(|error| format!("{:?}", error.kind()), |_| "answered".into());
        *report.ends.entry(end).or_default() += 1;
        for import in &self.fuzz.world.imports {
            report.imports.entry(import.name.clone()).or_default();
        }
        for import in &script.calls {
            *report.imports.entry(self.fuzz.world.imports[*import].name.clone()).or_default() += 1;
        }
    }

    /// One call of the guest, and what is wrong with what became of it.
    async fn script(&self, script: &Script) -> (Seen, Vec<(Fault, String)>) {
        let held: Vec<u64> = self.fuzz.counts.iter().map(|(_, count)| count()).collect();
        let before = self.watch.begin();
        let started = Instant::now();
        let ended = self.tenants[script.tenant].call::<Bytes>(RUN, (Bytes(script.bytes.clone()),)).await;
        let wall = started.elapsed();
        let grown = self.watch.most().saturating_sub(before);
        let (ended, usage) = match ended {
            Ok(reply) => (Ok(answer(&reply.value.0)), reply.usage),
            Err(error) => {
                let usage = error.usage();
                (Err(error), usage)
            }
        };
        let theirs = foreign(script.tenant);
        let known = memchr::memmem::find(&script.bytes, theirs.as_bytes()).is_some();
        let seen = Seen { ended, usage, wall, grown, foreign: (!known).then_some(theirs) };
        let name = |number: u32| {
            let import = script.calls.get((number as usize).wrapping_sub(1));
            import.map_or_else(String::new, |import| self.fuzz.world.imports[*import].name.clone())
        };
        let mut faults = judge(&self.figures, &seen, name);
        for ((what, count), before) in self.fuzz.counts.iter().zip(held) {
            let since = Instant::now();
            while count() > before && since.elapsed() < BACK {
                tokio::time::sleep(ms(1)).await;
            }
            let after = count();
            if after > before {
                faults.push((Fault::Kept, format!("{what}: {after} after a call, {before} before it")));
            }
        }
        (seen, faults)
    }
}

/// What the guest says: how many calls returned; then the number of one that gave what it must not, and what that was.
fn answer(bytes: &[u8]) -> Answer {
    let found = bytes.get(4..8).map_or(0, |word| u32::from_le_bytes(std::array::from_fn(|n| word[n])));
    Answer { found: (found > 0).then(|| (found, bytes.get(8..).unwrap_or_default().to_vec())) }
}

/// Bytes that pass in one piece.
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Read)
    }
}
