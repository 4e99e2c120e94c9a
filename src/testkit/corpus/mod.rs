//! The corpus: guests that were written to break out of their limits, each as small as it gets.
//!
//! A file for each kind of attack, with a table of [`Case`]s: text, no harness. Those of `script.rs` are sources of scripts,
//! all others are components. What becomes of them is said in the table, and held against them by [`prove`](super::prove).

mod abi;
mod capability;
mod compute;
mod http;
mod line;
mod load;
mod memory;
mod output;
mod script;
mod shell;

use super::case::Case;

/// Every hostile guest, as [`prove`](super::prove) runs them.
///
/// ```
/// let corpus = isopod::testkit::corpus();
/// assert!(corpus.len() >= 60);
/// assert!(corpus.iter().any(|case| case.promise() == isopod::testkit::Promise::Deadline));
/// ```
pub fn corpus() -> Vec<Case> {
    [
        compute::cases(),
        memory::cases(),
        abi::cases(),
        output::cases(),
        load::cases(),
        capability::cases(),
        http::cases(),
        line::cases(),
        script::cases(),
    ]
    .concat()
}
