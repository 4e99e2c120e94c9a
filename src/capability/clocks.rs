//! `wasi:clocks`: what time it is for a guest, and its sleeping. At 1 ms unless granted otherwise, so that no guest can time
//! the machine.

use super::Reach;
use crate::clock::wall;
use crate::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};
use wasmtime::component::{Accessor, HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::clocks as p2;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi::p3::bindings::clocks as p3;

/// Which time a guest is told. Without this grant: that of [`HostBuilder::clocks`](crate::HostBuilder::clocks), which is
/// [`Clocks::coarse`] at 1 ms unless you say otherwise.
#[derive(Clone, Debug)]
pub struct Clocks(Source);

#[derive(Clone)]
enum Source {
    /// The machine's, rounded down to a multiple of this.
    Machine(Duration),
    Simulated(SystemTime),
    Own(Arc<dyn TimeSource>),
}

/// A clock of yours, for [`Clocks::by`]: what time it is, and when a sleep is over.
pub trait TimeSource: Send + Sync + 'static {
    /// The time of day. Before 1970 is told as 1970.
    fn wall(&self) -> SystemTime;

    /// The time since some moment, which is the same for ever. It never goes back.
    fn monotonic(&self) -> Duration;

    /// Ends when [`monotonic`](TimeSource::monotonic) has come to `until`. A call's deadline holds besides, by the machine's
    /// clock.
    fn sleep_until(&self, until: Duration) -> BoxFuture<'_, ()>;
}

impl Default for Clocks {
    fn default() -> Clocks {
        Clocks::coarse(Duration::from_millis(1))
    }
}

impl Clocks {
    /// The machine's clocks, in nanoseconds. A guest can then measure caches and neighbours.
    pub fn fine() -> Clocks {
        Clocks::coarse(Duration::ZERO)
    }

    /// The machine's clocks, rounded down to a multiple of `step`.
    pub fn coarse(step: Duration) -> Clocks {
        Clocks(Source::Machine(step.max(Duration::from_nanos(1))))
    }

    /// Clocks that only sleeping moves, for guests whose answers must be repeatable: in each call the wall clock begins at
    /// `start`, and the monotonic clock at zero. A sleep takes no time and moves both to its end; of several at once the
    /// shortest is over first, also where something else that was waited for would have come sooner. A time before 1970 is
    /// taken as 1970.
    pub fn simulated(start: SystemTime) -> Clocks {
        Clocks(Source::Simulated(start))
    }

    /// The time of a source of yours, the same for all calls.
    pub fn by(source: impl TimeSource) -> Clocks {
        Clocks(Source::Own(Arc::new(source)))
    }

    /// Whether a guest can tell more by them than without a grant.
    pub(super) fn is_finer_than_default(&self) -> bool {
        match (&self.0, Clocks::default().0) {
            (Source::Machine(step), Source::Machine(default)) => *step < default,
            _ => false,
        }
    }

    /// Whether they show what time it is on this machine.
    pub(crate) fn are_the_machines(&self) -> bool {
        matches!(self.0, Source::Machine(_))
    }

    /// For one call.
    pub(super) fn watch(&self) -> Watch {
        match &self.0 {
            Source::Machine(step) => Watch::Machine { step: *step, since: Instant::now() },
            Source::Simulated(start) => Watch::Other(Arc::new(Simulated { start: *start, asleep: Mutex::default() })),
            Source::Own(source) => Watch::Other(Arc::clone(source)),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Machine(step) => write!(f, "{step:?}"),
            Source::Simulated(start) => write!(f, "simulated from {start:?}"),
            Source::Own(_) => f.write_str("own"),
        }
    }
}

/// One call's clocks.
#[derive(Clone)]
pub(super) enum Watch {
    Machine { step: Duration, since: Instant },
    Other(Arc<dyn TimeSource>),
}

impl Watch {
    fn wall(&self) -> Duration {
        let unix = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        match self {
            Watch::Machine { step, .. } => round_down(unix(wall()), *step),
            Watch::Other(source) => unix(source.wall()),
        }
    }

    fn monotonic(&self) -> Duration {
        match self {
            Watch::Machine { step, since } => round_down(since.elapsed(), *step),
            Watch::Other(source) => source.monotonic(),
        }
    }

    fn resolution(&self) -> Duration {
        match self {
            Watch::Machine { step, .. } => *step,
            Watch::Other(_) => Duration::from_nanos(1),
        }
    }

    /// When a sleep of that length is over.
    fn after(&self, length: u64) -> Until {
        let length = Duration::from_nanos(length);
        match self {
            _ if length.is_zero() => Until::Now { yielded: false },
            Watch::Machine { .. } => Until::Instant(tokio::time::Instant::now().checked_add(length)),
            Watch::Other(source) => Until::Other(Arc::clone(source), source.monotonic().saturating_add(length)),
        }
    }

    /// When a sleep to that time of the monotonic clock is over.
    fn at(&self, when: u64) -> Until {
        self.after(when.saturating_sub(nanos(self.monotonic())))
    }
}

/// When a sleep is over.
enum Until {
    /// It gives way once: whoever asks again and again what else is ready, with this beside it so as not to wait, would keep
    /// that from becoming ready.
    Now {
        yielded: bool,
    },
    /// Never, if it is later than the machine can tell.
    Instant(Option<tokio::time::Instant>),
    Other(Arc<dyn TimeSource>, Duration),
}

#[wasmtime_wasi::async_trait]
impl Pollable for Until {
    async fn ready(&mut self) {
        match self {
            Until::Now { yielded: true } => {}
            Until::Now { yielded } => {
                *yielded = true;
                tokio::task::yield_now().await;
            }
            Until::Instant(Some(until)) => tokio::time::sleep_until(*until).await,
            Until::Instant(None) => std::future::pending().await,
            Until::Other(source, until) => source.sleep_until(*until).await,
        }
    }
}

/// Those who sleep by a clock that only they move.
struct Simulated {
    start: SystemTime,
    asleep: Mutex<Asleep>,
}

#[derive(Default)]
struct Asleep {
    now: Duration,
    next: u64,
    /// By when they are over, those that began first before others.
    until: BTreeMap<(Duration, u64), Waker>,
}

impl Asleep {
    fn end(&mut self, sleep: (Duration, u64)) {
        self.until.remove(&sleep);
        if let Some((_, next)) = self.until.first_key_value() {
            next.wake_by_ref();
        }
    }
}

impl TimeSource for Simulated {
    fn wall(&self) -> SystemTime {
        self.start.checked_add(self.monotonic()).unwrap_or(self.start)
    }

    fn monotonic(&self) -> Duration {
        self.asleep.lock().now
    }

    fn sleep_until(&self, until: Duration) -> BoxFuture<'_, ()> {
        Box::pin(Sleep { clock: self, until, begun: None })
    }
}

struct Sleep<'a> {
    clock: &'a Simulated,
    until: Duration,
    begun: Option<(Duration, u64)>,
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let clock = self.clock;
        let mut asleep = clock.asleep.lock();
        let Some(sleep) = self.begun else {
            if self.until <= asleep.now {
                return Poll::Ready(());
            }
            // Whoever else begins to sleep in the same turn may be over sooner.
            let sleep = (self.until, asleep.next);
            asleep.next += 1;
            asleep.until.insert(sleep, cx.waker().clone());
            self.begun = Some(sleep);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        if asleep.until.first_key_value().is_some_and(|(first, _)| *first != sleep) {
            asleep.until.insert(sleep, cx.waker().clone());
            return Poll::Pending;
        }
        asleep.now = asleep.now.max(sleep.0);
        Poll::Ready(())
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        if let Some(sleep) = self.begun {
            self.clock.asleep.lock().end(sleep);
        }
    }
}

fn round_down(time: Duration, step: Duration) -> Duration {
    let step = step.as_nanos();
    Duration::from_nanos((time.as_nanos() / step * step).try_into().unwrap_or(u64::MAX))
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos().try_into().unwrap_or(u64::MAX)
}

/// The clocks, for linkers.
struct Time;

impl HasData for Time {
    type Data<'a> = Access<'a>;
}

/// One host call's access to the clocks of its call.
pub(super) struct Access<'a> {
    pub watch: &'a Watch,
    pub table: &'a mut ResourceTable,
}

impl Access<'_> {
    fn subscribe(&mut self, until: Until) -> wasmtime::Result<Resource<DynPollable>> {
        let until = self.table.push(until)?;
        subscribe(self.table, until)
    }
}

pub(super) fn link<T: Reach>(linker: &mut Linker<T>, asynchronous: bool) -> wasmtime::Result<()> {
    fn clocks<T: Reach>(state: &mut T) -> Access<'_> {
        state.log_view().clocks()
    }
    p2::wall_clock::add_to_linker::<T, Time>(linker, clocks)?;
    p2::monotonic_clock::add_to_linker::<T, Time>(linker, clocks)?;
    if asynchronous {
        p3::types::add_to_linker::<T, Time>(linker, clocks)?;
        p3::system_clock::add_to_linker::<T, Time>(linker, clocks)?;
        p3::monotonic_clock::add_to_linker::<T, Time>(linker, clocks)?;
    }
    Ok(())
}

impl p2::wall_clock::Host for Access<'_> {
    fn now(&mut self) -> wasmtime::Result<p2::wall_clock::Datetime> {
        Ok(datetime(self.watch.wall()))
    }

    fn resolution(&mut self) -> wasmtime::Result<p2::wall_clock::Datetime> {
        Ok(datetime(self.watch.resolution()))
    }
}

fn datetime(time: Duration) -> p2::wall_clock::Datetime {
    p2::wall_clock::Datetime { seconds: time.as_secs(), nanoseconds: time.subsec_nanos() }
}

impl p2::monotonic_clock::Host for Access<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(nanos(self.watch.monotonic()))
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(nanos(self.watch.resolution()))
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.subscribe(self.watch.at(when))
    }

    fn subscribe_duration(&mut self, length: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.subscribe(self.watch.after(length))
    }
}

impl p3::types::Host for Access<'_> {}

impl p3::system_clock::Host for Access<'_> {
    fn now(&mut self) -> wasmtime::Result<p3::system_clock::Instant> {
        let time = self.watch.wall();
        let seconds = time.as_secs().try_into().unwrap_or(i64::MAX);
        Ok(p3::system_clock::Instant { seconds, nanoseconds: time.subsec_nanos() })
    }

    fn get_resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(nanos(self.watch.resolution()))
    }
}

impl p3::monotonic_clock::Host for Access<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(nanos(self.watch.monotonic()))
    }

    fn get_resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(nanos(self.watch.resolution()))
    }
}

impl<T: Send> p3::monotonic_clock::HostWithStore<T> for Time {
    async fn wait_until(store: &Accessor<T, Self>, when: u64) -> wasmtime::Result<()> {
        let mut until = store.with(|mut access| access.get().watch.at(when));
        until.ready().await;
        Ok(())
    }

    async fn wait_for(store: &Accessor<T, Self>, length: u64) -> wasmtime::Result<()> {
        let mut until = store.with(|mut access| access.get().watch.after(length));
        until.ready().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join3;

    #[test]
    fn coarse_clocks_move_in_steps() {
        let watch = Clocks::coarse(Duration::from_millis(250)).watch();
        assert_eq!(watch.wall().as_nanos() % 250_000_000, 0);
        assert_eq!(watch.monotonic().as_nanos() % 250_000_000, 0);
    }

    /// Whoever sleeps moves the clock, those that are over sooner first, whatever the order in which they began.
    #[tokio::test]
    async fn simulated_time_goes_from_the_end_of_one_sleep_to_that_of_the_next() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(7);
        let watch = Clocks::simulated(start).watch();
        let order = Mutex::new(Vec::new());
        let sleep = async |seconds: u64| {
            watch.after(seconds * 1_000_000_000).ready().await;
            order.lock().push((seconds, watch.monotonic().as_secs()));
        };
        let given_up = watch.after(1);
        join3(sleep(7_200), sleep(3_600), sleep(5)).await;
        drop(given_up);
        assert_eq!(*order.lock(), [(5, 5), (3_600, 3_600), (7_200, 7_200)]);
        assert_eq!((watch.wall(), watch.monotonic()), (Duration::from_secs(7_207), Duration::from_secs(7_200)));
        watch.at(5).ready().await;
        assert_eq!(watch.monotonic(), Duration::from_secs(7_200), "it never goes back");
        assert_eq!(Clocks::simulated(start).watch().monotonic(), Duration::ZERO, "each call has its own");
    }

    /// One that is given up does not keep the others asleep.
    #[tokio::test]
    async fn a_sleep_that_is_given_up_wakes_the_next() {
        let watch = Clocks::simulated(SystemTime::UNIX_EPOCH).watch();
        let (mut short, mut long) = (watch.after(1), watch.after(1_000_000_000));
        let short = tokio::time::timeout(Duration::ZERO, async {
            short.ready().await;
            std::future::pending::<()>().await;
        });
        let (given_up, ()) = tokio::join!(short, long.ready());
        assert!(given_up.is_err());
        assert_eq!(watch.monotonic(), Duration::from_secs(1));
    }
}
