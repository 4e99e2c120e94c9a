//! What those test with who implement a trait of ours, and those who want to see the limits hold.
//!
//! [`prove`] runs the [`corpus`], guests that were written to break out, against a [`Host`](crate::Host) of yours, and
//! reports which promises held. [`fuzz`] makes hostile guests for host functions of your own.

mod attack;
mod case;
pub mod conformance;
mod corpus;
pub mod fuzz;
mod judge;
mod ledger;
mod promise;
mod prove;
mod report;
mod watch;

pub use case::Case;
pub use corpus::corpus;
pub use promise::Promise;
pub use prove::{Prove, prove};
pub use report::{Finding, Report};
