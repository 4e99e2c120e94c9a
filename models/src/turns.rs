//! Turns: guests that compute, of which fewer may than would.

use crate::admission::{Admission, Turn};
use crate::clock::Clock;
use shuttle::future::block_on;
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const TICK: Duration = Duration::from_millis(1);
const TURNS: usize = 1;

struct Cores {
    admission: Admission,
    clock: Clock,
    /// Guests that compute: those that have a turn. It is not the checker's, and no step of its own.
    computing: AtomicUsize,
}

impl Cores {
    fn new() -> Arc<Cores> {
        let clock = Clock::new();
        Arc::new(Cores {
            admission: Admission::new(clock.clone(), TICK, 8, 8, TURNS),
            clock,
            computing: AtomicUsize::new(0),
        })
    }

    /// Computes for so many ticks, gives way after each, and waits for something else now and then. It may be dropped
    /// before it is done.
    fn compute(&self, tenant: &Arc<str>, ticks: u32, may_give_up: bool) {
        let busy = TICK.as_nanos() as u64;
        let mut turn = self.heavy(tenant);
        let mut left = ticks;
        block_on(poll_fn(|cx| {
            if may_give_up && thread_rng().gen_bool(0.2) {
                return Poll::Ready(());
            }
            if !turn.begin(self.clock.now(), cx) {
                return Poll::Pending;
            }
            if turn.is_heavy() {
                let computing = self.computing.fetch_add(1, Ordering::SeqCst) + 1;
                assert!(computing <= TURNS, "{computing} guests compute");
                thread::yield_now();
                self.computing.fetch_sub(1, Ordering::SeqCst);
            }
            let gave_way = thread_rng().gen_bool(0.8);
            turn.end(busy, gave_way, self.clock.now(), cx);
            left -= 1;
            if left == 0 {
                return Poll::Ready(());
            }
            // A guest that gives way, and what it waits for besides, has the task polled again.
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
    }

    /// A call that has computed for so long that it needs a turn.
    fn heavy<'a>(&'a self, tenant: &'a Arc<str>) -> Turn<'a> {
        let now = self.clock.now();
        let mut turn = self.admission.turn(Some(tenant), false, now);
        if !turn.is_heavy() {
            turn.end(TICK.as_nanos() as u64, true, now, &Context::from_waker(Waker::noop()));
        }
        turn
    }

    /// No turn is held: the next call that computes has one at once.
    fn are_free(&self) {
        let tenant = "another".into();
        let mut turn = self.admission.turn(Some(&tenant), false, self.clock.now());
        let mut cx = Context::from_waker(Waker::noop());
        turn.end(TICK.as_nanos() as u64, true, self.clock.now(), &cx);
        // It steps aside first.
        let begun = turn.begin(self.clock.now(), &mut cx) || turn.begin(self.clock.now(), &mut cx);
        assert!(turn.is_heavy() && begun, "a turn was lost");
    }
}

/// Whoever computes comes to its turns, however others end. No time passes, so that no turn lapses.
pub fn turns_go_round() {
    let cores = Cores::new();
    let calls = [("a", false), ("a", true), ("b", false), ("b", true)].map(|(tenant, may_give_up)| {
        let cores = Arc::clone(&cores);
        thread::spawn(move || cores.compute(&tenant.into(), 3, may_give_up))
    });
    calls.into_iter().for_each(|call| call.join().unwrap());
    cores.are_free();
}

/// A call is given a turn and never comes for it: the others go on when it lapses.
pub fn a_turn_that_nobody_takes_lapses() {
    let cores = Cores::new();
    let name: Arc<str> = "absent".into();
    let done = Arc::new(AtomicBool::new(false));
    let absent = cores.heavy(&name);
    let ticker = {
        let (cores, done) = (Arc::clone(&cores), Arc::clone(&done));
        thread::spawn(move || {
            // More ticks than any schedule of a few steps needs, so that one that never lapses ends.
            for _ in 0..200 {
                if done.load(Ordering::SeqCst) {
                    return;
                }
                cores.clock.advance(TICK);
                cores.admission.lapse();
                thread::yield_now();
            }
        })
    };
    let calls = ["a", "b"].map(|tenant| {
        let cores = Arc::clone(&cores);
        thread::spawn(move || {
            let tenant = tenant.into();
            let mut turn = cores.heavy(&tenant);
            for _ in 0..2 {
                block_on(poll_fn(|cx| if turn.begin(cores.clock.now(), cx) { Poll::Ready(()) } else { Poll::Pending }));
                turn.end(TICK.as_nanos() as u64, true, cores.clock.now(), &Context::from_waker(Waker::noop()));
            }
        })
    });
    calls.into_iter().for_each(|call| call.join().unwrap());
    done.store(true, Ordering::SeqCst);
    ticker.join().unwrap();
    drop(absent);
    cores.are_free();
}
