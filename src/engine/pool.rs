//! Where instances come from: a [`Lease`] is one store, armed with its call's limits before anything of the guest runs.
//!
//! Every lease is fresh: made for one call, used by it, dropped after it. The store is never used again, whatever the
//! end was.

use super::Engine;
use super::state::{State, Stop};
use super::yielded;
use crate::capability::Bound;
use crate::capability::cli::Invocation;
use crate::capability::functions::Within;
use crate::clock::Nanos;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::Resolved;
use std::any::Any;
use std::sync::Arc;
use wasmtime::component::{Component, Instance, InstancePre};
use wasmtime::{CallHook, Store, UpdateDeadline};

/// Makes the embedder's imports for one call.
pub(crate) type MakeImports = Box<dyn Fn(&mut State) -> Box<dyn Any + Send> + Send + Sync>;

/// All that a store of one function is made from; settled when the function is loaded.
pub(crate) struct Blueprint {
    pub engine: Arc<Engine>,
    pub pre: InstancePre<State>,
    pub limits: Resolved,
    pub fuel_interval: u64,
    pub bound: Arc<Bound>,
    pub imports: Option<MakeImports>,
}

/// Fuel after which a guest yields: often enough for a deadline, rarely enough to cost under a sixth.
const FUEL_INTERVAL: u64 = 100_000;
/// The same for components that pass text between memories of their own: wasmtime charges nothing for that, and a
/// string can be as large as a memory.
const COMPOSED_FUEL_INTERVAL: u64 = 1_000;

/// A store of one call.
pub(crate) struct Lease {
    pub store: Store<State>,
    instance: Option<Instance>,
    fuel: Option<u64>,
}

impl Blueprint {
    /// A new store. Nothing of the guest has run yet, and nothing of the embedder's.
    pub(crate) fn lease(
        &self,
        tenant: Option<Arc<str>>,
        invocation: Option<Box<Invocation>>,
        deadline: Nanos,
        within: Option<&Within>,
    ) -> Lease {
        let limits = &self.limits;
        let tree = within.map(|within| within.tree.clone());
        let mut state = State::new(limits, Arc::clone(&self.bound), tenant, deadline, tree);
        state.invocation = invocation;
        let mut store = Store::new(&self.engine.wasmtime, state);
        store.limiter(|state| &mut state.budget);
        store.set_hostcall_fuel(limits.transfer);
        store.set_max_component_handles(limits.handles);
        let left = within.and_then(|within| within.fuel).unwrap_or(u64::MAX);
        let fuel = limits.fuel.map(|fuel| fuel.min(left));
        match fuel {
            Some(fuel) => {
                // Neither fails on an engine that counts fuel, which is where a function with a fuel limit runs.
                let _ = store.set_fuel(fuel).and_then(|()| store.fuel_async_yield_interval(Some(self.fuel_interval)));
                // A host call costs no fuel: thousands of long ones fit between two yields.
                let clock = self.bound.clock.clone();
                store.call_hook(move |mut store, hook| {
                    // Whatever suspends it in its own code is that it used up its interval.
                    yielded::set(matches!(hook, CallHook::CallingWasm | CallHook::ReturningFromHost));
                    if matches!(hook, CallHook::ReturningFromHost)
                        && (store.data().stop.is_some() || clock.now() >= deadline)
                    {
                        store.data_mut().stop.get_or_insert(Stop::Deadline);
                        return Err(wasmtime::Error::msg("the call is stopped"));
                    }
                    Ok(())
                });
            }
            None => {
                store.set_epoch_deadline(1);
                // Captures nothing, so that boxing it allocates nothing.
                store.epoch_deadline_callback(|store| {
                    if store.data().stop.is_some() {
                        return Ok(UpdateDeadline::Interrupt);
                    }
                    yielded::set(true);
                    Ok(UpdateDeadline::Yield(1))
                });
            }
        }
        Lease { store, instance: None, fuel }
    }
}

/// Fuel after which that component's guest yields.
pub(crate) fn fuel_interval(component: &Component) -> u64 {
    let memories = component.resources_required().map_or(0, |needs| needs.num_memories);
    if memories > 1 { COMPOSED_FUEL_INTERVAL } else { FUEL_INTERVAL }
}

impl Lease {
    /// Starts the guest: its start functions and `realloc` run here, under the call's limits.
    pub(crate) async fn start(&mut self, blueprint: &Blueprint) -> wasmtime::Result<()> {
        if let Some(make) = &blueprint.imports {
            let imports = make(self.store.data_mut());
            self.store.data_mut().imports = Some(imports);
        }
        self.instance = Some(blueprint.pre.instantiate_async(&mut self.store).await?);
        Ok(())
    }

    /// The instance, which there is once [`start`](Lease::start) has succeeded.
    pub(crate) fn instance(&self) -> Result<Instance> {
        self.instance.ok_or_else(|| Error::new(ErrorKind::Internal, "the instance was not started; please report this"))
    }

    /// Fuel used so far, for a function that counts it.
    pub(crate) fn fuel_used(&self) -> Option<u64> {
        let fuel = self.fuel?;
        Some(fuel.saturating_sub(self.store.get_fuel().unwrap_or(0)))
    }
}
