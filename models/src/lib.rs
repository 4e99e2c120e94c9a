//! The files of isopod in which threads meet (but for overlapping calls and the ticker), compiled once more with a
//! checker's locks, atomics and queues: whichever thread is next is the checker's choice at each of them, and a schedule
//! that breaks a promise is found, printed and can be run again. Each file is isopod's own, by its path; what they stand
//! on stands in for it here, and is small.
//!
//! The checker is [`shuttle`]: it tries schedules at random, so that a model may have as many threads and steps as it
//! takes. What it does not try is what a processor may do besides: to it, each atomic is sequentially consistent.

// The files bring tests of their own along, which are run with isopod, and are no models.
#![cfg(not(test))]
// What isopod does with these files besides is of no use here.
#![allow(dead_code)]

#[path = "../../src/admission/mod.rs"]
mod admission;
#[path = "../../src/foreign.rs"]
mod foreign;
#[path = "../../src/refiller.rs"]
mod refiller;

mod blocking;
mod call;
mod capability;
mod clock;
mod engine;
mod error;
mod host;
mod limits;
mod run;
mod sync;

pub mod line;
pub mod stock;
pub mod turns;

pub use run::check;
