//! Where instances come from: a [`Lease`] is one store with an instance in it, in the hands of one call, or of several
//! that overlap (see [`overlap`](super::overlap)).
//!
//! There are three kinds. A fresh one is made for the call: armed with its limits before anything of the guest runs. A
//! stocked one was started ahead by nobody's order (see [`stock`](super::stock)), never used, and is armed when a call
//! takes it. A kept one served calls of the same tenant before, where the embedder asked for that (see
//! [`reuse`](super::reuse)). But for kept ones, a store serves one call and is dropped, whatever the end was.

use super::lease::{Blueprint, Lease, Origin};
use super::overlap::Overlapping;
use super::reuse::{Kept, Reuse};
use super::slots::Slots;
use super::state::Share;
use super::stock::Stock;
use crate::clock::Nanos;
use std::sync::Arc;

/// The instances of one function.
pub(crate) struct Pool {
    pub blueprint: Blueprint,
    pub slots: Arc<Slots>,
    pub stock: Option<Stock>,
    kept: Option<Kept>,
    /// Where several calls may run in one instance at once.
    pub overlapping: Option<Overlapping>,
}

impl Pool {
    pub(crate) fn new(
        blueprint: Blueprint,
        slots: Arc<Slots>,
        stock: Option<Stock>,
        reuse: Option<Reuse>,
    ) -> Arc<Pool> {
        let overlapping = reuse.as_ref().and_then(Reuse::overlaps);
        let pool = Arc::new(Pool { blueprint, slots, stock, kept: reuse.map(Kept::new), overlapping });
        if pool.stock.is_some() || pool.kept.is_some() {
            pool.slots.watch(&pool);
        }
        pool
    }

    /// A store for one call, armed for it; started already if it is a stocked or a kept one.
    #[inline]
    pub(crate) fn lease(&self, share: Share<'_>) -> Lease {
        let (mut lease, origin) = self.find(&share);
        lease.life_mut().origin = origin;
        self.blueprint.arm(&mut lease, share);
        lease
    }

    #[inline]
    fn find(&self, share: &Share<'_>) -> (Lease, Origin) {
        if let Some(kept) = &self.kept
            && let Some(lease) = kept.take(share.tenant)
        {
            return (lease, Origin::Kept);
        }
        if let Some(stock) = &self.stock
            && let Some(lease) = stock.take(share)
        {
            return (lease, Origin::Stocked);
        }
        let room = Slots::take(&self.slots, self.blueprint.width);
        (self.blueprint.make(room, &self.blueprint.bound), Origin::Fresh)
    }

    /// A store that no call has asked for: what the guest does as it starts has no tenant and reaches nothing.
    /// `None` if there is no slot to spare.
    pub(crate) fn early(&self, deadline: Nanos) -> Option<Lease> {
        let stock = self.stock.as_ref()?;
        let room = Slots::take_spare(&self.slots, self.blueprint.width)?;
        Some(self.blueprint.make_early(room, &stock.bound, deadline))
    }

    /// Whether an instance that is started now could wait, as it looks.
    pub(crate) fn has_place(&self) -> bool {
        !self.blueprint.starts || self.slots.has_stack()
    }

    /// Puts a started instance into the stock; says whether it may wait there.
    pub(crate) fn put(&self, mut lease: Lease) -> bool {
        let Some(stock) = &self.stock else { return false };
        if self.blueprint.starts && !lease.life_mut().room.keep_stack() {
            return false;
        }
        lease.end_early(&self.blueprint.bound);
        stock.put(lease);
        true
    }

    /// Takes a store back whose call ended as its guest meant it to, or drops it.
    #[inline]
    pub(crate) fn retire(&self, mut lease: Lease, well: bool, now: Nanos) {
        let life = lease.life_mut();
        life.calls += 1;
        let origin = life.origin;
        if well
            && life.unfinished == 0
            && let Some(kept) = &self.kept
            && life.room.keep_stack()
            && (life.world.is_some() || lease.prepare(&self.blueprint).is_ok())
        {
            lease.end(true);
            kept.put(lease, now);
        } else if origin == Origin::Stocked {
            // Dropping the store takes longer than the rest of such a call: not here, where somebody waits for the answer.
            lease.end(false);
            self.slots.drop_later(lease);
        }
    }

    /// Instances that wait for a call.
    pub(crate) fn idle(&self) -> usize {
        self.stock.as_ref().map_or(0, Stock::len) + self.kept.as_ref().map_or(0, Kept::len)
    }

    /// Gives up one instance that waits; says whether there was one.
    pub(super) fn evict(&self) -> bool {
        let kept = self.kept.as_ref().and_then(Kept::evict);
        kept.or_else(|| self.stock.as_ref().and_then(Stock::evict)).is_some()
    }

    /// Drops what has waited for too long, and lets the stock shrink while nobody calls.
    pub(crate) fn tidy(&self, now: Nanos) {
        if let Some(kept) = &self.kept {
            kept.expire(now);
        }
        if let Some(stock) = &self.stock {
            stock.shrink(now);
        }
    }
}
