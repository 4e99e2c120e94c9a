//! [`Clock`]: time that only a test moves.

use crate::{BoxFuture, TimeSource};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// A clock that stands still until it is moved, for the guests of a test. A guest that sleeps by it waits until it was
/// moved so far. A clone is another handle to the same clock.
///
/// ```
/// # use isopod::{Clocks, Host};
/// # use isopod::testkit::Clock;
/// # use std::time::{Duration, SystemTime};
/// let clock = Clock::at(SystemTime::UNIX_EPOCH);
/// let host = Host::builder().clocks(Clocks::by(clock.clone())).build()?;
/// clock.advance(Duration::from_secs(3_600));
/// assert_eq!(clock.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(3_600));
/// // A call whose guest sleeps comes to its end beside what moves the clock, within its deadline by the machine's:
/// // let (reply, slept) = tokio::join!(function.call::<()>("run", ()), clock.advance_to_next_sleep());
/// # Ok::<(), isopod::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    start: SystemTime,
    elapsed: watch::Sender<Duration>,
    /// When sleeps are over, and how many are over then.
    asleep: watch::Sender<BTreeMap<Duration, usize>>,
}

impl Clock {
    /// A clock that stands at `start`.
    pub fn at(start: SystemTime) -> Clock {
        let (elapsed, asleep) = (watch::Sender::new(Duration::ZERO), watch::Sender::default());
        Clock(Arc::new(Inner { start, elapsed, asleep }))
    }

    /// What time of day it is by it.
    pub fn now(&self) -> SystemTime {
        self.wall()
    }

    /// Moves it on.
    pub fn advance(&self, by: Duration) {
        self.0.elapsed.send_modify(|elapsed| *elapsed = elapsed.saturating_add(by));
    }

    /// Waits until so many sleep at once: before the clock is moved to the end of the first sleep, where more than one call
    /// is to sleep by it.
    pub async fn asleep(&self, many: usize) {
        // The sender is ours, so that it is not gone.
        let _ = self.0.asleep.subscribe().wait_for(|asleep| asleep.values().sum::<usize>() >= many).await;
    }

    /// Waits until somebody sleeps, and nobody whose sleep is over already; moves the clock to the end of the sleep that is
    /// over first, and gives how far that was. A guest that holds its instance by a sleep of WASI 0.2 keeps those of 0.3 in
    /// it from waking, and this from coming back: [`advance`](Clock::advance) the clock there.
    pub async fn advance_to_next_sleep(&self) -> Duration {
        let mut asleep = self.0.asleep.subscribe();
        loop {
            let first = asleep.borrow_and_update().keys().next().copied();
            // Those whose sleep is over wake before it is moved again.
            if let Some(first) = first.filter(|first| *first > self.monotonic()) {
                let mut by = Duration::ZERO;
                self.0.elapsed.send_modify(|elapsed| {
                    by = first.saturating_sub(*elapsed);
                    *elapsed += by;
                });
                return by;
            }
            // The sender is ours, so that it is not gone.
            let _ = asleep.changed().await;
        }
    }
}

impl TimeSource for Clock {
    fn wall(&self) -> SystemTime {
        self.0.start.checked_add(self.monotonic()).unwrap_or(self.0.start)
    }

    fn monotonic(&self) -> Duration {
        *self.0.elapsed.borrow()
    }

    fn sleep_until(&self, until: Duration) -> BoxFuture<'_, ()> {
        struct Asleep<'a>(&'a Inner, Duration);
        impl Drop for Asleep<'_> {
            fn drop(&mut self) {
                self.0.asleep.send_modify(|asleep| {
                    if let Some(sleepers) = asleep.get_mut(&self.1) {
                        *sleepers -= 1;
                    }
                    asleep.retain(|_, sleepers| *sleepers > 0);
                });
            }
        }
        Box::pin(async move {
            self.0.asleep.send_modify(|asleep| *asleep.entry(until).or_default() += 1);
            let _asleep = Asleep(&self.0, until);
            // The sender is ours, so that it is not gone.
            let _ = self.0.elapsed.subscribe().wait_for(|elapsed| *elapsed >= until).await;
        })
    }
}
