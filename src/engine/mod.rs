//! wasmtime, and nothing of it outside: few engines per Host, each made when the first function needs it.
//!
//! Pool, metering and the async ABI are properties of a wasmtime engine, so a [`Flavour`] names one. Two with time
//! metering, two with fuel; components without component-model async run on engines without it, which halves the cost
//! of a call and keeps them away from the youngest part of wasmtime.

mod budget;
pub(crate) mod import;
pub(crate) mod linker;
pub(crate) mod pool;
pub(crate) mod command;
pub(crate) mod export;
pub(crate) mod http;
pub(crate) mod precheck;
pub(crate) mod schema;
mod served;
pub(crate) mod state;
pub(crate) mod ticker;
pub(crate) mod trap;
pub(crate) mod value;
pub(crate) mod yielded;

use crate::error::{Error, ErrorKind, Result};
use crate::limits::{LoadLimits, MIB, Resolved};
use parking_lot::Mutex;
use state::State;
use std::num::NonZeroUsize;
use std::sync::Arc;
use ticker::Ticker;
use wasmtime::component::Component;
use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig, RegallocAlgorithm, Strategy};

/// What functions are linked with.
pub(crate) type Linker = wasmtime::component::Linker<State>;
/// A component whose imports are linked.
pub(crate) type Pre = wasmtime::component::InstancePre<State>;
/// What linking gives.
pub(crate) type LinkResult = wasmtime::Result<()>;

/// Which engine a function runs on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Flavour {
    /// Component-model async and WASI 0.3.
    pub asynchronous: bool,
    /// Counts instructions; otherwise the clock ticks.
    pub fuel: bool,
}

impl Flavour {
    fn index(self) -> usize {
        usize::from(self.asynchronous) + 2 * usize::from(self.fuel)
    }
}

/// One wasmtime engine with what every function on it shares.
pub(crate) struct Engine {
    pub wasmtime: wasmtime::Engine,
    /// What every function may use; cloned and added to for each function.
    pub linker: Linker,
    pub flavour: Flavour,
}

/// The engines of a Host.
pub(crate) struct Engines {
    made: Mutex<[Option<Arc<Engine>>; 4]>,
    /// Calls that may run at once on all engines together, so on each.
    seats: u32,
    /// Whether that number was asked for, so that not having a pool for it is an error.
    strict: bool,
}

impl Engines {
    pub(crate) fn new(seats: u32, strict: bool) -> Engines {
        Engines { made: Mutex::default(), seats, strict }
    }

    /// Calls that may run at once.
    pub(crate) fn seats(&self) -> u32 {
        self.seats
    }

    /// The engine of that flavour, made now if this is its first function.
    pub(crate) fn get(&self, flavour: Flavour, ticker: &Ticker) -> Result<Arc<Engine>> {
        let mut made = self.made.lock();
        let slot = &mut made[flavour.index()];
        if let Some(engine) = slot {
            return Ok(Arc::clone(engine));
        }
        let wasmtime = make(flavour, self.seats, self.strict)?;
        if !flavour.fuel {
            ticker.drive(wasmtime.weak());
        }
        let mut linker = Linker::new(&wasmtime);
        linker.allow_shadowing(false);
        crate::capability::link(&mut linker, flavour.asynchronous).map_err(|e| {
            Error::new(ErrorKind::Internal, "the standard interfaces cannot be linked").because([e.to_string()])
        })?;
        Ok(Arc::clone(slot.insert(Arc::new(Engine { wasmtime, linker, flavour }))))
    }
}

/// An engine with a pool; one without where the operating system refuses the pool its address space.
fn make(flavour: Flavour, seats: u32, strict: bool) -> Result<wasmtime::Engine> {
    let mut config = config(flavour);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(flavour, seats)));
    let refusal = match wasmtime::Engine::new(&config) {
        Ok(engine) => return Ok(engine),
        Err(refusal) => refusal,
    };
    if strict {
        let text = format!(
            "this machine has no address space for {seats} seats; ask for fewer, or raise its limit (`ulimit -v`)"
        );
        return Err(Error::new(ErrorKind::Misuse, text).because([refusal.to_string()]));
    }
    tracing::warn!(seats, %refusal, "the pool of instances cannot be had; instances are made on demand, which is slower");
    // A memory of 4 GiB each, as the pool has them, would fit no better. Small ones cost a check at each access.
    config
        .allocation_strategy(InstanceAllocationStrategy::OnDemand)
        .memory_reservation(0)
        .memory_reservation_for_growth(MIB)
        .memory_guard_size(PAGE);
    wasmtime::Engine::new(&config).map_err(|e| {
        Error::new(ErrorKind::Misuse, "this machine cannot run WebAssembly as isopod needs it; see the cause")
            .because([e.to_string()])
    })
}

/// Native stack for the guest's own frames. Host functions get the rest of [`STACK`].
const WASM_STACK: usize = 512 << 10;
/// Native stack of a call.
const STACK: usize = 2 << 20;
/// Frames of a guest's backtrace.
const BACKTRACE: NonZeroUsize = NonZeroUsize::new(8).expect("8 is not 0");

fn config(flavour: Flavour) -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_regalloc_algorithm(RegallocAlgorithm::Backtracking)
        .concurrency_support(flavour.asynchronous)
        .wasm_component_model_async(flavour.asynchronous)
        // One of the two, never both: together they cost 2.8 times the run time in a tight loop.
        .consume_fuel(flavour.fuel)
        .epoch_interruption(!flavour.fuel)
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
    config
}

/// Memories and tables that one component may have. Most of the toolchains in guests/third-party make one memory and
/// two tables at most; componentize-qjs makes two of each, and three of each where it stubs WASI. A memory takes 4 GiB
/// of address space for each seat of each engine: eight, with 1 000 seats and four engines, are more than there is.
const MEMORIES: u32 = 4;
const TABLES: u32 = 16;

/// A pool that cannot be exhausted: its counts are those of the seats, times what one component may have at most. An
/// async call has a stack for each part that may wait, which is a seat each, and one to pass results on.
fn pool(flavour: Flavour, seats: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(seats)
        .total_stacks(if flavour.asynchronous { seats.saturating_mul(2) } else { seats })
        .total_core_instances(seats.saturating_mul(LoadLimits::MAX_INSTANCES))
        .total_memories(seats.saturating_mul(MEMORIES))
        .total_tables(seats.saturating_mul(TABLES))
        .max_core_instances_per_component(LoadLimits::MAX_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_memories_per_module(MEMORIES)
        .max_tables_per_module(TABLES)
        // Kept resident and cleared by hand: cheaper than giving pages back and faulting them in again. Bounded, since
        // a slot that once was dirtied widely is cleared widely ever after.
        .linear_memory_keep_resident(256 << 10)
        .table_keep_resident(256 << 10)
        .pagemap_scan(wasmtime::Enabled::Auto)
        // By default 100, which makes every call a cold one for the pool once more functions than that are in use.
        .max_unused_warm_slots(seats.saturating_mul(MEMORIES));
    pool
}

/// Compiles; to be called where blocking is allowed.
pub(crate) fn compile(engine: &Engine, bytes: &[u8], limits: &Resolved) -> Result<Component> {
    let component = Component::new(&engine.wasmtime, bytes).map_err(|e| {
        let causes: Vec<String> = e.chain().map(|cause| cause.to_string()).collect();
        // A test has components that are too large in each way, so that another wording would be seen.
        let (kind, what) = if causes.iter().any(|cause| cause.contains("pooling allocator")) {
            (ErrorKind::TooComplex, "it needs more memories, tables or state for its instances than one call can have")
        } else {
            (ErrorKind::InvalidComponent, "this is not a valid component; check it with `wasm-tools validate`")
        };
        Error::new(kind, format!("{what}, and see the cause")).because(causes)
    })?;
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
    Ok(component)
}

/// Bytes of a page of linear memory.
const PAGE: u64 = 64 << 10;
