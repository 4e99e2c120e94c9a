//! For callers without async, [`block_on`]; and for work that would block those with it.

use crate::error::{Error, ErrorKind, Result};
use crate::future::BoxFuture;
use std::cell::{OnceCell, RefCell};
use tokio::runtime::{Builder, Handle, Runtime};

thread_local! {
    /// Kept for the thread's life: making one takes longer than most calls.
    static RUNTIME: OnceCell<Runtime> = const { OnceCell::new() };
    /// What this thread is to do when it has its answer; `None` where it is not in [`block_on`].
    static AFTERWARDS: RefCell<Option<Vec<BoxFuture<'static, ()>>>> = const { RefCell::new(None) };
}

/// Runs one of this crate's futures to its end on this thread, with a runtime of the thread's own, which has one worker
/// thread besides. Where a call left less than half of what [`prewarm`](crate::FunctionBuilder::prewarm) keeps ready, this
/// thread fills it up before it returns, if that takes no longer than a millisecond.
///
/// # Errors
/// [`ErrorKind::Misuse`] inside an async runtime, where blocking would stop other tasks: use `.await` there, or
/// `tokio::task::spawn_blocking`. Otherwise what the future gives.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    with_runtime(|runtime| {
        let open = Open::new();
        let answer = runtime.block_on(future);
        for work in open.close() {
            runtime.block_on(work);
        }
        answer
    })
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

/// Has this thread do some work with `it` when it has its answer. Gives `it` back where the thread is not in [`block_on`], or
/// has enough to do.
pub(crate) fn afterwards<T>(it: T, work: impl FnOnce(T) -> BoxFuture<'static, ()>) -> std::result::Result<(), T> {
    /// As each fills one function's stock, and a call of one function rarely calls more others.
    const MOST: usize = 8;
    AFTERWARDS.with_borrow_mut(|list| match list {
        Some(list) if list.len() < MOST => {
            list.push(work(it));
            Ok(())
        }
        _ => Err(it),
    })
}

/// This thread is in [`block_on`].
struct Open;

impl Open {
    fn new() -> Open {
        AFTERWARDS.set(Some(Vec::new()));
        Open
    }

    fn close(self) -> Vec<BoxFuture<'static, ()>> {
        AFTERWARDS.take().unwrap_or_default()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        AFTERWARDS.set(None);
    }
}
