//! The back door to wasmtime, for what isopod has no word for. No semver promise: a patch release may change or remove
//! anything here, as it may move to another wasmtime.

pub use wasmtime;

use crate::function::Function;

/// The engine that a function runs on.
pub fn engine(function: &Function) -> &wasmtime::Engine {
    &function.inner().pool.blueprint.engine.wasmtime
}
