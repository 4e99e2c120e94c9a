//! Instances that serve several calls, where the embedder asked for it: of one tenant, one function and one load of it.

use super::lease::Lease;
use super::overlap::Overlapping;
use crate::clock::Nanos;
use crate::limits::Resolved;
use crate::sync::Mutex;
use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Lets an instance serve more than one call. Without it, every call has an instance that nobody used before.
///
/// What one call leaves behind in the guest's memory, the next one sees: state, and also what a bug or an attacker left
/// there. So an instance is only ever used again for the same tenant (or for calls without one), by the same
/// [`Function`](crate::Function), and after a call that ended normally: never after an error, a limit or a cancelled call,
/// nor after a session in which that became of one of its calls, whatever the session made of it.
/// Limits hold for each call, but for memory: what an instance has grown to, it keeps, and the call that goes beyond the
/// limit fails. A scratch directory is the instance's, not the call's. The embedder's imports are made anew for each call.
/// One instance serves one call at a time, unless [`overlapping`](Reuse::overlapping) says otherwise. Over all functions and
/// tenants of a host at most 1 024 instances are kept, 128 with [`Profile::Density`](crate::Profile::Density), together with
/// those of a stock that have run code (see [`HostBuilder::instances`](crate::HostBuilder::instances)); while so many wait,
/// one more is dropped after its call.
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

    /// How long an instance may wait for its next call. A thread of the host looks once a second which have waited for
    /// longer, so that one may be used up to a second later. Zero is an error when the function is loaded.
    pub fn idle(mut self, limit: Duration) -> Reuse {
        self.idle = limit;
        self
    }

    /// Lets up to `calls` calls run in one instance at once: of one tenant, made on one runtime (a thread in
    /// [`block_on`](crate::block_on) has its own), and each of an `async func` of the component model, or an http request to a
    /// guest of WASI 0.3. While one waits, others go on, with one memory for all of them; and what starting a guest costs is
    /// paid once. Any other call has its instance to itself: of another export, in a session, and one that a guest makes.
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
    ///   them still ends at its own deadline. Whatever the guest waits for wakes all of them: dozens of calls in an instance
    ///   are a good number, thousands are not.
    ///
    /// Of the [`Limits`](crate::Limits) these are each call's own: deadline, input, output, transfer, random bytes,
    /// host calls, depth and calls; and busy time, as far as it is of stretches longer than a tick: of shorter ones,
    /// and of host calls that go on beside the guest, all calls in an instance have so many as their number allows.
    /// These are all calls' in an instance together: memory, handles, requests under way, buckets and files; and the
    /// log, in which there is room again when a call ends. Each call takes a seat; the instance takes one slot.
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
    waiting: Mutex<Waiting<Lease>>,
}

/// Of one tenant, the longest waiting first.
type List<T> = VecDeque<(Nanos, T)>;

struct Waiting<T> {
    /// Those of calls without a tenant.
    nobodys: List<T>,
    /// A list may be empty for a while.
    by_tenant: HashMap<Arc<str>, List<T>>,
    /// Each of those lists, by an instant no later than that of its first. It is brought up to date when the list's turn
    /// has come, so that calls of a tenant need not do it.
    order: BinaryHeap<Reverse<(Nanos, Arc<str>)>>,
    count: usize,
}

impl<T> Default for Waiting<T> {
    fn default() -> Waiting<T> {
        Waiting { nobodys: List::new(), by_tenant: HashMap::new(), order: BinaryHeap::new(), count: 0 }
    }
}

impl<T> Waiting<T> {
    fn list(&mut self, tenant: Option<&Arc<str>>) -> Option<&mut List<T>> {
        match tenant {
            None => Some(&mut self.nobodys),
            Some(tenant) => self.by_tenant.get_mut(tenant),
        }
    }

    /// Makes the list of a tenant that has none.
    #[cold]
    fn open(&mut self, tenant: Arc<str>, now: Nanos, one: T) {
        self.order.push(Reverse((now, Arc::clone(&tenant))));
        self.by_tenant.insert(tenant, List::from([(now, one)]));
    }

    /// The tenant whose first waits longest, and since when.
    fn next_tenant(&mut self) -> Option<(Nanos, Arc<str>)> {
        while let Some(mut next) = self.order.peek_mut() {
            let Reverse((at, tenant)) = &*next;
            match self.by_tenant.get(tenant).and_then(List::front) {
                Some((since, _)) if since > at => next.0.0 = *since,
                Some((since, _)) => return Some((*since, Arc::clone(tenant))),
                None => {
                    self.by_tenant.remove(tenant);
                    PeekMut::pop(next);
                }
            }
        }
        None
    }

    /// The one that waits longest, if it has waited since an instant that is `due`.
    fn pop_oldest(&mut self, due: impl Fn(Nanos) -> bool) -> Option<T> {
        let nobodys = self.nobodys.front().map(|(since, _)| *since);
        let (since, list) = match self.next_tenant() {
            Some((since, tenant)) if nobodys.is_none_or(|other| since < other) => {
                (since, self.by_tenant.get_mut(&tenant)?)
            }
            _ => (nobodys?, &mut self.nobodys),
        };
        if !due(since) {
            return None;
        }
        let (_, one) = list.pop_front()?;
        self.count -= 1;
        Some(one)
    }

    /// Forgets empty lists, when they are most.
    fn tidy(&mut self) {
        const FEW: usize = 64;
        if self.by_tenant.len() > 2 * self.count + FEW {
            self.by_tenant.retain(|_, list| !list.is_empty());
            self.order.retain(|Reverse((_, tenant))| self.by_tenant.contains_key(tenant));
        }
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
        if lease.life().calls < self.rule.most {
            let mut waiting = self.waiting.lock();
            waiting.count += 1;
            let tenant = lease.tenant();
            match (waiting.list(tenant), tenant) {
                (None, Some(tenant)) => waiting.open(Arc::clone(tenant), now, lease),
                (Some(list), _) => list.push_back((now, lease)),
                (None, None) => {}
            }
        }
    }

    pub(super) fn evict(&self) -> Option<Lease> {
        self.waiting.lock().pop_oldest(|_| true)
    }

    /// Drops those that have waited for too long.
    pub(super) fn expire(&self, now: Nanos) {
        let mut waiting = self.waiting.lock();
        let due = |since| now.since(since) >= self.rule.idle;
        let expired: Vec<_> = std::iter::from_fn(|| waiting.pop_oldest(due)).collect();
        waiting.tidy();
        drop(waiting);
        // Outside the lock: it takes a while.
        drop(expired);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Waiting<u64> {
        fn put(&mut self, tenant: Option<&Arc<str>>, at: u64) {
            self.count += 1;
            let now = Nanos::from_raw(at);
            match self.list(tenant) {
                Some(list) => list.push_back((now, at)),
                None => self.open(Arc::clone(tenant.unwrap()), now, at),
            }
        }

        fn take(&mut self, tenant: Option<&Arc<str>>) -> Option<u64> {
            let (_, one) = self.list(tenant)?.pop_back()?;
            self.count -= 1;
            Some(one)
        }

        /// All that waits since `last` at the latest.
        fn expire(&mut self, last: u64) -> Vec<u64> {
            std::iter::from_fn(|| self.pop_oldest(|since| since.to_raw() <= last)).collect()
        }
    }

    fn names(count: usize) -> Vec<Arc<str>> {
        (0..count).map(|n| format!("t{n}").into()).collect()
    }

    #[test]
    fn the_longest_waiting_goes_first_whosever_it_is() {
        let (mut waiting, names) = (Waiting::default(), names(3));
        let tenants = [None, Some(&names[0]), Some(&names[1]), Some(&names[2])];
        for at in 0..40 {
            waiting.put(tenants[at as usize * 7 % 4], at);
            // What was used last is used again, so that the first of a list stays, goes, or comes later than it did.
            if at % 3 == 0 {
                let tenant = tenants[at as usize % 4];
                let again = waiting.take(tenant);
                assert!(again.is_none_or(|again| again <= at));
            }
        }
        let (count, oldest) = (waiting.count, waiting.expire(20));
        assert!(oldest.is_sorted() && !oldest.is_empty() && oldest.iter().all(|at| *at <= 20), "{oldest:?}");
        let rest = waiting.expire(u64::MAX);
        assert!(rest.is_sorted() && rest.iter().all(|at| *at > 20), "{rest:?}");
        assert_eq!((waiting.count, oldest.len() + rest.len()), (0, count));
        assert!(waiting.by_tenant.is_empty() && waiting.order.is_empty());
    }

    /// It would take minutes if each that goes were looked for among all tenants.
    #[test]
    fn many_tenants_go_as_quickly_as_few() {
        let (mut waiting, names) = (Waiting::default(), names(20_000));
        for (at, name) in names.iter().enumerate() {
            waiting.put(Some(name), at as u64);
        }
        let started = std::time::Instant::now();
        for at in 0..10_000 {
            assert_eq!(waiting.pop_oldest(|_| true), Some(at));
        }
        assert_eq!(waiting.expire(14_999).len(), 5_000);
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert_eq!((waiting.count, waiting.by_tenant.len() <= 5_001), (5_000, true));
    }

    #[test]
    fn tenants_whose_instances_are_gone_are_forgotten() {
        let (mut waiting, names) = (Waiting::default(), names(1_000));
        for name in &names {
            waiting.put(Some(name), 1);
            waiting.take(Some(name));
        }
        waiting.put(Some(&names[7]), 2);
        waiting.tidy();
        assert_eq!((waiting.by_tenant.len(), waiting.order.len()), (1, 1));
        assert_eq!((waiting.take(Some(&names[7])), waiting.count), (Some(2), 0));
    }
}
