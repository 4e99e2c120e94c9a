//! For callers without async, [`block_on`]; and for work that would block those with it.

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
    with_runtime(|runtime| runtime.block_on(future))
}

/// Does work on this thread that takes long and has nothing to wait for; in [`block_on`]'s runtime, for what starts
/// something there. A thread of the runtime would do it no sooner.
pub(crate) fn in_place<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    with_runtime(|runtime| {
        let _entered = runtime.enter();
        work()
    })
}

/// Does work that takes milliseconds to seconds: not on a thread that runs others' tasks.
pub(crate) async fn unblock<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let Ok(runtime) = Handle::try_current() else {
        let text = "loading needs a tokio runtime; call it in one, or use `load_blocking`";
        return Err(Error::new(ErrorKind::Misuse, text));
    };
    runtime.spawn_blocking(work).await.unwrap_or_else(|e| {
        Err(if e.is_cancelled() {
            Error::new(ErrorKind::Cancelled, "the runtime was shut down while it was loaded")
        } else {
            Error::new(ErrorKind::Internal, "loading failed; please report this").because([e.to_string()])
        })
    })
}

fn with_runtime<T>(work: impl FnOnce(&Runtime) -> Result<T>) -> Result<T> {
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
        work(runtime)
    })
}
