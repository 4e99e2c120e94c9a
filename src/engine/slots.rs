//! How many instances may be alive at once on all engines of a Host, and who gives way when they are short.
//!
//! Every engine's pool has this many slots and [some more](spare), so it cannot be exhausted: a call with a seat takes its
//! slot unasked. Where that is one too many, an instance goes that only waits: of the function with most of them, among
//! some that are looked at.

use super::lease::Lease;
use super::pool::Pool;
use super::stock::Claim;
use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use crate::sync::{ArrayQueue, Mutex, SegQueue};
use std::sync::{Arc, Weak};
use tokio::sync::Notify;

/// Slots beyond the number of instances: for those that are being dropped at the moment when a call needs one, by the
/// refiller or, to make room, by another call with a seat.
pub(super) fn spare(seats: u32) -> u32 {
    seats.min(64) + 1
}

/// Used instances that wait to be dropped by the refiller. They hold their slots.
const USED: usize = 256;
/// Bytes of memory of a used instance that are not to wait for the refiller's next round.
const MUCH: u64 = 1 << 20;
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
    /// So many instances, of which so many may wait with the stack that they ran on.
    pub(crate) fn new(instances: u32, stacks: u32) -> Arc<Slots> {
        Arc::new(Slots {
            free: AtomicI64::new(instances.into()),
            stacks: AtomicI64::new(stacks.into()),
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

    /// Whether one more that has run could keep its stack.
    pub(super) fn has_stack(&self) -> bool {
        self.stacks.load(Ordering::Relaxed) > 0
    }

    /// Drops what is only waiting until no more are alive than may be.
    #[cold]
    fn make_room(&self) {
        while self.free.load(Ordering::Relaxed) < 0 {
            if self.drop_one() {
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
        let mut seen = Vec::new();
        let mut found = 0;
        for pool in pools[start..].iter().chain(&pools[..start]).filter_map(Weak::upgrade) {
            let idle = pool.idle();
            found += usize::from(idle > 0);
            seen.push((idle, pool));
            if found == LOOK {
                break;
            }
        }
        drop(pools);
        // The last handle to a pool may be among these, and dropping a pool is not for under the lock.
        seen.into_iter().filter(|(idle, _)| *idle > 0).max_by_key(|(idle, _)| *idle).map(|(_, pool)| pool)
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

    /// Has the refiller drop it: soon, if it holds much; here, if the refiller is behind.
    pub(super) fn drop_later(&self, lease: Lease) {
        let much = lease.peak() > MUCH;
        drop(self.used.push(lease));
        if much || self.used.len() == USED / 2 {
            self.bell.notify_one();
        }
    }

    /// Drops what calls have used.
    pub(crate) fn drop_used(&self) {
        while self.drop_one() {}
    }

    /// Drops one that a call has used; says whether there was one.
    pub(crate) fn drop_one(&self) -> bool {
        self.used.pop().is_some()
    }

    /// Has the refiller fill a stock.
    pub(crate) fn want(&self, claim: Claim) {
        self.wanted.push(claim);
        self.bell.notify_one();
    }

    /// There is nobody left to call anything. What is kept here knows of its slots, and would keep them and itself.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.bell.notify_one();
        self.drop_used();
        while let Some(claim) = self.wanted.pop() {
            drop(claim);
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(crate) fn wanted(&self) -> Option<Claim> {
        self.wanted.pop()
    }
}
