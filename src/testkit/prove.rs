//! [`prove`]: runs the corpus against a host, and holds what becomes of it against what was promised.

use super::attack::{Shot, Terms};
use super::case::{Attack, Case, Figures};
use super::corpus::corpus;
use super::judge::{Ended, Fault, LEFT, OVER, Outcome, judge};
use super::ledger::Ledger;
use super::promise::Promise;
use super::report::Report;
use super::watch::{Neighbours, Watch, p99, resident};
use crate::{BoxFuture, FunctionBuilder, Host, Limits, LoadLimits, Result, Reuse, Trust, ms};
use futures_util::{StreamExt, stream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Runs the [`corpus`](super::corpus()) against that host, and reports what held. It takes some ten seconds with the default
/// limits, and about as long as four calls may take with others, but no more than a minute.
///
/// What it tries is each limit by itself: a guest has room for all else, so that nothing stops it sooner. It has the host
/// to itself, and the process, of which the memory is measured: let nothing else run meanwhile. The promise to neighbours
/// is made for a runtime with a worker for each core.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> isopod::Result<()> {
/// use isopod::testkit::prove;
/// use isopod::{Host, Limits, ms};
///
/// let host = Host::new()?;
/// # if false {
/// let report = prove(&host).limits(Limits::default().deadline(ms(500)).busy(ms(200))).await?;
/// println!("{report}");
/// assert!(report.held(), "{:?}", report.broken());
/// # }
/// # Ok(()) }
/// ```
pub fn prove(host: &Host) -> Prove {
    Prove {
        host: host.clone(),
        limits: Limits::default(),
        load: Trust::Untrusted.into(),
        reuse: None,
        rounds: 1,
        tick: ms(1),
        only: Box::new(|_| true),
        with: Arc::new(|_, builder| builder),
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
    tick: Duration,
    only: Box<dyn Fn(&Case) -> bool + Send>,
    with: Arc<With>,
}

/// What each guest is loaded with besides.
pub(super) type With = dyn Fn(&Case, FunctionBuilder) -> FunctionBuilder + Send + Sync;

impl Prove {
    /// The limits that your functions have. A time of more than 5 s is tried as 5 s, and fuel of more than 500 million
    /// units as so much; a limit that is so large that no guest comes to it is not held.
    pub fn limits(mut self, limits: Limits) -> Prove {
        self.limits = limits;
        self
    }

    /// What your components may look like. Default: as those of strangers, [`Trust::Untrusted`](crate::Trust::Untrusted).
    pub fn load_limits(mut self, limits: LoadLimits) -> Prove {
        self.load = limits;
        self
    }

    /// How your functions use instances again, if they do. It gives up [`Promise::Fresh`](super::Promise::Fresh) within a
    /// tenant, and the report says so.
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
    /// as it has no effect on that guest, is a load that failed: add it to those that import it.
    pub fn with(mut self, load: impl Fn(&Case, FunctionBuilder) -> FunctionBuilder + Send + Sync + 'static) -> Prove {
        self.with = Arc::new(load);
        self
    }

    /// The host's [`tick`](crate::HostBuilder::tick), which what is promised to neighbours is measured in. Default: 1 ms.
    pub fn tick(mut self, tick: Duration) -> Prove {
        self.tick = tick;
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
        let _ = (neighbours.answer(n).await, neighbours.scan().await);
    }
    let Prove { host, load, reuse, rounds, tick, only, with, .. } = prove;
    let terms = Terms { host, load, reuse, with };
    let mut proof = Proof { terms, theirs, neighbours, rounds, tick, watch: Watch::start(), ledger: Ledger::new() };
    let (loads, calls): (Vec<Case>, Vec<Case>) = corpus()
        .into_iter()
        .filter(|case| only(case))
        .filter(|case| case.promise().limit().is_none_or(|limit| proof.theirs.is(limit)))
        .partition(|case| matches!(case.attack, Attack::Load | Attack::Describe));
    let mut shots = Vec::new();
    for case in calls {
        shots.extend(proof.load(case).await.map(Arc::new));
    }
    // What the first rounds leave is what later calls find ready: memory that stays with its slots, for one.
    let mut half = None;
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
        let mixed = shots.iter().filter(|shot| !shot.is_load() && !is_for_itself(shot));
        let mixed: Vec<Arc<Shot>> = mixed.map(Arc::clone).collect();
        proof.mixed(&mixed).await;
        if round == rounds.div_ceil(2) {
            half = resident();
        }
    }
    if let Some(half) = half
        && let Some(now) = proof.settled(half).await.filter(|now| *now > half + LEFT)
    {
        let text = format!("{} MiB more after the last round than after half of them", (now - half) >> 20);
        proof.ledger.fault(&Fault::new(Promise::Resident, text));
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
    tick: Duration,
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
            let (seats, before) = (self.terms.host.free_seats(), self.watch.begin());
            let (outcome, beside) = tokio::join!(shot.fire(&self.terms.host), self.neighbours.answer(attempt + 7));
            let grown = self.watch.most().saturating_sub(before);
            let mut faults = judge(&shot.case, &shot.figures, &outcome);
            let mut fault = |promise, text: String| faults.push(Fault::new(promise, text));
            if let Err(text) = beside {
                fault(Promise::Neighbours, text);
            }
            if !self.seats_are_back(seats).await {
                fault(Promise::Seats, format!("{} of {seats} seats are free", self.terms.host.free_seats()));
            }
            if let Err(text) = self.neighbours.scan().await {
                fault(Promise::Fresh, text);
            }
            let has = match outcome.end {
                Ended::GivenUp => shot.figures.get("memory_bytes"),
                _ => outcome.usage.peak_memory,
            };
            let over = grown.saturating_sub(has);
            if over >= OVER {
                fault(Promise::Resident, format!("the process grew by {} MiB more than the guest", over >> 20));
            }
            if let Some(now) = self.settled(before).await.filter(|now| *now > before + LEFT) {
                fault(Promise::Resident, format!("{} MiB were not given back", (now - before) >> 20));
            }
            if attempt < ATTEMPTS && !faults.is_empty() && faults.iter().all(Fault::may_be_chance) {
                self.ledger.repeats += 1;
                continue;
            }
            self.ledger.over = self.ledger.over.max(over);
            self.ledger.benign += 2;
            self.ledger.attack(shot, &outcome, &faults);
            return;
        }
    }

    /// All guests at once, as far as there are seats, beside others' calls: one call in twenty is hostile.
    async fn mixed(&mut self, shots: &[Arc<Shot>]) {
        for attempt in 1..=ATTEMPTS {
            let last = attempt == ATTEMPTS || self.ledger.started.elapsed() > PATIENCE * self.rounds;
            let (solo, wrong) = benign(&self.neighbours, 200, Arc::new(AtomicBool::new(true))).await;
            let (seats, before) = (self.terms.host.free_seats(), self.watch.begin());
            let done = Arc::new(AtomicBool::new(false));
            let least = shots.len() as u64 * BENIGN;
            let (neighbours, stop) = (self.neighbours.clone(), Arc::clone(&done));
            let others = tokio::spawn(async move { benign(&neighbours, least, stop).await });
            let width = seats.saturating_sub(SPARE).clamp(1, WIDTH) as usize;
            let fired: Vec<_> = shots.iter().map(|shot| fire(Arc::clone(shot), self.terms.host.clone())).collect();
            let outcomes: Vec<_> = stream::iter(fired).buffer_unordered(width).collect().await;
            done.store(true, Ordering::Relaxed);
            let (beside, also_wrong) = others.await.unwrap_or_else(|e| (Vec::new(), vec![e.to_string()]));
            let grown = self.watch.most().saturating_sub(before);

            let mut faults: Vec<Fault> =
                wrong.into_iter().chain(also_wrong).map(|text| Fault::new(Promise::Neighbours, text)).collect();
            let calls = (solo.len() + beside.len()) as u64;
            let (solo, beside) = (p99(solo), p99(beside));
            let (mut over, mut chance) = (grown, false);
            let mut judged = Vec::new();
            for (shot, outcome) in outcomes {
                over = over.saturating_sub(outcome.usage.peak_memory);
                let found = judge(&shot.case, &shot.figures, &outcome);
                chance |= !found.is_empty() && found.iter().all(Fault::may_be_chance);
                judged.push((shot, outcome, found));
            }
            if beside > solo * 3 + self.tick * 3 {
                chance = true;
                let text = format!("their p99 was {beside:.1?} beside hostile guests, and {solo:.1?} alone");
                faults.push(Fault::new(Promise::Neighbours, text));
            }
            if over >= OVER {
                chance = true;
                faults.push(Fault::new(Promise::Resident, format!("the process grew by {} MiB more", over >> 20)));
            }
            if chance && !last {
                self.ledger.repeats += 1;
                continue;
            }
            if !self.seats_are_back(seats).await {
                let text = format!("{} of {seats} seats are free", self.terms.host.free_seats());
                faults.push(Fault::new(Promise::Seats, text));
            }
            if let Err(text) = self.neighbours.scan().await {
                faults.push(Fault::new(Promise::Fresh, text));
            }
            judged.iter().for_each(|(shot, outcome, faults)| self.ledger.attack(shot, outcome, faults));
            faults.iter().for_each(|fault| self.ledger.fault(fault));
            self.ledger.over = self.ledger.over.max(over);
            self.ledger.benign += calls;
            self.ledger.p99(solo, beside);
            return;
        }
    }

    /// Whether all seats that were free are free again, soon.
    async fn seats_are_back(&self, seats: u32) -> bool {
        soon(|| self.terms.host.free_seats() >= seats).await
    }

    /// The memory of the process, when it is back to what it was, or has not come back to that.
    async fn settled(&self, before: u64) -> Option<u64> {
        soon(|| resident().is_none_or(|now| now <= before + LEFT)).await;
        resident()
    }

    /// Who compiles.
    #[cfg(feature = "compiler")]
    fn compiling(&mut self) {
        if self.terms.host.compile_worker().is_none() {
            let text =
                "strangers' components are compiled in this process; begin `main` with `isopod::compile_worker()`";
            self.ledger.fault(&Fault::new(Promise::Compiling, text));
        }
    }

    #[cfg(not(feature = "compiler"))]
    fn compiling(&mut self) {}

    /// As many calls at once as there are seats: none is lost, and no slot.
    async fn house(&mut self) {
        let seats = self.terms.host.free_seats();
        match super::attack::fill(&self.terms.host, seats).await {
            Ok(()) => self.ledger.house(seats),
            Err(text) => self.ledger.fault(&Fault::new(Promise::Seats, text)),
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

impl Fault {
    /// Whether a machine that has much else to do can be the reason.
    fn may_be_chance(&self) -> bool {
        matches!(self.promise, Promise::Punctual | Promise::Resident)
    }
}
