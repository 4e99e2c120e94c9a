//! What those test with who implement a trait of ours, and those who want to see the limits hold.
//!
//! [`prove`] runs the [`corpus`], guests that were written to break out, against a [`Host`](crate::Host) of yours, and
//! reports which promises held. [`Case::load`] has one of them run beside other work.

mod attack;
mod attempt;
mod case;
pub mod conformance;
mod corpus;
mod judge;
mod ledger;
mod promise;
mod prove;
mod report;
mod watch;

pub use attempt::{Attempt, Attempted};
pub use case::Case;
pub use corpus::corpus;
pub use promise::Promise;
pub use prove::{Prove, prove};
pub use report::{Finding, Report};
