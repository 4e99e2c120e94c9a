//! Which waiting call gets the next seat. Pure: no clock, no locks, no wakers but those it is handed to keep.
//!
//! A call takes permits of its function, of its tenant and of the host, all or none. Calls of one function and one tenant
//! that wait are a *flow*, in the order they came. A flow stands at its function or at its tenant, wherever it was last
//! found that none was free; functions and tenants that have a permit, and somebody standing at them, are `open` and in
//! one order, by what the tenant has spent. Whoever comes to its head and finds the other one full goes to stand there: that
//! is two steps for each time a permit becomes free, so that no release looks at all who wait.
//!
//! Invariants: while nobody in `open` could be served but for the host's permits, nobody waits who could run. A wider
//! call at its head is not overtaken, or it would never find as many free.

use super::ledger::{Ledger, NOBODY};
use slab::Slab;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::task::Waker;

pub(super) struct Seats {
    /// Permits of the host that are free.
    free: u32,
    /// Seats that one tenant may have.
    tenant_seats: u32,
    lines: Slab<Line>,
    tenants: Ledger<Tenant>,
    flows: Slab<Flow>,
    /// By line and tenant.
    index: HashMap<(usize, usize), usize>,
    places: Slab<Place>,
    /// Whoever has a permit and somebody waiting for it, by what the tenant has spent, then by arrival.
    open: BTreeSet<(Key, At)>,
    arrivals: u64,
    waiting: u32,
    /// Nanoseconds of a tick.
    tick: u64,
    /// When somebody last entered or left.
    now: u64,
    /// The tenant that entered last, and until when others are about.
    last: Option<u64>,
    company: u64,
    /// Until when some tenant [crowds](Seats::crowds), if it uses nothing more.
    crowded: u64,
}

/// What a flow's tenant has spent, as far as is known, and when its first call came.
type Key = (u64, u64);

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum At {
    Line(usize),
    Tenant(usize),
}

/// The seats of one function, and who waits for them.
struct Line {
    free: u32,
    /// Seats of the host that a call takes.
    width: u32,
    /// Calls that may wait.
    longest: u32,
    waiting: u32,
    /// What a call costs, in nanoseconds of busy time: an exponential mean over about eight.
    cost: u64,
    standing: BTreeSet<(Key, usize)>,
    /// Its flows by their lengths.
    lengths: BTreeSet<(usize, usize)>,
    opened: Option<Key>,
}

#[derive(Default)]
struct Tenant {
    seats: u32,
    /// Until when one worker would be busy with what its calls have used.
    until: u64,
    /// Flows that stand here: by the arrival of their first call, as all have spent the same.
    standing: BTreeSet<(Key, usize)>,
    opened: Option<Key>,
}

struct Flow {
    line: usize,
    tenant: usize,
    /// Calls by arrival.
    calls: BTreeMap<u64, usize>,
    standing: Option<(At, Key)>,
}

/// A call in a line, and what has become of it.
struct Place {
    flow: usize,
    arrival: u64,
    fate: Fate,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    Waits,
    Seated(Seat),
    /// It had to go for a tenant that had fewer in a full line.
    Displaced,
}

/// Permits that a call has: to be given back by [`leave`](Seats::leave).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Seat {
    line: usize,
    tenant: usize,
    cost: u64,
    /// It is another call's, whose busy time its own is part of: nobody is charged for it twice.
    inner: bool,
}

/// Busy time after which a call tells what it used, in nanoseconds: little beside a tick, and long beside the telling.
pub(super) fn piece(tick: u64) -> u64 {
    (tick / 64).max(10_000)
}

/// How long a tenant is not alone after another's call.
const COMPANY: u64 = 60_000_000_000;

/// Which permits were short.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Short {
    Function,
    Tenant,
    Host,
}

/// What a call that asks gets.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Entry {
    Seated(Seat),
    /// The place to ask at.
    Waits(usize, Short),
    /// It may not wait.
    Refused(Short),
}

/// Nanoseconds that a call costs at least: so that calls that cost nothing take turns as well.
const LEAST: u64 = 1_000;

impl Seats {
    pub(super) fn new(seats: u32, tenant_seats: u32, tick: u64) -> Seats {
        Seats {
            free: seats,
            tenant_seats,
            lines: Slab::new(),
            tenants: Ledger::new(),
            flows: Slab::new(),
            index: HashMap::new(),
            places: Slab::new(),
            open: BTreeSet::new(),
            arrivals: 0,
            waiting: 0,
            tick,
            now: 0,
            last: None,
            company: 0,
            crowded: 0,
        }
    }

    pub(super) fn add_line(&mut self, seats: u32, width: u32, longest: u32) -> usize {
        self.lines.insert(Line {
            free: seats,
            width,
            longest,
            waiting: 0,
            cost: LEAST,
            standing: BTreeSet::new(),
            lengths: BTreeSet::new(),
            opened: None,
        })
    }

    /// Nobody has a seat of it, or waits for one.
    pub(super) fn remove_line(&mut self, line: usize) {
        self.lines.remove(line);
    }

    pub(super) fn free(&self) -> u32 {
        self.free
    }

    /// A seat, if all its permits are free and nobody is overtaken.
    #[inline]
    pub(super) fn try_enter(
        &mut self,
        line: usize,
        tenant: Option<&Arc<str>>,
        may_wait: bool,
        now: u64,
    ) -> Result<Seat, (usize, Short)> {
        let tenant = self.tenants.open(tenant);
        // Clocks of two cores can differ by a little.
        self.now = self.now.max(now);
        let serial = self.tenants.get(tenant).serial;
        // Where there is one tenant with a name there will be others.
        if self.last != Some(serial) && (self.last.replace(serial).is_some() || tenant != NOBODY) {
            self.company = self.now + COMPANY;
        }
        let it = &self.lines[line];
        if it.free == 0 {
            Err((tenant, Short::Function))
        } else if self.is_full(tenant) {
            Err((tenant, Short::Tenant))
        } else if self.free < it.width || (may_wait && !self.open.is_empty()) {
            Err((tenant, Short::Host))
        } else {
            Ok(self.seat(line, tenant, !may_wait))
        }
    }

    /// A seat at once, or a place in the line for whoever may wait. `told` gets the places that were decided.
    pub(super) fn enter(
        &mut self,
        line: usize,
        tenant: Option<&Arc<str>>,
        may_wait: bool,
        now: u64,
        told: &mut Vec<usize>,
    ) -> Entry {
        let (tenant, short) = match self.try_enter(line, tenant, may_wait, now) {
            Err(refused) => refused,
            Ok(seat) => {
                // Whoever was at the head may have lost a permit to one that does not wait, so that another is there.
                self.serve(told);
                return Entry::Seated(seat);
            }
        };
        if !may_wait || !self.make_room(line, tenant, told) {
            return Entry::Refused(short);
        }
        self.tenants.ask(tenant);
        self.tenants.get_mut(tenant).users += 1;
        self.arrivals += 1;
        self.waiting += 1;
        self.lines[line].waiting += 1;
        let flow = *self
            .index
            .entry((line, tenant))
            .or_insert_with(|| self.flows.insert(Flow { line, tenant, calls: BTreeMap::new(), standing: None }));
        let arrival = self.arrivals;
        let place = self.places.insert(Place { flow, arrival, fate: Fate::Waits, waker: None });
        self.change(flow, |calls| calls.insert(arrival, place));
        self.serve(told);
        Entry::Waits(place, short)
    }

    /// Whether nobody waits, so that a seat may be taken and given back without looking at others.
    #[inline]
    pub(super) fn is_calm(&self) -> bool {
        self.waiting == 0
    }

    /// Gives a seat back, after a call that was busy for so long.
    #[inline]
    pub(super) fn leave(&mut self, seat: Seat, busy: u64, now: u64, told: &mut Vec<usize>) {
        self.now = self.now.max(now);
        // The whole pieces are booked.
        let piece = piece(self.tick);
        let rest = match busy {
            _ if seat.inner => 0,
            // Most calls; dividing takes as long as all else here.
            busy if busy < piece => busy,
            busy => busy % piece,
        };
        self.use_up(seat.tenant, rest);
        let line = &mut self.lines[seat.line];
        line.cost = (line.cost - line.cost / 8 + busy / 8).max(LEAST);
        self.give_back(seat, busy, told);
    }

    /// A call of that tenant, which has a seat, has used that much of a worker: whole [pieces](piece), what is left when it
    /// ends is booked then.
    pub(super) fn book(&mut self, tenant: Option<&Arc<str>>, busy: u64, now: u64) {
        self.now = self.now.max(now);
        if let Some(tenant) = self.tenants.find(tenant) {
            self.use_up(tenant, busy);
        }
    }

    #[inline]
    fn use_up(&mut self, tenant: usize, busy: u64) {
        let own = &mut self.tenants.get_mut(tenant).own;
        // What is remembered is enough to tell the next ones.
        own.until = own.until.max(self.now).saturating_add(busy).min(self.now + 2 * self.tick);
        if self.now < self.company {
            self.crowded = self.crowded.max(own.until - self.tick.min(own.until));
        }
    }

    /// Whether that tenant's calls use more than a worker between them, and others are about: then each needs a turn to
    /// begin or to go on, however little it computes at a time.
    pub(super) fn crowds(&self, tenant: Option<&Arc<str>>, now: u64) -> bool {
        let until = self.tenants.find(tenant).map_or(0, |tenant| self.tenants.get(tenant).own.until);
        until > now + self.tick && now < self.company
    }

    /// After this, nobody crowds who uses nothing more.
    pub(super) fn crowded(&self) -> u64 {
        self.crowded
    }

    /// Gives up a place, whatever has become of it. The waker is to be dropped where that may do anything.
    pub(super) fn abandon(&mut self, place: usize, told: &mut Vec<usize>) -> Option<Waker> {
        match self.places[place].fate {
            Fate::Waits => {
                self.decide(place, Fate::Displaced);
                // Perhaps it was what nobody overtakes.
                self.serve(told);
            }
            Fate::Seated(seat) => self.give_back(seat, 0, told),
            Fate::Displaced => {}
        }
        self.places.remove(place).waker
    }

    /// What has become of the call at that place; once it was decided, the place is gone.
    pub(super) fn claim(&mut self, place: usize) -> Fate {
        let fate = self.places[place].fate;
        if fate != Fate::Waits {
            self.places.remove(place);
        }
        fate
    }

    /// Who is to be told when that place is decided.
    pub(super) fn waker(&mut self, place: usize) -> &mut Option<Waker> {
        &mut self.places[place].waker
    }

    fn is_full(&self, tenant: usize) -> bool {
        tenant != NOBODY && self.tenants.get(tenant).own.seats >= self.tenant_seats
    }

    /// Takes the permits, which are free.
    #[inline]
    fn seat(&mut self, line: usize, tenant: usize, inner: bool) -> Seat {
        let it = &mut self.lines[line];
        let cost = if inner { 0 } else { it.cost };
        it.free -= 1;
        self.free -= it.width;
        let account = self.tenants.book(tenant, cost);
        account.own.seats += 1;
        account.users += 1;
        self.reopen_both(line, tenant);
        Seat { line, tenant, cost, inner }
    }

    #[inline]
    fn give_back(&mut self, seat: Seat, busy: u64, told: &mut Vec<usize>) {
        let line = &mut self.lines[seat.line];
        line.free += 1;
        self.free += line.width;
        // What was used while nobody waited for it is not held against anyone.
        let busy = if self.waiting > 0 && !seat.inner { busy } else { 0 };
        let account = self.tenants.correct(seat.tenant, seat.cost, busy);
        account.own.seats -= 1;
        account.users -= 1;
        if self.waiting > 0 {
            self.reopen_both(seat.line, seat.tenant);
            self.serve(told);
        }
    }

    /// Whether one more may wait: if need be, in place of the last of the tenant that has most in that line, and more than
    /// this one would.
    fn make_room(&mut self, line: usize, tenant: usize, told: &mut Vec<usize>) -> bool {
        let it = &self.lines[line];
        if it.waiting < it.longest {
            return true;
        }
        let own = self.index.get(&(line, tenant)).map_or(0, |flow| self.flows[*flow].calls.len());
        let Some((length, most)) = it.lengths.last().filter(|(length, _)| *length > own + 1) else { return false };
        debug_assert!(*length == self.flows[*most].calls.len());
        let Some((_, place)) = self.flows[*most].calls.last_key_value() else { return false };
        let place = *place;
        self.decide(place, Fate::Displaced);
        told.push(place);
        true
    }

    /// Seats whom it can.
    fn serve(&mut self, told: &mut Vec<usize>) {
        while let Some((key, at)) = self.open.first().copied() {
            let Some(flow) = self.head(at) else { return };
            let Flow { line, tenant, .. } = self.flows[flow];
            match at {
                At::Line(_) if self.is_full(tenant) => self.stand(flow, Some(At::Tenant(tenant))),
                At::Line(_) if self.tenants.spent(tenant) > key.0 => self.stand(flow, Some(at)),
                At::Tenant(_) if self.lines[line].free == 0 => self.stand(flow, Some(At::Line(line))),
                _ if self.free < self.lines[line].width => return,
                _ => {
                    let Some((_, place)) = self.flows[flow].calls.first_key_value() else { return };
                    let place = *place;
                    let seat = self.seat(line, tenant, false);
                    self.decide(place, Fate::Seated(seat));
                    told.push(place);
                }
            }
        }
    }

    /// Takes a call that waits out of its line.
    fn decide(&mut self, place: usize, fate: Fate) {
        let it = &mut self.places[place];
        it.fate = fate;
        let (flow, arrival) = (it.flow, it.arrival);
        let Flow { line, tenant, .. } = self.flows[flow];
        self.waiting -= 1;
        self.lines[line].waiting -= 1;
        self.tenants.get_mut(tenant).users -= 1;
        self.change(flow, |calls| calls.remove(&arrival));
    }

    /// Changes who is in a flow. An empty one is gone.
    fn change<R>(&mut self, flow: usize, change: impl FnOnce(&mut BTreeMap<u64, usize>) -> R) {
        let it = &mut self.flows[flow];
        let (line, tenant) = (it.line, it.tenant);
        let before = it.calls.len();
        change(&mut it.calls);
        let after = it.calls.len();
        let lengths = &mut self.lines[line].lengths;
        lengths.remove(&(before, flow));
        if after > 0 {
            lengths.insert((after, flow));
        }
        let full = self.lines[line].free == 0;
        let at = if full { At::Line(line) } else { At::Tenant(tenant) };
        self.stand(flow, (after > 0).then_some(at));
        if after == 0 {
            self.flows.remove(flow);
            self.index.remove(&(line, tenant));
        }
    }

    /// The first of the flows that stand there.
    fn head(&self, at: At) -> Option<usize> {
        match at {
            At::Line(line) => self.lines[line].standing.first(),
            At::Tenant(tenant) => self.tenants.get(tenant).own.standing.first(),
        }
        .map(|(_, flow)| *flow)
    }

    fn stand(&mut self, flow: usize, at: Option<At>) {
        let it = &mut self.flows[flow];
        let first = it.calls.first_key_value().map_or(0, |(arrival, _)| *arrival);
        let key = match at {
            Some(At::Line(_)) => (self.tenants.spent(it.tenant), first),
            _ => (0, first),
        };
        let before = std::mem::replace(&mut it.standing, at.map(|at| (at, key)));
        if let Some((at, key)) = before {
            self.standing(at).remove(&(key, flow));
            self.reopen(at);
        }
        if let Some(at) = at {
            self.standing(at).insert((key, flow));
            self.reopen(at);
        }
    }

    fn standing(&mut self, at: At) -> &mut BTreeSet<(Key, usize)> {
        match at {
            At::Line(line) => &mut self.lines[line].standing,
            At::Tenant(tenant) => &mut self.tenants.get_mut(tenant).own.standing,
        }
    }

    #[inline]
    fn reopen_both(&mut self, line: usize, tenant: usize) {
        if self.waiting > 0 {
            self.reopen(At::Line(line));
            self.reopen(At::Tenant(tenant));
        }
    }

    /// Puts it where it belongs in `open`, after anything about it has changed.
    fn reopen(&mut self, at: At) {
        let (key, opened) = match at {
            At::Line(line) => {
                let it = &mut self.lines[line];
                let first = it.standing.first().filter(|_| it.free > 0);
                (first.map(|(key, _)| *key), &mut it.opened)
            }
            At::Tenant(tenant) => {
                let (full, spent) = (self.is_full(tenant), self.tenants.spent(tenant));
                let own = &mut self.tenants.get_mut(tenant).own;
                let first = own.standing.first().filter(|_| !full);
                (first.map(|((_, first), _)| (spent, *first)), &mut own.opened)
            }
        };
        if *opened != key {
            if let Some(old) = std::mem::replace(opened, key) {
                self.open.remove(&(old, at));
            }
            if let Some(key) = key {
                self.open.insert((key, at));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(tenant: u8) -> Option<Arc<str>> {
        (tenant > 0).then(|| format!("t{tenant}").into())
    }

    /// Who is seated, in the order of `told`.
    struct Room {
        seats: Seats,
        told: Vec<usize>,
    }

    impl Room {
        fn new(seats: u32, tenant_seats: u32) -> Room {
            Room { seats: Seats::new(seats, tenant_seats, 1_000_000), told: Vec::new() }
        }

        fn enter(&mut self, line: usize, tenant: u8) -> Entry {
            self.seats.enter(line, name(tenant).as_ref(), true, 0, &mut self.told)
        }

        fn wait(&mut self, line: usize, tenant: u8) -> usize {
            match self.enter(line, tenant) {
                Entry::Waits(place, _) => place,
                entry => panic!("{entry:?}"),
            }
        }

        fn sit(&mut self, line: usize, tenant: u8) -> Seat {
            match self.enter(line, tenant) {
                Entry::Seated(seat) => seat,
                entry => panic!("{entry:?}"),
            }
        }

        /// Gives that seat back, and who gets it next.
        fn next(&mut self, seat: Seat, busy: u64) -> Vec<(usize, Seat)> {
            self.told.clear();
            self.seats.leave(seat, busy, 0, &mut self.told);
            let told = self.told.clone();
            told.into_iter()
                .map(|place| match self.seats.claim(place) {
                    Fate::Seated(seat) => (place, seat),
                    fate => panic!("{fate:?}"),
                })
                .collect()
        }
    }

    #[test]
    fn tenants_take_turns_whatever_the_flood() {
        let mut room = Room::new(1, 1);
        let line = room.seats.add_line(10, 1, 100);
        let mut seat = room.sit(line, 1);
        let flood: Vec<_> = (0..10).map(|_| room.wait(line, 1)).collect();
        let late: Vec<_> = (0..2).flat_map(|_| [2, 3]).map(|tenant| room.wait(line, tenant)).collect();
        let mut order = Vec::new();
        for _ in 0..14 {
            let next = room.next(seat, 1_000_000);
            assert_eq!(next.len(), 1);
            order.push(next[0].0);
            seat = next[0].1;
        }
        assert!(room.next(seat, 0).is_empty());
        let place = |place: &usize| order.iter().position(|other| other == place).unwrap();
        assert!(late[..2].iter().all(|waiter| place(waiter) < 3), "{order:?}");
        assert!(late[2..].iter().all(|waiter| place(waiter) < 6), "{order:?}");
        assert!(flood.is_sorted_by_key(place), "{order:?}");
    }

    #[test]
    fn what_a_guest_calls_is_charged_once() {
        let mut room = Room::new(3, 4);
        let line = room.seats.add_line(10, 1, 100);
        let outer = room.sit(line, 1);
        let Entry::Seated(inner) = room.seats.enter(line, name(1).as_ref(), false, 0, &mut room.told) else { panic!() };
        let other = room.sit(line, 2);
        let _waits = [2, 2, 2].map(|tenant| room.wait(line, tenant));
        let before = room.seats.tenants.spent(outer.tenant);
        room.next(inner, 10_000_000);
        assert_eq!(room.seats.tenants.spent(outer.tenant), before);
        room.next(outer, 10_000_000);
        assert_eq!(room.seats.tenants.spent(outer.tenant), before - outer.cost + 10_000_000);
        room.next(other, 0);
    }

    #[test]
    fn a_full_tenant_or_function_blocks_nobody_else() {
        let mut room = Room::new(4, 2);
        let (narrow, wide) = (room.seats.add_line(1, 1, 100), room.seats.add_line(10, 1, 100));
        let held = room.sit(narrow, 1);
        let second = room.sit(wide, 1);
        let (full_function, full_tenant) = (room.wait(narrow, 2), room.wait(wide, 1));
        let other = room.sit(wide, 3);
        assert!(room.next(other, 5).is_empty(), "the one waits for its function, the other for its tenant");
        assert_eq!(room.next(second, 5)[0].0, full_tenant);
        assert_eq!(room.next(held, 5)[0].0, full_function);
    }

    #[test]
    fn a_wide_call_is_not_overtaken_for_ever() {
        let mut room = Room::new(3, 3);
        let (narrow, wide) = (room.seats.add_line(10, 1, 100), room.seats.add_line(10, 3, 100));
        let [a, b, c] = [1, 1, 1].map(|tenant| room.sit(narrow, tenant));
        let broad = room.wait(wide, 2);
        room.wait(narrow, 1);
        assert!(room.next(a, 1_000).is_empty() && room.next(b, 1_000).is_empty());
        assert_eq!(room.next(c, 1_000)[0].0, broad);
    }

    #[test]
    fn whoever_floods_a_line_makes_room_in_it() {
        let mut room = Room::new(1, 1);
        let line = room.seats.add_line(1, 1, 4);
        let seat = room.sit(line, 9);
        let flood: Vec<_> = (0..4).map(|_| room.wait(line, 1)).collect();
        assert_eq!(room.enter(line, 1), Entry::Refused(Short::Function), "its own line is full");
        for (tenant, out) in [(2, flood[3]), (2, flood[2])] {
            room.told.clear();
            room.wait(line, tenant);
            assert_eq!(room.told, [out]);
            assert_eq!(room.seats.claim(out), Fate::Displaced);
        }
        assert_eq!(room.enter(line, 2), Entry::Refused(Short::Function), "it would have more than the other");
        room.wait(line, 3);
        room.wait(line, 4);
        assert_eq!(room.enter(line, 5), Entry::Refused(Short::Function), "nobody has more than one");
        assert_eq!(room.next(seat, 1).len(), 1);
    }

    #[test]
    fn a_line_of_none_refuses() {
        let mut room = Room::new(1, 1);
        let line = room.seats.add_line(1, 1, 0);
        let _seat = room.sit(line, 1);
        assert_eq!(room.enter(line, 2), Entry::Refused(Short::Function));
    }

    /// Ten thousand functions, a hundred thousand calls of a thousand tenants that wait, and every bound is reached: it
    /// would take minutes if a release looked at all who wait.
    #[test]
    fn many_may_wait() {
        let (mut seats, mut told) = (Seats::new(500, 3, 1_000_000), Vec::new());
        let lines: Vec<_> = (0..10_000).map(|_| seats.add_line(2, 1, 1_000)).collect();
        let tenants: Vec<Arc<str>> = (0..1_000).map(|n| format!("t{n}").into()).collect();
        let (mut held, mut owners) = (Vec::new(), HashMap::new());
        for n in 0..110_000usize {
            // Every tenth call is of one tenant, and every seventh of one function.
            let tenant = if n % 10 == 0 { 0 } else { n * 7 % tenants.len() };
            let line = if n % 7 == 0 && seats.lines[0].waiting < 900 { 0 } else { n * 13 % lines.len() };
            match seats.enter(lines[line], Some(&tenants[tenant]), true, 0, &mut told) {
                Entry::Seated(seat) => held.push(seat),
                Entry::Waits(place, _) => drop(owners.insert(place, tenant)),
                Entry::Refused(_) => panic!("the lines are long enough"),
            }
        }
        assert!(seats.waiting > 100_000);
        let mut ended = 0;
        while let Some(seat) = held.pop() {
            ended += 1;
            seats.leave(seat, ended % 3_000, 0, &mut told);
            for place in told.drain(..) {
                let Fate::Seated(seat) = seats.claim(place) else { panic!("nobody is displaced") };
                owners.remove(&place);
                held.insert(held.len() / 2, seat);
            }
        }
        assert!(ended == 110_000 && owners.is_empty() && seats.waiting == 0);
    }

    #[derive(Clone, Debug)]
    enum Deed {
        Enter { line: usize, tenant: u8, may_wait: bool },
        Leave { which: usize, busy: u64 },
        Abandon { which: usize },
    }

    fn deed() -> impl Strategy<Value = Deed> {
        prop_oneof![
            3 => (0..4usize, 0..6u8, prop::bool::weighted(0.9))
                .prop_map(|(line, tenant, may_wait)| Deed::Enter { line, tenant, may_wait }),
            2 => (any::<usize>(), 0..5_000u64).prop_map(|(which, busy)| Deed::Leave { which, busy }),
            1 => any::<usize>().prop_map(|which| Deed::Abandon { which }),
        ]
    }

    const LINES: [(u32, u32, u32); 4] = [(2, 1, 6), (3, 1, 6), (1, 2, 6), (5, 3, 3)];
    const SEATS: u32 = 6;
    const TENANT_SEATS: u32 = 3;

    impl Seats {
        /// Counts everything anew.
        fn check(&self, held: &[Seat]) {
            let used: u32 = held.iter().map(|seat| self.lines[seat.line].width).sum();
            assert_eq!(self.free, SEATS - used, "of the host");
            for (id, line) in &self.lines {
                let used = held.iter().filter(|seat| seat.line == id).count() as u32;
                assert_eq!(line.free, LINES[id].0 - used, "of a function");
                assert!(line.waiting <= line.longest);
                let waiting = self.flows.iter().filter(|(_, flow)| flow.line == id).map(|(_, flow)| flow.calls.len());
                assert_eq!(line.waiting as usize, waiting.sum::<usize>());
            }
            for (id, account) in self.tenants.iter() {
                assert!(id == NOBODY || account.own.seats <= TENANT_SEATS, "of a tenant");
            }
            // Work conservation: who could run waits only behind whoever waits for the host alone.
            let head = self.open.first().map(|(_, at)| &self.flows[self.head(*at).unwrap()]);
            assert!(head.is_none_or(|head| self.free < self.lines[head.line].width), "the head could run");
            for (_, flow) in &self.flows {
                assert!(!flow.calls.is_empty());
                let could = self.lines[flow.line].free > 0 && !self.is_full(flow.tenant);
                assert!(!could || head.is_some(), "nobody is at the head, and one waits who could run");
            }
            let waiting = self.places.iter().filter(|(_, place)| place.fate == Fate::Waits).count();
            assert_eq!(self.waiting as usize, waiting);
        }
    }

    proptest! {
        #[test]
        fn permits_are_never_exceeded_never_lost_and_never_idle(deeds in prop::collection::vec(deed(), 1..200)) {
            let mut seats = Seats::new(SEATS, TENANT_SEATS, 1_000_000);
            for (concurrency, width, longest) in LINES {
                seats.add_line(concurrency, width, longest);
            }
            let (mut held, mut waiting, mut told) = (Vec::new(), Vec::new(), Vec::new());
            for deed in deeds {
                match deed {
                    Deed::Enter { line, tenant, may_wait } => {
                        match seats.enter(line, name(tenant).as_ref(), may_wait, 0, &mut told) {
                            Entry::Seated(seat) => held.push(seat),
                            Entry::Waits(place, _) => waiting.push(place),
                            Entry::Refused(_) => {}
                        }
                    }
                    Deed::Leave { which, busy } if !held.is_empty() => {
                        let seat = held.swap_remove(which % held.len());
                        seats.leave(seat, busy, 0, &mut told);
                    }
                    Deed::Abandon { which } if !waiting.is_empty() => {
                        let place = waiting.swap_remove(which % waiting.len());
                        seats.abandon(place, &mut told);
                        told.retain(|other| *other != place);
                    }
                    _ => {}
                }
                // A place that was decided may be given up as well, before its call has heard of it.
                for place in told.drain(..) {
                    if place % 3 == 0 {
                        continue;
                    }
                    waiting.retain(|other| *other != place);
                    if let Fate::Seated(seat) = seats.claim(place) {
                        held.push(seat);
                    }
                }
                let unheard = seats.places.iter().filter_map(|(_, place)| match place.fate {
                    Fate::Seated(seat) => Some(seat),
                    _ => None,
                });
                let all: Vec<_> = held.iter().copied().chain(unheard).collect();
                seats.check(&all);
            }
            for place in waiting {
                seats.abandon(place, &mut told);
            }
            for seat in held {
                seats.leave(seat, 1, 0, &mut told);
            }
            seats.check(&[]);
            prop_assert!(seats.places.is_empty() && seats.flows.is_empty() && seats.open.is_empty() && seats.index.is_empty());
            prop_assert!(seats.tenants.iter().all(|(_, account)| account.own.seats == 0 && account.own.standing.is_empty()));
        }
    }
}
