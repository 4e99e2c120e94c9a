//! Which guest that computes runs next. Pure: no clock, no locks, no wakers but those it is handed to keep.
//!
//! A call that has computed for half a tick and gives way is *heavy*, and so is each of a tenant whose calls use more than a
//! worker between them: from then on it needs a turn to go on, and there are fewer turns than workers. It keeps its turn for
//! about a tick. Whose tenant has spent least is next; calls of one tenant in the order they asked.
//!
//! Turns are held by calls that may not come back for them: one that is not taken up in time lapses, as does one whose
//! call does not return from its poll. That only ever lets others go on, and takes nothing from a call but its place.

use super::ledger::Ledger;
use slab::Slab;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Waker;

pub(super) struct Turns {
    /// Turns at once.
    most: usize,
    /// Nanoseconds of a tick.
    tick: u64,
    tenants: Ledger<Tenant>,
    turns: Slab<Turn>,
    /// Those given, which count against `most`.
    given: Vec<usize>,
    /// Tenants with a call that waits, by what they have spent.
    order: BTreeSet<(Key, usize)>,
    arrivals: u64,
}

/// What the tenant has spent, and when its first call asked.
type Key = (u64, u64);

#[derive(Default)]
struct Tenant {
    /// Calls that wait, by when they asked.
    waiting: BTreeMap<u64, usize>,
    key: Option<Key>,
}

struct Turn {
    tenant: usize,
    arrival: u64,
    phase: Phase,
    /// What was used of this turn.
    used: u64,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Waits,
    /// Its turn, which begins when the call is polled. Since when, and what its tenant had spent.
    Given {
        since: u64,
        spent: u64,
    },
    Runs {
        since: u64,
    },
    /// It was not there when its turn came; it asks again when it is.
    Lapsed,
}

/// Ticks after which a turn that was not begun lapses, and one that does not end. An instruction that copies all memory has
/// taken 300 of them; a host function that blocks its thread keeps others waiting for so long.
const UNBEGUN: u64 = 2;
const UNENDED: u64 = 512;

impl Turns {
    pub(super) fn new(most: usize, tick: u64) -> Turns {
        Turns {
            most,
            tick,
            tenants: Ledger::new(),
            turns: Slab::new(),
            given: Vec::with_capacity(most),
            order: BTreeSet::new(),
            arrivals: 0,
        }
    }

    /// Whether a call that computed so long since it last waited, and gives way, needs a turn. Less than a tick, as ticks
    /// are not quite even; and more than it takes most calls that a tick happens to fall into.
    pub(super) fn is_heavy(computed: u64, tick: u64) -> bool {
        computed >= tick / 2
    }

    /// Whether calls of that tenant have turns, or wait for theirs.
    pub(super) fn has(&self, tenant: &Arc<str>) -> bool {
        self.tenants.find(Some(tenant)).is_some_and(|id| self.tenants.get(id).users > 0)
    }

    /// Calls that have a turn, wait for it, or have missed it.
    pub(super) fn len(&self) -> usize {
        self.turns.len()
    }

    /// A place among those who wait, for a call that was busy for so long on nobody's account.
    pub(super) fn ask(&mut self, tenant: Option<&Arc<str>>, busy: u64, now: u64, told: &mut Vec<usize>) -> usize {
        let tenant = self.tenants.open(tenant);
        self.tenants.get_mut(tenant).users += 1;
        self.tenants.correct(tenant, 0, busy);
        self.arrivals += 1;
        let turn = Turn { tenant, arrival: self.arrivals, phase: Phase::Waits, used: 0, waker: None };
        let turn = self.turns.insert(turn);
        self.queue(turn);
        self.serve(now, told);
        told.retain(|other| *other != turn);
        turn
    }

    /// Whether the call that is polled now may go on.
    pub(super) fn begin(&mut self, turn: usize, now: u64, told: &mut Vec<usize>) -> bool {
        let lapsed = self.turns[turn].phase == Phase::Lapsed;
        if lapsed {
            self.queue(turn);
            self.serve(now, told);
            told.retain(|other| *other != turn);
        }
        if lapsed && self.turns[turn].phase == Phase::Waits {
            self.take_over(turn, now);
        }
        let phase = &mut self.turns[turn].phase;
        if let Phase::Given { .. } = phase {
            *phase = Phase::Runs { since: now };
        }
        matches!(phase, Phase::Runs { .. })
    }

    /// Whether it is that call's turn, which it has not begun.
    pub(super) fn is_given(&self, turn: usize) -> bool {
        matches!(self.turns[turn].phase, Phase::Given { .. })
    }

    /// Ends the poll that [`begin`](Turns::begin) allowed, after so much busy time. The call gives way and asks for more.
    pub(super) fn give_way(&mut self, turn: usize, busy: u64, now: u64, told: &mut Vec<usize>) {
        let it = &mut self.turns[turn];
        it.used += busy;
        // On fuel a guest gives way more often than each tick.
        if it.used < self.tick / 2 && self.given.contains(&turn) {
            let spent = self.tenants.spent(it.tenant);
            it.phase = Phase::Given { since: now, spent };
            return;
        }
        self.take_back(turn);
        // Those who wait stand before it, if their tenant has spent as much.
        self.arrivals += 1;
        self.turns[turn].arrival = self.arrivals;
        self.queue(turn);
        self.serve(now, told);
        // A call that gives way is polled again without being told.
        told.retain(|other| *other != turn);
    }

    /// The call needs no turn any more: it waits for something else, or has ended, after so much busy time.
    pub(super) fn end(&mut self, turn: usize, busy: u64, now: u64, told: &mut Vec<usize>) -> Option<Waker> {
        let it = &mut self.turns[turn];
        it.used += busy;
        let (tenant, arrival) = (it.tenant, it.arrival);
        match it.phase {
            Phase::Waits => {
                self.tenants.get_mut(tenant).own.waiting.remove(&arrival);
            }
            Phase::Given { .. } | Phase::Runs { .. } => self.take_back(turn),
            Phase::Lapsed => {}
        }
        self.tenants.get_mut(tenant).users -= 1;
        self.rank(tenant);
        let waker = self.turns.remove(turn).waker;
        self.serve(now, told);
        waker
    }

    /// Who is to be told when that turn comes.
    pub(super) fn waker(&mut self, turn: usize) -> &mut Option<Waker> {
        &mut self.turns[turn].waker
    }

    /// Charges busy time that was spent without a turn, to whoever has an account.
    pub(super) fn charge(&mut self, tenant: Option<&Arc<str>>, busy: u64) {
        if let Some(tenant) = self.tenants.find(tenant) {
            self.tenants.correct(tenant, 0, busy);
            self.rank(tenant);
        }
    }

    /// Takes turns from whoever is not there, or does not come back, if others wait.
    pub(super) fn lapse(&mut self, now: u64, told: &mut Vec<usize>) {
        if self.order.is_empty() {
            return;
        }
        for turn in self.given.clone() {
            match self.turns[turn].phase {
                Phase::Given { since, .. } if now.saturating_sub(since) > UNBEGUN * self.tick => {
                    self.take_back(turn);
                    self.turns[turn].phase = Phase::Lapsed;
                }
                // What it uses is booked when it comes back.
                Phase::Runs { since } if now.saturating_sub(since) > UNENDED * self.tick => {
                    self.given.retain(|other| *other != turn);
                }
                _ => {}
            }
        }
        self.serve(now, told);
    }

    /// A call that missed its turn is here now, while others have not come for theirs yet. Where a runtime is slower than
    /// turns lapse, it would miss the next as well, and so would all others.
    fn take_over(&mut self, turn: usize, now: u64) {
        let tenant = self.turns[turn].tenant;
        let own = self.tenants.spent(tenant);
        let missing = self.given.iter().copied().find(|other| match self.turns[*other].phase {
            Phase::Given { spent, .. } => self.turns[*other].tenant == tenant || own <= spent,
            _ => false,
        });
        if let Some(other) = missing {
            self.take_back(other);
            self.queue(other);
            self.give(turn, now);
        }
    }

    /// Gives turns to whom it can.
    fn serve(&mut self, now: u64, told: &mut Vec<usize>) {
        while self.given.len() < self.most
            && let Some((_, tenant)) = self.order.first().copied()
            && let Some((_, turn)) = self.tenants.get(tenant).own.waiting.first_key_value()
        {
            let turn = *turn;
            self.give(turn, now);
            told.push(turn);
        }
    }

    fn queue(&mut self, turn: usize) {
        let it = &mut self.turns[turn];
        (it.phase, it.used) = (Phase::Waits, 0);
        let (tenant, arrival) = (it.tenant, it.arrival);
        self.tenants.ask(tenant);
        self.tenants.get_mut(tenant).own.waiting.insert(arrival, turn);
        self.rank(tenant);
    }

    fn give(&mut self, turn: usize, now: u64) {
        let it = &mut self.turns[turn];
        it.phase = Phase::Given { since: now, spent: self.tenants.spent(it.tenant) };
        let (tenant, arrival) = (it.tenant, it.arrival);
        self.given.push(turn);
        self.tenants.get_mut(tenant).own.waiting.remove(&arrival);
        self.tenants.book(tenant, self.tick);
        self.rank(tenant);
    }

    fn take_back(&mut self, turn: usize) {
        self.given.retain(|other| *other != turn);
        let it = &self.turns[turn];
        let tenant = it.tenant;
        self.tenants.correct(tenant, self.tick, it.used);
        self.rank(tenant);
    }

    /// Puts a tenant where it belongs in the order, after anything about it has changed.
    fn rank(&mut self, tenant: usize) {
        let spent = self.tenants.spent(tenant);
        let own = &mut self.tenants.get_mut(tenant).own;
        let key = own.waiting.first_key_value().map(|(arrival, _)| (spent, *arrival));
        if own.key != key {
            if let Some(old) = std::mem::replace(&mut own.key, key) {
                self.order.remove(&(old, tenant));
            }
            if let Some(key) = key {
                self.order.insert((key, tenant));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TICK: u64 = 1_000;

    fn name(tenant: u8) -> Option<Arc<str>> {
        (tenant > 0).then(|| format!("t{tenant}").into())
    }

    /// A turn that is not begun is passed on, and so is one that does not end; whoever missed it asks again.
    #[test]
    fn turns_that_nobody_takes_lapse() {
        let (mut turns, mut told) = (Turns::new(1, TICK), Vec::new());
        let absent = turns.ask(name(1).as_ref(), 0, 0, &mut told);
        let next = turns.ask(name(2).as_ref(), 0, 0, &mut told);
        turns.lapse(UNBEGUN * TICK, &mut told);
        assert!(told.is_empty(), "not yet");
        turns.lapse(UNBEGUN * TICK + 1, &mut told);
        assert_eq!(std::mem::take(&mut told), [next]);
        assert!(turns.begin(next, 3_000, &mut told));
        assert!(!turns.begin(absent, 3_000, &mut told), "it has to wait now");
        let late = 3_000 + UNENDED * TICK;
        turns.lapse(late, &mut told);
        assert!(told.is_empty(), "not yet");
        turns.lapse(late + 1, &mut told);
        assert_eq!(std::mem::take(&mut told), [absent], "the other does not come back");
        assert!(turns.begin(absent, late + 1, &mut told));
        // Which it does in the end, and waits like everybody.
        turns.give_way(next, late - 3_000, late + 1, &mut told);
        assert!(told.is_empty() && !turns.begin(next, late + 1, &mut told));
        turns.end(absent, 1_000, late + TICK, &mut told);
        assert_eq!(told, [next]);
    }

    /// Where a runtime comes to its tasks later than turns lapse, whoever is there goes on.
    #[test]
    fn a_slow_runtime_still_gets_on() {
        let (mut turns, mut told) = (Turns::new(1, TICK), Vec::new());
        let all: Vec<_> = (0..10).map(|_| turns.ask(name(1).as_ref(), 0, 0, &mut told)).collect();
        let mut ran = [0; 10];
        for now in 1..1_000u64 {
            turns.lapse(now * TICK, &mut told);
            // Each is polled every thirty ticks.
            let Some(which) = (now % 3 == 0).then_some(now as usize / 3 % 10) else { continue };
            if turns.begin(all[which], now * TICK, &mut told) {
                ran[which] += 1;
                turns.give_way(all[which], TICK, now * TICK, &mut told);
            }
        }
        assert!(ran.iter().sum::<u32>() > 200, "{ran:?}");
    }

    /// On fuel a guest gives way often, and keeps its turn for a tick's worth.
    #[test]
    fn a_turn_is_kept_for_a_while() {
        let (mut turns, mut told) = (Turns::new(1, TICK), Vec::new());
        let [first, second] = [1, 2].map(|tenant| turns.ask(name(tenant).as_ref(), 0, 0, &mut told));
        for now in 0..5 {
            assert!(turns.begin(first, now * 100, &mut told), "{now}");
            turns.give_way(first, 100, now * 100, &mut told);
        }
        assert_eq!(told, [second]);
        assert!(!turns.begin(first, 600, &mut told));
    }

    #[derive(Clone, Debug)]
    enum Deed {
        Ask { tenant: u8, busy: u64 },
        Begin(usize),
        GiveWay { which: usize, busy: u64 },
        End { which: usize, busy: u64 },
        Charge { tenant: u8, busy: u64 },
        Later(u64),
    }

    fn deed() -> impl Strategy<Value = Deed> {
        let (which, busy) = (any::<usize>(), 0..3 * TICK);
        prop_oneof![
            2 => (0..5u8, busy.clone()).prop_map(|(tenant, busy)| Deed::Ask { tenant, busy }),
            4 => which.prop_map(Deed::Begin),
            2 => (which, busy.clone()).prop_map(|(which, busy)| Deed::GiveWay { which, busy }),
            1 => (which, busy.clone()).prop_map(|(which, busy)| Deed::End { which, busy }),
            1 => (0..5u8, busy.clone()).prop_map(|(tenant, busy)| Deed::Charge { tenant, busy }),
            1 => (0..10 * TICK).prop_map(Deed::Later),
            1 => (0..2 * UNENDED * TICK).prop_map(Deed::Later),
        ]
    }

    impl Turns {
        fn check(&self) {
            assert!(self.given.len() <= self.most, "more turns than there are");
            assert!(self.given.len() == self.most || self.order.is_empty(), "a turn is free, and one waits");
            for turn in &self.given {
                assert!(matches!(self.turns[*turn].phase, Phase::Given { .. } | Phase::Runs { .. }));
            }
            let waiting = self.turns.iter().filter(|(_, turn)| turn.phase == Phase::Waits).count();
            let queued: usize = self.tenants.iter().map(|(_, account)| account.own.waiting.len()).sum();
            assert_eq!(waiting, queued);
            let ranked = self.tenants.iter().filter(|(_, account)| !account.own.waiting.is_empty()).count();
            assert_eq!(ranked, self.order.len());
        }

        /// After those that are late have lapsed.
        fn check_times(&self, now: u64) {
            let on_time = |turn: &usize| match self.turns[*turn].phase {
                Phase::Given { since, .. } => now - since <= UNBEGUN * TICK,
                Phase::Runs { since } => now - since <= UNENDED * TICK,
                _ => false,
            };
            assert!(self.order.is_empty() || self.given.iter().all(on_time), "one is late, and one waits");
        }
    }

    proptest! {
        #[test]
        fn turns_are_never_exceeded_never_lost_and_never_idle(deeds in prop::collection::vec(deed(), 1..200)) {
            let (mut turns, mut told, mut all, mut now) = (Turns::new(2, TICK), Vec::new(), Vec::new(), 0);
            for deed in deeds {
                match deed {
                    Deed::Ask { tenant, busy } => all.push(turns.ask(name(tenant).as_ref(), busy, now, &mut told)),
                    Deed::Begin(which) if !all.is_empty() => {
                        turns.begin(all[which % all.len()], now, &mut told);
                    }
                    Deed::GiveWay { which, busy } if !all.is_empty() => {
                        let turn = all[which % all.len()];
                        if turns.begin(turn, now, &mut told) {
                            turns.give_way(turn, busy, now, &mut told);
                        }
                    }
                    Deed::End { which, busy } if !all.is_empty() => {
                        let turn = all.swap_remove(which % all.len());
                        turns.end(turn, busy, now, &mut told);
                    }
                    Deed::Charge { tenant, busy } => turns.charge(name(tenant).as_ref(), busy),
                    Deed::Later(time) => {
                        now += time;
                        turns.lapse(now, &mut told);
                        turns.check_times(now);
                    }
                    _ => {}
                }
                turns.check();
            }
            for turn in all {
                turns.end(turn, 0, now, &mut told);
                turns.check();
            }
            prop_assert!(turns.turns.is_empty() && turns.given.is_empty() && turns.order.is_empty());
            prop_assert!(turns.tenants.iter().all(|(_, account)| account.users <= 1 && account.own.waiting.is_empty()));
        }
    }
}
