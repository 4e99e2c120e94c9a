//! wasmi: wasm that is interpreted.

use super::{MEMORY, UPPER, case};
use crate::cases::Case;
use wasmi::{Config, Engine, Linker, Memory, Module, Store, StoreLimits, StoreLimitsBuilder, TypedFunc};

/// More than any call of the bench uses.
const FUEL: u64 = 100_000_000;
/// Where the guest's memory has the text.
const TEXT: usize = 1024;

pub fn cases(text: &'static [u8]) -> Vec<Case> {
    let mut config = Config::default();
    config.consume_fuel(true);
    let engine = Engine::new(&config);
    let module = format!(
        r#"(module (memory (export "memory") 2) {UPPER}
        (func (export "transform") (param $at i32) (param $length i32)
            (call $upper (local.get $at) (i32.add (local.get $at) (local.get $length)))))"#
    );
    let module = Module::new(&engine, module).unwrap();
    let linker = Linker::new(&engine);
    let mut warm = Instance::new(&engine, &linker, &module);
    vec![
        case("wasmi_fresh", text, move |text| Instance::new(&engine, &linker, &module).call(text)),
        case("wasmi_warm", text, move |text| warm.call(text)),
    ]
}

struct Instance {
    store: Store<StoreLimits>,
    memory: Memory,
    transform: TypedFunc<(u32, u32), ()>,
}

impl Instance {
    fn new(engine: &Engine, linker: &Linker<StoreLimits>, module: &Module) -> Instance {
        let limits = StoreLimitsBuilder::new().memory_size(MEMORY).table_elements(20_000).build();
        let mut store = Store::new(engine, limits);
        store.limiter(|limits| limits);
        store.set_fuel(FUEL).unwrap();
        let instance = linker.instantiate_and_start(&mut store, module).unwrap();
        let memory = instance.get_memory(&store, "memory").unwrap();
        let transform = instance.get_typed_func(&store, "transform").unwrap();
        Instance { store, memory, transform }
    }

    fn call(&mut self, text: &[u8]) -> Vec<u8> {
        self.store.set_fuel(FUEL).unwrap();
        self.memory.write(&mut self.store, TEXT, text).unwrap();
        self.transform.call(&mut self.store, (TEXT as u32, text.len() as u32)).unwrap();
        self.memory.data(&self.store)[TEXT..TEXT + text.len()].to_vec()
    }
}
