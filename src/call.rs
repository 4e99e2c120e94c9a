//! One call from start to end: admit, lease, arm, invoke, settle. Every way to call a function comes by [`run`].
//!
//! A call runs on its caller's task; dropping the future cancels it. Time is read twice for a call that never waits.
//! Whatever ends the call, it ends here: the store is dropped, the seat given back, the receipt told once.

use crate::capability::cli::Invocation;
use crate::capability::functions::Within;
use crate::clock::{Clock, Nanos};
use crate::engine::Pre;
use crate::engine::pool::{Lease, Origin, Pool};
use crate::engine::state::{Share, State, TooEarly};
use crate::engine::stock::Claim;
use crate::engine::ticker::{Alarm, Ticker, Until};
use crate::engine::trap::{self, Fault};
use crate::error::{Error, ErrorKind, Result};
use crate::foreign::guarded;
use crate::function::Inner;
use crate::limits::Resolved;
use crate::refiller;
use crate::usage::{Output, Receipt, Reply, Usage};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::SemaphorePermit;

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
    fn tenant(&self, tenant: impl Into<Arc<str>>) -> Self {
        self.with_options(Options { tenant: Some(tenant.into()), ..self.options().clone() })
    }

    /// A handle whose calls end after `deadline`, where that is sooner than the function's own deadline.
    fn deadline(&self, deadline: Duration) -> Self {
        self.with_options(Options { deadline: Some(deadline), ..self.options().clone() })
    }
}

/// The whole life of a call on one screen. `work` is what is done with the fresh instance.
pub(crate) async fn run<R>(
    function: &Inner,
    options: &Options,
    invocation: Option<Box<Invocation>>,
    work: impl AsyncFnOnce(&mut Lease) -> Result<R, Fault>,
) -> Result<Reply<R>> {
    let host = &function.host;
    let started = host.clock.now();
    let blueprint = &function.pool.blueprint;
    let limits = &blueprint.limits;
    let within = options.within.as_ref();
    let deadline = started.plus(time_limit(limits, options));
    let deadline = within.map_or(deadline, |within| within.deadline.min(deadline));
    let watch = Watch::new(started);
    let mut call = Ending { function, options, watch: &watch, lease: None, seat: None, told: false };
    match admit(function, &watch, deadline, within.is_some()).await {
        Ok(seat) => call.seat = Some(seat),
        Err(error) => return call.settle(End::Refused(error)),
    }
    let share = Share {
        tenant: options.tenant.clone(),
        deadline,
        tree: within.map(|within| within.tree.clone()),
        fuel: within.and_then(|within| within.fuel),
        invocation,
    };
    let lease = call.lease.insert(function.pool.lease(share));
    if let Some(claim) = Claim::if_low(&function.pool) {
        refiller::fill_later(claim, host);
    }
    let end = {
        let work = pin!(Some(async move {
            if let Some(make) = &blueprint.imports {
                let imports = make(lease.store.data_mut());
                lease.store.data_mut().imports = Some(imports);
            }
            if !lease.is_started() {
                lease.start(&blueprint.pre).await?;
            }
            work(lease).await
        }));
        let (clock, busy, alarm) = (&host.clock, limits.busy, host.ticker.alarm());
        Bounded { work, watch: &watch, clock, deadline, busy, alarm }.await
    };
    call.settle(end)
}

/// Starts an instance that no call has asked for yet, under a call's limits, and finds its exports; for `pre` see
/// [`Blueprint`](crate::engine::pool::Blueprint). `None` if there is no slot to spare.
pub(crate) async fn start_early(pool: &Pool, pre: &Pre, clock: &Clock, ticker: &Ticker) -> Result<Option<Lease>> {
    let limits = &pool.blueprint.limits;
    let started = clock.now();
    let deadline = started.plus(limits.deadline);
    let Some(mut lease) = pool.early(deadline) else { return Ok(None) };
    let watch = Watch::new(started);
    let end = {
        let work = pin!(Some(async {
            lease.start(pre).await?;
            Ok(lease.prepare(&pool.blueprint)?)
        }));
        Bounded { work, watch: &watch, clock, deadline, busy: limits.busy, alarm: ticker.alarm() }.await
    };
    let state = lease.store.data();
    outcome(end, Some(state), limits, &watch, None, None)?;
    if state.was_too_early() {
        return Err(trap::explain(&TooEarly::somewhere().into(), state, limits));
    }
    Ok(Some(lease))
}

/// How long a call may take.
pub(crate) fn time_limit(limits: &Resolved, options: &Options) -> Duration {
    options.deadline.map_or(limits.deadline, |narrower| narrower.min(limits.deadline))
}

/// A place among the calls that run at once.
struct Seat<'a> {
    _function: SemaphorePermit<'a>,
    _host: SemaphorePermit<'a>,
}

/// Takes a seat, at once or after a bounded wait in a bounded line.
/// A call that a guest makes never waits: if all seats were held by calls that wait for theirs, none would ever be free.
async fn admit<'a>(function: &'a Inner, watch: &Watch, deadline: Nanos, nested: bool) -> Result<Seat<'a>> {
    let host = &*function.host;
    // A permit that is free has nobody waiting for it, so this overtakes no one.
    let scarce = match function.seats.try_acquire() {
        Ok(_function) => match host.seats.try_acquire_many(function.width) {
            Ok(_host) => return Ok(Seat { _function, _host }),
            Err(_) => format!("all {} seats of the host are taken (`HostBuilder::seats`)", host.engines.sizes.seats),
        },
        Err(_) => {
            let seats = function.pool.blueprint.limits.concurrency;
            format!("all {seats} seats of this function are taken (`Limits::concurrency`)")
        }
    };
    let overloaded = |what: String| {
        let text = format!("{scarce}, and {what}; try again later, or allow more at once");
        Err(Error::new(ErrorKind::Overloaded, text).retry_in(function.pace.hint()))
    };
    if nested {
        return overloaded("a call by another function does not wait".to_owned());
    }
    let limits = &function.pool.blueprint.limits;
    let Some(_place) = function.line.join(limits.queue) else {
        return overloaded(match limits.queue {
            0 => "no call may wait (`Limits::queue`)".to_owned(),
            queue => format!("{queue} calls wait already (`Limits::queue`)"),
        });
    };
    let last = watch.started.plus(limits.queue_wait).min(deadline);
    let acquire = pin!(async {
        let closed = |_| Error::new(ErrorKind::Internal, "the host's seats are gone; please report this");
        let _function = function.seats.acquire().await.map_err(closed)?;
        let _host = host.seats.acquire_many(function.width).await.map_err(closed)?;
        Ok(Seat { _function, _host })
    });
    let seat = Until { alarm: host.ticker.alarm(), instant: last, future: acquire }.await;
    watch.resume(host.clock.now());
    seat.unwrap_or_else(|| overloaded(format!("none was free for {:?}", last.since(watch.started))))
}

/// The clock of one call.
struct Watch {
    started: Nanos,
    /// When the guest last got the thread, or gave it back.
    last: AtomicU64,
    busy: AtomicU64,
}

// Relaxed everywhere: one task writes, and a task that moves to another thread is handed over with a barrier.
impl Watch {
    fn new(started: Nanos) -> Watch {
        Watch { started, last: AtomicU64::new(started.to_raw()), busy: AtomicU64::new(0) }
    }

    fn resume(&self, now: Nanos) {
        self.last.store(now.to_raw(), Ordering::Relaxed);
    }

    /// Counts the time since the last mark as busy; returns all busy time so far.
    fn pause(&self, now: Nanos) -> Duration {
        let spent = now.since(self.last()).as_nanos() as u64;
        let busy = self.busy.load(Ordering::Relaxed) + spent;
        self.busy.store(busy, Ordering::Relaxed);
        self.last.store(now.to_raw(), Ordering::Relaxed);
        Duration::from_nanos(busy)
    }

    fn last(&self) -> Nanos {
        Nanos::from_raw(self.last.load(Ordering::Relaxed))
    }

    fn busy(&self) -> Duration {
        Duration::from_nanos(self.busy.load(Ordering::Relaxed))
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
}

impl<R, W: Future<Output = Result<R, Fault>>> Future for Bounded<'_, W> {
    type Output = End<R>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End<R>> {
        let this = self.get_mut();
        if this.alarm.is_set() {
            this.watch.resume(this.clock.now());
        }
        let Some(work) = this.work.as_mut().as_pin_mut() else { return Poll::Pending };
        // Host functions are foreign code; after a panic the work is only dropped, never polled again.
        this.alarm.stay_awake();
        let polled = catch_unwind(AssertUnwindSafe(|| work.poll(cx)));
        let now = this.clock.now();
        let busy = this.watch.pause(now);
        match polled {
            Err(payload) => Poll::Ready(End::Panicked(payload)),
            Ok(_) if now >= this.deadline => Poll::Ready(End::Deadline),
            Ok(Poll::Ready(result)) => Poll::Ready(End::Done(result)),
            Ok(Poll::Pending) if busy >= this.busy => Poll::Ready(End::Busy),
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
        guarded("the destructor of a host function that was given up", || self.work.set(None));
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
        (End::Refused(error) | End::Done(Err(Fault::Own(error))), _) => Err(error),
        // Whatever the guest did after it was to stop does not count.
        (End::Done(Ok(_)), Some(State { stop: Some(stop), .. })) => Err(trap::stopped(*stop, limits)),
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
        (End::Busy, _) => Err(Error::new(
            ErrorKind::TimedOut,
            format!(
                "it computed for more than its {:?} of busy time; raise `Limits::busy` or give it less to do",
                limits.busy
            ),
        )),
        (End::Panicked(payload), _) => Err(Error::new(
            ErrorKind::HostPanic,
            format!("a host function panicked: {}; mend that function", panic_text(payload)),
        )),
    }
}

/// A call that has not ended yet. Dropped before [`settle`](Ending::settle), it was cancelled.
struct Ending<'a> {
    function: &'a Inner,
    options: &'a Options,
    watch: &'a Watch,
    /// Before the seat: the slot is free again before the next call may take it.
    lease: Option<Lease>,
    seat: Option<Seat<'a>>,
    told: bool,
}

impl Ending<'_> {
    fn settle<R>(mut self, end: End<R>) -> Result<Reply<R>> {
        let state = self.lease.as_ref().map(|lease| lease.store.data());
        let limits = &self.function.pool.blueprint.limits;
        let caller = self.options.within.as_ref().map(|within| within.deadline.since(self.watch.started));
        let result = outcome(end, state, limits, self.watch, self.options.deadline, caller);
        let (usage, output) = self.receipt(result.as_ref().err().map(Error::kind));
        let denials = self.lease.as_mut().map(|lease| lease.store.data_mut().take_denials());
        let denials = denials.unwrap_or_default();
        if let Some(lease) = self.lease.take() {
            self.function.pool.retire(lease, result.is_ok(), self.watch.last());
        }
        match result {
            Ok(value) => Ok(Reply { value, usage, denials, output }),
            Err(error) => Err(error.of(&self.function.name).receipt(usage, denials, output)),
        }
    }

    /// Draws up the receipt and tells whoever wants to know. Once per call.
    fn receipt(&mut self, error: Option<ErrorKind>) -> (Usage, Output) {
        self.told = true;
        let mut usage =
            Usage { wall: self.watch.last().since(self.watch.started), busy: self.watch.busy(), ..Usage::default() };
        let mut output = Output::default();
        if let Some(lease) = &mut self.lease {
            usage.fuel = lease.fuel_used();
            usage.cold = lease.origin == Origin::Fresh;
            let state = lease.store.data_mut();
            (output, usage.log_bytes, usage.log_dropped) = state.take_output();
            (usage.bytes_in, usage.bytes_out) = state.traffic();
            usage.peak_memory = state.budget.peak;
            usage.host_calls = state.host_calls;
            if error != Some(ErrorKind::Cancelled) {
                self.function.pace.note(usage.wall);
            }
        }
        if let Some(meter) = &self.function.host.meter {
            let tenant = self.options.tenant().unwrap_or("");
            let tree = self.options.within.as_ref().map(|within| &within.tree);
            let depth = tree.map_or(0, |tree| tree.depth);
            let call_id = self.lease.as_mut().map_or(0, |lease| lease.store.data_mut().call_id());
            let root_id = tree.map_or(call_id, |tree| tree.root);
            let receipt = Receipt { function: &self.function.name, tenant, error, usage, call_id, root_id, depth };
            guarded("the meter", || meter.record(&receipt));
        }
        (usage, output)
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if !self.told {
            // Nobody has looked at the clock since the call last waited.
            self.watch.resume(self.function.host.clock.now());
            self.receipt(Some(ErrorKind::Cancelled));
        }
    }
}

/// How long a function's calls take, roughly: for the hint when to try again.
#[derive(Default)]
pub(crate) struct Pace(AtomicU64);

impl Pace {
    /// An exponential mean over about eight calls. Racing updates lose one sample, which does not matter.
    fn note(&self, wall: Duration) {
        let old = self.0.load(Ordering::Relaxed);
        let new = old - old / 8 + wall.as_nanos() as u64 / 8;
        self.0.store(new, Ordering::Relaxed);
    }

    fn hint(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed)).max(Duration::from_millis(1))
    }
}

/// The calls that wait for a seat of one function.
#[derive(Default)]
pub(crate) struct Line(AtomicU64);

impl Line {
    fn join(&self, longest: u32) -> Option<Place<'_>> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let place = Place(self);
        (before < longest.into()).then_some(place)
    }
}

struct Place<'a>(&'a Line);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "with a value that is not text".to_owned(),
    };
    guarded("the destructor of a panic's payload", || drop(payload));
    text
}
