//! `wasi:cli/run`, 0.2 and 0.3: start it, and read its exit status.

use super::pool::{Blueprint, Lease};
use super::{Engine, Pre};
use wasmtime_wasi::I32Exit;

/// Whether there is a program to run.
pub(crate) fn runs(pre: &Pre, engine: &Engine) -> bool {
    let newest = engine.flavour.asynchronous && wasmtime_wasi::p3::bindings::CommandIndices::new(pre).is_ok();
    newest || wasmtime_wasi::p2::bindings::CommandIndices::new(pre).is_ok()
}

/// Runs the program; `exit` is an end like any other.
pub(crate) async fn run(lease: &mut Lease, blueprint: &Blueprint) -> wasmtime::Result<i32> {
    let instance = lease.instance()?;
    let ended = if blueprint.engine.flavour.asynchronous
        && let Ok(indices) = wasmtime_wasi::p3::bindings::CommandIndices::new(&blueprint.pre)
    {
        let program = indices.load(&mut lease.store, &instance)?;
        let run = async |accessor: &wasmtime::component::Accessor<_>| program.wasi_cli_run().call_run(accessor).await;
        lease.store.run_concurrent(run).await.and_then(|ended| ended)
    } else {
        let program =
            wasmtime_wasi::p2::bindings::CommandIndices::new(&blueprint.pre)?.load(&mut lease.store, &instance)?;
        program.wasi_cli_run().call_run(&mut lease.store).await
    };
    match ended {
        Ok(Ok(())) => Ok(0),
        Ok(Err(())) => Ok(1),
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(I32Exit(status)) => Ok(*status),
            None => Err(error),
        },
    }
}
