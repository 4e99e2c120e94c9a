//! Who may run, and when: seats for calls, and turns for guests that compute. Fair between tenants.
//!
//! A call takes a seat for its whole life ([`Line::enter`]); a guest that computes takes a turn for about a tick
//! ([`Turn`]). Who is next is decided by `seats` and `turns`, which are pure; here are their locks and their wakers. Each lock
//! is held for one decision; wakers are foreign code, and are cloned, called and dropped outside of it.
//!
//! Whatever was given and not taken is given back: a place, a seat and a turn each end with what stands for them.

mod ledger;
mod seats;
#[cfg(test)]
mod simulation;
mod turns;

pub(crate) use seats::Short;

use crate::clock::{Clock, Nanos};
use crate::foreign::guarded;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use seats::{Entry, Fate, Seats};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use turns::Turns;

/// All seats and turns of a host.
pub(crate) struct Admission {
    clock: Clock,
    tick: u64,
    seats: Mutex<Seats>,
    turns: Mutex<Turns>,
    /// Calls that have a turn or wait for one. While there are none, nobody takes the lock.
    heavy: AtomicUsize,
    /// Until when some tenant's calls use more than their share. After that nobody asks whose.
    crowded: AtomicU64,
}

impl Admission {
    /// `turns` guests at once may compute for longer than a tick.
    pub(crate) fn new(clock: Clock, tick: Duration, seats: u32, tenant_seats: u32, turns: usize) -> Admission {
        let tick = tick.as_nanos() as u64;
        Admission {
            clock,
            tick,
            seats: Mutex::new(Seats::new(seats, tenant_seats, tick)),
            turns: Mutex::new(Turns::new(turns, tick)),
            heavy: AtomicUsize::new(0),
            crowded: AtomicU64::new(0),
        }
    }

    /// Seats that are free.
    pub(crate) fn free_seats(&self) -> u32 {
        self.seats.lock().free()
    }

    /// Takes turns from calls that do not use them. Once per tick.
    pub(crate) fn lapse(&self) {
        if self.heavy.load(Ordering::Relaxed) > 0 {
            self.turns(|turns, now, told| turns.lapse(now, told));
        }
    }

    /// The turns of one call, which has its seat. It needs one to begin if its tenant has others that need turns, or many that
    /// are short: a thousand new calls would each have a tick before they were told from those that compute little. And so it
    /// does if its function `holds` threads, for many ticks at once.
    #[inline]
    pub(crate) fn turn<'a>(&'a self, tenant: Option<&'a Arc<str>>, holds: bool, now: Nanos) -> Turn<'a> {
        let mut turn = Turn { admission: self, tenant, turn: None, computed: 0, owed: 0, unbooked: 0, ahead: 0 };
        let is_heavy =
            || self.heavy.load(Ordering::Relaxed) > 0 && tenant.is_some_and(|name| self.turns.lock().has(name));
        if holds || is_heavy() {
            turn.ask();
        } else {
            turn.ask_if_crowded(now);
        }
        turn
    }

    #[inline]
    fn seats<R>(&self, decide: impl FnOnce(&mut Seats, &mut Vec<usize>) -> R) -> R {
        let mut told = Vec::new();
        let mut seats = self.seats.lock();
        let decision = decide(&mut seats, &mut told);
        if self.crowded.load(Ordering::Relaxed) != seats.crowded() {
            self.crowded.store(seats.crowded(), Ordering::Relaxed);
        }
        if !told.is_empty() {
            let wakers: Vec<_> = told.iter().filter_map(|place| seats.waker(*place).take()).collect();
            drop(seats);
            wake(wakers);
        }
        decision
    }

    fn turns<R>(&self, decide: impl FnOnce(&mut Turns, u64, &mut Vec<usize>) -> R) -> R {
        let now = self.clock.now().to_raw();
        let mut told = Vec::new();
        let mut turns = self.turns.lock();
        let decision = decide(&mut turns, now, &mut told);
        self.heavy.store(turns.len(), Ordering::Relaxed);
        if !told.is_empty() {
            let wakers: Vec<_> = told.iter().filter_map(|turn| turns.waker(*turn).take()).collect();
            drop(turns);
            wake(wakers);
        }
        decision
    }
}

fn wake(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(|waker| guarded("a waker", || waker.wake()));
}

fn forget(waker: Option<Waker>) {
    if let Some(waker) = waker {
        guarded("the destructor of a waker", || drop(waker));
    }
}

/// The seats of one function, and the line for them.
pub(crate) struct Line {
    admission: Arc<Admission>,
    line: usize,
}

/// What a call gets that asks for a seat.
pub(crate) enum Entrance<'a> {
    Seated(Seat<'a>),
    Waits(Waiting<'a>, Short),
    Refused(Short),
}

impl Line {
    /// `concurrency` calls at once, each of which takes `width` seats of the host, and `queue` that wait.
    pub(crate) fn new(admission: &Arc<Admission>, concurrency: u32, width: u32, queue: u32) -> Line {
        let line = admission.seats.lock().add_line(concurrency, width, queue);
        Line { admission: Arc::clone(admission), line }
    }

    /// Takes a seat, or a place in the line for whoever may wait.
    #[inline]
    pub(crate) fn enter(&self, tenant: Option<&Arc<str>>, may_wait: bool, now: Nanos) -> Entrance<'_> {
        let mut seats = self.admission.seats.lock();
        if seats.is_calm()
            && let Ok(seat) = seats.try_enter(self.line, tenant, may_wait, now.to_raw())
        {
            return Entrance::Seated(self.seated(seat));
        }
        drop(seats);
        self.queue(tenant, may_wait, now)
    }

    #[cold]
    fn queue(&self, tenant: Option<&Arc<str>>, may_wait: bool, now: Nanos) -> Entrance<'_> {
        match self.admission.seats(|seats, told| seats.enter(self.line, tenant, may_wait, now.to_raw(), told)) {
            Entry::Seated(seat) => Entrance::Seated(self.seated(seat)),
            Entry::Waits(place, short) => Entrance::Waits(Waiting { line: self, place: Some(place) }, short),
            Entry::Refused(short) => Entrance::Refused(short),
        }
    }

    #[inline]
    fn seated(&self, seat: seats::Seat) -> Seat<'_> {
        Seat { line: self, seat, used: None }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.admission.seats.lock().remove_line(self.line);
    }
}

/// A place among the calls that run at once.
pub(crate) struct Seat<'a> {
    line: &'a Line,
    seat: seats::Seat,
    /// Nanoseconds that its call was busy, and when it ended.
    used: Option<(u64, Nanos)>,
}

impl Seat<'_> {
    /// Its call was busy for so many nanoseconds, and has ended.
    #[inline]
    pub(crate) fn charge(&mut self, busy: u64, now: Nanos) {
        self.used = Some((busy, now));
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let admission = &self.line.admission;
        let (busy, now) = self.used.unwrap_or_else(|| (0, admission.clock.now()));
        admission.seats(|seats, told| seats.leave(self.seat, busy, now.to_raw(), told));
    }
}

/// A place in a line. Dropped, it is given up, with the seat if there was one by then.
pub(crate) struct Waiting<'a> {
    line: &'a Line,
    place: Option<usize>,
}

impl<'a> Future for Waiting<'a> {
    /// `None` if it had to go for a tenant with fewer in the line.
    type Output = Option<Seat<'a>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Seat<'a>>> {
        let Some(place) = self.place else { return Poll::Ready(None) };
        let waker = cx.waker().clone();
        let (fate, idle) = self.line.admission.seats(|seats, _| match seats.claim(place) {
            Fate::Waits => (Fate::Waits, seats.waker(place).replace(waker)),
            fate => (fate, Some(waker)),
        });
        forget(idle);
        let seat = match fate {
            Fate::Waits => return Poll::Pending,
            Fate::Seated(seat) => Some(self.line.seated(seat)),
            Fate::Displaced => None,
        };
        self.place = None;
        Poll::Ready(seat)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            forget(self.line.admission.seats(|seats, told| seats.abandon(place, told)));
        }
    }
}

/// The turns of one call: [`begin`](Turn::begin) before each poll of its guest, [`end`](Turn::end) after it.
pub(crate) struct Turn<'a> {
    admission: &'a Admission,
    tenant: Option<&'a Arc<str>>,
    /// While it is heavy.
    turn: Option<usize>,
    /// Busy time since it last waited for anything but a turn.
    computed: u64,
    /// Busy time that its tenant was not charged for.
    owed: u64,
    /// Busy time that its seat does not know of: less than a piece.
    unbooked: u64,
    /// Busy time on turns since all else on its thread went first.
    ahead: u64,
}

impl Turn<'_> {
    /// Whether it needs a turn.
    pub(crate) fn is_heavy(&self) -> bool {
        self.turn.is_some()
    }

    /// Adds what was used for the call before there was one.
    pub(crate) fn owe(&mut self, busy: u64) {
        self.owed += busy;
        self.unbooked += busy;
    }

    /// Whether the guest may be polled now. If not, the task behind `cx` is woken when it may.
    #[inline]
    pub(crate) fn begin(&mut self, now: Nanos, cx: &mut Context<'_>) -> bool {
        if self.turn.is_none() {
            self.ask_if_crowded(now);
        }
        match self.turn {
            None => true,
            Some(turn) if self.has_to_step_aside(turn) => {
                self.step_aside(cx);
                false
            }
            Some(turn) => self.take(turn, cx),
        }
    }

    /// Whether it is its turn, and it has computed since it last stepped aside. Between the two there may have been others on
    /// its thread, each for a tick.
    #[cold]
    fn has_to_step_aside(&self, turn: usize) -> bool {
        Turns::is_heavy(self.ahead, self.admission.tick) && self.admission.turns.lock().is_given(turn)
    }

    /// Has its thread do all else that is ready first, and look whether there is more: timers and sockets. Of itself a
    /// runtime does that after some dozens of polls, and those of guests that compute each take a tick.
    #[cold]
    fn step_aside(&mut self, cx: &mut Context<'_>) {
        self.ahead = 0;
        // It wakes the task when that is done, and outside of a runtime at once. It is never ready the first time.
        let _ = pin!(tokio::task::yield_now()).poll(cx);
    }

    /// Asks for a turn if its tenant's calls use more than their share: also one that never computes for long at a time, as
    /// many of those are as much.
    #[inline]
    fn ask_if_crowded(&mut self, now: Nanos) {
        if self.admission.crowded.load(Ordering::Relaxed) > now.to_raw() {
            self.look(now);
        }
    }

    #[cold]
    fn look(&mut self, now: Nanos) {
        if self.admission.seats.lock().crowds(self.tenant, now.to_raw()) {
            self.ask();
        }
    }

    #[cold]
    fn ask(&mut self) {
        let (tenant, owed) = (self.tenant, std::mem::take(&mut self.owed));
        self.turn = Some(self.admission.turns(|turns, now, told| turns.ask(tenant, owed, now, told)));
    }

    #[cold]
    fn take(&self, turn: usize, cx: &Context<'_>) -> bool {
        let waker = cx.waker().clone();
        let (begun, idle) = self.admission.turns(|turns, now, told| match turns.begin(turn, now, told) {
            true => (true, Some(waker)),
            false => (false, turns.waker(turn).replace(waker)),
        });
        forget(idle);
        begun
    }

    /// A poll has ended after so many nanoseconds of busy time: the guest gave way, or it has to wait, or is done.
    #[inline]
    pub(crate) fn end(&mut self, busy: u64, gave_way: bool, now: Nanos, cx: &Context<'_>) {
        self.owe(busy);
        self.computed = if gave_way { self.computed + busy } else { 0 };
        if self.unbooked >= seats::piece(self.admission.tick) {
            self.book(now);
        }
        if self.turn.is_some() || (gave_way && Turns::is_heavy(self.computed, self.admission.tick)) {
            self.go_on(gave_way, cx);
        }
    }

    fn book(&mut self, now: Nanos) {
        let rest = self.unbooked % seats::piece(self.admission.tick);
        let busy = std::mem::replace(&mut self.unbooked, rest) - rest;
        self.admission.seats(|seats, _| seats.book(self.tenant, busy, now.to_raw()));
    }

    #[cold]
    fn go_on(&mut self, gave_way: bool, cx: &Context<'_>) {
        let Turn { admission, tenant, turn, .. } = *self;
        let busy = std::mem::take(&mut self.owed);
        self.ahead += busy;
        let waker = gave_way.then(|| cx.waker().clone());
        let (turn, idle) = admission.turns(|turns, now, told| {
            if let (Some(turn), false) = (turn, gave_way) {
                return (None, turns.end(turn, busy, now, told));
            }
            let turn = match turn {
                Some(turn) => {
                    turns.give_way(turn, busy, now, told);
                    turn
                }
                None => turns.ask(tenant, busy, now, told),
            };
            (Some(turn), std::mem::replace(turns.waker(turn), waker))
        });
        self.turn = turn;
        forget(idle);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(turn) = self.turn {
            forget(self.admission.turns(|turns, now, told| turns.end(turn, self.owed, now, told)));
        } else if self.owed > 0 && self.admission.heavy.load(Ordering::Relaxed) > 0 {
            self.admission.turns.lock().charge(self.tenant, self.owed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Wake;

    struct Bomb;

    impl Wake for Bomb {
        fn wake(self: Arc<Self>) {
            panic!("a waker of somebody else's");
        }
    }

    fn admission(seats: u32, turns: usize) -> Arc<Admission> {
        Arc::new(Admission::new(Clock::new(), Duration::from_secs(1), seats, seats, turns))
    }

    fn waits<'a>(entrance: Entrance<'a>) -> Waiting<'a> {
        match entrance {
            Entrance::Waits(waiting, _) => waiting,
            _ => panic!("it does not wait"),
        }
    }

    #[test]
    fn a_waker_that_panics_is_not_the_next_ones_loss() {
        let admission = admission(1, 1);
        let line = Line::new(&admission, 1, 1, 10);
        let enter = || line.enter(None, true, Nanos::from_raw(0));
        let Entrance::Seated(seat) = enter() else { panic!("it is free") };
        let (bomb, calm) = (Waker::from(Arc::new(Bomb)), Waker::noop());
        let (mut first, mut second) = (Box::pin(waits(enter())), pin!(waits(enter())));
        assert!(first.as_mut().poll(&mut Context::from_waker(&bomb)).is_pending());
        assert!(second.as_mut().poll(&mut Context::from_waker(calm)).is_pending());
        drop(seat);
        assert_eq!(admission.free_seats(), 0, "the first has it, though it was not told");
        assert!(second.as_mut().poll(&mut Context::from_waker(calm)).is_pending());
        drop(first);
        let Poll::Ready(Some(seat)) = second.as_mut().poll(&mut Context::from_waker(calm)) else {
            panic!("it is next")
        };
        drop(seat);
        assert_eq!(admission.free_seats(), 1);
    }

    /// Whether it is its turn; it may have to step aside first.
    fn begins(turn: &mut Turn<'_>) -> bool {
        let mut begin = || turn.begin(Nanos::from_raw(0), &mut Context::from_waker(Waker::noop()));
        begin() || begin()
    }

    #[test]
    fn a_function_that_holds_threads_needs_a_turn_to_begin() {
        let admission = admission(8, 1);
        let [holder, other] = ["a", "b"].map(Arc::<str>::from);
        let now = Nanos::from_raw(0);
        let mut first = admission.turn(Some(&holder), true, now);
        assert!(first.is_heavy() && begins(&mut first), "it is nobody's");
        let mut second = admission.turn(Some(&other), true, now);
        assert!(!begins(&mut second), "there is one turn, and the other has it");
        assert!(admission.turn(Some(&other), false, now).is_heavy(), "its tenant's calls are told by it");
        drop(first);
        assert!(begins(&mut second));
    }

    #[test]
    fn a_turn_that_is_dropped_goes_to_the_next() {
        let admission = admission(8, 1);
        let tenant: Arc<str> = "a".into();
        let (cx, now) = (Context::from_waker(Waker::noop()), Nanos::from_raw(0));
        let heavy = || {
            let mut turn = admission.turn(Some(&tenant), false, Nanos::from_raw(0));
            if !turn.is_heavy() {
                turn.end(600_000_000, true, now, &cx);
            }
            turn
        };
        let mut first = heavy();
        assert!(begins(&mut first));
        // Its tenant's next need one to begin.
        let (mut second, mut third) = (heavy(), heavy());
        assert!(!begins(&mut second) && !begins(&mut third));
        // It waits for something else.
        first.end(1_000_000, false, now, &cx);
        assert!(!first.is_heavy() && begins(&mut first));
        assert!(!begins(&mut third));
        drop(second);
        assert!(begins(&mut third));
        drop(third);
        assert_eq!(admission.heavy.load(Ordering::Relaxed), 0);
        assert!(!admission.turn(Some(&tenant), false, Nanos::from_raw(0)).is_heavy());
    }
}
