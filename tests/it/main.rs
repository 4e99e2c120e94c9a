//! The one integration-test binary: a module per subject, real components, public API only.

mod attacks;
mod bad_input;
mod cache;
mod calls;
mod deterministic;
mod dynamic;
mod egress;
mod errors;
mod fairness;
mod files;
mod functions;
#[cfg(feature = "testkit")]
#[allow(dead_code, reason = "its `main` reads arguments")]
#[path = "../../examples/fuzz_imports.rs"]
mod fuzz_imports;
#[cfg(feature = "testkit")]
mod fuzz_kit;
mod grants;
mod guests;
mod imports;
#[cfg(all(feature = "embedded", feature = "testkit"))]
mod keyvalue;
#[cfg(feature = "testkit")]
mod kit;
mod limits;
mod logging;
mod overlap;
mod policy;
mod precompiled;
mod prewarm;
mod profiles;
#[cfg(all(feature = "compiler", feature = "testkit"))]
mod proof;
mod reuse;
// The example checks what it claims.
#[path = "../../examples/saas.rs"]
mod saas;
mod scripts;
mod scripts_access;
mod scripts_snapshot;
#[cfg(feature = "typescript")]
mod scripts_typescript;
mod secrets;
#[allow(dead_code, reason = "its `main` serves for ever")]
#[path = "../../examples/serve.rs"]
mod serve;
mod server;
#[cfg(feature = "testkit")]
#[allow(dead_code, reason = "it runs for minutes; what it decides by is tested")]
#[path = "../../examples/soak.rs"]
mod soak;
mod support;
mod third_party;
mod tidy;
mod typed;
#[cfg(feature = "compiler")]
mod worker;
