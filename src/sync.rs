//! What threads meet at: locks, atomics and queues. `models/` compiles the files that take them from here, with those
//! of a checker, which tries in which ways the threads can come between each other.

pub(crate) use crossbeam_queue::{ArrayQueue, SegQueue};
pub(crate) use parking_lot::Mutex;
pub(crate) use std::sync::atomic;
