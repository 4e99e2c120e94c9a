//! Who has had how much: start-time fair queueing between tenants, in virtual time.
//!
//! Each tenant has an account; calls without a tenant share one. `spent` is the busy time that an account had, in
//! nanoseconds, and the lowest is next. Virtual `now` is what the last one served had spent: whoever asks after a rest
//! begins there, so that nobody saves up what he did not use. What is served is booked at its estimated cost, and
//! corrected when the true one is known.

use slab::Slab;
use std::collections::HashMap;
use std::sync::Arc;

/// The account of calls without a tenant.
pub(super) const NOBODY: usize = 0;

/// Accounts that are kept although nobody uses them. One that has spent more than others loses by being kept, so this
/// bounds only how long a debt is remembered: 4 096 tenants that came after.
const KEPT: usize = 4_096;
/// Accounts looked at for each one opened: more than one, so that the ledger shrinks.
const SWEPT: usize = 2;

/// The accounts, each with what its user keeps in it.
pub(super) struct Ledger<A> {
    now: u64,
    accounts: Slab<Account<A>>,
    names: HashMap<Arc<str>, usize>,
    opened: u64,
    /// Where the sweep stands.
    hand: usize,
}

pub(super) struct Account<A> {
    name: Option<Arc<str>>,
    /// No other account has had it, unlike its number.
    pub serial: u64,
    spent: u64,
    /// Who refers to it by its number. It stays until there is nobody.
    pub users: u32,
    pub own: A,
}

impl<A: Default> Ledger<A> {
    pub(super) fn new() -> Ledger<A> {
        let mut accounts = Slab::new();
        // The first key of a slab is 0.
        let nobody = accounts.insert(Account { name: None, serial: 0, spent: 0, users: 1, own: A::default() });
        debug_assert_eq!(nobody, NOBODY);
        Ledger { now: 0, accounts, names: HashMap::new(), opened: 0, hand: 0 }
    }

    /// The number of that tenant's account, which it keeps as long as it has users.
    #[inline]
    pub(super) fn open(&mut self, tenant: Option<&Arc<str>>) -> usize {
        tenant.map_or(NOBODY, |name| self.open_named(name))
    }

    fn open_named(&mut self, name: &Arc<str>) -> usize {
        if let Some(id) = self.names.get(name) {
            return *id;
        }
        self.sweep();
        self.opened += 1;
        let (own, serial) = (A::default(), self.opened);
        let account = Account { name: Some(Arc::clone(name)), serial, spent: self.now, users: 0, own };
        let id = self.accounts.insert(account);
        self.names.insert(Arc::clone(name), id);
        id
    }

    /// Forgets some accounts that make no difference.
    fn sweep(&mut self) {
        for _ in 0..SWEPT {
            self.hand = (self.hand + 1) % self.accounts.capacity().max(1);
            let idle = self.accounts.get(self.hand).filter(|account| account.users == 0);
            if idle.is_some_and(|account| account.spent <= self.now || self.accounts.len() > KEPT) {
                let account = self.accounts.remove(self.hand);
                account.name.map(|name| self.names.remove(&name));
            }
        }
    }

    pub(super) fn find(&self, tenant: Option<&Arc<str>>) -> Option<usize> {
        tenant.map_or(Some(NOBODY), |name| self.names.get(name).copied())
    }

    /// Takes note that it asks, and gives what it has spent.
    pub(super) fn ask(&mut self, id: usize) -> u64 {
        let account = &mut self.accounts[id];
        account.spent = account.spent.max(self.now);
        account.spent
    }

    /// Serves it, at that cost for the present.
    #[inline]
    pub(super) fn book(&mut self, id: usize, cost: u64) -> &mut Account<A> {
        let account = &mut self.accounts[id];
        self.now = self.now.max(account.spent);
        account.spent = self.now.saturating_add(cost);
        account
    }

    /// What was booked at `cost` did cost `spent`.
    #[inline]
    pub(super) fn correct(&mut self, id: usize, cost: u64, spent: u64) -> &mut Account<A> {
        let account = &mut self.accounts[id];
        account.spent = account.spent.saturating_sub(cost).saturating_add(spent);
        account
    }

    pub(super) fn spent(&self, id: usize) -> u64 {
        self.accounts[id].spent
    }

    pub(super) fn get(&self, id: usize) -> &Account<A> {
        &self.accounts[id]
    }

    pub(super) fn get_mut(&mut self, id: usize) -> &mut Account<A> {
        &mut self.accounts[id]
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.accounts.len()
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Account<A>)> {
        self.accounts.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_that_make_no_difference_are_forgotten() {
        let mut ledger = Ledger::<()>::new();
        for n in 0..20 * KEPT {
            let id = ledger.open(Some(&format!("t{n}").into()));
            ledger.ask(id);
            ledger.book(id, 1_000);
        }
        assert!(ledger.len() <= 2 * KEPT, "{}", ledger.len());
        let kept: Arc<str> = "kept".into();
        let id = ledger.open(Some(&kept));
        ledger.get_mut(id).users += 1;
        for n in 0..20 * KEPT {
            ledger.open(Some(&format!("t{n}").into()));
        }
        assert_eq!(ledger.find(Some(&kept)), Some(id));
    }

    #[test]
    fn nobody_saves_up_what_he_did_not_use() {
        let mut ledger = Ledger::<()>::new();
        let [a, b] = ["a", "b"].map(|name| ledger.open(Some(&name.into())));
        for _ in 0..10 {
            ledger.ask(a);
            ledger.book(a, 100);
            ledger.correct(a, 100, 50);
        }
        assert_eq!(
            (ledger.spent(a), ledger.ask(b)),
            (500, 450),
            "b begins at what a had spent when it was last served"
        );
    }
}
