//! How many instances may be alive at once on all engines of a Host, and who gives way when they are short.
//!
//! Every engine's pool has this many slots and [some more](spare), so it cannot be exhausted: a call with a seat takes its
//! slot unasked. Where that is one too many, an instance goes that only waits: of the function with most of them.

use super::pool::{Lease, Pool};
use super::stock::Claim;
use crossbeam_queue::{ArrayQueue, SegQueue};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use tokio::sync::Notify;

/// Slots beyond the number of instances: for those that are being dropped at the moment when a call needs one, by the
/// refiller or, to make room, by another call with a seat.
pub(super) fn spare(seats: u32) -> u32 {
    seats.min(64) + 1
}

/// Stacks for instances that wait: one that has run keeps the stack it ran on.
const STACKS: u32 = 1_024;

/// Stacks that instances which wait may hold, where so many may be alive.
pub(super) fn stacks(instances: u32) -> u32 {
    instances.min(STACKS)
}

/// Used instances that wait to be dropped by the refiller. They hold their slots.
const USED: usize = 256;
/// Pools with waiting instances that are looked at, to find the one that has most.
const LOOK: usize = 8;

pub(crate) struct Slots {
    free: AtomicI64,
    stacks: AtomicI64,
    /// Pools with instances that wait, or did.
    pools: Mutex<Vec<Weak<Pool>>>,
    /// Where the next look at the pools begins.
    next: AtomicUsize,
    used: ArrayQueue<Lease>,
    /// Pools whose stock is low.
    wanted: SegQueue<Claim>,
    closed: AtomicBool,
    /// Rung when there is something to do for the refiller.
    pub bell: Notify,
}

/// The slots of one instance, for as long as it lives.
pub(crate) struct Room {
    slots: Arc<Slots>,
    width: u32,
    has_stack: bool,
}

impl Room {
    /// The instance has run and is to wait: says whether there is a stack that it may keep, for as long as it lives.
    #[inline]
    pub(super) fn keep_stack(&mut self) -> bool {
        if !self.has_stack {
            self.has_stack = self.slots.stacks.fetch_sub(1, Ordering::Relaxed) > 0;
            if !self.has_stack {
                self.slots.stacks.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.has_stack
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.has_stack {
            self.slots.stacks.fetch_add(1, Ordering::Relaxed);
        }
        self.slots.free.fetch_add(self.width.into(), Ordering::Relaxed);
    }
}

impl Slots {
    pub(crate) fn new(total: u32) -> Arc<Slots> {
        Arc::new(Slots {
            free: AtomicI64::new(total.into()),
            stacks: AtomicI64::new(stacks(total).into()),
            pools: Mutex::default(),
            next: AtomicUsize::new(0),
            used: ArrayQueue::new(USED),
            wanted: SegQueue::new(),
            closed: AtomicBool::new(false),
            bell: Notify::new(),
        })
    }

    /// Slots for a call, which has a seat and so a right to them.
    pub(super) fn take(slots: &Arc<Slots>, width: u32) -> Room {
        let before = slots.free.fetch_sub(width.into(), Ordering::Relaxed);
        if before < width.into() {
            slots.make_room();
        }
        Room { slots: Arc::clone(slots), width, has_stack: false }
    }

    /// Slots for an instance that is to wait: only those that nobody else has.
    pub(super) fn take_spare(slots: &Arc<Slots>, width: u32) -> Option<Room> {
        let enough = |free: i64| (free >= width.into()).then(|| free - i64::from(width));
        slots.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enough).ok()?;
        Some(Room { slots: Arc::clone(slots), width, has_stack: false })
    }

    /// Drops what is only waiting until no more are alive than may be.
    #[cold]
    fn make_room(&self) {
        while self.free.load(Ordering::Relaxed) < 0 {
            if let Some(used) = self.used.pop() {
                drop(used);
                continue;
            }
            // Those that call right now hold slots that they are about to give back, or have a right to.
            if !self.richest().is_some_and(|pool| pool.evict()) {
                return;
            }
        }
    }

    /// The pool with the most instances that wait, of some; with thousands of pools, looking at all takes too long.
    fn richest(&self) -> Option<Arc<Pool>> {
        let pools = self.pools.lock();
        let start = self.next.fetch_add(1, Ordering::Relaxed).checked_rem(pools.len())?;
        let from_there = pools[start..].iter().chain(&pools[..start]).filter_map(Weak::upgrade);
        let some = from_there.map(|pool| (pool.idle(), pool)).filter(|(idle, _)| *idle > 0).take(LOOK);
        some.max_by_key(|(idle, _)| *idle).map(|(_, pool)| pool)
    }

    /// Keeps an eye on a pool that may have instances that wait.
    pub(super) fn watch(&self, pool: &Arc<Pool>) {
        let mut pools = self.pools.lock();
        if pools.len() == pools.capacity() {
            pools.retain(|pool| pool.strong_count() > 0);
        }
        pools.push(Arc::downgrade(pool));
    }

    pub(crate) fn pools(&self) -> Vec<Arc<Pool>> {
        self.pools.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Has the refiller drop it; here, if that is behind.
    pub(super) fn drop_later(&self, lease: Lease) {
        drop(self.used.push(lease));
        if self.used.len() == USED / 2 {
            self.bell.notify_one();
        }
    }

    /// Drops what calls have used.
    pub(crate) fn drop_used(&self) {
        while let Some(lease) = self.used.pop() {
            drop(lease);
        }
    }

    /// Has the refiller fill a stock.
    pub(crate) fn want(&self, claim: Claim) {
        self.wanted.push(claim);
        self.bell.notify_one();
    }

    /// There is nobody left to call anything.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.bell.notify_one();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(crate) fn wanted(&self) -> Option<Claim> {
        self.wanted.pop()
    }
}
