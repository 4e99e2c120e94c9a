//! [`prove`]: runs the corpus against a host, and holds what becomes of it against what was promised.

use super::attack::{Flavour, Shot, Terms, fill};
use super::case::{Attack, Case, Figures};
use super::corpus::corpus;
use super::judge::{Ended, Fault, LEFT, OVER, Outcome, judge};
use super::ledger::Ledger;
use super::promise::Promise;
use super::report::Report;
use super::watch::{self, Neighbours, Watch, p99, resident};
use crate::{BoxFuture, FunctionBuilder, Host, Limits, LoadLimits, Result, Reuse, ScriptBuilder, Trust, ms};
use futures_util::{StreamExt, stream};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval};

/// Runs the [`corpus`](super::corpus()) against that host, and reports what held. It takes half a minute with the default
/// limits, and about as long as four calls may take with others, but no more than a minute.
///
/// What it tries is each limit by itself: a guest has room for all else, so that nothing stops it sooner. It has the host
/// to itself, and the process, of which the memory is measured: let nothing else run meanwhile. The promise to neighbours
/// is made for a runtime with a worker for each core.
///
/// ```no_run
/// use isopod::testkit::prove;
/// use isopod::{Host, Limits, ms};
///
/// fn main() -> isopod::Result<()> {
///     isopod::compile_worker();
///     let runtime = tokio::runtime::Runtime::new().unwrap();
///     runtime.block_on(async {
///         let report = prove(&Host::new()?).limits(Limits::default().deadline(ms(500)).busy(ms(200))).await?;
///         println!("{report}");
///         assert!(report.held(), "{:?}", report.broken());
///         Ok(())
///     })
/// }
/// ```
///
/// In a test, `main` is not yours. Either the test has one (`[[test]]` with `harness = false`, and the lines above), or the
/// host has a program that compiles, [`CompileWorker::program`](crate::CompileWorker::program), and the test a runtime with
/// several threads, `#[tokio::test(flavor = "multi_thread")]`, and a process that no other test runs in meanwhile. On a
/// machine that has other things to do, let pass what was only [measured](super::Finding::measured).
pub fn prove(host: &Host) -> Prove {
    Prove {
        host: host.clone(),
        limits: Limits::default(),
        load: Trust::Untrusted.into(),
        reuse: None,
        rounds: 1,
        only: Box::new(|_| true),
        with: Arc::new(|_, builder| builder),
        with_script: Arc::new(|_, builder| builder),
    }
}

/// How the corpus is to be run. Made by [`prove()`]; awaiting it runs it.
///
/// # Errors
/// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) for limits that contradict each other, and whatever keeps a component
/// from being loaded that means no harm, such as a build without a compiler.
#[must_use = "nothing runs until it is awaited"]
pub struct Prove {
    host: Host,
    limits: Limits,
    load: LoadLimits,
    reuse: Option<Reuse>,
    rounds: u32,
    only: Box<dyn Fn(&Case) -> bool + Send>,
    with: Arc<With>,
    with_script: Arc<WithScript>,
}

/// What each guest is loaded with besides.
pub(super) type With = dyn Fn(&Case, FunctionBuilder) -> FunctionBuilder + Send + Sync;
/// The same, where it is a script.
pub(super) type WithScript = dyn Fn(&Case, ScriptBuilder) -> ScriptBuilder + Send + Sync;

impl Prove {
    /// The limits that your functions have. A time of more than 5 s is tried as 5 s, and fuel of more than 500 million
    /// units as so much; a limit that is so large that no guest comes to it is not held. A guest that takes more seats than
    /// the host has free, to have several memories or to be called by another, is not tried; and neither is
    /// [`concurrency`](Limits::concurrency) where those seats are what bounds it.
    pub fn limits(mut self, limits: Limits) -> Prove {
        self.limits = limits;
        self
    }

    /// What your components may look like. Default: as those of strangers, [`Trust::Untrusted`](crate::Trust::Untrusted).
    /// Scripts are compiled within bounds of isopod's own: see [`ScriptBuilder::load`].
    pub fn load_limits(mut self, limits: LoadLimits) -> Prove {
        self.load = limits;
        self
    }

    /// How your functions use instances again, if they do. It gives up [`Promise::Fresh`](super::Promise::Fresh) within a
    /// tenant, and the report says so. Scripts have a new instance for each call all the same.
    pub fn reuse(mut self, reuse: Reuse) -> Prove {
        self.reuse = Some(reuse);
        self
    }

    /// How often the corpus is run. Default: once. Each round takes as long.
    pub fn rounds(mut self, rounds: u32) -> Prove {
        self.rounds = rounds.max(1);
        self
    }

    /// Runs only those guests of the corpus. What it says of other promises is then said by few guests or none.
    pub fn only(mut self, which: impl Fn(&Case) -> bool + Send + 'static) -> Prove {
        self.only = Box::new(which);
        self
    }

    /// What you load your functions with besides their limits, such as [`grant`](crate::FunctionBuilder::grant)s and
    /// [`import`](crate::FunctionBuilder::import)s: `load` is given each guest and its builder. Whatever the builder refuses,
    /// as it has no effect on that guest, is a load that failed: add it to those that import it. It is not asked for guests
    /// that are scripts.
    pub fn with(mut self, load: impl Fn(&Case, FunctionBuilder) -> FunctionBuilder + Send + Sync + 'static) -> Prove {
        self.with = Arc::new(load);
        self
    }

    /// The same as [`with`](Prove::with), for guests that are scripts.
    pub fn with_script(
        mut self,
        load: impl Fn(&Case, ScriptBuilder) -> ScriptBuilder + Send + Sync + 'static,
    ) -> Prove {
        self.with_script = Arc::new(load);
        self
    }
}

impl IntoFuture for Prove {
    type Output = Result<Report>;
    type IntoFuture = BoxFuture<'static, Result<Report>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(run(self))
    }
}

/// How often something may be measured that the machine may have disturbed.
const ATTEMPTS: u32 = 4;
/// Rounds are not repeated after so long for each.
const PATIENCE: Duration = Duration::from_secs(30);
/// Long guests are run one by one too if that is all that their time is.
const SHORT: Duration = Duration::from_millis(250);
/// Calls of neighbours for each hostile one: these are one in twenty.
const BENIGN: u64 = 19;
/// From one call of a neighbour to the next.
const PAUSE: Duration = ms(1);
/// Calls that run beside the corpus and are not of it.
const SPARE: u32 = 8;
/// Hostile calls at once.
const WIDTH: u32 = 64;
/// How soon seats and memory must be back.
const BACK: Duration = Duration::from_secs(2);

async fn run(prove: Prove) -> Result<Report> {
    let theirs = Figures::of(&prove.limits)?;
    let neighbours = Neighbours::load(&prove.host).await?;
    // What the first calls make, later ones find.
    for n in 0..20 {
        if let Err(text) = neighbours.answer(n).await.and(neighbours.scan().await) {
            // A host that is full, for one: nothing can be tried.
            let mut ledger = Ledger::new();
            ledger.fault(&Fault::new(Promise::Neighbours, text));
            return Ok(ledger.report(&theirs, 0));
        }
    }
    let Prove { host, load, reuse, rounds, only, with, with_script, .. } = prove;
    let terms = Terms { host, load, reuse, with, with_script };
    let (seats, watch, ledger) = (terms.host.free_seats(), Watch::start(), Ledger::new());
    let order = StdRng::seed_from_u64(0);
    let mut proof = Proof { terms, theirs, neighbours, rounds, order, seats, watch, ledger };
    let wanted = corpus().into_iter().filter(|case| only(case));
    let apply = wanted.filter(|case| case.promise().limit().is_none_or(|limit| proof.theirs.is(limit)));
    let (possible, others): (Vec<Case>, Vec<Case>) =
        apply.partition(|case| (case.seats)(&proof.theirs) <= u64::from(proof.seats));
    others.iter().for_each(|case| proof.ledger.untried(case.promise()));
    let (loads, calls): (Vec<Case>, Vec<Case>) =
        possible.into_iter().partition(|case| matches!(case.attack, Attack::Load | Attack::Describe));
    let mut shots = Vec::new();
    for case in calls {
        shots.extend(proof.load(case).await.map(Arc::new));
    }
    // Not what the first calls make, such as buffers of the allocator: later ones find it.
    let mut settled = None;
    for round in 1..=rounds {
        for case in &loads {
            if let Some(shot) = proof.load(case.clone()).await {
                proof.alone(&shot).await;
            }
        }
        for shot in &shots {
            if is_for_itself(shot) || !shot.case.is_long() || shot.longest() <= SHORT {
                proof.alone(shot).await;
            }
        }
        if rounds == 1 {
            settled = watch::steady(&proof.terms.host);
        }
        let mixed = shots.iter().filter(|shot| !shot.is_load() && !is_for_itself(shot));
        proof.mixed(mixed.map(Arc::clone).collect()).await;
        if rounds > 1 && round == rounds.div_ceil(2) {
            settled = watch::steady(&proof.terms.host);
        }
    }
    let now = || watch::steady(&proof.terms.host);
    if let Some(before) = settled
        && !soon(|| now().is_none_or(|now| now <= before + LEFT)).await
        && let Some(now) = now().filter(|now| *now > before + LEFT)
    {
        let text = format!("{} MiB stay that were not there after the first calls", (now - before) >> 20);
        proof.ledger.fault(&Fault::measured(Promise::Resident, text));
    }
    proof.compiling();
    proof.house().await;
    let Proof { ledger, theirs, .. } = proof;
    Ok(ledger.report(&theirs, rounds))
}

/// Whether it needs the host to itself: all seats, or the processor. Beside others that compute, a guest waits for its
/// turns, and its deadline comes before it has computed for as long as it may.
fn is_for_itself(shot: &Shot) -> bool {
    shot.is_crowd() || shot.case.promise() == Promise::Busy
}

/// A run of the corpus.
struct Proof {
    terms: Terms,
    theirs: Figures,
    neighbours: Neighbours,
    rounds: u32,
    /// In which guests begin that run beside each other.
    order: StdRng,
    /// That were free at the start, less those that were found to be lost.
    seats: u32,
    watch: Watch,
    ledger: Ledger,
}

impl Proof {
    async fn load(&mut self, case: Case) -> Option<Shot> {
        let shot = Shot::load(&self.terms, case, &self.theirs).await;
        shot.map_err(|fault| self.ledger.fault(&fault)).ok()
    }

    /// One guest, beside nothing but one call of a neighbour.
    async fn alone(&mut self, shot: &Shot) {
        for attempt in 1..=ATTEMPTS {
            let before = self.watch.begin();
            let (outcome, beside) = tokio::join!(shot.fire(&self.terms.host), self.neighbours.answer(attempt + 7));
            let grown = self.watch.most().saturating_sub(before);
            let mut faults = judge(&shot.case, &shot.figures, &outcome);
            faults.extend(beside.err().map(|text| Fault::new(Promise::Neighbours, text)));
            faults.extend(self.left().await);
            let has = match outcome.end {
                Ended::GivenUp => shot.figures.get("memory_bytes"),
                _ => outcome.usage.peak_memory,
            };
            let over = grown.saturating_sub(has);
            let mut measured = |text: String| faults.push(Fault::measured(Promise::Resident, text));
            if over >= OVER {
                measured(format!("the process grew by {} MiB more than the guest", over >> 20));
            }
            if let Some(now) = self.settled(before).await.filter(|now| *now > before + LEFT) {
                measured(format!("{} MiB were not given back", (now - before) >> 20));
            }
            if attempt < ATTEMPTS && !faults.is_empty() && faults.iter().all(|fault| fault.measured) {
                self.ledger.repeats += 1;
                continue;
            }
            self.ledger.over = self.ledger.over.max(over);
            self.ledger.benign += 2;
            self.ledger.attack(shot, &outcome, &faults);
            return;
        }
    }

    /// All guests beside others' calls: one call in twenty is hostile, and runs for as long as it can.
    async fn mixed(&mut self, mut shots: Vec<Arc<Shot>>) {
        for attempt in 1..=ATTEMPTS {
            let last = attempt == ATTEMPTS || self.ledger.started.elapsed() > PATIENCE * self.rounds;
            let (solo, wrong) = benign(&self.neighbours, 200, Arc::new(AtomicBool::new(true))).await;
            shots.shuffle(&mut self.order);
            let before = self.watch.begin();
            let done = Arc::new(AtomicBool::new(false));
            let least = shots.len() as u64 * BENIGN;
            let (neighbours, stop) = (self.neighbours.clone(), Arc::clone(&done));
            let others = tokio::spawn(async move { benign(&neighbours, least, stop).await });
            let width = self.seats.saturating_sub(SPARE).clamp(1, WIDTH) as usize;
            let fired: Vec<_> = shots.iter().map(|shot| fire(Arc::clone(shot), self.terms.host.clone())).collect();
            let mut pace = interval(PAUSE * BENIGN as u32);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let paced = stream::iter(fired).zip(stream::poll_fn(|cx| pace.poll_tick(cx).map(Some)));
            let outcomes: Vec<_> = paced.map(|(fired, _)| fired).buffer_unordered(width).collect().await;
            done.store(true, Ordering::Relaxed);
            let (beside, also_wrong) = others.await.unwrap_or_else(|e| (Vec::new(), vec![e.to_string()]));
            let grown = self.watch.most().saturating_sub(before);

            let wrong = wrong.into_iter().chain(also_wrong);
            let mut faults: Vec<Fault> = wrong.map(|text| Fault::new(Promise::Neighbours, text)).collect();
            faults.extend(self.left().await);
            self.ledger.benign += (solo.len() + beside.len()) as u64;
            let (solo, beside) = (p99(solo), p99(beside));
            if beside > solo * 3 + self.terms.host.tick() * 3 {
                let text = format!("their p99 was {beside:.1?} beside hostile guests, and {solo:.1?} alone");
                faults.push(Fault::measured(Promise::Neighbours, text));
            }
            // So many run at once, so they have no more than the largest.
            let mut peaks: Vec<u64> = outcomes.iter().map(|(_, outcome)| outcome.usage.peak_memory).collect();
            peaks.sort_unstable_by(|a, b| b.cmp(a));
            let over = grown.saturating_sub(peaks.iter().take(width).sum());
            if over >= OVER {
                let text = format!("the process grew by {} MiB more", over >> 20);
                faults.push(Fault::measured(Promise::Resident, text));
            }
            let judged = outcomes.into_iter().map(|(shot, outcome)| {
                let found = judge(&shot.case, &shot.figures, &outcome);
                (shot, outcome, found)
            });
            let judged: Vec<_> = judged.collect();
            let mut all = faults.iter().chain(judged.iter().flat_map(|(_, _, found)| found));
            if !last && all.any(|fault| fault.measured) {
                // What else was wrong was no chance.
                self.ledger.repeats += 1;
                for (shot, _, found) in &judged {
                    self.ledger.faults(shot, found.iter().filter(|fault| !fault.measured));
                }
                faults.iter().filter(|fault| !fault.measured).for_each(|fault| self.ledger.fault(fault));
                continue;
            }
            judged.iter().for_each(|(shot, outcome, faults)| self.ledger.attack(shot, outcome, faults));
            faults.iter().for_each(|fault| self.ledger.fault(fault));
            self.ledger.over = self.ledger.over.max(over);
            self.ledger.p99(solo, beside);
            return;
        }
    }

    /// What a guest has left: a seat that it still has, or something that others find.
    async fn left(&mut self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if !soon(|| self.terms.host.free_seats() >= self.seats).await {
            let free = self.terms.host.free_seats();
            faults.push(Fault::new(Promise::Seats, format!("{free} of {} seats are free", self.seats)));
            // Found once is enough: those after it would wait for the same seat.
            self.seats = free;
        }
        faults.extend(self.neighbours.scan().await.err().map(|text| Fault::new(Promise::Fresh, text)));
        faults
    }

    /// The memory of the process, when it is back to what it was, or has not come back to that.
    async fn settled(&self, before: u64) -> Option<u64> {
        soon(|| resident().is_none_or(|now| now <= before + LEFT)).await;
        resident()
    }

    /// Who compiles.
    #[cfg(feature = "compiler")]
    fn compiling(&mut self) {
        let text = match self.terms.host.compile_worker() {
            _ if !self.terms.load.apart => "components of `Trust::Own` are compiled in this process",
            None => "strangers' components are compiled in this process; begin `main` with `isopod::compile_worker()`",
            Some(_) => return,
        };
        self.ledger.fault(&Fault::new(Promise::Compiling, text));
    }

    #[cfg(not(feature = "compiler"))]
    fn compiling(&mut self) {}

    /// As many calls at once as there are seats: none is lost, and no slot. They have nearly all slots between them, and look
    /// for what guests have left there.
    async fn house(&mut self) {
        let fuel = self.theirs.is("fuel");
        for flavour in [Flavour::Plain, Flavour::Asynchronous, Flavour::Image] {
            match fill(&self.terms.host, self.seats, fuel, flavour).await {
                Ok(0) => self.ledger.house(self.seats),
                Ok(places) => {
                    let text = format!("new instances were not empty in {places} places");
                    self.ledger.fault(&Fault::new(Promise::Fresh, text));
                }
                Err(text) => self.ledger.fault(&Fault::new(Promise::Seats, text)),
            }
        }
    }
}

async fn fire(shot: Arc<Shot>, host: Host) -> (Arc<Shot>, Outcome) {
    let outcome = shot.fire(&host).await;
    (shot, outcome)
}

/// Waits until it is so, as it will be soon.
async fn soon(is_so: impl Fn() -> bool) -> bool {
    let started = Instant::now();
    while !is_so() {
        if started.elapsed() > BACK {
            return false;
        }
        // Memory comes back by what other threads do.
        tokio::time::sleep(ms(1)).await;
    }
    true
}

/// Calls of neighbours, at least so many, and until `stop` is set: how long they took, and what was wrong. One is due each
/// [`PAUSE`], whether those before it are answered or not, and takes from then on: who is held up long holds up many.
async fn benign(neighbours: &Neighbours, least: u64, stop: Arc<AtomicBool>) -> (Vec<Duration>, Vec<String>) {
    let (mut took, mut wrong) = (Vec::new(), Vec::new());
    let (mut n, mut due) = (0, Instant::now());
    while u64::from(n) < least || !stop.load(Ordering::Relaxed) {
        n += 1;
        due += PAUSE;
        tokio::time::sleep_until(due.into()).await;
        match neighbours.answer(n).await {
            Ok(()) => took.push(due.elapsed()),
            Err(text) => wrong.push(text),
        }
    }
    wrong.truncate(8);
    (took, wrong)
}
