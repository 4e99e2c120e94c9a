//! A clock that goes when a model says so.

#[path = "../../src/clock.rs"]
mod real;

pub(crate) use real::Nanos;

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

/// Its lock is none of the checker's: what time it is, and setting it, is one step.
#[derive(Clone, Default)]
pub(crate) struct Clock(Arc<Mutex<Time>>);

#[derive(Default)]
struct Time {
    now: Nanos,
    sleepers: Vec<(Nanos, Waker)>,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock::default()
    }

    pub(crate) fn now(&self) -> Nanos {
        self.time().now
    }

    pub(crate) fn advance(&self, by: Duration) {
        let due = {
            let mut time = self.time();
            time.now = time.now.plus(by);
            let now = time.now;
            time.sleepers.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>()
        };
        due.into_iter().for_each(|(_, waker)| waker.wake());
    }

    pub(crate) fn sleep(&self, time: Duration) -> impl Future<Output = ()> {
        let (clock, until) = (self.clone(), self.now().plus(time));
        poll_fn(move |cx| {
            let mut time = clock.time();
            if time.now >= until {
                return Poll::Ready(());
            }
            time.sleepers.push((until, cx.waker().clone()));
            Poll::Pending
        })
    }

    fn time(&self) -> std::sync::MutexGuard<'_, Time> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
