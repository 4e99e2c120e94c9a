//! Instances that serve several calls, where the embedder asked for it: of one tenant, one function and one load of it.

use super::pool::Lease;
use crate::clock::Nanos;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Lets an instance serve more than one call. Without it, every call has an instance that nobody used before.
///
/// What one call leaves behind in the guest's memory, the next one sees: state, and also what a bug or an attacker left
/// there. So an instance is only ever used again for the same tenant (or for calls without one), by the same
/// [`Function`](crate::Function), and after a call that ended normally: never after an error, a limit or a cancelled call.
/// Limits hold for each call, but for memory: what an instance has grown to, it keeps, and the call that goes beyond the
/// limit fails. A scratch directory is the instance's, not the call's. The embedder's imports are made anew for each call.
///
/// ```
/// use isopod::{Reuse, ms};
///
/// let reuse = Reuse::within_tenant().at_most(1_000).idle(ms(10_000));
/// ```
#[derive(Clone, Debug)]
pub struct Reuse {
    most: u32,
    idle: Duration,
}

impl Reuse {
    /// Calls of one tenant share instances; each instance serves one call at a time, at most 1 000 in all, and is dropped
    /// when it has waited for 10 seconds.
    pub fn within_tenant() -> Reuse {
        Reuse { most: 1_000, idle: Duration::from_secs(10) }
    }

    /// Calls that one instance may serve. Fewer than 2 is an error when the function is loaded.
    pub fn at_most(mut self, calls: u32) -> Reuse {
        self.most = calls;
        self
    }

    /// How long an instance may wait for its next call. Zero is an error when the function is loaded.
    pub fn idle(mut self, limit: Duration) -> Reuse {
        self.idle = limit;
        self
    }

    /// What is contradictory about it.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        match self {
            Reuse { most: 0 | 1, .. } => {
                Err("`Reuse::at_most` of fewer than 2 calls reuses nothing; raise it, or remove the reuse")
            }
            Reuse { idle: Duration::ZERO, .. } => {
                Err("`Reuse::idle` of zero keeps nothing; raise it, or remove the reuse")
            }
            _ => Ok(()),
        }
    }
}

/// The instances of one function that wait for their tenant's next call.
pub(super) struct Kept {
    rule: Reuse,
    waiting: Mutex<Waiting>,
}

/// Of one tenant, the longest waiting first.
type List = VecDeque<(Nanos, Lease)>;

#[derive(Default)]
struct Waiting {
    /// Those of calls without a tenant.
    nobodys: List,
    /// A list may be empty, until somebody looks for what has waited too long.
    by_tenant: HashMap<Arc<str>, List>,
    count: usize,
}

impl Waiting {
    fn list(&mut self, tenant: Option<&Arc<str>>) -> Option<&mut List> {
        match tenant {
            None => Some(&mut self.nobodys),
            Some(tenant) => self.by_tenant.get_mut(tenant),
        }
    }

    /// Puts in the first of its tenant's.
    #[cold]
    fn first(&mut self, now: Nanos, lease: Lease) {
        if let Some(tenant) = lease.store.data().tenant() {
            self.by_tenant.entry(Arc::clone(tenant)).or_default().push_back((now, lease));
        }
    }

    /// The list with the one that waits longest, and since when.
    fn oldest(&mut self) -> Option<(Nanos, &mut List)> {
        let lists = self.by_tenant.values_mut().chain([&mut self.nobodys]);
        lists.filter_map(|list| Some((list.front()?.0, list))).min_by_key(|(since, _)| *since)
    }
}

impl Kept {
    pub(super) fn new(rule: Reuse) -> Kept {
        Kept { rule, waiting: Mutex::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.lock().count
    }

    /// The one that was used last: it is the warmest.
    #[inline]
    pub(super) fn take(&self, tenant: Option<&Arc<str>>) -> Option<Lease> {
        let mut waiting = self.waiting.lock();
        let (_, lease) = waiting.list(tenant)?.pop_back()?;
        waiting.count -= 1;
        Some(lease)
    }

    /// Keeps it, unless it has served enough.
    #[inline]
    pub(super) fn put(&self, lease: Lease, now: Nanos) {
        if lease.life().served < self.rule.most {
            let mut waiting = self.waiting.lock();
            waiting.count += 1;
            match waiting.list(lease.store.data().tenant()) {
                Some(list) => list.push_back((now, lease)),
                None => waiting.first(now, lease),
            }
        }
    }

    pub(super) fn evict(&self) -> Option<Lease> {
        let mut waiting = self.waiting.lock();
        let (_, lease) = waiting.oldest()?.1.pop_front()?;
        waiting.count -= 1;
        Some(lease)
    }

    /// Drops those that have waited for too long.
    pub(super) fn expire(&self, now: Nanos) {
        loop {
            let mut waiting = self.waiting.lock();
            let expired = match waiting.oldest() {
                Some((since, list)) if now.since(since) >= self.rule.idle => list.pop_front(),
                _ => {
                    waiting.by_tenant.retain(|_, list| !list.is_empty());
                    return;
                }
            };
            waiting.count -= usize::from(expired.is_some());
            drop(waiting);
            // Outside the lock: it takes a while.
            drop(expired);
        }
    }
}
