//! Instances that were started ahead and never used: with them a fresh call costs what a warm one does.

use super::lease::Lease;
use super::pool::Pool;
use super::state::Share;
use crate::capability::Bound;
use crate::clock::Nanos;
use crate::sync::ArrayQueue;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// The stock of one function.
pub(crate) struct Stock {
    ready: ArrayQueue<Lease>,
    /// What a guest may reach as it starts, when there is no call.
    pub bound: Arc<Bound>,
    /// How many to have.
    level: AtomicU32,
    /// Calls that found none, since the refiller last looked.
    missed: AtomicU32,
    /// Whether somebody fills it, or was told to.
    asked: AtomicBool,
    /// When an instance was last taken or missed, as the refiller saw it.
    used: AtomicU64,
}

/// The right to fill the stock of a pool, which one has at a time.
pub(crate) struct Claim(Arc<Pool>);

impl Claim {
    /// `None` if somebody fills it already, or there is none.
    pub(crate) fn on(pool: &Arc<Pool>) -> Option<Claim> {
        pool.stock.as_ref()?.claim().then(|| Claim(Arc::clone(pool)))
    }

    /// The same, now that an instance was taken: for one caller, when less than half is left.
    #[inline]
    pub(crate) fn if_low(pool: &Arc<Pool>) -> Option<Claim> {
        pool.stock.as_ref()?.is_low().then(|| Claim::on(pool)).flatten()
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.0
    }

    /// Gives it up, unless less than half is there: whoever took those found the stock claimed, and asked for nothing.
    pub(crate) fn release(self) -> Option<Claim> {
        let pool = Arc::clone(&self.0);
        drop(self);
        Claim::if_low(&pool)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(stock) = &self.0.stock {
            stock.asked.store(false, Ordering::SeqCst);
        }
    }
}

/// How long nobody has to call for the stock to shrink by half.
const IDLE: Duration = Duration::from_secs(30);

impl Stock {
    pub(crate) fn new(most: u32, bound: Arc<Bound>) -> Stock {
        Stock {
            ready: ArrayQueue::new(most.max(1) as usize),
            bound,
            level: AtomicU32::new(most),
            missed: AtomicU32::new(0),
            asked: AtomicBool::new(false),
            used: AtomicU64::new(0),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ready.len()
    }

    /// An instance for that call. A guest that has looked at its environment has not seen what this call brings along.
    #[inline]
    pub(super) fn take(&self, share: &Share<'_>) -> Option<Lease> {
        let Some(lease) = self.ready.pop() else {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        match share.invocation.is_some() && lease.has_view() {
            true => None,
            false => Some(lease),
        }
    }

    /// Whether nobody fills it already; then the caller does. In one order with what was taken before, and with what a
    /// claim's [`release`](Claim::release) sees: either that finds the stock low, or this finds that nobody fills it.
    fn claim(&self) -> bool {
        !self.asked.load(Ordering::SeqCst) && !self.asked.swap(true, Ordering::SeqCst)
    }

    pub(super) fn evict(&self) -> Option<Lease> {
        self.ready.pop()
    }

    /// How many are missing; for whoever is about to make them.
    pub(crate) fn missing(&self, now: Nanos) -> usize {
        let missed = self.missed.swap(0, Ordering::Relaxed);
        let (level, len) = (self.level.load(Ordering::Relaxed), self.ready.len());
        if missed > 0 || len < level as usize {
            self.used.store(now.to_raw(), Ordering::Relaxed);
        }
        let level = grown(level, missed, self.ready.capacity() as u32);
        self.level.store(level, Ordering::Relaxed);
        (level as usize).saturating_sub(len)
    }

    /// Whether as many calls found none as were made meanwhile: then it stays empty, and whoever fills it only takes the
    /// processor's time and caches from those calls, which make their own as quickly.
    pub(crate) fn is_outrun(&self, made: usize) -> bool {
        self.missed.load(Ordering::Relaxed) as usize >= made
    }

    /// Whether less than half is there.
    #[inline]
    fn is_low(&self) -> bool {
        self.ready.len() * 2 < self.level.load(Ordering::Relaxed) as usize
    }

    /// Puts one in, if there is room.
    pub(super) fn put(&self, lease: Lease) {
        drop(self.ready.push(lease));
    }

    /// Lets it shrink if nobody has called for long.
    pub(super) fn shrink(&self, now: Nanos) {
        let level = self.level.load(Ordering::Relaxed);
        let smaller = shrunk(level, now.since(Nanos::from_raw(self.used.load(Ordering::Relaxed))));
        if smaller < level {
            self.level.store(smaller, Ordering::Relaxed);
            self.used.store(now.to_raw(), Ordering::Relaxed);
            self.shrink_to(smaller as usize);
        }
    }

    fn shrink_to(&self, level: usize) {
        while self.ready.len() > level
            && let Some(lease) = self.ready.pop()
        {
            // A call has taken one meanwhile, and found enough left: this one is not too many, and nobody would replace
            // it.
            if self.ready.len() < level {
                return self.put(lease);
            }
        }
    }
}

/// The level of a stock that nobody has called for so long: half, and one at least.
fn shrunk(level: u32, unused: Duration) -> u32 {
    if unused >= IDLE { level.div_ceil(2) } else { level }
}

/// A level that calls found too low: twice as high, and higher by those that missed.
fn grown(level: u32, missed: u32, most: u32) -> u32 {
    match missed {
        0 => level,
        missed => level.saturating_add(missed.max(level)).min(most),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stock_grows_with_those_that_missed_up_to_its_bound() {
        assert_eq!([grown(4, 0, 64), grown(4, 1, 64), grown(4, 20, 64), grown(40, 20, 64)], [4, 8, 24, 64]);
    }

    #[test]
    fn a_stock_that_nobody_uses_shrinks_to_one() {
        let halves = std::iter::successors(Some(10), |level| Some(shrunk(*level, IDLE)));
        assert_eq!(halves.take(6).collect::<Vec<_>>(), [10, 5, 3, 2, 1, 1]);
        assert_eq!(shrunk(10, IDLE - Duration::from_nanos(1)), 10);
    }
}
