//! Instances that are started ahead of calls.

use crate::clock::Clock;
use crate::engine::lease::{Lease, Pre};
use crate::engine::pool::Pool;
use crate::engine::ticker::Ticker;
use crate::error::Result;

/// Starts one: others go on while it starts.
pub(crate) async fn start_early(pool: &Pool, _: &Pre, clock: &Clock, _: &Ticker) -> Result<Option<Lease>> {
    let deadline = clock.now().plus(pool.blueprint.limits.deadline);
    let Some(lease) = pool.early(deadline) else { return Ok(None) };
    tokio::task::yield_now().await;
    Ok(Some(lease))
}
