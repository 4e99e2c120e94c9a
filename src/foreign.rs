//! Runs foreign code, such as a destructor of the embedder's, whose panic must not get further.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub(crate) fn guarded(what: &str, foreign: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(foreign)) {
        tracing::error!("{what} panicked");
        // Dropping the payload may panic again; it is a few bytes, once per such bug.
        std::mem::forget(payload);
    }
}

/// What a panic said.
pub(crate) fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "with a value that is not text".to_owned(),
    };
    guarded("the destructor of a panic's payload", || drop(payload));
    text
}
