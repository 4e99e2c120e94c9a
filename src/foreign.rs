//! Runs foreign code, such as a destructor of the embedder's, whose panic must not get further.

use std::panic::{AssertUnwindSafe, catch_unwind};

pub(crate) fn guarded(what: &str, foreign: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(foreign)) {
        tracing::error!("{what} panicked");
        // Dropping the payload may panic again; it is a few bytes, once per such bug.
        std::mem::forget(payload);
    }
}
