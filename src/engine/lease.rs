//! One store with an instance in it, from its making to its end: what it is made from ([`Blueprint`]), and what it is
//! in the hands of a call ([`Lease`]). Which store a call gets is decided in [`pool`](super::pool).

use super::Engine;
use super::gives_way::GivesWay;
use super::slots::Room;
use super::state::{Share, State};
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
    pub(super) world: Option<Box<dyn Any + Send>>,
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
    pub(super) room: Room,
}

impl Blueprint {
    /// A new store. Nothing of the guest has run yet, and nothing of the embedder's.
    pub(super) fn make(&self, room: Room, bound: &Arc<Bound>) -> Lease {
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

    /// A store that no call has asked for.
    pub(super) fn make_early(&self, room: Room, bound: &Arc<Bound>, deadline: Nanos) -> Lease {
        let mut lease = self.make(room, bound);
        lease.store.data_mut().begin_early(deadline);
        match self.limits.fuel {
            Some(fuel) => self.fill(&mut lease, fuel, 0),
            None => lease.store.set_epoch_deadline(1),
        }
        lease
    }

    /// Sets what belongs to one call, and its limits anew.
    #[inline]
    pub(super) fn arm(&self, lease: &mut Lease, share: Share<'_>) {
        let left = share.within.and_then(|within| within.fuel).unwrap_or(u64::MAX);
        let origin = lease.life().origin;
        lease.store.data_mut().begin(share, &self.bound, origin == Origin::Kept);
        let Some(fuel) = self.limits.fuel else {
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

    /// It has started ahead of the call that will take it.
    #[inline]
    pub(super) fn end_early(&mut self, bound: &Arc<Bound>) {
        self.store.data_mut().end_early(bound);
    }

    /// Its call has ended; whether it is to serve another.
    #[inline]
    pub(super) fn end(&mut self, again: bool) {
        self.store.data_mut().end(again);
    }

    /// Whether its guest has looked at what a call brings along.
    #[inline]
    pub(super) fn has_view(&self) -> bool {
        self.store.data().has_view()
    }

    /// Whom its calls are for.
    #[inline]
    pub(super) fn tenant(&self) -> Option<&Arc<str>> {
        self.store.data().tenant()
    }

    /// The most bytes of memory that it had.
    #[inline]
    pub(super) fn peak(&self) -> u64 {
        self.store.data().budget.peak
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
