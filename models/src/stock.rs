//! Instances: calls that take them, the refiller that makes them ahead, and what drops them.

use crate::blocking;
use crate::capability::Bound;
use crate::clock::Clock;
use crate::engine;
use crate::engine::lease::{Alive, Blueprint, Lease, Pre};
use crate::engine::pool::Pool;
use crate::engine::reuse::Reuse;
use crate::engine::slots::Slots;
use crate::engine::state::Share;
use crate::engine::stock::{Claim, Stock};
use crate::engine::ticker::Ticker;
use crate::host;
use crate::limits::Resolved;
use crate::refiller;
use crate::run::Task;
use shuttle::future::block_on;
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread::{self, JoinHandle};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A host with a function, and its refiller.
struct House {
    host: Arc<host::Inner>,
    pool: Arc<Pool>,
    alive: Alive,
    instances: u32,
    task: Arc<Task>,
    refiller: JoinHandle<()>,
}

/// What a model is about.
#[derive(Clone)]
struct Plan {
    /// Instances at once, and those that may wait with their stacks.
    instances: u32,
    stacks: u32,
    prewarm: u32,
    reuse: Option<Reuse>,
    /// Whether code runs as an instance starts.
    starts: bool,
}

/// Threads that call.
const CALLERS: u32 = 3;
/// A second, and a little more, after which whatever the refiller puts off is due.
const ROUND: Duration = Duration::from_millis(1_100);

impl House {
    fn new(plan: Plan) -> House {
        let (clock, ticker, alive) = (Clock::new(), Arc::new(Ticker), Alive::default());
        let slots = Slots::new(plan.instances, plan.stacks);
        let host =
            Arc::new(host::Inner { clock: clock.clone(), slots: Arc::clone(&slots), ticker: Arc::clone(&ticker) });
        let stock = (plan.prewarm > 0).then(|| Stock::new(plan.prewarm, Arc::new(BOUND)));
        let pool = Pool::new(blueprint(&alive, plan.starts), Arc::clone(&slots), stock, plan.reuse);
        let task = Arc::new(Task::default());
        let refiller = thread::spawn({
            let task = Arc::clone(&task);
            move || task.run(refiller::run(&slots, &clock, &Arc::downgrade(&ticker)))
        });
        House { host, pool, alive, instances: plan.instances, task, refiller }
    }

    fn caller(&self) -> Caller {
        Caller { host: Arc::clone(&self.host), pool: Arc::clone(&self.pool) }
    }

    /// Another function, of which no instance waits.
    fn other(&self) -> Arc<Pool> {
        Pool::new(blueprint(&self.alive, false), Arc::clone(&self.host.slots), None, None)
    }

    /// Has these run at once, until all have.
    fn all(&self, threads: Vec<Work>) {
        let start = |work: Work| {
            let caller = self.caller();
            thread::spawn(move || work(&caller))
        };
        let threads: Vec<_> = threads.into_iter().map(start).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    /// Nobody calls, and the refiller has nothing to do: then the stock is not low, and nobody says that he fills it.
    fn is_filled(&self) {
        self.task.idle();
        assert!(Claim::on(&self.pool).is_some(), "a stock is claimed, and nobody fills it");
        self.is_asked_for();
    }

    /// Then it is not low, unless somebody has put off filling it.
    fn is_asked_for(&self) {
        self.task.idle();
        let forgotten = Claim::if_low(&self.pool).is_some();
        assert!(!forgotten, "{} instances wait, and nobody makes the rest", self.pool.idle());
    }

    /// When whatever was put off is done, what is alive waits, and nobody says that he fills the stock, and does not.
    fn rests(&self) {
        for _ in 0..3 {
            self.task.idle();
            self.host.clock.advance(ROUND);
        }
        self.task.idle();
        let (alive, idle) = (self.alive.now(), self.pool.idle());
        assert!(alive == idle && alive <= self.instances as usize, "{alive} are alive, {idle} wait");
        if self.pool.stock.is_some() {
            assert!(Claim::on(&self.pool).is_some(), "a stock is claimed for ever");
        }
    }

    /// The host is dropped, and with it all it had. At once, whatever the refiller is about.
    fn ends(self) {
        let House { host, pool, alive, instances, refiller, .. } = self;
        let slots = Arc::downgrade(&host.slots);
        host.slots.close();
        refiller.join().unwrap();
        drop(pool);
        assert_eq!(alive.now(), 0, "instances outlive their host");
        let all = engine::take_spare(&host.slots, instances);
        assert!(all.is_some(), "slots were not given back");
        drop((all, host));
        assert_eq!(Weak::strong_count(&slots), 0, "what waits keeps itself alive");
    }
}

const BOUND: Bound = Bound { function: "model" };

fn blueprint(alive: &Alive, starts: bool) -> Blueprint {
    let (limits, bound) = (Resolved::default(), Arc::new(BOUND));
    Blueprint { pre: Pre, limits, bound, width: 1, starts, alive: alive.clone() }
}

/// A thread that calls.
struct Caller {
    host: Arc<host::Inner>,
    pool: Arc<Pool>,
}

impl Caller {
    /// One call, which ends in one way or another.
    fn call(&self, tenant: Option<&Arc<str>>) {
        let lease = self.lease(tenant);
        thread::yield_now();
        self.done(lease);
    }

    fn lease(&self, tenant: Option<&Arc<str>>) -> Lease {
        let lease = self.pool.lease(Share { tenant, invocation: None });
        if let Some(claim) = Claim::if_low(&self.pool) {
            refiller::fill_later(claim, &self.host);
        }
        lease
    }

    fn done(&self, lease: Lease) {
        match thread_rng().gen_range(0..3) {
            // Dropped, as a call that is cancelled or ends badly.
            0 => drop(lease),
            end => self.pool.retire(lease, end == 1, self.host.clock.now()),
        }
    }

    /// Calls in `block_on`: this thread fills the stock when it has its answer.
    fn blocking(&self, calls: u32) {
        for _ in 0..calls {
            blocking::open();
            self.call(None);
            blocking::close();
        }
    }
}

type Work = Box<dyn FnOnce(&Caller) + Send>;

fn calls(calls: u32) -> Work {
    Box::new(move |caller| (0..calls).for_each(|_| caller.call(None)))
}

/// Fills the stock, whoever else does.
fn fills() -> Work {
    Box::new(|caller| block_on(refiller::fill_now(&caller.pool, &caller.host)))
}

const PLENTY: Plan = Plan { instances: 16, stacks: 16, prewarm: 2, reuse: None, starts: false };

/// Calls take, the refiller makes: each instance is had once, and when all is quiet the stock is not low.
pub fn a_stock_is_filled_again() {
    let house = House::new(PLENTY);
    house.all((0..CALLERS).map(|_| calls(2)).collect());
    house.is_filled();
    house.rests();
    house.ends();
}

/// The same where threads in `block_on` fill it, and may leave that to the refiller.
pub fn callers_fill_the_stock() {
    let house = House::new(PLENTY);
    let blocking = || Box::new(|caller: &Caller| caller.blocking(2)) as Work;
    house.all(vec![blocking(), blocking(), calls(2), fills()]);
    house.is_filled();
    house.rests();
    house.ends();
}

/// Whoever fills it once does not leave it low for those that took meanwhile.
pub fn a_stock_is_filled_beside_calls() {
    let house = House::new(PLENTY);
    house.all(vec![fills(), calls(2)]);
    house.is_filled();
    house.rests();
    house.ends();
}

/// The right to fill a stock is had by one at a time.
pub fn one_fills_at_a_time() {
    let house = House::new(PLENTY);
    let filling = Arc::new(AtomicBool::new(false));
    let fills = || {
        let filling = Arc::clone(&filling);
        Box::new(move |caller: &Caller| {
            for _ in 0..3 {
                let claim = Claim::on(&caller.pool);
                if claim.is_some() {
                    assert!(!filling.swap(true, Ordering::SeqCst), "two fill it");
                    thread::yield_now();
                    filling.store(false, Ordering::SeqCst);
                }
                drop(claim.and_then(Claim::release));
            }
        }) as Work
    };
    house.all(vec![fills(), fills(), fills()]);
    house.rests();
    house.ends();
}

/// Fewer slots than calls and stock would have: no more are alive than there is room for, and what waits gives way.
pub fn slots_are_scarce() {
    let (seats, instances) = (CALLERS, CALLERS);
    let house = House::new(Plan { instances, stacks: 1, starts: true, ..PLENTY });
    house.all((0..CALLERS).map(|_| calls(2)).collect());
    house.task.idle();
    assert!(house.alive.now() <= instances as usize, "{} of {instances} instances", house.alive.now());
    let most = (instances + engine::spare(seats)) as usize;
    assert!(house.alive.most() <= most, "{} instances in a pool of {most}", house.alive.most());
    house.rests();
    house.all(vec![fills()]);
    assert_eq!(house.pool.idle(), 1, "of a stock of 2, with one stack");
    house.rests();
    house.ends();
}

/// Whoever fills takes what nobody else has, of slots and of stacks.
pub fn what_is_spare_is_given_once() {
    let house = House::new(Plan { instances: 3, stacks: 2, prewarm: 8, reuse: None, starts: true });
    house.all(vec![fills(), fills(), fills()]);
    assert!(house.alive.most() <= 3, "{} of 3 instances", house.alive.most());
    assert!(house.pool.idle() <= 2, "{} wait, with 2 stacks", house.pool.idle());
    house.rests();
    house.ends();
}

/// Calls of another function have a right to the slots of instances that wait.
pub fn what_waits_gives_way() {
    let house = House::new(Plan { instances: 3, ..PLENTY });
    house.all(vec![fills()]);
    assert_eq!(house.pool.idle(), 2);
    let other = house.other();
    let calls = [0; 3].map(|_| {
        let other = Arc::clone(&other);
        thread::spawn(move || other.lease(Share { tenant: None, invocation: None }))
    });
    let leases = calls.map(|call| call.join().unwrap());
    assert_eq!((house.alive.now(), house.pool.idle()), (leases.len(), 0));
    drop((leases, other));
    house.rests();
    house.ends();
}

/// A stock that nobody used shrinks while it is taken from, and filled.
pub fn a_stock_shrinks_beside_calls() {
    const IDLE: Duration = Duration::from_secs(31);
    let house = House::new(PLENTY);
    house.all(vec![fills()]);
    assert_eq!(house.pool.idle(), 2);
    let tidy = Box::new(|caller: &Caller| {
        caller.host.clock.advance(IDLE);
        caller.pool.tidy(caller.host.clock.now());
    });
    house.all(vec![tidy, calls(1), calls(1)]);
    house.is_filled();
    assert!((1..=2).contains(&house.pool.idle()), "{} wait", house.pool.idle());
    house.rests();
    house.ends();
}

/// Instances that are kept serve their tenant only, one call at a time; some expire, and some give way to others.
pub fn kept_instances_stay_with_their_tenant() {
    let reuse = Some(Reuse::within_tenant().at_most(3).idle(Duration::from_secs(1)));
    let house = House::new(Plan { instances: 2, stacks: 2, prewarm: 0, reuse, starts: false });
    let of = |tenant: Option<&'static str>| {
        Box::new(move |caller: &Caller| {
            let tenant = tenant.map(Arc::from);
            (0..3).for_each(|_| caller.call(tenant.as_ref()));
        }) as Work
    };
    let tidy = Box::new(|caller: &Caller| {
        for _ in 0..2 {
            caller.host.clock.advance(ROUND);
            caller.pool.tidy(caller.host.clock.now());
        }
    });
    house.all(vec![of(Some("a")), of(Some("a")), of(Some("b")), of(None), tidy]);
    house.rests();
    house.ends();
}

/// Calls that empty the stock sooner than it can be filled: the refiller lets them, and comes back.
pub fn a_stock_that_is_outrun_is_filled_later() {
    let house = House::new(Plan { instances: 64, stacks: 64, prewarm: 20, ..PLENTY });
    house.all((0..CALLERS).map(|_| calls(20)).collect());
    house.is_asked_for();
    house.rests();
    assert!(house.pool.idle() >= 10, "{} wait", house.pool.idle());
    house.ends();
}

/// A host that is dropped while its refiller works keeps nothing.
pub fn a_host_that_ends_keeps_nothing() {
    let house = House::new(PLENTY);
    let caller = house.caller();
    (0..4).for_each(|_| caller.done(caller.lease(None)));
    drop(caller);
    house.ends();
}
