//! What several modules need: a host, small guests as text, the built guests.

use isopod::{Error, Function, FunctionBuilder, Host, Limits, Result};
use std::path::PathBuf;

pub(crate) fn host() -> Host {
    Host::new().unwrap()
}

/// The path of a built guest.
pub(crate) fn built(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "guests", "built", &format!("{name}.wasm")].iter().collect()
}

/// A component around one core module that exports `memory`, `realloc` and `run: func()`, from the module's body.
pub(crate) fn runner(body: &str) -> String {
    format!(
        r#"(component
            (core module $m {body})
            (core instance $i (instantiate $m))
            (func (export "run") (canon lift (core func $i "run"))))"#
    )
}

pub(crate) async fn load(builder: FunctionBuilder, limits: Limits) -> Function {
    builder.limits(limits).load().await.unwrap()
}

/// Loads a runner and calls it.
pub(crate) async fn run(body: &str, limits: Limits) -> Result<isopod::Reply<()>> {
    let function = load(host().function("guest").component_wat(runner(body)), limits).await;
    function.call("run", ()).await
}

/// The text of an error with its whole chain.
pub(crate) fn text(error: &Error) -> String {
    format!("{error:?}")
}
