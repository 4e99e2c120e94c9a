//! Where instances come from: a [`Lease`] is one store with an instance in it, in the hands of one call, or of several
//! that overlap (see [`overlap`](super::overlap)).
//!
//! There are three kinds. A fresh one is made for the call: armed with its limits before anything of the guest runs. A
//! stocked one was started ahead by nobody's order (see [`stock`](super::stock)), never used, and is armed when a call
//! takes it. A kept one served calls of the same tenant before, where the embedder asked for that (see
//! [`reuse`](super::reuse)). But for kept ones, a store serves one call and is dropped, whatever the end was.

use super::Engine;
use super::gives_way::GivesWay;
use super::overlap::Overlapping;
use super::reuse::{Kept, Reuse};
use super::slots::{Room, Slots};
use super::state::{Share, State};
use super::stock::Stock;
use super::yielded;
use crate::capability::Bound;
use crate::clock::Nanos;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::Resolved;
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;
use wasmtime::component::{Component, Instance, InstancePre};
use wasmtime::{Store, UpdateDeadline};

/// Makes the embedder's imports for one call.
pub(crate) type MakeImports = Box<dyn Fn(&mut State) -> Box<dyn Any + Send> + Send + Sync>;
/// Finds the exports of a typed world in an instance, ahead of the call.
pub(crate) type Prepare =
    Box<dyn Fn(&mut Store<State>, &Instance) -> wasmtime::Result<Box<dyn Any + Send>> + Send + Sync>;

/// All that a store of one function is made from; settled when the function is loaded.
pub(crate) struct Blueprint {
    pub engine: Arc<Engine>,
    pub pre: InstancePre<State>,
    pub limits: Resolved,
    pub fuel_interval: u64,
    /// How long a guest that counts fuel may go on making host calls, until it gives way.
    pub tick: Duration,
    pub bound: Arc<Bound>,
    pub imports: Option<MakeImports>,
    pub prepare: Option<Prepare>,
    /// Slots that one instance takes, and seats that one call does.
    pub width: u32,
    /// Whether code runs as an instance starts.
    pub starts: bool,
}

/// The instances of one function.
pub(crate) struct Pool {
    pub blueprint: Blueprint,
    pub slots: Arc<Slots>,
    pub stock: Option<Stock>,
    kept: Option<Kept>,
    /// Where several calls may run in one instance at once.
    pub overlapping: Option<Overlapping>,
}

/// Fuel after which a guest yields: often enough for a deadline, rarely enough to cost under a sixth.
const FUEL_INTERVAL: u64 = 100_000;
/// The same for components that pass text between memories of their own: wasmtime charges nothing for that, and a
/// string can be as large as a memory.
const COMPOSED_FUEL_INTERVAL: u64 = 1_000;

/// Fuel after which that component's guest yields.
pub(crate) fn fuel_interval(component: &Component) -> u64 {
    let memories = component.resources_required().map_or(0, |needs| needs.num_memories);
    if memories > 1 { COMPOSED_FUEL_INTERVAL } else { FUEL_INTERVAL }
}

/// Where a lease's instance came from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Origin {
    Fresh,
    Stocked,
    Kept,
}

/// A store in somebody's hands. One word, as it is handed on some times.
pub(crate) struct Lease {
    pub store: Store<State>,
}

/// What a store is, from call to call.
pub(crate) struct Life {
    instance: Option<Instance>,
    /// The exports of a typed world, where they were found before.
    world: Option<Box<dyn Any + Send>>,
    fuel: Option<u64>,
    /// When it last gave way after a host call, where fuel is counted.
    pub(super) since: Nanos,
    pub origin: Origin,
    /// Calls that it served to their end.
    pub calls: u32,
    /// Calls of a session that have begun, and did not come back as the guest meant them to.
    pub unfinished: u32,
    /// Nanoseconds for which it was busy as it started, ahead of the call that is to be charged for them.
    pub ahead: u64,
    room: Room,
}

impl Blueprint {
    /// A new store. Nothing of the guest has run yet, and nothing of the embedder's.
    fn make(&self, room: Room, bound: &Arc<Bound>) -> Lease {
        let limits = &self.limits;
        let life = Life {
            instance: None,
            world: None,
            fuel: None,
            since: Nanos::default(),
            origin: Origin::Fresh,
            calls: 0,
            unfinished: 0,
            ahead: 0,
            room,
        };
        let mut store = Store::new(&self.engine.wasmtime, State::new(limits, Arc::clone(bound), life));
        store.limiter(|state| &mut state.budget);
        store.set_hostcall_fuel(limits.transfer);
        store.set_max_component_handles(limits.handles);
        if limits.fuel.is_some() {
            // It does not fail on an engine that counts fuel, which is where a function with a fuel limit runs.
            let _ = store.fuel_async_yield_interval(Some(self.fuel_interval));
            store.call_hook_async(GivesWay { tick: self.tick });
        } else {
            store.epoch_deadline_callback(|store| {
                if store.data().stop.is_some() {
                    return Ok(UpdateDeadline::Interrupt);
                }
                yielded::set(true);
                Ok(UpdateDeadline::Yield(1))
            });
        }
        Lease { store }
    }
}

impl Pool {
    pub(crate) fn new(
        blueprint: Blueprint,
        slots: Arc<Slots>,
        stock: Option<Stock>,
        reuse: Option<Reuse>,
    ) -> Arc<Pool> {
        let overlapping = reuse.as_ref().and_then(Reuse::overlaps);
        let pool = Arc::new(Pool { blueprint, slots, stock, kept: reuse.map(Kept::new), overlapping });
        if pool.stock.is_some() || pool.kept.is_some() {
            pool.slots.watch(&pool);
        }
        pool
    }

    /// A store for one call, armed for it; started already if it is a stocked or a kept one.
    #[inline]
    pub(crate) fn lease(&self, share: Share<'_>) -> Lease {
        let (mut lease, origin) = self.find(&share);
        lease.life_mut().origin = origin;
        self.arm(&mut lease, share);
        lease
    }

    #[inline]
    fn find(&self, share: &Share<'_>) -> (Lease, Origin) {
        if let Some(kept) = &self.kept
            && let Some(lease) = kept.take(share.tenant)
        {
            return (lease, Origin::Kept);
        }
        if let Some(stock) = &self.stock
            && let Some(lease) = stock.take(share)
        {
            return (lease, Origin::Stocked);
        }
        let room = Slots::take(&self.slots, self.blueprint.width);
        (self.blueprint.make(room, &self.blueprint.bound), Origin::Fresh)
    }

    /// A store that no call has asked for: what the guest does as it starts has no tenant and reaches nothing.
    /// `None` if there is no slot to spare.
    pub(crate) fn early(&self, deadline: Nanos) -> Option<Lease> {
        let stock = self.stock.as_ref()?;
        let room = Slots::take_spare(&self.slots, self.blueprint.width)?;
        let mut lease = self.blueprint.make(room, &stock.bound);
        lease.store.data_mut().begin_early(deadline);
        match self.blueprint.limits.fuel {
            Some(fuel) => self.fill(&mut lease, fuel, 0),
            None => lease.store.set_epoch_deadline(1),
        }
        Some(lease)
    }

    /// Sets what belongs to one call, and its limits anew.
    #[inline]
    fn arm(&self, lease: &mut Lease, share: Share<'_>) {
        let left = share.within.and_then(|within| within.fuel).unwrap_or(u64::MAX);
        let origin = lease.life().origin;
        lease.store.data_mut().begin(share, &self.blueprint.bound, origin == Origin::Kept);
        let Some(fuel) = self.blueprint.limits.fuel else {
            lease.store.set_epoch_deadline(1);
            return;
        };
        // What a stocked guest used as it started is the call's, as it would be were it started now.
        let spent = if origin == Origin::Stocked { lease.fuel_used().unwrap_or(0) } else { 0 };
        self.fill(lease, fuel.min(left), spent);
    }

    /// Gives it fuel, of which so much is spent already.
    fn fill(&self, lease: &mut Lease, fuel: u64, spent: u64) {
        // It does not fail on an engine that counts fuel, which is where a function with a fuel limit runs.
        let _ = lease.store.set_fuel(fuel.saturating_sub(spent));
        let now = lease.store.data().now();
        let life = lease.life_mut();
        (life.fuel, life.since) = (Some(fuel), now);
    }

    /// Whether an instance that is started now could wait, as it looks.
    pub(crate) fn has_place(&self) -> bool {
        !self.blueprint.starts || self.slots.has_stack()
    }

    /// Puts a started instance into the stock; says whether it may wait there.
    pub(crate) fn put(&self, mut lease: Lease) -> bool {
        let Some(stock) = &self.stock else { return false };
        if self.blueprint.starts && !lease.life_mut().room.keep_stack() {
            return false;
        }
        lease.store.data_mut().end_early(&self.blueprint.bound);
        stock.put(lease);
        true
    }

    /// Takes a store back whose call ended as its guest meant it to, or drops it.
    #[inline]
    pub(crate) fn retire(&self, mut lease: Lease, well: bool, now: Nanos) {
        let life = lease.life_mut();
        life.calls += 1;
        let origin = life.origin;
        if well
            && life.unfinished == 0
            && let Some(kept) = &self.kept
            && life.room.keep_stack()
            && (life.world.is_some() || lease.prepare(&self.blueprint).is_ok())
        {
            lease.store.data_mut().end(true);
            kept.put(lease, now);
        } else if origin == Origin::Stocked {
            // Dropping the store takes longer than the rest of such a call: not here, where somebody waits for the answer.
            lease.store.data_mut().end(false);
            self.slots.drop_later(lease);
        }
    }

    /// Instances that wait for a call.
    pub(crate) fn idle(&self) -> usize {
        self.stock.as_ref().map_or(0, Stock::len) + self.kept.as_ref().map_or(0, Kept::len)
    }

    /// Gives up one instance that waits; says whether there was one.
    pub(super) fn evict(&self) -> bool {
        let kept = self.kept.as_ref().and_then(Kept::evict);
        kept.or_else(|| self.stock.as_ref().and_then(Stock::evict)).is_some()
    }

    /// Drops what has waited for too long, and lets the stock shrink while nobody calls.
    pub(crate) fn tidy(&self, now: Nanos) {
        if let Some(kept) = &self.kept {
            kept.expire(now);
        }
        if let Some(stock) = &self.stock {
            stock.shrink(now);
        }
    }
}

impl Lease {
    #[inline]
    pub(crate) fn life(&self) -> &Life {
        &self.store.data().life
    }

    /// It has served so many calls besides the one for which it is given back.
    pub(super) fn add_calls(&mut self, more: u32) {
        self.life_mut().calls += more;
    }

    #[inline]
    pub(crate) fn life_mut(&mut self) -> &mut Life {
        &mut self.store.data_mut().life
    }

    #[inline]
    pub(crate) fn is_started(&self) -> bool {
        self.life().instance.is_some()
    }

    /// Starts the guest: its start functions and `realloc` run here, under the call's limits.
    pub(crate) async fn start(&mut self, pre: &InstancePre<State>) -> wasmtime::Result<()> {
        let instance = pre.instantiate_async(&mut self.store).await?;
        self.life_mut().instance = Some(instance);
        Ok(())
    }

    /// Finds the exports of a typed world ahead of the call.
    pub(crate) fn prepare(&mut self, blueprint: &Blueprint) -> wasmtime::Result<()> {
        if let (Some(prepare), Some(instance)) = (&blueprint.prepare, self.life().instance) {
            let world = prepare(&mut self.store, &instance)?;
            self.life_mut().world = Some(world);
        }
        Ok(())
    }

    /// The instance, which there is once [`start`](Lease::start) has succeeded.
    #[inline]
    pub(crate) fn instance(&self) -> Result<Instance> {
        let instance = self.life().instance;
        instance.ok_or_else(|| Error::new(ErrorKind::Internal, "the instance was not started; please report this"))
    }

    /// The exports of a typed world where they were found before, to be put back after the call.
    #[inline]
    pub(crate) fn world(&mut self) -> &mut Option<Box<dyn Any + Send>> {
        &mut self.life_mut().world
    }

    /// Fuel used so far, for a function that counts it.
    #[inline]
    pub(crate) fn fuel_used(&self) -> Option<u64> {
        let fuel = self.life().fuel?;
        Some(fuel.saturating_sub(self.store.get_fuel().unwrap_or(0)))
    }
}
