//! Seats and lines: callers that wait, are refused, displaced or give up, at any moment.

use crate::admission::{Admission, Entrance, Line, Seat, Waiting};
use crate::clock::{Clock, Nanos};
use shuttle::future::block_on;
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

/// A host's seats, lines and tenants, and who is there. What counts is not the checker's: it is no step of its own.
struct House {
    admission: Arc<Admission>,
    lines: Vec<(Line, Width, Count)>,
    tenants: [(Arc<str>, Count); 2],
    all: Count,
}

#[derive(Clone, Copy)]
struct Width {
    concurrency: u32,
    seats: u32,
}

struct Count {
    now: AtomicU32,
    most: u32,
}

impl Count {
    fn new(most: u32) -> Count {
        Count { now: AtomicU32::new(0), most }
    }

    fn add(&self, more: u32) {
        let now = self.now.fetch_add(more, Ordering::SeqCst) + more;
        assert!(now <= self.most, "{now} of {}", self.most);
    }

    fn sub(&self, less: u32) {
        self.now.fetch_sub(less, Ordering::SeqCst);
    }
}

const TENANT_SEATS: u32 = 1;

/// Whom a call is for: one of the tenants, or nobody.
type Whom = Option<usize>;

/// What became of a caller.
#[derive(Debug, Eq, PartialEq)]
enum End {
    Ran,
    Refused,
    Displaced,
    GaveUp,
}

impl House {
    /// Lines of so many calls at once, of so many seats each, and of so many that wait.
    fn new(seats: u32, lines: &[(u32, u32, u32)]) -> Arc<House> {
        let tick = Duration::from_millis(1);
        let admission = Arc::new(Admission::new(Clock::new(), tick, seats, TENANT_SEATS, 1));
        let line = |(concurrency, width, queue): &(u32, u32, u32)| {
            let line = Line::new(&admission, *concurrency, *width, *queue);
            (line, Width { concurrency: *concurrency, seats: *width }, Count::new(*concurrency))
        };
        let lines = lines.iter().map(line).collect();
        let tenants = ["a", "b"].map(|name| (name.into(), Count::new(TENANT_SEATS)));
        Arc::new(House { admission, lines, tenants, all: Count::new(seats) })
    }

    fn name(&self, whom: Whom) -> Option<&Arc<str>> {
        whom.map(|tenant| &self.tenants[tenant].0)
    }

    fn enter(&self, line: usize, whom: Whom, may_wait: bool) -> Entrance<'_> {
        self.lines[line].0.enter(self.name(whom), may_wait, Nanos::from_raw(0))
    }

    /// Makes a call, and gives up after it was polled so many times.
    fn call(&self, line: usize, whom: Whom, patience: Option<u32>) -> End {
        match self.enter(line, whom, true) {
            Entrance::Seated(seat) => self.work(line, whom, seat),
            Entrance::Refused(_) => End::Refused,
            Entrance::Waits(waiting, _) => match wait(waiting, patience) {
                Poll::Ready(Some(seat)) => self.work(line, whom, seat),
                Poll::Ready(None) => End::Displaced,
                Poll::Pending => End::GaveUp,
            },
        }
    }

    /// A call that does not wait.
    fn call_now(&self, line: usize, whom: Whom) -> End {
        match self.enter(line, whom, false) {
            Entrance::Seated(seat) => self.work(line, whom, seat),
            Entrance::Refused(_) => End::Refused,
            Entrance::Waits(..) => panic!("it may not wait"),
        }
    }

    fn work(&self, line: usize, whom: Whom, mut seat: Seat<'_>) -> End {
        let (_, width, here) = &self.lines[line];
        let counts = || [Some((here, 1)), Some((&self.all, width.seats)), whom.map(|whom| (&self.tenants[whom].1, 1))];
        counts().into_iter().flatten().for_each(|(count, seats)| count.add(seats));
        thread::yield_now();
        if thread_rng().gen_bool(0.5) {
            seat.charge(thread_rng().gen_range(0..5_000_000), Nanos::from_raw(0));
        }
        counts().into_iter().flatten().for_each(|(count, seats)| count.sub(seats));
        drop(seat);
        End::Ran
    }

    /// Nobody is there any more: every seat of the host, and of each function and tenant, can be had at once.
    fn is_left(&self) {
        assert_eq!(self.admission.free_seats(), self.all.most);
        let seated = |line, whom| match self.enter(line, whom, false) {
            Entrance::Seated(seat) => seat,
            _ => panic!("a seat of line {line} for {whom:?} was lost"),
        };
        for (line, (_, width, _)) in self.lines.iter().enumerate() {
            let seats: Vec<_> = (0..width.concurrency).map(|_| seated(line, None)).collect();
            drop(seats);
            for tenant in 0..self.tenants.len() {
                drop(seated(line, Some(tenant)));
            }
        }
        assert_eq!(self.admission.free_seats(), self.all.most);
    }
}

/// Waits; pending for who gave up.
fn wait(waiting: Waiting<'_>, patience: Option<u32>) -> Poll<Option<Seat<'_>>> {
    let mut waiting = pin!(waiting);
    let mut left = patience;
    block_on(poll_fn(|cx| match (&mut left, waiting.as_mut()) {
        (Some(0), _) => Poll::Ready(Poll::Pending),
        (left, waiting) => match (waiting.poll(cx), left) {
            (Poll::Ready(seat), _) => Poll::Ready(Poll::Ready(seat)),
            (Poll::Pending, None) => Poll::Pending,
            (Poll::Pending, Some(left)) => {
                *left -= 1;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        },
    }))
}

/// For ever, or for a while that nobody knows.
fn some_patience() -> Option<u32> {
    thread_rng().gen_bool(0.5).then(|| thread_rng().gen_range(0..4))
}

/// Runs those at once, and says what became of each.
fn all<const N: usize>(house: &Arc<House>, callers: [fn(&House) -> End; N]) -> [End; N] {
    let threads = callers.map(|caller| {
        let house = Arc::clone(house);
        thread::spawn(move || caller(&house))
    });
    threads.map(|thread| thread.join().unwrap())
}

/// One function, one seat: whoever waits gets it, and whoever gives up leaves it to the next.
pub fn a_seat_goes_round() {
    let house = House::new(1, &[(1, 1, 3)]);
    let ends = all(
        &house,
        [
            |house| house.call(0, None, None),
            |house| house.call(0, None, some_patience()),
            |house| house.call(0, None, some_patience()),
            |house| house.call(0, None, None),
        ],
    );
    assert!(ends[0] == End::Ran && ends[3] == End::Ran, "{ends:?}");
    house.is_left();
}

/// Two functions, of which one takes two seats for a call; two tenants that may have a seat each; and calls that do not
/// wait.
pub fn seats_of_functions_tenants_and_the_host() {
    let house = House::new(2, &[(2, 1, 8), (1, 2, 8)]);
    let ends = all(
        &house,
        [
            |house| house.call(0, Some(0), None),
            |house| house.call(0, Some(0), some_patience()),
            |house| house.call(1, Some(0), None),
            |house| house.call(1, Some(1), some_patience()),
            |house| house.call(0, None, None),
            |house| house.call_now(0, Some(1)),
        ],
    );
    assert!([0, 2, 4].iter().all(|one| ends[*one] == End::Ran), "{ends:?}");
    house.is_left();
}

/// A call that needs more seats than are free is not overtaken, until it gives up.
pub fn others_pass_who_gives_up() {
    let house = House::new(2, &[(2, 1, 8), (1, 2, 8)]);
    let Entrance::Seated(seat) = house.enter(0, None, true) else { panic!("it is free") };
    let ends = all(
        &house,
        [
            |house| house.call(1, None, Some(thread_rng().gen_range(0..4))),
            |house| house.call(0, None, None),
            |house| house.call(0, None, None),
        ],
    );
    assert_eq!(ends, [End::GaveUp, End::Ran, End::Ran]);
    drop(seat);
    house.is_left();
}

/// No more wait than may, and no more than may have a seat or wait.
pub fn a_line_has_its_bound() {
    const SEATS: u32 = 1;
    const QUEUE: u32 = 2;
    let house = House::new(SEATS, &[(SEATS, 1, QUEUE)]);
    let there = Arc::new(Count::new(SEATS + QUEUE));
    let callers = [0; 5].map(|_| {
        let (house, there) = (Arc::clone(&house), Arc::clone(&there));
        thread::spawn(move || {
            let gives_up = thread_rng().gen_bool(0.3);
            let (waiting, seat) = match house.enter(0, None, true) {
                Entrance::Seated(seat) => (None, Some(seat)),
                Entrance::Waits(waiting, _) => (Some(waiting), None),
                Entrance::Refused(_) => return End::Refused,
            };
            there.add(1);
            let seat = match waiting {
                None => seat,
                Some(waiting) if gives_up => {
                    thread::yield_now();
                    there.sub(1);
                    drop(waiting);
                    return End::GaveUp;
                }
                Some(waiting) => match wait(waiting, None) {
                    Poll::Ready(seat) => seat,
                    Poll::Pending => panic!("it did not give up"),
                },
            };
            thread::yield_now();
            there.sub(1);
            if seat.is_some() { End::Ran } else { End::Displaced }
        })
    });
    let ends = callers.map(|caller| caller.join().unwrap());
    let refused = ends.iter().filter(|end| **end == End::Refused).count();
    assert!(refused <= ends.len() - (SEATS + QUEUE) as usize && !ends.contains(&End::Displaced), "{ends:?}");
    house.is_left();
}

/// Who has to go for a tenant with fewer in a full line is told so.
pub fn the_displaced_are_told() {
    let house = House::new(1, &[(1, 1, 2)]);
    all(
        &house,
        [
            |house| house.call(0, Some(0), None),
            |house| house.call(0, Some(0), None),
            |house| house.call(0, Some(0), some_patience()),
            |house| house.call(0, Some(1), None),
            |house| house.call(0, Some(1), None),
        ],
    );
    house.is_left();
}
