//! Whether the guest that this thread polled last gave way of itself, or waits for something.
//!
//! Whoever polls a guest cannot look into its store meanwhile, and a poll is one stretch on one thread; so what has the
//! store leaves word here, and whoever polls looks when the poll returns. A guest within a guest is polled within the
//! poll of the outer one, which finds what became of the inner one.

use std::cell::Cell;

thread_local! {
    static YIELDED: Cell<bool> = const { Cell::new(false) };
}

#[inline]
pub(crate) fn set(yielded: bool) {
    YIELDED.set(yielded);
}

#[inline]
pub(crate) fn get() -> bool {
    YIELDED.get()
}
