//! An instance without a guest: it is alive, it is counted, and it holds its slots.

use super::slots::Room;
use super::state::Share;
use crate::capability::Bound;
use crate::clock::Nanos;
use crate::error::Result;
use crate::limits::Resolved;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) struct Pre;

pub(crate) struct Blueprint {
    pub pre: Pre,
    pub limits: Resolved,
    pub bound: Arc<Bound>,
    pub width: u32,
    pub starts: bool,
    /// Instances of a host, over all its functions.
    pub alive: Alive,
}

/// How many instances there are, and were at most. It is not the checker's: counting is no step of its own.
#[derive(Clone, Default)]
pub(crate) struct Alive(Arc<[AtomicUsize; 2]>);

impl Alive {
    fn one(&self) -> One {
        let now = self.0[0].fetch_add(1, Ordering::SeqCst) + 1;
        self.0[1].fetch_max(now, Ordering::SeqCst);
        One(self.clone())
    }

    pub(crate) fn now(&self) -> usize {
        self.0[0].load(Ordering::SeqCst)
    }

    pub(crate) fn most(&self) -> usize {
        self.0[1].load(Ordering::SeqCst)
    }
}

struct One(Alive);

impl Drop for One {
    fn drop(&mut self) {
        self.0.0[0].fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Origin {
    Fresh,
    Stocked,
    Kept,
}

/// It is dropped before its slots are given back.
pub(crate) struct Lease {
    _one: One,
    life: Life,
    tenant: Option<Arc<str>>,
}

pub(crate) struct Life {
    pub origin: Origin,
    pub calls: u32,
    pub unfinished: u32,
    pub world: Option<()>,
    pub(super) room: Room,
}

impl Blueprint {
    pub(super) fn make(&self, room: Room, _: &Arc<Bound>) -> Lease {
        let life = Life { origin: Origin::Fresh, calls: 0, unfinished: 0, world: None, room };
        Lease { _one: self.alive.one(), life, tenant: None }
    }

    pub(super) fn make_early(&self, room: Room, bound: &Arc<Bound>, _: Nanos) -> Lease {
        self.make(room, bound)
    }

    /// An instance that served another tenant, or that was used before and is not a kept one, must never get here.
    pub(super) fn arm(&self, lease: &mut Lease, share: Share<'_>) {
        let kept = lease.life.origin == Origin::Kept;
        assert_eq!(kept, lease.life.calls > 0, "an instance was used, and came as {:?}", lease.life.origin);
        assert!(!kept || lease.tenant.as_ref() == share.tenant, "an instance of another tenant");
        lease.tenant = share.tenant.cloned();
    }
}

impl Lease {
    pub(crate) fn life(&self) -> &Life {
        &self.life
    }

    pub(crate) fn life_mut(&mut self) -> &mut Life {
        &mut self.life
    }

    pub(crate) fn prepare(&mut self, _: &Blueprint) -> Result<()> {
        Ok(())
    }

    pub(super) fn end_early(&mut self, _: &Arc<Bound>) {}

    pub(super) fn end(&mut self, _: bool) {}

    pub(super) fn has_view(&self) -> bool {
        false
    }

    pub(super) fn tenant(&self) -> Option<&Arc<str>> {
        self.tenant.as_ref()
    }

    /// Nothing that the refiller would have to drop at once.
    pub(super) fn peak(&self) -> u64 {
        0
    }
}
