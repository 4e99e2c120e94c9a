//! Instances that serve several calls, where the embedder asked for it: of one tenant, one function and one load of it.

use super::pool::Lease;
use crate::clock::Nanos;
use parking_lot::Mutex;
use std::collections::HashMap;
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

type Key = Option<Arc<str>>;

/// The instances of one function that wait for their tenant's next call.
pub(super) struct Kept {
    rule: Reuse,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// For each tenant those that wait, the longest waiting first. No list is empty.
    by_tenant: HashMap<Key, Vec<(Nanos, Lease)>>,
    count: usize,
}

impl Waiting {
    /// The one that waits longest.
    fn oldest(&self) -> Option<(Nanos, Key)> {
        let heads = self.by_tenant.iter().filter_map(|(tenant, list)| Some((list.first()?.0, tenant)));
        heads.min_by_key(|(since, _)| *since).map(|(since, tenant)| (since, tenant.clone()))
    }

    fn remove(&mut self, tenant: &Key, last: bool) -> Option<Lease> {
        let list = self.by_tenant.get_mut(tenant)?;
        let (_, lease) = if last { list.pop()? } else { list.remove(0) };
        self.count -= 1;
        if list.is_empty() {
            self.by_tenant.remove(tenant);
        }
        Some(lease)
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
    pub(super) fn take(&self, tenant: Option<&Arc<str>>) -> Option<Lease> {
        self.waiting.lock().remove(&tenant.cloned(), true)
    }

    /// Keeps it, unless it has served enough.
    pub(super) fn put(&self, lease: Lease, now: Nanos) {
        if lease.served < self.rule.most {
            let tenant = lease.store.data().tenant().cloned();
            let mut waiting = self.waiting.lock();
            waiting.count += 1;
            waiting.by_tenant.entry(tenant).or_default().push((now, lease));
        }
    }

    pub(super) fn evict(&self) -> Option<Lease> {
        let mut waiting = self.waiting.lock();
        let (_, tenant) = waiting.oldest()?;
        waiting.remove(&tenant, false)
    }

    /// Drops those that have waited for too long; says whether others wait.
    pub(super) fn expire(&self, now: Nanos) -> bool {
        loop {
            let mut waiting = self.waiting.lock();
            match waiting.oldest() {
                None => return false,
                Some((since, _)) if now.since(since) < self.rule.idle => return true,
                Some((_, tenant)) => {
                    let lease = waiting.remove(&tenant, false);
                    drop(waiting);
                    // Outside the lock: it takes a while.
                    drop(lease);
                }
            }
        }
    }
}
