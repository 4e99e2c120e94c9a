//! One call from start to end: admit, lease, arm, invoke, settle. Every way to call a function comes by [`run`].
//!
//! A call runs on its caller's task; dropping the future cancels it. Time is read twice for a call that never waits.
//! Whatever ends the call, it ends here: the store is dropped, the seat given back, the receipt told once.

use crate::admission::{Entrance, Seat, Short, Turn};
use crate::capability::cli::Invocation;
use crate::capability::functions::Within;
use crate::clock::{Clock, Nanos};
use crate::engine::Pre;
use crate::engine::lease::{Lease, Origin};
use crate::engine::overlap::Place;
use crate::engine::pool::Pool;
use crate::engine::state::{Share, State, TooEarly};
use crate::engine::stock::Claim;
use crate::engine::ticker::{Alarm, Ticker, Until};
use crate::engine::trap::{self, Fault};
use crate::engine::yielded;
use crate::error::{Error, ErrorKind, Result};
use crate::foreign::{guarded, panic_text};
use crate::function::Inner;
use crate::limits::Resolved;
use crate::refiller;
use crate::usage::{Aside, Receipt, Reply, Usage};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// What a caller says about one call, or about all calls by one handle.
#[derive(Clone, Debug, Default)]
pub struct Options {
    tenant: Option<Arc<str>>,
    deadline: Option<Duration>,
    /// For a call that a guest makes.
    within: Option<Within>,
}

impl Options {
    /// Those of a call that a guest makes.
    pub(crate) fn nested(tenant: Option<Arc<str>>, within: Within) -> Options {
        Options { tenant, deadline: None, within: Some(within) }
    }

    /// Whom the call is for.
    pub fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }
}

/// Options of a handle. A trait, so that a guest's export of the same name stays callable on a typed handle.
pub trait CallOptions: Sized {
    /// The options as they are.
    fn options(&self) -> &Options;

    /// The same handle with other options.
    fn with_options(&self, options: Options) -> Self;

    /// A handle whose calls are for that tenant. It stands in the receipt and in the [`Context`](crate::Context) of host
    /// functions, and outgoing connections and buckets are kept for each tenant apart.
    ///
    /// Tenants share a host by the busy time of their calls, not by their number: of those that wait for a seat, the
    /// tenant that had least is next; and a guest that has computed for a tick of the host waits for its tenant's turn, so
    /// that one core of several stays free for all others. A tenant that floods the host with calls that compute raises
    /// another's p99 by at most three ticks plus twice what that was before. Several that flood share evenly.
    ///
    /// That is promised between tenants, where the runtime has a worker for each core. Calls without a tenant share as if
    /// they were one tenant's, but each starts at once as long as all of them use no more than a core: name a tenant for what
    /// strangers can cause. It does not hold against what isopod does not run: other tasks of the
    /// runtime, host functions that block their thread, other load of the machine.
    fn tenant(&self, tenant: impl Into<Arc<str>>) -> Self {
        self.with_options(Options { tenant: Some(tenant.into()), ..self.options().clone() })
    }

    /// A handle whose calls end after `deadline`, where that is sooner than the function's own deadline.
    fn deadline(&self, deadline: Duration) -> Self {
        self.with_options(Options { deadline: Some(deadline), ..self.options().clone() })
    }
}

/// A call with an instance to itself. `work` is what is done with it.
#[inline]
pub(crate) fn run<R>(
    function: &Inner,
    options: &Options,
    invocation: Option<Box<Invocation>>,
    work: impl AsyncFnOnce(&mut Lease) -> Result<R, Fault>,
) -> impl Future<Output = Result<Reply<R>>> {
    run_in(function, options, invocation, work)
}

/// A call in an instance that it may share with others; see [`is_shared`].
pub(crate) fn run_among<R>(
    function: &Inner,
    options: &Options,
    work: impl AsyncFnOnce(&mut Place) -> Result<R, Fault>,
) -> Pin<Box<impl Future<Output = Result<Reply<R>>>>> {
    // In a box, so that the futures of all other calls are no larger.
    Box::pin(run_in(function, options, None, work))
}

/// Whether calls of that function, with those options, share instances. One that a guest makes does not: if it were in its
/// caller's own instance, each would wait for the other.
#[inline]
pub(crate) fn is_shared(function: &Inner, options: &Options) -> bool {
    function.pool.overlapping.is_some() && options.within.is_none()
}

/// The whole life of a call on one screen.
async fn run_in<L: Held, R>(
    function: &Inner,
    options: &Options,
    invocation: Option<Box<Invocation>>,
    work: impl AsyncFnOnce(&mut L) -> Result<R, Fault>,
) -> Result<Reply<R>> {
    let host = &function.host;
    let started = host.clock.now();
    let blueprint = &function.pool.blueprint;
    let limits = &blueprint.limits;
    let within = options.within.as_ref();
    let deadline = started.plus(time_limit(limits, options));
    let deadline = within.map_or(deadline, |within| within.deadline.min(deadline));
    let watch = Watch::new(started);
    let mut call =
        Ending { function, options, watch: &watch, lease: None, seat: None, usage: Usage::default(), told: false };
    match admit(function, options, &watch, deadline).await {
        Ok(seat) => call.seat = Some(seat),
        Err(error) => return call.settle(End::Refused(error)),
    }
    // What its guests compute, a guest computes.
    let mut turn =
        within.is_none().then(|| host.admission.turn(options.tenant.as_ref(), function.pace.holds(), watch.last()));
    if let Some(turn) = turn.as_mut().filter(|turn| turn.is_heavy()) {
        let begun =
            std::future::poll_fn(|cx| if turn.begin(host.clock.now(), cx) { Poll::Ready(()) } else { Poll::Pending });
        let begun = Until { alarm: host.ticker.alarm(), instant: deadline, future: begun }.await;
        watch.resume(host.clock.now());
        if begun.is_none() {
            return call.settle(End::Deadline);
        }
    }
    let share = Share { tenant: options.tenant.as_ref(), deadline, within, invocation };
    let lease = call.lease.insert(L::take(&function.pool, share));
    if blueprint.starts
        && let Some(lease) = lease.alone()
    {
        let ahead = std::mem::take(&mut lease.life_mut().ahead);
        watch.charge(ahead);
        turn.iter_mut().for_each(|turn| turn.owe(ahead));
    }
    if let Some(claim) = Claim::if_low(&function.pool) {
        refiller::fill_later(claim, host);
    }
    let end = {
        let work = pin!(Some(async move {
            if let Some(lease) = lease.alone() {
                if let Some(make) = &blueprint.imports {
                    let imports = make(lease.store.data_mut());
                    lease.store.data_mut().imports = Some(imports);
                }
                if !lease.is_started() && !function.entry.starts_itself() {
                    lease.start(&blueprint.pre).await?;
                }
            }
            work(lease).await
        }));
        let (clock, busy, alarm) = (&host.clock, L::busy(limits), host.ticker.alarm());
        let counts = limits.fuel.is_some();
        Bounded { work, watch: &watch, clock, deadline, busy, alarm, turn, counts, gave_way: false, done: false }.await
    };
    call.settle(end)
}

/// Starts an instance that no call has asked for yet, under a call's limits, and finds its exports; for `pre` see
/// [`Blueprint`](crate::engine::lease::Blueprint). `None` if there is no slot to spare.
pub(crate) async fn start_early(pool: &Pool, pre: &Pre, clock: &Clock, ticker: &Ticker) -> Result<Option<Lease>> {
    let blueprint = &pool.blueprint;
    let Some(mut lease) = pool.early(clock.now().plus(blueprint.limits.deadline)) else { return Ok(None) };
    let start = async |lease: &mut Lease| {
        lease.start(pre).await?;
        Ok(lease.prepare(blueprint)?)
    };
    let ((), busy) = run_early(&mut lease, &blueprint.limits, clock, ticker, blueprint.starts, start).await?;
    if blueprint.starts {
        lease.life_mut().ahead = busy;
    }
    Ok(Some(lease))
}

/// What no call has asked for, under a call's limits; `computes` says that code of the guest's runs. Gives also for how many
/// nanoseconds it was busy.
pub(crate) async fn run_early<R>(
    lease: &mut Lease,
    limits: &Resolved,
    clock: &Clock,
    ticker: &Ticker,
    computes: bool,
    work: impl AsyncFnOnce(&mut Lease) -> Result<R, Fault>,
) -> Result<(R, u64)> {
    let started = clock.now();
    let (deadline, watch) = (started.plus(limits.deadline), Watch::new(started));
    let end = {
        let work = pin!(Some(work(lease)));
        let (busy, alarm, counts) = (limits.busy, ticker.alarm(), limits.fuel.is_some());
        // Where nothing of the guest's own runs, this is no longer than the making of an instance.
        let turn = computes.then(|| ticker.admission().turn(None, false, started));
        Bounded { work, watch: &watch, clock, deadline, busy, alarm, turn, counts, gave_way: false, done: false }.await
    };
    let state = lease.store.data();
    let value = outcome(end, Some(state), limits, &watch, None, None)?;
    if state.was_too_early() {
        return Err(trap::explain(&TooEarly::somewhere().into(), state, limits));
    }
    Ok((value, watch.busy_nanos()))
}

/// How long a call may take.
pub(crate) fn time_limit(limits: &Resolved, options: &Options) -> Duration {
    options.deadline.map_or(limits.deadline, |narrower| narrower.min(limits.deadline))
}

/// Takes a seat, at once or after a bounded wait in a bounded line.
/// A call that a guest makes never waits: if all seats were held by calls that wait for theirs, none would ever be free.
async fn admit<'a>(function: &'a Inner, options: &Options, watch: &Watch, deadline: Nanos) -> Result<Seat<'a>> {
    let host = &*function.host;
    let limits = &function.pool.blueprint.limits;
    let nested = options.within.is_some();
    let overloaded = |short: Short, what: String| {
        let scarce = match short {
            Short::Function => {
                format!("all {} seats of this function are taken (`Limits::concurrency`)", limits.concurrency)
            }
            Short::Tenant => {
                format!("all {} seats of this tenant are taken (`HostBuilder::tenant_seats`)", host.tenant_seats)
            }
            Short::Host => {
                format!("all {} seats of the host are taken (`HostBuilder::seats`)", host.engines.sizes.seats)
            }
        };
        let text = format!("{scarce}, and {what}; try again later, or allow more at once");
        Err(Error::new(ErrorKind::Overloaded, text).retry_in(function.pace.hint()))
    };
    let (waiting, short) = match function.line.enter(options.tenant.as_ref(), !nested, watch.started) {
        Entrance::Seated(seat) => return Ok(seat),
        Entrance::Waits(waiting, short) => (waiting, short),
        Entrance::Refused(short) if nested => {
            return overloaded(short, "a call by another function does not wait".to_owned());
        }
        Entrance::Refused(short) => {
            return overloaded(
                short,
                match limits.queue {
                    0 => "no call may wait (`Limits::queue`)".to_owned(),
                    queue => format!("{queue} calls wait already (`Limits::queue`)"),
                },
            );
        }
    };
    let last = watch.started.plus(limits.queue_wait).min(deadline);
    let seat = Until { alarm: host.ticker.alarm(), instant: last, future: waiting }.await;
    watch.resume(host.clock.now());
    match seat {
        Some(Some(seat)) => Ok(seat),
        Some(None) => {
            overloaded(short, format!("of {} calls that wait its tenant has most (`Limits::queue`)", limits.queue))
        }
        None => overloaded(short, format!("none was free for {:?}", last.since(watch.started))),
    }
}

/// The clock of one call.
struct Watch {
    started: Nanos,
    /// When the guest last got the thread, or gave it back.
    last: AtomicU64,
    busy: AtomicU64,
    /// The longest that it had the thread without giving it back.
    longest: AtomicU64,
}

// Relaxed everywhere: one task writes, and a task that moves to another thread is handed over with a barrier.
impl Watch {
    fn new(started: Nanos) -> Watch {
        Watch { started, last: AtomicU64::new(started.to_raw()), busy: AtomicU64::new(0), longest: AtomicU64::new(0) }
    }

    fn resume(&self, now: Nanos) {
        self.last.store(now.to_raw(), Ordering::Relaxed);
    }

    /// Counts the time since the last mark as busy; returns how many nanoseconds that was.
    fn pause(&self, now: Nanos) -> u64 {
        let spent = now.to_raw().saturating_sub(self.last().to_raw());
        self.busy.store(self.busy_nanos() + spent, Ordering::Relaxed);
        self.last.store(now.to_raw(), Ordering::Relaxed);
        if spent > self.longest.load(Ordering::Relaxed) {
            self.longest.store(spent, Ordering::Relaxed);
        }
        spent
    }

    /// Counts what was busy for it before it began.
    fn charge(&self, nanos: u64) {
        self.busy.store(self.busy_nanos() + nanos, Ordering::Relaxed);
    }

    fn last(&self) -> Nanos {
        Nanos::from_raw(self.last.load(Ordering::Relaxed))
    }

    fn busy(&self) -> Duration {
        Duration::from_nanos(self.busy_nanos())
    }

    fn busy_nanos(&self) -> u64 {
        self.busy.load(Ordering::Relaxed)
    }
}

/// How a call's work ended.
enum End<R> {
    /// It got no seat.
    Refused(Error),
    Done(Result<R, Fault>),
    Deadline,
    Busy,
    Panicked(Box<dyn Any + Send>),
}

/// Polls the work, keeps the time, and stops it when its time is up.
struct Bounded<'a, W> {
    /// There until it is dropped.
    work: Pin<&'a mut Option<W>>,
    watch: &'a Watch,
    clock: &'a Clock,
    deadline: Nanos,
    busy: Duration,
    alarm: Alarm<'a>,
    /// Unless it is a guest's call, or nobody's.
    turn: Option<Turn<'a>>,
    /// Whether it counts fuel: then it gave way as long as nothing else is heard.
    counts: bool,
    gave_way: bool,
    /// The work has come to its end, and holds nothing any more.
    done: bool,
}

impl<R, W: Future<Output = Result<R, Fault>>> Future for Bounded<'_, W> {
    type Output = End<R>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End<R>> {
        let this = self.get_mut();
        if this.alarm.is_set() {
            this.watch.resume(this.clock.now());
        }
        let started = this.watch.last();
        if !this.turn.as_mut().is_none_or(|turn| turn.begin(started, cx)) {
            if started >= this.deadline {
                return Poll::Ready(End::Deadline);
            }
            this.alarm.set(this.deadline, cx);
            return Poll::Pending;
        }
        let Some(work) = this.work.as_mut().as_pin_mut() else { return Poll::Pending };
        yielded::set(this.counts && this.gave_way);
        // Host functions are foreign code; after a panic the work is only dropped, never polled again.
        this.alarm.stay_awake();
        let polled = catch_unwind(AssertUnwindSafe(|| work.poll(cx)));
        let now = this.clock.now();
        let busy = this.watch.pause(now);
        if !matches!(polled, Ok(Poll::Pending)) {
            yielded::set(false);
        }
        this.gave_way = yielded::get();
        if let Some(turn) = &mut this.turn {
            turn.end(busy, this.gave_way, now, cx);
        }
        match polled {
            Err(payload) => Poll::Ready(End::Panicked(payload)),
            Ok(_) if now >= this.deadline => Poll::Ready(End::Deadline),
            Ok(Poll::Ready(result)) => {
                this.done = true;
                Poll::Ready(End::Done(result))
            }
            Ok(Poll::Pending) if this.watch.busy() >= this.busy => Poll::Ready(End::Busy),
            Ok(Poll::Pending) => {
                this.alarm.set(this.deadline, cx);
                Poll::Pending
            }
        }
    }
}

impl<W> Drop for Bounded<'_, W> {
    /// What a host function was in the middle of is dropped here, and may panic as well.
    fn drop(&mut self) {
        if !self.done {
            guarded("the destructor of a host function that was given up", || self.work.set(None));
        }
    }
}

/// What the end of the work means. A call's deadline may be that of its handle, or of the call it is made in.
fn outcome<R>(
    end: End<R>,
    state: Option<&State>,
    limits: &Resolved,
    watch: &Watch,
    handle: Option<Duration>,
    caller: Option<Duration>,
) -> Result<R> {
    match (end, state) {
        // Whatever the guest did after it was to stop does not count.
        (End::Done(Ok(_) | Err(Fault::Own(_))), Some(State { stop: Some(stop), .. })) => {
            Err(trap::stopped(*stop, limits))
        }
        (End::Refused(error) | End::Done(Err(Fault::Own(error))), _) => Err(error),
        (End::Done(Ok(value)), _) => Ok(value),
        (End::Done(Err(Fault::Wasm(error))), Some(state)) => Err(trap::explain(&error, state, limits)),
        (End::Done(Err(Fault::Wasm(_))), None) => {
            Err(Error::new(ErrorKind::Internal, "it ended without a reason; please report this"))
        }
        (End::Deadline, _) => {
            let (deadline, knob) = match handle.or(caller) {
                Some(narrower) if narrower < limits.deadline && caller.is_some() => (narrower, "the first function's"),
                Some(narrower) if narrower < limits.deadline => (narrower, "the handle's `deadline`"),
                _ => (limits.deadline, "`Limits::deadline`"),
            };
            let busy = watch.busy();
            let text = format!(
                "it did not end within its deadline of {deadline:?} (busy {busy:.1?}); raise {knob} or give it less to do"
            );
            Err(Error::new(ErrorKind::TimedOut, text))
        }
        (End::Busy, _) => Err(trap::too_busy(limits)),
        (End::Panicked(payload), _) => Err(Error::new(
            ErrorKind::HostPanic,
            format!("a host function panicked: {}; mend that function", panic_text(payload)),
        )),
    }
}

/// What a call runs in: an instance of its own, or its place in one that it shares.
trait Held {
    fn take(pool: &Arc<Pool>, share: Share<'_>) -> Self;
    /// The instance, if it is its own.
    fn alone(&mut self) -> Option<&mut Lease>;
    fn state(&self) -> Option<&State>;
    /// Busy time after which whoever polls the call ends it.
    fn busy(limits: &Resolved) -> Duration;
    /// Nanoseconds that are the call's and nobody has charged it for.
    fn ahead(&self) -> u64;
    /// Fills in what the call used, but for its time; gives what was said meanwhile.
    fn tell(&mut self, usage: &mut Usage) -> Option<Box<Aside>>;
    fn call_id(&mut self) -> u64;
    fn retire(self, pool: &Pool, well: bool, now: Nanos);
}

impl Held for Lease {
    #[inline]
    fn take(pool: &Arc<Pool>, share: Share<'_>) -> Lease {
        pool.lease(share)
    }

    #[inline]
    fn alone(&mut self) -> Option<&mut Lease> {
        Some(self)
    }

    #[inline]
    fn state(&self) -> Option<&State> {
        Some(self.store.data())
    }

    #[inline]
    fn busy(limits: &Resolved) -> Duration {
        limits.busy
    }

    #[inline]
    fn ahead(&self) -> u64 {
        0
    }

    #[inline]
    fn tell(&mut self, usage: &mut Usage) -> Option<Box<Aside>> {
        usage.fuel = self.fuel_used();
        usage.cold = self.life().origin == Origin::Fresh;
        let state = self.store.data_mut();
        let aside;
        (aside, usage.log_bytes, usage.log_dropped) = state.take_aside();
        (usage.bytes_in, usage.bytes_out) = state.traffic();
        usage.peak_memory = state.budget.peak;
        usage.host_calls = state.host_calls;
        aside
    }

    fn call_id(&mut self) -> u64 {
        self.store.data_mut().call_id()
    }

    #[inline]
    fn retire(self, pool: &Pool, well: bool, now: Nanos) {
        pool.retire(self, well, now);
    }
}

impl Held for Place {
    fn take(pool: &Arc<Pool>, share: Share<'_>) -> Place {
        Place::new(pool, &share)
    }

    fn alone(&mut self) -> Option<&mut Lease> {
        None
    }

    fn state(&self) -> Option<&State> {
        None
    }

    /// Its task computes for all calls in the instance, which looks itself for how long each was busy.
    fn busy(_: &Resolved) -> Duration {
        Duration::MAX
    }

    fn ahead(&self) -> u64 {
        Place::ahead(self)
    }

    fn tell(&mut self, usage: &mut Usage) -> Option<Box<Aside>> {
        Place::tell(self, usage)
    }

    fn call_id(&mut self) -> u64 {
        Place::call_id(self)
    }

    fn retire(self, _: &Pool, well: bool, _: Nanos) {
        Place::retire(self, well);
    }
}

/// A call that has not ended yet. Dropped before [`settle`](Ending::settle), it was cancelled.
struct Ending<'a, L: Held> {
    function: &'a Inner,
    options: &'a Options,
    watch: &'a Watch,
    /// Before the seat: the slot is free again before the next call may take it.
    lease: Option<L>,
    seat: Option<Seat<'a>>,
    usage: Usage,
    told: bool,
}

impl<L: Held> Ending<'_, L> {
    fn settle<R>(&mut self, end: End<R>) -> Result<Reply<R>> {
        let state = self.lease.as_ref().and_then(Held::state);
        let limits = &self.function.pool.blueprint.limits;
        let caller = self.options.within.as_ref().map(|within| within.deadline.since(self.watch.started));
        let result = outcome(end, state, limits, self.watch, self.options.deadline, caller);
        let aside = self.receipt(result.as_ref().err().map(Error::kind));
        if let Some(lease) = self.lease.take() {
            lease.retire(&self.function.pool, result.is_ok(), self.watch.last());
        }
        let usage = self.usage;
        match result {
            Ok(value) => Ok(Reply { value, usage, aside }),
            Err(error) => Err(error.of(&self.function.name).receipt(usage, aside)),
        }
    }

    /// Draws up the receipt and tells whoever wants to know. Once per call.
    fn receipt(&mut self, error: Option<ErrorKind>) -> Option<Box<Aside>> {
        self.told = true;
        if let Some(lease) = &self.lease {
            self.watch.charge(lease.ahead());
        }
        if let Some(seat) = &mut self.seat {
            seat.charge(self.watch.busy_nanos(), self.watch.last());
        }
        let usage = &mut self.usage;
        (usage.wall, usage.busy) = (self.watch.last().since(self.watch.started), self.watch.busy());
        let mut aside = None;
        if let Some(lease) = &mut self.lease {
            aside = lease.tell(usage);
            self.function.pace.hold(self.watch.longest.load(Ordering::Relaxed), self.function.host.ticker.tick());
            if error != Some(ErrorKind::Cancelled) {
                self.function.pace.note(usage.wall);
            }
        }
        if let Some(meter) = &self.function.host.meter {
            let tenant = self.options.tenant().unwrap_or("");
            let tree = self.options.within.as_ref().map(|within| &within.tree);
            let depth = tree.map_or(0, |tree| tree.depth);
            let call_id = self.lease.as_mut().map_or(0, Held::call_id);
            let root_id = tree.map_or(call_id, |tree| tree.root);
            let usage = self.usage;
            let receipt = Receipt { function: &self.function.name, tenant, error, usage, call_id, root_id, depth };
            guarded("the meter", || meter.record(&receipt));
        }
        aside
    }
}

impl<L: Held> Drop for Ending<'_, L> {
    fn drop(&mut self) {
        if !self.told {
            // Nobody has looked at the clock since the call last waited.
            self.watch.resume(self.function.host.clock.now());
            self.receipt(Some(ErrorKind::Cancelled));
        }
    }
}

/// How a function's calls behave, roughly.
#[derive(Default)]
pub(crate) struct Pace {
    /// Nanoseconds that they take: for the hint when to try again.
    mean: AtomicU64,
    /// Calls until it is forgotten that one held its thread.
    holds: AtomicU32,
}

/// Ticks after which a guest that was to give way at the first holds its thread, by one instruction that takes so long.
const HOLDS: u32 = 4;
/// Calls after which that is forgotten, so that a function cannot hide it behind a quick one.
const REMEMBERED: u32 = 64;

impl Pace {
    /// An exponential mean over about eight calls. Racing updates lose one sample, which does not matter.
    fn note(&self, wall: Duration) {
        let old = self.mean.load(Ordering::Relaxed);
        let new = old - old / 8 + wall.as_nanos() as u64 / 8;
        self.mean.store(new, Ordering::Relaxed);
    }

    /// A call has ended that had the thread for so many nanoseconds at once.
    fn hold(&self, longest: u64, tick: Duration) {
        let left = self.holds.load(Ordering::Relaxed);
        let now = match u128::from(longest) > (tick * HOLDS).as_nanos() {
            true => REMEMBERED,
            // It was never polled.
            false if longest == 0 => left,
            false => left.saturating_sub(1),
        };
        // Racing updates lose one call, which does not matter.
        if now != left {
            self.holds.store(now, Ordering::Relaxed);
        }
    }

    pub(crate) fn holds(&self) -> bool {
        self.holds.load(Ordering::Relaxed) > 0
    }

    fn hint(&self) -> Duration {
        Duration::from_nanos(self.mean.load(Ordering::Relaxed)).max(Duration::from_millis(1))
    }
}
