//! Limits, as far as threads meet at them.

use std::time::Duration;

#[derive(Default)]
pub(crate) struct Resolved {
    pub deadline: Duration,
    pub concurrency: u32,
    pub fuel: Option<u64>,
}
