//! wasmtime without isopod, in the best configuration that we know.

use wasmtime::component::{
    Component, ComponentExportIndex, ComponentNamedList, InstancePre, Lift, Linker, Lower, TypedFunc,
};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store, UpdateDeadline};

/// Slots of the pool: as many as isopod has by default.
pub const SLOTS: u32 = 1_000;

/// Bytes of a slot that stay resident: the best where no call writes much more than others of its slot.
pub const KEEP: usize = 64 << 20;

pub fn engine(slots: u32, keep: usize) -> Engine {
    let mut pool = PoolingAllocationConfig::new();
    pool.pagemap_scan(Enabled::Auto)
        .linear_memory_keep_resident(keep)
        .table_keep_resident(1 << 20)
        .async_stack_keep_resident(64 << 10)
        .decommit_batch_size(1)
        .max_memory_size(64 << 20)
        .table_elements(20_000)
        .total_memories(slots)
        .total_tables(slots)
        .total_core_instances(slots)
        .total_component_instances(slots)
        .total_stacks(100)
        .max_unused_warm_slots(slots);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .concurrency_support(false)
        .wasm_component_model_async(false)
        .epoch_interruption(true);
    Engine::new(&config).unwrap()
}

/// A component with one export.
#[derive(Clone)]
pub struct Bare {
    pub engine: Engine,
    pub pre: InstancePre<()>,
    pub export: ComponentExportIndex,
}

/// An instance that waits, and its export.
pub struct Made<P, R> {
    store: Store<()>,
    export: TypedFunc<P, (R,)>,
}

impl Bare {
    pub fn new(wat: &str, export: &str) -> Bare {
        Bare::on(&engine(SLOTS, KEEP), wat, export, |_| {})
    }

    pub fn on(engine: &Engine, wat: &str, export: &str, link: impl FnOnce(&mut Linker<()>)) -> Bare {
        let component = Component::new(engine, wat::parse_str(wat).unwrap()).unwrap();
        let mut linker = Linker::new(engine);
        link(&mut linker);
        let pre = linker.instantiate_pre(&component).unwrap();
        let export = component.get_export_index(None, export).unwrap();
        Bare { engine: engine.clone(), pre, export }
    }

    /// An instance whose guest yields at each tick.
    pub async fn make<P: Params, R: Answer>(&self) -> Made<P, R>
    where
        (R,): ComponentNamedList + Lift,
    {
        let mut store = Store::new(&self.engine, ());
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
        let instance = self.pre.instantiate_async(&mut store).await.unwrap();
        let export = instance.get_typed_func(&mut store, self.export).unwrap();
        Made { store, export }
    }

    pub fn make_sync<P: Params, R: Answer>(&self) -> Made<P, R>
    where
        (R,): ComponentNamedList + Lift,
    {
        let mut store = Store::new(&self.engine, ());
        store.set_epoch_deadline(u64::MAX / 2);
        let instance = self.pre.instantiate(&mut store).unwrap();
        let export = instance.get_typed_func(&mut store, self.export).unwrap();
        Made { store, export }
    }
}

pub trait Params: ComponentNamedList + Lower + Send + Sync + 'static {}
impl<P: ComponentNamedList + Lower + Send + Sync + 'static> Params for P {}
pub trait Answer: Send + Sync + 'static {}
impl<R: Send + Sync + 'static> Answer for R {}

impl<P: Params, R: Answer> Made<P, R>
where
    (R,): ComponentNamedList + Lift,
{
    pub async fn call(&mut self, params: P) -> R {
        self.export.call_async(&mut self.store, params).await.unwrap().0
    }

    pub fn call_sync(&mut self, params: P) -> R {
        self.export.call(&mut self.store, params).unwrap().0
    }
}
