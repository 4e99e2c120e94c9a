//! The thread that keeps a Host's time: it moves the engines' epochs, wakes calls whose deadline has come, and passes on
//! turns that nobody takes up.
//!
//! It ticks while calls are polled or wait for an instant, and for [`IDLE_TICKS`] more, so that single calls do not pay
//! for waking it; then it sleeps until the next call.

use crate::admission::Admission;
use crate::clock::{Clock, Nanos};
use crate::foreign::guarded;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::thread::{self, Thread};
use std::time::Duration;
use wasmtime::EngineWeak;

/// Ticks without a call after which the thread sleeps.
const IDLE_TICKS: u32 = 64;

/// Handle to the thread, which ends when it is dropped.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    tick: Duration,
    admission: Arc<Admission>,
    /// Whether a call was polled since the last tick.
    active: AtomicBool,
    asleep: AtomicBool,
    stopped: AtomicBool,
    thread: OnceLock<Thread>,
    engines: Mutex<Vec<EngineWeak>>,
    alarms: Mutex<Alarms>,
}

/// Who waits for which instant. Only calls that wait for something are in here; one that computes looks at the clock
/// itself at each tick.
#[derive(Default)]
struct Alarms {
    due: BTreeMap<(Nanos, u64), Waker>,
    next: u64,
}

impl Ticker {
    pub(crate) fn start(clock: Clock, tick: Duration, admission: Arc<Admission>) -> std::io::Result<Ticker> {
        let shared = Arc::new(Shared {
            clock,
            tick,
            admission,
            active: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            thread: OnceLock::new(),
            engines: Mutex::default(),
            alarms: Mutex::default(),
        });
        let thread = thread::Builder::new().name("isopod-ticker".into()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.run()
        })?;
        // Set once, here; a thread that has gone to sleep before it is set has no call to miss.
        let _ = shared.thread.set(thread.thread().clone());
        Ok(Ticker { shared })
    }

    /// Ticks that engine's epoch from now on, for as long as it lives.
    pub(crate) fn drive(&self, engine: EngineWeak) {
        self.shared.engines.lock().push(engine);
    }

    /// Whether nothing has run for so long that the thread sleeps.
    pub(crate) fn is_asleep(&self) -> bool {
        self.shared.asleep.load(Ordering::SeqCst)
    }

    pub(crate) fn tick(&self) -> Duration {
        self.shared.tick
    }

    pub(crate) fn admission(&self) -> &Admission {
        &self.shared.admission
    }

    /// An alarm that is not set yet.
    #[inline]
    pub(crate) fn alarm(&self) -> Alarm<'_> {
        Alarm { shared: &self.shared, set: None }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.shared.thread.get() {
            thread.unpark();
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut idle = 0;
        while !self.stopped.load(Ordering::SeqCst) {
            thread::park_timeout(self.tick);
            self.engines.lock().retain(|engine| engine.upgrade().map(|engine| engine.increment_epoch()).is_some());
            self.ring();
            self.admission.lapse();
            idle = if self.active.swap(false, Ordering::SeqCst) || self.is_awaited() { 0 } else { idle + 1 };
            if idle > IDLE_TICKS {
                self.sleep();
                idle = 0;
            }
        }
    }

    #[inline]
    fn stay_awake(&self) {
        // What is seen here may be older than a tick, but not by IDLE_TICKS: a guest that computes is polled again at the
        // next tick, and what waits has its instant in the list.
        if !self.active.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        self.active.store(true, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst)
            && self.asleep.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    fn is_awaited(&self) -> bool {
        !self.alarms.lock().due.is_empty()
    }

    /// Says so, looks once more whether somebody came meanwhile, and sleeps until somebody clears the flag. Either that
    /// look sees the call, or the call sees the flag.
    fn sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        if self.active.load(Ordering::SeqCst) || self.is_awaited() {
            self.asleep.store(false, Ordering::SeqCst);
            return;
        }
        while self.asleep.load(Ordering::SeqCst) && !self.stopped.load(Ordering::SeqCst) {
            thread::park();
        }
    }

    /// Wakes everybody whose instant has come. Wakers are foreign code: they run outside the lock.
    fn ring(&self) {
        let due = {
            let mut alarms = self.alarms.lock();
            if alarms.due.is_empty() {
                return;
            }
            let later = alarms.due.split_off(&(self.clock.now(), u64::MAX));
            std::mem::replace(&mut alarms.due, later)
        };
        due.into_values().for_each(|waker| guarded("a waker", || waker.wake()));
    }
}

/// Wakes one task at one instant. Costs nothing until it is set.
pub(crate) struct Alarm<'a> {
    shared: &'a Shared,
    set: Option<((Nanos, u64), Waker)>,
}

impl Alarm<'_> {
    /// Keeps the ticker awake for [`IDLE_TICKS`] more. To be called at each poll of a call; costs a load, but for the
    /// first poll of a tick.
    #[inline]
    pub(crate) fn stay_awake(&self) {
        self.shared.stay_awake();
    }

    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.set.is_some()
    }

    /// Makes sure that the task behind `cx` is woken at the first tick after `instant`.
    pub(crate) fn set(&mut self, instant: Nanos, cx: &Context<'_>) {
        if let Some((key, waker)) = &self.set
            && key.0 == instant
            && waker.will_wake(cx.waker())
            // It may have rung by the ticker's clock and be too early by ours, as the two can be of different cores.
            && self.shared.alarms.lock().due.contains_key(key)
        {
            return;
        }
        self.clear();
        let waker = cx.waker().clone();
        let mut alarms = self.shared.alarms.lock();
        alarms.next += 1;
        let key = (instant, alarms.next);
        alarms.due.insert(key, waker.clone());
        drop(alarms);
        // The ticker may have found the list empty just before.
        self.shared.wake();
        self.set = Some((key, waker));
    }

    #[inline]
    fn clear(&mut self) {
        if let Some((key, _)) = self.set.take() {
            let waker = self.shared.alarms.lock().due.remove(&key);
            // Dropping a waker can drop a task: not under the lock.
            drop(waker);
        }
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A future with an end: `None` if the instant comes first.
pub(crate) struct Until<'a, F> {
    pub alarm: Alarm<'a>,
    pub instant: Nanos,
    pub future: F,
}

impl<F: Future + Unpin> Future for Until<'_, F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Poll::Ready(value) = Pin::new(&mut this.future).poll(cx) {
            return Poll::Ready(Some(value));
        }
        if this.alarm.shared.clock.now() >= this.instant {
            return Poll::Ready(None);
        }
        this.alarm.set(this.instant, cx);
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clocks of two cores can differ by a little: whoever is woken and finds that it is too early must be woken again.
    #[test]
    fn an_alarm_that_rang_too_early_rings_again() {
        let clock = Clock::new();
        let tick = Duration::from_millis(1);
        let admission = Arc::new(Admission::new(clock.clone(), tick, 1, 1, 1));
        let ticker = Ticker::start(clock.clone(), tick, admission).unwrap();
        let due = || ticker.shared.alarms.lock().due.len();
        let mut alarm = ticker.alarm();
        let cx = Context::from_waker(Waker::noop());
        let later = clock.now().plus(Duration::from_secs(3600));
        for _ in 0..2 {
            alarm.set(later, &cx);
            assert_eq!(due(), 1, "set twice, there once");
        }
        // What the ticker does when its clock says that the time has come.
        ticker.shared.alarms.lock().due.clear();
        alarm.set(later, &cx);
        assert_eq!(due(), 1, "it rang, and is set again");
        drop(alarm);
        assert_eq!(due(), 0);
    }
}
