//! Instances that serve several calls, where the embedder asked for it: of one tenant, one function and one load of it.

use super::overlap::Overlapping;
use super::pool::Lease;
use crate::clock::Nanos;
use crate::limits::Resolved;
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
/// One instance serves one call at a time, unless [`overlapping`](Reuse::overlapping) says otherwise.
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
    /// Calls at once in one instance; one, unless said.
    overlapping: Option<u32>,
}

impl Reuse {
    /// Calls of one tenant share instances; each instance serves one call at a time, at most 1 000 in all, and is dropped
    /// when it has waited for 10 seconds.
    pub fn within_tenant() -> Reuse {
        Reuse { most: 1_000, idle: Duration::from_secs(10), overlapping: None }
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

    /// Lets up to `calls` calls run in one instance at once: of one tenant, and each of an `async func` of the component
    /// model, or an http request to a guest of WASI 0.3. While one waits, others go on, with one memory for all of them; and
    /// what starting a guest costs is paid once. Any other call has its instance to itself: of another export, in a session, of
    /// a program, and one that a guest makes.
    ///
    /// What it gives up:
    ///
    /// * **One ends them all.** A trap, a limit, a panic of a host function or too much busy time ends the instance, and every
    ///   call in it. The call that did it ends as it would alone; the others as
    ///   [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled), worth trying again at once. Where nobody can tell which it was,
    ///   as after a panic in a host function that went on beside the guest, all end alike. The next call gets another instance.
    /// * **Nobody can stop one alone.** A call whose deadline passes, or that is dropped, ends for its caller at once. Its guest
    ///   is not told: what it does goes on in the instance while other calls run there, no further call enters, and the
    ///   instance is dropped when the last has ended. If it computes, and does not wait again before the next tick, those others
    ///   end as `Cancelled`. When the last caller is gone, nothing of the guest runs.
    /// * **One that computes holds up the others**, and so does a host function that is no `async func` while it waits. Each of
    ///   them still ends at its own deadline.
    ///
    /// Of the [`Limits`](crate::Limits) these are each call's own: deadline, input, output, transfer, random bytes, host calls,
    /// depth and calls; and busy time, as far as it is of stretches longer than a tick: of shorter ones, and of host calls that
    /// go on beside the guest, all calls in an instance have so many as their number allows. These are all calls' in an instance together: memory, handles, requests under way,
    /// buckets and files; and the log, in which there is room again when a call ends. Each call takes a seat; the instance
    /// takes one slot.
    ///
    /// A receipt has the call's own time, bytes and host calls. Its busy time is what its own task spent on the instance, for
    /// whichever call: the receipts of all add up to what was used. Its peak of memory is the instance's. What the guest wrote
    /// and was refused is told with whichever call ends next, and has a number of the instance's own in logs. A
    /// [`Context`](crate::Context) is that of the call for which the guest made the host call.
    ///
    /// # Errors
    /// When the function is loaded, [`ErrorKind::Misuse`](crate::ErrorKind::Misuse): for fewer than 2, for more than
    /// [`at_most`](Reuse::at_most) or [`Limits::concurrency`](crate::Limits::concurrency) allow, for a component without an
    /// export that can overlap, with [`Limits::fuel`](crate::Limits::fuel), which is counted for a whole instance, and with
    /// [`imports`](crate::FunctionBuilder::imports), which are made for one call each; single host functions by
    /// [`import`](crate::FunctionBuilder::import) are fine.
    ///
    /// ```
    /// use isopod::Reuse;
    ///
    /// let reuse = Reuse::within_tenant().overlapping(16);
    /// ```
    pub fn overlapping(mut self, calls: u32) -> Reuse {
        self.overlapping = Some(calls);
        self
    }

    /// What is contradictory about it, with those limits and with imports that are made for each call.
    pub(crate) fn check(&self, limits: &Resolved, imports: bool) -> Result<(), String> {
        let Reuse { most, idle, overlapping } = *self;
        if most < 2 {
            return Err("`Reuse::at_most` of fewer than 2 calls reuses nothing; raise it, or remove the reuse".into());
        }
        if idle.is_zero() {
            return Err("`Reuse::idle` of zero keeps nothing; raise it, or remove the reuse".into());
        }
        let Some(calls) = overlapping else { return Ok(()) };
        if calls < 2 {
            return Err("`Reuse::overlapping` of fewer than 2 calls overlaps nothing; raise it, or remove it".into());
        }
        for (bound, name) in [(most, "`Reuse::at_most`"), (limits.concurrency, "`Limits::concurrency`")] {
            if calls > bound {
                return Err(format!(
                    "`Reuse::overlapping` of {calls} calls can never be reached with {name} of {bound}; lower it, or raise {name}"
                ));
            }
        }
        if limits.fuel.is_some() {
            return Err("`Reuse::overlapping` and `Limits::fuel` exclude each other: fuel is counted for a whole instance, and not for a call in it; set `Limits::busy` instead".into());
        }
        if imports {
            return Err("`Reuse::overlapping` and imports that are made for each call exclude each other: the instance would have those of one of its calls; give host functions by `.import(..)`, or remove it".into());
        }
        Ok(())
    }

    pub(super) fn overlaps(&self) -> Option<Overlapping> {
        self.overlapping.map(|calls| Overlapping::new(calls, self.most))
    }

    /// Whether several calls are to run in one instance.
    pub(crate) fn is_overlapping(&self) -> bool {
        self.overlapping.is_some()
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
