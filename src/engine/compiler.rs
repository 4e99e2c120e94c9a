//! The compiler, and what compiled code depends on.

use super::artefact::Digest;
use super::{Component, Engine, Flavour, Profile, config, on_demand};
use crate::error::{Error, ErrorKind, Result};
use std::hash::{Hash, Hasher};
use wasmtime::{Config, Module, RegallocAlgorithm, Strategy};

/// Settings that only a compiler has.
pub(super) fn tune(config: &mut Config, flavour: Flavour) {
    config
        .strategy(Strategy::Cranelift)
        .cranelift_regalloc_algorithm(RegallocAlgorithm::Backtracking)
        // Who counts instructions wants the same ones everywhere: which of its many forms a NaN has is the processor's
        // choice otherwise.
        .cranelift_nan_canonicalization(flavour.fuel)
        // Tables that nothing here reads, a third of the code's size: for the system's unwinder, as no panic passes
        // through a guest's frames, and where in the component an instruction came from, as backtraces name functions.
        .native_unwind_info(cfg!(windows))
        .generate_address_map(false);
}

/// Compiles; to be called where blocking is allowed.
pub(crate) fn compile(engine: &Engine, bytes: &[u8]) -> Result<Component> {
    Component::new(&engine.wasmtime, bytes).map_err(|error| refused(causes(&error)))
}

/// Compiles a module of isopod's own making; to be called where blocking is allowed.
pub(crate) fn module(engine: &Engine, bytes: &[u8]) -> Result<Module> {
    Module::new(&engine.wasmtime, bytes).map_err(|error| refused(causes(&error)))
}

/// Compiles for an engine of such settings, of which there is none in this process: the code as wasmtime serialises it,
/// and what it depends on. wasmtime's reasons where it cannot be compiled, outermost first.
pub(crate) fn translate(
    flavour: Flavour,
    profile: Profile,
    pooled: bool,
    bytes: &[u8],
) -> std::result::Result<(Vec<u8>, Option<Digest>), Vec<String>> {
    let mut config = config(flavour, profile);
    if !pooled {
        on_demand(&mut config);
    }
    let translated = wasmtime::Engine::new(&config)
        .and_then(|engine| Ok((engine.precompile_component(bytes)?, compatibility(&engine))));
    translated.map_err(|error| causes(&error))
}

fn causes(error: &wasmtime::Error) -> Vec<String> {
    error.chain().map(ToString::to_string).collect()
}

/// The error for a component that wasmtime does not compile, or load once it is compiled, for these reasons.
pub(crate) fn refused(causes: Vec<String>) -> Error {
    // A test has components that are too large in each way, so that another wording would be seen.
    if causes.iter().any(|cause| cause.contains("(os error ")) {
        let text = "the operating system has no memory for its code; try again later, or raise what its process may have (memory, `vm.max_map_count`)";
        return Error::new(ErrorKind::Overloaded, text).because(causes);
    }
    let (kind, what) = if causes.iter().any(|cause| cause.contains("pooling allocator")) {
        (ErrorKind::TooComplex, "it needs more memories, tables or state for its instances than one call can have")
    } else {
        (ErrorKind::InvalidComponent, "this is not a valid component; check it with `wasm-tools validate`")
    };
    Error::new(kind, format!("{what}, and see the cause")).because(causes)
}

/// Of all that compiled code for that engine depends on: settings, the full version, features of the processor.
pub(super) fn compatibility(engine: &wasmtime::Engine) -> Option<Digest> {
    struct Feed(blake3::Hasher);
    impl Hasher for Feed {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut feed = Feed(blake3::Hasher::new());
    (super::maker(), engine.precompile_compatibility_hash()).hash(&mut feed);
    Some(*feed.0.finalize().as_bytes())
}

/// The same for code that is metered so, whichever engine that is on: known without making one with its pool.
pub(super) fn family(fuel: bool, profile: Profile) -> Option<Digest> {
    compatibility(&wasmtime::Engine::new(&config(Flavour { asynchronous: false, fuel, image: false }, profile)).ok()?)
}
