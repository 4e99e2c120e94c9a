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

    /// Clocks that only sleeping moves, for guests whose answers must be repeatable: in each instance the wall clock begins
    /// at `start`, and the monotonic clock at zero; one that is used again goes on from where it was. A sleep takes no time
    /// and moves both to its end; of several at once the shortest is over first, also where something else that was waited
    /// for would have come sooner. A time before 1970 is taken as 1970.
    pub fn simulated(start: SystemTime) -> Clocks {
        Clocks(Source::Simulated(start))
    }

    /// The time of a source of yours, the same for all calls.
    pub fn by(source: impl TimeSource) -> Clocks {
        Clocks(Source::Own(Arc::new(source)))
    }

    /// Whether a guest can tell more by them than by the default.
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
            Source::Simulated(start) => {
                Watch::Simulated(Arc::new(Simulated { start: *start, asleep: Mutex::default() }))
            }
            Source::Own(source) => Watch::Own(Arc::clone(source)),
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
    Simulated(Arc<Simulated>),
    Own(Arc<dyn TimeSource>),
}

impl Watch {
    pub(super) fn wall(&self) -> Duration {
        let unix = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        match self {
            Watch::Machine { step, .. } => round_down(unix(wall()), *step),
            Watch::Simulated(clock) => unix(clock.wall()),
            Watch::Own(source) => unix(source.wall()),
        }
    }

    pub(super) fn monotonic(&self) -> Duration {
        match self {
            Watch::Machine { step, since } => round_down(since.elapsed(), *step),
            Watch::Simulated(clock) => clock.monotonic(),
            Watch::Own(source) => source.monotonic(),
        }
    }

    /// Whether looking at what else sleeps moves it.
    pub(super) fn is_simulated(&self) -> bool {
        matches!(self, Watch::Simulated(_))
    }

    fn resolution(&self) -> Duration {
        match self {
            Watch::Machine { step, .. } => *step,
            Watch::Simulated(_) | Watch::Own(_) => Duration::from_nanos(1),
        }
    }

    /// When a sleep of that length is over.
    pub(super) fn after(&self, length: u64) -> Until {
        let length = Duration::from_nanos(length);
        match self {
            _ if length.is_zero() => Until::Now { yielded: false },
            Watch::Machine { .. } => Until::Instant(tokio::time::Instant::now().checked_add(length)),
            Watch::Simulated(clock) => Until::Simulated(Arc::clone(clock), clock.monotonic().saturating_add(length)),
            Watch::Own(source) => Until::Own(Arc::clone(source), source.monotonic().saturating_add(length)),
        }
    }

    /// When a sleep to that time of the monotonic clock is over.
    fn at(&self, when: u64) -> Until {
        self.after(when.saturating_sub(nanos(self.monotonic())))
    }
}

/// When a sleep is over.
pub(super) enum Until {
    /// It gives way once: whoever asks again and again what else is ready, with this beside it so as not to wait, would keep
    /// that from becoming ready.
    Now {
        yielded: bool,
    },
    /// Never, if it is later than the machine can tell.
    Instant(Option<tokio::time::Instant>),
    Simulated(Arc<Simulated>, Duration),
    Own(Arc<dyn TimeSource>, Duration),
}

impl Until {
    pub(super) async fn over(&mut self, holds: bool) {
        match self {
            Until::Now { yielded: true } => {}
            Until::Now { yielded } => {
                *yielded = true;
                tokio::task::yield_now().await;
            }
            Until::Instant(Some(until)) => tokio::time::sleep_until(*until).await,
            Until::Instant(None) => std::future::pending().await,
            Until::Simulated(clock, until) => Sleep { clock, until: *until, holds, begun: None }.await,
            Until::Own(source, until) => source.sleep_until(*until).await,
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Until {
    async fn ready(&mut self) {
        self.over(true).await;
    }
}

/// Those who sleep by a clock that only they move.
pub(super) struct Simulated {
    start: SystemTime,
    asleep: Mutex<Asleep>,
}

#[derive(Default)]
struct Asleep {
    now: Duration,
    next: u64,
    /// By when they are over, those that began first before others.
    until: BTreeMap<(Duration, u64), Sleeper>,
}

struct Sleeper {
    waker: Waker,
    holds: bool,
}

impl Asleep {
    /// Whether no other is over before it that would be asked meanwhile.
    fn is_first(&self, sleep: (Duration, u64), holds: bool) -> bool {
        self.until.iter().find(|(_, other)| other.holds || !holds).is_none_or(|(first, _)| *first == sleep)
    }

    fn end(&mut self, sleep: (Duration, u64)) {
        self.until.remove(&sleep);
        self.until.values().take(1).for_each(|next| next.waker.wake_by_ref());
        self.until.values().find(|next| next.holds).into_iter().for_each(|next| next.waker.wake_by_ref());
    }
}

impl Simulated {
    fn wall(&self) -> SystemTime {
        self.start.checked_add(self.monotonic()).unwrap_or(self.start)
    }

    fn monotonic(&self) -> Duration {
        self.asleep.lock().now
    }
}

struct Sleep<'a> {
    clock: &'a Simulated,
    until: Duration,
    /// Whether it holds its instance, as those of WASI 0.2 do: nobody asks meanwhile what other sleeps have come to, but for
    /// those that are waited for together with it.
    holds: bool,
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
            asleep.until.insert(sleep, Sleeper { waker: cx.waker().clone(), holds: self.holds });
            self.begun = Some(sleep);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        if sleep.0 > asleep.now && !asleep.is_first(sleep, self.holds) {
            asleep.until.insert(sleep, Sleeper { waker: cx.waker().clone(), holds: self.holds });
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

pub(super) fn nanos(time: Duration) -> u64 {
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
        until.over(false).await;
        Ok(())
    }

    async fn wait_for(store: &Accessor<T, Self>, length: u64) -> wasmtime::Result<()> {
        let mut until = store.with(|mut access| access.get().watch.after(length));
        until.over(false).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
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

    /// A sleep of WASI 0.2 holds the instance, so that those of 0.3 that began before it are not asked until it is over.
    #[tokio::test]
    async fn a_sleep_that_holds_the_instance_does_not_wait_for_those_that_nobody_asks() {
        let watch = Clocks::simulated(SystemTime::UNIX_EPOCH).watch();
        let (mut soon, mut later) = (watch.after(5), watch.after(20));
        let (mut soon, mut later) = (Box::pin(soon.over(false)), Box::pin(later.over(false)));
        assert!((&mut soon).now_or_never().is_none() && (&mut later).now_or_never().is_none());
        watch.after(10).ready().await;
        assert_eq!(watch.monotonic().as_nanos(), 10);
        soon.await;
        assert_eq!(watch.monotonic().as_nanos(), 10, "it was over then");
        later.await;
        assert_eq!(watch.monotonic().as_nanos(), 20);
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
