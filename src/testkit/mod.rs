//! What those test with who write plugins or host functions, who implement a trait of ours, and who want to see the limits
//! hold.
//!
//! [`Host`] runs functions as your application does, and has the test say what is around them: what their imports answer,
//! what comes back from other machines, what time it is, what fails.
//!
//! [`prove`] runs the [`corpus`], guests that were written to break out, against a [`Host`](crate::Host) of yours, and
//! reports which promises held; [`Case::load`] has one of them run beside other work. [`fuzz`] makes hostile guests for host
//! functions of your own.

mod attack;
mod attempt;
mod capture;
mod case;
mod clock;
pub mod conformance;
mod corpus;
mod exchange;
mod faults;
pub mod fuzz;
mod host;
mod judge;
mod ledger;
mod mocks;
mod promise;
mod prove;
mod report;
mod watch;

pub use attempt::{Attempt, Attempted};
pub use capture::{Logged, Used};
pub use case::Case;
pub use clock::Clock;
pub use corpus::corpus;
pub use exchange::Exchange;
pub use faults::Faults;
pub use host::Host;
pub use mocks::{Asked, Mock};
pub use promise::Promise;
pub use prove::{Prove, prove};
pub use report::{Finding, Report};
