//! wasmtime, and nothing of it outside: few engines per Host, each made when the first function needs it.
//!
//! Pool, metering, the async ABI and how memories begin are properties of a wasmtime engine, so a [`Flavour`] names one.
//! Components without component-model async run on engines without it, which halves the cost of a call and keeps them
//! away from the youngest part of wasmtime. Those whose memories begin with little run on engines that copy it, where any
//! slot serves any function; those that begin with much run on engines that map it, where a slot is best used again by the
//! function that had it before.

pub(crate) mod artefact;
mod budget;
pub(crate) mod code;
#[cfg(feature = "compiler")]
pub(crate) mod compiler;
#[cfg(not(feature = "compiler"))]
#[path = "no_compiler.rs"]
pub(crate) mod compiler;
mod direct;
pub(crate) mod import;
pub(crate) mod linker;
pub(crate) mod overlap;
pub(crate) mod lease;
pub(crate) mod pool;
pub(crate) mod stock;
pub(crate) mod reuse;
pub(crate) mod slots;
pub(crate) mod command;
pub(crate) mod entry;
pub(crate) mod export;
mod gives_way;
pub(crate) mod http;
pub(crate) mod precheck;
pub(crate) mod schema;
pub(crate) mod script;
mod served;
pub(crate) mod state;
pub(crate) mod ticker;
pub(crate) mod trap;
pub(crate) mod value;
pub(crate) mod yielded;

use crate::error::{Error, ErrorKind, Result};
use crate::limits::{LoadLimits, MIB, Resolved};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use state::State;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use ticker::Ticker;
use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig};

/// A component, compiled.
pub(crate) type Component = wasmtime::component::Component;
/// What functions are linked with.
pub(crate) type Linker = wasmtime::component::Linker<State>;
/// A component whose imports are linked.
pub(crate) type Pre = wasmtime::component::InstancePre<State>;
/// What linking gives.
pub(crate) type LinkResult = wasmtime::Result<()>;

/// Which engine a function runs on.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Flavour {
    /// Component-model async and WASI 0.3.
    pub asynchronous: bool,
    /// Counts instructions; otherwise the clock ticks.
    pub fuel: bool,
    /// Maps what memories begin with, instead of copying it.
    pub image: bool,
}

/// What the engines of a host are best at. Both bound what a call may do alike.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Profile {
    /// Calls that cost the least: the default. A slot for an instance is 4 GiB of address space, so that the guest's code
    /// needs no checks of its memory accesses, and up to 512 KiB of what a call wrote stay in memory for the next one:
    /// 1 000 idle slots that were written widely hold up to 512 MiB. By default as many instances can be alive as calls can
    /// run; of those that have run code, 1 024 wait at most.
    #[default]
    Latency,
    /// Many instances that wait, such as one or two for each of thousands of functions: by default 20 000 can be alive, and
    /// 500 calls run at once; of those that have run code, 128 wait at most, so that [`Reuse`](crate::Reuse) keeps no more
    /// (see [`HostBuilder::instances`](crate::HostBuilder::instances)). A slot is 64 MiB of address space, and what a call
    /// wrote is given back to the operating system but for 16 KiB. Code with many memory accesses takes up to 1.3 times as
    /// long, a call that writes more than four pages pays about a microsecond for each of them, and
    /// [`Limits::memory`](crate::Limits::memory) of more than 64 MiB is an error when a function is loaded.
    Density,
}

impl Profile {
    /// Calls that may run at once if nothing was said: as many as wasmtime's own pool has slots by default; or fewer, as
    /// each takes a stack of two mappings in every engine, and the operating system bounds those.
    pub(crate) fn seats(self) -> u32 {
        match self {
            Profile::Latency => 1_000,
            Profile::Density => 500,
        }
    }

    /// Instances that may wait with the stack that they ran on.
    fn stacks(self) -> u32 {
        match self {
            Profile::Latency => 1_024,
            Profile::Density => 128,
        }
    }

    /// Instances that may be alive if nothing was said.
    pub(crate) fn instances(self, seats: u32) -> u32 {
        match self {
            Profile::Latency => seats,
            Profile::Density => seats.max(20_000),
        }
    }

    /// The largest memory that a slot can have.
    pub(crate) fn memory(self) -> u64 {
        match self {
            Profile::Latency => 4 << 30,
            Profile::Density => 64 * MIB,
        }
    }

    /// Bytes that memories may begin with to be copied for each instance. What is copied is copied by code, on a stack that
    /// the instance keeps as long as it waits.
    pub(crate) fn copies(self) -> u64 {
        match self {
            Profile::Latency => 32 << 10,
            Profile::Density => 0,
        }
    }

    /// Bytes of a memory or a table that stay with a slot from call to call.
    fn keep(self) -> usize {
        match self {
            // Of a script of some size a call writes 90 pages, of which each that does not stay costs it a microsecond or two.
            Profile::Latency => 512 << 10,
            Profile::Density => 16 << 10,
        }
    }
}

/// How many of what the engines of a host have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Calls that may run at once on all engines together, so on each.
    pub seats: u32,
    /// Instances that may be alive at once, those that wait for a call included.
    pub instances: u32,
    pub profile: Profile,
    /// Whether these were asked for, so that not having a pool for them is an error.
    pub strict: bool,
}

impl Flavour {
    fn index(self) -> usize {
        usize::from(self.asynchronous) + 2 * usize::from(self.fuel) + 4 * usize::from(self.image)
    }
}

/// One wasmtime engine with what every function on it shares.
pub(crate) struct Engine {
    pub wasmtime: wasmtime::Engine,
    /// What every function may use; cloned and added to for each function.
    pub linker: Linker,
    pub flavour: Flavour,
    #[cfg_attr(not(feature = "compiler"), expect(dead_code, reason = "only a compiler asks"))]
    pub profile: Profile,
    /// Whether it has a pool of instances.
    #[cfg_attr(not(feature = "compiler"), expect(dead_code, reason = "only a compiler asks"))]
    pub pooled: bool,
    /// Of all that code compiled for it depends on; none in a build without a compiler.
    pub compatibility: Option<artefact::Digest>,
}

impl Sizes {
    /// Stacks for instances that wait: one that has run keeps the stack it ran on.
    pub(crate) fn idle_stacks(self) -> u32 {
        self.instances.min(self.profile.stacks())
    }

    /// Stacks of one engine. An async call has one for each part that may wait, which is a seat each, and one to pass
    /// results on.
    fn stacks(self, asynchronous: bool) -> u32 {
        let calls = if asynchronous { self.seats.saturating_mul(2) } else { self.seats };
        calls.saturating_add(slots::spare(self.seats)).saturating_add(self.idle_stacks())
    }

    /// Mappings that instances and stacks of two engines come to at most, as Linux counts them: three for an instance whose
    /// memory is mapped, and two for each stack.
    pub(crate) fn mappings(self) -> u64 {
        u64::from(self.instances) * 3 + u64::from(self.stacks(false)) * 4
    }
}

/// The engines of a Host.
pub(crate) struct Engines {
    made: Mutex<[Option<Arc<Engine>>; 8]>,
    pub sizes: Sizes,
    /// Of what code depends on that is metered by time, and by fuel.
    families: [OnceLock<Option<artefact::Digest>>; 2],
}

impl Engines {
    pub(crate) fn new(sizes: Sizes) -> Engines {
        Engines { made: Mutex::default(), sizes, families: Default::default() }
    }

    /// What code that is metered so depends on, whatever else its engine is.
    pub(crate) fn family(&self, fuel: bool) -> Option<artefact::Digest> {
        *self.families[usize::from(fuel)].get_or_init(|| compiler::family(fuel, self.sizes.profile))
    }

    /// Bytes of memories and tables that slots keep while no call has them.
    #[cfg(feature = "testkit")]
    pub(crate) fn kept(&self) -> u64 {
        let made = self.made.lock();
        let pools = made.iter().flatten().filter_map(|engine| engine.wasmtime.pooling_allocator_metrics());
        pools.map(|pool| pool.unused_memory_bytes_resident() + pool.unused_table_bytes_resident()).sum::<usize>() as u64
    }

    /// The engine of that flavour, made now if this is its first function.
    pub(crate) fn get(&self, flavour: Flavour, ticker: &Ticker) -> Result<Arc<Engine>> {
        let mut made = self.made.lock();
        let slot = &mut made[flavour.index()];
        if let Some(engine) = slot {
            return Ok(Arc::clone(engine));
        }
        let (wasmtime, pooled) = make(flavour, self.sizes)?;
        if !flavour.fuel {
            ticker.drive(wasmtime.weak());
        }
        let mut linker = Linker::new(&wasmtime);
        linker.allow_shadowing(false);
        crate::capability::link(&mut linker, flavour.asynchronous).map_err(|e| {
            Error::new(ErrorKind::Internal, "the standard interfaces cannot be linked").because([e.to_string()])
        })?;
        let compatibility = compiler::compatibility(&wasmtime);
        Ok(Arc::clone(slot.insert(Arc::new(Engine {
            wasmtime,
            linker,
            flavour,
            profile: self.sizes.profile,
            pooled,
            compatibility,
        }))))
    }
}

/// An engine with a pool; one without where the operating system refuses the pool its address space. Says which.
fn make(flavour: Flavour, sizes: Sizes) -> Result<(wasmtime::Engine, bool)> {
    let mut config = config(flavour, sizes.profile);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(flavour, sizes)));
    let refusal = match wasmtime::Engine::new(&config) {
        Ok(engine) => return Ok((engine, true)),
        Err(refusal) => refusal,
    };
    let Sizes { seats, instances, .. } = sizes;
    if sizes.strict {
        let text = format!(
            "this machine has no address space for {seats} seats and {instances} instances; ask for fewer, or raise its limit (`ulimit -v`)"
        );
        return Err(Error::new(ErrorKind::Misuse, text).because([refusal.to_string()]));
    }
    tracing::warn!(seats, instances, %refusal, "the pool of instances cannot be had; instances are made on demand, which is slower");
    on_demand(&mut config);
    let engine = wasmtime::Engine::new(&config).map_err(|e| {
        Error::new(ErrorKind::Misuse, "this machine cannot run WebAssembly as isopod needs it; see the cause")
            .because([e.to_string()])
    })?;
    Ok((engine, false))
}

/// Settings without a pool. A memory of 4 GiB each, as the pool has them, would fit no better where that has no room. Small
/// ones cost a check at each access.
fn on_demand(config: &mut Config) {
    config
        .allocation_strategy(InstanceAllocationStrategy::OnDemand)
        .memory_reservation(0)
        .memory_reservation_for_growth(MIB)
        .memory_guard_size(PAGE);
}

/// Native stack for the guest's own frames. Host functions get the rest of [`STACK`].
const WASM_STACK: usize = 512 << 10;
/// Native stack of a call.
pub(crate) const STACK: usize = 2 << 20;
/// Frames of a guest's backtrace.
const BACKTRACE: NonZeroUsize = NonZeroUsize::new(8).expect("8 is not 0");

fn config(flavour: Flavour, profile: Profile) -> Config {
    let mut config = Config::new();
    if profile == Profile::Density {
        config.memory_reservation(profile.memory()).memory_guard_size(PAGE);
    }
    config
        .concurrency_support(flavour.asynchronous)
        .wasm_component_model_async(flavour.asynchronous)
        // One of the two, never both: together they cost 2.8 times the run time in a tight loop.
        .consume_fuel(flavour.fuel)
        .epoch_interruption(!flavour.fuel)
        .memory_init_cow(flavour.image)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(STACK)
        // Proposals whose bugs made up most of the recent advisories, and which no toolchain here needs.
        .wasm_gc(false)
        .wasm_function_references(false)
        .wasm_exceptions(false)
        .wasm_memory64(false)
        // Composed components pass values between the memories of their parts: wasmtime 48 panics on them without it.
        .wasm_multi_memory(true)
        .wasm_relaxed_simd(false)
        .wasm_wide_arithmetic(false)
        .wasm_backtrace_max_frames(Some(BACKTRACE))
        // Not from an environment variable: it would also change what compiled code is compatible with.
        .wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Disable);
    compiler::tune(&mut config, flavour);
    config
}

/// Memories and tables that one component may have. Most of the toolchains in guests/third-party make one memory and
/// two tables at most; componentize-qjs makes two of each, and three of each where it stubs WASI. A call of a component
/// takes as many slots as it has memories.
const MEMORIES: u32 = 4;
const TABLES: u32 = 16;
/// Slots that stay as they were when their function is done with them, where any slot serves any function: few, so that
/// they stay in the processor's caches.
const SHARED_WARM: u32 = 64;

/// A pool that cannot be exhausted: it has a slot for each instance that may be alive and some to spare.
fn pool(flavour: Flavour, sizes: Sizes) -> PoolingAllocationConfig {
    let slots = sizes.instances.saturating_add(slots::spare(sizes.seats));
    let keep = sizes.profile.keep();
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_stacks(sizes.stacks(flavour.asynchronous))
        .total_core_instances(slots.saturating_mul(LoadLimits::MAX_INSTANCES))
        .total_memories(slots)
        .total_tables(slots.saturating_mul(TABLES))
        .max_core_instances_per_component(LoadLimits::MAX_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_memories_per_module(MEMORIES)
        .max_tables_per_module(TABLES)
        // Kept resident and cleared by hand: cheaper than giving pages back and faulting them in again. Bounded, since
        // a slot that once was dirtied widely is cleared widely ever after.
        .linear_memory_keep_resident(keep)
        .table_keep_resident(keep)
        .pagemap_scan(wasmtime::Enabled::Auto)
        // By default 100, which makes every call a cold one for the pool once more functions than that are in use.
        .max_unused_warm_slots(if flavour.image { slots } else { SHARED_WARM });
    if sizes.profile == Profile::Density {
        pool.max_memory_size(sizes.profile.memory() as usize);
    }
    pool
}

/// Whether a call of the component can have what it needs.
pub(crate) fn fits(component: &Component, limits: &Resolved) -> Result<()> {
    if let Some(needs) = component.resources_required() {
        // The pool has said so already; without a pool nobody has.
        for (what, found, limit) in [("memories", needs.num_memories, MEMORIES), ("tables", needs.num_tables, TABLES)] {
            if found > limit {
                let text = format!("it has {found} {what}, more than the {limit} that one call can have");
                return Err(Error::new(ErrorKind::TooComplex, text));
            }
        }
        let least = needs.max_initial_memory_size.unwrap_or(0).saturating_mul(PAGE);
        if least > limits.memory {
            let text = format!(
                "it starts with {least} bytes of memory, more than the {} it may have, so that no call could run; raise `Limits::memory`",
                limits.memory
            );
            return Err(Error::new(ErrorKind::OutOfMemory, text));
        }
    }
    Ok(())
}

/// What makes compiled code, and must be the same to load it.
pub(crate) fn maker() -> String {
    let (own, wasmtime) = (env!("CARGO_PKG_VERSION"), wasmtime_environ::VERSION);
    format!("isopod {own} with wasmtime {wasmtime}")
}

/// Bytes of a page of linear memory.
const PAGE: u64 = 64 << 10;
