//! `wasi:cli/run`, 0.2 and 0.3: start it, and read its exit status.

use super::entry::Entry;
use super::lease::Lease;
use super::state::State;
use super::trap::Fault;
use crate::error::{Error, ErrorKind};
use wasmtime::component::Accessor;
use wasmtime_wasi::I32Exit;

/// Runs the program; `exit` is an end like any other.
pub(crate) async fn run(lease: &mut Lease, entry: &Entry) -> Result<i32, Fault> {
    let instance = lease.instance()?;
    let ended = match entry {
        Entry::Command03(indices) => {
            let program = indices.load(&mut lease.store, &instance)?;
            let run = async |accessor: &Accessor<State>| program.wasi_cli_run().call_run(accessor).await;
            lease.store.run_concurrent(run).await.and_then(|ended| ended)
        }
        Entry::Command02(indices) => {
            let program = indices.load(&mut lease.store, &instance)?;
            program.wasi_cli_run().call_run(&mut lease.store).await
        }
        _ => return Err(Error::new(ErrorKind::Internal, "it is no program; please report this").into()),
    };
    match ended {
        Ok(Ok(())) => Ok(0),
        Ok(Err(())) => Ok(1),
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(I32Exit(status)) => Ok(*status),
            None => Err(error.into()),
        },
    }
}
