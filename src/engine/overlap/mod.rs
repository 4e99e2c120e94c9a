//! Several calls at once in one instance, where the embedder asked for that ([`Reuse::overlapping`](crate::Reuse::overlapping)).
//!
//! A store can be driven by one future at a time. So all calls in an instance share one ([`attend`]): it starts the
//! instance, begins each call as it comes, and ends when nobody is inside. It is polled by whichever call is polled, under
//! a lock that nobody waits for; what wakes it wakes all of them. So no task is spawned, nothing of the guest runs but
//! within a poll of one of its callers, and when the last of them is gone it is dropped, with the instance.
//!
//! An instance from which every call came back as its guest meant it to goes where others that may be used again wait
//! ([`reuse`](super::reuse)). After anything else nobody enters it any more: what ends the guest ends all calls in it, and
//! what ends one call alone, its deadline or its caller, leaves the others to their end.

mod crowd;
mod desk;
mod hall;

pub(crate) use crowd::Crowd;
pub(crate) use hall::Tally;

use super::lease::{Lease, Origin};
use super::pool::Pool;
use super::state::{Flow, Share, State, next_call_id};
use super::stock::Claim;
use super::trap::{self, Fault};
use super::yielded;
use crate::clock::{Clock, Nanos};
use crate::error::{Error, ErrorKind};
use crate::foreign::{guarded, panic_text};
use crate::future::BoxFuture;
use crate::limits::Resolved;
use crate::usage::{Aside, Usage};
use desk::Desk;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hall::{Hall, Ticket};
use parking_lot::Mutex;
use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::Handle;
use wasmtime::component::{Accessor, ComponentNamedList, Func, Instance, Lift, Lower, TypedFunc, Val};

/// The instances of one function in which several calls run.
pub(crate) struct Overlapping {
    /// Calls at once in one instance.
    calls: u32,
    /// Calls that one instance may serve.
    most: u32,
    /// Those in which calls run now.
    by_owner: Mutex<HashMap<Owner, List>>,
}

/// Who shares: calls of one tenant, on one runtime. What a call waits for, such as a timer, belongs to the runtime of
/// whoever went on for it, and would be gone with it.
type Owner = (Option<Arc<str>>, Option<tokio::runtime::Id>);

/// Of one owner; it may be empty, or name some that are gone.
type List = Vec<Weak<Shared>>;

impl Overlapping {
    pub(super) fn new(calls: u32, most: u32) -> Overlapping {
        Overlapping { calls, most, by_owner: Mutex::default() }
    }

    /// Has the call run in an instance of its tenant's, in a new one if there is none with room.
    fn enter(&self, pool: &Arc<Pool>, share: Share<'_>, mut ticket: Ticket) -> Entered {
        let owner = (share.tenant.cloned(), Handle::try_current().ok().map(|runtime| runtime.id()));
        // Dropping what may be the last handle to one is not for under the lock.
        let mut seen = Vec::new();
        let shared = {
            let mut all = self.by_owner.lock();
            if all.len() == all.capacity() && !all.contains_key(&owner) {
                all.retain(|_, list| list.iter().any(|shared| shared.strong_count() > 0));
            }
            let list = all.entry(owner).or_default();
            list.retain(|shared| shared.strong_count() > 0);
            for shared in list.iter().filter_map(Weak::upgrade) {
                match shared.hall.enter(ticket) {
                    Ok(()) => return Entered { shared, cold: false, ahead: 0 },
                    Err(back) => ticket = back,
                }
                seen.push(shared);
            }
            let shared = Arc::new(Shared::new(self, &pool.blueprint.bound.clock, ticket));
            list.push(Arc::downgrade(&shared));
            shared
        };
        let mut lease = pool.lease(share);
        let cold = lease.life().origin == Origin::Fresh;
        let ahead = std::mem::take(&mut lease.life_mut().ahead);
        if let Some(claim) = Claim::if_low(pool) {
            pool.slots.want(claim);
        }
        shared.open(lease, self, pool);
        Entered { shared, cold, ahead }
    }
}

/// Where a call runs.
struct Entered {
    shared: Arc<Shared>,
    /// Whether it was started for this call.
    cold: bool,
    /// Nanoseconds for which it was busy as it started, ahead of this call.
    ahead: u64,
}

/// One instance in which several calls run.
struct Shared {
    hall: Arc<Hall>,
    /// Wakes the hall.
    waker: Waker,
    clock: Clock,
    work: Mutex<Work>,
    over: OnceLock<Over>,
}

struct Work {
    /// [`attend`], until it is over.
    going: Option<BoxFuture<'static, Ended>>,
    /// Nanoseconds that it was polled for.
    busy: u64,
}

/// How an instance came back.
enum Ended {
    Well(Lease),
    Broken(Error),
}

/// Why nothing goes on in an instance.
enum Over {
    /// Every call in it has ended.
    Done,
    /// It broke down. `by` is the call that did it, or 0.
    Broken { error: Error, by: u64 },
    /// A call computed that nobody waited for any more.
    Deserted,
}

impl Shared {
    /// One that has its first call, and no instance yet.
    fn new(of: &Overlapping, clock: &Clock, ticket: Ticket) -> Shared {
        let hall = Arc::new(Hall::new(Desk::new(of.calls, 1)));
        // There is room for one. The others come when it is known how many the instance may still serve.
        drop(hall.enter(ticket));
        Shared {
            waker: Waker::from(Arc::clone(&hall)),
            hall,
            clock: clock.clone(),
            work: Mutex::new(Work { going: None, busy: 0 }),
            over: OnceLock::new(),
        }
    }

    fn open(&self, lease: Lease, of: &Overlapping, pool: &Arc<Pool>) {
        let more = of.most.saturating_sub(lease.life().calls + 1);
        self.work.lock().going = Some(Box::pin(attend(lease, Arc::clone(pool), Arc::clone(&self.hall))));
        self.hall.open(more);
    }

    /// Goes on, if there is something to do and nobody else is doing it.
    fn drive(&self, pool: &Pool) {
        if !self.hall.is_woken() {
            return;
        }
        // Whoever has it looks again when the lock is free.
        let Some(mut work) = self.work.try_lock() else { return };
        let Some(going) = &mut work.going else { return };
        self.hall.begin();
        let before = self.clock.now();
        let polled = catch_unwind(AssertUnwindSafe(|| going.as_mut().poll(&mut Context::from_waker(&self.waker))));
        let now = self.clock.now();
        let spent = now.to_raw().saturating_sub(before.to_raw());
        work.busy += spent;
        let mut back = None;
        let over = match polled {
            Ok(Poll::Pending) => self.verdict(pool, work.busy, spent),
            Ok(Poll::Ready(Ended::Well(lease))) => {
                back = Some(lease);
                Some(Over::Done)
            }
            Ok(Poll::Ready(Ended::Broken(error))) => Some(self.broken(error)),
            Err(payload) => {
                let text = format!("a host function panicked: {}; mend that function", panic_text(payload));
                Some(self.broken(Error::new(ErrorKind::HostPanic, text)))
            }
        };
        let gone = over.as_ref().and_then(|_| work.going.take());
        drop(work);
        self.hall.end();
        // What a host function was in the middle of is dropped here, and may panic as well.
        guarded("the destructor of a host function that was given up", || drop(gone));
        let (entered, clean) = self.hall.books();
        if let Some(mut lease) = back {
            lease.add_calls(entered.saturating_sub(1));
            pool.retire(lease, clean, now);
        }
        let is_over = over.is_some();
        if let Some(over) = over {
            self.hall.spoil();
            let _ = self.over.set(over);
            // Calls that did not begin, with what the embedder gave them.
            guarded("the destructor of a call that never began", || drop(self.hall.tickets()));
        }
        if is_over || self.hall.is_woken() {
            self.hall.wake_all();
        }
    }

    /// Whether what the guest does has to end, though it would go on.
    fn verdict(&self, pool: &Pool, busy: u64, spent: u64) -> Option<Over> {
        let limits = &pool.blueprint.limits;
        let limit = limits.busy.as_nanos().try_into().unwrap_or(u64::MAX);
        let too_busy = || trap::too_busy(limits);
        if yielded::get()
            && let call_id = self.hall.running.load(Ordering::Relaxed)
            && let Some(computes) = self.hall.computed(call_id, spent)
        {
            if computes.given_up {
                return Some(Over::Deserted);
            }
            if computes.busy >= limit {
                return Some(self.broken(too_busy()));
            }
        }
        let (entered, _) = self.hall.books();
        let all = limit.saturating_mul(entered.into());
        (busy >= all).then(|| Over::Broken { error: too_busy(), by: 0 })
    }

    /// By the call that went beyond a limit, or that the guest worked for.
    fn broken(&self, error: Error) -> Over {
        let blamed = self.hall.blamed.load(Ordering::Relaxed);
        let by = if blamed == 0 { self.hall.running.load(Ordering::Relaxed) } else { blamed };
        Over::Broken { error, by }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let gone = self.work.get_mut().going.take();
        guarded("the destructor of a host function that was given up", || drop(gone));
    }
}

impl Over {
    /// What it means for one call that has no result.
    fn error(&self, call_id: u64) -> Error {
        let other = |why: String| {
            let text = format!(
                "another call in the same instance ended it, as {why}; try again, or load it without `Reuse::overlapping`"
            );
            Error::new(ErrorKind::Cancelled, text).retry_in(Duration::ZERO)
        };
        match self {
            Over::Done => Error::new(ErrorKind::Internal, "it ended without a result; please report this"),
            Over::Broken { error, by } if *by == call_id => error.again(),
            // Nobody knows whose fault it is.
            Over::Broken { error, by: 0 } => error.again(),
            Over::Broken { error, .. } => other(format!("that one ended as {:?}", error.kind())),
            Over::Deserted => other("nobody waited for that one any more, and it computed".to_owned()),
        }
    }
}

/// Starts the instance, runs calls in it until nobody is inside, and gives it back.
async fn attend(mut lease: Lease, pool: Arc<Pool>, hall: Arc<Hall>) -> Ended {
    lease.store.data_mut().crowd = Some(Box::new(Crowd::new(&hall, pool.blueprint.limits.host_calls)));
    crowd::watch(&mut lease.store);
    let ended = run(&mut lease, &pool, &hall).await;
    crowd::hear(lease.store.data_mut());
    hall.peak.fetch_max(lease.store.data().budget.peak, Ordering::Relaxed);
    match ended {
        Ok(()) => {
            lease.store.data_mut().disperse();
            Ended::Well(lease)
        }
        Err(Fault::Own(error)) => Ended::Broken(error),
        Err(Fault::Wasm(error)) => Ended::Broken(trap::explain(&error, lease.store.data(), &pool.blueprint.limits)),
    }
}

async fn run(lease: &mut Lease, pool: &Arc<Pool>, hall: &Hall) -> Result<(), Fault> {
    if !lease.is_started() {
        lease.start(&pool.blueprint.pre).await?;
    }
    if lease.world().is_none() {
        lease.prepare(&pool.blueprint)?;
    }
    let (instance, world) = (lease.instance()?, Mutex::new(lease.world().take()));
    let serving =
        async |accessor: &Accessor<State>| serve(Stage { accessor, instance, world: &world, pool }, hall).await;
    lease.store.run_concurrent(serving).await??;
    *lease.world() = world.into_inner();
    Ok(())
}

/// What calls run on.
#[derive(Clone, Copy)]
struct Stage<'a> {
    accessor: &'a Accessor<State>,
    instance: Instance,
    world: &'a Mutex<Option<Box<dyn Any + Send>>>,
    pool: &'a Pool,
}

async fn serve(stage: Stage<'_>, hall: &Hall) -> Result<(), Fault> {
    let mut running = FuturesUnordered::new();
    std::future::poll_fn(move |cx| {
        // The guest does not have the thread now, so whatever runs next is somebody else's until it says whose.
        hall.running.store(0, Ordering::Relaxed);
        let stop = stage.accessor.with(|mut access| {
            let state = access.get();
            hall.peak.fetch_max(state.budget.peak, Ordering::Relaxed);
            state.stop
        });
        if let Some(stop) = stop {
            return Poll::Ready(Err(Fault::Own(trap::stopped(stop, &stage.pool.blueprint.limits))));
        }
        loop {
            for Ticket { call_id, deadline, tally, job } in hall.tickets() {
                stage.accessor.with(|mut access| access.get().join(call_id, deadline, tally));
                let job = job(Part { stage, call_id });
                running.push(async move { (call_id, job.await) });
            }
            match running.poll_next_unpin(cx) {
                Poll::Ready(Some((call_id, well))) => {
                    stage.accessor.with(|mut access| access.get().part(call_id));
                    hall.leave(call_id, well);
                }
                Poll::Ready(None) if hall.close() => return Poll::Ready(Ok(())),
                Poll::Ready(None) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// The part that one call has of an instance, while it runs.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    stage: Stage<'a>,
    call_id: u64,
}

impl<'a> Part<'a> {
    pub(crate) fn accessor(&self) -> &'a Accessor<State> {
        self.stage.accessor
    }

    pub(crate) fn instance(&self) -> Instance {
        self.stage.instance
    }

    /// What each call may use.
    pub(crate) fn limits(&self) -> &'a Resolved {
        &self.stage.pool.blueprint.limits
    }

    /// Something of the exports of a typed world, which are found once for an instance.
    pub(crate) fn world<W: 'static, R>(&self, find: impl FnOnce(&W) -> R) -> Option<R> {
        self.stage.world.lock().as_ref().and_then(|world| world.downcast_ref()).map(find)
    }

    /// Calls an export with values.
    pub(crate) async fn call(&self, func: Func, args: &[Val], results: &mut [Val]) -> wasmtime::Result<()> {
        let call = self.stage.accessor.with(|mut access| {
            let call = func.start_call_concurrent(&mut access, args, results)?;
            access.get().begin_task(self.call_id, call.task());
            wasmtime::error::Ok(call)
        })?;
        func.finish_call_concurrent(self.stage.accessor, call).await
    }

    /// Calls an export whose types are known.
    pub(crate) async fn call_typed<P, R>(&self, func: TypedFunc<P, R>, args: P) -> wasmtime::Result<R>
    where
        P: ComponentNamedList + Lower + Send + Sync + 'static,
        R: ComponentNamedList + Lift + Send + Sync + 'static,
    {
        let call = self.stage.accessor.with(|mut access| {
            let call = func.start_call_concurrent(&mut access, args)?;
            access.get().begin_task(self.call_id, call.task());
            wasmtime::error::Ok(call)
        })?;
        func.finish_call_concurrent(self.stage.accessor, call).await
    }

    fn explain(&self, fault: Fault) -> Error {
        match fault {
            Fault::Own(error) => error,
            Fault::Wasm(error) => {
                let limits = &self.stage.pool.blueprint.limits;
                self.stage.accessor.with(|mut access| trap::explain(&error, access.get(), limits))
            }
        }
    }
}

/// A call's place in an instance that it shares. Dropped before the call has ended in the guest, it is given up.
pub(crate) struct Place {
    pool: Arc<Pool>,
    tenant: Option<Arc<str>>,
    deadline: Nanos,
    call_id: u64,
    tally: Arc<Tally>,
    /// Of an http exchange.
    flow: Option<Arc<Flow>>,
    shared: Option<Arc<Shared>>,
    cold: bool,
    ahead: u64,
    ended: bool,
}

impl Place {
    pub(crate) fn new(pool: &Arc<Pool>, share: &Share<'_>) -> Place {
        Place {
            pool: Arc::clone(pool),
            tenant: share.tenant.cloned(),
            deadline: share.deadline,
            call_id: next_call_id(),
            tally: Arc::default(),
            flow: None,
            shared: None,
            cold: false,
            ahead: 0,
            ended: false,
        }
    }

    pub(crate) fn call_id(&self) -> u64 {
        self.call_id
    }

    /// Nanoseconds for which the instance was busy as it started, if this call took it from the stock.
    pub(crate) fn ahead(&self) -> u64 {
        self.ahead
    }

    /// Counts bytes of the arguments and of the result.
    pub(crate) fn traffic(&self, bytes_in: u64, bytes_out: u64) {
        self.tally.bytes_in.fetch_add(bytes_in, Ordering::Relaxed);
        self.tally.bytes_out.fetch_add(bytes_out, Ordering::Relaxed);
    }

    /// Counts the bytes of both bodies, as they pass.
    pub(crate) fn flow(&mut self, flow: Arc<Flow>) {
        self.flow = Some(flow);
    }

    /// Does `job` in an instance that it may share with others.
    pub(crate) async fn run<R: Send + 'static>(
        &mut self,
        job: impl for<'a> FnOnce(Part<'a>) -> BoxFuture<'a, Result<R, Fault>> + Send + 'static,
    ) -> Result<R, Fault> {
        let result = Arc::new(Mutex::new(None));
        let ticket = {
            let result = Arc::clone(&result);
            let job: hall::Job = Box::new(move |part: Part<'_>| {
                let work = job(part);
                Box::pin(async move {
                    let ended = work.await.map_err(|fault| part.explain(fault));
                    let well = ended.is_ok();
                    *result.lock() = Some(ended);
                    well
                })
            });
            Ticket { call_id: self.call_id, deadline: self.deadline, tally: Arc::clone(&self.tally), job }
        };
        let Some(overlapping) = &self.pool.overlapping else {
            return Err(Error::new(ErrorKind::Internal, "its calls share no instance; please report this").into());
        };
        let share = Share { tenant: self.tenant.as_ref(), deadline: self.deadline, within: None, invocation: None };
        let Entered { shared, cold, ahead } = overlapping.enter(&self.pool, share, ticket);
        (self.cold, self.ahead) = (cold, ahead);
        let shared = &**self.shared.insert(shared);
        let ended = Going { shared, pool: &self.pool, call_id: self.call_id, result: &result }.await;
        self.ended = true;
        Ok(ended?)
    }

    /// Fills in what the call used, but for its time; gives what was said meanwhile.
    pub(crate) fn tell(&mut self, usage: &mut Usage) -> Option<Box<Aside>> {
        let load = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        usage.cold = self.cold;
        usage.host_calls = load(&self.tally.host_calls);
        (usage.bytes_in, usage.bytes_out) = (load(&self.tally.bytes_in), load(&self.tally.bytes_out));
        if let Some(flow) = &self.flow {
            usage.bytes_in += load(&flow.read);
            usage.bytes_out += load(&flow.written);
        }
        let hall = &self.shared.as_ref()?.hall;
        usage.peak_memory = load(&hall.peak);
        let aside;
        (aside, usage.log_bytes, usage.log_dropped) = hall.take_aside();
        aside
    }

    /// The call is over. Unless it was well, nobody enters the instance any more.
    pub(crate) fn retire(self, well: bool) {
        if let Some(shared) = self.shared.as_ref().filter(|_| !well) {
            shared.hall.spoil();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.as_ref().filter(|_| !self.ended) {
            shared.hall.give_up(self.call_id);
        }
    }
}

/// Waits for a call's result, and goes on for all calls in the instance meanwhile.
struct Going<'a, R> {
    shared: &'a Shared,
    pool: &'a Pool,
    call_id: u64,
    result: &'a Mutex<Option<Result<R, Error>>>,
}

impl<R> Future for Going<'_, R> {
    type Output = Result<R, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<R, Error>> {
        let Going { shared, pool, call_id, result } = &*self;
        shared.hall.register(*call_id, cx.waker());
        if let Some(ended) = result.lock().take() {
            return Poll::Ready(ended);
        }
        shared.drive(pool);
        // What is over was over after the result was there.
        let over = shared.over.get();
        if let Some(ended) = result.lock().take() {
            return Poll::Ready(ended);
        }
        over.map_or(Poll::Pending, |over| Poll::Ready(Err(over.error(*call_id))))
    }
}
