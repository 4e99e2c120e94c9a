//! For callers without async: [`block_on`].

use crate::error::{Error, ErrorKind, Result};
use std::cell::OnceCell;
use tokio::runtime::{Builder, Handle, Runtime};

thread_local! {
    /// Kept for the thread's life: making one takes longer than most calls.
    static RUNTIME: OnceCell<Runtime> = const { OnceCell::new() };
}

/// Runs one of this crate's futures to its end on this thread, with a runtime of the thread's own, which has one worker
/// thread besides.
///
/// # Errors
/// [`ErrorKind::Misuse`] inside an async runtime, where blocking would stop other tasks: use `.await` there, or
/// `tokio::task::spawn_blocking`. Otherwise what the future gives.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    if Handle::try_current().is_ok() {
        return Err(Error::new(
            ErrorKind::Misuse,
            "a blocking call inside an async runtime would stop other tasks; use `.await`, or call it in `spawn_blocking`",
        ));
    }
    RUNTIME.with(|cell| {
        let runtime = match cell.get() {
            Some(runtime) => runtime,
            None => {
                // With a thread of its own: what calls share, such as connections and a secret that is being asked for, goes
                // on between two calls of this thread, for others to use.
                let made = Builder::new_multi_thread().worker_threads(1).thread_name("isopod").enable_all().build();
                let made =
                    made.map_err(|e| Error::from_io(ErrorKind::Misuse, "this thread can have no runtime", &e))?;
                cell.get_or_init(|| made)
            }
        };
        runtime.block_on(future)
    })
}
