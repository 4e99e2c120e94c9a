//! Any bytes, through the pre-check and then the validator: no panic, no overflow, an end in bounded time and memory.
#![no_main]

// The files themselves, not the crate: the pre-check is pure, so that fuzzing it need not build a compiler.
#[path = "../../src/engine/precheck/mod.rs"]
#[allow(dead_code)]
mod precheck;

use libfuzzer_sys::fuzz_target;
use precheck::{Bounds, inspect};
use wasmparser::{Validator, WasmFeatures};

const BOUNDS: Bounds =
    Bounds { bytes: 8 << 20, functions: 50_000, instances: 20, adapters: 1_000, nesting: 50, values: 20_000_000 };

fuzz_target!(|bytes: &[u8]| {
    let Ok(facts) = inspect(bytes, BOUNDS) else { return };
    let mut features = WasmFeatures::WASM2 | WasmFeatures::TAIL_CALL | WasmFeatures::EXTENDED_CONST | WasmFeatures::COMPONENT_MODEL;
    features.set(WasmFeatures::CM_ASYNC, facts.asynchronous);
    let _ = Validator::new_with_features(features).validate_all(bytes);
});
